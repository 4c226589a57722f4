"""The user of a device, seen from the device's side, and what a user brings along: memory and listeners.

A session (vfio-user, :mod:`pvnet.mdev.vfio_user_server`) implements :class:`DeviceUser`; the process around it makes
:class:`DmaMemory` and :class:`IrqTarget` out of descriptors.

Spec: mdev 4.5, 6.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pvnet.mdev.errors import MdevError


class IrqTarget(Protocol):
    """Where an irq goes: an eventfd, or a message to a partition."""

    def signal(self) -> None:
        """Tell it; never blocks, never raises, may coalesce."""
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


class DmaMemory(Protocol):
    """Memory of the user that can be touched directly (offset 0 is the first byte of the DMA_MAP)."""

    view: memoryview | None
    """The bytes themselves where they are mapped safely; None: only :meth:`read` and :meth:`write`."""

    def read(self, offset: int, length: int) -> bytes:
        """Copy out.

        :raises MdevError: EFAULT, the file behind it has become shorter.
        """
        ...

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy in.

        :raises MdevError: EFAULT, as above.
        """
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


class DeviceUser(Protocol):
    """Who has a device open."""

    max_transfer: int
    """Most bytes of one :meth:`dma_read` or :meth:`dma_write`."""

    def dma_read(self, address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        """Ask for memory that was mapped without a descriptor; ``done`` is called exactly once, also when it ends."""
        ...

    def dma_write(self, address: int, data: bytes, done: Callable[[MdevError | None], None]) -> None:
        """Store into such memory."""
        ...

    def ended(self, reason: str) -> None:
        """The device is taken away: the session closes."""
        ...
