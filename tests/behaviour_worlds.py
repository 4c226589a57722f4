"""Behaviour tests over every transport: ``@behaviour()`` turns a scenario (a coroutine function whose first argument is
an ``InProcessLab``) into a test for each of :data:`WORLDS`.

Brokers are started once per run, on a loop that lives as long; every scenario gets a lab name of its own on them.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop

from pvnet.client.device import SETHMCID
from pvnet.core.errors import DeviceError
from pvnet.core.names import NodeName
from pvnet.papr.platform_io import FaultPoint, SetFault
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.broker import Broker
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import Topology, default_topology
from pvnet.testing.broker import broker
from pvnet.testing.in_process import InProcessLab, Loopback, Network
from pvnet.testing.unix import UnixNetwork
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.base import Port
from pvnet.transport.link import LinkConfig
from pvnet.transport.loopback import Faults, LoopbackNetwork
from pvnet.transport.mqtt import MqttPort
from pvnet.transport.uri import BrokerUrl

PATIENCE_S = 100.0
"""Real seconds after which a scenario counts as hung; no test depends on its value."""
VIRTUAL_PATIENCE_S = 100_000.0
BAD = Faults(drop=0.05, duplicate=0.1, reorder=0.3, delay_s=0.001)
QUICK = LinkConfig(retransmit_s=0.05, retransmit_max_s=0.5)
"""Repeats lost frames well within the time-outs of the VMC, so that a loss never shows above the link."""

_numbers = itertools.count(1)


class Mqtt:
    """A broker that runs, for one lab."""

    def __init__(self, url: BrokerUrl, lab: str) -> None:
        self._url = url
        self._lab = lab

    def port(self, name: NodeName) -> Port:
        client_id = f"{self._lab}-{name}-{next(_numbers)}"
        return MqttPort(self._url, lab=self._lab, name=name, client_id=client_id)

    async def kill(self, port: Port) -> None:
        assert isinstance(port, MqttPort)
        await port.abort()


class World(Protocol):
    """Where a scenario runs."""

    is_virtual: bool
    link: LinkConfig | None

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run to the end."""

    def network(self, lab: str) -> Network:
        """A network for one scenario."""


@dataclass
class LoopbackWorld:
    faults: Faults | None = None
    seed: int = 0
    link: LinkConfig | None = None
    is_virtual: bool = True

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run_virtual(main)

    def network(self, lab: str) -> Network:
        return Loopback(LoopbackNetwork(seed=self.seed, faults=self.faults))


@dataclass
class MqttWorld:
    kind: Any
    link: LinkConfig | None = field(default_factory=lambda: LinkConfig(grace_s=0.2))
    is_virtual: bool = False
    _runner: asyncio.Runner | None = None
    _context: AbstractAsyncContextManager[Broker] | None = None
    _url: BrokerUrl | None = field(default=None, repr=False)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            self._context = broker(self.kind)
            self._url = self._runner.run(self._context.__aenter__()).url
        self._runner.run(main)

    def network(self, lab: str) -> Network:
        return Mqtt(self.url(), lab)

    def url(self) -> BrokerUrl:
        assert self._url is not None, "made inside of run"
        return self._url

    def close(self) -> None:
        if self._runner is not None and self._context is not None:
            self._runner.run(self._context.__aexit__(None, None, None))
            self._runner.close()
            self._runner = None


@dataclass
class UnixWorld(MqttWorld):
    """Unix sockets between all nodes, over a broker; that they are used is checked."""

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def network(self, lab: str) -> Network:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="pvnet-")
        return UnixNetwork(Mqtt(self.url(), lab), lab, Path(self._scratch.name) / "s")

    def close(self) -> None:
        super().close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None


MQTT = {
    "mqtt-mosquitto": MqttWorld("mosquitto"),
    "mqtt-embedded": MqttWorld("embedded"),
    "unix": UnixWorld("mosquitto"),
}
WORLDS = [
    pytest.param(LoopbackWorld(), id="loopback"),
    pytest.param(LoopbackWorld(BAD, 1, QUICK), id="loopback-faults-1"),
    pytest.param(LoopbackWorld(BAD, 2, QUICK), id="loopback-faults-2"),
    pytest.param(MQTT["mqtt-mosquitto"], id="mqtt-mosquitto", marks=pytest.mark.needs("mosquitto")),
    pytest.param(MQTT["mqtt-embedded"], id="mqtt-embedded"),
    pytest.param(MQTT["unix"], id="unix", marks=pytest.mark.needs("mosquitto")),
]


def topology(**tables: Any) -> Topology:
    """The default topology without storage, network and mdevs, with other tables and a lab name of its own."""
    made = default_topology(f"b{next(_numbers)}")
    made.partitions[:] = [partition.model_copy(update={"scm": [], "venet": []}) for partition in made.partitions]
    made.switches.clear()
    made.mdev_hosts.clear()
    return Topology.model_validate({**made.model_dump(by_alias=True), **tables})


