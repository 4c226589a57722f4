"""A device like the ``server`` sample of libvfio-user, rebuilt from what its client was seen to do.

::

    BAR0  8 bytes        a UNIX time (u64, little-endian; accessed as a whole); all ones: none
    BAR1  0x3000 bytes   memory, of which the pages at 0 and 0x2000 can be mapped
    CONFIG 256 bytes     INTA
    irqs  INTX, ERR, REQ with one vector, MSI and MSIX with none

At the time of BAR0 it signals INTX, writes 4 x 1024 bytes to I/O address 0x1000 of its user, reads them back and
compares.  Its state migrates as: BAR1 (while it runs), BAR1 again and BAR0 (when it is stopped).

``SAMPLE_DRIVER`` is an entry point of group ``pvnet.mdev`` for node processes started with :func:`install`.

Spec: mdev 7.1.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pvnet.mdev.device import (
    Cancellable,
    DeviceBase,
    DeviceHost,
    DmaRead,
    DmaWrite,
    DriverServices,
    MdevDriver,
    MdevType,
    MigrationOps,
    Region,
    RegionMemory,
    Steps,
)
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, MigrationFlag, PciIrq, PciRegion, RegionFlag
from pvnet.mdev.pci import ConfigSpace
from pvnet.papr.errno import EINVAL, EIO, ENOMEM

BAR1_BYTES = 0x3000
UNSET = b"\xff" * 8
DMA_ADDRESS = 0x1000
DMA_PIECE = 1024
DMA_PIECES = 4
STREAM_MAX = 1 << 20
_RW = RegionFlag.READ | RegionFlag.WRITE
_ONE, _NONE = IrqInfo(1, IrqFlag.EVENTFD), IrqInfo()


def pattern(piece: int) -> bytes:
    """What it writes to its user."""
    return bytes((piece * 64 + at) & 0xFF for at in range(DMA_PIECE))


class SampleTwin(DeviceBase):
    """The device; ``now`` is the clock of BAR0."""

    flags: int = DeviceFlag.RESET | DeviceFlag.PCI
    irqs: Sequence[IrqInfo] = (_ONE, _NONE, _NONE, _ONE, _ONE)

    def __init__(self, memory: RegionMemory, now: Callable[[], float] = time.time) -> None:
        self.memory = memory
        self.bar0 = UNSET
        self.fired = 0
        self.transfers = 0
        self.failure: MdevError | None = None
        self.migration: MigrationOps | None = SampleTwinMigration(self)
        self._armed = False
        self._stopped = False
        self._now = now
        self._host: DeviceHost | None = None
        self._timer: Cancellable | None = None
        image = bytearray(64)
        image[0x00:0x04] = bytes.fromhex("767001ff")  # see pvnet.mdev.pmem on these numbers
        image[0x3D] = 1
        self._config = ConfigSpace(bytes(image), bars={})
        mappable = RegionInfo(BAR1_BYTES, _RW | RegionFlag.MMAP, sparse=((0, 0x1000), (0x2000, 0x1000)))
        regions = [Region(RegionInfo())] * 9
        regions[PciRegion.BAR0] = Region(RegionInfo(8, _RW))
        regions[PciRegion.BAR1] = Region(mappable, memory)
        regions[PciRegion.CONFIG] = Region(RegionInfo(256, _RW))
        self._regions = regions

    @property
    def regions(self) -> Sequence[Region]:
        return self._regions

    # --- user ---

    def open(self, host: DeviceHost) -> None:
        self._host = host
        self._arm()

    def close(self) -> None:
        self._host = self._timer = None

    def stop(self) -> None:
        self._stopped = True
        self._arm()

    def start(self) -> None:
        self._stopped = False
        self._arm()

    def reset(self) -> None:
        self._config.reset()
        self.memory.view[:BAR1_BYTES] = bytes(BAR1_BYTES)
        self.set_time(UNSET)

    def remove(self) -> None:
        self.memory.close()

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        if region == PciRegion.CONFIG:
            return self._config.read(offset, length)
        if offset or length != len(UNSET):
            raise MdevError(EINVAL, f"{length} bytes at {offset} of the time")
        return self.bar0

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == PciRegion.CONFIG:
            self._config.write(offset, data)
        elif offset or len(data) != len(UNSET):
            raise MdevError(EINVAL, f"{len(data)} bytes at {offset} of the time")
        else:
            self.set_time(data)
        return None

    # --- time ---

    @property
    def pending_time(self) -> bytes:
        """BAR0 as long as it has not come."""
        return self.bar0 if self._armed else UNSET

    def set_time(self, data: bytes) -> None:
        self.bar0 = data
        self._armed = data != UNSET
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._armed and not self._stopped and self._host is not None:
            # a time beyond 2**31 s from now is as good as never, and some loops refuse longer delays
            delay = min(max(0.0, int.from_bytes(self.bar0, "little") - self._now()), float(1 << 31))
            self._timer = self._host.call_later(delay, self._fire)

    def _fire(self) -> None:
        assert self._host is not None
        self._armed, self._timer = False, None
        self.fired += 1
        self._host.signal(PciIrq.INTX)
        self._host.run(self._transfer(), self._transferred)

    def _transfer(self) -> Steps[None]:
        for piece in range(DMA_PIECES):
            yield DmaWrite(DMA_ADDRESS + piece * DMA_PIECE, pattern(piece))
        for piece in range(DMA_PIECES):
            data = yield DmaRead(DMA_ADDRESS + piece * DMA_PIECE, DMA_PIECE)
            if data != pattern(piece):
                raise MdevError(EIO, f"piece {piece} came back differently")

    def _transferred(self, error: MdevError | None) -> None:
        self.transfers += 1
        self.failure = error

    def attributes(self) -> Mapping[str, str]:
        """How often it fired and copied, and how the last copy ended."""
        ended = "none" if not self.transfers else str(self.failure) if self.failure else "ok"
        return {"dma": ended, "fired": str(self.fired)}


class SampleTwinMigration:
    """BAR1, BAR1, BAR0."""

    flags: int = MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY

    def __init__(self, device: SampleTwin) -> None:
        self._device = device
        self._early = self._late = 0
        self._came = bytearray()

    def save_begin(self) -> None:
        self._early = self._late = 0

    def precopy(self, limit: int) -> bytes:
        piece = bytes(self._device.memory.view[self._early : min(self._early + limit, BAR1_BYTES)])
        self._early += len(piece)
        return piece

    def save(self, limit: int) -> bytes:
        """BAR0 never shares a piece with BAR1: the client was seen to read it alone."""
        if self._late < BAR1_BYTES:
            piece = bytes(self._device.memory.view[self._late : min(self._late + limit, BAR1_BYTES)])
        else:
            piece = self._device.pending_time[self._late - BAR1_BYTES :][:limit]
        self._late += len(piece)
        return piece

    def remaining(self) -> int:
        return 2 * BAR1_BYTES + len(UNSET) - self._early - self._late

    def restore_begin(self) -> None:
        self._came = bytearray()

    def restore(self, data: bytes) -> None:
        if len(self._came) + len(data) > STREAM_MAX:
            raise MdevError(ENOMEM, f"more than {STREAM_MAX} bytes of state")
        self._came += data

    def restore_end(self) -> None:
        if len(self._came) < BAR1_BYTES + len(UNSET) or len(self._came) % BAR1_BYTES != len(UNSET):
            raise MdevError(EINVAL, f"{len(self._came)} bytes of state")
        state = self._came[-BAR1_BYTES - len(UNSET) :]
        self._device.memory.view[:BAR1_BYTES] = state[:BAR1_BYTES]
        self._device.set_time(bytes(state[BAR1_BYTES:]))
        self._came = bytearray()


class SampleTwinParent:
    """Any number of them."""

    types: Sequence[MdevType] = (MdevType("server", "Like libvfio-user's server sample"),)

    def __init__(self, services: DriverServices) -> None:
        self._services = services

    def available(self, type_name: str) -> int:
        return 255

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> SampleTwin:
        if attributes:
            raise MdevError(EINVAL, "no attributes")
        return SampleTwin(self._services.memory(f"sample-{name}", BAR1_BYTES))

    def attributes(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is left."""


class SampleTwinDriver:
    """Every mdev host has a parent ``sample``."""

    name = "sample"
    device_api = "vfio-pci"
    standalone = True

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> SampleTwinParent:
        return SampleTwinParent(services)


SAMPLE_DRIVER: MdevDriver = SampleTwinDriver()


def install(site: Path) -> list[str]:
    """Make the driver known to processes that have the returned directories in PYTHONPATH."""
    info = site / "sample_twin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pvnet.mdev]\nsample = sample_twin:SAMPLE_DRIVER\n")
    return [str(site), str(Path(__file__).parent)]


def encode_time(seconds: int) -> bytes:
    """As BAR0 has it."""
    return struct.pack("<Q", seconds)
