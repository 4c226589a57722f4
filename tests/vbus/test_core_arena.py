"""The arena: every address is checked, and the allocator forgets nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.papr.errno import EFAULT, ENOMEM
from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.errors import VbusError


@pytest.fixture
def arena() -> Arena:
    return Arena(memoryview(bytearray(range(256))), 0x10000)


def test_bytes_are_where_their_address_says(arena: Arena) -> None:
    assert arena.size == 256
    assert arena.read(0x10010, 3) == bytes([16, 17, 18])
    arena.write(0x10010, b"abc")
    assert bytes(arena.slice(0x10010, 3)) == b"abc"
    arena.slice(0x10010, 1)[0] = 7
    assert arena.read(0x10010, 1) == b"\x07"
    assert arena.read(0x10100, 0) == b""


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0xFFFF, 1),
        (0x10000, 257),
        (0x10100, 1),
        ((1 << 64) - 1, 2),
        ((1 << 64) - 0x100, 1 << 32),
        (0x10000, -1),
        (0, 0),
    ],
)
def test_nothing_outside_is_reached(arena: Arena, address: int, length: int) -> None:
    for access in (arena.slice, arena.read, arena.offset):
        with pytest.raises(VbusError) as caught:
            access(address, length)
        assert caught.value.errno == EFAULT
    if length > 0:
        with pytest.raises(VbusError):
            arena.write(address, bytes(min(length, 300)))


def test_an_arena_needs_writable_bytes() -> None:
    for view in (memoryview(b"abcd"), memoryview(bytearray(8)).cast("I"), memoryview(bytearray(4)).cast("B", (2, 2))):
        with pytest.raises(LocalError):
            Arena(view)


def test_the_allocator_refuses_what_makes_no_sense() -> None:
    allocator = ArenaAllocator(0x10000, 256)
    for size, align in ((0, 8), (-1, 8), (8, 0)):
        with pytest.raises(LocalError):
            allocator.alloc(size, align)
    with pytest.raises(LocalError):
        allocator.free(0x10000)
    with pytest.raises(VbusError) as caught:
        allocator.alloc(257)
    assert caught.value.errno == ENOMEM
    with pytest.raises(VbusError):
        ArenaAllocator(0x10000, 0).alloc(1)


@given(st.lists(st.tuples(st.integers(1, 90), st.sampled_from([1, 8, 64]), st.booleans()), max_size=40))
def test_pieces_never_overlap_and_all_come_back(wishes: list[tuple[int, int, bool]]) -> None:
    allocator = ArenaAllocator(0x10010, 512)
    pieces: dict[int, int] = {}
    for size, align, give_back in wishes:
        try:
            address = allocator.alloc(size, align)
        except VbusError:
            continue
        assert address % align == 0
        assert address >= 0x10010
        assert address + size <= 0x10010 + 512
        assert all(address + size <= other or other + pieces[other] <= address for other in pieces)
        pieces[address] = size
        assert allocator.used == sum(pieces.values())
        if give_back:
            victim = next(iter(pieces))
            allocator.free(victim)
            del pieces[victim]
    for address in pieces:
        allocator.free(address)
    assert (allocator.used, allocator.available) == (0, 512)
    assert allocator.alloc(512, 1) == 0x10010


def test_errors_print_what_and_their_name() -> None:
    assert str(VbusError(EFAULT)) == "EFAULT"
    assert str(VbusError(EFAULT, "there")) == "there (EFAULT)"
