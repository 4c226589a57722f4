"""Copying between two windows: everything is checked before the first byte moves.

A :class:`Side` is a window together with the segment that its real addresses mean.  The plan of a copy is the runs of
both sides; each piece is one slice assignment from a ``memoryview``.  Inside one segment the pieces may overlap: one
piece is safe by itself (it behaves as if the source were read first); several pieces go through a temporary copy when
source and destination touch, so that the result is always as if the whole source had been read first.

Order of the checks: source range, destination range, source access, destination access.  Spec: vmc 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pvnet.core.errors import LocalError
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_READ, ACCESS_WRITE, DmaWindow, Refusal, Run


class CopyRefusal(Enum):
    """Why a copy did not happen: which side, and what was wrong with it."""

    SOURCE_RANGE = "source range"
    DESTINATION_RANGE = "destination range"
    SOURCE_PERMISSION = "source permission"
    DESTINATION_PERMISSION = "destination permission"


class Side(NamedTuple):
    """One end of a copy: ``ioba`` in ``window``; real addresses are of ``segment``, whose owner has ``limit`` bytes."""

    window: DmaWindow
    ioba: int
    segment: Segment | None
    """``None``: the memory is in another process."""
    limit: int
    """Bytes of real memory; a page beyond it counts as outside of the window."""


class CopyPlan(NamedTuple):
    """A checked copy: the runs of both sides, each together exactly as long as the copy."""

    source: tuple[Run, ...]
    destination: tuple[Run, ...]


def plan_copy(source: Side, destination: Side, length: int) -> CopyPlan | CopyRefusal:
    """Check the whole copy of ``length`` bytes and return its runs, or why it is refused."""
    from_runs = source.window.translate(source.ioba, length, ACCESS_READ)
    to_runs = destination.window.translate(destination.ioba, length, ACCESS_WRITE)
    if from_runs is Refusal.RANGE:
        return CopyRefusal.SOURCE_RANGE
    if to_runs is Refusal.RANGE:
        return CopyRefusal.DESTINATION_RANGE
    if isinstance(from_runs, Refusal):
        return CopyRefusal.SOURCE_PERMISSION
    if isinstance(to_runs, Refusal):
        return CopyRefusal.DESTINATION_PERMISSION
    if not within(from_runs, source.limit):
        return CopyRefusal.SOURCE_RANGE
    if not within(to_runs, destination.limit):
        return CopyRefusal.DESTINATION_RANGE
    return CopyPlan(from_runs, to_runs)


def within(runs: Sequence[Run], limit: int) -> bool:
    """Whether every run lies in ``0 .. limit``."""
    for address, length in runs:  # noqa: SIM110 - three times as fast as all() on the usual single run
        if address + length > limit:
            return False
    return True


def move(plan: CopyPlan, source: Segment, destination: Segment) -> None:
    """Carry out a plan between two segments of this process."""
    to_view, from_view = destination.view, source.view
    if len(plan.source) == 1 == len(plan.destination):
        (from_at, length), to_at = plan.source[0], plan.destination[0].address
        to_view[to_at : to_at + length] = from_view[from_at : from_at + length]
    elif source.shares(destination):
        scatter(gather(source, plan.source), destination, plan.destination)
    else:
        for from_at, to_at, length in pieces(plan):
            to_view[to_at : to_at + length] = from_view[from_at : from_at + length]


def pieces(plan: CopyPlan) -> list[tuple[int, int, int]]:
    """The plan as (source address, destination address, length) of contiguous pieces, in order."""
    result = []
    to_runs = iter(plan.destination)
    to_at, to_left = 0, 0
    for run in plan.source:
        from_at, from_left = run
        while from_left:
            if not to_left:
                to_at, to_left = next(to_runs)
            n = min(from_left, to_left)
            result.append((from_at, to_at, n))
            from_at, from_left, to_at, to_left = from_at + n, from_left - n, to_at + n, to_left - n
    return result


def gather(source: Segment, runs: Sequence[Run]) -> bytes:
    """The bytes of runs, joined."""
    view = source.view
    return b"".join(view[address : address + length] for address, length in runs)


def scatter(data: bytes, destination: Segment, runs: Sequence[Run]) -> None:
    """Store ``data`` (as long as the runs together) into runs."""
    view, at = memoryview(data), 0
    for address, length in runs:
        destination.view[address : address + length] = view[at : at + length]
        at += length


def copy(source: Side, destination: Side, length: int) -> CopyRefusal | None:
    """Check and copy ``length`` bytes between two sides that are both in this process; ``None`` when done."""
    plan = plan_copy(source, destination, length)
    if isinstance(plan, CopyRefusal):
        return plan
    if source.segment is None or destination.segment is None:
        raise LocalError("a copy in one step needs both segments in this process")
    move(plan, source.segment, destination.segment)
    return None
