"""Making and checking protobuf envelopes.

``SCHEMA_VERSION`` changes only when an old reader would misread a new message; added fields and bodies do not
change it.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from pvnet.core.errors import WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.base import MAX_FRAME_BYTES, Channel

SCHEMA_VERSION: Final = 1

CHANNEL_OF_BODY: Final[dict[str, Channel]] = {
    "hcall": Channel.CALL,
    "hcall_reply": Channel.REPLY,
    "crq_entry": Channel.CRQ,
    "crq_progress": Channel.CRQ,
    "irq": Channel.IRQ,
    "memory_read": Channel.CALL,
    "memory_write": Channel.CALL,
    "memory_reply": Channel.REPLY,
    "vbus_attach": Channel.VBUS,
    "vbus_call": Channel.VBUS,
    "vbus_reply": Channel.VBUS,
    "vbus_doorbell": Channel.VBUS,
    "vbus_irq": Channel.VBUS,
    "vbus_update": Channel.VBUS,
    "net_frames": Channel.VBUS,
    "device_io": Channel.DEVICE,
    "device_reply": Channel.DEVICE,
    "mdev_open": Channel.MDEV,
    "mdev_reply": Channel.MDEV,
    "mdev_message": Channel.MDEV,
    "mdev_irq": Channel.MDEV,
    "mdev_close": Channel.MDEV,
    "mdev_transfer": Channel.MDEV,
    "management": Channel.MGMT,
    "management_reply": Channel.MGMT,
    "refusal": Channel.REPLY,
    "link_ack": Channel.REPLY,
    "link_reset": Channel.REPLY,
}
"""Channel (topic level) on which each kind of body travels; ``lifecycle`` travels only as state."""

REPLY_BODIES: Final = frozenset(
    {"hcall_reply", "memory_reply", "device_reply", "management_reply", "mdev_reply", "vbus_reply", "refusal"}
)
"""Bodies that end a call: their ``correlation`` names it."""


def decode_envelope(payload: bytes, lab: str) -> Envelope:
    """Decode and check an envelope of our lab; a body that we do not know (a later version's) reads as no body.

    Raises:
        WireError: too large, not protobuf, another schema version, or another lab.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise WireError(f"envelope of {len(payload)} bytes", expected=f"at most {MAX_FRAME_BYTES}")
    envelope = Envelope()
    try:
        envelope.ParseFromString(payload)
    except DecodeError:
        raise WireError("not a protobuf envelope", offset=0, expected="pvnet.v1.Envelope") from None
    if envelope.schema != SCHEMA_VERSION:
        raise WireError(f"schema version {envelope.schema}", expected=str(SCHEMA_VERSION))
    if envelope.lab != lab:
        raise WireError(f"envelope of lab {envelope.lab[:40]!r}", expected=repr(lab))
    return envelope
