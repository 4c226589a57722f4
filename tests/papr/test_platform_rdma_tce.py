"""H_COPY_RDMA and the TCE hcalls: order of checks, every combination of where memories are, failing third parties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from papr_platform_rig import (
    CLIENT,
    CLIENT_LOCAL,
    LOCAL,
    MEMORY,
    REMOTE,
    SERVER,
    SERVER_LOCAL,
    SERVER_REMOTE,
    UNIT,
    Rig,
    config,
)

from pvnet.memory.window import PAGE_BYTES, DmaWindow
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    LOPAR,
    QEMU,
    AdapterConfig,
    FaultPoint,
    MemoryDone,
    PartitionConfig,
    PartitionPartner,
    PlatformConfig,
    ReadMemory,
    SetFault,
    WriteMemory,
)
from pvnet.papr.tce import decode_tce_list, encode_tce, encode_tce_list, stuff_tce

PENDING = -99999
KIB128 = 128 * 1024


@pytest.fixture(params=["mapped", "mapped later", "remote"])
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(request.param != "remote", later=request.param == "mapped later")
    rig.start("mp", "lpar")
    return rig


def established(rig: Rig) -> None:
    rig.hypervisor_up()
    assert rig.open("mp", UNIT, LOCAL) == 0


def pair(rig: Rig) -> None:
    rig.open("mp", SERVER, SERVER_LOCAL)
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == 0


def copy(rig: Rig, *args: int, memory: bytes | None = None) -> int:
    return rig.call("mp", Op.H_COPY_RDMA, *args, memory=memory)


# -- H_COPY_RDMA -------------------------------------------------------------------------------------------------------


def test_copy_checks_in_order(rig: Rig) -> None:
    established(rig)
    rig.call("mp", Op.H_PUT_TCE, LOCAL, 0x1000, 0x1000 | 1)
    rig.call("mp", Op.H_PUT_TCE, LOCAL, 0x2000, 0x2000 | 2)
    pane2 = 16 * PAGE_BYTES
    for args, rc in (
        ((KIB128 + 1, 9, 0, 9, 0), Rc.H_PARAMETER),
        (((1 << 64) - 1, 9, 0, 9, 0), Rc.H_PARAMETER),
        ((8, 9, 0, 9, 0), Rc.H_S_PARM),
        ((8, LOCAL, MEMORY, 9, 0), Rc.H_D_PARM),
        ((8, LOCAL, MEMORY - 7, REMOTE, pane2), Rc.H_S_PARM),
        ((8, LOCAL, 0x2000, REMOTE, pane2 - 7), Rc.H_D_PARM),
        ((8, LOCAL, (1 << 64) - 4, REMOTE, 0), Rc.H_S_PARM),
        ((8, LOCAL, 0x2000, REMOTE, 0), Rc.H_PERMISSION),
        ((8, REMOTE, 0, LOCAL, 0x1000), Rc.H_PERMISSION),
        ((8, LOCAL, 0x2FFC, REMOTE, 0), Rc.H_PERMISSION),
        ((0, LOCAL, 0x1000, REMOTE, 0), Rc.H_SUCCESS),
        ((0, LOCAL, 0x1000, 9, 0), Rc.H_D_PARM),
    ):
        assert copy(rig, *args) == rc, args
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, pane2) == bytes(pane2)


def test_copy_to_and_from_the_hypervisor(rig: Rig) -> None:
    established(rig)
    pane2 = rig.platform.hypervisor_memory("mp", UNIT)
    rig.memory["mp"].write(0x5FFE, b"hypervisor")
    carried = None if rig.mapped else b"hypervisor"
    assert copy(rig, 10, LOCAL, 0x5FFE, REMOTE, 0x1003, memory=carried) == 0
    assert pane2.read(0x1003, 10) == b"hypervisor"
    assert rig.log[-1] == rig.last(), "no chunk was needed"
    # Without the bytes the platform fetches them.
    assert copy(rig, 10, LOCAL, 0x5FFE, REMOTE, 0x2000) == 0
    assert pane2.read(0x2000, 10) == b"hypervisor"
    pane2.write(0, b"partition")
    assert copy(rig, 9, REMOTE, 0, LOCAL, 0x7FFC) == 0
    if rig.mapped:
        assert rig.memory["mp"].read(0x7FFC, 9) == b"partition"
    else:
        assert rig.last().memory == b"partition"


def test_copy_inside_the_callers_memory(rig: Rig) -> None:
    rig.map_all("mp", LOCAL)
    rig.memory["mp"].write(0x5000, b"abcdef")
    carried = None if rig.mapped else b"abcdef"
    assert copy(rig, 6, LOCAL, 0x5000, LOCAL, 0x5002, memory=carried) == 0
    if rig.mapped:
        assert rig.memory["mp"].read(0x5000, 8) == b"ababcdef"
    else:
        assert rig.last().memory == b"abcdef"


def test_carried_bytes_of_the_wrong_length_are_refused() -> None:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    established(rig)
    for carried in (b"", b"123", b"12345"):
        assert copy(rig, 4, LOCAL, 0, REMOTE, 0, memory=carried) == Rc.H_HARDWARE
    assert rig.notes == ["rdma_wrong_bytes"] * 3
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 8) == bytes(8)


def test_pane_2_needs_both_ends(rig: Rig) -> None:
    rig.hypervisor_up()
    rig.map_all("mp", LOCAL)
    assert copy(rig, 4, LOCAL, 0, REMOTE, 0) == Rc.H_D_PARM
    established(rig)
    assert copy(rig, 4, REMOTE, 0, LOCAL, 0) == 0
    rig.take(rig.platform.partner_free("mp", UNIT))
    assert copy(rig, 4, REMOTE, 0, LOCAL, 0) == Rc.H_S_PARM
    rig.hypervisor_up()
    assert copy(rig, 4, REMOTE, 0, LOCAL, 0) == 0
    rig.call("mp", Op.H_FREE_CRQ, UNIT)
    assert copy(rig, 4, REMOTE, 0, LOCAL, 0) == Rc.H_S_PARM
    assert rig.call("lpar", Op.H_COPY_RDMA, 4, REMOTE, 0, REMOTE, 0) == Rc.H_S_PARM, "not its LIOBN"


def test_copy_to_and_from_another_partition(rig: Rig) -> None:
    assert copy(rig, 4, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == Rc.H_S_PARM
    pair(rig)
    data = bytes(i * 7 % 256 for i in range(100_000))
    rig.memory["mp"].write(100, data)
    carried = None if rig.mapped else data
    assert copy(rig, len(data), SERVER_LOCAL, 100, SERVER_REMOTE, 0x10001, memory=carried) == 0
    assert rig.memory["lpar"].read(0x10001, len(data)) == data
    assert copy(rig, 5, SERVER_REMOTE, 0x10001, SERVER_LOCAL, 0x3F000) == 0
    got = rig.memory["mp"].read(0x3F000, 5) if rig.mapped else rig.last().memory
    assert got == data[:5]
    assert copy(rig, len(data), SERVER_REMOTE, 0x10001, SERVER_REMOTE, 0) == 0
    assert rig.memory["lpar"].read(0, len(data)) == data, "between two places of a third party"
    chunks = [o for o in rig.log if isinstance(o, ReadMemory | WriteMemory)]
    assert all((c.length if isinstance(c, ReadMemory) else len(c.data)) <= 65536 for c in chunks)


def test_the_partners_access_bits_count(rig: Rig) -> None:
    pair(rig)
    rig.map_all("lpar", CLIENT_LOCAL, access=1)
    assert copy(rig, 4, SERVER_LOCAL, 0, SERVER_REMOTE, 0) == Rc.H_PERMISSION
    assert copy(rig, 4, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == 0


def remote_pair() -> Rig:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    pair(rig)
    rig.hold_chunks = True
    return rig


def test_partner_dies_while_its_memory_is_read() -> None:
    rig = remote_pair()
    assert copy(rig, 8, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == PENDING
    rig.die("lpar")
    assert rig.last().rc == Rc.H_S_PARM
    rig.hold_chunks = False
    rig.feed(MemoryDone(rig.chunks.popleft().tag, 0, bytes(8)))
    assert rig.platform.counters["memory_answer_unknown"] == 1


def test_partner_dies_while_its_memory_is_written() -> None:
    rig = remote_pair()
    assert copy(rig, 8, SERVER_LOCAL, 0, SERVER_REMOTE, 0, memory=bytes(8)) == PENDING
    rig.die("lpar")
    assert rig.last().rc == Rc.H_D_PARM


def test_pair_breaks_while_the_callers_bytes_are_fetched() -> None:
    rig = remote_pair()
    assert copy(rig, 8, SERVER_LOCAL, 0, SERVER_REMOTE, 0) == PENDING
    waiting = rig.tag
    rig.call("lpar", Op.H_FREE_CRQ, CLIENT)
    rig.answer_chunk()
    assert rig.results[waiting].rc == Rc.H_D_PARM
    assert rig.platform.counters["rdma_refused_after_fetch"] == 1


def test_caller_dies_while_waiting_and_nobody_is_answered() -> None:
    rig = remote_pair()
    assert copy(rig, KIB128, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == PENDING
    assert rig.platform.chunks_under_way == 2
    rig.die("mp")
    assert rig.platform.chunks_under_way == 0
    assert rig.tag not in rig.results
    while rig.chunks:
        rig.answer_chunk()
    assert rig.platform.counters["memory_answer_unknown"] == 2


@pytest.mark.parametrize(("error", "cut"), [(14, 0), (0, 1)])
def test_a_failing_third_party_is_hardware(error: int, cut: int) -> None:
    rig = remote_pair()
    assert copy(rig, KIB128, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == PENDING
    assert len(rig.chunks) == 2
    rig.answer_chunk(error, cut)
    assert rig.last().rc == Rc.H_HARDWARE
    assert rig.last().memory is None
    rig.answer_chunk()
    assert rig.platform.counters["memory_answer_unknown"] == 1


def test_a_third_party_that_refuses_a_write_is_hardware() -> None:
    rig = remote_pair()
    assert copy(rig, 8, SERVER_LOCAL, 0, SERVER_REMOTE, 0, memory=bytes(8)) == PENDING
    rig.answer_chunk(error=14)
    assert rig.last().rc == Rc.H_HARDWARE


def test_few_chunks_are_under_way_at_a_time() -> None:
    rig = Rig(mapped=False, platform=Platform(config(max_virtual_dma_size=1 << 20)))
    rig.start("mp", "lpar")
    pair(rig)
    for page in range(12):  # scattered: every page its own run
        rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, page * PAGE_BYTES, (62 - 2 * page) * PAGE_BYTES | 3)
        rig.memory["lpar"].write((62 - 2 * page) * PAGE_BYTES, bytes([page]))
    rig.hold_chunks = True
    assert copy(rig, 12 * PAGE_BYTES, SERVER_REMOTE, 0, SERVER_LOCAL, 0) == PENDING
    assert len(rig.chunks) == 4
    rig.chunks.rotate(1)  # answers may come in any order
    rig.hold_chunks = False
    rig.answer_chunk()
    while rig.chunks:
        rig.answer_chunk()
    memory = rig.last().memory
    assert memory is not None
    assert [memory[page * PAGE_BYTES] for page in range(12)] == list(range(12))


def test_copy_fault_counts_down(rig: Rig) -> None:
    established(rig)
    rig.feed(SetFault("mp", 0, FaultPoint.COPY, Rc.H_HARDWARE, 2))
    assert [copy(rig, 4, REMOTE, 0, LOCAL, 0) for _ in range(3)] == [Rc.H_HARDWARE, Rc.H_HARDWARE, 0]


def test_an_adapter_without_a_window_has_no_queue() -> None:
    server = AdapterConfig(1, liobn=1, window_bytes=MEMORY, remote_liobn=2, partner=PartitionPartner("b", 1))
    client = AdapterConfig(1, partner=PartitionPartner("a", 1))
    partitions = (PartitionConfig("a", MEMORY, (server,)), PartitionConfig("b", MEMORY, (client,)))
    rig = Rig(mapped=True, platform=Platform(PlatformConfig(partitions, QEMU)))
    rig.start("a", "b")
    assert rig.call("b", Op.H_REG_CRQ, 1, 0, 4096) == Rc.H_NOT_FOUND
    assert rig.call("a", Op.H_REG_CRQ, 1, 0, 4096) == 0


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 3)), min_size=8, max_size=8),
    st.integers(0, 8 * PAGE_BYTES),
    st.integers(0, 8 * PAGE_BYTES),
    st.integers(0, 3 * PAGE_BYTES),
    st.sampled_from(["mapped", "mapped later", "remote"]),
    st.booleans(),
)
def test_copy_is_whole_or_not_at_all(
    tces: list[tuple[int, int]], local: int, remote: int, length: int, where: str, outward: bool
) -> None:
    mapped = where != "remote"
    rig = Rig(mapped, later=where == "mapped later")
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    assert rig.open("mp", UNIT, LOCAL, ioba=60 * PAGE_BYTES) == 0
    for page, (real, access) in enumerate(tces):
        rig.call("mp", Op.H_PUT_TCE, LOCAL, page * PAGE_BYTES, real * PAGE_BYTES | access)
    memory = rig.memory["mp"]
    memory.view[:] = bytes(i * 31 % 253 for i in range(256)) * (MEMORY // 256)
    pane2 = rig.platform.hypervisor_memory("mp", UNIT).segment
    pane2.view[:] = bytes(i * 17 % 241 for i in range(256)) * (pane2.size // 256)
    before, before2 = bytes(memory.view), bytes(pane2.view)

    def real(at: int) -> tuple[int, int]:
        page = at // PAGE_BYTES
        entry = tces[page] if page < 8 else (page, 3)
        return entry[0] * PAGE_BYTES + at % PAGE_BYTES, entry[1]

    wanted = [real(at) for at in range(local, local + length)]
    allowed = all(access & (1 if outward else 2) for _, access in wanted)
    operands = (LOCAL, local, REMOTE, remote) if outward else (REMOTE, remote, LOCAL, local)
    rc = copy(rig, length, *operands)
    assert rc == (0 if allowed else Rc.H_PERMISSION)
    expected, expected2 = bytearray(before), bytearray(before2)
    if allowed and outward:
        expected2[remote : remote + length] = bytes(before[at] for at, _ in wanted)
    elif allowed and mapped:
        for i, (at, _) in enumerate(wanted):
            expected[at] = before2[remote + i]
    elif allowed and length:
        assert rig.last().memory == before2[remote : remote + length]
    assert bytes(memory.view) == bytes(expected)
    assert bytes(pane2.view) == bytes(expected2)


# -- TCE hcalls --------------------------------------------------------------------------------------------------------


def test_tce_checks_in_order(rig: Rig) -> None:
    top = MEMORY - PAGE_BYTES
    for opcode, args, rc in (
        (Op.H_GET_TCE, (9, 0), Rc.H_PARAMETER),
        (Op.H_GET_TCE, (LOCAL, MEMORY), Rc.H_PARAMETER),
        (Op.H_PUT_TCE, (9, 0, 3), Rc.H_PARAMETER),
        (Op.H_PUT_TCE, (REMOTE, 0, 3), Rc.H_PARAMETER),
        (Op.H_PUT_TCE, (LOCAL, MEMORY, 3), Rc.H_PARAMETER),
        (Op.H_PUT_TCE, (LOCAL, 0, MEMORY | 1), Rc.H_PARAMETER),
        (Op.H_PUT_TCE, (LOCAL, 0, MEMORY), Rc.H_SUCCESS),
        (Op.H_PUT_TCE, (LOCAL | 1 << 40, top + 5, top | 3), Rc.H_SUCCESS),
        (Op.H_STUFF_TCE, (9, 0, 3, 600), Rc.H_PARAMETER),
        (Op.H_STUFF_TCE, (LOCAL, MEMORY, 3, 600), Rc.H_PARAMETER),
        (Op.H_STUFF_TCE, (LOCAL, top, 3, 513), Rc.H_P4),
        (Op.H_STUFF_TCE, (LOCAL, top, 3, 2), Rc.H_PARAMETER),
        (Op.H_STUFF_TCE, (LOCAL, 0, MEMORY | 3, 2), Rc.H_PARAMETER),
        (Op.H_STUFF_TCE, (LOCAL, 0, 0x2003, 2), Rc.H_SUCCESS),
        (Op.H_PUT_TCE_INDIRECT, ((1 << 64) - 2, 0, 0, 513), Rc.H_FUNCTION),
        (Op.H_PUT_TCE_INDIRECT, (LOCAL, 0, 0, 513), Rc.H_PARAMETER),
        (Op.H_PUT_TCE_INDIRECT, (9, 0, 0, 1), Rc.H_PARAMETER),
        (Op.H_PUT_TCE_INDIRECT, (LOCAL, top, 0, 2), Rc.H_PARAMETER),
        (Op.H_PUT_TCE_INDIRECT, (LOCAL, 0, 8, 1), Rc.H_PARAMETER),
        (Op.H_PUT_TCE_INDIRECT, (LOCAL, 0, MEMORY, 1), Rc.H_PARAMETER),
        (Op.H_PUT_TCE_INDIRECT, (LOCAL, 0, 0, 0), Rc.H_SUCCESS),
    ):
        assert rig.call("mp", opcode, *args) == rc, (opcode, args)
    rig.call("mp", Op.H_GET_TCE, LOCAL, top)
    assert rig.last().outs == (top | 3,)
    rig.call("mp", Op.H_GET_TCE, LOCAL, PAGE_BYTES)
    assert rig.last().outs == (0x2003,)


@pytest.mark.parametrize("carry", [True, False])
def test_tce_list(rig: Rig, carry: bool) -> None:
    tces = tuple(encode_tce(page * PAGE_BYTES, page % 4) for page in range(60))
    data = encode_tce_list(tces)
    assert decode_tce_list(data) == tces
    rig.memory["mp"].write(0x3000, data)
    carried = data if carry else None
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0x2000, 0x3000, 60, memory=carried) == 0
    for page, tce in enumerate(tces):
        rig.call("mp", Op.H_GET_TCE, LOCAL, 0x2000 + page * PAGE_BYTES)
        assert rig.last().outs == (tce,)


def test_tce_list_is_checked_whole(rig: Rig) -> None:
    data = encode_tce_list((0x1003, MEMORY | 1))
    rig.memory["mp"].write(0x3000, data)
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0, 0x3000, 2, memory=data) == Rc.H_PARAMETER
    rig.call("mp", Op.H_GET_TCE, LOCAL, 0)
    assert rig.last().outs == (0,)


def test_tce_list_that_does_not_come() -> None:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0, 0x3000, 2, memory=bytes(15)) == Rc.H_HARDWARE
    rig.hold_chunks = True
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0, 0x3000, 2) == PENDING
    rig.answer_chunk(error=14)
    assert rig.last().rc == Rc.H_HARDWARE
    assert rig.platform.counters["tce_list_wrong_bytes"] == 1


def test_qemu_stores_up_to_the_end_of_the_window() -> None:
    rig = Rig(mapped=True, platform=Platform(config(QEMU)))
    rig.start("mp", "lpar")
    top = MEMORY - PAGE_BYTES
    rig.memory["mp"].write(0, encode_tce_list((0x1003, 0x2003)))
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, top, 0, 2) == Rc.H_PARAMETER
    rig.call("mp", Op.H_GET_TCE, LOCAL, top)
    assert rig.last().outs == (0x1003,)
    assert rig.call("mp", Op.H_STUFF_TCE, LOCAL, top, 0x7003, 3) == Rc.H_PARAMETER
    rig.call("mp", Op.H_GET_TCE, LOCAL, top)
    assert rig.last().outs == (0x7003,)
    assert rig.call("mp", Op.H_STUFF_TCE, LOCAL, 0, 3, 65) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_STUFF_TCE, LOCAL, MEMORY, 3, 1) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, MEMORY, 0, 1) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, (1 << 64) - 1, 0, 0, 1) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_PUT_TCE, LOCAL, 0, 1 << 60 | 3) == Rc.H_SUCCESS


words = st.one_of(st.integers(0, 70).map(lambda page: page * PAGE_BYTES | 3), st.integers(0, (1 << 64) - 1))


@given(st.lists(st.tuples(st.integers(0, 70), words, st.integers(0, 600)), max_size=15))
def test_stuff_equals_a_naive_table(steps: list[tuple[int, int, int]]) -> None:
    window = DmaWindow(1, MEMORY)
    table = [0] * 64
    for page, tce, count in steps:
        rc = stuff_tce(window, page * PAGE_BYTES, tce, count, MEMORY, LOPAR).rc
        if page >= 64:
            assert rc == Rc.H_PARAMETER
        elif count > 512:
            assert rc == Rc.H_P4
        elif page + count > 64 or (tce & 3 and (tce & ~0xFFF) >= MEMORY):
            assert rc == Rc.H_PARAMETER
        else:
            assert rc == Rc.H_SUCCESS
            table[page : page + count] = [tce] * count
    assert [window.get(page * PAGE_BYTES) for page in range(64)] == table
