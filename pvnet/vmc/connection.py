"""Connections of management applications at the partition: slots, their state table, and the copies under way.

Each HMC index is a *slot*.  A slot's life is a flat table (state, trigger) -> (action, next), one per dialect::

    free -> initial (reserved by SETHMCID) -> opening (OPEN sent) -> ready -> closing (CLOSE sent) -> free
                                                     \\-> failed (OPEN RESP names an impossible buffer; Linux)

``closing`` does not exist in the Linux driver, where the slot keeps its state until CLOSE RESP; the ``linux`` table has
the same state with rows that behave as the driver does there (SIGNALs are still taken).

Generations.  A slot counts its resets.  An open file and a copy under way name (index, generation); after a reset they
are stale: the file gets EIO or EBADFD instead of reaching the next session, and the answer of the copy is ignored.
H_COPY_RDMA is answered later here, so a local buffer stays *in use* until its answer came, also when the slot was
reset meanwhile: :meth:`Connections.is_in_use` says so and ADD BUF for that storage waits for it.

Order.  Messages of one slot leave (SIGNAL) in the order of write() and arrive at read() in the order of the ring,
whatever the order of the copies' answers.

Spec: vmc 3.4 to 3.8, 4.2, 4.3; Linux driver ``ibmvmc.c``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import product
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from pvnet.vmc.buffer_pool import PARTITION_TABLE, BufferPool
from pvnet.vmc.dialect import Dialect

MAX_SESSION: Final = 254
"""Sessions are 1 to 254, then 1 again (the Linux driver never uses 255)."""


TransferKind: TypeAlias = Literal["open", "write", "receive"]


class HmcState(IntEnum):
    """State of a slot; the numbers below ``CLOSING`` are the Linux driver's."""

    FREE = 0
    INITIAL = 1
    OPENING = 2
    READY = 3
    FAILED = 4
    CLOSING = 5


class HmcTrigger(IntEnum):
    """What moves a slot."""

    RESERVE = 0
    ID_COPIED = 1
    OPEN_ACCEPTED = 2
    OPEN_IMPOSSIBLE = 3
    OPEN_REFUSED = 4
    APP_CLOSE = 5
    CLOSE_DONE = 6
    CLOSE_REFUSED = 7
    SIGNAL = 8
    PARTNER_LOST = 9
    OWN_RESET = 10
    TIMEOUT = 11


class HmcAction(StrEnum):
    """What a row does besides moving the state."""

    NOTHING = "nothing"
    DROP = "drop, count"
    RESERVE = "next session"
    UNRESERVE = "slot back, buffers stay"
    SEND_OPEN = "send OPEN"
    OPENED = "buffer free"
    MARK_FAILED = "keep slot, failed"
    BREAK_OFF = "send CLOSE, wake readers"
    SEND_CLOSE = "send CLOSE"
    FREE = "forget buffers"
    FREE_WAKE = "forget buffers, EBADFD to readers"
    RECEIVE = "H_COPY_RDMA, queue"
    RESET_LINK = "reset the CRQ"


HmcTable = Mapping[tuple[HmcState, HmcTrigger], tuple[HmcAction, HmcState]]
_S, _T, _A = HmcState, HmcTrigger, HmcAction


def hmc_table(dialect: Dialect) -> HmcTable:
    """Every (state, trigger) of a slot with its action and next state, as the dialect has it."""
    table: dict[tuple[HmcState, HmcTrigger], tuple[HmcAction, HmcState]] = {
        (state, trigger): (_A.DROP, state) for state, trigger in product(_S, _T)
    }
    own_reset = _A.FREE if dialect.reset_leaves_readers else _A.FREE_WAKE
    table |= {
        (_S.FREE, _T.RESERVE): (_A.RESERVE, _S.INITIAL),
        (_S.INITIAL, _T.ID_COPIED): (_A.SEND_OPEN, _S.OPENING),
        (_S.INITIAL, _T.APP_CLOSE): (
            (_A.NOTHING, _S.INITIAL) if dialect.close_keeps_initial else (_A.UNRESERVE, _S.FREE)
        ),
        (_S.OPENING, _T.OPEN_ACCEPTED): (_A.OPENED, _S.READY),
        (_S.OPENING, _T.OPEN_IMPOSSIBLE): (
            (_A.BREAK_OFF, _S.CLOSING) if dialect.checks_open_buffer else (_A.MARK_FAILED, _S.FAILED)
        ),
        (_S.OPENING, _T.OPEN_REFUSED): (own_reset, _S.FREE),
        (_S.OPENING, _T.TIMEOUT): (_A.RESET_LINK, _S.OPENING),
        (_S.CLOSING, _T.CLOSE_DONE): (_A.FREE, _S.FREE),
        (_S.CLOSING, _T.CLOSE_REFUSED): (_A.RESET_LINK, _S.CLOSING),
        (_S.CLOSING, _T.TIMEOUT): (_A.RESET_LINK, _S.CLOSING),
        (_S.READY, _T.SIGNAL): (_A.RECEIVE, _S.READY),
        (_S.OPENING, _T.SIGNAL): (_A.RECEIVE, _S.OPENING),
    }
    for state in (_S.OPENING, _S.READY, _S.FAILED):
        table[state, _T.APP_CLOSE] = (_A.SEND_CLOSE, _S.CLOSING)
    for state in _S:
        table[state, _T.PARTNER_LOST] = (_A.FREE_WAKE, _S.FREE)
        table[state, _T.OWN_RESET] = (own_reset, _S.FREE)
    if dialect.open_error_always_frees:
        table |= {(state, _T.OPEN_REFUSED): (own_reset, _S.FREE) for state in _S}
    if dialect.close_always_frees:
        table |= {(state, _T.CLOSE_DONE): (own_reset, _S.FREE) for state in _S}
        table |= {(state, _T.CLOSE_REFUSED): (_A.RESET_LINK, state) for state in _S}
    if dialect.signals_while_closing:
        table |= {(state, _T.SIGNAL): (_A.RECEIVE, state) for state in _S if state is not _S.FREE}
    return MappingProxyType(table)


