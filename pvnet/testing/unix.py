"""The unix transport for tests: any network, with real unix sockets between its nodes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from pvnet.core.names import NodeName
from pvnet.testing.contract import LAB, LoopbackUnderTest, MqttUnderTest, Network
from pvnet.transport.base import Port
from pvnet.transport.unix import UnixPort


class UnixNetwork:
    """A network (broker) whose nodes also reach each other directly."""

    def __init__(self, inner: Network, lab: str, directory: Path) -> None:
        self.inner = inner
        self.ports: list[UnixPort] = []
        self._lab = lab
        self._directory = directory

    def port(self, name: NodeName) -> UnixPort:
        """Return a port around one of the network inside."""
        port = UnixPort(self.inner.port(name), lab=self._lab, name=name, directory=self._directory)
        self.ports.append(port)
        return port

    async def kill(self, port: Port) -> None:
        """End a node as ``kill -9`` does: its sockets close, and the network inside loses it."""
        assert isinstance(port, UnixPort)
        port.sever()
        await self.inner.kill(port.inner)


class UnixUnderTest:
    """Direct paths over the loopback network (in real time) or over a broker process."""

    def __init__(self, inner: LoopbackUnderTest | MqttUnderTest) -> None:
        self.name = f"unix-{inner.name}"
        self.networks: list[UnixNetwork] = []
        self._inner = inner

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run on a real loop."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)

    def network(self) -> AbstractAsyncContextManager[Network]:
        """One network inside, and a directory for the sockets."""
        return self._network()

    @asynccontextmanager
    async def _network(self) -> AsyncIterator[Network]:
        with tempfile.TemporaryDirectory(prefix="pvnet-") as scratch:
            async with self._inner.network() as inner:
                self.networks.append(UnixNetwork(inner, LAB, Path(scratch) / "s"))
                yield self.networks[-1]
