"""A link between the switches of two labs at one broker: ``broker:LAB`` here, ``broker-listen:LAB`` there.

The connecting bridge becomes a node ``link-NAME`` (the name of its own lab) in the other lab and talks to the bridge
there.  Each side says hello first; then every message is one packet (:mod:`pvnet.vbus.link_codec`).  What the broker
does not take in time is dropped, as on a full cable.

* The connecting side says hello with growing pauses (1 to 10 s) until it is answered.  The listening side answers every
  hello with its own, and says hello by itself when it begins to listen or the other node appears.  So it does not
  matter who is there first.
* A ``NetFrames`` without messages is a goodbye: from a listener that ends, and from a bridge that is spoken to and does
  not listen.  It is never answered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pvnet.core.errors import LocalError, WireError
from pvnet.core.machine import Counters, Note
from pvnet.net.running_switch import RunningSwitch
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.vbus_pb2 import NetFrames
from pvnet.runtime.endpoint import READY, Endpoint
from pvnet.runtime.topology import BRIDGE
from pvnet.transport.base import Port
from pvnet.transport.link import BacklogFullError, PeerDown, PeerUp
from pvnet.vbus.link_codec import LinkHello, decode_link_message, encode_link_hello, encode_link_packets
from pvnet.vbus.packet import ACCEPTS_TAP, Packet
from pvnet.vbus.vnet_header import VnetHeaders

_MESSAGE_BYTES: Final = 100 * 1024
"""Most bytes of packets in one message of the transport."""
_START_S: Final = 10.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_PREFIX: Final = "link-"
_LONGEST_NODE: Final = 32


def link_node(lab: str) -> str:
    """Name of the node that the bridge of ``lab`` is in another lab; of a long name the end is a hash."""
    name = _PREFIX + lab
    if len(name) <= _LONGEST_NODE:
        return name
    digest = hashlib.sha256(lab.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NODE - 9]}-{digest}"


class BrokerLink:
    """One end: a port of our switch while the other end is there.

    ``lab`` is the only one whose hello is taken; ``name`` is the port's, made from the other side's hello where None.
    """

    def __init__(
        self,
        lab: str,
        name: str | None,
        endpoint: Endpoint,
        peer: str,
        hello: LinkHello,
        switch: RunningSwitch,
        note: Callable[[Note], None],
    ) -> None:
        self.name = name or f"link:{lab}"
        self.receive: Callable[[list[Packet]], None] = _nowhere
        self.counters = Counters()
        self.peer = peer
        self.last_error = ""
        self._lab = lab
        self._is_named = name is not None
        self._endpoint = endpoint
        self._hello = hello
        self._theirs: LinkHello | None = None
        self._switch = switch
        self._note = note
        self._headers = VnetHeaders()

    @property
    def up(self) -> bool:
        """Whether the other end is there."""
        return self._theirs is not None

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

    def goodbye(self) -> None:
        """Say that this end is no more."""
        self._post([])

    def frames(self, envelope: Envelope) -> bool:
        """Take messages of the other end; whether there was a hello that may be answered."""
        if not envelope.net_frames.messages:
            self.lost("the other side does not listen")
            return False
        packets: list[Packet] = []
        greeted = False
        for message in envelope.net_frames.messages:
            try:
                found = decode_link_message(message, self._hello.accepts, self._headers)
            except WireError as error:
                self.counters["bad_message"] += 1
                self._note(Note("link_bad_message", (("link", self.name), ("reason", str(error))), "warning"))
                continue
            if isinstance(found, LinkHello):
                greeted = self._greeted(found)
            elif self._theirs is not None:
                packets.append(found)
        if packets:
            self.receive(packets)
        return greeted

    def _greeted(self, hello: LinkHello) -> bool:
        """Come up, or take what has changed; False, after a goodbye, if the other end cannot be a port."""
        if hello == self._theirs:
            return True
        if self._theirs is not None:
            self.lost("the other side has begun anew")
        try:
            if hello.lab != self._lab:
                raise LocalError(f"it is lab {hello.lab}, not {self._lab}")
            if not self._is_named:
                self.name = self._switch.free_name(f"link:{hello.lab}/{hello.name}")
            self._theirs = hello
            self._switch.plug(self)
        except LocalError as error:
            self._theirs = None
            if self.last_error != str(error):  # it will be tried again, and that again and again
                self.last_error = str(error)
                self._note(Note("link_refused", (("link", self.name), ("reason", str(error))), "warning"))
            self.goodbye()
            return False
        self._note(Note("link_up", (("link", self.name), ("lab", hello.lab), ("mtu", self.mtu)), "info"))
        return True

    def lost(self, reason: str) -> None:
        """The other end is gone."""
        if self._theirs is not None:
            self._theirs = None
            self._switch.unplug(self.name)
            self._note(Note("link_down", (("link", self.name), ("reason", reason)), "warning"))
        self.last_error = reason

    def deliver(self, packets: list[Packet]) -> int:
        """Send packets; returns how many were taken before the way was full."""
        part: list[bytes] = []
        size = 0
        for number, packet in enumerate(packets):
            if self._theirs is None or self._endpoint.link.congested(self.peer):
                self.counters["congested"] += len(packets) - number
                if part:
                    self._post(part)
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
        try:
            self._endpoint.post(self.peer, Envelope(net_frames=NetFrames(messages=messages)))
        except BacklogFullError:
            self.counters["congested"] += len(messages)


class ConnectingBrokerLink:
    """Our side of ``broker:LAB``: a node of our own in the other lab, behind ``port``."""

    def __init__(
        self,
        port: Port,
        lab: str,
        name: str,
        hello: LinkHello,
        switch: RunningSwitch,
        note: Callable[[Note], None],
        *,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        node = link_node(hello.lab)
        self._lab = lab
        self._endpoint = Endpoint(port, lab=lab, name=node, role="client")
        self.link = BrokerLink(lab, name, self._endpoint, BRIDGE, hello, switch, note)
        self._first_pause_s = first_pause_s
        self._is_down = asyncio.Event()
        self._is_down.set()
        self._peer_came = asyncio.Event()
        self._endpoint.on("net_frames", self._frames)
        self._endpoint.on_peer_up.append(self._up)
        self._endpoint.on_peer_down.append(self._down)

    @property
    def state(self) -> str:
        """How the link is; '' while it is up."""
        if self.link.up:
            return ""
        return f"down ({self.link.last_error or f'no answer from lab {self._lab}'})"

    async def start(self) -> None:
        """Join the other lab; the link comes up when its bridge is there.

        Raises:
            UnreachableError, ConfigError: the broker.
        """
        await self._endpoint.start(timeout=_START_S)
        self._endpoint.ready()
        self._endpoint.watch(BRIDGE)
        self._endpoint.spawn(self._greet(), "greet")

    async def _greet(self) -> None:
        """Say hello until there is an answer, and again when the link has gone down."""
        while True:
            await self._is_down.wait()
            pause = self._first_pause_s
            while self._is_down.is_set():
                self._peer_came.clear()
                self.link.greet()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._peer_came.wait()
                        pause = self._first_pause_s
                        continue
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _frames(self, envelope: Envelope) -> None:
        if envelope.source != BRIDGE:
            return
        was_up = self.link.up
        greeted = self.link.frames(envelope)
        if greeted and not was_up:
            self.link.greet()  # it may have been the first word, and not an answer
        self._look()

    def _look(self) -> None:
        if self.link.up:
            self._is_down.clear()
        else:
            self._is_down.set()

    def _up(self, event: PeerUp) -> None:
        if event.node == BRIDGE and event.phase >= READY:
            self._peer_came.set()

    def _down(self, event: PeerDown) -> None:
        if event.node == BRIDGE:
            self.link.lost(event.reason)
            self._look()

    async def close(self) -> None:
        """Leave the other lab."""
        self.link.goodbye()
        self.link.lost("closed here")
        await self._endpoint.stop("link closed")


class ListeningBrokerLinks:
    """Our side of ``broker-listen:LAB`` for all labs that may link to us."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._links: dict[str, BrokerLink] = {}
        endpoint.on("net_frames", self._frames)
        endpoint.on_peer_up.append(self._up)
        endpoint.on_peer_down.append(self._down)

    def listen(self, lab: str, hello: LinkHello, switch: RunningSwitch, note: Callable[[Note], None]) -> BrokerLink:
        """Let the bridge of ``lab`` link to ``switch``; :meth:`end` ends that.

        Raises:
            LocalError: it may already, here or at another switch.
        """
        node = link_node(lab)
        if node in self._links:
            raise LocalError(f"lab {lab} may link to a switch already")
        link = self._links[node] = BrokerLink(lab, None, self._endpoint, node, hello, switch, note)
        self._endpoint.watch(node)
        link.greet()
        return link

    def end(self, link: BrokerLink) -> None:
        """Let that lab link no more."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            link.goodbye()
            link.lost("closed here")

    def _frames(self, envelope: Envelope) -> None:
        link = self._links.get(envelope.source)
        if link is not None:
            if link.frames(envelope):
                link.greet()
            return
        self._endpoint.counters["link_refused"] += 1
        if envelope.source.startswith(_PREFIX) and envelope.net_frames.messages:
            with suppress(BacklogFullError):
                self._endpoint.post(envelope.source, Envelope(net_frames=NetFrames()))

    def _up(self, event: PeerUp) -> None:
        link = self._links.get(event.node)
        if link is not None and event.phase >= READY:
            link.greet()

    def _down(self, event: PeerDown) -> None:
        link = self._links.get(event.node)
        if link is not None:
            link.lost(event.reason)


def _nowhere(_packets: list[Packet]) -> None:
    pass


LINK_ACCEPTS: Final = ACCEPTS_TAP
"""Offloads that may travel on a link."""
