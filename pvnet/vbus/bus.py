"""Buses, devices and members: what an administrator sees and changes.

Three kinds of names.  A **device** is made by a device class and has a name and attributes.  A **bus** is a container;
attaching a device to it gives the device an **id**, unique on that bus and never used again, and announces it to every
**member**, which is a partition that joined the bus (one at most).  Taking down is strictly the reverse: detach, then
remove the device, then the bus; anything else is EBUSY.

A member that is connected follows its bus as an :class:`Observer`: it subscribes when its bridge is up, learns every
device that is there, and from then on each change, with no gap and no repetition, because both happen in one turn.

Devices are code of third parties.  What they raise besides :class:`~pvnet.vbus.errors.VbusError` becomes
:class:`~pvnet.vbus.errors.DeviceFailedError`, with the name of the device and the text of the exception; a device whose
attributes cannot be had is shown with that as its ``error``.

An id that a client could not even write down in DEVOPEN (32 bits) is never given out: ENOSPC before.

Spec: vbus 2, 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from pvnet.core.errors import PvnetError
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM
from pvnet.vbus.device import Connection, ConnectionHost, Device, DeviceClass
from pvnet.vbus.errors import DeviceFailedError, VbusError
from pvnet.vbus.layout import is_type

LAST_ID: Final = 0xFFFFFFFF
"""The counter at this value gives no more ids."""

_NAME: Final = re.compile(r"[a-z0-9][-_.a-z0-9]{0,63}")


class Observer(Protocol):
    """A connected member's end of the announcements; calls may come in any turn and must not call back."""

    def device_added(self, id: int, type: str) -> None:  # noqa: A002
        """A device was attached."""
        ...

    def device_dropped(self, id: int) -> None:  # noqa: A002
        """A device was detached."""
        ...

    def device_revoked(self, id: int) -> None:  # noqa: A002
        """A detached device is taken away by force: a connection to it ends now, whatever the client does."""
        ...


@dataclass(slots=True)
class _Device:
    name: str
    kind: str
    device: Device
    type: str
    bus: Bus | None = None
    id: int = -1
    opened_by: str | None = None

    @property
    def named(self) -> str:
        """The device as a log or an administrator knows it."""
        return _named(self.name, self.kind)


def _named(name: str, kind: str) -> str:
    return f"device {name} (class {kind})"


@contextmanager
def _guarded(named: str, doing: str, passes: type[PvnetError] = PvnetError) -> Iterator[None]:
    """Around a device's code: all but ``passes`` becomes DeviceFailedError."""
    try:
        yield
    except passes:
        raise
    except Exception as error:
        raise DeviceFailedError(named, doing, error) from error


@dataclass(slots=True)
class Bus:
    """One bus: devices by id, members by name (``None``: not connected)."""

    name: str
    _next: int = 0
    _devices: dict[int, _Device] = field(default_factory=dict)
    _members: dict[str, Observer | None] = field(default_factory=dict)

    def open(self, id: int, version: int, host: ConnectionHost) -> Opened:  # noqa: A002
        """Open device ``id`` for ``host.client``.

        :raises VbusError: ENOENT no such device, EBUSY it is open, or what the device answers; DeviceFailedError.
        """
        entry = self._devices.get(id)
        if entry is None:
            raise VbusError(ENOENT, f"bus {self.name} has no device {id}")
        if entry.opened_by is not None:
            raise VbusError(EBUSY, f"device {entry.name} is open")
        with _guarded(entry.named, "open", VbusError):
            opened = Opened(entry.device.open(version, host), entry)
        entry.opened_by = host.client
        return opened

    def shown(self) -> dict[str, object]:
        """The bus as plain values, for showing and JSON."""
        return {
            "name": self.name,
            "devices": [_shown(entry) for entry in self._devices.values()],
            "members": [{"name": name, "connected": seen is not None} for name, seen in sorted(self._members.items())],
        }

    def _observers(self) -> list[Observer]:
        return [observer for observer in self._members.values() if observer is not None]


class Opened:
    """A connection that gives its device back when it is released."""

    __slots__ = ("_entry", "_release", "call", "close", "named", "shm")

    def __init__(self, connection: Connection, entry: _Device) -> None:
        self._entry = entry
        self._release = connection.release
        self.named = entry.named
        self.call = connection.call
        self.shm = connection.shm
        self.close = connection.close

    def release(self) -> None:
        """The device is free, then the connection lets go."""
        self._entry.opened_by = None
        self._release()


