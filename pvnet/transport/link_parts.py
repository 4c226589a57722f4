"""What the link layer (``transport.link``) is made of: its settings, its outputs, and the record it keeps per peer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pvnet.core.errors import UnreachableError
from pvnet.core.machine import Note
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.base import Channel
from pvnet.transport.envelope import REPLY_BODIES

RESET_TRIES: Final = 20
"""How often a living peer that we had declared down is told so before we wait for its next sign of life."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Times in seconds; sizes in frames, bytes where the name says so."""

    retransmit_s: float = 1.0
    retransmit_max_s: float = 5.0
    ack_delay_s: float = 0.05
    ack_every: int = 64
    grace_s: float = 1.0
    """How long a peer whose connection broke may stay away."""
    return_s: float = 15.0
    """How long after our own reconnection a peer may stay silent: a restarted broker has forgotten who died meanwhile.
    More than the longest pause between two attempts to connect."""
    window: int = 1024
    window_bytes: int = 8 * 1024 * 1024
    resend_burst: int = 64
    backlog: int = 16384
    backlog_bytes: int = 64 * 1024 * 1024
    max_peers: int = 4096
    dead_kept: int = 64
    """Dead peers whose states we go on watching although nobody asked for it."""
    graves: int = 16384
    """Peers no longer watched of which we remember which streams have ended."""


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
    """A peer's incarnation is there; ``phase`` is a ``Lifecycle.Phase`` (BIRTH or READY).

    Told again when the phase changes or when a connection that was LOST has come back in time.
    """

    node: NodeName
    incarnation: int
    phase: int
    state: Lifecycle | None


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A peer's incarnation has ended for us, all that was meant for it is given up; told once per time it was up."""

    node: NodeName
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask the port for the state of this node."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class Unwatch:
    """The state of this node is no longer needed."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later incarnation of our own name exists: this process must stop."""

    incarnation: int


LinkOutput = Transmit | Deliver | PeerUp | PeerDown | Watch | Unwatch | Superseded | Note


class BacklogFullError(UnreachableError):
    """Too many frames, or too many bytes, wait for a peer that does not take them."""


class Life(Enum):
    """What we hold of the peer's incarnation ``Peer.incarnation``."""

    UNSEEN = "unseen"
    """Never up for us (0: we know of none)."""
    UP = "up"
    FENCED = "fenced"
    """We declared it down; it may live and come back with a new stream."""
    ENDED = "ended"
    """It has said itself that it ended: it never comes back."""


@dataclass(slots=True)
class Sent:
    """A frame that is not acknowledged yet."""

    seq: int
    channel: Channel
    payload: bytes


@dataclass(slots=True)
class Waiting:
    """A message that has not left yet; ``envelope`` is None once it was taken back."""

    channel: Channel
    envelope: Envelope | None
    size: int


class Backlog:
    """Messages that wait, in order; calls can be taken back in constant time."""

    __slots__ = ("_calls", "_items", "bytes", "count")

    def __init__(self) -> None:
        self._items: deque[Waiting] = deque()
        self._calls: dict[int, Waiting] = {}
        self.count = 0
        self.bytes = 0

    def push(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Append a message."""
        item = Waiting(channel, envelope, size)
        self._items.append(item)
        if envelope.correlation and envelope.WhichOneof("body") not in REPLY_BODIES:
            self._calls[envelope.correlation] = item
        self.count += 1
        self.bytes += size

    def pop(self) -> tuple[Channel, Envelope]:
        """Remove the first message; there must be one."""
        while True:
            item = self._items.popleft()
            if item.envelope is not None:
                if self._calls.get(item.envelope.correlation) is item:
                    del self._calls[item.envelope.correlation]
                self.count -= 1
                self.bytes -= item.size
                return item.channel, item.envelope

    def cancel(self, correlation: int) -> bool:
        """Take back the call ``correlation`` (never a reply: those carry the other side's numbers)."""
        item = self._calls.pop(correlation, None)
        if item is None:
            return False
        item.envelope = None
        self.count -= 1
        self.bytes -= item.size
        if len(self._items) > 2 * self.count + 16:
            self._items = deque(item for item in self._items if item.envelope is not None)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self._calls.clear()
        self.count = self.bytes = 0


Grave = tuple[int, Life, int, int, int, int]
"""What is remembered of a peer no longer watched: incarnation, life, phase, connection, stream, rx_stream."""


@dataclass(slots=True)
class Peer:
    """One peer: its life, the stream to it, the stream from it."""

    name: NodeName
    incarnation: int = 0
    life: Life = Life.UNSEEN
    phase: int = Lifecycle.PHASE_UNSPECIFIED
    connection: int = 0
    lost_at: float | None = None
    unconfirmed_since: float | None = None
    is_away: bool = False
    """The broker says that its connection broke."""
    is_vouched: bool = False
    """The broker has told us, over this connection of ours, that it is there."""
    is_cut_off: bool = False
    """Its direct path ended while we had no broker: its time runs all the same."""
    watched: bool = False
    # sending
    stream: int = 1
    next_seq: int = 1
    unacked: deque[Sent] = field(default_factory=deque)
    unacked_bytes: int = 0
    backlog: Backlog = field(default_factory=Backlog)
    resend_at: float | None = None
    resend_wait: float = 0.0
    # receiving
    rx_stream: int = 1
    rx_next: int = 1
    early: dict[int, Envelope] = field(default_factory=dict)
    early_bytes: int = 0
    ack_owed: int = 0
    ack_at: float | None = None
    # telling it that it is fenced
    reset_told_at: float | None = None
    reset_at: float | None = None
    reset_wait: float = 0.0
    reset_tries: int = 0

    @property
    def alive(self) -> bool:
        """Whether it is up for us."""
        return self.life is Life.UP

    def bury(self) -> Grave:
        """Return what must not be forgotten."""
        return (self.incarnation, self.life, self.phase, self.connection, self.stream, self.rx_stream)

    def raise_from(self, grave: Grave) -> None:
        """Take up again what :meth:`bury` returned."""
        self.incarnation, self.life, self.phase, self.connection, self.stream, self.rx_stream = grave

    def begin(self, incarnation: int) -> None:
        """Start over for a new incarnation: streams are counted per pair of incarnations."""
        self.incarnation = incarnation
        self.life = Life.UNSEEN
        self.phase = Lifecycle.PHASE_UNSPECIFIED
        self.connection = 0
        self.is_away = self.is_vouched = self.is_cut_off = False
        self.stream = self.next_seq = self.rx_stream = self.rx_next = 1
        self.reset_told_at = self.reset_at = None

    def adopt(self, stream: int) -> None:
        """Expect the peer's stream ``stream`` from its beginning."""
        self.rx_stream = stream
        self.rx_next = 1
        self.early.clear()
        self.early_bytes = 0

    def give_up(self) -> int:
        """Drop all that was meant for the peer and start a new stream; return how many messages that were."""
        lost = len(self.unacked) + self.backlog.count
        self.unacked.clear()
        self.unacked_bytes = 0
        self.backlog.clear()
        self.stream += 1
        self.next_seq = 1
        self.adopt(self.rx_stream)
        self.ack_owed = 0
        self.is_cut_off = False
        self.lost_at = self.unconfirmed_since = self.resend_at = self.ack_at = None
        return lost
