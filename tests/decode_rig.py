"""Records to decode, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_HCALL, Direction, Interface, Record
from pvnet.pb.v1.envelope_pb2 import Envelope

VECTORS = Path(__file__).parent / "vectors"


def record(
    data: bytes,
    link_type: int = LINKTYPE_ENVELOPE,
    *,
    name: str = "hv/call",
    time_ns: int | None = 0,
    number: int = 1,
    direction: Direction = Direction.UNKNOWN,
    original: int = 0,
) -> Record:
    """One record."""
    return Record(Interface(name, link_type), time_ns, data, direction, original, "", number)


def envelope(source: str = "lpar1", destination: str = "hv", **fields: Any) -> Envelope:
    """An envelope of schema 1; ``fields`` are the envelope's."""
    made = Envelope(schema=1, lab="lab", source=source, destination=destination, **fields)
    made.source_incarnation = made.source_incarnation or 1
    made.destination_incarnation = made.destination_incarnation or 1
    return made


def decoded(
    source: str = "lpar1", destination: str = "hv", *, time_ns: int = 0, number: int = 1, **fields: Any
) -> Decoded:
    """An envelope, decoded."""
    return decode(record(envelope(source, destination, **fields).SerializeToString(), time_ns=time_ns, number=number))


def line(**values: Any) -> Decoded:
    """A line of a recording, decoded."""
    return decode(record(json.dumps(values).encode(), LINKTYPE_HCALL, name="lpar1/hcall"))


def vector(name: str) -> list[Decoded]:
    """A recording of somebody else's software, decoded; the first is its meta line."""
    lines = (VECTORS / name).read_bytes().splitlines()
    return [
        decode(record(text, LINKTYPE_HCALL, name="transcript/hcall", number=number))
        for number, text in enumerate(lines, 1)
    ]
