"""IOQ-2026: a cache line per writer, and wakeups by event index.  Layout and signal; the roles are in ``ioq2026``.

::

    0x000  magic u32, version u32 = 1, count u32 (a power of two), stride u32 = 32, features u64, generation u64
    0x040  north's line: prod u32, cons u32, event u32, flags u32 (bit 0 need-wakeup, bit 1 closed), rest zero
    0x080  south's line: the same
    0x0c0  zero
    0x100  descriptors: cookie u64, ptr u64, length u32, flags u16, gen u16, zero u64

The 2009 head has both sides write into one cache line and one byte per descriptor hand it over.  Here a side writes its
own line only.  *prod* counts, for ever and modulo 2^32, what the side has handed over; *cons* what it has taken of
the other's.  The ring goes round: what north hands over as number *n*, south hands back as number *n*, so north's
*prod* is between south's and south's + count.

**Descriptors.**  *gen* is the low 16 bits of ``n // count + 1``, and bit 0 of *flags* is set when the descriptor goes
to south.  Length, flags and gen are one 64-bit store, made before *prod* moves; who takes a descriptor compares both
with what they must be.  (The specification leaves the direction open; without the bit a descriptor that was handed
over would look the same when it came back.)

**Event index.**  *event* says: wake me when your *prod* passes this.  A side moves it only when it goes to sleep, so a
sender that finds the other busy does not ring.  The three places where a store must be visible before the next load:
sender, *prod* before *event*; receiver, enabling and going to sleep again, *event* before *prod*.  Three fences are
enough because nothing is cleared: there is no *dirty* that a late store could wipe.

Any value that the peer writes into its *event* or *flags* decides about its own wakeups alone.

Spec: vbus 6.9, 10.3, 10.4.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, RingError
from pvnet.ring.layout import MAX_COUNT, Fence, words
from pvnet.ring.shm_signal import PASSES, Counters

MAGIC_2026: Final = 0x494F5132
VERSION_2026: Final = 1
STRIDE: Final = 32
HEADER: Final = Struct("<IIIIQQ")
NORTH_LINE: Final = 0x40
SOUTH_LINE: Final = 0x80
FIRST_DESCRIPTOR: Final = 0x100
DESCRIPTOR_2026: Final = Struct("<QQIHHQ")

TO_SOUTH: Final = 1
"""Descriptor flag: handed to south (absent: handed back to north)."""

NEED_WAKEUP: Final = 1
CLOSED: Final = 2
ATTACHED: Final = 4
"""Ours: somebody is this side already (packet rings, whose sides both attach)."""

# Words of a line.
PROD: Final = 0
CONS: Final = 1
EVENT: Final = 2
FLAGS: Final = 3

MASK: Final = 0xFFFF_FFFF


class WordMemory(Protocol):
    """Memory that is read and written one 32-bit word at a time."""

    def __getitem__(self, index: int, /) -> int:
        """Load a word."""
        ...

    def __setitem__(self, index: int, value: int, /) -> None:
        """Store a word."""
        ...


def line_word(locale: int) -> int:
    """First 32-bit word of a side's line."""
    return (SOUTH_LINE if locale else NORTH_LINE) // 4


def ring_2026_bytes(count: int) -> int:
    """Bytes of a ring with ``count`` descriptors, exactly."""
    return FIRST_DESCRIPTOR + STRIDE * count


def is_2026(view: memoryview) -> bool:
    """Whether the memory starts with the magic of this layout."""
    return view.nbytes >= 4 and int.from_bytes(view.cast("B")[:4], "little") == MAGIC_2026


def format_2026(view: memoryview, count: int, generation: int) -> None:
    """Write an empty ring of ``count`` (a power of two) into ``view``, the magic last.

    Raises:
        LocalError: the count or size is wrong.
    """
    if not 1 <= count <= MAX_COUNT or count & (count - 1) or view.nbytes != ring_2026_bytes(count):
        raise LocalError(f"ring of {count} descriptors in {view.nbytes} bytes: expected a power of two, exactly")
    memory = words(view)
    for word in range(len(memory.u64)):
        memory.u64[word] = 0
    memory.u64[3] = generation
    memory.u32[3] = STRIDE
    memory.u32[2] = count
    memory.u32[1] = VERSION_2026
    memory.u32[0] = MAGIC_2026


def check_2026(view: memoryview, max_count: int) -> int:
    """Check a copy of the head of a ring that the peer made; return its count.

    Raises:
        RingError: EINVAL.
    """
    if view.nbytes < FIRST_DESCRIPTOR:
        raise RingError(EINVAL, f"ring region of {view.nbytes} bytes is smaller than a ring head")
    head = bytes(view.cast("B")[:FIRST_DESCRIPTOR])
    count: int
    magic, version, count, stride, features, _ = HEADER.unpack_from(head)
    if (magic, version, stride, features) != (MAGIC_2026, VERSION_2026, STRIDE, 0):
        raise RingError(EINVAL, f"ring magic {magic:#x} version {version} stride {stride} features {features:#x}")
    if not 1 <= count <= min(max_count, MAX_COUNT) or count & (count - 1) or view.nbytes != ring_2026_bytes(count):
        raise RingError(EINVAL, f"ring of {count} descriptors in {view.nbytes} bytes (at most {max_count})")
    gaps = head[HEADER.size : NORTH_LINE] + head[NORTH_LINE + 16 : SOUTH_LINE] + head[SOUTH_LINE + 16 :]
    if any(gaps):
        raise RingError(EINVAL, "ring head has bytes that are not zero where it must")
    return count


