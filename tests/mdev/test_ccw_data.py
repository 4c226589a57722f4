"""Translation of data areas: IDA lists, pinned pages, what is refused and stays pinned."""

from __future__ import annotations

import pytest
from ccw_rig import (
    CC,
    CD,
    FORMAT_1,
    IDA,
    IOVA,
    MEMORY,
    NOP,
    SKIP,
    TIC,
    USUAL,
    WIDE,
    Memory,
    idaws,
    program,
)
from ccw_translated import DATA, LIST, refused, translated, with_program

from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_translate import (
    MAX_PAGES,
    ChannelProgram,
    moves_data,
    translate,
)
from pvnet.mdev.device import DmaRead
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT, EINVAL, EIO, ENOMEM

# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "flags", "count", "expected"),
    [
        (0x42, 0, 0, False), (0x03, 0, 8, False), (0x42, 0, 8, True), (0x41, SKIP, 8, True), (0x63, SKIP, 8, True),
        (0x42, SKIP, 8, False), (0x04, SKIP, 8, False), (0xE4, SKIP, 8, False), (0x0C, SKIP, 8, False),
        (0x13, 0, 8, True),
    ],
)  # fmt: skip
def test_which_ccws_move_data(code: int, flags: int, count: int, expected: bool) -> None:
    assert moves_data(code, flags, count) is expected
    memory = with_program(Ccw(code, flags, count, DATA + 100))
    result = translated(memory)
    assert bool(result.pages) is expected
    assert bool(result.segments[0].ccws[0].areas) is expected


def test_skipped_reads_need_no_memory() -> None:
    result = translated(with_program(Ccw(0x42, SKIP, 512, 0x7FFF0000)))
    assert result.pages == set()


def test_ccws_that_continue_data_move_like_the_first() -> None:
    memory = with_program(
        Ccw(0x42, CD, 8, DATA), Ccw(NOP, CD | SKIP, 8, DATA + 8), Ccw(NOP, CC, 8, DATA + 16), Ccw(NOP, 0, 8, DATA + 24)
    )
    areas = [host.areas for host in translated(memory).segments[0].ccws]
    assert areas == [[(DATA, 8)], (), [(DATA + 16, 8)], ()]


def test_ccws_that_continue_data_behind_a_tic_have_their_own_command() -> None:
    memory = with_program(Ccw(0x42, CD, 8, DATA), Ccw(TIC, 0, 0, IOVA + 32))
    memory.put(IOVA + 32, program(Ccw(NOP, 0, 8, DATA)))
    assert translated(memory).segments[1].ccws[0].areas == ()


def test_ida_list_c13() -> None:
    memory = with_program(Ccw(0x42, IDA, 8192, LIST))
    memory.put(LIST, idaws([DATA + 0x800, DATA + 0x3000, DATA + 0x5000]))
    result = translated(memory)
    areas = [(DATA + 0x800, 0x800), (DATA + 0x3000, 0x1000), (DATA + 0x5000, 0x800)]
    assert result.segments[0].ccws[0].areas == areas
    assert result.pages == {(DATA >> 12) + page for page in (0, 3, 5)}
    assert (LIST, 8) in memory.reads
    assert (LIST, 24) in memory.reads


def test_ida_areas_that_follow_each_other_are_one() -> None:
    memory = with_program(Ccw(0x41, IDA, 0x2800, LIST))
    memory.put(LIST, idaws([DATA, DATA + 0x1000, DATA + 0x2000]))
    assert translated(memory).segments[0].ccws[0].areas == [(DATA, 0x2800)]


@pytest.mark.parametrize(
    ("flags", "wide", "block"),
    [(FORMAT_1 | WIDE, True, 4096), (FORMAT_1 | WIDE | OrbFlag.IDAW_2K, True, 2048), (FORMAT_1, False, 2048)],
)
def test_ida_formats(flags: int, wide: bool, block: int) -> None:
    memory = with_program(Ccw(0x42, IDA, block + 1, LIST))
    blocks = [DATA + 10, DATA + 3 * block]
    memory.put(LIST, idaws(blocks, wide=wide))
    result = translated(memory, flags=flags)
    assert result.segments[0].ccws[0].areas == [(DATA + 10, block - 10), (DATA + 3 * block, 11)]


def test_ida_lists_of_ccws_that_move_nothing_are_read_but_not_pinned() -> None:
    memory = with_program(Ccw(NOP, IDA, 0, LIST))
    memory.put(LIST, idaws([0x7FFFF000]))
    assert translated(memory).pages == set()
    assert refused(with_program(Ccw(NOP, IDA, 0, IOVA + MEMORY))) == EFAULT


@pytest.mark.parametrize(
    ("where", "addresses", "errno"),
    [
        pytest.param(IOVA + MEMORY, [], EFAULT, id="list not mapped"),
        pytest.param(IOVA + MEMORY - 8, [DATA], EFAULT, id="second entry not mapped"),
        pytest.param(LIST + 4, [DATA], EINVAL, id="list not aligned"),
        pytest.param(LIST, [DATA, DATA + 0x1008], EINVAL, id="second entry not aligned"),
        pytest.param(LIST, [DATA, IOVA + MEMORY], EINVAL, id="data not mapped"),
        pytest.param(LIST, [DATA, (1 << 64) - 0x1000], EINVAL, id="end of the address space"),
    ],
)
def test_bad_ida_lists_d10(where: int, addresses: list[int], errno: int) -> None:
    memory = with_program(Ccw(0x42, IDA, 65535, where))
    if addresses:
        memory.put(where, idaws(addresses))
    assert refused(memory) == errno


