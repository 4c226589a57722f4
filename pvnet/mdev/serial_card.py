"""``mtty``: a PCI card with one or two 16550A serial ports, as the kernel's sample of that name.

======  ===========================================================================================================
type    what it is
======  ===========================================================================================================
mtty-1  "Single port serial", port 0 behind BAR0
mtty-2  "Dual port serial", port 1 behind BAR1
======  ===========================================================================================================

A parent has 24 ports for all its cards together.  PCI 4348:3253, class 0x070002; BARs of 8 I/O ports, the registers of
:mod:`pvnet.mdev.uart16550`; 256 bytes of configuration space.  One interrupt, up while any port has something pending:
INTx as a level (unless bit 10 of the command register forbids it), MSI as an edge whenever a port begins to.  REQ asks
the user to let go.

An access wider than a byte acts as with mtty: it is cut into naturally aligned pieces of 4, 2 and 1 bytes, each of
which is one register access with its first byte; the other bytes read 0 (mtty leaves them undefined) and are ignored.
The device advertises RESET, which mtty serves without saying so.

Attributes: ``port0``, ``port1``, what a port is connected to (``loop`` unless given), an URI of
:meth:`~pvnet.mdev.device.DriverServices.line`, at any time; ``traffic0``, ``traffic1`` and ``sample_mdev_dev`` are read
only.  A port whose line is ``none`` has its modem inputs down.

Spec: mdev 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pvnet.mdev.device import Cancellable, DeviceBase, DeviceHost, DriverServices, MdevType, Region
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import PCI_REGIONS, DeviceFlag, IrqFlag, PciIrq, PciRegion, RegionFlag
from pvnet.mdev.pci import CONFIG_BYTES, Bar, ConfigSpace
from pvnet.mdev.serial_port import SerialPort
from pvnet.mdev.serial_stream import SerialMigration, Waiting
from pvnet.mdev.uart_registers import REGISTERS, UartState
from pvnet.papr.errno import EINVAL, ENOENT, ENOSPC, EPERM

POOL_PORTS: Final = 24
DEFAULT_LINE: Final = "loop"

TYPES: Final = (
    MdevType("1", "Single port serial", "PCI card with one 16550A"),
    MdevType("2", "Dual port serial", "PCI card with two 16550As"),
)
_PORTS: Final = {"1": 1, "2": 2}

_RW: Final = int(RegionFlag.READ | RegionFlag.WRITE)
_IRQS: Final = (
    IrqInfo(1, IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED),
    IrqInfo(1, IrqFlag.EVENTFD | IrqFlag.NORESIZE),
    IrqInfo(),
    IrqInfo(),
    IrqInfo(1, IrqFlag.EVENTFD | IrqFlag.NORESIZE),
)


def config_image() -> bytes:
    """Return the configuration space after power on, without its BARs."""
    image = bytearray(CONFIG_BYTES)
    image[0x00:0x04] = image[0x2C:0x30] = bytes.fromhex("48435332")
    image[0x04:0x08] = bytes.fromhex("01000002")
    image[0x08:0x0C] = bytes.fromhex("10020007")
    image[0x3D] = 1
    for offset, value in ((0x40, 0x23), (0x43, 0x80), (0x44, 0x23), (0x48, 0x23), (0x4C, 0x23)):
        image[offset] = value
    name = b"PCI Serial/UART"
    image[0x60 : 0x60 + len(name)] = name
    return bytes(image)


class SerialCard(DeviceBase):
    """The card.

    :raises MdevError: EINVAL, an attribute that it does not have; and as of
        :meth:`~pvnet.mdev.device.DriverServices.line`.
    """

    def __init__(
        self,
        name: str,
        ports: int,
        attributes: Mapping[str, str],
        services: DriverServices,
        removed: Callable[[], None] = lambda: None,
    ) -> None:
        lines = {f"port{index}": DEFAULT_LINE for index in range(ports)}
        for key in attributes:
            if key not in lines:
                raise MdevError(EINVAL, f"attribute {key!r}: one of {', '.join(lines)}")
        lines.update(attributes)
        self.name = name
        self.flags = DeviceFlag.RESET | DeviceFlag.PCI
        self.irqs: Sequence[IrqInfo] = _IRQS
        self.ports = [SerialPort(self, services) for _ in lines]
        self.migration = SerialMigration(self, ports)
        self.read_only = frozenset({"sample_mdev_dev"} | {f"traffic{index}" for index in range(ports)})
        self._removed: Callable[[], None] | None = removed
        self._host: DeviceHost | None = None
        self._stopped = False
        self._level = False
        self._uarts = [port.uart for port in self.ports]
        self._config = ConfigSpace(config_image(), bars={index: Bar(REGISTERS, io=True) for index in range(ports)})
        sizes = {PciRegion.CONFIG: CONFIG_BYTES} | {PciRegion(index): REGISTERS for index in range(ports)}
        self._regions = [
            Region(RegionInfo(sizes[PciRegion(index)], _RW) if index in sizes else RegionInfo())
            for index in range(PCI_REGIONS)
        ]
        try:
            for port, uri in zip(self.ports, lines.values(), strict=True):
                port.connect(uri)
        except BaseException:
            self._disconnect()
            raise

    @property
    def regions(self) -> Sequence[Region]:
        """By index."""
        return self._regions

    # --- accesses ---

    def read(self, region: int, offset: int, length: int) -> bytes:
        """Read registers or configuration space."""
        if region < len(self._uarts):
            uart = self._uarts[region]
            if length == 1:
                return uart.read(offset).to_bytes(1, "little")
            return b"".join(uart.read(at).to_bytes(size, "little") for at, size in natural_pieces(offset, length))
        if region == PciRegion.CONFIG:
            return self._config.read(offset, length)
        raise MdevError(EINVAL, f"region {region}")

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write registers or configuration space."""
        if region < len(self._uarts):
            uart = self._uarts[region]
            for at, _size in natural_pieces(offset, len(data)):
                uart.write(at, data[at - offset])
        elif region == PciRegion.CONFIG:
            self._config.write(offset, data)
            self._tell_level()
        else:
            raise MdevError(EINVAL, f"region {region}")

    # --- life ---

    def open(self, host: DeviceHost) -> None:
        """Begin to tell interrupts, and let time pass."""
        self._host = host
        self._level = self._asserted()
        host.set_level(PciIrq.INTX, asserted=self._level)
        if not self._stopped:
            self._resume()

    def close(self) -> None:
        """Keep everything; bytes go on coming in as long as there is room."""
        self._host = None
        for uart in self._uarts:
            uart.let_go()

    def irq_changed(self, index: int) -> None:
        """Tell a new listener of MSI what is pending; of a level the framework tells it."""
        host = self._host
        if index != PciIrq.MSI or host is None or not host.irq_enabled(index):
            return
        if any(uart.pending for uart in self._uarts):
            host.signal(index)

    def reset(self) -> None:
        """As after power on; the lines stay connected, with all that waits in them."""
        self._config.reset()
        for uart in self._uarts:
            uart.reset()
        self._tell_level()

    def start(self) -> None:
        """Send and receive."""
        self._stopped = False
        self._resume()

    def stop(self) -> None:
        """Neither send nor receive; the lines keep what comes."""
        self._stopped = True
        for uart in self._uarts:
            uart.pause()

    def _resume(self) -> None:
        for port in self.ports:
            port.resume()

    def remove(self) -> None:
        """Disconnect, give the ports back; idempotent."""
        removed, self._removed = self._removed, None
        self._host = None
        self.stop()
        self._disconnect()
        if removed is not None:
            removed()

    def _disconnect(self) -> None:
        for port in self.ports:
            port.close()

    # --- migration ---

    def save(self) -> tuple[Sequence[UartState], bytes, Sequence[Waiting]]:
        """Return all that a migration carries."""
        return [uart.state() for uart in self._uarts], self._config.snapshot(), [p.waiting() for p in self.ports]

    def load(self, states: Sequence[UartState], config: bytes | None, lines: Sequence[Waiting]) -> None:
        """Take it over."""
        if config is not None:
            self._config.restore(config)
        for port, state, (came, left) in zip(self.ports, states, lines, strict=True):
            port.load(state, came, left)
        self._tell_level()

    # --- what the ports need ---

    def irq_output(self, port: SerialPort) -> None:
        """The interrupt output of a port has changed."""
        if self._host is not None:
            if port.uart.pending:
                self._host.signal(PciIrq.MSI)
            self._tell_level()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable | None:
        """Time of the host."""
        return self._host.call_later(delay_s, callback) if self._host is not None else None

    def _asserted(self) -> bool:
        return self._config.intx_enabled and any(uart.pending for uart in self._uarts)

    def _tell_level(self) -> None:
        level = self._asserted()
        if level is not self._level and self._host is not None:
            self._level = level
            self._host.set_level(PciIrq.INTX, asserted=level)

    # --- attributes ---

    def attributes(self) -> Mapping[str, str]:
        """All attributes."""
        shown = {f"port{index}": port.address for index, port in enumerate(self.ports)}
        shown |= {f"traffic{index}": port.traffic for index, port in enumerate(self.ports)}
        return shown | {"sample_mdev_dev": f"This is MDEV {self.name}"}

    def set(self, key: str, value: str) -> None:
        """Connect a port to something else.

        :raises MdevError: ENOENT, EPERM, and as of :meth:`~pvnet.mdev.device.DriverServices.line`.
        """
        for index, port in enumerate(self.ports):
            if key == f"port{index}":
                port.connect(value)
                return
        if key in self.read_only:
            raise MdevError(EPERM, f"attribute {key!r} is read-only")
        raise MdevError(ENOENT, f"attribute {key!r}")


