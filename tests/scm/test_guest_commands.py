"""What programs get from an SCM device: ndctl's commands, flags, statistics, flush, and their errors."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import pytest
from scm_guest_rig import CONFIG, DRC, H, PlainHypervisor, Rig

from pvnet.core.errors import LocalError, WireError
from pvnet.papr.device_io import DeviceDone, DevicePoll, DeviceRead, DeviceWrite, Remove
from pvnet.papr.hcall import HcallRc
from pvnet.scm import pdsm, stats
from pvnet.scm.calls import Health
from pvnet.scm.guest import ScmState
from pvnet.scm.guest_calls import chunks
from pvnet.scm.guest_interface import (
    GUEST_POLICIES,
    HARDENED_GUEST,
    LINUX_GUEST,
    ScmCommand,
    ScmGuestConfig,
    ScmGuestPolicy,
    parse_node,
)
from pvnet.scm.pdsm import HealthReport, Inject, Pdsm

NAMES = b"NAMESPACE_INDEX\0"
IDS = [statistic.value for statistic in stats.Statistic]
VALUES = {id_: number for number, id_ in enumerate(IDS, 50)}


class World(Rig):
    """A probed device, an open file, a hypervisor that answers."""

    def __init__(self, policy: ScmGuestPolicy = HARDENED_GUEST, *, statistics: bool = False, **changes) -> None:
        super().__init__(policy, **changes)
        self.hypervisor = PlainHypervisor(self.memory)
        self.hypervisor.area[: len(NAMES)] = NAMES
        self.hypervisor.values = dict(VALUES) if statistics else {}
        self.probe(self.hypervisor)
        self.handle = self.open()
        self.hypervisor.calls.clear()

    def do(self, command: int, data: bytes = b"") -> tuple[int, bytes]:
        return self.ioctl(self.hypervisor, self.handle, command, data)

    def pdsm(self, command: int, payload: bytes = b"") -> pdsm.Package:
        result, raw = self.do(ScmCommand.CALL, pdsm.pdsm_request(command, payload).encode("little"))
        package = pdsm.decode_package(raw, "little")
        assert package.status == result
        return package

    @property
    def calls(self) -> list[tuple[H, tuple[int, ...]]]:
        return self.hypervisor.calls


def two(offset: int, length: int) -> bytes:
    return struct.pack("<II", offset, length)


@pytest.fixture(params=sorted(GUEST_POLICIES))
def world(request: pytest.FixtureRequest) -> World:
    return World(GUEST_POLICIES[request.param])


def test_config_size(world: World) -> None:
    assert world.do(ScmCommand.GET_CONFIG_SIZE) == (0, struct.pack("<III", 0, 0x20000, 8))
    assert world.calls == []


def test_structures_of_a_big_endian_guest() -> None:
    world = World(byte_order="big")
    assert world.do(ScmCommand.GET_CONFIG_SIZE)[1] == struct.pack(">III", 0, 0x20000, 8)
    assert world.do(ScmCommand.GET_CONFIG_DATA, struct.pack(">II", 0, 3)) == (0, struct.pack(">III", 0, 3, 0) + b"NAM")


def test_read_of_15_bytes(world: World) -> None:
    """Golden: lengths 8, 4, 2, 1 at offsets 0, 8, 12, 14 and the text NAMESPACE_INDEX."""
    assert world.do(ScmCommand.GET_CONFIG_DATA, two(0, 15)) == (0, two(0, 15) + bytes(4) + b"NAMESPACE_INDEX")
    assert world.calls == [(H.H_SCM_READ_METADATA, (DRC, *chunk)) for chunk in ((0, 8), (8, 4), (12, 2), (14, 1))]


def test_chunks() -> None:
    assert list(chunks(3, 0)) == []
    assert list(chunks(0x1FFF1, 15)) == [(0x1FFF1, 8), (0x1FFF9, 4), (0x1FFFD, 2), (0x1FFFF, 1)]
    assert [size for _, size in chunks(0, 7 + 16)] == [8, 8, 4, 2, 1]


def test_written_bytes_come_back(world: World) -> None:
    data = bytes(range(1, 24))
    assert world.do(ScmCommand.SET_CONFIG_DATA, two(5, len(data)) + data + bytes(4)) == (0, b"")
    assert world.calls[0] == (H.H_SCM_WRITE_METADATA, (DRC, 5, 0x0102030405060708, 8))
    assert world.hypervisor.area[5:28] == data
    assert world.do(ScmCommand.GET_CONFIG_DATA, two(5, 23))[1][12:] == data


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (ScmCommand.GET_CONFIG_DATA, two(0x1FFF8, 16)),
        (ScmCommand.GET_CONFIG_DATA, two(0x20001, 0)),
        (ScmCommand.GET_CONFIG_DATA, b"short"),
        (ScmCommand.SET_CONFIG_DATA, two(0x1FFFC, 8) + bytes(8)),
        (ScmCommand.SET_CONFIG_DATA, two(0, 9) + bytes(8)),
        (ScmCommand.SET_CONFIG_DATA, b""),
        (ScmCommand.PERF_COUNTER + 99, b""),
        (7, b""),
    ],
)
def test_commands_that_are_refused_without_an_hcall(world: World, command: int, data: bytes) -> None:
    assert world.do(command, data)[0] == -22
    assert world.calls == []


def test_32_bit_wrap_of_an_access() -> None:
    """0xFFFFFFFF + 2 slips through Linux' check, and the hypervisor refuses; a robust driver refuses itself."""
    linux, robust = World(LINUX_GUEST), World(HARDENED_GUEST)
    for world in (linux, robust):
        world.hypervisor.fails[H.H_SCM_READ_METADATA] = HcallRc.H_P2
        assert world.do(ScmCommand.GET_CONFIG_DATA, two(0xFFFFFFFF, 2))[0] == -22
    assert linux.calls == [(H.H_SCM_READ_METADATA, (DRC, 0xFFFFFFFF, 2))]
    assert robust.calls == []


