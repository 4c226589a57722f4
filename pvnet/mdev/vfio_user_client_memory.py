"""Memory that a client has offered to its server, and the server's accesses to it.

A map made without a descriptor is reached by DMA_READ and DMA_WRITE only; one with a descriptor may be, too.  An access
may run over maps that follow each other.  Nothing is moved unless all of it is mapped and permitted.

Spec: mdev 6.4, 9.3.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DmaFlag
from pvnet.papr.errno import EFAULT, EPERM


@dataclass(order=True, slots=True)
class _Map:
    address: int
    size: int
    flags: int = field(compare=False)
    view: memoryview | None = field(compare=False)


class ClientMemory:
    """Maps by I/O address."""

    def __init__(self) -> None:
        self._maps: list[_Map] = []

    def __len__(self) -> int:
        return len(self._maps)

    def add(self, address: int, size: int, flags: int, view: memoryview | None) -> bool:
        """Take a map; False: some of it is mapped already, and nothing has changed."""
        at = bisect_right(self._maps, address, key=lambda each: each.address)
        before = self._maps[at - 1] if at else None
        if before is not None and before.address + before.size > address:
            return False
        if at < len(self._maps) and address + size > self._maps[at].address:
            return False
        insort(self._maps, _Map(address, size, flags, view))
        return True

    def remove(self, address: int, size: int) -> None:
        """Forget a map, if it is there."""
        self._maps = [each for each in self._maps if (each.address, each.size) != (address, size)]

    def clear(self) -> None:
        """Forget all."""
        self._maps = []

    def read(self, address: int, length: int) -> bytes:
        """Copy out.

        :raises MdevError: EFAULT nothing is mapped there, EPERM it is not to be read.
        """
        return b"".join(self._pieces(address, length, DmaFlag.READ))

    def write(self, address: int, data: memoryview) -> None:
        """Copy in.

        :raises MdevError: EFAULT nothing is mapped there, EPERM it is not to be written.
        """
        at = 0
        for piece in self._pieces(address, len(data), DmaFlag.WRITE):
            piece[:] = data[at : at + len(piece)]
            at += len(piece)

    def _pieces(self, address: int, length: int, needed: DmaFlag) -> list[memoryview]:
        result: list[memoryview] = []
        at = bisect_right(self._maps, address, key=lambda each: each.address) - 1
        while length:
            each = self._maps[at] if 0 <= at < len(self._maps) else None
            if each is None or each.view is None or not each.address <= address < each.address + each.size:
                raise MdevError(EFAULT, f"no memory at {address:#x}")
            if not each.flags & needed or (needed & DmaFlag.WRITE and each.view.readonly):
                raise MdevError(EPERM, f"memory at {address:#x} is not for {needed.name}")
            start = address - each.address
            count = min(length, each.size - start)
            result.append(each.view[start : start + count])
            address += count
            length -= count
            at += 1
        return result
