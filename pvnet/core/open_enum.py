"""Integer enumerations that keep numbers they do not know.

A number that arrives on a wire may be newer than this program.  ``OpenIntEnum`` therefore never refuses one: unknown
values become members named after the enumeration and the number, so that they can be printed, compared and sent on.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class OpenIntEnum(IntEnum):
    """``IntEnum`` whose lookup accepts any int: ``VmcType(0x77)`` is a value, ``VmcType(0x77).is_known`` is false."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"{cls.__name__}(0x{value:X})" if value >= 0 else f"{cls.__name__}({value})"
        member._value_ = value
        return member

    @property
    def is_known(self) -> bool:
        """Whether the number has a name in this program."""
        return self._value_ in type(self)._value2member_map_

    def __str__(self) -> str:
        return self._name_
