"""Who owns which data buffer: one owner per (index, id) at a time, written down as a table.

The hypervisor lends numbered buffers to a management-application connection; each is a pair, local storage at the
partition and an I/O address in the hypervisor's pane, tied by its id.  Whoever owns the pair may fill it, and every
SIGNAL hands it over; there is no explicit return.  Three parties think that they own a buffer (application,
hypervisor, a copy in flight), so each side keeps one :class:`BufferPool` per HMC index, and every hand-over is a row of
its table.  A move that is not in the table is our own bug and raises.

The Linux driver keeps three flags (valid, free, owner); the names here are its combinations (Spec: vmc 4.3)::

    ABSENT 0,0,0   ALPHA_FREE 1,1,0   ALPHA_BUSY 1,0,0 (picked)   ALPHA_INBOUND 1,0,0 (waits for read)
    HYPERVISOR_IDLE 1,1,1   HYPERVISOR_HELD 1,0,1   LOST 1,0,0 (outside every list: the driver's leak)

The hypervisor's own view (:data:`HYPERVISOR_TABLE`) needs OFFERED (ADD BUF sent, answer awaited) and knows of the
partition's buffers only that they are not its own (ALPHA_FREE).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.vmc.messages import BufferOwner


class BufferState(IntEnum):
    """Where one buffer is; see the module's text."""

    ABSENT = 0
    OFFERED = 1
    ALPHA_FREE = 2
    ALPHA_BUSY = 3
    ALPHA_INBOUND = 4
    HYPERVISOR_IDLE = 5
    HYPERVISOR_HELD = 6
    LOST = 7

    @property
    def owner(self) -> BufferOwner | None:
        """The one owner; ``None`` while there is no buffer or only an offer."""
        return _OWNER[self]


class BufferTrigger(IntEnum):
    """What moves a buffer."""

    ADD_ALPHA = 0
    ADD_HYPERVISOR = 1
    OFFER = 2
    PICK = 3
    RELEASE = 4
    HAND_OVER = 5
    TAKE = 6
    READ = 7
    LOSE = 8
    FORGET = 9


_S, _T = BufferState, BufferTrigger
_OWNER: Final = {
    _S.ABSENT: None,
    _S.OFFERED: None,
    _S.ALPHA_FREE: BufferOwner.ALPHA,
    _S.ALPHA_BUSY: BufferOwner.ALPHA,
    _S.ALPHA_INBOUND: BufferOwner.ALPHA,
    _S.HYPERVISOR_IDLE: BufferOwner.HYPERVISOR,
    _S.HYPERVISOR_HELD: BufferOwner.HYPERVISOR,
    _S.LOST: BufferOwner.ALPHA,
}

BufferTable = Mapping[tuple[BufferState, BufferTrigger], BufferState]

PARTITION_TABLE: Final[BufferTable] = MappingProxyType(
    {
        (_S.ABSENT, _T.ADD_ALPHA): _S.ALPHA_FREE,
        (_S.ABSENT, _T.ADD_HYPERVISOR): _S.HYPERVISOR_IDLE,
        (_S.ALPHA_FREE, _T.PICK): _S.ALPHA_BUSY,
        (_S.ALPHA_BUSY, _T.RELEASE): _S.ALPHA_FREE,
        (_S.ALPHA_BUSY, _T.HAND_OVER): _S.HYPERVISOR_HELD,
        (_S.ALPHA_BUSY, _T.LOSE): _S.LOST,
        (_S.HYPERVISOR_IDLE, _T.TAKE): _S.ALPHA_INBOUND,
        (_S.HYPERVISOR_HELD, _T.TAKE): _S.ALPHA_INBOUND,
        (_S.ALPHA_INBOUND, _T.READ): _S.ALPHA_FREE,
        (_S.ALPHA_INBOUND, _T.LOSE): _S.LOST,
        (_S.ALPHA_FREE, _T.FORGET): _S.ABSENT,
    }
)
"""The partition's side.  FORGET is REM BUF; a reset of the slot forgets all at once (:meth:`BufferPool.clear`)."""

