"""The golden vectors of the VMC specification sheet (9.1 to 9.3) and the codec contract."""

# ruff: noqa: E501 - a vector is a row

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.papr.crq import decode_element, encode_init, encode_init_complete, encode_transport_event, to_words
from pvnet.vmc.adapter import DmaPane, decode_dma_windows, encode_dma_windows
from pvnet.vmc.messages import (
    AddBuffer,
    AddBufferResponse,
    Capabilities,
    CapabilitiesResponse,
    Close,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBuffer,
    RemoveBufferResponse,
    Signal,
    Unknown,
    VmcType,
    decode_vmc,
    encode_hmc_id,
    encode_vmc,
)

VECTORS = [
    ("G3", Capabilities(1, 32, 4096, 256, 0x0101), "80010000000100200000100001000101", 0x8001000000010020, 0x0000100001000101),
    ("G4", Capabilities(2, 64, 16384, 4096), "80010000000200400000400010000101", 0x8001000000020040, 0x0000400010000101),
    ("G5", CapabilitiesResponse(2, 64, 16384, 128), "80810000000200400000400000800101", 0x8081000000020040, 0x0000400000800101),
    ("G6", CapabilitiesResponse(1, 16, 4096, 256, 0x0107), "80810000000100100000100001000107", 0x8081000000010010, 0x0000100001000107),
    ("G7", CapabilitiesResponse(1, 32, 4096, 256, 0x0200, 2), "80810200000100200000100001000200", 0x8081020000010020, 0x0000100001000200),
    ("G8", AddBuffer(0, 0, 0, 0, 0x10000), "80040000000000000000000000010000", 0x8004000000000000, 0x0000000000010000),
    ("G9", AddBuffer(1, 0, 2, 1, 0x12000), "80040001010000020000000000012000", 0x8004000101000002, 0x0000000000012000),
    ("G10", AddBufferResponse(0, 1, 0, 2), "80840000010000020000000000000000", 0x8084000001000002, 0),
    ("G11", AddBufferResponse(2, 1, 0, 64), "80840200010000400000000000000000", 0x8084020001000040, 0),
    ("G12", Open(1, 0, 0), "80020000010000000000000000000000", 0x8002000001000000, 0),
    ("G13", OpenResponse(0, 1, 0, 0), "80820000010000000000000000000000", 0x8082000001000000, 0),
    ("G14", Signal(1, 0, 0, 38), "80060000010000000000000000000026", 0x8006000001000000, 0x26),
    ("G16", RemoveBuffer(1, 0), "80050000010000000000000000000000", 0x8005000001000000, 0),
    ("G17", RemoveBufferResponse(0, 1, 0, 1), "80850000010000010000000000000000", 0x8085000001000001, 0),
    ("G18", RemoveBufferResponse(5, 1, 0, 0xFFFF), "808505000100ffff0000000000000000", 0x808505000100FFFF, 0),
    ("G19", Close(1, 0), "80030000010000000000000000000000", 0x8003000001000000, 0),
    ("G20", CloseResponse(0, 1, 0), "80830000010000000000000000000000", 0x8083000001000000, 0),
    ("X1", Open(254, 1, 7), "80020000fe0100070000000000000000", 0x80020000FE010007, 0),
    ("X2", OpenResponse(1, 1, 0, 0), "80820100010000000000000000000000", 0x8082010001000000, 0),
    ("X3", CloseResponse(1, 1, 0), "80830100010000000000000000000000", 0x8083010001000000, 0),
    ("X4", AddBufferResponse(1, 0, 5, 3), "80840100000500030000000000000000", 0x8084010000050003, 0),
]  # fmt: skip


