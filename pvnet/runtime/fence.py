"""A full memory fence from Python: no load after it is satisfied before the stores before it are visible.

CPython has no such operation, so something that contains one is called:

* On **x86** acquiring a free lock is one locked instruction, which drains the store buffer; acquiring and releasing a
  ``threading.Lock`` costs 0.12 µs, the cheapest of all that were measured (ctypes 0.3, a system call 0.2 to 0.35).
  The lock is this thread's own in effect: nobody holds it across anything, so ``acquire`` does not wait; if another
  thread is caught between the two calls it waits for that, which is a fence too.
* On **other machines** an acquire only keeps later accesses behind it and a release only earlier ones before it: a pair
  is not a full fence.  There ``atomic_thread_fence(memory_order_seq_cst)`` of libatomic is called through ctypes.
  Without that library a system call would have to do, and ``os.eventfd_write`` to an eventfd of our own is used: the
  kernel takes and releases a spin lock in it, on a path that Linux itself relies on to order with a sleeper.

Spec: vbus 5.4 (what was measured, and what an absent fence costs).
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from typing import Final

from pvnet.ring.layout import Fence

SEQUENTIALLY_CONSISTENT: Final = 5
"""``memory_order_seq_cst``."""


def lock_fence() -> Fence:
    """A fence for x86: one locked instruction."""
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def fence() -> None:
        acquire()
        release()

    return fence


def atomic_fence() -> Fence | None:
    """A fence for any machine, if libatomic is there."""
    try:
        function = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = None

    def fence() -> None:
        function(SEQUENTIALLY_CONSISTENT)

    return fence


def eventfd_fence() -> Fence:
    """A fence for any Linux: a system call that takes and releases a lock of the kernel's."""
    write, read, fd = os.eventfd_write, os.eventfd_read, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fence() -> None:
        write(fd, 1)
        read(fd)

    return fence


def choose(machine: str) -> Fence:
    """The cheapest fence that is a full one on ``machine`` (as ``platform.machine()`` names it)."""
    if machine.lower() in {"x86_64", "amd64", "i386", "i586", "i686"}:
        return lock_fence()
    return atomic_fence() or eventfd_fence()


full_fence: Final[Fence] = choose(platform.machine())
"""The fence of this machine."""
