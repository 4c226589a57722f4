"""The packet ring: order and bytes for every size of batch, both forms, laps, the roles beside it, and abuse."""

from __future__ import annotations

import random
import struct
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring.support import no_fence

from pvnet.core.errors import LocalError
from pvnet.ring import packet_side
from pvnet.ring.batch import PacketConsumer, PacketProducer, format_packet_ring, packet_ring_bytes
from pvnet.ring.errors import EINVAL, RingError, RingFault
from pvnet.ring.event_signal import NORTH_LINE, SOUTH_LINE, ring_2026_bytes
from pvnet.ring.ioq2026 import TxSouth2026

SLOT = 16


class Pair:
    def __init__(self, count, slot=SLOT):
        self.view = memoryview(bytearray(packet_ring_bytes(count, slot)))
        format_packet_ring(self.view, count, slot)
        self.rung = []
        self.producer = PacketProducer(self.view, slot, no_fence, lambda: self.rung.append("consumer"))
        self.consumer = PacketConsumer(self.view, slot, no_fence, lambda: self.rung.append("producer"))


def message(number, length=SLOT):
    return (number.to_bytes(4, "little") * 4)[:length]


def pop_all(consumer):
    out = []
    while part := consumer.pop(1000):
        out += part
    return out


@pytest.mark.parametrize("count", [1, 2, 4, 64, 512])
@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["push", "push short", "push array", "pop", "pop array"]),
            st.one_of(st.integers(0, 6), st.integers(0, 700)),
        ),
        max_size=40,
    )
)
def test_every_message_comes_once_whole_and_in_order(count, steps):
    pair = Pair(count)
    model = deque()
    serial = 0
    for action, amount in steps:
        match action:
            case "push" | "push short":
                lengths = [SLOT if action == "push" else (serial + i) % (SLOT + 1) for i in range(amount)]
                batch = [message(serial + i, length) for i, length in enumerate(lengths)]
                used = pair.producer.push(batch)
                model += batch[:used]
                serial += used
            case "push array":
                rows = np.frombuffer(b"".join(message(serial + i) for i in range(amount)), np.uint8)
                used = pair.producer.push_array(rows.reshape(amount, SLOT))
                model += [message(serial + i) for i in range(used)]
                serial += used
            case "pop":
                used = 0
                for got in pair.consumer.pop(amount):
                    assert got == model.popleft()
            case "pop array":
                used = 0
                for row in pair.consumer.pop_array(amount):
                    assert row.tobytes() == model.popleft().ljust(SLOT, b"\0")
        assert pair.consumer.waiting() == len(model)
        assert pair.producer.room() <= count - len(model)
        if action.startswith("push"):
            assert used == amount or pair.producer.room() == 0
    assert pop_all(pair.consumer) == list(model)
    pair.consumer.give_back()
    assert pair.producer.room() == count


@pytest.mark.parametrize("size", [1, 3, 5, 64, 300])
def test_many_laps_of_batches(size):
    pair = Pair(512)
    for start in range(0, 40 * 512, size):
        batch = [message(start + i) for i in range(size)]
        assert pair.producer.push(batch) == size
        assert pop_all(pair.consumer) == batch


def test_many_laps_of_arrays_and_of_batches_of_unequal_lengths():
    pair = Pair(32)
    for start in range(0, 40 * 32, 20):
        rows = np.frombuffer(b"".join(message(start + i) for i in range(20)), np.uint8).reshape(20, SLOT)
        assert pair.producer.push_array(rows) == 20
        first = pair.consumer.pop_array(100)
        assert np.concatenate([first, pair.consumer.pop_array(100)]).tobytes() == rows.tobytes()
        short = [message(start + i, i % SLOT) for i in range(7)]
        assert pair.producer.push(short) == 7
        assert pop_all(pair.consumer) == short


def test_batches_of_every_size_at_every_place_keep_no_more_views_than_they_may(monkeypatch):
    monkeypatch.setattr(packet_side, "SPANS", 16)
    pair = Pair(64)
    for start in range(600):
        messages = [message(start + i) for i in range(4 + start % 29)]
        assert pair.producer.push(messages) == len(messages)
        assert pop_all(pair.consumer) == messages
        assert len(pair.producer._spans) <= 16
        assert len(pair.consumer._spans) <= 16