def test_last_byte_of_the_address_space_is_no_data() -> None:
    memory = with_program(Ccw(0x42, IDA, 0x1001, LIST))
    memory.put(LIST, idaws([(1 << 64) - 0x1000, 0]))
    assert refused(memory) == EINVAL
    memory.put(LIST, idaws([(1 << 64) - 0xFFF, 0]))
    assert refused(memory) == EINVAL


def test_ida_list_across_pages_d10() -> None:
    memory = with_program(Ccw(0x41, IDA, 0x3000, LIST + 0xFF8))
    memory.put(LIST + 0xFF8, idaws([DATA, DATA + 0x2000, DATA + 0x4000]))
    assert len(translated(memory).segments[0].ccws[0].areas) == 3


def test_narrow_idaws_have_31_bits() -> None:
    memory = with_program(Ccw(0x42, IDA, 8, LIST))
    memory.put(LIST, idaws([0x80000000], wide=False))
    assert refused(memory, flags=FORMAT_1) == EINVAL


def test_an_idaw_that_changes_between_the_two_reads_d11() -> None:
    memory = with_program(Ccw(0x42, IDA, 0x1000, LIST))
    memory.put(LIST, idaws([DATA, DATA + 0x1000]))

    def change(request: DmaRead) -> None:
        if request == DmaRead(LIST, 8):
            memory.put(LIST, idaws([DATA + 0x10000]))

    memory.changes = change
    result = ChannelProgram(Orb(IOVA, USUAL))
    with pytest.raises(MdevError) as error:
        memory.run(translate(result))
    assert error.value.errno == EINVAL
    assert result.pages == set()
    assert not [read for read in memory.reads if read[0] >= DATA]


def test_data_that_is_not_mapped_is_refused_before_the_start() -> None:
    assert refused(with_program(Ccw(0x42, 0, 4096, IOVA + MEMORY - 100))) == EINVAL
    assert refused(with_program(Ccw(0x42, 0, 1, 0xFFFFFFFF))) == EINVAL


def test_other_failures_of_memory_are_passed_on() -> None:
    memory = with_program(Ccw(0x42, 0, 512, DATA))
    steps = translate(ChannelProgram(Orb(IOVA, USUAL)))
    assert next(steps) == DmaRead(IOVA, 2048)
    assert steps.send(memory.get(IOVA, 2048)) == DmaRead(DATA, 1)
    with pytest.raises(MdevError) as error:
        steps.throw(MdevError(EIO))
    assert error.value.errno == EIO


def test_every_page_is_touched_once() -> None:
    memory = with_program(Ccw(0x42, CC, 0x1800, DATA + 0xC00), Ccw(0x41, 0, 0x1000, DATA + 0x1000))
    result = translated(memory)
    assert memory.reads[1:] == [(DATA + 0xC00, 1), (DATA + 0x1000, 1), (DATA + 0x2000, 1)]
    assert result.pages == {(DATA >> 12) + page for page in range(3)}


def test_pages_have_a_limit() -> None:
    size = (MAX_PAGES + 64) << 12
    memory = Memory(size)
    ccws = [Ccw(0x42, CC, 0xF000, IOVA + 0x1000 + index * 0xF000) for index in range(255)]
    memory.put(IOVA, program(*ccws, Ccw(NOP)))
    assert len(translated(memory).pages) == 255 * 15
    ccws = [Ccw(0x42, CC, 0xF000, IOVA + 0x2000 + index * 0xF000) for index in range(200)] + [
        Ccw(TIC, 0, 0, IOVA + 2048)
    ]
    memory.put(IOVA, program(*ccws))
    more = [Ccw(0x42, CC, 0xF000, IOVA + 0x2000 + index * 0xF000) for index in range(200, 274)]
    memory.put(IOVA + 2048, program(*more, Ccw(NOP)))
    assert refused(memory) == ENOMEM


def test_which_ranges_a_program_pins() -> None:
    result = translated(with_program(Ccw(0x42, CC, 0x1800, DATA), Ccw(0x42, 0, 16, DATA + 0x8000)))
    assert result.pins(DATA, 1)
    assert result.pins(DATA + 0x1FFF, 1)
    assert not result.pins(DATA + 0x2000, 0x1000)
    assert result.pins(DATA + 0x2000, 0x7000)
    assert not result.pins(DATA - 0x1000, 0x1000)
    assert result.pins(0, 1 << 64)
    assert not result.pins(DATA + 0x9000, 1 << 60)


def test_backward_data_ends_at_its_address() -> None:
    result = translated(with_program(Ccw(0x0C, 0, 0x100, DATA + 0x7F)))
    assert result.segments[0].ccws[0].areas == [(DATA - 0x80, 0x100)]
    assert refused(with_program(Ccw(0x0C, 0, 0x100, 0x10))) == EINVAL
    memory = with_program(Ccw(0x0C, IDA, 0x100, LIST))
    memory.put(LIST, idaws([DATA]))
    assert refused(memory) == EINVAL
