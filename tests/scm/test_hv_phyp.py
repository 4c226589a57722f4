"""The PowerVM-like profile: bindings in steps, cancelled, kept, found from both sides; statistics; health."""

import subprocess

import pytest
from scm_hv_rig import CONFIG_P, CONFIG_Q, DEVICE_D, GUEST, MEMORY, A, B, D, Rig, device

from pvnet.core.errors import ConfigError, LocalError
from pvnet.papr.devicetree import flatten, unflatten
from pvnet.papr.drc import DrcType
from pvnet.papr.errno import EIO, ENOSPC
from pvnet.papr.extension import ExtensionInput
from pvnet.papr.hcall import HcallOpcode as H
from pvnet.papr.hcall import HcallRc as R
from pvnet.scm.bindings import Bindings, Range
from pvnet.scm.calls import (
    BindMem,
    Flush,
    Health,
    PerformanceStats,
    QueryBlock,
    QueryHealth,
    QueryLogical,
    ReadMetadata,
    UnbindAll,
    UnbindMem,
    WriteMetadata,
)
from pvnet.scm.device import MemoryMetadata, ScmDeviceConfig, ScmType, StatisticsAccess, StoreError
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import (
    AttachDevice,
    BlockPlace,
    ConnectorConfig,
    DetachDevice,
    FlushDone,
    MapBlocks,
    ScmHypervisorConfig,
    SetHealth,
    SetScmFault,
    SetStatistics,
    UnmapBlocks,
)
from pvnet.scm.profiles import PHYP, QEMU
from pvnet.scm.stats import Statistic, decode_stats, encode_request

BASE, BS = DEVICE_D.address, DEVICE_D.block_size
U64 = 1 << 64


def bind(rig, start=0, blocks=8, target=U64 - 1, drc=D):
    """Bind to the end; the last rc and outs."""
    token = 0
    while True:
        rc, outs = rig.call(BindMem(drc, start, blocks, target, token))
        if rc != R.H_BUSY:
            return rc, outs
        token = outs[0]


def unbind_all(rig, scope=2, drc=D):
    token = 0
    while True:
        rc, outs = rig.call(UnbindAll(scope, drc, token))
        if rc != R.H_LONG_BUSY_ORDER_1_MSEC:
            return rc, outs
        token = outs[0]


# -- bind --------------------------------------------------------------------------------------------------------------


def test_blocks_are_mapped_step_by_step():
    rig = Rig(CONFIG_P)
    assert bind(rig) == (0, (D, BASE, 8))
    assert rig.mappings == [MapBlocks(GUEST, D, first, n, BASE + first * BS) for first, n in [(0, 3), (3, 3), (6, 2)]]
    assert rig.scm.locate(GUEST, BASE + 5 * BS - 1, 2) == BlockPlace(D, 5 * BS - 1)
    assert rig.scm.locate(GUEST, BASE + 8 * BS - 1, 2) is None
    assert unbind_all(rig) == (0, ())
    assert rig.mappings[3:] == [UnmapBlocks(GUEST, D, 0, 8, BASE)]
    assert rig.scm.locate(GUEST, BASE, 1) is None


def test_explicit_target():
    rig = Rig(CONFIG_P)
    assert rig.rc(BindMem(D, 0, 1, BASE + 1)) == R.H_P4
    assert rig.rc(BindMem(D, 0, 2, U64 - BS)) == R.H_P4
    assert rig.rc(BindMem(D, 0, 1, 0)) == R.H_OVERLAP
    assert bind(rig, 2, 1, target=0x900000000) == (0, (D, 0x900000000, 1))
    assert rig.call(QueryBlock(D, 2)) == (0, (0x900000000,))
    assert rig.call(QueryLogical(0x900000005)) == (0, (D, 2))
    assert bind(rig, 3, 1, target=0x900000000)[0] == R.H_OVERLAP
    assert bind(rig, 2, 1)[0] == R.H_OVERLAP
    assert bind(rig, 7, 1, target=U64 - BS) == (0, (D, U64 - BS, 1))
    assert bind(rig, 0, 2) == (0, (D, BASE, 2))
    assert rig.call(QueryLogical(BASE + 2 * BS)) == (R.H_NOT_FOUND, ())


