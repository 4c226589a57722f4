"""Our end of a pair: a :class:`~pvnet.runtime.ring_channel.RingChannel` on uvloop, used as its documentation says.

The first end makes the channel and passes its descriptors to the second over a socket that both inherit.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any, Final

import uvloop

from pvnet.bench.arrays import batch_arrays
from pvnet.bench.messages import BATCHES, MESSAGE_BYTES, MESSAGES, PERIOD, wrong_ones, wrong_rows
from pvnet.bench.pair_end import Received, Told
from pvnet.runtime.ring_channel import SPIN_SECONDS, ChannelOffer, RingChannel

COUNT: Final = 2048
_SILENCE_S: Final = 20.0
_TEXT_BYTES: Final = 256


class RingEnd:
    """See the module's text.  Options: ``spin``: it may spin before it sleeps; ``arrays``: batches are numpy arrays."""

    def __init__(self, told: Told) -> None:
        self._arrays = bool(told.options.get("arrays"))
        self._loop = uvloop.new_event_loop()
        spin = SPIN_SECONDS if told.options.get("spin") else 0.0
        with socket.socket(fileno=told.fds[0 if told.first else 1]) as between:
            if told.first:
                self._channel = RingChannel.create(
                    count=COUNT, slot_bytes=MESSAGE_BYTES, peer_pid=told.peer_pid, spin_seconds=spin
                )
                offer = self._channel.offer
                socket.send_fds(between, [offer.to_text().encode()], offer.fds)
            else:
                text, fds, _, _ = socket.recv_fds(between, _TEXT_BYTES, 3)
                offer = replace(ChannelOffer.from_text(text.decode()), fds=(fds[0], fds[1], fds[2]))
                self._channel = RingChannel.attach(offer, peer_pid=told.peer_pid, spin_seconds=spin)

    def send(self, count: int, batch: int) -> float:
        """Send without waiting while there is room."""
        send = self._send_arrays if self._arrays else self._send
        return self._loop.run_until_complete(send(count, batch))

    async def _send_arrays(self, count: int, batch: int) -> float:
        arrays, channel = batch_arrays(), self._channel
        send_array = channel.send_array
        start = time.perf_counter()
        for number in range(count // batch):
            messages = arrays[number % len(arrays)]
            sent = send_array(messages)
            if sent < batch:
                await channel.send([row.tobytes() for row in messages[sent:]])
        return start

    async def _send(self, count: int, batch: int) -> float:
        send_batch, send = self._channel.send_batch, self._channel.send
        start = time.perf_counter()
        for number in range(count // batch):
            messages = [MESSAGES[number % PERIOD]] if batch == 1 else BATCHES[number % len(BATCHES)]
            sent = send_batch(messages)
            if sent < batch:
                await send(messages[sent:])
        return start

    def receive(self, count: int, batch: int) -> Received:
        """Take out at most a batch per call; what does not come is wrong."""
        receive = self._receive_arrays if self._arrays else self._receive
        received, wrong = self._loop.run_until_complete(self._until_silence(receive, count, batch))
        return Received(time.perf_counter(), wrong + count - received)

    async def _receive(self, count: int, batch: int, seen: list[int]) -> None:
        recv = self._channel.recv
        while seen[0] < count:
            messages = await recv(batch)
            if not messages:
                return
            seen[1] += wrong_ones(messages, seen[0])
            seen[0] += len(messages)

    async def _receive_arrays(self, count: int, batch: int, seen: list[int]) -> None:
        recv = self._channel.recv_array
        while seen[0] < count:
            rows = await recv(batch)
            if not len(rows):
                return
            seen[1] += wrong_rows(rows.tobytes(), seen[0])
            seen[0] += len(rows)

    async def _until_silence(
        self, what: Callable[[int, int, list[int]], Awaitable[None]], count: int, batch: int
    ) -> tuple[int, int]:
        """Let ``what`` count messages and wrong ones, until it ends or is stopped for its silence."""
        seen = [0, 0]
        try:
            async with asyncio.timeout(_SILENCE_S):
                await what(count, batch, seen)
        except TimeoutError:
            pass
        return seen[0], seen[1]

    def ask(self, count: int) -> tuple[list[float], int]:
        """One message there and back, so many times."""
        times: list[float] = []

        async def ask(count: int, batch: int, seen: list[int]) -> None:
            send, recv, clock = self._channel.send_batch, self._channel.recv, time.perf_counter
            for number in range(count):
                one = [MESSAGES[number % PERIOD]]
                start = clock()
                send(one)
                back = await recv(batch)
                times.append(clock() - start)
                seen[0] += 1
                seen[1] += back != one

        asked, wrong = self._loop.run_until_complete(self._until_silence(ask, count, 1))
        return times, wrong + count - asked

    def answer(self, count: int) -> None:
        """Send each back."""

        async def answer(count: int, batch: int, seen: list[int]) -> None:  # noqa: ARG001 - nothing is counted here
            send, recv = self._channel.send_batch, self._channel.recv
            for _ in range(count):
                send(await recv(batch))

        self._loop.run_until_complete(self._until_silence(answer, count, 1))

    def facts(self) -> dict[str, Any]:
        """How often it slept, spun and had to be rescued (0)."""
        return asdict(self._channel.counters)
