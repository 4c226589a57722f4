"""Whatever the order of things, and whatever the other side writes (vbus 11, 14.2, 14.7)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vbus_core_rig import BASE, BYTES, FRAME_BYTES, RawNorth, ToyDriver, World, registry_with, toy

from pvnet.core.errors import WireError
from pvnet.core.machine import Tick
from pvnet.ring.errors import RingError
from pvnet.ring.roles import Variant
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    ClientGone,
    Doorbell,
    Interrupt,
    SignalBound,
    SignalRang,
)
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import BusVector, EventId
from pvnet.vbus.north_io import DeviceBound, HostGone, Start, Stop, VbusNorthConfig
from pvnet.vbus.south_io import BusCall, VbusSouthConfig

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["close", "pop", "drop", "force", "send", "ring", "shm", "tick", "poll"]), st.integers(0, 5)
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_every_signal_is_closed_exactly_once_whatever_the_order(steps: list[tuple[str, int]], dies: bool) -> None:
    """South alone, a raw north: DEVCLOSE, events popped late or not, devices dropped, death of the client."""
    registry = registry_with("lpar1", devices=3)
    devices = [toy(registry, f"toy{number}") for number in range(3)]
    north = RawNorth(registry, events=3)
    south = north.south
    north.up()
    handles = {number: north.open(number) for number in range(3)}
    cookies: dict[int, int] = {}
    known: set[int] = set()
    closed: list[int] = []
    signals: set[object] = set()

    def see() -> None:
        signals.update(south.signals._by_handle.values())
        for event in north.pop():
            if event.id == EventId.SHMSIGNAL:
                assert event.handle in known
                assert event.handle not in closed, "a signal after its close"
            elif event.id == EventId.SHMCLOSE:
                assert event.handle in known
                assert event.handle not in closed, "closed twice"
                closed.append(event.handle)

    attached = {0, 1, 2}
    for number in range(3):
        for region in range(2):
            cookie = 0x100 + len(known)
            if north.shm(handles[number], 100 + region, cookie) > 0:
                known.add(cookie)
                cookies[number] = cookie
    for what, which in steps:
        number = which % 3
        match what:
            case "close":
                north.call(BusVector.DEVCLOSE, handles[number].to_bytes(8, "little"))
            case "pop":
                see()
            case "drop" | "force" if number in attached:
                attached.discard(number)
                registry.detach(f"toy{number}", force=what == "force")
            case "send":
                for connection in devices[number].connections:
                    for region in connection.regions.values():
                        assert region.signal is not None
                        region.signal.inject()
            case "ring":
                north.feed(Doorbell(8, which))
            case "shm":
                cookie = 0x100 + len(known)
                if north.shm(handles[number], 102 + which, cookie) > 0:
                    known.add(cookie)
            case "poll":
                north.now += 0.1
                north.feed(Tick())
            case _:
                north.feed(Tick())
    signals.update(south.signals._by_handle.values())
    if dies:
        north.feed(ClientGone())
    else:
        for number in range(3):
            north.call(BusVector.DEVCLOSE, handles[number].to_bytes(8, "little"))
        for _ in range(20):
            see()
            north.feed(Doorbell(0, 0))
        assert sorted(closed) == sorted(known)
    assert south.signals.alive == 0
    assert all(signal.references == 0 for signal in signals)  # type: ignore[attr-defined]
    assert south.queues.backlog == 0
    for device in devices:
        assert [(c.closed, c.released) for c in device.connections] == [(1, 1)] * len(device.connections)
    assert registry.shown()["devices"] is not None
    for entry in registry.shown()["devices"]:  # type: ignore[attr-defined]
        assert entry["opened_by"] is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from(list(Variant)), st.booleans())
def test_both_halves_agree_in_any_order_of_messages(seed: int, variant: Variant, direct: bool) -> None:
    """Each direction stays in order, as the links promise; how the two interleave is up to chance."""
    choose = random.Random(seed)
    south = VbusSouthConfig(queues=choose.choice([1, 3, 8]))
    world = World(
        driver=ToyDriver(count=4, variant=variant),
        south=south,
        north=VbusNorthConfig(events=choose.choice([1, 2, 16]), queues=south.queues),
    )
    world.feed_north(Start())
    sent: list[bytes] = []
    accepted: list[bytes] = []
    attached = True
    for step in range(120):
        match choose.randrange(8):
            case 0 | 1 if world.to_south:
                world.feed_south(world.to_south.popleft())
            case 2 | 3 if world.to_north:
                world.feed_north(world.to_north.popleft())
            case 4:
                for name in world.due():
                    (world.feed_north if name == "north" else world.feed_south)(Tick())
            case 5 if world.toy.connections and world.toy.connection.rx is not None and attached:
                if not world.toy.connection.closed:
                    frame = bytes([step]) * 20
                    if world.toy.connection.send(frame):
                        accepted.append(frame)
            case 6 if world.driver.tx is not None and DeviceBound(0, world.toy.type) in world.said and attached:
                frame = bytes([step]) * 30
                address = world.driver.buffers - FRAME_BYTES
                world.arena.write(address, frame)
                world.settle()
                if world.driver.tx is not None and attached and world.driver.send(step, address, 30):
                    sent.append(frame)
                    world.settle()
                    world.driver.tx.reclaim(4)
            case 7 if direct and world.driver.rx_signal is not None:
                world.feed_south(SignalBound(world.driver.rx_signal.cookie))
            case _:
                pass
    world.settle()
    assert world.said.count(DeviceBound(0, world.toy.type)) == 1
    assert world.toy.sent == sent
    assert world.driver.frames == accepted
    world.advance(0.1)
    world.advance(0.1)
    assert world.north.counters["lost_wakeup_rescues"] == world.south.counters["lost_wakeup_rescues"] == 0
    world.feed_north(Stop())
    world.settle()
    assert len(world.north.signals) == 0
    assert world.north.tasks.devices == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_scribbling_north_never_makes_the_host_raise_or_write_outside(seed: int) -> None:
    """Random bytes over every shared word while traffic runs: bounded work, and another client is not disturbed."""
    choose = random.Random(seed)
    world = World(driver=ToyDriver(count=4))
    world.registry.join("lpar2", "lan")
    other_memory = bytearray(BYTES)
    other = RawNorth(world.registry, events=8, client="lpar2", memory=other_memory)
    world.feed_north(Start())
    world.settle()
    guard = bytes(4096)
    for _ in range(400):
        scribble(choose, world.memory)
        match choose.randrange(7):
            case 0:
                call = bytes(choose.randrange(256) for _ in range(16))
                world.feed_south(BusCall(1, call))
            case 1:
                vector, length = choose.choice([(0, 16), (1, 32), (2, 16), (2, 16), (3, 16), (4, 16)])
                address = BASE + choose.randrange(0x3000)
                call = vector.to_bytes(4, "little") + length.to_bytes(4, "little") + address.to_bytes(8, "little")
                outputs = world.feed_south(BridgeCall(1, call))
                assert sum(isinstance(output, BridgeResult) for output in outputs) == 1
            case 2:
                world.feed_south(Doorbell(choose.choice([0, 4, 8, 12]), choose.randrange(6)))
            case 3:
                world.feed_south(SignalRang(choose.choice([1 << 32 | 1, 1 << 32 | 2, choose.getrandbits(64)])))
            case 4:
                for connection in world.toy.connections[-1:]:
                    if connection.rx is not None and not connection.closed:
                        guarded(lambda: world.toy.connection.send(b"y" * 60))
            case 5:
                world.now += 0.11
                world.feed_south(Tick())
            case _:
                world.feed_south(Tick())
        assert len(world.memory) == BYTES
        assert world.memory[-4096:] == guard
    assert other.up() == 0
    assert other.open(0) in (-16, other.handle)
    world.feed_south(ClientGone())
    assert world.south.signals.alive == 0
    assert other_memory[-4096:] == guard


@pytest.mark.parametrize("seed", range(12))
def test_a_north_whose_calls_are_scribbled_on_never_makes_the_host_raise(seed: int) -> None:
    """Calls that would be right, in any order, with bytes changed between being written and being executed."""
    choose = random.Random(seed)
    registry = registry_with("lpar1", devices=2)
    north = RawNorth(registry, events=4, config=VbusSouthConfig(queues=2, signals=6, channels=2))
    handles: list[int] = [0]
    feed = north.feed

    def scribbled(event: object) -> list[object]:
        if choose.randrange(3) == 0:
            scribble(choose, north.memory, 0xA000)
        return feed(event)

    north.feed = scribbled  # type: ignore[method-assign]
    for _ in range(500):
        match choose.randrange(12):
            case 0:
                north.negotiate(choose.choice([0, 1, 3]))
            case 1 | 2:
                with contextlib.suppress(AssertionError):
                    north.up()
            case 3 | 4:
                handles.append(north.open(choose.randrange(3)))
            case 5 | 6:
                north.regions %= 64
                north.shm(choose.choice(handles) & (1 << 64) - 1, choose.choice([0, 1, 100, 101]), choose.randrange(9))
            case 7:
                north.call(BusVector.DEVCLOSE, (choose.choice(handles) & (1 << 64) - 1).to_bytes(8, "little"))
            case 8:
                with contextlib.suppress(RingError, WireError):
                    for queue in range(len(north.rings)):
                        north.pop(queue=queue)
            case 9:
                north.feed(Doorbell(choose.choice([0, 4, 8]), choose.randrange(8)))
            case 10:
                which = choose.randrange(2)
                if choose.randrange(2):
                    with contextlib.suppress(VbusError):
                        registry.detach(f"toy{which}", force=choose.randrange(2) == 0)
                else:
                    with contextlib.suppress(VbusError):
                        registry.attach(f"toy{which}", "lan")
            case _:
                for name in ("toy0", "toy1"):
                    for connection in toy(registry, name).connections:
                        for region in connection.regions.values():
                            if region.signal is not None:
                                region.signal.inject()
                north.now += 0.1
                north.feed(Tick())
        assert north.south.signals.alive <= 6
        assert north.south.queues.backlog <= 6 + 2 * 4 + 2
        assert north.memory[-4096:] == bytes(4096)
    feed(ClientGone())
    assert north.south.signals.alive == north.south.queues.backlog == 0
    for name in ("toy0", "toy1"):
        assert all((c.closed, c.released) == (1, 1) for c in toy(registry, name).connections)


@pytest.mark.parametrize("seed", range(12))
def test_a_scribbling_south_never_makes_the_partition_raise_or_write_outside(seed: int) -> None:
    choose = random.Random(seed)
    world = World(driver=ToyDriver(count=4))
    world.feed_north(Start())
    world.settle()
    guard = bytes(4096)
    for _ in range(400):
        scribble(choose, world.memory)
        match choose.randrange(7):
            case 0:
                world.feed_north(Interrupt(choose.choice([0, 0, 0, 1, 9])))
            case 1:
                world.feed_north(SignalRang(choose.choice([1 << 32 | 1, 1 << 32 | 2, choose.getrandbits(64)])))
            case 2:
                world.feed_north(BridgeResult(choose.randrange(20), choose.choice([0, 1, -22, 1 << 30])))
            case 3 if world.to_south:
                world.feed_south(world.to_south.popleft())
            case 4 if world.to_north:
                world.feed_north(world.to_north.popleft())
            case 5:
                world.now += choose.choice([0.11, 1.1])
                world.feed_north(Tick())
            case _:
                if world.driver.tx is not None and world.driver.tx_signal is not None:
                    guarded(lambda: world.driver.send(1, world.driver.buffers, 60))
                world.feed_north(Tick())
        assert len(world.north.signals) <= 4096
        assert world.memory[-4096:] == guard
    world.memory[:] = bytes(BYTES)
    world.feed_north(HostGone())
    assert world.north.tasks.devices == {}
    assert len(world.north.signals) == 0
    world.to_south.clear()
    world.to_north.clear()
    world.feed_south(ClientGone())
    world.reconnect()
    world.feed_north(Start())
    world.settle()
    assert world.said[-1] == DeviceBound(0, world.toy.type)
    world.feed_north(Stop())
    world.settle()
    bridge_only = World(driver=ToyDriver(count=4))
    bridge_only.feed_north(Start())
    assert world.allocator.used == bridge_only.allocator.used, "the driver has given back everything"


def scribble(choose: random.Random, memory: bytearray, size: int = 0x4000) -> None:
    """A few random bytes over the bridge's structures and the rings."""
    for _ in range(choose.choice([0, 0, 1, 3, 30])):
        offset = choose.randrange(size)
        memory[offset] = choose.choice([0, 1, 2, 0xFF, choose.randrange(256)])


def guarded(action: Callable[[], object]) -> None:
    """A device's or driver's own caller meets the ring's fault; the machines must not."""
    with contextlib.suppress(RingError, VbusError):
        action()
