"""What the platform's messages look like as REST resources.

Names, order and nesting of the fields are those of the real schema; what a lab has no counterpart for is left out where
the schema allows, else it has the value of a plain system.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Interface
from types import MappingProxyType
from typing import Final

from pvnet.novalink.atom import Resource
from pvnet.novalink.markup import Element
from pvnet.novalink.names import (
    CLIENT_NETWORK_ADAPTER,
    DEFAULT_VLAN,
    LOGICAL_PARTITION,
    MANAGED_SYSTEM,
    PERSISTENT_MEMORY_VOLUME,
    UOM_NS,
    VIRTUAL_NETWORK,
    VIRTUAL_SWITCH,
    Mode,
    adapter_path,
    adapter_uuid,
    label_of,
    network_path,
    network_uuid,
    partition_path,
    partition_uuid,
    rmc_of,
    state_of,
    switch_path,
    system_path,
    system_uuid,
    type_of,
    volume_path,
    volume_uuid,
)
from pvnet.pb.v1.management_pb2 import Adapter, Partition, Processors, ScmVolume, Switch, System

_SCHEMA: Final = "V1_0"
_NO_IDS: Final[Mapping[str, int]] = MappingProxyType({})
_SHORT: Final = 32
_COMPATIBILITY: Final = "POWER8"
_MODES: Final = ("default", "POWER6", "POWER6_Plus", "POWER7", "POWER8")
_PROCESSORS_MAX: Final = 256
_MIN_UNITS: Final = "0.05"
_SLOTS: Final = 64
_VOLUMES_MAX: Final = 32
_MIB: Final = 1 << 20
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


@dataclass(frozen=True, slots=True)
class View:
    """The platform at one moment.  The messages belong to the view: nobody changes them."""

    system: System
    partitions: tuple[Partition, ...] = ()
    switches: tuple[Switch, ...] = ()
    switch_ids: Mapping[str, int] = field(default_factory=lambda: _NO_IDS)
    """SwitchID by the switch's name; without one, where it stands among the others."""

    def partition(self, uuid: str) -> Partition | None:
        """Return the partition of this UUID, in either case."""
        wanted = uuid.lower()
        return next((p for p in self.partitions if p.uuid.lower() == wanted), None)

    def adapter(self, partition: Partition, uuid: str) -> Adapter | None:
        """Return the partition's adapter of this UUID."""
        wanted = uuid.lower()
        return next((a for a in partition.adapters if adapter_uuid(partition, a) == wanted), None)

    def volume(self, partition: Partition, uuid: str) -> ScmVolume | None:
        """Return the partition's persistent memory of this UUID."""
        wanted = uuid.upper()
        return next((v for v in partition.scm if volume_uuid(partition, v) == wanted), None)

    def switch(self, uuid: str) -> Switch | None:
        """Return the switch of this UUID."""
        wanted = uuid.lower()
        return next((s for s in self.switches if s.uuid.lower() == wanted), None)

    def switch_named(self, name: str) -> Switch | None:
        """Return the switch of this name (not label)."""
        return next((s for s in self.switches if s.name == name), None)

    def switch_id(self, switch: Switch) -> int:
        """Return SwitchID."""
        number = self.switch_ids.get(switch.name)
        if number is not None:
            return number
        return next((i for i, s in enumerate(self.switches) if s.name == switch.name), 0)

    def switch_of(self, adapter: Adapter) -> Switch | None:
        """Return the switch that the adapter is plugged into."""
        return self.switch_named(adapter.switch) if adapter.switch else None

    def vlans(self, switch: Switch) -> tuple[int, ...]:
        """Return the VLANs of the switch: the first, and those in use."""
        used = {a.vlan or DEFAULT_VLAN for p in self.partitions for a in p.adapters if a.switch == switch.name}
        return tuple(sorted(used | {DEFAULT_VLAN}))

    def networks(self) -> tuple[tuple[Switch, int], ...]:
        """Return every switch with each of its VLANs."""
        return tuple((s, vlan) for s in self.switches for vlan in self.vlans(s))

    def network(self, uuid: str) -> tuple[Switch, int] | None:
        """Return the network of this UUID."""
        wanted = uuid.lower()
        return next((n for n in self.networks() if network_uuid(*n) == wanted), None)


