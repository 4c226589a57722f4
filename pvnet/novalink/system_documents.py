"""What a System message looks like as a REST resource."""

from __future__ import annotations

from typing import Final

from pvnet.novalink.atom import Resource
from pvnet.novalink.content import content, etag_of, group, leaf, links, mebibytes, units_text
from pvnet.novalink.markup import Element
from pvnet.novalink.names import MANAGED_SYSTEM, Mode, partition_path, switch_path, system_path, system_uuid
from pvnet.novalink.partition_documents import VOLUMES_MAX
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import System

_MODES: Final = ("default", "POWER6", "POWER6_Plus", "POWER7", "POWER8")
_PROCESSORS_MAX: Final = 256
_MIN_UNITS: Final = "0.05"
_FIRST_PREFIX: Final = "020000"
_ABLE: Final = (
    ("ActiveLogicalPartitionMobilityCapable", False),
    ("ActiveMemoryExpansionCapable", False),
    ("AIXCapable", True),
    ("CustomLogicalPartitionPlacementCapable", False),
    ("IBMiCapable", True),
    ("IBMiLogicalPartitionMobilityCapable", False),
    ("IBMiRestrictedIOModeCapable", False),
    ("InactiveLogicalPartitionMobilityCapable", False),
    ("LinuxCapable", True),
    ("LogicalPartitionAvailabilityPriorityCapable", False),
    ("LogicalPartitionProcessorCompatibilityModeCapable", False),
    ("LogicalPartitionRemoteRestartCapable", False),
    ("LogicalPartitionSuspendCapable", False),
    ("PowerVMLogicalPartitionSimplifiedRemoteRestartCapable", False),
    ("SharedProcessorPoolCapable", False),
    ("SRIOVCapable", False),
    ("VirtualEthernetAdapterDynamicLogicalPartitionCapable", True),
    ("VirtualFiberChannelCapable", False),
    ("VirtualIOServerCapable", False),
    ("VirtualSwitchCapable", True),
    ("VirtualTrustedPlatformModuleCapable", False),
    ("VirtualEthernetCustomMACAddressCapable", True),
    ("VirtualNICDedicatedSRIOVCapable", False),
    ("VirtualNICFailOverCapable", False),
    ("DynamicSimplifiedRemoteRestartToggleCapable", False),
    ("CustomPhysicalPageTableRatioCapable", False),
    ("DisableSecureBootCapable", False),
    ("PartitionSecureBootCapable", False),
    ("IOSlotOwnerAssignmentCapable", False),
    ("DedicatedProcessorPartitionCapable", True),
    ("PersistentMemoryCapable", True),
)


def _memory_of_system(system: System) -> Element:
    memory, free = mebibytes(system.memory_bytes), mebibytes(system.free_memory_bytes)
    region = max(1, mebibytes(system.memory_region_bytes))
    return group(
        "AssociatedSystemMemoryConfiguration",
        leaf("ConfigurableHugePages", 0),
        leaf("ConfigurableSystemMemory", memory),
        leaf("CurrentAvailableHugePages", 0),
        leaf("CurrentAvailableSystemMemory", free),
        leaf("CurrentLogicalMemoryBlockSize", region),
        leaf("DeconfiguredSystemMemory", 0),
        leaf("DefaultHardwarePageTableRatio", 7),
        leaf("DefaultPhysicalPageTableRatio", 6),
        leaf("InstalledSystemMemory", memory),
        leaf("MemoryRegionSize", region),
        leaf("MemoryUsedByHypervisor", 0),
        leaf("PendingAvailableSystemMemory", free),
        leaf("PendingLogicalMemoryBlockSize", region),
        leaf("PendingMemoryRegionSize", region),
    )


