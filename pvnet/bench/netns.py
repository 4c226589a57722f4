"""Network namespaces for a measurement, and the programs that measure in them: ``iperf3`` and ``ping``.

Namespaces are named by the process that made them and removed when the measurement ends, however it ends; those of a
process that was killed are removed by the next measurement.  Programs die with this process (tether).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from pvnet.core.errors import UnreachableError

_PROGRAMS: Final = ("ip", "iperf3", "ping", "taskset")
_PREFIX: Final = "pvb"
_OURS: Final = re.compile(rf"{_PREFIX}(\d+)[a-z]+")
_PLACE: Final = Path("/run/netns")
_START_S: Final = 10.0
_SLACK_S: Final = 20.0
_LISTENS: Final = b"Server listening"
_ANSWER: Final = re.compile(r"time=([\d.]+) ms")


def what_is_missing() -> str | None:
    """Return what this machine lacks for such a measurement, in words; None if nothing."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"it needs the program{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    if os.geteuid() != 0:
        return "it needs root, for network namespaces and TAP devices"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "it needs /dev/net/tun"
    return None


@asynccontextmanager
async def namespaces(*labels: str) -> AsyncIterator[list[str]]:
    """Make network namespaces, each with its loopback up; remove them at the end, with what is in them.

    ``labels`` are lower-case letters; within this process each may be used once at a time.

    :raises UnreachableError: the system refuses.
    """
    await remove_strays()
    names = [f"{_PREFIX}{os.getpid()}{label}" for label in labels]
    try:
        for name in names:
            await command("ip", "netns", "add", name)
            await command("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        await asyncio.shield(_remove([name for name in names if (_PLACE / name).exists()]))


async def remove_strays() -> None:
    """Remove the namespaces of measurements that were killed."""
    with contextlib.suppress(UnreachableError):  # another measurement does the same
        await _remove(_strays())


async def _remove(names: Iterable[str]) -> None:
    for name in names:
        await command("ip", "netns", "delete", name)


def _strays() -> list[str]:
    if not _PLACE.is_dir():
        return []
    made = [match for entry in _PLACE.iterdir() if (match := _OURS.fullmatch(entry.name)) is not None]
    return [match[0] for match in made if not Path(f"/proc/{match[1]}").exists()]


async def command(*words: str, timeout: float = _START_S, tethered: bool = False) -> str:
    """Run a program to its end and return what it said; ``tethered`` if it would outlive us for long.

    :raises UnreachableError: it failed, or did not end in time.
    """
    process = await _start(words, tethered=tethered)
    try:
        said, complained = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        raise UnreachableError(f"{' '.join(words)} did not end in {timeout:g} s") from None
    finally:
        await _end(process)
    if process.returncode != 0:
        text = (complained or said).decode(errors="replace").strip()
        raise UnreachableError(f"{' '.join(words)}: {text or f'exit code {process.returncode}'}")
    return said.decode(errors="replace")


async def _start(words: Sequence[str], *, tethered: bool) -> asyncio.subprocess.Process:
    tether = (sys.executable, "-P", "-m", "pvnet.runtime.tether", str(os.getpid()), "--") if tethered else ()
    return await asyncio.create_subprocess_exec(
        *(*tether, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def inside(namespace: str, cpus: Iterable[int], *words: str) -> tuple[str, ...]:
    """Return the command that runs ``words`` in a namespace on some CPUs."""
    return ("taskset", "-c", ",".join(map(str, cpus)), "ip", "netns", "exec", namespace, *words)


@dataclass(frozen=True, slots=True)
class Route:
    """Two namespaces with a way between them that is to be measured."""

    name: str
    near: str
    far: str
    far_address: str
    processes: tuple[int, ...] = ()
    """The processes that move the frames."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else belongs to a figure."""


@asynccontextmanager
async def iperf3_server(route: Route, cpus: Iterable[int]) -> AsyncIterator[None]:
    """Run ``iperf3 -s`` at the far end.

    :raises UnreachableError: it does not start.
    """
    process = await _start(inside(route.far, cpus, "iperf3", "-s", "--forceflush"), tethered=True)
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                while _LISTENS not in (line := await process.stdout.readline()):
                    if not line:
                        raise UnreachableError(f"iperf3 -s did not start for {route.name}")
        except TimeoutError:
            raise UnreachableError(f"iperf3 -s did not start for {route.name}") from None
        drain = asyncio.create_task(process.stdout.read())  # else it stops when the pipe is full
        yield
        drain.cancel()
    finally:
        await _end(process)


async def throughput(route: Route, seconds: int, cpus: Iterable[int]) -> tuple[float, int]:
    """Send TCP for some seconds from near to far; return what arrived in bytes per second, and how often it resent.

    :raises UnreachableError: iperf3 failed.
    """
    words = inside(route.near, cpus, "iperf3", "-c", route.far_address, "-t", str(seconds), "-J")
    said: dict[str, Any] = json.loads(await command(*words, timeout=seconds + _SLACK_S, tethered=True))
    return said["end"]["sum_received"]["bits_per_second"] / 8, said["end"]["sum_sent"].get("retransmits", 0)


async def wait_reachable(route: Route, timeout: float) -> None:
    """Ping until the first answer.

    :raises UnreachableError: none came in ``timeout`` seconds.
    """
    words = ("ip", "netns", "exec", route.near, "ping", "-n", "-q", "-c", "1", "-i", "0.2", "-W", "1")
    try:
        await command(*words, "-w", str(math.ceil(timeout)), route.far_address, timeout=timeout + _SLACK_S)
    except UnreachableError as error:
        raise UnreachableError(f"{route.name}: {route.far_address} did not answer in {timeout:g} s") from error


async def ping(route: Route, count: int, interval: float, cpus: Iterable[int]) -> tuple[float, int]:
    """Ping the far end; return the round trip in seconds, and how many answers did not come.

    ``ping`` shows whole microseconds, so that a median would jump; it is the mean of the middle half of the answers.

    :raises UnreachableError: ping failed, or nothing came back.
    """
    longest = int(count * (interval + 0.001)) + 5
    words = ("ping", "-n", "-c", str(count), "-i", f"{interval:g}", "-W", "1", "-w", str(longest), route.far_address)
    said = await command(*inside(route.near, cpus, *words), timeout=longest + _SLACK_S, tethered=True)
    times = sorted(float(answer) / 1000 for answer in _ANSWER.findall(said))
    if not times:
        raise UnreachableError(f"ping said something else: {said!r}")
    quarter = len(times) // 4
    return fmean(times[quarter : len(times) - quarter]), count - len(times)
