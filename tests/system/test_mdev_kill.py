"""kill -9 of mdev hosts, partition and broker at random moments, while a disk is written and moved.

What a flush acknowledged is there afterwards, wherever the disk lives; it lives at one host, never at two; nothing is
left over.  ``make soak`` runs many rounds.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from mdev_system import DISK, Slots, clean, disk, host, mdev_topology, opened, owners
from system_support import PATIENCE_S, RunningLab, eventually, running

from pvnet.client.mdev import MdevFile, Mdevs
from pvnet.core.errors import PvnetError

SOAK = bool(os.environ.get("PVNET_SOAK"))
ROUNDS = 60 if SOAK else 5
BROKERS = 3
"""A broker that dies more often than this in a minute stays dead."""
SEED = int(os.environ.get("PVNET_SEED", "5"))
SIZE = 1 << 20
VICTIMS = ("source", "destination", "a", "broker", "nobody")
MOMENT_S = 0.15
NODES = ("a", "b", "east", "west")


class Story:
    """The disk, what it owes us, and where it is."""

    def __init__(self, lab: RunningLab, images: dict[str, Path], dice: random.Random) -> None:
        self.lab = lab
        self.images = images
        self.dice = dice
        self.slots = Slots(SIZE)
        self.at = "east"
        self.kills: dict[str, int] = dict.fromkeys(VICTIMS, 0)
        self.moves = 0

    async def round(self, victim: str) -> None:
        """Write, move, kill, look."""
        self.kills[victim] += 1
        to = "west" if self.at == "east" else "east"
        node = {"source": self.at, "destination": to}.get(victim, victim)
        file = await opened(self.lab, "a", DISK)
        self.slots.check(await file.read_at(0, SIZE))
        before = self.slots.acknowledged
        writing = asyncio.ensure_future(self.slots.write_for_ever(file, self.dice))
        while self.slots.acknowledged < before + 3 and not writing.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        moving = asyncio.ensure_future(Mdevs(self.lab.lab).migrate(DISK, to))
        await asyncio.sleep(self.dice.random() * MOMENT_S)
        pid = 0
        if victim != "nobody":
            pid = self.lab.kill(node)
        (moved,) = await asyncio.gather(moving, return_exceptions=True)
        assert not isinstance(moved, BaseException) or (isinstance(moved, PvnetError) and victim != "nobody"), moved
        await self.end(file, writing, fails=victim in {"source", "destination", "a"})
        if victim == "broker":
            await eventually(lambda: self._other_broker(pid))
        elif pid:
            await self.lab.restarted(node, pid)
        self.at = await self.found(moved, to)
        self.moves += not isinstance(moved, BaseException)

    async def _other_broker(self, pid: int) -> bool:
        return self.lab.pids().get("broker", pid) != pid

    async def end(self, file: MdevFile, writing: asyncio.Task[None], *, fails: bool) -> None:
        """The writer stops: by itself, because what it uses is dead, or because it is told to."""
        await asyncio.sleep(0.05)
        if not writing.done():
            writing.cancel()
        (why,) = await asyncio.gather(writing, return_exceptions=True)
        if not isinstance(why, asyncio.CancelledError):
            assert isinstance(why, PvnetError), why
            assert fails, f"nobody that the writer needs was killed: {why}"
        try:
            await file.close()
        except PvnetError:
            assert fails

    async def found(self, moved: object, to: str) -> str:
        """Where the disk is now; a host that died with it may not have it any more, and is given it again."""
        places: list[str] = []

        async def known() -> bool:
            try:
                places[:] = await owners(self.lab, DISK)
            except PvnetError:  # one of them is just coming back
                return False
            return True

        await eventually(known)
        assert len(places) < 2, f"it lives at {places}"
        if not places:
            # It had moved, and its host has died; what administrators make lasts as long as a host.
            assert not isinstance(moved, BaseException) or self.at != "east"
            where = to if not isinstance(moved, BaseException) else self.at
            assert where != "east", "its own host makes it anew"
            await Mdevs(self.lab.lab).create(DISK, "disk", "vfio_ccw-io", host=where)
            await Mdevs(self.lab.lab, timeout=PATIENCE_S).assign(DISK, "a")
            places = [where]
        return places[0]

    async def finish(self) -> None:
        """All that was ever acknowledged is on the disk, and in the image of the host that has it."""
        file = await opened(self.lab, "a", DISK)
        data = await file.read_at(0, SIZE)
        self.slots.check(data)
        await file.write_at(0, b"works again")
        assert await file.read_at(0, 11) == b"works again"
        await file.write_at(0, data[:512])
        await file.flush()
        await file.close()
        self.slots.check(self.images[self.at].read_bytes())


@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("unix", [True, False], ids=["unix", "broker"])
async def test_what_was_flushed_survives_kills_during_moves(tmp_path: Path, unix: bool) -> None:
    images = {name: tmp_path / f"{name}.img" for name in ("east", "west")}
    made = mdev_topology("kills", host("east", images["east"], disk()), host("west", images["west"]), unix=unix)
    dice = random.Random(SEED + unix)
    async with running(made, tmp_path / "base") as lab:
        story = Story(lab, images, dice)
        processes = set(lab.pids())
        for number in range(ROUNDS):
            mortal = [v for v in VICTIMS if v != "broker" or story.kills[v] < BROKERS]
            victim = VICTIMS[number] if number < len(VICTIMS) else dice.choice(mortal)
            await story.round(victim)
            assert await all_back(lab, processes)
        await story.finish()
        clean(lab, NODES)
    assert story.slots.acknowledged >= 3 * ROUNDS
    print(f"{ROUNDS} rounds, seed {SEED}: {story.kills}, {story.moves} moves, {story.slots.acknowledged} writes")


async def all_back(lab: RunningLab, processes: set[str]) -> bool:
    async def there() -> bool:
        return set(lab.pids()) == processes

    await eventually(there)
    return True
