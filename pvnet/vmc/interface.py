"""What goes into and comes out of the partition's VMC machine, and how it is configured.

All of it is frozen data, so that a recorded list of inputs with times is a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note, Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.retry import RetryLimits
from pvnet.vmc.dialect import HARDENED, Dialect, Timeouts

PAGE_BYTES: Final = 4096


class LocalMemory(Protocol):
    """A partition's own memory through its first DMA window (pane 1)."""

    def read(self, ioba: int, n: int) -> bytes:
        """Return ``n`` bytes at ``ioba``."""
        ...

    def write(self, ioba: int, data: bytes) -> None:
        """Store ``data`` at ``ioba``."""
        ...


@dataclass(frozen=True, slots=True)
class VmcPartitionConfig:
    """One VMC adapter.  Addresses are I/O addresses of pane 1, sizes in bytes; LIOBNs as in ``ibm,my-dma-window``.

    ``crq_bytes`` is a multiple of 4096; local buffers lie in ``buffer_ioba`` .. + ``buffer_bytes``: buffer ``id`` of
    ``index`` at ``buffer_ioba + (index * pool + id) * mtu rounded up to 4096``, with the negotiated numbers.
    ``remote_bytes`` is the size of pane 2 if known (checked for ADD BUF by dialects that do).  ``byteorder`` is that
    of the emulated partition's C structures (QUERY, REQUESTVMC).  ``timeouts`` ``None`` takes the dialect's.
    """

    unit: int
    lliobn: int
    rliobn: int
    crq_ioba: int
    buffer_ioba: int
    buffer_bytes: int
    crq_bytes: int = PAGE_BYTES
    remote_bytes: int | None = None
    max_hmcs: int = 1
    pool_size: int = 32
    max_mtu: int = 4096
    dialect: Dialect = HARDENED
    timeouts: Timeouts | None = None
    byteorder: Literal["little", "big"] = "little"
    max_files: int = 256
    request_retry: RetryLimits = field(default_factory=RetryLimits)

    def __post_init__(self) -> None:
        if self.crq_bytes <= 0 or self.crq_bytes % PAGE_BYTES or self.crq_ioba % PAGE_BYTES:
            raise LocalError(f"CRQ of {self.crq_bytes} bytes at {self.crq_ioba:#x}: expected whole aligned 4 KiB pages")
        if self.crq_ioba < self.buffer_ioba + self.buffer_bytes and self.buffer_ioba < self.crq_ioba + self.crq_bytes:
            raise LocalError("the CRQ and the local buffers overlap")


# Inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """The adapter appeared: register the CRQ and begin."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The adapter goes away: end all sessions, deregister the CRQ."""


@dataclass(frozen=True, slots=True)
class Irq:
    """Look at the CRQ (may be spurious)."""


@dataclass(frozen=True, slots=True)
class DeviceOpen:
    """open(): answered by the handle.  ``request`` in every device input: chosen by the caller, unique while open."""

    request: int


@dataclass(frozen=True, slots=True)
class DeviceIoctl:
    """ioctl(): ``data`` are the bytes at the argument's address."""

    request: int
    handle: int
    command: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """read(): at most ``count`` bytes of one message; ``nonblock`` is O_NONBLOCK."""

    request: int
    handle: int
    count: int
    nonblock: bool = False


@dataclass(frozen=True, slots=True)
class DeviceWrite:
    """write(): one message."""

    request: int
    handle: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DevicePoll:
    """poll() for input: answered by the event mask; ``nonblock`` answers at once."""

    request: int
    handle: int
    nonblock: bool = False


@dataclass(frozen=True, slots=True)
class DeviceClose:
    """close()."""

    request: int
    handle: int


@dataclass(frozen=True, slots=True)
class DeviceInterrupt:
    """A signal hit the caller of ``request``: a blocked call ends with -EINTR, others go on."""

    request: int


DeviceInput: TypeAlias = (
    DeviceOpen | DeviceIoctl | DeviceRead | DeviceWrite | DevicePoll | DeviceClose | DeviceInterrupt
)
PartitionInput: TypeAlias = Probe | Remove | Irq | HcallReturned | Tick | DeviceInput

# Outputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceDone:
    """A device call ended: ``result`` >= 0, or minus a Linux errno; ``data`` are bytes for the caller."""

    request: int
    result: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class CrqProgress:
    """``consumed`` slots of the CRQ were cleared since its registration."""

    consumed: int


PartitionOutput: TypeAlias = CallHypervisor | DeviceDone | CrqProgress | Note
