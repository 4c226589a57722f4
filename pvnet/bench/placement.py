"""Which CPUs a measurement runs on, and how that is written down.

Waking a process on another CPU can cost more than everything that is measured here, so that the scheduler's choice
decides a latency.  Where two processes exchange short messages they are therefore pinned, to one CPU or to two, and the
result says to which (``notes.placement``).  A process is pinned with all its threads: affinity belongs to a thread, and
the helper threads of a library (pyzmq's, for one) would stay where they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pvnet.core.errors import ConfigError

UNPINNED: Final = "unpinned: the scheduler decides, for us and the peers alike"
"""The placement of a result that names no other."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A CPU for the asking (or sending) process and one for its partner."""

    asks: int
    answers: int

    def __str__(self) -> str:
        if self.asks == self.answers:
            return f"both on CPU {self.asks}"
        return f"CPU {self.asks} and {self.answers}"

    @property
    def cpus(self) -> tuple[int, ...]:
        """The CPUs, each once."""
        return (self.asks,) if self.asks == self.answers else (self.asks, self.answers)

    @classmethod
    def together(cls) -> Self:
        """Return both on the first CPU that this process may use."""
        first = allowed_cpus()[0]
        return cls(first, first)

    @classmethod
    def apart(cls) -> Self | None:
        """Return one CPU for each, None if this process may use only one."""
        first, *others = allowed_cpus()
        return cls(first, others[0]) if others else None

    @classmethod
    def apart_or_together(cls) -> Self:
        """Return one CPU for each if there are two."""
        return cls.apart() or cls.together()


def allowed_cpus() -> list[int]:
    """Return the CPUs that this process may use, ascending."""
    return sorted(os.sched_getaffinity(0))


def pin(cpus: Iterable[int], process: int | None = None) -> None:
    """Pin a process (default: this one) with all its threads, those included that it starts later.

    :raises ConfigError: there is no such CPU for it, or no such process.
    """
    wanted = set(cpus)
    try:
        for thread in _threads(process):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(thread, wanted)
    except OSError as error:
        named = ", ".join(map(str, sorted(wanted)))
        raise ConfigError(f"cannot place a process on CPU {named}: {error.strerror}") from None


@contextmanager
def pinned(cpus: Iterable[int], *processes: int) -> Iterator[None]:
    """Pin this process, or ``processes`` if any is given; each thread gets back what it had, whatever happens.

    A thread that is started meanwhile gets what its process's first thread had.

    :raises ConfigError: as :func:`pin`.
    """
    before: dict[int, dict[int, set[int]]] = {}
    try:
        for process in processes or (os.getpid(),):
            before[process] = {}
            for thread in _threads(process):
                with contextlib.suppress(ProcessLookupError):
                    before[process][thread] = os.sched_getaffinity(thread)
            pin(cpus, process)
        yield
    finally:
        for process, threads in before.items():
            with contextlib.suppress(ConfigError, OSError):  # a process that has ended needs nothing back
                for thread in _threads(process):
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(thread, threads.get(thread, threads[process]))


def _threads(process: int | None) -> list[int]:
    place = "self" if process is None else str(process)
    try:
        return [int(entry.name) for entry in Path(f"/proc/{place}/task").iterdir()]
    except FileNotFoundError:
        raise ConfigError(f"cannot place process {process}: there is none") from None
