"""A vbus host that means harm: the partition on its bus stays up, and its other functions go on (vbus 11).

The lab is real, with a management partition whose sessions a management application echoes messages through all the
time: hypervisor calls, CRQs and DMA.  Its bridge is killed, and the test plays it from a process of its own
(``hostile_bridge``), each attack as a new incarnation.  In the end an honest bridge comes back, and the network is up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile_support import LATE_S, MEMORY_SLACK_KB, Holdings, Hostile, failures, hostile
from system_support import AGAIN, App, RunningLab, eventually, running

from pvnet.runtime.service import NodeConfig
from pvnet.runtime.topology import BRIDGE, Topology, VenetConfig, default_topology
from pvnet.runtime.topology_base import Restart

SOAK = bool(os.environ.get("PVNET_SOAK"))
SECONDS = 30.0 if SOAK else 1.5
SEEDS = 10 if SOAK else 1
LOG_BYTES = 64 * 1024
ECHOES = 20
MP = "mp"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 240)]


def topology() -> Topology:
    made = default_topology("forsaken")
    partitions = [
        made.partitions[0].model_copy(
            update={"venet": [VenetConfig(address="10.77.0.1/24", ring=64)], "restart": AGAIN}
        )
    ]
    assert made.manager is not None
    dumped = made.model_copy(
        update={
            "lab": made.lab.model_copy(update={"ready_timeout_s": 60.0}),
            "partitions": partitions,
            "mdev_hosts": [],
            "bridge": made.bridge.model_copy(update={"restart": Restart(policy="never")}),
        }
    )
    return Topology.model_validate(dumped.model_dump(by_alias=True))


class Forsaken:
    """The lab, whose bridge is dead, and what its partition was like then."""

    def __init__(self, lab: RunningLab, bridge: Hostile, app: App) -> None:
        self.lab = lab
        self.bridge = bridge
        self._app = app
        self._before: Holdings
        self._log = 0
        made = lab.lab.topology
        self._orders = {"partitions": [MP], "macs": {MP: made.venet_mac(made.partition(MP), 0)}}

    async def begin(self) -> None:
        await self._echo()
        await self.bridge.attack("live", seconds=0.5, **self._orders)
        await self._is_alone()
        await self._echo()
        self._before = Holdings(self.lab.pid(MP))
        self._log = len(self.lab.log(MP))

    async def _echo(self) -> None:
        """Other functions work: messages go through the management channel and back."""
        self._app.echo(ECHOES)
        async with asyncio.timeout(LATE_S):
            await self._app.until("finished")
        assert not self._app.errors

    async def _is_alone(self) -> None:
        async def alone() -> bool:
            status = await self.lab.status(MP)
            return status["net"]["bridge"] is None and BRIDGE not in status["paths"]

        await eventually(alone)

    async def attack(self, name: str, **orders: Any) -> dict[str, Any]:
        """One attack, with echoes during it and after it; then everything is as before."""
        going = asyncio.ensure_future(self.bridge.attack(name, **self._orders, **{"seconds": SECONDS, **orders}))
        try:
            while not going.done():
                await self._echo()
        finally:
            counts = await going
        await self._is_alone()
        await self._echo()
        await self._unhurt(name)
        return counts

    async def _unhurt(self, what: str) -> None:
        async def as_before() -> bool:
            return Holdings(self.lab.pid(MP)).same(self._before)

        try:
            await eventually(as_before, LATE_S)
        except TimeoutError:
            pytest.fail(f"{what}: {Holdings(self.lab.pid(MP))}; {self._before}")
        now = Holdings(self.lab.pid(MP))
        assert now.anonymous_kb < self._before.anonymous_kb + MEMORY_SLACK_KB, (what, now, self._before)
        log = self.lab.log(MP)
        assert not failures(log), what
        assert len(log) - self._log < LOG_BYTES, (what, log[-2000:])
        self._log = len(log)

    async def honest(self) -> None:
        """The bridge comes back, and the network is up again."""
        supervisor = self.lab.lab.processes
        assert supervisor is not None
        info = supervisor.supervisor.info()
        config = NodeConfig(node=BRIDGE, broker=info.broker, topology=self.lab.lab.topology)
        process = await asyncio.create_subprocess_exec(
            *(os.sys.executable, "-m", "pvnet_services.bridge", "--config", "-"), stdin=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdin is not None
            process.stdin.write(config.model_dump_json(by_alias=True).encode())
            process.stdin.close()

            async def is_up() -> bool:
                interfaces = (await self.lab.status(MP))["net"]["interfaces"]
                return [interface["link"] for interface in interfaces] == [True]

            await eventually(is_up)
            await self._echo()
        finally:
            process.terminate()
            await process.wait()
        await self._is_alone()
        await self._unhurt("an honest bridge")


@asynccontextmanager
async def forsaken(base: Path) -> AsyncIterator[Forsaken]:
    async with running(topology(), base / "labs") as lab, hostile(lab, "hostile_bridge", BRIDGE) as bridge:
        app = await App.start("forsaken", base / "labs")
        lab.kill(BRIDGE)
        made = Forsaken(lab, bridge, app)
        await made.begin()
        yield made
        await made.honest()
        await app.end()


async def test_random_bytes_over_the_whole_arena_do_not_stop_a_partition(tmp_path: Path) -> None:
    async with forsaken(tmp_path) as lab:
        for seed in range(SEEDS):
            for style in ("all", "regions", "bytes", "flips", "words"):
                counts = await lab.attack("scribble", seed=seed, style=style, seconds=SECONDS / 2)
                assert counts["scribbles"] > 100, counts


async def test_forged_events_storms_and_floods_do_not_stop_a_partition(tmp_path: Path) -> None:
    async with forsaken(tmp_path) as lab:
        assert (await lab.attack("forge"))["events"] > 1000
        assert (await lab.attack("storm"))["devices"] > 1000
        assert (await lab.attack("flood"))["irqs"] > 1000
        assert (await lab.attack("nonsense"))["messages"] == 8


async def test_answers_that_are_none_do_not_stop_a_partition(tmp_path: Path) -> None:
    async with forsaken(tmp_path) as lab:
        for seed in range(SEEDS):
            assert (await lab.attack("garbage", seed=seed))["lies"], "it has been asked"
        assert (await lab.attack("mute"))["invitations"] > 1000
        assert (await lab.attack("refuse"))["attaches"] < 2 * SECONDS / 0.05, "however often it is invited"
        assert (await lab.attack("copies"))["updates"] > 100


async def test_a_bridge_that_dies_at_any_point_is_replaced(tmp_path: Path) -> None:
    async with forsaken(tmp_path) as lab:
        for point in range(1, 24) if SOAK else (1, 2, 3, 5, 9, 13, 17):
            assert await lab.attack("live", die_at=point, seconds=3.0) == {"died": 9}
