"""What happened to parents and devices, as a numbered list with listeners.

The words are those that a listener of the kernel's device events knows.  Spec: mdev 1.11, 3.2.

=========  ===========================================================================================
action     when
=========  ===========================================================================================
add        a device has become visible
bind       a bus driver serves it
online     it was started (its virtual machine is about to boot)
offline    it was shut down
unbind     the bus driver has let go
remove     it is gone; ``MOVED_TO``: to that host
change     of a parent: ``MDEV_STATE`` ``registered`` or ``unregistered``
=========  ===========================================================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pvnet.core.machine import Note
from pvnet.mdev.life_steps import Noter, describe

EVENTS: Final = 256
"""How many are kept."""


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """Something happened; ``number`` counts from 1 and never repeats."""

    number: int
    action: str
    subsystem: str
    """``mdev`` or ``parent``."""
    name: str
    properties: tuple[tuple[str, str], ...] = ()


class EventList:
    """The last :data:`EVENTS` events."""

    def __init__(self, note: Noter, limit: int = EVENTS) -> None:
        self._kept: deque[LifeEvent] = deque(maxlen=limit)
        self._listeners: list[Callable[[LifeEvent], None]] = []
        self._note = note
        self.count = 0

    def add(self, action: str, subsystem: str, name: str, **properties: str) -> None:
        """Tell everybody; a listener that fails is noted and disturbs nobody."""
        self.count += 1
        event = LifeEvent(self.count, action, subsystem, name, tuple(properties.items()))
        self._kept.append(event)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - who listens cannot stop what has happened
                self._note(Note("mdev_listener_failed", (("error", describe(error)),), "warning"))

    def subscribe(self, listener: Callable[[LifeEvent], None]) -> Callable[[], None]:
        """Call ``listener`` with each event; returns what ends that (once)."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def since(self, number: int) -> tuple[LifeEvent, ...]:
        """Return the kept events after ``number``; the first one's number tells whether some are lost."""
        return tuple(event for event in self._kept if event.number > number)