@dataclass(slots=True)
class Waiter:
    """A read or poll that waits for a message."""

    request: int
    kind: Literal["read", "poll"]
    handle: int
    count: int = 0


@dataclass(slots=True)
class OpenFile:
    """One open of the character device; bound to (index, generation) of the slot that SETHMCID gave it.

    ``in_flight`` calls of it wait for a copy, and ``close_request`` waits for them; ``parked`` holds readers that a
    reset left asleep (dialect ``linux``).
    """

    handle: int
    index: int | None = None
    generation: int = 0
    is_valid: bool = False
    in_flight: int = 0
    close_request: int | None = None
    parked: list[Waiter] = field(default_factory=list)


@dataclass(slots=True)
class Inbound:
    """A message on its way to read(): ``is_here`` once its copy succeeded."""

    buffer_id: int
    length: int
    is_here: bool = False


@dataclass(slots=True)
class Transfer:
    """An H_COPY_RDMA whose answer is awaited.

    ``kind`` says what it is for; (``index``, ``generation``) whose; ``address`` and ``size_bytes`` which local storage
    it occupies.  ``rc`` is kept when the answer came before those of earlier writes.
    """

    kind: TransferKind
    index: int
    generation: int
    buffer_id: int
    length: int
    address: int
    size_bytes: int
    request: int = 0
    handle: int = 0
    inbound: Inbound | None = None
    rc: int | None = None


@dataclass(slots=True)
class HmcSlot:
    """One HMC index of the partition."""

    index: int
    pool: BufferPool
    state: HmcState = HmcState.FREE
    session: int = 0
    """Incarnation counter: 0 before the first open, kept over closes and resets."""
    generation: int = 0
    open_buffer: int | None = None
    """Buffer that carries the HMC id while the OPEN is under way."""
    due: float | None = None
    """When the partner's answer to OPEN or CLOSE is overdue."""
    inbound: deque[Inbound] = field(default_factory=deque)
    outbound: deque[Transfer] = field(default_factory=deque)
    waiters: deque[Waiter] = field(default_factory=deque)

    @property
    def has_message(self) -> bool:
        """Whether read() would return a message now."""
        return bool(self.inbound) and self.inbound[0].is_here


class Connections:
    """The slots, open files and copies of one adapter: the state that the link side and the device side share."""

    def __init__(self, dialect: Dialect, pool_size: int) -> None:
        self.dialect = dialect
        self.table = hmc_table(dialect)
        self.slots: list[HmcSlot] = []
        self.files: dict[int, OpenFile] = {}
        self.transfers: dict[int, Transfer] = {}
        self.pool_size = pool_size

    def negotiate(self, count: int, pool_size: int) -> None:
        """Have ``count`` slots with pools of ``pool_size``; slots that exist keep their session counters."""
        self.pool_size = pool_size
        for index in range(len(self.slots), count):
            self.slots.append(HmcSlot(index, BufferPool(pool_size, PARTITION_TABLE)))
        for slot in self.slots:
            slot.pool.size = pool_size

    def slot(self, index: int) -> HmcSlot:
        """The slot of an index; created when a message speaks of it before the capabilities are known."""
        while len(self.slots) <= index:
            self.slots.append(HmcSlot(len(self.slots), BufferPool(self.pool_size, PARTITION_TABLE)))
        return self.slots[index]

    def slot_of(self, file: OpenFile) -> HmcSlot | None:
        """The slot a file is bound to, ``None`` when it has none or that one was reset since."""
        if file.index is None:
            return None
        slot = self.slots[file.index]
        return slot if slot.generation == file.generation else None

    def files_of(self, slot: HmcSlot) -> Iterator[OpenFile]:
        """Open files bound to the slot's present generation (one, or none once it was closed)."""
        return (f for f in self.files.values() if f.index == slot.index and f.generation == slot.generation)

    def reset(self, slot: HmcSlot) -> list[Waiter]:
        """Forget a slot's buffers, messages and session; returns who waited on it.

        Copies under way keep their local storage occupied until they are answered.
        """
        waiters = list(slot.waiters)
        if slot.session or not self.dialect.reset_spares_unopened:
            slot.pool.clear()
        slot.state = HmcState.FREE
        slot.generation += 1
        slot.open_buffer = None
        slot.due = None
        slot.inbound.clear()
        slot.outbound.clear()
        slot.waiters.clear()
        return waiters

    def forget_buffers(self) -> None:
        """The adapter is gone, and with it also the buffers that a reset would have spared."""
        for slot in self.slots:
            slot.pool.clear()

    def next_session(self, slot: HmcSlot) -> int:
        """Advance the slot's session counter: 1 to 254, then 1 again."""
        slot.session = slot.session + 1 if slot.session < MAX_SESSION else 1
        return slot.session

    def is_in_use(self, address: int, size_bytes: int) -> bool:
        """Whether a copy that was not answered yet occupies part of this local storage."""
        return any(
            transfer.address < address + size_bytes and address < transfer.address + transfer.size_bytes
            for transfer in self.transfers.values()
        )

    def deadline(self) -> float | None:
        """Earliest time at which an answer to OPEN or CLOSE is overdue."""
        return min((slot.due for slot in self.slots if slot.due is not None), default=None)
