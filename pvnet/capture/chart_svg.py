"""A sequence diagram as SVG: one file, no script, no reference to anything outside it.

Every message has a title (what a pointer over it, or a screen reader, tells) with all that its label leaves out.
Replies are dashed, what is wrong has a mark and a text of its own: colour alone says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvnet.capture.chart import Chart, Event, headline
from pvnet.capture.chart_layout import CHAR, LEFT, NOTE_ROW, TAIL, Arrow, Bar, Frame, Layout, lay_out
from pvnet.capture.chart_text import CHANNELS, columns, counted, escape, fit, seconds
from pvnet.capture.summary import duration

MAX_ARROWS: Final = 300
_HEAD: Final = 38
_STRIP: Final = 34
_TITLE: Final = 300
_WRONG: Final = "#b00020"
_STYLE: Final = """
text{font:11px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:#1b1b1f}
.h{font-size:15px;font-weight:bold}.s{fill:#4a4a52}.t{text-anchor:end;fill:#4a4a52}.c{text-anchor:middle}
.l{stroke:#fff;stroke-width:4;stroke-linejoin:round;paint-order:stroke}.e{fill:#8a1c1c}
.b{font-style:italic}.w{fill:#b00020;font-weight:bold}.n{font-weight:bold;text-anchor:middle}
.life{stroke:#b4b6bd;stroke-width:1}.box{fill:#f1f2f5;stroke:#8a8d96}
.frame{fill:#f3e3b0;fill-opacity:.38;stroke:#8a6d1a;stroke-dasharray:5 3}
.f{font-weight:bold;fill:#4d3c08;stroke:#fbf6e4}
.gap{stroke:#9a9ca5;stroke-dasharray:2 5}.a{fill:none;stroke-width:1.4}.r{stroke-dasharray:6 3}
.bar{stroke-width:1;fill-opacity:.28}.d{fill:#8f949e}.win{fill:#1b1b1f;fill-opacity:.1;stroke:#4a4a52}
"""


def svg(chart: Chart, limit: int = MAX_ARROWS) -> str:
    """Return the diagram, with at most ``limit`` arrows."""
    return "".join(_parts(chart, lay_out(chart, limit)))


def _parts(chart: Chart, layout: Layout) -> Iterator[str]:
    legend = list(_legend(layout))
    notes = _notes(chart, layout)
    room = int((layout.width - 32) / CHAR)
    top = 34 + 15 * len(notes) + 12 + 18 * (1 + max((row for row, _text in legend), default=0)) + _STRIP + 34
    height = top + _HEAD + layout.height + TAIL
    title = f"{chart.title or 'Capture'}: sequence diagram"
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {layout.width:.0f} {height:.0f}" role="graphics-document" aria-labelledby="title desc">\n'
        f'<title id="title">{escape(title)}</title><desc id="desc">{escape(_describe(chart, layout))}</desc>\n'
        f"<style>{_STYLE}{_colours()}</style>\n"
        '<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text class="h" x="16" y="24">{escape(fit(chart.title or "Capture", room * 8 // 11))}</text>\n'
    )
    for number, text in enumerate(notes):
        yield f'<text class="s" x="16" y="{42 + 15 * number}">{escape(fit(text, room))}</text>\n'
    y = 34 + 15 * len(notes) + 12
    for row, text in legend:
        yield f'<g transform="translate(0 {y + 18 * row})">{text}</g>\n'
    yield from _strip(chart, layout, top - _STRIP - 26)
    yield f'<g transform="translate(0 {top})">\n'
    yield from _lifelines(layout)
    yield f'<g transform="translate(0 {_HEAD})">\n'
    for frame in layout.frames:
        yield _frame(frame, layout)
    for bar in layout.bars:
        yield _bar(bar)
    for at, text in layout.breaks:
        yield (
            f'<path class="gap" d="M{LEFT - 14} {at:.0f}H{layout.width - 16:.0f}"/>'
            f'<text class="t" x="{LEFT - 20}" y="{at + 4:.0f}">{escape(text)}</text>\n'
        )
    for arrow in layout.arrows:
        yield _arrow(arrow, layout, chart.span_ns)
    yield "</g></g>\n</svg>\n"


def _colours() -> str:
    return "".join(
        f".{key} .a,.{key} .bar,.{key}.bar{{stroke:{channel.colour}}}.{key} .p,.{key}.bar{{fill:{channel.colour}}}"
        for key, channel in CHANNELS.items()
    )


def _describe(chart: Chart, layout: Layout) -> str:
    folds = f", {counted(len(layout.frames), 'repeat')} drawn once" if layout.frames else ""
    return f"{headline(chart)}; {counted(len(layout.arrows), 'arrow')} for {layout.shown} of them{folds}"


def _notes(chart: Chart, layout: Layout) -> list[str]:
    out = [_describe(chart, layout)]
    if layout.next_ns is not None:
        more = f"{chart.total - layout.shown} more messages follow: --from {_next(layout.next_ns)}"
        out.append(f"{more}, or --max, --filter, --nodes")
    return out + chart.notes


def _next(ns: int) -> str:
    """A time for ``--from`` that leaves out nothing: rounded down."""
    return f"{ns // 1000 / 1e6:.6f}"


def _legend(layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield the entries of the legend with their row."""
    used = {arrow.event.channel for arrow in layout.arrows}
    entries = [(channel.name, _line(key)) for key, channel in CHANNELS.items() if key in used]
    if any(arrow.event.is_reply for arrow in layout.arrows):
        entries.append(("reply", '<g class="other"><path class="a r" d="M0 -4h22"/></g>'))
    if any(arrow.event.error for arrow in layout.arrows):
        entries.append(("error", '<text class="e" x="8">✗</text>'))
    if any(arrow.event.wrong for arrow in layout.arrows):
        entries.append(("violation", _mark(11, -4)))
    x, row = 16.0, 0
    for text, mark in entries:
        width = 30 + len(text) * CHAR + 22
        if x + width > layout.width and x > 16:
            x, row = 16.0, row + 1
        yield row, f'<g transform="translate({x:.0f} 12)">{mark}<text x="28">{escape(text)}</text></g>'
        x += width


def _line(key: str) -> str:
    return f'<g class="{key}"><path class="a" d="M0 -4h22"/><path class="p" d="M22 -4l-7 -3.5v7z"/></g>'


def _mark(x: float, y: float) -> str:
    return (
        f'<path d="M{x:.1f} {y - 7:.1f}l7 13h-14z" fill="{_WRONG}"/>'
        f'<path d="M{x:.1f} {y - 2:.1f}v4m0 1.4v1.6" stroke="#fff" stroke-width="1.6"/>'
    )


def _strip(chart: Chart, layout: Layout, y: float) -> Iterator[str]:
    """The whole capture over time, how much there was when, and which part of it is drawn."""
    totals = chart.density.totals()
    if not totals:
        return
    left, right, high = LEFT, layout.width - 16, max(totals)
    step = (right - left) / len(totals)
    span = len(totals) * chart.density.width_ns
    bars = "".join(
        f"M{left + number * step:.1f} {y + _STRIP:.1f}v{-max(count / high * (_STRIP - 4), 1):.1f}"
        f"h{max(step - 0.5, 0.5):.1f}V{y + _STRIP:.1f}z"
        for number, count in enumerate(totals)
        if count
    )
    yield f'<g><title>Messages over time, and the part that is drawn</title><path class="d" d="{bars}"/>'
    if layout.arrows:
        first = layout.arrows[0].event.time_ns
        last = layout.next_ns if layout.next_ns is not None else chart.events[-1].time_ns
        x = left + (right - left) * max(first, 0) / span
        width = max((right - left) * (last - first) / span, 2)
        yield f'<rect class="win" x="{x:.1f}" y="{y}" width="{min(width, right - x):.1f}" height="{_STRIP}"/>'
    yield (
        f'<text class="t" x="{LEFT - 12}" y="{y + _STRIP - 10}">messages</text>'
        f'<text class="s" x="{left}" y="{y + _STRIP + 13}">0 s</text>'
        f'<text class="t" x="{right:.0f}" y="{y + _STRIP + 13}">{duration(span)}</text></g>\n'
    )


def _lifelines(layout: Layout) -> Iterator[str]:
    bottom = _HEAD + layout.height
    yield f'<text class="t" x="{LEFT - 20}" y="18">time (s)</text>\n'
    places = list(layout.xs.values())
    for number, (name, x) in enumerate(layout.xs.items()):
        gap = min(
            places[number + 1] - x if number + 1 < len(places) else 200, x - places[number - 1] if number else 200
        )
        text = fit(name, int((gap - 20) / CHAR))
        half = columns(text) * CHAR / 2 + 9
        yield f'<g><title>{escape(name)}</title><path class="life" d="M{x:.1f} 26V{bottom:.0f}"/>'
        for y in (0.0, bottom):
            yield (
                f'<rect class="box" x="{x - half:.1f}" y="{y:.0f}" width="{2 * half:.1f}" height="26" rx="4"/>'
                f'<text class="n" x="{x:.1f}" y="{y + 17:.0f}">{escape(text)}</text>'
            )
        yield "</g>\n"


def _frame(frame: Frame, layout: Layout) -> str:
    return (
        f'<g><title>{escape(frame.detail)}</title><rect class="frame" x="{LEFT - 10}" y="{frame.top:.0f}" '
        f'width="{layout.width - LEFT - 4:.0f}" height="{frame.bottom - frame.top:.0f}" rx="6"/>'
        f'<text class="l f" x="{LEFT}" y="{frame.top + 15:.0f}">{escape(frame.text)}</text></g>\n'
    )


def _bar(bar: Bar) -> str:
    took = bar.event.latency_ns
    text = f"{bar.event.call}, {duration(took)}" if took is not None else bar.event.call
    return (
        f'<rect class="bar {bar.event.channel}" x="{bar.x:.1f}" y="{bar.top:.0f}" width="8" '
        f'height="{max(bar.bottom - bar.top, 4):.0f}"><title>{escape(text)}</title></rect>\n'
    )


def _arrow(arrow: Arrow, layout: Layout, span_ns: int) -> str:
    event, y = arrow.event, arrow.y
    x = layout.xs.get(event.source, LEFT)
    is_wrong = bool(event.error or event.wrong)
    style = "l e" if is_wrong else "l"
    if not event.source:
        line = f'<path class="a" d="M{LEFT - 14} {y - 4:.0f}h12"/>'
        label = f'<text class="{style} b" x="{LEFT + 4}" y="{y:.0f}">{escape(arrow.label)}</text>'
        mark_x = x
    elif event.is_local:
        line = f'<circle class="p" cx="{x:.1f}" cy="{y - 4:.0f}" r="4"/>'
        label = f'<text class="{style}" x="{x + 12:.1f}" y="{y:.0f}">{escape(arrow.label)}</text>'
        mark_x = x
    else:
        end = layout.xs[event.target]
        sign = 1 if end > x else -1
        dashes = " r" if event.is_reply else ""
        line = (
            f'<path class="a{dashes}" d="M{x:.1f} {y:.0f}H{end - 6 * sign:.1f}"/>'
            f'<path class="p" d="M{end - sign:.1f} {y:.0f}l{-8 * sign} -4v8z"/>'
        )
        label = f'<text class="{style} c" x="{(x + end) / 2:.1f}" y="{y - 5:.0f}">{escape(arrow.label)}</text>'
        mark_x = end + 12 * sign
    notes = "".join(
        f'<text class="w" x="{LEFT}" y="{y + NOTE_ROW * number - 2:.0f}">{escape(text)}</text>'
        for number, text in enumerate(arrow.notes, 1)
    )
    mark = _mark(mark_x, y - 2) if event.wrong else ""
    return (
        f'<g class="{event.channel}"><title>{escape(_title(arrow))}</title>'
        f'<text class="t" x="{LEFT - 20}" y="{y:.0f}">{seconds(event.time_ns, span_ns)}</text>'
        f"{line}{label}{mark}{notes}</g>\n"
    )


def _title(arrow: Arrow) -> str:
    event: Event = arrow.event
    ends = event.source or "mark" if event.is_local else f"{event.source} to {event.target}"
    out = f"#{event.number} {ends}, {event.kind}, {event.size} bytes: {fit(event.text, _TITLE)}"
    if event.asked_number:
        took = "" if event.latency_ns is None else f" after {duration(event.latency_ns)}"
        out += f"; reply to #{event.asked_number} {event.call}{took}"
    elif event.is_open:
        out += "; no reply"
    if arrow.stands_for > 1:
        out += f"; the first of {arrow.stands_for}"
    return out + "".join(f"; violation: {text}" for text in event.wrong)
