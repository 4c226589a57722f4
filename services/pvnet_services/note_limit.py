"""How many lines of a log a peer can cause: a few of a kind at once, then one a second; the counters have the rest.

The machines limit their own notes (``pvnet.vbus.notes``), but a peer that attaches anew gets a new machine each time:
what goes to the log passes this as well, which lives as long as the peer.

Spec: vbus 11 (A15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.machine import Note
from pvnet.runtime.endpoint import Endpoint

BURST: Final = 20
"""Notes of a kind that may come at once."""


class NoteLimit:
    """The way of notes about one peer to the endpoint's log; ``clock`` is in seconds."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._kinds: dict[str, tuple[float, float]] = {}
        """Event (a constant): how many may still come, and when that was."""

    def note(self, note: Note) -> None:
        """Count it, and log it if there were not too many of its kind."""
        now = self._clock()
        left, then = self._kinds.get(note.event, (float(BURST), now))
        left = min(BURST, left + now - then)
        if left < 1.0:
            self._kinds[note.event] = (left, now)
            self._endpoint.counters[note.event] += 1
            self._endpoint.counters["notes_not_logged"] += 1
            return
        self._kinds[note.event] = (left - 1.0, now)
        self._endpoint.note(note)
