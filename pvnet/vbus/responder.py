"""The smallest host: ARP, ICMP echo and UDP echo (port 7) over IPv4, for a partition that has no TAP.

Where a TAP is not permitted a partition still has an address on the network: it answers ARP and ``ping``, sends UDP
back (RFC 862), and asks (:mod:`pvnet.vbus.ping`).  Everything that comes in is checked first (lengths, checksums,
addresses); whatever is not understood is dropped and counted.  Fragments are not put together.

It is a pure machine: :meth:`Responder.receive`, :meth:`Responder.send` and :meth:`Responder.tick` return frames to
be sent.

* Replies go to the ethernet address that the request came from.
* The ARP cache learns only from requests to us and from answers that we asked for: nobody else's packets can fill or
  change it.  It is bounded (oldest out), and so is what waits for an answer.
* UDP from port 7 or port 0 is not echoed: two echo servers would talk for ever (RFC 862, CERT CA-1996-01).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters
from pvnet.vbus.inet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    IPV4_HEADER,
    PROTOCOL_ICMP,
    PROTOCOL_UDP,
    UDP_HEADER,
    checksum,
    is_sum_right,
    word_sum,
)
from pvnet.vbus.offload import DropReason, finish
from pvnet.vbus.packet import ETHERNET_HEADER, NO_OFFLOAD, Packet

BROADCAST: Final = b"\xff" * 6
ECHO_PORT: Final = 7
ICMP_ECHO_REPLY: Final = 0
ICMP_ECHO: Final = 8

_ARP: Final = struct.Struct(">HHBBH6s4s6s4s")
_ARP_ETHERNET_IPV4: Final = (1, ETHERTYPE_IPV4, 6, 4)
_REQUEST: Final = 1
_ANSWER: Final = 2
_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_MIN_FRAME: Final = 60
_TTL: Final = 64


@dataclass(frozen=True, slots=True)
class ResponderOptions:
    """Times in seconds."""

    mtu: int = 1500
    cache_size: int = 256
    cache_s: float = 60.0
    arp_interval_s: float = 1.0
    arp_tries: int = 3
    waiting_per_address: int = 8


@dataclass(slots=True)
class _Unresolved:
    asked: int
    ask_at: float
    packets: list[bytes] = field(default_factory=list)


class Responder:
    """A host with one ethernet address and one IPv4 address with its network.

    ``on_icmp(sender, message, now)`` gets every ICMP message that is not an echo request, whole and with a right
    checksum.  Destinations outside the network are refused: there is no router.
    """

    def __init__(self, mac: bytes, address: IPv4Interface, options: ResponderOptions | None = None) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise LocalError(f"{mac.hex(':')} is not the address of one host")
        self.mac = mac
        self.address = address
        self.options = options or ResponderOptions()
        self.counters = Counters()
        self.on_icmp: Callable[[IPv4Address, bytes, float], None] = lambda _sender, _message, _now: None
        self._ip = address.ip.packed
        self._cache: dict[bytes, tuple[bytes, float]] = {}
        self._unresolved: dict[bytes, _Unresolved] = {}
        self._identification = 0

    def receive(self, packets: list[Packet], now: float) -> list[bytes]:
        """Take packets from the network; return the frames that answer them."""
        replies: list[bytes] = []
        for packet in packets:
            if packet.offload is NO_OFFLOAD:
                replies += self._frame(packet.tobytes(), now)
                continue
            finished = finish(packet)
            if isinstance(finished, DropReason):
                self.counters[finished] += 1
            else:
                for one in finished:
                    replies += self._frame(one.tobytes(), now)
        return replies

    def send(self, destination: IPv4Address, protocol: int, payload: bytes, now: float) -> list[bytes]:
        """Return the frames that carry ``payload`` to a neighbour: the packet, or the question where the neighbour is.

        Raises:
            LocalError: not a neighbour, or longer than the MTU.
        """
        if destination not in self.address.network or destination == self.address.ip:
            raise LocalError(f"{destination} is not a neighbour in {self.address.network}")
        if IPV4_HEADER + len(payload) > self.options.mtu:
            raise LocalError(f"{len(payload)} bytes do not fit an MTU of {self.options.mtu}")
        packet = self._ip_packet(destination.packed, protocol, payload)
        key = destination.packed
        known = self._cache.get(key)
        if known is not None and now < known[1]:
            return [self._to(known[0], ETHERTYPE_IPV4, packet)]
        waiting = self._unresolved.get(key)
        if waiting is None:
            if len(self._unresolved) >= self.options.cache_size:
                self.counters["unresolved_full"] += 1
                return []
            waiting = self._unresolved[key] = _Unresolved(1, now + self.options.arp_interval_s)
            waiting.packets.append(packet)
            return [self._question(key)]
        if len(waiting.packets) >= self.options.waiting_per_address:
            self.counters["waiting_full"] += 1
        else:
            waiting.packets.append(packet)
        return []

    def tick(self, now: float) -> list[bytes]:
        """Ask again who has not answered, and give up who did not answer several times."""
        frames = []
        for key, waiting in list(self._unresolved.items()):
            if now < waiting.ask_at:
                continue
            if waiting.asked >= self.options.arp_tries:
                self.counters["no_arp_answer"] += len(waiting.packets)
                del self._unresolved[key]
                continue
            waiting.asked += 1
            waiting.ask_at = now + self.options.arp_interval_s
            frames.append(self._question(key))
        return frames

    def deadline(self) -> float | None:
        """Return when :meth:`tick` is due, or ``None``."""
        return min((waiting.ask_at for waiting in self._unresolved.values()), default=None)

    def neighbours(self) -> dict[str, str]:
        """Return the ARP cache as text, for people."""
        return {str(IPv4Address(key)): mac.hex(":") for key, (mac, _) in self._cache.items()}

    def announce(self) -> list[bytes]:
        """Return the frame that tells the network where we are (gratuitous ARP): switches learn it, caches renew it."""
        body = _ARP.pack(*_ARP_ETHERNET_IPV4, _REQUEST, self.mac, self._ip, bytes(6), self._ip)
        return [self._to(BROADCAST, ETHERTYPE_ARP, body)]

    def _frame(self, frame: bytes, now: float) -> list[bytes]:
        if len(frame) < ETHERNET_HEADER or frame[6] & 1:
            return self._drop("bad_frame")
        if frame[:6] not in (self.mac, BROADCAST):
            return self._drop("not_for_us")
        ethertype = frame[12] << 8 | frame[13]
        if ethertype == ETHERTYPE_ARP:
            return self._arp(frame, now)
        if ethertype == ETHERTYPE_IPV4:
            return self._ipv4(frame, now)
        return self._drop("other_ethertype")

    def _drop(self, reason: str) -> list[bytes]:
        self.counters[reason] += 1
        return []

    # ARP

    def _arp(self, frame: bytes, now: float) -> list[bytes]:
        if len(frame) < ETHERNET_HEADER + _ARP.size:
            return self._drop("bad_arp")
        *kind, operation, sender_mac, sender, _, target = _ARP.unpack_from(frame, ETHERNET_HEADER)
        if tuple(kind) != _ARP_ETHERNET_IPV4 or sender_mac != frame[6:12] or operation not in (_REQUEST, _ANSWER):
            return self._drop("bad_arp")
        if sender == self._ip:
            return self._drop("address_conflict")
        if target != self._ip:
            return self._drop("arp_for_others")
        if IPv4Address(sender) not in self.address.network:
            return self._drop("arp_from_elsewhere")
        if operation == _ANSWER:
            if sender not in self._unresolved:
                return self._drop("unasked_arp")
            return self._learn(sender, sender_mac, now)
        frames = self._learn(sender, sender_mac, now)
        body = _ARP.pack(*_ARP_ETHERNET_IPV4, _ANSWER, self.mac, self._ip, sender_mac, sender)
        self.counters["arp_answered"] += 1
        return [self._to(sender_mac, ETHERTYPE_ARP, body), *frames]

    def _learn(self, address: bytes, mac: bytes, now: float) -> list[bytes]:
        """Remember where a neighbour is; return what waited for that."""
        self._cache.pop(address, None)
        if len(self._cache) >= self.options.cache_size:
            del self._cache[next(iter(self._cache))]
        self._cache[address] = (mac, now + self.options.cache_s)
        waiting = self._unresolved.pop(address, None)
        return [self._to(mac, ETHERTYPE_IPV4, packet) for packet in waiting.packets] if waiting else []

    def _question(self, address: bytes) -> bytes:
        self.counters["arp_asked"] += 1
        body = _ARP.pack(*_ARP_ETHERNET_IPV4, _REQUEST, self.mac, self._ip, bytes(6), address)
        return self._to(BROADCAST, ETHERTYPE_ARP, body)

    # IPv4

    def _ipv4(self, frame: bytes, now: float) -> list[bytes]:
        if len(frame) < ETHERNET_HEADER + IPV4_HEADER:
            return self._drop("bad_ipv4")
        first, _, total, _, fragment, _, protocol, _, sender, target = _IPV4.unpack_from(frame, ETHERNET_HEADER)
        size = (first & 15) * 4
        if first >> 4 != 4 or size < IPV4_HEADER or total < size or ETHERNET_HEADER + total > len(frame):
            return self._drop("bad_ipv4")
        packet = frame[ETHERNET_HEADER : ETHERNET_HEADER + total]
        if not is_sum_right(packet[:size]):
            return self._drop("bad_ipv4_checksum")
        source = IPv4Address(sender)
        if source.is_multicast or source.is_unspecified or sender == BROADCAST[:4] or sender == self._ip:
            return self._drop("bad_ipv4_source")
        if target != self._ip or frame[:6] != self.mac:
            return self._drop("not_for_us")
        if fragment & 0x3FFF:
            return self._drop("fragment")
        payload = packet[size:]
        if protocol == PROTOCOL_ICMP:
            return self._icmp(frame[6:12], source, payload, now)
        if protocol == PROTOCOL_UDP:
            return self._udp(frame[6:12], sender, payload)
        return self._drop("other_protocol")

    def _icmp(self, mac: bytes, source: IPv4Address, message: bytes, now: float) -> list[bytes]:
        if len(message) < 8:
            return self._drop("bad_icmp")
        if not is_sum_right(message):
            return self._drop("bad_icmp_checksum")
        if message[0] != ICMP_ECHO:
            self.on_icmp(source, message, now)
            return []
        if message[1]:
            return self._drop("bad_icmp")
        self.counters["echo_answered"] += 1
        answer = icmp_echo(ICMP_ECHO_REPLY, message[4:])
        return [self._to(mac, ETHERTYPE_IPV4, self._ip_packet(source.packed, PROTOCOL_ICMP, answer))]

    def _udp(self, mac: bytes, sender: bytes, datagram: bytes) -> list[bytes]:
        if len(datagram) < UDP_HEADER:
            return self._drop("bad_udp")
        source_port, port, length, check = struct.unpack_from(">HHHH", datagram)
        if not UDP_HEADER <= length <= len(datagram):
            return self._drop("bad_udp")
        datagram = datagram[:length]
        pseudo = sender + self._ip + struct.pack(">HH", PROTOCOL_UDP, length)
        if check and (word_sum(pseudo) + word_sum(datagram)) % 0xFFFF:
            return self._drop("bad_udp_checksum")
        if port != ECHO_PORT or source_port in (0, ECHO_PORT):
            return self._drop("other_port")
        body = datagram[UDP_HEADER:]
        header = struct.pack(">HHHH", ECHO_PORT, source_port, length, 0)
        now_check = checksum(word_sum(pseudo) + word_sum(header) + word_sum(body)) or 0xFFFF
        answer = header[:6] + now_check.to_bytes(2, "big") + body
        self.counters["udp_echoed"] += 1
        return [self._to(mac, ETHERTYPE_IPV4, self._ip_packet(sender, PROTOCOL_UDP, answer))]

    def _ip_packet(self, destination: bytes, protocol: int, payload: bytes) -> bytes:
        self._identification = (self._identification + 1) & 0xFFFF
        fields = (0x45, 0, IPV4_HEADER + len(payload), self._identification, 0, _TTL, protocol)
        header = _IPV4.pack(*fields, 0, self._ip, destination)
        return _IPV4.pack(*fields, checksum(word_sum(header)), self._ip, destination) + payload

    def _to(self, mac: bytes, ethertype: int, payload: bytes) -> bytes:
        return (mac + self.mac + ethertype.to_bytes(2, "big") + payload).ljust(_MIN_FRAME, b"\0")


def icmp_echo(kind: int, rest: bytes) -> bytes:
    """Return an ICMP message of type ``kind`` (8 echo, 0 reply) and code 0; ``rest`` is all after the checksum."""
    start = bytes((kind, 0))
    return start + checksum(word_sum(start) + word_sum(rest)).to_bytes(2, "big") + rest
