"""Entering a network namespace for as long as it takes to open something there.

A TAP device belongs to the namespace in which it was made, and its file descriptor stays bound to it: enter, open,
return.  ``os.setns`` is only in Python 3.12, so libc is called.  It concerns the calling thread alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError, UnavailableError

NAMESPACES: Final = Path("/run/netns")
"""Where ``ip netns add`` keeps them."""
_CLONE_NEWNET: Final = 0x40000000


def namespace_path(namespace: str) -> Path:
    """Return the file of a namespace: a name as ``ip netns`` has it, or a path such as ``/proc/123/ns/net``."""
    return Path(namespace) if "/" in namespace else NAMESPACES / namespace


@contextmanager
def entered(namespace: str | None) -> Iterator[None]:
    """Do something inside ``namespace`` (``None``: where we are).  No ``await`` in between.

    Raises:
        UnavailableError: not permitted.
        ConfigError: no such namespace.
    """
    if namespace is None:
        yield
        return
    path = namespace_path(namespace)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"network namespace {namespace!r}: {path}: {error.strerror}; make it with: ip netns add NAME"
            ) from None
        try:
            _enter(there, namespace)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home, "where we came from")
    finally:
        os.close(home)


def _enter(fd: int, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise UnavailableError(f"network namespace {what!r}: entering needs root or CAP_SYS_ADMIN")
    raise ConfigError(f"network namespace {what!r}: {os.strerror(number)}")