def test_an_explicit_target_in_the_way_of_another_device():
    config = ScmHypervisorConfig((DEVICE_D, ScmDeviceConfig(GUEST, 5, 2, 0x900000000, BS, profile=PHYP)), profile=PHYP)
    rig = Rig(config)
    assert bind(rig, 0, 1, target=0x900000000)[0] == 0
    assert bind(rig, 0, 2, drc=5)[0] == R.H_OVERLAP
    assert bind(rig, 1, 1, drc=5) == (0, (5, 0x900000000 + BS, 1))


def test_range_checks():
    rig = Rig(CONFIG_P)
    assert rig.rc(BindMem(D, 9, 0)) == R.H_P2
    assert rig.rc(BindMem(D, 0, 9)) == R.H_P3
    assert rig.rc(BindMem(D, 1, U64 - 1)) == R.H_P3
    assert rig.call(BindMem(D, 8, 0)) == (0, (D, BASE + 8 * BS, 0))
    assert rig.mappings == []


def test_pending_bind_reserves_its_blocks():
    rig = Rig(CONFIG_P)
    rc, (token, *_) = rig.call(BindMem(D, 0, 6))
    assert rc == R.H_BUSY
    assert rig.rc(BindMem(D, 5, 1)) == R.H_OVERLAP
    assert rig.rc(BindMem(D, 7, 1, BASE + 4 * BS)) == R.H_OVERLAP
    assert bind(rig, 6, 2) == (0, (D, BASE + 6 * BS, 2))
    assert rig.call(BindMem(D, 0, 6, U64 - 1, token)) == (0, (D, BASE, 6))


def test_too_many_open_binds():
    rig = Rig(ScmHypervisorConfig((DEVICE_D,), profile=PHYP, operation_limit=1))
    assert rig.rc(BindMem(D, 0, 4)) == R.H_BUSY
    before = list(rig.mappings)
    assert rig.call(BindMem(D, 4, 4)) == (R.H_BUSY, (0, 0, 0))
    assert rig.mappings == before


# -- unbind ------------------------------------------------------------------------------------------------------------


def test_unbind_some():
    rig = Rig(CONFIG_P)
    bind(rig)
    assert rig.rc(UnbindMem(D, BASE + 1, 1)) == R.H_P2
    assert rig.rc(UnbindMem(D, BASE, 0)) == R.H_P3
    assert rig.rc(UnbindMem(D, BASE + 7 * BS, 2)) == R.H_P3
    assert rig.rc(UnbindMem(D, BASE, U64 - 1)) == R.H_P3
    rc, outs = rig.call(UnbindMem(D, BASE + 2 * BS, 3))
    assert (rc, outs) == (R.H_LONG_BUSY_ORDER_1_MSEC, (0x4001,))
    assert rig.rc(QueryBlock(D, 2)) == 0  # until the last call the old state
    assert rig.rc(UnbindMem(D, BASE + 2 * BS, 2, 0x4001)) == R.H_P4
    assert rig.call(UnbindMem(D, BASE + 2 * BS, 3, 0x4001)) == (0, (D, 3))
    assert [rig.rc(QueryBlock(D, n)) for n in range(8)] == [0, 0, -7, -7, -7, 0, 0, 0]
    assert rig.rc(UnbindMem(D, BASE + 2 * BS, 3)) == R.H_P3
    assert bind(rig, 2, 3) == (0, (D, BASE + 2 * BS, 3))
    assert len(rig.scm.device(GUEST, D).bindings) == 1