class BusRegistry:
    """All buses, devices and members of one vbus host.

    :param classes: device classes by name; the service loads them from the entry points ``pvnet.devices``.
    """

    def __init__(self, classes: Mapping[str, DeviceClass]) -> None:
        self.classes = dict(classes)
        self._buses: dict[str, Bus] = {}
        self._devices: dict[str, _Device] = {}
        self._member_of: dict[str, Bus] = {}
        self._connected: dict[str, Observer] = {}

    # -- the bridge's side -------------------------------------------------------------------------------------------

    def bus_of(self, client: str) -> Bus:
        """The bus that ``client`` is a member of.

        :raises VbusError: EPERM, of none.
        """
        bus = self._member_of.get(client)
        if bus is None:
            raise VbusError(EPERM, f"{client} is a member of no bus")
        return bus

    def subscribe(self, client: str, observer: Observer) -> None:
        """``client`` is connected: it is told every device that its bus has now, and what changes from now on."""
        self._connected[client] = observer
        bus = self._member_of.get(client)
        if bus is not None:
            self._watch(bus, client, observer)

    def unsubscribe(self, client: str) -> None:
        """``client`` is no longer connected; it stays a member."""
        self._connected.pop(client, None)
        bus = self._member_of.get(client)
        if bus is not None:
            bus._members[client] = None

    @staticmethod
    def _watch(bus: Bus, client: str, observer: Observer) -> None:
        for entry in bus._devices.values():
            observer.device_added(entry.id, entry.type)
        bus._members[client] = observer

    # -- admin: buses ------------------------------------------------------------------------------------------------

    def bus_create(self, name: str) -> Bus:
        """Make the bus ``name``.

        :raises VbusError: EEXIST, EINVAL the name is not one.
        """
        _check_name(name)
        if name in self._buses:
            raise VbusError(EEXIST, f"there is a bus {name}")
        self._buses[name] = Bus(name)
        return self._buses[name]

    def bus_remove(self, name: str) -> None:
        """Remove an empty bus.

        :raises VbusError: ENOENT, EBUSY it has devices or members.
        """
        bus = self.bus(name)
        if bus._devices or bus._members:
            raise VbusError(EBUSY, f"bus {name} has devices or members")
        del self._buses[name]

    def bus(self, name: str) -> Bus:
        """The bus ``name``.

        :raises VbusError: ENOENT.
        """
        bus = self._buses.get(name)
        if bus is None:
            raise VbusError(ENOENT, f"there is no bus {name!r}")
        return bus

    def has_bus(self, name: str) -> bool:
        """Whether there is a bus of that name."""
        return name in self._buses

    def has_device(self, name: str) -> bool:
        """Whether there is a device of that name."""
        return name in self._devices

    def is_member(self, client: str) -> bool:
        """Whether ``client`` is a member of any bus."""
        return client in self._member_of

    # -- admin: devices ----------------------------------------------------------------------------------------------

    def device_create(self, kind: str, name: str, attributes: Mapping[str, str] | None = None) -> Device:
        """Make a device of class ``kind``; it is on no bus yet.

        :raises VbusError: ENOENT no such class, EEXIST, EINVAL bad name or attribute; DeviceFailedError.
        """
        _check_name(name)
        made_by = self.classes.get(kind)
        if made_by is None:
            raise VbusError(ENOENT, f"there is no device class {kind!r}; there are: {', '.join(sorted(self.classes))}")
        if name in self._devices:
            raise VbusError(EEXIST, f"there is a device {name}")
        with _guarded(_named(name, kind), "create"):
            device = made_by.create(name, dict(attributes or {}))
            type_ = str(device.type)
            if not is_type(type_):
                device.close()
                raise VbusError(EINVAL, f"class {kind} makes devices of type {type_!r}")
        self._devices[name] = _Device(name, kind, device, type_)
        return device

    def device_remove(self, name: str) -> None:
        """Remove a device that is on no bus and not open.

        :raises VbusError: ENOENT, EBUSY; DeviceFailedError, it is removed, but its ``close`` failed.
        """
        entry = self._entry(name)
        if entry.bus is not None:
            raise VbusError(EBUSY, f"device {name} is on bus {entry.bus.name}")
        if entry.opened_by is not None:
            raise VbusError(EBUSY, f"device {name} is still open by {entry.opened_by}")
        del self._devices[name]
        with _guarded(entry.named, "close"):
            entry.device.close()

    def device(self, name: str) -> Device:
        """The device ``name``.

        :raises VbusError: ENOENT.
        """
        return self._entry(name).device

    def attach(self, name: str, bus_name: str) -> int:
        """Put a device on a bus: every member gets DEVADD.

        :returns: its id there.
        :raises VbusError: ENOENT, EBUSY it is on a bus, ENOSPC no ids left.
        """
        entry = self._entry(name)
        bus = self.bus(bus_name)
        if entry.bus is not None:
            raise VbusError(EBUSY, f"device {name} is on bus {entry.bus.name}")
        if bus._next >= LAST_ID:
            raise VbusError(ENOSPC, f"bus {bus_name} has no more ids")
        entry.bus, entry.id = bus, bus._next
        bus._next += 1
        bus._devices[entry.id] = entry
        for observer in bus._observers():
            observer.device_added(entry.id, entry.type)
        return entry.id

    def detach(self, name: str, *, force: bool = False) -> None:
        """Take a device off its bus: every member gets DEVDROP.

        An open connection lives on until its client closes it, unless ``force``: then its signals close first and the
        client's DEVCLOSE only confirms.  With ``force`` a device that is detached already but still open is given up.

        :raises VbusError: ENOENT, no such device or it is on no bus.
        """
        entry = self._entry(name)
        bus = entry.bus
        if bus is not None:
            del bus._devices[entry.id]
            entry.bus = None
            for observer in bus._observers():
                observer.device_dropped(entry.id)
        elif not force or entry.opened_by is None:
            raise VbusError(ENOENT, f"device {name} is on no bus")
        if force and entry.opened_by is not None:
            self._connected[entry.opened_by].device_revoked(entry.id)

    def set(self, name: str, attributes: Mapping[str, str]) -> None:
        """Change attributes of a device, in order, until one is refused.

        :raises VbusError: ENOENT, or what the device answers; DeviceFailedError.
        """
        entry = self._entry(name)
        for key, value in attributes.items():
            with _guarded(entry.named, f"set {key}"):
                entry.device.set(key, value)

    def get(self, name: str, key: str) -> str:
        """One attribute of a device.

        :raises VbusError: ENOENT, or what the device answers; DeviceFailedError.
        """
        entry = self._entry(name)
        with _guarded(entry.named, f"get {key}"):
            return entry.device.get(key)

    # -- admin: members ----------------------------------------------------------------------------------------------

    def join(self, client: str, bus_name: str) -> None:
        """Make ``client`` a member; when it is connected it learns the devices at once.

        :raises VbusError: ENOENT no such bus, EEXIST it is a member of one.
        """
        bus = self.bus(bus_name)
        current = self._member_of.get(client)
        if current is not None:
            raise VbusError(EEXIST, f"{client} is a member of bus {current.name}")
        self._member_of[client] = bus
        bus._members[client] = None
        observer = self._connected.get(client)
        if observer is not None:
            self._watch(bus, client, observer)

    def leave(self, client: str) -> None:
        """End a membership: the client loses every device, open ones by force.

        :raises VbusError: ENOENT, it is no member.
        """
        bus = self._member_of.pop(client, None)
        if bus is None:
            raise VbusError(ENOENT, f"{client} is a member of no bus")
        observer = bus._members.pop(client)
        if observer is not None:
            for id_ in list(bus._devices):
                observer.device_dropped(id_)
                observer.device_revoked(id_)

    # -- showing -----------------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, object]:
        """Everything as plain values, for showing and JSON."""
        return {
            "buses": [bus.shown() for bus in self._buses.values()],
            "devices": [_shown(entry) for entry in self._devices.values()],
            "classes": self.shown_classes(),
        }

    def shown_device(self, name: str) -> dict[str, object]:
        """One device as plain values.

        :raises VbusError: ENOENT.
        """
        return _shown(self._entry(name))

    def shown_classes(self) -> list[dict[str, str]]:
        """The device classes as plain values."""
        return [{"name": name, "type": made_by.type} for name, made_by in sorted(self.classes.items())]

    def _entry(self, name: str) -> _Device:
        entry = self._devices.get(name)
        if entry is None:
            raise VbusError(ENOENT, f"there is no device {name!r}")
        return entry


def _shown(entry: _Device) -> dict[str, object]:
    attributes: dict[str, str] = {}
    error: str | None = None
    try:
        with _guarded(entry.named, "attributes"):
            attributes = {str(key): str(value) for key, value in entry.device.attributes().items()}
    except PvnetError as refusal:  # one device that cannot be shown must not hide the others
        error = str(refusal)
    return {
        "name": entry.name,
        "class": entry.kind,
        "type": entry.type,
        "bus": entry.bus.name if entry.bus is not None else None,
        "id": entry.id if entry.bus is not None else None,
        "opened_by": entry.opened_by,
        "attributes": attributes,
        "error": error,
    }


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise VbusError(EINVAL, f"{name!r} is no name: 1 to 64 of a-z 0-9 - _ .")
