"""Abuse cases of vbus 11 that concern rings and signals, one test each; a neighbour in the same memory goes on."""

from __future__ import annotations

import random
import struct

import pytest
from ring.support import buffers, memory, no_fence

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, EPROTO, RingError, RingFault
from pvnet.ring.event_signal import NORTH_LINE, SOUTH_LINE
from pvnet.ring.ioq import IndexType, Ioq, Seek
from pvnet.ring.layout import NORTH, SOUTH, Descriptor
from pvnet.ring.roles import Pattern, Variant, attach_ring, attach_signal, create_ring, ring_bytes, signal_offset
from pvnet.ring.shm_signal import ShmSignal

COUNT = 4
HUGE = (1 << 64) - 1


class Ring:
    """A ring, somewhere in a memory with a neighbour behind it."""

    def __init__(self, pattern, variant=Variant.IOQ_2009):
        size = ring_bytes(COUNT, variant)
        arena = memoryview(bytearray(2 * size))
        self.view, other = arena[:size], arena[size:]
        self.variant = variant
        self.north = create_ring(self.view, COUNT, pattern, no_fence, variant)
        self.neighbour = create_ring(other, COUNT, Pattern.TX, no_fence, variant)
        self.neighbours_south = attach_ring(other, Pattern.TX, no_fence, allow_2026=True)
        if pattern is Pattern.RX:
            self.north.provide(buffers(COUNT))
        self.south = attach_ring(self.view, pattern, no_fence, allow_2026=True)

    def at(self, slot, offset):
        return (56 if self.variant is Variant.IOQ_2009 else 256) + 32 * slot + offset

    def poke(self, slot, offset, fmt, value):
        struct.pack_into(fmt, self.view, self.at(slot, offset), value)

    def neighbour_works(self):
        batch = [Descriptor(1, 2, 3)]
        assert self.neighbour.push(batch) == 1
        assert self.neighbours_south.take(1) == batch
        self.neighbours_south.complete(1)
        assert self.neighbour.reclaim(1) == batch

    def faults(self, call, *arguments):
        """A fault, now and at every later use of this end; nobody else's business."""
        for _ in range(2):
            with pytest.raises(RingFault) as caught:
                call(*arguments)
            assert caught.value.errno == EPROTO
        self.neighbour_works()


@pytest.fixture(params=Variant)
def variant(request):
    return request.param


def refuses(view, pattern=Pattern.TX, **options):
    with pytest.raises(RingError) as caught:
        attach_ring(view, pattern, no_fence, **options)
    assert caught.value.errno == EINVAL


def test_a01_index_outside_of_the_ring_is_a_fault_for_who_reads_it_and_nothing_to_a_role():
    for offset in (24, 28, 36, 40):
        ring = Ring(Pattern.TX)
        ioq = Ioq.attach(ring.view, no_fence)
        struct.pack_into("<I", ring.view, offset, COUNT)
        which = IndexType.VALID if offset < 36 else IndexType.INUSE
        ring.faults(ioq.iterator(which).seek, Seek.HEAD)
        assert ring.north.push(buffers(COUNT)) == COUNT
        assert ring.south.take(9) == buffers(COUNT)
        refuses(ring.view) if offset in (24, 36) else None


def test_a01_prod_that_is_too_far_ahead_is_a_fault():
    ring = Ring(Pattern.TX, Variant.IOQ_2026)
    struct.pack_into("<I", ring.view, NORTH_LINE, COUNT + 1)
    ring.faults(ring.south.take, 1)
    ring = Ring(Pattern.TX, Variant.IOQ_2026)
    assert ring.north.push(buffers(2)) == 2
    struct.pack_into("<I", ring.view, SOUTH_LINE, 3)
    ring.faults(ring.north.reclaim, 1)


