"""What the parts of the partition's VMC machine share: configuration, outputs of the input at hand, time, counters."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from itertools import count
from typing import Final

from pvnet.core.machine import Counters, Note
from pvnet.papr.calls import CallHypervisor
from pvnet.vmc.dialect import Dialect, Timeouts
from pvnet.vmc.interface import PAGE_BYTES, DeviceDone, LocalMemory, PartitionOutput, VmcPartitionConfig
from pvnet.vmc.messages import VmcMessage
from pvnet.vmc.repair import LinkRepair


class VmcState(IntEnum):
    """State of the link as QUERY reports it (Spec: vmc 4.1)."""

    SCHED_RESET = -1
    INITIAL = 0
    CRQINIT = 1
    CAPABILITIES = 2
    READY = 3
    FAILED = 4


class Context:
    """One adapter's shared state; see the module's text."""

    def __init__(self, config: VmcPartitionConfig, memory: LocalMemory) -> None:
        dialect = config.dialect
        self.config: Final = config
        self.memory: Final = memory
        self.dialect: Final[Dialect] = dialect
        self.timeouts: Final[Timeouts] = dialect.timeouts if config.timeouts is None else config.timeouts
        self.max_hmcs: Final = dialect.max_hmcs(config.max_hmcs)
        self.pool_limit: Final = dialect.pool_size(config.pool_size)
        self.mtu_limit: Final = dialect.max_mtu(config.max_mtu)
        self.state = VmcState.INITIAL
        self.mtu = self.mtu_limit
        """Negotiated; before that our own."""
        self.pool_size = self.pool_limit
        self.max_index = self.max_hmcs - 1
        self.drc_index = 0
        self.now = 0.0
        self.out: list[PartitionOutput] = []
        self.tags: Final = count(1)
        self.counters: Final = Counters()
        self.wants_reset = False
        """Some part decided that the CRQ must be reset; the link acts on it when the message at hand is done."""
        self.repair: Final = LinkRepair()
        """Whether refused copies ask for a reset, and when."""
        self.send: Callable[[VmcMessage], None] = lambda _message: None

    @property
    def stride(self) -> int:
        """Distance between local buffers: the MTU in whole pages."""
        return -(-self.mtu // PAGE_BYTES) * PAGE_BYTES

    def local_address(self, index: int, buffer_id: int) -> int:
        """I/O address of a local buffer."""
        return self.config.buffer_ioba + (index * self.pool_size + buffer_id) * self.stride

    def call(self, opcode: int, args: tuple[int, ...]) -> int:
        """Ask for an hcall; returns the tag of its answer."""
        tag = next(self.tags)
        self.out.append(CallHypervisor(tag, opcode, args))
        return tag

    def done(self, request: int, result: int, data: bytes = b"") -> None:
        """End a device call."""
        self.out.append(DeviceDone(request, result, data))

    def note(self, event: str, *fields: tuple[str, int | str], level: str = "debug") -> None:
        """Say something for the log."""
        self.out.append(Note(event, (("unit", f"{self.config.unit:#x}"), *fields), level))

    def drop(self, reason: str, *fields: tuple[str, int | str]) -> None:
        """Count a message that is not acted upon, and say so."""
        self.counters[reason] += 1
        self.note("dropped", ("reason", reason), *fields)
