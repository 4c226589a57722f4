"""The abuse cases of the specification that concern bridge, events and devices (vbus 11), one test each.

Those of the rings themselves are in ``tests/ring``, those of the virtual ethernet in ``test_venet_*``.
"""

from __future__ import annotations

import pytest
from vbus_core_rig import BASE, BYTES, ECHO, MAC, RawNorth, World, registry_with, toy

from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT
from pvnet.ring.roles import Pattern, Variant, create_ring, ring_bytes
from pvnet.runtime.fence import full_fence
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    ClientGone,
    Doorbell,
    Interrupt,
    SignalClosed,
    SignalRang,
)
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.layout import (
    EVENT_BYTES,
    BusVector,
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    Event,
    EventId,
)
from pvnet.vbus.north_io import BridgeDown, BridgeUp, DeviceBound, HostGone, Start, VbusNorthConfig
from pvnet.vbus.south_io import BusCall


@pytest.fixture
def registry() -> BusRegistry:
    return registry_with("lpar1", "lpar2", devices=2)


@pytest.fixture
def north(registry: BusRegistry) -> RawNorth:
    raw = RawNorth(registry)
    assert raw.up() == 0
    return raw


@pytest.fixture
def other(registry: BusRegistry) -> RawNorth:
    """Another client, who must not notice."""
    raw = RawNorth(registry, client="lpar2")
    assert raw.up() == 0
    assert raw.open(1) > 0
    assert raw.shm(raw.handle, 100, 77) == 1
    raw.pop()
    return raw


def still_works(other: RawNorth, registry: BusRegistry) -> None:
    other.arena.write(other.DATA, b"abc")
    assert other.call(BusVector.DEVCALL, DeviceCall(other.handle, ECHO, 3, 0, other.DATA).encode()) == 3
    region = toy(registry, "toy1").connection.regions[100]
    assert region.signal is not None
    region.signal.inject()
    other.feed(Tick())
    assert other.pop()[-1] == Event(EventId.SHMSIGNAL, 77)


def queue_is_dead(north: RawNorth) -> None:
    assert north.south.counters["faults"] == 1
    assert "event_queue_fault" in [note.event for note in north.outputs if isinstance(note, Note)]
    assert north.south.queues.backlog == 0
    assert north.south.deadline() is None or north.south.deadline() > north.now  # type: ignore[operator]
    assert north.up() == 0  # a reset brings it back
    assert north.pop()[0].id == EventId.DEVADD


class Fixed:
    """A host that a test plays: puts events into the rings of a real north."""

    def __init__(self, **config: int) -> None:
        self.world = World(north=VbusNorthConfig(events=config.pop("events", 16), **config))
        self.world.feed_north(Start())
        self.world.settle()
        self.north = self.world.north
        self.driver = self.world.driver

    def event(self, event: Event | bytes) -> list[object]:
        """South puts an event into the ring and interrupts."""
        self.put(event)
        return self.world.feed_north(Interrupt(0))

    def put(self, event: Event | bytes) -> None:
        queue = self.world.south.queues._queues[0]
        (slot,) = queue.ring.take(1)
        self.world.arena.write(slot.ptr, event if isinstance(event, bytes) else event.encode())
        queue.ring.fill([slot.length])
        queue.ring.signal.inject()

    @property
    def cookie(self) -> int:
        assert self.driver.rx_signal is not None
        return self.driver.rx_signal.cookie


@pytest.fixture
def host() -> Fixed:
    return Fixed()


# -- a hostile north ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [24, 28, 36, 40])
def test_a01_event_ring_indexes_beyond_the_ring_are_refused_at_qreg(registry: BusRegistry, at: int) -> None:
    raw = RawNorth(registry)
    raw.negotiate()
    parameters = raw.make_queues()
    raw.arena.write(BASE + at, (16).to_bytes(4, "little"))
    assert raw.bridge(1, parameters) == -EINVAL


