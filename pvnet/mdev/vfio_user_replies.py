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
from typing import Final, TypeAlias

from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import ERROR, Descriptor, command_name
from pvnet.papr.errno import ETIMEDOUT

IDS: Final = 1 << 16

Answer: TypeAlias = Callable[[memoryview | MdevError, list[Descriptor]], None]
"""Takes a payload, or why there is none; descriptors it wants it removes from the list."""


@dataclass(slots=True)
class _Sent:
    command: int
    answer: Answer
    since: float | None = None
    """First time at which :meth:`ReplyTable.expire` saw it."""


class ReplyTable:
    """Commands of one direction of one connection, by message id."""

    def __init__(self, limit: int, timeout_s: float, counters: Counters) -> None:
        self._limit = min(limit, IDS - 1)
        self._timeout_s = timeout_s
        self._counters = counters
        self._sent: dict[int, _Sent] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        """Whether no further command may be sent now."""
        return len(self._sent) >= self._limit

    def add(self, command: int, answer: Answer) -> int:
        """Return the id for a command that is about to be sent; the table is not :attr:`full`."""
        ident = self.skip()
        self._sent[ident] = _Sent(command, answer)
        return ident

    def skip(self) -> int:
        """Return an id for a command that wants no reply."""
        ident = self._next
        while ident in self._sent:
            ident = (ident + 1) % IDS
        self._next = (ident + 1) % IDS
        return ident

    def reply(
        self, ident: int, command: int, flags: int, errno: int, payload: memoryview, descriptors: list[Descriptor]
    ) -> None:
        """Take a reply: whoever waits for it is told."""
        sent = self._sent.get(ident)
        if sent is None or sent.command != command:
            self._counters["replies_unexpected"] += 1
            return
        del self._sent[ident]
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
        for ident, sent in self._sent.items():
            if sent.since is None:
                sent.since = now
            elif now - sent.since >= self._timeout_s:
                late.append(ident)
        for ident in late:
            gone = self._sent.pop(ident, None)
            if gone is not None:
                self._counters["replies_late"] += 1
                gone.answer(MdevError(ETIMEDOUT, f"{command_name(gone.command)} not answered"), [])

    def fail(self, error: MdevError) -> None:
        """Give up everything."""
        sent, self._sent = self._sent, {}
        for each in sent.values():
            each.answer(error, [])
