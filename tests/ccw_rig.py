"""Channel programs for tests: a memory, a disk in memory, a subchannel between them, and a control unit of scripts."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from guest_runner import ManualTimers, RunnerHost

from pvnet.core.machine import Note
from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_execute import NORMAL_END, UnitCheckError
from pvnet.mdev.ccw_fba import EXTENT, LOCATE
from pvnet.mdev.ccw_layout import Ccw, Irb, Orb, Scsw, decode_irb
from pvnet.mdev.ccw_names import Command, Function, OrbFlag
from pvnet.mdev.ccw_regions import IO_BYTES, IO_REGION, IRB_AT, RET_CODE, RET_CODE_AT
from pvnet.mdev.ccw_subchannel import CcwDevice
from pvnet.mdev.device import BlockStore, DmaRead, DmaWrite, LineReceiver, RegionMemory, SerialLine
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import CcwIrq
from pvnet.papr.errno import EFAULT, EINVAL, EIO, EROFS

T = TypeVar("T")

IOVA = 0x10000
MEMORY = 1 << 18
CC, CD, SLI, SKIP, PCI, IDA, SUSPEND, MIDA = 0x40, 0x80, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
FORMAT_1, PREFETCH, WIDE = OrbFlag.FORMAT_1, OrbFlag.PREFETCH, OrbFlag.IDAW_64
USUAL = FORMAT_1 | PREFETCH | WIDE
NOP, TIC = 0x03, 0x08


class RamStore:
    """A disk in memory, whose reads, writes or flushes can be made to fail."""

    def __init__(self, size: int, *, readonly: bool = False) -> None:
        self.size, self.readonly = size, readonly
        self.data = bytearray(size)
        self.failing: set[str] = set()
        self.flushes = 0
        self.closed = False

    def _check(self, what: str, offset: int, length: int) -> None:
        assert not self.closed
        assert 0 <= offset <= offset + length <= self.size
        if what in self.failing:
            raise MdevError(EIO, what)

    def read(self, offset: int, length: int) -> bytes:
        self._check("read", offset, length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._check("write", offset, len(data))
        if self.readonly:
            raise MdevError(EROFS)
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._check("flush", 0, 0)
        self.flushes += 1

    def close(self) -> None:
        self.closed = True


class RamServices:
    """Services of a process that has nothing but stores in memory."""

    def __init__(self, size: int = 1 << 16) -> None:
        self.default_size = size
        self.stores: list[RamStore] = []
        self.opened: list[tuple[str, int | None, bool]] = []

    def memory(self, name: str, size: int) -> RegionMemory:
        raise MdevError(EINVAL)

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        raise MdevError(EINVAL)

    def store(self, path: str, size: int | None, *, readonly: bool) -> BlockStore:
        self.opened.append((path, size, readonly))
        store = RamStore(self.default_size if size is None else size, readonly=readonly)
        self.stores.append(store)
        return store

    def scm(self, device: str) -> BlockStore:
        raise MdevError(EINVAL)

    def note(self, note: Note) -> None:
        raise AssertionError(note)


class ScriptUnit:
    """A control unit whose answers are given before: per command code what it wants, gives and ends with.

    :ivar log: what the channel did.
    """

    def __init__(self) -> None:
        self.log: list[object] = []
        self.inputs: dict[int, bytes] = {}
        self.outputs: dict[int, int] = {}
        self.ends: dict[int, list[int]] = {}
        self.refuses: set[int] = set()
        self._code = 0
        self._at = 0
        self.open = False

    def begin(self, code: int) -> int | None:
        self.log.append(("begin", code))
        self._code, self._at, self.open = code, 0, True
        if code in self.refuses:
            raise UnitCheckError
        if code in self.inputs:
            return len(self.inputs[code])
        return self.outputs.get(code)

    def give(self, length: int) -> bytes:
        data = self.inputs[self._code][self._at : self._at + length]
        assert len(data) == length
        self._at += length
        return data

    def take(self, data: bytes) -> None:
        self._at += len(data)
        assert self._at <= self.outputs[self._code]
        self.log.append(("take", data))

    def end(self) -> int:
        statuses = self.ends.get(self._code)
        return statuses.pop(0) if statuses else NORMAL_END

    def finish(self) -> None:
        self.log.append("finish")

    def sense(self) -> bytes:
        return bytes(32)

    @property
    def commands(self) -> list[int]:
        return [entry[1] for entry in self.log if isinstance(entry, tuple) and entry[0] == "begin"]

    @property
    def taken(self) -> list[bytes]:
        return [entry[1] for entry in self.log if isinstance(entry, tuple) and entry[0] == "take"]


class Memory:
    """Memory of a user that lies from ``iova`` on; what is not there is EFAULT.

    :ivar changes: called after each read, to play a user who writes while the device reads.
    """

    def __init__(self, size: int = MEMORY, iova: int = IOVA) -> None:
        self.iova = iova
        self.data = bytearray(size)
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, bytes]] = []
        self.changes: Callable[[DmaRead], None] | None = None

    def put(self, address: int, data: bytes) -> int:
        start = address - self.iova
        assert 0 <= start <= start + len(data) <= len(self.data)
        self.data[start : start + len(data)] = data
        return address

    def get(self, address: int, length: int) -> bytes:
        return bytes(self.data[address - self.iova : address - self.iova + length])

    def access(self, request: DmaRead | DmaWrite) -> bytes:
        length = request.length if isinstance(request, DmaRead) else len(request.data)
        assert length > 0
        assert request.address >= 0
        assert request.address + length <= 1 << 64
        if not self.iova <= request.address <= request.address + length <= self.iova + len(self.data):
            raise MdevError(EFAULT, f"{length} bytes at {request.address:#x}")
        if isinstance(request, DmaWrite):
            self.writes.append((request.address, bytes(request.data)))
            self.put(request.address, bytes(request.data))
            return b""
        self.reads.append((request.address, length))
        data = self.get(request.address, length)
        if self.changes is not None:
            self.changes(request)
        return data

    def run(self, steps: Generator[Any, bytes, T], limit: int = 1_000_000) -> T:
        """Run steps to their end; they must have one."""
        answer: bytes | MdevError | None = None
        for _ in range(limit):
            try:
                if isinstance(answer, MdevError):
                    request = steps.throw(answer)
                elif answer is None:
                    request = next(steps)
                else:
                    request = steps.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                answer = self.access(request)
            except MdevError as error:
                answer = error
        raise AssertionError("steps without end")


def program(*ccws: Ccw) -> bytes:
    return b"".join(ccw.encode() for ccw in ccws)


def program0(*ccws: Ccw) -> bytes:
    return b"".join(ccw.encode0() for ccw in ccws)


def idaws(addresses: Iterable[int], *, wide: bool = True) -> bytes:
    return b"".join(struct.pack(">Q" if wide else ">I", address) for address in addresses)


def io_write(orb: Orb, fctl: int = Function.START) -> bytes:
    """What a client writes to region 0."""
    return (orb.encode() + Scsw(fctl=fctl).encode()).ljust(IO_BYTES, b"\0")


def extent(first: int, last: int, *, location: int = 0, mask: int = 0, size: int = 512) -> bytes:
    return EXTENT.pack(mask, size, location, first, last)


def locate(operation: int, blocks: int, start: int) -> bytes:
    return LOCATE.pack(operation, 0, blocks, start)


class Rig:
    """An open device whose user has one piece of memory; programs run when :meth:`settle` is called."""

    PROGRAM = IOVA
    PARAMETERS = IOVA + 0x2000
    DATA = IOVA + 0x4000

    def __init__(self, store: RamStore | None = None, config: CcwConfig | None = None, *, listen: bool = True) -> None:
        self.store = store or RamStore(1 << 16)
        self.removed = 0
        self.device = CcwDevice(self.store, config or CcwConfig(), self._removed)
        self.timers = ManualTimers()
        self.host = RunnerHost(self.device, bytearray(MEMORY), IOVA, self.timers)
        self.device.open(self.host)
        if listen:
            for irq in CcwIrq:
                self.host.enable(irq)

    def _removed(self) -> None:
        self.removed += 1

    def put(self, address: int, data: bytes) -> int:
        self.host.memory[address - IOVA : address - IOVA + len(data)] = data
        return address

    def get(self, address: int, length: int) -> bytes:
        return bytes(self.host.memory[address - IOVA : address - IOVA + length])

    def write(self, region: int, offset: int, data: bytes) -> None:
        steps = self.device.write(region, offset, data)
        if steps is not None:
            self.host.drive(steps)

    def read(self, region: int, offset: int, length: int) -> bytes:
        data = self.device.read(region, offset, length)
        assert isinstance(data, bytes)
        return data

    def start(self, *ccws: Ccw, flags: int = USUAL, path_mask: int = 0x80, settle: bool = True) -> None:
        """Start a program in format 1."""
        self.put(self.PROGRAM, program(*ccws))
        self.write(IO_REGION, 0, io_write(Orb(self.PROGRAM, flags, path_mask)))
        if settle:
            self.host.settle()

    def run(self, *ccws: Ccw, flags: int = USUAL) -> Irb:
        """Run a program to its end; returns its status."""
        self.start(*ccws, flags=flags)
        assert self.take_irq()
        return self.irb()

    def take_irq(self, index: int = CcwIrq.IO) -> bool:
        if index in self.host.waiting:
            self.host.waiting.remove(index)
            return True
        return False

    def irb(self) -> Irb:
        return decode_irb(self.read(IO_REGION, IRB_AT, RET_CODE_AT - IRB_AT))

    def ret_code(self) -> int:
        return int(RET_CODE.unpack(self.read(IO_REGION, RET_CODE_AT, 4))[0])

    def move(self, code: int, block: int, data: bytes | int, *, mask: int = 0, operation: int | None = None) -> Irb:
        """DEFINE EXTENT over the whole disk, LOCATE, READ or WRITE; data, or how many bytes, at ``DATA``."""
        count = data if isinstance(data, int) else len(data)
        if not isinstance(data, int):
            self.put(self.DATA, data)
        if operation is None:
            operation = 6 if code == 0x42 else 5
        last = self.store.size // 512 - 1
        return self.run(*self.moving(code, block, count, extent(0, last, mask=mask), operation=operation))

    def moving(self, code: int, block: int, count: int, where: bytes, *, operation: int) -> Sequence[Ccw]:
        self.put(self.PARAMETERS, where)
        self.put(self.PARAMETERS + 16, locate(operation, -(-count // 512), block))
        return (
            Ccw(0x63, CC, 16, self.PARAMETERS),
            Ccw(0x43, CC, 8, self.PARAMETERS + 16),
            Ccw(code, 0, count, self.DATA),
        )

    def sense(self) -> bytes:
        """BASIC SENSE."""
        irb = self.run(Ccw(Command.BASIC_SENSE, 0, 32, self.DATA))
        assert irb.scsw.dstat == NORMAL_END
        return self.get(self.DATA, 32)
