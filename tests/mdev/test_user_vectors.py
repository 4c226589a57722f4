"""Golden vectors V1 to V26 and C16 to C18, byte for byte.  Spec: mdev 10."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from user_fakes import Event, FakeCarrier
from user_rig import Server

from pvnet.mdev.device import DeviceBase, DmaWrite, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, RegionFlag
from pvnet.mdev.vfio_user import HEADER, command_parts, reply_parts
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_version import Capabilities, decode_version
from pvnet.papr.errno import EAGAIN, EBUSY

V1 = (
    "55da010052000000000000000000000000000200"
    + b'{"capabilities":{"max_msg_fds":32,"max_data_xfer_size":1024}}\0'.hex()
)
V2_TEXT = b'{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, "migration": { "pgsize": 4096 } } }\0'
V6 = (
    "500000000f00000001000000200000000030000000000000000000000000000001000100000000000200000000000000"
    "0000000000000000001000000000000000200000000000000010000000000000"
)


def answer(server: Server, message: str, *things: Event | bytearray | str) -> str:
    (reply,) = server.send(message.replace(" ", ""), *things)
    return reply.hex()


def plain(text: str) -> str:
    return text.replace(" ", "")


def test_v1_version() -> None:
    server = Server(negotiate=False)
    (reply,) = server.send(V1)
    assert HEADER.unpack_from(reply) == (0xDA55, 1, len(reply), 1, 0)
    assert reply[16:20] == bytes.fromhex("00000200")
    told = decode_version(reply[16:]).capabilities
    assert (told.max_msg_fds, told.max_data_xfer_size) == (8, 1 << 20)
    assert told.migration is not None
    assert told.migration.pgsize == 4096
    assert server.session.max_transfer == 1024


def test_v2_version_reply() -> None:
    carrier = FakeCarrier()
    client = ClientMachine(carrier)
    heard: list[object] = []
    client.start(heard.append)
    ident = HEADER.unpack_from(carrier.out.popleft()[0])[0]
    text = bytes.fromhex("55da01007d00000001000000000000000000 0200".replace(" ", "")) + V2_TEXT
    assert HEADER.unpack_from(text)[2] == len(text)
    client.message(ident.to_bytes(2, "little") + text[2:], [])
    assert client.version is not None
    assert client.version.minor == 2
    assert client.version.capabilities.max_msg_fds == 8
    assert heard == [client.version]


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        pytest.param(
            "0ff00900 20000000 00000000 00000000 0000000000000000 efbeadde 04000000",
            "0ff00900 10000000 21000000 16000000",
            id="V3",
        ),
        pytest.param(
            "0cb10400 20000000 00000000 00000000 10000000 00000000 00000000 00000000",
            "0cb10400 20000000 01000000 00000000 10000000 03000000 09000000 05000000",
            id="V4",
        ),
        pytest.param(
            "cdab0500 30000000 00000000 00000000 20000000 00000000 01000000 00000000 0000000000000000 0000000000000000",
            "cdab0500 30000000 01000000 00000000 50000000 07000000 01000000 00000000 0030000000000000 0000000000000000",
            id="V5",
        ),
        pytest.param(
            "0ef00900 20000000 00000000 00000000 0000000000000000 07000000 40000000",
            "0ef00900 60000000 01000000 00000000 0000000000000000 07000000 40000000 4f49c80d" + "00" * 60,
            id="V7",
        ),
        pytest.param("01000d00 10000000 00000000 00000000", "01000d00 10000000 01000000 00000000", id="V8"),
        pytest.param(
            "02000200 30000000 00000000 00000000 20000000 01000000 0000000000000000 0000fcff00000000 0000040000000000",
            "02000200 10000000 01000000 00000000",
            id="V10",
        ),
        pytest.param(
            "ad1b0700 20000000 00000000 00000000 10000000 00000000 00000000 00000000",
            "ad1b0700 20000000 01000000 00000000 10000000 01000000 00000000 01000000",
            id="V11",
        ),
        pytest.param(
            "0df00a00 28000000 00000000 00000000 0000000000000000 00000000 08000000 e051016b00000000",
            "0df00a00 20000000 01000000 00000000 0000000000000000 00000000 08000000",
            id="V14",
        ),
        pytest.param(
            "00001000 28000000 00000000 00000000 18000000 06000200 0010000000000000 00000000 00000000",
            "00001000 28000000 01000000 00000000 18000000 06000200 0010000000000000 00000000 00000000",
            id="V17",
        ),
        pytest.param(
            "b1fa1000 20000000 00000000 00000000 10000000 02000200 06000000 ffffffff",
            "b1fa1000 20000000 01000000 00000000 10000000 02000200 06000000 ffffffff",
            id="V20",
        ),
        pytest.param(
            "42420900 20000000 00000000 00000000 0000000000000000 07000000 04000000",
            "42420900 24000000 01000000 00000000 0000000000000000 07000000 04000000 4f49c80d",
            id="V22",
        ),
        pytest.param(
            "42420300 28000000 00000000 00000000 18000000 00000000 0000000000000000 0010000000000000",
            "42420300 10000000 21000000 02000000",
            id="V23",
        ),
        pytest.param(
            "01001000 20000000 00000000 00000000 10000000 01000100 0000000000000000",
            "01001000 20000000 01000000 00000000 10000000 01000100 0500000000000000",
            id="V24",
        ),
        pytest.param(
            "01001000 18000000 00000000 00000000 10000000 01000100",
            "01001000 20000000 01000000 00000000 10000000 01000100 0500000000000000",
            id="V24 without room in the request",
        ),
        pytest.param(
            "0e000a00 24000000 00000000 00000000 3000000000000000 07000000 04000000 00f8ffff",
            "0e000a00 20000000 01000000 00000000 3000000000000000 07000000 04000000",
            id="V26",
        ),
    ],
)
def test_request_and_reply(request_: str, reply: str) -> None:
    assert answer(Server(), request_) == plain(reply)


def test_v6_region_with_descriptor() -> None:
    server = Server()
    payload = "50000000" + "00000000" + "01000000" + "00000000" + "00" * 16
    server.session.message(bytes.fromhex("cdab0500300000000000000000000000" + payload), [])
    ((reply, descriptors),) = server.carrier.out
    assert HEADER.unpack_from(reply) == (0xABCD, 5, 96, 1, 0)
    assert reply[16:].hex() == V6
    assert [server.descriptors.open[each] for each in descriptors] == [server.device.memory.buffer]


def test_v5_has_no_descriptor() -> None:
    server = Server()
    payload = "20000000" + "00000000" + "01000000" + "00000000" + "00" * 16
    server.session.message(bytes.fromhex("cdab0500300000000000000000000000" + payload), [])
    assert server.carrier.out.pop()[1] == []


def test_v6_of_a_request_as_long_as_its_argsz() -> None:
    server = Server()
    payload = "50000000" + "00000000" + "01000000" + "00000000" + "00" * 64
    assert answer(server, "cdab0500600000000000000000000000" + payload)[32:] == V6


def test_v9_map_with_descriptor_and_v19_unmap() -> None:
    server = Server()
    request = "34120200 30000000 00000000 00000000 20000000 03000000 0000000000000000 0000000000000000 0010000000000000"
    assert answer(server, request, bytearray(4096)) == plain("34120200 10000000 01000000 00000000")
    assert server.open_descriptors == 1
    request = "07000300 28000000 00000000 00000000 18000000 00000000 0000000000000000 0010000000000000"
    assert answer(server, request) == request.replace(" ", "")[:16] + "01" + request.replace(" ", "")[18:]
    assert server.open_descriptors == 0


def test_v12_and_v13_irq() -> None:
    server = Server()
    event = Event()
    request = "ae1b0800 24000000 00000000 00000000 14000000 24000000 00000000 00000000 01000000"
    assert answer(server, request, event) == plain("ae1b0800 10000000 01000000 00000000")
    assert server.device.host is not None
    server.device.host.signal(0)
    assert event.count == 1
    disable = "01000800 24000000 00000000 00000000 14000000 21000000 00000000 00000000 00000000"
    assert answer(server, disable) == plain("01000800 10000000 01000000 00000000")
    assert server.open_descriptors == 0


def test_v15_and_v16_memory_of_the_client() -> None:
    carrier = FakeCarrier()
    client = ClientMachine(carrier)
    client.start(lambda _result: None)
    ident = HEADER.unpack_from(carrier.out.popleft()[0])[0]
    client.message(b"".join(reply_parts(ident, 1, b"\0\0\2\0")), [])
    memory = bytearray(4096)
    client.dma_map(0, 4096, 3, 0, None, memoryview(memory), lambda _result: None)
    carrier.out.clear()
    data = bytes(range(256)) * 4
    head = "01000c00 20040000 00000000 00000000 0000000000000000 0004000000000000"
    client.message(bytes.fromhex(head) + data, [])
    reply = plain("01000c00 20000000 01000000 00000000 0000000000000000 0004000000000000")
    assert carrier.out.popleft()[0].hex() == reply
    assert memory[:1024] == data
    client.message(bytes.fromhex("05000b00 20000000 00000000 00000000 0000000000000000 0004000000000000"), [])
    reply = plain("05000b00 20040000 01000000 00000000 0000000000000000 0004000000000000")
    assert carrier.out.popleft()[0].hex() == reply + data.hex()


def test_v15_and_v16_as_the_server_sends_them() -> None:
    server = Server()
    stored: list[MdevError | None] = []
    fetched: list[bytes | MdevError] = []
    server.session.dma_write(0, b"\7" * 1024, stored.append)
    server.session.dma_read(0, 1024, fetched.append)
    write, read = server.sent()
    assert write.hex() == plain("00000c00 20040000 00000000 00000000 0000000000000000 0004000000000000") + "07" * 1024
    assert read.hex() == plain("01000b00 20000000 00000000 00000000 0000000000000000 0004000000000000")
    server.send("00000c00 20000000 01000000 00000000 0000000000000000 0004000000000000")
    server.send(plain("01000b00 20040000 01000000 00000000 0000000000000000 0004000000000000") + "09" * 1024)
    assert (stored, fetched) == ([None], [b"\t" * 1024])


def test_v18_report_of_one_dirty_page() -> None:
    server = Server()
    server.ask(
        2, bytes.fromhex("20000000 03000000 0000000000000000 0000000000000000 0020000000000000"), bytearray(8192)
    )
    answer(server, "00001000 28000000 00000000 00000000 18000000 06000200 0010000000000000 00000000 00000000")
    assert server.device.host is not None
    server.device.host.run(write_at(0x1000))
    report = "28000000 08000100 0010000000000000 0010000000000000 0010000000000000"
    request = "99001000 30000000 00000000 00000000 " + report
    reply = plain("99001000 38000000 01000000 00000000 " + report)
    assert answer(server, request) == reply + "0100000000000000"
    assert answer(server, request) == reply + "0000000000000000", "reading has cleared it"


def write_at(address: int) -> Steps[None]:
    yield DmaWrite(address, b"x")


def test_v21_and_v25_stream() -> None:
    server = Server(capabilities=Capabilities(max_msg_fds=8, max_data_xfer_size=1024))
    server.device.memory.view[:] = bytes(range(256)) * 48
    server.device.bar0 = bytes.fromhex("ea51016b00000000")
    answer(server, "b1fa1000 20000000 00000000 00000000 10000000 02000200 06000000 ffffffff")
    request = "04691100 18000000 00000000 00000000 08040000 00040000"
    pieces = [answer(server, request) for _ in range(12)]
    head = plain("04691100 18040000 01000000 00000000 08040000 00040000")
    assert all(piece.startswith(head) for piece in pieces)
    assert bytes.fromhex("".join(piece[len(head) :] for piece in pieces)) == server.device.memory.buffer
    answer(server, "b1fa1000 20000000 00000000 00000000 10000000 02000200 03000000 ffffffff")
    for _ in range(12):
        assert answer(server, request).startswith(head)
    assert answer(server, request) == plain("04691100 20000000 01000000 00000000 10000000 08000000 ea51016b00000000")
    assert answer(server, request) == plain("04691100 18000000 01000000 00000000 08000000 00000000")


def test_v25_as_a_client_reads_it() -> None:
    carrier = FakeCarrier()
    client = ClientMachine(carrier)
    client.start(lambda _result: None)
    ident = HEADER.unpack_from(carrier.out.popleft()[0])[0]
    client.message(b"".join(reply_parts(ident, 1, b"\0\0\2\0")), [])
    heard: list[object] = []
    client.migration_read(1024, heard.append)
    request = carrier.out.popleft()[0]
    assert request[16:].hex() == plain("08040000 00040000")
    padded = bytes.fromhex("ec681100180400000100000000000000" + "1000000008000000ea51016b00000000") + bytes(1016)
    client.message(request[:2] + padded[2:], [])
    assert heard == [bytes.fromhex("ea51016b00000000")]


class ChannelDevice(DeviceBase):
    """Regions of a channel-I/O device; what a write does is up to the test."""

    flags = DeviceFlag.CCW
    irqs = (IrqInfo(1, 1), IrqInfo(1, 1), IrqInfo(1, 1))
    regions = (Region(RegionInfo(124, RegionFlag.READ | RegionFlag.WRITE)), Region(RegionInfo(8, 3)))

    def __init__(self, take: Callable[[int, int, bytes], None]) -> None:
        self.take = take

    def read(self, region: int, offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, region: int, offset: int, data: bytes) -> None:
        self.take(region, offset, data)


C16 = plain(
    "10000a00 9c000000 00000000 00000000 0000000000000000 00000000 7c000000"
    "1122334400c2800000010000 000044000000000000000000"
) + "00" * (156 - 32 - 24)


def channel(take: Callable[[int, int, bytes], None]) -> Server:
    return Server(ChannelDevice(take))


def test_c16_and_c17() -> None:
    seen: list[tuple[int, int, bytes]] = []
    server = channel(lambda *access: seen.append(access))
    assert answer(server, C16) == plain("10000a00 20000000 01000000 00000000 0000000000000000 00000000 7c000000")
    assert answer(
        server, "11000a00280000000000000000000000 0000000000000000 01000000 08000000 0100000000000000"
    ) == plain("11000a00 20000000 01000000 00000000 0000000000000000 01000000 08000000")
    assert seen[0][:2] == (0, 0)
    assert seen[0][2].hex() == C16[64:]
    assert seen[1] == (1, 0, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("errno", "reply"),
    [
        (EBUSY, "10000a00 10000000 21000000 10000000"),
        (EAGAIN, "10000a00 10000000 21000000 0b000000"),
    ],
)
def test_c18(errno: int, reply: str) -> None:
    def refuse(*_access: object) -> None:
        raise MdevError(errno)

    assert answer(channel(refuse), C16) == plain(reply)


def test_requests_of_the_client() -> None:
    """What a client sends is what the captured clients send."""
    carrier = FakeCarrier()
    client = ClientMachine(carrier)
    client.start(lambda _result: None)
    ident = HEADER.unpack_from(carrier.out.popleft()[0])[0]
    client.message(b"".join(reply_parts(ident, 1, b"\0\0\2\0")), [])

    def ignore(_result: object) -> None:
        pass

    client.device_info(ignore)
    client.region_info(1, ignore)
    client.irq_info(0, ignore)
    client.set_irqs(0, 0, 1, 1, 8, b"", (), ignore)
    client.set_irqs(0, 0, 1, 1, 16, b"", (), ignore)
    client.set_irqs(0, 0, 0, 1, 32, b"", (), ignore)
    client.region_read(7, 0, 64, ignore)
    client.region_write(0, 0, bytes.fromhex("e051016b00000000"), ignore)
    client.reset(ignore)
    client.dma_map(0xFFFC0000, 0x40000, 1, 0, None, None, ignore)
    client.dma_unmap(0, 0x1000, ignore)
    client.feature(0x20006, bytes.fromhex("00100000000000000000000000000000"), 0, ignore)
    client.feature(0x10008, bytes.fromhex("001000000000000000100000000000000010000000000000"), 32, ignore)
    client.feature(0x20002, bytes.fromhex("06000000ffffffff"), 0, ignore)
    client.migration_read(1024, ignore)
    expected = [
        (4, "10000000 00000000 00000000 00000000"),
        (5, "20000000 00000000 01000000 00000000 0000000000000000 0000000000000000"),
        (7, "10000000 00000000 00000000 00000000"),
        (8, "14000000 09000000 00000000 00000000 01000000"),
        (8, "14000000 11000000 00000000 00000000 01000000"),
        (8, "14000000 21000000 00000000 00000000 00000000"),
        (9, "0000000000000000 07000000 40000000"),
        (10, "0000000000000000 00000000 08000000 e051016b00000000"),
        (13, ""),
        (2, "20000000 01000000 0000000000000000 0000fcff00000000 0000040000000000"),
        (3, "18000000 00000000 0000000000000000 0010000000000000"),
        (16, "18000000 06000200 0010000000000000 00000000 00000000"),
        (16, "28000000 08000100 0010000000000000 0010000000000000 0010000000000000"),
        (16, "10000000 02000200 06000000 ffffffff"),
        (17, "08040000 00040000"),
    ]
    sent = [message for message, _descriptors in carrier.out]
    for number, (message, (command, payload)) in enumerate(zip(sent, expected, strict=True), 1):
        wanted = command_parts((ident + number) & 0xFFFF, command, bytes.fromhex(plain(payload)))
        assert message.hex() == b"".join(wanted).hex()
