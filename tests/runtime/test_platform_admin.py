"""Management commands against real (stand-in) processes: power, crashes, changes of the topology, all or nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standin import StandIns

from pvnet.core.errors import DeadlineError, PeerDiedError, PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import (
    Change,
    CreateAdapter,
    CreatePartition,
    CreateSwitch,
    DeleteAdapter,
    DeletePartition,
    DeleteSwitch,
    ListPartitions,
    ListSwitches,
    Management,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    Partition,
    PowerOff,
    PowerOn,
    ShowPartition,
    ShowSystem,
    WatchChanges,
)
from pvnet.runtime.lab_dir import find_lab
from pvnet.runtime.platform_admin import PlatformAdmin
from pvnet.runtime.platform_view import REPLY_BYTES
from pvnet.runtime.supervisor import Launch, NodeSpec, Supervisor
from pvnet.runtime.topology import (
    BrokerConfig,
    LabConfig,
    PartitionConfig,
    SwitchConfig,
    SystemConfig,
    Topology,
    VenetConfig,
)
from pvnet.runtime.topology_base import Restart
from pvnet.runtime.topology_wire import unpacked
from pvnet.transport.uri import BrokerUrl

MIB = 1 << 20
Reply = ManagementReply


class Nodes:
    """Stands for the endpoint: nodes that take a topology, or do what they are told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.asked = asyncio.Event()
        self.conduct: dict[str, PvnetError | ManagementReply | asyncio.Event] = {}

    async def wait_peer(self, node: str, *, timeout: float) -> None:
        """It is there."""

    async def call(self, node: str, envelope: Envelope, timeout: float, *, wait_for_peer: bool) -> Envelope:
        topology = unpacked(envelope.management.use_topology.topology, BrokerConfig())
        self.told.append((node, [p.name for p in topology.partitions]))
        self.asked.set()
        match self.conduct.get(node):
            case PvnetError() as error:
                raise error
            case ManagementReply() as reply:
                return Envelope(management_reply=reply)
            case asyncio.Event() as event:
                await event.wait()
        return Envelope(management_reply=ManagementReply())


class Rig:
    """A lab of stand-ins with its platform."""

    def __init__(self, topology: Topology, tmp_path: Path, conduct: dict[str, str]) -> None:
        self.standins = StandIns(tmp_path, conduct)
        self.base = tmp_path / "base"
        self.supervisor = Supervisor(
            topology,
            launcher=self._launch,
            readiness=self.standins.make_readiness,
            on_state=lambda name: self.admin.state_changed(name),
            base=self.base,
        )
        self.admin = PlatformAdmin(topology, self.supervisor)
        self.nodes = Nodes()
        self.admin.rollout.endpoint = self.nodes  # type: ignore[assignment]

    def _launch(self, spec: NodeSpec, broker: BrokerUrl) -> Launch:
        self.admin.launching(spec.name)
        return self.standins.launch(spec, broker)

    async def run(self, command: Any) -> ManagementReply:
        """Run a command by its message."""
        field = next(f.name for f in Management.DESCRIPTOR.fields if f.message_type is type(command).DESCRIPTOR)
        return await self.admin.run(Management(**{field: command}))

    async def ok(self, command: Any) -> ManagementReply:
        reply = await self.run(command)
        assert reply.status == Reply.OK, reply
        return reply

    async def refused(self, command: Any, status: Reply.Status, says: str) -> ManagementReply:
        before = self.admin.ledger.revision, self.admin.topology
        reply = await self.run(command)
        assert (reply.status, says in reply.text) == (status, True), reply
        assert (self.admin.ledger.revision, self.admin.topology) == before, "nothing has changed"
        assert self.supervisor.topology is self.admin.topology
        assert self.admin.rollout.next is None
        return reply

    async def show(self, name: str) -> Partition:
        return (await self.ok(ShowPartition(name=name))).partitions[0]

    async def until(self, seen: Callable[[Change], bool], after: int) -> list[Change]:
        """Follow the changes until one is as wanted."""
        changes: list[Change] = []
        async with asyncio.timeout(20):
            while not any(map(seen, changes)):
                reply = await self.ok(WatchChanges(after=after, wait_ms=25_000))
                assert not reply.missed
                changes += reply.changes
                after = reply.revision
        return changes


LAB = LabConfig(ready_timeout_s=10.0, stop_timeout_s=2.0)
SMALL = Topology(
    lab=LAB,
    partition=[
        PartitionConfig(name="mp", management=True),
        PartitionConfig(name="a", restart=Restart(policy="always"), venet=[VenetConfig(), VenetConfig(vlan=5)]),
        PartitionConfig(name="b", autostart=False, memory=64 * MIB),
    ],
    switch=[SwitchConfig()],
)


