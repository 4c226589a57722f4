"""Storage-class memory over every transport: a partition's devices as a program sees them, in fair and foul weather.

Every scenario ends with the census of the beginning (``behaviour_worlds.run``).
"""

from __future__ import annotations

import asyncio
import errno
import random
from typing import Any

import pytest
from behaviour_worlds import WORLDS, RawFile, behaviour, errno_of, eventually

from pvnet.client.scm import PIECE_BYTES, ScmDevice
from pvnet.core.errors import DeviceError, PvnetError, UnreachableError
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, ScmInject
from pvnet.runtime.topology import HYPERVISOR
from pvnet.scm.calls import Health
from pvnet.scm.pdsm import HealthLevel
from pvnet.testing.in_process import InProcessLab
from pvnet_services.device_files import MAX_BLOCK_FILES

MIB = 1 << 20
LABELS = 128 << 10
QEMU, PHYP, NVDIMM = 0, 1, 2
"""The devices of ``lpar1`` below, by number."""
DRC = 0x90000000
FIRST, SECOND, THIRD = 1 << 30, (1 << 30) + 2 * MIB, (1 << 30) + 10 * MIB
"""Where they are bound: behind the partition's memory, one after the other."""
END = THIRD + MIB
MOST = (1 << 64) - 1


def device_table(size: str, **more: Any) -> dict[str, Any]:
    return {"size": size, "block_size": "1MiB", **more}


PARTITIONS = [
    {
        "name": "lpar1",
        "scm": [
            device_table("2MiB"),
            device_table("8MiB", profile="phyp"),
            device_table("1MiB", type="nvdimm", unarmed=True),
        ],
    },
    {"name": "lpar2", "scm": [device_table("2MiB", profile="phyp")]},
]
TABLES: dict[str, Any] = {"partition": PARTITIONS, "manager": None}
BOTH = pytest.mark.parametrize("number", [QEMU, PHYP])


async def opened(lab: InProcessLab, number: int = QEMU, partition: str = "lpar1") -> ScmDevice:
    """A device that is open; what fails is seen at once, not retried."""
    return await ScmDevice(await lab.client(), partition, number, timeout=60.0).__aenter__()


async def close(*devices: ScmDevice) -> None:
    for device in devices:
        await device.__aexit__(None, None, None)


async def inject(lab: InProcessLab, number: int = PHYP, **fields: Any) -> ManagementReply:
    command = ScmInject(**{"partition": "lpar1", "drc": DRC + number, **fields})
    return (
        await (await lab.client()).call(HYPERVISOR, Envelope(management=Management(scm_inject=command)), 60.0)
    ).management_reply


async def scm_status(lab: InProcessLab, number: int, partition: str = "lpar1") -> dict[str, Any]:
    found: dict[str, Any] = (await lab.status(partition))["scm"][number]
    return found


