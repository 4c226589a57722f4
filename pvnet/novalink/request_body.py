"""The bodies of requests: the elements in them, how they are read, and how they compare with what is served.

A document that changes an object is the whole object, as it was read, with some fields changed.  So it is compared with
what the object's document says now: what differs and can be set becomes part of the command; what differs and cannot be
set is an error that names it; elements that are not served are ignored, and named to the caller for its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from pvnet.novalink.errors import RequestError
from pvnet.novalink.markup import Element, MarkupError, parse
from pvnet.novalink.names import ATOM_NS, UOM_NS
from pvnet.runtime.topology_system import check_label

IGNORED_MAX: Final = 50
"""Most names of ignored elements that are told."""
VALUE_MAX: Final = 1024
"""Most characters of a user's name, a password, and the name and value of a job's parameter."""
_SHOWN_MAX: Final = 60
_BAD: Final = 400

Command = TypeVar("Command")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[Command]):
    """A command, and the elements of the document that had no effect."""

    command: Command
    ignored: tuple[str, ...] = ()


def bad_request(reason: str, message: str) -> RequestError:
    """Return the error of a request that nobody could do, with HTTP status 400."""
    return RequestError(_BAD, reason, message)


def invalid(name: str, value: str, expected: str) -> RequestError:
    """Return the error of a field whose value is none that it can have."""
    return bad_request("Invalid value", f"{name}: {shown(value)}, expected {expected}")


def shown(value: str) -> str:
    """Return as much of a client's value as an error repeats, in quotes."""
    return repr(value if len(value) <= _SHOWN_MAX else value[:_SHOWN_MAX] + "...")


def read_document(data: bytes, namespace: str, name: str) -> Element:
    """Return the element of this name: the document itself, or what an Atom entry has in it."""
    if not data:
        raise bad_request("Empty body", f"the request has no body, expected a {name} document")
    try:
        root = parse(data)
    except MarkupError as error:
        raise bad_request("Malformed XML", str(error)) from None
    if root.namespace == ATOM_NS and root.name == "entry":
        content = root.child("content")
        inside = content.children if content is not None else ()
        if len(inside) != 1:
            raise bad_request(
                "Unexpected document", f"an entry with {len(inside)} elements in its content, expected one"
            )
        root = inside[0]
    if (root.namespace, root.name) != (namespace, name):
        what = f"{shown(root.name)} in the namespace {shown(root.namespace)}"
        raise bad_request("Unexpected document", f"{what}, expected {name} in {namespace!r}")
    return root


def read_flag(name: str, value: str) -> bool:
    """Return the value of a field that is true or false, or raise RequestError."""
    if value.lower() not in ("true", "false"):
        raise invalid(name, value, "true or false")
    return value.lower() == "true"


def read_number(name: str, value: str, low: int, high: int) -> int:
    """Return the value of a field that is a number from ``low`` to ``high``, or raise RequestError."""
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise invalid(name, value, f"a number from {low} to {high}")
    return int(value)


def read_label(name: str, value: str) -> str:
    """Return the value of a field that names a partition or a switch, or raise RequestError."""
    try:
        return check_label(value)
    except ValueError as error:
        raise invalid(name, value, str(error)) from None


def _path_of(href: str) -> str:
    """Return the path of a link, as it is compared: without host, query, and percent signs."""
    return unquote(urlsplit(href).path)


class Fields:
    """The values of a document by path (``A/B``), and which of them were asked for."""

    def __init__(self, root: Element) -> None:
        self._values: dict[str, list[str]] = {}
        self._foreign: list[str] = []
        self._used: set[str] = set()
        self._collect(root, "")

    def _collect(self, element: Element, path: str) -> None:
        below = f"{path}/" if path else ""
        for child in element.children:
            if child.name == "Metadata":
                continue
            name = f"{below}{child.name}"
            if "href" in child.attributes:
                try:
                    value = _path_of(child.attributes["href"])
                except ValueError:
                    raise invalid(name, child.attributes["href"], "a link to a resource") from None
                self._values.setdefault(name, []).append(value)
            elif child.namespace not in (UOM_NS, ATOM_NS):
                self._foreign.append(name)
            elif child.children:
                self._collect(child, name)
            else:
                self._values.setdefault(name, []).append(child.text.strip())

    def get(self, path: str) -> str | None:
        """Return the value at a path, None if there is none; more than one is an error."""
        self._used.add(path)
        values = self._values.get(path)
        if values is None:
            return None
        if len(values) > 1:
            raise bad_request("Invalid value", f"{path}: given {len(values)} times")
        return values[0]

    def all(self, path: str) -> tuple[str, ...]:
        """Return every value at a path; this does not count as asking for it."""
        return tuple(self._values.get(path, ()))

    def paths(self) -> Iterable[str]:
        """Return every path that has a value."""
        return self._values

    def unused(self) -> tuple[str, ...]:
        """Return the paths that nobody asked for."""
        return (*(path for path in self._values if path not in self._used), *self._foreign)


def _plain(value: str) -> str:
    return value.lower() if value.lower() in ("true", "false") else value


def same(one: str, other: str) -> bool:
    """Return whether two values mean the same: true and True, 1.0 and 1."""
    if _plain(one) == _plain(other):
        return True
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


def _all_same(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return len(some) == len(others) and all(same(a, b) for a, b in zip(sorted(some), sorted(others), strict=True))


def differences(given: Fields, served: Fields) -> list[str]:
    """Return the paths that both documents have and that differ."""
    return [path for path in given.paths() if served.all(path) and not _all_same(given.all(path), served.all(path))]


def refuse_read_only(changed: Iterable[str], given: Fields, served: Fields, settable: frozenset[str]) -> None:
    """Raise RequestError if a path that is not ``settable`` has changed."""
    for path in changed:
        if path not in settable:
            here, there = " ".join(served.all(path)), " ".join(given.all(path))
            raise bad_request(
                "Read-only field", f"{path}: {shown(there)}, but it is {shown(here)} and cannot be changed"
            )


def unknown_paths(given: Fields, served: Fields, settable: frozenset[str]) -> tuple[str, ...]:
    """Return the paths that nobody asked for, that are not served, and that could not be set either."""
    unknown = (path for path in given.unused() if not served.all(path) and path not in settable)
    return tuple(islice(unknown, IGNORED_MAX))


def paths_without_effect(given: Fields, served: Fields) -> tuple[str, ...]:
    """Return the paths that nobody asked for, and that the object's document will not say like that."""
    lost = (path for path in given.unused() if not _all_same(given.all(path), served.all(path)))
    return tuple(islice(lost, IGNORED_MAX))
