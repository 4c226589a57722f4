"""The ring: vectors, and that producer and consumer together lose nothing and keep the order."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.papr.crq import encode_init, encode_transport_event
from pvnet.papr.crq_queue import CrqConsumer, CrqProducer, Dropped

BASE = 0x1000


class Ring:
    """A partition's memory from ``BASE`` on, and the runtime that stores what the platform placed."""

    def __init__(self, slots: int, fill: int = 0) -> None:
        self.bytes = bytearray([fill]) * (slots * 16)
        self.writes: list[tuple[int, bytes]] = []

    def read(self, ioba: int, n: int) -> bytes:
        assert 0 <= ioba - BASE <= len(self.bytes) - n
        return bytes(self.bytes[ioba - BASE : ioba - BASE + n])

    def write(self, ioba: int, data: bytes) -> None:
        assert 0 <= ioba - BASE <= len(self.bytes) - len(data)
        self.bytes[ioba - BASE : ioba - BASE + len(data)] = data
        self.writes.append((ioba - BASE, bytes(data)))

    def store(self, slot: int, element: bytes) -> None:
        self.bytes[slot * 16 : slot * 16 + 16] = element

    def slot(self, number: int) -> bytes:
        return bytes(self.bytes[number * 16 : number * 16 + 16])


def element(number: int) -> bytes:
    return b"\x80\x06" + number.to_bytes(14, "big")


def test_257th_element_is_dropped_and_lands_in_slot_0_after_one_clear():
    ring, producer = Ring(256), CrqProducer(256)
    consumer = CrqConsumer(ring, BASE, 256)
    for number in range(256):
        assert producer.place() == number
        ring.store(number, element(number))
    assert producer.is_full
    assert producer.place() == Dropped()
    assert producer.outstanding == 256
    assert consumer.take() == element(0)
    consumer.clear()
    assert producer.consumed(consumer.consumed)
    assert producer.place() == 0


def test_slot_255_is_at_offset_0xff0():
    ring = Ring(256)
    consumer = CrqConsumer(ring, BASE, 256)
    for number in range(256):
        ring.store(number, element(number))
        assert consumer.take() == element(number)
        consumer.clear()
    assert ring.writes[0] == (0x000, b"\0")
    assert ring.writes[255] == (0xFF0, b"\0")
    assert consumer.cursor == 0
    assert consumer.consumed == 256


def test_four_slots_of_init_then_ff02_are_three_inits_and_the_event():
    ring, producer = Ring(4), CrqProducer(4)
    consumer = CrqConsumer(ring, BASE, 4)
    for _ in range(4):
        slot = producer.place()
        assert isinstance(slot, int)
        ring.store(slot, encode_init())
    slot = producer.overlay()
    assert slot == 3
    ring.store(slot, encode_transport_event(2))
    seen = []
    while (raw := consumer.take()) is not None:
        seen.append(raw[:2].hex())
        consumer.clear()
    assert seen == ["c001", "c001", "c001", "ff02"]
    assert producer.consumed(consumer.consumed)
    assert producer.outstanding == 0


def test_event_takes_an_ordinary_slot_while_there_is_one():
    producer = CrqProducer(2)
    assert (producer.place(), producer.overlay(), producer.overlay()) == (0, 1, 1)
    assert producer.placed == 2


def test_slot_stays_occupied_until_cleared_and_only_the_header_is_written():
    ring = Ring(4)
    ring.store(0, element(0x1234))
    consumer = CrqConsumer(ring, BASE, 4)
    assert consumer.has_element()
    assert consumer.take() == element(0x1234)
    assert ring.slot(0) == element(0x1234)
    with pytest.raises(LocalError, match="slot 0 was taken"):
        consumer.take()
    consumer.clear()
    assert ring.slot(0) == b"\0" + element(0x1234)[1:]
    consumer.clear()
    assert ring.writes == [(0, b"\0")]
    assert not consumer.has_element()
    assert consumer.take() is None


@pytest.mark.parametrize(
    ("header", "is_taken"), [(0x00, False), (0x01, False), (0x7F, False), (0x80, True), (0x81, True)]
)
def test_only_bit_0x80_counts(header, is_taken):
    ring = Ring(4)
    ring.store(0, bytes((header,)) + bytes(15))
    consumer = CrqConsumer(ring, BASE, 4)
    assert (consumer.take() is not None) is is_taken
    assert consumer.cursor == int(is_taken)


def test_reset_zeroes_everything_and_starts_at_slot_0():
    ring = Ring(4, fill=0xEE)
    consumer = CrqConsumer(ring, BASE, 4)
    assert consumer.take() is not None
    consumer.reset()
    assert bytes(ring.bytes) == bytes(64)
    consumer.clear()
    assert (consumer.cursor, consumer.consumed) == (0, 0)
    assert consumer.take() is None


def test_reports_never_go_back_or_beyond_what_was_placed():
    producer = CrqProducer(4)
    for _ in range(3):
        producer.place()
    assert producer.consumed(2)
    assert producer.consumed(1)
    assert producer.cleared == 2
    assert not producer.consumed(99)
    assert producer.outstanding == 0
    assert producer.place() == 3


def test_a_ring_has_at_least_one_slot():
    with pytest.raises(LocalError, match="at least 1"):
        CrqProducer(0)
    with pytest.raises(LocalError, match="at least 1"):
        CrqConsumer(Ring(1), BASE, 0)


@given(slots=st.integers(1, 6), steps=st.lists(st.sampled_from(["place", "take", "clear", "report"]), max_size=80))
def test_in_order_none_lost_and_dropped_only_when_full(slots, steps):
    ring, producer = Ring(slots), CrqProducer(slots)
    consumer = CrqConsumer(ring, BASE, slots)
    model: deque[bytes] = deque()
    number, is_taken, unreported = 0, False, 0
    for step in steps:
        if step == "place":
            slot = producer.place()
            full = len(model) + is_taken + unreported == slots
            assert isinstance(slot, Dropped) == full
            if isinstance(slot, int):
                assert ring.slot(slot)[0] == 0
                ring.store(slot, element(number))
                model.append(element(number))
                number += 1
        elif step == "take" and not is_taken:
            raw = consumer.take()
            assert raw == (model.popleft() if model else None)
            is_taken = raw is not None
        elif step == "clear":
            consumer.clear()
            unreported += is_taken
            is_taken = False
        elif step == "report":
            assert producer.consumed(consumer.consumed)
            unreported = 0
    assert producer.placed == number
