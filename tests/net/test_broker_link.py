"""Links over a broker: whoever is there first, whoever goes and comes again, and what is no such link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from net_frames import BROADCAST

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.core.names import NodeName, check_name
from pvnet.net.running_switch import RunningSwitch
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.vbus_pb2 import NetFrames
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import BRIDGE
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.vbus.link_codec import LinkHello, encode_link_hello
from pvnet.vbus.packet import ACCEPTS_TAP, Packet, packet_of
from pvnet.vbus.switch import SwitchOptions
from pvnet_services.broker_link import ConnectingBrokerLink, ListeningBrokerLinks, link_node

QUIET = SwitchOptions(probe_interval_s=0.0)
HERE = LinkHello("one", "net0", 1500, ACCEPTS_TAP)
THERE = LinkHello("two", "net0", 9000, ACCEPTS_TAP)


class Guest:
    """A port of one of the switches."""

    def __init__(self, switch: RunningSwitch, number: int) -> None:
        self.name = f"g{number}"
        self.mtu = 1500
        self.accepts = ACCEPTS_TAP
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self.number = number
        self.got: list[bytes] = []
        switch.plug(self)

    def deliver(self, packets: list[Packet]) -> int:
        self.got += [packet.tobytes() for packet in packets]
        return len(packets)

    def send(self) -> bytes:
        frame = BROADCAST + b"\x02\0\0\0\0" + bytes((self.number,)) + b"\x88\xb5" + bytes(60)
        self.receive([packet_of(frame)])
        return frame


async def until(condition: Callable[[], object]) -> None:
    """Wait for something on this loop that has no event of its own."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class World:
    """The lab ``one`` listens, lab ``two`` connects, over the network of lab ``one``."""

    def __init__(self) -> None:
        self.network = LoopbackNetwork()
        self.notes: list[Note] = []
        self.one, self.two = RunningSwitch(QUIET), RunningSwitch(QUIET)
        self.guests = Guest(self.one, 1), Guest(self.two, 2)
        self.bridge: Endpoint
        self.listening: ListeningBrokerLinks
        self.connecting: list[ConnectingBrokerLink] = []

    async def start_bridge(self) -> None:
        self.bridge = Endpoint(self.network.port(NodeName(BRIDGE)), lab="one", name=BRIDGE, role="bridge")
        self.listening = ListeningBrokerLinks(self.bridge)
        await self.bridge.start()
        self.bridge.ready()

    def listen(self, lab: str = "two"):
        return self.listening.listen(lab, HERE, self.one, self.notes.append)

    async def connect(self, hello: LinkHello = THERE) -> ConnectingBrokerLink:
        port = self.network.port(check_name(link_node(hello.lab)))
        link = ConnectingBrokerLink(port, "one", "broker:one", hello, self.two, self.notes.append, first_pause_s=0.02)
        await link.start()
        self.connecting.append(link)
        return link

    async def joined(self) -> None:
        """Frames cross in both directions."""
        for here, there in (self.guests, self.guests[::-1]):
            there.got.clear()
            async with asyncio.timeout(30):
                while True:
                    frame = here.send()
                    await asyncio.sleep(0.005)
                    if frame in there.got:
                        break

    async def apart(self) -> None:
        """Neither switch has a port for the other."""
        await until(lambda: len(ports(self.one)) == 1 and len(ports(self.two)) == 1)


def ports(switch: RunningSwitch) -> list[str]:
    return [port["name"] for port in switch.shown()["ports"]]  # type: ignore[attr-defined]


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    world = World()
    await world.start_bridge()
    try:
        yield world
    finally:
        for link in world.connecting:
            await link.close()
        await world.bridge.stop()
        world.one.close()
        world.two.close()


@pytest.mark.parametrize("listener_first", [True, False])
async def test_it_does_not_matter_who_is_there_first(listener_first):
    async with a_world() as world:
        if listener_first:
            world.listen()
        link = await world.connect()
        if not listener_first:
            await until(lambda: "does not listen" in link.state)
            world.listen()
        await world.joined()
        assert link.state == ""
        assert ports(world.one) == ["g1", "link:two/net0"]
        assert ports(world.two) == ["g2", "broker:one"]
        assert link.link.mtu == 1500


async def test_a_listener_that_ends_takes_the_other_side_down_and_may_come_again():
    async with a_world() as world:
        heard = world.listen()
        link = await world.connect()
        for _ in range(3):
            await world.joined()
            world.listening.end(heard)
            await world.apart()
            assert link.state == "down (the other side does not listen)"
            heard = world.listen()
        await world.joined()
        downs = [note for note in world.notes if note.event == "link_down"]
        assert len(downs) == 6
        assert {note.level for note in downs} == {"warning"}


