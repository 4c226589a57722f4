"""``novalink/...``: requests to the NovaLink service, each over a new TLS connection, as pypowervm makes them.

The client asks for one partition: for the whole of it, or whether it has changed (``refresh``: the answer is a short
304).  The peer is a bare aiohttp handler with an answer of the same length behind a certificate of the same kind: most
of either's time is TLS, and the rest of ours is what a REST service has to do.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pvnet.bench import aiohttp_peer
from pvnet.bench.http_once import Server
from pvnet.bench.novalink_client import RestSession
from pvnet.bench.peer_process import peer_process
from pvnet.bench.report import Result
from pvnet.bench.rounds import OURS, Contender, Measured, Round, compare, keep_in_flight
from pvnet.client import Lab
from pvnet.core.errors import UnreachableError
from pvnet.novalink.certs import ensure
from pvnet.runtime.endpoints import read_endpoints
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_novalink import NovalinkConfig

IN_FLIGHT: Final = 32


@dataclass(frozen=True, slots=True)
class _Case:
    """How a case is measured."""

    refresh: bool
    in_flight: int
    rounds: int
    count: int


def _cases(*, quick: bool) -> dict[str, _Case]:
    rounds, one, many = (3, 40, 120) if quick else (7, 200, 1000)
    return {
        "get-rtt": _Case(False, 1, rounds, one),
        "get-concurrent": _Case(False, IN_FLIGHT, rounds, many),
        "refresh-concurrent": _Case(True, IN_FLIGHT, rounds, many),
    }


def novalink_topology(broker: str, folder: str, *, partitions: int = 4) -> Topology:
    """Return a lab of a management partition and ``partitions`` that are off; its CA stands in ``folder``."""
    others = [{"name": f"p{number}", "autostart": False} for number in range(partitions)]
    return Topology.model_validate(
        {
            "lab": {"name": f"bench-{os.getpid()}-{secrets.token_hex(2)}"},
            "broker": {"use": broker},
            "partition": [{"name": "mp", "management": True}, *others],
            "novalink": {"port": 0, "http_port": 0, "tls": folder},
        }
    )


class RestContender:
    """Requests for one resource to one server, ours or the peer."""

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, name: str, session: RestSession, path: str, size: int, etag: str) -> None:
        self.name = name
        self._session = session
        self._path = path
        self._size = size
        self._etag = etag
        self.refresh = False

    async def _get(self, _: int) -> bool:
        if self.refresh:
            return (await self._session.get(self._path, self._etag)).status == 304
        answer = await self._session.get(self._path)
        return answer.status == 200 and len(answer.body) == self._size

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` requests with ``in_flight`` under way."""
        return await keep_in_flight(self._get, count, in_flight)


async def ours(lab: Lab) -> tuple[RestContender, int]:
    """Log on at the service of a lab that runs; returns the contender and the length of its answer.

    :raises UnreachableError: the service does not say where it is, or does not answer.
    """
    assert lab.processes is not None
    endpoint = read_endpoints(lab.processes.supervisor.directory.path).get("novalink")
    if endpoint is None:
        raise UnreachableError("the lab has no novalink endpoint")
    try:
        session = await RestSession.at(cast("dict[str, Any]", endpoint))
        path = (await session.partitions())[0]
        answer = await session.get(path)
    except OSError as error:
        raise UnreachableError(f"novalink: {error}") from None
    return RestContender(OURS, session, path, len(answer.body), answer.headers["etag"]), len(answer.body)


@asynccontextmanager
async def peer(folder: str, size: int) -> AsyncIterator[RestContender]:
    """Start the bare handler, with answers of ``size`` bytes."""
    files = ensure(NovalinkConfig(tls=folder), Path(folder))
    told = json.dumps({"size": size, "cert": str(files.cert), "key": str(files.key)})
    async with peer_process("pvnet.bench.aiohttp_peer", told) as port:
        server = Server("localhost", int(port), ssl.create_default_context(cafile=files.ca))
        session = RestSession(server, aiohttp_peer.TOKEN)
        yield RestContender("aiohttp", session, "/rest/api/uom/LogicalPartition/1", size, aiohttp_peer.ETAG)


async def bench_novalink(
    *, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]
) -> list[Result]:
    """Measure the cases; returns round trip times one by one, and rates."""
    chosen = {name: case for name, case in _cases(quick=quick).items() if name in cases}
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="pvnet-bench-") as folder:
        async with Lab(novalink_topology(broker, folder)) as lab:
            we, size = await ours(lab)
            async with peer(folder, size) as they:
                both = [we, they]
                for name, case in chosen.items():
                    for contender in both:
                        contender.refresh = case.refresh
                    measured = await compare(
                        cast("list[Contender]", both),
                        rounds=case.rounds,
                        count=case.count,
                        warm_up=case.in_flight + 9,
                        in_flight=case.in_flight,
                    )
                    results += _results(name, case, size, measured)
                    tell(_line(name, measured))
    return results


def _results(name: str, case: _Case, size: int, measured: dict[str, Measured]) -> list[Result]:
    us = measured[OURS]
    peers = {peer: shown for peer, shown in measured.items() if peer != OURS}
    notes: dict[str, Any] = {
        "in_flight": case.in_flight,
        "body_bytes": 0 if case.refresh else size,
        "connection": "new for each request, TLS 1.3",
        "p50_s": us.p50.median,
        "p99_s": us.p99.median,
        "peers": {peer: {"p50_s": shown.p50.median, "p99_s": shown.p99.median} for peer, shown in peers.items()},
    }
    rates = {peer: shown.per_s for peer, shown in peers.items()}
    results = [Result("novalink", name, "per_s", "1/s", us.per_s, rates, us.wrong, notes)]
    if case.in_flight == 1:
        times = {peer: shown.p50 for peer, shown in peers.items()}
        results.insert(0, Result("novalink", name, "round_trip_s", "s", us.p50, times, us.wrong, notes))
    return results


def _line(name: str, measured: dict[str, Measured]) -> str:
    def figures(shown: Measured) -> str:
        p50, p99 = (series.median * 1e3 for series in (shown.p50, shown.p99))
        return f"{shown.per_s.median:.0f}/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms"

    us = measured[OURS]
    peers = "; ".join(
        f"{peer} {figures(shown)} (we: {us.per_s.median / shown.per_s.median:.2f} of its rate)"
        for peer, shown in measured.items()
        if peer != OURS
    )
    return f"novalink/{name}: {figures(us)}, {us.wrong} lost; {peers}"
