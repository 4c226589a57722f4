"""Commands that have been sent and wait for their replies.

Each end of vfio-user has one such table for the commands it sends.  A reply belongs to a command when id **and**
command agree; one that agrees with nothing is counted and forgotten, and the command it might have meant goes on
waiting.  Time comes in from outside (:meth:`ReplyTable.expire`), so that a peer that never answers holds nobody for
ever.

Spec: mdev 6.1, 9.2 (B7), 9.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import ERROR, Descriptor, command_name
from pvnet.papr.errno import ETIMEDOUT

IDS: Final = 1 << 16
_ID_MASK: Final = IDS - 1

Answer: TypeAlias = Callable[[memoryview | MdevError, list[Descriptor]], None]
"""Takes a payload, or why there is none; descriptors it wants it removes from the list."""


class Sent(Protocol):
    """A command that waits for its reply."""

    @property
    def command(self) -> int:
        """Its number."""
        ...

    since: float | None
    """First time at which :meth:`ReplyTable.expire` saw it."""

    def answer(self, payload: memoryview | MdevError, descriptors: list[Descriptor]) -> None:
        """See :data:`Answer`."""
        ...


@dataclass(slots=True)
class _Called:
    command: int
    answer: Answer
    since: float | None = None


class ReplyTable:
    """Commands of one direction of one connection, by message id."""

    def __init__(self, limit: int, timeout_s: float, counters: Counters) -> None:
        self.limit = min(limit, IDS - 1)
        """How many may wait."""
        self._timeout_s = timeout_s
        self._counters = counters
        self.sent: dict[int, Sent] = {}
        """What waits, by id.  Who sends all the time puts its own objects here (:meth:`free_id` tells the id)."""
        self._next = 0

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def full(self) -> bool:
        """Whether no further command may be sent now."""
        return len(self.sent) >= self.limit

    def add(self, command: int, answer: Answer) -> int:
        """Return the id for a command that is about to be sent; the table is not :attr:`full`."""
        ident = self.free_id()
        self.sent[ident] = _Called(command, answer)
        return ident

    def free_id(self) -> int:
        """Return an id that is free; for a command that wants no reply, or for :attr:`sent`."""
        ident = self._next
        while ident in self.sent:
            ident = (ident + 1) & _ID_MASK
        self._next = (ident + 1) & _ID_MASK
        return ident

    def reply(
        self, ident: int, command: int, flags: int, errno: int, payload: memoryview, descriptors: list[Descriptor]
    ) -> None:
        """Take a reply: whoever waits for it is told."""
        sent = self.sent.get(ident)
        if sent is None or sent.command != command:
            self._counters["replies_unexpected"] += 1
            return
        del self.sent[ident]
        if flags & ERROR:
            self._counters["replies_error"] += 1
            sent.answer(MdevError(MdevError(errno).code, f"{command_name(command)} refused"), descriptors)
        else:
            sent.answer(payload, descriptors)

    def expire(self, now: float) -> None:
        """Give up, with ETIMEDOUT, what was first seen here ``timeout_s`` or more before ``now``.

        A reply that comes later finds nothing and is ignored.
        """
        late = []
        for ident, sent in self.sent.items():
            if sent.since is None:
                sent.since = now
            elif now - sent.since >= self._timeout_s:
                late.append(ident)
        for ident in late:
            gone = self.sent.pop(ident, None)
            if gone is not None:
                self._counters["replies_late"] += 1
                gone.answer(MdevError(ETIMEDOUT, f"{command_name(gone.command)} not answered"), [])

    def fail(self, error: MdevError) -> None:
        """Give up everything."""
        sent = tuple(self.sent.values())
        self.sent.clear()
        for each in sent:
            each.answer(error, [])
