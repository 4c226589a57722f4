"""A whole lab inside one process: the real nodes on real endpoints, over a network of your choice.

``async with InProcessLab(topology, network) as lab`` starts a supervisor's stand-in, the hypervisor, the partitions and
the manager, in the order and with the readiness of ``pvnet up``.  Nothing is replaced but the processes: a node is
crashed by taking its port away without a word (:meth:`InProcessLab.crash`, what the others see of ``kill -9``), and
started again as a later incarnation.  With the loopback network under ``pvnet.testing.virtual_loop`` every run of a
seed is the same and takes no real time.

:meth:`InProcessLab.census` counts everything that could leak (open files, sessions, buffers by owner, calls, tasks), as
the nodes themselves report it, in an order that does not depend on who got which index.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, Self

from pvnet.client.device import VmcDevice
from pvnet.client.session import VmcSession
from pvnet.core.errors import DeadlineError, PvnetError, RefusedError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, Partition, ShowStatus, UseTopology
from pvnet.runtime.clock import loop_clock
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import Node, NodeConfig, NodeFactory
from pvnet.runtime.topology import BRIDGE, HYPERVISOR, SUPERVISOR, Topology
from pvnet.runtime.topology_mdev import MDEV_HOST
from pvnet.runtime.topology_wire import packed
from pvnet.transport.base import Port
from pvnet.transport.link import LinkConfig
from pvnet.transport.loopback import LoopbackNetwork, LoopbackPort
from pvnet_services.bridge import BridgeNode
from pvnet_services.hypervisor import HypervisorNode
from pvnet_services.manager import ManagerNode
from pvnet_services.mdev_host import MdevHostNode
from pvnet_services.partition import PartitionNode

SETTLE_S: Final = 60.0
"""How long :meth:`InProcessLab.settle` waits; far more than any time-out of the protocols."""
_LOOK_AGAIN_S: Final = 0.02

Census = Callable[[], Awaitable[dict[str, dict[str, Any]]]]


class Network(Protocol):
    """A running network (broker): where ports come from, and how the node behind one is killed."""

    def port(self, name: NodeName) -> Port:
        """Return a new port for the node ``name``, not yet open."""

    async def kill(self, port: Port) -> None:
        """End the node behind ``port`` as ``kill -9`` does: it says and hears nothing more."""


class Loopback:
    """A loopback network as a :class:`Network`."""

    def __init__(self, network: LoopbackNetwork) -> None:
        self.loopback = network

    def port(self, name: NodeName) -> Port:
        """Return a new port."""
        return self.loopback.port(name)

    async def kill(self, port: Port) -> None:
        """Cut it off."""
        assert isinstance(port, LoopbackPort)
        self.loopback.kill(port.name)


class InProcessLab:
    """See the module's text.  ``timeout`` (seconds) is that of devices and sessions made here."""

    def __init__(
        self, topology: Topology, network: Network, *, link: LinkConfig | None = None, timeout: float = 30.0
    ) -> None:
        self.topology = topology
        self.network = network
        self.timeout = timeout
        self.nodes: dict[str, Node] = {}
        self.restarts: dict[str, int] = {}
        self._link = link
        self._ports: dict[str, Port] = {}
        self._clients: dict[str, Endpoint] = {}
        self._incarnation = 1000
        self._changing: set[str] = set()
        self._starting: dict[str, asyncio.Future[None]] = {}
        self.snoop: list[Callable[[str, Envelope], None]] = []
        """Get every message of every node that is made from now on."""
        self._scratch = tempfile.TemporaryDirectory(prefix="pvnet-lab-")
        """What is the lab's directory in ``pvnet up``."""
        self.supervisor: Endpoint

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            self.supervisor = await self._endpoint(SUPERVISOR, "supervisor")
            self.supervisor.on("management", self._management)
            self.supervisor.ready("in one process")
            await self.start(HYPERVISOR)
            if self.topology.has_bridge:
                await self.start(BRIDGE)
            for host in self.topology.mdev_hosts:
                await self.start(host.name)
            for partition in self.topology.partitions:
                if partition.autostart:
                    await self.start(partition.name)
            if self.topology.manager is not None:
                await self.start(self.topology.manager.name)
        except BaseException:
            await self.stop_all()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop_all()

    async def stop_all(self) -> None:
        """End everything in good order, clients first."""
        for name in list(self._clients):
            await self.leave(name)
        for name in reversed(list(self.nodes)):
            await self.stop(name)
        await self.supervisor.stop()
        self._scratch.cleanup()

    async def start(self, name: str) -> Node:
        """Start a node and wait until it serves.

        Raises:
            ConfigError: the topology has no such node.  UnreachableError: it does not become ready, or is crashed.
        """
        role, factory = self._kind(name)
        endpoint = await self._endpoint(name, role)
        node = factory(endpoint, NodeConfig(node=name, broker="", topology=self.topology, directory=self._scratch.name))
        starting = self._starting[name] = asyncio.ensure_future(node.start())
        try:
            await asyncio.wait([starting])
            if name not in self._starting:
                raise UnreachableError(f"{name} crashed while it started")
            await starting
        except BaseException:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await endpoint.stop("could not start")
            await node.stop()
            raise
        finally:
            self._starting.pop(name, None)
        self.restarts[name] = self.restarts.get(name, -1) + 1
        self.nodes[name] = node
        return node

    async def stop(self, name: str) -> None:
        """End a node in good order."""
        await self.nodes.pop(name).stop()
        self._ports.pop(name)

    async def crash(self, name: str) -> None:
        """End a node or a client without a word, as ``kill -9`` does; also one that is just starting."""
        await self.network.kill(self._ports.pop(name))
        if name in self._starting:
            self._starting.pop(name).cancel()
        elif name in self._clients:
            await self._clients.pop(name).stop()
        else:
            node = self.nodes.pop(name)
            await node.endpoint.stop()  # first, so that what is left of the node in this process waits for nobody
            await node.stop()

    async def use_topology(self, topology: Topology) -> None:
        """Have every node that runs and that it concerns use another topology, as a supervisor does.

        Raises:
            RefusedError: one cannot; the others have the old one again.
        """
        names = [
            name for name in (HYPERVISOR, BRIDGE, *(h.name for h in self.topology.mdev_hosts)) if name in self.nodes
        ]
        for number, name in enumerate(names):
            reply = await self._send_topology(name, topology)
            if reply.status != ManagementReply.OK:
                for other in names[:number]:
                    await self._send_topology(other, self.topology)
                raise RefusedError(f"{name}: {reply.text}")
        self.topology = topology

    async def _send_topology(self, name: str, topology: Topology) -> ManagementReply:
        command = Management(use_topology=UseTopology(topology=packed(topology)))
        reply = await self.supervisor.call(name, Envelope(management=command), self.timeout)
        return reply.management_reply

    def _kind(self, name: str) -> tuple[str, NodeFactory]:
        if name == HYPERVISOR:
            return "hypervisor", HypervisorNode
        if name == BRIDGE and self.topology.has_bridge:
            return "bridge", BridgeNode
        if any(host.name == name for host in self.topology.mdev_hosts):
            return "mdev_host", MdevHostNode
        if self.topology.manager is not None and name == self.topology.manager.name:
            return "manager", ManagerNode
        self.topology.partition(name)  # refuses what is none
        return "partition", PartitionNode

    async def _endpoint(self, name: str, role: str) -> Endpoint:
        self._incarnation += 1
        port = self._ports[name] = self.network.port(NodeName(name))
        lab = self.topology.lab.name
        clock = loop_clock(asyncio.get_running_loop())
        endpoint = Endpoint(
            port, lab=lab, name=name, role=role, incarnation=self._incarnation, link=self._link, clock=clock
        )
        endpoint.taps.listeners += self.snoop
        await endpoint.start()
        return endpoint

    # --- what users have ---------------------------------------------------------------------------------------------

    @property
    def hypervisor(self) -> HypervisorNode:
        """The hypervisor that runs now."""
        node = self.nodes[HYPERVISOR]
        assert isinstance(node, HypervisorNode)
        return node

    @property
    def bridge(self) -> BridgeNode:
        """The vbus host that runs now."""
        node = self.nodes[BRIDGE]
        assert isinstance(node, BridgeNode)
        return node

    def mdev_host(self, name: str = MDEV_HOST) -> MdevHostNode:
        """Return the mdev host of that name that runs now."""
        node = self.nodes[name]
        assert isinstance(node, MdevHostNode)
        return node

    def partition(self, name: str = "mp") -> PartitionNode:
        """Return the partition of that name that runs now."""
        node = self.nodes[name]
        assert isinstance(node, PartitionNode)
        return node

    async def client(self, name: str = "app") -> Endpoint:
        """Return the endpoint of a client process, made when first asked for."""
        if name not in self._clients:
            self._clients[name] = await self._endpoint(name, "client")
            self._clients[name].ready()
        return self._clients[name]

    async def leave(self, name: str = "app") -> None:
        """End a client in good order."""
        await self._clients.pop(name).stop()
        self._ports.pop(name, None)

    async def device(self, client: str = "app") -> VmcDevice:
        """Return ``/dev/ibmvmc`` for a client, to be opened."""
        assert self.topology.management_partition is not None, "a lab with a VMC"
        return VmcDevice(await self.client(client), self.topology.management_partition.name, timeout=self.timeout)

    async def session(self, hmc_id: str = "app", *, client: str = "app") -> VmcSession:
        """Return a management application's session, to be opened."""
        return VmcSession(await self.device(client), hmc_id, timeout=self.timeout)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def status(self, name: str) -> dict[str, Any]:
        """Return what a node tells of itself (``show_status``)."""
        command = Envelope(management=Management(show_status=ShowStatus()))
        reply = await self.supervisor.call(name, command, self.timeout)
        status: dict[str, Any] = json.loads(reply.management_reply.status_json)
        return status

    async def census(self) -> dict[str, dict[str, Any]]:
        """Count what could leak, per running node; equal before and after anything that has been undone."""
        return {name: count(await self.status(name)) for name in sorted(self.nodes)}

    async def at_rest(self) -> dict[str, dict[str, Any]]:
        """Wait until nothing is on its way any more; return the census."""
        return await at_rest(self.census)

    async def settle(self, expected: dict[str, dict[str, Any]]) -> None:
        """Wait until the census is ``expected``.

        Raises:
            DeadlineError: it is not, long after everything must have come to rest; the text has the differences.
        """
        await settled(self.census, expected)

    # --- the platform part of management commands ---------------------------------------------------------------------

    def _management(self, envelope: Envelope) -> None:
        if envelope.management.HasField("show_status"):
            nodes = [
                {"name": name, "state": "running" if name in self.nodes else "off"} for name in self.topology.node_names
            ]
            answer = ManagementReply(status_json=json.dumps({"nodes": nodes}))
            self.supervisor.reply(envelope, Envelope(management_reply=answer))
        elif envelope.source != HYPERVISOR:
            self.supervisor.refuse(envelope, f"only the {HYPERVISOR} may ask")
        else:
            self.supervisor.spawn(self._answer(envelope), "management")

    async def _answer(self, envelope: Envelope) -> None:
        try:
            answer = await self._run(envelope.management)
        except RefusedError as error:
            answer = ManagementReply(status=ManagementReply.CONFLICT, text=str(error))
        except PvnetError as error:
            answer = ManagementReply(status=ManagementReply.NOT_FOUND, text=str(error))
        self.supervisor.reply(envelope, Envelope(management_reply=answer))

    async def _run(self, command: Management) -> ManagementReply:
        match command.WhichOneof("command"):
            case "list_partitions":
                names = [p.name for p in self.topology.partitions][command.list_partitions.first :]
                return ManagementReply(partitions=[self._partition(name) for name in names])
            case "show_partition":
                name = command.show_partition.name
            case "power_on":
                name = command.power_on.name
                await self._change(name, running=False, change=self.start)
            case "power_off":
                name = command.power_off.name
                await self._change(name, running=True, change=self.stop)
            case kind:
                return ManagementReply(status=ManagementReply.NOT_SUPPORTED, text=f"no {kind} here")
        return ManagementReply(partitions=[self._partition(name)])

    async def _change(self, name: str, *, running: bool, change: Callable[[str], Any]) -> None:
        self.topology.partition(name)
        if (name in self.nodes) != running or name in self._changing:
            raise RefusedError(f"{name} is {'running' if name in self.nodes else 'off'}, or changing")
        self._changing.add(name)
        try:
            await change(name)
        finally:
            self._changing.discard(name)

    def _partition(self, name: str) -> Partition:
        config = self.topology.partition(name)
        return Partition(
            name=name,
            lpar_id=self.topology.lpar_id(name),
            state=Partition.RUNNING if name in self.nodes else Partition.OFF,
            management=config.management,
            memory_bytes=config.memory,
            restarts=max(0, self.restarts.get(name, 0)),
        )


