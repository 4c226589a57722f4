"""What the models of a topology are made of: the strict base, and the values that may be written in several ways."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pvnet.core.names import NAME_PATTERN, RESERVED_NAMES, UnitAddress

_SIZE: Final = re.compile(r"^(\d+)\s*(B|KiB|MiB|GiB)$")
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PAGE: Final = 4096
_MEMORY_MIN: Final = (1 << 20) + _PAGE
"""The partition's own MiB and the page at the start of its DMA area: see ``runtime.layout``."""
_MEMORY_MAX: Final = 64 << 30
_DEVICE_MAX: Final = 1 << 40


def parse_size(value: object) -> object:
    """``"16MiB"`` to bytes; integers are bytes already."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError('a size such as "16MiB" (B, KiB, MiB or GiB)')
        return int(match[1]) * _UNITS[match[2]]
    return value


def _memory(value: int) -> int:
    if not _MEMORY_MIN <= value <= _MEMORY_MAX or value % _PAGE:
        raise ValueError("1028KiB to 64GiB, a multiple of 4096 bytes")
    return value


def _device_size(value: int) -> int:
    if not _PAGE <= value <= _DEVICE_MAX or value % _PAGE:
        raise ValueError("4KiB to 1TiB, a multiple of 4096 bytes")
    return value


def parse_unit(value: object) -> object:
    """``"0x30000002"`` to the unit address; integers are taken as they are."""
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            raise ValueError('a unit address such as "0x30000002"') from None
    return value


def check_unit(value: int) -> UnitAddress:
    """Return a unit address of 32 bits, or ValueError."""
    if not 0 < value < 1 << 32:
        raise ValueError("a unit address of 32 bits, not 0")
    return UnitAddress(value)


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value) or value in RESERVED_NAMES:
        raise ValueError("1 to 32 of a-z 0-9 _ - (and not 'state')")
    return value


def check_hmc_id(value: str) -> str:
    """Return the text of an HMC id, or ValueError."""
    if not 1 <= len(value.encode()) <= 32:
        raise ValueError("1 to 32 bytes of text")
    return value


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_memory),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _SIZE.pattern}, {"type": "integer"}]}),
]
BigSize = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_device_size),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _SIZE.pattern}, {"type": "integer"}]}),
]
Unit = Annotated[
    int,
    BeforeValidator(parse_unit),
    AfterValidator(check_unit),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^0x[0-9a-fA-F]{1,8}$"}, {"type": "integer"}]}),
]
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]


class Strict(BaseModel):
    """Base of the models: unknown keys and other types are refused, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Restart(Strict):
    """What happens when a node's process ends without being asked to."""

    policy: Literal["never", "on-failure", "always"] = "on-failure"
    """``on-failure``: not after exit code 0."""
    max_restarts: int = Field(default=5, ge=0, le=1000)
    """So many within ``window_s``; one more and the node is given up."""
    window_s: float = Field(default=60.0, gt=0, le=86400)
    """Seconds over which restarts are counted."""
