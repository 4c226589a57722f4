"""The port: what every transport offers to the link layer above it.

A port moves *frames* (opaque bytes with a source, a destination and a channel) and *states* (one retained frame per
node).  It may lose, repeat, delay and reorder frames; the link layer (``transport.link``) repairs all of that.  It must
not block: ``send`` hands the frame on or loses it.

Everything a port learns it tells its :class:`PortHandler`, always from the event loop's thread.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

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
        """Frames are lost until ``port_connected``."""


class Port(Protocol):
    """One node's access to a transport."""

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
