"""The structures of the bridge, byte for byte: calls, parameters, events.

All are little-endian with the natural alignment of a 64-bit machine; a 32-bit peer of 2009 laid some of them out
shorter and is told apart by the length, which must be equal (never "at least").  Holes between fields are zero and are
checked: that is this project's hardening, an original host sent zeros but did not look.

A decoder takes bytes that are already a private copy, and refuses with :class:`~pvnet.core.errors.WireError`.  The
rings and signals have their layout in :mod:`pvnet.ring.layout`.

Spec: vbus 3.2, 3.3, 3.4, 3.6, 4.1, 12.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final, Self

from pvnet.core.errors import WireError

ABI_MAGIC: Final = 0xBF53EEF5
"""Magic of NEGOTIATE."""
CALL_VERSION: Final = 1
"""Version carried in NEGOTIATE."""
ABI_VERSION: Final = 2
"""Revision byte of the bridge: mailbox with slow and fast calls."""
KVM_MAGIC: Final = 0x34F0AB23
"""Magic of the character device of the original host."""
CAP_IOQ_2026: Final = 1
"""Capability bit 0 (ours; an original host writes 0): rings may have the layout with separate cache lines."""
MAX_QUEUES: Final = 8
"""Event queues, one per priority."""
MAX_EVENTS: Final = 2048
"""Entries of an event queue that a host accepts."""
TYPE_BYTES: Final = 128
"""Bytes of a device type in DEVADD."""
EVENT_BYTES: Final = 144
"""Bytes of one event."""

_TYPE: Final = re.compile(rb"[-_.a-z0-9]{1,128}")


class BridgeVector(IntEnum):
    """What a bridge call does (ABI v2)."""

    NEGOTIATE = 0
    QREG = 1
    SLOWCALL = 2
    FASTCALL_ADD = 3
    FASTCALL_DROP = 4


class BusVector(IntEnum):
    """What a bus call does; ABI v1 has the same four from 2 on."""

    DEVOPEN = 0
    DEVCLOSE = 1
    DEVCALL = 2
    DEVSHM = 3


class EventId(IntEnum):
    """Kinds of events."""

    DEVADD = 0
    DEVDROP = 1
    SHMSIGNAL = 2
    SHMCLOSE = 3


class Doorbell(IntEnum):
    """Offsets of the registers of BAR1."""

    EVENTQ = 0
    FASTCALL = 4
    SHMSIGNAL = 8


@dataclass(frozen=True, slots=True)
class Record:
    """Base of the fixed structures: a dataclass of unsigned integers in wire order, and its format."""

    LAYOUT: ClassVar[Struct]

    @classmethod
    def size(cls) -> int:
        """Bytes on the wire."""
        return cls.LAYOUT.size

    def encode(self) -> bytes:
        """The bytes, holes zero."""
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read exactly :meth:`size` bytes.

        :raises WireError: another length, a hole that is not zero, a wrong magic.
        """
        if len(data) != cls.LAYOUT.size:
            raise WireError(f"{cls.__name__} of {len(data)} bytes", expected=f"{cls.LAYOUT.size}")
        record = cls(*cls.LAYOUT.unpack(data))
        again = record.encode()
        if again != data:
            at = next(index for index, byte in enumerate(data) if byte != again[index])
            raise WireError(f"{cls.__name__}: reserved byte", offset=at, expected="0")
        record.check()
        return record

    def check(self) -> None:
        """Refuse what the structure itself excludes.

        :raises WireError: a wrong magic.
        """


@dataclass(frozen=True, slots=True)
class Negotiate(Record):
    """NEGOTIATE: ``capabilities`` asks, and has the answer afterwards."""

    LAYOUT: ClassVar[Struct] = Struct("<IIQ")
    magic: int = ABI_MAGIC
    version: int = CALL_VERSION
    capabilities: int = 0

    def check(self) -> None:
        """Magic and version."""
        if self.magic != ABI_MAGIC:
            raise WireError("NEGOTIATE: magic", offset=0, expected=f"{ABI_MAGIC:#x}")
        if self.version != CALL_VERSION:
            raise WireError("NEGOTIATE: version", offset=4, expected=str(CALL_VERSION))


@dataclass(frozen=True, slots=True)
class CallDescriptor(Record):
    """A call: vector, length and address of its parameters."""

    LAYOUT: ClassVar[Struct] = Struct("<IIQ")
    vector: int
    length: int
    address: int


@dataclass(frozen=True, slots=True)
class FastcallDescriptor(Record):
    """A bus call with room for its result, executed by a doorbell."""

    LAYOUT: ClassVar[Struct] = Struct("<IIQI4x")
    RESULT: ClassVar[int] = 16
    vector: int
    length: int
    address: int
    result: int = 0


@dataclass(frozen=True, slots=True)
class DeviceOpen(Record):
    """DEVOPEN; ``handle`` is the answer."""

    LAYOUT: ClassVar[Struct] = Struct("<IIQ")
    id: int
    version: int
    handle: int = 0


@dataclass(frozen=True, slots=True)
class DeviceClose(Record):
    """DEVCLOSE."""

    LAYOUT: ClassVar[Struct] = Struct("<Q")
    handle: int


