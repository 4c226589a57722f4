"""The label area: bytes that ndctl and libnvdimm wrote decode, verify and come back identically."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.capture.hcall_trace import TraceCall, read_hcall_trace
from pvnet.core.errors import LocalError, WireError
from pvnet.papr.hcall import HcallOpcode
from pvnet.scm import labels
from pvnet.scm.labels import (
    LabelScan,
    blank_area,
    decode_area,
    decode_index,
    decode_label,
    encode_area,
    fletcher64,
    index_problems,
    index_size,
    new_label,
    next_index,
    slot_count,
)

VECTORS = Path(__file__).parents[1] / "vectors"
AREA = 0x20000
DRC = 0x90000001
SOME = UUID("72511b67-0b3b-42fd-9f84-0a1b2c3d4e5f")


def recorded_area(file: str, drc: int, upto: int | None = None) -> bytes:
    """The area of one device as the recorded writes left it."""
    area = bytearray(AREA)
    for record in read_hcall_trace(VECTORS / file).records:
        if not isinstance(record, TraceCall) or (upto is not None and record.n > upto):
            continue
        if record.opcode == HcallOpcode.H_SCM_WRITE_METADATA and record.args[0] == drc:
            _, offset, data, length = record.args
            area[offset : offset + length] = data.to_bytes(length, "big")
    return bytes(area)


NDCTL = recorded_area("linux-6.1-scm-labels-init.jsonl", DRC)


def test_area_written_by_ndctl_decodes_and_verifies() -> None:
    area = decode_area(NDCTL)
    assert area.is_sound
    assert not area.is_blank
    assert (area.label_size, area.current, area.labels) == (128, 0, ())
    index = area.index
    assert index is not None
    assert (index.major, index.minor, index.slots, index.free_slots()) == (1, 1, 1020, 1020)
    assert [(v.index.sequence, v.index.my_offset, v.index.other_offset) for v in area.indexes if v.index] == [
        (3, 0, 256),
        (2, 256, 0),
    ]
    assert (index.my_size, index.label_offset, index.checksum) == (256, 512, 0xEB634621D7313E0A)


def test_area_written_by_ndctl_round_trips_identically() -> None:
    area = decode_area(NDCTL)
    assert encode_area(area, NDCTL) == NDCTL
    assert encode_area(area, bytes(AREA)) == NDCTL


def test_what_ndctl_read_back_is_what_it_wrote() -> None:
    trace = read_hcall_trace(VECTORS / "linux-6.1-scm-labels-init.jsonl")
    reads = [r for r in trace.records if isinstance(r, TraceCall) and r.n > 258]
    assert len(reads) == 128
    for read in reads:
        offset, length = read.args[1:]
        assert int.from_bytes(NDCTL[offset : offset + length], "big") == read.after[4]


def test_our_initialised_area_is_the_one_of_ndctl() -> None:
    assert blank_area(AREA) == NDCTL


def test_half_written_area_has_the_first_block_in_force() -> None:
    """The first of ndctl's two passes: index block 1 is still zero."""
    area = decode_area(recorded_area("linux-6.1-scm-labels-init.jsonl", DRC, upto=194))
    assert area.current == 0
    assert area.indexes[1].index is None
    assert not area.is_sound


def test_blank_area() -> None:
    area = decode_area(bytes(AREA))
    assert area.is_blank
    assert area.index is None
    assert "NAMESPACE_INDEX" in area.indexes[0].problems[0]
    assert encode_area(area, bytes(AREA)) == bytes(AREA)
    with pytest.raises(LocalError, match="initialise"):
        next_index(area)


