"""``vmc/echo-64`` and ``vmc/echo-4096``: the VMC's echo next to a bare aiomqtt ping-pong on the same broker.

An echo has eight one-way messages on its critical path (docs/architecture.md): write, RDMA call, its reply, SIGNAL
call, SIGNAL entry, RDMA call, its reply, read.  The ideal is therefore eight times the bare one-way time, four round
trips; ``notes.of_ideal`` says how far we are from it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection
from statistics import quantiles
from typing import Final

from pvnet.bench.aiomqtt_peer import AiomqttPing
from pvnet.bench.report import Result, Series
from pvnet.client import Lab, VmcSession
from pvnet.runtime.topology import BrokerConfig, default_topology

CRITICAL_PATH: Final = 8
_WARM_UP: Final = 50
_ROUTER_HEADER: Final = 32


async def bench_vmc(*, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]) -> list[Result]:
    """Measure the cases; returns round trip times and rates."""
    rounds, count = (3, 90) if quick else (7, 400)
    topology = default_topology(f"bench-{os.getpid()}-{secrets.token_hex(2)}")
    # Over the broker: the ideal that it is compared with is eight messages through one.
    over_broker = topology.lab.model_copy(update={"unix": False})
    lab = Lab(topology.model_copy(update={"broker": BrokerConfig(use=broker), "lab": over_broker}))
    results: list[Result] = []
    async with lab:
        assert lab.processes is not None
        chosen = lab.processes.supervisor.broker
        tell(f"broker: {chosen.description}")
        async with AiomqttPing(chosen.url.text()) as ping, lab.vmc_session("pvnet-bench") as session:
            await session.router_open()
            for size in (64, 4096):
                if f"echo-{size}" in cases:
                    results += await _case(session, ping, size, rounds, count, tell)
            await session.router_close()
    return results


async def _case(
    session: VmcSession, ping: AiomqttPing, size: int, rounds: int, count: int, tell: Callable[[str], None]
) -> list[Result]:
    data = bytes(size - _ROUTER_HEADER)  # the whole message has ``size`` bytes
    payload = bytes(size)
    ours, bare, rates, bare_rates = Series(), Series(), Series(), Series()
    p99, bare_p99 = Series(), Series()
    lost = 0
    await _echoes(session, data, _WARM_UP)
    await ping.round_trips(payload, _WARM_UP)
    for _ in range(rounds):
        theirs = await ping.round_trips(payload, count)
        mine, wrong = await _echoes(session, data, count)
        lost += wrong
        for times, middle, slow, rate in ((mine, ours, p99, rates), (theirs, bare, bare_p99, bare_rates)):
            cuts = quantiles(times, n=100)
            middle.values.append(cuts[49])
            slow.values.append(cuts[98])
            rate.values.append(len(times) / sum(times))
    ideal = CRITICAL_PATH * bare.median / 2
    notes = {
        "critical_path_messages": CRITICAL_PATH,
        "bare_one_way_s": bare.median / 2,
        "ideal_s": ideal,
        "of_ideal": ours.median / ideal,
        "p99_s": p99.median,
        "bare_p99_s": bare_p99.median,
    }
    tell(
        f"vmc/echo-{size}: p50 {ours.median * 1e3:.2f} ms, p99 {p99.median * 1e3:.2f} ms, {rates.median:.0f}/s; "
        f"bare aiomqtt round trip p50 {bare.median * 1e3:.2f} ms, p99 {bare_p99.median * 1e3:.2f} ms; "
        f"{ours.median / ideal:.2f} of the ideal of {CRITICAL_PATH} one-way times, {lost} lost"
    )
    case = f"echo-{size}"
    return [
        Result("vmc", case, "round_trip_s", "s", ours, {"aiomqtt": bare}, lost, notes),
        Result("vmc", case, "per_s", "1/s", rates, {"aiomqtt": bare_rates}, lost),
    ]


async def _echoes(session: VmcSession, data: bytes, count: int) -> tuple[list[float], int]:
    times, wrong = [], 0
    for _ in range(count):
        start = time.perf_counter()
        wrong += (await session.echo(data)) != data
        times.append(time.perf_counter() - start)
    return times, wrong
