"""Every number and byte layout of venet, the virtual ethernet of vbus (ABI ``virtual-ethernet``, version 1).

Little endian, 64-bit alignment, pads written as zero.  Decoders work on a copy, refuse non-zero pads, wrong sizes and
unknown flags by :class:`~pvnet.core.errors.WireError`, and know nothing of what was negotiated: that is
:mod:`pvnet.vbus.venet_checks`.  The ``Struct`` objects are for the two data paths, which read a descriptor field by
field straight out of shared memory; the tuple that ``unpack_from`` returns *is* the copy.

Spec: vbus 8 (layouts), 12 (vectors).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, Final

from pvnet.core.errors import LocalError, WireError

VENET_TYPE: Final = "virtual-ethernet"
"""Type string that drivers match."""
VENET_VERSION: Final = 1
"""The only version of DEVOPEN."""

MAX_RING: Final = 2048
"""Most entries of any ring of a venet."""
DEFAULT_RING: Final = 256
"""Entries of its receive and transmit ring unless the guest says otherwise."""
MAX_FRAGMENTS: Final = 18
"""Most fragments of one packet."""
SG_HEAD_BYTES: Final = 32
IOV_BYTES: Final = 16
MIN_SG_BYTES: Final = SG_HEAD_BYTES + IOV_BYTES
MAX_SG_BYTES: Final = SG_HEAD_BYTES + IOV_BYTES * MAX_FRAGMENTS
"""320: what a slot of the pre-mapped descriptor pool has, and one of the L4RO data pool at most."""
EVENT_BYTES: Final = 24
"""Bytes of a slot of the event pool."""
MIN_FLAT_FRAME: Final = 60
"""A flat frame is padded to this by its sender."""


class VenetFunction(IntEnum):
    """Function of a devcall.  Spec: vbus 8.1."""

    LINKUP = 0
    LINKDOWN = 1
    MACQUERY = 2
    NEGCAP = 3
    FLUSHRX = 4
    PMTDQUERY = 5
    EVQQUERY = 6
    L4ROQUERY = 7


class VenetRegion(IntEnum):
    """Region id of a DEVSHM.  ``RX`` and ``TX`` are north's view.  Spec: vbus 8.2."""

    RX = 0
    TX = 1
    PMTD_POOL = 100
    EVENT_POOL = 101
    EVENT_QUEUE = 102
    L4RO_POOL = 103
    L4RO_PAGES = 104


class CapabilityGroup(IntEnum):
    """Group of NEGCAP.  Spec: vbus 8.3."""

    SG = 0
    EVENTQ = 1
    L4RO = 2


class SgCapability(IntFlag):
    """Bits of the groups SG (what the guest may send) and L4RO (what it takes; without UFO and PMTD)."""

    SG = 1
    TSO4 = 2
    TSO6 = 4
    ECN = 8
    UFO = 16
    PMTD = 32


class EventCapability(IntFlag):
    """Bits of the group EVENTQ."""

    LINKSTATE = 1
    TXC = 2


SG_OFFER: Final = 0x2F
EVENTQ_OFFER: Final = 0x03
L4RO_OFFER: Final = 0x0F
OFFER: Final = {CapabilityGroup.SG: SG_OFFER, CapabilityGroup.EVENTQ: EVENTQ_OFFER, CapabilityGroup.L4RO: L4RO_OFFER}
"""What a host offers, and what a guest asks for: the same three masks."""


class SgFlag(IntFlag):
    """Flags of a packet descriptor."""

    NEEDS_CSUM = 1
    GSO = 2
    ECN = 4


KNOWN_SG_FLAGS: Final = 7


class SgGsoType(IntEnum):
    """``gso.type`` of a packet descriptor; not the numbers of a virtio header."""

    TCPV4 = 0
    UDP = 1
    TCPV6 = 2


class VenetEventId(IntEnum):
    """Id of a venet event."""

    LINKSTATE = 0
    TXC = 1


