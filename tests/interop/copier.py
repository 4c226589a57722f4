"""A PCI card that copies memory of its user: a vendor driver for a lab, so that a foreign hypervisor's memory is used.

::

    BAR0  4096 bytes, accessed a register at a time
    0x00  u64  where from        0x10  u64  bytes; writing it starts
    0x08  u64  where to          0x18  u64  (errno of the last copy) << 32 | copies done

No irqs, no state to migrate.  ``COPIER_DRIVER`` is an entry point of group ``pvnet.mdev`` for node processes started
with :func:`install`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from pvnet.mdev.device import (
    DeviceBase,
    DeviceHost,
    DmaRead,
    DmaWrite,
    DriverServices,
    MdevDriver,
    MdevType,
    Region,
    Steps,
)
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import PCI_IRQS, PCI_REGIONS, DeviceFlag, PciRegion, RegionFlag
from pvnet.mdev.pci import CONFIG_BYTES, Bar, ConfigSpace
from pvnet.papr.errno import EINVAL

VENDOR, DEVICE = 0x7076, 0xFF02
REGISTERS_BYTES = 4096
SOURCE, DESTINATION, LENGTH, STATUS = range(0, 32, 8)
LONGEST = 1 << 16
_RW = RegionFlag.READ | RegionFlag.WRITE


class Copier(DeviceBase):
    """The card."""

    flags: int = DeviceFlag.RESET | DeviceFlag.PCI
    irqs: Sequence[IrqInfo] = (IrqInfo(),) * PCI_IRQS

    def __init__(self) -> None:
        image = struct.pack("<HHIBBBB", VENDOR, DEVICE, 0, 0, 0, 0x80, 0x08)  # 08 80: a system device of no known kind
        self._config = ConfigSpace(image, bars={PciRegion.BAR0: Bar(REGISTERS_BYTES, io=False)})
        self._registers = dict.fromkeys((SOURCE, DESTINATION, LENGTH, STATUS), 0)
        self._host: DeviceHost | None = None
        sizes = {PciRegion.BAR0: REGISTERS_BYTES, PciRegion.CONFIG: CONFIG_BYTES}
        self._regions = [
            Region(RegionInfo(sizes[PciRegion(index)], _RW) if index in sizes else RegionInfo())
            for index in range(PCI_REGIONS)
        ]

    @property
    def regions(self) -> Sequence[Region]:
        return self._regions

    def open(self, host: DeviceHost) -> None:
        self._host = host

    def close(self) -> None:
        self._host = None

    def reset(self) -> None:
        self._config.reset()
        self._registers = dict.fromkeys(self._registers, 0)

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        if region == PciRegion.CONFIG:
            return self._config.read(offset, length)
        if offset not in self._registers or length != 8:
            raise MdevError(EINVAL, f"{length} bytes at {offset:#x}")
        return self._registers[offset].to_bytes(8, "little")

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == PciRegion.CONFIG:
            self._config.write(offset, data)
            return None
        if offset not in {SOURCE, DESTINATION, LENGTH} or len(data) != 8:
            raise MdevError(EINVAL, f"{len(data)} bytes at {offset:#x}")
        self._registers[offset] = int.from_bytes(data, "little")
        if offset == LENGTH:
            assert self._host is not None
            self._host.run(self._copy(), self._copied)
        return None

    def _copy(self) -> Steps[None]:
        source, destination, length = (self._registers[each] for each in (SOURCE, DESTINATION, LENGTH))
        if length > LONGEST:
            raise MdevError(EINVAL, f"{length} bytes")
        yield DmaWrite(destination, (yield DmaRead(source, length)))

    def _copied(self, error: MdevError | None) -> None:
        done = (self._registers[STATUS] & 0xFFFFFFFF) + 1
        self._registers[STATUS] = (error.code if error else 0) << 32 | done


class CopierParent:
    """Any number of them."""

    types: Sequence[MdevType] = (MdevType("1", "Copies memory"),)

    def available(self, type_name: str) -> int:
        return 255

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> Copier:
        return Copier()

    def attributes(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is left."""


class CopierDriver:
    """Every mdev host has a parent ``copier``."""

    name = "copier"
    device_api = "vfio-pci"
    standalone = True

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> CopierParent:
        return CopierParent()


COPIER_DRIVER: MdevDriver = CopierDriver()


def install(site: Path) -> str:
    """Make the driver known to processes that have the returned text as PYTHONPATH."""
    info = site / "copier-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: copier\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pvnet.mdev]\ncopier = interop.copier:COPIER_DRIVER\n")
    return f"{site}:{Path(__file__).parent.parent}"
