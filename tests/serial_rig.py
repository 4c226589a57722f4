"""A UART with nothing but a test around it, and register sequences that several tests need."""

from __future__ import annotations

from collections.abc import Callable

from guest_runner import ManualTimer, ManualTimers

from pvnet.mdev.uart16550 import Uart16550
from pvnet.mdev.uart_registers import DLAB, Fcr, Register


class UartRig:
    """Wires that take ``budget`` bytes (None: any number); ``asked`` counts :meth:`room`, ``edges`` is its output."""

    def __init__(self) -> None:
        self.timers = ManualTimers()
        self.open = True
        self.budget: int | None = None
        self.out = bytearray()
        self.asked = 0
        self.edges: list[bool] = []
        self.uart = Uart16550(self)

    def transmit(self, data: bytes) -> int:
        taken = len(data) if self.budget is None else min(self.budget, len(data))
        if self.budget is not None:
            self.budget -= taken
        self.out += data[:taken]
        return taken

    def room(self) -> None:
        self.asked += 1

    def changed(self) -> None:
        self.edges.append(self.uart.pending)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer | None:
        return self.timers.call_later(delay_s, callback) if self.open else None

    # --- shorthands ---

    def get(self, register: int) -> int:
        return self.uart.read(register)

    def put(self, register: int, value: int) -> None:
        self.uart.write(register, value)

    def fifo(self, level: int = 0) -> None:
        """Both FIFOs on; ``level`` 0 to 3."""
        self.put(Register.FCR, Fcr.ENABLE | level << 6)

    def divisor(self, value: int) -> None:
        lcr = self.get(Register.LCR)
        self.put(Register.LCR, lcr | DLAB)
        self.put(Register.DATA, value & 0xFF)
        self.put(Register.IER, value >> 8)
        self.put(Register.LCR, lcr)
