"""The ten SCM hcalls: their arguments, and every number that both ends have to agree on.

An argument struct is the tuple of registers from r4 upward, so a guest sends ``tuple(call)`` and the hypervisor reads
``BindMem(*call.args[:5])``.  All fields are unsigned 64-bit; of a DRC index only the low 32 bits count.

Spec: Linux ``papr_scm.c`` and ``papr_hcalls.rst``; hcall_scm 3.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final, NamedTuple

from pvnet.papr.hcall import HcallOpcode

ANY_ADDRESS: Final = (1 << 64) - 1
"""Target of a bind: the hypervisor chooses."""
METADATA_LENGTHS: Final = (8, 4, 2, 1)
"""What one metadata access may carry, in bytes."""


class UnbindScope(IntEnum):
    """First argument of H_SCM_UNBIND_ALL, all 64 bits of it."""

    ALL = 1
    """Every SCM device of the partition."""
    DRC = 2
    """The device of the second argument."""


class Health(IntFlag):
    """Health bitmap of H_SCM_HEALTH; IBM numbers bit 0 as the most significant of 64."""

    UNARMED = 1 << 63
    """Contents will not survive a power loss."""
    SHUTDOWN_DIRTY = 1 << 62
    """At the last shutdown contents were not fully persisted."""
    SHUTDOWN_CLEAN = 1 << 61
    """They were, and have been restored."""
    EMPTY = 1 << 60
    """Contents were not restored at boot."""
    CRITICAL = 1 << 59
    """Media or life level is critical."""
    FATAL = 1 << 58
    """The device will be guarded out at the next boot."""
    UNHEALTHY = 1 << 57
    """The device cannot persist data because of its state."""
    NON_CRITICAL = 1 << 56
    """An event worth knowing."""
    ENCRYPTED = 1 << 55
    SCRUBBED_AND_LOCKED = 1 << 54
    """Securely erased and locked."""


class ReadMetadata(NamedTuple):
    """H_SCM_READ_METADATA: ``length`` bytes (1, 2, 4, 8) at ``offset``; r4 is the number they make, big-endian."""

    drc: int
    offset: int
    length: int


class WriteMetadata(NamedTuple):
    """H_SCM_WRITE_METADATA: the low ``length`` bytes of ``data``, most significant first, to ``offset``."""

    drc: int
    offset: int
    data: int
    length: int


class BindMem(NamedTuple):
    """H_SCM_BIND_MEM: map ``blocks`` blocks from ``start`` at ``target``; r4 token, r5 address, r6 blocks so far."""

    drc: int
    start: int
    blocks: int
    target: int = ANY_ADDRESS
    token: int = 0


class UnbindMem(NamedTuple):
    """H_SCM_UNBIND_MEM: unmap ``blocks`` blocks at ``address``; r4 token while busy, r5 blocks unbound."""

    drc: int
    address: int
    blocks: int
    token: int = 0


class UnbindAll(NamedTuple):
    """H_SCM_UNBIND_ALL: unmap everything of ``scope``; r4 token while busy, r5 blocks unbound (QEMU)."""

    scope: int
    drc: int
    token: int = 0


class QueryBlock(NamedTuple):
    """H_SCM_QUERY_BLOCK_MEM_BINDING: r4 is where ``block`` is bound."""

    drc: int
    block: int


class QueryLogical(NamedTuple):
    """H_SCM_QUERY_LOGICAL_MEM_BINDING: r4 is the DRC, r5 the block bound at ``address``."""

    address: int


class QueryHealth(NamedTuple):
    """H_SCM_HEALTH: r4 is the bitmap, r5 which of its bits are valid (:class:`Health`)."""

    drc: int


class PerformanceStats(NamedTuple):
    """H_SCM_PERFORMANCE_STATS: fill the buffer (:mod:`pvnet.scm.stats`); both 0: r4 is the size needed for all."""

    drc: int
    address: int = 0
    length: int = 0


class Flush(NamedTuple):
    """H_SCM_FLUSH: make everything stored so far durable; r4 is the token while busy."""

    drc: int
    token: int = 0


ScmCall = (
    ReadMetadata
    | WriteMetadata
    | BindMem
    | UnbindMem
    | UnbindAll
    | QueryBlock
    | QueryLogical
    | QueryHealth
    | PerformanceStats
    | Flush
)

OPCODES: Final = MappingProxyType(
    {
        ReadMetadata: HcallOpcode.H_SCM_READ_METADATA,
        WriteMetadata: HcallOpcode.H_SCM_WRITE_METADATA,
        BindMem: HcallOpcode.H_SCM_BIND_MEM,
        UnbindMem: HcallOpcode.H_SCM_UNBIND_MEM,
        UnbindAll: HcallOpcode.H_SCM_UNBIND_ALL,
        QueryBlock: HcallOpcode.H_SCM_QUERY_BLOCK_MEM_BINDING,
        QueryLogical: HcallOpcode.H_SCM_QUERY_LOGICAL_MEM_BINDING,
        QueryHealth: HcallOpcode.H_SCM_HEALTH,
        PerformanceStats: HcallOpcode.H_SCM_PERFORMANCE_STATS,
        Flush: HcallOpcode.H_SCM_FLUSH,
    }
)
"""Opcode of each argument struct."""


def opcode_of(call: ScmCall) -> HcallOpcode:
    """The opcode that goes with a struct."""
    return OPCODES[type(call)]