def run(
    world: World,
    scenario: Callable[[InProcessLab], Awaitable[None]],
    made: Topology,
    link: LinkConfig | None,
    *,
    settles: bool = True,
) -> None:
    """Run one scenario, and afterwards see that everything is as it was before it."""

    async def main() -> None:
        async with asyncio.timeout(VIRTUAL_PATIENCE_S if world.is_virtual else PATIENCE_S):
            async with InProcessLab(made, world.network(made.lab.name), link=link or world.link, timeout=60.0) as lab:
                before = await lab.at_rest()
                if isinstance(world, UnixWorld):
                    await eventually(lambda: all_direct(lab))
                await scenario(lab)
                if settles:
                    await lab.settle(before)
                    if isinstance(world, UnixWorld):
                        await eventually(lambda: all_direct(lab))
        others = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert others == [], "every task of the nodes has ended"

    world.run(main())


async def all_direct(lab: InProcessLab) -> bool:
    """Whether every node that runs reaches every other one that it knows without the broker."""
    nodes = [lab.supervisor, *(node.endpoint for node in lab.nodes.values())]
    return all(set(node.paths().values()) == {"direct"} for node in nodes)


def behaviour(
    *, link: LinkConfig | None = None, worlds: list[Any] = WORLDS, settles: bool = True, **tables: Any
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make a scenario a test; ``tables`` replace those of the default topology.

    After the scenario the lab's census must be what it was before: a scenario undoes what it does.
    """

    def decorate(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @pytest.mark.parametrize("world", worlds)
        @functools.wraps(scenario)
        def test(world: World, **more: Any) -> None:
            run(world, lambda lab: scenario(lab, **more), topology(**tables), link, settles=settles)

        signature = inspect.signature(scenario)
        parameters = list(signature.parameters.values())[1:]
        first = inspect.Parameter("world", inspect.Parameter.KEYWORD_ONLY)
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        test.__signature__ = signature.replace(parameters=[first, *kept], return_annotation=None)  # type: ignore[attr-defined]
        del test.__wrapped__  # type: ignore[attr-defined]  # pytest must not take it for a coroutine function
        return test

    return decorate


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait until ``check`` holds; TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what is looked at lies in other nodes
            await asyncio.sleep(0.01)


async def errno_of(call: Awaitable[Any]) -> int:
    """The errno with which a device call fails, 0 when it does not."""
    try:
        await call
    except DeviceError as error:
        return int(error.errno or 0)
    return 0


class RawFile:
    """Device calls as they travel, for what ``VmcDevice`` does not let one ask."""

    def __init__(self, endpoint: Endpoint, partition: str = "mp") -> None:
        self.endpoint = endpoint
        self.partition = partition
        self.handle = 0

    async def call(self, operation: DeviceIo.Operation, **fields: Any) -> DeviceReply:
        io = DeviceIo(operation=operation, handle=fields.pop("handle", self.handle), **fields)
        return (await self.endpoint.call(self.partition, Envelope(device_io=io), 60.0)).device_reply

    async def open(self, path: str = "/dev/ibmvmc") -> int:
        self.handle = (await self.call(DeviceIo.OPEN, path=path)).result
        return self.handle

    async def set_hmc_id(self, data: bytes = bytes(32)) -> int:
        return (await self.call(DeviceIo.IOCTL, command=SETHMCID, data=data)).result

    async def ioctl(self, command: int, data: bytes = b"") -> DeviceReply:
        return await self.call(DeviceIo.IOCTL, command=command, data=data)

    async def read(self, count: int = 4096) -> int:
        return (await self.call(DeviceIo.READ, count=count, nonblock=True)).result

    async def write(self, data: bytes = b"x") -> int:
        return (await self.call(DeviceIo.WRITE, data=data)).result

    async def poll(self) -> int:
        return (await self.call(DeviceIo.POLL, nonblock=True)).result

    async def close(self) -> int:
        return (await self.call(DeviceIo.CLOSE)).result


def set_fault(lab: InProcessLab, point: FaultPoint, rc: int = 0, count: int = 1, *, partition: str = "mp") -> None:
    """Have the hypervisor misbehave towards a partition (its VMC adapter, where the point is one of an adapter's)."""
    vmc = lab.hypervisor.layouts[partition].vmc
    on_adapter = point not in {FaultPoint.COPY, FaultPoint.REQUEST_VMC}
    unit = int(vmc.unit) if vmc is not None and on_adapter else 0
    lab.hypervisor.feed(SetFault(partition, unit, point, rc, count))
