"""A real lab that changes while it runs: new partitions and adapters outlive the processes that serve them."""

from __future__ import annotations

import os
import secrets
import signal

import pytest

from pvnet.client import Lab
from pvnet.core.errors import RefusedError
from pvnet.pb.v1.management_pb2 import (
    Change,
    CreateAdapter,
    CreatePartition,
    DeletePartition,
    Management,
    Partition,
    PowerOff,
    PowerOn,
    ShowPartition,
    WatchChanges,
)
from pvnet.runtime.topology import LabConfig, ManagerConfig, PartitionConfig, SwitchConfig, Topology, VenetConfig


def small() -> Topology:
    return Topology(
        lab=LabConfig(name=f"plat-{os.getpid()}-{secrets.token_hex(2)}"),
        partition=[
            PartitionConfig(name="mp", management=True),
            PartitionConfig(name="a", autostart=False, venet=[VenetConfig()]),
        ],
        switch=[SwitchConfig()],
        manager=ManagerConfig(),
    )


async def follow(lab: Lab, after: int, *, name: str, state: Partition.State) -> int:
    """Wait, through the VMC, until a partition gets into a state; return the revision."""
    while True:
        reply = await lab.manage(Management(watch_changes=WatchChanges(after=after, wait_ms=20_000)))
        after = reply.revision
        for change in reply.changes:
            what = (change.object, change.name, change.detail, change.state)
            if what == (Change.PARTITION, name, "PartitionState", state):
                return after


async def test_a_hypervisor_and_a_bridge_that_restart_know_what_was_made() -> None:
    async with Lab(small()) as lab:
        assert lab.processes is not None
        supervisor = lab.processes.supervisor
        made = await lab.manage(Management(create_partition=CreatePartition(label="New One", memory_bytes=32 << 20)))
        name = made.partitions[0].name
        await lab.manage(Management(create_adapter=CreateAdapter(partition=name, vlan=7)))
        await lab.manage(Management(create_adapter=CreateAdapter(partition="a", slot=9)))
        for node in ("hypervisor", "bridge"):
            pid = supervisor.node(node).pid
            assert pid is not None
            gone = supervisor._nodes[node].child
            assert gone is not None
            os.kill(pid, signal.SIGKILL)
            await gone.wait()
        # Not through the VMC, whose session has just died; a partition serves when the hypervisor is back.
        for each in (name, "a"):
            on = await lab.processes.platform.run(Management(power_on=PowerOn(name=each)))
            assert on.partitions[0].state == Partition.RUNNING
        reply = await lab.processes.platform.run(Management(show_partition=ShowPartition(name=name)))
        (shown,) = reply.partitions
        assert [(x.slot, x.vlan, x.switch) for x in shown.adapters] == [(2, 7, "net0")]
        assert shown.current_memory_bytes == 32 << 20


async def test_a_killed_partition_is_seen_through_the_vmc_and_a_deleted_one_is_gone() -> None:
    async with Lab(small()) as lab:
        start = (await lab.manage(Management(watch_changes=WatchChanges()))).revision
        on = await lab.power_on("a")
        os.kill(on.pid, signal.SIGKILL)
        seen = await follow(lab, start, name="a", state=Partition.FAILED)
        await follow(lab, seen, name="a", state=Partition.RUNNING)
        await lab.manage(Management(power_off=PowerOff(name="a", mode=PowerOff.IMMEDIATE)))
        await lab.manage(Management(delete_partition=DeletePartition(name="a")))
        assert [p.name for p in await lab.partitions()] == ["mp"]
        async with Lab.join(lab.name) as joined:
            assert [p.name for p in joined.topology.partitions] == ["mp"]
            with pytest.raises(RefusedError, match="only the hypervisor may ask the supervisor to delete_partition"):
                await joined.command("supervisor", Management(delete_partition=DeletePartition(name="mp")))
