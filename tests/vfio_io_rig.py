"""Raw ends for tests of pvnet.vfio: a loop of either kind, descriptors counted, messages made by hand."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import uvloop

from pvnet.core.machine import Note
from pvnet.mdev.device import DeviceBase, DeviceHost, DmaRead, DmaWrite, Region, Steps
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciIrq, RegionFlag
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.vfio.descriptors import SharedMemory
from pvnet.vfio.server import VfioUserServer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def _nothing() -> None:
    pass


uvloop.run(_nothing())  # libuv opens what a process needs once, and keeps it


def open_fds() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the one that listed
            continue
    return found


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if there are other descriptors open at the end than at the beginning."""
    before = open_fds()
    yield
    after = open_fds()
    new = {fd: what for fd, what in after.items() if before.get(fd) != what}
    gone = {fd: what for fd, what in before.items() if fd not in after}
    assert (new, gone) == ({}, {})


def run_on(kind: str, main: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 30.0) -> None:
    """Run ``main`` on a loop of that kind; nothing stays open, and no callback has failed."""
    failures: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(timeout_s):
            await main()
        await turns()

    with no_leaks(), asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(watched())
    assert failures == []


async def turns(count: int = 5) -> None:
    """Let the loop take some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that other callbacks bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.002)


def message(command: int, payload: bytes = b"", *, ident: int = 1, flags: int = 0, size: int | None = None) -> bytes:
    """A message; ``size`` lies about its length."""
    return struct.pack("<HHIII", ident, command, 16 + len(payload) if size is None else size, flags, 0) + payload


def send_with(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """One ``sendmsg``."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], rights)


def identity(fd: int) -> tuple[int, int]:
    """What a descriptor stands for, whatever its number."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def memfd(size: int, *, seals: int | None = None, name: str = "vfio-io-test") -> int:
    """A memory file, sealed if told to."""
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals is not None:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# --- a device to serve ------------------------------------------------------------------------------------------------

MEMORY_BYTES = 4 * 4096
RING, COPY, SLOW = 0, 8, 32
"""Registers of region 0: signal MSI vector; copy (from, to, length); a read that waits for memory at its offset."""


class Card(DeviceBase):
    """Registers, mappable memory, irqs and DMA, all as small as can be."""

    flags = int(DeviceFlag.PCI | DeviceFlag.RESET)

    def __init__(self) -> None:
        self.memory = SharedMemory("card", MEMORY_BYTES)
        self.registers = bytearray(256)
        self.host: DeviceHost | None = None
        self.closed = 0
        irqs = [IrqInfo() for _ in range(5)]
        irqs[PciIrq.INTX] = IrqInfo(1, int(IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED))
        irqs[PciIrq.MSI] = IrqInfo(4, int(IrqFlag.EVENTFD))
        irqs[PciIrq.REQ] = IrqInfo(1, int(IrqFlag.EVENTFD))
        self.irqs = irqs
        both = int(RegionFlag.READ | RegionFlag.WRITE)
        sparse = ((4096, 4096), (3 * 4096, 4096))
        self.regions = [Region(RegionInfo()) for _ in range(9)]
        self.regions[0] = Region(RegionInfo(256, both))
        self.regions[1] = Region(RegionInfo(MEMORY_BYTES, both | int(RegionFlag.MMAP), sparse=sparse), self.memory)
        self.regions[2] = Region(RegionInfo(1 << 20, both))

    def open(self, host: DeviceHost) -> None:
        self.host = host

    def close(self) -> None:
        self.host = None
        self.closed += 1

    def reset(self) -> None:
        self.registers[:] = bytes(256)

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        if region == 2:
            return bytes(length)
        if offset == SLOW:
            return self._fetch(length)
        return bytes(self.registers[offset : offset + length])

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == 2:
            return None
        self.registers[offset : offset + len(data)] = data
        if offset == RING:
            assert self.host is not None
            self.host.signal(PciIrq.MSI, data[0])
        if offset == COPY:
            return self._copy(*struct.unpack("<QQQ", data))
        return None

    @staticmethod
    def _fetch(length: int) -> Steps[bytes]:
        return (yield DmaRead(0x10000, length))

    @staticmethod
    def _copy(source: int, target: int, length: int) -> Steps[None]:
        yield DmaWrite(target, (yield DmaRead(source, length)))


class Served:
    """A card on a socket in a temporary directory."""

    def __init__(self, **options: Any) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="vfio-io-")
        self.path = Path(self._directory.name) / "s"
        self.notes: list[Note] = []
        self.card = Card()
        self.device = VfioDevice(self.card, "card", asyncio.get_running_loop(), self.notes.append)
        self.server = VfioUserServer(self.device, note=self.notes.append, **options)

    async def __aenter__(self) -> Self:
        await self.server.start(self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.server.stop()
        self.card.memory.close()
        assert not self.path.exists()
        self._directory.cleanup()

    @property
    def is_free(self) -> bool:
        return self.device.user is None

    def dial(self) -> socket.socket:
        """A raw client."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        sock.setblocking(False)
        return sock

    def greeted(self) -> socket.socket:
        """A raw client that has asked for a version."""
        sock = self.dial()
        sock.send(VERSION)
        return sock


VERSION = struct.pack("<HHIIIHH", 0, 1, 20, 0, 0, 0, 2)


def access(
    command: int, region: int, offset: int, count: int, data: bytes = b"", ident: int = 1, flags: int = 0
) -> bytes:
    """REGION_READ or REGION_WRITE."""
    return message(command, struct.pack("<QII", offset, region, count) + data, ident=ident, flags=flags)


async def receive(sock: socket.socket, count: int) -> bytes:
    """Receive exactly so many bytes."""
    got = bytearray()
    async with asyncio.timeout(10):
        while len(got) < count:
            try:
                piece = sock.recv(count - len(got))
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            if not piece:
                raise EOFError(bytes(got))
            got += piece
    return bytes(got)


async def reply(sock: socket.socket) -> tuple[int, int, int, int, bytes]:
    """Receive a message: id, command, flags, error, payload."""
    ident, command, size, flags, error = struct.unpack("<HHIII", await receive(sock, 16))
    return ident, command, flags, error, await receive(sock, size - 16)


async def is_dropped(sock: socket.socket) -> None:
    """Wait until the other end has closed it."""

    def closed() -> bool:
        try:
            return not sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    await until(closed)
