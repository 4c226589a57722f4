"""Two switches joined by a real connection on loopback, plain and TLS, and everything that may go wrong on it."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from net_frames import BROADCAST, check_tcp, gso_tcp
from net_loops import both_loops

from pvnet.core.errors import ConfigError
from pvnet.core.machine import Counters
from pvnet.net import link as net_link
from pvnet.net.link import ConnectingLink, ListeningLink
from pvnet.net.link_address import LinkAddress, LinkOptions, LinkTls, parse_link
from pvnet.net.running_switch import RunningSwitch
from pvnet.vbus.link_codec import LinkHello, encode_link_hello, encode_link_packets
from pvnet.vbus.packet import ACCEPTS_NOTHING, ACCEPTS_TAP, Offload, Packet, packet_of
from pvnet.vbus.switch import SwitchOptions
from pvnet.vbus.vnet_header import VnetHeaders

QUIET = SwitchOptions(probe_interval_s=0.0)


class Guest:
    """A port of one of the switches; ``arrived`` is set by every delivery."""

    def __init__(self, name: str, *, accepts: int = ACCEPTS_TAP) -> None:
        self.name = name
        self.mtu = 1500
        self.accepts = accepts
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self.got: list[Packet] = []
        self.arrived = asyncio.Event()
        self.counters = Counters()

    def deliver(self, packets: list[Packet]) -> int:
        self.got += [packet.copy() for packet in packets]
        self.arrived.set()
        return len(packets)

    def send(self, *frames: bytes) -> None:
        self.receive([packet_of(frame) for frame in frames])

    async def frames(self, count: int) -> list[bytes]:
        async with asyncio.timeout(20):
            while len(self.got) < count:
                self.arrived.clear()
                await self.arrived.wait()
        frames = [packet.tobytes() for packet in self.got]
        self.got.clear()
        return frames


async def until(condition: Callable[[], object]) -> None:
    """Wait for something on this loop that has no event of its own."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@dataclass
class Pair:
    """Lab a connects to lab b; each has a guest."""

    a: RunningSwitch
    b: RunningSwitch
    guest_a: Guest
    guest_b: Guest
    link: ConnectingLink
    listener: ListeningLink
    up: asyncio.Event
    down: asyncio.Event
    listen_again: Callable[[], Awaitable[ListeningLink]]


