"""The host's half of the bridge: states, calls and their errnos, fast calls, priorities, direct signals."""

from __future__ import annotations

import pytest
from vbus_core_rig import BASE, BYTES, ECHO, MAC, MAC_BYTES, RawNorth, registry_with, toy

from pvnet.core.errors import ConfigError, LocalError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, EPERM
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    ClientGone,
    DeviceAdded,
    DeviceDropped,
    Doorbell,
    Interrupt,
    SignalBound,
    SignalClosed,
    SignalOpened,
    SignalRang,
)
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import (
    BridgeVector,
    BusVector,
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    DeviceOpen,
    Event,
    EventId,
    FastcallDescriptor,
    Negotiate,
    result_of,
)
from pvnet.vbus.south import SouthState
from pvnet.vbus.south_io import BusCall, VbusSouthConfig

OUTSIDE = BASE + BYTES


@pytest.fixture
def registry() -> BusRegistry:
    return registry_with("lpar1")


@pytest.fixture
def north(registry: BusRegistry) -> RawNorth:
    raw = RawNorth(registry)
    assert raw.up() == 0
    return raw


def interrupts(outputs: list[object]) -> list[int]:
    return [output.queue for output in outputs if isinstance(output, Interrupt)]


# -- the bridge's own calls --------------------------------------------------------------------------------------------


def test_negotiate_answers_capabilities_and_resets_everything(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)
    connection = toy(registry).connection
    assert north.negotiate(0) == 0
    assert north.arena.read(north.PARAMETERS, 16) == Negotiate().encode()
    assert (connection.closed, connection.released) == (1, 1)
    assert SignalClosed(7) in north.outputs
    assert north.south.state is SouthState.NEGOTIATED
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == -EINVAL  # not READY
    assert north.up() == 0
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == -ENOENT
    assert north.open(0) >> 32 == (handle >> 32) + 2
    assert north.shm(north.handle, 100, 7) == 1


@pytest.mark.parametrize(("asked", "offered", "answer"), [(0, True, 0), (1, True, 1), (1, False, 0), (7, True, 1)])
def test_ioq_2026_is_agreed_by_capability_bit_0(asked: int, offered: bool, answer: int) -> None:
    raw = RawNorth(registry_with("lpar1"), config=VbusSouthConfig(allow_2026=offered))
    raw.negotiate(asked)
    assert raw.south.capabilities == answer
    assert Negotiate.decode(raw.arena.read(raw.PARAMETERS, 16)).capabilities == answer
    assert raw.south.calls.allow_2026 == bool(answer)


def test_a_partition_that_is_no_member_is_refused(registry: BusRegistry) -> None:
    assert RawNorth(registry, client="lpar2").negotiate() == -EPERM


@pytest.mark.parametrize("parameters", [Negotiate(magic=1), Negotiate(version=2)])
def test_a22_wrong_magic_or_version_in_negotiate_is_einval(registry: BusRegistry, parameters: Negotiate) -> None:
    raw = RawNorth(registry)
    assert raw.bridge(BridgeVector.NEGOTIATE, parameters.encode()) == -EINVAL
    assert raw.south.state is SouthState.INIT


def test_bridge_calls_check_length_address_and_vector(registry: BusRegistry) -> None:
    raw = RawNorth(registry)
    good = Negotiate().encode()
    assert raw.bridge(BridgeVector.NEGOTIATE, good, length=17) == -EINVAL
    assert raw.bridge(BridgeVector.NEGOTIATE, good, address=OUTSIDE - 8) == -EFAULT
    assert raw.bridge(BridgeVector.NEGOTIATE, good, address=(1 << 64) - 8) == -EFAULT
    assert raw.bridge(5, good) == -EINVAL
    for call in (b"", bytes(15), bytes(17)):
        assert raw.feed(BridgeCall(4, call)) == [BridgeResult(4, -EINVAL)]


