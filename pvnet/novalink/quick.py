"""The few properties of a resource that can be had as JSON, without its document.

Names and types are those that an HMC answers with: numbers are numbers, yes and no are the strings that XML has, and
what a resource does not have is null.  An inventory leaves out all that it was to make of a host when one name of it
is missing, so what a lab has no counterpart for is there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import pvnet
from pvnet.novalink.content import mebibytes
from pvnet.novalink.errors import RequestError
from pvnet.novalink.names import (
    LOGICAL_PARTITION,
    MANAGED_SYSTEM,
    label_of,
    partition_uuid,
    rmc_of,
    state_of,
    system_path,
    system_uuid,
    type_of,
)
from pvnet.novalink.partition_documents import address_of
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition, System

Scalar = str | int | float | bool | None
"""What a property is in JSON."""

_SYSTEM_TYPE: Final = "fsp"  # the service processor of the machines of a lab's default model


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
        "SystemType": _SYSTEM_TYPE,
        "SystemFirmware": f"pvnet {pvnet.__version__}",
        "SystemLocation": None,
        "Description": None,
        "ReferenceCode": "",
        "MergedReferenceCode": "",
        "PhysicalSystemAttentionLEDState": "false",
        "MemoryDefragmentationState": "Not_In_Progress",
        "ProcessorThrottling": "false",
        "ManufacturingDefaultConfigurationEnabled": "false",
        "IsPowerVMManagementMaster": "true",
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


def _partition(view: View, p: Partition, base: str) -> dict[str, Scalar]:
    failed = p.state == Partition.State.FAILED
    processors = p.processors
    dedicated = processors.dedicated
    return {
        "UUID": partition_uuid(p),
        "PartitionName": label_of(p),
        "PartitionID": p.lpar_id,
        "PartitionState": state_of(p),
        "PartitionType": type_of(p),
        "SystemName": view.system.name,
        "AssociatedManagedSystem": base + system_path(view.system),
        "OperatingSystemVersion": "Unknown" if p.type == "os400" else "Linux/pvnet",
        "ResourceMonitoringIPAddress": address_of(p) or None,
        "ResourceMonitoringControlState": rmc_of(p),
        "RMCState": rmc_of(p),
        "ReferenceCode": "FAILED" if failed else "00000000",
        "CurrentMemory": mebibytes(p.current_memory_bytes or p.memory_bytes),
        "MemoryMode": "Dedicated",
        "HasDedicatedProcessors": "true" if dedicated else "false",
        "CurrentProcessors": processors.units // 100 if dedicated else None,
        "CurrentProcessingUnits": None if dedicated else _units(processors.units),
        "AllocatedVirtualProcessors": None if dedicated else processors.virtual,
        "CurrentUncappedWeight": processors.weight,
        "SharingMode": _mode(p),
        "HasPhysicalIO": "false",
        "IsManagementPartition": "true" if p.management else "false",
        "IsVirtualServiceAttentionLEDOn": "true" if failed else "false",
        "MigrationState": "Not_Migrating",
        "RemoteRestartState": "Invalid",
        "ProgressState": None,
        "PowerManagementMode": None,
        "LastActivatedProfile": None,
        "Description": None,
    }


_ALL: Final[Mapping[str, Callable[[View, str], list[dict[str, Scalar]]]]] = MappingProxyType(
    {
        MANAGED_SYSTEM: lambda view, _: [_system(view.system)],
        LOGICAL_PARTITION: lambda view, base: [_partition(view, p, base) for p in view.partitions],
    }
)


def quick_all(kind: str, view: View, base: str = "") -> list[dict[str, Scalar]]:
    """Return the properties of every resource of a kind: none of one that a lab does not have.

    ``base`` is scheme, host and port as the client named them, for what links to another resource.
    """
    make = _ALL.get(kind)
    return [] if make is None else make(view, base)


def quick_one(view: View, partition: Partition | None = None, base: str = "") -> dict[str, Scalar]:
    """Return the properties of a partition, or (None) of the system."""
    return _system(view.system) if partition is None else _partition(view, partition, base)


def quick_property(name: str, view: View, partition: Partition | None = None, base: str = "") -> Scalar:
    """Return one property of a partition, or (None) of the system; RequestError 404 names those that there are."""
    properties = quick_one(view, partition, base)
    if name not in properties:
        there = ", ".join(sorted(properties))
        raise RequestError(404, "Unknown property", f"no quick property {name[:60]!r}; there are {there}")
    return properties[name]
