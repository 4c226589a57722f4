"""A little of ``make load``: sessions at once, without an error."""

from __future__ import annotations

import pytest
from interop.novalink.lab import lab_up
from novalink.load import load, more_partitions

pytestmark = pytest.mark.slow


async def test_twenty_sessions_at_once() -> None:
    with lab_up(more=more_partitions(3)) as lab:
        counted = await load(lab, sessions=20, seconds=3.0)
    assert not counted.errors
    report = counted.report(3.0)
    assert report["list"]["requests"] > 20
    assert report["refresh"]["requests"] > 10
    assert len(counted.times["log on"]) == 20
