"""The signals of a partition: cookies with generations, wakeups, and who still holds each.

A signal is held by the **device's list** (until DEVCLOSE), by the **host** (until SHMCLOSE) and by the **driver**
(until it puts it, at the latest when it is removed): three references after a successful DEVSHM, none after a failed
one.  DEVCLOSE and SHMCLOSE come in either order.  Only when all three are gone is the table's place used again, and
then with the next generation: ``cookie = generation << 32 | index``.  So a forged, repeated or late cookie finds
nobody; it is counted.

After DEVCLOSE a signal that still waits for its SHMCLOSE wakes nobody: its ring may be gone already.

Spec: vbus 4.4, A10, A11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.machine import Counters
from pvnet.papr.errno import ENOSPC
from pvnet.vbus.bridge_io import Doorbell, SignalClosed, SignalOpened
from pvnet.vbus.device import Signal
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.wakeups import Wakeups

_GENERATIONS: Final = 0xFFFFFFFF


def nothing() -> None:
    """Do nothing: the wakeup of a signal whose driver set none."""


class DriverSignal:
    """One signal: the :class:`~pvnet.vbus.north_driver.NorthSignal` that a driver sees."""

    __slots__ = (
        "_signals",
        "_unrung",
        "bell",
        "closed",
        "cookie",
        "ended",
        "handle",
        "known",
        "listed",
        "live",
        "on_wakeup",
        "owner",
        "shm",
        "with_driver",
        "with_host",
    )

    def __init__(self, signals: NorthSignals, owner: int, shm: Signal, on_wakeup: Callable[[], None]) -> None:
        self._signals = signals
        self._unrung = False
        self.owner = owner
        self.shm = shm
        self.on_wakeup = on_wakeup
        self.cookie = 0
        self.handle = 0
        self.bell: Callable[[], None] | None = None
        self.closed = False
        self.live = False
        """DEVSHM has begun and neither end has closed it: it may ring."""
        self.ended = False
        """One end has closed it; its memory is not touched any more."""
        self.known = False
        """DEVSHM has succeeded: ``handle`` is the host's."""
        self.listed = False
        self.with_host = False
        self.with_driver = False

    @property
    def references(self) -> int:
        """Device's list, host, driver."""
        return self.listed + self.with_host + self.with_driver

    @property
    def awake(self) -> bool:
        """Whether it may be woken."""
        return self.live

    def inject(self) -> None:
        """Tell the host to look; before DEVSHM has succeeded it is remembered."""
        if not self.ended and self.shm.inject():
            if self.known:
                self._signals.ring(self)
            else:
                self._unrung = True

    def enable(self) -> None:
        """Ask the host to ring; a wakeup follows when something is there already."""
        if not self.ended and self.shm.enable():
            self._signals.rung(self)

    def disable(self) -> None:
        """Ask the host not to ring."""
        if not self.ended:
            self.shm.disable()

    def again(self) -> None:
        """Run ``on_wakeup`` once more, whatever the shared bytes say."""
        self._signals.polled(self)

    def put(self) -> None:
        """Drop the driver's reference, and the driver: they would hold each other, and with them the arena."""
        self.with_driver = False
        self.on_wakeup = nothing
        self._signals.drop(self)

    def opened(self, handle: int) -> None:
        """DEVSHM has succeeded: the driver has its reference, and what it wanted to ring is rung."""
        self.handle = handle
        self.known = True
        self.with_driver = True
        if self._unrung:
            self._unrung = False
            self._signals.ring(self)


