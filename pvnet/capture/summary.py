"""Counts, latencies and errors of a whole capture, gathered record by record.

Latencies are kept in a histogram whose steps are about 2 % wide, so a capture of any length takes the same memory and a
percentile is off by at most that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from pvnet.capture.decode import Decoded
from pvnet.capture.decode_fields import printable
from pvnet.capture.pairs import Matched

_NUMBER: Final = re.compile(r"\b(0x[0-9a-f]+|[0-9]+)\b")
_STEP: Final = math.log(1.02)
_MAX_NAMES: Final = 4096
SHOWN: Final = 20


def duration(ns: float) -> str:
    """A time as a person reads it: ``4.20 us``, ``1.500 s``."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{sign}{ns / size:.3g} {unit}" if ns < 1000 * size else f"{sign}{ns / size:.0f} {unit}"
    return f"{sign}{ns:.0f} ns"


class Latencies:
    """Times between calls and replies."""

    def __init__(self) -> None:
        self.count = 0
        self.highest = 0
        self._steps: Counter[int] = Counter()

    def add(self, ns: int) -> None:
        """Count one; a negative one (clocks of two machines) counts as 0."""
        self.count += 1
        self.highest = max(self.highest, ns)
        self._steps[int(math.log(ns) / _STEP) if ns > 1 else 0] += 1

    def percentile(self, percent: float) -> float:
        """Nanoseconds that so many of a hundred do not exceed."""
        wanted = self.count * percent / 100
        seen = 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= wanted and seen < self.count:
                return min(math.exp((step + 0.5) * _STEP), float(self.highest))
        return float(self.highest)


class _Names(Counter[str]):
    """Counts by name, bounded: names beyond the limit count together."""

    def add(self, name: str, count: int = 1) -> None:
        self[name if name in self or len(self) < _MAX_NAMES else "(others)"] += count


class Summary:
    """Feed every record with what :class:`Violations` said of it."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.kinds = _Names()
        self.peers = _Names()
        self.errors = _Names()
        self.violations = _Names()
        """By text, with N for each number."""
        self.unanswered = 0
        self.latencies: dict[str, Latencies] = {}
        self.dropped: dict[str, int] = {}
        """Records that are not in the file, by interface; set by whoever read it."""

    def feed(self, decoded: Decoded, matched: Matched | None = None, violations: Sequence[str] = ()) -> None:
        """Count a record; ``matched``: the call that it answers."""
        record = decoded.record
        self.records += 1
        self.bytes += len(record.data)
        if record.time_ns is not None:
            self.first_ns = record.time_ns if self.first_ns is None else min(self.first_ns, record.time_ns)
            self.last_ns = record.time_ns if self.last_ns is None else max(self.last_ns, record.time_ns)
        self.kinds.add(decoded.kind)
        if decoded.source or decoded.destination:
            self.peers.add(f"{decoded.source or '?'} > {decoded.destination or '*'}")
        for text in violations:
            self.violations.add(_NUMBER.sub("N", text))
        error = error_of(decoded)
        if error:
            self.errors.add(f"{call_name(matched.call) if matched else call_name(decoded)}: {error}")
        took = decoded.get("hcall.took_ns")
        if matched is not None and matched.latency_ns is not None and not matched.is_again:
            self._latency(call_name(matched.call), matched.latency_ns)
        elif isinstance(took, int):
            self._latency(call_name(decoded), took)

    def _latency(self, name: str, ns: int) -> None:
        if name not in self.latencies and len(self.latencies) >= _MAX_NAMES:
            name = "(others)"
        self.latencies.setdefault(name, Latencies()).add(ns)

    @property
    def span_ns(self) -> int:
        """From the first record to the last."""
        return 0 if self.first_ns is None or self.last_ns is None else self.last_ns - self.first_ns

    def lines(self) -> list[str]:
        """The summary for a person."""
        rate = f", {self.records / (self.span_ns / 1e9):.0f} a second" if self.span_ns else ""
        out = [f"{self.records} records, {self.bytes} bytes in {duration(self.span_ns)}{rate}"]
        out += _table("kind", self.kinds)
        out += _table("from > to", self.peers)
        if self.latencies:
            rows = sorted(self.latencies.items(), key=lambda item: -item[1].count)
            out += ["", f"  {'call':<40} {'replies':>8} {'p50':>10} {'p99':>10} {'max':>10}"]
            for name, times in rows[:SHOWN]:
                p50, p99 = duration(times.percentile(50)), duration(times.percentile(99))
                out.append(
                    f"  {printable(name)[:40]:<40} {times.count:>8} {p50:>10} {p99:>10} {duration(times.highest):>10}"
                )
            out += _more(len(rows))
        out += _table("error", self.errors)
        out += _table("violation", self.violations)
        if self.unanswered:
            out += ["", f"  {self.unanswered} calls without a reply"]
        if any(self.dropped.values()):
            out += _table("dropped by the recorder", Counter(self.dropped))
        return out

    def to_json(self) -> dict[str, object]:
        """The same as data; times are nanoseconds."""
        latencies: Mapping[str, object] = {
            name: {
                "count": times.count,
                "p50_ns": round(times.percentile(50)),
                "p99_ns": round(times.percentile(99)),
                "max_ns": times.highest,
            }
            for name, times in self.latencies.items()
        }
        return {
            "records": self.records,
            "bytes": self.bytes,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "kinds": dict(self.kinds),
            "peers": dict(self.peers),
            "latencies": latencies,
            "errors": dict(self.errors),
            "violations": dict(self.violations),
            "unanswered": self.unanswered,
            "dropped": dict(self.dropped),
        }


def _table(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    rows = counts.most_common(SHOWN)
    return ["", f"  {title}", *(f"  {count:>8}  {printable(name)}" for name, count in rows), *_more(len(counts))]


def _more(rows: int) -> list[str]:
    return [f"  ... and {rows - SHOWN} more"] if rows > SHOWN else []


def call_name(decoded: Decoded) -> str:
    """What is called, without its arguments: ``H_SEND_CRQ``, ``REGION_READ``, ``device_io OPEN``."""
    for name in ("hcall.opcode", "vfio.command"):
        for item in decoded.fields():
            if item.name == name:
                return item.text.partition(" ")[0]
    for name in ("device.operation", "vbus.bus_vector", "vbus.vector"):
        for item in decoded.fields():
            if item.name == name:
                return f"{decoded.kind} {item.text.partition(' ')[0]}"
    return f"{decoded.kind} {decoded.summary.partition(' ')[0]}" if decoded.kind == "management" else decoded.kind


def error_of(decoded: Decoded) -> str:
    """The error that a record tells, else nothing; busy is none."""
    for name in ("hcall.rc", "device.result", "vbus.result"):
        value = decoded.get(name)
        if isinstance(value, int) and value < 0:
            return decoded.summary.rpartition(" = ")[2].partition(" ")[0]
    for name in ("vfio.error", "memory.error"):
        if decoded.get(name):
            return decoded.summary.rpartition(" ")[2]
    if decoded.kind == "mdev_reply" and decoded.get("mdev.result"):
        return decoded.summary.partition(" ")[0]
    if decoded.kind == "management_reply" and decoded.get("mgmt.status"):
        return decoded.summary.partition(" ")[0]
    return "refused" if decoded.kind == "refusal" else ""
