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
  ``retransmit_max_s``), and all at once when our port or the peer's has reconnected.  At most ``window`` frames and
  ``window_bytes`` are in flight; more wait in a bounded backlog.
* A peer is **down** when it says so (DEATH: for good), when a later incarnation shows up, when its connection has been
  lost (LOST, the broker's last will) for ``grace_s`` without it coming back, or when it shows no sign of life for
  ``return_s`` after our own reconnection (a restarted broker has lost its last will).  Then everything meant for it is
  given up and the upper layer is told once (:class:`PeerDown`).  Messages sent while a peer is down wait for it, or for
  its next incarnation.
* Some peers are also reached **directly**, without the broker (:meth:`Link.path_changed`).  Such a peer is served, and
  its clocks run, whatever happens to the broker; LOST counts from when the direct path ends, too.  A direct path that
  ends while the broker is away, or before the broker has vouched for the peer again, counts as LOST.  When a path ends
  everything unacknowledged is repeated at once.
* A peer that was declared down too early (it was only cut off) is **fenced**: its old stream is not delivered any more.
  It is told so (LinkReset names the refused stream; repeated until it answers), gives us up in turn, and both start new
  streams.  A higher **stream** number from the same incarnation means exactly this.  Streams are counted per pair of
  incarnations, so both sides know that the first is 1 without having said anything; whoever declares the other down
  refuses stream 1 even if it has never seen it.

So: while both incarnations live and are not declared down, each frame is delivered exactly once, in order; and when
one is declared down, both sides learn it.

Doubts decided: a frame whose body we do not know (a later version of pvnet) takes its place in the stream and is
skipped with a note, or everything behind it would wait for ever.  Of peers that are forgotten the last streams are
remembered (:mod:`pvnet.transport.link_peers`).
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from pvnet.core.errors import LocalError, WireError
from pvnet.core.machine import Counters, Note
from pvnet.core.names import NAME_PATTERN, NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.base import MAX_FRAME_BYTES, Channel
from pvnet.transport.envelope import CHANNEL_OF_BODY, SCHEMA_VERSION, decode_envelope
from pvnet.transport.link_checks import CONTROL_BODIES, impossible, misaddressed
from pvnet.transport.link_parts import (
    RESET_TRIES,
    BacklogFullError,
    Deliver,
    Life,
    LinkConfig,
    LinkOutput,
    Peer,
    PeerDown,
    PeerUp,
    Sent,
    Superseded,
    Transmit,
    Unwatch,
    Watch,
)
from pvnet.transport.link_peers import PeerTable

__all__ = [
    "BacklogFullError",
    "Deliver",
    "Link",
    "LinkConfig",
    "LinkOutput",
    "PeerDown",
    "PeerUp",
    "Superseded",
    "Transmit",
    "Unwatch",
    "Watch",
]

MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES - 256
"""Largest message (body, correlation, deadline): the rest of a frame is addresses and numbers of the link."""

_NAME: Final = re.compile(NAME_PATTERN)
_RESET_EVERY_S: Final = 0.1


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
        self._table = PeerTable(self.config)
        self._peers = self._table.peers
        self._online = True
        self._direct: dict[str, int] = {}  # peer -> the incarnation to which there is a direct path
        # Never later than the earliest deadline; recomputed by tick().  An early tick is harmless, a scan per
        # frame is not.
        self._due: float | None = None

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, destination: NodeName, envelope: Envelope, now: float) -> list[LinkOutput]:
        """Send ``envelope`` (body, correlation and deadline filled in) to ``destination``, exactly once and in order.

        Raises:
            BacklogFullError: more than ``backlog`` frames or ``backlog_bytes`` wait for that peer.
            LocalError: the body has no channel, the message is too large, or the destination is ourselves.
        """
        body = envelope.WhichOneof("body")
        channel = CHANNEL_OF_BODY.get(body or "")
        if channel is None:
            raise LocalError(f"a body of kind {body!r} cannot be sent")
        size = envelope.ByteSize()
        if size > MAX_MESSAGE_BYTES:
            raise LocalError(f"message of {size} bytes to {destination}: expected at most {MAX_MESSAGE_BYTES}")
        if destination == self.name:
            raise LocalError(f"{self.name} cannot send to itself")
        out: list[LinkOutput] = []
        peer = self._peers.get(destination)
        if peer is None:
            peer = self._table.add(destination, out)
        waiting, config = peer.backlog, self.config
        if self._may_transmit(peer) and not waiting.count:
            self._transmit(peer, channel, envelope, now, out)
        elif waiting.count >= config.backlog or waiting.bytes + size > config.backlog_bytes:
            raise BacklogFullError(f"{destination} does not take messages: {waiting.count} are waiting")
        else:
            waiting.push(channel, envelope, size)
        return out

    def _may_transmit(self, peer: Peer) -> bool:
        config = self.config
        return peer.alive and len(peer.unacked) < config.window and peer.unacked_bytes < config.window_bytes

    def congested(self, destination: str) -> bool:
        """Whether frames to ``destination`` have to wait now (callers that can wait should)."""
        peer = self._peers.get(destination)
        return peer is not None and peer.alive and peer.backlog.count > 0

    def cancel(self, destination: str, correlation: int) -> bool:
        """Take a call back that has not been sent yet; whether it was still here."""
        peer = self._peers.get(destination)
        return peer is not None and peer.backlog.cancel(correlation)

    def _transmit(self, peer: Peer, channel: Channel, envelope: Envelope, now: float, out: list[LinkOutput]) -> None:
        envelope.schema = SCHEMA_VERSION
        envelope.lab = self.lab
        envelope.source = self.name
        envelope.source_incarnation = self.incarnation
        envelope.destination = peer.name
        envelope.destination_incarnation = peer.incarnation
        envelope.stream = peer.stream
        envelope.seq = peer.next_seq
        envelope.ack_stream = peer.rx_stream
        envelope.ack = peer.rx_next - 1
        peer.ack_owed = 0
        peer.ack_at = None
        payload = envelope.SerializeToString()
        peer.unacked.append(Sent(peer.next_seq, channel, payload))
        peer.unacked_bytes += len(payload)
        peer.next_seq += 1
        if peer.resend_at is None:
            self._arm_resend(peer, now, self.config.retransmit_s)
        out.append(Transmit(peer.name, channel, payload))

    def _arm_resend(self, peer: Peer, now: float, wait: float) -> None:
        peer.resend_wait = wait
        peer.resend_at = now + wait
        self._wake_by(peer.resend_at)

    def _wake_by(self, due: float) -> None:
        if self._due is None or due < self._due:
            self._due = due

    def _flush(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        while peer.backlog.count and self._may_transmit(peer):
            channel, envelope = peer.backlog.pop()
            self._transmit(peer, channel, envelope, now, out)

    def _control(self, peer: Peer, kind: str, out: list[LinkOutput]) -> None:
        """Send an unsequenced frame: ``link_ack``, or ``link_reset`` (which refuses the stream in its ack fields)."""
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            lab=self.lab,
            source=self.name,
            source_incarnation=self.incarnation,
            destination=peer.name,
            destination_incarnation=peer.incarnation,
            stream=peer.stream,
            ack_stream=peer.rx_stream,
            ack=peer.rx_next - 1,
        )
        getattr(envelope, kind).SetInParent()
        peer.ack_owed = 0
        peer.ack_at = None
        out.append(Transmit(peer.name, CHANNEL_OF_BODY[kind], envelope.SerializeToString()))

    # --- receiving -------------------------------------------------------------------------------------------------

    def receive(self, source: str, channel: str, payload: bytes, now: float) -> list[LinkOutput]:
        """Take a frame that arrived on a topic of ``source`` and ``channel``."""
        out: list[LinkOutput] = []
        try:
            envelope = decode_envelope(payload, self.lab)
        except WireError as error:
            return self._drop(out, "bad_envelope", source, channel, str(error))
        body = envelope.WhichOneof("body")
        mistake = misaddressed(envelope, body, source, channel)
        if mistake:
            return self._drop(out, "misaddressed", source, channel, mistake)
        if envelope.destination != self.name or envelope.destination_incarnation != self.incarnation:
            self.counters["stale_destination"] += 1
            return out
        mistake = impossible(envelope, body, source, self.name)
        if mistake:
            return self._drop(out, "bad_envelope", source, channel, mistake)
        control = body in CONTROL_BODIES
        peer = self._peers.get(source)
        if peer is None:
            if len(self._peers) >= self.config.max_peers and not self._table.bury_one(out, fenced=True):
                return self._drop(out, "too_many_peers", source, channel, f"expected at most {len(self._peers)}")
            peer = self._table.add(NodeName(source), out)
        if not self._check_peer(peer, envelope, now, out):
            return out
        if body == "link_reset":
            self._reset_received(peer, envelope.ack_stream, now, out)
            return out
        if envelope.ack_stream == peer.stream and peer.unacked:
            self._acknowledged(peer, envelope.ack, now, out)
        if not control:
            self._sequenced(peer, envelope, len(payload), now, out)
        return out

    def _drop(self, out: list[LinkOutput], event: str, source: str, channel: str, text: str) -> list[LinkOutput]:
        self.counters[event] += 1
        out.append(Note(event, (("source", source), ("channel", channel), ("error", text)), "warning"))
        return out

    def _check_peer(self, peer: Peer, envelope: Envelope, now: float, out: list[LinkOutput]) -> bool:
        """Compare incarnation and stream; whether the frame belongs to the peer's living stream."""
        incarnation, stream = envelope.source_incarnation, envelope.stream
        if incarnation < peer.incarnation or (incarnation == peer.incarnation and peer.life is Life.ENDED):
            self.counters["stale_source"] += 1
            return False
        if incarnation > peer.incarnation:
            self._down(peer, "restarted", out)
            peer.begin(incarnation)
        if peer.life is Life.UNSEEN:
            self._meet(peer, stream, now, out)
            return True
        if peer.life is Life.FENCED:
            if stream <= peer.rx_stream:
                self._fence(peer, now, out)
                return False
            peer.adopt(stream)
            self._up(peer, peer.phase, None, now, out)
            return True
        peer.unconfirmed_since = None
        if stream > peer.rx_stream:
            self._down(peer, "it had given us up", out)
            peer.adopt(stream)
            self._up(peer, peer.phase, None, now, out)
        elif stream < peer.rx_stream:
            self.counters["stale_stream"] += 1
            return False
        return True

    def _meet(self, peer: Peer, stream: int, now: float, out: list[LinkOutput]) -> None:
        """Bring up a peer of which the first that we see is a frame."""
        is_away = peer.phase == Lifecycle.LOST
        if stream > 1:
            # It had declared us down before we knew it, so it refuses our first stream; nothing was sent on it.
            peer.stream += 1
            peer.adopt(stream)
        self._up(peer, Lifecycle.BIRTH, None, now, out)
        if is_away:
            self._away(peer, now)

    def _away(self, peer: Peer, now: float) -> None:
        peer.is_away = True
        if not self._is_direct(peer):
            self._lost(peer, now)

    def _lost(self, peer: Peer, now: float) -> None:
        """Give the peer ``grace_s`` to come back."""
        peer.lost_at = now
        self._wake_by(now + self.config.grace_s)

    def _fence(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        """Answer a sign of life of a peer that we had declared down: it must start a new stream."""
        self.counters["fenced"] += 1
        if peer.reset_told_at is None or now - peer.reset_told_at >= _RESET_EVERY_S:
            peer.reset_told_at = now
            self._control(peer, "link_reset", out)
        peer.reset_tries = RESET_TRIES
        if peer.reset_at is None:
            peer.reset_wait = self.config.retransmit_s
            peer.reset_at = now + peer.reset_wait
            self._wake_by(peer.reset_at)

    def _reset_received(self, peer: Peer, refused: int, now: float, out: list[LinkOutput]) -> None:
        """Give up the refused stream if we still use it; answer, so that the peer sees the new one."""
        if refused == peer.stream:
            self._down(peer, "it had given us up", out)
            self._up(peer, peer.phase, None, now, out)
        self._control(peer, "link_ack", out)

    def _sequenced(self, peer: Peer, envelope: Envelope, size: int, now: float, out: list[LinkOutput]) -> None:
        seq = envelope.seq
        if seq == peer.rx_next:
            self._deliver(peer, envelope, out)
            while peer.early:
                following = peer.early.pop(peer.rx_next, None)
                if following is None:
                    break
                self._deliver(peer, following, out)
            if not peer.early:
                peer.early_bytes = 0
        elif seq < peer.rx_next:
            self.counters["duplicate"] += 1
            peer.ack_owed += 1
        elif seq in peer.early:
            self.counters["duplicate"] += 1
        elif seq < peer.rx_next + self.config.window and peer.early_bytes < 2 * self.config.window_bytes:
            self.counters["early"] += 1
            peer.early[seq] = envelope
            peer.early_bytes += size
        else:
            self.counters["beyond_window"] += 1
        if peer.ack_owed >= self.config.ack_every:
            self._control(peer, "link_ack", out)
        elif peer.ack_owed and peer.ack_at is None:
            peer.ack_at = now + self.config.ack_delay_s
            self._wake_by(peer.ack_at)

    def _deliver(self, peer: Peer, envelope: Envelope, out: list[LinkOutput]) -> None:
        peer.rx_next += 1
        peer.ack_owed += 1
        if envelope.WhichOneof("body") is None:
            self.counters["unknown_body"] += 1
            out.append(Note("unknown_body", (("source", peer.name), ("seq", envelope.seq)), "warning"))
        else:
            out.append(Deliver(envelope))

    def _acknowledged(self, peer: Peer, ack: int, now: float, out: list[LinkOutput]) -> None:
        if ack >= peer.next_seq:
            self.counters["bad_ack"] += 1
            return
        unacked = peer.unacked
        if unacked[0].seq > ack:
            return
        while unacked and unacked[0].seq <= ack:
            peer.unacked_bytes -= len(unacked.popleft().payload)
        peer.resend_at = None
        if unacked:
            self._arm_resend(peer, now, self.config.retransmit_s)
        if peer.backlog.count:
            self._flush(peer, now, out)

    # --- peers come and go -------------------------------------------------------------------------------------------

    def watch(self, node: NodeName) -> list[LinkOutput]:
        """Learn the states of ``node``, for good, without sending it anything."""
        out: list[LinkOutput] = []
        if node != self.name:
            peer = self._peers.get(node) or self._table.add(node, out)
            peer.watched = True
            self._table.keep(node)
        return out

    def forget(self, node: str) -> list[LinkOutput]:
        """Stop watching a node; its record goes when it is down and nothing waits for it."""
        out: list[LinkOutput] = []
        peer = self._peers.get(node)
        if peer is not None:
            peer.watched = False
            if not peer.alive:
                self._table.rest(node)
                if not peer.backlog.count:
                    self._table.bury(peer, out)
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

    def _peer_state(self, peer: Peer, incarnation: int, state: Lifecycle, now: float, out: list[LinkOutput]) -> None:
        phase = state.phase
        ended = phase == Lifecycle.DEATH
        if not ended and phase not in {Lifecycle.BIRTH, Lifecycle.READY, Lifecycle.LOST}:
            self.counters["bad_state"] += 1
            return
        if incarnation < peer.incarnation or (incarnation == peer.incarnation and peer.life is Life.ENDED):
            self.counters["stale_state"] += 1
            return
        if incarnation == peer.incarnation and state.connection < peer.connection and not ended:
            self.counters["stale_state"] += 1
            return
        if ended or incarnation > peer.incarnation:
            self._down(peer, (state.text if ended else "") or ("it has ended" if ended else "restarted"), out)
            if incarnation > peer.incarnation:
                peer.begin(incarnation)
        if ended:
            peer.life = Life.ENDED
            peer.reset_at = None
            return
        reconnected = 0 < peer.connection < state.connection  # 0: the first that we hear of its connections
        peer.connection = state.connection
        if phase == Lifecycle.LOST:
            self._peer_lost(peer, now)
        else:
            self._peer_there(peer, phase, state, reconnected, now, out)

    def _peer_lost(self, peer: Peer, now: float) -> None:
        """The peer's connection to the broker broke."""
        if peer.alive:
            self._away(peer, now)
        elif peer.life is Life.UNSEEN:
            peer.phase = Lifecycle.LOST
        peer.reset_at = None

    def _peer_there(
        self, peer: Peer, phase: int, state: Lifecycle, reconnected: bool, now: float, out: list[LinkOutput]
    ) -> None:
        """The peer says that it is there."""
        peer.is_vouched = self._online
        if peer.life is Life.UNSEEN:
            self._up(peer, phase, state, now, out)
        elif peer.life is Life.FENCED:
            peer.phase = phase
            self._fence(peer, now, out)  # it had only been cut off: its new stream will bring it up
        else:
            news = phase != peer.phase or peer.is_away or peer.lost_at is not None
            peer.phase = phase
            peer.is_away = peer.is_cut_off = False
            peer.lost_at = peer.unconfirmed_since = None
            if news:
                out.append(PeerUp(peer.name, peer.incarnation, phase, state))
            if reconnected and peer.unacked:  # what we sent meanwhile found nobody
                self._resend(peer, None, self.config.retransmit_s, now, out)

    def _up(self, peer: Peer, phase: int, state: Lifecycle | None, now: float, out: list[LinkOutput]) -> None:
        peer.life = Life.UP
        peer.phase = phase
        peer.is_away = peer.is_cut_off = False
        peer.lost_at = peer.unconfirmed_since = peer.reset_at = None
        self._table.keep(peer.name)
        out.append(PeerUp(peer.name, peer.incarnation, phase, state))
        self._flush(peer, now, out)

    def _down(self, peer: Peer, reason: str, out: list[LinkOutput]) -> None:
        """End the peer's incarnation, for us: give up all that was meant for it."""
        if not peer.alive:
            return
        peer.life = Life.FENCED
        self.counters["given_up"] += peer.give_up()
        if not peer.watched:
            self._table.rest(peer.name)
        out.append(PeerDown(peer.name, peer.incarnation, reason))

    def peer_incarnation(self, node: str) -> int:
        """Incarnation of a living peer, or 0."""
        peer = self._peers.get(node)
        return peer.incarnation if peer is not None and peer.alive else 0

    def peer_phase(self, node: str) -> int:
        """``Lifecycle.Phase`` of a living peer, or PHASE_UNSPECIFIED."""
        peer = self._peers.get(node)
        return peer.phase if peer is not None and peer.alive else int(Lifecycle.PHASE_UNSPECIFIED)

    def is_present(self, node: str) -> bool:
        """Whether a peer is up, and nothing says that it has just died."""
        peer = self._peers.get(node)
        return peer is not None and peer.alive and peer.lost_at is None and not peer.is_away

    @property
    def peers(self) -> list[NodeName]:
        """Names of the living peers."""
        return [peer.name for peer in self._peers.values() if peer.alive]

    # --- time --------------------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Stop the clocks: nothing is repeated or given up while our own port is down.

        Those of peers with a direct path go on.
        """
        self._online = False

    def connected(self, now: float) -> list[LinkOutput]:
        """React to a new connection of the port: repeat at once what is unacknowledged, and our acknowledgements."""
        out: list[LinkOutput] = []
        self._online = True
        for peer in self._peers.values():
            peer.is_vouched = peer.is_cut_off = False
            if peer.reset_at is not None:
                peer.reset_at = now
                self._wake_by(now)
            if not peer.alive or self._is_direct(peer):
                continue
            if peer.lost_at is not None:
                self._lost(peer, now)
            peer.unconfirmed_since = now
            self._wake_by(now + self.config.return_s)
            self._repeat_all(peer, now, out)
        return out

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, now: float) -> list[LinkOutput]:
        """React to a direct path to that incarnation of ``node`` that has come, or has gone."""
        out: list[LinkOutput] = []
        if is_direct:
            self._direct[node] = incarnation
        elif self._direct.get(node) == incarnation:
            del self._direct[node]
        else:
            return out
        peer = self._peers.get(node)
        if peer is None or peer.incarnation != incarnation:
            return out
        if is_direct:
            self._path_found(peer, now, out)
        elif peer.alive:
            self._path_lost(peer, now, out)
        return out

    def _is_direct(self, peer: Peer) -> bool:
        return self._direct.get(peer.name) == peer.incarnation

    def _path_found(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        if peer.life is Life.FENCED:
            self._fence(peer, now, out)  # it had only been cut off
        if not peer.alive:
            return
        was_stranded = not self._online or peer.is_away or peer.lost_at is not None
        peer.lost_at = peer.unconfirmed_since = None
        peer.is_cut_off = False
        if was_stranded:
            self._repeat_all(peer, now, out)

    def _path_lost(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        if not self._online or peer.is_away or not peer.is_vouched:
            self._lost(peer, now)
            peer.is_cut_off = not self._online
        if self._online:
            self._repeat_all(peer, now, out)

    def _repeat_all(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        """Repeat at once what the peer may not have got: frames, and our acknowledgements."""
        if peer.unacked:
            self._resend(peer, None, self.config.retransmit_s, now, out)
        self._control(peer, "link_ack", out)

    def _resend(self, peer: Peer, most: int | None, wait: float, now: float, out: list[LinkOutput]) -> None:
        """Repeat the first ``most`` frames (None: all), and again after ``wait`` seconds without progress."""
        sent = list(islice(peer.unacked, most))
        self.counters["resent"] += len(sent)
        out.extend(Transmit(peer.name, item.channel, item.payload) for item in sent)
        self._arm_resend(peer, now, wait)

    def tick(self, now: float) -> list[LinkOutput]:
        """Repeat, acknowledge and give up what is due."""
        out: list[LinkOutput] = []
        self._due = None
        for peer in self._peers.values():
            if self._online or peer.is_cut_off or self._is_direct(peer):
                self._tick_peer(peer, now, out)
        if self._online and self._table.is_crowded:
            self._table.bury_one(out)
        return out

    def _tick_peer(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        config = self.config
        lost_due = None if peer.lost_at is None else peer.lost_at + config.grace_s
        silent_due = None if peer.unconfirmed_since is None else peer.unconfirmed_since + config.return_s
        if lost_due is not None and now >= lost_due:
            self._down(peer, "connection lost", out)
            return
        if silent_due is not None and now >= silent_due:
            self._down(peer, "it did not come back", out)
            return
        if peer.resend_at is not None and now >= peer.resend_at:
            self._resend(peer, config.resend_burst, min(peer.resend_wait * 2, config.retransmit_max_s), now, out)
        if peer.ack_at is not None and now >= peer.ack_at:
            self._control(peer, "link_ack", out)
        if peer.reset_at is not None and now >= peer.reset_at:
            self._repeat_reset(peer, now, out)
        for due in (peer.resend_at, peer.ack_at, peer.reset_at, lost_due, silent_due):
            if due is not None:
                self._wake_by(due)

    def _repeat_reset(self, peer: Peer, now: float, out: list[LinkOutput]) -> None:
        peer.reset_at = None
        if peer.reset_tries:
            peer.reset_tries -= 1
            peer.reset_told_at = now
            self._control(peer, "link_reset", out)
            peer.reset_at = now + peer.reset_wait
            peer.reset_wait = min(peer.reset_wait * 2, self.config.retransmit_max_s)

    def deadline(self) -> float | None:
        """When ``tick`` may have something to do (possibly earlier than needed), or ``None``."""
        return self._due
