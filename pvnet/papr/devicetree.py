"""Device trees: nodes with properties, and the flattened form (version 17) in which firmware hands them over.

A property is a name and bytes; what the bytes mean is agreed per name, so the constructors (:func:`u32`, :func:`u64`,
:func:`text`, ...) and the accessors of :class:`Node` are typed and nothing is guessed.  All numbers are big-endian.

::

    header     40 bytes: magic d00dfeed, total size, offsets, version 17, last compatible 16
    reserve    pairs of 64-bit (address, size), ended by two zeros
    structure  words: BEGIN_NODE name, PROP length nameoffset bytes, END_NODE, NOP, END; names and bytes padded to 4
    strings    property names, NUL-terminated, each stored once

The reader takes versions 16 and 17 from anybody: every offset and length is checked before it is used, nesting and the
number of nodes are bounded, and whatever is wrong is a :class:`WireError` with its offset.

Doubts decided.  Properties must come before subnodes (the specification demands it; a reader that is laxer would be
the only one).  A blob may be longer than its header says (a memory image), but not shorter.

Spec: Devicetree Specification v0.4 ch. 5; hcall_scm 2.2 for the cells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError, WireError

MAGIC: Final = 0xD00DFEED
VERSION: Final = 17
LAST_COMPATIBLE: Final = 16
DEPTH_LIMIT: Final = 64
NODE_LIMIT: Final = 65536
BLOB_LIMIT: Final = 64 << 20
"""Largest blob the reader accepts, in bytes."""
_HEADER: Final = struct.Struct(">10I")
_WORD: Final = struct.Struct(">I")
_RESERVE: Final = struct.Struct(">QQ")
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,._+*#?-@")


def be32(*values: int) -> bytes:
    """32-bit cells."""
    return struct.pack(f">{len(values)}I", *values)


def be64(*values: int) -> bytes:
    """64-bit numbers, two cells each, high one first."""
    return struct.pack(f">{len(values)}Q", *values)


def strings(*values: str) -> bytes:
    """A string list: each NUL-terminated."""
    return b"".join(value.encode("ascii") + b"\0" for value in values)


@dataclass(frozen=True, slots=True)
class Property:
    """A name and the bytes of its value.

    :raises LocalError: the name is empty or has characters that no property name has.
    """

    name: str
    value: bytes = b""

    def __post_init__(self) -> None:
        if not self.name or not _NAME_CHARACTERS.issuperset(self.name):
            raise LocalError(f"property name {self.name!r}: expected letters, digits and ,._+*#?-")


def u32(name: str, *values: int) -> Property:
    """A property of 32-bit cells."""
    return Property(name, be32(*values))


def u64(name: str, *values: int) -> Property:
    """A property of 64-bit numbers."""
    return Property(name, be64(*values))


def text(name: str, *values: str) -> Property:
    """A property of one or more strings."""
    return Property(name, strings(*values))


def empty(name: str) -> Property:
    """A property that says yes by being there."""
    return Property(name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: ``name`` with unit address (``memory@0``; the root's is empty), properties in order, then children.

    :raises LocalError: bad name, or a property or child name twice.
    """

    name: str
    properties: tuple[Property, ...] = ()
    children: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME_CHARACTERS.issuperset(self.name):
            raise LocalError(f"node name {self.name!r}: expected letters, digits and ,._+*#?-@")
        for names in ([p.name for p in self.properties], [c.name for c in self.children]):
            if len(set(names)) != len(names):
                raise LocalError(f"node {self.name!r}: a name is used twice among {', '.join(names)}")

    def get(self, name: str) -> bytes | None:
        """Bytes of a property, or ``None``."""
        return next((p.value for p in self.properties if p.name == name), None)

    def has(self, name: str) -> bool:
        """Whether a property is there."""
        return self.get(name) is not None

    def u32(self, name: str) -> int | None:
        """Value of a one-cell property; ``None`` when absent or of another length."""
        value = self.get(name)
        return int.from_bytes(value, "big") if value is not None and len(value) == 4 else None

    def u64(self, name: str) -> int | None:
        """Value of a two-cell property; ``None`` when absent or of another length."""
        value = self.get(name)
        return int.from_bytes(value, "big") if value is not None and len(value) == 8 else None

    def text(self, name: str) -> str | None:
        """Value of a string property (the first of a list); ``None`` when absent or not an ASCII string."""
        value = self.get(name)
        if value is None or not value.endswith(b"\0") or not value.isascii():
            return None
        return value[: value.index(b"\0")].decode("ascii")

    def child(self, name: str) -> Node | None:
        """The child with this name."""
        return next((child for child in self.children if child.name == name), None)

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """This node and all below with their paths, depth first; the root's path is ``/``."""
        yield path or "/", self
        for child in self.children:
            yield from child.walk(f"{path}/{child.name}")


# -- writing -----------------------------------------------------------------------------------------------------------


