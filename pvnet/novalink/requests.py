"""What clients send, as commands of the platform.

A document that changes an object is the whole object, as it was read, with some fields changed.  So it is compared with
what the object's document says now: what differs and can be set becomes part of the command; what differs and cannot be
set is an error that names it; elements that are not served are ignored, and named to the caller for its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import islice
from types import MappingProxyType
from typing import Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from pvnet.novalink.markup import Element, MarkupError, parse
from pvnet.novalink.names import (
    ATOM_NS,
    CLIENT_NETWORK_ADAPTER,
    JOB_REQUEST,
    LOGICAL_PARTITION,
    LOGON_REQUEST,
    TYPES,
    UOM_NS,
    VIRTUAL_SWITCH,
    WEB_NS,
    label_of,
)
from pvnet.novalink.resources import View, client_network_adapter, logical_partition
from pvnet.pb.v1.management_pb2 import (
    Adapter,
    CreateAdapter,
    CreatePartition,
    CreateSwitch,
    ModifyAdapter,
    ModifyPartition,
    Partition,
    PowerOff,
    PowerOn,
    Processors,
)
from pvnet.runtime.topology_system import check_label

IGNORED_MAX: Final = 50
"""Most names of ignored elements that are told."""
_SHOWN_MAX: Final = 60
_PARAMETERS_MAX: Final = 64
_VALUE_MAX: Final = 1024
_MIB: Final = 1 << 20
_MAC: Final = re.compile(r"(?:[0-9A-F]{2}:?){5}[0-9A-F]{2}", re.IGNORECASE)
_VLAN_MAX: Final = 4094
_SLOT_MIN: Final = 2
_SLOT_MAX: Final = 65535
_BAD: Final = 400

Command = TypeVar("Command")


class RequestError(Exception):
    """The request cannot be done as it stands; HTTP status, a reason for programs, a message for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Parsed(Generic[Command]):
    """A command, and the elements of the document that had no effect."""

    command: Command
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogonRequest:
    """Who wants to log on: by a password, or (``password`` None) by reading a file of the service's machine."""

    user: str
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """An operation on an object, with parameters as text."""

    operation: str
    group: str
    parameters: Mapping[str, str] = field(default_factory=dict)


FIELD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
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


def _bad(reason: str, message: str) -> RequestError:
    return RequestError(_BAD, reason, message)


def _invalid(name: str, value: str, expected: str) -> RequestError:
    return _bad("Invalid value", f"{name}: {_shown(value)}, expected {expected}")


def _shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN_MAX else value[:_SHOWN_MAX] + "...")


def _document(data: bytes, namespace: str, name: str) -> Element:
    """Return the element of this name: the document itself, or what an Atom entry has in it."""
    if not data:
        raise _bad("Empty body", f"the request has no body, expected a {name} document")
    try:
        root = parse(data)
    except MarkupError as error:
        raise _bad("Malformed XML", str(error)) from None
    if root.namespace == ATOM_NS and root.name == "entry":
        content = root.child("content")
        inside = content.children if content is not None else ()
        if len(inside) != 1:
            raise _bad("Unexpected document", f"an entry with {len(inside)} elements in its content, expected one")
        root = inside[0]
    if (root.namespace, root.name) != (namespace, name):
        what = f"{_shown(root.name)} in the namespace {_shown(root.namespace)}"
        raise _bad("Unexpected document", f"{what}, expected {name} in {namespace!r}")
    return root


def logon_request(data: bytes) -> LogonRequest:
    """Return who wants to log on."""
    root = _document(data, WEB_NS, LOGON_REQUEST)
    user = root.value("UserID") or ""
    if not user or len(user) > _VALUE_MAX:
        raise _bad("Missing field", "UserID: nothing, expected the name of a user" if not user else "UserID: too long")
    wants_file = (root.value("GenerateX-API-SessionFile") or "").lower() == "true"
    password = root.child("Password")
    if wants_file == (password is not None):
        raise _bad("Missing field", "expected either a Password, or GenerateX-API-SessionFile with the value true")
    if password is None:
        return LogonRequest(user)
    if len(password.text) > _VALUE_MAX:
        raise _bad("Invalid value", f"Password: more than {_VALUE_MAX} characters")
    return LogonRequest(user, password.text)


