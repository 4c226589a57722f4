"""``hcall/...``: a hypervisor call over the broker and over the direct path, beside what else one could take.

The caller is this process in the place of a partition that the lab leaves switched off; the hypervisor is the lab's
own process.  The call is H_GET_TCE on a window of the caller: through the hypervisor's dispatcher to a table and back,
with an answer that tells the calls apart, so that a lost or mixed-up answer is seen.  An H_GET_TCE is two messages
through the broker, as a ping-pong of ``aiomqtt`` is; the peers' messages have the size of its reply.  ``grpc-aio`` has
no broker between the two processes: it says what the broker costs.

``unix-rtt`` and ``unix-concurrent`` are the same call over the direct path (a unix socket), beside gRPC over a unix
socket and a bare stream echo (``uvloop-unix``).  There all processes, the peers' too, share one CPU: waking a process
on another one costs more than everything that is measured here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from pvnet.bench import grpc_peer
from pvnet.bench.aiomqtt_peer import AiomqttContender, AiomqttPing
from pvnet.bench.placement import Placement, pinned
from pvnet.bench.report import Result
from pvnet.bench.rounds import OURS, Contender, Measured, Round, compare, keep_in_flight
from pvnet.bench.unix_peer import UnixStreamContender
from pvnet.client import Lab
from pvnet.core.errors import UnreachableError
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_BOTH
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import HcallClient
from pvnet.runtime.layout import DMA_BASE, PAGE, partition_layout
from pvnet.runtime.service import make_port
from pvnet.runtime.topology import HYPERVISOR, Topology

IN_FLIGHT: Final = 64
_CALLER: Final = "caller"
_PAGES: Final = 512


_UNIX_PREFIX: Final = "unix-"


@dataclass(frozen=True, slots=True)
class _Case:
    """How a case is measured."""

    in_flight: int
    rounds: int
    count: int
    warm_up: int


def _cases(*, quick: bool) -> dict[str, _Case]:
    if quick:
        return {
            "mqtt-rtt": _Case(1, 3, 400, 100),
            "mqtt-pipelined": _Case(IN_FLIGHT, 3, 1500, 500),
            "unix-rtt": _Case(1, 3, 1500, 500),
            "unix-concurrent": _Case(IN_FLIGHT, 3, 2500, 500),
        }
    return {
        "mqtt-rtt": _Case(1, 7, 1000, 200),
        "mqtt-pipelined": _Case(IN_FLIGHT, 7, 5000, 1000),
        "unix-rtt": _Case(1, 9, 5000, 1000),
        "unix-concurrent": _Case(IN_FLIGHT, 9, 10_000, 1000),
    }


def hcall_topology(broker: str, *, unix: bool = False) -> Topology:
    """Return a lab of a hypervisor alone; two partitions that stay off share a CRQ, and so have a DMA window each.

    ``unix``: whether there are direct paths.
    """
    partitions = [{"name": name, "autostart": False} for name in (_CALLER, "partner")]
    return Topology.model_validate(
        {
            "lab": {"name": f"bench-{os.getpid()}-{secrets.token_hex(2)}", "unix": unix},
            "broker": {"use": broker},
            "partition": partitions,
            "crq": [{"a": f"{_CALLER}:0x30000010", "b": "partner:0x30000010"}],
        }
    )


class HcallContender:
    """The partition's side, on an endpoint that is ready; :meth:`fill` first."""

    name = OURS
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, hcalls: HcallClient, liobn: int) -> None:
        self._hcalls = hcalls
        self._liobn = liobn
        self.reply_bytes = 0

    def _page(self, number: int) -> tuple[int, int]:
        """I/O address of a call, and the entry there: none is its own address, each must be looked up."""
        page = number % _PAGES
        return page * PAGE, DMA_BASE + (_PAGES - page) * PAGE | ACCESS_BOTH

    async def fill(self) -> None:
        """Map the window, and see how large a reply is.

        :raises UnreachableError: the hypervisor does not take it.
        """

        async def put(number: int) -> bool:
            ioba, tce = self._page(number)
            rc, _ = await self._hcalls.call(HcallOpcode.H_PUT_TCE, (self._liobn, ioba, tce))
            return rc == HcallRc.H_SUCCESS

        mapped = await keep_in_flight(put, _PAGES, IN_FLIGHT)
        if mapped.wrong:
            raise UnreachableError(f"the hypervisor refused {mapped.wrong} of {_PAGES} calls of H_PUT_TCE")
        taps = self._hcalls.endpoint.taps.listeners
        taps.append(self._see)
        await self.get(1)
        taps.remove(self._see)

    def _see(self, direction: str, envelope: Envelope) -> None:
        if direction == "in" and envelope.WhichOneof("body") == "hcall_reply":
            self.reply_bytes = envelope.ByteSize()

    async def get(self, number: int) -> bool:
        """Make one call; whether the answer is the one that belongs to it."""
        ioba, tce = self._page(number)
        rc, outs = await self._hcalls.call(HcallOpcode.H_GET_TCE, (self._liobn, ioba))
        return rc == HcallRc.H_SUCCESS and outs[0] == tce

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` calls with ``in_flight`` under way."""
        return await keep_in_flight(self.get, count, in_flight)


@asynccontextmanager
async def partition_endpoint(topology: Topology, broker: str, name: str) -> AsyncIterator[Endpoint]:
    """Be a partition in a lab of ``topology`` that runs.

    :raises UnreachableError: the lab has direct paths, and there is none to its hypervisor.
    """
    lab = topology.lab
    endpoint = Endpoint(make_port(broker, lab.name, name, unix=lab.unix), lab=lab.name, name=name, role="partition")
    try:
        await endpoint.start()
        await endpoint.wait_peer(HYPERVISOR)
        if lab.unix and not await endpoint.settle_path(HYPERVISOR):
            raise UnreachableError(f"there is no direct path from {name} to the hypervisor (PVNET_UNIX=never?)")
        endpoint.ready()
        yield endpoint
    finally:
        await endpoint.stop()


@asynccontextmanager
async def hcall_contender(topology: Topology, broker: str) -> AsyncIterator[HcallContender]:
    """Be the caller's partition in a lab of ``topology`` that runs."""
    async with partition_endpoint(topology, broker, _CALLER) as endpoint:
        adapter = partition_layout(topology, _CALLER).adapters[0]
        contender = HcallContender(HcallClient(endpoint, HYPERVISOR, Segment(bytearray()), {}), int(adapter.liobn))
        await contender.fill()
        yield contender


async def bench_hcall(*, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]) -> list[Result]:
    """Measure the cases; returns round trip times one by one, and rates."""
    chosen = {name: case for name, case in _cases(quick=quick).items() if name in cases}
    over_unix = {name: case for name, case in chosen.items() if name.startswith(_UNIX_PREFIX)}
    over_broker = {name: case for name, case in chosen.items() if name not in over_unix}
    results: list[Result] = []
    if over_broker:
        results += await _measure(over_broker, broker, tell, unix=False)
    if over_unix:
        placement = Placement.together()
        with pinned(placement.cpus):  # before anything is started, so that all of it stays there
            measured = await _measure(over_unix, broker, tell, unix=True)
        for result in measured:
            result.notes["placement"] = f"all processes on CPU {placement.asks}"
        results += measured
    return results


async def _measure(cases: dict[str, _Case], broker: str, tell: Callable[[str], None], *, unix: bool) -> list[Result]:
    topology = hcall_topology(broker, unix=unix)
    results: list[Result] = []
    async with Lab(topology) as lab, AsyncExitStack() as stack:
        assert lab.processes is not None
        chosen = lab.processes.supervisor.broker
        tell(f"broker: {chosen.description}")
        ours = await stack.enter_async_context(hcall_contender(topology, chosen.url.text()))
        contenders: list[Contender] = [ours]
        if unix:
            contenders.append(await stack.enter_async_context(UnixStreamContender(ours.reply_bytes)))
        else:
            ping = await stack.enter_async_context(AiomqttPing(chosen.url.text()))
            contenders.append(AiomqttContender(ping, ours.reply_bytes))
        if grpc_peer.installed():
            grpc = grpc_peer.GrpcContender(ours.reply_bytes, unix=unix)
            contenders.append(await stack.enter_async_context(grpc))
        else:
            tell("peer grpc-aio is skipped: grpcio is not installed (pip install 'pvnet[bench]')")
        for name, case in cases.items():
            measured = await compare(
                contenders, rounds=case.rounds, count=case.count, warm_up=case.warm_up, in_flight=case.in_flight
            )
            results += case_results(name, case.in_flight, ours.reply_bytes, measured)
            tell(case_line(name, measured))
    return results


def case_results(name: str, in_flight: int, size: int, measured: dict[str, Measured]) -> list[Result]:
    """Write one case down: rates, and one by one also the round trip time."""
    ours = measured[OURS]
    peers = {peer: shown for peer, shown in measured.items() if peer != OURS}
    notes: dict[str, Any] = {
        "call": "H_GET_TCE",
        "in_flight": in_flight,
        "message_bytes": size,
        "p50_s": ours.p50.median,
        "p99_s": ours.p99.median,
        "peers": {peer: {"p50_s": shown.p50.median, "p99_s": shown.p99.median} for peer, shown in peers.items()},
    }
    rates = {peer: shown.per_s for peer, shown in peers.items()}
    results = [Result("hcall", name, "per_s", "1/s", ours.per_s, rates, ours.wrong, notes)]
    if in_flight == 1:
        times = {peer: shown.p50 for peer, shown in peers.items()}
        results.insert(0, Result("hcall", name, "round_trip_s", "s", ours.p50, times, ours.wrong, notes))
    return results


def case_line(name: str, measured: dict[str, Measured]) -> str:
    """Say one case in a line."""
    digits = 3 if name.startswith(_UNIX_PREFIX) else 2

    def figures(shown: Measured) -> str:
        p50, p99 = (series.median * 1e3 for series in (shown.p50, shown.p99))
        return f"{shown.per_s.median:.0f}/s, p50 {p50:.{digits}f} ms, p99 {p99:.{digits}f} ms"

    ours = measured[OURS]
    peers = "; ".join(
        f"{peer} {figures(shown)} (we: {ours.per_s.median / shown.per_s.median:.2f} of its rate)"
        for peer, shown in measured.items()
        if peer != OURS
    )
    return f"hcall/{name}: {figures(ours)}, {ours.wrong} lost; {peers}"
