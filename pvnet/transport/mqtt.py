"""The MQTT transport: frames as QoS 1 messages of any MQTT 3.1.1 broker.

Topics are the contract's (``transport.base``).  A node subscribes once to everything addressed to it, and to the
state of the nodes it talks to; it publishes only with itself as source.

Decisions, from what was measured of aiomqtt and the brokers:

* A fresh ``aiomqtt.Client`` per connection, clean session: a re-entered client re-sends what it had reported as failed.
* ``publish`` is not awaited: the link layer acknowledges end to end; an awaited publish hangs at a disconnect.
* The hot path is our own (``transport.mqtt_wire``); aiomqtt connects, subscribes, keeps alive and sees the end.
* TCP_NODELAY always.  Reconnecting starts at 20 ms and doubles to 2 s, with full jitter.
* Brokers do not say when a SUBSCRIBE or PUBLISH is forbidden (3.1.1): the failure codes of SUBACK are checked, the rest
  shows as a peer that never answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import aiomqtt
import structlog

from pvnet.core.errors import ConfigError, PvnetError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.transport.base import TOPIC_ROOT, Channel, PortHandler, frame_topic, state_topic
from pvnet.transport.mqtt_wire import Wire, closing_of, give_up, limit_connecting, mourn
from pvnet.transport.uri import BrokerUrl

T = TypeVar("T")

_REFUSED_CREDENTIALS: Final = frozenset({4, 5, 134, 135})
_LAST_WORD_S: Final = 2.0
_FIRST_RETRY_S: Final = 0.02
_LAST_RETRY_S: Final = 2.0
_CONNECT_S: Final = 5.0
_LAST_WORDS_S: Final = 0.1
_KEEPALIVE_S: Final = 15
_KNOWN_TOPICS: Final = 10_000
_QUIET = logging.getLogger("pvnet.transport.mqtt.client")
_QUIET.setLevel(logging.CRITICAL)


class _TidySocket(ssl.SSLSocket):
    """Closed when its handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttPort:
    """A node's access to a broker; implements ``transport.base.Port``."""

    direct: Final = None

    def __init__(self, url: BrokerUrl, *, lab: str, name: NodeName, client_id: str) -> None:
        self.url = url
        self.lab = lab
        self.name = name
        self.connected = False
        self._client_id = client_id
        self._handler: PortHandler
        self._log = structlog.get_logger().bind(node=name)
        self._prefix = f"{TOPIC_ROOT}/{lab}/"
        self._topics: dict[tuple[str, str], bytes] = {}  # (destination, channel) -> topic
        self._sources: dict[bytes, tuple[str, str]] = {}  # topic -> (source, channel), ("", node) for a state
        self._watched: set[NodeName] = set()
        self._connections = 0
        self._client: aiomqtt.Client | None = None
        self._wire: Wire | None = None
        self._runner: asyncio.Task[None] | None = None
        self._subscriptions: set[asyncio.Task[None]] = set()
        self._last_word: bytes | None = None
        self._heard = asyncio.Event()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop
        self._tls: ssl.SSLContext | None = None

    # --- connecting --------------------------------------------------------------------------------------------------

    async def open(self, handler: PortHandler, *, timeout: float) -> None:
        """Connect for the first time; later losses are repaired in the background."""
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        if self.url.tls:
            self._tls = await asyncio.to_thread(self._tls_context)
        first: asyncio.Future[None] = self._loop.create_future()
        self._runner = self._loop.create_task(self._run(first), name=f"{self.name}:mqtt")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(first)
        except TimeoutError:
            await self.close(None)
            raise UnreachableError(f"broker {self.url.redacted()} did not answer within {timeout:g} s") from None
        except BaseException:
            await self.close(None)
            raise

    def _tls_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.url.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"CA file {self.url.ca_file}: expected PEM certificates ({error})") from None
        context.sslsocket_class = _TidySocket
        return context

    def _new_client(self) -> aiomqtt.Client:
        will = self._handler.next_will(self._connections + 1)
        client = aiomqtt.Client(
            self.url.host,
            self.url.port,
            username=self.url.username,
            password=self.url.password,
            identifier=self._client_id,
            logger=_QUIET,
            will=aiomqtt.Will(state_topic(self.lab, self.name), will, qos=1, retain=True),
            clean_session=True,
            keepalive=_KEEPALIVE_S,
            timeout=_CONNECT_S,
            tls_context=self._tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        limit_connecting(client, _CONNECT_S)
        return client

    async def _run(self, first: asyncio.Future[None]) -> None:
        """Keep a connection until closed; the first failure before there ever was one ends it."""
        wait = _FIRST_RETRY_S
        while not self._closing:
            try:
                await self._connection(first)
                problem: PvnetError = UnreachableError("connection closed")
            except aiomqtt.MqttError as error:
                problem = self._explain(error)
            except ConfigError as error:
                problem = error
            if self.connected:
                wait = _FIRST_RETRY_S
                self.connected = False
                self._handler.port_disconnected(str(problem))
            if not first.done():
                first.set_exception(problem)
                return
            if isinstance(problem, ConfigError):
                self._log.error("broker_refused", error=str(problem))
            await asyncio.sleep(random.uniform(0, wait))  # noqa: S311 - jitter
            wait = min(wait * 2, _LAST_RETRY_S)

    async def _connection(self, first: asyncio.Future[None]) -> None:
        """Live through one connection.

        Raises:
            aiomqtt.MqttError: there was none, or it broke.
            ConfigError: the broker does not let us subscribe.
        """
        client = self._new_client()
        closed = await self._enter(client)
        try:
            self._wire = Wire(client, self._message)
            await self._subscribe_all(client, closed, first)
            async for _ in client.messages:
                pass  # the wire takes them; this loop ends with an error when the connection does
        finally:
            self._client = self._wire = None
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
            mourn(client)

    async def _enter(self, client: aiomqtt.Client) -> asyncio.Future[None]:
        """Connect; return a future that is done when the connection has ended.

        aiomqtt leaves a connection that did not come about open.
        """
        closed = closing_of(client)
        try:
            await self._unless_closed(client.__aenter__(), closed, f"instead of answering{self._tls_hint()}")
        except BaseException:
            give_up(client)
            raise
        return closed

    def _tls_hint(self) -> str:
        return " (not a TLS port? then mqtt://)" if self.url.tls else " (a TLS port? then mqtts://)"

    async def _subscribe_all(
        self, client: aiomqtt.Client, closed: asyncio.Future[None], first: asyncio.Future[None]
    ) -> None:
        asked = {state_topic(self.lab, node) for node in self._watched}
        filters = [f"{self._prefix}{self.name}/#", *sorted(asked)]
        request = client.subscribe([(topic, 1) for topic in filters])
        codes = await self._unless_closed(request, closed, "while we subscribed")
        for topic, code in zip(filters, codes, strict=False):
            if _number(code) >= 0x80:
                raise ConfigError(f"broker {self.url.redacted()} does not let {self.name} subscribe to {topic}")
        self._client = client
        self.connected = True
        self._connections += 1
        self._handler.port_connected(self._connections)
        for node in sorted(self._watched):
            if state_topic(self.lab, node) not in asked:  # watched while subscribing
                self._subscribe(node)
        if not first.done():
            first.set_result(None)

    async def _unless_closed(self, waiting: Coroutine[Any, Any, T], closed: asyncio.Future[None], when: str) -> T:
        """Await ``waiting``, which aiomqtt does not end when the connection does."""
        task = self._loop.create_task(waiting)
        both: set[asyncio.Future[Any]] = {task, closed}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                await asyncio.wait({task}, timeout=_LAST_WORDS_S)  # it may have said why
                if not task.done():
                    raise aiomqtt.MqttError(f"it closed the connection {when}")
            return await task
        finally:
            task.cancel()

    def _explain(self, error: aiomqtt.MqttError) -> PvnetError:
        where = f"broker {self.url.redacted()}"
        if _number(getattr(error, "rc", None)) in _REFUSED_CREDENTIALS:
            who = f"user {self.url.username!r}" if self.url.username else "a client without user name"
            return ConfigError(f"{where} refuses {who}: wrong user name or password")
        match error.__context__:
            case ssl.SSLCertVerificationError() as cause:
                hint = "" if self.url.ca_file else " (a private CA? add ?ca_file=FILE)"
                return UnreachableError(f"{where}: its certificate is not trusted: {cause.verify_message}{hint}")
            case ssl.SSLError() as cause:
                return UnreachableError(f"{where}: TLS failed ({cause.reason or cause}); is this a TLS port?")
            case socket.gaierror():
                return UnreachableError(f"{where}: host name not known")
            case OSError(errno=int(number)):
                return UnreachableError(f"{where}: {os.strerror(number).lower()}")
        return UnreachableError(f"{where} is not reachable: {error}")

    # --- frames ---------------------------------------------------------------------------------------------------

    def _message(self, topic: bytes, payload: bytes) -> None:
        """Sort one message: a frame for us, or a state."""
        known = self._sources.get(topic) or self._learn(topic)
        source, channel = known
        if source:
            self._handler.frame_received(source, channel, payload)
        elif channel:
            if payload == self._last_word and channel == self.name:
                self._heard.set()
            self._handler.state_received(channel, payload)

    def _learn(self, topic: bytes) -> tuple[str, str]:
        text = topic.decode(errors="replace")
        levels = text.removeprefix(self._prefix).split("/") if text.startswith(self._prefix) else []
        known = ("", "")
        if len(levels) == 3 and levels[0] == self.name:
            known = (levels[2], levels[1])
        elif len(levels) == 2 and levels[1] == "state":
            known = ("", levels[0])
        if len(self._sources) >= _KNOWN_TOPICS:
            self._sources.clear()
        self._sources[topic] = known
        return known

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Publish one frame with QoS 1, without waiting; lost while disconnected."""
        if self._wire is None or not self.connected:
            return
        topic = self._topics.get((destination, channel))
        if topic is None:
            if len(self._topics) >= _KNOWN_TOPICS:
                self._topics.clear()
            topic = frame_topic(self.lab, destination, channel, self.name).encode()
            self._topics[destination, channel] = topic
        self._wire.publish(topic, payload)

    # --- states ----------------------------------------------------------------------------------------------

    def watch(self, node: NodeName) -> None:
        """Subscribe to the state of ``node``."""
        if node in self._watched or node == self.name:
            return
        self._watched.add(node)
        self._subscribe(node)

    def unwatch(self, node: NodeName) -> None:
        """Unsubscribe from the state of ``node``."""
        if node in self._watched:
            self._watched.discard(node)
            if self._client is not None:
                self._background(self._client.unsubscribe(state_topic(self.lab, node)))

    def _subscribe(self, node: NodeName) -> None:
        if self._client is not None:
            self._background(self._client.subscribe(state_topic(self.lab, node), 1))

    def _background(self, request: Coroutine[Any, Any, Any]) -> None:
        """Let a subscription run on its own; if the connection breaks, the next one subscribes anew."""

        async def run() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                await request

        task = self._loop.create_task(run())
        self._subscriptions.add(task)
        task.add_done_callback(self._subscriptions.discard)

    def set_state(self, payload: bytes) -> None:
        """Publish our retained state."""
        if self._wire is not None and self.connected:
            self._wire.retain(state_topic(self.lab, self.name), payload)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def close(self, last_state: bytes | None, *, forget: bool = False) -> None:
        """Say the last word, wait until the broker has passed it on, disconnect.

        The acknowledgement does not say that: amqtt forgets what it has acknowledged when a DISCONNECT follows at once.
        We are subscribed to our own state, so we hear it when it goes out.
        """
        client = self._client  # it is None once the broker is lost, which may happen while we wait
        if client is not None and last_state is not None:
            self._last_word = last_state
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(_LAST_WORD_S):
                    await client.publish(state_topic(self.lab, self.name), last_state, 1, retain=True)
                    await self._heard.wait()
                    if forget:  # an empty retained message is how MQTT forgets one
                        await client.publish(state_topic(self.lab, self.name), b"", 1, retain=True)
        await self._end()

    async def abort(self) -> None:
        """Break the connection without a word, as a crash does: the broker publishes the last will."""
        self._closing = True
        if self._wire is not None:
            self._wire.break_off()
            await asyncio.gather(*filter(None, [self._runner]), return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        self._closing = True
        self.connected = False
        for task in list(self._subscriptions):
            task.cancel()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, *self._subscriptions, return_exceptions=True)
            self._runner = None


def _number(code: Any) -> int:
    """Return a reason code, which is an int or one of several classes of paho, as a number (-1: none)."""
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else -1