def test_a01_event_ring_indexes_that_change_later_are_not_looked_at(north: RawNorth) -> None:
    for at in (24, 28, 36, 40):
        north.arena.write(BASE + at, b"\xff" * 4)
    north.open(0)
    north.shm(north.handle, 100, 1)
    north.call(BusVector.DEVCLOSE, DeviceClose(north.handle).encode())
    assert [event.id for event in north.pop()] == [0, 0, 3]


def test_a05_a_slot_that_north_takes_back_kills_that_queue_only(
    north: RawNorth, other: RawNorth, registry: BusRegistry
) -> None:
    north.arena.view[56 + 2 * 32 + 25] = 2  # the next slot belongs to nobody
    registry.detach("toy0")
    north.feed(Tick())
    queue_is_dead(north)
    still_works(other, registry)


@pytest.mark.parametrize(
    ("ptr", "length"), [(0, 144), (BASE + BYTES, 144), ((1 << 64) - 100, 144), (None, 143), (None, 0), (-1, 144)]
)
def test_a08_an_event_slot_outside_its_array_or_too_short_is_a_fault(
    north: RawNorth, other: RawNorth, registry: BusRegistry, ptr: int | None, length: int
) -> None:
    slot = north.arena.offset(BASE, 8) + 56 + 2 * 32
    first = int.from_bytes(north.memory[slot + 8 : slot + 16], "little") - 2 * EVENT_BYTES
    where = first - 1 if ptr == -1 else first if ptr is None else ptr
    north.arena.view[slot + 8 : slot + 24] = where.to_bytes(8, "little") + length.to_bytes(8, "little")
    before = bytes(north.memory)
    registry.detach("toy0")
    north.feed(Tick())
    assert bytes(north.memory) == before
    assert north.south.counters["bad_desc"] == 1
    queue_is_dead(north)
    still_works(other, registry)


@pytest.mark.parametrize("offset", [64, 56, 49, 0xFFFFFFFE, 0xFFFFFFF0])
def test_a09_a_signal_beyond_its_region_is_refused(north: RawNorth, offset: int) -> None:
    handle = north.open(0)
    before = bytes(north.memory[0x8000:])
    address = north.region()
    after = bytes(north.memory[0x8000:])
    assert before != after
    assert north.shm(handle, 100, 5, offset=offset, address=address) == -EINVAL
    assert bytes(north.memory[0x8000:]) == after
    assert north.shm(handle, 100, 5, offset=0, address=address, length=16) == 1