@pytest.mark.parametrize(
    ("rc", "errno"),
    [(HcallRc.H_PARAMETER, 19), *((rc, 22) for rc in (-55, -56, -57, -1, -2, 1, 9901, 18, 9999))],
)
def test_errno_of_metadata(world: World, rc: int, errno: int) -> None:
    """H_PARAMETER is -ENODEV, all else -EINVAL, busy too: it is not retried."""
    world.hypervisor.fails = {H.H_SCM_READ_METADATA: rc, H.H_SCM_WRITE_METADATA: rc}
    assert world.do(ScmCommand.GET_CONFIG_DATA, two(0, 16)) == (-errno, two(0, 16) + bytes(4))
    assert world.do(ScmCommand.SET_CONFIG_DATA, two(0, 16) + bytes(16)) == (-errno, b"")
    assert len(world.calls) == 2


def test_chunks_before_a_failing_one_are_delivered_and_stored(world: World) -> None:
    def third_fails(opcode: int, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return (-1, ()) if args[1] >= 16 else world.hypervisor(opcode, args)

    result, raw = world.ioctl(third_fails, world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 32))
    assert (result, raw[12:]) == (-22, NAMES)
    result, _ = world.ioctl(third_fails, world.handle, ScmCommand.SET_CONFIG_DATA, two(0, 32) + b"x" * 32)
    assert (result, world.hypervisor.area[:24]) == (-22, b"x" * 16 + bytes(8))


def test_bits_above_the_length_are_masked(world: World) -> None:
    """QEMU answers a 4-byte read sign-extended."""
    result = world.ioctl(lambda *_: (0, (0xFFFFFFFFAD5C04A2,)), world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 4))
    assert result == (0, two(0, 4) + bytes(4) + bytes.fromhex("ad5c04a2"))
    assert world.guest.counters["excess_bits"] == 1


# --- ND_CMD_CALL -----------------------------------------------------------------------------------------


def test_health_without_statistics(world: World) -> None:
    world.hypervisor.health = 0x4400000000000000
    package = world.pdsm(Pdsm.HEALTH)
    assert (package.status, package.fw_size) == (0, 192)
    health = pdsm.decode_health(package.payload, "little")
    assert health == HealthReport(bad_shutdown=True, level=3, dirty_shutdown_count=0)
    assert world.calls == [(H.H_SCM_HEALTH, (DRC,))]
    world.pdsm(Pdsm.HEALTH)
    assert len(world.calls) == 2, "never cached"


