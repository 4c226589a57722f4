"""The protocol of device sockets: frames in pieces, what a peer may not do, and that no wake-up is lost."""

from __future__ import annotations

import random
import struct

import pytest
from device_protocol_rig import End
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import WireError
from pvnet.papr.errno import EBADFD, EINVAL, ENOBUFS, EOPNOTSUPP
from pvnet.vmc.device_protocol import (
    FLAG_NONBLOCK,
    HEADER,
    MAX_CALLS,
    OPTION_BIG_ENDIAN,
    OPTION_EVENTS,
    Frame,
    FrameReader,
    Op,
    encode_hello,
)

FRAMES = st.lists(
    st.builds(
        Frame,
        op=st.integers(0, 12),
        tag=st.integers(0, 5) | st.integers(0, 2**32 - 1),
        argument=st.integers(0, 2**32 - 1),
        data=st.binary(max_size=40),
        flags=st.integers(0, 3),
    ),
    max_size=12,
)


@given(FRAMES, st.data())
@settings(deadline=None)
def test_frames_come_back_however_they_are_cut(frames: list[Frame], data: st.DataObject) -> None:
    raw = b"".join(frame.request() for frame in frames)
    reader = FrameReader(replies=False)
    got: list[Frame] = []
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        got += reader.feed(raw[:size])
        raw = raw[size:]
    assert got == frames
    assert reader.held == 0


def test_what_is_too_long_ends_the_stream() -> None:
    with pytest.raises(WireError, match="at most 10"):
        list(FrameReader(replies=True, max_data=10).feed(HEADER.pack(11, 1, 2, 0, 0)))


@given(st.binary(max_size=200) | FRAMES.map(lambda frames: b"".join(f.request() for f in frames)), st.booleans())
@settings(deadline=None, max_examples=300)
def test_no_bytes_raise_and_no_call_is_answered_twice(raw: bytes, greets: bool) -> None:
    end = End()
    if greets:
        end.opened(OPTION_EVENTS)
    end.machine.receive(raw)
    end.device.arrive(b"message")
    end.device.lose()
    assert end.machine.calls <= MAX_CALLS
    assert len(end.closed) <= 1
    answered = [frame.tag for frame in end.take() if frame.op in (Op.READ, Op.IOCTL, Op.WRITE, Op.POLL, Op.CLOSE)]
    asked = [frame.tag for frame in FrameReader(replies=False, max_data=2**32).feed(raw)]
    assert all(answered.count(tag) <= asked.count(tag) for tag in answered)
    if end.closed:
        end.machine.receive(encode_hello("/dev/ibmvmc"))
        assert end.take() == []


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (Frame(Op.READ, 1, 10).request(), None),
        (Frame(Op.HELLO, 1, 0, b"PVDV\0\1").request(), None),
        (Frame(Op.HELLO, 1, 0, b"PVDX\0\1\0\0/dev/x").request(), None),
        (encode_hello("/dev/x", version=0), -EINVAL),
        (encode_hello(""), -EINVAL),
        (encode_hello("/" * 300), -EINVAL),
        (encode_hello("/dev/ä"), -EINVAL),
    ],
)
def test_what_is_no_greeting_ends_the_connection(raw: bytes, answer: int | None) -> None:
    end = End()
    end.machine.receive(raw)
    assert len(end.closed) == 1
    assert [frame.argument for frame in end.take()] == ([] if answer is None else [answer])


def test_a_device_that_is_not_opened_ends_the_connection() -> None:
    end = End()
    end.device.open_result = -12
    end.machine.receive(encode_hello("/dev/ibmvmc"))
    assert end.take() == [Frame(Op.HELLO, 1, -12)]
    assert end.closed


def test_calls_overlap_and_mistakes_are_told() -> None:
    end = End().opened()
    end.send(Op.IOCTL, 2, 0x4008CC00, bytes(32))
    end.send(Op.READ, 3, 100)
    end.send(Op.WRITE, 4, data=b"abc")
    end.send(77, 5)
    end.send(Op.POLL, 6, flags=FLAG_NONBLOCK)
    assert [(f.tag, f.argument) for f in end.take()] == [(2, 0), (4, 3), (5, -EOPNOTSUPP), (6, 0)]
    end.send(Op.INTERRUPT, 0, 3)
    end.send(Op.INTERRUPT, 0, 99)
    assert end.interrupted == [3]
    for tag in range(10, 10 + MAX_CALLS):
        end.send(Op.READ, tag, 5)
    assert end.take() == [Frame(Op.READ, 9 + MAX_CALLS, -ENOBUFS)]
    end.device.arrive(b"message")
    assert end.take() == [Frame(Op.READ, 3, 7, b"message")]
    end.send(Op.CLOSE, 8)
    assert len(end.take()) == MAX_CALLS
    assert end.closed == ["closed by the client"]


