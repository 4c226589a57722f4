"""Joining devices and bus drivers.

Drivers are asked in the order of their registration, the default one (``vfio``) last; the first that matches gets the
device, together with an IOMMU group of its own.

Spec: mdev 1.10, 2 (R1, R14, R50), 9.1 (A10, A11).
"""

from __future__ import annotations

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_objects import BoundDriver, BusDriver, Mdev, MdevState, Tables
from pvnet.mdev.life_steps import Op, attempt, vendor, wait_for
from pvnet.papr.errno import EEXIST, EINVAL, ENOENT


def bind(tables: Tables, mdev: Mdev) -> Op[None]:
    """Find a driver for a device that is held or being created; there may be none.

    :raises MdevError: a driver matched and failed; the device is in no group then.
    """
    tried: set[BoundDriver] = set()
    mdev.binding = True
    try:
        while mdev.bound is None:
            # Looked up anew each time: a driver that has come meanwhile counts on us.
            record = next((each for each in tables.drivers if each not in tried and not each.leaving), None)
            if record is None:
                return
            tried.add(record)
            yield from _try(tables, mdev, record)
    finally:
        mdev.binding = False
        tables.changed.notify()


def _try(tables: Tables, mdev: Mdev, record: BoundDriver) -> Op[None]:
    driver = record.driver
    record.references += 1
    try:
        matches = yield from vendor(tables.note, f"match of {driver.name} {mdev.name}", lambda: driver.match(mdev))
        if matches and not record.leaving:
            tables.take_group(mdev)
            yield from vendor(tables.note, f"probe of {driver.name} {mdev.name}", lambda: driver.probe(mdev))
            mdev.bound = record
    finally:
        if mdev.bound is None:
            tables.drop_group(mdev)
            mdev.vfio = None
            record.references -= 1
            tables.changed.notify()


def unbind(tables: Tables, mdev: Mdev) -> Op[None]:
    """Take a device from its driver, if it has one; its user loses it."""
    record = mdev.bound
    if record is None:
        return
    mdev.bound = None
    mdev.binding = True
    if mdev.vfio is not None:
        mdev.vfio.hold()
    try:
        what = f"remove of {record.driver.name} {mdev.name}"
        yield from attempt(tables.note, what, lambda: record.driver.remove(mdev))
    finally:
        mdev.vfio = None
        mdev.binding = False
        tables.drop_group(mdev)
        record.references -= 1
        tables.tell_driver(mdev)
        tables.changed.notify()


def register_driver(tables: Tables, driver: BusDriver) -> Op[None]:
    """Add a bus driver and offer it every device that has none; a failing probe leaves that device without.

    :raises MdevError: EEXIST the name is taken, EINVAL it lacks something.
    """
    name = getattr(driver, "name", None)
    if not isinstance(name, str) or not name:
        raise MdevError(EINVAL, f"bus driver name {name!r}")
    for method in ("match", "probe", "remove"):
        if not callable(getattr(driver, method, None)):
            raise MdevError(EINVAL, f"bus driver {name} has no {method}")
    if any(each.driver.name == name for each in tables.drivers):
        raise MdevError(EEXIST, f"bus driver {name}")
    tables.drivers.append(BoundDriver(driver))
    tables.drivers.sort(key=lambda record: record.last)
    for mdev in tuple(tables.mdevs.values()):
        yield from _settle(tables, mdev)
        if mdev.state is MdevState.ACTIVE and mdev.bound is None:
            yield from _offer(tables, mdev)


def _settle(tables: Tables, mdev: Mdev) -> Op[bool]:
    """Wait until it is clear whether a device has a driver.

    One that is being created asks the drivers itself, the new one, too; one on its way out may be refused and stay.
    """

    def settled() -> bool:
        return mdev.state is not MdevState.REMOVING and not (mdev.state is MdevState.ACTIVE and mdev.binding)

    return wait_for(settled, tables.changed, f"the driver of {mdev.name}")


def _offer(tables: Tables, mdev: Mdev) -> Op[None]:
    with tables.held(mdev):
        try:
            yield from bind(tables, mdev)
        except MdevError:
            return  # noted where it happened
        tables.tell_driver(mdev)


def unregister_driver(tables: Tables, name: str) -> Op[None]:
    """Take a bus driver away; its devices stay, without a driver, and their users lose them.

    :raises MdevError: ENOENT no such driver, or another request is at it.
    """
    record = next((each for each in tables.drivers if each.driver.name == name and not each.leaving), None)
    if record is None:
        raise MdevError(ENOENT, f"bus driver {name}")
    record.leaving = True
    try:
        while record.references:
            mdev = _active(tables, record)
            if mdev is None:
                yield from wait_for(
                    lambda: not record.references or _active(tables, record) is not None,
                    tables.changed,
                    f"devices of driver {name}",
                )
                continue
            with tables.held(mdev):
                yield from unbind(tables, mdev)
    except BaseException:
        record.leaving = False
        raise
    tables.drivers.remove(record)
    tables.changed.notify()


def _active(tables: Tables, record: BoundDriver) -> Mdev | None:
    found = (mdev for mdev in tables.mdevs.values() if mdev.bound is record and mdev.state is MdevState.ACTIVE)
    return next(found, None)