class EventSignal:
    """The side ``locale`` of the wakeups of an IOQ-2026 ring, over its 32-bit words."""

    __slots__ = (
        "_enabled",
        "_event",
        "_fence",
        "_flags",
        "_in_wakeup",
        "_noticed",
        "_own",
        "_peer",
        "_told",
        "_words",
        "counters",
    )

    def __init__(self, memory: WordMemory, locale: int, fence: Fence) -> None:
        self._words = memory
        self._fence = fence
        self._own = line_word(locale)
        self._peer = line_word(1 - locale)
        self._enabled = False
        self._in_wakeup = False
        self._event = 0
        self._flags = 0
        self._noticed = 0
        """The peer's prod when we looked last."""
        self._told = 0
        """Our prod at the last inject."""
        self.counters = Counters()

    @classmethod
    def attach(cls, view: memoryview, locale: int, fence: Fence) -> EventSignal:
        """Use the signal of the ring in ``view``, after checking a copy of its head.

        Raises:
            RingError: EINVAL, it is no such ring.
        """
        check_2026(view, MAX_COUNT)
        return cls(words(view).u32, locale, fence)

    @property
    def enabled(self) -> bool:
        """Whether we asked to be rung."""
        return self._enabled

    @property
    def peer_closed(self) -> bool:
        """Whether the peer said that it has ended."""
        return bool(self._words[self._peer + FLAGS] & CLOSED)

    @property
    def moved(self) -> bool:
        """Whether the peer has handed over something since we looked: what to spin on."""
        return self._words[self._peer + PROD] != self._noticed

    def look(self) -> None:
        """Polling instead of wakeups: call it before looking at the ring; :meth:`enable` tells what came after it."""
        self._noticed = self._words[self._peer + PROD]

    def claim(self) -> bool:
        """Say that we are this side; False: somebody is already (a mistake to be noticed, not a lock)."""
        if self._words[self._own + FLAGS] & ATTACHED:
            return False
        self._flags |= ATTACHED
        self._words[self._own + FLAGS] = self._flags
        return True

    def close(self) -> None:
        """Say that we have ended; ring the doorbell after it."""
        self._flags |= CLOSED
        self._words[self._own + FLAGS] = self._flags

    def inject(self) -> bool:
        """Say that *prod* moved; True: it passed the peer's event, ring its doorbell now."""
        memory, peer, counters = self._words, self._peer, self.counters
        counters.injects += 1
        new, old = memory[self._own + PROD], self._told
        self._told = new
        self._fence()
        if memory[peer + FLAGS] & NEED_WAKEUP and (new - memory[peer + EVENT] - 1) & MASK < (new - old) & MASK:
            counters.doorbells += 1
            return True
        counters.suppressed += 1
        return False

    def passed(self, new: int) -> bool:
        """:meth:`inject` for who has moved *prod* to ``new``, fenced, and seen that the peer wants to be rung."""
        counters, old = self.counters, self._told
        self._told = new
        counters.injects += 1
        if (new - self._words[self._peer + EVENT] - 1) & MASK < (new - old) & MASK:
            counters.doorbells += 1
            return True
        counters.suppressed += 1
        return False

    def enable(self) -> bool:
        """Ask to be rung; True: something came meanwhile, schedule a wakeup (False inside of one: it looks anyway)."""
        self._enabled = True
        return self._arm(self._flags | NEED_WAKEUP) and not self._in_wakeup

    def sleep_after(self, seen: int) -> bool:
        """:meth:`enable` for who has taken everything before position ``seen``; True: nothing is there, sleep.

        We stay enabled afterwards: who is past our *event* does not ring again.
        """
        memory, own, peer = self._words, self._own, self._peer
        self._enabled = True
        self._event = self._noticed = memory[own + EVENT] = seen
        if not self._flags & NEED_WAKEUP:
            self._flags |= NEED_WAKEUP
            memory[own + FLAGS] = self._flags
        self._fence()
        return memory[peer + PROD] == seen and not memory[peer + FLAGS] & CLOSED

    def disable(self) -> None:
        """Ask not to be rung; a doorbell on its way is ignored."""
        self._enabled = False
        self._flags &= ~NEED_WAKEUP
        self._words[self._own + FLAGS] = self._flags

    def wakeup(self, notifier: Callable[[], None], passes: int = PASSES) -> bool:
        """Call ``notifier`` until nothing new came while it ran, at most ``passes`` times; then sleep again.

        True: the limit was reached; *event* stays behind, so that nobody rings, and the caller calls again soon.
        """
        if self._in_wakeup:
            raise LocalError("wakeup inside of a wakeup")
        memory, prod_word = self._words, self._peer + PROD
        looked = False
        self._in_wakeup = True
        try:
            while self._enabled:
                prod = memory[prod_word]
                if prod == self._noticed:
                    if not self._arm(self._flags):
                        break
                    prod = memory[prod_word]
                if not passes:
                    return True
                passes -= 1
                self._noticed = prod
                looked = True
                notifier()
        finally:
            self._in_wakeup = False
            self.counters.wakeups += looked
            self.counters.spurious += not looked
        return False

    def mark(self) -> None:
        """The peer's *prod* itself says what there is: nothing to do."""

    def recheck(self) -> bool:
        """Poll: whether something waits for a wakeup.  If no doorbell is on its way, that is a rescue.

        Our own line is written again when the peer has changed it.
        """
        if not self._enabled:
            return False
        memory, own = self._words, self._own
        if memory[own + FLAGS] != self._flags or memory[own + EVENT] != self._event:
            return self.enable()
        return memory[self._peer + PROD] != self._noticed and not self._in_wakeup

    def _arm(self, flags: int) -> bool:
        """Ask to be rung for anything after what we noticed; True: there is something already."""
        memory, own = self._words, self._own
        self._flags = flags
        self._event = memory[own + EVENT] = self._noticed
        memory[own + FLAGS] = flags
        self._fence()
        return memory[self._peer + PROD] != self._noticed
