"""One partition inside of the hypervisor machine: what it has, whether it lives, where its memory is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pvnet.memory.segment import Segment
from pvnet.memory.window import DmaWindow
from pvnet.papr.platform_io import FaultPoint, PartitionConfig
from pvnet.papr.rdma_engine import RdmaEngine, Target
from pvnet.papr.tce import low32
from pvnet.papr.vio import Adapter


class PartitionState:
    """One partition at run time; ``rdma`` carries out its copies."""

    def __init__(
        self, config: PartitionConfig, resolve: Callable[[PartitionState, int, int], Target | None], max_bytes: int
    ) -> None:
        self.config = config
        self.name = config.name
        self.started = False
        self.segment: Segment | None = None
        """Its memory, if it is mapped here."""
        self.queue_segment: Segment | None = None
        """The same, if its queues are ours to write."""
        self.adapters = {adapter.unit: Adapter(config.name, adapter) for adapter in config.adapters}
        self.windows = {a.window.liobn: a.window for a in self.adapters.values() if a.window is not None}
        self.remote = {a.config.remote_liobn: a for a in self.adapters.values() if a.config.remote_liobn is not None}
        self.faults: dict[FaultPoint, tuple[int, int]] = {}
        self.rdma = RdmaEngine(partial(resolve, self), max_bytes)

    @property
    def memory_bytes(self) -> int:
        """Size of its memory."""
        return self.config.memory_bytes if self.segment is None else self.segment.size

    def adapter(self, register: int) -> Adapter | None:
        """The adapter whose unit address a register holds."""
        return self.adapters.get(low32(register))

    def window(self, register: int) -> DmaWindow | None:
        """The pane-1 window whose LIOBN a register holds."""
        return self.windows.get(low32(register))
