"""What virtual Ethernets look like as REST resources: adapters of partitions, switches, and a network per VLAN."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface

from pvnet.novalink.atom import Resource
from pvnet.novalink.content import content, etag_of, leaf, link, links
from pvnet.novalink.markup import Element
from pvnet.novalink.names import (
    CLIENT_NETWORK_ADAPTER,
    DEFAULT_VLAN,
    UOM_NS,
    VIRTUAL_NETWORK,
    VIRTUAL_SWITCH,
    adapter_path,
    adapter_uuid,
    label_of,
    network_path,
    network_uuid,
    switch_path,
)
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Adapter, Partition, Switch


def location(view: View, p: Partition, slot: int) -> str:
    """Return the location code of a virtual slot."""
    system = view.system
    return f"U{system.machine_type}.{system.model}.{system.serial}-V{p.lpar_id}-C{slot}"


def _addresses(a: Adapter) -> Iterator[Element]:
    if a.address:
        interface = IPv4Interface(a.address)
        yield leaf("IPAddress", str(interface.ip))
        yield leaf("SubnetMask", str(interface.netmask))


def client_network_adapter(view: View, p: Partition, a: Adapter) -> Resource:
    """Return a ClientNetworkAdapter."""
    uuid = adapter_uuid(p, a)
    switch = view.switch_of(a)
    code = location(view, p, a.slot)
    vlan = a.vlan or DEFAULT_VLAN
    place = () if switch is None else (switch.uuid, view.switch_id(switch))
    children = [
        leaf("DynamicReconfigurationConnectorName", code),
        leaf("LocationCode", code),
        leaf("LocalPartitionID", p.lpar_id),
        leaf("VirtualSlotNumber", a.slot),
        leaf("Enabled", True),
        leaf("MACAddress", a.mac.replace(":", "").upper()),
        leaf("PortVLANID", vlan),
        leaf("QualityOfServicePriorityEnabled", False),
        Element(UOM_NS, "TaggedVLANIDs"),
        leaf("TaggedVLANSupported", False),
    ]
    if switch is not None:
        children += [
            links("AssociatedVirtualSwitch", (switch_path(view.system, switch),)),
            leaf("VirtualSwitchID", view.switch_id(switch)),
            *_addresses(a),
            leaf("ConfiguredMTU", switch.mtu or 1500),
            links("VirtualNetworks", (network_path(view.system, switch, vlan),)),
        ]
    return Resource(
        CLIENT_NETWORK_ADAPTER,
        uuid,
        etag_of(a.revision, place),
        adapter_path(p, a),
        content(CLIENT_NETWORK_ADAPTER, uuid, *children),
        a.revision,
    )


def virtual_switch(view: View, s: Switch) -> Resource:
    """Return a VirtualSwitch."""
    uuid = s.uuid.lower()
    vlans = view.vlans(s)
    return Resource(
        VIRTUAL_SWITCH,
        uuid,
        etag_of(s.revision, view.switch_id(s), vlans),
        switch_path(view.system, s),
        content(
            VIRTUAL_SWITCH,
            uuid,
            leaf("SwitchID", view.switch_id(s)),
            leaf("SwitchMode", "Veb"),
            leaf("SwitchName", label_of(s)),
            links("VirtualNetworks", (network_path(view.system, s, vlan) for vlan in vlans)),
        ),
        s.revision,
    )


def virtual_network(view: View, s: Switch, vlan: int) -> Resource:
    """Return the VirtualNetwork of a VLAN of a switch."""
    uuid = network_uuid(s, vlan)
    return Resource(
        VIRTUAL_NETWORK,
        uuid,
        etag_of(s.revision, view.switch_id(s)),
        network_path(view.system, s, vlan),
        content(
            VIRTUAL_NETWORK,
            uuid,
            link("AssociatedSwitch", switch_path(view.system, s)),
            leaf("NetworkName", f"VLAN{vlan}-{label_of(s)}"),
            leaf("NetworkVLANID", vlan),
            leaf("VswitchID", view.switch_id(s)),
            leaf("TaggedNetwork", vlan != DEFAULT_VLAN),
        ),
        s.revision,
    )
