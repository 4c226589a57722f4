"""What each venet of a partition is brought up with, and how much shared memory all of them take.

Which venet of the topology a device is, its MAC address says, and rings and buffers depend on which it is: so the
address is asked for before the bring-up (:func:`query_mac`: open, MACQUERY, close).  A device that the topology does
not have, made while the lab runs, gets :data:`UNKNOWN`.

The host takes an arena only up to a size.  Where rings of the configured lengths would take more, the longest ones are
halved until all fit.

Spec: vbus 8.3, 8.5.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pvnet.runtime.topology_net import VenetConfig
from pvnet.vbus.north_driver import ProxyDevice, Request
from pvnet.vbus.venet_layout import VENET_VERSION, VenetFunction
from pvnet.vbus.venet_north import VenetNorthConfig

SHARED_MOST: Final = 1 << 30
"""Bytes of the largest arena that the vbus host maps."""
COPIED_MOST: Final = 1 << 25
"""Bytes of the largest arena that it keeps a copy of."""
UNKNOWN: Final = VenetNorthConfig(rx_ring=32, tx_ring=32, event_ring=32, sg=0, l4ro=0)
"""For a venet that the topology does not have."""
_UNKNOWN_SHARED: Final = 8
_UNKNOWN_COPIED: Final = 2
"""So many of them have room."""
_OTHER_BYTES: Final = 1 << 18
"""For the bridge's own structures, the data of a call, and drivers of other packages."""
_RING_COPIED: Final = 32
"""Longest ring where the arena is kept in two copies: every look for changes costs its size."""
_LEAST_RING: Final = 4
_PAGES: Final = 64
_PAGE_BYTES: Final = 65536
_MEMORY_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class PlannedVenet:
    """A venet of the topology; ``mtu`` is its switch's."""

    config: VenetConfig
    mac: bytes
    mtu: int


def north_configs(venets: Sequence[PlannedVenet], *, shared: bool) -> list[VenetNorthConfig]:
    """How each is used; without shared memory with few buffers, and frames of the MTU."""
    configs = [_shared(venet) if shared else _copied(venet) for venet in venets]
    room = (SHARED_MOST if shared else COPIED_MOST) - _spare_bytes(shared=shared)
    while sum(config.arena_bytes for config in configs) > room:
        number = max(range(len(configs)), key=lambda n: (configs[n].rx_ring > _LEAST_RING, configs[n].arena_bytes))
        config = configs[number]
        if config.rx_ring <= _LEAST_RING:
            break  # those that come last do not come up
        ring = max(_LEAST_RING, config.rx_ring // 2)
        configs[number] = replace(config, rx_ring=ring, tx_ring=ring)
    return configs


def arena_bytes(venets: Sequence[PlannedVenet], *, shared: bool) -> int:
    """Bytes of the arena of a partition with these venets, a multiple of 4096."""
    needed = _spare_bytes(shared=shared) + sum(each.arena_bytes for each in north_configs(venets, shared=shared))
    whole = -(-needed // _MEMORY_PAGE) * _MEMORY_PAGE
    return min(whole, SHARED_MOST if shared else COPIED_MOST)


def _spare_bytes(*, shared: bool) -> int:
    return _OTHER_BYTES + (_UNKNOWN_SHARED if shared else _UNKNOWN_COPIED) * UNKNOWN.arena_bytes


def _shared(venet: PlannedVenet) -> VenetNorthConfig:
    config, offered = venet.config, VenetNorthConfig()
    return VenetNorthConfig(
        rx_ring=config.ring,
        tx_ring=config.ring,
        mtu=venet.mtu,
        pages=_PAGES,
        page_bytes=_PAGE_BYTES,
        ring_2026=config.ring_layout == "2026",
        sg=offered.sg if config.offloads else 0,
        l4ro=offered.l4ro if config.offloads else 0,
    )


def _copied(venet: PlannedVenet) -> VenetNorthConfig:
    ring = min(venet.config.ring, _RING_COPIED)
    return VenetNorthConfig(
        rx_ring=ring,
        tx_ring=ring,
        event_ring=ring,
        sg=0,
        l4ro=0,
        mtu=venet.mtu,
        ring_2026=venet.config.ring_layout == "2026",
    )


def query_mac(device: ProxyDevice) -> Generator[Request, int, bytes]:
    """Ask a device that is not open for its MAC address, and leave it closed.

    Raises:
        VbusError: the host refused; the device is closed when its driver is removed.
    """
    yield device.open(VENET_VERSION)
    mac = bytearray(6)
    yield device.call(VenetFunction.MACQUERY, mac)
    yield device.close()
    return bytes(mac)
