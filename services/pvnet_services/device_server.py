"""Sockets at which programs that know nothing of the lab find a character device of this partition.

Each connection is one open file; the protocol is :mod:`pvnet.vmc.device_protocol`.  What a client may cost is bounded:
so many connections, so many calls of each, and one that does not read its answers is not read from either.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Final, cast

from pvnet.core.errors import ConfigError
from pvnet.papr.errno import EMFILE, ENOENT
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.management_pb2 import DeviceSocket
from pvnet.runtime.device_address import DeviceAddress
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.endpoints import read_endpoints, write_endpoint
from pvnet.transport.unix_hello import credentials
from pvnet.vfio.unix_listen import UnixListener
from pvnet.vmc.device_protocol import DeviceCall, Frame, Op, ServerMachine
from pvnet_services.device_files import VMC_PATH, DeviceFiles

_OPERATIONS: Final = {
    Op.IOCTL: DeviceIo.IOCTL,
    Op.READ: DeviceIo.READ,
    Op.WRITE: DeviceIo.WRITE,
    Op.POLL: DeviceIo.POLL,
    Op.CLOSE: DeviceIo.CLOSE,
}
_BUFFER_BYTES: Final = 256 << 10
"""Answers that a client has not taken; above it no more is read from it."""
_STOP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """``connections`` at once, all sockets together; ``sockets`` to listen at.

    A connection says HELLO within ``hello_s`` seconds, and takes its answers within ``slow_s``.
    """

    connections: int = 256
    sockets: int = 16
    hello_s: float = 5.0
    slow_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Listening:
    address: DeviceAddress
    server: asyncio.Server
    unix: UnixListener | None = None


class DeviceServer:
    """The device sockets of one partition.  ``directory`` is the lab's, where programs look for them ("": nowhere)."""

    def __init__(
        self,
        files: DeviceFiles,
        endpoint: Endpoint,
        directory: str,
        *,
        paths: Iterable[str] = (VMC_PATH,),
        limits: ServerLimits = ServerLimits(),
    ) -> None:
        self.files, self.endpoint, self.limits = files, endpoint, limits
        self.paths = frozenset(paths)
        self.counters: Counter[str] = Counter()
        self.connections: dict[int, Connection] = {}
        """By number, oldest first."""
        self.numbers = count(1)
        self._directory = directory
        self._listening: dict[str, _Listening] = {}
        self._one = asyncio.Lock()

    @property
    def uris(self) -> list[str]:
        """Where it listens, with the ports that it got."""
        return list(self._listening)

    async def start(self, uris: Iterable[str]) -> None:
        """Listen at every address.

        A partition that is started again in the same lab keeps the ports that it got: clients know them.

        Raises:
            ConfigError: one is wrong or cannot be had; none is listened at.
        """
        earlier = self._earlier()
        ports = [place for place in earlier if place.startswith("tcp:")]
        try:
            for uri in uris:
                await self._add_again(uri, ports)
        except ConfigError:
            await self.stop()
            raise
        if earlier and not self._listening:
            self._tell()  # what was added while it ran is not there any more

    async def _add_again(self, uri: str, ports: list[str]) -> None:
        """Listen; where any port will do, at the first of ``ports`` (taken out of it) that was for this address."""
        address = DeviceAddress.parse(uri)
        if address.path is None and address.port == 0:
            for place in ports:
                again = replace(address, port=int(place.rpartition(":")[2]))
                if again.place == place:
                    ports.remove(place)
                    try:
                        await self.add(str(again))
                    except ConfigError as error:
                        instead = "another free port"
                        self.endpoint.log.warning("port_lost", place=place, error=str(error), instead=instead)
                        break
                    return
        await self.add(uri)

    def _earlier(self) -> list[str]:
        """Where this partition listened before it was started again, in order."""
        known = read_endpoints(self._directory).get("device") if self._directory else None
        return [str(place) for place in known] if isinstance(known, list) else []

    async def command(self, wanted: DeviceSocket) -> dict[str, object]:
        """Run the management command; returns all addresses, and the one that it was about.

        Raises:
            ConfigError: the address is wrong, cannot be had, or is not there.
        """
        uri = await (self.remove(wanted.uri) if wanted.remove else self.add(wanted.uri))
        return {"uri": uri, "uris": self.uris}

    async def add(self, uri: str) -> str:
        """Listen at an address; returns it with the port that it got.

        Raises:
            ConfigError: it is wrong, cannot be had, or is one too many.
        """
        address = DeviceAddress.parse(uri)
        if address.path is not None and not address.path.is_absolute():
            raise ConfigError(f"device socket {uri[:120]!r}: expected an absolute path")
        async with self._one:
            if address.port != 0 or address.path is not None:
                self._check_new(address)
            if len(self._listening) >= self.limits.sockets:
                raise ConfigError(f"device socket {uri[:120]}: expected at most {self.limits.sockets} at once")
            made = await self._listen(address)
            self._listening[made.address.place] = made
            self._tell()
        self.endpoint.log.info("device_socket", uri=made.address.place)
        return made.address.place

    def _check_new(self, address: DeviceAddress) -> None:
        if address.place in self._listening:
            raise ConfigError(f"device socket {address.place}: is there already")

    async def _listen(self, address: DeviceAddress) -> _Listening:
        loop = asyncio.get_running_loop()
        make: Callable[[], Connection] = partial(Connection, self, is_unix=address.path is not None)
        if address.path is not None:
            unix = UnixListener(address.path, backlog=64)
            return _Listening(address, await loop.create_unix_server(make, sock=unix.sock.dup()), unix)
        context = address.context(listen=True)
        handshake = None if context is None else self.limits.hello_s
        try:
            server = await loop.create_server(
                make, address.host, address.port, ssl=context, ssl_handshake_timeout=handshake, backlog=64
            )
        except OSError as error:
            raise ConfigError(f"device socket {address.place}: cannot listen: {error.strerror or error}") from None
        return _Listening(replace(address, port=server.sockets[0].getsockname()[1]), server)

    async def remove(self, uri: str) -> str:
        """Listen there no more; returns the address.  Connections that came that way stay.

        Raises:
            ConfigError: nobody listens there.
        """
        place = DeviceAddress.parse(uri).place
        async with self._one:
            listening = self._listening.pop(place, None)
            if listening is None:
                have = ", ".join(self._listening) or "none"
                raise ConfigError(f"device socket {place[:120]}: is not there; there are: {have}")
            self._let_go(listening)
            self._tell()
        return place

    async def stop(self) -> None:
        """Listen nowhere and close every connection with its file; idempotent."""
        for listening in self._listening.values():
            self._let_go(listening)
        self._listening.clear()  # what the lab's directory says stays: started again, it has the same ports
        for connection in list(self.connections.values()):
            connection.end("the partition ends")
        gone = [connection.gone for connection in self.connections.values()]
        if gone:
            await asyncio.wait(gone, timeout=_STOP_S)
        for connection in list(self.connections.values()):
            connection.abort()

    def _let_go(self, listening: _Listening) -> None:
        listening.server.close()
        if listening.unix is not None:
            listening.unix.close()

    def _tell(self) -> None:
        if self._directory:
            write_endpoint(self._directory, "device", self.uris)

    def make_room(self) -> bool:
        """See whether one more connection may stay; closes the oldest that has not said HELLO where it must."""
        if len(self.connections) < self.limits.connections:
            return True
        silent = next((c for c in self.connections.values() if not c.machine.is_open), None)
        if silent is None:
            self.counters["refused_full"] += 1
            return False
        self.counters["silent_closed"] += 1
        silent.abort()
        return True

    def shown(self) -> dict[str, object]:
        """Return what ``show_status`` tells."""
        return {"uris": self.uris, "connections": len(self.connections), "counters": dict(self.counters)}


