"""Real labs for tests: started with a base directory of their own, looked at, broken, and seen to be gone."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pvnet.client import Lab
from pvnet.pb.v1.management_pb2 import Management, ShowStatus
from pvnet.runtime.topology import Topology, default_topology
from pvnet.runtime.topology_base import Restart
from pvnet.testing.in_process import at_rest, count, settled

TESTS = Path(__file__).resolve().parent
PATIENCE_S = 90.0
"""How long anything may take before it counts as hung."""
AGAIN = Restart(policy="always", max_restarts=1000, window_s=0.5)


def topology(name: str, **lab: Any) -> Topology:
    """The default topology without storage, network and mdevs, whose nodes may die as often as a test wants."""
    made = default_topology(name)
    partitions = [p.model_copy(update={"scm": [], "venet": [], "restart": AGAIN}) for p in made.partitions]
    assert made.manager is not None
    return made.model_copy(
        update={
            "lab": made.lab.model_copy(update={"ready_timeout_s": 60.0, **lab}),
            "hypervisor": made.hypervisor.model_copy(update={"restart": AGAIN}),
            "partitions": partitions,
            "switches": [],
            "mdev_hosts": [],
            "manager": made.manager.model_copy(update={"restart": AGAIN}),
        }
    )


class RunningLab:
    """A lab of real processes and questions to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def pid(self, node: str) -> int:
        """Process id of a node that runs."""
        assert self.lab.processes is not None
        pid = next(info.pid for info in self.lab.processes.supervisor.nodes() if info.name == node)
        assert pid is not None, f"{node} does not run"
        return pid

    def pids(self) -> dict[str, int]:
        """Process ids of all nodes that run."""
        assert self.lab.processes is not None
        return {info.name: info.pid for info in self.lab.processes.supervisor.nodes() if info.pid}

    def kill(self, node: str) -> int:
        """kill -9; returns the process id that it had."""
        pid = self.pid(node)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def restarted(self, node: str, pid: int) -> None:
        """Wait until the supervisor runs another process of that name and says that it serves."""
        assert self.lab.processes is not None
        supervisor = self.lab.processes.supervisor

        async def other() -> bool:
            return supervisor.state(node) == "running" and self.pids().get(node, pid) != pid

        await eventually(other)

    def log(self, node: str) -> str:
        """What a node has logged so far, in all its lives."""
        assert self.lab.processes is not None
        return self.lab.processes.supervisor.directory.log(node).read_text()

    async def status(self, node: str) -> dict[str, Any]:
        """``show_status`` of a node."""
        reply = await self.lab.command(node, Management(show_status=ShowStatus()), timeout=PATIENCE_S)
        status: dict[str, Any] = json.loads(reply.status_json)
        return status

    async def census(self) -> dict[str, dict[str, Any]]:
        """See ``InProcessLab.census``."""
        names = ("hypervisor", "lpar1", "manager", "mp")
        return {name: count(await self.status(name)) for name in names}

    async def at_rest(self) -> dict[str, dict[str, Any]]:
        return await at_rest(self.census, timeout=PATIENCE_S)

    async def settle(self, expected: dict[str, dict[str, Any]]) -> None:
        await settled(self.census, expected, timeout=PATIENCE_S)


@asynccontextmanager
async def running(made: Topology, base: Path) -> AsyncIterator[RunningLab]:
    """Start a lab; afterwards no process and no file of it is left, or the test fails."""
    before = children(os.getpid())
    async with Lab(made, base=base) as lab:
        yield RunningLab(lab)
    nothing_left(before, base)


def nothing_left(before: set[int], base: Path) -> None:
    """See that we have no more descendants than ``before``, and that the directory of labs is gone."""
    left = children(os.getpid()) - before
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    assert not base.exists()


class App:
    """A process that runs ``system_app``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.errors: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, lab: str, base: Path) -> App:
        """Start it and wait for its session."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "system_app", lab, str(base)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        app = cls(process)
        await app.until("open")
        return app

    async def line(self) -> dict[str, Any]:
        """Its next line; empty when it has ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.process.stdout.readline()
        said: dict[str, Any] = json.loads(raw) if raw else {}
        assert "wrong" not in said
        if "error" in said:
            self.errors.append(said)
        return said

    async def until(self, key: str, value: object = None) -> dict[str, Any]:
        """Read its lines up to one with ``key`` (and ``value``)."""
        while said := await self.line():
            if key in said and value in (None, said[key]):
                return said
        raise AssertionError(f"the application ended before it said {key}")

    def echo(self, number: int) -> None:
        """Have it echo that many messages."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"echo %d\n" % number)

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """Have it close its session and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.until("done")
        await self.process.wait()


async def eventually(check: Any, seconds: float = PATIENCE_S) -> None:
    """Wait until ``check`` holds; TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what is looked at lies in other processes
            await asyncio.sleep(0.02)


def children(pid: int) -> set[int]:
    """Process ids of all living descendants of ``pid``."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def wait_gone(pidfds: Iterable[int], seconds: float = PATIENCE_S) -> None:
    """Wait until all these processes have ended (their pidfds are readable)."""
    end = time.monotonic() + seconds
    for pidfd in pidfds:
        readable, _, _ = select.select([pidfd], [], [], max(0.0, end - time.monotonic()))
        assert readable, "a process lives on"
        os.close(pidfd)
