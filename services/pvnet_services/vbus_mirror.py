"""The arena's two copies on the road: what a :class:`~pvnet.vbus.mirror.Mirror` has to say goes into messages.

Every vbus message has a field ``writes``.  :meth:`MirrorLink.fill` puts the latest changes there just before the
message leaves; what one message cannot hold goes ahead in ``VbusUpdate`` messages marked ``more``, which the receiver
stores only together with the rest: so a copy is never seen half changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import numpy as np

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.vbus_pb2 import VbusWrite
from pvnet.vbus.mirror import Mirror, Run

MESSAGE_BYTES: Final = 64 * 1024
"""Most changed bytes in one message; with their addresses they fit into a frame of the transport."""
_RUN_BYTES: Final = 16
"""What a run costs beside its data."""


class Writes(Protocol):
    """The field ``writes`` of a message."""

    def add(self, *, address: int = ..., data: bytes = ...) -> VbusWrite:
        """Append one."""
        ...


class MirrorLink:
    """One side of a mirrored arena whose first byte has the address ``base``; ``post`` sends a message in order."""

    def __init__(self, mirror: Mirror, base: int, post: Callable[[Envelope], None]) -> None:
        self._mirror = mirror
        self._base = base
        self._post = post
        self._early: _Early | None = None

    def fill(self, writes: Writes) -> None:
        """Put everything changed here since the last time into a message that is sent next."""
        parts = list(_parts(self._mirror.changes()))
        for part in parts[:-1]:
            self._update(part, more=True)
        if parts:
            self._add(writes, parts[-1])

    def flush(self) -> None:
        """Send changes that no message has taken along."""
        parts = list(_parts(self._mirror.changes()))
        for number, part in enumerate(parts, 1):
            self._update(part, more=number < len(parts))

    def _update(self, runs: list[Run], *, more: bool) -> None:
        envelope = Envelope()
        envelope.vbus_update.more = more
        self._add(envelope.vbus_update.writes, runs)
        self._post(envelope)

    def _add(self, writes: Writes, runs: list[Run]) -> None:
        for offset, data in runs:
            writes.add(address=self._base + offset, data=data)

    def take(self, writes: Iterable[VbusWrite], *, more: bool = False) -> bool:
        """Store what the other side has changed, unless ``more`` of it comes; whether anything was stored.

        Raises:
            VbusError: EFAULT, something does not lie in the arena; nothing of this message is stored.
        """
        runs = [Run(write.address - self._base, write.data) for write in writes]
        for run in runs:
            self._mirror.check(run.offset, len(run.data))
        if more or self._early is not None:
            if runs and self._early is None:
                self._early = _Early(self._mirror.size)
            if self._early is None:
                return False
            self._early.add(runs)
            if more:
                return False
            early, self._early = self._early, None
            self._mirror.store_where(early.mask, early.data)
            return True
        self._mirror.store(runs)
        return bool(runs)


class _Early:
    """What came early, until the rest has come: twice the size of the arena, however long a peer goes on with it."""

    def __init__(self, size: int) -> None:
        self.data = np.zeros(size, dtype=np.uint8)
        self.mask = np.zeros(size, dtype=np.uint8)

    def add(self, runs: list[Run]) -> None:
        """Take checked runs; later ones win."""
        for offset, data in runs:
            end = offset + len(data)
            self.data[offset:end] = np.frombuffer(data, dtype=np.uint8)
            self.mask[offset:end] = 1


def _parts(runs: list[Run]) -> Iterable[list[Run]]:
    """Cut runs into lists of at most :data:`MESSAGE_BYTES`."""
    part: list[Run] = []
    room = MESSAGE_BYTES
    for offset, data in runs:
        at = 0
        while at < len(data):
            n = min(len(data) - at, room - _RUN_BYTES)
            if n <= 0:
                yield part
                part, room = [], MESSAGE_BYTES
                continue
            part.append(Run(offset + at, data[at : at + n]))
            room -= n + _RUN_BYTES
            at += n
    if part:
        yield part