def test_unbind_in_more_rounds_and_at_once():
    from dataclasses import replace

    rig = Rig(device(profile=replace(PHYP, unbind_rounds=3)))
    bind(rig)
    token, seen = 0, []
    for _ in range(4):
        rc, outs = rig.call(UnbindAll(2, D, token))
        token = outs[0] if outs else 0
        seen.append((rc, token))
    assert seen == [(9900, 0x2001), (9900, 0x2002), (9900, 0x2003), (0, 0)]
    rig = Rig(device(profile=replace(PHYP, unbind_rounds=0, bind_step=None, unbind_all_counts=True)))
    assert rig.call(BindMem(D, 0, 8)) == (0, (D, BASE, 8))
    assert rig.call(UnbindAll(2, D)) == (0, (2, 8))


def test_nothing_bound_is_unbound_at_once():
    assert Rig(CONFIG_P).call(UnbindAll(2, D)) == (0, ())


def test_unbind_ends_a_pending_bind():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    assert unbind_all(rig)[0] == 0
    assert rig.rc(BindMem(D, 0, 8, U64 - 1, token)) == R.H_P5
    assert bind(rig)[0] == 0


def test_unbind_of_a_part_ends_what_it_touches_only():
    rig = Rig(CONFIG_P)
    assert bind(rig, 7, 1)[0] == 0
    _, (token, *_) = rig.call(BindMem(D, 0, 6))
    rig.call(Flush(D))
    assert rig.rc(UnbindMem(D, BASE + 7 * BS, 1)) == 9900
    assert rig.call(BindMem(D, 0, 6, U64 - 1, token))[0] == 0


def test_newest_unbind_wins():
    rig = Rig(CONFIG_P)
    bind(rig)
    _, (old,) = rig.call(UnbindAll(2, D))
    _, (new,) = rig.call(UnbindAll(2, D))
    assert rig.rc(UnbindAll(2, D, new)) == 0
    assert bind(rig)[0] == 0
    # The one that was overtaken cannot take away what has been bound since.
    assert rig.rc(UnbindAll(2, D, old)) == R.H_P4
    assert rig.rc(QueryBlock(D, 0)) == 0


def test_both_profiles_in_one_partition():
    both = ScmHypervisorConfig((*CONFIG_Q.devices, DEVICE_D), profile=QEMU)
    rig = Rig(both)
    bind(rig)
    assert unbind_all(rig, scope=1) == (0, (1, 8 + 4 + 1))
    assert rig.rc(QueryBlock(D, 0)) == R.H_NOT_FOUND
    assert rig.rc(QueryBlock(A, 0)) == R.H_FUNCTION
    assert rig.rc(QueryBlock(0x77, 0)) == R.H_PARAMETER
    assert rig.call(UnbindAll(2, B)) == (0, (2, 1))
    assert rig.call(UnbindAll(2, D)) == (0, ())
    assert rig.rc(PerformanceStats(A)) == R.H_FUNCTION


# -- lives -------------------------------------------------------------------------------------------------------------


def test_bindings_survive_the_partition_and_tokens_do_not():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    rig.die()
    rig.mappings.clear()
    rig.start()
    assert rig.mappings == [MapBlocks(GUEST, D, 0, 3, BASE)]
    assert rig.rc(BindMem(D, 0, 8, U64 - 1, token)) == R.H_P5
    assert rig.rc(BindMem(D, 0, 8)) == R.H_OVERLAP
    assert rig.call(QueryBlock(D, 7)) == (R.H_NOT_FOUND, ())
    assert unbind_all(rig)[0] == 0
    assert bind(rig)[0] == 0


