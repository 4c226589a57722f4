"""Translation of channel programs: segments, TICs, IDA lists, pins; what is refused and what stays pinned."""

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
    PREFETCH,
    SKIP,
    TIC,
    USUAL,
    WIDE,
    Memory,
    idaws,
    program,
    program0,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_translate import (
    MAX_PAGES,
    MAX_SEGMENTS,
    ChannelProgram,
    is_program_address,
    moves_data,
    segment_length,
    translate,
)
from pvnet.mdev.device import DmaRead
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT, EINVAL, EIO, ENOMEM, EOPNOTSUPP

DATA = IOVA + 0x8000
LIST = IOVA + 0x4000


def translated(memory: Memory, address: int = IOVA, flags: int = USUAL) -> ChannelProgram:
    result = ChannelProgram(Orb(address, flags))
    memory.run(translate(result))
    return result


def refused(memory: Memory, address: int = IOVA, flags: int = USUAL) -> int:
    with pytest.raises(MdevError) as error:
        translated(memory, address, flags)
    return error.value.errno


def with_program(*ccws: Ccw, at: int = IOVA) -> Memory:
    memory = Memory()
    memory.put(at, program(*ccws))
    return memory


# --- segments ---------------------------------------------------------------------------------------------------------


def test_a_program_is_copied_in_256_ccws_and_cut_at_its_end() -> None:
    memory = with_program(Ccw(0x63, CC, 16, DATA), Ccw(0x43, CD, 8, DATA + 16), Ccw(0x42, 0, 512, DATA + 512))
    result = translated(memory)
    assert memory.reads[0] == (IOVA, 2048)
    (segment,) = result.segments
    assert [host.ccw.command for host in segment.ccws] == [0x63, 0x43, 0x42]
    assert [host.address for host in segment.ccws] == [IOVA, IOVA + 8, IOVA + 16]
    assert [host.areas for host in segment.ccws] == [[(DATA, 16)], [(DATA + 16, 8)], [(DATA + 512, 512)]]
    assert result.pages == {DATA >> 12}
    assert result.guest_address(0, 24) == IOVA + 24


def test_what_the_user_changes_after_the_copy_has_no_effect() -> None:
    memory = with_program(Ccw(0x42, 0, 512, DATA))
    result = translated(memory)
    memory.put(IOVA, bytes(2048))
    assert result.segments[0].ccws[0].ccw == Ccw(0x42, 0, 512, DATA)


def test_program_near_the_end_of_memory_fails_although_it_is_short() -> None:
    memory = Memory()
    end = IOVA + MEMORY
    memory.put(end - 2048, program(Ccw(NOP)))
    assert len(translated(memory, end - 2048).segments[0].ccws) == 1
    memory.put(end - 2040, program(Ccw(NOP)))
    assert refused(memory, end - 2040) == EFAULT


def test_256_chained_ccws_are_the_most_d6() -> None:
    nops = [Ccw(NOP, CC)] * 255
    assert len(translated(with_program(*nops, Ccw(NOP))).segments[0].ccws) == 256
    assert refused(with_program(*nops, Ccw(NOP, CC), Ccw(NOP))) == EINVAL
    assert refused(with_program(*[Ccw(NOP, CD, 1)] * 10_000)) == EINVAL


def chain_of_segments(count: int) -> Memory:
    memory = Memory()
    for index in range(count):
        at = IOVA + index * 0x1000
        follow = Ccw(TIC, 0, 0, at + 0x1000) if index + 1 < count else Ccw(NOP)
        memory.put(at, program(Ccw(NOP, CC), follow))
    return memory


def test_16_segments_are_the_most_d6() -> None:
    result = translated(chain_of_segments(MAX_SEGMENTS))
    assert [segment.address for segment in result.segments] == [IOVA + index * 0x1000 for index in range(16)]
    assert result.segments[0].ccws[1].target == (1, 0)
    assert result.segments[14].ccws[1].target == (15, 0)
    assert refused(chain_of_segments(MAX_SEGMENTS + 1)) == EINVAL


def test_segments_are_found_depth_first() -> None:
    first, second, third = IOVA + 0x1000, IOVA + 0x2000, IOVA + 0x3000
    memory = with_program(Ccw(NOP, CC), Ccw(TIC, CC, 0, first), Ccw(TIC, 0, 0, third))
    memory.put(first, program(Ccw(TIC, 0, 0, second)))
    memory.put(second, program(Ccw(NOP)))
    memory.put(third, program(Ccw(NOP)))
    assert [segment.address for segment in translated(memory).segments] == [IOVA, first, second, third]


def test_tic_backward_in_its_segment_continues_it_c12() -> None:
    memory = with_program(Ccw(0x31, CC, 5, DATA), Ccw(TIC, 0, 0, IOVA), Ccw(0x06, 0, 0x1000, DATA + 0x1000))
    (segment,) = translated(memory).segments
    assert len(segment.ccws) == 3
    assert segment.ccws[1].target == (0, 0)


