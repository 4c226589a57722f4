"""Event queues of NovaLink-style clients, without IO: what happened, kept until each client has asked for it.

A client names its queue (an application id).  The first poll makes the queue and answers one ``NEW_CLIENT``; from then
on everything published is kept for it.  A queue that grows beyond its bound is emptied and says ``MISSING_EVENTS``; one
that nobody polls any more goes away, and so does the one that was polled longest ago when there are too many.  Time is
passed in, in seconds of any clock that does not go back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from pvnet.novalink.event_documents import Event, EventType

MOST_EVENTS: Final = 1000
"""Events kept for one client."""
MOST_QUEUES: Final = 512
"""Clients at once."""
EXPIRY_S: Final = 600.0
"""A queue that nobody polled for so long is gone."""
AT_ONCE: Final = 250
"""Events in one answer; the rest comes with the next poll."""


class _Queue:
    __slots__ = ("events", "polled")

    def __init__(self, now: float) -> None:
        self.polled = now
        self.events: deque[Event] = deque()


class EventQueues:
    """See the module's text.  ``first`` is the number of the first event: of a time, so that numbers never repeat."""

    def __init__(
        self,
        first: int,
        *,
        most_events: int = MOST_EVENTS,
        most_queues: int = MOST_QUEUES,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._number = first
        self._most_events = most_events
        self._most_queues = most_queues
        self._expiry_s = expiry_s
        self._queues: OrderedDict[tuple[str, str], _Queue] = OrderedDict()  # the one polled longest ago first

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def kept(self) -> int:
        """Events that wait in all queues together."""
        return sum(len(queue.events) for queue in self._queues.values())

    def publish(self, kind: EventType, data: str = "", detail: str = "") -> Event:
        """Keep an event for every client that there is now; returns it."""
        clears = kind == "CACHE_CLEARED"  # whoever hears it fetches everything anew
        full = [] if clears else [q for q in self._queues.values() if len(q.events) >= self._most_events]
        if full:  # numbered first, as it comes first
            missing = self._event("MISSING_EVENTS")
            for queue in full:
                queue.events.clear()
                queue.events.append(missing)
        event = self._event(kind, data, detail)
        for queue in self._queues.values():
            if clears:
                queue.events.clear()
            queue.events.append(event)
        return event

    def poll(self, user: str, application: str, now: float) -> list[Event]:
        """Take what waits for a client, at most ``AT_ONCE`` events; empty: nothing yet, poll again after the next one.

        The first poll of an application of a user answers ``NEW_CLIENT``.
        """
        self.expire(now)
        key = (user, application)
        queue = self._queues.get(key)
        if queue is None:
            while len(self._queues) >= self._most_queues:
                self._queues.popitem(last=False)
            self._queues[key] = _Queue(now)
            return [self._event("NEW_CLIENT", application)]
        queue.polled = now
        self._queues.move_to_end(key)
        return [queue.events.popleft() for _ in range(min(AT_ONCE, len(queue.events)))]

    def expire(self, now: float) -> None:
        """Let go of the queues that nobody polls any more."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            if now - queue.polled < self._expiry_s:
                return
            del self._queues[key]

    def _event(self, kind: EventType, data: str = "", detail: str = "") -> Event:
        self._number += 1
        return Event(self._number, kind, data, detail)
