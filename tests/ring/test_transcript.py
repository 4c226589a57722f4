"""The rings of the transcript (vbus 13), once with iterators and once with the roles: byte for byte the same memory."""

from __future__ import annotations

import pytest
from ring.support import descriptor_of, head_of, image, memory, no_fence

from pvnet.ring.ioq import IndexType, Ioq, IteratorFlags, Seek
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Pattern, attach_ring, create_ring

EVENTS = [Descriptor(slot, 0x10100 + 0x90 * slot, 0x90) for slot in range(4)]
RX_BUFFERS = [Descriptor(slot + 1, 0x10800 + 0x100 * slot, 0x100) for slot in range(4)]
FRAME = Descriptor(0x77, 0x10C00, 0x3C)


class ByIterator:
    """Both sides move the indexes one at a time, as the original does."""

    def __init__(self, view):
        self.north = Ioq.create(view, 4, no_fence)
        self.south = Ioq.attach(view, no_fence)
        self.signals = self.north.signal, self.south.signal

    def provide(self, batch):
        cursor = self.north.iterator(IndexType.VALID)
        cursor.seek(Seek.TAIL)
        for cursor.cookie, cursor.ptr, cursor.length in batch:
            cursor.valid = 1
            cursor.push()

    def fill(self, length):
        cursor = self.south.iterator(IndexType.INUSE)
        cursor.seek(Seek.TAIL)
        assert cursor.sown == 1
        cursor.length = length
        cursor.push()

    def collect_and_refill(self, buffer):
        cursor = self.north.iterator(IndexType.INUSE)
        cursor.seek(Seek.HEAD)
        assert cursor.sown == 0
        cursor.length = buffer.length
        cursor.pop()

    def push(self, descriptor):
        cursor = self.north.iterator(IndexType.BOTH, IteratorFlags.AUTOUPDATE)
        cursor.seek(Seek.TAIL)
        cursor.cookie, cursor.ptr, cursor.length = descriptor
        cursor.valid = 1
        return cursor.push()

    def transmit(self):
        cursor = self.south.iterator(IndexType.INUSE)
        cursor.seek(Seek.HEAD)
        assert cursor.sown == 1
        cursor.pop()

    def reap(self):
        cursor = self.north.iterator(IndexType.VALID, IteratorFlags.NOFLIPOWNER)
        cursor.seek(Seek.HEAD)
        assert cursor.sown == 0
        cursor.valid = 0
        cursor.pop()


class ByRole:
    """Both sides use the hardened roles."""

    def __init__(self, view, pattern):
        self.north = create_ring(view, 4, pattern, no_fence)
        self.south = attach_ring(view, pattern, no_fence)
        self.signals = self.north.signal, self.south.signal

    def provide(self, batch):
        assert self.north.provide(batch) == 4

    def fill(self, length):
        assert len(self.south.take(1)) == 1
        self.south.fill([length])

    def collect_and_refill(self, buffer):
        assert len(self.north.collect(1)) == 1
        self.north.refill([buffer])

    def push(self, descriptor):
        assert self.north.push([descriptor]) == 1
        return self.north.signal.inject()

    def transmit(self):
        assert self.south.take(9) == [FRAME]
        self.south.complete(1)

    def reap(self):
        assert self.north.reclaim(9) == [FRAME]


@pytest.fixture(params=["iterator", "role"])
def ring(request):
    def make(pattern):
        view = memory(4)
        return view, ByIterator(view) if request.param == "iterator" else ByRole(view, pattern)

    return make


def expect(view, words):
    assert head_of(view).hex(" ", 4) == image(f"e42ffa47 04000000 df39fa58 01000000 {words} 04000000 00000000").hex(
        " ", 4
    )


