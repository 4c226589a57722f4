"""Captures, logs and recordings, messages, filters: what ``pvnet show``, ``convert`` and ``replay`` read."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from random import Random

from fuzz.engine import EDGES, TEXT, Mutator
from fuzz.seeds import CAPTURE_WORDS, FILTER_WORDS, RULES, TEXT_WORDS, Seeds
from fuzz.target import Target
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.expect import Rules
from pvnet.capture.exporters import WRITTEN, convert
from pvnet.capture.filter import Filter
from pvnet.capture.hcall_trace import read_hcall_trace
from pvnet.capture.importers import Problems, call_of, element_in, object_of, open_any
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_HCALL, Direction, Interface, Record
from pvnet.capture.pcapng import read_pcapng
from pvnet.capture.pvcap import CaptureIndex, CaptureReader, open_capture
from pvnet.capture.show_text import LineWriter, hex_lines, to_json, tree_lines
from pvnet.capture.snoop import whole_length
from pvnet.capture.summary import Summary
from pvnet.capture.transcript import read_transcript
from pvnet.capture.violations import Violations
from pvnet.core.errors import ConfigError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.envelope import decode_envelope


class Shown:
    """Everything that ``pvnet show`` does with a record."""

    def __init__(self) -> None:
        self._watch, self._totals, self._lines = Violations(), Summary(), LineWriter()
        self._filters = [
            Filter.parse(text) for text in ("crq.element ~ c0 or summary ~ x", "time > 1 and not vfio.flags & 0x20")
        ]
        self.count = 0

    def feed(self, record: Record) -> Decoded:
        decoded = decode(record)
        broken = [text for text in decoded.problems if text.startswith("does not decode")]
        assert not broken, broken
        wrong = self._watch.feed(decoded)
        self._totals.feed(decoded, self._watch.matched, wrong)
        texts = [self._lines.line(decoded, self._watch.matched, wrong), *tree_lines(decoded)]
        assert not any("\n" in text or "\x1b" in text for text in texts), texts
        "\n".join(texts).encode()
        self.count += 1
        if self.count % 4 == 0:
            json.dumps(to_json(decoded, self._watch.matched, wrong)).encode()
            for wanted in self._filters:
                wanted.matches(decoded)
        if self.count % 256 == 0:
            "\n".join([*self._totals.lines(), *hex_lines(record.data)]).encode()
            json.dumps(self._totals.to_json())
        return decoded


class Scratch:
    """One file that is written again and again."""

    def __init__(self) -> None:
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="pvnet-fuzz-", dir=folder)
        self.path = Path(self._folder.name) / "input"
        self.other = Path(self._folder.name) / "output"

    def write(self, data: bytes) -> Path:
        self.path.write_bytes(data)
        return self.path

    def close(self) -> None:
        self._folder.cleanup()


class Capture(Target):
    """Both readers of pcapng, which must agree; now and then the index, and what a writer cuts off."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.captures, CAPTURE_WORDS)
        self._scratch = Scratch()
        self._shown = Shown()
        self._count = 0

    def make(self, random: Random) -> bytes:
        return self._mutator.make(random)

    def run(self, data: bytes) -> None:
        frames, refusal = [], ""
        try:
            frames.extend(read_pcapng(io.BytesIO(data)))
        except WireError as error:
            refusal = str(error)
        try:
            reader = CaptureReader(io.BytesIO(data), "input")
        except WireError:
            self.refused += 1
            assert not frames
            return
        records = list(reader)
        self.refused += bool(reader.problems)
        assert len(reader.problems) <= 1
        assert "offset" in "".join(reader.problems) or not reader.problems, reader.problems
        assert bool(reader.problems) >= bool(refusal)
        assert len(records) <= len(frames) if reader.problems else len(records) == len(frames)
        for record, frame in zip(records, frames, strict=False):
            assert (record.data, record.interface.name) == (frame.data, frame.interface)
            assert record.time_ns in (None, frame.timestamp_ns)
            assert record.is_cut == (frame.original_bytes > len(frame.data))
        assert sum(len(record.data) for record in records) <= len(data)
        json.dumps([reader.info.received, reader.info.dropped, reader.info.topology, reader.info.hardware])
        self._count += 1
        if records and self._count % 4 == 0:
            self._shown.feed(records[self._count % len(records)])
        if self._count % 16 == 0:
            self._seek(data, records)

    def _seek(self, data: bytes, records: list[Record]) -> None:
        path = self._scratch.write(data)
        with path.open("rb") as stream:
            assert 0 <= whole_length(stream.fileno()) <= len(data)
        index = CaptureIndex.build(path, every=3)
        assert index.records == len(records)
        with open_capture(path) as reader:
            for number in (len(records) // 2 + 1, 1, len(records)):
                index.seek_number(reader, number)
                assert list(reader) == records[max(number, 1) - 1 :]
            if index.last_ns is not None:
                index.seek_time(reader, index.last_ns)
                found = next(reader)
                assert found.time_ns == index.last_ns
        assert not data or list(open_any(path)) == records

    def close(self) -> None:
        self._scratch.close()


class Importers(Target):
    """Every importer, by content."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.texts, TEXT_WORDS, TEXT)
        self._scratch = Scratch()
        self._shown = Shown()

    def make(self, random: Random) -> bytes:
        return self._mutator.make(random)

    def run(self, data: bytes) -> None:
        problems = Problems()
        path = self._scratch.write(data)
        at = 0
        try:
            for number, record in enumerate(open_any(path, problems), start=1):
                assert (record.number, record.interface.link_type) == (number, LINKTYPE_HCALL)
                assert 0 <= record.offset < len(data)
                assert record.time_ns is None or 0 <= record.time_ns < 1 << 70
                at += 1
                values = object_of(record)
                assert values is not None
                call_of(record)
                element_in(values)
                if number == len(data) % 16:
                    self._shown.feed(record)
        except ConfigError as error:
            self.refused += 1
            if str(path) not in str(error):
                raise AssertionError("the error does not say of which file it is") from error
        assert at <= len(data)
        assert (problems.count > 0) == bool(problems.texts)

    def close(self) -> None:
        self._scratch.close()


class Conversions(Target):
    """``pvnet convert`` into each format, and the readers of the two kinds of recordings."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._text = Mutator(seeds.texts, TEXT_WORDS, TEXT)
        self._capture = Mutator(seeds.captures, CAPTURE_WORDS)
        self._scratch = Scratch()

    def make(self, random: Random) -> bytes:
        return (self._capture if random.random() < 0.25 else self._text).make(random)

    def run(self, data: bytes) -> None:
        path = self._scratch.write(data)
        for read in (read_hcall_trace, read_transcript):
            try:
                read(path)
            except ConfigError:
                self.refused += 1
        for name in WRITTEN:
            self._scratch.other.unlink(missing_ok=True)
            try:
                done = convert(path, self._scratch.other, name)
            except ConfigError:
                continue
            again = sum(1 for _ in open_any(self._scratch.other))
            assert again == done.written, (name, again, done.written)

    def close(self) -> None:
        self._scratch.close()


class Envelopes(Target):
    """Messages, damaged as bytes and field by field; what the wire takes, and what is shown."""

    _PLACES = tuple(Interface(name) for name in ("lpar1/crq", "hypervisor/hcall", "x", ""))

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.envelopes, CAPTURE_WORDS)
        self._shown = Shown()
        self._count = 0

    def make(self, random: Random) -> bytes:
        if random.random() < 0.35:
            return self._mutator.make(random)
        envelope = Envelope()
        envelope.ParseFromString(random.choice(self._mutator.seeds))
        for _ in range(random.choice((1, 1, 2, 4))):
            self._change(random, envelope)
        return envelope.SerializeToString(deterministic=True)

    def _change(self, random: Random, message: Message) -> None:
        """One field somewhere inside."""
        while True:
            there = message.ListFields()
            fields = [field for field, _ in there] if there and random.random() < 0.9 else message.DESCRIPTOR.fields
            if not fields:
                return
            field = random.choice(fields)
            value = getattr(message, field.name)
            is_list = hasattr(value, "__len__") and not isinstance(value, str | bytes)
            if field.type != FieldDescriptor.TYPE_MESSAGE:
                break
            if not is_list:
                if random.random() < 0.03:
                    message.ClearField(field.name)
                    return
                value.SetInParent()
                message = value
            elif hasattr(value, "add"):
                if not len(value) or random.random() < 0.1:
                    value.add()
                message = random.choice(value)
            else:
                return  # a map
        if is_list:
            if not value or random.random() < 0.3:
                value.extend([self._value(random, field, None)] * random.choice((1, 1, 3, 300)))
            elif random.random() < 0.3:
                del value[random.randrange(len(value)) :]
            else:
                at = random.randrange(len(value))
                value[at] = self._value(random, field, value[at])
        else:
            setattr(message, field.name, self._value(random, field, value))

    def _value(self, random: Random, field: FieldDescriptor, old: object) -> object:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                if field.type == FieldDescriptor.TYPE_BYTES:
                    return self._mutator.damage(random, old if isinstance(old, bytes) else b"")
                texts = ("", "x" * 300, "\x1b[31m\n\r\0", "lpar1", "\u202e\u2028", "0", "/dev/ibmvmc", f"{old}/")
                return random.choice(texts)
            case FieldDescriptor.CPPTYPE_BOOL:
                return not old
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return random.choice((0.0, -1.0, float("nan"), float("inf"), 1e308))
            case kind:
                number = random.choice(EDGES)
                if isinstance(old, int) and random.random() < 0.4:
                    number = old + random.choice((-1, 1, 1 << random.randrange(32)))
                bits = 64 if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 32
                number &= (1 << bits) - 1
                unsigned = kind in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32)
                return number if unsigned or number < 1 << bits - 1 else number - (1 << bits)

    def run(self, data: bytes) -> None:
        try:
            decode_envelope(data, "demo")
        except WireError:
            self.refused += 1
        self._count += 1
        place = self._PLACES[self._count % len(self._PLACES)]
        direction = Direction(self._count % 3)
        cut = len(data) + 9 if self._count % 50 == 0 else 0
        time_ns = self._count * 1000 if self._count % 7 else None
        self._shown.feed(Record(place, time_ns, data, direction, cut, "", self._count, 0))


