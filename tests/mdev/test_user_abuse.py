"""Misuse of a server, row by row.  Spec: mdev 9.2 (B1 to B37), 9.3."""

from __future__ import annotations

from struct import pack

import pytest
from user_rig import Event, SampleDevice, Server

from pvnet.core.errors import WireError
from pvnet.mdev.dma import DmaLimits
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import DmaFlag, IrqFlag
from pvnet.mdev.vfio_user import HEADER, MAX_MESSAGE, Command, command_parts, frame_size
from pvnet.mdev.vfio_user_server import MAX_MULTI, ServerLimits
from pvnet.mdev.vfio_user_version import Capabilities, decode_version
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, ENOTTY

INFO = pack("<4I", 16, 0, 0, 0)


def access(offset: int, region: int, count: int, data: bytes = b"") -> bytes:
    return pack("<QII", offset, region, count) + data


def dma(address: int, size: int, flags: int = 3, offset: int = 0, argsz: int = 32) -> bytes:
    return pack("<IIQQQ", argsz, flags, offset, address, size)


def irqs(flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int | None = None) -> bytes:
    return pack("<5I", 20 + len(data) if argsz is None else argsz, flags, index, start, count) + data


def head_only(message: bytes, command: int, errno: int) -> bool:
    return HEADER.unpack(message)[1:] == (command, 16, 0x21, errno)


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


# --- memory -----------------------------------------------------------------------------------------------------------


def test_b18_and_b19_maps_that_overlap() -> None:
    server = Server()
    memory = bytearray(0x4000)
    assert server.errno(2, dma(0x1000, 0x2000), memory) == 0
    assert server.errno(2, dma(0x1000, 0x2000), memory) == 0, "the same again"
    assert server.open_descriptors == 1
    for payload in (
        dma(0x1000, 0x2000, flags=1),
        dma(0x1000, 0x2000, offset=0x1000),
        dma(0x2000, 0x2000),
        dma(0, 0x2000),
        dma(0, 0x4000),
    ):
        assert server.errno(2, payload, memory) == EEXIST
    assert server.errno(2, dma(0x1000, 0x2000)) == EEXIST
    assert server.open_descriptors == 1


def test_b20_and_b21_ranges() -> None:
    server = Server()
    top = 1 << 64
    for payload in (dma(0, 0), dma(top - 0x1000, 0x2000), dma(0x1000, top - 0x1000 + 1)):
        assert server.errno(2, payload) == EINVAL
        assert server.errno(2, payload, bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000, offset=(1 << 63) - 1), bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000, offset=1), bytearray(4096)) == EINVAL, "the file is too short"
    assert server.errno(2, dma(0, 0x1000), Event()) == EINVAL, "no memory at all"
    assert server.errno(2, dma(0, 1 << 60)) == ENOSPC
    assert server.open_descriptors == 0


def test_b22_and_b23_flags_and_descriptors() -> None:
    server = Server()
    assert server.errno(2, dma(0, 0x1000, flags=0x13), bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000, flags=3 | DmaFlag.MMAP)) == EINVAL
    assert server.errno(2, dma(0, 0x1000, argsz=31), bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000)[:31], bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000), bytearray(4096), bytearray(4096)) == EINVAL
    assert server.open_descriptors == 0
    assert server.errno(2, dma(0, 0x1000, flags=3 | DmaFlag.MMAP), bytearray(4096)) == 0


