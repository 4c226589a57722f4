"""Log lines that a peer can cause, at most one of a kind per second: the counters have the rest (vbus A15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pvnet.core.machine import Note

INTERVAL: Final = 1.0
"""Seconds between two notes of the same kind."""


class Notes:
    """Decides which notes are worth their line."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def note(self, event: str, now: float, fields: Mapping[str, int | str], level: str = "warning") -> list[Note]:
        """The note, or nothing when one of its kind was less than a second ago.  ``event`` is a constant."""
        if now < self._next.get(event, now):
            return []
        self._next[event] = now + INTERVAL
        return [Note(event, tuple(fields.items()), level)]