def _leaf(name: str, value: str | int | bool) -> Element:
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return _short_leaf(name, text) if len(text) <= _SHORT else Element(UOM_NS, name, text=text)


@lru_cache(maxsize=8192)
def _short_leaf(name: str, text: str) -> Element:
    # Most of a document is the same for every partition, and every time.
    return Element(UOM_NS, name, text=text)


def _metadata(*inside: Element) -> Element:
    return Element(UOM_NS, "Metadata", children=(Element(UOM_NS, "Atom", children=inside),))


_NO_METADATA: Final = _metadata()
_VERSION: Final = MappingProxyType({"schemaVersion": _SCHEMA})


def _group(name: str, *children: Element) -> Element:
    return Element(UOM_NS, name, _VERSION, children=(_NO_METADATA, *children))


def _link(name: str, path: str) -> Element:
    return Element(UOM_NS, name, {"href": path, "rel": "related"})


def _links(name: str, paths: Iterable[str]) -> Element:
    # A link inside of content is Atom's, but the real documents have it in the namespace around it, and so do clients.
    return Element(UOM_NS, name, children=tuple(_link("link", path) for path in paths))


def _content(kind: str, uuid: str, *children: Element) -> Element:
    head = _metadata(_leaf("AtomID", uuid), _leaf("AtomCreated", 0))
    return Element(UOM_NS, kind, {"schemaVersion": _SCHEMA}, children=(head, *children))


def _etag(revision: int, *others: object) -> str:
    """An object's revision stands for all that its own message says; ``others`` is what its document says besides."""
    if not others:
        return str(revision)
    return f"{revision}{zlib.crc32(repr(others).encode()):010d}"


def _units(hundredths: int) -> str:
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") if rest else str(whole)


