"""The tree of parents and devices.  Spec: mdev 3.2, 1.12; rows A5, A6, A14."""

from __future__ import annotations

from typing import Any

import pytest
from mdev_life_rig import U1, U2, World

from pvnet.mdev.errors import MdevError
from pvnet.mdev.tree import Entry, Mode, Tree
from pvnet.papr.errno import (
    E2BIG,
    EACCES,
    EBUSY,
    EEXIST,
    EINVAL,
    EIO,
    EISDIR,
    ENODEV,
    ENOENT,
    ENOTDIR,
    EPERM,
    ERANGE,
    EUSERS,
)

TYPE = "/parents/p/mdev_supported_types/mtty-1"


class Rig:
    def __init__(self, max_instances: int | None = None) -> None:
        self.world = World(max_instances).up()
        self.tree = Tree(self.world.registry)

    def ls(self, path: str) -> list[str]:
        return [entry.name for entry in self.tree.list(path)]

    def write(self, path: str, data: bytes) -> int:
        """Errno, or the negative number of bytes."""
        try:
            return -int(self.world.run(self.tree.write(path, data)))
        except MdevError as error:
            return error.errno

    def errno(self, verb: str, path: str) -> int:
        with pytest.raises(MdevError) as caught:
            getattr(self.tree, verb)(path)
        return caught.value.errno


@pytest.fixture
def rig() -> Rig:
    return Rig()


def walk(tree: Tree, path: str = "/") -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in tree.list(path):
        at = f"{path.rstrip('/')}/{entry.name}"
        found[at] = f"{entry.mode.value} {entry.target}".strip()
        if entry.mode is Mode.DIRECTORY:
            found |= walk(tree, at)
    return found


def test_all_of_it(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    home = f"/parents/p/{U1}"
    types = "/parents/p/mdev_supported_types"
    assert walk(rig.tree) == {
        "/bus": "dir",
        "/bus/mdev": "dir",
        "/bus/mdev/devices": "dir",
        f"/bus/mdev/devices/{U1}": f"link {home}",
        "/class": "dir",
        "/class/mdev_bus": "dir",
        "/class/mdev_bus/p": "link /parents/p",
        "/parents": "dir",
        "/parents/p": "dir",
        "/parents/p/attributes": "dir",
        "/parents/p/attributes/slot": "ro",
        "/parents/p/driver": "ro",
        "/parents/p/mdev_supported_types": "dir",
        f"{types}/mtty-1": "dir",
        f"{types}/mtty-1/available_instances": "ro",
        f"{types}/mtty-1/create": "wo",
        f"{types}/mtty-1/device_api": "ro",
        f"{types}/mtty-1/devices": "dir",
        f"{types}/mtty-1/devices/{U1}": f"link {home}",
        f"{types}/mtty-1/name": "ro",
        f"{types}/mtty-2": "dir",
        f"{types}/mtty-2/available_instances": "ro",
        f"{types}/mtty-2/create": "wo",
        f"{types}/mtty-2/description": "ro",
        f"{types}/mtty-2/device_api": "ro",
        f"{types}/mtty-2/devices": "dir",
        f"{types}/mtty-2/name": "ro",
        home: "dir",
        f"{home}/attributes": "dir",
        f"{home}/attributes/colour": "rw",
        f"{home}/driver": "ro",
        f"{home}/iommu_group": "ro",
        f"{home}/mdev_type": f"link {types}/mtty-1",
        f"{home}/remove": "wo",
        "/rfc": "dir",
        "/rfc/class": "dir",
        "/rfc/class/mdev": "dir",
        "/rfc/class/mdev/mdev_shutdown": "wo",
        "/rfc/class/mdev/mdev_start": "wo",
        "/rfc/parents": "dir",
        "/rfc/parents/p": "dir",
        "/rfc/parents/p/mdev_create": "wo",
        "/rfc/parents/p/mdev_destroy": "wo",
        "/rfc/parents/p/mdev_supported_types": "ro",
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{TYPE}/available_instances", b"5\n"),
        (f"{TYPE}/device_api", b"vfio-pci\n"),
        (f"{TYPE}/name", b"Single port\n"),
        ("/parents/p/mdev_supported_types/mtty-2/name", b"2\n"),
        ("/parents/p/mdev_supported_types/mtty-2/description", b"two ports\n"),
        ("/parents/p/driver", b"mtty\n"),
        ("parents//p/attributes/slot", b"7\n"),
        ("/class/mdev_bus/p/driver", b"mtty\n"),
        (f"/parents/p/{U1}/driver", b"vfio\n"),
        (f"/parents/p/{U1}/iommu_group", b"0\n"),
        (f"/bus/mdev/devices/{U1}/mdev_type/devices/{U1}/attributes/colour", b"red\n"),
        ("/rfc/parents/p/mdev_supported_types", b"mtty-1 Single port\nmtty-2 two ports\n"),
    ],
)
def test_reading(rig: Rig, path: str, text: bytes) -> None:
    rig.world.run(rig.world.create())
    assert rig.tree.read(path) == text