_COUNTED: Final = (
    "open_files",
    "device_calls_under_way",
    "hcalls_under_way",
    "memory_chunks_under_way",
    "calls_under_way",
    "tasks",
    "connected",
    "partitions",
)
_COUNTED_OF_VMC: Final = ("state", "sessions", "files", "copies_under_way", "waiting_posts")


def count(status: dict[str, Any]) -> dict[str, Any]:
    """Return what could leak of a node's status; connections are sorted, so that it does not matter who has which."""
    counts: dict[str, Any] = {key: status[key] for key in _COUNTED if key in status}
    vmc = status.get("vmc", {})
    for name, adapter in {"": vmc}.items() if "state" in vmc else vmc.items():
        counts[f"vmc {name}".strip()] = {key: adapter[key] for key in _COUNTED_OF_VMC if key in adapter}
        counts[f"indices {name}".strip()] = sorted(map(_index, adapter["indices"]), key=str)
    net = status.get("net")
    if net is not None:
        bridge = net["bridge"] or {}
        counts["net"] = {
            "links": [interface["link"] for interface in net["interfaces"]],
            **{key: bridge.get(key) for key in ("state", "signals", "arena_used", "direct_signals")},
        }
    if "clients" in status:
        keys = ("name", "state", "signals", "direct_signals")
        counts["clients"] = sorted(({key: client[key] for key in keys} for client in status["clients"]), key=str)
    return counts


