"""An unmodified pypowervm switches partitions on and off: processes appear and vanish, and its events say so."""

from __future__ import annotations

import pytest
from interop.novalink.client import Program, StepError
from interop.novalink.lab import EAST, Lab, process_runs, until

pytestmark = pytest.mark.slow
OF_EAST = f"LogicalPartition/{EAST}"
STATE = {"type": "MODIFY_URI", "uri": OF_EAST, "detail": "PartitionState"}


def runs(lab: Lab, node: str) -> int:
    """Wait for a process of that name; returns its id."""
    pid: int = until(lambda: lab.pid(node), f"{node} runs")
    assert process_runs(pid)
    return pid


def ended(pid: int) -> None:
    until(lambda: not process_runs(pid), f"process {pid} ends")


def state(client: Program, name: str = "East End") -> str:
    found: str = client.partition(name=name)["state"]
    return found


def test_on_and_off_in_every_way(client: Program, lab: Lab) -> None:
    assert lab.pid("east") is None
    assert client.power_on(name="East End")["seconds"] < 20
    pid = runs(lab, "east")
    assert state(client) == "running"
    until(lambda: client.partition(name="East End")["rmc"] == "active", "the guest takes requests")
    client.power_on(name="East End")
    assert runs(lab, "east") == pid, "on when it is on: the same process"
    for how, words in (
        ("detect", "operation=osshutdown"),
        ("os-normal", "operation=osshutdown"),
        ("normal", "operation=shutdown"),
        ("hard", "immediate=true"),
    ):
        assert words in client.power_off(name="East End", how=how)
        ended(pid)
        assert state(client) == "not activated"
        assert lab.pid("east") is None
        client.power_off(name="East End", how="normal")
        client.power_on(name="East End")
        pid = runs(lab, "east")
        until(lambda: client.partition(name="East End")["rmc"] == "active", "the guest takes requests")
    client.power_off_progressive(name="East End")
    ended(pid)


@pytest.mark.parametrize("how", ["os", "normal", "hard"])
def test_restart(client: Program, lab: Lab, how: str) -> None:
    before = runs(lab, "west")
    client.power_off(name="west", how=how, restart=True)
    ended(before)
    until(lambda: lab.pid("west") not in (None, before), "a new process")
    until(lambda: state(client, "west") == "running", "it runs")


def test_what_jobs_say(client: Program, lab: Lab) -> None:
    done = client.job(name="west", operation="PowerOn")
    assert done["status"] == "COMPLETED_WITH_ERROR"
    assert "HSCL3681" in done["message"]
    done = client.job(name="East End", operation="PowerOff", parameters={"operation": "shutdown"})
    assert done["status"] == "COMPLETED_WITH_ERROR"
    assert "HSCL1558" in done["message"]
    done = client.job(name="East End", operation="PowerOn")
    assert done["status"] == "COMPLETED_OK"
    with pytest.raises(StepError, match="NoSuchJob") as caught:
        client.job(name="west", operation="NoSuchJob")
    assert caught.value.status in (400, 404)


def test_the_management_partition_stays_on(client: Program, lab: Lab) -> None:
    pid = runs(lab, "mp")
    with pytest.raises(StepError) as caught:
        client.power_off(name="Management", how="hard")
    assert "VMPowerOffFailure" in caught.value.types
    assert "management" in caught.value.text.lower()
    assert runs(lab, "mp") == pid


def test_events_of_power(client: Program, lab: Lab) -> None:
    client.listen()
    client.power_on(name="East End")
    seen = client.events(wanted=[STATE, {**STATE, "detail": "RMCState"}])
    numbers = [int(event["EventID"]) for event in seen["events"]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers)
    assert all(event["EventData"].startswith("https://localhost:") for event in seen["events"] if event["EventData"])
    client.power_off(name="East End", how="normal")
    client.events(wanted=[STATE], after=seen["count"])
    assert state(client) == "not activated"
    assert {action for uri, action in client.translated_events() if uri.endswith(OF_EAST)} == {"invalidate"}
    assert client.unlisten() < 15
    assert client.log_off() == {"token_afterwards": 401}


def test_a_crash_is_an_error(client: Program, lab: Lab) -> None:
    client.power_on(name="East End")
    client.listen()
    lab.kill("east")
    client.events(wanted=[STATE])
    assert state(client) == "error"
    assert lab.pid("east") is None
    client.power_on(name="East End")
    assert state(client) == "running"
    runs(lab, "east")


def test_events_go_on_after_another_log_on(client: Program, lab: Lab) -> None:
    client.listen()
    token = client.token()
    client.raw(method="DELETE", path="/web/Logon")
    client.power_on(name="East End")
    assert client.token() != token
    client.events(wanted=[STATE])


def test_a_listener_that_wants_to_leave_is_not_held(client: Program, lab: Lab) -> None:
    client.listen()
    client.raw(method="DELETE", path="/web/Logon")
    assert client.unlisten() < 15
