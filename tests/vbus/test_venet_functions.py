"""Devcalls and regions of a venet, call by call: results, errnos, and what they leave behind (vbus 8.1, 8.2, 8.8)."""

from __future__ import annotations

import pytest
from venet_world import VenetWorld, WorldSignal

from pvnet.papr.errno import EEXIST, EINVAL, EIO, ENOENT
from pvnet.ring.errors import RingError
from pvnet.ring.layout import SIGNAL_OFFSET, Descriptor
from pvnet.ring.roles import Pattern, Variant, create_ring, ring_bytes, signal_offset
from pvnet.vbus.device import Region
from pvnet.vbus.errors import VbusError
from pvnet.vbus.packet import packet_of
from pvnet.vbus.venet_layout import (
    Capability,
    EventqQuery,
    L4roQuery,
    LinkState,
    VenetFunction,
    VenetRegion,
    decode_event,
)

RING = 8
SG, EVENTQ, L4RO = 0, 1, 2


class Bench:
    """A venet that is open, driven by hand."""

    def __init__(self, **attributes):
        self.world = VenetWorld(size=1 << 18, **attributes)
        self.world.execute(self.world.open(1))
        self.rings = {}
        self.signals = {}

    @property
    def connection(self):
        return self.world.connection

    def call(self, func, data=b"", flags=0):
        memory = bytearray(data)
        self.result = self.connection.call(func, memoryview(memory), flags)
        self.world.run()
        return bytes(memory)

    def refused(self, func, data=b"", flags=0):
        with pytest.raises(VbusError) as caught:
            self.call(func, data, flags)
        self.world.run()
        return caught.value.errno

    def agree(self, group, bits):
        return Capability.decode(self.call(VenetFunction.NEGCAP, Capability(group, bits).encode())).bits

    def pool(self, region, size):
        address = self.world.allocator.alloc(size)
        return self.world.register(region, address, size)

    def ring(self, region, pattern, count=RING, variant=Variant.IOQ_2009):

        size = ring_bytes(count, variant)
        address = self.world.allocator.alloc(size)
        ring = create_ring(self.world.arena.slice(address, size), count, pattern, self.world.fence, variant)
        signal = WorldSignal(self.world, ring.signal)
        self.world.register(region, address, size, signal, signal_offset(variant))
        self.rings[region] = ring
        self.signals[region] = signal
        return ring

    def both_rings(self):
        self.ring(VenetRegion.RX, Pattern.RX)
        self.ring(VenetRegion.TX, Pattern.TX)

    def shm_refused(self, action):
        with pytest.raises(VbusError) as caught:
            action()
        self.world.run()
        return caught.value.errno


@pytest.fixture
def bench():
    return Bench()


def test_the_link_needs_both_rings(bench):
    assert bench.refused(VenetFunction.LINKUP) == EINVAL
    bench.ring(VenetRegion.RX, Pattern.RX)
    assert bench.refused(VenetFunction.LINKUP) == EINVAL
    bench.ring(VenetRegion.TX, Pattern.TX)
    bench.call(VenetFunction.LINKUP)
    assert bench.result == 0


def test_link_up_and_down_have_their_errnos(bench):
    assert bench.refused(VenetFunction.LINKDOWN) == ENOENT
    bench.both_rings()
    bench.call(VenetFunction.LINKUP)
    assert bench.refused(VenetFunction.LINKUP) == EEXIST
    bench.call(VenetFunction.LINKDOWN)
    assert bench.result == 0
    assert bench.refused(VenetFunction.LINKDOWN) == ENOENT
    bench.call(VenetFunction.LINKUP)


def test_macquery_wants_six_bytes():
    bench = Bench(client_mac="02:11:22:33:44:55")
    assert bench.call(VenetFunction.MACQUERY, bytes(6)) == bytes.fromhex("021122334455")
    for size in (0, 5, 7):
        assert bench.refused(VenetFunction.MACQUERY, bytes(size)) == EINVAL


def test_capabilities_are_the_common_ones_and_the_last_call_wins(bench):
    assert bench.agree(SG, 0xFFFFFFFF) == 0x2F
    assert bench.agree(EVENTQ, 0xFF) == 3
    assert bench.agree(L4RO, 0xFF) == 0x0F
    assert bench.agree(7, 0xFF) == 0
    assert bench.agree(SG, 1) == 1
    assert bench.connection.agreed(SG) == 1
    assert bench.connection.accepts == 0x0F
    assert bench.agree(L4RO, 0x0E) == 0x0E
    assert bench.connection.accepts == 0, "without SG there is no L4RO"
    assert bench.refused(VenetFunction.NEGCAP, bytes(7)) == EINVAL