@pytest.mark.parametrize(("message", "wire", "high", "low"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_golden_vector(message, wire, high, low):
    raw = bytes.fromhex(wire)
    assert encode_vmc(message) == raw
    assert decode_vmc(raw) == message
    assert to_words(raw) == (high, low)


def test_g15_reserved_word_is_ignored_on_receipt_and_zero_when_sent():
    raw = bytes.fromhex("800600000100001fdeadbeef00001000")
    assert to_words(raw) == (0x800600000100001F, 0xDEADBEEF00001000)
    assert decode_vmc(raw) == Signal(1, 0, 31, 4096)
    assert encode_vmc(decode_vmc(raw)) == bytes.fromhex("800600000100001f0000000000001000")


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        (encode_init(), "c001" + "00" * 14),
        (encode_init_complete(), "c002" + "00" * 14),
        (encode_transport_event(1), "ff01" + "00" * 14),
        (encode_transport_event(2), "ff02" + "00" * 14),
        (encode_transport_event(6), "ff06" + "00" * 14),
    ],
    ids=["G1", "G2", "X5", "X6", "X7"],
)
def test_link_level_vectors_are_no_vmc_messages(raw, wire):
    assert raw == bytes.fromhex(wire)
    assert decode_vmc(raw) == Unknown(raw)
    assert not isinstance(decode_element(raw), Unknown)


def test_other_byte_vectors():
    assert encode_hmc_id("hmcless id") == bytes.fromhex("686d636c657373206964") + bytes(22)
    assert encode_hmc_id(bytes(range(32))) == bytes(range(32))
    panes = (DmaPane(0x19000002, 0, 0x10000000), DmaPane(0x13000002, 0, 0x10000000))
    one = bytes.fromhex("190000020000000010000000130000020000000010000000")
    two = bytes.fromhex("1900000200000000000000000000000010000000130000020000000000000000") + bytes.fromhex(
        "0000000010000000"
    )
    assert decode_dma_windows(one) == panes
    assert encode_dma_windows(panes) == one
    assert decode_dma_windows(two, address_cells=2, size_cells=2) == panes
    assert encode_dma_windows(panes, address_cells=2, size_cells=2) == two
    for bad in (b"", one[:-1]):
        with pytest.raises(WireError, match="triples of 12 bytes"):
            decode_dma_windows(bad)


_RESERVED = {
    VmcType.CAPABILITIES: (2, 3, 4),
    VmcType.CAPABILITIES_RESPONSE: (3, 4),
    VmcType.OPEN: (2, 3, *range(8, 16)),
    VmcType.OPEN_RESPONSE: (3, *range(8, 16)),
    VmcType.CLOSE: (2, 3, *range(6, 16)),
    VmcType.CLOSE_RESPONSE: (3, *range(6, 16)),
    VmcType.ADD_BUFFER: (2, *range(8, 12)),
    VmcType.ADD_BUFFER_RESPONSE: (3, *range(8, 16)),
    VmcType.REMOVE_BUFFER: (2, 3, *range(6, 16)),
    VmcType.REMOVE_BUFFER_RESPONSE: (3, *range(8, 16)),
    VmcType.SIGNAL: (2, 3, *range(8, 12)),
}


@given(
    st.one_of(
        st.binary(min_size=16, max_size=16),
        st.builds(
            lambda kind, rest: bytes((0x80, kind)) + rest,
            st.sampled_from(list(VmcType)),
            st.binary(min_size=14, max_size=14),
        ),
    )
)
def test_every_16_bytes_decode_and_known_messages_re_encode(raw):
    message = decode_vmc(raw)
    expected = bytearray(raw)
    if not isinstance(message, Unknown):
        assert raw[0] == 0x80
        for at in _RESERVED[VmcType(raw[1])]:
            expected[at] = 0
    assert encode_vmc(message) == bytes(expected)
    assert decode_vmc(encode_vmc(message)) == message


def test_every_type_has_a_message_and_no_other_type_decodes():
    for kind in range(256):
        message = decode_vmc(bytes((0x80, kind)) + bytes(14))
        assert isinstance(message, Unknown) == (not VmcType(kind).is_known), kind
    assert decode_vmc(bytes.fromhex("8077" + "00" * 14)).type == VmcType(0x77)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_other_lengths_are_our_misuse(size):
    with pytest.raises(LocalError, match="16 bytes"):
        decode_vmc(bytes(size))
    with pytest.raises(LocalError, match="16 bytes"):
        Unknown(bytes(size))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Open(256, 0, 0),
        lambda: Open(-1, 0, 0),
        lambda: Signal(1, 0, 0x10000, 0),
        lambda: AddBuffer(0, 0, 0, 0, 1 << 32),
        lambda: Capabilities(256, 1, 1, 1),
        lambda: encode_hmc_id(bytes(33)),
    ],
)
def test_an_illegal_message_cannot_be_built(build):
    with pytest.raises(LocalError):
        build()
