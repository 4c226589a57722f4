"""The MQTT transport: frames as QoS 1 messages of any MQTT 3.1.1 broker.

Topics are the contract's (``transport.base``).  A node subscribes once to everything addressed to it, and to the
state of the nodes it talks to; it publishes only with itself as source.

Decisions, from what was measured of aiomqtt and the brokers:

* A fresh ``aiomqtt.Client`` per connection, clean session: a re-entered client re-sends what it had reported as failed.
* ``publish`` is not awaited: the link layer acknowledges end to end; an awaited publish hangs at a disconnect.
* The receive loop is the disconnect detector.  Messages do not pass through its queue: :class:`_Inbox` hands each one
  on from inside the network callback, which saves a task and a wake-up per message (and nothing can be dropped).
* TCP_NODELAY always.  Reconnecting starts at 20 ms and doubles to 2 s, with full jitter.
* Brokers do not say when a SUBSCRIBE or PUBLISH is forbidden (3.1.1): the failure codes of SUBACK are checked, the rest
  shows as a peer that never answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from typing import Any, Final

import aiomqtt
import structlog

from pvnet.core.errors import ConfigError, PvnetError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.transport.base import Channel, PortHandler, frame_topic, state_topic
from pvnet.transport.uri import BrokerUrl

_REFUSED_CREDENTIALS: Final = frozenset({4, 5, 134, 135})
_FIRST_RETRY_S: Final = 0.02
_LAST_RETRY_S: Final = 2.0
_QUIET = logging.getLogger("pvnet.transport.mqtt.client")
_QUIET.setLevel(logging.ERROR)


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """A queue that is never filled: every message goes straight to the port."""

    port: MqttPort

    def put_nowait(self, item: aiomqtt.Message) -> None:
        self.port.message_arrived(item)


class MqttPort:
    """A node's access to a broker; implements ``transport.base.Port``."""

    def __init__(self, url: BrokerUrl, *, lab: str, name: NodeName, client_id: str) -> None:
        self.url = url
        self.lab = lab
        self.name = name
        self.connected = False
        self._client_id = client_id
        self._handler: PortHandler
        self._log = structlog.get_logger().bind(node=name)
        self._prefix = f"pvnet/v1/{lab}/"
        self._topics: dict[tuple[str, str], str] = {}
        self._watched: set[NodeName] = set()
        self._connections = 0
        self._client: aiomqtt.Client | None = None
        self._paho: Any = None
        self._runner: asyncio.Task[None] | None = None
        self._subscriptions: set[asyncio.Task[None]] = set()
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
            return ssl.create_default_context(cafile=self.url.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"CA file {self.url.ca_file}: expected PEM certificates ({error})") from None

    def _new_client(self) -> aiomqtt.Client:
        will = self._handler.next_will(self._connections + 1)
        inbox = type("Inbox", (_Inbox,), {"port": self})
        return aiomqtt.Client(
            self.url.host,
            self.url.port,
            username=self.url.username,
            password=self.url.password,
            identifier=self._client_id,
            queue_type=inbox,
            logger=_QUIET,
            will=aiomqtt.Will(state_topic(self.lab, self.name), will, qos=1, retain=True),
            clean_session=True,
            keepalive=15,
            timeout=10,
            max_inflight_messages=1000,
            tls_context=self._tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    async def _run(self, first: asyncio.Future[None]) -> None:
        """Keep a connection until closed."""
        wait = _FIRST_RETRY_S
        while not self._closing:
            try:
                async with self._new_client() as client:
                    await self._serve(client, first)
            except aiomqtt.MqttError as error:
                problem = self._explain(error)
                if self.connected:
                    wait = _FIRST_RETRY_S
                    self._disconnected(str(problem))
                if not first.done():
                    first.set_exception(problem)
                    first.exception()
                    return
                if isinstance(problem, ConfigError):
                    self._log.error("broker_refused", error=str(problem))
            except ssl.SSLError as error:
                problem = UnreachableError(f"broker {self.url.redacted()}: TLS failed: {error.reason or error}")
                if not first.done():
                    first.set_exception(problem)
                    first.exception()
                    return
            finally:
                self._client = self._paho = None
            if self.connected:
                self._disconnected("connection closed")
            await asyncio.sleep(random.uniform(0, wait))  # noqa: S311 - jitter
            wait = min(wait * 2, _LAST_RETRY_S)

    async def _serve(self, client: aiomqtt.Client, first: asyncio.Future[None]) -> None:
        filters = [f"{self._prefix}{self.name}/#", *(state_topic(self.lab, node) for node in sorted(self._watched))]
        codes = await client.subscribe([(topic, 1) for topic in filters])
        for topic, code in zip(filters, codes, strict=False):
            if int(getattr(code, "value", code)) >= 0x80:
                problem = ConfigError(f"broker {self.url.redacted()} does not let {self.name} subscribe to {topic}")
                if not first.done():
                    first.set_exception(problem)
                    first.exception()
                self._closing = True
                return
        self._client = client
        self._paho = client._client  # the only way to publish without waiting for the acknowledgement
        self.connected = True
        self._connections += 1
        self._handler.port_connected(self._connections)
        for node in self._watched - {t.split("/")[3] for t in filters}:  # watched while subscribing
            self._subscribe(node)
        if not first.done():
            first.set_result(None)
        async for _ in client.messages:
            pass  # _Inbox takes them; this loop ends with an error when the connection does

    def _explain(self, error: aiomqtt.MqttError) -> PvnetError:
        code = getattr(error, "rc", None)
        number = int(getattr(code, "value", code)) if code is not None else -1
        if isinstance(error, aiomqtt.MqttError) and number in _REFUSED_CREDENTIALS:
            who = f"user {self.url.username!r}" if self.url.username else "a client without user name"
            return ConfigError(f"broker {self.url.redacted()} refuses {who}: wrong user name or password")
        return UnreachableError(f"broker {self.url.redacted()} is not reachable: {error}")

    def _disconnected(self, reason: str) -> None:
        self.connected = False
        self._handler.port_disconnected(reason)

    # --- frames ---------------------------------------------------------------------------------------------------

    def message_arrived(self, message: aiomqtt.Message) -> None:
        """Sort one message: a frame for us, or a state."""
        topic = str(message.topic.value)
        payload = message.payload
        if not topic.startswith(self._prefix) or not isinstance(payload, bytes | bytearray):
            return
        levels = topic[len(self._prefix) :].split("/")
        if len(levels) == 3 and levels[0] == self.name:
            self._handler.frame_received(levels[2], levels[1], bytes(payload))
        elif len(levels) == 2 and levels[1] == "state":
            self._handler.state_received(levels[0], bytes(payload))

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Publish one frame with QoS 1, without waiting; lost while disconnected."""
        if self._paho is None:
            return
        topic = self._topics.get((destination, channel))
        if topic is None:
            if len(self._topics) > 10_000:
                self._topics.clear()
            topic = self._topics[destination, channel] = frame_topic(self.lab, destination, channel, self.name)
        self._paho.publish(topic, payload, 1)

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

    def _background(self, request: Any) -> None:
        """Let a subscription run on its own; if the connection breaks, the next one subscribes anew."""

        async def run() -> None:
            with contextlib.suppress(aiomqtt.MqttError):
                await request

        task = self._loop.create_task(run())
        self._subscriptions.add(task)
        task.add_done_callback(self._subscriptions.discard)

    def set_state(self, payload: bytes) -> None:
        """Publish our retained state."""
        if self._paho is not None:
            self._paho.publish(state_topic(self.lab, self.name), payload, 1, True)

    async def close(self, last_state: bytes | None) -> None:
        """Say the last word (waiting for its acknowledgement) and disconnect."""
        self._closing = True
        if self._client is not None and last_state is not None:
            with contextlib.suppress(aiomqtt.MqttError):
                await self._client.publish(state_topic(self.lab, self.name), last_state, 1, retain=True, timeout=2)
        self.connected = False
        for task in list(self._subscriptions):
            task.cancel()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, *self._subscriptions, return_exceptions=True)
            self._runner = None
