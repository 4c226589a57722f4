"""The subchannel: regions, state table, start, halt and clear, paths and reports, resets; rows D1 to D17."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ccw_rig import CC, CD, IOVA, MEMORY, NOP, PCI, SUSPEND, TIC, USUAL, RamStore, Rig, io_write, program

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_layout import Ccw, Orb, decode_schib
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_path import MAX_REPORTS
from pvnet.mdev.ccw_regions import ASYNC_REGION, COMMAND, CRW_REGION, IO_BYTES, IO_REGION, SCHIB_REGION
from pvnet.mdev.ccw_states import TABLE, Action, Event, State
from pvnet.mdev.ccw_status import CLEARED
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import CcwIrq, DeviceFlag, RegionFlag
from pvnet.papr.errno import EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP, EPERM

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


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_regions_and_irqs() -> None:
    device = Rig().device
    assert device.flags == DeviceFlag.RESET | DeviceFlag.CCW == 0x11
    both = RegionFlag.READ | RegionFlag.WRITE
    told = [(region.info.size, region.info.flags, region.info.type) for region in device.regions]
    assert told == [(124, both, None), (8, both, (2, 1)), (52, RegionFlag.READ, (2, 2)), (8, RegionFlag.READ, (2, 3))]
    assert [(irq.count, irq.flags) for irq in device.irqs] == [(1, 1)] * 3
    for region in (SCHIB_REGION, CRW_REGION):
        assert errno_of(lambda region=region: device.write(region, 0, b"x")) == EINVAL


def test_the_table_has_a_row_for_everything() -> None:
    assert set(TABLE) == {(state, event) for state in State for event in Event}
    assert [int(state) for state in State] == [0, 1, 2, 3, 4]


def test_one_exchange_c16() -> None:
    rig = Rig()
    rig.put(IOVA, program(Ccw(NOP)))
    orb = bytes.fromhex("1122334400c2800000010000")
    request = orb + bytes.fromhex("000044000000000000000000") + bytes(100)
    rig.write(IO_REGION, 0, request)
    assert rig.device.state is State.CP_PENDING
    assert rig.ret_code() == 0
    assert not rig.take_irq()
    rig.host.settle()
    assert rig.take_irq()
    assert rig.device.state is State.IDLE
    data = rig.read(IO_REGION, 0, IO_BYTES)
    assert data[:24] == request[:24]
    assert data[24:36].hex() == "00c04007" + "00010008" + "0c000000"
    assert data[36:40].hex() == "00800000"
    assert not any(data[40:])


# --- refusals of region 0 ---------------------------------------------------------------------------------------------


def test_d1_busy_while_pending() -> None:
    rig = pending()
    assert errno_of(lambda: rig.write(IO_REGION, 0, START)) == EBUSY
    assert rig.ret_code() == -EBUSY
    rig.host.settle()
    assert rig.irb().scsw.dstat == 0x0E


def test_d1_again_while_processing() -> None:
    rig = Rig()
    rig.put(IOVA, program(Ccw(NOP)))
    steps = rig.device.write(IO_REGION, 0, START)
    assert steps is not None
    request = next(steps)
    assert rig.device.state is State.CP_PROCESSING
    assert errno_of(lambda: rig.write(IO_REGION, 0, bytes(124))) == EAGAIN
    assert errno_of(lambda: rig.write(ASYNC_REGION, 0, HSCH)) == EAGAIN
    assert rig.read(ASYNC_REGION, 0, 8) == bytes(8)
    with pytest.raises(StopIteration):
        steps.send(rig.get(request.address, 2048))
    assert rig.device.state is State.CP_PENDING
    rig.host.settle()
    assert rig.irb().scsw.dstat == 0x0C


def test_busy_until_the_last_interrupt_of_a_program() -> None:
    rig = pending(Ccw(NOP, CC | PCI), Ccw(0x42, 0, 16, IOVA))
    (task,) = rig.host._tasks
    device = rig.device
    signal = rig.host.signal
    seen: list[tuple[int, int]] = []

    def look(index: int, vector: int = 0) -> None:
        seen.append((rig.irb().scsw.stctl, int(device.state)))
        if device.state is State.CP_PENDING:
            assert errno_of(lambda: rig.write(IO_REGION, 0, START)) == EBUSY
        signal(index, vector)

    rig.host.signal = look  # type: ignore[method-assign]
    rig.host.settle()
    assert task.steps.gi_frame is None  # type: ignore[attr-defined]
    assert seen == [(9, State.CP_PENDING), (0x17, State.IDLE)]


def test_d2_before_open_and_after_the_end() -> None:
    rig = Rig()
    rig.device.close()
    assert rig.device.state is State.STANDBY
    for region, data in ((IO_REGION, START), (ASYNC_REGION, HSCH)):
        assert errno_of(lambda region=region, data=data: rig.write(region, 0, data)) == EIO
    assert rig.ret_code() == -EIO
    rig.device.not_operational()
    assert rig.device.state is State.NOT_OPER
    assert errno_of(lambda: rig.device.open(rig.host)) == EINVAL
    assert errno_of(lambda: rig.write(IO_REGION, 0, START)) == EIO
    assert errno_of(lambda: rig.write(ASYNC_REGION, 0, HSCH)) == EIO
    assert errno_of(lambda: rig.read(SCHIB_REGION, 0, 52)) == ENODEV
    assert errno_of(rig.device.reset) == EINVAL
    rig.device.not_operational()
    rig.device.close()
    assert rig.device.state is State.NOT_OPER


def test_opening_twice_is_refused() -> None:
    rig = Rig()
    assert errno_of(lambda: rig.device.open(rig.host)) == EINVAL
    assert rig.device.state is State.IDLE


def test_d3_any_write_of_region_0_fires() -> None:
    rig = Rig()
    rig.run(Ccw(NOP))
    assert len(rig.host.signals) == 1
    for offset in (0, 13, 30, 123):
        rig.write(IO_REGION, offset, bytes(1))
        rig.host.settle()
        assert rig.take_irq()
    assert len(rig.host.signals) == 5
    rig.write(IO_REGION, 14, b"\0")
    assert not rig.host.settle()
    assert rig.device.state is State.IDLE


@pytest.mark.parametrize(("ret_code", "errno"), [(0, 0), (7, 0), (-5, EIO), (-2, ENOENT)])
def test_no_function_bit_answers_what_the_client_wrote(ret_code: int, errno: int) -> None:
    rig = Rig()
    data = bytes(120) + ret_code.to_bytes(4, "little", signed=True)
    if errno:
        assert errno_of(lambda: rig.write(IO_REGION, 0, data)) == errno
    else:
        rig.write(IO_REGION, 0, data)
    assert rig.ret_code() == ret_code
    assert rig.device.state is State.IDLE
    assert not rig.host.settle()


@pytest.mark.parametrize("fctl", [1, 2, 3])
def test_d5_halt_and_clear_in_region_0(fctl: int) -> None:
    rig = Rig()
    assert errno_of(lambda: rig.write(IO_REGION, 0, io_write(Orb(IOVA, USUAL), fctl))) == EOPNOTSUPP
    assert rig.ret_code() == -EOPNOTSUPP
    assert rig.device.state is State.IDLE


def test_start_goes_before_halt() -> None:
    rig = Rig()
    rig.put(IOVA, program(Ccw(NOP)))
    rig.write(IO_REGION, 0, io_write(Orb(IOVA, USUAL), 7))
    assert rig.device.state is State.CP_PENDING


@pytest.mark.parametrize(
    ("orb", "ccws", "errno"),
    [
        pytest.param(Orb(IOVA, USUAL | OrbFlag.TRANSPORT), (), EOPNOTSUPP, id="D5 transport mode"),
        pytest.param(Orb(IOVA, USUAL), (Ccw(NOP, CC),) * 257, EINVAL, id="D6 257 ccws"),
        pytest.param(Orb(IOVA + MEMORY - 8, USUAL), (), EFAULT, id="near the end"),
        pytest.param(Orb(IOVA, USUAL), (Ccw(0x42, 0, 65535, IOVA + MEMORY - 100),), EINVAL, id="D10 data"),
        pytest.param(Orb(IOVA, USUAL), (Ccw(0x42, 4, 65535, IOVA + MEMORY),), EFAULT, id="D10 list"),
    ],
)
def test_programs_that_cannot_be_translated(orb: Orb, ccws: tuple[Ccw, ...], errno: int) -> None:
    rig = Rig()
    rig.put(IOVA, program(*ccws))
    assert errno_of(lambda: rig.write(IO_REGION, 0, io_write(orb))) == errno
    assert rig.ret_code() == -errno
    assert rig.device.state is State.IDLE
    assert rig.device._program is None
    assert not rig.host.settle()
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C
    assert rig.ret_code() == 0
    assert rig.device.attributes()["refused"] == "1"


def test_d7_a_program_that_runs_in_circles_ends() -> None:
    rig = Rig()
    irb = rig.run(Ccw(NOP, CC, 0, IOVA), Ccw(TIC, 0, 0, IOVA))
    assert (irb.scsw.cstat, irb.scsw.stctl) == (0x20, 0x17)
    assert rig.device.state is State.IDLE


def test_d9_odd_program_address_is_a_program_check() -> None:
    rig = Rig()
    rig.write(IO_REGION, 0, io_write(Orb(IOVA + 4, USUAL)))
    rig.host.settle()
    assert rig.irb().scsw.cstat == 0x20


def test_an_unexpected_failure_while_translating_leaves_it_idle() -> None:
    rig = Rig()
    steps = rig.device.write(IO_REGION, 0, START)
    assert steps is not None
    next(steps)
    steps.close()
    assert rig.device.state is State.IDLE
    assert rig.ret_code() == -EIO


def test_a_device_that_breaks_says_channel_control_check() -> None:
    rig = pending(Ccw(0x42, 0, 16, IOVA))
    (task,) = rig.host._tasks
    assert task.done is not None
    task.done(MdevError(EIO))
    scsw = rig.irb().scsw
    assert (scsw.cstat, scsw.stctl, rig.device.state) == (0x04, 0x17, State.IDLE)
    assert rig.irb().esw[0] == 0x04804000
    task.done(MdevError(EIO))
    assert rig.device.attributes()["failed"] == "1"


# --- pins -------------------------------------------------------------------------------------------------------------


def test_d12_taking_back_a_pinned_page_resets() -> None:
    rig = pending(Ccw(0x41, CC, 16, IOVA + 0x4000), Ccw(NOP))
    rig.device.dma_unmapped(IOVA + 0x5000, 0x1000)
    rig.device.dma_unmapped(IOVA + 0x4000, 0)
    assert rig.device.state is State.CP_PENDING
    rig.device.dma_unmapped(0, 1 << 64)
    assert rig.device.state is State.IDLE
    assert not rig.host.settle()
    assert rig.host.signals == []
    assert [note.event for note in rig.host.notes] == ["ccw_pinned_page_unmapped"]
    assert rig.run(Ccw(NOP)).scsw.dstat == 0x0C


def test_d12_while_it_is_translated() -> None:
    rig = Rig()
    rig.put(IOVA, program(Ccw(0x41, 0, 16, IOVA + 0x4000)))
    steps = rig.device.write(IO_REGION, 0, START)
    assert steps is not None
    next(steps)
    assert steps.send(rig.get(IOVA, 2048)).address == IOVA + 0x4000
    rig.device.dma_unmapped(IOVA + 0x4FFF, 1)
    assert rig.device.state is State.IDLE
    assert errno_of(lambda: steps.send(b"\0")) == EIO
    assert rig.device.state is State.IDLE
    assert rig.ret_code() == 0


def test_nothing_stays_pinned_after_the_end() -> None:
    rig = Rig()
    rig.run(Ccw(0xE4, 0x20, 64, IOVA + 0x4000))
    rig.device.dma_unmapped(0, 1 << 64)
    assert rig.host.notes == []


def test_work_that_goes_on_after_its_cancellation_changes_nothing() -> None:
    rig = pending(Ccw(NOP, CC | PCI), Ccw(0xE4, 0x20, 64, IOVA + 0x4000))
    (task,) = rig.host._tasks
    task.cancel = lambda: None  # type: ignore[method-assign]
    rig.device.reset()
    rig.host.settle()
    assert rig.host.signals == []
    assert rig.read(IO_REGION, 0, IO_BYTES) == bytes(IO_BYTES)


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
    assert errno_of(lambda: rig.device.set("path", "away")) == EINVAL
    assert errno_of(lambda: rig.device.set("devno", "1")) == EPERM
    assert errno_of(lambda: rig.device.set("speed", "1")) == ENOENT
    rig.device.set("path", "offline")
    assert rig.device.attributes()["path"] == "offline"
