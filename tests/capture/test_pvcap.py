"""Capture files: what is written is read, by us and by others; broken ones are read as far as they go."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import tracemalloc
from contextlib import suppress

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture import pcapng
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_MEMORY, CaptureInfo, Direction, Interface, Record
from pvnet.capture.pvcap import (
    CUSTOM_MAGIC,
    ENTERPRISE,
    CaptureIndex,
    CaptureReader,
    CaptureWriter,
    create_capture,
    make_info,
    open_capture,
    schema_bytes,
)
from pvnet.core.errors import ConfigError, LocalError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope

CRQ = Interface("lpar2/crq", description="messages")
FRAMES = Interface("bridge/net0", LINKTYPE_ETHERNET)
INFO = CaptureInfo("app", "hw", "os", '{"lab": {}}', b"schema")


def written(records: list[Record], info: CaptureInfo = INFO) -> bytes:
    stream = io.BytesIO()
    writer = CaptureWriter(stream.write, info)
    for record in records:
        writer.copy(record)
    return stream.getvalue()


def reader_of(data: bytes) -> CaptureReader:
    return CaptureReader(io.BytesIO(data))


def bare(record: Record) -> tuple[object, ...]:
    """What a record is, apart from its place in a file."""
    return (
        record.interface,
        record.time_ns,
        record.data,
        record.direction,
        record.is_cut and record.original_bytes,
        record.comment,
    )


def test_golden_bytes():
    blocks: list[bytes] = []
    writer = CaptureWriter(blocks.append, CaptureInfo(application="a", topology="{}"))
    writer.record(Interface("n/c", 147, "d"), 0x0000000100000002, b"abcde", direction=Direction.OUT, comment="hi")
    writer.record(Interface("n/c", 147, "d"), None, b"", original_bytes=9)
    writer.statistics({"n/c": 3}, {"n/c": 1})
    section = "0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffff ffffffff 04000100 61000000 00000000 28000000"
    topology = "ad0b0000 24000000 d97e0000 70766e65 74000001 01000000 02000000 7b7d0000 24000000"
    n_c = "01000000 30000000 93000000 00000000 02000300 6e2f6300 03000100 64000000 09000100 09000000 00000000 30000000"
    outbound = "06000000 3c000000 00000000 01000000 02000000 05000000 05000000 61626364 65000000"
    hi = "02000400 02000000 01000200 68690000 00000000 3c000000"
    cut = "06000000 34000000 00000000 00000000 00000000 00000000 09000000"
    no_time = "ad0b0b00 d97e0000 6e6f2074 696d6500 00000000 34000000"
    statistics = "05000000 34000000 00000000 01000000 02000000"
    counts = "04000800 03000000 00000000 05000800 01000000 00000000 00000000 34000000"
    assert [block.hex(" ", -4) for block in blocks] == [
        f"{section} {topology}",
        n_c,
        f"{outbound} {hi}",
        f"{cut} {no_time}",
        f"{statistics} {counts}",
    ]


interfaces = st.builds(
    Interface, st.sampled_from(["a/b", "lpar1/crq", "ü", ""]), st.integers(0, 0xFFFF), st.sampled_from(["", "text"])
)
records = st.builds(
    Record,
    interfaces,
    st.none() | st.integers(0, 2**64 - 1),
    st.binary(max_size=70),
    st.sampled_from(Direction),
    st.sampled_from([0, 71, 1 << 20]),
    st.text(max_size=20).filter(lambda text: "\0" not in text and text.isprintable()),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(records, max_size=12))
def test_what_is_written_is_read(given_records):
    reader = reader_of(written(given_records))
    got = list(reader)
    assert list(map(bare, got)) == list(map(bare, given_records))
    assert [record.number for record in got] == list(range(1, len(got) + 1))
    assert reader.is_whole
    assert reader.info == INFO


def some(count: int, size: int = 20) -> list[Record]:
    """Records of two interfaces, at 1 s, 1 s + 1 ns ..."""
    return [
        Record((CRQ, FRAMES)[n % 2], 10**9 + n, bytes([n & 255]) * size, Direction(n % 3), comment="c" * (n % 4))
        for n in range(count)
    ]


def test_a_file_cut_anywhere_keeps_its_whole_records():
    data = written(some(6))
    whole = list(reader_of(data))
    ends = [record.offset + int.from_bytes(data[record.offset + 4 :][:4], "little") for record in whole]
    for cut in range(1, len(data)):
        try:
            reader = reader_of(data[:cut])
        except WireError:
            assert cut < int.from_bytes(data[4:8], "little"), "only without a whole section is it no capture at all"
            continue
        got = list(reader)
        expected = sum(end <= cut for end in ends)
        assert got == whole[:expected]
        if reader.problems:
            assert cut not in ends
            assert "offset" in reader.problems[0]
    assert reader_of(b"").info == CaptureInfo()


def test_sections_of_several_writers_and_statistics_that_add_up():
    stream = io.BytesIO()
    for first in (True, False):
        writer = CaptureWriter(stream.write, INFO if first else CaptureInfo(application="second"))
        writer.record(CRQ, 5, b"x")
        writer.statistics({CRQ.name: 1}, {CRQ.name: 0})
        writer.statistics({CRQ.name: 7, "never/seen": 0}, {CRQ.name: 2, "dropped/only": 4})
    reader = reader_of(stream.getvalue())
    assert len(list(reader)) == 2
    assert reader.info.application == "app"
    assert reader.info.received == {CRQ.name: 14, "never/seen": 0}
    assert reader.info.dropped == {CRQ.name: 4, "dropped/only": 8}
    assert [i.name for i in reader.interfaces()] == [CRQ.name, "never/seen", "dropped/only"]
    assert len(reader.sections) == 2


def test_the_schema_explains_an_envelope():
    files = FileDescriptorSet.FromString(schema_bytes())
    names = [file.name for file in files.file]
    assert names[-1] == "pvnet/pb/v1/envelope.proto"
    seen: set[str] = set()
    for file in files.file:
        assert set(file.dependency) <= seen, "each after those it needs"
        seen.add(file.name)
    info = make_info("{}")
    assert info.schema
    assert info.hardware
    assert info.os
    assert info.application.startswith("pvnet ")


def test_an_envelope_comes_back_and_a_cut_one_does_not():
    message = Envelope(schema=1, source="a")
    first, second, third = reader_of(
        written(
            [
                Record(CRQ, 1, message.SerializeToString()),
                Record(CRQ, 1, message.SerializeToString()[:2], original_bytes=5),
                Record(FRAMES, 1, b"frame"),
            ]
        )
    )
    assert first.envelope() == message
    assert second.envelope() is None
    assert second.is_cut
    assert third.envelope() is None


# --- files of others, and broken ones --------------------------------------------------------------------------------


def big(kind: int, body: bytes) -> bytes:
    length = struct.pack(">I", len(body) + 12)
    return struct.pack(">I", kind) + length + body + length


BIG = big(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)) + big(
    1, struct.pack(">HHI", 149, 0, 0) + struct.pack(">HH4s", 2, 3, b"n/m\0") + struct.pack(">HHI", 9, 1, 9 << 24)
)


def test_big_endian_files_with_flags_comments_and_our_custom_blocks():
    custom = struct.pack(">I8sII", ENTERPRISE, CUSTOM_MAGIC, 1, 4) + b"topo"
    head = struct.pack(">IIIII", 0, 0, 77, 3, 3) + b"abc\0"
    options = struct.pack(">HHI", 2, 4, 1) + struct.pack(">HH4s", 1, 3, b"one\0") + struct.pack(">HH4s", 1, 3, b"two\0")
    none = struct.pack(">HHI7sx", 2989, 11, ENTERPRISE, b"no time")
    statistics = struct.pack(">III", 0, 0, 0) + struct.pack(">HHQ", 5, 8, 9) + struct.pack(">HHI", 4, 4, 1)
    reader = reader_of(
        BIG + big(0xBAD, custom) + big(6, head + options) + big(6, head + none) + big(5, statistics) + big(4, b"")
    )
    first, second = list(reader)
    assert bare(first) == (Interface("n/m", LINKTYPE_MEMORY), 77, b"abc", Direction.IN, False, "one\ntwo")
    assert second.time_ns is None
    assert reader.info.topology == "topo"
    assert reader.info.dropped == {"n/m": 9}
    assert reader.info.received == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack("<I8sII", ENTERPRISE + 1, CUSTOM_MAGIC, 1, 1) + b"x\0\0\0",
        struct.pack("<I8sII", ENTERPRISE, b"pvnet\0\0\2", 1, 1) + b"x\0\0\0",
        struct.pack("<I8sII", ENTERPRISE, CUSTOM_MAGIC, 3, 1) + b"x\0\0\0",
        struct.pack("<I8sII", ENTERPRISE, CUSTOM_MAGIC, 1, 0xFFFFFFFF) + b"x\0\0\0",
    ],
)
def test_custom_blocks_that_are_not_ours_or_do_not_fit_are_passed_over(body):
    reader = reader_of(written([], CaptureInfo()) + pcapng.block(pcapng.CUSTOM_BLOCK, body) + written(some(1)))
    assert len(list(reader)) == 1
    assert reader.is_whole
    assert reader.info == CaptureInfo(topology=INFO.topology, schema=INFO.schema)


START = written(some(2))
ENDLESS = struct.pack("<HH", 99, 0) * 5000


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"\6\0\0\0\xfc\xff\xff\xff", "block of 4294967292 bytes"),
        (b"\6\0\0\0\x0b\0\0\0", "block of 11 bytes"),
        (b"\6\0\0\0\x10\0\0\0abcd\0\0\0\0", "lengths before and after"),
        (pcapng.block(6, bytes(16)), "cut short"),
        (pcapng.block(6, struct.pack("<5I", 9, 0, 0, 0, 0)), "interface 9"),
        (pcapng.block(6, struct.pack("<5I", 0, 0, 0, 9, 9)), "packet of 9 bytes"),
        (pcapng.block(6, struct.pack("<5I", 0, 0, 0, 0, 0) + ENDLESS), "endless list of options"),
        (pcapng.block(6, struct.pack("<5IHH", 0, 0, 0, 0, 0, 1, 60000)), "option is cut short"),
        (pcapng.block(1, struct.pack("<HHI", 1, 0, 0) + ENDLESS), "endless list of options"),
        (pcapng.block(5, bytes(8)), "cut short"),
        (pcapng.block(5, struct.pack("<III", 7, 0, 0)), "interface 7"),
        (pcapng.block(3, b""), "cut short"),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0abcd", "byte-order"),
    ],
)
def test_what_was_read_before_the_damage_is_kept(tail, words):
    reader = reader_of(START + tail + written(some(5)))
    assert len(list(reader)) == 2
    (problem,) = reader.problems
    assert words in problem
    assert "offset" in problem
    assert next(reader, None) is None
    assert len(reader.problems) == 1


def test_a_section_without_its_fields_is_a_problem():
    block = struct.pack("<IIIII", 0x0A0D0D0A, 20, 0x1A2B3C4D, 0, 20)
    reader = reader_of(block + written(some(1)))
    assert list(reader) == []
    assert "section block is cut short" in reader.problems[0]


def test_too_many_interfaces_end_the_reading(monkeypatch):
    monkeypatch.setattr(pcapng, "MOST_INTERFACES", 1)
    reader = reader_of(written(some(2)))
    assert len(list(reader)) == 1
    assert "at most 1 in a section" in reader.problems[0]


def test_a_disk_that_fails_is_a_problem_too():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 900:
                raise OSError(5, "Input/output error")
            return super().read(size)

    reader = CaptureReader(Failing(written(some(50), CaptureInfo())))
    assert 1 <= len(list(reader)) < 50
    assert "Input/output error" in reader.problems[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello, world", "not a pcapng file"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20), "classic pcap"),
        (b"\x0a\x0d", "cut short"),
    ],
)
def test_what_is_no_capture_is_refused(tmp_path, data, words):
    with pytest.raises(WireError, match=words):
        reader_of(data)
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=words), open_capture(file):
        pass


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/", "a\0b"])
def test_files_that_cannot_be_opened(path):
    with pytest.raises(ConfigError, match="capture file"), open_capture(path):
        pass
    with pytest.raises(ConfigError, match="capture file"), create_capture(path):
        pass


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 2000))
def test_noise_ends_reading_but_never_raises(noise, at):
    with suppress(WireError):
        list(reader_of(START[:at] + noise + START[at + len(noise) :]))


def test_texts_that_are_too_long_are_cut_at_a_character():
    (record,) = reader_of(written([Record(CRQ, 1, b"", comment="ä" * 40000)]))
    assert record.comment == "ä" * 32767
    assert record.time_ns == 1


# --- seeking, size ---------------------------------------------------------------------------------------------------


@pytest.fixture
def long_file(tmp_path):
    """1000 records, in two sections of which the second has its interfaces the other way round."""
    file = tmp_path / "long.pvcap.pcapng"
    first, second = (
        some(500),
        [Record((FRAMES, CRQ)[n % 2], 2 * 10**9 + n, b"second", comment=str(n)) for n in range(500)],
    )
    file.write_bytes(written(first) + written(second))
    return file


@pytest.mark.parametrize("every", [1, 7, 100, 10000])
def test_an_index_seeks_by_number_and_time(long_file, every):
    with open_capture(long_file) as reader:
        whole = list(reader)
    index = CaptureIndex.build(long_file, every)
    assert (index.records, index.first_ns, index.last_ns) == (1000, 10**9, 2 * 10**9 + 499)
    assert index.info.topology == INFO.topology
    with open_capture(long_file) as reader:
        for number in (1000, 1, 499, 500, 501, 502, 777):
            index.seek_number(reader, number)
            assert [next(reader), next(reader, None)] == [*whole, None][number - 1 : number + 1]
        for time_ns, number in ((0, 1), (10**9 + 3, 4), (10**9 + 600, 501), (2 * 10**9 + 9, 510)):
            index.seek_time(reader, time_ns)
            assert next(reader) == whole[number - 1]
        index.seek_time(reader, 3 * 10**9)
        assert next(reader, None) is None
        index.seek_number(reader, 1001)
        assert next(reader, None) is None


def test_skipping_forward_to_an_offset(long_file):
    with open_capture(long_file) as reader:
        whole = list(reader)
    with open_capture(long_file) as reader:
        reader.skip_to(0)
        assert next(reader) == whole[0]
        reader.skip_to(whole[700].offset - 1)
        reader.skip_to(whole[700].offset)
        assert list(reader) == whole[700:]
        reader.skip_to(1 << 40)
        assert next(reader, None) is None


def test_an_index_of_an_empty_capture_and_a_silly_one(tmp_path):
    file = tmp_path / "x"
    with create_capture(file):
        pass
    index = CaptureIndex.build(file)
    with open_capture(file) as reader:
        index.seek_time(reader, 5)
        index.seek_number(reader, 5)
        assert next(reader, None) is None
    assert (index.records, index.first_ns) == (0, None)
    with pytest.raises(LocalError):
        CaptureIndex.build(file, 0)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """20 MB are written and read in less than 1 MB."""
    file = tmp_path / "big"
    tracemalloc.start()
    try:
        with create_capture(file) as writer:
            for n in range(2500):
                writer.record(CRQ, n, bytes(8000), direction=Direction.IN)
        with open_capture(file) as reader:
            assert sum(1 for _ in reader) == 2500
        assert CaptureIndex.build(file, 100).records == 2500
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- others ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("tshark", "capinfos")
def test_tshark_and_capinfos_read_the_same(tmp_path):
    file = tmp_path / "ours.pvcap.pcapng"
    crq, frames = Interface("lpar2/crq", description="what it is"), Interface("bridge/net0", LINKTYPE_ETHERNET)
    with create_capture(file, make_info('{"lab": {}}')) as writer:
        for n in range(9):
            writer.record(
                (crq, frames)[n % 2],
                1_700_000_000_123_456_789 + n,
                bytes(12) + b"\x88\xb5" + bytes(46),
                direction=(Direction.IN, Direction.OUT)[n % 2],
                comment=f"mark {n}",
            )
        writer.statistics({crq.name: 5, frames.name: 4}, {crq.name: 0, frames.name: 11})
    names = ["frame.time_epoch", "frame.interface_name", "frame.comment", "frame.packet_flags_direction"]
    command = ["tshark", "-n", "-r", str(file), "-T", "json", "-Y", "frame.interface_name"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(shown) == 9
    command = ["tshark", "-n", "-r", str(file), "-Y", "frame.interface_name", "-T", "fields"]
    command += [part for name in names for part in ("-e", name)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[3].split("\t")[:3] == ["1700000000.123456792", "bridge/net0", "mark 3"]
    flags = [int(line.split("\t")[3], 0) for line in lines]
    assert flags == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    said = subprocess.run(["capinfos", "-M", str(file)], capture_output=True, text=True, check=True).stdout
    for words in ("what it is", "Number of packets:   9", "nanoseconds (9)", "pvnet "):
        assert words in said


@pytest.mark.needs("tshark")
def test_what_tshark_writes_we_read(tmp_path):
    ours, theirs = tmp_path / "ours.pcapng", tmp_path / "theirs.pcapng"
    ours.write_bytes(written(some(9, 60), CaptureInfo()))
    subprocess.run(
        ["tshark", "-n", "-r", str(ours), "-w", str(theirs), "-F", "pcapng"], capture_output=True, check=True
    )
    with open_capture(theirs) as reader:
        assert list(map(bare, reader)) == list(map(bare, some(9, 60)))


@pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")
def test_python_pcapng_reads_the_same_blocks():
    scanner = pytest.importorskip("pcapng").FileScanner if _has_python_pcapng() else None
    if scanner is None:
        pytest.skip("python-pcapng is not installed")
    packets = [b for b in scanner(io.BytesIO(written(some(5)))) if type(b).__name__ == "EnhancedPacket"]
    assert [p.packet_data for p in packets] == [r.data for r in some(5)]


def _has_python_pcapng() -> bool:
    from importlib.util import find_spec

    return find_spec("pcapng") is not None