def options(lab: str, **changes: object) -> LinkOptions:
    return LinkOptions(lab, "bridge", first_pause_s=0.01, longest_pause_s=0.1, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def pair(
    scheme: str = "tcp",
    *,
    client_tls: LinkTls | None = None,
    server_tls: LinkTls | None = None,
    client: LinkOptions | None = None,
    server: LinkOptions | None = None,
    host: str = "localhost",
) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        switches = [RunningSwitch(QUIET), RunningSwitch(QUIET)]
        guests = [Guest("guest-a"), Guest("guest-b")]
        for switch, guest in zip(switches, guests, strict=True):
            stack.callback(switch.close)
            switch.plug(guest)
        port = 0

        async def listen() -> ListeningLink:
            nonlocal port
            address = LinkAddress("127.0.0.1", port, listen=True, tls=scheme == "tls")
            listener = ListeningLink(address, server or options("lab-b"), switches[1], server_tls)
            await listener.start()
            stack.push_async_callback(listener.close)
            port = listener.port
            return listener

        listener = await listen()
        link = ConnectingLink(
            LinkAddress(host, port, listen=False, tls=scheme == "tls"),
            client or options("lab-a"),
            client_tls,
            name="up",
        )
        up, down = asyncio.Event(), asyncio.Event()
        link.on_change = lambda is_up: (up if is_up else down).set()
        switches[0].plug(link)
        link.start()
        stack.push_async_callback(link.close)
        yield Pair(*switches, *guests, link, listener, up, down, listen)


async def came_up(world: Pair) -> None:
    await asyncio.wait_for(world.up.wait(), 20)
    await until(lambda: world.listener.peers)
    world.up.clear()
    world.down.clear()


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(destination: bytes, source: bytes, size: int = 60, seed: int = 0) -> bytes:
    return destination + source + b"\x08\x00" + random.Random(seed).randbytes(size - 14)


@both_loops
async def test_frames_cross_in_both_directions_and_addresses_are_learned():
    async with pair() as world:
        await came_up(world)
        world.guest_a.send(hello := frame(BROADCAST, mac(1)))
        assert await world.guest_b.frames(1) == [hello]
        frames = [frame(mac(1), mac(2), 60 + number, number) for number in range(1000)]
        world.guest_b.send(*frames)
        assert await world.guest_a.frames(1000) == frames
        shown = {entry["address"]: entry["port"] for entry in world.b.shown()["addresses"]}
        assert shown == {"02:00:00:00:00:01": "link:lab-a/bridge", "02:00:00:00:00:02": "guest-b"}
        assert world.link.counters["connections"] == 1


@both_loops
async def test_large_packets_travel_whole_if_both_sides_agreed():
    async with pair() as world:
        await came_up(world)
        packet = gso_tcp(random.Random(5).randbytes(64000), 1448)
        world.guest_a.receive([packet])
        await world.guest_b.frames(1)
        world.guest_a.receive([packet])
        await until(lambda: world.guest_b.got)
        assert world.guest_b.got == [packet.copy()]


@pytest.mark.parametrize("side", ["client", "server"])
@both_loops
async def test_large_packets_are_cut_before_the_link_if_one_side_takes_none(side):
    narrow = {side: options("narrow", accepts=ACCEPTS_NOTHING)}
    async with pair(**narrow) as world:  # type: ignore[arg-type]
        await came_up(world)
        assert world.link.accepts == ACCEPTS_NOTHING
        payload = random.Random(5).randbytes(64000)
        world.guest_a.receive([gso_tcp(payload, 1448)])
        frames = await world.guest_b.frames(45)
        assert b"".join(check_tcp(one, 34)[3] for one in frames) == payload


@both_loops
async def test_the_smaller_mtu_counts():
    async with pair(client=options("lab-a", mtu=9000), server=options("lab-b", mtu=1400)) as world:
        await came_up(world)
        assert world.link.mtu == 1400
        world.guest_a.send(frame(BROADCAST, mac(1), 1415), fits := frame(BROADCAST, mac(1), 1414))
        assert await world.guest_b.frames(1) == [fits]


@both_loops
async def test_a_listener_that_dies_is_connected_to_again_and_traffic_resumes():
    async with pair() as world:
        await came_up(world)
        await world.listener.close()
        await asyncio.wait_for(world.down.wait(), 20)
        assert not world.link.up
        assert [port["name"] for port in world.b.shown()["ports"]] == ["guest-b"]
        world.guest_a.send(frame(BROADCAST, mac(1)))
        assert world.a.shown()["ports"][1]["drops"] == {"not_taken": 1}
        world.listener = await world.listen_again()
        await came_up(world)
        world.guest_a.send(hello := frame(BROADCAST, mac(1)))
        assert await world.guest_b.frames(1) == [hello]
        assert world.link.counters["connections"] == 2


@both_loops
async def test_the_connecting_side_may_be_there_first():
    switch = RunningSwitch(QUIET)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = ConnectingLink(LinkAddress("127.0.0.1", port, listen=False, tls=False), options("lab-a"))
    listener = ListeningLink(LinkAddress("127.0.0.1", port, listen=True, tls=False), options("lab-b"), switch)
    link.start()
    try:
        await until(lambda: link.last_error)
        assert link.last_error == "Connection refused"
        assert (link.up, link.mtu, link.accepts, link.deliver([packet_of(bytes(60))])) == (False, 1500, 0, 0)
        await listener.start()
        await until(lambda: link.up)
    finally:
        await link.close()
        await listener.close()
        switch.close()


@both_loops
async def test_a_switch_that_connects_twice_has_two_ports_and_more_than_are_allowed_are_refused(monkeypatch):
    monkeypatch.setattr(net_link, "MOST_PEERS", 2)
    async with pair() as world, AsyncExitStack() as stack:
        await came_up(world)
        for number in range(2):
            more = ConnectingLink(
                LinkAddress("127.0.0.1", world.listener.port, listen=False, tls=False),
                options("lab-a"),
                name=str(number),
            )
            more.start()
            stack.push_async_callback(more.close)
            if number == 0:
                await until(lambda: len(world.listener.peers) == 2)
        assert sorted(world.listener.peers) == ["link:lab-a/bridge", "link:lab-a/bridge#2"]
        await until(lambda: world.listener.counters["too_many_peers"])
        assert len(world.listener.peers) == 2


# Peers that do not behave


@asynccontextmanager
async def raw(world: Pair) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.listener.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


HELLO = encode_link_hello(LinkHello("stranger", "bridge", 1500, 0))
SMALL = encode_link_packets([packet_of(frame(BROADCAST, mac(9)))], VnetHeaders())
LARGE = encode_link_packets([gso_tcp(bytes(9000), 1448)], VnetHeaders())


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        SMALL,
        HELLO + HELLO,
        HELLO + b"PL\x02" + bytes(9),
        HELLO + b"PL\x01\x02\xff\xff\xff\xff" + bytes(4),
        HELLO[:12] + bytes(len(HELLO) - 12),
    ],
    ids=["http", "packet-first", "two-hellos", "version", "too-long", "empty-hello"],
)
@both_loops
async def test_who_does_not_speak_the_protocol_is_disconnected(stream):
    async with pair() as world, raw(world) as (reader, writer):
        await came_up(world)
        writer.write(stream)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            async with asyncio.timeout(20):
                await reader.readexactly(1 << 20)
        await until(lambda: list(world.listener.peers) == ["link:lab-a/bridge"])
        assert world.link.up, "the others do not notice"


