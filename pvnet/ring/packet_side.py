"""What producer and consumer of a packet ring share: its memory, views of it, and handing over (see ``batch``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, RingError
from pvnet.ring.event_signal import (
    FIRST_DESCRIPTOR,
    FLAGS,
    MASK,
    NEED_WAKEUP,
    EventSignal,
    check_2026,
    format_2026,
    line_word,
    ring_2026_bytes,
)
from pvnet.ring.ioq2026 import Side2026
from pvnet.ring.layout import MAX_COUNT, Fence, words

Bytes2D = NDArray[np.uint8]

SLOT_ALIGNMENT: Final = 8
FIRST_META: Final = FIRST_DESCRIPTOR // 8 + 2
"""64-bit word of the first descriptor that publishes it: length, flags and generation."""
U8: Final = np.dtype(np.uint8)
FEW: Final = 3
"""Up to so many messages numpy costs more than it saves."""
UNPACK_AT_ONCE: Final = 256
SPANS: Final = 512


def packet_ring_bytes(count: int, slot_bytes: int) -> int:
    """Bytes of a packet ring: the ring, then the pool."""
    return ring_2026_bytes(count) + count * slot_bytes


def format_packet_ring(view: memoryview, count: int, slot_bytes: int) -> None:
    """Write an empty packet ring into ``view``; then each side makes its end of it.

    Raises:
        LocalError: count, slot or size is wrong.
    """
    if slot_bytes <= 0 or slot_bytes % SLOT_ALIGNMENT or view.nbytes != packet_ring_bytes(count, slot_bytes):
        raise LocalError(f"{count} slots of {slot_bytes} bytes (a multiple of {SLOT_ALIGNMENT}) in {view.nbytes} bytes")
    ring = view.cast("B")[: ring_2026_bytes(count)]
    format_2026(ring, count, 1)
    fields = words(ring).u64
    for slot in range(count):
        at = FIRST_DESCRIPTOR // 8 + 4 * slot
        fields[at] = slot
        fields[at + 1] = slot * slot_bytes


@lru_cache(maxsize=2 * UNPACK_AT_ONCE)
def split(slot_bytes: int, amount: int) -> Struct:
    """Makes ``amount`` bytes objects of a stretch of slots: the cheapest way there is."""
    return Struct(f"{slot_bytes}s" * amount)


@lru_cache(maxsize=UNPACK_AT_ONCE)
def split_words(amount: int) -> Struct:
    """Makes ``amount`` numbers of as many 64-bit words."""
    return Struct(f"<{amount}Q")


Span = tuple[memoryview, Bytes2D, NDArray[np.uint64]]
"""A stretch of slots: its bytes, the same as rows, and the words that publish them."""


class PacketSide(Side2026):
    """What producer and consumer share: the pool, and the words that publish descriptors as a numpy array."""

    __slots__ = (
        "_doorbell",
        "_full",
        "_full_lap",
        "_full_word",
        "_mask",
        "_peer_flags",
        "_pool",
        "_pool_bytes",
        "_publishing",
        "_slots",
        "_spans",
        "events",
        "slot_bytes",
    )

    def __init__(
        self, view: memoryview, locale: int, slot_bytes: int, fence: Fence, doorbell: Callable[[], None]
    ) -> None:
        flat = view.cast("B")
        ring_bytes = flat.nbytes
        if flat.nbytes >= FIRST_DESCRIPTOR:
            ring_bytes = ring_2026_bytes(min(int.from_bytes(flat[8:12], "little"), MAX_COUNT))
        count = check_2026(flat[:ring_bytes], MAX_COUNT)
        if flat.nbytes != packet_ring_bytes(count, slot_bytes) or slot_bytes % SLOT_ALIGNMENT:
            raise RingError(EINVAL, f"packet ring of {count} slots of {slot_bytes} in {flat.nbytes} bytes")
        super().__init__(flat[:ring_bytes], count, locale, fence, None)
        self.slot_bytes = slot_bytes
        self.events = EventSignal(self._u32, locale, fence)
        """The wakeups of this side."""
        self.signal = self.events
        if self._u32[self._prod_word] or self._u32[self._cons_word] or not self.events.claim():
            raise RingError(EINVAL, "packet ring has this side already")
        self._doorbell = doorbell
        self._mask = count - 1
        self._peer_flags = line_word(1 - locale) + FLAGS
        self._pool_bytes = flat[ring_bytes:]
        self._slots = [self._pool_bytes[at : at + slot_bytes] for at in range(0, count * slot_bytes, slot_bytes)]
        self._pool: Bytes2D = np.frombuffer(self._pool_bytes, np.uint8).reshape(count, slot_bytes)
        descriptors = np.frombuffer(flat[FIRST_DESCRIPTOR:ring_bytes], np.uint64).reshape(count, 4)
        self._publishing: NDArray[np.uint64] = descriptors[:, 2]
        self._spans: dict[tuple[int, int], Span] = {}
        self._full_lap = -1
        self._full = 0
        self._full_word = np.uint64(0)

    def _enter_lap(self, number: int, direction: int) -> None:
        """Remember the publishing word of a full slot: it is the same for a whole lap of the ring."""
        self._full_lap = number >> self._shift
        self._full = self._meta(number, self.slot_bytes, direction)
        self._full_word = np.uint64(self._full)

    def _span(self, first: int, amount: int) -> Span:
        """The bytes and the publishing words of a stretch of slots: making such views costs more than using them."""
        if len(self._spans) >= SPANS:
            self._spans.clear()
        until, size = first + amount, self.slot_bytes
        span = self._pool_bytes[first * size : until * size], self._pool[first:until], self._publishing[first:until]
        self._spans[first, amount] = span
        return span

    def _pieces(self, number: int, amount: int) -> list[tuple[int, int, int]]:
        """``amount`` descriptors from ``number`` on as one or two (number, first slot, behind the last slot)."""
        first = number & self._mask
        until = first + amount
        if until <= self.count:
            return [(number, first, until)]
        whole = self.count - first
        return [(number, first, self.count), (number + whole, 0, amount - whole)]

    def has_more(self) -> bool:
        """Whether the peer has handed over anything that we have not looked at: messages, or slots to fill."""
        return self._u32[self._peer_prod] != self._taken & MASK

    def _hand_over(self, amount: int) -> None:
        """Everything of the next ``amount`` descriptors is stored: publish, and ring if the peer wants it."""
        memory = self._u32
        if not self._ordered:
            self._fence()
        self._given = given = self._given + amount
        memory[self._prod_word] = given & MASK
        self._fence()
        if memory[self._peer_flags] & NEED_WAKEUP and self.events.passed(given & MASK):
            self._doorbell()
