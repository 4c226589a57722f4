"""Text of UUIDs, instances, integers and names of mediated devices.

Two rules for the text of a UUID exist; both are kept, each on its own surface:

* :func:`parse_rfc` (2016): 16 pairs of hex digits with at most one separator after each, at least 36 characters;
* :func:`parse_canonical` (merged): 8-4-4-4-12 and nothing else; with :func:`parse_create` one newline may follow.

A UUID is kept as its canonical text in lower case, bytes in the order written.  Spec: mdev 1.12, 3.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL, ERANGE

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)
_INSTANCE: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_HEX: Final = b"0123456789abcdefABCDEF"
_SEPARATORS: Final = b"-:\n\0"
_DIGITS: Final = {8: b"01234567", 10: b"0123456789", 16: _HEX}
TEXT_SIZE: Final = 36
"""Characters of a canonical UUID."""
MAX_INSTANCE: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class MdevName:
    """Name of a mediated device.

    ``instance`` None: the merged shape, the UUID alone is the name.  Otherwise the shape of 2016: the UUID is that of a
    virtual machine, instances 0 to 2^32-1 tell its devices apart, the name is ``UUID-instance``, with the instance as
    an unsigned decimal (the original printed it signed: 0xffffffff as ``--1``; that was an oversight).

    One UUID has either one device of the merged shape or any number of instances: the merged name stands for the whole
    UUID, and a second claim to it is EEXIST.
    """

    uuid: str
    instance: int | None = None

    def __str__(self) -> str:
        return self.uuid if self.instance is None else f"{self.uuid}-{self.instance}"


def parse_canonical(text: str) -> str:
    """Return the UUID that is written in exactly the form 8-4-4-4-12, letters in any case.

    :raises MdevError: EINVAL.
    """
    lower = text.lower() if text.isascii() else ""
    if _CANONICAL.fullmatch(lower) is None:
        raise MdevError(EINVAL, f"{text!r} is not a UUID in the form 8-4-4-4-12")
    return lower


def parse_create(data: bytes) -> str:
    """Return the UUID that was written to a type's ``create``: 36 bytes, or 37 of which the last is a newline.

    :raises MdevError: EINVAL.
    """
    if len(data) == TEXT_SIZE + 1 and data.endswith(b"\n"):
        data = data[:-1]
    if len(data) != TEXT_SIZE:
        raise MdevError(EINVAL, f"{len(data)} bytes are not a UUID of 36 characters and perhaps a newline")
    return parse_canonical(data.decode("latin-1"))


def parse_name(text: str) -> MdevName:
    """Return the name that is written as :class:`MdevName` prints it, letters in any case.

    :raises MdevError: EINVAL.
    """
    uuid = parse_canonical(text[:TEXT_SIZE])
    if len(text) == TEXT_SIZE:
        return MdevName(uuid)
    digits = text[TEXT_SIZE + 1 :]
    if text[TEXT_SIZE] != "-" or _INSTANCE.fullmatch(digits) is None or int(digits) > MAX_INSTANCE:
        raise MdevError(EINVAL, f"{text!r} is neither UUID nor UUID-instance")
    return MdevName(uuid, int(digits))


def parse_rfc(data: bytes) -> str:
    """Return the UUID at the beginning of ``data``, by the rule of 2016.

    At least 36 characters, of which 16 pairs of hex digits count; after each pair one of ``-``, ``:``, newline or NUL
    is skipped, and whatever follows the last pair is ignored.

    :raises MdevError: EINVAL.
    """
    if len(data) < TEXT_SIZE:
        raise MdevError(EINVAL, f"{len(data)} characters are no UUID")
    digits = bytearray()
    at = 0
    while len(digits) < 32:
        pair = data[at : at + 2]
        if len(pair) < 2 or any(byte not in _HEX for byte in pair):
            raise MdevError(EINVAL, f"no pair of hex digits at {at} of the UUID")
        digits += pair
        at += 2
        if data[at : at + 1] and data[at] in _SEPARATORS:
            at += 1
    text = digits.decode("ascii").lower()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def parse_integer(data: bytes, bits: int) -> int:
    """Return the unsigned number written in ``data``: ``0x`` hex, leading ``0`` octal, else decimal.

    One leading ``+`` and one newline at the end are allowed, a sign is not.

    :raises MdevError: EINVAL no number, ERANGE more than ``bits`` bits.
    """
    body = data.removeprefix(b"+")
    base = 10
    if body[:1] == b"0":
        base = 16 if body[1:2] in {b"x", b"X"} and body[2:3] and body[2] in _HEX else 8
    if base == 16:
        body = body[2:]
    digits = body[: len(body) - len(body.lstrip(_DIGITS[base]))]
    if not digits:
        raise MdevError(EINVAL, f"{_quoted(data)} is no number")
    value = int(digits.lstrip(b"0")[:80] or b"0", base)
    # Beyond 64 bits the original's parser gave up before it looked at what follows; below it looked first.
    if value >= 2**64:
        raise MdevError(ERANGE, f"{_quoted(data)} is too large")
    if body[len(digits) :] not in {b"", b"\n"}:
        raise MdevError(EINVAL, f"{_quoted(data)} is no number")
    if value >= 1 << bits:
        raise MdevError(ERANGE, f"{_quoted(data)} is too large")
    return value


def _quoted(data: bytes) -> str:
    return repr(data[:80].decode(errors="backslashreplace"))


def parse_instance(data: bytes) -> int:
    """Return an instance number of 32 bits.

    :raises MdevError: EINVAL, ERANGE; see :func:`parse_integer`.
    """
    return parse_integer(data, 32)
