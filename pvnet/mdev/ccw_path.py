"""The only channel path of a subchannel, and the reports (CRWs) about it.

A path that goes or comes is reported by a CRW.  The list of reports that nobody has read is bounded: what does not fit
is lost, and the last report that did fit says so by its overflow bit.

Spec: mdev 5.1 (region 3), 5.6, 9.4 (D15, D17).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pvnet.mdev.ccw_layout import Crw, Pmcw
from pvnet.mdev.ccw_names import Recovery, Resource
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EACCES, ENODEV

INSTALLED: Final = 0x80
MAX_REPORTS: Final = 16


class Reports:
    """CRWs that wait to be read."""

    def __init__(self) -> None:
        self._waiting: deque[Crw] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, report: Crw) -> None:
        """Queue a report, or mark the last one."""
        if len(self._waiting) < MAX_REPORTS:
            self._waiting.append(report)
        else:
            self._waiting[-1] = replace(self._waiting[-1], overflow=True)

    def pop(self) -> Crw | None:
        """Return the oldest."""
        return self._waiting.popleft() if self._waiting else None

    def waiting(self) -> tuple[Crw, ...]:
        """Return all of them, oldest first."""
        return tuple(self._waiting)

    def replace(self, reports: Sequence[Crw]) -> None:
        """Take over another list."""
        self._waiting = deque(reports)


class ChannelPath:
    """A path: its id, whether it is there, and whether it was used (LPUM)."""

    def __init__(self, chpid: int) -> None:
        self.chpid = chpid
        self.online = True
        self.last_used = 0

    def vary(self, *, online: bool) -> Crw | None:
        """Take the path away or bring it back; None: nothing has changed."""
        if online == self.online:
            return None
        self.online = online
        return Crw(Resource.CHANNEL_PATH, Recovery.INITIALIZED if online else Recovery.PERMANENT_ERROR, self.chpid)

    def choose(self, path_mask: int) -> None:
        """Choose a path among those of an ORB's LPM; 0 means any.

        :raises MdevError: EACCES none of these, but there are others; ENODEV there is none at all.
        """
        available = INSTALLED if self.online else 0
        if not (path_mask or available) & available:
            if available & ~path_mask:
                raise MdevError(EACCES, f"no path of mask {path_mask:#04x}")
            raise MdevError(ENODEV, "no path is left")
        self.last_used = INSTALLED

    def pmcw(self, devno: int, *, enabled: bool, concurrent_sense: bool) -> Pmcw:
        """Return what a subchannel says of its paths."""
        available = INSTALLED if self.online else 0
        chpids = bytes((self.chpid,)).ljust(8, b"\0")
        return Pmcw(
            devno, enabled, available, self.last_used, INSTALLED, 0xFF, available, chpids, concurrent_sense
        )  # fmt: skip
