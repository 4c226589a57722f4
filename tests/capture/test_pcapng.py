"""pcapng files: what we write others read, what others write we read, and broken ones say where."""

from __future__ import annotations

import io
import json
import struct
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.pcapng import CapturedFrame, PcapngWriter, read_pcapng
from pvnet.core.errors import WireError


def written(frames: list[tuple[int, int, bytes]], interfaces: tuple[str, ...] = ("switch",)) -> bytes:
    stream = io.BytesIO()
    writer = PcapngWriter(stream.write)
    numbers = [writer.interface(name) for name in interfaces]
    for interface, at, frame in frames:
        writer.packet(numbers[interface], at, frame)
    return stream.getvalue()


def read(data: bytes) -> list[CapturedFrame]:
    return list(read_pcapng(io.BytesIO(data)))


def test_golden_packet_block():
    block = written([(0, 0x0000000100000002, b"abcde")])[-40:]
    assert (
        block.hex(" ", 4) == "06000000 28000000 00000000 01000000 02000000 05000000 05000000 61626364 65000000 28000000"
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**63), st.binary(max_size=200))))
def test_what_is_written_is_read(frames):
    names = ("one", "zwei ü", "")
    got = read(written(frames, names))
    assert got == [CapturedFrame(names[number], 1, at, data, len(data)) for number, at, data in frames]


def test_every_write_is_of_whole_blocks():
    writes: list[bytes] = []
    writer = PcapngWriter(writes.append)
    writer.packet(writer.interface("x"), 1, b"abc")
    assert [len(one) for one in writes] == [int.from_bytes(one[4:8], "little") for one in writes]


def block(order: str, kind: int, body: bytes) -> bytes:
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", link_type: int = 1, snap: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link_type, 0, snap) + options)


def packet(order: str, ticks: int, data: bytes, number: int = 0, original: int | None = None) -> bytes:
    size = len(data) if original is None else original
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), size)
    return block(order, 6, head + data + bytes(-len(data) % 4))


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("options", "ticks", "nanoseconds"),
    [
        ([], 5, 5000),
        ([(9, b"\x09")], 5, 5),
        ([(9, b"\x06")], 5, 5000),
        ([(9, b"\x00")], 5, 5_000_000_000),
        ([(9, b"\x8a")], 1024, 1_000_000_000),
        ([(9, b"\x12")], 10**18, 1_000_000_000),
        ([(99, b"abc"), (9, b"\x09")], 7, 7),
        ([(0, b""), (9, b"\x09")], 7, 7000),
        ([(9, b"\x09\x09")], 7, 7000),
    ],
)
def test_times_of_any_resolution_in_both_byte_orders(order, options, ticks, nanoseconds):
    data = section(order) + interface(order, options=b"".join(option(order, *one) for one in options))
    (frame,) = read(data + packet(order, ticks, b"x"))
    assert frame.timestamp_ns == nanoseconds


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_offset_of_times_is_added(order):
    options = option(order, 9, b"\x09") + option(order, 14, struct.pack(order + "q", 1_700_000_000))
    (frame,) = read(section(order) + interface(order, options=options) + packet(order, 5, b"x"))
    assert frame.timestamp_ns == 1_700_000_000_000_000_005


def test_sections_names_cut_packets_simple_packets_and_unknown_blocks():
    data = (
        section()
        + interface(options=option("<", 2, b"eth0"))
        + block("<", 0xBAD, b"1234")
        + packet("<", 1, b"one", original=9)
    )
    data += block("<", 3, struct.pack("<I", 3) + b"two\0") + interface(link_type=9) + packet("<", 1, b"3", number=1)
    data += section(">") + interface(">", snap=2) + block(">", 3, struct.pack(">I", 9) + b"four")
    assert read(data) == [
        CapturedFrame("eth0", 1, 1000, b"one", 9),
        CapturedFrame("eth0", 1, None, b"two", 3),
        CapturedFrame("interface 1", 9, 1000, b"3", 1),
        CapturedFrame("interface 0", 1, None, b"fo", 9),
    ]