def job_request(data: bytes, group: str, operation: str) -> JobRequest:
    """Return the operation that is asked for at the path of ``operation`` of a ``group`` (kind of object)."""
    root = _document(data, WEB_NS, JOB_REQUEST)
    for name, wanted in (("OperationName", operation), ("GroupName", group)):
        value = root.value("RequestedOperation", name)
        if value != wanted:
            raise _invalid(name, value or "", f"{wanted!r} as in the path")
    parameters: dict[str, str] = {}
    listed = root.child("JobParameters")
    for parameter in () if listed is None else listed.children:
        if parameter.name != "JobParameter":
            continue
        key = parameter.value("ParameterName") or ""
        value = parameter.value("ParameterValue") or ""
        if not key or len(key) > _VALUE_MAX or len(value) > _VALUE_MAX:
            raise _bad("Invalid value", f"JobParameter: name and value of 1 to {_VALUE_MAX} characters expected")
        if key in parameters:
            raise _bad("Invalid value", f"JobParameter {_shown(key)}: more than once")
        parameters[key] = value
        if len(parameters) > _PARAMETERS_MAX:
            raise _bad("Invalid value", f"JobParameters: more than {_PARAMETERS_MAX}")
    return JobRequest(operation, group, MappingProxyType(parameters))


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise _invalid(name, value, "true or false")
    return value.lower() == "true"


def power_command(request: JobRequest, name: str) -> Parsed[PowerOn | PowerOff]:
    """Return the platform's command for a PowerOn or PowerOff of the partition ``name``.

    ``osshutdown`` asks the guest and leaves it running if it does not end; ``shutdown`` asks it and ends it; with
    ``immediate`` it is ended unasked, as ``dumprestart`` does it, which starts it again.
    """
    if request.operation == "PowerOn":
        return Parsed(PowerOn(name=name), tuple(request.parameters)[:IGNORED_MAX])
    if request.operation != "PowerOff":
        raise RequestError(404, "Unknown operation", f"{_shown(request.operation)}, expected PowerOn or PowerOff")
    given = dict(request.parameters)
    operation = given.pop("operation", "shutdown")
    immediate = _flag("immediate", given.pop("immediate", "false"))
    restart = _flag("restart", given.pop("restart", "false"))
    if operation == "osshutdown":
        mode = PowerOff.Mode.GUEST
    elif operation == "dumprestart":
        mode, restart = PowerOff.Mode.IMMEDIATE, True
    elif operation == "shutdown":
        mode = PowerOff.Mode.IMMEDIATE if immediate else PowerOff.Mode.NORMAL
    else:
        raise _invalid("operation", operation, "shutdown, osshutdown or dumprestart")
    return Parsed(PowerOff(name=name, mode=mode, restart=restart), tuple(given)[:IGNORED_MAX])


def _path_of(href: str) -> str:
    """Return the path of a link, as it is compared: without host, query, and percent signs."""
    return unquote(urlsplit(href).path)


class _Fields:
    """The values of a document by path (``A/B``), and which of them were asked for."""

    def __init__(self, root: Element) -> None:
        self._values: dict[str, list[str]] = {}
        self._foreign: list[str] = []
        self._used: set[str] = set()
        self._collect(root, "")

    def _collect(self, element: Element, path: str) -> None:
        below = f"{path}/" if path else ""
        for child in element.children:
            if child.name == "Metadata":
                continue
            name = f"{below}{child.name}"
            if "href" in child.attributes:
                try:
                    value = _path_of(child.attributes["href"])
                except ValueError:
                    raise _invalid(name, child.attributes["href"], "a link to a resource") from None
                self._values.setdefault(name, []).append(value)
            elif child.namespace not in (UOM_NS, ATOM_NS):
                self._foreign.append(name)
            elif child.children:
                self._collect(child, name)
            else:
                self._values.setdefault(name, []).append(child.text.strip())

    def get(self, path: str) -> str | None:
        """Return the value at a path, None if there is none; more than one is an error."""
        self._used.add(path)
        values = self._values.get(path)
        if values is None:
            return None
        if len(values) > 1:
            raise _bad("Invalid value", f"{path}: given {len(values)} times")
        return values[0]

    def all(self, path: str) -> tuple[str, ...]:
        return tuple(self._values.get(path, ()))

    def paths(self) -> Iterable[str]:
        return self._values

    def unused(self) -> tuple[str, ...]:
        """Return the paths that nobody asked for."""
        return (*(path for path in self._values if path not in self._used), *self._foreign)


