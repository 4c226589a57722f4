"""``rdma/*``: what is measured is what an hcall does, wrong copies are seen, the CPU is stated and given back."""

from __future__ import annotations

import os
from functools import partial

import pytest

from pvnet.bench import rdma
from pvnet.bench.rdma import KIB, SIZES, bench_rdma, checked_round, copy_by_engine, mapped_platform, measure
from pvnet.cli.bench import SCENARIOS


def test_all_cases_are_offered() -> None:
    assert SCENARIOS["rdma"] == tuple(SIZES)


async def test_a_small_case_has_all_figures_and_says_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdma, "_ROUND_COPIES", 10)
    before = os.sched_getaffinity(0)
    told: list[str] = []
    results = await bench_rdma(quick=True, broker="none", cases={"4KiB", "64KiB"}, tell=told.append)
    assert os.sched_getaffinity(0) == before
    assert [(r.scenario, r.case, r.metric, r.unit, r.lost) for r in results] == [
        ("rdma", "4KiB", "bytes_per_s", "B/s", 0),
        ("rdma", "64KiB", "bytes_per_s", "B/s", 0),
    ]
    for result in results:
        shown = result.shown()
        assert set(shown["ratio"]) == {"memcpy"}
        assert shown["notes"]["placement"] == f"one process on CPU {min(before)}"
        assert shown["notes"]["hcall"]["ratio"]["memcpy"] > 0
    assert [line.split(":")[0] for line in told] == ["rdma/4KiB", "rdma/64KiB"]


def test_copies_that_do_not_arrive_are_counted() -> None:
    mapped = mapped_platform(4 * KIB)
    assert checked_round(mapped, 4 * KIB, partial(copy_by_engine, mapped, 4 * KIB), 3)[1] == 0
    assert {checked_round(mapped, 4 * KIB, lambda _: 1.0, 3)[1] for _ in range(20)} >= {3}


def test_a_round_that_leaves_bytes_behind_is_seen_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdma, "_ROUND_COPIES", 2)
    monkeypatch.setattr(rdma, "copy_bare", partial(_half, rdma.copy_bare))
    monkeypatch.setattr(rdma, "copy_by_engine", partial(_half, rdma.copy_by_engine))
    monkeypatch.setattr(rdma, "copy_by_hcall", partial(_half, rdma.copy_by_hcall))
    assert measure("64KiB", rounds=2).lost > 0


def _half(copies: rdma.Copies, mapped: rdma.Mapped, size: int, count: int) -> float:
    return copies(mapped, size // 2, count)
