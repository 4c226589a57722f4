"""The partition's half of the bridge: bring-up, drivers and their tasks, references, what comes back by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vbus_core_rig import BASE, BYTES, ECHO, MAC, MAC_BYTES, TYPE, ToyDriver, World

from pvnet.core.errors import ConfigError, LocalError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EINVAL, EIO, ENOMEM
from pvnet.ring.roles import Variant
from pvnet.vbus.arena import ArenaAllocator
from pvnet.vbus.bridge_io import BridgeCall, BridgeResult, Doorbell, Interrupt, SignalClosed, SignalOpened
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import CallDescriptor
from pvnet.vbus.north import NorthState
from pvnet.vbus.north_driver import ProxyDevice, Steps
from pvnet.vbus.north_io import BridgeDown, BridgeUp, DeviceBound, DeviceUnbound, HostGone, Start, Stop, VbusNorthConfig
from pvnet.vbus.south_io import VbusSouthConfig

BOUND = DeviceBound(0, TYPE)
UNBOUND = DeviceUnbound(0, TYPE)


class Scripted(ToyDriver):
    """A driver whose probe and remove are given by the test."""

    def __init__(
        self, probe: Callable[[ProxyDevice], Steps] | None = None, remove: Callable[[ProxyDevice], Steps] | None = None
    ) -> None:
        super().__init__()
        self.on_probe = probe
        self.on_remove = remove
        self.errors: list[int] = []

    def probe(self, device: ProxyDevice) -> Steps:
        if self.on_probe is None:
            yield from super().probe(device)
            return
        self.probes += 1
        self.device = device
        yield from self.on_probe(device)

    def remove(self, device: ProxyDevice) -> Steps:
        if self.on_remove is None:
            yield from super().remove(device)
            return
        self.removes += 1
        yield from self.on_remove(device)


def started(driver: ToyDriver | None = None, **world: object) -> World:
    made = World(driver=driver, **world)  # type: ignore[arg-type]
    made.feed_north(Start())
    made.settle()
    return made


def notes(world: World) -> list[str]:
    return [said.event for said in world.said if isinstance(said, Note)]


# -- bring-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", list(Variant))
def test_the_bridge_comes_up_and_its_device_is_bound(variant: Variant) -> None:
    world = started(ToyDriver(variant=variant))
    assert world.said[0] == BridgeUp(1)
    assert world.said[-1] == BOUND
    assert world.driver.device is not None
    assert world.driver.device.allow_2026
    assert world.north.state is NorthState.UP
    shown = world.north.shown()
    assert (shown["state"], shown["capabilities"], shown["signals"]) == ("up", 1, 2)
    assert shown["devices"] == [{"id": 0, "type": TYPE, "state": "bound", "handle": 0x200000001, "signals": 2}]


def test_several_queues_come_up_too() -> None:
    world = started(south=VbusSouthConfig(queues=8))
    assert world.said[-1] == BOUND


def test_a_configuration_out_of_range_is_refused() -> None:
    for wrong in ({"queues": 0}, {"queues": 9}, {"events": 0}, {"events": 2049}):
        with pytest.raises(ConfigError):
            VbusNorthConfig(**wrong)


def test_a_refused_negotiation_is_tried_again_with_growing_pauses() -> None:
    world = World()
    world.registry.leave("lpar1")
    world.feed_north(Start())
    world.settle()
    assert world.said[-1] == BridgeDown("refused")
    assert notes(world) == ["negotiate_refused"]
    starts = []
    for _ in range(200):
        at = world.north.deadline()
        assert at is not None
        starts.append(at - world.now)
        world.now = at
        world.settle()
        if len(starts) == 7:
            break
    assert starts == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    world.registry.join("lpar1", "lan")
    world.advance(30.0)
    assert world.said[-1] == BOUND


def test_a_refused_registration_is_tried_again() -> None:
    world = World(north=VbusNorthConfig(queues=2))
    world.feed_north(Start())
    world.settle()
    assert notes(world) == ["qreg_refused"]
    assert world.north.deadline() == 1.0


def test_a_negotiation_answered_with_nonsense_is_tried_again() -> None:
    world = World()
    world.feed_north(Start())
    (call,) = world.to_south
    assert isinstance(call, BridgeCall)
    world.arena.write(CallDescriptor.decode(call.call).address, b"\0")
    world.feed_north(BridgeResult(call.tag, 0))
    assert notes(world) == ["negotiate_garbled"]
    assert world.said[-1] == BridgeDown("host_fault")
    world.to_south.clear()
    world.advance(1.0)
    assert world.said[-1] == BOUND


def test_start_again_begins_from_scratch() -> None:
    world = started()
    world.feed_north(Start())
    world.settle()
    assert [said for said in world.said if not isinstance(said, SignalOpened | SignalClosed)] == [
        BridgeUp(1),
        BOUND,
        UNBOUND,
        BridgeDown("restarted"),
        BridgeUp(1),
        BOUND,
    ]
    assert world.toy.connections[0].released == 1


def test_an_interrupt_that_overtakes_the_result_of_qreg_is_seen() -> None:
    world = World()
    world.feed_north(Start())
    world.feed_south(world.to_south.popleft())
    world.feed_north(world.to_north.popleft())
    world.feed_south(world.to_south.popleft())
    result, interrupt = world.to_north
    world.to_north.clear()
    assert isinstance(interrupt, Interrupt)
    world.feed_north(interrupt)
    assert 0 in world.north.tasks.devices
    world.feed_north(result)
    world.settle()
    assert world.said[-1] == BOUND


@pytest.mark.parametrize("after", range(9))
def test_stop_at_any_point_ends_with_everything_given_back(after: int) -> None:
    world = World()
    world.feed_north(Start())
    for _ in range(after):
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        elif world.to_north:
            world.feed_north(world.to_north.popleft())
    world.feed_north(Stop())
    world.settle()
    assert world.said[-1] == BridgeDown("stopped")
    assert world.north.state is NorthState.DOWN
    assert world.north.tasks.devices == {}
    assert world.north.deadline() is None
    assert all(connection.released for connection in world.toy.connections)
    assert world.driver.probes == world.driver.removes
    before = world.allocator.used
    world.feed_north(Start())
    world.settle()
    assert world.said[-1] == BOUND
    world.feed_north(Stop())
    world.settle()
    assert world.allocator.used == before
    assert len(world.north.signals) == 0


def test_stop_without_a_host_is_said_at_once() -> None:
    world = World()
    assert world.feed_north(Stop()) == [BridgeDown("stopped")]
    assert world.feed_north(HostGone()) == []


@pytest.mark.parametrize("after", range(12))
def test_the_host_may_die_at_any_point(after: int) -> None:
    world = World()
    world.feed_north(Start())
    for _ in range(after):
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        elif world.to_north:
            world.feed_north(world.to_north.popleft())
    world.feed_north(HostGone())
    assert world.said[-1] == BridgeDown("host_gone")
    assert world.driver.probes == world.driver.removes
    assert len(world.north.signals) == 0
    assert world.north.deadline() is None
    world.to_north.clear()
    world.to_south.clear()
    world.reconnect_after_death()
    world.feed_north(Start())
    world.settle()
    assert world.said[-1] == BOUND


def test_the_host_may_die_while_everything_is_being_stopped() -> None:
    world = started()
    world.feed_north(Stop())
    world.feed_north(HostGone())
    assert world.said[-1] == BridgeDown("host_gone")
    assert world.driver.removes == 1


# -- drivers -----------------------------------------------------------------------------------------------------------


def test_requests_are_answered_in_the_generator() -> None:
    results: list[int] = []
    mac, text = bytearray(6), bytearray(b"abcd")

    def probe(device: ProxyDevice) -> Steps:
        results.append((yield device.open(1)))
        results.append((yield device.call(MAC, mac)))
        results.append((yield device.call(ECHO, text)))
        results.append((yield device.call(0)))
        results.append((yield device.shm(100, device.allocator.alloc(64), 64)))
        for wrong in (device.open(1), device.call(55), device.shm(3, BASE, 64), device.shm(101, BASE + BYTES, 64)):
            try:
                yield wrong
            except VbusError as error:
                results.append(-error.errno)

    world = started(Scripted(probe))
    assert results == [0, 0, 4, 0, 0, -EINVAL, -EINVAL, -EINVAL, -14]
    assert (bytes(mac), bytes(text)) == (MAC_BYTES, b"dcba")
    assert world.said[-1] == BOUND


def test_requests_that_make_no_sense_do_not_reach_the_host() -> None:
    errors: list[int] = []
    other: list[ProxyDevice] = []

    def probe(device: ProxyDevice) -> Steps:
        other.append(device)
        for wrong in (device.call(0), device.close(), device.shm(100, BASE, 64), other[0].open(1)):
            try:
                yield wrong
            except VbusError as error:
                errors.append(error.errno)
        yield from ()

    started(Scripted(probe), devices=2)
    assert errors == [EINVAL] * 7  # the first device may open itself


def test_numbers_that_no_structure_holds_are_einval_and_leave_nothing() -> None:
    errors: list[int] = []

    def probe(device: ProxyDevice) -> Steps:
        yield device.open(1)
        address = device.allocator.alloc(64)
        for wrong in (
            device.call(1 << 32),
            device.call(0, flags=-1),
            device.shm(1 << 32, address, 64),
            device.shm(100, address, 64, signal_offset=0, prio=-1),
        ):
            try:
                yield wrong
            except VbusError as error:
                errors.append(error.errno)

    world = started(Scripted(probe))
    assert errors == [EINVAL] * 4
    assert len(world.north.signals) == 0


def test_a_driver_checks_its_own_arguments() -> None:
    world = started()
    device = world.driver.device
    assert device is not None
    with pytest.raises(LocalError):
        device.call(0, bytearray((64 << 10) + 1))
    with pytest.raises(LocalError):
        device.shm(100, BASE + 8, 32, signal_offset=24)


def test_no_memory_for_data_is_enomem_and_the_next_request_goes_on() -> None:
    errors: list[int] = []

    def probe(device: ProxyDevice) -> Steps:
        yield device.open(1)
        hog = device.allocator.alloc(device.allocator.available - 64, 1)
        try:
            yield device.call(ECHO, bytearray(60000))
        except VbusError as error:
            errors.append(error.errno)
        device.allocator.free(hog)
        yield device.call(0)

    world = started(Scripted(probe))
    assert errors == [ENOMEM]
    assert world.said[-1] == BOUND


def test_more_signals_than_the_table_holds_are_enospc() -> None:
    world = started(north=VbusNorthConfig(signals=1, events=16))
    assert world.said[-1] != BOUND
    assert world.driver.removes == 1
    assert "ENOSPC" in str(next(said for said in world.said if isinstance(said, Note)).fields)


def test_a_probe_that_fails_is_cleaned_up_and_tried_again_with_growing_pauses() -> None:
    def probe(device: ProxyDevice) -> Steps:
        yield device.open(1)
        yield device.call(77)

    driver = Scripted(probe, remove=lambda _: iter_nothing())
    world = started(driver)
    assert world.toy.connection.released == 1  # DEVCLOSE by itself
    assert world.north.shown()["devices"][0]["state"] == "retrying"  # type: ignore[index]
    pauses = []
    for _ in range(7):
        at = world.north.tasks.next_retry
        assert at is not None
        pauses.append(at - world.now)
        world.now = at
        world.settle()
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (driver.probes, driver.removes) == (8, 8)
    assert UNBOUND not in world.said
    driver.on_probe = None
    world.advance(30.0)
    assert world.said[-1] == BOUND


def iter_nothing() -> Steps:
    yield from ()


def test_a_device_that_goes_while_it_waits_for_its_next_try_is_forgotten() -> None:
    def probe(device: ProxyDevice) -> Steps:
        yield device.call(0)

    world = started(Scripted(probe))
    world.registry.detach("toy0")
    world.settle()
    assert world.north.tasks.devices == {}
    assert world.north.tasks.next_retry is None


def test_a_driver_that_goes_on_asking_is_stopped() -> None:
    asked = 0

    def probe(device: ProxyDevice) -> Steps:
        nonlocal asked
        while True:
            asked += 1
            try:
                yield device.call(0)
            except VbusError:
                continue

    world = started(Scripted(probe, remove=lambda _: iter_nothing()))
    assert 100 <= asked <= 102
    assert world.north.counters["probe_failed"] == 1


def test_a_device_without_a_driver_waits_for_one() -> None:
    world = World()
    world.north.tasks._drivers.clear()
    world.feed_north(Start())
    world.settle()
    assert world.north.counters["no_driver"] == 1
    world.north.add_driver(TYPE, world.driver)
    assert world.wanted == {"north"}
    world.settle()
    assert world.said[-1] == BOUND
    world.north.add_driver("other", world.driver)
    world.settle()
    assert world.driver.probes == 1


def test_a_device_without_a_driver_may_go() -> None:
    world = World()
    world.north.tasks._drivers.clear()
    world.feed_north(Start())
    world.settle()
    world.registry.detach("toy0")
    world.settle()
    assert world.north.tasks.devices == {}


def test_devdrop_in_the_middle_of_a_probe_ends_it_with_enodev() -> None:
    world = World(driver=Scripted())
    world.feed_north(Start())
    while not world.toy.connections:
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        else:
            world.feed_north(world.to_north.popleft())
    world.registry.detach("toy0")
    world.settle()
    assert world.driver.probes == world.driver.removes == 1
    assert world.north.tasks.devices == {}
    assert world.toy.connection.released == 1
    assert BOUND not in world.said
    assert UNBOUND not in world.said


def test_devdrop_in_the_same_pass_as_devadd_never_probes() -> None:
    world = World()
    world.feed_north(Start())
    for _ in range(3):
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        else:
            world.feed_north(world.to_north.popleft())
    world.registry.detach("toy0")
    world.feed_south(Tick())
    world.settle()
    assert world.driver.probes == world.driver.removes == 0
    assert world.north.tasks.devices == {}


def test_a_remove_that_fails_is_noted_and_devclose_follows() -> None:
    def remove(device: ProxyDevice) -> Steps:
        yield device.call(88)

    world = started(Scripted(remove=remove))
    world.registry.detach("toy0")
    world.settle()
    assert "remove_failed" in notes(world)
    assert world.said[-1] != BOUND
    assert UNBOUND in world.said
    assert world.toy.connection.released == 1
    assert len(world.north.signals) == 0


def test_further_tasks_run_one_after_the_other_and_end_with_the_device() -> None:
    ran: list[str] = []

    def task(device: ProxyDevice, name: str, func: int) -> Steps:
        ran.append(f"{name} begins")
        yield device.call(func)
        ran.append(f"{name} ends")

    world = started()
    device = world.driver.device
    assert device is not None
    device.run(task(device, "a", 0))
    device.run(task(device, "b", 66))
    device.run(task(device, "c", 0))
    assert world.wanted == {"north"}
    world.settle()
    assert ran == ["a begins", "a ends", "b begins", "c begins", "c ends"]
    assert "run_failed" in notes(world)
    device.run(task(device, "d", 0))
    device.run(task(device, "e", 0))
    world.feed_north(Tick())
    world.registry.detach("toy0")
    world.feed_south(Tick())
    world.feed_north(world.to_north.pop())
    world.settle()
    assert ran[5:] == ["d begins", "d ends"]
    device.run(task(device, "f", 0))
    world.settle()
    assert ran[5:] == ["d begins", "d ends"]


def test_a_task_given_during_the_probe_runs_after_it() -> None:
    ran: list[str] = []

    class Driver(ToyDriver):
        def probe(self, device: ProxyDevice) -> Steps:
            device.run(self.later(device))
            yield from super().probe(device)
            ran.append("probed")

        def later(self, device: ProxyDevice) -> Steps:
            ran.append("later")
            yield device.call(0)

    started(Driver())
    assert ran == ["probed", "later"]


def test_deferred_work_runs_in_the_same_turn_and_may_fail() -> None:
    world = started()
    device = world.driver.device
    assert device is not None
    ran: list[float] = []
    device.defer(lambda: ran.append(device.now()))
    assert world.wanted == {"north"}
    world.now = 5.0
    world.feed_north(Tick())
    assert ran == [5.0]

    def wrong() -> None:
        raise VbusError(EIO)

    device.defer(wrong)
    device.defer(lambda: ran.append(6.0))
    world.settle()
    assert ran == [5.0]
    assert world.driver.removes == 1
    assert UNBOUND in world.said


def test_feed_inside_of_feed_is_our_own_mistake() -> None:
    world = started()
    device = world.driver.device
    assert device is not None
    device.defer(lambda: world.north.feed(Tick(), 0.0))  # type: ignore[func-returns-value]
    world.settle()
    assert "device_fault" in notes(world)


# -- signals -----------------------------------------------------------------------------------------------------------


def test_a_signal_has_three_references_and_loses_them_in_either_order() -> None:
    for forced in (False, True):
        world = started()
        signal = world.north.signals.find(world.driver.rx_signal.cookie)  # type: ignore[union-attr]
        assert signal is not None
        assert signal.references == 3
        world.registry.detach("toy0", force=forced)
        world.settle()
        assert signal.references == 0
        assert signal.closed
        assert len(world.north.signals) == 0
        assert world.said.count(SignalClosed(signal.cookie)) == 2  # both halves say it


def test_a_failed_devshm_leaves_no_reference_and_its_cookie_is_not_used_again() -> None:
    cookies: list[int] = []

    def probe(device: ProxyDevice) -> Steps:
        yield device.open(1)
        address = device.allocator.alloc(64)
        for _ in range(3):
            request = device.shm(5, address, 64, signal_offset=0)
            try:
                yield request
            except VbusError:
                assert request.signal is not None
                cookies.append(request.signal.cookie)
                request.signal.inject()

    world = started(Scripted(probe))
    assert len(set(cookies)) == 3
    assert {cookie & 0xFFFFFFFF for cookie in cookies} == {1}
    assert len(world.north.signals) == 0
    assert world.said[-1] == BOUND


def test_what_a_driver_wants_to_ring_before_devshm_is_rung_after_it() -> None:
    def probe(device: ProxyDevice) -> Steps:
        yield device.open(1)
        address = device.allocator.alloc(64)
        request = device.shm(100, address, 64, signal_offset=0, on_wakeup=lambda: None)
        assert request.signal is not None
        device.arena.view[device.arena.offset(address, 16) + 11] = 1  # as if south were attached already
        request.signal.inject()
        request.signal.enable()
        yield request

    world = started(Scripted(probe))
    assert world.toy.connection.wakeups == {100: 1}
    assert world.north.counters["inject"] == 1


def test_a_wakeup_before_devshm_has_returned_is_not_lost() -> None:
    world = World()
    world.feed_north(Start())
    while not (world.toy.connections and world.toy.connection.rx is not None):
        if world.to_south:
            world.feed_south(world.to_south.popleft())
        else:
            world.feed_north(world.to_north.popleft())
    world.toy.connection.send(b"early" * 12)
    world.settle()
    assert world.driver.frames == [b"early" * 12]


def test_a_driver_can_poll_its_own_signal() -> None:
    world = started()
    woken: list[int] = []
    signal = world.driver.rx_signal
    assert signal is not None
    signal.on_wakeup = lambda: woken.append(1)
    signal.disable()
    signal.again()
    assert world.wanted == {"north"}
    world.settle()
    assert woken == [1]
    world.toy.connection.send(b"x" * 60)
    world.settle()
    assert woken == [1]
    signal.enable()
    world.settle()
    assert woken == [1, 1]


def test_a_wakeup_that_always_finds_more_goes_on_in_the_next_turn() -> None:
    world = started()
    signal = world.driver.rx_signal
    assert signal is not None
    offset = world.arena.offset(world.driver.addresses[0], 8) + 8
    count = 0

    def more() -> None:
        nonlocal count
        count += 1
        world.memory[offset + 10] = 1

    signal.on_wakeup = more
    world.memory[offset + 9] = world.memory[offset + 10] = 1
    world.north.signals.rang(signal.cookie)
    world.feed_north(Tick())
    first = count
    assert 1 <= first <= 8
    assert world.north.deadline() == world.now
    world.feed_north(Tick())
    assert first < count <= 2 * first


def test_the_driver_may_put_its_reference_early_and_twice() -> None:
    world = started()
    signal = world.driver.tx_signal
    assert signal is not None
    signal.put()
    signal.put()
    assert len(world.north.signals) == 2
    world.registry.detach("toy0")
    world.settle()
    assert len(world.north.signals) == 0


def test_north_counts_what_the_specification_names() -> None:
    world = started()
    world.arena.write(world.driver.buffers - 256, b"f" * 60)
    world.driver.send(1, world.driver.buffers - 256, 60)
    world.toy.connection.send(b"x" * 60)
    world.settle()
    counters = world.north.counters
    wanted = {"events": 2, "qnotify": 2, "notify": 1, "inject": 1, "buscalls": 4, "bridgecalls": 6, "qinject": 0}
    assert {name: counters[name] for name in wanted} == wanted
    assert Doorbell(0, 0) not in world.said


def test_an_arena_that_is_too_small_for_the_bridge_is_our_own_mistake() -> None:
    world = World(allocator=ArenaAllocator(BASE, 1024))
    with pytest.raises(VbusError):
        world.feed_north(Start())
