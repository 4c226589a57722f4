"""What a log should have of direct paths: that one is lost, and that it is back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

_SAY_BROKEN_S: Final = 0.25


class PathLog:
    """Says it a moment later, unless it turns out that the peer has died, which is told in other words.

    ``is_present(peer)`` tells whether it lives.
    """

    def __init__(self, counters: Counter[str], log: Any, is_present: Callable[[str], bool]) -> None:
        self._counters = counters
        self._log = log
        self._is_present = is_present
        self._broken: dict[str, asyncio.TimerHandle | None] = {}
        """Peer: when to say so; None: said."""

    def changed(self, peer: str, *, is_direct: bool, reason: str) -> None:
        """A path has come or gone; without a ``reason`` it went in good order."""
        if is_direct and peer in self._broken:
            if (timer := self._broken.pop(peer)) is not None:
                timer.cancel()
                self._log.warning("direct_path_lost", peer=peer)
            self._log.info("direct_path_back", peer=peer)
        elif not is_direct and reason:
            self._counters["direct_path_lost"] += 1
            if (timer := self._broken.get(peer)) is not None:
                timer.cancel()
            self._broken[peer] = asyncio.get_running_loop().call_later(_SAY_BROKEN_S, self._say, peer, reason)

    def close(self) -> None:
        """Say nothing more."""
        for timer in self._broken.values():
            if timer is not None:
                timer.cancel()
        self._broken.clear()

    def _say(self, peer: str, reason: str) -> None:
        if self._is_present(peer):
            self._broken[peer] = None
            self._log.warning("direct_path_lost", peer=peer, reason=reason)
        else:
            del self._broken[peer]
