"""The direct paths of one node: who connects, who is let in, what happens when a path breaks.

Both ends of a pair learn the other's address from its retained state and connect as soon as they know it.  Of two
attempts that cross, the one of the node whose name sorts first wins: the other end closes its own and takes it.  A path
belongs to one incarnation of the peer: the one in its state, with the pid in its state.  A peer that knows us before we
know it is heard: its hello waits, for :data:`HELLO_S` seconds, until the broker has told us its state.

A path that breaks is made again, with pauses that double from :data:`FIRST_RETRY_S` to :data:`LAST_RETRY_S`, as long as
the peer's state says that it is there.  A peer that the broker has lost but whose socket still stands is asked every
:data:`PROBE_S` seconds whether it lives: a process that hangs loses its path too, and is then declared dead as ever.

What a stranger (or a broken peer) sends costs it its connection, is counted, and is logged the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from pvnet.core.errors import ConfigError, LocalError, WireError
from pvnet.transport.base import MAX_LABEL_BYTES, MAX_SHARE_BYTES, MAX_SHARED_FDS, Channel, HostAddress
from pvnet.transport.unix_hello import (
    CHANNELS,
    MAX_PACKET_BYTES,
    Hello,
    Kind,
    credentials,
    decode_hello,
    encode_hello,
    header,
    host_identity,
)
from pvnet.transport.unix_peer import Connection, Door, Node, NodeState, Stage, age, stranger
from pvnet.transport.unix_socket import PacketSocket, close_all

HELLO_S: Final = 5.0
MAX_STRANGERS: Final = 32
"""Accepted connections that have no path yet; more are closed at once."""
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 5.0
PROBE_S: Final = 5.0
_TRIES: Final = 3
"""Failures in a row after which :meth:`Paths.settle` says no (trying goes on)."""
_STABLE_S: Final = 1.0
_FRAME_HEADERS: Final = {channel: header(Kind.FRAME, number) for number, channel in enumerate(CHANNELS)}
_FRAME: Final = int(Kind.FRAME)


class PathsOwner(Protocol):
    """Who has paths: the port."""

    def path_frame(self, source: str, channel: Channel, payload: bytes) -> None:
        """Take a frame."""

    def path_share(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Take file descriptors."""

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, reason: str) -> None:
        """A path came, or went (``reason`` is empty when in good order)."""

    def state_wanted(self, node: str) -> None:
        """Somebody of that name wants in: learn its state."""

    def state_unwanted(self, node: str) -> None:
        """Paths need the state of ``node`` no longer."""


