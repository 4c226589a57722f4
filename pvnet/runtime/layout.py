"""What the platform's firmware would decide for a partition: LIOBNs, unit numbers, where things lie in its memory.

Hypervisor and partition both derive these numbers from the topology, as both would read them from the device tree.

Memory of a partition, as it lies in its logical real addresses::

    0x000000  1 MiB    the partition's own (command line, scratch for hcalls that the user issues)
    0x100000  n        DMA area: I/O address x of pane 1 is address 0x100000 + x
                       0x0000  unused page (an I/O address of 0 is always a mistake)
                       0x1000  CRQ of adapter 0, then the data buffers of the VMC
    ...                further adapters: 64 KiB each, from the end of the area downwards

LIOBNs: pane 1 of adapter *i* of partition *n* is ``0x10000000 + (n << 8) + i``; pane 2 (the hypervisor's memory
offered to a VMC adapter) is ``0x20000000 + (n << 8) + i``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.core.names import Ioba, Liobn, UnitAddress
from pvnet.runtime.topology import PartitionVmc, Topology

PAGE: Final = 4096
DMA_BASE: Final = 0x100000
CRQ_IOBA: Final = 0x1000
CRQ_BYTES: Final = PAGE
BUFFER_IOBA: Final = CRQ_IOBA + CRQ_BYTES
WINDOW_BYTES: Final = 0x10000000
VMC_DRC_INDEX: Final = 0x30000000
_PAIR_BYTES: Final = 16 * PAGE


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """One virtual adapter of a partition."""

    unit: UnitAddress
    liobn: Liobn
    crq_ioba: Ioba
    crq_bytes: int
    partner: tuple[str, UnitAddress] | None
    """The other partition's end, or None: the hypervisor is the partner."""
    rliobn: Liobn | None = None
    buffer_ioba: Ioba | None = None
    buffer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PartitionLayout:
    """All of a partition."""

    name: str
    lpar_id: int
    memory_bytes: int
    vmc: AdapterLayout | None
    pairs: tuple[AdapterLayout, ...]

    @property
    def adapters(self) -> tuple[AdapterLayout, ...]:
        """Every adapter, the VMC first."""
        return (() if self.vmc is None else (self.vmc,)) + self.pairs


def liobn_of(lpar_id: int, adapter: int) -> Liobn:
    """LIOBN of pane 1."""
    return Liobn(0x10000000 + (lpar_id << 8) + adapter)


def remote_liobn_of(lpar_id: int, adapter: int) -> Liobn:
    """LIOBN of pane 2."""
    return Liobn(0x20000000 + (lpar_id << 8) + adapter)


def memory_needed(topology: Topology, name: str) -> int:
    """Bytes of memory that a partition's queues and buffers need, its own first MiB included."""
    config = topology.vmc_of(topology.partition(name))
    used = CRQ_IOBA if config is None else BUFFER_IOBA + _buffer_bytes(config)
    pairs = sum(end[0] == name for pair in topology.crqs for end in pair.ends())
    return DMA_BASE + used + pairs * _PAIR_BYTES


def _buffer_bytes(config: PartitionVmc) -> int:
    return config.max_hmcs * config.pool_size * -(-config.max_mtu // PAGE) * PAGE


def partition_layout(topology: Topology, name: str) -> PartitionLayout:
    """Lay out one partition of a topology.

    Raises:
        ConfigError: its memory cannot hold its adapters' queues and buffers.
    """
    partition = topology.partition(name)
    lpar_id = topology.lpar_id(name)
    needed = memory_needed(topology, name)
    if needed > partition.memory:
        raise ConfigError(
            f"partition {name}: memory of {partition.memory} bytes cannot hold its queues and buffers: "
            f"expected at least {needed} (fewer HMC connections or buffers, a smaller MTU, or more memory)"
        )
    vmc = None
    config = topology.vmc_of(partition)
    if config is not None:
        vmc = AdapterLayout(
            UnitAddress(config.unit),
            liobn_of(lpar_id, 0),
            Ioba(CRQ_IOBA),
            CRQ_BYTES,
            None,
            remote_liobn_of(lpar_id, 0),
            Ioba(BUFFER_IOBA),
            _buffer_bytes(config),
        )
    area = (min(partition.memory - DMA_BASE, WINDOW_BYTES)) // PAGE * PAGE
    pairs: list[AdapterLayout] = []
    for pair in topology.crqs:
        ends = pair.ends()
        for mine, other in (ends, ends[::-1]):
            if mine[0] == name:
                number = len(pairs) + 1
                pairs.append(
                    AdapterLayout(
                        mine[1], liobn_of(lpar_id, number), Ioba(area - number * _PAIR_BYTES), CRQ_BYTES, other
                    )
                )
    return PartitionLayout(name, lpar_id, partition.memory, vmc, tuple(pairs))