def test_a12_forged_handles_find_nothing(north: RawNorth, other: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    for forged in (0, handle + 1, handle ^ (1 << 63), (1 << 64) - 1, 1):
        assert north.call(BusVector.DEVCLOSE, DeviceClose(forged).encode()) == -ENOENT
        assert north.call(BusVector.DEVCALL, DeviceCall(forged, MAC, 6, 0, north.DATA).encode()) == -ENOENT
        assert north.shm(forged, 100) == -ENOENT
    for value in (0, 2, 0xFFFFFFFF):
        assert north.feed(Doorbell(8, value)) == []
    for cookie in (0, 77, (1 << 64) - 1):  # 77 is the other client's
        assert north.feed(SignalRang(cookie)) == []
    assert north.feed(Doorbell(12, 0)) == []
    assert north.south.counters["bad_doorbell"] == 4
    assert north.south.counters["bad_cookie"] == 3
    assert toy(registry, "toy1").connection.wakeups == {}
    still_works(other, registry)


def test_a14_a_north_that_never_frees_slots_has_a_bounded_backlog(registry: BusRegistry) -> None:
    raw = RawNorth(registry, events=2)
    raw.up()
    handle = raw.open(0)
    raw.shm(handle, 100, 1)
    signal = toy(registry).connection.regions[100].signal
    assert signal is not None
    for _ in range(1000):
        signal.inject()
        raw.arena.view[raw.arena.offset(raw.REGIONS, 16) + 9] = 0
        registry.detach("toy1")
        registry.attach("toy1", "lan")
        raw.feed(Tick())
    assert raw.south.queues.backlog == 3  # the signal, DEVDROP of the seen id, DEVADD of the last
    assert raw.south.counters["cancelled"] == 999
    events = [event for _ in range(4) for event in raw.pop()]
    assert events[2:] == [
        Event(EventId.SHMSIGNAL, 1),
        Event(EventId.DEVDROP, 1),
        Event(EventId.DEVADD, 1001, "virtual-ethernet"),
    ]


def test_a19_a_pending_that_north_never_clears_hurts_that_signal_only(
    north: RawNorth, other: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    north.shm(handle, 101, 2)
    north.pop()
    regions = toy(registry).connection.regions
    north.arena.view[north.arena.offset(regions[100].address, 16) + 9] = 1
    for region in regions.values():
        assert region.signal is not None
        region.signal.inject()
    north.feed(Tick())
    assert north.pop() == [Event(EventId.SHMSIGNAL, 2)]
    still_works(other, registry)


def test_a19_what_north_left_dirty_and_did_not_ring_is_found_by_the_poll(
    north: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    north.arena.view[north.arena.offset(north.REGIONS, 16) + 13] = 1
    for expected in ({}, {100: 1}, {100: 1}):
        north.now += 0.1
        assert north.south.deadline() is not None
        north.feed(Tick())
        assert toy(registry).connection.wakeups == expected
    assert north.south.counters["lost_wakeup_rescues"] == 1


def test_a20_an_enabled_that_north_clears_is_written_again(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    flags = north.arena.offset(north.REGIONS, 16)
    north.arena.view[flags + 11] = 0
    north.now += 0.1
    north.feed(Tick())
    assert north.arena.view[flags + 11] == 1


def test_a21_a_doorbell_flood_is_bounded_work_each(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    for _ in range(2000):
        assert north.feed(Doorbell(8, 1)) == []
        assert north.feed(Doorbell(0, 0)) == []
    assert toy(registry).connection.wakeups == {}
    assert north.south.counters["inject"] == 2000


@pytest.mark.parametrize("at", [0, 4])
def test_a22_a_signal_with_a_wrong_magic_or_version_is_refused(north: RawNorth, at: int) -> None:
    handle = north.open(0)
    address = north.region()
    north.arena.write(address + at, b"\x07")
    assert north.shm(handle, 100, address=address) == -EINVAL


@pytest.mark.parametrize("length", [(64 << 10) + 1, 1 << 31, (1 << 32) - 1])
def test_a23_a_devcall_with_huge_data_is_refused_before_memory_is_taken(north: RawNorth, length: int) -> None:
    handle = north.open(0)
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, ECHO, length, 0, BASE).encode()) == -EINVAL
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, ECHO, 64 << 10, 0, BASE).encode()) == 64 << 10


def test_a24_a_device_that_calls_its_own_bridge_gets_ebusy(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    north.pop()
    inner: list[object] = []
    call = CallDescriptor(2, 16, north.CALL).encode()

    def reenter(func: int) -> int:
        inner.extend(north.south.feed(BridgeCall(8, call), 0.0))
        inner.extend(north.south.feed(BusCall(9, call), 0.0))
        inner.extend(north.south.feed(Tick(), 0.0))
        registry.detach("toy0", force=True)
        assert toy(registry).connection.closed == 0
        return 0

    toy(registry).connection.on_call = reenter
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 9, 0, 0, 0).encode()) == 0
    assert inner == [BridgeResult(8, -EBUSY), BridgeResult(9, -EBUSY)]
    assert toy(registry).connection.closed == 1
    assert north.pop() == [Event(EventId.DEVDROP, 0)]
    assert north.south.counters["recursion"] == 2


