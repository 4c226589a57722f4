"""kill -9 of hypervisor, management partition and application at random moments of a session.

The others report it as their protocol says, recover by themselves, and leak nothing.  ``make soak`` runs 50 rounds.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from system_support import App, running, topology

ROUNDS = 50 if os.environ.get("PVNET_SOAK") else 8
SEED = int(os.environ.get("PVNET_SEED", "20"))

SAID = {
    "hypervisor": {("DeviceError", errno.EBADFD), ("DeviceError", errno.EIO)},
    "mp": {
        ("PeerDiedError", None),
        ("DeviceError", errno.ENODEV),
        ("DeviceError", errno.EIO),
        ("DeviceError", errno.EBADFD),
    },
}
"""What an application may hear when that node dies."""


@pytest.mark.timeout(1200 if os.environ.get("PVNET_SOAK") else 240)
async def test_kills_at_random_moments(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    base = tmp_path / "base"
    kills = {"hypervisor": 0, "mp": 0, "app": 0}
    victims = list(kills)
    async with running(topology("kills"), base) as lab:
        app = await App.start("kills", base)
        quiet = await lab.at_rest()
        processes = set(lab.pids())
        for round_number in range(ROUNDS):
            victim = victims[round_number] if round_number < len(victims) else dice.choice(victims)
            kills[victim] += 1
            app.echo(1000)
            for _ in range(dice.randrange(30)):  # the random moment: so many echoes later
                await app.until("echo")
            app.errors.clear()
            if victim == "app":
                await app.kill()
                app = await App.start("kills", base)
            else:
                pid = lab.kill(victim)
                await app.until("error")
                await app.until("open")
                heard = {(said["error"], said["errno"]) for said in app.errors}
                assert heard <= SAID[victim], heard
                await lab.restarted(victim, pid)
            app.echo(5)
            await app.until("finished", 5)
            await lab.settle(quiet)
            assert set(lab.pids()) == processes
        hypervisor, partition = lab.log("hypervisor"), lab.log("mp")
        assert hypervisor.count("reason=partner_gone") >= kills["mp"], "sessions of the dead partition were dropped"
        assert partition.count("from=READY") >= kills["hypervisor"], "the driver saw its partner go"
        for log in (hypervisor, partition, lab.log("manager"), lab.log("lpar1")):
            assert "Traceback" not in log
            assert "task_failed" not in log
        await app.end()
    print(f"{ROUNDS} rounds, seed {SEED}: {kills}")
