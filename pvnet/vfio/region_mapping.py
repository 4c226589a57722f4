"""Regions of a foreign device, mapped: the areas that its server allows, and no byte beside them."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from dataclasses import dataclass

from pvnet.core.errors import LocalError, RefusedError
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.names import RegionFlag


@dataclass(frozen=True, slots=True)
class MappedArea:
    """Bytes ``offset`` to ``offset + len(view)`` of a region."""

    offset: int
    view: memoryview
    mapping: mmap.mmap


class RegionMapping:
    """All areas of a region that may be mapped.  Takes ``fd`` over, also on failure; it is not needed afterwards.

    :ivar areas: in the order of their offsets.
    :raises RefusedError: there is none, or it is none that is safe to map.
    """

    def __init__(self, fd: int | None, info: RegionInfo, *, unsealed: bool = False) -> None:
        self.areas: tuple[MappedArea, ...] = ()
        if fd is None:
            raise RefusedError("the server gives no descriptor for this region: it can only be read and written")
        try:
            self._map(fd, info, unsealed=unsealed)
        except (OSError, ValueError, OverflowError) as error:
            self.close()
            raise RefusedError(f"the region cannot be mapped: {error}") from None
        except RefusedError:
            self.close()
            raise
        finally:
            os.close(fd)

    def _map(self, fd: int, info: RegionInfo, *, unsealed: bool) -> None:
        if not info.flags & RegionFlag.MMAP or not info.size:
            raise RefusedError("the region cannot be mapped: the server does not allow it")
        if not unsealed and not _cannot_shrink(fd):
            raise RefusedError("the region's memory could be taken away under us: expected a memfd that cannot shrink")
        length = os.fstat(fd).st_size
        access = mmap.PROT_READ | (mmap.PROT_WRITE if info.flags & RegionFlag.WRITE else 0)
        for offset, size in sorted(info.sparse) or [(0, info.size)]:
            at = info.offset + offset
            if offset + size > info.size or at + size > length or not size:
                raise RefusedError(
                    f"area of {size} bytes at {offset:#x}: region {info.size}, its memory {length} bytes"
                )
            mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, access, offset=at)
            self.areas = (*self.areas, MappedArea(offset, memoryview(mapping), mapping))

    def view(self, offset: int, size: int) -> memoryview:
        """Return these bytes of the region.

        :raises LocalError: they are not all in one mapped area.
        """
        for area in self.areas:
            if area.offset <= offset and offset + size <= area.offset + len(area.view):
                return area.view[offset - area.offset : offset - area.offset + size]
        raise LocalError(f"{size} bytes at {offset:#x} of the region are not mapped")

    def close(self) -> None:
        """Unmap, at the latest when nobody looks at it any more; idempotent."""
        areas, self.areas = self.areas, ()
        for area in areas:
            with contextlib.suppress(BufferError):
                area.view.release()
                area.mapping.close()


def _cannot_shrink(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False
