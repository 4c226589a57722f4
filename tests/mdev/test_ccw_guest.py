"""The driver of FBA disks: a disk through programs, errors it repeats, errors it passes on, timeouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ccw_rig import RamStore
from guest_runner import GuestRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_guest import ATTEMPTS, CCW_GUEST, MAX_EAGAIN, TIMEOUT_S, FbaDriver
from pvnet.mdev.ccw_layout import Irb, Scsw, make_irb
from pvnet.mdev.ccw_regions import ASYNC_REGION, IO_REGION, IRB_AT, RET_CODE_AT
from pvnet.mdev.ccw_request import MAX_REQUEST
from pvnet.mdev.ccw_status import NOT_OPERATIONAL, broken
from pvnet.mdev.ccw_subchannel import CcwDevice
from pvnet.mdev.device import Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import RegionWrite, WaitIrq
from pvnet.mdev.info import DeviceInfo
from pvnet.mdev.names import CcwIrq
from pvnet.papr.errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOSPC, EROFS

SIZE = 300 * 512


class OddDevice(CcwDevice):
    """A subchannel that a test can make lie.

    :ivar refusals: raised by the next writes of region 0, in order.
    :ivar lies: statuses of the next programs instead of the true ones; None: no interrupt at all.
    :ivar deaf: async commands that end without an interrupt, or with an error.
    """

    def __init__(self, store: RamStore, config: CcwConfig) -> None:
        super().__init__(store, config, lambda: None)
        self.refusals: list[int] = []
        self.lies: list[Irb | None] = []
        self.deaf: dict[int, int] = {}

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == IO_REGION and self.refusals:
            raise MdevError(self.refusals.pop(0))
        if region == ASYNC_REGION and data[0] in self.deaf:
            errno = self.deaf[data[0]]
            if errno:
                raise MdevError(errno)
            return None
        return super().write(region, offset, data)

    def _status(self, irb: Irb) -> None:
        if self.lies and self._program is not None and irb.scsw.is_final:
            lie = self.lies.pop(0)
            if lie is None:
                self._program = None
                return
            irb = lie
        super()._status(irb)


def runner(
    store: RamStore | None = None, config: CcwConfig | None = None, **more: Any
) -> tuple[GuestRunner, OddDevice, RamStore]:
    store = store or RamStore(SIZE)
    device = OddDevice(store, config or CcwConfig())
    guest = GuestRunner(device, CCW_GUEST, **more)
    return guest, device, store


def probed(store: RamStore | None = None, config: CcwConfig | None = None) -> tuple[GuestRunner, OddDevice, RamStore]:
    guest, device, store = runner(store, config)
    guest.probe()
    return guest, device, store


def shown(guest: GuestRunner) -> Mapping[str, object]:
    return guest.driver.shown()


def read(guest: GuestRunner, offset: int, count: int) -> bytes:
    return guest.run(guest.file("dasd").read(offset, count))


def write(guest: GuestRunner, offset: int, data: bytes) -> int:
    return guest.run(guest.file("dasd").write(offset, data))


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(MdevError) as error:
        call()
    return error.value.errno


def writes_of_region_0(guest: GuestRunner) -> int:
    return sum(isinstance(request, RegionWrite) and request.region == IO_REGION for request in guest.requests)


# --- a disk -----------------------------------------------------------------------------------------------------------


def test_probing_finds_the_disk() -> None:
    guest, _, _ = probed()
    (entry,) = guest.driver.files
    assert entry[0] == "dasd"
    assert entry[1].size == SIZE
    assert shown(guest) == {"block_size": 512, "blocks": 300, "path": "online"}
    guest.run(entry[1].flush())
    guest.remove()


@pytest.mark.parametrize("block_size", [512, 4096])
def test_files_are_read_and_written(block_size: int) -> None:
    guest, _, store = probed(RamStore(40 * 4096), CcwConfig(block_size=block_size))
    data = bytes(range(251)) * 500
    assert write(guest, 1000, data) == len(data)
    assert store.data[1000 : 1000 + len(data)] == data
    assert not any(store.data[:1000])
    assert not any(store.data[1000 + len(data) :])
    assert read(guest, 990, len(data) + 20) == bytes(10) + data + bytes(10)
    assert store.flushes > 0


def test_requests_have_at_most_96_blocks() -> None:
    guest, device, _ = probed()
    before = device.counters["programs"]
    read(guest, 0, SIZE)
    assert device.counters["programs"] - before == 4
    assert shown(guest)["read_blocks"] == 300
    write(guest, 0, bytes(MAX_REQUEST))
    assert device.counters["programs"] - before == 5
    assert shown(guest)["written_blocks"] == 96


def test_the_end_of_the_disk() -> None:
    guest, _, store = probed()
    assert write(guest, SIZE - 3, b"abcdef") == 3
    assert store.data[-4:] == b"\0abc"
    assert read(guest, SIZE - 3, 100) == b"abc"
    assert read(guest, SIZE, 1) == read(guest, 5, 0) == read(guest, -1, 10) == b""
    assert errno_of(lambda: write(guest, SIZE, b"x")) == ENOSPC
    assert errno_of(lambda: write(guest, -1, b"x")) == ENOSPC
    assert write(guest, SIZE, b"") == 0


def test_a_part_of_one_block() -> None:
    guest, _, store = probed()
    store.data[:] = b"\xee" * SIZE
    assert write(guest, 700, b"abc") == 3
    assert store.data[690:710] == b"\xee" * 10 + b"abc" + b"\xee" * 7
    assert read(guest, 701, 1) == b"b"


def test_the_memory_it_wants() -> None:
    assert errno_of(lambda: runner(memory_size=0xF000)) == EINVAL
    assert errno_of(lambda: runner(iova=0x80000000)) == EINVAL
    assert errno_of(lambda: runner(iova=0)) == EINVAL
    assert errno_of(lambda: runner(iova=0x10800)) == EINVAL
    guest, _, _ = runner(iova=0x7FFF0000)
    guest.probe()


def test_what_it_matches() -> None:
    guest, _, _ = runner()
    assert CCW_GUEST.match(guest.context)
    other = dataclasses.replace(guest.context, device=DeviceInfo(0x3, 9, 5))
    assert not CCW_GUEST.match(other)
    assert not CCW_GUEST.match(dataclasses.replace(guest.context, regions=[]))


def test_other_devices_are_not_driven(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, _, _ = runner()
    monkeypatch.setattr("pvnet.mdev.ccw_fba.SENSE_ID", bytes.fromhex("ff399001339010"))
    assert errno_of(guest.probe) == ENODEV
    monkeypatch.undo()
    monkeypatch.setattr("pvnet.mdev.ccw_fba.FbaUnit.blocks", property(lambda unit: 0))
    guest, device, _ = runner()
    device.unit._blocks = 0
    assert errno_of(guest.probe) == ENODEV


# --- errors -----------------------------------------------------------------------------------------------------------


def test_read_only_disks() -> None:
    guest, _, _ = probed(RamStore(SIZE, readonly=True))
    assert errno_of(lambda: write(guest, 0, bytes(512))) == EROFS
    assert read(guest, 0, 512) == bytes(512)
    assert (shown(guest)["errors"], shown(guest)["unit_checks"]) == (1, 1)


@pytest.mark.parametrize("concurrent", [True, False])
def test_permanent_errors_are_tried_three_times(concurrent: bool) -> None:
    guest, device, store = probed(config=CcwConfig(concurrent_sense=concurrent))
    store.failing = {"read"}
    before = device.counters["programs"]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO
    assert device.counters["programs"] - before == ATTEMPTS * (1 if concurrent else 2)
    assert shown(guest)["unit_checks"] == ATTEMPTS
    store.failing.clear()
    assert read(guest, 0, 512) == bytes(512)


@pytest.mark.parametrize("cstat", [0x02, 0x04, 0x08])
def test_channel_errors_are_repeated(cstat: int) -> None:
    guest, device, _ = probed()
    device.lies = [broken(0, cstat)] * 2  # type: ignore[arg-type]
    assert read(guest, 0, 512) == bytes(512)
    assert shown(guest)["errors"] == 2
    device.lies = [broken(0, cstat)] * 3  # type: ignore[arg-type]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


@pytest.mark.parametrize(
    ("lie", "errno"),
    [
        pytest.param(broken(0, 0x20), EIO, id="program check"),  # type: ignore[arg-type]
        pytest.param(NOT_OPERATIONAL, ENODEV, id="deferred cc 3"),
        pytest.param(make_irb(Scsw(0, 4, 0, 7, 0, 0x0D)), EIO, id="unit exception"),
        pytest.param(make_irb(Scsw(0, 4, 0, 7, 0, 0x0C, 0x40)), EIO, id="incorrect length"),
        pytest.param(make_irb(Scsw(0, 4, 0, 0x17, 0, 0x0E), b"\x80\x04" + bytes(30)), EIO, id="reject of a read"),
    ],
)
def test_errors_that_are_passed_on(lie: Irb, errno: int) -> None:
    guest, device, _ = probed()
    before = device.counters["programs"]
    device.lies = [lie]
    assert errno_of(lambda: read(guest, 0, 512)) == errno
    assert device.counters["programs"] - before == 1
    assert read(guest, 0, 512) == bytes(512)


def test_basic_sense_that_fails_too() -> None:
    guest, device, _ = probed()
    check = make_irb(Scsw(0, 4, 0, 0x17, 0, 0x0E))
    device.lies = [check, check]
    assert read(guest, 0, 512) == bytes(512)
    assert shown(guest)["unit_checks"] == 1


def test_a_program_that_somebody_stopped_is_repeated() -> None:
    guest, device, _ = probed()
    device.lies = [make_irb(Scsw(0, 1, 0, 1)), make_irb(Scsw(0, 6, 0, 7, 0, 0x0C))]
    assert read(guest, 0, 512) == bytes(512)


def test_statuses_that_are_not_the_last_are_passed_over() -> None:
    guest, device, _ = probed()
    steps = guest.file("dasd").read(0, 512)
    guest.host.signal(CcwIrq.IO)
    pending = make_irb(Scsw(0, 4, 6, 9, 0, 0, 0x80)).encode()
    device.io[IRB_AT:RET_CODE_AT] = pending
    assert guest.run(steps) == bytes(512)


def test_statuses_without_end() -> None:
    guest, _, _ = probed()
    steps = guest.file("dasd").read(0, 512)
    waits = 0

    def answer_with_zeros() -> None:
        nonlocal waits
        request = next(steps)
        while True:
            waits += isinstance(request, WaitIrq)
            request = steps.send(bytes(124))

    assert errno_of(answer_with_zeros) == EIO
    assert waits == 2 * (100 + 1)


def test_refused_programs_are_passed_on() -> None:
    guest, device, _ = probed()
    for errno in (EINVAL, ENODEV, EIO):
        device.refusals = [errno]
        assert errno_of(lambda: read(guest, 0, 512)) == errno
    device.vary(online=False)
    assert errno_of(lambda: read(guest, 0, 512)) == ENODEV
    guest.serve()
    assert shown(guest)["path"] == "offline"
    device.vary(online=True)
    assert read(guest, 0, 512) == bytes(512)
    guest.serve()
    assert shown(guest)["path"] == "online"
    assert shown(guest)["reports"] == 2


def test_again_is_repeated() -> None:
    guest, device, _ = probed()
    device.refusals = [EAGAIN] * 5
    assert read(guest, 0, 512) == bytes(512)
    device.refusals = [EAGAIN] * MAX_EAGAIN
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


def test_busy_clears_once() -> None:
    guest, device, _ = probed()
    device.refusals = [EBUSY]
    assert read(guest, 0, 512) == bytes(512)
    assert shown(guest)["clears"] == 1
    device.refusals = [EBUSY, EBUSY]
    assert errno_of(lambda: read(guest, 0, 512)) == EBUSY


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_lost_interrupt_is_halted_and_repeated() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    before = guest.timers.now
    assert read(guest, 0, 512) == bytes(512)
    assert guest.timers.now - before == TIMEOUT_S
    assert (shown(guest)["timeouts"], shown(guest)["halts"]) == (1, 1)
    device.lies = [None, None]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


@pytest.mark.parametrize("errno", [0, EAGAIN, EBUSY])
def test_what_cannot_be_halted_is_cleared(errno: int) -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: errno}
    assert read(guest, 0, 512) == bytes(512)
    assert (shown(guest)["halts"], shown(guest)["clears"]) == (1, 1)


def test_what_cannot_be_cleared_either() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: 0, 2: 0}
    assert errno_of(lambda: read(guest, 0, 512)) == EIO
    device.deaf.clear()
    assert read(guest, 0, 512) == bytes(512)


def test_devices_that_vanish() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: ENODEV}
    assert errno_of(lambda: read(guest, 0, 512)) == ENODEV
    device.not_operational()
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


def test_devices_without_extra_regions() -> None:
    guest, device, _ = runner()
    context = dataclasses.replace(guest.context, regions=guest.context.regions[:1])
    driver = CCW_GUEST.create(context)
    assert isinstance(driver, FbaDriver)
    guest.driver = driver
    guest.probe()
    device.vary(online=False)
    device.vary(online=True)
    assert CcwIrq.CRW not in guest.host.enabled
    device.lies = [None]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO
    guest.run(driver.irq(CcwIrq.CRW))
    assert shown(guest)["unsolicited"] == 1
    assert errno_of(lambda: read(guest, 0, 512)) == EBUSY
    guest.remove()


def test_irqs_that_nobody_waits_for() -> None:
    guest, device, _ = probed()
    guest.host.signal(CcwIrq.IO)
    guest.host.signal(CcwIrq.CRW)
    guest.serve()
    assert shown(guest)["unsolicited"] == 1
    assert "reports" not in shown(guest)
    for _ in range(20):
        device.vary(online=False)
        device.vary(online=True)
    guest.serve()
    assert (shown(guest)["reports"], shown(guest)["reports_lost"]) == (16, 1)
    assert writes_of_region_0(guest) == 2


# --- a disk like any other --------------------------------------------------------------------------------------------


class DiskMachine(RuleBasedStateMachine):
    """Reads and writes through the driver are those of a bytearray, whatever goes wrong in between."""

    def __init__(self) -> None:
        super().__init__()
        self.guest, self.device, self.store = probed(RamStore(120 * 512), CcwConfig(durable=False))
        self.model = bytearray(self.store.size)

    @rule(
        offset=st.integers(0, 120 * 512 - 1), data=st.binary(min_size=1, max_size=1500), times=st.sampled_from([1, 40])
    )
    def write(self, offset: int, data: bytes, times: int) -> None:
        data = (data * times)[: self.store.size - offset]
        assert write(self.guest, offset, data) == len(data)
        self.model[offset : offset + len(data)] = data

    @rule(offset=st.integers(0, 120 * 512), count=st.integers(0, 60_000))
    def read(self, offset: int, count: int) -> None:
        assert read(self.guest, offset, count) == self.model[offset : offset + count]

    @rule(lie=st.sampled_from([None, NOT_OPERATIONAL, broken(0, 0x02), broken(0, 0x08)]))  # type: ignore[arg-type]
    def trouble(self, lie: Irb | None) -> None:
        self.device.lies = [lie]
        if lie is NOT_OPERATIONAL:
            assert errno_of(lambda: read(self.guest, 0, 1)) == ENODEV
        else:
            assert read(self.guest, 0, 1) == self.model[:1]

    @rule()
    def unplug(self) -> None:
        self.device.vary(online=False)
        assert errno_of(lambda: write(self.guest, 0, b"x" * 512)) == ENODEV
        self.device.vary(online=True)

    @invariant()
    def same(self) -> None:
        assert self.store.data == self.model


TestDisk = DiskMachine.TestCase
TestDisk.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
