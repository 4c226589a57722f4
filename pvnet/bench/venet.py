"""``venet/throughput`` and ``venet/rtt``: ordinary programs over two guests' virtual Ethernets, from TAP to TAP.

Two partitions of a lab show their venets as TAP devices, each in a network namespace; what ``iperf3`` and ``ping`` send
from one to the other goes TAP, guest, bridge, guest, TAP: three processes of pvnet.  The same programs run between two
namespaces with a veth pair (``veth``: the kernel alone, the limit) and with the least Python that copies frames
between two TAPs (``tap-loop``: one process, no switch, no checks).  All three have an MTU of 1500.

It needs root; without it, or without iperf3, nothing is measured, and the command says so.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pvnet.bench.netns import Route, iperf3_server, namespaces, ping, throughput, wait_reachable, what_is_missing
from pvnet.bench.placement import Placement, pinned
from pvnet.bench.report import Result, Series
from pvnet.bench.rounds import OURS
from pvnet.bench.tap_loop import OFFLOADS
from pvnet.bench.venet_peers import MTU, tap_loop, veth
from pvnet.client import Lab
from pvnet.core.errors import UnreachableError
from pvnet.pb.v1.management_pb2 import Management, ShowStatus
from pvnet.runtime.topology import BRIDGE, Topology

_GUESTS: Final = ("near", "far")
_ADDRESSES: Final = ("10.77.0.1", "10.77.0.2")
_PING_INTERVAL_S: Final = 0.002
_LINK_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a case is measured."""

    rounds: int
    amount: int
    """Seconds of iperf3, or pings."""


def _plans(*, quick: bool) -> dict[str, Plan]:
    if quick:
        return {"throughput": Plan(3, 1), "rtt": Plan(3, 120)}
    return {"throughput": Plan(5, 4), "rtt": Plan(7, 1000)}


@dataclass(slots=True)
class Shown:
    """What a way between two namespaces showed."""

    series: Series = field(default_factory=Series)
    other: int = 0
    """Pings without an answer; or TCP segments that were sent again."""


def venet_topology(broker: str, near: str, far: str) -> Topology:
    """Return a lab of two guests whose venets are TAPs in two namespaces, on one switch."""
    guests = [
        {
            "name": name,
            "venet": [{"switch": "net0", "tap": f"{name}0", "netns": namespace, "address": f"{address}/24"}],
        }
        for name, namespace, address in zip(_GUESTS, (near, far), _ADDRESSES, strict=True)
    ]
    return Topology.model_validate(
        {
            "lab": {"name": f"bench-{os.getpid()}-{secrets.token_hex(2)}"},
            "broker": {"use": broker},
            "switch": [{"name": "net0", "mtu": MTU}],
            "partition": guests,
        }
    )


@asynccontextmanager
async def pvnet_contender(topology: Topology) -> AsyncIterator[Route]:
    """Run a lab of :func:`venet_topology` until frames pass.

    :raises UnreachableError: they do not.
    """
    near, far = (partition.venet[0].netns for partition in topology.partitions)
    assert near is not None
    assert far is not None
    async with Lab(topology) as lab:
        assert lab.processes is not None
        nodes = {node.name: node.pid for node in lab.processes.supervisor.nodes()}
        movers = tuple(pid for name in (*_GUESTS, BRIDGE) if (pid := nodes[name]) is not None)
        route = Route(OURS, near, far, _ADDRESSES[1], movers)
        await wait_reachable(route, _LINK_S)
        reply = await lab.command(BRIDGE, Management(show_status=ShowStatus()))
        clients = json.loads(reply.status_json)["clients"]
        yield replace(route, facts={"shared_memory": all(client["shared"] for client in clients)})