def test_a02_count_changed_after_attaching_is_not_looked_at(variant):
    ring = Ring(Pattern.TX, variant)
    struct.pack_into("<I", ring.view, 48 if variant is Variant.IOQ_2009 else 8, 1 << 20)
    for _ in range(3):
        assert ring.north.push(buffers(9)) == COUNT
        assert ring.south.take(9) == buffers(COUNT)
        ring.south.complete(COUNT)
        assert ring.north.reclaim(9) == buffers(COUNT)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 8, 2048, 2049, 0xFFFFFFFF])
def test_a03_zero_huge_or_unequal_count_is_refused(variant, count):
    ring = Ring(Pattern.TX, variant)
    struct.pack_into("<I", ring.view, 48 if variant is Variant.IOQ_2009 else 8, count)
    refuses(ring.view, allow_2026=True)
    ring.neighbour_works()


def test_a03_region_smaller_than_a_head_or_not_exact_or_more_than_the_host_takes_is_refused(variant):
    ring = Ring(Pattern.TX, variant)
    refuses(ring.view[:48], allow_2026=True)
    refuses(ring.view[:8], allow_2026=True)
    refuses(ring.view[:0], allow_2026=True)
    refuses(ring.view[:-32], allow_2026=True)
    refuses(ring.view, allow_2026=True, max_count=2)


@pytest.mark.parametrize("full", [0, 1, 0xFF])
def test_a04_full_flag_that_lies_changes_nothing(full):
    ring = Ring(Pattern.TX)
    for amount in (2, COUNT, 1):
        ring.view[32] = ring.view[44] = full
        assert ring.north.push(buffers(amount)) == amount
        assert ring.north.room() == COUNT - amount
        ring.view[32] = ring.view[44] = full
        assert ring.south.take(9) == buffers(amount)
        ring.south.complete(amount)
        assert ring.north.reclaim(9) == buffers(amount)


def test_a05_descriptor_taken_back_while_we_have_it_is_a_fault():
    ring = Ring(Pattern.TX)
    ring.north.push(buffers(2))
    ring.south.take(2)
    ring.poke(1, 25, "B", 0)
    ring.faults(ring.south.complete, 2)
    ring = Ring(Pattern.RX)
    ring.south.take(1)
    ring.poke(0, 25, "B", 0)
    ring.faults(ring.south.fill, [1])
    ring = Ring(Pattern.RX)
    ring.south.take(1)
    ring.south.fill([1])
    ring.north.collect(1)
    ring.poke(0, 25, "B", 1)
    ring.faults(ring.north.refill, buffers(1))


def test_a05_descriptor_that_south_takes_unasked_is_a_fault_and_one_it_returns_unasked_is_not_seen():
    ring = Ring(Pattern.TX)
    ring.poke(0, 25, "B", 1)
    ring.faults(ring.north.push, buffers(1))
    ring = Ring(Pattern.TX)
    ring.north.push(buffers(2))
    ring.poke(1, 25, "B", 0)
    assert ring.north.reclaim(9) == []
    ring.poke(0, 25, "B", 0)
    assert ring.north.reclaim(9) == buffers(2)
    assert ring.north.reclaim(9) == []  # all others were ours all the time


def test_a05_north_that_gives_more_than_it_has_shows_south_each_slot_once():
    ring = Ring(Pattern.TX)
    for slot in range(COUNT):
        ring.poke(slot, 24, "<H", 0x0101)
    assert len(ring.south.take(1000)) == COUNT
    assert ring.south.take(1000) == []
    assert ring.south.outstanding == COUNT


@pytest.mark.parametrize("sown", [2, 0x80, 0xFF])
def test_a05_owner_that_does_not_exist_is_a_fault(sown):
    for pattern in Pattern:
        ring = Ring(pattern)
        ring.poke(0, 25, "B", sown)
        ring.faults(ring.south.take, 1)
    ring = Ring(Pattern.TX)
    ring.north.push(buffers(1))
    ring.poke(0, 25, "B", sown)
    ring.faults(ring.north.reclaim, 1)
    ring = Ring(Pattern.RX)
    ring.poke(0, 25, "B", sown)
    ring.faults(ring.north.collect, 1)


