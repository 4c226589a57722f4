"""What is left to do to a packet, done in software: fill in a checksum, cut TCP and UDP packets into frames.

A sender that knows offloads hands over up to 64 KiB at a time, and mostly the receiver takes it as it is.  Where it
does not, :func:`finish` makes the frames that a network card would have made.  Payload is not copied again: each frame
is a new header and a view of the payload.

Everything here is checked, because the sender is another partition: :func:`finish` returns frames or a
:class:`DropReason`, and never raises.

* **TCP** (``TCPV4``, ``TCPV6``): each frame carries ``mss`` bytes; the sequence number moves on, the IPv4
  identification counts up, FIN and PSH stay with the last frame, CWR with the first one (RFC 3168 6.1.2: it says
  something once).
* **UDP** (``UDP``): one datagram becomes IPv4 fragments of ``mss`` bytes of IP payload with one identification.  The
  same for IPv6 would need a fragment header and its identification, which only the sender has: refused.

Spec: vbus 8.3, 8.4.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np

from pvnet.vbus.inet import (
    ETHERTYPE_IPV4,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_HEADER,
    UDP_HEADER,
    Layers,
    checksum,
    layers,
    swap16,
    word_sum,
)
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload, Packet

MIN_MSS: Final = 48
"""Smallest payload of a segment: less only serves to have thousands of frames made of one packet."""

_TCP_CHECKSUM: Final = 16
_UDP_CHECKSUM: Final = 6
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
_MORE_FRAGMENTS: Final = 0x2000
_IP_LENGTH: Final = 0xFFFF
_HEADERS: Final = 256  # all headers of a packet are looked for in its first bytes


class DropReason(StrEnum):
    """Why a frame goes no further: the keys of every ``drops`` counter of a port."""

    RUNT = "runt"
    """Shorter than an ethernet header."""
    TOO_LONG = "too_long"
    """Longer than the receiver's MTU allows."""
    BAD_SOURCE = "bad_source"
    """The source address is a group address or zero."""
    RESERVED = "reserved"
    """For 01:80:C2:00:00:0X, which no switch forwards."""
    SAME_PORT = "same_port"
    """The destination is behind the port that the frame came from."""
    NO_PORT = "no_port"
    """There is no other port."""
    FLOOD_LIMIT = "flood_limit"
    """The port sends more to everybody than is allowed."""
    BLOCKED = "blocked"
    """The port is blocked because of a loop."""
    FLAPPING = "flapping"
    """The source address is held at another port because it kept moving."""
    NOT_TAKEN = "not_taken"
    """The receiver did not take it: its queue is full or its link is down."""
    BAD_CHECKSUM_PLACE = "bad_checksum_place"
    """The checksum to be filled in lies outside the frame, or not where the protocol has it."""
    BAD_HEADERS = "bad_headers"
    """A packet to be cut whose headers are cut short, are not of its type, or contradict themselves."""
    BAD_MSS = "bad_mss"
    """A packet to be cut into pieces of too few bytes."""
    GSO_UNSUPPORTED = "gso_unsupported"
    """A packet to be cut in a way that we do not do: UDP over IPv6."""


def finish(packet: Packet) -> list[Packet] | DropReason:
    """Return ``packet`` as frames with nothing left to do, or why that cannot be.

    The frames hold views of the packet's pieces where possible; the packet is not changed.
    """
    offload = packet.offload
    match offload.gso:
        case GsoType.NONE:
            if offload.needs_csum:
                return _filled_in(packet)
            return [packet if offload is NO_OFFLOAD else Packet(packet.frags, packet.length)]
        case GsoType.TCPV4 | GsoType.TCPV6:
            return _tcp_segments(packet)
        case GsoType.UDP:
            return _udp_fragments(packet)


def frame_bytes(packet: Packet) -> int:
    """Return the size of the largest frame that the packet becomes: what an MTU is compared with.

    A packet whose headers make no sense counts as a frame of its whole length.
    """
    offload = packet.offload
    gso = offload.gso
    if gso is GsoType.NONE:
        return packet.length
    start = offload.csum_start
    if not start:
        found = layers(_head(packet))
        if found is None:
            return packet.length
        start = found.transport
    if gso is not GsoType.UDP:
        first = packet.frags[0]
        if len(first) <= start + 12:
            first = _head(packet)
            if len(first) <= start + 12:
                return packet.length
        start += (first[start + 12] >> 4) * 4
    return min(start + offload.mss, packet.length)


