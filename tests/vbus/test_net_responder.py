"""The built-in host and its ping, against frames put together word by word, and against each other over a switch."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_frames import BROADCAST, MAC_A, MAC_B, ethernet, ipv4, packet_in, plain_sum, pseudo_sum, udp

from pvnet.core.errors import LocalError
from pvnet.vbus.packet import ACCEPTS_NOTHING, Offload, Packet, packet_of
from pvnet.vbus.ping import Ping
from pvnet.vbus.responder import Responder, ResponderOptions
from pvnet.vbus.switch import Switch

IP_A, IP_B = "10.0.0.1", "10.0.0.2"


def responder(**options: float) -> Responder:
    """The host under test is B; A is the network."""
    return Responder(MAC_B, IPv4Interface(f"{IP_B}/24"), ResponderOptions(**options))  # type: ignore[arg-type]


def ask(host: Responder, *frames: bytes, now: float = 0.0) -> list[bytes]:
    return host.receive([packet_of(frame) for frame in frames], now)


def arp(operation: int, *, source: bytes = MAC_A, destination: bytes = BROADCAST, sender_mac: bytes = MAC_A,
        sender: str = IP_A, target: str = IP_B, kind: bytes = b"\0\1\x08\0\6\4") -> bytes:  # fmt: skip
    body = kind + struct.pack(">H", operation) + sender_mac + IPv4Address(sender).packed
    return ethernet(body + bytes(6) + IPv4Address(target).packed, 0x0806, source=source, destination=destination)


def icmp(kind: int, rest: bytes, code: int = 0) -> bytes:
    message = bytes((kind, code, 0, 0)) + rest
    return message[:2] + struct.pack(">H", 0xFFFF ^ plain_sum(message)) + message[4:]


def echo(payload: bytes = b"hello", **fields: str | int) -> bytes:
    return ethernet(ipv4(icmp(8, b"\x12\x34\0\1" + payload), 1, **fields), 0x0800)  # type: ignore[arg-type]


def test_an_arp_request_is_answered_to_who_asked():
    host = responder()
    (answer,) = ask(host, arp(1))
    assert answer == (
        MAC_A + MAC_B + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2" + MAC_B + b"\x0a\0\0\2" + MAC_A + b"\x0a\0\0\1"
    ).ljust(60, b"\0")
    assert host.neighbours() == {IP_A: MAC_A.hex(":")}


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (arp(1, target="10.0.0.3"), "arp_for_others"),
        (arp(2), "unasked_arp"),
        (arp(3), "bad_arp"),
        (arp(1, kind=b"\0\6\x08\0\6\4"), "bad_arp"),
        (arp(1, kind=b"\0\1\x08\0\6\5"), "bad_arp"),
        (arp(1, sender_mac=MAC_B), "bad_arp"),
        (arp(1)[:41], "bad_arp"),
        (arp(1, sender=IP_B), "address_conflict"),
        (arp(1, sender="192.168.0.1"), "arp_from_elsewhere"),
        (arp(1, destination=MAC_A), "not_for_us"),
        (arp(1, source=BROADCAST), "bad_frame"),
        (arp(1)[:13], "bad_frame"),
        (ethernet(bytes(46), 0x86DD), "other_ethertype"),
        (echo()[:33], "bad_ipv4"),
        (echo()[:60], None),
        (echo(bytes(100))[:100], "bad_ipv4"),
        (ethernet(b"\x55" + ipv4(b"", 1)[1:], 0x0800), "bad_ipv4"),
        (ethernet(b"\x44" + ipv4(b"", 1)[1:], 0x0800), "bad_ipv4"),
        (ethernet(b"\x4f" + ipv4(b"", 1)[1:], 0x0800), "bad_ipv4"),
        (ethernet(b"\x45\0\0\x13" + ipv4(b"", 1)[4:], 0x0800), "bad_ipv4"),
        (ethernet(b"\x45\x01" + ipv4(b"", 1)[2:], 0x0800), "bad_ipv4_checksum"),
        (echo(source="224.0.0.1"), "bad_ipv4_source"),
        (echo(source="255.255.255.255"), "bad_ipv4_source"),
        (echo(source="0.0.0.0"), "bad_ipv4_source"),
        (echo(source=IP_B), "bad_ipv4_source"),
        (echo(destination="10.0.0.255"), "not_for_us"),
        (BROADCAST + echo()[6:], "not_for_us"),
        (echo(fragment=0x2000), "fragment"),
        (echo(fragment=0x0001), "fragment"),
        (ethernet(ipv4(bytes(40), 6), 0x0800), "other_protocol"),
        (ethernet(ipv4(bytes(7), 1), 0x0800), "bad_icmp"),
        (ethernet(ipv4(icmp(8, bytes(4), code=1), 1), 0x0800), "bad_icmp"),
        (ethernet(ipv4(icmp(8, bytes(4))[:-1] + b"\1", 1), 0x0800), "bad_icmp_checksum"),
        (ethernet(ipv4(bytes(7), 17), 0x0800), "bad_udp"),
        (ethernet(ipv4(b"\0\1\0\7\0\7\0\0", 17), 0x0800), "bad_udp"),
        (ethernet(ipv4(b"\0\1\0\7\0\x09\0\0", 17), 0x0800), "bad_udp"),
        (ethernet(ipv4(udp(b"x", check=1), 17), 0x0800), "bad_udp_checksum"),
        (ethernet(ipv4(udp(b"x", port=8), 17), 0x0800), "other_port"),
        (ethernet(ipv4(udp(b"x", source_port=7), 17), 0x0800), "other_port"),
        (ethernet(ipv4(udp(b"x", source_port=0), 17), 0x0800), "other_port"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_ours_is_counted_and_not_answered(frame, counter):
    host = responder()
    answers = ask(host, frame)
    if counter is None:
        assert len(answers) == 1
        return
    assert answers == []
    assert host.counters == {counter: 1}
    assert host.neighbours() == {}


@pytest.mark.parametrize("size", [0, 1, 18, 1472])
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_an_echo_request_comes_back_with_its_bytes(size, options):
    payload = random.Random(size).randbytes(size)
    message = icmp(8, b"\x12\x34\0\1" + payload)
    (answer,) = ask(responder(), ethernet(ipv4(message, 1, options=options), 0x0800))
    assert answer[:14] == MAC_A + MAC_B + b"\x08\0"
    assert len(answer) == max(60, 42 + size)
    assert plain_sum(answer[14:34]) == 0xFFFF
    assert answer[26:34] == b"\x0a\0\0\2\x0a\0\0\1"
    assert int.from_bytes(answer[16:18], "big") == 28 + size
    assert answer[34 : 42 + size] == icmp(0, b"\x12\x34\0\1" + payload)


@pytest.mark.parametrize("with_checksum", [True, False])
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_udp_to_port_7_comes_back_with_a_checksum(with_checksum, size):
    payload = random.Random(size).randbytes(size)
    pseudo = IPv4Address(IP_A).packed + IPv4Address(IP_B).packed + struct.pack(">HH", 17, 8 + size)
    check = 0xFFFF ^ plain_sum(pseudo + udp(payload)) if with_checksum else 0
    (answer,) = ask(responder(), ethernet(ipv4(udp(payload, check=check), 17), 0x0800))
    datagram = answer[34 : 42 + size]
    assert datagram[:6] == struct.pack(">HHH", 7, 5000, 8 + size)
    assert datagram[8:] == payload
    assert plain_sum(pseudo + datagram) == 0xFFFF


def test_a_checksum_that_is_left_to_do_is_done_first():
    payload = b"offloaded"
    check = pseudo_sum(IP_A, IP_B, 17, 8 + len(payload))
    packet = packet_in(ethernet(ipv4(udp(payload, check=check), 17), 0x0800), Offload(True, 34, 6), pieces=2)
    host = responder()
    (answer,) = host.receive([packet], 0.0)
    assert answer[42 : 42 + len(payload)] == payload
    assert host.receive([Packet((bytes(60),), 60, Offload(True, 99, 6))], 0.0) == []
    assert host.counters["bad_checksum_place"] == 1


def test_sending_asks_first_and_what_waited_goes_when_the_answer_comes():
    host = responder(waiting_per_address=2)
    (question,) = host.send(IPv4Address(IP_A), 1, icmp(8, bytes(4)), 0.0)
    assert question[:6] == BROADCAST
    assert question[20:22] == b"\0\1"
    assert question[38:42] == IPv4Address(IP_A).packed
    assert host.send(IPv4Address(IP_A), 1, icmp(8, b"\0\0\0\1"), 0.1) == []
    assert host.send(IPv4Address(IP_A), 1, icmp(8, b"\0\0\0\2"), 0.1) == []
    assert host.counters["waiting_full"] == 1
    sent = ask(host, arp(2, destination=MAC_B), now=0.2)
    assert [frame[:6] for frame in sent] == [MAC_A, MAC_A]
    assert [frame[34:42] for frame in sent] == [icmp(8, bytes(4)), icmp(8, b"\0\0\0\1")]
    assert host.deadline() is None
    (direct,) = host.send(IPv4Address(IP_A), 1, icmp(8, bytes(4)), 59.0)
    assert direct[:6] == MAC_A
    (again,) = host.send(IPv4Address(IP_A), 1, icmp(8, bytes(4)), 61.0)
    assert again[:6] == BROADCAST, "the cache forgets after cache_s"


def test_a_request_from_the_one_we_ask_is_an_answer_as_well():
    host = responder()
    host.send(IPv4Address(IP_A), 1, icmp(8, bytes(4)), 0.0)
    answer, waited = ask(host, arp(1))
    assert answer[12:14] == b"\x08\x06"
    assert waited[12:14] == b"\x08\x00"


def test_who_never_answers_is_asked_three_times():
    host = responder()
    host.send(IPv4Address(IP_A), 1, icmp(8, bytes(4)), 0.0)
    assert host.deadline() == 1.0
    assert host.tick(0.5) == []
    assert len(host.tick(1.0)) == 1
    assert len(host.tick(2.0)) == 1
    assert host.tick(3.0) == []
    assert host.deadline() is None
    assert host.counters["arp_asked"] == 3
    assert host.counters["no_arp_answer"] == 1


def test_the_cache_and_what_waits_are_bounded():
    host = responder(cache_size=3)
    for number in range(10, 20):
        ask(host, arp(1, sender=f"10.0.0.{number}"))
    assert list(host.neighbours()) == ["10.0.0.17", "10.0.0.18", "10.0.0.19"]
    for number in range(100, 105):
        host.send(IPv4Address(f"10.0.0.{number}"), 1, icmp(8, bytes(4)), 0.0)
    assert host.counters["unresolved_full"] == 2


@pytest.mark.parametrize(
    ("destination", "size", "words"),
    [("192.168.0.1", 8, "not a neighbour"), (IP_B, 8, "not a neighbour"), (IP_A, 1481, "MTU of 1500")],
)
def test_what_cannot_be_sent_is_refused(destination, size, words):
    with pytest.raises(LocalError, match=words):
        responder().send(IPv4Address(destination), 1, bytes(size), 0.0)


def test_a_group_address_is_no_hosts_address():
    for mac in (BROADCAST, b"\2"):
        with pytest.raises(LocalError):
            Responder(mac, IPv4Interface("10.0.0.1/24"))


def test_announcing_names_both_addresses_of_the_host():
    (frame,) = responder().announce()
    assert frame[:42] == arp(1, source=MAC_B, sender_mac=MAC_B, sender=IP_B)[:42]


@settings(deadline=None)
@given(st.binary(max_size=120), st.sampled_from([arp(1), echo(bytes(80)), ethernet(ipv4(udp(b"x" * 50), 17), 0x0800)]),
       st.integers(0, 100))  # fmt: skip
def test_scribbled_frames_never_raise_and_never_answer_more_than_once(noise, base, at):
    host = responder()
    answers = ask(host, base[:at] + noise + base[at + len(noise) :])
    assert len(answers) + sum(host.counters.values()) <= 2


# ping


class Cable:
    """Two hosts on a switch; time moves only when nothing is under way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.switch = Switch(bytes(16))
        self.hosts = [Responder(mac, IPv4Interface(f"{ip}/24")) for mac, ip in ((MAC_A, IP_A), (MAC_B, IP_B))]
        self.queue: list[tuple[int, bytes]] = []
        self.ports = [self.switch.plug(_End(self, number)) for number in range(2)]
        self.spoil = lambda _number, frame: [frame]

    def send(self, host: int, frames: list[bytes]) -> None:
        for frame in frames:
            for one in self.spoil(host, frame):
                self.switch.receive(self.ports[host], [packet_of(one)], self.now)
        while self.queue:
            number, frame = self.queue.pop(0)
            answers = self.hosts[number].receive([packet_of(frame)], self.now)
            for one in (spoilt for answer in answers for spoilt in self.spoil(number, answer)):
                self.switch.receive(self.ports[number], [packet_of(one)], self.now)

    def ping(self, ping: Ping):
        self.hosts[0].on_icmp = lambda _sender, message, now: ping.reply(message, now) and None
        while (due := ping.deadline()) is not None:
            self.now = max(self.now, due)
            for message in ping.poll(self.now):
                self.send(0, self.hosts[0].send(IPv4Address(IP_B), 1, message, self.now))
        return ping.result()


