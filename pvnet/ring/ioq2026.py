"""The four ends of an IOQ-2026 ring; layout and wakeups are in ``event_signal``, the protocols in ``roles``.

Both sides do the same two things: hand over the next descriptors (``_give``) and take what the other handed over
(``_take``).  A side believes the other's *prod* as far as it can be true (north: not more than it gave; south: not
more than the ring holds), and each descriptor only with the generation and direction that its number demands.

Spec: vbus 6.8, 6.9.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Final, NoReturn

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, RingError, RingFault
from pvnet.ring.event_signal import (
    CONS,
    FIRST_DESCRIPTOR,
    MASK,
    NORTH_LINE,
    PROD,
    TO_SOUTH,
    EventSignal,
    check_2026,
    format_2026,
    is_2026,
    line_word,
    ring_2026_bytes,
)
from pvnet.ring.layout import MAX_COUNT, NORTH, SOUTH, STORES_IN_ORDER, Descriptor, Fence, words
from pvnet.ring.shm_signal import Signal

__all__ = [
    "NORTH_LINE",
    "EventSignal",
    "RxNorth2026",
    "RxSouth2026",
    "TxNorth2026",
    "TxSouth2026",
    "is_2026",
    "ring_2026_bytes",
]

_FIRST_U64: Final = FIRST_DESCRIPTOR // 8
_FIELDS: Final = Struct("<QQQQ")
_EMPTY: Final = Descriptor(0, 0, 0)
_descriptor: Final = tuple.__new__
"""Half the price of calling the class."""


class Side2026:
    """One side of a ring: how many it gave and took, counted from 0 without wrapping."""

    __slots__ = (
        "_cons_word",
        "_direction",
        "_fault_text",
        "_fence",
        "_given",
        "_ordered",
        "_peer_direction",
        "_peer_prod",
        "_prod_word",
        "_shift",
        "_taken",
        "_u8",
        "_u32",
        "_u64",
        "count",
        "signal",
    )

    signal: Signal

    def __init__(self, view: memoryview, count: int, locale: int, fence: Fence, signal: Signal | None) -> None:
        self._u8, self._u32, self._u64 = words(view)
        self._fence = fence
        self._ordered = STORES_IN_ORDER
        self._fault_text = ""
        self._prod_word = line_word(locale) + PROD
        self._cons_word = line_word(locale) + CONS
        self._peer_prod = line_word(1 - locale) + PROD
        self._direction = TO_SOUTH if locale == NORTH else 0
        self._peer_direction = TO_SOUTH - self._direction
        self._shift = count.bit_length() - 1
        self._given = 0
        self._taken = 0
        self.count = count
        self.signal = signal or EventSignal(self._u32, locale, fence)

    def _alive(self) -> None:
        if self._fault_text:
            raise RingFault(self._fault_text)

    def _fault(self, text: str) -> NoReturn:
        self._fault_text = text
        raise RingFault(text)

    def _meta(self, number: int, length: int, direction: int) -> int:
        """Length, flags and generation of descriptor ``number``, as the word that publishes them."""
        return length | direction << 32 | ((number >> self._shift) + 1 & 0xFFFF) << 48

    def _publish(self, amount: int) -> None:
        """Everything of the next ``amount`` descriptors is stored: move *prod*."""
        if not self._ordered:
            self._fence()
        self._given += amount
        self._u32[self._prod_word] = self._given & MASK

    def _arrived(self, most: int, limit: int) -> int:
        """How many more the peer has handed over, at most ``most``; ``limit`` of them are possible."""
        ahead = (self._u32[self._peer_prod] - self._taken) & MASK
        if ahead > limit:
            self._fault(f"prod of the peer is {ahead} ahead: expected at most {limit}")
        if not self._ordered:
            self._fence()
        return max(0, min(ahead, most))

    def _take(self, most: int, limit: int) -> list[Descriptor]:
        """Checked snapshots of up to ``most`` more descriptors."""
        taken = []
        memory, mask, shift, direction = self._u8, self.count - 1, self._shift, self._peer_direction
        for number in range(self._taken, self._taken + self._arrived(most, limit)):
            cookie, ptr, meta, zero = _FIELDS.unpack_from(memory, FIRST_DESCRIPTOR + 32 * (number & mask))
            if meta >> 32 != direction | ((number >> shift) + 1 & 0xFFFF) << 16 or zero:
                self._unexpected(number, meta)
            taken.append(_descriptor(Descriptor, (cookie, ptr, meta & MASK)))
        self._took(len(taken))
        return taken

    def _took(self, amount: int) -> None:
        if amount:
            self._taken += amount
            self._u32[self._cons_word] = self._taken & MASK

    def _unexpected(self, number: int, meta: int) -> NoReturn:
        slot = number & self.count - 1
        self._fault(f"descriptor {slot}: flags and generation {meta >> 32:#x} for number {number}, or not zero")


class _North2026(Side2026):
    __slots__ = ("_gave",)

    def __init__(self, view: memoryview, count: int, fence: Fence, generation: int = 1) -> None:
        format_2026(view, count, generation)
        super().__init__(view, count, NORTH, fence, None)
        self._gave = [_EMPTY] * count

    def _give(self, batch: Sequence[Descriptor], amount: int) -> None:
        words, mask, given = self._u64, self.count - 1, self._given
        for number in range(given, given + amount):
            descriptor = batch[number - given]
            cookie, ptr, length = descriptor
            slot = number & mask
            word = _FIRST_U64 + 4 * slot
            gave = self._gave[slot]
            try:
                if not 0 <= length <= MASK:
                    raise ValueError
                if cookie != gave[0]:
                    words[word] = cookie
                if ptr != gave[1]:
                    words[word + 1] = ptr
                words[word + 2] = self._meta(number, length, TO_SOUTH)
            except (ValueError, TypeError):
                self._gave[slot] = Descriptor(-1, -1, -1)
                raise LocalError(f"{descriptor}: expected 64 bits, and a length of 32") from None
            self._gave[slot] = descriptor
        self._publish(amount)


class TxNorth2026(_North2026):
    """North end of a TX ring."""

    __slots__ = ()

    def room(self) -> int:
        """How many descriptors can be pushed now."""
        return self.count - (self._given - self._taken)

    def push(self, batch: Sequence[Descriptor]) -> int:
        """Hand over as many as fit, from the front; return how many.

        Raises:
            LocalError: a number does not fit.
        """
        self._alive()
        amount = min(len(batch), self.room())
        if amount:
            self._give(batch, amount)
        return amount

    def reclaim(self, most: int) -> list[Descriptor]:
        """Take back up to ``most`` that south has completed, in order, as they were pushed.

        Raises:
            RingFault: south handed back what it does not have, or with another generation.
        """
        self._alive()
        words, mask, shift = self._u64, self.count - 1, self._shift
        numbers = range(self._taken, self._taken + self._arrived(most, self._given - self._taken))
        for number in numbers:
            meta = words[_FIRST_U64 + 4 * (number & mask) + 2]
            if meta >> 32 != ((number >> shift) + 1 & 0xFFFF) << 16:
                self._unexpected(number, meta)
        self._took(len(numbers))
        return [self._gave[number & mask] for number in numbers]


class RxNorth2026(_North2026):
    """North end of an RX ring."""

    __slots__ = ()

    def provide(self, batch: Sequence[Descriptor]) -> int:
        """Set-up, once: hand over exactly ``count`` empty buffers; return ``count``.

        Raises:
            LocalError: another number of buffers, or a second time.
        """
        self._alive()
        if self._given or len(batch) != self.count:
            raise LocalError(f"{len(batch)} buffers for a ring of {self.count}: expected all of them, once")
        self._give(batch, self.count)
        return self.count

    def collect(self, most: int) -> list[Descriptor]:
        """Up to ``most`` filled buffers, in order: our cookie and ptr, and south's length.

        Raises:
            RingFault: more bytes than the buffer holds, or a hand-over that cannot be.
        """
        self._alive()
        first, mask = self._taken, self.count - 1
        filled = []
        for number, taken in enumerate(self._take(most, self._given - self._taken), first):
            gave = self._gave[number & mask]
            if taken.length > gave.length:
                self._fault(f"descriptor {number & mask}: {taken.length} bytes in a buffer of {gave.length}")
            filled.append(Descriptor(gave.cookie, gave.ptr, taken.length))
        return filled

    def refill(self, batch: Sequence[Descriptor]) -> None:
        """Give back the first ``len(batch)`` collected slots with these empty buffers.

        Raises:
            LocalError: so many were not collected, or a number does not fit.
        """
        self._alive()
        collected = self._taken - (self._given - self.count) if self._given else 0
        if len(batch) > collected:
            raise LocalError(f"refill of {len(batch)}: only {collected} were collected")
        if batch:
            self._give(batch, len(batch))


class _South2026(Side2026):
    __slots__ = ("_lengths",)

    def __init__(
        self, view: memoryview, fence: Fence, max_count: int = MAX_COUNT, signal: Signal | None = None
    ) -> None:
        count = check_2026(view, max_count)
        super().__init__(view, count, SOUTH, fence, signal)
        if self._u32[self._prod_word] or self._u32[self._cons_word]:
            raise RingError(EINVAL, "ring was used by another south before")
        self._lengths: deque[int] = deque()
        """Sizes of what was taken and not handed back."""

    @property
    def outstanding(self) -> int:
        """Descriptors taken and not handed back."""
        return self._taken - self._given

    def take(self, most: int) -> list[Descriptor]:
        """Snapshots of up to ``most`` more descriptors; ptr and length are north's word and unchecked.

        Raises:
            RingFault: more than the ring holds, or another generation than it must be.
        """
        self._alive()
        taken = self._take(most, self.count - self.outstanding)
        self._lengths.extend(descriptor.length for descriptor in taken)
        return taken

    def _hand_back(self, lengths: Sequence[int]) -> None:
        mask = self.count - 1
        for number, length in enumerate(lengths, self._given):
            self._u64[_FIRST_U64 + 4 * (number & mask) + 2] = self._meta(number, length, 0)
            self._lengths.popleft()
        self._publish(len(lengths))


class TxSouth2026(_South2026):
    """South end of a TX ring."""

    __slots__ = ()

    def complete(self, count: int) -> None:
        """Hand the first ``count`` of the taken ones back.

        Raises:
            LocalError: so many were not taken.
        """
        self._alive()
        if not 0 <= count <= self.outstanding:
            raise LocalError(f"complete of {count}: {self.outstanding} were taken")
        if count:
            self._hand_back([self._lengths[index] for index in range(count)])


class RxSouth2026(_South2026):
    """South end of an RX ring."""

    __slots__ = ()

    def fill(self, lengths: Sequence[int]) -> None:
        """Hand the first ``len(lengths)`` of the taken ones over, with so many bytes in them.

        Raises:
            LocalError: so many were not taken, or one holds less.
        """
        self._alive()
        sizes = self._lengths
        if len(lengths) > len(sizes) or any(not 0 <= n <= size for n, size in zip(lengths, sizes, strict=False)):
            raise LocalError(f"fill with {list(lengths)} bytes: expected at most {list(sizes)}")
        if lengths:
            self._hand_back(lengths)
