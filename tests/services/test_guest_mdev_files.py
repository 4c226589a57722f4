"""Device files over mediated devices: calls that wait, are interrupted, are answered in part, or lose their device."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import GuestSteps
from pvnet.papr.errno import EAGAIN, EBUSY, EINTR, EINVAL, EIO, ENODEV, ENOSPC
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.runtime.hcall_client import INLINE_BYTES
from pvnet_services.guest_mdev_files import BLKFLSBUF, BLKGETSIZE64, POLLIN, GuestDeviceFile

READ, WRITE, POLL, IOCTL = DeviceIo.READ, DeviceIo.WRITE, DeviceIo.POLL, DeviceIo.IOCTL
Answer = tuple[int, bytes]


class Runner:
    """Runs steps when the test says so, one after another."""

    def __init__(self) -> None:
        self.jobs: list[tuple[GuestSteps[Any], Callable[[object | MdevError], None]]] = []
        self.most = 0

    def submit(self, steps: GuestSteps[Any], done: Callable[[object | MdevError], None]) -> None:
        self.jobs.append((steps, done))
        self.most = max(self.most, len(self.jobs))

    def run(self, failure: MdevError | None = None) -> int:
        """Run everything, also what is added meanwhile; returns how many."""
        count = 0
        while self.jobs:
            steps, done = self.jobs.pop(0)
            count += 1
            if failure is not None:
                steps.close()
                done(failure)
                continue
            try:
                next(steps)
            except StopIteration as stop:
                done(stop.value)
            except MdevError as error:
                done(error)
            else:
                raise AssertionError("these files ask their device nothing")
        return count


class Terminal:
    """A character device: what has come, room for what goes."""

    size: int | None = None

    def __init__(self) -> None:
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.came = b""
        self.room = 0
        self.gone = b""
        self.flushed = 0

    @property
    def readable(self) -> bool:
        return bool(self.came)

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:
        assert offset == 0
        data, self.came = self.came[:count], self.came[count:]
        return data
        yield  # type: ignore[unreachable]

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:
        assert offset == 0
        taken = min(self.room, len(data))
        self.gone += data[:taken]
        self.room -= taken
        return taken
        yield  # type: ignore[unreachable]

    def flush(self) -> GuestSteps[None]:
        self.flushed += 1
        return
        yield


class Disk(Terminal):
    """A block device."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.data = bytearray(range(size))

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:
        return bytes(self.data[offset : offset + count])
        yield  # type: ignore[unreachable]

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:
        self.data[offset : offset + len(data)] = data
        return len(data)
        yield  # type: ignore[unreachable]


class Call:
    """A call that was made."""

    def __init__(self, rig: Rig, io: DeviceIo) -> None:
        self.answers: list[Answer] = []
        self.interrupt = rig.file.block_call(io, lambda result, data: self.answers.append((result, data)))

    @property
    def answer(self) -> Answer | None:
        """What it was answered, once; None: it waits."""
        assert len(self.answers) <= 1
        return self.answers[0] if self.answers else None


class Rig:
    def __init__(self, device: Terminal | None = None) -> None:
        self.runner = Runner()
        self.device = device or Terminal()
        self.file = GuestDeviceFile(self.runner, self.device)

    def call(self, operation: Any, data: bytes = b"", **more: Any) -> Call:
        return Call(self, DeviceIo(operation=operation, data=data, **more))

    def comes(self, data: bytes) -> None:
        self.device.came += data
        assert self.device.on_readable is not None
        self.device.on_readable()

    def makes_room(self, room: int) -> None:
        self.device.room += room
        assert self.device.on_writable is not None
        self.device.on_writable()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def interrupt(call: Call) -> None:
    assert call.interrupt is not None
    call.interrupt()


# --- reads ------------------------------------------------------------------------------------------------------------


def test_a_read_waits_until_something_comes(rig: Rig) -> None:
    call = rig.call(READ, count=10)
    assert rig.runner.run() == 1
    assert call.answer is None
    rig.file.progress()
    rig.runner.run()
    assert call.answer is None, "nothing has come"
    rig.comes(b"hello")
    rig.runner.run()
    assert call.answer == (5, b"hello")


