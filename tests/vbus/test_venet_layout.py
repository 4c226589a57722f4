"""Byte layouts of venet against the vectors of the fact sheet, section 12."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.vbus import venet_layout as layout
from pvnet.vbus.venet_layout import Capability, EventqQuery, L4roQuery, LinkState, TransmitComplete, VenetSg


def words(text: str, zeros: int = 0) -> bytes:
    return bytes.fromhex(text.replace(" ", "")) + bytes(zeros)


VECTORS = {
    "plain": (
        VenetSg(0, 0, 60, ((60, 0x10D00),)),
        words(
            "00000000 00000000 00000000 3c000000 00000000 00000000 00000000 010000003c000000 00000000 000d0100 00000000"
        ),
    ),
    "tso4": (
        VenetSg(0x77, 3, 4434, ((54, 0x10D00), (4380, 0x11000)), 34, 16, 0, 54, 1460),
        words(
            "77000000 00000000 03000000 52110000 22001000 00003600 b4050000 02000000"
            "36000000 00000000 000d0100 00000000 1c110000 00000000 00100100 00000000"
        ),
    ),
    "sg request": (Capability(0, 0x2F), words("00000000 2f000000")),
    "eventq request": (Capability(1, 3), words("01000000 03000000")),
    "eventq reply": (EventqQuery(0, 24, 101, 102), words("00000000 18000000 65000000 66000000", 16)),
    "l4ro reply": (L4roQuery(0, 103, 104), words("00000000 67000000 68000000", 20)),
    "link up": (LinkState(up=True), words("00000000 10000000 00000000 01000000")),
    "txc": (TransmitComplete(0x77), words("00000000 18000000 01000000 00000000 77000000 00000000")),
}


def decoder(value):
    return layout.decode_event if isinstance(value, LinkState | TransmitComplete) else type(value).decode


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_round_trips(name):
    value, data = VECTORS[name]
    assert value.encode() == data
    assert decoder(value)(data) == value


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_refused_one_byte_short(name):
    value, data = VECTORS[name]
    with pytest.raises(WireError):
        decoder(value)(data[:-1])


@pytest.mark.parametrize("name", VECTORS)
def test_no_prefix_and_no_flipped_bit_makes_a_decoder_fail_otherwise(name):
    value, data = VECTORS[name]
    for end in range(len(data)):
        with pytest.raises(WireError):
            decoder(value)(data[:end])
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(WireError):
            assert decoder(value)(bytes(changed)) != value


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("plain", 21),
        ("plain", 26),
        ("plain", 36),
        ("tso4", 21),
        ("tso4", 52),
        ("eventq reply", 16),
        ("eventq reply", 31),
        ("l4ro reply", 12),
        ("link up", 13),
    ],
)
def test_a_pad_that_is_not_zero_is_refused(name, offset):
    value, data = VECTORS[name]
    changed = bytearray(data)
    changed[offset] = 1
    with pytest.raises(WireError):
        decoder(value)(bytes(changed))


def test_unknown_flags_of_a_packet_descriptor_are_refused():
    data = bytearray(VECTORS["plain"][1])
    data[8] = 8
    with pytest.raises(WireError, match="flags"):
        VenetSg.decode(bytes(data))


def test_nineteen_fragments_do_not_exist():
    with pytest.raises(LocalError, match="at most 18"):
        VenetSg(0, 0, 19, ((1, 0),) * 19).encode()
    data = bytearray(VECTORS["plain"][1])
    data[28] = 19
    with pytest.raises(WireError, match="19 fragments"):
        VenetSg.decode(bytes(data))


def test_a_field_that_does_not_fit_is_our_own_mistake():
    with pytest.raises(LocalError, match="does not fit"):
        VenetSg(1 << 64, 0, 0, ()).encode()


def test_the_largest_descriptor_has_320_bytes():
    assert len(VenetSg(0, 0, 18, ((1, 0),) * 18).encode()) == 320 == layout.MAX_SG_BYTES


def test_an_event_is_read_from_a_slot_larger_than_it():
    assert layout.decode_event(LinkState(up=False).encode() + bytes(8)) == LinkState(up=False)


@pytest.mark.parametrize(
    "text",
    [
        "01000000 10000000 00000000 01000000",
        "00000000 10000000 02000000 01000000",
        "00000000 18000000 00000000 01000000 00000000 00000000",
        "00000000 10000000 00000000 02000000",
    ],
)
def test_a_wrong_event_is_refused(text):
    with pytest.raises(WireError):
        layout.decode_event(words(text))


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_themselves_or_are_refused(data):
    for cls in (VenetSg, Capability, EventqQuery, L4roQuery):
        with contextlib.suppress(WireError):
            assert cls.decode(data).encode() == data
    with contextlib.suppress(WireError):
        layout.decode_event(data)
