"""A link between the switches of two labs at one broker: ``broker:LAB`` here, ``broker-listen:LAB`` there.

The connecting bridge becomes a node ``link-NAME`` (the name of its own lab) in the other lab and talks to the bridge
there.  Each side says hello first; then every message is one packet (:mod:`pvnet.vbus.link_codec`).  What the broker
does not take in time is dropped, as on a full cable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from pvnet.core.errors import LocalError, WireError
from pvnet.core.machine import Counters, Note
from pvnet.net.running_switch import RunningSwitch
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import READY, Endpoint
from pvnet.runtime.service import make_port
from pvnet.runtime.topology import BRIDGE
from pvnet.transport.link import BacklogFullError, PeerDown, PeerUp
from pvnet.vbus.link_codec import LinkHello, decode_link_message, encode_link_hello, encode_link_packets
from pvnet.vbus.packet import ACCEPTS_TAP, Packet
from pvnet.vbus.vnet_header import VnetHeaders

_MESSAGE_BYTES: Final = 100 * 1024
"""Most bytes of packets in one message of the transport."""
_START_S: Final = 10.0


def link_node(lab: str) -> str:
    """Name of the node that the bridge of ``lab`` is in another lab."""
    return f"link-{lab}"[:32]


class BrokerLink:
    """One end: a port of our switch while the other end is there."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        peer: str,
        hello: LinkHello,
        switch: RunningSwitch,
        note: Callable[[Note], None],
    ) -> None:
        self.name = name
        self.receive: Callable[[list[Packet]], None] = _nowhere
        self.counters = Counters()
        self.peer = peer
        self._endpoint = endpoint
        self._hello = hello
        self._theirs: LinkHello | None = None
        self._switch = switch
        self._note = note
        self._headers = VnetHeaders()

    @property
    def mtu(self) -> int:
        """The smaller of both ends'."""
        return min(self._hello.mtu, self._theirs.mtu) if self._theirs is not None else self._hello.mtu

    @property
    def accepts(self) -> int:
        """What the other end takes."""
        return self._theirs.accepts & ACCEPTS_TAP if self._theirs is not None else 0

    def greet(self) -> None:
        """Say hello."""
        self._post([encode_link_hello(self._hello)])

    def frames(self, envelope: Envelope) -> None:
        """Take messages of the other end."""
        packets: list[Packet] = []
        for message in envelope.net_frames.messages:
            try:
                found = decode_link_message(message, self._hello.accepts, self._headers)
            except WireError as error:
                self.counters["bad_message"] += 1
                self._note(Note("link_bad_message", (("link", self.name), ("reason", str(error))), "warning"))
                continue
            if isinstance(found, LinkHello):
                self._greeted(found)
            elif self._theirs is not None:
                packets.append(found)
        if packets:
            self.receive(packets)

    def _greeted(self, hello: LinkHello) -> None:
        was_there = self._theirs is not None
        self._theirs = hello
        if was_there:
            return
        try:
            self._switch.plug(self)
        except LocalError as error:
            self._theirs = None
            self._note(Note("link_refused", (("link", self.name), ("reason", str(error))), "warning"))
            return
        self._note(Note("link_up", (("link", self.name), ("lab", hello.lab), ("mtu", self.mtu)), "info"))
        self.greet()

    def lost(self) -> None:
        """The other end is gone."""
        if self._theirs is not None:
            self._theirs = None
            self._switch.unplug(self.name)
            self._note(Note("link_down", (("link", self.name),), "warning"))

    def deliver(self, packets: list[Packet]) -> int:
        """Send packets; returns how many were taken before the way was full."""
        part: list[bytes] = []
        size = 0
        for number, packet in enumerate(packets):
            if self._theirs is None or self._endpoint.link.congested(self.peer):
                self.counters["congested"] += len(packets) - number
                return number
            try:
                message = encode_link_packets([packet], self._headers)
            except WireError:
                self.counters["refused"] += 1
                continue
            if part and size + len(message) > _MESSAGE_BYTES:
                self._post(part)
                part, size = [], 0
            part.append(message)
            size += len(message)
        if part:
            self._post(part)
        return len(packets)

    def _post(self, messages: list[bytes]) -> None:
        envelope = Envelope()
        envelope.net_frames.messages.extend(messages)
        try:
            self._endpoint.post(self.peer, envelope)
        except BacklogFullError:
            self.counters["congested"] += len(messages)


class ConnectingBrokerLink:
    """Our side of ``broker:LAB``: a node of our own in the other lab."""

    def __init__(
        self, broker: str, lab: str, name: str, hello: LinkHello, switch: RunningSwitch, note: Callable[[Note], None]
    ) -> None:
        node = link_node(hello.lab)
        self._endpoint = Endpoint(make_port(broker, lab, node), lab=lab, name=node, role="client")
        self.link = BrokerLink(name, self._endpoint, BRIDGE, hello, switch, note)
        self._endpoint.on("net_frames", self._frames)
        self._endpoint.on_peer_up.append(self._up)
        self._endpoint.on_peer_down.append(self._down)

    async def start(self) -> None:
        """Join the other lab; the link comes up when its bridge is there.

        Raises:
            UnreachableError, ConfigError: the broker.
        """
        await self._endpoint.start(timeout=_START_S)
        self._endpoint.ready()
        self._endpoint.watch(BRIDGE)

    def _frames(self, envelope: Envelope) -> None:
        if envelope.source == BRIDGE:
            self.link.frames(envelope)

    def _up(self, event: PeerUp) -> None:
        if event.node == BRIDGE and event.phase >= READY:
            self.link.greet()

    def _down(self, event: PeerDown) -> None:
        if event.node == BRIDGE:
            self.link.lost()

    async def close(self) -> None:
        """Leave the other lab."""
        self.link.lost()
        await self._endpoint.stop("link closed")


class ListeningBrokerLinks:
    """Our side of ``broker-listen:LAB`` for all labs that may link to us."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._links: dict[str, BrokerLink] = {}
        endpoint.on("net_frames", self._frames)
        endpoint.on_peer_down.append(self._down)

    def listen(
        self, lab: str, name: str, hello: LinkHello, switch: RunningSwitch, note: Callable[[Note], None]
    ) -> Callable[[], None]:
        """Let the bridge of ``lab`` link to ``switch``; returns what ends that."""
        node = link_node(lab)
        if node in self._links:
            raise LocalError(f"lab {lab} may link to a switch already")
        self._links[node] = BrokerLink(name, self._endpoint, node, hello, switch, note)
        return partial(self._end, node)

    def _end(self, node: str) -> None:
        self._links.pop(node).lost()

    def _frames(self, envelope: Envelope) -> None:
        link = self._links.get(envelope.source)
        if link is None:
            self._endpoint.counters["link_refused"] += 1
            return
        link.frames(envelope)

    def _down(self, event: PeerDown) -> None:
        link = self._links.get(event.node)
        if link is not None:
            link.lost()


class ListeningPort:
    """What ``broker-listen:LAB`` opened."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    async def close(self) -> None:
        """Let that lab link no more."""
        self._end()
        await asyncio.sleep(0)


def _nowhere(_packets: list[Packet]) -> None:
    pass


LINK_ACCEPTS: Final = ACCEPTS_TAP
"""Offloads that may travel on a link."""
