"""Nodes that crash, come back, or are cut off: the others say it as their protocol does, recover, and leak nothing.

Every scenario ends with the census of the beginning (``behaviour_worlds.run``).
"""

from __future__ import annotations

import asyncio
import errno
import random

import pytest
from behaviour_worlds import BAD, QUICK, WORLDS, Loopback, LoopbackWorld, behaviour, errno_of, eventually

from pvnet.client.session import VmcSession
from pvnet.core.errors import DeviceError, PeerDiedError, PvnetError, UnreachableError
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import IssueHcall, ListPartitions, Management
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab

LOOPBACKS = [world for world in WORLDS if world.id.startswith("loopback")]
LIST = Management(list_partitions=ListPartitions())


async def echoes(session: VmcSession, count: int) -> None:
    for i in range(count):
        message = b"message %d" % i
        assert await session.exchange(message) == message


async def works(lab: InProcessLab) -> None:
    """A new application and the manager both get through to the hypervisor."""

    async def answers() -> bool:
        try:
            async with await lab.session("after", client="after") as session:
                await echoes(session, 3)
            client = await lab.client("after")
            reply = (await client.call("manager", Envelope(management=LIST), 60.0)).management_reply
        except PvnetError:
            return False
        return len(reply.partitions) == 3

    await eventually(answers)
    await lab.leave("after")


def session_numbers(lab: InProcessLab) -> list[int]:
    return [slot.session for slot in lab.partition().adapter.machine.sessions.connections.slots if slot.state]


@behaviour()
async def test_files_of_an_application_that_dies_are_closed(lab: InProcessLab) -> None:
    for _ in range(5):  # more often than there are connections
        session = await (await lab.session()).open()
        await echoes(session, 2)
        reading = await (await lab.device()).open()
        await reading.set_hmc_id("reader")
        blocked = asyncio.ensure_future(reading.read())
        await eventually(lambda: open_files(lab, 3))
        await lab.crash("app")
        with pytest.raises(UnreachableError):
            await blocked
        await session.close()
        await eventually(lambda: open_files(lab, 1))
    await works(lab)


async def open_files(lab: InProcessLab, number: int) -> bool:
    return (await lab.status("mp"))["open_files"] == number


@behaviour()
async def test_every_last_word_is_heard(lab: InProcessLab) -> None:
    """A node that stops is known to have stopped: by its own word, not by a lost connection or a time-out."""
    told: dict[str, str] = {}
    hears = await lab.client("hears")
    hears.on_peer_down.append(lambda event: told.update({event.node: event.reason}))
    names = [f"short-{i}" for i in range(40)]
    for name in names:
        await lab.client(name)
        await hears.wait_peer(name, timeout=60.0)
    devices = [await (await lab.device(name)).open() for name in names]
    await asyncio.gather(*(device.query() for device in devices for _ in range(5)))
    for device in devices:
        device.drop()
    await asyncio.gather(*map(lab.leave, names))

    async def all_told() -> bool:
        return len(told) == len(names)

    await eventually(all_told)
    assert set(told.values()) == {"stopped"}
    await lab.leave("hears")


@behaviour()
async def test_application_that_leaves_without_closing(lab: InProcessLab) -> None:
    session = await (await lab.session()).open()
    await echoes(session, 1)
    await lab.leave("app")
    await session.close()
    await works(lab)


@pytest.mark.parametrize("how", ["crash", "stop"])
@behaviour()
async def test_hypervisor_ends_and_comes_back(lab: InProcessLab, how: str) -> None:
    session = await (await lab.session()).open()
    await echoes(session, 3)
    numbers = session_numbers(lab)
    await getattr(lab, how)(HYPERVISOR)
    problem = await session.ended
    assert isinstance(problem, DeviceError)
    assert problem.errno == errno.EBADFD
    assert await errno_of(session.device.write(b"into nothing")) == errno.EIO
    assert await errno_of(session.device.read()) == errno.EBADFD
    await session.close()
    await lab.start(HYPERVISOR)
    await works(lab)
    await lab.at_rest()
    assert session_numbers(lab) != numbers, "no session number twice in a row"


async def link_is(lab: InProcessLab, state: str) -> bool:
    return (await lab.status("mp"))["vmc"]["state"] == state