def test_event_ring_of_t2_t3_and_t11_to_t13(ring):
    view, sides = ring(Pattern.RX)
    north, south = sides.signals
    sides.provide(EVENTS)
    assert not north.enable()
    expect(view, "01000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000")
    for slot, text in enumerate(["00010100", "90010100", "20020100", "b0020100"]):
        fields = f"{slot:02x}000000 00000000 {text} 00000000 90000000 00000000 01010000 00000000"
        assert descriptor_of(view, slot) == image(fields)
    # T3: south announces a device and rings; north dispatches, pops and signals without a doorbell
    sides.fill(0x90)
    assert south.inject()
    expect(view, "01010100 00000000 00000000 00000000 01000000 00000000 01000000 00000000")
    assert descriptor_of(view, 0) == image("00000000 00000000 00010100 00000000 90000000 00000000 01000000 00000000")

    def dispatch_and_signal():
        sides.collect_and_refill(EVENTS[0])
        assert not north.inject()

    assert not north.wakeup(dispatch_and_signal)
    expect(view, "01000000 00010000 00000000 00000000 01000000 01000000 01000000 00000000")
    assert descriptor_of(view, 0)[25] == 1
    # T11: the next event
    sides.fill(0x90)
    assert south.inject()
    expect(view, "01010100 00010000 00000000 00000000 01000000 01000000 02000000 00000000")
    # T12: and its pass
    assert not north.wakeup(dispatch_and_signal)
    expect(view, "01000000 00010000 00000000 00000000 01000000 02000000 02000000 00000000")
    # T13 in slot 2; T15 puts two into slots 3 and 0 with one interrupt for both
    sides.fill(0x90)
    assert south.inject()
    assert not north.wakeup(dispatch_and_signal)
    expect(view, "01000000 00010000 00000000 00000000 01000000 03000000 03000000 00000000")
    sides.fill(0x90)
    assert south.inject()
    sides.fill(0x90)
    assert not south.inject()
    expect(view, "01010100 00010000 00000000 00000000 01000000 03000000 01000000 00000000")
    assert not north.wakeup(lambda: [dispatch_and_signal(), dispatch_and_signal()])
    expect(view, "01000000 00010000 00000000 00000000 01000000 01000000 01000000 00000000")


def test_rx_ring_of_t5_t11_and_t12(ring):
    view, sides = ring(Pattern.RX)
    north, south = sides.signals
    sides.provide(RX_BUFFERS)
    expect(view, "00000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000")
    full = image("01000000 00000000 00080100 00000000 00010000 00000000 01010000 00000000")
    assert descriptor_of(view, 0) == full
    assert not north.enable()
    expect(view, "01000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000")
    sides.fill(0x3C)
    assert south.inject()
    expect(view, "01010100 00000000 00000000 00000000 01000000 00000000 01000000 00000000")
    assert descriptor_of(view, 0) == image("01000000 00000000 00080100 00000000 3c000000 00000000 01000000 00000000")
    assert not north.wakeup(lambda: sides.collect_and_refill(RX_BUFFERS[0]))
    expect(view, "01000000 00000000 00000000 00000000 01000000 01000000 01000000 00000000")
    assert descriptor_of(view, 0) == full


def test_tx_ring_of_t6_and_t8_to_t10(ring):
    view, sides = ring(Pattern.TX)
    south = sides.signals[1]
    assert not south.enable()
    expect(view, "00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000")
    assert sides.push(FRAME)
    assert descriptor_of(view, 0) == image("77000000 00000000 000c0100 00000000 3c000000 00000000 01010000 00000000")
    expect(view, "00000001 01010000 00000000 01000000 00000000 00000000 01000000 00000000")
    assert not south.wakeup(sides.transmit)
    assert descriptor_of(view, 0) == image("77000000 00000000 000c0100 00000000 3c000000 00000000 01000000 00000000")
    expect(view, "00000001 00000000 00000000 01000000 00000000 01000000 01000000 00000000")
    sides.reap()
    assert descriptor_of(view, 0) == image("77000000 00000000 000c0100 00000000 3c000000 00000000 00000000 00000000")
    expect(view, "00000001 00000000 01000000 01000000 00000000 01000000 01000000 00000000")


def test_back_pressure_variant_rings_south_when_a_slot_is_free_again(ring):
    view, sides = ring(Pattern.RX)
    north, south = sides.signals
    sides.provide(EVENTS)
    assert not north.enable()
    for event in range(4):
        sides.fill(0x90)
        assert south.inject() == (event == 0)
    assert not south.enable()
    expect(view, "01010101 00000000 00000000 00000000 01000000 00000000 00000000 01000000")
    rung = []

    def one_event():
        sides.collect_and_refill(EVENTS[0])
        rung.append(north.inject())

    assert not north.wakeup(one_event)
    assert rung == [True]
    expect(view, "01000001 01010000 00000000 00000000 01000000 01000000 00000000 00000000")
