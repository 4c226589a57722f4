"""``pvnet bench mdev``: every case runs, tells what it should, and finds no wrong answer."""

from __future__ import annotations

import pytest
from bench_checks import check_result

from pvnet.bench import mdev
from pvnet.bench.mdev import CASES, Plan, bench_mdev
from pvnet.cli.bench import SCENARIOS

RATES = {"region-read-pipelined", "region-write-pipelined"}


def test_cases() -> None:
    assert SCENARIOS["mdev"] == tuple(CASES)
    for quick, full in CASES.values():
        assert quick.count <= full.count
        assert quick.in_flight == full.in_flight


async def test_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {name: (Plan(2, 100 if name != "dma" else 3, 5, full.in_flight),) * 2 for name, (_, full) in CASES.items()}
    monkeypatch.setattr(mdev, "CASES", short)
    said: list[str] = []
    results = await bench_mdev(quick=True, broker="none", cases=set(CASES), tell=said.append)
    assert [line.partition(":")[0] for line in said] == [f"mdev/{name}" for name in CASES]
    for result in results:
        check_result(result.shown())
        assert result.lost == 0
    metrics = {(result.case, result.metric) for result in results}
    assert metrics == {
        *((name, "per_s") for name in CASES if name != "dma"),
        *((name, "round_trip_s") for name in CASES if name not in RATES and name != "dma"),
        ("dma", "bytes_per_s"),
    }
    assert {tuple(result.peers) for result in results} == {("uvloop-unix",), ("eventfd",), ("memcpy",)}


async def test_only_what_is_asked_for() -> None:
    assert await bench_mdev(quick=True, broker="none", cases=set(), tell=pytest.fail) == []
