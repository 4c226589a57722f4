"""Which partition uses a device: what assigning changes, and what a partition finds again without being told twice."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from behaviour_worlds import Loopback, eventually

from pvnet.client.mdev import Mdevs
from pvnet.core.errors import ConfigError, DeadlineError, RefusedError, UnreachableError
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EBUSY
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, MdevAdmin, MdevAssign, ShowStatus
from pvnet.pb.v1.mdev_pb2 import MdevIrq
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab
from pvnet.transport.loopback import LoopbackNetwork
from pvnet_services.guest_mdev import GuestMdev
from pvnet_services.guest_mdevs import GuestMdevs
from pvnet_services.partition import PartitionNode

LOOSE = "ca4d0000-0000-4000-8000-00000000000a"
USED = "ca4d0000-0000-4000-8000-00000000000c"


def mdev(uuid: str, **more: Any) -> dict[str, Any]:
    return {"uuid": uuid, "parent": "mtty", "type": "mtty-1", **more}


TOPOLOGY = Topology.model_validate(
    {
        "lab": {"name": "assigned"},
        "partition": [{"name": "a"}, {"name": "b"}],
        "mdev_host": [{"name": "east", "mdev": [mdev(LOOSE), mdev(USED, partition="a")]}, {"name": "west"}],
    }
)


class Rig:
    """A lab with a client of its devices."""

    def __init__(self, lab: InProcessLab) -> None:
        self.lab = lab
        self.topology = lab.topology
        self.name = "assigned"
        self.endpoint: Endpoint
        self.mdevs = Mdevs(self)  # type: ignore[arg-type]  # what it uses of a Lab is here

    async def command(self, node: str, command: Management, *, timeout: float) -> ManagementReply:
        if node == "supervisor":
            nodes = [{"name": name, "state": "running"} for name in self.lab.nodes]
            return ManagementReply(status=ManagementReply.OK, status_json=json.dumps({"nodes": nodes}))
        endpoint = await self.lab.client()
        timeout = timeout if node in self.lab.nodes else 0.5
        return (await endpoint.call(node, Envelope(management=command), timeout)).management_reply

    def guest(self, partition: str) -> GuestMdevs:
        node = self.lab.nodes[partition]
        assert isinstance(node, PartitionNode)
        return node.mdevs

    def device(self, name: str, host: str = "east") -> Any:
        """The device, whose methods a test may replace."""
        return self.lab.mdev_host(host).registry.find(name).works

    async def owner(self, name: str) -> tuple[str, str, str | None]:
        """Host, partition that it is for, user."""
        host, shown = await self.mdevs.find(name)
        return host, shown["partition"], shown["user"]

    async def used(self, name: str, partition: str, host: str = "east") -> None:
        """Wait until a partition uses a device."""

        async def by_it() -> bool:
            states = [d["state"] for d in self.guest(partition).shown() if d["name"] == name]
            return await self.owner(name) == (host, partition, partition) and states == ["up"]

        await eventually(by_it)

    async def unused(self, name: str) -> None:
        """Wait until no partition has anything to do with it."""

        async def by_nobody() -> bool:
            known = [d["name"] for partition in ("a", "b") for d in self.guest(partition).shown()]
            return name not in known and (await self.owner(name))[2] is None

        await eventually(by_nobody)


def scenario(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def run(tmp_path: Path) -> None:
        async with InProcessLab(TOPOLOGY, Loopback(LoopbackNetwork())) as lab:
            rig = Rig(lab)
            rig.endpoint = await lab.client()
            await rig.used(USED, "a")
            await (test(rig, tmp_path) if "tmp_path" in test.__annotations__ else test(rig))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@scenario
async def test_a_device_that_no_driver_takes_is_not_assigned(rig: Rig) -> None:
    rig.guest("b")._drivers = []
    with pytest.raises(RefusedError, match="no driver"):
        await rig.mdevs.assign(LOOSE, "b")
    assert await rig.owner(LOOSE) == ("east", "", None)
    assert rig.guest("b").shown() == []
    await rig.mdevs.assign(LOOSE, "a")
    await rig.used(LOOSE, "a")


@scenario
async def test_a_refusal_does_not_take_away_what_was_assigned_before(rig: Rig) -> None:
    guest = rig.guest("a")
    guest._drivers = guest._devices[USED]._drivers = []
    await rig.lab.stop("east")
    await rig.lab.start("east")
    await rig.unused(USED)
    with pytest.raises(RefusedError, match="no driver"):
        await rig.mdevs.assign(USED, "a")
    assert await rig.owner(USED) == ("east", "a", None)
    await rig.mdevs.release(USED, "a")
    assert await rig.owner(USED) == ("east", "", None)
    with pytest.raises(RefusedError, match="does not use"):
        await rig.mdevs.release(USED, "a")


@scenario
async def test_a_device_of_somebody_else_is_not_released(rig: Rig) -> None:
    with pytest.raises(RefusedError, match="b does not use"):
        await rig.mdevs.release(USED, "b")
    assert await rig.owner(USED) == ("east", "a", "a")


@scenario
async def test_what_is_assigned_is_found_without_another_command(rig: Rig) -> None:
    await rig.mdevs.admin("east", MdevAdmin.ASSIGN, name=LOOSE, partition="b")
    await rig.used(LOOSE, "b")


@scenario
async def test_what_is_assigned_to_a_partition_that_is_not_there_waits_for_it(rig: Rig) -> None:
    await rig.lab.stop("b")
    assert await rig.mdevs.assign(LOOSE, "b") is False
    assert await rig.owner(LOOSE) == ("east", "b", None)
    await rig.lab.start("b")
    await rig.used(LOOSE, "b")
    assert await rig.mdevs.assign(LOOSE, "b") is True


@scenario
async def test_what_waits_for_a_partition_that_is_off_can_be_released(rig: Rig) -> None:
    await rig.lab.stop("b")
    await rig.mdevs.assign(LOOSE, "b")
    await rig.mdevs.release(LOOSE, "b")
    assert await rig.owner(LOOSE) == ("east", "", None)
    with pytest.raises(RefusedError, match="b does not use"):
        await rig.mdevs.release(LOOSE, "b")
    with pytest.raises(UnreachableError, match=r"b is not running .off"):
        await rig.mdevs.assign("vfio-user:/somewhere", "b")
    with pytest.raises(UnreachableError, match=r"b is not running .off"):
        await rig.mdevs.file("b", "/dev/ttyS0").open()
    with pytest.raises(ConfigError, match="nopart"):
        rig.mdevs.file("nopart", "/dev/ttyS0")


@scenario
async def test_a_server_that_nobody_runs_is_not_reachable(rig: Rig) -> None:
    with pytest.raises(UnreachableError, match="/nobody/listens"):
        await rig.mdevs.assign("vfio-user:/nobody/listens", "b")
    assert rig.guest("b").shown() == []


@scenario
async def test_a_host_that_is_silent_does_not_hide_the_others(rig: Rig) -> None:
    rig.mdevs._timeout = 0.3
    rig.lab.mdev_host("west").endpoint.on("management", lambda _: None)
    shown, failed = await rig.mdevs.look()
    assert [host["host"] for host in shown] == ["east"]
    assert ["west did not answer" in str(error) for error in failed] == [True]
    assert isinstance(failed[0], UnreachableError)
    assert (await rig.mdevs.find(LOOSE))[0] == "east"
    assert await rig.mdevs.parent_host("mtty", "east") == "east"
    for asking in (
        rig.mdevs.show(),
        rig.mdevs.find("00000000-0000-4000-8000-000000000000"),
        rig.mdevs.parent_host("mtty"),
        rig.mdevs.parent_host("mtty", "west"),
    ):
        with pytest.raises(UnreachableError, match="west did not answer"):
            await asking


@scenario
async def test_attributes_change_all_or_none(rig: Rig) -> None:
    two = "ca4d0000-0000-4000-8000-00000000000d"
    await rig.mdevs.create(two, "mtty", "mtty-2", {"port0": "none"}, host="west")

    async def ports() -> list[str]:
        attributes = (await rig.mdevs.find(two))[1]["attributes"]
        return [attributes["port0"], attributes["port1"]]

    with pytest.raises(RefusedError, match="warp:9"):
        await rig.mdevs.set(two, {"port0": "loop", "port1": "warp:9"})
    assert await ports() == ["none", "loop"]
    await rig.mdevs.set(two, {"port0": "pty"})
    with pytest.raises(RefusedError, match="EPERM"):
        await rig.mdevs.set(two, {"port0": "none", "port1": "none", "traffic0": "1"})
    now = await ports()
    assert (now[0].startswith("pty:/dev/"), now[1]) == (True, "loop")
    device = rig.device(two, "west")
    assert rig.lab.mdev_host("west").asked[two] == {"port0": "pty"}
    set_ = device.set

    def once(key: str, value: str) -> None:
        if (key, value) == ("port0", "pty"):
            raise MdevError(EBUSY, "not back")
        set_(key, value)

    device.set = once
    with pytest.raises(RefusedError, match=r"port0 changed and cannot be set back: .*warp:9"):
        await rig.mdevs.set(two, {"port0": "none", "port1": "warp:9"})
    assert rig.lab.mdev_host("west").asked[two] == {"port0": "none"}


@scenario
async def test_a_socket_is_taken_away_where_it_is(rig: Rig, tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    await rig.mdevs.attach(LOOSE, here)
    with pytest.raises(RefusedError, match=r"not served at .*there .ENOENT"):
        await rig.mdevs.detach(LOOSE, there)
    assert os.path.exists(here)  # noqa: ASYNC240, PTH110
    await rig.mdevs.detach(LOOSE, here)
    assert not os.path.exists(here)  # noqa: ASYNC240, PTH110
    with pytest.raises(RefusedError, match="ENOENT"):
        await rig.mdevs.detach(LOOSE, here)


@scenario
async def test_what_moves_is_found_where_it_comes_to(rig: Rig) -> None:
    """Also by a partition that could not use it where it was."""
    guest = rig.guest("b")
    guest._drivers, forget, forgotten = [], guest._forget, asyncio.Event()

    def heard(device: GuestMdev) -> None:
        forget(device)
        forgotten.set()

    guest._forget = heard  # type: ignore[method-assign]
    await rig.mdevs.admin("east", MdevAdmin.ASSIGN, name=LOOSE, partition="b")
    await forgotten.wait()
    await rig.unused(LOOSE)
    guest._drivers = rig.guest("a")._drivers
    await rig.mdevs.migrate(LOOSE, "west")
    await rig.used(LOOSE, "b", "west")


def refuse_later(rig: Rig) -> list[str]:
    """Have a device refuse to be removed once its user has gone; what it was asked."""
    asked: list[str] = []

    def check_remove() -> None:
        asked.append("check")
        if len(asked) > 1:
            raise MdevError(EBUSY, "not now")

    rig.device(USED).check_remove = check_remove
    return asked


@scenario
async def test_a_removal_that_fails_gives_the_device_back(rig: Rig) -> None:
    asked = refuse_later(rig)
    with pytest.raises(RefusedError, match="not now"):
        await rig.mdevs.remove(USED, wait_s=60.0)
    assert asked == ["check", "check"]
    await rig.used(USED, "a")


@scenario
async def test_a_removal_by_the_tree_that_fails_gives_the_device_back(rig: Rig) -> None:
    asked = refuse_later(rig)
    with pytest.raises(RefusedError, match="not now"):
        await rig.mdevs.tree_write(f"/parents/mtty/{USED}/remove", b"1\n", host="east")
    assert asked == ["check", "check"]
    await rig.used(USED, "a")


@scenario
async def test_who_lets_go_too_late_gets_the_device_back(rig: Rig) -> None:
    (device,) = rig.guest("a")._devices.values()
    slow, take_down = asyncio.Event(), GuestMdev._take_down

    async def later(self: GuestMdev) -> None:
        await slow.wait()
        await take_down(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuestMdev, "_take_down", later)
        with pytest.raises(RefusedError, match=r"in use .EBUSY"):
            await rig.mdevs.remove(USED, wait_s=0.05)
        slow.set()
        await device._task
    assert device.over
    await rig.used(USED, "a")


@scenario
async def test_notices_of_others_are_not_believed(rig: Rig) -> None:
    client = await rig.lab.client()
    await client.wait_peer("a", timeout=30.0)
    client.post("a", Envelope(mdev_irq=MdevIrq()))
    reply = await client.call("a", Envelope(management=Management(show_status=ShowStatus())), 30.0)
    assert reply.HasField("management_reply")
    node = rig.lab.nodes["a"]
    assert isinstance(node, PartitionNode)
    assert node.endpoint.counters["mdev_notice_of_nobody"] == 1


@scenario
async def test_an_answer_that_is_out_of_date_is_asked_for_again(rig: Rig) -> None:
    guest = rig.guest("b")
    ask, asked, go_on = guest._ask, asyncio.Event(), asyncio.Event()
    answers: list[list[str]] = []

    async def slowly(host: str) -> list[str]:
        answers.append(await ask(host))
        asked.set()
        await go_on.wait()
        return answers[-1]

    guest._ask = slowly  # type: ignore[method-assign]
    await rig.mdevs.admin("east", MdevAdmin.ASSIGN, name=LOOSE, partition="b")
    await asked.wait()
    await rig.mdevs.admin("east", MdevAdmin.ASSIGN, name=LOOSE, partition="")
    with pytest.raises(RefusedError, match="does not use"):
        await rig.mdevs._ask("b", Management(mdev_assign=MdevAssign(name=LOOSE, release=True)))
    go_on.set()

    async def settled() -> bool:
        return not guest._asking

    await eventually(settled)
    assert answers == [[LOOSE], []]
    assert guest.shown() == []


@scenario
async def test_who_opens_a_device_that_has_just_moved_away_finds_it(rig: Rig) -> None:
    """The host says where it has gone right behind its answer, before anybody could have waited for that."""
    await rig.mdevs.migrate(LOOSE, "west")
    async with asyncio.timeout(5.0):
        shown = await rig.mdevs._ask("b", Management(mdev_assign=MdevAssign(name=LOOSE, host="east")))
    assert (shown["host"], shown["state"], shown["moves"]) == ("west", "up", 1)
    assert await rig.owner(LOOSE) == ("west", "", "b")


@scenario
async def test_a_device_that_moves_while_it_is_looked_at_is_followed(rig: Rig) -> None:
    probe, looking, go_on = GuestMdev._probe, asyncio.Event(), asyncio.Event()

    async def later(self: GuestMdev) -> None:
        looking.set()
        await go_on.wait()
        await probe(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuestMdev, "_probe", later)
        assigning = asyncio.ensure_future(rig.mdevs.assign(LOOSE, "b"))
        await looking.wait()
        await rig.mdevs.migrate(LOOSE, "west")
        go_on.set()
        async with asyncio.timeout(5.0):
            await assigning
    await rig.used(LOOSE, "b", "west")


@scenario
async def test_assigning_and_moving_at_once(rig: Rig) -> None:
    """Either comes first, or is refused; nobody waits for long, and the device is where it was moved to."""
    for to in ("west", "east") * 4:
        async with asyncio.timeout(8.0):
            assigned, moved = await asyncio.gather(
                rig.mdevs.assign(LOOSE, "b"), rig.mdevs.migrate(LOOSE, to), return_exceptions=True
            )
        assert not isinstance(moved, BaseException), moved
        if assigned is not True:
            assert isinstance(assigned, RefusedError), assigned
            assert "EBUSY" in str(assigned)
            await rig.mdevs.assign(LOOSE, "b")
        await rig.used(LOOSE, "b", to)
        await rig.mdevs.release(LOOSE, "b")
        assert await rig.owner(LOOSE) == (to, "", None)


@scenario
async def test_for_whom_a_device_is_does_not_change_while_it_moves(rig: Rig) -> None:
    registry = rig.lab.mdev_host("east").registry
    registry.pin(LOOSE, "it is being moved to west")
    for partition in ("b", ""):
        with pytest.raises(RefusedError, match=r"being moved to west .EBUSY"):
            await rig.mdevs.admin("east", MdevAdmin.ASSIGN, name=LOOSE, partition=partition)
    registry.unpin(LOOSE)
    assert await rig.owner(LOOSE) == ("east", "", None)


@scenario
async def test_a_session_that_nobody_waits_for_is_closed(rig: Rig) -> None:
    sessions, host = rig.guest("b")._sessions, rig.lab.mdev_host("east")
    open_, late = host.sessions._open, list[Envelope]()
    host.endpoint.on("mdev_open", late.append)
    with pytest.raises(DeadlineError, match=r"east did not answer .waited 0.05 s"):
        await sessions.open("east", LOOSE, 0.05)
    host.endpoint.on("mdev_open", open_)
    open_(late[0])
    assert host.sessions.of(host.hosted(LOOSE)) is not None

    async def closed() -> bool:
        return host.sessions.of(host.hosted(LOOSE)) is None

    await eventually(closed)