def test_a26_regions_may_overlap_and_are_never_trusted(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(0)
    address = north.region()
    assert north.shm(handle, 100, 1, address=address) == 1
    assert north.shm(handle, 101, 2, address=address) == 2  # the same bytes
    assert north.shm(handle, 102, 3, address=BASE, length=4096, offset=0xFFFFFFFF) == 0  # the event ring
    regions = toy(registry).connection.regions
    for number in (100, 101):
        signal = regions[number].signal
        assert signal is not None
        signal.inject()
    regions[102].view[:] = bytes(4096)
    north.feed(Tick())
    assert [note.event for note in north.outputs if isinstance(note, Note)] in (["event_queue_fault"], [])


def test_a28_a_region_registered_twice_is_eexist_and_leaks_nothing(north: RawNorth) -> None:
    handle = north.open(0)
    assert north.shm(handle, 100, 1) == 1
    for _ in range(50):
        assert north.shm(handle, 100, 1) == -EEXIST
        assert north.shm(handle, 5, 1) == -EINVAL
    assert north.south.signals.alive == 1
    assert north.shm(handle, 101, 2) < 100


def test_a29_a_client_that_dies_leaves_nothing_and_harms_nobody(
    north: RawNorth, other: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(0)
    north.shm(handle, 100, 1)
    connection = toy(registry).connection

    def dies(func: int) -> int:
        assert north.south.feed(ClientGone(), 0.0) == []  # waits for the end of the call
        return 0

    connection.on_call = dies
    north.arena.write(north.PARAMETERS, DeviceCall(handle, 9, 0, 0, 0).encode())
    outputs = north.feed(BusCall(5, CallDescriptor(2, 32, north.PARAMETERS).encode()))
    assert BridgeResult(5, 0) in outputs
    assert SignalClosed(1) in outputs
    assert (connection.closed, connection.released) == (1, 1)
    assert registry.shown_device("toy0")["opened_by"] is None
    still_works(other, registry)


def test_a30_devopen_racing_devdrop_is_enoent_or_an_open_device_that_is_dropped(
    north: RawNorth, registry: BusRegistry
) -> None:
    registry.detach("toy0")
    assert north.open(0) == -ENOENT
    handle = north.open(1)
    registry.detach("toy1")
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0


def test_a32_no_handle_is_ever_0_and_large_ids_find_nothing(north: RawNorth) -> None:
    handle = north.open(0)
    assert handle & 0xFFFFFFFF != 0
    assert north.shm(handle, 100) != 0
    assert north.open(0xFFFFFFFF) == -ENOENT


def test_a_ring_fault_in_a_wakeup_ends_that_connection_only(
    north: RawNorth, other: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(0)
    size = ring_bytes(4, Variant.IOQ_2009)
    create_ring(north.arena.slice(north.REGIONS, size), 4, Pattern.TX, full_fence)
    assert north.shm(handle, 1, 5, address=north.REGIONS, length=size, offset=8) == 1
    north.arena.view[north.arena.offset(north.REGIONS, 8) + 56 + 25] = 7
    view = north.arena.slice(north.REGIONS + 8, 16)
    view[12] = view[13] = 1
    north.pop()
    outputs = north.feed(Doorbell(8, 1))
    outputs += north.feed(Tick())
    assert "connection_fault" in [note.event for note in outputs if isinstance(note, Note)]
    assert north.pop() == [Event(EventId.SHMCLOSE, 5)]
    assert north.call(BusVector.DEVCALL, DeviceCall(handle, 0, 0, 0, 0).encode()) == -ENODEV
    assert north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode()) == 0
    assert north.open(0) > 0
    still_works(other, registry)


def test_a_region_of_a_strange_size_is_refused_by_its_device(north: RawNorth) -> None:
    handle = north.open(0)
    for length in (57, 63, 64):
        assert north.shm(handle, 1, length=length, address=north.region(64)) == -EINVAL


# -- a hostile south ---------------------------------------------------------------------------------------------------


def test_a05_a_host_that_gives_slots_to_nobody_is_left_and_tried_again(host: Fixed) -> None:
    ring = next(iter(host.north._places.queues))[0]  # type: ignore[union-attr]
    queue = host.world.arena.offset(ring, 8)
    count = host.north.counters["events"]
    host.world.arena.view[queue + 56 + 32 * count + 25] = 5
    host.world.arena.view[queue + 17] = host.world.arena.view[queue + 18] = 1
    outputs = host.world.feed_north(Interrupt(0))
    assert BridgeDown("host_fault") in outputs
    assert host.north.tasks.devices == {}
    host.world.advance(1.0)
    assert [type(said) for said in host.world.said if isinstance(said, BridgeUp | DeviceBound)] == [
        BridgeUp,
        DeviceBound,
    ] * 2


def test_a10_a_forged_or_replayed_cookie_finds_nobody(host: Fixed) -> None:
    good = host.cookie
    for cookie in (0, good + (1 << 40), good ^ (1 << 33), good & 0xFFFFFFFF, (1 << 64) - 1):
        host.event(Event(EventId.SHMSIGNAL, cookie))
        host.event(Event(EventId.SHMCLOSE, cookie))
    host.world.feed_north(SignalRang(0))
    assert host.north.counters["bad_cookie"] == 11
    assert len(host.north.signals) == 2
    host.event(Event(EventId.SHMSIGNAL, good))
    assert host.north.counters["notify"] == 1


def test_a10_a_cookie_of_an_earlier_generation_does_not_reach_the_next_owner(host: Fixed) -> None:
    old = host.cookie
    host.world.registry.detach("toy0")
    host.world.settle()
    host.world.registry.attach("toy0", "lan")
    host.world.settle()
    new = host.cookie
    assert {old & 0xFFFFFFFF, (old & 0xFFFFFFFF) + 1} >= {new & 0xFFFFFFFF}
    assert new >> 32 == 2
    before = host.north.counters["bad_cookie"]
    host.event(Event(EventId.SHMCLOSE, old))
    assert host.north.counters["bad_cookie"] == before + 1
    assert len(host.north.signals) == 2


def test_a11_a_signal_after_its_close_and_a_second_close_are_dropped(host: Fixed) -> None:
    cookie = host.cookie
    host.event(Event(EventId.SHMCLOSE, cookie))
    assert host.driver.rx_signal is not None
    assert host.driver.rx_signal.closed
    host.event(Event(EventId.SHMSIGNAL, cookie))
    host.event(Event(EventId.SHMCLOSE, cookie))
    assert host.north.counters["bad_cookie"] == 2
    assert len(host.north.signals) == 2
    host.driver.rx_signal.inject()  # rings nobody
    host.driver.rx_signal.enable()
    host.driver.rx_signal.disable()
    assert host.world.feed_north(Tick()) == []


def test_a15_events_that_no_decoder_knows_are_counted_and_skipped(host: Fixed) -> None:
    good = Event(EventId.DEVADD, 9, "other").encode()
    host.put(b"\x04" + good[1:])
    host.put(good[:4] + b"\x01" + good[5:])
    host.put(b"\xff" * 144)
    host.put(good)
    host.world.feed_north(Interrupt(0))
    assert host.north.counters["bad_event"] == 3
    assert 9 in host.north.tasks.devices
    assert host.world.feed_north(Interrupt(5)) == []
    assert host.north.counters["bad_interrupt"] == 1


def test_a16_a_second_devadd_of_an_id_is_ignored(host: Fixed) -> None:
    host.event(Event(EventId.DEVADD, 0, "virtual-ethernet"))
    host.event(Event(EventId.DEVADD, 0, "other"))
    host.world.settle()
    assert host.north.counters["bad_devadd"] == 2
    assert host.driver.probes == 1


def test_a16_more_devices_than_a_partition_takes_are_ignored() -> None:
    host = Fixed(devices=3)
    for number in range(10, 20):
        host.event(Event(EventId.DEVADD, number, "other"))
    assert len(host.north.tasks.devices) == 3
    assert host.north.counters["bad_devadd"] == 8


@pytest.mark.parametrize("name", [b"", b"virtual ethernet", b"\x1b[31m", b"VIRTUAL-ETHERNET", b"a/b"])
def test_a17_a_devadd_with_a_type_of_other_characters_is_dropped(host: Fixed, name: bytes) -> None:
    host.event(Event(EventId.DEVADD, 9, "x").encode()[:16] + name.ljust(128, b"\0"))
    assert 9 not in host.north.tasks.devices
    assert host.north.counters["bad_event"] == 1


def test_a17_a_type_without_nul_is_read_to_its_128th_byte_only(host: Fixed) -> None:
    host.event(Event(EventId.DEVADD, 9, "v" * 128))
    assert host.north.tasks.devices[9].type == "v" * 128


def test_a18_devdrop_of_an_unknown_id_is_ignored(host: Fixed) -> None:
    for number in (7, (1 << 64) - 1):
        host.event(Event(EventId.DEVDROP, number))
    assert host.north.counters["bad_devdrop"] == 2
    assert host.world.said.count(DeviceBound(0, "virtual-ethernet")) == 1


def test_a19_a_host_that_sets_pending_and_never_rings_is_found_by_the_poll(host: Fixed) -> None:
    host.world.toy.connection.send(b"x" * 60)  # pending and dirty are set, the event is not delivered
    host.world.feed_south(Tick())
    host.world.to_north.clear()
    for expected in ([], [b"x" * 60]):
        host.world.now += 0.1
        host.world.feed_north(Tick())
        assert host.driver.frames == expected
    assert host.north.counters["lost_wakeup_rescues"] >= 1


def test_a32_an_open_that_gives_handle_0_is_no_open() -> None:
    world = World()
    world.feed_north(Start())
    for _ in range(40):
        if world.to_south:
            call = world.to_south.popleft()
            outputs = world.feed_south(call)
            if world.toy.connections:
                places = world.north._places
                assert places is not None
                world.arena.write(places.parameters + 8, bytes(8))
                break
            assert outputs
        elif world.to_north:
            world.feed_north(world.to_north.popleft())
    world.settle()
    assert world.north.counters["probe_failed"] == 1
    assert world.driver.removes == 1
    assert DeviceBound(0, "virtual-ethernet") not in world.said


def test_a32_a_device_whose_id_cannot_be_opened_is_not_taken(host: Fixed) -> None:
    for number in (1 << 32, (1 << 64) - 1):
        host.event(Event(EventId.DEVADD, number, "virtual-ethernet"))
    assert host.north.counters["bad_devadd"] == 2
    host.event(Event(EventId.DEVADD, (1 << 32) - 1, "virtual-ethernet"))
    host.world.settle()
    assert host.north.counters["probe_failed"] == 1  # ENOENT: the host does not have it


def test_results_that_nobody_waits_for_are_ignored(host: Fixed) -> None:
    for tag in (0, 1, 99):
        assert host.world.feed_north(BridgeResult(tag, 0)) == []
    assert host.north.counters["stale_result"] == 3


def test_a_host_that_breaks_a_drivers_ring_has_the_device_set_up_again(host: Fixed) -> None:
    rx = host.driver.addresses[0]
    host.world.arena.view[host.world.arena.offset(rx, 8) + 56 + 25] = 9
    host.world.arena.view[host.world.arena.offset(rx, 8) + 8 + 10] = 1
    host.event(Event(EventId.SHMSIGNAL, host.cookie))
    host.world.settle()
    assert host.north.counters["faults"] == 1
    assert host.driver.removes == 1
    host.world.advance(1.0)
    assert host.driver.probes == 2
    assert host.world.said[-1] == DeviceBound(0, "virtual-ethernet")
    host.world.toy.connection.send(b"again" * 12)
    host.world.settle()
    assert host.driver.frames == [b"again" * 12]


def test_after_a_dead_host_nothing_touches_the_memory(host: Fixed) -> None:
    signal = host.driver.tx_signal
    assert signal is not None
    host.world.feed_north(HostGone())
    before = bytes(host.world.memory)
    signal.inject()
    signal.enable()
    signal.disable()
    signal.again()
    host.world.feed_north(SignalRang(signal.cookie))
    host.world.feed_north(Interrupt(0))
    assert bytes(host.world.memory) == before
