"""Capture files, ``*.pvcap.pcapng``: pcapng with what it takes to understand the file years later.

One section per writer (a file to which several have written has several sections).  It begins with hardware, system and
application, then two custom blocks, the topology as JSON and the schema of the messages as a ``FileDescriptorSet``.
Each channel of each node is an interface with nanosecond timestamps, declared where it is first needed; a packet has
its direction (``epb_flags``) and perhaps a comment.  Statistics blocks say how many records were received and how many
the recorder had to drop; the last one of an interface counts.

=============== ====================================================================================
Custom block    private enterprise number 32473 (for examples, RFC 5612) u32, ``"pvnet" 0 0 1``,
                what u32 (1 topology, 2 schema), length u32, the bytes
Custom option   2989, value: 32473 u32, ``"no time"``: the packet's timestamp is none
=============== ====================================================================================

Reading stops at the first block that is damaged or cut short: :attr:`CaptureReader.problems` says where, and what came
before is kept.

Spec: ecosystem C.2.
"""

from __future__ import annotations

import platform
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final, Self

from google.protobuf.descriptor_pb2 import FileDescriptorSet

import pvnet
from pvnet.capture.model import CaptureInfo, Direction, Interface, Record
from pvnet.capture.pcapng import (
    CUSTOM_BLOCK,
    INTERFACE_BLOCK,
    OPTION_COMMENT,
    OPTIONS_END,
    PACKET_BLOCK,
    SECTION_BLOCK,
    STATISTICS_BLOCK,
    BlockReader,
    FileInterface,
    FileSection,
    block,
    interface_block,
    option,
    packet_block,
    read_options,
    read_packet,
    section_block,
    text_option,
)
from pvnet.core.errors import ConfigError, LocalError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope

SUFFIX: Final = ".pvcap.pcapng"
ENTERPRISE: Final = 32473
CUSTOM_MAGIC: Final = b"pvnet\0\0\1"
CUSTOM_TOPOLOGY: Final = 1
CUSTOM_SCHEMA: Final = 2

_OPTION_FLAGS: Final = 2
_OPTION_CUSTOM: Final = 2989
_ISB_RECEIVED: Final = 4
_ISB_DROPPED: Final = 5
_NO_TIME: Final = b"no time"
_CUSTOM_HEAD: Final = struct.Struct("<I8sII")
_NO_TIME_OPTION: Final = option(_OPTION_CUSTOM, struct.pack("<I", ENTERPRISE) + _NO_TIME)
_DIRECTIONS: Final = tuple(option(_OPTION_FLAGS, struct.pack("<I", direction)) for direction in Direction)
_OPTIONS: Final = (b"", *(flags + OPTIONS_END for flags in _DIRECTIONS[1:]))
_LATEST: Final = (1 << 64) - 1


