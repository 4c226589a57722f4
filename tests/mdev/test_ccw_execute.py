"""The channel: chaining, lengths, TICs, status modifier; against a scripted unit."""

from __future__ import annotations

import pytest
from ccw_rig import (
    CC,
    CD,
    FORMAT_1,
    IDA,
    IOVA,
    NOP,
    PREFETCH,
    SKIP,
    SLI,
    TIC,
    USUAL,
    idaws,
    program,
    program0,
)
from ccw_world import DATA, DATA_CHECK, END, EXCEPTION, IL, LIST, MODIFIER, PGC, UNIT_CHECK, World, check

from pvnet.mdev.ccw_execute import MAX_EXECUTED, UnitCheckError, execute
from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_translate import ChannelProgram, translate
from pvnet.mdev.device import DmaRead, DmaWrite
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT

# --- endings ----------------------------------------------------------------------------------------------------------


def test_good_end_c4() -> None:
    world = World(Ccw(NOP))
    assert world.run(FORMAT_1 | PREFETCH).encode().hex() == "00c04007" + "00010008" + "0c000000"
    assert world.unit.commands == [NOP]


def test_program_check_c5() -> None:
    world = World(Ccw(0x00, 0, 1, DATA))
    assert world.run(FORMAT_1 | PREFETCH).encode().hex() == "00c04017" + "00010008" + "00200000"
    assert world.unit.commands == []


def test_flags_of_the_orb_come_back_in_the_status() -> None:
    flags = OrbFlag.SUSPEND | OrbFlag.INITIAL_STATUS | OrbFlag.ADDRESS_LIMIT | OrbFlag.SUPPRESS_SUSPENDED
    world = World(Ccw(NOP))
    assert world.run(flags | FORMAT_1).encode()[:4].hex() == "08b84007"
    zero = World()
    zero.memory.put(IOVA, program0(Ccw(NOP, 0, 1)))
    assert zero.run(PREFETCH).encode()[:4].hex() == "00c04007"


def test_unit_check_ends_the_chain() -> None:
    world = World(Ccw(NOP, CC), Ccw(0x42, CC, 16, DATA), Ccw(NOP))
    world.unit.refuses.add(0x42)
    scsw = world.run()
    check(scsw, 0, 1)
    assert (scsw.dstat, scsw.count) == (UNIT_CHECK, 16)
    assert world.unit.commands == [NOP, 0x42]


@pytest.mark.parametrize(("dstat", "stctl"), [(UNIT_CHECK, 0x17), (EXCEPTION, 7), (0x08, 7)])
def test_other_device_statuses_end_the_chain(dstat: int, stctl: int) -> None:
    world = World(Ccw(NOP, CC), Ccw(0x42))
    world.unit.ends[NOP] = [dstat]
    scsw = world.run()
    assert (scsw.dstat, scsw.stctl, scsw.address) == (dstat, stctl, IOVA + 8)
    assert world.unit.commands == [NOP]


def test_a_unit_may_refuse_in_the_middle_of_its_data() -> None:
    world = World(Ccw(0x41, 0, 16, DATA))

    def take(data: bytes) -> None:
        raise UnitCheckError(0x0A)

    world.unit.take = take  # type: ignore[method-assign]
    scsw = world.run()
    assert (scsw.dstat, scsw.count, scsw.stctl) == (0x0A, 16, 0x17)


# --- data -------------------------------------------------------------------------------------------------------------


def test_reading_and_writing() -> None:
    world = World(Ccw(0x41, CC, 16, DATA), Ccw(0x42, 0, 16, DATA + 0x100))
    world.memory.put(DATA, b"0123456789abcdef")
    scsw = world.run()
    assert (scsw.dstat, scsw.cstat, scsw.count, scsw.address) == (END, 0, 0, IOVA + 16)
    assert world.unit.taken == [b"0123456789abcdef"]
    assert world.memory.writes == [(DATA + 0x100, bytes(range(16)))]


@pytest.mark.parametrize(
    ("count", "flags", "residual", "cstat"),
    [(16, 0, 0, 0), (20, 0, 4, IL), (20, SLI, 4, 0), (10, 0, 0, IL), (10, SLI, 0, 0), (0, SLI, 0, 0), (0, 0, 0, IL)],
)
@pytest.mark.parametrize("code", [0x41, 0x42])
def test_lengths(code: int, count: int, flags: int, residual: int, cstat: int) -> None:
    world = World(Ccw(code, flags | CC, count, DATA), Ccw(NOP, 0, 0, DATA))
    scsw = world.run()
    assert (scsw.cstat, scsw.dstat) == (cstat, END)
    assert world.unit.commands == ([code] if cstat else [code, NOP])
    if cstat:
        assert (scsw.count, scsw.stctl) == (residual, 0x17)
    moved = sum(map(len, world.unit.taken)) + sum(len(data) for _, data in world.memory.writes)
    assert moved == min(count, 16)


