"""Level 1 of the command/response queue: what the first two bytes of a 16-byte element say.

::

    offset  0        1              2 .. 15
            header   type / format  belongs to the protocol above

    header  0x00         empty slot, the other bytes are undefined
            0x01 - 0x7F  reserved; a consumer does not take them (it looks at bit 0x80 only)
            0x80         command or response; byte 1 is the message type of the protocol above
            0xC0         initialisation; byte 1: 1 INIT, 2 INIT COMPLETE
            0xFF         transport event, made by the platform only; byte 1 is the code, the rest is unspecified
            others       reserved: count and drop

Decoding is total: any 16 bytes are something.  All fields are big-endian, so that the two H_SEND_CRQ words are bytes
0-7 and 8-15 read as numbers, whatever the host's byte order.

Doubt decided: an initialisation element with another format decodes to :class:`ReservedElement`, like a reserved
header, because the advice for both is the same (drop and count).  Spec: LoPAR ch. 17, "CRQ element format".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, assert_never

from pvnet.core.errors import LocalError, WireError
from pvnet.core.open_enum import OpenIntEnum

ELEMENT_BYTES: Final = 16
VALID_BIT: Final = 0x80
_ZERO14: Final = bytes(14)
_WORDS: Final = struct.Struct(">QQ")
_U64_MAX: Final = (1 << 64) - 1


class CrqHeader(OpenIntEnum):
    """Byte 0 of an element."""

    EMPTY = 0x00
    COMMAND = 0x80
    INIT = 0xC0
    TRANSPORT_EVENT = 0xFF


class InitFormat(IntEnum):
    """Byte 1 of an element whose header is 0xC0."""

    INIT = 0x01
    INIT_COMPLETE = 0x02


class TransportEventCode(OpenIntEnum):
    """Byte 1 of an element whose header is 0xFF.  7 and 8 are reserved in LoPAR; ibmvnic uses them as named here."""

    PARTNER_FAILED = 0x01
    PARTNER_DEREGISTERED = 0x02
    PARTNER_TERMINATED = 0x04
    PARTNER_SUSPENDED = 0x06
    DEVICE_DISABLED = 0x07
    DEVICE_FAILOVER = 0x08
    PREPARE_SUSPEND = 0x09
    RESUME = 0x0A


@dataclass(frozen=True, slots=True)
class EmptySlot:
    """Header 0x00: nothing here."""


@dataclass(frozen=True, slots=True)
class CrqInit:
    """C0 01: first half of the handshake.  ``user`` (bytes 2-15) is free for the users; VMC sends zeros."""

    user: bytes = _ZERO14


@dataclass(frozen=True, slots=True)
class CrqInitComplete:
    """C0 02: second half of the handshake; ``user`` as in :class:`CrqInit`."""

    user: bytes = _ZERO14


@dataclass(frozen=True, slots=True)
class TransportEvent:
    """FF code: the platform says what became of the partner.  Bytes 2-15 are unspecified and not kept."""

    code: TransportEventCode


@dataclass(frozen=True, slots=True)
class Command:
    """Header 0x80: message of the protocol above; ``type`` is byte 1, ``raw`` all 16 bytes."""

    type: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class ReservedElement:
    """Reserved header, or initialisation with an unknown format; ``raw`` is all 16 bytes."""

    raw: bytes


CrqElement: TypeAlias = EmptySlot | CrqInit | CrqInitComplete | TransportEvent | Command | ReservedElement


def decode_element(raw: bytes) -> CrqElement:
    """Say what a 16-byte element is.

    Never refuses any 16 bytes; raises :class:`WireError` for another length.
    """
    if len(raw) != ELEMENT_BYTES:
        raise WireError(f"CRQ element of {len(raw)} bytes", expected=f"{ELEMENT_BYTES} bytes")
    raw = bytes(raw)
    header, kind = raw[0], raw[1]
    if header == CrqHeader.COMMAND:
        return Command(kind, raw)
    if header == CrqHeader.EMPTY:
        return EmptySlot()
    if header == CrqHeader.TRANSPORT_EVENT:
        return TransportEvent(TransportEventCode(kind))
    if header == CrqHeader.INIT and kind == InitFormat.INIT:
        return CrqInit(raw[2:])
    if header == CrqHeader.INIT and kind == InitFormat.INIT_COMPLETE:
        return CrqInitComplete(raw[2:])
    return ReservedElement(raw)


def encode_init(user: bytes = _ZERO14) -> bytes:
    """Bytes of INIT (C0 01); ``user`` is at most 14 bytes and is padded with zeros."""
    return _encode(CrqHeader.INIT, InitFormat.INIT, user)


def encode_init_complete(user: bytes = _ZERO14) -> bytes:
    """Bytes of INIT COMPLETE (C0 02); ``user`` is at most 14 bytes and is padded with zeros."""
    return _encode(CrqHeader.INIT, InitFormat.INIT_COMPLETE, user)


def encode_transport_event(code: int) -> bytes:
    """Bytes of a transport event (FF code).  Only the platform may make one: H_SEND_CRQ refuses the header."""
    if not 0 <= code <= 0xFF:
        raise LocalError(f"transport event code {code}: expected 0 to 255")
    return _encode(CrqHeader.TRANSPORT_EVENT, code, _ZERO14)


def _encode(header: int, kind: int, user: bytes) -> bytes:
    if len(user) > len(_ZERO14):
        raise LocalError(f"{len(user)} bytes of user data: expected at most {len(_ZERO14)}")
    return bytes((header, kind)) + user.ljust(len(_ZERO14), b"\0")


def to_words(element: bytes) -> tuple[int, int]:
    """The two H_SEND_CRQ arguments (high, low) of an element; :class:`WireError` if it is not 16 bytes."""
    if len(element) != ELEMENT_BYTES:
        raise WireError(f"CRQ element of {len(element)} bytes", expected=f"{ELEMENT_BYTES} bytes")
    high, low = _WORDS.unpack(element)
    return high, low


def from_words(high: int, low: int) -> bytes:
    """The element of two H_SEND_CRQ arguments; :class:`LocalError` if one is not an unsigned 64-bit value."""
    for word in (high, low):
        if not 0 <= word <= _U64_MAX:
            raise LocalError(f"word {word:#x}: expected an unsigned 64-bit value")
    return _WORDS.pack(high, low)


def is_sendable(element: bytes) -> bool:
    """Whether H_SEND_CRQ accepts the header: bit 0x80 set and not the transport event's 0xFF."""
    return bool(element[0] & VALID_BIT) and element[0] != CrqHeader.TRANSPORT_EVENT


def describe_element(raw: bytes) -> str:
    """One short text of an element for logs: ``INIT``, ``XPORT PARTNER_FAILED``, ``type 0x04``, ..."""
    element = decode_element(raw)
    match element:
        case EmptySlot():
            return "EMPTY"
        case CrqInit():
            return "INIT"
        case CrqInitComplete():
            return "INIT COMPLETE"
        case TransportEvent(code):
            return f"XPORT {code}"
        case Command(kind, _):
            return f"type 0x{kind:02x}"
        case ReservedElement(data):
            return f"RESERVED {data[0]:02x} {data[1]:02x}"
    assert_never(element)
