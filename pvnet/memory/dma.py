"""A partition's own memory as its drivers see it: bytes at I/O addresses of a window.

The owner of the memory is not a device: it may read and write every page that it has mapped, whatever the access bits
say.  What a driver does here is our own program's doing, so a wrong address raises.
"""

from __future__ import annotations

from pvnet.memory.copy import gather, scatter, within
from pvnet.memory.segment import MemoryFault, Segment
from pvnet.memory.window import ACCESS_ANY, DmaWindow, Refusal, Run


class DmaMemory:
    """``segment`` through ``window``; accesses may span pages that are not adjacent in real memory."""

    __slots__ = ("segment", "window")

    def __init__(self, segment: Segment, window: DmaWindow) -> None:
        self.segment = segment
        self.window = window

    def read(self, ioba: int, n: int) -> bytes:
        """Copy of ``n`` bytes at ``ioba``; :class:`MemoryFault` when any of them is not mapped."""
        runs = self._runs(ioba, n)
        if len(runs) == 1:
            address = runs[0].address
            return bytes(self.segment.view[address : address + n])
        return gather(self.segment, runs)

    def write(self, ioba: int, data: bytes) -> None:
        """Store ``data`` at ``ioba``; :class:`MemoryFault` when any byte is not mapped, and then nothing is stored."""
        scatter(data, self.segment, self._runs(ioba, len(data)))

    def holds(self, ioba: int, n: int) -> bool:
        """Whether ``n`` bytes at ``ioba`` are mapped."""
        runs = self.window.translate(ioba, n, ACCESS_ANY)
        return not isinstance(runs, Refusal) and within(runs, self.segment.size)

    def _runs(self, ioba: int, n: int) -> tuple[Run, ...]:
        runs = self.window.translate(ioba, n, ACCESS_ANY)
        if isinstance(runs, Refusal) or not within(runs, self.segment.size):
            raise MemoryFault(f"{n} bytes at I/O address {ioba:#x} of LIOBN {self.window.liobn:#x} are not mapped")
        return runs
