"""What a management command makes of a topology.  No IO: the models say whether the result can be.

Whatever a topology leaves to be assigned (numbers of partitions, MAC addresses and slots by position, the installed
memory) is written out before the first change, so that nothing else shifts by it.  What is not concerned stays the
same object, so that one sees cheaply what has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from pvnet.pb.v1.management_pb2 import (
    CreateAdapter,
    CreatePartition,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    Processors,
)
from pvnet.runtime.layout import memory_needed
from pvnet.runtime.platform_view import (
    FIRST_SLOT,
    OFF,
    PARTITIONS_MAX,
    REPLY_BYTES,
    partition_message,
    switch_message,
    venet_device,
)
from pvnet.runtime.topology import BROKER, HYPERVISOR, SUPERVISOR, PartitionConfig, Topology
from pvnet.runtime.topology_net import SwitchConfig, VenetConfig
from pvnet.runtime.topology_net_check import LINK_PREFIX
from pvnet.runtime.topology_system import UNITS_LEAST, ProcessorsConfig, check_label, made_uuid, units_expected

ADAPTERS_MAX: Final = 32
"""Adapters of a partition that commands make."""
_LPAR_ID_MAX: Final = 65535
_MEMORY_DEFAULT: Final = 16 << 20
_NAME_MAX: Final = 32
_MIB: Final = 1 << 20
_TEXT_MAX: Final = 500
_FIELDS: Final = {
    "memory": "memory_bytes",
    "min_memory": "min_memory_bytes",
    "max_memory": "max_memory_bytes",
}
"""Fields of a topology that have another name in a command."""

Model = TypeVar("Model", bound=BaseModel)


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A command that is not carried out, and why."""

    def __init__(self, status: ManagementReply.Status, text: str, *, field: str = "") -> None:
        super().__init__(text[:_TEXT_MAX])
        self.status = status
        self.field = field


def _invalid(field: str, text: str) -> Refusal:
    return Refusal(ManagementReply.INVALID, f"{field}: {text}", field=field)


def _in_use(field: str, text: str) -> Refusal:
    """A value that is as good as any, but somebody has it."""
    return Refusal(ManagementReply.CONFLICT, f"{field}: {text}", field=field)


# --- partitions ------------------------------------------------------------------------------------------------------


def pinned(topology: Topology) -> Topology:
    """Return the same topology with every assigned number written out that a change elsewhere could shift."""
    update: dict[str, Any] = {}
    if any(p.lpar_id is None for p in topology.partitions):
        update["partitions"] = [
            p if p.lpar_id is not None else p.model_copy(update={"lpar_id": topology.lpar_id(p.name)})
            for p in topology.partitions
        ]
    if topology.system.memory is None or topology.system.processors is None:
        installed = {"memory": topology.system_memory, "processors": topology.system_processors}
        update["system"] = topology.system.model_copy(update=installed)
    return _with(topology, **update) if update else topology


