"""What the ends of a 2009 ring have in common: the words, creating, checking at attach, and dying of a fault.

Spec: vbus 6.1, 6.3, 6.7.
"""

from __future__ import annotations

from typing import Final, NoReturn

from pvnet.core.errors import LocalError, WireError
from pvnet.ring.errors import EINVAL, RingError, RingFault
from pvnet.ring.layout import (
    COUNT_OFFSET,
    HEAD_BYTES,
    INUSE_OFFSET,
    MAX_COUNT,
    RING_MAGIC,
    RING_VERSION,
    SIGNAL_OFFSET,
    STORES_IN_ORDER,
    VALID_OFFSET,
    Fence,
    RingHead,
    decode_head,
    ring_2009_bytes,
    words,
)
from pvnet.ring.shm_signal import ShmSignal, Signal

# Indexes into the 32-bit words, except for the *full* flags, which are bytes.
VALID_HEAD: Final = VALID_OFFSET // 4
VALID_TAIL: Final = VALID_HEAD + 1
VALID_FULL: Final = VALID_OFFSET + 8
INUSE_HEAD: Final = INUSE_OFFSET // 4
INUSE_TAIL: Final = INUSE_HEAD + 1
INUSE_FULL: Final = INUSE_OFFSET + 8

FIRST_U64: Final = HEAD_BYTES // 8
"""64-bit word of the first descriptor's cookie; a descriptor is four of them."""


class IoqMemory:
    """The memory of a ring of ``count`` descriptors; ``count`` is our own copy (A2)."""

    __slots__ = ("_fault_text", "_fence", "_ordered", "_u8", "_u32", "_u64", "count", "signal")

    signal: Signal

    def __init__(self, view: memoryview, count: int, fence: Fence, signal: Signal) -> None:
        self._u8, self._u32, self._u64 = words(view)
        self._fence = fence
        self._ordered = STORES_IN_ORDER
        self._fault_text = ""
        self.count = count
        self.signal = signal

    def _alive(self) -> None:
        """Refuse to go on with a ring that had a fault."""
        if self._fault_text:
            raise RingFault(self._fault_text)

    def _fault(self, text: str) -> NoReturn:
        """The peer wrote what cannot be."""
        self._fault_text = text
        raise RingFault(text)

    def _unexpected_owner(self, slot: int, sown: int) -> NoReturn:
        self._fault(f"descriptor {slot} changed hands without us: owner {sown}")


def format_ring(view: memoryview, count: int, fence: Fence) -> ShmSignal:
    """Write an empty ring of ``count`` into ``view``, the magic last; return its north signal.

    Raises:
        LocalError: the count or size is wrong.
        RingError: the memory is not aligned, or the machine is big endian.
    """
    if not 1 <= count <= MAX_COUNT or view.nbytes != ring_2009_bytes(count):
        raise LocalError(f"ring of {count} descriptors in {view.nbytes} bytes: expected 1 to {MAX_COUNT}, exactly")
    memory = words(view)
    for word in range(len(memory.u64)):
        memory.u64[word] = 0
    signal = ShmSignal.create(memory.u8, SIGNAL_OFFSET, fence)
    memory.u32[COUNT_OFFSET // 4] = count
    memory.u32[1] = RING_VERSION
    memory.u32[0] = RING_MAGIC
    return signal


def check_ring(view: memoryview, max_count: int) -> RingHead:
    """Check a copy of the head of a ring that the peer made (vbus 6.7, A1, A3, A22).

    Raises:
        RingError: EINVAL.
    """
    if view.nbytes < HEAD_BYTES:
        raise RingError(EINVAL, f"ring region of {view.nbytes} bytes is smaller than a ring head")
    try:
        head = decode_head(bytes(view.cast("B")[:HEAD_BYTES]))
    except WireError as error:
        raise RingError(EINVAL, str(error)) from None
    if head.count > max_count or view.nbytes != ring_2009_bytes(head.count):
        raise RingError(EINVAL, f"ring of {head.count} descriptors in {view.nbytes} bytes (at most {max_count})")
    return head
