"""The guest's driver against pvnet's own hypervisor: both profiles, both policies, memory mapped or far away."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scm_guest_rig import H, Rig

from pvnet.papr.device_io import Remove
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    HcallRequest,
    HcallResult,
    MemoryDone,
    PartitionConfig,
    PartitionStarted,
    PlatformConfig,
    ReadMemory,
    WriteMemory,
)
from pvnet.runtime.scm_storage import ScmStorage, StorageFault, StorageOperation
from pvnet.scm import labels, pdsm, stats
from pvnet.scm.calls import Health
from pvnet.scm.device import MemoryMetadata, MetadataStore, ScmDeviceConfig, StoreError, device_node
from pvnet.scm.guest import ScmState
from pvnet.scm.guest_interface import GUEST_POLICIES, ScmCommand, ScmGuestPolicy, parse_node
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import FlushDone, ScmHypervisorConfig, SetScmFault, StartFlush
from pvnet.scm.profiles import PROFILES, ScmProfile

DRC, BASE, MEMORY = 0x90000001, 0x80000000, 0x4000


class Pair:
    """One partition with one device; its driver, and the platform that answers it."""

    def __init__(
        self, profile: ScmProfile, policy: ScmGuestPolicy, store: MetadataStore | None = None, *, is_far: bool = False
    ) -> None:
        device = ScmDeviceConfig("p", DRC, 8, BASE, 1 << 28, profile=profile, dirty_shutdowns=3)
        node = device_node(device)
        config = parse_node(
            {item.name: item.value for item in node.properties}, stats_address=0x2000, taken=((0, BASE),)
        )
        self.rig = Rig(policy, config)
        extension = ScmHypervisor(
            ScmHypervisorConfig((device,), profile=profile), {("p", DRC): store or MemoryMetadata(0x20000)}
        )
        self.platform = Platform(PlatformConfig((PartitionConfig("p", MEMORY),)), [extension])
        self.platform.feed(PartitionStarted("p", None if is_far else self.rig.memory), 0.0)
        self.flush_error = 0
        self.due: list[StartFlush] = []

    def __call__(self, opcode: int, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        result = None
        due, self.due = self.due, []
        for flush in due:
            self.platform.feed(FlushDone(flush.tag, self.flush_error), self.rig.now)
        todo = list(self.platform.feed(HcallRequest("p", 1, opcode, args), self.rig.now))
        while todo:
            output = todo.pop(0)
            match output:
                case HcallResult():
                    result = output.rc, output.outs
                case ReadMemory(tag, _, address, length):
                    done = MemoryDone(tag, 0, self.rig.memory.read(address, length))
                    todo += self.platform.feed(done, self.rig.now)
                case WriteMemory(tag, _, address, data):
                    self.rig.memory.write(address, data)
                    todo += self.platform.feed(MemoryDone(tag, 0), self.rig.now)
                case StartFlush():
                    self.due.append(output)
        assert result is not None, f"{opcode:#x} was not answered"
        return result

    def ready(self) -> int:
        self.rig.probe(self)
        assert self.rig.guest.state is ScmState.READY
        assert self.rig.guest.bound_address == BASE
        return self.rig.open()

    def do(self, handle: int, command: int, data: bytes = b"") -> tuple[int, bytes]:
        return self.rig.ioctl(self, handle, command, data)


@pytest.fixture(params=[f"{profile}-{policy}" for profile in sorted(PROFILES) for policy in sorted(GUEST_POLICIES)])
def pair(request: pytest.FixtureRequest) -> Pair:
    profile, policy = request.param.split("-")
    return Pair(PROFILES[profile], GUEST_POLICIES[policy])


def put(pair: Pair, handle: int, offset: int, data: bytes) -> int:
    return pair.do(handle, ScmCommand.SET_CONFIG_DATA, struct.pack("<II", offset, len(data)) + data)[0]


def get(pair: Pair, handle: int, offset: int, length: int) -> bytes:
    result, raw = pair.do(handle, ScmCommand.GET_CONFIG_DATA, struct.pack("<II", offset, length))
    assert result == 0
    return raw[12:]


def test_whole_life(pair: Pair) -> None:
    handle = pair.ready()
    area = labels.blank_area(0x20000)
    assert put(pair, handle, 0, area[:512]) == 0
    assert get(pair, handle, 0, 527) == area[:527]
    assert get(pair, handle, 196, 4) == b"\xff" * 4, "the top bit of a 4-byte read"
    assert pair.do(handle, ScmCommand.FLUSH) == (0, b"")
    result, raw = pair.do(handle, ScmCommand.CALL, pdsm.pdsm_request(1).encode("little"))
    health = pdsm.decode_health(pdsm.decode_package(raw, "little").payload, "little")
    assert (result, health.level, health.dirty_shutdown_count) == (0, 0, 3)
    pair.rig.remove(pair)
    assert pair.rig.guest.state is ScmState.ABSENT
    pair.ready()


def test_flush_that_the_medium_refuses(pair: Pair) -> None:
    handle = pair.ready()
    pair.flush_error = 5
    assert pair.do(handle, ScmCommand.FLUSH) == (-5, b"")
    pair.flush_error = 0
    assert pair.do(handle, ScmCommand.FLUSH) == (0, b"")


@pytest.mark.parametrize("policy", sorted(GUEST_POLICIES))
@pytest.mark.parametrize("is_far", [False, True])
def test_statistics_of_phyp(policy: str, is_far: bool) -> None:
    pair = Pair(PROFILES["phyp"], GUEST_POLICIES[policy], is_far=is_far)
    handle = pair.ready()
    assert pair.rig.guest.calls.stats_bytes == stats.ALL_BYTES
    length, text = pair.do(handle, ScmCommand.PERF_STATS)
    assert length == len(text)
    assert b"MemLife  = 0x0000000000000064\n" in text
    assert pair.do(handle, ScmCommand.PERF_COUNTER, struct.pack("<I", 4)) == (0, struct.pack("<Q", 100))
    result, raw = pair.do(handle, ScmCommand.CALL, pdsm.pdsm_request(1).encode("little"))
    health = pdsm.decode_health(pdsm.decode_package(raw, "little").payload, "little")
    assert (result, health.fuel_gauge) == (0, 100)


@pytest.mark.parametrize("policy", sorted(GUEST_POLICIES))
def test_kexec_leaves_the_blocks_bound_and_the_next_kernel_finds_them(policy: str) -> None:
    pair = Pair(PROFILES["phyp"], GUEST_POLICIES[policy])
    pair.ready()
    second = Rig(GUEST_POLICIES[policy], pair.rig.guest.config)
    pair.rig = second
    pair.ready()
    assert [opcode for opcode, _ in second.made[:3]] == [
        H.H_SCM_BIND_MEM,
        H.H_SCM_QUERY_BLOCK_MEM_BINDING,
        H.H_SCM_QUERY_BLOCK_MEM_BINDING,
    ]


@pytest.mark.parametrize("policy", sorted(GUEST_POLICIES))
def test_kernel_that_died_while_binding_leaves_a_part_and_the_next_one_begins_anew(policy: str) -> None:
    pair = Pair(PROFILES["phyp"], GUEST_POLICIES[policy])
    assert pair(H.H_SCM_BIND_MEM, (DRC, 0, 5, (1 << 64) - 1, 0))[0] == HcallRc.H_BUSY
    rc, outs = pair(H.H_SCM_BIND_MEM, (DRC, 0, 5, (1 << 64) - 1, 0x1001))
    assert (rc, outs[1:3]) == (0, (BASE, 5))
    pair.ready()
    made = [opcode for opcode, _ in pair.rig.made]
    assert made.count(H.H_SCM_UNBIND_ALL) == 2, "one long-busy round"
    assert made.count(H.H_SCM_QUERY_BLOCK_MEM_BINDING) == 2


def test_any_fault_of_any_call_is_survived(pair: Pair) -> None:
    faults: Iterator[tuple[int, int]] = ((opcode, rc) for opcode in H_SCM for rc in (-1, 1, 9900, -68, 18))
    for opcode, rc in faults:
        pair.platform.feed(SetScmFault("p", DRC, opcode, rc, (0, 0, 0), 1), pair.rig.now)
        pair.rig.probe(pair)
        pair.rig.feed(Remove())
        pair.rig.run(pair)
        assert pair.rig.guest.state is ScmState.ABSENT
        pair.platform.feed(SetScmFault("p", DRC, opcode, 0, (), 0), pair.rig.now)
    pair.ready()


H_SCM = (
    H.H_SCM_BIND_MEM,
    H.H_SCM_UNBIND_ALL,
    H.H_SCM_HEALTH,
    H.H_SCM_READ_METADATA,
    H.H_SCM_PERFORMANCE_STATS,
    H.H_SCM_QUERY_BLOCK_MEM_BINDING,
)


async def test_metadata_in_a_file(tmp_path: Path) -> None:
    """Storage below the hypervisor: its failures become the right errno, and health tells of them."""

    def open_storage() -> ScmStorage:
        paths = tmp_path / "blocks", tmp_path / "metadata"
        return ScmStorage(*paths, blocks_bytes=8 << 20, metadata_bytes=0x20000, make_error=StoreError)

    storage = open_storage()
    assert storage.metadata is not None
    pair = Pair(PROFILES["phyp"], GUEST_POLICIES["hardened"], storage.metadata)
    handle = pair.ready()
    assert put(pair, handle, 0, labels.blank_area(0x20000)[:512]) == 0
    assert await storage.flush() == 0
    storage.faults.add(StorageFault(StorageOperation.WRITE_METADATA, 28))
    assert put(pair, handle, 512, b"12345678") == -22
    pair.rig.now += 61
    length, text = pair.do(handle, ScmCommand.FLAGS)
    assert length > 0
    assert b"not_armed" in text
    assert pair.rig.guest.calls.bitmap & Health.UNHEALTHY
    await storage.close()
    again = open_storage()
    assert again.metadata is not None
    area = labels.decode_area(again.metadata.read(0, 0x20000))
    assert area.is_sound
    assert area.labels == ()
    await again.close()
