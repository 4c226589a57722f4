"""A partition's driver of FBA disks behind vfio-ccw: one block device ``dasd``.

Probing asks SENSE ID and READ DEVICE CHARACTERISTICS.  Reads and writes are programs of at most 48 KiB (96 blocks of
512 bytes) with IDA; those that do not begin or end with a block read the rest of it first.  Each program is started by
writing region 0, waited for by the I/O irq, and judged by its IRB:

* a unit check is looked up in the sense bytes (they come along, or BASIC SENSE gets them): command reject ends the
  request, EROFS if a write was file protected and else EIO; other checks are repeated, three times in all;
* channel data, channel control and interface control checks are repeated too;
* deferred condition code 3 is ENODEV, everything else EIO.

A program without an irq for ten seconds is halted, then cleared, and repeated once.  EAGAIN of the write is repeated;
EBUSY (somebody else's program, or one of ours whose end was lost) clears the subchannel.

Writes are durable when they end (:mod:`pvnet.mdev.ccw_fba`), so ``flush`` has nothing to do.  The driver wants 64 KiB
of DMA memory below 2 GiB.

Spec: mdev 5.8, 5.9, 8.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pvnet.core.machine import Counters
from pvnet.mdev.ccw_fba import BLOCK_SIZES, CHARACTERISTICS, Sense, SenseDetail
from pvnet.mdev.ccw_layout import CRW_BYTES, Irb, decode_crw, decode_irb
from pvnet.mdev.ccw_names import ChannelStatus, Command, DeviceStatus, Function, Recovery, ScswFlag, StatusControl
from pvnet.mdev.ccw_regions import (
    ASYNC_BYTES,
    ASYNC_REGION,
    COMMAND,
    CRW_REGION,
    CRW_REGION_BYTES,
    CSCH,
    HSCH,
    IO_BYTES,
    IO_REGION,
    IRB_AT,
    RET_CODE_AT,
)
from pvnet.mdev.ccw_request import MAX_REQUEST, RequestMemory
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import (
    DisableIrq,
    EnableIrq,
    GuestContext,
    GuestDriver,
    GuestDriverClass,
    GuestFile,
    GuestSteps,
    RegionRead,
    RegionWrite,
    WaitIrq,
)
from pvnet.mdev.names import CcwIrq, DeviceFlag
from pvnet.papr.errno import EAGAIN, EBUSY, EIO, ENODEV, ENOSPC, EROFS, ETIMEDOUT

TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 3
MAX_EAGAIN: Final = 100
_MAX_STATUSES: Final = 100
"""Interrupts looked at for one program before it is given up."""
_FBA_CONTROL_UNIT: Final = bytes.fromhex("ff6310")
_REPEATABLE: Final = (
    ChannelStatus.DATA_CHECK | ChannelStatus.CHANNEL_CONTROL_CHECK | ChannelStatus.INTERFACE_CONTROL_CHECK
)


class FbaFile:
    """The disk as bytes; :class:`~pvnet.mdev.guest.GuestFile`."""

    def __init__(self, driver: FbaDriver) -> None:
        self._driver = driver
        self.size: int | None = 0
        self.on_readable: Callable[[], None] | None = None

    @property
    def _bytes(self) -> int:
        return self.size or 0

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:
        """Read; less at the end of the disk."""
        end = min(offset + count, self._bytes)
        if not 0 <= offset < end:
            return b""
        size = self._driver.block_size
        first = offset // size
        data = bytearray()
        step = MAX_REQUEST // size
        for block in range(first, (end + size - 1) // size, step):
            data += yield from self._driver.read_blocks(block, min(step, (end + size - 1) // size - block))
        return bytes(data[offset - first * size : end - first * size])

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:
        """Store; less at the end of the disk, ENOSPC behind it."""
        end = min(offset + len(data), self._bytes)
        if not data:
            return 0
        if not 0 <= offset < end:
            raise MdevError(ENOSPC, f"offset {offset}: the disk has {self._bytes} bytes")
        size = self._driver.block_size
        at = offset
        while at < end:
            stop = min(end, (at // size + MAX_REQUEST // size) * size)
            yield from self._write_piece(at, data[at - offset : stop - offset])
            at = stop
        return end - offset

    def _write_piece(self, at: int, data: bytes) -> GuestSteps[None]:
        """Write one request; blocks that change in part are read first."""
        size = self._driver.block_size
        head, tail = at % size, -(at + len(data)) % size
        first, last = at // size, (at + len(data) - 1) // size
        if head:
            before = yield from self._driver.read_blocks(first, 1)
            data = before[:head] + data
        if tail:
            after = yield from self._driver.read_blocks(last, 1)
            data += after[size - tail :]
        yield from self._driver.write_blocks(first, data)

    def flush(self) -> GuestSteps[None]:
        """Return: what was written is durable."""
        yield from ()


class FbaDriver:
    """Drives one disk; :class:`~pvnet.mdev.guest.GuestDriver`."""

    def __init__(self, context: GuestContext) -> None:
        self.block_size = 512
        self.counters = Counters()
        self._memory = RequestMemory(context.memory, context.iova)
        self._has_async = len(context.regions) > ASYNC_REGION and context.regions[ASYNC_REGION].size >= ASYNC_BYTES
        self._has_crw = len(context.regions) > CRW_REGION and context.regions[CRW_REGION].size >= CRW_REGION_BYTES
        self._file = FbaFile(self)
        self._path = "online"
        self.files: Sequence[tuple[str, GuestFile]] = (("dasd", self._file),)

    # --- GuestDriver ---

    def probe(self) -> GuestSteps[None]:
        """Find the disk.

        :raises MdevError: ENODEV, it is no FBA disk.
        """
        yield EnableIrq(CcwIrq.IO)
        if self._has_crw:
            yield EnableIrq(CcwIrq.CRW)
        yield from self._request(lambda: self._memory.sensing(Command.SENSE_ID))
        identity = self._memory.sensed()
        if not identity.startswith(_FBA_CONTROL_UNIT):
            raise MdevError(ENODEV, f"control unit {identity[1:3].hex()} is no FBA disk")
        yield from self._request(lambda: self._memory.sensing(Command.READ_CHARACTERISTICS))
        *_, block_size, _, _, blocks = CHARACTERISTICS.unpack(self._memory.sensed()[: CHARACTERISTICS.size])
        if block_size not in BLOCK_SIZES or not blocks:
            raise MdevError(ENODEV, f"{blocks} blocks of {block_size} bytes")
        self.block_size = block_size
        self._file.size = blocks * block_size

    def irq(self, index: int) -> GuestSteps[None]:
        """Serve reports of the path; statuses that nobody waits for are counted."""
        if index != CcwIrq.CRW or not self._has_crw:
            self.counters["unsolicited"] += 1
            return
        data = yield RegionRead(CRW_REGION, 0, CRW_REGION_BYTES)
        if any(data):
            report = decode_crw(data[:CRW_BYTES])
            self.counters["reports"] += 1
            self.counters["reports_lost"] += report.overflow
            self._path = "offline" if report.recovery == Recovery.PERMANENT_ERROR else "online"

    def remove(self) -> GuestSteps[None]:
        """Listen no more."""
        yield DisableIrq(CcwIrq.IO)
        if self._has_crw:
            yield DisableIrq(CcwIrq.CRW)

    def shown(self) -> Mapping[str, object]:
        """Numbers."""
        return {
            "block_size": self.block_size,
            "blocks": (self._file.size or 0) // self.block_size,
            "path": self._path,
            **dict(sorted(self.counters.items())),
        }

    # --- blocks ---

    def read_blocks(self, block: int, blocks: int) -> GuestSteps[bytes]:
        """Read at most a request's worth of blocks."""
        yield from self._request(lambda: self._memory.moving(block, blocks, self.block_size, None))
        self.counters["read_blocks"] += blocks
        return self._memory.moved(blocks, self.block_size)

    def write_blocks(self, block: int, data: bytes) -> GuestSteps[None]:
        """Write whole blocks, at most a request's worth."""
        blocks = len(data) // self.block_size
        yield from self._request(lambda: self._memory.moving(block, blocks, self.block_size, data), writes=True)
        self.counters["written_blocks"] += blocks

    # --- programs ---

    def _request(self, make: Callable[[], bytes], *, writes: bool = False) -> GuestSteps[None]:
        """Run a program until it succeeds."""
        attempt = 0
        while True:
            attempt += 1
            try:
                irb = yield from self._run(make())
            except MdevError as error:
                if error.errno != ETIMEDOUT:
                    raise
                self.counters["timeouts"] += 1
                yield from self._give_up()
                if attempt > 1:
                    raise MdevError(EIO, "no interrupt") from error
                continue
            problem = yield from self._judge(irb, writes=writes)
            if problem is None:
                return
            self.counters["errors"] += 1
            if problem.errno != EAGAIN:
                raise problem
            if attempt >= ATTEMPTS:
                raise MdevError(EIO, str(problem))

    def _run(self, start: bytes) -> GuestSteps[Irb]:
        """Run a program; returns the last status."""
        yield from self._start(start)
        for _ in range(_MAX_STATUSES):
            yield WaitIrq(CcwIrq.IO, TIMEOUT_S)
            data = yield RegionRead(IO_REGION, 0, IO_BYTES)
            irb = decode_irb(data[IRB_AT:RET_CODE_AT])
            if irb.scsw.stctl & StatusControl.PENDING and irb.scsw.is_final:
                return irb
        raise MdevError(ETIMEDOUT, "statuses without end")

    def _start(self, start: bytes) -> GuestSteps[None]:
        cleared = False
        for _ in range(MAX_EAGAIN):
            try:
                yield RegionWrite(IO_REGION, 0, start)
            except MdevError as error:
                if error.errno == EBUSY and not cleared and self._has_async:
                    cleared = True
                    yield from self._stop(CSCH)
                elif error.errno != EAGAIN:
                    raise
            else:
                return
        raise MdevError(EIO, "the subchannel is always busy")

    def _judge(self, irb: Irb, *, writes: bool) -> GuestSteps[MdevError | None]:
        """Return what is wrong with a status; EAGAIN: it is worth another attempt."""
        scsw = irb.scsw
        if scsw.flags & ScswFlag.DEFERRED_CC_3 == ScswFlag.DEFERRED_CC_3:
            return MdevError(ENODEV, "no path to the device")
        if not scsw.fctl & Function.START or scsw.fctl & (Function.HALT | Function.CLEAR):
            return MdevError(EAGAIN, "program was stopped")
        if scsw.dstat & DeviceStatus.UNIT_CHECK:
            sense = irb.sense
            if sense is None:
                sense = yield from self._basic_sense()
            self.counters["unit_checks"] += 1
            if sense[0] & Sense.COMMAND_REJECT:
                protected = writes and sense[1] & SenseDetail.FILE_PROTECTED
                return MdevError(EROFS if protected else EIO, f"command reject, sense {sense[:2].hex()}")
            return MdevError(EAGAIN, f"unit check, sense {sense[:2].hex()}")
        if scsw.cstat & ~ChannelStatus.PCI:
            repeat = scsw.cstat & _REPEATABLE
            return MdevError(EAGAIN if repeat else EIO, f"channel status {scsw.cstat:#04x}")
        good = scsw.dstat == DeviceStatus.CHANNEL_END | DeviceStatus.DEVICE_END
        return None if good else MdevError(EIO, f"device status {scsw.dstat:#04x}")

    def _basic_sense(self) -> GuestSteps[bytes]:
        """Fetch sense bytes; two zeros when even that fails."""
        irb = yield from self._run(self._memory.sensing(Command.BASIC_SENSE))
        if irb.scsw.cstat or irb.scsw.dstat & DeviceStatus.UNIT_CHECK:
            return bytes(2)
        return self._memory.sensed()

    def _give_up(self) -> GuestSteps[None]:
        """End a program that does not end: halt, and if that does not help, clear.

        :raises MdevError: EIO, there is no way to.
        """
        if not self._has_async:
            raise MdevError(EIO, "no interrupt, and no way to halt")
        for command in (HSCH, CSCH):
            try:
                yield from self._stop(command)
            except MdevError as error:
                if error.errno not in (ETIMEDOUT, EAGAIN, EBUSY):
                    raise
            else:
                return
        raise MdevError(EIO, "neither halt nor clear has ended the program")

    def _stop(self, command: int) -> GuestSteps[None]:
        """Halt or clear, and take the status of it."""
        self.counters["halts" if command == HSCH else "clears"] += 1
        yield RegionWrite(ASYNC_REGION, 0, COMMAND.pack(command).ljust(ASYNC_BYTES, b"\0"))
        yield WaitIrq(CcwIrq.IO, TIMEOUT_S)
        yield RegionRead(IO_REGION, 0, IO_BYTES)


class FbaDriverClass:
    """Matches every vfio-ccw device; whether it is a disk is found out by probing."""

    name = "dasd-fba"

    def match(self, context: GuestContext) -> bool:
        """Whether it is a channel-I/O device."""
        is_ccw = context.device.flags & DeviceFlag.CCW
        return bool(is_ccw) and bool(context.regions) and context.regions[IO_REGION].size >= IO_BYTES

    def create(self, context: GuestContext) -> GuestDriver:
        """Make a driver.

        :raises MdevError: EINVAL, the DMA memory.
        """
        return FbaDriver(context)


CCW_GUEST: Final[GuestDriverClass] = FbaDriverClass()