@pytest.mark.parametrize("tags", [(0,), (5, 5)])
def test_tags_that_cannot_be_told_apart_end_the_connection(tags: tuple[int, ...]) -> None:
    end = End().opened()
    end.send(Op.IOCTL, 2, 0x4008CC00, bytes(32))
    for tag in tags:
        end.send(Op.READ, tag, 5)
    assert "tag" in end.closed[0]


@pytest.mark.parametrize(("ours", "theirs", "form"), [("little", 0, "<"), ("big", 0, "<"), ("little", 2, ">")])
def test_results_of_ioctls_have_the_byte_order_of_the_client(ours: str, theirs: int, form: str) -> None:
    assert OPTION_BIG_ENDIAN == 2
    end = End(ours).opened(theirs)
    end.send(Op.IOCTL, 2, 0x800CCC01)
    wanted = (1, 2, 3) if ours == "little" else tuple(value << 24 for value in (1, 2, 3))
    assert struct.unpack(form + "3i", end.take()[0].data) == wanted


# --- READABLE ---------------------------------------------------------------------------------------------------------


def readables(end: End) -> list[int]:
    return [frame.argument for frame in end.take() if frame.op == Op.READABLE]


def test_readable_comes_once_until_a_read() -> None:
    end = End().opened(OPTION_EVENTS)
    end.send(Op.READ, 2, 10, flags=FLAG_NONBLOCK)
    assert readables(end) == []
    end.send(Op.IOCTL, 3, 0x4008CC00, bytes(32))
    end.device.arrive(b"one")
    end.device.arrive(b"two")
    assert readables(end) == [1]
    end.send(Op.WRITE, 4, data=b"x")
    assert readables(end) == []
    end.send(Op.READ, 5, 10, flags=FLAG_NONBLOCK)
    assert readables(end) == [1]
    end.send(Op.READ, 6, 10, flags=FLAG_NONBLOCK)
    end.send(Op.READ, 7, 10, flags=FLAG_NONBLOCK)
    assert readables(end) == []
    end.device.arrive(b"three")
    end.send(Op.ARM)
    assert readables(end) == [1, 1]


def test_the_end_of_a_session_wakes_once_and_arm_tells_it_again() -> None:
    end = End().opened(OPTION_EVENTS)
    end.send(Op.ARM)
    assert readables(end) == [0], "there is no session yet"
    end.send(Op.IOCTL, 3, 0x4008CC00, bytes(32))
    end.device.lose()
    assert readables(end) == [0]
    end.send(Op.READ, 4, 10)
    assert [(f.op, f.argument) for f in end.take()] == [(Op.READ, -EBADFD)]
    end.send(Op.ARM)
    assert readables(end) == [0]


def test_events_are_for_those_who_asked() -> None:
    end = End().opened()
    end.send(Op.IOCTL, 3, 0x4008CC00, bytes(32))
    end.device.arrive(b"one")
    end.send(Op.ARM)
    assert readables(end) == []


@given(st.integers(0, 2**32), st.integers(20, 120))
@settings(deadline=None, max_examples=200)
def test_no_wake_up_is_lost(seed: int, steps: int) -> None:
    """A client that keeps the rule has a READABLE before it whenever there is a message."""
    choose = random.Random(seed)
    end = End().opened(OPTION_EVENTS)
    end.send(Op.IOCTL, 3, 0x4008CC00, bytes(32))
    end.take()
    tag, pending = 10, 0
    for _ in range(steps):
        step = choose.choice(["arrive", "arrive", "read", "write", "poll", "arm", "query"])
        if step == "arrive":
            end.device.arrive(b"x")
        elif step == "arm":
            end.send(Op.ARM)
        else:
            tag += 1
            op = {"read": Op.READ, "write": Op.WRITE, "poll": Op.POLL, "query": Op.IOCTL}[step]
            end.send(op, tag, 10, flags=FLAG_NONBLOCK)
            frames = [*([Frame(Op.READABLE)] * pending), *end.take()]
            index = next(i for i, frame in enumerate(frames) if frame.tag == tag)
            took, pending = index > 0, len(frames) - index - 1
            if took and step != "read":
                end.send(Op.ARM)
        pending += len(readables(end))
        if end.device.messages:
            assert pending >= 1, step
