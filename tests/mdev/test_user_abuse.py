"""Misuse of a server, row by row: VERSION, framing, infos, regions.  Spec: mdev 9.2 (B1 to B17)."""

from __future__ import annotations

from struct import pack

import pytest
from user_fakes import Event
from user_payloads import INFO, access, head_only
from user_rig import Server

from pvnet.core.errors import WireError
from pvnet.mdev.vfio_user import HEADER, MAX_MESSAGE, frame_size
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.mdev.vfio_user_version import Capabilities, decode_version
from pvnet.papr.errno import EINVAL

# --- VERSION and framing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"\1\0\0\0",
        b"\0\0\2\0{}",
        b"\0\0\2\0{\0",
        b'\0\0\2\0{"capabilities":3}\0',
        b'\0\0\2\0{"capabilities":{"max_msg_fds":-1}}\0',
        b'\0\0\2\0{"capabilities":{"max_data_xfer_size":0}}\0',
        b"\0\0",
    ],
)
def test_b1_bad_version(payload: bytes) -> None:
    server = Server(negotiate=False)
    (reply,) = server.ask(1, payload)
    assert head_only(reply, 1, EINVAL)
    assert server.carrier.closed
    assert server.ask(4, INFO) == [], "nobody listens any more"
    assert server.vfio.user is None


@pytest.mark.parametrize(("asked", "given"), [(9, 2), (2, 2), (1, 1), (0, 0)])
def test_b2_minor_versions(asked: int, given: int) -> None:
    server = Server(negotiate=False)
    (reply,) = server.ask(1, pack("<HH", 0, asked))
    assert decode_version(reply[16:]).minor == given
    assert server.errno(4, INFO) == 0


def test_b3_version_with_descriptor() -> None:
    server = Server(negotiate=False)
    (reply,) = server.ask(1, b"\0\0\2\0", Event())
    assert head_only(reply, 1, EINVAL)
    assert server.carrier.closed
    assert server.open_descriptors == 0


@pytest.mark.parametrize("flags", [0, 2])
def test_b4_something_else_first(flags: int) -> None:
    server = Server(negotiate=False)
    (reply,) = server.ask(4 if not flags else 1, INFO if not flags else b"\0\0\2\0", flags=flags)
    assert head_only(reply, 4 if not flags else 1, EINVAL)
    assert server.carrier.closed


def test_b5_second_version() -> None:
    server = Server()
    assert server.errno(1, b"\0\0\2\0") == EINVAL
    assert server.errno(4, INFO) == 0


@pytest.mark.parametrize("size", [0, 15, 17, 0xFFFFFFFF])
def test_b6_size_of_the_header(size: int) -> None:
    server = Server()
    (reply,) = server.send(HEADER.pack(5, 4, size, 0, 0), Event())
    assert HEADER.unpack(reply) == (5, 4, 16, 0x21, EINVAL)
    assert server.carrier.closed
    assert (server.open_descriptors, server.vfio.user) == (0, None)


def test_b6_frame_size() -> None:
    assert frame_size(HEADER.pack(0, 0, 16, 0, 0)) == 16
    assert frame_size(memoryview(HEADER.pack(0, 0, MAX_MESSAGE, 0, 0))) == MAX_MESSAGE
    for size in (0, 15, MAX_MESSAGE + 1, 0xFFFFFFFF):
        with pytest.raises(WireError):
            frame_size(HEADER.pack(0, 0, size, 0, 0))


def test_message_shorter_than_a_header_or_longer_than_allowed() -> None:
    server = Server()
    assert server.send(b"\0" * 15, Event()) == []
    assert server.carrier.closed
    server = Server(limits=ServerLimits(max_message=4096))
    (reply,) = server.ask(10, access(0, 1, 8192, bytes(8192)), Event())
    assert head_only(reply, 10, EINVAL)
    assert server.carrier.closed
    assert server.open_descriptors == 0


def test_b7_replies_to_nothing_and_other_types() -> None:
    server = Server()
    for command in (11, 12, 4, 99):
        assert server.ask(command, bytes(40), Event(), flags=1) == []
    assert server.session.counters["replies_unexpected"] == 4
    for kind in (2, 15):
        (reply,) = server.ask(4, INFO, flags=kind)
        assert head_only(reply, 4, EINVAL)
        assert server.ask(4, INFO, flags=kind | 0x10) == []
    assert server.errno(4, INFO) == 0
    early = Server(negotiate=False)
    assert early.ask(11, bytes(40), flags=1) == []
    assert early.carrier.closed is None


def test_b8_unknown_flags() -> None:
    (reply,) = Server().ask(4, INFO, flags=0xFFFFFFC0)
    assert HEADER.unpack_from(reply)[2:] == (32, 1, 0)
    (reply,) = Server().ask(9, access(0, 7, 4), flags=0xFFFFFFE0)
    assert HEADER.unpack_from(reply)[2:] == (36, 1, 0)


@pytest.mark.parametrize("command", [0, 11, 12, 14, 15, 19, 0xFFFF])
def test_b9_commands_of_nobody(command: int) -> None:
    server = Server(capabilities=Capabilities(max_msg_fds=8))
    assert server.errno(command, bytes(40), Event()) == EINVAL
    assert server.errno(command, bytes(40)) == EINVAL
    assert server.errno(4, INFO) == 0
    assert server.open_descriptors == 0


# --- what the device is -----------------------------------------------------------------------------------------------


