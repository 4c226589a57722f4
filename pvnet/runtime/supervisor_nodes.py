"""What the supervisor knows of the nodes of a lab: what they are before they run, and what they are doing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from pvnet.core.errors import ConfigError, RefusedError
from pvnet.runtime.child import Child
from pvnet.runtime.lab_dir import NodeInfo
from pvnet.runtime.topology import BRIDGE, HYPERVISOR, Topology
from pvnet.runtime.topology_base import Restart

OffMode = Literal["normal", "guest", "immediate"]
"""How a node is ended: asked, then killed; only asked; killed."""
State = Literal["off", "starting", "running", "stopping", "failed"]
Role = Literal["broker", "hypervisor", "bridge", "mdev_host", "partition", "manager", "novalink"]


class UnknownNodeError(ConfigError):
    """The lab has no node of that name."""


class ConflictError(RefusedError):
    """The node is already in the wanted state, or on its way to another."""


class StillRunningError(RefusedError):
    """A node that was asked to end has not, and goes on."""


def one_line(error: BaseException) -> str:
    """Return an error's text for who has one line: what happened, and the last of the last words."""
    first, *more = str(error).splitlines() or [""]
    return " ".join([first, *(line.strip() for line in more[-1:])])


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What the supervisor knows about a node before it runs."""

    name: str
    role: Role
    restart: Restart
    autostart: bool = True


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a node's process: a program (or Python module) and what it reads from standard input."""

    program: tuple[str, ...]
    module: bool = True
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class SupervisorEvent:
    """Something for a person or a log: ``what`` happened to ``node``."""

    node: str
    what: str
    text: str = ""


@dataclass(slots=True)
class Node:
    """A node and its process."""

    spec: NodeSpec
    state: State = "off"
    child: Child | None = None
    prepared: Child | None = None
    """A process that has loaded what it needs and waits for its turn."""
    watcher: asyncio.Task[None] | None = None
    restarts: int = 0
    ended: deque[float] = field(default_factory=deque)
    """When it ended by itself lately: the restart policy's window."""
    since: float = field(default_factory=time.time)
    text: str = ""


def dumped(topology: Topology) -> dict[str, Any]:
    """A topology as ``lab.json`` has it: without the broker and its password."""
    return topology.model_dump(mode="json", by_alias=True, exclude={"broker"})


def node_info(node: Node) -> NodeInfo:
    """Return what ``ps`` shows of a node."""
    child = node.child if node.child is not None and node.child.running else None
    return NodeInfo(
        name=node.spec.name,
        role=node.spec.role,
        state=node.state,
        pid=child.pid if child is not None else None,
        started=child.started if child is not None else None,
        since=node.since,
        restarts=node.restarts,
        text=node.text,
    )


def node_specs(topology: Topology) -> list[NodeSpec]:
    """Return the nodes of a topology in the order in which they start."""
    specs = [NodeSpec(HYPERVISOR, "hypervisor", topology.hypervisor.restart)]
    if topology.has_bridge:
        specs.append(NodeSpec(BRIDGE, "bridge", topology.bridge.restart))
    specs += [NodeSpec(h.name, "mdev_host", h.restart) for h in topology.mdev_hosts]
    specs += [NodeSpec(p.name, "partition", p.restart, p.autostart) for p in topology.partitions]
    if topology.manager is not None:
        specs.append(NodeSpec(topology.manager.name, "manager", topology.manager.restart))
    if topology.novalink is not None:
        specs.append(NodeSpec(topology.novalink.name, "novalink", topology.novalink.restart))
    return specs
