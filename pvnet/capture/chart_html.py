"""A page to look through a capture: one file with everything in it, which asks no network for anything.

The page draws only the rows that are to be seen, so it stays quick with tens of thousands of messages.  What it draws
from is packed (zlib in base64), fields and bytes in blocks that are unpacked when a message is chosen.  The page puts
all text in as text, never as markup, and its content policy forbids it to load anything.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Final

from pvnet.capture.chart import Chart, Event, headline
from pvnet.capture.chart_detail import BLOCK, MAX_BYTES
from pvnet.capture.chart_layout import place
from pvnet.capture.chart_text import CHANNELS, escape

MAX_EVENTS: Final = 50_000
_TITLE: Final = "<!--title-->"
_DATA: Final = "<!--data-->"
_SCRIPT: Final = "<!--script-->"
_REPLY, _OPEN = 1, 2
_PLACE: Final = Path(__file__)


class _Table:
    """Texts that occur again and again, by number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


@cache
def _template() -> tuple[str, str]:
    return (
        _PLACE.with_name("chart_page.html").read_text(encoding="utf-8"),
        _PLACE.with_name("chart_page.js").read_text(encoding="utf-8"),
    )


def html(chart: Chart) -> str:
    """Return the page."""
    page, script = _template()
    blocks = [zlib.compress(json.dumps(_index(chart), separators=(",", ":")).encode(), 6)]
    blocks += chart.details.blocks if chart.details is not None else []
    data = json.dumps([b64encode(block).decode() for block in blocks], separators=(",", ":"))
    head, rest = page.split(_TITLE)
    middle, rest = rest.split(_DATA)
    before, tail = rest.split(_SCRIPT)
    return "".join((head, escape(chart.title or "Capture"), middle, data, before, script, tail))


def _index(chart: Chart) -> dict[str, object]:
    texts = _Table()
    nodes = {name: number for number, name in enumerate(chart.nodes)}
    channels = {key: number for number, key in enumerate(CHANNELS)}
    events = [_row(event, nodes, channels, texts) for event in chart.events]
    xs, width = place(chart, chart.events)
    notes = [headline(chart), *chart.notes]
    if chart.details is not None and chart.details.left_out:
        notes.append(f"no fields and bytes of the last {chart.details.left_out} messages: the page would be too big")
    return {
        "title": chart.title or "Capture",
        "notes": notes,
        "nodes": chart.nodes,
        "xs": [round(xs[name]) for name in chart.nodes],
        "width": round(width),
        "channels": [[channel.name, channel.colour] for channel in CHANNELS.values()],
        "events": events,
        "texts": list(texts.numbers),
        "folds": [[fold.start, fold.period, fold.count] for fold in chart.folds],
        "density": [chart.density.width_ns, chart.density.totals()],
        "span": chart.span_ns,
        "block": BLOCK,
        "snap": MAX_BYTES,
    }


def _row(event: Event, nodes: dict[str, int], channels: dict[str, int], texts: _Table) -> list[object]:
    """The order is that of the names at the top of the page's script."""
    return [
        event.number,
        event.time_ns,
        nodes.get(event.source, -1),
        nodes.get(event.target, -1),
        channels[event.channel],
        texts(event.kind),
        texts(event.label),
        texts(event.text),
        (_REPLY if event.is_reply else 0) | (_OPEN if event.is_open else 0),
        -1 if event.asked is None else event.asked.index,
        event.asked_number,
        texts(event.call),
        event.latency_ns,
        texts(event.error),
        list(event.wrong),
        event.size,
        texts(event.interface),
    ]
