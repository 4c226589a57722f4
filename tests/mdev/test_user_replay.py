"""The sample session of libvfio-user's client, step by step, against the device rebuilt here.  Spec: mdev 7.1.

The client is played byte by byte with the captured ids; page 0 of its memory has no descriptor, so that the server
copies by messages.
"""

from __future__ import annotations

from collections import Counter
from struct import pack

from user_device import SampleDevice
from user_fakes import Event
from user_rig import Server

from pvnet.mdev.device import DmaRead, DmaWrite
from pvnet.mdev.vfio_user import HEADER, Command
from pvnet.mdev.vfio_user_version import decode_version

TEXT = b'{"capabilities":{"max_msg_fds":32,"max_data_xfer_size":1024}}\0'
PAGES = 16


class Sample:
    """The client's side of one connection."""

    def __init__(self, device: SampleDevice | None = None) -> None:
        self.server = Server(device, negotiate=False)
        self.device = self.server.device
        self.count: Counter[str] = Counter()
        self.memory = bytearray(PAGES * 0x1000)
        self.irq = Event()
        reply = self.ask(Command.VERSION, pack("<HH", 0, 2) + TEXT, ident=0xDA55)
        version = decode_version(reply[16:])
        assert (version.minor, version.capabilities.max_msg_fds) == (2, 8)

    def ask(self, command: Command, payload: bytes, *things: Event | bytearray, ident: int) -> bytes:
        self.count[command.name] += 1
        (reply,) = self.server.ask(command, payload, *things, ident=ident)
        assert HEADER.unpack_from(reply)[:2] == (ident, command)
        return reply

    def good(self, command: Command, payload: bytes, *things: Event | bytearray, ident: int = 0x1234) -> bytes:
        reply = self.ask(command, payload, *things, ident=ident)
        assert HEADER.unpack_from(reply)[3:] == (1, 0)
        return reply[16:]

    def look_around(self) -> None:
        """Steps 2 to 6."""
        reply = self.ask(Command.REGION_READ, pack("<QII", 0, 0xDEADBEEF, 4), ident=0xF00F)
        assert reply.hex() == "0ff00900100000002100000016000000"
        assert self.good(Command.DEVICE_GET_INFO, pack("<4I", 16, 0, 0, 0)) == pack("<4I", 16, 3, 9, 5)
        sizes = {0: (8, 3), 1: (0x3000, 7), 7: (256, 3)}
        for index in range(9):
            size, flags = sizes.get(index, (0, 0))
            found = self.good(Command.DEVICE_GET_REGION_INFO, pack("<4I2Q", 32, 0, index, 0, 0, 0))
            assert found == pack("<4I2Q", 80 if index == 1 else 32, flags, index, 0, size, 0)
        found = self.good(Command.DEVICE_GET_REGION_INFO, pack("<4I2Q", 80, 0, 1, 0, 0, 0) + bytes(48))
        assert found[:32] == pack("<4I2Q", 80, 0xF, 1, 32, 0x3000, 0)
        assert found[32:] == pack("<HHIII4Q", 1, 1, 0, 2, 0, 0, 0x1000, 0x2000, 0x1000)
        assert len(self.good(Command.REGION_READ, pack("<QII", 0, 7, 64))) == 16 + 64
        self.good(Command.DEVICE_RESET, b"")

    def set_up(self) -> None:
        """Steps 7 and 8."""
        for page in range(PAGES):
            at = page * 0x1000
            things = (self.memory,) if page else ()
            self.good(Command.DMA_MAP, pack("<IIQQQ", 32, 3, at, at, 0x1000), *things)
        for index, count in enumerate((1, 0, 0, 1, 1)):
            found = self.good(Command.DEVICE_GET_IRQ_INFO, pack("<4I", 16, 0, index, 0))
            assert found[8:] == pack("<II", index, count)
        self.good(Command.DEVICE_SET_IRQS, pack("<5I", 20, 0x24, 0, 0, 1), self.irq)

    def serve(self) -> tuple[int, int]:
        """Answer the server's DMA until there is none; returns how many writes and reads."""
        writes = reads = 0
        server = self.server
        while requests := server.sent():
            for request in requests:
                ident, command, size, _flags, _error = HEADER.unpack_from(request)
                address, count = (int.from_bytes(request[at : at + 8], "little") for at in (16, 24))
                if command == Command.DMA_WRITE:
                    writes += 1
                    assert size == 32 + count
                    self.memory[address : address + count] = request[32:]
                    server.session.message(HEADER.pack(ident, command, 32, 1, 0) + request[16:32], [])
                else:
                    reads += 1
                    assert command == Command.DMA_READ
                    data = bytes(self.memory[address : address + count])
                    server.session.message(HEADER.pack(ident, command, 32 + count, 1, 0) + request[16:32] + data, [])
        return writes, reads

    def state(self, number: int) -> None:
        payload = pack("<IIIi", 16, 0x20002, number, -1)
        assert self.good(Command.DEVICE_FEATURE, payload, ident=0xFAB1) == payload

    def data(self) -> bytes:
        found = self.good(Command.MIG_DATA_READ, pack("<II", 1032, 1024), ident=0x6904)
        size = int.from_bytes(found[4:8], "little")
        return found[8 : 8 + size]


