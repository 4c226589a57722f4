"""A topology, and what its processes do, as the messages that management software gets.

Every message has to fit one of the VMC's: a partition with more adapters or SCM devices than that is shown with those
that fit (:func:`partition_message` says how many are left out).  No IO here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvnet.pb.v1.management_pb2 import Adapter, Partition, Processors, ScmVolume, Switch, System
from pvnet.runtime.topology import PartitionConfig, Topology
from pvnet.runtime.topology_net import SwitchConfig
from pvnet.runtime.topology_system import ProcessorsConfig, made_uuid

REPLY_BYTES: Final = 3968
"""Most bytes of a reply: a VMC message of 4096 without the frame and the reply's own fields."""
PARTITION_BYTES: Final = REPLY_BYTES - 64
PARTITIONS_MAX: Final = 1000
"""Partitions that commands make; a topology may have more."""
FIRST_SLOT: Final = 2
"""Virtual slots 0 and 1 are the partition's consoles."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a partition's process does."""

    state: Partition.State = Partition.OFF
    pid: int = 0
    restarts: int = 0
    text: str = ""
    memory: int = 0
    """Of the process, in bytes; 0 when there is none."""

    @property
    def is_on(self) -> bool:
        """Whether it has memory and processors of the system."""
        return self.state in {Partition.STARTING, Partition.RUNNING, Partition.STOPPING}


OFF: Final = Facts()


def units(processors: ProcessorsConfig) -> int:
    """Return the processing units of a partition, in hundredths of a processor."""
    return round(processors.units * 100)


def processors_message(processors: ProcessorsConfig) -> Processors:
    """Return the processors of a partition, limits included."""
    return Processors(
        dedicated=processors.dedicated,
        units=units(processors),
        min_units=round((processors.min_units or processors.units) * 100),
        max_units=round((processors.max_units or processors.units) * 100),
        virtual=processors.virtual,
        min_virtual=processors.min_virtual or processors.virtual,
        max_virtual=processors.max_virtual or processors.virtual,
        uncapped=processors.uncapped,
        weight=processors.weight,
    )


def venet_device(partition: str, slot: int) -> str:
    """Return the name of the vbus device of a virtual Ethernet."""
    return f"{partition}-eth{slot - FIRST_SLOT}"


def adapter_messages(topology: Topology, partition: PartitionConfig) -> list[Adapter]:
    """Return the virtual Ethernets of a partition."""
    uuid = topology.partition_uuid(partition)
    adapters = []
    for number, venet in enumerate(partition.venet):
        slot = topology.venet_slot(partition, number)
        adapters.append(
            Adapter(
                slot=slot,
                uuid=made_uuid("adapter", uuid, str(slot)),
                mac=topology.venet_mac(partition, number),
                switch=venet.switch,
                vlan=venet.vlan,
                device=venet_device(partition.name, slot),
                address=venet.address or "",
            )
        )
    return adapters


def scm_messages(topology: Topology, partition: PartitionConfig) -> list[ScmVolume]:
    """Return the storage-class-memory devices of a partition."""
    uuid = topology.partition_uuid(partition)
    volumes = []
    for number, device in enumerate(partition.scm):
        drc = topology.scm_drc(partition, number)
        volumes.append(
            ScmVolume(
                drc=drc,
                size_bytes=device.size,
                block_bytes=device.block_size,
                label_bytes=device.label_size,
                type=device.type,
                uuid=made_uuid("scm", uuid, str(drc)),
            )
        )
    return volumes


def partition_message(topology: Topology, partition: PartitionConfig, facts: Facts) -> tuple[Partition, int]:
    """Return a partition and how many of its adapters and SCM devices the message has no place for."""
    message = Partition(
        name=partition.name,
        lpar_id=topology.lpar_id(partition.name),
        state=facts.state,
        management=partition.management,
        memory_bytes=partition.memory,
        pid=facts.pid,
        restarts=facts.restarts,
        label=partition.shown_label,
        uuid=topology.partition_uuid(partition),
        min_memory_bytes=partition.min_memory or partition.memory,
        max_memory_bytes=partition.max_memory or partition.memory,
        current_memory_bytes=facts.memory if facts.is_on else 0,
        processors=processors_message(partition.processors),
        type=partition.type,
        text=facts.text[:200] if facts.state == Partition.FAILED else "",
        guest_ready=facts.state == Partition.RUNNING,
    )
    left_out = 0
    used = message.ByteSize() + 10  # the revision that it will have
    for adapter in adapter_messages(topology, partition):
        used += adapter.ByteSize() + 13
        if used <= PARTITION_BYTES:
            message.adapters.append(adapter)
        else:
            left_out += 1
    for volume in scm_messages(topology, partition):
        used += volume.ByteSize() + 3
        if used <= PARTITION_BYTES:
            message.scm.append(volume)
        else:
            left_out += 1
    return message, left_out


def switch_message(topology: Topology, switch: SwitchConfig) -> Switch:
    """Return a switch."""
    label = switch.label or switch.name
    return Switch(name=switch.name, label=label, uuid=topology.switch_uuid(switch), mtu=switch.mtu)


def system_message(topology: Topology, *, memory_used: int, units_used: int) -> System:
    """Return the system; what the partitions that are on use is taken off what is free."""
    system = topology.system
    installed_units = round(topology.system_processors * 100)
    return System(
        name=topology.system_name,
        uuid=topology.system_uuid,
        machine_type=system.machine_type,
        model=system.model,
        serial=system.serial,
        memory_bytes=topology.system_memory,
        free_memory_bytes=max(0, topology.system_memory - memory_used),
        memory_region_bytes=system.memory_region,
        processor_units=installed_units,
        free_processor_units=max(0, installed_units - units_used),
        max_partitions=max(PARTITIONS_MAX, len(topology.partitions)),
        lab=topology.lab.name,
    )
