"""Two sequences side by side: what a recording shows and what our machine made, with a useful answer where they differ.

The machine may be ahead of the recording (it answers at once), so what it made waits in a queue until the recording
gets there.  When both differ, the nearest explanation is reported and the comparison goes on behind it: the machine
left something out (what it made is expected a little later), it made something extra (what is expected was made a
little later), or one thing is simply different.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.report import Report

LOOKAHEAD: Final = 16
"""How far behind a difference the two sequences are searched for the place where they meet again."""


@dataclass(frozen=True, slots=True)
class Made:
    """One item: ``value`` is compared, ``head`` (first bytes) as far as both have any; ``text`` is for people."""

    value: tuple[object, ...]
    text: str
    head: bytes = b""

    def agrees(self, other: Made) -> bool:
        """Whether the two are the same as far as both are known."""
        common = min(len(self.head), len(other.head))
        return self.value == other.value and self.head[:common] == other.head[:common]


@dataclass(slots=True)
class ComparedSequence:
    """``positions`` of the records that belong to it; the first ``settled`` of them have been compared."""

    name: str
    positions: list[int] = field(default_factory=list)
    settled: int = 0
    made: deque[Made] = field(default_factory=deque)

    def next_unmade(self) -> int | None:
        """Position of the first record for which nothing was made yet."""
        number = self.settled + len(self.made)
        return self.positions[number] if number < len(self.positions) else None

    def settle(self, n: int, expected: Made, expected_at: Callable[[int], Made], report: Report) -> None:
        """Compare the next record (number ``n``) with what was made; ``expected_at`` gives the item of a position."""
        self.settled += 1
        if not self.made:
            report.fail(n, self.name, expected.text, "nothing")
            return
        first = self.made[0]
        if not first.agrees(expected):
            if any(first.agrees(expected_at(p)) for p in self.positions[self.settled :][:LOOKAHEAD]):
                report.fail(n, self.name, expected.text, f"nothing before {first.text}")
                return
            surplus = next((at for at, made in enumerate(self.made) if made.agrees(expected)), 0)
            for _ in range(surplus):
                report.fail(n, self.name, f"{expected.text} first", self.made.popleft().text)
            if not surplus:
                report.fail(n, self.name, expected.text, self.made.popleft().text)
                return
        self.made.popleft()
        report.passed += 1

    def finish(self, n: int, report: Report) -> None:
        """Report what was made beyond the recording's end."""
        while self.made:
            report.fail(n, f"{self.name} after the end", "nothing more", self.made.popleft().text)
