"""The devices that are measured, in a process of their own: ``python -m pvnet.bench.mdev_server``.

Serves vfio-user in the directory that its standard input says: ``card`` has registers in region 0, a doorbell that
signals an irq, a copy from one I/O address to another, and plain bytes; ``disk`` is a subchannel with a disk.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from struct import Struct
from typing import Final

from pvnet.bench.mdev_ccw import DISK_BLOCKS, block
from pvnet.core.machine import Note
from pvnet.mdev.ccw_driver import CCW_DRIVER
from pvnet.mdev.device import DeviceBase, DeviceHost, DmaReadInto, DmaWrite, MdevDevice, Region, Steps
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciIrq, RegionFlag
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.vfio.server import VfioUserServer
from pvnet.vfio.services import Services

REGISTERS: Final = 0
BELL: Final = 0
"""A byte: signals the first vector of MSI."""
COPY: Final = 8
"""``u64`` from, to, bytes: done when the write is answered."""
PLAIN: Final = 4096
REGION_BYTES: Final = 2 * PLAIN
COPY_WORDS: Final = Struct("<QQQ")
ACCESS_BYTES: Final = 256 << 10
"""What a device moves in one access when it copies."""


class BenchCard(DeviceBase):
    """As little of a device as can be, so that the way to it is measured."""

    flags = int(DeviceFlag.PCI)

    def __init__(self) -> None:
        info = RegionInfo(REGION_BYTES, int(RegionFlag.READ | RegionFlag.WRITE))
        self.regions = (Region(info),)
        self.irqs = (IrqInfo(), IrqInfo(1, int(IrqFlag.EVENTFD)))
        self._bytes = bytearray(REGION_BYTES)
        self._piece = memoryview(bytearray(ACCESS_BYTES))
        self._host: DeviceHost | None = None

    def open(self, host: DeviceHost) -> None:
        """Keep the host."""
        self._host = host

    def close(self) -> None:
        """Forget it."""
        self._host = None

    def read(self, region: int, offset: int, length: int) -> bytes:  # noqa: ARG002 - there is one
        """Read what is stored."""
        return bytes(self._bytes[offset : offset + length])

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:  # noqa: ARG002 - there is one
        """Store, ring or copy."""
        if offset == BELL and self._host is not None:
            self._host.signal(PciIrq.MSI)
            return None
        if offset == COPY and len(data) == COPY_WORDS.size:
            return self._copied(*COPY_WORDS.unpack(data))
        self._bytes[offset : offset + len(data)] = data
        return None

    def _copied(self, source: int, target: int, length: int) -> Steps[None]:
        """Copy through memory of the device, piece by piece; one copy at a time."""
        for at in range(0, length, ACCESS_BYTES):
            piece = self._piece[: min(ACCESS_BYTES, length - at)]
            yield DmaReadInto(source + at, piece)
            yield DmaWrite(target + at, piece)


def disk(directory: Path) -> MdevDevice:
    """Make a subchannel over a small image."""
    (directory / "image").write_bytes(b"".join(map(block, range(DISK_BLOCKS))))
    parent = CCW_DRIVER.create_parent("bench", {"image": "image"}, Services(_ignore, directory=directory))
    device = parent.create(parent.types[0].name, "bench", {})
    assert not isinstance(device, Awaitable)
    return device


def _ignore(_note: Note) -> None:
    """Nobody reads what these servers note."""


async def serve(directory: Path) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    for name, device in (("card", BenchCard()), ("disk", disk(directory))):
        await VfioUserServer(VfioDevice(device, name, loop, _ignore), note=_ignore).start(directory / name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(Path(sys.stdin.readline().strip())))
