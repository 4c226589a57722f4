"""What the driver does with its hypervisor, step by step: bind, query, unbind, metadata, health, statistics, flush.

Each operation is a *script*: a generator that yields hcalls to make and pauses to keep, and returns its result.  It has
no other way to act, so that whoever runs it (:mod:`pvnet.scm.guest`) may interleave, bound and drop scripts as it
likes.  What state the device is in is not decided here.

Decided: a hypervisor's answer is believed only as far as the policy says; every loop ends by the policy's limits; an
answer that never comes is H_HARDWARE, which any hcall may answer.

Spec: hcall_scm 1.7, 1.8, 3, 4.1 to 4.4, 6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, TypeVar

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters, Note
from pvnet.papr.errno import EINVAL, EIO, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, ETIMEDOUT
from pvnet.papr.hcall import HcallRc, is_busy, rc_name
from pvnet.papr.retry import BusyRetry, RetryLimits
from pvnet.scm import stats
from pvnet.scm.calls import (
    METADATA_LENGTHS,
    BindMem,
    Flush,
    PerformanceStats,
    QueryBlock,
    QueryHealth,
    ReadMetadata,
    ScmCall,
    UnbindAll,
    UnbindScope,
    WriteMetadata,
    opcode_of,
)
from pvnet.scm.guest_interface import (
    MAX_TRANSFER,
    U64_LIMIT,
    GuestMemory,
    ScmGuestConfig,
    ScmGuestPolicy,
)
from pvnet.scm.labels import LabelScan

STATS_LIMIT: Final = 1 << 20
"""A statistics buffer beyond this is not believed."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Go on after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An hcall's answer; outputs that are not there read as 0."""

    rc: int
    outs: tuple[int, ...] = ()

    def out(self, number: int) -> int:
        """Output ``number``, 0 is r4."""
        return self.outs[number] if number < len(self.outs) else 0


ResultT = TypeVar("ResultT")
LongCall: TypeAlias = BindMem | UnbindAll | Flush
"""The hcalls that take a continuation token."""
Script: TypeAlias = Generator[ScmCall | Pause, Answer, ResultT]


class Ending(Enum):
    """How a step of the device's life ended."""

    DONE = "done"
    OVERLAP = "overlap"
    UNUSABLE = "unusable"
    """The hypervisor may hold a binding that we do not want, or do not know."""
    FAILED = "failed"


