"""What a client that makes or changes a partition sends, as commands of the platform."""

from __future__ import annotations

import re
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from pvnet.novalink.errors import RequestError
from pvnet.novalink.names import LOGICAL_PARTITION, TYPES, UOM_NS, label_of
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.request_body import (
    Fields,
    Parsed,
    bad_request,
    differences,
    invalid,
    paths_without_effect,
    read_document,
    read_flag,
    read_label,
    read_number,
    refuse_read_only,
    same,
    shown,
    unknown_paths,
)
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import CreatePartition, ModifyPartition, Partition, Processors
from pvnet.runtime.topology_system import UNITS_LEAST, units_expected

_MIB: Final = 1 << 20
_M: Final = "PartitionMemoryConfiguration"
_P: Final = "PartitionProcessorConfiguration"
_SHARED: Final = f"{_P}/SharedProcessorConfiguration"
_DEDICATED: Final = f"{_P}/DedicatedProcessorConfiguration"
_NAME: Final = "PartitionName"
_MEMORY: Final = (("memory_bytes", "Desired"), ("min_memory_bytes", "Minimum"), ("max_memory_bytes", "Maximum"))
_SHARED_FIELDS: Final = (
    ("units", "DesiredProcessingUnits"),
    ("min_units", "MinimumProcessingUnits"),
    ("max_units", "MaximumProcessingUnits"),
    ("virtual", "DesiredVirtualProcessors"),
    ("min_virtual", "MinimumVirtualProcessors"),
    ("max_virtual", "MaximumVirtualProcessors"),
    ("weight", "UncappedWeight"),
)
_DEDICATED_FIELDS: Final = (
    ("units", "DesiredProcessors"),
    ("min_units", "MinimumProcessors"),
    ("max_units", "MaximumProcessors"),
)
_SETTABLE: Final = frozenset(
    {_NAME, f"{_P}/HasDedicatedProcessors", f"{_P}/SharingMode"}
    | {f"{_M}/{word}Memory" for _, word in _MEMORY}
    | {f"{_SHARED}/{name}" for _, name in _SHARED_FIELDS}
    | {f"{_DEDICATED}/{name}" for _, name in _DEDICATED_FIELDS}
)
_CAPPING: Final = MappingProxyType({"capped": False, "uncapped": True})
_DEDICATED_MODES: Final = frozenset(
    {"sre idle proces", "sre idle procs active", "sre idle procs always", "keep idle procs"}
)
_UNITS_LENGTH_MAX: Final = 60
"""Most characters of a number of processing units: any number of zeros may stand at its end."""


def _hundredths(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,2}0*)?", value) or len(value) > _UNITS_LENGTH_MAX:
        raise invalid(name, value, "a number such as 0.5, with at most two decimals")
    return int(Decimal(value) * 100)


def _mib(name: str, value: str) -> int:
    return read_number(name, value, 1, 1 << 26) * _MIB


def _shared_pool(fields: Fields) -> None:
    path = f"{_SHARED}/SharedProcessorPoolID"
    pool = fields.get(path)
    if pool is not None and not same(pool, "0"):
        raise invalid(path, pool, "0, the only pool")


def _processors(fields: Fields, now: Processors | None) -> Processors | None:
    """Return the processors that the document asks for, on top of those of now; None if it says nothing of them."""
    values = {path: fields.get(path) for path in sorted(_SETTABLE) if path.startswith(_P)}
    _shared_pool(fields)
    if all(value is None for value in values.values()):
        return None
    flag = values[f"{_P}/HasDedicatedProcessors"]
    here = f"{_P}/HasDedicatedProcessors"
    dedicated = (now is not None and now.dedicated) if flag is None else read_flag(here, flag)
    wanted = Processors()
    if now is not None and now.dedicated == dedicated:
        wanted.CopyFrom(now)
    else:
        wanted.weight = 128
        wanted.uncapped = True
    wanted.dedicated = dedicated
    place, table = (_DEDICATED, _DEDICATED_FIELDS) if dedicated else (_SHARED, _SHARED_FIELDS)
    for key, name in table:
        path = f"{place}/{name}"
        value = values[path]
        if value is None:
            continue
        if key == "weight":
            number = read_number(path, value, 0, 255)
        elif dedicated:
            number = read_number(path, value, 1, 256) * 100
        elif key.endswith("units"):
            number = _hundredths(path, value)
        else:
            number = read_number(path, value, 1, 256)
        setattr(wanted, key, number)
    if not wanted.units:
        raise bad_request("Missing field", f"{place}/{table[0][1]}: nothing, expected a number")
    if dedicated:
        wanted.virtual, wanted.min_virtual, wanted.max_virtual = (
            (n or wanted.units) // 100 for n in (wanted.units, wanted.min_units, wanted.max_units)
        )
    elif not wanted.virtual:
        raise bad_request("Missing field", f"{_SHARED}/DesiredVirtualProcessors: nothing, expected a number")
    _sharing(wanted, values[f"{_P}/SharingMode"], dedicated)
    _ordered(wanted, place)
    if not dedicated and not UNITS_LEAST * wanted.virtual <= wanted.units <= 100 * wanted.virtual:
        name = f"{_SHARED}/DesiredProcessingUnits"
        raise invalid(name, f"{wanted.units / 100:g}", units_expected(wanted.virtual))
    return wanted


