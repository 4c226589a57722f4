"""What a driver in a partition is: it uses a device by the VFIO device API, as generators.

A driver is chosen by what the device is; its work is written as if every access were synchronous, and whoever runs it
(a partition, a test) carries each yielded request to the device and resumes it with the answer, or throws
:class:`~pvnet.mdev.errors.MdevError` in.  The steps of one device run one after another; an irq's handler runs between
two of them, never inside.

Memory that the device shall reach lies in :attr:`GuestContext.memory`, whose first byte has the I/O address
:attr:`GuestContext.iova`.  The partition maps it before ``probe``.

Spec: mdev 4, 5.9.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegionRead:
    """Read bytes of a region; resumed with exactly ``length`` bytes."""

    region: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class RegionWrite:
    """Store bytes into a region."""

    region: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EnableIrq:
    """Listen to vector 0 of an irq index; from now on the driver's ``irq`` runs."""

    index: int


@dataclass(frozen=True, slots=True)
class DisableIrq:
    """Cease to listen."""

    index: int


@dataclass(frozen=True, slots=True)
class UnmaskIrq:
    """Let an AUTOMASKED irq come again."""

    index: int


@dataclass(frozen=True, slots=True)
class WaitIrq:
    """Wait for the irq (which does not run ``irq`` then); MdevError ETIMEDOUT after ``timeout_s`` seconds.

    One that came since the last request counts.
    """

    index: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ResetDevice:
    """Reset the device."""


GuestRequest: TypeAlias = RegionRead | RegionWrite | EnableIrq | DisableIrq | UnmaskIrq | WaitIrq | ResetDevice
GuestSteps: TypeAlias = Generator[GuestRequest, bytes, T]


@dataclass(frozen=True, slots=True)
class GuestContext:
    """A device, as its driver finds it."""

    device: DeviceInfo
    regions: Sequence[RegionInfo]
    irqs: Sequence[IrqInfo]
    config: bytes
    """First 64 bytes of PCI configuration space; empty for other buses."""
    memory: memoryview
    """For DMA, the driver's own; page aligned."""
    iova: int


class GuestFile(Protocol):
    """A device file that a driver offers to programs.

    ``size`` is None for a character device: there ``offset`` is 0, a write may take only part, and a read returns
    ``b""`` as long as nothing has come (:attr:`on_readable` tells when).  Such a file may also have

    * ``on_writable``, as of :class:`WritableFile`;
    * ``readable: bool``, whether a read would return something now; a file without it is never ready for a poll.
    """

    size: int | None
    on_readable: Callable[[], None] | None
    """Set by the partition."""

    def read(self, offset: int, count: int) -> GuestSteps[bytes]:
        """Read at most ``count`` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> GuestSteps[int]:
        """Store bytes; returns how many."""
        ...

    def flush(self) -> GuestSteps[None]:
        """Make it durable, where that means something."""
        ...


@runtime_checkable
class WritableFile(Protocol):
    """A :class:`GuestFile` that tells when there is room again after a write that took less than all."""

    on_writable: Callable[[], None] | None
    """Set by the partition."""


class GuestDriver(Protocol):
    """Drives one device."""

    files: Sequence[tuple[str, GuestFile]]
    """With the stem of their names, which the partition completes: twice "ttyS" gives /dev/ttyS0 and /dev/ttyS1."""

    def probe(self) -> GuestSteps[None]:
        """Bring the device up."""
        ...

    def irq(self, index: int) -> GuestSteps[None]:
        """Serve an irq."""
        ...

    def remove(self) -> GuestSteps[None]:
        """Take it down; what it yields may fail, the device may be gone."""
        ...

    def shown(self) -> Mapping[str, object]:
        """Numbers for ``show_status``."""
        ...


class GuestDriverClass(Protocol):
    """Finds out whether a device is one of its, and drives it."""

    name: str

    def match(self, context: GuestContext) -> bool:
        """Whether it is."""
        ...

    def create(self, context: GuestContext) -> GuestDriver:
        """Make the driver of one device."""
        ...
