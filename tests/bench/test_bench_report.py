"""``pvnet bench``: the report has the shape that others read, the comparison counts right; no test looks at a time."""

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from behaviour_worlds import Loopback
from bench_checks import check_result

from pvnet.bench import grpc_peer, rounds
from pvnet.bench.hcall import IN_FLIGHT, HcallContender, case_line, case_results, hcall_topology
from pvnet.bench.peer_process import peer_process
from pvnet.bench.placement import UNPINNED
from pvnet.bench.report import Result, Series, machine
from pvnet.bench.rounds import Measured, Round, compare, keep_in_flight
from pvnet.cli import bench
from pvnet.cli.bench import SCENARIOS, chosen_cases
from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.memory.segment import Segment
from pvnet.papr.hcall import HcallOpcode
from pvnet.runtime.hcall_client import HcallClient
from pvnet.runtime.layout import partition_layout
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.loopback import LoopbackNetwork

PVNET = str(Path(sys.executable).parent / "pvnet")


def measured(p50: float, p99: float, per_s: float, wrong: int = 0) -> Measured:
    return Measured(Series([p50]), Series([p99]), Series([per_s]), wrong)


# --- the report -------------------------------------------------------------------------------------------------------


def test_result_has_medians_and_the_ratio_to_each_peer() -> None:
    result = Result("s", "c", "per_s", "1/s", Series([10.0, 30.0, 20.0]), {"a": Series([40.0]), "b": Series([5.0])}, 7)
    assert result.shown() == {
        "scenario": "s",
        "case": "c",
        "metric": "per_s",
        "unit": "1/s",
        "pvnet": {"median": 20.0, "min": 10.0, "max": 30.0},
        "peers": {"a": {"median": 40.0, "min": 40.0, "max": 40.0}, "b": {"median": 5.0, "min": 5.0, "max": 5.0}},
        "ratio": {"a": 0.5, "b": 4.0},
        "lost": 7,
        "notes": {"placement": UNPINNED},
    }
    check_result(result.shown())


def test_machine_says_how_processes_were_placed() -> None:
    assert {"cpus", "placement", "system", "python"} <= set(machine())


def test_hcall_one_by_one_reports_times_and_rates() -> None:
    both = case_results("mqtt-rtt", 1, 100, {"pvnet": measured(0.2, 0.9, 5, wrong=3), "aiomqtt": measured(0.1, 1, 10)})
    assert [(r.case, r.metric, r.lost) for r in both] == [("mqtt-rtt", "round_trip_s", 3), ("mqtt-rtt", "per_s", 3)]
    assert [r.ratios for r in both] == [{"aiomqtt": 2.0}, {"aiomqtt": 0.5}]
    assert both[0].notes["p99_s"] == 0.9
    assert both[0].notes["peers"] == {"aiomqtt": {"p50_s": 0.1, "p99_s": 1}}
    for result in both:
        check_result(result.shown())


def test_hcall_pipelined_reports_rates_only() -> None:
    (rates,) = case_results("mqtt-pipelined", 64, 100, {"pvnet": measured(0.2, 0.9, 5)})
    assert (rates.metric, rates.notes["in_flight"], rates.ratios) == ("per_s", 64, {})


def test_a_case_is_told_in_one_line() -> None:
    line = case_line("mqtt-rtt", {"pvnet": measured(0.001, 0.002, 500, wrong=1), "x": measured(0.001, 0.002, 1000)})
    assert line == (
        "hcall/mqtt-rtt: 500/s, p50 1.00 ms, p99 2.00 ms, 1 lost; "
        "x 1000/s, p50 1.00 ms, p99 2.00 ms (we: 0.50 of its rate)"
    )


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], {scenario: set(cases) for scenario, cases in SCENARIOS.items()}),
        (["hcall"], {"hcall": set(SCENARIOS["hcall"])}),
        (["hcall/mqtt-rtt", "vmc/echo-64"], {"hcall": {"mqtt-rtt"}, "vmc": {"echo-64"}}),
        (["hcall/mqtt-rtt", "hcall"], {"hcall": set(SCENARIOS["hcall"])}),
    ],
)
def test_scenarios_and_cases_can_be_chosen(names: list[str], expected: dict[str, set[str]]) -> None:
    assert chosen_cases(names) == expected


@pytest.mark.parametrize(
    ("name", "words"), [("hcal", "expected one of vmc, hcall"), ("hcall/rtt", "hcall/mqtt-rtt"), ("hcall/", "hcall/")]
)
def test_what_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen_cases([name])


def test_what_was_measured_before_a_scenario_failed_is_written(monkeypatch, tmp_path: Path) -> None:
    async def measure(**_: object) -> list[Result]:
        return [Result("vmc", "echo-64", "per_s", "1/s", Series([1.0]), {})]

    async def fail(**_: object) -> list[Result]:
        raise UnreachableError("gone")

    monkeypatch.setattr(bench, "_function", {"vmc": measure, "hcall": fail}.__getitem__)
    file = tmp_path / "report.json"
    with pytest.raises(UnreachableError, match="gone"):
        bench.bench(["vmc", "hcall"], file, quick=True, broker="auto")
    assert [result["case"] for result in json.loads(file.read_text())["results"]] == ["echo-64"]


# --- the comparison ---------------------------------------------------------------------------------------------------


async def test_so_many_calls_are_in_flight_and_each_is_made_once() -> None:
    under_way, most, made = 0, 0, []

    async def call(number: int) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        made.append(number)
        under_way -= 1
        return number % 10 != 0

    shown = await keep_in_flight(call, 100, 8)
    assert (most, sorted(made), len(shown.times), shown.wrong) == (8, list(range(100)), 100, 10)
    assert shown.seconds >= max(shown.times)
    await keep_in_flight(call, 3, 1)
    assert made[-3:] == [0, 1, 2]


