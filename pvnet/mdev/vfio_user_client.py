"""The client end of vfio-user: requests with callbacks, and the client's memory for the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.vfio_user import DEFAULT_TRANSFER, MAX_MESSAGE, Connection, Data, Descriptor
from pvnet.mdev.vfio_user_version import Version

T = TypeVar("T")
Done: TypeAlias = Callable[[T | MdevError], None]
ClientCarrier: TypeAlias = Connection


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a client takes of its server."""

    max_fds: int = 8
    max_transfer: int = DEFAULT_TRANSFER
    max_message: int = MAX_MESSAGE
    max_requests: int = 1024
    """Requests under way."""
    timeout_s: float = 10.0
    """After how long without an answer :meth:`ClientMachine.expire` gives a request up."""


DEFAULT_LIMITS: Final = ClientLimits()


@dataclass(frozen=True, slots=True)
class RegionReply:
    """A region, and the descriptor to map it, which is the caller's now."""

    info: RegionInfo
    descriptor: Descriptor | None = None


class ClientMachine:
    """A user of a device that somebody else serves."""

    def __init__(self, carrier: ClientCarrier, limits: ClientLimits = DEFAULT_LIMITS) -> None:
        self._carrier, self._limits = carrier, limits
        self.version: Version | None = None
        self.closed = False

    def start(self, done: Done[Version]) -> None:
        """Negotiate; the first request."""
        raise NotImplementedError

    def message(self, data: Data, descriptors: list[Descriptor]) -> None:
        """Take one whole message, header included, and its descriptors, which are taken over; never raises."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """The connection is gone: everything under way fails with ENODEV; idempotent."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """Give up (ETIMEDOUT) what has waited for :attr:`ClientLimits.timeout_s`, counted from the first call."""
        raise NotImplementedError

    def device_info(self, done: Done[DeviceInfo]) -> None:
        """GET_INFO."""
        raise NotImplementedError

    def region_info(self, index: int, done: Done[RegionReply]) -> None:
        """GET_REGION_INFO, again with a bigger argsz if there are capabilities."""
        raise NotImplementedError

    def irq_info(self, index: int, done: Done[IrqInfo]) -> None:
        """GET_IRQ_INFO."""
        raise NotImplementedError

    def set_irqs(
        self,
        index: int,
        start: int,
        count: int,
        data_type: int,
        action: int,
        data: bytes,
        descriptors: Sequence[Descriptor],
        done: Done[None],
    ) -> None:
        """SET_IRQS; the descriptors stay the caller's."""
        raise NotImplementedError

    def region_read(self, index: int, offset: int, count: int, done: Done[bytes]) -> None:
        """REGION_READ, in pieces where the server wants them."""
        raise NotImplementedError

    def region_write(
        self, index: int, offset: int, data: bytes, done: Done[None] | None = None, *, posted: bool = False
    ) -> None:
        """REGION_WRITE, in pieces; ``posted``: without reply, ``done`` is called at once."""
        raise NotImplementedError

    def reset(self, done: Done[None]) -> None:
        """DEVICE_RESET."""
        raise NotImplementedError

    def dma_map(
        self,
        address: int,
        size: int,
        flags: int,
        offset: int,
        descriptor: Descriptor | None,
        view: memoryview | None,
        done: Done[None],
    ) -> None:
        """DMA_MAP; ``view`` serves the server's DMA_READ and DMA_WRITE from now on."""
        raise NotImplementedError

    def dma_unmap(self, address: int, size: int, done: Done[None], *, all_: bool = False) -> None:
        """DMA_UNMAP of one map, or of all (``address`` and ``size`` 0)."""
        raise NotImplementedError

    def feature(self, flags: int, data: bytes, max_data: int, done: Done[bytes]) -> None:
        """DEVICE_FEATURE; the answer is what follows its 8-byte head, at most ``max_data`` bytes."""
        raise NotImplementedError

    def migration_read(self, limit: int, done: Done[bytes]) -> None:
        """MIG_DATA_READ; ``b""``: the end."""
        raise NotImplementedError

    def migration_write(self, data: bytes, done: Done[None]) -> None:
        """MIG_DATA_WRITE, in pieces."""
        raise NotImplementedError
