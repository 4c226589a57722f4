"""What a serial port is connected to, by URI: nothing, itself, another port, a terminal, a socket.

Both directions are bounded by :data:`LINE_BYTES` and flow-controlled to the end: bytes that the device has no room for
stay here, and then in the kernel, and then with whoever sends them; bytes that nobody outside takes are refused, and
the device hears when there is room again.  While nobody is connected, what a port sends is lost, as with a cable whose
other end lies on the floor: a guest's console must not stop because nobody watches it.

============================  =========================================================================================
``none``                      takes everything, says nothing
``loop``                      what is sent comes back
``port:NAME``                 the other port of this process with the same NAME
``pty``                       a pseudo terminal, raw; its address is ``pty:/dev/pts/N``
``tcp:HOST:PORT``             connects, again and again
``tcp-listen:HOST:PORT``      waits, for one at a time; port 0 is any that is free, as the address then says
``unix:PATH``                 as ``tcp``, to a unix stream socket
``unix-listen:PATH``          as ``tcp-listen``; only our own user can connect
============================  =========================================================================================

Bytes are always handed to the device from the event loop, never from within its own :meth:`SerialLine.send`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from pvnet.mdev.device import LineReceiver, SerialLine
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EBUSY, EINVAL
from pvnet.runtime.topology_net import link_end
from pvnet.vfio.line_pty import PtyLine
from pvnet.vfio.line_socket import ConnectLine, ListenLine
from pvnet.vfio.line_stream import LINE_BYTES

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EXPECTED: Final = (
    "expected none, loop, pty, tcp:HOST:PORT, tcp-listen:HOST:PORT, unix:PATH, unix-listen:PATH or port:NAME"
)


class NoLine(SerialLine):
    """Connected to nothing."""

    address = "none"

    def __init__(self) -> None:
        self.lost = 0

    def send(self, data: bytes) -> int:
        """Lose them."""
        self.lost += len(data)
        return len(data)

    def resume(self) -> None:
        """Nothing was kept."""

    def take(self) -> tuple[bytes, bytes]:
        """Nothing waits."""
        return b"", b""

    def put(self, data: bytes) -> None:
        """Lose them."""

    def close(self) -> None:
        """Nothing to let go of."""


class PairedLine(SerialLine):
    """An end of a cable within this process; ``peer`` is the other end, itself for ``loop``, None: nobody yet."""

    def __init__(self, address: str, receiver: LineReceiver) -> None:
        self.address = address
        self.lost = 0
        self.peer: PairedLine | None = None
        self.on_close: Callable[[], None] = lambda: None
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._sent = bytearray()
        """On their way to the peer."""
        self._is_due = False
        self._is_owed = False
        self._is_held = False
        """What was on its way here was taken, and nothing more may set out."""
        self._is_closed = False

    @property
    def _room(self) -> int:
        is_held = self.peer is not None and self.peer._is_held
        return 0 if is_held else max(0, LINE_BYTES - len(self._sent))

    def send(self, data: bytes) -> int:
        """Send to the other end."""
        if self.peer is None:
            self.lost += len(data)
            return len(data)
        taken = data[: self._room]
        self._sent += taken
        self._is_owed = self._is_owed or len(taken) < len(data)
        self._due()
        return len(taken)

    def _due(self) -> None:
        if not self._is_due and (self._sent or self._is_owed):
            self._is_due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if self.peer is not None and self._sent:
            taken = self.peer._receiver.receive(bytes(self._sent))
            del self._sent[: max(0, taken)]
        if self._is_owed and self._room and not self._is_closed:
            self._is_owed = False
            self._receiver.writable()

    def resume(self) -> None:
        """Let the other end deliver what it keeps."""
        self._is_held = False
        if self.peer is not None:
            self.peer._due()

    def take(self) -> tuple[bytes, bytes]:
        """Take both directions off the cable."""
        came = b""
        self._is_held = True
        if self.peer is not None:
            came = bytes(self.peer._sent)
            self.peer._sent.clear()
        left = bytes(self._sent)  # of a loop it is what has come
        self._sent.clear()
        return came, left

    def put(self, data: bytes) -> None:
        """Send these to the other end first, now or when there is one."""
        self._sent[:0] = data
        self._due()

    def close(self) -> None:
        """Unplug."""
        if self._is_closed:
            return
        self._is_closed = True
        peer, self.peer = self.peer, None
        self.lost += len(self._sent)
        self._sent.clear()
        if peer is not None and peer is not self:
            peer.peer = None
            peer._due()  # there is room again ...
            peer.lost += len(peer._sent)
            peer._sent.clear()  # ... since what it has sent is lost
        self.on_close()


class PortHub:
    """The ports of this process that are connected to each other by name."""

    def __init__(self) -> None:
        self._ends: dict[str, list[PairedLine]] = {}

    def connect(self, name: str, receiver: LineReceiver) -> PairedLine:
        """Plug a port in.

        :raises MdevError: EINVAL no name, EBUSY both ends are in use.
        """
        if not _NAME.fullmatch(name):
            raise MdevError(EINVAL, f"line 'port:{name[:80]}': expected a name of letters, digits, '_', '.' and '-'")
        ends = self._ends.setdefault(name, [])
        if len(ends) > 1:
            raise MdevError(EBUSY, f"line 'port:{name}': two ports are connected to each other already")
        line = PairedLine(f"port:{name}", receiver)
        line.on_close = lambda: self._unplug(name, line)
        if ends:
            line.peer, ends[0].peer = ends[0], line
            ends[0]._due()
        ends.append(line)
        return line

    def _unplug(self, name: str, line: PairedLine) -> None:
        ends = self._ends[name]
        ends.remove(line)
        if not ends:
            del self._ends[name]


def open_line(uri: str, receiver: LineReceiver, ports: PortHub) -> SerialLine:
    """Connect a serial port; needs a running loop.  See the module's text.

    :raises MdevError: EINVAL the URI, EBUSY or EIO it cannot be had.
    """
    kind, colon, rest = uri.partition(":")
    match kind:
        case "none" if not colon:
            return NoLine()
        case "loop" if not colon:
            line = PairedLine("loop", receiver)
            line.peer = line
            return line
        case "pty" if not colon:
            return PtyLine(receiver)
        case "port":
            return ports.connect(rest, receiver)
        case "tcp" | "tcp-listen":
            try:
                address = link_end(kind, rest)
            except ValueError as error:
                raise MdevError(EINVAL, f"line {uri[:120]!r}: expected {error}") from None
            return ConnectLine(uri, address, receiver) if kind == "tcp" else ListenLine(uri, address, receiver)
        case "unix" | "unix-listen" if rest:
            return ConnectLine(uri, rest, receiver) if kind == "unix" else ListenLine(uri, rest, receiver)
    raise MdevError(EINVAL, f"line {uri[:120]!r}: {_EXPECTED}")
