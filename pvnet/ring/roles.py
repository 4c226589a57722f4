"""The four ends of a ring, the same for both layouts, and how to get one.

====== ============================================ ==========================================
\\      TX: north has work for south                 RX: north lends empty buffers to south
====== ============================================ ==========================================
north  :class:`TxNorth` ``push``, ``reclaim``       :class:`RxNorth` ``provide``, ``collect``, ``refill``
south  :class:`TxSouth` ``take``, ``complete``      :class:`RxSouth` ``take``, ``fill``
====== ============================================ ==========================================

**Hardened.**  A role keeps its own positions and a copy of what it gave.  Of the shared words it believes one: the
hand-over of the very next descriptor, and only when the peer can have it.  Everything else that the peer writes is only
read to be handed to the caller (who checks it) or to compute an output.  What cannot be (a descriptor taken back by who
does not have it, more bytes than the buffer holds) raises :class:`~pvnet.ring.errors.RingFault`, and so does every
later call.

**Batches.**  Each call publishes once.  It never signals: the caller does one ``role.signal.inject()`` for as many
calls as it likes, and rings its transport's doorbell if that says so.  Nobody looks at ``role.signal`` but the caller,
who may replace it by another object over the same words.

Spec: vbus 6.5 to 6.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, Protocol, assert_never, overload

from pvnet.core.errors import LocalError
from pvnet.ring import ioq2026
from pvnet.ring.ioq_north import RxNorth2009, TxNorth2009
from pvnet.ring.ioq_south import RxSouth2009, TxSouth2009
from pvnet.ring.layout import MAX_COUNT, SIGNAL_OFFSET, Descriptor, Fence, ring_2009_bytes
from pvnet.ring.shm_signal import ShmSignal, Signal


class Pattern(Enum):
    """Who has the work."""

    TX = "tx"
    """North sends: descriptors carry work to south and come back."""
    RX = "rx"
    """South sends: north fills the ring with empty buffers once and gives each back after use."""


class Variant(Enum):
    """Layout of a ring."""

    IOQ_2009 = "ioq-2009"
    """The original, byte for byte."""
    IOQ_2026 = "ioq-2026"
    """Ours: a cache line per writer, generations, event index."""


class TxNorth(Protocol):
    """North end of a TX ring."""

    count: int
    signal: Signal

    def room(self) -> int:
        """How many descriptors can be pushed now."""
        ...

    def push(self, batch: Sequence[Descriptor]) -> int:
        """Hand over as many as fit, from the front; return how many."""
        ...

    def reclaim(self, most: int) -> list[Descriptor]:
        """Take back up to ``most`` that south has completed, in order, as they were pushed."""
        ...


class RxNorth(Protocol):
    """North end of an RX ring."""

    count: int
    signal: Signal

    def provide(self, batch: Sequence[Descriptor]) -> int:
        """Set-up, once: hand over exactly ``count`` empty buffers; return ``count``."""
        ...

    def collect(self, most: int) -> list[Descriptor]:
        """Up to ``most`` filled buffers, in order: our cookie and ptr, south's length (checked)."""
        ...

    def refill(self, batch: Sequence[Descriptor]) -> None:
        """Give back the first ``len(batch)`` collected slots with these empty buffers."""
        ...


class TxSouth(Protocol):
    """South end of a TX ring."""

    count: int
    signal: Signal

    @property
    def outstanding(self) -> int:
        """Descriptors taken and not completed."""
        ...

    def take(self, most: int) -> list[Descriptor]:
        """Snapshots of up to ``most`` more descriptors; nothing in them is checked but their hand-over."""
        ...

    def complete(self, count: int) -> None:
        """Hand the first ``count`` of the taken ones back."""
        ...


class RxSouth(Protocol):
    """South end of an RX ring."""

    count: int
    signal: Signal

    @property
    def outstanding(self) -> int:
        """Buffers taken and not filled."""
        ...

    def take(self, most: int) -> list[Descriptor]:
        """Snapshots of up to ``most`` more empty buffers; ptr and length are north's word and unchecked."""
        ...

    def fill(self, lengths: Sequence[int]) -> None:
        """Hand the first ``len(lengths)`` of the taken ones over, with so many bytes in them."""
        ...


