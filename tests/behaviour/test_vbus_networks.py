"""Partitions on two networks: each virtual Ethernet has its own ring, MTU and offloads, whatever comes first."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from behaviour_worlds import WORLDS, behaviour, eventually

from pvnet.core.errors import RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, NetPing, VbusAdmin
from pvnet.testing.in_process import InProcessLab

SMALL: dict[str, Any] = {"switch": "small", "ring": 8, "ring_layout": "2026", "offloads": False}
JUMBO: dict[str, Any] = {"switch": "jumbo", "ring": 256}
NETWORKS = {"small": (1500, "10.1.0"), "jumbo": (9000, "10.2.0")}
ONE_OF_EACH_KIND = [world for world in WORLDS if world.id in {"loopback", "unix"}]


def tables(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Partitions a and b, both on both networks, with their venets in this order."""
    return {
        "partition": [
            {
                "name": name,
                "venet": [
                    {**venet, "address": f"{NETWORKS[venet['switch']][1]}.{host}/24"} for venet in (first, second)
                ],
            }
            for host, name in enumerate("ab", start=1)
        ],
        "switch": [{"name": name, "mtu": mtu} for name, (mtu, _) in NETWORKS.items()],
        "manager": None,
    }


async def ask(lab: InProcessLab, node: str, command: Management) -> Any:
    reply = (await (await lab.client()).call(node, Envelope(management=command), 60.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json) if reply.status_json else None


async def ping(lab: InProcessLab, target: str, size: int, count: int = 5) -> None:
    command = NetPing(address=target, count=count, payload_bytes=size, interval_ms=5, timeout_ms=20_000)
    result = await ask(lab, "a", Management(ping=command))
    assert (result["sent"], result["received"], result["corrupt"]) == (count, count, 0)


def both_up(lab: InProcessLab, name: str) -> Callable[[], Any]:
    async def check() -> bool:
        return [each["link"] for each in (await lab.status(name))["net"]["interfaces"]] == [True, True]

    return check


async def both_networks(lab: InProcessLab) -> None:
    await lab.client()
    for name in "ab":
        await eventually(both_up(lab, name))
        net = lab.partition(name).net
        assert net is not None
        for each in net.configured:
            assert each.venet is not None
            asked, config = each.plan.config, each.venet.config
            shared = net.guest.attachment is not None and net.guest.attachment.is_shared
            assert config.mtu == NETWORKS[asked.switch][0]
            assert config.rx_ring == config.tx_ring == (asked.ring if shared else min(asked.ring, 32))
            assert config.ring_2026 == (asked.ring_layout == "2026")
            assert bool(each.venet.accepts) == (shared and asked.offloads)
            assert not [counter for counter in each.venet.counters if counter.startswith("without_")]
    await ping(lab, "10.1.0.2", 1472)
    await ping(lab, "10.2.0.2", 8972)
    with pytest.raises(RefusedError, match="1472"):
        await ping(lab, "10.1.0.2", 1473)
    with pytest.raises(
        RefusedError, match=r"10\.9\.0\.1: expected another one of 10\.[12]\.0\.0/24, 10\.[12]\.0\.0/24"
    ):
        await ping(lab, "10.9.0.1", 56)


@behaviour(worlds=ONE_OF_EACH_KIND, **tables(JUMBO, SMALL))
async def test_the_jumbo_network_first(lab: InProcessLab) -> None:
    await both_networks(lab)
    await lab.leave()


@behaviour(worlds=ONE_OF_EACH_KIND, **tables(SMALL, JUMBO))
async def test_the_jumbo_network_second(lab: InProcessLab) -> None:
    await both_networks(lab)
    await lab.leave()


@behaviour(worlds=ONE_OF_EACH_KIND, **tables(JUMBO, SMALL))
async def test_devices_that_come_back_in_the_other_order_keep_what_is_theirs(lab: InProcessLab) -> None:
    await lab.client()
    devices = ["a-eth0", "a-eth1"]
    for device in devices:
        await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.DEVICE_DETACH, device=device, force=True)))

    async def both_gone() -> bool:
        return [each["link"] for each in (await lab.status("a"))["net"]["interfaces"]] == [False, False]

    await eventually(both_gone)
    for device in reversed(devices):
        await ask(lab, "bridge", Management(vbus=VbusAdmin(verb=VbusAdmin.DEVICE_ATTACH, device=device, bus="a")))
    await both_networks(lab)
    await lab.leave()


@behaviour(
    worlds=ONE_OF_EACH_KIND,
    partition=[
        {"name": name, "venet": [{"address": f"10.77.0.{host}/24", "ring": 2048, "switch": "jumbo"}]}
        for host, name in enumerate("ab", start=1)
    ],
    switch=[{"name": "jumbo", "mtu": 65521}],
    manager=None,
)
async def test_the_largest_network_that_can_be_configured_works(lab: InProcessLab) -> None:
    await ping(lab, "10.77.0.2", 65000)
    await lab.leave()
