"""Packets between the switches of two labs: how they are framed on a stream, or as single messages.

Every message is a header of 12 bytes (big endian) and a body:

====== ==== =======================================================================================
Offset Type Field
====== ==== =======================================================================================
0      u16  magic 0x504C ("PL")
2      u8   version 1
3      u8   kind: 1 hello, 2 packet
4      u32  bytes of the body
8      u16  packet: bytes of vnet header at the start of the body, 0 or 10
10     u16  0
====== ==== =======================================================================================

A hello says who speaks and what he takes; each side sends one first.  Work that is left to do to a packet travels only
if the receiver said that it accepts it, and then in a ``struct virtio_net_hdr`` in front of the frame; otherwise the
sender's switch has finished the packet before.

``hello`` body: mtu u32, accepted offloads u16, length u8 and text of the lab's name, the same of the switch's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import PvnetError, WireError
from pvnet.core.names import check_name
from pvnet.vbus.packet import ACCEPTS_ALL, ETHERNET_HEADER, MAX_MTU, MIN_MTU, NO_OFFLOAD, Packet
from pvnet.vbus.vnet_header import VNET_HEADER_BYTES, VnetHeaders

LINK_HEADER_BYTES: Final = 12
MAX_LINK_BODY: Final = VNET_HEADER_BYTES + 65536
"""Longest body; a longer one is refused before anything is stored."""

_MAGIC: Final = 0x504C
_VERSION: Final = 1
_HELLO: Final = 1
_PACKET: Final = 2
_HEADER: Final = struct.Struct(">HBBIHH")
_HELLO_FIXED: Final = struct.Struct(">IH")
_BUFFER: Final = 4 * (LINK_HEADER_BYTES + MAX_LINK_BODY)


@dataclass(frozen=True, slots=True)
class LinkHello:
    """Who is at the other end; ``accepts`` is a sum of ``ACCEPTS_...`` bits."""

    lab: str
    name: str
    mtu: int
    accepts: int


def encode_link_hello(hello: LinkHello) -> bytes:
    """Return the whole message."""
    lab, name = hello.lab.encode(), hello.name.encode()
    body = _HELLO_FIXED.pack(hello.mtu, hello.accepts) + bytes((len(lab),)) + lab + bytes((len(name),)) + name
    return _HEADER.pack(_MAGIC, _VERSION, _HELLO, len(body), 0, 0) + body


def encode_link_packets(packets: list[Packet], headers: VnetHeaders) -> bytes:
    """Return packets as messages in a row, copied out of their buffers.

    Raises:
        WireError: an offload field does not fit its 16 bits.
    """
    pieces: list[bytes | memoryview] = []
    for packet in packets:
        if packet.offload is NO_OFFLOAD:
            pieces.append(_HEADER.pack(_MAGIC, _VERSION, _PACKET, packet.length, 0, 0))
        else:
            length = VNET_HEADER_BYTES + packet.length
            pieces.append(_HEADER.pack(_MAGIC, _VERSION, _PACKET, length, VNET_HEADER_BYTES, 0))
            pieces.append(headers.encode(packet.offload))
        pieces += packet.frags
    return b"".join(pieces)


def _decode_hello(body: memoryview) -> LinkHello:
    at = _HELLO_FIXED.size
    if len(body) < at:
        raise WireError("hello is cut short", offset=len(body), expected=f"{at} bytes")
    mtu, accepts = _HELLO_FIXED.unpack_from(body)
    names = []
    for what in ("lab", "switch"):
        size = body[at] if at < len(body) else 0
        text = bytes(body[at + 1 : at + 1 + size])
        try:
            names.append(check_name(text.decode("ascii", errors="replace"), what))
        except PvnetError as error:
            raise WireError(str(error), offset=at) from None
        at += 1 + size
    if at != len(body):
        raise WireError("hello has a wrong length", offset=at, expected=f"{at} bytes")
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise WireError(f"MTU {mtu}", offset=0, expected=f"{MIN_MTU} to {MAX_MTU}")
    return LinkHello(names[0], names[1], mtu, accepts & ACCEPTS_ALL)


class LinkDecoder:
    """Takes a stream apart.  ``accepts`` are the offloads that we said we take: others are refused.

    Write into :meth:`space`, say with :meth:`wrote` how much, then take what is there from :meth:`messages`; packets
    are views of the decoder's buffer and good until the next :meth:`space`.
    """

    def __init__(self, accepts: int) -> None:
        self.accepts = accepts
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = 0
        self._end = 0
        self._headers = VnetHeaders()

    def space(self) -> memoryview:
        """Return where to put more bytes; never empty while :meth:`messages` is exhausted each time."""
        rest = self._end - self._start
        if self._start and (not rest or _BUFFER - self._end < LINK_HEADER_BYTES + MAX_LINK_BODY):
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, rest
        return self._buffer[self._end :]

    def wrote(self, count: int) -> None:
        """Say that ``count`` bytes were put into :meth:`space`."""
        self._end += count

    def pending(self) -> int:
        """Return how many bytes wait for the rest of their message."""
        return self._end - self._start

    def messages(self) -> Iterator[LinkHello | Packet]:
        """Yield the messages that are complete.

        Raises:
            WireError: the stream makes no sense; it cannot be continued.
        """
        while taken := _take(self._buffer[self._start : self._end], self.accepts, self._headers):
            self._start += taken[1]
            yield taken[0]


def decode_link_message(message: bytes | memoryview, accepts: int, headers: VnetHeaders) -> LinkHello | Packet:
    """Return the one message that ``message`` is, for carriers that keep messages apart; a packet is a view of it.

    Raises:
        WireError: it makes no sense, or it is cut short or followed by more.
    """
    taken = _take(memoryview(message), accepts, headers)
    if taken is None or taken[1] != len(message):
        raise WireError("not exactly one message", offset=0, expected="one")
    return taken[0]


def _take(view: memoryview, accepts: int, headers: VnetHeaders) -> tuple[LinkHello | Packet, int] | None:
    """Return the first message and the bytes that it took, ``None`` if it is not complete."""
    if len(view) < LINK_HEADER_BYTES:
        return None
    magic, version, kind, length, vnet, zero = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise WireError(f"magic 0x{magic:04x}", offset=0, expected="0x504c: not a pvnet link")
    if version != _VERSION:
        raise WireError(f"version {version}", offset=2, expected=f"{_VERSION}")
    if length > MAX_LINK_BODY:
        raise WireError(f"body of {length} bytes", offset=4, expected=f"at most {MAX_LINK_BODY}")
    if kind not in (_HELLO, _PACKET):
        raise WireError(f"message of kind {kind}", offset=3, expected="1 or 2")
    if zero or vnet not in ((0, VNET_HEADER_BYTES) if kind == _PACKET else (0,)):
        raise WireError("bytes that must be 0 are not", offset=8, expected="0")
    end = LINK_HEADER_BYTES + length
    if end > len(view):
        return None
    body = view[LINK_HEADER_BYTES:end]
    return (_decode_packet(body, vnet, accepts, headers) if kind == _PACKET else _decode_hello(body)), end


def _decode_packet(body: memoryview, vnet: int, accepts: int, headers: VnetHeaders) -> Packet:
    length = len(body) - vnet
    if length < ETHERNET_HEADER:
        raise WireError(f"packet of {length} bytes", offset=LINK_HEADER_BYTES, expected="an ethernet header")
    if not vnet:
        return Packet((body,), length)
    offload = headers.decode(bytes(body[:vnet]))
    if offload.requires & ~accepts:
        raise WireError("packet with an offload that was not agreed", offset=LINK_HEADER_BYTES)
    return Packet((body[vnet:],), length, offload)
