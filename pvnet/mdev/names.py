"""Numbers of the VFIO device API that devices, their framework and their users share.

Spec: mdev 4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class DeviceFlag(IntFlag):
    """``flags`` of the device info.  Spec: mdev 4.1."""

    RESET = 0x1
    PCI = 0x2
    PLATFORM = 0x4
    AMBA = 0x8
    CCW = 0x10
    AP = 0x20
    FSL_MC = 0x40
    CAPS = 0x80


class RegionFlag(IntFlag):
    """``flags`` of a region info.  Spec: mdev 4.2."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqFlag(IntFlag):
    """``flags`` of an irq info.  Spec: mdev 4.4."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class PciRegion(IntEnum):
    """Region indices of a PCI device; its own extra regions follow from 9.  Spec: mdev 4.2."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


PCI_REGIONS: Final = 9


class PciIrq(IntEnum):
    """Irq indices of a PCI device.  Spec: mdev 4.4."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


PCI_IRQS: Final = 5


class CcwIrq(IntEnum):
    """Irq indices of a channel-I/O device.  Spec: mdev 5.1."""

    IO = 0
    CRW = 1
    REQ = 2


class IrqData(IntFlag):
    """Data types of SET_IRQS; exactly one.  Spec: mdev 4.5."""

    NONE = 0x01
    BOOL = 0x02
    EVENTFD = 0x04


class IrqAction(IntFlag):
    """Actions of SET_IRQS; exactly one.  Spec: mdev 4.5."""

    MASK = 0x08
    UNMASK = 0x10
    TRIGGER = 0x20


class DmaFlag(IntFlag):
    """``flags`` of DMA_MAP.  Spec: mdev 6.4."""

    READ = 1
    WRITE = 2
    MMAP = 4
    FILE_IO = 8


class MigrationFlag(IntFlag):
    """What a device can do of migration (feature 1).  Spec: mdev 4.8."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


class MigrationState(IntEnum):
    """States of migration (feature 2).  Spec: mdev 4.8."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7
