"""The NovaLink service of a lab of real processes: what it says is on runs, what it says is off does not."""

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

from novalink_client import UOM, WEB_TYPE, RestClient
from system_support import AGAIN, running, topology

from pvnet.runtime.topology_novalink import NovalinkConfig


def made(name, tmp_path, **novalink):
    lab = topology(name)
    config = NovalinkConfig(port=0, http_port=0, tls=str(tmp_path / "tls"), restart=AGAIN, **novalink)
    never = AGAIN.model_copy(update={"policy": "never"})
    guests = [p.model_copy(update={"restart": never}) for p in lab.partitions[1:]]
    partitions = [lab.partitions[0], *guests]
    return lab.model_copy(update={"novalink": config, "manager": None, "partitions": partitions})


def there(path):
    return Path(path).exists()


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


async def until(condition, *, steps=600):
    for _ in range(steps):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to this")


async def test_power_events_and_a_crash(tmp_path):
    async with running(made("novalink-power", tmp_path), tmp_path / "labs") as lab:
        directory = lab.lab.processes.supervisor.directory.path
        client = RestClient(directory)
        assert (await asyncio.to_thread(client.log_on)).status == 200
        uuid, state = (await asyncio.to_thread(client.partitions))["lpar2"]
        assert state == "not activated"
        assert (await asyncio.to_thread(client.events)) == [("NEW_CLIENT", "app", "")]
        assert (await asyncio.to_thread(client.job, uuid, "PowerOn")).status == 200
        await until(lambda: client.partitions()["lpar2"][1] == "running")
        pid = lab.pid("lpar2")
        assert there(f"/proc/{pid}")
        again = await asyncio.to_thread(client.job, uuid, "PowerOn")
        assert "HSCL3681" in again.body
        os.kill(pid, signal.SIGKILL)
        await until(lambda: client.partitions()["lpar2"][1] == "error")
        seen = []
        while ("MODIFY_URI", uuid, "PartitionState") not in seen[2:]:
            seen += [event for event in await asyncio.to_thread(client.events) if event[1] == uuid]
        assert (await asyncio.to_thread(client.job, uuid, "PowerOn")).status == 200
        await until(lambda: client.partitions()["lpar2"][1] == "running")
        pid = lab.pid("lpar2")
        off = await asyncio.to_thread(client.job, uuid, "PowerOff", operation="shutdown", immediate="true")
        assert off.status == 200
        await until(lambda: client.partitions()["lpar2"][1] == "not activated")
        assert not there(f"/proc/{pid}")
        assert (await asyncio.to_thread(client.ask, "DELETE", "/rest/api/web/Logon")).status == 204
        assert (await asyncio.to_thread(client.ask, "GET", f"{UOM}/LogicalPartition")).status == 401


async def test_a_restarted_hypervisor_and_what_happened_meanwhile(tmp_path):
    async with running(made("novalink-again", tmp_path), tmp_path / "labs") as lab:
        client = RestClient(lab.lab.processes.supervisor.directory.path, plain=True)
        assert (await asyncio.to_thread(client.log_on_by_file)).status == 200
        await asyncio.to_thread(client.events)
        uuid, _ = (await asyncio.to_thread(client.partitions))["lpar1"]
        pid = lab.kill("hypervisor")
        os.kill(lab.pid("lpar1"), signal.SIGKILL)
        await lab.restarted("hypervisor", pid)
        statuses = set()

        def answered():
            answer = client.ask("GET", f"{UOM}/LogicalPartition/{uuid}")
            statuses.add(answer.status)
            return answer.text("PartitionState") == "error"

        await until(answered)
        assert statuses <= {200, 503}
        events = await asyncio.to_thread(client.events)
        assert ("MODIFY_URI", uuid, "PartitionState") in events
        assert "CACHE_CLEARED" not in {kind for kind, _, _ in events}


async def test_files_of_tokens_are_the_users_own_and_go_with_the_log_on(tmp_path):
    async with running(made("novalink-file", tmp_path, max_sessions=2), tmp_path / "labs") as lab:
        directory = lab.lab.processes.supervisor.directory.path
        client = RestClient(directory, plain=True)
        answer = await asyncio.to_thread(client.log_on_by_file)
        file = answer.text("X-API-SessionFile")
        assert mode(file) == 0o600
        assert (await asyncio.to_thread(client.ask, "GET", f"{UOM}/ManagedSystem")).status == 200
        assert (await asyncio.to_thread(client.ask, "DELETE", "/rest/api/web/Logon")).status == 204
        assert not there(file)
        refused = await asyncio.to_thread(RestClient(directory).log_on_by_file)
        assert refused.status == 403  # only by HTTP from this machine
        files = [(await asyncio.to_thread(client.log_on_by_file)).text("X-API-SessionFile") for _ in range(3)]
        assert [there(one) for one in files] == [False, True, True]


async def test_nothing_of_a_bad_log_on_is_logged(tmp_path):
    async with running(made("novalink-secret", tmp_path), tmp_path / "labs") as lab:
        client = RestClient(lab.lab.processes.supervisor.directory.path)
        assert (await asyncio.to_thread(client.log_on, "pvnet", "opensesame")).status == 401
        assert (await asyncio.to_thread(client.log_on)).status == 200
        body = b"<a>&b;</a>"
        kind = f"{WEB_TYPE}LogonRequest"
        bad = await asyncio.to_thread(client.ask, "PUT", "/rest/api/web/Logon", body, Content_Type=kind)
        assert bad.status == 400
        log = lab.log("novalink")
        assert "opensesame" not in log
        assert client.token not in log
        assert "/rest/api/web/Logon" in log


async def test_a_service_that_was_killed_comes_back_where_its_clients_know_it(tmp_path):
    async with running(made("novalink-ports", tmp_path), tmp_path / "labs") as lab:
        directory = lab.lab.processes.supervisor.directory.path
        first = RestClient(directory)
        assert (await asyncio.to_thread(first.log_on)).status == 200
        await lab.restarted("novalink", lab.kill("novalink"))
        assert RestClient(directory).endpoint == first.endpoint
        first.token = ""
        assert (await asyncio.to_thread(first.log_on)).status == 200  # the same password, and the CA that it had
        os.kill(lab.pid("novalink"), signal.SIGTERM)
        await until(lambda: "novalink" not in lab.pids())  # the restart pauses first
        with socket.create_server((first.url.hostname, first.url.port)):
            await until(lambda: "port_lost" in lab.log("novalink"))
            await until(lambda: lab.lab.processes.supervisor.state("novalink") == "running")
            other = RestClient(directory)
            assert other.url.port != first.url.port
            assert other.endpoint["http"] == first.endpoint["http"]
            assert (await asyncio.to_thread(other.log_on)).status == 200
