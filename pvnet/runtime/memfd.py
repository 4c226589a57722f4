"""Memory of a partition: an anonymous file that can be mapped by others and cannot change its size under them.

Sealed against shrinking, growing and further seals: a peer that maps it is safe from a truncation (SIGBUS).
"""

from __future__ import annotations

import fcntl
import mmap
import os

from pvnet.core.errors import ConfigError


def sealed_memory(size_bytes: int, name: str) -> mmap.mmap:
    """Return a shared, zeroed, sealed mapping of ``size_bytes``; the file lives as long as the mapping.

    Raises:
        ConfigError: this much memory cannot be had.
    """
    fd = os.memfd_create(f"pvnet-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return mmap.mmap(fd, size_bytes)
    except OSError as error:
        raise ConfigError(f"memory of {size_bytes} bytes for {name}: {error.strerror}") from None
    finally:
        os.close(fd)
