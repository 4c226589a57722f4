"""A device and its user: life, regions, irqs, reset, features, what states forbid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vfio_rig import (
    BAR_IO,
    BAR_MEMORY,
    DMA_RW,
    PAGE,
    RW,
    ArrayMemory,
    ArrayRegion,
    RecordingTarget,
    RecordingUser,
    Rig,
    errno_of,
)

from pvnet.core.machine import Note
from pvnet.mdev import vfio_layout as layout
from pvnet.mdev.device import DmaRead, Region, Steps
from pvnet.mdev.dma import DmaRegion
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.irqs import IrqSet
from pvnet.mdev.names import DeviceFlag
from pvnet.mdev.names import MigrationState as State
from pvnet.mdev.programs import Pending
from pvnet.papr.errno import EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOSPC

EVENTFD_TRIGGER = 0x24
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
ROOM = 1 << 20


def listen(rig: Rig, index: int, count: int = 1) -> list[RecordingTarget]:
    targets = [RecordingTarget() for _ in range(count)]
    rig.vfio.set_irqs(IrqSet(EVENTFD_TRIGGER, index, 0, count, b"", tuple(targets)))
    return targets


# --- life -------------------------------------------------------------------------------------------------------------


def test_one_user_at_a_time() -> None:
    rig = Rig()
    assert rig.vfio.user is rig.user
    assert errno_of(lambda: rig.vfio.open(RecordingUser())) == EBUSY
    rig.vfio.close()
    rig.vfio.close()
    for region in (1, 2):
        assert errno_of(lambda region=region: rig.vfio.read(region, 0, 1)) == ENODEV
        assert errno_of(lambda region=region: rig.vfio.write(region, 0, b"x")) == ENODEV
    assert rig.works.log == [("close",)]
    other = RecordingUser()
    rig.vfio.open(other)
    assert rig.vfio.user is other
    assert rig.vfio.counters["opened"] == 2


def test_held() -> None:
    rig = Rig(opened=False)
    rig.vfio.hold()
    assert errno_of(lambda: rig.vfio.open(rig.user)) == EAGAIN
    rig.vfio.unhold()
    rig.vfio.open(rig.user)
    rig.vfio.hold()
    assert rig.vfio.read(1, 0, 1) == b"\0"  # who is in stays in
    rig.vfio.unhold()


@pytest.mark.parametrize(("failure", "errno"), [(MdevError(ENOSPC), ENOSPC), (KeyError("x"), EIO)])
def test_a_device_that_does_not_open(failure: Exception, errno: int) -> None:
    rig = Rig(opened=False)
    rig.works.fail["open"] = failure
    assert errno_of(lambda: rig.vfio.open(rig.user)) == errno
    assert rig.vfio.user is None
    assert rig.works.host is not None
    assert not rig.works.host.irq_enabled(0)
    assert errno_of(lambda: rig.vfio.read(1, 0, 1)) == ENODEV
    rig.vfio.open(rig.user)


def broken(rig: Rig, what: str) -> None:
    works = rig.works
    if what == "two buses":
        works.flags |= int(DeviceFlag.CCW)
    elif what == "no bus":
        works.flags = int(DeviceFlag.RESET)
    elif what == "irqs":
        works.irqs = (IrqInfo(-1),)
    elif what == "size":
        works.all_regions = (Region(RegionInfo(-1)),)
    elif what == "memory":
        works.all_regions = (Region(RegionInfo(PAGE + 1, RW), ArrayRegion(PAGE)),)
    else:
        area = {"area": (1, PAGE), "area before": (-1, 2), "empty area": (0, 0)}[what]
        works.all_regions = (Region(RegionInfo(PAGE, RW, 0, (area,))),)


@pytest.mark.parametrize("what", ["two buses", "no bus", "irqs", "size", "memory", "area", "area before", "empty area"])
def test_a_device_that_describes_itself_wrongly(what: str) -> None:
    rig = Rig(opened=False)
    broken(rig, what)
    assert errno_of(lambda: rig.vfio.open(rig.user)) == EIO
    assert dict(rig.notes[0].fields)["doing"] == "description"
    assert rig.works.log == []


def test_closing_lets_go_of_all() -> None:
    rig = Rig()
    memory, targets = rig.map(0), [*listen(rig, 0), *listen(rig, 1, 4)]
    assert rig.works.host is not None
    fired: list[int] = []
    rig.works.host.call_later(1, lambda: fired.append(1))
    rig.vfio.dirty.start(PAGE)
    rig.works.log.clear()
    rig.works.fail["close"] = KeyError("at close")
    rig.vfio.close()
    assert rig.works.log == [("close",)]
    assert (memory.closed, [target.closed for target in targets]) == (1, [1] * 5)
    assert len(rig.notes) == 1
    rig.timers.advance(2)
    assert fired == []
    assert len(rig.vfio.dma) == 0
    assert not rig.vfio.dirty.logging


def test_a_host_that_outlives_its_user() -> None:
    rig = Rig()
    old = rig.works.host
    assert old is not None
    rig.vfio.close()
    rig.vfio.open(rig.user)
    (target,) = listen(rig, 0)
    old.signal(0)
    old.set_level(0, asserted=True)
    assert (target.signals, old.irq_enabled(0)) == (0, False)
    closed: list[int] = []

    def program() -> Steps[None]:
        try:
            yield DmaRead(0, 1)
        finally:
            closed.append(1)

    old.run(program()).cancel()
    old.call_later(0, lambda: closed.append(2)).cancel()
    rig.timers.advance(1)
    assert closed == []  # a generator that never ran has nothing to close
    old.note(Note("late"))
    assert rig.notes == [Note("late")]


def test_timers() -> None:
    rig = Rig()
    host = rig.works.host
    assert host is not None
    fired: list[str] = []

    def fail() -> None:
        fired.append("bad")
        raise KeyError("x")

    host.call_later(1, lambda: fired.append("one"))
    host.call_later(-5, fail)
    called_off = host.call_later(1, lambda: fired.append("never"))
    called_off.cancel()
    called_off.cancel()
    late = rig.timers.timers[-1].callback
    late()  # the loop had it in hand already
    rig.timers.advance(0)
    assert fired == ["bad"]
    rig.timers.advance(1)
    assert fired == ["bad", "one"]
    assert [dict(note.fields)["doing"] for note in rig.notes] == ["timer"]


def test_requests_without_a_user() -> None:
    rig = Rig(opened=False)
    target, memory = RecordingTarget(), ArrayMemory()
    requests: list[Callable[[], object]] = [
        rig.vfio.info,
        lambda: rig.vfio.region_info(0),
        lambda: rig.vfio.irq_info(0),
        lambda: rig.vfio.set_irqs(IrqSet(EVENTFD_TRIGGER, 0, 0, 1, b"", (target, None))),
        lambda: rig.vfio.read(0, 0, 1),
        lambda: rig.vfio.write(0, 0, b"x"),
        lambda: rig.vfio.dma_map(DmaRegion(0, PAGE, DMA_RW, memory)),
        lambda: rig.vfio.dma_map(DmaRegion(0, PAGE, DMA_RW)),
        lambda: rig.vfio.dma_unmap(0, PAGE),
    ]
    assert [errno_of(request) for request in requests] == [ENODEV] * len(requests)
    assert (target.closed, memory.closed) == (1, 1)
    assert rig.vfio.describe() == DeviceInfo(3, 9, 5)
    rig.vfio.request_release()


# --- description ------------------------------------------------------------------------------------------------------


def test_description() -> None:
    rig = Rig()
    assert rig.vfio.info() == DeviceInfo(3, 9, 5)
    assert rig.vfio.region_info(7).info == RegionInfo(256, RW)
    assert rig.vfio.region_info(2).memory is rig.works.memory
    assert rig.vfio.irq_info(1) == IrqInfo(4, 9)
    for index in (-1, 9, 0xDEADBEEF):
        assert errno_of(lambda index=index: rig.vfio.region_info(index)) == EINVAL  # B12
    for index in (-1, 5):
        assert errno_of(lambda index=index: rig.vfio.irq_info(index)) == EINVAL


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "offset", "length"),
    [
        (0xDEADBEEF, 0, 4),  # V3
        (9, 0, 4),
        (-1, 0, 4),
        (0, BAR_IO, 1),  # B13
        (0, BAR_IO - 1, 2),
        (0, (1 << 64) - 1, 2),
        (0, -1, 2),
        (0, BAR_IO + 1, 0),
        (3, 0, 1),
        (3, 0, 0),
        (2, BAR_MEMORY, 1),
    ],
)
def test_accesses_that_no_device_sees(region: int, offset: int, length: int) -> None:
    rig = Rig()
    assert errno_of(lambda: rig.vfio.read(region, offset, length)) == EINVAL
    assert errno_of(lambda: rig.vfio.write(region, offset, bytes(length))) == EINVAL
    assert rig.works.log == []
    assert rig.vfio.counters["access_refused"] == 2


def test_permissions_of_regions() -> None:
    rig = Rig()
    assert rig.vfio.read(4, 0, 16) == bytes(16)
    assert errno_of(lambda: rig.vfio.write(4, 0, b"x")) == EINVAL
    assert rig.vfio.write(5, 0, b"x") is None
    assert errno_of(lambda: rig.vfio.read(5, 0, 1)) == EINVAL
    assert errno_of(lambda: rig.vfio.read(1, 0, -1)) == EINVAL


def test_nothing_to_do() -> None:
    rig = Rig()
    assert rig.vfio.read(0, BAR_IO, 0) == b""  # B14
    assert rig.vfio.write(0, 5, b"") is None
    assert rig.works.log == []


def test_plain_accesses() -> None:
    rig = Rig()
    assert rig.vfio.write(1, 3, b"abc") is None
    assert rig.vfio.read(1, 2, 5) == b"\0abc\0"
    assert rig.vfio.read(7, 0, 4) == bytes.fromhex("34126745")
    assert rig.vfio.write(7, 0, b"\xff") is None  # B16: silently ignored
    assert rig.vfio.read(7, 0, 4) == bytes.fromhex("34126745")
    rig.vfio.write(1, 0, memoryview(b"view"))  # type: ignore[arg-type]
    assert rig.works.log[-1] == ("write", 1, 0, b"view")


def test_regions_that_the_framework_serves() -> None:
    rig = Rig()
    assert rig.vfio.write(2, PAGE, b"hello") is None
    assert rig.vfio.read(2, PAGE - 1, 7) == b"\0hello\0"
    assert rig.works.memory.array[PAGE : PAGE + 5] == b"hello"
    assert rig.works.log == []
    rig.works.memory.view.release()
    assert errno_of(lambda: rig.vfio.read(2, 0, 1)) == EIO
    assert errno_of(lambda: rig.vfio.write(2, 0, b"x")) == EIO


@pytest.mark.parametrize(("failure", "errno"), [(MdevError(EBUSY), EBUSY), (IndexError("x"), EIO)])
def test_a_device_that_fails_disturbs_one_request(failure: Exception, errno: int) -> None:
    rig = Rig()
    rig.works.fail = {"read": failure, "write": failure}
    assert errno_of(lambda: rig.vfio.read(1, 0, 1)) == errno
    assert errno_of(lambda: rig.vfio.write(1, 0, b"x")) == errno
    assert len(rig.notes) == (2 if errno == EIO else 0)
    assert rig.vfio.read(1, 0, 1) == b"\0"


def answers(value: object) -> Steps[bytes]:
    yield DmaRead(0, 0)
    return value  # type: ignore[return-value]


@pytest.mark.parametrize("wrong", [b"", b"12345", None, 4, [1, 2, 3, 4]])
def test_an_answer_that_is_none(wrong: object) -> None:
    rig = Rig()
    for answer in (wrong, answers(wrong)):
        rig.works.on_read = lambda *_, answer=answer: answer
        assert errno_of(lambda: rig.vfio.read(1, 0, 4)) == EIO
    assert len(rig.notes) == 2
    rig.works.on_read = lambda *_: answers(b"1234")
    assert rig.vfio.read(1, 0, 4) == b"1234"


def test_accesses_that_use_mapped_memory_complete_at_once() -> None:
    rig = Rig()
    rig.map(0).array[:4] = b"data"
    rig.registers(0, 4)
    assert rig.vfio.read(0, 24, 4) == b"data"
    assert rig.vfio.write(0, 24, b"\1") is None
    assert rig.works.log[-1] == ("memory", b"data")
    rig.registers(PAGE, 4)
    assert errno_of(lambda: rig.vfio.read(0, 24, 4)) == EFAULT


def test_accesses_that_use_other_memory_wait() -> None:
    rig = Rig()
    rig.map_remote(0)
    rig.registers(0, 4, value=PAGE)
    rig.user.memory[:4] = b"data"
    read, write, copy = rig.vfio.read(0, 24, 4), rig.vfio.write(0, 24, b"\1"), rig.vfio.write(0, 24, b"\3")
    got: list[object] = []
    for pending in (read, write, copy):
        assert isinstance(pending, Pending)
        pending.then(got.append)
    assert rig.vfio.read(1, 0, 1) == b"\0"  # others go on
    assert rig.user.answer_all() == 3
    assert got[:2] == [b"data", None]
    assert isinstance(got[2], MdevError)  # the copy's target is not mapped
    assert got[2].errno == EFAULT


# --- irqs and reset ---------------------------------------------------------------------------------------------------


def test_irqs_reach_their_listeners() -> None:
    rig = Rig()
    (intx,), msi = listen(rig, 0), listen(rig, 1, 4)
    assert rig.works.called("irq_changed") == [("irq_changed", 0), ("irq_changed", 1)]
    assert rig.works.host is not None
    assert rig.works.host.irq_enabled(1, 3)
    rig.vfio.write(0, 24, b"\4")
    assert intx.signals == 1
    rig.registers(0, 0, value=2)
    rig.vfio.write(0, 24, b"\6")
    assert [target.signals for target in msi] == [0, 0, 1, 0]
    rig.vfio.set_irqs(IrqSet(0x11, 0, 0, 1))
    assert intx.signals == 2
    rig.vfio.write(0, 24, b"\5")
    rig.vfio.set_irqs(IrqSet(0x11, 0, 0, 1))
    assert intx.signals == 2


def test_a_device_that_fails_when_told_of_listeners() -> None:
    rig = Rig()
    rig.works.fail["irq_changed"] = KeyError("x")
    target = RecordingTarget()
    assert errno_of(lambda: rig.vfio.set_irqs(IrqSet(EVENTFD_TRIGGER, 0, 0, 1, b"", (target,)))) == EIO
    assert target.closed == 0


@pytest.mark.parametrize(
    ("flags", "irqs", "index"),
    [
        (DeviceFlag.PCI, 5, 4),
        (DeviceFlag.CCW, 3, 2),
        (DeviceFlag.PLATFORM, 5, None),
        (DeviceFlag.PCI, 4, None),
    ],
)
def test_asking_for_release(flags: DeviceFlag, irqs: int, index: int | None) -> None:
    rig = Rig(opened=False)
    rig.works.flags = int(flags)
    rig.works.irqs = (IrqInfo(1, 1),) * irqs
    rig.vfio.open(rig.user)
    targets = [listen(rig, number)[0] for number in range(irqs)]
    rig.vfio.request_release()
    assert [target.signals for target in targets] == [int(number == index) for number in range(irqs)]


def test_reset() -> None:
    rig = Rig()
    memory, (target,) = rig.map(PAGE), listen(rig, 0)
    rig.map_remote(0)
    rig.registers(0, 4)
    got: list[object] = []
    pending = rig.vfio.write(0, 24, b"\1")
    assert pending is not None
    pending.then(got.append)
    rig.vfio.reset()
    assert [result.errno for result in got if isinstance(result, MdevError)] == [EIO]
    assert rig.works.called("reset") == [("reset",)]
    assert (memory.closed, target.closed) == (0, 0)
    rig.user.answer_all()
    assert ("memory", bytes(4)) not in rig.works.log
    assert rig.vfio.counters["reset"] == 1


def test_reset_that_is_not_offered() -> None:
    rig = Rig()
    rig.works.flags = int(DeviceFlag.PCI)
    assert errno_of(rig.vfio.reset) == EINVAL
    assert rig.works.log == []


# --- what states forbid -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*list(State)[1:5], State.PRE_COPY])
def test_what_states_forbid(state: State) -> None:
    rig = Rig()
    rig.map(0)
    rig.vfio.migration.set_state(state)
    stopped, copying = state in (State.STOP, State.STOP_COPY), state is State.STOP_COPY
    target, memory = RecordingTarget(), ArrayMemory()
    always: list[Callable[[], object]] = [
        rig.vfio.info,
        lambda: rig.vfio.region_info(0),
        lambda: rig.vfio.irq_info(0),
        lambda: rig.vfio.set_irqs(IrqSet(EVENTFD_TRIGGER, 0, 0, 1, b"", (target,))),
        lambda: rig.vfio.dma_map(DmaRegion(PAGE, PAGE, DMA_RW, memory)),
        lambda: rig.vfio.dma_unmap(0, PAGE),
    ]
    assert [errno_of(request) for request in always] == [EINVAL if stopped else 0] * len(always)
    assert (target.closed, memory.closed) == (stopped, stopped)
    for region in (1, 2):
        assert errno_of(lambda region=region: rig.vfio.read(region, 0, 1)) == (EINVAL if copying else 0)
        assert errno_of(lambda region=region: rig.vfio.write(region, 0, b"x")) == (EINVAL if copying else 0)
    assert errno_of(lambda: rig.vfio.feature(GET | 2, b"", ROOM)) == 0
    assert errno_of(rig.vfio.reset) == 0
    assert rig.vfio.read(1, 0, 1) is not None
    assert rig.vfio.info().irqs == 5


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_of_migration() -> None:
    rig = Rig()
    feature = rig.vfio.feature
    assert feature(GET | 1, b"", 8) == bytes.fromhex("0500000000000000")  # V24
    assert feature(GET | 2, b"", 8) == bytes.fromhex("02000000ffffffff")
    v20 = bytes.fromhex("06000000ffffffff")
    assert feature(SET | 2, v20, 8) == v20
    assert rig.vfio.migration.state is State.PRE_COPY
    assert feature(GET | 9, b"", 8) == (24).to_bytes(8, "little")
    assert rig.vfio.migration_read(4) == bytes(range(4))
    assert feature(GET | 9, b"", 8) == (20).to_bytes(8, "little")


@pytest.mark.parametrize("state", [0, 5, 7, 8, 99, 0xFFFFFFFF])
def test_states_that_nobody_can_set(state: int) -> None:
    rig = Rig()
    assert errno_of(lambda: rig.vfio.feature(SET | 2, state.to_bytes(4, "little") + b"\xff" * 4, ROOM)) == EINVAL  # B31
    assert rig.vfio.migration.state is State.RUNNING


def test_features_of_logging() -> None:
    rig = Rig()
    feature = rig.vfio.feature
    rig.map(0, 4 * PAGE)
    request = layout.encode_logging_report(PAGE, PAGE, PAGE)
    assert errno_of(lambda: feature(GET | 8, request, ROOM)) == EINVAL  # B31: before the start
    v17 = bytes.fromhex("00100000000000000000000000000000")
    assert feature(SET | 6, v17, ROOM) == v17
    rig.registers(PAGE, 10)
    rig.vfio.write(0, 24, b"\2")
    assert feature(GET | 8, request, 32) == request + (1).to_bytes(8, "little")  # V18
    assert feature(GET | 8, request, 32) == request + bytes(8)
    assert errno_of(lambda: feature(GET | 8, request, 31)) == EINVAL
    assert feature(SET | 7, b"", 0) == b""
    assert errno_of(lambda: feature(GET | 8, request, ROOM)) == EINVAL


@pytest.mark.parametrize(
    ("flags", "size", "room"),
    [
        (GET | 99, 0, ROOM),  # B31
        (SET | 0, 16, ROOM),
        (GET | 3, 0, ROOM),
        (PROBE | 99, 0, ROOM),
        (PROBE | GET | 0xFFFF, 0, ROOM),
        (1, 0, ROOM),
        (0, 0, ROOM),
        (GET | SET | 2, 8, ROOM),
        (GET | 1 << 19 | 2, 0, ROOM),
        (1 << 31 | GET | 2, 0, ROOM),
        (SET | 1, 8, ROOM),
        (GET | 6, 16, ROOM),
        (GET | 7, 0, ROOM),
        (SET | 8, 24, ROOM),
        (PROBE | SET | 1, 0, ROOM),
        (PROBE | GET | SET | 8, 0, ROOM),
        (GET | 1, 0, 7),
        (GET | 2, 0, 7),
        (GET | 9, 0, 7),
        (SET | 2, 7, ROOM),
        (SET | 2, 8, 7),
        (SET | 6, 15, ROOM),
        (SET | 6, 16, 15),
        (GET | 8, 23, ROOM),
        (GET | 8, 24, 0),
    ],
)
def test_features_that_are_refused(flags: int, size: int, room: int) -> None:
    rig = Rig()
    assert errno_of(lambda: rig.vfio.feature(flags, bytes(size), room)) == EINVAL


@pytest.mark.parametrize("flags", [1, GET | 1, 2, GET | SET | 2, SET | 6, SET | 7, GET | 8, GET | 9])
def test_probing_changes_nothing(flags: int) -> None:
    rig = Rig()
    assert rig.vfio.feature(PROBE | flags, bytes(8), 0) == b""
    assert rig.vfio.migration.state is State.RUNNING
    assert not rig.vfio.dirty.logging


def test_a_device_without_migration() -> None:
    rig = Rig()
    rig.works.migration = None  # type: ignore[assignment]
    for flags in (GET | 1, GET | 2, SET | 2, GET | 9, PROBE | 1, PROBE | GET | 2):
        assert errno_of(lambda flags=flags: rig.vfio.feature(flags, bytes(8), ROOM)) == EINVAL
    assert rig.vfio.feature(PROBE | SET | 6, b"", 0) == b""  # logging is the framework's


def test_moving_what_nobody_has_open() -> None:
    source, target = Rig(opened=False), Rig(opened=False)
    target.works.state[:] = bytes(24)
    for state in (State.PRE_COPY, State.STOP_COPY):
        source.vfio.feature(SET | 2, layout.encode_device_state(state), 8)
    target.vfio.feature(SET | 2, layout.encode_device_state(State.RESUMING), 8)
    while piece := source.vfio.migration_read(5):
        target.vfio.migration_write(piece)
    target.vfio.feature(SET | 2, layout.encode_device_state(State.RUNNING), 8)
    assert target.works.state == bytes(range(24))
    target.vfio.open(target.user)
    assert target.vfio.read(1, 0, 1) == b"\0"


def test_unmapping_is_checked() -> None:
    rig = Rig()
    assert errno_of(lambda: rig.vfio.dma_unmap(0, PAGE)) == ENOENT
    rig.works.fail["dma_unmapped"] = KeyError("x")
    memory = rig.map(0)
    rig.vfio.dma_unmap(0, PAGE)
    assert memory.closed == 1
    assert len(rig.notes) == 1
