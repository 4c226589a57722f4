"""What a capture is made of: interfaces and records.

A capture file is pcapng (:mod:`pvnet.capture.pvcap`).  Each channel of each node is an interface of its own
(``lpar2/crq``), so that every tool can tell them apart; a record is one message, one Ethernet frame, one imported
hypervisor call, or a piece of memory.

Spec: ecosystem C.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from pvnet.pb.v1.envelope_pb2 import Envelope

LINKTYPE_ETHERNET: Final = 1
"""An Ethernet frame of a virtual network."""
LINKTYPE_ENVELOPE: Final = 147
"""USER0: one ``pvnet.v1.Envelope``."""
LINKTYPE_HCALL: Final = 148
"""USER1: one record of an hcall trace or of a VMC transcript, as a line of JSON (imports that were no envelopes)."""
LINKTYPE_MEMORY: Final = 149
"""USER2: memory that moved without a message: kind u8 (1 RDMA), 7 zero bytes, address u64, then the bytes;
big-endian."""


class Direction(IntEnum):
    """Which way, as the node sees it whose interface it is; the numbers of ``epb_flags``."""

    UNKNOWN = 0
    IN = 1
    OUT = 2


@dataclass(frozen=True, slots=True)
class Interface:
    """Where a record was seen: ``name`` is ``node/channel``."""

    name: str
    link_type: int = LINKTYPE_ENVELOPE
    description: str = ""

    @property
    def node(self) -> str:
        """The node, or all of a name without a slash."""
        return self.name.partition("/")[0]

    @property
    def channel(self) -> str:
        """The channel, or nothing."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Record:
    """One packet of a capture.

    ``time_ns``: nanoseconds since 1970, None where the file has no time for it.  ``number`` counts from 1 within the
    capture, ``offset`` is where its block begins in the file (both 0 for a record that is in no file).
    """

    interface: Interface
    time_ns: int | None
    data: bytes
    direction: Direction = Direction.UNKNOWN
    original_bytes: int = 0
    """Length before it was cut to the snap length; 0: it was not."""
    comment: str = ""
    number: int = 0
    offset: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether bytes are missing."""
        return self.original_bytes > len(self.data)

    def envelope(self) -> Envelope | None:
        """Return the message; None if it is none, or does not decode."""
        if self.interface.link_type != LINKTYPE_ENVELOPE or self.is_cut:
            return None
        envelope = Envelope()
        try:
            envelope.ParseFromString(self.data)
        except DecodeError:
            return None
        return envelope


@dataclass(slots=True)
class CaptureInfo:
    """What a capture says of itself."""

    application: str = ""
    hardware: str = ""
    os: str = ""
    topology: str = ""
    """The lab's topology, as JSON."""
    schema: bytes = b""
    """A serialized ``google.protobuf.FileDescriptorSet`` of the messages."""
    dropped: dict[str, int] = field(default_factory=dict)
    """By interface: records that the recorder could not take."""
    received: dict[str, int] = field(default_factory=dict)
