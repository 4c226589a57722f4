"""Parents, mediated devices and bus drivers as the registry has them, and the tables they are in.

A device is *creating*, then *active*, then *removing*, then gone; a refused removal makes it active again.  Only active
ones can be used; the name is taken from the first step of the creation to the last step of the removal.

References: a parent is referenced by each of its devices, from the first step of their creation to the last of their
removal; a device is held by each request that works with it; a bus driver is referenced by each device it serves or is
just looking at.  Whoever takes something away waits until nobody holds it.

Spec: mdev 2 (R10, R15 to R19, R23, R24), 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from pvnet.mdev.device import MdevDevice, MdevDriver, MdevType, ParentOps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.events import EVENTS, EventList
from pvnet.mdev.life_steps import Changed, Noter
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.mdev.user import DeviceUser
from pvnet.papr.errno import EAGAIN, EBUSY, EEXIST, ENODEV, EUSERS


class Vfio(Protocol):
    """What the life cycle needs of what joins a device to its user (:mod:`pvnet.mdev.vfio_device`)."""

    @property
    def user(self) -> DeviceUser | None:
        """Who has the device open."""
        ...

    def open(self, user: DeviceUser) -> None:
        """Open it.

        :raises MdevError: EBUSY, EAGAIN, or as the device says.
        """
        ...

    def close(self) -> None:
        """The user is gone; idempotent."""
        ...

    def request_release(self) -> None:
        """Ask the user, by the REQ irq, to let go."""
        ...

    def hold(self) -> None:
        """Let nobody open it (EAGAIN) until :meth:`unhold`; idempotent."""
        ...

    def unhold(self) -> None:
        """Undo :meth:`hold`; idempotent."""
        ...


class BusDriver(Protocol):
    """Makes devices available to users; registered with the registry, asked for every device."""

    name: str

    def match(self, mdev: Mdev) -> bool:
        """Whether it serves this device."""
        ...

    def probe(self, mdev: Mdev) -> None:
        """Begin to serve it.

        :raises MdevError: it cannot.
        """
        ...

    def remove(self, mdev: Mdev) -> None:
        """Cease to serve it; a user that has it open loses it, and is told ``mdev.ending``."""
        ...


class MdevState(Enum):
    """Where a device is in its life."""

    CREATING = "creating"
    ACTIVE = "active"
    REMOVING = "removing"
    GONE = "gone"


class ParentState(Enum):
    """Where a parent is in its life."""

    REGISTERING = "registering"
    REGISTERED = "registered"
    LEAVING = "leaving"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Parent:
    """A parent device; ``types`` by full name, ``<driver>-<type>``."""

    name: str
    driver: MdevDriver
    asked: Mapping[str, str]
    """Attributes it was registered with."""
    state: ParentState = ParentState.REGISTERING
    ops: ParentOps | None = None
    types: dict[str, MdevType] = field(default_factory=dict)
    max_instances: int | None = None
    """How many devices it can have, when it leaves the counting to the registry."""
    children: dict[MdevName, Mdev] = field(default_factory=dict)
    """Including those that are not active."""
    being_unregistered: bool = False
    """A request is at it."""

    @property
    def references(self) -> int:
        """Who keeps it from going away."""
        return len(self.children)

    @property
    def room(self) -> int | None:
        """How many more devices the registry's own counting allows; None: the parent counts."""
        return None if self.max_instances is None else self.max_instances - len(self.children)


@dataclass(eq=False, slots=True)
class Mdev:
    """A mediated device."""

    name: MdevName
    parent: Parent
    type_name: str
    """Full name."""
    type: MdevType
    asked: Mapping[str, str]
    """Attributes it was made with."""
    hidden: bool = False
    """Being filled by a migration: its name is taken, and nobody sees it."""
    state: MdevState = MdevState.CREATING
    device: MdevDevice | None = None
    vfio: Vfio | None = None
    """Set by the bus driver while users can open it."""
    bound: BoundDriver | None = None
    binding: bool = False
    """A bus driver is looking at it, or letting go of it."""
    told_driver: str = ""
    """Name of the driver in its last event ``bind``, if no ``unbind`` came after it."""
    group: int | None = None
    """Number of its IOMMU group, while it is bound."""
    holders: int = 0
    starting: bool = False
    """A start or shutdown is under way."""
    online: bool = False
    """Started, and not shut down since."""
    pinned: str = ""
    """Why it must not be removed now, by itself: a migration."""
    ending: str = "the device is removed"
    """What a user that loses it is told."""

    @property
    def visible(self) -> bool:
        """Whether anybody may see it."""
        return not self.hidden and self.state in {MdevState.ACTIVE, MdevState.REMOVING}

    @property
    def in_use(self) -> bool:
        """Whether a user has it open."""
        return self.vfio is not None and self.vfio.user is not None

    @property
    def works(self) -> MdevDevice:
        """The device; it has one from the vendor's create on."""
        assert self.device is not None
        return self.device


