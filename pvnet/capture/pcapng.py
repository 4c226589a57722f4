"""The pcapng file format, as far as frames need it: written so that Wireshark reads it, and read back.

A file is a row of blocks, each ``type u32, total length u32, body, total length u32``, padded to 4 bytes:

============ ========== =====================================================================
Block        Type       Body that we write
============ ========== =====================================================================
section      0x0A0D0D0A byte-order magic 0x1A2B3C4D, version 1.0, section length unknown (-1), options
interface    1          link type (1 = Ethernet), snap length, options if_name, if_tsresol 9
packet       6          interface, timestamp (nanoseconds, two u32), lengths, frame, padding
============ ========== =====================================================================

The writer makes little-endian files; the reader takes both byte orders, every resolution, several sections, the old
simple packet block, and skips what it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from pvnet.core.errors import WireError

LINKTYPE_ETHERNET: Final = 1

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_MAGIC: Final = 0x1A2B3C4D
_OPTION_END: Final = 0
_OPTION_NAME: Final = 2
_OPTION_APPLICATION: Final = 4
_OPTION_RESOLUTION: Final = 9
_OPTION_OFFSET: Final = 14
_LONGEST_BLOCK: Final = 16 << 20

_PACKET_HEAD: Final = struct.Struct("<IIIIIII")
_TRAILER: Final = struct.Struct("<I")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + _PADDING[len(value) & 3]


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


class PcapngWriter:
    """Writes one section through ``write``, which gets whole blocks only: a reader of a pipe never waits half way."""

    def __init__(self, write: Callable[[bytes], object], *, application: str = "pvnet") -> None:
        self._write = write
        self._interfaces = 0
        body = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
        options = _option(_OPTION_APPLICATION, application.encode()) + _option(_OPTION_END, b"")
        write(_block(_SECTION, body + options))

    def interface(self, name: str, *, link_type: int = LINKTYPE_ETHERNET) -> int:
        """Describe an interface with nanosecond timestamps and return the number that its packets carry."""
        options = (
            _option(_OPTION_NAME, name.encode()) + _option(_OPTION_RESOLUTION, b"\x09") + _option(_OPTION_END, b"")
        )
        self._write(_block(_INTERFACE, struct.pack("<HHI", link_type, 0, 0) + options))
        self._interfaces += 1
        return self._interfaces - 1

    def packet(self, interface: int, timestamp_ns: int, frame: bytes) -> None:
        """Write one whole frame; ``timestamp_ns`` counts nanoseconds from 1970."""
        self._write(packet_block(interface, timestamp_ns, frame))


def packet_block(interface: int, timestamp_ns: int, frame: bytes) -> bytes:
    """Return one packet block of a little-endian section."""
    size = len(frame)
    length = (size + 3 & ~3) + 32
    head = _PACKET_HEAD.pack(
        _PACKET, length, interface, timestamp_ns >> 32 & 0xFFFFFFFF, timestamp_ns & 0xFFFFFFFF, size, size
    )
    return b"".join((head, frame, _PADDING[size & 3], _TRAILER.pack(length)))


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One packet of a file: ``timestamp_ns`` is ``None`` where the file has no time for it."""

    interface: str
    link_type: int
    timestamp_ns: int | None
    data: bytes
    original_bytes: int
    """Length on the wire; more than ``len(data)`` if the capture was cut."""


@dataclass(slots=True)
class _Interface:
    name: str
    link_type: int
    snap: int
    ticks_per_s: int = 1_000_000
    offset_s: int = 0


@dataclass(slots=True)
class _Section:
    order: str
    interfaces: list[_Interface] = field(default_factory=list)