def flatten(root: Node, *, boot_cpu: int = 0) -> bytes:
    """The blob of a tree; ``root`` has the empty name."""
    names: dict[str, int] = {}
    name_bytes = bytearray()

    def name_offset(name: str) -> int:
        if name not in names:
            names[name] = len(name_bytes)
            name_bytes.extend(strings(name))
        return names[name]

    body = bytearray()

    def add(node: Node) -> None:
        body.extend(_WORD.pack(_BEGIN_NODE) + _padded(strings(node.name)))
        for item in node.properties:
            body.extend(be32(_PROP, len(item.value), name_offset(item.name)) + _padded(item.value))
        for child in node.children:
            add(child)
        body.extend(_WORD.pack(_END_NODE))

    add(root)
    body.extend(_WORD.pack(_END))
    reserve_at = _HEADER.size
    body_at = reserve_at + _RESERVE.size
    names_at = body_at + len(body)
    total = names_at + len(name_bytes)
    header = _HEADER.pack(
        MAGIC, total, body_at, names_at, reserve_at, VERSION, LAST_COMPATIBLE, boot_cpu, len(name_bytes), len(body)
    )
    return header + _RESERVE.pack(0, 0) + bytes(body) + bytes(name_bytes)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# -- reading -----------------------------------------------------------------------------------------------------------


def unflatten(blob: bytes) -> Node:
    """The tree of a blob; :class:`WireError` when it is none."""
    return _Reader(blob).root()


class _Open:
    """A node that is being read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.properties: list[Property] = []
        self.children: list[Node] = []


class _Reader:
    """One pass over the structure block."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < _HEADER.size:
            raise WireError("device tree", offset=len(blob), expected="a header of 40 bytes")
        magic, total, body_at, names_at, _, version, compatible, _, names_size, body_size = _HEADER.unpack_from(blob)
        if magic != MAGIC:
            raise WireError(f"magic {magic:#x}", offset=0, expected=f"{MAGIC:#x}")
        if version < LAST_COMPATIBLE or compatible > VERSION:
            raise WireError(f"version {version}, compatible with {compatible}", offset=20, expected="16 or 17")
        if not _HEADER.size <= total <= min(len(blob), BLOB_LIMIT):
            raise WireError(f"total size {total:#x}", offset=4, expected=f"40 to {min(len(blob), BLOB_LIMIT):#x}")
        if version == LAST_COMPATIBLE:  # it does not say how long the structure block is
            body_size = total - body_at
        if body_at + body_size > total or body_at % 4:
            raise WireError(f"structure block at {body_at:#x}", offset=8, expected="inside of the blob, aligned to 4")
        if names_at + names_size > total:
            raise WireError(f"strings block at {names_at:#x}", offset=12, expected="inside of the blob")
        self._blob = blob
        self._at = body_at
        self._end = body_at + body_size
        self._names = blob[names_at : names_at + names_size]
        self._nodes = 0

    def root(self) -> Node:
        stack: list[_Open] = []
        while True:
            at = self._at
            match self._word():
                case 4:
                    pass
                case 1:
                    self._nodes += 1
                    if len(stack) >= DEPTH_LIMIT or self._nodes > NODE_LIMIT:
                        raise WireError("node", offset=at, expected=f"at most {DEPTH_LIMIT} deep, {NODE_LIMIT} in all")
                    stack.append(_Open(self._string()))
                case 3 if stack and not stack[-1].children:
                    stack[-1].properties.append(self._property())
                case 2 if stack:
                    done = stack.pop()
                    node = self._made(at, done)
                    if not stack:
                        return self._ended(node)
                    stack[-1].children.append(node)
                case token:
                    raise WireError(f"token {token:#x}", offset=at, expected="one that may stand here")

    def _ended(self, root: Node) -> Node:
        at = self._at
        while (token := self._word()) == _NOP:
            at = self._at
        if token != _END:
            raise WireError(f"token {token:#x} after the root node", offset=at, expected="END")
        return root

    def _made(self, at: int, done: _Open) -> Node:
        try:
            return Node(done.name, tuple(done.properties), tuple(done.children))
        except LocalError as error:
            raise WireError(str(error), offset=at) from None

    def _word(self) -> int:
        return int(_WORD.unpack(self._take(4))[0])

    def _property(self) -> Property:
        at = self._at
        length, name_at = self._word(), self._word()
        value = self._take(length)
        self._take(-length % 4)
        end = self._names.find(b"\0", name_at) if name_at < len(self._names) else -1
        name = self._names[name_at:end] if end >= 0 else b""
        if not name or not name.isascii():
            raise WireError(f"property name at {name_at:#x} of the strings", offset=at, expected="an ASCII name")
        try:
            return Property(name.decode("ascii"), value)
        except LocalError as error:
            raise WireError(str(error), offset=at) from None

    def _string(self) -> str:
        at = self._at
        end = self._blob.find(b"\0", at, self._end)
        if end < 0 or not self._blob[at:end].isascii():
            raise WireError("node name", offset=at, expected="ASCII, ended by NUL")
        self._take((end + 1 - at + 3) & ~3)
        return self._blob[at:end].decode("ascii")

    def _take(self, n: int) -> bytes:
        at = self._at
        if at + n > self._end:
            raise WireError(f"structure block ends within {n} bytes", offset=at, expected="END")
        self._at = at + n
        return self._blob[at : at + n]
