"""The ring as the original sees it: two shared indexes and an iterator that moves them.

For replaying recorded conversations, for tools, and as the yardstick of the roles (which do the same in batches and
believe less).  The index words of both sides are read from shared memory at each step and must lie inside of the ring;
otherwise the ring has a fault.

*valid* counts descriptors that hold something, *inuse* those with work to do.  An iterator over *both* walks *valid*
and moves the tail of *inuse* along with it.  ``push`` moves a tail, ``pop`` a head; both give the descriptor to the
other side unless told not to, as their last store.

What the original did and we do not: a push onto a full index or a pop from an empty one went through (here ENOSPC and
EAGAIN), and a position outside of the ring stopped the kernel or was not noticed (here EINVAL).

A doubt decided: the original says of *both* only that the tail of *inuse* moves along.  Here its *full* flag is set too
when its tail meets its head, since the count would be wrong otherwise.

Spec: vbus 6.2 to 6.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from pvnet.ring.errors import EAGAIN, EINVAL, ENOSPC, RingError
from pvnet.ring.ioq_memory import (
    FIRST_U64,
    INUSE_FULL,
    INUSE_HEAD,
    INUSE_TAIL,
    VALID_FULL,
    VALID_HEAD,
    VALID_TAIL,
    IoqMemory,
    check_ring,
    format_ring,
)
from pvnet.ring.layout import (
    HEAD_BYTES,
    MAX_COUNT,
    NORTH,
    SIGNAL_OFFSET,
    SOUTH,
    SOWN_BYTE,
    VALID_BYTE,
    Fence,
    RingIndex,
)
from pvnet.ring.shm_signal import ShmSignal, Signal


class IndexType(IntEnum):
    """Which index an iterator walks."""

    VALID = 0
    INUSE = 1
    BOTH = 2


class Seek(IntEnum):
    """Where to go."""

    TAIL = 0
    NEXT = 1
    HEAD = 2
    SET = 3


class IteratorFlags(IntFlag):
    """How an iterator behaves."""

    AUTOUPDATE = 1
    """Signal the peer after each push and pop."""
    NOFLIPOWNER = 2
    """Leave the owner of the descriptor as it is."""


class _IndexWords:
    """Where an index is: two 32-bit words and a byte."""

    __slots__ = ("full", "head", "name", "tail")

    def __init__(self, name: str, head: int, tail: int, full: int) -> None:
        self.name = name
        self.head = head
        self.tail = tail
        self.full = full


_VALID: Final = _IndexWords("valid", VALID_HEAD, VALID_TAIL, VALID_FULL)
_INUSE: Final = _IndexWords("inuse", INUSE_HEAD, INUSE_TAIL, INUSE_FULL)


class Ioq(IoqMemory):
    """A ring, seen from side ``locale``."""

    __slots__ = ("locale",)

    def __init__(self, view: memoryview, count: int, locale: int, fence: Fence, signal: Signal) -> None:
        super().__init__(view, count, fence, signal)
        self.locale = locale

    @classmethod
    def create(cls, view: memoryview, count: int, fence: Fence) -> Ioq:
        """Make an empty ring in ``view`` and be its north.

        Raises:
            LocalError: the count or size is wrong.
            RingError: the memory is not aligned, or the machine is big endian.
        """
        return cls(view, count, NORTH, fence, format_ring(view, count, fence))

    @classmethod
    def attach(
        cls,
        view: memoryview,
        fence: Fence,
        max_count: int = MAX_COUNT,
        signal: Signal | None = None,
        *,
        locale: int = SOUTH,
    ) -> Ioq:
        """Use a ring that north made, as its south unless told otherwise.

        Raises:
            RingError: EINVAL, it is not a ring.
        """
        head = check_ring(view, max_count)
        signal = signal or ShmSignal.attach(view, SIGNAL_OFFSET, locale, fence)
        return cls(view, head.count, locale, fence, signal)

    def index(self, which: IndexType) -> RingIndex:
        """A checked snapshot of an index (of *valid* for ``BOTH``).

        Raises:
            RingFault: head or tail is outside of the ring.
        """
        return self._index(self._which(which))

    def used(self, which: IndexType) -> int:
        """How many descriptors an index covers."""
        return self._used(self.index(which))

    def remain(self, which: IndexType) -> int:
        """How many more it could."""
        return self.count - self.used(which)

    def iterator(self, which: IndexType, flags: int = 0) -> IoqIterator:
        """An iterator, which must seek before anything else.

        Raises:
            RingError: EINVAL, there is no such index.
        """
        return IoqIterator(self, which, flags)

    def _which(self, which: int) -> _IndexWords:
        if which == IndexType.INUSE:
            return _INUSE
        if which in {IndexType.VALID, IndexType.BOTH}:
            return _VALID
        raise RingError(EINVAL, f"index type {which}")

    def _index(self, words: _IndexWords) -> RingIndex:
        self._alive()
        index = RingIndex(self._u32[words.head], self._u32[words.tail], self._u8[words.full])
        if index.head >= self.count or index.tail >= self.count:
            self._fault(f"index {words.name} is {index.head}, {index.tail} in a ring of {self.count}")
        return index

    def _used(self, index: RingIndex) -> int:
        if index.head == index.tail:
            return self.count if index.full else 0
        return (index.tail - index.head) % self.count


class IoqIterator:
    """A position in a ring.  Also the fields of the descriptor there: ``cookie``, ``ptr``, ``length``, ``valid``."""

    __slots__ = ("_both", "_flags", "_ioq", "_words", "position")

    def __init__(self, ioq: Ioq, which: IndexType, flags: int) -> None:
        self._ioq = ioq
        self._words = ioq._which(which)
        self._both = which == IndexType.BOTH
        self._flags = flags
        self.position = -1
        """Slot, or -1 before the first seek."""

    # -- moving ----------------------------------------------------------------------------------------------------

    def seek(self, where: Seek, offset: int = 0) -> None:
        """Go to a slot; ``offset`` is for ``SET`` only.

        Raises:
            RingError: EINVAL, an unknown place or a slot outside of the ring.
            RingFault: the index is outside of the ring.
        """
        count = self._ioq.count
        match where:
            case Seek.NEXT:
                self.position = (self.position + 1) % count
            case Seek.TAIL:
                self.position = self._ioq._index(self._words).tail
            case Seek.HEAD:
                self.position = self._ioq._index(self._words).head
            case Seek.SET:
                if not 0 <= offset < count:
                    raise RingError(EINVAL, f"seek to {offset} in a ring of {count}")
                self.position = offset
            case _:
                raise RingError(EINVAL, f"seek type {where}")

    def push(self) -> bool:
        """Advance the tail over this slot; True: ring the peer's doorbell (with ``AUTOUPDATE`` only).

        Raises:
            RingError: EINVAL, this is not the tail or not ours; ENOSPC, the index is full.
            RingFault: an index is outside of the ring, or the two tails differ.
        """
        ioq, words = self._ioq, self._words
        index = ioq._index(words)
        self._must_be_at(index.tail)
        if ioq._used(index) == ioq.count:
            raise RingError(ENOSPC, f"push: {words.name} is full")
        self._must_be_ours()
        tail = self._advance_tail(words, index)
        if self._both and self._advance_tail(_INUSE, ioq._index(_INUSE)) != tail:
            ioq._fault("the tails of valid and inuse differ")
        return self._hand_over()

    def pop(self) -> bool:
        """Advance the head over this slot; True: ring the peer's doorbell (with ``AUTOUPDATE`` only).

        Raises:
            RingError: EINVAL, this is not the head or not ours; EAGAIN, the index is empty.
            RingFault: an index is outside of the ring.
        """
        ioq, words = self._ioq, self._words
        index = ioq._index(words)
        self._must_be_at(index.head)
        if not ioq._used(index):
            raise RingError(EAGAIN, f"pop: {words.name} is empty")
        self._must_be_ours()
        ioq._u32[words.head] = (index.head + 1) % ioq.count
        if index.full:
            ioq._u8[words.full] = 0
        return self._hand_over()

    def _must_be_at(self, end: int) -> None:
        if self.position != end:
            raise RingError(EINVAL, f"slot {self.position} is not the end of {self._words.name}, {end} is")

    def _must_be_ours(self) -> None:
        if self.sown != self._ioq.locale:
            raise RingError(EINVAL, f"slot {self.position} belongs to the other side")

    def _advance_tail(self, words: _IndexWords, index: RingIndex) -> int:
        ioq = self._ioq
        tail = (index.tail + 1) % ioq.count
        if tail == index.head:
            ioq._u8[words.full] = 1
        ioq._u32[words.tail] = tail
        return tail

    def _hand_over(self) -> bool:
        ioq = self._ioq
        if not self._flags & IteratorFlags.NOFLIPOWNER:
            if not ioq._ordered:
                ioq._fence()
            ioq._u8[HEAD_BYTES + 32 * self.position + SOWN_BYTE] = 1 - ioq.locale
        self.seek(Seek.NEXT)
        return bool(self._flags & IteratorFlags.AUTOUPDATE) and ioq.signal.inject()

    # -- the descriptor ---------------------------------------------------------------------------------------------

    def _word(self, field: int) -> int:
        if self.position < 0:
            raise RingError(EINVAL, "the iterator was not placed by a seek")
        return FIRST_U64 + 4 * self.position + field

    @property
    def cookie(self) -> int:
        """North's token."""
        return self._ioq._u64[self._word(0)]

    @cookie.setter
    def cookie(self, value: int) -> None:
        self._ioq._u64[self._word(0)] = value

    @property
    def ptr(self) -> int:
        """Address of the buffer."""
        return self._ioq._u64[self._word(1)]

    @ptr.setter
    def ptr(self, value: int) -> None:
        self._ioq._u64[self._word(1)] = value

    @property
    def length(self) -> int:
        """Bytes of the buffer, or in it."""
        return self._ioq._u64[self._word(2)]

    @length.setter
    def length(self, value: int) -> None:
        self._ioq._u64[self._word(2)] = value

    @property
    def valid(self) -> int:
        """Whether the descriptor holds something."""
        return self._ioq._u8[8 * self._word(0) + VALID_BYTE]

    @valid.setter
    def valid(self, value: int) -> None:
        self._ioq._u8[8 * self._word(0) + VALID_BYTE] = value

    @property
    def sown(self) -> int:
        """Owner: 0 north, 1 south; push and pop change it."""
        return self._ioq._u8[8 * self._word(0) + SOWN_BYTE]
