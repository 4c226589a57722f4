"""Where everything of a sequence diagram stands: lifelines from left to right, one row per message.

Rows are as far apart as their text needs, not as time goes: a column of times says when, and a break says where a long
time passed.  So nothing overlaps, however fast or slow the messages came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.chart import Chart, Event
from pvnet.capture.chart_fold import Fold
from pvnet.capture.chart_text import columns, fit, shape
from pvnet.capture.summary import duration

CHAR: Final = 6.65
"""Width of a character of the labels' font, 11 px monospaced."""
LEFT: Final = 108
ROW: Final = 25
NOTE_ROW: Final = 17
BREAK_ROW: Final = 20
FRAME_TOP: Final = 26
FRAME_BOTTOM: Final = 12
PAD: Final = 26
"""Room between a label and the lifelines at its ends."""
MIN_GAP, MAX_GAP = 120, 380
MIN_RIGHT, MAX_RIGHT = 200, 480
TAIL: Final = 40
_MAX_BREAKS: Final = 20
_LANES: Final = 4
_EXTRA: Final = 14
"""Characters of a latency behind a label."""


@dataclass(slots=True)
class Arrow:
    """One message at a height; ``label`` fits into its room, ``note`` (what is wrong) into the diagram."""

    event: Event
    y: float
    label: str
    notes: list[str]
    stands_for: int = 1
    """Messages that are drawn as this one."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A call under way at the lifeline that serves it."""

    event: Event
    x: float
    top: float
    bottom: float


@dataclass(slots=True)
class Frame:
    """Around the first stretch of a repeat."""

    fold: Fold
    top: float
    bottom: float
    text: str
    detail: str


@dataclass(slots=True)
class Layout:
    """A diagram of ``width`` by ``height``; rows begin at 0, the header and footer come on top of that."""

    names: list[str]
    xs: dict[str, float]
    width: float
    height: float = 0.0
    arrows: list[Arrow] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    breaks: list[tuple[float, str]] = field(default_factory=list)
    shown: int = 0
    """Messages that the arrows stand for."""
    next_ns: int | None = None
    """Time of the first message that is not drawn any more."""


def lay_out(chart: Chart, limit: int) -> Layout:
    """Place at most ``limit`` arrows."""
    steps = list(_steps(chart, limit))
    xs, width = place(chart, [chart.events[index] for index, _fold in steps])
    out = Layout(chart.nodes, xs, width)
    gaps = _long_gaps(chart, steps)
    y = 6.0
    last = 0
    for index, fold in steps:
        event = chart.events[index]
        if index in gaps:
            out.breaks.append((y + BREAK_ROW / 2, f"+{duration(gaps[index])}"))
            y += BREAK_ROW
        is_first = fold is not None and index == fold.start
        if fold is not None and is_first:
            out.frames.append(_frame(chart, fold, y + 4, width))
            y += FRAME_TOP
        y += ROW
        count = 1 if fold is None else fold.count
        notes = [fit(f"! {text}", int((width - LEFT - 20) / CHAR)) for text in event.wrong[:3]]
        out.arrows.append(Arrow(event, y, "", notes, count))
        y += NOTE_ROW * len(notes)
        out.shown += count
        last = index + 1
        if fold is not None:
            out.frames[-1].bottom = y + 8
            if index == fold.start + fold.period - 1:
                y += FRAME_BOTTOM
                last = fold.end
    for arrow in out.arrows:
        arrow.label = _label(chart, out, arrow)
    if last < len(chart.events):
        out.next_ns = chart.events[last].time_ns
    out.height = y + 16
    out.bars = list(_bars(out))
    return out


def _steps(chart: Chart, limit: int) -> Iterator[tuple[int, Fold | None]]:
    """Yield the messages that are drawn, with the repeat that they stand for."""
    folds = {fold.start: fold for fold in chart.folds}
    at = 0
    while at < len(chart.events) and limit > 0:
        fold = folds.get(at)
        period = 1 if fold is None else fold.period
        for index in range(at, at + min(period, limit)):
            yield index, fold
        limit -= period
        at = at + 1 if fold is None else fold.end