class _End:
    mtu = 1500
    accepts = ACCEPTS_NOTHING

    def __init__(self, cable: Cable, number: int) -> None:
        self.cable = cable
        self.number = number
        self.name = f"host{number}"

    def deliver(self, packets: list[Packet]) -> int:
        self.cable.queue += [(self.number, packet.tobytes()) for packet in packets]
        return len(packets)


@pytest.mark.parametrize("interval", [0.0, 0.2])
def test_two_hosts_ping_each_other_over_a_switch(interval):
    cable = Cable()
    result = cable.ping(Ping(identifier=77, count=300, interval_s=interval, size=1000))
    assert (result.sent, result.received, result.lost) == (300, 300, 0)
    assert (result.duplicates, result.corrupt) == (0, 0)
    assert cable.now == pytest.approx(299 * interval)


def test_lost_doubled_and_spoilt_answers_are_told_apart():
    cable = Cable()
    seen = 0

    def spoil(number: int, frame: bytes) -> list[bytes]:
        nonlocal seen
        if number == 0 or frame[12:14] != b"\x08\0":
            return [frame]
        seen += 1
        match seen:
            case 2:
                return []
            case 3:
                return [frame, frame]
            case 4:  # the bytes are others, and the checksum agrees with them
                bad = icmp(0, frame[38:42] + bytes(56))
                return [frame[:34] + bad]
            case _:
                return [frame]

    cable.spoil = spoil
    result = cable.ping(Ping(identifier=1, count=5, interval_s=1.0, timeout_s=2.0))
    assert (result.sent, result.received, result.duplicates, result.corrupt, result.lost) == (5, 3, 1, 1, 2)
    assert cable.now == 6.0, "it waits for the last as long as it must"


