"""What a topology says of mediated devices: hosts, parents, devices, and who uses them.

Each ``[[mdev_host]]`` is a process of its own.  Vendor drivers that need no attribute (``mtty``, ``mdpy``) have a
parent of their name in every host; others are made by ``[[mdev_host.parent]]``.  Which drivers there are is known only
where they are installed, so their names and attributes are checked by the host when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from pvnet.runtime.topology_base import Name, Restart, Strict

MDEV_HOST: Final = "mdevs"
"""Name of an mdev host that is not given one."""
_PARENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def check_parent_name(value: str) -> str:
    """Return the name of a parent, or ValueError."""
    if not _PARENT.fullmatch(value):
        raise ValueError("the name of a parent: 1 to 64 of letters, digits, . _ -, beginning with a letter or digit")
    return value


def check_uuid(value: str) -> str:
    """Return a UUID in lower case, or ValueError."""
    if not _UUID.fullmatch(value):
        raise ValueError('a UUID such as "c0ffee00-0000-4000-8000-000000000001"')
    return value.lower()


def _socket(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("the path of a unix socket")
    return value


ParentName = Annotated[
    str, AfterValidator(check_parent_name), WithJsonSchema({"type": "string", "pattern": f"^{_PARENT.pattern}$"})
]
Uuid = Annotated[str, AfterValidator(check_uuid), WithJsonSchema({"type": "string", "pattern": f"^{_UUID.pattern}$"})]
SocketPath = Annotated[str, AfterValidator(_socket), WithJsonSchema({"type": "string"})]


class MdevParentConfig(Strict):
    """A parent: something that hosts mediated devices."""

    name: ParentName
    """Name of the parent."""
    driver: str = Field(min_length=1, max_length=64)
    """Vendor driver that it is made with; ``pvnet mdev drivers`` lists them."""
    attributes: dict[str, str] = Field(default_factory=dict)
    """What the driver needs: ``image`` and ``size`` of ``vfio_ccw``, ``scm`` of ``pmem``.  An ``image`` is relative to
    this file; a disk without one lives as long as the lab."""


class MdevConfig(Strict):
    """A mediated device that is there when its host starts."""

    uuid: Uuid
    """Its UUID, and its name."""
    parent: ParentName
    """The parent that makes it."""
    type: str = Field(min_length=1, max_length=128)
    """Type, in full: ``mtty-2``."""
    partition: Name | None = None
    """The partition that uses it; without one it is for whoever attaches."""
    vfio_user: SocketPath | None = None
    """Socket at which vfio-user clients (QEMU) find it, relative to this file; then no partition can have it."""
    attributes: dict[str, str] = Field(default_factory=dict)
    """Attributes that it is made with, such as ``port0 = "pty"`` of a serial card."""


class MdevHostConfig(Strict):
    """A process that hosts mediated devices."""

    name: Name = MDEV_HOST
    """Name of its process."""
    parents: list[MdevParentConfig] = Field(default_factory=list, alias="parent")
    """Parents beside those that every host has: ``[[mdev_host.parent]]``."""
    mdevs: list[MdevConfig] = Field(default_factory=list, alias="mdev")
    """Devices: ``[[mdev_host.mdev]]``."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""


def check_mdevs(hosts: Sequence[MdevHostConfig], partitions: Iterable[str]) -> None:
    """Check what can be checked without the drivers.

    :raises ValueError: what was expected instead.
    """
    known, uuids, sockets = set(partitions), set[str](), set[str]()
    for host in hosts:
        parents = [parent.name for parent in host.parents]
        if len(set(parents)) != len(parents):
            raise ValueError(f"a name of its own for each parent of {host.name!r}")
        for mdev in host.mdevs:
            if mdev.uuid in uuids:
                raise ValueError(f"a UUID of its own for each device: {mdev.uuid} is used twice")
            uuids.add(mdev.uuid)
            if mdev.partition is not None and mdev.partition not in known:
                raise ValueError(f"a partition of this lab for {mdev.uuid}, not {mdev.partition!r}")
            if mdev.vfio_user is not None:
                if mdev.partition is not None:
                    raise ValueError(f"partition or vfio_user for {mdev.uuid}, not both: a device has one user")
                if mdev.vfio_user in sockets:
                    raise ValueError(f"a socket of its own for {mdev.uuid}: {mdev.vfio_user!r} is used twice")
                sockets.add(mdev.vfio_user)
