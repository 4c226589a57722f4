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
from pvnet.vfio.client import VfioUserClient
from pvnet_services.mdev_host import MdevHostNode
from pvnet_services.note_limit import BURST

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


HOSTS = ("east", "middle", "west")
THREE = Topology.model_validate({"lab": {"name": "three"}, "mdev_host": [{"name": name} for name in HOSTS]})


async def made_at(lab: InProcessLab, name: str) -> list[str]:
    return [n for n in HOSTS if name in {m["name"] for m in (await admin(lab, n, MdevAdmin.SHOW))["mdevs"]}]


async def test_of_hosts_that_make_the_same_at_once_one_does() -> None:
    async with InProcessLab(THREE, Loopback(LoopbackNetwork())) as lab:
        for turn in range(8):
            name, spellings = f"{OTHER[:-4]}{turn:04x}", (str.upper, str.lower)
            results = await asyncio.gather(
                *(
                    admin(lab, node, MdevAdmin.CREATE, name=spellings[turn % 2](name), parent="mtty", type="mtty-1")
                    for node in (*HOSTS[turn % 3 :], *HOSTS[: turn % 3], HOSTS[turn % 3])
                ),
                return_exceptions=True,
            )
            failed = [str(each) for each in results if isinstance(each, BaseException)]
            assert len(failed) == 3, failed
            assert all("EEXIST" in each for each in failed), failed
            assert len(await made_at(lab, name)) == 1
        assert not any(lab.mdev_host(node).claims for node in HOSTS)


async def test_a_host_that_waits_for_a_greater_name_finds_what_that_has_made() -> None:
    async with InProcessLab(THREE, Loopback(LoopbackNetwork())) as lab:
        west, slow, creating = lab.mdev_host("west"), asyncio.Event(), asyncio.Event()
        create = west.create

        async def later(*args: Any) -> Any:
            creating.set()
            await slow.wait()
            return await create(*args)

        west.create = later  # type: ignore[method-assign]
        first = asyncio.ensure_future(admin(lab, "west", MdevAdmin.CREATE, name=OTHER, parent="mtty", type="mtty-1"))
        await creating.wait()
        second = asyncio.ensure_future(admin(lab, "east", MdevAdmin.CREATE, name=OTHER, parent="mtty", type="mtty-1"))
        with pytest.raises(RefusedError, match=r"is being made at east|is being made at west"):
            await admin(lab, "middle", MdevAdmin.CREATE, name=OTHER, parent="mtty", type="mtty-1")
        assert not second.done()
        slow.set()
        assert (await first)["name"] == OTHER
        with pytest.raises(RefusedError, match=r"is at west .EEXIST"):
            await second
        assert await made_at(lab, OTHER) == ["west"]


async def test_a_device_that_dies_where_it_has_moved_to_is_missed() -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        east = lab.mdev_host("east")
        assert east.endpoint.counters["mdev_made"] == 2
        await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")
        await admin(lab, "west", MdevAdmin.MIGRATE, name=CARD, host="east")
        await lab.crash("west")
        await lab.start("west")
        await (await lab.client()).wait_peer("west", timeout=30.0)
        assert east.endpoint.counters["mdev_lost_with_host"] == 0
        await east.endpoint.wait_peer("west", timeout=30.0)
        await admin(lab, "east", MdevAdmin.MIGRATE, name=CARD, host="west")
        await lab.crash("west")
        async with asyncio.timeout(30.0):
            while not east.endpoint.counters["mdev_lost_with_host"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert east.endpoint.counters["mdev_lost_with_host"] == 1
        assert [m["name"] for m in (await admin(lab, "east", MdevAdmin.SHOW))["mdevs"]] == [USED]
        await lab.stop("east")
        await lab.start("east")
        assert lab.mdev_host("east").endpoint.counters["mdev_made"] == 2
        await lab.start("west")


async def test_clients_that_come_and_go_do_not_fill_the_log(tmp_path: Path) -> None:
    async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
        path, host = str(tmp_path / "s"), lab.mdev_host("east")
        await admin(lab, "east", MdevAdmin.ATTACH, name=CARD, path=path)
        for _ in range(2 * BURST):
            async with await VfioUserClient.connect(path):
                pass
        assert host.endpoint.counters["vfio_user_client"] == 2 * BURST
        assert host.endpoint.counters["notes_not_logged"] >= BURST


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