def test_health_with_fuel_gauge() -> None:
    world = World(statistics=True, persistence_failed_count=5)
    world.hypervisor.values[stats.Statistic.MEM_LIFE.value] = 98
    health = pdsm.decode_health(world.pdsm(Pdsm.HEALTH).payload, "little")
    assert (health.fuel_gauge, health.dirty_shutdown_count) == (98, 5)
    assert world.calls == [(H.H_SCM_HEALTH, (DRC,)), (H.H_SCM_PERFORMANCE_STATS, (DRC, 0x1000, 0x20))]
    world.hypervisor.fails[H.H_SCM_PERFORMANCE_STATS] = HcallRc.H_AUTHORITY
    assert pdsm.decode_health(world.pdsm(Pdsm.HEALTH).payload, "little").fuel_gauge is None


@pytest.mark.parametrize(("policy", "gauge"), [(LINUX_GUEST, 0x2345), (HARDENED_GUEST, None)])
def test_strange_fuel_gauge(policy: ScmGuestPolicy, gauge: int | None) -> None:
    world = World(policy, statistics=True)
    world.hypervisor.values[stats.Statistic.MEM_LIFE.value] = 0x12345
    assert pdsm.decode_health(world.pdsm(Pdsm.HEALTH).payload, "little").fuel_gauge == gauge


def test_failing_health(world: World) -> None:
    world.hypervisor.fails[H.H_SCM_HEALTH] = HcallRc.H_HARDWARE
    package = world.pdsm(Pdsm.HEALTH)
    assert (package.status, package.fw_size) == (-6, 8)
    world.now += 61
    assert world.do(ScmCommand.FLAGS) == (-6, b"")
    world.hypervisor.fails[H.H_SCM_HEALTH] = HcallRc.H_FUNCTION
    assert world.pdsm(Pdsm.HEALTH).status == 0
    assert world.do(ScmCommand.FLAGS) == (0, b"")


def test_only_valid_bits_count(world: World) -> None:
    """Golden vector P20: only bit 9 is valid."""
    world.start(world.handle, ScmCommand.CALL, pdsm.pdsm_request(Pdsm.HEALTH).encode("little"))
    world.answer(0, (1 << 64) - 1, 0x0040000000000000)
    health = pdsm.decode_health(pdsm.decode_package(world.result()[1], "little").payload, "little")
    assert health == HealthReport(scrubbed=True, locked=True, dirty_shutdown_count=0)


def test_inject_adds_bits_and_forgets_cached_health(world: World) -> None:
    package = world.pdsm(Pdsm.SMART_INJECT, Inject(0xF1, fatal=True).encode("little"))
    assert pdsm.decode_inject(package.payload, "little") == Inject(1, fatal=True)
    assert world.calls == []
    assert world.do(ScmCommand.HEALTH_BITMAP_INJECT) == (18, b"0x400000000000000\n")
    assert world.do(ScmCommand.FLAGS) == (14, b"smart_notify \n")
    assert len(world.calls) == 1
    world.pdsm(Pdsm.SMART_INJECT, Inject(3).encode("little"))
    world.hypervisor.health = Health.ENCRYPTED
    assert world.do(ScmCommand.FLAGS) == (11, b"encrypted \n")
    assert world.do(ScmCommand.HEALTH_BITMAP_INJECT) == (4, b"0x0\n")


def test_health_is_cached_for_60_seconds(world: World) -> None:
    asked = world.guest.calls.health_at
    assert asked is not None
    world.now = asked + 60
    world.do(ScmCommand.FLAGS)
    assert world.calls == []
    world.now = asked + 60.5
    world.do(ScmCommand.FLAGS)
    world.do(ScmCommand.FLAGS)
    assert world.calls == [(H.H_SCM_HEALTH, (DRC,))]


GOOD = pdsm.pdsm_request(Pdsm.HEALTH)