@dataclass(eq=False, slots=True)
class BoundDriver:
    """A registered bus driver."""

    driver: BusDriver
    last: bool = False
    """Asked after all others."""
    leaving: bool = False
    references: int = 0


class Tables:
    """All parents, devices, bus drivers, IOMMU groups and events of one registry."""

    def __init__(self, note: Noter, events: int = EVENTS) -> None:
        self.note = note
        self.events = EventList(note, events)
        self.changed = Changed()
        """Told whenever something changes that an operation may wait for."""
        self.parents: dict[str, Parent] = {}
        self.mdevs: dict[MdevName, Mdev] = {}
        self.drivers: list[BoundDriver] = []
        """In the order they are asked."""
        self.groups: dict[int, Mdev] = {}

    def claim(self, mdev: Mdev) -> None:
        """Put a device that is being created into the tables: check and insertion in one step.

        :raises MdevError: ENODEV the parent is not registered (any more), EEXIST the name is taken, EUSERS the parent
            has as many devices as it may.
        """
        parent = mdev.parent
        if parent.state is not ParentState.REGISTERED:
            raise MdevError(ENODEV, f"parent {parent.name} is not registered")
        if self.taken(mdev.name):
            raise MdevError(EEXIST, f"mdev {mdev.name}")
        if parent.room is not None and parent.room <= 0:
            raise MdevError(EUSERS, f"parent {parent.name} has {len(parent.children)} devices")
        self.mdevs[mdev.name] = mdev
        parent.children[mdev.name] = mdev

    def taken(self, name: MdevName) -> bool:
        """Whether a device that has or will have this name, or excludes it, exists anywhere."""
        if name.instance is None:
            return any(other.uuid == name.uuid for other in self.mdevs)
        return name in self.mdevs or MdevName(name.uuid) in self.mdevs

    def forget(self, mdev: Mdev) -> None:
        """Take a device out of the tables."""
        del self.mdevs[mdev.name]
        del mdev.parent.children[mdev.name]
        mdev.state = MdevState.GONE
        self.changed.notify()

    def find(self, name: MdevName) -> Mdev:
        """Return a device that is there and active.

        Instance 0 of a UUID is also the device whose name is that UUID alone.

        :raises MdevError: ENODEV there is none, EAGAIN it is being created or removed.
        """
        mdev = self.mdevs.get(name)
        if mdev is None and name.instance == 0:
            mdev = self.mdevs.get(MdevName(name.uuid))
        if mdev is None:
            raise MdevError(ENODEV, f"mdev {name}")
        if mdev.state is not MdevState.ACTIVE or mdev.hidden:
            raise MdevError(EAGAIN, f"mdev {name} is {'created' if mdev.hidden else mdev.state.value}")
        return mdev

    def free(self, mdev: Mdev) -> Mdev:
        """Return the device if no migration is under way.

        :raises MdevError: EBUSY.
        """
        if mdev.pinned:
            raise MdevError(EBUSY, f"mdev {mdev.name}: {mdev.pinned}")
        return mdev

    @contextmanager
    def held(self, *mdevs: Mdev) -> Iterator[None]:
        """Keep devices from being removed."""
        for mdev in mdevs:
            mdev.holders += 1
        try:
            yield
        finally:
            for mdev in mdevs:
                mdev.holders -= 1
            self.changed.notify()

    def take_group(self, mdev: Mdev) -> None:
        """Give a device the smallest IOMMU group number that is free."""
        number = next(number for number in range(len(self.groups) + 1) if number not in self.groups)
        self.groups[number] = mdev
        mdev.group = number

    def drop_group(self, mdev: Mdev) -> None:
        """Give its group back."""
        if mdev.group is not None:
            del self.groups[mdev.group]
            mdev.group = None

    def happened(self, action: str, mdev: Mdev, **properties: str) -> None:
        """Tell of a device, if it is one that anybody may know of."""
        if not mdev.hidden:
            self.events.add(action, "mdev", str(mdev.name), **properties)

    def tell_driver(self, mdev: Mdev) -> None:
        """Tell which driver serves a device, if that has changed since it was told."""
        serving = mdev.bound.driver.name if mdev.bound is not None else ""
        if mdev.hidden or serving == mdev.told_driver:
            return
        if mdev.told_driver:
            self.happened("unbind", mdev, DRIVER=mdev.told_driver)
        if serving:
            self.happened("bind", mdev, DRIVER=serving)
        mdev.told_driver = serving


MakeVfio = Callable[[Mdev, Callable[[], None]], Vfio]
"""Makes what joins a device to its users; the second argument is to be called whenever a user has let go."""
