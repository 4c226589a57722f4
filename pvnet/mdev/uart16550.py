"""A 16550A serial port as a machine: eight registers, two FIFOs of 16 bytes, one interrupt; no line, no bus, no clock.

What the port of the original does (spec 8.1) and what this one does instead:

=========  ========================================================  ==================================================
Register   mtty                                                      here, as the chip
=========  ========================================================  ==================================================
0 RBR/THR  one FIFO: what is sent is received; a full one looks      a FIFO each way; THR goes to the line, RBR of an
           empty                                                     empty one reads 0
0, 1 DLAB  bytes are OR-ed into the divisor, setting DLAB clears it  DLL and DLM are stored; 12 (9600 baud) after reset
1 IER      stored whole, read & 0x0f                                 4 bits stored
2 FCR      level decoded, then forced to 1; bit 1 or 2 clears; bit   level 1/4/8/14; bit 1 clears RX, bit 2 TX, a change
           0: depth 16, else 1                                       of bit 0 both; without bit 0 depth 1, level 1
2 IIR      OR of the causes, | 0xC0                                  the highest of 06, 04 or 0C, 02, 00, else 01; 0xC0
                                                                     only with FIFOs
3 LCR      stored                                                    stored
4 MCR      stored; OUT2, RTS and DTR raise interrupts                5 bits stored; bit 4 is the loop
5 LSR      0x60 while the one FIFO is empty; overrun stays           0x60 while nothing waits in TX; OE ends when read
6 MSR      constants; CTS goes down with auto flow control           inputs, and what has changed since the last read
7 SCR      stored                                                    stored
=========  ========================================================  ==================================================

* **Interrupts.**  06 line status (IER.2): overrun.  04 (IER.0): RX has reached its level.  0C (IER.0): it has not, but
  for 4 character times nothing came and nothing was read (looked at every 4, so up to 8).  02 (IER.1): TX has become
  empty, or IER.1 was set while it is; ends when IIR tells it or THR is written.  00 (IER.3): a modem input has changed.
  OUT2 gates nothing, as with mtty.
* **Speed** exists only as the length of a character time.  A byte goes out at once; what the line does not take stays
  in TX, and THRE stays down until all of it is gone.  A byte comes in only while RX has room, so none overruns.
* **Loop** (MCR bit 4): TX goes to RX, which overruns as the chip's (the new byte is lost; without FIFO the old one);
  DTR, RTS, OUT1, OUT2 appear as DSR, CTS, RI, DCD; the line hears nothing and keeps what it has.
* Bit 6 of LCR (break) is stored and sends nothing: a line has no break.

Spec: mdev 8.1; the data sheet of the 16550D.
"""

from __future__ import annotations

from typing import Final

from pvnet.mdev.device import Cancellable
from pvnet.mdev.uart_registers import (
    DLAB,
    FIFO_BYTES,
    LEVELS,
    TIMEOUT_CHARACTERS,
    Cause,
    Fcr,
    Ier,
    Lsr,
    Mcr,
    Msr,
    Register,
    UartState,
    UartWires,
    character_s,
)

_IIR_FIFOS: Final = 0xC0
_IER_BITS: Final = 0x0F
_MCR_BITS: Final = 0x1F
_INPUTS: Final = 0xF0
_LEVEL_BITS: Final = 0xC0
_IDLE: Final = 0x60
_LOOP_WIRES: Final = ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80))
"""Bits of MCR, and where they appear in MSR."""


