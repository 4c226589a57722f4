"""The text files of 2016: ``mdev_supported_types``, ``mdev_create``, ``mdev_destroy``, ``mdev_start``, ...

Input and order of checks are those of the original, byte for byte.  A text ends at its first NUL.

* ``mdev_create`` takes ``UUID:instance:params``; params is all that follows the second colon, further colons included.
  What params mean was the vendor's business.  Here: nothing (or one newline) is the parent's first type, otherwise
  ``TYPE[,key=value]...`` with the full or the short name of a type, and one newline at the end is no part of it.
* ``mdev_destroy`` takes ``UUID:instance`` of a device of that same parent (the original let it be any parent's).
* ``mdev_start`` and ``mdev_shutdown`` take ``UUID`` and mean all devices of that virtual machine.

Results differ in one respect.  The original made EINVAL of every failed creation, and success of a refused
destruction.  The review (R9) called the second a defect, and the first is one for the same reason: who asked cannot
tell "exists" from "no room".  Here the result is what has happened (EEXIST, EUSERS, ENOSPC, EBUSY, EAGAIN, ...); texts
that do not parse and devices that do not exist remain EINVAL.

Spec: mdev 1.12, 2 (R5, R6, R9, R32, R33), 9.1 (A6, A12, A14).
"""

from __future__ import annotations

from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life import Registry
from pvnet.mdev.life_objects import Parent
from pvnet.mdev.life_steps import Op
from pvnet.mdev.mdev_uuid import MdevName, parse_instance, parse_rfc
from pvnet.papr.errno import EINVAL, ENODEV

SUPPORTED_TYPES_SIZE: Final = 1024
"""Most bytes of ``mdev_supported_types``, its newline included."""


def parse_create(data: bytes) -> tuple[MdevName, bytes]:
    """Return name and params of a text for ``mdev_create``.

    :raises MdevError: EINVAL, ERANGE; the first of: no colon, instance, no second colon, UUID.
    """
    uuid, colon, rest = _text(data).partition(b":")
    if not colon:
        raise MdevError(EINVAL, "no instance")
    number, colon, params = rest.partition(b":")
    instance = parse_instance(number)
    if not colon:
        raise MdevError(EINVAL, "no params")
    return MdevName(parse_rfc(uuid), instance), params


def parse_destroy(data: bytes) -> MdevName:
    """Return the name in a text for ``mdev_destroy``.

    :raises MdevError: EINVAL, ERANGE; the first of: no colon, instance, UUID.
    """
    uuid, colon, number = _text(data).partition(b":")
    if not colon:
        raise MdevError(EINVAL, "no instance")
    instance = parse_instance(number)
    return MdevName(parse_rfc(uuid), instance)


def choose_type(parent: Parent, params: bytes) -> tuple[str, dict[str, str]]:
    """Return full type name and attributes that ``params`` ask for.

    :raises MdevError: EINVAL not UTF-8, no such type, not ``key=value``, a key twice.
    """
    try:
        text = params.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise MdevError(EINVAL, "params are not UTF-8") from error
    if not text:
        return next(iter(parent.types)), {}
    asked, *pairs = text.split(",")
    full = asked if asked in parent.types else f"{parent.driver.name}-{asked}"
    if full not in parent.types:
        raise MdevError(EINVAL, f"parent {parent.name} has no type {asked!r}")
    attributes: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in attributes:
            raise MdevError(EINVAL, f"{pair!r} in params")
        attributes[key] = value
    return full, attributes


def supported_types(registry: Registry, name: str) -> bytes:
    """Return what ``mdev_supported_types`` of a parent reads: a line per type, at most 1024 bytes altogether.

    A parent that has vanished is a newline, as in the original.
    """
    parent = registry.parents().get(name)
    types = parent.types.items() if parent is not None else ()
    lines = [" ".join(filter(None, (full, kind.pretty_name, kind.description))) for full, kind in types]
    text = "\n".join(lines).encode(errors="replace")[: SUPPORTED_TYPES_SIZE - 1]
    return text.decode(errors="ignore").encode() + b"\n"


def mdev_create(registry: Registry, parent: str, data: bytes) -> Op[int]:
    """Write to ``mdev_create``; returns the number of bytes.

    :raises MdevError: as :func:`parse_create` and :func:`choose_type`, then as :meth:`Registry.create`.
    """
    name, params = parse_create(data)
    type_name, attributes = choose_type(registry.parent(parent), params)
    yield from registry.create(parent, type_name, name, attributes)
    return len(data)


def mdev_destroy(registry: Registry, parent: str, data: bytes, *, patience_s: float = 0.0) -> Op[int]:
    """Write to ``mdev_destroy``; returns the number of bytes.

    :raises MdevError: EINVAL, ERANGE as :func:`parse_destroy`; EINVAL this parent has no such device; EAGAIN it is
        being created or removed, EBUSY it refuses or is in use.
    """
    name = parse_destroy(data)
    try:
        mdev = registry.find(name)
    except MdevError as error:
        raise (MdevError(EINVAL, f"no mdev {name}") if error.errno == ENODEV else error) from error
    if mdev.parent.name != parent:
        raise MdevError(EINVAL, f"mdev {name} is not of parent {parent}")
    yield from registry.remove(mdev.name, patience_s=patience_s)
    return len(data)


def mdev_start(registry: Registry, data: bytes) -> Op[int]:
    """Write to ``mdev_start``; returns the number of bytes.

    :raises MdevError: EINVAL, or as :meth:`Registry.start`.
    """
    yield from registry.start(parse_rfc(_text(data)))
    return len(data)


def mdev_shutdown(registry: Registry, data: bytes) -> Op[int]:
    """Write to ``mdev_shutdown``; returns the number of bytes.

    :raises MdevError: EINVAL, or as :meth:`Registry.shutdown`.
    """
    yield from registry.shutdown(parse_rfc(_text(data)))
    return len(data)


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]