def test_wrong_paths_and_directions(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    assert rig.errno("list", "/nothing") == ENOENT
    assert rig.errno("list", "/parents/p/driver") == ENOTDIR
    assert rig.errno("list", "/parents/p/driver/deeper") == ENOTDIR
    assert rig.errno("list", "/parents/../parents") == ENOENT
    assert rig.errno("read", "/parents/p") == EISDIR
    assert rig.errno("read", "/class/mdev_bus/p") == EISDIR
    assert rig.errno("read", f"{TYPE}/create") == EACCES
    assert rig.errno("read", f"{TYPE}/description") == ENOENT
    assert rig.write("/parents/p", b"x") == EISDIR
    assert rig.write(f"{TYPE}/name", b"x") == EACCES
    assert rig.write("/nothing", b"x") == ENOENT
    assert rig.write(f"/parents/p/{U1}/attributes/size", b"1") == ENOENT
    assert rig.write(f"/parents/p/{U1}/attributes/colour", b"x" * 4097) == E2BIG


def test_create(rig: Rig) -> None:
    assert rig.write(f"{TYPE}/create", U1.upper().encode() + b"\n") == -37
    assert rig.write(f"{TYPE}/create", U2.encode()) == -36
    assert rig.ls("/bus/mdev/devices") == [U1, U2]
    assert rig.ls(f"{TYPE}/devices") == [U1, U2]
    assert rig.write("/parents/p/mdev_supported_types/mtty-2/create", U1.encode()) == EEXIST
    assert rig.write(f"{TYPE}/create", U1.encode() + b"\n\n") == EINVAL
    assert rig.write(f"{TYPE}/create", U1.replace("-", "").encode()) == EINVAL


def test_a13_available_instances() -> None:
    rig = Rig(max_instances=1)
    assert rig.tree.read(f"{TYPE}/available_instances") == b"1\n"
    rig.world.failures[f"create {U1}"] = MdevError(EPERM)
    assert rig.write(f"{TYPE}/create", U1.encode()) == EPERM
    assert rig.tree.read(f"{TYPE}/available_instances") == b"1\n"
    rig.world.failures.clear()
    assert rig.write(f"{TYPE}/create", U1.encode()) == -36
    assert rig.tree.read(f"{TYPE}/available_instances") == b"0\n"
    assert rig.write(f"{TYPE}/create", U2.encode()) == EUSERS
    assert rig.write(f"/parents/p/{U1}/remove", b"1\n") == -2
    assert rig.tree.read(f"{TYPE}/available_instances") == b"1\n"


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"", EINVAL),
        (b"\n", EINVAL),
        (b"yes", EINVAL),
        (b"-1", EINVAL),
        (b"1x", EINVAL),
        (b"18446744073709551616", ERANGE),
        (b"0", -1),
        (b"0x0\n", -4),
    ],
)
def test_remove_that_removes_nothing(rig: Rig, data: bytes, result: int) -> None:
    rig.world.run(rig.world.create())
    assert rig.write(f"/parents/p/{U1}/remove", data) == result
    assert rig.ls("/bus/mdev/devices") == [U1]


@pytest.mark.parametrize("data", [b"1", b"0x10\n", b"007", b"18446744073709551615"])
def test_remove(rig: Rig, data: bytes) -> None:
    rig.world.run(rig.world.create())
    assert rig.write(f"/parents/p/{U1}/remove", data) == -len(data)
    assert rig.ls("/bus/mdev/devices") == []
    assert rig.write(f"/parents/p/{U1}/remove", data) == ENOENT


