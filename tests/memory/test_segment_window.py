"""Segments and windows against a naive model of the table, page by page."""

from __future__ import annotations

import itertools
import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import MemoryFault, Segment
from pvnet.memory.window import (
    ACCESS_ANY,
    ACCESS_BOTH,
    ACCESS_READ,
    ACCESS_WRITE,
    PAGE_BYTES,
    DmaWindow,
    Refusal,
    Run,
)

PAGES = 6


def test_segment_reads_and_writes_inside_only() -> None:
    buffer = bytearray(16)
    segment = Segment(buffer)
    segment.write(4, b"abcd")
    assert buffer[4:8] == b"abcd"
    assert segment.read(3, 4) == b"\0abc"
    assert segment.read(16, 0) == b""
    for address, n in ((13, 4), (-1, 2), (17, 0), (0, -1)):
        with pytest.raises(MemoryFault):
            segment.read(address, n)
    with pytest.raises(MemoryFault):
        segment.write(14, b"xyz")
    assert buffer[14:] == b"\0\0"


def test_segment_over_a_mapping_shares_its_bytes() -> None:
    with mmap.mmap(-1, PAGE_BYTES) as mapping:
        segment = Segment(mapping)
        other = Segment(mapping)
        segment.write(0, b"hello")
        assert other.read(0, 5) == b"hello"
        assert segment.shares(other)
        assert not segment.shares(Segment(bytearray(1)))
        segment.view.release()
        other.view.release()
        # The cast's parents are released with the segments, else closing the mapping would fail.
        del segment, other


def test_segment_refuses_a_read_only_or_strided_buffer() -> None:
    with pytest.raises(LocalError):
        Segment(memoryview(b"abc"))
    with pytest.raises(LocalError):
        Segment(memoryview(bytearray(8))[::2])


def test_window_size_is_whole_pages() -> None:
    with pytest.raises(LocalError):
        DmaWindow(1, PAGE_BYTES + 1)
    with pytest.raises(LocalError):
        DmaWindow(1, -PAGE_BYTES)


def test_adjacent_pages_are_one_run() -> None:
    window = DmaWindow(1, 8 * PAGE_BYTES)
    assert window.map(0, 0x10000, 4 * PAGE_BYTES) is None
    assert window.map(4 * PAGE_BYTES, 0x50000, 2 * PAGE_BYTES) is None
    assert window.translate(10, 3 * PAGE_BYTES, ACCESS_READ) == (Run(0x1000A, 3 * PAGE_BYTES),)
    assert window.translate(3 * PAGE_BYTES, 2 * PAGE_BYTES, ACCESS_READ) == (
        Run(0x13000, PAGE_BYTES),
        Run(0x50000, PAGE_BYTES),
    )
    # A short translation first must not stop a later one from being merged.
    assert window.translate(0, 1, ACCESS_WRITE) == (Run(0x10000, 1),)
    assert window.translate(0, 2 * PAGE_BYTES, ACCESS_WRITE) == (Run(0x10000, 2 * PAGE_BYTES),)
    assert window.translate(0, 5 * PAGE_BYTES, ACCESS_WRITE) == (
        Run(0x10000, 4 * PAGE_BYTES),
        Run(0x50000, PAGE_BYTES),
    )


def test_a_changed_entry_is_seen_at_once() -> None:
    window = DmaWindow(1, 4 * PAGE_BYTES)
    window.map(0, 0, 4 * PAGE_BYTES)
    assert window.translate(0, 4 * PAGE_BYTES, ACCESS_BOTH) == (Run(0, 4 * PAGE_BYTES),)
    window.put(PAGE_BYTES, 0x9000 | ACCESS_READ)
    assert window.translate(0, 4 * PAGE_BYTES, ACCESS_BOTH) is Refusal.PERMISSION
    assert window.translate(0, 2 * PAGE_BYTES, ACCESS_READ) == (Run(0, PAGE_BYTES), Run(0x9000, PAGE_BYTES))
    window.clear()
    assert window.translate(0, 1, ACCESS_ANY) is Refusal.PERMISSION
    assert window.mapped_pages == 0


def test_refusals_are_values() -> None:
    window = DmaWindow(1, 2 * PAGE_BYTES)
    window.put(0, ACCESS_WRITE)
    assert window.translate(0, 1, ACCESS_WRITE) == (Run(0, 1),)
    assert window.translate(0, 1, ACCESS_READ) is Refusal.PERMISSION
    assert window.translate(0, 2 * PAGE_BYTES, ACCESS_WRITE) is Refusal.PERMISSION
    assert window.translate(0, 2 * PAGE_BYTES + 1, ACCESS_WRITE) is Refusal.RANGE
    assert window.translate(-1, 1, ACCESS_WRITE) is Refusal.RANGE
    assert window.translate(1, -1, ACCESS_WRITE) is Refusal.RANGE
    assert window.translate(2 * PAGE_BYTES, 0, ACCESS_WRITE) == ()
    assert window.put(2 * PAGE_BYTES, 3) is Refusal.RANGE
    assert window.get(2 * PAGE_BYTES) is Refusal.RANGE
    assert window.stuff(PAGE_BYTES, 3, 2) is Refusal.RANGE
    assert window.map(PAGE_BYTES, 0, PAGE_BYTES + 1) is Refusal.RANGE
    assert window.get(0) == ACCESS_WRITE
    with pytest.raises(LocalError):
        window.map(1, 0, 1)


