"""Buses, devices, members, and the errnos of the admin verbs (vbus 2, 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from vbus_core_rig import RawNorth, ToyClass, ToyDevice, registry_with, toy

from pvnet.core.machine import Tick
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM
from pvnet.vbus.bus import LAST_ID, BusRegistry
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import BusVector, Event, EventId


@pytest.fixture
def registry() -> BusRegistry:
    return registry_with("lpar1")


class Watcher:
    """A connected member that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def device_added(self, id: int, type: str) -> None:  # noqa: A002
        self.told.append((type, id))

    def device_dropped(self, id: int) -> None:  # noqa: A002
        self.told.append(("dropped", id))

    def device_revoked(self, id: int) -> None:  # noqa: A002
        self.told.append(("revoked", id))


def number(action: Callable[[], Any]) -> int:
    with pytest.raises(VbusError) as caught:
        action()
    return caught.value.errno


def test_names_are_unique_and_well_formed(registry: BusRegistry) -> None:
    assert number(lambda: registry.bus_create("lan")) == EEXIST
    assert number(lambda: registry.device_create("toy", "toy0")) == EEXIST
    for name in ("", "UP", "a b", "-x", "a" * 65, "ä"):
        assert number(lambda name=name: registry.bus_create(name)) == EINVAL
        assert number(lambda name=name: registry.device_create("toy", name)) == EINVAL


def test_unknown_things_are_enoent(registry: BusRegistry) -> None:
    for action in (
        lambda: registry.bus("x"),
        lambda: registry.bus_remove("x"),
        lambda: registry.device("x"),
        lambda: registry.device_remove("x"),
        lambda: registry.device_create("x", "y"),
        lambda: registry.attach("x", "lan"),
        lambda: registry.attach("toy0", "x"),
        lambda: registry.detach("x"),
        lambda: registry.join("lpar2", "x"),
        lambda: registry.leave("lpar2"),
        lambda: registry.get("toy0", "x"),
        lambda: registry.set("toy0", {"x": "1"}),
        lambda: registry.shown_device("x"),
    ):
        assert number(action) == ENOENT


def test_tear_down_is_strictly_the_reverse(registry: BusRegistry) -> None:
    assert number(lambda: registry.device_remove("toy0")) == EBUSY
    assert number(lambda: registry.bus_remove("lan")) == EBUSY
    device = toy(registry)
    registry.detach("toy0")
    assert number(lambda: registry.detach("toy0")) == ENOENT
    assert number(lambda: registry.detach("toy0", force=True)) == ENOENT
    registry.device_remove("toy0")
    assert device.closed
    assert number(lambda: registry.bus_remove("lan")) == EBUSY
    registry.leave("lpar1")
    registry.bus_remove("lan")
    assert registry.shown()["buses"] == []


def test_a_device_is_on_one_bus_and_a_member_too(registry: BusRegistry) -> None:
    registry.bus_create("other")
    assert number(lambda: registry.attach("toy0", "other")) == EBUSY
    assert number(lambda: registry.join("lpar1", "other")) == EEXIST
    assert number(lambda: registry.bus_of("lpar2")) == EPERM


def test_ids_start_at_0_and_are_never_used_again(registry: BusRegistry) -> None:
    assert registry.shown_device("toy0")["id"] == 0
    registry.detach("toy0")
    assert registry.attach("toy0", "lan") == 1
    registry.bus("lan")._next = LAST_ID - 1
    registry.detach("toy0")
    assert registry.attach("toy0", "lan") == LAST_ID - 1
    registry.detach("toy0")
    assert number(lambda: registry.attach("toy0", "lan")) == ENOSPC


def test_a_late_subscriber_learns_everything_once_then_each_change(registry: BusRegistry) -> None:
    registry.device_create("toy", "toy1", {"type": "other"})
    registry.attach("toy1", "lan")
    watcher = Watcher()
    registry.subscribe("lpar1", watcher)
    registry.detach("toy0")
    registry.attach("toy0", "lan")
    registry.unsubscribe("lpar1")
    registry.detach("toy0")
    assert watcher.told == [("virtual-ethernet", 0), ("other", 1), ("dropped", 0), ("virtual-ethernet", 2)]