def pattern(number: int) -> bytes:
    return bytes([number]) * 1024


def test_whole_session() -> None:
    source = Sample()
    source.look_around()
    source.set_up()
    start = pack("<IIQII", 24, 0x20006, 0x1000, 0, 0)
    assert source.good(Command.DEVICE_FEATURE, start) == start

    # 10: the timer
    write = pack("<QII", 0, 0, 8)
    assert source.good(Command.REGION_READ, write) == write + b"\xff" * 8
    assert source.good(Command.REGION_WRITE, write + pack("<Q", 1), ident=0xF00D) == write
    assert source.good(Command.REGION_READ, write) == write + pack("<Q", 1)

    # 11: INTx, then memory by messages
    device = source.device
    device.jobs = [DmaWrite(number * 1024, pattern(number)) for number in range(4)]
    device.jobs += [DmaRead(number * 1024, 1024) for number in range(4)]
    device.jobs += [DmaWrite(0x1000, b"page 1, directly")]
    assert source.irq.count == 0
    source.server.timers.advance(1.0)
    assert source.irq.count == 1
    assert source.serve() == (4, 4)
    assert device.results[4:8] == [pattern(number) for number in range(4)]
    assert source.memory[0x1000:0x1010] == b"page 1, directly"

    # 12: what has become dirty, page by page
    dirty = []
    for page in range(PAGES):
        report = pack("<IIQQQ", 40, 0x10008, page * 0x1000, 0x1000, 0x1000)
        found = source.good(Command.DEVICE_FEATURE, report, ident=0x99)
        assert found[:32] == report
        dirty.append(found[32])
    assert dirty == [1, 1] + [0] * 14, "page 0 by messages, page 1 directly"
    source.good(Command.DEVICE_FEATURE, pack("<II", 8, 0x20007))

    # 13: half of the memory back
    for page in range(8):
        request = pack("<IIQQ", 24, 0, page * 0x1000, 0x1000)
        assert source.good(Command.DMA_UNMAP, request) == request
    assert source.server.open_descriptors == 9

    # 14: migration; BAR1 is written meanwhile
    device.memory.view[:] = b"\1" * 0x3000
    source.state(6)
    stream = [source.data() for _ in range(12)]
    assert b"".join(stream) == b"\1" * 0x3000
    rewrite = pack("<QII", 0, 1, 12288)
    assert source.good(Command.REGION_WRITE, rewrite + b"\2" * 12288) == rewrite, "more than the client takes itself"
    source.state(3)
    stream += [source.data() for _ in range(13)]
    assert stream[-1] == device.bar0
    assert source.data() == b""
    source.state(1)

    # 15: the destination
    target = Sample()
    target.state(4)
    for piece in stream:
        target.good(Command.MIG_DATA_WRITE, pack("<II", 8 + len(piece), len(piece)) + piece)
    target.state(1)
    assert bytes(target.device.memory.view) == b"\2" * 0x3000
    assert target.device.bar0 == pack("<Q", 1)
    target.state(2)
    target.set_up()
    target.good(Command.REGION_WRITE, write + pack("<Q", 10))
    target.server.timers.advance(9.0)
    assert target.irq.count == 0
    target.server.timers.advance(1.0)
    assert target.irq.count == 1
    assert target.serve() == (0, 0)

    total = source.count + target.count
    assert (total["DMA_MAP"], total["DMA_UNMAP"], total["MIG_DATA_READ"], total["DEVICE_GET_REGION_INFO"]) == (
        32,
        8,
        26,
        10,
    )
    for sample in (source, target):
        sample.server.session.lost()
        assert sample.server.open_descriptors == 0
