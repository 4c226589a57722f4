"""Power jobs beside each other, and jobs whose answer is lost: what a client is told is what has become of it."""

import asyncio

import pytest
from novalink_rig import Service, between

from pvnet.pb.v1.management_pb2 import Partition


def kinds(service):
    return [command.WhichOneof("command") for command in service.platform.commands]


@pytest.mark.parametrize(("operation", "code"), [("PowerOn", "HSCL3681"), ("PowerOff", "HSCL1558")])
async def test_of_many_at_once_one_does_it_and_the_others_carry_the_code(operation, code):
    async with Service() as service:
        if operation == "PowerOff":
            await service.job("PowerOn")
        answers = await asyncio.gather(*(service.job(operation) for _ in range(6)))
        results = [between(answer, "Status") for answer in answers]
        assert sorted(results) == ["COMPLETED_OK", *["COMPLETED_WITH_ERROR"] * 5]
        for answer in answers:
            assert (
                between(answer, "Status") == "COMPLETED_OK" or f"{code} The partition The web" in answer.body.decode()
            )


@pytest.mark.parametrize("state", [Partition.STARTING, Partition.RUNNING])
async def test_who_is_told_that_it_is_on_need_not_have_seen_it(monkeypatch, state):
    monkeypatch.setattr("pvnet.novalink.api.MIRROR_WAIT_S", 0.05)
    async with Service() as service:
        service.platform.heard.clear()
        service.platform.put("web", state=state)
        answer = await service.job("PowerOn")
        assert "HSCL3681 The partition The web is already on" in answer.body.decode()
        assert kinds(service) == ["power_on"]


async def test_a_power_on_waits_for_the_end_of_what_is_stopping():
    async with Service() as service:
        await service.job("PowerOn")
        service.platform.hold = asyncio.Event()
        off = asyncio.ensure_future(service.job("PowerOff"))
        await service.api.wait_mirror(lambda: service.api.mirror.partitions["web"].state == Partition.STOPPING, 5.0)
        on = asyncio.ensure_future(service.job("PowerOn"))
        await asyncio.sleep(0)
        service.platform.hold.set()
        assert between(await off, "Status") == "COMPLETED_OK"
        assert between(await on, "Status") == "COMPLETED_OK"
        assert service.platform.ledger.partitions["web"].state == Partition.RUNNING


async def test_a_power_on_that_sees_too_late_that_it_is_stopping_waits_too():
    async with Service() as service:
        service.platform.heard.clear()
        service.platform.put("web", state=Partition.STOPPING)
        on = asyncio.ensure_future(service.job("PowerOn"))
        await service.platform.asked.wait()
        service.platform.heard.set()
        await service.api.wait_mirror(lambda: service.api.mirror.partitions["web"].state == Partition.STOPPING, 5.0)
        service.platform.put("web", state=Partition.OFF)
        assert between(await on, "Status") == "COMPLETED_OK"


async def test_a_job_whose_answer_is_lost_is_judged_by_what_has_become_of_the_partition():
    async with Service() as service:
        service.platform.lose = ["answer", "answer", "answer"]
        assert between(await service.job("PowerOn"), "Status") == "COMPLETED_OK"
        assert between(await service.job("PowerOff", restart="true"), "Status") == "COMPLETED_OK"
        assert between(await service.job("PowerOff"), "Status") == "COMPLETED_OK"
        assert kinds(service) == ["power_on", "show_partition", *["power_off", "show_partition"] * 2]


async def test_a_job_that_was_lost_while_it_starts_waits_for_that(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.AT_ONCE_S", 0.01)
    async with Service() as service:
        service.platform.lose = [{"state": Partition.STARTING}]
        assert between(await service.job("PowerOn"), "Status") == "RUNNING"
        service.platform.put("web", state=Partition.RUNNING)
        await asyncio.gather(*service.platform.tasks)
        assert service.api.jobs.all()[0].status == "COMPLETED_OK"


async def test_a_job_that_never_began_is_run_again():
    async with Service() as service:
        service.platform.lose = ["asked"]
        assert between(await service.job("PowerOn"), "Status") == "COMPLETED_OK"
        assert kinds(service) == ["power_on", "show_partition", "power_on"]


async def test_a_restart_is_not_tried_twice():
    async with Service() as service:
        await service.job("PowerOn")
        service.platform.lose = ["asked"]
        answer = await service.job("PowerOff", restart="true")
        assert between(answer, "Status") == "COMPLETED_WITH_ERROR"
        assert "The web is now in the state running. The PowerOff may still be carried out." in answer.body.decode()
        assert kinds(service).count("power_off") == 1


async def test_a_partition_that_fails_meanwhile_says_why():
    async with Service() as service:
        service.platform.lose = [{"state": Partition.FAILED, "text": "killed by SIGKILL"}]
        answer = await service.job("PowerOn")
        assert "The web is now in the state error (killed by SIGKILL)" in answer.body.decode()
        assert kinds(service).count("power_on") == 1


async def test_a_job_without_any_next_session_says_that_it_may_still_be_done(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.RECOVERY_S", 0.05)
    async with Service() as service:
        service.platform.lost = True
        answer = await service.job("PowerOn")
        assert between(answer, "Status") == "COMPLETED_WITH_ERROR"
        assert "the PowerOn of The web may still be carried out" in answer.body.decode()


async def test_a_job_that_cannot_be_sent_says_that_nothing_was_done(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.RECOVERY_S", 0.05)
    monkeypatch.setattr("pvnet.novalink.api_power.AT_ONCE_S", 0.01)
    async with Service() as service:
        async with service.api.power_slots, service.api.power_slots:
            await service.job("PowerOn")
            service.api.lost()
        await asyncio.gather(*service.platform.tasks)
        assert "nothing was done" in service.api.jobs.all()[0].message
        assert service.platform.commands == []


async def test_a_partition_that_is_deleted_before_its_turn_is_named_as_clients_know_it(monkeypatch):
    monkeypatch.setattr("pvnet.novalink.api_power.AT_ONCE_S", 0.01)
    async with Service() as service:
        async with service.api.power_slots, service.api.power_slots:
            await service.job("PowerOn")
            service.platform.ledger.drop_partition("web")
            service.platform.news.set()
            await service.api.wait_mirror(lambda: "web" not in service.api.mirror.partitions, 5.0)
        await asyncio.gather(*service.platform.tasks)
        assert service.api.jobs.all()[0].message == "The partition The web has been deleted."
