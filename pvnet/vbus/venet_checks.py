"""What the host believes of a packet that a guest wants to send: pure functions on fields that were copied once.

The guest owns the memory and may change it at any moment, so the caller copies (one ``unpack_from`` per part), these
functions judge the copy, and only the copy is used afterwards.  Nothing here raises: a bad descriptor is an everyday
event, and the answer names what is wrong with it.  The order of the checks is the protection: the fragment count is
bounded before it is multiplied, and sums are Python integers that do not wrap.

Doubts decided: flags and pads that are not zero, an ECN mark without segmentation, and a type of segmentation that was
not agreed are bad; a frame shorter than an ethernet header is bad, a flat one of 14 to 59 bytes is let through (padding
is the sender's courtesy to a wire that does not exist here); ``hdrlen`` beyond the frame is bad: a TAP refuses it.

Spec: vbus 8.4, 11 (A6, A8, A31, A35).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from pvnet.vbus.packet import ETHERNET_HEADER, MAX_PACKET, NO_OFFLOAD, GsoType, Offload
from pvnet.vbus.venet_layout import (
    IOV_BYTES,
    KNOWN_SG_FLAGS,
    MAX_FRAGMENTS,
    MAX_SG_BYTES,
    MIN_SG_BYTES,
    SG_HEAD_BYTES,
    SgCapability,
    SgFlag,
    SgGsoType,
)


class BadPacket(Enum):
    """Why a packet is not sent; the value is the name of its counter."""

    DESCRIPTOR_SIZE = "bad_descriptor_size"
    ADDRESS = "bad_address"
    FLAGS = "bad_flags"
    PAD = "bad_pad"
    FRAGMENT_COUNT = "bad_fragment_count"
    FRAGMENT_LENGTH = "bad_fragment_length"
    LENGTH = "bad_length"
    SUM = "bad_sum"
    CHECKSUM = "bad_checksum_range"
    GSO_TYPE = "bad_gso_type"
    GSO_SIZE = "bad_gso_size"
    GSO_HEADER = "bad_gso_header"
    ECN = "bad_ecn"


SgHead = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""What ``SG_HEAD.unpack_from`` returns."""

_NEEDS_CSUM: Final = int(SgFlag.NEEDS_CSUM)
_GSO: Final = int(SgFlag.GSO)
_ECN: Final = int(SgFlag.ECN)
_UNKNOWN_FLAGS: Final = ~KNOWN_SG_FLAGS
_ECN_BIT: Final = int(SgCapability.ECN)

GSO_TYPES: Final = {
    int(SgGsoType.TCPV4): (GsoType.TCPV4, int(SgCapability.TSO4)),
    int(SgGsoType.UDP): (GsoType.UDP, int(SgCapability.UFO)),
    int(SgGsoType.TCPV6): (GsoType.TCPV6, int(SgCapability.TSO6)),
}
"""Type in a descriptor: type of a packet, capability that it needs."""
SG_GSO_TYPES: Final = {packet_type: number for number, (packet_type, _) in GSO_TYPES.items()}
"""Type of a packet: type in a descriptor."""


def check_flat(length: int, mtu: int) -> BadPacket | None:
    """Judge a flat frame of ``length`` bytes for an ``mtu`` in bytes."""
    if length < ETHERNET_HEADER or length > mtu + ETHERNET_HEADER:
        return BadPacket.LENGTH
    return None


def check_sg_size(length: int) -> BadPacket | None:
    """Judge the size that the ring states for a packet descriptor, before the descriptor is touched."""
    if length < MIN_SG_BYTES or length > MAX_SG_BYTES:
        return BadPacket.DESCRIPTOR_SIZE
    return None


def check_sg_head(head: SgHead, descriptor_bytes: int, mtu: int, agreed: int) -> Offload | BadPacket:
    """Judge the first 32 bytes of a packet descriptor.

    :param head: copied fields in the order of the layout.
    :param descriptor_bytes: size stated by the ring, already judged by :func:`check_sg_size`.
    :param mtu: bytes after the ethernet header that a frame may have.
    :param agreed: capability bits of the group SG.
    :returns: what is left to do to the packet, or what is wrong.
    """
    _, flags, total, csum_start, csum_offset, gso_type, pad1, hdrlen, mss, pad2, count = head
    if count > MAX_FRAGMENTS or count < 1:
        return BadPacket.FRAGMENT_COUNT
    if descriptor_bytes < SG_HEAD_BYTES + IOV_BYTES * count:
        return BadPacket.DESCRIPTOR_SIZE
    if pad1 or pad2:
        return BadPacket.PAD
    if total < ETHERNET_HEADER:
        return BadPacket.LENGTH
    if not flags:
        return NO_OFFLOAD if total <= mtu + ETHERNET_HEADER else BadPacket.LENGTH
    if flags & _UNKNOWN_FLAGS:
        return BadPacket.FLAGS
    if flags & _NEEDS_CSUM:
        if csum_start + csum_offset + 2 > total:
            return BadPacket.CHECKSUM
    else:
        csum_start = csum_offset = 0
    if not flags & _GSO:
        if flags & _ECN:
            return BadPacket.ECN
        if total > mtu + ETHERNET_HEADER:
            return BadPacket.LENGTH
        return Offload(True, csum_start, csum_offset)
    if total > MAX_PACKET:
        return BadPacket.LENGTH
    kind = GSO_TYPES.get(gso_type)
    if kind is None or not agreed & kind[1]:
        return BadPacket.GSO_TYPE
    if not mss:
        return BadPacket.GSO_SIZE
    if hdrlen > total:
        return BadPacket.GSO_HEADER
    ecn = bool(flags & _ECN)
    if ecn and not agreed & _ECN_BIT:
        return BadPacket.ECN
    return Offload(bool(flags & _NEEDS_CSUM), csum_start, csum_offset, kind[0], ecn, hdrlen, mss)


def check_iovs(fields: Sequence[int], total: int) -> BadPacket | None:
    """Judge the copied fragments, ``len, pad, ptr`` each, of a packet of ``total`` bytes.

    A fragment of no bytes is bad: it would be a piece that nothing can be read from.
    Addresses are judged by whoever turns them into memory.
    """
    lengths = fields[0::3]
    if any(fields[1::3]):
        return BadPacket.PAD
    if 0 in lengths:
        return BadPacket.FRAGMENT_LENGTH
    if sum(lengths) != total:
        return BadPacket.SUM
    return None
