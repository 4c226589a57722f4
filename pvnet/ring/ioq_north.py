"""The north ends of a 2009 ring: who owns the memory and lays out the descriptors.

A batch is written in this order, so that the other side never sees half of it: the fields of all descriptors, then the
indexes, then the ownership bytes.  That leaves exactly what pushing one by one with an iterator leaves
(:mod:`pvnet.ring.ioq`; a test compares the memory after every step).  Fields that did not change are not stored again:
the cache line stays where it is.

The other side's index words are looked at in one place only: to keep the shared *full* flag of the inuse index right
for a peer that believes in it.  We do not.

Spec: vbus 6.6, 6.8, 10.3; abuse cases A1 to A8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.ring.ioq_memory import (
    FIRST_U64,
    INUSE_FULL,
    INUSE_HEAD,
    INUSE_TAIL,
    VALID_FULL,
    VALID_HEAD,
    VALID_TAIL,
    IoqMemory,
    format_ring,
)
from pvnet.ring.layout import HEAD_BYTES, SOWN_BYTE, VALID_BYTE, Descriptor, Fence

_FIRST_SOWN: Final = HEAD_BYTES + SOWN_BYTE
_FIRST_VALID: Final = HEAD_BYTES + VALID_BYTE
_EMPTY: Final = Descriptor(0, 0, 0)


class _North2009(IoqMemory):
    __slots__ = ("_gave",)

    def __init__(self, view: memoryview, count: int, fence: Fence) -> None:
        super().__init__(view, count, fence, format_ring(view, count, fence))
        self._gave = [_EMPTY] * count
        """Per slot what we wrote last: the shared copy is the peer's to scribble on."""

    def _write(self, slot: int, descriptor: Descriptor) -> None:
        """Store the fields that differ from what we wrote before.  The length always: the peer stores it too."""
        cookie, ptr, length = descriptor
        gave = self._gave[slot]
        word = FIRST_U64 + 4 * slot
        try:
            if cookie != gave[0]:
                self._u64[word] = cookie
            if ptr != gave[1]:
                self._u64[word + 1] = ptr
            self._u64[word + 2] = length
        except (ValueError, TypeError):
            self._gave[slot] = Descriptor(-1, -1, -1)  # whatever is there now, the next one is written whole
            raise LocalError(f"{descriptor}: expected numbers of 64 bits") from None
        self._gave[slot] = descriptor

    def _flip(self, first: int, amount: int) -> None:
        """Give ``amount`` descriptors from slot ``first`` on to south."""
        memory, count = self._u8, self.count
        if not self._ordered:
            self._fence()
        for slot in range(first, first + amount):
            memory[_FIRST_SOWN + 32 * (slot % count)] = 1

    def _owned_by_us(self, first: int, most: int) -> int:
        """How many of ``most`` descriptors from slot ``first`` on south has given back, without a gap."""
        memory, count = self._u8, self.count
        for amount in range(most):
            slot = (first + amount) % count
            sown = memory[_FIRST_SOWN + 32 * slot]
            if sown:
                if sown != 1:
                    self._unexpected_owner(slot, sown)
                most = amount
                break
        if not self._ordered:
            self._fence()
        return most


