"""Golden vectors of vbus 12, each also refused when something in it is wrong."""

from __future__ import annotations

import struct

import pytest
from ring.support import image, memory, no_fence

from pvnet.core.errors import LocalError, WireError
from pvnet.ring import layout
from pvnet.ring.errors import EOPNOTSUPP, RingError
from pvnet.ring.ioq_memory import format_ring
from pvnet.ring.layout import (
    Descriptor,
    RingHead,
    RingIndex,
    SignalWords,
    decode_descriptor,
    decode_head,
    decode_signal,
    encode_descriptor,
    encode_head,
    encode_signal,
)
from pvnet.ring.shm_signal import ShmSignal

QUIET = SignalWords((0, 0, 0), (0, 0, 0))
SIGNALS = {
    "df39fa58 01000000 00000000 00000000": QUIET,
    "df39fa58 01000000 01000001 01010000": SignalWords((1, 0, 0), (1, 1, 1)),
    "df39fa58 01000000 01000000 01010000": SignalWords((1, 0, 0), (0, 1, 1)),
}
HEADS = {
    "e42ffa47 04000000 df39fa58 01000000 "
    "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 04000000"
    "00000000": RingHead(QUIET, RingIndex(0, 0, 0), RingIndex(0, 0, 0), 4),
    "e42ffa47 04000000 df39fa58 01000000 "
    "00000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000 04000000"
    "00000000": RingHead(QUIET, RingIndex(0, 0, 1), RingIndex(0, 0, 0), 4),
    "e42ffa47 04000000 df39fa58 01000000 "
    "01000000 00010000 00000000 00000000 01000000 03000000 01000000 00000000 04000000"
    "00000000": RingHead(SignalWords((1, 0, 0), (0, 0, 1)), RingIndex(0, 0, 1), RingIndex(3, 1, 0), 4),
}
DESCRIPTORS = {
    "00000000 00000000 00080100 00000000 00010000 00000000 01010000 00000000": (
        Descriptor(0, 0x10800, 256),
        True,
        True,
    ),
    "77000000 00000000 000c0100 00000000 3c000000 00000000 01000000 00000000": (
        Descriptor(0x77, 0x10C00, 60),
        True,
        False,
    ),
}


@pytest.mark.parametrize("text", SIGNALS)
def test_signal_vectors_decode_and_encode(text):
    assert decode_signal(image(text)) == SIGNALS[text]
    assert encode_signal(SIGNALS[text]) == image(text)


@pytest.mark.parametrize("text", HEADS)
def test_head_vectors_decode_and_encode(text):
    assert decode_head(image(text)) == HEADS[text]
    assert encode_head(HEADS[text]) == image(text)


@pytest.mark.parametrize("text", DESCRIPTORS)
def test_descriptor_vectors_decode_and_encode(text):
    descriptor, valid, sown = DESCRIPTORS[text]
    assert decode_descriptor(image(text)) == (descriptor, valid, sown)
    assert encode_descriptor(descriptor, valid=valid, sown=sown) == image(text)


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (decode_signal, next(iter(SIGNALS))),
        (decode_head, next(iter(HEADS))),
        (decode_descriptor, next(iter(DESCRIPTORS))),
    ],
)
def test_a_vector_with_a_byte_more_or_less_is_refused(decode, text):
    with pytest.raises(WireError):
        decode(image(text)[:-1])
    with pytest.raises(WireError):
        decode(image(text) + b"\0")


@pytest.mark.parametrize("offset", [0, 3, 4, *range(8, 16)])
def test_a_signal_with_a_wrong_byte_is_refused_at_its_offset(offset):
    data = bytearray(encode_signal(QUIET))
    data[offset] ^= 2
    with pytest.raises(WireError) as caught:
        decode_signal(bytes(data))
    assert caught.value.offset is not None
    assert caught.value.offset <= offset


@pytest.mark.parametrize("offset", [0, 4, 8, 12, 14, 24, 28, 32, 33, 36, 40, 44, 45, 49, 52, 55])
def test_a_head_with_a_wrong_byte_is_refused(offset):
    data = bytearray(encode_head(RingHead(QUIET, RingIndex(0, 0, 0), RingIndex(0, 0, 0), 4)))
    data[offset] ^= 0x84
    with pytest.raises(WireError):
        decode_head(bytes(data))


@pytest.mark.parametrize("offset", [24, 25, 26, 31])
def test_a_descriptor_with_a_wrong_flag_or_pad_is_refused(offset):
    data = bytearray(32)
    data[offset] = 2
    with pytest.raises(WireError) as caught:
        decode_descriptor(bytes(data))
    assert caught.value.offset == min(offset, 26)


@pytest.mark.parametrize("count", [0, 2049, 0xFFFFFFFF])
def test_a_head_with_a_count_that_no_ring_has_is_refused(count):
    data = bytearray(encode_head(RingHead(QUIET, RingIndex(0, 0, 0), RingIndex(0, 0, 0), 4)))
    struct.pack_into("<I", data, 48, count)
    with pytest.raises(WireError, match="ring count"):
        decode_head(bytes(data))


@pytest.mark.parametrize(("count", "size"), [(1, 88), (4, 184), (256, 8248), (1024, 32824)])
def test_a_ring_has_exactly_the_size_of_the_original(count, size):
    assert layout.ring_2009_bytes(count) == size
    assert memory(count).nbytes == size


def test_a_new_ring_is_the_fresh_vector_and_zero_descriptors():
    view = memory(4)
    view[:] = bytes([0xAA]) * len(view)
    format_ring(view, 4, no_fence)
    assert bytes(view) == image(next(iter(HEADS))) + bytes(128)


def test_a_new_signal_is_the_fresh_vector():
    view = memoryview(bytearray(b"\xaa" * 32))
    ShmSignal.create(view, 8, no_fence)
    assert bytes(view[8:24]) == image(next(iter(SIGNALS)))
    assert bytes(view[:8]) == bytes(view[24:]) == b"\xaa" * 8


@pytest.mark.parametrize(("count", "size"), [(0, 56), (2049, 56 + 32 * 2049), (4, 183), (4, 216)])
def test_a_ring_of_a_wrong_count_or_size_is_not_made(count, size):
    with pytest.raises(LocalError):
        format_ring(memoryview(bytearray(size)), count, no_fence)


def test_read_only_memory_and_odd_sizes_are_our_mistake():
    with pytest.raises(LocalError, match="read-only"):
        layout.words(memoryview(bytes(8)))
    with pytest.raises(LocalError, match="multiple of 8"):
        layout.words(memoryview(bytearray(12)))


def test_memory_that_does_not_start_at_a_multiple_of_eight_is_refused():
    with pytest.raises(RingError, match="start at a multiple of 8"):
        layout.words(memoryview(bytearray(24))[4:20])


def test_a_big_endian_host_is_refused_clearly(monkeypatch):
    monkeypatch.setattr(layout, "_BYTE_ORDER", "big")
    with pytest.raises(RingError, match="big endian") as caught:
        format_ring(memory(4), 4, no_fence)
    assert caught.value.errno == EOPNOTSUPP
