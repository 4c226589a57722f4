"""The disk behind the VFIO device API and vfio-user, byte by byte; its memory is reached by messages, or mapped."""

from __future__ import annotations

from struct import pack

import pytest
from ccw_rig import CC, IOVA, NOP, USUAL, RamStore, io_write, program
from user_fakes import Event
from user_payloads import access, dma, irqs
from user_rig import Server
from vfio_rig import ArrayMemory, ManualTimers, RecordingTarget, RecordingUser

from pvnet.core.machine import Note
from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_layout import Ccw, Orb, decode_irb
from pvnet.mdev.ccw_regions import IO_REGION
from pvnet.mdev.ccw_states import State
from pvnet.mdev.ccw_subchannel import CcwDevice
from pvnet.mdev.dma import DmaRegion
from pvnet.mdev.irqs import IrqSet
from pvnet.mdev.names import CcwIrq, MigrationState
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import HEADER, Command
from pvnet.papr.errno import EBUSY, EINVAL

C16 = bytes.fromhex(
    "10000a00 9c000000 00000000 00000000 0000000000000000 00000000 7c000000 1122334400c2800000010000"
    "000044000000000000000000" + "00" * 100
)
C17 = bytes.fromhex("11000a00 28000000 00000000 00000000 0000000000000000 01000000 08000000 01000000 00000000")
C18_EBUSY = bytes.fromhex("10000a00 10000000 21000000 10000000")
C18_EAGAIN = bytes.fromhex("10000a00 10000000 21000000 0b000000")
TRIGGER_EVENTFD, LOOPBACK = 0x24, 0x21
SIZE = 1 << 16


class Wire:
    """A vfio-user client with 64 KiB at 0x10000 that it gives out by messages, and an eventfd on the I/O irq."""

    def __init__(self) -> None:
        self.device = CcwDevice(RamStore(SIZE), CcwConfig(devno=0x1234), lambda: None)
        self.server = Server(self.device)
        self.memory = bytearray(SIZE)
        self.irq = Event()
        assert self.server.errno(Command.DMA_MAP, dma(IOVA, SIZE)) == 0
        assert self.server.errno(Command.DEVICE_SET_IRQS, irqs(TRIGGER_EVENTFD, 0, 0, 1), self.irq) == 0

    def answer(self, request: bytes) -> list[bytes]:
        """Answer a DMA_READ or DMA_WRITE; returns what the server says to that."""
        ident, command, size, _, _ = HEADER.unpack_from(request)
        address, count = int.from_bytes(request[16:24], "little"), int.from_bytes(request[24:32], "little")
        at = address - IOVA
        payload = request[16:32]
        if command == Command.DMA_READ:
            payload += self.memory[at : at + count]
        else:
            assert (command, size) == (Command.DMA_WRITE, 32 + count)
            self.memory[at : at + count] = request[32:]
        return self.server.send(HEADER.pack(ident, command, 16 + len(payload), 1, 0) + payload)

    def answer_all(self, messages: list[bytes]) -> list[bytes]:
        """Answer until there are only replies; returns them."""
        replies = []
        while messages:
            message = messages.pop(0)
            if HEADER.unpack_from(message)[3] & 0xF:
                replies.append(message)
            else:
                messages += self.answer(message)
        return replies


def accepted(message: bytes) -> bytes:
    """Reply to a successful REGION_WRITE."""
    return message[:4] + pack("<III", 32, 1, 0) + message[16:32]


# --- over the wire ----------------------------------------------------------------------------------------------------


def test_exchange_by_messages_c16_c18() -> None:
    wire = Wire()
    wire.memory[: 2 * 8] = program(Ccw(NOP, CC), Ccw(0xE4, 0x20, 64, IOVA + 0x8000))
    (copy,) = wire.server.send(C16)
    assert HEADER.unpack_from(copy)[1] == Command.DMA_READ
    assert copy[16:] == pack("<QQ", IOVA, 2048)
    assert wire.server.send(C16) == [C18_EAGAIN]
    (touch,) = wire.answer(copy)
    assert touch[16:] == pack("<QQ", IOVA + 0x8000, 1)
    store, reply = sorted(wire.answer(touch), key=lambda message: HEADER.unpack_from(message)[3])
    assert reply == accepted(C16)
    assert store[16:] == pack("<QQ", IOVA + 0x8000, 7) + bytes.fromhex("ff631001933610")
    assert wire.server.send(C16) == [C18_EBUSY]
    assert wire.irq.count == 0
    assert wire.answer(store) == []
    assert wire.irq.count == 1
    (region,) = wire.server.ask(Command.REGION_READ, access(0, IO_REGION, 124))
    assert decode_irb(region[32 + 24 : 32 + 120]).scsw.encode().hex() == "00c04007" + "00010010" + "0c000039"
    assert region[-4:] == pack("<i", -EBUSY)
    assert wire.memory[0x8000:0x8007] == bytes.fromhex("ff631001933610")