def test_detach_and_attach():
    rig = Rig(CONFIG_P)
    _, (token, *_) = rig.call(BindMem(D, 0, 8))
    rig.feed(DetachDevice(GUEST, D))
    assert rig.mappings[-1] == UnmapBlocks(GUEST, D, 0, 3, BASE)
    assert rig.rc(BindMem(D, 0, 8, U64 - 1, token)) == R.H_PARAMETER
    with pytest.raises(LocalError, match="no SCM device"):
        rig.feed(DetachDevice(GUEST, D))
    rig.mappings.clear()
    rig.feed(AttachDevice(DEVICE_D, MemoryMetadata(0x20000)))
    assert rig.mappings == []
    assert rig.rc(BindMem(D, 0, 8, U64 - 1, token)) == R.H_P5
    assert bind(rig)[0] == 0
    new = ScmDeviceConfig(GUEST, 0x77, 1, 0x900000000)
    rig.feed(AttachDevice(new, MemoryMetadata(0x20000)))
    assert rig.mappings[-1] == MapBlocks(GUEST, 0x77, 0, 1, 0x900000000)
    assert rig.rc(ReadMetadata(0x77, 0, 1)) == 0
    rig.die()
    rig.mappings.clear()
    rig.feed(DetachDevice(GUEST, 0x77))
    rig.feed(AttachDevice(new, MemoryMetadata(0x20000)))
    assert rig.mappings == []


def test_device_gone_while_everything_is_unbound():
    rig = Rig(CONFIG_P)
    bind(rig)
    _, (token,) = rig.call(UnbindAll(1, 0))
    rig.feed(DetachDevice(GUEST, D))
    assert rig.rc(UnbindAll(1, 0, token)) == 0


def test_a_device_inside_of_memory_is_noted():
    rig = Rig(device(address=0))
    assert [note.event for note in rig.notes] == ["scm_device_in_memory"]
    assert rig.rc(BindMem(D, 0, 8)) == R.H_OVERLAP


# -- flush -------------------------------------------------------------------------------------------------------------


def test_flushes_out_of_order():
    rig = Rig(CONFIG_P)
    assert [rig.call(Flush(D)) for _ in range(2)] == [(1, (0x3001,)), (1, (0x3002,))]
    first, second = rig.flushes
    rig.now = 0.25
    rig.feed(FlushDone(second.tag))
    assert rig.call(Flush(D, 0x3002)) == (0, ())
    assert rig.call(Flush(D, 0x3001)) == (1, (0x3001,))
    rig.feed(FlushDone(first.tag))
    assert rig.call(Flush(D, 0x3001)) == (0, ())
    values = rig.scm.device(GUEST, D).statistics(rig.now)
    assert values[b"MedWCnt "] == 2
    assert values[b"MedWDur "] == 500_000


def test_flush_of_a_dead_partition_is_heard_by_nobody():
    rig = Rig(CONFIG_P)
    rig.call(Flush(D))
    rig.die()
    rig.start()
    rig.finish_flush(error=EIO)
    rig.feed(FlushDone(99))
    assert rig.scm.counters["flush_done_unknown"] == 1
    assert rig.rc(Flush(D, 0x3001)) == R.H_P2
    assert rig.call(Flush(D)) == (1, (0x3002,))
    assert rig.call(QueryHealth(D))[1][0] == Health.UNHEALTHY


def test_a_device_that_cannot_flush():
    rig = Rig(device(can_flush=False))
    assert rig.rc(Flush(D)) == R.H_UNSUPPORTED
    assert rig.rc(Flush(D, 5)) == R.H_P2


# -- health and failures -----------------------------------------------------------------------------------------------


class BrokenStore:
    """Fails with an errno; ``short``: reads come back cut."""

    def __init__(self, errno=EIO, short=False):
        self.errno, self.short = errno, short

    def read(self, offset, n):
        if self.short:
            return bytes(n - 1)
        raise StoreError(self.errno)

    def write(self, offset, data):
        raise OSError(self.errno, "no")


@pytest.mark.parametrize("short", [True, False])
def test_failing_metadata(short):
    rig = Rig(CONFIG_P, {(GUEST, D): BrokenStore(ENOSPC, short)})
    valid = sum(Health)
    assert rig.call(QueryHealth(D)) == (0, (0, valid))
    assert rig.call(ReadMetadata(D, 0, 8)) == (R.H_HARDWARE, ())
    assert rig.call(QueryHealth(D)) == (0, (Health.CRITICAL, valid))
    assert rig.call(WriteMetadata(D, 0, 0, 8)) == (R.H_HARDWARE, ())
    assert rig.call(QueryHealth(D)) == (0, (Health.CRITICAL | Health.UNHEALTHY | Health.NON_CRITICAL, valid))
    rig.feed(SetHealth(GUEST, D, (1, 2)))
    assert rig.call(QueryHealth(D)) == (0, (1, 2))
    rig.feed(SetHealth(GUEST, D, None))
    assert rig.call(QueryHealth(D)) == (0, (0, valid))
    assert str(StoreError(EIO)) == "metadata access: EIO"


