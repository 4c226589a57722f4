"""Registers and bits of a 16550A, the state of a port as a value, and what a port needs around it.

The bits are plain integers: they are looked at several times per access.

Spec: mdev 8.1; the data sheet of the 16550D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pvnet.mdev.device import Cancellable

FIFO_BYTES: Final = 16
REGISTERS: Final = 8
BAUD_BASE: Final = 115200
POWER_ON_DIVISOR: Final = 12
TIMEOUT_CHARACTERS: Final = 4


class Register:
    """Offsets; 0 is RBR when read and THR when written, 2 IIR and FCR; with DLAB, 0 is DLL and 1 DLM."""

    DATA: Final = 0
    IER: Final = 1
    FCR: Final = 2
    LCR: Final = 3
    MCR: Final = 4
    LSR: Final = 5
    MSR: Final = 6
    SCR: Final = 7


class Ier:
    """Interrupt enable."""

    RECEIVED: Final = 0x01
    THR_EMPTY: Final = 0x02
    LINE_STATUS: Final = 0x04
    MODEM_STATUS: Final = 0x08


class Cause:
    """Low half of IIR."""

    MODEM_STATUS: Final = 0x00
    NONE: Final = 0x01
    THR_EMPTY: Final = 0x02
    RECEIVED: Final = 0x04
    LINE_STATUS: Final = 0x06
    TIMEOUT: Final = 0x0C


class Fcr:
    """FIFO control; the level is in bits 7 and 6."""

    ENABLE: Final = 0x01
    CLEAR_RX: Final = 0x02
    CLEAR_TX: Final = 0x04


class Mcr:
    """Modem control."""

    DTR: Final = 0x01
    RTS: Final = 0x02
    OUT1: Final = 0x04
    OUT2: Final = 0x08
    LOOP: Final = 0x10


class Lsr:
    """Line status."""

    DATA_READY: Final = 0x01
    OVERRUN: Final = 0x02
    THR_EMPTY: Final = 0x20
    TX_EMPTY: Final = 0x40


class Msr:
    """Modem status: four inputs, and below them which have changed (RI: has gone down)."""

    DELTA_CTS: Final = 0x01
    DELTA_DSR: Final = 0x02
    TRAILING_RI: Final = 0x04
    DELTA_DCD: Final = 0x08
    CTS: Final = 0x10
    DSR: Final = 0x20
    RI: Final = 0x40
    DCD: Final = 0x80


CONNECTED: Final = Msr.CTS | Msr.DSR | Msr.DCD
"""Modem inputs of a port with something at the other end of its line."""
DLAB: Final = 0x80
LEVELS: Final = (1, 4, 8, 14)


@dataclass(frozen=True, slots=True)
class UartState:
    """All of a port but its line; what a migration carries."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    divisor: int = POWER_ON_DIVISOR
    rx: bytes = b""
    tx: bytes = b""
    overrun: bool = False
    thr_empty_pending: bool = False
    timed_out: bool = False
    modem: int = 0
    """Inputs of the line in bits 7 to 4, changes that nobody has read yet in bits 3 to 0."""


class UartWires(Protocol):
    """What is around a port."""

    def transmit(self, data: bytes) -> int:
        """Send bytes out; returns how many went, ``writable`` follows if not all."""
        ...

    def room(self) -> None:
        """RX, which had refused bytes, has room again."""
        ...

    def changed(self) -> None:
        """The interrupt output has changed."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable | None:
        """Call back after ``delay_s`` seconds; None: no time passes now (``resume`` says when it does)."""
        ...


def character_s(lcr: int, divisor: int) -> float:
    """How long a character takes: start bit, 5 to 8 data bits, parity, 1, 1.5 or 2 stop bits; divisor 0 counts as 1."""
    data_bits = 5 + (lcr & 3)
    stop_bits = (2.0 if data_bits > 5 else 1.5) if lcr & 4 else 1.0
    return (1 + data_bits + (lcr >> 3 & 1) + stop_bits) * max(divisor, 1) / BAUD_BASE
