"""The mediated devices of a partition: which it has, and the names of their files.

Which devices are for this partition the mdev hosts know (``partition`` of a device); one is asked whenever it comes up
or says that something has changed, so that a partition finds its devices again whatever has restarted, moved, or was
taken from it for a while.  Foreign devices are named by the topology, or given while the lab runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from pvnet.core.errors import PvnetError, RefusedError
from pvnet.core.machine import Note
from pvnet.mdev.guest import GuestDriverClass
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, MdevAdmin, MdevAssign
from pvnet.runtime.endpoint import READY, Endpoint
from pvnet.runtime.topology import Topology
from pvnet.transport.link import PeerUp
from pvnet_services.device_files import DeviceFiles
from pvnet_services.guest_mdev import VFIO_USER, GuestMdev
from pvnet_services.guest_mdev_carrier import LabSessions
from pvnet_services.guest_mdev_files import GuestDeviceFile

GUEST_DRIVERS_GROUP: Final = "pvnet.mdev_drivers"
"""Entry points of drivers in partitions (:class:`~pvnet.mdev.guest.GuestDriverClass`)."""
_ASK_S: Final = 10.0
_COMMAND_S: Final = 8.0
"""Longest that a command waits for a device: less than who sends it waits for us."""
_LETTERS: Final = frozenset({"dasd"})
"""Stems whose files are numbered by letters: /dev/dasda."""


def load_guest_drivers(log: Callable[[str, str], None]) -> list[GuestDriverClass]:
    """Return the guest drivers of all installed packages, those of others first.

    ``log(name, why)`` hears of those that cannot be loaded.
    """
    found: list[tuple[bool, str, GuestDriverClass]] = []
    for point in entry_points(group=GUEST_DRIVERS_GROUP):
        try:
            found.append((point.value.startswith("pvnet."), point.name, point.load()))
        except Exception as error:  # noqa: BLE001 - somebody else's package must not keep the partition from starting
            log(point.name, f"{type(error).__name__}: {error}")
    return [driver for _, _, driver in sorted(found, key=lambda each: each[:2])]


class GuestMdevs:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, topology: Topology, name: str, files: DeviceFiles) -> None:
        self._endpoint = endpoint
        self._files = files
        self._hosts = [host.name for host in topology.mdev_hosts]
        self._foreign = [f"{VFIO_USER}{path}" for path in topology.partition(name).vfio_user]
        self._expected = {m.uuid for host in topology.mdev_hosts for m in host.mdevs if m.partition == name}
        self._sessions = LabSessions(endpoint)
        self._sessions.on_notice = self._noticed
        self._devices: dict[str, GuestMdev] = {}
        self._asked: dict[str, asyncio.Event] = {host: asyncio.Event() for host in self._hosts}
        self._asking: dict[str, bool] = {}
        """Hosts that are being asked, and whether the answer may be out of date already."""
        self._drivers: list[GuestDriverClass] | None = None
        self._stopped = False
        endpoint.on_peer_up.append(self._peer_up)

    def start(self) -> None:
        """Look for devices."""
        for host in self._hosts:
            self._endpoint.watch(host)
        for name in self._foreign:
            self._use(name, "")

    async def settled(self, timeout: float) -> None:
        """Wait until every device works or is known not to, at most ``timeout`` seconds: it can come later, too."""
        try:
            async with asyncio.timeout(timeout):
                if self._expected:
                    for asked in self._asked.values():
                        await asked.wait()
                for device in list(self._devices.values()):
                    await device.settled.wait()
        except TimeoutError:
            self._endpoint.note(Note("mdevs_not_up", (("waited_s", int(timeout)),), "warning"))

    async def stop(self, timeout: float) -> None:
        """Remove every driver in good order."""
        self._stopped = True
        if self._devices:
            await asyncio.gather(*(device.stop(timeout) for device in self._devices.values()))
        self._devices.clear()
        self._sessions.close()

    def shown(self) -> list[dict[str, object]]:
        """Numbers for ``show_status``."""
        return [device.shown() for device in self._devices.values()]

    # --- finding -----------------------------------------------------------------------------------------------------

    def _peer_up(self, event: PeerUp) -> None:
        if event.node in self._asked and event.phase >= READY:
            self._noticed(event.node)

    def _noticed(self, host: str) -> None:
        """A host may have devices for us."""
        if host not in self._asked:
            self._endpoint.counters["mdev_notice_of_nobody"] += 1
        elif host in self._asking:
            self._asking[host] = True
        elif not self._stopped:
            self._asking[host] = True
            self._endpoint.spawn(self._look(host), "mdevs")

    async def _look(self, host: str) -> None:
        """Ask a host until nothing has changed since it was asked, then use what is for us."""
        names: list[str] = []
        try:
            while self._asking[host]:
                self._asking[host] = False
                names = await self._ask(host)
        finally:
            del self._asking[host]
            self._asked[host].set()
        if not self._stopped:
            for name in names:
                self._use(name, host)

    async def _ask(self, host: str) -> list[str]:
        """Return which devices of a host are for us."""
        command = Management(mdev=MdevAdmin(verb=MdevAdmin.SHOW))
        try:
            reply = await self._endpoint.call(host, Envelope(management=command), _ASK_S, wait_for_peer=False)
            shown = json.loads(reply.management_reply.status_json)
            return [m["name"] for m in shown["mdevs"] if m["partition"] == self._endpoint.name]
        except (PvnetError, ValueError, KeyError, TypeError) as error:
            self._endpoint.note(Note("mdevs_not_known", (("host", host), ("reason", str(error))), "warning"))
            return []

    def _use(self, name: str, host: str) -> GuestMdev:
        device = self._devices.get(name)
        if device is None:
            device = self._devices[name] = GuestMdev(
                self._endpoint,
                self._sessions,
                name,
                host,
                self._guest_drivers(),
                self._add_file,
                self._files.remove,
                self._forget,
            )
        else:
            device.host_up(host)
        return device

    def _forget(self, device: GuestMdev) -> None:
        """A device that is not for us any more."""
        if self._devices.get(device.name) is device:
            del self._devices[device.name]
        device.dispose()

    def _guest_drivers(self) -> list[GuestDriverClass]:
        """Return the drivers, loaded when the first device comes."""
        if self._drivers is None:
            self._drivers = load_guest_drivers(self._driver_failed)
        return self._drivers

    def _driver_failed(self, name: str, why: str) -> None:
        self._endpoint.note(Note("mdev_driver_failed", (("driver", name), ("reason", why)), "warning"))

    def _add_file(self, stem: str, file: GuestDeviceFile) -> str:
        taken = set(self._files.paths)
        number = 0
        while (path := f"/dev/{stem}{_suffix(stem, number)}") in taken:
            number += 1
        self._files.add(path, file)
        return path

    # --- commands ----------------------------------------------------------------------------------------------------

    async def assign(self, command: MdevAssign) -> dict[str, object]:
        """Use a device, or cease to; ``{"unreachable": TEXT}`` if nobody serves it.

        Raises:
            RefusedError: it cannot be used; says why.
        """
        name = command.name
        if command.release:
            device = self._devices.pop(name, None)
            self._asking.update(dict.fromkeys(self._asking, True))  # an answer on its way may still name it
            if device is None:
                raise RefusedError(f"{self._endpoint.name} does not use {name[:120]}")
            await device.stop(_COMMAND_S)
            return {}
        if not name.startswith(VFIO_USER) and command.host not in self._asked:
            raise RefusedError(f"{command.host[:60]!r} is no mdev host of this lab")
        device = self._use(name, command.host)
        if device.problem:
            device.settled.clear()
        try:
            async with asyncio.timeout(_COMMAND_S):
                await device.settled.wait()
        except TimeoutError:
            raise RefusedError(f"{name} does not answer") from None
        if device.problem:
            problem = device.problem
            if name.startswith(VFIO_USER) and not device.over:
                del self._devices[name]
                await device.stop(_ASK_S)
            if device.unreachable:
                return {"unreachable": problem}
            raise RefusedError(problem)
        return device.shown()


def _suffix(stem: str, number: int) -> str:
    if stem not in _LETTERS:
        return str(number)
    letters = ""
    while True:
        letters = chr(ord("a") + number % 26) + letters
        number = number // 26 - 1
        if number < 0:
            return letters
