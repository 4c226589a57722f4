"""Runs operations of the life cycle beside each other in every order, and looks at the world after every step.

A step is what one operation does from one yield to the next; which operation takes the next step, and whether the
patience of a waiting one is over, are the choices.  Generators cannot be copied, so each schedule is run anew from the
beginning, on a new world: :func:`explore` walks through the tree of choices depth first.

A callback is executed either at once, when it is asked for (``eager``; its result is delivered with the operation's
next step), or only then (``lazy``).  A wait ends only by a notification after which it holds, as in a service: one that
holds and was not notified is a lost wake-up, and a violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_steps import Call, Op, Wait


class ViolationError(AssertionError):
    """An invariant does not hold; the text has the schedule that led there."""


@dataclass
class Scenario:
    """One world, what runs in it, and what has to hold."""

    operations: dict[str, Op[Any]]
    check: Callable[[], None]
    """After every step."""
    finish: Callable[[Outcome], None]
    """When nothing can go on."""


@dataclass
class Outcome:
    """How the operations of one schedule ended."""

    results: dict[str, object] = field(default_factory=dict)
    """What each returned, or the errno it raised as ``errno_of``."""
    errors: dict[str, MdevError] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    """What those wait for that have not ended."""

    def errnos(self) -> dict[str, int]:
        """Errno of each operation, 0: success."""
        return {
            **dict.fromkeys(self.results, 0),
            **{name: error.errno for name, error in self.errors.items()},
            **dict.fromkeys(self.blocked, -1),
        }


class _Running:
    """One operation: what it will be resumed with, or what it waits for."""

    def __init__(self, name: str, operation: Op[Any], lazy: bool) -> None:
        self.name = name
        self.operation = operation
        self.lazy = lazy
        self.wait: Wait | None = None
        self.ready = False
        self.done = False
        self.result: object = None
        self.error: MdevError | None = None
        self._resume: Callable[[], Call | Wait] = lambda: next(operation)
        self._unsubscribe: Callable[[], None] = lambda: None

    def moves(self) -> list[str]:
        if self.done:
            return []
        if self.wait is None or self.ready:
            return ["go"]
        return ["give up"] if self.wait.patience is not None else []

    def step(self, move: str) -> None:
        if self.wait is not None:
            wait, self.wait = self.wait, None
            self._unsubscribe()
            if move == "give up":
                assert wait.patience is not None
                wait.patience.until = 0.0
            answer = move == "go"
            self._resume = lambda: self.operation.send(answer)
        try:
            self._take(self._resume())
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except MdevError as error:
            self.done, self.error = True, error

    def _take(self, yielded: Call | Wait) -> None:
        if isinstance(yielded, Call):
            function = yielded.function
            self._resume = (lambda: self._deliver(*_call(function))) if self.lazy else self._called(*_call(function))
            return
        if yielded.patience is not None and yielded.patience.until is not None and not yielded.holds():
            self._resume = lambda: self.operation.send(False)
            return
        self.wait, self.ready = yielded, yielded.holds()
        self._unsubscribe = yielded.changed.subscribe(self._look)

    def _look(self) -> None:
        if self.wait is not None and self.wait.holds():
            self.ready = True

    def _called(self, value: object, error: Exception | None) -> Callable[[], Call | Wait]:
        return lambda: self._deliver(value, error)

    def _deliver(self, value: object, error: Exception | None) -> Call | Wait:
        return self.operation.throw(error) if error is not None else self.operation.send(value)

    def lost_wakeup(self) -> bool:
        return self.wait is not None and not self.ready and self.wait.holds()


def _call(function: Callable[[], object]) -> tuple[object, Exception | None]:
    try:
        return function(), None
    except ViolationError:
        raise
    except Exception as error:  # noqa: BLE001 - what a vendor raises is the operation's
        return None, error


def _run(scenario: Scenario, choices: list[int], lazy: bool, switches: int | None) -> tuple[list[int], list[str]]:
    """Run one schedule; returns how many options there were at each step, and the trace."""
    running = [_Running(name, operation, lazy) for name, operation in scenario.operations.items()]
    options: list[int] = []
    trace: list[str] = []
    current: _Running | None = None
    used = 0
    try:
        while moves := [(each, move) for each in running for move in each.moves()]:
            mine = [pair for pair in moves if pair[0] is current]
            if mine and switches is not None and used >= switches:
                moves = mine
            at = choices[len(options)] if len(options) < len(choices) else 0
            options.append(len(moves))
            chosen, move = moves[at]
            used += bool(mine) and chosen is not current
            current = chosen
            trace.append(chosen.name if move == "go" else f"{chosen.name} gives up")
            chosen.step(move)
            scenario.check()
            for each in running:
                if each.lost_wakeup():
                    assert each.wait is not None
                    raise ViolationError(f"{each.name} is not woken: {each.wait.what}")
        outcome = Outcome(
            {each.name: each.result for each in running if each.done and each.error is None},
            {each.name: each.error for each in running if each.error is not None},
            {each.name: each.wait.what for each in running if each.wait is not None},
        )
        scenario.finish(outcome)
    except AssertionError as error:
        raise ViolationError(f"{error}; after {' | '.join(trace)}") from error
    return options, trace


def explore(
    make: Callable[[], Scenario], *, lazy: bool = False, limit: int = 20_000, switches: int | None = None
) -> int:
    """Run every schedule; returns how many there are.

    :param switches: most times that an operation that could go on is left for another one; None: any number.
    :raises ViolationError: at the first schedule in which something does not hold.
    """
    return sum(1 for _ in schedules(make, lazy=lazy, limit=limit, switches=switches))


def schedules(
    make: Callable[[], Scenario], *, lazy: bool = False, limit: int = 20_000, switches: int | None = None
) -> Iterator[list[str]]:
    """Run every schedule and yield its trace."""
    choices: list[int] = []
    for _ in range(limit):
        options, trace = _run(make(), choices, lazy, switches)
        yield trace
        choices += [0] * (len(options) - len(choices))
        while choices and choices[-1] + 1 >= options[len(choices) - 1]:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1
    raise AssertionError(f"more than {limit} schedules")
