"""kill -9 of the hypervisor at random moments: what a flush acknowledged is there afterwards, byte for byte.

Two writers, one per profile, write records to places that they have not used for long, in the blocks and in the label
area, and flush; each remembers what a flush acknowledged.  The hypervisor is killed and the supervisor restarts it.
After every life all that was ever acknowledged is read back, and at the end also from the files themselves.

``make soak`` runs 200 lives over each broker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from system_support import AGAIN, RunningLab, eventually, running

from pvnet.client.scm import ScmDevice
from pvnet.core.errors import PvnetError
from pvnet.runtime.topology import HYPERVISOR, BrokerConfig, LabConfig, PartitionConfig, ScmConfig, Topology

CYCLES = 200 if os.environ.get("PVNET_SOAK") else 3
MIB = 1 << 20
SIZE = 2 * MIB
LABELS = 8 << 10
SLOT = 4096
LABEL_SLOT = 128
BLOCK_RECORDS, LABEL_RECORDS = 4, 2
"""Records per flush."""
MOMENT_S = 0.1
"""A life ends at a random moment of so many seconds after a random number of flushes."""


def record(device: int, number: int, length: int) -> bytes:
    """Contents that no other record has, and that show a mixture of two."""
    seed = f"{device} {number}".encode()
    return b"".join(hashlib.sha256(seed + b" %d" % i).digest() for i in range(length // 32))


@dataclass
class Writer:
    """One device and what it owes us: the number of the record that a flush acknowledged, by place."""

    number: int
    blocks: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    flushes: int = 0
    _last: int = 0

    async def write_for_ever(self, device: ScmDevice) -> None:
        """Until a call fails."""
        while True:
            blocks = [self._next(self.blocks, SIZE // SLOT) for _ in range(BLOCK_RECORDS)]
            labels = [self._next(self.labels, LABELS // LABEL_SLOT) for _ in range(LABEL_RECORDS)]
            for slot, number in blocks:
                await device.write(slot * SLOT, record(self.number, number, SLOT))
            for slot, number in labels:
                await device.write_labels(slot * LABEL_SLOT, record(self.number, number, LABEL_SLOT))
            await device.flush()
            self.flushes += 1
            self.blocks.update(blocks)
            self.labels.update(labels)

    def _next(self, owed: dict[int, int], slots: int) -> tuple[int, int]:
        """The next place and record; while it is being written nothing is promised of that place."""
        self._last += 1
        slot = self._last % slots
        owed.pop(slot, None)
        return slot, self._last

    async def verify(self, device: ScmDevice) -> None:
        """All that was acknowledged is there."""
        blocks, labels = await device.read(0, SIZE), await device.read_labels(0, LABELS)
        self.check(blocks, labels)

    def check(self, blocks: bytes, labels: bytes) -> None:
        assert (len(blocks), len(labels)) == (SIZE, LABELS)
        for owed, found, size in ((self.blocks, blocks, SLOT), (self.labels, labels, LABEL_SLOT)):
            for slot, number in owed.items():
                assert found[slot * size : (slot + 1) * size] == record(self.number, number, size), (
                    f"device {self.number}: record {number}, acknowledged, is not at {slot * size:#x}"
                )


async def came_back(lab: RunningLab, number: int) -> ScmDevice:
    """The device, opened in the life of the hypervisor that runs now."""
    found: list[ScmDevice] = []

    async def opens() -> bool:
        device = ScmDevice(lab.lab.endpoint, "lpar1", number, timeout=60.0)
        try:
            await device.__aenter__()
        except PvnetError:
            return False
        try:
            await device.flush()
            await device.flush()  # a partition that has not noticed yet has let go of the device by now
        except PvnetError:
            await device.__aexit__()
            return False
        found.append(device)
        return True

    await eventually(opens)
    return found[0]


async def live(lab: RunningLab, writers: list[Writer], dice: random.Random) -> int:
    """One life: verify, write, die at some moment, be restarted.  Returns how many flushes each writer had at least."""
    devices = [await came_back(lab, writer.number) for writer in writers]
    for writer, device in zip(writers, devices, strict=True):
        await writer.verify(device)
    tasks = [asyncio.ensure_future(w.write_for_ever(d)) for w, d in zip(writers, devices, strict=True)]
    acknowledged, wanted = [writer.flushes for writer in writers], dice.randrange(4)

    async def owes_enough() -> bool:
        return all(w.flushes - before >= wanted for w, before in zip(writers, acknowledged, strict=True))

    await eventually(owes_enough)
    await asyncio.sleep(dice.random() * MOMENT_S)
    assert not any(task.done() for task in tasks), "nothing fails before the hypervisor does"
    pid = lab.kill(HYPERVISOR)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, PvnetError), result
    for device in devices:
        await device.__aexit__()
    await lab.restarted(HYPERVISOR, pid)
    return wanted


@pytest.mark.timeout(120 + 15 * CYCLES)
@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"])
async def test_every_acknowledged_flush_survives_kills(tmp_path: Path, kind: str) -> None:
    files = [tmp_path / "qemu", tmp_path / "phyp"]
    made = Topology(
        lab=LabConfig(name="scm-kill", ready_timeout_s=60.0),
        broker=BrokerConfig(use=kind),
        hypervisor={"restart": AGAIN.model_dump()},
        partition=[
            PartitionConfig(
                name="lpar1",
                scm=[
                    ScmConfig(size=SIZE, block_size=MIB, label_size=LABELS, profile=file.name, backing=str(file))
                    for file in files
                ],
            )
        ],
    )
    dice = random.Random(kind)
    writers = [Writer(0), Writer(1)]
    base = tmp_path / "base"
    async with running(made, base) as lab:
        wanted = sum([await live(lab, writers, dice) for _ in range(CYCLES)])
        for writer in writers:
            device = await came_back(lab, writer.number)
            await writer.verify(device)
            await device.__aexit__()
        for node in (HYPERVISOR, "lpar1"):
            assert "Traceback" not in lab.log(node)
            assert "handler_failed" not in lab.log(node)
    for writer, file in zip(writers, files, strict=True):
        writer.check(file.read_bytes(), file.with_name(file.name + ".labels").read_bytes())
        assert writer.flushes >= wanted > 0, "enough was acknowledged to make this a test"
        assert len(writer.blocks) >= BLOCK_RECORDS
