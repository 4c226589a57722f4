"""A segment: bytes that one side owns, addressed from zero.

A partition's memory is one segment, addressed by logical real addresses; the hypervisor's own memory (what pane 2 of a
VMC adapter offers) is another.  Whatever the bytes live in (``bytearray``, shared mapping), they are always touched
through one ``memoryview``: slicing a mapping itself copies, and as the source of a large block is ten times slower.

Who may be wrong here is only our own program, because every address that a peer names is checked by a window first
(:mod:`pvnet.memory.window`); an access outside of the segment therefore raises.
"""

from __future__ import annotations

from mmap import mmap
from typing import Any, TypeAlias

from pvnet.core.errors import LocalError

WritableBuffer: TypeAlias = bytearray | memoryview | mmap
"""What a segment may lie in."""


class MemoryFault(LocalError):  # noqa: N818 - the machine's word for it; it is an error by its base
    """An access outside of a segment, or through an I/O address that is not mapped."""


class Segment:
    """Writable bytes ``0 .. size-1`` over any writable buffer, which stays shared with its other users.

    :raises LocalError: the buffer is read-only or not contiguous.
    """

    __slots__ = ("_origin", "size", "view")

    def __init__(self, buffer: WritableBuffer) -> None:
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise LocalError("a segment needs a writable, contiguous buffer")
        self._origin: Any = view.obj
        self.view: memoryview = view.cast("B")
        """All bytes; slices of it are live, not copies."""
        self.size: int = self.view.nbytes
        """Length in bytes."""

    def contains(self, address: int, length: int) -> bool:
        """Whether ``length`` bytes at ``address`` lie inside."""
        return address >= 0 and length >= 0 and address + length <= self.size

    def read(self, address: int, n: int) -> bytes:
        """Copy of ``n`` bytes at ``address``; :class:`MemoryFault` outside."""
        if not self.contains(address, n):
            raise MemoryFault(f"read of {n} bytes at {address:#x}: the segment has {self.size:#x}")
        return bytes(self.view[address : address + n])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``address``; :class:`MemoryFault` outside, and then nothing is stored."""
        source = memoryview(data)
        if not self.contains(address, source.nbytes):
            raise MemoryFault(f"write of {source.nbytes} bytes at {address:#x}: the segment has {self.size:#x}")
        self.view[address : address + source.nbytes] = source

    def shares(self, other: Segment) -> bool:
        """Whether both are over the same object, so that a copy between them may overlap."""
        return self._origin is other._origin
