"""The link layer: exactly once, in order, per (source, destination), whatever the port loses, repeats or restarts.

One :class:`Link` serves one node.  It is sans-IO: frames, states and the time come in, :data:`LinkOutput`
values go out.

Model, per peer:

* A node's life is an **incarnation** (a boot id; later boots are larger).  A frame names both incarnations; a frame for
  another incarnation than ours is dropped, so a call meant for our predecessor never runs here.
* Frames to a peer form a **stream**, numbered 1, 2, 3 ... across all channels.  The receiver delivers in that order,
  drops repeats, keeps early arrivals (at most ``window``).  Every frame carries the cumulative acknowledgement of the
  other direction; a lone acknowledgement is sent only when nothing else flows.
* Unacknowledged frames are repeated after ``retransmit_s`` (the first ``resend_burst`` of them, doubling up to
  ``retransmit_max_s``) and all at once when the port has reconnected.  At most ``window`` are in flight; more wait in a
  backlog of at most ``backlog``.
* A peer is **down** when it says so (DEATH), when a later incarnation shows up, or when its connection has been lost
  (LOST, the broker's last will) for ``grace_s`` without it coming back.  Then everything meant for it is given up and
  the upper layer is told once (:class:`PeerDown`).  Messages sent while a peer is down wait for its next incarnation.
* A peer that was declared down too early (it was only cut off) is fenced: its old stream is not delivered any more; it
  is told so (LinkReset names the refused stream), gives us up in turn, and both start new streams.  A higher
  **stream** number from the same incarnation means exactly this.

So: while both incarnations live and are not declared down, each frame is delivered exactly once, in order; and when
one is declared down, both sides learn it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from pvnet.core.errors import LocalError, UnreachableError, WireError
from pvnet.core.machine import Counters, Note
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.base import MAX_FRAME_BYTES, Channel
from pvnet.transport.envelope import CHANNEL_OF_BODY, SCHEMA_VERSION, decode_envelope


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Times in seconds, sizes in frames."""

    retransmit_s: float = 1.0
    retransmit_max_s: float = 5.0
    ack_delay_s: float = 0.05
    ack_every: int = 64
    grace_s: float = 1.0
    window: int = 1024
    resend_burst: int = 64
    backlog: int = 16384
    max_peers: int = 4096


@dataclass(frozen=True, slots=True)
class Transmit:
    """Give this frame to the port."""

    destination: NodeName
    channel: Channel
    payload: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next message of a peer, checked."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A peer's incarnation is there; ``phase`` is a ``Lifecycle.Phase`` (BIRTH or READY)."""

    node: NodeName
    incarnation: int
    phase: int
    state: Lifecycle | None


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A peer's incarnation has ended for us; told once per incarnation and stream."""

    node: NodeName
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask the port for the state of this node."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later incarnation of our own name exists: this process must stop."""

    incarnation: int


LinkOutput = Transmit | Deliver | PeerUp | PeerDown | Watch | Superseded | Note


class BacklogFullError(UnreachableError):
    """Too many frames wait for a peer that does not take them."""


@dataclass(slots=True)
class _Sent:
    seq: int
    channel: Channel
    payload: bytes


@dataclass(slots=True)
class _Peer:
    name: NodeName
    incarnation: int = 0
    alive: bool = False
    phase: int = Lifecycle.PHASE_UNSPECIFIED
    connection: int = 0
    lost_at: float | None = None
    # sending
    stream: int = 1
    next_seq: int = 1
    unacked: deque[_Sent] = field(default_factory=deque)
    backlog: deque[tuple[Channel, Envelope]] = field(default_factory=deque)
    resend_at: float | None = None
    resend_wait: float = 0.0
    # receiving
    rx_stream: int = 0
    rx_next: int = 1
    early: dict[int, Envelope] = field(default_factory=dict)
    ack_owed: int = 0
    ack_at: float | None = None
    reset_told_at: float = -1e9


