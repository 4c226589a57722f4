"""A partition that means harm, beside two that talk to each other: they never notice (vbus 11).

The lab is real: bridge and guests a and b, whose built-in stacks ping each other all the time with contents that are
checked.  A third partition, evil, is switched off in the lab; the test plays it from a process of its own
(``hostile_guest``), with a real endpoint, a real unix path and a real arena, which it then abuses.

After each attack: every echo has come back unchanged, the bridge is the same process, and it holds what it held before:
descriptors, mapped arenas, memory, clients, signals; nothing in any log says that something went wrong unforeseen.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile_support import LATE_S, MEMORY_SLACK_KB, Echoes, Holdings, Hostile, failures, hostile
from system_support import AGAIN, RunningLab, eventually, running

from pvnet.client.vbus import VbusHost
from pvnet.runtime.topology import BRIDGE, Topology

SOAK = bool(os.environ.get("PVNET_SOAK"))
SECONDS = 60.0 if SOAK else 3.0
SEEDS = 40 if SOAK else 2
LOG_BYTES = 64 * 1024
"""Most that one attack may add to the bridge's log."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if SOAK else 240)]
A, B = "10.77.0.1", "10.77.0.2"


def topology() -> Topology:
    restart = AGAIN.model_dump()
    return Topology.model_validate(
        {
            "lab": {"name": "hostile", "ready_timeout_s": 60.0},
            "partition": [
                {"name": "a", "restart": restart, "venet": [{"address": f"{A}/24", "ring": 64}]},
                {"name": "b", "restart": restart, "venet": [{"address": f"{B}/24", "ring": 64}]},
                {"name": "evil", "autostart": False, "venet": [{}, {}]},
            ],
            "switch": [{"name": "net0"}],
            "bridge": {"restart": restart},
        }
    )


class Victims:
    """The lab around the evil partition, and what it was like before."""

    def __init__(self, lab: RunningLab, evil: Hostile, echoes: Echoes) -> None:
        self.lab = lab
        self.evil = evil
        self.host = VbusHost(lab.lab)
        self._echoes = echoes
        self._before: Holdings
        self._census: dict[str, Any]
        self._log = 0

    async def census(self) -> dict[str, Any]:
        status = await self.lab.status(BRIDGE)
        keys = ("name", "state", "shared", "signals", "direct_signals")
        return {
            "clients": sorted(({key: client[key] for key in keys} for client in status["clients"]), key=str),
            "tasks": status["tasks"],
            "ports": len(status["switches"][0]["ports"]),
        }

    async def begin(self) -> None:
        await self._echoes.progress()
        # What is made at the first use of something, and stays, is made before anything is counted.
        await self.evil.attack("reattach", seconds=0.2)
        await self._evil_is_gone()
        await self._echoes.progress()
        self._before = Holdings(self.lab.pid(BRIDGE))
        self._census = await self.census()
        assert [client["name"] for client in self._census["clients"]] == ["a", "b"]
        self._log = len(self.lab.log(BRIDGE))

    async def attack(self, name: str, **orders: Any) -> dict[str, Any]:
        """One attack, after which everything is as before."""
        counts = await self.evil.attack(name, **orders)
        await self.unhurt(name)
        return counts

    async def _evil_is_gone(self) -> None:
        async def gone() -> bool:
            bus = await self.host.bus("evil")
            return len((await self.census())["clients"]) == 2 and not any(
                device["opened_by"] for device in bus["devices"]
            )

        await eventually(gone)

    async def unhurt(self, what: str) -> None:
        await self._echoes.progress()
        await self._evil_is_gone()

        async def as_before() -> bool:
            return Holdings(self.lab.pid(BRIDGE)).same(self._before) and await self.census() == self._census

        try:
            await eventually(as_before, LATE_S)
        except TimeoutError:
            pytest.fail(
                f"{what}: {Holdings(self.lab.pid(BRIDGE))} {await self.census()}; {self._before} {self._census}"
            )
        now = Holdings(self.lab.pid(BRIDGE))
        assert now.anonymous_kb < self._before.anonymous_kb + MEMORY_SLACK_KB, (what, now, self._before)
        for node in (BRIDGE, "a", "b"):
            assert not failures(self.lab.log(node)), (what, node)
        size = len(self.lab.log(BRIDGE))
        assert size - self._log < LOG_BYTES, (what, self.lab.log(BRIDGE)[-2000:])
        self._log = size
        for guest in ("a", "b"):
            bridge = (await self.lab.status(guest))["net"]["bridge"]
            assert not {"bad_cookie", "event_queue_fault", "faults"} & bridge["counters"].keys(), bridge
            assert bridge["shared"]