class Connection(asyncio.Protocol):
    """One connection: one open file."""

    def __init__(self, server: DeviceServer, *, is_unix: bool) -> None:
        self._server = server
        self._is_unix = is_unix
        self._loop = asyncio.get_running_loop()
        self._number = next(server.numbers)
        self._owner = (f"socket:{self._number}", self._number)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.machine = ServerMachine(
            perform=self._perform, interrupt=self._interrupt, send=self._send, close=self._finish
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, if it may come and there is room."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        server, sock = self._server, transport.get_extra_info("socket")
        if self._is_unix:
            uid = credentials(sock)[1]
            if uid not in {0, os.geteuid()}:
                server.counters["refused_uid"] += 1
                server.endpoint.log.warning("device_socket_refused", uid=uid)
                transport.abort()
                return
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a peer whose host has gone says nothing
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        if not server.make_room():
            transport.write(Frame(Op.HELLO, 1, -EMFILE).reply())
            transport.close()
            return
        server.connections[self._number] = self
        server.counters["connections"] += 1
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._timer = self._loop.call_later(server.limits.hello_s, self._too_late, "silent_closed")

    def data_received(self, data: bytes) -> None:
        """Pass on what the client says."""
        if self._number not in self._server.connections:
            return
        self.machine.receive(data)
        if self.machine.is_open and self._timer is not None and self._transport.is_reading():
            self._stop_timer()

    def pause_writing(self) -> None:
        """Do not take more calls from a client that does not take its answers."""
        self._transport.pause_reading()
        self._stop_timer()
        self._timer = self._loop.call_later(self._server.limits.slow_s, self._too_late, "slow_closed")

    def resume_writing(self) -> None:
        """Go on with a client that has taken its answers."""
        self._stop_timer()
        if not self._is_lost and not self.machine.is_over:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Close the file."""
        self._is_lost = True
        self._stop_timer()
        if self._server.connections.pop(self._number, None) is not None:
            self._server.counters.update(self.machine.counters)
            self._server.files.owner_died(self._owner[0])
        if not self.gone.done():
            self.gone.set_result(None)

    def end(self, reason: str) -> None:
        """Close when what was answered has left."""
        self._server.endpoint.log.debug("device_socket_closed", reason=reason)
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _too_late(self, counter: str) -> None:
        self._timer = None
        self._server.counters[counter] += 1
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- the machine's outputs ----------------------------------------------------------------------------------------

    def _perform(self, call: DeviceCall) -> None:
        if call.op == Op.HELLO:
            if call.path not in self._server.paths:
                self.machine.done(call.tag, -ENOENT)
                return
            asked = DeviceIo(operation=DeviceIo.OPEN, path=call.path)
        else:
            asked = DeviceIo(operation=_OPERATIONS[call.op], handle=call.handle, data=call.data, nonblock=call.nonblock)
            if call.op == Op.IOCTL:
                asked.command = call.argument
            elif call.op == Op.READ:
                asked.count = call.argument
        done = partial(self.machine.done, call.tag)
        self._server.files.call(self._owner, call.tag, asked, done, self._is_alive)

    def _interrupt(self, tag: int) -> None:
        asked = DeviceIo(operation=DeviceIo.INTERRUPT, interrupts=tag)
        self._server.files.call(self._owner, 0, asked, lambda *_: None, self._is_alive)

    def _is_alive(self) -> bool:
        return not self._is_lost

    def _send(self, data: bytes) -> None:
        if not self._is_lost:
            self._transport.write(data)

    def _finish(self, reason: str) -> None:
        if not self._is_lost:
            self.end(reason)
