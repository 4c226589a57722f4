"""Every request of the REST interface that is answered, and what is known to be missing.

``pvnet supported novalink``, the text of a 404 and the documentation are made of this table; the service's routes are
tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pvnet.novalink.names import (
    CLIENT_NETWORK_ADAPTER,
    LOGICAL_PARTITION,
    MANAGED_SYSTEM,
    PERSISTENT_MEMORY_VOLUME,
    UOM_ROOT,
    VIRTUAL_NETWORK,
    VIRTUAL_SWITCH,
    WEB_ROOT,
)

State = Literal["yes", "empty feed", "no"]
YES: Final = "yes"
EMPTY: Final = "empty feed"
NO: Final = "no"

SYSTEM: Final = f"{UOM_ROOT}/{MANAGED_SYSTEM}/{{system}}"
PARTITION: Final = f"{UOM_ROOT}/{LOGICAL_PARTITION}/{{partition}}"
CHILD: Final = f"{SYSTEM}/{LOGICAL_PARTITION}/{{partition}}"


@dataclass(frozen=True, slots=True)
class Row:
    """One request.  Tier 1: any session of pypowervm; 2: inventories; 3: what changes a lab, and the rest."""

    method: str
    path: str
    tier: int
    state: State
    note: str


EMPTY_KINDS: Final = {
    "VirtualIOServer": "a lab has no Virtual I/O Servers",
    "Cluster": "no shared storage pools",
    "SharedStoragePool": "no shared storage pools",
    "Tier": "no shared storage pools",
    "Group": "no groups",
    "ManagementConsole": "the service is no console of its own",
    "LoadGroup": "no trunks",
    "NetworkBridge": "no trunks: ports to outside networks belong to the lab (pvnet vbus)",
    "LinkAggregation": "no trunks",
    "SharedProcessorPool": "one pool, number 0, that is not shown",
    "ReservedStorageDevicePool": "no storage pools",
    "SRIOVAdapter": "no physical adapters",
    "HostEthernetAdapter": "no physical adapters",
}
"""Kinds of resources whose feeds have nothing in them, and why."""

MISSING_KINDS: Final = {
    "VolumeGroup": "no Virtual I/O Servers",
    "LogicalUnit": "no shared storage pools",
    "VirtualFibreChannelClientAdapter": "a lab has no Fibre Channel",
    "VirtualSCSIClientAdapter": "a lab has no virtual SCSI",
    "VirtualNICDedicated": "a lab has no SR-IOV",
    "SRIOVEthernetLogicalPort": "a lab has no SR-IOV",
    "LogicalPartitionProfile": "a partition has one configuration",
    "PersistentMemoryDevice": "SCM devices are shown at their partitions, as VirtualPersistentMemoryVolume",
    "ViosFile": "no Virtual I/O Servers",
    "RemoteRestart": "partitions stay in their lab",
    "Task": "no task log",
}
"""Kinds of resources that there are elsewhere and not here, and why."""


def _reads() -> list[Row]:
    rows = [
        Row("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}", 1, YES, "feed of the one system"),
        Row("GET", SYSTEM, 1, YES, "ETag, If-None-Match"),
        Row("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}", 1, YES, "feed; 204 when there is none"),
        Row("GET", f"{SYSTEM}/{LOGICAL_PARTITION}", 1, YES, "the same feed"),
        Row("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}/search/{{search}}", 1, YES, "== != < > && || of top-level fields"),
        Row("GET", f"{SYSTEM}/{LOGICAL_PARTITION}/search/{{search}}", 1, YES, "the same"),
    ]
    for place in (PARTITION, CHILD):
        rows += [
            Row("GET", place, 1, YES, "ETag, If-None-Match"),
            Row("GET", f"{place}/quick/{{property}}", 1, YES, "JSON; All: every quick property"),
            Row("GET", f"{place}/quick", 3, YES, "as quick/All"),
            Row("GET", f"{place}/{CLIENT_NETWORK_ADAPTER}", 3, YES, "virtual Ethernet adapters (venet)"),
            Row("GET", f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}", 3, YES, "ETag, If-None-Match"),
            Row("GET", f"{place}/{PERSISTENT_MEMORY_VOLUME}", 3, YES, "SCM devices of the partition"),
            Row("GET", f"{place}/{PERSISTENT_MEMORY_VOLUME}/{{volume}}", 3, YES, "read only"),
        ]
    rows += [
        Row("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}/search/{{search}}", 3, YES, "by SystemName and other fields"),
        Row("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}/quick/All", 2, YES, "JSON list"),
        Row("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}/quick/All", 2, YES, "JSON list"),
        Row("GET", f"{SYSTEM}/{LOGICAL_PARTITION}/quick/All", 2, YES, "JSON list"),
        Row("GET", f"{SYSTEM}/VirtualIOServer/quick/All", 2, YES, "JSON list, empty"),
        Row("GET", f"{SYSTEM}/quick/{{property}}", 2, YES, "JSON; All: every quick property"),
        Row("GET", f"{SYSTEM}/quick", 3, YES, "as quick/All"),
        Row("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}", 3, YES, "feed"),
        Row("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}/search/{{search}}", 3, YES, "by SwitchName, SwitchID"),
        Row("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}/{{switch}}", 3, YES, "ETag, If-None-Match"),
        Row("GET", f"{SYSTEM}/{VIRTUAL_NETWORK}", 3, YES, "VLAN 1 of each switch, and those in use"),
        Row("GET", f"{SYSTEM}/{VIRTUAL_NETWORK}/{{network}}", 3, YES, "ETag, If-None-Match"),
    ]
    return rows


def _writes() -> list[Row]:
    rows = []
    for place in (PARTITION, CHILD):
        rows += [
            Row("GET", f"{place}/do/{{operation}}", 1, YES, "template of a PowerOn or PowerOff"),
            Row("PUT", f"{place}/do/{{operation}}", 1, YES, "starts and ends the partition's process"),
            Row("POST", place, 1, YES, "If-Match, 412; name, memory, processors"),
            Row("DELETE", place, 3, YES, "a partition that is off; its memory and adapters go with it"),
            Row("PUT", f"{place}/{CLIENT_NETWORK_ADAPTER}", 3, YES, "one VLAN, no trunk"),
            Row(
                "POST",
                f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}",
                3,
                YES,
                "VLAN, switch, MAC",
            ),
            Row("DELETE", f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}", 3, YES, ""),
        ]
    rows += [
        Row("PUT", f"{UOM_ROOT}/{LOGICAL_PARTITION}", 3, YES, "a new partition, off"),
        Row("PUT", f"{SYSTEM}/{LOGICAL_PARTITION}", 3, YES, "the same"),
        Row("PUT", f"{SYSTEM}/{VIRTUAL_SWITCH}", 3, YES, "mode Veb"),
        Row("DELETE", f"{SYSTEM}/{VIRTUAL_SWITCH}/{{switch}}", 3, YES, "a switch that nothing is plugged into"),
        Row("POST", SYSTEM, 3, NO, "the system is what the topology says"),
        Row("POST", f"{SYSTEM}/{VIRTUAL_SWITCH}/{{switch}}", 3, NO, "delete it and make another"),
        Row("PUT", f"{SYSTEM}/{VIRTUAL_NETWORK}", 3, NO, "not allowed by NovaLink: a network is there once it is used"),
    ]
    return rows


def _rest() -> list[Row]:
    return [
        Row("PUT", f"{WEB_ROOT}/Logon", 1, YES, "by password; by file over HTTP on this host"),
        Row("DELETE", f"{WEB_ROOT}/Logon", 1, YES, ""),
        Row("GET", f"{UOM_ROOT}/jobs", 3, YES, "feed of jobs"),
        Row("GET", f"{UOM_ROOT}/jobs/{{job}}", 1, YES, "until deleted or expired"),
        Row("DELETE", f"{UOM_ROOT}/jobs/{{job}}", 1, YES, "a job that has ended"),
        Row("POST", f"{UOM_ROOT}/jobs/{{job}}/cancel", 1, YES, "a job that has not begun"),
        Row("GET", f"{UOM_ROOT}/Event", 1, YES, "long poll by application id"),
    ]


def _empty() -> list[Row]:
    rows = []
    for kind, why in EMPTY_KINDS.items():
        tier = {"VirtualIOServer": 1, "Group": 2}.get(kind, 3)
        rows += [Row("GET", f"{place}/{kind}", tier, EMPTY, why) for place in (UOM_ROOT, SYSTEM)]
    return rows


def _missing() -> list[Row]:
    return [Row("*", f"{UOM_ROOT}/{kind}", 3, NO, why) for kind, why in MISSING_KINDS.items()]


CATALOG: Final = tuple(sorted([*_reads(), *_writes(), *_rest(), *_empty(), *_missing()], key=lambda r: r.tier))
"""All rows, those of tier 1 first."""


def explain(path: str) -> str:
    """Return what a person is told about a path that nothing answers at."""
    parts = [part for part in path.partition("?")[0].split("/") if part]
    for part in reversed(parts):
        if part in MISSING_KINDS:
            return f"no {part} here: {MISSING_KINDS[part]}; `pvnet supported novalink` lists what there is"
    shown = path if len(path) <= 200 else path[:200] + "..."
    return f"nothing at {shown}; `pvnet supported novalink` lists what there is"
