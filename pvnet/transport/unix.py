"""The unix transport: frames between processes of one host take a unix socket instead of the broker.

:class:`UnixPort` wraps the broker's port.  States, and frames to everybody else, go through it as before.  The address
of our listening socket stands in our retained state; from the states that pass through here we learn the others', and
connect (``transport.unix_paths``).  So a path exists only to a node that the broker says is there, and only between
processes of one user; the source of a frame is the node that said hello on its socket.

A path changes speed, never meaning: a frame that finds no path, or a path that refuses it, goes through the broker's
port, and the link repeats what a broken path has lost.

Order of states and frames: before a state is told, everything that the node had sent directly before is taken, so the
last words of a node never arrive after its death.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pvnet.core.errors import WireError
from pvnet.core.names import NodeName
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.base import Channel, HostAddress, Port, PortHandler
from pvnet.transport.envelope import decode_envelope
from pvnet.transport.unix_paths import Paths
from pvnet.transport.unix_peer import NodeState

_FLUSH_S = 0.5
_THERE = frozenset({Lifecycle.BIRTH, Lifecycle.READY})


class UnixPort:
    """A :class:`~pvnet.transport.base.Port` around the broker's, and its :class:`~pvnet.transport.base.Direct` part."""

    def __init__(self, inner: Port, *, lab: str, name: NodeName, directory: Path) -> None:
        self.inner = inner
        self.lab = lab
        self.name = name
        self.paths = Paths(self, lab=lab, name=name, directory=directory)
        self._handler: PortHandler
        self._asked: set[str] = set()  # whose states the handler wants
        self._watched: set[str] = set()  # whose states the port inside brings
        self._states: dict[str, bytes] = {}

    # --- Port --------------------------------------------------------------------------------------------------------

    @property
    def direct(self) -> UnixPort:
        """This port itself."""
        return self

    async def open(self, handler: PortHandler, *, timeout: float) -> None:
        """Listen, then open the port inside; raises as that does."""
        self._handler = handler
        self.paths.open()
        try:
            await self.inner.open(self, timeout=timeout)
        except BaseException:
            self.paths.close(says_bye=False)
            raise

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Send a frame on the direct path, else through the port inside."""
        if not self.paths.send(destination, channel, payload):
            self.inner.send(destination, channel, payload)

    def watch(self, node: NodeName) -> None:
        """Also tell the handler the states of ``node``, from the latest on."""
        self._asked.add(node)
        if node not in self._watched:
            self._watched.add(node)
            self.inner.watch(node)
        elif node in self._states:
            asyncio.get_running_loop().call_soon(self._tell_again, node)

    def _tell_again(self, node: str) -> None:
        state = self._states.get(node)
        if state is not None and node in self._asked:
            self._handler.state_received(node, state)

    def unwatch(self, node: NodeName) -> None:
        """The handler wants no more states of ``node``; a path may still need them."""
        self._asked.discard(node)
        self.state_unwanted(node)

    def set_state(self, payload: bytes) -> None:
        """Publish our retained state."""
        if not self.paths.incarnation:
            self.paths.incarnation = decode_envelope(payload, self.lab).source_incarnation
        self.inner.set_state(payload)

    async def close(self, last_state: bytes | None, *, forget: bool = False) -> None:
        """Say the last word at the broker, when all frames have left; then bye on the paths."""
        await self.paths.flush(_FLUSH_S)
        await self.inner.close(last_state, forget=forget)
        self.paths.close(says_bye=True)

    def sever(self) -> None:
        """Close all paths without a word, as the kernel does for a process that was killed (the port inside stays)."""
        self.paths.close(says_bye=False)

    # --- Direct ------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> HostAddress | None:
        """Where we listen."""
        return self.paths.address

    def is_direct(self, node: str) -> bool:
        """Whether frames to ``node`` do not go over the broker now."""
        return self.paths.is_direct(node)

    async def settle(self, node: str, timeout: float) -> bool:
        """Wait until there is a path to ``node``, or none can be had; whether there is."""
        return await self.paths.settle(node, timeout)

    def share(self, destination: str, label: str, body: bytes, fds: Sequence[int]) -> bool:
        """Pass copies of file descriptors; False: no path."""
        return self.paths.share(destination, label, body, fds)

    def break_path(self, node: str) -> None:
        """Cut the path to ``node``; it is made again soon."""
        self.paths.break_path(node)

    # --- PortHandler of the port inside ------------------------------------------------------------------------------

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        """Pass on a frame that came over the broker."""
        self._handler.frame_received(source, channel, payload)

    def state_received(self, node: str, payload: bytes) -> None:
        """Pass on a state, after all that the node had sent directly before it, and learn from it."""
        self.paths.read_all(node)
        if node in self._asked or node == self.name:
            self._handler.state_received(node, payload)
        if node in self._watched and payload and payload != self._states.get(node):
            self._states[node] = payload
            state = self._decode(node, payload)
            if state is not None:
                self.paths.state_changed(node, state)

    def _decode(self, node: str, payload: bytes) -> NodeState | None:
        try:
            envelope = decode_envelope(payload, self.lab)
        except WireError:
            return None  # the link counts it
        if envelope.source != node or envelope.WhichOneof("body") != "lifecycle":
            return None
        life = envelope.lifecycle
        address = HostAddress(life.direct.host, life.direct.path) if life.HasField("direct") else None
        is_there, is_over = life.phase in _THERE, life.phase == Lifecycle.DEATH
        return NodeState(envelope.source_incarnation, life.connection, is_there, is_over, life.pid, address)

    def next_will(self, connection: int) -> bytes:
        """Pass on."""
        return self._handler.next_will(connection)

    def port_connected(self, connection: int) -> None:
        """Pass on."""
        self._handler.port_connected(connection)

    def port_disconnected(self, reason: str) -> None:
        """Pass on: paths stay."""
        self._handler.port_disconnected(reason)

    # --- PathsOwner --------------------------------------------------------------------------------------------------

    def path_frame(self, source: str, channel: Channel, payload: bytes) -> None:
        """Pass on a frame that came directly."""
        self._handler.frame_received(source, channel, payload)

    def path_share(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Pass on file descriptors, with their ownership."""
        self._handler.share_received(source, label, body, fds)

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, reason: str) -> None:
        """Pass on that a path has come, or has gone."""
        self._handler.path_changed(node, incarnation, is_direct=is_direct, reason=reason)

    def share_received(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Pass on (of a port inside that has paths of its own)."""
        self._handler.share_received(source, label, body, fds)

    def state_wanted(self, node: str) -> None:
        """Have the port inside bring the states of a node that wants a path to us."""
        if node not in self._watched:
            self._watched.add(node)
            self.inner.watch(NodeName(node))

    def state_unwanted(self, node: str) -> None:
        """Stop that, if nobody else wants them."""
        if node in self._watched and node not in self._asked and not self.paths.holds(node):
            self._watched.discard(node)
            self._states.pop(node, None)
            self.paths.forget(node)
            self.inner.unwatch(NodeName(node))
