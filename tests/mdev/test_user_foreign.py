"""A client machine with other servers: replies of all shapes, time, accesses to its memory."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest
from user_client import Client
from user_fakes import Event, FakeCarrier
from user_rig import Pair

from pvnet.core.errors import LocalError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, RegionInfo
from pvnet.mdev.vfio_user import HEADER, command_parts, error_parts, reply_parts
from pvnet.mdev.vfio_user_client import ClientMachine, RegionReply
from pvnet.mdev.vfio_user_client_memory import ClientMemory
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.papr.errno import E2BIG, EAGAIN, EEXIST, EFAULT, EINVAL, EIO, ENODEV, ENOTCONN, EPERM, ETIMEDOUT

# --- other servers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "things"),
    [
        (b"\1\0\0\0", ()),
        (b"\0\0\3\0", ()),
        (b"\0\0\2\0{", ()),
        (b"", ()),
        (b"\0\0\2\0{\0", (Event(),)),
    ],
)
def test_version_that_cannot_be(payload: bytes, things: tuple[Event, ...]) -> None:
    carrier = FakeCarrier()
    machine = ClientMachine(carrier)
    heard: list[object] = []
    machine.start(heard.append)
    descriptors = [carrier.descriptors.make(thing) for thing in things]
    ident = HEADER.unpack_from(carrier.out.popleft()[0])[0]
    machine.message(b"".join(reply_parts(ident, 1, payload)), descriptors)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [EIO]
    assert (carrier.closed is not None, machine.closed, carrier.descriptors.open) == (True, True, {})
    machine.device_info(heard.append)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [EIO, ENODEV]


def test_nothing_before_version() -> None:
    carrier = FakeCarrier()
    machine = ClientMachine(carrier)
    heard: list[object] = []
    machine.reset(heard.append)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [ENOTCONN]
    machine.message(b"".join(command_parts(0, 11, pack("<QQ", 0, 4))), [])
    assert carrier.out.pop()[0] == b"".join(error_parts(0, 11, EINVAL))


@pytest.mark.parametrize("payload", [pack("<4I", 16, 3, 9, 5), pack("<5I", 20, 3, 9, 5, 0)])
def test_device_info_of_both_lengths(payload: bytes) -> None:
    client = Client()
    client.machine.device_info(client.heard.append)
    client.reply(payload)
    assert client.heard == [DeviceInfo(3, 9, 5)]


def test_region_info_of_a_kernel_like_server() -> None:
    """CAPS with offset 0 where it does not fit; a descriptor too early is closed."""
    client = Client()
    client.machine.region_info(1, client.heard.append)
    client.reply(pack("<4I2Q", 48, 0xF, 1, 0, 0x1000, 0), Event())
    assert client.carrier.descriptors.open == {}
    capability = pack("<HHIII", 2, 1, 0, 0x80001234, 5)
    request = client.reply(pack("<4I2Q", 48, 0xF, 1, 32, 0x1000, 0) + capability, Event(), Event())
    assert request[16:20] == pack("<I", 48)
    (result,) = client.heard
    assert isinstance(result, RegionReply)
    assert result.info == RegionInfo(0x1000, 7, 0, (), (0x80001234, 5))
    assert list(client.carrier.descriptors.open) == [result.descriptor]


def test_region_info_that_wants_ever_more() -> None:
    client = Client()
    client.machine.region_info(1, client.heard.append)
    client.reply(pack("<4I2Q", 64, 3, 1, 0, 0x1000, 0))
    client.reply(pack("<4I2Q", 128, 3, 1, 0, 0x1000, 0))
    client.machine.region_info(1, client.heard.append)
    client.reply(pack("<4I2Q", 0xFFFFFFFF, 3, 1, 0, 0x1000, 0))
    assert client.heard == [RegionReply(RegionInfo(0x1000, 3))] * 2
    client.heard.clear()
    client.machine.region_info(1, client.heard.append)
    client.reply(pack("<4I2Q", 64, 3, 1, 0, 0x1000, 0))
    client.refuse(EINVAL)
    assert client.errno == EINVAL


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (lambda c, d: c.device_info(d), bytes(15)),
        (lambda c, d: c.region_info(1, d), pack("<4I2Q", 32, 3, 2, 0, 0x1000, 0)),
        (lambda c, d: c.region_info(1, d), bytes(31)),
        (lambda c, d: c.irq_info(1, d), bytes(15)),
        (lambda c, d: c.region_read(7, 0, 4, d), b""),
        (lambda c, d: c.region_read(7, 0, 4, d), pack("<QII", 0, 7, 4) + b"abc"),
        (lambda c, d: c.region_read(7, 0, 4, d), pack("<QII", 0, 7, 3) + b"abcd"),
        (lambda c, d: c.region_write(7, 0, b"abcd", d), pack("<QII", 0, 7, 3)),
        (lambda c, d: c.region_write(7, 0, b"abcd", d), bytes(8)),
        (lambda c, d: c.feature(0x10001, b"", 8, d), bytes(7)),
        (lambda c, d: c.feature(0x10001, b"", 8, d), bytes(17)),
        (lambda c, d: c.migration_read(8, d), bytes(7)),
        (lambda c, d: c.migration_read(8, d), pack("<II", 17, 9) + bytes(9)),
        (lambda c, d: c.migration_read(8, d), pack("<II", 16, 8) + bytes(7)),
    ],
)
def test_replies_that_do_not_decode(
    request_: Callable[[ClientMachine, Callable[[object], None]], None], payload: bytes
) -> None:
    client = Client()
    request_(client.machine, client.heard.append)
    client.reply(payload, Event())
    assert client.errno == EIO
    assert client.machine.counters["replies_bad"] == 1
    assert client.carrier.descriptors.open == {}


def test_header_only_replies() -> None:
    client = Client()
    client.machine.region_write(7, 0, b"abcd", client.heard.append)
    client.reply()
    client.machine.region_read(7, 0, 0, client.heard.append)
    client.reply()
    client.machine.dma_unmap(0, 0x1000, client.heard.append)
    client.reply()
    assert client.heard == [None, b"", None]


def test_error_replies_with_payload() -> None:
    client = Client()
    client.machine.feature(0x20002, pack("<Ii", 5, -1), 0, client.heard.append)
    client.refuse(EINVAL, pack("<IIIi", 16, 0x20002, 5, -1))
    assert client.errno == EINVAL


def test_replies_to_nothing() -> None:
    client = Client()
    client.machine.reset(client.heard.append)
    ident = HEADER.unpack_from(client.carrier.out[0][0])[0]
    for other in (b"".join(reply_parts(ident + 1, 13)), b"".join(reply_parts(ident, 4, bytes(16)))):
        client.machine.message(other, [client.carrier.descriptors.make(Event())])
    assert (client.heard, client.machine.counters["replies_unexpected"]) == ([], 2)
    assert client.carrier.descriptors.open == {}
    client.reply()
    assert client.heard == [None]


def test_time() -> None:
    client = Client(limits=ClientLimits(timeout_s=10))
    client.machine.reset(client.heard.append)
    client.machine.expire(0.0)
    client.machine.expire(9.9)
    assert (client.heard, client.machine.waiting) == ([], 1)
    client.machine.expire(10.0)
    assert (client.errno, client.machine.waiting) == (ETIMEDOUT, 0)
    client.reply()
    assert client.heard == []


def test_giving_one_up_may_end_all() -> None:
    client = Client()
    client.machine.reset(lambda _result: client.machine.lost("enough"))
    client.machine.reset(client.heard.append)
    client.machine.expire(0.0)
    client.machine.expire(100.0)
    assert client.errno == ENODEV


def test_too_many_requests() -> None:
    client = Client(limits=ClientLimits(max_requests=2))
    for _ in range(3):
        client.machine.reset(client.heard.append)
    assert client.errno == EAGAIN
    client.machine.lost("gone")
    client.machine.lost("gone")
    assert [error.errno for error in client.heard if isinstance(error, MdevError)] == [ENODEV] * 2


@pytest.mark.parametrize("message", [b"\0" * 15, HEADER.pack(0, 1, 17, 1, 0), HEADER.pack(0, 1, 0, 1, 0)])
def test_framing_is_lost(message: bytes) -> None:
    client = Client()
    client.machine.reset(client.heard.append)
    client.carrier.out.clear()
    client.machine.message(message, [client.carrier.descriptors.make(Event())])
    assert client.errno == ENODEV
    assert client.carrier.closed
    client.machine.message(b"".join(reply_parts(1, 13)), [client.carrier.descriptors.make(Event())])
    assert client.carrier.descriptors.open == {}


def test_numbers_that_fit_nowhere_are_our_fault() -> None:
    client = Client()
    for request in (
        lambda: client.machine.region_read(1 << 32, 0, 4, client.heard.append),
        lambda: client.machine.region_read(7, -1, 4, client.heard.append),
        lambda: client.machine.irq_info(-1, client.heard.append),
        lambda: client.machine.dma_map(1 << 64, 4096, 3, 0, None, None, client.heard.append),
    ):
        with pytest.raises(LocalError):
            request()
    assert (client.heard, client.machine.waiting, len(client.machine.memory)) == ([], 0, 0)


# --- what a server may do to our memory -------------------------------------------------------------------------------


def memory_world() -> tuple[Client, bytearray, bytearray]:
    """Pages at 0x1000 (read and write) and, behind it, 0x2000 (read only); 0x3000 without bytes, 0x5000 write only."""
    client = Client(limits=ClientLimits(max_transfer=0x1800))
    first, second = bytearray(0x1000), bytearray(b"\2" * 0x1000)
    for address, flags, view in (
        (0x1000, 3, memoryview(first)),
        (0x2000, 1, memoryview(second)),
        (0x3000, 3, None),
        (0x5000, 2, memoryview(bytearray(0x1000))),
        (0x6000, 3, memoryview(bytes(0x1000))),
    ):
        client.machine.dma_map(address, 0x1000, flags, 0, None, view, lambda _result: None)
        client.reply()
    return client, first, second


def test_access_over_two_maps() -> None:
    client, first, _second = memory_world()
    first[-2:] = b"ab"
    reply = client.ask(11, pack("<QQ", 0x1FFE, 4))
    assert reply == b"".join(reply_parts(9, 11, pack("<QQ", 0x1FFE, 4), b"ab\2\2"))
    client.ask(12, pack("<QQ", 0x1000, 4) + b"wxyz")
    assert first[:4] == b"wxyz"
    assert HEADER.unpack(client.ask(12, pack("<QQ", 0x1FFE, 4) + b"wxyz"))[3:] == (0x21, EPERM)
    assert first[-2:] == b"ab", "all or nothing"


@pytest.mark.parametrize(
    ("command", "payload", "errno"),
    [
        (11, pack("<QQ", 0, 4), EFAULT),
        (11, pack("<QQ", 0xFFF, 4), EFAULT),
        (11, pack("<QQ", 0x2FFE, 4), EFAULT),
        (11, pack("<QQ", 0x3000, 4), EFAULT),
        (11, pack("<QQ", 0x4000, 4), EFAULT),
        (11, pack("<QQ", 0x7000, 4), EFAULT),
        (11, pack("<QQ", (1 << 64) - 2, 4), EFAULT),
        (11, pack("<QQ", 0x5000, 4), EPERM),
        (12, pack("<QQ", 0x2000, 4) + b"abcd", EPERM),
        (12, pack("<QQ", 0x6000, 4) + b"abcd", EPERM),
        (12, pack("<QQ", 0x1000, 4) + b"abc", EINVAL),
        (12, pack("<QQ", 0x1000, 4) + b"abcde", EINVAL),
        (11, pack("<QQ", 0x1000, 4) + b"x", EINVAL),
        (11, pack("<QQ", 0x1000, 0x1801), E2BIG),
        (11, pack("<QQ", 0x1000, (1 << 64) - 1), E2BIG),
        (12, bytes(15), EINVAL),
        (1, b"\0\0\2\0", EINVAL),
        (9, pack("<QII", 0, 7, 4), EINVAL),
        (99, b"", EINVAL),
    ],
)
def test_accesses_that_are_refused(command: int, payload: bytes, errno: int) -> None:
    client, first, second = memory_world()
    assert client.ask(command, payload) == b"".join(error_parts(9, command, errno))
    assert (first, second) == (bytearray(0x1000), bytearray(b"\2" * 0x1000))


def test_access_without_reply_and_of_no_bytes_and_of_no_type() -> None:
    client, first, _second = memory_world()
    client.machine.message(b"".join(command_parts(9, 12, pack("<QQ", 0x1000, 1) + b"x", flags=0x10)), [])
    client.machine.message(b"".join(command_parts(9, 12, pack("<QQ", 0, 1) + b"x", flags=0x10)), [])
    assert (first[:1], len(client.carrier.out)) == (b"x", 0)
    assert client.ask(11, pack("<QQ", 0, 0))[16:] == pack("<QQ", 0, 0)
    assert client.ask(11, pack("<QQ", 0x1000, 1), flags=3) == b"".join(error_parts(9, 11, EINVAL))


def test_maps_do_not_overlap() -> None:
    memory = ClientMemory()
    assert memory.add(0x1000, 0x1000, 3, None)
    for address, size in ((0x1000, 0x1000), (0, 0x1001), (0x1FFF, 1), (0, 0x4000)):
        assert not memory.add(address, size, 3, None)
    assert memory.add(0x2000, 0x1000, 3, None)
    assert memory.add(0, 0x1000, 3, None)
    memory.remove(0x1000, 0x800)
    assert len(memory) == 3
    memory.remove(0x1000, 0x1000)
    assert len(memory) == 2


def test_same_map_again_keeps_serving() -> None:
    pair = Pair()
    view = memoryview(bytearray(b"abcd" + bytes(0xFFC)))
    assert pair.errno(pair.client.dma_map, 0, 0x1000, 3, 0, None, view) == 0
    assert pair.errno(pair.client.dma_map, 0, 0x1000, 3, 0, None, view) == 0
    assert pair.errno(pair.client.dma_map, 0, 0x1000, 1, 0, None, view) == EEXIST
    assert pair.do(pair.client.region_read, 7, 0xF0, 4) == b"abcd"


def test_the_server_ends() -> None:
    pair = Pair()
    pair.client.dma_map(0, 0x1000, 3, 0, None, None, lambda _result: None)
    pair.pump()
    heard: list[object] = []
    pair.client.region_read(7, 0, 4, heard.append)
    pair.server.ended("removed")
    pair.pump()
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [ENODEV]
    assert (pair.client.closed, len(pair.client.memory)) == (True, 0)
    other = Pair()
    other.client.close("enough")
    other.client.close("again")
    other.pump()
    assert other.client_carrier.closed == "enough"
    assert other.vfio.user is None
