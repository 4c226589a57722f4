"""Tests that run on asyncio's own loop and on uvloop: services use the one, their users maybe the other."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable

import pytest
import uvloop


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine test once per kind of loop."""

    @functools.wraps(test)
    def run(*, loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: object) -> None:
        async def main() -> None:
            await test(**fixtures)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)