def test_a05_descriptor_with_a_wrong_generation_direction_or_pad_is_a_fault():
    for offset, value in ((20, 0), (22, 2), (22, 0xFFFF), (24, 1), (31, 0xFF)):
        ring = Ring(Pattern.TX, Variant.IOQ_2026)
        ring.north.push(buffers(1))
        ring.poke(0, offset, "B" if offset > 23 else "<H", value)
        ring.faults(ring.south.take, 1)
    ring = Ring(Pattern.TX, Variant.IOQ_2026)
    ring.north.push(buffers(1))
    struct.pack_into("<I", ring.view, SOUTH_LINE, 1)  # handed back, and still marked as handed over
    ring.faults(ring.north.reclaim, 1)


def test_a06_descriptor_changed_after_the_check_does_not_change_what_we_have(variant):
    ring = Ring(Pattern.TX, variant)
    ring.north.push(buffers(2))
    taken = ring.south.take(1)
    for slot in range(2):
        for offset in (0, 8):
            ring.poke(slot, offset, "<Q", 0xDEAD)
    assert taken == buffers(1)
    assert ring.south.take(1)[0][:2] == (0xDEAD, 0xDEAD)
    ring.south.complete(2)
    assert ring.north.reclaim(9) == buffers(2)  # north's are its own copies


def test_a06_buffer_made_smaller_after_the_check_is_judged_by_the_copy():
    ring = Ring(Pattern.RX)
    ring.south.take(1)
    ring.poke(0, 16, "<Q", 1)
    ring.south.fill([200])
    assert ring.north.collect(1) == [Descriptor(0x100, 0x10000, 200)]


def test_a07_torn_fields_are_numbers_like_others():
    ring = Ring(Pattern.TX)
    ring.north.push(buffers(1))
    ring.poke(0, 8, "<Q", 0x0001_0C00_FFFF_FFFF)
    assert ring.south.take(1) == [Descriptor(0x100, 0x0001_0C00_FFFF_FFFF, 256)]
    ring.south.complete(1)


def test_a08_more_bytes_than_the_buffer_holds_are_a_fault(variant):
    ring = Ring(Pattern.RX, variant)
    ring.south.take(1)
    ring.south.fill([256])
    length = 257 if variant is Variant.IOQ_2026 else HUGE
    ring.poke(0, 16, "<I" if variant is Variant.IOQ_2026 else "<Q", length)
    ring.faults(ring.north.collect, 1)


def test_a08_address_and_length_reach_south_unwrapped_for_its_check():
    ring = Ring(Pattern.TX)
    ring.north.push([Descriptor(0, HUGE, HUGE)])
    (descriptor,) = ring.south.take(1)
    assert descriptor.ptr + descriptor.length == 2 * HUGE


def test_a19_pending_set_by_the_peer_silences_this_signal_until_a_recheck():
    ring = Ring(Pattern.RX)
    signal = ring.north.signal
    signal.enable()
    ring.view[8 + 9] = 1  # our pending
    ring.south.take(1)
    ring.south.fill([1])
    assert not ring.south.signal.inject()
    assert signal.recheck()
    got = []
    assert not signal.wakeup(lambda: got.extend(ring.north.collect(9)))
    assert len(got) == 1
    ring.south.take(1)
    ring.south.fill([1])
    assert ring.south.signal.inject()
    ring.neighbour_works()


def test_a20_enabled_cleared_by_the_peer_costs_it_its_doorbells_and_is_written_again(variant):
    ring = Ring(Pattern.TX, variant)
    signal = ring.south.signal
    signal.enable()
    flag = 8 + 11 if variant is Variant.IOQ_2009 else SOUTH_LINE + 12
    assert ring.view[flag] == 1
    ring.view[flag] = 0
    ring.north.push(buffers(1))
    assert not ring.north.signal.inject()
    assert signal.enabled
    assert signal.recheck()
    assert ring.view[flag] == 1
    got = []
    signal.wakeup(lambda: got.extend(ring.south.take(9)))
    assert got == buffers(1)
    ring.north.push(buffers(1))
    assert ring.north.signal.inject()


