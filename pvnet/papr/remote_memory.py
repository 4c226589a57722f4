"""Reaching the memory of a partition that lives in another process: chunks out, answers in.

A transfer is a list of runs, cut into chunks of at most 64 KiB, a few of them under way at a time.  It ends exactly
once: with the bytes (reading) or nothing (writing), or with a :class:`TransferFailure`.  It is dropped silently when
the partition that asked for it dies, because nobody waits for the answer any more.

The other side is a peer: an answer of the wrong length is an error, an answer to no question is counted and ignored.
Whoever carries the chunks must answer each one (an error when its own deadline has passed).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, TypeAlias

from pvnet.core.machine import Counters
from pvnet.memory.window import Run
from pvnet.papr.platform_io import CHUNK_BYTES, MemoryDone, PlatformOutput, ReadMemory, WriteMemory

IN_FLIGHT: Final = 4
"""Chunks of one transfer that are under way at a time."""


class TransferFailure(Enum):
    """Why a transfer did not complete."""

    DIED = "died"
    """The partition whose memory it is has died."""
    ERROR = "error"
    """It answered with an error or with the wrong number of bytes."""


Then: TypeAlias = Callable[[bytes | TransferFailure], None]


class _Transfer:
    __slots__ = ("caller", "data", "partition", "pending", "then", "todo", "writing")

    def __init__(self, caller: str, partition: str, runs: Sequence[Run], then: Then, data: bytes | None) -> None:
        self.caller = caller
        self.partition = partition
        self.then = then
        self.writing = data is not None
        self.data = bytearray(sum(run.length for run in runs)) if data is None else bytearray(data)
        self.pending: dict[int, tuple[int, int]] = {}
        self.todo: deque[tuple[int, int, int]] = deque()
        offset = 0
        for address, length in runs:
            for at in range(0, length, CHUNK_BYTES):
                n = min(CHUNK_BYTES, length - at)
                self.todo.append((offset, address + at, n))
                offset += n


class RemoteMemory:
    """All transfers of one platform.  ``emit`` takes the outputs; ``counters`` get what peers did wrong."""

    def __init__(self, emit: Callable[[PlatformOutput], None], counters: Counters) -> None:
        self._emit = emit
        self._counters = counters
        self._next_tag = 1
        self._by_tag: dict[int, _Transfer] = {}

    @property
    def chunks_under_way(self) -> int:
        """Chunks sent and not answered."""
        return len(self._by_tag)

    def read(self, caller: str, partition: str, runs: Sequence[Run], then: Then) -> None:
        """Fetch the bytes of ``runs`` of ``partition`` for ``caller``; ``then`` gets them, or the failure."""
        self._go_on(_Transfer(caller, partition, runs, then, None))

    def write(self, caller: str, partition: str, runs: Sequence[Run], data: bytes, then: Then) -> None:
        """Store ``data`` (as long as the runs together) into ``runs``; ``then`` gets it back, or the failure."""
        self._go_on(_Transfer(caller, partition, runs, then, data))

    def done(self, answer: MemoryDone) -> None:
        """Take the answer to one chunk."""
        transfer = self._by_tag.pop(answer.tag, None)
        if transfer is None:
            self._counters["memory_answer_unknown"] += 1
            return
        offset, length = transfer.pending.pop(answer.tag)
        if answer.error or (not transfer.writing and len(answer.data) != length):
            self._counters["memory_answer_bad"] += 1
            self._end(transfer, TransferFailure.ERROR)
            return
        if not transfer.writing:
            transfer.data[offset : offset + length] = answer.data
        self._go_on(transfer)

    def died(self, partition: str) -> None:
        """Drop what a dead partition asked for; fail what others asked of it."""
        for transfer in dict.fromkeys(self._by_tag.values()):
            if transfer.caller == partition:
                self._forget(transfer)
            elif transfer.partition == partition:
                self._end(transfer, TransferFailure.DIED)

    def _go_on(self, transfer: _Transfer) -> None:
        while transfer.todo and len(transfer.pending) < IN_FLIGHT:
            offset, address, length = transfer.todo.popleft()
            tag, self._next_tag = self._next_tag, self._next_tag + 1
            transfer.pending[tag] = (offset, length)
            self._by_tag[tag] = transfer
            if transfer.writing:
                data = bytes(memoryview(transfer.data)[offset : offset + length])
                self._emit(WriteMemory(tag, transfer.partition, address, data))
            else:
                self._emit(ReadMemory(tag, transfer.partition, address, length))
        if not transfer.pending:
            transfer.then(bytes(transfer.data))

    def _forget(self, transfer: _Transfer) -> None:
        for tag in transfer.pending:
            self._by_tag.pop(tag, None)

    def _end(self, transfer: _Transfer, failure: TransferFailure) -> None:
        self._forget(transfer)
        transfer.then(failure)
