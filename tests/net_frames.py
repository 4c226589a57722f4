"""Frames for tests, built and checked in the plainest way there is: word by word, without the code under test."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from pvnet.vbus.packet import GsoType, Offload, Packet

MAC_A = bytes.fromhex("020000000a01")
MAC_B = bytes.fromhex("020000000b02")
BROADCAST = b"\xff" * 6


def plain_sum(data: bytes) -> int:
    """RFC 1071 as its text says it: add words, add the carries back."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack(">H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(
    payload: bytes, ethertype: int, *, source: bytes = MAC_A, destination: bytes = MAC_B, tag: bytes = b""
) -> bytes:
    return destination + source + tag + struct.pack(">H", ethertype) + payload


def ipv4(payload: bytes, protocol: int, *, identification: int = 0, options: bytes = b"", fragment: int = 0x4000,
         source: str = "10.0.0.1", destination: str = "10.0.0.2", ttl: int = 64) -> bytes:  # fmt: skip
    size = 20 + len(options)
    addresses = ip_address(source).packed + ip_address(destination).packed
    total = (size + len(payload)) & 0xFFFF

    def header(check: int) -> bytes:
        return struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, total, identification, fragment, ttl, protocol, check)

    check = 0xFFFF ^ plain_sum(header(0) + addresses + options)
    return header(check) + addresses + options + payload


def ipv6(payload: bytes, next_header: int, *, source: str = "fd00::1", destination: str = "fd00::2") -> bytes:
    length = len(payload) & 0xFFFF
    addresses = ip_address(source).packed + ip_address(destination).packed
    return struct.pack(">IHBB", 6 << 28, length, next_header, 64) + addresses + payload


def pseudo_sum(source: str, destination: str, protocol: int, length: int) -> int:
    packed = ip_address(source).packed + ip_address(destination).packed
    return plain_sum(packed + struct.pack(">II", length, protocol))


def tcp(payload: bytes, *, sequence: int = 1000, flags: int = 0x10, options: bytes = b"", check: int = 0) -> bytes:
    offset = (20 + len(options)) // 4
    return struct.pack(">HHIIBBHHH", 4000, 80, sequence, 77, offset << 4, flags, 500, check, 0) + options + payload


def udp(payload: bytes, *, source_port: int = 5000, port: int = 7, check: int = 0) -> bytes:
    return struct.pack(">HHHH", source_port, port, 8 + len(payload), check) + payload


def gso_tcp(payload: bytes, mss: int, *, version: int = 4, partial: bool = True, tag: bytes = b"",
            ip_options: bytes = b"", extension: bytes = b"", ecn: bool = False, pieces: int = 1,
            identification: int = 0xFFFE, sequence: int = 0xFFFFF000, flags: int = 0x10,
            options: bytes = b"") -> Packet:  # fmt: skip
    """A packet as a TAP hands it over.  ``extension`` is an IPv6 extension header whose first byte is set to TCP."""
    length = 20 + len(options) + len(payload)
    addresses = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    check = pseudo_sum(*addresses, 6, length) if partial else 0
    segment = tcp(payload, check=check, sequence=sequence, flags=flags, options=options)
    if version == 4:
        frame = ethernet(ipv4(segment, 6, identification=identification, options=ip_options), 0x0800, tag=tag)
        transport = 14 + len(tag) + 20 + len(ip_options)
    else:
        first = extension[0] if extension else 6
        rest = b"\x06" + extension[1:] if extension else b""
        frame = ethernet(ipv6(rest + segment, first), 0x86DD, tag=tag)
        transport = 14 + len(tag) + 40 + len(extension)
    gso = GsoType.TCPV4 if version == 4 else GsoType.TCPV6
    headers = transport + 20 + len(options)
    start, offset = (transport, 16) if partial else (0, 0)
    return packet_in(frame, Offload(partial, start, offset, gso, ecn, headers, mss), pieces)


def packet_in(frame: bytes, offload: Offload, pieces: int = 1) -> Packet:
    """``frame`` cut into about equal pieces."""
    size = -(-len(frame) // pieces)
    frags = tuple(memoryview(frame)[at : at + size] for at in range(0, len(frame), size))
    return Packet(frags, len(frame), offload)


def check_tcp(frame: bytes, transport: int, *, version: int = 4) -> tuple[int, int, int, bytes]:
    """Assert that lengths and sums of a TCP frame are right; return (sequence, flags, identification, payload)."""

    segment = frame[transport:]
    if version == 4:
        start = 14
        while frame[start] >> 4 != 4:
            start += 4
        size = (frame[start] & 15) * 4
        assert start + size == transport
        assert plain_sum(frame[start:transport]) == 0xFFFF
        assert int.from_bytes(frame[start + 2 : start + 4], "big") == len(frame) - start
        addresses = frame[start + 12 : start + 20]
        identification = int.from_bytes(frame[start + 4 : start + 6], "big")
    else:
        start = 14 if frame[12:14] == b"\x86\xdd" else 18
        assert int.from_bytes(frame[start + 4 : start + 6], "big") == len(frame) - start - 40
        addresses = frame[start + 8 : start + 40]
        identification = 0
    assert plain_sum(addresses + struct.pack(">II", len(segment), 6) + segment) == 0xFFFF
    header = (segment[12] >> 4) * 4
    return int.from_bytes(segment[4:8], "big"), segment[13], identification, segment[header:]
