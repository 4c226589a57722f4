"""One rule for hcalls that answer "not now".

The hypervisor may answer H_BUSY (repeat at once), a long busy (repeat after about 1 ms to 100 s) or, to H_ENABLE_CRQ,
H_IN_PROGRESS.  The Linux drivers repeat without end, and H_BUSY without a pause; reviewers objected.  Here every such
loop is one :class:`BusyRetry` object with a deadline and a number of tries, and nobody blocks while waiting: ``next``
says how long to wait, and whoever owns the call may simply drop the object to cancel.

Doubts decided.  H_BUSY waits 1 ms, doubled up to 64 ms, because on a message transport "at once" only fills the queue.
A hint that reaches beyond the deadline is shortened to it, since it is advisory (LoPAR) and one more try is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.papr.hcall import HcallRc, is_busy, is_long_busy, long_busy_ms

BUSY_WAIT_S: Final = 0.001
BUSY_WAIT_MAX_S: Final = 0.064
IN_PROGRESS_WAIT_S: Final = 0.1
"""The pause ibmvscsi makes between two H_ENABLE_CRQ."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long to go on: at most ``max_tries`` calls in ``seconds``; ``None`` means no such limit."""

    max_tries: int | None = 1000
    seconds: float | None = 30.0


def wants_retry(rc: int) -> bool:
    """Whether ``rc`` is one of the codes :class:`BusyRetry` knows: busy, long busy, in progress."""
    return is_busy(rc) or rc == HcallRc.H_IN_PROGRESS


class BusyRetry:
    """Counts the tries of one hcall; made right before the first one.

    :param now: time of the first call, in seconds.
    :param deadline: no call is made after this time; ``None`` for no limit.
    :param max_tries: calls in total, at least 1; ``None`` for no limit.
    """

    def __init__(self, now: float, deadline: float | None = None, max_tries: int | None = None) -> None:
        if max_tries is not None and max_tries < 1:
            raise LocalError(f"max_tries {max_tries}: expected at least 1")
        self.started = now
        self.tries = 1
        self._deadline = deadline
        self._max_tries = max_tries
        self._busy_wait_s = BUSY_WAIT_S

    @classmethod
    def within(cls, limits: RetryLimits, now: float) -> BusyRetry:
        """Make one from :class:`RetryLimits` that start now."""
        return cls(now, None if limits.seconds is None else now + limits.seconds, limits.max_tries)

    def next(self, rc: int, now: float) -> float | None:
        """Seconds to wait before the same call is made again, or ``None``: give up.

        Raises :class:`LocalError` for an ``rc`` that does not ask for a retry.
        """
        if not wants_retry(rc):
            raise LocalError(f"rc {rc} does not ask for a retry")
        if self._max_tries is not None and self.tries >= self._max_tries:
            return None
        wait_s = self._wait_s(rc)
        if self._deadline is not None:
            if now >= self._deadline:
                return None
            wait_s = min(wait_s, self._deadline - now)
        self.tries += 1
        return wait_s

    def _wait_s(self, rc: int) -> float:
        if is_long_busy(rc):
            return long_busy_ms(rc) / 1000
        if rc == HcallRc.H_IN_PROGRESS:
            return IN_PROGRESS_WAIT_S
        wait_s = self._busy_wait_s
        self._busy_wait_s = min(wait_s * 2, BUSY_WAIT_MAX_S)
        return wait_s
