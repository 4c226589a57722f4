"""The ring of a command/response queue: its owner's end and the platform's end.

The ring lies in its owner's memory (first DMA window), a multiple of 4 KiB, 16 bytes per slot.  The platform fills
slots in order and wraps; it may use a slot only when its header is zero.  The owner takes slots in order, each when bit
0x80 of its header is set, and gives one back by writing **only** the header byte to zero; so a slot stays occupied
while its element is handled, and 15 stale bytes remain in it, as with the real drivers.

* :class:`CrqConsumer` is the owner's end.  It reads and writes the ring through its own DMA window.
* :class:`CrqProducer` is the platform's end when it cannot see the ring (the owner is another process): it mirrors the
  occupancy from two totals, elements placed and slots the owner reported as cleared.  The mirror may believe a slot
  occupied that is already free (the report travels), never the other way: Dropped is possible a moment too long, an
  unread element is never overwritten except by the overlay of a transport event.

Doubt decided: an owner that reports more than was placed is wrong; the mirror keeps "all consumed" and says so.

Spec: LoPAR ch. 17, "CRQ facility requirements"; H_FREE_CRQ for the overlay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pvnet.core.errors import LocalError
from pvnet.papr.crq import ELEMENT_BYTES, VALID_BIT


class RingMemory(Protocol):
    """What the owner's end needs of memory: bytes at I/O addresses of its first window."""

    def read(self, ioba: int, n: int) -> bytes:
        """Return ``n`` bytes at ``ioba``; raises when the window does not allow it."""
        ...

    def write(self, ioba: int, data: bytes) -> None:
        """Store ``data`` at ``ioba``; raises when the window does not allow it."""
        ...


@dataclass(frozen=True, slots=True)
class Dropped:
    """The ring is full: nothing was placed, the producer's place is unchanged (H_DROPPED)."""


class CrqConsumer:
    """The owner's end: ``take`` an element, handle it, ``clear`` it, until ``take`` gives ``None``.

    :param memory: the owner's memory; :param ioba: where the ring starts; :param slots: its length in elements.
    """

    def __init__(self, memory: RingMemory, ioba: int, slots: int) -> None:
        if slots < 1:
            raise LocalError(f"ring of {slots} slots: expected at least 1")
        self._memory = memory
        self._ioba = ioba
        self.slots = slots
        self.cursor = 0
        """Slot that is looked at next."""
        self.consumed = 0
        """Slots cleared since the last :meth:`reset`."""
        self._taken: int | None = None

    def has_element(self) -> bool:
        """Whether the slot at the cursor holds an element (bit 0x80 of its header)."""
        return bool(self._memory.read(self._address(self.cursor), 1)[0] & VALID_BIT)

    def take(self) -> bytes | None:
        """The next element, cursor advanced, slot still occupied; ``None`` when there is none.

        Raises :class:`LocalError` when the one taken before was not cleared.
        """
        if self._taken is not None:
            raise LocalError(f"CRQ slot {self._taken} was taken and not cleared")
        raw = bytes(self._memory.read(self._address(self.cursor), ELEMENT_BYTES))
        if not raw[0] & VALID_BIT:
            return None
        self._taken = self.cursor
        self.cursor = (self.cursor + 1) % self.slots
        return raw

    def clear(self) -> None:
        """Give the slot taken last back to the platform.

        Nothing happens when there is none: handling an element may have reset the ring.
        """
        if self._taken is not None:
            self._memory.write(self._address(self._taken), b"\0")
            self._taken = None
            self.consumed += 1

    def reset(self) -> None:
        """Zero the ring and start again at slot 0, as before each registration."""
        self._memory.write(self._ioba, bytes(self.slots * ELEMENT_BYTES))
        self.cursor = 0
        self.consumed = 0
        self._taken = None

    def _address(self, slot: int) -> int:
        return self._ioba + slot * ELEMENT_BYTES


class CrqProducer:
    """The platform's end without sight of the ring: which slot is next, and is it free."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise LocalError(f"ring of {slots} slots: expected at least 1")
        self.slots = slots
        self.placed = 0
        """Elements placed since registration; overlays do not count."""
        self.cleared = 0
        """Slots the owner has reported as cleared since registration."""

    @property
    def outstanding(self) -> int:
        """Slots that hold an element as far as known: 0 to ``slots``."""
        return self.placed - self.cleared

    @property
    def is_full(self) -> bool:
        """Whether the next :meth:`place` is dropped."""
        return self.outstanding == self.slots

    def place(self) -> int | Dropped:
        """Slot for the next element, now occupied; :class:`Dropped` when the ring is full."""
        if self.is_full:
            return Dropped()
        slot = self.placed % self.slots
        self.placed += 1
        return slot

    def overlay(self) -> int:
        """Slot for a transport event, which is never dropped: the next free one, or the last valid element's."""
        slot = self.place()
        return (self.placed - 1) % self.slots if isinstance(slot, Dropped) else slot

    def consumed(self, total: int) -> bool:
        """Take the owner's report of slots cleared since registration; repeated and older reports change nothing.

        Returns false when the owner claims more than was ever placed; then all count as cleared.
        """
        self.cleared = max(self.cleared, min(total, self.placed))
        return total <= self.placed
