"""The peer of every broker benchmark: a bare aiomqtt QoS 1 ping-pong with TCP_NODELAY, one process for each side.

``python -m pvnet.bench.aiomqtt_peer`` (the broker on its standard input) is the side that answers; :class:`AiomqttPing`
starts it and asks.  Written as the library's documentation suggests, on the same loop (uvloop) as pvnet's processes.
With many messages in flight each side publishes from as many tasks, and paho's limit of 20 unacknowledged messages is
lifted; both make the peer faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from contextlib import AsyncExitStack
from typing import Final, Self

import aiomqtt

from pvnet.bench.peer_process import peer_process
from pvnet.bench.rounds import PATIENCE_S, Round, keep_in_flight
from pvnet.core.errors import UnreachableError
from pvnet.transport.uri import BrokerUrl

PING: Final = "pvnet-bench/ping"
MANY: Final = "pvnet-bench/many"
PONG: Final = "pvnet-bench/pong"
_NUMBER_BYTES: Final = 8
_IN_FLIGHT_MAX: Final = 1000
_QUIET: Final = logging.getLogger("pvnet.bench.aiomqtt")
_QUIET.setLevel(logging.CRITICAL)  # more than ten calls under way are worth a warning to aiomqtt


def bare_client(broker: str) -> aiomqtt.Client:
    """Return a client with nothing but NODELAY and room for messages in flight added."""
    url = BrokerUrl.parse(broker)
    return aiomqtt.Client(
        url.host,
        url.port,
        username=url.username,
        password=url.password,
        logger=_QUIET,
        max_inflight_messages=_IN_FLIGHT_MAX,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )


class AiomqttPing:
    """The asking side; ``round_trip`` is one message there and one back."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._client = bare_client(broker)
        self._stack = AsyncExitStack()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(peer_process("pvnet.bench.aiomqtt_peer", self._broker))
            await stack.enter_async_context(self._client)
            await self._client.subscribe(PONG, qos=1)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def round_trips(self, payload: bytes, count: int) -> list[float]:
        """Return the seconds of ``count`` round trips, one after the other.

        :raises UnreachableError: an answer is lost.  A broker need not say that it does not let us publish.
        """
        times: list[float] = []
        messages = self._client.messages.__aiter__()
        try:
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(count):
                    start = time.perf_counter()
                    await self._client.publish(PING, payload, qos=1)
                    await messages.__anext__()
                    times.append(time.perf_counter() - start)
        except TimeoutError:
            raise UnreachableError(f"aiomqtt did {len(times)} of {count} round trips in {PATIENCE_S:g} s") from None
        return times

    async def pipelined(self, payload: bytes, count: int, in_flight: int) -> Round:
        """Make ``count`` round trips with ``in_flight`` under way; the first 8 bytes say which answer is whose.

        :raises ExceptionGroup: of aiomqtt.MqttError.
        """
        rest = payload[_NUMBER_BYTES:]

        async def call(number: int) -> bool:
            key = number.to_bytes(_NUMBER_BYTES)
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting[key] = answer
            await self._client.publish(MANY, key + rest, qos=1)
            return await answer == key + rest

        receiver = asyncio.create_task(self._receive())
        try:
            return await keep_in_flight(call, count, in_flight)
        finally:
            receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await receiver
            self._waiting.clear()

    async def _receive(self) -> None:
        async for message in self._client.messages:
            answer = self._waiting.pop(message.payload[:_NUMBER_BYTES], None)
            if answer is not None:
                answer.set_result(message.payload)


class AiomqttContender:
    """The ping-pong in a comparison, with messages of ``size`` bytes each way."""

    name = "aiomqtt"
    failures: tuple[type[Exception], ...] = (aiomqtt.MqttError,)

    def __init__(self, ping: AiomqttPing, size: int) -> None:
        self._ping = ping
        self._payload = bytes(max(size, _NUMBER_BYTES))

    async def round(self, count: int, in_flight: int) -> Round:
        """One after the other without any bookkeeping, else pipelined."""
        if in_flight > 1:
            return await self._ping.pipelined(self._payload, count, in_flight)
        start = time.perf_counter()
        times = await self._ping.round_trips(self._payload, count)
        return Round(times, time.perf_counter() - start, 0)


async def answer(broker: str) -> None:
    """Send everything back until killed."""
    tasks = set()
    async with bare_client(broker) as client:
        await client.subscribe([(PING, 1), (MANY, 1)])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async for message in client.messages:
            if message.topic.value == PING:
                await client.publish(PONG, message.payload, qos=1)
            else:
                task = asyncio.create_task(client.publish(PONG, message.payload, qos=1))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer(sys.stdin.readline().strip()))
