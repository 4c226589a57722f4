"""Numbers of channel I/O: flags of CCWs and ORBs, commands, statuses, reports.

Flags are plain numbers with names (``IntEnum``): what is joined or masked is an ``int`` and has no class that every
single operation would have to look up.

Spec: mdev 5.4, 5.6.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class CcwFlag(IntEnum):
    """Flags of a CCW."""

    CHAIN_DATA = 0x80
    CHAIN_COMMAND = 0x40
    SUPPRESS_LENGTH = 0x20
    """SLI: an incorrect length is no error."""
    SKIP = 0x10
    PCI = 0x08
    """Interrupt when this CCW takes control."""
    IDA = 0x04
    """The address is that of a list of IDAWs."""
    SUSPEND = 0x02
    MIDA = 0x01


class Command(IntEnum):
    """Command codes that more than one kind of device has."""

    NOP = 0x03
    BASIC_SENSE = 0x04
    TIC = 0x08
    """Transfer in channel: go on at the address."""
    READ_CHARACTERISTICS = 0x64
    SENSE_ID = 0xE4


class CommandClass(IntEnum):
    """What a command does, by its low bits."""

    INVALID = 0
    WRITE = 1
    READ = 2
    CONTROL = 3
    SENSE = 4
    TIC = 8
    READ_BACKWARD = 12


_CLASSES: Final = tuple(CommandClass(low if low in (0, 4, 8, 12) else low & 3) for low in range(16))


def command_class(code: int) -> CommandClass:
    """Return the class of a command code."""
    return _CLASSES[code & 0xF]


class OrbFlag(IntEnum):
    """Bits of an ORB: bytes 4 to 7 as one word, without key and LPM."""

    SUSPEND = 0x0800_0000
    MODIFICATION = 0x0200_0000
    SYNCHRONIZATION = 0x0100_0000
    FORMAT_1 = 0x0080_0000
    PREFETCH = 0x0040_0000
    INITIAL_STATUS = 0x0020_0000
    ADDRESS_LIMIT = 0x0010_0000
    SUPPRESS_SUSPENDED = 0x0008_0000
    TRANSPORT = 0x0004_0000
    IDAW_64 = 0x0002_0000
    """H: IDAWs are of format 2, 8 bytes each."""
    IDAW_2K = 0x0001_0000
    """T: blocks of format-2 IDAWs are 2 KiB instead of 4."""
    LENGTH = 0x0000_0080
    EXTENSION = 0x0000_0001


class Function(IntEnum):
    """``fctl``: functions that a subchannel has been given."""

    CLEAR = 1
    HALT = 2
    START = 4


class Activity(IntEnum):
    """``actl``."""

    SUSPENDED = 0x01
    DEVICE_ACTIVE = 0x02
    SUBCHANNEL_ACTIVE = 0x04
    CLEAR_PENDING = 0x08
    HALT_PENDING = 0x10
    START_PENDING = 0x20
    RESUME_PENDING = 0x40


class StatusControl(IntEnum):
    """``stctl``."""

    PENDING = 0x01
    SECONDARY = 0x02
    PRIMARY = 0x04
    INTERMEDIATE = 0x08
    ALERT = 0x10


class DeviceStatus(IntEnum):
    """``dstat``: what the device said."""

    UNIT_EXCEPTION = 0x01
    UNIT_CHECK = 0x02
    DEVICE_END = 0x04
    CHANNEL_END = 0x08
    BUSY = 0x10
    CONTROL_UNIT_END = 0x20
    STATUS_MODIFIER = 0x40
    ATTENTION = 0x80


class ChannelStatus(IntEnum):
    """``cstat``: what the channel says."""

    CHAINING_CHECK = 0x01
    INTERFACE_CONTROL_CHECK = 0x02
    CHANNEL_CONTROL_CHECK = 0x04
    DATA_CHECK = 0x08
    PROTECTION_CHECK = 0x10
    PROGRAM_CHECK = 0x20
    INCORRECT_LENGTH = 0x40
    PCI = 0x80


class ScswFlag(IntEnum):
    """Bits of word 0 of the SCSW above the three controls."""

    SUSPEND = 0x0800_0000
    EXTENDED_FORMAT = 0x0400_0000
    """The ESW says more."""
    DEFERRED_CC_3 = 0x0300_0000
    FORMAT_1 = 0x0080_0000
    PREFETCH = 0x0040_0000
    INITIAL_STATUS = 0x0020_0000
    ADDRESS_LIMIT = 0x0010_0000
    SUPPRESS_SUSPENDED = 0x0008_0000
    EXTENDED_CONTROL = 0x0002_0000
    """E: the ECW holds sense bytes."""
    PATH_NOT_OPERATIONAL = 0x0001_0000


class Resource(IntEnum):
    """``rsc`` of a CRW: what has changed."""

    SUBCHANNEL = 3
    CHANNEL_PATH = 4
    CHANNEL_SUBSYSTEM = 0xB


class Recovery(IntEnum):
    """``erc`` of a CRW: what has become of it."""

    EVENT = 0
    AVAILABLE = 1
    INITIALIZED = 2
    TEMPORARY_ERROR = 3
    INSTALLED = 4
    TERMINAL = 5
    PERMANENT_ERROR = 6
    PERMANENT_INITIALIZED = 7
    MODIFIED = 8