def place(chart: Chart, events: list[Event]) -> tuple[dict[str, float], float]:
    """Place the lifelines: a gap is as wide as nine of ten labels between its two ends need."""
    places = {name: number for number, name in enumerate(chart.nodes)}
    wanted: list[list[int]] = [[] for _name in chart.nodes]
    for event in events:
        if not event.source:
            continue
        first = places[event.source]
        room = columns(event.label) + (2 if event.error else 0)
        room += _EXTRA if event.latency_ns is not None or event.is_open else 0
        if event.is_local:
            wanted[first].append(room)
        elif abs(places[event.target] - first) == 1:
            wanted[min(first, places[event.target])].append(room)
    xs: dict[str, float] = {}
    x, need = float(LEFT + 60), 0.0
    for number, name in enumerate(chart.nodes):
        xs[name] = x
        widths = sorted(wanted[number])
        need = widths[len(widths) * 9 // 10] * CHAR + 2 * PAD if widths else 0
        need = max(need, (min(columns(name), 24) + 5) * CHAR)
        x += min(max(need, MIN_GAP), MAX_GAP)
    last = xs[chart.nodes[-1]] if chart.nodes else x
    return xs, max(last + min(max(need, MIN_RIGHT), MAX_RIGHT), 760.0)


def _long_gaps(chart: Chart, steps: list[tuple[int, Fold | None]]) -> dict[int, int]:
    """Return before which messages a long time passed, and how long."""
    gaps: dict[int, int] = {}
    for index, _fold in steps:
        if index:
            gaps[index] = chart.events[index].time_ns - chart.events[index - 1].time_ns
    if not gaps:
        return {}
    ordered = sorted(gaps.values())
    least = max(ordered[(len(ordered) - 1) // 2] * 20, sum(ordered) // 50, 1)
    longest = sorted((index for index in gaps if gaps[index] >= least), key=lambda index: -gaps[index])
    return {index: gaps[index] for index in longest[:_MAX_BREAKS]}


def _frame(chart: Chart, fold: Fold, top: float, width: float) -> Frame:
    events = chart.events[fold.start : fold.start + fold.period]
    last = chart.events[fold.end - 1]
    calls = dict.fromkeys(event.call for event in events if event.call)
    what = ", ".join(calls or dict.fromkeys(shape(event.label) for event in events))
    took = duration(last.time_ns - events[0].time_ns)
    trips = " round trips" if calls and any(event.is_reply for event in events) else ""
    count = f"{fold.count * fold.period} messages, {took}"
    room = int((width - LEFT - 60) / CHAR)
    head = f"×{fold.count}{trips}"
    text = f"{head}: {fit(what, max(room - columns(head) - columns(count) - 5, 8))} ({count})"
    return Frame(fold, top, top, fit(text, room), f"{head}: {what} ({count})")


def _label(chart: Chart, layout: Layout, arrow: Arrow) -> str:
    event = arrow.event
    text = f"✗ {event.label}" if event.error else event.label
    extra = ""
    if arrow.stands_for > 1:
        fold = next(frame.fold for frame in layout.frames if frame.fold.start <= event.index < frame.fold.end)
        same = (e.latency_ns for e in chart.events[fold.start : fold.end] if e.shape == event.shape)
        times = sorted(took for took in same if took is not None)
        if times:
            extra = f" · p50 {duration(times[(len(times) - 1) // 2])}"
    elif event.latency_ns is not None:
        extra = f" · {duration(event.latency_ns)}"
    elif event.is_open:
        extra = " · no reply"
    room = int(_room(layout, event) / CHAR)
    if columns(extra) + 6 > room:
        extra = ""
    return fit(text, room - columns(extra)) + extra


def _room(layout: Layout, event: Event) -> float:
    x = layout.xs.get(event.source, LEFT)
    if event.is_local:
        return layout.width - x - 30
    return abs(layout.xs[event.target] - x) - PAD


def _bars(layout: Layout) -> Iterator[Bar]:
    """Pair the arrows of calls with those of their replies; overlapping calls stand beside one another."""
    rows = {arrow.event.index: arrow.y for arrow in layout.arrows}
    lanes: dict[str, list[float]] = {}
    pairs = [
        (rows[arrow.event.asked.index], arrow.y, arrow.event)
        for arrow in layout.arrows
        if arrow.event.asked is not None and arrow.event.asked.index in rows and not arrow.event.is_local
    ]
    for top, bottom, reply in sorted(pairs, key=lambda pair: pair[0]):
        free = lanes.setdefault(reply.source, [])
        lane = next((number for number, until in enumerate(free) if until <= top), len(free))
        if lane == len(free):
            free.append(bottom)
        free[lane] = bottom
        yield Bar(reply, layout.xs[reply.source] - 4 + min(lane, _LANES) * 5, top, bottom)
