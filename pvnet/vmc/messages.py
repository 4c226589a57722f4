"""VMC messages as values, and their 16 bytes.

A VMC message is one CRQ element with header byte 0x80.  Two layouts exist, both big-endian (Spec: vmc 2.2, 2.3;
LoPAR "protocol for VMC communications")::

    administrative  >BBB2xBHIHH
        header 80 | type | status | reserved 2 | max_hmc | pool_size 2 | max_mtu 4 | crq_size 2 | version 2
    HMC interface   >BBBBBBHII
        header 80 | type | status | owner | session | index | buffer_id 2 | reserved 4 | lioba or length 4

Decoding is total: every 16 bytes are some message, those that are not understood become :class:`Unknown` and keep
their bytes.  Reserved fields are ignored on receipt (the Linux driver leaves stack garbage in bytes 8..11 of SIGNAL)
and zero on sending.  A value that does not fit its field cannot be built.

The status byte's numbers differ between LoPAR and the Linux driver, so it stays a plain ``int`` here;
:mod:`pvnet.vmc.dialect` gives the names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

from pvnet.core.errors import LocalError
from pvnet.core.open_enum import OpenIntEnum

ELEMENT_BYTES: Final = 16
COMMAND_HEADER: Final = 0x80
NO_BUFFER: Final = 0xFFFF
"""Buffer id that means "none"."""
NO_SESSION: Final = 0
"""Session number of messages that belong to no session (seeds); accepted for any index."""
HMC_ID_BYTES: Final = 32
VERSION: Final = 0x0101
"""Protocol version: high byte major, low byte minor."""

_ADMIN: Final = struct.Struct(">BBB2xBHIHH")
_INTERFACE: Final = struct.Struct(">BBBBBBHII")


class VmcType(OpenIntEnum):
    """Byte 1 of a VMC message; a response is its request with bit 0x80 set."""

    CAPABILITIES = 0x01
    OPEN = 0x02
    CLOSE = 0x03
    ADD_BUFFER = 0x04
    REMOVE_BUFFER = 0x05
    SIGNAL = 0x06
    CAPABILITIES_RESPONSE = 0x81
    OPEN_RESPONSE = 0x82
    CLOSE_RESPONSE = 0x83
    ADD_BUFFER_RESPONSE = 0x84
    REMOVE_BUFFER_RESPONSE = 0x85


class BufferOwner(OpenIntEnum):
    """Who may fill a buffer: ``ALPHA`` is the management partition.  Linux takes any other value for the hypervisor."""

    ALPHA = 0
    HYPERVISOR = 1


_FIELD_BITS: Final = {
    "status": 8,
    "max_hmc": 8,
    "pool_size": 16,
    "max_mtu": 32,
    "crq_size": 16,
    "version": 16,
    "owner": 8,
    "session": 8,
    "index": 8,
    "buffer_id": 16,
    "lioba": 32,
    "length": 32,
}


class _Checked:
    """Refuses to exist with a field that does not fit its place on the wire."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value < 0 or value >> _FIELD_BITS[field.name]:
                raise LocalError(f"{type(self).__name__}.{field.name} = {value} needs {_FIELD_BITS[field.name]} bits")


@dataclass(frozen=True, slots=True)
class Capabilities(_Checked):
    """CAP 0x01, partition to hypervisor: what the sender supports.

    ``max_hmc`` connections (a count), ``pool_size`` buffers per connection, ``max_mtu`` bytes per message,
    ``crq_size`` slots of the *sender's own* queue, ``version`` major.minor.
    """

    max_hmc: int
    pool_size: int
    max_mtu: int
    crq_size: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class CapabilitiesResponse(_Checked):
    """CAP RESP 0x81: the hypervisor's own values; status 0 ok, 1 general failure, 2 invalid version."""

    max_hmc: int
    pool_size: int
    max_mtu: int
    crq_size: int
    version: int = VERSION
    status: int = 0


@dataclass(frozen=True, slots=True)
class Open(_Checked):
    """OPEN 0x02, partition to hypervisor: ``buffer_id`` holds the 32-byte HMC id at its start."""

    session: int
    index: int
    buffer_id: int


@dataclass(frozen=True, slots=True)
class OpenResponse(_Checked):
    """OPEN RESP 0x82: the buffer named is again available to the partition."""

    status: int
    session: int
    index: int
    buffer_id: int


@dataclass(frozen=True, slots=True)
class Close(_Checked):
    """CLOSE 0x03, partition to hypervisor."""

    session: int
    index: int


@dataclass(frozen=True, slots=True)
class CloseResponse(_Checked):
    """CLOSE RESP 0x83: after it no buffer of the index is valid."""

    status: int
    session: int
    index: int


@dataclass(frozen=True, slots=True)
class AddBuffer(_Checked):
    """ADD BUF 0x04, hypervisor to partition: ``lioba`` is the buffer's I/O address in the hypervisor's pane."""

    session: int
    index: int
    buffer_id: int
    owner: int
    lioba: int


@dataclass(frozen=True, slots=True)
class AddBufferResponse(_Checked):
    """ADD BUF RESP 0x84, partition to hypervisor."""

    status: int
    session: int
    index: int
    buffer_id: int


@dataclass(frozen=True, slots=True)
class RemoveBuffer(_Checked):
    """REM BUF 0x05, hypervisor to partition: the partition chooses which buffer."""

    session: int
    index: int


@dataclass(frozen=True, slots=True)
class RemoveBufferResponse(_Checked):
    """REM BUF RESP 0x85: the buffer given up, or :data:`NO_BUFFER`."""

    status: int
    session: int
    index: int
    buffer_id: int


