"""An mdev host: a process with parents, mediated devices, and their users.

Users are partitions (``mdev_sessions``) and vfio-user clients at unix sockets; a device has one at a time.  Parents and
devices come from the topology and from administrators; what these make lasts as long as this process.  A host that
restarts makes its configured devices anew, unless another host has one of them by now.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from pvnet.capture.snoop import SnoopSink
from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.mdev.device import MdevDriver
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life import Registry
from pvnet.mdev.life_objects import Mdev
from pvnet.mdev.life_parents import check_driver
from pvnet.mdev.pci import odd_bars
from pvnet.mdev.tree import Tree
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.papr.errno import EACCES, EBUSY, EEXIST, EINVAL, ENOENT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, MdevAdmin
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.snoop import open_sink, split_snoop, stop_snoop
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_mdev import MdevConfig
from pvnet.transport.link import PeerDown
from pvnet.vfio.server import VfioUserServer
from pvnet.vfio.services import Services
from pvnet_services.attach_snoop import vfio_user_tap
from pvnet_services.mdev_admin import PATIENCE_S, MdevAdministration
from pvnet_services.mdev_migration import MdevMigration
from pvnet_services.mdev_runner import run_operation
from pvnet_services.mdev_sessions import MdevSessions
from pvnet_services.note_limit import NoteLimit

DRIVERS_GROUP: Final = "pvnet.mdev"
"""Entry points of vendor drivers."""
_OTHERS_S: Final = 0.3
"""How long a starting host looks for other hosts that may have its devices."""
_ASK_S: Final = 5.0
_CLAIM_S: Final = 0.02
"""Pause before other hosts are asked again that are making a device of the same UUID."""


def load_drivers(log: Callable[[str, str], None]) -> dict[str, MdevDriver]:
    """Return the vendor drivers of all installed packages; ``log(name, why)`` hears of those that cannot be loaded."""
    found: dict[str, MdevDriver] = {}
    for point in sorted(entry_points(group=DRIVERS_GROUP), key=lambda each: each.name):
        try:
            driver: MdevDriver = point.load()
            check_driver(driver)
            found[driver.name] = driver
        except Exception as error:  # noqa: BLE001 - somebody else's package must not keep the host from starting
            log(point.name, f"{type(error).__name__}: {error}")
    return found


class HostedDevice(VfioDevice):
    """A device as this host has it: tells who waits for it when its user has let go."""

    def __init__(self, node: MdevHostNode, mdev: Mdev, released: Callable[[], None]) -> None:
        super().__init__(mdev.works, str(mdev.name), asyncio.get_running_loop(), node.limit.note)
        self._node = node
        self._released = released

    def close(self) -> None:
        """The user is gone."""
        super().close()
        self._released()

    def request_release(self) -> None:
        """Ask for the device, by its REQ irq and, in a lab, by the session."""
        super().request_release()
        session = self._node.sessions.of(self)
        if session is not None:
            session.ask_release()


class MdevHostNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        self.endpoint = endpoint
        self.topology = config.topology
        self._config = config.topology.mdev_host(config.node)
        self.limit = NoteLimit(endpoint, asyncio.get_running_loop().time)
        self.drivers = load_drivers(self._driver_failed)
        self.registry = Registry(self.limit.note, lambda mdev, released: HostedDevice(self, mdev, released))
        self.tree = Tree(self.registry, PATIENCE_S)
        self.services = Services(
            self.limit.note,
            directory=_own_directory(config),
            scm_blocks=lambda device: scm_blocks(self.topology, config.directory, device),
        )
        self.sessions = MdevSessions(endpoint, self._find, self.limit.note)
        self.sessions.on_let_go = self.offer
        hosts = [host.name for host in config.topology.mdev_hosts]
        self.moves = MdevMigration(endpoint, self.registry, self.sessions, hosts, self._arrived, self._departed)
        self.sockets: dict[str, VfioUserServer] = {}
        self.snoops: dict[str, SnoopSink] = {}
        """Of sockets that are recorded."""
        self.assigned: dict[str, str] = {}
        """Device: the partition that it is for."""
        self.asked: dict[str, dict[str, str]] = {}
        """Device: attributes that it was made with or given later, as they were written."""
        self.claims: set[str] = set()
        """UUIDs of devices that are being made here; other hosts are told."""
        self._away: dict[str, str] = {}
        """Device of the topology: the host that it has been moved to."""
        endpoint.on_peer_down.append(self._peer_down)
        MdevAdministration(self)

    def _driver_failed(self, name: str, why: str) -> None:
        self.endpoint.note(Note("mdev_driver_failed", (("driver", name), ("reason", why)), "warning"))

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make what the topology says, then serve."""
        try:
            await self._register_parents()
        except MdevError as error:
            raise ConfigError(f"mdev host {self.endpoint.name}: {error}") from None
        self.claims = {config.uuid for config in self._config.mdevs}
        elsewhere = await self._elsewhere() if self._config.mdevs else {}
        for config in self._config.mdevs:
            if config.uuid in elsewhere:
                fields = (("mdev", config.uuid), ("host", elsewhere[config.uuid]))
                self.endpoint.note(Note("mdev_lives_elsewhere", fields, "warning"))
                continue
            try:
                await self._make(config)
            except PvnetError as error:
                raise ConfigError(f"mdev host {self.endpoint.name}: mdev {config.uuid}: {error}") from None
        self.claims.clear()
        for partition in self.topology.partitions:
            self.endpoint.watch(partition.name)
        self.endpoint.ready(f"{len(self.registry.parents())} parents, {len(self.registry.mdevs())} devices")

    def use_topology(self, topology: Topology) -> None:
        """Know other partitions from now on.

        Raises:
            ConfigError: the hosts would be others, or a device is for a partition that would be no more.
        """
        if topology.mdev_hosts != self.topology.mdev_hosts or topology.lab != self.topology.lab:
            raise ConfigError("the new topology has another [lab] or other mdev hosts: expected those of the start")
        names = {partition.name for partition in topology.partitions}
        for device, partition in self.assigned.items():
            if partition not in names:
                raise ConfigError(f"mdev {device} is for {partition}")
        for partition in {partition.name for partition in self.topology.partitions} - names:
            self.endpoint.forget(partition)
        for name in names:
            self.endpoint.watch(name)
        self.topology = topology

    async def _register_parents(self) -> None:
        named = {parent.name for parent in self._config.parents}
        for name, driver in self.drivers.items():
            if driver.standalone and name not in named:
                await run_operation(self.registry.register_parent(name, driver, {}, self.services))
        for parent in self._config.parents:
            await self.register(parent.name, parent.driver, parent.attributes)

    async def register(self, name: str, driver: str, attributes: Mapping[str, str]) -> None:
        """Make a parent."""
        found = self.drivers.get(driver)
        if found is None:
            known = ", ".join(self.drivers)
            raise MdevError(ENOENT, f"parent {name}: no vendor driver {driver[:60]!r}; there are: {known}")
        await run_operation(self.registry.register_parent(name, found, attributes, self.services))

    async def _make(self, config: MdevConfig) -> None:
        mdev = await self.create(config.parent, config.type, config.uuid, config.attributes)
        if config.partition is not None:
            self.assigned[str(mdev.name)] = config.partition
        if config.vfio_user is not None:
            await self.attach(str(mdev.name), config.vfio_user)
        fields = (("mdev", str(mdev.name)), ("type", config.type), ("parent", config.parent))
        self.endpoint.note(Note("mdev_made", fields, "info"))

    async def _elsewhere(self) -> dict[str, str]:
        """Return the devices that other hosts have, and which of them has each."""
        return {mdev["name"]: other["host"] for other in await self._others() for mdev in other["mdevs"]}

    async def _others(self) -> list[dict[str, Any]]:
        """Return what the other hosts show, those that are there."""
        names = [other.name for other in self.topology.mdev_hosts if other.name != self.endpoint.name]
        return [shown for shown in await asyncio.gather(*map(self._other, names)) if shown is not None]

    async def _other(self, name: str) -> dict[str, Any] | None:
        command = Management(mdev=MdevAdmin(verb=MdevAdmin.SHOW))
        try:
            await self.endpoint.wait_peer(name, timeout=_OTHERS_S)
            reply = await self.endpoint.call(name, Envelope(management=command), _ASK_S, wait_for_peer=False)
            shown: dict[str, Any] = json.loads(reply.management_reply.status_json)
        except (PvnetError, ValueError):
            return None  # it starts as we do
        return shown

    async def stop(self) -> None:
        """Leave: users lose their devices."""
        for server in list(self.sockets.values()):
            await server.stop("the mdev host stops", patience_s=0.0)
        for sink in self.snoops.values():
            await stop_snoop(sink)
        self.sessions.close()
        for name in list(self.registry.parents()):
            try:
                await run_operation(self.registry.unregister_parent(name, force=True))
            except MdevError as error:
                self.endpoint.log.warning("mdev_parent_stays", parent=name, error=str(error))
        await self.endpoint.stop()

    # --- devices -----------------------------------------------------------------------------------------------------

    async def create(self, parent: str, type_name: str, name: str, attributes: Mapping[str, str]) -> Mdev:
        """Make a device."""
        mdev = await run_operation(self.registry.create(parent, type_name, name, attributes))
        self.asked[str(mdev.name)] = dict(attributes)
        return mdev

    async def create_new(self, parent: str, type_name: str, name: str, attributes: Mapping[str, str]) -> Mdev:
        """Make a device whose UUID no other host of this lab has.

        Of several hosts that make the same at once, that with the smallest name does: each says which it is making
        before it asks the others; one that hears of a smaller name gives up, one that hears of a greater waits until
        that one has given up, or is found to have made it before.
        """
        key = name.lower()
        if key in self.claims:
            raise MdevError(EEXIST, f"mdev {name[:80]} is being made")
        self.claims.add(key)
        try:
            await self._check_new(key)
            return await self.create(parent, type_name, name, attributes)
        finally:
            self.claims.discard(key)

    async def _check_new(self, key: str) -> None:
        until = asyncio.get_running_loop().time() + _ASK_S
        while True:
            others = await self._others()
            making = [other["host"] for other in others if key in other["claims"]]
            for other in others:
                host = other["host"]
                if host not in making and any(mdev["name"] == key for mdev in other["mdevs"]):
                    raise MdevError(EEXIST, f"mdev {key[:80]} is at {host}")
            if not making:
                return
            if min(making) < self.endpoint.name or asyncio.get_running_loop().time() > until:
                raise MdevError(EEXIST, f"mdev {key[:80]} is being made at {min(making)}")
            await asyncio.sleep(_CLAIM_S)

    async def remove(self, name: str, *, force: bool, patience_s: float) -> None:
        """Remove a device; its user has ``patience_s`` seconds to let go."""
        mdev = self.registry.find(name)
        key = str(mdev.name)
        if mdev.in_use and not force and patience_s <= 0:  # to ask and not to wait would take it away nevertheless
            raise MdevError(EBUSY, f"mdev {key} is in use")
        await run_operation(self.registry.remove(name, force=force, patience_s=patience_s))
        await self._forget(key)

    async def _forget(self, name: str) -> None:
        self.assigned.pop(name, None)
        self.asked.pop(name, None)
        server = self.sockets.pop(name, None)
        if server is not None:
            await server.stop("the device is removed", patience_s=0.0)
        await stop_snoop(self.snoops.pop(name, None))

    async def prune(self) -> None:
        """Forget what belongs to devices that are gone by other ways (the tree, a parent)."""
        there = {str(name) for name in self.registry.mdevs()}
        for name in {*self.assigned, *self.asked, *self.sockets} - there:
            await self._forget(name)

    def hosted(self, name: str) -> HostedDevice:
        """Return what joins a device to its user."""
        found = self.registry.openable(name)
        assert isinstance(found, HostedDevice), "our registry makes no others"
        return found

    def _find(self, name: str, node: str) -> VfioDevice:
        """Return the device that a partition wants to open."""
        device = self.hosted(name)
        owner = self.assigned.get(device.name, "")
        if owner and owner != node:
            raise MdevError(EACCES, f"mdev {name} is for {owner}")
        if device.name in self.sockets:
            raise MdevError(EBUSY, f"mdev {name} is served at {self.sockets[device.name].path}")
        return device

    async def attach(self, name: str, path: str) -> None:
        """Serve a device at a vfio-user socket; behind ``?snoop=`` may stand where its messages are recorded."""
        device = self.hosted(name)
        path, target = split_snoop(path)
        if not path.startswith("/"):
            raise MdevError(EINVAL, f"socket {path[:80]!r}: expected an absolute path")
        if device.name in self.sockets:
            raise MdevError(EEXIST, f"mdev {name} is served at {self.sockets[device.name].path} already")
        if self.registry.find(name).pinned:
            raise MdevError(EBUSY, f"mdev {name}: {self.registry.find(name).pinned}")
        if device.user is not None or self.assigned.get(device.name):
            raise MdevError(EBUSY, f"mdev {name} is for {self.assigned.get(device.name) or 'somebody else'}")
        self._warn(device)
        sink = None if target is None else open_sink(self.endpoint, target, self.topology)
        snoop = None if sink is None else vfio_user_tap(sink, self.endpoint, device.name)
        server = self.sockets[device.name] = VfioUserServer(device, note=self.limit.note, snoop=snoop)
        if sink is not None:
            self.snoops[device.name] = sink
        try:
            await server.start(path)
        except BaseException:
            del self.sockets[device.name]
            await stop_snoop(self.snoops.pop(device.name, None))
            raise

    def _warn(self, device: VfioDevice) -> None:
        """Tell of what some clients do not survive."""
        works = device.device
        for index, size in odd_bars(int(works.flags), [region.info.size for region in works.regions]).items():
            text = f"BAR {index} has {size} bytes, which is no power of two: QEMU aborts over it"
            self.limit.note(Note("mdev_odd_bar", (("mdev", device.name), ("reason", text)), "warning"))

    async def migrate(self, name: str, to: str) -> dict[str, object]:
        """Move a device to another host; see :meth:`MdevMigration.migrate`."""
        self.topology.mdev_host(to)
        key = str(self.registry.find(name).name)
        if key in self.sockets:  # a client could come in the middle of it
            raise MdevError(EBUSY, f"mdev {name} is served at {self.sockets[key].path}: detach it first")
        moved = await self.moves.migrate(name, to, self.assigned.get(key, ""), self.asked.get(key, {}))
        if key in {config.uuid for config in self._config.mdevs}:
            self._away[key] = to
        return moved

    async def detach(self, name: str, path: str = "") -> None:
        """Serve it there no more; without ``path``, wherever it is served."""
        key = str(self.registry.find(name).name)
        path, _ = split_snoop(path)
        server = self.sockets.get(key)
        if server is None or (path and Path(path) != server.path):
            raise MdevError(ENOENT, f"mdev {name} is not served at {path[:200] or 'a socket'}")
        del self.sockets[key]
        await server.stop("taken away")
        await stop_snoop(self.snoops.pop(key, None))

    def _arrived(self, name: str, partition: str, attributes: Mapping[str, str]) -> None:
        self.asked[name] = dict(attributes)
        self._away.pop(name, None)
        if partition:
            self.assigned[name] = partition
            self.offer(name)

    def offer(self, name: str) -> None:
        """Tell the partition that a device is for, unless somebody uses it or it is being removed."""
        partition = self.assigned.get(name)
        try:
            if partition is not None and not self.registry.find(name).in_use:
                self.sessions.tell(partition)
        except MdevError:
            return  # whoever ends the removal without success offers it then

    def _peer_down(self, event: PeerDown) -> None:
        """A host has died, perhaps with devices that the topology gives to us."""
        lost = [name for name, host in self._away.items() if host == event.node]
        for name in lost:
            del self._away[name]
        if lost:
            self.endpoint.spawn(self._tell_lost(lost, event.node), "lost devices")

    async def _tell_lost(self, names: list[str], host: str) -> None:
        elsewhere = await self._elsewhere()  # it may have moved on
        for name in names:
            if name in elsewhere:
                self._away[name] = elsewhere[name]
            else:
                self.endpoint.note(Note("mdev_lost_with_host", (("mdev", name), ("host", host)), "warning"))

    def _departed(self, name: str) -> None:
        self.assigned.pop(name, None)
        self.asked.pop(name, None)

    def status(self) -> dict[str, object]:
        """What ``show_status`` says."""
        return {
            "parents": len(self.registry.parents()),
            "mdevs": len(self.registry.mdevs()),
            "sessions": self.sessions.shown(),
            "sockets": [server.shown() for server in self.sockets.values()],
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }


def _own_directory(config: NodeConfig) -> Path:
    """Return where this host's files are; hosts may have parents of one name."""
    if not config.directory:
        return Path("mdev") / config.node
    own = Path(config.directory) / "mdev" / config.node
    own.parent.mkdir(mode=0o700, exist_ok=True)
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def scm_blocks(topology: Topology, directory: str, device: str) -> Path | None:
    """Return the file with the blocks of ``PARTITION:NUMBER``; None: there is no such device."""
    partition, _, number = device.partition(":")
    found = next((p for p in topology.partitions if p.name == partition), None)
    if found is None or not number.isdecimal() or len(number) > 6 or int(number) >= len(found.scm):
        return None
    backing = found.scm[int(number)].backing
    return Path(backing) if backing is not None else Path(directory) / "scm" / f"{partition}-{int(number)}.blocks"


def main() -> int:
    """Run the process."""
    os.umask(0o077)  # sockets and images are their owner's
    return run_service("mdev_host", MdevHostNode)


if __name__ == "__main__":
    sys.exit(main())
