"""The peer of every broker benchmark: a bare aiomqtt QoS 1 ping-pong with TCP_NODELAY, one process for each side.

``python -m pvnet.bench.aiomqtt_peer BROKER`` is the side that answers; :class:`AiomqttPing` starts it and asks.
Written as the library's documentation suggests, on the same loop (uvloop) as pvnet's processes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Final, Self

import aiomqtt

from pvnet.transport.uri import BrokerUrl

PING: Final = "pvnet-bench/ping"
PONG: Final = "pvnet-bench/pong"


def bare_client(broker: str) -> aiomqtt.Client:
    """Return a client with nothing but NODELAY added."""
    url = BrokerUrl.parse(broker)
    return aiomqtt.Client(
        url.host,
        url.port,
        username=url.username,
        password=url.password,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )


class AiomqttPing:
    """The asking side; ``round_trip`` is one message there and one back."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._client = bare_client(broker)
        self._pong: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "pvnet.bench.aiomqtt_peer", self._broker]
        self._pong = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._pong.stdout is not None
        await asyncio.wait_for(self._pong.stdout.readline(), 20)
        await self._client.__aenter__()
        await self._client.subscribe(PONG, qos=1)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(None, None, None)
        self._pong.terminate()
        await self._pong.wait()

    async def round_trips(self, payload: bytes, count: int) -> list[float]:
        """Return the seconds of ``count`` round trips, one after the other."""
        times = []
        messages = self._client.messages.__aiter__()
        for _ in range(count):
            start = time.perf_counter()
            await self._client.publish(PING, payload, qos=1)
            await messages.__anext__()
            times.append(time.perf_counter() - start)
        return times


async def answer(broker: str) -> None:
    """Send everything back until killed."""
    async with bare_client(broker) as client:
        await client.subscribe(PING, qos=1)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async for message in client.messages:
            await client.publish(PONG, message.payload, qos=1)


if __name__ == "__main__":
    import uvloop

    uvloop.run(answer(sys.argv[1]))