@cache
def schema_bytes() -> bytes:
    """Return the schema of the messages: a serialized ``FileDescriptorSet``, each file after those it imports."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(descriptor: object) -> None:
        name = descriptor.name  # type: ignore[attr-defined]
        if name in seen:
            return
        seen.add(name)
        for needed in descriptor.dependencies:  # type: ignore[attr-defined]
            add(needed)
        descriptor.CopyToProto(files.file.add())  # type: ignore[attr-defined]

    add(Envelope.DESCRIPTOR.file)
    return files.SerializeToString(deterministic=True)


def make_info(topology: str = "", application: str = "") -> CaptureInfo:
    """Return what a capture that is made here and now says of itself; ``topology`` is JSON."""
    return CaptureInfo(
        application=application or f"pvnet {pvnet.__version__}",
        hardware=platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        topology=topology,
        schema=schema_bytes(),
    )


# --- writing ---------------------------------------------------------------------------------------------------------


class CaptureWriter:
    """Writes one section through ``write``, which gets whole blocks, one or more at once."""

    def __init__(self, write: Callable[[bytes], object], info: CaptureInfo) -> None:
        self._write = write
        self._numbers: dict[Interface, int] = {}
        self._by_name: dict[str, Interface] = {}
        self._latest_ns = 0
        options = b"".join(
            text_option(code, text)
            for code, text in ((2, info.hardware), (3, info.os), (4, info.application))
            if text
        )  # fmt: skip
        begin = section_block(options + OPTIONS_END if options else b"")
        for what, data in ((CUSTOM_TOPOLOGY, info.topology.encode()), (CUSTOM_SCHEMA, info.schema)):
            if data:
                begin += block(CUSTOM_BLOCK, _CUSTOM_HEAD.pack(ENTERPRISE, CUSTOM_MAGIC, what, len(data)) + data)
        write(begin)

    def interface(self, interface: Interface) -> int:
        """Declare an interface, if it is not yet, and return its number."""
        number = self._numbers.get(interface)
        if number is None:
            number = self._numbers[interface] = len(self._numbers)
            self._by_name.setdefault(interface.name, interface)
            self._write(interface_block(interface.name, interface.link_type, interface.description))
        return number

    def record(
        self,
        interface: Interface,
        time_ns: int | None,
        data: bytes | bytearray | memoryview,
        *,
        direction: Direction = Direction.UNKNOWN,
        original_bytes: int = 0,
        comment: str = "",
    ) -> None:
        """Write a record; ``original_bytes`` when ``data`` was cut to a snap length."""
        number = self._numbers.get(interface)
        if number is None:
            number = self.interface(interface)
        if time_ns is None or comment:
            options = _DIRECTIONS[direction] if direction else b""
            if time_ns is None:
                options += _NO_TIME_OPTION
            if comment:
                options += text_option(OPTION_COMMENT, comment)
            options += OPTIONS_END
        else:
            options = _OPTIONS[direction]
        time_ns = min(max(time_ns or 0, 0), _LATEST)
        if time_ns > self._latest_ns:
            self._latest_ns = time_ns
        self._write(packet_block(number, time_ns, data, original_bytes=original_bytes, options=options))

    def copy(self, record: Record) -> None:
        """Write a record that was read."""
        self.record(
            record.interface,
            record.time_ns,
            record.data,
            direction=record.direction,
            original_bytes=record.original_bytes,
            comment=record.comment,
        )

    def statistics(self, received: Mapping[str, int], dropped: Mapping[str, int]) -> None:
        """Write how many records each interface (by name) had so far, and how many of them were dropped."""
        for name in [*received, *(name for name in dropped if name not in received)]:
            number = self.interface(self._by_name.get(name) or Interface(name))
            options = b""
            if name in received:
                options += option(_ISB_RECEIVED, struct.pack("<Q", received[name]))
            if name in dropped:
                options += option(_ISB_DROPPED, struct.pack("<Q", dropped[name]))
            high, low = self._latest_ns >> 32, self._latest_ns & 0xFFFFFFFF
            self._write(block(STATISTICS_BLOCK, struct.pack("<III", number, high, low) + options + OPTIONS_END))


@contextmanager
def create_capture(path: str | Path, info: CaptureInfo | None = None) -> Iterator[CaptureWriter]:
    """Begin a capture file anew; its writer, to be entered.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        stream = Path(path).open("wb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise ConfigError(f"capture file {path}: {why(error)}") from None
    with stream:
        yield CaptureWriter(stream.write, info or make_info())


def why(error: OSError | ValueError) -> str:
    """Return what the system says of a path; a ValueError is one with a NUL, or with what has no encoding."""
    return str(error.strerror or error) if isinstance(error, OSError) else "not a path"


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counts:
    """The last statistics of an interface."""

    received: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _SectionState:
    """A section while it is read, and what its interfaces are to us."""

    section: FileSection
    interfaces: list[Interface] = field(default_factory=list)
    counts: dict[int, _Counts] = field(default_factory=dict)

    def add(self, body: bytes) -> None:
        found: FileInterface = self.section.add(body)
        self.interfaces.append(Interface(found.name, found.link_type, found.description))


class CaptureReader:
    """Iterates over the records of a stream, once; memory is one block at a time, whatever the size.

    ``info`` is what the capture says of itself, as far as it was read: all but the counts from the beginning.

    Raises:
        WireError: it is no pcapng file at all.
    """

    def __init__(self, stream: BinaryIO, name: str = "") -> None:
        self.name = name
        self.info = CaptureInfo()
        self.problems: list[str] = []
        """What ended the reading too early: one line, with the offset in the file."""
        self.sections: list[_SectionState] = []
        self._stream = stream
        self._blocks = BlockReader(stream)
        self._number = 0
        self._state: _SectionState
        self._ahead: deque[Record] = deque()
        first = self._next_record()
        if first is not None:
            self._ahead.append(first)
        elif self.problems and not self.sections:
            raise WireError(self.problems[0])

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        if self._ahead:
            return self._ahead.popleft()
        record = self._next_record()
        if record is None:
            raise StopIteration
        return record

    @property
    def is_whole(self) -> bool:
        """Whether nothing was wrong so far."""
        return not self.problems

    def interfaces(self) -> list[Interface]:
        """Return the interfaces seen so far, each once."""
        return list(dict.fromkeys(interface for state in self.sections for interface in state.interfaces))

    def skip_to(self, offset: int) -> None:
        """Read on from the first record whose block begins at ``offset`` or behind it; only forwards."""
        while self._ahead:
            if self._ahead[0].offset >= offset:
                return
            self._ahead.popleft()
        while (record := self._next_record()) is not None:
            if record.offset >= offset:
                self._ahead.append(record)
                return

    def _resume(self, mark: _Mark, sections: list[_SectionState]) -> None:
        """Go to a mark of an index: to its record, with the interfaces as they were there."""
        self._stream.seek(mark.offset)
        self._ahead.clear()
        self.problems.clear()
        self.info.received.clear()
        self.info.dropped.clear()
        self.sections = [_SectionState(s.section, list(s.interfaces)) for s in sections[: mark.section + 1]]
        self._state = state = self.sections[-1]
        state.section = FileSection(
            state.section.order, state.section.interfaces[: mark.interfaces], state.section.offset
        )
        del state.interfaces[mark.interfaces :]
        self._blocks = BlockReader(self._stream, at=mark.offset, section=state.section)
        self._number = mark.number - 1

    def _next_record(self) -> Record | None:
        if self.problems:
            return None
        blocks = self._blocks
        at = blocks.at
        try:
            while (found := blocks.next()) is not None:
                kind, body = found
                if kind == PACKET_BLOCK:
                    return self._packet(kind, body, at)
                record = self._other(kind, body, at)
                if record is not None:
                    return record
                at = blocks.at
        except WireError as error:
            where = f" (block at offset {at})" if error.offset is None else ""
            self.problems.append(f"{error}{where}")
        except OSError as error:
            self.problems.append(f"reading failed at offset {at}: {why(error)}")
        return None

    def _packet(self, kind: int, body: bytes, at: int) -> Record | None:
        state = self._state
        packet = read_packet(state.section, kind, body)
        if packet is None:
            return None
        _, time_ns, data, original, options = packet
        order = state.section.order
        direction, comment = Direction.UNKNOWN, ""
        if options < len(body):
            for code, value in read_options(order, body, options):
                if code == _OPTION_FLAGS and len(value) == 4:
                    direction = _DIRECTION[struct.unpack(order + "I", value)[0] & 3]
                elif code == OPTION_COMMENT:
                    text = value.decode(errors="replace")
                    comment = f"{comment}\n{text}" if comment else text
                elif code == _OPTION_CUSTOM and value == struct.pack(order + "I", ENTERPRISE) + _NO_TIME:
                    time_ns = None
        self._number += 1
        number = struct.unpack_from(order + "I", body)[0] if kind == PACKET_BLOCK else 0
        cut = original if original > len(data) else 0
        return Record(state.interfaces[number], time_ns, data, direction, cut, comment, self._number, at)

    def _other(self, kind: int, body: bytes, at: int) -> Record | None:
        if kind == SECTION_BLOCK:
            section = self._blocks.section
            assert section is not None
            self._state = _SectionState(section)
            self.sections.append(self._state)
            if len(self.sections) == 1:
                self._section_options(section.order, body)
        elif kind == INTERFACE_BLOCK:
            self._state.add(body)
        elif kind == CUSTOM_BLOCK:
            self._custom(body)
        elif kind == STATISTICS_BLOCK:
            self._statistics(body)
        else:
            return self._packet(kind, body, at)
        return None

    def _section_options(self, order: str, body: bytes) -> None:
        if len(body) < 12:
            raise WireError("section block is cut short", expected="28 bytes")
        for code, value in read_options(order, body, 12):
            text = value.decode(errors="replace")
            match code:
                case 2:
                    self.info.hardware = text
                case 3:
                    self.info.os = text
                case 4:
                    self.info.application = text
                case _:
                    pass

    def _custom(self, body: bytes) -> None:
        """Take what is ours; what is somebody else's, or does not fit, is passed over."""
        order = self._state.section.order
        if len(body) < _CUSTOM_HEAD.size:
            return
        enterprise, magic, what, size = struct.unpack_from(order + "I8sII", body)
        data = body[_CUSTOM_HEAD.size : _CUSTOM_HEAD.size + size]
        if enterprise != ENTERPRISE or magic != CUSTOM_MAGIC or len(data) < size:
            return
        if what == CUSTOM_TOPOLOGY and not self.info.topology:
            self.info.topology = data.decode(errors="replace")
        elif what == CUSTOM_SCHEMA and not self.info.schema:
            self.info.schema = data

    def _statistics(self, body: bytes) -> None:
        state = self._state
        order = state.section.order
        if len(body) < 12:
            raise WireError("statistics block is cut short", expected="12 bytes of body")
        (number,) = struct.unpack_from(order + "I", body)
        state.section.interface(number)
        name = state.interfaces[number].name
        counts = state.counts.setdefault(number, _Counts())
        for code, value in read_options(order, body, 12):
            if len(value) != 8:
                continue
            (count,) = struct.unpack(order + "Q", value)
            if code == _ISB_RECEIVED:
                self.info.received[name] = self.info.received.get(name, 0) + count - counts.received
                counts.received = count
            elif code == _ISB_DROPPED:
                self.info.dropped[name] = self.info.dropped.get(name, 0) + count - counts.dropped
                counts.dropped = count


_DIRECTION: Final = (Direction.UNKNOWN, Direction.IN, Direction.OUT, Direction.UNKNOWN)


@contextmanager
def open_capture(path: str | Path) -> Iterator[CaptureReader]:
    """Open a capture file to be read.

    Raises:
        ConfigError: it cannot be read, or is no pcapng file.
    """
    try:
        stream = Path(path).open("rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise ConfigError(f"capture file {path}: {why(error)}") from None
    with stream:
        try:
            reader = CaptureReader(stream, str(path))
        except WireError as error:
            raise ConfigError(f"capture file {path}: {error}") from None
        yield reader


# --- seeking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """A record from which reading may begin; ``latest_ns`` is the latest time of those before it, if one has any."""

    number: int
    offset: int
    latest_ns: int | None
    section: int
    interfaces: int


class CaptureIndex:
    """Where every so many records one begins, so that a reader can be put there."""

    def __init__(self) -> None:
        self.records = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        """Earliest and latest time."""
        self.info = CaptureInfo()
        self.problems: list[str] = []
        self._marks: list[_Mark] = []
        self._sections: list[_SectionState] = []

    @classmethod
    def build(cls, path: str | Path, every: int = 1000) -> Self:
        """Read a file once; raises as :func:`open_capture`."""
        if every < 1:
            raise LocalError(f"an index of every {every} records: expected at least 1")
        index = cls()
        with open_capture(path) as reader:
            latest: int | None = None  # not 0: a file's offset may put all its times before 1970
            for record in reader:
                if index.records % every == 0:
                    interfaces = len(reader.sections[-1].interfaces)
                    index._marks.append(
                        _Mark(record.number, record.offset, latest, len(reader.sections) - 1, interfaces)
                    )
                index.records += 1
                if record.time_ns is not None:
                    latest = record.time_ns if latest is None else max(latest, record.time_ns)
                    index.first_ns = record.time_ns if index.first_ns is None else min(index.first_ns, record.time_ns)
                    index.last_ns = latest
            index.info, index.problems, index._sections = reader.info, reader.problems, reader.sections
        return index

    def seek_number(self, reader: CaptureReader, number: int) -> None:
        """Have a reader of the same file go on with record ``number`` (the first is 1)."""
        self._seek(reader, bisect_right(self._marks, number, key=lambda mark: mark.number) - 1)
        while (record := next(reader, None)) is not None:
            if record.number >= number:
                reader._ahead.appendleft(record)
                return

    def seek_time(self, reader: CaptureReader, time_ns: int) -> None:
        """Have a reader of the same file go on with the first record at ``time_ns`` or later."""
        self._seek(reader, self._before(time_ns))
        while (record := next(reader, None)) is not None:
            if record.time_ns is not None and record.time_ns >= time_ns:
                reader._ahead.appendleft(record)
                return

    def _before(self, time_ns: int) -> int:
        """Return the last mark before which everything is earlier than ``time_ns``."""
        low, high = 0, len(self._marks)
        while low < high:
            middle = (low + high) // 2
            latest = self._marks[middle].latest_ns
            if latest is None or latest < time_ns:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def _seek(self, reader: CaptureReader, mark: int) -> None:
        if self._marks:
            reader._resume(self._marks[max(mark, 0)], self._sections)