def test_what_was_agreed_is_frozen_from_the_first_link_up_on(bench):
    bench.both_rings()
    bench.call(VenetFunction.LINKUP)
    for _ in range(2):
        assert bench.refused(VenetFunction.NEGCAP, bytes(8)) == EINVAL
        assert bench.refused(VenetFunction.EVQQUERY, bytes(32)) == EINVAL
        assert bench.refused(VenetFunction.L4ROQUERY, bytes(32)) == EINVAL
        if bench.connection.is_up:
            bench.call(VenetFunction.LINKDOWN)


def test_queries_name_the_regions(bench):
    assert EventqQuery.decode(bench.call(VenetFunction.EVQQUERY, bytes(32))) == EventqQuery(0, 24, 101, 102)
    assert L4roQuery.decode(bench.call(VenetFunction.L4ROQUERY, bytes(32))) == L4roQuery(0, 103, 104)
    bench.call(VenetFunction.PMTDQUERY)
    assert bench.result == 100


@pytest.mark.parametrize("func", [VenetFunction.EVQQUERY, VenetFunction.L4ROQUERY])
def test_queries_want_32_bytes_and_no_flags(bench, func):
    assert bench.refused(func, bytes(31)) == EINVAL
    assert bench.refused(func, bytes(33)) == EINVAL
    assert bench.refused(func, b"\x01" + bytes(31)) == EINVAL


def test_unknown_functions_and_flags_are_refused(bench):
    assert bench.refused(8) == EINVAL
    assert bench.refused(1 << 31) == EINVAL
    assert bench.refused(VenetFunction.PMTDQUERY, flags=1) == EINVAL


def test_flushrx_wants_the_link_and_returns_every_buffer_empty_without_a_bell(bench):
    bench.both_rings()
    assert bench.refused(VenetFunction.FLUSHRX) == EINVAL
    ring = bench.rings[VenetRegion.RX]
    address = bench.world.allocator.alloc(64 * RING)

    ring.provide([Descriptor(index, address + 64 * index, 64) for index in range(RING)])
    south = bench.signals[VenetRegion.RX].peer
    ring.signal.enable()
    bench.call(VenetFunction.LINKUP)

    assert bench.world.device.port.deliver([packet_of(bytes(60)), packet_of(bytes(100))]) == 2
    bells = south.bells
    bench.call(VenetFunction.FLUSHRX)
    assert south.bells == bells
    assert [length for _, _, length in ring.collect(99)] == [60] + [0] * (RING - 1)
    bench.call(VenetFunction.FLUSHRX)
    assert ring.collect(99) == []


# regions


def test_region_ids_and_signals_are_checked(bench):
    for id_ in (2, 99, 105, 1 << 32):
        assert bench.shm_refused(lambda id_=id_: bench.pool(id_, 320)) == EINVAL
    assert bench.shm_refused(lambda: bench.pool(VenetRegion.RX, 320)) == EINVAL, "a ring without a signal"
    assert bench.shm_refused(lambda: bench.ring(VenetRegion.PMTD_POOL, Pattern.TX)) == EINVAL, "a pool with one"


def test_flags_of_a_region_are_refused(bench):
    address = bench.world.allocator.alloc(320)

    region = Region(100, address, 320, bench.world.arena.slice(address, 320), None)
    bench.agree(SG, 0x2F)
    assert bench.shm_refused(lambda: bench.connection.shm(100, region, 1)) == EINVAL
    bench.connection.shm(100, region, 0)


def test_pmtd_needs_agreement_and_the_size_of_the_ring(bench):
    assert bench.shm_refused(lambda: bench.pool(100, RING * 320)) == EINVAL
    bench.agree(SG, 0x0F)
    assert bench.shm_refused(lambda: bench.pool(100, RING * 320)) == EINVAL
    bench.agree(SG, 0x2E)
    assert bench.shm_refused(lambda: bench.pool(100, RING * 320)) == EINVAL
    bench.agree(SG, 0x2F)
    for size in (1, 319, 321):
        assert bench.shm_refused(lambda size=size: bench.pool(100, size)) == EINVAL
    bench.ring(VenetRegion.TX, Pattern.TX)
    for count in (RING - 1, RING + 1):
        assert bench.shm_refused(lambda count=count: bench.pool(100, count * 320)) == EINVAL
    bench.pool(100, RING * 320)
    assert bench.shm_refused(lambda: bench.pool(100, RING * 320)) == EEXIST


def test_a_pmtd_pool_that_comes_first_decides_the_ring(bench):
    bench.agree(SG, 0x2F)
    bench.pool(100, RING * 320)
    assert bench.shm_refused(lambda: bench.ring(VenetRegion.TX, Pattern.TX, RING * 2)) == EINVAL
    bench.ring(VenetRegion.TX, Pattern.TX)


