"""Halt and clear, SCHIB, paths and their reports, close and reset, stop and start, attributes; rows D13 to D17."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ccw_rig import CC, CD, IOVA, NOP, SUSPEND, USUAL, RamStore, Rig, io_write

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_layout import Ccw, Orb, decode_schib
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_path import MAX_REPORTS
from pvnet.mdev.ccw_regions import ASYNC_REGION, COMMAND, CRW_REGION, IO_BYTES, IO_REGION, SCHIB_REGION
from pvnet.mdev.ccw_states import TABLE, Action, Event, State
from pvnet.mdev.ccw_status import CLEARED
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import CcwIrq
from pvnet.papr.errno import EACCES, EBUSY, EINVAL, EIO, ENODEV, ENOENT, EPERM

START = io_write(Orb(IOVA, USUAL))
HSCH, CSCH = COMMAND.pack(1) + bytes(4), COMMAND.pack(2) + bytes(4)


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(MdevError) as error:
        call()
    return error.value.errno


def pending(*ccws: Ccw, flags: int = USUAL) -> Rig:
    """A rig whose program has been started and has not run yet."""
    rig = Rig()
    rig.start(*(ccws or (Ccw(0x42, CC, 16, rig.DATA), Ccw(NOP))), flags=flags, settle=False)
    assert rig.device.state is State.CP_PENDING
    return rig


# --- halt and clear ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "errno"), [(0, EINVAL), (3, EINVAL), (0xFFFFFFFF, EINVAL)])
def test_d13_other_commands(command: int, errno: int) -> None:
    rig = Rig()
    assert errno_of(lambda: rig.write(ASYNC_REGION, 0, COMMAND.pack(command))) == errno
    assert rig.read(ASYNC_REGION, 4, 4) == (-errno).to_bytes(4, "little", signed=True)
    assert rig.host.signals == []


@pytest.mark.parametrize(("command", "golden"), [(HSCH, "00002001"), (CSCH, "00001001")])
def test_d14_while_idle_c6_c17(command: bytes, golden: str) -> None:
    rig = Rig()
    rig.write(ASYNC_REGION, 0, command)
    assert rig.take_irq()
    assert rig.irb().scsw.encode().hex() == golden + "00" * 8
    assert rig.device.state is State.IDLE
    assert rig.read(ASYNC_REGION, 0, 8) == command


def test_d14_clear_ends_a_program() -> None:
    rig = pending()
    rig.write(ASYNC_REGION, 0, CSCH)
    assert rig.take_irq()
    assert rig.irb() == CLEARED
    assert rig.device.state is State.IDLE
    assert not rig.host.settle()
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C


def test_halt_ends_a_program() -> None:
    rig = pending()
    rig.write(ASYNC_REGION, 0, HSCH)
    assert rig.take_irq()
    assert rig.irb().scsw.encode().hex() == "00c06007" + "00000000" + "0c000000"
    assert rig.device.state is State.IDLE
    assert not rig.host.settle()


def test_one_byte_of_region_1_fires_too() -> None:
    rig = Rig()
    rig.write(ASYNC_REGION, 0, b"\2")
    assert rig.irb() == CLEARED
    rig.write(ASYNC_REGION, 7, b"\x7f")
    assert len(rig.host.signals) == 2
    assert rig.read(ASYNC_REGION, 0, 8) == CSCH


def test_suspended_programs_wait_for_halt() -> None:
    rig = Rig()
    flags = USUAL | OrbFlag.SUSPEND
    irb = rig.run(Ccw(NOP, CC), Ccw(NOP, SUSPEND), flags=flags)
    assert (irb.scsw.actl, irb.scsw.stctl) == (1, 9)
    assert rig.device.state is State.IDLE
    _, scsw = decode_schib(rig.read(SCHIB_REGION, 0, 52))
    assert (scsw.fctl, scsw.actl, scsw.stctl, scsw.address) == (4, 1, 0, IOVA + 16)
    assert errno_of(lambda: rig.start(Ccw(NOP))) == EBUSY
    assert rig.ret_code() == -EBUSY
    rig.write(ASYNC_REGION, 0, HSCH)
    assert rig.take_irq()
    assert rig.irb().scsw.encode().hex() == "08c06007" + "00000000" + "0c000000"
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C


@pytest.mark.parametrize("vary", [False, True])
def test_suspension_may_be_silent(vary: bool) -> None:
    rig = Rig()
    rig.start(Ccw(0x42, SUSPEND, 16, IOVA), flags=USUAL | OrbFlag.SUSPEND | OrbFlag.SUPPRESS_SUSPENDED)
    assert not rig.take_irq()
    assert rig.device.state is State.CP_PENDING
    if vary:
        rig.device.vary(online=False)
        assert not rig.take_irq()
    rig.write(ASYNC_REGION, 0, CSCH)
    assert rig.irb() == CLEARED
    assert rig.device.suspended is None


# --- SCHIB ------------------------------------------------------------------------------------------------------------


def test_schib() -> None:
    rig = Rig(config=CcwConfig(devno=0x1234, chpid=0x17, concurrent_sense=False))
    pmcw, scsw = decode_schib(rig.read(SCHIB_REGION, 0, 52))
    assert (pmcw.devno, pmcw.enabled, pmcw.path_mask, pmcw.installed, pmcw.available) == (
        0x1234,
        True,
        0x80,
        0x80,
        0x80,
    )
    assert (pmcw.chpids[0], pmcw.last_path, pmcw.concurrent_sense) == (0x17, 0, False)
    assert not any(scsw.encode())
    assert rig.read(SCHIB_REGION, 6, 2).hex() == "1234"
    rig.device.vary(online=False)
    pmcw, _ = decode_schib(rig.read(SCHIB_REGION, 0, 52))
    assert (pmcw.path_mask, pmcw.available, pmcw.installed) == (0, 0, 0x80)
    rig.device.close()
    assert not decode_schib(rig.read(SCHIB_REGION, 0, 52))[0].enabled


def test_schib_of_a_running_program() -> None:
    rig = pending()
    pmcw, scsw = decode_schib(rig.read(SCHIB_REGION, 0, 52))
    assert pmcw.last_path == 0x80
    assert (scsw.fctl, scsw.actl, scsw.stctl) == (4, 6, 0)
    assert pmcw.concurrent_sense


# --- paths and reports ------------------------------------------------------------------------------------------------


def test_d15_path_masks() -> None:
    rig = Rig()
    rig.start(Ccw(NOP), path_mask=0)
    assert rig.irb().scsw.dstat == 0x0C
    assert errno_of(lambda: rig.start(Ccw(NOP), path_mask=0x40)) == EACCES
    rig.device.vary(online=False)
    for mask in (0, 0x40, 0x80):
        assert errno_of(lambda mask=mask: rig.start(Ccw(NOP), path_mask=mask)) == ENODEV
        assert rig.device.state is State.IDLE


def test_a_path_that_goes_under_a_program_c6() -> None:
    rig = pending()
    rig.device.vary(online=False)
    assert rig.take_irq()
    assert rig.irb().scsw.encode().hex() == "03004011" + "00" * 8
    assert rig.device.state is State.IDLE
    assert not rig.host.settle()


def test_reports_c15() -> None:
    rig = Rig(config=CcwConfig(chpid=0x17))
    assert rig.read(CRW_REGION, 0, 8) == bytes(8)
    rig.device.set("path", "offline")
    rig.device.set("path", "offline")
    assert rig.take_irq(CcwIrq.CRW)
    rig.device.set("path", "online")
    assert rig.take_irq(CcwIrq.CRW)
    assert rig.read(CRW_REGION, 0, 8).hex() == "04060017" + "00000000"
    assert rig.take_irq(CcwIrq.CRW)
    assert rig.read(CRW_REGION, 0, 4).hex() == "04020017"
    assert not rig.take_irq(CcwIrq.CRW)
    assert rig.read(CRW_REGION, 4, 4) == bytes(4)


def test_a_partial_read_of_a_report_takes_it() -> None:
    rig = Rig()
    rig.device.vary(online=False)
    assert rig.read(CRW_REGION, 3, 1) == b"\0"
    assert rig.read(CRW_REGION, 0, 8) == bytes(8)


def test_d17_reports_are_bounded() -> None:
    rig = Rig(config=CcwConfig(chpid=0x17))
    for _ in range(MAX_REPORTS):
        rig.device.vary(online=False)
        rig.device.vary(online=True)
    assert len(rig.device.reports) == MAX_REPORTS
    data = [rig.read(CRW_REGION, 0, 4).hex() for _ in range(MAX_REPORTS + 1)]
    assert data == ["04060017", "04020017"] * (MAX_REPORTS // 2 - 1) + ["04060017", "24020017", "00000000"]


def test_reports_wait_for_a_user() -> None:
    rig = Rig()
    rig.device.close()
    rig.device.vary(online=False)
    assert rig.host.signals == []
    assert rig.device.read(CRW_REGION, 0, 4) == bytes.fromhex("04060000")


# --- close, reset, remove ---------------------------------------------------------------------------------------------


def test_d16_a_user_that_leaves_in_the_middle() -> None:
    rig = pending()
    rig.device.close()
    assert rig.device.state is State.STANDBY
    assert not rig.host.settle()
    assert rig.host.signals == []
    assert rig.read(IO_REGION, 0, IO_BYTES) == bytes(IO_BYTES)
    rig.device.close()
    assert rig.device.state is State.STANDBY
    rig.device.open(rig.host)
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C


def test_reset() -> None:
    rig = pending()
    rig.device.vary(online=False)
    rig.device.reset()
    assert rig.device.state is State.IDLE
    assert rig.read(IO_REGION, 0, IO_BYTES) == bytes(IO_BYTES)
    assert len(rig.device.reports) == 1
    rig.device.vary(online=True)
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C
    assert rig.host.irq_enabled(CcwIrq.IO)


def test_reset_clears_sense_and_suspension() -> None:
    rig = Rig(config=CcwConfig(concurrent_sense=False))
    assert rig.run(Ccw(0x14, 0, 1, IOVA)).scsw.dstat == 0x0E
    rig.run(Ccw(NOP, SUSPEND), flags=USUAL | OrbFlag.SUSPEND)
    rig.device.reset()
    assert rig.sense() == bytes(32)


def test_reset_of_a_device_that_nobody_has_open() -> None:
    rig = Rig()
    rig.device.close()
    rig.device.reset()
    assert rig.device.state is State.STANDBY
    rig.device.dma_unmapped(0, 1 << 64)


def test_removal() -> None:
    rig = pending()
    rig.device.check_remove()
    rig.device.remove()
    rig.device.remove()
    assert rig.removed == 1
    assert rig.device.state is State.NOT_OPER
    assert not rig.host.settle()


def test_statuses_that_nobody_can_take_are_dropped() -> None:
    rig = Rig()
    rig.device.close()
    rig.device._status(CLEARED)
    rig.device.not_operational()
    rig.device._status(CLEARED)
    assert rig.host.signals == []
    assert TABLE[State.STANDBY, Event.INTERRUPT] is Action.DROP_STATUS


# --- stop and start ---------------------------------------------------------------------------------------------------


def test_a_stopped_program_ends_with_an_interface_control_check() -> None:
    rig = pending()
    rig.device.stop()
    assert not rig.host.settle()
    assert rig.host.signals == []
    assert errno_of(lambda: rig.write(IO_REGION, 0, START)) == EBUSY
    rig.device.start()
    assert rig.take_irq()
    irb = rig.irb()
    assert (irb.scsw.cstat, irb.scsw.stctl, irb.esw[0]) == (0x02, 0x17, 0x04804000)
    rig.device.start()
    assert len(rig.host.signals) == 1
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C


def test_what_is_owed_waits_for_a_listener() -> None:
    rig = Rig(listen=False)
    rig.start(Ccw(NOP), settle=False)
    rig.device.stop()
    rig.device.start()
    rig.host.enable(CcwIrq.CRW)
    assert rig.device.state is State.CP_PENDING
    rig.host.enable(CcwIrq.IO)
    assert rig.take_irq()
    assert rig.device.state is State.IDLE


@pytest.mark.parametrize(("command", "fctl"), [(HSCH, 2), (CSCH, 1)])
def test_what_is_owed_can_be_cleared(command: bytes, fctl: int) -> None:
    rig = pending()
    rig.device.stop()
    rig.write(ASYNC_REGION, 0, command)
    assert rig.irb().scsw.fctl == fctl
    rig.device.start()
    assert len(rig.host.signals) == 1


def test_stopping_while_it_is_translated() -> None:
    rig = Rig()
    rig.device.stop()
    steps = rig.device.write(IO_REGION, 0, START)
    assert steps is not None
    next(steps)
    rig.device.stop()
    assert rig.device.state is State.IDLE
    assert errno_of(lambda: steps.send(bytes(2048))) == EIO


# --- attributes -------------------------------------------------------------------------------------------------------


def test_attributes() -> None:
    rig = Rig(RamStore(1 << 20), CcwConfig(devno=0x1234, chpid=0x17, readonly=True, durable=False))
    rig.run(Ccw(0x42, CD, 1, IOVA))
    assert rig.device.attributes() == {
        "block_size": "512", "blocks": "2048", "chpid": "17", "concurrent_sense": "yes", "devno": "1234",
        "durable": "no", "failed": "0", "interrupts": "1", "path": "online", "programs": "1", "readonly": "yes",
        "refused": "0", "state": "idle", "unit_checks": "1",
    }  # fmt: skip
    assert rig.device.read_only == rig.device.attributes().keys() - {"path"}
    assert errno_of(lambda: rig.device.set("path", "away")) == EINVAL
    assert errno_of(lambda: rig.device.set("devno", "1")) == EPERM
    assert errno_of(lambda: rig.device.set("speed", "1")) == ENOENT
    rig.device.set("path", "offline")
    assert rig.device.attributes()["path"] == "offline"
