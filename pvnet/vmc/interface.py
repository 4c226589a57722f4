"""What goes into and comes out of the partition's VMC machine, and how it is configured.

All of it is frozen data, so that a recorded list of inputs with times is a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from pvnet.core.errors import LocalError
from pvnet.papr.device_io import (
    AdapterInput,
    AdapterOutput,
    CrqProgress,
    DeviceClose,
    DeviceDone,
    DeviceInput,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    Probe,
    Remove,
)
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


PartitionInput: TypeAlias = AdapterInput
PartitionOutput: TypeAlias = AdapterOutput

__all__ = [
    "PAGE_BYTES",
    "CrqProgress",
    "DeviceClose",
    "DeviceDone",
    "DeviceInput",
    "DeviceInterrupt",
    "DeviceIoctl",
    "DeviceOpen",
    "DevicePoll",
    "DeviceRead",
    "DeviceWrite",
    "Irq",
    "LocalMemory",
    "PartitionInput",
    "PartitionOutput",
    "Probe",
    "Remove",
    "VmcPartitionConfig",
]
