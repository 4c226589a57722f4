"""A switch port whose other end is another lab's switch, over TCP or TLS.

Written ``tcp-listen:HOST:PORT`` on one side and ``tcp:HOST:PORT`` on the other (``tls-listen:``, ``tls:``).  The side
that connects has one port, which stays through disconnections and connects again with growing pauses; the side that
listens gets a port for every switch that connects.  Messages: :mod:`pvnet.vbus.link_codec`.

* Nothing is a port before the other side's hello came; a side that sends no hello, or anything else that makes no
  sense, is disconnected.
* What is not yet sent is bounded (``MOST_UNSENT``): a slow link drops, and says how much, as a full cable would.
* Over ``tcp`` whoever reaches the port is believed; ``tls`` checks certificates, and the listener asks for one if it
  has a CA file.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

import structlog

from pvnet.core.errors import ConfigError, WireError
from pvnet.core.machine import Counters
from pvnet.net.link_address import LinkAddress, LinkOptions, LinkTls, error_text
from pvnet.net.running_switch import RunningSwitch
from pvnet.vbus.link_codec import LINK_HEADER_BYTES, LinkDecoder, LinkHello, encode_link_hello, encode_link_packets
from pvnet.vbus.packet import Packet
from pvnet.vbus.vnet_header import VNET_HEADER_BYTES, VnetHeaders

MOST_UNSENT: Final = 4 << 20
"""Bytes that may wait to be sent on one link."""
MOST_PEERS: Final = 16
"""Switches that may be connected to one listener."""

_MOST_CONNECTIONS: Final = 4 * MOST_PEERS
"""Connections to one listener, those included that have not said hello."""
_HEADERS: Final = LINK_HEADER_BYTES + VNET_HEADER_BYTES
_DEAD_AFTER_MS: Final = 20_000

_log = structlog.get_logger()


class LinkConnection(asyncio.BufferedProtocol):
    """One connection, of either side.  ``hello`` is the other side's once ``ready`` is done with ``True``."""

    def __init__(self, options: LinkOptions, on_ready: Callable[[LinkConnection], None] = lambda _link: None) -> None:
        loop = asyncio.get_running_loop()
        self.options = options
        self.hello: LinkHello | None = None
        self.peer = ""
        self.on_packets: Callable[[list[Packet]], None] = lambda _packets: None
        self.counters = Counters()
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._on_ready = on_ready
        self._transport: asyncio.Transport | None = None
        self._decoder = LinkDecoder(options.accepts)
        self._headers = VnetHeaders()
        self._reason = ""
        self._hello_timer = loop.call_later(options.hello_s, self.close, f"no hello within {options.hello_s:g} s")

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        # A cast, because uvloop's transports are not of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)
        if self.lost.done():  # closed before it was there
            self._transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        control = transport.get_extra_info("socket")
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS),
        ):
            control.setsockopt(level, option, value)
        options = self.options
        self._transport.write(encode_link_hello(LinkHello(options.lab, options.name, options.mtu, options.accepts)))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Return where to put what comes."""
        return self._decoder.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came: the hello first, then packets, handed on in one call."""
        self._decoder.wrote(nbytes)
        packets: list[Packet] = []
        try:
            for message in self._decoder.messages():
                if isinstance(message, Packet):
                    if self.hello is None:
                        raise WireError("a packet before the hello")
                    packets.append(message)
                elif self.hello is not None:
                    raise WireError("a second hello")
                else:
                    self.hello = message
                    self._hello_timer.cancel()
                    self._on_ready(self)
                    self.ready.set_result(True)
        except WireError as error:
            self.close(str(error))
        if packets and self._transport is not None:
            self.on_packets(packets)

    def eof_received(self) -> bool:
        """Close when the other side does."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._hello_timer.cancel()
        self._transport = None
        if not self.ready.done():
            self.ready.set_result(False)
        if not self.lost.done():
            self.lost.set_result(
                self._reason or (error_text(exc) if isinstance(exc, OSError) else "closed by the other side")
            )

    # ours

    @property
    def mtu(self) -> int:
        """The smaller one of both sides' MTUs."""
        return min(self.options.mtu, self.hello.mtu if self.hello else self.options.mtu)

    @property
    def accepts(self) -> int:
        """What may travel with work left to do: what both sides take."""
        return self.options.accepts & self.hello.accepts if self.hello else 0

    def send(self, packets: list[Packet]) -> int:
        """Send packets from the front as far as there is room; return how many."""
        transport = self._transport
        if transport is None or self.hello is None:
            return 0
        room = MOST_UNSENT - transport.get_write_buffer_size()
        count = 0
        for packet in packets:
            room -= packet.length + _HEADERS
            if room < 0:
                self.counters["send_buffer_full"] += len(packets) - count
                break
            count += 1
        if count:
            try:
                transport.write(encode_link_packets(packets[:count], self._headers))
            except WireError:
                # Somebody's offload fields fit no header: only those packets are lost.
                self._send_each(transport, packets[:count])
        return count

    def _send_each(self, transport: asyncio.Transport, packets: list[Packet]) -> None:
        for packet in packets:
            try:
                transport.write(encode_link_packets([packet], self._headers))
            except WireError:
                self.counters["bad_offload"] += 1

    def close(self, reason: str) -> None:
        """Disconnect at once; ``reason`` is what :attr:`lost` says."""
        self._hello_timer.cancel()
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()
        else:
            self.connection_lost(None)


