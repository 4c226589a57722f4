"""What the documents of all resources are made of.

Names, order and nesting of the fields are those of the real schema; what a lab has no counterpart for is left out where
the schema allows, else it has the value of a plain system.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from pvnet.novalink.markup import Element
from pvnet.novalink.names import UOM_NS

_SCHEMA: Final = "V1_0"
_SHORT: Final = 32
_MIB: Final = 1 << 20


def leaf(name: str, value: str | int | bool) -> Element:
    """Return a field with a value, as XML writes it."""
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return _short_leaf(name, text) if len(text) <= _SHORT else Element(UOM_NS, name, text=text)


@lru_cache(maxsize=8192)
def _short_leaf(name: str, text: str) -> Element:
    # Most of a document is the same for every partition, and every time.
    return Element(UOM_NS, name, text=text)


def _metadata(*inside: Element) -> Element:
    return Element(UOM_NS, "Metadata", children=(Element(UOM_NS, "Atom", children=inside),))


_NO_METADATA: Final = _metadata()
_VERSION: Final = MappingProxyType({"schemaVersion": _SCHEMA})


def group(name: str, *children: Element) -> Element:
    """Return a field that has others in it, and metadata of its own."""
    return Element(UOM_NS, name, _VERSION, children=(_NO_METADATA, *children))


def link(name: str, path: str) -> Element:
    """Return a link to another resource."""
    return Element(UOM_NS, name, {"href": path, "rel": "related"})


def links(name: str, paths: Iterable[str]) -> Element:
    """Return a field that links to any number of other resources."""
    # A link inside of content is Atom's, but the real documents have it in the namespace around it, and so do clients.
    return Element(UOM_NS, name, children=tuple(link("link", path) for path in paths))


def content(kind: str, uuid: str, *children: Element) -> Element:
    """Return the content of a resource."""
    head = _metadata(leaf("AtomID", uuid), leaf("AtomCreated", 0))
    return Element(UOM_NS, kind, {"schemaVersion": _SCHEMA}, children=(head, *children))


def etag_of(revision: int, *others: object) -> str:
    """Return an ETag.

    An object's revision stands for all that its own message says; ``others`` is what its document says besides.
    """
    if not others:
        return str(revision)
    return f"{revision}{zlib.crc32(repr(others).encode()):010d}"


def units_text(hundredths: int) -> str:
    """Return processing units, which the messages have in hundredths, as a decimal number."""
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") if rest else str(whole)


def mebibytes(size: int) -> int:
    """Return a size in MiB, the unit of memory in every document; what does not divide is rounded up."""
    return -(-size // _MIB)
