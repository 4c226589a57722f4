"""Log-ons of NovaLink-style clients, without IO: which token belongs to whom, and until when.

Only digests of the tokens are kept: what is looked up is never the secret itself, so neither the time that a look-up
takes nor a picture of this memory tells a token.  A session that makes no request for its idle time has expired; when
there are too many, the one that was idle for longest goes.  Time is passed in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

TOKEN_BYTES: Final = 48
"""Random bytes of a token; as text (URL-safe base64) it has 64 characters."""
_LONGEST: Final = 1024
_FAILURES_KEPT: Final = 1024
_FORGET_S: Final = 300.0
_FIRST_DELAY_S: Final = 0.1
_LAST_DELAY_S: Final = 4.0


@dataclass(slots=True)
class LogOn:
    """A log-on: who, since when, when used last (seconds), and the file that holds the token, if one does."""

    user: str
    since: float
    used: float
    file: str | None = None
    digest: bytes = b""


class LogOns:
    """See the module's text."""

    def __init__(self, *, most: int, idle_s: float) -> None:
        self._most = most
        self._idle_s = idle_s
        self._by_digest: OrderedDict[bytes, LogOn] = OrderedDict()  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._by_digest)

    def add(self, token: str, user: str, now: float, *, file: str | None = None) -> list[LogOn]:
        """Take a new log-on; returns those that end by it (expired, or one too many)."""
        ended = self.expire(now)
        while len(self._by_digest) >= self._most:
            ended.append(self._by_digest.popitem(last=False)[1])
        digest = _digest(token)
        self._by_digest[digest] = LogOn(user, now, now, file, digest)
        return ended

    def find(self, token: str, now: float) -> LogOn | None:
        """Return the log-on of a token and say that it was used; None: there is none, or it has expired."""
        if not token or len(token) > _LONGEST:
            return None
        digest = _digest(token)
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(found.digest, digest) or now - found.used >= self._idle_s:
            return None
        found.used = now
        self._by_digest.move_to_end(digest)
        return found

    def has(self, log_on: LogOn) -> bool:
        """Whether a log-on has not ended."""
        return log_on.digest in self._by_digest

    def remove(self, log_on: LogOn) -> bool:
        """End a log-on; whether there was one."""
        return self._by_digest.pop(log_on.digest, None) is not None

    def expire(self, now: float) -> list[LogOn]:
        """End those that were idle for too long; returns them."""
        ended: list[LogOn] = []
        while self._by_digest:
            oldest = next(iter(self._by_digest.values()))
            if now - oldest.used < self._idle_s:
                break
            ended.append(self._by_digest.popitem(last=False)[1])
        return ended


class Failures:
    """Failed log-ons: the more of them from one place, the longer the next answer takes."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, place: str, now: float) -> float:
        """Count a failure; returns how long its answer is to wait, in seconds."""
        count, at = self._failures.pop(place, (0, now))
        count = 1 if now - at > _FORGET_S else count + 1
        self._failures[place] = (count, now)
        if len(self._failures) > _FAILURES_KEPT:
            self._failures.popitem(last=False)
        return min(_FIRST_DELAY_S * 2.0 ** min(count - 1, 16), _LAST_DELAY_S)

    def succeeded(self, place: str) -> None:
        """Forget what failed from there."""
        self._failures.pop(place, None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