def test_a_connected_node_that_joins_learns_the_devices_at_once_and_loses_them_when_it_leaves(
    registry: BusRegistry,
) -> None:
    watcher = Watcher()
    registry.subscribe("lpar9", watcher)
    assert watcher.told == []
    registry.join("lpar9", "lan")
    registry.leave("lpar9")
    assert watcher.told == [("virtual-ethernet", 0), ("dropped", 0), ("revoked", 0)]
    registry.unsubscribe("lpar9")


def test_attributes_are_set_in_order_until_one_is_refused(registry: BusRegistry) -> None:
    assert number(lambda: registry.set("toy0", {"mac": "02:00:00:00:00:01", "x": "", "mac2": ""})) == ENOENT
    assert registry.get("toy0", "mac") == "02:00:00:00:00:01"


def test_a_class_that_makes_a_type_nobody_can_match_is_refused() -> None:
    registry = BusRegistry({"toy": ToyClass()})
    assert number(lambda: registry.device_create("toy", "a", {"type": "No Such"})) == EINVAL
    assert registry.shown()["devices"] == []


def test_everything_is_shown_as_plain_values(registry: BusRegistry) -> None:
    north = RawNorth(registry)
    north.up()
    north.open(0)
    device = {
        "name": "toy0",
        "class": "toy",
        "type": "virtual-ethernet",
        "bus": "lan",
        "id": 0,
        "opened_by": "lpar1",
        "attributes": {"mac": "02:11:22:33:44:55"},
        "error": None,
    }
    assert registry.shown() == {
        "buses": [{"name": "lan", "devices": [device], "members": [{"name": "lpar1", "connected": True}]}],
        "devices": [device],
        "classes": [{"name": "toy", "type": "virtual-ethernet"}],
    }
    registry.detach("toy0")
    assert registry.shown_device("toy0")["bus"] is None


def test_an_open_device_outlives_its_detachment_until_devclose(registry: BusRegistry) -> None:
    north = RawNorth(registry)
    north.up()
    handle = north.open(0)
    registry.detach("toy0")
    assert number(lambda: registry.device_remove("toy0")) == EBUSY
    assert north.call(BusVector.DEVCALL, handle.to_bytes(8, "little") + bytes(24)) == 0
    registry.attach("toy0", "lan")
    assert north.open(1) == -EBUSY
    assert north.call(BusVector.DEVCLOSE, handle.to_bytes(8, "little")) == 0
    assert north.open(1) > 0


def test_an_open_device_that_was_detached_can_still_be_taken_away(registry: BusRegistry) -> None:
    north = RawNorth(registry)
    north.up()
    handle = north.open(0)
    north.shm(handle, 100, 7)
    registry.detach("toy0")
    registry.detach("toy0", force=True)
    registry.device_remove("toy0")
    north.feed(Tick())
    assert north.pop() == [
        Event(EventId.DEVADD, 0, "virtual-ethernet"),
        Event(EventId.DEVDROP, 0),
        Event(EventId.SHMCLOSE, 7),
    ]


def test_leaving_takes_open_devices_away_and_joining_brings_them_back(registry: BusRegistry) -> None:
    north = RawNorth(registry)
    north.up()
    handle = north.open(0)
    north.shm(handle, 100, 7)
    registry.leave("lpar1")
    north.feed(Tick())
    assert [event.id for event in north.pop()] == [EventId.DEVADD, EventId.DEVDROP, EventId.SHMCLOSE]
    assert north.open(0) == -ENOENT
    assert isinstance(registry.device("toy0"), ToyDevice)
    registry.join("lpar1", "lan")
    north.feed(Tick())
    assert [event.id for event in north.pop()] == [EventId.DEVADD]
    assert north.open(0) > 0
