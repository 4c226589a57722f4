"""A flood of one peer does not delay another's event by more than one pass (vbus 1 R6, 14.4, A13)."""

from __future__ import annotations

import pytest
from vbus_core_rig import BASE, TYPE, RawNorth, World, registry_with, toy

from pvnet.core.machine import Tick
from pvnet.vbus.bridge_io import Interrupt
from pvnet.vbus.event_loop import BUDGET, QUOTA
from pvnet.vbus.layout import Event, EventId
from pvnet.vbus.north_io import DeviceBound, Start, VbusNorthConfig
from pvnet.vbus.south_io import VbusSouthConfig

FLOOD = 100_000


class Flood:
    """A host that fills the rings of a partition again whenever there is room."""

    def __init__(self, queues: int) -> None:
        self.world = World(
            south=VbusSouthConfig(queues=queues), north=VbusNorthConfig(queues=queues, events=128), size=1 << 18
        )
        self.world.feed_north(Start())
        self.world.settle()
        assert self.world.said[-1] == DeviceBound(0, TYPE)
        self.sent = 0
        self.junk = Event(EventId.DEVDROP, 1 << 40).encode()

    def fill(self, number: int, events: list[bytes] | None = None) -> None:
        """All the room there is, or just these."""
        queue = self.world.south.queues._queues[number]
        slots = queue.ring.take(128 if events is None else len(events))
        for index, slot in enumerate(slots):
            self.world.arena.write(slot.ptr, self.junk if events is None else events[index])
        if slots:
            queue.ring.fill([slot.length for slot in slots])
            self.sent += len(slots)
        if queue.ring.signal.inject():
            self.world.feed_north(Interrupt(number))


@pytest.mark.parametrize(("flooded", "victim"), [(0, 7), (7, 0), (3, 4), (7, 6)])
def test_a_flooded_queue_delays_another_by_one_pass_at_most(flooded: int, victim: int) -> None:
    flood = Flood(8)
    north = flood.world.north
    while flood.sent < FLOOD:
        flood.fill(flooded)
        before = north.counters["bad_devadd"], north.counters["events"]
        flood.fill(victim, [Event(EventId.DEVADD, 0, "again").encode()])  # its interrupt makes the one pass
        assert north.counters["bad_devadd"] == before[0] + 1
        assert north.counters["events"] - before[1] <= BUDGET
        assert north.deadline() == flood.world.now
    assert north.counters["budget_exhausted"] > FLOOD // 128


def test_when_all_queues_are_flooded_the_highest_has_most_and_each_has_its_quota() -> None:
    flood = Flood(8)
    for number in range(8):
        flood.fill(number)
    flood.world.settle()
    taken = []
    rings = flood.world.north._loop._rings  # type: ignore[union-attr]
    for number in range(8):
        flood.fill(number)
    before = [ring._head for ring in rings]  # type: ignore[attr-defined]
    flood.world.feed_north(Tick())
    taken = [(ring._head - head) % 128 for ring, head in zip(rings, before, strict=True)]  # type: ignore[attr-defined]
    assert taken[:7] == [QUOTA] * 7
    assert sum(taken) <= 2 * BUDGET


def test_within_one_queue_the_order_is_kept_and_the_ring_bounds_the_wait() -> None:
    flood = Flood(1)
    north = flood.world.north
    while flood.sent < FLOOD:
        flood.fill(0)
        flood.world.feed_north(Tick())
    before = north.counters["bad_devadd"]
    flood.world.settle()
    flood.fill(0, [flood.junk] * 127 + [Event(EventId.DEVADD, 0, "again").encode()])
    flood.world.feed_north(Tick())
    assert north.counters["bad_devadd"] == before + 1


def test_a_client_whose_signals_are_always_ready_has_a_bounded_turn() -> None:
    registry = registry_with("lpar1", "lpar2", devices=2)
    busy = RawNorth(registry, config=VbusSouthConfig(signals=400))
    calm = RawNorth(registry, client="lpar2")
    for north, device in ((busy, 0), (calm, 1)):
        north.up()
        north.open(device)
    for number in range(200):
        busy.shm(busy.handle, 100 + number, number)
    calm.shm(calm.handle, 100, 7)
    calm.pop()
    connection = toy(registry).connection
    for region in connection.regions.values():
        assert region.signal is not None
        region.signal.on_wakeup = region.signal.again
        region.signal.again()
    rounds = 0
    for _ in range(500):
        before = busy.south.counters["budget_exhausted"]
        busy.feed(Tick())
        rounds += busy.south.counters["budget_exhausted"] - before
        signal = toy(registry, "toy1").connection.regions[100].signal
        assert signal is not None
        signal.inject()
        calm.feed(Tick())
        assert calm.pop() == [Event(EventId.SHMSIGNAL, 7)]
        calm.memory[calm.REGIONS - BASE + 9] = 0  # looked
    assert rounds == 500
