"""A record of a capture taken apart: layers of named fields, one line, who said it to whom.

:func:`decode` is total: whatever the bytes are, it returns something, and what is wrong with them stands in
``problems``.  It looks at one record only; what needs several is in :mod:`pvnet.capture.pairs` (answers) and
:mod:`pvnet.capture.violations` (order).

Layers go from the outside to the inside::

    envelope  hcall  crq  vmc                H_SEND_CRQ with a VMC message in its two words
    envelope  vbus  venet                    a bridge call with a devcall in the memory that it carries
    envelope  mdev  vfio                     a vfio-user message

Spec: ecosystem C; hcall_scm 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pvnet.capture import model
from pvnet.capture.decode_body import message_fields
from pvnet.capture.decode_fields import Field, FieldSpec, FieldType, Layer, Value
from pvnet.capture.decode_frame import ethernet_layers, memory_record
from pvnet.capture.decode_line import decode_line
from pvnet.capture.decode_message import body_layers, unknown_text
from pvnet.capture.decode_papr import Parts
from pvnet.capture.decode_table import FIELDS
from pvnet.capture.model import Record
from pvnet.core.errors import PvnetError
from pvnet.transport.envelope import REPLY_BODIES, SCHEMA_VERSION

__all__ = ["FIELDS", "Decoded", "Field", "FieldSpec", "FieldType", "Layer", "Value", "decode"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One record and what it says."""

    record: Record
    layers: tuple[Layer, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong with this record by itself."""
    summary: str = ""
    """One line without time and addresses."""
    source: str = ""
    destination: str = ""
    """Names of nodes; empty when it goes to nobody in particular (states, marks)."""
    kind: str = ""
    """Name of the envelope's body, or ``ethernet``, ``memory``, ``hcall`` ..., ``unknown``."""
    call: int = 0
    """Correlation; 0: it belongs to no call."""
    is_reply: bool = False
    pair: str = ""
    """The same for a call and its reply, unlike any other's under way; empty: neither."""
    trace: int = 0
    """Number that all messages have which one act caused; 0: unknown."""

    def fields(self) -> Iterator[Field]:
        """All fields, outermost first."""
        for layer in self.layers:
            yield from layer.fields

    def get(self, name: str) -> Value:
        """Value of the first field of this name; None also when there is none."""
        return next((item.value for item in self.fields() if item.name == name), None)

    def has(self, layer: str) -> bool:
        """Whether there is such a layer."""
        return any(item.name == layer for item in self.layers)


def decode(record: Record) -> Decoded:
    """Take a record apart; never raises."""
    parts = Parts()
    link_type = record.interface.link_type
    if record.is_cut:
        parts.layers.append(Layer("cut", (), f"{len(record.data)} of {record.original_bytes} bytes"))
    try:
        match link_type:
            case model.LINKTYPE_ENVELOPE:
                return _envelope(record, parts)
            case model.LINKTYPE_ETHERNET:
                source, destination = ethernet_layers(parts, record.data)
                return _finish(record, parts, "ethernet", source, destination)
            case model.LINKTYPE_HCALL:
                ends = decode_line(parts, record.data, record.interface.node)
                return _finish(record, parts, ends.kind, ends.source, ends.destination)
            case model.LINKTYPE_MEMORY:
                memory_record(parts, record.data)
                return _finish(record, parts, "memory", record.interface.node)
            case _:
                parts.summary = f"link type {link_type}: {unknown_text(record.data)}"
                return _finish(record, parts, "unknown", record.interface.node)
    except (ValueError, LookupError, TypeError, OverflowError, ArithmeticError, PvnetError, struct.error) as error:
        # A decoder that does not hold what it promises must not end the showing of a million other records.
        parts.problems.append(f"does not decode: {type(error).__name__}: {error}")
        parts.summary = unknown_text(record.data)
        return _finish(record, parts, "unknown", record.interface.node)


def _finish(record: Record, parts: Parts, kind: str, source: str = "", destination: str = "") -> Decoded:
    return Decoded(record, tuple(parts.layers), tuple(parts.problems), parts.summary, source, destination, kind)


def _envelope(record: Record, parts: Parts) -> Decoded:
    envelope = record.envelope()
    if envelope is None:
        parts.summary = f"envelope: {unknown_text(record.data)}"
        if not record.is_cut:
            parts.problems.append("not a pvnet.v1.Envelope")
        return _finish(record, parts, "unknown", record.interface.node)
    body = envelope.WhichOneof("body")
    fields = (*message_fields(envelope, "envelope"), FIELDS["envelope.body"](body))
    parts.layers.append(Layer("envelope", fields, f"{envelope.source} > {envelope.destination}"))
    if envelope.schema != SCHEMA_VERSION:
        parts.problems.append(f"schema version {envelope.schema}: version {SCHEMA_VERSION} is known here")
    head = None
    if body is None:
        parts.problems.append("no body that is known here")
        parts.summary = "unknown body"
    else:
        head = body_layers(parts, envelope, body)
    call, is_reply, pair = envelope.correlation, body in REPLY_BODIES, ""
    source, destination = envelope.source, envelope.destination
    if head is not None:
        session = envelope.mdev_message.session
        call, is_reply = head.ident, head.is_reply
        asker, asked = (destination, source) if is_reply else (source, destination)
        if is_reply or head.wants_reply:
            pair = f"vfio {asker}>{asked} {session}#{call}"
    elif call and is_reply:
        pair = f"{destination}.{envelope.destination_incarnation:x}>{source}#{call}"
    elif call:
        pair = f"{source}.{envelope.source_incarnation:x}>{destination}#{call}"
    return Decoded(
        record, tuple(parts.layers), tuple(parts.problems), parts.summary, source, destination, body or "unknown",
        call, is_reply, pair, envelope.trace,
    )  # fmt: skip
