"""Two processes that exchange messages, and how such pairs are measured against each other, in turns.

Neither process is this one: both ends are ``pvnet.bench.pair_end``, pinned where the placement says, and this process
only waits meanwhile.  All pairs of a comparison live through all rounds; those whose turn it is not sleep.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pvnet.bench.pair_end import Order, Told
from pvnet.bench.peer_process import PeerProcess, talking_process
from pvnet.bench.placement import Placement
from pvnet.bench.report import Series
from pvnet.bench.rounds import OURS, PATIENCE_S
from pvnet.core.errors import UnreachableError

_START_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a case is measured."""

    rounds: int
    count: int
    warm_up: int
    batch: int = 1


@dataclass(slots=True)
class Shown:
    """What a pair showed over all rounds; one way only ``per_s`` has values."""

    p50: Series = field(default_factory=Series)
    p99: Series = field(default_factory=Series)
    per_s: Series = field(default_factory=Series)
    wrong: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


class Pair:
    """A contender's two ends.  Made by :func:`open_pair`."""

    def __init__(self, name: str, first: PeerProcess, second: PeerProcess) -> None:
        self.name = name
        self._first = first
        self._second = second
        self._is_ready = False

    async def ready(self) -> None:
        """Wait until both ends serve; the first round does it too, so that several pairs can start at the same time.

        :raises UnreachableError: an end did not start.
        """
        if self._is_ready:
            return
        for end in (self._first, self._second):
            try:
                await end.hear(_START_S)  # "ready"
            except UnreachableError as error:
                raise UnreachableError(f"{self.name}: {error}") from None
        self._is_ready = True

    async def one_way(self, count: int, batch: int) -> tuple[float, int]:
        """Let the first end send and the second receive; return messages per second, and how many were wrong.

        :raises UnreachableError: an end failed, or did not finish.
        """
        sent, received = await self._both(Order("send", count, batch), Order("receive", count, batch))
        return count / (received["end"] - sent["start"]), received["wrong"]

    async def round_trips(self, count: int) -> dict[str, Any]:
        """Let the first end ask and the second answer; return ``p50``, ``p99``, ``seconds`` and ``wrong``.

        :raises UnreachableError: an end failed, or did not finish.
        """
        asked, _ = await self._both(Order("ask", count, 1), Order("answer", count, 1))
        return asked

    async def facts(self) -> dict[str, Any]:
        """What the two ends say about themselves."""
        await self.ready()
        self._tell(self._first, Order("facts", 0, 1))
        self._tell(self._second, Order("facts", 0, 1))
        first, second = await self._hear(self._first), await self._hear(self._second)
        return first if first == second else {"first": first, "second": second}

    async def _both(self, first: Order, second: Order) -> tuple[dict[str, Any], dict[str, Any]]:
        await self.ready()
        self._tell(self._second, second)
        await self._second.hear(PATIENCE_S)  # "listening"
        self._tell(self._first, first)
        tasks = [asyncio.create_task(self._hear(end)) for end in (self._first, self._second)]
        try:  # the first failure counts: the other end would wait for its partner for ever
            one, other = await asyncio.gather(*tasks)
        except UnreachableError as error:
            raise UnreachableError(f"{self.name}: {error}") from None
        finally:
            for task in tasks:
                task.cancel()
        return one, other

    def _tell(self, end: PeerProcess, order: Order) -> None:
        end.tell(json.dumps(asdict(order)))

    async def _hear(self, end: PeerProcess) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await end.hear(PATIENCE_S))
        return answer


@asynccontextmanager
async def open_pair(
    name: str, placement: Placement, *, one_way: bool, options: dict[str, Any] | None = None
) -> AsyncIterator[Pair]:
    """Start both ends of a contender, which find each other."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pvnet-bench-"))
        address = f"ipc://{Path(directory) / 'socket'}"
        with ExitStack() as ours:  # only until both ends have them
            fds = _fds(name, one_way=one_way)
            for fd in fds:
                ours.callback(os.close, fd)
            ends = [
                await stack.enter_async_context(talking_process("pvnet.bench.pair_end", pass_fds=fds)) for _ in "12"
            ]
        cpus = (placement.asks, placement.answers)
        for number, (end, cpu) in enumerate(zip(ends, cpus, strict=True)):
            peer_pid = ends[1 - number].pid
            end.tell(Told(name, number == 0, one_way, cpu, peer_pid, fds, address, options or {}).to_json())
        yield Pair(name, *ends)


def _fds(name: str, *, one_way: bool) -> tuple[int, ...]:
    """Make what the two ends of a contender share; the order is what its ends expect."""
    match name:
        case "mp-pipe" if one_way:
            reading, writing = os.pipe()
            return writing, reading
        case "mp-pipe" | "uvloop-unix" | "pvnet" | "pvnet-recorded":
            one, other = socket.socketpair()
            return one.detach(), other.detach()
        case "eventfd":
            return os.eventfd(0), os.eventfd(0)
        case _:
            return ()


async def compare_pairs(pairs: Sequence[Pair], plan: Plan, *, one_way: bool) -> dict[str, Shown]:
    """Let the pairs take turns, in an order that is turned round every time; returns what each showed, by name.

    :raises UnreachableError: an end failed or did not finish, or a peer lost or mixed up messages.
    """
    shown = {pair.name: Shown() for pair in pairs}
    for pair in pairs:  # all are there before the first is measured
        await pair.ready()
    for pair in pairs:
        await _round(pair, plan.warm_up, plan.batch, Shown(), one_way=one_way)
    for number in range(plan.rounds):
        for pair in pairs if number % 2 == 0 else reversed(pairs):
            await _round(pair, plan.count, plan.batch, shown[pair.name], one_way=one_way)
    for pair in pairs:
        shown[pair.name].facts = await pair.facts()
    return shown


async def _round(pair: Pair, count: int, batch: int, into: Shown, *, one_way: bool) -> None:
    if one_way:
        per_s, wrong = await pair.one_way(count, batch)
    else:
        asked = await pair.round_trips(count)
        into.p50.values.append(asked["p50"])
        into.p99.values.append(asked["p99"])
        per_s, wrong = count / asked["seconds"], asked["wrong"]
    into.per_s.values.append(per_s)
    into.wrong += wrong
    if wrong and pair.name != OURS:
        raise UnreachableError(f"{pair.name} lost or mixed up {wrong} of {count} messages")