def _index(index: dict[str, Any]) -> dict[str, Any]:
    """One connection without its session number; of the hypervisor's buffers it does not matter how it got them."""
    buffers = dict(index["buffers"])
    held = buffers.pop("hypervisor_held", 0)
    if held:
        buffers["hypervisor_idle"] = buffers.get("hypervisor_idle", 0) + held
    return {**index, "session": "", "buffers": dict(sorted(buffers.items()))}


_AT_REST: Final = frozenset({"idle", "open", "free", "ready"})
_BUFFERS_AT_REST: Final = frozenset({"alpha_free", "hypervisor_idle"})


def is_at_rest(census: dict[str, dict[str, Any]]) -> bool:
    """Whether nothing is on its way in a lab: links up, connections open or free, every buffer with one owner."""
    if not census:
        return False
    for counts in census.values():
        for key, value in counts.items():
            if key.startswith("vmc") and (value["state"] != "ready" or value.get("copies_under_way")):
                return False
            if key == "net" and not (value["state"] in {None, "up"} and all(value["links"])):
                return False
            if key.startswith("indices") and not all(
                index["state"] in _AT_REST and index["buffers"] and _BUFFERS_AT_REST.issuperset(index["buffers"])
                for index in value
            ):
                return False
        if counts.get("hcalls_under_way") or not counts.get("connected", True):
            return False
        if "open_files" in counts and (counts["calls_under_way"] or counts["tasks"]):
            return False
    return True


async def at_rest(census: Census, *, timeout: float = SETTLE_S) -> dict[str, dict[str, Any]]:
    """Ask for a census until it :func:`is_at_rest`; return it.  DeadlineError after ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not is_at_rest(found := await _try(census)):
        if loop.time() > end:
            raise DeadlineError(f"no rest: {found}")
        await asyncio.sleep(_LOOK_AGAIN_S)
    return found


async def _try(census: Census) -> dict[str, dict[str, Any]]:
    """Return a census, or an empty one while some node is not there."""
    try:
        return await census()
    except UnreachableError:
        return {}


async def settled(census: Census, expected: dict[str, dict[str, Any]], *, timeout: float = SETTLE_S) -> None:
    """Ask for a census until it is ``expected``; DeadlineError (with the differences) after ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while (found := await _try(census)) != expected:
        if loop.time() > end:
            wrong = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
            text = "; ".join(f"{name}: {found.get(name)}, expected {expected.get(name)}" for name in sorted(wrong))
            raise DeadlineError(f"not as before: {text}")
        await asyncio.sleep(_LOOK_AGAIN_S)
