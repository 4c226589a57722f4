"""Nodes with unix sockets between them, on real event loops, for the tests of the unix transport."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
import uvloop

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.contract import LAB, ContractLab, Network
from pvnet.testing.unix import UnixNetwork
from pvnet.transport.loopback import LoopbackNetwork, LoopbackPort
from pvnet.transport.unix import UnixPort
from pvnet.transport.unix_hello import Hello, Kind, encode_hello, header


class LoopbackInside:
    """The loopback network as the network inside."""

    def __init__(self, network: LoopbackNetwork) -> None:
        self.loopback = network

    def port(self, name: Any) -> LoopbackPort:
        return self.loopback.port(name)

    async def kill(self, port: Any) -> None:
        self.loopback.kill(port.name)


class Rig(ContractLab):
    """A lab whose nodes reach each other by unix sockets; ``loopback`` is their broker."""

    def __init__(self, inner: Network, directory: Path) -> None:
        self.directory = directory
        self.unix = UnixNetwork(inner, LAB, directory)
        super().__init__(self.unix)

    @property
    def loopback(self) -> LoopbackNetwork:
        assert isinstance(self.unix.inner, LoopbackInside)
        return self.unix.inner.loopback

    async def pair(self, first: str = "client", second: str = "server") -> tuple[Endpoint, Endpoint]:
        """Two nodes with a path between them."""
        one, two = await self.node(first), await self.node(second)
        assert await one.settle_path(second)
        return one, two


def port_of(endpoint: Endpoint) -> UnixPort:
    port = endpoint._port
    assert isinstance(port, UnixPort)
    return port


def run_unix(scenario: Callable[[Rig], Awaitable[None]], *, seconds: float = 60.0) -> None:
    """Run a scenario on uvloop; afterwards no file descriptor and no socket's name is left."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="pvnet-") as scratch:
            rig = Rig(LoopbackInside(LoopbackNetwork()), Path(scratch) / "s")
            try:
                async with asyncio.timeout(seconds):
                    await scenario(rig)
            finally:
                await rig.close()
            await asyncio.sleep(0)
            assert not rig.directory.exists(), "the last one removes it"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().run_until_complete(asyncio.sleep(0))
        gc.collect()  # what an earlier test has left must not go meanwhile
        before = open_fds()
        runner.run(main())
        gc.collect()  # a mapping has a descriptor for as long as it lives
        assert open_fds() == before


def open_fds() -> set[str]:
    """What this process has open; sockets and pipes with their identity."""
    found = set()
    for fd in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the directory that we were reading
            found.add(f"{fd.name} {fd.readlink()}")
    return found


async def until(check: Callable[[], bool]) -> None:
    """Wait until ``check`` holds; the scenario's own time-out ends it."""
    while not check():  # noqa: ASYNC110 - what is looked at has no event
        await asyncio.sleep(0.002)


class RawClient:
    """A program of the same user that connects to a node's socket and says what it likes."""

    def __init__(self, endpoint: Endpoint) -> None:
        address = port_of(endpoint).address
        assert address is not None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(address.path)
        self.sock.setblocking(False)

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.sock.send(data)

    async def closed(self) -> bytes:
        """Wait until the node closes the connection; return what it said before."""
        said = b""
        while True:
            try:
                data = self.sock.recv(200_000)
            except BlockingIOError:
                await asyncio.sleep(0.002)
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                self.sock.close()
                return said
            said += data


def hello_packet(**changes: Any) -> bytes:
    """A hello as node ``client`` (incarnation 1) says it to node ``server`` (incarnation 2)."""
    fields = {"lab": LAB, "name": "client", "incarnation": 1, "wanted": "server", "wanted_incarnation": 2, **changes}
    return header(Kind.HELLO) + encode_hello(Hello(**fields))


def logged(events: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [entry for entry in events if entry["event"] == event]


def capture_logs() -> Any:
    return structlog.testing.capture_logs()


def echo(endpoint: Endpoint) -> None:
    """Answer memory writes with their bytes."""

    def handle(call: Envelope) -> None:
        reply = Envelope()
        reply.memory_reply.data = call.memory_write.data
        endpoint.reply(call, reply)

    endpoint.on("memory_write", handle)
