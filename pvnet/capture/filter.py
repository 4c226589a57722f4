"""Filter expressions: which records are wanted.

::

    vmc.type == OPEN and node == lpar1        a field and a value: number, name of a number, text
    hcall.opcode == 0x3ec                     numbers as Python writes them
    crq                                       there is such a layer, field or kind
    not link                                  and, or, not, parentheses; also && || !
    time > 1.5                                seconds since the first record
    summary ~ "H_REG"                         ~ contains: text, or bytes in hex (crq.element ~ c001)
    vfio.flags & 0x20                         one of these bits
    vmc.type in {OPEN, CLOSE}                 one of several values

Beside the fields of :data:`pvnet.capture.decode_table.FIELDS` (with or without ``pvnet.`` in front) there are those of
:data:`RECORD_FIELDS`.  Where a record has a field several times, one that agrees is enough; ``!=`` means that none is
equal.  A record without the field agrees with ``!=`` only; an unknown value with nothing.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn

from pvnet.capture.decode import FIELDS, Decoded, FieldSpec, Value
from pvnet.capture.decode_table import LAYER_OF_BODY
from pvnet.core.errors import ConfigError

RECORD_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "number": "number in the capture, from 1",
        "time": "seconds since the first record",
        "kind": "kind of message, such as hcall_reply",
        "source": "who sent it",
        "destination": "whom to",
        "node": "source, destination, or whose interface it was seen on",
        "channel": "channel of that interface",
        "interface": "its name",
        "direction": "in or out",
        "length": "bytes",
        "call": "correlation of a call or reply",
        "reply": "whether it is a reply",
        "trace": "number of the act that caused it",
        "comment": "comment of the record",
        "summary": "the line that is shown",
        "problem": "what is wrong with it",
    }
)
"""Names that every record has."""
_LAYERS: Final = frozenset(name.partition(".")[0] for name in FIELDS) | set(LAYER_OF_BODY.values())
_KINDS: Final = frozenset(LAYER_OF_BODY) | {"ethernet", "memory", "mark", "app", "unknown"}
_FLAGS: Final = frozenset({"reply", "problem", "comment"})
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<op>==|!=|<=|>=|&&|\|\||[<>~&!(){},])|(?P<word>[A-Za-z0-9_.:/\-+]+))"""
)
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
_MAX_LENGTH: Final = 4096
_MAX_DEPTH: Final = 64

_Match = Callable[[Decoded, "Filter"], bool]


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    at: int
    is_text: bool = False
    """Written in quotes: never an operator or a number."""