def test_clearing_a_huge_window_costs_only_what_is_mapped() -> None:
    window = DmaWindow(1, 1 << 60)
    window.put(7 * PAGE_BYTES, 0x5003)
    window.put(1 << 50, 0x6003)
    assert window.stuff(0, 0, 1 << 30) is None
    assert window.get(7 * PAGE_BYTES) == 0
    assert window.get(1 << 50) == 0x6003
    window.put(0, 0x7003)
    assert window.stuff(0, 0, 1) is None
    assert (window.get(0), window.mapped_pages) == (0, 1)


tces = st.tuples(st.integers(0, PAGES), st.integers(0, 3)).map(lambda t: (t[0] << 12) | t[1])
changes = st.one_of(
    st.tuples(st.just("put"), st.integers(0, PAGES), st.lists(tces, min_size=1, max_size=3)),
    st.tuples(st.just("stuff"), st.integers(0, PAGES), tces, st.integers(0, PAGES)),
    st.tuples(
        st.just("look"),
        st.integers(0, PAGES * PAGE_BYTES),
        st.integers(0, 3 * PAGE_BYTES),
        st.sampled_from([ACCESS_ANY, ACCESS_READ, ACCESS_WRITE, ACCESS_BOTH]),
    ),
)


def naive_translate(table: list[int], ioba: int, length: int, access: int) -> list[int] | Refusal:
    """Byte by byte: the real address of each byte."""
    if ioba + length > PAGES * PAGE_BYTES:
        return Refusal.RANGE
    addresses = []
    for at in range(ioba, ioba + length):
        tce = table[at // PAGE_BYTES]
        if (access == ACCESS_ANY and not tce & 3) or tce & access != access:
            return Refusal.PERMISSION
        addresses.append((tce & ~0xFFF) + at % PAGE_BYTES)
    return addresses


@given(st.lists(changes, max_size=20))
def test_table_equals_a_naive_model(steps: list[tuple[object, ...]]) -> None:
    window = DmaWindow(1, PAGES * PAGE_BYTES)
    table = [0] * PAGES
    for step in steps:
        match step:
            case ("put", int(page), list(values)):
                refused = window.put_list(page * PAGE_BYTES + 5, tuple(values))
                assert (refused is Refusal.RANGE) == (page + len(values) > PAGES)
                if refused is None:
                    table[page : page + len(values)] = values
            case ("stuff", int(page), int(tce), int(count)):
                refused = window.stuff(page * PAGE_BYTES, tce, count)
                assert (refused is Refusal.RANGE) == (page + count > PAGES)
                if refused is None:
                    table[page : page + count] = [tce] * count
            case ("look", int(ioba), int(length), int(access)):
                expected = naive_translate(table, ioba, length, access)
                got = window.translate(ioba, length, access)
                if isinstance(expected, Refusal):
                    assert got is expected
                else:
                    assert not isinstance(got, Refusal)
                    assert [run.address + i for run in got for i in range(run.length)] == expected
                    for left, right in itertools.pairwise(got):
                        assert left.address + left.length != right.address, "adjacent runs are merged"
        assert [window.get(page * PAGE_BYTES) for page in range(PAGES)] == table


def test_dma_memory_spans_scattered_pages_and_ignores_access_bits() -> None:
    segment = Segment(bytearray(4 * PAGE_BYTES))
    window = DmaWindow(1, 4 * PAGE_BYTES)
    window.put(0, 0x3000 | ACCESS_READ)
    window.put(PAGE_BYTES, 0x1000 | ACCESS_WRITE)
    memory = DmaMemory(segment, window)
    memory.write(PAGE_BYTES - 2, b"abcd")
    assert segment.read(0x3FFE, 2) + segment.read(0x1000, 2) == b"abcd"
    assert memory.read(PAGE_BYTES - 2, 4) == b"abcd"
    assert memory.read(PAGE_BYTES, 2) == b"cd"
    assert memory.read(0, 0) == b""
    assert memory.holds(0, 2 * PAGE_BYTES)
    assert not memory.holds(0, 2 * PAGE_BYTES + 1)
    with pytest.raises(MemoryFault):
        memory.read(2 * PAGE_BYTES, 1)
    with pytest.raises(MemoryFault):
        memory.write(2 * PAGE_BYTES - 1, b"xy")
    assert memory.read(2 * PAGE_BYTES - 1, 1) == b"\0"
    window.put(2 * PAGE_BYTES, 0x9003)
    assert not memory.holds(2 * PAGE_BYTES, 1)
    with pytest.raises(MemoryFault):
        memory.read(2 * PAGE_BYTES, 1)
