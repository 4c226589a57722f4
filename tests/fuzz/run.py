"""Runs a block of inputs of one target, within bounds of time and memory for each."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
import traceback
from dataclasses import dataclass
from random import Random
from types import FrameType

from fuzz.seeds import Seeds
from fuzz.targets import BLOCK, TARGETS

MOST_CPU_S = 3.0
"""One input may take so much CPU time; the slowest take some milliseconds."""
MOST_PEAK_BYTES = 64 << 20
"""One input may have so much memory at a time."""
MOST_GROWTH_BYTES = 48 << 20
"""A process that has done some blocks of a target may grow by so much in all others."""
_WARM_BLOCKS = 3

_seeds: Seeds | None = None
_sizes: dict[str, list[int]] = {}
"""Of this process, after each of the first blocks of a target."""


def set_seeds(seeds: Seeds) -> None:
    global _seeds  # noqa: PLW0603
    _seeds = seeds


class HangError(BaseException):
    """No ordinary exception: nothing that is tested may catch it."""


@dataclass
class Outcome:
    """What became of some inputs."""

    target: str
    count: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    growth: int = 0
    """Bytes by which the process is bigger than after the first blocks of this target."""
    failure: str = ""
    number: int = 0
    data: bytes = b""

    def add(self, more: Outcome) -> None:
        self.count += more.count
        self.refused += more.refused
        self.seconds += more.seconds
        self.slowest_s = max(self.slowest_s, more.slowest_s)
        self.growth = max(self.growth, more.growth)

    def line(self, name: str) -> str:
        return (
            f"{name:10} {self.count:8} inputs, {self.count / max(self.seconds, 1e-9):6.0f}/s, {self.refused} refused, "
            f"slowest {self.slowest_s * 1e3:.0f} ms, process grew by {self.growth >> 10} KiB"
        )


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError(f"more than {MOST_CPU_S} s of CPU time")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123
        return int(stream.read().split()[1]) * resource.getpagesize()


@dataclass(frozen=True)
class Run:
    """Inputs 0 to ``count`` of a block."""

    target: str
    seed: int
    block: int
    count: int = BLOCK

    def __call__(self) -> Outcome:
        assert _seeds is not None
        outcome = Outcome(self.target)
        target = TARGETS[self.target][0](_seeds)
        before = signal.signal(signal.SIGVTALRM, _hang)
        start = time.monotonic()
        try:
            for number in range(self.block * BLOCK, self.block * BLOCK + self.count):
                data = target.make(Random(f"{self.seed} {self.target} {number}"))
                peak = peak_bytes()
                begin = time.process_time()
                signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_S)
                try:
                    target.run(data)
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                    grown = peak_bytes() - peak
                    assert grown < MOST_PEAK_BYTES, f"one input took {grown >> 20} MiB"
                except (Exception, HangError):  # noqa: BLE001 - whatever it is, it is what is looked for
                    outcome.failure = f"{self.target} {number}: {traceback.format_exc()}"
                    outcome.number, outcome.data = number, data
                    return outcome
                finally:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                outcome.count += 1
                outcome.slowest_s = max(outcome.slowest_s, time.process_time() - begin)
            outcome.refused = target.refused
        finally:
            outcome.seconds = time.monotonic() - start
            signal.signal(signal.SIGVTALRM, before)
            target.close()
        del target
        self._weigh(outcome)
        return outcome

    def _weigh(self, outcome: Outcome) -> None:
        """No growth: what a target leaves behind after its block, the first ones excepted."""
        gc.collect()
        sizes = _sizes.setdefault(self.target, [])
        if len(sizes) < _WARM_BLOCKS:
            sizes.append(resident_bytes())
            return
        outcome.growth = resident_bytes() - max(sizes)
        if outcome.growth > MOST_GROWTH_BYTES:
            outcome.failure = f"{self.target}: process {os.getpid()} grew by {outcome.growth >> 20} MiB"
            outcome.number = self.block * BLOCK
