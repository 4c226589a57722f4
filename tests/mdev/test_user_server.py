"""A server session that waits: requests that need the client's memory, and its own DMA_READ and DMA_WRITE."""

from __future__ import annotations

from struct import pack

import pytest
from user_rig import Server

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import HEADER, Command, error_parts, reply_parts
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.mdev.vfio_user_version import Capabilities
from pvnet.papr.errno import EAGAIN, EFAULT, EINVAL, EIO, ENODEV, ETIMEDOUT

READ_MEMORY = pack("<QII", 0xF0, 7, 4)
WRITE_MEMORY = READ_MEMORY + b"abcd"
PLAIN = pack("<QII", 0, 7, 4)


def world(**options: object) -> Server:
    """A server whose client has memory at 0, reached by messages."""
    server = Server(**options)  # type: ignore[arg-type]
    assert server.errno(2, pack("<IIQQQ", 32, 3, 0, 0, 0x2000)) == 0
    return server


def ident_of(message: bytes) -> int:
    ident = HEADER.unpack_from(message)[0]
    assert isinstance(ident, int)
    return ident


def reply(server: Server, request: bytes, payload: bytes) -> list[bytes]:
    return server.send(b"".join(reply_parts(ident_of(request), HEADER.unpack_from(request)[1], payload)))


# --- requests that wait -----------------------------------------------------------------------------------------------


def test_reads_are_answered_when_the_memory_has_come() -> None:
    server = world()
    (first,) = server.ask(9, READ_MEMORY, ident=5)
    (second,) = server.ask(9, READ_MEMORY, ident=6)
    assert server.session.waiting == 2
    (plain,) = server.ask(9, PLAIN, ident=7)
    assert ident_of(plain) == 7, "others go on"
    (late,) = reply(server, second, second[16:32] + b"wxyz")
    assert late == b"".join(reply_parts(6, 9, READ_MEMORY, b"wxyz"))
    (late,) = reply(server, first, first[16:32] + b"abcd")
    assert late == b"".join(reply_parts(5, 9, READ_MEMORY, b"abcd"))
    assert server.session.waiting == 0


@pytest.mark.parametrize("answer", ["shape of libvfio-user", "shape of QEMU", "shape of the text"])
def test_writes_are_answered_when_the_memory_has_it(answer: str) -> None:
    server = world()
    (request,) = server.ask(10, WRITE_MEMORY, ident=5)
    assert HEADER.unpack_from(request)[1:3] == (12, 36)
    assert request[16:] == pack("<QQ", 0, 4) + b"abcd"
    payload = {"shape of libvfio-user": request[16:32], "shape of QEMU": b"", "shape of the text": pack("<I", 4)}
    assert reply(server, request, payload[answer]) == [b"".join(reply_parts(5, 10, READ_MEMORY))]


def test_no_reply_to_what_waited() -> None:
    server = world()
    (request,) = server.ask(10, WRITE_MEMORY, flags=0x10)
    assert reply(server, request, b"") == []
    (request,) = server.ask(9, READ_MEMORY, flags=0x10)
    assert server.send(b"".join(error_parts(ident_of(request), 11, EFAULT))) == []


def test_the_client_refuses_its_memory() -> None:
    server = world()
    (request,) = server.ask(9, READ_MEMORY, ident=5)
    assert server.send(b"".join(error_parts(ident_of(request), 11, EFAULT))) == [b"".join(error_parts(5, 9, EFAULT))]


def test_error_without_number_is_eio() -> None:
    server = world()
    for number in (0, 1 << 31):
        (request,) = server.ask(9, READ_MEMORY, ident=5)
        refusal = HEADER.pack(ident_of(request), 11, 16, 0x21, number)
        assert server.send(refusal) == [b"".join(error_parts(5, 9, EIO))]


