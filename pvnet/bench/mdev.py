"""``mdev``: accesses to a mediated device of another process over vfio-user, its irqs, its reach into our memory.

The device does next to nothing, so that the way to it is measured: ``await`` in a program, vfio-user over a unix
socket, checks, the device, and back.

``region-read-rtt``, ``region-write-rtt``
    4 bytes of a region, one access after the other, beside ``uvloop-unix``: requests and replies as long, over a bare
    stream of the same kind of socket, with nothing decoded and nothing checked (:mod:`pvnet.bench.mdev_peer`).
``region-read-pipelined``, ``region-write-pipelined``
    The same with 64 under way.
``irq-rtt``
    A posted write rings a doorbell, the device signals the irq, we hear it: a message there, an eventfd back.  Beside
    ``eventfd``: two processes that wake each other, the floor.
``ccw-read``
    Whole channel programs that read a block (:mod:`pvnet.bench.mdev_ccw`).
``dma``
    The device reads memory of ours that it has mapped into its own, and writes it back elsewhere, 2 MiB per request in
    accesses of 256 KiB; what counts is the bytes that its accesses move.  Beside ``memcpy``: the bytes that one slice
    assignment between the same two places moves, in this process.

All processes share one CPU: waking a process on another one costs more than everything that is measured here.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pvnet.bench.mdev_ccw import MESSAGE_BYTES, TwiceContender, programs
from pvnet.bench.mdev_peer import PlainAccessContender
from pvnet.bench.mdev_server import ACCESS_BYTES, BELL, COPY, COPY_WORDS, PLAIN, REGISTERS
from pvnet.bench.pair import open_pair
from pvnet.bench.pair_contender import PairContender
from pvnet.bench.peer_process import peer_process
from pvnet.bench.placement import Placement, pinned
from pvnet.bench.report import Result, Series
from pvnet.bench.rounds import OURS, Contender, Measured, Round, compare, keep_in_flight
from pvnet.core.errors import PvnetError
from pvnet.mdev.names import PciIrq
from pvnet.vfio.client import VfioUserClient

IN_FLIGHT: Final = 64
SHORT, LONG = 32, 36
"""Bytes of an access without its 4 bytes of data (asked to read, written), and with them."""
COPY_BYTES: Final = 2 << 20
_IOVA: Final = 0x1_0000_0000
_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How many calls of a case make a round."""

    rounds: int
    count: int
    warm_up: int
    in_flight: int = 1


CASES: Final = {
    "region-read-rtt": (Plan(3, 1500, 300), Plan(9, 10_000, 1000)),
    "region-write-rtt": (Plan(3, 1500, 300), Plan(9, 10_000, 1000)),
    "region-read-pipelined": (Plan(3, 3000, 300, IN_FLIGHT), Plan(9, 20_000, 1000, IN_FLIGHT)),
    "region-write-pipelined": (Plan(3, 3000, 300, IN_FLIGHT), Plan(9, 20_000, 1000, IN_FLIGHT)),
    "irq-rtt": (Plan(3, 1500, 300), Plan(9, 10_000, 1000)),
    "ccw-read": (Plan(3, 300, 50), Plan(9, 2000, 300)),
    "dma": (Plan(7, 20, 0), Plan(31, 60, 0)),
}
"""Every case: quick, and not."""