class Scripted:
    """A contender whose rounds are written down."""

    def __init__(self, name: str, turns: list[str], *, wrong: int = 0, error: Exception | None = None) -> None:
        self.name = name
        self.failures: tuple[type[Exception], ...] = (OSError,)
        self._turns = turns
        self._wrong = wrong
        self._error = error

    async def round(self, count: int, in_flight: int) -> Round:
        self._turns.append(f"{self.name}:{count}")
        if self._error is not None:
            raise ExceptionGroup("tasks", [ExceptionGroup("nested", [self._error])])
        return Round([0.5] * count, 2.0, self._wrong)


async def test_contenders_take_turns_and_the_first_one_changes() -> None:
    turns: list[str] = []
    shown = await compare(
        [Scripted("pvnet", turns, wrong=1), Scripted("x", turns)], rounds=3, count=4, warm_up=2, in_flight=1
    )
    assert turns == ["pvnet:2", "x:2", "pvnet:4", "x:4", "x:4", "pvnet:4", "pvnet:4", "x:4"]
    assert shown["pvnet"].per_s.values == [2.0, 2.0, 2.0]
    assert shown["pvnet"].p50.values == [0.5, 0.5, 0.5]
    assert (shown["pvnet"].wrong, shown["x"].wrong) == (3, 0), "the warm-up is no part of it"


async def failing(contender: rounds.Contender) -> None:
    await compare([contender], rounds=1, count=2, warm_up=1, in_flight=1)


async def test_a_peer_that_fails_ends_the_comparison() -> None:
    with pytest.raises(UnreachableError, match="x: gone"):
        await failing(Scripted("x", [], error=ConnectionError("gone")))
    with pytest.raises(UnreachableError, match="x answered 1 of 1 calls wrongly"):
        await failing(Scripted("x", [], wrong=1))
    with pytest.raises(ExceptionGroup):  # a mistake in the benchmark itself keeps its traceback
        await failing(Scripted("x", [], error=ZeroDivisionError()))


async def test_a_peer_that_hangs_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Scripted):
        async def round(self, count: int, in_flight: int) -> Round:
            return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(rounds, "PATIENCE_S", 0.01)
    with pytest.raises(UnreachableError, match="x did not finish 1 calls"):
        await failing(Hanging("x", []))


async def test_a_peer_that_does_not_start_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"pvnet\.core\.errors did not start"):
        async with peer_process("pvnet.core.errors"):
            pass


@pytest.mark.skipif(not grpc_peer.installed(), reason="grpcio is not installed")
async def test_grpc_peer_answers_every_call_with_its_own() -> None:
    async with grpc_peer.GrpcContender(100) as peer:
        shown = await peer.round(200, 16)
    assert (len(shown.times), shown.wrong) == (200, 0)


def test_grpc_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert not grpc_peer.installed()


# --- our side ---------------------------------------------------------------------------------------------------------


def test_an_answer_that_is_not_the_calls_own_is_lost() -> None:
    topology = hcall_topology("auto")
    liobn = int(partition_layout(topology, "caller").adapters[0].liobn)

    async def main() -> None:
        network = Loopback(LoopbackNetwork())
        async with InProcessLab(topology, network) as lab:
            endpoint = await lab.client("caller")
            hcalls = HcallClient(endpoint, HYPERVISOR, Segment(bytearray()), {})
            with pytest.raises(UnreachableError, match="refused 512 of 512"):
                await HcallContender(hcalls, liobn + 1).fill()
            caller = HcallContender(hcalls, liobn)
            await caller.fill()
            assert caller.reply_bytes > 0
            assert (await caller.round(600, 64)).wrong == 0
            assert (await hcalls.call(HcallOpcode.H_STUFF_TCE, (liobn, 0x1000, 0, 3)))[0] == 0
            assert (await caller.round(512, 64)).wrong == 3
            await lab.crash(HYPERVISOR)
            assert (await caller.round(10, 4)).wrong == 10, "no answer is no exception: it is counted"

    run_virtual(main())


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_hcall_measures_real_processes(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [PVNET, "bench", "hcall/mqtt-rtt", "hcall/mqtt-pipelined", "--quick", "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert set(report) == {"machine", "results"}
    names = [(r["scenario"], r["case"], r["metric"]) for r in report["results"]]
    assert names == [
        ("hcall", "mqtt-rtt", "round_trip_s"),
        ("hcall", "mqtt-rtt", "per_s"),
        ("hcall", "mqtt-pipelined", "per_s"),
    ]
    has_grpc = importlib.util.find_spec("grpc") is not None
    for result in report["results"]:
        check_result(result)
        assert result["lost"] == 0
        assert set(result["peers"]) == {"aiomqtt", *(["grpc-aio"] if has_grpc else [])}
        assert result["notes"]["in_flight"] == (IN_FLIGHT if result["case"] == "mqtt-pipelined" else 1)
        assert result["notes"]["p50_s"] <= result["notes"]["p99_s"]
    assert ("grpcio is not installed" in done.stdout) is not has_grpc


@pytest.mark.slow
def test_bench_without_grpc_says_so_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    program = "import sys; sys.modules['grpc'] = None; from pvnet.cli.main import main; sys.exit(main())"
    arguments = ["bench", "hcall/mqtt-rtt", "--quick", "--json", str(file)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "peer grpc-aio is skipped: grpcio is not installed (pip install 'pvnet[bench]')" in done.stdout
    results = json.loads(file.read_text())["results"]
    assert [set(result["peers"]) for result in results] == [{"aiomqtt"}, {"aiomqtt"}]