@pytest.mark.parametrize(
    ("raw", "is_echoed"),
    [
        (bytes(71), False),
        (replace(GOOD, family=4).encode("little"), False),
        (replace(GOOD, command=0).encode("little"), False),
        (replace(GOOD, command=3).encode("little"), False),
        (replace(GOOD, command=1 << 63).encode("little"), False),
        (replace(GOOD, size_out=7).encode("little"), False),
        (replace(GOOD, size_out=191).encode("little"), True),
        (replace(GOOD, pdsm_reserved=b"\0\0\1\0").encode("little"), True),
        (replace(GOOD, command=2, size_in=8).encode("little"), True),
        (GOOD.encode("little")[:255], True),
    ],
)
def test_packages_that_are_refused(world: World, raw: bytes, is_echoed: bool) -> None:
    assert world.do(ScmCommand.CALL, raw) == (-22, raw if is_echoed else b"")
    assert world.calls == []


# --- statistics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [LINUX_GUEST, HARDENED_GUEST])
def test_statistics(policy: ScmGuestPolicy) -> None:
    world = World(policy, statistics=True)
    length, text = world.do(ScmCommand.PERF_STATS)
    assert length == len(text)
    assert text.decode().splitlines()[:3] == [
        "CtlResCt = 0x0000000000000032",
        "CtlResTm = 0x0000000000000033",
        "PonSecs  = 0x0000000000000034",
    ]
    assert world.calls == [(H.H_SCM_PERFORMANCE_STATS, (DRC, 0x1000, 0x110))]
    for number in (1, 16):
        result, raw = world.do(ScmCommand.PERF_COUNTER, struct.pack("<I", number))
        assert (result, raw) == (0, struct.pack("<Q", 49 + number))
    for data in (struct.pack("<I", 0), struct.pack("<I", 17), b""):
        assert world.do(ScmCommand.PERF_COUNTER, data) == (-22, b"")


@pytest.mark.parametrize(
    ("rc", "errno"),
    [(HcallRc.H_PARTIAL, 2), (HcallRc.H_AUTHORITY, 1), (HcallRc.H_UNSUPPORTED, 95), (-4, 5), (-3, 5), (-2, 5), (77, 5)],
)
def test_errno_of_statistics(rc: int, errno: int) -> None:
    world = World(statistics=True)
    world.hypervisor.fails[H.H_SCM_PERFORMANCE_STATS] = rc
    assert world.do(ScmCommand.PERF_STATS) == (-errno, b"")
    assert world.do(ScmCommand.PERF_COUNTER, struct.pack("<I", 4)) == (-errno, b"")


def test_device_without_statistics(world: World) -> None:
    assert world.do(ScmCommand.PERF_STATS) == (-2, b"")
    assert world.do(ScmCommand.PERF_COUNTER, struct.pack("<I", 4)) == (-19, b"")
    assert world.calls == []


@pytest.mark.parametrize(
    ("size", "linux", "robust"),
    [
        (0, 0, 0),
        (1, 1, 0),
        (15, 15, 0),
        (16, 16, 0),
        (33, 33, 0),
        (0x110, 0x110, 0x110),
        (4096, 4096, 4096),
        (4112, 0, 0),
        (1 << 21, 0, 0),
        ((1 << 64) - 16, 0, 0),
    ],
)
def test_size_of_statistics(size: int, linux: int, robust: int) -> None:
    for policy, expected in ((LINUX_GUEST, linux), (HARDENED_GUEST, robust)):
        rig = Rig(policy)
        plain = PlainHypervisor()
        rig.probe(lambda op, args: (0, (size,)) if op == H.H_SCM_PERFORMANCE_STATS else plain(op, args))  # noqa: B023
        assert rig.guest.state is ScmState.READY
        assert rig.guest.calls.stats_bytes == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"XCMSTATS" + raw[8:],
        lambda raw: raw[:8] + b"\0\0\0\2" + raw[12:],
        lambda raw: raw[:12] + b"\xff\xff\xff\xff" + raw[16:],
        lambda raw: raw[:12] + b"\0\0\0\0" + raw[16:],
        lambda raw: raw[:16] + b"XXXXXXXX" + raw[24:],
    ],
)
def test_replies_of_statistics_that_are_not_what_was_asked_for(damage) -> None:
    for policy, expected in ((LINUX_GUEST, 0), (HARDENED_GUEST, -5)):
        world = World(policy, statistics=True)
        world.start(world.handle, ScmCommand.PERF_COUNTER, struct.pack("<I", 1))
        call = world.open_calls[0]
        rc, _ = world.hypervisor(call.opcode, call.args)
        world.memory.write(0x1000, damage(world.memory.read(0x1000, 0x20)))
        world.answer(rc)
        assert world.result()[0] == expected


