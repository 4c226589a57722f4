"""The loopback transport: all nodes in one process, deterministic, with faults on demand.

A :class:`LoopbackNetwork` is the broker's stand-in: it carries frames between attached ports, keeps retained states and
publishes last wills.  Deliveries are scheduled on the running event loop; under ``pvnet.testing.virtual_loop`` time is
virtual and the same seed gives the same run, frame by frame.

Faults (:class:`Faults`) are drawn from the network's own seeded generator: loss, duplication, reordering (a frame is
held back by a random time), delay.  States are never lost: a broker retains them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.transport.base import Channel, PortHandler


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities 0..1 per frame, and times in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0
    reorder_s: float = 0.02

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "reorder"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"fault {name} is {value}: expected a probability from 0 to 1")
        if self.delay_s < 0 or self.reorder_s < 0:
            raise ConfigError("fault times: expected 0 or more seconds")


class FaultDice:
    """Decides each frame's fate: the delays (seconds) after which copies of it arrive; none means lost."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self.counters: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - reproducible faults, not secrets

    def copies(self) -> list[float]:
        """Return one delay per copy that arrives."""
        faults, roll = self.faults, self._random.random
        if faults.drop and roll() < faults.drop:
            self.counters["dropped"] += 1
            return []
        delays = [faults.delay_s]
        if faults.duplicate and roll() < faults.duplicate:
            self.counters["duplicated"] += 1
            delays.append(faults.delay_s + roll() * faults.reorder_s)
        if faults.reorder and roll() < faults.reorder:
            self.counters["reordered"] += 1
            delays[0] += roll() * faults.reorder_s
        return delays


class LoopbackNetwork:
    """Where loopback ports meet; ``down()`` and ``up()`` take it away and bring it back as a broker restart does."""

    def __init__(self, *, seed: int = 0, faults: Faults | None = None) -> None:
        self.dice = FaultDice(faults or Faults(), seed)
        self.frames = 0
        self._ports: dict[NodeName, LoopbackPort] = {}
        self._states: dict[str, bytes] = {}
        self._running = True

    @property
    def running(self) -> bool:
        """Whether frames are carried now."""
        return self._running

    def port(self, name: NodeName) -> LoopbackPort:
        """Return a new, closed port for the node ``name``."""
        return LoopbackPort(self, name)

    def down(self) -> None:
        """Lose every connection, every frame under way and every retained state."""
        self._running = False
        self._states.clear()
        for port in list(self._ports.values()):
            port.lost("the network went down")

    def up(self) -> None:
        """Accept connections again; every open port reconnects."""
        self._running = True
        for port in list(self._ports.values()):
            port.established()

    def cut(self, name: NodeName) -> None:
        """Break one node's connection: its last will is published."""
        port = self._ports[name]
        port.lost("cut off")
        self._publish_state(name, port.will)

    def mend(self, name: NodeName) -> None:
        """Let a node that was cut off connect again."""
        self._ports[name].established()

    def kill(self, name: NodeName) -> None:
        """End a node as ``kill -9`` does: it hears and says nothing more; its last will is published."""
        port = self._ports.pop(name)
        port.dead = True
        self._publish_state(name, port.will)

    # --- for the ports ---------------------------------------------------------------------------------------------

    def attach(self, port: LoopbackPort) -> None:
        """Take a port in, replacing a dead predecessor of the same name."""
        self._ports[port.name] = port

    def detach(self, port: LoopbackPort) -> None:
        """Let a port go."""
        if self._ports.get(port.name) is port:
            del self._ports[port.name]

    def carry(self, source: NodeName, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Schedule the arrival of a frame (or of its copies, or of none)."""
        if not self._running:
            return
        self.frames += 1
        loop = asyncio.get_running_loop()
        for delay in self.dice.copies():
            if delay > 0:
                loop.call_later(delay, self._arrive, source, destination, channel, payload)
            else:
                loop.call_soon(self._arrive, source, destination, channel, payload)

    def _arrive(self, source: NodeName, destination: NodeName, channel: Channel, payload: bytes) -> None:
        port = self._ports.get(destination)
        if port is not None and self._running and port.connected:
            port.handler.frame_received(source, channel, payload)

    def publish_state(self, name: NodeName, payload: bytes) -> None:
        """Retain a state and tell who watches."""
        if self._running:
            self._publish_state(name, payload)

    def _publish_state(self, name: str, payload: bytes) -> None:
        self._states[name] = payload
        loop = asyncio.get_running_loop()
        for port in self._ports.values():
            if name in port.watched:
                loop.call_soon(port.state_arrives, name, payload)

    def forget_state(self, name: str) -> None:
        """Retain nothing of a node any more."""
        self._states.pop(name, None)

    def retained(self, name: str) -> bytes | None:
        """Return the retained state of a node."""
        return self._states.get(name) if self._running else None


class LoopbackPort:
    """A node's access to a :class:`LoopbackNetwork`; implements ``transport.base.Port``."""

    direct: Final = None

    def __init__(self, network: LoopbackNetwork, name: NodeName) -> None:
        self.name = name
        self.handler: PortHandler
        self.watched: set[str] = {name}
        self.will = b""
        self.connected = False
        self.dead = False
        self._network = network
        self._connections = 0

    async def open(self, handler: PortHandler, *, timeout: float) -> None:  # noqa: ARG002 - part of the port
        """Attach to the network."""
        if not self._network.running:
            raise UnreachableError("the loopback network is down")
        self.handler = handler
        self._network.attach(self)
        self.established()

    def established(self) -> None:
        """Come (back) online: announce our state, learn the watched ones."""
        if self.connected or self.dead:
            return
        self.connected = True
        self._connections += 1
        self.will = self.handler.next_will(self._connections)
        self.handler.port_connected(self._connections)
        for node in sorted(self.watched):
            self._learn(node)

    def lost(self, reason: str) -> None:
        """Go offline."""
        if self.connected:
            self.connected = False
            self.handler.port_disconnected(reason)

    def _learn(self, node: str) -> None:
        retained = self._network.retained(node)
        if retained is not None:
            asyncio.get_running_loop().call_soon(self.state_arrives, node, retained)

    def state_arrives(self, node: str, payload: bytes) -> None:
        """Hand a state on, unless we are offline."""
        if self.connected and not self.dead:
            self.handler.state_received(node, payload)

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Send one frame, or lose it while offline."""
        if self.connected and not self.dead:
            self._network.carry(self.name, destination, channel, payload)

    def watch(self, node: NodeName) -> None:
        """Also receive the state of ``node``."""
        if node not in self.watched:
            self.watched.add(node)
            if self.connected:
                self._learn(node)

    def unwatch(self, node: NodeName) -> None:
        """Forget ``node``."""
        self.watched.discard(node)

    def set_state(self, payload: bytes) -> None:
        """Publish our retained state."""
        if self.connected and not self.dead:
            self._network.publish_state(self.name, payload)

    async def close(self, last_state: bytes | None, *, forget: bool = False) -> None:
        """Leave the network."""
        if self.connected and not self.dead and last_state is not None:
            self._network.publish_state(self.name, last_state)
            if forget:
                self._network.forget_state(self.name)
        self.connected = False
        self._network.detach(self)
