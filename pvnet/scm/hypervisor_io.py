"""What goes into and comes out of the SCM hypervisor (:mod:`pvnet.scm.hypervisor`), beside its hcalls.

All of them are inputs and outputs of the platform machine that the extension is part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pvnet.papr.drc import DrcType
from pvnet.papr.extension import ExtensionInput, ExtensionOutput
from pvnet.scm.device import MetadataStore, ScmDeviceConfig, StatisticsAccess
from pvnet.scm.profiles import QEMU, ScmProfile
from pvnet.scm.stats import Statistic

# -- inputs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlushDone(ExtensionInput):
    """Answer to :class:`StartFlush`: everything stored before it is durable, or ``error`` (Linux errno) happened."""

    tag: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class SetHealth(ExtensionInput):
    """From now on H_SCM_HEALTH answers these two bitmaps; ``None``: the device's own again, its failures forgotten."""

    partition: str
    drc: int
    health: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class SetStatistics(ExtensionInput):
    """Set values of statistics, and (unless ``None``) who may see them."""

    partition: str
    drc: int
    values: Mapping[Statistic, int] = field(default_factory=dict)
    access: StatisticsAccess | None = None


@dataclass(frozen=True, slots=True)
class SetScmFault(ExtensionInput):
    """The next ``count`` calls of ``opcode`` on this device answer ``rc`` and ``outs``; ``count`` 0 disarms it."""

    partition: str
    drc: int
    opcode: int
    rc: int
    outs: tuple[int, ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True)
class AttachDevice(ExtensionInput):
    """Plug a device into its connector, which is made if there is none."""

    config: ScmDeviceConfig
    store: MetadataStore


@dataclass(frozen=True, slots=True)
class DetachDevice(ExtensionInput):
    """Take a device away: its bindings and tokens are gone, the connector stays."""

    partition: str
    drc: int


ScmInput: TypeAlias = FlushDone | SetHealth | SetStatistics | SetScmFault | AttachDevice | DetachDevice

# -- outputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartFlush(ExtensionOutput):
    """Make everything stored in this device so far durable; answered by :class:`FlushDone` with the same ``tag``.

    Several may be under way; one pass over the medium that begins after all of them may answer them all.
    """

    tag: int
    partition: str
    drc: int


@dataclass(frozen=True, slots=True)
class MapBlocks(ExtensionOutput):
    """``blocks`` blocks of a device from ``first`` on appear at logical ``address`` of the partition."""

    partition: str
    drc: int
    first: int
    blocks: int
    address: int


@dataclass(frozen=True, slots=True)
class UnmapBlocks(ExtensionOutput):
    """They are gone from there."""

    partition: str
    drc: int
    first: int
    blocks: int
    address: int


ScmOutput: TypeAlias = StartFlush | MapBlocks | UnmapBlocks

# -- configuration -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """A connector without an SCM device: an empty slot, or one of another kind."""

    partition: str
    drc: int
    kind: DrcType = DrcType.PMEM


@dataclass(frozen=True, slots=True)
class ScmHypervisorConfig:
    """All SCM devices of one platform."""

    devices: tuple[ScmDeviceConfig, ...] = ()
    connectors: tuple[ConnectorConfig, ...] = ()
    profile: ScmProfile = QEMU
    """Decides for calls that concern no device."""
    operation_limit: int = 4096
    """Unfinished and unpolled operations of one hcall on one device; beyond it the answer is busy with token 0."""


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where bytes of the partition's address space lie: in this device, ``offset`` bytes from its first block."""

    drc: int
    offset: int
