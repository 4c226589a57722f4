"""Serial lines over stream sockets, TCP and unix: those that connect and those that wait."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Final, TypeAlias

from pvnet.core.errors import ConfigError
from pvnet.mdev.device import LineReceiver
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EACCES, EBUSY, EIO
from pvnet.vfio.line_stream import StreamLine
from pvnet.vfio.unix_listen import UnixListener

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
CONNECT_S: Final = 10.0

Address: TypeAlias = tuple[str, int] | str
"""Host and TCP port, or the path of a unix socket."""


class SocketLine(StreamLine):
    """A line whose other end is a connected socket."""

    def __init__(self, uri: str, receiver: LineReceiver) -> None:
        super().__init__(uri, receiver)
        self._sock: socket.socket | None = None

    def _plug(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a unix socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._connect(sock.fileno())

    def _close_fd(self) -> None:
        """Close the socket."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


class ConnectLine(SocketLine):
    """Connects, and again when the connection is lost, with pauses that double up to :data:`LONGEST_PAUSE_S`."""

    def __init__(self, uri: str, address: Address, receiver: LineReceiver) -> None:
        super().__init__(uri, receiver)
        self._to = address
        self._lost = asyncio.Event()
        self._task = self._loop.create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(CONNECT_S):
                    sock = await self._dial()
                self._lost.clear()
                self._plug(sock)
                await self._lost.wait()
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _dial(self) -> socket.socket:
        if isinstance(self._to, str):
            return _dialled_unix(self._to)
        host, port = self._to
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure: OSError = OSError(f"{host}: no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await self._loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure

    def _gone(self) -> None:
        super()._gone()
        self._lost.set()

    def close(self) -> None:
        """Disconnect, and connect no more."""
        self._task.cancel()
        super().close()


class ListenLine(SocketLine):
    """Waits for one at a time; whoever comes while somebody is there is disconnected at once.

    :raises MdevError: EBUSY the address is in use, EACCES, EIO.
    """

    def __init__(self, uri: str, address: Address, receiver: LineReceiver) -> None:
        super().__init__(uri, receiver)
        self._unix: UnixListener | None = None
        try:
            if isinstance(address, str):
                self._unix = UnixListener(address)
                self._listener = self._unix.sock
            else:
                self._listener = _listening(*address)
                host, port = self._listener.getsockname()[:2]
                self.address = f"tcp-listen:[{host}]:{port}" if ":" in host else f"tcp-listen:{host}:{port}"
        except ConfigError as error:
            raise MdevError(EIO, f"line {uri[:120]!r}: {error}") from None
        except OSError as error:
            code = EACCES if isinstance(error, PermissionError) else EBUSY
            raise MdevError(code, f"line {uri[:120]!r}: {error.strerror or error}") from None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if self._fd >= 0 and self._has_left():
            self._gone()
        if self._fd >= 0:
            sock.close()
        else:
            self._plug(sock)

    def _has_left(self) -> bool:
        """Whether who is connected has closed: it is not read from while the device takes nothing."""
        poll = select.poll()
        poll.register(self._fd, select.POLLRDHUP)
        return not self._is_watched and bool(poll.poll(0))

    def close(self) -> None:
        """Disconnect, and wait no more."""
        if self._is_closed:
            return
        super().close()
        self._loop.remove_reader(self._listener.fileno())
        if self._unix is not None:
            self._unix.close()
        else:
            self._listener.close()


def _dialled_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except (OSError, ValueError) as error:
        sock.close()
        raise OSError(str(error)) from None
    return sock


def _listening(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.create_server(address[:2], family=family, backlog=4)
    sock.setblocking(False)
    return sock
