"""The vendor driver of channel-I/O disks: attributes, one device per parent, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ccw_rig import RamServices

from pvnet.mdev.ccw_config import MAX_BLOCKS, CcwConfig, check_disk_size, parse_config
from pvnet.mdev.ccw_driver import CCW_DRIVER
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL, ENOSPC

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(MdevError) as error:
        call()
    return error.value.errno


def test_the_driver() -> None:
    assert (CCW_DRIVER.name, CCW_DRIVER.device_api, CCW_DRIVER.standalone) == ("vfio_ccw", "vfio-ccw", False)


def test_a_parent_offers_one_device() -> None:
    services = RamServices()
    attributes = {"image": "disk.img", "size": "1MiB", "devno": "0.0.1234", "chpid": "17", "block_size": "4096"}
    parent = CCW_DRIVER.create_parent("sch", attributes, services)
    assert services.opened == [("disk.img", 1 << 20, False)]
    (kind,) = parent.types
    assert (kind.name, kind.pretty_name) == ("io", "I/O subchannel (Non-QDIO)")
    assert (parent.available("io"), parent.available("qdio")) == (1, 0)
    assert errno_of(lambda: parent.create("qdio", UUID, {})) == EINVAL
    assert errno_of(lambda: parent.create("io", UUID, {"devno": "1"})) == EINVAL
    device = parent.create("io", UUID, {})
    assert parent.available("io") == 0
    assert errno_of(lambda: parent.create("io", UUID, {})) == ENOSPC
    shown = device.attributes()  # type: ignore[union-attr]
    assert (shown["devno"], shown["chpid"], shown["blocks"], shown["block_size"]) == ("1234", "17", "256", "4096")
    device.remove()  # type: ignore[union-attr]
    assert parent.available("io") == 1
    parent.create("io", UUID, {})
    device.remove()  # type: ignore[union-attr]
    assert parent.available("io") == 0
    assert parent.attributes() == {
        "block_size": "4096", "chpid": "17", "devno": "1234", "durable": "yes", "image": "disk.img",
        "readonly": "no", "size": "1048576",
    }  # fmt: skip
    assert not services.stores[0].closed
    parent.close()
    assert services.stores[0].closed


def test_images_that_are_there_need_no_size() -> None:
    services = RamServices(1 << 16)
    CCW_DRIVER.create_parent("sch", {"image": "disk.img", "readonly": "yes"}, services)
    assert services.opened == [("disk.img", None, True)]


def test_a_size_without_an_image_makes_one_of_the_parents_name() -> None:
    services = RamServices()
    parent = CCW_DRIVER.create_parent("sch", {"size": "512"}, services)
    assert services.opened == [("sch.img", 512, False)]
    assert parent.attributes()["image"] == "sch.img"


@pytest.mark.parametrize("size", [0, 1000, 511])
def test_images_of_odd_sizes(size: int) -> None:
    services = RamServices(size)
    assert errno_of(lambda: CCW_DRIVER.create_parent("sch", {"image": "disk.img"}, services)) == EINVAL
    assert services.stores[0].closed


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("512B", 512), ("4 KiB", 4096), ("2MiB", 2 << 20), ("1GiB", 1 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_config({"image": "x", "size": text}).size == size


@pytest.mark.parametrize(("text", "devno"), [("0.0.1234", 0x1234), ("0xfe", 0xFE), ("0", 0), ("FFFF", 0xFFFF)])
def test_device_numbers(text: str, devno: int) -> None:
    assert parse_config({"image": "x", "devno": text}).devno == devno


def test_defaults_and_words() -> None:
    assert parse_config({"image": "x"}) == CcwConfig("x")
    words = {"readonly": "yes", "durable": "no", "concurrent_sense": "no", "chpid": "0xff"}
    config = parse_config({"image": "x", **words})
    assert (config.readonly, config.durable, config.concurrent_sense, config.chpid) == (True, False, False, 255)


@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"image": ""}, {"image": "", "size": "512"}, {"image": "x", "speed": "1"}, {"image": "x", "size": "big"},
        {"image": "x", "size": "-512"}, {"image": "x", "size": "0"}, {"image": "x", "size": "513"},
        {"image": "x", "size": "9" * 40}, {"image": "x", "size": "1024", "block_size": "4096"},
        {"image": "x", "block_size": "511"}, {"image": "x", "block_size": "0x200"}, {"image": "x", "devno": "12345"},
        {"image": "x", "devno": "0.1.1234"}, {"image": "x", "chpid": "100"}, {"image": "x", "readonly": "maybe"},
        {"image": "x", "durable": ""}, {"image": "x", "size": str((MAX_BLOCKS + 1) * 512)},
    ],
)  # fmt: skip
def test_bad_attributes(attributes: dict[str, str]) -> None:
    services = RamServices()
    with pytest.raises(MdevError, match="parent sch: ") as error:
        CCW_DRIVER.create_parent("sch", attributes, services)
    assert error.value.errno == EINVAL
    assert services.opened == []


def test_the_largest_disk() -> None:
    check_disk_size(MAX_BLOCKS * 512, 512)
    check_disk_size(512, 512)