@both_loops
async def test_what_came_before_the_mistake_is_still_delivered_if_it_was_a_port():
    async with pair() as world, raw(world) as (_reader, writer):
        await came_up(world)
        writer.write(HELLO)
        await until(lambda: "link:stranger/bridge" in world.listener.peers)
        writer.write(SMALL + b"junk that is no header")
        assert await world.guest_b.frames(1) == [frame(BROADCAST, mac(9))]
        await until(lambda: "link:stranger/bridge" not in world.listener.peers)


@both_loops
async def test_offloads_that_were_not_offered_end_the_link():
    async with pair(server=options("lab-b", accepts=ACCEPTS_NOTHING)) as world, raw(world) as (_reader, writer):
        await came_up(world)
        writer.write(HELLO)
        await until(lambda: "link:stranger/bridge" in world.listener.peers)
        writer.write(LARGE)
        await until(lambda: "link:stranger/bridge" not in world.listener.peers)
        assert world.guest_b.got == []


@both_loops
async def test_who_says_nothing_is_disconnected_after_the_deadline():
    async with pair(server=options("lab-b", hello_s=0.05)) as world, raw(world) as (reader, _writer):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            async with asyncio.timeout(20):
                await reader.readexactly(1 << 20)


@both_loops
async def test_a_listener_that_says_nothing_is_left_after_the_deadline():
    connections = asyncio.Queue[asyncio.StreamWriter]()
    server = await asyncio.start_server(lambda _reader, writer: connections.put_nowait(writer), "127.0.0.1", 0)
    address = LinkAddress("127.0.0.1", server.sockets[0].getsockname()[1], listen=False, tls=False)
    link = ConnectingLink(address, options("lab-a", hello_s=0.05))
    link.start()
    try:
        first = await asyncio.wait_for(connections.get(), 20)
        second = await asyncio.wait_for(connections.get(), 20)
        assert link.last_error == "no hello within 0.05 s"
        first.transport.abort()
        second.transport.abort()
    finally:
        await link.close()
        server.close()
        while not connections.empty():
            connections.get_nowait().transport.abort()


@both_loops
async def test_too_many_silent_connections_are_refused(monkeypatch):
    monkeypatch.setattr(net_link, "_MOST_CONNECTIONS", 2)
    async with pair() as world:
        await came_up(world)
        async with raw(world), raw(world):
            await until(lambda: world.listener.counters["too_many_connections"])


@both_loops
async def test_a_slow_link_drops_and_does_not_grow(monkeypatch):
    monkeypatch.setattr(net_link, "MOST_UNSENT", 300_000)
    async with pair() as world, raw(world) as (reader, writer):
        await came_up(world)
        writer.write(HELLO)
        name = "link:stranger/bridge"
        await until(lambda: name in world.listener.peers)
        link = world.listener.peers[name].link
        long = [frame(BROADCAST, mac(2), 1500, seed) for seed in range(100)]
        for _ in range(2000):
            world.guest_b.send(*long)
            transport = link._transport
            assert transport is not None
            assert transport.get_write_buffer_size() <= 300_000
            if link.counters["send_buffer_full"]:
                break
            await asyncio.sleep(0)
        assert link.counters["send_buffer_full"] > 0
        ports = {port["name"]: port for port in world.b.shown()["ports"]}
        assert ports[name]["drops"]["not_taken"] == link.counters["send_buffer_full"]
        await world.guest_a.frames(1)  # the healthy link went on
        sent = ports[name]["tx_packets"]
        await reader.readexactly(len(encode_link_hello(LinkHello("lab-b", "bridge", 1500, ACCEPTS_TAP))))
        async with asyncio.timeout(20):
            for number in range(sent):
                message = await reader.readexactly(12 + 1500)
                if number < 100:
                    assert message[12:] == long[number]


