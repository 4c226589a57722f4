"""The payload layer: the 32-byte header that management applications put before their data, and its router category.

The channel itself never looks into a payload.  Above it, the public test program of the driver's own repository shows
a header, all fields big-endian::

    00 descriptor DE CA FF | 03 header length 32 | 04 message length u32 | 08 correlation u32 | 0C target u16
    0E reserved | 0F flags | 10 data length u32 | 14 opcode u16 | 16 return code u16 | 18 reserved 8 | 20 data

Doubt decided: that program's comments put the flags at 0x0E, its newer structure at 0x0F.  The sample request that the
structure produces carries 0x80 at 0x0F, so **flags are at 0x0F**; 0x0E is reserved: zero when sent, ignored on receipt.

Only the router category (0x8000: open, close, echo) is public and served here.  Its return codes are served as the
situation demands where a meaning is evident (table at :class:`RouterService`); the others exist as names and can be
asked for with :meth:`RouterService.answer_next`, so that an application's handling of every code can be tried.

pvnet's own management commands travel as payload too, told apart by another magic, so that nobody takes them for part
of the public protocol::

    00 "PVNE" | 04 version u16 = 1 | 06 reserved u16 | 08 length u32 | 0C bytes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from pvnet.core.errors import LocalError, WireError
from pvnet.core.machine import Counters
from pvnet.core.open_enum import OpenIntEnum

DESCRIPTOR: Final = b"\xde\xca\xff"
HEADER_BYTES: Final = 32
MAX_MESSAGE_BYTES: Final = 4096
"""Largest message of the public test program, header included; a service may be built for a larger MTU."""
FLAG_RESPONSE_EXPECTED: Final = 0x80
FLAG_RESPONSE: Final = 0x40
OPEN_DATA_BYTES: Final = 6
"""Data of an open request; only byte 1 (value 1) is ever set and its meaning is not public."""
OPEN_DATA: Final = b"\0\1\0\0\0\0"

_HEADER: Final = struct.Struct(">3sBIIHBBIHH8x")

FRAME_MAGIC: Final = b"PVNE"
FRAME_VERSION: Final = 1
_FRAME: Final = struct.Struct(">4sHHI")
FRAME_HEADER_BYTES: Final = _FRAME.size


class RouterTarget(OpenIntEnum):
    """Target categories; 0x8006 and 0x8007 have no public name."""

    ROUTER = 0x8000
    LPAR_CONFIG = 0x8001
    LPAR_DLPAR = 0x8002
    VSP = 0x8003
    CUOD = 0x8004
    CONCURRENT_MAINTENANCE = 0x8005
    CATEGORY_6 = 0x8006
    CATEGORY_7 = 0x8007


class RouterOpcode(OpenIntEnum):
    """Opcodes of the router category."""

    OPEN = 0x0001
    CLOSE = 0x0002
    ECHO = 0x0103


class RouterRc(OpenIntEnum):
    """Return codes; 8002, 8004, 8005 and 8008 to 8010 are reserved or deprecated."""

    GOOD = 0x0000
    INVALID_OPCODE = 0x8001
    RESERVED_2 = 0x8002
    INVALID_DATA = 0x8003
    RESERVED_4 = 0x8004
    RESERVED_5 = 0x8005
    GENERIC = 0x8006
    CANCELLED = 0x8007
    RESERVED_8 = 0x8008
    RESERVED_9 = 0x8009
    RESERVED_10 = 0x8010
    BUFFER_NOT_AVAILABLE = 0x8020
    INVALID_HMC_INDEX = 0x8021
    INVALID_SIZE = 0x8022
    INVALID_TARGET = 0x8023
    INVALID_CATEGORY = 0x8024
    HMC_DEAD = 0x8025
    PATH_CLOSED = 0x8026
    BIND_EVENT_FAILED = 0x8027
    INVALID_STATE = 0x8028
    SESSION_MISMATCH = 0x8029
    INVALID_HMC_INSTANCE = 0x802A
    HMC_ALREADY_OPEN = 0x802B
    INVALID_BUFFER_ID = 0x802C
    INVALID_RESPONSE = 0x802D
    INVALID_SYNC_REQUEST = 0x802E


@dataclass(frozen=True, slots=True)
class RouterMessage:
    """Header fields and data of one payload message; lengths are derived when it is encoded."""

    opcode: int
    data: bytes = b""
    target: int = RouterTarget.ROUTER
    correlation: int = 0
    flags: int = FLAG_RESPONSE_EXPECTED
    rc: int = RouterRc.GOOD

    def encode(self) -> bytes:
        """Return header and data; raises LocalError when a field does not fit."""
        try:
            return (
                _HEADER.pack(
                    DESCRIPTOR,
                    HEADER_BYTES,
                    HEADER_BYTES + len(self.data),
                    self.correlation,
                    self.target,
                    0,
                    self.flags,
                    len(self.data),
                    self.opcode,
                    self.rc,
                )
                + self.data
            )
        except struct.error as error:
            raise LocalError(f"router header: {error}") from None

    @property
    def is_response(self) -> bool:
        """Whether flag 0x40 is set."""
        return bool(self.flags & FLAG_RESPONSE)


def decode_router(payload: bytes) -> RouterMessage:
    """Decode a whole payload.  Raises WireError: short, other descriptor, lengths that disagree."""
    if len(payload) < HEADER_BYTES:
        raise WireError("router message too short", offset=len(payload), expected=f"{HEADER_BYTES} bytes of header")
    descriptor, header, total, correlation, target, _, flags, length, opcode, rc = _HEADER.unpack_from(payload)
    if descriptor != DESCRIPTOR:
        raise WireError("not a router message", offset=0, expected="DE CA FF")
    if header != HEADER_BYTES:
        raise WireError(f"router header length {header}", offset=3, expected=str(HEADER_BYTES))
    if total != len(payload) or length != total - header:
        raise WireError(
            f"router message length {total}, data length {length}", offset=4, expected=f"{len(payload)} in all"
        )
    return RouterMessage(opcode, bytes(payload[header:]), target, correlation, flags, rc)


@dataclass(slots=True)
class RouterService:
    """The hypervisor's answer to router messages of any number of HMC indices.

    ``serve`` is a function of the message and of what was opened before::

        situation                                              code
        index >= max_hmc                                       8021
        no VMC session is open on the index                    8025
        payload longer than max_message_bytes, lengths wrong   8022
        target outside 8000..8007                              8024
        target 8001..8007 (exists, nobody is there)            8023
        both flags 80 and 40                                   802D
        unknown router opcode                                  8001
        open: data is not 6 bytes                              8003
        open: already open in this session                     802B
        close, echo: not open                                  8028
        close, echo: opened in an earlier VMC session          8029

    Nothing is answered to a request that does not expect a response, to a response, and to bytes without the
    descriptor: a payload that cannot be understood has no correlation to answer to.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_hmc: int = 255
    counters: Counters = field(default_factory=Counters)
    _live: dict[int, int] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)
    _forced: list[RouterRc] = field(default_factory=list)

    def session_opened(self, index: int, session: int) -> None:
        """A VMC session started on ``index``; an earlier router session on it is remembered as mismatching."""
        self._live[index] = session

    def session_closed(self, index: int) -> None:
        """The VMC session on ``index`` ended, and what it had opened with it."""
        self._live.pop(index, None)
        self._open.pop(index, None)

    def answer_next(self, rc: RouterRc) -> None:
        """Answer the next request that wants a response with ``rc``, whatever it asks (a fault switch; queued)."""
        self._forced.append(rc)

    def serve(self, index: int, session: int, payload: bytes) -> bytes | None:
        """Return the response to ``payload``, or ``None`` when none is due."""
        if payload[:3] != DESCRIPTOR or len(payload) < HEADER_BYTES:
            self.counters["not_router"] += 1
            return None
        try:
            request = decode_router(payload)
        except WireError:
            head = _HEADER.unpack_from(payload)
            request = RouterMessage(opcode=head[8], target=head[4], correlation=head[3], flags=head[6])
            rc = RouterRc.INVALID_SIZE
        else:
            rc = self._judge(index, session, request, len(payload))
        if not request.flags & FLAG_RESPONSE_EXPECTED:
            self.counters["response" if request.is_response else "no_response_expected"] += 1
            return None
        if self._forced:
            rc = self._forced.pop(0)
        self.counters[f"rc_{rc:04x}"] += 1
        data = request.data if rc == RouterRc.GOOD else b""
        return replace(request, data=data, flags=FLAG_RESPONSE, rc=rc).encode()

    def _judge(self, index: int, session: int, request: RouterMessage, size: int) -> RouterRc:
        checks = (
            (index >= self.max_hmc, RouterRc.INVALID_HMC_INDEX),
            (self._live.get(index) != session, RouterRc.HMC_DEAD),
            (size > self.max_message_bytes, RouterRc.INVALID_SIZE),
            (not RouterTarget(request.target).is_known, RouterRc.INVALID_CATEGORY),
            (request.target != RouterTarget.ROUTER, RouterRc.INVALID_TARGET),
            (
                request.is_response and bool(request.flags & FLAG_RESPONSE_EXPECTED),
                RouterRc.INVALID_RESPONSE,
            ),
            (not RouterOpcode(request.opcode).is_known, RouterRc.INVALID_OPCODE),
        )
        for failed, rc in checks:
            if failed:
                return rc
        if request.is_response:
            return RouterRc.GOOD
        return self._run(index, session, request)

    def _run(self, index: int, session: int, request: RouterMessage) -> RouterRc:
        opened = self._open.get(index)
        if request.opcode == RouterOpcode.OPEN:
            if len(request.data) != OPEN_DATA_BYTES:
                return RouterRc.INVALID_DATA
            if opened == session:
                return RouterRc.HMC_ALREADY_OPEN
            self._open[index] = session
            return RouterRc.GOOD
        if opened is None:
            return RouterRc.INVALID_STATE
        if opened != session:
            return RouterRc.SESSION_MISMATCH
        if request.opcode == RouterOpcode.CLOSE:
            del self._open[index]
        return RouterRc.GOOD


