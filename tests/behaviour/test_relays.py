"""Commands of the platform on their way through the hypervisor: several at once, of sessions that end, too long."""

from __future__ import annotations

import asyncio

from behaviour_worlds import behaviour, eventually

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import (
    Adapter,
    Change,
    ListPartitions,
    ListSwitches,
    Management,
    ManagementReply,
    Partition,
    ShowPartition,
    ShowSystem,
    Switch,
    System,
    WatchChanges,
)
from pvnet.runtime.topology import HypervisorConfig, HypervisorVmc
from pvnet.testing.in_process import InProcessLab
from pvnet_services.payloads import RELAYS_MAX

_WATCH = Management(watch_changes=WatchChanges(after=7, wait_ms=25_000))


class _Platform:
    """In the supervisor's place: keeps watches, answers the rest with what it was told to."""

    def __init__(self, lab: InProcessLab) -> None:
        self.endpoint = lab.supervisor
        self.held: list[Envelope] = []
        self.answers: dict[str, ManagementReply] = {}
        self.seen: list[str] = []
        lab.supervisor.on("management", self._management)

    def _management(self, envelope: Envelope) -> None:
        kind = str(envelope.management.WhichOneof("command"))
        self.seen.append(kind)
        if kind == "watch_changes":
            self.held.append(envelope)
        else:
            self.answer(envelope, self.answers.get(kind, ManagementReply()))

    def answer(self, envelope: Envelope, reply: ManagementReply) -> None:
        self.endpoint.reply(envelope, Envelope(management_reply=reply))


def _relays(lab: InProcessLab) -> int:
    (adapter,) = lab.hypervisor.adapters.values()
    return adapter.payloads.relays


async def _holds(platform: _Platform, count: int) -> bool:
    return len(platform.held) == count


@behaviour()
async def test_a_watch_holds_up_nothing_else(lab: InProcessLab) -> None:
    platform = _Platform(lab)
    platform.answers["show_system"] = ManagementReply(system=System(name="sys"))
    async with await lab.session() as session:
        watch = asyncio.ensure_future(session.manage(_WATCH, timeout=60.0))
        await eventually(lambda: _holds(platform, 1))
        for _ in range(5):
            assert (await session.manage(Management(show_system=ShowSystem()))).system.name == "sys"
        assert not watch.done()
        assert _relays(lab) == 1
        platform.answer(platform.held[0], ManagementReply(revision=9, changes=[Change(revision=9, name="lpar1")]))
        answer = await watch
        assert (answer.revision, answer.changes[0].name) == (9, "lpar1")
        assert _relays(lab) == 0


@behaviour(
    partition=[{"name": "mp", "management": True, "vmc": {"pool_size": 64}}],
    hypervisor=HypervisorConfig(vmc=HypervisorVmc(pool_size=64, buffers_per_session=64)).model_dump(),
)
async def test_commands_under_way_are_bounded_and_end_with_their_session(lab: InProcessLab) -> None:
    platform = _Platform(lab)
    session = await lab.session()
    async with session:
        watches = []
        for number in range(RELAYS_MAX):
            watches.append(asyncio.ensure_future(session.manage(_WATCH, timeout=60.0)))
            await eventually(lambda number=number: _holds(platform, number + 1))
        refused = await session.manage(Management(show_system=ShowSystem()))
        assert refused.status == ManagementReply.FAILED
        assert "under way" in refused.text
        platform.answer(platform.held[0], ManagementReply(revision=8))
        assert (await watches[0]).revision == 8
        assert (await session.manage(Management(show_system=ShowSystem()))).status == ManagementReply.OK
    await asyncio.gather(*watches, return_exceptions=True)
    await eventually(lambda: _no_relays(lab))
    for envelope in platform.held[1:]:  # the session has gone: nobody gets these
        platform.answer(envelope, ManagementReply(revision=1000))
    async with await lab.session() as again:
        assert (await again.manage(Management(show_system=ShowSystem()))).status == ManagementReply.OK
        assert again.counters["late_reply"] == 0


async def _no_relays(lab: InProcessLab) -> bool:
    return _relays(lab) == 0


@behaviour()
async def test_answers_that_are_longer_than_a_message(lab: InProcessLab) -> None:
    platform = _Platform(lab)
    platform.answers["list_partitions"] = ManagementReply(
        partitions=[Partition(name=f"p{i}", label="x" * 300) for i in range(40)]
    )
    platform.answers["show_partition"] = ManagementReply(
        partitions=[Partition(name="big", adapters=[Adapter(slot=i, device="y" * 60) for i in range(100)])]
    )
    platform.answers["list_switches"] = ManagementReply(
        switches=[Switch(name=f"s{i}", label="l" * 200) for i in range(40)]
    )
    async with await lab.session() as session:
        listed = await session.manage(Management(list_partitions=ListPartitions(first=20)))
        assert listed.next == 20 + len(listed.partitions), "counted from where the caller began"
        shown = await session.manage(Management(show_partition=ShowPartition(name="big")))
        assert shown.status == ManagementReply.FAILED
        assert "does not fit" in shown.text
        switches = await session.manage(Management(list_switches=ListSwitches()))
        assert 0 < switches.next == len(switches.switches) < 40
        watch = asyncio.ensure_future(session.manage(_WATCH, timeout=60.0))
        await eventually(lambda: _holds(platform, 1))
        changes = [Change(revision=100 + i, name="lpar1", uuid="u" * 36) for i in range(200)]
        platform.answer(platform.held[0], ManagementReply(revision=500, changes=changes))
        answer = await watch
        assert [c.revision for c in answer.changes] == list(range(100, 100 + len(answer.changes)))
        assert answer.revision == answer.changes[-1].revision < 299, "the rest comes after this one"