def ring_bytes(count: int, variant: Variant = Variant.IOQ_2009) -> int:
    """Bytes of a ring of ``count`` descriptors, exactly."""
    match variant:
        case Variant.IOQ_2009:
            return ring_2009_bytes(count)
        case Variant.IOQ_2026:
            return ioq2026.ring_2026_bytes(count)
        case _:
            assert_never(variant)


def signal_offset(variant: Variant = Variant.IOQ_2009) -> int:
    """Where the wakeup words of a ring are: what DEVSHM calls ``signal.offset``."""
    match variant:
        case Variant.IOQ_2009:
            return SIGNAL_OFFSET
        case Variant.IOQ_2026:
            return ioq2026.NORTH_LINE
        case _:
            assert_never(variant)


@overload
def create_ring(
    view: memoryview, count: int, pattern: Literal[Pattern.TX], fence: Fence, variant: Variant = ...
) -> TxNorth: ...
@overload
def create_ring(
    view: memoryview, count: int, pattern: Literal[Pattern.RX], fence: Fence, variant: Variant = ...
) -> RxNorth: ...
def create_ring(
    view: memoryview, count: int, pattern: Pattern, fence: Fence, variant: Variant = Variant.IOQ_2009
) -> TxNorth | RxNorth:
    """Make a ring in ``view`` (exactly :func:`ring_bytes`) and return its north end.

    Raises:
        LocalError: the count or size is wrong, or the memory is read-only.
        RingError: the memory is not aligned, or the machine cannot do it.
    """
    if view.nbytes != ring_bytes(count, variant):
        raise LocalError(f"ring of {count} in {view.nbytes} bytes: expected {ring_bytes(count, variant)}")
    match variant, pattern:
        case Variant.IOQ_2009, Pattern.TX:
            return TxNorth2009(view, count, fence)
        case Variant.IOQ_2009, Pattern.RX:
            return RxNorth2009(view, count, fence)
        case Variant.IOQ_2026, Pattern.TX:
            return ioq2026.TxNorth2026(view, count, fence)
        case _:
            return ioq2026.RxNorth2026(view, count, fence)


@overload
def attach_ring(
    view: memoryview,
    pattern: Literal[Pattern.TX],
    fence: Fence,
    max_count: int = ...,
    allow_2026: bool = ...,
    signal: Signal | None = ...,
) -> TxSouth: ...
@overload
def attach_ring(
    view: memoryview,
    pattern: Literal[Pattern.RX],
    fence: Fence,
    max_count: int = ...,
    allow_2026: bool = ...,
    signal: Signal | None = ...,
) -> RxSouth: ...
def attach_ring(
    view: memoryview,
    pattern: Pattern,
    fence: Fence,
    max_count: int = MAX_COUNT,
    allow_2026: bool = False,
    signal: Signal | None = None,
) -> TxSouth | RxSouth:
    """Check a ring that north made and return its south end.

    ``signal``: the signal of this ring, if the caller attached to it before; otherwise a new one is made.

    Raises:
        RingError: EINVAL, the ring is not what it should be (vbus 6.7), or is IOQ-2026 and that was not agreed.
    """
    if allow_2026 and ioq2026.is_2026(view):
        return (ioq2026.TxSouth2026 if pattern is Pattern.TX else ioq2026.RxSouth2026)(view, fence, max_count, signal)
    return (TxSouth2009 if pattern is Pattern.TX else RxSouth2009)(view, fence, max_count, signal)


def attach_signal(view: memoryview, offset: int, locale: int, fence: Fence, allow_2026: bool = False) -> Signal:
    """The signal at ``offset`` of a region, as side ``locale``: of a ring of either layout, or a signal alone.

    Raises:
        RingError: EINVAL, there is no signal.
    """
    if allow_2026 and offset == ioq2026.NORTH_LINE and ioq2026.is_2026(view):
        return ioq2026.EventSignal.attach(view, locale, fence)
    return ShmSignal.attach(view, offset, locale, fence)