def test_calls_in_the_wrong_state_are_einval(registry: BusRegistry) -> None:
    raw = RawNorth(registry)
    queues = raw.make_queues()
    assert raw.bridge(BridgeVector.QREG, queues) == -EINVAL
    assert raw.call(BusVector.DEVOPEN, DeviceOpen(0, 1).encode()) == -EINVAL
    raw.negotiate()
    assert raw.call(BusVector.DEVOPEN, DeviceOpen(0, 1).encode()) == -EINVAL
    assert raw.bridge(BridgeVector.QREG, queues) == 0
    assert raw.bridge(BridgeVector.QREG, queues) == -EINVAL


def test_qreg_wants_exactly_the_hosts_number_of_queues(registry: BusRegistry) -> None:
    raw = RawNorth(registry, config=VbusSouthConfig(queues=3))
    raw.negotiate()
    raw.queues = 2
    assert raw.bridge(BridgeVector.QREG, raw.make_queues()) == -EINVAL
    raw.queues = 3
    parameters = raw.make_queues()
    assert raw.bridge(BridgeVector.QREG, parameters, length=len(parameters) + 24) == -EINVAL
    assert raw.bridge(BridgeVector.QREG, b"\x02" + parameters[1:]) == -EINVAL
    assert raw.bridge(BridgeVector.QREG, parameters) == 0
    with pytest.raises(ConfigError):
        VbusSouthConfig(queues=9)


@pytest.mark.parametrize(
    ("at", "value", "errno"),
    [
        (8, 0, EINVAL),  # entries
        (8, 2049, EINVAL),
        (8, 15, EINVAL),  # not what the ring's head says
        (16, OUTSIDE - 8, EFAULT),  # ring
        (16, BASE + 4, EINVAL),
        (24, OUTSIDE - 8, EFAULT),  # events
        (24, (1 << 64) - 8, EFAULT),
        (4, 1, EINVAL),  # a hole
    ],
)
def test_a03_a08_qreg_checks_count_ring_and_events(registry: BusRegistry, at: int, value: int, errno: int) -> None:
    raw = RawNorth(registry)
    raw.negotiate()
    parameters = bytearray(raw.make_queues())
    size = 8 if at >= 16 else 4
    parameters[at : at + size] = value.to_bytes(size, "little")
    assert raw.bridge(BridgeVector.QREG, bytes(parameters)) == -errno
    assert raw.south.state is SouthState.NEGOTIATED
    assert raw.bridge(BridgeVector.QREG, raw.make_queues()) == 0


def test_bus_calls_come_by_slowcall_only_with_a_right_descriptor(north: RawNorth) -> None:
    assert north.bridge(BridgeVector.SLOWCALL, bytes(16), length=8) == -EINVAL
    assert north.bridge(BridgeVector.SLOWCALL, bytes(16), address=OUTSIDE) == -EFAULT
    assert north.call(4, bytes(16)) == -EINVAL
    assert north.feed(BusCall(3, bytes(15))) == [BridgeResult(3, -EINVAL)]


# -- fast calls --------------------------------------------------------------------------------------------------------


def fast(north: RawNorth, vector: int, length: int, address: int) -> None:
    north.arena.write(north.DATA, FastcallDescriptor(vector, length, address, 0xFFFFFFED).encode())


def test_a_fast_call_runs_by_its_doorbell_and_leaves_its_result(north: RawNorth) -> None:
    channel = CallDescriptor(5, 24, north.DATA).encode()
    assert north.bridge(BridgeVector.FASTCALL_ADD, channel) == 0
    assert north.bridge(BridgeVector.FASTCALL_ADD, channel) == -EEXIST
    north.arena.write(north.PARAMETERS, DeviceOpen(0, 1).encode())
    fast(north, BusVector.DEVOPEN, 16, north.PARAMETERS)
    north.feed(Doorbell(4, 6))
    assert (
        result_of(int.from_bytes(north.arena.read(north.DATA + 16, 4), "little")) == -ENODEV
    )  # stale: unknown channel
    north.feed(Doorbell(4, 5))
    assert north.arena.read(north.DATA + 16, 4) == bytes(4)
    assert DeviceOpen.decode(north.arena.read(north.PARAMETERS, 16)).handle == 0x200000001
    north.feed(Doorbell(4, 5))
    assert result_of(int.from_bytes(north.arena.read(north.DATA + 16, 4), "little")) == -EBUSY
    north.arena.view[north.arena.offset(north.DATA, 24) + 20] = 1
    north.feed(Doorbell(4, 5))
    assert result_of(int.from_bytes(north.arena.read(north.DATA + 16, 4), "little")) == -EINVAL
    assert north.bridge(BridgeVector.FASTCALL_DROP, channel) == 0
    assert north.bridge(BridgeVector.FASTCALL_DROP, channel) == -ENOENT
    assert north.south.counters["bad_doorbell"] == 1


