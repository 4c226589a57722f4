"""The seam between a machine and the event loop: one machine, one timer, one function that carries outputs out.

Feeding from inside an output is allowed: inputs are queued, so a machine never sees an input while it works on another
(outputs of one input are carried out before the next input is fed).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from pvnet.core.machine import Machine, Tick

InT = TypeVar("InT")
OutT = TypeVar("OutT")


class Driver(Generic[InT, OutT]):
    """Runs ``machine``; ``carry_out(output)`` is called for every output, in order.

    ``settled()`` is called when the inputs that there were have been carried out, before anything else runs.
    """

    def __init__(
        self,
        machine: Machine[InT | Tick, OutT],
        carry_out: Callable[[OutT], None],
        settled: Callable[[], None] | None = None,
    ) -> None:
        self.machine = machine
        self._carry_out = carry_out
        self._settled = settled
        self._inputs: deque[InT | Tick] = deque()
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False

    def feed(self, event: InT | Tick) -> None:
        """Give the machine an input now, or after the ones before it."""
        if self._closed:
            return
        self._inputs.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                for output in self.machine.feed(self._inputs.popleft(), self._loop.time()):
                    self._carry_out(output)
        finally:
            self._busy = False
        if self._settled is not None:
            self._settled()
        self._arm()

    def _arm(self) -> None:
        due = self.machine.deadline()
        if self._timer is not None:
            if due == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and not self._closed:
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick())

    def close(self) -> None:
        """Stop the timer; later inputs are ignored."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
