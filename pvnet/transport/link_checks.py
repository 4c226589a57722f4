"""What a frame says of itself, compared with where it came from: before anything in it is used."""

from __future__ import annotations

import re
from typing import Final

from pvnet.core.names import NAME_PATTERN
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.envelope import CHANNEL_OF_BODY

CONTROL_BODIES: Final = frozenset({"link_ack", "link_reset"})
"""Bodies of the link layer itself, which have no sequence number."""
_NAME: Final = re.compile(NAME_PATTERN)


def misaddressed(envelope: Envelope, body: str | None, source: str, channel: str) -> str:
    """Say what is wrong with a frame that came on a topic of ``source`` and ``channel``; "" if nothing is.

    A body that we do not know (None) may come on any channel.
    """
    if envelope.source != source:
        return f"says it is from {envelope.source[:40]!r}"
    if body is not None and CHANNEL_OF_BODY.get(body) != channel:
        return f"carries {body}"
    return ""


def impossible(envelope: Envelope, body: str | None, source: str, name: str) -> str:
    """Say what no frame to ``name`` can say of its stream; "" if it can."""
    if not envelope.stream or not envelope.source_incarnation or source == name or not _NAME.match(source):
        return "impossible source, incarnation or stream"
    if (body in CONTROL_BODIES) == bool(envelope.seq):
        return f"{body} with sequence number {envelope.seq}"
    return ""
