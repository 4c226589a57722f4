"""Making devices, also hidden ones that a migration fills.

Spec: mdev 1.7, 3.1, 3.2, 2 (R12, R15 to R19, R33), 9.1 (A3, A4, A10, A11, A13).
"""

from __future__ import annotations

from collections.abc import Mapping

from pvnet.mdev.device import MdevDevice
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_attributes import ATTRIBUTE, check_asked
from pvnet.mdev.life_bind import bind, unbind
from pvnet.mdev.life_objects import Mdev, MdevState, ParentState, Tables
from pvnet.mdev.life_steps import Op, attempt, vendor
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.papr.errno import EINVAL, ENODEV, ENOENT


def create(
    tables: Tables, parent_name: str, type_name: str, name: MdevName, attributes: Mapping[str, str], *, hidden: bool
) -> Op[Mdev]:
    """Make a device of the type with this full name; whatever fails, nothing is left of it.

    Checks in this order: the attributes, the parent is there, its type is, the name is free, the parent has room; then
    the vendor creates it, its attributes are read, and a bus driver begins to serve it.

    :raises MdevError: EINVAL as :func:`~pvnet.mdev.life_attributes.check_asked`; ENODEV, ENOENT, EEXIST, EUSERS; else
        as vendor or bus driver say, as a pool's ENOSPC.
    """
    check_asked(attributes)
    parent = tables.parents.get(parent_name)
    if parent is None or parent.state is not ParentState.REGISTERED:
        raise MdevError(ENODEV, f"parent {parent_name}")
    kind = parent.types.get(type_name)
    if kind is None:
        raise MdevError(ENOENT, f"parent {parent_name} has no type {type_name!r}")
    mdev = Mdev(name, parent, type_name, kind, dict(attributes), hidden)
    tables.claim(mdev)
    try:
        yield from _build(tables, mdev)
        mdev.state = MdevState.ACTIVE
        _announce(tables, mdev)
    finally:
        if mdev.state is MdevState.CREATING:
            tables.forget(mdev)
    return mdev


def _build(tables: Tables, mdev: Mdev) -> Op[None]:
    ops = mdev.parent.ops
    assert ops is not None
    what = f"create of {mdev.type_name} {mdev.name}"
    made: MdevDevice = yield from vendor(
        tables.note, what, lambda: ops.create(mdev.type.name, str(mdev.name), dict(mdev.asked))
    )
    mdev.device = made
    try:
        _check_parent(mdev)
        yield from vendor(tables.note, f"attributes of {mdev.name}", lambda: check_device(made))
        _check_parent(mdev)
        yield from bind(tables, mdev)
        _check_parent(mdev)
    except MdevError:
        yield from unbind(tables, mdev)
        # It may have no such method: that may be what was wrong with it.
        yield from attempt(tables.note, f"remove of {mdev.name}", lambda: made.remove())  # noqa: PLW0108
        raise


def _check_parent(mdev: Mdev) -> None:
    if mdev.parent.state is not ParentState.REGISTERED:
        raise MdevError(ENODEV, f"parent {mdev.parent.name} is unregistered")


def check_device(device: MdevDevice) -> None:
    """Check what a vendor made: that it can be removed, and that its attributes can be shown.

    :raises MdevError: EINVAL it lacks a method, a key or value is none; as the device says.
    """
    for method in ("open", "close", "reset", "start", "stop", "check_remove", "remove", "attributes", "set"):
        if not callable(getattr(device, method, None)):
            raise MdevError(EINVAL, f"{device!r} is no device: it has no {method}")
    shown: list[tuple[object, object]] = list(device.attributes().items())
    for key, value in shown:
        if not isinstance(key, str) or ATTRIBUTE.fullmatch(key) is None or not isinstance(value, str):
            raise MdevError(EINVAL, f"attribute {key!r} with value {value!r}")


def _announce(tables: Tables, mdev: Mdev) -> None:
    tables.happened("add", mdev, TYPE=mdev.type_name, PARENT=mdev.parent.name)
    tables.tell_driver(mdev)
    tables.changed.notify()


def hidden_one(tables: Tables, name: MdevName) -> Mdev:
    """Return a hidden device.

    :raises MdevError: ENODEV there is none of this name, or it is not hidden, or is being created or removed.
    """
    mdev = tables.mdevs.get(name)
    if mdev is None or not mdev.hidden or mdev.state is not MdevState.ACTIVE:
        raise MdevError(ENODEV, f"no hidden mdev {name}")
    return mdev


def reveal(tables: Tables, name: MdevName) -> Mdev:
    """Make a hidden device visible; from now on it is like any other.

    :raises MdevError: ENODEV no such hidden device, also: its parent is being unregistered.
    """
    mdev = hidden_one(tables, name)
    _check_parent(mdev)
    mdev.hidden = False
    _announce(tables, mdev)
    return mdev
