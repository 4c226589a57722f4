"""One SCM device as the hypervisor has it: what it is (configuration), its device-tree node, and what it remembers.

**Metadata** is reached through a :class:`MetadataStore`, whose calls return at once (the area is mapped); what fails
there is an ``OSError`` with the errno of the failure, including a write that was cut short.

**Failures show.** A call that met one answers H_HARDWARE.  The device remembers it in its health bits, because after a
failed write nobody knows what is stored, even if the next one succeeds: failed reads are "critical", failed writes and
flushes "unhealthy", a full disk also "non-critical".  They stay until somebody sets the health (``SetHealth``).

Doubts decided.  Counted statistics: metadata accesses as host loads and stores (the blocks themselves are memory, which
nobody sees), flushes as media writes, lives of the partition as controller resets; the others keep what was set.

Spec: hcall_scm 2.2, 2.3, 3.9, 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol
from uuid import UUID

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.papr.devicetree import Node, empty, text, u32, u64
from pvnet.papr.errno import ENOSPC, name_of
from pvnet.scm.bindings import Bindings, Range
from pvnet.scm.calls import Health
from pvnet.scm.profiles import QEMU, ScmProfile
from pvnet.scm.stats import Statistic

QEMU_BLOCK_BYTES: Final = 256 << 20
"""QEMU's only block size."""
METADATA_LIMIT: Final = 1 << 31
"""Linux keeps the size in a signed 32-bit number."""
NO_HEALTH: Final = Health(0)
_U64: Final = 1 << 64
_U64_MAX: Final = _U64 - 1


class ScmType(Enum):
    """Device type, by QEMU's names."""

    NVDIMM = "nvdimm"
    """Stores are durable by themselves; H_SCM_FLUSH does not exist for it."""
    SPAPR_NVDIMM = "spapr-nvdimm"
    """The guest has to flush by H_SCM_FLUSH."""


class StoreError(PvnetError, OSError):
    """An access to a device's metadata failed; ``errno`` as in Linux."""

    def __init__(self, number: int, doing: str = "metadata access") -> None:
        OSError.__init__(self, number, f"{doing}: {name_of(number)}")

    def __str__(self) -> str:
        """Return the one-line text."""
        return str(self.strerror)


class MetadataStore(Protocol):
    """The metadata area.  Ranges are checked before it is called."""

    def read(self, offset: int, n: int) -> bytes:
        """Read ``n`` bytes.

        Raises:
            OSError: the medium failed (:class:`StoreError` is one); ``errno`` says how.
        """
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data``.

        Raises:
            OSError: the medium failed, or took only a part; how much is stored is unknown.
        """
        ...


class MemoryMetadata:
    """A metadata area that lives in memory: ``preset``, then zeros."""

    def __init__(self, size: int, preset: bytes = b"") -> None:
        self.data = bytearray(preset.ljust(size, b"\0"))

    def read(self, offset: int, n: int) -> bytes:
        """Read ``n`` bytes."""
        return bytes(self.data[offset : offset + n])

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data``."""
        self.data[offset : offset + len(data)] = data


class StatisticsAccess(Enum):
    """Whether a partition gets performance statistics of a device."""

    ALLOWED = "allowed"
    DISABLED = "disabled"
    """Collection is switched off at the management console: H_AUTHORITY."""
    UNSUPPORTED = "unsupported"
    """The device has none: H_UNSUPPORTED."""


@dataclass(frozen=True, slots=True)
class ScmDeviceConfig:
    """A device of one partition.  Sizes and addresses are bytes; ``block_size`` is a power of two.

    :raises ConfigError: a value is wrong; says which, and what was expected.
    """

    partition: str
    drc: int
    blocks: int
    address: int
    """Where its first block is mapped, unless the guest names another place."""
    block_size: int = QEMU_BLOCK_BYTES
    metadata_size: int = 0x20000
    type: ScmType = ScmType.SPAPR_NVDIMM
    profile: ScmProfile = QEMU
    is_unarmed: bool = False
    is_readonly: bool = False
    can_flush: bool = True
    """Its backing can be flushed; real persistent memory and anonymous memory cannot: H_UNSUPPORTED."""
    guid: str = "00000000-0000-4000-8000-000000000001"
    numa_node: int = 0
    health: Health = NO_HEALTH
    """Bits shown from the start, beside "unarmed"."""
    dirty_shutdowns: int | None = None
    """``ibm,persistence-failed-count``; ``None``: the property is absent."""
    statistics: StatisticsAccess = StatisticsAccess.ALLOWED

    def __post_init__(self) -> None:
        self._check(0 < self.drc < 1 << 32, "drc", self.drc, "1 to 0xffffffff")
        size = self.block_size
        self._check(size > 0 and not size & (size - 1), "block_size", size, "a power of two")
        self._check(self.blocks > 0, "blocks", self.blocks, "at least 1")
        self._check(self.address >= 0 and not self.address % size, "address", self.address, "a multiple of block_size")
        self._check(self.end <= _U64, "blocks", self.blocks, "an end below 2^64")
        self._check(0 <= self.metadata_size < METADATA_LIMIT, "metadata_size", self.metadata_size, "0 to 2^31 - 1")
        try:
            good = UUID(self.guid).int != 0
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"SCM device {self.drc:#x}: guid {self.guid!r}: expected a UUID that is not all zeros")

    def _check(self, good: bool, name: str, value: int, expected: str) -> None:
        if not good:
            raise ConfigError(f"SCM device {self.drc:#x}: {name} {value:#x}: expected {expected}")

    @property
    def bytes(self) -> int:
        """Size of all blocks."""
        return self.blocks * self.block_size

    @property
    def end(self) -> int:
        """Address after its last byte at its own place."""
        return self.address + self.bytes

    @property
    def needs_flush(self) -> bool:
        """The guest has to use H_SCM_FLUSH."""
        return self.type is ScmType.SPAPR_NVDIMM


