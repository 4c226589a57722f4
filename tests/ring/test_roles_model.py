"""Roles against a plain queue, and against the iterator: the same memory after every step (vbus 6.3, 6.6, 14.5)."""

from __future__ import annotations

from collections import deque
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring.support import buffers, memory, no_fence

from pvnet.ring.ioq import IndexType, Ioq, IteratorFlags, Seek
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Pattern, Variant, attach_ring, create_ring

COUNTS = [1, 2, 3, 4, 255, 256, 2048]
CASES = [(Variant.IOQ_2009, count) for count in COUNTS] + [
    (Variant.IOQ_2026, count) for count in COUNTS if not count & (count - 1)
]

amounts = st.one_of(st.integers(0, 6), st.integers(0, 5000))


def ends(variant, count, pattern):
    view = memory(count, variant)
    north = create_ring(view, count, pattern, no_fence, variant)
    south = attach_ring(view, pattern, no_fence, allow_2026=True)
    assert north.count == south.count == count
    return view, north, south


def cursor(ioq, which, where, flags=0):
    iterator = ioq.iterator(which, flags)
    iterator.seek(where)
    return iterator


class NoShadow:
    """Stands in for the shadow of a layout that the iterator does not know."""

    def __getattr__(self, name):
        return lambda *_: None

    def check(self, view):
        pass


class Shadow:
    """A second ring on which the iterator does the same, one descriptor at a time."""

    def __init__(self, count):
        self.view = memory(count)
        self.north = Ioq.create(self.view, count, no_fence)
        self.south = Ioq.attach(self.view, no_fence)

    def check(self, view):
        assert view == self.view

    def provide(self, batch):
        north = cursor(self.north, IndexType.VALID, Seek.TAIL)
        for north.cookie, north.ptr, north.length in batch:
            north.valid = 1
            north.push()

    def fill(self, lengths):
        south = cursor(self.south, IndexType.INUSE, Seek.TAIL)
        for south.length in lengths:
            south.push()

    def refill(self, batch):
        north = cursor(self.north, IndexType.INUSE, Seek.HEAD)
        for north.cookie, north.ptr, north.length in batch:
            north.pop()

    def push(self, batch):
        north = cursor(self.north, IndexType.BOTH, Seek.TAIL)
        for north.cookie, north.ptr, north.length in batch:
            north.valid = 1
            north.push()

    def complete(self, count):
        south = cursor(self.south, IndexType.INUSE, Seek.HEAD)
        for _ in range(count):
            south.pop()

    def reclaim(self, count):
        north = cursor(self.north, IndexType.VALID, Seek.HEAD, IteratorFlags.NOFLIPOWNER)
        for _ in range(count):
            north.valid = 0
            north.pop()


def shadow_of(variant, count):
    return Shadow(count) if variant is Variant.IOQ_2009 else NoShadow()


def owners(view, count):
    return [view[56 + 32 * slot + 25] for slot in range(count)]


@pytest.mark.parametrize(("variant", "count"), CASES)
@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["push", "take", "complete", "reclaim"]), amounts), max_size=40))
def test_tx_keeps_order_and_loses_nothing(variant, count, steps):
    view, north, south = ends(variant, count, Pattern.TX)
    shadow = shadow_of(variant, count)
    waiting, taken, done = deque(), deque(), deque()
    serial = 0
    for action, most in steps:
        amount = most
        match action:
            case "push":
                batch = [Descriptor(serial + i, (serial + i) * 64, (serial + i) % 1500) for i in range(amount)]
                used = north.push(batch)
                assert used == min(amount, count - len(waiting) - len(taken) - len(done))
                serial += used
                waiting += batch[:used]
                shadow.push(batch[:used])
            case "take":
                got = south.take(amount)
                assert got == list(islice(waiting, amount))
                taken += got
                for _ in got:
                    waiting.popleft()
            case "complete":
                amount = min(amount, len(taken))
                south.complete(amount)
                done.extend(taken.popleft() for _ in range(amount))
                shadow.complete(amount)
            case "reclaim":
                got = north.reclaim(amount)
                assert got == list(islice(done, amount))
                for _ in got:
                    done.popleft()
                shadow.reclaim(len(got))
        assert north.room() == count - len(waiting) - len(taken) - len(done)
        assert south.outstanding == len(taken)
        shadow.check(view)
        if variant is Variant.IOQ_2009:
            assert sum(owners(view, count)) == len(waiting) + len(taken)


