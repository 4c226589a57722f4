"""The platform part of management commands: what the hypervisor passes on to the supervisor.

It joins the topology (which may change), the supervisor's processes and the ledger (``platform_ledger``), from which
every answer is made: what a client is told always has the revision that it was told with.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from pvnet.core.errors import PvnetError
from pvnet.pb.v1.management_pb2 import (
    Adapter,
    CreateAdapter,
    CreatePartition,
    CreateSwitch,
    DeleteAdapter,
    DeletePartition,
    DeleteSwitch,
    Management,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    Partition,
    PowerOff,
    Switch,
)
from pvnet.runtime import platform_edit as edit
from pvnet.runtime.platform_edit import Refusal
from pvnet.runtime.platform_ledger import Ledger
from pvnet.runtime.platform_rollout import Rollout
from pvnet.runtime.platform_view import (
    PARTITION_BYTES,
    REPLY_BYTES,
    Facts,
    partition_message,
    switch_message,
    system_message,
    units,
)
from pvnet.runtime.supervisor import ConflictError, OffMode, Supervisor, UnknownNodeError
from pvnet.runtime.supervisor_nodes import one_line
from pvnet.runtime.topology import PartitionConfig, Topology

_STATES: Final = {
    "off": Partition.OFF,
    "starting": Partition.STARTING,
    "running": Partition.RUNNING,
    "stopping": Partition.STOPPING,
    "failed": Partition.FAILED,
}
_MODES: Final[dict[int, OffMode]] = {
    PowerOff.NORMAL: "normal",
    PowerOff.GUEST: "guest",
    PowerOff.IMMEDIATE: "immediate",
}
_WATCH_MOST_S: Final = 25.0
_WATCHERS_MAX: Final = 256


class PlatformAdmin:
    """See the module's text.

    Commands that change the topology run one at a time.  A change is checked as a whole first (``platform_edit``), then
    the nodes that it concerns take it (``platform_rollout``), and only then it is in force.
    """

    def __init__(self, topology: Topology, supervisor: Supervisor) -> None:
        self.topology = topology
        self.rollout = Rollout(supervisor)
        self.supervisor = supervisor
        self.ledger = Ledger(time.time_ns() // 1_000_000)
        self._log = structlog.get_logger().bind(node="supervisor")
        self._news = asyncio.Event()
        self._watchers = 0
        self._changing = asyncio.Lock()
        self._held: set[str] = set()
        """Partitions that a change is about: they are not powered on before it is decided."""
        self._memory: dict[str, int] = {}
        """What the process of each partition was started with, in bytes."""
        self._put_everything()
        self.ledger.begin()

    # --- what happens ------------------------------------------------------------------------------------------------

    def launching(self, name: str) -> Topology:
        """A node's process is about to start: return its topology."""
        topology = self.rollout.next or self.topology
        for partition in topology.partitions:
            if partition.name == name:
                self._memory[name] = partition.memory
        return topology

    def state_changed(self, name: str) -> None:
        """A node has another state."""
        partition = self._partition(name)
        if partition is not None:
            self._put_partition(partition)
            self._put_system()
            self._tell()

    # --- commands ----------------------------------------------------------------------------------------------------

    async def run(self, command: Management) -> ManagementReply:
        """Carry a command out; whatever goes wrong is in the reply."""
        try:
            answer = await self._run(command)
        except Refusal as refusal:
            answer = ManagementReply(status=refusal.status, text=str(refusal), field=refusal.field)
        except UnknownNodeError as error:
            answer = ManagementReply(status=ManagementReply.NOT_FOUND, text=str(error))
        except ConflictError as error:
            answer = ManagementReply(status=ManagementReply.CONFLICT, text=str(error))
        except (PvnetError, OSError) as error:
            answer = ManagementReply(status=ManagementReply.FAILED, text=one_line(error))
        if answer.status != ManagementReply.OK and (name := command.power_on.name or command.power_off.name):
            self._not_powered(name, answer)
        if not answer.revision:
            answer.revision = self.ledger.revision
        return answer

    async def _run(self, command: Management) -> ManagementReply:
        match command.WhichOneof("command"):
            case "list_partitions":
                return self._list(command.list_partitions.first)
            case "show_partition":
                return self._shown(command.show_partition.name)
            case "show_system":
                return ManagementReply(system=self.ledger.system)
            case "list_switches":
                return self._switches()
            case "watch_changes":
                return await self._watch(command.watch_changes.after, command.watch_changes.wait_ms / 1000)
            case "power_on":
                return await self._power_on(command.power_on.name)
            case "power_off":
                return await self._power_off(command.power_off)
            case kind if kind in _CHANGES:
                async with self._changing:
                    return await _CHANGES[kind](self, getattr(command, kind))
            case kind:
                text = f"the supervisor does not take {kind or 'an unknown command'}"
                return ManagementReply(status=ManagementReply.NOT_SUPPORTED, text=text)

    def _list(self, first: int) -> ManagementReply:
        """As many partitions as fit one message, from the ``first``."""
        partitions = list(self.ledger.partitions.values())[first:]
        answer = ManagementReply(revision=self.ledger.revision)
        used = 0
        for number, partition in enumerate(partitions):
            used += partition.ByteSize() + 4
            if used > REPLY_BYTES - 32 and number:
                answer.next = first + number
                break
            answer.partitions.append(partition)
        return answer

    def _switches(self) -> ManagementReply:
        """The switches; commands make no more than fit one message."""
        answer = ManagementReply()
        used = 0
        for switch in self.ledger.switches.values():
            used += switch.ByteSize() + 4
            if used > REPLY_BYTES - 32:
                self._log.warning("switches_listed_cut", left_out=len(self.ledger.switches) - len(answer.switches))
                break
            answer.switches.append(switch)
        return answer

    def _shown(self, name: str) -> ManagementReply:
        self._known(name)
        return ManagementReply(partitions=[self.ledger.partitions[name]], revision=self.ledger.revision)

    async def _watch(self, after: int, wait_s: float) -> ManagementReply:
        if self._watchers >= _WATCHERS_MAX:
            raise Refusal(ManagementReply.FAILED, f"{_WATCHERS_MAX} wait for changes already")
        self._watchers += 1
        try:
            async with asyncio.timeout(min(wait_s, _WATCH_MOST_S)):
                while after and not self.ledger.has_news(after):
                    await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._watchers -= 1
        return self.ledger.changes_after(after, REPLY_BYTES - 32)

    async def _power_on(self, name: str) -> ManagementReply:
        while name in self._held:
            async with self._changing:
                pass
        partition = self._known(name)
        if self.supervisor.state(name) in {"off", "failed"}:
            self._check_free(partition)
        await self.supervisor.power_on(name)
        return self._shown(name)

    async def _power_off(self, command: PowerOff) -> ManagementReply:
        name = command.name
        partition = self._known(name)
        if partition.management:
            raise ConflictError(f"{partition.both_names} is the management partition: this command came through it")
        mode = _MODES.get(command.mode)
        if mode is None:
            raise Refusal(ManagementReply.INVALID, f"mode {command.mode}: expected 0, 1 or 2", field="mode")
        timeout = command.timeout_ms / 1000 if command.timeout_ms else None
        await self.supervisor.power_off(name, mode=mode, timeout=timeout)
        return await self._power_on(name) if command.restart else self._shown(name)

    def _not_powered(self, name: str, answer: ManagementReply) -> None:
        """Use the name that people know; if its state was in the way, say which: a moment later it is another."""
        known, partition = self.ledger.partitions.get(name), self._partition(name)
        if known is None or partition is None:
            return
        if answer.text == f"{name} is {self.supervisor.state(name)}":  # without what makes a partition long
            said = answer.partitions.add(name=name, label=known.label, uuid=known.uuid, state=known.state)
            said.pid, said.guest_ready, said.revision = known.pid, known.guest_ready, known.revision
        if answer.text.startswith((f"{name} ", f"{name}:")):
            answer.text = partition.both_names + answer.text[len(name) :]

    def _check_free(self, partition: PartitionConfig) -> None:
        """Refuse to power a partition on for which the system has not enough."""
        system = self.ledger.system
        if partition.memory > system.free_memory_bytes:
            text = (
                f"not enough memory for {partition.both_names}: it needs {partition.memory >> 20} MiB, "
                f"{system.free_memory_bytes >> 20} MiB of {system.memory_bytes >> 20} MiB are free"
            )
            raise Refusal(ManagementReply.FAILED, text)
        if units(partition.processors) > system.free_processor_units:
            text = (
                f"not enough processors for {partition.both_names}: it needs {partition.processors.units:g}, "
                f"{system.free_processor_units / 100:g} of {system.processor_units / 100:g} are free"
            )
            raise Refusal(ManagementReply.FAILED, text)

    # --- commands that change the topology ---------------------------------------------------------------------------

    async def _create_partition(self, command: CreatePartition) -> ManagementReply:
        new, name = edit.create_partition(edit.pinned(self.topology), command)
        await self._use(new)
        return self._shown(name)

    async def _modify_partition(self, command: ModifyPartition) -> ManagementReply:
        name = command.name
        self._fresh(self._known_message(name), command.if_revision)
        new = edit.modify_partition(edit.pinned(self.topology), command)
        if new.partition(name).memory != self.topology.partition(name).memory:
            # Between those states nobody can say which size the process has.
            self._settled(name)
        await self._use(new, hold=name)
        return self._shown(name)

    async def _delete_partition(self, command: DeletePartition) -> ManagementReply:
        name = command.name
        self._fresh(self._known_message(name), command.if_revision)
        new = edit.delete_partition(edit.pinned(self.topology), name)
        self._ended(name, "delete it")
        await self._use(new, hold=name)
        return ManagementReply()

    async def _create_switch(self, command: CreateSwitch) -> ManagementReply:
        new, name = edit.create_switch(edit.pinned(self.topology), command.label)
        await self._use(new)
        return ManagementReply(switches=[self.ledger.switches[name]])

    async def _delete_switch(self, command: DeleteSwitch) -> ManagementReply:
        switch = self.ledger.switches.get(command.name)
        if switch is None:
            known = ", ".join(self.ledger.switches) or "none"
            raise Refusal(ManagementReply.NOT_FOUND, f"no switch {command.name[:40]!r}; there are: {known}")
        self._fresh(switch, command.if_revision)
        await self._use(edit.delete_switch(edit.pinned(self.topology), switch.name))
        return ManagementReply()

    async def _create_adapter(self, command: CreateAdapter) -> ManagementReply:
        self._known(command.partition)
        new, _ = edit.create_adapter(edit.pinned(self.topology), command)
        await self._use(new)
        return self._shown(command.partition)

    async def _modify_adapter(self, command: ModifyAdapter) -> ManagementReply:
        name = command.partition
        self._fresh_adapter(name, command.slot, command.if_revision)
        new = edit.modify_adapter(edit.pinned(self.topology), command)
        if command.HasField("mac"):
            self._ended(name, "change a MAC address")
        await self._use(new, hold=name)
        return self._shown(name)

    async def _delete_adapter(self, command: DeleteAdapter) -> ManagementReply:
        name = command.partition
        self._fresh_adapter(name, command.slot, command.if_revision)
        await self._use(edit.delete_adapter(edit.pinned(self.topology), name, command.slot))
        return self._shown(name)

    def _fresh(self, shown: Partition | Switch | Adapter, if_revision: int) -> None:
        """Refuse a change that was meant for an earlier revision."""
        if if_revision and shown.revision != if_revision:
            text = f"it has changed meanwhile: it has revision {shown.revision}, not {if_revision}"
            raise Refusal(ManagementReply.STALE, text)

    def _fresh_adapter(self, partition: str, slot: int, if_revision: int) -> None:
        for adapter in self._known_message(partition).adapters:
            if adapter.slot == slot:
                self._fresh(adapter, if_revision)

    def _settled(self, name: str) -> None:
        state = self.supervisor.state(name)
        if state in {"starting", "stopping"}:
            raise ConflictError(f"{self.topology.partition(name).both_names} is {state}")

    def _ended(self, name: str, doing: str) -> None:
        state = self.supervisor.state(name)
        if state not in {"off", "failed"}:
            raise ConflictError(f"{self.topology.partition(name).both_names} is {state}: power it off to {doing}")

    async def _use(self, new: Topology, *, hold: str = "") -> None:
        """Put another topology in force, or raise and leave everything as it is."""
        old = self.topology
        if new is old:
            return
        self._held.add(hold)
        try:
            await self.rollout.use(old, new)
        finally:
            self._held.discard(hold)
        self.topology = new
        self._put_changed(old)

    # --- the ledger --------------------------------------------------------------------------------------------------

    def _partition(self, name: str) -> PartitionConfig | None:
        return next((p for p in self.topology.partitions if p.name == name), None)

    def _known(self, name: str) -> PartitionConfig:
        partition = self._partition(name)
        if partition is None:
            names = [p.name for p in self.topology.partitions]
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise UnknownNodeError(f"no partition {name[:40]!r}; there are: {shown}")
        return partition

    def _known_message(self, name: str) -> Partition:
        return self.ledger.partitions[self._known(name).name]

    def _facts(self, name: str) -> Facts:
        node = self.supervisor.node(name)
        memory = self._memory.get(name, 0)
        return Facts(_STATES[node.state], node.pid or 0, node.restarts, node.text, memory)

    def _put_everything(self) -> None:
        for partition in self.topology.partitions:
            self._put_partition(partition)
        for switch in self.topology.switches:
            self.ledger.put_switch(switch_message(self.topology, switch))
        self._put_system()

    def _put_changed(self, old: Topology) -> None:
        """The topology is another one: tell what has changed."""
        names = {p.name for p in self.topology.partitions}
        switches = {s.name for s in self.topology.switches}
        for name in [name for name in self.ledger.partitions if name not in names]:
            self.ledger.drop_partition(name)
            self._memory.pop(name, None)
        for name in [name for name in self.ledger.switches if name not in switches]:
            self.ledger.drop_switch(name)
        unchanged = {id(p) for p in old.partitions}
        for partition in self.topology.partitions:
            if id(partition) not in unchanged:
                self._put_partition(partition)
        for switch in self.topology.switches:
            self.ledger.put_switch(switch_message(self.topology, switch))
        self._put_system()
        self._tell()

    def _put_partition(self, partition: PartitionConfig) -> None:
        message, left_out = partition_message(self.topology, partition, self._facts(partition.name))
        if left_out and partition.name not in self.ledger.partitions:
            # Its definition alone does not fit: once is enough.
            self._log.warning("partition_shown_cut", partition=partition.name, left_out=left_out, bytes=PARTITION_BYTES)
        self.ledger.put_partition(message)

    def _put_system(self) -> None:
        memory_used = units_used = 0
        for partition in self.topology.partitions:
            known = self.ledger.partitions[partition.name]
            if known.current_memory_bytes:
                memory_used += known.current_memory_bytes
                units_used += known.processors.units
        self.ledger.put_system(system_message(self.topology, memory_used=memory_used, units_used=units_used))

    def _tell(self) -> None:
        """Wake those who wait for changes."""
        self._news.set()
        self._news = asyncio.Event()

    def status(self) -> str:
        """Return what the supervisor knows about the lab, as JSON."""
        return json.dumps({"nodes": [node.model_dump() for node in self.supervisor.nodes()]})


_CHANGES: Final[dict[str | None, Callable[[PlatformAdmin, Any], Awaitable[ManagementReply]]]] = {
    "create_partition": PlatformAdmin._create_partition,
    "modify_partition": PlatformAdmin._modify_partition,
    "delete_partition": PlatformAdmin._delete_partition,
    "create_switch": PlatformAdmin._create_switch,
    "delete_switch": PlatformAdmin._delete_switch,
    "create_adapter": PlatformAdmin._create_adapter,
    "modify_adapter": PlatformAdmin._modify_adapter,
    "delete_adapter": PlatformAdmin._delete_adapter,
}