# --- flush -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [LINUX_GUEST, HARDENED_GUEST])
def test_flush_polls_with_its_token(policy: ScmGuestPolicy) -> None:
    world = World(policy, is_hcall_flush_required=True)
    world.start(world.handle, ScmCommand.FLUSH)
    world.answer(HcallRc.H_LONG_BUSY_ORDER_10_MSEC, 7)
    assert world.guest.deadline() == world.now + 0.01
    world.sleep()
    world.answer(HcallRc.H_BUSY, 8)
    world.sleep()
    world.answer(0, DRC)
    assert world.result() == (0, b"")
    assert world.made[-3:] == [(H.H_SCM_FLUSH, (DRC, token)) for token in (0, 7, 8)]


def test_failing_flush(world: World) -> None:
    world = World(world.guest.policy, is_hcall_flush_required=True)
    for rc in (-1, -55, -4, -67, 18, 9999):
        world.start(world.handle, ScmCommand.FLUSH)
        world.answer(rc)
        assert world.result() == (-5, b"")


def test_flush_that_is_busy_for_ever_times_out() -> None:
    world = World(is_hcall_flush_required=True)
    start = world.now
    assert world.ioctl(lambda *_: (9903, (1,)), world.handle, ScmCommand.FLUSH) == (-110, b"")
    assert world.now - start <= 61


def test_flushes_run_side_by_side_and_beside_commands() -> None:
    world = World(is_hcall_flush_required=True)
    first = world.start(world.handle, ScmCommand.FLUSH)
    slow = world.start(world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 8))
    second = world.start(world.handle, ScmCommand.FLUSH)
    assert [call.opcode for call in world.open_calls] == [H.H_SCM_FLUSH, H.H_SCM_READ_METADATA, H.H_SCM_FLUSH]
    world.open_calls.reverse()
    for _ in range(3):
        world.answer(0, 5)
    assert [(done.request, done.result) for done in world.take(DeviceDone)] == [(second, 0), (slow, 0), (first, 0)]


def test_device_that_needs_no_flush(world: World) -> None:
    assert world.do(ScmCommand.FLUSH) == (0, b"")
    assert world.calls == []


# --- files -----------------------------------------------------------------------------------------------


def test_commands_wait_for_each_other_and_the_queue_is_bounded() -> None:
    world = World(replace(HARDENED_GUEST, max_queued=2, max_flushes=1), is_hcall_flush_required=True)
    requests = [world.start(world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 8)) for _ in range(4)]
    assert len(world.open_calls) == 1
    assert world.result()[0] == -16
    world.interrupt(requests[1])
    assert world.result()[0] == -4
    world.interrupt(requests[0])
    world.interrupt(999)
    world.run(world.hypervisor)
    assert [(done.request, done.result) for done in world.take(DeviceDone)] == [(requests[0], 0), (requests[2], 0)]
    world.start(world.handle, ScmCommand.FLUSH)
    world.start(world.handle, ScmCommand.FLUSH)
    assert world.result()[0] == -16