def read_pcapng(stream: BinaryIO) -> Iterator[CapturedFrame]:
    """Yield the packets of a file, in order; memory is one block at a time.

    Raises:
        WireError: not a pcapng file, or a block that contradicts itself or is cut short; with the offset in the file.
    """
    section: _Section | None = None
    at = 0
    while head := stream.read(8):
        if len(head) < 8:
            raise WireError("block header is cut short", offset=at, expected="8 bytes")
        if head[:4] == b"\x0a\x0d\x0d\x0a":
            section = _Section(_byte_order(stream, at))
            known = 4
        elif section is None:
            raise WireError("not a pcapng file", offset=at, expected="a section header block (0A 0D 0D 0A)")
        else:
            known = 0
        kind, length = struct.unpack(section.order + "II", head)
        if length < 12 + known or length % 4 or length > _LONGEST_BLOCK:
            raise WireError(
                f"block of {length} bytes", offset=at + 4, expected=f"a multiple of 4 up to {_LONGEST_BLOCK}"
            )
        rest = stream.read(length - 8 - known)
        if len(rest) < length - 8 - known:
            raise WireError("block is cut short", offset=at + 8, expected=f"{length} bytes")
        if struct.unpack(section.order + "I", rest[-4:])[0] != length:
            raise WireError("lengths before and after a block differ", offset=at + length - 4, expected=str(length))
        try:
            frame = _read_block(section, kind, rest[:-4])
        except WireError as error:
            raise WireError(f"block 0x{kind:x}: {error}", offset=at) from None
        if frame is not None:
            yield frame
        at += length


def _byte_order(stream: BinaryIO, at: int) -> str:
    magic = stream.read(4)
    for order in "<>":
        if magic == struct.pack(order + "I", _MAGIC):
            return order
    raise WireError("unknown byte-order magic", offset=at + 8, expected="1A2B3C4D in either order")


def _read_block(section: _Section, kind: int, body: bytes) -> CapturedFrame | None:
    order = section.order
    match kind:
        case 1:
            if len(body) < 8:
                raise WireError("interface block is cut short", expected="8 bytes of body")
            section.interfaces.append(_read_interface(order, body, len(section.interfaces)))
            return None
        case 6:
            if len(body) < 20:
                raise WireError("packet block is cut short", expected="20 bytes of body")
            number, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
            if captured > len(body) - 20:
                raise WireError(f"packet of {captured} bytes in a shorter block", expected=f"at most {len(body) - 20}")
            interface = _interface_of(section, number)
            ticks = high << 32 | low
            nanoseconds = ticks * 1_000_000_000 // interface.ticks_per_s + interface.offset_s * 1_000_000_000
            data = body[20 : 20 + captured]
            return CapturedFrame(interface.name, interface.link_type, nanoseconds, data, original)
        case 3:
            if len(body) < 4:
                raise WireError("simple packet block is cut short", expected="4 bytes of body")
            interface = _interface_of(section, 0)
            (original,) = struct.unpack_from(order + "I", body)
            captured = min(original, len(body) - 4, interface.snap or original)
            return CapturedFrame(interface.name, interface.link_type, None, body[4 : 4 + captured], original)
        case _:
            return None


def _interface_of(section: _Section, number: int) -> _Interface:
    if number >= len(section.interfaces):
        raise WireError(f"packet of interface {number}", expected=f"fewer than {len(section.interfaces)}")
    return section.interfaces[number]


def _read_interface(order: str, body: bytes, number: int) -> _Interface:
    link_type, _, snap = struct.unpack_from(order + "HHI", body)
    interface = _Interface(f"interface {number}", link_type, snap)
    at = 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == _OPTION_END:
            break
        if len(value) < size:
            raise WireError("option is cut short", expected=f"{size} bytes")
        if code == _OPTION_NAME:
            interface.name = value.decode(errors="replace")
        elif code == _OPTION_RESOLUTION and size == 1:
            power = value[0] & 0x7F
            interface.ticks_per_s = 1 << power if value[0] & 0x80 else 10 ** min(power, 18)
        elif code == _OPTION_OFFSET and size == 8:
            (interface.offset_s,) = struct.unpack(order + "q", value)
        at += 4 + (size + 3 & ~3)
    return interface