@pytest.mark.parametrize("label_size", [128, 256])
def test_update_goes_to_the_other_block(label_size: int) -> None:
    raw = bytearray(blank_area(AREA, label_size))
    for step, expected in enumerate([(1, 1), (0, 2), (1, 3), (0, 1)]):
        area = decode_area(bytes(raw))
        label = new_label(step, SOME, f"ns {step}", step << 24, 1 << 24, label_size=label_size)
        assert label.size == label_size
        index = next_index(area, use=(step,))
        at = index.label_offset + step * label_size
        raw[at : at + label_size] = label.encode()
        raw[index.my_offset : index.my_offset + index.my_size] = index.encode()
        area = decode_area(bytes(raw))
        assert area.is_sound
        assert area.index is not None
        assert (area.current, area.index.sequence) == expected
        assert [(used.slot, used.label.text_name) for used in area.labels] == [(n, f"ns {n}") for n in range(step + 1)]
        assert encode_area(area, bytes(raw)) == bytes(raw)
    area = decode_area(bytes(raw))
    freed = next_index(area, free=(0,))
    assert freed.free_slots() == freed.slots - 3
    with pytest.raises(LocalError, match="slot 9999"):
        freed.with_slot(9999, free=True)


def test_label_of_v1_2_has_guids_and_a_sum() -> None:
    label = new_label(3, SOME, "data", 0, 1 << 28, label_size=256)
    label = replace(label, flags=0x5, tail=b"\x15" + label.tail[1:4] + SOME.bytes_le * 2 + label.tail[36:]).sealed()
    again = decode_label(label.encode())
    assert again == label
    assert (again.type_guid, again.abstraction_guid, again.flag_names) == (SOME, SOME, ("read-only", "btt"))
    assert again.problems(3) == ()
    assert again.problems(4) == ("slot number 3: expected 4",)
    assert "checksum" in replace(again, dpa=5).problems(3)[0]
    old = new_label(0, SOME, "x", 0, 1)
    assert (old.type_guid, old.abstraction_guid, old.checksum) == (None, None, None)


def test_label_that_cannot_be() -> None:
    with pytest.raises(LocalError, match="63 bytes"):
        new_label(0, SOME, "é" * 32, 0, 1)
    with pytest.raises(LocalError):
        new_label(0, SOME, "x", 0, 1, label_size=512)
    with pytest.raises(WireError, match="128 or 256"):
        decode_label(bytes(127))


def test_bad_label_is_reported_and_kept() -> None:
    raw = bytearray(blank_area(AREA, 256))
    area = decode_area(bytes(raw))
    index = next_index(area, use=(7,))
    raw[index.my_offset : index.my_offset + index.my_size] = index.encode()
    area = decode_area(bytes(raw))
    assert [used.slot for used in area.labels] == [7]
    assert area.labels[0].problems[0] == "slot number 0: expected 7"
    assert not area.is_sound


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"minor": 2, "label_size_code": 1}, "label size 256"),
        ({"minor": 2, "label_size_code": 255}, "label size 4294967296"),
        ({"sequence": 4}, "sequence 4"),
        ({"my_offset": 512}, "own offset 0x200"),
        ({"other_offset": 0}, "other offset 0x0"),
        ({"label_offset": 1024}, "label offset 0x400"),
        ({"my_size": 71}, "own size 71"),
        ({"my_size": 512}, "own size 512"),
        ({"slots": 1021}, "1021 slots"),
    ],
)
def test_each_check_of_an_index_block(change: dict[str, int], problem: str) -> None:
    good = decode_index(NDCTL[:256])
    assert index_problems(good, 0, AREA, 128) == ()
    bad = replace(good, **change).sealed()  # type: ignore[arg-type]
    assert [text for text in index_problems(bad, 0, AREA, 128) if problem in text]
    raw = bad.encode() + NDCTL[256:]
    area = decode_area(raw)
    assert area.current == 1
    assert not area.indexes[0].is_valid


