"""Where the platform puts CRQ elements: a ring that it sees, or one that it only knows of.

Both keep the producer's place and share one rule: a slot is used only when its header is zero, and the queue's page
must be mapped for reading and writing at that moment (drivers may unmap it).

* :class:`MappedRing` looks at and writes the owner's memory.  Bytes 8-15 go first, then 1-7, the header last.
* :class:`RemoteRing` mirrors the occupancy (:class:`pvnet.papr.crq_queue.CrqProducer`); the owner's runtime writes.

Doubt decided: whose ring it is when a partition's memory is mapped here *later* (PartitionMapped).  It stays a
:class:`RemoteRing`: an element and its irq are one message, in one order with the answers to the partition's calls, and
its runtime stores the element when that message's turn has come.  Written here, the element would be there before
answers that were sent earlier have arrived (a partition could see an element of a registration whose answer it does not
know yet), and the irq would cost the same message anyhow.

Doubt decided: the overlay.  LoPAR says that a transport event for a full ring overlays the last valid entry.  On a
mapped ring that is done.  For a remote ring it would race with the owner, who may have taken that entry while its
report is still on the way, and would then never see the event; so there the event is held and is the first to enter
when the owner reports a free slot.  For the owner that is the same as if it had cleared a slot just before the event.
Spec: vmc 2.6; LoPAR ch. 17, H_SEND_CRQ and H_FREE_CRQ.
"""

from __future__ import annotations

from enum import Enum

from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_BOTH, DmaWindow, Refusal
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.crq_queue import CrqProducer, Dropped


class RingRefusal(Enum):
    """Why an element was not placed."""

    FULL = "full"
    UNMAPPED = "unmapped"


class MappedRing:
    """Ring of ``slots`` elements at ``ioba`` of ``window``, in ``segment``."""

    __slots__ = ("_ioba", "_segment", "_window", "position", "slots")

    def __init__(self, window: DmaWindow, segment: Segment, ioba: int, slots: int) -> None:
        self._window = window
        self._segment = segment
        self._ioba = ioba
        self.slots = slots
        self.position = 0
        """Slot of the next element."""

    def place(self, element: bytes) -> int | RingRefusal:
        """Store an element into the next slot and return the slot, or why not."""
        address = self._address(self.position)
        if address is None:
            return RingRefusal.UNMAPPED
        if self._segment.view[address]:
            return RingRefusal.FULL
        slot = self.position
        self._store(address, element)
        self.position = (slot + 1) % self.slots
        return slot

    def overlay(self, element: bytes) -> int | RingRefusal:
        """Store an element over the one placed last (the ring is full)."""
        slot = (self.position - 1) % self.slots
        address = self._address(slot)
        if address is None:
            return RingRefusal.UNMAPPED
        self._store(address, element)
        return slot

    def is_half_full(self) -> bool:
        """Whether half of the ring is unconsumed: the element placed half a ring ago is still there."""
        address = self._address((self.position - self.slots // 2) % self.slots)
        return address is not None and self._segment.view[address] != 0

    def _address(self, slot: int) -> int | None:
        runs = self._window.translate(self._ioba + slot * ELEMENT_BYTES, ELEMENT_BYTES, ACCESS_BOTH)
        if isinstance(runs, Refusal) or not self._segment.contains(*runs[0]):
            return None
        return runs[0].address

    def _store(self, address: int, element: bytes) -> None:
        view = self._segment.view
        view[address + 8 : address + 16] = element[8:]
        view[address + 1 : address + 8] = element[1:8]
        view[address] = element[0]


class RemoteRing:
    """Ring of ``slots`` elements at ``ioba`` of ``window``, in the memory of another process."""

    __slots__ = ("_ioba", "_window", "producer", "slots")

    def __init__(self, window: DmaWindow, ioba: int, slots: int) -> None:
        self._window = window
        self._ioba = ioba
        self.slots = slots
        self.producer = CrqProducer(slots)

    def place(self, element: bytes) -> int | RingRefusal:  # noqa: ARG002 - the owner's runtime stores it
        """Take the next slot for an element, or say why not."""
        ioba = self._ioba + self.producer.placed % self.slots * ELEMENT_BYTES
        if isinstance(self._window.translate(ioba, ELEMENT_BYTES, ACCESS_BOTH), Refusal):
            return RingRefusal.UNMAPPED
        placed = self.producer.place()
        return RingRefusal.FULL if isinstance(placed, Dropped) else placed

    def is_half_full(self) -> bool:
        """Whether half of the ring is unconsumed, as far as the owner has reported."""
        return self.producer.outstanding * 2 >= self.slots
