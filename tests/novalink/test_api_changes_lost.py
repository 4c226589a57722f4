"""Changes whose answer is lost, and refusals: what a client is told, in the words of its own documents."""

import asyncio

import pytest
from novalink_rig import SYSTEM, UOM, WEB, Service, between

from pvnet.pb.v1.management_pb2 import ManagementReply

UOM_NS = "http://www.ibm.com/xmlns/systems/power/firmware/uom/mc/2012_10/"
NEW = (
    f'<LogicalPartition xmlns="{UOM_NS}"><PartitionMemoryConfiguration><DesiredMemory>64</DesiredMemory>'
    "</PartitionMemoryConfiguration><PartitionName>New</PartitionName></LogicalPartition>"
).encode()
ADAPTER = f"{WEB}/ClientNetworkAdapter/cccccccc-0000-4000-8000-000000000002"
SWITCH = f'<VirtualSwitch xmlns="{UOM_NS}"><SwitchName>NET</SwitchName></VirtualSwitch>'.encode()


async def rename(service, name=b"Shop"):
    body = (await service.ask("GET", WEB)).body.replace(b">The web<", b">" + name + b"<")
    return await service.ask("POST", WEB, body)


async def create(service):
    return await service.ask("PUT", f"{UOM}/LogicalPartition", NEW)


async def delete(service):
    return await service.ask("DELETE", WEB)


async def delete_adapter(service):
    return await service.ask("DELETE", ADAPTER)


@pytest.mark.parametrize(("change", "status"), [(create, 200), (rename, 200), (delete, 204), (delete_adapter, 204)])
async def test_a_change_whose_answer_was_lost_is_told_when_it_is_seen(change, status):
    async with Service() as service:
        service.platform.lose = ["answer"]
        response = await change(service)
        assert response.status == status
        if status == 200:
            assert between(response, "PartitionName") in {"New", "Shop"}
        assert len([c for c in service.platform.commands if c.WhichOneof("command") != "show_system"]) == 1


@pytest.mark.parametrize("change", [create, rename, delete, delete_adapter])
async def test_a_change_that_is_not_seen_may_still_come(monkeypatch, change):
    monkeypatch.setattr("pvnet.novalink.api_change.EFFECT_S", 0.05)
    async with Service() as service:
        service.platform.lose = ["asked"]
        response = await change(service)
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
        assert "nothing has changed so far. The change may still be carried out." in between(response, "Message")


async def test_the_failure_of_a_change_is_no_failure_of_a_task(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_change.RECOVERY_S", 0.05)
    failed: list[BaseException | None] = []
    async with Service() as service:
        spawn = service.platform.spawn

        def watched(work, name):
            task = spawn(work, name)
            task.add_done_callback(lambda done: failed.append(done.exception()))
            return task

        service.platform.spawn = watched
        service.platform.lost = True
        response = await delete(service)
        await asyncio.sleep(0)
        assert response.status == 503
        assert "The platform did not answer. The change may still be carried out." in between(response, "Message")
        assert failed == [None]


@pytest.mark.parametrize(
    ("status", "field", "text", "code", "told"),
    [
        ("CONFLICT", "lpar_id", "lpar_id: 1 is that of The web (web)", 409, "PartitionID: 1 is that of The web (web)"),
        ("CONFLICT", "label", "label: 'x' is the name of another", 409, "PartitionName: 'x' is the name of another"),
        (
            "INVALID",
            "memory_bytes",
            "memory_bytes: 3 MiB: expected 4 MiB (min_memory_bytes) to 5 MiB (max_memory_bytes)",
            400,
            "DesiredMemory: 3 MiB: expected 4 MiB (MinimumMemory) to 5 MiB (MaximumMemory)",
        ),
        (
            "INVALID",
            "memory_bytes",
            "memory_bytes: expected min_memory <= memory <= max_memory",
            400,
            "DesiredMemory: expected MinimumMemory <= DesiredMemory <= MaximumMemory",
        ),
        (
            "INVALID",
            "processors.units",
            "processors.units: 2: expected 1",
            400,
            "DesiredProcessingUnits: 2: expected 1",
        ),
        ("INVALID", "type", "at most one", 400, "PartitionType: at most one"),
        ("NOT_FOUND", "", "no partition 'web'; there are: mp", 404, "It has been deleted meanwhile."),
    ],
)
async def test_a_refusal_is_in_the_words_of_the_clients_document(status, field, text, code, told):
    async with Service() as service:
        refusal = ManagementReply(status=ManagementReply.Status.Value(status), field=field, text=text)
        service.platform.refusals = [refusal]
        response = await create(service)
        assert (response.status, between(response, "Message").replace("&lt;", "<")) == (code, told)


async def test_a_switch_has_a_name_of_its_own_kind():
    async with Service() as service:
        text = "label: 'NET' is the name of another switch"
        service.platform.refusals = [ManagementReply(status=ManagementReply.CONFLICT, field="label", text=text)]
        response = await service.ask("PUT", f"{UOM}/ManagedSystem/{SYSTEM}/VirtualSwitch", SWITCH)
        assert (response.status, between(response, "Message")) == (
            409,
            "SwitchName: 'NET' is the name of another switch",
        )
