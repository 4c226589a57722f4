"""Maps of the user's memory, and programs that use it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vfio_rig import DMA_RW, PAGE, ArrayMemory, Rig, errno_of

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note
from pvnet.mdev.device import DmaRead, DmaWrite, Steps
from pvnet.mdev.dirty import DirtyPages
from pvnet.mdev.dma import DmaLimits, DmaRegion, DmaTable
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guard import Guard
from pvnet.mdev.names import DmaFlag
from pvnet.mdev.programs import MAX_ACCESS, MAX_PROGRAMS, Pending, Programs
from pvnet.papr.errno import EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOSPC

TOP = 1 << 64
READ, WRITE = int(DmaFlag.READ), int(DmaFlag.WRITE)
MMAP, FILE_IO = int(DmaFlag.MMAP), int(DmaFlag.FILE_IO)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "size", "flags", "errno"),
    [
        (0, 0, DMA_RW, EINVAL),  # B20
        (TOP - PAGE, 2 * PAGE, DMA_RW, EINVAL),
        (TOP, PAGE, DMA_RW, EINVAL),
        (-PAGE, PAGE, DMA_RW, EINVAL),
        (1, PAGE, DMA_RW, EINVAL),
        (0, PAGE + 1, DMA_RW, EINVAL),
        (0, PAGE, 0, EINVAL),
        (0, PAGE, MMAP, EINVAL),
        (0, PAGE, DMA_RW | 16, EINVAL),  # B22
        (0, PAGE, DMA_RW | 1 << 31, EINVAL),
        (1 << 44, (1 << 43) + PAGE, DMA_RW, ENOSPC),  # B21
        (8 * PAGE, PAGE, DMA_RW, EEXIST),  # B18
        (7 * PAGE, 2 * PAGE, DMA_RW, EEXIST),
        (9 * PAGE, 2 * PAGE, DMA_RW, EEXIST),
        (0, 64 * PAGE, DMA_RW, EEXIST),
        (8 * PAGE, 2 * PAGE, READ, EEXIST),
        (TOP - PAGE, PAGE, DMA_RW, 0),
        (10 * PAGE, PAGE, READ, 0),
        (7 * PAGE, PAGE, WRITE, 0),
        (0, PAGE, DMA_RW | MMAP | FILE_IO, 0),
        (8 * PAGE, 2 * PAGE, DMA_RW, 0),  # B19: identical
    ],
)
def test_maps(address: int, size: int, flags: int, errno: int) -> None:
    table = DmaTable()
    table.map(DmaRegion(8 * PAGE, 2 * PAGE, DMA_RW, ArrayMemory()))
    memory = ArrayMemory()
    assert errno_of(lambda: table.map(DmaRegion(address, size, flags, memory))) == errno
    assert memory.closed == bool(errno)
    assert len(table) == (1 if errno or address == 8 * PAGE else 2)


def test_identical_maps() -> None:
    table = DmaTable()
    old, new = ArrayMemory(), ArrayMemory()
    table.map(DmaRegion(0, PAGE, DMA_RW, old, 7))
    for other in (DmaRegion(0, PAGE, DMA_RW, None, 7), DmaRegion(0, PAGE, DMA_RW, ArrayMemory(), 8)):
        assert errno_of(lambda other=other: table.map(other)) == EEXIST
    table.map(DmaRegion(0, PAGE, DMA_RW, new, 7))
    assert (old.closed, new.closed) == (1, 0)
    assert table.regions[0].memory is new
    table.map(DmaRegion(0, PAGE, DMA_RW, new, 7))
    assert new.closed == 0
    table.map(DmaRegion(PAGE, PAGE, DMA_RW))
    table.map(DmaRegion(PAGE, PAGE, DMA_RW))
    assert len(table) == 2


@pytest.mark.parametrize("flag", [MMAP, FILE_IO])
def test_flags_that_need_a_descriptor(flag: int) -> None:
    assert errno_of(lambda: DmaTable().map(DmaRegion(0, PAGE, DMA_RW | flag))) == EINVAL


def test_limits_of_maps() -> None:
    table = DmaTable(DmaLimits(maps=2, size=PAGE, page_size=1))
    table.map(DmaRegion(3, 5, READ))
    table.map(DmaRegion(8, 1, READ))
    assert errno_of(lambda: table.map(DmaRegion(9, 1, READ))) == ENOSPC
    table.map(DmaRegion(8, 1, READ))
    assert errno_of(lambda: DmaTable(DmaLimits(size=PAGE)).map(DmaRegion(0, 2 * PAGE, READ))) == ENOSPC
    DmaTable(DmaLimits(size=PAGE)).map(DmaRegion(0, PAGE, READ))


@pytest.mark.parametrize(
    ("address", "size", "all_", "errno"),
    [
        (0, PAGE, False, ENOENT),  # B24
        (PAGE, PAGE, False, ENOENT),
        (2 * PAGE, PAGE, False, ENOENT),
        (PAGE, 3 * PAGE, False, ENOENT),
        (TOP, TOP, False, ENOENT),
        (PAGE, 2 * PAGE, True, EINVAL),  # B25
        (0, PAGE, True, EINVAL),
        (PAGE, 2 * PAGE, False, 0),
        (0, 0, True, 0),
    ],
)
def test_unmapping(address: int, size: int, all_: bool, errno: int) -> None:
    rig = Rig()
    memory = rig.map(PAGE, 2 * PAGE)
    assert errno_of(lambda: rig.vfio.dma_unmap(address, size, all_=all_)) == errno
    assert memory.closed == (not errno)
    assert rig.works.called("dma_unmapped") == ([] if errno else [("dma_unmapped", PAGE, 2 * PAGE)])
    assert len(rig.vfio.dma) == bool(errno)


def test_the_device_is_told_before_a_map_is_dropped() -> None:
    rig = Rig()
    memories = [rig.map(address) for address in (0, 4 * PAGE)]
    memories[0].array[:4] = b"last"
    seen: list[object] = []

    def told(address: int, size: int) -> None:
        def last() -> Steps[None]:
            seen.append((yield DmaRead(address, 4)))

        rig.run(last())
        raise ZeroDivisionError

    setattr(rig.works, "dma_unmapped", told)  # noqa: B010
    rig.vfio.dma_unmap(0, 0, all_=True)
    assert seen == [b"last", bytes(4)]
    assert [memory.closed for memory in memories] == [1, 1]
    assert [dict(note.fields)["doing"] for note in rig.notes] == ["dma_unmapped"] * 2
    assert len(rig.vfio.dma) == 0


def test_dropping_twice() -> None:
    table = DmaTable()
    region = DmaRegion(0, PAGE, DMA_RW, ArrayMemory())
    table.map(region)
    other = DmaRegion(PAGE, PAGE, DMA_RW)
    table.map(other)
    table.drop(region)
    table.drop(region)
    assert table.regions == (other,)
    table.clear()
    assert len(table) == 0


# --- programs ---------------------------------------------------------------------------------------------------------


def reading(address: int, length: int, out: list[object]) -> Steps[None]:
    try:
        out.append((yield DmaRead(address, length)))
    except MdevError as error:
        out.append(error.errno)
        raise


def writing(address: int, data: bytes, out: list[object]) -> Steps[None]:
    try:
        out.append((yield DmaWrite(address, data)))
    except MdevError as error:
        out.append(error.errno)


@pytest.mark.parametrize("mapped", [True, False])
def test_mapped_memory_is_there_at_once(mapped: bool) -> None:
    rig, out = Rig(), list[object]()
    memory = rig.map(PAGE, mapped=mapped)
    assert rig.run(writing(PAGE + 5, b"hello", out)) == [None]
    assert rig.run(reading(PAGE + 4, 7, out)) == [None]
    assert out == [b"", b"\0hello\0"]
    assert memory.array[5:10] == b"hello"
    assert rig.user.requests == []


def test_an_access_over_two_maps_here() -> None:
    rig, out = Rig(), list[object]()
    one, two = rig.map(0), rig.map(PAGE, mapped=False)
    rig.run(writing(PAGE - 2, b"abcd", out))
    rig.run(reading(PAGE - 3, 6, out))
    assert out == [b"", b"\0abcd\0"]
    assert (one.array[-2:], two.array[:2]) == (b"ab", b"cd")


@pytest.mark.parametrize(
    ("address", "length", "write", "errno"),
    [
        (PAGE - 1, 2, False, EFAULT),  # from outside into a map
        (3 * PAGE - 1, 2, False, EFAULT),  # read-only, then a hole
        (2 * PAGE - 1, 2, True, EFAULT),  # RW, then read-only
        (5 * PAGE, 1, False, EFAULT),  # write-only
        (TOP - 1, 2, False, EFAULT),
        (TOP + PAGE, 1, True, EFAULT),
        (-1, 1, False, EFAULT),
        (2 * PAGE - 1, 2, False, 0),
        (5 * PAGE, 1, True, 0),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_what_is_not_permitted(address: int, length: int, write: bool, errno: int, remote: bool) -> None:
    rig, out = Rig(), list[object]()
    rig.user.at_once = True
    memories: list[ArrayMemory] = []
    for start, flags in ((PAGE, DMA_RW), (2 * PAGE, READ), (5 * PAGE, WRITE), (8 * PAGE, READ)):
        if remote:
            rig.map_remote(start, flags=flags)
        else:
            memories.append(rig.map(start, flags=flags))
    steps = writing(address, b"x" * length, out) if write else reading(address, length, out)
    rig.run(steps)
    assert (out == [errno]) == bool(errno)
    if errno:
        assert rig.user.requests == []
        assert not any(any(memory.array) for memory in memories)  # nothing, not even the first byte
    else:
        assert len(out) == 1


def test_accesses_of_odd_lengths() -> None:
    rig, out = Rig(), list[object]()
    assert rig.run(reading(0, 0, out)) == [None]  # nothing is mapped
    rig.run(writing(0, b"", out))
    assert out == [b"", b""]
    out.clear()
    for length in (-1, MAX_ACCESS + 1):
        rig.run(reading(0, length, out))
    assert out == [EINVAL, EINVAL]


def test_a_file_that_has_become_shorter() -> None:
    rig, out = Rig(), list[object]()
    memory = rig.map(0, mapped=False)
    memory.short = 100
    ends = rig.run(reading(90, 20, out))
    assert out == [EFAULT]
    assert isinstance(ends[0], MdevError)


def test_messages_are_cut_where_they_must() -> None:
    rig, out = Rig(max_transfer=1000), list[object]()
    rig.map_remote(0, PAGE)
    rig.map_remote(PAGE, PAGE)
    here = rig.map(2 * PAGE)
    here.array[:] = b"h" * PAGE
    rig.user.memory[:] = bytes(index % 251 for index in range(len(rig.user.memory)))
    ends = rig.run(reading(PAGE - 1500, 1500 + PAGE + 3, out))
    assert (out, ends) == ([], [])
    assert rig.user.answer_all() == 2 + 5
    sizes = [length for _, _, length in rig.user.requests]
    assert sizes == [1000, 500, 1000, 1000, 1000, 1000, 96]
    assert out == [bytes(rig.user.memory[PAGE - 1500 : 2 * PAGE]) + b"hhh"]
    assert ends == [None]
    rig.run(writing(2 * PAGE - 1001, b"w" * 1002, out))
    rig.user.answer_all()
    assert rig.user.requests[-2:] == [("write", 2 * PAGE - 1001, 1000), ("write", 2 * PAGE - 1, 1)]
    assert rig.user.memory[2 * PAGE - 1001 : 2 * PAGE] == b"w" * 1001
    assert here.array[:2] == b"wh"


def test_a_user_that_answers_before_the_request_returns() -> None:
    rig, out = Rig(max_transfer=1), list[object]()
    rig.user.at_once = True
    rig.map_remote(0)
    rig.user.memory[:3000] = b"y" * 3000
    assert rig.run(reading(0, 3000, out)) == [None]
    assert out == [b"y" * 3000]
    assert len(rig.user.requests) == 3000


def test_errors_of_the_user_are_thrown_in() -> None:
    rig, out = Rig(max_transfer=4), list[object]()
    rig.map_remote(0)
    ends = rig.run(writing(0, b"12345678", out))
    rig.user.answer()
    rig.user.fail = MdevError(ENOSPC)
    rig.user.answer()
    assert out == [ENOSPC]
    assert ends == [None]  # the program has coped
    assert rig.user.memory[:8] == b"1234\0\0\0\0"


def test_a_user_that_refuses_to_ask() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)

    def refuse(address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        raise MdevError(EBUSY, "too many")

    setattr(rig.user, "dma_read", refuse)  # noqa: B010
    rig.run(reading(0, 4, out))
    assert out == [EBUSY]


def test_an_answer_of_the_wrong_length() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)
    rig.run(reading(0, 100, out))
    rig.user.memory = bytearray(50)
    rig.user.answer()
    assert out == [EIO]


def test_unmapping_ends_what_waits_for_it() -> None:
    rig, out, other = Rig(max_transfer=8), list[object](), list[object]()
    rig.map_remote(0)
    rig.map_remote(4 * PAGE)

    def program() -> Steps[None]:
        for address in (0, 8):
            try:
                out.append((yield DmaRead(address, 16)))
            except MdevError as error:
                out.append(error.errno)

    rig.run(program())
    rig.run(reading(4 * PAGE, 8, other))
    rig.user.answer()
    rig.vfio.dma_unmap(0, PAGE)
    assert out == [EFAULT, EFAULT]  # the one under way, and the next
    rig.user.memory[4 * PAGE : 4 * PAGE + 8] = b"go on..."
    rig.user.answer_all()
    assert out == [EFAULT, EFAULT]
    assert other == [b"go on..."]
    assert len(rig.user.requests) == 3


def test_unmapping_beside_what_waits_disturbs_nobody() -> None:
    rig, out = Rig(), list[object]()
    for page in range(3):
        rig.map_remote(page * PAGE)
    rig.run(reading(PAGE, PAGE, out))
    rig.vfio.dma_unmap(0, PAGE)
    rig.vfio.dma_unmap(2 * PAGE, PAGE)
    rig.user.answer()
    assert out == [bytes(PAGE)]


def test_unmapping_while_the_request_is_being_sent() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)

    def taken_back(address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        rig.vfio.dma_unmap(0, PAGE)
        done(b"x" * length)

    setattr(rig.user, "dma_read", taken_back)  # noqa: B010
    ends = rig.run(reading(0, 4, out))
    assert out == [EFAULT]
    assert len(ends) == 1


def test_cancelling() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)
    ends: list[MdevError | None] = []
    assert rig.works.host is not None
    closed: list[int] = []

    def program() -> Steps[None]:
        try:
            yield from reading(0, 4, out)
        finally:
            closed.append(1)

    program_ = rig.works.host.run(program(), ends.append)
    idle: list[int] = []
    rig.vfio.quiesce(lambda: idle.append(1))
    program_.cancel()
    program_.cancel()
    assert (closed, idle) == ([1], [1])
    rig.user.answer_all()
    assert (out, ends) == ([], [])


def test_a_program_that_cancels_itself() -> None:
    rig = Rig()
    rig.map(0)
    rig.map_remote(PAGE)
    log: list[object] = []
    assert rig.works.host is not None

    def program() -> Steps[None]:
        try:
            yield DmaRead(PAGE, 4)
            running.cancel()
            log.append((yield DmaRead(0, 4)))
        finally:
            log.append("closed")

    running = rig.works.host.run(program(), lambda end: log.append(end))
    rig.user.answer_all()
    assert log == ["closed"]

    def returns() -> Steps[None]:
        yield DmaRead(PAGE, 4)
        running.cancel()

    running = rig.works.host.run(returns(), lambda end: log.append(end))
    rig.user.answer_all()
    assert log == ["closed"]


def test_programs_that_fail() -> None:
    rig = Rig()

    def raises() -> Steps[None]:
        yield DmaWrite(0, b"")
        raise ZeroDivisionError("here")

    def refuses() -> Steps[None]:
        yield DmaWrite(0, b"")
        raise MdevError(ENOSPC)

    def clings() -> Steps[None]:
        try:
            yield DmaRead(0, 1)
        finally:
            raise ValueError("when closed")

    ends = [rig.run(steps())[0] for steps in (raises, refuses)]
    assert [end.errno if end else 0 for end in ends] == [EIO, ENOSPC]
    fields = dict(rig.notes[0].fields)
    assert (fields["failure"], fields["mdev"]) == ("ZeroDivisionError: here", "sample")
    assert str(fields["at"]).startswith("test_vfio_dma.py:")
    assert rig.vfio.counters["device_failed"] == 1
    rig.map_remote(0)
    rig.run(clings())
    rig.vfio.close()
    assert [dict(note.fields)["doing"] for note in rig.notes[1:]] == ["end of a program"]


def test_a_listener_to_the_end_that_fails() -> None:
    rig = Rig()
    assert rig.works.host is not None

    def fail(end: MdevError | None) -> None:
        raise ZeroDivisionError

    rig.works.host.run(reading(0, 0, []), fail)
    rig.works.host.run(reading(0, 0, []))
    assert len(rig.notes) == 1


def test_too_many_programs() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)
    ends = [rig.run(reading(0, 4, out)) for _ in range(MAX_PROGRAMS)]
    assert ends == [[]] * MAX_PROGRAMS
    (refused,) = rig.run(reading(0, 4, out))
    assert refused is not None
    assert refused.errno == EBUSY
    rig.registers(0, 4)
    assert errno_of(lambda: rig.vfio.write(0, 24, b"\1")) == EBUSY
    rig.user.answer()
    assert rig.run(reading(0, 4, out)) == []
    rig.user.answer_all()
    assert len(out) == MAX_PROGRAMS + 1


def test_a_program_that_starts_another_when_it_ends() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)
    assert rig.works.host is not None
    rig.works.host.run(reading(0, 4, out), lambda end: rig.run(reading(0, 8, out)) and None)
    idle: list[int] = []
    rig.vfio.quiesce(lambda: idle.append(len(out)))
    rig.user.answer()
    assert idle == []
    rig.user.answer()
    assert idle == [2]
    rig.vfio.quiesce(lambda: idle.append(3))
    assert idle == [2, 3]


def test_closing_ends_all() -> None:
    rig, out = Rig(), list[object]()
    memory = rig.map(PAGE)
    rig.map_remote(0)
    ends = rig.run(reading(0, 4, out))
    rig.registers(0, 4)
    results: list[object] = []
    pending = rig.vfio.write(0, 24, b"\1")
    assert pending is not None
    pending.then(results.append)
    idle: list[int] = []
    rig.vfio.quiesce(lambda: idle.append(1))
    rig.vfio.close()
    assert [result.errno for result in results if isinstance(result, MdevError)] == [ENODEV]
    assert (out, ends, idle, memory.closed) == ([], [], [1], 1)
    rig.user.answer_all()
    assert (out, ends, len(results)) == ([], [], 1)


def test_dirty_pages_of_direct_and_sent_writes() -> None:
    rig, out = Rig(max_transfer=PAGE), list[object]()
    rig.map(0)
    rig.map_remote(PAGE, 4 * PAGE)
    rig.vfio.dirty.start(PAGE)
    rig.run(writing(10, b"x", out))
    rig.run(reading(0, 10, out))
    rig.run(writing(2 * PAGE, b"y" * 2 * PAGE, out))
    rig.user.answer()
    assert rig.vfio.dirty.report(0, 8 * PAGE, PAGE, 8)[0] == 0b00101
    rig.vfio.dma_unmap(PAGE, 4 * PAGE)  # the second message may still have been stored
    assert rig.vfio.dirty.report(0, 8 * PAGE, PAGE, 8)[0] == 0b01000


def test_programs_without_a_user() -> None:
    table, notes = DmaTable(), list[Note]()
    table.map(DmaRegion(0, PAGE, DMA_RW))
    programs = Programs(table, DirtyPages(), Guard("none", Counters(), notes.append))
    ends: list[object] = []
    programs.start(reading(0, 4, []), ends.append, owed=False)
    assert [end.errno for end in ends if isinstance(end, MdevError)] == [ENODEV]


def test_results_are_waited_for_once() -> None:
    pending: Pending[int] = Pending()
    assert pending.now() is pending
    got: list[object] = []
    pending.then(got.append)
    with pytest.raises(LocalError):
        pending.then(got.append)
    pending.resolve(3)
    with pytest.raises(LocalError):
        pending.resolve(4)
    assert got == [3]
    early: Pending[int] = Pending()
    early.resolve(MdevError(EIO))
    with pytest.raises(MdevError):
        early.now()
    early.then(got.append)
    assert len(got) == 2


# --- against a naive model --------------------------------------------------------------------------------------------

PAGES = 12
places = st.integers(0, PAGES - 1)


class Model(RuleBasedStateMachine):
    """Memory of 12 pages, each mapped or not, here or by messages, against a bytearray and a list of flags."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(max_transfer=3000)
        self.rig.user.at_once = True
        self.rig.vfio.dirty.start(PAGE)
        self.flags = [0] * PAGES
        self.starts: dict[int, int] = {}
        self.owners: dict[int, ArrayMemory | None] = {}
        self.model = bytearray(PAGES * PAGE)
        self.dirty = set[int]()

    @rule(start=places, count=st.integers(1, 4), flags=st.sampled_from((READ, WRITE, DMA_RW)), how=st.integers(0, 2))
    def map(self, start: int, count: int, flags: int, how: int) -> None:
        size = count * PAGE
        memory = ArrayMemory(size, mapped=how == 1) if how else None
        if memory is not None:
            data = self.model[start * PAGE : start * PAGE + size]
            memory.array[: len(data)] = data
        end = start + count
        used = end > PAGES or any(self.flags[start:end])
        same = self.starts.get(start) == count and self.flags[start] == flags
        same = same and (self.owners[start] is None) == (memory is None)
        if end > PAGES:
            if memory is not None:
                memory.close()
            return
        answer = errno_of(lambda: self.rig.vfio.dma_map(DmaRegion(start * PAGE, size, flags, memory)))
        assert answer == (EEXIST if used and not same else 0)
        if answer:
            assert memory is None or memory.closed == 1
            return
        self.flags[start:end] = [flags] * count
        self.starts[start], self.owners[start] = count, memory
        if memory is None:
            self.rig.user.memory[start * PAGE : end * PAGE] = self.model[start * PAGE : end * PAGE]

    @rule(start=places, count=st.integers(1, 4), exact=st.booleans())
    def unmap(self, start: int, count: int, exact: bool) -> None:
        count = self.starts.get(start, count) if exact else count
        answer = errno_of(lambda: self.rig.vfio.dma_unmap(start * PAGE, count * PAGE))
        assert answer == (0 if self.starts.get(start) == count else ENOENT)
        if not answer:
            self.flags[start : start + count] = [0] * count
            del self.starts[start]
            memory = self.owners.pop(start)
            assert memory is None or memory.closed == 1

    @rule(
        address=st.integers(0, PAGES * PAGE),
        length=st.integers(1, 3 * PAGE),
        write=st.booleans(),
        byte=st.integers(1, 255),
    )
    def access(self, address: int, length: int, write: bool, byte: int) -> None:
        out: list[object] = []
        data = bytes([byte]) * length
        end = address + length
        pages = range(address // PAGE, (end - 1) // PAGE + 1)
        needed = WRITE if write else READ
        good = end <= PAGES * PAGE and all(self.flags[page] & needed for page in pages)
        self.rig.run(writing(address, data, out) if write else reading(address, length, out))
        if not good:
            assert out == [EFAULT]
        elif write:
            assert out == [b""]
            self.model[address:end] = data
            self.dirty |= set(pages)
        else:
            assert out == [bytes(self.model[address:end])]

    @rule()
    def report(self) -> None:
        bits = int.from_bytes(self.rig.vfio.dirty.report(0, PAGES * PAGE, PAGE, 8), "little")
        assert bits == sum(1 << page for page in self.dirty)
        self.dirty.clear()

    @invariant()
    def memory_is_alike(self) -> None:
        for start, count in self.starts.items():
            memory = self.owners[start]
            held = self.rig.user.memory[start * PAGE : (start + count) * PAGE] if memory is None else memory.array
            assert held == self.model[start * PAGE : (start + count) * PAGE]


TestModel = Model.TestCase
TestModel.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)
