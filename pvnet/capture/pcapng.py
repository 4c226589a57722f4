"""The pcapng file format: blocks and options, written so that Wireshark reads them, and read back; and plain frames.

A file is a row of blocks, each ``type u32, total length u32, body, total length u32``, padded to 4 bytes:

============ ========== =====================================================================
Block        Type       Body that we write
============ ========== =====================================================================
section      0x0A0D0D0A byte-order magic 0x1A2B3C4D, version 1.0, section length unknown (-1), options
interface    1          link type, snap length, options (if_name, if_description, if_tsresol 9)
packet       6          interface, timestamp (nanoseconds, two u32), lengths, data, padding, options
statistics   5          interface, timestamp, options (isb_ifrecv, isb_ifdrop)
custom       0xBAD      private enterprise number u32, then what its owner likes
============ ========== =====================================================================

Options are ``code u16, length u16, value``, padded to 4 bytes; code 0 ends the list.

The writers make little-endian sections; the readers take both byte orders, every resolution, several sections, the old
simple packet block, and skip what they do not know.  Nothing that a file says is believed: a block is at most
:data:`LONGEST_BLOCK` bytes, a list of options at most :data:`MOST_OPTIONS`, a section at most :data:`MOST_INTERFACES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from pvnet.core.errors import WireError

LINKTYPE_ETHERNET: Final = 1

SECTION_BLOCK: Final = 0x0A0D0D0A
INTERFACE_BLOCK: Final = 1
SIMPLE_BLOCK: Final = 3
STATISTICS_BLOCK: Final = 5
PACKET_BLOCK: Final = 6
CUSTOM_BLOCK: Final = 0xBAD
"""The kind that programs may copy to another file."""

LONGEST_BLOCK: Final = 16 << 20
MOST_OPTIONS: Final = 4096
MOST_INTERFACES: Final = 65536
LONGEST_OPTION: Final = 0xFFFF

OPTION_END: Final = 0
OPTION_COMMENT: Final = 1
OPTION_NAME: Final = 2
_OPTION_APPLICATION: Final = 4
_OPTION_RESOLUTION: Final = 9
_OPTION_OFFSET: Final = 14

_MAGIC: Final = 0x1A2B3C4D
_PACKET_HEAD: Final = struct.Struct("<IIIIIII")
_TRAILER: Final = struct.Struct("<I")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
_CLASSIC: Final = frozenset(
    bytes.fromhex(text) for text in ("d4c3b2a1", "a1b2c3d4", "4d3cb2a1", "a1b23c4d")
)  # fmt: skip

# --- writing ---------------------------------------------------------------------------------------------------------


def option(code: int, value: bytes) -> bytes:
    """Return one option of a little-endian section; what is longer than an option may be is cut."""
    value = value[:LONGEST_OPTION]
    return struct.pack("<HH", code, len(value)) + value + _PADDING[len(value) & 3]


def text_option(code: int, text: str) -> bytes:
    """Return an option with text, cut at a character if it is too long."""
    value = text.encode(errors="replace")
    if len(value) > LONGEST_OPTION:
        value = value[:LONGEST_OPTION].decode(errors="ignore").encode()
    return option(code, value)


OPTIONS_END: Final = option(OPTION_END, b"")


def block(kind: int, body: bytes) -> bytes:
    """Return a block of a little-endian section; the body is padded."""
    length = (len(body) + 3 & ~3) + 12
    return b"".join((struct.pack("<II", kind, length), body, _PADDING[len(body) & 3], _TRAILER.pack(length)))


def section_block(options: bytes) -> bytes:
    """Return the block that begins a section."""
    return block(SECTION_BLOCK, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + options)


def interface_block(name: str, link_type: int, description: str = "") -> bytes:
    """Return the block that describes an interface with nanosecond timestamps."""
    options = text_option(OPTION_NAME, name)
    if description:
        options += text_option(3, description)
    options += option(_OPTION_RESOLUTION, b"\x09") + OPTIONS_END
    return block(INTERFACE_BLOCK, struct.pack("<HHI", link_type, 0, 0) + options)


def packet_block(
    interface: int,
    timestamp_ns: int,
    frame: bytes | bytearray | memoryview,
    *,
    original_bytes: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return one packet block of a little-endian section; ``options`` with their end, if there are any."""
    size = len(frame)
    length = (size + 3 & ~3) + 32 + len(options)
    head = _PACKET_HEAD.pack(
        PACKET_BLOCK,
        length,
        interface,
        timestamp_ns >> 32 & 0xFFFFFFFF,
        timestamp_ns & 0xFFFFFFFF,
        size,
        original_bytes or size,
    )
    return b"".join((head, frame, _PADDING[size & 3], options, _TRAILER.pack(length)))


