"""Level-1 elements: golden bytes, and that every 16 bytes decode to something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.papr.crq import (
    Command,
    CrqInit,
    CrqInitComplete,
    EmptySlot,
    ReservedElement,
    TransportEvent,
    TransportEventCode,
    decode_element,
    describe_element,
    encode_init,
    encode_init_complete,
    encode_transport_event,
    from_words,
    is_sendable,
    to_words,
)

Z14 = "00" * 14

# (what, 16 wire bytes, high word, low word, decoded): golden vectors G1, G2, X5, X6, X7 and two commands.
GOLDEN = [
    ("INIT", "c001" + Z14, 0xC001000000000000, 0, CrqInit()),
    ("INIT COMPLETE", "c002" + Z14, 0xC002000000000000, 0, CrqInitComplete()),
    ("XPORT PARTNER_FAILED", "ff01" + Z14, 0xFF01000000000000, 0, TransportEvent(TransportEventCode.PARTNER_FAILED)),
    ("XPORT PARTNER_DEREGISTERED", "ff02" + Z14, 0xFF02000000000000, 0, TransportEvent(TransportEventCode(2))),
    ("XPORT PARTNER_SUSPENDED", "ff06" + Z14, 0xFF06000000000000, 0, TransportEvent(TransportEventCode(6))),
    (
        "type 0x01",
        "80010000000100200000100001000101",
        0x8001000000010020,
        0x0000100001000101,
        Command(1, bytes.fromhex("80010000000100200000100001000101")),
    ),
    (
        "type 0x06",
        "800600000100001fdeadbeef00001000",
        0x800600000100001F,
        0xDEADBEEF00001000,
        Command(6, bytes.fromhex("800600000100001fdeadbeef00001000")),
    ),
]


@pytest.mark.parametrize(("what", "wire", "high", "low", "decoded"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_golden(what, wire, high, low, decoded):
    raw = bytes.fromhex(wire)
    assert decode_element(raw) == decoded
    assert to_words(raw) == (high, low)
    assert from_words(high, low) == raw
    assert describe_element(raw) == what


def test_encoders_give_the_golden_bytes():
    assert encode_init().hex() == "c001" + Z14
    assert encode_init_complete().hex() == "c002" + Z14
    assert encode_transport_event(6).hex() == "ff06" + Z14
    assert encode_init(b"ab").hex() == "c0016162" + "00" * 12


def test_init_keeps_the_users_bytes():
    assert decode_element(encode_init(b"x" * 14)) == CrqInit(b"x" * 14)
    assert decode_element(encode_init_complete(b"y" * 14)) == CrqInitComplete(b"y" * 14)


def test_rest_of_a_transport_event_is_ignored():
    assert decode_element(b"\xff\x02" + b"\xee" * 14) == decode_element(encode_transport_event(2))


def test_unknown_transport_event_keeps_its_number():
    event = decode_element(b"\xff\x77" + bytes(14))
    assert event == TransportEvent(TransportEventCode(0x77))
    assert describe_element(b"\xff\x77" + bytes(14)) == "XPORT TransportEventCode(0x77)"


@pytest.mark.parametrize("header", range(256))
def test_every_header(header):
    for kind in (0, 1, 2, 3, 0xFF):
        raw = bytes((header, kind)) + bytes(range(14))
        element = decode_element(raw)
        expected = {0x00: EmptySlot, 0x80: Command, 0xFF: TransportEvent}.get(header, ReservedElement)
        if header == 0xC0 and kind in (1, 2):
            expected = (CrqInit, CrqInitComplete)[kind - 1]
        assert type(element) is expected
        assert is_sendable(raw) == (0x80 <= header <= 0xFE)
        assert describe_element(raw)
        if isinstance(element, Command | ReservedElement):
            assert element.raw == raw


def test_describe_of_empty_and_reserved():
    assert describe_element(bytes(16)) == "EMPTY"
    assert describe_element(b"\xc0\x03" + bytes(14)) == "RESERVED c0 03"


@pytest.mark.parametrize("length", [0, 1, 15, 17, 32])
def test_other_lengths_are_refused(length):
    with pytest.raises(WireError, match="expected 16 bytes"):
        decode_element(bytes(length))
    with pytest.raises(WireError, match="expected 16 bytes"):
        to_words(bytes(length))


def test_misuse_of_encoders():
    with pytest.raises(LocalError, match="at most 14"):
        encode_init(bytes(15))
    with pytest.raises(LocalError, match="0 to 255"):
        encode_transport_event(256)
    for words in ((-1, 0), (0, 1 << 64)):
        with pytest.raises(LocalError, match="64-bit"):
            from_words(*words)


@given(st.binary(min_size=16, max_size=16))
def test_words_and_back(raw):
    high, low = to_words(raw)
    assert from_words(high, low) == raw
    assert (high, low) == (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big"))
    decode_element(raw)
