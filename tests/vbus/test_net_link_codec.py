"""Packets on a link: what is written is read, in whatever pieces it comes; anything else ends the link."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_frames import gso_tcp

from pvnet.core.errors import WireError
from pvnet.vbus.link_codec import (
    MAX_LINK_BODY,
    LinkDecoder,
    LinkHello,
    decode_link_message,
    encode_link_hello,
    encode_link_packets,
)
from pvnet.vbus.packet import ACCEPTS_NOTHING, ACCEPTS_TAP, Offload, Packet, packet_of
from pvnet.vbus.vnet_header import VnetHeaders

HELLO = LinkHello("lab-a", "bridge", 1500, ACCEPTS_TAP)


def read(stream: bytes, accepts: int = ACCEPTS_TAP, piece: int = 70_000) -> list[LinkHello | Packet]:
    decoder = LinkDecoder(accepts)
    messages: list[LinkHello | Packet] = []
    at = 0
    while at < len(stream):
        space = decoder.space()
        count = min(len(space), piece, len(stream) - at)
        assert count > 0
        space[:count] = stream[at : at + count]
        decoder.wrote(count)
        at += count
        messages += [one.copy() if isinstance(one, Packet) else one for one in decoder.messages()]
    return messages


def test_golden_bytes():
    hello_bytes = bytes.fromhex("504c 0101 0000000b 0000 0000 000005dc 000f 0161 026263")
    assert encode_link_hello(LinkHello("a", "bc", 1500, 15)) == hello_bytes
    plain = packet_of(bytes(range(14)))
    assert encode_link_packets([plain], VnetHeaders()).hex() == "504c01020000000e00000000" + bytes(range(14)).hex()
    partial = packet_of(bytes(range(14)), Offload(True, 2, 1))
    assert encode_link_packets([partial], VnetHeaders()).hex() == (
        "504c010200000018000a0000" + "01000000000002000100" + bytes(range(14)).hex()
    )


@settings(deadline=None)
@given(st.lists(st.integers(14, 3000), max_size=20), st.integers(1, 200))
def test_packets_arrive_as_sent_whatever_the_pieces(sizes, piece):
    packets = [packet_of(bytes([size & 0xFF]) * size) for size in sizes]
    packets.insert(0, gso_tcp(bytes(range(256)) * 9, 500, pieces=3))
    stream = encode_link_hello(HELLO) + encode_link_packets(packets, VnetHeaders())
    assert read(stream, piece=piece) == [HELLO, *(packet.copy() for packet in packets)]


def test_the_longest_packets_pass_in_a_row_and_the_buffer_is_used_again():
    packets = [packet_of(bytes([number]) * 65536, Offload(True, 34, 16)) for number in range(12)]
    stream = encode_link_packets(packets, VnetHeaders())
    for piece in (65536, 300_000, 100_001):
        assert read(stream, piece=piece) == packets
    assert read(encode_link_packets([packet_of(bytes(MAX_LINK_BODY))], VnetHeaders())) == [
        packet_of(bytes(MAX_LINK_BODY))
    ]


def test_an_incomplete_message_waits():
    stream = encode_link_hello(HELLO)
    for length in range(len(stream)):
        assert read(stream[:length]) == []
        decoder = LinkDecoder(ACCEPTS_TAP)
        decoder.space()[:length] = stream[:length]
        decoder.wrote(length)
        assert list(decoder.messages()) == []
        assert decoder.pending() == length


def header(
    magic: int = 0x504C, version: int = 1, kind: int = 2, length: int = 14, vnet: int = 0, zero: int = 0
) -> bytes:
    return struct.pack(">HBBIHH", magic, version, kind, length, vnet, zero)


def hello(body: bytes) -> bytes:
    return header(kind=1, length=len(body)) + body


NAMES = b"\x01a\x01b"


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"GET / HTTP/1", "not a pvnet link"),
        (header(version=2), "version 2"),
        (header(length=MAX_LINK_BODY + 1), f"at most {MAX_LINK_BODY}"),
        (header(length=0xFFFFFFFF), "at most"),
        (header(zero=1), "must be 0"),
        (header(vnet=12), "must be 0"),
        (header(kind=1, vnet=10), "must be 0"),
        (header(kind=3), "kind 3"),
        (header(length=13) + bytes(13), "packet of 13 bytes"),
        (header(length=23, vnet=10) + bytes(23), "packet of 13 bytes"),
        (header(length=5, vnet=10) + bytes(5), "packet of -5 bytes"),
        (header(length=24, vnet=10) + b"\xff" + bytes(23), "unknown flags"),
        (header(length=24, vnet=10) + b"\1\3\0\0\1" + bytes(19), "not agreed"),
        (hello(b"\0\0\5"), "cut short"),
        (hello(b"\0\0\5\xdc\0\0"), "lab name ''"),
        (hello(b"\0\0\5\xdc\0\0\x01a\x09b"), "wrong length"),
        (hello(b"\0\0\5\xdc\0\0\x01a"), "switch name ''"),
        (hello(b"\0\0\5\xdc\0\0\x01A\x01b"), "lab name 'A'"),
        (hello(b"\0\0\5\xdc\0\0\x01\xff\x01b"), "lab name"),
        (hello(b"\0\0\5\xdc\0\0" + NAMES + b"\0"), "wrong length"),
        (hello(b"\0\0\0\x43\0\0" + NAMES), "MTU 67"),
        (hello(b"\0\1\0\0\0\0" + NAMES), "MTU 65536"),
    ],
)
def test_what_makes_no_sense_is_refused(stream, words):
    with pytest.raises(WireError, match=words):
        read(stream)


def test_an_offload_that_was_not_agreed_is_refused():
    stream = encode_link_packets([gso_tcp(bytes(3000), 1000)], VnetHeaders())
    assert len(read(stream, ACCEPTS_TAP)) == 1
    with pytest.raises(WireError, match="not agreed"):
        read(stream, ACCEPTS_NOTHING)


def test_single_messages_are_decoded_alone_and_must_be_alone():
    headers = VnetHeaders()
    packet = gso_tcp(bytes(3000), 1000)
    message = encode_link_packets([packet], headers)
    got = decode_link_message(message, ACCEPTS_TAP, headers)
    assert isinstance(got, Packet)
    assert got.copy() == packet.copy()
    assert decode_link_message(encode_link_hello(HELLO), 0, headers) == HELLO
    for wrong in (b"", message[:-1], message + b"\0", message + message):
        with pytest.raises(WireError, match="one message"):
            decode_link_message(wrong, ACCEPTS_TAP, headers)


def test_unknown_offload_bits_of_a_hello_are_ignored():
    assert read(encode_link_hello(LinkHello("a", "b", 1500, 0xFFFF))) == [LinkHello("a", "b", 1500, 31)]


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_noise_is_refused_or_waits_but_never_does_anything_else(noise, keep):
    stream = (encode_link_hello(HELLO) + encode_link_packets([packet_of(bytes(60))], VnetHeaders()))[:keep] + noise
    try:
        messages = read(stream)
    except WireError:
        return
    assert all(isinstance(message, LinkHello | Packet) for message in messages)