class Paths:
    """See the module's text.  ``owner`` is told everything from the loop's thread."""

    def __init__(self, owner: PathsOwner, *, lab: str, name: str, directory: Path) -> None:
        self.address: HostAddress | None = None
        self.incarnation = 0
        """Ours; nobody is let in before it is known."""
        self.counters: Counter[str] = Counter()
        self._owner = owner
        self._lab = lab
        self._name = name
        self._directory = directory
        self._host = ""
        self._nodes: dict[str, Node] = {}
        self._up: dict[str, PacketSocket] = {}
        self._strangers: set[Connection] = set()
        self._buffer = bytearray(MAX_PACKET_BYTES)
        self._logged: set[str] = set()
        self._log = structlog.get_logger().bind(node=name)
        self._door: Door | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop

    # --- life --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen.  Where that is not possible we are not reachable directly, which is logged."""
        self._loop = asyncio.get_running_loop()
        self._host = host_identity()
        if not self._host:
            return
        try:
            self._door = Door(self._directory, self._admit, lambda event, text: self._refuse(event, "", text))
        except ConfigError as error:
            self._log.warning("no_direct_paths", error=str(error))
            return
        self.address = HostAddress(self._host, os.fspath(self._door.path))

    async def flush(self, timeout: float) -> None:
        """Wait until the kernel has what was sent, at most ``timeout`` seconds."""
        waiting = [packets.drained() for packets in list(self._up.values())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*waiting)

    def close(self, *, says_bye: bool) -> None:
        """Close everything.  Idempotent.  Without a bye: as the kernel does for a process that was killed."""
        if self._closed:
            return
        self._closed = True
        if self._door is not None:
            self._door.close()
        for packets in self._up.values():
            if says_bye:
                packets.send(header(Kind.BYE), b"")
        self._up.clear()
        for connection in list(self._strangers):
            self._over(connection)
        for node in self._nodes.values():
            if node.retry is not None:
                node.retry.cancel()
            for held in (node.path, node.attempt):
                if held is not None:
                    self._over(held)
            self._settled(node, is_direct=False)

    # --- using paths -------------------------------------------------------------------------------------------------

    def is_direct(self, node: str) -> bool:
        """Whether there is a path to ``node``."""
        return node in self._up

    def send(self, destination: str, channel: Channel, payload: bytes) -> bool:
        """Send a frame; False: not this way."""
        packets = self._up.get(destination)
        return packets is not None and packets.send(_FRAME_HEADERS[channel], payload)

    def share(self, destination: str, label: str, body: bytes, fds: Sequence[int]) -> bool:
        """Pass file descriptors; see ``transport.base.Direct``."""
        name = label.encode()
        if len(fds) > MAX_SHARED_FDS or len(body) > MAX_SHARE_BYTES or not 0 < len(name) <= MAX_LABEL_BYTES:
            limits = f"at most {MAX_SHARED_FDS} fds, {MAX_SHARE_BYTES} bytes, a label of 1 to {MAX_LABEL_BYTES} bytes"
            raise LocalError(f"share {label!r} of {len(body)} bytes and {len(fds)} fds: expected {limits}")
        packets = self._up.get(destination)
        return packets is not None and packets.send(header(Kind.SHARE, len(name)), name + body, fds)

    def read_all(self, node: str) -> None:
        """Take what ``node`` has sent so far: it is older than the state that is about to be told."""
        packets = self._up.get(node)
        if packets is not None:
            packets.read_all()

    def break_path(self, node: str) -> None:
        """Cut the path to ``node``."""
        packets = self._up.get(node)
        if packets is not None:
            packets.shut_down()

    async def settle(self, name: str, timeout: float) -> bool:
        """Wait until there is a path to ``name``, or none can be had."""
        node = self._node(name)
        verdict = self._verdict(node)
        if verdict is not None:
            return verdict
        waiter: asyncio.Future[bool] = self._loop.create_future()
        node.waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(ValueError):
                node.waiters.remove(waiter)

    def _verdict(self, node: Node) -> bool | None:
        """Whether there is a path, or None while it may still come."""
        if node.path is not None:
            return True
        if self._closed or not self._host or node.is_hopeless:
            return False
        state = node.state
        if state is not None and state.is_there and (state.address is None or state.address.host != self._host):
            return False
        return None

    def _settled(self, node: Node, *, is_direct: bool) -> None:
        waiters, node.waiters = node.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(is_direct)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name)
        return node

    def state_changed(self, name: str, state: NodeState) -> None:
        """Take a new state of a node that is watched."""
        if self._closed:
            return
        node = self._node(name)
        previous = node.state
        if previous is not None and age(state) < age(previous) and not state.is_over:
            return  # a late will
        node.state = state
        if previous is None or previous.incarnation != state.incarnation or previous.address != state.address:
            self._start_over(node)
        path = node.path
        if path is not None and (state.incarnation > path.incarnation or state.is_over):
            self._drop(node, "")
        elif path is not None and not state.is_there:
            self._probe(node, path)
        for connection in [c for c in self._strangers if c.stage is Stage.STATE and c.node == name]:
            self._judge(connection)
        self._consider(node)
        if self._verdict(node) is False:
            self._settled(node, is_direct=False)

    def _start_over(self, node: Node) -> None:
        """What did not work for the old address may work for the new one."""
        node.failures = 0
        node.is_hopeless = False
        if node.retry is not None:
            node.retry.cancel()
            node.retry = None
        if node.attempt is not None:
            self._over(node.attempt)
            node.attempt = None

    def holds(self, name: str) -> bool:
        """Whether the state of ``name`` is needed: for a connection, or to make one again."""
        node = self._nodes.get(name)
        if node is None:
            return False
        held = (node.path, node.attempt, node.retry)
        return any(part is not None for part in held) or any(c.node == name for c in self._strangers)

    def forget(self, name: str) -> None:
        """Nobody wants to hear of ``name`` any more."""
        node = self._nodes.pop(name, None)
        if node is not None:
            self._start_over(node)
            self._settled(node, is_direct=False)

    def _consider(self, node: Node) -> None:
        """Connect if we should."""
        state = node.state
        if (
            not self._closed
            and self.incarnation
            and self._nodes.get(node.name) is node
            and state is not None
            and state.is_there
            and state.address is not None
            and state.address.host == self._host
            and state.incarnation != node.left
            and node.path is None
            and node.attempt is None
            and node.retry is None
        ):
            self._connect(node, state, state.address.path)

    # --- connecting --------------------------------------------------------------------------------------------------

    def _connect(self, node: Node, state: NodeState, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            if not path.startswith("/") or "\0" in path:
                raise OSError(0, "not the path of a socket")
            sock.connect(path)
            pid, uid = credentials(sock)
        except OSError as error:
            sock.close()
            self.counters["connect_failed"] += 1
            self._log.debug("direct_connect_failed", peer=node.name, error=str(error))
            self._failed(node, is_final=not isinstance(error, BlockingIOError))
            return
        if problem := stranger(pid, uid, state):
            sock.close()
            self._refuse("wrong_listener", node.name, problem)
            self._failed(node, is_final=True)
            return
        connection = self._begin(sock, Stage.WELCOME, pid)
        connection.node = node.name
        connection.incarnation = state.incarnation
        node.attempt = connection
        connection.packets.send(header(Kind.HELLO), self._hello(connection))

    def _begin(self, sock: socket.socket, stage: Stage, pid: int) -> Connection:
        connection = Connection(stage, pid)

        def receive(kind: int, detail: int, body: bytes, fds: list[int]) -> None:
            self._packet(connection, kind, detail, body, fds)

        connection.packets = PacketSocket(sock, self._buffer, receive, lambda reason: self._ended(connection, reason))
        connection.timer = self._loop.call_later(HELLO_S, self._too_slow, connection)
        return connection

    def _hello(self, connection: Connection) -> bytes:
        return encode_hello(
            Hello(self._lab, self._name, self.incarnation, connection.node, connection.incarnation),
        )

    def _failed(self, node: Node, *, is_final: bool) -> None:
        """An attempt failed, or a path broke: try again later."""
        node.failures += 1
        if is_final or node.failures >= _TRIES:
            node.is_hopeless = True
            self._settled(node, is_direct=False)
        self._try_later(node)

    def _try_later(self, node: Node) -> None:
        if node.retry is None and not self._closed and self._nodes.get(node.name) is node:
            wait = min(FIRST_RETRY_S * 2 ** min(node.failures, 16), LAST_RETRY_S)
            node.retry = self._loop.call_later(random.uniform(wait / 2, wait), self._retry, node)  # noqa: S311

    def _retry(self, node: Node) -> None:
        node.retry = None
        self._consider(node)
        self._owner.state_unwanted(node.name)  # if that came to nothing

    # --- being connected to ------------------------------------------------------------------------------------------

    def _admit(self, sock: socket.socket, pid: int) -> None:
        """Give a process of our user that has connected the time to say who it is."""
        if len(self._strangers) >= MAX_STRANGERS:
            sock.close()
            self._refuse("too_many_strangers", "", f"expected at most {MAX_STRANGERS}")
        else:
            self._strangers.add(self._begin(sock, Stage.HELLO, pid))

    def _greeted(self, connection: Connection, body: bytes) -> None:
        """A stranger says who it is."""
        try:
            hello = decode_hello(body)
        except WireError as error:
            self._reject(connection, "bad_hello", str(error))
            return
        if hello.lab != self._lab or hello.wanted != self._name or hello.name == self._name:
            self._reject(connection, "misdirected_hello", f"{hello.name} of {hello.lab} wants {hello.wanted}")
        elif not self.incarnation or hello.wanted_incarnation != self.incarnation:
            self._reject(connection, "stale_hello", f"{hello.name} wants an earlier {hello.wanted}")
        else:
            connection.node = hello.name
            connection.incarnation = hello.incarnation
            connection.stage = Stage.STATE
            self._owner.state_wanted(hello.name)
            self._judge(connection)

    def _judge(self, connection: Connection) -> None:
        """Let a stranger in if its state says that it is who it says."""
        node = self._node(connection.node)
        state = node.state
        if state is None or state.incarnation < connection.incarnation:
            return  # the state is on its way
        if state.incarnation > connection.incarnation or state.is_over:
            self._reject(connection, "stale_hello", f"an earlier {node.name}")
        elif problem := stranger(connection.pid, os.geteuid(), state):
            self._reject(connection, "wrong_process", f"{problem} says it is {node.name}")
        elif not state.is_there:
            return  # until the broker says that it is back
        elif self._has_path(node) or (node.attempt is not None and self._name < node.name):
            self.counters["crossed"] += 1
            self._over(connection)  # it has, or will take, our other connection
        else:
            if node.attempt is not None:
                self._over(node.attempt)
                node.attempt = None
            connection.packets.send(header(Kind.WELCOME), self._hello(connection))
            self._is_up(node, connection)

    def _has_path(self, node: Node) -> bool:
        """Whether there is a path whose other end stands too: a peer that has lost it has closed its end."""
        self.read_all(node.name)
        return node.path is not None

    def _welcomed(self, connection: Connection, body: bytes) -> None:
        """The peer has let us in."""
        try:
            hello = decode_hello(body)
        except WireError as error:
            self._reject(connection, "bad_hello", str(error))
            return
        expected = Hello(self._lab, connection.node, connection.incarnation, self._name, self.incarnation)
        if hello != expected:
            self._reject(connection, "misdirected_hello", f"{hello.name} of {hello.lab} answers for {connection.node}")
            return
        node = self._node(connection.node)
        node.attempt = None
        self._is_up(node, connection)

    def _is_up(self, node: Node, connection: Connection) -> None:
        self._strangers.discard(connection)
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        if node.retry is not None:
            node.retry.cancel()
            node.retry = None
        connection.stage = Stage.UP
        connection.since = self._loop.time()
        node.path = connection
        node.is_hopeless = False
        node.left = 0
        self._up[node.name] = connection.packets
        self.counters["paths"] += 1
        self._owner.path_changed(node.name, connection.incarnation, is_direct=True, reason="")
        self._settled(node, is_direct=True)

    # --- packets -----------------------------------------------------------------------------------------------------

    def _packet(self, connection: Connection, kind: int, detail: int, body: bytes, fds: list[int]) -> None:
        stage = connection.stage
        connection.heard = True
        if kind == _FRAME and stage is Stage.UP and not fds and detail < len(CHANNELS):
            try:
                self._owner.path_frame(connection.node, CHANNELS[detail], body)
            except Exception as error:  # noqa: BLE001 - one frame must not cost the others, or the path
                self._log.error("frame_failed", source=connection.node, exc_info=error)
            return
        if kind == Kind.SHARE and stage is Stage.UP:
            self._shared(connection, detail, body, fds)
            return
        close_all(fds)
        if fds:
            self._reject(connection, "unexpected_fds", f"{len(fds)} with a packet of kind {kind}")
        elif kind == Kind.HELLO and stage is Stage.HELLO:
            self._greeted(connection, body)
        elif kind == Kind.WELCOME and stage is Stage.WELCOME:
            self._welcomed(connection, body)
        elif kind == Kind.BYE and stage is Stage.UP:
            node = self._nodes[connection.node]
            node.left = connection.incarnation
            self._drop(node, "")
        elif kind == Kind.PING and stage is Stage.UP:
            connection.packets.send(header(Kind.PONG), b"")
        elif kind != Kind.PONG or stage is not Stage.UP:
            self._reject(connection, "unexpected_packet", f"of kind {kind} ({stage.value})")

    def _shared(self, connection: Connection, label_bytes: int, body: bytes, fds: list[int]) -> None:
        try:
            label = body[:label_bytes].decode()
        except UnicodeDecodeError:
            label = ""
        if not label or label_bytes > min(MAX_LABEL_BYTES, len(body)) or len(body) - label_bytes > MAX_SHARE_BYTES:
            close_all(fds)
            self._reject(connection, "bad_share", f"{len(body)} bytes, label of {label_bytes}")
            return
        self.counters["shares"] += 1
        self._owner.path_share(connection.node, label, body[label_bytes:], fds)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _probe(self, node: Node, connection: Connection) -> None:
        """The broker has lost the peer: see whether its process still answers."""
        if connection.timer is None:
            connection.heard = False
            connection.packets.send(header(Kind.PING), b"")
            connection.timer = self._loop.call_later(PROBE_S, self._probed, node, connection)

    def _probed(self, node: Node, connection: Connection) -> None:
        connection.timer = None
        if not connection.heard:
            self._drop(node, "the peer does not answer")
        elif node.state is not None and not node.state.is_there:
            self._probe(node, connection)

    def _too_slow(self, connection: Connection) -> None:
        self._reject(connection, "slow_hello", f"nothing within {HELLO_S:g} s ({connection.stage.value})")

    def _reject(self, connection: Connection, event: str, text: str) -> None:
        """Close a connection for what came over it."""
        self._refuse(event, connection.node, text)
        self._ended(connection, f"{event.replace('_', ' ')}: {text}")

    def _refuse(self, event: str, peer: str, text: str) -> None:
        self.counters[event] += 1
        if event not in self._logged:
            self._logged.add(event)
            # An ended command's last hello may arrive after its end: nobody's fault.
            log = self._log.debug if event == "stale_hello" else self._log.warning
            log("direct_connection_refused", cause=event, peer=peer, error=text)

    def _ended(self, connection: Connection, reason: str) -> None:
        """A connection has broken, or is to be closed."""
        stage = connection.stage
        node = self._nodes.get(connection.node)
        if stage is Stage.UP and node is not None and node.path is connection:
            self._drop(node, reason or "closed by the peer")
            return
        self._over(connection)
        if node is not None and node.attempt is connection:
            node.attempt = None
            self._failed(node, is_final=False)

    def _drop(self, node: Node, reason: str) -> None:
        """End the path to ``node``; make it again if its state says that it is there."""
        connection = node.path
        assert connection is not None
        node.path = None
        self._up.pop(node.name, None)
        if self._loop.time() - connection.since > _STABLE_S:
            node.failures = 0
        if reason and not self._closed:
            node.failures += 1
            self._try_later(node)
        self._over(connection)
        self._owner.path_changed(node.name, connection.incarnation, is_direct=False, reason=reason)

    def _over(self, connection: Connection) -> None:
        """Close a connection; its node's state may be unwanted now."""
        connection.stage = Stage.OVER
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        self._strangers.discard(connection)
        connection.packets.close()
        if connection.node and not self._closed:
            self._owner.state_unwanted(connection.node)
