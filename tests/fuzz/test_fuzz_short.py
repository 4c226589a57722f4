"""A short piece of ``make fuzz`` in every run of the tests, and that the fuzzer finds what it looks for."""

from __future__ import annotations

from random import Random

import pytest
from fuzz import run as runner
from fuzz.engine import BINARY, LONGEST, TEXT, Mutator
from fuzz.run import Run
from fuzz.seeds import Seeds, demo_records, make_seeds
from fuzz.target_capture import Importers
from fuzz.targets import TARGETS

INPUTS = {"capture": 1000, "importers": 800, "envelope": 1000, "session": 800, "filter": 1000, "lines": 800}
OTHERS = 150


@pytest.fixture(scope="module")
def seeds() -> Seeds:
    made = make_seeds(demo_records())
    runner.set_seeds(made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs(name: str, seeds: Seeds) -> None:
    outcome = Run(name, 1, 0, INPUTS.get(name, OTHERS))()
    assert outcome.failure == ""
    assert outcome.count == INPUTS.get(name, OTHERS)


def test_a_seed_makes_the_same_inputs_every_time(seeds: Seeds) -> None:
    for name, (kind, _) in TARGETS.items():
        made = []
        for _ in range(2):
            target = kind(seeds)
            made.append([target.make(Random(f"1 {name} {number}")) for number in range(20)])
            target.close()
        assert made[0] == made[1]
        assert len(set(made[0])) > 10


@pytest.mark.parametrize("mutations", [BINARY, TEXT])
def test_every_mutation_takes_anything(mutations: tuple) -> None:
    random = Random(7)
    for seed in (b"", b"\n", b"a 1", bytes(LONGEST)):
        for mutation in mutations:
            for _ in range(20):
                data = bytearray(seed)
                mutation(random, data, (b"word",), (b"other 77",))
                mutation(random, data, (), ())
    assert len(Mutator([bytes(LONGEST)], (), mutations).make(random)) <= LONGEST


def failing(what: str, seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> str:
    class Bad(Importers):
        def run(self, data: bytes) -> None:
            match what:
                case "hang":
                    while True:
                        pass
                case "crash":
                    raise LookupError("no such thing")

    monkeypatch.setattr(runner, "MOST_CPU_S", 0.05)
    monkeypatch.setitem(runner.TARGETS, "bad", (Bad, 1.0))  # type: ignore[arg-type]
    outcome = Run("bad", 1, 3, 5)()
    assert outcome.number == 6000
    assert outcome.data
    return outcome.failure


def test_a_hang_is_found(seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HangError" in failing("hang", seeds, monkeypatch)


def test_a_crash_is_found(seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "LookupError: no such thing" in failing("crash", seeds, monkeypatch)


def test_much_memory_is_found(seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "peak_bytes", iter([0, 200 << 20]).__next__)
    assert "one input took 200 MiB" in failing("memory", seeds, monkeypatch)


def test_growth_from_block_to_block_is_found(seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 110, 105, 90, 110 + runner.MOST_GROWTH_BYTES + 1])
    monkeypatch.setattr(runner, "resident_bytes", sizes.__next__)
    monkeypatch.setattr(runner, "_sizes", {})
    outcomes = [Run("filter", 1, block, 2)() for block in range(5)]
    assert [bool(outcome.failure) for outcome in outcomes] == [False, False, False, False, True]
