"""What the contract says about a result of ``pvnet bench``; for every test of a scenario."""

import pytest

KEYS = {"scenario", "case", "metric", "unit", "pvnet", "peers", "ratio", "lost"}
FIGURES = {"median", "min", "max"}
METRICS = {"round_trip_s": "s", "per_s": "1/s", "bytes_per_s": "B/s"}


def check_result(result: dict) -> None:
    """A result is what the contract of the report says; ``notes`` is ours."""
    assert set(result) - {"notes"} == KEYS
    assert result["notes"]["placement"]
    assert result["unit"] == METRICS[result["metric"]]
    for figures in (result["pvnet"], *result["peers"].values()):
        assert set(figures) == FIGURES
        assert 0 < figures["min"] <= figures["median"] <= figures["max"]
    expected = {name: result["pvnet"]["median"] / peer["median"] for name, peer in result["peers"].items()}
    assert result["ratio"] == pytest.approx(expected)
    assert type(result["lost"]) is int
