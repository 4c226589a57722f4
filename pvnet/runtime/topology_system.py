"""What management software sees of a lab: the system as a whole, and the numbers and names of its partitions.

None of it changes how a lab works, except for the limits that are kept: memory and processors of the partitions that
are on never exceed the system's.  UUIDs that nobody wrote are made from names (version 5), so that a lab that is
started again is the same system to its clients.
"""

from __future__ import annotations

import re
import uuid
from functools import lru_cache
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from pvnet.runtime.topology_base import Strict, parse_size

_NAMESPACE: Final = uuid.UUID("2c1b1f0e-6f3c-5f0a-9d6e-70766e657401")
_FIRST_BIT: Final = 1 << 127
LABEL_MAX: Final = 31
"""Longest name of a partition, as the real platform has it."""
MEMORY_DEFAULT: Final = 64 << 30
"""Installed memory that nobody wrote, if it is enough."""
MEMORY_MAX: Final = 1 << 46
PROCESSORS_DEFAULT: Final = 16.0
PROCESSORS_MAX: Final = 4096
UNITS_LEAST: Final = 5
"""Least processing units of a virtual processor, in hundredths; at most it has 100."""
_MIB: Final = 1 << 20


@lru_cache(maxsize=1 << 14)  # a lab of a thousand partitions asks for the same ones at every change
def made_uuid(*names: str) -> str:
    """Return the UUID of what has these names, lower case.

    Its first bit is 0, as in those of PowerVM: clients that make UUIDs of partitions take others for a mistake.
    """
    return str(uuid.UUID(int=uuid.uuid5(_NAMESPACE, "/".join(names)).int & ~_FIRST_BIT))


def _uuid(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise ValueError('a UUID such as "c0ffee00-0000-4000-8000-000000000001"') from None


def check_label(value: str) -> str:
    """Return a name for people, or ValueError."""
    if not 1 <= len(value) <= LABEL_MAX or not value.isprintable() or value != value.strip():
        raise ValueError(f"1 to {LABEL_MAX} printable characters, no space at either end")
    return value


def units_expected(virtual: int) -> str:
    """Return which processing units so many virtual processors of the shared pool can have, as a text."""
    return (
        f"{UNITS_LEAST * virtual / 100:g} to {virtual}: {UNITS_LEAST / 100:g} to 1 for each of its virtual processors"
    )


def _letters(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{1,8}", value):
        raise ValueError("1 to 8 letters or digits")
    return value


def _system_memory(value: int) -> int:
    if not 16 * _MIB <= value <= MEMORY_MAX or value % _MIB:
        raise ValueError("16MiB to 64TiB, a multiple of 1MiB")
    return value


def _region(value: int) -> int:
    if not _MIB <= value <= 1 << 32 or value & (value - 1):
        raise ValueError("a power of two from 1MiB to 4GiB")
    return value


def _size_schema() -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})


Uuid = Annotated[str, AfterValidator(_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]
Label = Annotated[str, AfterValidator(check_label), WithJsonSchema({"type": "string", "maxLength": LABEL_MAX})]
Letters = Annotated[str, AfterValidator(_letters)]
SystemMemory = Annotated[int, BeforeValidator(parse_size), AfterValidator(_system_memory), _size_schema()]
Region = Annotated[int, BeforeValidator(parse_size), AfterValidator(_region), _size_schema()]


class SystemConfig(Strict):
    """The managed system, as management software sees it."""

    name: Label | None = None
    """Name of the system; without one the name of the lab."""
    uuid: Uuid | None = None
    """Its UUID; without one made from the lab's name."""
    machine_type: Letters = "8247"
    """Machine type."""
    model: Letters = "22L"
    """Model."""
    serial: Letters = "PVNET01"
    """Serial number."""
    memory: SystemMemory | None = None
    """Installed memory; partitions that are on never have more together.  Without it 64GiB, or what the partitions
    need."""
    memory_region: Region = 1 << 20
    """Unit in which management software gives memory to partitions."""
    processors: float | None = Field(default=None, ge=1, le=PROCESSORS_MAX)
    """Installed processors; partitions that are on never have more together.  Without it 16, or what the partitions
    need."""


class ProcessorsConfig(Strict):
    """Processors of a partition; nothing here computes more or less by them."""

    dedicated: bool = False
    """Whole processors of its own, instead of units of the shared pool."""
    units: float = Field(default=0.1, ge=0.05, le=256)
    """Processing units; with ``dedicated`` a number of processors."""
    min_units: float | None = Field(default=None, ge=0.05, le=256)
    """Least units; without it as ``units``."""
    max_units: float | None = Field(default=None, ge=0.05, le=256)
    """Most units; without it as ``units``."""
    virtual: int = Field(default=1, ge=1, le=256)
    """Virtual processors (shared)."""
    min_virtual: int | None = Field(default=None, ge=1, le=256)
    """Least virtual processors; without it as ``virtual``."""
    max_virtual: int | None = Field(default=None, ge=1, le=256)
    """Most virtual processors; without it as ``virtual``."""
    uncapped: bool = True
    """Whether it may use more than its units while others do not."""
    weight: int = Field(default=128, ge=0, le=255)
    """Its share of what is free."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, low, value, high in (
            ("units", self.min_units, self.units, self.max_units),
            ("virtual", self.min_virtual, self.virtual, self.max_virtual),
        ):
            if not (value if low is None else low) <= value <= (value if high is None else high):
                raise ValueError(f"min_{name} <= {name} <= max_{name}")
        whole = [n for n in (self.min_units, self.units, self.max_units) if n is not None]
        if self.dedicated and any(n != int(n) or n < 1 for n in whole):
            raise ValueError("whole processors, because dedicated = true")
        if not self.dedicated and not UNITS_LEAST * self.virtual <= round(self.units * 100) <= 100 * self.virtual:
            raise ValueError(f"units = {units_expected(self.virtual)} (virtual = {self.virtual})")
        return self
