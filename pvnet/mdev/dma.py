"""Memory that a user has offered to a device: the maps of DMA_MAP.

A map is a range of I/O addresses with permissions; behind it is memory that can be touched here, or nothing but the
user, who is asked by messages.  Maps never overlap.  An access may run over several of them as long as there is no
hole and all of them permit it.

Mapping a range again exactly as it is succeeds, and the newer descriptor is the one that counts.

Spec: mdev 6.4, 9.2 (B18 to B25), 9.3.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, TypeAlias

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DmaFlag
from pvnet.mdev.user import DmaMemory
from pvnet.papr.errno import EEXIST, EFAULT, EINVAL, ENOENT, ENOSPC

_SPACE: Final = 1 << 64
_READ: Final = int(DmaFlag.READ)
_WRITE: Final = int(DmaFlag.WRITE)
_ACCESS: Final = _READ | _WRITE
_BY_MEMORY: Final = int(DmaFlag.MMAP | DmaFlag.FILE_IO)


@dataclass(slots=True)
class DmaRegion:
    """A range of I/O addresses; ``flags`` as :class:`~pvnet.mdev.names.DmaFlag`.

    ``memory`` None: reached by messages only.  ``offset`` as the user said it, to compare maps by.
    """

    address: int
    size: int
    flags: int
    memory: DmaMemory | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class DmaLimits:
    """What a user may map: how many ranges, of how many bytes each, in what pages (a power of two)."""

    maps: int = 65535
    size: int = 1 << 43
    page_size: int = 4096


Piece: TypeAlias = tuple[DmaRegion, int, int]
"""Part of an access: the map, where in it, how many bytes."""


class DmaTable:
    """The maps of one user, by address."""

    def __init__(self, limits: DmaLimits | None = None) -> None:
        self.limits = limits or DmaLimits()
        self._starts: list[int] = []
        self._regions: list[DmaRegion] = []
        self._recent: DmaRegion | None = None
        """The map that was used last: the next access is often there, too."""

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def regions(self) -> tuple[DmaRegion, ...]:
        """All maps, lowest address first."""
        return tuple(self._regions)

    def map(self, region: DmaRegion) -> None:
        """Add a map; its memory is taken over, also when it is refused.

        :raises MdevError: EINVAL size, wrap, alignment, flags; EEXIST overlap; ENOSPC too many or too large.
        """
        try:
            self._add(region)
        except BaseException:
            if region.memory is not None:
                region.memory.close()
            raise

    def _add(self, region: DmaRegion) -> None:
        address, size, flags, limits = region.address, region.size, region.flags, self.limits
        if address < 0 or size <= 0 or address + size > _SPACE:
            raise MdevError(EINVAL, f"{size} bytes at {address:#x}")
        if (address | size) & (limits.page_size - 1):
            raise MdevError(EINVAL, f"{size} bytes at {address:#x}: not in pages of {limits.page_size}")
        if flags & ~(_ACCESS | _BY_MEMORY) or not flags & _ACCESS:
            raise MdevError(EINVAL, f"DMA flags {flags:#x}")
        if flags & _BY_MEMORY and region.memory is None:
            raise MdevError(EINVAL, f"DMA flags {flags:#x} without a descriptor")
        at = bisect_right(self._starts, address)
        if at:
            before = self._regions[at - 1]
            if before.address == address and self._same(before, region):
                old, before.memory = before.memory, region.memory
                if old is not None and old is not region.memory:
                    old.close()
                return
            if before.address + before.size > address:
                raise MdevError(EEXIST, f"{address:#x} is mapped")
        if at < len(self._regions) and address + size > self._starts[at]:
            raise MdevError(EEXIST, f"{self._starts[at]:#x} is mapped")
        if len(self._regions) >= limits.maps:
            raise MdevError(ENOSPC, f"more than {limits.maps} maps")
        if size > limits.size:
            raise MdevError(ENOSPC, f"a map of {size} bytes, {limits.size} is the most")
        self._starts.insert(at, address)
        self._regions.insert(at, region)

    @staticmethod
    def _same(one: DmaRegion, other: DmaRegion) -> bool:
        return (
            one.size == other.size
            and one.flags == other.flags
            and one.offset == other.offset
            and (one.memory is None) == (other.memory is None)
        )

    def matching(self, address: int, size: int, *, all_: bool = False) -> tuple[DmaRegion, ...]:
        """Return what DMA_UNMAP means: the map that is exactly this, or all.

        :raises MdevError: EINVAL: all, and a range with it; ENOENT no such map.
        """
        if all_:
            if address or size:
                raise MdevError(EINVAL, "all maps, and a range")
            return self.regions
        at = bisect_right(self._starts, address) - 1
        if at < 0 or self._starts[at] != address or self._regions[at].size != size:
            raise MdevError(ENOENT, f"{size} bytes at {address:#x} are no map")
        return (self._regions[at],)

    def drop(self, region: DmaRegion) -> None:
        """Remove a map and let go of its memory; idempotent."""
        self._recent = None
        at = bisect_right(self._starts, region.address) - 1
        if at >= 0 and self._regions[at] is region:
            del self._starts[at], self._regions[at]
        memory, region.memory = region.memory, None
        if memory is not None:
            memory.close()

    def clear(self) -> None:
        """Remove all maps."""
        for region in self.regions:
            self.drop(region)

    def view(self, address: int, length: int, *, write: bool) -> memoryview | None:
        """Return the bytes of an access that lies in one map, mapped here; None: :meth:`pieces` knows more."""
        region = self._recent
        if region is None or not region.address <= address < region.address + region.size:
            at = bisect_right(self._starts, address) - 1
            if at < 0:
                return None
            region = self._recent = self._regions[at]
        memory, offset = region.memory, address - region.address
        if memory is None or offset + length > region.size or not region.flags & (_WRITE if write else _READ):
            return None
        view = memory.view
        return None if view is None else view[offset : offset + length]

    def pieces(self, address: int, length: int, *, write: bool) -> list[Piece]:
        """Return the parts of an access of ``length`` > 0 bytes.

        :raises MdevError: EFAULT, a byte of it is not mapped or not permitted.
        """
        needed = _WRITE if write else _READ
        found: list[Piece] = []
        at = bisect_right(self._starts, address) - 1
        while length:
            if not 0 <= at < len(self._regions):
                raise MdevError(EFAULT, f"{address:#x} is not mapped")
            region = self._regions[at]
            offset = address - region.address
            if not 0 <= offset < region.size:
                raise MdevError(EFAULT, f"{address:#x} is not mapped")
            if not region.flags & needed:
                raise MdevError(EFAULT, f"{address:#x} is not mapped for {'writing' if write else 'reading'}")
            part = min(length, region.size - offset)
            found.append((region, offset, part))
            address, length, at = address + part, length - part, at + 1
        return found
