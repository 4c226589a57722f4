"""The internet checksum, and the headers of a frame as far as switching, segmentation and the responder need them.

RFC 1071: the sum of all 16-bit words, with carries added back.  Read as one big number a message is congruent to the
sum of its words modulo 65535, so Python's integers do it at once; numpy does it faster from some hundred bytes on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from pvnet.vbus.packet import ETHERNET_HEADER, VLAN_TAG

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPV6: Final = 0x86DD
_VLAN_TYPES: Final = (0x8100, 0x88A8)
_MOST_TAGS: Final = 2

PROTOCOL_ICMP: Final = 1
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40
TCP_HEADER: Final = 20
UDP_HEADER: Final = 8

# IPv6 extension headers that may stand before TCP: hop-by-hop, routing, destination options.
_EXTENSIONS: Final = (0, 43, 60)
_MOST_EXTENSIONS: Final = 8
_NUMPY_FROM: Final = 768


def word_sum(data: bytes | bytearray | memoryview) -> int:
    """Return the sum of the big-endian 16-bit words modulo 65535, in 0..65534; an odd last byte counts as a high one.

    0 stands for a sum of 0 (all bytes zero) as well as for 65535.
    """
    size = len(data)
    if size < _NUMPY_FROM:
        number = int.from_bytes(data, "big")
        return (number << 8 if size & 1 else number) % 0xFFFF
    even = size & ~1
    total = swap16(int(np.frombuffer(data, "<u2", even >> 1).sum(dtype=np.uint64)) % 0xFFFF)
    return (total + (data[even] << 8 if size & 1 else 0)) % 0xFFFF


def swap16(value: int) -> int:
    """Return the two bytes of ``value`` exchanged: the sum of exchanged words is the exchanged sum (RFC 1071 2B)."""
    return (value & 0xFF) << 8 | value >> 8


def checksum(total: int) -> int:
    """Return the checksum field for a message that is not all zero and whose words sum to ``total`` modulo 65535."""
    total %= 0xFFFF
    return 0xFFFF - total if total else 0


def is_sum_right(data: bytes | bytearray | memoryview) -> bool:
    """Whether a message with its checksum field in it, and not all zero, sums to what it must."""
    return word_sum(data) == 0


class Layers(NamedTuple):
    """Where the headers of a frame start: byte offsets from its first byte."""

    ethertype: int
    network: int
    transport: int
    protocol: int
    """IP protocol number at ``transport``, 0 when the frame is not IP."""
    fragmented: bool
    routed: bool
    """An IPv6 routing header is there, so the pseudo header's destination is not the one in the header."""


def layers(head: bytes | memoryview) -> Layers | None:
    """Find the headers of an IPv4 or IPv6 frame of which ``head`` holds at least all headers; ``None`` if they are bad.

    Lengths inside the headers are compared with ``len(head)`` only.
    """
    if len(head) < ETHERNET_HEADER:
        return None
    at = ETHERNET_HEADER - 2
    ethertype = head[at] << 8 | head[at + 1]
    for _ in range(_MOST_TAGS):
        if ethertype not in _VLAN_TYPES:
            break
        at += VLAN_TAG
        if len(head) < at + 2:
            return None
        ethertype = head[at] << 8 | head[at + 1]
    network = at + 2
    match ethertype:
        case 0x0800:
            return _ipv4(head, network)
        case 0x86DD:
            return _ipv6(head, network)
        case _:
            return None


def _ipv4(head: bytes | memoryview, network: int) -> Layers | None:
    if len(head) < network + IPV4_HEADER or head[network] >> 4 != 4:
        return None
    size = (head[network] & 15) * 4
    if size < IPV4_HEADER or len(head) < network + size:
        return None
    fragmented = bool((head[network + 6] << 8 | head[network + 7]) & 0x3FFF)
    return Layers(ETHERTYPE_IPV4, network, network + size, head[network + 9], fragmented, routed=False)


def _ipv6(head: bytes | memoryview, network: int) -> Layers | None:
    if len(head) < network + IPV6_HEADER or head[network] >> 4 != 6:
        return None
    protocol = head[network + 6]
    transport = network + IPV6_HEADER
    routed = False
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            return Layers(ETHERTYPE_IPV6, network, transport, protocol, fragmented=protocol == 44, routed=routed)
        if len(head) < transport + 8:
            return None
        routed = routed or protocol == 43
        protocol, transport = head[transport], transport + 8 + head[transport + 1] * 8
    return None
