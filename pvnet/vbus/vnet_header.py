"""``struct virtio_net_hdr``: the 10 bytes in front of every frame of a TAP device opened with IFF_VNET_HDR.

====== ==== ===========================================================================
Offset Type Field (little endian, as TUNSETVNETLE or a little-endian machine has it)
====== ==== ===========================================================================
0      u8   flags: NEEDS_CSUM 1, DATA_VALID 2
1      u8   gso_type: NONE 0, TCPV4 1, UDP 3, TCPV6 4; ECN 0x80 in addition
2      u16  hdr_len: a hint, may be larger than the headers
4      u16  gso_size: payload bytes of each frame
6      u16  csum_start
8      u16  csum_offset
====== ==== ===========================================================================

A flow repeats the same few headers, so :class:`VnetHeaders` decodes and encodes each only once.
Spec: vbus 8.4 (the same fields in a venet descriptor).
"""

from __future__ import annotations

import struct
from typing import Final

from pvnet.core.errors import WireError
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload

VNET_HEADER_BYTES: Final = 10
NO_VNET_HEADER: Final = bytes(VNET_HEADER_BYTES)
"""The header of a frame that is ready to go."""

_HEADER: Final = struct.Struct("<BBHHHH")
_NEEDS_CSUM: Final = 1
_DATA_VALID: Final = 2
_GSO_ECN: Final = 0x80
_REMEMBERED: Final = 1024

_TCP: Final = (GsoType.TCPV4, GsoType.TCPV6)


def decode_vnet_header(header: bytes | memoryview) -> Offload:
    """Return what the first 10 bytes of ``header`` ask for.

    Only the header itself is checked; whether the offsets lie in the frame is up to whoever does the work.

    Raises:
        WireError: too short, an unknown flag or type, or segmentation into pieces of no bytes.
    """
    if len(header) < VNET_HEADER_BYTES:
        raise WireError("vnet header is cut short", offset=len(header), expected=f"{VNET_HEADER_BYTES} bytes")
    flags, gso_type, hdrlen, mss, csum_start, csum_offset = _HEADER.unpack_from(header)
    if flags & ~(_NEEDS_CSUM | _DATA_VALID):
        raise WireError(f"unknown flags 0x{flags:02x} in vnet header", offset=0, expected="NEEDS_CSUM or DATA_VALID")
    try:
        gso = GsoType(gso_type & ~_GSO_ECN)
    except ValueError:
        raise WireError(
            f"unknown GSO type 0x{gso_type:02x} in vnet header", offset=1, expected="0, 1, 3 or 4"
        ) from None
    ecn = bool(gso_type & _GSO_ECN)
    if ecn and gso not in _TCP:
        raise WireError("ECN without TCP segmentation in vnet header", offset=1, expected="a TCP type")
    if gso is not GsoType.NONE and not mss:
        raise WireError("segments of 0 bytes in vnet header", offset=4, expected="a size")
    needs_csum = bool(flags & _NEEDS_CSUM)
    if not needs_csum:
        csum_start = csum_offset = 0
    if gso is GsoType.NONE:
        if not needs_csum:
            return NO_OFFLOAD
        mss = 0
    return Offload(needs_csum, csum_start, csum_offset, gso, ecn, hdrlen, mss)


def encode_vnet_header(offload: Offload) -> bytes:
    """Return the 10 bytes for ``offload``.

    Raises:
        WireError: a field does not fit its 16 bits.
    """
    try:
        return _HEADER.pack(
            _NEEDS_CSUM if offload.needs_csum else 0,
            offload.gso | (_GSO_ECN if offload.ecn else 0),
            offload.hdrlen,
            offload.mss,
            offload.csum_start,
            offload.csum_offset,
        )
    except struct.error as error:
        raise WireError(f"no vnet header says {offload}: {error}") from None


class VnetHeaders:
    """Both directions with a memory: a header or an :class:`Offload` seen before costs one look-up."""

    def __init__(self) -> None:
        self._decoded: dict[bytes, Offload] = {NO_VNET_HEADER: NO_OFFLOAD}
        self._encoded: dict[Offload, bytes] = {}

    def remembered(self) -> int:
        """Return how many headers are remembered, for both directions."""
        return len(self._decoded) + len(self._encoded)

    def decode(self, header: bytes) -> Offload:
        """Return what these exactly 10 bytes ask for.

        Raises:
            WireError: as :func:`decode_vnet_header`.
        """
        offload = self._decoded.get(header)
        if offload is None:
            offload = decode_vnet_header(header)
            if len(self._decoded) >= _REMEMBERED:
                self._decoded = {NO_VNET_HEADER: NO_OFFLOAD}
            self._decoded[bytes(header)] = offload
        return offload

    def encode(self, offload: Offload) -> bytes:
        """Return the 10 bytes for ``offload``.

        Raises:
            WireError: as :func:`encode_vnet_header`.
        """
        if offload is NO_OFFLOAD:
            return NO_VNET_HEADER
        header = self._encoded.get(offload)
        if header is None:
            header = encode_vnet_header(offload)
            if len(self._encoded) >= _REMEMBERED:
                self._encoded.clear()
            self._encoded[offload] = header
        return header
