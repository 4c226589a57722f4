"""What a chart shows: the messages of a capture as small events, with calls and replies paired.

:class:`Collector` is fed every record; it keeps what is wanted, up to a limit, and counts the rest, so memory is
bounded whatever the capture.  :mod:`pvnet.capture.chart_svg` and :mod:`pvnet.capture.chart_html` draw what it gathered.

A message that a capture holds twice, as its source and as its destination saw it, is one event.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.chart_detail import Details
from pvnet.capture.chart_fold import Fold, find_folds
from pvnet.capture.chart_series import Bins
from pvnet.capture.chart_text import channel_of, counted, shape, short
from pvnet.capture.decode import Decoded, decode
from pvnet.capture.decode_fields import printable
from pvnet.capture.filter import Filter
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_MEMORY, Record
from pvnet.capture.show_text import said
from pvnet.capture.summary import call_name, duration, error_of
from pvnet.capture.violations import Violations

MAX_NODES: Final = 32
"""Lifelines of a chart; nodes beyond them share one."""
OTHERS: Final = "(others)"
KEPT: Final = 100_000
"""Messages that are kept for a chart."""
_MAX_NAMES: Final = 4096
_MAX_NAME: Final = 200
_RECENT: Final = 4096
_MAX_WRONG: Final = 8


@dataclass(slots=True)
class Event:
    """One message of the chart.

    ``source`` is empty for a mark, which is at no node; ``target`` is empty for what happens at one node: frames on a
    network, memory, states.  ``asked`` is the message that this one answers, None when the chart does not have it.
    """

    number: int
    time_ns: int
    """Since the first record of the capture; where a record has no time, that of the one before it."""
    source: str
    target: str
    kind: str
    channel: str
    label: str
    text: str
    is_reply: bool = False
    asked: Event | None = None
    asked_number: int = 0
    """Number of the call in the capture, also when the chart does not have it; 0: no call."""
    call: str = ""
    """What is called, of a call or of the call that this answers."""
    latency_ns: int | None = None
    is_open: bool = False
    """A call to which the capture has no reply."""
    error: str = ""
    wrong: tuple[str, ...] = ()
    size: int = 0
    interface: str = ""
    index: int = 0
    """Position among the kept events."""

    @property
    def is_local(self) -> bool:
        """Whether it is drawn at one lifeline only."""
        return not self.target or self.target == self.source

    @property
    def shape(self) -> str:
        """The same for messages that differ only in numbers."""
        wrong = shape("; ".join(self.wrong))
        return f"{self.source}\0{self.target}\0{self.kind}\0{self.is_reply}\0{shape(self.label)}\0{wrong}"


@dataclass(slots=True)
class ChartOptions:
    """What is wanted of a capture.  Times are seconds after its first record; no nodes: all."""

    wanted: Filter = field(default_factory=lambda: Filter.parse(""))
    start_s: float | None = None
    end_s: float | None = None
    nodes: Sequence[str] = ()
    fold: bool = True
    keep: int = KEPT
    details: bool = False
    """Keep fields and bytes too, for a page that shows them."""

    def within(self, time_ns: int | None, first_ns: int | None) -> bool:
        """Whether a record is in the window; one without a time is when there is none."""
        if time_ns is None or first_ns is None:
            return self.start_s is None and self.end_s is None
        at = (time_ns - first_ns) / 1e9
        return (self.start_s is None or at >= self.start_s) and (self.end_s is None or at <= self.end_s)


@dataclass(slots=True)
class Chart:
    """What there is to draw."""

    events: list[Event]
    nodes: list[str]
    """Lifelines, from left to right; every event is between two of them."""
    folds: list[Fold]
    density: Bins
    """Messages over the whole time of the capture, also those that the window and the nodes leave out."""
    details: Details | None
    total: int
    """Messages that are wanted, also those beyond the limit."""
    violations: int
    """Of those."""
    span_ns: int
    """From the first record of the capture to its last."""
    title: str = ""
    notes: list[str] = field(default_factory=list)
    """What else to know: that records are missing, that nodes were merged."""


class Collector:
    """Feed every record of a capture in order, then take the :meth:`chart`."""

    def __init__(self, options: ChartOptions) -> None:
        self._options = options
        self._watch = Violations()
        self._density = Bins(200)
        self._events: list[Event] = []
        self._calls: OrderedDict[int, Event] = OrderedDict()
        self._recent: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._names: Counter[str] = Counter()
        self._details = Details() if options.details else None
        self._start: int | None = None
        self._now = 0
        self._span = 0
        self._total = 0
        self._violations = 0
        self._open = 0

    def feed(self, record: Record) -> None:
        """Take a record."""
        options = self._options
        decoded = decode(record)
        wrong = self._watch.feed(decoded)
        if record.time_ns is not None:
            if self._start is None:
                self._start = options.wanted.start_ns = record.time_ns
            self._now = record.time_ns - self._start
            self._span = max(self._span, self._now)
        if not options.wanted.matches(decoded) or self._is_copy(decoded, wrong):
            return
        self._density.add("", self._now, len(record.data))
        source, target = _ends(decoded)
        if not options.within(self._now, 0) or not self._is_between(source, target):
            return
        self._total += 1
        self._violations += len(wrong)
        if len(self._events) < options.keep:
            self._keep(self._event(decoded, self._name(source), self._name(target), wrong), decoded)

    def _keep(self, event: Event, decoded: Decoded) -> None:
        event.index = len(self._events)
        self._events.append(event)
        if self._details is not None:
            self._details.add(decoded)

    def _is_copy(self, decoded: Decoded, wrong: list[str]) -> bool:
        seq = decoded.get("envelope.seq")
        if wrong or not isinstance(seq, int) or not seq:
            return False
        key = (decoded.source, decoded.destination, decoded.get("envelope.stream"), seq)
        if self._recent.get(key) == decoded.record.data:
            return True
        self._recent[key] = decoded.record.data
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return False

    def _is_between(self, source: str, target: str) -> bool:
        nodes = self._options.nodes
        if not source:
            return True
        if len(nodes) < 2:
            return not nodes or nodes[0] in {source, target}
        return source in nodes and (not target or target in nodes)

    def _name(self, name: str) -> str:
        if not name:
            return ""
        name = printable(name[:_MAX_NAME])
        if name not in self._names and len(self._names) >= _MAX_NAMES:
            name = OTHERS
        self._names[name] += 1
        return name

    def _event(self, decoded: Decoded, source: str, target: str, wrong: list[str]) -> Event:
        record, matched = decoded.record, self._watch.matched
        error = printable(error_of(decoded)[:60]) if decoded.is_reply or not decoded.pair else ""
        event = Event(
            record.number, self._now, source, target, decoded.kind, channel_of(decoded.kind), short(decoded),
            said(decoded, matched), is_reply=decoded.is_reply, error=error,
            wrong=tuple(printable(text[:300]) for text in wrong[:_MAX_WRONG]),
            size=max(len(record.data), record.original_bytes), interface=printable(record.interface.name[:_MAX_NAME]),
        )  # fmt: skip
        if matched is not None:
            event.asked = self._calls.pop(matched.call.record.number, None)
            event.asked_number = matched.call.record.number
            event.latency_ns = matched.latency_ns
            event.call = event.asked.call if event.asked is not None else printable(call_name(matched.call)[:60])
        elif decoded.pair and not decoded.is_reply:
            event.call = printable(call_name(decoded)[:60])
            self._calls[record.number] = event
        elif isinstance(took := decoded.get("hcall.took_ns"), int):
            event.latency_ns, event.call = took, printable(call_name(decoded)[:60])
        return event

    def chart(self, title: str = "") -> Chart:
        """Return what was gathered; the end of feeding."""
        for call in self._watch.pairs.unanswered():
            event = self._calls.get(call.record.number)
            if event is not None:
                event.is_open = True
        events, notes = self._events, []
        nodes, merged = self._lifelines()
        if merged:
            notes.append(f"{merged} nodes with few messages share the lifeline {OTHERS}")
        if self._total > len(events):
            notes.append(f"only the first {len(events)} of {self._total} messages are kept: narrow the time or filter")
        folds: list[Fold] = []
        if self._options.fold:
            folds = find_folds([event.shape for event in events], no_start=[event.is_reply for event in events])
        if self._details is not None:
            self._details.finish()
        return Chart(
            events, nodes, folds, self._density, self._details, self._total, self._violations, self._span,
            printable(title[:_MAX_NAME]), notes,
        )  # fmt: skip

    def _lifelines(self) -> tuple[list[str], int]:
        """Return the lifelines, and how many nodes were merged into the last of them."""
        order: dict[str, None] = dict.fromkeys(printable(name) for name in self._options.nodes)
        counts: Counter[str] = Counter()
        for event in self._events:
            for name in (event.source, event.target):
                if name:
                    order.setdefault(name)
                    counts[name] += 1
        shown = [name for name in order if counts[name]]
        if len(shown) <= MAX_NODES:
            return (shown if self._options.nodes else arranged(shown, self._events)), 0
        del counts[OTHERS]
        busy = {name for name, _count in counts.most_common(MAX_NODES - 1)}
        for event in self._events:
            event.source = event.source if event.source in busy or not event.source else OTHERS
            event.target = event.target if event.target in busy or not event.target else OTHERS
        return [*arranged([name for name in shown if name in busy], self._events), OTHERS], len(shown) - len(busy)


def arranged(names: Sequence[str], events: Iterable[Event]) -> list[str]:
    """Return the nodes so that those which talk most stand side by side.

    The busiest pair is the middle; then comes whoever talks most with those that stand already, at the nearer end.
    """
    links: dict[str, Counter[str]] = {name: Counter() for name in names}
    for event in events:
        if not event.is_local and event.source in links and event.target in links:
            links[event.source][event.target] += 1
            links[event.target][event.source] += 1
    order = {name: number for number, name in enumerate(names)}
    left = dict(order)
    out: list[str] = []
    talk = Counter({name: sum(links[name].values()) for name in names})
    while left:
        name = max(left, key=lambda name: (talk[name], -order[name]))
        del left[name]
        places = [(place, count) for place, each in enumerate(out) if (count := links[name][each])]
        if out and sum((2 * place - len(out) + 1) * count for place, count in places) < 0:
            out.insert(0, name)
        else:
            out.append(name)
        if len(out) == 1:
            talk.clear()
        talk.update(links[name])
    return out


def _ends(decoded: Decoded) -> tuple[str, str]:
    """Return between which lifelines a record is; the second is empty when it is at one only, both for a mark."""
    node = decoded.record.interface.node
    if decoded.kind == "mark":
        return "", ""
    if decoded.record.interface.link_type in {LINKTYPE_ETHERNET, LINKTYPE_MEMORY} or not decoded.source:
        return node or "?", ""
    return decoded.source, "" if decoded.destination == decoded.source else decoded.destination


def headline(chart: Chart) -> str:
    """Return how much there is, in one line."""
    return (
        f"{counted(chart.total, 'message')} between {counted(len(chart.nodes), 'node')} in {duration(chart.span_ns)}, "
        f"{counted(chart.violations, 'violation')}"
    )


def collect(records: Iterable[Record], options: ChartOptions | None = None, title: str = "") -> Chart:
    """Return the chart of a whole capture."""
    collector = Collector(options or ChartOptions())
    for record in records:
        collector.feed(record)
    return collector.chart(title)