def create_partition(topology: Topology, command: CreatePartition) -> tuple[Topology, str]:
    """Return the topology with one partition more, and the partition's name.

    :raises Refusal: it cannot be.
    """
    if len(topology.partitions) >= PARTITIONS_MAX:
        raise Refusal(ManagementReply.CONFLICT, f"there are {len(topology.partitions)} partitions, as many as may be")
    if not command.name and not command.label:
        raise _invalid("label", "expected a name for people, or a name")
    label = command.label or command.name
    _check_label(label, [p.shown_label for p in topology.partitions], "partition")
    if command.name and command.name in _taken(topology):
        raise _in_use("name", f"{command.name!r} is taken: expected another")
    name = command.name or _made_name(label, _taken(topology))
    numbers = {topology.lpar_id(p.name): p.both_names for p in topology.partitions}
    if command.lpar_id in numbers:
        raise _in_use("lpar_id", f"{command.lpar_id} is that of {numbers[command.lpar_id]}: expected a free number")
    free = next((n for n in range(1, _LPAR_ID_MAX + 1) if n not in numbers), 0)
    given: dict[str, Any] = {"name": name, "lpar_id": command.lpar_id or free, "autostart": False}
    if label != name:
        given["label"] = label
    if command.uuid:
        given["uuid"] = command.uuid
    if command.type:
        given["type"] = command.type
    if not command.memory_bytes:
        given["memory"] = max(_MEMORY_DEFAULT, topology.system.memory_region)
    for field in _FIELDS:
        value = getattr(command, _FIELDS[field])
        if value:
            given[field] = _memory(topology, _FIELDS[field], value)
    if command.HasField("processors"):
        given["processors"] = processors_config(command.processors, ProcessorsConfig())
    partition = _made(PartitionConfig, given, whole="memory_bytes")
    owners = {topology.partition_uuid(p): p.both_names for p in topology.partitions}
    if (uuid := topology.partition_uuid(partition)) in owners:
        raise _in_use("uuid", f"{uuid} is that of {owners[uuid]}: expected one of its own")
    return _checked_memory(_with(topology, partitions=[*topology.partitions, partition]), name), name


def modify_partition(topology: Topology, command: ModifyPartition) -> Topology:
    """Return the topology with a partition changed as the command says.

    :raises Refusal: it cannot be.
    """
    old = topology.partition(command.name)
    update: dict[str, Any] = {}
    if command.HasField("label"):
        others = [p.shown_label for p in topology.partitions if p is not old]
        _check_label(command.label, others, "partition")
        update["label"] = command.label if command.label != old.name else None
    if any(command.HasField(field) for field in ("memory_bytes", "min_memory_bytes", "max_memory_bytes")):
        # What was shown stays, so limits that followed the desired size do not any more.
        shown = {"memory": old.memory, "min_memory": old.min_memory, "max_memory": old.max_memory}
        for field, value in shown.items():
            name = _FIELDS[field]
            wanted = getattr(command, name) if command.HasField(name) else None
            update[field] = (value or old.memory) if wanted is None else _memory(topology, name, wanted)
        if not update["min_memory"] <= update["memory"] <= update["max_memory"]:
            raise _invalid(
                "memory_bytes",
                f"{_size(update['memory'])}: expected {_size(update['min_memory'])} (min_memory_bytes) to "
                f"{_size(update['max_memory'])} (max_memory_bytes); change those with it",
            )
    if command.HasField("processors"):
        update["processors"] = processors_config(command.processors, old.processors)
    if not update:
        return topology
    return _checked_memory(_replaced(topology, old, _rebuilt(old, update)), old.name)


def _needed_for(topology: Topology, partition: PartitionConfig) -> str:
    """Why a partition cannot go, as what follows its name; empty: it can."""
    name = partition.name
    if partition.management:
        return "is the management partition: this command came through it"
    for pair in topology.crqs:
        if name in {end[0] for end in pair.ends()}:
            return f"is an end of the CRQ pair {pair.a} - {pair.b}"
    for host in topology.mdev_hosts:
        for mdev in host.mdevs:
            if mdev.partition == name:
                return f"has the mediated device {mdev.uuid} of {host.name}"
        for parent in host.parents:
            if parent.attributes.get("scm", "").partition(":")[0] == name:
                return f"has the storage of the parent {parent.name} of {host.name}"
    return ""


def delete_partition(topology: Topology, name: str) -> Topology:
    """Return the topology without a partition.

    :raises Refusal: something else needs it.
    """
    partition = topology.partition(name)
    needed = _needed_for(topology, partition)
    if needed:
        raise Refusal(ManagementReply.CONFLICT, f"{partition.both_names} {needed}")
    return _with(topology, partitions=[p for p in topology.partitions if p is not partition])