def test_removal_refuses_what_waits_and_lets_finish_what_runs() -> None:
    world = World(is_hcall_flush_required=True)
    running = world.start(world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 16))
    waiting = world.start(world.handle, ScmCommand.GET_CONFIG_DATA, two(0, 16))
    flush = world.start(world.handle, ScmCommand.FLUSH)
    world.feed(Remove())
    assert world.guest.state is ScmState.ENDING
    late = world.start(world.handle, ScmCommand.FLUSH)
    world.run(world.hypervisor)
    assert world.guest.state is ScmState.ABSENT
    results = {done.request: done.result for done in world.take(DeviceDone)}
    assert results == {waiting: -19, late: -19, running: 0, flush: 0}
    assert world.calls[-1][0] == H.H_SCM_UNBIND_ALL
    assert world.open() == -19
    world.probe(world.hypervisor)
    assert world.do(ScmCommand.FLAGS) == (-19, b""), "a file of the device that was removed"
    assert world.close(world.handle) == 0
    assert world.close(world.handle) == -9
    assert world.open() > 0


def test_other_calls_on_the_file(world: World) -> None:
    world.feed(DeviceRead(100, world.handle, 16))
    assert world.result()[0] == -22
    world.feed(DeviceWrite(101, world.handle, b"x"))
    assert world.result()[0] == -22
    world.feed(DevicePoll(102, world.handle))
    assert world.result()[0] == 5
    world.feed(DevicePoll(103, 4711))
    assert world.result()[0] == -9
    handles = [world.open() for _ in range(64)]
    assert handles[-1] == -24
    assert world.do(ScmCommand.DIRTY_SHUTDOWN) == (2, b"0\n")


# --- the node --------------------------------------------------------------------------------------------

NODE = {
    "ibm,my-drc-index": (0x44100002).to_bytes(4, "big"),
    "ibm,block-size": (1 << 24).to_bytes(8, "big"),
    "ibm,number-of-blocks": (8).to_bytes(8, "big"),
    "ibm,unit-guid": b"72511b67-0b3b-42fd-9f84-0a1b2c3d4e5f\0",
    "ibm,metadata-size": (0x20000).to_bytes(4, "big"),
    "ibm,cache-flush-required": b"",
    "ibm,hcall-flush-required": b"",
    "ibm,persistence-failed-count": (9).to_bytes(8, "big"),
}


def test_node() -> None:
    config = parse_node(NODE, stats_address=0x3000, taken=((0, 1 << 30),))
    assert config == ScmGuestConfig(
        0x44100002,
        8,
        1 << 24,
        0x20000,
        UUID("72511b67-0b3b-42fd-9f84-0a1b2c3d4e5f"),
        True,
        True,
        9,
        0x3000,
        taken=((0, 1 << 30),),
    )
    assert config.size_bytes == 128 << 20
    assert config.cookies[0] == 0xFD423B0B671B5172
    assert config.cookies[1] == int.from_bytes(bytes.fromhex("9f840a1b2c3d4e5f"), "little")
    least = parse_node({name: NODE[name] for name in list(NODE)[:4]})
    assert (least.metadata_size, least.is_cache_flush_required, least.is_hcall_flush_required) == (0, False, False)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ibm,my-drc-index", None, "missing"),
        ("ibm,block-size", None, "missing"),
        ("ibm,number-of-blocks", None, "missing"),
        ("ibm,unit-guid", None, "missing"),
        ("ibm,my-drc-index", bytes(8), "4 bytes"),
        ("ibm,block-size", bytes(8), "power of two"),
        ("ibm,block-size", (3 << 20).to_bytes(8, "big"), "power of two"),
        ("ibm,block-size", (1 << 63).to_bytes(8, "big"), "beyond 2\\^64"),
        ("ibm,number-of-blocks", bytes(8), "at least 1"),
        ("ibm,unit-guid", b"not a guid", "UUID"),
        ("ibm,unit-guid", b"\xff\xff", "UUID"),
        ("ibm,metadata-size", b"\x80\0\0\0", "2 GiB"),
        ("ibm,metadata-size", b"\0", "4 bytes"),
    ],
)
def test_nodes_that_no_driver_binds(name: str, value: bytes | None, why: str) -> None:
    node = {key: raw for key, raw in (NODE | {name: value}).items() if raw is not None}
    with pytest.raises(WireError, match=why):
        parse_node(node)


def test_configuration_is_checked() -> None:
    for change in ({"blocks": 0}, {"drc": 1 << 32}, {"stats_bytes": 271}):
        with pytest.raises(LocalError):
            replace(CONFIG, **change)  # type: ignore[arg-type]
