"""The registry of one mdev host: parents, mediated devices, bus drivers.

Everything that calls a vendor is an operation in steps (:mod:`pvnet.mdev.life_steps`); the rest returns at once.
Names of devices are text (``UUID`` or ``UUID-instance``) or :class:`~pvnet.mdev.mdev_uuid.MdevName`; names of types are
full (``mtty-2``).

The review of 2016 asked for most of what is special here; ``docs/mdev.md`` has the list.  In short: check and
insertion are one step (R15, R18), a parent is referenced while anybody works with it (R19, R23) and is out of sight
before its devices are removed (R16), a device is usable only when it is complete and until its removal begins (R10,
R17), a refused removal is EBUSY and changes nothing (R9), and no lock is held anywhere (R12, R20 to R22).

Spec: mdev 1, 2, 3, 9.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from pvnet.mdev.bus_driver import VfioBusDriver
from pvnet.mdev.device import DriverServices, MdevDriver
from pvnet.mdev.errors import MdevError
from pvnet.mdev.events import EVENTS, EventList
from pvnet.mdev.life_attributes import shown
from pvnet.mdev.life_bind import register_driver, unregister_driver
from pvnet.mdev.life_create import create, hidden_one, reveal
from pvnet.mdev.life_objects import BoundDriver, BusDriver, MakeVfio, Mdev, Parent, ParentState, Tables, Vfio
from pvnet.mdev.life_parents import register_parent, unregister_parent
from pvnet.mdev.life_remove import take_away
from pvnet.mdev.life_steps import Changed, Noter, Op, Patience, ask
from pvnet.mdev.life_use import open_device, openable, pin, set_attribute, shutdown, start
from pvnet.mdev.mdev_uuid import MdevName, parse_name, parse_rfc
from pvnet.mdev.user import DeviceUser
from pvnet.papr.errno import ENODEV, ENOENT


class Registry:
    """All parents and devices of one host.

    :param note: takes what a log should have.
    :param make_vfio: makes what joins a device to its users; without, users cannot open devices.
    :param events: how many events are kept.
    """

    def __init__(self, note: Noter, make_vfio: MakeVfio | None = None, events: int = EVENTS) -> None:
        self.tables = Tables(note, events)
        if make_vfio is not None:
            self.tables.drivers.append(BoundDriver(VfioBusDriver(make_vfio, self.tables.changed.notify), last=True))

    @property
    def events(self) -> EventList:
        """What happened."""
        return self.tables.events

    @property
    def changed(self) -> Changed:
        """To be notified (``changed.notify()``) when a user has let go of a device, by whoever knows."""
        return self.tables.changed

    # --- parents ---

    def register_parent(
        self, name: str, driver: MdevDriver, attributes: Mapping[str, str], services: DriverServices
    ) -> Op[Parent]:
        """See :func:`~pvnet.mdev.life_parents.register_parent`.

        :raises MdevError: EINVAL, EEXIST, or as the vendor driver says.
        """
        return register_parent(self.tables, name, driver, attributes, services)

    def unregister_parent(self, name: str, *, force: bool = True, patience_s: float = 0.0) -> Op[None]:
        """See :func:`~pvnet.mdev.life_parents.unregister_parent`.

        :raises MdevError: ENODEV, EAGAIN; EBUSY without ``force``.
        """
        return unregister_parent(self.tables, name, force=force, patience_s=patience_s)

    def parents(self) -> dict[str, Parent]:
        """Return the registered parents by name; neither half-registered nor leaving ones."""
        return {name: p for name, p in self.tables.parents.items() if p.state is ParentState.REGISTERED}

    def parent(self, name: str) -> Parent:
        """Return a registered parent.

        :raises MdevError: ENODEV.
        """
        found = self.tables.parents.get(name)
        if found is None or found.state is not ParentState.REGISTERED:
            raise MdevError(ENODEV, f"parent {name}")
        return found

    def available(self, parent: str, type_name: str) -> int:
        """Return how many more devices of a type can be made.

        :raises MdevError: ENODEV no such parent, ENOENT no such type, or as the vendor says.
        """
        found = self.parent(parent)
        kind = found.types.get(type_name)
        if kind is None:
            raise MdevError(ENOENT, f"parent {parent} has no type {type_name!r}")
        if found.room is not None:
            return max(found.room, 0)
        ops = found.ops
        assert ops is not None
        number = ask(self.tables.note, f"available of {type_name}", lambda: int(ops.available(kind.name)))
        return max(number, 0)

    # --- devices ---

    def create(
        self,
        parent: str,
        type_name: str,
        name: str | MdevName,
        attributes: Mapping[str, str] | None = None,
        *,
        hidden: bool = False,
    ) -> Op[Mdev]:
        """See :func:`~pvnet.mdev.life_create.create`.

        :raises MdevError: EINVAL the name, ENODEV, ENOENT, EEXIST, EUSERS, or as vendor or bus driver say.
        """
        return create(self.tables, parent, type_name, _name(name), attributes or {}, hidden=hidden)

    def remove(self, name: str | MdevName, *, force: bool = False, patience_s: float = 0.0) -> Op[None]:
        """Remove a device; see :func:`~pvnet.mdev.life_remove.take_away`.

        :param patience_s: how long its user gets to let go.
        :raises MdevError: ENODEV, EAGAIN it is being created or removed; without ``force`` EBUSY it refuses, is in use
            or is being migrated.
        """
        mdev = self.tables.find(_name(name))
        if not force:
            self.tables.free(mdev)
        mdev.ending = "the device is removed"
        yield from take_away(self.tables, mdev, force=force, patience=Patience(patience_s))

    def mdevs(self) -> dict[MdevName, Mdev]:
        """Return the visible devices by name."""
        return {name: mdev for name, mdev in self.tables.mdevs.items() if mdev.visible}

    def find(self, name: str | MdevName) -> Mdev:
        """Return an active device.

        :raises MdevError: EINVAL no name, ENODEV no such device, EAGAIN it is being created or removed.
        """
        return self.tables.find(_name(name))

    def openable(self, name: str | MdevName) -> Vfio:
        """See :func:`~pvnet.mdev.life_use.openable`.

        :raises MdevError: EINVAL, ENODEV, EAGAIN.
        """
        return openable(self.tables, _name(name))

    def open(self, name: str | MdevName, user: DeviceUser) -> Op[Vfio]:
        """See :func:`~pvnet.mdev.life_use.open_device`.

        :raises MdevError: EINVAL, ENODEV, EAGAIN, EBUSY, or as the device says.
        """
        return open_device(self.tables, _name(name), user)

    def set(self, name: str | MdevName, key: str, value: str) -> Op[None]:
        """See :func:`~pvnet.mdev.life_use.set_attribute`.

        :raises MdevError: EINVAL, ENODEV, EAGAIN, EBUSY, or as the device says.
        """
        return set_attribute(self.tables, _name(name), key, value)

    def attributes(self, name: str | MdevName) -> dict[str, str]:
        """Return the attributes of a device.

        :raises MdevError: EINVAL, ENODEV, EAGAIN, or as the device says.
        """
        mdev = self.find(name)
        return ask(self.tables.note, f"attributes of {mdev.name}", lambda: shown(mdev.works.attributes()))

    def read_only(self, name: str | MdevName) -> frozenset[str]:
        """Return the keys of those attributes of a device that can never be set.

        :raises MdevError: as :meth:`attributes`.
        """
        mdev = self.find(name)
        keys = ask(self.tables.note, f"read_only of {mdev.name}", lambda: [*getattr(mdev.works, "read_only", ())])
        return frozenset(key for key in keys if isinstance(key, str))

    # --- life cycle of 2016 ---

    def start(self, uuid: str) -> Op[int]:
        """See :func:`~pvnet.mdev.life_use.start`; the text by the rule of 2016.

        :raises MdevError: EINVAL no UUID or nothing to start, EAGAIN, EBUSY, or as a device says.
        """
        return start(self.tables, parse_rfc(uuid.encode()))

    def shutdown(self, uuid: str) -> Op[int]:
        """See :func:`~pvnet.mdev.life_use.shutdown`; the text by the rule of 2016.

        :raises MdevError: EINVAL no UUID or nothing to stop, EAGAIN, EBUSY, or as a device says.
        """
        return shutdown(self.tables, parse_rfc(uuid.encode()))

    # --- migration ---

    def reveal(self, name: str | MdevName) -> Mdev:
        """See :func:`~pvnet.mdev.life_create.reveal`: what came by a migration is complete.

        :raises MdevError: EINVAL, ENODEV.
        """
        return reveal(self.tables, _name(name))

    def discard(self, name: str | MdevName) -> Op[None]:
        """Remove a hidden device: the migration has failed.

        :raises MdevError: EINVAL, ENODEV.
        """
        mdev = hidden_one(self.tables, _name(name))
        mdev.ending = "the migration has failed"
        yield from take_away(self.tables, mdev, force=True, patience=Patience(0.0))

    def pin(self, name: str | MdevName, why: str) -> Mdev:
        """See :func:`~pvnet.mdev.life_use.pin`: a migration away begins.

        :raises MdevError: EINVAL, ENODEV, EAGAIN, EBUSY.
        """
        return pin(self.tables, _name(name), why)

    def unpin(self, name: str | MdevName) -> None:
        """The migration has failed, the device stays; idempotent."""
        mdev = self.tables.mdevs.get(_name(name))
        if mdev is not None:
            mdev.pinned = ""

    def depart(self, name: str | MdevName, moved_to: str) -> Op[None]:
        """Remove a device that lives elsewhere from now on; its event ``remove`` says where.

        :raises MdevError: EINVAL, ENODEV, EAGAIN.
        """
        mdev = self.tables.find(_name(name))
        mdev.ending = f"the device has moved to {moved_to}"
        yield from take_away(self.tables, mdev, force=True, patience=Patience(0.0), moved_to=moved_to)

    # --- bus drivers ---

    def register_driver(self, driver: BusDriver) -> Op[None]:
        """See :func:`~pvnet.mdev.life_bind.register_driver`.

        :raises MdevError: EEXIST, EINVAL.
        """
        return register_driver(self.tables, driver)

    def unregister_driver(self, name: str) -> Op[None]:
        """See :func:`~pvnet.mdev.life_bind.unregister_driver`.

        :raises MdevError: ENOENT.
        """
        return unregister_driver(self.tables, name)


def _name(name: str | MdevName) -> MdevName:
    return name if isinstance(name, MdevName) else parse_name(name)
