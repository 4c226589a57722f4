"""Joins the beginning and the end of hcalls that a tracer shows as two events.

On one CPU (or in one vCPU's thread) calls nest as interrupts do: the last begun ends first.  What does not fit that is
not made to fit: a beginning without end and an end without beginning are calls with unknown parts.  Lost events may
have been any, so they end all pairs of their CPU.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.importers.calls import ImportedCall, Item, OpenCall, seconds

MAX_DEPTH: Final = 64
MAX_STACKS: Final = 8192
NO_END: Final = "no end seen"
NO_BEGIN: Final = "no beginning seen"
LOST: Final = "events lost before its end"
CUT: Final = "the line may be cut short"


@dataclass(slots=True)
class Pairing:
    """Stacks of open calls by CPU or thread; at most :data:`MAX_STACKS` of at most :data:`MAX_DEPTH` calls."""

    source: str
    _stacks: dict[Hashable, list[OpenCall]] = field(default_factory=dict)

    def begin(self, key: Hashable, call: OpenCall) -> Iterator[Item]:
        """A call begins; yields those that are given up for it."""
        stack = self._stacks.get(key)
        if stack is None:
            if len(self._stacks) >= MAX_STACKS:
                oldest = next(iter(self._stacks))
                yield from self._give_up(self._stacks.pop(oldest), NO_END)
            stack = self._stacks[key] = []
        if len(stack) >= MAX_DEPTH:
            yield stack.pop(0).close(self.source, note=NO_END)
        stack.append(call)

    def end(
        self,
        key: Hashable,
        opcode: int | None,
        rc: int | None,
        time_ns: int | None,
        offset: int,
        *,
        cpu: int | None = None,
        outs: Mapping[int, int] | None = None,
        note: str = "",
    ) -> Iterator[Item]:
        """A call ends; ``opcode`` None: whichever was begun last."""
        stack = self._stacks.get(key, [])
        at = len(stack) - 1
        while at >= 0 and opcode is not None and stack[at].opcode != opcode:
            at -= 1
        if at < 0:
            notes = f"{note}; {NO_BEGIN}" if note else NO_BEGIN
            call = ImportedCall(self.source, opcode, None, rc, outs, cpu, time_ns, None, notes)
            yield Item(call.to_json(), time_ns, offset)
            return
        call_found, inner = stack[at], stack[at + 1 :]
        del stack[at:]
        if not stack:
            del self._stacks[key]
        yield from self._give_up(inner, NO_END)
        yield call_found.close(self.source, rc=rc, outs=outs, end_ns=time_ns, note=note)

    def lost(self, cpu: int | None, count: int | None, time_ns: int | None, offset: int) -> Iterator[Item]:
        """Events of a CPU were lost (None: of any): its open calls stay without an end."""
        for key in list(self._stacks):
            stack = self._stacks[key]
            kept = [call for call in stack if cpu is not None and call.cpu != cpu]
            yield from self._give_up([call for call in stack if cpu is None or call.cpu == cpu], LOST)
            if kept:
                self._stacks[key] = kept
            else:
                del self._stacks[key]
        values = {"source": self.source, "cpu": cpu, "time": seconds(time_ns), "lost": count}
        yield Item(values, time_ns, offset)

    def finish(self) -> Iterator[Item]:
        """The log is over."""
        for stack in self._stacks.values():
            yield from self._give_up(stack, NO_END)
        self._stacks.clear()

    def _give_up(self, calls: list[OpenCall], note: str) -> Iterator[Item]:
        for call in calls:
            yield call.close(self.source, note=note)
