"""Users of mediated devices that mean harm; nobody else notices (mdev 9.2 to 9.4).

A real mdev host, and at it: the devices that are attacked, a device of another client at a socket of its own, and the
serial card of a partition.  The last two work all the time, with contents that are checked and a bounded latency.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import hostile_vfio_user
import pytest
from hostile_support import MEMORY_SLACK_KB, Holdings, hostile
from mdev_system import CARD_A, CARD_B, FAILURES, card, devices, disk, host, mdev_topology, opened
from system_support import PATIENCE_S, RunningLab, eventually, running

from pvnet.client.mdev import MdevFile
from pvnet.core.errors import PvnetError
from pvnet.mdev.uart_registers import Register
from pvnet.runtime.topology import Topology
from pvnet.vfio.client import VfioUserClient

SOAK = bool(os.environ.get("PVNET_SOAK"))
SECONDS = 5.0 if SOAK else 0.4
LATE_S = 10.0
"""No access of somebody else takes longer, on the busiest machine."""
LOG_BYTES = 256 * 1024
LOOSE = "ca4d0000-0000-4000-8000-00000000000d"
SPARE = "ca4d0000-0000-4000-8000-00000000000e"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 240)]


class Neighbours:
    """Others, who work all the time."""

    def __init__(self, client: VfioUserClient, port: MdevFile) -> None:
        self._client = client
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self.rounds = [0, 0]
        self.latest = 0.0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._registers()), asyncio.create_task(self._echoes())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _registers(self) -> None:
        while True:
            began = time.monotonic()
            value = bytes([self.rounds[0] & 0xFF])
            await self._client.write(0, int(Register.SCR), value)
            assert await self._client.read(0, int(Register.SCR), 1) == value
            self._took(0, began)
            await asyncio.sleep(0.005)

    async def _echoes(self) -> None:
        while True:
            began = time.monotonic()
            text = b"%04d" % (self.rounds[1] % 10_000)
            await self._port.write(text)
            found = b""
            while len(found) < len(text):
                found += await self._port.read(len(text) - len(found), timeout=PATIENCE_S)
            assert found == text
            self._took(1, began)
            await asyncio.sleep(0.005)

    def _took(self, who: int, began: float) -> None:
        self.rounds[who] += 1
        self.latest = max(self.latest, time.monotonic() - began)

    async def progress(self) -> None:
        """Both get on."""
        before = list(self.rounds)

        async def both() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return all(now > was for now, was in zip(self.rounds, before, strict=True))

        await eventually(both, LATE_S)
        assert self.latest < LATE_S


class Attacked:
    """The lab, and what its mdev host was like before."""

    def __init__(self, lab: RunningLab, sockets: Path, neighbours: Neighbours) -> None:
        self.lab = lab
        self.sockets = sockets
        self.neighbours = neighbours
        self.before = Holdings(lab.pid("mdevs"))
        self.others = Holdings(lab.pid("a"))
        self._log = len(lab.log("mdevs"))

    def path(self, name: str) -> Path:
        return self.sockets / name

    async def unhurt(self, what: str) -> None:
        """Same process, same descriptors, bounded memory, a short log; the neighbours get on."""
        await self.neighbours.progress()

        async def as_before() -> bool:
            now = Holdings(self.lab.pid("mdevs"))
            return (now.pid, now.fds) == (self.before.pid, self.before.fds)

        try:
            await eventually(as_before, LATE_S)
        except TimeoutError:
            pytest.fail(f"{what}: {Holdings(self.lab.pid('mdevs'))}; {self.before}")
        now = Holdings(self.lab.pid("mdevs"))
        assert now.anonymous_kb < self.before.anonymous_kb + MEMORY_SLACK_KB, (what, now, self.before)
        log = self.lab.log("mdevs")
        wrong = [line for line in log.splitlines() if any(word in line for word in FAILURES)]
        assert not wrong, (what, wrong[:10])
        assert len(log) - self._log < LOG_BYTES, (what, log[-2000:])
        self._log = len(log)

    async def honest(self, path: Path) -> None:
        """The device that was attacked serves whoever comes next."""

        async def serves() -> bool:
            try:
                async with await VfioUserClient.connect(path) as client:
                    await client.reset()
                    assert (await client.regions())[0].size
                    return True
            except PvnetError:
                return False

        await eventually(serves, LATE_S)


def topology(**more: Any) -> Topology:
    return mdev_topology("hostile", *more.pop("hosts"), **more)


@asynccontextmanager
async def attacked(tmp_path: Path, *, unix: bool = True, second: bool = False) -> AsyncIterator[Attacked]:
    with tempfile.TemporaryDirectory(prefix="mdev-") as short:
        sockets = Path(short)
        spare = {**card(SPARE, "b", 1), "vfio_user": str(sockets / "card")}
        theirs = {**card(CARD_B, "b", 1), "vfio_user": str(sockets / "neighbour")}
        loose = card(LOOSE, "b", 1)
        for each in (spare, theirs, loose):
            del each["partition"]
        front = disk(None, vfio_user=str(sockets / "disk"))
        hosts = [host("mdevs", tmp_path / "disk.img", front, spare, theirs, loose, card(CARD_A, "a", 1))]
        if second:
            hosts.append({**host("west", None), "restart": {"policy": "never"}})
        made = topology(hosts=hosts, unix=unix)
        made = made.model_copy(
            update={
                "partitions": [
                    p.model_copy(update={"restart": p.restart.model_copy(update={"policy": "never"})})
                    if p.name == "b"
                    else p
                    for p in made.partitions
                ]
            }
        )
        async with running(made, tmp_path / "base") as lab:
            port = await opened(lab, "a", CARD_A)
            client = await VfioUserClient.connect(sockets / "neighbour", timeout_s=PATIENCE_S)
            async with client, Neighbours(client, port) as neighbours:
                await neighbours.progress()
                yield Attacked(lab, sockets, neighbours)
            await port.close()


async def test_clients_of_sockets_hurt_nobody_but_themselves(tmp_path: Path) -> None:
    async with attacked(tmp_path) as lab:
        attacks = [("card", attack) for attack in hostile_vfio_user.ANY]
        attacks += [("disk", attack) for attack in hostile_vfio_user.DISK]
        for name, attack in attacks:
            began = time.monotonic()
            counted = await asyncio.to_thread(attack, lab.path(name), SECONDS)
            assert counted, attack.__name__
            await lab.honest(lab.path(name))
            await lab.unhurt(attack.__name__)
            print(f"{name} {attack.__name__}: {counted}, {time.monotonic() - began:.2f} s")
        print(f"latest {lab.neighbours.latest:.3f} s, rounds {lab.neighbours.rounds}")


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "broker"])
async def test_nodes_of_the_lab_hurt_nobody_but_themselves(tmp_path: Path, unix: bool) -> None:
    async with attacked(tmp_path, unix=unix, second=True) as lab:
        sessions = (await lab.lab.status("mdevs"))["sessions"]
        lab.lab.kill("b")
        lab.lab.kill("west")
        async with (
            hostile(lab.lab, "hostile_mdev", "b") as partition,
            hostile(lab.lab, "hostile_mdev", "west") as source,
        ):
            await partition.attack("nothing", seconds=0.2)
            await source.attack("nothing", seconds=0.2)
            await gone(lab)
            lab.before = Holdings(lab.lab.pid("mdevs"))
            for who, names in ((partition, ("forge", "garbage", "shares", "transfers")), (source, ("moves", "stream"))):
                for name in names:
                    counts = await who.attack(name, seconds=SECONDS)
                    print(name, counts)
                    assert counts["sent"] > 20, (name, counts)
                    await gone(lab)
                    await lab.unhurt(name)
                    assert (await lab.lab.status("mdevs"))["sessions"] == sessions, name
        shown = (await devices(lab.lab, "a"))[CARD_A]
        assert (shown["state"], shown["moves"], shown["problem"]) == ("up", 0, "")
        wrong = [line for line in lab.lab.log("a").splitlines() if any(word in line for word in FAILURES)]
        assert not wrong, wrong[:10]
        print(f"latest {lab.neighbours.latest:.3f} s, rounds {lab.neighbours.rounds}")


async def gone(lab: Attacked) -> None:
    """The hostile node's life has ended, also for the host."""

    async def alone() -> bool:
        status = await lab.lab.status("mdevs")
        return not {"b", "west"} & {*status["paths"]} and status["mdevs"] == 5

    await eventually(alone, LATE_S)