def natural_pieces(offset: int, length: int) -> list[tuple[int, int]]:
    """Cut an access into naturally aligned pieces of 4, 2 and 1 bytes, as (offset, size)."""
    pieces = []
    end = offset + length
    while offset < end:
        size = 4 if not offset % 4 and offset + 4 <= end else 2 if not offset % 2 and offset + 2 <= end else 1
        pieces.append((offset, size))
        offset += size
    return pieces


class SerialParent:
    """A pool of ports, and the cards made of them."""

    def __init__(self, services: DriverServices) -> None:
        self.types: Sequence[MdevType] = TYPES
        self._services = services
        self._free = POOL_PORTS

    def available(self, type_name: str) -> int:
        """Free ports by ports per card."""
        return self._free // _PORTS[type_name]

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> SerialCard:
        """Make a card.

        :raises MdevError: ENOSPC too few ports left; and as of :class:`SerialCard`.
        """
        ports = _PORTS[type_name]
        if ports > self._free:
            raise MdevError(ENOSPC, f"{self._free} of {POOL_PORTS} ports are free")
        card = SerialCard(name, ports, attributes, self._services, lambda: self._give_back(ports))
        self._free -= ports
        return card

    def _give_back(self, ports: int) -> None:
        self._free += ports

    def attributes(self) -> Mapping[str, str]:
        """Size of the pool, and what is left of it."""
        return {"ports": str(POOL_PORTS), "free_ports": str(self._free)}

    def close(self) -> None:
        """Nothing to let go of."""


class SerialDriver:
    """The vendor driver."""

    name = "mtty"
    device_api = "vfio-pci"
    standalone = True

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> SerialParent:  # noqa: ARG002
        """Make a parent; it is purely virtual.

        :raises MdevError: EINVAL, there are no attributes.
        """
        if attributes:
            raise MdevError(EINVAL, f"attribute {min(attributes)!r}: an mtty parent has none to set")
        return SerialParent(services)


MTTY_DRIVER: Final = SerialDriver()
