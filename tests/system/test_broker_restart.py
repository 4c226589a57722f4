"""kill -9 of the broker during two thousand echoes: the supervisor restarts it, none lost, none doubled, in order.

The echoes go through the broker, or over unix sockets, where nobody waits for the broker to come back.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from behaviour_worlds import eventually
from system_support import RunningLab, running, topology

from pvnet.runtime.topology import BrokerConfig

ECHOES = 2000
IN_FLIGHT = 4
KILL_AT = (300, 301, 900, 1500)
"""After so many answers; twice in a row too, which hits the broker while everybody reconnects."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("unix", [False, True], ids=["broker", "unix"])
@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"])
async def test_broker_dies_and_nobody_misses_a_message(tmp_path: Path, kind: str, unix: bool) -> None:
    made = topology("broker", unix=unix).model_copy(update={"broker": BrokerConfig(use=kind)})
    base = tmp_path / "base"
    async with running(made, base) as lab:
        quiet = await lab.at_rest()
        nodes = {name: pid for name, pid in lab.pids().items() if name != "broker"}
        async with lab.lab.vmc_session("broker", timeout=120.0) as session:
            sent = [b"%d" % i for i in range(ECHOES)]
            received: list[bytes] = []
            kills: list[int] = []
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def collect() -> None:
                while len(received) < ECHOES:
                    received.append(await session.messages.get())
                    if len(received) in KILL_AT and (not unix or "broker" in lab.pids()):
                        os.kill(lab.pid("broker"), signal.SIGKILL)
                        kills.append(len(received))
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
            assert (lab.lab.endpoint.path("mp") == "direct") == unix
        await lab.settle(quiet)
        await eventually(lambda: _is_back(lab))
        after = lab.pids()
        assert {name: pid for name, pid in after.items() if name != "broker"} == nodes, "nobody else restarted"
        assert len(kills) >= (1 if unix else len(KILL_AT))
        assert lab.lab.endpoint.counters["reconnects"] >= (1 if unix else len(set(KILL_AT)) - 1)
        for name in nodes:
            assert "Traceback" not in lab.log(name)


async def _is_back(lab: RunningLab) -> bool:
    """Whether the broker runs again and we are on it."""
    return "broker" in lab.pids() and lab.lab.endpoint.counters["reconnects"] > 0
