"""``rdma/4KiB`` to ``rdma/64MiB``: a checked H_COPY_RDMA between mapped memories, beside a bare copy of as many bytes.

Ours is :meth:`pvnet.papr.rdma_engine.RdmaEngine.copy`, the very code that an hcall ends in: two LIOBNs, two I/O
addresses and a length are checked, then the bytes move from a partition's memory (a sealed memfd, mapped) to the
hypervisor's pane.  ``memcpy`` is one slice assignment between the same two places that makes both slices anew: nothing
in Python moves bytes with less.  The windows are mapped contiguously, so that every copy is one run.

One process on one CPU; the two take turns, many short rounds.  Each round brings a new byte somewhere in every page,
which has to arrive; in the end all bytes are compared.  ``notes.hcall`` says what a whole hcall (``Platform.feed``)
reaches in the same rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from pvnet.bench.placement import Placement, pinned
from pvnet.bench.report import Result, Series
from pvnet.core.errors import LocalError
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_BOTH, PAGE_BYTES
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    AdapterConfig,
    HcallRequest,
    HcallResult,
    PartitionConfig,
    PartitionMapped,
    PartitionStarted,
    PlatformConfig,
)
from pvnet.papr.rdma_engine import RdmaEngine
from pvnet.runtime.memfd import sealed_memory

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SIZES: Final = {"4KiB": 4 * KIB, "64KiB": 64 * KIB, "1MiB": MIB, "64MiB": 64 * MIB}
_PARTITION: Final = "partition"
_UNIT: Final = 0x3000_0000
_LOCAL: Final = 0x1000_0001
_REMOTE: Final = 0x1000_0002
_QUEUE_BYTES: Final = PAGE_BYTES
_SOURCE: Final = 2 * PAGE_BYTES
_TARGET: Final = PAGE_BYTES
_ROUND_BYTES: Final = 64 * MIB
"""How much a round moves at most, so that rounds stay short and turns frequent."""
_ROUND_COPIES: Final = 20_000

Timed = Callable[[int], float]
"""So many copies; returns the seconds."""
Copies = Callable[["Mapped", int, int], float]
"""Copies of so many bytes, so many of them; returns the seconds."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A platform with one partition whose memory of ``size`` bytes and more is mapped, ready for copies."""

    platform: Platform
    memory: Segment
    pane: Segment

    @property
    def engine(self) -> RdmaEngine:
        """The partition's."""
        return self.platform.rdma_engine(_PARTITION)


def mapped_platform(size: int) -> Mapped:
    """Make a platform that can copy ``size`` bytes (whole pages) from its partition to the hypervisor's pane."""
    memory_bytes = size + _SOURCE
    adapter = AdapterConfig(
        unit=_UNIT,
        liobn=_LOCAL,
        window_bytes=memory_bytes,
        remote_liobn=_REMOTE,
        remote_window_bytes=size + _TARGET,
    )
    config = PlatformConfig((PartitionConfig(_PARTITION, memory_bytes, (adapter,)),), max_virtual_dma_size=size)
    platform = Platform(config)
    memory = Segment(sealed_memory(memory_bytes, "bench-rdma"))
    platform.partner_register(_PARTITION, _UNIT)
    platform.feed(PartitionStarted(_PARTITION), 0.0)
    platform.feed(PartitionMapped(_PARTITION, memory), 0.0)
    for ioba in range(0, memory_bytes, PAGE_BYTES):
        _hcall(platform, HcallOpcode.H_PUT_TCE, _LOCAL, ioba, ioba | ACCESS_BOTH)
    _hcall(platform, HcallOpcode.H_REG_CRQ, _UNIT, 0, _QUEUE_BYTES)
    return Mapped(platform, memory, platform.hypervisor_memory(_PARTITION, _UNIT).segment)


def _hcall(platform: Platform, opcode: int, *args: int) -> None:
    outputs = platform.feed(HcallRequest(_PARTITION, 0, opcode, args), 0.0)
    results = [output for output in outputs if isinstance(output, HcallResult)]
    if [result.rc for result in results] != [HcallRc.H_SUCCESS]:
        raise LocalError(f"hcall {opcode:#x} of the benchmark: {outputs!r}")


