"""What Python itself and uvloop offer between two processes: a pipe, a unix stream, and the bare eventfd.

The eventfd carries no message.  Two processes that wake each other with nothing but an eventfd each are the floor of
any round trip that sleeps.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any, Final, cast

import uvloop

from pvnet.bench.blocking_end import BlockingEnd
from pvnet.bench.messages import BATCHES, MESSAGE_BYTES, MESSAGES, PERIOD, wrong_ones
from pvnet.bench.pair_end import Received, Told
from pvnet.core.errors import LocalError


class PipeEnd(BlockingEnd):
    """``multiprocessing.Pipe()``: one message per ``send_bytes``, blocking.  Told the fd of its end."""

    def __init__(self, told: Told) -> None:
        fd = told.fds[0 if told.first else 1]
        pipe: Connection[Any, Any] = Connection(fd, readable=not (told.one_way and told.first))
        super().__init__(pipe.send_bytes, pipe.recv_bytes)
        self._pipe = pipe  # closed with its last reference

    def facts(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}


class EventfdEnd:
    """A blocking eventfd for each direction.  Told both: the asker's first."""

    def __init__(self, told: Told) -> None:
        asker, answerer = told.fds
        self._mine, self._theirs = (asker, answerer) if told.first else (answerer, asker)

    def send(self, count: int, batch: int) -> float:  # noqa: ARG002 - the shape of every end
        """Not offered: there is no message.

        :raises LocalError: always.
        """
        raise LocalError("an eventfd carries no messages: it can only be asked and answered")

    def receive(self, count: int, batch: int) -> Received:  # noqa: ARG002 - the shape of every end
        """Not offered: there is no message.

        :raises LocalError: always.
        """
        raise LocalError("an eventfd carries no messages: it can only be asked and answered")

    def ask(self, count: int) -> tuple[list[float], int]:
        """Wake the other and wait to be woken, so many times."""
        mine, theirs, clock = self._mine, self._theirs, time.perf_counter
        read, write = os.eventfd_read, os.eventfd_write
        times, wrong = [], 0
        for _ in range(count):
            start = clock()
            write(theirs, 1)
            value = read(mine)
            times.append(clock() - start)
            wrong += value != 1
        return times, wrong

    def answer(self, count: int) -> None:
        """Wake the asker each time."""
        mine, theirs = self._mine, self._theirs
        for _ in range(count):
            os.eventfd_write(theirs, os.eventfd_read(mine))

    def facts(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}


class _Stream(asyncio.Protocol):
    """Cuts the stream into messages; ``on_messages`` gets each piece's."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.on_messages: Any = None
        self._rest = b""
        self._may_write: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        whole = len(data) - len(data) % MESSAGE_BYTES
        self._rest = data[whole:]
        if whole == MESSAGE_BYTES:
            self.on_messages([data[:whole]])
        elif whole:
            self.on_messages([data[at : at + MESSAGE_BYTES] for at in range(0, whole, MESSAGE_BYTES)])

    def pause_writing(self) -> None:
        self._may_write = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        waiting, self._may_write = self._may_write, None
        if waiting is not None:
            waiting.set_result(None)

    @property
    def full(self) -> asyncio.Future[None] | None:
        """Done when there is room again; None when there is."""
        return self._may_write


_AT_ONCE: Final = PERIOD


class UvloopEnd:
    """A unix stream under uvloop: ``Protocol``, messages of 64 bytes back to back.  Told the fd of its end.

    A batch is written with one ``writelines``; single messages with one ``write`` each.
    """

    def __init__(self, told: Told) -> None:
        self._loop = uvloop.new_event_loop()
        end = socket.socket(fileno=told.fds[0 if told.first else 1])
        end.setblocking(False)
        _, self._stream = self._loop.run_until_complete(self._loop.create_unix_connection(_Stream, sock=end))

    def send(self, count: int, batch: int) -> float:
        """Write as much as the transport takes before it asks to pause."""
        return self._loop.run_until_complete(self._send(count, batch))

    async def _send(self, count: int, batch: int) -> float:
        stream = self._stream
        write, write_lines = stream.transport.write, stream.transport.writelines
        start = time.perf_counter()
        for number in range(count // batch):
            if batch == 1:
                write(MESSAGES[number % PERIOD])
            else:
                write_lines(BATCHES[number % len(BATCHES)])
            if (room := stream.full) is not None:
                await room
        while stream.transport.get_write_buffer_size():  # noqa: ASYNC110 - there is no event for "all is written"
            await asyncio.sleep(0)
        return start

    def receive(self, count: int, batch: int) -> Received:  # noqa: ARG002 - a stream has no batches
        """Check the messages of each piece of the stream."""
        finished: asyncio.Future[float] = self._loop.create_future()
        received = wrong = 0

        def on_messages(messages: list[bytes]) -> None:
            nonlocal received, wrong
            for first in range(0, len(messages), _AT_ONCE):
                piece = messages[first : first + _AT_ONCE]
                wrong += wrong_ones(piece, received)
                received += len(piece)
            if received == count:
                finished.set_result(time.perf_counter())

        self._stream.on_messages = on_messages
        return Received(self._loop.run_until_complete(finished), wrong)

    def ask(self, count: int) -> tuple[list[float], int]:
        """The next message is written where the answer to the one before arrives."""
        finished: asyncio.Future[None] = self._loop.create_future()
        clock, write = time.perf_counter, self._stream.transport.write
        start = clock()
        times: list[float] = []
        wrong = 0

        def on_messages(messages: list[bytes]) -> None:
            nonlocal start, wrong
            times.append(clock() - start)
            number = len(times)
            wrong += messages != [MESSAGES[(number - 1) % PERIOD]]
            if number == count:
                finished.set_result(None)
                return
            start = clock()
            write(MESSAGES[number % PERIOD])

        self._stream.on_messages = on_messages
        start = clock()
        self._loop.call_soon(write, MESSAGES[0])
        self._loop.run_until_complete(finished)
        return times, wrong

    def answer(self, count: int) -> None:
        """Write each back where it arrives."""
        finished: asyncio.Future[None] = self._loop.create_future()
        left = count

        def on_messages(messages: list[bytes]) -> None:
            nonlocal left
            self._stream.transport.writelines(messages)
            left -= len(messages)
            if left == 0:
                finished.set_result(None)

        self._stream.on_messages = on_messages
        self._loop.run_until_complete(finished)

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"uvloop": metadata.version("uvloop")}
