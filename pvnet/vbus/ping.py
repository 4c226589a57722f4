"""``ping`` without a clock and without a socket: which echo requests to send when, and what came of them.

Messages are ICMP from type to payload; whoever runs it puts them into packets
(:class:`pvnet.vbus.responder.Responder`).  The payload is a pattern that depends on the sequence number, so that an
answer with other bytes is noticed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.vbus.responder import ICMP_ECHO, ICMP_ECHO_REPLY, icmp_echo

_PATTERN: Final = bytes(range(256))


@dataclass(frozen=True, slots=True)
class PingResult:
    """What came of it.  Times are seconds from a request to its first answer; 0 if nothing came."""

    sent: int
    received: int
    duplicates: int
    corrupt: int
    min_s: float
    avg_s: float
    max_s: float

    @property
    def lost(self) -> int:
        """Requests without a good answer."""
        return self.sent - self.received


class Ping:
    """``count`` requests of ``size`` payload bytes, one every ``interval_s``; 0 sends the next when one is answered.

    It ends when all are answered, or ``timeout_s`` after the last request was sent; with an interval of 0 a request
    that is not answered holds the next one up for ``timeout_s``.  ``identifier`` tells our answers from others'.
    """

    def __init__(
        self, *, identifier: int, count: int = 4, interval_s: float = 1.0, timeout_s: float = 1.0, size: int = 56
    ) -> None:
        if not 1 <= count <= 0xFFFF or not 0 <= size <= 65507 or not 0 <= identifier <= 0xFFFF:
            raise LocalError(f"cannot ping {count} times with {size} bytes as {identifier}")
        self.count = count
        self.size = size
        self._identifier = identifier
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._sent_at: list[float] = []
        self._answered: set[int] = set()
        self._next_at: float | None = None
        self._total_s = 0.0
        self._min_s = 0.0
        self._max_s = 0.0
        self._duplicates = 0
        self._corrupt = 0
        self.done = False

    def poll(self, now: float) -> list[bytes]:
        """Return the ICMP messages to send now (the first call starts), and notice the end."""
        if self.done:
            return []
        messages = []
        if len(self._sent_at) < self.count and (self._next_at is None or now >= self._next_at):
            messages.append(self._request(len(self._sent_at)))
            self._sent_at.append(now)
            self._next_at = now + (self._interval_s or self._timeout_s)
        self._check_end(now)
        return messages

    def deadline(self) -> float | None:
        """Return when :meth:`poll` is due, ``None`` when it is over."""
        if self.done:
            return None
        if self._next_at is None:
            return 0.0
        return self._next_at if len(self._sent_at) < self.count else self._sent_at[-1] + self._timeout_s

    def reply(self, message: bytes, now: float) -> bool:
        """Take an ICMP message with a right checksum; whether it is one of our answers."""
        if self.done or len(message) < 8 or message[0] != ICMP_ECHO_REPLY:
            return False
        identifier, sequence = struct.unpack_from(">HH", message, 4)
        if identifier != self._identifier or sequence >= len(self._sent_at):
            return False
        if message[1] or message[8:] != self._payload(sequence):
            self._corrupt += 1
            return True
        if sequence in self._answered:
            self._duplicates += 1
            return True
        self._answered.add(sequence)
        took = now - self._sent_at[sequence]
        self._total_s += took
        self._min_s = took if len(self._answered) == 1 else min(self._min_s, took)
        self._max_s = max(self._max_s, took)
        if not self._interval_s and sequence == len(self._sent_at) - 1:
            self._next_at = now
        self._check_end(now)
        return True

    def result(self) -> PingResult:
        """Return the numbers so far."""
        received = len(self._answered)
        average = self._total_s / received if received else 0.0
        return PingResult(
            len(self._sent_at), received, self._duplicates, self._corrupt, self._min_s, average, self._max_s
        )

    def _check_end(self, now: float) -> None:
        all_sent = len(self._sent_at) == self.count
        self.done = all_sent and (len(self._answered) == self.count or now >= self._sent_at[-1] + self._timeout_s)

    def _payload(self, sequence: int) -> bytes:
        start = sequence & 0xFF
        return (_PATTERN * (self.size // 256 + 2))[start : start + self.size]

    def _request(self, sequence: int) -> bytes:
        return icmp_echo(ICMP_ECHO, struct.pack(">HH", self._identifier, sequence) + self._payload(sequence))