@dataclass(frozen=True, slots=True)
class DeviceCall(Record):
    """DEVCALL: ``length`` bytes of data at ``address``."""

    LAYOUT: ClassVar[Struct] = Struct("<QIII4xQ")
    handle: int
    func: int
    length: int
    flags: int
    address: int


@dataclass(frozen=True, slots=True)
class DeviceShm(Record):
    """DEVSHM: ``length`` bytes at ``address`` are region ``id``; ``signal_offset`` 0xFFFFFFFF is "no signal"."""

    LAYOUT: ClassVar[Struct] = Struct("<QIII4xIIQQ")
    handle: int
    id: int
    length: int
    flags: int
    signal_offset: int
    prio: int
    cookie: int
    address: int


@dataclass(frozen=True, slots=True)
class EventQueue(Record):
    """One queue of QREG: ``count`` entries, addresses of the ring and of the events."""

    LAYOUT: ClassVar[Struct] = Struct("<I4xQQ")
    count: int
    ring: int
    data: int


@dataclass(frozen=True, slots=True)
class KvmNegotiate(Record):
    """NEGOTIATE of the original host's character device (v2)."""

    LAYOUT: ClassVar[Struct] = Struct("<IIQ")
    magic: int = KVM_MAGIC
    version: int = ABI_VERSION
    capabilities: int = 0

    def check(self) -> None:
        """Magic and version."""
        if self.magic != KVM_MAGIC:
            raise WireError("KVM NEGOTIATE: magic", offset=0, expected=f"{KVM_MAGIC:#x}")
        if self.version != ABI_VERSION:
            raise WireError("KVM NEGOTIATE: version", offset=4, expected=str(ABI_VERSION))


@dataclass(frozen=True, slots=True)
class KvmOpen(Record):
    """OPEN of the character device: the virtual machine's file descriptor."""

    LAYOUT: ClassVar[Struct] = Struct("<Ii56x")
    flags: int
    vmfd: int


@dataclass(frozen=True, slots=True)
class KvmEventQueue(Record):
    """EVENTQ_ASSIGN of the character device."""

    LAYOUT: ClassVar[Struct] = Struct("<IIiIQQ32x")
    flags: int
    queue: int
    fd: int
    count: int
    ring: int
    data: int


_COUNT: Final = Struct("<I4x")


def encode_queues(queues: Sequence[EventQueue]) -> bytes:
    """Parameter of QREG: the count, then each queue; 32 bytes for one."""
    return _COUNT.pack(len(queues)) + b"".join(queue.encode() for queue in queues)


def decode_queues(data: bytes) -> list[EventQueue]:
    """Read the parameter of QREG.

    :raises WireError: the length does not belong to the count, not 1 to 8 queues, a hole that is not zero.
    """
    if len(data) < _COUNT.size:
        raise WireError(f"QREG of {len(data)} bytes", expected="a count")
    (count,) = _COUNT.unpack_from(data)
    if not 1 <= count <= MAX_QUEUES:
        raise WireError(f"QREG: {count} queues", offset=0, expected=f"1 to {MAX_QUEUES}")
    if any(data[4:8]):
        raise WireError("QREG: reserved byte", offset=4, expected="0")
    size = EventQueue.size()
    if len(data) != _COUNT.size + count * size:
        raise WireError(f"QREG of {len(data)} bytes", expected=f"{_COUNT.size + count * size}")
    return [EventQueue.decode(data[at : at + size]) for at in range(_COUNT.size, len(data), size)]


_EVENT: Final = Struct("<I4xQ128s")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: ``handle`` is a device id (DEVADD, DEVDROP) or a cookie; ``type`` belongs to DEVADD."""

    id: int
    handle: int
    type: str = ""

    def encode(self) -> bytes:
        """The 144 bytes; a type of 128 characters ends without a NUL."""
        return _EVENT.pack(self.id, self.handle, self.type.encode("ascii"))

    @classmethod
    def decode(cls, data: bytes) -> Event:
        """Read 144 bytes.  What follows the handle in an event that is not DEVADD is not looked at: it is no hole.

        :raises WireError: another length, an unknown id, a hole that is not zero, a type that no driver can have.
        """
        if len(data) != EVENT_BYTES:
            raise WireError(f"event of {len(data)} bytes", expected=f"{EVENT_BYTES}")
        number, handle, name = _EVENT.unpack(data)
        if any(data[4:8]):
            raise WireError("event: reserved byte", offset=4, expected="0")
        if number > EventId.SHMCLOSE:
            raise WireError(f"event {number}", offset=0, expected="0 to 3")
        if number != EventId.DEVADD:
            return cls(number, handle)
        name = name.split(b"\0", 1)[0]
        if _TYPE.fullmatch(name) is None:
            raise WireError("DEVADD: type", offset=16, expected="letters, digits, - _ .")
        return cls(number, handle, name.decode("ascii"))


def is_type(name: str) -> bool:
    """Whether ``name`` can be the type of a device: 1 to 128 of ``[-_.a-z0-9]``."""
    return name.isascii() and _TYPE.fullmatch(name.encode("ascii")) is not None


def result_word(result: int) -> int:
    """A result (>= 0, or -errno) as the 32 bits of a register."""
    return result & 0xFFFFFFFF


def result_of(word: int) -> int:
    """A register's 32 bits as a result."""
    return word - (1 << 32) if word >> 31 else word