@pytest.mark.parametrize(
    "payload", [b"", pack("<QQ", 0, 4), pack("<QQ", 0, 4) + b"abc", pack("<QQ", 0, 3) + b"abcd", bytes(15)]
)
def test_reads_answered_with_something_else(payload: bytes) -> None:
    server = world()
    (request,) = server.ask(9, READ_MEMORY, ident=5)
    assert reply(server, request, payload) == [b"".join(error_parts(5, 9, EIO))]


@pytest.mark.parametrize("payload", [pack("<I", 3), pack("<QQ", 0, 3), b"12345678", bytes(17)])
def test_writes_answered_with_something_else(payload: bytes) -> None:
    server = world()
    (request,) = server.ask(10, WRITE_MEMORY, ident=5)
    assert reply(server, request, payload) == [b"".join(error_parts(5, 10, EIO))]


def test_wrong_id_or_command_is_ignored() -> None:
    server = world()
    (request,) = server.ask(9, READ_MEMORY, ident=5)
    ident = ident_of(request)
    good = request[16:32] + b"abcd"
    assert server.send(b"".join(reply_parts(ident + 1, 11, good))) == []
    assert server.send(b"".join(reply_parts(ident, 12, good))) == []
    assert server.send(b"".join(error_parts(ident, 9, EFAULT))) == []
    assert server.session.counters["replies_unexpected"] == 3
    assert len(reply(server, request, good)) == 1
    assert reply(server, request, good) == [], "once"


def test_how_many_may_wait() -> None:
    server = world(limits=ServerLimits(max_pending=2), capabilities=Capabilities(write_multiple=True))
    (first,) = server.ask(9, READ_MEMORY)
    (_second,) = server.ask(10, WRITE_MEMORY)
    assert server.errno(9, READ_MEMORY) == EAGAIN
    assert server.errno(10, WRITE_MEMORY) == EAGAIN
    assert server.errno(15, pack("<QQII8s", 1, 0xF0, 7, 4, b"abcd")) == EAGAIN
    assert server.errno(4, pack("<4I", 16, 0, 0, 0)) == 0
    reply(server, first, first[16:32] + b"abcd")
    assert HEADER.unpack_from(server.ask(9, READ_MEMORY)[0])[1] == Command.DMA_READ


def test_loss_ends_what_waits() -> None:
    server = world()
    server.ask(9, READ_MEMORY)
    heard: list[object] = []
    server.session.dma_read(0, 8, heard.append)
    assert len(server.sent()) == 1
    server.session.lost()
    assert server.sent() == []
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [ENODEV]
    server.session.dma_read(0, 8, heard.append)
    server.session.dma_write(0, b"x", heard.append)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [ENODEV] * 3
    server.session.expire(1e9)
    assert server.session.waiting == 0


def test_the_device_is_taken_away() -> None:
    server = world()
    server.ask(9, READ_MEMORY)
    server.session.ended("mdev removed")
    server.session.ended("mdev removed")
    assert server.carrier.closed == "mdev removed"
    assert (server.vfio.user, server.sent()) == (None, [])


def test_reset_ends_what_waits() -> None:
    server = world()
    server.ask(9, READ_MEMORY, ident=5)
    answers = server.ask(13, ident=6)
    assert [HEADER.unpack_from(answer)[:2] for answer in answers] == [(5, 9), (6, 13)]


def test_unmap_ends_what_waits_there() -> None:
    server = world()
    (request,) = server.ask(9, READ_MEMORY, ident=5)
    answers = server.ask(3, pack("<IIQQ", 24, 0, 0, 0x2000), ident=6)
    assert answers[0] == b"".join(error_parts(5, 9, EFAULT))
    assert HEADER.unpack_from(answers[1])[:4] == (6, 3, 40, 1)
    assert reply(server, request, request[16:32] + b"late") == []


# --- several writes that wait -----------------------------------------------------------------------------------------


