"""The server end of vfio-user: one client of one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import DEFAULT_TRANSFER, MAX_MESSAGE, Carrier, Data, Descriptor

if TYPE_CHECKING:
    from pvnet.mdev.vfio_device import VfioDevice


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a session takes of its client."""

    max_fds: int = 8
    """Descriptors in one message; the carrier may allow less."""
    max_transfer: int = DEFAULT_TRANSFER
    """Data bytes in one message."""
    max_message: int = MAX_MESSAGE
    max_dma_maps: int = 65535
    """As told to the client; the device's table enforces its own."""
    pgsizes: int = 4096
    max_pending: int = 64
    """Requests that wait for the client's memory."""
    max_dma_requests: int = 256
    """DMA_READ and DMA_WRITE that the client has not answered."""
    dma_timeout_s: float = 5.0
    """After how long without an answer :meth:`ServerSession.expire` gives one up."""


DEFAULT_LIMITS: Final = ServerLimits()


class ServerSession:
    """A client of a device; implements :class:`~pvnet.mdev.user.DeviceUser`."""

    def __init__(self, device: VfioDevice, carrier: Carrier, limits: ServerLimits = DEFAULT_LIMITS) -> None:
        self._carrier, self._limits = carrier, limits
        self.device = device
        self.max_transfer = limits.max_transfer
        self.closed = False

    def open(self) -> None:
        """Open the device; a successful VERSION does it too.  Idempotent.

        :raises MdevError: EBUSY and the like of :meth:`VfioDevice.open`.
        """
        raise NotImplementedError

    def message(self, data: Data, descriptors: list[Descriptor]) -> None:
        """Take one whole message, header included, and its descriptors, which are taken over; never raises."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """How many DMA_READ and DMA_WRITE the client has not answered."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """Give up what has waited for :attr:`ServerLimits.dma_timeout_s`; call it now and then while :attr:`waiting`.

        The time of a request counts from the first call after it.
        """
        raise NotImplementedError

    def dma_read(self, address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        """Ask the client for bytes of its memory."""
        raise NotImplementedError

    def dma_write(self, address: int, data: bytes, done: Callable[[MdevError | None], None]) -> None:
        """Ask the client to store bytes in its memory."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """The device is taken away: close the connection."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone: close the device; idempotent."""
        raise NotImplementedError