def test_qemu_shows_nothing_but_unarmed():
    rig = Rig(CONFIG_Q, {(GUEST, A): BrokenStore()})
    assert rig.rc(ReadMetadata(A, 0, 8)) == R.H_HARDWARE
    assert rig.call(QueryHealth(A)) == (0, (0, Health.UNARMED))


def test_configured_health():
    rig = Rig(device(health=Health.SHUTDOWN_CLEAN, is_unarmed=True))
    assert rig.call(QueryHealth(D))[1][0] == Health.SHUTDOWN_CLEAN | Health.UNARMED


def test_failing_flush_is_one_tokens_business():
    rig = Rig(CONFIG_P)
    rig.call(Flush(D)), rig.call(Flush(D))
    rig.finish_flush(error=ENOSPC)
    rig.finish_flush()
    assert [rig.call(Flush(D, t)) for t in (0x3001, 0x3002, 0x3001)] == [(-1, ()), (0, ()), (R.H_P2, ())]


# -- faults ------------------------------------------------------------------------------------------------------------


def test_faults_on_command():
    rig = Rig(CONFIG_P)
    rig.feed(SetScmFault(GUEST, D, H.H_SCM_BIND_MEM, R.H_BUSY, (0, 0, 0), 2))
    assert [rig.call(BindMem(D, 0, 1)) for _ in range(3)] == [(1, (0, 0, 0))] * 2 + [(0, (D, BASE, 1))]
    rig.feed(SetScmFault(GUEST, D, H.H_SCM_UNBIND_ALL, R.H_HARDWARE))
    assert rig.rc(UnbindAll(1, D)) == 9900
    assert rig.rc(UnbindAll(2, D)) == R.H_HARDWARE
    rig.feed(SetScmFault(GUEST, D, H.H_SCM_HEALTH, R.H_HARDWARE, count=5))
    rig.feed(SetScmFault(GUEST, D, H.H_SCM_HEALTH, 0, count=0))
    assert rig.rc(QueryHealth(D)) == 0
    for wrong in ({"count": -1}, {"outs": (0,) * 10}, {"outs": (-1,)}):
        with pytest.raises(LocalError, match="expected a count"):
            rig.feed(SetScmFault(GUEST, D, H.H_SCM_HEALTH, 0, **wrong))


# -- statistics --------------------------------------------------------------------------------------------------------


def ask(rig, ids=(), length=None, request=None, address=0x100):
    request = encode_request(ids) if request is None else request
    rig.memory.write(address, request.ljust(0x400, b"\xee")[: MEMORY - address])
    n = len(request) if length is None else length
    rc, outs = rig.call(PerformanceStats(D, address, n))
    assert rig.memory.read(address + n, 16) == request.ljust(0x400, b"\xee")[n : n + 16], "beyond the buffer"
    return rc, outs, rig.memory.read(address, n)


@pytest.mark.parametrize("mapped", [True, False])
def test_counted_statistics(mapped):
    rig = Rig(CONFIG_P, mapped=mapped)
    rig.call(ReadMetadata(D, 0, 8)), rig.call(WriteMetadata(D, 0, 1, 8)), rig.call(WriteMetadata(D, 0, 1, 8))
    rig.now = 61.9
    rc, outs, reply = ask(rig, length=0x200)
    assert (rc, outs) == (0, ())
    got = dict(decode_stats(reply))
    counted = {b"HostLCnt": 1, b"HostSCnt": 2, b"PonSecs ": 61, b"MemLife ": 100, b"CtlResCt": 1}
    assert got == {s.value: counted.get(s.value, 0) for s in Statistic}
    rig.feed(SetStatistics(GUEST, D, {Statistic.POWERON_SECS: 7, Statistic.HOST_L_CNT: U64 - 1}))
    rig.call(ReadMetadata(D, 0, 8))
    rc, outs, reply = ask(rig, [b"HostLCnt", b"PonSecs ", b"HostLCnt"])
    assert (rc, decode_stats(reply)) == (0, [(b"HostLCnt", 0), (b"PonSecs ", 7), (b"HostLCnt", 0)])


