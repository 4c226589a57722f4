"""An arena of which each side has its own copy: for a transport that cannot share memory.

The copy of who joins begins all zeroes.  Before a side sends anything it asks :meth:`Mirror.changes` for the bytes that
it has changed since the last time, and they travel with the message; the receiver stores them (:meth:`Mirror.store`)
before it looks at anything else.  The machines on both sides work on their copy as they would on shared memory.

Why this is right: every byte of the rings and buffers has one owner at a time, and ownership is handed over by a byte
that travels in the same message as, or a later one than, what it hands over; messages arrive in order, each is stored
whole.  The exceptions are the ``pending`` and ``dirty`` bytes of a shm-signal, which both sides write: copies may
disagree about them for a while.  So the bytes of a signal are never trusted to wake anybody here: whoever stores
changes looks at all its queues afterwards, as if every signal had rung (wakeups may be spurious, never lost).

Only bytes that differ are sent, in runs without gaps: a byte between two changed ones may be the other side's to change
at the same moment.

Spec: vbus 1 (R1, R4), 2 (memory context by copies), 5.2.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pvnet.core.errors import LocalError
from pvnet.papr.errno import EFAULT
from pvnet.vbus.errors import VbusError

Bytes: TypeAlias = npt.NDArray[np.uint8]
_BLOCK: Final = 4096


class Run(NamedTuple):
    """Changed bytes: where in the arena, and what they are now."""

    offset: int
    data: bytes


class Mirror:
    """One side's copy of an arena: ``view`` is what its machines work on."""

    def __init__(self, view: memoryview) -> None:
        """Begin; the other side's copy is all zeroes.

        :raises LocalError: the view is read-only.
        """
        if view.readonly:
            raise LocalError("a mirror needs a writable view")
        self.view = view
        self._now = np.frombuffer(view, dtype=np.uint8)
        self._known = np.zeros_like(self._now)
        """What the other side has, or has been sent."""

    @property
    def size(self) -> int:
        """Bytes of the arena."""
        return len(self.view)

    def changes(self) -> list[Run]:
        """What was changed here since the last time, in order of address, and from now on counts as sent."""
        now, known = self._now, self._known
        runs: list[Run] = []
        for block in self._changed_blocks():
            start, end = block, min(block + _BLOCK, len(now))
            where = np.flatnonzero(now[start:end] != known[start:end])
            breaks = np.flatnonzero(np.diff(where) > 1)
            firsts = where[np.concatenate(([0], breaks + 1))] + start
            lasts = where[np.concatenate((breaks, [len(where) - 1]))] + start
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                _append(runs, first, bytes(self.view[first : last + 1]))
            known[start:end] = now[start:end]
        return runs

    def _changed_blocks(self) -> list[int]:
        """Offsets of the 4 KiB blocks that differ."""
        whole = len(self._now) // _BLOCK * _BLOCK
        # As 64-bit words: an eighth of the comparisons.
        words_now, words_known = self._now[:whole].view(np.uint64), self._known[:whole].view(np.uint64)
        differ = (words_now != words_known).reshape(-1, _BLOCK // 8).any(axis=1)
        blocks: list[int] = (np.flatnonzero(differ) * _BLOCK).tolist()
        if not np.array_equal(self._now[whole:], self._known[whole:]):
            blocks.append(whole)
        return blocks

    def check(self, offset: int, length: int) -> None:
        """Refuse what does not lie inside.

        :raises VbusError: EFAULT.
        """
        if offset < 0 or offset + length > len(self.view):
            raise VbusError(EFAULT, f"{length} bytes at offset {offset:#x} of a mirror of {len(self.view):#x}")

    def store(self, runs: list[Run]) -> None:
        """Store what the other side has changed: all of it or nothing.

        :raises VbusError: EFAULT, a run is not inside.
        """
        for offset, data in runs:
            self.check(offset, len(data))
        for offset, data in runs:
            end = offset + len(data)
            self.view[offset:end] = data
            self._known[offset:end] = self._now[offset:end]

    def store_where(self, mask: Bytes, data: Bytes) -> None:
        """Store the bytes of ``data`` at all places where ``mask`` is not 0; both are as long as the arena."""
        where = mask.view(np.bool_)
        self._now[where] = data[where]
        self._known[where] = data[where]


def _append(runs: list[Run], offset: int, data: bytes) -> None:
    """Append a run; one that continues the last (over the border of two blocks) is joined to it."""
    if runs and runs[-1].offset + len(runs[-1].data) == offset:
        runs[-1] = Run(runs[-1].offset, runs[-1].data + data)
    else:
        runs.append(Run(offset, data))
