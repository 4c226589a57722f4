"""The bridge gets another topology while the lab runs: venets, VLANs and switches come, go and move."""

from __future__ import annotations

import json
from typing import Any

import pytest
from behaviour_worlds import WORLDS, behaviour, eventually

from pvnet.core.errors import RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, NetPing, SwitchAdmin, VbusAdmin
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab

ONE_OF_EACH_KIND = [world for world in WORLDS if world.id in {"loopback", "unix"}]


def venet(host: int, **more: Any) -> dict[str, Any]:
    return {"address": f"10.5.0.{host}/24", **more}


def partition(name: str, *venets: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "venet": list(venets)}


BASE: dict[str, Any] = {
    "partition": [partition("a", venet(1)), partition("b", venet(2)), partition("c", venet(3))],
    "switch": [{"name": "net0"}],
    "manager": None,
}


def changed(topology: Topology, **tables: Any) -> Topology:
    """The same lab with other tables."""
    dumped = topology.model_dump(by_alias=True, exclude_defaults=True)
    return Topology.model_validate(dumped | tables)


async def ask(lab: InProcessLab, node: str, command: Management) -> Any:
    reply = (await (await lab.client()).call(node, Envelope(management=command), 60.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json) if reply.status_json else None


async def reaches(lab: InProcessLab, name: str, host: int, *, timeout_ms: int = 500) -> bool:
    command = NetPing(address=f"10.5.0.{host}", count=2, payload_bytes=64, interval_ms=5, timeout_ms=timeout_ms)
    try:
        return bool((await ask(lab, name, Management(ping=command)))["received"])
    except RefusedError:
        return False  # not up (yet)


async def buses(lab: InProcessLab) -> dict[str, list[str]]:
    shown = await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.SHOW)))
    return {bus["name"]: [device["name"] for device in bus["devices"]] for bus in shown["buses"]}


async def ports(lab: InProcessLab) -> dict[str, dict[str, int]]:
    shown = await ask(lab, "bridge", Management(switch=SwitchAdmin(verb=SwitchAdmin.SHOW)))
    return {switch["name"]: {port["name"]: port["vlan"] for port in switch["ports"]} for switch in shown}


@behaviour(worlds=ONE_OF_EACH_KIND, **BASE)
async def test_ports_of_one_vlan_reach_each_other_and_no_others(lab: InProcessLab) -> None:
    assert await reaches(lab, "a", 2)
    assert await reaches(lab, "a", 3)
    moved = [partition("a", venet(1, vlan=7)), partition("b", venet(2, vlan=7)), partition("c", venet(3))]
    await lab.use_topology(changed(lab.topology, partition=moved))
    assert await ports(lab) == {"net0": {"a-eth0": 7, "b-eth0": 7, "c-eth0": 1}}
    assert await reaches(lab, "a", 2)
    assert not await reaches(lab, "a", 3)
    await lab.use_topology(changed(lab.topology, partition=BASE["partition"]))
    assert await reaches(lab, "a", 3)
    await lab.leave()


@behaviour(worlds=ONE_OF_EACH_KIND, **BASE)
async def test_a_venet_moves_to_a_new_switch_and_back(lab: InProcessLab) -> None:
    two = [{"name": "net0"}, {"name": "net1", "label": "Second"}]
    moved = [*BASE["partition"][:2], partition("c", venet(3, switch="net1"))]
    await lab.use_topology(changed(lab.topology, switch=two, partition=moved))
    assert await ports(lab) == {"net0": {"a-eth0": 1, "b-eth0": 1}, "net1": {"c-eth0": 1}}
    assert not await reaches(lab, "a", 3)
    other_label = [two[0], {"name": "net1", "label": "Renamed"}]
    await lab.use_topology(changed(lab.topology, switch=other_label))
    await lab.use_topology(changed(lab.topology, partition=BASE["partition"], switch=BASE["switch"]))
    assert list(await ports(lab)) == ["net0"]
    assert await reaches(lab, "a", 3)
    await lab.leave()


