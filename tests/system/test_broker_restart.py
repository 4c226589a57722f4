"""kill -9 of the broker during two thousand echoes: the supervisor restarts it, none lost, none doubled, in order."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from system_support import running, topology

from pvnet.runtime.topology import BrokerConfig

ECHOES = 2000
IN_FLIGHT = 4
KILL_AT = (300, 301, 900, 1500)
"""After so many answers; twice in a row too, which hits the broker while everybody reconnects."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"])
async def test_broker_dies_and_nobody_misses_a_message(tmp_path: Path, kind: str) -> None:
    made = topology("broker").model_copy(update={"broker": BrokerConfig(use=kind)})
    base = tmp_path / "base"
    async with running(made, base) as lab:
        quiet = await lab.at_rest()
        nodes = {name: pid for name, pid in lab.pids().items() if name != "broker"}
        async with lab.lab.vmc_session("broker", timeout=120.0) as session:
            sent = [b"%d" % i for i in range(ECHOES)]
            received: list[bytes] = []
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def collect() -> None:
                while len(received) < ECHOES:
                    received.append(await session.messages.get())
                    if len(received) in KILL_AT:
                        os.kill(lab.pid("broker"), signal.SIGKILL)
                    limit.release()

            collecting = asyncio.ensure_future(collect())
            for message in sent:
                await limit.acquire()
                await session.send(message)
            await collecting
            await session.router_open()
            assert await session.echo(b"last") == b"last", "whatever came twice would have come before this"
            assert session.messages.empty()
            assert received == sent
        await lab.settle(quiet)
        after = lab.pids()
        assert {name: pid for name, pid in after.items() if name != "broker"} == nodes, "nobody else restarted"
        assert lab.lab.endpoint.counters["reconnects"] >= len(set(KILL_AT)) - 1
        for name in nodes:
            assert "Traceback" not in lab.log(name)
