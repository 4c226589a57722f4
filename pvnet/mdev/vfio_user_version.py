"""Version negotiation of vfio-user: what either end can take, as JSON.

The payload of VERSION is ``u16 major, u16 minor`` and, optionally, JSON text with a NUL (or several) behind it::

    {"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": 1048576, ...}}

The text comes from a stranger: its length and depth are bounded before it is parsed, a key that occurs twice is
refused, and so is every known key whose value is of another type or out of range.  Unknown keys are ignored.

Spec: mdev 6.3, 9.2 (B1, B2), 9.3.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import DEFAULT_TRANSFER, MAJOR, MINOR, VERSION_HEAD, Data
from pvnet.papr.errno import EINVAL

MAX_TEXT: Final = 16 << 10
"""Longest JSON text that is parsed; real ones have 62 to 200 bytes."""
MAX_DEPTH: Final = 8
MAX_NUMBER: Final = (1 << 64) - 1

_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class MigrationCapability:
    """``pgsize``: granularity of dirty bitmaps in bytes; ``max_bitmap_size``: longest bitmap in bytes."""

    pgsize: int = 4096
    max_bitmap_size: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one end can take; each obeys the other's.  Defaults are what an absent key means."""

    max_msg_fds: int = 1
    """Descriptors in one message."""
    max_data_xfer_size: int = DEFAULT_TRANSFER
    """Data bytes of one message."""
    max_dma_maps: int = 65535
    pgsizes: int = 4096
    """Bitmap of page sizes for DMA."""
    migration: MigrationCapability | None = None
    write_multiple: bool = False
    """REGION_WRITE_MULTI is understood."""
    twin_socket: bool | None = None
    """A second socket for commands of the server is supported; None: not said."""


@dataclass(frozen=True, slots=True)
class Version:
    """A decoded VERSION, of either direction."""

    major: int
    minor: int
    capabilities: Capabilities


def encode_version(capabilities: Capabilities, *, minor: int = MINOR) -> bytes:
    """Payload of a VERSION."""
    shown: dict[str, object] = {
        "max_msg_fds": capabilities.max_msg_fds,
        "max_data_xfer_size": capabilities.max_data_xfer_size,
        "max_dma_maps": capabilities.max_dma_maps,
        "pgsizes": capabilities.pgsizes,
    }
    if capabilities.migration is not None:
        migration = capabilities.migration
        shown["migration"] = {"pgsize": migration.pgsize, "max_bitmap_size": migration.max_bitmap_size}
    if capabilities.write_multiple:
        shown["write_multiple"] = True
    if capabilities.twin_socket is not None:
        shown["twin_socket"] = {"supported": capabilities.twin_socket}
    text = json.dumps({"capabilities": shown}, separators=(",", ":"))
    return VERSION_HEAD.pack(MAJOR, minor) + text.encode() + b"\0"


def decode_version(payload: Data) -> Version:
    """Decode the payload of a VERSION; major and minor are the caller's to judge.

    :raises MdevError: EINVAL, with what is wrong.
    """
    if len(payload) < VERSION_HEAD.size:
        raise MdevError(EINVAL, "VERSION without numbers")
    major, minor = VERSION_HEAD.unpack_from(payload)
    text = bytes(payload[VERSION_HEAD.size :])
    return Version(major, minor, _capabilities(text) if text else Capabilities())


def _capabilities(text: bytes) -> Capabilities:
    if len(text) > MAX_TEXT or text[-1]:
        raise MdevError(EINVAL, f"VERSION with {len(text)} bytes of JSON, or without NUL")
    try:
        decoded = text.rstrip(b"\0").decode()
        _check_depth(decoded)
        value = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse)
    except ValueError as error:
        raise MdevError(EINVAL, f"VERSION with JSON that does not parse: {error}") from None
    return _decode(_object(_object(value, "JSON").get("capabilities", {}), "capabilities"))


def _check_depth(text: str) -> None:
    """The parser is recursive: bound the depth first."""
    depth = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("too deep")
        elif character in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _decode(shown: dict[str, object]) -> Capabilities:
    migration = None
    if "migration" in shown:
        entry = _object(shown["migration"], "migration")
        absent = MigrationCapability()
        migration = MigrationCapability(
            _number(entry, "pgsize", absent.pgsize, least=1),
            _number(entry, "max_bitmap_size", absent.max_bitmap_size),
        )
    twin = None
    if "twin_socket" in shown:
        twin = _flag(_object(shown["twin_socket"], "twin_socket"), "supported")
    default = Capabilities()
    return Capabilities(
        _number(shown, "max_msg_fds", default.max_msg_fds),
        _number(shown, "max_data_xfer_size", default.max_data_xfer_size, least=1),
        _number(shown, "max_dma_maps", default.max_dma_maps),
        _number(shown, "pgsizes", default.pgsizes, least=1),
        migration,
        _flag(shown, "write_multiple"),
        twin,
    )


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise MdevError(EINVAL, f"VERSION: {what} is no object")
    return value


def _number(entry: dict[str, object], key: str, default: int, *, least: int = 0) -> int:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
        raise MdevError(EINVAL, f"VERSION: {key} is no number from {least}")
    return value


def _flag(entry: dict[str, object], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise MdevError(EINVAL, f"VERSION: {key} is no boolean")
    return value
