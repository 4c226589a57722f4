"""The display: what it says of itself, its memory, its reset, its plane, its pool."""

from __future__ import annotations

import struct

import pytest
from guest_runner import GuestRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_device_rig import PlainServices

from pvnet.mdev.errors import MdevError
from pvnet.mdev.framebuffer import MDPY_DRIVER, Framebuffer, FramebufferParent, memory_bytes
from pvnet.mdev.gfx_plane import GfxPlane, answer_gfx_plane, decode_gfx_plane
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import RegionFlag
from pvnet.mdev.screenshot import XR24, rgb_of_xr24
from pvnet.mdev.simple_guest import CHUNK_BYTES, FRAMEBUFFER_GUEST, PMEM_GUEST
from pvnet.papr.errno import EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC, EPERM

SIZES = {
    "vga": (640, 480, 0x20_0000),
    "xga": (1024, 768, 0x40_0000),
    "hd": (1920, 1080, 0x80_0000),
}
RW = RegionFlag.READ | RegionFlag.WRITE


def make(kind: str = "vga") -> Framebuffer:
    return MDPY_DRIVER.create_parent("mdpy", {}, PlainServices()).create(kind, "one", {})


def small(width: int = 40, height: int = 30) -> Framebuffer:
    services = PlainServices()
    return Framebuffer(width, height, "small", services, FramebufferParent(services))


def config(device: Framebuffer, offset: int = 0, length: int = 256) -> bytes:
    data = device.read(7, offset, length)
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize("kind", SIZES)
def test_configuration_space(kind: str) -> None:
    """Golden: ids, status, class, BAR, subsystem, capability; the rest is zero."""
    width, height, _ = SIZES[kind]
    golden = bytearray(256)
    golden[0x00:0x0C] = bytes.fromhex("361b 0f00 0000 1000 00 00 80 03")
    golden[0x10] = 0x08
    golden[0x2C:0x30] = bytes.fromhex("f41a 0011")
    golden[0x34] = 0x40
    golden[0x40:0x50] = bytes.fromhex("09001000") + b"XR24" + struct.pack("<II", width, height)
    assert config(make(kind)) == golden


@pytest.mark.parametrize("kind", SIZES)
def test_regions(kind: str) -> None:
    device = make(kind)
    size = SIZES[kind][2]
    assert len(device.regions) == 17
    for index, region in enumerate(device.regions):
        if index in {0, 16}:
            assert (region.info.size, region.info.flags) == (size, RW | RegionFlag.MMAP)
            assert region.memory is device.memory
            assert region.memory.size == size
        else:
            assert (region.info.size, region.info.flags) == ((256, RW) if index == 7 else (0, 0))
            assert region.memory is None
    assert list(device.irqs) == [IrqInfo()] * 5
    assert device.flags == 3


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1, 1, 4096), (32, 32, 4096), (33, 32, 8192), (1024, 1024, 1 << 22)]
)
def test_memory_is_the_power_of_two_that_holds_the_picture(width: int, height: int, size: int) -> None:
    assert memory_bytes(width, height) == size


def test_bar_can_be_sized_and_placed_and_is_lost_on_reset() -> None:
    device = make("xga")
    device.write(7, 0x10, b"\xff" * 4)
    assert config(device, 0x10, 4) == struct.pack("<I", 0xFFC0_0008)
    device.write(7, 0x10, struct.pack("<I", 0xFE12_3456))
    assert config(device, 0x10, 4) == struct.pack("<I", 0xFE00_0008)
    device.write(7, 0x00, b"\xff" * 4)
    device.reset()
    assert config(device) == config(make("xga"))


def test_other_regions_are_not_the_devices_business() -> None:
    device = make()
    for call in (lambda: device.read(0, 0, 4), lambda: device.write(16, 0, b"x")):
        with pytest.raises(MdevError) as caught:
            call()
        assert caught.value.errno == EINVAL