def copy_by_engine(mapped: Mapped, size: int, count: int) -> float:
    """Copy ``count`` times through the engine."""
    copy = mapped.engine.copy
    start = time.perf_counter()
    for _ in range(count):
        copy(_LOCAL, _SOURCE, _REMOTE, _TARGET, size)
    return time.perf_counter() - start


def copy_by_hcall(mapped: Mapped, size: int, count: int) -> float:
    """Copy ``count`` times by whole hcalls."""
    feed, args = mapped.platform.feed, (size, _LOCAL, _SOURCE, _REMOTE, _TARGET)
    opcode = int(HcallOpcode.H_COPY_RDMA)
    start = time.perf_counter()
    for tag in range(count):
        feed(HcallRequest(_PARTITION, tag, opcode, args), 0.0)
    return time.perf_counter() - start


def copy_bare(mapped: Mapped, size: int, count: int) -> float:
    """Copy ``count`` times by slice assignment."""
    source, target = mapped.memory.view, mapped.pane.view
    start = time.perf_counter()
    for _ in range(count):
        target[_TARGET : _TARGET + size] = source[_SOURCE : _SOURCE + size]
    return time.perf_counter() - start


def checked_round(mapped: Mapped, size: int, copies: Timed, count: int) -> tuple[float, int]:
    """Let ``copies`` copy a new byte in every page; returns the seconds, and how many are wrong (all or none)."""
    at = int.from_bytes(os.urandom(2)) % PAGE_BYTES
    stamp = os.urandom(size // PAGE_BYTES)
    mapped.memory.view[_SOURCE + at : _SOURCE + size : PAGE_BYTES] = stamp
    seconds = copies(count)
    arrived = mapped.pane.view[_TARGET + at : _TARGET + size : PAGE_BYTES].tobytes()
    return seconds, 0 if arrived == stamp else count


def measure(name: str, *, rounds: int) -> Result:
    """Measure one case, on the CPU that this process is pinned to."""
    size = SIZES[name]
    mapped = mapped_platform(size)
    source, target = mapped.memory.view[_SOURCE : _SOURCE + size], mapped.pane.view[_TARGET : _TARGET + size]
    source[:] = os.urandom(PAGE_BYTES) * (size // PAGE_BYTES)
    count = max(1, min(_ROUND_COPIES, _ROUND_BYTES // size))
    ours, bare, hcall = Series(), Series(), Series()
    turns: list[tuple[Series, Timed]] = [
        (ours, partial(copy_by_engine, mapped, size)),
        (bare, partial(copy_bare, mapped, size)),
        (hcall, partial(copy_by_hcall, mapped, size)),
    ]
    for _, copies in turns:
        copies(count)
    wrong = 0
    for number in range(rounds):
        for into, copies in turns if number % 2 == 0 else reversed(turns):
            seconds, bad = checked_round(mapped, size, copies, count)
            into.values.append(count * size / seconds)
            wrong += bad
    wrong += target.tobytes() != source.tobytes()
    notes = {
        "copies_per_round": count,
        "hcall": {**hcall.shown(), "ratio": {"memcpy": hcall.median / bare.median}},
        "seconds_per_copy": {"pvnet": size / ours.median, "memcpy": size / bare.median, "hcall": size / hcall.median},
    }
    return Result("rdma", name, "bytes_per_s", "B/s", ours, {"memcpy": bare}, wrong, notes)


async def bench_rdma(
    *,
    quick: bool,
    broker: str,  # noqa: ARG001 - no broker takes part
    cases: Collection[str],
    tell: Callable[[str], None],
) -> list[Result]:
    """Measure the cases; returns bytes per second."""
    placement = Placement.together()
    results: list[Result] = []
    with pinned(placement.cpus):
        for name in SIZES:
            if name in cases:
                result = measure(name, rounds=21 if quick else 61)
                result.notes["placement"] = f"one process on CPU {placement.asks}"
                results.append(result)
                tell(case_line(result))
    return results


def case_line(result: Result) -> str:
    """Say one case in a line."""
    bare, hcall = result.peers["memcpy"], result.notes["hcall"]
    return (
        f"rdma/{result.case}: {result.pvnet.median / 1e9:.2f} GB/s checked, bare copy {bare.median / 1e9:.2f} GB/s "
        f"(we: {result.ratios['memcpy']:.2f} of it; as a whole hcall {hcall['ratio']['memcpy']:.2f}), "
        f"{result.lost} wrong"
    )
