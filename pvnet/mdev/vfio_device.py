"""Joins a mediated device to its user: the VFIO device API.

Spec: mdev 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvnet.core.machine import Counters, Note
from pvnet.mdev.device import Cancellable, MdevDevice, Region
from pvnet.mdev.dma import DmaRegion
from pvnet.mdev.info import DeviceInfo, IrqInfo
from pvnet.mdev.irqs import IrqSet
from pvnet.mdev.programs import Pending
from pvnet.mdev.user import DeviceUser


class Timers(Protocol):
    """Where time comes from."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call back after ``delay_s`` seconds."""
        ...


class VfioDevice:
    """One device, and at most one user at a time."""

    def __init__(self, device: MdevDevice, name: str, timers: Timers, note: Callable[[Note], None]) -> None:
        self.device = device
        self.name = name
        self.user: DeviceUser | None = None
        self.counters = Counters()
        self._timers = timers
        self._note = note

    def open(self, user: DeviceUser) -> None:
        """Let a user in.

        :raises MdevError: EBUSY somebody has it, EAGAIN it is held, or what the device says.
        """
        raise NotImplementedError

    def close(self) -> None:
        """The user is gone; idempotent."""
        raise NotImplementedError

    def describe(self) -> DeviceInfo:
        """What the device is; for administrators, in every state."""
        raise NotImplementedError

    def info(self) -> DeviceInfo:
        """GET_INFO."""
        raise NotImplementedError

    def region_info(self, index: int) -> Region:
        """GET_REGION_INFO.

        :raises MdevError: EINVAL.
        """
        raise NotImplementedError

    def irq_info(self, index: int) -> IrqInfo:
        """GET_IRQ_INFO.

        :raises MdevError: EINVAL.
        """
        raise NotImplementedError

    def set_irqs(self, request: IrqSet) -> None:
        """SET_IRQS; the targets are taken over."""
        raise NotImplementedError

    def read(self, region: int, offset: int, length: int) -> bytes | Pending[bytes]:
        """Read a region."""
        raise NotImplementedError

    def write(self, region: int, offset: int, data: bytes) -> Pending[None] | None:
        """Write a region."""
        raise NotImplementedError

    def reset(self) -> None:
        """DEVICE_RESET."""
        raise NotImplementedError

    def feature(self, flags: int, data: bytes, max_data: int) -> bytes:
        """DEVICE_FEATURE; returns all that follows the 8-byte head in the reply, at most ``max_data`` bytes."""
        raise NotImplementedError

    def migration_read(self, limit: int) -> bytes:
        """MIG_DATA_READ."""
        raise NotImplementedError

    def migration_write(self, data: bytes) -> None:
        """MIG_DATA_WRITE."""
        raise NotImplementedError

    def dma_map(self, region: DmaRegion) -> None:
        """DMA_MAP; the memory is taken over."""
        raise NotImplementedError

    def dma_unmap(self, address: int, size: int, *, all_: bool = False) -> None:
        """DMA_UNMAP."""
        raise NotImplementedError

    def request_release(self) -> None:
        """Ask the user, by the REQ irq, to let go."""
        raise NotImplementedError

    def hold(self) -> None:
        """Let nobody open it until :meth:`unhold`."""
        raise NotImplementedError

    def unhold(self) -> None:
        """Undo :meth:`hold`."""
        raise NotImplementedError

    def quiesce(self, done: Callable[[], None]) -> None:
        """Call ``done`` once no program and no access is under way."""
        raise NotImplementedError
