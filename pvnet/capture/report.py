"""The outcome of a conformance run: how many comparisons held, and each that did not, readable."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One comparison that failed: the record's number ``n``, what the recording says, what our machine did."""

    n: int
    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"record {self.n}: {self.what}: expected {self.expected}, got {self.got}"


@dataclass(slots=True)
class Report:
    """``passed`` counts records that were compared and agree; ``mismatches`` are the others, in order."""

    name: str
    passed: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Number of mismatches."""
        return len(self.mismatches)

    def fail(self, n: int, what: str, expected: str, got: str) -> None:
        """Count one mismatch."""
        self.mismatches.append(Mismatch(n, what, expected, got))
