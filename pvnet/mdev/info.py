"""What a device says of itself, decoded: device, regions, irqs.

The wire structures with their capability chains are in :mod:`pvnet.mdev.vfio_layout`.  Spec: mdev 4.1 to 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IrqInfo:
    """One irq index: ``count`` vectors (0: not implemented), ``flags`` as :class:`~pvnet.mdev.names.IrqFlag`."""

    count: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """One region; ``size`` 0 means that it is not implemented.

    ``flags`` are READ, WRITE, MMAP (:class:`~pvnet.mdev.names.RegionFlag`; CAPS is added by the encoder).  ``offset``
    is where a mapping of the region's descriptor begins.  ``sparse``: the only areas that may be mapped, as (offset,
    size) within the region; empty: all of it.  ``type``: (type, subtype) of a device-specific region.
    """

    size: int = 0
    flags: int = 0
    offset: int = 0
    sparse: tuple[tuple[int, int], ...] = ()
    type: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device: ``flags`` as :class:`~pvnet.mdev.names.DeviceFlag`, how many region and irq indices there are."""

    flags: int
    regions: int
    irqs: int
