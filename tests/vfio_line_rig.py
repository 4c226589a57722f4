"""The two ends of a serial line: a device that takes as much as it is told to, and users of terminals and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Self

from vfio_io_rig import turns, until

from pvnet.mdev.device import SerialLine
from pvnet.vfio.line_stream import LINE_BYTES
from pvnet.vfio.lines import PortHub, open_line


class Port:
    """A device's end that takes as much as it is told to."""

    def __init__(self, uri: str, hub: PortHub | None = None, *, room: int = 1 << 30) -> None:
        self.got = bytearray()
        self.room = room
        self.wakes = 0
        self.is_sending = False
        self.line: SerialLine = open_line(uri, self, hub or PortHub())

    def receive(self, data: bytes) -> int:
        assert not self.is_sending
        assert 0 < len(data) <= LINE_BYTES
        taken = min(self.room, len(data))
        self.room -= taken
        self.got += data[:taken]
        return taken

    def writable(self) -> None:
        assert not self.is_sending
        self.wakes += 1

    def send(self, data: bytes) -> int:
        self.is_sending = True
        taken = self.line.send(data)
        self.is_sending = False
        return taken

    def more_room(self, room: int) -> None:
        self.room += room
        self.line.resume()

    async def send_all(self, data: bytes) -> None:
        left = data
        while left:
            before = self.wakes
            taken = self.send(left)
            left = left[taken:]
            if left:
                await until(lambda before=before: self.wakes > before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.line.close()
        self.line.close()


async def read_fd(fd: int, count: int) -> bytes:
    got = bytearray()
    async with asyncio.timeout(10):
        while len(got) < count:
            try:
                got += os.read(fd, count - len(got))
            except BlockingIOError:
                await turns(1)
    return bytes(got)


def address_of(line: SerialLine) -> tuple[int, object]:
    kind, _, rest = line.address.partition(":")
    if kind.startswith("unix"):
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    return socket.AF_INET, (host, int(port))


def dial(line: SerialLine) -> socket.socket:
    family, address = address_of(line)
    sock = socket.socket(family)
    sock.connect(address)  # type: ignore[arg-type]
    sock.setblocking(False)
    return sock


async def accepted(listener: socket.socket) -> socket.socket:
    found: list[socket.socket] = []

    def accept() -> bool:
        with contextlib.suppress(BlockingIOError):
            found.append(listener.accept()[0])
            found[0].setblocking(False)
        return bool(found)

    await until(accept)
    return found[0]
