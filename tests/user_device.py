"""A device for tests of vfio-user, after the sample server of libvfio-user.  Spec: mdev 7.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from user_fakes import Descriptors, FakeMemory

from pvnet.mdev.device import DeviceBase, DeviceHost, DmaRead, DmaWrite, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, MigrationFlag, PciIrq, PciRegion, RegionFlag
from pvnet.papr.errno import EINVAL

RW = RegionFlag.READ | RegionFlag.WRITE


class SampleMigration:
    """Stream: all of BAR1 while it runs, all of it again when stopped, then 8 bytes of BAR0."""

    flags = MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY

    def __init__(self, device: SampleDevice) -> None:
        self._device = device
        self._hot = self._cold = 0
        self._came = bytearray()

    def save_begin(self) -> None:
        self._hot = self._cold = 0

    def _bar1(self) -> bytes:
        return bytes(self._device.memory.view)

    def precopy(self, limit: int) -> bytes:
        piece = self._bar1()[self._hot : self._hot + limit]
        self._hot += len(piece)
        return piece

    def save(self, limit: int) -> bytes:
        bar1 = self._bar1()
        if self._cold < len(bar1):
            piece = bar1[self._cold : self._cold + limit]
        else:
            piece = self._device.bar0[self._cold - len(bar1) :][:limit]
        self._cold += len(piece)
        return piece

    def remaining(self) -> int:
        return 2 * self._device.memory.size + 8 - self._hot - self._cold

    def restore_begin(self) -> None:
        self._came = bytearray()

    def restore(self, data: bytes) -> None:
        self._came += data

    def restore_end(self) -> None:
        size = self._device.memory.size
        if len(self._came) < size + 8:
            raise MdevError(EINVAL, "too short")
        self._device.memory.view[:] = self._came[-size - 8 : -8]
        self._device.bar0 = bytes(self._came[-8:])


class SampleDevice(DeviceBase):
    """A timer in BAR0 (8 bytes), memory in BAR1 (12 KiB, the middle page not mappable), config space, INTx.

    BAR0 takes the number of seconds after which it fires; until it is set it reads as ones.  Firing signals INTx, then
    copies :attr:`jobs` from and to the user's memory.  Config offset 0xf0 reads 4 bytes of the user's memory at 0, and
    a write to it stores them there: both wait for the user.
    """

    flags = DeviceFlag.RESET | DeviceFlag.PCI
    irqs = (IrqInfo(1, IrqFlag.EVENTFD), IrqInfo(), IrqInfo(), IrqInfo(1, IrqFlag.EVENTFD), IrqInfo(1, IrqFlag.EVENTFD))

    def __init__(self, descriptors: Descriptors | None = None) -> None:
        self.memory = FakeMemory(descriptors or Descriptors(), 0x3000)
        self.config = bytearray(256)
        self.config[:4] = bytes.fromhex("4f49c80d")
        self.bar0 = b"\xff" * 8
        self.migration = SampleMigration(self)
        self.host: DeviceHost | None = None
        self.resets = 0
        self.jobs: list[DmaRead | DmaWrite] = []
        self.results: list[bytes | MdevError] = []
        self.stopped = False

    @property
    def regions(self) -> Sequence[Region]:
        regions = [Region(RegionInfo())] * 9
        regions[PciRegion.BAR0] = Region(RegionInfo(8, RW))
        mappable = RegionInfo(0x3000, RW | RegionFlag.MMAP, 0, ((0, 0x1000), (0x2000, 0x1000)))
        regions[PciRegion.BAR1] = Region(mappable, self.memory)
        regions[PciRegion.CONFIG] = Region(RegionInfo(256, RW))
        return regions

    def open(self, host: DeviceHost) -> None:
        self.host = host

    def close(self) -> None:
        self.host = None

    def reset(self) -> None:
        self.resets += 1
        self.bar0 = b"\xff" * 8

    def stop(self) -> None:
        self.stopped = True

    def start(self) -> None:
        self.stopped = False

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        if region == PciRegion.CONFIG:
            if offset == 0xF0:
                return self._fetch(length)
            return bytes(self.config[offset : offset + length])
        return self.bar0[offset : offset + length]

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == PciRegion.CONFIG:
            if offset == 0xF0:
                return self._store(data)
            if offset >= 0x40:
                self.config[offset : offset + len(data)] = data
            return None
        self.bar0 = self.bar0[:offset] + data + self.bar0[offset + len(data) :]
        if self.host is not None:
            self.host.call_later(float(int.from_bytes(self.bar0, "little")), self.fire)
        return None

    def _fetch(self, length: int) -> Steps[bytes]:
        return (yield DmaRead(0, length))

    def _store(self, data: bytes) -> Steps[None]:
        yield DmaWrite(0, data)

    def fire(self) -> None:
        assert self.host is not None
        self.host.signal(PciIrq.INTX)
        self.host.run(self._jobs(), self._over)

    def _jobs(self) -> Steps[None]:
        for job in self.jobs:
            self.results.append((yield job))

    def _over(self, error: MdevError | None) -> None:
        if error is not None:
            self.results.append(error)

    def attributes(self) -> Mapping[str, str]:
        return {}