def test_fast_channels_are_checked_and_limited(registry: BusRegistry) -> None:
    raw = RawNorth(registry, config=VbusSouthConfig(channels=2))
    add = BridgeVector.FASTCALL_ADD
    assert raw.bridge(add, CallDescriptor(0, 24, raw.DATA).encode()) == -EINVAL  # before NEGOTIATE
    raw.negotiate()
    assert raw.bridge(add, CallDescriptor(0, 20, raw.DATA).encode()) == -EINVAL
    assert raw.bridge(add, CallDescriptor(0, 24, OUTSIDE - 8).encode()) == -EFAULT
    assert raw.bridge(add, CallDescriptor(0, 24, raw.DATA).encode()) == 0
    assert raw.bridge(add, CallDescriptor(1, 24, raw.DATA).encode()) == 0
    assert raw.bridge(add, CallDescriptor(2, 24, raw.DATA).encode()) == -ENOSPC
    raw.negotiate()
    assert raw.bridge(add, CallDescriptor(2, 24, raw.DATA).encode()) == 0


# -- bus calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vector", "size"), [(0, 16), (1, 8), (2, 32), (3, 48)])
@pytest.mark.parametrize("wrong", [-4, -1, 1, 8])
def test_a_parameter_length_must_be_equal(north: RawNorth, vector: int, size: int, wrong: int) -> None:
    assert north.call(vector, bytes(size), length=size + wrong) == -EINVAL
    assert north.call(vector, bytes(size), address=OUTSIDE - 4) == -EFAULT


@pytest.mark.parametrize(("vector", "at"), [(2, 20), (3, 20)])
def test_a_hole_in_parameters_must_be_zero(north: RawNorth, vector: int, at: int) -> None:
    handle = north.open(0)
    size = 32 if vector == 2 else 48
    parameters = bytearray(handle.to_bytes(8, "little") + bytes(size - 8))
    parameters[at] = 1
    assert north.call(vector, bytes(parameters)) == -EINVAL


def test_devopen_errnos(north: RawNorth, registry: BusRegistry) -> None:
    assert north.open(1) == -ENOENT
    assert north.open(0, version=2) == -EINVAL
    assert north.open(0) > 0
    assert north.open(0) == -EBUSY
    assert registry.shown_device("toy0")["opened_by"] == "lpar1"


def test_one_device_is_open_by_one_client(registry: BusRegistry) -> None:
    registry.join("lpar2", "lan")
    first, second = RawNorth(registry), RawNorth(registry, client="lpar2")
    first.up()
    second.up()
    handle = first.open(0)
    assert second.open(0) == -EBUSY
    assert second.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == -ENOENT
    first.feed(ClientGone())
    assert second.open(0) > 0


def test_devcall_copies_data_in_and_back(north: RawNorth) -> None:
    handle = north.open(0)
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, MAC, 6, 0, north.DATA).encode()) == 0
    assert north.arena.read(north.DATA, 6) == MAC_BYTES
    north.arena.write(north.DATA, b"abcd")
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, ECHO, 4, 0, north.DATA).encode()) == 4
    assert north.arena.read(north.DATA, 4) == b"dcba"
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 0, 0, 0, 0).encode()) == 0


def test_devcall_errnos(north: RawNorth) -> None:
    handle = north.open(0)
    assert north.call(BusVector.DEVCALL, DeviceCall(handle + 1, MAC, 6, 0, north.DATA).encode()) == -ENOENT
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, MAC, 5, 0, north.DATA).encode()) == -EINVAL
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, MAC, 6, 0, OUTSIDE - 3).encode()) == -EFAULT
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 50, 0, 0, 0).encode()) == -EINVAL


