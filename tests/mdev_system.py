"""Labs of real processes with mediated devices: topologies, their files, contents that show what was lost."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from system_support import AGAIN, PATIENCE_S, RunningLab, eventually

from pvnet.client.mdev import MdevFile, Mdevs
from pvnet.core.errors import PvnetError
from pvnet.runtime.topology import Topology

DISK = "d15c0000-0000-4000-8000-00000000000d"
CARD_A = "ca4d0000-0000-4000-8000-00000000000a"
CARD_B = "ca4d0000-0000-4000-8000-00000000000b"
BLOCK = 512
FAILURES = ("Traceback", "handler_failed", "task_failed", "callback_failed", "listener_failed", "mdev_failed")
"""What no log must have."""


def card(uuid: str, partition: str, ports: int = 2, **attributes: str) -> dict[str, Any]:
    """A serial card."""
    return {
        "uuid": uuid,
        "parent": "mtty",
        "type": f"mtty-{ports}",
        "partition": partition,
        "attributes": attributes,
    }


def disk(partition: str | None = "a", uuid: str = DISK, **more: Any) -> dict[str, Any]:
    """A disk of the parent ``disk``."""
    made = {"uuid": uuid, "parent": "disk", "type": "vfio_ccw-io", **more}
    return made if partition is None else {**made, "partition": partition}


def host(name: str, image: Path | None, *mdevs: dict[str, Any], size: str = "1MiB") -> dict[str, Any]:
    """An mdev host, with a parent ``disk`` over an image."""
    parents = []
    if image is not None:
        parents.append({"name": "disk", "driver": "vfio_ccw", "attributes": {"image": str(image), "size": size}})
    return {"name": name, "parent": parents, "mdev": list(mdevs), "restart": AGAIN.model_dump()}


def mdev_topology(name: str, *hosts: dict[str, Any], broker: str = "embedded", unix: bool = True) -> Topology:
    """A lab with partitions a and b."""
    return Topology.model_validate(
        {
            "lab": {"name": name, "ready_timeout_s": 60.0, "unix": unix},
            "broker": {"use": broker},
            "hypervisor": {"restart": AGAIN.model_dump()},
            "partition": [{"name": each, "restart": AGAIN.model_dump()} for each in ("a", "b")],
            "mdev_host": list(hosts),
        }
    )


async def devices(lab: RunningLab, partition: str) -> dict[str, dict[str, Any]]:
    """What a partition says of its devices, by name."""
    return {shown["name"]: shown for shown in (await lab.status(partition))["mdevs"]}


async def opened(lab: RunningLab, partition: str, uuid: str, number: int = 0) -> MdevFile:
    """A file of a device, opened as soon as it is there."""
    found: list[MdevFile] = []

    async def opens() -> bool:
        with suppress(PvnetError):
            shown = (await devices(lab, partition)).get(uuid)
            if shown is not None and shown["state"] == "up" and len(shown["files"]) > number:
                file = MdevFile(lab.lab.endpoint, partition, shown["files"][number], timeout=PATIENCE_S)
                await file.open()
                found.append(file)
        return bool(found)

    await eventually(opens)
    return found[0]


async def owners(lab: RunningLab, uuid: str) -> list[str]:
    """The hosts that have a device."""
    return [shown["host"] for shown in await Mdevs(lab.lab).show() if uuid in {m["name"] for m in shown["mdevs"]}]


async def send(file: MdevFile, data: bytes, piece: int = 200) -> None:
    for at in range(0, len(data), piece):
        part = data[at : at + piece]
        assert await file.write(part) == len(part)


async def receive(file: MdevFile, count: int, silence_s: float = 15.0) -> bytes:
    """Read so many bytes, or what has come when there was silence for long."""
    found = b""
    with suppress(PvnetError):  # EINTR: the read has timed out
        while len(found) < count:
            found += await file.read(count - len(found), timeout=silence_s)
    return found


class Remote:
    """The other end of ``tcp:`` lines: keeps what comes, in order of connections."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def uri(self) -> str:
        assert self._server is not None
        return f"tcp:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = bytearray()
        self.received.append(mine)
        self.writers.append(writer)
        self.changed.set()
        with suppress(OSError):
            while data := await reader.read(4096):
                mine += data
                self.changed.set()
        writer.close()

    async def connected(self, number: int) -> None:
        """Wait for that many connections and one."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.writers) <= number:
                self.changed.clear()
                await self.changed.wait()

    async def wait_for(self, count: int, first: int = 0, seconds: float = 15.0) -> bytes:
        """What has come by the connections from ``first`` on, when it is so much or nothing came for long."""
        with suppress(TimeoutError):
            while len(b"".join(self.received[first:])) < count:
                self.changed.clear()
                async with asyncio.timeout(seconds):
                    await self.changed.wait()
        return b"".join(self.received[first:])

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator[Remote]:
        remote = cls()
        remote._server = await asyncio.start_server(remote._client, "127.0.0.1", 0)
        try:
            yield remote
        finally:
            remote._server.close()
            for writer in remote.writers:
                writer.close()


# --- contents of a disk -----------------------------------------------------------------------------------------------


def filesystem(size: int, seed: int, group: int = 1 << 17) -> bytes:
    """What a mkfs would leave: superblock and copies of it, bitmaps, tables, some data."""
    dice = random.Random(seed)
    image = bytearray(size)
    for number, start in enumerate(range(0, size, group)):
        super_block = hashlib.sha256(b"super %d %d" % (seed, number)).digest() * 32
        image[start + 1024 : start + 1024 + len(super_block)] = super_block
        image[start + 4096 : start + 4096 + 2048] = bytes([0xFF] * 300).ljust(2048, b"\0")
        for inode in range(0, 16384, 256):
            image[start + 8192 + inode : start + 8192 + inode + 8] = (number << 32 | inode).to_bytes(8, "big")
        data = dice.randbytes(dice.randrange(4096, 40960))
        image[start + 32768 : start + 32768 + len(data)] = data
    return bytes(image[:size])


def record(number: int, length: int) -> bytes:
    """Contents that no other record has, and that show a mixture of two."""
    return b"".join(hashlib.sha256(b"%d %d" % (number, i)).digest() for i in range(length // 32))


class Slots:
    """A disk in slots: what each has for sure, and what may be in it while it is written."""

    def __init__(self, size: int, slot: int = 4096) -> None:
        self.slot = slot
        self.count = size // slot
        self.sure: dict[int, int] = {}
        self.maybe: dict[int, set[int]] = {}
        self.acknowledged = 0
        self._last = 0

    async def write(self, file: MdevFile, dice: random.Random, *, flush: bool = True) -> None:
        """Write one record somewhere, and flush."""
        self._last += 1
        number, slot = self._last, dice.randrange(self.count)
        self.maybe.setdefault(slot, {self.sure.get(slot, 0)}).add(number)
        await file.write_at(slot * self.slot, record(number, self.slot))
        if flush:
            await file.flush()
        self.sure[slot] = number
        self.maybe.pop(slot)
        self.acknowledged += 1

    async def write_for_ever(self, file: MdevFile, dice: random.Random) -> None:
        """Until a call fails, or it is cancelled."""
        while True:
            await self.write(file, dice)

    def check(self, data: bytes) -> None:
        """What was acknowledged is there; what was under way may be, in whole blocks."""
        assert len(data) == self.slot * self.count
        for slot in {*self.sure, *self.maybe}:
            found = data[slot * self.slot : (slot + 1) * self.slot]
            may_be = [self._contents(n) for n in self.maybe.get(slot, {self.sure.get(slot, 0)})]
            for at in range(0, self.slot, BLOCK):
                assert found[at : at + BLOCK] in [each[at : at + BLOCK] for each in may_be], (
                    f"slot {slot}, block {at // BLOCK}: expected record {self.maybe.get(slot, self.sure.get(slot))}"
                )

    def _contents(self, number: int) -> bytes:
        return record(number, self.slot) if number else bytes(self.slot)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clean(lab: RunningLab, nodes: Iterable[str]) -> None:
    """No log has an error that nobody expected."""
    for node in nodes:
        log = lab.log(node)
        at = min((place for word in FAILURES if (place := log.find(word)) >= 0), default=-1)
        assert at < 0, f"{node}: {log[max(0, at - 500) : at + 4000]}"
