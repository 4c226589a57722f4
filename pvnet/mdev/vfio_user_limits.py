"""What a vfio-user server takes of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvnet.mdev.vfio_user import DEFAULT_TRANSFER, MAX_MESSAGE


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a session takes of its client."""

    max_fds: int = 8
    """Descriptors in one message; the carrier may allow less."""
    max_transfer: int = DEFAULT_TRANSFER
    """Data bytes in one message."""
    max_message: int = MAX_MESSAGE
    """Bytes of one message, header included."""
    max_pending: int = 64
    """Requests that wait for the client's memory."""
    max_dma_requests: int = 256
    """DMA_READ and DMA_WRITE that the client has not answered."""
    dma_timeout_s: float = 5.0
    """After how long without an answer :meth:`ServerSession.expire` gives one up."""
    quiesce_timeout_s: float = 10.0
    """How long a change of the state of migration waits for the device to come to rest."""


DEFAULT_LIMITS: Final = ServerLimits()