async def test_a_connecting_side_that_is_removed_may_come_again():
    async with a_world() as world:
        world.listen()
        for _ in range(3):
            link = await world.connect()
            await world.joined()
            await link.close()
            await world.apart()


async def test_a_bridge_that_restarts_without_the_listener_lets_the_link_go_down_until_it_listens():
    async with a_world() as world:
        world.listen()
        link = await world.connect()
        await world.joined()
        await world.bridge.stop()
        await until(lambda: not link.link.up)
        for port in ports(world.one)[1:]:
            world.one.unplug(port)
        await world.start_bridge()
        await until(lambda: "does not listen" in link.state)
        world.listen()
        await world.joined()


async def test_a_hello_without_an_answer_is_said_again_and_no_more_once_there_is_one():
    async with a_world() as world:
        got: list[Envelope] = []
        world.bridge.on("net_frames", got.append)
        link = await world.connect()
        await until(lambda: len(got) >= 4)
        assert {bytes(each.net_frames.messages[0]) for each in got} == {encode_link_hello(THERE)}
        assert link.state == "down (no answer from lab one)"
        world.bridge.post("link-two", Envelope(net_frames=NetFrames(messages=[encode_link_hello(HERE)])))
        await until(lambda: link.link.up)
        await asyncio.sleep(0.01)
        count = len(got)
        await asyncio.sleep(0.5)
        assert len(got) == count


async def test_frames_to_a_bridge_that_does_not_listen_are_answered_with_one_goodbye_and_goodbyes_with_nothing():
    async with a_world() as world:
        got: list[Envelope] = []
        stranger = Endpoint(world.network.port(NodeName("link-two")), lab="one", name="link-two", role="client")
        stranger.on("net_frames", got.append)
        await stranger.start()
        stranger.ready()
        await stranger.wait_peer(BRIDGE)
        stranger.post(BRIDGE, Envelope(net_frames=NetFrames()))
        stranger.post(BRIDGE, Envelope(net_frames=NetFrames(messages=[b"anything"])))
        await until(lambda: world.bridge.counters["link_refused"] == 2)
        await until(lambda: got)
        await asyncio.sleep(0.05)
        assert [list(each.net_frames.messages) for each in got] == [[]]
        await stranger.stop()


async def test_a_node_that_is_no_link_gets_no_answer():
    async with a_world() as world:
        got: list[Envelope] = []
        stranger = Endpoint(world.network.port(NodeName("lpar1")), lab="one", name="lpar1", role="client")
        stranger.on("net_frames", got.append)
        await stranger.start()
        await stranger.wait_peer(BRIDGE)
        stranger.post(BRIDGE, Envelope(net_frames=NetFrames(messages=[encode_link_hello(THERE)])))
        await until(lambda: world.bridge.counters["link_refused"] == 1)
        await asyncio.sleep(0.05)
        assert got == []
        assert ports(world.one) == ["g1"]
        await stranger.stop()


async def test_the_hello_of_another_lab_is_refused_once_in_the_log():
    async with a_world() as world:
        world.listen()
        stranger = Endpoint(world.network.port(NodeName("link-two")), lab="one", name="link-two", role="client")
        got: list[Envelope] = []
        stranger.on("net_frames", got.append)
        await stranger.start()
        stranger.ready()
        await stranger.wait_peer(BRIDGE)
        other = encode_link_hello(LinkHello("three", "net0", 1500, 0))
        for _ in range(3):
            stranger.post(BRIDGE, Envelope(net_frames=NetFrames(messages=[other])))
        await until(lambda: [list(each.net_frames.messages) for each in got].count([]) == 3)
        refused = [note for note in world.notes if note.event == "link_refused"]
        assert [dict(note.fields)["reason"] for note in refused] == ["it is lab three, not two"]
        assert ports(world.one) == ["g1"]
        await stranger.stop()


async def test_a_lab_may_link_to_one_switch_only():
    async with a_world() as world:
        world.listen()
        with pytest.raises(LocalError, match="already"):
            world.listen()


def test_labs_with_long_names_are_nodes_of_different_names():
    first, second = "a" * 31 + "1", "a" * 31 + "2"
    assert link_node("east") == "link-east"
    assert link_node("x" * 27) == "link-" + "x" * 27
    assert link_node(first) != link_node(second)
    for lab in (first, second, "b" * 28):
        assert check_name(link_node(lab)) == link_node(lab)
        assert link_node(lab).startswith("link-")
