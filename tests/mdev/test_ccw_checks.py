"""The channel: program checks, intermediate statuses, suspension; against a scripted unit."""

from __future__ import annotations

import pytest
from ccw_rig import (
    CC,
    CD,
    FORMAT_1,
    IOVA,
    MIDA,
    NOP,
    PCI,
    PREFETCH,
    SUSPEND,
    TIC,
    USUAL,
    program,
    program0,
)
from ccw_world import DATA, PGC, World, check

from pvnet.mdev.ccw_execute import MAX_WITHOUT_ADDRESS
from pvnet.mdev.ccw_layout import Ccw
from pvnet.mdev.ccw_names import OrbFlag

# --- program checks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ccw",
    [
        pytest.param(Ccw(0x40, 0, 1, DATA), id="command 40"),
        pytest.param(Ccw(TIC, CC, 0, IOVA), id="tic with a flag"),
        pytest.param(Ccw(TIC, 0, 1, IOVA), id="tic with a count"),
        pytest.param(Ccw(0x58, 0, 0, IOVA), id="tic with a high half"),
        pytest.param(Ccw(TIC, 0, 0, IOVA + 4), id="tic not aligned"),
        pytest.param(Ccw(TIC, 0, 0, 0), id="tic to zero"),
        pytest.param(Ccw(TIC, 0, 0, 0xFFFFFFF8), id="tic beyond 31 bits"),
        pytest.param(Ccw(0x42, MIDA, 1, DATA), id="mida"),
        pytest.param(Ccw(0x42, CD, 0, DATA), id="count 0 that chains data"),
        pytest.param(Ccw(NOP, SUSPEND), id="suspend"),
        pytest.param(Ccw(NOP, 0, 0, 0x80000000), id="address beyond 31 bits"),
    ],
)
def test_what_no_ccw_may_have(ccw: Ccw) -> None:
    world = World(Ccw(NOP, CC), ccw, Ccw(NOP))
    check(world.run(), PGC, 1)
    assert world.unit.commands == [NOP]


def test_count_0_behind_chained_data() -> None:
    check(World(Ccw(0x42, CD, 4, DATA), Ccw(0x42, 0, 0, DATA)).run(), PGC, 1)


def test_suspend_behind_chained_data() -> None:
    check(World(Ccw(0x42, CD, 4, DATA), Ccw(0x42, SUSPEND, 4, DATA)).run(USUAL | OrbFlag.SUSPEND), PGC, 1)


def test_count_0_in_format_0() -> None:
    world = World()
    world.memory.put(IOVA, program0(Ccw(NOP)))
    check(world.run(PREFETCH), PGC, 0)


@pytest.mark.parametrize(
    ("address", "flags", "told"),
    [
        (0, FORMAT_1, 8), (IOVA + 4, FORMAT_1, IOVA + 12), (0x80000000, FORMAT_1, 0x80000008), (1 << 24, 0, 0x1000008),
        (0xFFFFFFF8, FORMAT_1, 0), (IOVA + 1, 0, IOVA + 9),
    ],
)  # fmt: skip
def test_address_of_the_program_d9(address: int, flags: int, told: int) -> None:
    scsw = World(Ccw(NOP)).run(flags, address)
    assert (scsw.cstat, scsw.stctl, scsw.address) == (PGC, 0x17, told)


def test_255_ccws_without_an_address() -> None:
    assert World(*[Ccw(NOP, CC)] * (MAX_WITHOUT_ADDRESS - 1), Ccw(NOP)).run().cstat == 0
    world = World(*[Ccw(NOP, CC)] * MAX_WITHOUT_ADDRESS, Ccw(NOP))
    check(world.run(), PGC, 255)
    assert len(world.unit.commands) == MAX_WITHOUT_ADDRESS


def test_as_many_ccws_as_a_program_can_have() -> None:
    world = World()
    for segment in range(16):
        at = IOVA + segment * 0x800
        last = Ccw(TIC, 0, 0, at + 0x800) if segment < 15 else Ccw(NOP, 0, 0, DATA)
        world.memory.put(at, program(*[Ccw(NOP, CC, 0, DATA)] * 255, last))
    scsw = world.run()
    assert (scsw.cstat, scsw.address) == (0, IOVA + 16 * 0x800)
    assert len(world.unit.commands) == 16 * 255 + 1


# --- intermediate statuses --------------------------------------------------------------------------------------------


def test_pci_interrupts_when_a_ccw_takes_control() -> None:
    world = World(Ccw(NOP, CC | PCI), Ccw(0x42, CD, 8, DATA), Ccw(0x42, PCI, 8, DATA + 8))
    scsw = world.run()
    assert scsw.stctl == 7
    first, second = world.statuses
    assert (first.cstat, first.stctl, first.fctl, first.actl, first.address) == (0x80, 9, 4, 6, IOVA + 8)
    assert (second.cstat, second.address, second.dstat) == (0x80, IOVA + 24, 0)
    assert not first.is_final


def test_suspension() -> None:
    world = World(Ccw(NOP, CC), Ccw(0x42, CC | SUSPEND, 16, DATA), Ccw(NOP))
    scsw = world.run(USUAL | OrbFlag.SUSPEND)
    assert (scsw.fctl, scsw.actl, scsw.stctl, scsw.address) == (4, 1, 9, IOVA + 16)
    assert (scsw.dstat, scsw.cstat, scsw.is_final) == (0, 0, True)
    assert world.unit.commands == [NOP]
