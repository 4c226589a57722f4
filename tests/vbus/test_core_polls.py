"""Wakeups that did not come as they should: rescue polls, memory that arrives as a copy, and other rare turns."""

from __future__ import annotations

import pytest
from vbus_core_rig import BASE, RawNorth, ToyDriver, World, registry_with, toy

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EINVAL, EPERM
from pvnet.ring.errors import EAGAIN, RingError, RingFault
from pvnet.runtime.fence import full_fence
from pvnet.vbus.bridge_io import BridgeResult, DeviceAdded, Doorbell, Interrupt, MemoryChanged, SignalRang
from pvnet.vbus.device import Region
from pvnet.vbus.layout import BusVector, DeviceCall, DeviceClose, Event, EventId
from pvnet.vbus.north_driver import ProxyDevice, Steps
from pvnet.vbus.north_io import DeviceBound, HostGone, Start, Stop
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.south_io import VbusSouthConfig


def up(**config: int) -> tuple[RawNorth, int]:
    registry = registry_with("lpar1")
    north = RawNorth(registry, events=1, config=VbusSouthConfig(**config))  # type: ignore[arg-type]
    north.up()
    return north, north.open(0)


def take_quietly(north: RawNorth, *, signal: bool = True) -> list[Event]:
    """Empty the ring without ringing; ``signal``: at least say it in the shared bytes."""
    feed = north.feed
    north.feed = lambda event: []  # type: ignore[method-assign]
    events = north.pop()
    north.feed = feed  # type: ignore[method-assign]
    if not signal:
        north.memory[8 + 12] = north.memory[8 + 13] = 0
    return events


def test_a_blocked_queue_whose_north_never_rings_is_found_by_the_poll() -> None:
    north, _ = up()
    north.feed(DeviceAdded(5, "other"))
    assert north.south.queues.backlog == 1
    assert len(north.south.queues) == 1
    take_quietly(north)
    queue = north.south.queues._queues[0]
    for expected in (False, True, False):
        queue.blocked = True
        north.south.queues.recheck()
        assert queue.rung == expected
        if expected:
            assert north.south.counters["lost_wakeup_rescues"] == 1
            queue.rung = False


def test_slots_that_north_gave_without_saying_so_are_used_at_the_next_turn() -> None:
    north, _ = up()
    north.feed(DeviceAdded(5, "other"))
    take_quietly(north, signal=False)
    assert north.south.deadline() == pytest.approx(0.1)
    north.now = 0.1
    north.feed(Tick())
    assert north.pop() == [Event(EventId.DEVADD, 5, "other")]


def test_a_tick_before_its_time_polls_nothing() -> None:
    north, handle = up()
    north.shm(handle, 100, 1)
    north.memory[north.REGIONS - BASE + 13] = 1
    for _ in range(5):
        north.feed(Tick())
    assert north.south.counters["lost_wakeup_rescues"] == 0
    assert north.south.deadline() == pytest.approx(0.1)


def test_stores_that_arrive_as_a_copy_make_the_host_look_at_everything() -> None:
    north, handle = up()
    north.shm(handle, 100, 1)
    north.feed(DeviceAdded(5, "other"))
    take_quietly(north)
    north.memory[north.REGIONS - BASE + 13] = 1
    north.feed(MemoryChanged())
    assert toy(north.registry).connection.wakeups == {100: 1}
    assert north.pop() == [Event(EventId.DEVADD, 5, "other")]


def test_stores_that_arrive_as_a_copy_make_the_partition_look_at_everything() -> None:
    world = World()
    assert world.feed_north(MemoryChanged()) == []
    world.feed_north(Start())
    world.settle()
    world.toy.connection.send(b"x" * 60)
    world.feed_south(Tick())
    world.to_north.clear()  # the interrupt does not come
    world.feed_north(MemoryChanged())
    world.feed_north(Tick())
    assert world.driver.frames == [b"x" * 60]
    assert world.north.counters["lost_wakeup_rescues"] == 0


def test_a_dead_queue_takes_nothing_and_is_left_alone() -> None:
    north, _ = up()
    take_quietly(north)
    queue = north.south.queues._queues[0]
    queue.kill()
    north.feed(DeviceAdded(5, "other"))
    north.feed(MemoryChanged())
    north.feed(Doorbell(0, 0))
    assert north.south.queues.backlog == 0
    assert north.south.counters["coalesced"] == 1
    assert north.pop() == []


