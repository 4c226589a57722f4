"""Where SCM hypervisors differ, as data; a device has its profile, so both may live in one partition.

There is no public specification of the SCM hcalls.  The kernel's document (DOC), Linux's driver (DRV) and QEMU
disagree in these places; this is what each profile does, and what both do where only one answer makes sense:

========================  ==============================================  ============================================
topic                     ``qemu``                                        ``phyp``
========================  ==============================================  ============================================
READ_METADATA             data in r4, no buffer (DRV)                     the same
length-4 read, top bit    r4 sign-extended (measured)                     zero-extended
"not finished"            H_BUSY or a long busy, never H_CONTINUE         the same
UNBIND_*, token           checked first, H_P4                             the same; DOC does not list it, DRV sends it
UNBIND_ALL, r5            blocks unbound                                  not written (DOC: no output)
explicit bind target      H_OVERLAP, whatever it is                       honoured: H_P4 unaligned or past 2^64,
                                                                          H_OVERLAP on memory or another binding
second bind               H_SUCCESS, same address                         H_OVERLAP
bind in steps             no                                              H_BUSY with token, r5 and r6 from the first on
bind, long busy           never: Linux takes it for a failure             the same: H_BUSY only
unbind in steps           no                                              one long busy of 1 ms; nothing bound: at once
unbind of unbound blocks  H_SUCCESS (no state)                            UNBIND_MEM H_P3, UNBIND_ALL H_SUCCESS
over-wide write data      H_P2                                            H_P2, although the data are argument 3
flush busy code           H_LONG_BUSY_ORDER_10_MSEC                       H_BUSY (DOC)
QUERY_*                   H_FUNCTION                                      answered; QUERY_LOGICAL: r4 DRC, r5 block
PERFORMANCE_STATS         H_FUNCTION                                      answered; size in r6 (DRV; DOC omits it)
HEALTH                    bit 0 only                                      bits 0 - 9
H_CONTINUE, H_TOO_BIG,    never                                           never (H_TOO_BIG, H_IN_USE are in DOC's lists
H_IN_USE                                                                  without a case)
wrapping UNBIND_MEM       H_P3 (QEMU aborts)                              H_P3
write to read-only        H_P2 (QEMU 7.2 crashes, newer: H_P2)            H_P2
========================  ==============================================  ============================================

An hcall that one profile lacks exists for a partition when its platform's own profile or that of any of its devices has
it; on a device whose profile lacks it, it is H_FUNCTION.

Spec: hcall_scm 3.13, 7.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.scm.calls import Health

_COMMON: Final = frozenset(
    {
        HcallOpcode.H_SCM_READ_METADATA,
        HcallOpcode.H_SCM_WRITE_METADATA,
        HcallOpcode.H_SCM_BIND_MEM,
        HcallOpcode.H_SCM_UNBIND_MEM,
        HcallOpcode.H_SCM_UNBIND_ALL,
        HcallOpcode.H_SCM_HEALTH,
        HcallOpcode.H_SCM_FLUSH,
    }
)
_NO_TOKENS: Final[Mapping[int, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ScmProfile:
    """One kind of hypervisor.  The two that exist are :data:`QEMU` and :data:`PHYP`."""

    name: str
    calls: frozenset[int]
    """Opcodes that exist."""
    keeps_bindings: bool
    """Blocks are bound and unbound; else they are mapped from plug to unplug and bind only reports."""
    takes_target: bool
    """H_SCM_BIND_MEM honours an explicit address."""
    bind_step: int | None
    """Blocks that one bind call handles; ``None``: all."""
    bind_busy: int
    """Answer of an unfinished bind."""
    unbind_rounds: int
    """Busy answers before an unbind is done."""
    unbind_busy: int
    """Answer of an unfinished unbind."""
    unbind_all_counts: bool
    """H_SCM_UNBIND_ALL tells the number of blocks in r5."""
    flush_busy: int
    """Answer of an unfinished flush."""
    sign_extends_words: bool
    """A metadata read of 4 bytes fills the upper half of r4 with copies of its top bit."""
    health_valid: int
    """Health bits that mean something."""
    first_tokens: Mapping[int, int] = field(default_factory=lambda: _NO_TOKENS)
    """First continuation token by opcode; 1 when not listed."""


QEMU: Final = ScmProfile(
    name="qemu",
    calls=_COMMON,
    keeps_bindings=False,
    takes_target=False,
    bind_step=None,
    bind_busy=HcallRc.H_BUSY,
    unbind_rounds=0,
    unbind_busy=HcallRc.H_LONG_BUSY_ORDER_1_MSEC,
    unbind_all_counts=True,
    flush_busy=HcallRc.H_LONG_BUSY_ORDER_10_MSEC,
    sign_extends_words=True,
    health_valid=Health.UNARMED,
)
"""What QEMU 7.2 and 10.0 answer, measured, with newer QEMU's answers where 7.2 crashes."""

PHYP: Final = ScmProfile(
    name="phyp",
    calls=_COMMON
    | {
        HcallOpcode.H_SCM_QUERY_BLOCK_MEM_BINDING,
        HcallOpcode.H_SCM_QUERY_LOGICAL_MEM_BINDING,
        HcallOpcode.H_SCM_PERFORMANCE_STATS,
    },
    keeps_bindings=True,
    takes_target=True,
    bind_step=3,
    bind_busy=HcallRc.H_BUSY,
    unbind_rounds=1,
    unbind_busy=HcallRc.H_LONG_BUSY_ORDER_1_MSEC,
    unbind_all_counts=False,
    flush_busy=HcallRc.H_BUSY,
    sign_extends_words=False,
    health_valid=sum(Health),
    first_tokens=MappingProxyType(
        {
            HcallOpcode.H_SCM_BIND_MEM: 0x1001,
            HcallOpcode.H_SCM_UNBIND_ALL: 0x2001,
            HcallOpcode.H_SCM_FLUSH: 0x3001,
            HcallOpcode.H_SCM_UNBIND_MEM: 0x4001,
        }
    ),
)
"""A hypervisor like PowerVM's as far as its document and driver tell: everything that QEMU lacks."""

PROFILES: Final = {profile.name: profile for profile in (QEMU, PHYP)}