@asynccontextmanager
async def rig(tmp_path: Path, topology: Topology = SMALL, conduct: dict[str, str] | None = None) -> AsyncIterator[Rig]:
    made = Rig(topology, tmp_path, conduct or {})
    async with made.supervisor:
        yield made


def is_state(name: str, state: Partition.State) -> Callable[[Change], bool]:
    return lambda change: (change.name, change.detail, change.state) == (name, "PartitionState", state)


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_shows_what_there_is_and_what_is_free(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        partitions = (await lab.ok(ListPartitions())).partitions
        assert [(p.name, p.state) for p in partitions] == [
            ("mp", Partition.RUNNING),
            ("a", Partition.RUNNING),
            ("b", Partition.OFF),
        ]
        a = partitions[1]
        assert a.pid == lab.supervisor.node("a").pid
        assert (a.current_memory_bytes, a.guest_ready) == (16 * MIB, True)
        assert [(x.slot, x.vlan, x.device, x.mac) for x in a.adapters] == [
            (2, 1, "a-eth0", "02:00:00:00:02:01"),
            (3, 5, "a-eth1", "02:00:00:00:02:02"),
        ]
        system = (await lab.ok(ShowSystem())).system
        assert system.memory_bytes - system.free_memory_bytes == 32 * MIB
        assert system.processor_units - system.free_processor_units == 20
        assert [s.name for s in (await lab.ok(ListSwitches())).switches] == ["net0"]
        await lab.refused(ShowPartition(name="x"), Reply.NOT_FOUND, "no partition 'x'; there are: mp, a, b")
        reply = await lab.admin.run(Management())
        assert reply.status == Reply.NOT_SUPPORTED


async def test_long_lists_come_in_pieces_that_fit_a_message(tmp_path: Path) -> None:
    many = [PartitionConfig(name=f"p{n}", autostart=False) for n in range(60)]
    made = Rig(Topology(lab=LAB, partition=many), tmp_path, {})
    found, first = [], 0
    while True:
        reply = await made.ok(ListPartitions(first=first))
        assert reply.ByteSize() <= REPLY_BYTES
        found += [p.name for p in reply.partitions]
        if not reply.next:
            break
        assert reply.next == len(found)
        first = reply.next
    assert found == [p.name for p in many]
    assert not (await made.ok(ListPartitions(first=1000))).partitions


async def test_waits_for_changes_as_long_as_told_and_not_for_too_many(tmp_path: Path) -> None:
    made = Rig(SMALL, tmp_path, {})
    now = (await made.ok(WatchChanges(after=0, wait_ms=25_000))).revision
    quiet = await made.ok(WatchChanges(after=now, wait_ms=20))
    assert (quiet.revision, len(quiet.changes)) == (now, 0)
    waiting = [asyncio.ensure_future(made.run(WatchChanges(after=now, wait_ms=25_000))) for _ in range(256)]
    await asyncio.sleep(0)
    assert (await made.run(WatchChanges(after=now, wait_ms=25_000))).text == "256 wait for changes already"
    await made.ok(ModifyPartition(name="a", label="A"))
    for reply in await asyncio.gather(*waiting):
        assert [(c.name, c.detail) for c in reply.changes] == [("a", "Other")]
    assert (await made.ok(WatchChanges(after=1, wait_ms=25_000))).missed


# --- power -----------------------------------------------------------------------------------------------------------


async def test_powers_on_and_off_and_says_each_state(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        start = lab.admin.ledger.revision
        on = (await lab.ok(PowerOn(name="b"))).partitions[0]
        assert (on.state, on.pid) == (Partition.RUNNING, lab.supervisor.node("b").pid)
        await lab.refused(PowerOn(name="b"), Reply.CONFLICT, "b is running")
        off = (await lab.ok(PowerOff(name="b"))).partitions[0]
        assert (off.state, off.pid, off.current_memory_bytes) == (Partition.OFF, 0, 0)
        await lab.refused(PowerOff(name="b"), Reply.CONFLICT, "b is off")
        changes = await lab.until(is_state("b", Partition.OFF), start)
        states = [c.state for c in changes if c.detail == "PartitionState"]
        assert states == [Partition.STARTING, Partition.RUNNING, Partition.STOPPING, Partition.OFF]
        assert [c.state for c in changes if c.detail == "RMCState"] == [Partition.RUNNING, Partition.STOPPING]
        assert sum(c.object == Change.SYSTEM for c in changes) == 2, "free memory went and came"
        await lab.refused(PowerOff(name="mp"), Reply.CONFLICT, "mp is the management partition")
        await lab.refused(PowerOff(name="a", mode=7), Reply.INVALID, "expected 0, 1 or 2")


async def test_who_comes_too_late_is_told_the_state_that_it_was_in_and_the_name_that_people_know(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as lab:
        await lab.ok(ModifyPartition(name="b", label="The B"))
        for command, done, between in (
            (PowerOn(name="b"), Partition.RUNNING, Partition.STARTING),
            (PowerOff(name="b"), Partition.OFF, Partition.STOPPING),
        ):
            first, *others = await asyncio.gather(*(lab.run(command) for _ in range(6)))
            assert (first.status, first.partitions[0].state) == (Reply.OK, done)
            for late in (*others, await lab.run(command)):
                assert late.status == Reply.CONFLICT, late
                (said,) = late.partitions
                assert late.text.startswith("The B (b) is ")
                assert (said.name, said.label, said.state in {done, between}) == ("b", "The B", True)
                assert late.revision >= said.revision > 0


async def test_a_crash_is_seen_before_the_restart(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        start, pid = lab.admin.ledger.revision, lab.supervisor.node("a").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        changes = await lab.until(is_state("a", Partition.RUNNING), start)
        states = [c.state for c in changes if c.detail == "PartitionState"]
        assert states == [Partition.FAILED, Partition.STARTING, Partition.RUNNING]
        shown = await lab.show("a")
        assert (shown.restarts, shown.text) == (1, "")
        assert shown.pid not in {0, pid}


async def test_a_guest_that_does_not_end_goes_on_until_it_is_killed(tmp_path: Path) -> None:
    async with rig(tmp_path, conduct={"a": "cling"}) as lab:
        pid = (await lab.show("a")).pid
        asked = PowerOff(name="a", mode=PowerOff.GUEST, timeout_ms=100)
        reply = await lab.run(asked)
        assert (reply.status, reply.text) == (Reply.FAILED, "a did not shut down within 0.1 s")
        assert ((await lab.show("a")).state, (await lab.show("a")).pid) == (Partition.RUNNING, pid)
        # Asked again, for long: killing it does not wait for that.
        start = lab.admin.ledger.revision
        waiting = asyncio.ensure_future(lab.run(PowerOff(name="a", mode=PowerOff.GUEST, timeout_ms=60_000)))
        await lab.until(is_state("a", Partition.STOPPING), start)
        await lab.refused(PowerOff(name="a"), Reply.CONFLICT, "a is stopping")
        await lab.refused(asked, Reply.CONFLICT, "a is stopping")
        killed = await lab.ok(PowerOff(name="a", mode=PowerOff.IMMEDIATE))
        assert killed.partitions[0].state == Partition.OFF
        assert (await waiting).status == Reply.OK
        assert (await lab.show("a")).state == Partition.OFF
        # It was asked to go, so that its policy (always) does not bring it back; it is still watched when it is on.
        await lab.ok(PowerOn(name="a"))
        start = lab.admin.ledger.revision
        await lab.run(asked)
        os.kill((await lab.show("a")).pid, signal.SIGKILL)
        await lab.until(is_state("a", Partition.FAILED), start)
        await lab.until(is_state("a", Partition.RUNNING), lab.admin.ledger.revision)


async def test_restarts_when_asked(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        for mode in (PowerOff.NORMAL, PowerOff.GUEST, PowerOff.IMMEDIATE):
            pid = (await lab.show("a")).pid
            again = (await lab.ok(PowerOff(name="a", mode=mode, restart=True))).partitions[0]
            assert again.state == Partition.RUNNING
            assert again.pid != pid


async def test_what_the_system_does_not_have_is_not_given(tmp_path: Path) -> None:
    topology = SMALL.model_copy(update={"system": SystemConfig(memory=64 * MIB, processors=1)})
    async with rig(tmp_path, topology) as lab:
        text = "not enough memory for b: it needs 64 MiB, 32 MiB of 64 MiB are free"
        await lab.refused(PowerOn(name="b"), Reply.FAILED, text)
        less = ModifyPartition(name="b", memory_bytes=16 * MIB, min_memory_bytes=16 * MIB)
        less.processors.units = 90
        await lab.ok(less)
        text = "not enough processors for b: it needs 0.9, 0.8 of 1 are free"
        await lab.refused(PowerOn(name="b"), Reply.FAILED, text)
        await lab.ok(PowerOff(name="a"))
        await lab.ok(PowerOn(name="b"))
        assert (await lab.run(PowerOn(name="a"))).status == Reply.FAILED


# --- changes of the topology -----------------------------------------------------------------------------------------


async def test_makes_and_deletes_a_partition(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        start = lab.admin.ledger.revision
        new = (await lab.ok(CreatePartition(label="New One", memory_bytes=32 * MIB))).partitions[0]
        assert (new.name, new.lpar_id, new.state) == ("new-one", 4, Partition.OFF)
        assert lab.nodes.told == [(node, ["mp", "a", "b", "new-one"]) for node in ("hypervisor", "bridge")]
        assert find_lab("lab", lab.base)[1].topology["partition"][3]["name"] == "new-one"
        await lab.ok(PowerOn(name="new-one"))
        assert (await lab.show("new-one")).current_memory_bytes == 32 * MIB
        text = "New One (new-one) is running: power it off to delete it"
        await lab.refused(DeletePartition(name="new-one"), Reply.CONFLICT, text)
        await lab.ok(PowerOff(name="new-one"))
        stale = DeletePartition(name="new-one", if_revision=new.revision)
        assert (await lab.refused(stale, Reply.STALE, "it has changed meanwhile")).revision > new.revision
        shown = await lab.show("new-one")
        assert not (await lab.ok(DeletePartition(name="new-one", if_revision=shown.revision))).partitions
        await lab.refused(PowerOn(name="new-one"), Reply.NOT_FOUND, "no partition 'new-one'")
        assert "new-one" not in {node.name for node in lab.supervisor.nodes()}
        changes = (await lab.ok(WatchChanges(after=start))).changes
        kinds = [c.kind for c in changes if c.object == Change.PARTITION]
        assert (kinds[0], kinds[-1]) == (Change.ADDED, Change.REMOVED)


async def test_a_running_partition_gets_another_memory_when_it_is_started_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        shown = (await lab.ok(ModifyPartition(name="a", memory_bytes=32 * MIB, max_memory_bytes=32 * MIB))).partitions[
            0
        ]
        assert (shown.memory_bytes, shown.current_memory_bytes) == (32 * MIB, 16 * MIB)
        again = (await lab.ok(PowerOff(name="a", restart=True))).partitions[0]
        assert again.current_memory_bytes == 32 * MIB


async def test_a_new_name_concerns_no_node(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        shown = await lab.show("a")
        renamed = (await lab.ok(ModifyPartition(name="a", if_revision=shown.revision, label="X"))).partitions[0]
        assert (renamed.label, renamed.name, lab.nodes.told) == ("X", "a", [])
        again = ModifyPartition(name="a", if_revision=shown.revision, label="Y")
        await lab.refused(again, Reply.STALE, f"it has revision {renamed.revision}, not {shown.revision}")


@pytest.mark.parametrize(
    ("conduct", "status", "says", "told"),
    [
        (ManagementReply(status=Reply.CONFLICT, text="busy"), Reply.CONFLICT, "bridge: busy", ["hypervisor"]),
        (PvnetError("no"), Reply.FAILED, "bridge: no", ["hypervisor"]),
        (DeadlineError("bridge did not answer"), Reply.FAILED, "bridge did not answer", ["hypervisor", "bridge"]),
    ],
)
async def test_what_one_node_refuses_the_others_give_back(
    tmp_path: Path, conduct: Any, status: Reply.Status, says: str, told: list[str]
) -> None:
    async with rig(tmp_path) as lab:
        lab.nodes.conduct["bridge"] = conduct
        await lab.refused(CreatePartition(label="new"), status, says)
        old = ["mp", "a", "b"]
        assert lab.nodes.told == [
            ("hypervisor", [*old, "new"]),
            ("bridge", [*old, "new"]),
            *((node, old) for node in told),
        ]
        assert "new" not in {node.name for node in lab.supervisor.nodes()}
        lab.nodes.conduct.clear()
        await lab.ok(CreatePartition(label="new"))


async def test_a_node_that_dies_meanwhile_finds_the_new_topology_when_it_starts(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        lab.nodes.conduct["bridge"] = PeerDiedError("bridge died")
        await lab.ok(CreatePartition(label="new"))
        assert lab.admin.launching("bridge").partition("new")


async def test_power_on_waits_until_it_is_decided_what_there_is(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        answer = lab.nodes.conduct["hypervisor"] = asyncio.Event()
        deleting = asyncio.ensure_future(lab.run(DeletePartition(name="b")))
        await lab.nodes.asked.wait()
        powering = asyncio.ensure_future(lab.run(PowerOn(name="b")))
        second = asyncio.ensure_future(lab.run(CreatePartition(label="c")))
        await asyncio.sleep(0)
        assert len(lab.nodes.told) == 1, "one change at a time"
        answer.set()
        assert (await deleting).status == Reply.OK
        assert (await powering).status == Reply.NOT_FOUND
        assert (await second).partitions[0].lpar_id == 3


async def test_power_off_while_starting_is_told_to_who_powers_on(tmp_path: Path) -> None:
    async with rig(tmp_path, conduct={"b": "silent"}) as lab:
        powering = asyncio.ensure_future(lab.run(PowerOn(name="b")))
        await lab.until(is_state("b", Partition.STARTING), lab.admin.ledger.revision)
        await lab.ok(PowerOff(name="b", mode=PowerOff.IMMEDIATE))
        reply = await powering
        assert (reply.status, reply.text) == (Reply.CONFLICT, "b was powered off while starting")
        assert (await lab.show("b")).state == Partition.OFF


async def test_a_reply_has_the_last_words_in_its_one_line(tmp_path: Path) -> None:
    async with rig(tmp_path, conduct={"b": "exit1"}) as lab:
        reply = await lab.run(PowerOn(name="b"))
        assert reply.status == Reply.FAILED
        assert reply.text == "b ended while starting (exit code 1); its last words: cannot go on"
        assert (await lab.show("b")).text == reply.text


async def test_adapters_and_switches_come_and_go(tmp_path: Path) -> None:
    async with rig(tmp_path) as lab:
        switch = (await lab.ok(CreateSwitch(label="Second"))).switches[0]
        assert (switch.name, switch.label) == ("second", "Second")
        await lab.refused(CreateAdapter(partition="b"), Reply.INVALID, "expected one of net0, second")
        b = (await lab.ok(CreateAdapter(partition="b", switch="second", vlan=7))).partitions[0]
        assert [(x.slot, x.switch, x.vlan) for x in b.adapters] == [(2, "second", 7)]
        await lab.refused(DeleteSwitch(name="second"), Reply.CONFLICT, "has the adapter of b in slot 2")
        stale = ModifyAdapter(partition="b", slot=2, if_revision=1, vlan=8)
        await lab.refused(stale, Reply.STALE, "changed meanwhile")
        fresh = ModifyAdapter(partition="b", slot=2, if_revision=b.adapters[0].revision, mac="02:00:00:00:00:09")
        assert (await lab.ok(fresh)).partitions[0].adapters[0].mac == "02:00:00:00:00:09"
        mac = ModifyAdapter(partition="a", slot=2, mac="02:00:00:00:00:0a")
        await lab.refused(mac, Reply.CONFLICT, "a is running: power it off to change a MAC address")
        kept = (await lab.show("a")).adapters[1]
        (left,) = (await lab.ok(DeleteAdapter(partition="a", slot=2))).partitions[0].adapters
        assert left == kept
        await lab.refused(DeleteAdapter(partition="a", slot=2), Reply.NOT_FOUND, "in slot 2; there are: 3")
        await lab.ok(DeleteAdapter(partition="b", slot=2))
        await lab.ok(DeleteSwitch(name="second"))
        await lab.refused(DeleteSwitch(name="second"), Reply.NOT_FOUND, "no switch 'second'; there are: net0")
        assert {node for node, _ in lab.nodes.told} == {"bridge"}


async def test_the_first_switch_brings_the_bridge_and_takes_it_away_if_that_fails(tmp_path: Path) -> None:
    topology = Topology(lab=LAB, partition=[PartitionConfig(name="a")])
    async with rig(tmp_path, topology, {"bridge": "exit3"}) as lab:
        text = "make one first (CreateSwitch"
        await lab.refused(CreateAdapter(partition="a"), Reply.INVALID, text)
        await lab.refused(CreateSwitch(label="net"), Reply.FAILED, "bridge ended while starting")
        lab.standins.conduct["bridge"] = "ready"
        await lab.ok(CreateSwitch(label="net"))
        assert lab.supervisor.state("bridge") == "running"
        await lab.ok(DeleteSwitch(name="net"))
        assert lab.supervisor.state("bridge") == "running"
        await lab.ok(CreateSwitch(label="net"))
        await lab.ok(CreateAdapter(partition="a"))


async def test_a_lab_without_reachable_nodes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as lab:
        monkeypatch.setattr(lab.admin.rollout, "endpoint", None)
        await lab.refused(CreatePartition(label="x"), Reply.NOT_SUPPORTED, "cannot reach the nodes")
