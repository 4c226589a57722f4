"""``hcall/unix-*`` and ``crq/unix-rtt``: the peers answer each call with its own, losses show, paths are checked."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from behaviour_worlds import Loopback

from pvnet.bench import grpc_peer
from pvnet.bench.crq import CrqContender, Queue
from pvnet.bench.hcall import hcall_topology, partition_endpoint
from pvnet.bench.pair import open_pair
from pvnet.bench.pair_contender import PairContender
from pvnet.bench.placement import Placement
from pvnet.bench.rounds import compare
from pvnet.bench.unix_peer import UnixStreamContender
from pvnet.cli.bench import SCENARIOS
from pvnet.client import Lab
from pvnet.core.errors import UnreachableError
from pvnet.runtime.layout import partition_layout
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.loopback import LoopbackNetwork

PVNET = shutil.which("pvnet", path=str(Path(sys.executable).parent)) or "pvnet"


def test_the_cases_are_offered() -> None:
    assert {"unix-rtt", "unix-concurrent"} <= set(SCENARIOS["hcall"])
    assert SCENARIOS["crq"] == ("unix-rtt",)


@pytest.mark.parametrize("size", [1, 100, 70_000])
async def test_the_stream_answers_every_call_with_its_own(size: int) -> None:
    async with UnixStreamContender(size) as peer:
        for in_flight in (1, 16):
            shown = await peer.round(200, in_flight)
            assert (len(shown.times), shown.wrong) == (200, 0)


async def test_a_stream_that_ends_fails_its_calls() -> None:
    async with UnixStreamContender(64) as peer:
        assert (await peer.round(2, 1)).wrong == 0
        peer._answers.connection_lost(None)
        peer._answers.transport.abort()
        with pytest.raises(UnreachableError, match="uvloop-unix"):
            await compare([_Hung(peer)], rounds=1, count=2, warm_up=1, in_flight=1)


class _Hung(UnixStreamContender):
    """The same connection, asked once more when the other side has gone."""

    def __init__(self, peer: UnixStreamContender) -> None:
        self._peer = peer

    async def round(self, count: int, in_flight: int) -> object:  # type: ignore[override]
        import asyncio

        task = asyncio.ensure_future(self._peer.round(count, in_flight))
        while not self._peer._answers.waiting:  # noqa: ASYNC110 - the call has no event of its own
            await asyncio.sleep(0)
        self._peer._answers.connection_lost(ConnectionResetError("gone"))
        return await task


@pytest.mark.skipif(not grpc_peer.installed(), reason="grpcio is not installed")
async def test_grpc_over_a_unix_socket_answers_every_call_with_its_own() -> None:
    async with grpc_peer.GrpcContender(100, unix=True) as peer:
        shown = await peer.round(100, 16)
    assert (len(shown.times), shown.wrong) == (100, 0)


async def test_a_pair_of_processes_takes_turns_with_others() -> None:
    async with open_pair("eventfd", Placement.together(), one_way=False) as pair, UnixStreamContender(64) as stream:
        shown = await compare([PairContender(pair), stream], rounds=2, count=100, warm_up=10, in_flight=1)
    assert set(shown) == {"eventfd", "uvloop-unix"}
    assert all(0 < one.p50.median <= one.p99.median for one in shown.values())


def test_an_element_that_does_not_arrive_as_it_was_sent_is_lost() -> None:
    topology = hcall_topology("auto")

    async def main() -> None:
        async with InProcessLab(topology, Loopback(LoopbackNetwork())) as lab:
            queues = []
            for name in ("caller", "partner"):
                endpoint = await lab.client(name)
                await endpoint.wait_peer(HYPERVISOR)
                queue = Queue(endpoint, partition_layout(topology, name).adapters[0])
                await queue.open()
                queues.append(queue)
            contender = CrqContender(*queues)
            # More elements than the queue has slots: progress is reported, nothing is dropped.
            assert (await contender.round(1000, 1)).wrong == 0
            assert contender.message_bytes > 16
            arrived = queues[1].on_element
            queues[1].on_element = lambda element: arrived(element[:-1] + b"?")
            assert (await contender.round(3, 1)).wrong == 3
            with pytest.raises(UnreachableError, match="H_RESOURCE to H_REG_CRQ"):
                await queues[1].open()  # it is registered

    run_virtual(main())


@pytest.mark.slow
async def test_without_direct_paths_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVNET_UNIX", "never")
    topology = hcall_topology("auto", unix=True)
    async with Lab(topology) as lab:
        assert lab.processes is not None
        broker = lab.processes.supervisor.broker.url.text()
        with pytest.raises(UnreachableError, match=f"no direct path from caller to the {HYPERVISOR}"):
            async with partition_endpoint(topology, broker, "caller"):
                pass


@pytest.mark.slow
def test_bench_measures_real_processes_over_the_direct_path(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    arguments = ["hcall/unix-rtt", "hcall/unix-concurrent", "crq", "--quick", "--json", str(file)]
    done = subprocess.run([PVNET, "bench", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(file.read_text())["results"]
    assert [(r["scenario"], r["case"], r["metric"]) for r in results] == [
        ("hcall", "unix-rtt", "round_trip_s"),
        ("hcall", "unix-rtt", "per_s"),
        ("hcall", "unix-concurrent", "per_s"),
        ("crq", "unix-rtt", "round_trip_s"),
        ("crq", "unix-rtt", "per_s"),
    ]
    grpc = ["grpc-aio"] if importlib.util.find_spec("grpc") is not None else []
    for result in results:
        assert result["lost"] == 0
        assert set(result["peers"]) == {"uvloop-unix", *(["eventfd"] if result["scenario"] == "crq" else grpc)}
        assert result["notes"]["placement"] == f"all processes on CPU {min(os.sched_getaffinity(0))}"
