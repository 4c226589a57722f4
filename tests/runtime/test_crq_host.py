"""A ring's progress is reported in batches, and still never looks full to the hypervisor when it is not."""

from __future__ import annotations

import asyncio

from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import Segment
from pvnet.memory.window import DmaWindow
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.papr_pb2 import CrqEntry
from pvnet.runtime.crq_host import CrqHost
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.loopback import LoopbackNetwork

SLOTS = 256


def _entry(number: int) -> CrqEntry:
    return CrqEntry(unit=1, registration=1, slot=number % SLOTS, element=b"\x80" + number.to_bytes(15, "big"))


async def _story() -> tuple[list[int], list[int]]:
    network = LoopbackNetwork()
    hypervisor = Endpoint(network.port("hypervisor"), lab="lab", name="hypervisor", role="hypervisor")
    partition = Endpoint(network.port("p"), lab="lab", name="p", role="partition")
    reports: list[int] = []
    hypervisor.on("crq_progress", lambda envelope: reports.append(envelope.crq_progress.consumed))
    for endpoint in (hypervisor, partition):
        await endpoint.start()
        endpoint.ready()
    await partition.wait_peer("hypervisor")
    window = DmaWindow(1, 0x10000)
    window.map(0, 0, 0x10000)
    host = CrqHost(partition, "hypervisor", 1, DmaMemory(Segment(bytearray(0x10000)), window), lambda: None)
    host.hcall_returned(int(HcallOpcode.H_REG_CRQ), (1, 0x1000, SLOTS * 16), 0)
    for number in range(10):
        host.entry(_entry(number))
    host.consumed(10)
    await asyncio.sleep(1)
    early = list(reports)
    for number in range(10, SLOTS // 2):
        host.entry(_entry(number))
    await asyncio.sleep(1)
    for endpoint in (partition, hypervisor):
        await endpoint.stop()
    return early, reports


def test_a_ring_never_looks_full_when_it_is_not() -> None:
    early, reports = run_virtual(_story())
    assert early == [], "a mostly empty ring reports in batches"
    assert reports == [10], "at the hypervisor's half full, what is free is told although nobody has read since"
