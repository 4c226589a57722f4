"""What a user's file descriptors become: irq targets, memory; and memory of ours that users can map.

Nothing is believed of a descriptor that came from a peer: what it is, how long it is, what may be done with it are
asked of the kernel.  Memory is mapped only where it cannot go away (a memfd in ordinary pages that is sealed against
shrinking); any other regular file is reached by ``pread`` and ``pwrite``, where a truncation is an error and not the
end of this process.  Memory in huge pages is refused: it cannot be written but through a mapping, and a hole in it
that cannot be filled kills who touches it.

Every function takes its descriptor over, and closes it when it fails.

Spec: mdev 6.4, 9.3.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import stat
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.mdev.device import RegionMemory
from pvnet.mdev.errors import MdevError
from pvnet.mdev.user import DmaMemory, IrqTarget
from pvnet.papr.errno import EACCES, EBADF, EFAULT, EINVAL, ENOMEM
from pvnet.runtime.eventfd import EventFd
from pvnet.runtime.memfd import create_sealed

_READABLE: Final = (os.O_RDONLY, os.O_RDWR)
_WRITABLE: Final = (os.O_WRONLY, os.O_RDWR)


# --- irqs -------------------------------------------------------------------------------------------------------------


class EventFdTarget(IrqTarget):
    """An irq that rings an eventfd.

    The flag O_NONBLOCK belongs to both sides, and a client may well wait for its irq in a blocking read: it is left as
    it is.  Where it is not set, a write is made only if the counter has room; nobody but its owner can take that room
    away in between.
    """

    def __init__(self, eventfd: EventFd) -> None:
        self._eventfd = eventfd
        self._ready: select.poll | None = None
        if os.get_blocking(eventfd.fd):
            self._ready = select.poll()
            self._ready.register(eventfd.fd, select.POLLOUT)

    def signal(self) -> None:
        """Ring; one whose counter is at its end rings already."""
        if self._eventfd.fd >= 0 and (self._ready is None or self._ready.poll(0)):
            with contextlib.suppress(OSError):
                self._eventfd.ring()

    def close(self) -> None:
        """Let go; idempotent."""
        self._eventfd.close()


def irq_target(fd: int) -> EventFdTarget:
    """Make an irq target of an eventfd.

    :raises MdevError: EBADF, EINVAL it is something else.
    """
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - it is no path
    except OSError:
        raise MdevError(EBADF, f"descriptor {fd}") from None
    if not kind.startswith("anon_inode:[eventfd"):
        os.close(fd)
        raise MdevError(EINVAL, f"descriptor of a {kind[:40]!r}, expected an eventfd")
    return EventFdTarget(EventFd(fd))


# --- memory of the user -----------------------------------------------------------------------------------------------


class MappedDma(DmaMemory):
    """Memory that is mapped: ``view`` is the bytes themselves, read-only unless it may be written."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.view: memoryview | None = memoryview(mapping)

    def read(self, offset: int, length: int) -> bytes:
        """Copy out."""
        view = self._bytes(offset, length)
        return bytes(view[offset : offset + length])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy in."""
        view = self._bytes(offset, len(data))
        if view.readonly:
            raise MdevError(EFAULT, "memory that is only read")
        view[offset : offset + len(data)] = data

    def _bytes(self, offset: int, length: int) -> memoryview:
        if self.view is None or offset < 0 or length < 0 or offset + length > len(self.view):
            raise MdevError(EFAULT, f"{length} bytes at {offset:#x} of mapped memory")
        return self.view

    def close(self) -> None:
        """Unmap, at the latest when nobody looks at it any more; idempotent."""
        view, self.view = self.view, None
        if view is not None:
            with contextlib.suppress(BufferError):
                view.release()
                self._mapping.close()


class FileDma(DmaMemory):
    """Memory that is reached through its file; owns the descriptor.  Offsets within the file begin at ``start``."""

    view: memoryview | None = None

    def __init__(self, fd: int, start: int, size: int, *, writable: bool) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._writable = writable

    def read(self, offset: int, length: int) -> bytes:
        """Copy out."""
        at = self._at(offset, length)
        pieces = []
        while length:
            try:
                piece = os.pread(self._fd, length, at)
            except OSError as error:
                raise MdevError(EFAULT, f"memory at {offset:#x}: {error.strerror or error}") from None
            if not piece:
                raise MdevError(EFAULT, f"memory at {offset:#x}: its file has become shorter")
            pieces.append(piece)
            at += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy in."""
        at = self._at(offset, len(data))
        if not self._writable:
            raise MdevError(EFAULT, "memory that is only read")
        left = memoryview(data)
        try:
            if os.fstat(self._fd).st_size < at + len(left):
                raise MdevError(EFAULT, f"memory at {offset:#x}: its file has become shorter")
            while left:
                count = os.pwrite(self._fd, left, at)
                at += count
                left = left[count:]
        except OSError as error:
            raise MdevError(EFAULT, f"memory at {offset:#x}: {error.strerror or error}") from None

    def _at(self, offset: int, length: int) -> int:
        if self._fd < 0 or offset < 0 or length < 0 or offset + length > self._size:
            raise MdevError(EFAULT, f"{length} bytes at {offset:#x} of a file's memory")
        return self._start + offset

    def close(self) -> None:
        """Let go; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def dma_memory(fd: int, offset: int, size: int, *, writable: bool) -> DmaMemory:
    """Make memory of the ``size`` bytes from ``offset`` of a file.

    :raises MdevError: EBADF; EINVAL not a regular file, in huge pages, or too short; EACCES opened without the right to
        read, or to write what is to be written; ENOMEM.
    """
    try:
        _check_memory(fd, offset, size, writable=writable)
        if not _cannot_shrink(fd) or offset % mmap.ALLOCATIONGRANULARITY:
            memory = FileDma(fd, offset, size, writable=writable)
            fd = -1
            return memory
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return MappedDma(mmap.mmap(fd, size, mmap.MAP_SHARED, access, offset=offset))
    except (OSError, OverflowError, ValueError) as error:
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        code = EACCES if isinstance(error, PermissionError) else ENOMEM
        raise MdevError(code, f"memory of {size} bytes cannot be mapped: {text}") from None
    finally:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _check_memory(fd: int, offset: int, size: int, *, writable: bool) -> None:
    try:
        status = os.fstat(fd)
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        page = os.fstatvfs(fd).f_bsize
    except OSError:
        raise MdevError(EBADF, f"descriptor {fd}") from None
    if not stat.S_ISREG(status.st_mode):
        raise MdevError(EINVAL, "a descriptor that is no memory: expected a memfd or a regular file")
    if _is_memfd(fd) and page != mmap.PAGESIZE:
        raise MdevError(EINVAL, f"memory in pages of {page} bytes: expected {mmap.PAGESIZE}")
    if offset < 0 or size < 1 or offset + size > status.st_size:
        raise MdevError(EINVAL, f"a file of {status.st_size} bytes: expected {size} from {offset:#x}")
    if access not in _READABLE or (writable and access not in _WRITABLE):
        raise MdevError(EACCES, "a descriptor without the right to " + ("write" if access in _READABLE else "read"))


def _is_memfd(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def _cannot_shrink(fd: int) -> bool:
    return _is_memfd(fd) and bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)


# --- memory of ours ---------------------------------------------------------------------------------------------------


class SharedMemory(RegionMemory):
    """Zeroed memory behind a region, in a sealed memfd.

    :ivar fd: to share it by; stays ours.
    :raises MdevError: ENOMEM.
    """

    def __init__(self, name: str, size: int) -> None:
        self.size = max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
        try:
            self._mapping, self.fd = create_sealed(self.size, name)
        except ConfigError as error:
            raise MdevError(ENOMEM, str(error)) from None
        self.view = memoryview(self._mapping)

    def close(self) -> None:
        """Let go; mappings of users live on.  Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with contextlib.suppress(BufferError):
                self.view.release()
                self._mapping.close()
