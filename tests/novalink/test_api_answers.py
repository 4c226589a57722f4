"""The REST interface over a platform without processes: log on, read, power, change, events; and what goes wrong."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from novalink_rig import SYSTEM, UOM, WEB, PowerOff, Service, between

from pvnet.novalink.api_change import CHANGE_ROUTES
from pvnet.novalink.api_logon import logon_routes
from pvnet.novalink.api_power import POWER_ROUTES
from pvnet.novalink.api_read import READ_ROUTES
from pvnet.novalink.catalog import CATALOG
from pvnet.pb.v1.management_pb2 import Partition


def test_what_is_answered_is_what_the_catalog_says():
    routes = [*READ_ROUTES, *POWER_ROUTES, *CHANGE_ROUTES, *logon_routes(None, None)]
    answered = [(route.method, route.path) for route in routes]
    assert len(set(answered)) == len(answered)
    assert set(answered) == {(row.method, row.path) for row in CATALOG if row.state != "no"}


# --- log on


async def test_without_a_good_token_there_is_nothing_to_see():
    async with Service() as service:
        for token in ("", "wrong", service.token + "x"):
            response = await service.ask("GET", f"{UOM}/LogicalPartition", x_api_session=token)
            assert response.status == 401
            assert b"HttpErrorResponse" in response.body
        assert (await service.ask("GET", f"{UOM}/LogicalPartition")).status == 200


async def test_a_wrong_password_waits_longer_each_time():
    async with Service() as service:
        for _ in range(4):
            assert "HTTPStatus>401<" in await service.log_on("wrong")
        assert service.pauses == sorted(service.pauses)
        assert len(set(service.pauses)) == 4


async def test_log_on_by_file_and_off():
    async with Service() as service:
        body = (
            b'<LogonRequest xmlns="http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/">'
            b"<UserID>me</UserID><GenerateX-API-SessionFile>true</GenerateX-API-SessionFile></LogonRequest>"
        )
        response = await service.ask("PUT", "/rest/api/web/Logon", body)
        assert between(response, "X-API-SessionFile") == "/files/token-2"
        assert (await service.ask("DELETE", "/rest/api/web/Logon", x_api_session="token-2")).status == 204
        assert service.keys.forgotten == ["/files/token-2"]
        assert (await service.ask("DELETE", "/rest/api/web/Logon", x_api_session="token-2")).status == 401


async def test_a_log_on_that_is_not_used_expires():
    async with Service() as service:
        service.now += 99
        assert (await service.ask("GET", f"{UOM}/ManagedSystem")).status == 200
        service.now += 100
        assert (await service.ask("GET", f"{UOM}/ManagedSystem")).status == 401


# --- read


async def test_reads():
    async with Service() as service:
        for path in (
            f"{UOM}/ManagedSystem",
            f"{UOM}/ManagedSystem/{SYSTEM.upper()}",
            f"{UOM}/ManagedSystem/{SYSTEM}/LogicalPartition",
            f"{UOM}/ManagedSystem/{SYSTEM}/VirtualSwitch",
            f"{UOM}/ManagedSystem/{SYSTEM}/VirtualNetwork",
            f"{UOM}/ManagedSystem/quick/All",
            f"{UOM}/ManagedSystem/{SYSTEM}/quick",
            f"{WEB}/quick",
            f"{WEB}/ClientNetworkAdapter",
            WEB.lower().replace("/rest/api/uom/logicalpartition", f"{UOM}/LogicalPartition"),
        ):
            response = await service.ask("GET", path)
            assert response.status == 200, path
            assert response.body, path
        assert (await service.ask("GET", f"{WEB}/quick/PartitionState")).body == b'"not activated"'
        for path in ("VirtualIOServer", "Cluster", "Group", "LogicalPartition/search/(PartitionName=='x')"):
            assert (await service.ask("GET", f"{UOM}/{path}")).status == 204, path
        found = await service.ask("GET", f"{UOM}/LogicalPartition/search/(PartitionName=='The%20web')")
        assert found.body.count(b"<entry>") == 1
        assert (await service.ask("GET", f"{UOM}/ManagedSystem/search/(SystemName==lab)")).status == 200
        assert (await service.ask("GET", f"{UOM}/ManagedSystem/search/(SystemName==Other%20one)")).status == 204


async def test_an_etag_that_the_client_has_is_not_sent_again():
    async with Service() as service:
        first = await service.ask("GET", WEB)
        etag = first.headers["ETag"]
        for given in (etag, f'"{etag}"', f'W/"{etag}"', f"0, {etag}", "*"):
            again = await service.ask("GET", WEB, if_none_match=given)
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
        assert (await service.ask("GET", WEB, if_none_match=etag + "0")).status == 200
        await service.job("PowerOn")
        assert (await service.ask("GET", WEB, if_none_match=etag)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 404, "pvnet supported"),
        ("GET", f"{UOM}/NoSuchThing", 404, "NoSuchThing"),
        ("GET", f"{UOM}/VolumeGroup", 404, "VolumeGroup"),
        ("PATCH", f"{UOM}/LogicalPartition", 405, "GET, PUT"),
        ("GET", f"{UOM}/LogicalPartition/nobody", 404, "nobody"),
        ("GET", f"{UOM}/ManagedSystem/other/LogicalPartition", 404, "other"),
        ("GET", f"{UOM}/LogicalPartition/%ff", 400, "UTF-8"),
        ("GET", f"{UOM}/LogicalPartition/search/nonsense", 400, "expected"),
        ("GET", f"{WEB}/quick/NoSuch", 404, "PartitionState"),
        ("GET", f"{WEB}/do/Dance", 404, "PowerOn, PowerOff"),
        ("GET", f"{UOM}/jobs/12", 404, "12"),
        ("GET", f"{UOM}/jobs/{'9' * 5000}", 404, "no job"),
        ("GET", f"{UOM}/Event", 400, "QUEUE_APPLICATIONID"),
        ("PUT", f"{UOM}/LogicalPartition", 400, "no body"),
        ("PUT", f"{WEB}/do/PowerOn", 400, "no body"),
    ],
)
async def test_what_cannot_be_is_said_in_a_document(method, path, status, words):
    async with Service() as service:
        response = await service.ask(method, path)
        assert response.status == status
        assert between(response, "HTTPStatus") == str(status)
        assert words in between(response, "Message")
        assert service.platform.commands == []


# --- power


async def test_a_power_job_that_is_quick_is_over_in_its_answer_and_can_be_deleted():
    async with Service() as service:
        response = await service.job("PowerOn")
        assert between(response, "Status") == "COMPLETED_OK"
        number = between(response, "JobID")
        assert b">running<" in (await service.ask("GET", WEB)).body
        assert (await service.ask("GET", f"{UOM}/jobs/{number}")).status == 200
        assert (await service.ask("DELETE", f"{UOM}/jobs/{number}")).status == 204
        assert (await service.ask("GET", f"{UOM}/jobs/{number}")).status == 404


async def test_power_operations_are_idempotent():
    async with Service() as service:
        off = await service.job("PowerOff")
        assert "HSCL1558" in off.body.decode()
        assert between(off, "Status") == "COMPLETED_WITH_ERROR"
        await service.job("PowerOn")
        on = await service.job("PowerOn")
        assert "HSCL3681" in on.body.decode()
        assert len(service.platform.commands) == 1


@pytest.mark.parametrize(
    ("parameters", "mode", "restart"),
    [
        ({}, PowerOff.NORMAL, False),
        ({"operation": "shutdown", "immediate": "true"}, PowerOff.IMMEDIATE, False),
        ({"operation": "osshutdown", "immediate": "true"}, PowerOff.GUEST, False),
        ({"operation": "shutdown", "restart": "true"}, PowerOff.NORMAL, True),
    ],
)
async def test_the_parameters_of_a_power_off(parameters, mode, restart):
    async with Service() as service:
        await service.job("PowerOn")
        assert between(await service.job("PowerOff", **parameters), "Status") == "COMPLETED_OK"
        command = service.platform.commands[-1].power_off
        assert (command.mode, command.restart) == (mode, restart)


async def test_an_operating_system_that_takes_no_requests_is_not_asked():
    async with Service() as service:
        service.platform.put("web", state=Partition.RUNNING, guest_ready=False)
        await service.api.wait_mirror(lambda: service.api.mirror.partitions["web"].state == Partition.RUNNING, 5.0)
        response = await service.job("PowerOff", operation="osshutdown")
        assert "HSCL0DB4" in response.body.decode()
        assert service.platform.commands == []


async def test_bad_parameters_make_no_job():
    async with Service() as service:
        for parameters in ({"operation": "explode"}, {"immediate": "perhaps"}):
            assert (await service.job("PowerOff", **parameters)).status == 400
        assert len(service.api.jobs) == 0


async def test_a_job_whose_command_is_under_way_is_neither_cancelled_nor_deleted(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.AT_ONCE_S", 0.01)
    async with Service() as service:
        service.platform.hold = asyncio.Event()
        response = await service.job("PowerOn")
        assert between(response, "Status") == "RUNNING"
        number = between(response, "JobID")
        assert (await service.ask("POST", f"{UOM}/jobs/{number}/cancel")).status == 409
        assert (await service.ask("DELETE", f"{UOM}/jobs/{number}")).status == 409
        service.platform.hold.set()
        await asyncio.gather(*service.platform.tasks)
        assert between(await service.ask("GET", f"{UOM}/jobs/{number}"), "Status") == "COMPLETED_OK"
        assert (await service.ask("POST", f"{UOM}/jobs/{number}/cancel")).status == 204


async def test_a_job_that_waits_for_its_turn_can_be_cancelled(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.AT_ONCE_S", 0.01)
    async with Service() as service:
        async with service.api.power_slots, service.api.power_slots:
            response = await service.job("PowerOn")
            assert between(response, "Status") == "NOT_STARTED"
            number = between(response, "JobID")
            assert (await service.ask("POST", f"{UOM}/jobs/{number}/cancel")).status == 204
        await asyncio.gather(*service.platform.tasks)
        assert between(await service.ask("GET", f"{UOM}/jobs/{number}"), "Status") == "COMPLETED_WITH_ERROR"
        assert service.platform.commands == []


async def test_a_client_that_hangs_up_leaves_the_job_running():
    async with Service() as service:
        service.platform.hold = asyncio.Event()
        asking = asyncio.get_running_loop().create_task(service.job("PowerOn"))
        await service.api.wait_mirror(lambda: service.api.mirror.partitions["web"].state == Partition.STARTING, 5.0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        service.platform.hold.set()
        await asyncio.gather(*service.platform.tasks)
        (job,) = service.api.jobs.all()
        assert job.status == "COMPLETED_OK"
        assert service.platform.ledger.partitions["web"].state == Partition.RUNNING


async def test_without_a_session_changes_say_503(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_change.RECOVERY_S", 0.05)
    async with Service() as service:
        service.platform.lost = True
        gone = await service.ask("DELETE", WEB)
        assert (gone.status, gone.headers["Retry-After"]) == (503, "2")


# --- change


async def renamed(service, name, **headers):
    body = (await service.ask("GET", WEB)).body.replace(b">The web<", b">" + name.encode() + b"<")
    return await service.ask("POST", WEB, body, **headers)


async def test_a_change_is_in_its_answer_with_the_new_etag():
    async with Service() as service:
        etag = (await service.ask("GET", WEB)).headers["ETag"]
        response = await renamed(service, "Shop", if_match=etag)
        assert response.status == 200
        assert b">Shop<" in response.body
        assert response.headers["ETag"] != etag
        assert (await service.ask("GET", WEB)).headers["ETag"] == response.headers["ETag"]


async def test_a_stale_etag_changes_nothing():
    async with Service() as service:
        response = await renamed(service, "Shop", if_match="17")
        assert response.status == 412
        assert between(response, "HTTPStatus") == "412"
        assert service.platform.commands == []
        assert (await service.ask("DELETE", WEB, if_match="17")).status == 412


async def test_a_change_that_came_between_is_a_412_too():
    async with Service() as service:
        etag = (await service.ask("GET", WEB)).headers["ETag"]
        service.platform.ledger.put_partition(_relabelled(service, "Other"))  # the mirror has not heard of it yet
        assert (await renamed(service, "Shop", if_match=etag)).status == 412
        assert service.platform.ledger.partitions["web"].label == "Other"


def _relabelled(service, label):
    changed = Partition()
    changed.CopyFrom(service.platform.ledger.partitions["web"])
    changed.label = label
    return changed


async def test_a_value_that_cannot_be_names_its_element():
    async with Service() as service:
        body = (await service.ask("GET", WEB)).body.decode()
        for name in ("DesiredMemory", "MaximumMemory"):
            body = body.replace(f"<{name}>64<", f"<{name}>4096<")
        response = await service.ask("POST", WEB, body.encode())
        assert response.status == 400
        assert type(response.status) is int, "the log spells it as any other"
        assert "Memory" in between(response, "Message")


async def test_a_partition_that_was_deleted_is_gone():
    async with Service() as service:
        assert (await service.ask("DELETE", WEB)).status == 204
        assert (await service.ask("GET", WEB)).status == 404


# --- events


async def poll(service, application="app"):
    return await service.ask("GET", f"{UOM}/Event", query={"QUEUE_APPLICATIONID": application})


async def test_events_come_in_order_with_uris_that_can_be_followed():
    async with Service() as service:
        assert between(await poll(service), "EventType") == "NEW_CLIENT"
        await service.job("PowerOn")
        text = (await poll(service)).body.decode()
        assert text.count("<EventType>MODIFY_URI<") == 3
        uri = text.partition("<EventData>")[2].partition("<")[0]
        assert uri.startswith("https://host:1/")
        assert (await service.ask("GET", uri.removeprefix("https://host:1"))).status == 200


async def test_a_poll_waits_for_the_next_event_and_for_the_end_of_the_log_on():
    async with Service() as service:
        await poll(service)
        waiting = asyncio.get_running_loop().create_task(poll(service))
        await asyncio.sleep(0)
        await service.job("PowerOn")
        assert (await waiting).status == 200
        service.api.events.poll("pvnet", "app", 0.0)  # what came after the first
        waiting = asyncio.get_running_loop().create_task(poll(service))
        await asyncio.sleep(0)
        await service.ask("DELETE", "/rest/api/web/Logon")
        assert (await waiting).status == 204


async def test_polls_end_when_their_connections_are_needed():
    async with Service() as service:
        await poll(service)
        waiting = asyncio.get_running_loop().create_task(poll(service))
        await asyncio.sleep(0)
        service.api.end_polls()
        assert (await waiting).status == 204


# --- anything at all

KINDS = ["LogicalPartition", "ManagedSystem", "VirtualSwitch", "ClientNetworkAdapter", SYSTEM, WEB.rpartition("/")[2]]
STEPS = ["rest", "api", "uom", "web", "Logon", "quick", "All", "search", "do", "jobs", "PowerOn", "Event", "%", "%00"]
PIECES = st.sampled_from([*KINDS, *STEPS, "..", ""])
DOCUMENTS = [b"<a/>", b"<LogonRequest/>", b"<entry><content/></entry>"]
BODIES = st.one_of(st.binary(max_size=200), st.sampled_from(DOCUMENTS))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", ""]),
    path=st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=8).map(lambda parts: "/" + "/".join(parts))),
    body=BODIES,
    etag=st.text(max_size=20),
)
async def test_whatever_is_asked_there_is_an_answer_and_nothing_breaks(method, path, body, etag):
    async with Service() as service:
        response = await service.ask(method, path, body, if_none_match=etag, if_match=etag)
        assert response.status in {200, 204, 304, 400, 401, 404, 405, 409, 412, 501}
        if response.status >= 400:
            assert between(response, "HTTPStatus") == str(response.status)
        assert (await service.ask("GET", f"{UOM}/ManagedSystem", x_api_session="")).status == 401
