"""What a client that makes or changes adapters and switches sends, as commands of the platform."""

from __future__ import annotations

import re
from typing import Final

from pvnet.novalink.errors import RequestError
from pvnet.novalink.names import CLIENT_NETWORK_ADAPTER, UOM_NS, VIRTUAL_SWITCH, label_of
from pvnet.novalink.network_documents import client_network_adapter
from pvnet.novalink.request_body import (
    IGNORED_MAX,
    Fields,
    Parsed,
    bad_request,
    differences,
    invalid,
    read_document,
    read_flag,
    read_label,
    read_number,
    refuse_read_only,
    shown,
    unknown_paths,
)
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Adapter, CreateAdapter, CreateSwitch, ModifyAdapter, Partition

_MAC: Final = re.compile(r"(?:[0-9A-F]{2}:?){5}[0-9A-F]{2}", re.IGNORECASE)
_VLAN_MAX: Final = 4094
_SLOT_MIN: Final = 2
_SLOT_MAX: Final = 65535
_SWITCH_LINK: Final = "AssociatedVirtualSwitch/link"
_ADAPTER_SETTABLE: Final = frozenset({"PortVLANID", "MACAddress", _SWITCH_LINK})


def _mac(value: str) -> str:
    if not _MAC.fullmatch(value) or value.count(":") not in (0, 5):
        raise invalid("MACAddress", value, "12 hexadecimal digits")
    digits = value.replace(":", "").lower()
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def _vlan(value: str) -> int:
    return read_number("PortVLANID", value, 1, _VLAN_MAX)


def _switch(view: View, href: str) -> str:
    uuid = href.rstrip("/").rpartition("/")[2]
    switch = view.switch(uuid)
    if switch is None or f"/{VIRTUAL_SWITCH}/" not in href:
        raise invalid("AssociatedVirtualSwitch", href, "the link of a VirtualSwitch of this system")
    return switch.name


def create_adapter(data: bytes, view: View, partition: Partition) -> Parsed[CreateAdapter]:
    """Return the command for a PUT of a ClientNetworkAdapter to the partition."""
    fields = Fields(read_document(data, UOM_NS, CLIENT_NETWORK_ADAPTER))
    command = CreateAdapter(partition=partition.name)
    slot = fields.get("VirtualSlotNumber")
    if slot is not None:
        command.slot = read_number("VirtualSlotNumber", slot, _SLOT_MIN, _SLOT_MAX)
    for name in ("UseNextAvailableSlotID", "UseNextAvailableHighSlotID"):
        wanted = fields.get(name)
        if wanted is None or not read_flag(name, wanted):
            continue
        if slot is not None:
            raise bad_request("Invalid value", f"{name}: true, but there is a VirtualSlotNumber")
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
        raise invalid("TaggedVLANIDs", tagged, "none: adapters of a lab carry one VLAN")
    if fields.get("TrunkPriority") is not None:
        raise bad_request("Not supported", "TrunkPriority: adapters of a lab are no trunks")
    supported = fields.get("TaggedVLANSupported")
    if supported is not None:
        read_flag("TaggedVLANSupported", supported)
    return Parsed(command, fields.unused()[:IGNORED_MAX])


def modify_adapter(data: bytes, view: View, partition: Partition, adapter: Adapter) -> Parsed[ModifyAdapter | None]:
    """Return the command for a POST of a ClientNetworkAdapter; None if the document changes nothing."""
    given = Fields(read_document(data, UOM_NS, CLIENT_NETWORK_ADAPTER))
    served = Fields(client_network_adapter(view, partition, adapter).content)
    changed = differences(given, served)
    refuse_read_only(changed, given, served, _ADAPTER_SETTABLE)
    command = ModifyAdapter(partition=partition.name, slot=adapter.slot, if_revision=adapter.revision)
    empty = ModifyAdapter(partition=partition.name, slot=adapter.slot, if_revision=adapter.revision)
    mac, vlan, link = (given.get(name) for name in ("MACAddress", "PortVLANID", _SWITCH_LINK))
    if mac is not None and "MACAddress" in changed and _mac(mac) != adapter.mac.lower():
        command.mac = _mac(mac)
    if vlan is not None and "PortVLANID" in changed:
        command.vlan = _vlan(vlan)
    if link is not None and _SWITCH_LINK in changed and _switch(view, link) != adapter.switch:
        command.switch = _switch(view, link)
    return Parsed(None if command == empty else command, unknown_paths(given, served, _ADAPTER_SETTABLE))


def create_switch(data: bytes, view: View) -> Parsed[CreateSwitch]:
    """Return the command for a PUT of a VirtualSwitch."""
    fields = Fields(read_document(data, UOM_NS, VIRTUAL_SWITCH))
    label = fields.get("SwitchName")
    if label is None:
        raise bad_request("Missing field", "SwitchName: nothing, expected the name of the switch")
    mode = fields.get("SwitchMode")
    if mode is not None and mode.lower() != "veb":
        raise invalid("SwitchMode", mode, "Veb")
    if any(label_of(s) == label for s in view.switches):
        raise RequestError(409, "Already exists", f"SwitchName: there is a switch {shown(label)}")
    return Parsed(CreateSwitch(label=read_label("SwitchName", label)), fields.unused()[:IGNORED_MAX])
