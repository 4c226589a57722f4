"""Messages of vfio-user: header, commands, fixed payloads, and what a session may use of its connection.

VFIO's device API between a client (a VMM, a partition) and a server (the device).  Little-endian.  Every message begins
with 16 bytes::

    0   u16  message id, chosen by the sender of the command and copied into the reply
    2   u16  command
    4   u32  size of the message, header included
    8   u32  flags: bits 0-3 type (0 command, 1 reply), bit 4 No_reply, bit 5 Error; other bits are ignored
    12  u32  error: errno, positive, valid with Error only

The two directions have id spaces of their own.  Descriptors travel beside a message; here they are numbers that only
the carrier understands (:data:`Descriptor`).

Bytes that do not frame raise :class:`~pvnet.core.errors.WireError` (:func:`frame_size`); everything else that is wrong
is an error reply.  Spec: mdev 6.1, 6.2, 6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, Protocol, TypeAlias

from pvnet.core.errors import WireError
from pvnet.mdev.device import RegionMemory
from pvnet.mdev.user import DmaMemory, IrqTarget

Descriptor: TypeAlias = int
"""A file descriptor number, or on a lab carrier a number that the carrier knows."""
Data: TypeAlias = bytes | memoryview

MAJOR: Final = 0
MINOR: Final = 2
"""Protocol versions spoken here: 0.0 to 0.2."""
DEFAULT_TRANSFER: Final = 1 << 20
"""Most data bytes of one message, unless the peer says otherwise."""
MAX_MESSAGE: Final = DEFAULT_TRANSFER + (64 << 10)
"""Longest message that is taken, header included."""


class Command(IntEnum):
    """Commands; all from client to server but DMA_READ and DMA_WRITE.  Spec: mdev 6.2."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


HEADER: Final = Struct("<HHIII")
"""id, command, size, flags, error."""
HEADER_SIZE: Final = HEADER.size
TYPE_MASK: Final = 0xF
TYPE_COMMAND: Final = 0
TYPE_REPLY: Final = 1
NO_REPLY: Final = 0x10
ERROR: Final = 0x20

VERSION_HEAD: Final = Struct("<HH")
"""VERSION: major, minor; JSON text with a NUL may follow."""
ACCESS: Final = Struct("<QII")
"""REGION_READ, REGION_WRITE: offset, region, count; data follows."""
ACCESS_MESSAGE: Final = Struct("<HHIIIQII")
"""Header and :data:`ACCESS` in one."""
MULTI_HEAD: Final = Struct("<Q")
"""REGION_WRITE_MULTI: how many :data:`MULTI_ENTRY` follow; its reply: how many were done."""
MULTI_ENTRY: Final = Struct("<QII8s")
"""offset, region, count (at most 8), data."""
DMA: Final = Struct("<QQ")
"""DMA_READ, DMA_WRITE: address, count; data follows."""
DMA_COUNT: Final = Struct("<I")
"""Another shape of the reply to DMA_WRITE."""
DMA_MAP: Final = Struct("<IIQQQ")
"""argsz, flags, offset, address, size."""
DMA_UNMAP: Final = Struct("<IIQQ")
"""argsz, flags, address, size."""
UNMAP_GET_DIRTY: Final = 1
UNMAP_ALL: Final = 2
IO_FDS: Final = Struct("<IIII")
"""DEVICE_GET_REGION_IO_FDS: argsz, flags, index, count."""
MIG_DATA: Final = Struct("<II")
"""MIG_DATA_READ, MIG_DATA_WRITE: argsz, size; data follows."""


class Connection(Protocol):
    """What both ends use of a connection."""

    max_fds: int
    """Most descriptors of one message, 0 where none can be passed."""

    def send(self, parts: Sequence[Data], descriptors: Sequence[Descriptor]) -> None:
        """Send one whole message, made of ``parts``; the descriptors stay the sender's.  Never raises, never blocks."""
        ...

    def close_descriptor(self, descriptor: Descriptor) -> None:
        """Let go of a descriptor that came and is not used."""
        ...

    def close(self, reason: str) -> None:
        """The session is over: drop the connection after what was sent."""
        ...


class Carrier(Connection, Protocol):
    """What a server session may use, beside sending."""

    def irq_target(self, descriptor: Descriptor) -> IrqTarget:
        """Make an irq target of a descriptor, which is taken over, also on failure.

        :raises MdevError: EBADF, EINVAL it is no eventfd.
        """
        ...

    def dma_memory(self, descriptor: Descriptor, offset: int, size: int, *, writable: bool) -> DmaMemory:
        """Make memory of ``size`` bytes from ``offset`` of a descriptor, which is taken over, also on failure.

        :raises MdevError: EINVAL it is too short or of the wrong kind, EACCES, ENOMEM.
        """
        ...

    def region_descriptor(self, memory: RegionMemory) -> Descriptor | None:
        """Name a descriptor of a region's memory, owned by the memory; None: it cannot be passed on this carrier."""
        ...


def frame_size(header: Data, limit: int = MAX_MESSAGE) -> int:
    """Total size of the message that begins with these 16 bytes.

    Who frames a stream hands the 16 bytes of a header that fails here to ``message()`` of its session, which answers
    and closes (spec: mdev B6).

    :raises WireError: the size is below 16 or above ``limit``.
    """
    size: int = HEADER.unpack_from(header)[2]
    if not HEADER_SIZE <= size <= limit:
        raise WireError(f"message of {size} bytes", offset=4, expected=f"{HEADER_SIZE} to {limit}")
    return size


def command_parts(ident: int, command: int, *parts: Data, flags: int = 0) -> tuple[Data, ...]:
    """Message with a command."""
    return (HEADER.pack(ident, command, HEADER_SIZE + sum(map(len, parts)), flags, 0), *parts)


def reply_parts(ident: int, command: int, *parts: Data) -> tuple[Data, ...]:
    """Message with the reply to a command."""
    return (HEADER.pack(ident, command, HEADER_SIZE + sum(map(len, parts)), TYPE_REPLY, 0), *parts)


def error_parts(ident: int, command: int, errno: int) -> tuple[Data, ...]:
    """Message with an error reply: a header only."""
    return (HEADER.pack(ident, command, HEADER_SIZE, TYPE_REPLY | ERROR, errno),)


def command_name(command: int) -> str:
    """Name of a command for notes and errors; unknown ones print as ``command 99``."""
    try:
        return Command(command).name
    except ValueError:
        return f"command {command}"
