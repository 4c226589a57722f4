"""A device of the VFIO API, its user, and what both need, all of it recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvnet.core.machine import Note
from pvnet.mdev.device import DeviceBase, DeviceHost, DmaRead, DmaWrite, Region, Steps
from pvnet.mdev.dma import DmaLimits, DmaRegion
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, DmaFlag, IrqFlag, MigrationFlag, RegionFlag
from pvnet.mdev.pci import Bar, ConfigSpace
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM

RW = int(RegionFlag.READ | RegionFlag.WRITE)
DMA_RW = int(DmaFlag.READ | DmaFlag.WRITE)
PAGE = 4096
BAR_MEMORY = 3 * PAGE
"""Size of BAR 2, which users map."""
BAR_IO = 64
"""Size of BAR 0 and BAR 1."""
STATE_BYTES = 24

# Registers of BAR 0, each a u64; the rest is plain memory.
ADDRESS, LENGTH, VALUE, COMMAND = 0, 8, 16, 24
READ_MEMORY, WRITE_MEMORY, COPY, RAISE, LOWER, EDGE = 1, 2, 3, 4, 5, 6


class RecordingTarget:
    """Where an irq goes."""

    def __init__(self) -> None:
        self.signals = 0
        self.closed = 0

    def signal(self) -> None:
        assert not self.closed, "signalled after it was closed"
        self.signals += 1

    def close(self) -> None:
        self.closed += 1


class ArrayMemory:
    """Memory of a user that is mapped here; ``mapped`` False: as a file that is read and written."""

    def __init__(self, size: int = PAGE, *, mapped: bool = True) -> None:
        self.array = bytearray(size)
        self.view: memoryview | None = memoryview(self.array) if mapped else None
        self.closed = 0
        self.short = size
        """Where the file ends, after somebody has made it shorter."""

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return bytes(self.array[offset : offset + length])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._check(offset, len(data))
        self.array[offset : offset + len(data)] = data

    def _check(self, offset: int, length: int) -> None:
        assert not self.closed, "touched after it was closed"
        if offset + length > self.short:
            raise MdevError(EFAULT, "the file is shorter")

    def close(self) -> None:
        self.closed += 1
        self.view = None


class ArrayRegion:
    """Memory of a region."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.array = bytearray(size)
        self.view = memoryview(self.array)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class ManualTimers:
    """Time that moves when it is told to."""

    class Timer:
        def __init__(self, when: float, callback: Callable[[], None]) -> None:
            self.when = when
            self.callback = callback
            self.cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[ManualTimers.Timer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = self.Timer(self.now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((timer for timer in self.timers if timer.when <= self.now), key=lambda timer: timer.when)
        self.timers = [timer for timer in self.timers if timer.when > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()


class RecordingUser:
    """Has a device open; its memory by messages is ``memory`` from address ``base``.

    ``at_once``: answers before the request returns; else :meth:`answer` does.
    """

    def __init__(self, *, max_transfer: int = 1 << 20, size: int = 16 * PAGE, base: int = 0) -> None:
        self.max_transfer = max_transfer
        self.memory = bytearray(size)
        self.base = base
        self.at_once = False
        self.fail: MdevError | None = None
        self.requests: list[tuple[str, int, int]] = []
        self.waiting: list[Callable[[], None]] = []
        self.ends: list[str] = []

    def dma_read(self, address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        self.requests.append(("read", address, length))
        start = address - self.base
        self._queue(lambda: done(self.fail or bytes(self.memory[start : start + length])))

    def dma_write(self, address: int, data: bytes, done: Callable[[MdevError | None], None]) -> None:
        self.requests.append(("write", address, len(data)))
        start = address - self.base

        def store() -> None:
            if self.fail is None:
                self.memory[start : start + len(data)] = data
            done(self.fail)

        self._queue(store)

    def _queue(self, action: Callable[[], None]) -> None:
        if self.at_once:
            action()
        else:
            self.waiting.append(action)

    def answer(self) -> None:
        """Answer the oldest request."""
        self.waiting.pop(0)()

    def answer_all(self) -> int:
        """Answer until nothing is asked any more; returns how many it were."""
        count = 0
        while self.waiting:
            self.answer()
            count += 1
        return count

    def ended(self, reason: str) -> None:
        self.ends.append(reason)


class SampleMigration:
    """State: 24 bytes, of which the first 8 can be told while it runs."""

    def __init__(self, device: SampleDevice) -> None:
        self.device = device
        self.flags = int(MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY)
        self.log: list[str] = []
        self.at = 0
        self.taken: bytearray | None = None
        self.fail: Exception | None = None

    def _enter(self, what: str) -> None:
        self.log.append(what)
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure

    def save_begin(self) -> None:
        self._enter("save_begin")
        self.at = 0

    def precopy(self, limit: int) -> bytes:
        self._enter("precopy")
        return self._give(limit, 8)

    def save(self, limit: int) -> bytes:
        self._enter("save")
        return self._give(limit, STATE_BYTES)

    def _give(self, limit: int, end: int) -> bytes:
        piece = bytes(self.device.state[self.at : min(end, self.at + limit)])
        self.at += len(piece)
        return piece

    def remaining(self) -> int:
        return STATE_BYTES - self.at

    def restore_begin(self) -> None:
        self._enter("restore_begin")
        self.taken = bytearray()

    def restore(self, data: bytes) -> None:
        self._enter("restore")
        assert self.taken is not None
        if len(self.taken) + len(data) > STATE_BYTES:
            raise MdevError(ENOMEM, "too much")
        self.taken += data

    def restore_end(self) -> None:
        self._enter("restore_end")
        assert self.taken is not None
        if len(self.taken) != STATE_BYTES:
            raise MdevError(EINVAL, "too short")
        self.device.state[:] = self.taken


class SampleDevice(DeviceBase):
    """PCI: BAR 0 with registers that use the user's memory, BAR 1 plain, BAR 2 to be mapped, INTx, MSI, ERR, REQ."""

    def __init__(self) -> None:
        self.flags = int(DeviceFlag.RESET | DeviceFlag.PCI)
        intx = int(IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED)
        self.irqs: Sequence[IrqInfo] = (
            IrqInfo(1, intx),
            IrqInfo(4, int(IrqFlag.EVENTFD | IrqFlag.NORESIZE)),
            IrqInfo(),
            IrqInfo(1, int(IrqFlag.EVENTFD)),
            IrqInfo(1, int(IrqFlag.EVENTFD)),
        )
        self.config = ConfigSpace(
            bytes.fromhex("34126745 00000000 01000007"), bars={0: Bar(BAR_IO, True), 1: Bar(BAR_IO, True)}
        )
        self.memory = ArrayRegion(BAR_MEMORY)
        sparse = ((0, PAGE), (2 * PAGE, PAGE))
        mapped = RegionInfo(BAR_MEMORY, RW | int(RegionFlag.MMAP), 0, sparse)
        none = Region(RegionInfo())
        bar = Region(RegionInfo(BAR_IO, RW))
        read_only = Region(RegionInfo(16, int(RegionFlag.READ)))
        write_only = Region(RegionInfo(16, int(RegionFlag.WRITE)))
        self.all_regions: Sequence[Region] = (
            *(bar, bar, Region(mapped, self.memory), none, read_only, write_only, none),
            *(Region(RegionInfo(256, RW)), none),
        )
        self.bars = {region: bytearray(BAR_IO) for region in range(6)}
        self.state = bytearray(range(STATE_BYTES))
        self.ops = SampleMigration(self)
        self.migration = self.ops
        self.host: DeviceHost | None = None
        self.log: list[tuple[object, ...]] = []
        self.fail: dict[str, Exception] = {}
        """What the next call of a method raises."""
        self.on_read: Callable[[int, int, int], bytes | Steps[bytes]] | None = None

    def _enter(self, *what: object) -> None:
        self.log.append(what)
        failure = self.fail.pop(str(what[0]), None)
        if failure is not None:
            raise failure

    @property
    def regions(self) -> Sequence[Region]:
        return self.all_regions

    def open(self, host: DeviceHost) -> None:
        self.host = host
        self._enter("open")

    def close(self) -> None:
        self._enter("close")

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        self._enter("read", region, offset, length)
        assert length > 0
        assert offset + length <= self.all_regions[region].info.size
        if self.on_read is not None:
            return self.on_read(region, offset, length)
        if region == 7:
            return self.config.read(offset, length)
        if region == 0 and offset >= COMMAND:
            return self._dma_read(length)
        return bytes(self.bars[region][offset : offset + length])

    def _register(self, offset: int) -> int:
        return int.from_bytes(self.bars[0][offset : offset + 8], "little")

    def _dma_read(self, length: int) -> Steps[bytes]:
        """Reading COMMAND gives what the memory at ADDRESS has."""
        return (yield DmaRead(self._register(ADDRESS), length))

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        self._enter("write", region, offset, data)
        assert data
        assert offset + len(data) <= self.all_regions[region].info.size
        if region == 7:
            self.config.write(offset, data)
            return None
        self.bars[region][offset : offset + len(data)] = data
        return self._command(data[0]) if region == 0 and offset == COMMAND else None

    def _command(self, command: int) -> Steps[None]:
        address, length, value = (self._register(offset) for offset in (ADDRESS, LENGTH, VALUE))
        assert self.host is not None
        if command == READ_MEMORY:
            data = yield DmaRead(address, length)
            self.log.append(("memory", data))
        elif command == WRITE_MEMORY:
            yield DmaWrite(address, bytes([value & 0xFF]) * length)
        elif command == COPY:
            data = yield DmaRead(address, length)
            yield DmaWrite(value, data)
        elif command == RAISE:
            self.host.set_level(0, asserted=True)
        elif command == LOWER:
            self.host.set_level(0, asserted=False)
        elif command == EDGE:
            self.host.signal(1, value)

    def irq_changed(self, index: int) -> None:
        self._enter("irq_changed", index)

    def dma_unmapped(self, address: int, size: int) -> None:
        self._enter("dma_unmapped", address, size)

    def reset(self) -> None:
        self._enter("reset")
        self.config.reset()

    def start(self) -> None:
        self._enter("start")

    def stop(self) -> None:
        self._enter("stop")

    def called(self, name: str) -> list[tuple[object, ...]]:
        """Calls of one method."""
        return [entry for entry in self.log if entry[0] == name]


class Rig:
    """A device that is open."""

    def __init__(self, *, opened: bool = True, limits: DmaLimits | None = None, max_transfer: int = 1 << 20) -> None:
        self.works = SampleDevice()
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        self.vfio = VfioDevice(self.works, "sample", self.timers, self.notes.append, limits)
        self.user = RecordingUser(max_transfer=max_transfer)
        if opened:
            self.vfio.open(self.user)
            self.works.log.clear()

    def map(self, address: int, size: int = PAGE, *, flags: int = DMA_RW, mapped: bool = True) -> ArrayMemory:
        """DMA_MAP with a descriptor."""
        memory = ArrayMemory(size, mapped=mapped)
        self.vfio.dma_map(DmaRegion(address, size, flags, memory))
        return memory

    def map_remote(self, address: int, size: int = PAGE, *, flags: int = DMA_RW) -> None:
        """DMA_MAP without one."""
        self.vfio.dma_map(DmaRegion(address, size, flags))

    def registers(self, address: int, length: int, value: int = 0) -> None:
        """Prepare a command."""
        data = b"".join(number.to_bytes(8, "little") for number in (address, length, value))
        self.vfio.write(0, ADDRESS, data)

    def run(self, steps: Steps[None]) -> list[MdevError | None]:
        """Run a program by the device's host; returns a list to which its end is appended."""
        assert self.works.host is not None
        ends: list[MdevError | None] = []
        self.works.host.run(steps, ends.append)
        return ends


def errno_of(action: Callable[[], object]) -> int:
    """Errno that an action is refused with; 0: none."""
    try:
        action()
    except MdevError as error:
        return error.errno
    return 0
