"""The hypervisor: executes hcalls, owns the buffers of the VMC, answers management applications.

It joins machines, and has no protocol of its own: :class:`~pvnet.papr.platform.Platform` (hcalls, CRQs, windows), one
:class:`~pvnet.vmc.hypervisor.VmcHypervisor` per VMC adapter, and what a session's payload asks for
(``payloads``).  A hypervisor that restarts has forgotten everything; its partitions notice and start anew.

The supervisor may say at any time which partitions there are (``UseTopology``).  What concerns a partition that is on
changes when that has ended; which is what the platform's :class:`~pvnet.papr.platform_io.DefinePartition` expects.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import assert_never

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.papr import platform_io as io
from pvnet.papr.errno import EIO
from pvnet.papr.extension import ExtensionOutput
from pvnet.papr.hcall import HcallOpcode
from pvnet.papr.platform import Platform
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply, UseTopology
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.layout import AdapterLayout, PartitionLayout
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.topology import SUPERVISOR, Topology
from pvnet.runtime.topology_wire import unpacked
from pvnet.transport.link import PeerDown, PeerUp
from pvnet.vmc import hypervisor_io as vmc
from pvnet.vmc.hypervisor import VmcHypervisor
from pvnet_services.memory_share import MappedMemories
from pvnet_services.partition_plans import partition_plans
from pvnet_services.payloads import PayloadServer
from pvnet_services.rdma_contents import RdmaContents
from pvnet_services.scm_host import ScmHost
from pvnet_services.status import hypervisor_vmc

_MEMORY_TIMEOUT_S = 10.0
_COPY_RDMA = int(HcallOpcode.H_COPY_RDMA)
_SEND_CRQ = int(HcallOpcode.H_SEND_CRQ)


class HypervisorNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        topology = config.topology
        self.endpoint = endpoint
        self.topology = topology
        self.plans = partition_plans(topology)
        """Partitions as the platform has them."""
        self._wanted = self.plans
        """Partitions as the topology has them: what differs changes when the partition is off."""
        self.scm = ScmHost(endpoint, topology, config.directory)
        platform = io.PlatformConfig(
            tuple(plan.config for plan in self.plans.values()), io.PROFILES[topology.hypervisor.profile]
        )
        self.platform = Platform(platform, [self.scm.machine])
        self._machine = Driver[io.PlatformInput, io.PlatformOutput](self.platform, self._carry_out)
        self.scm.attach(self._machine.feed)
        self._calls: dict[int, Envelope] = {}
        self._tag = 0
        self._known_incarnation: dict[str, int] = {}
        self._late_replies: list[tuple[Envelope, Envelope]] = []
        self.adapters = {
            (name, int(plan.layout.vmc.unit)): VmcAdapter(self, topology, name, plan.layout.vmc)
            for name, plan in self.plans.items()
            if plan.layout.vmc is not None
        }
        # Before the endpoint starts: whoever sees our birth may call at once.
        endpoint.on("hcall", self._hcall)
        endpoint.on("crq_progress", self._crq_progress)
        endpoint.on("management", self._management)
        endpoint.on("memory_read", self.scm.memory_read)
        endpoint.on("memory_write", self.scm.memory_write)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_down.append(self._peer_down)
        self.memories = MappedMemories(endpoint, self._memory_sizes, self._machine.feed)
        self._contents = RdmaContents(endpoint, self.platform)

    @property
    def layouts(self) -> dict[str, PartitionLayout]:
        """Layouts of the partitions that the platform has."""
        return {name: plan.layout for name, plan in self.plans.items()}

    async def start(self) -> None:
        """Serve."""
        endpoint = self.endpoint
        for partition, unit in self.adapters:
            self.carry_all(self.platform.partner_register(partition, unit))
        for name in (SUPERVISOR, *self.plans):
            endpoint.watch(name)
        endpoint.ready(f"{len(self.plans)} partitions, profile {self.platform.profile.name}")

    async def stop(self) -> None:
        """Leave."""
        self._machine.close()
        for adapter in self.adapters.values():
            adapter.close()
        await self.endpoint.stop()
        await self.scm.close()

    # --- partitions ------------------------------------------------------------------------------------------------

    def _peer_up(self, event: PeerUp) -> None:
        name = event.node
        if self._known_incarnation.get(name) == event.incarnation:
            return
        self._ended(name)
        if name in self.plans:
            self._known_incarnation[name] = event.incarnation
            self._machine.feed(io.PartitionStarted(name))

    def _peer_down(self, event: PeerDown) -> None:
        self._ended(event.node)

    def _ended(self, name: str) -> None:
        """A partition is off, if it was on."""
        if self._known_incarnation.pop(name, None) is not None:
            self._machine.feed(io.PartitionDied(name))
            # The platform forgets the dead caller's unfinished copies without an answer.
            for tag in [tag for tag, call in self._calls.items() if call.source == name]:
                del self._calls[tag]
            self._settle(name)

    def _memory_sizes(self, name: str) -> tuple[int, ...]:
        """Sizes that a partition's memory may have: that in force first, then that of its next life."""
        plans = (self.plans.get(name), self._wanted.get(name))
        return tuple(plan.layout.memory_bytes for plan in plans if plan is not None)

    def _settle(self, name: str) -> None:
        """Make a partition what the topology says, unless it is on."""
        if name in self._known_incarnation:
            return
        plan, wanted = self.plans.get(name), self._wanted.get(name)
        if plan != wanted:
            if plan is not None and plan.layout.vmc is not None:
                self.adapters.pop((name, int(plan.layout.vmc.unit))).close()
            if wanted is None:
                self._machine.feed(io.RemovePartition(name))
                self.plans.pop(name)
                self.endpoint.forget(name)
            else:
                self._machine.feed(io.DefinePartition(wanted.config))
                self.plans[name] = wanted
                if wanted.layout.vmc is not None:
                    unit = int(wanted.layout.vmc.unit)
                    self.adapters[name, unit] = VmcAdapter(self, self.topology, name, wanted.layout.vmc)
                    self.carry_all(self.platform.partner_register(name, unit))
        self.scm.settle(name)

    def _use_topology(self, command: UseTopology) -> ManagementReply:
        """Take a new topology; one that cannot be changes nothing."""
        try:
            topology = unpacked(command.topology, self.topology.broker)
            if topology.hypervisor != self.topology.hypervisor or topology.lab != self.topology.lab:
                raise ConfigError("the new topology has another [lab] or [hypervisor]: expected those of the start")
            wanted = partition_plans(topology)
            self.scm.prepare(topology)
        except ConfigError as error:
            return ManagementReply(status=ManagementReply.FAILED, text=str(error))
        names = self.plans.keys() | wanted.keys()
        self.topology, self._wanted = topology, wanted
        for name in sorted(names):
            self._settle(name)
            if name in self.plans:
                self.endpoint.watch(name)
        later = [name for name in sorted(names) if self.plans.get(name) != wanted.get(name)]
        return ManagementReply(status_json=json.dumps({"later": later}))

    def _hcall(self, envelope: Envelope) -> None:
        body = envelope.hcall
        self._tag += 1
        self._calls[self._tag] = envelope
        memory = body.memory if body.HasField("memory") else None
        self._machine.feed(
            io.HcallRequest(envelope.source, self._tag, body.opcode, tuple(body.args), memory, body.problem_state)
        )
        for call, reply in self._late_replies:
            self.endpoint.reply(call, reply)
        self._late_replies.clear()

    def _crq_progress(self, envelope: Envelope) -> None:
        body = envelope.crq_progress
        self._machine.feed(io.CrqConsumed(envelope.source, body.unit, body.registration, body.consumed))

    def feed(self, event: io.PlatformInput) -> None:
        """Give the platform an input of your own: a fault, a suspension."""
        self._machine.feed(event)

    # --- outputs of the platform --------------------------------------------------------------------------------------

    def carry_all(self, outputs: list[io.PlatformOutput]) -> None:
        """Do what the platform wants, in order."""
        for output in outputs:
            self._carry_out(output)

    def _carry_out(self, output: io.PlatformOutput) -> None:
        match output:
            case io.HcallResult():
                self._result(output)
            case io.DeliverCrq(partition, unit, registration, slot, element, irq):
                envelope = Envelope()
                entry = envelope.crq_entry
                entry.unit, entry.registration, entry.slot = unit, registration, slot
                entry.element = element
                entry.irq = irq
                self.endpoint.post(partition, envelope)
            case io.PartnerElement(partition, unit, element):
                self.adapters[partition, unit].driver.feed(vmc.PartnerElement(element))
            case io.PartnerRegistered(partition, unit, slots):
                self.adapters[partition, unit].driver.feed(vmc.PartnerUp(slots))
            case io.ReadMemory(tag, partition, address, length):
                envelope = Envelope()
                envelope.memory_read.address, envelope.memory_read.length = address, length
                self._memory_call(partition, envelope, tag)
            case io.WriteMemory(tag, partition, address, data):
                envelope = Envelope()
                envelope.memory_write.address, envelope.memory_write.data = address, data
                self._memory_call(partition, envelope, tag)
            case io.RaiseIrq(partition, unit):
                envelope = Envelope()
                envelope.irq.unit = unit
                self.endpoint.post(partition, envelope)
            case ExtensionOutput():
                self.scm.carry_out(output)
            case Note():
                self.endpoint.note(output)
            case _:
                assert_never(output)

    def _result(self, output: io.HcallResult) -> None:
        call = self._calls.pop(output.tag, None)
        if call is None:
            return  # its caller has died
        envelope = Envelope()
        reply = envelope.hcall_reply
        reply.rc = output.rc
        args = list(call.hcall.args)
        args[: len(output.outs)] = output.outs
        reply.outs.extend(args)
        if output.memory is not None:
            reply.memory = output.memory
        elif call.hcall.opcode == _COPY_RDMA and not output.rc:
            self._contents.copied(call)
        if call.hcall.opcode == _SEND_CRQ:
            # Nobody waits for this answer, but somebody waits for what the element causes: that goes first.
            self._late_replies.append((call, envelope))
        else:
            self.endpoint.reply(call, envelope)

    def _memory_call(self, partition: str, envelope: Envelope, tag: int) -> None:
        self.endpoint.call_back(partition, envelope, _MEMORY_TIMEOUT_S, partial(self._memory_done, tag))

    def _memory_done(self, tag: int, result: Envelope | PvnetError) -> None:
        if isinstance(result, PvnetError):
            self._machine.feed(io.MemoryDone(tag, EIO))
        else:
            reply = result.memory_reply
            self._machine.feed(io.MemoryDone(tag, reply.error, reply.data))

    # --- management ------------------------------------------------------------------------------------------------

    def _management(self, envelope: Envelope) -> None:
        kind = envelope.management.WhichOneof("command")
        if kind == "scm_inject":
            answer = self.scm.inject(envelope.management.scm_inject)
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
            return
        if kind == "use_topology" and envelope.source == SUPERVISOR:
            answer = self._use_topology(envelope.management.use_topology)
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
            return
        if kind != "show_status":
            self.endpoint.refuse(envelope, "the hypervisor takes management commands only over the VMC")
            return
        status = {
            "profile": self.platform.profile.name,
            "partitions": sorted(self._known_incarnation),
            "hcalls_under_way": len(self._calls),
            "memory_mapped": self.memories.used,
            "memory_chunks_under_way": self.platform.chunks_under_way,
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "platform": dict(self.platform.counters),
            "scm": self.scm.status(),
            "vmc": {f"{p}:{unit:#x}": adapter.status() for (p, unit), adapter in self.adapters.items()},
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }
        self.endpoint.reply(envelope, Envelope(management_reply=ManagementReply(status_json=json.dumps(status))))