def test_times_are_from_request_to_first_answer():
    ping = Ping(identifier=5, count=3, interval_s=1.0, timeout_s=9.0, size=0)
    for number, took in enumerate((0.3, 0.1, 0.2)):
        (message,) = ping.poll(float(number))
        assert ping.poll(number + 0.05) == []
        answer = icmp(0, message[4:])
        assert ping.reply(answer, number + took)
    result = ping.result()
    assert (result.min_s, result.avg_s, result.max_s) == pytest.approx((0.1, 0.2, 0.3))
    assert ping.done
    assert ping.poll(99.0) == []
    assert not ping.reply(answer, 99.0)


def test_without_any_answer_the_times_are_zero():
    ping = Ping(identifier=5, count=2, interval_s=0.0, timeout_s=1.0)
    assert ping.deadline() == 0.0
    assert len(ping.poll(0.0)) == 1
    assert ping.poll(0.5) == []
    assert len(ping.poll(1.0)) == 1
    assert ping.deadline() == 2.0
    ping.poll(2.0)
    assert ping.done
    assert ping.deadline() is None
    assert ping.result() == type(ping.result())(2, 0, 0, 0, 0.0, 0.0, 0.0)


def test_other_peoples_messages_are_not_ours():
    ping = Ping(identifier=5, count=2)
    (message,) = ping.poll(0.0)
    for other in (b"\0" * 7, message, icmp(0, b"\0\6" + message[6:]), icmp(0, b"\0\5\0\1" + message[8:])):
        assert not ping.reply(other, 0.1)
    assert ping.result().received == 0


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 65508}, {"size": -1}, {"identifier": 70000}])
def test_impossible_pings_are_refused(wrong):
    with pytest.raises(LocalError):
        Ping(**{"identifier": 1, **wrong})
