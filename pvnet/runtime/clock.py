"""Clocks: for measuring what takes less than a millisecond on an event loop, and for stamping messages.

uvloop's ``time()`` stands still within one turn and goes in steps of a millisecond.  Where the loop follows the
system's monotonic clock, that is read instead; a loop with a time of its own (``pvnet.testing.virtual_loop``) keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], tuple[int, int]]
"""Returns nanoseconds of a monotonic clock and of the wall clock (since 1970)."""
VIRTUAL_EPOCH_NS: Final = 1_000_000_000_000_000_000
"""Wall clock of a loop whose time begins at 0: the ninth of September 2001."""
_APART_S: Final = 1.0


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop has a time of its own."""
    return abs(loop.time() - time.monotonic()) >= _APART_S


def fine_clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock: seconds, the same origin as ``loop.time()`` to within its steps."""
    return loop.time if is_virtual(loop) else time.monotonic


def system_clock() -> tuple[int, int]:
    """Return the time of this machine."""
    return time.monotonic_ns(), time.time_ns()


def loop_clock(loop: asyncio.AbstractEventLoop) -> Clock:
    """Return the clock that fits a loop: the machine's, or for a loop with a time of its own that one."""
    if not is_virtual(loop):
        return system_clock

    def virtual() -> tuple[int, int]:
        now = round(loop.time() * 1e9)
        return now, VIRTUAL_EPOCH_NS + now

    return virtual
