"""When which record of a capture is due: a schedule over absolute times.

A :class:`Player` knows the time at which each record *should* come, counted from the beginning, and never adds up what
a sleep really took: a record that is late makes no later one late, and an hour ends when it should.  It is pure: the
time comes in (:mod:`pvnet.core.machine`), records and the next deadline go out.

Decided here, because players differ and their users have lost days over it:

* ``skip_gaps_s``: a pause longer than this lasts exactly this (of recorded time, before ``speed`` counts).
* ``speed`` None is "as fast as possible": every record is due at once, in order.
* ``start_s`` and ``end_s`` count from the capture's first record that has a time, whatever is selected.
* A record without a time, or earlier than the one before it, is due together with the one before it.
* The next loop begins when the last record of the loop before was due.

Spec: ecosystem C.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from pvnet.capture.model import (
    LINKTYPE_ENVELOPE,
    LINKTYPE_ETHERNET,
    LINKTYPE_HCALL,
    LINKTYPE_MEMORY,
    Interface,
    Record,
)
from pvnet.core.errors import ConfigError
from pvnet.pb.v1.envelope_pb2 import Envelope

BATCH: Final = 256
"""Most records that :meth:`Player.take` returns at once."""
NS: Final = 1_000_000_000
_KINDS: Final = {LINKTYPE_ETHERNET: "ethernet", LINKTYPE_HCALL: "hcall_trace", LINKTYPE_MEMORY: "memory"}
_NAMES: Final = (
    ("management", "show_partition", "name"),
    ("management", "power_on", "name"),
    ("management", "power_off", "name"),
    ("management", "scm_inject", "partition"),
    ("management", "vbus", "node"),
    ("management", "mdev", "host"),
    ("management", "mdev", "partition"),
    ("management", "mdev_assign", "host"),
    ("mdev_close", "moved_to"),
    ("mdev_transfer", "partition"),
)
"""Where a message has names of nodes beside its source and destination."""


def body_of(record: Record) -> str:
    """Return the kind of a record: the body of its envelope, or what else it is; '' for what does not decode."""
    if record.interface.link_type != LINKTYPE_ENVELOPE:
        return _KINDS.get(record.interface.link_type, f"linktype_{record.interface.link_type}")
    envelope = record.envelope()
    return "" if envelope is None else envelope.WhichOneof("body") or ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are played.

    ``only`` and ``skip`` are patterns as of a shell (``*``, ``?``, ``[...]``), each compared with the interface
    (``lpar2/crq``), its node, its channel and the body (``crq_entry``).  A record is played when some pattern of
    ``only`` fits, or there is none, and no pattern of ``skip`` does.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.start_s is not None and self.end_s is not None and self.end_s < self.start_s:
            raise ConfigError(f"to {self.end_s:g} s: expected a time after from ({self.start_s:g} s)")

    def fits(self, record: Record) -> bool:
        """Whether the patterns let a record through."""
        if not self.only and not self.skip:
            return True
        interface = record.interface
        names = (interface.name, interface.node, interface.channel, body_of(record))
        if any(_fits(names, pattern) for pattern in self.skip):
            return False
        return not self.only or any(_fits(names, pattern) for pattern in self.only)

    def select(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield what is to be played; nothing behind ``end_s`` is read."""
        first: int | None = None
        for record in records:
            if record.time_ns is not None:
                if first is None:
                    first = record.time_ns
                at = (record.time_ns - first) / NS
                if self.end_s is not None and at > self.end_s:
                    return
                if self.start_s is not None and at < self.start_s:
                    continue
            elif self.start_s is not None and first is None:
                continue
            if self.fits(record):
                yield record


def _fits(names: tuple[str, ...], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def parse_map(texts: Iterable[str]) -> dict[str, str]:
    """Return the renaming of ``old=new`` texts; ConfigError for anything else."""
    names: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new) or "=" in new:
            raise ConfigError(f"map {text[:60]!r}: expected OLD=NEW, two names of nodes")
        if names.setdefault(old, new) != new:
            raise ConfigError(f"map {text[:60]!r}: {old} is {names[old]} already")
    return names


def rename(record: Record, names: Mapping[str, str]) -> Record:
    """Return a record in which nodes have other names: interface, source, destination, and fields that name nodes."""
    if not names:
        return record
    interface = _renamed(record.interface, names.get(record.interface.node, record.interface.node))
    envelope = record.envelope()
    if envelope is None:
        return replace(record, interface=interface)
    if not rename_envelope(envelope, names):
        return record if interface is record.interface else replace(record, interface=interface)
    return replace(record, interface=interface, data=envelope.SerializeToString())


@lru_cache(maxsize=1024)
def _renamed(interface: Interface, node: str) -> Interface:
    if node == interface.node:
        return interface
    slash = "/" if "/" in interface.name else ""
    return replace(interface, name=f"{node}{slash}{interface.channel}")


