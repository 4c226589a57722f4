"""What a hypervisor must survive: one test per row of the sheet's table 6.1."""

import pytest
from scm_hv_rig import CONFIG_P, CONFIG_Q, DEVICE_D, GUEST, LMB, MEMORY, A, B, D, Rig

from pvnet.papr.hcall import HcallOpcode as H
from pvnet.papr.hcall import HcallRc as R
from pvnet.scm.calls import (
    ANY_ADDRESS,
    OPCODES,
    BindMem,
    Flush,
    PerformanceStats,
    QueryBlock,
    QueryHealth,
    ReadMetadata,
    UnbindAll,
    UnbindMem,
    WriteMetadata,
)
from pvnet.scm.device import MemoryMetadata
from pvnet.scm.hypervisor_io import AttachDevice, DetachDevice, ScmHypervisorConfig
from pvnet.scm.profiles import PHYP
from pvnet.scm.stats import encode_request, encode_stats

U64 = 1 << 64
BASE, BS = DEVICE_D.address, DEVICE_D.block_size


@pytest.mark.parametrize("opcode", [0, 1, 0x3E5, 0x3E7, 0x404, 1 << 63, U64 - 4, -4, -1, 0x10000000, 1 << 80])
def test_1_opcodes_that_are_none(opcode):
    assert Rig().raw(opcode, A, 0, 8) == (R.H_FUNCTION, ())


def test_2_number_and_size_of_arguments():
    rig = Rig()
    assert rig.raw(H.H_SCM_HEALTH) == (R.H_PARAMETER, ())
    assert rig.raw(H.H_SCM_FLUSH, A) == (9901, (1,))
    assert rig.raw(H.H_SCM_READ_METADATA, A) == (R.H_P3, ())
    assert rig.raw(H.H_SCM_HEALTH, A, *range(8))[0] == 0
    assert rig.raw(H.H_SCM_HEALTH, A, *range(9)) == (R.H_PARAMETER, ())
    for bad in (-1, U64):
        assert rig.raw(H.H_SCM_HEALTH, A, bad) == (R.H_PARAMETER, ())
    assert rig.raw(H.H_SCM_HEALTH, A)[0] == 0, "the frame is refused, nothing else"


@pytest.mark.parametrize("drc", [0, U64 - 1, LMB, 0x90000002, 0x9000FFFF, 0x44100002, 0xDEADBEEF_00000000])
def test_3_connectors_without_our_device(drc):
    rig = Rig()
    for struct, opcode in OPCODES.items():
        if struct in (UnbindAll, PerformanceStats) or "QUERY" in opcode.name:
            continue
        assert rig.raw(opcode, drc, 0, 0, 0, 0) == (R.H_PARAMETER, ()), opcode
    assert rig.call(UnbindAll(2, drc)) == (R.H_P2, ())
    assert rig.rc(QueryHealth(0xDEADBEEF_00000000 | A)) == 0


@pytest.mark.parametrize("length", [0, 3, 16, 1 << 63, (1 << 32) + 8, U64 - 1])
def test_4_metadata_lengths_and_ends(length):
    rig = Rig()
    assert rig.call(ReadMetadata(A, U64 - 1, length)) == (R.H_P3, ())
    assert rig.call(WriteMetadata(A, U64 - 1, U64 - 1, length)) == (R.H_P4, ())
    for offset in (U64 - 1, U64 - 8, 1 << 63, 0x20000, 0x1FFF9):
        assert rig.call(ReadMetadata(A, offset, 8)) == (R.H_P2, ())
        assert rig.call(WriteMetadata(A, offset, 0, 8)) == (R.H_P2, ())


def test_5_writes_that_store_nothing():
    rig = Rig()
    before = rig.call(ReadMetadata(A, 0, 8)), rig.call(ReadMetadata(B, 0, 8))
    for n, data in [(1, 0x100), (1, U64 - 0x80), (2, 0x10000), (4, 1 << 32), (4, U64 - 1)]:
        assert rig.call(WriteMetadata(A, 0, data, n)) == (R.H_P2, ())
    assert rig.call(WriteMetadata(B, 0, 1, 1)) == (R.H_P2, ())
    assert before == (rig.call(ReadMetadata(A, 0, 8)), rig.call(ReadMetadata(B, 0, 8)))


@pytest.mark.parametrize("config", [CONFIG_Q, CONFIG_P])
def test_6_bind_ranges_at_the_end_of_numbers(config):
    rig = Rig(config)
    drc, total = config.devices[0].drc, config.devices[0].blocks
    cases = {
        (U64 - 1, 1): R.H_P2, (U64 - 1, U64 - 1): R.H_P2, (total + 1, 0): R.H_P2, (total, 0): 0, (0, 0): 0,
        (total, 1): R.H_P3, (1, U64 - 1): R.H_P3, (0, total + 1): R.H_P3, (0, 1 << 63): R.H_P3,
    }  # fmt: skip
    for (start, blocks), rc in cases.items():
        assert (start, blocks, rig.rc(BindMem(drc, start, blocks))) == (start, blocks, rc)