def _processors_of_system(system: System) -> Element:
    units, free = units_text(system.processor_units), units_text(system.free_processor_units)
    most = min(_PROCESSORS_MAX, max(1, system.processor_units // 100))
    return group(
        "AssociatedSystemProcessorConfiguration",
        leaf("ConfigurableSystemProcessorUnits", units),
        leaf("CurrentAvailableSystemProcessorUnits", free),
        leaf("CurrentMaximumProcessorsPerAIXOrLinuxPartition", most),
        leaf("CurrentMaximumProcessorsPerIBMiPartition", most),
        leaf("CurrentMaximumAllowedProcessorsPerPartition", _PROCESSORS_MAX),
        leaf("CurrentMaximumVirtualProcessorsPerAIXOrLinuxPartition", _PROCESSORS_MAX),
        leaf("CurrentMaximumVirtualProcessorsPerIBMiPartition", _PROCESSORS_MAX),
        leaf("DeconfiguredSystemProcessorUnits", 0),
        leaf("InstalledSystemProcessorUnits", units),
        leaf("MaximumAllowedVirtualProcessorsPerPartition", _PROCESSORS_MAX),
        leaf("MinimumProcessorUnitsPerVirtualProcessor", _MIN_UNITS),
        leaf("PendingAvailableSystemProcessorUnits", free),
        leaf("SharedProcessorPoolCount", 0),
        *(leaf("SupportedPartitionProcessorCompatibilityModes", mode) for mode in _MODES),
    )


def _pmem_of_system(view: View) -> Element:
    volumes = [volume for p in view.partitions for volume in p.scm]
    return group(
        "AssociatedPersistentMemoryConfiguration",
        leaf("MaximumPersistentMemoryVolumes", VOLUMES_MAX * max(1, view.system.max_partitions)),
        leaf("CurrentPersistentMemoryVolumes", len(volumes)),
        leaf("MaximumAixLinuxPersistentMemoryVolumes", VOLUMES_MAX),
        leaf("MaximumOS400PersistentMemoryVolumes", VOLUMES_MAX),
        leaf("MaximumVIOSPersistentMemoryVolumes", 0),
    )


def managed_system(view: View, mode: Mode = "pvm") -> Resource:
    """Return the ManagedSystem.  Only an HMC (``mode``) lists the partitions in it."""
    system = view.system
    uuid = system_uuid(system)
    switches = tuple(switch_path(system, s) for s in view.switches)
    partitions = tuple(partition_path(p) for p in view.partitions) if mode == "hmc" else ()
    volumes = sum(len(p.scm) for p in view.partitions)
    children = [
        *([links("AssociatedLogicalPartitions", partitions)] if mode == "hmc" else ()),
        group("AssociatedSystemCapabilities", *(leaf(name, able) for name, able in _ABLE)),
        group(
            "AssociatedSystemIOConfiguration",
            leaf("AvailableWWPNs", 0),
            group(
                "AssociatedSystemVirtualNetwork",
                leaf("VirtualEthernetAdapterMACAddressPrefix", _FIRST_PREFIX),
                links("VirtualSwitches", switches),
            ),
        ),
        _memory_of_system(system),
        _processors_of_system(system),
        links("AssociatedVirtualIOServers", ()),
        leaf("DetailedState", "None"),
        group(
            "MachineTypeModelAndSerialNumber",
            leaf("MachineType", system.machine_type),
            leaf("Model", system.model),
            leaf("SerialNumber", system.serial),
        ),
        leaf("ManufacturingDefaultConfigurationEnabled", False),
        leaf("MaximumPartitions", system.max_partitions),
        leaf("PrimaryIPAddress", "127.0.0.1"),
        leaf("State", "operating"),
        leaf("SystemName", system.name),
        group(
            "SystemMigrationInformation",
            leaf("MaximumInactiveMigrations", 0),
            leaf("MaximumActiveMigrations", 0),
            leaf("NumberOfInactiveMigrationsInProgress", 0),
            leaf("NumberOfActiveMigrationsInProgress", 0),
            leaf("MaximumFirmwareActiveMigrations", 0),
            leaf("LogicalPartitionAffinityCheckCapable", False),
        ),
        leaf("IsPowerVMManagementMaster", True),
        leaf("IsManagementPartitionPowerVMManagementMaster", mode == "pvm"),
        leaf("IsHMCPowerVMManagementMaster", mode == "hmc"),
        leaf("ProcessorThrottling", False),
        _pmem_of_system(view),
    ]
    return Resource(
        MANAGED_SYSTEM,
        uuid,
        etag_of(system.revision, switches, partitions, volumes),
        system_path(system),
        content(MANAGED_SYSTEM, uuid, *children),
        system.revision,
    )
