"""Numbers for plots, computed while a capture is read: latencies over time, and throughput per channel.

Memory is bounded whatever the length of the capture: :class:`Bins` get wider as it goes on, and of the latencies every
second one is dropped whenever there are too many (percentiles count all of them).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.chart_text import channel_of
from pvnet.capture.decode import Decoded
from pvnet.capture.pairs import Matched
from pvnet.capture.summary import Latencies, call_name

MAX_BINS: Final = 240
MAX_POINTS: Final = 20_000
MAX_CALLS: Final = 64
FIRST_WIDTH_NS: Final = 1_000
OTHERS: Final = "(others)"
PERCENTILES: Final = (50.0, 90.0, 99.0)


class Bins:
    """Sums over equal stretches of time, at most :data:`MAX_BINS`; they double when time goes beyond the last."""

    def __init__(self, limit: int = MAX_BINS) -> None:
        self.width_ns = FIRST_WIDTH_NS
        self.rows: dict[str, dict[int, list[int]]] = {}
        """By name, by number of the stretch: messages and bytes."""
        self._limit = limit

    def add(self, name: str, at_ns: int, size: int) -> None:
        """Count one message ``at_ns`` after the beginning; one from before that counts there."""
        at_ns = max(at_ns, 0)
        while at_ns // self.width_ns >= self._limit:
            self._double()
        entry = self.rows.setdefault(name, {}).setdefault(at_ns // self.width_ns, [0, 0])
        entry[0] += 1
        entry[1] += size

    def _double(self) -> None:
        self.width_ns *= 2
        for name, row in self.rows.items():
            merged: dict[int, list[int]] = {}
            for number, (count, size) in row.items():
                entry = merged.setdefault(number // 2, [0, 0])
                entry[0] += count
                entry[1] += size
            self.rows[name] = merged

    @property
    def length(self) -> int:
        """Stretches up to the last that has something."""
        return 1 + max((max(row) for row in self.rows.values() if row), default=-1)

    def totals(self) -> list[int]:
        """Messages of all names together, per stretch."""
        out = [0] * self.length
        for row in self.rows.values():
            for number, (count, _size) in row.items():
                out[number] += count
        return out

    def rate(self, name: str, column: int) -> list[float]:
        """Messages (column 0) or bytes (1) a second, per stretch."""
        row = self.rows.get(name, {})
        return [row.get(number, (0, 0))[column] * 1e9 / self.width_ns for number in range(self.length)]


@dataclass(slots=True)
class CallSeries:
    """Latencies of one call: ``points`` are (ns after the beginning, ns it took), of the replies."""

    total: Latencies = field(default_factory=Latencies)
    points: list[tuple[int, int]] = field(default_factory=list)


class LatencySeries:
    """Latencies by call; of all together at most :data:`MAX_POINTS` points are kept."""

    def __init__(self, limit: int = MAX_POINTS) -> None:
        self.calls: dict[str, CallSeries] = {}
        self.all = Latencies()
        self._limit = limit
        self._step = 1
        self._kept = 0

    def add(self, name: str, at_ns: int, latency_ns: int) -> None:
        """Count a reply."""
        latency_ns = max(latency_ns, 0)
        if name not in self.calls and len(self.calls) >= MAX_CALLS:
            name = OTHERS
        series = self.calls.setdefault(name, CallSeries())
        series.total.add(latency_ns)
        self.all.add(latency_ns)
        if series.total.count % self._step == 0 or series.total.count == 1:
            series.points.append((at_ns, latency_ns))
            self._kept += 1
        if self._kept > self._limit:
            self._step *= 2
            for each in self.calls.values():
                each.points = each.points[::2]
            self._kept = sum(len(each.points) for each in self.calls.values())

    def over_time(self, windows: int = 60) -> list[tuple[int, dict[float, int]]]:
        """Percentiles of the kept points per window of time: (ns of its middle, percentile: ns), oldest first."""
        points = sorted(point for series in self.calls.values() for point in series.points)
        if not points:
            return []
        first = points[0][0]
        width = max((points[-1][0] - first) // windows + 1, 1)
        groups: dict[int, list[int]] = {}
        for at, took in points:
            groups.setdefault((at - first) // width, []).append(took)
        return [
            (first + number * width + width // 2, {percent: percentile(took, percent) for percent in PERCENTILES})
            for number, took in sorted(groups.items())
        ]


def percentile(values: list[int], percent: float) -> int:
    """Return the smallest value that ``percent`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100), 1).__int__() - 1]


class Series:
    """Feed every record that is wanted, with the call that it answers."""

    def __init__(self) -> None:
        self.throughput = Bins()
        self.latency = LatencySeries()
        self.messages = 0
        self.start_ns: int | None = None
        """Time 0; None: that of the first record."""

    def feed(self, decoded: Decoded, matched: Matched | None = None) -> None:
        """Take a record; one without a time counts nowhere."""
        record = decoded.record
        if record.time_ns is None:
            return
        self.start_ns = record.time_ns if self.start_ns is None else self.start_ns
        self.messages += 1
        at_ns = record.time_ns - self.start_ns
        self.throughput.add(channel_of(decoded.kind), at_ns, max(record.original_bytes, len(record.data)))
        took = decoded.get("hcall.took_ns")
        if matched is not None and matched.latency_ns is not None and not matched.is_again:
            self.latency.add(call_name(matched.call), at_ns, matched.latency_ns)
        elif isinstance(took, int):
            self.latency.add(call_name(decoded), at_ns, took)