def test_access_to_statistics():
    rig = Rig(device(statistics=StatisticsAccess.UNSUPPORTED))
    assert rig.rc(PerformanceStats(D)) == R.H_UNSUPPORTED
    rig.feed(SetStatistics(GUEST, D, access=StatisticsAccess.DISABLED))
    assert rig.rc(PerformanceStats(D)) == R.H_AUTHORITY
    with pytest.raises(LocalError, match="64-bit"):
        rig.feed(SetStatistics(GUEST, D, {Statistic.MEM_LIFE: -1}))


def test_remote_memory_that_fails_or_comes_late():
    rig = Rig(CONFIG_P, mapped=False)
    rig.hold_chunks = True
    opcode, call = H.H_SCM_PERFORMANCE_STATS, (D, 0x100, 0x20)
    request = encode_request([b"MemLife "])
    rig.memory.write(0x100, request)

    def start():
        from pvnet.papr.platform_io import HcallRequest

        rig.results.clear()
        rig.feed(HcallRequest(GUEST, 1, opcode, call))
        assert rig.results == []

    start()
    rig.answer_chunk(error=EIO)
    assert rig.results[0].rc == R.H_HARDWARE
    start()
    rig.answer_chunk()
    rig.answer_chunk(error=EIO)
    assert rig.results[0].rc == R.H_HARDWARE
    start()
    rig.feed(DetachDevice(GUEST, D))
    rig.answer_chunk()
    assert rig.results[0].rc == R.H_PARAMETER
    rig.feed(AttachDevice(DEVICE_D, MemoryMetadata(0x20000)))
    # Bytes that come along with the call go back with the answer.
    assert rig.raw(opcode, *call, memory=request)[0] == 0
    assert decode_stats(rig.results[-1].memory or b"") == [(b"MemLife ", 100)]
    assert rig.raw(opcode, *call, memory=request + b"x")[0] == R.H_HARDWARE
    assert rig.platform.counters["hcall_wrong_bytes"] == 1
    assert rig.chunks == []


# -- configuration and the tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"drc": 0}, "drc"), ({"drc": 1 << 32}, "drc"), ({"block_size": 3}, "power of two"),
        ({"block_size": 0}, "power of two"), ({"blocks": 0}, "at least 1"), ({"address": 1}, "multiple of block_size"),
        ({"address": U64 - BS}, "below 2"), ({"metadata_size": -1}, "metadata_size"),
        ({"metadata_size": 1 << 31}, "metadata_size"), ({"guid": "x"}, "UUID"),
        ({"guid": "00000000-0000-0000-0000-000000000000"}, "UUID"),
    ],
)  # fmt: skip
def test_bad_devices(changes, match):
    with pytest.raises(ConfigError, match=match):
        device(**changes)


