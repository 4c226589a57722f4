"""The driver of FBA disks: a disk through programs, errors it repeats, errors it passes on."""

from __future__ import annotations

import dataclasses

import pytest
from ccw_guest_rig import SIZE, errno_of, probed, read, runner, shown, write
from ccw_rig import RamStore

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_guest import ATTEMPTS, CCW_GUEST, MAX_EAGAIN
from pvnet.mdev.ccw_layout import Irb, Scsw, make_irb
from pvnet.mdev.ccw_regions import IRB_AT, RET_CODE_AT
from pvnet.mdev.ccw_request import MAX_REQUEST
from pvnet.mdev.ccw_status import NOT_OPERATIONAL, broken
from pvnet.mdev.guest import WaitIrq
from pvnet.mdev.info import DeviceInfo
from pvnet.mdev.names import CcwIrq
from pvnet.papr.errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOSPC, EROFS

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