class PcapngWriter:
    """Writes one section through ``write``, which gets whole blocks only: a reader of a pipe never waits half way."""

    def __init__(self, write: Callable[[bytes], object], *, application: str = "pvnet") -> None:
        self._write = write
        self._interfaces = 0
        write(section_block(option(_OPTION_APPLICATION, application.encode()) + OPTIONS_END))

    def interface(self, name: str, *, link_type: int = LINKTYPE_ETHERNET) -> int:
        """Describe an interface with nanosecond timestamps and return the number that its packets carry."""
        self._write(interface_block(name, link_type))
        self._interfaces += 1
        return self._interfaces - 1

    def packet(self, interface: int, timestamp_ns: int, frame: bytes) -> None:
        """Write one whole frame; ``timestamp_ns`` counts nanoseconds from 1970."""
        self._write(packet_block(interface, timestamp_ns, frame))


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FileInterface:
    """An interface as a file describes it."""

    name: str
    link_type: int
    snap: int = 0
    description: str = ""
    ticks_per_s: int = 1_000_000
    offset_s: int = 0

    def nanoseconds(self, ticks: int) -> int:
        """Return the time of a timestamp in nanoseconds since 1970."""
        if self.ticks_per_s == 1_000_000_000:
            return ticks + self.offset_s * 1_000_000_000
        return ticks * 1_000_000_000 // self.ticks_per_s + self.offset_s * 1_000_000_000


@dataclass(slots=True)
class FileSection:
    """What a section has said so far; ``order`` is that of :mod:`struct`."""

    order: str
    interfaces: list[FileInterface] = field(default_factory=list)
    offset: int = 0

    def interface(self, number: int) -> FileInterface:
        """Return an interface by its number.

        Raises:
            WireError: there is none.
        """
        if number >= len(self.interfaces):
            raise WireError(f"packet of interface {number}", expected=f"fewer than {len(self.interfaces)}")
        return self.interfaces[number]

    def add(self, body: bytes) -> FileInterface:
        """Take an interface block.

        Raises:
            WireError: it contradicts itself, or there are too many.
        """
        if len(body) < 8:
            raise WireError("interface block is cut short", expected="8 bytes of body")
        if len(self.interfaces) >= MOST_INTERFACES:
            raise WireError("one more interface", expected=f"at most {MOST_INTERFACES} in a section")
        interface = _read_interface(self.order, body, len(self.interfaces))
        self.interfaces.append(interface)
        return interface


class BlockReader:
    """Cuts a stream into blocks; memory is one block at a time.

    ``at`` is the offset of the next block, ``section`` the current one.
    """

    def __init__(self, stream: BinaryIO, *, at: int = 0, section: FileSection | None = None) -> None:
        self._read = stream.read
        self.at = at
        self.section = section
        self._words = struct.Struct((section.order if section else "<") + "II")

    def next(self) -> tuple[int, bytes] | None:
        """Return type and body of the next block; None at the end.  A section's body lacks its magic.

        Raises:
            WireError: not a pcapng file, or a block that contradicts itself or is cut short, with the offset.
        """
        at = self.at
        head = self._read(8)
        if len(head) < 8:
            if not head:
                return None
            raise WireError("block header is cut short", offset=at, expected="8 bytes")
        known = 0
        if head[:4] == b"\x0a\x0d\x0d\x0a":
            self.section = FileSection(self._byte_order(at), offset=at)
            self._words = struct.Struct(self.section.order + "II")
            known = 4
        elif self.section is None:
            expected = "a section header block (0A 0D 0D 0A)"
            if head[:4] in _CLASSIC:
                raise WireError("a classic pcap file, not a pcapng file", offset=at, expected=expected)
            raise WireError("not a pcapng file", offset=at, expected=expected)
        kind, length = self._words.unpack(head)
        if length < 12 + known or length % 4 or length > LONGEST_BLOCK:
            raise WireError(
                f"block of {length} bytes", offset=at + 4, expected=f"a multiple of 4 up to {LONGEST_BLOCK}"
            )
        rest = self._read(length - 8 - known)
        if len(rest) < length - 8 - known:
            raise WireError("block is cut short", offset=at + 8, expected=f"{length} bytes")
        if rest[-4:] != head[4:]:
            raise WireError("lengths before and after a block differ", offset=at + length - 4, expected=str(length))
        self.at = at + length
        return kind, rest[:-4]

    def _byte_order(self, at: int) -> str:
        magic = self._read(4)
        for order in "<>":
            if magic == struct.pack(order + "I", _MAGIC):
                return order
        raise WireError("unknown byte-order magic", offset=at + 8, expected="1A2B3C4D in either order")