def test_bad_configurations():
    store = {(GUEST, drc): MemoryMetadata(0x20000) for drc in (D, 5, 6)}
    near = ScmDeviceConfig(GUEST, 5, 1, BASE + 7 * BS, BS)
    for config, match in [
        (ScmHypervisorConfig((DEVICE_D, near)), "overlap"),
        (ScmHypervisorConfig((DEVICE_D, DEVICE_D)), "overlap"),
        (ScmHypervisorConfig((ScmDeviceConfig(GUEST, 7, 1, 0),)), "no metadata store"),
        (CONFIG_Q, "no metadata store"),
        (ScmHypervisorConfig((DEVICE_D,), (ConnectorConfig(GUEST, D, DrcType.LMB),)), "expected a PMEM connector"),
    ]:
        with pytest.raises(LocalError, match=match):
            ScmHypervisor(config, store)
    scm = ScmHypervisor(CONFIG_P, store)
    with pytest.raises(LocalError, match="is not for SCM"):
        scm.feed(ExtensionInput(), 0.0)
    with pytest.raises(LocalError, match="no extension takes"):
        Rig().feed(ExtensionInput())
    with pytest.raises(LocalError, match="no SCM device"):
        scm.device("nobody", 1)


def test_tree_of_configuration_q():
    tree = Rig().scm.tree(GUEST)
    memory = tree.child("ibm,persistent-memory")
    assert memory is not None
    assert memory.text("device_type") == "ibm,persistent-memory"
    a, b = memory.child("ibm,pmemory@90000000"), memory.child("ibm,pmemory@90000001")
    assert a is not None
    assert b is not None
    assert (a.u64("ibm,block-size"), a.u64("ibm,number-of-blocks"), a.u32("ibm,metadata-size")) == (
        0x10000000, 4, 0x20000,
    )  # fmt: skip
    assert a.u32("ibm,my-drc-index") == a.u32("reg") == A
    assert (a.has("ibm,cache-flush-required"), a.has("ibm,hcall-flush-required")) == (True, True)
    assert (b.has("ibm,cache-flush-required"), b.has("ibm,hcall-flush-required")) == (True, False)
    assert not a.has("ibm,persistence-failed-count")
    assert unflatten(flatten(tree)) == tree
    assert [drc.index for drc in Rig().scm.drcs(GUEST)] == [0x80000010, A, B, 0x90000002]


@pytest.mark.needs("dtc")
def test_dtc_accepts_the_tree():
    rig = Rig(device(dirty_shutdowns=3, guid="72511b67-0b3b-42fd-8d1d-5be3cae8bcaa", numa_node=1))
    run = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", "-"],
        input=flatten(rig.scm.tree(GUEST)),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert run.stderr == b""
    source = run.stdout.decode()
    assert "ibm,pmemory@44100002 {" in source
    assert 'ibm,unit-guid = "72511b67-0b3b-42fd-8d1d-5be3cae8bcaa";' in source
    assert "ibm,persistence-failed-count = <0x00 0x03>;" in source
    assert "ibm,drc-indexes = <0x01 0x44100002>;" in source


def test_nvdimm_needs_no_flush():
    assert not ScmDeviceConfig(GUEST, 1, 1, 0, type=ScmType.NVDIMM).needs_flush


# -- bindings ----------------------------------------------------------------------------------------------------------


def test_ranges_merge_and_split():
    bindings = Bindings()
    bindings.bind(Range(2, 2, 0x2000, 0x1000))
    bindings.bind(Range(0, 2, 0x0, 0x1000))
    bindings.bind(Range(7, 1, 0x4000, 0x1000))
    assert list(bindings) == [Range(0, 4, 0, 0x1000), Range(7, 1, 0x4000, 0x1000)]
    for taken in (Range(3, 1, 0x9000, 0x1000), Range(5, 1, 0x3000, 0x1000)):
        with pytest.raises(LocalError, match="bound already"):
            bindings.bind(taken)
    assert bindings.unbind(0x1000, 0x2000) == [Range(1, 1, 0x1000, 0x1000)]
    assert bindings.blocks == 4
    assert [bindings.address_of(n) for n in range(9)] == [0, None, 0x2000, 0x3000, None, None, None, 0x4000, None]
    assert bindings.find(0x2FFF) == Range(2, 2, 0x2000, 0x1000)
    assert bindings.find(0x1000) is None
    assert bindings.unbind(0, 0x10000) == [Range(0, 1, 0, 4096), Range(2, 2, 0x2000, 4096), Range(7, 1, 0x4000, 4096)]
    assert len(bindings) == 0
