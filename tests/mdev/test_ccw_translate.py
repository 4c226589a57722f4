"""Translation of channel programs: segments, TICs, formats; any bytes at all."""

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
    TIC,
    USUAL,
    Memory,
    idaws,
    program,
    program0,
)
from ccw_translated import DATA, LIST, refused, translated, with_program
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_translate import (
    MAX_SEGMENTS,
    ChannelProgram,
    is_program_address,
    take_segment,
    translate,
)
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM, EOPNOTSUPP

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
        take_segment([], IOVA)


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