class ConnectingLink:
    """The side that connects: one :class:`~pvnet.vbus.packet.NetPort` that stays while connections come and go.

    While there is no connection everything is dropped.  ``on_change`` is called with ``True`` and ``False``.
    """

    def __init__(
        self, address: LinkAddress, options: LinkOptions, tls: LinkTls | None = None, *, name: str | None = None
    ) -> None:
        """Check the options; :meth:`start` connects.

        Raises:
            ConfigError: a TLS file is wrong.
        """
        self.name = name or str(address)
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self.on_change: Callable[[bool], None] = lambda _up: None
        self.counters = Counters()
        self.last_error = ""
        self._address = address
        self._options = options
        self._tls = (tls or LinkTls()).context(listen=False) if address.tls else None
        self._link: LinkConnection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the other switch is there."""
        return self._link is not None

    @property
    def state(self) -> str:
        """How the link is; '' while it is up."""
        return "" if self.up else f"down ({self.last_error or 'not connected yet'})"

    @property
    def mtu(self) -> int:
        """The MTU agreed, or ours while there is no connection."""
        return self._link.mtu if self._link else self._options.mtu

    @property
    def accepts(self) -> int:
        """The offloads agreed."""
        return self._link.accepts if self._link else 0

    def deliver(self, packets: list[Packet]) -> int:
        """Send packets if the link is up."""
        return self._link.send(packets) if self._link else 0

    def start(self) -> None:
        """Connect from now on, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link {self.name}")

    async def close(self) -> None:
        """Disconnect and connect no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        pause = self._options.first_pause_s
        while True:
            reason, was_up = await self._connection()
            if was_up:
                pause = self._options.first_pause_s
            if reason != self.last_error or was_up:
                _log.warning("link_down", link=self.name, reason=reason)
                self.last_error = reason
            # Not all that lost the same switch should come back at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, self._options.longest_pause_s)

    def _received(self, packets: list[Packet]) -> None:
        self.receive(packets)

    async def _connection(self) -> tuple[str, bool]:
        """Connect and stay until it ends; return why, and whether the other switch was there."""
        loop = asyncio.get_running_loop()
        address, options = self._address, self._options
        link = LinkConnection(options)
        try:
            try:
                async with asyncio.timeout(options.hello_s):
                    await loop.create_connection(
                        lambda: link,
                        address.host,
                        address.port,
                        ssl=self._tls,
                        server_hostname=address.host if self._tls else None,
                    )
            except TimeoutError:
                return f"no connection within {options.hello_s:g} s", False
            except OSError as error:
                return error_text(error), False
            if not await link.ready:
                return await link.lost, False
            assert link.hello is not None
            link.on_packets = self._received
            self._link = link
            self.counters["connections"] += 1
            _log.info("link_up", link=self.name, lab=link.hello.lab, switch=link.hello.name, mtu=link.mtu)
            self.on_change(True)
            try:
                return await link.lost, True
            finally:
                self._link = None
                self.counters.update(link.counters)
                self.on_change(False)
        finally:
            link.close("closed here")


class PeerPort:
    """A switch that connected to us, as a port."""

    def __init__(self, name: str, link: LinkConnection) -> None:
        self.name = name
        self.link = link

    @property
    def receive(self) -> Callable[[list[Packet]], None]:
        """What is called with packets that came."""
        return self.link.on_packets

    @receive.setter
    def receive(self, receive: Callable[[list[Packet]], None]) -> None:
        self.link.on_packets = receive

    @property
    def mtu(self) -> int:
        """The MTU agreed."""
        return self.link.mtu

    @property
    def accepts(self) -> int:
        """The offloads agreed."""
        return self.link.accepts

    def deliver(self, packets: list[Packet]) -> int:
        """Send packets."""
        return self.link.send(packets)


class ListeningLink:
    """The side that listens: plugs a port into ``switch`` for every switch that connects."""

    def __init__(
        self, address: LinkAddress, options: LinkOptions, switch: RunningSwitch, tls: LinkTls | None = None
    ) -> None:
        """Check the options; :meth:`start` listens.

        Raises:
            ConfigError: a TLS file is wrong or missing.
        """
        self.peers: dict[str, PeerPort] = {}
        self.counters = Counters()
        self._address = address
        self._options = options
        self._switch = switch
        self._tls = (tls or LinkTls()).context(listen=True) if address.tls else None
        self._links: set[LinkConnection] = set()
        self._server: asyncio.Server | None = None

    @property
    def state(self) -> str:
        """How many switches are connected."""
        return f"listening, {len(self.peers)} connected"

    @property
    def port(self) -> int:
        """The TCP port, also when 0 was asked for."""
        assert self._server is not None
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def start(self) -> None:
        """Listen from now on.

        Raises:
            ConfigError: the address cannot be had.
        """
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, self._address.host, self._address.port, ssl=self._tls
            )
        except OSError as error:
            raise ConfigError(f"link {self._address}: {error_text(error)}") from None

    async def close(self) -> None:
        """Listen no more and disconnect everybody."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.close("closed here")
        await asyncio.gather(*(link.lost for link in self._links))
        await asyncio.sleep(0)  # the callbacks of those futures unplug the ports
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _connection(self) -> LinkConnection:
        link = LinkConnection(self._options, self._ready)
        if len(self._links) >= _MOST_CONNECTIONS:
            self.counters["too_many_connections"] += 1
            link.close("too many connections")
            return link
        self._links.add(link)
        link.lost.add_done_callback(lambda _: self._links.discard(link))
        return link

    def _ready(self, link: LinkConnection) -> None:
        hello = link.hello
        assert hello is not None
        if len(self.peers) >= MOST_PEERS:
            self.counters["too_many_peers"] += 1
            link.close(f"{MOST_PEERS} switches are connected already")
            return
        name = self._switch.free_name(f"link:{hello.lab}/{hello.name}")
        port = self.peers[name] = PeerPort(name, link)
        self._switch.plug(port)
        _log.info("link_up", link=name, peer=link.peer, mtu=link.mtu)
        link.lost.add_done_callback(lambda lost: self._gone(name, lost.result()))

    def _gone(self, name: str, reason: str) -> None:
        del self.peers[name]
        self._switch.unplug(name)
        _log.warning("link_down", link=name, reason=reason)
