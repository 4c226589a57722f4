"""A metronome as a mediated PCI device: one BAR of registers and an interrupt at every beat.

Parent ``metronome``, type ``metronome-quartz``, any number of them.  Vendor id 0x7076, device id 0xff00, class 08 80 00
(other system peripheral), INTA.  BAR0 is 4 KiB of memory; little-endian, 4 aligned bytes at a time::

    0x00  period, milliseconds; 0: it stands still      writing it begins a new period
    0x04  beats so far                                  read-only
    0x08  status: bit 0, a beat has come                writing a 1 clears it; while it is set, INTx is up

It beats while somebody has it open.  The administrator may say how fast: attribute ``bpm``, 0 to 600.
"""

import struct
from collections.abc import Mapping, Sequence

from pvnet.mdev.device import Cancellable, DeviceBase, DeviceHost, DriverServices, MdevDriver, MdevType, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import PCI_IRQS, PCI_REGIONS, DeviceFlag, IrqFlag, PciIrq, PciRegion, RegionFlag
from pvnet.mdev.pci import Bar, ConfigSpace
from pvnet.papr.errno import EINVAL, ENOENT, EPERM

PERIOD, BEATS, STATUS = 0x00, 0x04, 0x08
U32 = struct.Struct("<I")
INTX = IrqInfo(1, IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED)
READ_WRITE = RegionFlag.READ | RegionFlag.WRITE
REGIONS = {PciRegion.BAR0: RegionInfo(4096, READ_WRITE), PciRegion.CONFIG: RegionInfo(256, READ_WRITE)}
IMAGE = bytearray(64)
IMAGE[0x00:0x0C] = bytes.fromhex("767000ff 00000000 00008008")
IMAGE[0x3D] = 1


class Metronome(DeviceBase):
    """One metronome."""

    flags: int = DeviceFlag.RESET | DeviceFlag.PCI
    irqs: Sequence[IrqInfo] = (INTX,) + (IrqInfo(),) * (PCI_IRQS - 1)
    read_only = ("beats",)
    regions = tuple(Region(REGIONS.get(PciRegion(n), RegionInfo())) for n in range(PCI_REGIONS))

    def __init__(self) -> None:
        self.config = ConfigSpace(bytes(IMAGE), bars={0: Bar(4096, io=False)})
        self.period = self.beats = self.status = 0
        self.host: DeviceHost | None = None
        self.timer: Cancellable | None = None

    def open(self, host: DeviceHost) -> None:
        """Begin to beat."""
        self.host = host
        self.wind()

    def close(self) -> None:
        """Stand still, as the framework has called the timer off."""
        self.host = self.timer = None

    def wind(self) -> None:
        """Begin a period; the level of the interrupt is told again."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.host is not None:
            self.host.set_level(PciIrq.INTX, asserted=bool(self.status))
            if self.period:
                self.timer = self.host.call_later(self.period / 1000, self.beat)

    def beat(self) -> None:
        """A period is over."""
        self.beats, self.status = (self.beats + 1) & 0xFFFFFFFF, 1
        self.wind()

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        """Read a register, or configuration space."""
        if region == PciRegion.CONFIG:
            return self.config.read(offset, length)
        registers = {PERIOD: self.period, BEATS: self.beats, STATUS: self.status}
        if length != U32.size or offset % U32.size:
            raise MdevError(EINVAL, f"{length} bytes at {offset:#x}: expected 4, aligned")
        return U32.pack(registers.get(offset, 0))

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        """Write a register, or configuration space."""
        if region == PciRegion.CONFIG:
            self.config.write(offset, data)
        elif len(data) != U32.size or offset % U32.size:
            raise MdevError(EINVAL, f"{len(data)} bytes at {offset:#x}: expected 4, aligned")
        elif offset == PERIOD:
            (self.period,) = U32.unpack(data)
            self.wind()
        elif offset == STATUS and data[0] & 1:
            self.status = 0
            if self.host is not None:
                self.host.set_level(PciIrq.INTX, asserted=False)
        return None

    def reset(self) -> None:
        """Stand still, at no beats."""
        self.config.reset()
        self.period = self.beats = self.status = 0
        self.wind()

    def attributes(self) -> Mapping[str, str]:
        """How fast it is, and how far."""
        return {"beats": str(self.beats), "bpm": f"{60_000 / self.period:g}" if self.period else "0"}

    def set(self, key: str, value: str) -> None:
        """Change how fast it is."""
        if key in self.read_only:
            raise MdevError(EPERM, f"{key!r} is read-only")
        if key != "bpm":
            raise MdevError(ENOENT, f"a metronome has no attribute {key!r}")
        if not value.isascii() or not value.isdecimal() or len(value) > 3 or int(value) > 600:
            raise MdevError(EINVAL, f"bpm {value!r}: expected 0 to 600")
        self.period = 60_000 // int(value) if int(value) else 0
        self.wind()


class Shop:
    """A parent, which runs out of nothing."""

    types: Sequence[MdevType] = (MdevType("quartz", "Metronome", "beats up to 1000 times per second"),)

    def available(self, type_name: str) -> int:  # noqa: ARG002
        """Say how many more there can be."""
        return 255

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> Metronome:  # noqa: ARG002
        """Make one; ``bpm`` may be given."""
        device = Metronome()
        for key, value in attributes.items():
            device.set(key, value)
        return device

    def attributes(self) -> Mapping[str, str]:
        """Return none."""
        return {}

    def close(self) -> None:
        """Nothing is left to let go of."""


class MetronomeDriver:
    """Makes shops; as it is ``standalone``, every mdev host has one."""

    name = "metronome"
    device_api = "vfio-pci"
    standalone = True

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> Shop:  # noqa: ARG002
        """Make one; it takes no attributes."""
        if attributes:
            raise MdevError(EINVAL, f"parent {name} takes no attributes")
        return Shop()


METRONOME: MdevDriver = MetronomeDriver()
"""Entry point of group ``pvnet.mdev``."""
