"""Which reply answers which call, and how long it took.

A call and its reply have the same ``Decoded.pair``.  A capture may hold a message twice, once as its source saw it and
once as its destination did: the later copy changes nothing.  Calls that wait are bounded (oldest forgotten first).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from pvnet.capture.decode import Decoded

MAX_WAITING: Final = 1 << 16
MAX_ANSWERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Matched:
    """The call that a reply answers; ``latency_ns`` is None where a time is unknown."""

    call: Decoded
    latency_ns: int | None
    reply: Decoded
    is_again: bool = False
    """Another reply to this call came before."""


class Pairs:
    """Feed every record, in the order of the capture."""

    def __init__(self, waiting: int = MAX_WAITING) -> None:
        self._limit = waiting
        self._waiting: OrderedDict[str, Decoded] = OrderedDict()
        self._answered: OrderedDict[str, Matched] = OrderedDict()
        self.forgotten = 0
        """Calls that waited while too many others did."""

    def feed(self, decoded: Decoded) -> Matched | None:
        """Take a record; for a reply return its call, None when that was not seen (or was forgotten)."""
        key = decoded.pair
        if not key:
            return None
        if not decoded.is_reply:
            if key not in self._waiting and not self._is_copy(decoded):
                self._answered.pop(key, None)
                self._waiting[key] = decoded
                if len(self._waiting) > self._limit:
                    self._waiting.popitem(last=False)
                    self.forgotten += 1
            return None
        call = self._waiting.pop(key, None)
        if call is None:
            before = self._answered.get(key)
            if before is None or before.reply.record.data == decoded.record.data:
                return before
            return replace(before, is_again=True)
        asked, came = call.record.time_ns, decoded.record.time_ns
        matched = Matched(call, None if asked is None or came is None else came - asked, decoded)
        self._answered[key] = matched
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        return matched

    def _is_copy(self, decoded: Decoded) -> bool:
        matched = self._answered.get(decoded.pair)
        return matched is not None and matched.call.record.data == decoded.record.data

    def waiting(self, key: str) -> Decoded | None:
        """The call under way whose ``pair`` is ``key``."""
        return self._waiting.get(key)

    def unanswered(self) -> list[Decoded]:
        """Calls that still wait, oldest first."""
        return list(self._waiting.values())
