"""What a topology makes of each partition at the hypervisor: its layout, and the platform's configuration of it."""

from __future__ import annotations

from dataclasses import dataclass

from pvnet.papr import platform_io as io
from pvnet.runtime.layout import PAGE, VMC_DRC_INDEX, WINDOW_BYTES, PartitionLayout, partition_layout
from pvnet.runtime.topology import Topology


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """One partition; two of them are equal when nothing of it has to change."""

    layout: PartitionLayout
    config: io.PartitionConfig


def partition_plans(topology: Topology) -> dict[str, PartitionPlan]:
    """Return all partitions of a topology by name.

    Raises:
        ConfigError: the memory of one cannot hold its queues and buffers.
    """
    offer = topology.hypervisor.vmc
    pane_bytes = offer.max_hmcs * offer.pool_size * -(-offer.max_mtu // PAGE) * PAGE  # each buffer in whole pages
    return {p.name: _plan(partition_layout(topology, p.name), pane_bytes) for p in topology.partitions}


def _plan(layout: PartitionLayout, pane_bytes: int) -> PartitionPlan:
    adapters = []
    for adapter in layout.adapters:
        partner: io.HypervisorPartner | io.PartitionPartner = io.HypervisorPartner()
        if adapter.partner is not None:
            partner = io.PartitionPartner(*adapter.partner)
        adapters.append(
            io.AdapterConfig(
                unit=adapter.unit,
                liobn=adapter.liobn,
                window_bytes=WINDOW_BYTES,
                remote_liobn=adapter.rliobn,
                remote_window_bytes=0 if adapter.rliobn is None else pane_bytes,
                partner=partner,
            )
        )
    drc = None if layout.vmc is None else VMC_DRC_INDEX + layout.lpar_id
    return PartitionPlan(layout, io.PartitionConfig(layout.name, layout.memory_bytes, tuple(adapters), drc))
