"""Which blocks of one device are bound, and where: a list of ranges, each contiguous in blocks and in addresses.

A block is bound at most once and an address holds at most one block, so a range can be found from either side.  Ranges
that continue each other are merged; taking a piece out of one splits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pvnet.core.errors import LocalError


class Range(NamedTuple):
    """``blocks`` blocks from ``first`` on, of ``block_size`` bytes each, that start at logical ``address``."""

    first: int
    blocks: int
    address: int
    block_size: int

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.address + self.blocks * self.block_size

    def overlaps_addresses(self, address: int, end: int) -> bool:
        """Whether it shares a byte with ``address`` to ``end`` (exclusive)."""
        return self.address < end and address < self.end

    def overlaps_blocks(self, first: int, blocks: int) -> bool:
        """Whether it shares a block."""
        return self.first < first + blocks and first < self.first + self.blocks

    def part(self, skip: int, blocks: int) -> Range:
        """``blocks`` blocks of it after the first ``skip``."""
        return Range(self.first + skip, blocks, self.address + skip * self.block_size, self.block_size)


class Bindings:
    """The ranges of one device, in the order of their addresses."""

    def __init__(self) -> None:
        self._ranges: list[Range] = []

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def blocks(self) -> int:
        """Blocks bound in all."""
        return sum(r.blocks for r in self._ranges)

    def bind(self, new: Range) -> None:
        """Add a range.

        :raises LocalError: one of its blocks or addresses is bound.
        """
        if any(
            r.overlaps_blocks(new.first, new.blocks) or r.overlaps_addresses(new.address, new.end) for r in self._ranges
        ):
            raise LocalError(f"{new} is bound already")
        merged: list[Range] = []
        for r in sorted([*self._ranges, new], key=lambda r: r.address):
            last = merged[-1] if merged else None
            if last is not None and last.end == r.address and last.first + last.blocks == r.first:
                merged[-1] = last._replace(blocks=last.blocks + r.blocks)
            else:
                merged.append(r)
        self._ranges = merged

    def pieces(self, address: int, end: int) -> list[Range]:
        """What is bound between two addresses (both at block boundaries), in order."""
        found = []
        for r in self._ranges:
            if r.overlaps_addresses(address, end):
                low, high = max(address, r.address), min(end, r.end)
                found.append(r.part((low - r.address) // r.block_size, (high - low) // r.block_size))
        return found

    def unbind(self, address: int, end: int) -> list[Range]:
        """Take out what is bound between two addresses (both at block boundaries) and return it."""
        taken = self.pieces(address, end)
        kept = []
        for r in self._ranges:
            if not r.overlaps_addresses(address, end):
                kept.append(r)
                continue
            before = max(0, address - r.address) // r.block_size
            after = max(0, r.end - end) // r.block_size
            kept += [part for part in (r.part(0, before), r.part(r.blocks - after, after)) if part.blocks]
        self._ranges = kept
        return taken

    def address_of(self, block: int) -> int | None:
        """Where a block is bound, or ``None``."""
        for r in self._ranges:
            if r.overlaps_blocks(block, 1):
                return r.part(block - r.first, 1).address
        return None

    def find(self, address: int) -> Range | None:
        """The range that holds an address, or ``None``."""
        return next((r for r in self._ranges if r.address <= address < r.end), None)