def contents(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# --- in fair weather --------------------------------------------------------------------------------------------------


@behaviour(**TABLES)
async def test_devices_of_both_profiles_are_probed(lab: InProcessLab) -> None:
    found = (await lab.status("lpar1"))["scm"]
    assert [(d["state"], d["problem"], d["drc"], d["address"]) for d in found] == [
        ("ready", 0, DRC, FIRST),
        ("ready", 0, DRC + 1, SECOND),
        ("ready", 0, DRC + 2, THIRD),
    ]
    assert [d["size_bytes"] for d in found] == [2 * MIB, 8 * MIB, MIB]
    assert (await scm_status(lab, 0, "lpar2"))["address"] == FIRST, "each partition has its own address space"
    devices = lab.hypervisor.scm.status()
    assert [(d["partition"], d["drc"]) for d in devices] == [
        *(("lpar1", DRC + i) for i in range(3)),
        ("lpar2", DRC),
    ]


@BOTH
@behaviour(**TABLES)
async def test_label_area_in_odd_sizes(lab: InProcessLab, number: int) -> None:
    device = await opened(lab, number)
    assert await device.label_bytes() == LABELS
    model = bytearray(LABELS)
    for offset, length in [(0, 1), (1, 2), (3, 5), (8, 8), (13, 4099), (4090, 12), (LABELS - 7, 7), (70000, 0)]:
        data = contents(length, offset)
        await device.write_labels(offset, data)
        model[offset : offset + length] = data
    for offset, length in [(0, 4200), (1, 3), (4095, 2), (LABELS - 9, 9), (5, 0), (LABELS, 0)]:
        assert await device.read_labels(offset, length) == model[offset : offset + length]
    await close(device)


@BOTH
@behaviour(**TABLES)
async def test_label_area_has_an_end(lab: InProcessLab, number: int) -> None:
    device = await opened(lab, number)
    await device.write_labels(LABELS - 4, b"last")
    for offset, length in [(LABELS - 3, 4), (LABELS, 1), (1 << 31, 1), ((1 << 32) - 1, 1), (1 << 32, 1), (MOST, 1)]:
        assert await errno_of(device.read_labels(offset, length)) == errno.EINVAL
        assert await errno_of(device.write_labels(offset, bytes(length))) == errno.EINVAL
    assert await device.read_labels(LABELS - 8, 8) == b"\0\0\0\0last"
    await close(device)


@BOTH
@behaviour(**TABLES)
async def test_blocks_in_pieces(lab: InProcessLab, number: int) -> None:
    device = await opened(lab, number)
    model = bytearray(2 * MIB)
    for offset, length in [(0, 1), (3, PIECE_BYTES - 1), (PIECE_BYTES - 5, PIECE_BYTES), (MIB - 70001, 200001), (9, 0)]:
        data = contents(length, offset)
        await device.write(offset, data)
        model[offset : offset + length] = data
    for offset, length in [(0, PIECE_BYTES + 1), (MIB - 100000, 250000), (1, 0), (7, 1)]:
        assert await device.read(offset, length) == model[offset : offset + length]
    await close(device)


@BOTH
@behaviour(**TABLES)
async def test_blocks_have_an_end(lab: InProcessLab, number: int) -> None:
    device = await opened(lab, number)
    size = (await scm_status(lab, number))["size_bytes"]
    await device.write(size - 5, b"right")
    assert await device.read(size - 5, 10) == b"right"
    assert await device.read(size - 70000, 90000) == bytes(69995) + b"right"
    for offset in (size, size + 1, 1 << 63, MOST):
        assert await device.read(offset, 10) == b""
        assert await errno_of(device.write(offset, b"x")) == errno.ENOSPC
    for offset in (-1, MOST + 1):
        assert await errno_of(device.read(offset, 10)) == errno.EINVAL
        assert await errno_of(device.write(offset, b"x")) == errno.EINVAL
    assert await errno_of(device.write(size - 2, b"too long")) == errno.ENOSPC
    assert await device.read(size - 5, 10) == b"rigto", "what fits is stored, as a file system would see it"
    await close(device)


@behaviour(**TABLES)
async def test_calls_that_a_device_file_does_not_have(lab: InProcessLab) -> None:
    client = await lab.client()
    blocks, commands = RawFile(client, "lpar1"), RawFile(client, "lpar1")
    assert await RawFile(client, "lpar1").open("/dev/pmem3") == -errno.ENOENT
    assert await RawFile(client, "lpar1").open("/dev/nmem3") == -errno.ENOENT
    assert await blocks.open("/dev/pmem0") > 0
    assert (await commands.call(DeviceIo.OPEN, path="/dev/nmem0", handle=blocks.handle)).result > 0, "no handle counts"
    assert await commands.open("/dev/nmem0") > blocks.handle
    assert (await blocks.call(DeviceIo.READ, count=PIECE_BYTES + 1)).result == -errno.EINVAL
    assert (await blocks.call(DeviceIo.READ, count=(1 << 32) - 1)).result == -errno.EINVAL
    assert await blocks.write(bytes(PIECE_BYTES + 1)) == -errno.EINVAL
    assert (await blocks.ioctl(4)).result == -errno.EINVAL
    assert await blocks.poll() == -errno.EINVAL
    assert await commands.read(10) == -errno.EINVAL
    assert await commands.write(b"x") == -errno.EINVAL
    assert (await commands.ioctl(99)).result == -errno.EINVAL
    for handle in (0, 999, MOST >> 33):
        assert (await blocks.call(DeviceIo.READ, count=1, handle=handle)).result == -errno.EBADF
    other = RawFile(await lab.client("other"), "lpar1")
    for handle in (blocks.handle, commands.handle):
        for operation in (DeviceIo.READ, DeviceIo.IOCTL, DeviceIo.CLOSE):
            assert (await other.call(operation, handle=handle, command=4, count=1)).result == -errno.EBADF
    assert await blocks.close() == 0
    assert await blocks.close() == -errno.EBADF
    assert (await blocks.call(DeviceIo.READ, count=1)).result == -errno.EBADF
    await lab.leave("other")
    await lab.leave()
    await eventually(lambda: files_are(lab, 0))


async def files_are(lab: InProcessLab, count: int) -> bool:
    return bool((await lab.status("lpar1"))["open_files"] == count)


@behaviour(**TABLES)
async def test_block_files_are_not_without_end_and_close_with_their_process(lab: InProcessLab) -> None:
    files = [RawFile(await lab.client("greedy"), "lpar1") for _ in range(MAX_BLOCK_FILES)]
    handles = await asyncio.gather(*(file.open(f"/dev/pmem{i % 3}") for i, file in enumerate(files)))
    assert min(handles) > 0
    assert await RawFile(await lab.client("greedy"), "lpar1").open("/dev/pmem0") == -errno.EMFILE
    await lab.crash("greedy")
    await eventually(lambda: files_are(lab, 0))
    await close(await opened(lab))


async def opened_again(lab: InProcessLab, number: int, earlier: ScmDevice) -> ScmDevice:
    """A device in its next life: ``earlier`` is a file of the life before."""

    async def is_over() -> bool:
        return await errno_of(earlier.health()) == errno.ENODEV

    await eventually(is_over)
    found: list[ScmDevice] = []

    async def ready() -> bool:
        try:
            found.append(await opened(lab, number))
        except PvnetError:
            return False
        return True

    await eventually(ready)
    return found[0]


@behaviour(**TABLES)
async def test_flushes_reach_the_medium_and_share_passes(lab: InProcessLab) -> None:
    storages = lab.hypervisor.scm.storages
    for number in (QEMU, PHYP):
        device = await opened(lab, number)
        await device.write(0, b"data")
        await device.flush()
        assert storages["lpar1", DRC + number].flushes == 1
        await asyncio.gather(*(device.flush() for _ in range(16)))
        assert 2 <= storages["lpar1", DRC + number].flushes <= 17
        await close(device)
    device = await opened(lab, NVDIMM)
    await device.flush()
    assert storages["lpar1", DRC + NVDIMM].flushes == 0, "durable by itself"
    await close(device)


@behaviour(**TABLES)
async def test_health_is_set_and_reset(lab: InProcessLab) -> None:
    device, plain, unarmed = [await opened(lab, number) for number in (PHYP, QEMU, NVDIMM)]
    assert ((await device.health()).level, await device.flags()) == (HealthLevel.HEALTHY, "")
    for bits, level, words in [
        (Health.FATAL | Health.CRITICAL, HealthLevel.FATAL, "smart_notify"),
        (Health.CRITICAL, HealthLevel.CRITICAL, "smart_notify"),
        (Health.SHUTDOWN_DIRTY, HealthLevel.HEALTHY, "flush_fail"),
        (Health.EMPTY, HealthLevel.HEALTHY, "restore_fail"),
        (Health.ENCRYPTED, HealthLevel.HEALTHY, "encrypted"),
    ]:
        assert (await inject(lab, kind=ScmInject.HEALTH, health_bits=bits, health_valid=MOST)).status == 0
        report = await device.health()
        assert (report.level, await device.flags()) == (level, words)
        assert report.bad_shutdown == (bits == Health.SHUTDOWN_DIRTY)
    await inject(lab, kind=ScmInject.HEALTH, health_bits=Health.FATAL, health_valid=0)
    assert (await device.health()).level == HealthLevel.HEALTHY, "bits that are not valid say nothing"
    assert (await plain.health()).level == HealthLevel.HEALTHY, "another device"
    await inject(lab, kind=ScmInject.HEALTH_OWN)
    assert ((await device.health()).level, await device.flags()) == (HealthLevel.HEALTHY, "")
    report = await unarmed.health()
    assert (report.unarmed, "not_armed" in await unarmed.flags()) == (True, True)
    await close(device, plain, unarmed)


@behaviour(**TABLES)
async def test_statistics_are_of_phyp_only(lab: InProcessLab) -> None:
    device, plain = await opened(lab, PHYP), await opened(lab, QEMU)
    before = await device.statistics()
    assert len(before) == 16
    await device.read_labels(0, 80)
    await device.write_labels(0, bytes(24))
    await device.flush()
    after = await device.statistics()
    assert {name: after[name] - before[name] for name in ("HostLCnt", "HostSCnt", "MedWCnt", "CtlResCt")} == {
        "HostLCnt": 10,
        "HostSCnt": 3,
        "MedWCnt": 1,
        "CtlResCt": 0,
    }
    assert after["PonSecs"] < 1000, "counted from when the hypervisor started"
    assert await errno_of(plain.statistics()) == errno.ENOENT
    await close(device, plain)


# --- failures ---------------------------------------------------------------------------------------------------------


FAILURES = {
    "read": (ScmInject.STORAGE_READ, errno.EIO, errno.EIO, Health.CRITICAL),
    "write": (ScmInject.STORAGE_WRITE, errno.EIO, errno.EIO, Health.UNHEALTHY),
    "full": (ScmInject.STORAGE_WRITE, errno.ENOSPC, errno.ENOSPC, Health.UNHEALTHY | Health.NON_CRITICAL),
    "short": (ScmInject.STORAGE_WRITE, 0, errno.EIO, Health.UNHEALTHY),
    "flush": (ScmInject.STORAGE_FLUSH, errno.EIO, errno.EIO, Health.UNHEALTHY),
}


async def health_bits(lab: InProcessLab, number: int) -> int:
    rc, outs = await lab.partition("lpar1").hcalls.call(Op.H_SCM_HEALTH, (DRC + number,))
    assert rc == Rc.H_SUCCESS
    return outs[0] & outs[1]


@pytest.mark.parametrize("failure", FAILURES)
@BOTH
@behaviour(**TABLES)
async def test_blocks_and_flushes_fail_as_told_and_health_remembers(
    lab: InProcessLab, number: int, failure: str
) -> None:
    kind, armed, expected, bits = FAILURES[failure]
    device = await opened(lab, number)
    await device.write(0, b"before")
    assert (await inject(lab, number, kind=kind, error=armed, count=2)).status == 0
    for _ in range(2):
        match kind:
            case ScmInject.STORAGE_READ:
                assert await errno_of(device.read(0, 6)) == expected
            case ScmInject.STORAGE_WRITE:
                assert await errno_of(device.write(0, b"after!")) == expected
            case _:
                assert await errno_of(device.flush()) == expected
    assert await device.read(0, 6) == (b"aefore" if failure == "short" else b"before")
    await device.write(0, b"later!")
    await device.flush()
    assert await device.read(0, 6) == b"later!", "a failure passes"
    valid = Health(0) if number == QEMU else bits
    assert await health_bits(lab, number) == valid, "what it said of the medium stays"
    await inject(lab, number, kind=ScmInject.HEALTH_OWN)
    assert await health_bits(lab, number) == 0
    await close(device)


@pytest.mark.parametrize("failure", ["read", "write", "full", "short"])
@BOTH
@behaviour(**TABLES)
async def test_label_area_fails_as_told_and_health_remembers(lab: InProcessLab, number: int, failure: str) -> None:
    kind, armed, _, bits = FAILURES[failure]
    device = await opened(lab, number)
    await inject(lab, number, kind=kind, error=armed)
    is_read = kind == ScmInject.STORAGE_READ
    access = device.read_labels(0, 8) if is_read else device.write_labels(0, b"12345678")
    assert await errno_of(access) == errno.EINVAL, "Linux makes this of H_HARDWARE"
    assert await device.read_labels(0, 8) == (b"1" if failure == "short" else b"\0") + bytes(7)
    assert await health_bits(lab, number) == (Health(0) if number == QEMU else bits)
    await close(device)


@behaviour(**TABLES)
async def test_hcalls_answer_as_told(lab: InProcessLab) -> None:
    device = await opened(lab, PHYP)
    await inject(lab, kind=ScmInject.RETURN_CODE, opcode=Op.H_SCM_HEALTH, rc=Rc.H_HARDWARE)
    assert await errno_of(device.health()) == errno.ENXIO
    await device.health()
    await inject(lab, kind=ScmInject.RETURN_CODE, opcode=Op.H_SCM_FLUSH, rc=Rc.H_LONG_BUSY_ORDER_1_MSEC, count=3)
    await device.flush()
    for fields, status in [
        ({"drc": 1}, ManagementReply.NOT_FOUND),
        ({"partition": "lpar9"}, ManagementReply.NOT_FOUND),
        ({"kind": 99}, ManagementReply.MALFORMED),
        ({"kind": ScmInject.STORAGE_READ, "error": 4096}, ManagementReply.MALFORMED),
    ]:
        assert (await inject(lab, **{"kind": ScmInject.HEALTH_OWN, **fields})).status == status
    await inject(lab, kind=ScmInject.STORAGE_READ, error=errno.EIO, count=(1 << 32) - 1)
    assert await errno_of(device.read(0, 1)) == errno.EIO
    await close(device)


@behaviour(**TABLES)
async def test_device_that_cannot_be_bound_costs_only_itself(lab: InProcessLab) -> None:
    await inject(lab, PHYP, kind=ScmInject.RETURN_CODE, opcode=Op.H_SCM_BIND_MEM, rc=Rc.H_HARDWARE)
    await lab.crash("lpar1")
    await lab.start("lpar1")
    found = (await lab.status("lpar1"))["scm"]
    assert [(d["state"], d["problem"]) for d in found] == [("ready", 0), ("failed", errno.ENXIO), ("ready", 0)]
    client = await lab.client()
    assert await RawFile(client, "lpar1").open("/dev/nmem1") == -errno.ENODEV
    blocks = RawFile(client, "lpar1")
    await blocks.open("/dev/pmem1")
    assert await blocks.read(1) == -errno.ENXIO
    assert await blocks.write() == -errno.ENXIO
    await blocks.close()
    device = await opened(lab, QEMU)
    await lab.crash(HYPERVISOR)
    await lab.start(HYPERVISOR)
    await close(device, await opened_again(lab, PHYP, device))


@behaviour(worlds=WORLDS[:1], **TABLES)
async def test_partition_whose_device_stays_busy_says_so(lab: InProcessLab) -> None:
    busy = {"kind": ScmInject.RETURN_CODE, "opcode": Op.H_SCM_BIND_MEM, "rc": Rc.H_BUSY}
    await inject(lab, PHYP, **busy, count=10**9)
    await lab.crash("lpar1")
    with pytest.raises(UnreachableError, match=r"SCM devices did not come up within 20 s \(.* 0x90000001 binding, "):
        await lab.start("lpar1")
    await inject(lab, PHYP, **busy, count=1)
    await lab.start("lpar1")
    assert (await scm_status(lab, PHYP))["state"] == "ready"


READONLY = [{"name": "lpar1", "scm": [device_table("1MiB", readonly=True, profile="phyp")]}]


@behaviour(partition=READONLY, manager=None)
async def test_device_that_is_read_only(lab: InProcessLab) -> None:
    device = await opened(lab, 0)
    assert await errno_of(device.write(0, b"x")) == errno.EROFS
    assert await errno_of(device.write_labels(0, b"x")) == errno.EINVAL
    assert await device.read(0, 10) == bytes(10)
    assert (await device.labels()).is_blank
    await device.flush()
    assert (await device.health()).level == HealthLevel.HEALTHY, "a refusal is no failure"
    await close(device)


# --- lives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["crash", "stop"])
@behaviour(**TABLES)
async def test_hypervisor_ends_and_everything_is_there_again(lab: InProcessLab, how: str) -> None:
    devices = [await opened(lab, number) for number in (QEMU, PHYP, NVDIMM)]
    for number, device in enumerate(devices):
        await device.write(MIB - 3, b"block %d" % number if number != NVDIMM else b"end")
        await device.write_labels(77, b"label %d" % number)
        await device.flush()
    await getattr(lab, how)(HYPERVISOR)

    async def is_gone() -> bool:
        return await errno_of(devices[0].read(0, 1)) == errno.EIO

    await eventually(is_gone)
    assert await errno_of(devices[PHYP].flush()) == errno.EIO
    assert await errno_of(devices[PHYP].write(0, b"lost")) == errno.EIO
    assert await errno_of(devices[PHYP].health()) != 0
    await lab.start(HYPERVISOR)
    again = [await opened_again(lab, number, device) for number, device in enumerate(devices)]
    for number, device in enumerate(again):
        length = 3 if number == NVDIMM else 7
        assert await device.read(MIB - 3, length) == (b"end" if number == NVDIMM else b"block %d" % number)
        assert await device.read_labels(77, 7) == b"label %d" % number
        await device.flush()
    found = (await lab.status("lpar1"))["scm"]
    assert [(d["state"], d["address"]) for d in found] == [("ready", FIRST), ("ready", SECOND), ("ready", THIRD)]
    await close(*again, *devices)


@behaviour(**TABLES)
async def test_flush_that_the_hypervisor_did_not_live_to_finish_is_no_success(lab: InProcessLab) -> None:
    device = await opened(lab, PHYP)
    await device.write(0, b"data")
    await inject(lab, kind=ScmInject.RETURN_CODE, opcode=Op.H_SCM_FLUSH, rc=Rc.H_LONG_BUSY_ORDER_10_MSEC, count=10**6)
    flushing = asyncio.ensure_future(device.flush())
    await asyncio.sleep(0.2)
    assert not flushing.done()
    await lab.crash(HYPERVISOR)
    with pytest.raises(DeviceError) as caught:
        await flushing
    assert caught.value.errno == errno.EIO
    await lab.start(HYPERVISOR)
    again = await opened_again(lab, PHYP, device)
    await again.flush()
    await close(again, device)


@pytest.mark.parametrize("how", ["crash", "stop"])
@behaviour(**TABLES)
async def test_partition_ends_and_finds_its_bindings(lab: InProcessLab, how: str) -> None:
    for number in (QEMU, PHYP):
        device = await opened(lab, number)
        await device.write(5, b"kept %d" % number)
        await close(device)
    for life in range(3):
        await getattr(lab, how)("lpar1")
        await lab.start("lpar1")
        found = (await lab.status("lpar1"))["scm"]
        assert [(d["state"], d["address"]) for d in found] == [("ready", FIRST), ("ready", SECOND), ("ready", THIRD)]
        assert "bind_overlap" not in found[QEMU]["counters"], "qemu keeps no bindings"
        if how == "crash":
            assert found[PHYP]["counters"]["bind_overlap"] == 1, "what the last life had bound is taken over"
        for number in (QEMU, PHYP):
            device = await opened(lab, number)
            assert await device.read(5, 6) == b"kept %d" % number, f"life {life}"
            await close(device)


@behaviour(**TABLES)
async def test_old_binding_that_cannot_be_used_is_given_up(lab: InProcessLab) -> None:
    """Overlap, then a query that fails: unbind all and bind once."""
    await inject(lab, kind=ScmInject.RETURN_CODE, opcode=Op.H_SCM_QUERY_BLOCK_MEM_BINDING, rc=Rc.H_NOT_FOUND)
    await lab.crash("lpar1")
    await lab.start("lpar1")
    found = await scm_status(lab, PHYP)
    assert (found["state"], found["address"]) == ("ready", SECOND)
    assert (found["counters"]["bind_overlap"], found["counters"]["query_failed"]) == (1, 1)


# --- strangers --------------------------------------------------------------------------------------------------------


async def memory(lab: InProcessLab, node: str, address: int, length: int, *, data: bytes | None = None) -> Any:
    """MemoryRead (or MemoryWrite of ``data``) as a node itself sends it."""
    envelope = Envelope()
    if data is None:
        envelope.memory_read.address, envelope.memory_read.length = address, length
    else:
        envelope.memory_write.address, envelope.memory_write.data = address, data
    endpoint = lab.nodes[node].endpoint if node in lab.nodes else await lab.client(node)
    return (await endpoint.call(HYPERVISOR, envelope, 60.0)).memory_reply


@behaviour(**TABLES)
async def test_partitions_do_not_reach_each_others_devices(lab: InProcessLab) -> None:
    mine, theirs = await opened(lab, QEMU), await opened(lab, 0, "lpar2")
    await mine.write(0, b"of lpar1")
    await mine.write_labels(0, b"of lpar1")
    assert await theirs.read(0, 8) == bytes(8)
    assert await theirs.read_labels(0, 8) == bytes(8)
    await theirs.write(0, b"of lpar2")
    assert await mine.read(0, 8) == b"of lpar1"
    assert (await memory(lab, "lpar1", FIRST, 8)).data == b"of lpar1"
    assert (await memory(lab, "lpar2", FIRST, 8)).data == b"of lpar2"
    for address in (SECOND, THIRD):
        assert (await memory(lab, "lpar2", address, 8)).error == errno.EFAULT
        assert (await memory(lab, "lpar2", address, 0, data=b"hostile!")).error == errno.EFAULT
    call = lab.partition("lpar2").hcalls.call
    for opcode, args in [
        (Op.H_SCM_READ_METADATA, (DRC + 1, 0, 8)),
        (Op.H_SCM_WRITE_METADATA, (DRC + 1, 0, 0, 8)),
        (Op.H_SCM_BIND_MEM, (DRC + 1, 0, 8, MOST, 0)),
        (Op.H_SCM_UNBIND_MEM, (DRC + 1, SECOND, 8, 0)),
        (Op.H_SCM_HEALTH, (DRC + 1,)),
        (Op.H_SCM_FLUSH, (DRC + 1, 0)),
        (Op.H_SCM_PERFORMANCE_STATS, (DRC + 1, 0, 0)),
    ]:
        assert (await call(opcode, args))[0] == Rc.H_PARAMETER
    assert (await call(Op.H_SCM_UNBIND_ALL, (1, 0, 0)))[0] == Rc.H_SUCCESS
    assert await errno_of(theirs.read(0, 8)) == errno.EFAULT, "it has unbound its own"
    assert await mine.read(0, 8) == b"of lpar1"
    assert (await call(Op.H_SCM_BIND_MEM, (DRC, 0, 2, MOST, 0)))[0] == Rc.H_SUCCESS
    assert await theirs.read(0, 8) == b"of lpar2"
    await close(mine, theirs)


HOSTILE = [
    *((address, length) for address in (FIRST, END - 1, 0, MOST) for length in (0, (1 << 32) - 1, PIECE_BYTES + 1)),
    *((address, 8) for address in (0, FIRST - 8, FIRST - 1, END - 7, END, 1 << 63, MOST, MOST - 7, MOST - 8)),
    (SECOND - 1, 2),
    (THIRD - 1, 2),
]


@behaviour(**TABLES)
async def test_hostile_addresses_are_answered_efault(lab: InProcessLab) -> None:
    device = await opened(lab, QEMU)
    await device.write(0, b"untouched")
    for address, length in HOSTILE:
        answer = await memory(lab, "lpar1", address, length)
        assert (answer.error, answer.data) == (errno.EFAULT, b""), f"read of {length} at {address:#x}"
        if length <= PIECE_BYTES + 1:
            answer = await memory(lab, "lpar1", address, length, data=b"!" * length)
            assert answer.error == errno.EFAULT, f"write of {length} at {address:#x}"
    for stranger in ("lpar2", "app"):
        for address in (SECOND, THIRD, END):
            assert (await memory(lab, stranger, address, 8)).error == errno.EFAULT
    assert (await memory(lab, "app", FIRST, 8)).error == errno.EFAULT
    assert (await memory(lab, "app", FIRST, 8, data=b"hostile!")).error == errno.EFAULT
    assert set(lab.hypervisor.scm.machine._partitions) == {"lpar1", "lpar2"}, "strangers leave nothing behind"
    assert await device.read(0, 9) == b"untouched"
    assert (await memory(lab, "lpar1", END - 8, 8)).data == bytes(8)
    assert lab.hypervisor.endpoint.counters["handler_failed"] == 0
    await close(device)
