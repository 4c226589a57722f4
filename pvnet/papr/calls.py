"""The two dataclasses by which every driver machine of a partition calls its hypervisor.

The machine puts :class:`CallHypervisor` into its outputs; whoever runs the machine performs the call and feeds the
answer back as :class:`HcallReturned` with the same tag.  Calls of one machine reach the hypervisor in the order of the
outputs; answers may come back in any order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallHypervisor:
    """Perform an hcall: ``opcode`` in r3, ``args`` from r4 upward (unsigned 64-bit); answer with the same ``tag``."""

    tag: int
    opcode: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HcallReturned:
    """The answer: signed return code ``rc``, outputs ``outs`` from r4 upward."""

    tag: int
    rc: int
    outs: tuple[int, ...] = ()
