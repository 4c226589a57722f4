"""Mediated devices of a running lab, for programs: parents, types, devices, who uses them, their files in partitions.

``Mdevs(lab)`` talks to the mdev hosts of a lab (``MdevAdmin``) and to the partitions that use devices
(``MdevAssign``).  What it returns are plain dicts, as the hosts show them; docs/mdev.md has an example of each.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

from pvnet.client.device import CharDevice
from pvnet.client.lab import Lab
from pvnet.core.errors import ConfigError, DeviceError, PvnetError, RefusedError, UnreachableError
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, MdevAdmin, MdevAssign, ShowStatus
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import SUPERVISOR

PIECE_BYTES: Final = 64 << 10
"""Most bytes of one call of a device file."""
BLKFLSBUF: Final = 0x1261
BLKGETSIZE64: Final = 0x80081272


class Mdevs:
    """The mediated devices of a lab.

    All methods raise RefusedError with the host's words (the name of the errno last) when it refuses, ConfigError when
    the lab has no mdev host, and UnreachableError when it is not there.
    """

    def __init__(self, lab: Lab, *, timeout: float = 10.0) -> None:
        self._lab = lab
        self._timeout = timeout
        self.hosts = [host.name for host in lab.topology.mdev_hosts]
        if not self.hosts:
            raise ConfigError(f"lab {lab.name} has no mdev host: expected an [[mdev_host]]")

    async def _ask(self, node: str, command: Management, *, timeout: float | None = None) -> Any:
        reply = await self._lab.command(node, command, timeout=timeout or self._timeout)
        if reply.status != ManagementReply.OK:
            raise RefusedError(reply.text or ManagementReply.Status.Name(reply.status).lower().replace("_", " "))
        return json.loads(reply.status_json) if reply.status_json else None

    async def admin(self, node: str, verb: MdevAdmin.Verb, *, timeout: float | None = None, **fields: Any) -> Any:
        """Send one command to a host and return what it shows."""
        self._lab.topology.mdev_host(node)
        return await self._ask(node, Management(mdev=MdevAdmin(verb=verb, **fields)), timeout=timeout)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def look(self) -> tuple[list[dict[str, Any]], list[PvnetError]]:
        """Ask every host that runs, at once: what those show that answer, and what is wrong with the others."""
        states = await self._states()
        running = [host for host in self.hosts if states.get(host) not in {"off", "failed"}]
        asked = (self.admin(host, MdevAdmin.SHOW) for host in running)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        shown, failed = [], []
        for answer in answers:
            if isinstance(answer, PvnetError):
                failed.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                shown.append(answer)
        return shown, failed

    async def show(self) -> list[dict[str, Any]]:
        """Return every host that runs: its parents with their types, its devices."""
        shown, failed = await self.look()
        if failed:
            raise failed[0]
        return shown

    async def _states(self) -> dict[str, str]:
        status = await self._ask(SUPERVISOR, Management(show_status=ShowStatus()))
        return {node["name"]: node["state"] for node in status["nodes"]}

    async def _is_on(self, partition: str) -> bool:
        return not await self._why_off(partition)

    async def _why_off(self, partition: str) -> str:
        """Return the state of a partition in which nobody would answer; empty: somebody would."""
        state = (await self._states()).get(partition, "off")
        return state if state in {"off", "stopping", "failed"} else ""

    async def check_on(self, partition: str) -> None:
        """Make sure that a partition runs.

        Raises:
            ConfigError: the lab has no such partition.  UnreachableError: it does not run.
        """
        self._lab.topology.partition(partition)
        state = await self._why_off(partition)
        if state:
            raise UnreachableError(f"{partition} is not running ({state})")

    async def find(self, name: str) -> tuple[str, dict[str, Any]]:
        """Return the host that has a device, and the device.

        Raises:
            RefusedError: none has it; says which devices there are.  UnreachableError: none that answers has it.
        """
        wanted = name.lower()
        shown, failed = await self.look()
        for host in shown:
            for mdev in host["mdevs"]:
                if mdev["name"] == wanted:
                    return host["host"], mdev
        if failed:
            raise failed[0]
        known = ", ".join(mdev["name"] for host in shown for mdev in host["mdevs"]) or "none"
        raise RefusedError(f"no mediated device {name[:60]!r}; there are: {known}")

    async def parent_host(self, parent: str, host: str | None = None) -> str:
        """Return the host that has a parent; ``host`` says which, where several have one of that name."""
        shown, failed = await self.look()
        if failed and host is None:
            raise failed[0]
        found: list[str] = [
            each["host"]
            for each in shown
            if host in {None, each["host"]} and any(p["name"] == parent for p in each["parents"])
        ]
        if failed and not found:
            raise failed[0]
        if len(found) != 1:
            where = f"hosts {', '.join(found)} have one each: name the host" if found else "no host has it"
            raise ConfigError(f"parent {parent[:64]!r}: {where}")
        return found[0]

    def host(self, host: str | None) -> str:
        """Return the host that is meant: the one named, or the only one."""
        if host is not None:
            return self._lab.topology.mdev_host(host).name
        if len(self.hosts) != 1:
            raise ConfigError(f"which mdev host? expected one of {', '.join(self.hosts)}")
        return self.hosts[0]

    # --- life --------------------------------------------------------------------------------------------------------

    async def create(
        self, name: str, parent: str, type_name: str, attributes: Mapping[str, str] | None = None, *, host: str
    ) -> dict[str, Any]:
        """Make a device."""
        made: dict[str, Any] = await self.admin(
            host, MdevAdmin.CREATE, name=name, parent=parent, type=type_name, attributes=dict(attributes or {})
        )
        return made

    async def remove(self, name: str, *, force: bool = False, wait_s: float = 5.0) -> None:
        """Remove a device: its user is asked to let go, and after ``wait_s`` seconds it is EBUSY, or forced."""
        host, _ = await self.find(name)
        waits = {"length": int(wait_s * 1000)}
        await self.admin(host, MdevAdmin.REMOVE, name=name, force=force, timeout=self._timeout + wait_s, **waits)

    async def start(self, name: str, *, host: str) -> None:
        """Tell every device of a UUID that its virtual machine is about to boot."""
        await self.admin(host, MdevAdmin.START, name=name)

    async def shutdown(self, name: str, *, host: str) -> None:
        """Tell every device of a UUID that its virtual machine goes down."""
        await self.admin(host, MdevAdmin.SHUTDOWN, name=name)

    async def set(self, name: str, attributes: Mapping[str, str]) -> dict[str, Any]:
        """Change attributes of a device."""
        host, _ = await self.find(name)
        changed: dict[str, Any] = await self.admin(host, MdevAdmin.SET, name=name, attributes=dict(attributes))
        return changed

    async def migrate(self, name: str, to: str, *, timeout: float = 60.0) -> dict[str, Any]:
        """Move a device to another host, while it is used; returns how many bytes and how long it stood still."""
        host, _ = await self.find(name)
        self._lab.topology.mdev_host(to)
        moved: dict[str, Any] = await self.admin(host, MdevAdmin.MIGRATE, name=name, host=to, timeout=timeout)
        return moved

    # --- users -------------------------------------------------------------------------------------------------------

    async def attach(self, name: str, path: str) -> None:
        """Serve a device at a vfio-user socket."""
        host, _ = await self.find(name)
        await self.admin(host, MdevAdmin.ATTACH, name=name, path=path)

    async def detach(self, name: str, path: str = "") -> None:
        """Serve it at ``path`` no more; without one, wherever it is served."""
        host, _ = await self.find(name)
        await self.admin(host, MdevAdmin.DETACH, name=name, path=path)

    async def assign(self, name: str, partition: str) -> bool:
        """Have a partition use a device of the lab, or (``vfio-user:PATH``) one of a foreign server.

        A partition that refuses it, as it has no driver for it, does not have it assigned afterwards, unless it was
        before.  To one that is off it is assigned: it finds the device when it is on.  Returns whether it uses it now.

        Raises:
            UnreachableError: nobody serves it; or it is a foreign one, and the partition is off.
        """
        self._lab.topology.partition(partition)
        host, before = "", partition
        if not _is_foreign(name):
            host, shown = await self.find(name)
            before = shown["partition"]
            await self.admin(host, MdevAdmin.ASSIGN, name=name, partition=partition)
            if not await self._is_on(partition):
                return False
        else:
            await self.check_on(partition)
        command = Management(mdev_assign=MdevAssign(name=name, host=host))
        try:
            shown = await self._ask(partition, command, timeout=max(self._timeout, 15.0))
        except RefusedError:
            if before != partition:
                with suppress(PvnetError):
                    await self.release(name, partition)
            raise
        if "unreachable" in shown:
            raise UnreachableError(shown["unreachable"])
        return True

    async def release(self, name: str, partition: str) -> None:
        """Have a partition use a device no more, also one that it does not get to use, or not before it is on."""
        self._lab.topology.partition(partition)
        assigned = False
        if not _is_foreign(name):
            with suppress(RefusedError):  # the device is gone, but perhaps the partition does not know
                host, shown = await self.find(name)
                assigned = shown["partition"] == partition
                if assigned:  # first, or the partition would find it again
                    await self.admin(host, MdevAdmin.ASSIGN, name=name, partition="")
        if not await self._is_on(partition):
            if not assigned:
                raise RefusedError(f"{partition} does not use {name[:120]}: it is off")
            return
        try:
            await self._ask(partition, Management(mdev_assign=MdevAssign(name=name, release=True)))
        except RefusedError:
            if not assigned:
                raise

    def file(self, partition: str, path: str) -> MdevFile:
        """Return a device file of a partition (``/dev/ttyS0``, ``/dev/dasda``), to be opened.

        Opening it raises UnreachableError at once if the partition does not run.

        Raises:
            ConfigError: the lab has no such partition.
        """
        self._lab.topology.partition(partition)
        check = partial(self.check_on, partition)
        return MdevFile(self._lab.endpoint, partition, path, timeout=self._timeout, check=check)

    # --- contents ----------------------------------------------------------------------------------------------------

    async def peek(self, name: str, region: int, offset: int, length: int) -> bytes:
        """Read a region beside its user; only regions that are memory can be looked at so."""
        host, _ = await self.find(name)
        found = bytearray()
        while len(found) < length:
            piece = min(PIECE_BYTES, length - len(found))
            shown = await self.admin(
                host, MdevAdmin.PEEK, name=name, region=region, offset=offset + len(found), length=piece
            )
            found += base64.b64decode(shown["data"])
        return bytes(found)

    async def tree(self, path: str = "/", *, host: str) -> dict[str, Any]:
        """Return a file or a folder of the virtual tree.

        A file is ``{"path", "mode", "text"}``, without ``text`` if it can only be written; a folder is ``{"path",
        "entries"}``.
        """
        found: dict[str, Any] = await self.admin(host, MdevAdmin.TREE_READ, path=path)
        return found

    async def tree_write(self, path: str, data: bytes, *, host: str) -> int:
        """Store into a file of the virtual tree; returns the bytes taken."""
        return int((await self.admin(host, MdevAdmin.TREE_WRITE, path=path, data=data))["written"])

    async def drivers(self, *, host: str) -> list[dict[str, Any]]:
        """Return the vendor drivers that a host has."""
        found: list[dict[str, Any]] = await self.admin(host, MdevAdmin.DRIVERS)
        return found

    async def events(self, since: int = 0, *, host: str) -> list[dict[str, Any]]:
        """Return the life-cycle events after number ``since``, as many as the host keeps."""
        found: list[dict[str, Any]] = await self.admin(host, MdevAdmin.EVENTS, length=since)
        return found


def _is_foreign(name: str) -> bool:
    return name.startswith("vfio-user:")


class MdevFile(CharDevice):
    """A device file of a partition: a terminal (reads wait), or a block device (reads and writes name an offset).

    :param check: awaited before it is opened; raises if there is no point in that.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        partition: str,
        path: str,
        *,
        timeout: float = 10.0,
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(endpoint, partition, path, timeout=timeout)
        self._check_partition = check

    async def open(self) -> Self:
        """Open it."""
        if self._check_partition is not None:
            await self._check_partition()
        return await super().open()

    async def size(self) -> int:
        """Size of a block device in bytes; DeviceError EINVAL for a terminal."""
        io = DeviceIo(operation=DeviceIo.IOCTL, command=BLKGETSIZE64)
        return int.from_bytes((await self.transfer("BLKGETSIZE64", io)).data, "little")

    async def flush(self) -> None:
        """Make every write that was answered durable."""
        await self.transfer("BLKFLSBUF", DeviceIo(operation=DeviceIo.IOCTL, command=BLKFLSBUF))

    async def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes of a block device; fewer at its end."""
        found = bytearray()
        while len(found) < length:
            piece = min(PIECE_BYTES, length - len(found))
            io = DeviceIo(operation=DeviceIo.READ, offset=offset + len(found), count=piece)
            data = (await self.transfer("read", io)).data
            found += data
            if len(data) < piece:
                break
        return bytes(found)

    async def write_at(self, offset: int, data: bytes) -> None:
        """Store bytes on a block device; ENOSPC when they reach beyond its end."""
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            io = DeviceIo(operation=DeviceIo.WRITE, offset=offset + at, data=piece)
            if (await self.transfer("write", io)).result != len(piece):
                raise DeviceError(errno.ENOSPC, f"write at {offset + at:#x}")
