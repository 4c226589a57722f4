"""The endpoint: one node's presence in a lab, joining a port, the link layer and the event loop.

It is the only place where link machine, clock and transport meet.  Everything above sees three verbs:

* ``call``: send a message and wait for its reply, with a deadline; runs exactly once while both incarnations live;
* ``post``: send a message in order, exactly once, without waiting;
* ``on``: have a function called for each message of a kind, in order of arrival, from the event loop.

plus peers coming and going (``on_peer_up``, ``on_peer_down``).  Handlers are plain functions: nothing is awaited per
message; a handler that must wait starts a task with ``spawn``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Self, TypeVar, assert_never

import structlog

import pvnet
from pvnet.core.errors import (
    ConfigError,
    DeadlineError,
    LocalError,
    PeerDiedError,
    PvnetError,
    RefusedError,
    UnreachableError,
)
from pvnet.core.machine import Note
from pvnet.core.names import NodeName, check_name
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.runtime.clock import Clock, system_clock
from pvnet.runtime.log import LEVELS
from pvnet.runtime.path_log import PathLog
from pvnet.runtime.taps import Taps
from pvnet.transport.base import Port
from pvnet.transport.envelope import REPLY_BODIES, SCHEMA_VERSION
from pvnet.transport.link import (
    Deliver,
    Link,
    LinkConfig,
    LinkOutput,
    PeerDown,
    PeerUp,
    Superseded,
    Transmit,
    Unwatch,
    Watch,
)
from pvnet.transport.unix_socket import close_all

T = TypeVar("T")
Handler = Callable[[Envelope], None]
ReplyCallback = Callable[[Envelope | PvnetError], None]
ShareHandler = Callable[[str, str, bytes, list[int]], None]
"""Takes source, label, body and file descriptors, which it must close."""
Way = Literal["direct", "broker"]
READY = int(Lifecycle.READY)


class _Pending:
    """A call that waits for its reply."""

    __slots__ = ("callback", "destination", "timer")

    def __init__(self, destination: str, callback: ReplyCallback, timer: asyncio.TimerHandle) -> None:
        self.destination = destination
        self.callback = callback
        self.timer = timer


class Endpoint:
    """See the module's text.  ``role`` is what ``Lifecycle`` says of us ("hypervisor", "partition", ...)."""

    def __init__(
        self,
        port: Port,
        *,
        lab: str,
        name: str,
        role: str,
        incarnation: int | None = None,
        link: LinkConfig | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._clock = clock
        self.lab = check_name(lab, "lab")
        self.name = check_name(name)
        self.role = role
        self.incarnation = incarnation or time.time_ns()
        self.link = Link(self.lab, self.name, self.incarnation, link)
        self.log = structlog.get_logger().bind(node=self.name)
        self.counters: Counter[str] = Counter()
        self.on_peer_up: list[Callable[[PeerUp], None]] = []
        self.on_peer_down: list[Callable[[PeerDown], None]] = []
        self.on_path: list[Callable[[str, bool], None]] = []
        """Told the peer, and whether frames to it go directly, when that changes."""
        self.superseded = asyncio.Event()
        self.taps = Taps(self.name, self.counters, self.log)
        self._listeners = self.taps.listeners  # nearly always empty, and looked at for each message
        self._port = port
        self._handlers: dict[str, Handler] = {}
        self._share_handlers: dict[str, ShareHandler] = {}
        self._path_log = PathLog(self.counters, self.log, self.link.is_present)
        self._pending: dict[int, _Pending] = {}
        self._correlation = 0
        self._phase: Lifecycle.Phase = Lifecycle.BIRTH
        self._text = ""
        self._connection = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._said: deque[bytes] = deque(maxlen=4)  # our latest states, as they come back from the broker
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiters: list[tuple[NodeName, int, asyncio.Future[None]]] = []
        self._closed = False
        self._loop: asyncio.AbstractEventLoop

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self, *, timeout: float = 10.0) -> None:
        """Connect and announce our birth.

        Raises:
            ConfigError, UnreachableError: see ``Port.open``.
        """
        self._loop = asyncio.get_running_loop()
        await self._port.open(self, timeout=timeout)

    def ready(self, text: str = "") -> None:
        """Announce that we serve."""
        self._phase = Lifecycle.READY
        self._text = text
        self._announce()

    async def stop(self, text: str = "stopped") -> None:
        """Announce our end, fail what still waits, disconnect.  Idempotent; never raises."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._path_log.close()
        for number in list(self._pending):
            self._finish(number, UnreachableError(f"{self.name} is shutting down"))
        for _, _, waiter in self._waiters:
            waiter.cancel()
        self.taps.end()
        await self._port.close(self._state(Lifecycle.DEATH, text), forget=self.role == "client")

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this node: cancelled by ``stop``, its failure is logged."""
        task = self._loop.create_task(coroutine, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counters["task_failed"] += 1
            self.log.error("task_failed", task=task.get_name(), exc_info=error)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def pending_calls(self) -> int:
        """Calls of ours that wait for their reply."""
        return len(self._pending)

    @property
    def tasks(self) -> int:
        """Tasks of this node that run (see :meth:`spawn`)."""
        return len(self._tasks)

    # --- the three verbs ---------------------------------------------------------------------------------------------

    def on(self, kind: str, handler: Handler) -> None:
        """Have ``handler(envelope)`` called for each body of ``kind`` (field name of ``Envelope.body``)."""
        if kind not in Envelope.DESCRIPTOR.fields_by_name or kind in REPLY_BODIES:
            raise LocalError(f"{kind!r} is not a body that can be handled")
        self._handlers[kind] = handler

    def post(self, destination: str, envelope: Envelope) -> None:
        """Send a message in order, exactly once while both live.  For a peer that is not there: dropped, counted."""
        if not self.link.peer_incarnation(destination):
            self.counters["posted_to_nobody"] += 1
            return
        self._send(NodeName(destination), envelope)

    def reply(self, call: Envelope, envelope: Envelope) -> None:
        """Answer ``call``; dropped when the caller's incarnation is gone."""
        if self.link.peer_incarnation(call.source) != call.source_incarnation:
            self.counters["reply_to_nobody"] += 1
            return
        envelope.correlation = call.correlation
        if call.trace:
            envelope.trace = call.trace
        self._send(NodeName(call.source), envelope)

    def refuse(self, call: Envelope, text: str) -> None:
        """Answer ``call`` with a refusal (the caller gets :class:`RefusedError` with this text)."""
        envelope = Envelope()
        envelope.refusal.text = text
        self.reply(call, envelope)

    def call_back(
        self,
        destination: str,
        envelope: Envelope,
        timeout: float,
        callback: ReplyCallback,
        *,
        wait_for_peer: bool = False,
    ) -> int:
        """Start a call; ``callback`` gets the reply's envelope or the error, in order with all other messages.

        The callback runs exactly once: from within the delivery of the reply, or from a later turn of the loop when the
        call fails.  With ``wait_for_peer`` the call waits for a peer that is not there (until the deadline); otherwise
        it fails with :class:`PeerDiedError`.  Returns the correlation, which :meth:`abandon` takes.
        """
        self._correlation += 1
        number = self._correlation
        timer = self._loop.call_later(timeout, self._expired, number, timeout)
        self._pending[number] = _Pending(destination, callback, timer)
        if self._closed:
            self._fail_soon(number, UnreachableError(f"{self.name} has been stopped"))
        elif not wait_for_peer and not self.link.peer_incarnation(destination):
            self.watch(destination)
            self._fail_soon(number, PeerDiedError(f"{destination} is not there"))
        else:
            envelope.correlation = number
            envelope.deadline_ms = min(int(timeout * 1000), 0xFFFFFFFF)
            try:
                self._send(NodeName(destination), envelope)
            except UnreachableError as error:
                self._fail_soon(number, error)
            except BaseException:  # our own mistake: nobody waits for this call
                self._pending.pop(number).timer.cancel()
                raise
        return number

    def abandon(self, number: int) -> None:
        """Stop waiting for a call; if it has not left yet it never will."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            pending.timer.cancel()
            self.link.cancel(pending.destination, number)

    def _fail_soon(self, number: int, error: PvnetError) -> None:
        self._loop.call_soon(self._finish, number, error)

    def _finish(self, number: int, result: Envelope | PvnetError) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:
            return
        pending.timer.cancel()
        try:
            pending.callback(result)
        except Exception as error:  # one bad answer must not end the node
            self.counters["handler_failed"] += 1
            self.log.error("callback_failed", source=pending.destination, exc_info=error)

    async def call(
        self, destination: str, envelope: Envelope, timeout: float = 10.0, *, wait_for_peer: bool = True
    ) -> Envelope:
        """Send a call and return the envelope of its reply.

        Raises:
            DeadlineError: no reply within ``timeout`` seconds (the call may still run).
            PeerDiedError: the peer's incarnation ended before it replied (the call may have run).
            RefusedError: the peer could not run it at all.
        """
        future: asyncio.Future[Envelope] = self._loop.create_future()

        def done(result: Envelope | PvnetError) -> None:
            if future.done():
                return
            if isinstance(result, PvnetError):
                future.set_exception(result)
            else:
                future.set_result(result)

        number = self.call_back(destination, envelope, timeout, done, wait_for_peer=wait_for_peer)
        try:
            return await future
        except asyncio.CancelledError:
            self.abandon(number)
            raise

    def _expired(self, number: int, timeout: float) -> None:
        pending = self._pending.get(number)
        if pending is None:
            return
        unsent = self.link.cancel(pending.destination, number)
        there = bool(self.link.peer_incarnation(pending.destination))
        why = "is not there" if not there else "does not take messages" if unsent else "did not answer"
        self._finish(number, DeadlineError(f"{pending.destination} {why} (waited {timeout:g} s)"))

    def note(self, note: Note, **context: str | int) -> None:
        """Count what a machine noticed, and log it; ``context`` says of which part (the note's own fields win)."""
        self.counters[note.event] += 1
        if self.log.is_enabled_for(LEVELS[note.level]):
            fields = {**context, **dict(note.fields)}
            # "event" and "node" are the log line's own.
            safe = {f"of_{key}" if key in {"event", "node"} else key: value for key, value in fields.items()}
            getattr(self.log, note.level)(note.event, **safe)

    # --- peers -------------------------------------------------------------------------------------------------------

    def watch(self, node: str) -> None:
        """Learn of ``node``'s life without sending to it."""
        self._outputs(self.link.watch(NodeName(node)))

    def forget(self, node: str) -> None:
        """Stop watching a node that will not come back."""
        self._outputs(self.link.forget(node))

    async def wait_peer(self, node: str, *, phase: int = READY, timeout: float = 10.0) -> None:
        """Wait until ``node`` is there and has reached ``phase``.

        Raises:
            DeadlineError: it did not within ``timeout`` seconds.
        """
        self.watch(node)
        if self.link.peer_phase(node) >= phase:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        entry = (NodeName(node), phase, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            raise DeadlineError(f"{node} did not become ready (waited {timeout:g} s)") from None
        finally:
            self._waiters.remove(entry)

    # --- direct paths ------------------------------------------------------------------------------------------------

    def path(self, peer: str) -> Way:
        """How frames to ``peer`` go now."""
        direct = self._port.direct
        return "direct" if direct is not None and direct.is_direct(peer) else "broker"

    def paths(self) -> dict[str, Way]:
        """How frames to each living peer go."""
        return {peer: self.path(peer) for peer in self.link.peers}

    async def settle_path(self, peer: str, timeout: float = 5.0) -> bool:
        """Wait until there is a direct path to ``peer``, or it is known that there will be none; whether there is.

        False at once: this port knows no direct paths, the peer is on another host or offers none, or connecting to
        it fails.  False after ``timeout`` seconds: the peer is not there.
        """
        direct = self._port.direct
        if direct is None:
            return False
        self.watch(peer)
        return await direct.settle(peer, timeout)

    def share(self, destination: str, label: str, body: bytes, fds: Sequence[int]) -> bool:
        """Pass copies of file descriptors to a node; False: there is no direct path to it.

        Shares of one path arrive in order, each at most once.  They are not ordered with messages, and one that is
        under way when the path breaks is lost: have the receiver confirm with a message, and share again on
        ``on_path``.

        Raises:
            LocalError: more descriptors or bytes than a share may have (``transport.base``).
        """
        direct = self._port.direct
        return direct is not None and direct.share(destination, label, body, fds)

    def on_share(self, label: str, handler: ShareHandler) -> None:
        """Have ``handler(source, label, body, fds)`` called for each share with this label.

        The handler owns the descriptors, whatever it thinks of them; without a handler they are closed.
        """
        self._share_handlers[label] = handler

    # --- PortHandler -------------------------------------------------------------------------------------------------

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        """Take a frame from the port."""
        self._outputs(self.link.receive(source, channel, payload, self._loop.time()))

    def state_received(self, node: str, payload: bytes) -> None:
        """Take a state from the port."""
        outputs = self.link.state_received(node, payload, self._loop.time())
        is_superseded = any(isinstance(output, Superseded) for output in outputs)
        if node == self.name and not is_superseded and not self._closed and payload not in self._said:
            # A late will of an earlier connection, or somebody else's bytes: what the broker keeps is not us.
            self.counters["state_healed"] += 1
            self._announce()
        self._outputs(outputs)

    def next_will(self, connection: int) -> bytes:
        """Return the LOST state of the coming connection."""
        self._connection = connection
        return self._state(Lifecycle.LOST, "connection lost")

    def port_connected(self, connection: int) -> None:
        """Announce ourselves and repeat what the old connection may have lost."""
        self._connection = connection
        if connection > 1:
            self.counters["reconnects"] += 1
            self.log.info("broker_reconnected", connection=connection)
        self._announce()
        self._outputs(self.link.connected(self._loop.time()))

    def port_disconnected(self, reason: str) -> None:
        """Hold the clocks of the link."""
        self.link.disconnected()
        if not self._closed:
            self.log.warning("broker_lost", reason=reason)

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, reason: str) -> None:
        """Have the link repeat what the change may have lost; tell who listens."""
        self._outputs(self.link.path_changed(node, incarnation, is_direct=is_direct, now=self._loop.time()))
        if self._closed:
            return
        self._path_log.changed(node, is_direct=is_direct, reason=reason)
        for callback in self.on_path:
            try:
                callback(node, is_direct)
            except Exception as error:  # one bad listener must not cost the others their messages
                self.counters["handler_failed"] += 1
                self.log.error("listener_failed", event_of="path", exc_info=error)

    def share_received(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Hand a share to who takes its label, or close the descriptors."""
        handler = self._share_handlers.get(label)
        if handler is None or self._closed:
            self.counters["unhandled_share"] += 1
            close_all(fds)
            return
        try:
            handler(source, label, body, fds)
        except Exception as error:  # one bad share must not end the node
            self.counters["handler_failed"] += 1
            self.log.error("handler_failed", kind="share", label=label, source=source, exc_info=error)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        state = self._state(self._phase, self._text)
        self._said.append(state)
        self._port.set_state(state)

    def _state(self, phase: Lifecycle.Phase, text: str) -> bytes:
        monotonic_ns, wall_ns = self._clock()
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            lab=self.lab,
            source=self.name,
            source_incarnation=self.incarnation,
            monotonic_ns=monotonic_ns,
            wall_ns=wall_ns,
        )
        state = envelope.lifecycle
        state.phase = phase
        state.role = self.role
        state.connection = self._connection
        state.text = text
        state.pid = os.getpid()
        state.host = socket.gethostname()
        state.version = pvnet.__version__
        direct = self._port.direct
        if direct is not None and direct.address is not None:
            state.direct.host, state.direct.path = direct.address
        return envelope.SerializeToString()

    def _send(self, destination: NodeName, envelope: Envelope) -> None:
        envelope.monotonic_ns, envelope.wall_ns = self._clock()
        self.counters["sent"] += 1
        outputs = self.link.send(destination, envelope, self._loop.time())
        if self._listeners:  # as it goes out: stream and number are filled in, unless it has to wait
            envelope.schema, envelope.lab = SCHEMA_VERSION, self.lab
            envelope.source, envelope.source_incarnation = self.name, self.incarnation
            envelope.destination = destination
            self.taps.tell("out", envelope)
        self._outputs(outputs)

    def _outputs(self, outputs: list[LinkOutput]) -> None:
        for output in outputs:
            match output:
                case Transmit(destination, channel, payload):
                    self._port.send(destination, channel, payload)
                case Deliver(envelope):
                    self._deliver(envelope)
                case PeerUp():
                    self._peer_up(output)
                case PeerDown():
                    self._peer_down(output)
                case Watch(node):
                    self._port.watch(node)
                case Unwatch(node):
                    self._port.unwatch(node)
                case Superseded(incarnation):
                    self.log.error("superseded", by_incarnation=incarnation)
                    self.superseded.set()
                case Note():
                    self.note(output)
                case _:
                    assert_never(output)
        due = self.link.deadline()
        if due is not None and (self._timer is None or due < self._timer_at) and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._outputs(self.link.tick(self._loop.time()))

    def _deliver(self, envelope: Envelope) -> None:
        self.counters["received"] += 1
        if self._listeners:
            self.taps.tell("in", envelope)
        kind = envelope.WhichOneof("body") or ""
        if kind in REPLY_BODIES:
            pending = self._pending.get(envelope.correlation)
            if pending is None or pending.destination != envelope.source:
                self.counters["late_reply"] += 1
            elif kind == "refusal":
                self._finish(envelope.correlation, RefusedError(envelope.refusal.text))
            else:
                self._finish(envelope.correlation, envelope)
            return
        if kind == "management" and envelope.management.HasField("tap"):
            self._tap_command(envelope)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            self.counters["unhandled"] += 1
            if envelope.correlation:
                self.refuse(envelope, f"{self.name} ({self.role}) does not take {kind}")
            return
        try:
            handler(envelope)
        except Exception as error:  # one bad message must not end the node
            self.counters["handler_failed"] += 1
            self.log.error("handler_failed", kind=kind, source=envelope.source, exc_info=error)
            if envelope.correlation:
                self.refuse(envelope, f"{self.name} failed on {kind}: {type(error).__name__}")

    def _tap_command(self, envelope: Envelope) -> None:
        try:
            self.taps.command(envelope.management.tap)
        except ConfigError as error:
            self.refuse(envelope, str(error))
            return
        reply = Envelope()
        reply.management_reply.SetInParent()
        self.reply(envelope, reply)

    def _peer_up(self, event: PeerUp) -> None:
        for node, phase, waiter in self._waiters:
            if node == event.node and event.phase >= phase and not waiter.done():
                waiter.set_result(None)
        self._tell_all(self.on_peer_up, event)

    def _peer_down(self, event: PeerDown) -> None:
        for number, pending in list(self._pending.items()):
            if pending.destination == event.node:
                self._finish(number, PeerDiedError(f"{event.node} has died: {event.reason}"))
        self._tell_all(self.on_peer_down, event)

    def _tell_all(self, callbacks: list[Callable[[T], None]], event: T) -> None:
        for callback in callbacks:
            try:
                callback(event)
            except Exception as error:  # one bad listener must not cost the others their messages
                self.counters["handler_failed"] += 1
                self.log.error("listener_failed", event_of=type(event).__name__, exc_info=error)
