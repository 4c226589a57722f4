"""How two programs are measured against each other: the same number of calls, in turns, by the same stopwatch.

A :class:`Contender` makes calls; a round is so many of them, one after the other or with so many in flight.  The order
of the contenders is turned round from round to round, so that none of them always runs first.  A peer that loses or
mixes up an answer ends the measurement: beside a broken peer there is nothing to compare.  What we lose is counted and
reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final, Protocol

from pvnet.bench.report import Series
from pvnet.core.errors import UnreachableError

PATIENCE_S: Final = 60.0
"""Real seconds after which a round counts as hung; no figure depends on it."""
OURS: Final = "pvnet"
"""Name of the contender that is us."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round showed."""

    times: list[float]
    """Seconds of each call, in the order of their ends."""
    seconds: float
    """The whole round."""
    wrong: int
    """Calls with no answer, or with the answer of another call."""
    told: tuple[float, float] | None = None
    """Median and 99th percentile in seconds, of a contender that does not tell its times."""

    def quantiles(self) -> tuple[float, float]:
        """Return median and 99th percentile in seconds."""
        if self.told is not None:
            return self.told
        cuts = quantiles(self.times, n=100)
        return cuts[49], cuts[98]


class Contender(Protocol):
    """A program that is measured."""

    @property
    def name(self) -> str:
        """As in the report."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What :meth:`round` raises when the program, its partner or the way between them fails."""

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` calls and keep ``in_flight`` of them under way."""


async def keep_in_flight(call: Callable[[int], Awaitable[bool]], count: int, in_flight: int) -> Round:
    """Run ``call(number)`` for every number below ``count``, ``in_flight`` at a time; it says whether all is well.

    :raises ExceptionGroup: what a call raised; the others are cancelled.
    """
    numbers = iter(range(count))
    times: list[float] = []
    wrong = 0

    async def worker() -> None:
        nonlocal wrong
        for number in numbers:
            start = time.perf_counter()
            right = await call(number)
            times.append(time.perf_counter() - start)
            wrong += not right

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, count)):
            group.create_task(worker())
    return Round(times, time.perf_counter() - start, wrong)


@dataclass(slots=True)
class Measured:
    """One contender over all rounds."""

    p50: Series
    p99: Series
    per_s: Series
    wrong: int = 0


async def compare(
    contenders: Sequence[Contender], *, rounds: int, count: int, warm_up: int, in_flight: int
) -> dict[str, Measured]:
    """Let the contenders take turns; returns what each showed, by name.

    :raises UnreachableError: a contender failed, did not finish a round, or (a peer) gave wrong answers.
    """
    measured = {contender.name: Measured(Series(), Series(), Series()) for contender in contenders}
    for contender in contenders:
        await _one(contender, warm_up, in_flight)
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            shown = await _one(contender, count, in_flight)
            into = measured[contender.name]
            p50, p99 = shown.quantiles()
            into.p50.values.append(p50)
            into.p99.values.append(p99)
            into.per_s.values.append(count / shown.seconds)
            into.wrong += shown.wrong
    return measured


async def _one(contender: Contender, count: int, in_flight: int) -> Round:
    expected: tuple[type[Exception], ...] = (*contender.failures, ExceptionGroup)
    try:
        async with asyncio.timeout(PATIENCE_S):
            shown = await contender.round(count, in_flight)
    except TimeoutError:
        raise UnreachableError(f"{contender.name} did not finish {count} calls in {PATIENCE_S:g} s") from None
    except expected as error:
        first: Exception = error
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, contender.failures):
            raise  # a mistake of ours
        raise UnreachableError(f"{contender.name}: {first}") from error
    if shown.wrong and contender.name != OURS:
        raise UnreachableError(f"{contender.name} answered {shown.wrong} of {count} calls wrongly")
    return shown
