"""More misuse of a server, limits, REGION_WRITE_MULTI.  Spec: mdev 9.3."""

from __future__ import annotations

from struct import pack

import pytest
from user_device import SampleDevice
from user_fakes import Event
from user_payloads import INFO, access, dma, head_only, irqs
from user_rig import Server

from pvnet.mdev.dma import DmaLimits
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import IrqFlag
from pvnet.mdev.vfio_user import Command
from pvnet.mdev.vfio_user_server import MAX_MULTI, ServerLimits
from pvnet.mdev.vfio_user_version import decode_version
from pvnet.papr.errno import EBUSY, EINVAL, ENOSPC

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
