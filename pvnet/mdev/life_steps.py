"""Operations of the life cycle, cut into steps: between any two of them others may run.

An operation is a generator.  It changes the registry only while it runs, never while it is suspended, so that the piece
between two yields is one indivisible step and no lock exists.  It yields

* :class:`Call` around **every** piece of somebody else's code (vendor driver, device, bus driver, user).  The runner
  calls the function, awaits the result if it can be awaited, and sends it back, or throws the exception in;
* :class:`Wait` until something holds.  The runner sends back True once it holds and False when the patience is over.

A service runs operations beside each other (one task each), :func:`run_now` runs one to its end, and the explorer of
the tests runs several in every order.  An operation that is closed in the middle of a call (its task was cancelled)
gives back what it holds and calls nobody any more.

Spec: mdev 2 (R15 to R23), 9.1 (A16).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EIO

T = TypeVar("T")

Noter: TypeAlias = Callable[[Note], None]


@dataclass(frozen=True, slots=True)
class Call:
    """Call ``function`` and send back what it returns, or what its awaitable result becomes."""

    function: Callable[[], object]
    what: str
    """For traces: ``create of mtty-2 at mtty``."""


class Changed:
    """Tells listeners that something they may wait for has changed."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change; returns what ends that (once)."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def notify(self) -> None:
        """Something has changed."""
        for listener in tuple(self._listeners):
            listener()


@dataclass(slots=True)
class Patience:
    """How long an operation waits altogether, over several :class:`Wait`."""

    seconds: float
    until: float | None = None
    """Set by the runner, by its own clock, when it sees this object for the first time."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until ``holds()`` is true; look again after every notification of ``changed``.

    ``patience`` None: as long as it takes.
    """

    holds: Callable[[], bool]
    changed: Changed
    patience: Patience | None
    what: str


Op: TypeAlias = Generator[Call | Wait, Any, T]
"""An operation with result ``T``; raises :class:`~pvnet.mdev.errors.MdevError`."""


def vendor(note: Noter, what: str, function: Callable[[], object]) -> Op[Any]:
    """Call somebody else's code.

    :raises MdevError: as raised by it; EIO for any other exception, which is noted: somebody else's bug ends this
        operation and nothing more.
    """
    try:
        return (yield Call(function, what))
    except MdevError:
        raise
    except Exception as error:
        note(Note("mdev_callback_failed", (("what", what), ("error", describe(error))), "warning"))
        raise MdevError(EIO, f"{what} failed: {describe(error)}") from error


def attempt(note: Noter, what: str, function: Callable[[], object]) -> Op[MdevError | None]:
    """Call somebody else's code where its failure changes nothing; a refusal is noted and returned."""
    try:
        yield from vendor(note, what, function)
    except MdevError as error:
        note(Note("mdev_callback_ignored", (("what", what), ("error", str(error))), "warning"))
        return error
    return None


def ask(note: Noter, what: str, function: Callable[[], T]) -> T:
    """Call somebody else's code that only tells something, at once.

    :raises MdevError: as :func:`vendor`.
    """
    try:
        return function()
    except MdevError:
        raise
    except Exception as error:
        note(Note("mdev_callback_failed", (("what", what), ("error", describe(error))), "warning"))
        raise MdevError(EIO, f"{what} failed: {describe(error)}") from error


def wait_for(holds: Callable[[], bool], changed: Changed, what: str, patience: Patience | None = None) -> Op[bool]:
    """Wait until ``holds()`` in the very step that goes on; returns whether it does (False: patience is over)."""
    while not holds():
        if not (yield Wait(holds, changed, patience, what)):
            return holds()
    return True


def describe(error: BaseException) -> str:
    """Kind and text of somebody else's exception, which may not even have a text."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - somebody else's exception may not even have a text
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def run_now(operation: Op[T]) -> T:
    """Run an operation to its end, alone: nothing changes meanwhile, so patience is over at once.

    :raises MdevError: as the operation.
    :raises LocalError: it waits without patience for what only another operation can do, or a callback is asynchronous.
    """
    try:
        step = next(operation)
        while True:
            step = _send(operation, step)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _send(operation: Op[T], step: Call | Wait) -> Call | Wait:
    if isinstance(step, Wait):
        if not step.holds() and step.patience is None:
            operation.close()
            raise LocalError(f"{step.what}: waits for another operation, and there is none")
        return operation.send(step.holds())
    try:
        result = step.function()
    except Exception as error:  # noqa: BLE001 - the operation decides what somebody else's failure means
        return operation.throw(error)
    if hasattr(result, "__await__"):
        operation.close()
        raise LocalError(f"{step.what}: asynchronous, needs a runner with an event loop")
    return operation.send(result)
