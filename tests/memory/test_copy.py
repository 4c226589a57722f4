"""Copies against a model that moves byte by byte after reading everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.memory.copy import CopyPlan, CopyRefusal, Side, copy, pieces, plan_copy
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_READ, ACCESS_WRITE, PAGE_BYTES, DmaWindow, Run

PAGES = 4
SIZE = PAGES * PAGE_BYTES


def filled(seed: int) -> bytearray:
    return bytearray((seed + i * 7 + i // 256) % 251 for i in range(SIZE))


def side(window: DmaWindow, ioba: int, segment: Segment | None) -> Side:
    return Side(window, ioba, segment, SIZE)


page_lists = st.lists(
    st.tuples(st.integers(0, PAGES), st.integers(0, 3)).map(lambda t: (t[0] << 12) | t[1]),
    min_size=PAGES,
    max_size=PAGES,
)
positions = st.integers(0, SIZE)


@given(page_lists, page_lists, positions, positions, st.integers(0, 2 * PAGE_BYTES + 9), st.booleans())
def test_copy_equals_the_naive_one(
    from_tces: list[int], to_tces: list[int], from_at: int, to_at: int, length: int, same: bool
) -> None:
    source, destination = filled(1), filled(100)
    if same:
        destination = source
    source_window, destination_window = DmaWindow(1, SIZE), DmaWindow(2, SIZE)
    source_window.put_list(0, tuple(from_tces))
    destination_window.put_list(0, tuple(to_tces))

    def addresses(tces: list[int], at: int, bit: int) -> list[int] | None:
        if at + length > SIZE:
            return None
        result = []
        for i in range(at, at + length):
            tce = tces[i // PAGE_BYTES]
            if not tce & bit or tce & ~0xFFF >= SIZE:
                return None
            result.append((tce & ~0xFFF) + i % PAGE_BYTES)
        return result

    reads, writes = addresses(from_tces, from_at, ACCESS_READ), addresses(to_tces, to_at, ACCESS_WRITE)
    expected = bytearray(destination)
    if reads is not None and writes is not None:
        for value, at in zip([source[i] for i in reads], writes, strict=True):
            expected[at] = value
    refused = copy(
        side(source_window, from_at, Segment(source)), side(destination_window, to_at, Segment(destination)), length
    )
    assert (refused is None) == (reads is not None and writes is not None)
    assert destination == expected


def test_refusals_come_in_the_order_of_the_checks() -> None:
    window = DmaWindow(1, SIZE)
    segment = Segment(filled(0))
    window.put(0, 0x0000 | ACCESS_WRITE)
    window.put(PAGE_BYTES, 0x1000 | ACCESS_READ)
    window.put(2 * PAGE_BYTES, 0x9003)

    def refusal(from_at: int, to_at: int) -> object:
        return plan_copy(side(window, from_at, segment), side(window, to_at, segment), 8)

    assert refusal(SIZE, SIZE) is CopyRefusal.SOURCE_RANGE
    assert refusal(0, SIZE) is CopyRefusal.DESTINATION_RANGE
    assert refusal(0, PAGE_BYTES) is CopyRefusal.SOURCE_PERMISSION
    assert refusal(PAGE_BYTES, PAGE_BYTES) is CopyRefusal.DESTINATION_PERMISSION
    assert refusal(2 * PAGE_BYTES, 0) is CopyRefusal.SOURCE_RANGE
    assert refusal(PAGE_BYTES, 2 * PAGE_BYTES) is CopyRefusal.DESTINATION_RANGE
    assert refusal(PAGE_BYTES, 0) == CopyPlan((Run(0x1000, 8),), (Run(0, 8),))


def test_pieces_cut_both_sides() -> None:
    plan = CopyPlan((Run(0, 5), Run(100, 3)), (Run(200, 2), Run(300, 6)))
    assert pieces(plan) == [(0, 200, 2), (2, 300, 3), (100, 303, 3)]


def test_scattered_copy_between_two_segments() -> None:
    window = DmaWindow(1, SIZE)
    window.put_list(0, (0x2003, 0x0003))
    source, destination = filled(1), filled(50)
    straight = DmaWindow(2, SIZE)
    straight.map(0, 0, SIZE)
    assert copy(side(window, PAGE_BYTES - 4, Segment(source)), side(straight, 9, Segment(destination)), 8) is None
    assert destination[9:17] == source[0x2FFC:0x3000] + source[0:4]
    window.put(PAGE_BYTES, 0x5003)
    assert (
        copy(side(window, PAGE_BYTES, Segment(source)), side(straight, 9, Segment(destination)), 8)
        is CopyRefusal.SOURCE_RANGE
    )
    assert (
        copy(side(straight, 9, Segment(destination)), side(window, PAGE_BYTES, Segment(source)), 8)
        is CopyRefusal.DESTINATION_RANGE
    )


def test_pages_can_be_swapped_in_one_copy() -> None:
    memory = filled(3)
    before = bytes(memory)
    there, back = DmaWindow(1, SIZE), DmaWindow(2, SIZE)
    there.put_list(0, (0x0003, 0x2003))
    back.put_list(0, (0x2003, 0x0003))
    # Two segments over one buffer, as two windows of one partition are.
    assert copy(side(there, 0, Segment(memory)), side(back, 0, Segment(memory)), 2 * PAGE_BYTES) is None
    assert memory[0x2000:0x3000] == before[0x0000:0x1000]
    assert memory[0x0000:0x1000] == before[0x2000:0x3000]


def test_a_copy_needs_both_segments_here() -> None:
    window = DmaWindow(1, SIZE)
    window.map(0, 0, SIZE)
    with pytest.raises(LocalError):
        copy(side(window, 0, None), side(window, 0, Segment(filled(0))), 4)
