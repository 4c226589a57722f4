"""The port: what every transport offers to the link layer above it.

A port moves *frames* (opaque bytes with a source, a destination and a channel) and *states* (one retained frame per
node).  It may lose, repeat, delay and reorder frames; the link layer (``transport.link``) repairs all of that.  It must
not block: ``send`` hands the frame on or loses it.

Everything a port learns it tells its :class:`PortHandler`, always from the event loop's thread.

A port that can also reach nodes of the same host without the broker has a :class:`Direct` part: there frames take a
shorter way by themselves, and file descriptors can be passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from pvnet.core.names import NodeName

TOPIC_ROOT = "pvnet/v1"
"""First two levels of every topic (contract: ``pvnet/v1/{lab}/{destination}/{channel}/{source}``)."""

MAX_FRAME_BYTES = 128 * 1024
"""Largest frame: brokers' default limits start above 128 KiB; larger transfers are chunked."""


class Channel(StrEnum):
    """The channels of the topic contract."""

    CALL = "call"
    REPLY = "reply"
    IRQ = "irq"
    CRQ = "crq"
    VBUS = "vbus"
    MDEV = "mdev"
    DEVICE = "device"
    MGMT = "mgmt"


class PortHandler(Protocol):
    """Who listens to a port."""

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        """Take a frame for us."""

    def state_received(self, node: str, payload: bytes) -> None:
        """Take the (retained or new) state of a watched node, or of ourselves."""

    def next_will(self, connection: int) -> bytes:
        """Return the state to publish for us if connection number ``connection``, about to be made, breaks."""
        ...

    def port_connected(self, connection: int) -> None:
        """Frames can be sent; ``connection`` counts this port's connections from 1."""

    def port_disconnected(self, reason: str) -> None:
        """Frames are lost until ``port_connected`` (but those to nodes with a direct path)."""

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, reason: str) -> None:
        """The direct path to that incarnation of ``node`` has come, or has gone; ``reason`` is empty if in good order.

        Only a port with :attr:`Port.direct` tells this.
        """

    def share_received(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Take file descriptors that a node has passed to us; the handler owns (and closes) them."""


class HostAddress(NamedTuple):
    """Where processes of the same host reach a node."""

    host: str
    """Identifies the running host, or container."""
    path: str
    """Of a listening socket."""


MAX_SHARED_FDS: Final = 16
MAX_LABEL_BYTES: Final = 64
MAX_SHARE_BYTES: Final = 32 * 1024
"""Largest body that goes with shared file descriptors."""


class Direct(Protocol):
    """The part of a port that reaches nodes without the broker."""

    @property
    def address(self) -> HostAddress | None:
        """What to say of us in our state, if we can be reached."""

    def is_direct(self, node: str) -> bool:
        """Whether frames to ``node`` do not go over the broker now."""
        ...

    async def settle(self, node: str, timeout: float) -> bool:
        """Wait until there is a direct path to ``node``, or none can be had; whether there is."""
        ...

    def share(self, destination: str, label: str, body: bytes, fds: Sequence[int]) -> bool:
        """Pass copies of file descriptors to a node; False: there is no direct path to it.

        Shares arrive in order, at most once, before frames sent later; one that is under way when the path breaks is
        lost.

        Raises:
            LocalError: too many descriptors, or label or body are too long.
        """
        ...

    def break_path(self, node: str) -> None:
        """Cut the direct path to ``node``, as if its socket had failed; it is made again soon."""


class Port(Protocol):
    """One node's access to a transport."""

    @property
    def direct(self) -> Direct | None:
        """What reaches nodes without the broker, if this port can."""

    async def open(self, handler: PortHandler, *, timeout: float) -> None:
        """Connect for the first time.

        Raises:
            ConfigError: the other side refused our credentials or name.
            UnreachableError: nothing answered within ``timeout`` seconds.
        """

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Send one frame, or lose it silently while disconnected (the link repeats it)."""

    def watch(self, node: NodeName) -> None:
        """Also receive the state of ``node`` from now on."""

    def unwatch(self, node: NodeName) -> None:
        """Forget ``node``: no more states of it."""

    def set_state(self, payload: bytes) -> None:
        """Publish our retained state (kept and published again by the handler at each connection)."""

    async def close(self, last_state: bytes | None, *, forget: bool = False) -> None:
        """Publish ``last_state`` (when connected), then disconnect for good.  Never raises.

        With ``forget`` nothing is retained afterwards: a node of that name is not expected again.
        """


def frame_topic(lab: str, destination: str, channel: str, source: str) -> str:
    """Topic of a frame."""
    return f"{TOPIC_ROOT}/{lab}/{destination}/{channel}/{source}"


def state_topic(lab: str, node: str) -> str:
    """Topic of a node's retained state."""
    return f"{TOPIC_ROOT}/{lab}/{node}/state"
