"""Connections of the NovaLink service: bounded in number and in time, whoever opens them.

We accept by ourselves, so that a connection counts from its first moment, before TLS.  With ``most`` connections there
the one that has been idle for longest is closed for a new one (idle: nothing of it is being answered); when none is,
nothing is accepted until one is done.  Each phase has an end: TLS, the head of a request, its body, sending the answer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from pvnet.core.errors import ConfigError

HEAD_S: Final = 10.0
"""How long the head of a request may take, from the connection or the last answer."""
TLS_S: Final = 10.0
SEND_S: Final = 30.0
_BACKLOG: Final = 1024
_ACCEPT_PAUSE_S: Final = 0.1
_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CLIENT_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})
BODY_MAX: Final = 1 << 20
"""Most bytes of a request's body."""


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ErrorAnswer = Callable[[web.BaseRequest, int, BaseException | None, str | None], web.StreamResponse]


class Connection(RequestHandler):
    """One HTTP connection, which says when it is idle and does not send for ever."""

    def __init__(self, server: HttpServer, entry: Entry) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=HEAD_S,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=8190,
            max_field_size=8190,
            lingering_time=2.0,
            auto_decompress=False,
            tcp_keepalive=False,
        )
        self.entry = entry
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        super().connection_made(transport)
        self.entry.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self._server.table.remove(self.entry)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; a client that does not take it loses its connection."""
        try:
            async with asyncio.timeout(SEND_S):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self._server.table.counters["slow_readers"] += 1
            self.force_close()
            return resp, True
        finally:
            self._server.table.idle(self.entry)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what failed in a way that nobody foresaw."""
        return self._server.error_answer(request, status, exc, message)


class HttpServer(web.Server):
    """Makes our connections; ``error_answer`` is for what never becomes a request."""

    def __init__(self, handler: Handler, error_answer: ErrorAnswer, table: Table) -> None:
        super().__init__(handler, request_factory=self._request)
        self.error_answer = error_answer
        self.table = table

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        if isinstance(protocol, Connection):
            self.table.busy(protocol.entry)
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_MAX)


class Entry:
    """A connection in the table: its socket, and its transport once it has one."""

    __slots__ = ("address", "secure", "sock", "transport")

    def __init__(self, sock: socket.socket, address: tuple[str, int], *, secure: bool) -> None:
        self.sock = sock
        self.address = address
        self.secure = secure
        self.transport: asyncio.BaseTransport | None = None

    def end(self) -> None:
        """End the connection at once, whatever it is doing."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        else:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)  # TLS finds an end, and closes
            except OSError:
                self.sock.close()


class Table:
    """The connections of all listeners together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.counters: Counter[str] = Counter()
        self.on_full: list[Callable[[], None]] = []
        """Told when no connection is idle and one more wants to come."""
        self._idle: OrderedDict[Entry, None] = OrderedDict()  # the one idle for longest first
        self._busy: set[Entry] = set()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    @property
    def busy_ones(self) -> int:
        """Connections of which something is being answered."""
        return len(self._busy)

    async def room(self) -> None:
        """Wait until there is room for one more; closes one that is idle if that makes it."""
        while len(self) >= self.most:
            if self._idle:
                entry, _ = self._idle.popitem(last=False)
                self.counters["idle_closed"] += 1
                entry.end()
                return
            self.counters["all_busy"] += 1
            for callback in self.on_full:
                callback()
            self._room.clear()
            await self._room.wait()

    def add(self, entry: Entry) -> None:
        """Take a new connection."""
        self.counters["accepted"] += 1
        self._idle[entry] = None

    def busy(self, entry: Entry) -> None:
        """Say that something of it is being answered."""
        if self._idle.pop(entry, entry) is None:
            self._busy.add(entry)

    def idle(self, entry: Entry) -> None:
        """Say that all of it is answered."""
        if entry in self._busy:
            self._busy.remove(entry)
            self._idle[entry] = None
            self._room.set()

    def remove(self, entry: Entry) -> None:
        """Let go of a connection."""
        self._idle.pop(entry, None)
        self._busy.discard(entry)
        self._room.set()

    def end_all(self) -> None:
        """End all connections."""
        for entry in [*self._idle, *self._busy]:
            entry.end()


class Listener:
    """One address; :meth:`run` accepts until it is cancelled."""

    def __init__(self, host: str, port: int, server: HttpServer, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._shaking: set[asyncio.Task[None]] = set()
        self._sock = _listen(host, port)
        self.address: tuple[str, int] = self._sock.getsockname()[:2]

    async def run(self) -> None:
        """Accept connections, for as long as there are any to accept."""
        loop = asyncio.get_running_loop()
        table = self._server.table
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    table.counters["out_of_files"] += 1
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                elif error.errno not in _CLIENT_GONE:
                    raise
                continue
            entry = Entry(sock, address[:2], secure=self._tls is not None)
            try:
                await table.room()  # only now: nobody is closed for one who does not come
            except asyncio.CancelledError:
                sock.close()
                raise
            table.add(entry)
            task = loop.create_task(self._serve(entry), name="novalink-connection")
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _serve(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        table = self._server.table
        try:
            entry.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: Connection(self._server, entry),
                entry.sock,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_S if self._tls is not None else None,
            )
        except (OSError, asyncio.IncompleteReadError):  # ssl.SSLError and a handshake that takes too long are OSErrors
            table.counters["no_connection"] += 1
            table.remove(entry)
            entry.sock.close()

    async def close(self) -> None:
        """Listen no more."""
        self._sock.close()
        for task in list(self._shaking):
            task.cancel()
        await asyncio.gather(*self._shaking, return_exceptions=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"[novalink] host = {host!r}: {error.strerror}; expected an address of this machine"
        ) from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        expected = "expected a free port (0: any) at an address of this machine"
        raise ConfigError(f"[novalink] {host}:{port}: {error.strerror}; {expected}") from None
    sock.setblocking(False)
    return sock
