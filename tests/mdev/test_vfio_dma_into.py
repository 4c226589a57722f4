"""Reads into memory of the device, writes out of it: as the others, without copies in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfio_rig import DMA_RW, PAGE, ArrayMemory, Rig

from pvnet.mdev.device import DmaRead, DmaReadInto, DmaWrite, Steps
from pvnet.mdev.dma import DmaRegion, DmaTable
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DmaFlag
from pvnet.mdev.programs import MAX_ACCESS
from pvnet.papr.errno import EFAULT, EINVAL, EIO

READ, WRITE = int(DmaFlag.READ), int(DmaFlag.WRITE)


def _trying(request: object, out: list[object]) -> Steps[None]:
    try:
        out.append((yield request))  # type: ignore[misc]
    except MdevError as error:
        out.append(error.errno)


@pytest.mark.parametrize("mapped", [True, False])
def test_mapped_memory_is_there_at_once(mapped: bool) -> None:
    rig, out = Rig(), list[object]()
    memory = rig.map(PAGE, mapped=mapped)
    buffer = bytearray(b"hello, world")
    view = memoryview(buffer)
    rig.run(_trying(DmaWrite(PAGE + 5, view[:5]), out))
    assert memory.array[4:11] == b"\0hello\0"
    rig.run(_trying(DmaReadInto(PAGE + 4, view[5:11]), out))
    assert buffer == b"hello\0hellod"
    assert out == [b"", b""]
    assert rig.user.requests == []


def test_a_target_of_every_other_byte() -> None:
    rig, out, buffer = Rig(), list[object](), bytearray(8)
    memory = rig.map(0)
    memory.array[:4] = b"abcd"
    rig.run(_trying(DmaReadInto(0, memoryview(buffer)[::2]), out))
    rig.run(_trying(DmaWrite(8, memoryview(b"a.b.c.d.")[::2]), out))
    assert buffer == b"a\0b\0c\0d\0"
    assert memory.array[8:12] == b"abcd"
    assert out == [b"", b""]


def test_over_maps_of_all_kinds() -> None:
    rig, out = Rig(max_transfer=1000), list[object]()
    here = rig.map(0)
    rig.map_remote(PAGE)
    file = rig.map(2 * PAGE, mapped=False)
    here.array[:] = b"h" * PAGE
    rig.user.memory[PAGE : 2 * PAGE] = bytes(index % 251 for index in range(PAGE))
    file.array[:] = b"f" * PAGE
    buffer = bytearray(3 * PAGE - 2)
    ends = rig.run(_trying(DmaReadInto(1, memoryview(buffer)), out))
    assert (out, ends) == ([], [])
    rig.user.answer_all()
    assert buffer == bytes(here.array[1:]) + rig.user.memory[PAGE : 2 * PAGE] + file.array[:-1]
    assert out == [b""]
    assert [length for _, _, length in rig.user.requests] == [1000, 1000, 1000, 1000, 96]
    rig.run(_trying(DmaWrite(PAGE - 2, memoryview(b"ab" + b"c" * PAGE + b"de")), out))
    rig.user.answer_all()
    assert here.array[-2:] + rig.user.memory[PAGE : 2 * PAGE] + file.array[:2] == b"ab" + b"c" * PAGE + b"de"
    assert out == [b"", b""]
    assert ends == [None]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("address", "length", "write"),
    [
        (PAGE - 1, 2, False),
        (3 * PAGE - 1, 2, False),
        (2 * PAGE - 1, 2, True),
        (5 * PAGE, 1, False),
        (8 * PAGE, 1, True),
        (9 * PAGE, 1, False),
        ((1 << 64) - 1, 2, False),
        (-1, 1, True),
    ],
)
def test_what_is_not_permitted_touches_nothing(address: int, length: int, write: bool, remote: bool) -> None:
    rig, out = Rig(), list[object]()
    rig.user.at_once = True
    memories: list[ArrayMemory] = []
    for start, flags in ((PAGE, DMA_RW), (2 * PAGE, READ), (5 * PAGE, WRITE), (8 * PAGE, READ)):
        if remote:
            rig.map_remote(start, flags=flags)
        else:
            memories.append(rig.map(start, flags=flags))
            memories[-1].array[:] = b"m" * PAGE
    buffer = bytearray(b"b" * length)
    rig.run(_trying((DmaWrite if write else DmaReadInto)(address, memoryview(buffer)), out))
    assert out == [EFAULT]
    assert rig.user.requests == []
    assert buffer == b"b" * length
    assert all(memory.array == b"m" * PAGE for memory in memories)


def test_the_bytes_of_an_access() -> None:
    table = DmaTable()
    one, two, file = ArrayMemory(), ArrayMemory(), ArrayMemory(mapped=False)
    region = DmaRegion(PAGE, PAGE, READ, one)
    assert table.view(PAGE, 1, write=False) is None
    table.map(region)
    table.map(DmaRegion(2 * PAGE, PAGE, WRITE, two))
    table.map(DmaRegion(3 * PAGE, PAGE, DMA_RW, file))
    table.map(DmaRegion(4 * PAGE, PAGE, DMA_RW))
    one.array[0], one.array[-1], two.array[0] = 1, 2, 3

    def seen(address: int, length: int, *, write: bool) -> bytes | None:
        view = table.view(address, length, write=write)
        return None if view is None else bytes(view)

    for _ in range(2):
        assert seen(PAGE, PAGE, write=False) == bytes(one.array)
        assert seen(2 * PAGE - 1, 1, write=False) == b"\2"
        assert seen(2 * PAGE, 1, write=True) == b"\3"
        for address, length, write in (
            (PAGE - 1, 1, False),
            (-1, 1, False),
            (PAGE, 1, True),
            (PAGE, PAGE + 1, False),
            (2 * PAGE, 1, False),
            (3 * PAGE - 1, 2, True),
            (3 * PAGE, 1, True),
            (4 * PAGE, 1, False),
            (5 * PAGE, 1, True),
            (1 << 64, 1, True),
        ):
            assert seen(address, length, write=write) is None
    assert seen(PAGE, 1, write=False) == b"\1"
    table.drop(region)
    assert seen(PAGE, 1, write=False) is None, "nothing is remembered of a map that is gone"
    other = ArrayMemory()
    table.map(DmaRegion(PAGE, PAGE, READ, other))
    assert seen(PAGE, 1, write=False) == b"\0"
    newer = ArrayMemory()
    newer.array[0] = 9
    table.map(DmaRegion(PAGE, PAGE, READ, newer))
    assert seen(PAGE, 1, write=False) == b"\t", "the newer descriptor counts"
    table.clear()
    assert seen(PAGE, 1, write=False) is None


@pytest.mark.parametrize("remote", [False, True])
def test_no_bytes_and_too_many(remote: bool) -> None:
    rig, out = Rig(), list[object]()
    if remote:
        rig.map_remote(0)
    else:
        rig.map(0)
    for request in (DmaReadInto(99 * PAGE, memoryview(bytearray())), DmaWrite(99 * PAGE, memoryview(b""))):
        rig.run(_trying(request, out))
    many = memoryview(bytearray(MAX_ACCESS + 1))
    rig.run(_trying(DmaReadInto(0, many), out))
    rig.run(_trying(DmaWrite(0, many), out))
    assert out == [b"", b"", EINVAL, EINVAL]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DmaReadInto(0, memoryview(b"read-only")),
        lambda: DmaReadInto(0, memoryview(bytearray(8)).cast("I")),
        lambda: DmaReadInto(0, memoryview(bytearray(8)).cast("B", (2, 4))),
        lambda: DmaReadInto(0, bytearray(8)),  # type: ignore[arg-type]
        lambda: DmaWrite(0, memoryview(bytearray(8)).cast("I")),
        lambda: DmaWrite(0, "text"),  # type: ignore[arg-type]
        lambda: DmaRead(0, "4"),  # type: ignore[arg-type]
        lambda: b"no request",
        lambda: None,
    ],
)
def test_a_device_that_asks_for_nonsense(make: Callable[[], object], remote: bool) -> None:
    """It is told, once; nobody else is disturbed."""
    rig, out = Rig(), list[object]()
    memory = ArrayMemory()
    if remote:
        rig.map_remote(0)
    else:
        memory = rig.map(0)
    assert rig.run(_trying(make(), out)) == [None]
    assert out == [EIO]
    assert [note.event for note in rig.notes] == ["mdev_failed"]
    assert rig.user.requests == []
    assert not any(memory.array)
    assert len(rig.vfio._programs) == 0


@pytest.mark.parametrize("write", [False, True])
def test_a_device_whose_bytes_are_gone_when_the_answer_comes(write: bool) -> None:
    rig, out = Rig(max_transfer=4), list[object]()
    rig.map_remote(0)
    view = memoryview(bytearray(8))
    ends = rig.run(_trying((DmaWrite if write else DmaReadInto)(0, view), out))
    if not write:
        view.release()
    else:
        view = memoryview(bytearray(8))  # what is written is kept alive by the access
    rig.user.answer_all()
    assert out == [b"" if write else EIO]
    assert ends == [None]
    assert len(rig.notes) == (0 if write else 1)


def test_unmapped_while_it_waits() -> None:
    rig, out = Rig(max_transfer=4), list[object]()
    rig.map_remote(0)
    buffer = bytearray(8)
    rig.user.memory[:8] = b"abcdefgh"
    rig.run(_trying(DmaReadInto(0, memoryview(buffer)), out))
    rig.user.answer()
    rig.vfio.dma_unmap(0, PAGE)
    rig.user.answer_all()
    assert out == [EFAULT]
    assert buffer == b"abcd\0\0\0\0", "what comes later is not stored any more"


def test_the_user_goes_while_it_waits() -> None:
    rig, out = Rig(), list[object]()
    rig.map_remote(0)
    buffer = bytearray(8)
    rig.run(_trying(DmaReadInto(0, memoryview(buffer)), out))
    rig.vfio.close()
    rig.user.memory[:8] = b"abcdefgh"
    rig.user.answer_all()
    assert out == []
    assert buffer == bytes(8)


def test_a_program_that_ends_with_its_last_answer() -> None:
    """An answer that comes at once, after which the device is closed by whoever gave it."""
    rig, out = Rig(), list[object]()
    rig.map_remote(0)

    def closes(address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        rig.vfio.close()
        done(bytes(length))

    setattr(rig.user, "dma_read", closes)  # noqa: B010
    rig.run(_trying(DmaRead(0, 4), out))
    assert out == []
    assert len(rig.vfio._programs) == 0


def test_writes_are_marked_dirty() -> None:
    rig, out = Rig(), list[object]()
    rig.map(0)
    rig.map_remote(PAGE)
    rig.vfio.dirty.start(PAGE)
    rig.run(_trying(DmaReadInto(0, memoryview(bytearray(8))), out))
    assert rig.vfio.dirty.report(0, 2 * PAGE, PAGE, 8) == bytes(8)
    rig.run(_trying(DmaWrite(0, memoryview(b"12345678")), out))
    assert rig.vfio.dirty.report(0, 2 * PAGE, PAGE, 8) == b"\1" + bytes(7)
    rig.run(_trying(DmaWrite(PAGE - 4, memoryview(b"12345678")), out))
    rig.user.answer_all()
    assert rig.vfio.dirty.report(0, 2 * PAGE, PAGE, 8) == b"\3" + bytes(7)


@settings(max_examples=80, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["mapped", "file", "remote", "hole"]), min_size=4, max_size=4),
    address=st.integers(0, 4 * PAGE),
    length=st.integers(0, 2 * PAGE + 10),
    transfer=st.sampled_from([7, 1000, 1 << 20]),
)
def test_into_is_as_the_bytes(kinds: list[str], address: int, length: int, transfer: int) -> None:
    """Whatever memory it is, both kinds of reading and of writing do the same."""
    rigs = []
    for into in (False, True):
        rig, out = Rig(max_transfer=transfer), list[object]()
        rig.user.at_once = True
        arrays: list[bytearray] = []
        for page, kind in enumerate(kinds):
            pattern = bytes((index * 7 + page) & 0xFF for index in range(PAGE))
            if kind in ("mapped", "file"):
                memory = rig.map(page * PAGE, mapped=kind == "mapped")
                memory.array[:] = pattern
                arrays.append(memory.array)
            elif kind == "remote":
                rig.map_remote(page * PAGE)
                rig.user.memory[page * PAGE : (page + 1) * PAGE] = pattern
        data = bytes(index % 253 for index in range(length))
        if into:
            buffer = bytearray(length)
            rig.run(_trying(DmaReadInto(address, memoryview(buffer)), out))
            got: object = out[0] if isinstance(out[0], int) else bytes(buffer)
            rig.run(_trying(DmaWrite(address, memoryview(bytearray(data))), out))
        else:
            rig.run(_trying(DmaRead(address, length), out))
            got = out[0]
            rig.run(_trying(DmaWrite(address, data), out))
        rigs.append((got, out[1], [bytes(array) for array in arrays], bytes(rig.user.memory), rig.user.requests))
    assert rigs[0] == rigs[1]