def test_a8_a_refused_removal_leaves_the_files_alone(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    before = walk(rig.tree)
    rig.world.failures[f"check {U1}"] = MdevError(EPERM)
    assert rig.write(f"/parents/p/{U1}/remove", b"1") == EBUSY
    assert walk(rig.tree) == before
    assert rig.tree.read(f"/parents/p/{U1}/attributes/colour") == b"red\n"


def test_attributes(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    path = f"/parents/p/{U1}/attributes/colour"
    assert rig.write(path, b"blue\n") == -5
    assert rig.tree.read(path) == b"blue\n"
    assert rig.write(path, b"\xff") == EINVAL
    rig.world.failures[f"set {U1}"] = MdevError(EPERM)
    assert rig.write(path, b"green") == EPERM


def test_attributes_that_are_read_only(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    device, home = rig.world.device(), f"/parents/p/{U1}/attributes"
    device.values["size"] = "7"
    device.read_only = ["size", 7]  # type: ignore[list-item]
    assert {name: walk(rig.tree, home)[f"{home}/{name}"] for name in ("colour", "size")} == {
        "colour": "rw",
        "size": "ro",
    }
    assert rig.tree.read(f"{home}/size") == b"7\n"
    assert rig.write(f"{home}/size", b"8") == EACCES
    assert rig.write(f"{home}/colour", b"blue") == -4
    device.read_only = 7  # type: ignore[assignment]
    assert rig.errno("list", home) == EIO


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/", Mode.DIRECTORY),
        ("/class/mdev_bus/p", Mode.DIRECTORY),
        (f"{TYPE}/name", Mode.READ),
        (f"{TYPE}/create", Mode.WRITE),
        (f"/parents/p/{U1}/attributes/colour", Mode.BOTH),
    ],
)
def test_modes(rig: Rig, path: str, mode: Mode) -> None:
    rig.world.run(rig.world.create())
    assert rig.tree.mode(path) is mode
    assert rig.errno("mode", "/nothing") == ENOENT


def test_vendors_that_fail_when_asked(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    wrong: Any = RuntimeError("no")
    rig.world.failures = {"available p": wrong, "attributes p": wrong, f"attributes {U1}": wrong}
    assert rig.errno("read", f"{TYPE}/available_instances") == EIO
    assert rig.errno("list", "/parents/p/attributes") == EIO
    assert rig.errno("list", f"/parents/p/{U1}/attributes") == EIO
    assert len(rig.world.notes) == 3
    assert f"{U1}" in rig.ls("/parents/p")


def test_a_device_without_a_driver(rig: Rig) -> None:
    rig.world.run(rig.world.create())
    rig.world.run(rig.world.registry.unregister_driver("vfio"))
    assert rig.ls(f"/parents/p/{U1}") == ["attributes", "mdev_type", "remove"]


def test_nobody_sees_what_is_incomplete_hidden_or_leaving(rig: Rig) -> None:
    half, hidden = rig.world.create(U1), rig.world.create(U2, hidden=True)
    next(half)
    rig.world.run(hidden)
    assert rig.ls("/parents/p") == ["attributes", "driver", "mdev_supported_types"]
    assert rig.ls("/bus/mdev/devices") == []
    leaving = rig.world.registry.unregister_parent("p")
    next(leaving)
    assert rig.ls("/parents") == rig.ls("/rfc/parents") == rig.ls("/class/mdev_bus") == []


def test_the_files_of_2016(rig: Rig) -> None:
    text = f"{U1}:0x1:mtty-2\n".encode()
    assert rig.write("/rfc/parents/p/mdev_create", text) == -len(text)
    assert rig.ls("/bus/mdev/devices") == [f"{U1}-1"]
    assert rig.write("/rfc/class/mdev/mdev_start", U1.encode()) == EINVAL
    assert rig.write("/rfc/parents/p/mdev_create", f"{U1}:0:".encode()) < 0
    assert rig.write("/rfc/class/mdev/mdev_start", U1.encode()) == -36
    assert rig.write("/rfc/class/mdev/mdev_shutdown", U1.encode()) == -36
    assert rig.write("/rfc/parents/p/mdev_destroy", f"{U1}:1".encode()) < 0
    assert rig.ls("/bus/mdev/devices") == [f"{U1}-0"]


def test_a_parent_that_goes_while_it_is_looked_at(rig: Rig) -> None:
    """The vendor's answer may take its own parent away: the reader gets an errno."""
    rig.world.parents[0].available = lambda type_name: 1 // 0  # type: ignore[method-assign]
    assert rig.errno("read", f"{TYPE}/available_instances") == EIO
    rig.world.registry.tables.parents["p"].ops = None
    assert rig.errno("list", "/parents/p/attributes") == ENODEV


def test_entries(rig: Rig) -> None:
    assert rig.tree.list("/class/mdev_bus") == (Entry("p", Mode.LINK, "/parents/p"),)
