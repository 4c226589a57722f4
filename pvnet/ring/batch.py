"""A packet ring: batches of small messages between two Python processes, as fast as Python goes.

Descriptor *i* always means slot *i* of a pool of equal slots behind the ring, so a message costs its bytes and one
64-bit store (length, direction and generation), and numpy does those stores for a whole batch at once.  A batch is
published once and decides once whether to ring.  Per batch of 64 a side needs little more than for one message; a call
per message is what to avoid.

It is an IOQ-2026 ring in TX pattern (producer north, consumer south), and the roles of ``ioq2026`` can work on the same
memory.  The 2009 layout would do as well, but needs three strided passes where this one needs one: its length and
its ownership byte are separate stores, and how far the other side is must be searched in the ownership bytes, while
here *prod* tells.

The consumer copies messages out before anything else and gives slots back late, when an eighth of the ring is due,
which saves most of the returns.  A producer that finds no room is never left waiting by that: seven eighths of the ring
are then messages that the consumer has still to take, and taking them makes the return due.

The methods are longer than elsewhere, and the usual case (all slots full, no wrap) is written out: here a call costs as
much as the work.  When the peer does not want to be rung, which it says in its *flags*, an announcement is the fence
and one load; only otherwise the event index is looked at.

Spec: vbus 6.9, 10.4; feasibility 2 and 3 (what an operation costs, and where numpy begins to pay).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from pvnet.core.errors import LocalError
from pvnet.ring.event_signal import MASK, NEED_WAKEUP, TO_SOUTH
from pvnet.ring.layout import NORTH, SOUTH, Fence
from pvnet.ring.packet_side import (
    FEW,
    FIRST_META,
    U8,
    UNPACK_AT_ONCE,
    Bytes2D,
    PacketSide,
    format_packet_ring,
    packet_ring_bytes,
    split,
    split_words,
)

__all__ = ["PacketConsumer", "PacketProducer", "format_packet_ring", "packet_ring_bytes"]


class PacketProducer(PacketSide):
    """Puts messages of up to ``slot_bytes`` bytes in; ``doorbell`` is called when the consumer must be rung.

    Raises:
        RingError: EINVAL, the memory is not a fresh packet ring of this shape.
    """

    __slots__ = ()

    def __init__(self, view: memoryview, slot_bytes: int, fence: Fence, doorbell: Callable[[], None]) -> None:
        super().__init__(view, NORTH, slot_bytes, fence, doorbell)

    def room(self) -> int:
        """How many messages can be pushed now.

        Raises:
            RingFault: the consumer returned more than it was given.
        """
        self._alive()
        self._taken += self._arrived(self.count, self._given - self._taken)
        return self.count - (self._given - self._taken)

    def push(self, messages: Sequence[bytes]) -> int:
        """Put in as many as fit, from the front; return how many.

        Raises:
            LocalError: a message is longer than a slot.
            RingFault: the consumer returned more than it was given.
        """
        amount = len(messages)
        if amount == 1:
            return self.push_one(messages[0])
        if self._fault_text or amount > self.count - (self._given - self._taken):
            amount = min(amount, self.room())
            messages = messages[:amount]
        if not amount:
            return 0
        if amount <= FEW:
            self._push_few(messages)
        else:
            self._push_many(messages, amount)
        self._hand_over(amount)
        return amount

    def push_one(self, message: bytes) -> int:
        """Put one message in; return 0 if there is no room.  All of :meth:`push` in one piece.

        Raises:
            LocalError: it is longer than a slot.
            RingFault: the consumer returned more than it was given.
        """
        given, size, length = self._given, self.slot_bytes, len(message)
        if (self._fault_text or given - self._taken >= self.count) and not self.room():
            return 0
        if length > size:
            self._too_long(length)
        slot = given & self._mask
        if length == size:
            self._slots[slot][:] = message
        else:
            self._slots[slot][:length] = message
        if given >> self._shift != self._full_lap:
            self._enter_lap(given, TO_SOUTH)
        self._u64[FIRST_META + 4 * slot] = self._full - size + length
        memory = self._u32
        if not self._ordered:
            self._fence()
        self._given = given = given + 1
        memory[self._prod_word] = given & MASK
        self._fence()
        if memory[self._peer_flags] & NEED_WAKEUP and self.events.passed(given & MASK):
            self._doorbell()
        return 1

    def push_array(self, messages: Bytes2D) -> int:
        """Put in as many rows of ``messages`` (n, slot_bytes) as fit, from the front; return how many.

        Raises:
            LocalError: the array has another shape or type.
            RingFault: the consumer returned more than it was given.
        """
        amount = len(messages)
        if messages.shape != (amount, self.slot_bytes) or messages.dtype != U8:
            raise LocalError(f"array {messages.dtype}{messages.shape}: expected uint8 (n, {self.slot_bytes})")
        given = self._given
        if self._fault_text or amount > self.count - (given - self._taken):
            amount = min(amount, self.room())
            messages = messages[:amount]
        if not amount:
            return 0
        first = given & self._mask
        until = first + amount
        if until <= self.count:
            _, rows, publishing = self._spans.get((first, amount)) or self._span(first, amount)
            rows[...] = messages
            if given >> self._shift != self._full_lap:
                self._enter_lap(given, TO_SOUTH)
            publishing.fill(self._full_word)
        else:
            done = 0
            for number, first, until in self._pieces(given, amount):
                self._pool[first:until] = messages[done : done + until - first]
                self._enter_lap(number, TO_SOUTH)
                self._publishing[first:until] = self._full_word
                done += until - first
        self._hand_over(amount)
        return amount

    def _push_few(self, messages: Sequence[bytes]) -> None:
        mask, size = self._mask, self.slot_bytes
        for number, message in enumerate(messages, self._given):
            length = len(message)
            if length > size:
                self._too_long(length)
            slot = number & mask
            at = slot * size
            self._pool_bytes[at : at + length] = message
            if number >> self._shift != self._full_lap:
                self._enter_lap(number, TO_SOUTH)
            self._u64[FIRST_META + 4 * slot] = self._full - size + length

    def _push_many(self, messages: Sequence[bytes], amount: int) -> None:
        size, given = self.slot_bytes, self._given
        lengths = list(map(len, messages))
        same = lengths == [size] * amount  # compares the same small numbers: much faster than max()
        if not same and max(lengths) > size:
            self._too_long(max(lengths))
        first = given & self._mask
        if same and first + amount <= self.count:
            pool, _, publishing = self._spans.get((first, amount)) or self._span(first, amount)
            pool[:] = b"".join(messages)
            if given >> self._shift != self._full_lap:
                self._enter_lap(given, TO_SOUTH)
            publishing.fill(self._full_word)
            return
        done = 0
        for number, first, until in self._pieces(given, amount):
            upto = done + until - first
            if number >> self._shift != self._full_lap:
                self._enter_lap(number, TO_SOUTH)
            packed = split(size, upto - done).pack(*messages[done:upto])
            self._pool_bytes[first * size : until * size] = packed
            self._publishing[first:until] = np.array(lengths[done:upto], np.uint64) + np.uint64(self._full - size)
            done = upto

    def _too_long(self, length: int) -> NoReturn:
        raise LocalError(f"message of {length} bytes in slots of {self.slot_bytes}")


class PacketConsumer(PacketSide):
    """Takes messages out; ``doorbell`` is called when the producer waits for room and must be rung.

    One call takes messages up to the end of the ring at most, so fewer than are there when the ring wraps.

    Raises:
        RingError: EINVAL, the memory is not a fresh packet ring of this shape.
    """

    __slots__ = ("_due", "_expected", "_expected_amount", "_expected_bytes", "_expected_lap")

    def __init__(self, view: memoryview, slot_bytes: int, fence: Fence, doorbell: Callable[[], None]) -> None:
        super().__init__(view, SOUTH, slot_bytes, fence, doorbell)
        self._due = max(1, self.count // 8)
        self._expected_lap = -1
        self._expected = self._expected_amount = 0
        self._expected_bytes = b""

    def waiting(self) -> int:
        """How many messages are there to be popped.

        Raises:
            RingFault: more than the ring holds.
        """
        self._alive()
        return self._arrived(self.count, self.count - (self._taken - self._given))

    def pop(self, most: int) -> list[bytes]:
        """Take out up to ``most`` messages.

        Raises:
            RingFault: the producer wrote what cannot be.
        """
        if most == 1:
            message = self.pop_one()
            return [] if message is None else [message]
        amount = self._ready(most)
        if not amount:
            return []
        size, first = self.slot_bytes, self._taken & self._mask
        if amount <= FEW:
            messages = []
            for slot, length in enumerate(self._few_lengths(first, amount), first):
                at = slot * size
                messages.append(bytes(self._pool_bytes[at : at + length]))
        else:
            lengths = self._lengths(first, amount)
            messages = []
            for start in range(first, first + amount, UNPACK_AT_ONCE):
                splitter = split(size, min(UNPACK_AT_ONCE, first + amount - start))
                messages += splitter.unpack_from(self._pool_bytes, start * size)
            if lengths is not None:
                messages = [slot[:length] for slot, length in zip(messages, lengths, strict=True)]
        self._took(amount)
        return messages

    def pop_one(self) -> bytes | None:
        """Take out one message, None if there is none.  All of :meth:`pop` in one piece.

        Raises:
            RingFault: the producer wrote what cannot be.
        """
        taken, memory = self._taken, self._u32
        ahead = (memory[self._peer_prod] - taken) & MASK
        if self._fault_text or ahead > self.count - (taken - self._given) or not self._ordered:
            ahead = self.waiting()
        if not ahead:
            return None
        if taken >> self._shift != self._expected_lap:
            self._expect_lap(taken)
        slot = taken & self._mask
        meta = self._u64[FIRST_META + 4 * slot]
        message = self._slots[slot].tobytes()
        if meta != self._expected:
            message = message[: self._checked((meta,), slot)[0]]
        self._taken = taken = taken + 1
        memory[self._cons_word] = taken & MASK
        if taken - self._given >= self._due:
            self.give_back()
        return message

    def pop_array(self, most: int) -> Bytes2D:
        """Take out up to ``most`` messages as rows of an array; short ones are filled up with zeros.

        Raises:
            RingFault: the producer wrote what cannot be.
        """
        amount = self._ready(most)
        first = self._taken & self._mask
        lengths = self._lengths(first, amount)
        rows = (self._spans.get((first, amount)) or self._span(first, amount))[1].copy()
        if lengths is not None:
            for row, length in zip(rows, lengths, strict=True):
                row[length:] = 0
        self._took(amount)
        return rows

    def watched(self) -> tuple[memoryview, int, int]:
        """A word of memory, its index, and what it holds as long as nothing more arrives: for who looks in a loop."""
        return self._u32, self._peer_prod, self._taken & MASK

    def give_back(self) -> None:
        """Return the slots of all messages that were taken out; done by itself when an eighth of the ring is due."""
        amount = self._taken - self._given
        if not amount:
            return
        for number, first, until in self._pieces(self._given, amount):
            if number >> self._shift != self._full_lap:
                self._enter_lap(number, 0)
            if amount <= FEW:
                for slot in range(first, until):
                    self._u64[FIRST_META + 4 * slot] = self._full
            else:
                self._publishing[first:until] = self._full_word
        self._hand_over(amount)

    def _ready(self, most: int) -> int:
        """How many of ``most`` messages can be taken in one piece; also notes what they must be marked with."""
        taken = self._taken
        ahead = (self._u32[self._peer_prod] - taken) & MASK
        if self._fault_text or ahead > self.count - (taken - self._given) or not self._ordered:
            ahead = self.waiting()
        if ahead > most:
            ahead = most
        if ahead <= 0:
            return 0
        if taken >> self._shift != self._expected_lap:
            self._expect_lap(taken)
        whole = self.count - (taken & self._mask)
        return ahead if ahead < whole else whole

    def _expect_lap(self, number: int) -> None:
        """Note what full slots of this lap are marked with."""
        self._expected_lap = number >> self._shift
        self._expected = self._meta(number, self.slot_bytes, TO_SOUTH)
        self._expected_amount = 0

    def _took(self, amount: int) -> None:
        self._taken = taken = self._taken + amount
        self._u32[self._cons_word] = taken & MASK
        if taken - self._given >= self._due:
            self.give_back()

    def _few_lengths(self, first: int, amount: int) -> list[int]:
        """Check a few descriptors, each on a copy; their lengths."""
        return self._checked([self._u64[FIRST_META + 4 * slot] for slot in range(first, first + amount)], first)

    def _lengths(self, first: int, amount: int) -> list[int] | None:
        """Check many descriptors, on a copy; their lengths, or None when all slots are full."""
        _, _, publishing = self._spans.get((first, amount)) or self._span(first, amount)
        raw = publishing.tobytes()
        if amount != self._expected_amount:
            self._expected_amount = amount
            self._expected_bytes = self._expected.to_bytes(8, "little") * amount
        if raw == self._expected_bytes:
            return None
        return self._checked(split_words(amount).unpack(raw), first)

    def _checked(self, metas: Sequence[int], first: int) -> list[int]:
        size, upper = self.slot_bytes, self._expected >> 32
        lengths: list[int] = []
        for meta in metas:
            length = meta & MASK
            if meta >> 32 != upper or length > size:
                self._fault(f"slot {first + len(lengths)}: length {length}, flags and generation {meta >> 32:#x}")
            lengths.append(length)
        return lengths
