"""``crq/unix-rtt``: a CRQ element from a partition through the hypervisor into another partition's queue.

Both partitions are this process, in the places of two that the lab leaves switched off; the hypervisor is the lab's own
process.  One sends with H_SEND_CRQ; the element arrives in the other's queue with its irq, is taken, compared and
cleared, and the progress is reported as the queue fills.  From the send to the irq that is a message to the hypervisor
and one back, over the direct path, as a round trip of the peer is: ``uvloop-unix``, a bare stream echo of messages as
long as the one that brings an element.  ``eventfd`` is the floor: two processes that only wake each other.

All processes share one CPU: waking a process on another one costs more than everything that is measured here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from pvnet.bench.hcall import hcall_topology, partition_endpoint
from pvnet.bench.pair import open_pair
from pvnet.bench.pair_contender import PairContender
from pvnet.bench.placement import Placement, pinned
from pvnet.bench.report import Result
from pvnet.bench.rounds import OURS, Contender, Measured, Round, compare, keep_in_flight
from pvnet.bench.unix_peer import UnixStreamContender
from pvnet.client import Lab
from pvnet.core.errors import UnreachableError
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_BOTH, DmaWindow
from pvnet.papr.crq import ELEMENT_BYTES, to_words
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.crq_host import CrqHost
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import HcallClient
from pvnet.runtime.layout import DMA_BASE, PAGE, AdapterLayout, partition_layout
from pvnet.runtime.topology import HYPERVISOR, Topology

CASE: Final = "unix-rtt"
_HEADER: Final = b"\x80"
_CLOSED_IS_FINE: Final = frozenset({HcallRc.H_SUCCESS, HcallRc.H_CLOSED})


class Queue:
    """A partition with one CRQ: registered, interrupts on; ``on_element`` gets what arrives, in order."""

    def __init__(self, endpoint: Endpoint, layout: AdapterLayout) -> None:
        self.unit = int(layout.unit)
        self.on_element: Callable[[bytes], None] = lambda _: None
        self.hcalls = HcallClient(endpoint, HYPERVISOR, Segment(bytearray()), {})
        self.entry_bytes = 0
        self._layout = layout
        self._slots = layout.crq_bytes // ELEMENT_BYTES
        window = DmaWindow(int(layout.liobn), layout.crq_bytes)
        window.map(0, 0, layout.crq_bytes)
        self._queue = DmaMemory(Segment(bytearray(layout.crq_bytes)), window)
        self._host = CrqHost(endpoint, HYPERVISOR, self.unit, self._queue, self._irq)
        self._taken = 0
        endpoint.on("crq_entry", self._entry)

    async def open(self) -> None:
        """Map and register it.

        :raises UnreachableError: the hypervisor does not take it.
        """
        ioba, size = int(self._layout.crq_ioba), self._layout.crq_bytes
        for at in range(0, size, PAGE):
            tce = DMA_BASE + ioba + at | ACCESS_BOTH
            await self._must(HcallOpcode.H_PUT_TCE, int(self._layout.liobn), ioba + at, tce)
        # Our own copy of the queue lies at the start of a window of its own.
        self._host.hcall_issued(HcallOpcode.H_REG_CRQ, (self.unit, 0, size))
        rc = await self._must(HcallOpcode.H_REG_CRQ, self.unit, ioba, size)
        self._host.hcall_returned(HcallOpcode.H_REG_CRQ, (self.unit, 0, size), rc)
        await self._must(HcallOpcode.H_VIO_SIGNAL, self.unit, 1)

    async def _must(self, opcode: int, *args: int) -> int:
        rc, _ = await self.hcalls.call(opcode, args)
        if rc not in _CLOSED_IS_FINE:
            raise UnreachableError(f"the hypervisor answers {HcallRc(rc)} to {HcallOpcode(opcode)}")
        return rc

    def send(self, element: bytes, answered: Callable[[int, tuple[int, ...]], None]) -> None:
        """H_SEND_CRQ; its answer comes after what the element causes."""
        self.hcalls.start(HcallOpcode.H_SEND_CRQ, (self.unit, *to_words(element)), answered)

    def _entry(self, envelope: Envelope) -> None:
        self.entry_bytes = envelope.ByteSize()
        self._host.entry(envelope.crq_entry)

    def _irq(self) -> None:
        """Take what is in the queue, as a driver does."""
        while True:
            at = self._taken % self._slots * ELEMENT_BYTES
            element = self._queue.read(at, ELEMENT_BYTES)
            if not element[0]:
                break
            self._queue.write(at, b"\0")
            self._taken += 1
            self.on_element(element)
        self._host.consumed(self._taken)


class CrqContender:
    """Sends from one partition and waits at the other."""

    name = OURS
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, sender: Queue, receiver: Queue) -> None:
        self._sender = sender
        self._receiver = receiver
        self._waiting: asyncio.Future[bytes] | None = None
        self._refused = 0
        receiver.on_element = self._arrived

    @property
    def message_bytes(self) -> int:
        """Length of the message that brought the latest element."""
        return self._receiver.entry_bytes

    def _arrived(self, element: bytes) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(element)

    def _answered(self, rc: int, _outs: tuple[int, ...]) -> None:
        self._refused += rc != HcallRc.H_SUCCESS

    async def send(self, number: int) -> bool:
        """Send one element; whether it is what arrives."""
        element = _HEADER + number.to_bytes(ELEMENT_BYTES - 1)
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._sender.send(element, self._answered)
        return bool(await waiting == element)

    async def round(self, count: int, in_flight: int) -> Round:  # noqa: ARG002 - one after the other
        """Send ``count`` elements, one after the other."""
        self._refused = 0
        shown = await keep_in_flight(self.send, count, 1)
        return Round(shown.times, shown.seconds, shown.wrong + self._refused)


@asynccontextmanager
async def crq_contender(topology: Topology, broker: str) -> AsyncIterator[CrqContender]:
    """Be both partitions of :func:`~pvnet.bench.hcall.hcall_topology` in a lab that runs."""
    async with AsyncExitStack() as stack:
        queues = []
        for partition in topology.partitions:
            endpoint = await stack.enter_async_context(partition_endpoint(topology, broker, partition.name))
            queue = Queue(endpoint, partition_layout(topology, partition.name).adapters[0])
            await queue.open()
            queues.append(queue)
        contender = CrqContender(*queues)
        await contender.send(0)
        yield contender


async def bench_crq(*, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]) -> list[Result]:
    """Measure the case; returns round trip times and rates."""
    if CASE not in cases:
        return []
    placement = Placement.together()
    topology = hcall_topology(broker, unix=True)
    rounds, count, warm_up = (3, 800, 300) if quick else (9, 5000, 1000)
    with pinned(placement.cpus):  # before anything is started, so that all of it stays there
        async with Lab(topology) as lab, AsyncExitStack() as stack:
            assert lab.processes is not None
            chosen = lab.processes.supervisor.broker
            tell(f"broker: {chosen.description}")
            ours = await stack.enter_async_context(crq_contender(topology, chosen.url.text()))
            stream = await stack.enter_async_context(UnixStreamContender(ours.message_bytes))
            floor = PairContender(await stack.enter_async_context(open_pair("eventfd", placement, one_way=False)))
            contenders: list[Contender] = [ours, stream, floor]
            measured = await compare(contenders, rounds=rounds, count=count, warm_up=warm_up, in_flight=1)
    results = case_results(measured, ours.message_bytes, f"all processes on CPU {placement.asks}")
    tell(case_line(measured))
    return results


def case_results(measured: dict[str, Measured], size: int, placement: str) -> list[Result]:
    """Write the case down: round trip times and rates."""
    ours = measured[OURS]
    peers = {peer: shown for peer, shown in measured.items() if peer != OURS}
    notes: dict[str, Any] = {
        "placement": placement,
        "message_bytes": size,
        "p99_s": {name: shown.p99.median for name, shown in measured.items()},
    }
    times = {peer: shown.p50 for peer, shown in peers.items()}
    rates = {peer: shown.per_s for peer, shown in peers.items()}
    return [
        Result("crq", CASE, "round_trip_s", "s", ours.p50, times, ours.wrong, notes),
        Result("crq", CASE, "per_s", "1/s", ours.per_s, rates, ours.wrong, notes),
    ]


def case_line(measured: dict[str, Measured]) -> str:
    """Say the case in a line."""
    ours = measured[OURS]
    peers = "; ".join(
        f"{peer} p50 {shown.p50.median * 1e6:.1f} us (we: {ours.p50.median / shown.p50.median:.1f} times that)"
        for peer, shown in measured.items()
        if peer != OURS
    )
    p50, p99 = (series.median * 1e6 for series in (ours.p50, ours.p99))
    return f"crq/{CASE}: p50 {p50:.1f} us, p99 {p99:.1f} us, {ours.wrong} lost; {peers}"