async def _is_up(lab: RunningLab, guest: str) -> bool:
    return [interface["link"] for interface in (await lab.status(guest))["net"]["interfaces"]] == [True]


@asynccontextmanager
async def victims(base: Path) -> AsyncIterator[Victims]:
    async with running(topology(), base / "labs") as lab, hostile(lab, "hostile_guest", "evil") as evil:
        ways = [("a", B), ("b", A)]
        for guest in ("a", "b"):
            await eventually(lambda guest=guest: _is_up(lab, guest))
        async with Echoes(VbusHost(lab.lab), ways) as echoes:
            made = Victims(lab, evil, echoes)
            await made.begin()
            yield made


async def test_random_bytes_over_every_shared_word_hurt_nobody_else(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        for seed in range(SEEDS):
            counts = await lab.attack("scribble", seed=seed, seconds=SECONDS)
            assert counts["links"], counts
            assert counts["scribbles"] > 100, counts


async def test_nonsense_in_descriptors_is_refused_one_by_one(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        counts = await lab.attack("nonsense")
        assert counts["flat"] > 100, counts
        assert counts["sg"] > 400, counts
        assert counts["receive"] == 30, counts


async def test_floods_of_doorbells_delay_nobody_for_long(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        assert (await lab.attack("flood", seconds=SECONDS))["doorbells"] > 1000


async def test_event_slots_that_are_never_given_back_cost_only_their_owner(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        counts = await lab.attack("hoard", rounds=2, opens=700)
        assert counts["no_space"], counts
        assert counts["closed"] >= 2 * 1024, counts


async def test_two_signals_of_one_cookie_hurt_nobody_who_rings_them(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        assert (await lab.attack("twins"))["twins"] == 5


async def test_messages_and_shares_that_are_none_are_refused(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        for seed in range(SEEDS):
            counts = await lab.attack("messages", seed=seed)
            assert counts["attach -22"] > 50, counts
            assert counts["attach -2"], counts
            assert "attach 0" not in counts, counts


async def test_copies_without_end_are_bounded(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        counts = await lab.attack("mirror", seconds=SECONDS)
        assert counts["runs"] > 10_000, counts
        assert counts["largest"] <= 1 << 25, "a copy of any size is one that everybody waits for"


async def test_the_file_of_an_arena_can_be_full_of_holes(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        assert (await lab.attack("punch", seconds=SECONDS))["holes"] > 100


async def test_attaching_again_and_again_keeps_nothing(tmp_path: Path) -> None:
    async with victims(tmp_path) as lab:
        assert (await lab.attack("reattach", seconds=SECONDS))["attached"] > 10
        await lab.attack("fat")


async def test_a_guest_killed_at_any_point_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL before each bridge call of the bring-up, the first being NEGOTIATE, and then in the middle of traffic."""
    async with victims(tmp_path) as lab:
        points = range(1, 24) if SOAK else (1, 2, 3, 5, 9, 13, 17)
        for point in points:
            assert await lab.evil.attack("live", die_at=point) == {"died": 9}
        await lab.unhurt("killed while it came up")
        for round_ in range(40 if SOAK else 4):
            assert await lab.evil.attack("live", after=0.05 * (1 + round_ % 4), seed=round_) == {"died": 9}
        await lab.unhurt("killed at work")
