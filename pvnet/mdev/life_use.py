"""Working with devices that exist: open, start, shutdown, attributes.

Each holds the device from its first to its last step, so that no callback meets a removed device.

Spec: mdev 1.3, 1.9, 2 (R22, R23), 9.1 (A12).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_attributes import check_asked
from pvnet.mdev.life_objects import Mdev, MdevState, Tables, Vfio
from pvnet.mdev.life_steps import Op, attempt, vendor
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.mdev.user import DeviceUser
from pvnet.papr.errno import EAGAIN, EINVAL, ENODEV


def openable(tables: Tables, name: MdevName) -> Vfio:
    """Return what users open.

    :raises MdevError: ENODEV no such device, or no bus driver that lets users in serves it; EAGAIN it is being created
        or removed.
    """
    mdev = tables.find(name)
    if mdev.vfio is None:
        raise MdevError(ENODEV, f"mdev {name} has no driver")
    return mdev.vfio


def open_device(tables: Tables, name: MdevName, user: DeviceUser) -> Op[Vfio]:
    """Open a device for a user, which closes it by :meth:`Vfio.close`.

    :raises MdevError: as :func:`openable`; EBUSY it is open; else as the device says.
    """
    vfio = openable(tables, name)
    with tables.held(tables.find(name)):
        yield from vendor(tables.note, f"open of {name}", lambda: vfio.open(user))
    return vfio


def of_machine(tables: Tables, uuid: str) -> list[Mdev]:
    """Return all active devices of a virtual machine, by instance.

    :raises MdevError: EINVAL unless the device (UUID, instance 0), or the one whose name is the UUID, is active.
    """
    found = [
        mdev
        for name, mdev in tables.mdevs.items()
        if name.uuid == uuid and mdev.state is MdevState.ACTIVE and not mdev.hidden
    ]
    if not any(mdev.name.instance in {None, 0} for mdev in found):
        raise MdevError(EINVAL, f"no active mdev {uuid} instance 0")
    return sorted(found, key=lambda mdev: mdev.name.instance or 0)


@contextmanager
def _starting(tables: Tables, uuid: str) -> Iterator[list[Mdev]]:
    mdevs = of_machine(tables, uuid)
    for mdev in mdevs:
        tables.free(mdev)
        if mdev.starting:
            raise MdevError(EAGAIN, f"mdev {mdev.name} is being started or shut down")
    for mdev in mdevs:
        mdev.starting = True
    try:
        with tables.held(*mdevs):
            yield mdevs
    finally:
        for mdev in mdevs:
            mdev.starting = False


def start(tables: Tables, uuid: str) -> Op[int]:
    """The virtual machine is about to boot: start all its devices, or none; returns how many.

    :raises MdevError: EINVAL as :func:`of_machine`; EAGAIN a start or shutdown is under way, EBUSY a migration is; else
        the refusal of the first device that refuses, after those before it have been stopped again.
    """
    with _starting(tables, uuid) as mdevs:
        done: list[Mdev] = []
        try:
            for mdev in mdevs:
                yield from vendor(tables.note, f"start of {mdev.name}", mdev.works.start)
                done.append(mdev)
        except MdevError:
            for mdev in reversed(done):
                yield from attempt(tables.note, f"stop of {mdev.name}", mdev.works.stop)
            raise
        for mdev in mdevs:
            mdev.online = True
            tables.happened("online", mdev)
        return len(mdevs)


def shutdown(tables: Tables, uuid: str) -> Op[int]:
    """The virtual machine is going down: stop all its devices; returns how many.

    :raises MdevError: as :func:`start`; a device that refuses does not keep the others from being stopped, and the
        first refusal is reported.
    """
    with _starting(tables, uuid) as mdevs:
        refusal: MdevError | None = None
        for mdev in mdevs:
            error = yield from attempt(tables.note, f"stop of {mdev.name}", mdev.works.stop)
            if error is None:
                mdev.online = False
                tables.happened("offline", mdev)
            refusal = refusal or error
        if refusal is not None:
            raise refusal
        return len(mdevs)


def set_attribute(tables: Tables, name: MdevName, key: str, value: str) -> Op[None]:
    """Change an attribute of a device.

    :raises MdevError: EINVAL as :func:`~pvnet.mdev.life_attributes.check_asked`; ENODEV, EAGAIN, EBUSY a migration is
        under way; else as the device says.
    """
    check_asked({key: value})
    mdev = tables.free(tables.find(name))
    with tables.held(mdev):
        yield from vendor(tables.note, f"set {key} of {mdev.name}", lambda: mdev.works.set(key, value))


def pin(tables: Tables, name: MdevName, why: str) -> Mdev:
    """Keep a device from being removed by itself, started or changed: a migration begins.

    :raises MdevError: ENODEV, EAGAIN; EBUSY it is pinned.
    """
    mdev = tables.free(tables.find(name))
    if mdev.starting:
        raise MdevError(EAGAIN, f"mdev {mdev.name} is being started or shut down")
    mdev.pinned = why
    return mdev
