"""Text of charts: short labels, their width, what XML can hold; the channels and their colours.

Names and summaries are made of what some node sent, so all of them are hostile: every text goes through
:func:`escape`, and through :func:`fit` where there is only so much room.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from xml.sax.saxutils import quoteattr

from pvnet.capture.decode import Decoded
from pvnet.capture.decode_fields import printable
from pvnet.capture.decode_table import LAYER_OF_BODY

_ARGUMENT: Final = re.compile(r" [a-z][a-z0-9_]*=[^ ]+")
_SLOT: Final = re.compile(r"^unit=[^ ]+ (?:slot [0-9]+ )?")
_BYTES: Final = re.compile(r" \[[0-9a-f]{8,}(?:\.\.\. \([0-9]+ bytes\))?\]")
_NUMBER: Final = re.compile(r"\b(?:0x[0-9a-f]+|[0-9]+)\b")
_LABEL: Final = 120
_INPUT: Final = 400
"""Characters of a summary that are looked at for a label."""


class Channel(NamedTuple):
    """A kind of traffic: its name in the legend, the colour of its lines.

    The colours differ for the colour-blind too, and have a contrast of 3:1 to white at least; text is always dark.
    """

    name: str
    colour: str


CHANNELS: Final[Mapping[str, Channel]] = MappingProxyType(
    {
        "hcall": Channel("hypervisor calls", "#0072b2"),
        "crq": Channel("CRQ, interrupts", "#d55e00"),
        "memory": Channel("memory, RDMA", "#7a4f01"),
        "device": Channel("device files", "#7e57a8"),
        "vbus": Channel("vbus", "#00805f"),
        "net": Channel("network", "#3a86b7"),
        "mdev": Channel("mediated devices", "#b0307f"),
        "mgmt": Channel("management", "#6b6b00"),
        "other": Channel("other", "#5f6368"),
    }
)
_CHANNEL_OF_LAYER: Final[Mapping[str, str]] = MappingProxyType({"irq": "crq", "lifecycle": "mgmt"})
_CHANNEL_OF_KIND: Final[Mapping[str, str]] = MappingProxyType(
    {"ethernet": "net", "app": "device", "observe_irq": "crq", "observe_queue": "crq"}
)


def channel_of(kind: str) -> str:
    """Return the key in :data:`CHANNELS` of a kind of record."""
    layer = LAYER_OF_BODY.get(kind, _CHANNEL_OF_KIND.get(kind, kind))
    layer = _CHANNEL_OF_LAYER.get(layer, layer)
    return layer if layer in CHANNELS else "other"


def short(decoded: Decoded) -> str:
    """Return what stands at an arrow: the summary without arguments that only matter one by one."""
    text = decoded.summary[:_INPUT]
    if decoded.kind in {"hcall", "hcall_reply", "crq_entry", "app", "crq"}:
        text = _BYTES.sub("", _ARGUMENT.sub("", _SLOT.sub("", text)))
        text = text.removesuffix(" irq")
    else:
        text = _BYTES.sub("", text)
    return printable(text[:_LABEL]) or decoded.kind


def shape(text: str) -> str:
    """Return the text with N for each number: what differs only in numbers is a repeat."""
    return _NUMBER.sub("N", text)


def escape(text: str) -> str:
    """Return the text as content of an element; what XML cannot hold, or nobody can see, is written as an escape."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def attribute(text: str) -> str:
    """Return the text as a quoted attribute."""
    return quoteattr(printable(text))


def columns(text: str) -> int:
    """Return the width in characters of a monospaced font: wide ones count twice, combining ones once."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def fit(text: str, room: int) -> str:
    """Return the text, cut to ``room`` columns with an ellipsis."""
    if columns(text) <= room:
        return text
    used, out = 0, []
    for char in text:
        used += columns(char)
        if used > room - 1:
            break
        out.append(char)
    return "".join(out).rstrip() + "…" if room > 0 else ""


def counted(number: int, what: str) -> str:
    """Return ``1 node``, ``2 nodes``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def seconds(ns: int, span_ns: int) -> str:
    """Return a time since the first record, as exact as the span shown needs."""
    digits = 3 if span_ns >= 100_000_000_000 else 6 if span_ns >= 1_000_000 else 9
    return f"{ns / 1e9:.{digits}f}"
