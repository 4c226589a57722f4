"""An interrupt in shared memory: six bytes that say who wants to be rung, and whether somebody should be.

Each side is a receiver with three bytes: *enabled* (ring me), *dirty* (something changed since you looked) and
*pending* (you have been rung and did not finish looking).  A sender sets the other's *dirty*, and rings the doorbell
only when the other is enabled and not pending.  A wakeup means "look again": it may be spurious, it is never lost.

**Four fences.**  "Never lost" rests on four places where a store must be visible before the next load: the sender's
``dirty := 1``, and the receiver's ``enabled := 1``, ``dirty := 0`` and ``pending := 0``.  The original of 2009 had only
store barriers there, which does not stop the load from overtaking; x86 does overtake.  ``tests/ring/test_signal_model``
runs this very code through every interleaving of a machine with store buffers: with the four fences no wakeup is lost,
and without any one of them one can be.

**What the peer can do.**  *enabled* of our own is kept here too and only that copy is believed (A20).  A peer that sets
our *pending* and never rings, or clears our *dirty*, hurts this signal alone; a slow poll of :meth:`ShmSignal.recheck`
finds what it left (A19).  Any other byte values count as set.

Spec: vbus 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, RingError
from pvnet.ring.layout import SIGNAL, SIGNAL_BYTES, SIGNAL_MAGIC, SIGNAL_VERSION, STORES_IN_ORDER, Fence, words

PASSES: Final = 4
"""How often one wakeup looks again before it lets others run (vbus 5.3)."""

_FLAGS: Final = 8  # offset of irq[0]; irq[1] is three bytes on
_PENDING: Final = 1
_DIRTY: Final = 2


@dataclass(slots=True)
class Counters:
    """What one side of one signal did."""

    injects: int = 0
    """Times that we had something for the peer."""
    doorbells: int = 0
    """Injects for which the peer had to be rung."""
    suppressed: int = 0
    """Injects for which it did not."""
    wakeups: int = 0
    """Wakeups that found something to look at."""
    spurious: int = 0
    """Wakeups that did not, or came while we were masked."""
    rescues: int = 0
    """Times that a poll found work nobody had rung for: 0, unless the peer misbehaves.  Counted by who polls."""


class Signal(Protocol):
    """One side's view of the wakeups of a ring, whatever its layout."""

    counters: Counters

    def inject(self) -> bool:
        """Say that something changed; True: ring the peer's doorbell now."""
        ...

    def enable(self) -> bool:
        """Ask to be rung; True: something came meanwhile, schedule a wakeup."""
        ...

    def disable(self) -> None:
        """Ask not to be rung; a doorbell on its way may still come, and is ignored."""
        ...

    def wakeup(self, notifier: Callable[[], None], passes: int = PASSES) -> bool:
        """Look, until nothing is left to look at; True: the limit was reached, call again soon."""
        ...

    def recheck(self) -> bool:
        """Poll: whether something waits for a wakeup.  If no doorbell is on its way, that is a rescue."""
        ...

    def mark(self) -> None:
        """The peer's stores have arrived as a copy (memory that is not shared): there may be something to look at."""
        ...

    @property
    def enabled(self) -> bool:
        """Whether we asked to be rung."""
        ...


class ByteMemory(Protocol):
    """Memory that is read and written one byte at a time."""

    def __getitem__(self, index: int, /) -> int:
        """Load a byte."""
        ...

    def __setitem__(self, index: int, value: int, /) -> None:
        """Store a byte."""
        ...


