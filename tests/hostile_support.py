"""What the tests of hostile peers measure: a process's descriptors, mappings, memory and log, and traffic of others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from system_support import PATIENCE_S, TESTS, RunningLab

from pvnet.client.vbus import VbusHost

FAILURES = ("Traceback", "handler_failed", "task_failed", "callback_failed", "listener_failed", "frame_failed")
"""What a log must not have: an error that nobody expected."""
MEMORY_SLACK_KB = 64 * 1024
"""What a process may keep for itself after having been busy."""
LATE_S = 20.0
"""After this long an echo counts as lost."""


class Hostile:
    """A process that runs a module of hostile lives, and is told by lines what to do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def attack(self, name: str, **orders: Any) -> dict[str, Any]:
        """Have it done; returns what was counted, or ``{"died": signal}``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"attack": name, **orders}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            said: dict[str, Any] = json.loads(await self.process.stdout.readline())
        assert "error" not in said, said["error"]
        return said


@asynccontextmanager
async def hostile(lab: RunningLab, module: str, name: str) -> AsyncIterator[Hostile]:
    """Start ``module`` as node ``name`` of a lab."""
    assert lab.lab.processes is not None
    info = lab.lab.processes.supervisor.info()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, info.broker, info.lab, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert b"ready" in await process.stdout.readline()
        yield Hostile(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


class Echoes:
    """Guests that ping each other all the time, with contents that are checked."""

    def __init__(self, host: VbusHost, ways: list[tuple[str, str]]) -> None:
        self._host = host
        self._ways = ways
        self._tasks: list[asyncio.Task[None]] = []
        self.results: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        for number, (guest, address) in enumerate(self._ways):
            self._tasks.append(asyncio.create_task(self._run(guest, address, 56 if number else 1400)))
        return self

    async def _run(self, guest: str, address: str, size: int) -> None:
        while True:
            found = await self._host.ping(
                guest, address, count=20, payload_bytes=size, interval_s=0.02, timeout_s=LATE_S
            )
            self.results.append(found)

    async def progress(self) -> None:
        """Wait until another round has come back on each way, and judge all rounds so far."""
        before = len(self.results)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.results) < before + 2 * len(self._ways):
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)
        for found in self.results:
            assert found["received"] == found["sent"], found
            assert not found["corrupt"], found
            assert not found["duplicates"], found

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Holdings:
    """What a process holds: descriptors by kind, mappings of memory files, anonymous memory."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fds = sum(1 for _ in (Path("/proc") / str(pid) / "fd").iterdir())
        maps = (Path("/proc") / str(pid) / "maps").read_text().splitlines()
        self.arenas = sorted(line.split("/memfd:", 1)[1] for line in maps if "/memfd:" in line)
        status = dict(
            line.split(":", 1) for line in (Path("/proc") / str(pid) / "status").read_text().splitlines() if ":" in line
        )
        self.anonymous_kb = int(status["RssAnon"].split()[0])

    def same(self, other: Holdings) -> bool:
        """Whether descriptors and mappings are those of ``other``."""
        return (self.pid, self.fds, self.arenas) == (other.pid, other.fds, other.arenas)

    def __repr__(self) -> str:
        return f"pid {self.pid}: {self.fds} fds, {self.arenas}, {self.anonymous_kb} kB"


def failures(log: str) -> list[str]:
    """Lines of a log that no peer must be able to cause."""
    lines = log.splitlines()
    return [line for number, line in enumerate(lines) if any(word in line for word in FAILURES)][:20]
