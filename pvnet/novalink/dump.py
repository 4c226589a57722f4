"""A topology file made of what an endpoint says of itself: system, partitions, adapters, switches, persistent memory.

Pure: documents in, text out.  What REST tells is written out, with numbers and UUIDs, so that the lab that is started
from the file shows its clients the same; what it does not tell (how the devices work, where blocks are kept) is a lab's
default, or a guess with a comment that says so, as is what a lab cannot have.
"""

from __future__ import annotations

import ipaddress
import json
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from pvnet.core.errors import RefusedError
from pvnet.core.names import RESERVED_NAMES
from pvnet.novalink.markup import Element
from pvnet.novalink.names import TYPES
from pvnet.runtime.topology import BRIDGE, BROKER, HYPERVISOR, SUPERVISOR
from pvnet.runtime.topology_file import TopologyError, parse_topology
from pvnet.runtime.topology_net_check import LINK_PREFIX
from pvnet.runtime.topology_system import LABEL_MAX

_NAME_MAX: Final = 32
_MEMORY_MAX_MIB: Final = 64 << 10
_MEMORY_MIN_MIB: Final = 2
_SYSTEM_MAX_MIB: Final = 64 << 20
_BLOCK_MAX_MIB: Final = 256
_NOVALINK: Final = "novalink"
_ON: Final = frozenset({"running", "starting", "open firmware", "shutting down"})
_KINDS: Final = {word: kind for kind, word in TYPES.items()}
_VOLUME: Final = re.compile(r"^(nvdimm|spapr-nvdimm)-([0-9a-f]{1,8})$")
_ASSUMED_PREFIXES: Final = (24, 16, 8)