def test_what_has_come_before_is_there_at_once(rig: Rig) -> None:
    rig.device.came = b"hello"
    call = rig.call(READ, count=3)
    rig.runner.run()
    assert call.answer == (3, b"hel")
    call = rig.call(READ, count=3, nonblock=True)
    rig.runner.run()
    assert call.answer == (2, b"lo")
    call = rig.call(READ, count=3, nonblock=True)
    rig.runner.run()
    assert call.answer == (-EAGAIN, b"")


def test_readers_are_served_in_order_one_at_a_time(rig: Rig) -> None:
    calls = [rig.call(READ, count=2) for _ in range(3)]
    rig.runner.run()
    rig.comes(b"abcde")
    rig.comes(b"f")
    rig.runner.run()
    assert [call.answer for call in calls] == [(2, b"ab"), (2, b"cd"), (2, b"ef")]
    assert rig.runner.most == 1


def test_who_does_not_wait_does_not_stand_in_line(rig: Rig) -> None:
    waiting, writing = rig.call(READ, count=2), rig.call(WRITE, b"aa")
    rig.runner.run()
    assert rig.call(READ, count=2, nonblock=True).answer == (-EAGAIN, b"")
    assert rig.call(POLL, nonblock=True).answer == (0, b"")
    assert rig.call(WRITE, b"b", nonblock=True).answer == (-EAGAIN, b"")
    interrupt(waiting)
    interrupt(writing)
    rig.device.came, rig.device.room = b"ab", 1
    calls = [rig.call(READ, count=2, nonblock=True), rig.call(WRITE, b"b", nonblock=True)]
    rig.runner.run()
    assert [call.answer for call in calls] == [(2, b"ab"), (1, b"")]


def test_a_read_that_fails(rig: Rig) -> None:
    first, second = rig.call(READ, count=2), rig.call(READ, count=2)
    rig.runner.run(MdevError(EIO, "broken"))
    assert first.answer == second.answer == (-EIO, b"")


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_a_read_that_is_interrupted_while_it_waits(rig: Rig) -> None:
    first, second = rig.call(READ, count=2), rig.call(READ, count=2)
    rig.runner.run()
    interrupt(first)
    assert first.answer == (-EINTR, b"")
    rig.comes(b"ab")
    rig.runner.run()
    assert second.answer == (2, b"ab"), "what comes afterwards is the next one's"
    interrupt(first)
    interrupt(second)
    assert len(first.answers) == len(second.answers) == 1


def test_a_read_that_is_interrupted_in_line(rig: Rig) -> None:
    first, second = rig.call(READ, count=2), rig.call(READ, count=2)
    interrupt(second)
    assert second.answer == (-EINTR, b"")
    rig.device.came = b"ab"
    rig.runner.run()
    assert first.answer == (2, b"ab")


@pytest.mark.parametrize(("came", "answer"), [(b"ab", (2, b"ab")), (b"", (-EINTR, b""))])
def test_a_read_that_is_interrupted_while_the_device_reads(rig: Rig, came: bytes, answer: Answer) -> None:
    """What the device has given already must not be lost."""
    call = rig.call(READ, count=2)
    rig.device.came = came
    interrupt(call)
    assert call.answer is None
    rig.runner.run()
    assert call.answer == answer
    assert rig.runner.run() == 0


def test_a_poll_that_is_interrupted(rig: Rig) -> None:
    waiting = rig.call(POLL)
    rig.runner.run()
    interrupt(waiting)
    assert waiting.answer == (-EINTR, b"")
    polling = rig.call(POLL)
    interrupt(polling)
    assert polling.answer is None
    rig.runner.run()
    assert polling.answer == (-EINTR, b"")


@pytest.mark.parametrize(("room", "answer"), [(0, -EINTR), (3, 3), (8, 8)])
def test_a_write_that_is_interrupted_while_the_device_writes(rig: Rig, room: int, answer: int) -> None:
    call = rig.call(WRITE, b"12345678")
    rig.device.room = room
    interrupt(call)
    assert call.answer is None
    rig.runner.run()
    assert call.answer == (answer, b"")
    assert rig.device.gone == b"12345678"[:room]
    assert rig.runner.run() == 0


def test_a_write_that_is_interrupted_between_two_parts(rig: Rig) -> None:
    rig.device.room = 3
    call = rig.call(WRITE, b"12345678")
    rig.runner.run()
    interrupt(call)
    assert call.answer == (3, b"")
    rig.makes_room(100)
    rig.runner.run()
    assert rig.device.gone == b"123"