def test_residual_count_of_the_last_ccw() -> None:
    assert World(Ccw(0xE4, SLI, 256, DATA)).run().count == 248


def test_no_incorrect_length_without_data() -> None:
    assert World(Ccw(NOP, 0, 5, DATA)).run().cstat == 0
    assert World(Ccw(NOP, CD, 5, DATA), Ccw(NOP, 0, 5, DATA)).run().cstat == IL


def test_skip_reads_without_storing() -> None:
    world = World(Ccw(0x42, CD | SKIP, 4, 0x7FFFFFF0), Ccw(0x42, CD, 4, DATA), Ccw(0x42, SKIP, 8))
    scsw = world.run()
    assert (scsw.dstat, scsw.cstat, scsw.count) == (END, 0, 0)
    assert world.memory.writes == [(DATA, bytes((4, 5, 6, 7)))]


def test_skip_means_nothing_for_writes() -> None:
    world = World(Ccw(0x41, SKIP, 16, DATA))
    world.memory.put(DATA, b"0123456789abcdef")
    world.run()
    assert world.unit.taken == [b"0123456789abcdef"]


def test_data_chaining_gathers_and_scatters() -> None:
    world = World(
        Ccw(0x41, CD, 6, DATA), Ccw(0x00, CD, 6, DATA + 0x100), Ccw(0xFF, CC, 4, DATA + 0x200),
        Ccw(0x42, CD, 1, DATA + 0x300), Ccw(0x42, 0, 15, DATA + 0x400),
    )  # fmt: skip
    for index in range(3):
        world.memory.put(DATA + index * 0x100, bytes([index]) * 8)
    scsw = world.run()
    assert (scsw.dstat, scsw.cstat, scsw.count, scsw.address) == (END, 0, 0, IOVA + 40)
    assert world.unit.taken == [bytes(6), b"\1" * 6, b"\2" * 4]
    assert world.memory.writes == [(DATA + 0x300, b"\0"), (DATA + 0x400, bytes(range(1, 16)))]
    assert world.unit.commands == [0x41, 0x42]


@pytest.mark.parametrize("sli", [0, SLI])
def test_a_unit_that_ends_while_data_is_chained_is_of_incorrect_length_even_with_sli(sli: int) -> None:
    world = World(Ccw(0x42, CD | sli, 20, DATA), Ccw(0x42, sli, 8, DATA))
    scsw = world.run()
    check(scsw, IL, 0)
    assert scsw.count == 4


def test_a_unit_that_ends_with_a_ccw_that_chains_has_the_next_one_unused() -> None:
    world = World(Ccw(0x42, CD | SLI, 16, DATA), Ccw(0x42, SLI, 8, DATA))
    scsw = world.run()
    assert (scsw.cstat, scsw.count, scsw.address) == (0, 8, IOVA + 16)
    check(World(Ccw(0x42, CD, 16, DATA), Ccw(0x42, 0, 8, DATA)).run(), IL, 1)


def test_data_chaining_through_a_tic() -> None:
    world = World(Ccw(0x42, CD, 8, DATA), Ccw(TIC, 0, 0, IOVA + 0x800))
    world.memory.put(IOVA + 0x800, program(Ccw(0x42, 0, 8, DATA + 0x100)))
    scsw = world.run()
    assert (scsw.cstat, scsw.address) == (0, IOVA + 0x808)
    assert world.memory.writes == [(DATA, bytes(range(8))), (DATA + 0x100, bytes(range(8, 16)))]


def test_a_ccw_without_data_areas_that_needs_them() -> None:
    world = World(Ccw(0x42, CD, 8, DATA), Ccw(TIC, 0, 0, IOVA + 0x800))
    world.memory.put(IOVA + 0x800, program(Ccw(NOP, 0, 8, DATA)))
    assert world.run().cstat == PGC


def test_ida() -> None:
    world = World(Ccw(0x42, IDA | CC, 16, LIST), Ccw(0x41, IDA, 16, LIST))
    world.memory.put(LIST, idaws([DATA + 0xFFA, DATA + 0x2000]))
    assert world.run().cstat == 0
    assert world.memory.writes == [(DATA + 0xFFA, bytes(range(6))), (DATA + 0x2000, bytes(range(6, 16)))]
    assert world.unit.taken == [bytes(range(6)), bytes(range(6, 16))]


def test_short_data_in_a_long_ida_list() -> None:
    world = World(Ccw(0x42, IDA | SLI, 0x1000, LIST))
    world.memory.put(LIST, idaws([DATA + 0xFF0, DATA + 0x2000]))
    scsw = world.run()
    assert (scsw.cstat, scsw.count) == (0, 0x1000 - 16)
    assert world.memory.writes == [(DATA + 0xFF0, bytes(range(16)))]


def test_reading_backward_fills_memory_from_its_end() -> None:
    world = World(Ccw(0x0C, CD, 3, DATA + 7), Ccw(0x0C, SLI, 9, DATA + 0x20))
    scsw = world.run()
    assert (scsw.cstat, scsw.count) == (0, 4)
    assert world.memory.writes == [(DATA + 5, bytes((2, 1, 0))), (DATA + 0x1C, bytes((7, 6, 5, 4, 3)))]


