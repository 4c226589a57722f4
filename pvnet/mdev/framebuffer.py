"""``mdpy``: a PCI display with nothing but a linear framebuffer.

Three types, four devices per parent.  The picture is XR24, its rows follow each other without gaps, and it begins at
the first byte of the memory, whose size is the power of two (at least a page) that holds it::

    region 0  BAR0      memory, prefetchable   -+- the same memory, so that either may be mapped
    region 16 display   found by the plane query-+
    region 7  CONFIG    256 bytes; the others have size 0

    config: 1b36:000f, subsystem 1af4:1100, class 03 80 00, one vendor capability (09) at 0x40:
    0x44 u32 format (fourcc)   0x48 u32 width   0x4c u32 height     (little-endian)

No irqs: every index has no vectors.  The state after power on, and after a reset, is a grey gradient, black at the top
and white at the bottom; what lies behind the picture is zero.

Spec: mdev 4.7, 8.2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from pvnet.mdev.device import DeviceBase, DriverServices, MdevDriver, MdevType, MigrationOps, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.framebuffer_migration import FramebufferMigration
from pvnet.mdev.gfx_plane import GfxPlane, answer_gfx_plane
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import PCI_IRQS, DeviceFlag, PciRegion, RegionFlag
from pvnet.mdev.pci import CONFIG_BYTES, Bar, ConfigSpace
from pvnet.mdev.screenshot import PIXEL_BYTES, XR24
from pvnet.papr.errno import EINVAL, ENOENT, ENOSPC, EPERM

MDPY_IDS: Final = bytes.fromhex("361b0f00")
"""First 4 bytes of its configuration space."""
DISPLAY_REGION: Final = 16
CAPABILITY: Final = 0x40
CAPABILITY_FIELDS: Final = struct.Struct("<III")
"""Format, width, height, 4 bytes behind :data:`CAPABILITY`."""
POOL: Final = 4
_PAGE: Final = 4096
_SIZES: Final = {"vga": (640, 480), "xga": (1024, 768), "hd": (1920, 1080)}
_TYPES: Final = tuple(
    MdevType(name, f"{name.upper()} framebuffer", f"{width}x{height} XR24") for name, (width, height) in _SIZES.items()
)


def memory_bytes(width: int, height: int) -> int:
    """Size of BAR0: the next power of two, at least a page."""
    return max(_PAGE, 1 << (width * height * PIXEL_BYTES - 1).bit_length())


def _config_image(width: int, height: int) -> bytes:
    image = bytearray(CONFIG_BYTES)
    image[0x00:0x04] = MDPY_IDS
    image[0x06] = 0x10  # there is a list of capabilities
    image[0x0A:0x0C] = b"\x80\x03"
    image[0x2C:0x30] = bytes.fromhex("f41a0011")
    image[0x34] = CAPABILITY
    image[CAPABILITY : CAPABILITY + 4] = b"\x09\x00\x10\x00"
    CAPABILITY_FIELDS.pack_into(image, CAPABILITY + 4, XR24, width, height)
    return bytes(image)


class Framebuffer(DeviceBase):
    """One display."""

    flags: int = DeviceFlag.RESET | DeviceFlag.PCI
    irqs: Sequence[IrqInfo] = (IrqInfo(),) * PCI_IRQS

    def __init__(self, width: int, height: int, name: str, services: DriverServices, parent: FramebufferParent) -> None:
        self.width, self.height = width, height
        self.stride = width * PIXEL_BYTES
        size = memory_bytes(width, height)
        self.memory = services.memory(f"mdpy-{name}", size)
        self._parent: FramebufferParent | None = parent
        self._config = ConfigSpace(
            _config_image(width, height), bars={PciRegion.BAR0: Bar(size, io=False, prefetchable=True)}
        )
        shown = Region(RegionInfo(size, RegionFlag.READ | RegionFlag.WRITE | RegionFlag.MMAP), self.memory)
        config = Region(RegionInfo(CONFIG_BYTES, RegionFlag.READ | RegionFlag.WRITE))
        known = {PciRegion.BAR0: shown, PciRegion.CONFIG: config, DISPLAY_REGION: shown}
        none = Region(RegionInfo())
        self._regions = tuple(known.get(index, none) for index in range(DISPLAY_REGION + 1))
        self._saved = FramebufferMigration(self.memory, size, self.stride, self._config)
        self.migration: MigrationOps | None = self._saved
        self.read_only = frozenset(self.attributes())
        self._paint()

    @property
    def regions(self) -> Sequence[Region]:
        """All 17."""
        return self._regions

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        """Read configuration space; the framework serves the rest."""
        self._check_config(region)
        return self._config.read(offset, length)

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        """Write configuration space."""
        self._check_config(region)
        self._config.write(offset, data)
        return None

    def _check_config(self, region: int) -> None:
        if region != PciRegion.CONFIG:
            raise MdevError(EINVAL, f"region {region}")

    def reset(self) -> None:
        """Power-on configuration and picture."""
        self._config.reset()
        self._paint()

    def _paint(self) -> None:
        view, stride = self.memory.view, self.stride
        for row in range(self.height):
            view[row * stride : (row + 1) * stride] = bytes((row * 255 // max(1, self.height - 1),)) * stride
        view[self.height * stride :] = bytes(len(view) - self.height * stride)

    def start(self) -> None:
        """Whatever was kept for a migration that has stopped it is not needed any more."""
        self._saved.resumed()

    def remove(self) -> None:
        """Give memory and place in the pool back."""
        parent, self._parent = self._parent, None
        if parent is not None:
            parent.used -= 1
            self.migration = None
            self._saved.forget()
            self.memory.close()

    def plane(self) -> GfxPlane:
        """Where the picture is, and what it is."""
        size = self.stride * self.height
        return GfxPlane(XR24, self.width, self.height, self.stride, size, DISPLAY_REGION)

    def gfx_plane(self, request: bytes) -> bytes:
        """Answer a graphics plane query.

        :raises MdevError: EINVAL, see :func:`~pvnet.mdev.gfx_plane.answer_gfx_plane`.
        """
        return answer_gfx_plane(request, self.plane())

    def attributes(self) -> Mapping[str, str]:
        """Return size and format of the picture."""
        return {"format": "XR24", "height": str(self.height), "width": str(self.width)}

    def set(self, key: str, value: str) -> None:  # noqa: ARG002 - part of the interface
        """Refuse: the type says it all."""
        if key in self.read_only:
            raise MdevError(EPERM, f"attribute {key!r} is read-only")
        raise MdevError(ENOENT, f"attribute {key!r}")


class FramebufferParent:
    """A pool of :data:`POOL` displays, whatever their types."""

    types: Sequence[MdevType] = _TYPES

    def __init__(self, services: DriverServices) -> None:
        self._services = services
        self.used = 0

    def available(self, type_name: str) -> int:
        """Tell what is left of the pool."""
        return POOL - self.used if type_name in _SIZES else 0

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> Framebuffer:
        """Make a display; it has no attributes to give."""
        if type_name not in _SIZES:
            raise MdevError(EINVAL, f"type {type_name!r}: expected one of {', '.join(_SIZES)}")
        if attributes:
            raise MdevError(EINVAL, f"attribute {min(attributes)!r}: a display takes none")
        if self.used >= POOL:
            raise MdevError(ENOSPC, f"all {POOL} displays are in use")
        device = Framebuffer(*_SIZES[type_name], name, self._services, self)
        self.used += 1
        return device

    def attributes(self) -> Mapping[str, str]:
        """Return the size of the pool."""
        return {"pool": str(POOL), "used": str(self.used)}

    def close(self) -> None:
        """Nothing is left to let go of."""


class FramebufferDriver:
    """Makes parents that are purely virtual."""

    name = "mdpy"
    device_api = "vfio-pci"
    standalone = True

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> FramebufferParent:
        """Make a parent.

        :raises MdevError: EINVAL, it takes no attributes.
        """
        if attributes:
            raise MdevError(EINVAL, f"parent {name}: attribute {min(attributes)!r}: mdpy takes none")
        return FramebufferParent(services)


MDPY_DRIVER: Final[MdevDriver] = FramebufferDriver()
