"""Attributes of a channel-I/O disk, from text and back.

Spec: mdev 5.1, 8.4; the attributes are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pvnet.mdev.ccw_fba import BLOCK_SIZES
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL

_SIZE: Final = re.compile(r"(\d{1,18})\s*(B|KiB|MiB|GiB|TiB)?")
_UNITS: Final = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DEVNO: Final = re.compile(r"(?:0\.0\.|0x)?([0-9a-fA-F]{1,4})")
_CHPID: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{1,2})")
_WORDS: Final = {"yes": True, "no": False}
MAX_BLOCKS: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class CcwConfig:
    """What a parent is."""

    image: str = ""
    size: int | None = None
    """Of an image that is not there yet."""
    readonly: bool = False
    block_size: int = 512
    devno: int = 0
    chpid: int = 0
    concurrent_sense: bool = True
    """Unit checks bring their sense bytes along."""
    durable: bool = True
    """Writes are flushed."""

    def attributes(self) -> dict[str, str]:
        """Return those that parent and device show."""
        return {
            "block_size": str(self.block_size),
            "durable": _yes_no(self.durable),
            "readonly": _yes_no(self.readonly),
        }


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def parse_config(attributes: Mapping[str, str]) -> CcwConfig:
    """Read the attributes of a parent.

    ``image`` is a path; ``size`` bytes, or a number with KiB, MiB, GiB or TiB; ``readonly``, ``durable`` and
    ``concurrent_sense`` yes or no; ``block_size`` 512 to 4096; ``devno`` and ``chpid`` hexadecimal.

    :raises MdevError: EINVAL, with what was expected.
    """
    values: dict[str, object] = {}
    for key, text in attributes.items():
        match key:
            case "image":
                values[key] = text
            case "size":
                found = _match(_SIZE, key, text, "bytes, or a number with KiB, MiB, GiB or TiB")
                values[key] = int(found[1]) * _UNITS[found[2]]
            case "readonly" | "durable" | "concurrent_sense":
                if text not in _WORDS:
                    raise _expected(key, text, "yes or no")
                values[key] = _WORDS[text]
            case "block_size":
                if text not in map(str, BLOCK_SIZES):
                    raise _expected(key, text, ", ".join(map(str, BLOCK_SIZES)))
                values[key] = int(text)
            case "devno":
                values[key] = int(_match(_DEVNO, key, text, "a device number such as 0.0.1234")[1], 16)
            case "chpid":
                values[key] = int(_match(_CHPID, key, text, "a channel path id such as 17")[1], 16)
            case _:
                raise MdevError(EINVAL, f"attribute {key!r}: there is none of this name")
    if not values.get("image"):
        raise MdevError(EINVAL, "attribute image=PATH is missing")
    config = CcwConfig(**values)  # type: ignore[arg-type]
    if config.size is not None:
        check_disk_size(config.size, config.block_size)
    return config


def check_disk_size(size: int, block_size: int) -> None:
    """Refuse a size that is not 1 to 2^32 - 1 whole blocks.

    :raises MdevError: EINVAL.
    """
    if size % block_size or not 1 <= size // block_size <= MAX_BLOCKS:
        raise MdevError(EINVAL, f"disk of {size} bytes: expected 1 to {MAX_BLOCKS} blocks of {block_size}")


def _match(pattern: re.Pattern[str], key: str, text: str, expected: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise _expected(key, text, expected)
    return found


def _expected(key: str, text: str, expected: str) -> MdevError:
    return MdevError(EINVAL, f"attribute {key}={text!r}: expected {expected}")
