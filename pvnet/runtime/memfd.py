"""Memory of a partition: an anonymous file that can be mapped by others and cannot change its size under them.

Sealed against shrinking, growing and further seals: a peer that maps it is safe from a truncation (SIGBUS).  Who gets
such a file from a peer checks exactly that before it maps it (:func:`map_sealed`).  What the peer writes into it, and
when, is still the peer's affair: copy first, then validate the copy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from pvnet.core.errors import ConfigError, RefusedError

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def sealed_memory(size_bytes: int, name: str) -> mmap.mmap:
    """Return a shared, zeroed, sealed mapping of ``size_bytes``; the file lives as long as the mapping.

    Raises:
        ConfigError: this much memory cannot be had.
    """
    memory, fd = create_sealed(size_bytes, name)
    os.close(fd)
    return memory


def create_sealed(size_bytes: int, name: str) -> tuple[mmap.mmap, int]:
    """Return a mapping as :func:`sealed_memory`, and the file descriptor to share it by, which the caller closes.

    Raises:
        ConfigError: this much memory cannot be had.
    """
    fd = -1
    try:
        fd = os.memfd_create(f"pvnet-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return mmap.mmap(fd, size_bytes), fd
    except (OSError, OverflowError, ValueError) as error:
        if fd >= 0:
            os.close(fd)
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"memory of {size_bytes} bytes for {name}: {text}") from None


def map_sealed(fd: int, size_bytes: int) -> mmap.mmap:
    """Map a file that a peer has shared, readable and writable; ``fd`` stays the caller's to close.

    Raises:
        RefusedError: it is not a sealed memory file of exactly ``size_bytes`` in ordinary pages, or cannot be mapped.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise RefusedError("shared memory is not a memory file: expected a sealed memfd") from None
    if seals & _SEALS != _SEALS:
        raise RefusedError(f"shared memory has seals {seals:#x}: expected at least {_SEALS:#x} (shrink, grow, seal)")
    size = os.fstat(fd).st_size
    if size != size_bytes or size == 0:
        raise RefusedError(f"shared memory of {size} bytes: expected {size_bytes}")
    page = os.fstatvfs(fd).f_bsize
    if page != mmap.PAGESIZE:  # the peer can make a hole, and there may be no huge page to fill it again: SIGBUS
        raise RefusedError(f"shared memory in pages of {page} bytes: expected {mmap.PAGESIZE}")
    try:
        return mmap.mmap(fd, size_bytes)
    except (OSError, ValueError) as error:
        raise RefusedError(f"shared memory of {size_bytes} bytes cannot be mapped: {error}") from None
