"""A subchannel with a disk as a mediated device: what happens when the regions of vfio-ccw are touched.

The regions themselves are in :mod:`pvnet.mdev.ccw_regions`; irqs are 0 I/O, 1 CRW, 2 REQ, with one vector each.

* **Any** write to region 0 starts what the region then says: usually all of it is written, with the start bit in the
  SCSW.  The write ends when the program is translated; its error is also in ``ret_code``, which like ``command`` is
  little-endian.  A write without any function bit answers what ``ret_code`` says itself.
* The program then runs beside everything else.  Each status it has is stored as IRB and told by irq 0; one that was not
  read before the next is lost, as in the kernel.
* What is allowed when is one table: :mod:`pvnet.mdev.ccw_states`.
* Pages of a program are pinned: when the user takes one of them back, the device resets itself.
* Halting a program that runs ends it with fctl START|HALT, channel end and device end; clear with fctl CLEAR.  A
  program whose path goes offline ends with deferred condition code 3.
* A program that still runs when the device is stopped (a framework waits for it first) ends with an interface control
  check as soon as the device is started again, here or elsewhere: the user repeats it.

Spec: mdev 5.1 to 5.3, 9.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pvnet.core.machine import Counters, Note
from pvnet.mdev import ccw_regions as layout
from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_execute import execute, scsw_flags
from pvnet.mdev.ccw_fba import FbaUnit
from pvnet.mdev.ccw_layout import ORB_BYTES, Irb, Scsw, decode_orb, decode_scsw, encode_schib, make_irb
from pvnet.mdev.ccw_names import Activity, ChannelStatus, DeviceStatus, Function, OrbFlag, ScswFlag
from pvnet.mdev.ccw_path import ChannelPath, Reports
from pvnet.mdev.ccw_states import TABLE, Action, Event, State
from pvnet.mdev.ccw_status import CLEARED, HALTED_IDLE, NOT_OPERATIONAL, broken, busy, halted
from pvnet.mdev.ccw_stream import CcwMigration, Snapshot
from pvnet.mdev.ccw_translate import ChannelProgram, translate
from pvnet.mdev.device import BlockStore, Cancellable, DeviceBase, DeviceHost, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import CcwIrq, DeviceFlag, IrqFlag
from pvnet.papr.errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP, EPERM

_REFUSALS: Final = {Action.REFUSE_EIO: EIO, Action.REFUSE_EAGAIN: EAGAIN, Action.REFUSE_EBUSY: EBUSY}


def _nothing() -> None:
    """Its parent knows already."""


class CcwDevice(DeviceBase):
    """A subchannel, its path and its disk.

    :ivar state: see :mod:`pvnet.mdev.ccw_states`.
    """

    flags: int = DeviceFlag.RESET | DeviceFlag.CCW
    irqs: Sequence[IrqInfo] = (IrqInfo(1, IrqFlag.EVENTFD),) * len(CcwIrq)

    def __init__(self, store: BlockStore, config: CcwConfig, removed: Callable[[], None]) -> None:
        self.state = State.STANDBY
        self.config = config
        self.devno = config.devno
        self.concurrent_sense = config.concurrent_sense
        self.path = ChannelPath(config.chpid)
        self.reports = Reports()
        self.counters = Counters()
        self.io = bytearray(layout.IO_BYTES)
        self.command = bytearray(layout.ASYNC_BYTES)
        self.suspended: Scsw | None = None
        """Status of a program that waits to be halted or cleared."""
        self.owed: Irb | None = None
        """Status that is told as soon as the device is started and somebody listens."""
        self._removed = removed
        self._host: DeviceHost | None = None
        self._program: ChannelProgram | None = None
        self._running: Cancellable | None = None
        migration = CcwMigration(store, config.block_size, self._snapshot, self._restore)
        self.migration = migration
        self.unit = FbaUnit(store, config.block_size, durable=config.durable, written=migration.written)
        self.read_only = frozenset(self.attributes()) - {"path"}

    @property
    def regions(self) -> Sequence[Region]:
        """All 4."""
        return layout.REGIONS

    # --- open, close, reset ---

    def open(self, host: DeviceHost) -> None:
        """Enable the subchannel."""
        if self.state is not State.STANDBY:
            raise MdevError(EINVAL, f"subchannel is {self.state.name}")
        self._host = host
        self._enable()

    def _enable(self) -> None:
        quiet = self.suspended is not None and self.suspended.flags & ScswFlag.SUPPRESS_SUSPENDED
        self.state = State.CP_PENDING if self.owed is not None or quiet else State.IDLE

    def close(self) -> None:
        """Clear the subchannel; what the user has written is forgotten."""
        if self._host is not None:
            self._close()
            self._host = None

    def _close(self) -> None:
        self._leave(Event.CLOSE)
        self.io[:] = bytes(layout.IO_BYTES)
        self.command[:] = bytes(layout.ASYNC_BYTES)

    def reset(self) -> None:
        """Close and open again; reports that wait stay.

        :raises MdevError: EINVAL, there is no subchannel any more.
        """
        if self.state is State.NOT_OPER:
            raise MdevError(EINVAL, "not operational")
        self.unit.sense()
        if self._host is not None:
            self._close()
            self._enable()

    def not_operational(self) -> None:
        """The subchannel is gone, for good."""
        self._leave(Event.NOT_OPER)

    def _leave(self, event: Event) -> None:
        action = TABLE[self.state, event]
        if action is Action.IGNORE:
            return
        self._end_program()
        self.suspended = self.owed = None
        self.state = State.NOT_OPER if action is Action.VANISH else State.STANDBY

    def _end_program(self) -> None:
        """Stop the program, if there is one, and let go of its pages."""
        self._program = None
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def remove(self) -> None:
        """Become not operational."""
        self.not_operational()
        removed, self._removed = self._removed, _nothing
        removed()

    def dma_unmapped(self, address: int, size: int) -> None:
        """Reset, if a program has a page of it."""
        if size > 0 and self._program is not None and self._program.pins(address, size):
            self.counters["resets_by_unmap"] += 1
            assert self._host is not None
            self._host.note(Note("ccw_pinned_page_unmapped", (("address", f"{address:#x}"),), "warning"))
            self.reset()

    # --- regions ---

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        """Read a region; reading SCHIB and CRW does what it says there."""
        if region == layout.IO_REGION:
            data = bytes(self.io)
        elif region == layout.ASYNC_REGION:
            data = bytes(self.command)
        elif region == layout.SCHIB_REGION:
            data = self._schib()
        else:
            data = self._take_report()
        return data[offset : offset + length]

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        """Write a region, which makes it act."""
        if region == layout.IO_REGION:
            return self._io_request(offset, data)
        if region == layout.ASYNC_REGION:
            self._async_request(offset, data)
            return None
        raise MdevError(EINVAL, f"region {region} is read-only")

    def _schib(self) -> bytes:
        if self.state is State.NOT_OPER:
            raise MdevError(ENODEV, "not operational")
        is_busy = self.suspended is not None or self.state is State.CP_PENDING
        scsw = busy(self._program, self.suspended) if is_busy else Scsw()
        enabled = self.state is not State.STANDBY
        return encode_schib(self.path.pmcw(self.devno, enabled=enabled, concurrent_sense=self.concurrent_sense), scsw)

    def _take_report(self) -> bytes:
        report = self.reports.pop()
        if self.reports and self._host is not None:
            self._host.signal(CcwIrq.CRW)
        return (report.encode() if report is not None else b"").ljust(layout.CRW_REGION_BYTES, b"\0")

    # --- start ---

    def _io_request(self, offset: int, data: bytes) -> Steps[None] | None:
        action = TABLE[self.state, Event.IO_REQUEST]
        if action is Action.REFUSE_EAGAIN:
            raise MdevError(EAGAIN, "a program is being started")
        self.io[offset : offset + len(data)] = data
        if action is not Action.START:
            raise self._io_failed(MdevError(_REFUSALS[action], f"subchannel is {self.state.name}"))
        function = decode_scsw(bytes(self.io[layout.SCSW_AT : layout.IRB_AT])).fctl
        if function & Function.START:
            self.state = State.CP_PROCESSING
            self._program = ChannelProgram(decode_orb(bytes(self.io[:ORB_BYTES])))
            return self._start(self._program)
        if function:
            raise self._io_failed(MdevError(EOPNOTSUPP, "halt and clear belong into the async region"))
        (code,) = layout.RET_CODE.unpack_from(self.io, layout.RET_CODE_AT)
        if code < 0:
            raise MdevError(-code, "ret_code, as it was written")
        return None

    def _io_failed(self, error: MdevError) -> MdevError:
        layout.RET_CODE.pack_into(self.io, layout.RET_CODE_AT, -error.code)
        return error

    def _start(self, program: ChannelProgram) -> Steps[None]:
        """Translate a program and set it off."""
        try:
            yield from translate(program)
            if self._program is not program:
                raise MdevError(EIO, "the subchannel was reset")
            if self.suspended is not None:
                raise MdevError(EBUSY, "a suspended program")
            self.path.choose(program.orb.path_mask)
        except BaseException as error:
            self.counters["refused"] += 1
            if self._program is program:
                self._program = None
                self.state = State.IDLE
                self._io_failed(error if isinstance(error, MdevError) else MdevError(EIO))
            raise
        self.counters["programs"] += 1
        layout.RET_CODE.pack_into(self.io, layout.RET_CODE_AT, 0)
        self.state = State.CP_PENDING
        assert self._host is not None
        running = self._host.run(self._run(program), lambda error: self._ran(program, error))
        if self._program is program and self.suspended is None:
            self._running = running

    def _run(self, program: ChannelProgram) -> Steps[None]:
        def intermediate(scsw: Scsw) -> None:
            if self._program is program:
                self._status(make_irb(scsw))

        scsw = yield from execute(program, self.unit, intermediate)
        if self._program is not program:
            return
        self._running = None
        if scsw.actl & Activity.SUSPENDED:
            self.suspended = scsw
            if program.orb.flags & OrbFlag.SUPPRESS_SUSPENDED:
                return
        sense = None
        if scsw.dstat & DeviceStatus.UNIT_CHECK:
            self.counters["unit_checks"] += 1
            sense = self.unit.sense() if self.concurrent_sense else None
        self._status(make_irb(scsw, sense))

    def _ran(self, program: ChannelProgram, error: MdevError | None) -> None:
        """The work has ended; with an error only if the device itself is broken."""
        if error is not None and self._program is program:
            self.counters["failed"] += 1
            self._status(broken(scsw_flags(program), ChannelStatus.CHANNEL_CONTROL_CHECK))

    # --- statuses ---

    def _status(self, irb: Irb) -> None:
        """Tell a status of the subchannel: the INTERRUPT event."""
        if TABLE[self.state, Event.INTERRUPT] is Action.DROP_STATUS:
            return
        if irb.scsw.is_final and self.state is State.CP_PENDING:
            self._program = self.owed = None
            self.state = State.IDLE
        self.io[layout.IRB_AT : layout.RET_CODE_AT] = irb.encode()
        self.counters["interrupts"] += 1
        assert self._host is not None
        self._host.signal(CcwIrq.IO)

    # --- halt, clear ---

    def _async_request(self, offset: int, data: bytes) -> None:
        action = TABLE[self.state, Event.ASYNC_REQUEST]
        if action is Action.REFUSE_EAGAIN:
            raise MdevError(EAGAIN, "a program is being started")
        self.command[offset : offset + len(data)] = data
        code = _REFUSALS.get(action, 0)
        (command,) = layout.COMMAND.unpack_from(self.command)
        if not code and command not in (layout.HSCH, layout.CSCH):
            code = EINVAL
        layout.RET_CODE.pack_into(self.command, layout.ASYNC_RET_CODE_AT, -code)
        if code:
            raise MdevError(code, f"async command {command} while {self.state.name}")
        self._halt_clear(command)

    def _halt_clear(self, command: int) -> None:
        """End whatever there is; the status of it comes at once."""
        if command == layout.CSCH:
            irb = CLEARED
        elif self.suspended is not None:
            irb = halted(self.suspended.flags)
        elif self._program is not None:
            irb = halted(scsw_flags(self._program))
        else:
            irb = HALTED_IDLE
        self._end_program()
        self.suspended = None
        self._status(irb)

    # --- stop, start: migration ---

    def stop(self) -> None:
        """Run nothing any more."""
        program = self._program
        if program is not None and self.suspended is None:
            processing = self.state is State.CP_PROCESSING
            self._end_program()
            if processing:
                self.state = State.IDLE
            else:
                self.owed = broken(scsw_flags(program), ChannelStatus.INTERFACE_CONTROL_CHECK)

    def start(self) -> None:
        """Tell what is owed."""
        self._pay()

    def irq_changed(self, index: int) -> None:
        """Somebody may have begun to listen: tell what is owed."""
        if index == CcwIrq.IO:
            self._pay()

    def _pay(self) -> None:
        if self.owed is not None and self._host is not None and self._host.irq_enabled(CcwIrq.IO):
            self._status(self.owed)

    def _snapshot(self) -> Snapshot:
        path = self.path
        return Snapshot(
            self.devno, path.chpid, path.online, path.last_used, self.concurrent_sense,
            bytes(self.io), bytes(self.command), self.unit.sense_data,
            self.suspended, self.owed, self.reports.waiting(),
        )  # fmt: skip

    def _restore(self, saved: Snapshot) -> None:
        """Become what was saved, open or not."""
        if self.state is State.NOT_OPER:
            raise MdevError(EINVAL, "not operational")
        self._end_program()
        self.devno, self.concurrent_sense = saved.devno, saved.concurrent_sense
        self.path.chpid, self.path.online, self.path.last_used = saved.chpid, saved.online, saved.last_used
        self.io[:], self.command[:], self.unit.sense_data = saved.io, saved.command, saved.sense
        self.suspended, self.owed = saved.suspended, saved.owed
        self.reports.replace(saved.reports)
        if self._host is not None:
            self._enable()

    # --- attributes ---

    def attributes(self) -> Mapping[str, str]:
        """Return all of them; ``path`` can be set."""
        shown = ("failed", "interrupts", "programs", "refused", "unit_checks")
        return {
            **self.config.attributes(),
            **{name: str(self.counters[name]) for name in shown},
            "blocks": str(self.unit.blocks),
            "chpid": f"{self.path.chpid:02x}",
            "concurrent_sense": "yes" if self.concurrent_sense else "no",
            "devno": f"{self.devno:04x}",
            "path": "online" if self.path.online else "offline",
            "state": self.state.name.lower(),
        }

    def set(self, key: str, value: str) -> None:
        """Vary the path: ``path=online`` or ``path=offline``."""
        if key in self.read_only:
            raise MdevError(EPERM, f"attribute {key!r} is read-only")
        if key != "path":
            raise MdevError(ENOENT, f"attribute {key!r}")
        if value not in ("online", "offline"):
            raise MdevError(EINVAL, f"path {value!r}: expected online or offline")
        self.vary(online=value == "online")

    def vary(self, *, online: bool) -> None:
        """Take the path away or bring it back; a program that runs over it ends with deferred condition code 3."""
        report = self.path.vary(online=online)
        if report is None:
            return
        self.reports.add(report)
        if self._host is not None:
            self._host.signal(CcwIrq.CRW)
        if self._running is not None:
            self._end_program()
            self._status(NOT_OPERATIONAL)
