"""What may be in an attribute: what administrators write is bounded and printable, what vendors show is made so.

Attributes end up in lists, logs and error texts of other people's terminals, line by line.

Spec: mdev 3.2, 9.1 (A10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL

ATTRIBUTE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
VALUE_MAX: Final = 4096
"""Most bytes of a value, in UTF-8."""
ATTRIBUTES_MAX: Final = 64
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, what ends a line, what changes the direction of writing, halves of characters."""


def check_asked(attributes: Mapping[str, str]) -> None:
    """Check what somebody wants attributes to be.

    :raises MdevError: EINVAL too many, a key that can be none, a value with more than :data:`VALUE_MAX` bytes or with
        control characters.
    """
    if len(attributes) > ATTRIBUTES_MAX:
        raise MdevError(EINVAL, f"{len(attributes)} attributes: expected at most {ATTRIBUTES_MAX}")
    for key, value in attributes.items():
        if ATTRIBUTE.fullmatch(key) is None:
            raise MdevError(EINVAL, f"attribute {key[:64]!r}: expected letters, digits, '_', '.' and '-'")
        if _UNPRINTABLE.search(value):
            raise MdevError(EINVAL, f"attribute {key}: control characters in its value")
        if len(value.encode()) > VALUE_MAX:
            raise MdevError(EINVAL, f"attribute {key}: a value of more than {VALUE_MAX} bytes")


def shown(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return what a vendor shows, with escapes for what a terminal must not get."""
    return {key: _UNPRINTABLE.sub(_escaped, value) for key, value in attributes.items()}


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
