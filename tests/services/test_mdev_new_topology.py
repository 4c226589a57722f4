"""An mdev host hears of other partitions while it runs."""

from __future__ import annotations

import pytest
from behaviour_worlds import WORLDS, behaviour

from pvnet.core.errors import RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, MdevAdmin
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab

ONE = "c0ffee00-0000-4000-8000-00000000000a"
LOOPBACK = [world for world in WORLDS if world.id == "loopback"]
TABLES = {
    "partition": [{"name": "lpar1"}],
    "mdev_host": [{"mdev": [{"uuid": ONE, "parent": "mtty", "type": "mtty-2"}]}],
    "manager": None,
    "switch": [],
}


def changed(topology: Topology, **tables: object) -> Topology:
    dumped = topology.model_dump(by_alias=True, exclude_defaults=True)
    return Topology.model_validate(dumped | tables)


async def assign(lab: InProcessLab, partition: str) -> ManagementReply:
    command = Management(mdev=MdevAdmin(verb=MdevAdmin.ASSIGN, name=ONE, partition=partition))
    client = await lab.client()
    reply = (await client.call("mdevs", Envelope(management=command), 60.0)).management_reply
    await lab.leave()
    return reply


@behaviour(worlds=LOOPBACK, **TABLES)
async def test_a_new_partition_can_have_a_device_and_goes_only_without_it(lab: InProcessLab) -> None:
    old = lab.topology
    assert (await assign(lab, "new")).status == ManagementReply.NOT_FOUND
    await lab.use_topology(changed(old, partition=[{"name": "lpar1"}, {"name": "new"}]))
    assert (await assign(lab, "new")).status == ManagementReply.OK
    with pytest.raises(RefusedError, match="is for new"):
        await lab.use_topology(old)
    assert [p.name for p in lab.mdev_host().topology.partitions] == ["lpar1", "new"]
    assert "new" in lab.hypervisor.plans, "the hypervisor has it again"
    assert (await assign(lab, "")).status == ManagementReply.OK
    await lab.use_topology(old)
    with pytest.raises(RefusedError, match="mdev hosts"):
        await lab.use_topology(changed(old, mdev_host=[{"mdev": []}]))
    assert list(lab.hypervisor.plans) == ["lpar1"]