def _head(packet: Packet) -> bytes:
    """Return the first bytes of the packet, all headers included."""
    first = packet.frags[0]
    if len(first) >= _HEADERS or len(packet.frags) == 1:
        return bytes(first[:_HEADERS])
    return packet.tobytes()[:_HEADERS]


def _filled_in(packet: Packet) -> list[Packet] | DropReason:
    """Return the frame with its checksum; the field holds the sum of the pseudo header until then."""
    start, offset = packet.offload.csum_start, packet.offload.csum_offset
    if start + offset + 2 > packet.length:
        return DropReason.BAD_CHECKSUM_PLACE
    frame = bytearray(packet.tobytes())
    value = checksum(word_sum(memoryview(frame)[start:]))
    if value == 0 and offset == _UDP_CHECKSUM:
        value = 0xFFFF  # 0 in UDP says that there is none
    frame[start + offset : start + offset + 2] = value.to_bytes(2, "big")
    return [Packet((memoryview(frame),), packet.length)]


def _check_place(offload: Offload, found: Layers, offset: int) -> bool:
    """Whether the checksum to be filled in, if any, is that of the transport header."""
    return not offload.needs_csum or (offload.csum_start == found.transport and offload.csum_offset == offset)


def _pseudo_sum(data: bytes, found: Layers) -> int:
    """Return the sum of the pseudo header without the length."""
    at = found.network + (12 if found.ethertype == ETHERTYPE_IPV4 else 8)
    end = found.network + (20 if found.ethertype == ETHERTYPE_IPV4 else 40)
    return word_sum(data[at:end]) + found.protocol


def _tcp_segments(packet: Packet) -> list[Packet] | DropReason:
    offload = packet.offload
    data = packet.tobytes()
    found = layers(data)
    ipv4 = offload.gso is GsoType.TCPV4
    if (
        found is None
        or found.protocol != PROTOCOL_TCP
        or found.fragmented
        or (found.ethertype == ETHERTYPE_IPV4) is not ipv4
        or len(data) < found.transport + TCP_HEADER
    ):
        return DropReason.BAD_HEADERS
    transport = found.transport
    payload = transport + (data[transport + 12] >> 4) * 4
    if payload < transport + TCP_HEADER or payload > len(data):
        return DropReason.BAD_HEADERS
    if not _check_place(offload, found, _TCP_CHECKSUM):
        return DropReason.BAD_CHECKSUM_PLACE
    mss = offload.mss
    if mss < MIN_MSS or payload - found.network + min(mss, len(data) - payload) > _IP_LENGTH:
        return DropReason.BAD_MSS

    if offload.needs_csum:  # the field has the pseudo header's sum with the length of the whole
        field = int.from_bytes(data[transport + 16 : transport + 18], "big")
        pseudo = field - (len(data) - transport)
    elif found.routed:
        return DropReason.BAD_HEADERS
    else:
        pseudo = _pseudo_sum(data, found)
    head = bytearray(data[:payload])
    head[transport + 16 : transport + 18] = b"\0\0"
    sequence = int.from_bytes(head[transport + 4 : transport + 8], "big")
    flags = head[transport + 13]
    head[transport + 4 : transport + 8] = bytes(4)
    head[transport + 13] = 0
    if ipv4:
        _clear_ipv4(head, found)
    identification = int.from_bytes(data[found.network + 4 : found.network + 6], "big")
    ip_sum = word_sum(head[found.network : transport]) if ipv4 else 0
    tcp_sum = pseudo + word_sum(head[transport:])

    view = memoryview(data)
    sums = _payload_sums(view[payload:], mss)
    most = len(sums) - 1
    frames = []
    for number, payload_sum in enumerate(sums):
        at = payload + number * mss
        piece = view[at : at + mss]
        now_flags = flags
        if number < most:
            now_flags &= ~_FIN_PSH
        if number:
            now_flags &= ~_CWR
        now_sequence = (sequence + number * mss) & 0xFFFFFFFF
        head[transport + 4 : transport + 8] = now_sequence.to_bytes(4, "big")
        head[transport + 13] = now_flags
        length = payload - transport + len(piece)
        total = tcp_sum + length + (now_sequence >> 16) + (now_sequence & 0xFFFF) + now_flags + payload_sum
        head[transport + 16 : transport + 18] = checksum(total).to_bytes(2, "big")
        if ipv4:
            _set_ipv4(head, found, ip_sum, (identification + number) & 0xFFFF, length)
        else:
            head[found.network + 4 : found.network + 6] = (transport - found.network - 40 + length).to_bytes(2, "big")
        frames.append(Packet((bytes(head), piece), payload + len(piece), NO_OFFLOAD))
    return frames


