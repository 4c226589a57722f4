"""A child process and its end, for any event loop.

Uses ``subprocess`` and a pidfd instead of asyncio's own children: those depend on the loop's child watcher (threads in
one Python, SIGCHLD in another loop), while a pidfd is simply readable when the process has ended, and a signal sent
through it cannot hit a stranger who got the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pvnet.core.errors import UnreachableError

_LEAN: Final = {"OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""Environment of our own modules where it says nothing else: numpy here does no linear algebra, for which it would
start threads; and what may extend pydantic in a user's program has no place in a lab's, and is looked for at length."""


def start_time(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks since boot; None if there is no such process (or it is a zombie).

    The pair (pid, start time) names a process for ever; the pid alone is used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


class Gate:
    """What a child waits at: a pipe that ends when its standard input is filled (``--go`` of ``runtime.service``)."""

    def __init__(self, name: str) -> None:
        self.file = os.fdopen(os.memfd_create(f"pvnet-{name}"), "w+b")
        """The child's standard input; both sides share the position."""
        self.waits, self._opens = os.pipe()

    def open(self, stdin: bytes) -> None:
        """Let the child go on."""
        self.file.write(stdin)
        self.file.seek(0)
        self.close()

    def close(self) -> None:
        """Let go of both; idempotent."""
        self.file.close()
        if self._opens >= 0:
            os.close(self._opens)
            self._opens = -1


class Child:
    """One started process.  Made by :func:`spawn`; ``exited`` is set to its return code when it ends."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, gate: Gate | None = None
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.started = start_time(process.pid) or 0
        self.exited: asyncio.Future[int] = loop.create_future()
        self._process = process
        self._loop = loop
        self._gate = gate
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._ended)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as the loop has seen."""
        return not self.exited.done()

    def go(self, stdin: bytes) -> None:
        """Let a child that was spawned to wait begin, with this on its standard input."""
        gate, self._gate = self._gate, None
        assert gate is not None, "it was spawned to wait, and begins once"
        gate.open(stdin)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Wait for the end; return the return code (negative: the signal that ended it)."""
        return await asyncio.shield(self.exited)

    async def stop(self, timeout: float) -> int:
        """Ask it to end (SIGTERM), kill it after ``timeout`` seconds; return the return code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                return await self.wait()
        except TimeoutError:
            return await self.kill()
        except asyncio.CancelledError:
            self.signal(signal.SIGKILL)
            raise

    async def kill(self) -> int:
        """End it at once."""
        self.signal(signal.SIGKILL)
        return await self.wait()

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._gate is not None:
            self._gate.close()
        code = self._process.wait()  # does not wait: the pidfd said that it has ended
        if not self.exited.done():
            self.exited.set_result(code)


def spawn(
    name: str,
    program: Sequence[str],
    *,
    module: bool = False,
    log: Path,
    stdin: bytes | None = b"",
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a program that dies with us, in a session of its own, its output appended to ``log``.

    A session of its own keeps Ctrl-C in a terminal from reaching it: the order of shutdown is ours.  With ``module``
    the first word is a Python module, which runs in this interpreter's environment.  ``stdin`` is what it finds on its
    standard input: a place for secrets, which arguments are not.  None: the program is told ``--go FD``, loads what it
    needs and waits at that descriptor for :meth:`Child.go`.  Call it from the loop's thread.

    :raises UnreachableError: the program cannot be started.
    """
    how = "-m" if module else "--"
    gate = Gate(name)
    waiting = ("--go", str(gate.waits)) if stdin is None else ()
    command = [sys.executable, "-P", "-m", "pvnet.runtime.tether", str(os.getpid()), how, *program, *waiting]
    try:
        if stdin is not None:
            gate.file.write(stdin)
            gate.file.seek(0)  # flushes
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=gate.file,
                stdout=output,
                stderr=output,
                env={**(_LEAN if module else {}), **(os.environ if environment is None else environment)},
                start_new_session=True,
                pass_fds=() if stdin is not None else (gate.waits,),
            )
    except OSError as error:
        gate.close()
        raise UnreachableError(f"{name}: cannot start {program[0]}: {error.strerror}") from None
    finally:
        os.close(gate.waits)
    if stdin is not None:
        gate.close()
        return Child(name, process, asyncio.get_running_loop())
    return Child(name, process, asyncio.get_running_loop(), gate)


def exit_text(code: int) -> str:
    """Say a return code in words: ``exit code 3``, ``signal SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def last_lines(log: Path, count: int = 5, limit: int = 8192) -> list[str]:
    """Return the last lines of a log file, for an error message; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