@dataclass(slots=True)
class Traffic:
    """Frames of one side since the beginning: plain numbers, since they are counted for every batch."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0

    def shown(self) -> dict[str, int]:
        """The numbers by name."""
        return {
            "tx_packets": self.tx_packets,
            "tx_bytes": self.tx_bytes,
            "rx_packets": self.rx_packets,
            "rx_bytes": self.rx_bytes,
        }


SG_HEAD: Final = Struct("<QIIHHBBHHHI")
"""cookie, flags, len, csum.start, csum.offset, gso.type, pad, gso.hdrlen, gso.size, pad, count."""
IOV: Final = Struct("<IIQ")
"""len, pad, ptr."""
IOVS: Final = tuple(Struct("<" + "IIQ" * count) for count in range(MAX_FRAGMENTS + 1))
"""``IOVS[n]`` is n fragments."""
SG_ONE: Final = Struct("<QIIHHBBHHHIIIQ")
"""A whole packet descriptor of one fragment, the usual case."""
CAPABILITY: Final = Struct("<II")
"""gid, bits."""
EVENTQ_QUERY: Final = Struct("<IIII16s")
"""flags, evsize, dpid, qid, pad."""
L4RO_QUERY: Final = Struct("<III20s")
"""flags, dpid, pqid, pad."""
QUERY_BYTES: Final = 32
EVENT_HEAD: Final = Struct("<III")
"""flags, size, id."""
LINKSTATE_EVENT: Final = Struct("<IIIB3x")
TXC_EVENT: Final = Struct("<IIIIQ")
"""Head, txqid, cookie."""

assert SG_HEAD.size == SG_HEAD_BYTES
assert IOV.size == IOV_BYTES
assert SG_ONE.size == MIN_SG_BYTES
assert TXC_EVENT.size == EVENT_BYTES
assert EVENTQ_QUERY.size == L4RO_QUERY.size == QUERY_BYTES


@dataclass(frozen=True, slots=True)
class VenetSg:
    """A packet descriptor (``venet_sg``): what to do to a frame, and the pieces it lies in.

    :ivar cookie: echoed by a TXC event.
    :ivar flags: :class:`SgFlag`.
    :ivar length: bytes of the frame.
    :ivar iovs: the pieces as (length in bytes, address).
    """

    cookie: int
    flags: int
    length: int
    iovs: tuple[tuple[int, int], ...]
    csum_start: int = 0
    csum_offset: int = 0
    gso_type: int = 0
    gso_hdrlen: int = 0
    gso_size: int = 0

    def encode(self) -> bytes:
        """32 + 16 * count bytes.

        :raises LocalError: more than 18 pieces, or a number that does not fit its field.
        """
        if len(self.iovs) > MAX_FRAGMENTS:
            raise LocalError(f"{len(self.iovs)} fragments: at most {MAX_FRAGMENTS}")
        try:
            head = SG_HEAD.pack(
                self.cookie, self.flags, self.length, self.csum_start, self.csum_offset,
                self.gso_type, 0, self.gso_hdrlen, self.gso_size, 0, len(self.iovs),
            )  # fmt: skip
            return head + b"".join(IOV.pack(length, 0, address) for length, address in self.iovs)
        except StructError as error:
            raise LocalError(f"a field of a packet descriptor does not fit: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> VenetSg:
        """Read a descriptor of exactly ``32 + 16 * count`` bytes.

        :raises WireError: too short, too long, more than 18 pieces, an unknown flag, a pad that is not zero.
        """
        if len(data) < SG_HEAD_BYTES:
            raise WireError(f"packet descriptor of {len(data)} bytes", expected="at least 32")
        cookie, flags, length, start, offset, gso_type, pad1, hdrlen, size, pad2, count = SG_HEAD.unpack_from(data)
        if flags & ~KNOWN_SG_FLAGS:
            raise WireError(f"packet flags {flags:#x}", offset=8, expected="bits 0 to 2")
        if pad1 or pad2:
            raise WireError("pad is not zero", offset=21 if pad1 else 26)
        if count > MAX_FRAGMENTS:
            raise WireError(f"{count} fragments", offset=28, expected=f"at most {MAX_FRAGMENTS}")
        if len(data) != SG_HEAD_BYTES + IOV_BYTES * count:
            raise WireError(f"packet descriptor of {len(data)} bytes", expected=f"{SG_HEAD_BYTES + IOV_BYTES * count}")
        fields = IOVS[count].unpack_from(data, SG_HEAD_BYTES)
        if any(fields[1::3]):
            raise WireError("pad of a fragment is not zero")
        iovs = tuple(zip(fields[0::3], fields[2::3], strict=True))
        return cls(cookie, flags, length, iovs, start, offset, gso_type, hdrlen, size)


@dataclass(frozen=True, slots=True)
class Capability:
    """NEGCAP: a group and the bits asked for, or in the answer the bits agreed."""

    group: int
    bits: int

    def encode(self) -> bytes:
        """8 bytes."""
        return CAPABILITY.pack(self.group, self.bits)

    @classmethod
    def decode(cls, data: bytes) -> Capability:
        """:raises WireError: not 8 bytes."""
        return cls(*_unpack(CAPABILITY, data, "capability"))


@dataclass(frozen=True, slots=True)
class EventqQuery:
    """EVQQUERY: ``event_bytes`` per slot of region ``pool``, ring in region ``queue``; a request has only ``flags``."""

    flags: int = 0
    event_bytes: int = 0
    pool: int = 0
    queue: int = 0

    def encode(self) -> bytes:
        """32 bytes."""
        return EVENTQ_QUERY.pack(self.flags, self.event_bytes, self.pool, self.queue, b"")

    @classmethod
    def decode(cls, data: bytes) -> EventqQuery:
        """:raises WireError: not 32 bytes, a pad that is not zero."""
        flags, event_bytes, pool, queue, pad = _unpack(EVENTQ_QUERY, data, "event queue query")
        if any(pad):
            raise WireError("pad of an event queue query is not zero", offset=16)
        return cls(flags, event_bytes, pool, queue)


@dataclass(frozen=True, slots=True)
class L4roQuery:
    """L4ROQUERY: data pool in region ``pool``, page queue in region ``pages``; a request has only ``flags``."""

    flags: int = 0
    pool: int = 0
    pages: int = 0

    def encode(self) -> bytes:
        """32 bytes."""
        return L4RO_QUERY.pack(self.flags, self.pool, self.pages, b"")

    @classmethod
    def decode(cls, data: bytes) -> L4roQuery:
        """:raises WireError: not 32 bytes, a pad that is not zero."""
        flags, pool, pages, pad = _unpack(L4RO_QUERY, data, "L4RO query")
        if any(pad):
            raise WireError("pad of an L4RO query is not zero", offset=12)
        return cls(flags, pool, pages)


@dataclass(frozen=True, slots=True)
class LinkState:
    """Event LINKSTATE, 16 bytes: the carrier is there or not."""

    up: bool

    def encode(self) -> bytes:
        """16 bytes."""
        return LINKSTATE_EVENT.pack(0, LINKSTATE_EVENT.size, VenetEventId.LINKSTATE, self.up)


@dataclass(frozen=True, slots=True)
class TransmitComplete:
    """Event TXC, 24 bytes: the frame of ``cookie`` has been taken; ``queue`` is always 0."""

    cookie: int
    queue: int = 0

    def encode(self) -> bytes:
        """24 bytes."""
        return TXC_EVENT.pack(0, TXC_EVENT.size, VenetEventId.TXC, self.queue, self.cookie)


def decode_event(data: bytes) -> LinkState | TransmitComplete:
    """Read one slot of the event pool (24 bytes, whatever the event's own size) or exactly one event.

    :raises WireError: too short, flags, a size that is not the event's, an unknown id or state.
    """
    if len(data) < EVENT_HEAD.size:
        raise WireError(f"venet event of {len(data)} bytes", expected="at least 12")
    flags, size, event_id = EVENT_HEAD.unpack_from(data)
    if flags:
        raise WireError(f"venet event flags {flags:#x}", offset=0, expected="0")
    layout = {VenetEventId.LINKSTATE: LINKSTATE_EVENT, VenetEventId.TXC: TXC_EVENT}.get(event_id)
    if layout is None:
        raise WireError(f"venet event {event_id}", offset=8, expected="0 or 1")
    if size != layout.size or len(data) < size:
        raise WireError(f"venet event {event_id} of {size} bytes", offset=4, expected=f"{layout.size}")
    if event_id == VenetEventId.TXC:
        *_, queue, cookie = TXC_EVENT.unpack_from(data)
        return TransmitComplete(cookie, queue)
    state = data[12]
    if state > 1 or any(data[13:16]):
        raise WireError(f"link state {state}", offset=12, expected="0 or 1 and a pad of zero")
    return LinkState(state == 1)


def _unpack(layout: Struct, data: bytes, what: str) -> tuple[Any, ...]:
    if len(data) != layout.size:
        raise WireError(f"{what} of {len(data)} bytes", expected=f"{layout.size}")
    return layout.unpack(data)
