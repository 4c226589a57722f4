"""The ring scenario: each case with a few messages, and the shape of what it reports."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench_checks import check_result

from pvnet.bench import ring
from pvnet.bench.messages import BATCH
from pvnet.bench.pair import Plan, Shown
from pvnet.bench.placement import Placement
from pvnet.bench.report import Series
from pvnet.bench.ring import CASES, bench_ring, case_line, case_result, measure, plans
from pvnet.cli.bench import SCENARIOS

PVNET = str(Path(sys.executable).parent / "pvnet")


@pytest.mark.parametrize("name", list(CASES))
async def test_each_case_delivers_every_message_beside_its_peers(name: str) -> None:
    case = CASES[name]
    if case.needs_two and Placement.apart() is None:
        pytest.skip("this machine has one CPU")
    before = os.sched_getaffinity(0)
    batch = plans(quick=True)[name].batch
    result = await measure(name, case, Plan(rounds=2, count=20 * BATCH, warm_up=BATCH, batch=batch), has_zmq=True)
    shown = result.shown()
    check_result(shown)
    assert (shown["scenario"], shown["case"], shown["lost"]) == ("ring", name, 0)
    assert shown["metric"] == ("per_s" if case.one_way else "round_trip_s")
    assert set(shown["peers"]) == set(case.peers)
    expected = Placement.apart_or_together() if case.apart else Placement.together()
    assert shown["notes"]["placement"] == str(expected)
    assert os.sched_getaffinity(0) == before
    facts = shown["notes"]["facts"]["pvnet"].values()
    assert [end["rescues"] for end in facts] == [0, 0]
    assert case.spin or [end["spins"] for end in facts] == [0, 0]


def test_the_command_offers_these_cases() -> None:
    assert SCENARIOS["ring"] == tuple(CASES)
    for quick in (True, False):
        assert set(plans(quick=quick)) == set(CASES)
        for plan in plans(quick=quick).values():
            assert plan.count % plan.batch == plan.warm_up % plan.batch == 0


async def test_with_one_cpu_spinning_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ring.Placement, "apart", lambda: None)
    assert await bench_ring(quick=True, broker="auto", cases={"64B-rtt-spin"}, tell=said.append) == []
    assert said == ["ring/64B-rtt-spin: not measured: it needs two CPUs"]


async def test_without_pyzmq_its_peers_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plan = Plan(rounds=1, count=BATCH, warm_up=BATCH)
    monkeypatch.setattr(ring, "plans", lambda *, quick: {"64B-single": plan})
    (result,) = await bench_ring(quick=True, broker="auto", cases={"64B-single"}, tell=said.append)
    assert set(result.peers) == {"uvloop-unix", "mp-pipe"}
    assert said[0] == (
        "peers pyzmq-ipc and pyzmq-packed are skipped: pyzmq is not installed (pip install 'pvnet[bench]')"
    )


def test_a_case_is_told_in_one_line_with_what_was_lost() -> None:
    def shown(per_s: float, wrong: int = 0) -> Shown:
        return Shown(Series([2e-5]), Series([3e-5]), Series([per_s]), wrong, {"sleeps": 1})

    both = {"pvnet": shown(2e7, 3), "pyzmq-packed": shown(1e7)}
    plan = Plan(1, 640, 64, 64)
    batched = case_result("64B-batched", CASES["64B-batched"], plan, Placement(0, 1), both)
    assert (batched.lost, batched.notes["batch"], batched.notes["facts"]["pvnet"]) == (3, 64, {"sleeps": 1})
    assert case_line(batched) == (
        "ring/64B-batched (CPU 0 and 1): 20.00 M/s, 3 lost; pyzmq-packed 10.00 M/s (we: 2.00 x)"
    )
    trip = case_result("64B-rtt", CASES["64B-rtt"], plan, Placement(1, 1), both)
    assert (trip.metric, trip.notes["p99_s"]["pvnet"]) == ("round_trip_s", 3e-5)
    assert case_line(trip) == "ring/64B-rtt (both on CPU 1): 20.00 us, 3 lost; pyzmq-packed 20.00 us (we: 1.00 x)"


@pytest.mark.slow
def test_bench_ring_measures_real_processes(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [PVNET, "bench", "ring/64B-rtt", "--quick", "--json", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert set(report) == {"machine", "results"}
    assert report["machine"]["placement"]
    (result,) = report["results"]
    check_result(result)
    assert (result["case"], result["lost"]) == ("64B-rtt", 0)