def test_b24_and_b25_unmap() -> None:
    server = Server()
    assert server.errno(2, dma(0x1000, 0x2000), bytearray(0x2000)) == 0
    for address, size in ((0, 0x1000), (0x1000, 0x1000), (0x2000, 0x1000), (0x1000, 0x3000)):
        assert server.errno(3, pack("<IIQQ", 24, 0, address, size)) == ENOENT
    for payload in (
        pack("<IIQQ", 24, 2, 0x1000, 0),
        pack("<IIQQ", 24, 2, 0, 0x2000),
        pack("<IIQQ", 24, 3, 0, 0),
        pack("<IIQQ", 24, 1, 0x1000, 0x2000),
        pack("<IIQQ", 0, 0, 0x1000, 0x2000),
        pack("<IIQQ", 24, 0, 0x1000, 0x2000)[:23],
    ):
        assert server.errno(3, payload) == EINVAL
    assert server.open_descriptors == 1
    (reply,) = server.ask(3, pack("<IIQQ", 24, 2, 0, 0))
    assert reply[16:] == pack("<IIQQ", 24, 2, 0, 0)
    assert server.open_descriptors == 0


# --- irqs, reset, features --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "events"),
    [
        pytest.param(irqs(0x24, 0, 0, 2), 1, id="two vectors, one descriptor"),
        pytest.param(irqs(0x24, 0, 0, 1), 2, id="one vector, two descriptors"),
        pytest.param(irqs(0x25, 0, 0, 1), 1, id="two data types"),
        pytest.param(irqs(0x23, 0, 0, 1, b"\1"), 0, id="two data types with a byte"),
        pytest.param(irqs(0x20, 0, 0, 1), 0, id="no data type"),
        pytest.param(irqs(0x29, 0, 0, 1), 0, id="two actions"),
        pytest.param(irqs(0x01, 0, 0, 1), 0, id="no action"),
        pytest.param(irqs(0x61, 0, 0, 1), 0, id="unknown flag"),
        pytest.param(irqs(0x21, 0, 1, 1), 0, id="start out of range"),
        pytest.param(irqs(0x21, 0, 0xFFFFFFFF, 2), 0, id="wrap"),
        pytest.param(irqs(0x21, 5, 0, 1), 0, id="no such index"),
        pytest.param(irqs(0x22, 0, 0, 1), 0, id="no BOOL data"),
        pytest.param(irqs(0x22, 0, 0, 1, b"\1", argsz=20), 0, id="argsz without BOOL data"),
        pytest.param(irqs(0x22, 0, 0, 0xFFFFFFFF, b"\1"), 0, id="very many"),
        pytest.param(irqs(0x21, 0, 0, 1, argsz=19), 0, id="argsz"),
        pytest.param(irqs(0x21, 0, 0, 1)[:19], 0, id="short"),
        pytest.param(irqs(0x21, 0, 0, 1), 1, id="descriptor without EVENTFD"),
        pytest.param(irqs(0x24, 0, 0, 9), 9, id="more descriptors than were agreed on"),
    ],
)
def test_b26_irqs(payload: bytes, events: int) -> None:
    server = Server()
    assert server.errno(8, payload, *[Event() for _ in range(events)]) == EINVAL
    assert server.open_descriptors == 0
    assert server.errno(8, irqs(0x24, 0, 0, 1), Event()) == 0


def test_b26_mask_of_what_has_none() -> None:
    assert Server().errno(8, irqs(0x09, 3, 0, 1)) in (EINVAL, ENOTTY)


def test_b26_descriptor_that_is_no_eventfd() -> None:
    server = Server()
    assert server.errno(8, irqs(0x24, 0, 0, 1), "file") != 0
    assert server.errno(8, irqs(0x24, 0, 0, 3), Event(), "file", Event()) != 0
    assert server.open_descriptors == 0


def test_b27_disable_what_has_no_vectors() -> None:
    assert Server().errno(8, irqs(0x21, 1, 0, 0)) == 0


def test_b28_unmask_by_eventfd() -> None:
    server = Server()
    assert server.errno(8, irqs(0x14, 0, 0, 1), Event()) in (ENOTTY, EINVAL)
    assert server.open_descriptors == 0


def test_b29_no_descriptor_removes() -> None:
    server = Server()
    event = Event()
    assert server.errno(8, irqs(0x24, 0, 0, 1), event) == 0
    assert server.open_descriptors == 1
    assert server.errno(8, irqs(0x24, 0, 0, 1)) == 0
    assert server.open_descriptors == 0
    assert server.device.host is not None
    server.device.host.signal(0)
    assert event.count == 0


