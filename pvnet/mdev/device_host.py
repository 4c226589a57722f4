"""What the framework gives to a device while it is open.

A host lives from one open to the next close.  A device that keeps it longer finds that nothing happens any more: no
irq, no program, no timer.

Spec: mdev 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvnet.core.machine import Note
from pvnet.mdev.device import Cancellable, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guard import Guard
from pvnet.mdev.irqs import IrqLines
from pvnet.mdev.programs import Programs


class Timers(Protocol):
    """Where time comes from."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call back after ``delay_s`` seconds."""
        ...


class Nothing:
    """What has ended already, or never began."""

    def cancel(self) -> None:
        """Do nothing."""


class _Timer:
    """A call that has not come yet."""

    def __init__(self, host: OpenHost, callback: Callable[[], None]) -> None:
        self._host = host
        self._callback = callback
        self.wrapped: Cancellable = Nothing()

    def fire(self) -> None:
        if self._host.forget(self):
            self._host.guard.tell("timer", self._callback)

    def cancel(self) -> None:
        if self._host.forget(self):
            self.wrapped.cancel()


class OpenHost:
    """The :class:`~pvnet.mdev.device.DeviceHost` of one open."""

    def __init__(
        self, irqs: IrqLines, programs: Programs, guard: Guard, timers: Timers, note: Callable[[Note], None]
    ) -> None:
        self.guard = guard
        self._irqs = irqs
        self._programs = programs
        self._timers = timers
        self._note = note
        self._live = True
        self._timed: set[_Timer] = set()

    def close(self) -> None:
        """From now on nothing happens."""
        self._live = False
        for timer in tuple(self._timed):
            timer.cancel()

    def signal(self, index: int, vector: int = 0) -> None:
        """See :meth:`~pvnet.mdev.device.DeviceHost.signal`."""
        if self._live:
            self._irqs.signal(index, vector)

    def set_level(self, index: int, *, asserted: bool) -> None:
        """See :meth:`~pvnet.mdev.device.DeviceHost.set_level`."""
        if self._live:
            self._irqs.set_level(index, asserted=asserted)

    def irq_enabled(self, index: int, vector: int = 0) -> bool:
        """See :meth:`~pvnet.mdev.device.DeviceHost.irq_enabled`."""
        return self._live and self._irqs.enabled(index, vector)

    def run(self, steps: Steps[None], done: Callable[[MdevError | None], None] | None = None) -> Cancellable:
        """See :meth:`~pvnet.mdev.device.DeviceHost.run`; too many at once: ``done`` hears EBUSY."""
        if not self._live:
            self.guard.tell("end of a program", steps.close)
            return Nothing()

        def ended(result: MdevError | None) -> None:
            if done is not None:
                self.guard.tell("end of a program", done, result if isinstance(result, MdevError) else None)

        try:
            return self._programs.start(steps, ended, owed=False)
        except MdevError as error:
            ended(error)
            return Nothing()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """See :meth:`~pvnet.mdev.device.DeviceHost.call_later`."""
        if not self._live:
            return Nothing()
        timer = _Timer(self, callback)
        self._timed.add(timer)
        timer.wrapped = self._timers.call_later(max(0.0, delay_s), timer.fire)
        return timer

    def forget(self, timer: _Timer) -> bool:
        """Take a timer off the list; returns whether it was there."""
        if timer not in self._timed:
            return False
        self._timed.discard(timer)
        return True

    def note(self, note: Note) -> None:
        """See :meth:`~pvnet.mdev.device.DeviceHost.note`."""
        self._note(note)
