"""Signals that wait for their wakeup, the same on both sides: in the order of their marks, with a budget and a rescue.

Doorbells only mark a signal; :meth:`Wakeups.run` calls whoever it belongs to.  A mark by :meth:`Wakeups.rang` looks at
the signal's shared bytes first; one by :meth:`Wakeups.poll` calls whatever they say.

The rescue counts only what waited at two polls in a row with no ring in between: a doorbell that is on its way is not a
lost one.

Spec: vbus 5.3, 5.4, 10.4 (4).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Counters
from pvnet.vbus.device import Signal


class Sleeper(Protocol):
    """A signal of either side."""

    shm: Signal
    on_wakeup: Callable[[], None]

    @property
    def awake(self) -> bool:
        """Whether it may still be woken."""
        ...


S = TypeVar("S", bound=Sleeper)


class Wakeups(Generic[S]):
    """The marked signals of one machine.

    :param ready: called when there is something for :meth:`run`.
    :param catches: what a wakeup may raise to have failed; the rest is raised on.
    """

    __slots__ = ("_catches", "_counters", "_marked", "_ready", "_suspects")

    def __init__(self, counters: Counters, ready: Callable[[], None], catches: type[Exception] = PvnetError) -> None:
        self._catches = catches
        self._counters = counters
        self._ready = ready
        self._marked: OrderedDict[S, bool] = OrderedDict()
        self._suspects: set[S] = set()

    @property
    def busy(self) -> bool:
        """Whether :meth:`run` has something to do."""
        return bool(self._marked)

    def rang(self, signal: S) -> None:
        """Look at the shared bytes soon."""
        self._suspects.discard(signal)
        if signal.awake and signal not in self._marked:
            self._marked[signal] = False
            self._ready()

    def poll(self, signal: S) -> None:
        """Wake it soon, whatever the bytes say."""
        if signal.awake:
            self._marked[signal] = True
            self._ready()

    def forget(self, signal: S) -> None:
        """It is gone."""
        self._marked.pop(signal, None)
        self._suspects.discard(signal)

    def run(self, budget: int, fault: Callable[[S, Exception], None]) -> None:
        """Wake up to ``budget`` of them, the oldest mark first; ``fault`` is told when a wakeup failed."""
        marked = self._marked
        for _ in range(min(budget, len(marked))):
            signal, polled = marked.popitem(last=False)
            try:
                if polled:
                    signal.on_wakeup()
                elif signal.shm.wakeup(signal.on_wakeup):
                    self.rang(signal)
            except self._catches as error:
                fault(signal, error)
            if not marked:
                return
        if marked:
            self._counters["budget_exhausted"] += 1

    def recheck(self, signals: Iterable[S]) -> None:
        """Rescue poll: what waited at the last poll too, and nobody has rung since, is looked at and counted."""
        waiting = {s for s in signals if s.awake and s not in self._marked and s.shm.recheck()}
        found = waiting & self._suspects
        for signal in found:
            signal.shm.counters.rescues += 1
            self._counters["lost_wakeup_rescues"] += 1
            self.rang(signal)
        self._suspects = waiting - found
