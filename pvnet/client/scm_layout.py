"""SCM devices of a topology as both ends see them: the hypervisor's configuration, and the guest's from the same node.

Devices lie behind the partition's memory, from the next GiB on, first fit, aligned to their blocks, as QEMU places
them.
"""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

from pvnet.papr.devicetree import Node
from pvnet.runtime.topology import PartitionConfig, ScmConfig, Topology
from pvnet.scm.device import MemoryMetadata, ScmDeviceConfig, ScmType, device_node
from pvnet.scm.guest_interface import ScmGuestConfig, parse_node
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import ScmHypervisorConfig
from pvnet.scm.profiles import PROFILES

_GIB = 1 << 30
STATS_ADDRESS = 0x10000
"""Real address of the first device's statistics buffer; one page each, in the partition's first MiB."""
STATS_BYTES = 4096


def _address(partition: PartitionConfig, number: int) -> int:
    """First address behind the memory and the earlier devices, aligned to the block size."""
    end = -(-partition.memory // _GIB) * _GIB
    for i, device in enumerate(partition.scm):
        start = -(-end // device.block_size) * device.block_size
        if i == number:
            return start
        end = start + device.size
    raise IndexError(number)


def device_config(topology: Topology, partition: PartitionConfig, number: int) -> ScmDeviceConfig:
    """Return the hypervisor's configuration of a partition's device ``number``.

    Raises:
        ConfigError: a value is out of range.
    """
    device: ScmConfig = partition.scm[number]
    drc = topology.scm_drc(partition, number)
    return ScmDeviceConfig(
        partition=partition.name,
        drc=drc,
        blocks=device.size // device.block_size,
        address=_address(partition, number),
        block_size=device.block_size,
        metadata_size=device.label_size,
        type=ScmType(device.type),
        profile=PROFILES[device.profile],
        is_unarmed=device.unarmed,
        is_readonly=device.readonly,
        guid=str(uuid5(NAMESPACE_URL, f"pvnet:{topology.lab.name}:{partition.name}:{drc:#x}")),
    )


def guest_config(topology: Topology, partition: PartitionConfig, number: int) -> ScmGuestConfig:
    """Return the driver's configuration, read from the device-tree node as a driver would."""
    node = device_node(device_config(topology, partition, number))
    properties = {prop.name: prop.value for prop in node.properties}
    stats = STATS_ADDRESS + number * STATS_BYTES
    return parse_node(properties, stats_address=stats, taken=((0, partition.memory),))


def device_tree(topology: Topology, partition: PartitionConfig) -> Node:
    """Return the root of a partition's device tree, with its connectors and SCM devices."""
    configs = tuple(device_config(topology, partition, number) for number in range(len(partition.scm)))
    stores = {(config.partition, config.drc): MemoryMetadata(0) for config in configs}
    return ScmHypervisor(ScmHypervisorConfig(configs), stores).tree(partition.name)