def test_a21_flood_of_doorbells_runs_no_notifier(variant):
    signal = Ring(Pattern.TX, variant).south.signal
    signal.enable()
    for _ in range(1000):
        assert not signal.wakeup(pytest.fail)
    assert signal.counters.spurious == 1000


@pytest.mark.parametrize("offset", [0, 4, 8, 12])
def test_a22_bad_magic_or_version_is_refused(offset):
    ring = Ring(Pattern.TX)
    ring.view[offset] ^= 1
    refuses(ring.view)
    if offset >= 8:
        with pytest.raises(RingError) as caught:
            attach_signal(ring.view, signal_offset(), SOUTH, no_fence)
        assert caught.value.errno == EINVAL
    ring.neighbour_works()


@pytest.mark.parametrize("offset", [0, 4, 12, 16, 0x20, 0x3F, 0x50, 0x7F, 0x90, 0xC0, 0xFF])
def test_a22_bad_magic_version_stride_features_or_gap_is_refused(offset):
    ring = Ring(Pattern.TX, Variant.IOQ_2026)
    ring.view[offset] ^= 1
    refuses(ring.view, allow_2026=True)
    with pytest.raises(RingError):
        attach_signal(ring.view, signal_offset(Variant.IOQ_2026), SOUTH, no_fence, allow_2026=True)


def test_a_2026_ring_is_refused_unless_it_was_agreed():
    ring = Ring(Pattern.TX, Variant.IOQ_2026)
    refuses(ring.view)
    with pytest.raises(RingError):
        attach_signal(ring.view, signal_offset(Variant.IOQ_2026), SOUTH, no_fence)


def test_a_2026_ring_that_another_south_used_is_refused():
    for word in (SOUTH_LINE, SOUTH_LINE + 4):
        ring = Ring(Pattern.TX, Variant.IOQ_2026)
        ring.view[word] = 1
        refuses(ring.view, allow_2026=True)


def test_signals_attached_apart_from_the_ring_are_the_rings(variant):
    ring = Ring(Pattern.TX, variant)
    offset = signal_offset(variant)
    north = attach_signal(ring.view, offset, NORTH, no_fence, allow_2026=True)
    south = attach_signal(ring.view, offset, SOUTH, no_fence, allow_2026=True)
    again = attach_ring(ring.view, Pattern.TX, no_fence, allow_2026=True, signal=south)
    assert again.signal is south
    south.enable()
    ring.north.push(buffers(1))
    assert north.inject()
    assert isinstance(north, ShmSignal) == (variant is Variant.IOQ_2009)


def test_our_own_mistakes_are_not_faults(variant):
    tx, rx = Ring(Pattern.TX, variant), Ring(Pattern.RX, variant)
    for wrong in (Descriptor(-1, 0, 0), Descriptor(0, 1 << 64, 0), Descriptor(0, 0, 1 << 64), Descriptor(0, 0, -1)):
        with pytest.raises(LocalError, match="64 bits"):
            tx.north.push([wrong])
    assert tx.south.take(9) == []
    assert tx.north.push(buffers(1)) == 1
    assert tx.south.take(9) == buffers(1)
    for call, argument in (
        (tx.south.complete, 2),
        (tx.south.complete, -1),
        (rx.south.fill, [1]),
        (rx.north.refill, buffers(1)),
        (rx.north.provide, buffers(COUNT)),
        (create_ring(memory(2, variant), 2, Pattern.RX, no_fence, variant).provide, []),
    ):
        with pytest.raises(LocalError):
            call(argument)
    rx.south.take(1)
    for lengths in ([257], [-1], [1, 1]):
        with pytest.raises(LocalError):
            rx.south.fill(lengths)
    with pytest.raises(LocalError):
        create_ring(tx.view[:-8], COUNT, Pattern.TX, no_fence, variant)
    for end in (tx, rx):
        end.neighbour_works()