@behaviour(worlds=ONE_OF_EACH_KIND, **BASE)
async def test_running_partitions_get_venets_and_lose_them_and_the_others_go_on(lab: InProcessLab) -> None:
    more = partition("a", venet(1, slot=2), {"slot": 3}, {"slot": 9, "vlan": 5})
    await lab.use_topology(changed(lab.topology, partition=[more, *BASE["partition"][1:]]))
    assert (await buses(lab))["a"] == ["a-eth0", "a-eth1", "a-eth7"]
    await eventually(lambda: _open(lab, {"a-eth0", "a-eth1", "a-eth7"}))
    assert await reaches(lab, "a", 2)
    # The middle one goes: neither its neighbours' names nor their MAC addresses move.
    macs = lab.topology
    kept = partition("a", venet(1, slot=2), {"slot": 9, "vlan": 5, "mac": macs.venet_mac(macs.partition("a"), 2)})
    await lab.use_topology(changed(lab.topology, partition=[kept, *BASE["partition"][1:]]))
    await eventually(lambda: _open(lab, {"a-eth0", "a-eth7"}))
    assert await reaches(lab, "a", 2)
    # The first one goes: a partition without its own network goes on, and gets it again.
    await lab.use_topology(changed(lab.topology, partition=[partition("a"), *BASE["partition"][1:]]))
    await eventually(lambda: _open(lab, set()))
    assert not await reaches(lab, "a", 2)
    await lab.use_topology(changed(lab.topology, partition=BASE["partition"]))
    await eventually(lambda: reaches(lab, "a", 2))
    await lab.leave()


async def _open(lab: InProcessLab, names: set[str]) -> bool:
    shown = await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.SHOW)))
    return {d["name"] for d in shown["devices"] if d["opened_by"] == "a"} == names


@behaviour(worlds=ONE_OF_EACH_KIND, **BASE)
async def test_a_new_partition_has_its_network_and_a_removed_one_leaves_nothing(lab: InProcessLab) -> None:
    old, before = lab.topology, await lab.at_rest()
    await lab.use_topology(changed(old, partition=[*BASE["partition"], partition("new", venet(9))]))
    await lab.start("new")
    assert await reaches(lab, "new", 1)
    await lab.stop("new")
    await lab.use_topology(old)
    assert "new" not in await buses(lab)
    assert "new-eth0" not in (await ports(lab))["net0"]
    await lab.leave()
    await lab.settle(before)


@behaviour(
    worlds=ONE_OF_EACH_KIND,
    settles=False,
    partition=[partition("a"), partition("b", venet(2))],
    switch=[{"name": "net0"}],
    manager=None,
)
async def test_a_partition_without_a_bus_gets_one_while_it_runs(lab: InProcessLab) -> None:
    assert "a" not in await buses(lab)
    await lab.use_topology(changed(lab.topology, partition=[partition("a", {"slot": 4}), partition("b", venet(2))]))
    await eventually(lambda: _open(lab, {"a-eth2"}))
    await lab.leave()


@behaviour(worlds=ONE_OF_EACH_KIND, **BASE)
async def test_what_cannot_be_changes_nothing(lab: InProcessLab) -> None:
    made = Management(vbus=VbusAdmin(verb=VbusAdmin.DEVICE_CREATE, device="a-eth5", attributes={"vlan": "12"}))
    setattr(made.vbus, "class", "venet")
    await ask(lab, "bridge", made)
    before = (await buses(lab), await ports(lab))
    assert before[1]["net0"]["a-eth5"] == 12
    taken = [partition("a", venet(1), {"slot": 7}), *BASE["partition"][1:]]
    odd = [{**BASE["partition"][0], "device": [{"name": "odd", "class": "nothing-like-it"}]}, *BASE["partition"][1:]]
    capture = [{"name": "net0"}, {"name": "net1"}, {"name": "net2", "ports": ["pcapng:/nowhere/at/all.pcapng"]}]
    for tables, expected in (
        ({"partition": taken}, "a device a-eth5 already"),
        ({"partition": odd}, "no device class"),
        ({"switch": capture}, "nowhere"),
        ({"switch": [{"name": "net0", "mtu": 9000}]}, "another MTU"),
        ({"partition": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "switch": [{"name": "x"}]}, "is in use: a-eth5"),
    ):
        with pytest.raises(RefusedError, match=expected):
            await lab.use_topology(changed(lab.topology, **tables))  # type: ignore[arg-type]
        assert (await buses(lab), await ports(lab)) == before
    await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.DEVICE_REMOVE, device="a-eth5")))
    for wrong in ("0", "4095", "x", "99999"):
        made.vbus.attributes["vlan"] = wrong
        with pytest.raises(RefusedError, match="vlan"):
            await ask(lab, "bridge", made)
    assert await reaches(lab, "a", 2)
    await lab.leave()