async def bench_venet(*, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]) -> list[Result]:
    """Measure the cases; returns round trip times and rates, or nothing where it is not possible."""
    missing = what_is_missing()
    if missing is not None:
        tell(f"venet: not measured: {missing}")
        return []
    results: list[Result] = []
    async with AsyncExitStack() as stack:
        near, far = await stack.enter_async_context(namespaces("pa", "pb"))
        routes = [
            await stack.enter_async_context(pvnet_contender(venet_topology(broker, near, far))),
            await stack.enter_async_context(veth()),
            await stack.enter_async_context(tap_loop()),
        ]
        plans = _plans(quick=quick)
        if "throughput" in cases:
            results.append(await measure_throughput(routes, plans["throughput"], tell))
        if "rtt" in cases:
            results.append(await measure_rtt(routes, plans["rtt"], tell))
    return results


async def measure_throughput(routes: Sequence[Route], plan: Plan, tell: Callable[[str], None]) -> Result:
    """Let iperf3 send over each in turns; programs and forwarding processes share the same two CPUs."""
    placement = Placement.apart_or_together()
    cpus = placement.cpus
    shown = {route.name: Shown() for route in routes}
    async with AsyncExitStack() as stack:
        stack.enter_context(_all_pinned(routes, cpus))
        for route in routes:
            await stack.enter_async_context(iperf3_server(route, cpus))
        for number in range(plan.rounds):
            for route in routes if number % 2 == 0 else reversed(routes):
                rate, again = await throughput(route, plan.amount, cpus)
                shown[route.name].series.values.append(rate)
                shown[route.name].other += again
    ours, peers = _split(shown)
    notes = _notes(f"iperf3 and all that forwards on CPU {' and '.join(map(str, cpus))}", routes)
    notes["tcp_resent"] = {name: one.other for name, one in shown.items()}
    tell(
        f"venet/throughput: {ours.series.median * 8 / 1e9:.2f} Gbit/s; "
        + "; ".join(
            f"{name} {peer.median * 8 / 1e9:.2f} Gbit/s (we: {ours.series.median / peer.median:.2f} of it)"
            for name, peer in peers.items()
        )
    )
    return Result("venet", "throughput", "bytes_per_s", "B/s", ours.series, peers, 0, notes)


async def measure_rtt(routes: Sequence[Route], plan: Plan, tell: Callable[[str], None]) -> Result:
    """Let ping ask over each in turns, with all processes on one CPU."""
    cpus = Placement.together().cpus
    shown = {route.name: Shown() for route in routes}
    with _all_pinned(routes, cpus):
        for route in routes:
            await ping(route, 50, _PING_INTERVAL_S, cpus)
        for number in range(plan.rounds):
            for route in routes if number % 2 == 0 else reversed(routes):
                seconds, lost = await ping(route, plan.amount, _PING_INTERVAL_S, cpus)
                shown[route.name].series.values.append(seconds)
                shown[route.name].other += lost
                if lost and route.name != OURS:
                    raise UnreachableError(f"{route.name} lost {lost} of {plan.amount} pings")
    ours, peers = _split(shown)
    notes = _notes(f"ping and all that forwards on CPU {cpus[0]}", routes)
    tell(
        f"venet/rtt: {ours.series.median * 1e6:.1f} us, {ours.other} lost; "
        + "; ".join(
            f"{name} {peer.median * 1e6:.1f} us (we: {ours.series.median / peer.median:.2f} x)"
            for name, peer in peers.items()
        )
    )
    return Result("venet", "rtt", "round_trip_s", "s", ours.series, peers, ours.other, notes)


def _all_pinned(routes: Iterable[Route], cpus: Iterable[int]) -> ExitStack:
    stack = ExitStack()
    for route in routes:
        if route.processes:
            stack.enter_context(pinned(cpus, *route.processes))
    return stack


def _split(shown: dict[str, Shown]) -> tuple[Shown, dict[str, Series]]:
    return shown[OURS], {name: one.series for name, one in shown.items() if name != OURS}


def _notes(placement: str, routes: Sequence[Route]) -> dict[str, Any]:
    return {
        "placement": placement,
        "mtu": MTU,
        "processes": {route.name: len(route.processes) for route in routes},
        "tap_loop_offloads": OFFLOADS,
        "facts": {route.name: route.facts for route in routes if route.facts},
    }
