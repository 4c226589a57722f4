"""An unmodified pypowervm changes a system: names, sizes, partitions, adapters, switches; stale changes are refused."""

from __future__ import annotations

import pytest
from interop.novalink.client import Program, StepError
from interop.novalink.lab import EAST, Lab, until

pytestmark = pytest.mark.slow
OF_EAST = f"LogicalPartition/{EAST}"


TAKEN = (400, 409)


def refused(step: pytest.ExceptionInfo[StepError], status: int | tuple[int, ...], *words: str) -> None:
    assert step.value.status in (status if isinstance(status, tuple) else (status,)), step.value
    assert step.value.message
    for word in words:
        assert word.lower() in step.value.message.lower(), step.value.message


def test_rename(client: Program, lab: Lab) -> None:
    client.listen()
    renamed = client.rename(name="East End", to="Orient & <Co> ä/%20")
    assert renamed["name"] == "Orient & <Co> ä/%20"
    assert renamed["uuid"] == EAST
    assert renamed["etag"] not in (None, renamed["before"])
    client.events(wanted=[{"type": "MODIFY_URI", "uri": OF_EAST, "detail": "Other"}])
    assert client.search(name="Orient & <Co> ä/%20") == ["Orient & <Co> ä/%20"]
    assert client.search(name="East End") == []
    client.power_on(name="Orient & <Co> ä/%20")
    assert lab.pid("east"), "the node's own name stays"


def test_a_stale_etag(client: Program, lab: Lab) -> None:
    client.hold(name="East End")
    client.rename(name="East End", to="First")
    with pytest.raises(StepError) as caught:
        client.update_held(name="Second")
    refused(caught, 412)
    with pytest.raises(StepError) as caught:
        client.delete_held()
    refused(caught, 412)
    assert client.search(name="First") == ["First"]
    fresh = client.refresh()
    assert (fresh["same"], fresh["name"]) == (False, "First")
    assert client.update_held(name="Second")["name"] == "Second"


def test_a_name_that_is_taken_and_one_that_is_none(client: Program) -> None:
    with pytest.raises(StepError) as caught:
        client.rename(name="East End", to="west")
    refused(caught, TAKEN, "west")
    with pytest.raises(StepError) as caught:
        client.rename(name="East End", to="x" * 32)
    refused(caught, 400, "PartitionName")
    assert client.search(name="East End") == ["East End"]


def test_memory(client: Program, lab: Lab) -> None:
    assert client.memory(name="East End", desired=128)["memory"] == [32, 128, 256]
    with pytest.raises(StepError) as caught:
        client.memory(name="East End", desired=512)
    refused(caught, 400, "memory")
    assert client.partition(name="East End")["memory"] == [32, 128, 256]
    free = client.system()["free"]
    client.power_on(name="East End")
    assert client.system()["free"] == free - 128


def test_what_no_client_may_change(client: Program) -> None:
    with pytest.raises(StepError) as caught:
        client.set_read_only(name="East End", prop="PartitionState", value="running")
    refused(caught, 400, "PartitionState")
    assert client.partition(name="East End")["state"] == "not activated"


def test_create_use_and_delete_a_partition(client: Program, lab: Lab) -> None:
    client.listen()
    made = client.create(name="New One.1", memory=256, vcpu=1)
    assert (made["name"], made["state"], made["memory"]) == ("New One.1", "not activated", [256, 256, 256])
    assert made["etag"]
    uri = f"LogicalPartition/{made['uuid']}"
    seen = client.events(wanted=[{"type": "ADD_URI", "uri": uri}])
    assert client.search(id=made["id"]) == ["New One.1"]
    (node,) = {name for name, info in lab.nodes().items() if info["role"] == "partition"} - {"mp", "east", "west"}
    client.power_on(name="New One.1")
    pid = until(lambda: lab.pid(node), "the new partition's process")
    with pytest.raises(StepError) as caught:
        client.delete(name="New One.1")
    refused(caught, 409, "New One.1")
    assert lab.pid(node) == pid
    client.power_off(name="New One.1", how="hard")
    client.delete(name="New One.1")
    client.events(wanted=[{"type": "DELETE_URI", "uri": uri}], after=seen["count"])
    assert client.search(name="New One.1") == []
    assert client.raw(method="GET", path=f"/uom/{uri}")["status"] == 404
    assert len(client.partitions()) == 3