class Lines(Target):
    """Records that are no messages: lines of recordings, frames, pieces of memory."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._seeds = seeds.records
        texts = [data for kind, data in seeds.records if kind == LINKTYPE_HCALL]
        self._text = Mutator(texts, TEXT_WORDS, TEXT)
        self._binary = Mutator([data for kind, data in seeds.records if kind != LINKTYPE_HCALL])
        self._shown = Shown()

    def make(self, random: Random) -> bytes:
        kind, data = random.choice(self._seeds)
        if random.random() < 0.02:
            kind = random.choice((LINKTYPE_ENVELOPE, LINKTYPE_HCALL, 1, 149, 252, 65535))
        mutator = self._text if kind == LINKTYPE_HCALL else self._binary
        return kind.to_bytes(2, "big") + mutator.damage(random, data)

    def run(self, data: bytes) -> None:
        kind = int.from_bytes(data[:2], "big")
        record = Record(Interface("lpar1/x", kind), 5, data[2:], number=1)
        self._shown.feed(record)
        call_of(record)


class Filters(Target):
    """Expressions; one that is read must say yes or no of any record.  And rules of ``pvnet replay --expect``."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.filters, FILTER_WORDS, TEXT)
        self._rules = Mutator(RULES, (b"[same]", b"ignore", b"exact", b"= ", b"[]", b"[[", b"\n", b"0x", b"'''"), TEXT)
        records = [Record(Interface("lpar1/crq"), 10**9, data, number=1) for data in seeds.envelopes[::9]]
        self._decoded = [decode(record) for record in records[:24]]

    def make(self, random: Random) -> bytes:
        return b"R" + self._rules.make(random) if random.random() < 0.05 else b"F" + self._mutator.make(random)

    def run(self, data: bytes) -> None:
        text = data[1:].decode(errors="surrogateescape" if len(data) % 2 else "replace")
        try:
            if data[:1] == b"R":
                Rules.parse(text, "rules")
                return
            wanted = Filter.parse(text)
        except ConfigError:
            self.refused += 1
            return
        for decoded in self._decoded:
            assert wanted.matches(decoded) in (True, False)
