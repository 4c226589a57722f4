"""Irqs of a device and who listens to them.

Spec: mdev 4.4, 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvnet.mdev.user import IrqTarget


@dataclass(frozen=True, slots=True)
class IrqSet:
    """SET_IRQS, decoded: ``flags`` one :class:`~pvnet.mdev.names.IrqData` and one :class:`~pvnet.mdev.names.IrqAction`.

    ``data``: BOOL, one byte per vector.  ``targets``: EVENTFD, one per vector, None removes; empty removes all of
    them.  Whoever is given an IrqSet owns the targets, also when it refuses.
    """

    flags: int
    index: int
    start: int
    count: int
    data: bytes = b""
    targets: tuple[IrqTarget | None, ...] = ()
