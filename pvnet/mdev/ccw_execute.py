"""The channel: executes a translated program against a control unit.

A program is a list of CCWs.  Each begins a command at the control unit and moves its data; command chaining goes on to
the next CCW, data chaining gives the same command more memory, a TIC goes elsewhere.  How it ended is one status word
(SCSW).  The channel stops with a **program check** at what it cannot obey:

* an address that is 0, odd or too high (31 bits; 24 in format 0), a command whose low four bits are 0, a TIC of format
  1 with anything else in it, two TICs in a row, a count of 0 in format 0 or while data chaining, MIDA, a suspend flag
  that the ORB does not allow or while data chaining, more than 255 CCWs with a data address of 0;
* a CCW that was not copied: the status modifier skips over the end of a segment;
* more than 4096 CCWs (Decided: no program without loops can have more, and a loop has no other end here.)

Lengths: a residual count, or a control unit that had more to say, is an incorrect length unless SLI is set; SLI means
nothing while data chaining.  Commands that move no data at all (NOP) are never of incorrect length.  Memory that fails
under a running program is a channel data check.  A command that ends with status modifier skips the next CCW.

Suspension: a CCW with the suspend flag is not executed; the status says SUSPENDED, and only halt or clear go on from
there, because the device API has no resume.

Spec: mdev 5.4, 5.7, 5.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from pvnet.mdev.ccw_layout import ADDRESS_31, CCW_BYTES, Ccw, Scsw
from pvnet.mdev.ccw_names import (
    Activity,
    CcwFlag,
    ChannelStatus,
    Command,
    CommandClass,
    DeviceStatus,
    Function,
    OrbFlag,
    ScswFlag,
    StatusControl,
    command_class,
)
from pvnet.mdev.ccw_translate import MAX_SEGMENTS, SEGMENT_CCWS, ChannelProgram, HostCcw
from pvnet.mdev.device import DmaRead, DmaWrite, Steps
from pvnet.mdev.errors import MdevError

MAX_EXECUTED: Final = MAX_SEGMENTS * SEGMENT_CCWS
MAX_WITHOUT_ADDRESS: Final = 255
NORMAL_END: Final[int] = DeviceStatus.CHANNEL_END | DeviceStatus.DEVICE_END
_FROM_ORB: Final = (
    ScswFlag.SUSPEND
    | ScswFlag.PREFETCH
    | ScswFlag.INITIAL_STATUS
    | ScswFlag.ADDRESS_LIMIT
    | ScswFlag.SUPPRESS_SUSPENDED
)
"""These have the same places in ORB and SCSW."""
_FINAL: Final = StatusControl.PRIMARY | StatusControl.SECONDARY | StatusControl.PENDING


class UnitCheckError(Exception):
    """Raised by a control unit that refuses a command; its sense bytes say why."""

    def __init__(self, status: int = NORMAL_END | DeviceStatus.UNIT_CHECK) -> None:
        super().__init__(f"device status {status:#04x}")
        self.status = status


class ControlUnit(Protocol):
    """A device behind the channel.  Every method may raise :class:`UnitCheckError`, except ``finish`` and ``sense``."""

    def begin(self, code: int) -> int | None:
        """Begin a command; returns how many bytes it wants to move, None for one that never moves any."""
        ...

    def give(self, length: int) -> bytes:
        """Return the next bytes of a command that reads; the sum never exceeds what ``begin`` said."""
        ...

    def take(self, data: bytes) -> None:
        """Take the next bytes of a command that writes or controls."""
        ...

    def end(self) -> int:
        """All data has moved; returns the device status."""
        ...

    def finish(self) -> None:
        """The program is over, or was stopped."""
        ...

    def sense(self) -> bytes:
        """Return the 32 sense bytes and clear them."""
        ...


class _ProgramCheckError(Exception):
    """The channel cannot obey."""


class _DataCheckError(Exception):
    """Memory failed."""


def execute(program: ChannelProgram, unit: ControlUnit, intermediate: Callable[[Scsw], None]) -> Steps[Scsw]:
    """Run ``program`` to its end; returns the last status.

    ``intermediate`` hears of the others, of PCI flags.  A program that is closed in the middle has ended for the unit.
    """
    return (yield from _Channel(program, unit, intermediate).run())


def scsw_flags(program: ChannelProgram) -> int:
    """Flags that every status of a program has: those of the ORB the device got, which is always of format 1."""
    return program.orb.flags & _FROM_ORB | ScswFlag.FORMAT_1


# What is asked of every CCW, as plain numbers: looking a name up in its class takes longer than the question.
_CHAIN_DATA: Final = int(CcwFlag.CHAIN_DATA)
_CHAIN_COMMAND: Final = int(CcwFlag.CHAIN_COMMAND)
_SUPPRESS_LENGTH: Final = int(CcwFlag.SUPPRESS_LENGTH)
_SKIP: Final = int(CcwFlag.SKIP)
_PCI: Final = int(CcwFlag.PCI)
_SUSPEND: Final = int(CcwFlag.SUSPEND)
_NEVER: Final = int(CcwFlag.MIDA)
_TIC_CLASS: Final = CommandClass.TIC
_INVALID: Final = CommandClass.INVALID
_BACKWARD: Final = CommandClass.READ_BACKWARD
_READS: Final = frozenset({CommandClass.READ, CommandClass.READ_BACKWARD, CommandClass.SENSE})
_STATUS_MODIFIER: Final = int(DeviceStatus.STATUS_MODIFIER)


class _Channel:
    def __init__(self, program: ChannelProgram, unit: ControlUnit, intermediate: Callable[[Scsw], None]) -> None:
        self._segments = program.segments
        self._unit = unit
        self._intermediate = intermediate
        self._flags = scsw_flags(program)
        orb = program.orb
        self._format_1 = bool(orb.flags & OrbFlag.FORMAT_1)
        self._suspends = bool(orb.flags & OrbFlag.SUSPEND)
        self._segment = self._index = 0
        """The CCW to fetch next."""
        self._address = orb.address + CCW_BYTES & 0xFFFFFFFF
        self._count = 0
        self._executed = 0
        self._without_address = 0

    def run(self) -> Steps[Scsw]:
        try:
            return (yield from self._commands())
        except _ProgramCheckError:
            self._count = 0
            return self._status(0, ChannelStatus.PROGRAM_CHECK)
        except _DataCheckError:
            return self._status(0, ChannelStatus.DATA_CHECK)
        except UnitCheckError as check:
            return self._status(check.status, 0)
        finally:
            self._unit.finish()

    def _status(self, dstat: int, cstat: int) -> Scsw:
        alert = StatusControl.ALERT if cstat or dstat & DeviceStatus.UNIT_CHECK else 0
        return Scsw(self._flags, Function.START, 0, _FINAL | alert, self._address, dstat, cstat, self._count)

    def _commands(self) -> Steps[Scsw]:
        """Execute command after command."""
        unit = self._unit
        while True:
            host = self._fetch(data_chained=False)
            flags = host.ccw.flags
            if flags & _SUSPEND:
                stctl = StatusControl.INTERMEDIATE | StatusControl.PENDING
                return Scsw(self._flags, Function.START, Activity.SUSPENDED, stctl, self._address)
            self._take_control(host)
            length = unit.begin(host.ccw.command)
            incorrect = False
            if length is None:
                incorrect = bool(flags & _CHAIN_DATA)
            else:
                host, left = yield from self._transfer(host, length)
                flags = host.ccw.flags
                if self._count or left:
                    incorrect = bool(flags & _CHAIN_DATA or not flags & _SUPPRESS_LENGTH)
            dstat = unit.end()
            if incorrect:
                return self._status(dstat, ChannelStatus.INCORRECT_LENGTH)
            if dstat & ~_STATUS_MODIFIER != NORMAL_END or not flags & _CHAIN_COMMAND:
                return self._status(dstat, 0)
            self._index += 2 if dstat & _STATUS_MODIFIER else 1

    # --- CCWs ---

    def _fetch(self, *, data_chained: bool) -> HostCcw:
        """Return the CCW to execute, behind a TIC if there is one."""
        after_tic = False
        while True:
            number, index = self._segment, self._index
            if number >= len(self._segments) or index >= len(self._segments[number].ccws):
                raise _ProgramCheckError
            host = self._segments[number].ccws[index]
            self._address = host.address + CCW_BYTES
            self._executed += 1
            if self._executed > MAX_EXECUTED:
                raise _ProgramCheckError
            ccw = host.ccw
            kind = command_class(ccw.command)
            if kind is not _TIC_CLASS:
                if not data_chained and kind is _INVALID:
                    raise _ProgramCheckError
                self._check(ccw, data_chained=data_chained)
                return host
            bare = ccw.command == Command.TIC and not ccw.flags and not ccw.count
            if not bare or after_tic or host.target is None:
                raise _ProgramCheckError
            after_tic = True
            self._segment, self._index = host.target

    def _check(self, ccw: Ccw, *, data_chained: bool) -> None:
        """Refuse what no CCW may have; one that continues a data chain has no command of its own."""
        flags = ccw.flags
        if (
            flags & _NEVER
            or (not ccw.count and (data_chained or flags & _CHAIN_DATA or not self._format_1))
            or (flags & _SUSPEND and (data_chained or not self._suspends))
            or ccw.address > ADDRESS_31
        ):
            raise _ProgramCheckError
        if not ccw.address:
            self._without_address += 1
            if self._without_address > MAX_WITHOUT_ADDRESS:
                raise _ProgramCheckError

    def _take_control(self, host: HostCcw) -> None:
        self._count = host.ccw.count
        if host.ccw.flags & _PCI:
            actl = Activity.SUBCHANNEL_ACTIVE | Activity.DEVICE_ACTIVE
            stctl = StatusControl.INTERMEDIATE | StatusControl.PENDING
            self._intermediate(
                Scsw(self._flags, Function.START, actl, stctl, self._address, 0, ChannelStatus.PCI, self._count)
            )

    # --- data ---

    def _transfer(self, host: HostCcw, left: int) -> Steps[tuple[HostCcw, int]]:
        """Move ``left`` bytes; returns the last CCW of the data chain and what the unit still had."""
        direction = command_class(host.ccw.command)
        while True:
            length = min(left, host.ccw.count)
            if length:
                yield from self._move(host, direction, length)
            left -= length
            if self._count or not host.ccw.flags & _CHAIN_DATA:
                return host, left
            self._index += 1
            host = self._fetch(data_chained=True)
            self._take_control(host)

    def _move(self, host: HostCcw, direction: CommandClass, length: int) -> Steps[None]:
        """Move ``length`` bytes of one CCW."""
        unit, reads = self._unit, direction in _READS
        if reads and host.ccw.flags & _SKIP:
            unit.give(length)
            self._count -= length
            return
        if not host.areas:
            raise _ProgramCheckError
        if direction is _BACKWARD:
            data = unit.give(length)
            yield from _storing(host.ccw.address - length + 1, data[::-1])
            self._count -= length
            return
        for address, size in host.areas:
            piece = min(size, length)
            if reads:
                yield from _storing(address, unit.give(piece))
            else:
                try:
                    data = yield DmaRead(address, piece)
                except MdevError as error:
                    raise _DataCheckError from error
                unit.take(data)
            self._count -= piece
            length -= piece
            if not length:
                return


def _storing(address: int, data: bytes) -> Steps[None]:
    try:
        yield DmaWrite(address, data)
    except MdevError as error:
        raise _DataCheckError from error
