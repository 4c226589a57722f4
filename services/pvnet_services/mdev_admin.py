"""What administrators ask of an mdev host: ``MdevAdmin`` messages, one verb each (``pvnet mdev``)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.tree import Mode
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply, MdevAdmin, UseTopology
from pvnet.runtime.topology import SUPERVISOR
from pvnet.runtime.topology_mdev import check_parent_name
from pvnet.runtime.topology_wire import unpacked
from pvnet_services.mdev_runner import run_operation
from pvnet_services.mdev_shown import shown_host, shown_mdev

if TYPE_CHECKING:
    from pvnet_services.mdev_host import MdevHostNode

PATIENCE_S: Final = 5.0
"""How long users get to let go, where nobody says otherwise."""
_PATIENCE_MAX_S: Final = 600.0
_PEEK_BYTES: Final = 64 << 10
_MAY_REMOVE: Final = frozenset({MdevAdmin.REMOVE, MdevAdmin.TREE_WRITE})
_KINDS: Final = {
    Mode.DIRECTORY: ("folder", "r-x"),
    Mode.LINK: ("link", "---"),
    Mode.READ: ("file", "r--"),
    Mode.WRITE: ("file", "-w-"),
    Mode.BOTH: ("file", "rw-"),
}


class MdevAdministration:
    """Answers the management messages of one host."""

    def __init__(self, node: MdevHostNode) -> None:
        self._node = node
        node.endpoint.on("management", self._management)

    def _management(self, envelope: Envelope) -> None:
        kind = envelope.management.WhichOneof("command")
        if kind == "mdev":
            self._node.endpoint.spawn(self._administer(envelope), "mdev admin")
        elif kind == "use_topology" and envelope.source == SUPERVISOR:
            self._answer(envelope, self._use_topology(envelope.management.use_topology))
        elif kind == "show_status":
            self._answer(envelope, ManagementReply(status_json=json.dumps(self._node.status())))
        else:
            self._node.endpoint.refuse(envelope, f"an mdev host does not take {kind}")

    def _use_topology(self, command: UseTopology) -> ManagementReply:
        node = self._node
        try:
            node.use_topology(unpacked(command.topology, node.topology.broker))
        except ConfigError as error:
            return ManagementReply(status=ManagementReply.FAILED, text=str(error))
        return ManagementReply()

    async def _administer(self, envelope: Envelope) -> None:
        admin = envelope.management.mdev
        try:
            shown = await self._admin(admin)
        except PvnetError as error:
            if admin.verb in _MAY_REMOVE:  # the partition has let go for nothing
                for name in self._node.assigned:
                    self._node.offer(name)
            self._answer(envelope, _refusal(error))
            return
        finally:
            await self._node.prune()
        self._answer(envelope, ManagementReply(status_json=json.dumps(shown)))

    def _answer(self, envelope: Envelope, reply: ManagementReply) -> None:
        self._node.endpoint.reply(envelope, Envelope(management_reply=reply))

    async def _admin(self, admin: MdevAdmin) -> object:
        node, registry, name = self._node, self._node.registry, admin.name
        match admin.verb:
            case MdevAdmin.SHOW:
                return shown_host(node)
            case MdevAdmin.DRIVERS:
                keys = ("name", "device_api", "standalone")
                return [{key: getattr(driver, key) for key in keys} for driver in node.drivers.values()]
            case MdevAdmin.EVENTS:
                return [
                    {
                        "number": e.number,
                        "action": e.action,
                        "path": f"{e.subsystem}/{e.name}",
                        "fields": dict(e.properties),
                    }
                    for e in registry.events.since(admin.length)
                ]
            case MdevAdmin.PARENT_REGISTER:
                await node.register(_checked_parent(admin.parent), admin.type, admin.attributes)
            case MdevAdmin.PARENT_UNREGISTER:
                operation = registry.unregister_parent(admin.parent, force=admin.force, patience_s=PATIENCE_S)
                await run_operation(operation)
            case MdevAdmin.CREATE:
                return shown_mdev(node, await node.create_new(admin.parent, admin.type, name, admin.attributes))
            case MdevAdmin.REMOVE:
                patience = min(admin.length / 1000, _PATIENCE_MAX_S)
                await node.remove(name, force=admin.force, patience_s=patience)
            case MdevAdmin.START:
                await run_operation(registry.start(name))
            case MdevAdmin.SHUTDOWN:
                await run_operation(registry.shutdown(name))
            case MdevAdmin.SET:
                await self._set(name, dict(admin.attributes))
                return shown_mdev(node, registry.find(name))
            case MdevAdmin.ATTACH:
                await node.attach(name, admin.path)
            case MdevAdmin.DETACH:
                await node.detach(name, admin.path)
            case MdevAdmin.ASSIGN:
                self._assign(name, admin.partition)
            case MdevAdmin.MIGRATE:
                return await node.migrate(name, admin.host)
            case MdevAdmin.PEEK:
                return {"data": base64.b64encode(self._peek(admin)).decode()}
            case MdevAdmin.TREE_READ:
                return self._tree_read(admin.path)
            case MdevAdmin.TREE_WRITE:
                return {"written": await run_operation(node.tree.write(admin.path, admin.data))}
            case verb:
                raise MdevError(EINVAL, f"unknown verb {verb}")
        return {}

    async def _set(self, name: str, wanted: Mapping[str, str]) -> None:
        """Change attributes, all or none: those before one that is refused become again what they were asked to be."""
        node, registry = self._node, self._node.registry
        key_of = str(registry.find(name).name)
        before = {**registry.attributes(name), **node.asked.get(key_of, {})}
        changed: list[str] = []
        try:
            for key, value in sorted(wanted.items()):
                await run_operation(registry.set(name, key, value))
                changed.append(key)
        except MdevError as error:
            stuck = [key for key in reversed(changed) if not await self._set_back(name, key, before)]
            for key in stuck:
                node.asked.setdefault(key_of, {})[key] = wanted[key]
            if stuck:
                raise error.within(f"{', '.join(sorted(stuck))} changed and cannot be set back") from None
            raise
        node.asked.setdefault(key_of, {}).update(wanted)

    async def _set_back(self, name: str, key: str, before: Mapping[str, str]) -> bool:
        try:
            await run_operation(self._node.registry.set(name, key, before[key]))
        except (MdevError, KeyError):
            return False
        return True

    def _assign(self, name: str, partition: str) -> None:
        node = self._node
        device = node.hosted(name)
        pinned = node.registry.find(name).pinned
        if pinned:  # it takes along for whom it is
            raise MdevError(EBUSY, f"mdev {name}: {pinned}")
        if partition:
            node.topology.partition(partition)
            if device.name in node.sockets:
                raise MdevError(EBUSY, f"mdev {name} is served at {node.sockets[device.name].path}")
            owner = node.assigned.get(device.name, partition)
            if owner != partition:
                raise MdevError(EBUSY, f"mdev {name} is for {owner}")
            node.assigned[device.name] = partition
            node.offer(device.name)
        else:
            node.assigned.pop(device.name, None)

    def _peek(self, admin: MdevAdmin) -> bytes:
        device = self._node.registry.find(admin.name).works
        regions = device.regions
        if admin.region >= len(regions):
            raise MdevError(EINVAL, f"region {admin.region}: expected one below {len(regions)}")
        memory = regions[admin.region].memory
        if memory is None:
            raise MdevError(EINVAL, f"region {admin.region} is no memory")
        if admin.length > _PEEK_BYTES or admin.offset + admin.length > memory.size:
            raise MdevError(EINVAL, f"{admin.length} bytes at {admin.offset:#x} of a region of {memory.size:#x}")
        return bytes(memory.view[admin.offset : admin.offset + admin.length])

    def _tree_read(self, path: str) -> dict[str, Any]:
        tree = self._node.tree
        mode = tree.mode(path)
        if mode is Mode.WRITE:
            return {"path": path, "mode": _KINDS[mode][1]}
        if mode is not Mode.DIRECTORY:
            text = tree.read(path).decode(errors="backslashreplace")
            return {"path": path, "mode": _KINDS[mode][1], "text": text}
        entries = [
            {"name": e.name, "kind": _KINDS[e.mode][0], "mode": _KINDS[e.mode][1], "target": e.target}
            for e in tree.list(path)
        ]
        return {"path": path, "entries": entries}


def _checked_parent(name: str) -> str:
    try:
        return check_parent_name(name)
    except ValueError as error:
        raise MdevError(EINVAL, f"parent {name[:64]!r}: expected {error}") from None


def _refusal(error: PvnetError) -> ManagementReply:
    status = ManagementReply.FAILED
    if isinstance(error, ConfigError) or (isinstance(error, MdevError) and error.errno in {ENODEV, ENOENT}):
        status = ManagementReply.NOT_FOUND
    elif isinstance(error, MdevError) and error.errno in {EEXIST, EBUSY}:
        status = ManagementReply.CONFLICT
    return ManagementReply(status=status, text=str(error))