@pytest.mark.parametrize(("variant", "count"), CASES)
@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["take", "fill", "collect", "refill"]), amounts), max_size=40))
def test_rx_keeps_order_and_loses_nothing(variant, count, steps):
    view, north, south = ends(variant, count, Pattern.RX)
    shadow = shadow_of(variant, count)
    assert north.collect(1) == south.take(1) == []
    start = buffers(count)
    assert north.provide(start) == count
    shadow.provide(start)
    shadow.check(view)
    empty, taken, filled, collected = deque(start), deque(), deque(), deque()
    serial = 0
    for action, most in steps:
        amount = most
        match action:
            case "take":
                got = south.take(amount)
                assert got == list(islice(empty, amount))
                taken += got
                for _ in got:
                    empty.popleft()
            case "fill":
                amount = min(amount, len(taken))
                lengths = [(serial + i) % 257 for i in range(amount)]
                serial += amount
                south.fill(lengths)
                filled.extend(taken.popleft()._replace(length=length) for length in lengths)
                shadow.fill(lengths)
            case "collect":
                got = north.collect(amount)
                assert got == list(islice(filled, amount))
                collected += got
                for _ in got:
                    filled.popleft()
            case "refill":
                amount = min(amount, len(collected))
                batch = [collected.popleft()._replace(length=256) for _ in range(amount)]
                if batch and serial % 2:
                    batch[0] = Descriptor(serial, serial * 8, 256)
                north.refill(batch)
                empty += batch
                shadow.refill(batch)
        assert south.outstanding == len(taken)
        shadow.check(view)
        if variant is Variant.IOQ_2009:
            assert sum(owners(view, count)) == len(empty) + len(taken)


@pytest.mark.parametrize("variant", Variant)
def test_a_tx_ring_works_over_many_laps(variant):
    _, north, south = ends(variant, 4, Pattern.TX)
    for lap in range(300):
        batch = [Descriptor(lap * 3 + i, i, 60) for i in range(3)]
        assert north.push(batch) == 3
        assert south.take(9) == batch
        south.complete(3)
        assert north.reclaim(9) == batch


def test_generations_and_counters_of_2026_wrap():
    view, north, south = ends(Variant.IOQ_2026, 2, Pattern.TX)
    for end in (north, south):
        end._given = end._taken = 0xFFFF_FFFF * 2 + 1  # odd, just before 2^33
    for line in (0x40, 0x80):
        view[line : line + 8] = b"\xff" * 8
    assert south.signal.enable() is True  # the first look
    south.signal.wakeup(lambda: None)
    north.signal._told = 0xFFFF_FFFF
    batch = [Descriptor(1, 2, 3), Descriptor(4, 5, 6)]
    assert north.push(batch) == 2
    assert north.signal.inject()
    assert view[0x40:0x44] == (1).to_bytes(4, "little")
    assert south.take(5) == batch
    south.complete(2)
    assert north.reclaim(5) == batch


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("pattern", Pattern)
def test_where_stores_are_not_in_order_each_hand_over_and_each_look_is_fenced(variant, pattern):
    _, north, south = ends(variant, 4, pattern)
    fences = []
    for end in (north, south):
        end._ordered = False
        end._fence = lambda: fences.append(None)
    if pattern is Pattern.TX:
        steps = [
            lambda: north.push(buffers(2)),
            lambda: south.take(9),
            lambda: south.complete(2),
            lambda: north.reclaim(9),
        ]
    else:
        steps = [
            lambda: north.provide(buffers(4)),
            lambda: south.take(2),
            lambda: south.fill([1, 2]),
            lambda: north.collect(9),
            lambda: north.refill(buffers(2)),
        ]
    for number, step in enumerate(steps, 1):
        step()
        assert len(fences) == number
