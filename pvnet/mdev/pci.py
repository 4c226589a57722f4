"""Configuration space of a PCI device: 256 bytes of which a user can change a few bits.

Writable are the address bits of BARs that exist, the useful bits of the command register, the interrupt line, and what
the device adds (a capability's enable bits).  Every other bit keeps its value silently, as hardware does it: also the
status register, whose "write 1 to clear" bits are never set here, and the ROM BAR, which reads 0 because there is no
ROM.  Sizing needs no special case: of 0xffffffff written to a BAR only the address bits stick, which is the answer.

Accesses may begin anywhere and have any length.  Little-endian.

Spec: mdev 6.6, 7.2, 8.1, 9.2 (B16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DeviceFlag
from pvnet.papr.errno import EINVAL

CONFIG_BYTES: Final = 256

_COMMAND: Final = 0x04
_BAR0: Final = 0x10
_BARS: Final = 6
_INTERRUPT_LINE: Final = 0x3C

COMMAND_IO: Final = 0x0001
COMMAND_MEMORY: Final = 0x0002
COMMAND_MASTER: Final = 0x0004
COMMAND_INTX_OFF: Final = 0x0400
_COMMAND_WRITABLE: Final = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | 0x0040 | 0x0100 | COMMAND_INTX_OFF
"""With parity error response and SERR enable, which mean nothing here but are expected to stick."""

_IO_MIN: Final = 4
_MEMORY_MIN: Final = 16
_IO_TYPE: Final = 0x1
_PREFETCHABLE_TYPE: Final = 0x8
_WORD: Final = 0xFFFFFFFF


def odd_bars(flags: int, sizes: Sequence[int]) -> dict[int, int]:
    """Return index and size of those BARs that no hardware could have, since they are no power of two.

    A device works with them as long as its user does not look at it as a PCI device; QEMU does, and aborts.

    :param flags: :class:`~pvnet.mdev.names.DeviceFlag`.
    :param sizes: of the regions, by index.
    """
    if not flags & DeviceFlag.PCI:
        return {}
    return {index: size for index, size in enumerate(sizes[:_BARS]) if size & (size - 1)}


@dataclass(frozen=True, slots=True)
class Bar:
    """A 32-bit base address register: ``size`` in bytes, a power of two (0: not there)."""

    size: int
    io: bool
    prefetchable: bool = False

    def __post_init__(self) -> None:
        least = _IO_MIN if self.io else _MEMORY_MIN
        if self.size and (self.size < least or self.size > 1 << 31 or self.size & (self.size - 1)):
            raise LocalError(f"a BAR of {self.size} bytes: a power of two, at least {least}")
        if self.io and self.prefetchable:
            raise LocalError("a BAR of I/O ports cannot be prefetchable")

    @property
    def type_bits(self) -> int:
        """What the low bits read."""
        if not self.size:
            return 0
        return _IO_TYPE if self.io else _PREFETCHABLE_TYPE if self.prefetchable else 0

    @property
    def address_bits(self) -> int:
        """Which bits can be written."""
        return _WORD & -self.size if self.size else 0


class ConfigSpace:
    """The bytes, and which of them can be written."""

    def __init__(self, image: bytes, *, bars: Mapping[int, Bar], writable: Mapping[int, int] | None = None) -> None:
        """Take ``image`` (at most 256 bytes, the rest is zero) as it is after power on.

        The BARs of ``image`` are replaced by what ``bars`` says.  ``writable``: further bits, offset of a byte to mask.
        """
        if len(image) > CONFIG_BYTES:
            raise LocalError(f"a configuration space of {len(image)} bytes")
        start = bytearray(image.ljust(CONFIG_BYTES, b"\0"))
        masks = bytearray(CONFIG_BYTES)
        masks[_COMMAND : _COMMAND + 2] = _COMMAND_WRITABLE.to_bytes(2, "little")
        masks[_INTERRUPT_LINE] = 0xFF
        start[_BAR0 : _BAR0 + 4 * _BARS] = bytes(4 * _BARS)
        for index, bar in bars.items():
            if not 0 <= index < _BARS:
                raise LocalError(f"BAR {index}")
            at = _BAR0 + 4 * index
            start[at : at + 4] = bar.type_bits.to_bytes(4, "little")
            masks[at : at + 4] = bar.address_bits.to_bytes(4, "little")
        for offset, mask in (writable or {}).items():
            masks[offset] |= mask
        self._start = bytes(start)
        self._masks = bytes(masks)
        self._data = start
        self._bars = dict(bars)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes; the range lies inside."""
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store what can be stored; the range lies inside."""
        own, masks = self._data, self._masks
        for at, value in enumerate(data, offset):
            mask = masks[at]
            own[at] = (own[at] & ~mask) | (value & mask)

    def poke(self, offset: int, data: bytes) -> None:
        """Store bytes as the device itself, read-only ones too."""
        if offset < 0 or offset + len(data) > CONFIG_BYTES:
            raise LocalError(f"bytes {offset} to {offset + len(data)} of configuration space")
        self._data[offset : offset + len(data)] = data

    def reset(self) -> None:
        """As after power on."""
        self._data[:] = self._start

    def snapshot(self) -> bytes:
        """All 256 bytes."""
        return bytes(self._data)

    def restore(self, data: bytes) -> None:
        """Take over what a user could have written; read-only bits stay what this device says.

        :raises MdevError: EINVAL, not 256 bytes.
        """
        if len(data) != CONFIG_BYTES:
            raise MdevError(EINVAL, f"a configuration space of {len(data)} bytes")
        self.write(0, data)

    def bar(self, index: int) -> int:
        """Address in a BAR, without its type bits; 0 as long as nobody has placed it (or it does not exist)."""
        at = _BAR0 + 4 * index
        bar = self._bars.get(index)
        return int.from_bytes(self._data[at : at + 4], "little") & bar.address_bits if bar else 0

    @property
    def command(self) -> int:
        """The command register."""
        return int.from_bytes(self._data[_COMMAND : _COMMAND + 2], "little")

    @property
    def io_enabled(self) -> bool:
        """Whether I/O BARs answer."""
        return bool(self.command & COMMAND_IO)

    @property
    def memory_enabled(self) -> bool:
        """Whether memory BARs answer."""
        return bool(self.command & COMMAND_MEMORY)

    @property
    def master_enabled(self) -> bool:
        """Whether it may reach memory by itself."""
        return bool(self.command & COMMAND_MASTER)

    @property
    def intx_enabled(self) -> bool:
        """Whether it may raise INTx."""
        return not self.command & COMMAND_INTX_OFF