class Link:
    """The link layer of one node; see the module's text."""

    def __init__(self, lab: str, name: NodeName, incarnation: int, config: LinkConfig | None = None) -> None:
        if incarnation <= 0:
            raise LocalError("an incarnation is a positive number")
        self.lab = lab
        self.name = name
        self.incarnation = incarnation
        self.config = config or LinkConfig()
        self.counters = Counters()
        self._peers: dict[str, _Peer] = {}
        self._online = True
        # Never later than the earliest deadline; recomputed by tick().  An early tick is harmless, a scan per
        # frame is not.
        self._due: float | None = None

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, destination: NodeName, envelope: Envelope, now: float) -> list[LinkOutput]:
        """Send ``envelope`` (body, correlation and deadline filled in) to ``destination``, exactly once and in order.

        Raises:
            BacklogFullError: more than ``backlog`` frames wait for that peer.
            LocalError: the body has no channel, or the message is larger than 128 KiB.
        """
        body = envelope.WhichOneof("body")
        channel = CHANNEL_OF_BODY.get(body or "")
        if channel is None:
            raise LocalError(f"a body of kind {body!r} cannot be sent")
        size = envelope.ByteSize()
        if size > MAX_FRAME_BYTES - 256:
            raise LocalError(f"message of {size} bytes to {destination}: expected at most {MAX_FRAME_BYTES - 256}")
        out: list[LinkOutput] = []
        peer = self._peers.get(destination)
        if peer is None:
            peer = self._add_peer(destination, out)
        if peer.alive and not peer.backlog and len(peer.unacked) < self.config.window:
            self._transmit(peer, channel, envelope, now, out)
        elif len(peer.backlog) >= self.config.backlog:
            raise BacklogFullError(f"{destination} does not take messages: {len(peer.backlog)} are waiting")
        else:
            peer.backlog.append((channel, envelope))
        return out

    def congested(self, destination: str) -> bool:
        """Whether frames to ``destination`` have to wait now (callers that can wait should)."""
        peer = self._peers.get(destination)
        return peer is not None and peer.alive and len(peer.backlog) > 0

    def cancel(self, destination: str, correlation: int) -> bool:
        """Take a call back that has not been sent yet; whether it was still here."""
        peer = self._peers.get(destination)
        if peer is None:
            return False
        kept = deque(item for item in peer.backlog if item[1].correlation != correlation)
        found = len(kept) != len(peer.backlog)
        peer.backlog = kept
        return found

    def _transmit(self, peer: _Peer, channel: Channel, envelope: Envelope, now: float, out: list[LinkOutput]) -> None:
        envelope.schema = SCHEMA_VERSION
        envelope.lab = self.lab
        envelope.source = self.name
        envelope.source_incarnation = self.incarnation
        envelope.destination = peer.name
        envelope.destination_incarnation = peer.incarnation
        envelope.stream = peer.stream
        envelope.seq = peer.next_seq
        if peer.rx_stream:
            envelope.ack_stream = peer.rx_stream
            envelope.ack = peer.rx_next - 1
            peer.ack_owed = 0
            peer.ack_at = None
        payload = envelope.SerializeToString()
        peer.unacked.append(_Sent(peer.next_seq, channel, payload))
        peer.next_seq += 1
        if peer.resend_at is None:
            self._arm_resend(peer, now, self.config.retransmit_s)
        out.append(Transmit(peer.name, channel, payload))

    def _arm_resend(self, peer: _Peer, now: float, wait: float) -> None:
        peer.resend_wait = wait
        peer.resend_at = now + wait
        self._wake_by(peer.resend_at)

    def _wake_by(self, due: float) -> None:
        if self._due is None or due < self._due:
            self._due = due

    def _flush(self, peer: _Peer, now: float, out: list[LinkOutput]) -> None:
        while peer.alive and peer.backlog and len(peer.unacked) < self.config.window:
            channel, envelope = peer.backlog.popleft()
            self._transmit(peer, channel, envelope, now, out)

    def _control(self, peer: _Peer, kind: str, out: list[LinkOutput], *, refused: int = 0) -> None:
        """Send an unsequenced acknowledgement, or a reset that refuses a stream of the peer."""
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            lab=self.lab,
            source=self.name,
            source_incarnation=self.incarnation,
            destination=peer.name,
            destination_incarnation=peer.incarnation,
            stream=peer.stream,
        )
        if peer.rx_stream and kind == "link_ack":
            envelope.ack_stream = peer.rx_stream
            envelope.ack = peer.rx_next - 1
            peer.ack_owed = 0
            peer.ack_at = None
        if kind == "link_reset":
            envelope.ack_stream = refused
        getattr(envelope, kind).SetInParent()
        out.append(Transmit(peer.name, CHANNEL_OF_BODY[kind], envelope.SerializeToString()))

    # --- receiving -------------------------------------------------------------------------------------------------

    def receive(self, source: str, channel: str, payload: bytes, now: float) -> list[LinkOutput]:
        """Take a frame that arrived on a topic of ``source`` and ``channel``."""
        out: list[LinkOutput] = []
        try:
            envelope = decode_envelope(payload, self.lab)
        except WireError as error:
            return self._drop(out, "bad_envelope", source, channel, str(error))
        if envelope.source != source or CHANNEL_OF_BODY.get(envelope.WhichOneof("body") or "") != channel:
            return self._drop(out, "misaddressed", source, channel, f"says it is from {envelope.source[:40]!r}")
        if envelope.destination != self.name or envelope.destination_incarnation != self.incarnation:
            self.counters["stale_destination"] += 1
            return out
        peer = self._peers.get(source)
        if peer is None:
            if len(self._peers) >= self.config.max_peers:
                return self._drop(out, "too_many_peers", source, channel, f"expected at most {len(self._peers)}")
            peer = self._add_peer(NodeName(source), out)
        if not self._check_peer(peer, envelope, now, out):
            return out
        if envelope.HasField("link_reset"):
            self._reset_received(peer, envelope.ack_stream, now, out)
            return out
        if envelope.ack_stream == peer.stream and peer.unacked:
            self._acknowledged(peer, envelope.ack, now, out)
        if envelope.seq:
            self._sequenced(peer, envelope, now, out)
        return out

    def _reset_received(self, peer: _Peer, refused: int, now: float, out: list[LinkOutput]) -> None:
        """Give up the refused stream if we still use it; answer, so that the peer sees the new one."""
        if refused == peer.stream:
            phase = peer.phase
            self._down(peer, "it had given us up", out)
            self._up(peer, peer.incarnation, phase, None, now, out)
        self._control(peer, "link_ack", out)

    def _drop(self, out: list[LinkOutput], event: str, source: str, channel: str, text: str) -> list[LinkOutput]:
        self.counters[event] += 1
        out.append(Note(event, (("source", source), ("channel", channel), ("error", text)), "warning"))
        return out

    def _add_peer(self, name: NodeName, out: list[LinkOutput]) -> _Peer:
        peer = self._peers[name] = _Peer(name)
        out.append(Watch(name))
        return peer

    def _check_peer(self, peer: _Peer, envelope: Envelope, now: float, out: list[LinkOutput]) -> bool:
        """Compare incarnation and stream; whether the frame belongs to the peer's living stream."""
        incarnation = envelope.source_incarnation
        if incarnation < peer.incarnation:
            self.counters["stale_source"] += 1
            return False
        stream = envelope.stream
        if incarnation > peer.incarnation:
            self._down(peer, "restarted", out)
            self._up(peer, incarnation, Lifecycle.BIRTH, None, now, out)
        elif not peer.alive:
            if stream <= peer.rx_stream or not peer.rx_stream:
                self._fence(peer, max(stream, peer.rx_stream), now, out)
                return False
            self._adopt(peer, stream)
            self._up(peer, incarnation, Lifecycle.BIRTH, None, now, out)
            return True
        if stream == peer.rx_stream:
            return True
        if stream < peer.rx_stream:
            self.counters["stale_stream"] += 1
            return False
        if peer.rx_stream:
            phase = peer.phase
            self._down(peer, "it had given us up", out)
            self._adopt(peer, stream)
            self._up(peer, incarnation, phase, None, now, out)
        else:
            self._adopt(peer, stream)
        return True

    @staticmethod
    def _adopt(peer: _Peer, stream: int) -> None:
        peer.rx_stream = stream
        peer.rx_next = 1
        peer.early.clear()

    def _fence(self, peer: _Peer, stream: int, now: float, out: list[LinkOutput]) -> None:
        """Refuse a stream of a peer that lives although we had declared it down; say so at most every 100 ms."""
        self.counters["fenced"] += 1
        peer.rx_stream = stream
        if now - peer.reset_told_at >= 0.1:
            peer.reset_told_at = now
            self._control(peer, "link_reset", out, refused=stream)

    def _sequenced(self, peer: _Peer, envelope: Envelope, now: float, out: list[LinkOutput]) -> None:
        seq = envelope.seq
        if seq == peer.rx_next:
            peer.rx_next += 1
            peer.ack_owed += 1
            out.append(Deliver(envelope))
            while peer.early:
                following = peer.early.pop(peer.rx_next, None)
                if following is None:
                    break
                peer.rx_next += 1
                peer.ack_owed += 1
                out.append(Deliver(following))
        elif seq < peer.rx_next:
            self.counters["duplicate"] += 1
            peer.ack_owed = self.config.ack_every
        elif seq < peer.rx_next + self.config.window:
            self.counters["early"] += 1
            peer.early[seq] = envelope
        else:
            self.counters["beyond_window"] += 1
        if peer.ack_owed >= self.config.ack_every:
            self._control(peer, "link_ack", out)
        elif peer.ack_owed and peer.ack_at is None:
            peer.ack_at = now + self.config.ack_delay_s
            self._wake_by(peer.ack_at)

    def _acknowledged(self, peer: _Peer, ack: int, now: float, out: list[LinkOutput]) -> None:
        if ack >= peer.next_seq:
            self.counters["bad_ack"] += 1
            return
        unacked = peer.unacked
        if unacked[0].seq > ack:
            return
        while unacked and unacked[0].seq <= ack:
            unacked.popleft()
        peer.resend_at = None
        if unacked:
            self._arm_resend(peer, now, self.config.retransmit_s)
        if peer.backlog:
            self._flush(peer, now, out)

    # --- peers come and go -------------------------------------------------------------------------------------------

    def watch(self, node: NodeName) -> list[LinkOutput]:
        """Learn the states of ``node`` without sending it anything."""
        out: list[LinkOutput] = []
        if node not in self._peers:
            self._add_peer(node, out)
        return out

    def state_received(self, node: str, payload: bytes, now: float) -> list[LinkOutput]:
        """Take the retained state of a watched node, or of our own name."""
        out: list[LinkOutput] = []
        if not payload:
            return out
        try:
            envelope = decode_envelope(payload, self.lab)
        except WireError as error:
            return self._drop(out, "bad_state", node, "state", str(error))
        if envelope.source != node or envelope.WhichOneof("body") != "lifecycle":
            return self._drop(out, "misaddressed", node, "state", f"says it is from {envelope.source[:40]!r}")
        if node == self.name:
            if envelope.source_incarnation > self.incarnation:
                out.append(Superseded(envelope.source_incarnation))
            return out
        peer = self._peers.get(node)
        if peer is not None:
            self._peer_state(peer, envelope.source_incarnation, envelope.lifecycle, now, out)
        return out

    def _peer_state(self, peer: _Peer, incarnation: int, state: Lifecycle, now: float, out: list[LinkOutput]) -> None:
        if incarnation < peer.incarnation:
            self.counters["stale_state"] += 1
            return
        if state.phase in {Lifecycle.BIRTH, Lifecycle.READY}:
            if incarnation > peer.incarnation:
                self._down(peer, "restarted", out)
                self._up(peer, incarnation, state.phase, state, now, out)
            elif peer.alive and (state.phase != peer.phase or peer.lost_at is not None):
                peer.phase = state.phase
                peer.lost_at = None
                out.append(PeerUp(peer.name, incarnation, state.phase, state))
            elif not peer.alive and state.connection > peer.connection:
                # It had only been cut off.  Its new stream will bring it up; make it start one.
                self._fence(peer, max(peer.rx_stream, 1), now, out)
            peer.connection = max(peer.connection, state.connection)
        elif state.phase == Lifecycle.LOST:
            if incarnation == peer.incarnation and state.connection >= peer.connection and peer.alive:
                peer.lost_at = now
                self._wake_by(now + self.config.grace_s)
        elif state.phase == Lifecycle.DEATH:
            self._down(peer, state.text or "it has ended", out)
            if incarnation != peer.incarnation:
                peer.incarnation = incarnation
                peer.rx_stream = 0

    def _up(
        self, peer: _Peer, incarnation: int, phase: int, state: Lifecycle | None, now: float, out: list[LinkOutput]
    ) -> None:
        if incarnation != peer.incarnation:
            peer.connection = 0
            peer.rx_stream = 0
            peer.rx_next = 1
            peer.early.clear()
        peer.incarnation = incarnation
        peer.alive = True
        peer.phase = phase
        peer.lost_at = None
        if state is not None:
            peer.connection = state.connection
        out.append(PeerUp(peer.name, incarnation, phase, state))
        self._flush(peer, now, out)

    def _down(self, peer: _Peer, reason: str, out: list[LinkOutput]) -> None:
        """End the peer's incarnation: give up all that was meant for it."""
        if not peer.alive:
            return
        peer.alive = False
        peer.lost_at = None
        self.counters["given_up"] += len(peer.unacked) + len(peer.backlog)
        peer.unacked.clear()
        peer.backlog.clear()
        peer.resend_at = None
        peer.stream += 1
        peer.next_seq = 1
        peer.rx_next = 1
        peer.early.clear()
        peer.ack_owed = 0
        peer.ack_at = None
        out.append(PeerDown(peer.name, peer.incarnation, reason))

    def forget(self, node: str) -> None:
        """Drop a dead peer's record (short-lived clients), unless frames still wait for it."""
        peer = self._peers.get(node)
        if peer is not None and not peer.alive and not peer.backlog:
            del self._peers[node]

    def peer_incarnation(self, node: str) -> int:
        """Incarnation of a living peer, or 0."""
        peer = self._peers.get(node)
        return peer.incarnation if peer is not None and peer.alive else 0

    def peer_phase(self, node: str) -> int:
        """``Lifecycle.Phase`` of a living peer, or PHASE_UNSPECIFIED."""
        peer = self._peers.get(node)
        return peer.phase if peer is not None and peer.alive else int(Lifecycle.PHASE_UNSPECIFIED)

    @property
    def peers(self) -> list[NodeName]:
        """Names of the living peers."""
        return [peer.name for peer in self._peers.values() if peer.alive]

    # --- time --------------------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Stop the clocks: nothing is repeated or given up while our own port is down."""
        self._online = False

    def connected(self, now: float) -> list[LinkOutput]:
        """React to a new connection of the port: repeat at once what is unacknowledged, and our acknowledgements."""
        out: list[LinkOutput] = []
        self._online = True
        for peer in self._peers.values():
            if not peer.alive:
                continue
            if peer.lost_at is not None:
                peer.lost_at = now
                self._wake_by(now + self.config.grace_s)
            if peer.unacked:
                self._resend(peer, now, len(peer.unacked), out)
            if peer.rx_stream:
                self._control(peer, "link_ack", out)
        return out

    def _resend(self, peer: _Peer, now: float, most: int, out: list[LinkOutput]) -> None:
        sent = list(islice(peer.unacked, most))
        self.counters["resent"] += len(sent)
        out.extend(Transmit(peer.name, item.channel, item.payload) for item in sent)
        self._arm_resend(peer, now, min(peer.resend_wait * 2, self.config.retransmit_max_s))

    def tick(self, now: float) -> list[LinkOutput]:
        """Repeat, acknowledge and give up what is due."""
        out: list[LinkOutput] = []
        self._due = None
        if not self._online:
            return out
        grace = self.config.grace_s
        for peer in list(self._peers.values()):
            if peer.lost_at is not None and now >= peer.lost_at + grace:
                self._down(peer, "connection lost", out)
                continue
            if peer.resend_at is not None and now >= peer.resend_at:
                self._resend(peer, now, self.config.resend_burst, out)
            if peer.ack_at is not None and now >= peer.ack_at:
                self._control(peer, "link_ack", out)
            for due in (peer.resend_at, peer.ack_at, None if peer.lost_at is None else peer.lost_at + grace):
                if due is not None:
                    self._wake_by(due)
        return out

    def deadline(self) -> float | None:
        """When ``tick`` may have something to do (possibly earlier than needed), or ``None``."""
        return self._due
