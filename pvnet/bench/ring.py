"""``ring/…``: 64-byte messages between two processes, over our ring in shared memory beside what else one would take.

One way in batches of 64, as numpy arrays (``64B-batched``, the packed peer's frames too) and as lists of bytes
(``64B-batched-lists``), one way with a call for each message (``64B-single``), and there and back: on one CPU, where a
sleeping process is woken cheaply (``64B-rtt``), and on two, where waking is what costs and both sides of the ring may
spin for a bounded time before they sleep (``64B-rtt-spin``).  Every contender is two processes of their own with all
their threads pinned; every message is checked where it arrives, within the time that counts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from pvnet.bench.messages import BATCH, MESSAGE_BYTES
from pvnet.bench.pair import Plan, Shown, compare_pairs, open_pair
from pvnet.bench.placement import Placement
from pvnet.bench.report import Result, Series
from pvnet.bench.rounds import OURS

_ZMQ: Final = frozenset({"pyzmq-ipc", "pyzmq-packed"})


@dataclass(frozen=True, slots=True)
class RingCase:
    """What a case measures."""

    peers: tuple[str, ...]
    one_way: bool
    apart: bool
    """On two CPUs; a case that need not be is measured on one if there is only one."""
    needs_two: bool = False
    spin: bool = False
    batch: int = 1
    arrays: bool = False
    """Batches are numpy arrays, ours and the packed peer's; else lists of bytes."""


CASES: Final = {
    "64B-batched": RingCase(
        ("pyzmq-ipc", "pyzmq-packed", "uvloop-unix", "mp-pipe"), one_way=True, apart=True, batch=BATCH, arrays=True
    ),
    "64B-batched-lists": RingCase(
        ("pyzmq-ipc", "pyzmq-packed", "uvloop-unix", "mp-pipe"), one_way=True, apart=True, batch=BATCH
    ),
    "64B-single": RingCase(("pyzmq-ipc", "uvloop-unix", "mp-pipe"), one_way=True, apart=True),
    "64B-rtt": RingCase(("eventfd", "pyzmq-ipc", "uvloop-unix", "mp-pipe"), one_way=False, apart=False),
    "64B-rtt-spin": RingCase(
        ("eventfd", "pyzmq-ipc", "uvloop-unix", "mp-pipe"), one_way=False, apart=True, needs_two=True, spin=True
    ),
}


def plans(*, quick: bool) -> dict[str, Plan]:
    """How each case is measured; counts are multiples of a batch."""
    rounds = 3 if quick else 9
    factor = 5 if quick else 32
    return {
        "64B-batched": Plan(rounds, factor * 500 * BATCH, 500 * BATCH, BATCH),
        "64B-batched-lists": Plan(rounds, factor * 500 * BATCH, 500 * BATCH, BATCH),
        "64B-single": Plan(rounds, factor * 125 * BATCH, 200 * BATCH),
        "64B-rtt": Plan(rounds, factor * 375, 1000),
        "64B-rtt-spin": Plan(rounds, factor * 375, 1000),
    }


async def bench_ring(
    *,
    quick: bool,
    broker: str,  # noqa: ARG001 - no broker is in it
    cases: Collection[str],
    tell: Callable[[str], None],
) -> list[Result]:
    """Measure the cases; returns rates and round trip times."""
    has_zmq = importlib.util.find_spec("zmq") is not None
    if not has_zmq:
        tell("peers pyzmq-ipc and pyzmq-packed are skipped: pyzmq is not installed (pip install 'pvnet[bench]')")
    results: list[Result] = []
    for name, plan in plans(quick=quick).items():
        if name not in cases:
            continue
        case = CASES[name]
        if case.needs_two and Placement.apart() is None:
            tell(f"ring/{name}: not measured: it needs two CPUs")
            continue
        result = await measure(name, case, plan, has_zmq=has_zmq)
        results.append(result)
        tell(case_line(result))
    return results


async def measure(name: str, case: RingCase, plan: Plan, *, has_zmq: bool) -> Result:
    """Measure one case.

    :raises UnreachableError: a contender failed.
    """
    placement = Placement.apart_or_together() if case.apart else Placement.together()
    contenders = [OURS, *(peer for peer in case.peers if has_zmq or peer not in _ZMQ)]
    async with AsyncExitStack() as stack:
        pairs = []
        for contender in contenders:
            options = {"spin": case.spin, "arrays": case.arrays}
            pairs.append(
                await stack.enter_async_context(open_pair(contender, placement, one_way=case.one_way, options=options))
            )
        shown = await compare_pairs(pairs, plan, one_way=case.one_way)
    return case_result(name, case, plan, placement, shown)


def case_result(name: str, case: RingCase, plan: Plan, placement: Placement, shown: dict[str, Shown]) -> Result:
    """Write one case down."""

    def figures(one: Shown) -> Series:
        return one.per_s if case.one_way else one.p50

    notes: dict[str, Any] = {
        "placement": str(placement),
        "message_bytes": MESSAGE_BYTES,
        "messages_per_round": plan.count,
        "batch": plan.batch,
        "spin": case.spin,
        "form": "numpy arrays" if case.arrays else "bytes",
        "facts": {contender: one.facts for contender, one in shown.items() if one.facts},
    }
    if not case.one_way:
        notes["p99_s"] = {contender: one.p99.median for contender, one in shown.items()}
    metric, unit = ("per_s", "1/s") if case.one_way else ("round_trip_s", "s")
    peers = {contender: figures(one) for contender, one in shown.items() if contender != OURS}
    return Result("ring", name, metric, unit, figures(shown[OURS]), peers, shown[OURS].wrong, notes)


def case_line(result: Result) -> str:
    """Say one case in a line."""

    def figure(series: Series) -> str:
        if result.metric == "per_s":
            return f"{series.median / 1e6:.2f} M/s"
        return f"{series.median * 1e6:.2f} us"

    peers = "; ".join(f"{name} {figure(peer)} (we: {result.ratios[name]:.2f} x)" for name, peer in result.peers.items())
    ours = f"{figure(result.pvnet)}, {result.lost} lost"
    return f"ring/{result.case} ({result.notes['placement']}): {ours}; {peers}"