def _plain(value: str) -> str:
    return value.lower() if value.lower() in ("true", "false") else value


def _same(one: str, other: str) -> bool:
    if _plain(one) == _plain(other):
        return True
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


def _all_same(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return len(some) == len(others) and all(_same(a, b) for a, b in zip(sorted(some), sorted(others), strict=True))


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


def _label(name: str, value: str) -> str:
    try:
        return check_label(value)
    except ValueError as error:
        raise _invalid(name, value, str(error)) from None


def _number(name: str, value: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise _invalid(name, value, f"a number from {low} to {high}")
    return int(value)


def _hundredths(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,2}0*)?", value) or len(value) > _SHOWN_MAX:
        raise _invalid(name, value, "a number such as 0.5, with at most two decimals")
    return int(Decimal(value) * 100)


def _mib(name: str, value: str) -> int:
    return _number(name, value, 1, 1 << 26) * _MIB


def _shared_pool(fields: _Fields) -> None:
    path = f"{_SHARED}/SharedProcessorPoolID"
    pool = fields.get(path)
    if pool is not None and not _same(pool, "0"):
        raise _invalid(path, pool, "0, the only pool")


def _processors(fields: _Fields, now: Processors | None) -> Processors | None:
    """Return the processors that the document asks for, on top of those of now; None if it says nothing of them."""
    values = {path: fields.get(path) for path in sorted(_SETTABLE) if path.startswith(_P)}
    _shared_pool(fields)
    if all(value is None for value in values.values()):
        return None
    flag = values[f"{_P}/HasDedicatedProcessors"]
    here = f"{_P}/HasDedicatedProcessors"
    dedicated = (now is not None and now.dedicated) if flag is None else _flag(here, flag)
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
            number = _number(path, value, 0, 255)
        elif dedicated:
            number = _number(path, value, 1, 256) * 100
        elif key.endswith("units"):
            number = _hundredths(path, value)
        else:
            number = _number(path, value, 1, 256)
        setattr(wanted, key, number)
    if not wanted.units:
        raise _bad("Missing field", f"{place}/{table[0][1]}: nothing, expected a number")
    if dedicated:
        wanted.virtual, wanted.min_virtual, wanted.max_virtual = (
            (n or wanted.units) // 100 for n in (wanted.units, wanted.min_units, wanted.max_units)
        )
    elif not wanted.virtual:
        raise _bad("Missing field", f"{_SHARED}/DesiredVirtualProcessors: nothing, expected a number")
    _sharing(wanted, values[f"{_P}/SharingMode"], dedicated)
    _ordered(wanted, place)
    return wanted


def _sharing(wanted: Processors, mode: str | None, dedicated: bool) -> None:
    if mode is None:
        return
    if dedicated:
        # Whom idle processors are lent to makes no difference in a lab.
        if mode not in _DEDICATED_MODES:
            raise _invalid(f"{_P}/SharingMode", mode, "one of " + ", ".join(sorted(_DEDICATED_MODES)))
    elif mode in _CAPPING:
        wanted.uncapped = _CAPPING[mode]
    else:
        raise _invalid(f"{_P}/SharingMode", mode, "capped or uncapped")


def _ordered(wanted: Processors, place: str) -> None:
    for least, value, most in (
        (wanted.min_units, wanted.units, wanted.max_units),
        (wanted.min_virtual, wanted.virtual, wanted.max_virtual),
    ):
        if not (least or value) <= value <= (most or value):
            raise _bad("Invalid value", f"{place}: expected minimum <= desired <= maximum")


def _memory(fields: _Fields, wanted: frozenset[str] = _SETTABLE) -> dict[str, int]:
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
    root = _document(data, UOM_NS, LOGICAL_PARTITION)
    fields = _Fields(root)
    label = fields.get(_NAME)
    if label is None:
        raise _bad("Missing field", f"{_NAME}: nothing, expected the name of the partition")
    command = CreatePartition(label=_label(_NAME, label))
    if any(label_of(p) == command.label for p in view.partitions):
        raise RequestError(409, "Already exists", f"{_NAME}: there is a partition {_shown(label)}")
    memory = _memory(fields)
    if "memory_bytes" not in memory:
        raise _bad("Missing field", f"{_M}/DesiredMemory: nothing, expected a number of MiB")
    for key, number in memory.items():
        setattr(command, key, number)
    processors = _processors(fields, None)
    if processors is not None:
        command.processors.CopyFrom(processors)
    lpar_id = fields.get("PartitionID")
    if lpar_id is not None:
        command.lpar_id = _number("PartitionID", lpar_id, 1, 0xFFFF)
    command.type = _type(fields.get("PartitionType"))
    uuid = fields.get("PartitionUUID") or root.value("Metadata", "Atom", "AtomID")
    if uuid:
        if not re.fullmatch(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", uuid):
            raise _invalid("PartitionUUID", uuid, "a UUID")
        command.uuid = uuid.lower()
    likely = Partition(label=command.label, memory_bytes=command.memory_bytes, processors=command.processors)
    return Parsed(command, _without_effect(fields, _Fields(logical_partition(view, likely).content)))


def _type(value: str | None) -> str:
    if value is None:
        return "aix-linux"
    for kind, name in TYPES.items():
        if value == name:
            return kind
    raise _invalid("PartitionType", value, " or ".join(TYPES.values()))


def _differences(given: _Fields, served: _Fields) -> list[str]:
    """Return the paths that both documents have and that differ."""
    return [path for path in given.paths() if served.all(path) and not _all_same(given.all(path), served.all(path))]


def _refuse_read_only(changed: Iterable[str], given: _Fields, served: _Fields, settable: frozenset[str]) -> None:
    for path in changed:
        if path not in settable:
            here, there = " ".join(served.all(path)), " ".join(given.all(path))
            raise _bad("Read-only field", f"{path}: {_shown(there)}, but it is {_shown(here)} and cannot be changed")


def _unknown(given: _Fields, served: _Fields, settable: frozenset[str]) -> tuple[str, ...]:
    unknown = (path for path in given.unused() if not served.all(path) and path not in settable)
    return tuple(islice(unknown, IGNORED_MAX))


def _without_effect(given: _Fields, served: _Fields) -> tuple[str, ...]:
    """Return the paths that nobody asked for, and that the object's document will not say like that."""
    lost = (path for path in given.unused() if not _all_same(given.all(path), served.all(path)))
    return tuple(islice(lost, IGNORED_MAX))


def modify_partition(data: bytes, view: View, partition: Partition) -> Parsed[ModifyPartition | None]:
    """Return the command for a POST of a LogicalPartition; None if the document changes nothing.

    The command is meant for the revision of ``partition``.
    """
    given = _Fields(_document(data, UOM_NS, LOGICAL_PARTITION))
    served = _Fields(logical_partition(view, partition).content)
    changed = _differences(given, served)
    _refuse_read_only(changed, given, served, _SETTABLE)
    command = ModifyPartition(name=partition.name, if_revision=partition.revision)
    if _NAME in changed:
        label = given.get(_NAME) or ""
        command.label = _label(_NAME, label)
        if any(label_of(p) == label and p.name != partition.name for p in view.partitions):
            raise RequestError(409, "Already exists", f"{_NAME}: there is a partition {_shown(label)}")
    for key, number in _memory(given, frozenset(changed)).items():
        setattr(command, key, number)
    flag = given.get(f"{_P}/HasDedicatedProcessors")
    other = flag is not None and _flag(f"{_P}/HasDedicatedProcessors", flag) != partition.processors.dedicated
    if other or any(path.startswith(_P) for path in changed):
        processors = _processors(given, partition.processors)
        if processors is not None and processors != partition.processors:
            command.processors.CopyFrom(processors)
    ignored = _unknown(given, served, _SETTABLE)
    empty = ModifyPartition(name=partition.name, if_revision=partition.revision)
    return Parsed(None if command == empty else command, ignored)


_SWITCH_LINK: Final = "AssociatedVirtualSwitch/link"
_ADAPTER_SETTABLE: Final = frozenset({"PortVLANID", "MACAddress", _SWITCH_LINK})


def _mac(value: str) -> str:
    if not _MAC.fullmatch(value) or value.count(":") not in (0, 5):
        raise _invalid("MACAddress", value, "12 hexadecimal digits")
    digits = value.replace(":", "").lower()
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def _vlan(value: str) -> int:
    return _number("PortVLANID", value, 1, _VLAN_MAX)


def _switch(view: View, href: str) -> str:
    uuid = href.rstrip("/").rpartition("/")[2]
    switch = view.switch(uuid)
    if switch is None or f"/{VIRTUAL_SWITCH}/" not in href:
        raise _invalid("AssociatedVirtualSwitch", href, "the link of a VirtualSwitch of this system")
    return switch.name


def create_adapter(data: bytes, view: View, partition: Partition) -> Parsed[CreateAdapter]:
    """Return the command for a PUT of a ClientNetworkAdapter to the partition."""
    fields = _Fields(_document(data, UOM_NS, CLIENT_NETWORK_ADAPTER))
    command = CreateAdapter(partition=partition.name)
    slot = fields.get("VirtualSlotNumber")
    if slot is not None:
        command.slot = _number("VirtualSlotNumber", slot, _SLOT_MIN, _SLOT_MAX)
    for name in ("UseNextAvailableSlotID", "UseNextAvailableHighSlotID"):
        wanted = fields.get(name)
        if wanted is None or not _flag(name, wanted):
            continue
        if slot is not None:
            raise _bad("Invalid value", f"{name}: true, but there is a VirtualSlotNumber")
        if name == "UseNextAvailableHighSlotID":
            above = max((a.slot for a in partition.adapters), default=_SLOT_MIN - 1) + 1
            command.slot = above if above <= _SLOT_MAX else 0
    mac = fields.get("MACAddress")
    if mac:
        command.mac = _mac(mac)
    vlan = fields.get("PortVLANID")
    if vlan is not None:
        command.vlan = _vlan(vlan)
    link = fields.get(_SWITCH_LINK)
    if link is None:
        link = fields.get("AssociatedVirtualSwitch")
    if link:
        command.switch = _switch(view, link)
    tagged = fields.get("TaggedVLANIDs")
    if tagged:
        raise _invalid("TaggedVLANIDs", tagged, "none: adapters of a lab carry one VLAN")
    if fields.get("TrunkPriority") is not None:
        raise _bad("Not supported", "TrunkPriority: adapters of a lab are no trunks")
    supported = fields.get("TaggedVLANSupported")
    if supported is not None:
        _flag("TaggedVLANSupported", supported)
    return Parsed(command, fields.unused()[:IGNORED_MAX])


def modify_adapter(data: bytes, view: View, partition: Partition, adapter: Adapter) -> Parsed[ModifyAdapter | None]:
    """Return the command for a POST of a ClientNetworkAdapter; None if the document changes nothing."""
    given = _Fields(_document(data, UOM_NS, CLIENT_NETWORK_ADAPTER))
    served = _Fields(client_network_adapter(view, partition, adapter).content)
    changed = _differences(given, served)
    _refuse_read_only(changed, given, served, _ADAPTER_SETTABLE)
    command = ModifyAdapter(partition=partition.name, slot=adapter.slot, if_revision=adapter.revision)
    empty = ModifyAdapter(partition=partition.name, slot=adapter.slot, if_revision=adapter.revision)
    mac, vlan, link = (given.get(name) for name in ("MACAddress", "PortVLANID", _SWITCH_LINK))
    if mac is not None and "MACAddress" in changed and _mac(mac) != adapter.mac.lower():
        command.mac = _mac(mac)
    if vlan is not None and "PortVLANID" in changed:
        command.vlan = _vlan(vlan)
    if link is not None and _SWITCH_LINK in changed and _switch(view, link) != adapter.switch:
        command.switch = _switch(view, link)
    return Parsed(None if command == empty else command, _unknown(given, served, _ADAPTER_SETTABLE))


def create_switch(data: bytes, view: View) -> Parsed[CreateSwitch]:
    """Return the command for a PUT of a VirtualSwitch."""
    fields = _Fields(_document(data, UOM_NS, VIRTUAL_SWITCH))
    label = fields.get("SwitchName")
    if label is None:
        raise _bad("Missing field", "SwitchName: nothing, expected the name of the switch")
    mode = fields.get("SwitchMode")
    if mode is not None and mode.lower() != "veb":
        raise _invalid("SwitchMode", mode, "Veb")
    if any(label_of(s) == label for s in view.switches):
        raise RequestError(409, "Already exists", f"SwitchName: there is a switch {_shown(label)}")
    return Parsed(CreateSwitch(label=_label("SwitchName", label)), fields.unused()[:IGNORED_MAX])