class Uart16550:
    """The port.

    :ivar pending: its interrupt output.
    :ivar lost: bytes written to a THR without room, and bytes that overran in the loop.
    """

    def __init__(self, wires: UartWires) -> None:
        self._wires = wires
        self._inputs = 0
        self._running = True
        self._sending = False
        self._more = False
        self._refused = False
        self._active = False
        self._timer: Cancellable | None = None
        self.pending = False
        self.lost = 0
        self._ier = self._fcr = self._lcr = self._mcr = self._scr = self._divisor = self._modem = self._changes = 0
        self._rx = self._tx = bytearray()
        self._overrun = self._thr_empty_pending = self._timed_out = False
        self._depth = self._level = 1
        self._take(UartState())

    # --- the registers ---

    def read(self, register: int) -> int:
        """Read one of the 8 registers."""
        if register == Register.LSR:
            value = (0 if self._tx else _IDLE) | (1 if self._rx else 0)
            if self._overrun:
                self._overrun = False
                self._update()
                return value | Lsr.OVERRUN
            return value
        if register == Register.DATA:
            return self._divisor & 0xFF if self._lcr & DLAB else self._receive_buffer()
        if register == Register.FCR:
            return self._identify()
        if register == Register.IER:
            return self._divisor >> 8 if self._lcr & DLAB else self._ier
        if register == Register.MSR:
            value = self._modem | self._changes
            self._changes = 0
            self._update()
            return value
        return (self._lcr, self._mcr, 0, 0, self._scr)[register - Register.LCR]

    def write(self, register: int, value: int) -> None:
        """Write a byte to one of the 8 registers; LSR and MSR ignore it."""
        if register == Register.DATA:
            if self._lcr & DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif register == Register.IER:
            if self._lcr & DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            else:
                self._enable(value & _IER_BITS)
        elif register == Register.FCR:
            self._control_fifos(value)
        elif register == Register.LCR:
            self._lcr = value
        elif register == Register.MCR:
            self._control_modem(value & _MCR_BITS)
        elif register == Register.SCR:
            self._scr = value

    # --- the line ---

    def receive(self, data: bytes) -> int:
        """Take bytes from the line; returns how many, :meth:`UartWires.room` follows if not all."""
        room = 0 if self._mcr & Mcr.LOOP or not self._running else self._depth - len(self._rx)
        taken = max(0, min(room, len(data)))
        if taken < len(data):
            self._refused = True
        if taken:
            self._rx += data[:taken]
            self._active = True
            self._watch()
            self._update()
        return taken

    def writable(self) -> None:
        """The line has room again."""
        self._drain()
        self._update()

    def connected(self, inputs: int, *, silently: bool = False) -> None:
        """Another line: it has these modem inputs (as ever, if ``silently``), and takes what the last one did not."""
        self._inputs = inputs & _INPUTS
        if silently:
            self._modem = self._inputs
        self._sense()
        self._drain()
        self._update()

    # --- life ---

    def pause(self) -> None:
        """Neither send nor receive, let no time pass; registers answer."""
        self._running = False
        self.let_go()

    def resume(self) -> None:
        """Go on, also after a new :meth:`UartWires.call_later` has become possible."""
        self._running = True
        self._drain()
        self._ask()
        self._watch()
        self._update()

    def let_go(self) -> None:
        """Call the timer off: its owner is going."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reset(self) -> None:
        """As after power on; the line stays."""
        self.load(UartState(modem=self._inputs))

    def state(self) -> UartState:
        """Everything, to be loaded elsewhere."""
        return UartState(
            ier=self._ier,
            fcr=self._fcr,
            lcr=self._lcr,
            mcr=self._mcr,
            scr=self._scr,
            divisor=self._divisor,
            rx=bytes(self._rx),
            tx=bytes(self._tx),
            overrun=self._overrun,
            thr_empty_pending=self._thr_empty_pending,
            timed_out=self._timed_out,
            modem=self._modem | self._changes,
        )

    def load(self, state: UartState) -> None:
        """Take a state over; where the line here has other modem inputs, they have changed.

        Stopped, it sends what waits in TX when it goes on.
        """
        self.let_go()
        self._take(state)
        self._sense()
        self._drain()
        self._ask()
        self._watch()
        self._update()

    def _take(self, state: UartState) -> None:
        self._set_fcr(state.fcr)
        self._ier, self._mcr = state.ier & _IER_BITS, state.mcr & _MCR_BITS
        self._lcr, self._scr = state.lcr, state.scr
        self._divisor = state.divisor
        self._rx, self._tx = bytearray(state.rx), bytearray(state.tx)
        self._overrun = state.overrun
        self._thr_empty_pending = state.thr_empty_pending
        self._timed_out = state.timed_out
        self._modem = state.modem & _INPUTS
        self._changes = state.modem & ~_INPUTS

    # --- the interrupt ---

    def cause(self) -> int:
        """The highest of what is pending: low half of IIR."""
        ier = self._ier
        if ier & Ier.LINE_STATUS and self._overrun:
            return Cause.LINE_STATUS
        if ier & Ier.RECEIVED and self._rx:
            if len(self._rx) >= self._level:
                return Cause.RECEIVED
            if self._timed_out:
                return Cause.TIMEOUT
        if ier & Ier.THR_EMPTY and self._thr_empty_pending:
            return Cause.THR_EMPTY
        if ier & Ier.MODEM_STATUS and self._changes:
            return Cause.MODEM_STATUS
        return Cause.NONE

    def _update(self) -> None:
        pending = self.cause() != Cause.NONE
        if pending is not self.pending:
            self.pending = pending
            self._wires.changed()

    def _identify(self) -> int:
        cause = self.cause()
        if cause == Cause.THR_EMPTY:
            self._thr_empty_pending = False
            self._update()
        return cause | _IIR_FIFOS if self._fcr & Fcr.ENABLE else cause

    def _enable(self, ier: int) -> None:
        if ier & ~self._ier & Ier.THR_EMPTY and not self._tx:
            self._thr_empty_pending = True
        self._ier = ier
        self._watch()
        self._update()

    # --- receiving ---

    def _receive_buffer(self) -> int:
        rx = self._rx
        if not rx:
            return 0
        value = rx[0]
        del rx[0]
        self._active = True
        self._timed_out = False
        if not rx:
            self._ask()
        self._watch()
        self._update()
        return value

    def _ask(self) -> None:
        """Ask the line for what was refused, once RX is empty: 16 bytes at a time, not one."""
        if self._refused and self._running and not self._rx and not self._mcr & Mcr.LOOP:
            self._refused = False
            self._wires.room()

    def _watch(self) -> None:
        """Time runs while less than the level is there and nobody was told."""
        if (
            self._timer is None
            and self._running
            and not self._timed_out
            and self._ier & Ier.RECEIVED
            and 0 < len(self._rx) < self._level
        ):
            self._active = False
            self._timer = self._wires.call_later(
                TIMEOUT_CHARACTERS * character_s(self._lcr, self._divisor), self._expired
            )

    def _expired(self) -> None:
        self._timer = None
        if not self._active and 0 < len(self._rx) < self._level:
            self._timed_out = True
            self._update()
        else:
            self._watch()

    # --- sending ---

    def _transmit(self, value: int) -> None:
        if len(self._tx) >= self._depth:
            self.lost += 1
            if self._fcr & Fcr.ENABLE:
                return
            self._tx.clear()
        self._thr_empty_pending = False
        self._tx.append(value)
        self._drain()
        self._update()

    def _drain(self) -> None:
        """Send what waits in TX, as far as it goes."""
        if self._sending:
            self._more = True
            return
        if not self._tx or not self._running:
            return
        if self._mcr & Mcr.LOOP:
            self._loop()
        else:
            self._sending = self._more = True
            try:
                while self._more and self._tx:
                    self._more = False
                    taken = self._wires.transmit(bytes(self._tx))
                    del self._tx[: max(0, taken)]
            finally:
                self._sending = False
        if not self._tx:
            self._thr_empty_pending = True

    def _loop(self) -> None:
        for value in self._tx:
            if len(self._rx) >= self._depth:
                self._overrun = True
                self.lost += 1
                if self._fcr & Fcr.ENABLE:
                    continue
                self._rx.clear()
            self._rx.append(value)
        self._tx.clear()
        self._active = True
        self._watch()

    # --- control ---

    def _set_fcr(self, fcr: int) -> None:
        enabled = fcr & Fcr.ENABLE
        self._fcr = fcr & (_LEVEL_BITS | Fcr.ENABLE) if enabled else 0
        self._depth = FIFO_BYTES if enabled else 1
        self._level = LEVELS[fcr >> 6] if enabled else 1

    def _control_fifos(self, fcr: int) -> None:
        toggled = (fcr ^ self._fcr) & Fcr.ENABLE
        if not fcr & Fcr.ENABLE and not toggled:
            return
        self._set_fcr(fcr)
        if toggled or fcr & Fcr.CLEAR_RX:
            self._rx, self._timed_out = bytearray(), False
        if self._tx and (toggled or fcr & Fcr.CLEAR_TX):
            self._tx.clear()
            self._thr_empty_pending = True
        self._ask()
        self._watch()
        self._update()

    def _control_modem(self, mcr: int) -> None:
        self._mcr = mcr
        self._sense()
        self._drain()
        self._ask()
        self._update()

    def _sense(self) -> None:
        """Look at the modem inputs and remember what has changed."""
        now = self._inputs
        if self._mcr & Mcr.LOOP:
            now = sum(to for wire, to in _LOOP_WIRES if self._mcr & wire)
        changed = now ^ self._modem
        self._changes |= changed >> 4 & ~Msr.TRAILING_RI
        if changed & Msr.RI and not now & Msr.RI:
            self._changes |= Msr.TRAILING_RI
        self._modem = now
