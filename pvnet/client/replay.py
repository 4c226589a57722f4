"""Brings a recording back into a living lab: as one of its nodes, as hypervisor calls, or for observers only.

* :func:`play_role`: an :class:`~pvnet.runtime.endpoint.Endpoint` under the node's name acts out
  :class:`pvnet.capture.roles.Role`.
* :func:`play_calls`: a partition of the lab makes the recorded hypervisor calls.
* :mod:`pvnet.client.replay_observe`: for dashboards, below another lab name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from pvnet.capture.hcall_replay import HcallReplay
from pvnet.capture.player import Due, Player
from pvnet.capture.role_io import (
    Answered,
    Ask,
    Begin,
    Gone,
    Heard,
    Here,
    Post,
    Refuse,
    Reply,
    RoleInput,
    RoleOutput,
    Unanswered,
)
from pvnet.capture.roles import Role
from pvnet.core.errors import PvnetError, RefusedError, UnreachableError
from pvnet.core.machine import Tick
from pvnet.pb.v1.envelope_pb2 import Envelope, Refusal
from pvnet.pb.v1.management_pb2 import IssueHcall, Management
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import BRIDGE, HYPERVISOR, Topology
from pvnet.transport.envelope import CHANNEL_OF_BODY, REPLY_BODIES
from pvnet.transport.link import PeerDown, PeerUp

Progress = Callable[[int, int], None]
"""Told how many messages have passed, of how many."""
_LINK_BODIES = frozenset({"link_ack", "link_reset"})


class RolePlayer:
    """Joins a role and an endpoint; make it before the endpoint starts, so that nothing is missed."""

    def __init__(self, endpoint: Endpoint, role: Role, progress: Progress | None = None) -> None:
        self.endpoint = endpoint
        self.role = role
        self._progress = progress
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._feeding = False
        self._queue: list[RoleInput] = []
        for kind in CHANNEL_OF_BODY.keys() - REPLY_BODIES - _LINK_BODIES:
            endpoint.on(kind, self._heard)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_down.append(self._peer_down)

    async def run(self) -> None:
        """Play to the end."""
        superseded = asyncio.ensure_future(self.endpoint.superseded.wait())
        done = asyncio.ensure_future(self._done.wait())
        try:
            self._feed(Begin())
            await asyncio.wait({superseded, done}, return_when=asyncio.FIRST_COMPLETED)
            if superseded.done():
                raise UnreachableError(f"another process took the name {self.endpoint.name} in lab {self.endpoint.lab}")
        finally:
            for task in (superseded, done):
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()

    def _heard(self, envelope: Envelope) -> None:
        self._feed(Heard(envelope))

    def _peer_up(self, event: PeerUp) -> None:
        self._feed(Here(event.node))

    def _peer_down(self, event: PeerDown) -> None:
        self._feed(Gone(event.node))

    def _answer(self, tag: int, result: Envelope | PvnetError) -> None:
        if isinstance(result, RefusedError):
            self._feed(Answered(tag, Envelope(refusal=Refusal(text=str(result)))))
        elif isinstance(result, PvnetError):
            self._feed(Unanswered(tag, str(result)))
        else:
            self._feed(Answered(tag, result))

    def _tick(self) -> None:
        self._timer = None
        self._feed(Tick())

    def _feed(self, event: RoleInput) -> None:
        """Feed the machine; what its outputs cause at once comes after them."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                for output in self.role.feed(self._queue.pop(0), loop.time()):
                    self._carry_out(output)
        finally:
            self._feeding = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.role.deadline()
        if deadline is not None:
            self._timer = loop.call_at(deadline, self._tick)
        if self._progress is not None:
            self._progress(self.role.passed, len(self.role.plan.acts))
        if self.role.is_done:
            self._done.set()

    def _carry_out(self, output: RoleOutput) -> None:
        endpoint = self.endpoint
        match output:
            case Post(destination, envelope):
                endpoint.post(destination, envelope)
            case Ask(destination, envelope, tag, timeout_s):
                endpoint.call_back(destination, envelope, timeout_s, partial(self._answer, tag), wait_for_peer=True)
            case Reply(call, envelope):
                endpoint.reply(call, envelope)
            case Refuse(call, text):
                endpoint.refuse(call, text)


async def play_role(
    endpoint: Endpoint,
    role: Role,
    *,
    wait_s: float = 10.0,
    wait_for: list[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Join as the endpoint's node, wait for the others, play to the end, leave.

    :param wait_for: who must be there before it begins; default: everybody in the plan but ``role.late``.
    :raises DeadlineError: one of them is not there within ``wait_s`` seconds.
    :raises UnreachableError: nobody of ``role.late`` came and nobody else is in the plan, or another process took our
        name.
    """
    player = RolePlayer(endpoint, role, progress)
    await endpoint.start()
    try:
        awaited = sorted(role.late)
        for peer in awaited:
            endpoint.watch(peer)
        for peer in [peer for peer in role.plan.peers if peer not in awaited] if wait_for is None else wait_for:
            await endpoint.wait_peer(peer, phase=1, timeout=wait_s)
        endpoint.ready("played from a recording")
        await player.run()
        if role.absent.issuperset(role.plan.peers):
            raise UnreachableError(f"nobody came whom {endpoint.name} speaks with; awaited: {', '.join(awaited)}")
    finally:
        await endpoint.stop("the recording is over")


def role_name(topology: Topology, node: str) -> str:
    """Return what a node of a lab says that it is; ConfigError when the topology has no such node."""
    roles = {HYPERVISOR: "hypervisor", BRIDGE: "bridge", **{host.name: "mdev_host" for host in topology.mdev_hosts}}
    if topology.manager is not None:
        roles[topology.manager.name] = "manager"
    if node not in roles:
        topology.partition(node)
    return roles.get(node, "partition")


async def play(player: Player, handle: Callable[[Due], Awaitable[None] | None]) -> None:
    """Hand every record to ``handle`` at its time; no sleep is added to another."""
    loop = asyncio.get_running_loop()
    player.begin(loop.time())
    while not player.is_done:
        for due in player.take(loop.time()):
            waiting = handle(due)
            if waiting is not None:
                await waiting
        deadline = player.deadline()
        if deadline is None:
            return
        await asyncio.sleep(max(0.0, deadline - loop.time()))


async def play_calls(endpoint: Endpoint, partition: str, replay: HcallReplay, player: Player, timeout_s: float) -> None:
    """Have a partition make the recorded calls, each after the answer to the one before."""

    async def one(due: Due) -> None:
        call = replay.next(due.record)
        while call is not None:
            if call.after_s:
                await asyncio.sleep(call.after_s)
            command = Management(issue_hcall=IssueHcall(opcode=call.opcode, args=call.args))
            reply = (await endpoint.call(partition, Envelope(management=command), timeout_s)).management_reply
            call = replay.answered(reply.rc, tuple(reply.outs))

    await play(player, one)
