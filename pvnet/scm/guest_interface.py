"""How the SCM guest driver is configured and driven: its device, its policies, its commands, what it tells its runtime.

**Device.** :class:`ScmGuestConfig` holds what the device-tree node says; :func:`parse_node` makes it from the node's
properties and refuses what no driver should bind (Spec: hcall_scm 2.2, 6.2 (15)).

**Commands.** A program opens the device and sends commands as ioctls: the four of ndctl with their numbers and
structures (guest's own byte order, packed), and above 0x100 what Linux offers as files in sysfs, as perf counters or
by an fsync of the block device.

**Policies.** Where robust conduct and Linux' differ, the difference is a field of :class:`ScmGuestPolicy`.

Doubts decided.  Linux ignores a UUID that does not parse and leaves an absent metadata size uninitialised; both
policies refuse the first and take the second as 0, since uninitialised memory cannot be imitated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from pvnet.core.errors import LocalError, WireError
from pvnet.core.machine import Note
from pvnet.core.open_enum import OpenIntEnum
from pvnet.papr.calls import CallHypervisor
from pvnet.papr.device_io import DeviceDone
from pvnet.papr.retry import RetryLimits
from pvnet.scm.pdsm import ByteOrder
from pvnet.scm.stats import ALL_BYTES

U64_LIMIT: Final = 1 << 64
MAX_TRANSFER: Final = 8
"""Bytes of metadata per hcall, and ``max_xfer`` of ND_CMD_GET_CONFIG_SIZE."""


class ScmCommand(OpenIntEnum):
    """ioctl numbers: 4 to 10 are ndctl's, the others pvnet's."""

    GET_CONFIG_SIZE = 4
    """Answer: u32 status 0, u32 size of the metadata area, u32 max_xfer 8."""
    GET_CONFIG_DATA = 5
    """u32 offset, u32 length; answer: both, u32 status 0, the bytes read (those before a failing chunk, too)."""
    SET_CONFIG_DATA = 6
    """u32 offset, u32 length, the bytes; answer: none."""
    CALL = 10
    """nd_cmd_pkg with nd_pkg_pdsm; answer: the same, filled in."""
    FLAGS = 0x100
    """``papr/flags``: text; the health behind it is asked for again when it is older than 60 s."""
    PERF_STATS = 0x101
    """``papr/perf_stats``: text, one line per statistic."""
    DIRTY_SHUTDOWN = 0x102
    """``papr/dirty_shutdown``: decimal text."""
    HEALTH_BITMAP_INJECT = 0x103
    """``papr/health_bitmap_inject``: hexadecimal text."""
    PERF_COUNTER = 0x104
    """u32 perf config 1 to 16; answer: u64 value of that statistic now."""
    FLUSH = 0x105
    """fsync or deep_flush of the region: returns when the hypervisor promises durability."""


class GuestMemory(Protocol):
    """The partition's memory by real address, as :class:`pvnet.memory.segment.Segment` has it."""

    def read(self, address: int, n: int, /) -> bytes:
        """Copy ``n`` bytes."""
        ...

    def write(self, address: int, data: bytes, /) -> None:
        """Store bytes."""
        ...


_NO_GUID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ScmGuestConfig:
    """One device as its node describes it, and where the driver may put its statistics buffer.

    :param stats_address: real address of a buffer of ``stats_bytes`` in the partition's memory.
    :param taken: (first address, bytes) of other memory that a binding must not overlap (RAM, other devices).
    :param byte_order: the guest's own, for ndctl's structures.
    """

    drc: int
    blocks: int
    block_size: int
    metadata_size: int = 0
    unit_guid: UUID = _NO_GUID
    is_cache_flush_required: bool = True
    is_hcall_flush_required: bool = False
    persistence_failed_count: int = 0
    stats_address: int = 0
    stats_bytes: int = 4096
    taken: tuple[tuple[int, int], ...] = ()
    byte_order: ByteOrder = "little"

    def __post_init__(self) -> None:
        problem = _geometry_problem(self.blocks, self.block_size, self.metadata_size)
        if problem:
            raise LocalError(problem)
        if not 0 <= self.drc < 1 << 32 or self.stats_bytes < ALL_BYTES:
            raise LocalError(f"DRC index {self.drc:#x}, statistics buffer of {self.stats_bytes} bytes: out of range")

    @property
    def size_bytes(self) -> int:
        """All blocks together."""
        return self.blocks * self.block_size

    @property
    def cookies(self) -> tuple[int, int]:
        """The two interleave-set cookies: halves of the GUID's bytes in text order, each read little-endian."""
        raw = self.unit_guid.bytes
        return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


def _geometry_problem(blocks: int, block_size: int, metadata_size: int) -> str:
    if not 0 < blocks < U64_LIMIT:
        return f"{blocks} blocks: expected at least 1"
    if block_size <= 0 or block_size & (block_size - 1):
        return f"block size {block_size:#x}: expected a power of two"
    if blocks * block_size > U64_LIMIT:
        return f"{blocks} blocks of {block_size:#x} bytes: beyond 2^64"
    if not 0 <= metadata_size < 1 << 31:
        return f"metadata size {metadata_size:#x}: expected less than 2 GiB"
    return ""