class Filter:
    """A parsed expression.  ``time`` counts from the first record that :meth:`matches` is asked about."""

    def __init__(self, text: str, match: _Match) -> None:
        self.text = text
        self.start_ns: int | None = None
        self._match = match

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read an expression; an empty one wants everything.

        :raises ConfigError: with the position (from 1) and what was expected.
        """
        return cls(text, _Parser(text).expression() if text.strip() else lambda _decoded, _filter: True)

    def matches(self, decoded: Decoded) -> bool:
        """Whether a record is wanted."""
        if self.start_ns is None:
            self.start_ns = decoded.record.time_ns
        return self._match(decoded, self)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > _MAX_LENGTH:
            raise ConfigError(f"filter of {len(text)} characters: expected at most {_MAX_LENGTH}")
        self._tokens = list(self._split())
        self._next = 0
        self._depth = 0

    def _error(self, at: int, what: str, expected: str) -> ConfigError:
        return ConfigError(f"filter: position {at + 1}: {what}: expected {expected}: {self._text}")

    def _fail(self, at: int, what: str, expected: str) -> NoReturn:
        raise self._error(at, what, expected)

    def _split(self) -> Iterator[_Token]:
        at = 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                self._fail(at, repr(text[at]), "a field, an operator or a value")
            quoted = match["text"]
            if quoted is not None:
                yield _Token(re.sub(r"\\(.)", r"\1", quoted[1:-1]), match.start("text"), is_text=True)
            else:
                group = "op" if match["op"] is not None else "word"
                yield _Token(match[group], match.start(group))
            at = match.end()

    def _peek(self) -> str:
        """Return the next token that is not in quotes, in lower case."""
        if self._next == len(self._tokens) or self._tokens[self._next].is_text:
            return ""
        return self._tokens[self._next].text.lower()

    def _take(self, expected: str) -> _Token:
        if self._next == len(self._tokens):
            self._fail(len(self._text), "it ends", expected)
        self._next += 1
        return self._tokens[self._next - 1]

    def expression(self) -> _Match:
        match = self._any()
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            self._fail(token.at, repr(token.text), "and, or, an operator, or the end")
        return match

    def _any(self) -> _Match:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(self._tokens[self._next - 1].at, "parentheses too deep", f"at most {_MAX_DEPTH}")
        parts = [self._all()]
        while self._peek() in {"or", "||"}:
            self._next += 1
            parts.append(self._all())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else lambda decoded, own: any(part(decoded, own) for part in parts)

    def _all(self) -> _Match:
        parts = [self._one()]
        while self._peek() in {"and", "&&"}:
            self._next += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda decoded, own: all(part(decoded, own) for part in parts)

    def _one(self) -> _Match:
        is_wanted = True
        while self._peek() in {"not", "!"}:
            self._next += 1
            is_wanted = not is_wanted
        if self._peek() == "(":
            self._next += 1
            match = self._any()
            closing = self._take("a closing parenthesis")
            if closing.text != ")":
                self._fail(closing.at, repr(closing.text), "a closing parenthesis")
        else:
            match = self._comparison()
        return match if is_wanted else lambda decoded, own: not match(decoded, own)

    def _comparison(self) -> _Match:
        token = self._take("a field such as vmc.type, or a layer such as crq")
        name = token.text.removeprefix("pvnet.")
        if token.is_text or name in {")", "(", "{", "}", ","} or name in _COMPARE:
            self._fail(token.at, repr(token.text), "a field such as vmc.type, or a layer such as crq")
        sign = self._peek()
        if sign not in {"==", "!=", "~", "&", "in", *_COMPARE}:
            return self._present(name, token)
        if name not in FIELDS and name not in RECORD_FIELDS:
            raise self._unknown(name, token)
        self._next += 1
        spec = FIELDS.get(name)
        if sign == "in":
            return _equal(name, self._values(spec))
        value = self._take("a value")
        if not value.is_text and not re.fullmatch(r"[A-Za-z0-9_.:/\-+]+", value.text):
            self._fail(value.at, repr(value.text), "a value")
        if sign in {"==", "!="}:
            match = _equal(name, [_literal(spec, value)])
            return match if sign == "==" else lambda decoded, own: not match(decoded, own)
        if sign == "~":
            return _contains(name, value.text)
        number = _literal(spec, value).number
        if number is None:
            self._fail(value.at, repr(value.text), "a number")
        if sign == "&":
            if number % 1 != 0:  # also of inf and nan
                self._fail(value.at, repr(value.text), "a whole number")
            return _bits(name, int(number))
        return _ordered(name, _COMPARE[sign], number)

    def _values(self, spec: FieldSpec | None) -> list[_Literal]:
        opening = self._take("{")
        if opening.text != "{" or opening.is_text:
            self._fail(opening.at, repr(opening.text), "{")
        values = []
        while True:
            values.append(_literal(spec, self._take("a value")))
            token = self._take(", or }")
            if token.text == "}":
                return values
            if token.text != ",":
                self._fail(token.at, repr(token.text), ", or }")

    def _present(self, name: str, token: _Token) -> _Match:
        if name in _FLAGS:
            return lambda decoded, own: any(bool(value) for value, _ in _values(decoded, own, name))
        if name in FIELDS:
            return lambda decoded, _own: any(item.name == name for item in decoded.fields())
        if name in _LAYERS or name in _KINDS:
            return lambda decoded, _own: decoded.kind == name or decoded.has(name)
        raise self._unknown(name, token)

    def _unknown(self, name: str, token: _Token) -> ConfigError:
        close = difflib.get_close_matches(name, [*FIELDS, *RECORD_FIELDS, *_LAYERS, *_KINDS], 3)
        hint = " or ".join(close) if close else "a field such as vmc.type, or a layer such as crq"
        return self._error(token.at, f"{token.text!r} is no field", hint)


@dataclass(frozen=True, slots=True)
class _Literal:
    """A value of an expression: as text, and as number where it is one (or the name of one)."""

    text: str
    number: float | None

    def equals(self, value: Value, text: str) -> bool:
        if isinstance(value, bool):
            return self.text.lower() == text or self.number == value
        if isinstance(value, int):
            return self.number == value if self.number is not None else self.text.lower() == text.lower()
        if isinstance(value, bytes):
            return self.text.lower().replace(":", "").removeprefix("0x") == value.hex()
        return value is not None and self.text == value


def _literal(spec: FieldSpec | None, token: _Token) -> _Literal:
    number: float | None = None if spec is None else spec.number_of(token.text)
    if number is None and not token.is_text:
        try:
            number = int(token.text, 0)
        except ValueError:
            try:
                number = float(token.text)
            except ValueError:
                number = None
    return _Literal(token.text, number)


def _values(decoded: Decoded, own: Filter, name: str) -> Iterator[tuple[Value | float, str]]:
    """All values of a field of a record, with their texts."""
    if name in FIELDS:
        for item in decoded.fields():
            if item.name == name:
                yield item.value, item.text
        return
    record = decoded.record
    match name:
        case "time":
            if record.time_ns is not None and own.start_ns is not None:
                yield (record.time_ns - own.start_ns) / 1e9, ""
        case "node":
            for node in (decoded.source, decoded.destination, record.interface.node):
                yield node, node
        case "problem":
            for text in decoded.problems:
                yield text, text
        case _:
            value = _RECORD[name](decoded)
            yield value, str(value).lower() if isinstance(value, bool) else str(value)


_RECORD: Final[Mapping[str, Callable[[Decoded], Value]]] = {
    "number": lambda decoded: decoded.record.number,
    "kind": lambda decoded: decoded.kind,
    "source": lambda decoded: decoded.source,
    "destination": lambda decoded: decoded.destination,
    "channel": lambda decoded: decoded.record.interface.channel,
    "interface": lambda decoded: decoded.record.interface.name,
    "direction": lambda decoded: decoded.record.direction.name.lower(),
    "length": lambda decoded: len(decoded.record.data),
    "call": lambda decoded: decoded.call,
    "reply": lambda decoded: decoded.is_reply,
    "trace": lambda decoded: decoded.trace,
    "comment": lambda decoded: decoded.record.comment,
    "summary": lambda decoded: decoded.summary,
}


def _equal(name: str, literals: list[_Literal]) -> _Match:
    def match(decoded: Decoded, own: Filter) -> bool:
        for value, text in _values(decoded, own, name):
            if isinstance(value, float):
                if any(literal.number == value for literal in literals):
                    return True
            elif any(literal.equals(value, text) for literal in literals):
                return True
        return False

    return match


def _contains(name: str, wanted: str) -> _Match:
    lower, digits = wanted.lower(), wanted.lower().replace(":", "")

    def match(decoded: Decoded, own: Filter) -> bool:
        return any(
            digits in value.hex() if isinstance(value, bytes) else value is not None and lower in text.lower()
            for value, text in _values(decoded, own, name)
        )

    return match


def _ordered(name: str, compare: Callable[[float, float], bool], number: float) -> _Match:
    def match(decoded: Decoded, own: Filter) -> bool:
        return any(
            isinstance(value, int | float) and compare(value, number) for value, _ in _values(decoded, own, name)
        )

    return match


def _bits(name: str, bits: int) -> _Match:
    def match(decoded: Decoded, own: Filter) -> bool:
        return any(isinstance(value, int) and bool(value & bits) for value, _ in _values(decoded, own, name))

    return match