def mebibytes(size: int) -> int:
    """Return a size in MiB, the unit of memory in every document; what does not divide is rounded up."""
    return -(-size // _MIB)


def _memory_of_system(system: System) -> Element:
    memory, free = mebibytes(system.memory_bytes), mebibytes(system.free_memory_bytes)
    region = max(1, mebibytes(system.memory_region_bytes))
    return _group(
        "AssociatedSystemMemoryConfiguration",
        _leaf("ConfigurableHugePages", 0),
        _leaf("ConfigurableSystemMemory", memory),
        _leaf("CurrentAvailableHugePages", 0),
        _leaf("CurrentAvailableSystemMemory", free),
        _leaf("CurrentLogicalMemoryBlockSize", region),
        _leaf("DeconfiguredSystemMemory", 0),
        _leaf("DefaultHardwarePageTableRatio", 7),
        _leaf("DefaultPhysicalPageTableRatio", 6),
        _leaf("InstalledSystemMemory", memory),
        _leaf("MemoryRegionSize", region),
        _leaf("MemoryUsedByHypervisor", 0),
        _leaf("PendingAvailableSystemMemory", free),
        _leaf("PendingLogicalMemoryBlockSize", region),
        _leaf("PendingMemoryRegionSize", region),
    )


def _processors_of_system(system: System) -> Element:
    units, free = _units(system.processor_units), _units(system.free_processor_units)
    most = min(_PROCESSORS_MAX, max(1, system.processor_units // 100))
    return _group(
        "AssociatedSystemProcessorConfiguration",
        _leaf("ConfigurableSystemProcessorUnits", units),
        _leaf("CurrentAvailableSystemProcessorUnits", free),
        _leaf("CurrentMaximumProcessorsPerAIXOrLinuxPartition", most),
        _leaf("CurrentMaximumProcessorsPerIBMiPartition", most),
        _leaf("CurrentMaximumAllowedProcessorsPerPartition", _PROCESSORS_MAX),
        _leaf("CurrentMaximumVirtualProcessorsPerAIXOrLinuxPartition", _PROCESSORS_MAX),
        _leaf("CurrentMaximumVirtualProcessorsPerIBMiPartition", _PROCESSORS_MAX),
        _leaf("DeconfiguredSystemProcessorUnits", 0),
        _leaf("InstalledSystemProcessorUnits", units),
        _leaf("MaximumAllowedVirtualProcessorsPerPartition", _PROCESSORS_MAX),
        _leaf("MinimumProcessorUnitsPerVirtualProcessor", _MIN_UNITS),
        _leaf("PendingAvailableSystemProcessorUnits", free),
        _leaf("SharedProcessorPoolCount", 0),
        *(_leaf("SupportedPartitionProcessorCompatibilityModes", mode) for mode in _MODES),
    )


def _pmem_of_system(view: View) -> Element:
    volumes = [volume for p in view.partitions for volume in p.scm]
    return _group(
        "AssociatedPersistentMemoryConfiguration",
        _leaf("MaximumPersistentMemoryVolumes", _VOLUMES_MAX * max(1, view.system.max_partitions)),
        _leaf("CurrentPersistentMemoryVolumes", len(volumes)),
        _leaf("MaximumAixLinuxPersistentMemoryVolumes", _VOLUMES_MAX),
        _leaf("MaximumOS400PersistentMemoryVolumes", _VOLUMES_MAX),
        _leaf("MaximumVIOSPersistentMemoryVolumes", 0),
    )


def managed_system(view: View, mode: Mode = "pvm") -> Resource:
    """Return the ManagedSystem.  Only an HMC (``mode``) lists the partitions in it."""
    system = view.system
    uuid = system_uuid(system)
    switches = tuple(switch_path(system, s) for s in view.switches)
    partitions = tuple(partition_path(p) for p in view.partitions) if mode == "hmc" else ()
    volumes = sum(len(p.scm) for p in view.partitions)
    children = [
        *([_links("AssociatedLogicalPartitions", partitions)] if mode == "hmc" else ()),
        _group("AssociatedSystemCapabilities", *(_leaf(name, able) for name, able in _ABLE)),
        _group(
            "AssociatedSystemIOConfiguration",
            _leaf("AvailableWWPNs", 0),
            _group(
                "AssociatedSystemVirtualNetwork",
                _leaf("VirtualEthernetAdapterMACAddressPrefix", _FIRST_PREFIX),
                _links("VirtualSwitches", switches),
            ),
        ),
        _memory_of_system(system),
        _processors_of_system(system),
        _links("AssociatedVirtualIOServers", ()),
        _leaf("DetailedState", "None"),
        _group(
            "MachineTypeModelAndSerialNumber",
            _leaf("MachineType", system.machine_type),
            _leaf("Model", system.model),
            _leaf("SerialNumber", system.serial),
        ),
        _leaf("ManufacturingDefaultConfigurationEnabled", False),
        _leaf("MaximumPartitions", system.max_partitions),
        _leaf("PrimaryIPAddress", "127.0.0.1"),
        _leaf("State", "operating"),
        _leaf("SystemName", system.name),
        _group(
            "SystemMigrationInformation",
            _leaf("MaximumInactiveMigrations", 0),
            _leaf("MaximumActiveMigrations", 0),
            _leaf("NumberOfInactiveMigrationsInProgress", 0),
            _leaf("NumberOfActiveMigrationsInProgress", 0),
            _leaf("MaximumFirmwareActiveMigrations", 0),
            _leaf("LogicalPartitionAffinityCheckCapable", False),
        ),
        _leaf("IsPowerVMManagementMaster", True),
        _leaf("IsManagementPartitionPowerVMManagementMaster", mode == "pvm"),
        _leaf("IsHMCPowerVMManagementMaster", mode == "hmc"),
        _leaf("ProcessorThrottling", False),
        _pmem_of_system(view),
    ]
    return Resource(
        MANAGED_SYSTEM,
        uuid,
        _etag(system.revision, switches, partitions, volumes),
        system_path(system),
        _content(MANAGED_SYSTEM, uuid, *children),
        system.revision,
    )


def _memory(p: Partition) -> Element:
    desired = mebibytes(p.memory_bytes)
    least = mebibytes(p.min_memory_bytes) or desired
    most = mebibytes(p.max_memory_bytes) or desired
    current = mebibytes(p.current_memory_bytes)
    return _group(
        "PartitionMemoryConfiguration",
        _leaf("ActiveMemoryExpansionEnabled", False),
        _leaf("ActiveMemorySharingEnabled", False),
        _leaf("DesiredHugePageCount", 0),
        _leaf("DesiredMemory", desired),
        _leaf("ExpansionFactor", "0.0"),
        _leaf("HardwarePageTableRatio", 7),
        _leaf("MaximumHugePageCount", 0),
        _leaf("MaximumMemory", most),
        _leaf("MinimumHugePageCount", 0),
        _leaf("MinimumMemory", least),
        _leaf("CurrentExpansionFactor", "0.0"),
        _leaf("CurrentHugePageCount", 0),
        _leaf("CurrentMaximumMemory", most),
        _leaf("CurrentMemory", current or desired),
        _leaf("CurrentMinimumMemory", least),
        _leaf("MemoryExpansionEnabled", False),
        _leaf("RedundantErrorPathReportingEnabled", False),
        _leaf("RuntimeMemory", current),
        _leaf("RuntimeMinimumMemory", least if current else 0),
        _leaf("SharedMemoryEnabled", False),
    )


def _triple(low: int, value: int, high: int) -> tuple[int, int, int]:
    return low or value, value, high or value


def _processors(p: Processors, on: bool) -> Element:
    least, units, most = _triple(p.min_units, p.units, p.max_units)
    if p.dedicated:
        configured = _group(
            "DedicatedProcessorConfiguration",
            _leaf("DesiredProcessors", units // 100),
            _leaf("MaximumProcessors", most // 100),
            _leaf("MinimumProcessors", least // 100),
        )
        now = _group(
            "CurrentDedicatedProcessorConfiguration",
            _leaf("CurrentMaximumProcessors", most // 100),
            _leaf("CurrentMinimumProcessors", least // 100),
            _leaf("CurrentProcessors", units // 100),
            _leaf("RunProcessors", units // 100 if on else 0),
        )
        mode = "sre idle proces"
        return _group(
            "PartitionProcessorConfiguration",
            configured,
            _leaf("HasDedicatedProcessors", True),
            _leaf("SharingMode", mode),
            _leaf("CurrentHasDedicatedProcessors", True),
            _leaf("CurrentSharingMode", mode),
            now,
            _leaf("RuntimeHasDedicatedProcessors", True),
        )
    low, virtual, high = _triple(p.min_virtual, p.virtual, p.max_virtual)
    mode = "uncapped" if p.uncapped else "capped"
    return _group(
        "PartitionProcessorConfiguration",
        _leaf("HasDedicatedProcessors", False),
        _group(
            "SharedProcessorConfiguration",
            _leaf("DesiredProcessingUnits", _units(units)),
            _leaf("DesiredVirtualProcessors", virtual),
            _leaf("MaximumProcessingUnits", _units(most)),
            _leaf("MaximumVirtualProcessors", high),
            _leaf("MinimumProcessingUnits", _units(least)),
            _leaf("MinimumVirtualProcessors", low),
            _leaf("SharedProcessorPoolID", 0),
            _leaf("UncappedWeight", p.weight),
        ),
        _leaf("SharingMode", mode),
        _leaf("CurrentHasDedicatedProcessors", False),
        _leaf("CurrentSharingMode", mode),
        _leaf("RuntimeHasDedicatedProcessors", False),
        _leaf("RuntimeSharingMode", mode),
        _group(
            "CurrentSharedProcessorConfiguration",
            _leaf("AllocatedVirtualProcessors", virtual if on else 0),
            _leaf("CurrentMaximumProcessingUnits", _units(most)),
            _leaf("CurrentMinimumProcessingUnits", _units(least)),
            _leaf("CurrentProcessingUnits", _units(units)),
            _leaf("CurrentSharedProcessorPoolID", 0),
            _leaf("CurrentUncappedWeight", p.weight),
            _leaf("CurrentMinimumVirtualProcessors", low),
            _leaf("CurrentMaximumVirtualProcessors", high),
            _leaf("RuntimeProcessingUnits", _units(units if on else 0)),
            _leaf("RuntimeUncappedWeight", p.weight if on else 0),
        ),
    )


_ON: Final = frozenset({Partition.State.STARTING, Partition.State.RUNNING, Partition.State.STOPPING})


def address_of(p: Partition) -> str:
    """Return the IPv4 address that the partition can be reached at, or an empty string."""
    return next((a.address.partition("/")[0] for a in p.adapters if a.address), "")


def _optional(name: str, value: str) -> Iterator[Element]:
    if value:
        yield _leaf(name, value)


def _reference_code(p: Partition) -> str:
    return "FAILED" if p.state == Partition.State.FAILED else "00000000"


def logical_partition(view: View, p: Partition) -> Resource:
    """Return a LogicalPartition."""
    uuid = partition_uuid(p)
    system = system_path(view.system)
    on = p.state in _ON
    children = [
        _leaf("AllowPerformanceDataCollection", False),
        _leaf("AvailabilityPriority", 127),
        _leaf("CurrentProcessorCompatibilityMode", _COMPATIBILITY),
        _leaf("CurrentProfileSync", "On"),
        _leaf("IsBootable", True),
        _leaf("IsConnectionMonitoringEnabled", False),
        _leaf("IsOperationInProgress", p.state in (Partition.State.STARTING, Partition.State.STOPPING)),
        _leaf("IsRedundantErrorPathReportingEnabled", False),
        _leaf("IsTimeReferencePartition", False),
        _leaf("IsVirtualServiceAttentionLEDOn", p.state == Partition.State.FAILED),
        _leaf("IsVirtualTrustedPlatformModuleEnabled", False),
        _leaf("KeylockPosition", "normal"),
        _leaf("LogicalSerialNumber", f"{view.system.serial}{p.lpar_id:X}"),
        _leaf("OperatingSystemVersion", "Unknown" if p.type == "os400" else "Linux/pvnet"),
        _group(
            "PartitionCapabilities",
            _leaf("DynamicLogicalPartitionIOCapable", True),
            # What is changed while it runs is in force from its next start.
            _leaf("DynamicLogicalPartitionMemoryCapable", False),
            _leaf("DynamicLogicalPartitionProcessorCapable", False),
            _leaf("InternalAndExternalIntrusionDetectionCapable", False),
            _leaf("ResourceMonitoringControlOperatingSystemShutdownCapable", rmc_of(p) == "active"),
        ),
        _leaf("PartitionID", p.lpar_id),
        _group(
            "PartitionIOConfiguration",
            _leaf("MaximumVirtualIOSlots", _SLOTS),
            _leaf("CurrentMaximumVirtualIOSlots", _SLOTS),
        ),
        _memory(p),
        _leaf("PartitionName", label_of(p)),
        _processors(p.processors, on),
        _leaf("PartitionState", state_of(p)),
        _leaf("PartitionType", type_of(p)),
        _leaf("PartitionUUID", uuid),
        _leaf("PendingProcessorCompatibilityMode", "default"),
        _leaf("ProgressPartitionDataRemaining", 0),
        _leaf("ProgressPartitionDataTotal", 0),
        _leaf("ProgressState", "Unknown"),
        _leaf("ResourceMonitoringControlState", rmc_of(p)),
        *_optional("ResourceMonitoringIPAddress", address_of(p)),
        _link("AssociatedManagedSystem", system),
        _links("ClientNetworkAdapters", (adapter_path(p, a) for a in p.adapters)),
        _leaf("IsServicePartition", False),
        _leaf("ReferenceCode", _reference_code(p)),
        *_optional("ReferenceCodeFull", p.text if p.state == Partition.State.FAILED else ""),
        _leaf("IsManagementPartition", p.management),
        _leaf("BootMode", "Normal"),
        _group(
            "AssociatedPersistentMemoryConfiguration",
            _leaf("MaximumPersistentMemoryVolumes", _VOLUMES_MAX),
            _leaf("CurrentPersistentMemoryVolumes", len(p.scm)),
            _leaf("MaximumDramPersistentMemoryVolumes", 0),
            _leaf("CurrentDramPersistentMemoryVolumes", 0),
        ),
        _leaf("RemoteRestartCapable", False),
        _leaf("SimplifiedRemoteRestartCapable", False),
        _leaf("HasDedicatedProcessorsForMigration", p.processors.dedicated),
        _leaf("SuspendCapable", False),
        _leaf("MigrationState", "Not_Migrating"),
        _leaf("RemoteRestartState", "Invalid"),
        _links("VirtualFibreChannelClientAdapters", ()),
        _links("VirtualSCSIClientAdapters", ()),
        _leaf("IsRestrictedIOPartition", False),
    ]
    return Resource(
        LOGICAL_PARTITION,
        uuid,
        _etag(p.revision),
        partition_path(p),
        _content(LOGICAL_PARTITION, uuid, *children),
        p.revision,
    )


def location(view: View, p: Partition, slot: int) -> str:
    """Return the location code of a virtual slot."""
    system = view.system
    return f"U{system.machine_type}.{system.model}.{system.serial}-V{p.lpar_id}-C{slot}"


def _addresses(a: Adapter) -> Iterator[Element]:
    if a.address:
        interface = IPv4Interface(a.address)
        yield _leaf("IPAddress", str(interface.ip))
        yield _leaf("SubnetMask", str(interface.netmask))


def client_network_adapter(view: View, p: Partition, a: Adapter) -> Resource:
    """Return a ClientNetworkAdapter."""
    uuid = adapter_uuid(p, a)
    switch = view.switch_of(a)
    code = location(view, p, a.slot)
    vlan = a.vlan or DEFAULT_VLAN
    place = () if switch is None else (switch.uuid, view.switch_id(switch))
    children = [
        _leaf("DynamicReconfigurationConnectorName", code),
        _leaf("LocationCode", code),
        _leaf("LocalPartitionID", p.lpar_id),
        _leaf("VirtualSlotNumber", a.slot),
        _leaf("Enabled", True),
        _leaf("MACAddress", a.mac.replace(":", "").upper()),
        _leaf("PortVLANID", vlan),
        _leaf("QualityOfServicePriorityEnabled", False),
        Element(UOM_NS, "TaggedVLANIDs"),
        _leaf("TaggedVLANSupported", False),
    ]
    if switch is not None:
        children += [
            _links("AssociatedVirtualSwitch", (switch_path(view.system, switch),)),
            _leaf("VirtualSwitchID", view.switch_id(switch)),
            *_addresses(a),
            _leaf("ConfiguredMTU", switch.mtu or 1500),
            _links("VirtualNetworks", (network_path(view.system, switch, vlan),)),
        ]
    return Resource(
        CLIENT_NETWORK_ADAPTER,
        uuid,
        _etag(a.revision, place),
        adapter_path(p, a),
        _content(CLIENT_NETWORK_ADAPTER, uuid, *children),
        a.revision,
    )


def virtual_switch(view: View, s: Switch) -> Resource:
    """Return a VirtualSwitch."""
    uuid = s.uuid.lower()
    vlans = view.vlans(s)
    return Resource(
        VIRTUAL_SWITCH,
        uuid,
        _etag(s.revision, view.switch_id(s), vlans),
        switch_path(view.system, s),
        _content(
            VIRTUAL_SWITCH,
            uuid,
            _leaf("SwitchID", view.switch_id(s)),
            _leaf("SwitchMode", "Veb"),
            _leaf("SwitchName", label_of(s)),
            _links("VirtualNetworks", (network_path(view.system, s, vlan) for vlan in vlans)),
        ),
        s.revision,
    )


def virtual_network(view: View, s: Switch, vlan: int) -> Resource:
    """Return the VirtualNetwork of a VLAN of a switch."""
    uuid = network_uuid(s, vlan)
    return Resource(
        VIRTUAL_NETWORK,
        uuid,
        _etag(s.revision, view.switch_id(s)),
        network_path(view.system, s, vlan),
        _content(
            VIRTUAL_NETWORK,
            uuid,
            _link("AssociatedSwitch", switch_path(view.system, s)),
            _leaf("NetworkName", f"VLAN{vlan}-{label_of(s)}"),
            _leaf("NetworkVLANID", vlan),
            _leaf("VswitchID", view.switch_id(s)),
            _leaf("TaggedNetwork", vlan != DEFAULT_VLAN),
        ),
        s.revision,
    )


def persistent_memory_volume(_view: View, p: Partition, volume: ScmVolume) -> Resource:
    """Return a VirtualPersistentMemoryVolume: an SCM device of a partition, its size in MiB."""
    uuid = volume_uuid(p, volume)
    size = mebibytes(volume.size_bytes)
    return Resource(
        PERSISTENT_MEMORY_VOLUME,
        uuid,
        _etag(p.revision),
        volume_path(p, volume),
        _content(
            PERSISTENT_MEMORY_VOLUME,
            uuid,
            _leaf("Uuid", uuid),
            _leaf("Name", f"{volume.type or 'nvdimm'}-{volume.drc:x}"),
            _leaf("Size", size),
            _leaf("CurrentSize", size),
            _leaf("VolumeId", volume.drc & 0xFFFF),
            _leaf("Affinity", False),
            _leaf("AssociatedPartitionName", label_of(p)),
            _leaf("AssociatedPartitionId", p.lpar_id),
            _link("AssociatedPartition", partition_path(p)),
        ),
        p.revision,
    )
