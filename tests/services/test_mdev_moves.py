"""What may come between while a device moves, or is made twice: users, sockets, other hosts, nodes that are none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from behaviour_worlds import Loopback

from pvnet.core.errors import RefusedError
from pvnet.core.machine import Note
from pvnet.mdev.device import Region
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.names import MigrationState, RegionFlag
from pvnet.mdev.vfio_user import Command
from pvnet.papr.errno import EACCES
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, MdevAdmin
from pvnet.pb.v1.mdev_pb2 import MdevMessage, MdevOpen, MdevTransfer
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab
from pvnet.transport.loopback import LoopbackNetwork
from pvnet_services.mdev_host import MdevHostNode

CARD = "ca4d0000-0000-4000-8000-00000000000a"
OTHER = "ca4d0000-0000-4000-8000-00000000000b"
USED = "ca4d0000-0000-4000-8000-00000000000c"
HEADER = (1).to_bytes(2, "little") + int(Command.VERSION).to_bytes(2, "little")
VERSION = HEADER + (20).to_bytes(4, "little") + bytes(8) + bytes(4)


def mdev(uuid: str, **more: Any) -> dict[str, Any]:
    return {"uuid": uuid, "parent": "mtty", "type": "mtty-1", **more}


TOPOLOGY = Topology.model_validate(
    {
        "lab": {"name": "moves"},
        "partition": [{"name": "a"}],
        "mdev_host": [{"name": "east", "mdev": [mdev(CARD), mdev(USED, partition="a")]}, {"name": "west"}],
    }
)


async def admin(lab: InProcessLab, node: str, verb: MdevAdmin.Verb, **fields: Any) -> Any:
    command = Envelope(management=Management(mdev=MdevAdmin(verb=verb, **fields)))
    reply = (await (await lab.client()).call(node, command, 30.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json)


class User:
    """A node that opens devices by hand, and keeps what it is told."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.heard: asyncio.Queue[Envelope] = asyncio.Queue()
        endpoint.on("mdev_message", self.heard.put_nowait)
        endpoint.on("mdev_close", self.heard.put_nowait)

    async def open(self, host: str) -> int:
        reply = (await self.endpoint.call(host, Envelope(mdev_open=MdevOpen(name=CARD)), 30.0)).mdev_reply
        assert not reply.result, reply.text
        self.endpoint.post(host, Envelope(mdev_message=MdevMessage(session=reply.session, message=VERSION)))
        return reply.session

    async def next(self) -> Envelope:
        async with asyncio.timeout(30.0):
            return await self.heard.get()


class Stopped:
    """A destination that answers no COMMIT before it is told to."""

    def __init__(self, node: MdevHostNode) -> None:
        self.there, self.go_on = asyncio.Event(), asyncio.Event()
        answer = node.moves.transfer

        async def later(envelope: Envelope) -> None:
            self.there.set()
            await self.go_on.wait()
            answer(envelope)

        def transfer(envelope: Envelope) -> None:
            if envelope.mdev_transfer.step == MdevTransfer.COMMIT:
                node.endpoint.spawn(later(envelope), "later")
            else:
                answer(envelope)

        node.endpoint.on("mdev_transfer", transfer)


