"""How a verb runs on the event loop, and what every verb prints with."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
LabOption = Annotated[
    str | None, typer.Option("--lab", metavar="NAME", help="The running lab; needed only when there are several.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.001, help="Longest wait in seconds.")]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on uvloop."""
    import uvloop

    from pvnet.runtime.log import configure_logging

    configure_logging(level=os.environ.get("PVNET_LOG", "error"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


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