@pytest.mark.parametrize("kind", SIZES)
def test_gradient_after_power_on_and_after_reset(kind: str) -> None:
    """Grey: black above, white below, never darker than the row above; behind the picture zeros."""
    width, height, size = SIZES[kind]
    device = make(kind)
    first = bytes(device.memory.view)
    rgb = rgb_of_xr24(first, width, height)
    rows = [rgb[start : start + 3 * width] for start in range(0, len(rgb), 3 * width)]
    assert all(row == row[:1] * len(row) for row in rows)
    levels = [row[0] for row in rows]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1], len(set(levels))) == (0, 255, 256)
    assert first[width * height * 4 :] == bytes(size - width * height * 4)
    device.memory.view[:] = b"\x5a" * size
    device.reset()
    assert bytes(device.memory.view) == first


def test_picture_of_one_row_can_be_painted() -> None:
    assert bytes(small(4, 1).memory.view[:16]) == bytes(16)


# --- graphics plane ---------------------------------------------------------------------------------------------------


def test_plane_query() -> None:
    """Golden answer of the vga type; one without padding gets one without padding."""
    request = struct.pack("<III", 64, 4, 1) + b"\xee" * 52
    golden = (
        "40000000 04000000 01000000 58523234 00000000 00000000 80020000 e0010000 000a0000 00c01200"
        "00000000 00000000 00000000 00000000 10000000 00000000"
    )
    answer = make().gfx_plane(request)
    assert answer == bytes.fromhex(golden)
    assert decode_gfx_plane(answer) == GfxPlane(XR24, 640, 480, 2560, 1228800, 16)
    short = make().gfx_plane(struct.pack("<III", 60, 4, 0) + bytes(48))
    assert len(short) == 60
    assert decode_gfx_plane(short) == decode_gfx_plane(answer)


def test_plane_probe_says_yes_to_a_region_only() -> None:
    plane = make().plane()
    request = struct.pack("<III", 64, 5, 0) + bytes(60)
    assert answer_gfx_plane(request, plane) == request[:64]


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 6, 7, 8, 12, 0xFFFF_FFFF])
def test_plane_query_of_another_kind(flags: int) -> None:
    with pytest.raises(MdevError) as caught:
        make().gfx_plane(struct.pack("<II", 64, flags) + bytes(56))
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize("request_", [b"", bytes(59), struct.pack("<II", 59, 4) + bytes(56)])
def test_plane_query_too_short(request_: bytes) -> None:
    with pytest.raises(MdevError) as caught:
        answer_gfx_plane(request_, GfxPlane(XR24, 1, 1, 4, 4, 16))
    assert caught.value.errno == EINVAL


def test_plane_answer_too_short() -> None:
    with pytest.raises(MdevError) as caught:
        decode_gfx_plane(bytes(59))
    assert caught.value.errno == EINVAL


# --- parent -----------------------------------------------------------------------------------------------------------


def test_driver() -> None:
    assert (MDPY_DRIVER.name, MDPY_DRIVER.device_api, MDPY_DRIVER.standalone) == ("mdpy", "vfio-pci", True)
    with pytest.raises(MdevError, match="attribute 'size'") as caught:
        MDPY_DRIVER.create_parent("mdpy", {"size": "1"}, PlainServices())
    assert caught.value.errno == EINVAL


def test_pool_of_four_whatever_the_types() -> None:
    services = PlainServices()
    parent = MDPY_DRIVER.create_parent("mdpy", {}, services)
    assert [kind.name for kind in parent.types] == ["vga", "xga", "hd"]
    assert [kind.description for kind in parent.types] == ["640x480 XR24", "1024x768 XR24", "1920x1080 XR24"]
    assert parent.available("qxga") == 0
    devices = [parent.create(kind, kind, {}) for kind in ("vga", "vga", "xga")]
    assert [parent.available(kind) for kind in SIZES] == [1, 1, 1]
    devices.append(parent.create("hd", "x", {}))
    assert parent.attributes() == {"pool": "4", "used": "4"}
    with pytest.raises(MdevError) as caught:
        parent.create("vga", "fifth", {})
    assert caught.value.errno == ENOSPC
    devices[0].remove()
    devices[0].remove()
    assert parent.available("vga") == 1
    assert [memory.closed for memory in services.memories] == [True, False, False, False]
    assert devices[0].migration is None
    parent.close()


@pytest.mark.parametrize(("kind", "attributes"), [("svga", {}), ("", {}), ("vga", {"width": "5"})])
def test_create_refuses(kind: str, attributes: dict[str, str]) -> None:
    parent = MDPY_DRIVER.create_parent("mdpy", {}, PlainServices())
    with pytest.raises(MdevError) as caught:
        parent.create(kind, "one", attributes)
    assert caught.value.errno == EINVAL
    assert parent.available("vga") == 4


