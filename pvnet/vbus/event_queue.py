"""The event queues of one client, as the host fills them.

There are up to eight queues, one per priority; bus events take the highest, a signal ``min(prio, queues - 1)``.  A
queue is a ring of empty 144-byte events that north owns, and a **backlog** of what does not fit:

* Every signal has one event object for its whole life.  Queueing it while it is queued changes nothing (-EBUSY in the
  original, "coalesced" in the counters), so the backlog is bounded by signals and devices however long north sleeps.
* A device that goes away while its arrival is still in the backlog takes both events with it (A14).
* :meth:`SouthQueues.flush` copies events into slots that north has given, publishes them, and signals **once**.  When
  there is no slot it asks north to ring when there is one (back-pressure) and stops.
* A slot that cannot hold an event, or lies outside the array that north named, is a fault: the queue is dead and takes
  nothing any more until the client negotiates again.  Other clients do not notice.

Spec: vbus 4.2, 13 (back-pressure), A8, A14.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EINVAL
from pvnet.ring.roles import RxSouth
from pvnet.vbus.arena import Arena
from pvnet.vbus.device import MAX_PRIORITY
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import EVENT_BYTES, Event, EventId

BATCH: Final = 64
"""Events that one step of a flush copies before it publishes them."""


class QueuedEvent:
    """An event object: at most once in a backlog; its content may change as long as it waits there."""

    __slots__ = ("handle", "id", "queue", "type")

    def __init__(self, id: EventId, handle: int, type: str = "") -> None:  # noqa: A002
        self.id = id
        self.handle = handle
        self.type = type
        self.queue: SouthQueue | None = None

    def unlink(self) -> None:
        """Take it out of the backlog that it is in, if any."""
        if self.queue is not None:
            self.queue.unlink(self)


class SouthQueue:
    """One queue; see the module's text.

    :param ring: the ring of QREG, attached.
    :param data: address of the first event, ``count`` of them.
    """

    def __init__(self, ring: RxSouth, arena: Arena, data: int, count: int, counters: Counters) -> None:
        self.ring = ring
        self.dead = False
        self.blocked = False
        self.rung = False
        self.suspect = False
        self._arena = arena
        self._first = data
        self._last = data + (count - 1) * EVENT_BYTES
        self._counters = counters
        self._backlog: OrderedDict[QueuedEvent, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._backlog)

    def post(self, event: QueuedEvent) -> bool:
        """Put an event in the backlog; False: it is there already, or the queue is dead."""
        if event.queue is not None or self.dead:
            return False
        event.queue = self
        self._backlog[event] = None
        return True

    def unlink(self, event: QueuedEvent) -> None:
        """Take an event out of the backlog."""
        del self._backlog[event]
        event.queue = None

    def flush(self) -> bool:
        """Move the backlog into the ring as far as it goes; True: an interrupt is due.

        :raises PvnetError: the ring's fault; the queue is dead.
        """
        return self._fill() and self.ring.signal.inject()

    def wakeup(self) -> bool:
        """North gave slots back (or says so); True: an interrupt is due.

        :raises PvnetError: the ring's fault; the queue is dead.
        """
        wrote = False

        def drained() -> None:
            nonlocal wrote
            wrote = self._fill() or wrote

        self.suspect = False
        self.rung = self.ring.signal.wakeup(drained)
        return wrote and self.ring.signal.inject()

    def _fill(self) -> bool:
        wrote = False
        try:
            while self._backlog:
                slots = self.ring.take(min(len(self._backlog), BATCH))
                if not slots:
                    self._block()
                    return wrote
                for slot in slots:
                    if slot.length < EVENT_BYTES or not self._first <= slot.ptr <= self._last:
                        self._counters["bad_desc"] += 1
                        raise VbusError(EINVAL, f"event slot of {slot.length} bytes at {slot.ptr:#x}")
                for slot in slots:
                    event, _ = self._backlog.popitem(last=False)
                    event.queue = None
                    self._arena.write(slot.ptr, Event(event.id, event.handle, event.type).encode())
                    self._counters["events"] += 1
                self.ring.fill([slot.length for slot in slots])
                wrote = True
            if self.blocked:
                self.blocked = False
                self.ring.signal.disable()
        except PvnetError:
            self.kill()
            raise
        return wrote

    def _block(self) -> None:
        self._counters["backpressure"] += not self.blocked
        self.blocked = True
        if self.ring.signal.enable():
            self.rung = True

    def kill(self) -> None:
        """Forget the backlog and take nothing more."""
        self.dead = True
        self.blocked = self.rung = False
        for event in self._backlog:
            event.queue = None
        self._backlog.clear()


class SouthQueues:
    """All queues of a client; none until QREG."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._queues: list[SouthQueue] = []
        self._announced: dict[int, QueuedEvent] = {}
        self._dirty = False

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def backlog(self) -> int:
        """Events that wait for a slot."""
        return sum(len(queue) for queue in self._queues)

    @property
    def busy(self) -> bool:
        """Whether :meth:`flush` has something to do."""
        return self._dirty or any(queue.rung for queue in self._queues)

    def assign(self, queues: Sequence[SouthQueue]) -> None:
        """QREG: these are the queues, lowest priority first."""
        self._queues = list(queues)

    def clear(self) -> None:
        """Forget everything, waiting events too."""
        for queue in self._queues:
            queue.kill()
        self._queues = []
        self._announced = {}
        self._dirty = False

    def post(self, event: QueuedEvent, prio: int = MAX_PRIORITY) -> None:
        """Queue an event; one that is queued already stays where it is."""
        if not self._queues:
            return
        if self._queues[min(prio, len(self._queues) - 1)].post(event):
            self._dirty = True
        else:
            self._counters["coalesced"] += 1

    def device_added(self, id: int, type: str) -> None:  # noqa: A002
        """Queue DEVADD."""
        event = QueuedEvent(EventId.DEVADD, id, type)
        self._announced[id] = event
        self.post(event)

    def device_dropped(self, id: int) -> None:  # noqa: A002
        """Queue DEVDROP, or take back a DEVADD that north has not seen."""
        added = self._announced.pop(id, None)
        if added is not None and added.queue is not None:
            added.unlink()
            self._counters["cancelled"] += 1
            return
        self.post(QueuedEvent(EventId.DEVDROP, id))

    def flush(self) -> tuple[list[int], list[str]]:
        """Move what fits into the rings, highest priority first.

        :returns: queues whose interrupt is due, and what went wrong with queues that died of it.
        """
        self._dirty = False
        return self._each(range(len(self._queues)))

    def rung(self, number: int) -> tuple[list[int], list[str]]:
        """North rang queue ``number``; as :meth:`flush`."""
        if not 0 <= number < len(self._queues):
            self._counters["bad_doorbell"] += 1
            return [], []
        self._queues[number].rung = True
        return self._each([number])

    def memory_changed(self) -> None:
        """The client's stores have arrived as a copy: it may have given slots back."""
        for queue in self._queues:
            if not queue.dead:
                queue.ring.signal.mark()
                queue.rung = True

    def recheck(self) -> None:
        """Rescue poll: a queue that waits for north looks for itself."""
        for queue in self._queues:
            waiting = queue.blocked and queue.ring.signal.recheck()
            if waiting and queue.suspect:
                self._counters["lost_wakeup_rescues"] += 1
                queue.rung = True
            queue.suspect = waiting and not queue.suspect

    def _each(self, numbers: Sequence[int]) -> tuple[list[int], list[str]]:
        due: list[int] = []
        faults: list[str] = []
        for number in reversed(numbers):
            queue = self._queues[number]
            if queue.dead or not (queue.rung or len(queue)):
                continue
            try:
                interrupt = queue.rung and queue.wakeup()
                interrupt |= queue.flush()
                if queue.rung:  # it became full, and north had signalled before: look once more before sleeping
                    interrupt |= queue.wakeup()
                if interrupt:
                    due.append(number)
            except PvnetError as error:
                faults.append(f"event queue {number}: {error}")
        return due, faults