@dataclass(frozen=True, slots=True)
class Signal(_Checked):
    """SIGNAL 0x06, both directions: ``length`` bytes are in the buffer, which changes its owner; never answered."""

    session: int
    index: int
    buffer_id: int
    length: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """16 bytes that are no VMC message known here; kept as they came."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != ELEMENT_BYTES:
            raise LocalError(f"a CRQ element has {ELEMENT_BYTES} bytes, not {len(self.raw)}")

    @property
    def type(self) -> VmcType:
        """Byte 1, whatever it means."""
        return VmcType(self.raw[1])


VmcMessage: TypeAlias = (
    Capabilities
    | CapabilitiesResponse
    | Open
    | OpenResponse
    | Close
    | CloseResponse
    | AddBuffer
    | AddBufferResponse
    | RemoveBuffer
    | RemoveBufferResponse
    | Signal
    | Unknown
)


def decode_vmc(raw: bytes) -> VmcMessage:
    """Decode one element; anything not understood is :class:`Unknown`.  Raises LocalError unless it is 16 bytes."""
    if len(raw) != ELEMENT_BYTES:
        raise LocalError(f"a CRQ element has {ELEMENT_BYTES} bytes, not {len(raw)}")
    header, kind, status, owner, session, index, buffer_id, _reserved, word = _INTERFACE.unpack(raw)
    if header != COMMAND_HEADER:
        return Unknown(bytes(raw))
    match kind:
        case VmcType.SIGNAL:
            return Signal(session, index, buffer_id, word)
        case VmcType.ADD_BUFFER:
            return AddBuffer(session, index, buffer_id, owner, word)
        case VmcType.ADD_BUFFER_RESPONSE:
            return AddBufferResponse(status, session, index, buffer_id)
        case VmcType.REMOVE_BUFFER:
            return RemoveBuffer(session, index)
        case VmcType.REMOVE_BUFFER_RESPONSE:
            return RemoveBufferResponse(status, session, index, buffer_id)
        case VmcType.OPEN:
            return Open(session, index, buffer_id)
        case VmcType.OPEN_RESPONSE:
            return OpenResponse(status, session, index, buffer_id)
        case VmcType.CLOSE:
            return Close(session, index)
        case VmcType.CLOSE_RESPONSE:
            return CloseResponse(status, session, index)
        case VmcType.CAPABILITIES:
            return Capabilities(*_ADMIN.unpack(raw)[3:])
        case VmcType.CAPABILITIES_RESPONSE:
            hmcs, pool, mtu, crq, version = _ADMIN.unpack(raw)[3:]
            return CapabilitiesResponse(hmcs, pool, mtu, crq, version, status)
        case _:
            return Unknown(bytes(raw))


def _interface(
    kind: VmcType, session: int, index: int, *, status: int = 0, owner: int = 0, buffer_id: int = 0, word: int = 0
) -> bytes:
    return _INTERFACE.pack(COMMAND_HEADER, kind, status, owner, session, index, buffer_id, 0, word)


def encode_vmc(message: VmcMessage) -> bytes:
    """Encode ``message`` into its 16 bytes, reserved fields zero."""
    match message:
        case Signal(session, index, buffer_id, length):
            return _interface(VmcType.SIGNAL, session, index, buffer_id=buffer_id, word=length)
        case AddBuffer(session, index, buffer_id, owner, lioba):
            return _interface(VmcType.ADD_BUFFER, session, index, owner=owner, buffer_id=buffer_id, word=lioba)
        case AddBufferResponse(status, session, index, buffer_id):
            return _interface(VmcType.ADD_BUFFER_RESPONSE, session, index, status=status, buffer_id=buffer_id)
        case RemoveBuffer(session, index):
            return _interface(VmcType.REMOVE_BUFFER, session, index)
        case RemoveBufferResponse(status, session, index, buffer_id):
            return _interface(VmcType.REMOVE_BUFFER_RESPONSE, session, index, status=status, buffer_id=buffer_id)
        case Open(session, index, buffer_id):
            return _interface(VmcType.OPEN, session, index, buffer_id=buffer_id)
        case OpenResponse(status, session, index, buffer_id):
            return _interface(VmcType.OPEN_RESPONSE, session, index, status=status, buffer_id=buffer_id)
        case Close(session, index):
            return _interface(VmcType.CLOSE, session, index)
        case CloseResponse(status, session, index):
            return _interface(VmcType.CLOSE_RESPONSE, session, index, status=status)
        case Capabilities(hmcs, pool, mtu, crq, version):
            return _ADMIN.pack(COMMAND_HEADER, VmcType.CAPABILITIES, 0, hmcs, pool, mtu, crq, version)
        case CapabilitiesResponse(hmcs, pool, mtu, crq, version, status):
            return _ADMIN.pack(COMMAND_HEADER, VmcType.CAPABILITIES_RESPONSE, status, hmcs, pool, mtu, crq, version)
        case Unknown(raw):
            return raw


def encode_hmc_id(name: str | bytes) -> bytes:
    """Return the 32 bytes of an HMC id: ``name`` padded with NULs.  Raises LocalError when it is longer.

    On the wire the id is opaque; padding is only how a text gets to its exact length.
    """
    raw = name.encode() if isinstance(name, str) else bytes(name)
    if len(raw) > HMC_ID_BYTES:
        raise LocalError(f"HMC id of {len(raw)} bytes: expected at most {HMC_ID_BYTES}")
    return raw.ljust(HMC_ID_BYTES, b"\0")
