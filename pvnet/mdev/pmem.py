"""``pmem``: an SCM device of the lab as a mediated device, so that whoever speaks VFIO can use its blocks.

A parent is one SCM device (attribute ``scm=PARTITION:NUMBER``) and offers one type, ``whole``, once.  The device is a
PCI memory controller (class 05 80 00) without irqs.  Its vendor id is 0x7076 (ASCII "pv"), which no vendor has; device
ids 0x0001 to 0xfeff under it are pvnet's own (0x0001: this one), 0xff00 to 0xffff are for examples and private use::

    region 0  BAR0  memory, 4096 bytes: registers
    region 2  BAR2  memory, 64 bit, prefetchable: the blocks; size is the power of two that holds them
    region 7  CONFIG  256 bytes; the others have size 0

    registers, little-endian; the rest reads as zero
    0x00  u32  ro  magic "PMEM", 0x4d454d50
    0x04  u32  ro  version, 1
    0x08  u64  ro  size of the blocks, bytes
    0x10  u32  ro  flags: bit 0, read-only
    0x14  u32  rw  flush: writing a 1 makes all earlier stores durable before the write ends; reads how many have ended
    0x18  u32  ro  status: errno of the last flush, 0 if it succeeded

Registers may be read in any width; only a write of 4 bytes to ``flush`` means something, others are ignored as hardware
does.  Behind the last block there is nothing: reads give zeros, a store that reaches there is refused as a whole
(EINVAL).  A read-only device has no WRITE on region 2.

A reset clears status, counter and configuration space, never the blocks.  It does not migrate: its state lies in the
SCM device, which stays where it is.

Spec: mdev 4.2, 4.6; the device is our own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from pvnet.mdev.device import BlockStore, DeviceBase, DriverServices, MdevDriver, MdevType, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import PCI_IRQS, PCI_REGIONS, DeviceFlag, PciRegion, RegionFlag
from pvnet.mdev.pci import CONFIG_BYTES, Bar, ConfigSpace
from pvnet.papr.errno import EINVAL, ENOENT, ENOSPC, EPERM

PMEM_IDS: Final = bytes.fromhex("76700100")
"""First 4 bytes of its configuration space."""
REGISTERS: Final = struct.Struct("<IIQIII")
REGISTERS_REGION: Final = PciRegion.BAR0
BLOCKS_REGION: Final = PciRegion.BAR2
FLUSH: Final = 0x14
STATUS: Final = 0x18
MAGIC: Final = 0x4D454D50
VERSION: Final = 1
READONLY: Final = 1
TYPE: Final = "whole"
_REGISTERS_BYTES: Final = 4096
_BAR2: Final = 0x18
_BAR_64BIT_PREFETCHABLE: Final = b"\x0c"
"""Low byte of BAR2; all of BAR3 is the upper half of its address."""
_FLUSH_WRITE: Final = struct.Struct("<I")


def _config_image() -> bytes:
    image = bytearray(CONFIG_BYTES)
    image[0x00:0x04] = PMEM_IDS
    image[0x0A:0x0C] = b"\x80\x05"
    image[0x2C:0x30] = PMEM_IDS
    return bytes(image)


class PmemDevice(DeviceBase):
    """The blocks of ``store`` behind a BAR."""

    flags: int = DeviceFlag.RESET | DeviceFlag.PCI
    irqs: Sequence[IrqInfo] = (IrqInfo(),) * PCI_IRQS

    def __init__(self, store: BlockStore, parent: PmemParent) -> None:
        self._store = store
        self._parent: PmemParent | None = parent
        self._status = 0
        self._flushes = 0
        self.read_only = frozenset(self.attributes())
        size = max(_REGISTERS_BYTES, 1 << (store.size - 1).bit_length())
        address_bits = (1 << 64) - size
        self._config = ConfigSpace(
            _config_image(),
            bars={REGISTERS_REGION: Bar(_REGISTERS_BYTES, io=False)},
            writable=dict(enumerate(address_bits.to_bytes(8, "little"), _BAR2)),
        )
        self._config.poke(_BAR2, _BAR_64BIT_PREFETCHABLE)
        both = RegionFlag.READ | RegionFlag.WRITE
        known = {
            REGISTERS_REGION: RegionInfo(_REGISTERS_BYTES, both),
            BLOCKS_REGION: RegionInfo(size, RegionFlag.READ if store.readonly else both),
            PciRegion.CONFIG: RegionInfo(CONFIG_BYTES, both),
        }
        self._regions = tuple(Region(known.get(PciRegion(index), RegionInfo())) for index in range(PCI_REGIONS))

    @property
    def regions(self) -> Sequence[Region]:
        """All 9."""
        return self._regions

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        """Read blocks, registers or configuration."""
        if region == BLOCKS_REGION:
            inside = max(0, min(length, self._store.size - offset))
            return (self._store.read(offset, inside) if inside else b"").ljust(length, b"\0")
        if region == REGISTERS_REGION:
            return self._registers()[offset : offset + length].ljust(length, b"\0")
        return self._config.read(offset, length)

    def _registers(self) -> bytes:
        flags = READONLY if self._store.readonly else 0
        return REGISTERS.pack(MAGIC, VERSION, self._store.size, flags, self._flushes & 0xFFFFFFFF, self._status)

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        """Store into blocks, flush, or write configuration."""
        if region == BLOCKS_REGION:
            if offset + len(data) > self._store.size:
                raise MdevError(EINVAL, f"{len(data)} bytes at {offset:#x}: there are {self._store.size:#x}")
            self._store.write(offset, data)
        elif region == REGISTERS_REGION:
            if offset == FLUSH and len(data) == _FLUSH_WRITE.size and _FLUSH_WRITE.unpack(data)[0] & 1:
                self._flush()
        else:
            self._config.write(offset, data)
        return None

    def _flush(self) -> None:
        try:
            self._store.flush()
        except MdevError as error:
            self._status = error.code
        else:
            self._status = 0
        self._flushes += 1

    def reset(self) -> None:
        """Clear all but the blocks."""
        self._status = self._flushes = 0
        self._config.reset()
        self._config.poke(_BAR2, _BAR_64BIT_PREFETCHABLE)

    def remove(self) -> None:
        """Give the SCM device back to its parent."""
        parent, self._parent = self._parent, None
        if parent is not None:
            parent.used = False

    def attributes(self) -> Mapping[str, str]:
        """Return size and use."""
        return {
            "flushes": str(self._flushes),
            "readonly": "yes" if self._store.readonly else "no",
            "size": str(self._store.size),
        }

    def set(self, key: str, value: str) -> None:  # noqa: ARG002 - part of the interface
        """Refuse: all of them are read-only."""
        if key in self.read_only:
            raise MdevError(EPERM, f"attribute {key!r} is read-only")
        raise MdevError(ENOENT, f"attribute {key!r}")


class PmemParent:
    """One SCM device."""

    def __init__(self, scm: str, store: BlockStore) -> None:
        self._scm = scm
        self._store = store
        self.used = False
        self.types: Sequence[MdevType] = (MdevType(TYPE, "Whole SCM device", f"{store.size} bytes of SCM {scm}"),)

    def available(self, type_name: str) -> int:
        """Once."""
        return 1 if type_name == TYPE and not self.used else 0

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> PmemDevice:
        """Make the device; it has no attributes to give."""
        if type_name != TYPE:
            raise MdevError(EINVAL, f"type {type_name!r}: expected {TYPE}")
        if attributes:
            raise MdevError(EINVAL, f"device {name}: attribute {min(attributes)!r}: a pmem takes none")
        if self.used:
            raise MdevError(ENOSPC, f"SCM {self._scm} is in use")
        device = PmemDevice(self._store, self)
        self.used = True
        return device

    def attributes(self) -> Mapping[str, str]:
        """Return the SCM device."""
        return {"scm": self._scm, "size": str(self._store.size)}

    def close(self) -> None:
        """Let go of the SCM device."""
        self._store.close()


class PmemDriver:
    """Makes parents over SCM devices."""

    name = "pmem"
    device_api = "vfio-pci"
    standalone = False

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> PmemParent:
        """Make a parent.

        :raises MdevError: EINVAL, attributes; ENODEV, no such SCM device.
        """
        if set(attributes) != {"scm"}:
            raise MdevError(EINVAL, f"parent {name}: expected the attribute scm=PARTITION:NUMBER and no other")
        scm = attributes["scm"]
        return PmemParent(scm, services.scm(scm))


PMEM_DRIVER: Final[MdevDriver] = PmemDriver()
