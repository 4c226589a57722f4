"""A lab in this process whose management partition listens at device sockets, and bare connections to one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import behaviour_worlds

from pvnet.testing.in_process import InProcessLab, Loopback
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.vmc.device_protocol import Frame, FrameReader, Op, encode_hello
from pvnet_services.device_server import DeviceServer


@asynccontextmanager
async def lab_with_device(**tables: Any) -> AsyncIterator[InProcessLab]:
    """A lab with real time, so that real sockets can be waited for."""
    made = behaviour_worlds.topology(**tables)
    network = Loopback(LoopbackNetwork(seed=0))
    async with asyncio.timeout(20), InProcessLab(made, network, timeout=30.0) as lab:
        yield lab


def server_of(lab: InProcessLab) -> DeviceServer:
    server = lab.partition().sockets
    assert server is not None
    return server


@asynccontextmanager
async def device_at(directory: Path) -> AsyncIterator[tuple[InProcessLab, str]]:
    """A lab, and the address of a unix socket with its device; afterwards every file is closed again."""
    async with lab_with_device() as lab:
        before = await lab.at_rest()
        uri = await server_of(lab).add(f"unix:{directory / 'vmc.sock'}")
        yield lab, uri
        await lab.settle(before)


class Peer:
    """A connection to a device socket, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames = FrameReader(replies=True)
        self.got: list[Frame] = []

    @classmethod
    async def connect(cls, uri: str) -> Peer:
        if uri.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(uri.removeprefix("unix:")))
        host, _, port = uri.removeprefix("tcp:").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    @classmethod
    async def opened(cls, uri: str, options: int = 0) -> Peer:
        peer = await cls.connect(uri)
        peer.writer.write(encode_hello("/dev/ibmvmc", options))
        answer = await peer.next()
        assert (answer.op, answer.argument) == (Op.HELLO, 0)
        return peer

    def send(self, op: int, tag: int = 0, argument: int = 0, data: bytes = b"", flags: int = 0) -> None:
        self.writer.write(Frame(op, tag, argument, data, flags).request())

    async def next(self) -> Frame:
        """The next frame; EOFError when the server has closed."""
        while not self.got:
            data = await asyncio.wait_for(self.reader.read(65536), 20)
            if not data:
                raise EOFError
            self.got += self.frames.feed(data)
        return self.got.pop(0)

    async def ask(self, op: int, tag: int, argument: int = 0, data: bytes = b"", flags: int = 0) -> Frame:
        self.send(op, tag, argument, data, flags)
        answer = await self.next()
        assert (answer.op, answer.tag) == (op, tag)
        return answer

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection; frames that come before are put away."""
        try:
            while True:
                await self.next()
        except (EOFError, ConnectionResetError):
            return True

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
