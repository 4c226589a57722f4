"""Atom entries and feeds around resources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pvnet.novalink.markup import Element, serialize
from pvnet.novalink.names import ATOM_NS, UOM_NS, uom_type
from pvnet.runtime.topology_system import made_uuid

_AUTHOR: Final = "pvnet"


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that REST shows.

    ``href`` attributes in ``content`` begin with a slash; host and port are put before them when it is written.
    """

    kind: str
    uuid: str
    etag: str
    """Changes with everything that ``content`` says."""
    path: str
    content: Element
    revision: int = 0
    """What a command's ``if_revision`` is for a client that has seen this ``etag``; 0: nothing to compare."""
    media_type: str = ""
    """Of ``content``; empty: that of a resource of this kind."""


def atom(name: str, text: str = "", *children: Element, **attributes: str) -> Element:
    """Return an element of Atom."""
    return Element(ATOM_NS, name, attributes, text, children)


def timestamp(seconds: float) -> str:
    """Return a time (seconds since 1970, UTC) as Atom has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _entry(resource: Resource, when: float) -> Element:
    children = [atom("id", resource.uuid), atom("title", resource.kind), atom("published", timestamp(when))]
    if resource.path:
        children.append(atom("link", rel="SELF", href=resource.path))
    children.append(atom("author", "", atom("name", _AUTHOR)))
    if resource.etag:
        children.append(Element(UOM_NS, "etag", text=resource.etag))
    media = resource.media_type or uom_type(resource.kind)
    children.append(atom("content", "", resource.content, type=media))
    return atom("entry", "", *children)


def entry(resource: Resource, base: str, when: float = 0.0) -> bytes:
    """Return the document of one resource.

    ``base`` is scheme, host and port as the client named them; ``when`` the time of the answer (seconds since 1970).
    """
    return serialize(_entry(resource, when), base)


def feed(path: str, resources: Iterable[Resource], base: str, when: float = 0.0) -> bytes:
    """Return the document of several resources; ``path`` (with its query) is where the feed stands.

    The feed's own link stands before the entries: pypowervm takes the last one that it has seen when an entry begins.
    """
    head = (
        atom("id", made_uuid("feed", path)),
        atom("updated", timestamp(when)),
        atom("link", rel="SELF", href=path),
        atom("generator", _AUTHOR),
    )
    return serialize(atom("feed", "", *head, *(_entry(resource, when) for resource in resources)), base)
