"""Putting another topology in force: in the nodes that run first, then in the supervisor; all of it or nothing."""

from __future__ import annotations

from typing import Final

import structlog

from pvnet.core.errors import DeadlineError, PeerDiedError, PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, UseTopology
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.platform_edit import Refusal
from pvnet.runtime.supervisor import Supervisor
from pvnet.runtime.topology import BRIDGE, HYPERVISOR, Topology
from pvnet.runtime.topology_wire import packed

_USE_S: Final = 10.0
"""Longest wait for a node to take another topology."""


class Rollout:
    """Tells the nodes of a lab; when one refuses, the others get the old topology back."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.next: Topology | None = None
        """The one that nodes are being told of: a process that starts meanwhile gets this."""
        self.endpoint: Endpoint | None = None
        """How nodes are told; without one nothing can be changed."""
        self._supervisor = supervisor
        self._log = structlog.get_logger().bind(node="supervisor")

    async def use(self, old: Topology, new: Topology) -> None:
        """Have everybody use ``new`` instead of ``old``.

        :raises Refusal: a node does not take it, or did not answer.  Everything is as it was.
        :raises PvnetError: the bridge, needed for the first time, did not start; or the lab is shutting down.
        """
        told: list[str] = []
        self.next = new
        try:
            for node in self._concerned(old, new):
                told.append(node)
                try:
                    await self._tell(node, new)
                except Refusal as refusal:
                    if not isinstance(refusal.__cause__, DeadlineError):  # who refuses has changed nothing
                        told.remove(node)
                    raise
            if new.has_bridge and not old.has_bridge and BRIDGE not in told:
                await self._start_bridge(old, new)
            self._supervisor.use_topology(new)
        except BaseException:
            self.next = old
            for node in told:
                try:
                    await self._tell(node, old)
                except Refusal as refusal:  # it goes on with what it made of the new one, until it restarts
                    self._log.error("topology_not_taken_back", of=node, why=str(refusal))
            raise
        finally:
            self.next = None

    async def _start_bridge(self, old: Topology, new: Topology) -> None:
        """The lab's first switch: the process that has them was not needed before."""
        self._supervisor.use_topology(new)
        try:
            await self._supervisor.power_on(BRIDGE)
        except BaseException:
            self._supervisor.use_topology(old)
            raise

    def _concerned(self, old: Topology, new: Topology) -> list[str]:
        """Nodes that run and for which it makes a difference."""
        nodes: list[str] = []
        if _layout(old) != _layout(new):
            nodes += [HYPERVISOR, *(host.name for host in new.mdev_hosts)]
        if _network(old) != _network(new):
            nodes.append(BRIDGE)
        states = {node.name: node.state for node in self._supervisor.nodes()}
        return [node for node in nodes if states.get(node) in {"starting", "running"}]

    async def _tell(self, node: str, topology: Topology) -> None:
        """Have a node use a topology; one that dies meanwhile starts again with it."""
        if self.endpoint is None:
            raise Refusal(ManagementReply.NOT_SUPPORTED, "the supervisor cannot reach the nodes of this lab")
        command = Management(use_topology=UseTopology(topology=packed(topology)))
        try:
            await self.endpoint.wait_peer(node, timeout=_USE_S)
            reply = await self.endpoint.call(node, Envelope(management=command), _USE_S, wait_for_peer=False)
        except PeerDiedError as error:
            self._log.warning("topology_at_restart", of=node, why=str(error))
            return
        except DeadlineError as error:
            raise Refusal(ManagementReply.FAILED, str(error)) from error
        except PvnetError as error:
            raise Refusal(ManagementReply.FAILED, f"{node}: {error}") from None
        answer = reply.management_reply
        if answer.status != ManagementReply.OK:
            raise Refusal(answer.status, f"{node}: {answer.text}")


def _layout(topology: Topology) -> list[tuple[str, int, int]]:
    """What the hypervisor and the mdev hosts make of partitions."""
    return [(p.name, topology.lpar_id(p.name), p.memory) for p in topology.partitions]


def _network(topology: Topology) -> tuple[object, ...]:
    """What the bridge makes of a topology."""
    venets = [
        (p.name, [(topology.venet_slot(p, n), topology.venet_mac(p, n), v) for n, v in enumerate(p.venet)])
        for p in topology.partitions
    ]
    return venets, [(s.name, s.mtu) for s in topology.switches]