HYPERVISOR_TABLE: Final[BufferTable] = MappingProxyType(
    {
        (_S.ABSENT, _T.OFFER): _S.OFFERED,
        (_S.OFFERED, _T.ADD_ALPHA): _S.ALPHA_FREE,
        (_S.OFFERED, _T.ADD_HYPERVISOR): _S.HYPERVISOR_IDLE,
        (_S.OFFERED, _T.FORGET): _S.ABSENT,
        (_S.HYPERVISOR_IDLE, _T.HAND_OVER): _S.ALPHA_FREE,
        (_S.ALPHA_FREE, _T.TAKE): _S.HYPERVISOR_IDLE,
        (_S.ALPHA_FREE, _T.FORGET): _S.ABSENT,
    }
)
"""The hypervisor's side: it may fill HYPERVISOR_IDLE buffers; FORGET is a refused offer or a REM BUF RESP."""


@dataclass(slots=True)
class Buffer:
    """One existing buffer: its state and its I/O address in the hypervisor's pane."""

    state: BufferState
    lioba: int


class BufferPool:
    """The buffers of one HMC index; ids are 0 to ``size`` - 1."""

    __slots__ = ("_buffers", "_table", "size")

    def __init__(self, size: int, table: BufferTable) -> None:
        self.size = size
        self._table = table
        self._buffers: dict[int, Buffer] = {}

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        return iter(sorted(self._buffers.items()))

    def state(self, buffer_id: int) -> BufferState:
        """State of an id; ids never added are ABSENT."""
        buffer = self._buffers.get(buffer_id)
        return BufferState.ABSENT if buffer is None else buffer.state

    def owner(self, buffer_id: int) -> BufferOwner | None:
        """Owner of an id, ``None`` if it has none."""
        return self.state(buffer_id).owner

    def lioba(self, buffer_id: int) -> int:
        """I/O address of an existing buffer in the hypervisor's pane."""
        return self._buffers[buffer_id].lioba

    def add(self, buffer_id: int, trigger: BufferTrigger, lioba: int) -> None:
        """Bring a buffer into being.  Raises LocalError for an id out of range or in use."""
        if not 0 <= buffer_id < self.size or buffer_id in self._buffers:
            raise LocalError(f"buffer id {buffer_id} of {self.size}: out of range or in use")
        self._buffers[buffer_id] = Buffer(self._next(BufferState.ABSENT, trigger), lioba)

    def move(self, buffer_id: int, trigger: BufferTrigger) -> None:
        """Apply one row of the table; raises LocalError when there is none."""
        state = self._next(self.state(buffer_id), trigger)
        if state is BufferState.ABSENT:
            del self._buffers[buffer_id]
        else:
            self._buffers[buffer_id].state = state

    def can(self, buffer_id: int, trigger: BufferTrigger) -> bool:
        """Whether :meth:`move` would succeed."""
        return (self.state(buffer_id), trigger) in self._table

    def lowest(self, state: BufferState) -> int | None:
        """Lowest id in ``state``, or ``None``."""
        return min((buffer_id for buffer_id, buffer in self._buffers.items() if buffer.state is state), default=None)

    def lowest_absent(self, above: int = -1) -> int | None:
        """Lowest id beyond ``above`` that is not in use, or ``None``."""
        return next((buffer_id for buffer_id in range(above + 1, self.size) if buffer_id not in self._buffers), None)

    def count(self, *states: BufferState) -> int:
        """How many buffers are in any of ``states``."""
        return sum(buffer.state in states for buffer in self._buffers.values())

    def counts(self) -> dict[str, int]:
        """How many buffers are in each state, by the state's name; states without a buffer are left out."""
        return dict(Counter(buffer.state.name.lower() for buffer in self._buffers.values()))

    def clear(self) -> None:
        """Forget all buffers: the slot was reset."""
        self._buffers.clear()

    def _next(self, state: BufferState, trigger: BufferTrigger) -> BufferState:
        row = self._table.get((state, trigger))
        if row is None:
            raise LocalError(f"buffer in {state.name}: no {trigger.name}")
        return row
