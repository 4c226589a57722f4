"""What a Partition message looks like as REST resources: the partition, and its persistent memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvnet.novalink.atom import Resource
from pvnet.novalink.content import content, etag_of, group, leaf, link, links, mebibytes, units_text
from pvnet.novalink.markup import Element
from pvnet.novalink.names import (
    LOGICAL_PARTITION,
    PERSISTENT_MEMORY_VOLUME,
    adapter_path,
    label_of,
    partition_path,
    partition_uuid,
    rmc_of,
    state_of,
    system_path,
    type_of,
    volume_path,
    volume_uuid,
)
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition, Processors, ScmVolume

VOLUMES_MAX: Final = 32
"""Most SCM devices of a partition."""
_COMPATIBILITY: Final = "POWER8"
_SLOTS: Final = 64
_ON: Final = frozenset({Partition.State.STARTING, Partition.State.RUNNING, Partition.State.STOPPING})


def _memory(p: Partition) -> Element:
    desired = mebibytes(p.memory_bytes)
    least = mebibytes(p.min_memory_bytes) or desired
    most = mebibytes(p.max_memory_bytes) or desired
    current = mebibytes(p.current_memory_bytes)
    return group(
        "PartitionMemoryConfiguration",
        leaf("ActiveMemoryExpansionEnabled", False),
        leaf("ActiveMemorySharingEnabled", False),
        leaf("DesiredHugePageCount", 0),
        leaf("DesiredMemory", desired),
        leaf("ExpansionFactor", "0.0"),
        leaf("HardwarePageTableRatio", 7),
        leaf("MaximumHugePageCount", 0),
        leaf("MaximumMemory", most),
        leaf("MinimumHugePageCount", 0),
        leaf("MinimumMemory", least),
        leaf("CurrentExpansionFactor", "0.0"),
        leaf("CurrentHugePageCount", 0),
        leaf("CurrentMaximumMemory", most),
        leaf("CurrentMemory", current or desired),
        leaf("CurrentMinimumMemory", least),
        leaf("MemoryExpansionEnabled", False),
        leaf("RedundantErrorPathReportingEnabled", False),
        leaf("RuntimeMemory", current),
        leaf("RuntimeMinimumMemory", least if current else 0),
        leaf("SharedMemoryEnabled", False),
    )


def _triple(low: int, value: int, high: int) -> tuple[int, int, int]:
    return low or value, value, high or value


def _processors(p: Processors, on: bool) -> Element:
    least, units, most = _triple(p.min_units, p.units, p.max_units)
    if p.dedicated:
        configured = group(
            "DedicatedProcessorConfiguration",
            leaf("DesiredProcessors", units // 100),
            leaf("MaximumProcessors", most // 100),
            leaf("MinimumProcessors", least // 100),
        )
        now = group(
            "CurrentDedicatedProcessorConfiguration",
            leaf("CurrentMaximumProcessors", most // 100),
            leaf("CurrentMinimumProcessors", least // 100),
            leaf("CurrentProcessors", units // 100),
            leaf("RunProcessors", units // 100 if on else 0),
        )
        mode = "sre idle proces"
        return group(
            "PartitionProcessorConfiguration",
            configured,
            leaf("HasDedicatedProcessors", True),
            leaf("SharingMode", mode),
            leaf("CurrentHasDedicatedProcessors", True),
            leaf("CurrentSharingMode", mode),
            now,
            leaf("RuntimeHasDedicatedProcessors", True),
        )
    low, virtual, high = _triple(p.min_virtual, p.virtual, p.max_virtual)
    mode = "uncapped" if p.uncapped else "capped"
    return group(
        "PartitionProcessorConfiguration",
        leaf("HasDedicatedProcessors", False),
        group(
            "SharedProcessorConfiguration",
            leaf("DesiredProcessingUnits", units_text(units)),
            leaf("DesiredVirtualProcessors", virtual),
            leaf("MaximumProcessingUnits", units_text(most)),
            leaf("MaximumVirtualProcessors", high),
            leaf("MinimumProcessingUnits", units_text(least)),
            leaf("MinimumVirtualProcessors", low),
            leaf("SharedProcessorPoolID", 0),
            leaf("UncappedWeight", p.weight),
        ),
        leaf("SharingMode", mode),
        leaf("CurrentHasDedicatedProcessors", False),
        leaf("CurrentSharingMode", mode),
        leaf("RuntimeHasDedicatedProcessors", False),
        leaf("RuntimeSharingMode", mode),
        group(
            "CurrentSharedProcessorConfiguration",
            leaf("AllocatedVirtualProcessors", virtual if on else 0),
            leaf("CurrentMaximumProcessingUnits", units_text(most)),
            leaf("CurrentMinimumProcessingUnits", units_text(least)),
            leaf("CurrentProcessingUnits", units_text(units)),
            leaf("CurrentSharedProcessorPoolID", 0),
            leaf("CurrentUncappedWeight", p.weight),
            leaf("CurrentMinimumVirtualProcessors", low),
            leaf("CurrentMaximumVirtualProcessors", high),
            leaf("RuntimeProcessingUnits", units_text(units if on else 0)),
            leaf("RuntimeUncappedWeight", p.weight if on else 0),
        ),
    )


def address_of(p: Partition) -> str:
    """Return the IPv4 address that the partition can be reached at, or an empty string."""
    return next((a.address.partition("/")[0] for a in p.adapters if a.address), "")


def _optional(name: str, value: str) -> Iterator[Element]:
    if value:
        yield leaf(name, value)


def _reference_code(p: Partition) -> str:
    return "FAILED" if p.state == Partition.State.FAILED else "00000000"


def logical_partition(view: View, p: Partition) -> Resource:
    """Return a LogicalPartition."""
    uuid = partition_uuid(p)
    system = system_path(view.system)
    on = p.state in _ON
    children = [
        leaf("AllowPerformanceDataCollection", False),
        leaf("AvailabilityPriority", 127),
        leaf("CurrentProcessorCompatibilityMode", _COMPATIBILITY),
        leaf("CurrentProfileSync", "On"),
        leaf("IsBootable", True),
        leaf("IsConnectionMonitoringEnabled", False),
        leaf("IsOperationInProgress", p.state in (Partition.State.STARTING, Partition.State.STOPPING)),
        leaf("IsRedundantErrorPathReportingEnabled", False),
        leaf("IsTimeReferencePartition", False),
        leaf("IsVirtualServiceAttentionLEDOn", p.state == Partition.State.FAILED),
        leaf("IsVirtualTrustedPlatformModuleEnabled", False),
        leaf("KeylockPosition", "normal"),
        leaf("LogicalSerialNumber", f"{view.system.serial}{p.lpar_id:X}"),
        leaf("OperatingSystemVersion", "Unknown" if p.type == "os400" else "Linux/pvnet"),
        group(
            "PartitionCapabilities",
            leaf("DynamicLogicalPartitionIOCapable", True),
            # What is changed while it runs is in force from its next start.
            leaf("DynamicLogicalPartitionMemoryCapable", False),
            leaf("DynamicLogicalPartitionProcessorCapable", False),
            leaf("InternalAndExternalIntrusionDetectionCapable", False),
            leaf("ResourceMonitoringControlOperatingSystemShutdownCapable", rmc_of(p) == "active"),
        ),
        leaf("PartitionID", p.lpar_id),
        group(
            "PartitionIOConfiguration",
            leaf("MaximumVirtualIOSlots", _SLOTS),
            leaf("CurrentMaximumVirtualIOSlots", _SLOTS),
        ),
        _memory(p),
        leaf("PartitionName", label_of(p)),
        _processors(p.processors, on),
        leaf("PartitionState", state_of(p)),
        leaf("PartitionType", type_of(p)),
        leaf("PartitionUUID", uuid),
        leaf("PendingProcessorCompatibilityMode", "default"),
        leaf("ProgressPartitionDataRemaining", 0),
        leaf("ProgressPartitionDataTotal", 0),
        leaf("ProgressState", "Unknown"),
        leaf("ResourceMonitoringControlState", rmc_of(p)),
        *_optional("ResourceMonitoringIPAddress", address_of(p)),
        link("AssociatedManagedSystem", system),
        links("ClientNetworkAdapters", (adapter_path(p, a) for a in p.adapters)),
        leaf("IsServicePartition", False),
        leaf("ReferenceCode", _reference_code(p)),
        *_optional("ReferenceCodeFull", p.text if p.state == Partition.State.FAILED else ""),
        leaf("IsManagementPartition", p.management),
        leaf("BootMode", "Normal"),
        group(
            "AssociatedPersistentMemoryConfiguration",
            leaf("MaximumPersistentMemoryVolumes", VOLUMES_MAX),
            leaf("CurrentPersistentMemoryVolumes", len(p.scm)),
            leaf("MaximumDramPersistentMemoryVolumes", 0),
            leaf("CurrentDramPersistentMemoryVolumes", 0),
        ),
        leaf("RemoteRestartCapable", False),
        leaf("SimplifiedRemoteRestartCapable", False),
        leaf("HasDedicatedProcessorsForMigration", p.processors.dedicated),
        leaf("SuspendCapable", False),
        leaf("MigrationState", "Not_Migrating"),
        leaf("RemoteRestartState", "Invalid"),
        links("VirtualFibreChannelClientAdapters", ()),
        links("VirtualSCSIClientAdapters", ()),
        leaf("IsRestrictedIOPartition", False),
    ]
    return Resource(
        LOGICAL_PARTITION,
        uuid,
        etag_of(p.revision),
        partition_path(p),
        content(LOGICAL_PARTITION, uuid, *children),
        p.revision,
    )


def persistent_memory_volume(_view: View, p: Partition, volume: ScmVolume) -> Resource:
    """Return a VirtualPersistentMemoryVolume: an SCM device of a partition, its size in MiB."""
    uuid = volume_uuid(p, volume)
    size = mebibytes(volume.size_bytes)
    return Resource(
        PERSISTENT_MEMORY_VOLUME,
        uuid,
        etag_of(p.revision),
        volume_path(p, volume),
        content(
            PERSISTENT_MEMORY_VOLUME,
            uuid,
            leaf("Uuid", uuid),
            leaf("Name", f"{volume.type or 'nvdimm'}-{volume.drc:x}"),
            leaf("Size", size),
            leaf("CurrentSize", size),
            leaf("VolumeId", volume.drc & 0xFFFF),
            leaf("Affinity", False),
            leaf("AssociatedPartitionName", label_of(p)),
            leaf("AssociatedPartitionId", p.lpar_id),
            link("AssociatedPartition", partition_path(p)),
        ),
        p.revision,
    )