def test_generations_wrap_after_65536_laps():
    pair = Pair(4)
    laps = 0xFFFF * 4
    for end in (pair.producer, pair.consumer):
        end._given = end._taken = laps
    for line in (NORTH_LINE, SOUTH_LINE):
        struct.pack_into("<II", pair.view, line, laps, laps)
    for start in range(0, 40, 4):
        batch = [message(start + i) for i in range(4)]
        assert pair.producer.push(batch) == 4
        assert pop_all(pair.consumer) == batch


def test_messages_may_be_bytes_like_and_empty():
    pair = Pair(8)
    assert pair.producer.push([b"", bytearray(b"ab"), memoryview(b"cde")]) == 3
    assert pair.producer.push([b"", b"x", b"", bytearray(b"yz")]) == 4
    assert pop_all(pair.consumer) == [b"", b"ab", b"cde", b"", b"x", b"", b"yz"]


@pytest.mark.parametrize("amount", [1, 3, 4, 64])
def test_a_batch_rings_once_and_only_who_sleeps(amount):
    pair = Pair(64)
    assert not pair.consumer.events.enable()
    half = [message(i) for i in range(max(1, amount // 2))]
    pair.producer.push(half)
    assert pair.rung == ["consumer"]
    pair.producer.push(half)
    assert pair.rung == ["consumer"]
    pair.consumer.events.disable()
    pop_all(pair.consumer)
    pair.producer.push(half)
    assert pair.rung == ["consumer"]


def test_a_producer_that_waits_for_room_is_rung_when_slots_come_back():
    pair = Pair(16)
    assert pair.producer.push([b"x"] * 20) == 16
    assert pair.producer.push([b"x"]) == 0
    pair.producer.events.look()
    assert not pair.producer.events.enable()
    pair.consumer.pop(1)
    assert pair.rung == []  # an eighth is due: two
    pair.consumer.pop(1)
    assert pair.rung == ["producer"]
    assert pair.producer.room() == 2


def test_a_slot_is_not_written_before_it_is_given_back():
    pair = Pair(16)
    assert pair.producer.push([b"old"] * 16) == 16
    assert pair.consumer.pop(1) == [b"old"]
    assert pair.producer.push([b"new"]) == 0
    pair.consumer.give_back()
    assert pair.producer.push([b"new"] * 3) == 1
    assert pop_all(pair.consumer) == [b"old"] * 15 + [b"new"]


def test_an_ordinary_south_works_on_the_same_memory():
    view = memoryview(bytearray(packet_ring_bytes(8, SLOT)))
    format_packet_ring(view, 8, SLOT)
    producer = PacketProducer(view, SLOT, no_fence, lambda: None)
    south = TxSouth2026(view[: ring_2026_bytes(8)], no_fence)
    pool = view[ring_2026_bytes(8) :]
    for lap in range(5):
        batch = [message(lap * 10 + i) for i in range(5)]
        assert producer.push(batch) == 5
        taken = south.take(9)
        assert [bytes(pool[d.ptr : d.ptr + d.length]) for d in taken] == batch
        assert [d.cookie * SLOT for d in taken] == [d.ptr for d in taken]
        south.complete(5)
        assert producer.room() == 8


def test_memory_accesses_are_fenced_where_stores_are_not_in_order():
    pair = Pair(8)
    fences = []
    for end in (pair.producer, pair.consumer):
        end._ordered = False
        end._fence = lambda: fences.append(None)
    pair.producer.push([b"x"])
    assert len(fences) == 2  # before prod, and before looking whether to ring
    assert pair.consumer.pop(5) == [b"x"]
    assert len(fences) == 5  # after looking at prod, and the same two for giving back


@pytest.mark.parametrize("amount", [1, 2, 4])
def test_a_message_longer_than_a_slot_is_our_mistake_and_sends_nothing(amount):
    pair = Pair(8)
    with pytest.raises(LocalError, match="17 bytes"):
        pair.producer.push([b"x"] * (amount - 1) + [bytes(17)])
    assert pair.consumer.pop(9) == []
    assert pair.producer.push([b"fine"] * amount) == amount
    assert pair.consumer.pop(9) == [b"fine"] * amount


@pytest.mark.parametrize(
    "array", [np.zeros((2, 8), np.uint8), np.zeros((2, SLOT), np.int8), np.zeros(SLOT, np.uint8)], ids=str
)
def test_an_array_of_another_shape_or_type_is_our_mistake(array):
    with pytest.raises(LocalError):
        Pair(8).producer.push_array(array)


def test_nothing_to_push_or_pop_is_not_an_error():
    pair = Pair(8)
    assert pair.producer.push([]) == 0
    assert pair.producer.push_array(np.zeros((0, SLOT), np.uint8)) == 0
    assert pair.consumer.pop(0) == []
    assert pair.consumer.pop(-1) == []
    assert pair.consumer.pop_array(9).shape == (0, SLOT)


@pytest.mark.parametrize(("count", "slot", "size"), [(8, 12, None), (8, 0, None), (3, 8, None), (8, 8, 999)])
def test_a_packet_ring_of_a_wrong_shape_is_not_made(count, slot, size):
    size = packet_ring_bytes(count, slot) if size is None else size
    with pytest.raises(LocalError):
        format_packet_ring(memoryview(bytearray(size)), count, slot)


def test_memory_that_is_no_fresh_packet_ring_of_this_shape_is_refused():
    pair = Pair(8)
    pair.producer.push([b"x"])
    view = memoryview(bytearray(pair.view))
    huge = memoryview(bytearray(pair.view))
    struct.pack_into("<I", huge, 8, 0xFFFFFFFF)
    for end, memory, slot in (
        (PacketProducer, pair.view, SLOT),
        (PacketConsumer, pair.view, SLOT),
        (PacketConsumer, view, 2 * SLOT),
        (PacketConsumer, view, 12),
        (PacketConsumer, view[:-8], SLOT),
        (PacketConsumer, view[:64], SLOT),
        (PacketConsumer, huge, SLOT),
        (PacketConsumer, memoryview(bytearray(len(view))), SLOT),
    ):
        with pytest.raises(RingError) as caught:
            end(memory, slot, no_fence, lambda: None)
        assert caught.value.errno == EINVAL


@pytest.mark.parametrize("amount", [1, 3, 4, 8])
@pytest.mark.parametrize(
    "meta", [0, 1 << 48, SLOT + 1 | 1 << 32 | 1 << 48, SLOT | 1 << 32 | 2 << 48, SLOT | 1 << 48, (1 << 64) - 1]
)
def test_a_descriptor_that_cannot_be_is_a_fault(amount, meta):
    for form in ("pop", "pop_array"):
        pair = Pair(8)
        pair.producer.push([message(i) for i in range(amount)])
        struct.pack_into("<Q", pair.view, 256 + 32 * (amount - 1) + 16, meta)
        for _ in range(2):
            with pytest.raises(RingFault):
                getattr(pair.consumer, form)(9)
        with pytest.raises(RingFault):
            pair.consumer.waiting()


def test_counters_that_cannot_be_are_a_fault():
    pair = Pair(8)
    struct.pack_into("<I", pair.view, NORTH_LINE, 9)
    for _ in range(2):
        with pytest.raises(RingFault):
            pair.consumer.pop(1)
    pair = Pair(8)
    pair.producer.push([b"x"] * 8)
    struct.pack_into("<I", pair.view, SOUTH_LINE, 9)
    for push, batch in ((pair.producer.push, [b"x"]), (pair.producer.push_array, np.zeros((1, SLOT), np.uint8))):
        with pytest.raises(RingFault):
            push(batch)


@pytest.mark.parametrize("honest", ["producer", "consumer"])
def test_a_scribbling_peer_causes_faults_and_nothing_else(honest):
    faults = 0
    for seed in range(300):
        rng = random.Random(f"{honest}{seed}")
        pair = Pair(8)
        try:
            for _ in range(40):
                size = rng.choice([1, 4, 32])
                at = rng.randrange(len(pair.view) - size + 1)
                pair.view[at : at + size] = rng.choice([rng.randbytes(size), b"\0" * size, b"\1" * size])
                if honest == "producer":
                    amount = rng.randrange(12)
                    assert 0 <= pair.producer.push([b"x" * rng.randrange(SLOT + 1)] * amount) <= min(8, amount)
                    assert 0 <= pair.producer.room() <= 8
                else:
                    for got in (pair.consumer.pop(rng.randrange(12)), pair.consumer.pop_array(rng.randrange(12))):
                        assert len(got) <= 8
                        assert all(len(item) <= SLOT for item in got)
        except RingFault:
            faults += 1
    assert faults > 20
