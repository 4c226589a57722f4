"""The contract of every state machine in pvnet.

A machine is a plain object that owns protocol state and nothing else.  It is driven by exactly three things: an input,
the time, and nothing else::

    outputs = machine.feed(some_input, now)     # every consequence, in order
    machine.deadline()                          # when it wants a Tick, or None

* **Inputs and outputs** are closed unions of frozen dataclasses; consumers ``match`` them and end in ``assert_never``.
  Outputs are imperatives for the outside ("call the hypervisor", "raise this irq"), never callbacks.
* **Time** is a float of seconds from any origin; it comes in, the machine never reads a clock.  After ``deadline()``
  has passed, the driver feeds :class:`Tick`; feeding it early is harmless.
* **Misuse** by our own program raises :class:`pvnet.core.errors.LocalError`.  A peer's misuse is a row of the state
  table: dropped and counted, answered with a status, or a reset.  It never raises.
* A recorded list of (input, time) therefore reproduces every output: a recording is a test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol, TypeVar

InT_contra = TypeVar("InT_contra", contravariant=True)
OutT = TypeVar("OutT")


class Machine(Protocol[InT_contra, OutT]):
    """What a driver needs of a machine; see the module's text for the rules."""

    def feed(self, event: InT_contra, now: float) -> list[OutT]:
        """Consume one input at time ``now`` (seconds) and return the consequences in order."""
        ...

    def deadline(self) -> float | None:
        """Time at which the machine wants a :class:`Tick`, or ``None``."""
        ...


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; fed when ``deadline()`` is due."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a log line: ``event`` is a constant like ``"stale_session"``, ``fields`` print as they are.

    ``level`` is ``"debug"``, ``"info"`` or ``"warning"``; the driver guards it, machines never log.
    """

    event: str
    fields: tuple[tuple[str, int | str], ...] = ()
    level: str = "debug"


class Counters(Counter[str]):
    """Named event counts of one machine: every drop, refusal and repair leaves a number here."""