def test_multi_that_waits() -> None:
    server = world()
    write = pack("<QII8s", 0xF0, 7, 4, b"abcd")
    (request,) = server.ask(15, pack("<Q", 3) + write + pack("<QII8s", 0x40, 7, 1, b"x") + write, ident=5)
    assert server.device.config[0x40] == 0, "in order"
    (request,) = reply(server, request, b"")
    assert server.device.config[0x40] == ord("x")
    assert reply(server, request, b"") == [b"".join(reply_parts(5, 15, pack("<Q", 3)))]
    (request,) = server.ask(15, pack("<Q", 2) + write + write, ident=5)
    (request,) = reply(server, request, b"")
    answers = server.send(b"".join(error_parts(ident_of(request), 12, EFAULT)))
    assert answers == [b"".join(reply_parts(5, 15, pack("<Q", 1)))]
    (request,) = server.ask(15, pack("<Q", 2) + write + write, ident=5)
    answers = server.send(b"".join(error_parts(ident_of(request), 12, EFAULT)))
    assert answers == [b"".join(error_parts(5, 15, EFAULT))]


def test_multi_that_waits_when_the_client_goes() -> None:
    server = world()
    write = pack("<QII8s", 0xF0, 7, 4, b"abcd")
    server.ask(15, pack("<Q", 2) + write + pack("<QII8s", 0x40, 7, 1, b"x"))
    server.session.lost()
    assert server.sent() == []
    assert server.device.config[0x40] == 0


# --- memory of the client ---------------------------------------------------------------------------------------------


def test_time_runs_from_the_first_look() -> None:
    server = world(limits=ServerLimits(dma_timeout_s=5.0))
    heard: list[object] = []
    server.session.dma_read(0, 8, heard.append)
    server.session.expire(1000.0)
    server.session.dma_write(0, b"x", heard.append)
    server.session.expire(1004.9)
    assert heard == []
    server.session.expire(1005.0)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [ETIMEDOUT]
    assert server.session.waiting == 1
    server.session.expire(1009.9)
    assert len(heard) == 2
    first, second = server.sent()
    assert reply(server, first, first[16:32] + bytes(8)) == []
    assert reply(server, second, b"") == []
    assert len(heard) == 2
    assert server.session.counters["replies_late"] == 2


def test_how_long_and_how_many() -> None:
    server = world(limits=ServerLimits(max_dma_requests=2), capabilities=Capabilities(max_data_xfer_size=64))
    heard: list[MdevError | bytes | None] = []
    session = server.session
    assert session.max_transfer == 64
    session.dma_read(0, 65, heard.append)
    session.dma_read(0, 0, heard.append)
    session.dma_write(0, bytes(65), heard.append)
    session.dma_read(0, 64, heard.append)
    session.dma_write(0, bytes(64), heard.append)
    session.dma_write(0, bytes(64), heard.append)
    assert [error.errno for error in heard if isinstance(error, MdevError)] == [EINVAL, EINVAL, EINVAL, EAGAIN]
    assert len(server.sent()) == 2


def test_ids_go_round_and_are_never_in_use_twice() -> None:
    server = world(limits=ServerLimits(max_dma_requests=4))
    heard: list[object] = []
    server.session.dma_read(0, 8, heard.append)
    (oldest,) = server.sent()
    seen = set()
    for _ in range((1 << 16) + 10):
        server.session.dma_write(0, b"x", lambda _error: None)
        (request,) = server.sent()
        ident = ident_of(request)
        assert ident != ident_of(oldest)
        seen.add(ident)
        reply(server, request, b"")
    assert len(seen) == (1 << 16) - 1
    reply(server, oldest, oldest[16:32] + b"12345678")
    assert heard == [b"12345678"]


def test_transfers_are_as_long_as_the_client_takes() -> None:
    server = world(capabilities=Capabilities(max_data_xfer_size=16))
    payload = pack("<QII", 0xF0, 7, 16) + bytes(range(16))
    (request,) = server.ask(10, payload)
    assert HEADER.unpack_from(request)[2] == 48
    server.session.open()
    assert server.vfio.user is server.session
