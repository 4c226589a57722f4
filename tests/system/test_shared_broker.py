"""A broker that others use as well: a second lab of the same name, and bytes that are not ours on our state topics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiomqtt
import pytest
import uvloop

from pvnet.client import Lab
from pvnet.core.errors import ConfigError
from pvnet.runtime.lab import LabProcesses
from pvnet.runtime.topology import BrokerConfig, LabConfig, ManagerConfig, PartitionConfig, Topology
from pvnet.testing.broker import broker
from pvnet.transport.uri import BrokerUrl

pytestmark = pytest.mark.slow


def _topology(url: str) -> Topology:
    return Topology(
        lab=LabConfig(name="shared"),
        broker=BrokerConfig(use=url),
        partition=[PartitionConfig(name="mp", management=True)],
        manager=ManagerConfig(),
    )


async def _retained(url: str, prefix: str) -> set[str]:
    """Topics below ``prefix`` that the broker retains; a message of our own says when all have come."""
    where = BrokerUrl.parse(url)
    found: set[str] = set()
    async with aiomqtt.Client(where.host, where.port, username=where.username, password=where.password) as client:
        await client.subscribe(f"{prefix}/#", 1)
        await client.subscribe("pvnet-test/end", 1)
        await client.publish("pvnet-test/end", b"x", 1)
        async for message in client.messages:
            if str(message.topic) == "pvnet-test/end":
                return found
            if message.retain and message.payload:
                found.add(str(message.topic))
    raise AssertionError("the broker closed the connection")


async def _spoil(url: str, topic: str) -> None:
    where = BrokerUrl.parse(url)
    async with aiomqtt.Client(where.host, where.port, username=where.username, password=where.password) as client:
        await client.publish(topic, b"junk", 1, retain=True)


async def _story(tmp_path: Path) -> None:
    async with broker("auto") as shared:
        url = shared.url.text()
        topology = _topology(url)
        async with Lab(topology, base=tmp_path / "one") as lab:
            for node in ("mp", "manager", "hypervisor"):
                await _spoil(url, f"pvnet/v1/shared/{node}/state")
            async with asyncio.timeout(30):
                async with lab.vmc_session("after-junk") as session:
                    await session.router_open()
                    assert await session.echo(b"still here") == b"still here"
            with pytest.raises(ConfigError, match="a lab shared already runs at broker"):
                async with LabProcesses(topology, base=tmp_path / "two"):
                    raise AssertionError("two labs of one name")
            assert [p.name for p in await lab.partitions()] == ["mp"]
        kept = await _retained(url, "pvnet/v1/shared")
        assert not [topic for topic in kept if "/app-" in topic or "/probe-" in topic], kept


def test_a_shared_broker(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_story(tmp_path))