def chunks(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut a byte range from the front into (offset, length) of 8 bytes, then 4, 2, 1, as Linux does."""
    end = offset + length
    while offset < end:
        size = next(size for size in METADATA_LENGTHS if size <= end - offset)
        yield offset, size
        offset += size


def stats_errno(rc: int) -> int:
    """Return the Linux errno (positive) of a failed H_SCM_PERFORMANCE_STATS."""
    table = {HcallRc.H_PARTIAL: ENOENT, HcallRc.H_AUTHORITY: EPERM, HcallRc.H_UNSUPPORTED: EOPNOTSUPP}
    return table.get(HcallRc(rc), EIO)


class GuestCalls:
    """The scripts of one device, and what they found out.

    Whoever runs them sets ``now`` before each step and takes ``notes`` after it.
    """

    def __init__(self, config: ScmGuestConfig, policy: ScmGuestPolicy, memory: GuestMemory) -> None:
        self.config = config
        self.policy = policy
        self.now = 0.0
        self.notes: list[Note] = []
        self.counters = Counters()
        self.bound_address: int | None = None
        """Where the first block lies; ``None``: not bound."""
        self.problem = 0
        """errno of the last failed probe."""
        self.stats_bytes = 0
        """Size of a full statistics buffer; 0: the device has no statistics."""
        self.inject_mask = 0
        self.bitmap = 0
        """Effective health, injected bits included, as of ``health_at``."""
        self.health_at: float | None = None
        self._memory = memory

    def note(self, event: str, *fields: tuple[str, int | str], level: str = "warning") -> None:
        """Count and tell."""
        self.counters[event] += 1
        self.notes.append(Note(event, (("drc", f"{self.config.drc:#x}"), *fields), level))

    def _continued(
        self,
        call: LongCall,
        limits: RetryLimits,
        *,
        goes_on: Callable[[int], bool] = is_busy,
        look: Callable[[Answer], None] = lambda _: None,
    ) -> Script[Answer | None]:
        """Repeat an hcall with the token of its last answer while it is busy; ``None``: gave up.

        A busy answer without a token (0) makes the next call a new beginning, not an end.
        """
        retry = BusyRetry.within(limits, self.now)
        while True:
            answer = yield call
            look(answer)
            if not goes_on(answer.rc):
                return answer
            wait_s = retry.next(answer.rc, self.now)
            if wait_s is None:
                self.note(
                    "gave_up", ("hcall", opcode_of(call).name), ("tries", retry.tries), ("rc", rc_name(answer.rc))
                )
                return None
            call = call._replace(token=answer.out(0))
            yield Pause(wait_s)

    # --- binding -----------------------------------------------------------------------------------------------------

    def bind(self) -> Script[Ending]:
        """Bind all blocks wherever the hypervisor likes; the first address that it names counts."""
        blocks = self.config.blocks
        addresses: list[int] = []

        def look(answer: Answer) -> None:
            if (answer.rc == HcallRc.H_SUCCESS or is_busy(answer.rc)) and answer.out(1):
                addresses.append(answer.out(1))

        answer = yield from self._continued(
            BindMem(self.config.drc, 0, blocks),
            self.policy.bind,
            goes_on=is_busy if self.policy.bind_takes_long_busy else lambda rc: rc == HcallRc.H_BUSY,
            look=look,
        )
        if answer is None:
            self.problem = ETIMEDOUT
            return Ending.UNUSABLE
        if answer.rc == HcallRc.H_OVERLAP:
            self.problem = ENXIO
            self.note("bind_overlap", level="info")
            return Ending.OVERLAP
        if answer.rc != HcallRc.H_SUCCESS:
            self.problem = ENXIO
            self.note("bind_failed", ("rc", rc_name(answer.rc)))
            return Ending.FAILED
        address = addresses[0] if addresses else 0
        problem = self._binding_problem(address)
        if not problem and len(set(addresses)) > 1:
            problem = "the address changed"
        if not problem and answer.out(2) != blocks:
            problem = f"{answer.out(2)} blocks bound instead of {blocks}"
        if problem and self.policy.checks_binding:
            self.problem = ENXIO
            self.note("binding_refused", ("address", f"{address:#x}"), ("why", problem))
            return Ending.UNUSABLE
        self.bound_address = address
        return Ending.DONE

    def _binding_problem(self, address: int) -> str:
        """Why no device can lie there; empty when it can."""
        size = self.config.size_bytes
        if address == 0:
            return "no address"
        if address % self.config.block_size:
            return "not a multiple of the block size"
        if address + size > U64_LIMIT:
            return "the end lies beyond 2^64"
        for first, length in self.config.taken:
            if address < first + length and first < address + size:
                return f"overlaps memory at {first:#x}"
        return ""

    def query(self) -> Script[Ending]:
        """Find the binding that an earlier kernel left; usable when first and last block lie as far apart as in one."""
        drc, last = self.config.drc, self.config.blocks - 1
        ends = []
        for block in (0, last):
            answer = yield QueryBlock(drc, block)
            if answer.rc != HcallRc.H_SUCCESS:
                self.note("query_failed", ("block", block), ("rc", rc_name(answer.rc)))
                return Ending.FAILED
            ends.append(answer.out(0))
        problem = self._binding_problem(ends[0]) if self.policy.checks_binding else ""
        if (ends[1] - ends[0]) % U64_LIMIT != last * self.config.block_size:
            problem = "not contiguous"
        if problem:
            self.note("old_binding_refused", ("address", f"{ends[0]:#x}"), ("why", problem))
            return Ending.FAILED
        self.bound_address = ends[0]
        return Ending.DONE

    def unbind(self) -> Script[Ending]:
        """Give up all bindings of the device; a failure changes nothing for the driver and is only told."""
        self.bound_address = None
        answer = yield from self._continued(UnbindAll(UnbindScope.DRC, self.config.drc), self.policy.unbind)
        if answer is not None and answer.rc != HcallRc.H_SUCCESS:
            self.note("unbind_failed", ("rc", rc_name(answer.rc)))
        return Ending.DONE if answer is not None and answer.rc == HcallRc.H_SUCCESS else Ending.FAILED

    # --- metadata ----------------------------------------------------------------------------------------------------

    def _is_outside(self, offset: int, length: int) -> bool:
        end = offset + length
        if not self.policy.widens_offsets:
            end %= 1 << 32
        return end > self.config.metadata_size

    def read_metadata(self, offset: int, length: int) -> Script[tuple[int, bytes]]:
        """Return (0 or -errno, bytes): those of the chunks before a failing one are there, too."""
        data = bytearray()
        if self._is_outside(offset, length):
            return -EINVAL, b""
        for at, size in chunks(offset, length):
            answer = yield ReadMetadata(self.config.drc, at, size)
            if answer.rc != HcallRc.H_SUCCESS:
                return self._metadata_failed(answer.rc), bytes(data)
            value = answer.out(0)
            if value >> 8 * size:
                self.counters["excess_bits"] += 1
            data += (value & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        return 0, bytes(data)

    def write_metadata(self, offset: int, data: bytes) -> Script[int]:
        """Return 0 or -errno; chunks before a failing one stay written."""
        if self._is_outside(offset, len(data)):
            return -EINVAL
        for at, size in chunks(offset, len(data)):
            value = int.from_bytes(data[at - offset : at - offset + size], "big")
            answer = yield WriteMetadata(self.config.drc, at, value, size)
            if answer.rc != HcallRc.H_SUCCESS:
                return self._metadata_failed(answer.rc)
        return 0

    def _metadata_failed(self, rc: int) -> int:
        self.note("metadata_failed", ("rc", rc_name(rc)))
        return -ENODEV if rc == HcallRc.H_PARAMETER else -EINVAL

    def read_labels(self) -> Script[Ending]:
        """Read what libnvdimm reads of the label area when a device appears: index blocks, then labels in use."""
        scan = LabelScan(self.config.metadata_size, MAX_TRANSFER)
        while (wanted := scan.wanted()) is not None:
            error, data = yield from self.read_metadata(*wanted)
            if error:
                return Ending.FAILED
            scan.feed(data)
        return Ending.DONE

    # --- health and statistics ---------------------------------------------------------------------------------------

    def query_health(self) -> Script[int]:
        """Ask for the health anew; returns 0, or -ENXIO and everything stays as it was."""
        answer = yield QueryHealth(self.config.drc)
        if answer.rc == HcallRc.H_SUCCESS:
            bitmap = answer.out(0) & answer.out(1)
        elif answer.rc == HcallRc.H_FUNCTION:
            bitmap = 0
        else:
            self.note("health_failed", ("rc", rc_name(answer.rc)))
            return -ENXIO
        self.bitmap = bitmap | self.inject_mask
        self.health_at = self.now
        return 0

    def cached_health(self) -> Script[int]:
        """Like :meth:`query_health`, but an answer that is young enough will do."""
        if self.health_at is not None and self.now <= self.health_at + self.policy.health_cache_s:
            return 0
        return (yield from self.query_health())

    def probe_health(self) -> Script[Ending]:
        """The health query of the probe; its failure is no obstacle."""
        return Ending.FAILED if (yield from self.query_health()) else Ending.DONE

    def query_stats_size(self) -> Script[Ending]:
        """Ask how large a full statistics buffer is; anything strange means: no statistics."""
        self.stats_bytes = 0
        answer = yield PerformanceStats(self.config.drc)
        if answer.rc != HcallRc.H_SUCCESS:
            self.note("no_statistics", ("rc", rc_name(answer.rc)), level="info")
            return Ending.FAILED
        size = answer.out(0)
        is_good = 0 < size < U64_LIMIT // 2
        if self.policy.checks_stats:
            whole = (size - stats.HEADER_BYTES) % stats.ENTRY_BYTES == 0
            is_good = is_good and stats.size_for(1) <= size <= STATS_LIMIT and whole
        if not is_good or size > self.config.stats_bytes:
            self.note("no_statistics", ("size", size))
            return Ending.FAILED
        self.stats_bytes = size
        return Ending.DONE

    def read_stats(self, ids: tuple[bytes, ...] = ()) -> Script[tuple[int, list[tuple[bytes, int]]]]:
        """Return (0 or -errno, statistics): the chosen ones in the order of ``ids``, or all."""
        if not self.stats_bytes:
            return -ENOENT, []
        size = stats.size_for(len(ids)) if ids else self.stats_bytes
        address = self.config.stats_address
        self._memory.write(address, stats.encode_request(ids, size))
        answer = yield PerformanceStats(self.config.drc, address, size)
        if answer.rc != HcallRc.H_SUCCESS:
            diagnostic = f"{answer.out(0):016x}" if answer.rc == HcallRc.H_PARTIAL else ""
            self.note("statistics_failed", ("rc", rc_name(answer.rc)), ("diagnostic", diagnostic))
            return -stats_errno(answer.rc), []
        raw = self._memory.read(address, size)
        if not self.policy.checks_stats:
            count = min(int.from_bytes(raw[12:16], "big"), (size - stats.HEADER_BYTES) // stats.ENTRY_BYTES)
            return 0, stats.decode_stats(stats.encode_stats((), max(0, count)) + raw[stats.HEADER_BYTES :])
        try:
            found = stats.decode_stats(raw)
        except WireError as error:
            self.note("bad_statistics", ("why", str(error)))
            return -EIO, []
        if ids and tuple(id_ for id_, _ in found) != ids:
            self.note("bad_statistics", ("why", "other statistics than asked for"))
            return -EIO, []
        return 0, found

    def fuel_gauge(self) -> Script[int | None]:
        """Life remaining in percent, or ``None``: there is none; that is no error."""
        if not self.stats_bytes:
            return None
        error, found = yield from self.read_stats((stats.Statistic.MEM_LIFE.value,))
        if error or not found:
            return None
        gauge = found[0][1]
        return None if self.policy.checks_gauge and gauge > 100 else gauge & 0xFFFF

    # --- flush -------------------------------------------------------------------------------------------------------

    def flush(self) -> Script[int]:
        """Make everything written durable: 0, -EIO, or -ETIMEDOUT when it is busy for too long."""
        if not self.config.is_hcall_flush_required:
            return 0
        answer = yield from self._continued(Flush(self.config.drc), self.policy.flush)
        if answer is None:
            return -ETIMEDOUT
        if answer.rc != HcallRc.H_SUCCESS:
            self.note("flush_failed", ("rc", rc_name(answer.rc)))
            return -EIO
        return 0
