"""Calls from the threads of libfuse into the event loop.

A thread hands over a coroutine and sleeps until it has ended.  The loop never waits for a thread, so the two cannot
wait for each other; and when the mount ends every thread that sleeps is answered, as is each that comes later.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from pvnet.client import fuse_native
from pvnet.core.errors import DeviceError, PvnetError

T = TypeVar("T")

MAX_THREADS: Final = 512
"""Threads of libfuse."""
MAX_SLEEPERS: Final = 448
"""Calls that may sleep without an end at once; the other threads are for those that must go on: beyond it ENOMEM."""


def never() -> bool:
    """Return whether a call that nothing interrupts is interrupted."""
    return False


class _Call(Generic[T]):
    """One call: made in its thread, run in the loop."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.start = start
        self.task: asyncio.Task[T] | None = None
        self.result: list[T] = []
        self.errno = errno.ENODEV
        self.event = os.eventfd(0, os.EFD_CLOEXEC)

    def done(self, task: asyncio.Task[T]) -> None:
        """Answer with what came out."""
        if task.cancelled():
            pass  # errno says why
        elif (error := task.exception()) is not None:
            self.errno = errno_of(error)
        else:
            self.result.append(task.result())
        os.eventfd_write(self.event, 1)

    def refuse(self) -> None:
        """Answer that the device is gone."""
        os.eventfd_write(self.event, 1)


def errno_of(error: BaseException) -> int:
    """Return the errno that tells a program of ``error``: a device whose partition is gone is ENODEV."""
    match error:
        case DeviceError():
            return error.errno or errno.EIO
        case PvnetError():
            return errno.ENODEV
        case OSError():
            return error.errno or errno.EIO
    return errno.EIO


class Bridge:
    """See the module's text.  Made, and closed, in the loop."""

    def __init__(self, log: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._calls: set[_Call[Any]] = set()
        self._sleepers = 0
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Answer every call ENODEV, those that come later, too."""
        self._closed = True
        for call in self._calls:
            if call.task is not None:
                call.task.cancel()

    @property
    def under_way(self) -> int:
        """How many calls the loop works on."""
        return len(self._calls)

    # In the threads

    def call(self, start: Callable[[], Coroutine[Any, Any, T]], *, interrupted: Callable[[], bool] | None = None) -> T:
        """Run a coroutine in the loop and return what it returns.

        With ``interrupted`` it may sleep without an end: it is cancelled when a signal came and that says yes.

        Raises:
            OSError: EINTR (interrupted), ENODEV (the mount ends, or the partition is gone), ENOMEM (too many sleep),
                and whatever the coroutine raises.
        """
        if interrupted is None:
            return self._run(start, never)
        with self._lock:
            if self._sleepers >= MAX_SLEEPERS:
                raise OSError(errno.ENOMEM, "too many calls sleep")
            self._sleepers += 1
        try:
            return self._run(start, interrupted)
        finally:
            with self._lock:
                self._sleepers -= 1

    def _run(self, start: Callable[[], Coroutine[Any, Any, T]], interrupted: Callable[[], bool]) -> T:
        call = _Call(start)
        try:
            self.post(self._begin, call)
        except OSError:
            os.close(call.event)
            raise
        if not fuse_native.wait(call.event, interrupted):
            self.post(self._interrupt, call)
            fuse_native.wait(call.event, never)
        os.close(call.event)  # not before the loop has written it
        if call.result:
            return call.result[0]
        raise OSError(call.errno, os.strerror(call.errno))

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run ``function`` in the loop, some time; OSError (ENODEV) when there is none any more."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None

    # In the loop

    def _begin(self, call: _Call[Any]) -> None:
        if self._closed:
            call.refuse()
            return
        self._calls.add(call)
        call.task = self._loop.create_task(call.start(), name="fuse-call")
        call.task.add_done_callback(lambda task: self._end(call, task))

    def _end(self, call: _Call[Any], task: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (PvnetError, OSError)):
            self._log.error("fuse_call_failed", exc_info=error)
        call.done(task)

    def _interrupt(self, call: _Call[Any]) -> None:
        if call.task is not None and not call.task.done():
            call.errno = errno.EINTR
            call.task.cancel()