def test_devices_that_come_before_qreg_are_announced_by_it_only() -> None:
    registry = registry_with("lpar1")
    north = RawNorth(registry)
    north.negotiate()
    north.feed(DeviceAdded(5, "other"))
    assert north.south.queues.backlog == 0


def test_a_host_without_a_runtime_hook_still_works() -> None:
    registry = registry_with("lpar1")
    north = RawNorth(registry)
    north.south = VbusSouth("lpar1", north.arena, registry, full_fence)
    north.up()
    registry.detach("toy0")
    assert north.south.deadline() == 0.0


def test_inputs_that_wait_for_the_end_of_a_call_follow_it() -> None:
    north, handle = up()
    north.shm(handle, 100, 1)
    connection = toy(north.registry).connection
    view = north.arena.slice(connection.regions[100].address, 16)

    def call(func: int) -> int:
        view[12] = view[13] = 1
        assert north.south.feed(Doorbell(8, 1), 0.0) == []
        assert connection.wakeups == {}
        return 0

    connection.on_call = call
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == 0
    assert connection.wakeups == {100: 1}


@pytest.mark.parametrize(
    ("error", "result", "ends"),
    [(RingFault("broken"), -71, True), (RingError(EAGAIN, "later"), -EAGAIN, False), (LocalError("ours"), -5, True)],
)
def test_what_a_device_lets_through_becomes_an_errno(error: Exception, result: int, ends: bool) -> None:
    north, handle = up()
    connection = toy(north.registry).connection

    def call(func: int) -> int:
        raise error

    connection.on_call = call
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == result
    assert connection.closed == ends


def test_a_device_may_end_its_connection_itself() -> None:
    north, handle = up()
    north.shm(handle, 100, 1)
    toy(north.registry).connection.host.fault("the client does not behave")
    north.feed(Tick())
    assert toy(north.registry).connection.released == 1
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0


def test_a_wakeup_that_no_device_asked_for_does_nothing() -> None:
    north, handle = up()

    def keep(number: int, region: Region, flags: int) -> None:
        assert region.signal is not None
        region.signal.again()

    north.south.calls.opened[0].connection.shm = keep  # type: ignore[union-attr, method-assign]
    assert north.shm(handle, 100, 1) == 1
    assert not [output for output in north.outputs if isinstance(output, Note)]


def test_two_signals_may_have_the_same_cookie_and_both_close() -> None:
    north, handle = up()
    north.shm(handle, 100, 7)
    north.shm(handle, 101, 7)
    north.pop()
    north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())
    assert north.pop() + north.pop() == [Event(EventId.SHMCLOSE, 7)] * 2
    assert north.south.signals.alive == 0


# -- the partition's rare turns ----------------------------------------------------------------------------------------


def bound() -> World:
    world = World()
    world.feed_north(Start())
    world.settle()
    return world


def test_a_region_without_a_signal_is_registered() -> None:
    class Driver(ToyDriver):
        def probe(self, device: ProxyDevice) -> Steps:
            yield device.open(1)
            assert (yield device.shm(100, device.allocator.alloc(64), 64)) == 0

    world = World(driver=Driver())
    world.feed_north(Start())
    world.settle()
    assert world.said[-1] == DeviceBound(0, world.toy.type)
    assert world.toy.connection.regions[100].signal is None


def test_the_host_may_die_in_the_middle_of_devshm() -> None:
    world = World()
    world.feed_north(Start())
    while not len(world.north.signals):
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        else:
            world.feed_north(world.to_north.popleft())
    world.feed_north(HostGone())
    assert len(world.north.signals) == 0
    assert world.driver.removes == 1


def test_devices_announced_while_everything_stops_are_not_started() -> None:
    world = bound()
    world.feed_north(Stop())
    world.registry.device_create("toy", "late")
    world.registry.attach("late", "lan")
    world.settle()
    assert world.driver.probes == 1
    assert world.north.tasks.devices == {}


def test_a_refusal_that_comes_while_everything_stops_changes_nothing() -> None:
    for steps in (0, 1):
        world = World()
        world.feed_north(Start())
        if steps:
            world.feed_south(world.to_south.popleft())
            world.feed_north(world.to_north.popleft())
        world.feed_north(Stop())
        world.feed_north(BridgeResult(steps + 1, -EPERM))
        assert not [said for said in world.said if isinstance(said, Note)]
        assert world.north.deadline() is None


