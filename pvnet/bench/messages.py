"""The messages of the ring scenario: 64 bytes, each with its number, and how a receiver checks them.

A message begins with its number; the rest is made of it, so that a torn or mixed-up one is seen.  The messages repeat
after 61 batches: they are made before the clock runs, for every contender alike, and comparing them is one comparison
in C for a batch.  61 is a prime, so that an old message that is still in a ring whose size is a power of two is never
the one that is expected there.  A number of messages is known before; one that never comes is missed by the count.
"""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES: Final = 64
BATCH: Final = 64
"""Messages of one batch, as the contract of the report says it."""
_BATCHES: Final = 61
PERIOD: Final = _BATCHES * BATCH


def message(number: int) -> bytes:
    """Return message ``number``: the number within the period in 8 bytes, then its low byte mixed with the place."""
    number %= PERIOD
    return number.to_bytes(8, "little") + bytes((number * 7 + place) & 0xFF for place in range(8, MESSAGE_BYTES))


MESSAGES: Final = [message(number) for number in range(2 * PERIOD)]
"""Two periods, so that a slice of up to one period never has to wrap."""
BATCHES: Final = [MESSAGES[first : first + BATCH] for first in range(0, PERIOD, BATCH)]
"""One period in batches."""

_FLAT: Final = b"".join(MESSAGES)
_FLAT_BATCHES: Final = {first: b"".join(MESSAGES[first : first + BATCH]) for first in range(0, PERIOD, BATCH)}


def wrong_rows(received: bytes, first: int) -> int:
    """Return how many of the messages in ``received``, back to back, are wrong, as :func:`wrong_ones` does."""
    start = first % PERIOD
    if received == _FLAT_BATCHES.get(start):
        return 0
    if received == _FLAT[start * MESSAGE_BYTES : start * MESSAGE_BYTES + len(received)]:
        return 0
    return wrong_ones([received[at : at + MESSAGE_BYTES] for at in range(0, len(received), MESSAGE_BYTES)], first)


def wrong_ones(received: list[bytes], first: int) -> int:
    """Return how many of ``received`` are not the messages from number ``first`` on; at most a period at once."""
    start = first % PERIOD
    expected = MESSAGES[start : start + len(received)]
    if received == expected:
        return 0
    return sum(got != due for got, due in zip(received, expected, strict=True))