_REQUIRED: Final = MappingProxyType(
    {"ibm,my-drc-index": 4, "ibm,block-size": 8, "ibm,number-of-blocks": 8, "ibm,unit-guid": 0}
)


def parse_node(
    properties: Mapping[str, bytes], *, stats_address: int = 0, taken: tuple[tuple[int, int], ...] = ()
) -> ScmGuestConfig:
    """Make the configuration from the properties of an ``ibm,pmemory`` node.

    Raises :class:`WireError` when a required property is missing, has another length, or makes no sense; the driver
    would answer -ENODEV.
    """
    for name, length in _REQUIRED.items():
        if name not in properties:
            raise WireError(f"missing {name}")
        if length and len(properties[name]) != length:
            raise WireError(name, offset=0, expected=f"{length} bytes")

    def optional(name: str, length: int) -> int:
        raw = properties.get(name, bytes(length))
        if len(raw) != length:
            raise WireError(name, offset=0, expected=f"{length} bytes")
        return int.from_bytes(raw, "big")

    try:
        guid = UUID(properties["ibm,unit-guid"].rstrip(b"\0").decode("ascii"))
    except ValueError:
        raise WireError("ibm,unit-guid", offset=0, expected="the text of a UUID") from None
    blocks, block_size = optional("ibm,number-of-blocks", 8), optional("ibm,block-size", 8)
    metadata_size = optional("ibm,metadata-size", 4)
    problem = _geometry_problem(blocks, block_size, metadata_size)
    if problem:
        raise WireError(problem)
    return ScmGuestConfig(
        optional("ibm,my-drc-index", 4),
        blocks,
        block_size,
        metadata_size,
        guid,
        is_cache_flush_required="ibm,cache-flush-required" in properties,
        is_hcall_flush_required="ibm,hcall-flush-required" in properties,
        persistence_failed_count=optional("ibm,persistence-failed-count", 8),
        stats_address=stats_address,
        taken=taken,
    )


@dataclass(frozen=True, slots=True)
class ScmGuestPolicy:
    """Conduct on which the Linux driver and a robust one differ.

    ``bind``, ``unbind``, ``flush``
        how long a continuation loop goes on; Linux: for ever.
    ``answer_s``
        an hcall without an answer counts as H_HARDWARE after this; Linux cannot know it.
    ``bind_takes_long_busy``
        sleep and go on when a bind answers a long busy; Linux fails.
    ``checks_binding``
        refuse an address that is 0, unaligned, changing, wrapping or taken, and a bind that bound too little; Linux
        takes the first non-zero address and ignores the number.
    ``checks_stats``
        refuse sizes that are not those of a statistics buffer, and replies with another header; Linux trusts them.
    ``checks_gauge``
        a fuel gauge above 100 is not valid; Linux cuts it to 16 bits.
    ``widens_offsets``
        offset + length of a metadata access do not wrap at 32 bits; in Linux they do.
    """

    name: str
    bind: RetryLimits
    unbind: RetryLimits
    flush: RetryLimits
    answer_s: float | None
    bind_takes_long_busy: bool
    checks_binding: bool
    checks_stats: bool
    checks_gauge: bool
    widens_offsets: bool
    health_cache_s: float = 60.0
    max_queued: int = 64
    max_flushes: int = 16


_ENDLESS: Final = RetryLimits(None, None)
LINUX_GUEST: Final = ScmGuestPolicy(
    "linux",
    bind=_ENDLESS,
    unbind=_ENDLESS,
    flush=_ENDLESS,
    answer_s=None,
    bind_takes_long_busy=False,
    checks_binding=False,
    checks_stats=False,
    checks_gauge=False,
    widens_offsets=False,
)
HARDENED_GUEST: Final = ScmGuestPolicy(
    "hardened",
    bind=RetryLimits(10_000, 60.0),
    unbind=RetryLimits(10_000, 60.0),
    flush=RetryLimits(10_000, 60.0),
    answer_s=40.0,
    bind_takes_long_busy=True,
    checks_binding=True,
    checks_stats=True,
    checks_gauge=True,
    widens_offsets=True,
)
GUEST_POLICIES: Final = MappingProxyType({policy.name: policy for policy in (HARDENED_GUEST, LINUX_GUEST)})
"""By name; ``hardened`` is a lab's default."""


@dataclass(frozen=True, slots=True)
class ScmBound:
    """The device's blocks lie at ``address`` in the partition's address space from now on."""

    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ScmUnbound:
    """They are about to be unbound: nobody may touch them any more."""


ScmGuestOutput: TypeAlias = CallHypervisor | DeviceDone | ScmBound | ScmUnbound | Note