def test_tic_forward_ends_its_segment() -> None:
    memory = with_program(Ccw(0x31, CC, 5, DATA), Ccw(TIC, 0, 0, IOVA + 24), Ccw(NOP), Ccw(NOP, CC), Ccw(NOP))
    result = translated(memory)
    assert [len(segment.ccws) for segment in result.segments] == [2, 2]
    assert result.segments[0].ccws[1].target == (1, 0)


@pytest.mark.parametrize("tics", [(0,), (8, 0), (16, 0, 8)])
def test_tics_that_lead_to_each_other_end_translation_d7(tics: tuple[int, ...]) -> None:
    memory = with_program(*(Ccw(TIC, 0, 0, IOVA + offset) for offset in tics))
    assert len(translated(memory).segments) <= len(tics)


def test_tics_between_two_segments_end_translation_d7() -> None:
    other = IOVA + 0x1000
    memory = with_program(Ccw(TIC, 0, 0, other))
    memory.put(other, program(Ccw(TIC, 0, 0, IOVA)))
    result = translated(memory)
    assert [segment.ccws[0].target for segment in result.segments] == [(1, 0), (0, 0)]


def test_tic_into_the_middle_of_a_known_segment_d8() -> None:
    other = IOVA + 0x1000
    memory = with_program(Ccw(NOP, CC), Ccw(NOP, CC), Ccw(TIC, 0, 0, other))
    memory.put(other, program(Ccw(TIC, 0, 0, IOVA + 8)))
    result = translated(memory)
    assert len(result.segments) == 2
    assert result.segments[1].ccws[0].target == (0, 1)
    assert result.find(IOVA + 24) is None


@pytest.mark.parametrize("target", [0, IOVA + 4, IOVA + 0x1001, 1 << 31, 0xFFFFFFF8])
def test_tic_to_what_is_no_address_is_left_to_the_channel(target: int) -> None:
    result = translated(with_program(Ccw(NOP, CC), Ccw(TIC, 0, 0, target)))
    assert len(result.segments) == 1
    assert result.segments[0].ccws[1].target is None


def test_tic_to_unmapped_memory_fails_even_if_it_would_not_be_executed() -> None:
    assert refused(with_program(Ccw(NOP, CC), Ccw(TIC, 0, 0, IOVA + MEMORY))) == EFAULT


@pytest.mark.parametrize(
    ("address", "flags", "expected"),
    [
        (0, FORMAT_1, False), (4, FORMAT_1, False), (0x10001, FORMAT_1, False), (1 << 31, FORMAT_1, False),
        ((1 << 31) - 8, FORMAT_1, True), (1 << 24, 0, False), ((1 << 24) - 8, 0, True), (8, 0, True),
    ],
)  # fmt: skip
def test_addresses_of_programs_d9(address: int, flags: int, expected: bool) -> None:
    orb = Orb(address, flags)
    assert is_program_address(address, orb) is expected
    if not expected:
        memory = Memory()
        assert translated(memory, address, flags).segments == []
        assert memory.reads == []


def test_transport_mode_d5() -> None:
    memory = with_program(Ccw(NOP))
    assert refused(memory, flags=USUAL | OrbFlag.TRANSPORT) == EOPNOTSUPP
    assert memory.reads == []


def test_format_0() -> None:
    memory = Memory()
    tic = bytes.fromhex("58") + (IOVA + 0x1000).to_bytes(3, "big") + bytes.fromhex("40000005")
    memory.put(IOVA, program0(Ccw(0x63, CC, 16, DATA)) + tic)
    memory.put(IOVA + 0x1000, program0(Ccw(0x42, IDA, 512, LIST)))
    memory.put(LIST, idaws([DATA], wide=False))
    result = translated(memory, flags=PREFETCH)
    assert [len(segment.ccws) for segment in result.segments] == [2, 1]
    assert result.segments[0].ccws[1].ccw == Ccw(TIC, 0, 0, IOVA + 0x1000)
    assert result.segments[1].ccws[0].areas == [(DATA, 512)]


def test_segment_length_of_nothing_is_an_error() -> None:
    with pytest.raises(MdevError):
        segment_length([], IOVA)


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


@given(
    st.binary(max_size=2048), st.booleans(), st.sampled_from([0, OrbFlag.IDAW_64, OrbFlag.IDAW_64 | OrbFlag.IDAW_2K])
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_translated_or_refused(data: bytes, format_1: bool, flags: int) -> None:
    memory = Memory()
    memory.put(IOVA, data)
    result = ChannelProgram(Orb(IOVA, flags | (FORMAT_1 if format_1 else 0)))
    try:
        memory.run(translate(result), limit=5000)
    except MdevError as error:
        if error.errno not in (EINVAL, EFAULT, ENOMEM):
            raise
        return
    for segment in result.segments:
        for host in segment.ccws:
            assert sum(length for _, length in host.areas) in (0, host.ccw.count)
            for address, length in host.areas:
                assert result.pins(address, length)