@behaviour()
async def test_application_waits_for_the_hypervisor_to_come_back(lab: InProcessLab) -> None:
    await lab.crash(HYPERVISOR)
    await eventually(lambda: link_is(lab, "crqinit"))
    opening = asyncio.ensure_future((await lab.session()).open())
    await eventually(lambda: open_files(lab, 1))
    await lab.start(HYPERVISOR)
    session = await opening
    await echoes(session, 3)
    await session.close()


async def gone(session: VmcSession, node: str) -> bool:
    return not session.device.endpoint.link.peer_incarnation(node)


@behaviour()
async def test_queue_is_freed_from_under_the_driver(lab: InProcessLab) -> None:
    """H_FREE_CRQ by hand: the link says ready, the next copy is refused, and the driver registers its queue again."""
    unit = int(lab.hypervisor.layouts["mp"].vmc.unit)
    for _ in range(3):
        session = await (await lab.session()).open()
        await echoes(session, 2)
        free = Management(issue_hcall=IssueHcall(opcode=HcallOpcode.H_FREE_CRQ, args=[unit], retry_busy=True))
        client = await lab.client("by-hand")
        assert (await client.call("mp", Envelope(management=free), 60.0)).management_reply.rc == 0
        await lab.leave("by-hand")
        assert await link_is(lab, "ready")
        assert await errno_of(session.device.write(b"into nothing")) == errno.EIO
        problem = await session.ended
        assert isinstance(problem, DeviceError)
        assert problem.errno == errno.EBADFD
        await session.close()
        await works(lab)


@pytest.mark.parametrize("how", ["crash", "stop"])
@behaviour()
async def test_management_partition_ends_and_comes_back(lab: InProcessLab, how: str) -> None:
    session = await (await lab.session()).open()
    await echoes(session, 3)
    await getattr(lab, how)("mp")
    problem = await session.ended
    removed = isinstance(problem, DeviceError) and problem.errno == errno.EBADFD
    assert isinstance(problem, PeerDiedError) or (how == "stop" and removed)
    await eventually(lambda: gone(session, "mp"))
    assert await errno_of(session.device.write(b"into nothing")) == errno.ENODEV
    with pytest.raises(DeviceError, match="mp has restarted"):
        await session.device.read()

    async def hypervisor_has_dropped() -> bool:
        status = await lab.status(HYPERVISOR)
        (adapter,) = status["vmc"].values()
        return status["partitions"] == ["lpar1"] and adapter["sessions"] == 0 and adapter["state"] == "down"

    await eventually(hypervisor_has_dropped)
    await lab.start("mp")
    assert await errno_of(session.device.write(b"another life")) == errno.ENODEV
    await session.close()
    await works(lab)


@pytest.mark.parametrize("how", ["crash", "stop"])
@behaviour()
async def test_manager_ends_and_comes_back(lab: InProcessLab, how: str) -> None:
    await getattr(lab, how)("manager")
    await eventually(lambda: open_files(lab, 0))
    await lab.start("manager")
    await works(lab)


@behaviour()
async def test_guest_crashes_and_comes_back(lab: InProcessLab) -> None:
    await lab.crash("lpar1")
    await lab.start("lpar1")
    await works(lab)


@behaviour()
async def test_successor_may_start_before_anybody_has_noticed_the_death(lab: InProcessLab) -> None:
    """No waiting for the grace period: a later incarnation ends the earlier at once."""
    for name in (HYPERVISOR, "mp", "manager", HYPERVISOR, "mp"):
        await lab.crash(name)
        await lab.start(name)
    await works(lab)


@behaviour()
async def test_hypervisor_dies_again_while_it_is_being_attached_to(lab: InProcessLab) -> None:
    for _ in range(4):
        await lab.crash(HYPERVISOR)
        await lab.start(HYPERVISOR)
        await asyncio.sleep(0)
    await works(lab)


@behaviour()
async def test_everything_that_can_crash_crashes_at_once(lab: InProcessLab) -> None:
    session = await (await lab.session()).open()
    for name in (HYPERVISOR, "mp", "lpar1", "manager"):
        await lab.crash(name)
    assert isinstance(await session.ended, PeerDiedError)
    await session.close()
    for name in (HYPERVISOR, "mp", "lpar1", "manager"):
        await lab.start(name)
    await works(lab)


