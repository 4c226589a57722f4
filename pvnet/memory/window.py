"""A DMA window: from I/O addresses to runs of real addresses, or a refusal as a value.

A window is named by a LIOBN and covers I/O addresses ``0 .. size-1`` in pages of 4 KiB.  Each page has a translation
entry (TCE), a 64-bit number::

    bit (IBM)   0                                        51 52        61 62 63
               +-------------------------------------------+-----------+-----+
               | real page number                          | ignored   | acc |     acc: 0 none, 1 read, 2 write, 3 both
               +-------------------------------------------+-----------+-----+

so that ``tce & ~0xFFF`` is the real address of the page.  *read* and *write* are meant from the device: a page with
access 1 may be a source, never a destination.

The peer chooses every address, so a refusal is an ordinary result: :class:`Refusal` says whether the range or the
access was wrong.  A range that leaves the window is ``RANGE``; a page inside without the access bit asked for, mapped
or not, is ``PERMISSION``.

**Speed.** Adjacent pages are merged into runs, as far as somebody has asked for, and kept until the table changes: a
repeated translation costs one dictionary look-up and one comparison, one that starts inside of a known run or at its
end prolongs that run, and none costs more than its own pages.  Whoever copies all the time
(:mod:`pvnet.papr.rdma_engine`) looks at :attr:`DmaWindow.readable` and :attr:`DmaWindow.writable` instead, the run
used last.  The table is a dictionary: a large, mostly empty window costs nothing.

Spec: LoPAR "TCE" in the address map chapter; vmc 7.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from pvnet.core.errors import LocalError

PAGE_BYTES: Final = 4096
PAGE_SHIFT: Final = 12
_OFFSET: Final = PAGE_BYTES - 1

ACCESS_ANY: Final = 0
"""The page must be mapped, with any access: what the owner of the memory itself needs."""
ACCESS_READ: Final = 1
"""The page may be read by the device (source of a copy)."""
ACCESS_WRITE: Final = 2
"""The page may be written by the device (destination of a copy, CRQ page)."""
ACCESS_BOTH: Final = 3
"""Both."""


class Run(NamedTuple):
    """A contiguous piece of real memory: ``length`` bytes at ``address``."""

    address: int
    length: int


class Refusal(Enum):
    """Why an I/O address range does not translate."""

    RANGE = "range"
    """Outside of the window."""
    PERMISSION = "permission"
    """Inside, but a page lacks the access bit (or has no translation at all)."""


def tce_access(tce: int) -> int:
    """The access bits of a TCE: 0 none, 1 read, 2 write, 3 both."""
    return tce & ACCESS_BOTH


def tce_address(tce: int) -> int:
    """Real address of the page that a TCE names."""
    return tce & ~_OFFSET


class _Extent:
    """A run of pages from ``start``: I/O address ``ioba`` plus ``delta`` is the real address, up to ``end``."""

    __slots__ = ("delta", "end", "start")

    def __init__(self, delta: int, start: int, end: int) -> None:
        self.delta = delta
        self.start = start
        self.end = end


class HotRun:
    """The run used last for one kind of access: I/O addresses ``start`` to ``end`` are at ``+ delta`` in real memory.

    It is checked whole (access bits, window, the limit given to :meth:`DmaWindow.warm`); ``end`` is 0 while nothing is
    known, as after every change of the table.
    """

    __slots__ = ("delta", "end", "start")

    def __init__(self) -> None:
        self.delta = 0
        self.start = 0
        self.end = 0


class DmaWindow:
    """The translation table of one LIOBN over ``size_bytes`` of I/O addresses (a multiple of 4 KiB)."""

    __slots__ = ("_extents", "_latest", "_tces", "liobn", "pages", "readable", "size_bytes", "writable")

    def __init__(self, liobn: int, size_bytes: int) -> None:
        if size_bytes < 0 or size_bytes & _OFFSET:
            raise LocalError(f"window of {size_bytes:#x} bytes: expected a multiple of 4 KiB")
        self.liobn = liobn
        self.size_bytes = size_bytes
        self.pages = size_bytes >> PAGE_SHIFT
        self._tces: dict[int, int] = {}
        self._extents: tuple[dict[int, _Extent], ...] = ({}, {}, {}, {})
        self._latest: list[_Extent | None] = [None] * 4
        self.readable = HotRun()
        """For sources of copies (:data:`ACCESS_READ`)."""
        self.writable = HotRun()
        """For their destinations (:data:`ACCESS_WRITE`)."""

    # -- the table -------------------------------------------------------------------------------------------------

    def holds(self, ioba: int, pages: int = 1) -> bool:
        """Whether ``pages`` pages from the one that ``ioba`` lies in are inside of the window."""
        return ioba >= 0 and pages >= 0 and (ioba >> PAGE_SHIFT) + pages <= self.pages

    def put(self, ioba: int, tce: int) -> Refusal | None:
        """Set the entry of the page that ``ioba`` lies in; the entry is kept as it is, reserved bits included."""
        return self.put_list(ioba, (tce,))

    def put_list(self, ioba: int, tces: tuple[int, ...]) -> Refusal | None:
        """Set the entries of consecutive pages: all of them, or none when one lies outside."""
        if not self.holds(ioba, len(tces)):
            return Refusal.RANGE
        page = ioba >> PAGE_SHIFT
        for offset, tce in enumerate(tces):
            if tce:
                self._tces[page + offset] = tce
            else:
                self._tces.pop(page + offset, None)
        self._forget()
        return None

    def stuff(self, ioba: int, tce: int, pages: int) -> Refusal | None:
        """Set ``pages`` consecutive entries to the same value: all of them, or none when one lies outside."""
        if not self.holds(ioba, pages):
            return Refusal.RANGE
        first = ioba >> PAGE_SHIFT
        if tce:
            self._tces.update(dict.fromkeys(range(first, first + pages), tce))
        else:
            for page in self._mapped(first, first + pages):
                del self._tces[page]
        self._forget()
        return None

    def get(self, ioba: int) -> int | Refusal:
        """The entry of the page that ``ioba`` lies in; 0 when never set."""
        if not self.holds(ioba):
            return Refusal.RANGE
        return self._tces.get(ioba >> PAGE_SHIFT, 0)

    def map(self, ioba: int, address: int, length: int, access: int = ACCESS_BOTH) -> Refusal | None:
        """Map the pages of ``length`` bytes to consecutive real pages; both addresses are page aligned.

        :raises LocalError: an address is not aligned.
        """
        if (ioba | address) & _OFFSET:
            raise LocalError(f"map of {ioba:#x} to {address:#x}: expected multiples of 4 KiB")
        count = (length + _OFFSET) >> PAGE_SHIFT
        if not self.holds(ioba, count):
            return Refusal.RANGE
        return self.put_list(ioba, tuple((address + (i << PAGE_SHIFT)) | access for i in range(count)))

    def clear(self) -> None:
        """Forget every entry."""
        self._tces.clear()
        self._forget()

    @property
    def mapped_pages(self) -> int:
        """Number of entries that are not zero."""
        return len(self._tces)

    def _mapped(self, first: int, last: int) -> list[int]:
        pages = range(first, last)
        if len(pages) < len(self._tces):
            return [page for page in pages if page in self._tces]
        return [page for page in self._tces if page in pages]

    def _forget(self) -> None:
        for extents in self._extents:
            extents.clear()
        self._latest = [None] * 4
        self.readable.end = self.writable.end = 0

    # -- translation -----------------------------------------------------------------------------------------------

    def translate(self, ioba: int, length: int, access: int) -> tuple[Run, ...] | Refusal:
        """Runs of real memory behind ``length`` bytes at ``ioba``, in order, or why not.

        Every byte must be inside of the window and every page must have all bits of ``access`` (one of ``ACCESS_*``).
        No bytes at an address inside (or at the very end) of the window translate to no runs.
        """
        end = ioba + length
        extent = self._extents[access].get(ioba >> PAGE_SHIFT)
        if extent is not None and length > 0 and end <= extent.end:
            return (Run(ioba + extent.delta, length),)
        if ioba < 0 or length < 0 or end > self.size_bytes:
            return Refusal.RANGE
        return self._walk(ioba, end, access)

    def warm(self, ioba: int, access: int, limit: int) -> None:
        """Make the known run at ``ioba`` the hot one of ``access`` (read or write); its memory has ``limit`` bytes.

        To be called after :meth:`translate` for that address and access has found one run.
        """
        extent = self._extents[access].get(ioba >> PAGE_SHIFT)
        if extent is not None:
            run = self.readable if access == ACCESS_READ else self.writable
            run.start, run.delta = extent.start, extent.delta
            run.end = min(extent.end, limit - extent.delta)

    def _walk(self, ioba: int, end: int, access: int) -> tuple[Run, ...] | Refusal:
        runs = []
        while ioba < end:
            extent = self._extent(ioba >> PAGE_SHIFT, end, access)
            if extent is None:
                return Refusal.PERMISSION
            upto = min(end, extent.end)
            runs.append(Run(ioba + extent.delta, upto - ioba))
            ioba = upto
        return tuple(runs)

    def _extent(self, page: int, end: int, access: int) -> _Extent | None:
        """The run that starts at ``page``, at least up to ``end`` if it reaches so far; ``None``: no access."""
        extents = self._extents[access]
        extent = extents.get(page)
        if extent is None:
            tce = self._tces.get(page, 0)
            if not _grants(tce, access):
                return None
            start = page << PAGE_SHIFT
            delta = tce_address(tce) - start
            extent = self._latest[access]
            if extent is None or extent.delta != delta or not extent.start <= start <= extent.end:
                extent = self._latest[access] = _Extent(delta, start, start + PAGE_BYTES)
            extents[page] = extent
        while extent.end < end or extent.end >> PAGE_SHIFT == page:
            tce = self._tces.get(extent.end >> PAGE_SHIFT, 0)
            if not _grants(tce, access) or tce_address(tce) != extent.end + extent.delta:
                break
            extent.end += PAGE_BYTES
        return extent


def _grants(tce: int, access: int) -> bool:
    if access == ACCESS_ANY:
        return tce_access(tce) != 0
    return tce & access == access