def test_b10_and_b11_device_info() -> None:
    server = Server()
    assert server.errno(4) == EINVAL
    assert server.errno(4, INFO[:15]) == EINVAL
    assert server.errno(4, pack("<4I", 15, 0, 0, 0)) == EINVAL
    (reply,) = server.ask(4, pack("<4I", 16, 7, 7, 7))
    assert reply[16:] == pack("<4I", 16, 3, 9, 5)
    (reply,) = server.ask(4, pack("<4I", 19, 7, 7, 7))
    assert reply[16:] == pack("<4I", 16, 3, 9, 5)
    for payload in (pack("<5I", 20, 0, 0, 0, 0), pack("<4I", 0xFFFFFFFF, 1, 2, 3)):
        (reply,) = server.ask(4, payload)
        assert (len(reply), reply[16:]) == (36, pack("<5I", 20, 3, 9, 5, 0)), "as the crate vfio_user wants it"


def test_b12_unknown_region_and_irq() -> None:
    server = Server()
    assert server.errno(5, pack("<4I2Q", 32, 0, 9, 0, 0, 0)) == EINVAL
    assert server.errno(5, pack("<4I2Q", 31, 0, 0, 0, 0, 0)) == EINVAL
    assert server.errno(5, bytes(31)) == EINVAL
    assert server.errno(7, pack("<4I", 16, 0, 5, 0)) == EINVAL
    assert server.errno(7, pack("<4I", 15, 0, 0, 0)) == EINVAL
    assert server.errno(7, bytes(15)) == EINVAL


def test_region_io_fds() -> None:
    server = Server()
    (reply,) = server.ask(6, pack("<4I", 16, 0, 1, 0))
    assert reply[16:] == pack("<4I", 16, 0, 1, 0)
    for payload in (pack("<4I", 15, 0, 1, 0), pack("<4I", 16, 1, 1, 0), pack("<4I", 16, 0, 9, 0), bytes(15)):
        assert server.errno(6, payload) == EINVAL


def test_region_that_cannot_be_passed() -> None:
    plain = pack("<4I2Q", 32, 3, 1, 0, 0x3000, 0)
    for server in (Server(max_fds=0), Server(capabilities=Capabilities(max_msg_fds=0))):
        (reply,) = server.ask(5, pack("<4I2Q", 80, 0, 1, 0, 0, 0))
        assert reply[16:] == plain
    server = Server()
    server.carrier.region_descriptor = lambda memory: None  # type: ignore[method-assign]
    (reply,) = server.ask(5, pack("<4I2Q", 80, 0, 1, 0, 0, 0))
    assert reply[16:] == plain


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        access(0, 7, 257),
        access(255, 7, 2),
        access((1 << 64) - 1, 7, 2),
        access(0, 1, (1 << 20) + 1),
        access(0, 9, 4),
        access(0, 2, 4),
        access(0, 0xDEADBEEF, 4),
        access(0, 7, 4, b"\0"),
        access(0, 7, 4)[:15],
        b"",
    ],
)
def test_b13_reads(payload: bytes) -> None:
    server = Server()
    assert server.errno(9, payload) == EINVAL
    assert server.errno(9, access(0, 7, 4)) == 0


def test_b13_reads_are_as_long_as_the_client_takes() -> None:
    server = Server(capabilities=Capabilities(max_data_xfer_size=64))
    assert server.errno(9, access(0, 7, 64)) == 0
    assert server.errno(9, access(0, 7, 65)) == EINVAL
    assert server.errno(10, access(0, 1, 12288, bytes(12288))) == 0, "that is what it may send"


@pytest.mark.parametrize("command", [9, 10])
def test_b14_no_bytes(command: int) -> None:
    server = Server()
    (reply,) = server.ask(command, access(8, 7, 0))
    assert (HEADER.unpack_from(reply)[2:], reply[16:]) == ((32, 1, 0), access(8, 7, 0))
    assert server.errno(command, access(257, 7, 0)) == EINVAL
    assert server.errno(command, access(0, 9, 0)) == EINVAL


def test_b15_writes_of_other_lengths() -> None:
    server = Server(limits=ServerLimits(max_transfer=4096))
    for payload in (access(0x40, 7, 4, b"abc"), access(0x40, 7, 4, b"abcde"), access(0x40, 7, 0, b"a")):
        assert server.errno(10, payload) == EINVAL
    assert server.errno(10, access(0, 1, 4097, bytes(4097))) == EINVAL
    assert server.device.config[0x40:0x48] == bytes(8)


def test_b16_write_to_what_is_read_only() -> None:
    server = Server()
    assert server.errno(10, access(0, 7, 4, b"abcd")) == 0
    (reply,) = server.ask(9, access(0, 7, 4))
    assert reply[32:].hex() == "4f49c80d"


def test_b17_no_reply() -> None:
    server = Server()
    for command, payload in (
        (9, access(0, 7, 4)),
        (9, access(0, 9, 4)),
        (9, access(0, 7, 0)),
        (10, access(0x40, 7, 4, b"abcd")),
        (10, access(0x40, 9, 4, b"abcd")),
        (4, INFO),
        (99, b""),
        (3, b""),
    ):
        for _ in range(50):
            assert server.ask(command, payload, flags=0x10) == []
    assert server.device.config[0x40:0x44] == b"abcd"
    assert server.session.counters["refused"] == 200
