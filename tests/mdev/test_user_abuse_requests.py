"""Misuse of a server, row by row: memory, irqs, features.  Spec: mdev 9.2 (B18 to B37)."""

from __future__ import annotations

from struct import pack

import pytest
from user_fakes import Event
from user_payloads import INFO, access, dma, irqs
from user_rig import Server

from pvnet.mdev.names import DmaFlag
from pvnet.mdev.vfio_user import HEADER, command_parts
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.mdev.vfio_user_version import Capabilities
from pvnet.papr.errno import EEXIST, EINVAL, ENOENT, ENOSPC, ENOTTY

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
