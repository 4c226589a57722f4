"""What an arena's copies have to say to each other, in messages that a transport can carry."""

from __future__ import annotations

import random
import tracemalloc
from collections import deque

import pytest

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.link import MAX_MESSAGE_BYTES
from pvnet.vbus.errors import VbusError
from pvnet.vbus.mirror import Mirror
from pvnet_services.vbus_mirror import MESSAGE_BYTES, MirrorLink

BASE = 0x10000


class Side:
    def __init__(self, size: int = 1 << 20) -> None:
        self.view = memoryview(bytearray(size))
        self.sent: deque[Envelope] = deque()
        self.link = MirrorLink(Mirror(self.view), BASE, self.sent.append)

    def hear(self, other: Side) -> list[bool]:
        heard = []
        while other.sent:
            body = other.sent.popleft().vbus_update
            heard.append(self.link.take(body.writes, more=body.more))
        return heard


def test_small_changes_ride_on_a_message() -> None:
    one, two = Side(), Side()
    one.view[7] = 9
    doorbell = Envelope()
    one.link.fill(doorbell.vbus_doorbell.writes)
    assert not one.sent
    assert doorbell.vbus_doorbell.writes[0].address == BASE + 7
    assert two.link.take(doorbell.vbus_doorbell.writes)
    assert two.view[7] == 9
    one.link.flush()
    assert not one.sent, "it counts as sent"


def test_large_changes_are_stored_together() -> None:
    one, two = Side(), Side()
    data = random.Random(1).randbytes(5 * MESSAGE_BYTES)
    one.view[100 : 100 + len(data)] = data
    one.view[: 64 * 100 : 64] = bytes(range(1, 101))
    one.link.flush()
    assert max(envelope.ByteSize() for envelope in one.sent) < MAX_MESSAGE_BYTES
    stored = two.hear(one)
    assert len(stored) > 5
    assert stored == [False] * (len(stored) - 1) + [True]
    assert two.view == one.view


def test_many_single_bytes_fit_into_frames() -> None:
    one, two = Side(), Side()
    one.view[::2] = b"\x01" * (len(one.view) // 2)
    one.link.flush()
    assert max(envelope.ByteSize() for envelope in one.sent) < MAX_MESSAGE_BYTES
    two.hear(one)
    assert two.view == one.view


def test_what_lies_outside_is_refused() -> None:
    one = Side(4096)
    for address in (BASE - 1, BASE + 4096, 0):
        message = Envelope()
        message.vbus_update.writes.add(address=address, data=b"x")
        with pytest.raises(VbusError, match="EFAULT"):
            one.link.take(message.vbus_update.writes)
    assert not any(one.view)


def test_a_peer_cannot_make_us_keep_without_end() -> None:
    one = Side(4096)
    message = Envelope()
    for at in range(0, 4096, 2):
        message.vbus_update.writes.add(address=BASE + at, data=b"x")
    empty = Envelope()
    for _ in range(2048):
        empty.vbus_update.writes.add(address=BASE)
    one.link.take(message.vbus_update.writes, more=True)
    tracemalloc.start()
    try:
        for _ in range(50):
            one.link.take(message.vbus_update.writes, more=True)
            one.link.take(empty.vbus_update.writes, more=True)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * 4096
    assert not any(one.view)
    assert one.link.take((), more=False), "the end of it"
    assert bytes(one.view) == b"x\0" * 2048


def test_of_changes_that_come_early_the_later_ones_win() -> None:
    one = Side(4096)
    for address, data, more in ((BASE, b"abcd", True), (BASE + 2, b"xy", True), (BASE + 3, b"z", False)):
        message = Envelope()
        message.vbus_update.writes.add(address=address, data=data)
        assert one.link.take(message.vbus_update.writes, more=more) is not more
    assert bytes(one.view[:6]) == b"abxz\0\0"
    one.link.flush()
    assert not one.sent, "what the other side wrote is not sent back"


def test_a_message_with_something_outside_stores_nothing() -> None:
    one = Side(4096)
    message = Envelope()
    message.vbus_update.writes.add(address=BASE, data=b"abc")
    message.vbus_update.writes.add(address=BASE + 4095, data=b"ab")
    for more in (False, True):
        with pytest.raises(VbusError, match="EFAULT"):
            one.link.take(message.vbus_update.writes, more=more)
    assert not one.link.take((), more=False)
    assert not any(one.view)