@dataclass(frozen=True, slots=True)
class FoundPartition:
    """A LogicalPartition and what stands below it."""

    content: Element
    adapters: tuple[Element, ...] = ()
    volumes: tuple[Element, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What was read: the contents of entries."""

    mode: Literal["pvm", "hmc"]
    system: Element
    partitions: tuple[FoundPartition, ...] = ()
    switches: tuple[Element, ...] = ()
    servers: tuple[Element, ...] = ()
    """VirtualIOServers."""

    @property
    def name(self) -> str:
        """Name of the system."""
        return self.system.value("SystemName") or "system"


@dataclass(frozen=True, slots=True)
class Options:
    """What the file says beside what was read."""

    source: str
    port: int | None = None
    """Of HTTPS; None: NovaLink's."""
    http_port: int | None = None
    """Of HTTP; None: NovaLink's."""


def topology_text(found: Found, options: Options) -> str:
    """Return the topology as TOML.

    Raises:
        RefusedError: what the endpoint says makes no topology: the text says which value.
    """
    text = "\n".join(_Writer(found, options).lines()) + "\n"
    try:
        parse_topology(text, options.source)
    except TopologyError as error:
        raise RefusedError(f"what the endpoint says makes no topology: {error}") from None
    return text


def slug(label: str, taken: Collection[str] = (), default: str = "lpar") -> str:
    """Return a node name made of a label, not one of ``taken``."""
    base = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-")[:_NAME_MAX].rstrip("-") or default
    if base.startswith(LINK_PREFIX) or base in RESERVED_NAMES:
        base = f"{default}-{base}"[:_NAME_MAX]
    name, number = base, 2
    while name in taken:
        name = f"{base[: _NAME_MAX - len(str(number)) - 1]}-{number}"
        number += 1
    return name


@dataclass(slots=True)
class _Seen:
    """What may be there only once."""

    macs: set[str] = field(default_factory=set)
    addresses: set[tuple[str, str]] = field(default_factory=set)


class _Writer:
    def __init__(self, found: Found, options: Options) -> None:
        self._found = found
        self._options = options
        self._seen = _Seen()
        self._switches = self._name_switches()

    def _name_switches(self) -> dict[str, str]:
        """Switch names by UUID."""
        names: dict[str, str] = {}
        for switch in self._found.switches:
            label = switch.value("SwitchName") or ""
            names[_atom_id(switch)] = slug(label, names.values(), "net")
        return names

    def lines(self) -> Iterator[str]:
        found = self._found
        yield f"# Read from {_one_line(self._options.source)} by `pvnet novalink dump`."
        yield "[lab]"
        yield f"name = {_text(slug(found.name, default='lab'))}"
        yield ""
        yield from self._system()
        names: set[str] = {HYPERVISOR, SUPERVISOR, BROKER, BRIDGE, _NOVALINK}
        kept = [p for p in found.partitions if p.content.value("PartitionType") != "Virtual IO Server"]
        servers = [*found.servers, *(p.content for p in found.partitions if p not in kept)]
        labels = dict.fromkeys(_one_line(server.value("PartitionName") or "?") for server in servers)
        if labels:
            yield ""
            yield f"# Left out, because a lab has no Virtual IO Servers: {', '.join(labels)}"
        for partition in kept:
            label = partition.content.value("PartitionName") or ""
            name = slug(label, names)
            names.add(name)
            yield ""
            yield from self._partition(partition, name, label)
        if not any(p.content.value("IsManagementPartition") == "true" for p in kept):
            yield ""
            yield "# Not there, but the service reaches the hypervisor through one."
            yield "[[partition]]"
            yield f"name = {_text(slug('pvnet-mp', names))}"
            yield "management = true"
        for switch in found.switches:
            yield ""
            yield from self._switch(switch)
        yield ""
        yield "[novalink]"
        yield f"mode = {_text(found.mode)}"
        if self._options.port is not None:
            yield f"port = {self._options.port}"
        if self._options.http_port is not None:
            yield f"http_port = {self._options.http_port}"

    def _system(self) -> Iterator[str]:
        system = self._found.system
        machine = "MachineTypeModelAndSerialNumber"
        memory = "AssociatedSystemMemoryConfiguration"
        processors = "AssociatedSystemProcessorConfiguration"
        yield "[system]"
        yield from _label("name", self._found.name)
        yield from _uuid_line(_atom_id(system))
        for key, name in (("machine_type", "MachineType"), ("model", "Model"), ("serial", "SerialNumber")):
            value = system.value(machine, name)
            if value:
                yield f"{key} = {_text(value)}"
        installed = _whole(system.value(memory, "InstalledSystemMemory"))
        if installed:
            yield from _mebibytes("memory", installed, 16, _SYSTEM_MAX_MIB)
        region = _whole(system.value(memory, "MemoryRegionSize"))
        if region:
            yield f'memory_region = "{region}MiB"'
        units = _number(system.value(processors, "InstalledSystemProcessorUnits"))
        if units:
            yield f"processors = {units}"

    def _partition(self, found: FoundPartition, name: str, label: str) -> Iterator[str]:
        content = found.content
        management = content.value("IsManagementPartition") == "true"
        yield "[[partition]]"
        yield f"name = {_text(name)}"
        if label != name:
            yield from _label("label", label)
        lpar_id = _whole(content.value("PartitionID"))
        if lpar_id:
            yield f"lpar_id = {lpar_id}"
        yield from _uuid_line(_atom_id(content))
        word = content.value("PartitionType") or ""
        kind = _KINDS.get(word)
        if kind is None:
            yield f"# type {_one_line(word)!r} is shown as the default"
        else:
            yield f"type = {_text(kind)}"
        if management:
            yield "management = true"
        else:
            yield f"autostart = {_flag(content.value('PartitionState') in _ON)}"
        for key, field_name in (("memory", "Desired"), ("min_memory", "Minimum"), ("max_memory", "Maximum")):
            size = _whole(content.value("PartitionMemoryConfiguration", f"{field_name}Memory"))
            if size:
                yield from _mebibytes(key, size, _MEMORY_MIN_MIB, _MEMORY_MAX_MIB)
        yield from _processors(content)
        for adapter in found.adapters:
            yield ""
            yield from self._adapter(adapter)
        for volume in found.volumes:
            yield ""
            yield from _volume(volume)

    def _adapter(self, adapter: Element) -> Iterator[str]:
        switch = self._switches.get(_linked(adapter, "AssociatedVirtualSwitch"))
        where = f"slot {adapter.value('VirtualSlotNumber')}, MAC {adapter.value('MACAddress')}"
        if switch is None:
            yield f"# Left out, because it is at no virtual switch: adapter of {_one_line(where)}"
            return
        yield "[[partition.venet]]"
        yield f"switch = {_text(switch)}"
        slot = _whole(adapter.value("VirtualSlotNumber"))
        if slot is not None:
            yield f"slot = {slot}"
        digits = (adapter.value("MACAddress") or "").replace(":", "").lower()
        mac = ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))
        if mac in self._seen.macs:
            yield f"# mac {_one_line(mac)} is there twice"
        elif mac:
            self._seen.macs.add(mac)
            yield f"mac = {_text(mac)}"
        vlan = _whole(adapter.value("PortVLANID"))
        if vlan:
            yield f"vlan = {vlan}"
        tagged = adapter.value("TaggedVLANIDs")
        if tagged:
            yield f"# tagged VLANs are left out: {_one_line(tagged)}"
        yield from self._address(adapter.value("IPAddress"), switch)

    def _address(self, text: str | None, switch: str) -> Iterator[str]:
        if not text:
            return
        interface = _with_prefix(text)
        if interface is None or (switch, text) in self._seen.addresses:
            yield f"# address {_one_line(text)} cannot be had here"
            return
        self._seen.addresses.add((switch, text))
        yield f"address = {_text(str(interface))}  # the prefix length is assumed"

    def _switch(self, switch: Element) -> Iterator[str]:
        identity = _atom_id(switch)
        name = self._switches[identity]
        label = switch.value("SwitchName") or name
        yield "[[switch]]"
        yield f"name = {_text(name)}"
        if label != name:
            yield from _label("label", label)
        yield from _uuid_line(identity)
        adapters = (adapter for partition in self._found.partitions for adapter in partition.adapters)
        here = (adapter for adapter in adapters if _linked(adapter, "AssociatedVirtualSwitch") == identity)
        mtu = max((_whole(adapter.value("ConfiguredMTU")) or 0 for adapter in here), default=0)
        if mtu:
            yield f"mtu = {mtu}"


