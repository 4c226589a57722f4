"""Named fields: what a decoder shows of a message, and how one is described and printed.

A field is named as Wireshark's display filters name it without their prefix: ``vmc.type`` here is ``pvnet.vmc.type``
there.  :data:`pvnet.capture.decode_table.FIELDS` lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

Value: TypeAlias = int | str | bytes | bool | None
SHOWN_BYTES: Final = 32


class FieldType(StrEnum):
    """How a field is stored; the names of Wireshark's field types in lower case."""

    U8 = "uint8"
    U16 = "uint16"
    U32 = "uint32"
    U64 = "uint64"
    I32 = "int32"
    I64 = "int64"
    BOOL = "bool"
    STRING = "string"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One name: its type, whether it prints in hex, what its numbers (or, with ``flags``, its bits) are called."""

    name: str
    type: FieldType
    help: str = ""
    hex: bool = False
    values: Mapping[int, str] = field(default_factory=dict)
    flags: bool = False

    @property
    def label(self) -> str:
        """Last part of the name."""
        return self.name.rpartition(".")[2]

    def number_of(self, name: str) -> int | None:
        """The number that is called so, whatever the case of the letters."""
        wanted = name.upper()
        return next((number for number, known in self.values.items() if known.upper() == wanted), None)

    def text(self, value: Value) -> str:
        """The value as a person reads it."""
        if value is None:
            return "unknown"
        if isinstance(value, bytes):
            return bytes_text(value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return printable(value)
        shown = f"{value:#x}" if self.hex and value >= 0 else str(value)
        if not self.values:
            return shown
        if not self.flags:
            name = self.values.get(value)
            return f"{name} ({shown})" if name is not None else shown
        names = "|".join(name for bit, name in self.values.items() if bit and value & bit == bit)
        return f"{shown} {names}" if names else shown

    def __call__(self, value: Value) -> Field:
        """The field with this value."""
        return Field(self.name, value, self.text(value))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its whole name, its value (None: unknown), its text."""

    name: str
    value: Value
    text: str


@dataclass(frozen=True, slots=True)
class Layer:
    """The fields of one protocol, and one line of them."""

    name: str
    fields: tuple[Field, ...]
    summary: str = ""


def bytes_text(data: bytes, shown: int = SHOWN_BYTES) -> str:
    """First bytes in hex, and how many there are if that is not all."""
    if len(data) <= shown:
        return data.hex()
    return f"{data[:shown].hex()}... ({len(data)} bytes)"


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
