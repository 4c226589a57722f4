"""Runs life-cycle operations of mediated devices on the event loop: one task each, beside each other.

Spec: mdev 3.4.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Final, TypeVar

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_steps import Call, Op, Wait
from pvnet.papr.errno import ETIMEDOUT

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 30.0
"""Longest that an asynchronous callback of a vendor driver may take."""


async def run_operation(operation: Op[T]) -> T:
    """Run an operation to its end.

    Raises:
        MdevError: as the operation; a callback that does not return in time is given up (ETIMEDOUT in the operation).
    """
    try:
        step = next(operation)
        while True:
            if isinstance(step, Wait):
                step = operation.send(await _wait(step))
                continue
            try:
                result = await _call(step)
            except Exception as error:  # noqa: BLE001 - the operation decides what somebody else's failure means
                step = operation.throw(error)
            else:
                step = operation.send(result)
    except StopIteration as stop:
        returned: T = stop.value
        return returned
    finally:
        operation.close()  # cancelled: it gives back what it holds


async def _call(step: Call) -> object:
    result = step.function()
    if not inspect.isawaitable(result):
        return result
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await result
    except TimeoutError:
        raise MdevError(ETIMEDOUT, f"{step.what} took more than {CALL_TIMEOUT_S:g} s") from None


async def _wait(step: Wait) -> bool:
    """Wait for the condition or the end of patience; whether it holds."""
    loop = asyncio.get_running_loop()
    until = None
    if step.patience is not None:
        if step.patience.until is None:
            step.patience.until = loop.time() + step.patience.seconds
        until = step.patience.until
    changed = asyncio.Event()
    unsubscribe = step.changed.subscribe(changed.set)
    try:
        async with asyncio.timeout_at(until):
            while not step.holds():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return step.holds()
    finally:
        unsubscribe()
    return True