def test_an_empty_file_has_no_packets():
    assert read(b"") == []


START = section() + interface()


@pytest.mark.parametrize(
    ("data", "offset", "words"),
    [
        (b"\xd4\xc3\xb2\xa1" + bytes(20), 0, "not a pcapng file"),
        (b"\x0a\x0d", 0, "cut short"),
        (section()[:8] + b"ABCD" + section()[12:], 8, "byte-order"),
        (section()[:10], 8, "byte-order"),
        (START + packet("<", 1, b"one")[:-1], len(START) + 8, "cut short"),
        (START + packet("<", 1, b"one")[:-4] + b"\0\0\0\1", len(START) + 32, "differ"),
        (START + b"\6\0\0\0\x0b\0\0\0", len(START) + 4, "block of 11 bytes"),
        (START + b"\6\0\0\0\xff\xff\xff\xff", len(START) + 4, "block of 4294967295 bytes"),
        (b"\x0a\x0d\x0d\x0a\x0c\0\0\0\x4d\x3c\x2b\x1a", 4, "block of 12 bytes"),
        (START + packet("<", 1, b"one", number=1), len(START), "packet of interface 1"),
        (section() + block("<", 3, bytes(4)), len(section()), "packet of interface 0"),
        (START + block("<", 6, bytes(16)), len(START), "cut short"),
        (START + block("<", 3, b""), len(START), "cut short"),
        (section() + block("<", 1, bytes(4)), len(section()), "cut short"),
        (START + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 5, 5) + bytes(4)), len(START), "packet of 5 bytes"),
        (section() + interface(options=b"\2\0\x09\0abcd"), len(section()), "option is cut short"),
    ],
)
def test_a_broken_file_says_where(data, offset, words):
    with pytest.raises(WireError, match=words) as caught:
        read(data)
    assert caught.value.offset == offset


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_noise_is_read_or_refused(noise, at):
    good = written([(0, 1, b"frame"), (0, 2, b"frame")])
    with suppress(WireError):
        read(good[:at] + noise + good[at + len(noise) :])


@pytest.mark.needs("tshark")
def test_tshark_reads_the_same_frames_times_and_names(tmp_path):
    frames = [
        (number % 2, 1_700_000_000_123_456_789 + number, bytes(12) + b"\x88\xb5" + bytes([number]) * (46 + number))
        for number in range(9)
    ]
    file = tmp_path / "ours.pcapng"
    file.write_bytes(written(frames, ("alpha", "beta")))
    fields = ["frame.time_epoch", "frame.interface_name", "frame.len"]
    command = ["tshark", "-n", "-r", str(file), "-T", "json", "-x"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [bytes.fromhex(one["_source"]["layers"]["frame_raw"][0]) for one in shown] == [
        frame for _, _, frame in frames
    ]
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", *(part for field in fields for part in ("-e", field))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [
        f"1700000000.{123_456_789 + number}\t{('alpha', 'beta')[number % 2]}\t{60 + number}" for number in range(9)
    ]
    assert lines == expected


@pytest.mark.needs("tshark")
def test_what_tshark_writes_we_read(tmp_path):
    ours, theirs = tmp_path / "ours.pcapng", tmp_path / "theirs.pcapng"
    frames = [(0, 1_700_000_000_000_000_001 + number, bytes(60 + number)) for number in range(5)]
    ours.write_bytes(written(frames))
    subprocess.run(
        ["tshark", "-n", "-r", str(ours), "-w", str(theirs), "-F", "pcapng"], capture_output=True, check=True
    )
    with theirs.open("rb") as stream:
        assert [(frame.timestamp_ns, frame.data) for frame in read_pcapng(stream)] == [
            (at, one) for _, at, one in frames
        ]
