"""A whole lab of real processes whose partitions, adapters and switches are changed through the VMC."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from behaviour_worlds import eventually

from pvnet.client import Lab
from pvnet.client.session import VmcSession
from pvnet.pb.v1.management_pb2 import (
    CreateAdapter,
    CreatePartition,
    CreateSwitch,
    DeleteAdapter,
    DeletePartition,
    DeleteSwitch,
    ListPartitions,
    Management,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    NetPing,
    Partition,
    PowerOff,
    PowerOn,
    ShowPartition,
    ShowStatus,
    VbusAdmin,
    WatchChanges,
)
from pvnet.runtime.topology import Topology

MIB = 1 << 20
TOPOLOGY: dict[str, Any] = {
    "lab": {"name": "platform"},
    "broker": {"use": "embedded"},
    "partition": [
        {"name": "mp", "management": True},
        {"name": "lpar1", "venet": [{"address": "10.8.0.1/24"}]},
        {"name": "lpar2", "venet": [{"address": "10.8.0.2/24"}]},
    ],
    "switch": [{"name": "net0"}],
}


async def run(session: VmcSession, **command: Any) -> ManagementReply:
    reply = await session.manage(Management(**command), timeout=60.0)
    assert reply.status == ManagementReply.OK, reply.text
    return reply


async def opened(lab: Lab, name: str) -> list[str]:
    shown = await lab.command("bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.SHOW)))
    return sorted(d["name"] for d in json.loads(shown.status_json)["devices"] if d["opened_by"] == name)


async def until_opened(lab: Lab, name: str, devices: list[str]) -> None:
    async def there() -> bool:
        return await opened(lab, name) == devices

    await eventually(there)


async def received(lab: Lab, name: str, address: str) -> int:
    command = NetPing(address=address, count=2, payload_bytes=64, interval_ms=5, timeout_ms=500)
    reply = await lab.command(name, Management(ping=command))
    return int(json.loads(reply.status_json)["received"])


async def test_partitions_come_run_change_and_go_through_the_channel(tmp_path: Path) -> None:
    async with Lab(Topology.model_validate(TOPOLOGY), base=tmp_path) as lab, lab.vmc_session() as session:
        start = (await run(session, watch_changes=WatchChanges())).revision
        watch = asyncio.ensure_future(run(session, watch_changes=WatchChanges(after=start, wait_ms=20_000)))
        made = (await run(session, create_partition=CreatePartition(label="New one", memory_bytes=8 * MIB))).partitions[
            0
        ]
        assert (made.label, made.state, made.memory_bytes) == ("New one", Partition.OFF, 8 * MIB)
        assert [c.name for c in (await watch).changes if c.name == made.name], (
            "the watch was answered, and held nothing up"
        )
        on = (await run(session, power_on=PowerOn(name=made.name))).partitions[0]
        assert on.state == Partition.RUNNING
        os.kill(on.pid, 0)
        status = json.loads((await lab.command(made.name, Management(show_status=ShowStatus()))).status_json)
        assert status["memory_bytes"] == 8 * MIB
        # A running one gets an adapter, and more memory for its next life.
        adapter = (await run(session, create_adapter=CreateAdapter(partition=made.name))).partitions[0].adapters[0]
        await until_opened(lab, made.name, [adapter.device])
        change = ModifyPartition(name=made.name, memory_bytes=16 * MIB, max_memory_bytes=32 * MIB, label="Renamed")
        changed = (await run(session, modify_partition=change)).partitions[0]
        assert (changed.label, changed.memory_bytes, changed.current_memory_bytes) == ("Renamed", 16 * MIB, 8 * MIB)
        off = (
            await run(session, power_off=PowerOff(name=made.name, mode=PowerOff.IMMEDIATE, restart=True))
        ).partitions[0]
        assert (off.state, off.current_memory_bytes) == (Partition.RUNNING, 16 * MIB)
        await until_opened(lab, made.name, [adapter.device])
        await run(session, power_off=PowerOff(name=made.name))
        await run(session, delete_partition=DeletePartition(name=made.name))
        listed = (await run(session, list_partitions=ListPartitions())).partitions
        assert [p.name for p in listed] == ["mp", "lpar1", "lpar2"]
        hypervisor = json.loads((await lab.command("hypervisor", Management(show_status=ShowStatus()))).status_json)
        assert sorted(hypervisor["partitions"]) == ["lpar1", "lpar2", "mp"]


async def test_adapters_move_between_vlans_and_switches_while_partitions_run(tmp_path: Path) -> None:
    async with Lab(Topology.model_validate(TOPOLOGY), base=tmp_path) as lab, lab.vmc_session() as session:
        assert await received(lab, "lpar1", "10.8.0.2")
        shown = (await run(session, show_partition=ShowPartition(name="lpar1"))).partitions[0].adapters[0]
        assert (shown.slot, shown.vlan, shown.device) == (2, 1, "lpar1-eth0")
        await run(session, modify_adapter=ModifyAdapter(partition="lpar1", slot=2, vlan=40))
        assert not await received(lab, "lpar1", "10.8.0.2")
        await run(session, modify_adapter=ModifyAdapter(partition="lpar2", slot=2, vlan=40))
        assert await received(lab, "lpar1", "10.8.0.2")
        other = (await run(session, create_switch=CreateSwitch(label="Other net"))).switches[0]
        await run(session, modify_adapter=ModifyAdapter(partition="lpar2", slot=2, switch=other.name))
        assert not await received(lab, "lpar1", "10.8.0.2")
        refused = await session.manage(Management(delete_switch=DeleteSwitch(name=other.name)), timeout=60.0)
        assert refused.status == ManagementReply.CONFLICT
        await run(session, modify_adapter=ModifyAdapter(partition="lpar2", slot=2, switch="net0"))
        await run(session, delete_switch=DeleteSwitch(name=other.name))
        assert await received(lab, "lpar1", "10.8.0.2")
        # A neighbour comes and goes; the one of the topology stays what it is.
        await run(session, create_adapter=CreateAdapter(partition="lpar1", slot=7, switch="net0"))
        await until_opened(lab, "lpar1", ["lpar1-eth0", "lpar1-eth5"])
        await run(session, delete_adapter=DeleteAdapter(partition="lpar1", slot=7))
        await until_opened(lab, "lpar1", ["lpar1-eth0"])
        assert await received(lab, "lpar1", "10.8.0.2")


async def test_a_lab_without_a_network_gets_its_first_switch(tmp_path: Path) -> None:
    bare = {**TOPOLOGY, "partition": [{"name": "mp", "management": True}, {"name": "lpar1"}], "switch": []}
    async with Lab(Topology.model_validate(bare), base=tmp_path) as lab, lab.vmc_session() as session:
        await run(session, create_switch=CreateSwitch(label="first"))
        made = (await run(session, create_adapter=CreateAdapter(partition="lpar1"))).partitions[0].adapters[0]
        await until_opened(lab, "lpar1", [made.device])
