"""Raw ends for tests of pvnet.vfio: a loop of either kind, descriptors counted, messages made by hand."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def _nothing() -> None:
    pass


uvloop.run(_nothing())  # libuv opens what a process needs once, and keeps it


def open_fds() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the one that listed
            continue
    return found


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if there are other descriptors open at the end than at the beginning."""
    before = open_fds()
    yield
    after = open_fds()
    new = {fd: what for fd, what in after.items() if before.get(fd) != what}
    gone = {fd: what for fd, what in before.items() if fd not in after}
    assert (new, gone) == ({}, {})


def run_on(kind: str, main: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 30.0) -> None:
    """Run ``main`` on a loop of that kind; nothing stays open, and no callback has failed."""
    failures: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(timeout_s):
            await main()
        await turns()

    with no_leaks(), asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(watched())
    assert failures == []


async def turns(count: int = 5) -> None:
    """Let the loop take some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that other callbacks bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.002)


def message(command: int, payload: bytes = b"", *, ident: int = 1, flags: int = 0, size: int | None = None) -> bytes:
    """A message; ``size`` lies about its length."""
    return struct.pack("<HHIII", ident, command, 16 + len(payload) if size is None else size, flags, 0) + payload


def send_with(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """One ``sendmsg``."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], rights)


def identity(fd: int) -> tuple[int, int]:
    """What a descriptor stands for, whatever its number."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def memfd(size: int, *, seals: int | None = None, name: str = "vfio-io-test") -> int:
    """A memory file, sealed if told to."""
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals is not None:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