def processors_config(message: Processors, old: ProcessorsConfig) -> ProcessorsConfig:
    """Return what a command says about processors; numbers that are 0 are as the desired one, or as they were.

    :raises Refusal: it cannot be.
    """
    units, virtual = message.units or round(old.units * 100), message.virtual or old.virtual
    if not message.dedicated and units >= UNITS_LEAST and not UNITS_LEAST * virtual <= units <= 100 * virtual:
        raise _invalid("processors.units", f"{units / 100:g}: expected {units_expected(virtual)}")
    given: dict[str, Any] = {
        "dedicated": message.dedicated,
        "units": message.units / 100 or old.units,
        "min_units": message.min_units / 100 or None,
        "max_units": message.max_units / 100 or None,
        "virtual": message.virtual or old.virtual,
        "min_virtual": message.min_virtual or None,
        "max_virtual": message.max_virtual or None,
        "uncapped": message.uncapped,
        "weight": message.weight,
    }
    return _made(ProcessorsConfig, given, prefix="processors.", whole="processors")


# --- switches --------------------------------------------------------------------------------------------------------


def create_switch(topology: Topology, label: str) -> tuple[Topology, str]:
    """Return the topology with one switch more, and the switch's name.

    :raises Refusal: it cannot be.
    """
    _check_label(label, [s.label or s.name for s in topology.switches], "switch")
    name = _made_name(label, {s.name for s in topology.switches})
    switch = _made(SwitchConfig, {"name": name, "label": label if label != name else None})
    new = _with(topology, switches=[*topology.switches, switch])
    if sum(switch_message(new, s).ByteSize() + 14 for s in new.switches) > REPLY_BYTES - 32:
        raise Refusal(
            ManagementReply.CONFLICT, f"there are {len(topology.switches)} switches, as many as can be listed"
        )
    return new, name


def delete_switch(topology: Topology, name: str) -> Topology:
    """Return the topology without a switch.

    :raises Refusal: somebody uses it.
    """
    switch = next(s for s in topology.switches if s.name == name)
    shown = f"{switch.label} ({name})" if switch.label and switch.label != name else name
    if switch.ports:
        raise Refusal(ManagementReply.CONFLICT, f"switch {shown} has the port {switch.ports[0]}")
    for partition in topology.partitions:
        for number, venet in enumerate(partition.venet):
            if venet.switch == name:
                slot = topology.venet_slot(partition, number)
                text = f"switch {shown} has the adapter of {partition.both_names} in slot {slot}"
                raise Refusal(ManagementReply.CONFLICT, text)
    return _with(topology, switches=[s for s in topology.switches if s is not switch])


# --- adapters --------------------------------------------------------------------------------------------------------


def create_adapter(topology: Topology, command: CreateAdapter) -> tuple[Topology, int]:
    """Return the topology with one virtual Ethernet more, and its slot.

    :raises Refusal: it cannot be.
    """
    old = topology.partition(command.partition)
    venets = _pinned_venets(topology, old)
    if len(venets) >= ADAPTERS_MAX:
        raise Refusal(ManagementReply.CONFLICT, f"{old.both_names} has {len(venets)} adapters, as many as may be")
    used = {venet.slot for venet in venets}
    devices = {device.name for device in old.devices}
    slot = command.slot
    if not slot:
        slot = next(n for n in range(FIRST_SLOT, 1 << 20) if n not in used and venet_device(old.name, n) not in devices)
    elif slot in used:
        raise _in_use("slot", f"{slot} is used: expected a free one of {old.both_names}, or 0")
    elif venet_device(old.name, slot) in devices:
        raise _in_use("slot", f"{slot}: {old.both_names} has a device {venet_device(old.name, slot)!r} already")
    given: dict[str, Any] = {"slot": slot, "switch": _switch(topology, command.switch), "vlan": command.vlan or 1}
    macs = _macs(topology)
    given["mac"] = command.mac or _made_mac(topology, old, slot, macs)
    return _with_venets(topology, old, [*venets, _venet(given, macs)]), slot