def test_create_with_an_id_and_a_uuid(client: Program) -> None:
    uuid = "40ffee00-0000-4000-8000-00000000000a"
    made = client.create_at_root(
        name="given", memory=160, min_mem=128, max_mem=512, vcpu=2, proc_units=0.8, id=42, uuid=uuid
    )
    assert (made["id"], made["uuid"]) == (42, uuid.upper())
    assert made["memory"] == [128, 160, 512]
    assert (made["units"], made["virtual"]) == (0.8, 2)
    with pytest.raises(StepError) as caught:
        client.create(name="another", memory=128, vcpu=1, id=42)
    refused(caught, TAKEN, "42")
    with pytest.raises(StepError) as caught:
        client.create(name="given", memory=128, vcpu=1)
    refused(caught, TAKEN, "given")
    assert client.resize(name="given", memory=256, min_mem=128, max_mem=512, vcpu=1)["virtual"] == 1
    assert len(client.partitions()) == 4


def test_more_memory_than_the_system_has(client: Program) -> None:
    client.create(name="big1", memory=3072, vcpu=1)
    client.create(name="big2", memory=3072, vcpu=1)
    client.power_on(name="big1")
    with pytest.raises(StepError) as caught:
        client.power_on(name="big2")
    assert "VMPowerOnFailure" in caught.value.types
    assert "memory" in caught.value.text


def test_nobody_deletes_the_management_partition(client: Program) -> None:
    with pytest.raises(StepError) as caught:
        client.delete(name="Management")
    refused(caught, 409, "management")


def test_adapters(client: Program, lab: Lab) -> None:
    client.listen()
    made = client.create_adapter(name="East End", vlan=7)
    assert (made["slot"], made["vlan"], made["switch"], made["trunk"]) == (5, 7, 0, False)
    uri = f"{OF_EAST}/ClientNetworkAdapter/{made['uuid']}"
    seen = client.events(wanted=[{"type": "ADD_URI", "uri": uri}, {"type": "MODIFY_URI", "uri": OF_EAST}])
    given = client.create_adapter(name="East End", vlan=8, slot_num=20, mac_addr="02:00:00:aa:bb:cc")
    assert (given["slot"], given["mac"]) == (20, "020000AABBCC")
    assert [one["slot"] for one in client.adapters(name="East End")] == [4, 5, 20]
    assert {one["vlan"] for one in client.networks()["networks"]} == {1, 5, 7, 8}
    assert client.move_adapter(name="East End", slot=20, vlan=9)["vlan"] == 9
    assert client.free_vlan(name="East End", slot=20)["vlan"] == 2
    client.power_on(name="East End")
    client.delete_adapter(name="East End", slot=5)
    client.events(wanted=[{"type": "DELETE_URI", "uri": uri}], after=seen["count"])
    assert [one["slot"] for one in client.adapters(name="East End")] == [4, 20]
    client.create_adapter(name="East End", vlan=5)
    assert len(client.adapters(name="East End")) == 3


def test_adapters_that_cannot_be(client: Program) -> None:
    with pytest.raises(StepError, match="NOSWITCH"):
        client.create_adapter(name="East End", vlan=7, switch="NOSWITCH")
    for more, word in (({"slot_num": 4}, "4"), ({"mac_addr": "02:ea:57:00:00:04"}, "02")):
        with pytest.raises(StepError) as caught:
            client.create_adapter(name="East End", vlan=7, **more)
        refused(caught, TAKEN, word)
    with pytest.raises(StepError) as caught:
        client.create_adapter(name="East End", vlan=4095)
    refused(caught, 400, "PortVLANID")
    assert [one["slot"] for one in client.adapters(name="East End")] == [4]


def test_switches(client: Program) -> None:
    made = client.create_switch(name="LAB NET.2")
    assert (made["name"], made["id"]) == ("LAB NET.2", 1)
    adapter = client.create_adapter(name="East End", vlan=3, switch="LAB NET.2")
    assert adapter["switch"] == 1
    again = client.create_adapter(name="East End", vlan=3, switch="FRESH", crt_vswitch=True)
    assert again["switch"] == 2
    with pytest.raises(StepError) as caught:
        client.delete_switch(name="LAB NET.2")
    refused(caught, 409, "East End")
    client.delete_adapter(name="East End", slot=adapter["slot"])
    client.delete_switch(name="LAB NET.2")
    left = {one["name"]: one["id"] for one in client.networks()["switches"]}
    assert left == {"ETHERNET0": 0, "FRESH": 2}, "who stays keeps its number"