# --- writes -----------------------------------------------------------------------------------------------------------


def test_a_write_waits_until_all_of_it_is_taken(rig: Rig) -> None:
    rig.device.room = 3
    call = rig.call(WRITE, b"12345678")
    rig.runner.run()
    for room in (1, 2):
        assert call.answer is None
        rig.makes_room(room)
        rig.runner.run()
    rig.makes_room(2)
    rig.runner.run()
    assert call.answer == (8, b"")
    assert rig.device.gone == b"12345678"


def test_writers_do_not_mix(rig: Rig) -> None:
    first, second = rig.call(WRITE, b"aaaa"), rig.call(WRITE, b"bbbb")
    for _ in range(8):
        rig.makes_room(1)
        rig.runner.run()
    assert first.answer == second.answer == (4, b"")
    assert rig.device.gone == b"aaaabbbb"


@pytest.mark.parametrize(("room", "answer"), [(0, -EAGAIN), (3, 3), (4, 4)])
def test_a_write_that_does_not_wait(rig: Rig, room: int, answer: int) -> None:
    rig.device.room = room
    call = rig.call(WRITE, b"aaaa", nonblock=True)
    rig.runner.run()
    assert call.answer == (answer, b"")


@pytest.mark.parametrize(("room", "answer"), [(0, -EIO), (3, 3)])
def test_a_write_that_fails_says_what_was_taken(rig: Rig, room: int, answer: int) -> None:
    rig.device.room = room
    call = rig.call(WRITE, b"aaaa")
    rig.runner.run()
    rig.makes_room(1)
    if call.answer is None:
        rig.runner.run(MdevError(EIO, "broken"))
    assert call.answer == (answer, b"")


def test_a_write_of_nothing(rig: Rig) -> None:
    call = rig.call(WRITE)
    rig.runner.run()
    assert call.answer == (0, b"")


def test_reads_and_writes_do_not_wait_for_each_other(rig: Rig) -> None:
    reading, writing = rig.call(READ, count=2), rig.call(WRITE, b"aa")
    rig.makes_room(2)
    rig.runner.run()
    assert (reading.answer, writing.answer) == (None, (2, b""))
    waiting = rig.call(WRITE, b"bb")
    rig.comes(b"cc")
    rig.runner.run()
    assert (reading.answer, waiting.answer) == ((2, b"cc"), None)


# --- polls ------------------------------------------------------------------------------------------------------------


def test_a_poll_waits_and_takes_nothing(rig: Rig) -> None:
    call = rig.call(POLL)
    rig.runner.run()
    assert call.answer is None
    rig.comes(b"a")
    rig.runner.run()
    assert call.answer == (POLLIN, b"")
    assert rig.device.came == b"a"


@pytest.mark.parametrize(("came", "answer"), [(b"", 0), (b"a", POLLIN)])
def test_a_poll_that_does_not_wait(rig: Rig, came: bytes, answer: int) -> None:
    rig.device.came = came
    call = rig.call(POLL, nonblock=True)
    rig.runner.run()
    assert call.answer == (answer, b"")


def test_a_poll_that_fails(rig: Rig) -> None:
    call = rig.call(POLL)
    rig.runner.run(MdevError(EIO, "broken"))
    assert call.answer == (-EIO, b"")


# --- the end, and too much --------------------------------------------------------------------------------------------


def test_a_device_that_goes_ends_every_call(rig: Rig) -> None:
    calls = [rig.call(READ, count=1), rig.call(POLL), rig.call(WRITE, b"a"), rig.call(WRITE, b"b")]
    rig.runner.run()
    late = rig.call(READ, count=1)
    rig.file.close()
    assert [call.answer for call in [*calls, late]] == [(-ENODEV, b"")] * 5
    for operation in (READ, WRITE, POLL, IOCTL):
        assert rig.call(operation, command=BLKFLSBUF).answer == (-ENODEV, b"")
    assert rig.file.size is None
    rig.runner.run()
    rig.file.progress()
    assert rig.runner.run() == 0


