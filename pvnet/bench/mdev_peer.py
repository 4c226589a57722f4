"""The plainest server of accesses: a unix stream under uvloop whose other end answers so many bytes with so many.

``python -m pvnet.bench.mdev_peer`` listens where its standard input says (path, bytes of a request, bytes of a reply);
:class:`PlainAccessContender` starts it and asks.  Both ends use a raw socket with ``add_reader``, as a server must that
takes file descriptors; nothing is decoded and nothing is checked but a number in the first 4 bytes that says which
answer is whose.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

from pvnet.bench.peer_process import peer_process
from pvnet.bench.rounds import Round, keep_in_flight

_NUMBER_BYTES: Final = 4
_BUFFER_BYTES: Final = 1 << 16


class PlainAccessContender:
    """The asking side."""

    name = "uvloop-unix"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, request_bytes: int, reply_bytes: int) -> None:
        self._request = bytes(request_bytes - _NUMBER_BYTES)
        self._reply_bytes = reply_bytes
        self._stack = AsyncExitStack()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._rest = b""
        self._create_future = asyncio.get_running_loop().create_future
        self._sock: socket.socket
        self._send: Callable[[bytes], int]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pvnet-bench-"))
            path = str(Path(directory) / "s")
            told = f"{path} {_NUMBER_BYTES + len(self._request)} {self._reply_bytes}"
            await stack.enter_async_context(peer_process("pvnet.bench.mdev_peer", told))
            self._sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._sock.connect(path)
            self._sock.setblocking(False)
            self._send = self._sock.send
            loop = asyncio.get_running_loop()
            loop.add_reader(self._sock.fileno(), self._readable)
            stack.callback(loop.remove_reader, self._sock.fileno())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_BUFFER_BYTES)
            if not data:
                raise ConnectionResetError("the answerer has ended")
        except BlockingIOError:
            return
        except OSError as error:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)
            return
        size = self._reply_bytes
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        for at in range(0, whole, size):
            message = data[at : at + size]
            answer = self._waiting.pop(message[:_NUMBER_BYTES])
            if not answer.done():
                answer.set_result(message)

    async def call(self, number: int) -> bool:
        """Make one access; the answer has to begin as what was asked."""
        key = number.to_bytes(_NUMBER_BYTES)
        answer = self._waiting[key] = self._create_future()
        self._send(key + self._request)
        return bool((await answer)[:_NUMBER_BYTES] == key)

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` accesses with ``in_flight`` under way."""
        return await keep_in_flight(self.call, count, in_flight)


class _Answerer:
    """The answering side of one connection."""

    def __init__(self, sock: socket.socket, request_bytes: int, reply_bytes: int) -> None:
        self._sock = sock
        self._size = request_bytes
        self._answer = bytes(reply_bytes - _NUMBER_BYTES)
        self._rest = b""
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        data = self._sock.recv(_BUFFER_BYTES)
        if not data:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            return
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % self._size
        self._rest = data[whole:]
        for at in range(0, whole, self._size):
            self._sock.send(data[at : at + _NUMBER_BYTES] + self._answer)


async def serve(path: str, request_bytes: int, reply_bytes: int) -> None:
    """Answer until killed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setblocking(False)
        _Answerer(sock, request_bytes, reply_bytes)


if __name__ == "__main__":
    import uvloop

    where, *sizes = sys.stdin.readline().split()
    uvloop.run(serve(where, *map(int, sizes)))
