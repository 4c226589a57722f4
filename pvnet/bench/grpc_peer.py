"""The peer without a broker: a unary gRPC call (``grpc.aio``) to another process on the same machine.

Without generated code: the method is named by text and carries plain bytes, so that only gRPC's own work is measured.
``python -m pvnet.bench.grpc_peer`` serves where its standard input says (a free port of loopback, or a unix socket) and
says where; :class:`GrpcContender` starts it and calls.  gRPC is the extra ``bench``; without it there is no such peer.

gRPC and ``fork`` get in each other's way, so the server is started before gRPC is imported here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from pvnet.bench.peer_process import peer_process
from pvnet.bench.rounds import Round, keep_in_flight

_SERVICE: Final = "pvnet.bench.Peer"
_METHOD: Final = "Echo"
_NUMBER_BYTES: Final = 8


def installed() -> bool:
    """Whether this machine has gRPC."""
    return importlib.util.find_spec("grpc") is not None


class GrpcContender:
    """The calling side, with messages of ``size`` bytes each way, over TCP on loopback or a ``unix`` socket."""

    name = "grpc-aio"
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, size: int, *, unix: bool = False) -> None:
        self._unix = unix
        self._rest = bytes(max(size - _NUMBER_BYTES, 0))
        self._stack = AsyncExitStack()
        self._echo: Callable[[bytes], Awaitable[bytes]]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            wanted = "127.0.0.1:0"
            if self._unix:
                wanted = f"unix:{stack.enter_context(tempfile.TemporaryDirectory(prefix='pvnet-bench-'))}/s"
            address = await stack.enter_async_context(peer_process("pvnet.bench.grpc_peer", wanted))
            import grpc

            self.failures = (grpc.aio.AioRpcError,)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            await asyncio.wait_for(channel.channel_ready(), 20)
            self._echo = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` calls with ``in_flight`` under way; every answer has to be what was sent.

        :raises ExceptionGroup: of grpc.aio.AioRpcError.
        """

        async def call(number: int) -> bool:
            payload = number.to_bytes(_NUMBER_BYTES) + self._rest
            return await self._echo(payload) == payload

        return await keep_in_flight(call, count, in_flight)


async def _echo(request: bytes, context: Any) -> bytes:  # noqa: ARG001 - gRPC passes it
    return request


async def serve(wanted: str) -> None:
    """Answer until killed."""
    import grpc

    server = grpc.aio.server()
    methods = {_METHOD: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    port = server.add_insecure_port(wanted)
    await server.start()
    sys.stdout.write((wanted if wanted.startswith("unix:") else f"127.0.0.1:{port}") + "\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.stdin.readline().strip()))
