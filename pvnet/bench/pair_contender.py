"""A pair of processes (:mod:`pvnet.bench.pair`) as a contender beside programs that this process is one side of."""

from __future__ import annotations

from typing import Final

from pvnet.bench.pair import Pair
from pvnet.bench.rounds import Round
from pvnet.core.errors import UnreachableError


class PairContender:
    """Round trips between the two ends; how long each took stays with them, they tell the quantiles."""

    failures: Final[tuple[type[Exception], ...]] = (UnreachableError,)

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    @property
    def name(self) -> str:
        """The pair's."""
        return self._pair.name

    async def round(self, count: int, in_flight: int) -> Round:  # noqa: ARG002 - one after the other
        """Let the ends make ``count`` round trips, one after the other."""
        asked = await self._pair.round_trips(count)
        return Round([], asked["seconds"], asked["wrong"], (asked["p50"], asked["p99"]))