@pytest.mark.parametrize("config", [CONFIG_Q, CONFIG_P])
@pytest.mark.parametrize("blocks", [2, 3, 1 << 36, 1 << 63, U64 - 1])
def test_7_unbind_past_the_end_of_addresses(config, blocks):
    rig = Rig(config)
    device = config.devices[0]
    assert rig.call(UnbindMem(device.drc, U64 - device.block_size, blocks)) == (R.H_P3, ())
    assert rig.call(UnbindMem(device.drc, device.address, min(blocks + 16, U64 - 1))) == (R.H_P3, ())


def test_8_tokens_that_are_not_good_here():
    second = ScmHypervisorConfig((DEVICE_D, type(DEVICE_D)(GUEST, 5, 8, 0x900000000, BS, profile=PHYP)), profile=PHYP)
    rig = Rig(second, partitions=(GUEST, "other"))
    _, (bind, *_) = rig.call(BindMem(D, 0, 4))
    _, (flush,) = rig.call(Flush(D))
    # forged, of another device, of another hcall, of another partition (which has no such device)
    assert rig.rc(BindMem(D, 0, 4, token=bind + 1)) == R.H_P5
    assert rig.rc(BindMem(5, 0, 4, token=bind)) == R.H_P5
    assert rig.rc(Flush(5, flush)) == R.H_P2
    assert rig.rc(UnbindMem(D, BASE, 4, bind)) == R.H_P4
    assert rig.rc(UnbindAll(2, D, bind)) == R.H_P4
    assert rig.rc(UnbindAll(1, D, flush)) == R.H_P4
    assert rig.rc(Flush(D, bind)) == R.H_P2
    assert rig.rc(Flush(D, flush), partition="other") == R.H_PARAMETER
    # replayed
    assert rig.rc(BindMem(D, 0, 4, token=bind)) == 0
    assert rig.rc(BindMem(D, 0, 4, token=bind)) == R.H_P5
    rig.finish_flush()
    assert rig.rc(Flush(D, flush)) == 0
    assert rig.rc(Flush(D, flush)) == R.H_P2
    # of an earlier life
    _, (unbind,) = rig.call(UnbindAll(2, D))
    rig.die()
    rig.start()
    assert rig.rc(UnbindAll(2, D, unbind)) == R.H_P4


def test_9_continuations_with_other_arguments():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 6))
    for changed in (BindMem(D, 1, 6, token=token), BindMem(D, 0, 7, token=token), BindMem(D, 0, 6, BASE, token)):
        assert rig.call(changed) == (R.H_P5, ())
    assert rig.rc(BindMem(D, 0, 6, token=token)) == 0
    _, (token,) = rig.call(UnbindAll(2, D))
    assert rig.rc(UnbindAll(1, D, token)) == R.H_P4
    assert rig.rc(UnbindAll(7, D, token)) == R.H_P4
    assert rig.rc(UnbindAll(2, D, token)) == 0


def test_10_thousands_of_flushes_that_nobody_asks_about():
    rig = Rig(ScmHypervisorConfig(CONFIG_Q.devices, CONFIG_Q.connectors, operation_limit=100))
    answers = [rig.call(Flush(A)) for _ in range(3000)]
    assert answers == [(9901, (n if n <= 100 else 0,)) for n in range(1, 3001)]
    assert len(rig.flushes) == 100
    assert rig.scm.counters["flush_over_limit"] == 2900
    rig.finish_flush()
    assert rig.rc(Flush(A)) == 9901
    assert rig.call(Flush(A, 1)) == (0, ())
    assert rig.call(Flush(A)) == (9901, (101,))


def test_11_two_callers_bind_the_same_device():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    assert rig.call(BindMem(D, 0, 8)) == (R.H_OVERLAP, ())
    _, (token, *_) = rig.call(BindMem(D, 0, 8, token=token))
    assert rig.rc(BindMem(D, 7, 1)) == R.H_OVERLAP
    assert rig.call(BindMem(D, 0, 8, token=token)) == (0, (D, BASE, 8))
    assert [rig.rc(QueryBlock(D, n)) for n in range(8)] == [0] * 8


def test_12_unbind_or_removal_in_the_middle_of_a_bind():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    _, (unbind,) = rig.call(UnbindMem(D, BASE, 3))
    assert rig.rc(BindMem(D, 0, 8, token=token)) == R.H_P5
    assert rig.rc(UnbindMem(D, BASE, 3, unbind)) == 0
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    rig.feed(DetachDevice(GUEST, D))
    assert rig.rc(BindMem(D, 0, 8, token=token)) == R.H_PARAMETER
    rig.feed(AttachDevice(DEVICE_D, MemoryMetadata(0x20000)))
    assert rig.rc(BindMem(D, 0, 8, token=token)) == R.H_P5


