"""A command that waits until a device has come to rest, and what comes behind it.

A device can stop only while no program of it is under way, and one that reaches the client's memory by messages takes
its time.  A client that changes the state of migration then need not try again and again: its command waits, and all
that it sends meanwhile waits behind it, in order.  Only replies pass, since it is them that the programs wait for.

Spec: mdev 4.8, 6.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import Data, Descriptor


class Pause:
    """One such command; ``go_on`` performs it (None) or refuses it."""

    def __init__(self, go_on: Callable[[MdevError | None], None], most: int, most_bytes: int) -> None:
        self.go_on = go_on
        self._most = most
        self._room = most_bytes
        self._held: deque[tuple[bytes, list[Descriptor]]] = deque()
        self._since: float | None = None

    def hold(self, data: Data, descriptors: list[Descriptor]) -> bool:
        """Keep a message and take its descriptors over; returns whether there is room for it."""
        if len(self._held) >= self._most or len(data) > self._room:
            return False
        self._room -= len(data)
        self._held.append((bytes(data), [*descriptors]))
        descriptors.clear()
        return True

    def held(self) -> Iterator[tuple[bytes, list[Descriptor]]]:
        """Return what has come, in order; each once."""
        while self._held:
            yield self._held.popleft()

    def too_long(self, now: float, most_s: float) -> bool:
        """Whether it has lasted so long, counted from the first time that this is asked."""
        if self._since is None:
            self._since = now
        return now - self._since >= most_s
