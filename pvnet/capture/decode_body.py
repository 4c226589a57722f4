"""A protobuf message as named fields, whatever message it is.

Every number and text of the body itself is shown, also where it is 0 or empty; of messages inside it, those that are
there.  Lists are shown up to :data:`MAX_ITEMS` items.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from pvnet.capture.decode_fields import Field, FieldSpec
from pvnet.capture.decode_table import FIELDS, MAX_DEPTH, Descriptor, is_map, spec_of

MAX_ITEMS: Final = 64

_REPEATED: Final = 3
_SCALAR: Final = 0
_OPTIONAL: Final = 1
_LIST: Final = 2
_MAP: Final = 3
_MESSAGE: Final = 4
_MESSAGES: Final = 5


def _is_list(field: Descriptor) -> bool:
    known = getattr(field, "is_repeated", None)  # protobuf before 6.32 has only the label
    return bool(field.label == _REPEATED if known is None else known)


@cache
def _plan(descriptor: Descriptor, prefix: str) -> tuple[tuple[str, int, FieldSpec | str], ...]:
    """How to show each field: attribute, way, description (or name, of a message)."""
    plan: list[tuple[str, int, FieldSpec | str]] = []
    body = descriptor.oneofs_by_name.get("body")
    for field in descriptor.fields:
        name = f"{prefix}.{field.name}"
        if body is not None and field.containing_oneof is body:
            continue
        if is_map(field):
            plan.append((field.name, _MAP, FIELDS.get(name) or spec_of(name, field)))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            plan.append((field.name, _MESSAGES if _is_list(field) else _MESSAGE, name))
        else:
            way = _LIST if _is_list(field) else _OPTIONAL if field.has_presence else _SCALAR
            plan.append((field.name, way, FIELDS.get(name) or spec_of(name, field)))
    return tuple(plan)


def message_fields(message: Any, prefix: str, depth: int = 0) -> Iterator[Field]:
    """Yield the fields of a message, in the order of the schema."""
    for attribute, way, what in _plan(message.DESCRIPTOR, prefix):
        if isinstance(what, str):
            if depth >= MAX_DEPTH:
                continue
            if way == _MESSAGES:
                for item in getattr(message, attribute)[:MAX_ITEMS]:
                    yield from message_fields(item, what, depth + 1)
            elif message.HasField(attribute):
                yield from message_fields(getattr(message, attribute), what, depth + 1)
        elif way == _SCALAR:
            yield what(getattr(message, attribute))
        elif way == _LIST:
            for item in getattr(message, attribute)[:MAX_ITEMS]:
                yield what(item)
        elif way == _MAP:
            for key, value in list(getattr(message, attribute).items())[:MAX_ITEMS]:
                yield what(f"{key}={value}")
        elif message.HasField(attribute):
            yield what(getattr(message, attribute))