def test_a_device_dropped_and_announced_again_while_it_goes_is_set_up_after_it() -> None:
    world = bound()
    world.registry.leave("lpar1")
    world.registry.join("lpar1", "lan")
    world.feed_south(Tick())
    world.settle()
    assert world.driver.probes == 2
    assert world.said[-1] == DeviceBound(0, world.toy.type)
    world.registry.leave("lpar1")
    world.registry.join("lpar1", "lan")
    world.registry.leave("lpar1")
    world.feed_south(Tick())
    world.settle()
    assert world.north.tasks.devices == {}


def test_a_device_that_comes_back_twice_while_it_goes_counts_once() -> None:
    world = bound()
    tasks = world.north.tasks
    tasks.drop_id(0)
    tasks.add(0, "virtual-ethernet")
    tasks.add(0, "virtual-ethernet")
    assert world.north.counters["bad_devadd"] == 1
    tasks.drop_id(0)
    tasks.drop_id(0)
    assert world.north.counters["bad_devdrop"] == 1
    world.settle()
    assert world.north.tasks.devices == {}


def test_the_host_may_die_while_a_device_comes_back() -> None:
    world = bound()
    world.north.tasks.drop_id(0)
    world.north.tasks.add(0, "virtual-ethernet")
    world.feed_north(HostGone())
    assert world.north.tasks.devices == {}


def test_a_fault_while_the_device_goes_changes_nothing() -> None:
    world = bound()
    proxy = world.north.tasks.devices[0]
    world.north.tasks.drop_id(0)
    world.north.tasks.fault(proxy, LocalError("late"))
    proxy.defer(lambda: pytest.fail("the device is going"))
    world.settle()
    assert world.driver.removes == 1


def test_a_turn_wakes_a_limited_number_of_drivers() -> None:
    class Driver(ToyDriver):
        woken = 0

        def probe(self, device: ProxyDevice) -> Steps:
            yield device.open(1)
            self.signals = []
            for number in range(100):
                request = device.shm(100 + number, device.allocator.alloc(64), 64, signal_offset=0)
                yield request
                assert request.signal is not None
                request.signal.on_wakeup = self.tally
                self.signals.append(request.signal)

        def tally(self) -> None:
            self.woken += 1

    driver = Driver()
    world = World(driver=driver)
    world.feed_north(Start())
    world.settle()
    for signal in driver.signals:
        signal.again()
    world.feed_north(Tick())
    assert driver.woken == 64
    assert world.north.counters["budget_exhausted"] == 1
    world.feed_north(Tick())
    assert driver.woken == 100


def test_an_interrupt_for_a_queue_that_is_being_read_anyway_is_one_more_look() -> None:
    world = bound()
    queue = world.south.queues._queues[0]
    slots = queue.ring.take(16)
    for slot in slots:
        world.arena.write(slot.ptr, Event(EventId.DEVDROP, 99).encode())
    queue.ring.fill([slot.length for slot in slots])
    world.north._loop._marked.add(0)  # type: ignore[union-attr]
    world.feed_north(Interrupt(0))
    assert world.north.counters["bad_devdrop"] == 16


def test_a_signal_between_its_places_is_refused() -> None:
    north, handle = up()
    assert north.shm(handle, 100, length=16, offset=1) == -EINVAL


def test_a_busy_signal_is_no_rescue_when_its_doorbell_is_only_on_its_way() -> None:
    """Under load a poll always finds something; it counts only when nobody has rung since the poll before."""
    north, handle = up()
    north.shm(handle, 100, 1)
    world = bound()
    rx = world.arena.offset(world.driver.addresses[0], 8) + 8
    for number in range(1, 20):
        north.memory[north.REGIONS - BASE + 12] = north.memory[north.REGIONS - BASE + 13] = 1
        world.memory[rx + 9] = world.memory[rx + 10] = 1
        queue = world.arena.offset(world.north._places.queues[0][0], 8) + 8  # type: ignore[union-attr]
        world.memory[queue + 9] = world.memory[queue + 10] = 1
        north.now = world.now = number * 0.1
        north.feed(Tick())
        world.feed_north(Tick())
        north.feed(Doorbell(8, 1))
        assert world.driver.rx_signal is not None
        world.feed_north(SignalRang(world.driver.rx_signal.cookie))
        world.feed_north(Interrupt(0))
    assert north.south.counters["lost_wakeup_rescues"] == 0
    assert world.north.counters["lost_wakeup_rescues"] == 0
