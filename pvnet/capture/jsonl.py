"""Lines of a recording: JSON objects whose first one is ``{"meta": {"schema": ...}}``, read with good error messages.

A recording comes from somewhere else, so every field is checked when it is read; what is wrong becomes one
:class:`ConfigError` with file, line, field, what is there and what was expected.  Unknown fields are ignored, because
recordings carry notes and times that a later version may add to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError

_MISSING: Final = object()
MAX_LINE_BYTES: Final = 1 << 20
_U64: Final = 1 << 64
_KEY_DIGITS: Final = 20


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One JSON object of a file: ``where`` is ``FILE:LINE`` plus the path of fields that leads to it."""

    where: str
    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether the field is there and not ``null``."""
        return self.values.get(name) is not None

    def error(self, name: str, expected: str) -> ConfigError:
        """The error to raise about field ``name``: what is there, what was expected."""
        value = self.values.get(name, _MISSING)
        there = "is missing" if value is _MISSING else _shown(value)
        return ConfigError(f"{self.where}: {name!r}: {there}: expected {expected}")

    def hex_number(self, name: str, bits: int = 64) -> int:
        """An unsigned number written as ``"0x..."``."""
        number = _parse_hex(self.values.get(name))
        if number is None or number >> bits:
            raise self.error(name, f'a number of at most {bits} bits such as "0x2000"')
        return number

    def hex_numbers(self, name: str, limit: int = 9) -> tuple[int, ...]:
        """A list of at most ``limit`` numbers written as ``"0x..."``."""
        value = self.values.get(name)
        numbers = [_parse_hex(item) for item in value] if isinstance(value, list) else [None]
        if len(numbers) > limit or any(number is None or number >= _U64 for number in numbers):
            raise self.error(name, f'a list of at most {limit} numbers such as ["0x2000", "0x0"]')
        return tuple(number for number in numbers if number is not None)

    def integer(self, name: str, low: int = -(1 << 63), high: int = (1 << 63) - 1) -> int:
        """A decimal JSON number without a fraction."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"an integer of {low} to {high}")
        return value

    def seconds(self, name: str) -> float:
        """A JSON number, 0.0 when the field is absent."""
        value = self.values.get(name, 0.0)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(name, "seconds")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A JSON string; ``default`` when the field is absent."""
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a text")
        return value

    def boolean(self, name: str) -> bool:
        """``true`` or ``false``."""
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def hex_bytes(self, name: str, length: int | None = None) -> bytes:
        """Bytes written as hex digits; exactly ``length`` of them if given."""
        return self._bytes(name, self.values.get(name), length)

    def _bytes(self, name: str, value: object, length: int | None) -> bytes:
        try:
            data = bytes.fromhex(value) if isinstance(value, str) else None
        except ValueError:
            data = None
        if data is None or (length is not None and len(data) != length):
            raise self.error(name, "hex digits" if length is None else f"{2 * length} hex digits")
        return data

    def hex_bytes_by_number(self, name: str, length: int) -> Mapping[int, bytes]:
        """An object that maps decimal numbers to bytes in hex: ``{"0": "c002..."}``."""
        table = self.child(name)
        out: dict[int, bytes] = {}
        for key, value in table.values.items():
            if not (key.isascii() and key.isdigit() and len(key) <= _KEY_DIGITS):
                raise table.error(key, "a decimal number as the key")
            out[int(key)] = table._bytes(key, value, length)
        return out

    def child(self, name: str) -> JsonObject:
        """A JSON object inside this one."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.error(name, "an object {...}")
        return JsonObject(f"{self.where}: {name}", value)

    def children(self, name: str) -> Sequence[JsonObject]:
        """A list of JSON objects inside this one; empty when the field is absent."""
        value = self.values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(name, "a list of objects [{...}, ...]")
        return [JsonObject(f"{self.where}: {name}[{index}]", item) for index, item in enumerate(value)]


def _parse_hex(value: object) -> int | None:
    if not isinstance(value, str) or not value.startswith("0x"):
        return None
    try:
        return int(value, 16)
    except ValueError:
        return None


def read_objects(path: Path) -> list[JsonObject]:
    """Every line of a recording as an object; empty lines are skipped.

    Raises :class:`ConfigError` when the file cannot be read, is not UTF-8, or a line is not a JSON object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    objects: list[JsonObject] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(f"{where}: line of {len(line)} bytes: expected at most {MAX_LINE_BYTES}")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: not JSON: {error}: expected one JSON object per line") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {_shown(value)}: expected a JSON object")
        objects.append(JsonObject(where, value))
    if not objects:
        raise ConfigError(f"{path}:1: the file is empty: expected a first line with 'meta'")
    return objects


def schema_of(first: JsonObject) -> str:
    """Name of the recording's format, from its first line."""
    return first.child("meta").text("schema")


def meta_of(objects: Sequence[JsonObject], schema: str) -> JsonObject:
    """The ``meta`` object of a recording; :class:`ConfigError` when its format is not ``schema``."""
    meta = objects[0].child("meta")
    if meta.text("schema") != schema:
        raise meta.error("schema", f'"{schema}"')
    return meta