def test_create_without_memory_costs_no_place() -> None:
    services = PlainServices()
    parent = MDPY_DRIVER.create_parent("mdpy", {}, services)
    services.exhausted = True
    with pytest.raises(MdevError) as caught:
        parent.create("vga", "one", {})
    assert caught.value.errno == ENOMEM
    assert parent.available("vga") == 4


def test_attributes_are_read_only() -> None:
    device = make("xga")
    assert device.attributes() == {"format": "XR24", "height": "768", "width": "1024"}
    assert device.read_only == device.attributes().keys()
    for key, errno in (("width", EPERM), ("depth", ENOENT)):
        with pytest.raises(MdevError) as caught:
            device.set(key, "1")
        assert caught.value.errno == errno


# --- the partition's driver -------------------------------------------------------------------------------------------


def test_guest_reads_and_paints() -> None:
    device = make()
    runner = GuestRunner(device, FRAMEBUFFER_GUEST)
    assert runner.driver.files == ()
    assert runner.driver.shown() == {"width": 0, "height": 0, "format": "XR24"}
    runner.probe()
    assert not PMEM_GUEST.match(runner.context)
    assert config(device, 4, 2) == b"\x02\x00"
    file = runner.file("fb")
    assert file.size == 1228800
    assert runner.run(file.read(0, 1 << 30)) == bytes(device.memory.view[:1228800])
    picture = bytes(range(256)) * 4800
    assert runner.run(file.write(0, picture + b"more")) == len(picture)
    assert bytes(device.memory.view[:1228800]) == picture
    runner.run(file.flush())
    assert runner.run(file.read(1228799, 2)) == b"\xff"
    assert runner.run(file.read(1228800, 2)) == b""
    assert runner.run(file.write(1228800, b"")) == 0
    with pytest.raises(MdevError) as caught:
        runner.run(file.write(1228800, b"x"))
    assert caught.value.errno == ENOSPC
    for steps in (file.read(-1, 4), file.write(-4, b"abcd"), file.read(0, -1)):
        with pytest.raises(MdevError) as caught:
            runner.run(steps)
        assert caught.value.errno == EINVAL
    assert list(runner.driver.irq(0)) == []
    assert runner.driver.shown() == {"width": 640, "height": 480, "format": "XR24", "reads": 3, "writes": 2}
    assert max(getattr(request, "length", 0) for request in runner.requests) == CHUNK_BYTES
    assert max(len(getattr(request, "data", b"")) for request in runner.requests) == CHUNK_BYTES
    runner.remove()
    assert config(device, 4, 2) == b"\x00\x00"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1228800), st.integers(0, 3 * CHUNK_BYTES), st.binary(min_size=1, max_size=64))
def test_guest_touches_what_it_should_and_nothing_else(offset: int, count: int, pattern: bytes) -> None:
    device = _SHARED
    runner = GuestRunner(device, FRAMEBUFFER_GUEST)
    runner.probe()
    file = runner.file("fb")
    before = bytes(device.memory.view)
    data = (pattern * count)[:count]
    inside = min(count, 1228800 - offset)
    if count and not inside:
        with pytest.raises(MdevError):
            runner.run(file.write(offset, data))
    else:
        assert runner.run(file.write(offset, data)) == inside
    expected = before[:offset] + data[:inside] + before[offset + inside :]
    assert bytes(device.memory.view) == expected
    assert runner.run(file.read(offset, count)) == data[:inside]


_SHARED = make()


@pytest.mark.parametrize(
    ("offset", "data"), [(0x44, b"YUYV"), (0x48, bytes(4)), (0x48, b"\xff\xff\xff\xff"), (0x4C, b"\x00\x10\x00\x00")]
)
def test_guest_refuses_a_display_that_cannot_be(offset: int, data: bytes) -> None:
    device = make()
    device._config.poke(offset, data)
    runner = GuestRunner(device, FRAMEBUFFER_GUEST)
    with pytest.raises(MdevError) as caught:
        runner.probe()
    assert caught.value.errno == ENODEV
    assert runner.driver.files == ()
    assert config(device, 4, 2) == b"\x00\x00"