def test_argsz_of_irqs_may_count_the_descriptors() -> None:
    assert Server().errno(8, irqs(0x24, 0, 0, 1, argsz=24), Event()) == 0


def test_irq_by_bool_data() -> None:
    server = Server()
    event = Event()
    assert server.errno(8, irqs(0x24, 0, 0, 1), event) == 0
    assert server.errno(8, irqs(0x22, 0, 0, 1, b"\0")) == 0
    assert server.errno(8, irqs(0x22, 0, 0, 1, b"\1")) == 0
    assert event.count == 1


def test_b30_reset_with_payload() -> None:
    server = Server()
    assert server.errno(13, b"whatever") == 0
    assert server.device.resets == 1


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(pack("<II", 8, 99 | 0x10000), id="unknown"),
        pytest.param(pack("<IIQ", 16, 1, 0), id="no GET, SET, PROBE"),
        pytest.param(pack("<II", 7, 0x10001), id="argsz"),
        pytest.param(pack("<II", 8, 0x10001), id="no room"),
        pytest.param(pack("<I", 8), id="short"),
        *(pytest.param(pack("<IIIi", 16, 0x20002, state, -1), id=f"state {state}") for state in (0, 5, 7, 8, 99)),
        pytest.param(pack("<IIQQQ", 40, 0x10008, 0, 4096, 4096), id="report before start"),
    ],
)
def test_b31_features(payload: bytes) -> None:
    server = Server()
    assert server.errno(16, payload) in (EINVAL, ENOTTY)
    assert server.errno(4, INFO) == 0


def test_probe_of_a_feature() -> None:
    (reply,) = Server().ask(16, pack("<II", 8, 0x50001))
    assert reply[16:] == pack("<II", 8, 0x50001)


def test_b32_stream_while_running() -> None:
    server = Server(capabilities=Capabilities(max_data_xfer_size=1024))
    assert server.errno(17, pack("<II", 1032, 1024)) == EINVAL
    assert server.errno(18, pack("<II", 12, 4) + b"abcd") == EINVAL
    assert server.errno(16, pack("<IIIi", 16, 0x20002, 6, -1)) == 0
    for payload in (
        pack("<II", 2048, 1025),
        pack("<II", 8, 4),
        pack("<II", 0, 4),
        pack("<II", 100, 0),
        pack("<I", 16),
    ):
        assert server.errno(17, payload) == EINVAL
    (reply,) = server.ask(17, pack("<II", 16, 1024))
    assert reply[16:24] == pack("<II", 16, 8), "no more than argsz has room for"


def test_incoming_stream() -> None:
    server = Server(limits=ServerLimits(max_transfer=16384))
    assert server.errno(16, pack("<IIIi", 16, 0x20002, 4, -1)) == 0
    for payload in (
        pack("<II", 12, 5) + b"abcd",
        pack("<II", 7, 4) + b"abcd",
        pack("<II", 16393, 16385) + bytes(16385),
        b"1234567",
    ):
        assert server.errno(18, payload) == EINVAL
    data = bytes(0x3000)
    assert server.errno(18, pack("<II", 8 + len(data), len(data)) + data) == 0
    assert server.errno(18, pack("<II", 16, 8) + b"12345678" + bytes(100)) == 0, "padded"
    assert server.errno(16, pack("<IIIi", 16, 0x20002, 1, -1)) == 0
    assert server.device.bar0 == b"12345678"


