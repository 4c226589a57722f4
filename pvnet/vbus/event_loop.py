"""The event queues, as the partition empties them.

An interrupt only marks a queue.  A **pass** takes at most :data:`BUDGET` events in all, from the highest priority
downwards, but leaves every other marked queue its :data:`QUOTA`: priority decides who is first, it starves nobody.
While a queue is marked its notifications are masked; they are enabled again when a pass finds less than it may take,
and enabling looks once more.  A host that never stops sending costs one pass per turn, and the rest of the partition
runs in between (the original's loop had no such end).

An event is copied out of the slot first, the slot is zeroed and given back, and only then the copy is checked and
dispatched: nothing that the host does to a slot afterwards matters.  What the slots are, and where, is our own
knowledge; the host's descriptors are not believed.

Spec: vbus 1 (R6), 4.3, 10.4 (11), A13, A15, A17.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import RxNorth
from pvnet.vbus.arena import Arena
from pvnet.vbus.layout import EVENT_BYTES, Event

BUDGET: Final = 64
"""Events of one pass, over all queues."""
QUOTA: Final = 4
"""Events of a pass that every marked queue gets, however busy a higher one is."""

_ZERO: Final = bytes(EVENT_BYTES)


class EventLoop:
    """All queues of the partition, lowest priority first.

    :param rings: one per queue, provided with slots of 144 bytes.
    :param ring_host: rings the doorbell of a queue.
    """

    def __init__(
        self, rings: Sequence[RxNorth], arena: Arena, counters: Counters, ring_host: Callable[[int], None]
    ) -> None:
        self._rings = rings
        self._arena = arena
        self._counters = counters
        self._ring_host = ring_host
        self._marked: set[int] = set()
        self._rung: set[int] = set()
        self._suspects: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether a pass has something to do."""
        return bool(self._marked or self._rung)

    def start(self) -> None:
        """Ask the host to interrupt."""
        for ring in self._rings:
            ring.signal.enable()

    def interrupt(self, number: int) -> None:
        """The host interrupted."""
        if 0 <= number < len(self._rings):
            self._suspects.discard(number)
            self._rung.add(number)
        else:
            self._counters["bad_interrupt"] += 1

    def memory_changed(self) -> None:
        """The host's stores have arrived as a copy: there may be events."""
        for number, ring in enumerate(self._rings):
            ring.signal.mark()
            self._rung.add(number)

    def run(self, dispatch: Callable[[Event], None]) -> None:
        """One pass.

        :raises RingError: the host broke a queue; the bridge cannot go on.
        """
        self._wake()
        left = BUDGET
        order = sorted(self._marked, reverse=True)
        for place, number in enumerate(order):
            allowed = left - QUOTA * (len(order) - place - 1)
            taken = self._drain(number, allowed, dispatch)
            left -= taken
            if taken < allowed:
                self._marked.discard(number)
                if self._rings[number].signal.enable():
                    self._rung.add(number)
            else:
                self._counters["budget_exhausted"] += 1

    def _wake(self) -> None:
        for number in sorted(self._rung):
            signal = self._rings[number].signal
            if number not in self._marked:
                signal.wakeup(lambda number=number: self._mark(number))  # type: ignore[misc]
        self._rung.clear()

    def _mark(self, number: int) -> None:
        self._marked.add(number)
        self._rings[number].signal.disable()

    def _drain(self, number: int, most: int, dispatch: Callable[[Event], None]) -> int:
        ring = self._rings[number]
        slots = ring.collect(most)
        if not slots:
            return 0
        copies = [self._arena.read(slot.ptr, EVENT_BYTES) for slot in slots]
        for slot in slots:
            self._arena.write(slot.ptr, _ZERO)
        ring.refill([Descriptor(slot.cookie, slot.ptr, EVENT_BYTES) for slot in slots])
        for copy in copies:
            self._counters["events"] += 1
            try:
                event = Event.decode(copy)
            except WireError:
                self._counters["bad_event"] += 1
            else:
                dispatch(event)
        if ring.signal.inject():
            self._counters["qinject"] += 1
            self._ring_host(number)
        return len(slots)

    def recheck(self) -> None:
        """Rescue poll: what waited at the last poll too, with no interrupt since, is looked at and counted."""
        waiting = {
            number
            for number, ring in enumerate(self._rings)
            if number not in self._rung | self._marked and ring.signal.recheck()
        }
        found = waiting & self._suspects
        for number in found:
            self._counters["lost_wakeup_rescues"] += 1
            self._rung.add(number)
        self._suspects = waiting - found