@pytest.mark.parametrize("name", [HYPERVISOR, "mp", "manager", "app", "supervisor"])
@behaviour(worlds=LOOPBACKS)
async def test_node_that_was_cut_off_for_long_comes_back_as_itself(lab: InProcessLab, name: str) -> None:
    """The same incarnation returns after everybody had declared it dead."""
    assert isinstance(lab.network, Loopback)
    network = lab.network.loopback
    session = await (await lab.session()).open()
    await echoes(session, 3)
    network.cut(name)
    await asyncio.sleep(30.0)
    network.mend(name)
    if name in (HYPERVISOR, "mp", "app"):
        await session.ended
    await session.close()
    await works(lab)


@pytest.mark.parametrize("name", [HYPERVISOR, "mp", "app"])
@behaviour(worlds=LOOPBACKS)
async def test_node_that_was_cut_off_shortly_loses_nothing(lab: InProcessLab, name: str) -> None:
    assert isinstance(lab.network, Loopback)
    network = lab.network.loopback
    async with await lab.session() as session:
        for i in range(10):
            talking = asyncio.ensure_future(echoes(session, 20))
            await asyncio.sleep(0.002 * i)
            network.cut(name)
            await asyncio.sleep(0.5)
            network.mend(name)
            await talking
        assert session.messages.empty()


@behaviour(worlds=LOOPBACKS)
async def test_network_that_restarts_loses_nothing(lab: InProcessLab) -> None:
    assert isinstance(lab.network, Loopback)
    network = lab.network.loopback
    async with await lab.session() as session:
        for i in range(10):
            talking = asyncio.ensure_future(echoes(session, 20))
            await asyncio.sleep(0.002 * i)
            network.down()
            await asyncio.sleep(0.3 * i)
            network.up()
            await talking
        assert session.messages.empty()


@pytest.mark.parametrize("seed", range(10))
@behaviour(worlds=[LoopbackWorld(BAD, 98, QUICK)])
async def test_random_crashes_also_of_nodes_that_start(lab: InProcessLab, seed: int) -> None:
    """Every node has a keeper that starts it again at once, as a supervisor does; thirty crashes at any moment."""
    dice = random.Random(seed)
    names = [HYPERVISOR, "mp", "manager", "lpar1"]
    over = asyncio.Event()
    down = {name: asyncio.Event() for name in names}
    starts = dict.fromkeys(names, 0)

    async def keep(name: str) -> None:
        while True:
            await down[name].wait()
            if over.is_set():
                return
            down[name].clear()
            starts[name] += 1
            try:
                await lab.start(name)
            except PvnetError:
                down[name].set()

    keepers = [asyncio.ensure_future(keep(name)) for name in names]
    for _ in range(30):
        await asyncio.sleep(dice.choice([0.0, 0.001, 0.01, 0.03, 0.3, 3.0]) * dice.random())
        name = dice.choice(names)
        if name in lab.nodes:
            await lab.crash(name)
            down[name].set()
        elif name in lab._starting:
            await lab.crash(name)

    async def all_up() -> bool:
        return all(name in lab.nodes for name in names)

    await eventually(all_up)
    over.set()
    for event in down.values():
        event.set()
    await asyncio.gather(*keepers)
    assert sum(starts.values()) >= 10
    await works(lab)


@pytest.mark.parametrize("seed", range(20))
@behaviour(worlds=[LoopbackWorld(BAD, 99, QUICK)])
async def test_random_crashes_at_random_moments(lab: InProcessLab, seed: int) -> None:
    """Twenty lives of every node but the supervisor, while applications talk and sometimes die in the middle."""
    dice = random.Random(seed)
    said: list[str] = []

    async def talk(name: str) -> None:
        try:
            async with await lab.session(name, client=name) as session:
                for i in range(1000):
                    message = f"{name} {i}".encode()
                    assert await session.exchange(message) == message
        except PvnetError as error:
            said.append(str(error))

    for number in range(20):
        name = f"talker-{number}"
        talking = asyncio.ensure_future(talk(name))
        await asyncio.sleep(dice.random() * 0.3)
        victim = dice.choice([HYPERVISOR, "mp", "manager", "lpar1", name])
        if victim in lab.nodes or victim == name:
            await lab.crash(victim)
        await asyncio.sleep(dice.choice([0.0, 0.001, 0.1, 2.0]))
        if victim != name:
            await lab.start(victim)
            if dice.random() < 0.5:
                await lab.crash(name)
        await asyncio.sleep(dice.random() * 0.1)
        if not talking.done():
            talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        if not talking.cancelled():
            talking.result()
        if name in lab._clients:
            await lab.leave(name)
    assert said, "applications were told"
    await works(lab)
