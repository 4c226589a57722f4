"""What a partition does with devices that are plain memory: a display (``mdpy``) and a persistent memory (``pmem``).

Both become a file of known size: ``fb`` with the pixels (XR24, rows without gaps, topmost first), ``pmem`` with the
blocks, whose flush writes the device's doorbell and reads back how it went.

Spec: mdev 8.2; :mod:`pvnet.mdev.pmem`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pvnet.mdev import pmem
from pvnet.mdev.errors import MdevError
from pvnet.mdev.framebuffer import CAPABILITY, CAPABILITY_FIELDS, MDPY_IDS
from pvnet.mdev.guest import GuestContext, GuestDriverClass, GuestFile, GuestSteps, RegionRead, RegionWrite
from pvnet.mdev.names import DeviceFlag, PciRegion
from pvnet.mdev.pci import COMMAND_MEMORY
from pvnet.mdev.screenshot import PIXEL_BYTES, XR24
from pvnet.papr.errno import EINVAL, ENODEV, ENOSPC, EROFS

CHUNK_BYTES: Final = 65536
"""Most bytes of one access, so that no carrier's limit is met and others get their turn."""
_COMMAND: Final = 0x04
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")


def _is_pci(context: GuestContext, ids: bytes) -> bool:
    return bool(context.device.flags & DeviceFlag.PCI) and context.config[: len(ids)] == ids


def _enable_memory(context: GuestContext, *, on: bool) -> GuestSteps[None]:
    (command,) = _U16.unpack_from(context.config, _COMMAND)
    command = command | COMMAND_MEMORY if on else command & ~COMMAND_MEMORY
    yield RegionWrite(PciRegion.CONFIG, _COMMAND, _U16.pack(command))


def _region_bytes(context: GuestContext, index: int) -> int:
    return context.regions[index].size if index < len(context.regions) else 0


class RegionFile:
    """The first ``size`` bytes of a region, as a file."""

    def __init__(self, region: int, size: int, *, readonly: bool = False) -> None:
        self.size: int | None = size
        self.on_readable: Callable[[], None] | None = None
        self.reads = self.writes = 0
        self._region = region
        self._end = size
        self._readonly = readonly

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:
        """Read; nothing lies behind the end.

        :raises MdevError: EINVAL, a negative place; what the device says.
        """
        end = self._until(offset, count)
        data = bytearray()
        for start in range(offset, end, CHUNK_BYTES):
            data += yield RegionRead(self._region, start, min(CHUNK_BYTES, end - start))
        self.reads += 1
        return bytes(data)

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:
        """Store what has room.

        :raises MdevError: ENOSPC none has; EROFS; EINVAL, a negative place; what the device says.
        """
        if self._readonly:
            raise MdevError(EROFS, "the device is read-only")
        end = self._until(offset, len(data))
        if data and offset >= end:
            raise MdevError(ENOSPC, f"the device ends at {self._end:#x}")
        for start in range(offset, end, CHUNK_BYTES):
            piece = data[start - offset : min(start + CHUNK_BYTES, end) - offset]
            yield RegionWrite(self._region, start, piece)
        self.writes += 1
        return max(0, end - offset)

    def _until(self, offset: int, count: int) -> int:
        if offset < 0 or count < 0:
            raise MdevError(EINVAL, f"{count} bytes at {offset}")
        return min(self._end, offset + count)

    def flush(self) -> GuestSteps[None]:
        """Pixels are where they belong at once."""
        yield from ()


class PmemFile(RegionFile):
    """The blocks."""

    def __init__(self, size: int, *, readonly: bool) -> None:
        super().__init__(pmem.BLOCKS_REGION, size, readonly=readonly)
        self.flushes = 0

    def flush(self) -> GuestSteps[None]:
        """Ring the doorbell.

        :raises MdevError: how the flush ended.
        """
        yield RegionWrite(pmem.REGISTERS_REGION, pmem.FLUSH, _U32.pack(1))
        (status,) = _U32.unpack((yield RegionRead(pmem.REGISTERS_REGION, pmem.STATUS, _U32.size)))
        self.flushes += 1
        if status:
            raise MdevError(status, "flush")


