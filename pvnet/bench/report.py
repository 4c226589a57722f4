"""What a benchmark measures and how it is written down (``bench --json``).

Every figure stands beside what a user would pick instead, measured in the same run, in turns, so that a machine that
slows down slows both.  Medians over rounds; ratios, not promises.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

from pvnet.bench.placement import UNPINNED


@dataclass(slots=True)
class Series:
    """One value per round."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values)

    def shown(self) -> dict[str, float]:
        """As in the report."""
        return {"median": self.median, "min": min(self.values), "max": max(self.values)}


@dataclass(slots=True)
class Result:
    """One metric of one case, ours and the peers'.

    ``notes`` say on which CPUs it ran (``placement``); a result that does not say it was unpinned.
    """

    scenario: str
    case: str
    metric: str
    unit: str
    pvnet: Series
    peers: dict[str, Series]
    lost: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Our median over each peer's."""
        return {name: self.pvnet.median / peer.median for name, peer in self.peers.items()}

    def shown(self) -> dict[str, Any]:
        """As in the report."""
        return {
            "scenario": self.scenario,
            "case": self.case,
            "metric": self.metric,
            "unit": self.unit,
            "pvnet": self.pvnet.shown(),
            "peers": {name: peer.shown() for name, peer in self.peers.items()},
            "ratio": self.ratios,
            "lost": self.lost,
            "notes": {"placement": UNPINNED, **self.notes},
        }


def machine() -> dict[str, Any]:
    """The machine of a report."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "placement": "each result says it (notes.placement)",
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "python": sys.version.split()[0],
    }
