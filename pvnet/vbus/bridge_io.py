"""What goes between a partition's half of the bridge (north) and the host's half (south).

Each is an output of one machine and an input of the other; how it travels is the runtime's matter.  What a register or
structure holds lies in the arena: where the two sides do not share it, the runtime ships what changed with each of
these.

A signal may also travel alone, as its own eventfd, instead of by the shared registers: both machines say which signals
live (:class:`SignalOpened`, :class:`SignalClosed`), the runtime makes the descriptors, north's are used when the host's
runtime has got them (:class:`SignalBound`).

Spec: vbus 3.3, 3.7, 10.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BridgeCall:
    """North → south: the 16 bytes of BAR0, executed.  ``tag`` comes back with the result."""

    tag: int
    call: bytes


@dataclass(frozen=True, slots=True)
class BridgeResult:
    """South → north: result of the call, >= 0 or -errno."""

    tag: int
    result: int


@dataclass(frozen=True, slots=True)
class Doorbell:
    """North → south: a write to a register of BAR1: offset 0 event queue, 4 fast call, 8 signal.

    ``cookie`` names the signal when it is one (0 otherwise), for a runtime that rings it by an eventfd.
    """

    offset: int
    value: int
    cookie: int = 0


@dataclass(frozen=True, slots=True)
class Interrupt:
    """South → north: the interrupt of an event queue."""

    queue: int


@dataclass(frozen=True, slots=True)
class SignalRang:
    """Either way: the eventfd of a signal, instead of a doorbell or event.  As an output: ring it."""

    cookie: int


@dataclass(frozen=True, slots=True)
class SignalOpened:
    """Output of both: a signal lives from now on; its doorbell is ``handle``."""

    cookie: int
    handle: int


@dataclass(frozen=True, slots=True)
class SignalClosed:
    """Output of both: a signal is gone for good."""

    cookie: int


@dataclass(frozen=True, slots=True)
class SignalBound:
    """Input of the host: north listens on an eventfd for this signal; ring that from now on.

    ``bell`` rings it at once, from within a turn or between two; without one the machine's output :class:`SignalRang`
    asks for it.
    """

    cookie: int
    bell: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class DeviceAdded:
    """Input of the host: a device is on the client's bus."""

    id: int
    type: str


@dataclass(frozen=True, slots=True)
class DeviceDropped:
    """Input of the host: a device has left the client's bus."""

    id: int


@dataclass(frozen=True, slots=True)
class ClientGone:
    """Input of the host: the client died or left; this machine ends."""


@dataclass(frozen=True, slots=True)
class MemoryChanged:
    """Input of both: the other side's stores have arrived as a copy.  Look at every signal and event queue."""