def _sharing(wanted: Processors, mode: str | None, dedicated: bool) -> None:
    if mode is None:
        return
    if dedicated:
        # Whom idle processors are lent to makes no difference in a lab.
        if mode not in _DEDICATED_MODES:
            raise invalid(f"{_P}/SharingMode", mode, "one of " + ", ".join(sorted(_DEDICATED_MODES)))
    elif mode in _CAPPING:
        wanted.uncapped = _CAPPING[mode]
    else:
        raise invalid(f"{_P}/SharingMode", mode, "capped or uncapped")


def _ordered(wanted: Processors, place: str) -> None:
    for least, value, most in (
        (wanted.min_units, wanted.units, wanted.max_units),
        (wanted.min_virtual, wanted.virtual, wanted.max_virtual),
    ):
        if not (least or value) <= value <= (most or value):
            raise bad_request("Invalid value", f"{place}: expected minimum <= desired <= maximum")


def _memory(fields: Fields, wanted: frozenset[str] = _SETTABLE) -> dict[str, int]:
    """Return the sizes at the paths that are wanted, as fields of a command."""
    found = {}
    for key, word in _MEMORY:
        path = f"{_M}/{word}Memory"
        value = fields.get(path)
        if value is not None and path in wanted:
            found[key] = _mib(path, value)
    return found


def create_partition(data: bytes, view: View) -> Parsed[CreatePartition]:
    """Return the command for a PUT of a LogicalPartition."""
    root = read_document(data, UOM_NS, LOGICAL_PARTITION)
    fields = Fields(root)
    label = fields.get(_NAME)
    if label is None:
        raise bad_request("Missing field", f"{_NAME}: nothing, expected the name of the partition")
    command = CreatePartition(label=read_label(_NAME, label))
    if any(label_of(p) == command.label for p in view.partitions):
        raise RequestError(409, "Already exists", f"{_NAME}: there is a partition {shown(label)}")
    memory = _memory(fields)
    if "memory_bytes" not in memory:
        raise bad_request("Missing field", f"{_M}/DesiredMemory: nothing, expected a number of MiB")
    for key, number in memory.items():
        setattr(command, key, number)
    processors = _processors(fields, None)
    if processors is not None:
        command.processors.CopyFrom(processors)
    lpar_id = fields.get("PartitionID")
    if lpar_id is not None:
        command.lpar_id = read_number("PartitionID", lpar_id, 1, 0xFFFF)
    command.type = _type(fields.get("PartitionType"))
    uuid = fields.get("PartitionUUID") or root.value("Metadata", "Atom", "AtomID")
    if uuid:
        if not re.fullmatch(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", uuid):
            raise invalid("PartitionUUID", uuid, "a UUID")
        command.uuid = uuid.lower()
    likely = Partition(label=command.label, memory_bytes=command.memory_bytes, processors=command.processors)
    return Parsed(command, paths_without_effect(fields, Fields(logical_partition(view, likely).content)))


def _type(value: str | None) -> str:
    if value is None:
        return "aix-linux"
    for kind, name in TYPES.items():
        if value == name:
            return kind
    raise invalid("PartitionType", value, " or ".join(TYPES.values()))


def modify_partition(data: bytes, view: View, partition: Partition) -> Parsed[ModifyPartition | None]:
    """Return the command for a POST of a LogicalPartition; None if the document changes nothing.

    The command is meant for the revision of ``partition``.
    """
    given = Fields(read_document(data, UOM_NS, LOGICAL_PARTITION))
    served = Fields(logical_partition(view, partition).content)
    changed = differences(given, served)
    refuse_read_only(changed, given, served, _SETTABLE)
    command = ModifyPartition(name=partition.name, if_revision=partition.revision)
    if _NAME in changed:
        label = given.get(_NAME) or ""
        command.label = read_label(_NAME, label)
        if any(label_of(p) == label and p.name != partition.name for p in view.partitions):
            raise RequestError(409, "Already exists", f"{_NAME}: there is a partition {shown(label)}")
    for key, number in _memory(given, frozenset(changed)).items():
        setattr(command, key, number)
    flag = given.get(f"{_P}/HasDedicatedProcessors")
    other = flag is not None and read_flag(f"{_P}/HasDedicatedProcessors", flag) != partition.processors.dedicated
    if other or any(path.startswith(_P) for path in changed):
        processors = _processors(given, partition.processors)
        if processors is not None and processors != partition.processors:
            command.processors.CopyFrom(processors)
    ignored = unknown_paths(given, served, _SETTABLE)
    empty = ModifyPartition(name=partition.name, if_revision=partition.revision)
    return Parsed(None if command == empty else command, ignored)
