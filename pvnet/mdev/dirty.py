"""Which pages of the user's memory the device has written: DMA logging, features 6, 7 and 8.

While logging is on, every write by the device marks its pages.  Pages have the size that the start has named; a report
may ask in another one, of which a page is dirty as soon as any byte that it shares with a dirty one is.  Reading clears
what it has told.  Bitmaps have one bit per page, the lowest bit first, in whole little-endian u64 words.

Marks are kept in blocks of 4096 pages, so that they cost what is written, not what is mapped.

Spec: mdev 4.8, 6.5, 9.2 (B31).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL

MIN_PAGE: Final = 4096
MAX_PAGE: Final = 1 << 30
MAX_RANGES: Final = 4096

_BLOCK: Final = 4096
_WORD_BITS: Final = 64
_SPACE: Final = 1 << 64


def _check_page(size: int) -> None:
    if not MIN_PAGE <= size <= MAX_PAGE or size & (size - 1):
        raise MdevError(EINVAL, f"pages of {size} bytes")


def _check_range(iova: int, length: int) -> None:
    if iova < 0 or length <= 0 or iova + length > _SPACE:
        raise MdevError(EINVAL, f"{length} bytes at {iova:#x}")


def bitmap_size(length: int, page_size: int) -> int:
    """Bytes of a bitmap over ``length`` bytes."""
    pages = -(-length // page_size)
    return -(-pages // _WORD_BITS) * 8


class DirtyPages:
    """The log of one user."""

    def __init__(self) -> None:
        self._page = 0
        self._ranges: tuple[tuple[int, int], ...] = ()
        self._blocks: dict[int, int] = {}

    @property
    def logging(self) -> bool:
        """Whether writes are marked."""
        return self._page > 0

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """Begin to mark; ``ranges``: only there, as (address, length).

        :raises MdevError: EINVAL: logging is on, no such page size, a range that is none.
        """
        if self._page:
            raise MdevError(EINVAL, "logging is on")
        _check_page(page_size)
        if len(ranges) > MAX_RANGES:
            raise MdevError(EINVAL, f"{len(ranges)} ranges, {MAX_RANGES} is the most")
        for iova, length in ranges:
            _check_range(iova, length)
        self._page, self._ranges = page_size, tuple(ranges)

    def stop(self) -> None:
        """End it and forget what was marked; idempotent."""
        self._page, self._ranges = 0, ()
        self._blocks.clear()

    def mark(self, address: int, length: int) -> None:
        """The device writes here."""
        if not self._page or length <= 0:
            return
        if not self._ranges:
            self._mark(address, address + length)
        for iova, size in self._ranges:
            if iova < address + length and address < iova + size:
                self._mark(max(iova, address), min(iova + size, address + length))

    def _mark(self, address: int, end: int) -> None:
        page, last = address // self._page, (end - 1) // self._page
        while page <= last:
            block, first = divmod(page, _BLOCK)
            count = min(last - page + 1, _BLOCK - first)
            self._blocks[block] = self._blocks.get(block, 0) | ((1 << count) - 1) << first
            page += count

    def report(self, iova: int, length: int, page_size: int, max_bytes: int) -> bytes:
        """Return the bitmap of a range, of at most ``max_bytes``, and clear it.

        :raises MdevError: EINVAL: logging is off, no such page size or range, or the bitmap is too long.
        """
        if not self._page:
            raise MdevError(EINVAL, "logging is off")
        _check_page(page_size)
        _check_range(iova, length)
        if iova % page_size:
            raise MdevError(EINVAL, f"{iova:#x} is not where a page of {page_size} bytes begins")
        size = bitmap_size(length, page_size)
        if size > max_bytes:
            raise MdevError(EINVAL, f"a bitmap of {size} bytes, there is room for {max_bytes}")
        bits = 0
        for first, count in self._take(iova // self._page, (iova + length - 1) // self._page):
            begin = max(first * self._page, iova) - iova
            end = min((first + count) * self._page, iova + length) - iova
            low, high = begin // page_size, (end - 1) // page_size
            bits |= ((1 << (high - low + 1)) - 1) << low
        return bits.to_bytes(size, "little")

    def _take(self, first: int, last: int) -> list[tuple[int, int]]:
        """Clear pages ``first`` to ``last``; return those that were marked, as runs (page, count)."""
        runs: list[tuple[int, int]] = []
        low_block, high_block = first // _BLOCK, last // _BLOCK
        blocks = [block for block in self._blocks if low_block <= block <= high_block]
        for block in blocks:
            base = block * _BLOCK
            low, high = max(first - base, 0), min(last - base, _BLOCK - 1)
            inside = ((1 << (high - low + 1)) - 1) << low
            marked = self._blocks[block] & inside
            self._blocks[block] &= ~inside
            if not self._blocks[block]:
                del self._blocks[block]
            while marked:
                start = (marked & -marked).bit_length() - 1
                run = ((marked >> start) + 1 & ~(marked >> start)).bit_length() - 1
                runs.append((base + start, run))
                marked &= ~(((1 << run) - 1) << start)
        return runs