def test_b33_stopped_device() -> None:
    server = Server()
    assert server.errno(16, pack("<IIIi", 16, 0x20002, 3, -1)) == 0
    event = Event()
    for command, payload, things in (
        (4, INFO, ()),
        (5, pack("<4I2Q", 32, 0, 0, 0, 0, 0), ()),
        (9, access(0, 7, 4), ()),
        (10, access(0x40, 7, 4, b"abcd"), ()),
        (8, irqs(0x24, 0, 0, 1), (event,)),
        (2, dma(0, 4096), (bytearray(4096),)),
    ):
        assert server.errno(command, payload, *things) == EINVAL
    assert server.open_descriptors == 0
    assert server.errno(13) == 0
    assert server.errno(4, INFO) == 0


def test_b36_and_b37_order_and_loss() -> None:
    server = Server()
    server.session.message(b"".join(command_parts(1, 9, access(0, 7, 4))), [])
    server.session.message(b"".join(command_parts(2, 4, INFO)), [])
    assert [HEADER.unpack_from(reply)[0] for reply in server.sent()] == [1, 2]
    server.errno(2, dma(0, 4096), bytearray(4096))
    server.errno(8, irqs(0x24, 0, 0, 1), Event())
    assert server.open_descriptors == 2
    server.session.lost()
    server.session.lost()
    assert (server.open_descriptors, server.vfio.user, server.carrier.closed) == (0, None, None)
    assert server.send(b"".join(command_parts(1, 9, access(0, 7, 4))), Event()) == []
    assert server.open_descriptors == 0


# --- 9.3 --------------------------------------------------------------------------------------------------------------


def test_too_many_descriptors() -> None:
    server = Server(limits=ServerLimits(max_fds=2))
    assert server.errno(8, irqs(0x24, 0, 0, 3), Event(), Event(), Event()) == EINVAL
    assert server.errno(4, INFO, Event()) == EINVAL
    assert server.open_descriptors == 0


def test_no_descriptors_were_agreed_on() -> None:
    server = Server(limits=ServerLimits(max_fds=0))
    assert server.errno(2, dma(0, 0x1000), bytearray(4096)) == EINVAL
    assert server.errno(2, dma(0, 0x1000)) == 0


class ManyVectors(SampleDevice):
    irqs = (IrqInfo(), IrqInfo(4, IrqFlag.EVENTFD))


def test_as_many_descriptors_as_vectors() -> None:
    server = Server(ManyVectors())
    assert server.errno(8, irqs(0x24, 1, 0, 2), Event()) == EINVAL
    assert server.errno(8, irqs(0x24, 1, 0, 1), Event(), Event()) == EINVAL
    assert server.open_descriptors == 0
    events = [Event(), Event(), Event()]
    assert server.errno(8, irqs(0x24, 1, 1, 3), *events) == 0
    assert server.device.host is not None
    server.device.host.signal(1, 2)
    assert [event.count for event in events] == [0, 1, 0], "in the order of the vectors"
    assert server.errno(8, irqs(0x22, 1, 1, 2, b"\1\1", argsz=21)) == EINVAL
    assert server.errno(8, irqs(0x22, 1, 1, 2, b"\1\1")) == 0
    assert [event.count for event in events] == [1, 2, 0]


def test_what_cannot_be_a_range_is_never_mapped() -> None:
    server = Server()
    mapped: list[object] = []
    server.carrier.dma_memory = lambda *ask, **more: mapped.append(ask)  # type: ignore[method-assign,assignment]
    top = 1 << 64
    for payload in (dma(0, 0), dma(top - 0x1000, 0x2000), dma(0, 0x1000, offset=(1 << 63) - 0xFFF)):
        assert server.errno(2, payload, bytearray(4096)) == EINVAL
    assert mapped == []
    assert server.open_descriptors == 0


def test_same_id_again() -> None:
    server = Server()
    for _ in range(3):
        assert server.errno(9, access(0, 7, 4)) == 0


def test_second_client_is_refused() -> None:
    first = Server()
    second = Server(first.device, negotiate=False)
    second.session.device = first.vfio
    (reply,) = second.ask(1, b"\0\0\2\0")
    assert head_only(reply, 1, EBUSY)
    assert second.carrier.closed
    assert first.errno(4, INFO) == 0


