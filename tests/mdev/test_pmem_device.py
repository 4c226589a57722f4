"""Persistent memory: registers, blocks, flush, configuration space, parent, the partition's driver."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from guest_runner import GuestRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from simple_device_rig import PlainServices, PlainStore

from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import RegionFlag
from pvnet.mdev.pmem import PMEM_DRIVER, PmemDevice, PmemParent
from pvnet.mdev.simple_guest import FRAMEBUFFER_GUEST, PMEM_GUEST
from pvnet.papr.errno import EINVAL, EIO, ENODEV, ENOENT, ENOSPC, EPERM, EROFS

RW = RegionFlag.READ | RegionFlag.WRITE
SIZE = 10_000


def parent_of(store: PlainStore) -> PmemParent:
    return PMEM_DRIVER.create_parent("disk", {"scm": "lpar1:0"}, PlainServices(lpar1_0=store))


def device_of(store: PlainStore) -> PmemDevice:
    return parent_of(store).create("whole", "one", {})


def read(device: PmemDevice, region: int, offset: int, length: int) -> bytes:
    data = device.read(region, offset, length)
    assert isinstance(data, bytes)
    assert len(data) == length
    return data


def errno_of(call: Callable[[], object]) -> int:
    """What the call fails with; 0 if it does not."""
    try:
        call()
    except MdevError as error:
        return error.errno
    return 0


def registers(device: PmemDevice) -> tuple[int, ...]:
    return struct.unpack("<IIQIII", read(device, 0, 0, 28))


# --- the device -------------------------------------------------------------------------------------------------------


def test_configuration_space() -> None:
    """Golden: ids, class, a BAR of 32 bits, one of 64, subsystem; nothing else."""
    golden = bytearray(256)
    golden[0x00:0x0C] = bytes.fromhex("7670 0100 0000 0000 00 00 80 05")
    golden[0x18] = 0x0C
    golden[0x2C:0x30] = bytes.fromhex("7670 0100")
    device = device_of(PlainStore(SIZE))
    assert read(device, 7, 0, 256) == golden
    device.write(7, 0x04, b"\x02\x00")
    device.write(7, 0x10, struct.pack("<IIQ", 0xFEBF_1FFF, 0xFFFF_FFFF, 0x38_0000_5678))
    assert read(device, 7, 0x10, 16) == struct.pack("<IIQ", 0xFEBF_1000, 0, 0x38_0000_400C)
    device.reset()
    assert read(device, 7, 0, 256) == golden


@pytest.mark.parametrize(
    ("size", "bar"),
    [(1, 4096), (4096, 4096), (4097, 8192), (1 << 30, 1 << 30), ((1 << 30) + 1, 1 << 31), (3 << 32, 1 << 34)],
)
def test_second_bar_is_sized_with_64_bits(size: int, bar: int) -> None:
    store = PlainStore(0)
    store.size = size
    device = device_of(store)
    device.write(7, 0x18, b"\xff" * 8)
    assert struct.unpack("<Q", read(device, 7, 0x18, 8)) == ((1 << 64) - bar | 0xC,)
    assert device.regions[2].info.size == bar


@pytest.mark.parametrize(("readonly", "flags"), [(False, RW), (True, RegionFlag.READ)])
def test_regions(readonly: bool, flags: int) -> None:
    device = device_of(PlainStore(SIZE, readonly=readonly))
    sizes = {0: (4096, RW), 2: (16384, flags), 7: (256, RW)}
    shown = [(region.info.size, region.info.flags) for region in device.regions]
    assert shown == [sizes.get(index, (0, 0)) for index in range(9)]
    assert all(region.memory is None for region in device.regions)
    assert list(device.irqs) == [IrqInfo()] * 5
    assert (device.flags, device.migration) == (3, None)


@pytest.mark.parametrize("readonly", [False, True])
def test_registers(readonly: bool) -> None:
    device = device_of(PlainStore(SIZE, readonly=readonly))
    page = read(device, 0, 0, 4096)
    assert page[:28].hex(" ", 4) == f"504d454d 01000000 10270000 00000000 0{int(readonly)}000000 00000000 00000000"
    assert page[28:] == bytes(4068)
    for offset in range(32):
        for length in (1, 2, 4, 8):
            assert read(device, 0, offset, length) == page[offset : offset + length]


def test_blocks_end_before_the_bar() -> None:
    store = PlainStore(SIZE)
    device = device_of(store)
    device.write(2, SIZE - 4, b"last")
    assert read(device, 2, SIZE - 4, 8) == b"last\0\0\0\0"
    assert read(device, 2, SIZE, 4) == bytes(4)
    assert read(device, 2, 16383, 1) == b"\0"
    before = bytes(store.data)
    for offset, data in ((SIZE - 3, b"over"), (SIZE, b"x"), (16383, b"x")):
        with pytest.raises(MdevError) as caught:
            device.write(2, offset, data)
        assert caught.value.errno == EINVAL
    assert store.data == before


def test_flush_makes_durable_and_says_how_it_went() -> None:
    store = PlainStore(SIZE)
    device = device_of(store)
    device.write(2, 0, b"kept")
    assert store.durable == bytes(SIZE)
    device.write(0, 0x14, b"\x01\0\0\0")
    assert store.durable[:4] == b"kept"
    assert registers(device)[4:] == (1, 0)
    device.write(2, 0, b"lost")
    store.fail = EIO
    device.write(0, 0x14, b"\x01\0\0\0")
    assert registers(device)[4:] == (2, EIO)
    assert store.durable[:4] == b"kept"
    store.fail = 0
    device.write(0, 0x14, b"\x03\0\0\0")
    assert registers(device)[4:] == (3, 0)
    assert store.durable[:4] == b"lost"
    device.reset()
    assert registers(device)[4:] == (0, 0)
    assert read(device, 2, 0, 4) == b"lost"


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0x14, b"\0\0\0\0"),
        (0x14, b"\x02\0\0\0"),
        (0x14, b"\x01"),
        (0x14, b"\x01\0\0\0\0\0\0\0"),
        (0x13, b"\x01\0\0\0"),
        (0x10, b"\xff" * 4),
        (0x18, b"\xff" * 4),
        (0x00, b"\xff" * 28),
        (0xFFC, b"\x01\0\0\0"),
    ],
)
def test_other_register_writes_are_ignored(offset: int, data: bytes) -> None:
    store = PlainStore(SIZE)
    device = device_of(store)
    device.write(2, 0, b"x")
    before = read(device, 0, 0, 4096)
    assert device.write(0, offset, data) is None
    assert read(device, 0, 0, 4096) == before
    assert store.durable == bytes(SIZE)


def test_failing_store_fails_the_access_only() -> None:
    store = PlainStore(SIZE)
    device = device_of(store)
    store.fail = EIO
    assert errno_of(lambda: device.read(2, 0, 4)) == EIO
    assert errno_of(lambda: device.write(2, 0, b"x")) == EIO
    assert read(device, 0, 0, 4) == b"PMEM"
    assert read(device, 2, SIZE, 4) == bytes(4)
    store.fail = 0
    assert read(device, 2, 0, 4) == bytes(4)


def test_attributes_are_read_only() -> None:
    device = device_of(PlainStore(SIZE, readonly=True))
    device.write(0, 0x14, b"\x01\0\0\0")
    assert device.attributes() == {"flushes": "1", "readonly": "yes", "size": "10000"}
    assert device_of(PlainStore(SIZE)).attributes()["readonly"] == "no"
    assert device.read_only == device.attributes().keys()
    for key, errno in (("size", EPERM), ("scm", ENOENT)):
        with pytest.raises(MdevError) as caught:
            device.set(key, "1")
        assert caught.value.errno == errno


# --- parent -----------------------------------------------------------------------------------------------------------


def test_one_device_at_a_time() -> None:
    store = PlainStore(SIZE)
    parent = parent_of(store)
    assert [(kind.name, kind.description) for kind in parent.types] == [("whole", "10000 bytes of SCM lpar1:0")]
    assert parent.attributes() == {"scm": "lpar1:0", "size": "10000"}
    assert (parent.available("whole"), parent.available("half")) == (1, 0)
    device = parent.create("whole", "one", {})
    device.write(2, 0, b"stays")
    assert parent.available("whole") == 0
    with pytest.raises(MdevError) as caught:
        parent.create("whole", "two", {})
    assert caught.value.errno == ENOSPC
    device.remove()
    again = parent.create("whole", "two", {})
    device.remove()
    assert parent.available("whole") == 0
    assert read(again, 2, 0, 5) == b"stays"
    again.remove()
    assert not store.closed
    parent.close()
    assert store.closed


@pytest.mark.parametrize(("kind", "attributes"), [("half", {}), ("whole", {"size": "5"})])
def test_create_refuses(kind: str, attributes: dict[str, str]) -> None:
    parent = parent_of(PlainStore(SIZE))
    with pytest.raises(MdevError) as caught:
        parent.create(kind, "one", attributes)
    assert caught.value.errno == EINVAL
    assert parent.available("whole") == 1


@pytest.mark.parametrize(
    ("attributes", "errno"),
    [({}, EINVAL), ({"scm": "a:0", "size": "1"}, EINVAL), ({"SCM": "a:0"}, EINVAL), ({"scm": "a:1"}, ENODEV)],
)
def test_parent_refuses(attributes: dict[str, str], errno: int) -> None:
    assert (PMEM_DRIVER.name, PMEM_DRIVER.device_api, PMEM_DRIVER.standalone) == ("pmem", "vfio-pci", False)
    with pytest.raises(MdevError) as caught:
        PMEM_DRIVER.create_parent("disk", attributes, PlainServices(a_0=PlainStore(SIZE)))
    assert caught.value.errno == errno


# --- the partition's driver -------------------------------------------------------------------------------------------


def test_guest_reads_writes_flushes() -> None:
    store = PlainStore(200_000)
    runner = GuestRunner(device_of(store), PMEM_GUEST)
    assert (runner.driver.files, runner.driver.shown()) == ((), {})
    runner.probe()
    assert not FRAMEBUFFER_GUEST.match(runner.context)
    file = runner.file("pmem")
    assert file.size == 200_000
    data = bytes(range(250)) * 800
    assert runner.run(file.write(0, data + b"more")) == 200_000
    assert runner.run(file.read(0, 1 << 40)) == data
    assert store.data == data
    assert store.durable == bytes(200_000)
    runner.run(file.flush())
    assert store.durable == data
    with pytest.raises(MdevError) as caught:
        runner.run(file.write(200_000, b"x"))
    assert caught.value.errno == ENOSPC
    store.fail = EIO
    with pytest.raises(MdevError, match="flush") as caught:
        runner.run(file.flush())
    assert caught.value.errno == EIO
    store.fail = 0
    assert list(runner.driver.irq(0)) == []
    assert runner.driver.shown() == {"size": 200_000, "reads": 1, "writes": 1, "flushes": 2}
    assert runner.run(file.write(5, b"unplugged")) == 9
    runner.remove()
    assert store.durable[5:14] == b"unplugged"
    assert read(runner.device, 7, 4, 2) == b"\0\0"  # type: ignore[arg-type]


def test_guest_of_a_read_only_device() -> None:
    runner = GuestRunner(device_of(PlainStore(SIZE, readonly=True)), PMEM_GUEST)
    runner.probe()
    with pytest.raises(MdevError) as caught:
        runner.run(runner.file("pmem").write(0, b"x"))
    assert caught.value.errno == EROFS
    assert runner.run(runner.file("pmem").read(0, 2)) == b"\0\0"
    runner.remove()


@pytest.mark.parametrize(
    "head", [(0, 1, SIZE), (0x4D454D50, 2, SIZE), (0x4D454D50, 1, 0), (0x4D454D50, 1, 16385), (0x4D454D50, 1, 1 << 63)]
)
def test_guest_refuses_a_device_that_cannot_be(head: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of(PlainStore(SIZE))
    monkeypatch.setattr(device, "_registers", lambda: struct.pack("<IIQIII", *head, 0, 0, 0))
    runner = GuestRunner(device, PMEM_GUEST)
    with pytest.raises(MdevError) as caught:
        runner.probe()
    assert caught.value.errno == ENODEV
    runner.remove()


def test_guest_matches_nothing_but_its_device() -> None:
    runner = GuestRunner(device_of(PlainStore(SIZE)), PMEM_GUEST)
    context = runner.context
    for config in (b"", b"\x76\x70\x02\x00" + bytes(60)):
        assert not PMEM_GUEST.match(replace(context, config=config))
    assert not PMEM_GUEST.match(replace(context, device=type(context.device)(0x10, 9, 5)))
    few = PMEM_GUEST.create(replace(context, regions=context.regions[:2]))
    runner.driver = few
    with pytest.raises(MdevError) as caught:
        runner.probe()
    assert caught.value.errno == ENODEV


class Blocks(RuleBasedStateMachine):
    """Stores, flushes, failures and resets against a bytearray."""

    @initialize(size=st.integers(1, 9000))
    def plug(self, size: int) -> None:
        self.store = PlainStore(size)
        self.device = device_of(self.store)
        self.model = bytearray(size)
        self.durable = bytes(size)
        self.flushes = 0

    @rule(at=st.floats(0, 1), data=st.binary(min_size=1, max_size=200))
    def write(self, at: float, data: bytes) -> None:
        offset = int(at * (self.device.regions[2].info.size - len(data)))
        fits = offset + len(data) <= len(self.model)
        expected = self.store.fail if fits else EINVAL
        assert errno_of(lambda: self.device.write(2, offset, data)) == expected
        if not expected:
            self.model[offset : offset + len(data)] = data

    @rule(at=st.floats(0, 1), length=st.integers(1, 300))
    def read(self, at: float, length: int) -> None:
        offset = int(at * (self.device.regions[2].info.size - length))
        if self.store.fail and offset < len(self.model):
            assert errno_of(lambda: self.device.read(2, offset, length)) == self.store.fail
        else:
            expected = bytes(self.model[offset : offset + length]).ljust(length, b"\0")
            assert read(self.device, 2, offset, length) == expected

    @rule()
    def flush(self) -> None:
        self.device.write(0, 0x14, b"\1\0\0\0")
        self.flushes += 1
        assert registers(self.device)[5] == self.store.fail
        if not self.store.fail:
            self.durable = bytes(self.model)

    @rule(errno=st.sampled_from([0, 0, 0, EIO, ENOSPC]))
    def break_(self, errno: int) -> None:
        self.store.fail = errno

    @rule()
    def reset(self) -> None:
        self.device.reset()
        self.flushes = 0

    @invariant()
    def blocks_are_the_models(self) -> None:
        if hasattr(self, "model"):
            assert self.store.data == self.model
            assert self.store.durable == self.durable
            assert registers(self.device)[2:5] == (len(self.model), 0, self.flushes)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 4095), st.integers(1, 4096))
def test_registers_of_any_width(offset: int, length: int) -> None:
    device = device_of(PlainStore(SIZE))
    length = min(length, 4096 - offset)
    assert read(device, 0, offset, length) == read(device, 0, 0, 4096)[offset : offset + length]
