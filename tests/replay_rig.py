"""Recording a node of an in-process lab, and playing it in another one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from behaviour_worlds import LoopbackWorld, World, topology

from pvnet.capture.model import Direction, Interface, Record
from pvnet.capture.role_plan import make_plan
from pvnet.capture.roles import Role
from pvnet.client.replay import play_role
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab
from pvnet.transport.envelope import CHANNEL_OF_BODY

Scenario = Callable[[InProcessLab], Awaitable[None]]
NS = 1_000_000_000
_labs = itertools.count(1)


class Recorder:
    """Takes down what one node says and hears; what is said is complete only when the link has numbered it."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.taken: list[tuple[int, str, Envelope]] = []

    def tap(self, direction: str, envelope: Envelope) -> None:
        self.taken.append((round(asyncio.get_running_loop().time() * NS), direction, envelope))

    def records(self) -> list[Record]:
        made = []
        for number, (at, direction, envelope) in enumerate(self.taken, 1):
            channel = CHANNEL_OF_BODY[envelope.WhichOneof("body") or ""]
            way = Direction.OUT if direction == "out" else Direction.IN
            interface = Interface(f"{self.node}/{channel}")
            made.append(Record(interface, at, envelope.SerializeToString(), way, number=number))
        return made


class RecordingLab(InProcessLab):
    """Records one of its nodes from its birth."""

    def __init__(self, made: Topology, node: str, world: World) -> None:
        super().__init__(made, world.network(made.lab.name), link=world.link, timeout=60.0)
        self.recorder = Recorder(node)

    async def _endpoint(self, name: str, role: str) -> Endpoint:
        if name != self.recorder.node:
            return await super()._endpoint(name, role)
        self._incarnation += 1
        port = self._ports[name] = self.network.port(NodeName(name))
        lab = self.topology.lab.name
        endpoint = Endpoint(port, lab=lab, name=name, role=role, incarnation=self._incarnation, link=self._link)
        endpoint.taps.listeners.append(self.recorder.tap)
        await endpoint.start()
        return endpoint


def record(made: Topology, node: str, scenario: Scenario, world: World | None = None) -> list[Record]:
    """Run a scenario; return what ``node`` said and heard until its end, its farewell left out."""
    found: list[Record] = []
    where = world or LoopbackWorld()

    async def main() -> None:
        lab = RecordingLab(renamed(made), node, where)
        async with lab:
            await lab.at_rest()
            await scenario(lab)
            await lab.at_rest()
            found.extend(lab.recorder.records())

    where.run(main())
    return found


def renamed(made: Topology) -> Topology:
    """The same lab under a name that no other one has, so that a broker keeps nothing for it."""
    return made.model_copy(update={"lab": made.lab.model_copy(update={"name": f"replay{next(_labs)}"})})


def without(made: Topology, *names: str) -> Topology:
    """The same lab in which partitions are not started."""
    partitions = [p.model_copy(update={"autostart": p.autostart and p.name not in names}) for p in made.partitions]
    return made.model_copy(update={"partitions": partitions})


def play_as(lab: InProcessLab, records: list[Record], node: str, role: str, **more: Any) -> tuple[Endpoint, Role]:
    """An endpoint and a role for ``node`` in a lab that does not run it."""
    plan = make_plan(records, node, peers=more.pop("peers", None), names=more.pop("names", None))
    port, link = lab.network.port(NodeName(node)), more.pop("link", None)
    endpoint = Endpoint(port, lab=lab.topology.lab.name, name=node, role=role, incarnation=5000, link=link)
    return endpoint, Role(plan, **more)


__all__ = ["Recorder", "RecordingLab", "play_as", "play_role", "record", "renamed", "topology", "without"]
