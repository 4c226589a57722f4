"""Names of the REST interface: namespaces, media types, paths, and the words that it has for states and types."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

from pvnet.pb.v1.management_pb2 import Adapter, Partition, ScmVolume, Switch, System
from pvnet.runtime.topology_system import made_uuid

ATOM_NS: Final = "http://www.w3.org/2005/Atom"
UOM_NS: Final = "http://www.ibm.com/xmlns/systems/power/firmware/uom/mc/2012_10/"
WEB_NS: Final = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"

Mode = Literal["pvm", "hmc"]
"""Whether the service says that it is NovaLink or a Hardware Management Console."""

ROOT: Final = "/rest/api"
UOM_ROOT: Final = f"{ROOT}/uom"
WEB_ROOT: Final = f"{ROOT}/web"

MANAGED_SYSTEM: Final = "ManagedSystem"
LOGICAL_PARTITION: Final = "LogicalPartition"
VIRTUAL_IO_SERVER: Final = "VirtualIOServer"
CLIENT_NETWORK_ADAPTER: Final = "ClientNetworkAdapter"
VIRTUAL_SWITCH: Final = "VirtualSwitch"
VIRTUAL_NETWORK: Final = "VirtualNetwork"
PERSISTENT_MEMORY_VOLUME: Final = "VirtualPersistentMemoryVolume"
EVENT: Final = "Event"
JOB_REQUEST: Final = "JobRequest"
JOB_RESPONSE: Final = "JobResponse"
HTTP_ERROR: Final = "HttpErrorResponse"
LOGON_REQUEST: Final = "LogonRequest"
LOGON_RESPONSE: Final = "LogonResponse"

ATOM_TYPE: Final = "application/atom+xml"
"""Media type of entries and feeds."""
DEFAULT_VLAN: Final = 1

STATES: Final = MappingProxyType(
    {
        Partition.State.OFF: "not activated",
        Partition.State.STARTING: "starting",
        Partition.State.RUNNING: "running",
        Partition.State.STOPPING: "shutting down",
        Partition.State.FAILED: "error",
    }
)
UNKNOWN_STATE: Final = "Unknown"
TYPES: Final = MappingProxyType({"aix-linux": "AIX/Linux", "os400": "OS400"})
"""PartitionType by Partition.type of the messages."""
AIX_LINUX: Final = TYPES["aix-linux"]
FIELD_NAMES: Final = MappingProxyType(
    {
        "label": "PartitionName",
        "lpar_id": "PartitionID",
        "uuid": "PartitionUUID",
        "type": "PartitionType",
        "memory_bytes": "DesiredMemory",
        "min_memory_bytes": "MinimumMemory",
        "max_memory_bytes": "MaximumMemory",
        "processors": "PartitionProcessorConfiguration",
        "slot": "VirtualSlotNumber",
        "mac": "MACAddress",
        "vlan": "PortVLANID",
        "switch": "AssociatedVirtualSwitch",
    }
)
"""Element by field of a command: what a reply's ``field`` is called in the client's document."""


def uom_type(kind: str) -> str:
    """Return the media type of a resource without an Atom entry around it."""
    return f"application/vnd.ibm.powervm.uom+xml; type={kind}"


def web_type(kind: str) -> str:
    """Return the media type of a request or an answer that is no resource."""
    return f"application/vnd.ibm.powervm.web+xml; type={kind}"


def state_of(partition: Partition) -> str:
    """Return PartitionState."""
    return STATES.get(partition.state, UNKNOWN_STATE)


def type_of(partition: Partition) -> str:
    """Return PartitionType."""
    return TYPES.get(partition.type, AIX_LINUX)


def rmc_of(partition: Partition) -> str:
    """Return ResourceMonitoringControlState: whether the guest takes requests."""
    return "active" if partition.guest_ready and partition.state == Partition.State.RUNNING else "inactive"


def label_of(thing: Partition | Switch) -> str:
    """Return the name that management software sees."""
    return thing.label or thing.name


def system_uuid(system: System) -> str:
    """Return the UUID as REST has it: lower case."""
    return system.uuid.lower()


def partition_uuid(partition: Partition) -> str:
    """Return the UUID as REST has it: upper case, unlike all others."""
    return partition.uuid.upper()


def adapter_uuid(partition: Partition, adapter: Adapter) -> str:
    """Return the UUID of a virtual Ethernet adapter."""
    return (adapter.uuid or made_uuid("adapter", partition.uuid.lower(), str(adapter.slot))).lower()


def volume_uuid(partition: Partition, volume: ScmVolume) -> str:
    """Return the UUID of a persistent memory volume: upper case."""
    return (volume.uuid or made_uuid("scm", partition.uuid.lower(), str(volume.drc))).upper()


def network_uuid(switch: Switch, vlan: int) -> str:
    """Return the UUID of a VLAN of a switch."""
    return made_uuid("network", switch.uuid.lower(), str(vlan))


def system_path(system: System) -> str:
    """Return where the system stands."""
    return f"{UOM_ROOT}/{MANAGED_SYSTEM}/{system_uuid(system)}"


def partition_path(partition: Partition) -> str:
    """Return where a partition stands."""
    return f"{UOM_ROOT}/{LOGICAL_PARTITION}/{partition_uuid(partition)}"


def adapter_path(partition: Partition, adapter: Adapter) -> str:
    """Return where a virtual Ethernet adapter stands: below its partition."""
    return f"{partition_path(partition)}/{CLIENT_NETWORK_ADAPTER}/{adapter_uuid(partition, adapter)}"


def switch_path(system: System, switch: Switch) -> str:
    """Return where a virtual switch stands: below the system."""
    return f"{system_path(system)}/{VIRTUAL_SWITCH}/{switch.uuid.lower()}"


def network_path(system: System, switch: Switch, vlan: int) -> str:
    """Return where a VLAN of a switch stands: below the system."""
    return f"{system_path(system)}/{VIRTUAL_NETWORK}/{network_uuid(switch, vlan)}"


def volume_path(partition: Partition, volume: ScmVolume) -> str:
    """Return where a persistent memory volume stands: below its partition."""
    return f"{partition_path(partition)}/{PERSISTENT_MEMORY_VOLUME}/{volume_uuid(partition, volume)}"