def encode_frame(body: bytes) -> bytes:
    """Wrap ``body`` (pvnet's own command) for the channel: 12 bytes of header, then the body."""
    return _FRAME.pack(FRAME_MAGIC, FRAME_VERSION, 0, len(body)) + body


def is_frame(payload: bytes) -> bool:
    """Whether ``payload`` starts with pvnet's own magic."""
    return payload[:4] == FRAME_MAGIC


def decode_frame(payload: bytes) -> bytes:
    """Return the body of a pvnet frame.  Raises WireError: short, magic, version, length."""
    if len(payload) < FRAME_HEADER_BYTES:
        raise WireError("pvnet frame too short", offset=len(payload), expected=f"{FRAME_HEADER_BYTES} bytes of header")
    magic, version, _reserved, length = _FRAME.unpack_from(payload)
    if magic != FRAME_MAGIC:
        raise WireError("not a pvnet frame", offset=0, expected='"PVNE"')
    if version != FRAME_VERSION:
        raise WireError(f"pvnet frame version {version}", offset=4, expected=str(FRAME_VERSION))
    if length != len(payload) - FRAME_HEADER_BYTES:
        raise WireError(f"pvnet frame length {length}", offset=8, expected=str(len(payload) - FRAME_HEADER_BYTES))
    return bytes(payload[FRAME_HEADER_BYTES:])
