"""The node ``bridge``: the vbus host of a lab, with the switches that join its virtual Ethernets.

It is a process of its own and not a part of the hypervisor, as with vhost-user: a packet between two partitions takes
two hops and not four, and what goes wrong in a network does not stop hypervisor calls.

Buses, devices and switches come from the topology; what administrators change in a running lab lasts as long as this
process.  When it restarts, the partitions attach anew.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.papr.errno import EEXIST, ENOENT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply, SwitchAdmin, VbusAdmin
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.topology import Topology
from pvnet.vbus.errors import DeviceFailedError, VbusError, told
from pvnet.vbus.packet import Packet
from pvnet.vbus.venet_south import VenetDevice
from pvnet_services.attach_snoop import snooping_opener
from pvnet_services.note_limit import NoteLimit
from pvnet_services.switch_ports import SwitchPorts
from pvnet_services.switches import Switches
from pvnet_services.tap_contents import SwitchContents
from pvnet_services.vbus_host import VbusHost, load_classes

_SWITCH = "switch"
"""Attribute of a venet that says where it is plugged in; ours, not the device's."""


def venet_name(partition: str, number: int) -> str:
    """Name of the device of ``[[partition.venet]]`` number ``number``."""
    return f"{partition}-eth{number}"


class BridgeNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        self.endpoint = endpoint
        self._topology = config.topology
        self.host = VbusHost(endpoint, load_classes(self._class_failed))
        self.ports = SwitchPorts(endpoint, config.broker)
        opener = snooping_opener(self.ports.open, endpoint, config.topology)
        self.switches = Switches(config.topology, endpoint.note, opener)
        self._limit = NoteLimit(endpoint, asyncio.get_running_loop().time)
        SwitchContents(endpoint, self.switches)
        endpoint.on("management", self._management)

    def _class_failed(self, name: str, why: str) -> None:
        self.endpoint.note(Note("device_class_failed", (("class", name), ("reason", why)), "warning"))

    async def start(self) -> None:
        """Make what the topology says, then serve."""
        topology = self._topology
        await self.switches.open_configured()
        for partition in topology.partitions:
            if partition.venet or partition.devices:
                self._make_bus(topology, partition.name)
            self.endpoint.watch(partition.name)
        buses = len(self.host.registry.shown()["buses"])  # type: ignore[arg-type]
        self.endpoint.ready(f"{buses} buses, {len(topology.switches)} switches")

    def _make_bus(self, topology: Topology, name: str) -> None:
        partition = topology.partition(name)
        registry = self.host.registry
        try:
            registry.bus_create(name)
            registry.join(name, name)
            for number, venet in enumerate(partition.venet):
                mtu = self.switches.switch(venet.switch).config.mtu
                attributes = {
                    _SWITCH: venet.switch,
                    "client_mac": topology.venet_mac(partition, number),
                    "mtu": str(mtu),
                }
                self._device_create("venet", venet_name(name, number), attributes)
                registry.attach(venet_name(name, number), name)
            for device in partition.devices:
                self._device_create(device.device_class, device.name, device.attributes)
                registry.attach(device.name, name)
        except ConfigError:
            raise
        except PvnetError as error:  # devices of third parties raise of the tree what they like
            raise ConfigError(f"partition {name}: {error}") from None

    async def stop(self) -> None:
        """Leave."""
        self.host.close()
        await self.switches.close()
        await self.endpoint.stop()

    # --- devices -----------------------------------------------------------------------------------------------------

    def _device_create(self, device_class: str, name: str, attributes: Mapping[str, str]) -> None:
        """Make a device; a venet is plugged into its switch, the only one if it names none."""
        given = dict(attributes)
        made_by = self.host.registry.classes.get(device_class)
        is_venet = made_by is not None and made_by.type == VenetDevice.type
        hosted = None
        if is_venet:
            wanted = given.pop(_SWITCH, self.switches.only())
            if wanted:
                hosted = self.switches.switch(wanted)
                given.setdefault("mtu", str(hosted.config.mtu))
        device = self.host.registry.device_create(device_class, name, given)
        if hosted is not None and isinstance(device, VenetDevice):
            hosted.plug_venet(device)
            device.receive = self._blameless(device)

    def _blameless(self, device: VenetDevice) -> Callable[[list[Packet]], None]:
        """The way into the switch; a failure of the switch or of another port costs frames, not the guest that sent."""
        receive, counters = device.receive, self.endpoint.counters

        def guarded(packets: list[Packet]) -> None:
            try:
                receive(packets)
            except Exception as error:  # noqa: BLE001 - it would end the connection of the guest
                counters["switch_failed_frames"] += len(packets)
                self._limit.note(Note("switch_failed", (("from", device.name), ("reason", told(error))), "error"))

        return guarded

    def _device_remove(self, name: str) -> None:
        device = self.host.registry.device(name)
        failure: DeviceFailedError | None = None
        try:
            self.host.registry.device_remove(name)
        except DeviceFailedError as error:  # it is removed, and says so below
            failure = error
        if isinstance(device, VenetDevice):
            self.switches.unplug_venet(device)
        if failure is not None:
            raise failure

    # --- management --------------------------------------------------------------------------------------------------

    def _management(self, envelope: Envelope) -> None:
        command = envelope.management
        kind = command.WhichOneof("command")
        if kind == "switch" and command.switch.verb != SwitchAdmin.SHOW:
            self.endpoint.spawn(self._change_port(envelope), "port")
            return
        try:
            match kind:
                case "vbus":
                    shown = self._vbus(command.vbus)
                case "switch":
                    shown = self.switches.shown(command.switch.switch)
                case "show_status":
                    shown = self.status()
                case _:
                    self.endpoint.refuse(envelope, f"the vbus host does not take {kind}")
                    return
        except PvnetError as error:
            if isinstance(error, DeviceFailedError):
                self.endpoint.note(Note("device_failed", (("reason", str(error)),), "warning"))
            self._answer(envelope, _refusal(error))
            return
        self._answer(envelope, ManagementReply(status_json=json.dumps(shown)))

    def _answer(self, envelope: Envelope, reply: ManagementReply) -> None:
        self.endpoint.reply(envelope, Envelope(management_reply=reply))

    def _vbus(self, admin: VbusAdmin) -> object:
        registry = self.host.registry
        match admin.verb:
            case VbusAdmin.SHOW:
                return self._shown(admin.bus)
            case VbusAdmin.CLASSES:
                return registry.shown_classes()
            case VbusAdmin.BUS_CREATE:
                registry.bus_create(admin.bus)
            case VbusAdmin.BUS_REMOVE:
                registry.bus_remove(admin.bus)
            case VbusAdmin.DEVICE_CREATE:
                self._device_create(getattr(admin, "class"), admin.device, admin.attributes)
            case VbusAdmin.DEVICE_REMOVE:
                self._device_remove(admin.device)
            case VbusAdmin.DEVICE_ATTACH:
                registry.attach(admin.device, admin.bus)
            case VbusAdmin.DEVICE_DETACH:
                registry.detach(admin.device, force=admin.force)
            case VbusAdmin.DEVICE_SET:
                registry.set(admin.device, admin.attributes)
            case VbusAdmin.JOIN:
                self._topology.partition(admin.node)
                registry.join(admin.node, admin.bus)
                self.host.invite(admin.node)
            case VbusAdmin.LEAVE:
                registry.leave(admin.node)
            case verb:
                raise ConfigError(f"unknown vbus verb {verb}")
        return registry.shown_device(admin.device) if admin.device and admin.verb != VbusAdmin.DEVICE_REMOVE else None

    def _shown(self, bus: str) -> dict[str, Any]:
        """Everything, or one bus; of members also how they reach the host's side of their rings."""
        shown: dict[str, Any] = self.host.registry.bus(bus).shown() if bus else self.host.registry.shown()
        for each in [shown] if bus else shown["buses"]:
            for member in each["members"]:
                client = self.host.clients.get(member["name"])
                member["memory"] = None if client is None else "shared" if client.is_shared else "mirror"
        return shown

    async def _change_port(self, envelope: Envelope) -> None:
        admin = envelope.management.switch
        try:
            match admin.verb:
                case SwitchAdmin.PORT_ADD:
                    await self.switches.add_port(admin.switch, admin.port)
                case SwitchAdmin.PORT_REMOVE:
                    await self.switches.remove_port(admin.switch, admin.port)
                case verb:
                    raise ConfigError(f"unknown switch verb {verb}")
            shown = self.switches.shown(admin.switch)[0]
        except PvnetError as error:
            self._answer(envelope, _refusal(error))
        else:
            self._answer(envelope, ManagementReply(status_json=json.dumps(shown)))

    def status(self) -> dict[str, object]:
        """What ``show_status`` says."""
        return {
            "clients": [client.shown() for client in self.host.clients.values()],
            "switches": self.switches.shown(),
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }


def _refusal(error: PvnetError) -> ManagementReply:
    status = ManagementReply.FAILED
    if isinstance(error, ConfigError) or (isinstance(error, VbusError) and error.errno == ENOENT):
        status = ManagementReply.NOT_FOUND
    elif isinstance(error, VbusError) and error.errno == EEXIST:
        status = ManagementReply.CONFLICT
    return ManagementReply(status=status, text=str(error))


def main() -> int:
    """Run the process."""
    return run_service("bridge", BridgeNode)


if __name__ == "__main__":
    sys.exit(main())