async def test_who_opens_a_device_in_the_middle_of_its_move_is_sent_after_it() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        stopped, user = Stopped(lab.mdev_host("west")), User(await lab.client())
        moving = asyncio.ensure_future(admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west"))
        await stopped.there.wait()
        number = await user.open("east")
        with pytest.raises(RefusedError, match="EBUSY"):
            await admin(lab, "east", MdevAdmin.ATTACH, name=CARD, path="/nowhere/s")
        assert user.heard.empty()
        stopped.go_on.set()
        await moving
        close = (await user.next()).mdev_close
        assert (close.session, close.moved_to) == (number, "west")
        number = await user.open("east")  # too late, and yet it is told
        close = (await user.next()).mdev_close
        assert (close.session, close.moved_to) == (number, "west")
        await user.open("west")
        assert (await user.next()).mdev_message.message[2:4] == VERSION[2:4]
        await admin(lab, "west", MdevAdmin.MIGRATE, name=CARD, host="east")
        assert (await user.next()).mdev_close.moved_to == "east"
        await user.open("east")
        assert (await user.next()).WhichOneof("body") == "mdev_message"


async def test_who_opens_a_device_in_the_middle_of_a_move_that_fails_is_served() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        stopped, user = Stopped(lab.mdev_host("west")), User(await lab.client())
        moving = asyncio.ensure_future(admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west"))
        await stopped.there.wait()
        number = await user.open("east")
        await lab.crash("west")
        with pytest.raises(RefusedError):
            await moving
        message = (await user.next()).mdev_message
        assert (message.session, message.message[2:4]) == (number, VERSION[2:4])
        await lab.start("west")


async def test_a_device_at_a_socket_does_not_move(tmp_path: Path) -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        await admin(lab, "east", MdevAdmin.ATTACH, name=CARD, path=str(tmp_path / "s"))
        with pytest.raises(RefusedError, match=r"detach it first.*EBUSY"):
            await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")
        await admin(lab, "east", MdevAdmin.DETACH, name=CARD)
        await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")


async def test_a_device_that_qemu_does_not_survive_is_served_with_a_warning(tmp_path: Path) -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        east = lab.mdev_host("east")
        notes: list[Note] = []
        east.limit.note = notes.append  # type: ignore[method-assign]
        works: Any = east.registry.find(CARD).works
        await admin(lab, "east", MdevAdmin.ATTACH, name=CARD, path=str(tmp_path / "s"))
        await admin(lab, "east", MdevAdmin.DETACH, name=CARD)
        assert [note.event for note in notes if note.event == "mdev_odd_bar"] == []
        works._regions[1] = Region(RegionInfo(3 << 12, RegionFlag.READ))
        await admin(lab, "east", MdevAdmin.ATTACH, name=CARD, path=str(tmp_path / "s"))
        (warning,) = [note for note in notes if note.event == "mdev_odd_bar"]
        assert warning.level == "warning"
        fields = dict(warning.fields)
        assert fields["mdev"] == CARD
        assert str(fields["reason"]).startswith("BAR 1 has 12288 bytes, which is no power of two")


async def test_only_mdev_hosts_send_devices() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        endpoint = await lab.client()
        for step in range(6):
            body = MdevTransfer(step=step, transfer=1, name=OTHER, type="mtty-1", parent="mtty")
            reply = (await endpoint.call("west", Envelope(mdev_transfer=body), 30.0)).mdev_reply
            assert reply.result == EACCES, reply
        assert not lab.mdev_host("west").registry.tables.mdevs


async def test_a_uuid_is_given_once_in_a_lab() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        for name in (CARD, CARD.upper()):
            with pytest.raises(RefusedError, match=r"at east.*EEXIST"):
                await admin(lab, "west", MdevAdmin.CREATE, name=name, parent="mtty", type="mtty-1")
        both = await asyncio.gather(
            *(
                admin(lab, node, MdevAdmin.CREATE, name=OTHER, parent="mtty", type="mtty-1")
                for node in ("east", "west")
            ),
            return_exceptions=True,
        )
        made = [each for each in both if not isinstance(each, RefusedError)]
        shown = [m["name"] for node in ("east", "west") for m in (await admin(lab, node, MdevAdmin.SHOW))["mdevs"]]
        assert shown.count(OTHER) == len(made) <= 1


async def test_a_removal_that_does_not_wait_takes_nothing_away() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:

        async def user() -> str | None:
            shown = (await admin(lab, "east", MdevAdmin.SHOW))["mdevs"]
            return next(m["user"] for m in shown if m["name"] == USED)  # type: ignore[no-any-return]

        async with asyncio.timeout(30.0):
            while await user() != "a":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        with pytest.raises(RefusedError, match="EBUSY"):
            await admin(lab, "east", MdevAdmin.REMOVE, name=USED)
        session = lab.mdev_host("east").sessions.sessions[0]
        for _ in range(20):
            await admin(lab, "east", MdevAdmin.SHOW)
        assert lab.mdev_host("east").sessions.sessions == [session], "the partition was not asked to let go"


async def test_a_move_that_fails_early_leaves_nothing_at_the_destination() -> None:
    """It fails while the device runs and has something under way, so that it cannot be stopped."""
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        east, west = lab.mdev_host("east"), lab.mdev_host("west")
        device = east.hosted(CARD)
        device.migration._busy = lambda: True
        with pytest.raises(RefusedError, match="under way"):
            await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")
        assert not west.moves.incoming
        assert not west.registry.tables.mdevs
        assert device.migration.state == MigrationState.RUNNING
        device.migration._busy = lambda: False
        await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")
