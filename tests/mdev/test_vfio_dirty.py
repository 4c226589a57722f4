"""The log of written pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfio_rig import PAGE, errno_of

from pvnet.mdev.dirty import MAX_PAGE, MAX_RANGES, DirtyPages, bitmap_size

ROOM = 1 << 20


def log(page_size: int = PAGE) -> DirtyPages:
    dirty = DirtyPages()
    dirty.start(page_size)
    return dirty


def test_v18_one_dirty_page() -> None:
    dirty = log()
    dirty.mark(PAGE + 5, 10)
    assert dirty.report(PAGE, PAGE, PAGE, 8) == bytes.fromhex("0100000000000000")


def test_reading_clears_what_it_tells_and_nothing_else() -> None:
    dirty = log()
    dirty.mark(0, 3 * PAGE)
    assert dirty.report(PAGE, PAGE, PAGE, 8)[0] == 1
    assert dirty.report(0, 4 * PAGE, PAGE, 8)[0] == 0b101
    assert dirty.report(0, 4 * PAGE, PAGE, 8)[0] == 0


def test_a_write_over_a_page_boundary_marks_both() -> None:
    dirty = log()
    dirty.mark(PAGE - 1, 2)
    dirty.mark(7 * PAGE, 0)
    assert dirty.report(0, 64 * PAGE, PAGE, 8) == (0b11).to_bytes(8, "little")


def test_rounded_up_to_words() -> None:
    assert [bitmap_size(pages * PAGE, PAGE) for pages in (1, 64, 65)] == [8, 8, 16]
    assert bitmap_size(1, PAGE) == 8
    assert len(log().report(0, 65 * PAGE, PAGE, 16)) == 16


def test_other_page_sizes_in_the_report() -> None:
    dirty = log(4 * PAGE)
    dirty.mark(0, 1)
    assert dirty.report(0, 8 * PAGE, PAGE, 8)[0] == 0b1111
    dirty = log()
    dirty.mark(5 * PAGE, 1)
    assert dirty.report(0, 16 * PAGE, 4 * PAGE, 8)[0] == 0b10


def test_only_in_its_ranges() -> None:
    dirty = DirtyPages()
    dirty.start(PAGE, ((PAGE, PAGE), (4 * PAGE, 2 * PAGE)))
    dirty.mark(0, 5 * PAGE)
    dirty.mark(8 * PAGE, PAGE)
    assert dirty.report(0, 16 * PAGE, PAGE, 8)[0] == 0b10010


def test_ranges_that_begin_inside_of_a_page() -> None:
    dirty = DirtyPages()
    dirty.start(PAGE, ((PAGE + 100, 50),))
    dirty.mark(PAGE, 100)
    dirty.mark(PAGE + 150, 10)
    assert dirty.report(0, 4 * PAGE, PAGE, 8)[0] == 0
    dirty.mark(PAGE + 149, 1)
    assert dirty.report(0, 4 * PAGE, PAGE, 8)[0] == 0b10


def test_life() -> None:
    dirty = DirtyPages()
    assert not dirty.logging
    dirty.mark(0, PAGE)
    assert errno_of(lambda: dirty.report(0, PAGE, PAGE, ROOM)) == 22
    dirty.start(PAGE)
    assert dirty.logging
    assert errno_of(lambda: dirty.start(PAGE)) == 22
    dirty.mark(0, PAGE)
    dirty.stop()
    dirty.stop()
    dirty.start(PAGE)
    assert dirty.report(0, PAGE, PAGE, ROOM) == bytes(8)


@pytest.mark.parametrize("page_size", [0, 1, 2048, 4097, 6144, 1 << 31, 1 << 63])
def test_page_sizes_that_are_none(page_size: int) -> None:
    assert errno_of(lambda: DirtyPages().start(page_size)) == 22
    assert errno_of(lambda: log().report(0, PAGE, page_size, ROOM)) == 22


@pytest.mark.parametrize(("iova", "length"), [(0, 0), (1 << 64, 1), ((1 << 64) - PAGE, PAGE + 1), (-1, 4), (0, -1)])
def test_ranges_that_are_none(iova: int, length: int) -> None:
    assert errno_of(lambda: DirtyPages().start(PAGE, ((0, PAGE), (iova, length)))) == 22
    assert errno_of(lambda: log().report(iova, length, PAGE, ROOM)) == 22


def test_limits() -> None:
    assert errno_of(lambda: DirtyPages().start(PAGE, ((0, PAGE),) * (MAX_RANGES + 1))) == 22
    assert errno_of(lambda: log().report(1, PAGE, PAGE, ROOM)) == 22
    assert errno_of(lambda: log().report(0, 65 * PAGE, PAGE, 15)) == 22
    assert errno_of(lambda: log().report(0, 1 << 64, PAGE, ROOM)) == 22
    assert log(MAX_PAGE).logging
    dirty = log()
    dirty.mark((1 << 64) - 1, 1)
    assert dirty.report((1 << 64) - PAGE, PAGE, PAGE, 8)[0] == 1


marks = st.lists(st.tuples(st.integers(0, 9000 * PAGE), st.integers(1, 5000 * PAGE)), max_size=4)
reads = st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 9000 * PAGE), st.sampled_from((0, 1, 3))), max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from((0, 1, 2)), marks, reads)
def test_against_sets_of_pages(shift: int, marks: list[tuple[int, int]], reads: list[tuple[int, int, int]]) -> None:
    page = PAGE << shift
    dirty, model = log(page), set[int]()
    for address, length in marks:
        dirty.mark(address, length)
        model |= set(range(address // page, (address + length - 1) // page + 1))
    for start, length, asked in reads:
        size = PAGE << asked
        iova = start * PAGE // size * size
        bits = int.from_bytes(dirty.report(iova, length, size, ROOM), "little")
        inside = {number for number in model if iova < (number + 1) * page and number * page < iova + length}
        expected = set[int]()
        for number in inside:
            low, high = max(number * page, iova) - iova, min((number + 1) * page, iova + length) - iova
            expected |= set(range(low // size, (high - 1) // size + 1))
        assert bits == sum(1 << number for number in expected)
        model -= inside