@given(at=st.integers(0, 511), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_index_blocks_is_noticed(at: int, bit: int) -> None:
    raw = bytearray(NDCTL)
    raw[at] ^= 1 << bit
    area = decode_area(bytes(raw))
    assert not area.indexes[at // 256].is_valid
    assert area.current == 1 - at // 256


@given(
    st.lists(st.binary(min_size=16, max_size=400), min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from([128, 256]),
)
def test_no_bytes_raise(pieces: list[bytes], spread: int, label_size: int) -> None:
    raw = bytearray(blank_area(4096, label_size))
    for number, piece in enumerate(pieces):
        at = number * 97 * (spread + 1)
        raw[at : at + len(piece)] = piece
    raw = raw[:4096]
    area = decode_area(bytes(raw))
    assert encode_area(area, bytes(raw)) == bytes(raw)


def test_block_sequence_wins_by_following() -> None:
    def current(first: int, second: int) -> int | None:
        raw = bytearray(NDCTL)
        for number, sequence in ((0, first), (1, second)):
            block = replace(decode_index(NDCTL[number * 256 : number * 256 + 256]), sequence=sequence).sealed()
            raw[number * 256 : number * 256 + 256] = block.encode()
        return decode_area(bytes(raw)).current

    pairs = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert [current(*pair) for pair in pairs] == [1, 1, 0, 0, 1, 1, 1, 0, 1]


def test_sizes() -> None:
    assert (slot_count(AREA, 128), index_size(AREA, 128)) == (1020, 256)
    assert (slot_count(0x40000, 128), index_size(0x40000, 128)) == (2040, 512)
    assert (slot_count(AREA, 256), index_size(AREA, 256)) == (510, 256)
    assert (slot_count(100, 128), index_size(100, 128)) == (0, 0)
    assert index_size(512 + 128, 128) == 0
    assert decode_area(blank_area(512 + 256)).index is not None
    for tiny in (0, 71, 512, 767):
        with pytest.raises(LocalError):
            blank_area(tiny)
        with pytest.raises(WireError, match="room for two index blocks"):
            decode_area(bytes(tiny))
    with pytest.raises(WireError, match="at least 72"):
        decode_index(bytes(71))


def test_fletcher64() -> None:
    assert fletcher64(bytes(8)) == 0
    assert fletcher64(b"\x01\0\0\0\x02\0\0\0") == (1 + 3) << 32 | 3
    assert fletcher64(b"\xff" * 8) == ((0xFFFFFFFF + 0xFFFFFFFE) & 0xFFFFFFFF) << 32 | 0xFFFFFFFE
    with pytest.raises(LocalError):
        fletcher64(b"abc")


def _scan(raw: bytes, transfer: int) -> tuple[LabelScan, list[tuple[int, int]]]:
    scan, reads = LabelScan(len(raw), transfer), []
    while (wanted := scan.wanted()) is not None:
        reads.append(wanted)
        scan.feed(raw[wanted[0] : wanted[0] + wanted[1]])
    return scan, reads


def test_probe_reads_the_index_blocks_only_when_there_are_no_labels() -> None:
    for raw in (bytes(AREA), NDCTL):
        scan, reads = _scan(raw, 8)
        assert reads == [(0, 512)]
        assert bytes(scan.area) == raw
    assert scan.current == 0


@pytest.mark.parametrize(
    ("slots", "transfer", "expected"),
    [
        ((0, 1), 8, [(0, 512), (512, 128), (640, 128)]),
        ((5,), 8, [(0, 512), (512 + 5 * 128, 128)]),
        ((0, 1, 9), 512, [(0, 512), (512, 512), (512 + 9 * 128, 512)]),
        ((1019,), 512, [(0, 512), (AREA - 128, 128)]),
    ],
)
def test_probe_reads_labels_in_use(slots: tuple[int, ...], transfer: int, expected: list[tuple[int, int]]) -> None:
    raw = bytearray(NDCTL)
    index = next_index(decode_area(NDCTL), use=slots)
    raw[index.my_offset : index.my_offset + index.my_size] = index.encode()
    _, reads = _scan(bytes(raw), transfer)
    assert reads == expected


def test_scan_of_nothing_and_of_wrong_bytes() -> None:
    scan = LabelScan(100, 8)
    assert scan.wanted() is None
    with pytest.raises(LocalError):
        scan.feed(b"")
    with pytest.raises(LocalError):
        LabelScan(AREA, 8).feed(b"short")
    assert labels.SIGNATURE == b"NAMESPACE_INDEX\0"
