"""Client and server over a real socket: everything that a user of a device does."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from vfio_io_rig import COPY, LOOPS, MEMORY_BYTES, RING, SLOW, VERSION, Served, memfd, message, no_leaks, run_on, until

from pvnet.core.errors import DeadlineError, LocalError, PeerDiedError, RefusedError, UnreachableError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.names import DmaFlag, PciIrq, RegionFlag
from pvnet.papr.errno import EFAULT, EINVAL, ENOENT
from pvnet.vfio.client import VfioUserClient
from pvnet.vfio.region_mapping import RegionMapping

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))


async def refused(errno: int, request: Awaitable[object]) -> None:
    with pytest.raises(MdevError) as caught:
        await request
    assert caught.value.errno == errno


def with_client(kind: str, main: Callable[[Served, VfioUserClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Served() as served, await VfioUserClient.connect(served.path) as client:
            await main(served, client)
            client.close()
            client.close()
            await until(lambda: served.is_free)

    run_on(kind, run)


@LOOP_KINDS
def test_what_the_device_is(kind: str) -> None:
    async def main(served: Served, client: VfioUserClient) -> None:
        info = await client.info()
        assert (info.regions, info.irqs) == (9, 5)
        regions = await client.regions()
        assert [region.size for region in regions] == [256, MEMORY_BYTES, 1 << 20, 0, 0, 0, 0, 0, 0]
        assert regions[1].sparse == ((4096, 4096), (3 * 4096, 4096))
        assert [irq.count for irq in await client.irqs()] == [1, 4, 0, 0, 1]
        await refused(EINVAL, client.region(9))
        shown = served.server.shown()
        assert shown["connected"] is True
        assert shown["messages"] >= 20

    with_client(kind, main)


@LOOP_KINDS
def test_reads_and_writes(kind: str) -> None:
    async def main(served: Served, client: VfioUserClient) -> None:
        await client.write(0, 100, b"hello")
        assert await client.read(0, 98, 9) == b"\0\0hello\0\0"
        await client.write(0, 100, b"HELLO", posted=True)
        assert await client.read(0, 100, 5) == b"HELLO"
        await refused(EINVAL, client.read(0, 250, 10))
        big = os.urandom(1 << 20)
        await client.write(2, 0, big)
        assert await client.read(2, 0, 1 << 20) == bytes(1 << 20)
        await client.write(1, 0, big[:MEMORY_BYTES])
        assert await client.read(1, 0, MEMORY_BYTES) == big[:MEMORY_BYTES]
        answers = await asyncio.gather(*(client.read(0, at, 1) for at in range(56, 256)))
        assert b"".join(answers) == bytes(served.card.registers[56:])
        await client.reset()
        assert served.card.registers == bytes(256)

    with_client(kind, main)


@LOOP_KINDS
def test_mapped_memory(kind: str) -> None:
    async def main(served: Served, client: VfioUserClient) -> None:
        mapping = await client.map_region(1)
        assert [(area.offset, len(area.view)) for area in mapping.areas] == [(4096, 4096), (3 * 4096, 4096)]
        mapping.view(4100, 5)[:] = b"hello"
        assert await client.read(1, 4100, 5) == b"hello"
        await client.write(1, 3 * 4096, b"there")
        assert bytes(mapping.view(3 * 4096, 5)) == b"there"
        for offset, size in ((0, 1), (4095, 2), (8191, 2), (MEMORY_BYTES, 1)):
            with pytest.raises(LocalError):
                mapping.view(offset, size)
        with pytest.raises(RefusedError):
            await client.map_region(0)
        client.close()
        assert mapping.areas == ()

    with_client(kind, main)


@LOOP_KINDS
def test_irqs(kind: str) -> None:
    async def main(served: Served, client: VfioUserClient) -> None:
        heard: list[int] = []
        await client.listen_irqs(PciIrq.MSI, [lambda n=n: heard.append(n) for n in range(4)])
        for vector in (2, 0, 3):
            await client.write(0, RING, bytes([vector]))
            await until(lambda vector=vector: heard and heard[-1] == vector)
        await client.listen_irq(PciIrq.MSI, lambda: heard.append(99), vector=2)
        await client.trigger(PciIrq.MSI, 2)
        await until(lambda: heard[-1] == 99)
        await client.disable(PciIrq.MSI)
        count = len(heard)
        await client.write(0, RING, b"\1")
        await client.info()
        assert len(heard) == count

        levels: list[int] = []
        await client.listen_irq(PciIrq.INTX, lambda: levels.append(0))
        assert served.card.host is not None
        served.card.host.set_level(PciIrq.INTX, asserted=True)
        await until(lambda: len(levels) == 1)
        await client.unmask(PciIrq.INTX)  # still up
        await until(lambda: len(levels) == 2)
        served.card.host.set_level(PciIrq.INTX, asserted=False)
        await client.unmask(PciIrq.INTX)
        await client.mask(PciIrq.INTX)
        served.card.host.set_level(PciIrq.INTX, asserted=True)
        await client.info()
        assert len(levels) == 2
        fd = os.eventfd(0)
        with pytest.raises(MdevError):
            await client.unmask_by(PciIrq.INTX, fd)
        os.close(fd)
        await refused(EINVAL, client.listen_irq(PciIrq.MSIX, lambda: None))

    with_client(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("way", ["sealed", "file", "messages"])
def test_dma(kind: str, way: str) -> None:
    async def main(_served: Served, client: VfioUserClient) -> None:
        size = 1 << 20
        fd = memfd(size, seals=fcntl.F_SEAL_SHRINK if way == "sealed" else None)
        memory = mmap.mmap(fd, size)
        view = memoryview(memory)
        if way == "messages":
            await client.dma_map(0x10000, size, view=view)
        else:
            await client.dma_map(0x10000, size, fd=fd)
        view[:100] = bytes(range(100))
        await client.write(0, COPY, struct.pack("<QQQ", 0x10000, 0x10000 + 5000, 100))
        assert bytes(view[5000:5100]) == bytes(range(100))
        view[: 300 << 10] = os.urandom(300 << 10)
        await client.write(0, COPY, struct.pack("<QQQ", 0x10000, 0x10000 + (500 << 10), 300 << 10))
        assert view[500 << 10 : 800 << 10] == view[: 300 << 10]
        assert await client.read(0, SLOW, 4) == bytes(view[:4])
        await refused(EFAULT, client.write(0, COPY, struct.pack("<QQQ", 0x10000, 0x10000 + size - 1, 2)))
        await refused(ENOENT, client.dma_unmap(0x10000, size - 4096))
        await client.dma_unmap(0x10000, size)
        await refused(EFAULT, client.read(0, SLOW, 4))
        await client.dma_map(0x10000, 4096, fd=fd, offset=4096, flags=int(DmaFlag.READ))
        assert await client.read(0, SLOW, 4) == bytes(view[4096:4100])
        await client.dma_unmap_all()
        await refused(EFAULT, client.read(0, SLOW, 4))
        await refused(EINVAL, client.dma_map(0, 4096, fd=fd, offset=size))
        view.release()
        memory.close()
        os.close(fd)

    with_client(kind, main)


def test_refusals_reach_their_callers() -> None:
    async def main(_served: Served, client: VfioUserClient) -> None:
        for request in (client.feature(0x10063), client.migration_read(100), client.migration_write(b"x")):
            with pytest.raises(MdevError):
                await request

    with_client("uvloop", main)


# --- servers that are not there, or go, or say nothing ----------------------------------------------------------------


class Mute:
    """A server that agrees on a version, or not, and says nothing more."""

    def __init__(self, path: str, *, greets: bool) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(1)
        self.sock.setblocking(False)
        self.greets = greets
        self.client: socket.socket | None = None
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._accept)

    def _accept(self) -> None:
        self.client, _ = self.sock.accept()
        self.client.setblocking(False)
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        if self.greets:
            asyncio.get_running_loop().add_reader(self.client.fileno(), self._greet)

    def _greet(self) -> None:
        assert self.client is not None
        asyncio.get_running_loop().remove_reader(self.client.fileno())
        ident = struct.unpack_from("<H", self.client.recv(4096))[0]
        self.client.send(struct.pack("<HHIIIHH", ident, 1, 20, 1, 0, 0, 0))

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self.sock.close()


@LOOP_KINDS
def test_nobody_there(kind: str, tmp_path: os.PathLike[str]) -> None:
    async def main() -> None:
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(f"{tmp_path}/stale")
        stale.close()
        for path in (f"{tmp_path}/none", f"{tmp_path}/stale", "x" * 200, "a\0b", f"{tmp_path}"):
            with pytest.raises(UnreachableError, match=r": (?!None)[A-Za-z]"):
                await VfioUserClient.connect(path)
        full = socket.socket(socket.AF_UNIX)
        full.bind(f"{tmp_path}/full")
        full.listen(0)
        with contextlib.closing(full), socket.socket(socket.AF_UNIX) as first:
            first.connect(f"{tmp_path}/full")
            with pytest.raises(DeadlineError):
                await VfioUserClient.connect(f"{tmp_path}/full", connect_s=0.05)

    run_on(kind, main)


@LOOP_KINDS
def test_deadlines(kind: str, tmp_path: os.PathLike[str]) -> None:
    async def main() -> None:
        mute = Mute(f"{tmp_path}/mute", greets=False)
        with pytest.raises(DeadlineError):
            await VfioUserClient.connect(f"{tmp_path}/mute", timeout_s=0.05)
        mute.close()
        mute = Mute(f"{tmp_path}/greets", greets=True)
        async with await VfioUserClient.connect(f"{tmp_path}/greets", timeout_s=0.05) as client:
            with pytest.raises(DeadlineError):
                await client.info()
            assert client.is_open
            waiting = asyncio.ensure_future(client.read(0, 0, 4))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert mute.client is not None
            ends: list[str] = []
            client.on_ended = ends.append
            waiting = asyncio.ensure_future(client.read(0, 0, 4))
            await asyncio.sleep(0)
            mute.client.close()
            with pytest.raises(PeerDiedError):
                await waiting
            with pytest.raises(PeerDiedError):
                await client.info()
            assert len(ends) == 1
            assert not client.is_open
        mute.close()

    run_on(kind, main)


def test_somebody_else_has_it() -> None:
    async def main() -> None:
        async with Served() as served, await VfioUserClient.connect(served.path) as first:
            with pytest.raises(DeadlineError, match=r"did not answer .* perhaps somebody else"):
                await VfioUserClient.connect(served.path, timeout_s=0.05)
            second = asyncio.create_task(VfioUserClient.connect(served.path))
            await until(lambda: served.server.counters["waited"] == 2)
            with pytest.raises(PeerDiedError):
                await VfioUserClient.connect(served.path)
            first.close()
            client = await second
            assert (await client.info()).regions == 9
            client.close()

    run_on("uvloop", main)


def test_device_in_use_by_others() -> None:
    class Other:
        max_transfer = 4096

        def ended(self, reason: str) -> None:
            pass

    async def main() -> None:
        async with Served() as served:
            served.device.open(Other())  # type: ignore[arg-type]
            with pytest.raises(MdevError) as caught:
                await VfioUserClient.connect(served.path)
            assert caught.value.errno == 16
            served.device.close()
            (await VfioUserClient.connect(served.path)).close()

    run_on("uvloop", main)


def test_nonsense_from_a_server_ends_the_connection(tmp_path: os.PathLike[str]) -> None:
    async def main() -> None:
        mute = Mute(f"{tmp_path}/mute", greets=True)
        client = await VfioUserClient.connect(f"{tmp_path}/mute")
        assert mute.client is not None
        waiting = asyncio.ensure_future(client.info())
        await asyncio.sleep(0)
        mute.client.send(message(9, size=5) + VERSION)
        with pytest.raises(PeerDiedError):
            await waiting
        client.close()
        mute.close()

    run_on("uvloop", main)


# --- mappings ---------------------------------------------------------------------------------------------------------

MAPPABLE = int(RegionFlag.READ | RegionFlag.WRITE | RegionFlag.MMAP)


@pytest.mark.parametrize(
    ("info", "seals"),
    [
        (RegionInfo(8192, MAPPABLE), None),
        (RegionInfo(8192, MAPPABLE & ~int(RegionFlag.MMAP)), fcntl.F_SEAL_SHRINK),
        (RegionInfo(0, MAPPABLE), fcntl.F_SEAL_SHRINK),
        (RegionInfo(8193, MAPPABLE), fcntl.F_SEAL_SHRINK),
        (RegionInfo(8192, MAPPABLE, offset=4096), fcntl.F_SEAL_SHRINK),
        (RegionInfo(8192, MAPPABLE, sparse=((0, 4096), (4096, 8192))), fcntl.F_SEAL_SHRINK),
        (RegionInfo(8192, MAPPABLE, sparse=((0, 4096), (100, 100))), fcntl.F_SEAL_SHRINK),
        (RegionInfo(8192, MAPPABLE, sparse=((0, 0),)), fcntl.F_SEAL_SHRINK),
        (RegionInfo(1 << 63, MAPPABLE, offset=(1 << 63)), fcntl.F_SEAL_SHRINK),
    ],
)
def test_mappings_that_are_not_made(info: RegionInfo, seals: int | None) -> None:
    with no_leaks(), pytest.raises(RefusedError):
        RegionMapping(memfd(8192, seals=seals), info)


def test_mappings_of_foreign_memory() -> None:
    with no_leaks():
        mapping = RegionMapping(memfd(8192), RegionInfo(8192, MAPPABLE), unsealed=True)
        mapping.view(0, 8192)[:3] = b"abc"
        mapping.close()
        fd = os.open("/dev/null", os.O_RDONLY)
        with pytest.raises(RefusedError):
            RegionMapping(fd, RegionInfo(8192, MAPPABLE), unsealed=True)
        read_only = RegionMapping(memfd(8192), RegionInfo(4096, MAPPABLE & ~2, offset=4096), unsealed=True)
        assert read_only.view(0, 4096).readonly
        kept = read_only.view(0, 1)
        read_only.close()
        assert bytes(kept) == b"\0"
        del kept
