"""Driver of PCI serial cards in a partition: class 0x0700, programming interface 02 (16550), one port per I/O BAR.

It takes any such card, not only ours.  A port is looked for as Linux does it: the enable bits of IER, the scratch
register, the loop from MCR to MSR; IIR then says whether it has FIFOs.  Then it runs at 115200 8N1.

* **Receiving**: the handler reads RBR while LSR says that there is something, into a buffer of 4 KiB.  When that is
  full it switches the receive interrupt off and leaves the rest to the card and its line; :meth:`SerialFile.read`
  switches it on again.
* **Sending**: a write goes into a buffer of 4 KiB, and as much as fits into the port at once; it takes what there is
  room for, 0 bytes when the line does not move (:attr:`SerialFile.on_writable` tells when it does).  Each time that THR
  is empty the handler fills it, 16 bytes with FIFOs; without any left it switches that interrupt off.
* The handler looks at IIR of every port until none has a cause, at most 64 times.  Then it unmasks the irq, which comes
  again if a cause is left; where it is no level (MSI), the handler makes such a port raise it anew.

A card that has gone reads all ones, which ends every loop here.

Spec: mdev 7.3, 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import (
    DisableIrq,
    EnableIrq,
    GuestContext,
    GuestFile,
    GuestSteps,
    RegionRead,
    RegionWrite,
    UnmaskIrq,
)
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciIrq, PciRegion, RegionFlag
from pvnet.mdev.pci import COMMAND_INTX_OFF, COMMAND_IO
from pvnet.mdev.uart_registers import DLAB, FIFO_BYTES, REGISTERS, Cause, Fcr, Ier, Lsr, Mcr, Msr, Register
from pvnet.papr.errno import ENODEV

BUFFER_BYTES: Final = 4096
ROUNDS: Final = 64
"""How often a handler looks at all ports."""
BURST: Final = 256
"""Most bytes read from one port in a row."""

_CLASS: Final = bytes((0x02, 0x00, 0x07))
_COMMAND: Final = 0x04
_BAR0: Final = 0x10
_BARS: Final = 6
_HEADER_BYTES: Final = 0x40
_LEVEL_8: Final = 0x80
_FIFOS: Final = 0xC0
_8N1: Final = 0x03
_ENABLES: Final = 0x0F
_GONE: Final = 0xFF
_IIR_CAUSE: Final = 0x0F


class SerialFile:
    """A port: ``/dev/ttyS<n>``.

    :ivar on_writable: called when, after a write that took less than all, half of the buffer is free.
    """

    size: int | None = None

    def __init__(self, region: int) -> None:
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.region = region
        self.depth = 1
        self.counters = Counters()
        self._received = bytearray()
        self._unsent = bytearray()
        self._short = False
        self._ier = 0

    # --- for programs ---

    @property
    def readable(self) -> bool:
        """Whether something has come."""
        return bool(self._received)

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:  # noqa: ARG002
        """Take what has come, at most ``count`` bytes."""
        data = bytes(self._received[:count])
        del self._received[:count]
        if data and self._ier and not self._ier & Ier.RECEIVED and len(self._received) <= BUFFER_BYTES // 2:
            yield from self._enable(self._ier | Ier.RECEIVED)
        return data

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:  # noqa: ARG002
        """Send; returns how many bytes there was room for.

        :raises MdevError: ENODEV, the driver has let go of the port.
        """
        if not self._ier:
            raise MdevError(ENODEV, "the port is gone")
        self._short = False
        taken = self._accept(data)
        if self._unsent:
            if (yield from self._line_status()) & Lsr.THR_EMPTY:
                yield from self._fill()
            taken += self._accept(data[taken:])
            yield from self._enable_sending()
        self._short = taken < len(data)
        return taken

    def flush(self) -> GuestSteps[None]:
        """Nothing that a character device could make durable."""
        yield from ()

    def _accept(self, data: bytes) -> int:
        piece = data[: BUFFER_BYTES - len(self._unsent)]
        self._unsent += piece
        return len(piece)

    # --- for the driver ---

    def find(self) -> GuestSteps[bool]:
        """Look whether there is a port behind this BAR."""
        yield from self.store(Register.IER, 0)
        off = (yield from self.load(Register.IER)) & _ENABLES
        yield from self.store(Register.IER, _ENABLES)
        on = (yield from self.load(Register.IER)) & _ENABLES
        yield from self.store(Register.IER, 0)
        scratch = []
        for value in (0x55, 0xAA):
            yield from self.store(Register.SCR, value)
            scratch.append((yield from self.load(Register.SCR)))
        yield from self.store(Register.MCR, Mcr.LOOP | Mcr.OUT2 | Mcr.RTS)
        looped = (yield from self.load(Register.MSR)) & 0xF0
        yield from self.store(Register.MCR, 0)
        return (off, on, scratch, looped) == (0, _ENABLES, [0x55, 0xAA], Msr.DCD | Msr.CTS)

    def set_up(self) -> GuestSteps[None]:
        """FIFOs, speed, modem lines; no interrupts yet."""
        yield from self.store(Register.LCR, DLAB | _8N1)
        yield from self.store(Register.DATA, 1)
        yield from self.store(Register.IER, 0)
        yield from self.store(Register.LCR, _8N1)
        yield from self.store(Register.FCR, Fcr.ENABLE | Fcr.CLEAR_RX | Fcr.CLEAR_TX | _LEVEL_8)
        fifos = (yield from self.load(Register.FCR)) & _FIFOS == _FIFOS
        self.depth = FIFO_BYTES if fifos else 1
        yield from self.store(Register.MCR, Mcr.DTR | Mcr.RTS | Mcr.OUT2)
        for register in (Register.LSR, Register.DATA, Register.FCR, Register.MSR):
            yield from self.load(register)

    def start(self) -> GuestSteps[None]:
        """Let interrupts come."""
        yield from self._enable(Ier.RECEIVED | Ier.LINE_STATUS)

    def stop(self) -> GuestSteps[None]:
        """No interrupts, modem lines down."""
        self._ier = 0
        yield from self.store(Register.IER, 0)
        yield from self.store(Register.MCR, 0)

    def raise_again(self) -> GuestSteps[None]:
        """Let what is pending be an edge once more."""
        yield from self.store(Register.IER, 0)
        yield from self.store(Register.IER, self._ier)

    def serve(self) -> GuestSteps[bool]:
        """Look for a cause and serve it; whether there was one."""
        cause = yield from self.load(Register.FCR)
        if cause & Cause.NONE:
            return False
        self.counters["interrupts"] += 1
        status = yield from self._line_status()
        if status == _GONE:
            return False
        if status & Lsr.DATA_READY:
            status = yield from self._receive(status)
        if self._unsent and status & Lsr.THR_EMPTY:
            yield from self._fill()
        yield from self._enable_sending()
        if cause & _IIR_CAUSE == Cause.MODEM_STATUS:
            yield from self.load(Register.MSR)
        return True

    def _receive(self, status: int) -> GuestSteps[int]:
        came = 0
        while status & Lsr.DATA_READY and status != _GONE and came < BURST:
            if len(self._received) >= BUFFER_BYTES:
                self.counters["throttled"] += 1
                yield from self._enable(self._ier & ~Ier.RECEIVED)
                break
            self._received.append((yield from self.load(Register.DATA)))
            came += 1
            status = yield from self._line_status()
        self.counters["received"] += came
        if came and self.on_readable is not None:
            self.on_readable()
        return status

    def _fill(self) -> GuestSteps[None]:
        """THR is empty: write as many bytes as fit."""
        piece = bytes(self._unsent[: self.depth])
        del self._unsent[: len(piece)]
        for value in piece:
            yield from self.store(Register.DATA, value)
        self.counters["sent"] += len(piece)
        if self._short and len(self._unsent) <= BUFFER_BYTES // 2:
            self._short = False
            if self.on_writable is not None:
                self.on_writable()

    def _enable_sending(self) -> GuestSteps[None]:
        wanted = self._ier | Ier.THR_EMPTY if self._unsent else self._ier & ~Ier.THR_EMPTY
        if wanted != self._ier:
            yield from self._enable(wanted)

    def _line_status(self) -> GuestSteps[int]:
        status = yield from self.load(Register.LSR)
        if status & Lsr.OVERRUN and status != _GONE:
            self.counters["overruns"] += 1
        return status

    def _enable(self, ier: int) -> GuestSteps[None]:
        self._ier = ier
        yield from self.store(Register.IER, ier)

    def load(self, register: int) -> GuestSteps[int]:
        """Read a register."""
        return (yield RegionRead(self.region, register, 1))[0]

    def store(self, register: int, value: int) -> GuestSteps[None]:
        """Write a register."""
        yield RegionWrite(self.region, register, bytes((value,)))

    def shown(self) -> Mapping[str, object]:
        """Counters, and what lies in the buffers."""
        return {**self.counters, "unread": len(self._received), "unsent": len(self._unsent), "fifo": self.depth}


class SerialGuest:
    """Driver of one card."""

    def __init__(self, context: GuestContext) -> None:
        self.files: Sequence[tuple[str, GuestFile]] = ()
        self.ports: list[SerialFile] = []
        self._context = context
        self._irq = _irq_of(context)

    def probe(self) -> GuestSteps[None]:
        """Find the ports.

        :raises MdevError: ENODEV, there is none.
        """
        command = int.from_bytes(self._context.config[_COMMAND : _COMMAND + 2], "little")
        wanted = (command | COMMAND_IO) & ~COMMAND_INTX_OFF
        if wanted != command:
            yield RegionWrite(PciRegion.CONFIG, _COMMAND, wanted.to_bytes(2, "little"))
        found = []
        for bar in _io_bars(self._context):
            port = SerialFile(bar)
            if (yield from port.find()):
                yield from port.set_up()
                found.append(port)
        if not found:
            raise MdevError(ENODEV, "no 16550 behind any BAR")
        self.ports = found
        self.files = [("ttyS", port) for port in found]
        yield EnableIrq(self._irq)
        for port in found:
            yield from port.start()

    def irq(self, index: int) -> GuestSteps[None]:
        """Serve every port until none has anything left."""
        busy = False
        for _ in range(ROUNDS):
            busy = False
            for port in self.ports:
                busy |= yield from port.serve()
            if not busy:
                break
        if self._context.irqs[index].flags & IrqFlag.AUTOMASKED:
            yield UnmaskIrq(index)
        elif busy:
            for port in self.ports:
                yield from port.raise_again()

    def remove(self) -> GuestSteps[None]:
        """Silence the ports; a device that is gone already is fine."""
        try:
            for port in self.ports:
                yield from port.stop()
            yield DisableIrq(self._irq)
        except MdevError:
            return

    def shown(self) -> Mapping[str, object]:
        """What went through the ports."""
        return {f"port{index}": dict(port.shown()) for index, port in enumerate(self.ports)}


def _io_bars(context: GuestContext) -> list[int]:
    bars = []
    for bar in range(_BARS):
        info = context.regions[bar]
        is_io = context.config[_BAR0 + 4 * bar] & 1
        if is_io and info.size >= REGISTERS and info.flags & RegionFlag.READ and info.flags & RegionFlag.WRITE:
            bars.append(bar)
    return bars


def _irq_of(context: GuestContext) -> int:
    for index in (PciIrq.INTX, PciIrq.MSI):
        if index < len(context.irqs) and context.irqs[index].count:
            return index
    return -1


class SerialGuestClass:
    """Recognises such cards."""

    name = "serial"

    def match(self, context: GuestContext) -> bool:
        """Whether it is one, with an interrupt and at least one BAR of I/O ports."""
        return (
            bool(context.device.flags & DeviceFlag.PCI)
            and len(context.config) >= _HEADER_BYTES
            and len(context.regions) > PciRegion.CONFIG
            and context.config[0x09:0x0C] == _CLASS
            and _irq_of(context) >= 0
            and bool(_io_bars(context))
        )

    def create(self, context: GuestContext) -> SerialGuest:
        """Make the driver of one card."""
        return SerialGuest(context)


SERIAL_GUEST: Final = SerialGuestClass()