def read_options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield code and value of the options in ``body`` from ``at`` on.

    Raises:
        WireError: one is cut short, or there are too many.
    """
    for _ in range(MOST_OPTIONS):
        if at + 4 > len(body):
            return
        code, size = struct.unpack_from(order + "HH", body, at)
        if code == OPTION_END:
            return
        value = body[at + 4 : at + 4 + size]
        if len(value) < size:
            raise WireError("option is cut short", expected=f"{size} bytes")
        yield code, value
        at += 4 + (size + 3 & ~3)
    raise WireError("endless list of options", expected=f"at most {MOST_OPTIONS}")


def _read_interface(order: str, body: bytes, number: int) -> FileInterface:
    link_type, _, snap = struct.unpack_from(order + "HHI", body)
    interface = FileInterface(f"interface {number}", link_type, snap)
    for code, value in read_options(order, body, 8):
        if code == OPTION_NAME:
            interface.name = value.decode(errors="replace")
        elif code == 3:
            interface.description = value.decode(errors="replace")
        elif code == _OPTION_RESOLUTION and len(value) == 1:
            power = value[0] & 0x7F
            interface.ticks_per_s = 1 << power if value[0] & 0x80 else 10 ** min(power, 18)
        elif code == _OPTION_OFFSET and len(value) == 8:
            (interface.offset_s,) = struct.unpack(order + "q", value)
    return interface


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One packet of a file: ``timestamp_ns`` is ``None`` where the file has no time for it."""

    interface: str
    link_type: int
    timestamp_ns: int | None
    data: bytes
    original_bytes: int
    """Length on the wire; more than ``len(data)`` if the capture was cut."""


def read_pcapng(stream: BinaryIO) -> Iterator[CapturedFrame]:
    """Yield the packets of a file, in order; memory is one block at a time.

    Raises:
        WireError: not a pcapng file, or a block that contradicts itself or is cut short; with the offset in the file.
    """
    blocks = BlockReader(stream)
    while True:
        at = blocks.at
        found = blocks.next()
        if found is None:
            return
        kind, body = found
        section = blocks.section
        assert section is not None
        try:
            if kind == INTERFACE_BLOCK:
                section.add(body)
                continue
            packet = read_packet(section, kind, body)
        except WireError as error:
            raise WireError(f"block 0x{kind:x}: {error}", offset=at) from None
        if packet is not None:
            interface, nanoseconds, data, original, _ = packet
            yield CapturedFrame(interface.name, interface.link_type, nanoseconds, data, original)


def read_packet(
    section: FileSection, kind: int, body: bytes
) -> tuple[FileInterface, int | None, bytes, int, int] | None:
    """Return interface, time, data, original length and where the options begin, of a packet block; else None.

    Raises:
        WireError: it contradicts itself.
    """
    order = section.order
    if kind == PACKET_BLOCK:
        if len(body) < 20:
            raise WireError("packet block is cut short", expected="20 bytes of body")
        number, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
        if captured > len(body) - 20:
            raise WireError(f"packet of {captured} bytes in a shorter block", expected=f"at most {len(body) - 20}")
        interface = section.interface(number)
        end = 20 + captured
        return interface, interface.nanoseconds(high << 32 | low), body[20:end], original, end + 3 & ~3
    if kind == SIMPLE_BLOCK:
        if len(body) < 4:
            raise WireError("simple packet block is cut short", expected="4 bytes of body")
        interface = section.interface(0)
        (original,) = struct.unpack_from(order + "I", body)
        captured = min(original, len(body) - 4, interface.snap or original)
        return interface, None, body[4 : 4 + captured], original, len(body)
    return None
