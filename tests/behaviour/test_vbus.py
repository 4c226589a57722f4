"""vbus over every transport: shared memory where there is a direct path, copies elsewhere; the meaning is the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from behaviour_worlds import behaviour, eventually

from pvnet.core.errors import RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, NetPing, SwitchAdmin, VbusAdmin, VbusDevcall
from pvnet.testing.in_process import InProcessLab

GUESTS: list[dict[str, Any]] = [
    {"name": "a", "venet": [{"address": "10.77.0.1/24"}], "device": [{"name": "echo0", "class": "echo"}]},
    {"name": "b", "venet": [{"address": "10.77.0.2/24", "ring": 32}]},
]
NET: dict[str, Any] = {"partition": GUESTS, "switch": [{"name": "net0"}], "manager": None}


async def ask(lab: InProcessLab, node: str, command: Management) -> Any:
    endpoint = await lab.client()
    reply = (await endpoint.call(node, Envelope(management=command), 60.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json) if reply.status_json else None


async def admin(lab: InProcessLab, verb: VbusAdmin.Verb, **fields: Any) -> Any:
    return await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=verb, **fields)))


async def ping(
    lab: InProcessLab, source: str, target: str, count: int = 10, size: int = 56, interval_ms: int = 5
) -> dict[str, Any]:
    command = NetPing(address=target, count=count, payload_bytes=size, interval_ms=interval_ms, timeout_ms=20_000)
    found: dict[str, Any] = await ask(lab, source, Management(ping=command))
    return found


async def echo(lab: InProcessLab, text: bytes, device: int = 1, func: int = 1) -> tuple[int, bytes]:
    shown = await ask(lab, "a", Management(devcall=VbusDevcall(device=device, version=1, func=func, data=text)))
    return shown["result"], bytes.fromhex(shown["data"])


def all_came(result: dict[str, Any]) -> bool:
    return result["received"] == result["sent"] and not result["duplicates"] and not result["corrupt"]


async def links(lab: InProcessLab, name: str) -> list[bool]:
    return [interface["link"] for interface in (await lab.status(name))["net"]["interfaces"]]


@behaviour(**NET)
async def test_guests_reach_each_other(lab: InProcessLab) -> None:
    assert all_came(await ping(lab, "a", "10.77.0.2"))
    assert all_came(await ping(lab, "b", "10.77.0.1", size=1472))
    status = await lab.status("a")
    assert status["net"]["bridge"]["counters"].get("bad_cookie", 0) == 0
    assert status["net"]["bridge"]["counters"].get("lost_wakeup_rescues", 0) == 0
    await lab.leave()


@behaviour(
    **{**NET, "partition": [{**g, "venet": [{**g["venet"][0], "ring_layout": "2026", "ring": 32}]} for g in GUESTS]}
)
async def test_guests_with_rings_of_the_other_layout_reach_each_other(lab: InProcessLab) -> None:
    assert (await lab.status("a"))["net"]["bridge"]["capabilities"] == 1
    assert all_came(await ping(lab, "a", "10.77.0.2", size=1400))
    await lab.leave()


@behaviour(**NET)
async def test_a_devcall_reaches_the_device_and_its_answer_comes_back(lab: InProcessLab) -> None:
    assert await echo(lab, b"pvnet") == (5, b"tenvp")
    assert await echo(lab, bytes(range(256)) * 200, func=0) == (51_200, bytes(range(256)) * 200)
    with pytest.raises(RefusedError, match="EINVAL"):
        await echo(lab, b"x", func=77)
    with pytest.raises(RefusedError, match="no device 9"):
        await echo(lab, b"x", device=9)
    with pytest.raises(RefusedError, match="has a driver"):
        await echo(lab, b"x", device=0)
    shown = await admin(lab, VbusAdmin.SHOW, bus="a")
    assert shown["devices"][1]["attributes"]["count"] == "2"
    await lab.leave()


@behaviour(**NET)
async def test_a_device_comes_and_goes_while_the_guest_runs(lab: InProcessLab) -> None:
    before = await admin(lab, VbusAdmin.SHOW, bus="a")
    create = VbusAdmin(verb=VbusAdmin.DEVICE_CREATE, device="echo9", attributes={"note": "new"})
    setattr(create, "class", "echo")
    await ask(lab, "bridge", Management(vbus=create))
    with pytest.raises(RefusedError, match="EEXIST"):
        await ask(lab, "bridge", Management(vbus=create))
    shown = await admin(lab, VbusAdmin.DEVICE_ATTACH, device="echo9", bus="a")

    async def announced() -> bool:
        try:
            return await echo(lab, b"ab", device=shown["id"]) == (2, b"ba")
        except RefusedError:
            return False

    await eventually(announced)
    with pytest.raises(RefusedError, match="EBUSY"):
        await admin(lab, VbusAdmin.DEVICE_ATTACH, device="echo9", bus="b")
    with pytest.raises(RefusedError, match="EBUSY"):
        await admin(lab, VbusAdmin.DEVICE_REMOVE, device="echo9")
    await admin(lab, VbusAdmin.DEVICE_DETACH, device="echo9")

    async def dropped() -> bool:
        try:
            await echo(lab, b"ab", device=shown["id"])
        except RefusedError as error:
            return "no device" in str(error)
        return False

    await eventually(dropped)
    await admin(lab, VbusAdmin.DEVICE_REMOVE, device="echo9")
    assert (await admin(lab, VbusAdmin.SHOW, bus="a"))["devices"][0] == before["devices"][0]
    await lab.leave()


@behaviour(**NET)
async def test_a_venet_that_is_taken_away_by_force_takes_the_link_along(lab: InProcessLab) -> None:
    await admin(lab, VbusAdmin.DEVICE_DETACH, device="b-eth0", force=True)

    async def down() -> bool:
        return await links(lab, "b") == [False]

    await eventually(down)
    with pytest.raises(RefusedError, match="no built-in network"):
        await ping(lab, "b", "10.77.0.1", count=1)
    await admin(lab, VbusAdmin.DEVICE_ATTACH, device="b-eth0", bus="b")

    async def back() -> bool:
        return await links(lab, "b") == [True]

    await eventually(back)
    assert all_came(await ping(lab, "a", "10.77.0.2"))
    await lab.leave()


@behaviour(**NET)
async def test_a_disabled_venet_has_no_carrier(lab: InProcessLab) -> None:
    await admin(lab, VbusAdmin.DEVICE_SET, device="b-eth0", attributes={"enabled": "0"})

    async def down() -> bool:
        return await links(lab, "b") == [False]

    async def up() -> bool:
        return await links(lab, "b") == [True]

    await eventually(down)
    await admin(lab, VbusAdmin.DEVICE_SET, device="b-eth0", attributes={"enabled": "1"})
    await eventually(up)
    with pytest.raises(RefusedError, match="EINVAL"):
        await admin(lab, VbusAdmin.DEVICE_SET, device="b-eth0", attributes={"enabled": "7"})
    with pytest.raises(RefusedError, match="EPERM"):
        await admin(lab, VbusAdmin.DEVICE_SET, device="b-eth0", attributes={"host_mac": "02:00:00:00:00:01"})
    assert all_came(await ping(lab, "a", "10.77.0.2"))
    await lab.leave()


@behaviour(**NET)
async def test_members_join_and_leave(lab: InProcessLab) -> None:
    with pytest.raises(RefusedError, match="EBUSY"):
        await admin(lab, VbusAdmin.BUS_REMOVE, bus="b")
    await admin(lab, VbusAdmin.LEAVE, node="b")

    async def down() -> bool:
        return await links(lab, "b") == [False]

    await eventually(down)
    await admin(lab, VbusAdmin.BUS_CREATE, bus="other")
    await admin(lab, VbusAdmin.JOIN, bus="other", node="b")
    with pytest.raises(RefusedError, match="EEXIST"):
        await admin(lab, VbusAdmin.JOIN, bus="b", node="b")
    await admin(lab, VbusAdmin.LEAVE, node="b")
    await admin(lab, VbusAdmin.BUS_REMOVE, bus="other")
    await admin(lab, VbusAdmin.JOIN, bus="b", node="b")

    async def up() -> bool:
        return await links(lab, "b") == [True]

    await eventually(up)
    assert all_came(await ping(lab, "a", "10.77.0.2"))
    await lab.leave()


@behaviour(**NET)
async def test_a_guest_that_crashes_comes_back_to_its_network(lab: InProcessLab) -> None:
    await lab.client()
    await lab.crash("b")

    async def gone() -> bool:
        return [client["name"] for client in (await lab.status("bridge"))["clients"]] == ["a"]

    await eventually(gone)
    assert (await admin(lab, VbusAdmin.SHOW, bus="b"))["devices"][0]["opened_by"] is None
    await lab.start("b")
    assert all_came(await ping(lab, "a", "10.77.0.2"))
    await lab.leave()


@behaviour(**NET)
async def test_a_vbus_host_that_crashes_is_attached_to_anew(lab: InProcessLab) -> None:
    await lab.client()
    for _ in range(2):
        await lab.crash("bridge")
        await lab.start("bridge")

        async def up() -> bool:
            return await links(lab, "a") == [True] and await links(lab, "b") == [True]

        await eventually(up)
        assert all_came(await ping(lab, "a", "10.77.0.2"))
    await lab.leave()


@behaviour(**NET)
async def test_many_pings_at_once_lose_nothing(lab: InProcessLab) -> None:
    assert all_came(await ping(lab, "a", "10.77.0.2", count=1)), "both know where the other is"
    # Slowly enough for 32 buffers where a lost message of the transport holds the others up for a while.
    pings = (ping(lab, "a", "10.77.0.2", count=30, size=1000, interval_ms=20) for _ in range(4))
    results = await asyncio.gather(*pings)
    assert all(map(all_came, results))
    shown = await ask(lab, "bridge", Management(switch=SwitchAdmin(verb=SwitchAdmin.SHOW)))
    assert {port["name"] for port in shown[0]["ports"]} == {"a-eth0", "b-eth0"}
    await lab.leave()