@pytest.mark.parametrize(("code", "request_type"), [(0x42, DmaWrite), (0x41, DmaRead), (0x0C, DmaWrite)])
def test_memory_that_fails_under_a_program_is_a_data_check(code: int, request_type: type) -> None:
    world = World(Ccw(code, SLI | CC, 16, DATA + 16), Ccw(NOP))
    prepared = ChannelProgram(Orb(IOVA, USUAL))
    world.memory.run(translate(prepared))
    steps = execute(prepared, world.unit, world.statuses.append)
    assert isinstance(next(steps), request_type)
    with pytest.raises(StopIteration) as stop:
        steps.throw(MdevError(EFAULT))
    scsw = stop.value.value
    check(scsw, DATA_CHECK, 0)
    assert (scsw.dstat, scsw.count) == (0, 16)
    assert world.unit.log[-1] == "finish"


def test_a_program_that_is_stopped_has_ended_for_the_unit() -> None:
    world = World(Ccw(0x42, 0, 16, DATA))
    prepared = ChannelProgram(Orb(IOVA, USUAL))
    world.memory.run(translate(prepared))
    steps = execute(prepared, world.unit, world.statuses.append)
    next(steps)
    steps.close()
    assert world.unit.log == [("begin", 0x42), "finish"]


# --- chains -----------------------------------------------------------------------------------------------------------


def test_status_modifier_skips_a_ccw_c12() -> None:
    world = World(Ccw(0x31, CC, 5, DATA), Ccw(TIC, 0, 0, IOVA), Ccw(0x42, 0, 16, DATA))
    world.unit.ends[0x31] = [END, END, MODIFIER]
    scsw = world.run()
    assert world.unit.commands == [0x31, 0x31, 0x31, 0x42]
    assert (scsw.dstat, scsw.stctl, scsw.address) == (END, 7, IOVA + 24)


def test_status_modifier_at_the_last_ccw_is_a_good_end() -> None:
    world = World(Ccw(NOP))
    world.unit.ends[NOP] = [MODIFIER]
    assert (world.run().dstat, world.statuses) == (MODIFIER, [])


def test_status_modifier_over_the_end_of_a_segment() -> None:
    world = World(Ccw(NOP, CC), Ccw(TIC, 0, 0, IOVA + 0x800), Ccw(0x42, 0, 16, DATA))
    world.memory.put(IOVA + 0x800, program(Ccw(NOP)))
    world.unit.ends[NOP] = [MODIFIER]
    check(world.run(), PGC, 0)


def test_a_search_that_never_ends_d7() -> None:
    world = World(Ccw(0x31, CC, 5, DATA), Ccw(TIC, 0, 0, IOVA), Ccw(0x42, 0, 16, DATA))
    scsw = world.run()
    assert (scsw.cstat, scsw.stctl) == (PGC, 0x17)
    assert len(world.unit.commands) == MAX_EXECUTED // 2


@pytest.mark.parametrize("tics", [(0,), (8, 0), (8, 16, 0)])
def test_loops_of_tics_d7(tics: tuple[int, ...]) -> None:
    world = World(*(Ccw(TIC, 0, 0, IOVA + offset) for offset in tics))
    scsw = world.run()
    assert scsw.cstat == PGC
    assert world.unit.commands == []


def test_tic_to_a_tic_in_another_segment_d7() -> None:
    world = World(Ccw(NOP, CC), Ccw(TIC, 0, 0, IOVA + 0x800))
    world.memory.put(IOVA + 0x800, program(Ccw(TIC, 0, 0, IOVA)))
    scsw = world.run()
    assert (scsw.cstat, scsw.address, world.unit.commands) == (PGC, IOVA + 0x808, [NOP])


def test_tic_into_the_middle_of_a_segment_d8() -> None:
    world = World(Ccw(NOP, CC), Ccw(0x42, CC | SLI, 1, DATA), Ccw(TIC, 0, 0, IOVA + 0x800))
    world.memory.put(IOVA + 0x800, program(Ccw(TIC, 0, 0, IOVA + 8)))
    assert world.run().cstat == PGC
    world.memory.put(IOVA + 0x800, program(Ccw(0x41, CC | SLI, 1, DATA), Ccw(TIC, 0, 0, IOVA + 8)))
    world.unit.log.clear()
    world.unit.ends = {0x42: [END, EXCEPTION]}
    scsw = world.run()
    assert world.unit.commands == [NOP, 0x42, 0x41, 0x42]
    assert (scsw.dstat, scsw.address) == (EXCEPTION, IOVA + 16)


def test_the_first_ccw_may_be_a_tic() -> None:
    world = World(Ccw(TIC, 0, 0, IOVA + 0x800))
    world.memory.put(IOVA + 0x800, program(Ccw(NOP)))
    assert world.run().address == IOVA + 0x808
