"""The other half of a peer: a Python module in a process of its own, as the other half of pvnet is one.

It is told what it needs on its standard input, where a broker's password does not show in the list of processes, says
one line when it serves, and ends with us, however we end.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pvnet.core.errors import UnreachableError

_START_S: Final = 20.0
_STOP_S: Final = 5.0


@asynccontextmanager
async def peer_process(module: str, told: str = "") -> AsyncIterator[str]:
    """Start ``python -m module``, yield the line that it says when it serves, and end it.

    :raises UnreachableError: it ended or said nothing for 20 s.
    """
    # A session of its own: Ctrl-C in a terminal is ours to pass on.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pvnet.runtime.tether", str(os.getpid()), "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(told.encode() + b"\n")
        process.stdin.close()
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _START_S)
        except TimeoutError:
            line = b""
        if not line:
            raise UnreachableError(f"{module} did not start")
        yield line.decode().strip()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
