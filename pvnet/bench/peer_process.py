"""The other half of a peer: a Python module in a process of its own, as the other half of pvnet is one.

It is told what it needs on its standard input, where a broker's password does not show in the list of processes, says
one line when it serves, and ends with us, however we end.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from pvnet.core.errors import UnreachableError

_START_S: Final = 20.0
_STOP_S: Final = 5.0


class PeerProcess:
    """A process that is told lines and answers with lines.  Made by :func:`talking_process`."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self.module = module
        self.pid = process.pid
        self._process = process

    def tell(self, line: str) -> None:
        """Say one line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def hear(self, timeout: float) -> str:
        """Return its next line.

        :raises UnreachableError: it ended, or said nothing for ``timeout`` seconds.
        """
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise UnreachableError(f"{self.module} said nothing for {timeout:g} s") from None
        if not line:
            raise UnreachableError(f"{self.module} ended")
        return line.decode().strip()

    def hear_no_more(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()


@asynccontextmanager
async def talking_process(module: str, *, pass_fds: Sequence[int] = ()) -> AsyncIterator[PeerProcess]:
    """Start ``python -m module``, which keeps ``pass_fds`` under the same numbers, and end it."""
    # A session of its own: Ctrl-C in a terminal is ours to pass on.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pvnet.runtime.tether", str(os.getpid()), "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    try:
        yield PeerProcess(module, process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def peer_process(module: str, told: str = "", *, pass_fds: Sequence[int] = ()) -> AsyncIterator[str]:
    """Start ``python -m module``, yield the line that it says when it serves, and end it.

    :raises UnreachableError: it ended or said nothing for 20 s.
    """
    async with talking_process(module, pass_fds=pass_fds) as process:
        process.tell(told)
        process.hear_no_more()
        try:
            line = await process.hear(_START_S)
        except UnreachableError:
            raise UnreachableError(f"{module} did not start") from None
        yield line
