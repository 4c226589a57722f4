"""The signals of one client, as the host has them: doorbell handles, wakeups, and how each ends.

A signal is born by DEVSHM and is held by the **map** of handles (north may ring it), by the **device** (it may ring
north) and, while it waits in a backlog, by its **event**.  When map and device have both let go, its one event object
turns into SHMCLOSE: a SHMSIGNAL that still waits *becomes* it, otherwise it is queued.  So SHMCLOSE comes exactly once
for each signal that DEVSHM gave out, and nothing for that cookie follows it.

Doorbells and everything that a device asks for "soon" only mark a signal; :meth:`SouthSignals.run` calls the devices,
in turn, at most so many per pass.  Nothing here is called from inside a device's call.

Handles count from 1 and are never used again; the original began at 0, which its own guest took for "closed".

Spec: vbus 2 (client rules), 4.4, 5.3, A12, A21, A32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.machine import Counters
from pvnet.papr.errno import ENOSPC
from pvnet.vbus.bridge_io import SignalClosed, SignalOpened, SignalRang
from pvnet.vbus.device import Signal
from pvnet.vbus.errors import VbusError
from pvnet.vbus.event_queue import QueuedEvent, SouthQueues
from pvnet.vbus.layout import EventId
from pvnet.vbus.wakeups import Wakeups

LAST_HANDLE: Final = 0xFFFFFFFF


def nothing() -> None:
    """What a signal does for which nobody has said what it should do."""


class HostSignal:
    """One signal: the :class:`~pvnet.vbus.device.SouthSignal` that a device sees.

    ``mapped`` and ``held`` are the two real references; ``owner`` names the connection for whoever looks.
    """

    __slots__ = (
        "_signals",
        "bell",
        "cookie",
        "direct",
        "event",
        "handle",
        "held",
        "mapped",
        "on_wakeup",
        "owner",
        "prio",
        "shm",
    )

    def __init__(self, signals: SouthSignals, shm: Signal, owner: int, handle: int, cookie: int, prio: int) -> None:
        self._signals = signals
        self.shm = shm
        self.owner = owner
        self.handle = handle
        self.cookie = cookie
        self.prio = prio
        self.on_wakeup: Callable[[], None] = nothing
        self.event = QueuedEvent(EventId.SHMSIGNAL, cookie)
        self.mapped = True
        self.held = True
        self.direct = False
        self.bell: Callable[[], None] | None = None

    @property
    def references(self) -> int:
        """Map, device and waiting event; the object is gone at 0."""
        return self.mapped + self.held + (self.event.queue is not None)

    @property
    def awake(self) -> bool:
        """Whether it may be woken."""
        return self.mapped

    def inject(self) -> None:
        """Tell north to look; nothing happens when it did not ask to be told, or when the signal is closed."""
        if self.held and self.shm.inject():
            self._signals.notify(self)

    def enable(self) -> None:
        """Ask north to ring; a wakeup follows when something is there already."""
        if self.held and self.shm.enable():
            self._signals.rung(self)

    def disable(self) -> None:
        """Ask north not to ring."""
        if self.held:
            self.shm.disable()

    def again(self) -> None:
        """Run ``on_wakeup`` once more, whatever the shared bytes say."""
        if self.mapped:
            self._signals.polled(self)


class SouthSignals:
    """All signals of a client.

    :param limit: most signals at a time, closing ones that still wait to be announced included (A14).
    :param emit: takes outputs.
    :param ready: called when there is something for :meth:`run` or an event to flush.
    """

    def __init__(
        self,
        queues: SouthQueues,
        counters: Counters,
        limit: int,
        emit: Callable[[SignalOpened | SignalClosed | SignalRang], None],
        ready: Callable[[], None],
    ) -> None:
        self._queues = queues
        self._counters = counters
        self._limit = limit
        self._emit = emit
        self._ready = ready
        self._last_handle = 0
        self._by_handle: dict[int, HostSignal] = {}
        self._by_cookie: dict[int, HostSignal] = {}
        self._closing: list[HostSignal] = []
        self._wakeups: Wakeups[HostSignal] = Wakeups(counters, ready, catches=Exception)
        self.rung = self._wakeups.rang
        """Look at a signal's shared bytes soon."""
        self.polled = self._wakeups.poll
        """Call a signal's device soon, whatever the bytes say."""
        self.run = self._wakeups.run
        """Call up to ``budget`` devices whose signals are marked, oldest mark first."""

    def __len__(self) -> int:
        return len(self._by_handle)

    @property
    def busy(self) -> bool:
        """Whether :meth:`run` has something to do."""
        return self._wakeups.busy

    @property
    def alive(self) -> int:
        """Signals that hold memory: mapped ones, and closed ones whose SHMCLOSE waits."""
        self._closing = [signal for signal in self._closing if signal.references]
        return len(self._by_handle) + len(self._closing)

    # -- birth and death ---------------------------------------------------------------------------------------------

    def create(self, shm: Signal, owner: int, cookie: int, prio: int) -> HostSignal:
        """A new signal under the next handle.

        :raises VbusError: ENOSPC, too many signals, or all handles used up.
        """
        if self.alive >= self._limit or self._last_handle >= LAST_HANDLE:
            raise VbusError(ENOSPC, f"{self.alive} signals")
        self._last_handle += 1
        signal = HostSignal(self, shm, owner, self._last_handle, cookie, prio)
        self._by_handle[signal.handle] = signal
        return signal

    def announce(self, signal: HostSignal) -> None:
        """DEVSHM has succeeded: the client knows the signal from now on.

        A client that uses a cookie twice loses the eventfds of the first one, which goes by events from now on.
        """
        twin = self._by_cookie.get(signal.cookie)
        if twin is not None:
            twin.direct = False
            twin.bell = None
            self._counters["bad_cookie"] += 1
            self._emit(SignalClosed(signal.cookie))
        self._by_cookie[signal.cookie] = signal
        self._emit(SignalOpened(signal.cookie, signal.handle))

    def abandon(self, signal: HostSignal) -> None:
        """DEVSHM has failed: the client never knew it, and hears nothing of it."""
        self.unmap(signal)
        signal.held = False
        signal.event.unlink()

    def unmap(self, signal: HostSignal) -> None:
        """Nobody can ring it any more."""
        signal.mapped = False
        self._by_handle.pop(signal.handle, None)
        self._wakeups.forget(signal)

    def release(self, signal: HostSignal) -> None:
        """The device has let go, and it is unmapped: SHMCLOSE."""
        signal.held = False
        signal.event.id = EventId.SHMCLOSE
        if signal.event.queue is None:
            self._queues.post(signal.event, signal.prio)
        self._forget(signal)
        self._closing.append(signal)
        self._ready()

    def clear(self) -> None:
        """The client is reset or dead, and all its connections have ended: handles begin again."""
        self._closing.clear()
        self._last_handle = 0

    def _forget(self, signal: HostSignal) -> None:
        if self._by_cookie.get(signal.cookie) is signal:
            del self._by_cookie[signal.cookie]
            self._emit(SignalClosed(signal.cookie))

    # -- ringing -----------------------------------------------------------------------------------------------------

    def bind(self, cookie: int, bell: Callable[[], None] | None = None) -> None:
        """North listens on an eventfd, which ``bell`` rings at once (``None``: an output asks for it).

        A signal that is gone meanwhile is closed once more.
        """
        signal = self._by_cookie.get(cookie)
        if signal is None:
            self._counters["bad_cookie"] += 1
            self._emit(SignalClosed(cookie))
        else:
            signal.direct = True
            signal.bell = bell

    def notify(self, signal: HostSignal) -> None:
        """Ring north."""
        self._counters["notify"] += 1
        if signal.direct:
            if signal.bell is not None:
                signal.bell()
                return
            self._emit(SignalRang(signal.cookie))
        else:
            self._queues.post(signal.event, signal.prio)
        self._ready()

    def doorbell(self, handle: int) -> None:
        """North rang a handle; unknown ones are ignored and counted."""
        signal = self._by_handle.get(handle)
        if signal is None:
            self._counters["bad_doorbell"] += 1
        else:
            self._counters["inject"] += 1
            self.rung(signal)

    def rang(self, cookie: int) -> None:
        """North rang an eventfd."""
        signal = self._by_cookie.get(cookie)
        if signal is None:
            self._counters["bad_cookie"] += 1
        else:
            self._counters["inject"] += 1
            self.rung(signal)

    def memory_changed(self) -> None:
        """The client's stores have arrived as a copy: any signal may have been raised."""
        for signal in self._by_handle.values():
            signal.shm.mark()
            self.rung(signal)

    def recheck(self) -> None:
        """Rescue poll."""
        self._wakeups.recheck(self._by_handle.values())
