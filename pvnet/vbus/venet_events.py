"""The host's end of a venet's event queue: link state and transmit completions, told in ring slots that north gives.

Slots are offsets in the event pool, 24 bytes each.  What does not fit waits here: of the link state only the newest,
and cookies of completed frames in order.  While something waits, north is asked to ring when it has given slots back.
A slot outside the pool or too small is north's own loss: it goes back empty and is counted.

How many cookies may wait is the sender's business: it takes no more frames while :attr:`waiting` is at its limit, so a
guest that never looks at its events only stops itself.

Spec: vbus 8.5, 8.8 (retry list).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import RxSouth
from pvnet.vbus.device import SouthSignal
from pvnet.vbus.venet_layout import LINKSTATE_EVENT, TXC_EVENT, VenetEventId

BATCH = 64
"""Events that are written before they are published."""


class VenetEvents:
    """Sends events.

    :param ring: the event queue, attached.
    :param signal: its signal.
    :param pool: bytes of the event pool.
    :param on_room: called when everything that waited has been sent.
    """

    def __init__(
        self,
        ring: RxSouth,
        signal: SouthSignal,
        pool: memoryview,
        counters: Counters,
        on_room: Callable[[], None],
    ) -> None:
        self._ring = ring
        self._signal = signal
        self._pool = pool
        self._counters = counters
        self._on_room = on_room
        self._cookies: deque[int] = deque()
        self._link: bool | None = None
        self._armed = False

    @property
    def waiting(self) -> int:
        """Cookies that wait for a slot."""
        return len(self._cookies)

    def link_state(self, up: bool) -> None:
        """Tell the link's state; one that was not told yet is replaced."""
        self._link = up
        self._send()

    def complete(self, cookies: Iterable[int]) -> None:
        """Tell that the frames of these cookies were taken, and signal once."""
        self._cookies.extend(cookies)
        self._send()

    def wakeup(self) -> None:
        """North gave slots back (or says so)."""
        if self._link is None and not self._cookies:
            self._signal.disable()
            self._armed = False
            return
        self._send()
        if self._link is None and not self._cookies:
            self._on_room()

    def _send(self) -> None:
        """Write what fits, publish per batch, signal once; ask to be rung as long as something is left.

        :raises RingFault: north broke the ring.
        """
        sent = False
        cookies = self._cookies
        budget = self._ring.count  # a guest that gives back bad slots as fast as it gets them does not hold us
        while budget > 0 and (self._link is not None or cookies):
            slots = self._ring.take(min(BATCH, len(cookies) + (self._link is not None)))
            if not slots:
                break
            budget -= len(slots)
            self._ring.fill([self._write(slot) for slot in slots])
            sent = True
        if sent:
            self._signal.inject()
        if cookies or self._link is not None:
            self._counters["event_back_pressure"] += not self._armed
            self._armed = True
            self._signal.enable()
        elif self._armed:
            self._armed = False
            self._signal.disable()

    def _write(self, slot: Descriptor) -> int:
        """Write the next event and return its size; 0 for a bad slot."""
        size = TXC_EVENT.size if self._link is None else LINKSTATE_EVENT.size
        if slot.length < TXC_EVENT.size or slot.ptr + TXC_EVENT.size > len(self._pool):
            self._counters["bad_event_slot"] += 1
            return 0
        if self._link is None:
            TXC_EVENT.pack_into(self._pool, slot.ptr, 0, size, VenetEventId.TXC, 0, self._cookies.popleft())
        else:
            LINKSTATE_EVENT.pack_into(self._pool, slot.ptr, 0, size, VenetEventId.LINKSTATE, self._link)
            self._link = None
        self._counters["events"] += 1
        return size
