"""The payload header, the router service's every answer, and pvnet's own frame."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.vmc.router import (
    FLAG_RESPONSE,
    FLAG_RESPONSE_EXPECTED,
    OPEN_DATA,
    RouterMessage,
    RouterOpcode,
    RouterRc,
    RouterService,
    RouterTarget,
    decode_frame,
    decode_router,
    encode_frame,
    is_frame,
)

SAMPLE = bytes.fromhex("decaff2000000026000000008000008000000006000100000000000000000000000100000000")


def request(opcode: int, data: bytes = b"", **fields: int) -> bytes:
    return RouterMessage(opcode, data, **fields).encode()


def opened(**limits: int) -> RouterService:
    service = RouterService(**limits)
    service.session_opened(0, 1)
    assert rc_of(service.serve(0, 1, SAMPLE)) == RouterRc.GOOD
    return service


def rc_of(response: bytes | None) -> int:
    assert response is not None
    message = decode_router(response)
    assert message.flags == FLAG_RESPONSE
    if message.rc:
        assert message.data == b""
    return message.rc


def test_sample_request_of_the_public_test_program():
    assert decode_router(SAMPLE) == RouterMessage(RouterOpcode.OPEN, OPEN_DATA)
    assert RouterMessage(RouterOpcode.OPEN, OPEN_DATA).encode() == SAMPLE
    assert SAMPLE[0x0E] == 0
    assert SAMPLE[0x0F] == FLAG_RESPONSE_EXPECTED


@given(
    st.integers(0, 0xFFFF),
    st.binary(max_size=300),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 255),
)
def test_header_round_trip(opcode, data, target, correlation, flags):
    message = RouterMessage(opcode, data, target, correlation, flags, rc=7)
    assert decode_router(message.encode()) == message


@pytest.mark.parametrize("mtu", [4096, 16384])
def test_echo_of_every_length_up_to_the_mtu(mtu):
    service = opened(max_message_bytes=mtu)
    for size in (*range(101), 255, 1000, mtu - 33, mtu - 32):
        data = bytes(i & 0xFF for i in range(size))
        response = service.serve(0, 1, request(RouterOpcode.ECHO, data, correlation=size))
        assert response is not None
        assert decode_router(response) == RouterMessage(
            RouterOpcode.ECHO, data, correlation=size, flags=FLAG_RESPONSE, rc=0
        )
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO, bytes(mtu - 31)))) == RouterRc.INVALID_SIZE


def test_open_echo_close_and_their_states():
    service = RouterService()
    service.session_opened(0, 1)
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO))) == RouterRc.INVALID_STATE
    assert rc_of(service.serve(0, 1, request(RouterOpcode.CLOSE))) == RouterRc.INVALID_STATE
    assert rc_of(service.serve(0, 1, request(RouterOpcode.OPEN, b"12345"))) == RouterRc.INVALID_DATA
    assert rc_of(service.serve(0, 1, SAMPLE)) == RouterRc.GOOD
    assert rc_of(service.serve(0, 1, SAMPLE)) == RouterRc.HMC_ALREADY_OPEN
    assert rc_of(service.serve(0, 1, request(RouterOpcode.CLOSE))) == RouterRc.GOOD
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO))) == RouterRc.INVALID_STATE


def test_sessions_end_and_change():
    service = opened()
    service.session_opened(0, 2)
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO))) == RouterRc.HMC_DEAD
    assert rc_of(service.serve(0, 2, request(RouterOpcode.ECHO))) == RouterRc.SESSION_MISMATCH
    assert rc_of(service.serve(0, 2, request(RouterOpcode.CLOSE))) == RouterRc.SESSION_MISMATCH
    assert rc_of(service.serve(0, 2, SAMPLE)) == RouterRc.GOOD
    service.session_closed(0)
    assert rc_of(service.serve(0, 2, request(RouterOpcode.ECHO))) == RouterRc.HMC_DEAD
    service.session_opened(0, 3)
    assert rc_of(service.serve(0, 3, request(RouterOpcode.ECHO))) == RouterRc.INVALID_STATE


def test_refusals_by_address():
    service = opened(max_hmc=2)
    assert rc_of(service.serve(2, 1, SAMPLE)) == RouterRc.INVALID_HMC_INDEX
    assert rc_of(service.serve(1, 1, SAMPLE)) == RouterRc.HMC_DEAD
    for target in range(0x8001, 0x8008):
        assert rc_of(service.serve(0, 1, request(0x1234, target=target))) == RouterRc.INVALID_TARGET
    for target in (0, 0x7FFF, 0x8008, 0xFFFF):
        assert rc_of(service.serve(0, 1, request(1, target=target))) == RouterRc.INVALID_CATEGORY
    assert rc_of(service.serve(0, 1, request(0x0104))) == RouterRc.INVALID_OPCODE
    both = FLAG_RESPONSE | FLAG_RESPONSE_EXPECTED
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO, flags=both))) == RouterRc.INVALID_RESPONSE


def test_silence_where_no_answer_is_due():
    service = opened()
    assert service.serve(0, 1, b"") is None
    assert service.serve(0, 1, b"PVNE" + bytes(40)) is None
    assert service.serve(0, 1, b"\xde\xca\xff" + bytes(10)) is None
    assert service.counters["not_router"] == 3
    assert service.serve(0, 1, request(RouterOpcode.ECHO, flags=FLAG_RESPONSE)) is None
    assert service.counters["response"] == 1
    assert service.serve(0, 1, request(RouterOpcode.CLOSE, flags=0)) is None
    assert service.counters["no_response_expected"] == 1
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO))) == RouterRc.INVALID_STATE, "close was done"


@pytest.mark.parametrize("rc", list(RouterRc))
def test_every_documented_code_can_be_asked_for(rc):
    service = opened()
    service.answer_next(rc)
    assert service.serve(0, 1, request(RouterOpcode.ECHO, flags=0)) is None, "waits for a request that is answered"
    response = service.serve(0, 1, request(RouterOpcode.ECHO, b"x", correlation=9))
    assert response is not None
    assert decode_router(response) == RouterMessage(
        RouterOpcode.ECHO, b"" if rc else b"x", correlation=9, flags=FLAG_RESPONSE, rc=rc
    )
    assert rc_of(service.serve(0, 1, request(RouterOpcode.ECHO))) == RouterRc.GOOD


@pytest.mark.parametrize(
    ("payload", "offset"),
    [
        (SAMPLE[:31], 31),
        (b"\xde\xca\xfe" + SAMPLE[3:], 0),
        (SAMPLE[:3] + b"\x21" + SAMPLE[4:], 3),
        (SAMPLE + b"!", 4),
        (SAMPLE[:0x10] + struct.pack(">I", 5) + SAMPLE[0x14:], 4),
    ],
)
def test_bytes_that_are_no_message(payload, offset):
    with pytest.raises(WireError) as error:
        decode_router(payload)
    assert error.value.offset == offset
    if payload[:3] == b"\xde\xca\xff" and len(payload) >= 32:
        assert rc_of(opened().serve(0, 1, payload)) == RouterRc.INVALID_SIZE


def test_a_field_that_does_not_fit_is_our_misuse():
    with pytest.raises(LocalError, match="router header"):
        RouterMessage(0x10000).encode()


def test_targets_are_named_up_to_the_public_limit():
    assert [target for target in range(0x7FF0, 0x8020) if RouterTarget(target).is_known] == list(range(0x8000, 0x8008))


def test_own_frames():
    raw = encode_frame(b"body")
    assert raw == b"PVNE\0\1\0\0\0\0\0\4body"
    assert is_frame(raw)
    assert not is_frame(SAMPLE)
    assert decode_frame(raw) == b"body"
    assert decode_frame(encode_frame(b"")) == b""
    for bad, offset in (
        (raw[:11], 11),
        (b"PVNF" + raw[4:], 0),
        (b"PVNE\0\2" + raw[6:], 4),
        (raw + b"!", 8),
    ):
        with pytest.raises(WireError) as error:
            decode_frame(bad)
        assert error.value.offset == offset
