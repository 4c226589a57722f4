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

from collections.abc import Iterator
from dataclasses import dataclass

from pvnet.capture.decode_fields import Field, FieldSpec, FieldType, Layer, Value
from pvnet.capture.decode_table import FIELDS
from pvnet.capture.model import Record

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
    return Decoded(record)
