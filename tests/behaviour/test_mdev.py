"""Mediated devices over every transport: real descriptors where there is a direct path, messages elsewhere."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from behaviour_worlds import behaviour, eventually

from pvnet.client.device import CharDevice
from pvnet.client.mdev import MdevFile
from pvnet.core.errors import DeviceError, PeerDiedError, RefusedError
from pvnet.papr.errno import EAGAIN, EINTR, ENODEV, ENOENT, ENOSPC
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, MdevAdmin, MdevAssign, ShowStatus
from pvnet.testing.in_process import InProcessLab
from pvnet_services.mdev_host import MdevHostNode

CARD_A = "c0ffee00-0000-4000-8000-00000000000a"
CARD_B = "c0ffee00-0000-4000-8000-00000000000b"
DISK = "c0ffee00-0000-4000-8000-00000000000d"
SCREEN = "c0ffee00-0000-4000-8000-00000000000f"
CABLE: list[dict[str, Any]] = [
    {
        "name": "mdevs",
        "mdev": [
            {
                "uuid": CARD_A,
                "parent": "mtty",
                "type": "mtty-2",
                "partition": "a",
                "attributes": {"port0": "port:cable"},
            },
            {
                "uuid": CARD_B,
                "parent": "mtty",
                "type": "mtty-1",
                "partition": "b",
                "attributes": {"port0": "port:cable"},
            },
        ],
    }
]
PARTITIONS: list[dict[str, Any]] = [{"name": "a"}, {"name": "b"}]
SERIAL: dict[str, Any] = {"partition": PARTITIONS, "mdev_host": CABLE, "manager": None}


def disk_host(name: str, size: str = "1MiB", **more: Any) -> dict[str, Any]:
    """A host with a disk: the lab keeps its image, beside those of other hosts."""
    attributes = {"size": size}
    return {"name": name, "parent": [{"name": "disk", "driver": "vfio_ccw", "attributes": attributes}], **more}


DISK_MDEV = {"uuid": DISK, "parent": "disk", "type": "vfio_ccw-io", "partition": "a"}
TWO_HOSTS: dict[str, Any] = {
    "partition": PARTITIONS,
    "mdev_host": [
        disk_host("east", mdev=[DISK_MDEV, {**CABLE[0]["mdev"][0], "attributes": {}}]),
        disk_host("west"),
    ],
    "manager": None,
}


async def ask(lab: InProcessLab, node: str, command: Management) -> Any:
    endpoint = await lab.client()
    reply = (await endpoint.call(node, Envelope(management=command), 60.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json) if reply.status_json else None


async def admin(lab: InProcessLab, verb: MdevAdmin.Verb, node: str = "mdevs", **fields: Any) -> Any:
    return await ask(lab, node, Management(mdev=MdevAdmin(verb=verb, **fields)))


async def opened(lab: InProcessLab, partition: str, path: str) -> MdevFile:
    file = MdevFile(await lab.client(), partition, path, timeout=60.0)
    await file.open()
    return file


async def read_all(file: CharDevice, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += await file.read(min(4096, count - len(found)), timeout=60.0)
    return found


async def write_all(file: CharDevice, data: bytes) -> None:
    for at in range(0, len(data), 1000):
        assert await file.write(data[at : at + 1000]) == len(data[at : at + 1000])


@behaviour(**SERIAL)
async def test_text_goes_both_ways_between_two_partitions(lab: InProcessLab) -> None:
    a, b = await opened(lab, "a", "/dev/ttyS0"), await opened(lab, "b", "/dev/ttyS0")
    there, back = random.Random(1).randbytes(600), random.Random(2).randbytes(600)
    async with asyncio.TaskGroup() as group:
        group.create_task(write_all(a, there))
        group.create_task(write_all(b, back))
        to_b = group.create_task(read_all(b, len(there)))
        to_a = group.create_task(read_all(a, len(back)))
    assert to_b.result() == there
    assert to_a.result() == back
    await a.close()
    await b.close()


@behaviour(**SERIAL)
async def test_a_terminal_waits_or_says_that_there_is_nothing(lab: InProcessLab) -> None:
    port = await opened(lab, "a", "/dev/ttyS1")  # loop-back
    with pytest.raises(DeviceError) as nothing:
        await port.read(10, nonblock=True)
    assert nothing.value.errno == EAGAIN
    with pytest.raises(DeviceError) as interrupted:
        await port.read(10, timeout=0.2)
    assert interrupted.value.errno == EINTR
    reading = asyncio.ensure_future(port.read(10, timeout=60.0))
    await port.write(b"echo")
    assert await reading == b"echo"[: len(reading.result())]
    await port.close()


@behaviour(partition=PARTITIONS, mdev_host=[disk_host("mdevs", mdev=[DISK_MDEV])], manager=None)
async def test_a_channel_disk_keeps_what_is_written(lab: InProcessLab) -> None:
    disk = await opened(lab, "a", "/dev/dasda")
    size = await disk.size()
    assert size == 1 << 20
    data = random.Random(3).randbytes(70_000)
    await disk.write_at(4096, data)
    await disk.write_at(100, b"within a block")
    await disk.flush()
    assert await disk.read_at(4096, len(data)) == data
    assert await disk.read_at(90, 40) == bytes(10) + b"within a block" + bytes(16)
    assert await disk.read_at(size - 3, 100) == bytes(3)
    with pytest.raises(DeviceError) as full:
        await disk.write_at(size, b"x")
    assert full.value.errno == ENOSPC
    await disk.close()


@behaviour(**TWO_HOSTS)
async def test_a_disk_moves_while_it_is_written(lab: InProcessLab) -> None:
    disk = await opened(lab, "a", "/dev/dasda")
    pattern = random.Random(4).randbytes(1 << 18)
    await disk.write_at(0, pattern)
    written: list[int] = []

    async def go_on() -> None:
        for number in range(60):
            at = (1 << 18) + number * 4096
            await disk.write_at(at, number.to_bytes(4, "big") * 1024)
            written.append(number)

    writing = asyncio.ensure_future(go_on())
    moved = await admin(lab, MdevAdmin.MIGRATE, "east", name=DISK, host="west")
    assert moved["bytes"] > len(pattern)
    await writing
    assert await disk.read_at(0, len(pattern)) == pattern
    for number in written:
        assert await disk.read_at((1 << 18) + number * 4096, 4096) == number.to_bytes(4, "big") * 1024
    east, west = await admin(lab, MdevAdmin.SHOW, "east"), await admin(lab, MdevAdmin.SHOW, "west")
    assert [m["name"] for m in east["mdevs"]] == [CARD_A]
    assert [(m["name"], m["partition"], m["user"]) for m in west["mdevs"]] == [(DISK, "a", "a")]
    moved = await admin(lab, MdevAdmin.MIGRATE, "west", name=DISK, host="east")
    assert await disk.read_at(0, len(pattern)) == pattern
    await disk.close()


@behaviour(**TWO_HOSTS)
async def test_a_serial_card_moves_while_text_flows(lab: InProcessLab) -> None:
    port = await opened(lab, "a", "/dev/ttyS0")
    data = random.Random(5).randbytes(400)
    reading = asyncio.ensure_future(read_all(port, len(data)))

    async def there_and_back() -> None:
        await admin(lab, MdevAdmin.MIGRATE, "east", name=CARD_A, host="west")
        await admin(lab, MdevAdmin.MIGRATE, "west", name=CARD_A, host="east")

    moving = asyncio.ensure_future(there_and_back())
    for at in range(0, len(data), 10):
        await port.write(data[at : at + 10])
    await moving
    assert await reading == data
    await port.close()


def stall(west: MdevHostNode) -> asyncio.Event:
    """Have a host answer nothing more from the middle of a transfer on; set when it is there."""
    there = asyncio.Event()
    answer = west.moves.transfer

    def half_of_it(envelope: Envelope) -> None:
        if envelope.mdev_transfer.offset > 300_000:
            there.set()
        else:
            answer(envelope)

    west.endpoint.on("mdev_transfer", half_of_it)
    return there


@behaviour(**TWO_HOSTS)
async def test_a_destination_that_dies_in_a_move_takes_nothing_along(lab: InProcessLab) -> None:
    disk = await opened(lab, "a", "/dev/dasda")
    pattern = random.Random(6).randbytes(900_000)
    await disk.write_at(0, pattern)
    stalled = stall(lab.mdev_host("west"))
    moving = asyncio.ensure_future(admin(lab, MdevAdmin.MIGRATE, "east", name=DISK, host="west"))
    await stalled.wait()
    await lab.crash("west")
    with pytest.raises(RefusedError, match="west"):
        await moving
    assert await disk.read_at(0, len(pattern)) == pattern
    await disk.write_at(0, b"after!" * 1000)
    assert await disk.read_at(0, 6000) == b"after!" * 1000
    await lab.start("west")

    async def seen() -> bool:
        return "west" in (await ask(lab, "east", Management(show_status=ShowStatus())))["paths"]

    await eventually(seen)
    await admin(lab, MdevAdmin.MIGRATE, "east", name=DISK, host="west")
    assert await disk.read_at(6000, 100_000) == pattern[6000:106_000]
    await disk.close()


@behaviour(**TWO_HOSTS)
async def test_a_source_that_dies_in_a_move_leaves_nothing_behind(lab: InProcessLab) -> None:
    disk = await opened(lab, "a", "/dev/dasda")
    await disk.write_at(0, random.Random(7).randbytes(900_000))
    west = lab.mdev_host("west")
    stalled = stall(west)
    moving = asyncio.ensure_future(admin(lab, MdevAdmin.MIGRATE, "east", name=DISK, host="west"))
    await stalled.wait()
    assert west.moves.incoming
    await lab.crash("east")
    with pytest.raises(PeerDiedError):
        await moving

    async def forgotten() -> bool:
        return not west.moves.incoming and not west.registry.tables.mdevs

    await eventually(forgotten)
    await disk.close()
    await lab.start("east")


@behaviour(**SERIAL)
async def test_a_host_that_comes_back_is_found_again(lab: InProcessLab) -> None:
    port = await opened(lab, "a", "/dev/ttyS1")
    await lab.crash("mdevs")

    async def gone() -> bool:
        try:
            await port.write(b"?")
        except DeviceError as error:
            return error.errno == ENODEV
        return False

    await eventually(gone)
    await port.close()
    await lab.start("mdevs")

    async def works() -> bool:
        try:
            again = await opened(lab, "a", "/dev/ttyS1")
        except DeviceError as error:
            return error.errno != ENOENT and pytest.fail(str(error))
        await again.write(b"back")
        assert await read_all(again, 4) == b"back"
        await again.close()
        return True

    await eventually(works)


@behaviour(partition=PARTITIONS, mdev_host=[{"name": "mdevs"}], manager=None)
async def test_devices_come_and_go(lab: InProcessLab) -> None:
    await admin(lab, MdevAdmin.CREATE, name=CARD_A, parent="mtty", type="mtty-2")
    await admin(lab, MdevAdmin.ASSIGN, name=CARD_A, partition="b")
    await ask(lab, "b", Management(mdev_assign=MdevAssign(name=CARD_A, host="mdevs")))
    port = await opened(lab, "b", "/dev/ttyS0")
    await port.write(b"x")
    assert await port.read(1, timeout=60.0) == b"x"
    with pytest.raises(RefusedError, match="is for b"):
        await admin(lab, MdevAdmin.ASSIGN, name=CARD_A, partition="a")
    with pytest.raises(RefusedError, match="EEXIST"):
        await admin(lab, MdevAdmin.CREATE, name=CARD_A.upper(), parent="mtty", type="mtty-1")
    await admin(lab, MdevAdmin.REMOVE, name=CARD_A, length=60_000)  # the partition is asked, and lets go
    with pytest.raises(DeviceError) as gone:
        await port.write(b"y")
    assert gone.value.errno == ENODEV
    shown = await admin(lab, MdevAdmin.SHOW)
    assert shown["mdevs"] == []
    actions = [event["action"] for event in await admin(lab, MdevAdmin.EVENTS)]
    assert actions[-4:] == ["add", "bind", "unbind", "remove"]
    await port.close()


@behaviour(partition=PARTITIONS, mdev_host=[{"name": "mdevs"}], manager=None)
async def test_the_texts_of_2016(lab: InProcessLab) -> None:
    async def echo(text: str, path: str) -> int:
        return int((await admin(lab, MdevAdmin.TREE_WRITE, path=path, data=text.encode()))["written"])

    create = "/rfc/parents/mtty/mdev_create"
    assert await echo(f"{CARD_A}:0:\n", create) == len(CARD_A) + 4
    with pytest.raises(RefusedError, match="EEXIST"):
        await echo(f"{CARD_A}:0:", create)
    with pytest.raises(RefusedError, match="ERANGE"):
        await echo(f"{CARD_A}:4294967296:p", create)
    await echo(CARD_A, "/rfc/class/mdev/mdev_start")
    await echo(CARD_A, "/rfc/class/mdev/mdev_shutdown")
    await echo(f"{CARD_A}:0", "/rfc/parents/mtty/mdev_destroy")
    wrong = await admin(lab, MdevAdmin.TREE_READ, path=create)
    assert wrong == {"path": create, "mode": "-w-"}
    kind = "/parents/mtty/mdev_supported_types/mtty-1"
    before = (await admin(lab, MdevAdmin.TREE_READ, path=f"{kind}/available_instances"))["text"]
    await echo(CARD_B + "\n", f"{kind}/create")
    after = (await admin(lab, MdevAdmin.TREE_READ, path=f"{kind}/available_instances"))["text"]
    assert int(before) == int(after) + 1
    card = await admin(lab, MdevAdmin.TREE_READ, path=f"/parents/mtty/{CARD_B}/attributes")
    modes = {entry["name"]: entry["mode"] for entry in card["entries"]}
    assert modes == {"port0": "rw-", "traffic0": "r--", "sample_mdev_dev": "r--"}
    port = await admin(lab, MdevAdmin.TREE_READ, path=f"/parents/mtty/{CARD_B}/attributes/port0")
    assert (port["mode"], port["text"]) == ("rw-", "loop\n")
    await echo("1", f"/parents/mtty/{CARD_B}/remove")
    actions = [event["action"] for event in await admin(lab, MdevAdmin.EVENTS)]
    assert [a for a in actions if a in {"online", "offline"}] == ["online", "offline"]
