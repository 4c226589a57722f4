"""A node is recorded, its lab is started again without it, and the recording takes its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from behaviour_worlds import WORLDS, LoopbackWorld, MqttWorld, UnixWorld, World, set_fault
from replay_rig import play_as, record, renamed, topology, without

from pvnet.capture.hcall_replay import HcallReplay
from pvnet.capture.importers.opening import open_any
from pvnet.capture.model import Record
from pvnet.capture.player import Due, Pace, Player
from pvnet.capture.roles import Role
from pvnet.client.replay import play, play_calls, play_role, role_name
from pvnet.client.replay_observe import Publisher, observed_lab
from pvnet.core.errors import ConfigError, DeadlineError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import FaultPoint
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import BRIDGE, HYPERVISOR, Topology
from pvnet.testing.in_process import InProcessLab
from pvnet.testing.virtual_loop import run_virtual

VECTORS = Path(__file__).parents[1] / "vectors"
CALLS = {"probe": 272, "flush": 16, "labels-init": 384}
"""Calls of each recording; of flushes without the polls, which are as many as it happens to take."""
THREE = [world for world in WORLDS if world.id in ("loopback", "mqtt-mosquitto", "unix")]
BY_MESSAGES = [world for world in THREE if world.id != "unix"]
"""With shared memory or descriptors the messages of vbus and mediated devices are others than were recorded."""
PLAIN: dict[str, Any] = {"manager": None, "mdev_host": []}
CARDS = [
    {"uuid": f"c0ffee00-0000-4000-8000-00000000000{name}", "parent": "mtty", "type": "mtty-1", "partition": name}
    for name in "ab"
]
NET = [{"name": name, "venet": [{"address": f"10.77.0.{n}/24"}]} for n, name in enumerate("ab", 1)]


async def session(lab: InProcessLab, *, word: bytes = b"hello") -> None:
    async with await lab.session() as opened:
        await opened.router_open()
        for number in range(4):
            assert await opened.echo(b"%s %d" % (word, number)) == b"hello %d" % number  # a recording says what it says
        assert await opened.exchange(b"x" * 3000) == b"x" * 3000
        await opened.router_close()
    await lab.leave()


async def nothing(lab: InProcessLab) -> None:
    await asyncio.sleep(0.1)


class Lab(InProcessLab):
    """A lab in which one node is played: ``absent`` is not started with it."""

    def __init__(self, made: Topology, absent: str, world: World | None = None) -> None:
        world = world or LoopbackWorld()
        made = without(renamed(made), absent)
        super().__init__(made, world.network(made.lab.name), link=world.link, timeout=60.0)
        self.absent = absent

    async def start(self, name: str) -> Any:
        return None if name == self.absent else await super().start(name)


def played(
    made: Topology,
    records: list[Record],
    node: str,
    kind: str,
    peers: set[str],
    *,
    before: Callable[[InProcessLab], None] | None = None,
    meanwhile: Callable[[InProcessLab], Awaitable[None]] | None = None,
    late: tuple[str, ...] = (),
    world: World | None = None,
    **more: Any,
) -> Role:
    """Play ``node``; ``late`` nodes are started after it has joined, then ``meanwhile`` runs."""
    found: list[Role] = []
    where = world or LoopbackWorld()

    async def main() -> None:
        async with Lab(without(made, *late), node, where) as lab:
            endpoint, role = play_as(lab, records, node, kind, peers=peers, late=late, link=where.link, **more)
            if before is not None:
                before(lab)
            ways: list[str] = []
            endpoint.on_path.append(lambda peer, is_direct: ways.append(peer) if is_direct else None)
            playing = asyncio.ensure_future(play_role(endpoint, role))
            try:
                if late:
                    await lab.supervisor.wait_peer(node)
                for name in late:
                    await lab.start(name)
                if meanwhile is not None:
                    await meanwhile(lab)
                await playing
            finally:
                playing.cancel()
            found.append(role)
            if isinstance(where, UnixWorld):
                assert peers <= set(ways), "the play went over unix sockets"

    where.run(main())
    return found[0]


@pytest.fixture(scope="module")
def mp() -> tuple[Topology, list[Record]]:
    made = topology(**PLAIN)
    return made, record(made, "mp", session)


@pytest.fixture(scope="module", params=THREE)
def anywhere(request: pytest.FixtureRequest) -> tuple[World, Topology, list[Record]]:
    """A world, and the management partition as it was recorded there."""
    made = topology(**PLAIN)
    return request.param, made, record(made, "mp", session, request.param)


def test_the_management_partition_is_played_and_nothing_differs(
    anywhere: tuple[World, Topology, list[Record]],
) -> None:
    world, *mp = anywhere
    role = played(*mp, "mp", "partition", {HYPERVISOR}, world=world)
    assert role.expectation.differences == []
    assert role.expectation.matched > 60
    assert role.is_done


def test_one_answer_of_the_hypervisor_that_is_changed_is_the_one_that_is_named(
    anywhere: tuple[World, Topology, list[Record]],
) -> None:
    world, made, records = anywhere

    def fault(lab: InProcessLab) -> None:
        set_fault(lab, FaultPoint.COPY, int(HcallRc.H_RESOURCE))

    role = played(made, records, "mp", "partition", {HYPERVISOR}, before=fault, world=world)
    [difference] = role.expectation.differences
    recorded = records[difference.number - 1].envelope()
    assert recorded is not None
    asked = next(
        envelope
        for each in records
        if (envelope := each.envelope()) is not None
        and envelope.WhichOneof("body") == "hcall"
        and envelope.correlation == recorded.correlation
    )
    assert asked.hcall.opcode == 0x110
    assert difference.what == "hcall_reply to H_COPY_RDMA from hypervisor"
    assert (difference.field, difference.recorded, difference.living) == (
        "hcall_reply.rc",
        "H_SUCCESS (0)",
        "H_RESOURCE (-16)",
    )


def test_at_the_speed_of_the_recording(mp: tuple[Topology, list[Record]]) -> None:
    role = played(*mp, "mp", "partition", {HYPERVISOR}, speed=1.0)
    assert role.expectation.total == 0


@pytest.mark.parametrize("world", THREE)
def test_the_hypervisor_is_played_for_a_living_partition(world: World) -> None:
    made = topology(**PLAIN)
    records = record(made, HYPERVISOR, session)  # by messages: what moves in mapped memory is in none
    late = ("mp", "lpar1")
    role = played(made, records, HYPERVISOR, "hypervisor", set(late), meanwhile=session, late=late, world=world)
    assert role.expectation.differences == []

    async def other(lab: InProcessLab) -> None:
        await session(lab, word=b"HELLO")

    role = played(made, records, HYPERVISOR, "hypervisor", set(late), meanwhile=other, late=late, world=world)
    assert {d.field for d in role.expectation.differences} == {"hcall.memory.data"}
    assert len(role.expectation.differences) == 4


@pytest.mark.parametrize("world", BY_MESSAGES)
def test_a_guest_of_the_vbus_and_its_host_are_played(world: World) -> None:
    made = topology(**PLAIN, partition=NET, switch=[{"name": "net0"}])
    records = record(made, "b", nothing)
    role = played(made, records, "b", "partition", {BRIDGE}, world=world)
    assert role.expectation.differences == []
    assert role.counters["said"] > 5
    records = record(made, BRIDGE, nothing)
    role = played(made, records, BRIDGE, "bridge", {"a", "b"}, late=("a", "b"), meanwhile=nothing, world=world)
    assert role.expectation.differences == []
    assert role.expectation.matched > 10


@pytest.mark.parametrize("world", BY_MESSAGES)
def test_a_user_of_mediated_devices_and_their_host_are_played(world: World) -> None:
    made = topology(
        manager=None, partition=[{"name": "a"}, {"name": "b"}], mdev_host=[{"name": "mdevs", "mdev": CARDS}]
    )
    records = record(made, "b", nothing)
    role = played(made, records, "b", "partition", {"mdevs"}, world=world)
    assert role.expectation.differences == []
    assert role.expectation.matched > 10
    first = role.expectation.same.known()
    records = record(made, "mdevs", nothing)
    late = ("a", "b")
    role = played(made, records, "mdevs", "mdev_host", set(late), late=late, meanwhile=nothing, world=world)
    assert role.expectation.differences == []
    assert first in ({}, {"mdev session mdevs": {2: 1}})


def test_who_is_not_there_is_told(mp: tuple[Topology, list[Record]]) -> None:
    async def main() -> None:
        async with Lab(without(mp[0], "mp", "lpar1", "lpar2"), HYPERVISOR) as lab:
            endpoint, role = play_as(lab, mp[1], "mp", "partition", peers={HYPERVISOR})
            with pytest.raises(DeadlineError, match="hypervisor"):
                await play_role(endpoint, role, wait_s=1.0)

    run_virtual(main())


def test_when_nobody_comes_it_is_told_who_was_awaited() -> None:
    made = topology(**PLAIN)
    records = record(made, HYPERVISOR, session)

    async def main() -> None:
        async with Lab(without(made, "mp", "lpar1"), HYPERVISOR) as lab:
            late = ("mp", "lpar1")
            endpoint, role = play_as(lab, records, HYPERVISOR, "hypervisor", peers=set(late), late=late, wait_s=2.0)
            with pytest.raises(UnreachableError, match=r"nobody came .* awaited: lpar1, mp"):
                await play_role(endpoint, role)
            assert role.left_out.total() > 60

    run_virtual(main())


def test_a_role_ends_when_another_process_takes_its_name(mp: tuple[Topology, list[Record]]) -> None:
    async def main() -> None:
        async with Lab(mp[0], "mp") as lab:
            endpoint, role = play_as(lab, mp[1], "mp", "partition", peers={HYPERVISOR}, speed=1e-6)
            playing = asyncio.ensure_future(play_role(endpoint, role))
            await asyncio.sleep(1)
            endpoint.superseded.set()
            with pytest.raises(UnreachableError, match="took the name mp"):
                await playing

    run_virtual(main())


def test_what_a_node_says_that_it_is() -> None:
    made = topology(mdev_host=[{"name": "mdevs"}])
    assert [role_name(made, name) for name in ("mp", HYPERVISOR, BRIDGE, "mdevs", "manager")] == [
        "partition",
        "hypervisor",
        "bridge",
        "mdev_host",
        "manager",
    ]
    with pytest.raises(ConfigError):
        role_name(made, "nobody")


@pytest.mark.parametrize("world", THREE)
@pytest.mark.parametrize("name", ["probe", "flush", "labels-init"])
def test_recorded_scm_calls_are_made_again_in_a_lab(name: str, world: World) -> None:
    path = VECTORS / f"linux-6.1-scm-{name}.jsonl"
    devices = json.loads(path.read_text().splitlines()[0])["meta"]["devices"]
    scm = [
        {
            "type": device["type"],
            "size": int(device["block_size"], 16) * device["blocks"],
            "block_size": int(device["block_size"], 16),
            "label_size": int(device["metadata_size"], 16),
            "drc": int(device["drc"], 16),
            "unarmed": number == 2,  # as it says in the recording
        }
        for number, device in enumerate(devices)
    ]

    async def main() -> None:
        made = topology(**PLAIN, partition=[{"name": "g", "scm": scm}])
        async with InProcessLab(made, world.network(made.lab.name), link=world.link, timeout=60.0) as lab:
            replay = HcallReplay()
            player = Player(lambda: open_any(path), Pace(None))
            client = await lab.client()
            assert await client.settle_path("g") == isinstance(world, UnixWorld)
            assert await lab.nodes["g"].endpoint.settle_path(HYPERVISOR) == isinstance(world, UnixWorld)
            await play_calls(client, "g", replay, player, 30.0)
            assert replay.expectation.differences == []
            assert replay.made >= CALLS[name]
            await lab.leave()

    world.run(main())


def test_observers_see_a_lab_of_another_name(mp: tuple[Topology, list[Record]]) -> None:
    world = MqttWorld("embedded")
    seen: list[tuple[str, str]] = []

    async def main() -> None:
        lab = observed_lab("x" * 32)
        assert lab == "x" * 25 + "-replay"
        publisher = Publisher(world.url().text(), lab, {HYPERVISOR, "mp"})
        watcher = Endpoint(world.network(lab).port(NodeName("watcher")), lab=lab, name="watcher", role="client")
        await watcher.start()
        watcher.on_peer_up.append(lambda event: seen.append((event.node, "up")))
        watcher.on_peer_down.append(lambda event: seen.append((event.node, "down")))
        await publisher.start()
        await watcher.wait_peer("mp")
        player = Player(lambda: mp[1], Pace(None))
        await play(player, publisher.publish)
        publisher.publish(Due(Record(mp[1][0].interface, None, b"\xff"), 0.0, 1))
        await publisher.stop()
        while ("mp", "down") not in seen:  # noqa: ASYNC110 - what is looked at lies behind a broker
            await asyncio.sleep(0.01)
        await watcher.stop()
        said = [envelope.source for each in mp[1] if (envelope := each.envelope()) is not None]
        assert publisher.counters["published"] == sum(source in (HYPERVISOR, "mp") for source in said)
        assert publisher.counters["no message between nodes"] == sum(
            source not in (HYPERVISOR, "mp") for source in said
        )
        assert publisher.counters["no message"] == 1

    try:
        world.run(main())
    finally:
        world.close()