class MdevContender:
    """Calls into the device, one kind of them."""

    name = OURS
    failures: tuple[type[Exception], ...] = (PvnetError,)

    def __init__(self, call: Callable[[int], Awaitable[bool]]) -> None:
        self._call = call

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` calls."""
        return await keep_in_flight(self._call, count, in_flight)


@asynccontextmanager
async def bench_devices() -> AsyncIterator[Path]:
    """Start the devices' process; returns the directory of their sockets."""
    with tempfile.TemporaryDirectory(prefix="pvnet-bench-") as directory:
        async with peer_process("pvnet.bench.mdev_server", directory):
            yield Path(directory)


async def reader(client: VfioUserClient) -> MdevContender:
    """Read one of two words, each of which has to be what was stored there."""
    words = (b"even", b"odd!")
    for at, word in enumerate(words):
        await client.write(REGISTERS, PLAIN + at * _WORD, word)
    read = client.read

    async def call(number: int) -> bool:
        odd = number & 1
        return bool(await read(REGISTERS, PLAIN + odd * _WORD, _WORD) == words[odd])

    return MdevContender(call)


async def writer(client: VfioUserClient) -> MdevContender:
    """Write the number; now and then it is read back."""
    write = client.write

    async def call(number: int) -> bool:
        word = number.to_bytes(_WORD)
        at = PLAIN + number % 1024 * _WORD
        await write(REGISTERS, at, word)
        return number % 1000 != 0 or bool(await client.read(REGISTERS, at, _WORD) == word)

    return MdevContender(call)


async def ringer(client: VfioUserClient) -> MdevContender:
    """Ring, and wait for the irq."""
    heard: list[asyncio.Future[bool]] = []
    await client.listen_irq(PciIrq.MSI, lambda: heard.pop().set_result(True))
    create_future = asyncio.get_running_loop().create_future
    write = client.write

    async def call(_number: int) -> bool:
        waiting = create_future()
        heard.append(waiting)
        await write(REGISTERS, BELL, b"\1", posted=True)
        return bool(await waiting)

    return MdevContender(call)


async def bench_mdev(
    *,
    quick: bool,
    broker: str,  # noqa: ARG001 - no broker takes part
    cases: Collection[str],
    tell: Callable[[str], None],
) -> list[Result]:
    """Measure the cases; returns round trip times, rates, bytes per second."""
    if not any(case in cases for case in CASES):
        return []
    placement = Placement.together()
    where = f"all processes on CPU {placement.asks}"
    results: list[Result] = []
    with pinned(placement.cpus):  # before anything is started, so that all of it stays there
        async with AsyncExitStack() as stack:
            sockets = await stack.enter_async_context(bench_devices())
            client = await stack.enter_async_context(await VfioUserClient.connect(sockets / "card"))
            for case, plans in CASES.items():
                if case not in cases:
                    continue
                plan = plans[0 if quick else 1]
                if case == "dma":
                    results.append(await measure_dma(client, plan, where))
                    tell(dma_line(results[-1]))
                    continue
                async with _contenders(case, client, sockets, placement) as contenders:
                    measured = await compare(
                        contenders,
                        rounds=plan.rounds,
                        count=plan.count,
                        warm_up=plan.warm_up,
                        in_flight=plan.in_flight,
                    )
                results += case_results(case, measured, plan, where)
                tell(case_line(case, measured, plan))
    return results


@asynccontextmanager
async def _contenders(
    case: str, client: VfioUserClient, sockets: Path, placement: Placement
) -> AsyncIterator[tuple[Contender, Contender]]:
    async with AsyncExitStack() as stack:
        if case == "irq-rtt":
            pair = await stack.enter_async_context(open_pair("eventfd", placement, one_way=False))
            yield await ringer(client), PairContender(pair)
        elif case == "ccw-read":
            disk = await stack.enter_async_context(await VfioUserClient.connect(sockets / "disk"))
            plain = await stack.enter_async_context(PlainAccessContender(MESSAGE_BYTES, MESSAGE_BYTES))
            yield MdevContender(await programs(disk)), TwiceContender(plain)
        elif "read" in case:
            yield await reader(client), await stack.enter_async_context(PlainAccessContender(SHORT, LONG))
        else:
            yield await writer(client), await stack.enter_async_context(PlainAccessContender(LONG, SHORT))


def case_results(case: str, measured: dict[str, Measured], plan: Plan, placement: str) -> list[Result]:
    """Write a case down: round trip times (of one access after the other) and rates."""
    ours = measured[OURS]
    peers = {peer: shown for peer, shown in measured.items() if peer != OURS}
    notes: dict[str, Any] = {
        "placement": placement,
        "in_flight": plan.in_flight,
        "p99_s": {name: shown.p99.median for name, shown in measured.items()},
    }
    rates = {peer: shown.per_s for peer, shown in peers.items()}
    rate = Result("mdev", case, "per_s", "1/s", ours.per_s, rates, ours.wrong, notes)
    if plan.in_flight > 1:
        return [rate]
    times = {peer: shown.p50 for peer, shown in peers.items()}
    return [Result("mdev", case, "round_trip_s", "s", ours.p50, times, ours.wrong, notes), rate]


def case_line(case: str, measured: dict[str, Measured], plan: Plan) -> str:
    """Say one case in a line."""
    ours = measured[OURS]
    texts = []
    for peer, shown in measured.items():
        if peer == OURS:
            continue
        if plan.in_flight > 1:
            ratio = ours.per_s.median / shown.per_s.median
            texts.append(f"{peer} {shown.per_s.median:,.0f}/s (we: {ratio:.2f} of it)")
        else:
            ratio = ours.p50.median / shown.p50.median
            texts.append(f"{peer} p50 {shown.p50.median * 1e6:.1f} us (we: {ratio:.2f} times that)")
    if plan.in_flight > 1:
        figure = f"{ours.per_s.median:,.0f}/s with {plan.in_flight} under way"
    else:
        figure = f"p50 {ours.p50.median * 1e6:.1f} us, p99 {ours.p99.median * 1e6:.1f} us"
    return f"mdev/{case}: {figure}, {ours.wrong} wrong; {'; '.join(texts)}"


async def measure_dma(client: VfioUserClient, plan: Plan, placement: str) -> Result:
    """Let the device and a bare copy take turns; every copy has to bring new bytes."""
    fd = os.memfd_create("pvnet-bench-mdev", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 2 * COPY_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory = memoryview(mmap.mmap(fd, 2 * COPY_BYTES))
        await client.dma_map(_IOVA, 2 * COPY_BYTES, fd=fd)
    finally:
        os.close(fd)
    source, target = memory[:COPY_BYTES], memory[COPY_BYTES:]
    words = COPY_WORDS.pack(_IOVA, _IOVA + COPY_BYTES, COPY_BYTES)

    async def by_device() -> None:
        for _ in range(plan.count):
            await client.write(REGISTERS, COPY, words)

    async def bare() -> None:
        for _ in range(plan.count):
            memory[COPY_BYTES : 2 * COPY_BYTES] = memory[:COPY_BYTES]

    ours, copied, wrong = Series(), Series(), 0
    turns: list[tuple[Series, int, Callable[[], Awaitable[None]]]] = [(ours, 2, by_device), (copied, 1, bare)]
    for number in range(plan.rounds + 1):  # the first warms up
        for into, moved, copies in turns if number % 2 == 0 else reversed(turns):
            source[:] = os.urandom(COPY_BYTES)
            start = time.perf_counter()
            await copies()
            seconds = time.perf_counter() - start
            wrong += 0 if target == source else plan.count
            if number:
                into.values.append(plan.count * moved * COPY_BYTES / seconds)
    await client.dma_unmap(_IOVA, 2 * COPY_BYTES)
    notes = {
        "placement": placement,
        "bytes_per_copy": COPY_BYTES,
        "bytes_per_access": ACCESS_BYTES,
        "copies_per_round": plan.count,
    }
    return Result("mdev", "dma", "bytes_per_s", "B/s", ours, {"memcpy": copied}, wrong, notes)


def dma_line(result: Result) -> str:
    """Say the case in a line."""
    return (
        f"mdev/dma: {result.pvnet.median / 1e9:.2f} GB/s by accesses of the device, bare copy "
        f"{result.peers['memcpy'].median / 1e9:.2f} GB/s (we: {result.ratios['memcpy']:.2f} of it), {result.lost} wrong"
    )
