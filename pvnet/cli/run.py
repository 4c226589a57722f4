"""How a verb runs on the event loop, and what every verb prints with."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Final, TypeVar

import typer

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
LabOption = Annotated[
    str | None, typer.Option("--lab", metavar="NAME", help="The running lab; needed only when there are several.")
]


def _number(value: float) -> float:
    if math.isnan(value):  # compares with nothing, so that no bound keeps it out
        raise typer.BadParameter("nan is not a number of seconds")
    return value


TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.001, max=86400, callback=_number, metavar="SECONDS", help="Longest wait, up to a day."
    ),
]
TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a verb that SIGTERM ended."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on uvloop; SIGTERM cancels it, so that it leaves its ``async with`` blocks in order.

    :raises typer.Exit: SIGTERM came; with :data:`TERMINATED`.
    """
    asked: list[int] = []
    try:
        import uvloop

        from pvnet.runtime.log import configure_logging

        configure_logging(level=os.environ.get("PVNET_LOG", "error"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_until_sigterm(main, asked))
    except BaseException:
        if asked:
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        main.close()  # Ctrl-C may have come before it began; Python would complain about that


async def _until_sigterm(main: Coroutine[Any, Any, T], asked: list[int]) -> T:
    """Await ``main``, cancelled at SIGTERM; ``asked`` is not empty then.

    Only the first one counts: ``timeout`` of coreutils sends two, and the second would cut the shutdown short.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        if not asked:
            asked.append(signal.SIGTERM)
            task.cancel()

    if threading.current_thread() is threading.main_thread():  # signals are its alone
        loop.add_signal_handler(signal.SIGTERM, end)
    return await main


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def say_json(value: object) -> None:
    """Print one JSON value on one line."""
    say(json.dumps(value))


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return ``rows`` as lines whose columns are aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