def modify_adapter(topology: Topology, command: ModifyAdapter) -> Topology:
    """Return the topology with a virtual Ethernet changed as the command says.

    :raises Refusal: it cannot be.
    """
    old = topology.partition(command.partition)
    venets = _pinned_venets(topology, old)
    number = _number_of(old, venets, command.slot)
    venet = venets[number]
    given = _fields(venet)
    macs = _macs(topology)
    if command.HasField("mac"):
        macs.pop(str(venet.mac), None)
        given["mac"] = command.mac
    else:
        macs.clear()
    if command.HasField("switch"):
        given["switch"] = _switch(topology, command.switch)
    if command.HasField("vlan"):
        given["vlan"] = command.vlan
    venets[number] = _venet(given, macs)
    return _with_venets(topology, old, venets)


def delete_adapter(topology: Topology, partition: str, slot: int) -> Topology:
    """Return the topology without a virtual Ethernet.

    :raises Refusal: there is none.
    """
    old = topology.partition(partition)
    venets = _pinned_venets(topology, old)
    del venets[_number_of(old, venets, slot)]
    return _with_venets(topology, old, venets)


def _number_of(partition: PartitionConfig, venets: list[VenetConfig], slot: int) -> int:
    for number, venet in enumerate(venets):
        if venet.slot == slot:
            return number
    known = ", ".join(str(venet.slot) for venet in venets) or "none"
    raise Refusal(ManagementReply.NOT_FOUND, f"no adapter of {partition.both_names} in slot {slot}; there are: {known}")


def _pinned_venets(topology: Topology, partition: PartitionConfig) -> list[VenetConfig]:
    """Return the venets of a partition with slots and MAC addresses written out: both follow from the position."""
    return [
        venet.model_copy(
            update={"slot": topology.venet_slot(partition, number), "mac": topology.venet_mac(partition, number)}
        )
        for number, venet in enumerate(partition.venet)
    ]


def _with_venets(topology: Topology, partition: PartitionConfig, venets: list[VenetConfig]) -> Topology:
    changed = partition.model_copy(update={"venet": venets})
    new = _replaced(topology, partition, changed)
    if len(venets) > len(partition.venet) and partition_message(new, changed, OFF)[1]:
        text = f"{partition.both_names} has {len(partition.venet)} adapters, as many as one message can show"
        raise Refusal(ManagementReply.CONFLICT, text)
    return new


def _venet(given: dict[str, Any], macs: dict[str, str]) -> VenetConfig:
    venet = _made(VenetConfig, given)
    if venet.mac in macs:
        raise _in_use("mac", f"{venet.mac} is that of {macs[venet.mac]}: expected one of its own")
    return venet


def _switch(topology: Topology, wanted: str) -> str:
    names = [switch.name for switch in topology.switches]
    if not names:
        raise _invalid("switch", "the lab has none: make one first (CreateSwitch, or [[switch]] in the topology)")
    if not wanted and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise _invalid("switch", f"{wanted[:40]!r}: expected one of {', '.join(names)}")
    return wanted


def _macs(topology: Topology) -> dict[str, str]:
    """Every MAC address of a partition, and whose it is."""
    return {
        topology.venet_mac(
            partition, number
        ): f"{partition.both_names} in slot {topology.venet_slot(partition, number)}"
        for partition in topology.partitions
        for number in range(len(partition.venet))
    }


def _made_mac(topology: Topology, partition: PartitionConfig, slot: int, taken: dict[str, str]) -> str:
    """Return a free MAC address: as topologies assign them if that is free, else made from the names."""
    lpar_id = topology.lpar_id(partition.name)
    uuid = topology.partition_uuid(partition)
    if slot - 1 <= 0xFF:
        mac = f"02:00:00:{lpar_id >> 8:02x}:{lpar_id & 0xFF:02x}:{slot - 1:02x}"
        if mac not in taken:
            return mac
    attempt = 0
    while True:
        digits = made_uuid("mac", uuid, str(slot), str(attempt)).replace("-", "")
        mac = ":".join(["02", *(digits[at : at + 2] for at in range(0, 10, 2))])
        if mac not in taken:
            return mac
        attempt += 1


