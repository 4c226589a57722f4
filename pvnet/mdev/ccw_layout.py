"""Structures of channel I/O: ORB, SCSW, IRB, SCHIB, CCWs and CRWs.

All of them are big-endian on every processor, as the channel subsystem defines them::

    ORB 12     0 intparm 4 | 4 key and S M Y | 5 F P I A U B H T | 6 LPM | 7 L ... X | 8 address of the program 4
    SCSW 12    0 word 0: flags, fctl, actl, stctl | 4 CCW address 4 | 8 device status | 9 subchannel status | 10 count 2
    IRB 96     0 SCSW | 12 ESW 20 | 32 ECW 32 | 64 EMW 32
    SCHIB 52   0 PMCW 28 | 28 SCSW | 40 measurement block address 8 | 48 model-dependent 4
    CCW1 8     0 command | 1 flags | 2 count 2 | 4 address 4 (31 bits)
    CCW0 8     0 command | 1 address 3 (24 bits) | 4 flags | 5 ignored | 6 count 2

Only ``ret_code`` and the commands of the regions around them are in the byte order of the machine, which is little
endian here (vectors C16 to C18).

A decoder takes what a user has written: it never fails, whatever the bits say.  What is wrong with them is found when
the program is translated or executed.  Spec: mdev 5.4, 5.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pvnet.mdev.ccw_names import Activity, ChannelStatus, Command, OrbFlag, ScswFlag

ORB_BYTES: Final = 12
SCSW_BYTES: Final = 12
IRB_BYTES: Final = 96
PMCW_BYTES: Final = 28
SCHIB_BYTES: Final = 52
CCW_BYTES: Final = 8
CRW_BYTES: Final = 4
SENSE_BYTES: Final = 32
ADDRESS_31: Final = (1 << 31) - 1
ADDRESS_24: Final = (1 << 24) - 1


# --- ORB --------------------------------------------------------------------------------------------------------------

_ORB: Final = struct.Struct(">III")
_KEY_SHIFT: Final = 28
_LPM_SHIFT: Final = 8


class Orb(NamedTuple):
    """Operation request block: where a program is and how it shall run."""

    address: int
    flags: int = OrbFlag.FORMAT_1
    """:class:`OrbFlag`."""
    path_mask: int = 0x80
    intparm: int = 0
    key: int = 0

    def encode(self) -> bytes:
        """Return the 12 bytes."""
        return _ORB.pack(self.intparm, self.key << _KEY_SHIFT | self.flags | self.path_mask << _LPM_SHIFT, self.address)


def decode_orb(data: bytes) -> Orb:
    """Decode 12 bytes."""
    intparm, word, address = _ORB.unpack(data)
    flags = word & 0x0FFF_00FF
    return Orb(address, flags, word >> _LPM_SHIFT & 0xFF, intparm, word >> _KEY_SHIFT)


# --- SCSW, IRB, SCHIB -------------------------------------------------------------------------------------------------

_SCSW: Final = struct.Struct(">IIBBH")
_FCTL_SHIFT: Final = 12
_ACTL_SHIFT: Final = 5
_SCSW_FLAGS: Final = 0xFFFF_8000


class Scsw(NamedTuple):
    """Subchannel status word."""

    flags: int = 0
    """:class:`ScswFlag`, with the key in the highest 4 bits."""
    fctl: int = 0
    actl: int = 0
    stctl: int = 0
    address: int = 0
    """Behind the last CCW that was executed."""
    dstat: int = 0
    cstat: int = 0
    count: int = 0  # type: ignore[assignment]  # the number, not the method of tuples
    """Residual count of that CCW."""

    def encode(self) -> bytes:
        """Return the 12 bytes."""
        word = self.flags | self.fctl << _FCTL_SHIFT | self.actl << _ACTL_SHIFT | self.stctl
        return _SCSW.pack(word, self.address, self.dstat, self.cstat, self.count)

    @property
    def is_final(self) -> bool:
        """Whether the subchannel has nothing more to do for the program."""
        return not self.actl & (Activity.SUBCHANNEL_ACTIVE | Activity.DEVICE_ACTIVE)


def decode_scsw(data: bytes) -> Scsw:
    """Decode 12 bytes."""
    word, address, dstat, cstat, count = _SCSW.unpack(data)
    fctl, actl, stctl = word >> _FCTL_SHIFT & 7, word >> _ACTL_SHIFT & 0x7F, word & 0x1F
    return Scsw(word & _SCSW_FLAGS, fctl, actl, stctl, address, dstat, cstat, count)


_IRB: Final = struct.Struct(">12s5I32s32x")
_ESW_NORMAL: Final = 0x0080_0000
_ESW_CHECK: Final = 0x0480_4000
_ERW_CONCURRENT_SENSE: Final = 0x0100_0000
_ERW_COUNT_SHIFT: Final = 8
_ESW_CHECKS: Final = (
    ChannelStatus.DATA_CHECK | ChannelStatus.CHANNEL_CONTROL_CHECK | ChannelStatus.INTERFACE_CONTROL_CHECK
)


class Irb(NamedTuple):
    """Interruption response block."""

    scsw: Scsw
    esw: tuple[int, int, int, int, int] = (_ESW_NORMAL, 0, 0, 0, 0)
    ecw: bytes = bytes(SENSE_BYTES)

    def encode(self) -> bytes:
        """Return the 96 bytes."""
        return _IRB.pack(self.scsw.encode(), *self.esw, self.ecw)

    @property
    def sense(self) -> bytes | None:
        """Sense bytes that came with it; None: BASIC SENSE gets them."""
        count = self.esw[1] >> _ERW_COUNT_SHIFT & 0x3F
        has = self.scsw.flags & ScswFlag.EXTENDED_CONTROL and self.esw[1] & _ERW_CONCURRENT_SENSE
        return self.ecw[:count] if has else None


def make_irb(scsw: Scsw, sense: bytes | None = None) -> Irb:
    """Make the IRB around a status: the ESW follows from it; ``sense`` (32 bytes) makes it one of concurrent sense."""
    flags, word0, word1 = scsw.flags, _ESW_NORMAL, 0
    if scsw.cstat & _ESW_CHECKS:
        flags |= ScswFlag.EXTENDED_FORMAT
        word0 = _ESW_CHECK
    if sense is not None:
        flags |= ScswFlag.EXTENDED_FORMAT | ScswFlag.EXTENDED_CONTROL
        word1 = _ERW_CONCURRENT_SENSE | SENSE_BYTES << _ERW_COUNT_SHIFT
    told = scsw if flags == scsw.flags else scsw._replace(flags=flags)
    return Irb(told, (word0, word1, 0, 0, 0), sense if sense is not None else bytes(SENSE_BYTES))


def decode_irb(data: bytes) -> Irb:
    """Decode 96 bytes."""
    scsw, word0, word1, word2, word3, word4, ecw = _IRB.unpack(data)
    return Irb(decode_scsw(scsw), (word0, word1, word2, word3, word4), ecw)


_PMCW: Final = struct.Struct(">IIBBBBHBB8sI")
_SCHIB: Final = struct.Struct(">28s12sQI")
_PMCW_ENABLED: Final = 0x0080_0000
_PMCW_DEVICE_NUMBER_VALID: Final = 0x0001_0000
_PMCW_CONCURRENT_SENSE: Final = 0x1


@dataclass(frozen=True, slots=True)
class Pmcw:
    """Path management control word; ``chpids`` has the id of each of up to 8 paths."""

    devno: int
    enabled: bool = False
    path_mask: int = 0
    """LPM: paths that may be used."""
    last_path: int = 0
    """LPUM: the path that was used last."""
    installed: int = 0
    operational: int = 0xFF
    available: int = 0
    chpids: bytes = bytes(8)
    concurrent_sense: bool = False

    def encode(self) -> bytes:
        """Return the 28 bytes."""
        word = _PMCW_DEVICE_NUMBER_VALID | self.devno | (_PMCW_ENABLED if self.enabled else 0)
        characteristics = _PMCW_CONCURRENT_SENSE if self.concurrent_sense else 0
        return _PMCW.pack(
            0, word, self.path_mask, 0, self.last_path, self.installed, 0, self.operational, self.available,
            self.chpids, characteristics,
        )  # fmt: skip


def decode_pmcw(data: bytes) -> Pmcw:
    """Decode 28 bytes."""
    _, word, lpm, _, lpum, pim, _, pom, pam, chpids, characteristics = _PMCW.unpack(data)
    concurrent = bool(characteristics & _PMCW_CONCURRENT_SENSE)
    return Pmcw(word & 0xFFFF, bool(word & _PMCW_ENABLED), lpm, lpum, pim, pom, pam, chpids, concurrent)


def encode_schib(pmcw: Pmcw, scsw: Scsw) -> bytes:
    """Return the 52 bytes of a SCHIB without measurement block."""
    return _SCHIB.pack(pmcw.encode(), scsw.encode(), 0, 0)


def decode_schib(data: bytes) -> tuple[Pmcw, Scsw]:
    """Decode 52 bytes."""
    pmcw, scsw, _, _ = _SCHIB.unpack(data)
    return decode_pmcw(pmcw), decode_scsw(scsw)


# --- CCW --------------------------------------------------------------------------------------------------------------

_CCW: Final = struct.Struct(">BBHI")
_CCW0: Final = struct.Struct(">IBxH")


class Ccw(NamedTuple):
    """Channel command word."""

    command: int
    flags: int = 0
    """:class:`CcwFlag`."""
    count: int = 0  # type: ignore[assignment]  # as above
    address: int = 0

    def encode(self) -> bytes:
        """Return the 8 bytes of format 1."""
        return _CCW.pack(self.command, self.flags, self.count, self.address)

    def encode0(self) -> bytes:
        """Return the 8 bytes of format 0."""
        return _CCW0.pack(self.command << 24 | self.address & ADDRESS_24, self.flags, self.count)


def decode_ccw(data: bytes) -> Ccw:
    """Decode 8 bytes of format 1."""
    return Ccw(*_CCW.unpack(data))


def iter_ccws(data: bytes, *, format_1: bool) -> Iterator[Ccw]:
    """Decode whole CCWs one by one; those of format 0 become format 1, where every TIC is a bare TIC."""
    if format_1:
        return map(Ccw._make, _CCW.iter_unpack(data))
    return (_from_format_0(*fields) for fields in _CCW0.iter_unpack(data))


def _from_format_0(word: int, flags: int, count: int) -> Ccw:
    command, address = word >> 24, word & ADDRESS_24
    if command & 0xF == Command.TIC:
        return Ccw(Command.TIC, 0, 0, address)
    return Ccw(command, flags, count, address)


def decode_ccws(data: bytes, *, format_1: bool) -> list[Ccw]:
    """Decode all of them; see :func:`iter_ccws`."""
    return list(iter_ccws(data, format_1=format_1))


# --- CRW --------------------------------------------------------------------------------------------------------------

_CRW: Final = struct.Struct(">I")
_CRW_OVERFLOW: Final = 1 << 29


@dataclass(frozen=True, slots=True)
class Crw:
    """Channel report word."""

    resource: int
    recovery: int
    id: int
    """Subchannel number or channel path id."""
    overflow: bool = False
    """Reports after this one were lost."""

    def encode(self) -> bytes:
        """Return the 4 bytes."""
        overflow = _CRW_OVERFLOW if self.overflow else 0
        return _CRW.pack(overflow | self.resource << 24 | self.recovery << 16 | self.id)


def decode_crw(data: bytes) -> Crw:
    """Decode 4 bytes."""
    (word,) = _CRW.unpack(data)
    return Crw(word >> 24 & 0xF, word >> 16 & 0x3F, word & 0xFFFF, bool(word & _CRW_OVERFLOW))