class ShmSignal:
    """The side ``locale`` of the signal in ``memory`` (16 bytes, checked already by :meth:`attach`)."""

    __slots__ = ("_bytes", "_enabled", "_fence", "_in_wakeup", "_ordered", "_own", "_peer", "counters")

    def __init__(self, memory: ByteMemory, locale: int, fence: Fence, *, ordered: bool = STORES_IN_ORDER) -> None:
        self._bytes = memory
        self._fence = fence
        self._ordered = ordered
        self._own = _FLAGS + 3 * locale
        self._peer = _FLAGS + 3 * (1 - locale)
        self._enabled = False
        self._in_wakeup = False
        self.counters = Counters()

    @classmethod
    def create(cls, view: memoryview, offset: int, fence: Fence) -> ShmSignal:
        """Make a signal in 16 bytes at ``offset`` (a multiple of 8), all flags zero, and be its north.

        Raises:
            LocalError: the 16 bytes do not lie inside.
            RingError: the memory is not aligned.
        """
        memory = words(_part(view, offset))
        memory.u64[1] = 0
        memory.u32[1] = SIGNAL_VERSION
        memory.u32[0] = SIGNAL_MAGIC
        return cls(memory.u8, 0, fence)

    @classmethod
    def attach(cls, view: memoryview, offset: int, locale: int, fence: Fence) -> ShmSignal:
        """Use the signal at ``offset`` as side ``locale``, after checking a copy of it.

        Raises:
            RingError: EINVAL, wrong magic or version, or not inside, or not aligned.
        """
        if not 0 <= offset <= view.nbytes - SIGNAL_BYTES or offset % 8:
            raise RingError(EINVAL, f"signal at {offset}: not inside of {view.nbytes} bytes, or not aligned")
        memory = words(_part(view, offset))
        magic, version, *_ = SIGNAL.unpack(bytes(memory.u8))
        if magic != SIGNAL_MAGIC or version != SIGNAL_VERSION:
            raise RingError(EINVAL, f"signal has magic {magic:#x} version {version}")
        return cls(memory.u8, locale, fence)

    @property
    def enabled(self) -> bool:
        """Whether we asked to be rung (our own copy: the peer can write the shared one)."""
        return self._enabled

    def inject(self) -> bool:
        """Say that something changed; True: ring the peer's doorbell now.

        Call it once for a batch, after everything is published.
        """
        memory, peer, counters = self._bytes, self._peer, self.counters
        counters.injects += 1
        if not self._ordered:
            self._fence()
        memory[peer + _DIRTY] = 1
        self._fence()
        if memory[peer] and not memory[peer + _PENDING]:
            memory[peer + _PENDING] = 1
            counters.doorbells += 1
            return True
        counters.suppressed += 1
        return False

    def enable(self) -> bool:
        """Ask to be rung; True: something came meanwhile, schedule a wakeup (False inside of one: it looks anyway)."""
        memory, own = self._bytes, self._own
        self._enabled = True
        memory[own] = 1
        self._fence()
        return bool((memory[own + _DIRTY] or memory[own + _PENDING]) and not self._in_wakeup)

    def disable(self) -> None:
        """Ask not to be rung; a doorbell on its way is ignored and *pending* stays, until :meth:`enable`."""
        self._enabled = False
        self._bytes[self._own] = 0

    def wakeup(self, notifier: Callable[[], None], passes: int = PASSES) -> bool:
        """Call ``notifier`` until nothing new came while it ran, at most ``passes`` times.

        True: the limit was reached; *pending* stays set, so that nobody rings, and the caller calls again soon.
        The notifier may call :meth:`disable` to go on polling; a later :meth:`enable` tells what it missed.
        """
        if self._in_wakeup:
            raise LocalError("wakeup inside of a wakeup")
        memory, own, counters = self._bytes, self._own, self.counters
        if not self._is_due():
            counters.spurious += 1
            return False
        counters.wakeups += 1
        self._in_wakeup = True
        try:
            while True:
                while True:
                    if not passes:
                        return True
                    passes -= 1
                    memory[own + _DIRTY] = 0
                    self._fence()
                    notifier()
                    if not self._changed_meanwhile():
                        break
                memory[own + _PENDING] = 0
                self._fence()
                if not self._is_due():
                    return False
        finally:
            self._in_wakeup = False

    def _is_due(self) -> bool:
        return bool(self._enabled and (self._bytes[self._own + _DIRTY] or self._bytes[self._own + _PENDING]))

    def _changed_meanwhile(self) -> bool:
        return bool(self._enabled and self._bytes[self._own + _DIRTY])

    def mark(self) -> None:
        """Set our *dirty* as the peer's inject would have: copies of the flags may disagree for a while.

        Spec: vbus 5.2 (spurious, never lost).
        """
        self._bytes[self._own + _DIRTY] = 1

    def recheck(self) -> bool:
        """Poll: whether something waits for a wakeup.  If no doorbell is on its way, that is a rescue.

        Our *enabled* is written again when the peer has changed it (A20).
        """
        if not self._enabled:
            return False
        memory, own = self._bytes, self._own
        if memory[own] != 1:
            return self.enable()
        return bool((memory[own + _DIRTY] or memory[own + _PENDING]) and not self._in_wakeup)


def _part(view: memoryview, offset: int) -> memoryview:
    if not 0 <= offset <= view.nbytes - SIGNAL_BYTES or offset % 8:
        raise LocalError(f"signal at {offset} of {view.nbytes} bytes: expected inside and at a multiple of 8")
    return view.cast("B")[offset : offset + SIGNAL_BYTES]
