"""A serial port of a card: a UART, and the line that it is connected to for now.

A migration takes what waits in the line along.  Until the card goes on, here or elsewhere, the port keeps it; then the
bytes that were on their way out go to the line, and those that had come go to the UART before anything that the line
says.  So they count as being in the line: a reset does not touch them, and another line does not either.  A further
stream replaces what the last one has brought.

Spec: mdev 8.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from pvnet.mdev.device import Cancellable, DriverServices, SerialLine
from pvnet.mdev.uart16550 import Uart16550
from pvnet.mdev.uart_registers import CONNECTED, UartState

NO_LINE: Final = "none"


class Card(Protocol):
    """What a port needs of its card."""

    def irq_output(self, port: SerialPort) -> None:
        """The interrupt output of ``port`` has changed."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable | None:
        """Call back later; None: nobody has the card open."""
        ...


class _Plug:
    """A port's end of one line; a line that was replaced reaches nothing any more."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port

    def receive(self, data: bytes) -> int:
        """Take bytes from the line."""
        return self._port.receive(data) if self._port.plug is self else 0

    def writable(self) -> None:
        """The line has room."""
        if self._port.plug is self:
            self._port.writable()


class SerialPort:
    """A UART and its line (:class:`~pvnet.mdev.uart_registers.UartWires`)."""

    def __init__(self, card: Card, services: DriverServices) -> None:
        self._card = card
        self._services = services
        self._line: SerialLine | None = None
        self._uri = ""
        self.plug: _Plug | None = None
        self.sent = 0
        self.received = 0
        self._lost = 0
        """Of lines that were connected before."""
        self._came = b""
        """Was taken out of a line, here or where the card comes from; goes to the UART before anything else."""
        self._left = b""
        """Likewise outward; only while the card is stopped."""
        self.uart = Uart16550(self)

    @property
    def address(self) -> str:
        """Where the line leads."""
        return self._line.address if self._line is not None else NO_LINE

    @property
    def traffic(self) -> str:
        """Bytes, as an attribute: what the line took, what came, what nobody got.

        Lost are bytes that came into a full UART, and those of ``sent`` that the line took while nobody was connected.
        """
        lost = self.uart.lost + self._lost + _lost_by(self._line)
        return f"sent {self.sent} received {self.received} lost {lost}"

    def connect(self, uri: str) -> None:
        """Change the line; the old one stays if the new one cannot be had.

        :raises MdevError: as of :meth:`~pvnet.mdev.device.DriverServices.line`.
        """
        if self._line is not None and uri == self._uri:
            return
        plug = _Plug(self)
        line = self._services.line(uri, plug)
        first = self._line is None
        self.close()
        self._line, self._uri, self.plug = line, uri, plug
        self.uart.connected(0 if uri == NO_LINE else CONNECTED, silently=first)
        # The new line may have had bytes before it was this port's.
        line.resume()

    def close(self) -> None:
        """Disconnect."""
        line, self._line, self.plug = self._line, None, None
        if line is not None:
            line.close()
            self._lost += _lost_by(line)

    def receive(self, data: bytes) -> int:
        """Let the UART have bytes of the line."""
        if not self._feed():
            return 0
        taken = self.uart.receive(data)
        self.received += taken
        return taken

    def transmit(self, data: bytes) -> int:
        """Send bytes of the UART; without a line they stay."""
        if self._line is None:
            return 0
        taken = self._line.send(data)
        self.sent += taken
        return taken

    def room(self) -> None:
        """Let the line hand over what it kept."""
        if self._feed() and self._line is not None:
            self._line.resume()

    def writable(self) -> None:
        """The line has room."""
        self.uart.writable()

    def resume(self) -> None:
        """Go on, with what was taken out of the line."""
        left, self._left = self._left, b""
        if left and self._line is not None:
            self._line.put(left)
        self.uart.resume()
        self.room()

    def _feed(self) -> bool:
        """Give the UART what came along; whether that is all of it."""
        if self._came:
            taken = self.uart.receive(self._came)
            self.received += taken
            self._came = self._came[taken:]
        return not self._came

    def waiting(self) -> tuple[bytes, bytes]:
        """Return what waits in the line, inward and outward; the card is stopped, and may stay after all."""
        if self._line is not None:
            came, left = self._line.take()
            self._came += came
            self._left += left
        return self._came, self._left

    def load(self, state: UartState, came: bytes, left: bytes) -> None:
        """Take over a port of another host, and what waited in its line."""
        self._came, self._left = came, left
        self.uart.load(state)

    def changed(self) -> None:
        """The UART's interrupt output has changed."""
        self._card.irq_output(self)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable | None:
        """Time passes only while somebody has the card open."""
        return self._card.call_later(delay_s, callback)


def _lost_by(line: SerialLine | None) -> int:
    lost: int = getattr(line, "lost", 0)
    return lost
