"""The frame of a hostile peer: a process that forks a new life, that is a new incarnation, for each line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from pvnet.runtime.log import configure_logging

Life = Callable[[str, str, str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Takes broker, lab, name and orders; returns what it counted."""


def die() -> None:
    """kill -9, from within."""
    os.kill(os.getpid(), signal.SIGKILL)


def serve(life: Life) -> None:
    """Carry out lines of standard input; see the module's text."""
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        orders = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(life, orders)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            print(json.dumps({"died": os.WTERMSIG(status)}), flush=True)


def _live(life: Life, orders: dict[str, Any]) -> None:
    configure_logging(level="error")
    broker, lab, name = sys.argv[1:]

    async def main() -> dict[str, Any]:
        return await life(broker, lab, name, orders)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            counts = runner.run(main())
        print(json.dumps({"done": orders["attack"], **counts}), flush=True)
    except BaseException as error:  # noqa: BLE001 - the test that gave the order wants to know
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
    finally:
        os._exit(0)
