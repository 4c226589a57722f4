"""An asyncio event loop whose clock is virtual: waiting costs nothing, and every run is the same.

The loop's time starts at 0 and jumps to the next timer whenever nothing is ready, so an hour of retries takes a
millisecond and no test depends on the speed of the machine.  Only for programs without real I/O (the loopback
transport): a loop that would wait for ever raises :class:`DeadlockError` naming the tasks that wait.

The dead-lock check is the point, not a nuisance: a lost wake-up shows as an error at once instead of as a time-out.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
_WORK_S = 0.001


class DeadlockError(RuntimeError):
    """Every task waits and no timer is set: nothing can ever happen again."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of sleeping for ``timeout``, moves the loop's clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            if self.loop.closing:
                return ready
            waiting = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(self.loop)))
            raise DeadlockError(f"nothing can happen any more; these tasks wait: {waiting}")
        self.loop.advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; ``time()`` is in virtual seconds."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self.closing = False
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        """Move the clock forward (the selector does)."""
        self._virtual_now += seconds

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Executor | None,  # noqa: ARG002
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        """Run ``func`` in this thread, a virtual millisecond from now: work of other threads has its order, too."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(_WORK_S, work)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Nothing runs in threads here."""
        self.closing = True


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a fresh virtual loop; like ``asyncio.run``."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
