"""The south ends of a 2009 ring: the device side, which trusts nothing that north wrote.

Where to go on is our own; that a descriptor is ours says its ownership byte, looked at only where the next one may be
expected.  So a north that scribbles makes us see nonsense descriptors (whose user checks them against its region), but
never more of them than the ring has, never one outside, and never one again that we still have.

Spec: vbus 6.6 to 6.8; abuse cases A1 to A8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import ClassVar, Final

from pvnet.core.errors import LocalError
from pvnet.ring.ioq_memory import FIRST_U64, INUSE_FULL, INUSE_HEAD, INUSE_TAIL, IoqMemory, check_ring
from pvnet.ring.layout import HEAD_BYTES, MAX_COUNT, SIGNAL_OFFSET, SOUTH, SOWN_BYTE, Descriptor, Fence
from pvnet.ring.shm_signal import ShmSignal, Signal

_FIRST_SOWN: Final = HEAD_BYTES + SOWN_BYTE
_FIELDS: Final = Struct("<QQQB")
_descriptor: Final = tuple.__new__
"""Half the price of calling the class."""


class _South2009(IoqMemory):
    __slots__ = ("_next",)
    _AT_TAIL: ClassVar[bool] = False
    """Which end of *inuse* this role works at."""

    def __init__(
        self, view: memoryview, fence: Fence, max_count: int = MAX_COUNT, signal: Signal | None = None
    ) -> None:
        head = check_ring(view, max_count)
        signal = signal or ShmSignal.attach(view, SIGNAL_OFFSET, SOUTH, fence)
        super().__init__(view, head.count, fence, signal)
        self._next = head.inuse.tail if self._AT_TAIL else head.inuse.head
        """Slot of the first descriptor that we have taken, or take next."""

    def _snapshots(self, first: int, most: int) -> list[Descriptor]:
        """Copies of up to ``most`` descriptors from slot ``first`` on that are ours, up to the first that is not."""
        memory, count = self._u8, self.count
        for amount in range(most):
            slot = (first + amount) % count
            sown = memory[_FIRST_SOWN + 32 * slot]
            if sown != 1:
                if sown:
                    self._unexpected_owner(slot, sown)
                most = amount
                break
        if not self._ordered:
            self._fence()
        taken = []
        for position in range(first, first + most):
            fields = _FIELDS.unpack_from(memory, HEAD_BYTES + 32 * (position % count))
            if fields[3] != 1:
                self._fault(f"descriptor {position % count} is ours and not valid")
            taken.append(_descriptor(Descriptor, fields[:3]))
        return taken

    def _expect_ours(self, first: int, amount: int) -> None:
        """North must not have taken back what it gave us (A5)."""
        memory, count = self._u8, self.count
        for position in range(first, first + amount):
            slot = position % count
            sown = memory[_FIRST_SOWN + 32 * slot]
            if sown != 1:
                self._unexpected_owner(slot, sown)

    def _flip(self, first: int, amount: int) -> None:
        """Give ``amount`` descriptors from slot ``first`` on back to north."""
        memory, count = self._u8, self.count
        if not self._ordered:
            self._fence()
        for position in range(first, first + amount):
            memory[_FIRST_SOWN + 32 * (position % count)] = 0


class TxSouth2009(_South2009):
    """South end of a TX ring: takes from the head of *inuse* and completes there."""

    __slots__ = ("outstanding",)

    def __init__(
        self, view: memoryview, fence: Fence, max_count: int = MAX_COUNT, signal: Signal | None = None
    ) -> None:
        super().__init__(view, fence, max_count, signal)
        self.outstanding = 0
        """Descriptors taken and not completed."""

    def take(self, most: int) -> list[Descriptor]:
        """Snapshots of up to ``most`` more descriptors; nothing in them is checked but their hand-over.

        Raises:
            RingFault: a descriptor is given to us and not valid, or to nobody.
        """
        self._alive()
        taken = self._snapshots(self._next + self.outstanding, min(most, self.count - self.outstanding))
        self.outstanding += len(taken)
        return taken

    def complete(self, count: int) -> None:
        """Hand the first ``count`` of the taken ones back.

        Raises:
            LocalError: so many were not taken.
            RingFault: north took one of them back.
        """
        self._alive()
        if not 0 <= count <= self.outstanding:
            raise LocalError(f"complete of {count}: {self.outstanding} were taken")
        if not count:
            return
        first = self._next
        self._expect_ours(first, count)
        self.outstanding -= count
        self._u32[INUSE_HEAD] = self._next = (first + count) % self.count
        if self._u8[INUSE_FULL]:
            self._u8[INUSE_FULL] = 0
        self._flip(first, count)


class RxSouth2009(_South2009):
    """South end of an RX ring: takes empty buffers and hands them over filled at the tail of *inuse*."""

    __slots__ = ("_room",)
    _AT_TAIL = True

    def __init__(
        self, view: memoryview, fence: Fence, max_count: int = MAX_COUNT, signal: Signal | None = None
    ) -> None:
        super().__init__(view, fence, max_count, signal)
        self._room: deque[int] = deque()
        """Sizes of the buffers taken and not filled."""

    @property
    def outstanding(self) -> int:
        """Buffers taken and not filled."""
        return len(self._room)

    def take(self, most: int) -> list[Descriptor]:
        """Snapshots of up to ``most`` more empty buffers; ptr and length are north's word and unchecked.

        Raises:
            RingFault: a descriptor is given to us and not valid, or to nobody.
        """
        self._alive()
        held = len(self._room)
        taken = self._snapshots(self._next + held, min(most, self.count - held))
        self._room.extend(buffer.length for buffer in taken)
        return taken

    def fill(self, lengths: Sequence[int]) -> None:
        """Hand the first ``len(lengths)`` of the taken ones over, with so many bytes in them.

        Raises:
            LocalError: so many were not taken, or one holds less.
            RingFault: north took one of them back.
        """
        self._alive()
        room, first, amount = self._room, self._next, len(lengths)
        if amount > len(room) or any(not 0 <= length <= size for length, size in zip(lengths, room, strict=False)):
            raise LocalError(f"fill with {list(lengths)} bytes: expected at most {list(room)}")
        if not amount:
            return
        self._expect_ours(first, amount)
        for offset, length in enumerate(lengths):
            if length != room.popleft():
                self._u64[FIRST_U64 + 4 * ((first + offset) % self.count) + 2] = length
        self._next = tail = (first + amount) % self.count
        if tail == self._u32[INUSE_HEAD]:
            self._u8[INUSE_FULL] = 1
        self._u32[INUSE_TAIL] = tail
        self._flip(first, amount)