# --- what they share -------------------------------------------------------------------------------------------------


def _fields(model: BaseModel) -> dict[str, Any]:
    return {field.alias or name: getattr(model, name) for name, field in type(model).model_fields.items()}


def _made(kind: type[Model], given: dict[str, Any], *, prefix: str = "", whole: str = "") -> Model:
    """Make a model; what is wrong with it becomes a refusal that names the command's field."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
    name = str(details["loc"][0]) if details["loc"] else whole
    field = _FIELDS.get(name, f"{prefix}{name}" if details["loc"] else name)
    cause = details.get("ctx", {}).get("error")
    expected = str(cause) if cause is not None else details["msg"].replace("Input should be ", "")
    found = details["input"] if details["loc"] else ""
    shown = f"{str(found)[:60]!r}: " if isinstance(found, str) and found else f"{found}: " if found != "" else ""
    raise _invalid(field, f"{shown}expected {expected}")


def _rebuilt(model: Model, update: dict[str, Any]) -> Model:
    """A changed copy, checked again."""
    return _made(type(model), {**_fields(model), **update})


def _with(topology: Topology, **update: Any) -> Topology:
    """A changed topology, checked as a whole; what it is made of is not checked again."""
    aliases = {name: field.alias or name for name, field in Topology.model_fields.items()}
    try:
        return Topology.model_validate({**_fields(topology), **{aliases[k]: v for k, v in update.items()}})
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        cause = details.get("ctx", {}).get("error", details["msg"])
        raise Refusal(ManagementReply.INVALID, f"expected {cause}") from None


def _replaced(topology: Topology, old: PartitionConfig, new: PartitionConfig) -> Topology:
    return _with(topology, partitions=[new if p is old else p for p in topology.partitions])


def _checked_memory(topology: Topology, name: str) -> Topology:
    memory, needed = topology.partition(name).memory, memory_needed(topology, name)
    if memory < needed:
        raise _invalid("memory_bytes", f"{_size(memory)}: expected at least {_size(needed)} for its queues and buffers")
    return topology


def _size(value: int) -> str:
    return f"{value} bytes" if value % _MIB else f"{value // _MIB} MiB"


def _memory(topology: Topology, field: str, value: int) -> int:
    region = topology.system.memory_region
    if not value or value % region:
        raise _invalid(field, f"{_size(value)}: expected a multiple of {_size(region)} (system.memory_region)")
    return value


def _check_label(label: str, others: Iterable[str], what: str) -> None:
    try:
        check_label(label)
    except ValueError as error:
        raise _invalid("label", f"{label[:40]!r}: expected {error}") from None
    if label in others:
        raise _in_use("label", f"{label!r} is the name of another {what}: expected one of its own")


def _taken(topology: Topology) -> set[str]:
    """Names that no partition can have."""
    return {*topology.node_names, HYPERVISOR, SUPERVISOR, BROKER, "bridge", "state"}


def _made_name(label: str, taken: set[str]) -> str:
    """Return a name of a node made from one for people."""
    base = re.sub(r"[^a-z0-9_]+", "-", label.lower()).strip("-_")[:_NAME_MAX] or "p"
    if base.startswith(LINK_PREFIX):
        base = f"p-{base}"[:_NAME_MAX]
    return _first_free(base, lambda name: name not in taken)


def _first_free(base: str, is_free: Callable[[str], bool]) -> str:
    if is_free(base):
        return base
    number = 2
    while True:
        tail = f"-{number}"
        if is_free(name := base[: _NAME_MAX - len(tail)] + tail):
            return name
        number += 1