def test_halting_what_waits_for_memory_c17() -> None:
    wire = Wire()
    wire.memory[:8] = program(Ccw(0xE4, 0x20, 64, IOVA + 0x8000))
    (copy,) = wire.server.send(C16)
    (touch,) = wire.answer(copy)
    store = min(wire.answer(touch), key=lambda message: HEADER.unpack_from(message)[3])
    assert wire.server.send(C17) == [accepted(C17)]
    assert wire.irq.count == 1
    assert wire.device.state is State.IDLE
    assert wire.answer(store) == []
    assert wire.irq.count == 1
    (region,) = wire.server.ask(Command.REGION_READ, access(24, IO_REGION, 12))
    assert region[32:].hex() == "00c06007" + "00000000" + "0c000000"
    assert wire.answer_all(wire.server.send(C16)) == [accepted(C16)]
    assert wire.irq.count == 2


@pytest.mark.parametrize("after", [1, 2, 3])
def test_d16_the_client_is_gone_in_the_middle(after: int) -> None:
    wire = Wire()
    wire.memory[:8] = program(Ccw(0xE4, 0x20, 64, IOVA + 0x8000))
    messages = wire.server.send(C16)
    for _ in range(after - 1):
        messages += wire.answer(messages.pop(0))
    wire.server.session.lost()
    assert wire.device.state is State.STANDBY
    assert wire.irq.count == 0
    assert wire.server.open_descriptors == 0


def test_d12_unmapping_under_a_program() -> None:
    wire = Wire()
    wire.memory[:8] = program(Ccw(0xE4, 0x20, 64, IOVA + 0x8000))
    (copy,) = wire.server.send(C16)
    (touch,) = wire.answer(copy)
    store = min(wire.answer(touch), key=lambda message: HEADER.unpack_from(message)[3])
    assert wire.server.errno(Command.DMA_UNMAP, pack("<IIQQ", 24, 0, IOVA, SIZE)) == 0
    assert wire.device.state is State.IDLE
    assert wire.device.counters["resets_by_unmap"] == 1
    assert wire.answer(store) == []
    assert wire.irq.count == 0
    assert [note.event for note in wire.server.notes] == ["ccw_pinned_page_unmapped"]


def test_d12_unmapping_while_the_program_is_copied() -> None:
    wire = Wire()
    (copy,) = wire.server.send(C16)
    payload = pack("<IIQQ", 24, 0, IOVA, SIZE)
    replies = wire.server.ask(Command.DMA_UNMAP, payload, ident=9)
    errors = [HEADER.unpack_from(reply)[4] for reply in replies]
    assert sorted(errors) == [0, 14]
    assert wire.device.state is State.IDLE
    assert wire.answer(copy) == []


def test_reset_while_the_program_is_copied() -> None:
    wire = Wire()
    wire.server.send(C16)
    replies = wire.server.ask(Command.DEVICE_RESET, ident=9)
    assert sorted(HEADER.unpack_from(reply)[4] for reply in replies) == [0, 5]
    assert wire.device.state is State.IDLE


@pytest.mark.parametrize(("offset", "count"), [(0, 125), (124, 1), (100, 25), ((1 << 64) - 1, 2), (1 << 63, 124)])
def test_d4_positions(offset: int, count: int) -> None:
    wire = Wire()
    assert wire.server.errno(Command.REGION_WRITE, access(offset, IO_REGION, count, bytes(count))) == EINVAL
    assert wire.server.errno(Command.REGION_READ, access(offset, IO_REGION, count)) == EINVAL
    assert wire.irq.count == 0


@pytest.mark.parametrize("region", [2, 3])
def test_regions_that_cannot_be_written(region: int) -> None:
    assert Wire().server.errno(Command.REGION_WRITE, access(0, region, 1, b"x")) == EINVAL