LIFE = encode_request([b"MemLife "])


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    ("address", "length", "request_bytes", "rc"),
    [
        (0, 0x20, LIFE, R.H_P2),
        (0x100, 0, LIFE, R.H_P3),
        (0x100, 15, LIFE, R.H_P3),
        (1, 0, LIFE, R.H_P3),
        (MEMORY, 0x20, LIFE, R.H_P2),
        (MEMORY - 0x10, 0x20, LIFE, R.H_P2),
        (0x100, MEMORY, LIFE, R.H_P2),
        (U64 - 0x20, 0x20, LIFE, R.H_P2),
        (0x100, U64 - 1, LIFE, R.H_P2),
        (0x100, 0x1F, LIFE, R.H_P3),
        (0x100, 0x21, LIFE, R.H_P3),
        (0x100, 0x30, LIFE, R.H_P3),
        (0x100, 0x10, LIFE, R.H_P3),
        (0x100, 0x10F, encode_request(), R.H_P3),
        (0x100, 0x20, encode_stats([], 0xFFFFFFFF), R.H_P3),
        (0x100, 0x10 + 16 * 2000, encode_stats([], 2000), R.H_P3),
        (0x100, 0x20, b"SCMSTATT" + LIFE[8:], R.H_P2),
        (0x100, 0x20, LIFE[:11] + b"\2" + LIFE[12:], R.H_P2),
        (0x100, 0x20, LIFE[:8] + bytes(4) + LIFE[12:], R.H_P2),
        (0x101, 0x20, LIFE, 0),
        (MEMORY - 0x20, 0x20, LIFE, 0),
        (0x100, 0x30, encode_request([b"MemLife "] * 2), 0),
        (0x100, 0x30, encode_request([b"MemLife ", b"MemLife\0"]), R.H_PARTIAL),
        (0x100, 0x30, encode_request([b"\xff" * 8, b"MemLife "]), R.H_PARTIAL),
        (0x100, 0xF000, encode_request(), 0),
    ],
)
def test_13_statistics_buffers(mapped, address, length, request_bytes, rc):
    rig = Rig(CONFIG_P, mapped=mapped)
    start = address if address + len(request_bytes) <= MEMORY else 0x100
    rig.memory.write(start, request_bytes)
    before = rig.memory.read(0, MEMORY)
    got, outs = rig.call(PerformanceStats(D, address, length))
    after = rig.memory.read(0, MEMORY)
    assert got == rc
    if rc in (0, R.H_PARTIAL):
        assert after[:address] == before[:address]
        assert after[address + length :] == before[address + length :]
        assert after[address : address + 8] == b"SCMSTATS"
    else:
        assert (after, outs) == (before, ())
    if rc == R.H_PARTIAL:
        known = after.index(b"MemLife ")
        assert outs == (1 if known > address + 0x10 else 2,)
        assert after[known + 8 : known + 16] == (100).to_bytes(8, "big")


def test_14_problem_state_comes_first():
    rig = Rig()
    for opcode in (H.H_SCM_HEALTH, H.H_SCM_PERFORMANCE_STATS, 0, 0x3ED):
        assert rig.raw(opcode, 0, problem=True) == (R.H_PRIVILEGE, ())


def test_15_reset_between_busy_and_continuation():
    rig = Rig()
    rig.call(Flush(A))
    rig.die()
    rig.start()
    assert rig.rc(Flush(A, 1)) == R.H_P2
    assert rig.call(BindMem(A, 0, 4)) == (0, (A, 0x100000000, 4)), "nothing was bound, nothing is kept"
    assert rig.call(Flush(A)) == (9901, (2,))


def test_16_each_metadata_access_is_whole():
    rig = Rig()
    for value in (0, U64 - 1, 0x0102030405060708):
        rig.call(WriteMetadata(A, 8, value, 8))
        rig.call(WriteMetadata(A, 10, 0xFFFF, 2))
        assert rig.call(ReadMetadata(A, 8, 8))[1] == (value | 0xFFFF << 32,)


def test_17_a_failed_flush_fails_its_own_token_once():
    rig = Rig()
    for _ in range(3):
        rig.call(Flush(A))
    for error in (0, 5, 0):
        rig.finish_flush(error)
    assert [rig.rc(Flush(A, token)) for token in (3, 2, 1, 2)] == [0, R.H_HARDWARE, 0, R.H_P2]
    assert rig.call(Flush(A)) == (9901, (4,))


def test_bind_never_answers_long_busy():
    """Linux takes it for a failure."""
    rig = Rig(CONFIG_P)
    rc, (token, *_) = rig.call(BindMem(D, 0, 8, ANY_ADDRESS))
    while rc:
        assert rc == R.H_BUSY
        rc, (token, *_) = rig.call(BindMem(D, 0, 8, token=token))
