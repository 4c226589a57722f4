"""Removing devices: by request, by force, because they moved away.

Spec: mdev 1.8, 3.1, 3.2, 2 (R9, R10, R13, R42), 9.1 (A7, A8, A9, A15).
"""

from __future__ import annotations

from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_bind import unbind
from pvnet.mdev.life_objects import Mdev, MdevState, ParentState, Tables
from pvnet.mdev.life_steps import Op, Patience, attempt, vendor, wait_for
from pvnet.papr.errno import EBUSY


def take_away(tables: Tables, mdev: Mdev, *, force: bool, patience: Patience, moved_to: str = "") -> Op[None]:
    """Remove an active device.

    Nobody else can begin to use or remove it from the first step on.  Then, in this order: requests that work with it
    are waited for; the device is asked (not with ``force``); its user is asked to let go, and waited for.  If that does
    not succeed within ``patience`` the device is active again, as it was, or with ``force`` the user is cut off.  A
    removal during which the parent is unregistered becomes a forced one.

    :raises MdevError: EBUSY the device refuses or is in use.  Never with ``force``.
    """
    mdev.state = MdevState.REMOVING
    if mdev.vfio is not None:
        mdev.vfio.hold()
    try:
        yield from _agree(tables, mdev, force=force, patience=patience)
    except BaseException:
        mdev.state = MdevState.ACTIVE
        # Without a driver it is one that is just letting go, and has closed the door itself.
        if mdev.vfio is not None and mdev.bound is not None:
            mdev.vfio.unhold()
        tables.changed.notify()
        raise
    try:
        yield from unbind(tables, mdev)
        yield from attempt(tables.note, f"remove of {mdev.name}", mdev.works.remove)
    finally:
        tables.happened("remove", mdev, **({"MOVED_TO": moved_to} if moved_to else {}))
        tables.forget(mdev)


def _agree(tables: Tables, mdev: Mdev, *, force: bool, patience: Patience) -> Op[None]:
    def insists() -> bool:
        return force or mdev.parent.state is ParentState.LEAVING

    def idle() -> bool:
        return not mdev.holders or (insists() and not force)

    yield from wait_for(idle, tables.changed, f"requests at {mdev.name}", None if force else patience)
    if insists():
        yield from wait_for(lambda: not mdev.holders, tables.changed, f"requests at {mdev.name}")
    elif mdev.holders:
        raise MdevError(EBUSY, f"mdev {mdev.name}: a request is under way")
    yield from _ask_device(tables, mdev, insists())
    if not mdev.in_use:
        return
    if force and patience.seconds <= 0:
        return
    vfio = mdev.vfio
    assert vfio is not None
    yield from attempt(tables.note, f"request_release of {mdev.name}", vfio.request_release)

    def released() -> bool:
        return not mdev.in_use or (insists() and not force)

    yield from wait_for(released, tables.changed, f"the user of {mdev.name}", patience)
    if not (released() or insists()):
        raise MdevError(EBUSY, f"mdev {mdev.name} is in use")
    yield from _ask_device(tables, mdev, insists())


def _ask_device(tables: Tables, mdev: Mdev, insists: bool) -> Op[None]:
    if insists:
        return
    try:
        yield from vendor(tables.note, f"check_remove of {mdev.name}", mdev.works.check_remove)
    except MdevError as error:
        if mdev.parent.state is ParentState.LEAVING:
            return
        tables.note(Note("mdev_remove_refused", (("mdev", str(mdev.name)), ("error", str(error))), "warning"))
        raise error.within(f"mdev {mdev.name} refuses", EBUSY) from error