class TxNorth2009(_North2009):
    """North end of a TX ring.  *valid* counts what we pushed and did not reclaim, *inuse* what south has to do."""

    __slots__ = ("_head", "_outstanding", "_tail")

    def __init__(self, view: memoryview, count: int, fence: Fence) -> None:
        super().__init__(view, count, fence)
        self._head = 0
        self._tail = 0
        self._outstanding = 0

    def room(self) -> int:
        """How many descriptors can be pushed now."""
        return self.count - self._outstanding

    def push(self, batch: Sequence[Descriptor]) -> int:
        """Hand over as many as fit, from the front; return how many.

        Raises:
            LocalError: a number does not fit into 64 bits.
            RingFault: a descriptor that we own is marked as south's.
        """
        self._alive()
        count, first = self.count, self._tail
        amount = min(len(batch), count - self._outstanding)
        if not amount:
            return 0
        memory = self._u8
        for offset in range(amount):
            slot = (first + offset) % count
            sown = memory[_FIRST_SOWN + 32 * slot]
            if sown:
                self._unexpected_owner(slot, sown)
            self._write(slot, batch[offset])
            memory[_FIRST_VALID + 32 * slot] = 1
        self._tail = tail = (first + amount) % count
        self._outstanding += amount
        if self._outstanding == count:
            memory[VALID_FULL] = 1
        self._u32[VALID_TAIL] = tail
        if tail == self._u32[INUSE_HEAD]:
            memory[INUSE_FULL] = 1
        self._u32[INUSE_TAIL] = tail
        self._flip(first, amount)
        return amount

    def reclaim(self, most: int) -> list[Descriptor]:
        """Take back up to ``most`` that south has completed, in order, as they were pushed.

        Raises:
            RingFault: an ownership byte that is neither 0 nor 1.
        """
        self._alive()
        count, first = self.count, self._head
        amount = self._owned_by_us(first, min(most, self._outstanding))
        if amount <= 0:
            return []
        slots = [slot % count for slot in range(first, first + amount)]
        for slot in slots:
            self._u8[_FIRST_VALID + 32 * slot] = 0
        self._u32[VALID_HEAD] = self._head = (first + amount) % count
        if self._outstanding == count:
            self._u8[VALID_FULL] = 0
        self._outstanding -= amount
        return [self._gave[slot] for slot in slots]


class RxNorth2009(_North2009):
    """North end of an RX ring.  *valid* is full for ever, *inuse* counts what south filled and we did not give back."""

    __slots__ = ("_collected", "_head", "_provided")

    def __init__(self, view: memoryview, count: int, fence: Fence) -> None:
        super().__init__(view, count, fence)
        self._head = 0
        self._collected = 0
        self._provided = False

    def provide(self, batch: Sequence[Descriptor]) -> int:
        """Set-up, once: hand over exactly ``count`` empty buffers; return ``count``.

        Raises:
            LocalError: another number of buffers, or a second time.
        """
        self._alive()
        if self._provided or len(batch) != self.count:
            raise LocalError(f"{len(batch)} buffers for a ring of {self.count}: expected all of them, once")
        for slot, descriptor in enumerate(batch):
            self._write(slot, descriptor)
            self._u8[_FIRST_VALID + 32 * slot] = 1
        self._provided = True
        self._u8[VALID_FULL] = 1
        self._flip(0, self.count)
        return self.count

    def collect(self, most: int) -> list[Descriptor]:
        """Up to ``most`` filled buffers, in order: our cookie and ptr, and south's length.

        Raises:
            RingFault: more bytes than the buffer holds, or an ownership byte that is neither 0 nor 1.
        """
        self._alive()
        if not self._provided:
            return []
        count, first = self.count, self._head + self._collected
        amount = self._owned_by_us(first, min(most, count - self._collected))
        filled = []
        for position in range(first, first + amount):
            slot = position % count
            gave = self._gave[slot]
            length = self._u64[FIRST_U64 + 4 * slot + 2]
            if length > gave.length:
                self._fault(f"descriptor {slot}: {length} bytes in a buffer of {gave.length}")
            filled.append(Descriptor(gave.cookie, gave.ptr, length))
        self._collected += len(filled)
        return filled

    def refill(self, batch: Sequence[Descriptor]) -> None:
        """Give back the first ``len(batch)`` collected slots with these empty buffers.

        Raises:
            LocalError: so many were not collected, or a number does not fit into 64 bits.
            RingFault: a descriptor that we own is marked as south's.
        """
        self._alive()
        count, first, amount = self.count, self._head, len(batch)
        if amount > self._collected:
            raise LocalError(f"refill of {amount}: only {self._collected} were collected")
        if not amount:
            return
        for offset, descriptor in enumerate(batch):
            slot = (first + offset) % count
            sown = self._u8[_FIRST_SOWN + 32 * slot]
            if sown:
                self._unexpected_owner(slot, sown)
            self._write(slot, descriptor)
        self._collected -= amount
        self._u32[INUSE_HEAD] = self._head = (first + amount) % count
        if self._u8[INUSE_FULL]:
            self._u8[INUSE_FULL] = 0
        self._flip(first, amount)
