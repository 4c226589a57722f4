"""The plainest answerer on one machine: a unix stream under uvloop, to another process that sends all of it back.

``python -m pvnet.bench.unix_peer`` listens where its standard input says; :class:`UnixStreamContender` starts it and
asks.  Messages have a fixed length, so that no framing costs anything, and nothing is decoded: a number in the first 8
bytes says which answer is whose, and each call waits for a future, as a program's calls do.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self, cast

from pvnet.bench.peer_process import peer_process
from pvnet.bench.rounds import Round, keep_in_flight

_NUMBER_BYTES: Final = 8


class _Answers(asyncio.Protocol):
    """Cuts the stream into messages and hands each to the call with its number."""

    def __init__(self, size: int) -> None:
        self.transport: asyncio.Transport
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._size = size
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        size = self._size
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        for at in range(0, whole, size):
            message = data[at : at + size]
            answer = self.waiting.pop(message[:_NUMBER_BYTES], None)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def connection_lost(self, error: Exception | None) -> None:
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(error or ConnectionResetError("the answerer has ended"))


class UnixStreamContender:
    """The asking side, with messages of ``size`` bytes each way."""

    name = "uvloop-unix"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, size: int) -> None:
        self._size = max(size, _NUMBER_BYTES)
        self._rest = bytes(self._size - _NUMBER_BYTES)
        self._stack = AsyncExitStack()
        self._answers: _Answers

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pvnet-bench-"))
            path = str(Path(directory) / "s")
            await stack.enter_async_context(peer_process("pvnet.bench.unix_peer", path))
            loop = asyncio.get_running_loop()
            transport, self._answers = await loop.create_unix_connection(lambda: _Answers(self._size), path)
            stack.callback(transport.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def round(self, count: int, in_flight: int) -> Round:
        """Send ``count`` messages with ``in_flight`` under way; every answer has to be what was sent."""
        answers, rest = self._answers, self._rest
        write, waiting = answers.transport.write, answers.waiting
        create_future = asyncio.get_running_loop().create_future

        async def call(number: int) -> bool:
            key = number.to_bytes(_NUMBER_BYTES)
            answer = waiting[key] = create_future()
            message = key + rest
            write(message)
            return bool(await answer == message)

        return await keep_in_flight(call, count, in_flight)


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def serve(path: str) -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_unix_server(_Echo, path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.stdin.readline().strip()))