def test_reconnect_finds_the_state_and_no_listeners() -> None:
    server = Server()
    event = Event()
    server.errno(8, irqs(0x24, 0, 0, 1), event)
    server.errno(10, access(0x40, 7, 4, b"abcd"))
    server.session.lost()
    again = Server(server.device)
    (reply,) = again.ask(9, access(0x40, 7, 4))
    assert reply[32:] == b"abcd"
    assert again.device.host is not None
    again.device.host.signal(0)
    assert event.count == 0


def test_twin_socket_is_declined() -> None:
    for said, told in ((None, None), (True, False), (False, False)):
        server = Server(negotiate=False)
        text = "{}" if said is None else f'{{"capabilities":{{"twin_socket":{{"supported":{str(said).lower()}}}}}}}'
        (reply,) = server.ask(1, b"\0\0\2\0" + text.encode() + b"\0")
        assert decode_version(reply[16:]).capabilities.twin_socket is told


def test_device_without_migration_says_none() -> None:
    device = SampleDevice()
    device.migration = None  # type: ignore[assignment]
    server = Server(device, negotiate=False)
    (reply,) = server.ask(1, b"\0\0\2\0")
    assert decode_version(reply[16:]).capabilities.migration is None


def test_limits_of_the_device_are_told() -> None:
    server = Server(negotiate=False)
    server.vfio.dma.limits = DmaLimits(maps=3, page_size=65536)
    (reply,) = server.ask(1, b"\0\0\2\0")
    told = decode_version(reply[16:]).capabilities
    assert (told.max_dma_maps, told.pgsizes) == (3, 65536)
    for number, errno in enumerate((0, 0, 0, ENOSPC)):
        assert server.errno(2, dma(number << 16, 1 << 16), bytearray(1 << 16)) == errno
    assert server.open_descriptors == 3


# --- REGION_WRITE_MULTI -----------------------------------------------------------------------------------------------


def multi(*writes: tuple[int, int, int, bytes], count: int | None = None) -> bytes:
    entries = b"".join(pack("<QII8s", *write) for write in writes)
    return pack("<Q", len(writes) if count is None else count) + entries


def test_multi() -> None:
    server = Server()
    writes = multi((0x40, 7, 2, b"ab"), (0x50, 7, 8, b"12345678"), (0x60, 7, 0, b"zz"))
    (reply,) = server.ask(15, writes)
    assert reply[16:] == pack("<Q", 3)
    assert (server.device.config[0x40:0x44], server.device.config[0x50:0x58]) == (b"ab\0\0", b"12345678")
    assert server.device.config[0x60:0x62] == b"\0\0"
    (reply,) = server.ask(15, multi((0x40, 7, 2, b"xy"), (0, 9, 1, b"z"), (0x50, 7, 1, b"z")))
    assert reply[16:] == pack("<Q", 1), "one was done"
    assert server.device.config[0x50:0x51] == b"1"
    assert server.errno(15, multi((0, 9, 1, b"z"), (0x50, 7, 1, b"z"))) == EINVAL
    (reply,) = server.ask(15, multi())
    assert reply[16:] == pack("<Q", 0)
    assert server.ask(15, writes, flags=0x10) == []
    assert Command.REGION_WRITE_MULTI == 15


@pytest.mark.parametrize(
    "payload",
    [
        b"1234567",
        multi(count=1),
        multi((0x40, 7, 1, b"a"), count=2),
        multi((0x40, 7, 1, b"a"), count=0),
        multi((0x40, 7, 9, b"a")),
        multi((0x40, 7, 1, b"a"), (0x40, 7, 9, b"a")),
        multi(*[(0x40, 7, 1, b"a")] * (MAX_MULTI + 1)),
        multi(count=1 << 63),
    ],
)
def test_multi_that_is_none(payload: bytes) -> None:
    server = Server()
    assert server.errno(15, payload) == EINVAL
    assert server.device.config[0x40] == 0