@both_loops
async def test_a_packet_that_fits_no_header_is_lost_alone():
    async with pair() as world:
        await came_up(world)
        good = packet_of(frame(BROADCAST, mac(1)))
        bad = packet_of(frame(BROADCAST, mac(1)), Offload(True, 70000, 16))
        world.guest_a.receive([good, bad, good])
        assert await world.guest_b.frames(2) == [good.tobytes()] * 2


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """CA, and certificate files of a server and a client; and another CA with a client of its own."""
    where = tmp_path_factory.mktemp("tls")
    result: dict[str, LinkTls] = {}
    for authority in ("ca", "other"):
        ca = trustme.CA()
        ca.cert_pem.write_to_path(where / f"{authority}.pem")
        for name in ("localhost", "client.example"):
            certificate = ca.issue_cert(name)
            files = where / f"{authority}-{name}.crt", where / f"{authority}-{name}.key"
            certificate.cert_chain_pems[0].write_to_path(files[0])
            certificate.private_key_pem.write_to_path(files[1])
            result[f"{authority}/{name}"] = LinkTls(where / f"{authority}.pem", *files)
    return result


@both_loops
async def test_tls_both_sides_checked(certificates):
    async with pair(
        "tls", client_tls=certificates["ca/client.example"], server_tls=certificates["ca/localhost"]
    ) as world:
        await came_up(world)
        packet = gso_tcp(random.Random(5).randbytes(64000), 1448)
        for _ in range(20):
            world.guest_a.receive([packet])
        assert await world.guest_b.frames(20) == [packet.tobytes()] * 20
        world.guest_b.send(hello := frame(BROADCAST, mac(2)))
        assert await world.guest_a.frames(1) == [hello]


@both_loops
async def test_without_a_ca_file_a_tls_listener_takes_anybody(certificates):
    server = certificates["ca/localhost"]
    async with pair(
        "tls",
        client_tls=LinkTls(server.ca_file),
        server_tls=LinkTls(None, server.cert_file, server.key_file),
    ) as world:
        await came_up(world)


@pytest.mark.parametrize("wrong", ["client", "server", "name", "none"])
@both_loops
async def test_wrong_certificates_get_no_link(certificates, wrong):
    client = certificates["ca/client.example"]
    server = certificates["ca/localhost"]
    host = "localhost"
    if wrong == "client":
        other = certificates["other/client.example"]
        client = LinkTls(client.ca_file, other.cert_file, other.key_file)
    elif wrong == "server":
        other = certificates["other/localhost"]
        server = LinkTls(server.ca_file, other.cert_file, other.key_file)
    elif wrong == "name":
        host = "127.0.0.1"
    else:
        client = LinkTls(client.ca_file)
    async with pair("tls", client_tls=client, server_tls=server, host=host) as world:
        await until(lambda: world.link.last_error)
        assert world.listener.peers == {}
        assert not world.link.up


@both_loops
async def test_tls_files_that_are_wrong_are_named(tmp_path, certificates):
    good = certificates["ca/localhost"]
    with pytest.raises(ConfigError, match="needs a certificate file and a key file"):
        LinkTls(good.ca_file).context(listen=True)
    with pytest.raises(ConfigError, match=r"missing.pem: No such file"):
        LinkTls(tmp_path / "missing.pem").context(listen=False)
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"junk.pem"):
        LinkTls(good.ca_file, tmp_path / "junk.pem", good.key_file).context(listen=True)
    context = LinkTls().context(listen=False)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:host:1234", LinkAddress("host", 1234, listen=False, tls=False)),
        ("tcp-listen:0.0.0.0:0", LinkAddress("0.0.0.0", 0, listen=True, tls=False)),
        ("tls:[::1]:99", LinkAddress("::1", 99, listen=False, tls=True)),
        ("tls-listen:[::]:99", LinkAddress("::", 99, listen=True, tls=True)),
    ],
)
def test_addresses_as_users_write_them(text, address):
    assert parse_link(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp",
        "tcp:",
        "tcp:host",
        "tcp::99",
        "udp:host:9",
        "tcp:host:x",
        "tcp:host:0",
        "tcp:host:65536",
        "tcp:::1:9",
        "tcp:h:²",
    ],
)
def test_what_is_no_address_says_what_was_expected(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_link(text)


@both_loops
async def test_an_address_that_is_taken_is_named():
    switch = RunningSwitch(QUIET)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = LinkAddress("127.0.0.1", other.getsockname()[1], listen=True, tls=False)
        listener = ListeningLink(address, options("lab-b"), switch)
        with pytest.raises(ConfigError, match=f"link tcp-listen:127.0.0.1:{address.port}: "):
            await listener.start()
        await listener.close()
    switch.close()


def test_files_of_a_link_are_optional():
    assert LinkTls().ca_file is None
    assert LinkTls(Path("x")).cert_file is None
