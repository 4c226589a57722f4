"""Every venet that a topology may have comes up as it was asked for: rings, buffers and memory of a partition."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from ipaddress import IPv4Interface
from mmap import mmap
from types import SimpleNamespace

import pytest
from venet_bridge import Lab, Partition

from pvnet.core.errors import ConfigError
from pvnet.runtime.fence import full_fence
from pvnet.runtime.topology_net import VenetConfig
from pvnet.vbus.arena import DEFAULT_BASE, Arena, ArenaAllocator
from pvnet.vbus.north import VbusNorth
from pvnet.vbus.north_driver import ProxyDevice, Steps
from pvnet.vbus.north_io import Start
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.venet_layout import VENET_TYPE
from pvnet.vbus.venet_north import VenetNorth
from pvnet_services import vbus_host
from pvnet_services.guest_net import stack_of
from pvnet_services.guest_venets import (
    COPIED_MOST,
    SHARED_MOST,
    UNKNOWN,
    PlannedVenet,
    arena_bytes,
    north_configs,
    query_mac,
)

RINGS = (4, 5, 256, 2047, 2048)
MTUS = (68, 1500, 9000, 65521)


def plan(number: int = 0, mtu: int = 1500, **venet: object) -> PlannedVenet:
    return PlannedVenet(VenetConfig.model_validate(venet), bytes([2, 0, 0, 0, 1, number]), mtu)


class Guest(Partition):
    """A partition whose arena is as large as is asked for; devices in the order given, and some unknown ones."""

    def __init__(self, lab: Lab, plans: list[PlannedVenet], *, shared: bool, unknown: int = 0) -> None:
        self.lab, self.name = lab, "a"
        self.plans, self.configs = plans, north_configs(plans, shared=shared)
        self.venets: dict[bytes, VenetNorth] = {}
        size = arena_bytes(plans, shared=shared)
        self.mapping = mmap(-1, size)
        self.arena = Arena(memoryview(self.mapping), DEFAULT_BASE)
        self.allocator = ArenaAllocator(DEFAULT_BASE, size)
        self.north = VbusNorth(self.arena, self.allocator, {VENET_TYPE: self}, full_fence)
        self.north.on_ready = lambda: None
        lab.registry.bus_create("a")
        for number in range(unknown):  # before the others: they must not take their place
            lab.registry.device_create("venet", f"unknown{number}")
            lab.registry.attach(f"unknown{number}", "a")
        for number, each in enumerate(plans):
            lab.registry.device_create("venet", f"n{number}", {"client_mac": each.mac.hex(":"), "mtu": str(each.mtu)})
            lab.registry.attach(f"n{number}", "a")
        lab.registry.join("a", "a")
        self.south = VbusSouth("a", self.arena, lab.registry, full_fence)
        self.south.on_ready = lambda: None
        self.to_north, self.to_south = deque([Start()]), deque()
        self.bound, self.notes = [], []
        self.doorbells = self.interrupts = 0
        lab.partitions.append(self)
        lab.run()

    def probe(self, device: ProxyDevice) -> Steps:
        mac = yield from query_mac(device)
        assert device.handle == 0, "it is closed again"
        number = next((n for n, each in enumerate(self.plans) if each.mac == mac), None)
        venet = VenetNorth(UNKNOWN if number is None else self.configs[number])
        yield from venet.probe(device)
        self.venets[mac] = venet

    def remove(self, device: ProxyDevice) -> Steps:
        raise AssertionError(f"device {device.id} did not come up")


def comes_up(plans: list[PlannedVenet], *, shared: bool, unknown: int = 0) -> Guest:
    guest = Guest(Lab(), plans, shared=shared, unknown=unknown)
    assert len(guest.venets) == len(plans) + unknown
    for each in plans:
        venet = guest.venets[each.mac]
        assert venet.link
        assert not [name for name in venet.counters if name.startswith("without_")], "nothing had to be given up"
        if shared and each.config.offloads:
            assert venet.accepts
            assert venet.receives
        else:
            assert not venet.accepts | venet.receives
    return guest


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("ring", "layout"), [*((ring, "2009") for ring in RINGS), (4, "2026"), (256, "2026"), (2048, "2026")]
)
def test_every_legal_venet_has_the_memory_that_it_needs(ring, layout, shared):
    for mtu, offloads in itertools.product(MTUS, (True, False)):
        each = plan(mtu=mtu, ring=ring, ring_layout=layout, offloads=offloads)
        guest = comes_up([each], shared=shared)
        (config,) = guest.configs
        assert config.rx_ring == config.tx_ring == (ring if shared else min(ring, 32))


@pytest.mark.parametrize("shared", [True, False])
def test_several_venets_and_those_that_nobody_knows_fit_together(shared):
    plans = [
        plan(0, 65521, ring=2048),
        plan(1, 68, ring=4, offloads=False),
        plan(2, 9000, ring=1024, ring_layout="2026"),
        plan(3, 1500, ring=2048, offloads=False),
    ]
    for order in (plans, plans[::-1]):
        guest = comes_up(list(order), shared=shared, unknown=2)
        mtus = [guest.venets[each.mac].mtu for each in order]
        assert mtus == [each.mtu for each in order], "each has its own configuration"
        assert Counter(venet.mtu for venet in guest.venets.values())[UNKNOWN.mtu] == 3


@pytest.mark.parametrize("shared", [True, False])
def test_rings_that_no_host_would_take_are_made_shorter_until_all_fit(shared):
    plans = [plan(number, 65521, ring=2048, offloads=False) for number in range(12)] + [plan(12, ring=2048)]
    assert arena_bytes(plans, shared=shared) <= (SHARED_MOST if shared else COPIED_MOST)
    guest = comes_up(plans, shared=shared, unknown=1)
    if shared:
        assert guest.configs[12].rx_ring == 2048, "only the large ones are"
    assert {config.rx_ring for config in guest.configs[:12]} <= {4, 8, 16, 32, 256, 512, 1024, 2048}


def test_the_limits_are_those_of_the_host():
    assert SHARED_MOST == vbus_host._ARENA_MAX
    assert COPIED_MOST == vbus_host._COPY_MAX


def stacks(*addresses: str) -> list[SimpleNamespace]:
    """Stand-ins: only where a stack is counts."""
    return [SimpleNamespace(address=IPv4Interface(address)) for address in addresses]


def test_a_ping_goes_out_where_its_address_lives():
    first, second, inner = given = stacks("10.1.0.1/24", "10.0.0.1/8", "10.1.0.65/26")
    assert stack_of("10.1.0.9", given) is first
    assert stack_of("10.200.0.9", given) is second
    assert stack_of("10.1.0.70", given) is inner, "the smallest network that has it"
    with pytest.raises(ConfigError, match=r"address 192.168.0.1: expected another one of 10.1.0.0/24, 10.0.0.0/8, 10"):
        stack_of("192.168.0.1", given)
    with pytest.raises(ConfigError, match=r"address 10.1.0.1: expected another one of 10.1.0.0/24$"):
        stack_of("10.1.0.1", stacks("10.1.0.1/24"))
    with pytest.raises(ConfigError, match=r"address 'nowhere': expected an IPv4 address"):
        stack_of("nowhere", given)
