"""The process in which a recording's counterpart runs: ``pvnet conformance --transport mqtt`` starts it.

It holds exactly one machine (:class:`~pvnet.client.conformance.hosted.Hosted`) and serves it with the messages of a
lab, to a runner that plays the other side:

* the hypervisor of a trace of CRQ hcalls, with the guest's memory: ``hcall``, ``memory_read`` and ``memory_write`` (the
  guest's loads and stores), ``crq_entry`` (its partner of the pair posts), and ``irq`` to the runner;
* the hypervisor of a trace of SCM hcalls, with the metadata areas in files; a flush runs in a thread and lasts until
  ``finish_flush``, because how long the recorded one took was chance;
* the management partition of a VMC session, with its memory and its ``/dev/ibmvmc``: it makes hcalls, takes
  ``crq_entry`` and ``device_io``; ``power_on`` and ``power_off`` load and unload its driver.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import assert_never

from pvnet.capture.hcall_check import LocalCrqTarget
from pvnet.capture.scm_check import LocalScmTarget
from pvnet.client.conformance.hosted import GUEST, HYPERVISOR, Hosted, HostedScm
from pvnet.core.machine import Note
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import MemoryFault, Segment
from pvnet.memory.window import DmaWindow
from pvnet.papr import device_io as io
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.errno import EFAULT, EIO
from pvnet.papr.platform_io import HcallResult
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import FinishFlush, ManagementReply
from pvnet.pb.v1.papr_pb2 import HcallReply, Irq, MemoryReply
from pvnet.runtime.crq_host import CrqHost
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import INLINE_BYTES, HcallClient
from pvnet.runtime.layout import PAGE
from pvnet.runtime.memfd import sealed_memory
from pvnet.runtime.scm_storage import BackingFile, StorageOperation
from pvnet.runtime.service import Node, NodeConfig, run_service
from pvnet.scm.device import MemoryMetadata, MetadataStore, StoreError
from pvnet.vmc.interface import VmcPartitionConfig
from pvnet.vmc.partition import VmcPartition
from pvnet_services.device_files import VMC_PATH, DeviceFiles

_PARTITION_BYTES = 64 << 20
"""More than the buffers of any driver need; what a configuration asks for beyond it is never touched."""


class CrqHypervisor:
    """The hypervisor of CRQ hcalls, and its guest's memory."""

    def __init__(self, endpoint: Endpoint, target: LocalCrqTarget, unit: int) -> None:
        self.endpoint = endpoint
        self._target = target
        self._unit = unit
        endpoint.on("hcall", self._hcall)
        endpoint.on("crq_entry", self._crq_entry)
        _serve_memory(endpoint, target.read, target.write)

    async def start(self) -> None:
        """Serve."""
        self.endpoint.ready("hypervisor of a trace of CRQ hcalls")

    async def stop(self) -> None:
        """Leave."""
        await self.endpoint.stop()

    def _hcall(self, envelope: Envelope) -> None:
        result = self._target.hcall(envelope.hcall.opcode, tuple(envelope.hcall.args))
        self._raise_irq()  # first: who has the answer has seen the interrupt
        _answer(self.endpoint, envelope, result)

    def _crq_entry(self, envelope: Envelope) -> None:
        self._target.partner_post(envelope.crq_entry.unit, envelope.crq_entry.element)
        self._raise_irq()

    def _raise_irq(self) -> None:
        if self._target.take_irq():
            self.endpoint.post(GUEST, Envelope(irq=Irq(unit=self._unit)))


class ScmHypervisorNode:
    """The hypervisor of SCM hcalls, its metadata areas in files below ``directory``."""

    def __init__(self, endpoint: Endpoint, hosted: HostedScm, directory: Path) -> None:
        self.endpoint = endpoint
        self._files: dict[int, BackingFile] = {}
        stores: dict[tuple[str, int], MetadataStore] = {}
        for device in hosted.devices:
            stores[GUEST, device.drc] = MemoryMetadata(0)
            if device.metadata_size:
                file = BackingFile(
                    directory / f"{device.drc:x}.labels",
                    device.metadata_size,
                    StorageOperation.READ_METADATA,
                    StorageOperation.WRITE_METADATA,
                    make_error=StoreError,
                )
                file.write(0, bytes.fromhex(device.metadata))
                stores[GUEST, device.drc] = self._files[device.drc] = file
        self._target = LocalScmTarget(hosted.config(GUEST), stores)
        self._flushes: dict[tuple[int, int], asyncio.Task[int]] = {}
        endpoint.on("hcall", self._hcall)
        endpoint.on("management", self._management)

    async def start(self) -> None:
        """Serve."""
        self.endpoint.ready("hypervisor of a trace of SCM hcalls")

    async def stop(self) -> None:
        """Leave."""
        await self.endpoint.stop()
        for file in self._files.values():
            file.close()

    def _hcall(self, envelope: Envelope) -> None:
        result = self._target.hcall(envelope.hcall.opcode, tuple(envelope.hcall.args))
        for key in self._target.flushes:
            if key not in self._flushes:
                self._flushes[key] = self.endpoint.spawn(self._flush(key[0]), "flush")
        _answer(self.endpoint, envelope, result)

    async def _flush(self, drc: int) -> int:
        """Make the area durable in a thread; returns 0 or an errno."""
        file = self._files.get(drc)
        try:
            await asyncio.get_running_loop().run_in_executor(None, file.sync if file else _nothing)
        except OSError as error:
            return error.errno or EIO
        return 0

    def _management(self, envelope: Envelope) -> None:
        if envelope.management.HasField("finish_flush"):
            self.endpoint.spawn(self._finish(envelope, envelope.management.finish_flush), "finish_flush")
        else:
            self.endpoint.refuse(envelope, "the hypervisor of a recording takes finish_flush only")

    async def _finish(self, envelope: Envelope, command: FinishFlush) -> None:
        running = self._flushes.pop((command.drc, command.token), None)
        if running is not None:
            self._target.finish_flush(command.drc, command.token, await running)
        self.endpoint.reply(envelope, Envelope(management_reply=ManagementReply()))


