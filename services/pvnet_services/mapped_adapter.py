"""One CRQ adapter inside a partition: its DMA window, its driver machine, the firmware's half of its queue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, assert_never

from pvnet.core.errors import UnreachableError
from pvnet.core.machine import Note
from pvnet.memory.dma import DmaMemory
from pvnet.memory.window import ACCESS_BOTH, DmaWindow
from pvnet.papr import device_io as io
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq_device import CrqDevice
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.runtime.crq_host import CrqHost
from pvnet.runtime.driver import Driver
from pvnet.runtime.layout import DMA_BASE, PAGE, WINDOW_BYTES, AdapterLayout
from pvnet.runtime.topology import HYPERVISOR
from pvnet.vmc.partition import VmcPartition

if TYPE_CHECKING:
    from pvnet_services.partition import PartitionNode

_TCES_PER_CALL = 512
_RC_WITHOUT_PLATFORM: dict[int, int] = {
    HcallOpcode.H_REG_CRQ: HcallRc.H_CLOSED,
    HcallOpcode.H_SEND_CRQ: HcallRc.H_CLOSED,
    HcallOpcode.H_FREE_CRQ: HcallRc.H_SUCCESS,
    HcallOpcode.H_ENABLE_CRQ: HcallRc.H_SUCCESS,
    HcallOpcode.H_VIO_SIGNAL: HcallRc.H_SUCCESS,
}
"""What a driver hears of its CRQ while there is no hypervisor: its partner is away, its adapter is not broken.
It waits then, until the adapters are probed again."""


DriverMachine = VmcPartition | CrqDevice


class MappedAdapter:
    """One adapter: its window as the partition knows it, its driver machine, its queue's firmware half."""

    def __init__(self, node: PartitionNode, layout: AdapterLayout, make: Callable[[DmaMemory], DriverMachine]) -> None:
        self.layout = layout
        self.node = node
        self.window = DmaWindow(layout.liobn, WINDOW_BYTES)
        self.memory = DmaMemory(node.memory, self.window)
        self.machine = make(self.memory)
        self.driver = Driver[io.AdapterInput, io.AdapterOutput](self.machine, self._carry_out)
        self.host = CrqHost(node.endpoint, HYPERVISOR, layout.unit, self.memory, self._irq)

    def _irq(self) -> None:
        self.driver.feed(io.Irq())

    async def map(self) -> None:
        """Map the DMA area page by page, in calls of up to 512 TCEs whose list lies in the partition's first page."""
        pages = min((self.node.memory.size - DMA_BASE) // PAGE, WINDOW_BYTES // PAGE)
        for first in range(1, pages, _TCES_PER_CALL):
            count = min(_TCES_PER_CALL, pages - first)
            tces = tuple(DMA_BASE + (first + i) * PAGE | ACCESS_BOTH for i in range(count))
            self.node.memory.write(0, b"".join(tce.to_bytes(8, "big") for tce in tces))
            args = (int(self.layout.liobn), first * PAGE, 0, count)
            rc, _ = await self.node.hcalls.call(HcallOpcode.H_PUT_TCE_INDIRECT, args)
            if rc:
                raise UnreachableError(f"the hypervisor refuses TCEs of liobn {self.layout.liobn:#x}: {HcallRc(rc)}")
            self.window.put_list(first * PAGE, tces)

    def _carry_out(self, output: io.AdapterOutput) -> None:
        match output:
            case CallHypervisor(tag, opcode, args):
                self.host.hcall_issued(opcode, args)
                gone = _RC_WITHOUT_PLATFORM.get(opcode, HcallRc.H_HARDWARE)
                self.node.hcalls.start(opcode, args, partial(self._returned, tag, opcode, args), if_gone=gone)
            case io.CrqProgress(consumed):
                self.host.consumed(consumed)
            case io.DeviceDone(request, result, data):
                self.node.files.done(self.driver, request, result, data)
            case Note():
                self.node.note(self.layout.unit, output)
            case _:
                assert_never(output)

    def _returned(self, tag: int, opcode: int, args: tuple[int, ...], rc: int, outs: tuple[int, ...]) -> None:
        self.host.hcall_returned(opcode, args, rc)
        self.driver.feed(HcallReturned(tag, rc, outs))
