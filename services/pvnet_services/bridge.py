"""The node ``bridge``: the vbus host of a lab, with the switches that join its virtual Ethernets.

It is a process of its own and not a part of the hypervisor, as with vhost-user: a packet between two partitions takes
two hops and not four, and what goes wrong in a network does not stop hypervisor calls.

Buses, devices and switches come from the topology, which the supervisor may replace at any time (``UseTopology``); what
administrators change in a running lab lasts as long as this process.  When it restarts, the partitions attach anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.papr.errno import EEXIST, EINVAL, ENOENT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply, SwitchAdmin, VbusAdmin
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.snoop import split_snoop
from pvnet.runtime.topology import SUPERVISOR, Topology
from pvnet.runtime.topology_wire import unpacked
from pvnet.vbus.errors import DeviceFailedError, VbusError, told
from pvnet.vbus.packet import Packet
from pvnet.vbus.switch import VLAN_DEFAULT, VLAN_MAX
from pvnet.vbus.venet_south import VenetDevice
from pvnet_services.attach_snoop import snooping_opener
from pvnet_services.bridge_plans import DevicePlan, Difference, difference, network_plan
from pvnet_services.frame_contents import SwitchContents
from pvnet_services.note_limit import NoteLimit
from pvnet_services.switch_ports import SwitchPorts
from pvnet_services.switches import HostedSwitch, Switches
from pvnet_services.vbus_host import VbusHost, load_classes

_SWITCH = "switch"
"""Attribute of a venet that says where it is plugged in; ours, not the device's."""
_VLAN = "vlan"
"""Its VLAN there; ours as well."""


class BridgeNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        self.endpoint = endpoint
        self._topology = config.topology
        self._plan = network_plan(config.topology)
        self._changing = asyncio.Lock()
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
        await self.switches.open_configured()
        for plan in self._plan.devices.values():
            self._make(plan)
            self._attach(plan)
        for name in self._plan.partitions:
            self.endpoint.watch(name)
        buses = len(self.host.registry.shown()["buses"])  # type: ignore[arg-type]
        self.endpoint.ready(f"{buses} buses, {len(self._topology.switches)} switches")

    async def stop(self) -> None:
        """Leave."""
        self.host.close()
        await self.switches.close()
        await self.endpoint.stop()

    # --- devices -----------------------------------------------------------------------------------------------------

    def _device_create(self, device_class: str, name: str, attributes: Mapping[str, str]) -> None:
        """Make a device; a venet is plugged into its switch, the only one if it names none."""
        given = dict(attributes)
        vlan = VLAN_DEFAULT
        made_by = self.host.registry.classes.get(device_class)
        is_venet = made_by is not None and made_by.type == VenetDevice.type
        hosted = None
        if is_venet:
            wanted = given.pop(_SWITCH, self.switches.only())
            vlan = _vlan(given.pop(_VLAN, str(VLAN_DEFAULT)))
            if wanted:
                hosted = self.switches.switch(wanted)
                given.setdefault("mtu", str(hosted.config.mtu))
        device = self.host.registry.device_create(device_class, name, given)
        if hosted is not None and isinstance(device, VenetDevice):
            self._plug(device, hosted, vlan)

    def _plug(self, device: VenetDevice, hosted: HostedSwitch, vlan: int) -> None:
        hosted.plug_venet(device, vlan)
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

    # --- what the topology wants -------------------------------------------------------------------------------------

    def _make(self, plan: DevicePlan) -> None:
        """Make a device; it is on no bus yet.

        Raises:
            ConfigError: it cannot be made.
        """
        attributes = dict(plan.attributes)
        if plan.switch:
            attributes |= {_SWITCH: plan.switch, _VLAN: str(plan.vlan)}
        try:
            self._device_create(plan.device_class, plan.name, attributes)
        except ConfigError:
            raise
        except PvnetError as error:  # devices of third parties raise of the tree what they like
            raise ConfigError(f"partition {plan.partition}: {error}") from None

    def _attach(self, plan: DevicePlan) -> None:
        """Put a device on the bus of its partition, which gets one if it has none."""
        registry, name = self.host.registry, plan.partition
        if not registry.has_bus(name):
            registry.bus_create(name)
        registry.attach(plan.name, name)
        if not registry.is_member(name):
            registry.join(name, name)
            if self.endpoint.link.peer_incarnation(name):
                self.host.invite(name)

    def _take_away(self, plan: DevicePlan) -> None:
        """Remove a device, unless an administrator has: whoever uses it loses it."""
        with contextlib.suppress(VbusError):
            self.host.registry.detach(plan.name, force=True)
        try:
            self._device_remove(plan.name)
        except DeviceFailedError as error:  # it is gone all the same
            self.endpoint.note(Note("device_failed", (("reason", str(error)),), "warning"))
        except VbusError as error:
            if error.errno != ENOENT:
                raise

    def _replug(self, plan: DevicePlan) -> None:
        """Put the cable of a venet into another switch, or another VLAN; whoever uses it goes on."""
        with contextlib.suppress(VbusError):  # an administrator has removed it
            device = self.host.registry.device(plan.name)
            if isinstance(device, VenetDevice):
                self.switches.unplug_venet(device)
                self._plug(device, self.switches.switch(plan.switch), plan.vlan)

    def _end_bus(self, partition: str) -> None:
        """A partition is no more: it leaves its bus, which goes if nothing else is there."""
        registry = self.host.registry
        if registry.is_member(partition):
            registry.leave(partition)
        with contextlib.suppress(VbusError):  # devices or members of an administrator's
            registry.bus_remove(partition)
        self.endpoint.forget(partition)

    def _check(self, todo: Difference) -> None:
        """Refuse what cannot be done because of what administrators have made."""
        registry = self.host.registry
        going = {each.name for each in todo.remove}
        for each in todo.add:
            if each.name not in going and registry.has_device(each.name):
                raise ConfigError(f"partition {each.partition}: there is a device {each.name} already")
            if each.device_class not in registry.classes:
                raise ConfigError(f"partition {each.partition}: there is no device class {each.device_class!r}")
        unplugged = going | {each.name for each in todo.replug}
        for name in todo.remove_switches:
            hosted = self.switches.switch(name)
            own = set(hosted.opened) - {split_snoop(port)[0] for port in hosted.config.ports}
            left = sorted(own | (hosted.venets - unplugged))
            if left:
                raise ConfigError(f"switch {name} is in use: {', '.join(left)}")

    async def _use_topology(self, envelope: Envelope) -> None:
        """Take a new topology; one that cannot be changes nothing."""
        async with self._changing:
            try:
                topology = unpacked(envelope.management.use_topology.topology, self._topology.broker)
                await self._change_to(topology)
            except PvnetError as error:
                reply = ManagementReply(status=ManagementReply.FAILED, text=str(error))
            else:
                reply = ManagementReply()
        self._answer(envelope, reply)

    async def _change_to(self, topology: Topology) -> None:
        plan = network_plan(topology)
        todo = difference(self._plan, plan)
        self._check(todo)
        added: list[str] = []
        made: list[DevicePlan] = []
        going = {each.name for each in todo.remove}
        try:
            for config in todo.add_switches:
                await self.switches.add(config)
                added.append(config.name)
            self._check(todo)  # an administrator may have been quicker
            for each in todo.add:
                if each.name not in going:
                    self._make(each)
                    made.append(each)
        except BaseException:
            for each in made:
                self._take_away(each)
            for name in added:
                await self.switches.remove(name)
            raise
        # From here on nothing waits, and nothing is refused.
        for each in todo.remove:
            self._take_away(each)
        for each in todo.replug:
            self._replug(each)
        for each in todo.add:
            if each.name in going:
                self._make(each)
            self._attach(each)
        for name in set(self._plan.partitions) - set(plan.partitions):
            self._end_bus(name)
        for name in plan.partitions:
            self.endpoint.watch(name)
        for name, config in plan.switches.items():
            self.switches.switch(name).config = config
        self._topology, self._plan = topology, plan
        for name in todo.remove_switches:
            await self.switches.remove(name)

    # --- management --------------------------------------------------------------------------------------------------

    def _management(self, envelope: Envelope) -> None:
        command = envelope.management
        kind = command.WhichOneof("command")
        if kind == "switch" and command.switch.verb != SwitchAdmin.SHOW:
            self.endpoint.spawn(self._change_port(envelope), "port")
            return
        if kind == "use_topology" and envelope.source == SUPERVISOR:
            self.endpoint.spawn(self._use_topology(envelope), "topology")
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


def _vlan(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= VLAN_MAX:
        raise VbusError(EINVAL, f"vlan = {text[:20]!r}: expected 1 to {VLAN_MAX}")
    return int(text)


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
