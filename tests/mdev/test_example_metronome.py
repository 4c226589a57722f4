"""The example of a third party's device: its package, its beats, its interrupt, its attributes."""

from __future__ import annotations

import importlib.util
import struct
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from guest_runner import ManualTimers, RunnerHost
from simple_device_rig import PlainServices

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL, ENOENT, EPERM

PACKAGE = Path(__file__).parents[2] / "examples" / "mdev_device"


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pvnet_metronome", PACKAGE / "pvnet_metronome.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pvnet_metronome"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["pvnet_metronome"]
    return module


class World:
    """A metronome with somebody who has it open."""

    def __init__(self, package: ModuleType, **attributes: str) -> None:
        shop = package.METRONOME.create_parent("metronome", {}, PlainServices())
        self.device: Any = shop.create("quartz", "one", attributes)
        self.timers = ManualTimers()
        self.host = RunnerHost(self.device, bytearray(), 0, self.timers)
        self.device.open(self.host)

    def get(self, offset: int) -> int:
        (value,) = struct.unpack("<I", self.device.read(0, offset, 4))
        return int(value)

    def put(self, offset: int, value: int) -> None:
        assert self.device.write(0, offset, struct.pack("<I", value)) is None


@pytest.fixture
def world(package: ModuleType) -> World:
    return World(package)


def test_the_package_names_its_driver(package: ModuleType) -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert project["project"]["entry-points"] == {"pvnet.mdev": {"metronome": "pvnet_metronome:METRONOME"}}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["pvnet_metronome.py"]
    driver = package.METRONOME
    assert (driver.name, driver.device_api, driver.standalone) == ("metronome", "vfio-pci", True)
    with pytest.raises(MdevError) as caught:
        driver.create_parent("metronome", {"x": "y"}, PlainServices())
    assert caught.value.errno == EINVAL
    shop = driver.create_parent("metronome", {}, PlainServices())
    assert ([kind.name for kind in shop.types], shop.available("quartz"), shop.attributes()) == (["quartz"], 255, {})
    shop.close()


def test_configuration_space_and_regions(world: World) -> None:
    golden = bytearray(256)
    golden[0x00:0x0C] = bytes.fromhex("7670 00ff 0000 0000 00 00 80 08")
    golden[0x3D] = 1
    assert world.device.read(7, 0, 256) == golden
    world.device.write(7, 0x10, b"\xff" * 4)
    assert world.device.read(7, 0x10, 4) == b"\x00\xf0\xff\xff"
    sizes = [(region.info.size, region.info.flags) for region in world.device.regions]
    assert sizes == [(4096, 3), *[(0, 0)] * 6, (256, 3), (0, 0)]
    assert [irq.count for irq in world.device.irqs] == [1, 0, 0, 0, 0]


def test_it_beats_and_interrupts_until_acknowledged(world: World) -> None:
    world.host.enable(0)
    world.timers.advance(100)
    assert (world.get(4), world.host.signals) == (0, [])
    world.put(0, 250)
    world.timers.advance(0.249)
    assert world.get(4) == 0
    world.timers.advance(0.002)
    assert (world.get(4), world.get(8), world.host.signals) == (1, 1, [(0, 0)])
    world.timers.advance(0.25)
    assert (world.get(4), world.host.signals) == (2, [(0, 0)])
    world.put(8, 0)
    assert world.get(8) == 1
    world.host.unmask(0)
    assert world.host.signals == [(0, 0)] * 2
    world.put(8, 1)
    world.host.unmask(0)
    assert (world.get(8), world.host.signals) == (0, [(0, 0)] * 2)
    world.timers.advance(0.25)
    assert (world.get(4), world.host.signals) == (3, [(0, 0)] * 3)
    world.put(0, 0)
    world.timers.advance(100)
    assert (world.get(0), world.get(4)) == (0, 3)


def test_a_new_period_begins_at_once(world: World) -> None:
    world.put(0, 1000)
    world.timers.advance(0.9)
    world.put(0, 500)
    world.timers.advance(0.4)
    assert world.get(4) == 0
    world.timers.advance(0.1)
    assert world.get(4) == 1
    assert len(world.timers.pending) == 1


def test_reset(world: World) -> None:
    world.host.enable(0)
    world.put(0, 100)
    world.device.write(7, 4, b"\x02\x00")
    world.timers.advance(0.35)
    world.device.reset()
    assert [world.get(offset) for offset in (0, 4, 8)] == [0, 0, 0]
    assert world.device.read(7, 4, 2) == b"\0\0"
    assert world.timers.pending == []
    world.host.unmask(0)
    assert world.host.signals == [(0, 0)]


def test_it_stands_still_while_nobody_has_it_open(world: World) -> None:
    world.put(0, 100)
    world.timers.advance(0.25)
    world.device.close()
    world.host.close()
    world.timers.advance(100)
    assert (world.get(4), world.get(8)) == (2, 1)
    world.put(8, 1)
    world.device.set("bpm", "60")
    assert world.timers.pending == []
    host = RunnerHost(world.device, bytearray(), 0, world.timers)
    world.device.open(host)
    world.timers.advance(1.5)
    assert world.get(4) == 3


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 2), (0, 8), (2, 4), (4095, 1)])
def test_other_accesses_are_refused(world: World, offset: int, length: int) -> None:
    for call in (lambda: world.device.read(0, offset, length), lambda: world.device.write(0, offset, bytes(length))):
        with pytest.raises(MdevError) as caught:
            call()
        assert caught.value.errno == EINVAL
    assert world.get(0x10) == 0
    world.put(4, 7)
    assert world.get(4) == 0


def test_attributes(package: ModuleType) -> None:
    world = World(package, bpm="120")
    assert world.get(0) == 500
    assert world.device.attributes() == {"beats": "0", "bpm": "120"}
    world.device.set("bpm", "0")
    assert world.device.attributes()["bpm"] == "0"
    wrong = [("beats", "1", EPERM), ("tune", "1", ENOENT)]
    wrong += [("bpm", value, EINVAL) for value in ("", "-1", "601", "1000", "x", "1.5", "²")]
    for key, value, errno in wrong:
        with pytest.raises(MdevError) as caught:
            world.device.set(key, value)
        assert caught.value.errno == errno
    with pytest.raises(MdevError):
        World(package, bpm="fast")
