"""What a page shows of one message on request: its fields and bytes, packed in blocks as they come."""

from __future__ import annotations

import json
import zlib
from typing import Final

from pvnet.capture.decode import Decoded
from pvnet.capture.decode_fields import printable

BLOCK: Final = 256
"""Messages per block."""
MAX_BYTES: Final = 2048
"""Bytes of a message that are kept."""
BUDGET: Final = 24 << 20
"""Packed bytes of all blocks together; messages beyond it have no details."""
_MAX_FIELDS: Final = 200
_MAX_TEXT: Final = 200


class Details:
    """Blocks of details; message ``index`` (from 0) is in block ``index // BLOCK``.

    A block is zlib of JSON, a list with for each message ``[layers, hex, comment]`` or null (beyond the budget); a
    layer is ``[name, summary, [[field, text], ...]]``.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.blocks: list[bytes] = []
        self.packed = 0
        self.left_out = 0
        """Messages whose details did not fit."""
        self._budget = budget
        self._rows: list[str] = []

    def add(self, decoded: Decoded) -> None:
        """Keep the details of the next message."""
        if self.packed < self._budget:
            self._rows.append(json.dumps(_detail(decoded), separators=(",", ":")))
        else:
            self.left_out += 1
            self._rows.append("null")
        if len(self._rows) == BLOCK:
            self.finish()

    def finish(self) -> None:
        """Close the last block."""
        if self._rows:
            self.blocks.append(zlib.compress(f"[{','.join(self._rows)}]".encode(), 4))
            self.packed += len(self.blocks[-1])
            self._rows = []


def _detail(decoded: Decoded) -> list[object]:
    left = _MAX_FIELDS
    layers: list[object] = []
    for layer in decoded.layers:
        fields = [(item.name, _cut(item.text)) for item in layer.fields[:left]]
        left -= len(fields)
        layers.append((layer.name, _cut(layer.summary), fields))
    return [layers, decoded.record.data[:MAX_BYTES].hex(), _cut(decoded.record.comment)]


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT and text.isprintable():
        return text
    text = printable(text[: _MAX_TEXT + 1])
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
