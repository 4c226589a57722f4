"""The device that is measured, in a process of its own: ``python -m pvnet.bench.mdev_server``.

Serves vfio-user at the path that its standard input says.  Region 0 has registers: a doorbell that signals an irq, a
copy from one I/O address to another, and plain bytes.
"""

from __future__ import annotations

import asyncio
import sys
from struct import Struct
from typing import Final

from pvnet.mdev.device import DeviceBase, DeviceHost, DmaRead, DmaWrite, Region, Steps
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciIrq, RegionFlag
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.vfio.server import VfioUserServer

REGISTERS: Final = 0
BELL: Final = 0
"""A byte: signals the first vector of MSI."""
COPY: Final = 8
"""``u64`` from, to, bytes: done when the write is answered."""
PLAIN: Final = 4096
REGION_BYTES: Final = 2 * PLAIN
COPY_WORDS: Final = Struct("<QQQ")
_PIECE_BYTES: Final = 64 << 10
"""What a device holds at a time when it copies."""


class BenchCard(DeviceBase):
    """As little of a device as can be, so that the way to it is measured."""

    flags = int(DeviceFlag.PCI)

    def __init__(self) -> None:
        info = RegionInfo(REGION_BYTES, int(RegionFlag.READ | RegionFlag.WRITE))
        self.regions = (Region(info),)
        self.irqs = (IrqInfo(), IrqInfo(1, int(IrqFlag.EVENTFD)))
        self._bytes = bytearray(REGION_BYTES)
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
            return _copied(*COPY_WORDS.unpack(data))
        self._bytes[offset : offset + len(data)] = data
        return None


def _copied(source: int, target: int, length: int) -> Steps[None]:
    for at in range(0, length, _PIECE_BYTES):
        yield DmaWrite(target + at, (yield DmaRead(source + at, min(_PIECE_BYTES, length - at))))


async def serve(path: str) -> None:
    """Serve until killed."""
    device = VfioDevice(BenchCard(), "bench", asyncio.get_running_loop(), lambda _: None)
    await VfioUserServer(device, note=lambda _: None).start(path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.stdin.readline().strip()))
