"""Registering and unregistering parents.

Spec: mdev 1.5, 1.6, 3.1, 3.2, 2 (R13, R15, R16, R19, R24, R40), 9.1 (A1, A2, A3, A9).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pvnet.mdev.device import DriverServices, MdevDriver, MdevType, ParentOps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_attributes import check_asked
from pvnet.mdev.life_objects import MdevState, Parent, ParentState, Tables
from pvnet.mdev.life_remove import take_away
from pvnet.mdev.life_steps import Op, Patience, attempt, vendor, wait_for
from pvnet.papr.errno import EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV

PARENT_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
DRIVER_NAME: Final = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
TYPE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", re.ASCII)
DEVICE_APIS: Final = ("vfio-pci", "vfio-platform", "vfio-amba", "vfio-ccw", "vfio-ap")


def register_parent(
    tables: Tables, name: str, driver: MdevDriver, attributes: Mapping[str, str], services: DriverServices
) -> Op[Parent]:
    """Make a parent; its name is taken from the first step on, and nobody sees it before the last.

    :raises MdevError: EINVAL name, attributes, driver or what the driver made is unusable; EEXIST the name is taken;
        else as the vendor driver says.
    """
    if PARENT_NAME.fullmatch(name) is None:
        raise MdevError(EINVAL, f"parent name {name!r}")
    if name in tables.parents:
        raise MdevError(EEXIST, f"parent {name}")
    check_asked(attributes)
    parent = tables.parents[name] = Parent(name, driver, dict(attributes))
    try:
        yield from vendor(tables.note, f"check of the driver of {name}", lambda: check_driver(driver))
        ops: ParentOps = yield from vendor(
            tables.note,
            f"create_parent of {driver.name} {name}",
            lambda: driver.create_parent(name, dict(attributes), services),
        )
        try:
            parent.types, parent.max_instances = yield from vendor(
                tables.note, f"types of {name}", lambda: offered(driver, ops)
            )
        except MdevError:
            # It may have no such method: that may be what was wrong with it.
            yield from attempt(tables.note, f"close of {name}", lambda: ops.close())  # noqa: PLW0108
            raise
        parent.ops = ops
        parent.state = ParentState.REGISTERED
        tables.events.add("change", "parent", name, MDEV_STATE="registered")
        return parent
    finally:
        if parent.state is not ParentState.REGISTERED:
            _gone(tables, parent)


def unregister_parent(tables: Tables, name: str, *, force: bool, patience_s: float) -> Op[None]:
    """Take a parent away: no new devices, then its devices are removed, then it is closed.

    With ``force`` nothing can refuse; users get ``patience_s`` seconds altogether to let go by themselves.  Without, a
    parent that has devices, also half-created ones, stays as it is.

    :raises MdevError: ENODEV no such parent or another request is at it, EAGAIN it is being registered, EBUSY not
        forced and it has devices.
    """
    parent = tables.parents.get(name)
    if parent is None or parent.being_unregistered:
        raise MdevError(ENODEV, f"parent {name}")
    if parent.state is ParentState.REGISTERING:
        raise MdevError(EAGAIN, f"parent {name} is being registered")
    if parent.references and not force:
        raise MdevError(EBUSY, f"parent {name} has {len(parent.children)} devices")
    parent.state = ParentState.LEAVING
    parent.being_unregistered = True
    tables.changed.notify()
    patience = Patience(patience_s)
    try:
        while parent.references:
            child = next((child for child in parent.children.values() if child.state is MdevState.ACTIVE), None)
            if child is not None:
                child.ending = f"parent {name} is unregistered"
                yield from take_away(tables, child, force=True, patience=patience)
            else:
                yield from wait_for(
                    lambda: not parent.references or _any_active(parent), tables.changed, f"devices of {name}"
                )
        assert parent.ops is not None
        yield from attempt(tables.note, f"close of {name}", parent.ops.close)
        _gone(tables, parent)
        tables.events.add("change", "parent", name, MDEV_STATE="unregistered")
    finally:
        parent.being_unregistered = False


def _any_active(parent: Parent) -> bool:
    return any(child.state is MdevState.ACTIVE for child in parent.children.values())


def _gone(tables: Tables, parent: Parent) -> None:
    del tables.parents[parent.name]
    parent.state = ParentState.GONE
    tables.changed.notify()


def check_driver(driver: MdevDriver) -> None:
    """Check what a third party calls a vendor driver.

    :raises MdevError: EINVAL, with what is wrong.
    """
    name, api = getattr(driver, "name", None), getattr(driver, "device_api", None)
    if not isinstance(name, str) or DRIVER_NAME.fullmatch(name) is None:
        raise MdevError(EINVAL, f"driver name {name!r}")
    if api not in DEVICE_APIS:
        raise MdevError(EINVAL, f"driver {name}: device_api {api!r}")
    if not callable(getattr(driver, "create_parent", None)):
        raise MdevError(EINVAL, f"driver {name} has no create_parent")


def offered(driver: MdevDriver, ops: ParentOps) -> tuple[dict[str, MdevType], int | None]:
    """Check what a vendor driver made; returns its types by full name, and ``max_instances`` if it has that.

    :raises MdevError: EINVAL, with what is wrong.
    """
    for method in ("create", "available", "attributes", "close"):
        if not callable(getattr(ops, method, None)):
            raise MdevError(EINVAL, f"parent of {driver.name} has no {method}")
    types: dict[str, MdevType] = {}
    for kind in ops.types:
        full = f"{driver.name}-{kind.name}"
        if TYPE_NAME.fullmatch(kind.name) is None or full in types:
            raise MdevError(EINVAL, f"type {full!r}")
        types[full] = kind
    if not types:
        raise MdevError(EINVAL, f"parent of {driver.name} has no types")
    most = getattr(ops, "max_instances", None)
    if most is not None and (not isinstance(most, int) or most < 0):
        raise MdevError(EINVAL, f"parent of {driver.name}: max_instances {most!r}")
    return types, most
