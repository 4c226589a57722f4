"""Finding repeats, so that a chart of 30,000 messages can be read.

Two stretches of messages are the same when they hold the same messages in any order: in a running lab answers of
different nodes overtake one another.  What differs only in numbers is the same message.  A repeat is three or more such
stretches in a row, of up to :data:`MAX_PERIOD` messages each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_PERIOD: Final = 64
MIN_COUNT: Final = 3
MIN_SAVED: Final = 4
"""Fewest messages that must go away for a repeat to be worth its frame."""


@dataclass(frozen=True, slots=True)
class Fold:
    """``count`` stretches of ``period`` messages each, from message number ``start`` (from 0) on."""

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """Number of the first message after it."""
        return self.start + self.period * self.count


def find_folds(shapes: Sequence[str], *, no_start: Sequence[bool] = ()) -> list[Fold]:
    """Return the repeats of a sequence, which do not overlap, in order.

    ``no_start``: where a stretch of several messages should not begin (replies).
    """
    numbers: dict[str, int] = {}
    for text in shapes:
        if text not in numbers:
            # A sum of these tells sets apart: equal sums of different sets do not happen by chance.
            numbers[text] = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    sums = np.zeros(len(shapes) + 1, np.uint64)
    np.cumsum(np.fromiter((numbers[text] for text in shapes), np.uint64, len(shapes)), out=sums[1:])
    same = [_same(sums, period) for period in range(1, MAX_PERIOD + 1)]
    worth = np.zeros(len(shapes) + 1, bool)
    for flags in same:
        worth[: len(flags)] |= flags
    return list(_choose(same, worth, no_start))


def _same(sums: npt.NDArray[np.uint64], period: int) -> npt.NDArray[np.bool_]:
    """Tell for each place whether the stretch from there is the same as the one after it."""
    if len(sums) <= 2 * period:
        return np.zeros(0, bool)
    stretch = sums[period:] - sums[:-period]
    same: npt.NDArray[np.bool_] = stretch[:-period] == stretch[period:]
    return same


def _choose(
    same: Sequence[npt.NDArray[np.bool_]], worth: npt.NDArray[np.bool_], no_start: Sequence[bool]
) -> list[Fold]:
    out: list[Fold] = []
    at = 0
    while at < len(worth):
        if not worth[at]:
            after = int(np.argmax(worth[at:]))
            if after == 0:
                break
            at += after
            continue
        best = max((_repeat(flags, at, period) for period, flags in enumerate(same, 1)), key=_gain)
        if not _gain(best)[0]:
            at += 1
            continue
        start = _begin(best, no_start)
        later = _repeat(same[best.period - 1], start, best.period) if start != best.start else best
        out.append(later if later.count >= max(best.count - 1, MIN_COUNT) else best)
        at = out[-1].end
    return out


def _repeat(flags: npt.NDArray[np.bool_], start: int, period: int) -> Fold:
    at = start
    while at < len(flags) and flags[at]:
        at += period
    return Fold(start, period, (at - start) // period + 1)


def _gain(fold: Fold) -> tuple[int, int]:
    saved = (fold.count - 1) * fold.period
    return (saved if fold.count >= MIN_COUNT and saved >= MIN_SAVED else 0, -fold.period)


def _begin(fold: Fold, no_start: Sequence[bool]) -> int:
    """Return the first place within the first stretch where it may begin; where it begins now if there is none."""
    if fold.period == 1 or not no_start:
        return fold.start
    places = range(fold.start, fold.start + fold.period)
    return next((place for place in places if not no_start[place]), fold.start)