def test_a_2026_ring_has_a_count_that_is_a_power_of_two():
    for count in (0, 3, 4096):
        with pytest.raises(LocalError):
            create_ring(memory(count, Variant.IOQ_2026), count, Pattern.TX, no_fence, Variant.IOQ_2026)
    fresh = create_ring(memory(2, Variant.IOQ_2026), 2, Pattern.RX, no_fence, Variant.IOQ_2026)
    with pytest.raises(LocalError):
        fresh.refill(buffers(1))


def test_nothing_to_do_is_not_an_error(variant):
    tx, rx = Ring(Pattern.TX, variant), Ring(Pattern.RX, variant)
    before = bytes(tx.view), bytes(rx.view)
    assert tx.north.push([]) == 0
    tx.south.complete(0)
    rx.south.fill([])
    rx.north.refill([])
    assert tx.north.reclaim(0) == tx.south.take(0) == rx.north.collect(-1) == rx.south.take(-5) == []
    assert before == (bytes(tx.view), bytes(rx.view))


# -- a peer that writes anything anywhere ------------------------------------------------------------------------


def steps_of(ring, pattern, rng):
    """What each side may do next, with checks of what it is shown."""

    def show(items):
        """What south sees are the peer's numbers; what north sees must be its own."""
        assert len(items) <= COUNT
        for item in items:
            assert all(0 <= field <= HUGE for field in item)
        return len(items)

    def show_own(items):
        for item in items:
            assert item.length <= 256
            assert item.ptr == 0x10000 + 256 * (item.cookie - 0x100)
        return show(items)

    north, south = ring.north, ring.south
    if pattern is Pattern.TX:
        return {
            "north": [
                lambda: north.push(buffers(rng.randrange(6))),
                lambda: show_own(north.reclaim(rng.randrange(6))),
            ],
            "south": [
                lambda: show(south.take(rng.randrange(6))),
                lambda: south.complete(rng.randrange(south.outstanding + 1)),
            ],
        }
    state = {"collected": 0}

    def collect():
        state["collected"] += show_own(north.collect(rng.randrange(6)))

    def refill():
        amount = rng.randrange(state["collected"] + 1)
        north.refill(buffers(amount))
        state["collected"] -= amount

    return {
        "north": [collect, refill],
        "south": [
            lambda: show(south.take(rng.randrange(6))),
            lambda: south.fill([0] * rng.randrange(south.outstanding + 1)),
        ],
    }


@pytest.mark.parametrize("honest", ["north", "south"])
@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("size", [1, 4, 32], ids="{}-bytes".format)
def test_a_scribbling_peer_causes_faults_and_nothing_else(variant, pattern, honest, size):
    faults = 0
    for seed in range(150):
        rng = random.Random(f"{variant}{pattern}{honest}{size}{seed}")
        ring = Ring(pattern, variant)
        steps = steps_of(ring, pattern, rng)
        mine, peers = steps[honest], steps["south" if honest == "north" else "north"]
        signal = (ring.north if honest == "north" else ring.south).signal
        wakes: list[None] = []
        signal.enable()
        try:
            for _ in range(40):
                at = rng.randrange(len(ring.view) - size + 1)
                noise = rng.choice([rng.randbytes(size), b"\0" * size, b"\1" * size, b"\xff" * size])
                ring.view[at : at + size] = noise
                rng.choice(mine)()
                signal.inject()
                before = len(wakes)
                signal.wakeup(lambda wakes=wakes: wakes.append(None))
                signal.recheck()
                assert len(wakes) - before <= 4
                if rng.random() < 0.3:
                    try:
                        rng.choice(peers)()
                    except RingFault:
                        peers = [lambda: None]
        except RingFault:
            faults += 1
        ring.neighbour_works()
    assert faults > 0
