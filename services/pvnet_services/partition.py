"""A partition: owns its memory, runs its drivers, offers their character devices to other processes.

Life: connect, wait for the hypervisor, map the DMA windows (H_PUT_TCE_INDIRECT), probe the adapters, serve.  When the
hypervisor dies, every driver sees "partner failed"; when it is back, the windows are mapped again and the adapters
are probed again; open files of the old sessions end as the driver says (EBADFD, EIO).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from functools import partial

from pvnet.client.scm_layout import guest_config
from pvnet.core.errors import PvnetError, UnreachableError
from pvnet.core.machine import Note
from pvnet.memory.dma import DmaMemory
from pvnet.papr import device_io as io
from pvnet.papr.crq_device import CrqDevice, CrqDeviceConfig
from pvnet.papr.errno import EFAULT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply
from pvnet.pb.v1.papr_pb2 import MemoryReply
from pvnet.runtime.endpoint import READY, Endpoint
from pvnet.runtime.hcall_client import INLINE_BYTES, HcallClient
from pvnet.runtime.layout import BUFFER_IOBA, partition_layout
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.topology import BRIDGE, HYPERVISOR
from pvnet.scm.guest_interface import GUEST_POLICIES
from pvnet.transport.link import PeerDown, PeerUp
from pvnet.vmc import interface as vmc
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import DIALECTS
from pvnet.vmc.partition import VmcPartition
from pvnet_services.device_files import CRQ_PATH, VMC_PATH, AdapterDriver, DeviceFiles
from pvnet_services.device_server import DeviceServer
from pvnet_services.guest_mdevs import GuestMdevs
from pvnet_services.guest_net import GuestNet
from pvnet_services.mapped_adapter import MappedAdapter
from pvnet_services.memory_share import PartitionMemory
from pvnet_services.scm_node import NMEM_PATH, PMEM_PATH, ScmAdapter
from pvnet_services.status import partition_vmc

_FAREWELL_S = 2.0


class PartitionNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        topology = config.topology
        self.endpoint = endpoint
        self.layout = partition_layout(topology, config.node)
        self.timeout = topology.lab.ready_timeout_s
        self.shared = PartitionMemory(endpoint, HYPERVISOR, self.layout.memory_bytes)
        self.memory = self.shared.segment
        windows: dict[int, DmaMemory] = {}
        self.hcalls = HcallClient(endpoint, HYPERVISOR, self.memory, windows)
        self.shared.offer(self.hcalls)
        self.adapter: MappedAdapter | None = None
        """The VMC adapter, in a management partition."""
        self.adapters: dict[int, MappedAdapter] = {}
        """All adapters by unit address."""
        devices: dict[str, MappedAdapter] = {}
        vmc_config, layout = topology.vmc_of(topology.partition(config.node)), self.layout.vmc
        if vmc_config is not None and layout is not None:
            assert layout.rliobn is not None, "a VMC adapter has two panes"
            machine = vmc.VmcPartitionConfig(
                unit=layout.unit,
                lliobn=layout.liobn,
                rliobn=layout.rliobn,
                crq_ioba=layout.crq_ioba,
                crq_bytes=layout.crq_bytes,
                buffer_ioba=BUFFER_IOBA,
                buffer_bytes=layout.buffer_bytes,
                max_hmcs=vmc_config.max_hmcs,
                pool_size=vmc_config.pool_size,
                max_mtu=vmc_config.max_mtu,
                dialect=DIALECTS[vmc_config.dialect],
            )
            self.adapter = devices[VMC_PATH] = MappedAdapter(self, layout, partial(VmcPartition, machine))
        for number, pair in enumerate(self.layout.pairs):
            queue = CrqDeviceConfig(pair.unit, pair.crq_ioba, pair.crq_bytes)
            devices[f"{CRQ_PATH}{number}"] = MappedAdapter(self, pair, partial(CrqDevice, queue))
        for adapter in devices.values():
            self.adapters[adapter.layout.unit] = adapter
            windows[adapter.layout.liobn] = adapter.memory
        partition = topology.partition(config.node)
        self.scm = [
            ScmAdapter(
                endpoint,
                self.hcalls,
                self.memory,
                guest_config(topology, partition, number),
                self._device_done,
                GUEST_POLICIES[device.driver],
            )
            for number, device in enumerate(partition.scm)
        ]
        drivers: dict[str, AdapterDriver] = {path: adapter.driver for path, adapter in devices.items()}
        drivers |= {f"{NMEM_PATH}{number}": device.driver for number, device in enumerate(self.scm)}
        blocks = {f"{PMEM_PATH}{number}": device for number, device in enumerate(self.scm)}
        self.files = DeviceFiles(endpoint, drivers, blocks)
        self.sockets = None if vmc_config is None else DeviceServer(self.files, endpoint, config.directory)
        self._listen = [] if vmc_config is None else vmc_config.listen
        self.drivers: list[AdapterDriver] = [
            *(adapter.driver for adapter in self.adapters.values()),
            *(d.driver for d in self.scm),
        ]
        self._hypervisor = 0
        """Incarnation of the hypervisor that we are attached to, or attaching to; 0: none."""
        self._attachments = 0
        self._vmc_ready = asyncio.Event()
        self._problem: PvnetError | None = None
        self.net = GuestNet(endpoint, topology, config.node)
        self._has_bridge = topology.has_bridge
        """Whether there was a vbus host when we were started; without one there may be one later."""
        self.mdevs = GuestMdevs(endpoint, topology, config.node, self.files)
        # Before the endpoint starts: whoever sees our birth may call at once.
        endpoint.on("crq_entry", self._crq_entry)
        endpoint.on("irq", self._irq)
        endpoint.on("memory_read", self._memory_read)
        endpoint.on("memory_write", self._memory_write)
        endpoint.on("device_io", self.files.request)
        endpoint.on("management", self._management)
        endpoint.on_peer_down.append(self._peer_down)
        endpoint.on_peer_up.append(self._peer_up)

    async def start(self) -> None:
        """Serve once the hypervisor is there and the VMC, if we have one, has come up."""
        endpoint = self.endpoint
        self.net.open_taps()
        await endpoint.wait_peer(HYPERVISOR, timeout=self.timeout)
        if self.adapter is not None:
            await self._vmc_up(self.adapter)
        await self._scm_up()
        self.mdevs.start()
        if self._has_bridge:
            await self.net.settled(self.timeout / 2)
        else:
            endpoint.watch(BRIDGE)
        await self.mdevs.settled(self.timeout / 2)
        if self.sockets is not None:
            await self.sockets.start(self._listen)
        endpoint.ready("management partition" if self.adapter is not None else "partition")

    async def _vmc_up(self, adapter: MappedAdapter) -> None:
        """Wait for the capabilities exchange, which the machine tells by a note."""
        try:
            async with asyncio.timeout(self.timeout):
                await self._vmc_ready.wait()
        except TimeoutError:
            state = adapter.machine.state.name.lower()
            raise UnreachableError(f"the VMC did not come up within {self.timeout:g} s (state {state})") from None
        if self._problem is not None:
            raise self._problem

    async def _scm_up(self) -> None:
        """Wait until every device is usable, or is known not to be."""
        try:
            async with asyncio.timeout(self.timeout):
                for device in self.scm:
                    await device.rested.wait()
        except TimeoutError:
            states = ", ".join(f"{d.machine.config.drc:#x} {d.machine.state.name.lower()}" for d in self.scm)
            raise UnreachableError(f"the SCM devices did not come up within {self.timeout:g} s ({states})") from None

    async def stop(self) -> None:
        """Deregister the adapters as a driver that is unloaded does, then leave."""
        if self.sockets is not None:
            await self.sockets.stop()
        await self.mdevs.stop(_FAREWELL_S)
        await self.net.stop(_FAREWELL_S)
        for driver in self.drivers:
            driver.feed(io.Remove())
        await self.hcalls.finish(_FAREWELL_S)  # or our death could arrive before the last call
        for driver in self.drivers:
            driver.close()
        self.shared.close()
        await self.endpoint.stop()

    # --- the platform comes and goes ---------------------------------------------------------------------------------

    def _peer_down(self, event: PeerDown) -> None:
        self.files.owner_died(event.node)
        if event.node == HYPERVISOR:
            self._hypervisor = 0  # it may come back as the same incarnation, when only the connection was lost
            for adapter in self.adapters.values():
                adapter.host.platform_died()

    def _peer_up(self, event: PeerUp) -> None:
        if event.node == HYPERVISOR and event.phase >= READY and event.incarnation != self._hypervisor:
            self._hypervisor = event.incarnation
            self._attachments += 1
            if self.drivers:
                self.endpoint.spawn(self._attach(self._attachments), "attach")

    async def _attach(self, number: int) -> None:
        """Map the windows and probe; gives up when the hypervisor dies meanwhile: the next one is attached to."""
        if number > 1:
            for driver in self.drivers:
                driver.feed(io.Remove())
        try:
            for adapter in self.adapters.values():
                await adapter.map()
        except PvnetError as error:
            self.endpoint.log.warning("attach_failed", error=str(error))
            if self._hypervisor and self._attachments == number:
                self._problem = error
                self._vmc_ready.set()
            return
        if self._hypervisor and self._attachments == number:
            for driver in self.drivers:
                driver.feed(io.Probe())

    # --- messages ----------------------------------------------------------------------------------------------------

    def _from_hypervisor(self, envelope: Envelope) -> bool:
        if envelope.source == HYPERVISOR:
            return True
        self.endpoint.counters["not_the_hypervisor"] += 1
        if envelope.correlation:
            self.endpoint.refuse(envelope, f"{envelope.source} is not the hypervisor of {self.endpoint.name}")
        return False

    def _crq_entry(self, envelope: Envelope) -> None:
        entry = envelope.crq_entry
        if not self._from_hypervisor(envelope):
            return
        adapter = self.adapters.get(entry.unit)
        if adapter is None:
            self.endpoint.counters["crq_entry_refused"] += 1
        else:
            adapter.host.entry(entry)

    def _irq(self, envelope: Envelope) -> None:
        if self._from_hypervisor(envelope) and envelope.irq.unit in self.adapters:
            self.adapters[envelope.irq.unit].driver.feed(io.Irq())

    def _memory_read(self, envelope: Envelope) -> None:
        if not self._from_hypervisor(envelope):
            return
        body, answer = envelope.memory_read, MemoryReply()
        if body.length <= INLINE_BYTES and self.memory.contains(body.address, body.length):
            answer.data = self.memory.read(body.address, body.length)
        else:
            answer.error = EFAULT
        self.endpoint.reply(envelope, Envelope(memory_reply=answer))

    def _memory_write(self, envelope: Envelope) -> None:
        if not self._from_hypervisor(envelope):
            return
        body, answer = envelope.memory_write, MemoryReply()
        if self.memory.contains(body.address, len(body.data)):
            self.memory.write(body.address, body.data)
        else:
            answer.error = EFAULT
        self.endpoint.reply(envelope, Envelope(memory_reply=answer))

    def _management(self, envelope: Envelope) -> None:
        command = envelope.management
        match command.WhichOneof("command"):
            case "show_status":
                answer = ManagementReply(status_json=json.dumps(self._status()))
                self.endpoint.reply(envelope, Envelope(management_reply=answer))
            case "issue_hcall":
                self.endpoint.spawn(self._issue_hcall(envelope), "hcall")
            case "ping":
                self.endpoint.spawn(self._answer_json(self.net.ping(command.ping), envelope), "ping")
            case "devcall":
                self.endpoint.spawn(self._answer_json(self.net.devcall(command.devcall), envelope), "devcall")
            case "mdev_assign":
                self.endpoint.spawn(self._answer_json(self.mdevs.assign(command.mdev_assign), envelope), "assign")
            case "device_socket" if self.sockets is not None:
                work = self.sockets.command(command.device_socket)
                self.endpoint.spawn(self._answer_json(work, envelope), "device-socket")
            case kind:
                self.endpoint.refuse(envelope, f"a partition does not take {kind}")

    async def _issue_hcall(self, envelope: Envelope) -> None:
        command = envelope.management.issue_hcall
        seconds = envelope.deadline_ms / 1000 or self.timeout
        try:
            rc, outs = await self.hcalls.call(
                command.opcode, tuple(command.args), retry_busy=command.retry_busy, timeout=seconds
            )
        except PvnetError as error:
            self.endpoint.refuse(envelope, str(error))
        else:
            self.endpoint.reply(envelope, Envelope(management_reply=ManagementReply(rc=rc, outs=outs)))

    async def _answer_json(self, work: Awaitable[dict[str, object]], envelope: Envelope) -> None:
        try:
            shown = await work
        except PvnetError as error:
            self.endpoint.refuse(envelope, str(error))
        else:
            answer = ManagementReply(status_json=json.dumps(shown))
            self.endpoint.reply(envelope, Envelope(management_reply=answer))

    def _device_done(self, driver: AdapterDriver, request: int, result: int, data: bytes) -> None:
        self.files.done(driver, request, result, data)

    def note(self, unit: int, note: Note) -> None:
        """Count and log what an adapter's machine noticed."""
        self.endpoint.note(note, unit=f"{unit:#x}")
        if self.adapter is not None and self.adapter.machine.state == VmcState.READY:
            self._vmc_ready.set()

    def _status(self) -> dict[str, object]:
        status: dict[str, object] = {
            "memory_bytes": self.layout.memory_bytes,
            "open_files": self.files.open_count,
            "device_calls_under_way": self.files.calls_under_way,
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }
        status["net"] = self.net.shown()
        status["mdevs"] = self.mdevs.shown()
        status["scm"] = [device.status() for device in self.scm]
        if self.sockets is not None:
            status["sockets"] = self.sockets.shown()
        for adapter in self.adapters.values():
            machine = adapter.machine
            if isinstance(machine, VmcPartition):
                status["vmc"] = partition_vmc(machine)
            else:
                status[f"crq {adapter.layout.unit:#x}"] = machine.state.name.lower()
        return status


def main() -> int:
    """Run the process."""
    return run_service("partition", PartitionNode)


if __name__ == "__main__":
    sys.exit(main())
