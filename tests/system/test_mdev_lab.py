"""Two partitions use a serial card and a channel disk of real mdev hosts, which move while they are used.

Over unix sockets, with descriptors, and over the broker alone, where everything is a message.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from mdev_system import (
    CARD_A,
    CARD_B,
    DISK,
    Remote,
    Slots,
    card,
    clean,
    devices,
    disk,
    filesystem,
    host,
    mdev_topology,
    opened,
    owners,
    receive,
    record,
    send,
    sha256,
)
from system_support import RunningLab, running

from pvnet.client.mdev import MdevFile, Mdevs

NODES = ("a", "b", "east", "west")
SIZE = 1 << 20
TURNS = 20 if os.environ.get("PVNET_SOAK") else 2
over_both = pytest.mark.parametrize("unix", [True, False], ids=["unix", "broker"])
pytestmark = pytest.mark.timeout(900 if os.environ.get("PVNET_SOAK") else 120)


async def there_and_back(lab: RunningLab, uuid: str, turns: int = TURNS) -> int:
    """Move a device from east to west and back; returns the bytes of state."""
    mdevs, moved = Mdevs(lab.lab), 0
    for _ in range(turns):
        for to in ("west", "east"):
            moved += (await mdevs.migrate(uuid, to))["bytes"]
            assert await owners(lab, uuid) == [to]
    return moved


@over_both
async def test_a_disk_loses_nothing_while_it_moves(tmp_path: Path, unix: bool) -> None:
    east, west = tmp_path / "east.img", tmp_path / "west.img"
    made = mdev_topology("disk", host("east", east, disk()), host("west", west), unix=unix)
    half = SIZE // 2
    async with running(made, tmp_path / "base") as lab:
        file = await opened(lab, "a", DISK)
        assert await file.size() == SIZE
        pattern = filesystem(half, seed=1)
        await file.write_at(0, pattern)
        slots, dice = Slots(half), random.Random(2)
        upper = Upper(file, half)
        writing = asyncio.ensure_future(slots.write_for_ever(upper, dice))
        assert await there_and_back(lab, DISK) > 2 * TURNS * half
        await Mdevs(lab.lab).migrate(DISK, "west")
        assert not writing.done()
        writing.cancel()
        await asyncio.wait([writing])
        await file.write_at(0, pattern[:4096])
        assert sha256(await file.read_at(0, half)) == sha256(pattern)
        slots.check(await upper.read_at(0, half))
        assert slots.acknowledged > 10
        await file.flush()
        image = west.read_bytes()
        assert sha256(image[:half]) == sha256(pattern)
        slots.check(image[half:])
        assert (await devices(lab, "a"))[DISK]["moves"] == 2 * TURNS + 1
        await file.close()
        clean(lab, NODES)
    assert west.read_bytes() == image


class Upper(MdevFile):
    """The upper part of a disk, as a file of its own."""

    def __init__(self, file: MdevFile, start: int) -> None:
        self._file, self._start = file, start

    async def read_at(self, offset: int, length: int) -> bytes:
        return await self._file.read_at(self._start + offset, length)

    async def write_at(self, offset: int, data: bytes) -> None:
        await self._file.write_at(self._start + offset, data)

    async def flush(self) -> None:
        await self._file.flush()


@over_both
async def test_serial_cards_talk_before_and_after_a_move(tmp_path: Path, unix: bool) -> None:
    """Two ports with a cable between them, one that is connected to a socket of this test, one to a terminal."""
    dice = random.Random(3)
    cable = {"port0": "port:cable"}
    async with Remote.listening() as remote:
        cards = [card(CARD_A, "a", port1=remote.uri, **cable), card(CARD_B, "b", port1="pty", **cable)]
        made = mdev_topology("cards", host("east", None, *cards), host("west", None), unix=unix)
        async with running(made, tmp_path / "base") as lab:
            a, b = await opened(lab, "a", CARD_A), await opened(lab, "b", CARD_B)
            outside, terminal = await opened(lab, "a", CARD_A, 1), await opened(lab, "b", CARD_B, 1)
            for connection, place in enumerate(("east", "west")):
                if connection:
                    await asyncio.gather(*(Mdevs(lab.lab).migrate(each, place) for each in (CARD_A, CARD_B)))
                await remote.connected(connection)
                there, back, out, into = (dice.randbytes(150 if unix else 60) for _ in range(4))
                remote.writers[connection].write(into)
                _, _, _, at_remote, at_b, at_a, at_outside = await asyncio.gather(
                    send(a, there),
                    send(b, back),
                    send(outside, out),
                    remote.wait_for(len(out), connection),
                    receive(b, len(there)),
                    receive(a, len(back)),
                    receive(outside, len(into)),
                )
                got = [sha256(each) for each in (at_b, at_a, at_remote, at_outside)]
                assert got == [sha256(each) for each in (there, back, out, into)], place
                await talk_to_terminal(lab, terminal, into, out)
            for each in (a, b, outside, terminal):
                await each.close()
            clean(lab, NODES)


async def talk_to_terminal(lab: RunningLab, port: MdevFile, into: bytes, out: bytes) -> None:
    """Both ways through the pseudo terminal that port 1 of card B has now."""
    _, shown = await Mdevs(lab.lab).find(CARD_B)
    terminal = os.open(shown["attributes"]["port1"].removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        os.write(terminal, into)
        assert await receive(port, len(into)) == into, "so it is connected now"
        await send(port, out)
        found = b""
        async with asyncio.timeout(30):
            while len(found) < len(out):
                try:
                    found += os.read(terminal, 4096)
                except BlockingIOError:
                    await asyncio.sleep(0.01)
        assert found == out
    finally:
        os.close(terminal)


@over_both
async def test_streams_lose_no_byte_in_a_move(tmp_path: Path, unix: bool) -> None:
    """One comes back through a loop, one goes out; the card moves as long as they flow."""
    looped, outward = record(7, 1536 if unix else 512), record(8, 1536 if unix else 512)
    async with Remote.listening() as remote:
        made = mdev_topology(
            "streams", host("east", None, card(CARD_A, "a", port1=remote.uri)), host("west", None), unix=unix
        )
        async with running(made, tmp_path / "base") as lab:
            loop, outside = await opened(lab, "a", CARD_A), await opened(lab, "a", CARD_A, 1)
            await remote.connected(0)
            came_back = asyncio.ensure_future(receive(loop, len(looped)))
            went_out = asyncio.ensure_future(remote.wait_for(len(outward)))
            sending = asyncio.gather(send(loop, looped), send(outside, outward))
            await there_and_back(lab, CARD_A)
            assert not sending.done(), "it moved while they flowed"
            await sending
            found = [await came_back, await went_out]
            assert [len(each) for each in found] == [len(looped), len(outward)]
            assert [sha256(each) for each in found] == [sha256(looped), sha256(outward)]
            await loop.close()
            await outside.close()
            clean(lab, NODES)
