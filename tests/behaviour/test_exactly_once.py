"""Two thousand echoes through application, partition and hypervisor: none lost, none doubled, in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from behaviour_worlds import WORLDS, LoopbackWorld, behaviour

from pvnet.testing.in_process import InProcessLab
from pvnet.transport.link import LinkConfig
from pvnet.transport.loopback import Faults

ECHOES = 2000
QUICK = LinkConfig(retransmit_s=0.05, retransmit_max_s=0.5)
DEFAULT = LinkConfig()
TERRIBLE = [
    pytest.param(LoopbackWorld(Faults(0.2, 0.2, 0.5, 0.001, 0.05), 1, QUICK), id="much-of-everything"),
    pytest.param(LoopbackWorld(Faults(drop=0.3), 2, QUICK), id="loss"),
    pytest.param(LoopbackWorld(Faults(duplicate=1.0), 3, QUICK), id="everything-twice"),
    pytest.param(LoopbackWorld(Faults(reorder=1.0, reorder_s=0.2), 4, QUICK), id="no-order"),
    pytest.param(LoopbackWorld(Faults(0.0, 0.3, 0.5, 0.001), 5, DEFAULT), id="times-as-in-production"),
]


async def windowed(lab: InProcessLab, in_flight: int) -> tuple[list[bytes], list[bytes]]:
    """Send numbered messages, some at a time; return what was sent and what came back."""
    sent = [b"%d" % i for i in range(ECHOES)]
    received: list[bytes] = []
    async with await lab.session() as session:
        session.timeout = 120.0
        limit = asyncio.Semaphore(in_flight)

        async def collect() -> None:
            while len(received) < ECHOES:
                received.append(await session.messages.get())
                limit.release()

        collecting = asyncio.ensure_future(collect())
        for message in sent:
            await limit.acquire()
            await session.send(message)
        await collecting
        await session.router_open()
        assert await session.echo(b"last") == b"last", "whatever came twice would have come before this"
        assert session.messages.empty()
        assert session.counters["late_reply"] == 0
    return sent, received


@behaviour(worlds=[*WORLDS, *TERRIBLE])
async def test_none_lost_none_doubled_in_order(lab: InProcessLab) -> None:
    sent, received = await windowed(lab, 4)
    assert received == sent


@behaviour(worlds=[world for world in [*WORLDS, *TERRIBLE] if world.id != "mqtt-embedded"])
async def test_none_lost_none_doubled_one_at_a_time(lab: InProcessLab) -> None:
    sent, received = await windowed(lab, 1)
    assert received == sent


def test_a_seed_gives_the_same_run_again() -> None:
    def frames() -> tuple[int, Any]:
        from behaviour_worlds import Loopback, run, topology

        world = LoopbackWorld(Faults(0.1, 0.1, 0.3, 0.001), 7, QUICK)
        seen: list[tuple[int, Any]] = []

        async def scenario(lab: InProcessLab) -> None:
            assert isinstance(lab.network, Loopback)
            async with await lab.session() as session:
                for i in range(50):
                    await session.exchange(b"%d" % i)
            network = lab.network.loopback
            seen.append((network.frames, dict(network.dice.counters)))

        run(world, scenario, topology(), None)
        return seen[0]

    assert frames() == frames()