def device_node(config: ScmDeviceConfig) -> Node:
    """The node below ``/ibm,persistent-memory`` by which the guest finds the device."""
    properties = [
        text("compatible", "ibm,pmemory"),
        text("device_type", "ibm,pmemory"),
        u32("reg", config.drc),
        u32("ibm,my-drc-index", config.drc),
        u64("ibm,block-size", config.block_size),
        u64("ibm,number-of-blocks", config.blocks),
        text("ibm,unit-guid", str(UUID(config.guid))),
        u32("ibm,metadata-size", config.metadata_size),
        text("ibm,pmem-application", "operating-system"),
        empty("ibm,cache-flush-required"),
        u32("ibm,associativity", 4, 0, 0, 0, config.numa_node),
    ]
    if config.needs_flush:
        properties.append(empty("ibm,hcall-flush-required"))
    if config.dirty_shutdowns is not None:
        properties.append(u64("ibm,persistence-failed-count", config.dirty_shutdowns))
    return Node(f"ibm,pmemory@{config.drc:x}", tuple(properties))


@dataclass(slots=True)
class Fault:
    """The next ``count`` calls answer this and do nothing."""

    rc: int
    outs: tuple[int, ...]
    count: int


@dataclass(slots=True)
class ScmDevice:
    """State of a device: where its blocks are, what has failed, what was counted."""

    config: ScmDeviceConfig
    store: MetadataStore
    attached: float = 0.0
    bindings: Bindings = field(default_factory=Bindings)
    failed: Health = NO_HEALTH
    forced_health: tuple[int, int] | None = None
    access: StatisticsAccess = StatisticsAccess.ALLOWED
    values: dict[Statistic, int] = field(default_factory=lambda: {Statistic.MEM_LIFE: 100})
    faults: dict[int, Fault] = field(default_factory=dict)

    @property
    def profile(self) -> ScmProfile:
        """Its profile."""
        return self.config.profile

    def ranges(self) -> list[Range]:
        """What is mapped into the partition: what is bound, or all of it when the profile keeps no bindings."""
        if self.profile.keeps_bindings:
            return list(self.bindings)
        config = self.config
        return [Range(0, config.blocks, config.address, config.block_size)]

    def health(self) -> tuple[int, int]:
        """Bitmap and valid bits of H_SCM_HEALTH."""
        if self.forced_health is not None:
            return self.forced_health
        valid = self.profile.health_valid
        bits = self.config.health | self.failed | (Health.UNARMED if self.config.is_unarmed else NO_HEALTH)
        return int(bits) & valid, valid

    def read_failed(self) -> None:
        """Remember that a read failed."""
        self.failed |= Health.CRITICAL

    def write_failed(self, errno: int | None) -> None:
        """Remember that a write or a flush failed."""
        self.failed |= Health.UNHEALTHY
        if errno == ENOSPC:
            self.failed |= Health.NON_CRITICAL

    def count(self, statistic: Statistic, n: int = 1) -> None:
        """Add to a statistic."""
        self.values[statistic] = (self.values.get(statistic, 0) + n) & _U64_MAX

    def statistics(self, now: float) -> Mapping[bytes, int]:
        """All statistics by id, in their order."""
        values = {s.value: self.values.get(s, 0) for s in Statistic}
        if Statistic.POWERON_SECS not in self.values:
            values[Statistic.POWERON_SECS.value] = max(0, int(now - self.attached))
        return values

    def take_fault(self, opcode: int) -> Fault | None:
        """The fault armed for an hcall, counted down, or ``None``."""
        fault = self.faults.get(opcode)
        if fault is None:
            return None
        fault.count -= 1
        if not fault.count:
            del self.faults[opcode]
        return fault