def test_device_and_region_info() -> None:
    wire = Wire()
    (info,) = wire.server.ask(Command.DEVICE_GET_INFO, pack("<IIII", 16, 0, 0, 0))
    assert info[20:32] == pack("<III", 0x11, 4, 3)
    (region,) = wire.server.ask(Command.DEVICE_GET_REGION_INFO, pack("<IIIIQQ", 48, 0, 3, 0, 0, 0))
    assert region[16:20] == pack("<I", 48)
    assert region[32:40] == pack("<Q", 8)
    assert region[48:64] == pack("<HHIII", 2, 1, 0, 2, 3)
    (irq,) = wire.server.ask(Command.DEVICE_GET_IRQ_INFO, pack("<IIII", 16, 0, CcwIrq.CRW, 0))
    assert irq[16:] == pack("<IIII", 16, 1, 1, 1)


def test_irqs_can_only_be_triggered() -> None:
    wire = Wire()
    assert wire.server.errno(Command.DEVICE_SET_IRQS, irqs(LOOPBACK, 0, 0, 1)) == 0
    assert wire.irq.count == 1
    assert wire.server.errno(Command.DEVICE_SET_IRQS, irqs(0x09, 0, 0, 1)) != 0
    assert wire.server.errno(Command.DEVICE_SET_IRQS, irqs(LOOPBACK, 3, 0, 1)) == EINVAL


# --- mapped memory, migration -----------------------------------------------------------------------------------------


class Mapped:
    """The device with a user whose memory is mapped: programs end within the write that starts them."""

    def __init__(self, store: RamStore) -> None:
        self.notes: list[Note] = []
        self.ccw = CcwDevice(store, CcwConfig(), lambda: None)
        self.device = VfioDevice(self.ccw, "sch", ManualTimers(), self.notes.append)
        self.device.open(RecordingUser())
        self.memory = ArrayMemory(SIZE)
        self.device.dma_map(DmaRegion(IOVA, SIZE, 3, self.memory))
        self.irq = RecordingTarget()
        self.device.set_irqs(IrqSet(TRIGGER_EVENTFD, CcwIrq.IO, 0, 1, targets=(self.irq,)))

    def run(self, *ccws: Ccw) -> str:
        data = program(*ccws)
        self.memory.array[: len(data)] = data
        before = self.irq.signals
        assert self.device.write(IO_REGION, 0, io_write(Orb(IOVA, USUAL))) is None
        assert self.irq.signals == before + 1
        region = self.device.read(IO_REGION, 24, 12)
        assert isinstance(region, bytes)
        return region.hex()


def test_programs_in_mapped_memory_end_at_once() -> None:
    rig = Mapped(RamStore(SIZE))
    assert rig.run(Ccw(0xE4, 0, 7, IOVA + 0x8000)) == "00c04007" + "00010008" + "0c000000"
    assert rig.memory.array[0x8000:0x8007] == bytes.fromhex("ff631001933610")
    assert rig.run(Ccw(NOP, CC), Ccw(0x0C, 0, 1, IOVA + 0x8000)) == "04c24017" + "00010010" + "0e000001"


def test_migration_through_the_state_machine() -> None:
    store = RamStore(SIZE)
    store.data[1000:2000] = b"\xa5" * 1000
    source, target = Mapped(store), Mapped(RamStore(SIZE))
    assert source.run(Ccw(0x14, 0, 1, IOVA)).endswith("0e000001")
    source.ccw.vary(online=False)
    target.device.migration.set_state(MigrationState.RESUMING)
    source.device.migration.set_state(MigrationState.PRE_COPY)
    while piece := source.device.migration_read(777):
        target.device.migration_write(piece)
    source.ccw.vary(online=True)
    source.device.migration.set_state(MigrationState.STOP_COPY)
    while piece := source.device.migration_read(777):
        target.device.migration_write(piece)
    target.device.migration.set_state(MigrationState.RUNNING)
    assert isinstance(target.ccw, CcwDevice)
    assert target.device.read(IO_REGION, 0, 124) == source.ccw.read(IO_REGION, 0, 124)
    assert target.device.read(3, 0, 4) == bytes.fromhex("04060000")
    assert target.device.read(3, 0, 4) == bytes.fromhex("04020000")
    assert target.run(Ccw(NOP)).endswith("0c000000")
    assert target.notes == []
