"""The hypervisor gets another topology while the lab runs: partitions come, go and change; a wrong one does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from behaviour_worlds import behaviour, eventually

from pvnet.core.errors import RefusedError
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, UseTopology
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_wire import packed
from pvnet.testing.in_process import InProcessLab

MIB = 1 << 20
TWO = [{"name": "mp", "management": True}, {"name": "lpar1"}]


def changed(topology: Topology, **tables: Any) -> Topology:
    """The same lab with other tables."""
    dumped = topology.model_dump(by_alias=True, exclude_defaults=True)
    return Topology.model_validate(dumped | tables)


async def _has(lab: InProcessLab, name: str, memory: int | None) -> bool:
    layout = lab.hypervisor.layouts.get(name)
    return (None if layout is None else layout.memory_bytes) == memory


@behaviour(partition=TWO)
async def test_a_partition_comes_runs_and_goes(lab: InProcessLab) -> None:
    before = await lab.at_rest()
    old = lab.topology
    await lab.use_topology(changed(lab.topology, partition=[*TWO, {"name": "new", "memory": "4MiB"}]))
    await lab.start("new")
    async with await lab.session() as session:
        await session.router_open()
        assert await session.echo(b"x") == b"x", "the management partition has felt nothing"
    rc, _ = await lab.partition("new").hcalls.call(int(HcallOpcode.H_REQUEST_VMC), (), timeout=60.0)
    assert rc == HcallRc.H_AUTHORITY
    await lab.use_topology(old)
    assert "new" in lab.hypervisor.layouts, "it is on: it goes when it ends"
    await lab.stop("new")
    await eventually(lambda: _has(lab, "new", None))
    await lab.settle(before)


@behaviour(partition=TWO)
async def test_memory_of_a_running_partition_changes_with_its_next_life(lab: InProcessLab) -> None:
    await lab.use_topology(changed(lab.topology, partition=[TWO[0], {"name": "lpar1", "memory": "8MiB"}]))
    assert lab.hypervisor.layouts["lpar1"].memory_bytes == 16 * MIB
    await lab.crash("lpar1")
    await lab.start("lpar1")
    await eventually(lambda: _has(lab, "lpar1", 8 * MIB))
    assert lab.partition("lpar1").layout.memory_bytes == 8 * MIB
    status = await lab.status("hypervisor")
    assert "lpar1" in status["partitions"]
    # And one that is off changes at once.
    await lab.stop("lpar1")
    await eventually(lambda: _is_off(lab, "lpar1"))
    await lab.use_topology(changed(lab.topology, partition=[TWO[0], {"name": "lpar1", "memory": "12MiB"}]))
    assert lab.hypervisor.layouts["lpar1"].memory_bytes == 12 * MIB
    await lab.start("lpar1")


async def _is_off(lab: InProcessLab, name: str) -> bool:
    return name not in (await lab.status("hypervisor"))["partitions"]


@behaviour(partition=TWO)
async def test_the_management_partition_changes_with_its_next_life(lab: InProcessLab) -> None:
    larger = {"name": "mp", "management": True, "memory": "32MiB"}
    await lab.use_topology(changed(lab.topology, partition=[larger, TWO[1]]))
    async with await lab.session() as session:
        await session.router_open()
    await lab.stop("mp")
    await lab.start("mp")
    assert lab.hypervisor.layouts["mp"].memory_bytes == 32 * MIB
    async with await lab.session() as session:
        await session.router_open()
        assert await session.echo(b"again") == b"again"


@behaviour(partition=TWO)
async def test_a_pair_is_joined_when_both_ends_are_there(lab: InProcessLab) -> None:
    pair = {"a": "lpar1:0x30000010", "b": "new:0x30000010"}
    await lab.use_topology(changed(lab.topology, partition=[*TWO, {"name": "new"}], crq=[pair]))
    await lab.start("new")
    await lab.stop("lpar1")
    await eventually(lambda: _is_off(lab, "lpar1"))
    await lab.start("lpar1")
    await eventually(lambda: _open(lab, "new"))
    await eventually(lambda: _open(lab, "lpar1"))
    await lab.stop("new")


async def _open(lab: InProcessLab, name: str) -> bool:
    return (await lab.status(name))["crq 0x30000010"] == "open"


@behaviour(partition=TWO)
async def test_storage_comes_and_goes_with_its_partition(lab: InProcessLab) -> None:
    scm = [{"size": "1MiB", "block_size": "1MiB"}]
    old = lab.topology
    await lab.use_topology(changed(old, partition=[*TWO, {"name": "new", "scm": scm}]))
    await lab.start("new")
    assert [d["partition"] for d in (await lab.status("hypervisor"))["scm"]] == ["new"]
    assert (await lab.status("new"))["scm"][0]["state"] == "ready"
    other = [{"size": "2MiB", "block_size": "1MiB"}]
    with pytest.raises(RefusedError, match="has files already"):
        await lab.use_topology(changed(old, partition=[*TWO, {"name": "new", "scm": other}]))
    await lab.stop("new")
    await eventually(lambda: _is_off(lab, "new"))
    # More memory moves the device; the files stay.
    await lab.use_topology(changed(old, partition=[*TWO, {"name": "new", "scm": scm, "memory": "1025MiB"}]))
    await lab.use_topology(old)
    assert (await lab.status("hypervisor"))["scm"] == []
    await eventually(lambda: _no_tasks(lab))


async def _no_tasks(lab: InProcessLab) -> bool:
    return (await lab.status("hypervisor"))["tasks"] == 0


@behaviour(partition=TWO)
async def test_what_is_wrong_changes_nothing(lab: InProcessLab) -> None:
    before = await lab.at_rest()
    plans = dict(lab.hypervisor.plans)
    for data, expected in [
        (b"nothing", "cannot be read"),
        (packed(changed(lab.topology, hypervisor={"vmc": {"max_mtu": 1024}})), r"another \[lab\] or \[hypervisor\]"),
        (packed(changed(lab.topology, partition=[{"name": "mp", "management": True, "memory": "1028KiB"}])), "memory"),
        (
            packed(changed(lab.topology, partition=[*TWO, {"name": "x", "scm": [{"backing": "/nowhere/at/all"}]}])),
            "backing file",
        ),
    ]:
        command = Envelope(management=Management(use_topology=UseTopology(topology=data)))
        reply = (await lab.supervisor.call("hypervisor", command, 60.0)).management_reply
        assert reply.status == ManagementReply.FAILED
        with pytest.raises(AssertionError, match=expected):
            raise AssertionError(reply.text)
    command = Envelope(management=Management(use_topology=UseTopology(topology=packed(lab.topology))))
    with pytest.raises(RefusedError):
        await (await lab.client()).call("hypervisor", command, 60.0)
    await lab.leave()
    assert lab.hypervisor.plans == plans
    await lab.settle(before)