def _nothing() -> None:
    """Flush a device without anything to make durable: blocks are memory, which no recorded call reaches."""


class VmcNode:
    """A management partition: its memory, its driver, its device file."""

    def __init__(self, endpoint: Endpoint, config: VmcPartitionConfig) -> None:
        self.endpoint = endpoint
        needed = -(-max(config.buffer_ioba + config.buffer_bytes, config.crq_ioba + config.crq_bytes) // PAGE) * PAGE
        size = max(min(needed, _PARTITION_BYTES), config.crq_ioba + config.crq_bytes)
        segment = Segment(sealed_memory(size, GUEST))
        window = DmaWindow(config.lliobn, size)
        window.map(0, 0, size)
        self._memory = DmaMemory(segment, window)
        self._hcalls = HcallClient(endpoint, HYPERVISOR, segment, {config.lliobn: self._memory})
        self._driver = Driver[io.AdapterInput, io.AdapterOutput](VmcPartition(config, self._memory), self._carry_out)
        self._queue = CrqHost(endpoint, HYPERVISOR, config.unit, self._memory, self._irq)
        self._files = DeviceFiles(endpoint, {VMC_PATH: self._driver})
        endpoint.on("crq_entry", lambda envelope: self._queue.entry(envelope.crq_entry))
        endpoint.on("irq", lambda _: self._irq())
        endpoint.on("device_io", self._files.request)
        endpoint.on("management", self._management)
        _serve_memory(endpoint, self._memory.read, self._memory.write)

    async def start(self) -> None:
        """Serve; the driver is not loaded yet."""
        self.endpoint.ready("management partition of a VMC session")

    async def stop(self) -> None:
        """Leave as a partition that crashes does: what the driver would still do is not in the recording."""
        self._driver.close()
        await self.endpoint.stop()

    def _irq(self) -> None:
        self._driver.feed(io.Irq())

    def _carry_out(self, output: io.AdapterOutput) -> None:
        match output:
            case CallHypervisor(tag, opcode, args):
                self._queue.hcall_issued(opcode, args)
                self._hcalls.start(opcode, args, partial(self._returned, tag, opcode, args))
            case io.CrqProgress(consumed):
                self._queue.consumed(consumed)
            case io.DeviceDone(request, result, data):
                self._files.done(self._driver, request, result, data)
            case Note():
                self.endpoint.note(output)
            case _:
                assert_never(output)

    def _returned(self, tag: int, opcode: int, args: tuple[int, ...], rc: int, outs: tuple[int, ...]) -> None:
        self._queue.hcall_returned(opcode, args, rc)
        self._driver.feed(HcallReturned(tag, rc, outs))

    def _management(self, envelope: Envelope) -> None:
        answer = ManagementReply()
        match envelope.management.WhichOneof("command"):
            case "power_on":
                self._driver.feed(io.Probe())
            case "power_off":
                self._driver.feed(io.Remove())
            case "show_status":
                due = self._driver.machine.deadline()
                wait = None if due is None else max(0.0, due - asyncio.get_running_loop().time())
                answer.status_json = json.dumps({"tick_in_s": wait})
            case kind:
                self.endpoint.refuse(envelope, f"the partition of a recording does not take {kind}")
                return
        self.endpoint.reply(envelope, Envelope(management_reply=answer))


def _answer(endpoint: Endpoint, call: Envelope, result: HcallResult) -> None:
    """Answer an hcall: the registers after it, those that it did not write as they were."""
    outs = [*result.outs, *call.hcall.args[len(result.outs) :]]
    endpoint.reply(call, Envelope(hcall_reply=HcallReply(rc=result.rc, outs=outs)))


def _serve_memory(endpoint: Endpoint, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None]) -> None:
    """Answer ``memory_read`` and ``memory_write``; outside of the memory: EFAULT."""

    def memory_read(envelope: Envelope) -> None:
        body, answer = envelope.memory_read, MemoryReply()
        try:
            if body.length > INLINE_BYTES:
                raise MemoryFault(f"{body.length} bytes: expected at most {INLINE_BYTES}")
            answer.data = read(body.address, body.length)
        except MemoryFault:
            answer.error = EFAULT
        endpoint.reply(envelope, Envelope(memory_reply=answer))

    def memory_write(envelope: Envelope) -> None:
        body, answer = envelope.memory_write, MemoryReply()
        try:
            write(body.address, body.data)
        except MemoryFault:
            answer.error = EFAULT
        endpoint.reply(envelope, Envelope(memory_reply=answer))

    endpoint.on("memory_read", memory_read)
    endpoint.on("memory_write", memory_write)


def make_node(endpoint: Endpoint, config: NodeConfig) -> Node:
    """Make the node that the configuration's directory describes."""
    directory = Path(config.directory)
    hosted = Hosted.read(directory, config.node)
    if hosted.crq is not None:
        adapters = hosted.crq.partition.adapters
        unit = next((adapter.unit for adapter in adapters if adapter.crq), 0)
        return CrqHypervisor(endpoint, LocalCrqTarget(hosted.crq.platform()), unit)
    if hosted.scm is not None:
        return ScmHypervisorNode(endpoint, hosted.scm, directory)
    assert hosted.vmc is not None, "one of the three"
    return VmcNode(endpoint, hosted.vmc)


def main() -> int:
    """Run the process."""
    return run_service("trace_host", make_node)


if __name__ == "__main__":
    sys.exit(main())
