"""XML as the REST service reads and writes it: elements with namespaces, nothing that expands or reaches outside.

What a client sends is read with limits: size, depth and number of elements; a document type is refused, so there are no
entities but XML's own five.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from xml.parsers import expat

SIZE_MAX: Final = 1 << 20
"""Most bytes of a document."""
DEPTH_MAX: Final = 64
"""Most elements inside each other."""
ELEMENTS_MAX: Final = 20_000
"""Most elements of a document."""
ATTRIBUTES_MAX: Final = 64
"""Most attributes of an element."""
_ENCODINGS: Final = frozenset({"UTF-8", "UTF8", "US-ASCII", "ASCII", "UTF-16", "UTF-16LE", "UTF-16BE"})
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_NEVER: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_PLAIN: Final = re.compile("[ !#-%'-;=?-~]*")
"""Text that needs no change anywhere: nearly all of it."""
_IN_TEXT: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("\r"): "&#13;"}
_IN_ATTRIBUTE: Final = {**_IN_TEXT, ord('"'): "&quot;", ord("\n"): "&#10;", ord("\t"): "&#9;"}


class MarkupError(ValueError):
    """The document is not one that can be read; the text says where and why."""

    def __init__(self, what: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {what}")
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a document.

    ``text`` is the character data directly inside it, all pieces joined.  An attribute with a namespace has the name
    ``{namespace}name``.
    """

    namespace: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    text: str = ""
    children: tuple[Element, ...] = ()

    def child(self, name: str) -> Element | None:
        """Return the first child of this name in the element's own namespace, or None."""
        for child in self.children:
            if child.name == name and child.namespace == self.namespace:
                return child
        return None

    def value(self, *names: str) -> str | None:
        """Return the text of the element at this path, without space around it; None where there is none."""
        element: Element | None = self
        for name in names:
            if element is None:
                return None
            element = element.child(name)
        return None if element is None else element.text.strip()

    def walk(self) -> Iterator[Element]:
        """Yield the element and everything in it, in the order of the document."""
        pending = [self]
        while pending:
            element = pending.pop()
            yield element
            pending += reversed(element.children)


class _Open:
    """An element whose end has not been seen."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: Mapping[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element] = []
        self.text: list[str] = []


def _split(name: str) -> tuple[str, str]:
    namespace, _, local = name.rpartition(" ")
    return namespace, local


class _Reader:
    def __init__(self, elements_max: int) -> None:
        self._elements_max = elements_max
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._open: list[_Open] = []
        self._root: Element | None = None
        self._elements = 0

    def _refuse(self, what: str) -> MarkupError:
        return MarkupError(what, self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1)

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.upper() not in _ENCODINGS:
            raise self._refuse(f"encoding {encoding[:40]!r}, expected UTF-8 or UTF-16")

    def _doctype(self, *_declaration: object) -> None:
        raise self._refuse("a document type declaration, which is not allowed")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > self._elements_max:
            raise self._refuse(f"more than {self._elements_max} elements")
        if len(self._open) >= DEPTH_MAX:
            raise self._refuse(f"elements nested more than {DEPTH_MAX} deep")
        if len(attributes) > ATTRIBUTES_MAX:
            raise self._refuse(f"more than {ATTRIBUTES_MAX} attributes")
        named = {}
        for key, value in attributes.items():
            namespace, local = _split(key)
            named[f"{{{namespace}}}{local}" if namespace else local] = value
        self._open.append(_Open(name, named or _NOTHING))

    def _end(self, _name: str) -> None:
        done = self._open.pop()
        namespace, local = _split(done.name)
        element = Element(namespace, local, done.attributes, "".join(done.text), tuple(done.children))
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element

    def _characters(self, data: str) -> None:
        if self._open:
            self._open[-1].text.append(data)

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code) or "not well-formed"
            raise MarkupError(what, error.lineno, error.offset + 1) from None
        except (LookupError, ValueError) as error:  # a codec that expat asks Python for
            if isinstance(error, MarkupError):
                raise
            raise self._refuse("an encoding other than UTF-8 and UTF-16") from None
        assert self._root is not None  # expat: "no element found" otherwise
        return self._root


def parse(data: bytes, *, size_max: int = SIZE_MAX, elements_max: int = ELEMENTS_MAX) -> Element:
    """Return the document's outermost element, or raise MarkupError.

    The limits are those for what comes from anybody; what one asked a server of one's own choice for may be larger.
    """
    if len(data) > size_max:
        raise MarkupError(f"{len(data)} bytes, expected at most {size_max}", 1, 1)
    return _Reader(elements_max).read(data)


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return _NEVER.sub("\ufffd", value).translate(_IN_TEXT)


def _attribute(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return _NEVER.sub("\ufffd", value).translate(_IN_ATTRIBUTE)


def _write(element: Element, default: str | None, base: str, out: list[str]) -> None:
    declared = ""
    name = element.name
    if element.namespace != (default or ""):
        quoted = _attribute(element.namespace)
        declared = f' xmlns="{quoted}"'
        if default is not None and quoted:
            # As the real servers write it: a prefix for this one element, the default for what is in it.
            declared = f' xmlns:{name}="{quoted}"{declared}'
            name = f"{name}:{name}"
    out.append(f"<{name}{declared}")
    for key, value in element.attributes.items():
        if key.startswith("{"):
            raise ValueError(f"attribute {key} has a namespace")
        joined = base + value if base and key == "href" and value.startswith("/") else value
        out.append(f' {key}="{_attribute(joined)}"')
    if not element.text and not element.children:
        out.append("/>")
        return
    out.append(">")
    if element.text:
        out.append(_text(element.text))
    for child in element.children:
        _write(child, element.namespace, base, out)
    out.append(f"</{name}>")


def serialize(element: Element, base: str = "") -> bytes:
    """Return the document of this element in ASCII, what is not ASCII as character references.

    So it needs no XML declaration, which pypowervm cannot read, and is the same whatever encoding a client guesses.
    ``base`` (scheme, host and port) is put before every ``href`` that begins with a slash.  Characters that XML cannot
    have become U+FFFD.
    """
    out: list[str] = []
    _write(element, None, base, out)
    return "".join(out).encode("ascii", "xmlcharrefreplace")