def test_a_device_that_goes_while_it_reads_and_writes(rig: Rig) -> None:
    rig.device.came, rig.device.room = b"a", 1
    reading, writing = rig.call(READ, count=1), rig.call(WRITE, b"b")
    rig.file.close()
    rig.runner.run()
    assert reading.answer == writing.answer == (-ENODEV, b"")


def test_so_many_calls_wait_and_no_more(rig: Rig) -> None:
    reading = [rig.call(READ, count=1) for _ in range(64)]
    assert rig.call(READ, count=1).answer == (-EBUSY, b"")
    assert rig.call(POLL).answer == (-EBUSY, b"")
    assert rig.call(WRITE, b"a").answer is None, "writers have a line of their own"
    rig.runner.run()
    interrupt(reading[0])
    rig.file.progress()
    assert rig.call(READ, count=1).answer is None, "there is room again"


@pytest.mark.parametrize(
    "io",
    [
        DeviceIo(operation=READ, count=INLINE_BYTES + 1),
        DeviceIo(operation=WRITE, data=bytes(INLINE_BYTES + 1)),
        DeviceIo(operation=DeviceIo.OPEN),
        DeviceIo(operation=IOCTL, command=BLKGETSIZE64),
        DeviceIo(operation=IOCTL, command=1),
    ],
)
def test_calls_that_a_terminal_does_not_take(rig: Rig, io: DeviceIo) -> None:
    call = Call(rig, io)
    assert (call.answer, call.interrupt) == ((-EINVAL, b""), None)


def test_a_terminal_can_be_flushed(rig: Rig) -> None:
    call = rig.call(IOCTL, command=BLKFLSBUF)
    rig.runner.run()
    assert (call.answer, rig.device.flushed) == ((0, b""), 1)


# --- block devices ----------------------------------------------------------------------------------------------------

SIZE = 100


@pytest.fixture
def disk() -> Rig:
    return Rig(Disk(SIZE))


@pytest.mark.parametrize(
    ("offset", "count", "length"),
    [(0, SIZE, SIZE), (0, SIZE + 1, SIZE), (90, 20, 10), (99, 1, 1), (100, 1, 0), (1 << 63, 1, 0), (50, 0, 0)],
)
def test_reads_end_where_the_disk_ends(disk: Rig, offset: int, count: int, length: int) -> None:
    call = disk.call(READ, offset=offset, count=count)
    disk.runner.run()
    assert call.answer == (length, bytes(range(SIZE))[offset : offset + count] if length else b"")


@pytest.mark.parametrize(
    ("offset", "count", "answer"),
    [
        (0, SIZE, SIZE),
        (0, SIZE + 1, SIZE),
        (90, 20, 10),
        (99, 1, 1),
        (100, 1, -ENOSPC),
        (1 << 63, 1, -ENOSPC),
        (100, 0, 0),
        (0, 0, 0),
    ],
)
def test_writes_end_where_the_disk_ends(disk: Rig, offset: int, count: int, answer: int) -> None:
    call = disk.call(WRITE, b"\xff" * count, offset=offset)
    disk.runner.run()
    assert call.answer == (answer, b"")
    assert isinstance(disk.device, Disk)
    assert len(disk.device.data) == SIZE
    assert disk.device.data.count(0xFF) == max(0, answer)


def test_the_size_of_a_disk(disk: Rig) -> None:
    assert disk.file.size == SIZE
    assert disk.call(IOCTL, command=BLKGETSIZE64).answer == (0, struct.pack("<Q", SIZE))


def test_calls_of_a_disk_cannot_be_interrupted_and_do_not_stand_in_line(disk: Rig) -> None:
    calls = [disk.call(READ, offset=at, count=1) for at in range(70)]
    assert all(call.interrupt is None for call in calls)
    disk.runner.run()
    assert [call.answer for call in calls] == [(1, bytes([at])) for at in range(70)]


@pytest.mark.parametrize("operation", [READ, WRITE, IOCTL])
def test_a_disk_that_fails(disk: Rig, operation: Any) -> None:
    call = disk.call(operation, b"x", count=1, command=BLKFLSBUF)
    disk.runner.run(MdevError(EIO, "broken"))
    assert call.answer == (-EIO, b"")


def test_a_disk_is_not_polled(disk: Rig) -> None:
    assert disk.call(POLL).answer == (-EINVAL, b"")
