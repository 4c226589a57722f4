"""The subchannel: what it says of itself, starts and their refusals, pinned pages; rows D1 to D12."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ccw_rig import CC, IOVA, MEMORY, NOP, PCI, TIC, USUAL, Rig, io_write, program

from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_regions import ASYNC_REGION, COMMAND, CRW_REGION, IO_BYTES, IO_REGION, SCHIB_REGION
from pvnet.mdev.ccw_states import TABLE, Event, State
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DeviceFlag, RegionFlag
from pvnet.papr.errno import EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP

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
