"""The iterator: where it goes, what it refuses, and that it agrees with a plain queue (vbus 6.4)."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring.support import memory, no_fence

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EAGAIN, EINVAL, ENOSPC, EPROTO, RingError, RingFault
from pvnet.ring.ioq import IndexType, Ioq, IteratorFlags, Seek
from pvnet.ring.layout import NORTH, RingIndex

VALID, INUSE, BOTH = IndexType


def pair(count=4):
    view = memory(count)
    return view, Ioq.create(view, count, no_fence), Ioq.attach(view, no_fence)


def at(ioq, which, where, flags=0):
    cursor = ioq.iterator(which, flags)
    cursor.seek(where)
    return cursor


def refused(errno, call, *arguments):
    with pytest.raises(RingError) as caught:
        call(*arguments)
    assert caught.value.errno == errno
    assert not isinstance(caught.value, RingFault)


def test_an_iterator_starts_nowhere_and_must_seek():
    _, north, _ = pair()
    cursor = north.iterator(VALID)
    assert cursor.position == -1
    refused(EINVAL, getattr, cursor, "cookie")
    refused(EINVAL, cursor.push)
    refused(EINVAL, cursor.pop)
    cursor.seek(Seek.NEXT)
    assert cursor.position == 0


def test_next_goes_round_and_set_goes_where_it_is_told():
    _, north, _ = pair()
    cursor = at(north, VALID, Seek.TAIL)
    for expected in (1, 2, 3, 0):
        cursor.seek(Seek.NEXT)
        assert cursor.position == expected
    cursor.seek(Seek.SET, 3)
    assert cursor.position == 3


@pytest.mark.parametrize("offset", [-1, -4, 4, 1 << 32])
def test_set_outside_of_the_ring_is_refused_and_goes_nowhere(offset):
    _, north, _ = pair()
    cursor = at(north, VALID, Seek.TAIL)
    refused(EINVAL, cursor.seek, Seek.SET, offset)
    assert cursor.position == 0


def test_unknown_seek_and_index_types_are_refused():
    _, north, _ = pair()
    refused(EINVAL, north.iterator(VALID).seek, 4)
    refused(EINVAL, north.iterator, 3)
    refused(EINVAL, north.used, -1)


def test_push_away_from_the_tail_or_of_a_foreign_descriptor_is_refused():
    _, north, south = pair()
    cursor = at(north, VALID, Seek.TAIL)
    cursor.seek(Seek.NEXT)
    refused(EINVAL, cursor.push)
    refused(EINVAL, at(south, INUSE, Seek.TAIL).push)


def test_push_on_full_and_pop_from_empty_are_refused():
    _, north, _ = pair(2)
    cursor = at(north, VALID, Seek.TAIL)
    refused(EAGAIN, cursor.pop)
    cursor.push()
    cursor.push()
    assert north.index(VALID) == RingIndex(0, 0, 1)
    refused(ENOSPC, cursor.push)
    assert (north.used(VALID), north.remain(VALID)) == (2, 0)


def test_pop_away_from_the_head_or_of_a_foreign_descriptor_is_refused():
    _, north, _ = pair()
    at(north, BOTH, Seek.TAIL).push()
    cursor = at(north, VALID, Seek.HEAD)
    refused(EINVAL, cursor.pop)  # south has it
    cursor.seek(Seek.NEXT)
    refused(EINVAL, cursor.pop)


def test_both_moves_the_two_tails_and_faults_when_they_differ():
    view, north, south = pair()
    cursor = at(north, BOTH, Seek.TAIL)
    cursor.push()
    assert north.index(VALID) == north.index(INUSE) == north.index(BOTH) == RingIndex(0, 1, 0)
    view[40] = 3
    with pytest.raises(RingFault):
        cursor.push()
    refused_after = pytest.raises(RingFault)
    with refused_after as caught:
        north.used(VALID)
    assert caught.value.errno == EPROTO
    assert south.used(VALID) == 2  # the other object has not seen it


def test_noflipowner_leaves_the_owner_and_autoupdate_signals():
    _, north, south = pair()
    south.signal.enable()
    cursor = at(north, BOTH, Seek.TAIL, IteratorFlags.NOFLIPOWNER)
    assert cursor.push() is False
    assert at(north, VALID, Seek.HEAD).sown == NORTH
    cursor = at(north, BOTH, Seek.TAIL, IteratorFlags.AUTOUPDATE)
    assert cursor.push() is True
    assert cursor.push() is False  # pending already


def test_fields_are_read_and_written_in_place():
    view, north, south = pair()
    cursor = at(north, VALID, Seek.TAIL)
    cursor.cookie, cursor.ptr, cursor.length, cursor.valid = 1 << 63, 2, 3, 1
    other = at(south, VALID, Seek.HEAD)
    assert (other.cookie, other.ptr, other.length, other.valid, other.sown) == (1 << 63, 2, 3, 1, 0)
    assert bytes(view[56:88]) == struct.pack("<QQQQ", 1 << 63, 2, 3, 1)


def test_a_stale_full_flag_with_unequal_ends_is_not_full():
    view, north, _ = pair()
    at(north, VALID, Seek.TAIL).push()
    view[32] = 1
    assert north.used(VALID) == 1


def test_a_fence_orders_the_hand_over_where_stores_are_not_in_order():
    fences = []
    north = Ioq.create(memory(1), 1, lambda: fences.append(None))
    north._ordered = False
    at(north, VALID, Seek.TAIL).push()
    assert len(fences) == 1


def test_a_ring_is_not_made_in_a_view_of_another_size():
    with pytest.raises(LocalError):
        Ioq.create(memory(4), 5, no_fence)


@given(st.sampled_from([1, 2, 3, 4, 255]), st.lists(st.tuples(st.sampled_from("pc"), st.integers(0, 300)), max_size=30))
def test_pushes_and_pops_agree_with_a_plain_queue(count, steps):
    _, north, south = pair(count)
    model = deque()
    pushed = 0
    producer, consumer = at(north, BOTH, Seek.TAIL), at(south, INUSE, Seek.HEAD)
    reaper = at(north, VALID, Seek.HEAD, IteratorFlags.NOFLIPOWNER)
    for kind, amount in steps:
        for _ in range(amount):
            if kind == "p":
                if len(model) == count:
                    refused(ENOSPC, producer.push)
                    break
                producer.cookie = pushed
                producer.push()
                model.append(pushed)
                pushed += 1
            elif not model:
                refused(EAGAIN, consumer.pop)
                break
            else:
                assert consumer.sown
                assert consumer.cookie == model.popleft()
                consumer.pop()
                reaper.pop()
        for index in (VALID, INUSE):
            used = len(model)
            assert (north.used(index), north.remain(index)) == (used, count - used)
            state = north.index(index)
            assert (state.head == state.tail and bool(state.full)) == (used == count)
