"""The few properties of a resource that can be had as JSON, without its document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pvnet.novalink.content import mebibytes
from pvnet.novalink.errors import RequestError
from pvnet.novalink.names import (
    LOGICAL_PARTITION,
    MANAGED_SYSTEM,
    label_of,
    partition_uuid,
    rmc_of,
    state_of,
    system_uuid,
    type_of,
)
from pvnet.novalink.partition_documents import address_of
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition, System

Scalar = str | int | float | bool | None
"""What a property is in JSON."""


def _units(hundredths: int) -> int | float:
    whole, rest = divmod(hundredths, 100)
    return hundredths / 100 if rest else whole


def _system(system: System) -> dict[str, Scalar]:
    return {
        "UUID": system_uuid(system),
        "SystemName": system.name,
        "State": "operating",
        "MTMS": f"{system.machine_type}-{system.model}*{system.serial}",
        "IPAddress": "127.0.0.1",
        "ReferenceCode": None,
        "InstalledSystemMemory": mebibytes(system.memory_bytes),
        "ConfigurableSystemMemory": mebibytes(system.memory_bytes),
        "CurrentAvailableSystemMemory": mebibytes(system.free_memory_bytes),
        "InstalledSystemProcessorUnits": _units(system.processor_units),
        "ConfigurableSystemProcessorUnits": _units(system.processor_units),
        "CurrentAvailableSystemProcessorUnits": _units(system.free_processor_units),
        "MaximumPartitions": system.max_partitions,
    }


def _mode(p: Partition) -> str:
    if p.processors.dedicated:
        return "sre idle proces"
    return "uncapped" if p.processors.uncapped else "capped"


def _partition(view: View, p: Partition) -> dict[str, Scalar]:
    failed = p.state == Partition.State.FAILED
    processors = p.processors
    return {
        "UUID": partition_uuid(p),
        "PartitionName": label_of(p),
        "PartitionID": p.lpar_id,
        "PartitionState": state_of(p),
        "PartitionType": type_of(p),
        "SystemName": view.system.name,
        "AssociatedManagedSystem": system_uuid(view.system),
        "OperatingSystemVersion": "Unknown" if p.type == "os400" else "Linux/pvnet",
        "ResourceMonitoringIPAddress": address_of(p) or None,
        "ResourceMonitoringControlState": rmc_of(p),
        "RMCState": rmc_of(p),
        "ReferenceCode": "FAILED" if failed else "00000000",
        "CurrentMemory": mebibytes(p.current_memory_bytes or p.memory_bytes),
        "HasDedicatedProcessors": "true" if processors.dedicated else "false",
        "CurrentProcessors": processors.units // 100 if processors.dedicated else 0,
        "CurrentProcessingUnits": 0 if processors.dedicated else _units(processors.units),
        "AllocatedVirtualProcessors": processors.virtual,
        "CurrentUncappedWeight": processors.weight,
        "SharingMode": _mode(p),
        "IsManagementPartition": p.management,
        "IsVirtualServiceAttentionLEDOn": "true" if failed else "false",
        "MigrationState": "Not_Migrating",
        "RemoteRestartState": "Invalid",
        "ProgressState": None,
        "Description": None,
    }


_ALL: Final[Mapping[str, Callable[[View], list[dict[str, Scalar]]]]] = MappingProxyType(
    {
        MANAGED_SYSTEM: lambda view: [_system(view.system)],
        LOGICAL_PARTITION: lambda view: [_partition(view, p) for p in view.partitions],
    }
)


def quick_all(kind: str, view: View) -> list[dict[str, Scalar]]:
    """Return the properties of every resource of a kind: none of one that a lab does not have."""
    make = _ALL.get(kind)
    return [] if make is None else make(view)


def quick_one(view: View, partition: Partition | None = None) -> dict[str, Scalar]:
    """Return the properties of a partition, or (None) of the system."""
    return _system(view.system) if partition is None else _partition(view, partition)


def quick_property(name: str, view: View, partition: Partition | None = None) -> Scalar:
    """Return one property of a partition, or (None) of the system; RequestError 404 names those that there are."""
    properties = quick_one(view, partition)
    if name not in properties:
        there = ", ".join(sorted(properties))
        raise RequestError(404, "Unknown property", f"no quick property {name[:60]!r}; there are {there}")
    return properties[name]
