"""Searches: ``(PartitionName=='one')`` after ``/search/`` in a path.

Conditions on the fields that stand directly in a resource, joined by ``&&`` and ``||`` (``&&`` first) and parentheses.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from pvnet.novalink.atom import Resource
from pvnet.novalink.errors import RequestError

LENGTH_MAX: Final = 2048
"""Most characters of a search, as it stands in the path."""
CONDITIONS_MAX: Final = 16
"""Most conditions and parentheses of a search."""
_EXAMPLE: Final = "(PartitionName=='name')"
_MARK: Final = "\x00"
"""Around the number of a quoted value that has been taken out; no text of a client's has it."""
_CONDITION: Final = re.compile(
    r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*(==|!=|<=|>=|<|>)\s*(?:\x00([0-9]+)\x00|([^\s'()&|=<>!\x00][^'()&|=<>!\x00]*))\s*"
)
_RAW_QUOTED: Final = re.compile(r"'([^']*)'")
_QUOTED: Final = re.compile(r"'(.*?)'(?=\s*(?:\)|&&|\|\||$))", re.DOTALL)
_ORDER: Final = MappingProxyType({"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge})

Fields = dict[str, str]
_Test = Callable[[Fields], bool]


def _bad(what: str) -> RequestError:
    return RequestError(400, "Invalid search", f"{what}, expected such as {_EXAMPLE}")


def _equal(one: str, other: str) -> bool:
    if one == other:
        return True
    flags = ("true", "false")
    return one.lower() == other.lower() and one.lower() in flags


def _compare(how: str, one: str, other: str) -> bool:
    try:
        return bool(_ORDER[how](Decimal(one), Decimal(other)))
    except InvalidOperation:
        return False


class _Reader:
    """Reads an expression whose quoted values have been taken out: each is the number of one in ``values``."""

    def __init__(self, text: str, values: list[str]) -> None:
        self._text = text
        self._values = values
        self._at = 0
        self._conditions = 0
        self.names: set[str] = set()

    def read(self) -> _Test:
        test = self._any()
        if self._text[self._at :].strip():
            raise self._unexpected()
        return test

    def _unexpected(self) -> RequestError:
        rest = self._text[self._at :].strip()
        for number, value in enumerate(self._values):
            rest = rest.replace(f"{_MARK}{number}{_MARK}", f"'{value}'")
        return _bad(repr(rest[:60]) if rest else "the end of the search")

    def _take(self, word: str) -> bool:
        rest = self._text[self._at :]
        stripped = rest.lstrip()
        if not stripped.startswith(word):
            return False
        self._at += len(rest) - len(stripped) + len(word)
        return True

    def _any(self) -> _Test:
        tests = [self._all()]
        while self._take("||"):
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda fields: any(test(fields) for test in tests)

    def _all(self) -> _Test:
        tests = [self._one()]
        while self._take("&&"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda fields: all(test(fields) for test in tests)

    def _one(self) -> _Test:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise _bad(f"more than {CONDITIONS_MAX} conditions")
        if self._take("("):
            test = self._any()
            if not self._take(")"):
                raise self._unexpected()
            return test
        match = _CONDITION.match(self._text, self._at)
        if match is None:
            raise self._unexpected()
        self._at = match.end()
        name, how, quoted, plain = match.groups()
        value = plain.rstrip() if quoted is None else self._values[int(quoted)]
        self.names.add(name)
        return _condition(name, how, value)


def _condition(name: str, how: str, value: str) -> _Test:
    if how == "==":
        return lambda fields: name in fields and _equal(fields[name], value)
    if how == "!=":
        return lambda fields: name not in fields or not _equal(fields[name], value)
    return lambda fields: name in fields and _compare(how, fields[name], value)


def _values_out(expression: str) -> tuple[str, list[str]]:
    """Return the expression, decoded, with the number of each quoted value in its place; and the values, decoded.

    Quotation marks as such delimit values; a client that encodes even them has encoded the whole.
    """
    values: list[str] = []

    def take(value: str) -> str:
        values.append(value)
        return f"{_MARK}{len(values) - 1}{_MARK}"

    text = ""
    for number, piece in enumerate(_RAW_QUOTED.split(expression)):
        decoded = unquote(piece)
        if _MARK in decoded:
            raise _bad("a character that no name has")
        text += take(decoded) if number % 2 else decoded
    return _QUOTED.sub(lambda match: take(match.group(1)), text), values


def fields_of(resource: Resource) -> Fields:
    """Return the fields that can be searched for: those without any of their own."""
    return {child.name: child.text.strip() for child in resource.content.children if child.text and not child.children}


def search(expression: str, resources: Iterable[Resource]) -> list[Resource]:
    """Return the resources that an expression is true of.

    ``expression`` is the last part of the path as it came, percent signs and all.  RequestError 400: it cannot be read,
    or has a field that none of the resources has.
    """
    if len(expression) > LENGTH_MAX:
        raise _bad(f"{len(expression)} characters; at most {LENGTH_MAX}")
    reader = _Reader(*_values_out(expression))
    test = reader.read()
    found = [(resource, fields_of(resource)) for resource in resources]
    known = set().union(*(fields for _, fields in found))
    if found and not reader.names <= known:
        unknown = ", ".join(sorted(reader.names - known))[:100]
        raise RequestError(400, "Unknown field", f"no field {unknown}; there are {', '.join(sorted(known))}")
    return [resource for resource, fields in found if test(fields)]