def test_the_event_pool_comes_before_its_ring_and_fits(bench):
    assert bench.shm_refused(lambda: bench.pool(101, RING * 24)) == EINVAL, "not agreed"
    bench.agree(EVENTQ, 3)
    assert bench.shm_refused(lambda: bench.ring(102, Pattern.RX)) == EINVAL, "no pool"
    assert bench.shm_refused(lambda: bench.pool(101, 2049 * 24)) == EINVAL
    bench.pool(101, RING * 24)
    assert bench.shm_refused(lambda: bench.ring(102, Pattern.RX, RING - 1)) == EINVAL
    bench.ring(102, Pattern.RX)
    assert bench.shm_refused(lambda: bench.ring(102, Pattern.RX)) == EEXIST


def test_an_event_ring_of_a_group_given_up_is_refused(bench):
    bench.agree(EVENTQ, 3)
    bench.pool(101, RING * 24)
    bench.agree(EVENTQ, 0)
    assert bench.shm_refused(lambda: bench.ring(102, Pattern.RX)) == EINVAL


def test_l4ro_regions_need_agreement_and_the_pool_first(bench):
    assert bench.shm_refused(lambda: bench.pool(103, 320)) == EINVAL
    assert bench.shm_refused(lambda: bench.ring(104, Pattern.TX)) == EINVAL
    bench.agree(L4RO, 0x0F)
    assert bench.shm_refused(lambda: bench.ring(104, Pattern.TX)) == EINVAL
    bench.pool(103, RING * 320)
    bench.ring(104, Pattern.TX)


def test_the_l4ro_pool_has_at_most_2048_slots():
    bench = Bench()
    bench.world = VenetWorld(size=1 << 21)
    bench.world.execute(bench.world.open(1))
    bench.agree(L4RO, 0x0F)
    assert bench.shm_refused(lambda: bench.pool(103, 2049 * 320)) == EINVAL
    bench.pool(103, 2048 * 320)


def test_a_ring_that_is_none_is_refused_and_can_be_registered_right(bench):

    size = ring_bytes(RING)
    address = bench.world.allocator.alloc(size)
    view = bench.world.arena.slice(address, size)
    ring = create_ring(view, RING, Pattern.RX, bench.world.fence)
    view[0] ^= 1
    signal = WorldSignal(bench.world, ring.signal)
    assert bench.shm_refused(lambda: bench.world.register(0, address, size, signal, SIGNAL_OFFSET)) == EINVAL
    view[0] ^= 1
    bench.world.register(0, address, size, signal, SIGNAL_OFFSET)


def test_the_2026_layout_only_if_the_bridge_agreed():
    for allowed in (False, True):
        bench = Bench()
        bench.world.allow_2026 = allowed
        size = ring_bytes(RING, Variant.IOQ_2026)
        assert size
        if allowed:
            bench.ring(VenetRegion.RX, Pattern.RX, variant=Variant.IOQ_2026)
        else:
            with pytest.raises(RingError):
                bench.ring(VenetRegion.RX, Pattern.RX, variant=Variant.IOQ_2026)


def test_link_state_comes_by_event_at_link_up_and_when_the_cable_moves():

    bench = Bench()
    bench.agree(EVENTQ, 1)
    pool_address = bench.world.allocator.alloc(RING * 24)
    bench.world.register(101, pool_address, RING * 24)
    ring = bench.ring(102, Pattern.RX)
    ring.provide([Descriptor(index, 24 * index, 24) for index in range(RING)])
    bench.both_rings()
    bench.world.device.set("enabled", "0")
    bench.call(VenetFunction.LINKUP)
    bench.world.device.set("enabled", "1")
    bench.world.device.set("enabled", "1")
    bench.world.device.set("enabled", "0")
    filled = ring.collect(99)
    assert [length for _, _, length in filled] == [16] * 3
    events = [decode_event(bench.world.arena.read(pool_address + at, 16)) for _, at, _ in filled]
    assert events == [LinkState(up=False), LinkState(up=True), LinkState(up=False)]


def test_a_ring_that_breaks_inside_a_call_is_an_eio_and_ends_the_connection(bench):
    bench.both_rings()
    bench.call(VenetFunction.LINKUP)
    view = bench.world.regions[0].view
    view[56 + 25] = 7
    assert bench.refused(VenetFunction.FLUSHRX) == EIO
    assert bench.world.faults
    assert bench.world.connection is None
    assert bench.world.device.connection is None


def test_a_closed_connection_refuses_everything(bench):
    connection = bench.connection
    bench.both_rings()
    bench.call(VenetFunction.LINKUP)
    connection.close()
    with pytest.raises(VbusError):
        connection.call(VenetFunction.PMTDQUERY, memoryview(bytearray()), 0)
    with pytest.raises(VbusError):
        bench.pool(100, 320)
    assert connection.deliver([]) == 0
    connection.release()
    bench.world.run()