def test_a_device_with_a_result_that_no_register_holds_is_eio(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    connection = toy(registry).connection
    for value in (1 << 31, -5000):
        connection.on_call = lambda _, value=value: value  # type: ignore[misc]
        assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == -EIO
    assert [note.event for note in north.outputs if isinstance(note, Note)] == ["bad_result"]  # one a second
    north.now += 1.0
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == -EIO
    assert [note.event for note in north.outputs if isinstance(note, Note)] == ["bad_result"] * 2


def test_a_device_that_fails_otherwise_ends_its_connection(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    connection = toy(registry).connection

    def wrong(_: int) -> int:
        raise LocalError("used wrongly")

    connection.on_call = wrong
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == -EIO
    assert (connection.closed, connection.released) == (1, 1)
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == -ENODEV
    assert north.shm(handle, 100) == -ENODEV
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0


def test_a_device_that_fails_to_close_is_closed_all_the_same(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)

    class Stubborn:
        def close(self) -> None:
            raise VbusError(EIO, "no")

    opened = north.south.calls.opened[0]
    released = toy(registry).connection
    opened.connection.close = Stubborn().close  # type: ignore[union-attr, method-assign]
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0
    assert released.released == 1
    assert "close_failed" in [note.event for note in north.outputs if isinstance(note, Note)]
    assert north.pop()[-1] == Event(EventId.SHMCLOSE, 7)
    assert north.open(0) > 0


def test_devclose_twice_is_enoent(north: RawNorth) -> None:
    handle = north.open(0)
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == -ENOENT


def test_devshm_without_a_signal_answers_0(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    assert north.shm(handle, 100, offset=0xFFFFFFFF, cookie=5, length=64) == 0
    assert toy(registry).connection.regions[100].signal is None
    assert not [output for output in north.outputs if isinstance(output, SignalOpened)]


def test_devshm_errnos(north: RawNorth) -> None:
    handle = north.open(0)
    assert north.shm(handle + 1, 100) == -ENOENT
    assert north.shm(handle, 100, flags=1) == -EINVAL
    assert north.shm(handle, 100, length=0, address=north.region()) == -EINVAL
    assert north.shm(handle, 100, length=64, address=OUTSIDE - 63) == -EFAULT
    assert north.shm(handle, 7) == -EINVAL
    assert north.shm(handle, 100, offset=4) == -EINVAL
    assert north.shm(handle, 100, offset=32) == -EINVAL  # no signal there
    assert north.south.signals.alive == 0
    assert north.shm(handle, 100) > 0
    assert north.shm(handle, 100) == -EEXIST


def test_more_signals_than_allowed_are_enospc_until_their_closes_are_read(registry: BusRegistry) -> None:
    raw = RawNorth(registry, events=1, config=VbusSouthConfig(signals=3))
    raw.up()  # DEVADD fills the only slot
    handle = raw.open(0)
    assert [raw.shm(handle, 100 + i, i) for i in range(4)] == [1, 2, 3, -ENOSPC]
    raw.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())
    handle = raw.open(0)
    assert raw.shm(handle, 100, 9) == -ENOSPC
    for _ in range(2):
        raw.pop()
    assert raw.shm(handle, 100, 9) == 4


def test_signal_handles_that_are_used_up_are_enospc(north: RawNorth) -> None:
    north.south.signals._last_handle = 0xFFFFFFFE
    handle = north.open(0)
    assert north.shm(handle, 100) == 0xFFFFFFFF
    assert north.shm(handle, 101) == -ENOSPC


# -- events and signals ------------------------------------------------------------------------------------------------


def test_a_signal_goes_to_the_queue_of_its_priority_and_devices_to_the_highest() -> None:
    registry = registry_with("lpar1")
    raw = RawNorth(registry, config=VbusSouthConfig(queues=3))
    raw.up()
    assert interrupts(raw.outputs) == [2]
    handle = raw.open(0)
    for prio, region in ((0, 100), (1, 101), (2, 102), (7, 103), (0xFFFFFFFF, 104)):
        raw.shm(handle, region, region, prio=prio)
    for region in toy(registry).connection.regions.values():
        assert region.signal is not None
        region.signal.inject()
    assert raw.wanted == 1
    assert interrupts(raw.feed(Tick())) == [1, 0]  # queue 2 is pending already
    assert [[event.handle for event in raw.pop(queue=queue)] for queue in range(3)] == [
        [100],
        [101],
        [0, 102, 103, 104],
    ]


def test_a_signal_that_waits_is_not_queued_twice(registry: BusRegistry) -> None:
    raw = RawNorth(registry, events=1)
    raw.up()
    handle = raw.open(0)
    raw.shm(handle, 100, 7)
    region = toy(registry).connection.regions[100]
    assert region.signal is not None
    for _ in range(3):
        region.signal.inject()
        raw.arena.view[raw.arena.offset(region.address, 64) + 9] = 0  # north clears pending without reading
        raw.feed(Tick())
    assert raw.south.queues.backlog == 1
    assert raw.south.counters["coalesced"] == 2
    raw.pop()
    assert raw.pop() == [Event(EventId.SHMSIGNAL, 7)]
    assert raw.pop() == []


def test_a_waiting_signal_becomes_its_close(registry: BusRegistry) -> None:
    raw = RawNorth(registry, events=1)
    raw.up()
    handle = raw.open(0)
    raw.shm(handle, 100, 7)
    region = toy(registry).connection.regions[100]
    assert region.signal is not None
    region.signal.inject()
    raw.feed(Tick())
    raw.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())
    assert raw.south.queues.backlog == 1
    region.signal.inject()
    region.signal.enable()
    region.signal.disable()
    region.signal.again()
    raw.feed(Tick())
    raw.pop()
    assert raw.pop() == [Event(EventId.SHMCLOSE, 7)]
    raw.feed(Tick())
    assert raw.pop() == []


def test_a_failed_devshm_leaves_no_event_behind(registry: BusRegistry) -> None:
    raw = RawNorth(registry)
    raw.up()
    handle = raw.open(0)
    connection = toy(registry).connection
    raw.pop()

    def refuse(number: int, region: object, flags: int) -> None:
        region.signal.inject()  # type: ignore[attr-defined]
        raise VbusError(EINVAL)

    raw.south.calls.opened[0].connection.shm = refuse  # type: ignore[union-attr, method-assign, assignment]
    assert raw.shm(handle, 100, 7) == -EINVAL
    raw.feed(Tick())
    assert raw.pop() == []
    assert raw.south.signals.alive == 0
    assert connection.regions == {}


def test_a_bound_signal_rings_alone_but_closes_by_event(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    assert north.shm(handle, 100, 7) == 1
    assert SignalOpened(7, 1) in north.outputs
    north.pop()
    north.feed(SignalBound(7))
    region = toy(registry).connection.regions[100]
    assert region.signal is not None
    region.signal.inject()
    assert north.wanted == 1
    assert north.south.deadline() == north.now
    assert north.feed(Tick()) == [SignalRang(7)]
    assert north.pop() == []
    north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())
    assert SignalClosed(7) in north.outputs
    assert north.pop() == [Event(EventId.SHMCLOSE, 7)]
    assert north.feed(SignalBound(7)) == [SignalClosed(7)]


def test_north_rings_by_register_or_by_eventfd(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)
    connection = toy(registry).connection
    region = connection.regions[100]
    view = north.arena.slice(region.address, 64)
    for event in (Doorbell(8, 1), SignalRang(7)):
        view[12] = view[13] = 1
        north.feed(event)
        assert view[12] == view[13] == 0
    assert connection.wakeups == {100: 2}
    north.feed(Doorbell(8, 1))
    assert connection.wakeups == {100: 2}


def test_a_disabled_signal_can_be_polled_by_its_device(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)
    connection = toy(registry).connection
    signal = connection.regions[100].signal
    assert signal is not None
    signal.disable()
    signal.again()
    assert north.wanted == 1
    north.feed(Tick())
    assert connection.wakeups == {100: 1}
    view = north.arena.slice(connection.regions[100].address, 64)
    view[13] = 1
    signal.enable()
    north.feed(Tick())
    assert connection.wakeups == {100: 2}


def test_a_wakeup_that_finds_ever_more_goes_on_in_the_next_turn(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)
    connection = toy(registry).connection
    region = connection.regions[100]
    view = north.arena.slice(region.address, 64)
    count = 0

    def more() -> None:
        nonlocal count
        count += 1
        view[13] = 1

    assert region.signal is not None
    region.signal.on_wakeup = more
    view[12] = view[13] = 1
    north.feed(Doorbell(8, 1))
    assert 1 <= count <= 8
    assert north.south.deadline() == north.now
    before = count
    north.feed(Tick())
    assert before < count <= before + 8


def test_a_turn_runs_a_limited_number_of_wakeups_in_order(registry: BusRegistry) -> None:
    raw = RawNorth(registry, config=VbusSouthConfig(signals=200))
    raw.up()
    handle = raw.open(0)
    for number in range(100):
        raw.shm(handle, 100 + number, number)
    connection = toy(registry).connection
    for region in connection.regions.values():
        assert region.signal is not None
        region.signal.again()
    raw.feed(Tick())
    assert sorted(connection.wakeups) == list(range(100, 164))
    assert raw.south.deadline() == raw.now
    assert raw.south.counters["budget_exhausted"] == 1
    raw.feed(Tick())
    assert sorted(connection.wakeups) == list(range(100, 200))
    assert raw.south.deadline() == pytest.approx(raw.now + 0.1)


def test_deferred_work_runs_after_the_input_unless_the_connection_ended(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    connection = toy(registry).connection
    ran: list[float] = []
    connection.on_call = lambda func: connection.host.defer(lambda: ran.append(connection.host.now())) or func
    north.now = 3.0
    north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode())
    assert ran == [3.0]
    connection.host.defer(lambda: ran.append(9.0))
    assert north.wanted == 1
    north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())
    assert ran == [3.0]
    assert (connection.host.client, connection.host.allow_2026) == ("lpar1", False)


