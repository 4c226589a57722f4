"""Many sessions of management software at once: each lists the partitions and refreshes one by its ETag, over and over.

``make load`` runs 200 of them for a minute against a lab of its own, over TLS with a new connection for every request,
as pypowervm connects.  It prints what was asked and how long it took, and the memory of the service's process before
and after; it fails when an answer was wrong or late, or when that memory has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from interop.novalink.lab import Lab, lab_up

from pvnet.bench.novalink_client import PARTITIONS, RestSession

GROWTH_MAX: Final = 0.15
"""By how much the process may be larger at the end than after the first part of the run."""
SETTLED: Final = 0.25
"""That part: by then every session is there, and every code path has been gone through."""
_LATE_S: Final = 30.0


@dataclass
class Counted:
    """What all sessions saw."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    resident: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start and KiB of the service's process."""

    def report(self, seconds: float) -> dict[str, Any]:
        """All of it in numbers."""
        total = sum(len(times) for times in self.times.values())
        shown: dict[str, Any] = {"requests": total, "per_s": round(total / seconds, 1), "errors": dict(self.errors)}
        for kind, times in sorted(self.times.items()):
            cuts = quantiles(times, n=100) if len(times) > 1 else times * 99
            shown[kind] = {
                "requests": len(times),
                "p50_ms": round(cuts[49] * 1e3, 1),
                "p99_ms": round(cuts[98] * 1e3, 1),
                "max_ms": round(max(times) * 1e3, 1),
            }
        tenths = [len(self.resident) * part // 10 for part in range(10)]
        shown["resident_kib"] = [self.resident[place][1] for place in tenths] + [self.resident[-1][1]]
        return shown

    def settled(self) -> int:
        """Memory after the first part of the run."""
        until = self.resident[-1][0] * SETTLED
        return next(size for at, size in self.resident if at >= until)

    def grown(self) -> float:
        """By how much the memory has grown since then, as a fraction."""
        return self.resident[-1][1] / self.settled() - 1


def resident_kib(pid: int) -> int:
    """Resident memory of a process that has not ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError(f"process {pid} has no memory")


async def _timed(counted: Counted, kind: str, request: Any, *wanted: int) -> Any:
    start = time.perf_counter()
    try:
        answer = await request
    except OSError as error:
        counted.errors[f"{kind}: {type(error).__name__} {str(error)[:60]}"] += 1
        return None
    counted.times[kind].append(time.perf_counter() - start)
    if answer.status not in wanted:
        counted.errors[f"{kind}: status {answer.status}"] += 1
        return None
    return answer


async def _session(endpoint: dict[str, Any], counted: Counted, number: int, ends: float) -> None:
    start = time.perf_counter()
    try:
        session = await RestSession.at(endpoint)
        paths = await session.partitions()
    except OSError as error:
        counted.errors[f"log on: {str(error)[:40]}"] += 1
        return
    counted.times["log on"].append(time.perf_counter() - start)
    path = paths[number % len(paths)] + "?group=None"
    etag = None
    for turn in itertools.count():
        if time.monotonic() >= ends:
            break
        if turn % 2 == 0:
            await _timed(counted, "list", session.get(PARTITIONS), 200)
        elif etag is None:
            answer = await _timed(counted, "read", session.get(path), 200)
            etag = answer and answer.headers.get("etag")
        else:
            await _timed(counted, "refresh", session.get(path, etag), 304)
    await session.log_off()


async def _watch(pid: int, counted: Counted) -> None:
    start = time.monotonic()
    while True:
        counted.resident.append((time.monotonic() - start, resident_kib(pid)))
        await asyncio.sleep(0.25)


async def load(lab: Lab, *, sessions: int, seconds: float) -> Counted:
    """Run the sessions against a lab that is up."""
    counted = Counted()
    pid = lab.pid("novalink")
    assert pid is not None
    ends = time.monotonic() + seconds
    watch = asyncio.create_task(_watch(pid, counted))
    try:
        async with asyncio.timeout(seconds + _LATE_S), asyncio.TaskGroup() as group:
            for number in range(sessions):
                group.create_task(_session(lab.endpoint, counted, number, ends))
    finally:
        watch.cancel()
        counted.resident.append((seconds, resident_kib(pid)))
    return counted


def more_partitions(count: int) -> str:
    """Partitions that are off, for longer lists."""
    return "".join(
        f'[[partition]]\nname = "p{n}"\nlpar_id = {100 + n}\nautostart = false\n\n[[partition.venet]]\n\n'
        for n in range(count)
    )


def main() -> int:
    """Run the load and say what it showed; 1: an error, or memory that grew."""
    parser = argparse.ArgumentParser(prog="make load ARGS=", description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=200, help="sessions at once (200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--partitions", type=int, default=10, help="partitions beside the lab's three (10)")
    options = parser.parse_args()
    import uvloop

    with lab_up(more=more_partitions(options.partitions)) as lab:
        counted = uvloop.run(load(lab, sessions=options.sessions, seconds=options.seconds))
    grown = counted.grown()
    sys.stdout.write(json.dumps({"sessions": options.sessions, **counted.report(options.seconds)}) + "\n")
    sys.stdout.write(f"memory since the first {SETTLED:.0%}: {grown:+.1%}, at most {GROWTH_MAX:+.0%}\n")
    return 1 if counted.errors or grown > GROWTH_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
