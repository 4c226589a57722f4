"""Reads and writes of a client: replies as they should be, and all others.  Spec: mdev 6.1, 9.2."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_client import Client
from user_fakes import Event, FakeCarrier

from pvnet.core.errors import LocalError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.papr.errno import EAGAIN, EFAULT, EIO, ENODEV, ENOTCONN, ETIMEDOUT

_READ, _WRITE = 9, 10
_OFFSET, _REGION = 0x1122334455667788, 7


def _ask_read(client: Client, count: int = 4) -> int:
    client.machine.region_read(_REGION, _OFFSET, count, client.heard.append)
    return int.from_bytes(client.sent()[:2], "little")


def _ask_write(client: Client, data: bytes = b"abcd") -> int:
    client.machine.region_write(_REGION, _OFFSET, data, client.heard.append)
    return int.from_bytes(client.sent()[:2], "little")


def _reply(ident: int, command: int, count: int, data: bytes = b"", *, flags: int = 1, errno: int = 0) -> bytes:
    return pack("<HHIIIQII", ident, command, 32 + len(data), flags, errno, _OFFSET, _REGION, count) + data


def test_bytes_of_a_read() -> None:
    client = Client()
    client.machine.region_read(_REGION, _OFFSET, 4, client.heard.append)
    assert client.sent() == bytes.fromhex("0100 0900 20000000 00000000 00000000 8877665544332211 07000000 04000000")
    client.machine.message(
        bytes.fromhex("0100 0900 24000000 01000000 00000000 8877665544332211 07000000 04000000 61626364"), []
    )
    assert client.heard == [b"abcd"]
    assert type(client.heard[0]) is bytes, "a copy: the carrier's buffer is used again"
    assert client.machine.waiting == 0


def test_bytes_of_a_write() -> None:
    client = Client()
    client.machine.region_write(_REGION, _OFFSET, b"abcd", client.heard.append)
    assert client.sent() == bytes.fromhex(
        "0100 0a00 24000000 00000000 00000000 8877665544332211 07000000 04000000 61626364"
    )
    client.machine.message(bytes.fromhex("01000a00 20000000 01000000 00000000 8877665544332211 0700000004000000"), [])
    assert client.heard == [None]
    assert client.machine.waiting == 0


def test_bytes_of_a_posted_write() -> None:
    client = Client()
    client.machine.region_write(_REGION, _OFFSET, b"abcd", client.heard.append, posted=True)
    assert client.sent() == bytes.fromhex(
        "0100 0a00 24000000 10000000 00000000 8877665544332211 07000000 04000000 61626364"
    )
    assert client.heard == [None]
    assert client.machine.waiting == 0


_READ_REPLIES: list[tuple[str, Callable[[int], bytes], object]] = [
    ("short", lambda ident: _reply(ident, _READ, 4, b"abc"), EIO),
    ("long", lambda ident: _reply(ident, _READ, 4, b"abcde"), EIO),
    ("another count, as long", lambda ident: _reply(ident, _READ, 5, b"abcd"), EIO),
    ("as long as it says, another count", lambda ident: _reply(ident, _READ, 5, b"abcde"), EIO),
    ("none of the bytes", lambda ident: _reply(ident, _READ, 4), EIO),
    ("header only", lambda ident: pack("<HHIII", ident, _READ, 16, 1, 0), EIO),
    ("refused", lambda ident: pack("<HHIII", ident, _READ, 16, 0x21, EFAULT), EFAULT),
    ("refused with payload", lambda ident: _reply(ident, _READ, 4, b"abcd", flags=0x21, errno=EFAULT), EFAULT),
    ("flags that mean nothing", lambda ident: _reply(ident, _READ, 4, b"abcd", flags=0xC1), b"abcd"),
    ("No_reply in a reply", lambda ident: _reply(ident, _READ, 4, b"abcd", flags=0x11), b"abcd"),
    ("an errno that does not count", lambda ident: _reply(ident, _READ, 4, b"abcd", errno=5), b"abcd"),
]


@pytest.mark.parametrize(("reply", "result"), [row[1:] for row in _READ_REPLIES], ids=[row[0] for row in _READ_REPLIES])
def test_replies_to_a_read(reply: Callable[[int], bytes], result: object) -> None:
    client = Client()
    client.machine.message(reply(_ask_read(client)), [])
    assert client.machine.waiting == 0
    assert not client.machine.closed
    assert client.machine.counters["replies_bad"] == (result == EIO)
    (heard,) = client.heard
    assert (heard.errno if isinstance(heard, MdevError) else heard) == result


_WRITE_REPLIES: list[tuple[str, Callable[[int], bytes], object]] = [
    ("another count", lambda ident: _reply(ident, _WRITE, 3), EIO),
    ("too short for a count", lambda ident: pack("<HHIIIQ", ident, _WRITE, 24, 1, 0, _OFFSET), EIO),
    ("header only", lambda ident: pack("<HHIII", ident, _WRITE, 16, 1, 0), None),
    ("with the data", lambda ident: _reply(ident, _WRITE, 4, b"abcd"), None),
    ("with the data of another count", lambda ident: _reply(ident, _WRITE, 5, b"abcde"), EIO),
    ("refused", lambda ident: pack("<HHIII", ident, _WRITE, 16, 0x21, EFAULT), EFAULT),
    ("refused with payload", lambda ident: _reply(ident, _WRITE, 4, flags=0x21, errno=EFAULT), EFAULT),
]


@pytest.mark.parametrize(
    ("reply", "result"), [row[1:] for row in _WRITE_REPLIES], ids=[row[0] for row in _WRITE_REPLIES]
)
def test_replies_to_a_write(reply: Callable[[int], bytes], result: object) -> None:
    client = Client()
    client.machine.message(reply(_ask_write(client)), [])
    assert client.machine.waiting == 0
    assert client.machine.counters["replies_bad"] == (result == EIO)
    (heard,) = client.heard
    assert (heard.errno if isinstance(heard, MdevError) else heard) == result


def test_a_reply_of_the_other_command_is_of_nothing() -> None:
    client = Client()
    read, write = _ask_read(client), _ask_write(client)
    client.machine.message(_reply(read, _WRITE, 4), [])
    client.machine.message(_reply(write, _READ, 4, b"abcd"), [])
    assert client.heard == []
    assert client.machine.counters["replies_unexpected"] == 2
    client.machine.message(_reply(write, _WRITE, 4), [])
    client.machine.message(_reply(read, _READ, 4, b"abcd"), [])
    assert client.heard == [None, b"abcd"]
    client.machine.message(_reply(read, _READ, 4, b"abcd"), [])
    assert client.heard == [None, b"abcd"], "twice answered, once heard"
    assert client.machine.counters["replies_unexpected"] == 3


def test_a_command_of_the_server_that_looks_like_a_reply() -> None:
    client = Client()
    ident = _ask_read(client)
    client.machine.message(_reply(ident, _READ, 4, b"abcd", flags=0), [])
    assert client.sent()[8:12] == b"\x21\0\0\0"
    assert client.heard == []
    assert client.machine.waiting == 1


def test_descriptors_beside_an_answer_are_closed() -> None:
    client = Client()
    client.machine.region_read(_REGION, _OFFSET, 4, client.heard.append)
    client.reply(pack("<QII", _OFFSET, _REGION, 4) + b"abcd", Event())
    assert client.heard == [b"abcd"]
    assert not client.carrier.descriptors.open


def test_no_bytes() -> None:
    for payload in (b"", pack("<QII", _OFFSET, _REGION, 0), b"odd", pack("<QII", _OFFSET, _REGION, 9)):
        client = Client()
        client.machine.region_read(_REGION, _OFFSET, 0, client.heard.append)
        client.reply(payload)
        assert client.heard == [b""]


def test_too_many_under_way() -> None:
    client = Client(limits=ClientLimits(max_requests=2))
    reads = [_ask_read(client), _ask_read(client)]
    client.machine.region_read(_REGION, _OFFSET, 4, client.heard.append)
    client.machine.region_write(_REGION, _OFFSET, b"abcd", client.heard.append)
    assert [error.errno for error in client.heard if isinstance(error, MdevError)] == [EAGAIN, EAGAIN]
    assert not client.carrier.out
    client.machine.message(_reply(reads[0], _READ, 4, b"abcd"), [])
    _ask_write(client)


def test_before_and_after() -> None:
    carrier, heard = FakeCarrier(), list[object]()
    machine = ClientMachine(carrier, ClientLimits())

    def refused() -> list[int]:
        machine.region_read(0, 0, 4, heard.append)
        machine.region_write(0, 0, b"x", heard.append)
        errors = [error.errno for error in heard if isinstance(error, MdevError)]
        heard.clear()
        return errors

    assert refused() == [ENOTCONN, ENOTCONN]
    machine.lost("gone")
    assert refused() == [ENODEV, ENODEV]
    assert not carrier.out


def test_the_connection_is_lost() -> None:
    client = Client()
    ident = _ask_read(client)
    _ask_write(client)
    client.machine.lost("gone")
    assert [error.errno for error in client.heard if isinstance(error, MdevError)] == [ENODEV, ENODEV]
    client.machine.message(_reply(ident, _READ, 4, b"abcd"), [])
    assert len(client.heard) == 2


def test_not_answered_in_time() -> None:
    client = Client(limits=ClientLimits(timeout_s=10))
    read = _ask_read(client)
    _ask_write(client)
    client.machine.expire(100.0)
    client.machine.expire(109.9)
    assert client.heard == []
    client.machine.expire(110.0)
    assert [error.errno for error in client.heard if isinstance(error, MdevError)] == [ETIMEDOUT, ETIMEDOUT]
    client.machine.message(_reply(read, _READ, 4, b"abcd"), [])
    assert len(client.heard) == 2
    assert client.machine.counters["replies_unexpected"] == 1


def test_numbers_that_fit_nowhere() -> None:
    client = Client()
    for index, offset, count in ((1 << 32, 0, 4), (-1, 0, 4), (0, 1 << 64, 4), (0, -1, 4), (0, 0, -1)):
        with pytest.raises(LocalError, match="region"):
            client.machine.region_read(index, offset, count, client.heard.append)
    for index, offset in ((1 << 32, 0), (0, 1 << 64), (0, -1)):
        for posted in (False, True):
            with pytest.raises(LocalError, match="region"):
                client.machine.region_write(index, offset, b"abcd", client.heard.append, posted=posted)
    assert client.heard == []
    assert client.machine.waiting == 0
    assert not client.carrier.out


def test_ids_of_those_that_wait_are_not_used_again() -> None:
    client = Client()
    first = _ask_read(client)
    seen = set()
    for _ in range(1 << 16):
        ident = _ask_write(client)
        seen.add(ident)
        client.machine.message(_reply(ident, _WRITE, 4), [])
    assert len(seen) == (1 << 16) - 1
    assert first not in seen
    client.machine.message(_reply(first, _READ, 4, b"abcd"), [])
    assert client.heard[-1] == b"abcd"


def test_whoever_is_told_may_ask_again_and_may_end_it() -> None:
    client = Client()

    def again(result: object) -> None:
        client.heard.append(result)
        client.machine.region_read(_REGION, _OFFSET, 2, end)

    def end(result: object) -> None:
        client.heard.append(result)
        client.machine.close("enough")

    client.machine.region_write(_REGION, _OFFSET, b"abcd", again)
    client.reply(pack("<QII", _OFFSET, _REGION, 4))
    client.reply(pack("<QII", _OFFSET, _REGION, 2) + b"xy")
    assert client.heard == [None, b"xy"]
    assert client.machine.closed


@settings(max_examples=150, deadline=None)
@given(
    is_read=st.booleans(),
    at=st.integers(0, 35),
    value=st.integers(0, 255),
    length=st.integers(0, 40),
)
def test_a_reply_with_a_wrong_byte_of_any_length(*, is_read: bool, at: int, value: int, length: int) -> None:
    """What is heard is right, or an error, or nothing; never twice, and nothing raises."""
    client = Client()
    ident = _ask_read(client) if is_read else _ask_write(client)
    message = bytearray(_reply(ident, _READ, 4, b"abcd") if is_read else _reply(ident, _WRITE, 4))
    right = bytes(message)
    if at < len(message):
        message[at] = value
    cut = bytes(message[:length])
    client.machine.message(cut, [])
    client.carrier.out.clear()
    if not client.machine.closed:
        client.machine.message(right, [])
    assert len(client.heard) == 1
    (heard,) = client.heard
    data_was_hit = is_read and at >= 32
    assert isinstance(heard, MdevError) or heard == (b"abcd" if is_read else None) or data_was_hit
    assert client.machine.waiting == 0