def _processors(content: Element) -> Iterator[str]:
    outer = "PartitionProcessorConfiguration"
    dedicated = content.value(outer, "HasDedicatedProcessors") == "true"
    kind = "DedicatedProcessorConfiguration" if dedicated else "SharedProcessorConfiguration"
    unit = "Processors" if dedicated else "ProcessingUnits"
    fields: list[str] = []
    for key, word in (("units", "Desired"), ("min_units", "Minimum"), ("max_units", "Maximum")):
        number = _number(content.value(outer, kind, f"{word}{unit}"))
        if number:
            fields.append(f"{key} = {number}")
    if not fields:
        return
    yield ""
    yield "[partition.processors]"
    if dedicated:
        yield "dedicated = true"
    yield from fields
    if dedicated:
        return
    for key, word in (("virtual", "Desired"), ("min_virtual", "Minimum"), ("max_virtual", "Maximum")):
        whole = _whole(content.value(outer, kind, f"{word}VirtualProcessors"))
        if whole:
            yield f"{key} = {whole}"
    yield f"uncapped = {_flag(content.value(outer, 'SharingMode') == 'uncapped')}"
    weight = _whole(content.value(outer, kind, "UncappedWeight"))
    if weight is not None:
        yield f"weight = {weight}"


def _volume(volume: Element) -> Iterator[str]:
    size = _whole(volume.value("Size"))
    name = volume.value("Name") or ""
    if not size:
        yield f"# Left out, because its size is not told: persistent memory {_one_line(name)}"
        return
    yield "[[partition.scm]]"
    yield f'size = "{size}MiB"'
    # The schema has no block size of a volume: the largest usual one that the size is a multiple of.
    yield f'block_size = "{min(size & -size, _BLOCK_MAX_MIB)}MiB"  # not told; this is a guess'
    ours = _VOLUME.fullmatch(name)
    if ours is not None:
        yield f"type = {_text(ours[1])}"
        yield f"drc = 0x{ours[2]}"


# --- values -----------------------------------------------------------------------------------------------------------


def _atom_id(content: Element) -> str:
    return (content.value("Metadata", "Atom", "AtomID") or "").lower()


def _linked(content: Element, name: str) -> str:
    """Return the UUID that the first link in a field leads to, lower case; empty if there is none."""
    outer = content.child(name)
    for element in () if outer is None else outer.walk():
        address = element.attributes.get("href", "")
        if address:
            return address.partition("?")[0].rstrip("/").rpartition("/")[2].lower()
    return ""


def _uuid_line(value: str) -> Iterable[str]:
    try:
        yield f"uuid = {_text(str(uuid.UUID(value)))}"
    except ValueError:
        yield f"# no UUID: {_one_line(value)!r}"


def _label(key: str, value: str) -> Iterator[str]:
    """Write a name for people, which a lab has a limit for."""
    shown = "".join(c if c.isprintable() else "?" for c in value).strip()
    if shown[:LABEL_MAX].strip() != value:
        yield f"# in full: {_one_line(value)}"
    yield f"{key} = {_text(shown[:LABEL_MAX].strip() or '?')}"


def _mebibytes(key: str, size: int, low: int, high: int) -> Iterator[str]:
    if not low <= size <= high:
        yield f"# {key} is {size}MiB there"
    yield f'{key} = "{min(max(size, low), high)}MiB"'


def _with_prefix(text: str) -> ipaddress.IPv4Interface | None:
    """Return an IPv4 address of a host in the smallest usual network that has it as one."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return None
    for prefix in _ASSUMED_PREFIXES:
        interface = ipaddress.IPv4Interface(f"{text}/{prefix}")
        if interface.ip not in {interface.network.network_address, interface.network.broadcast_address}:
            return interface
    return None


def _whole(text: str | None) -> int | None:
    """Return a number without fraction; None for what is none, or cannot be one."""
    number = _number(text)
    return int(number) if number is not None and number == int(number) else None


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text):
        return None
    return float(text)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _text(value: str) -> str:
    """Return a TOML string; its escapes are JSON's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _one_line(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:200]