def _payload_sums(payload: memoryview, mss: int) -> list[int]:
    """Return the word sum of each piece of ``mss`` bytes; of one piece of nothing if there is nothing."""
    count = -(-len(payload) // mss) or 1
    if mss & 1 or count < 3:
        return [word_sum(payload[at : at + mss]) for at in range(0, count * mss, mss)]
    whole = len(payload) // mss
    rows = np.frombuffer(payload, "<u2", whole * mss >> 1).reshape(whole, mss >> 1)
    sums = [swap16(total % 0xFFFF) for total in rows.sum(axis=1, dtype=np.uint64).tolist()]
    if whole < count:
        sums.append(word_sum(payload[whole * mss :]))
    return sums


def _clear_ipv4(head: bytearray, found: Layers) -> None:
    """Zero what differs between the frames of one packet: length, identification, checksum."""
    head[found.network + 2 : found.network + 6] = bytes(4)
    head[found.network + 10 : found.network + 12] = bytes(2)


def _set_ipv4(head: bytearray, found: Layers, rest: int, identification: int, payload: int) -> None:
    """Fill in what differs; ``rest`` is the sum of all other words, ``payload`` the bytes after the IPv4 header."""
    network = found.network
    length = found.transport - network + payload
    head[network + 2 : network + 4] = length.to_bytes(2, "big")
    head[network + 4 : network + 6] = identification.to_bytes(2, "big")
    head[network + 10 : network + 12] = checksum(rest + length + identification).to_bytes(2, "big")


def _udp_fragments(packet: Packet) -> list[Packet] | DropReason:
    offload = packet.offload
    data = packet.tobytes()
    found = layers(data)
    if found is not None and found.ethertype != ETHERTYPE_IPV4:
        return DropReason.GSO_UNSUPPORTED
    if (
        found is None
        or found.protocol != PROTOCOL_UDP
        or found.fragmented
        or len(data) < found.transport + UDP_HEADER
        or len(data) - found.network > _IP_LENGTH
    ):
        return DropReason.BAD_HEADERS
    transport = found.transport
    if not _check_place(offload, found, _UDP_CHECKSUM):
        return DropReason.BAD_CHECKSUM_PLACE
    size = offload.mss & ~7  # offsets of fragments count 8 bytes
    if size < MIN_MSS:
        return DropReason.BAD_MSS
    if offload.needs_csum:
        filled = _filled_in(packet)
        if isinstance(filled, DropReason):
            return filled
        data = filled[0].tobytes()
    head = bytearray(data[:transport])
    identification = int.from_bytes(head[found.network + 4 : found.network + 6], "big")
    _clear_ipv4(head, found)
    head[found.network + 6 : found.network + 8] = bytes(2)
    ip_sum = word_sum(head[found.network :])
    view = memoryview(data)
    frames = []
    for at in range(transport, len(data), size):
        piece = view[at : at + size]
        place = (at - transport) >> 3 | (_MORE_FRAGMENTS if at + size < len(data) else 0)
        head[found.network + 6 : found.network + 8] = place.to_bytes(2, "big")
        _set_ipv4(head, found, ip_sum + place, identification, len(piece))
        frames.append(Packet((bytes(head), piece), transport + len(piece), NO_OFFLOAD))
    return frames