def test_deferred_work_that_fails_ends_the_connection(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)

    def wrong() -> None:
        raise VbusError(EIO, "no")

    toy(registry).connection.host.defer(wrong)
    north.feed(Tick())
    north.feed(Tick())
    assert toy(registry).connection.closed == 1
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0


def test_devices_can_also_be_announced_as_inputs(north: RawNorth) -> None:
    north.pop()
    north.feed(DeviceAdded(5, "other"))
    north.feed(DeviceDropped(5))
    assert north.pop() == [Event(EventId.DEVADD, 5, "other"), Event(EventId.DEVDROP, 5)]


def test_the_counters_of_the_specification_are_kept(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 7)
    region = toy(registry).connection.regions[100]
    assert region.signal is not None
    region.signal.inject()
    north.feed(Tick())
    north.feed(Doorbell(8, 1))
    north.feed(Doorbell(0, 0))
    counters = north.south.counters
    assert {name: counters[name] for name in ("events", "qnotify", "qinject", "notify", "inject", "buscalls")} == {
        "events": 2,
        "qnotify": 1,
        "qinject": 1,
        "notify": 1,
        "inject": 1,
        "buscalls": 2,
    }
    assert counters["bridgecalls"] == 4


def test_nothing_happens_after_the_client_is_gone(north: RawNorth, registry: BusRegistry) -> None:
    north.feed(ClientGone())
    assert north.south.state is SouthState.GONE
    assert north.feed(BusCall(1, bytes(16))) == [BridgeResult(1, -EIO)]
    for event in (Tick(), Doorbell(0, 0), SignalRang(1), DeviceAdded(1, "x"), ClientGone()):
        assert north.feed(event) == []
    registry.detach("toy0")
    registry.attach("toy0", "lan")
    assert north.wanted == 0
    assert north.south.deadline() is None
    assert not registry.shown()["buses"][0]["members"][0]["connected"]  # type: ignore[index]
