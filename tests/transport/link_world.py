"""A world of Links for tests: a broker that can lie, lose and die, and a ledger that knows what must be true.

No loop, no clock: time is a number, every event is a method.  Frames may arrive in any order, several times or never;
states arrive in order per watcher (a broker keeps them), but as late as one likes.  Two nodes may have a direct path (a
socket), which needs no broker; each end learns in its own time that it has come or gone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.envelope import SCHEMA_VERSION
from pvnet.transport.link import (
    BacklogFullError,
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

LAB = "lab"


def state_frame(name: str, incarnation: int, phase: int, connection: int, text: str = "") -> bytes:
    envelope = Envelope(schema=SCHEMA_VERSION, lab=LAB, source=name, source_incarnation=incarnation)
    envelope.lifecycle.phase = phase  # type: ignore[assignment]
    envelope.lifecycle.connection = connection
    envelope.lifecycle.text = text
    return envelope.SerializeToString()


def message(number: int, correlation: int = 0) -> Envelope:
    envelope = Envelope(correlation=correlation)
    envelope.hcall.opcode = number
    return envelope


@dataclass
class Sent:
    number: int
    source: tuple[str, int]
    destination: str
    epoch: int  # of the source's view of the destination


@dataclass
class Node:
    name: str
    link: Link
    incarnation: int
    connection: int = 0
    online: bool = False
    running: bool = True
    watched: set[str] = field(default_factory=set)
    states: deque[tuple[str, bytes]] = field(default_factory=deque)
    up: dict[str, int] = field(default_factory=dict)  # peer -> incarnation, as told by PeerUp and PeerDown
    downs: list[tuple[str, int, str]] = field(default_factory=list)
    ups: list[tuple[str, int, int]] = field(default_factory=list)
    epoch: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    delivered: list[Envelope] = field(default_factory=list)
    superseded: bool = False
    told_at: list[tuple[int, str, str, int]] = field(default_factory=list)  # (event number, up or down, peer, inc.)
    sockets: dict[str, Socket] = field(default_factory=dict)  # peer -> what frames to it go into
    news: deque[tuple[Socket, bool]] = field(default_factory=deque)  # of sockets that came or went


@dataclass(eq=False)
class Socket:
    """Between two incarnations."""

    ends: dict[str, int]
    is_open: bool = True

    def other(self, name: str) -> str:
        return next(end for end in self.ends if end != name)


@dataclass
class Frame:
    destination: str
    source: str
    channel: str
    payload: bytes
    socket: Socket | None = None


class World:
    """All nodes, the broker and the ledger."""

    def __init__(self, names: tuple[str, ...] = ("a", "b"), config: LinkConfig | None = None) -> None:
        self.config = config or LinkConfig()
        self.now = 100.0
        self.broker = True
        self.frames: list[Frame] = []
        self.frames_sent = 0
        self.events = 0
        self.retained: dict[str, bytes] = {}
        self.wills: dict[str, bytes] = {}  # of broken connections that the broker has not noticed
        self.incarnations = dict.fromkeys(names, 0)
        self.nodes: dict[str, Node] = {}
        self.sent: dict[int, Sent] = {}
        self.delivered_at: dict[int, tuple[str, int]] = {}
        self.streams: dict[tuple[str, int, str, int, int], int] = {}  # last seq delivered per stream
        self.last_number: dict[tuple[str, int, str, int], int] = {}
        for name in names:
            self.boot(name)

    # --- nodes ----------------------------------------------------------------------------------------------------

    def boot(self, name: str) -> Node:
        self.incarnations[name] += 1
        incarnation = self.incarnations[name]
        node = Node(name, Link(LAB, NodeName(name), incarnation, self.config), incarnation)
        self.nodes[name] = node
        self.connect(name)
        return node

    def connect(self, name: str, *, late_will: bool = False) -> None:
        """(Re)connect; with ``late_will`` the broker publishes the old connection's will after our announcement."""
        node = self.nodes[name]
        if node.online or not node.running or not self.broker:
            return
        will = self.wills.pop(name, None)
        if will is not None and not late_will:
            self.publish_state(name, will)
        node.online = True
        node.connection += 1
        for watched in sorted(node.watched | {name}):
            if watched in self.retained:
                node.states.append((watched, self.retained[watched]))
        self.announce(node)
        if will is not None and late_will:
            self.publish_state(name, will)
        self.carry_out(node, node.link.connected(self.now))

    def announce(self, node: Node) -> None:
        self.publish_state(node.name, state_frame(node.name, node.incarnation, Lifecycle.READY, node.connection))

    def will(self, node: Node) -> bytes:
        return state_frame(node.name, node.incarnation, Lifecycle.LOST, node.connection)

    def publish_state(self, name: str, payload: bytes) -> None:
        if not self.broker:
            return
        self.retained[name] = payload
        for node in self.nodes.values():
            if node.online and node.running and (name in node.watched or name == node.name):
                node.states.append((name, payload))

    def offline(self, node: Node) -> None:
        node.online = False
        node.states.clear()
        self.frames = [frame for frame in self.frames if frame.destination != node.name or frame.socket is not None]
        if node.running:
            node.link.disconnected()

    def cut(self, name: str, *, will: bool = True) -> None:
        """Break a connection; without ``will`` the broker has not noticed yet."""
        node = self.nodes[name]
        if node.online:
            self.offline(node)
            self.wills[name] = self.will(node)
            if will:
                self.notice(name)

    def notice(self, name: str) -> None:
        """The broker notices that a connection is broken."""
        if self.broker and name in self.wills:
            self.publish_state(name, self.wills.pop(name))

    def kill(self, name: str) -> None:
        node = self.nodes[name]
        if node.running:
            self.cut(name)
            self.close_sockets(node)
            node.running = False

    def stop(self, name: str) -> None:
        node = self.nodes[name]
        if node.running:
            if node.online:
                self.publish_state(name, state_frame(name, node.incarnation, Lifecycle.DEATH, node.connection, "bye"))
                self.offline(node)
            self.close_sockets(node)
            node.running = False

    # --- direct paths -----------------------------------------------------------------------------------------------

    def open_path(self, one: str, other: str) -> None:
        """Connect two nodes directly, in place of the path that they may have."""
        first, second = self.nodes[one], self.nodes[other]
        if first.running and second.running:
            self.break_path(one, other)
            socket = Socket({one: first.incarnation, other: second.incarnation})
            first.news.append((socket, True))
            second.news.append((socket, True))

    def break_path(self, one: str, other: str) -> None:
        """What is under way is lost; both ends learn it later."""
        for node in (self.nodes[one], self.nodes[other]):
            known = [socket for socket, has_come in node.news if has_come]
            for socket in [*node.sockets.values(), *known]:
                if socket.is_open and set(socket.ends) == {one, other}:
                    self.close_socket(socket)

    def close_sockets(self, node: Node) -> None:
        for other in self.nodes:
            if other != node.name:
                self.break_path(node.name, other)

    def close_socket(self, socket: Socket) -> None:
        socket.is_open = False
        self.frames = [frame for frame in self.frames if frame.socket is not socket]
        for name, incarnation in socket.ends.items():
            if self.nodes[name].incarnation == incarnation:
                self.nodes[name].news.append((socket, False))

    def deliver_news(self, name: str) -> None:
        """A node learns the next of what happened to its sockets."""
        node = self.nodes[name]
        if not node.news:
            return
        socket, has_come = node.news.popleft()
        peer = socket.other(name)
        if has_come:
            node.sockets[peer] = socket
        elif node.sockets.get(peer) is socket:
            del node.sockets[peer]
        else:
            return
        if node.running:
            incarnation = socket.ends[peer]
            self.carry_out(node, node.link.path_changed(peer, incarnation, is_direct=has_come, now=self.now))

    def broker_down(self) -> None:
        """The broker dies: connections, frames, retained states and wills are gone."""
        self.broker = False
        self.retained.clear()
        self.wills.clear()
        for node in self.nodes.values():
            if node.online:
                self.offline(node)
        self.frames = [frame for frame in self.frames if frame.socket is not None]

    # --- messages ---------------------------------------------------------------------------------------------------

    def send(self, source: str, destination: str) -> int | None:
        """Send a numbered message; None if the backlog refuses it."""
        node = self.nodes[source]
        number = len(self.sent) + 1
        try:
            outputs = node.link.send(NodeName(destination), message(number), self.now)
        except BacklogFullError:
            return None
        # A PeerDown among the outputs does not happen: sending declares nobody down.
        self.sent[number] = Sent(number, (source, node.incarnation), destination, node.epoch[destination])
        self.carry_out(node, outputs)
        return number

    def watch(self, name: str, other: str) -> None:
        node = self.nodes[name]
        self.carry_out(node, node.link.watch(NodeName(other)))

    def deliver_frame(self, index: int = 0, *, keep: bool = False) -> None:
        frame = self.frames[index] if keep else self.frames.pop(index)
        node = self.nodes[frame.destination]
        is_there = node.online if frame.socket is None else frame.socket.ends[node.name] == node.incarnation
        if is_there and node.running:
            self.carry_out(node, node.link.receive(frame.source, frame.channel, frame.payload, self.now))

    def deliver_state(self, name: str) -> None:
        node = self.nodes[name]
        if not node.states:
            return
        about, payload = node.states.popleft()
        outputs = node.link.state_received(about, payload, self.now)
        if about == name:
            envelope = Envelope.FromString(payload)
            said = (envelope.source_incarnation, envelope.lifecycle.phase, envelope.lifecycle.connection)
            if said < (node.incarnation, Lifecycle.READY, node.connection) or (
                said[0] == node.incarnation and said[1] == Lifecycle.LOST
            ):
                self.announce(node)
        if about == name or about in node.watched:
            self.carry_out(node, outputs)

    def deliver_all(self) -> None:
        """Until nothing is under way."""
        for _ in range(100_000):
            if self.frames:
                self.deliver_frame()
            else:
                waiting = [node.name for node in self.nodes.values() if node.states and node.online]
                news = [node.name for node in self.nodes.values() if node.news]
                if waiting:
                    self.deliver_state(waiting[0])
                elif news:
                    self.deliver_news(news[0])
                else:
                    return
        raise AssertionError("the nodes never stop talking")

    def pass_time(self, seconds: float, *, deliver: bool = False) -> None:
        """Let time pass, ticking whoever wants it."""
        end = self.now + seconds
        for _ in range(100_000):
            if deliver:
                self.deliver_all()
            dues = [due for node in self.nodes.values() if node.running and (due := node.link.deadline()) is not None]
            due = min(dues, default=None)
            if due is None or due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for node in list(self.nodes.values()):
                wanted = node.link.deadline()
                if node.running and wanted is not None and wanted <= self.now:
                    self.carry_out(node, node.link.tick(self.now))
        raise AssertionError("ticks without end")

    # --- outputs and what must hold ----------------------------------------------------------------------------------

    def carry_out(self, node: Node, outputs: list[LinkOutput]) -> None:
        for output in outputs:
            match output:
                case Transmit(destination, channel, payload):
                    self.frames_sent += 1
                    socket = node.sockets.get(destination)
                    if socket is not None:
                        if socket.is_open:
                            self.frames.append(Frame(destination, node.name, channel, payload, socket))
                    elif node.online and self.broker and self.nodes[destination].online:
                        self.frames.append(Frame(destination, node.name, channel, payload))
                case Deliver(envelope):
                    self.check_delivery(node, envelope)
                case PeerUp(name, incarnation, phase, _):
                    before = node.up.get(name)
                    assert before is None or before == incarnation, "a new incarnation without PeerDown of the old one"
                    assert incarnation <= self.incarnations[name]
                    node.up[name] = incarnation
                    node.ups.append((name, incarnation, phase))
                    if before is None:
                        node.told_at.append((self.tell(), "up", name, incarnation))
                case PeerDown(name, incarnation, reason):
                    assert node.up.pop(name, None) == incarnation, "PeerDown of a peer that was not up"
                    node.downs.append((name, incarnation, reason))
                    node.epoch[name] += 1
                    node.told_at.append((self.tell(), "down", name, incarnation))
                case Watch(name):
                    if name not in node.watched:
                        node.watched.add(name)
                        if node.online and name in self.retained:
                            node.states.append((name, self.retained[name]))
                case Unwatch(name):
                    node.watched.discard(name)
                case Superseded():
                    node.superseded = True
        self.check_bounds(node)

    def tell(self) -> int:
        self.events += 1
        return self.events

    def check_delivery(self, node: Node, envelope: Envelope) -> None:
        number = envelope.hcall.opcode
        sent = self.sent[number]
        source = (envelope.source, envelope.source_incarnation)
        assert sent.source == source
        assert sent.destination == node.name
        assert envelope.destination_incarnation == node.incarnation, "delivered to another incarnation"
        assert number not in self.delivered_at, "delivered twice"
        self.delivered_at[number] = (node.name, node.incarnation)
        assert node.up.get(envelope.source) == envelope.source_incarnation, "delivered from a peer that is not up"
        assert envelope.source_incarnation == max(
            [e.source_incarnation for e in node.delivered if e.source == envelope.source] + [source[1]]
        ), "an old incarnation spoke after a new one"
        pair = (*source, node.name, node.incarnation)
        seq = self.streams.get((*pair, envelope.stream), 0) + 1
        assert envelope.seq == seq, f"expected seq {seq} of stream {envelope.stream}, got {envelope.seq}"
        self.streams[*pair, envelope.stream] = seq
        assert number > self.last_number.get(pair, 0), "out of order"
        # Whatever of the same epoch of the sender was sent earlier has been delivered earlier: no gap.
        for other in self.sent.values():
            if (
                other.number < number
                and other.source == sent.source
                and other.destination == sent.destination
                and other.epoch == sent.epoch
            ):
                assert other.number in self.delivered_at, f"{other.number} is missing before {number}"
        self.last_number[pair] = number
        node.delivered.append(envelope)

    def check_bounds(self, node: Node) -> None:
        for peer in node.link._peers.values():
            assert len(peer.unacked) <= self.config.window
            assert len(peer.early) < self.config.window
            assert peer.backlog.count <= self.config.backlog
            assert peer.unacked_bytes == sum(len(item.payload) for item in peer.unacked)
            assert (node.up.get(peer.name) == peer.incarnation) == peer.alive

    def heal(self, seconds: float = 200.0) -> None:
        """Everything works again: reconnect all that run, lose nothing, let time pass."""
        self.broker = True
        for name in self.nodes:
            self.connect(name)
        self.pass_time(10.0, deliver=True)
        for name in self.nodes:
            self.notice(name)
        self.pass_time(seconds, deliver=True)

    def missing(self) -> list[Sent]:
        """What was sent by a living incarnation in its present epoch and has not been delivered."""
        return [
            sent
            for sent in self.sent.values()
            if (node := self.nodes[sent.source[0]]).running
            and node.incarnation == sent.source[1]
            and node.epoch[sent.destination] == sent.epoch
            and self.nodes[sent.destination].running
            and sent.number not in self.delivered_at
        ]
