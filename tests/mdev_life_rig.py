"""A vendor that does as it is told, users, and what has to hold of a registry at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mdev_explorer import ViolationError

from pvnet.core.machine import Note
from pvnet.mdev.device import DeviceBase, DriverServices, MdevType, ParentOps, Region
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life import Registry
from pvnet.mdev.life_objects import Mdev, MdevState, ParentState
from pvnet.mdev.life_steps import Op, run_now
from pvnet.mdev.mdev_uuid import parse_name
from pvnet.papr.errno import EAGAIN, EBUSY

U1 = "11111111-1111-1111-1111-11111111aaaa"
U2 = "22222222-2222-2222-2222-22222222bbbb"
U3 = "33333333-3333-3333-3333-33333333cccc"
SERVICES: DriverServices = None  # type: ignore[assignment]  # no vendor here uses them


class User:
    """Has a device open until it is told otherwise."""

    max_transfer = 4096

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def dma_read(self, address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        raise AssertionError

    def dma_write(self, address: int, data: bytes, done: Callable[[MdevError | None], None]) -> None:
        raise AssertionError

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)


class FakeVfio:
    """Joins a device to a user, as far as the life cycle sees."""

    def __init__(self, world: World, mdev: Mdev, released: Callable[[], None]) -> None:
        self.world = world
        self.mdev = mdev
        self.released = released
        self.user: User | None = None
        self.held = False
        self.requests = 0
        self.on_request: Callable[[], None] = lambda: None

    def open(self, user: Any) -> None:
        if self.held:
            raise MdevError(EAGAIN, "held")
        if self.user is not None:
            raise MdevError(EBUSY, "open")
        self.world.used(self.mdev.works)
        self.world.fail(f"open {self.mdev.name}")
        self.user = user

    def close(self) -> None:
        if self.user is not None:
            self.world.used(self.mdev.works)
            self.user = None
            self.released()

    def request_release(self) -> None:
        self.requests += 1
        self.world.fail(f"request {self.mdev.name}")
        self.on_request()

    def hold(self) -> None:
        self.held = True

    def unhold(self) -> None:
        self.held = False


class FakeDevice(DeviceBase):
    """Tells the world whatever happens to it."""

    def __init__(self, world: World, parent: FakeParent, name: str, attributes: Mapping[str, str]) -> None:
        self.world = world
        self.parent = parent
        self.name = name
        self.asked = dict(attributes)
        self.values: dict[Any, Any] = {"colour": "red"}
        self.running = False
        self.removed = False

    @property
    def regions(self) -> tuple[Region, ...]:
        return ()

    def read(self, region: int, offset: int, length: int) -> bytes:
        raise AssertionError

    def write(self, region: int, offset: int, data: bytes) -> None:
        raise AssertionError

    def start(self) -> None:
        self._called("start")
        self.running = True

    def stop(self) -> None:
        self._called("stop")
        self.running = False

    def check_remove(self) -> None:
        self._called("check")

    def remove(self) -> None:
        self.world.used(self)
        self.removed = True
        self.world.live.remove(self)
        mdev = next((m for m in self.world.registry.tables.mdevs.values() if m.device is self), None)
        if mdev is not None and (mdev.in_use or mdev.holders):
            raise ViolationError(f"{self.name} is removed under its users")
        self._called("remove")

    def attributes(self) -> Mapping[str, str]:
        self._called("attributes")
        return self.values

    def set(self, key: str, value: str) -> None:
        self._called("set")
        self.values[key] = value

    def _called(self, what: str) -> None:
        if what != "remove":
            self.world.used(self)
        self.world.log.append(f"{what} {self.name}")
        self.world.fail(f"{what} {self.name}")


class FakeParent:
    """Offers two types; ``room`` devices fit, all types together."""

    def __init__(self, world: World, name: str, attributes: Mapping[str, str]) -> None:
        self.world = world
        self.name = name
        self.asked = dict(attributes)
        self.types: Any = [MdevType("1", "Single port"), MdevType("2", "", "two ports")]
        self.closed = False
        if world.max_instances is not None:
            self.max_instances = world.max_instances

    def available(self, type_name: str) -> int:
        self.world.fail(f"available {self.name}")
        return 5

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> FakeDevice:
        if self.closed:
            raise ViolationError(f"{self.name} is closed and makes {name}")
        self.world.log.append(f"create {name}")
        self.world.fail(f"create {name}")
        device = FakeDevice(self.world, self, name, attributes)
        self.world.live.append(device)
        return device

    def attributes(self) -> Mapping[str, str]:
        self.world.fail(f"attributes {self.name}")
        return {"slot": "7"}

    def close(self) -> None:
        if self.closed:
            raise ViolationError(f"{self.name} is closed twice")
        self.closed = True
        self.world.parents.remove(self)
        if any(device.parent is self for device in self.world.live):
            raise ViolationError(f"{self.name} is closed, and has devices")
        self.world.log.append(f"close {self.name}")
        self.world.fail(f"close {self.name}")


class FakeDriver:
    """Makes :class:`FakeParent`."""

    name = "mtty"
    device_api = "vfio-pci"
    standalone = True

    def __init__(self, world: World) -> None:
        self.world = world

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> ParentOps:
        self.world.fail(f"parent {name}")
        parent = FakeParent(self.world, name, attributes)
        self.world.parents.append(parent)
        self.world.prepare(parent)
        return parent


class FakeBusDriver:
    """A bus driver for devices whose name begins with ``prefix``."""

    def __init__(self, world: World, name: str = "other", prefix: str = "") -> None:
        self.world = world
        self.name = name
        self.prefix = prefix
        self.bound: list[str] = []

    def match(self, mdev: Mdev) -> bool:
        self.world.used(mdev.works)
        self.world.fail(f"match {mdev.name}")
        return str(mdev.name).startswith(self.prefix)

    def probe(self, mdev: Mdev) -> None:
        self.world.used(mdev.works)
        if mdev.group is None or str(mdev.name) in self.bound:
            raise ViolationError(f"{mdev.name} is probed without a group, or twice")
        self.world.fail(f"probe {mdev.name}")
        self.bound.append(str(mdev.name))

    def remove(self, mdev: Mdev) -> None:
        self.world.used(mdev.works)
        self.bound.remove(str(mdev.name))
        self.world.fail(f"unbind {mdev.name}")


class World:
    """One registry and everything around it; ``failures`` maps ``"create U1"`` and the like to what is raised."""

    def __init__(self, max_instances: int | None = None, failures: Mapping[str, Exception] | None = None) -> None:
        self.max_instances = max_instances
        self.failures = dict(failures or {})
        self.prepare: Callable[[FakeParent], None] = lambda parent: None
        self.log: list[str] = []
        self.notes: list[Note] = []
        self.live: list[FakeDevice] = []
        self.parents: list[FakeParent] = []
        self.opened: list[FakeVfio] = []
        self.driver = FakeDriver(self)
        self.registry = Registry(self.notes.append, self._make_vfio)

    def _make_vfio(self, mdev: Mdev, released: Callable[[], None]) -> FakeVfio:
        self.fail(f"vfio {mdev.name}")
        vfio = FakeVfio(self, mdev, released)
        self.opened.append(vfio)
        return vfio

    def fail(self, what: str) -> None:
        if what in self.failures:
            raise self.failures[what]

    def used(self, device: Any) -> None:
        if device.removed:
            raise ViolationError(f"{device.name} is used after its removal")

    # --- shortcuts: everything at once ---

    def run(self, operation: Op[Any]) -> Any:
        return run_now(operation)

    def up(self, *names: str, parent: str = "p") -> World:
        """Register a parent and make devices."""
        run_now(self.register(parent))
        for name in names:
            run_now(self.create(name, parent))
        return self

    def register(self, name: str = "p") -> Op[Any]:
        return self.registry.register_parent(name, self.driver, {}, SERVICES)

    def create(self, name: str = U1, parent: str = "p", *, hidden: bool = False) -> Op[Mdev]:
        return self.registry.create(parent, "mtty-1", name, {}, hidden=hidden)

    def vfio(self, name: str = U1) -> FakeVfio:
        found = self.registry.find(name).vfio
        assert isinstance(found, FakeVfio)
        return found

    def vfio_of(self, name: str) -> FakeVfio:
        """The same, whatever the state of the device."""
        found = self.registry.tables.mdevs[parse_name(name)].vfio
        assert isinstance(found, FakeVfio)
        return found

    def device(self, name: str = U1) -> FakeDevice:
        found = self.registry.find(name).works
        assert isinstance(found, FakeDevice)
        return found

    def told(self, after: int = 0) -> list[str]:
        """Return actions and first letters of names of the events."""
        return [f"{event.action} {event.name[:1]}" for event in self.registry.events.since(after)]

    # --- what has to hold ---

    def check(self) -> None:
        """Holds after every step."""
        tables = self.registry.tables
        for name, mdev in tables.mdevs.items():
            assert mdev.name == name
            assert tables.parents.get(mdev.parent.name) is mdev.parent, f"{name} is an orphan"
            assert mdev.parent.children.get(name) is mdev, f"{name} is not among its parent's devices"
            assert mdev.state is not MdevState.GONE
            assert mdev.holders >= 0
        children = sum(len(parent.children) for parent in tables.parents.values())
        assert children == len(tables.mdevs), "a parent has a device that does not exist"
        for uuid, count in Counter(name.uuid for name in tables.mdevs).items():
            plain = any(name.uuid == uuid and name.instance is None for name in tables.mdevs)
            assert count == 1 or not plain, f"{uuid} is claimed twice"
        for number, mdev in tables.groups.items():
            assert mdev.group == number
            assert tables.mdevs.get(mdev.name) is mdev, f"group {number} of a device that is gone"
        for device, count in Counter(device.name for device in self.live).items():
            assert count == 1, f"two devices {device}"
            assert any(str(name) == device for name in tables.mdevs), f"device {device} is nobody's"
        for parent, count in Counter(parent.name for parent in self.parents).items():
            assert count == 1, f"two parents {parent}"
            assert parent in tables.parents
        if self.max_instances is not None:
            assert all(len(p.children) <= self.max_instances for p in tables.parents.values())
        self._check_events()

    def _check_events(self) -> None:
        there: set[tuple[str, str]] = set()
        bound: set[str] = set()
        for number, event in enumerate(self.registry.events.since(0), 1):
            assert event.number == number
            key = (event.subsystem, event.name)
            comes = event.action == "add" or ("MDEV_STATE", "registered") in event.properties
            goes = event.action == "remove" or ("MDEV_STATE", "unregistered") in event.properties
            assert (key not in there) == comes, f"{event} when {there}"
            if comes:
                there.add(key)
            elif goes:
                there.remove(key)
                assert event.name not in bound, f"{event} while it is bound"
            elif event.action == "bind":
                assert event.name not in bound
                bound.add(event.name)
            elif event.action == "unbind":
                bound.remove(event.name)
        shown = {("mdev", str(name)) for name in self.registry.mdevs()}
        for key in shown | {("parent", name) for name in self.registry.parents()}:
            assert key in there, f"no event for {key}"

    def check_idle(self) -> None:
        """Holds when nothing is under way."""
        self.check()
        tables = self.registry.tables
        for mdev in tables.mdevs.values():
            assert mdev.state is MdevState.ACTIVE, f"{mdev.name} is {mdev.state}"
            assert (mdev.holders, mdev.starting, mdev.binding) == (0, False, False)
            assert (mdev.bound is None) == (mdev.group is None)
            assert not (mdev.vfio is not None and mdev.vfio.held)  # type: ignore[attr-defined]
        for vfio in self.opened:
            served = tables.mdevs.get(vfio.mdev.name) is vfio.mdev and vfio.mdev.vfio is vfio
            assert served or vfio.user is None, f"{vfio.mdev.name} is in use, and no driver serves it"
        for parent in tables.parents.values():
            assert parent.state is ParentState.REGISTERED
        for record in tables.drivers:
            assert record.references == sum(mdev.bound is record for mdev in tables.mdevs.values())
            assert not record.leaving
        assert sorted(d.name for d in self.live) == sorted(str(name) for name in tables.mdevs)
        assert sorted(p.name for p in self.parents) == sorted(tables.parents)
        # Everything that has been told fits what is there now.
        there = {e.name: e.action for e in self.registry.events.since(0) if e.action in {"add", "remove"}}
        assert {n for n, action in there.items() if action == "add"} == {str(n) for n in self.registry.mdevs()}