class VmcAdapter:
    """The hypervisor's end of one VMC adapter."""

    def __init__(self, node: HypervisorNode, topology: Topology, partition: str, layout: AdapterLayout) -> None:
        self.node = node
        self.partition = partition
        self.unit = int(layout.unit)
        offer = topology.hypervisor.vmc
        # Half for the partition's messages, half for ours; the seed of each index is the partition's as well.
        ours = max(1, min(offer.buffers_per_session // 2, offer.pool_size - 1))
        theirs = max(0, min(offer.buffers_per_session - ours, offer.pool_size - 1 - ours))
        memory = node.platform.hypervisor_memory(partition, self.unit)
        config = vmc.VmcHypervisorConfig(
            buffer_bytes=memory.window.size_bytes,
            max_hmcs=offer.max_hmcs,
            pool_size=offer.pool_size,
            max_mtu=offer.max_mtu,
            crq_size=offer.crq_slots,
            alpha_buffers=theirs,
            hypervisor_buffers=ours,
        )
        self.machine = VmcHypervisor(config, memory)
        self.driver = Driver[vmc.HypervisorInput, vmc.HypervisorOutput](self.machine, self._carry_out)
        self.payloads = PayloadServer(node.endpoint, topology, self._send)

    def close(self) -> None:
        """The adapter is no more."""
        self.driver.close()
        self.payloads.close()

    def _send(self, index: int, session: int, payload: bytes) -> None:
        self.driver.feed(vmc.SendMessage(index, session, payload))

    def _carry_out(self, output: vmc.HypervisorOutput) -> None:
        node, where = self.node, (self.partition, self.unit)
        match output:
            case vmc.PostElement(element):
                node.carry_all(node.platform.partner_post(*where, element))
            case vmc.MessageReceived(index, session, payload):
                self.payloads.message(index, session, payload)
            case vmc.SessionOpened(index, session, hmc_id):
                self.payloads.session_opened(index, session)
                name = hmc_id.rstrip(b"\0").decode("ascii", "backslashreplace")
                self._note(Note("session_opened", (("hmc", index), ("session", session), ("hmc_id", name)), "info"))
            case vmc.SessionClosed(index, session, reason, unsent):
                self.payloads.session_closed(index)
                fields = (("hmc", index), ("session", session), ("reason", reason), ("unsent", unsent))
                self._note(Note("session_closed", fields, "info"))
            case vmc.ResetLink(reason):
                self._note(Note("vmc_reset", (("reason", reason),), "warning"))
                node.carry_all(node.platform.partner_free(*where))
                node.carry_all(node.platform.partner_register(*where))
            case vmc.SendRefused(index, session, reason):
                self._note(Note("send_refused", (("hmc", index), ("session", session), ("reason", reason)), "warning"))
            case vmc.BufferTaken():
                pass  # nobody here takes buffers back
            case Note():
                self._note(output)
            case _:
                assert_never(output)

    def _note(self, note: Note) -> None:
        self.node.endpoint.note(note, partition=self.partition, unit=f"{self.unit:#x}")

    def status(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        waiting = self.node.platform.waiting_posts(self.partition, self.unit)
        return {
            **hypervisor_vmc(self.machine),
            "handled": self.payloads.handled,
            "relays": self.payloads.relays,
            "waiting_posts": waiting,
        }


def main() -> int:
    """Run the process."""
    return run_service("hypervisor", HypervisorNode)


if __name__ == "__main__":
    sys.exit(main())
