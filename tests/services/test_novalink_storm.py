"""Many clients at once, and the session lost under them: in a lab of real processes each is told what has happened."""

import asyncio
import time

import pytest
from novalink_client import UOM, RestClient
from system_support import AGAIN, running, topology

from pvnet.runtime.topology_novalink import NovalinkConfig

UOM_NS = "http://www.ibm.com/xmlns/systems/power/firmware/uom/mc/2012_10/"
NEW = (
    f'<LogicalPartition xmlns="{UOM_NS}"><PartitionMemoryConfiguration><DesiredMemory>64</DesiredMemory>'
    "</PartitionMemoryConfiguration><PartitionName>New One</PartitionName></LogicalPartition>"
).encode()


def made(name, tmp_path):
    lab = topology(name)
    config = NovalinkConfig(port=0, http_port=0, tls=str(tmp_path / "tls"), restart=AGAIN)
    never = AGAIN.model_copy(update={"policy": "never"})
    first, *guests = lab.partitions
    guests = [p.model_copy(update={"restart": never, "autostart": False}) for p in guests]
    return lab.model_copy(update={"novalink": config, "manager": None, "partitions": [first, *guests]})


def finished(client, answer):
    """The job, when it is over."""
    number = answer.text("JobID")
    end = time.monotonic() + 80
    while not answer.text("Status").startswith("COMPLETED"):
        assert time.monotonic() < end, answer.body
        time.sleep(0.1)
        answer = client.ask("GET", f"{UOM}/jobs/{number}")
    return answer


async def test_what_many_clients_want_at_once_happens_once(tmp_path):
    async with running(made("novalink-storm", tmp_path), tmp_path / "labs") as lab:
        client = RestClient(lab.lab.processes.supervisor.directory.path, plain=True)
        assert (await asyncio.to_thread(client.log_on_by_file)).status == 200
        uuid, _ = (await asyncio.to_thread(client.partitions))["lpar2"]
        for operation, code in (("PowerOn", "HSCL3681"), ("PowerOff", "HSCL1558")):
            answers = await asyncio.gather(*(asyncio.to_thread(client.job, uuid, operation) for _ in range(6)))
            answers = [await asyncio.to_thread(finished, client, answer) for answer in answers]
            failed = [a.body for a in answers if a.text("Status") != "COMPLETED_OK"]
            assert len(failed) == 5
            assert all(code in body for body in failed)
        kind = {"Content_Type": "application/vnd.ibm.powervm.uom+xml; type=LogicalPartition"}
        path = f"{UOM}/LogicalPartition"
        creates = (asyncio.to_thread(client.ask, "PUT", path, NEW, **kind) for _ in range(20))
        assert sorted(a.status for a in await asyncio.gather(*creates)) == [200, *[409] * 19]
        log = lab.log("novalink")
        assert "status=409" in log
        assert "HTTPStatus" not in log


@pytest.mark.parametrize("node", ["mp", "hypervisor"])
async def test_a_power_on_whose_session_is_lost_says_what_became_of_it(tmp_path, node):
    async with running(made(f"novalink-lost-{node}", tmp_path), tmp_path / "labs") as lab:
        client = RestClient(lab.lab.processes.supervisor.directory.path, plain=True)
        assert (await asyncio.to_thread(client.log_on_by_file)).status == 200
        uuid, _ = (await asyncio.to_thread(client.partitions))["lpar2"]
        starting = asyncio.create_task(asyncio.to_thread(client.job, uuid, "PowerOn"))
        supervisor = lab.lab.processes.supervisor
        while supervisor.state("lpar2") == "off":  # noqa: ASYNC110 - its state has no event
            await asyncio.sleep(0.001)
        pid = lab.kill(node)
        job = await asyncio.to_thread(finished, client, await starting)
        assert job.text("Status") == "COMPLETED_OK", job.body
        assert supervisor.state("lpar2") == "running"
        await lab.restarted(node, pid)
        assert "task_failed" not in lab.log("novalink")