class FramebufferDriver:
    """Drives one display."""

    def __init__(self, context: GuestContext) -> None:
        self.files: Sequence[tuple[str, GuestFile]] = ()
        self.width = self.height = 0
        self._context = context
        self._file: RegionFile | None = None

    def probe(self) -> GuestSteps[None]:
        """Find out the size of the picture.

        :raises MdevError: ENODEV, the device says what cannot be.
        """
        fields = yield RegionRead(PciRegion.CONFIG, CAPABILITY + 4, CAPABILITY_FIELDS.size)
        pixel_format, width, height = CAPABILITY_FIELDS.unpack(fields)
        size, room = width * height * PIXEL_BYTES, _region_bytes(self._context, PciRegion.BAR0)
        if pixel_format != XR24 or not 0 < size <= room:
            raise MdevError(ENODEV, f"display of {width} x {height}, format {pixel_format:#x}, in {room} bytes")
        yield from _enable_memory(self._context, on=True)
        self.width, self.height = width, height
        self._file = RegionFile(PciRegion.BAR0, size)
        self.files = (("fb", self._file),)

    def irq(self, index: int) -> GuestSteps[None]:  # noqa: ARG002 - part of the interface
        """None comes."""
        yield from ()

    def remove(self) -> GuestSteps[None]:
        """Cease to use its memory."""
        yield from _enable_memory(self._context, on=False)

    def shown(self) -> Mapping[str, object]:
        """Size, format, use."""
        file = self._file
        shown = {"width": self.width, "height": self.height, "format": "XR24"}
        return shown if file is None else {**shown, "reads": file.reads, "writes": file.writes}


class FramebufferGuest:
    """Finds displays."""

    name = "mdpy"

    def match(self, context: GuestContext) -> bool:
        """By vendor and device id."""
        return _is_pci(context, MDPY_IDS)

    def create(self, context: GuestContext) -> FramebufferDriver:
        """Make the driver of one display."""
        return FramebufferDriver(context)


class PmemDriver:
    """Drives one persistent memory."""

    def __init__(self, context: GuestContext) -> None:
        self.files: Sequence[tuple[str, GuestFile]] = ()
        self._context = context
        self._file: PmemFile | None = None

    def probe(self) -> GuestSteps[None]:
        """Find out what there is.

        :raises MdevError: ENODEV, the device says what cannot be.
        """
        yield from _enable_memory(self._context, on=True)
        head = yield RegionRead(pmem.REGISTERS_REGION, 0, pmem.REGISTERS.size)
        magic, version, size, flags, _, _ = pmem.REGISTERS.unpack(head)
        room = _region_bytes(self._context, pmem.BLOCKS_REGION)
        if magic != pmem.MAGIC or version != pmem.VERSION or not 0 < size <= room:
            raise MdevError(ENODEV, f"persistent memory {magic:#x}, version {version}, {size} of {room} bytes")
        self._file = PmemFile(size, readonly=bool(flags & pmem.READONLY))
        self.files = (("pmem", self._file),)

    def irq(self, index: int) -> GuestSteps[None]:  # noqa: ARG002 - part of the interface
        """None comes."""
        yield from ()

    def remove(self) -> GuestSteps[None]:
        """Make it durable, then cease to use it."""
        if self._file is not None:
            yield from self._file.flush()
        yield from _enable_memory(self._context, on=False)

    def shown(self) -> Mapping[str, object]:
        """Size and use."""
        file = self._file
        if file is None:
            return {}
        return {"size": file.size, "reads": file.reads, "writes": file.writes, "flushes": file.flushes}


class PmemGuest:
    """Finds persistent memories."""

    name = "pmem"

    def match(self, context: GuestContext) -> bool:
        """By vendor and device id."""
        return _is_pci(context, pmem.PMEM_IDS)

    def create(self, context: GuestContext) -> PmemDriver:
        """Make the driver of one."""
        return PmemDriver(context)


FRAMEBUFFER_GUEST: Final[GuestDriverClass] = FramebufferGuest()
PMEM_GUEST: Final[GuestDriverClass] = PmemGuest()
