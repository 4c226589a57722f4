"""A serial port of a card: a UART, and the line that it is connected to for now.

Spec: mdev 8.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from pvnet.mdev.device import Cancellable, DriverServices, SerialLine
from pvnet.mdev.uart16550 import Uart16550
from pvnet.mdev.uart_registers import CONNECTED

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
        self._came = b""
        """Came in the line of another host, before the card moved here; goes to the UART before anything else."""
        self._left = b""
        """Was in that line, outward; goes out before anything else."""
        self.uart = Uart16550(self)

    @property
    def address(self) -> str:
        """Where the line leads."""
        return self._line.address if self._line is not None else NO_LINE

    @property
    def traffic(self) -> str:
        """Bytes, as an attribute."""
        return f"sent {self.sent} received {self.received} lost {self.uart.lost}"

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

    def receive(self, data: bytes) -> int:
        """Let the UART have bytes of the line."""
        if not self._feed():
            return 0
        taken = self.uart.receive(data)
        self.received += taken
        return taken

    def transmit(self, data: bytes) -> int:
        """Send bytes of the UART; without a line they stay."""
        if self._line is None or not self._flush():
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
        if self._flush():
            self.uart.writable()

    def _feed(self) -> bool:
        """Give the UART what came along; whether that is all of it."""
        if self._came:
            taken = self.uart.receive(self._came)
            self.received += taken
            self._came = self._came[taken:]
        return not self._came

    def _flush(self) -> bool:
        """Send what came along; whether that is all of it."""
        if self._left and self._line is not None:
            self._left = self._left[self._line.send(self._left) :]
        return not self._left

    def waiting(self) -> tuple[bytes, bytes]:
        """Take what waits in the line, inward and outward; kept here as well, should the card stay."""
        if self._line is not None:
            came, left = self._line.take()
            self._came += came
            self._left += left
        return self._came, self._left

    def bring(self, came: bytes, left: bytes) -> None:
        """Take over what waited in the line of another host."""
        self._came, self._left = came, left

    def changed(self) -> None:
        """The UART's interrupt output has changed."""
        self._card.irq_output(self)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable | None:
        """Time passes only while somebody has the card open."""
        return self._card.call_later(delay_s, callback)
