"""Memory that a user has offered to a device: the maps of DMA_MAP.

Spec: mdev 6.4, 9.2 (B18 to B25).
"""

from __future__ import annotations

from dataclasses import dataclass

from pvnet.mdev.user import DmaMemory


@dataclass(slots=True)
class DmaRegion:
    """A range of I/O addresses; ``flags`` as :class:`~pvnet.mdev.names.DmaFlag`.

    ``memory`` None: reached by messages only.  ``offset`` as the user said it, to compare maps by.
    """

    address: int
    size: int
    flags: int
    memory: DmaMemory | None = None
    offset: int = 0
