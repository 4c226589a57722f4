"""The header in front of a TAP's frames, both directions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import WireError
from pvnet.vbus.packet import (
    ACCEPTS_CSUM,
    ACCEPTS_ECN,
    ACCEPTS_TSO4,
    ACCEPTS_TSO6,
    ACCEPTS_UFO,
    NO_OFFLOAD,
    GsoType,
    Offload,
    Packet,
)
from pvnet.vbus.vnet_header import NO_VNET_HEADER, VnetHeaders, decode_vnet_header, encode_vnet_header

u16 = st.integers(0, 65535)
offloads = st.one_of(
    st.just(NO_OFFLOAD),
    st.builds(lambda start, offset, hdrlen: Offload(True, start, offset, hdrlen=hdrlen), u16, u16, u16),
    st.builds(
        lambda start, offset, gso, ecn, hdrlen, mss: Offload(
            True, start, offset, gso, ecn and gso is not GsoType.UDP, hdrlen, mss
        ),
        u16, u16, st.sampled_from([GsoType.TCPV4, GsoType.TCPV6, GsoType.UDP]), st.booleans(), u16,
        st.integers(1, 65535),
    ),
)  # fmt: skip


def test_golden_header_of_a_kernel_tcp_packet():
    header = bytes.fromhex("01 01 4200 a805 2200 1000")
    offload = Offload(True, 34, 16, GsoType.TCPV4, False, 66, 1448)
    assert decode_vnet_header(header) == offload
    assert encode_vnet_header(offload) == header
    ecn = bytes.fromhex("01 84 5600 9405 3600 1000")
    assert decode_vnet_header(ecn) == Offload(True, 54, 16, GsoType.TCPV6, True, 86, 1428)


@settings(deadline=None)
@given(offloads)
def test_what_is_encoded_is_decoded(offload):
    headers = VnetHeaders()
    header = encode_vnet_header(offload)
    assert decode_vnet_header(header) == offload
    for _ in range(2):
        assert headers.encode(offload) == header
        assert headers.decode(header) == offload


def test_nothing_to_do_is_the_one_object():
    assert decode_vnet_header(NO_VNET_HEADER + b"rest") is NO_OFFLOAD
    assert decode_vnet_header(b"\x02" + bytes(9)) is NO_OFFLOAD, "DATA_VALID asks for nothing"
    assert VnetHeaders().encode(NO_OFFLOAD) is NO_VNET_HEADER


@pytest.mark.parametrize(
    ("header", "offset"),
    [
        (bytes(9), 9),
        (b"\x04" + bytes(9), 0),
        (b"\x01\x02" + bytes(8), 1),
        (b"\x01\x05" + bytes(2) + b"\x10" + bytes(5), 1),
        (b"\x01\x80" + bytes(8), 1),
        (b"\x01\x83" + bytes(2) + b"\x10" + bytes(5), 1),
        (b"\x01\x01" + bytes(8), 4),
    ],
)
def test_a_header_that_makes_no_sense_says_where(header, offset):
    with pytest.raises(WireError) as caught:
        decode_vnet_header(header)
    assert caught.value.offset == offset
    if len(header) == 10:
        with pytest.raises(WireError):
            VnetHeaders().decode(header)


@settings(deadline=None)
@given(st.binary(min_size=10, max_size=10))
def test_any_ten_bytes_decode_or_are_refused(header):
    try:
        offload = decode_vnet_header(header)
    except WireError:
        return
    assert decode_vnet_header(encode_vnet_header(offload)) == offload


def test_a_number_that_does_not_fit_is_refused():
    with pytest.raises(WireError):
        encode_vnet_header(Offload(True, 70000, 16))


def test_the_memory_of_headers_is_bounded():
    headers = VnetHeaders()
    for start in range(3000):
        offload = Offload(True, start, 16)
        assert headers.decode(headers.encode(offload)) == offload
    assert headers.remembered() <= 2048


@pytest.mark.parametrize(
    ("offload", "bits"),
    [
        (NO_OFFLOAD, 0),
        (Offload(True, 34, 16), ACCEPTS_CSUM),
        (Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1000), ACCEPTS_CSUM | ACCEPTS_TSO4),
        (Offload(True, 34, 16, GsoType.TCPV6, True, 54, 1000), ACCEPTS_CSUM | ACCEPTS_TSO6 | ACCEPTS_ECN),
        (Offload(False, 0, 0, GsoType.UDP, False, 54, 1000), ACCEPTS_UFO),
    ],
)
def test_what_a_receiver_must_be_able_to_do(offload, bits):
    assert offload.requires == bits


def test_a_packet_in_pieces_is_copied_whole():
    buffer = bytearray(b"abcdef")
    packet = Packet((memoryview(buffer)[:2], memoryview(buffer)[2:]), 6, Offload(True, 0, 0))
    kept = packet.copy()
    buffer[:] = b"XXXXXX"
    assert kept.tobytes() == b"abcdef"
    assert kept.offload == packet.offload
    assert kept.length == 6