class NorthSignals:
    """The table.

    :param emit: takes outputs.
    :param ready: called when there is something to do or to send.
    """

    def __init__(
        self,
        counters: Counters,
        first: int,
        limit: int,
        emit: Callable[[Doorbell | SignalOpened | SignalClosed], None],
        ready: Callable[[], None],
    ) -> None:
        self._counters = counters
        self._limit = limit
        self._emit = emit
        self._ready = ready
        self._next = first
        self._free: list[int] = []
        self._generation: dict[int, int] = {}
        self._table: dict[int, DriverSignal] = {}
        self._wakeups: Wakeups[DriverSignal] = Wakeups(counters, ready)
        self.rung = self._wakeups.rang
        """Look at a signal's shared bytes soon."""
        self.polled = self._wakeups.poll
        """Call a signal's driver soon, whatever the bytes say."""
        self.run = self._wakeups.run
        """Wake up to ``budget`` drivers, oldest mark first."""

    def __len__(self) -> int:
        return len(self._table)

    @property
    def busy(self) -> bool:
        """Whether :meth:`run` has something to do."""
        return self._wakeups.busy

    # -- life --------------------------------------------------------------------------------------------------------

    def insert(self, signal: DriverSignal) -> None:
        """DEVSHM begins: device's list and host hold it from now on, and it may be rung.

        :raises VbusError: ENOSPC.
        """
        if len(self._table) >= self._limit:
            raise VbusError(ENOSPC, f"{self._limit} signals")
        index = self._free.pop() if self._free else self._next
        if index == self._next:
            self._next += 1
        generation = self._generation.setdefault(index, 1)
        signal.cookie = generation << 32 | index
        signal.listed = signal.with_host = signal.live = True
        self._table[index] = signal

    def opened(self, signal: DriverSignal, handle: int) -> None:
        """DEVSHM has succeeded."""
        self._emit(SignalOpened(signal.cookie, handle))
        signal.opened(handle)

    def failed(self, signal: DriverSignal) -> None:
        """DEVSHM has failed: nobody holds it."""
        self._end(signal)
        signal.listed = signal.with_host = False
        self.drop(signal)

    def device_closed(self, signal: DriverSignal) -> None:
        """DEVCLOSE: no more wakeups; the host may still owe SHMCLOSE."""
        self._end(signal)
        signal.listed = False
        self.drop(signal)

    def host_closed(self, cookie: int) -> None:
        """SHMCLOSE; a cookie that is not the host's (any more) is counted."""
        signal = self.find(cookie)
        if signal is not None:
            self.lost(signal)

    def lost(self, signal: DriverSignal) -> None:
        """The host does not have it any more: SHMCLOSE, or it is dead."""
        self._end(signal)
        signal.closed = True
        signal.with_host = False
        self.drop(signal)

    def drop_host(self) -> None:
        """The host is dead: it holds nothing."""
        for signal in list(self._table.values()):
            if signal.with_host:
                self.lost(signal)

    def drop(self, signal: DriverSignal) -> None:
        """Free the place when nobody holds the signal any more."""
        index = signal.cookie & 0xFFFFFFFF
        if signal.references or self._table.get(index) is not signal:
            return
        del self._table[index]
        self._generation[index] = self._generation[index] % _GENERATIONS + 1
        self._free.append(index)

    def find(self, cookie: int) -> DriverSignal | None:
        """The signal that the host may name by ``cookie``; otherwise it is counted."""
        signal = self._table.get(cookie & 0xFFFFFFFF)
        if signal is None or signal.cookie != cookie or not signal.with_host:
            self._counters["bad_cookie"] += 1
            return None
        return signal

    def _end(self, signal: DriverSignal) -> None:
        signal.ended = True
        if signal.live:
            signal.live = False
            self._wakeups.forget(signal)
            if signal.known:
                self._emit(SignalClosed(signal.cookie))

    # -- ringing -----------------------------------------------------------------------------------------------------

    def memory_changed(self) -> None:
        """The host's stores have arrived as a copy: any signal may have been raised."""
        for signal in self._table.values():
            if signal.live:
                signal.shm.mark()
                self.rung(signal)

    def ring(self, signal: DriverSignal) -> None:
        """Ring the host: by the signal's own bell at once, else by an output."""
        if signal.live:
            self._counters["inject"] += 1
            if signal.bell is not None:
                signal.bell()
                return
            self._emit(Doorbell(Register.SHMSIGNAL, signal.handle, signal.cookie))
            self._ready()

    def use_bell(self, cookie: int, bell: Callable[[], None] | None) -> None:
        """Have a live signal ring by ``bell`` from now on (an eventfd of its own), without waiting for a turn."""
        signal = self._table.get(cookie & 0xFFFFFFFF)
        if signal is not None and signal.cookie == cookie:
            signal.bell = bell

    def rang(self, cookie: int) -> None:
        """SHMSIGNAL, or the signal's eventfd."""
        signal = self.find(cookie)
        if signal is not None:
            self._counters["notify"] += 1
            self.rung(signal)

    def recheck(self) -> None:
        """Rescue poll."""
        self._wakeups.recheck(self._table.values())
