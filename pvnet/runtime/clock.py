"""A clock for measuring what takes less than a millisecond on an event loop.

uvloop's ``time()`` stands still within one turn and goes in steps of a millisecond.  Where the loop follows the
system's monotonic clock, that is read instead; a loop with a time of its own (``pvnet.testing.virtual_loop``) keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

_APART_S: Final = 1.0


def fine_clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock: seconds, the same origin as ``loop.time()`` to within its steps."""
    return time.monotonic if abs(loop.time() - time.monotonic()) < _APART_S else loop.time
