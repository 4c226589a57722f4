"""What the platform does inside a partition for one CRQ: store elements that arrive, raise the irq, count progress.

Over a broker the hypervisor cannot write the partition's memory, so its ``CrqEntry`` messages are stored here, by the
ring's rules: bytes 8 to 15 first, then bytes 0 to 7, which hold the valid byte (Spec: vmc 2.6).  How far the partition
has cleared its ring goes back as ``CrqProgress``: in batches of a quarter of the ring while it is mostly empty, at
once when it was half full or must look so to the hypervisor, so that a full ring accepts an element as soon as one
slot is free, and never looks full when it is not.
"""

from __future__ import annotations

from collections.abc import Callable

from pvnet.memory.dma import DmaMemory
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.papr_pb2 import CrqEntry
from pvnet.runtime.endpoint import Endpoint

_REG, _FREE = int(HcallOpcode.H_REG_CRQ), int(HcallOpcode.H_FREE_CRQ)


class CrqHost:
    """The firmware's half of one adapter's CRQ in its partition."""

    def __init__(
        self, endpoint: Endpoint, hypervisor: str, unit: int, memory: DmaMemory, irq: Callable[[], None]
    ) -> None:
        self.unit = unit
        self.irqs = 0
        self._endpoint = endpoint
        self._hypervisor = hypervisor
        self._memory = memory
        self._irq = irq
        self._ioba = 0
        self._slots = 0
        self._registration = 0
        self._received = 0
        self._consumed = 0
        self._reported = 0

    def hcall_issued(self, opcode: int, args: tuple[int, ...]) -> None:
        """See an hcall of this adapter go out: a freed queue takes nothing more."""
        if opcode in {_FREE, _REG}:
            self._slots = 0
        if opcode == _REG:
            self._ioba = args[1]

    def hcall_returned(self, opcode: int, args: tuple[int, ...], rc: int) -> None:
        """See its answer: a registered queue (partner there or not) takes elements from now on."""
        if opcode == _REG and rc in {HcallRc.H_SUCCESS, HcallRc.H_CLOSED}:
            self._ioba = args[1]
            self._slots = args[2] // ELEMENT_BYTES
            self._registration = 0
            self._received = self._consumed = self._reported = 0

    def entry(self, entry: CrqEntry) -> None:
        """Store one element from the hypervisor and raise the irq if it is due."""
        element = entry.element
        if not self._slots or entry.slot >= self._slots or len(element) != ELEMENT_BYTES:
            self._endpoint.counters["crq_entry_refused"] += 1
            return
        self._registration = entry.registration
        self._received += 1
        self._store(entry.slot, element)
        if (self._received - self._reported) * 2 >= self._slots:
            self._report()  # to the hypervisor the ring looks half full: tell what is free
        if entry.irq:
            self.irqs += 1
            self._irq()

    def platform_died(self) -> None:
        """Tell the driver what the lost platform cannot: a transport event "partner failed" in the next slot."""
        if self._slots:
            self._store(self._received % self._slots, b"\xff\x01" + bytes(ELEMENT_BYTES - 2))
            self._received += 1
            self._irq()

    def _store(self, slot: int, element: bytes) -> None:
        at = self._ioba + slot * ELEMENT_BYTES
        self._memory.write(at + 8, element[8:])
        self._memory.write(at, element[:8])

    def consumed(self, total: int) -> None:
        """Take the driver's count of cleared slots and report it when it is time."""
        occupied = self._received - self._consumed
        self._consumed = total
        if total - self._reported >= max(1, self._slots // 4) or occupied * 2 >= self._slots:
            self._report()

    def _report(self) -> None:
        if self._consumed == self._reported:
            return
        self._reported = self._consumed
        envelope = Envelope()
        progress = envelope.crq_progress
        progress.unit = self.unit
        progress.registration = self._registration
        progress.consumed = self._consumed
        self._endpoint.post(self._hypervisor, envelope)