def rename_envelope(envelope: Envelope, names: Mapping[str, str]) -> bool:
    """Rename nodes in a message; whether there was anything to rename."""
    changed = False
    for part in ("source", "destination"):
        name = getattr(envelope, part)
        if name in names:
            setattr(envelope, part, names[name])
            changed = True
    body = envelope.WhichOneof("body")
    for first, *path in _NAMES:
        if body != first:
            continue
        message = getattr(envelope, first)
        for step in path[:-1]:
            message = getattr(message, step) if message.HasField(step) else None
        if message is not None and getattr(message, path[-1]) in names:
            setattr(message, path[-1], names[getattr(message, path[-1])])
            changed = True
    return changed


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast: see the module's text.  ``loops`` None: for ever.  ``step``: only :meth:`Player.step` plays."""

    speed: float | None = 1.0
    skip_gaps_s: float | None = None
    loops: int | None = 1
    step: bool = False

    def __post_init__(self) -> None:
        if self.speed is not None and not 1e-6 <= self.speed <= 1e9:
            raise ConfigError(f"speed {self.speed:g}: expected 0.000001 to 1000000000, or max")
        if self.skip_gaps_s is not None and not self.skip_gaps_s >= 0:
            raise ConfigError(f"skip gaps longer than {self.skip_gaps_s:g} s: expected at least 0")
        if self.loops is not None and self.loops < 1:
            raise ConfigError(f"{self.loops} loops: expected at least 1")


@dataclass(slots=True)
class Timeline:
    """Turns times of records into nanoseconds from the beginning, at speed 1, gaps shortened.  Starts at 0."""

    skip_gaps_ns: int | None = None
    at_ns: int = 0
    _last: int | None = None

    def place(self, time_ns: int | None) -> int:
        """Return the place of the next record."""
        if time_ns is not None:
            if self._last is not None:
                gap = max(0, time_ns - self._last)
                self.at_ns += gap if self.skip_gaps_ns is None else min(gap, self.skip_gaps_ns)
            self._last = time_ns
        return self.at_ns

    def rewind(self) -> None:
        """Begin anew where it is now."""
        self._last = None


def timeline(pace: Pace) -> Timeline:
    """Return the timeline of a pace (without its speed)."""
    return Timeline(None if pace.skip_gaps_s is None else round(pace.skip_gaps_s * NS))


@dataclass(frozen=True, slots=True)
class Due:
    """A record whose time has come: ``at_s`` is when it should come, ``loop`` counts from 1."""

    record: Record
    at_s: float
    loop: int


@dataclass(slots=True)
class Player:
    """See the module's text.  ``records`` is called at the beginning of every loop.

    ``take(now)`` returns what is due; ``deadline()`` says when the next record is.
    """

    records: Callable[[], Iterable[Record]]
    pace: Pace = field(default_factory=Pace)
    selection: Selection = field(default_factory=Selection)
    names: Mapping[str, str] = field(default_factory=dict)
    played: int = 0
    """Records so far, of all loops."""
    loop: int = 0
    """Which loop is played, from 1; 0: not begun."""
    _begun: float | None = None
    _paused: float | None = None
    _line: Timeline = field(init=False)
    _source: Iterator[Record] | None = None
    _next: tuple[Record, int] | None = None
    _is_empty: bool = False

    def __post_init__(self) -> None:
        self._line = timeline(self.pace)

    def begin(self, now: float) -> None:
        """Start the clock: the first record is due now."""
        self._begun = now
        self._fetch()

    def pause(self, now: float) -> None:
        """Stop the clock."""
        if self._paused is None:
            self._paused = now

    def resume(self, now: float) -> None:
        """Let the clock go on: everything is later by what the pause took."""
        if self._paused is not None and self._begun is not None:
            self._begun += now - self._paused
        self._paused = None

    @property
    def is_done(self) -> bool:
        """Whether everything has been played."""
        return self._begun is not None and self._next is None

    @property
    def position_s(self) -> float:
        """Where the player is, in recorded seconds (gaps shortened), over all loops."""
        return self._line.at_ns / NS

    def deadline(self) -> float | None:
        """When the next record is due; None: never (all played, paused, stepping)."""
        if self._next is None or self._paused is not None or self.pace.step:
            return None
        return self._due(self._next[1])

    def take(self, now: float) -> list[Due]:
        """Return the records that are due, in order, at most :data:`BATCH` (then the deadline is not later)."""
        due: list[Due] = []
        if self._paused is not None or self.pace.step:
            return due
        while self._next is not None and len(due) < BATCH and self._due(self._next[1]) <= now:
            due.append(self._pop())
        return due

    def step(self) -> Due | None:
        """Return the next record, whenever it is due; None when all are played."""
        return None if self._next is None else self._pop()

    def _due(self, at_ns: int) -> float:
        assert self._begun is not None, "begin() first"
        return self._begun if self.pace.speed is None else self._begun + at_ns / NS / self.pace.speed

    def _pop(self) -> Due:
        assert self._next is not None
        record, at_ns = self._next
        due = Due(record, self._due(at_ns), self.loop)
        self.played += 1
        self._fetch()
        return due

    def _fetch(self) -> None:
        while True:
            if self._source is None:
                if self._is_empty or self.loop == self.pace.loops:
                    self._next = None
                    return
                self.loop += 1
                self._is_empty = True
                self._line.rewind()
                self._source = iter(self.selection.select(self.records()))
            record = next(self._source, None)
            if record is not None:
                self._is_empty = False
                self._next = (rename(record, self.names), self._line.place(record.time_ns))
                return
            self._source = None
