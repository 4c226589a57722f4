"""Run real code on a machine with store buffers, through every interleaving there is.

The machine is that of x86 (total store order): a store goes into the thread's own queue and reaches memory later, at
any time, in order; a load sees the thread's own queue first; a fence, and a doorbell (a system call), wait until
the queue is empty.

The code is not modelled.  A thread is a series of *calls* of the real code on memory that records.  To learn what a
call does next, it is run again from its start with the results that it has seen so far, and stopped at the first
operation beyond them.  So the state of a thread is a short summary between calls plus the results within a call, and
states can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import NamedTuple

Operation = tuple
Results = tuple


class Pause(BaseException):
    """The call has reached the operation that decides how it goes on."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation


class Script:
    """Memory, fence and doorbell of one call: answers from ``results``, then stops the call."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._at = 0
        self._stored: tuple[int, int] | None = None

    def _do(self, *operation: Hashable) -> int:
        if self._at == len(self._results):
            raise Pause(operation)
        self._at += 1
        return self._results[self._at - 1]

    def __getitem__(self, index: int) -> int:
        return self._do("load", index)

    def __setitem__(self, index: int, value: int) -> None:
        self._stored = (index, value)
        self._do("store", index, value)

    def fence(self) -> None:
        """Named after the store it follows."""
        self._do("fence", self._stored)

    def ring(self) -> None:
        self._do("ring")

    def wait(self) -> None:
        self._do("wait")


Call = Callable[[Hashable, Script], Hashable]
"""One call: from the summary before it to the summary after it, or None when the thread has ended."""


class Thread(NamedTuple):
    summary: Hashable
    results: Results
    queue: tuple[tuple[int, int], ...]


class State(NamedTuple):
    sender: Thread
    receiver: Thread
    memory: tuple[int, ...]
    rung: bool


class Outcome(NamedTuple):
    states: int
    ends: set[Hashable]
    """Summaries of the receiver in the states where nothing more can happen."""
    fences: set[Hashable]
    """The fences that were met, as (thread, summary, store before)."""


def explore(
    sender: tuple[Hashable, Call],
    receiver: tuple[Hashable, Call],
    memory: tuple[int, ...],
    is_removed: Callable[[str, Hashable, tuple[int, int]], bool] = lambda *_: False,
) -> Outcome:
    """Visit every reachable state; ``is_removed(thread, summary, store)`` says which fences are missing."""
    calls = {"sender": sender[1], "receiver": receiver[1]}
    fences = set()

    @cache
    def following(name: str, summary: Hashable, results: Results) -> Operation:
        try:
            return ("return", calls[name](summary, Script(results)))
        except Pause as pause:
            return pause.operation

    def steps(name: str, thread: Thread, memory: tuple[int, ...], rung: bool):
        """What this thread can do next: (thread, memory, rung) after it."""
        summary, results, queue = thread
        if queue:
            (index, value), *rest = queue
            drained = (*memory[:index], value, *memory[index + 1 :])
            yield Thread(summary, results, tuple(rest)), drained, rung
        if summary is None:
            return
        match following(name, summary, results):
            case ("return", after):
                yield Thread(after, (), queue), memory, rung
            case ("load", index):
                value = next((value for at, value in reversed(queue) if at == index), memory[index])
                yield Thread(summary, (*results, value), queue), memory, rung
            case ("store", index, value):
                yield Thread(summary, (*results, None), (*queue, (index, value))), memory, rung
            case ("fence", store):
                fences.add((name, summary[0] if isinstance(summary, tuple) else summary, store))
                if not queue or is_removed(name, summary, store):
                    yield Thread(summary, (*results, None), queue), memory, rung
            case ("ring",):
                if not queue:
                    yield Thread(summary, (*results, None), queue), memory, True
            case ("wait",):
                if rung:
                    yield Thread(summary, (*results, None), queue), memory, False

    start = State(Thread(sender[0], (), ()), Thread(receiver[0], (), ()), memory, False)
    seen, todo, ends = {start}, [start], set()
    while todo:
        state = todo.pop()
        after = [State(t, state.receiver, m, r) for t, m, r in steps("sender", state.sender, state.memory, state.rung)]
        after += [
            State(state.sender, t, m, r) for t, m, r in steps("receiver", state.receiver, state.memory, state.rung)
        ]
        if not after:
            ends.add(state.receiver.summary)
        for new in after:
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return Outcome(len(seen), ends, fences)
