"""What every transport must do, as scenarios that anybody can run over a transport of their own.

A transport is described by a :class:`TransportUnderTest`; a scenario is a coroutine function that gets a
:class:`ContractLab` and asserts.  With pytest::

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
    def test_contract(scenario):
        run(MyTransport(), scenario)

Scenarios wait for events, never for time to pass, so they are as fast as the transport and run under the virtual clock
of ``pvnet.testing.virtual_loop`` too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import uvloop

from pvnet.core.errors import DeadlineError, LocalError, PeerDiedError, RefusedError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.broker import broker
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.base import Port
from pvnet.transport.link import MAX_MESSAGE_BYTES, LinkConfig, PeerDown, PeerUp
from pvnet.transport.loopback import Faults, LoopbackNetwork, LoopbackPort
from pvnet.transport.mqtt import MqttPort
from pvnet.transport.uri import BrokerUrl

LAB: Final = "contract"
PATIENCE_S: Final = 60.0
"""How long a scenario may take before it counts as hung (virtual or real seconds)."""


class Network(Protocol):
    """A running network (broker) of the transport."""

    def port(self, name: NodeName) -> Port:
        """Return a new port for the node ``name``, not yet open."""

    async def kill(self, port: Port) -> None:
        """End the node behind ``port`` as ``kill -9`` does: nothing more is heard of it."""


class TransportUnderTest(Protocol):
    """One transport: which event loop it needs, and how its network is started."""

    name: str

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` to its end, like ``asyncio.run``."""

    def network(self) -> AbstractAsyncContextManager[Network]:
        """Start a network for one scenario and end it afterwards."""


class ContractLab:
    """What a scenario works with: makes nodes and ends them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._nodes: list[tuple[Endpoint, Port]] = []
        self._incarnation = 0

    async def node(
        self,
        name: str,
        before: Callable[[Endpoint], Any] = lambda _: None,
        *,
        link: LinkConfig | None = None,
        ready: bool = True,
    ) -> Endpoint:
        """Start a node, after ``before`` has set its handlers; a later one of the same name is a later incarnation."""
        self._incarnation += 1
        port = self.network.port(NodeName(name))
        endpoint = Endpoint(port, lab=LAB, name=name, role="test", incarnation=self._incarnation, link=link)
        self._nodes.append((endpoint, port))
        before(endpoint)
        await endpoint.start()
        if ready:
            endpoint.ready()
        return endpoint

    async def kill(self, endpoint: Endpoint) -> None:
        """End a node without a word."""
        for known, port in self._nodes:
            if known is endpoint:
                await self.network.kill(port)
        await endpoint.stop()

    async def close(self) -> None:
        """Stop all nodes that still run."""
        for endpoint, _ in reversed(self._nodes):
            await endpoint.stop()


Scenario = Callable[[ContractLab], Awaitable[None]]


def run(transport: TransportUnderTest, scenario: Scenario) -> None:
    """Run one scenario over a transport."""

    async def main() -> None:
        async with transport.network() as network:
            lab = ContractLab(network)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await scenario(lab)
            finally:
                await lab.close()

    transport.run(main())


# --- the transports that pvnet has -----------------------------------------------------------------------------------


class LoopbackUnderTest:
    """Loopback under the virtual clock, with faults if wanted."""

    def __init__(self, faults: Faults | None = None, seed: int = 1) -> None:
        self.name = "loopback" if faults is None else "loopback-faults"
        self._faults = faults
        self._seed = seed

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run on a virtual clock."""
        run_virtual(main)

    @asynccontextmanager
    async def network(self) -> AsyncIterator[Network]:
        """One network object."""
        yield _Loopback(LoopbackNetwork(seed=self._seed, faults=self._faults))


class _Loopback:
    def __init__(self, network: LoopbackNetwork) -> None:
        self._network = network

    def port(self, name: NodeName) -> Port:
        return self._network.port(name)

    async def kill(self, port: Port) -> None:
        assert isinstance(port, LoopbackPort)
        self._network.kill(port.name)


class MqttUnderTest:
    """MQTT over a broker process of its own: ``mosquitto`` (on uvloop) or ``embedded`` (on asyncio's loop)."""

    def __init__(self, kind: str) -> None:
        self.name = f"mqtt-{kind}"
        self._kind: Any = kind

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run on a real loop."""
        factory = uvloop.new_event_loop if self._kind == "mosquitto" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)

    @asynccontextmanager
    async def network(self) -> AsyncIterator[Network]:
        """One broker process."""
        async with broker(self._kind) as running:
            yield MqttNetwork(running.url)


class MqttNetwork:
    """A broker that runs already."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._clients = 0

    def port(self, name: NodeName) -> Port:
        """Return a port with a client id of its own."""
        self._clients += 1
        return MqttPort(self._url, lab=LAB, name=name, client_id=f"{name}-{self._clients}")

    async def kill(self, port: Port) -> None:
        """Break the connection without a DISCONNECT."""
        assert isinstance(port, MqttPort)
        await port.abort()


# --- what the scenarios use ------------------------------------------------------------------------------------------


def hcall(opcode: int) -> Envelope:
    """Return a call with a number in it."""
    envelope = Envelope()
    envelope.hcall.opcode = opcode
    return envelope


def serve(endpoint: Endpoint, log: list[int] | None = None) -> list[int]:
    """Answer every hcall with its opcode; returns ``log``, to which the calls that ran are added."""
    ran = [] if log is None else log

    def handle(call: Envelope) -> None:
        ran.append(call.hcall.opcode)
        reply = Envelope()
        reply.hcall_reply.rc = call.hcall.opcode
        endpoint.reply(call, reply)

    endpoint.on("hcall", handle)
    return ran


def downs(endpoint: Endpoint) -> list[PeerDown]:
    """Return the growing list of the deaths that ``endpoint`` is told."""
    told: list[PeerDown] = []
    endpoint.on_peer_down.append(told.append)
    return told


async def _rejects(awaitable: Awaitable[Any], error: type[Exception], text: str) -> None:
    caught: Exception | None = None
    try:
        await awaitable
    except error as problem:
        caught = problem
    assert caught is not None, f"expected {error.__name__}"
    assert text in str(caught), f"{caught!s} does not say {text!r}"


async def _told(endpoint: Endpoint, node: str) -> PeerDown:
    """Wait until ``endpoint`` is told that ``node`` is down."""
    future: asyncio.Future[PeerDown] = asyncio.get_running_loop().create_future()

    def told(event: PeerDown) -> None:
        if event.node == node and not future.done():
            future.set_result(event)

    endpoint.on_peer_down.append(told)
    try:
        return await future
    finally:
        endpoint.on_peer_down.remove(told)


# --- scenarios -------------------------------------------------------------------------------------------------------


async def calls_run_exactly_once_and_in_order(lab: ContractLab) -> None:
    """2,000 calls at once: each runs once, in order, and gets its own answer."""
    server, client = await lab.node("server"), await lab.node("client")
    ran = serve(server)
    replies = await asyncio.gather(*(client.call("server", hcall(n), PATIENCE_S) for n in range(1, 2001)))
    assert ran == list(range(1, 2001))
    assert [reply.hcall_reply.rc for reply in replies] == ran


async def two_nodes_call_each_other(lab: ContractLab) -> None:
    """Both sides number their calls from 1: nothing is mixed up."""
    one, two = await lab.node("one"), await lab.node("two")
    serve(one)
    serve(two)
    calls = [client.call(to, hcall(n), PATIENCE_S) for n in range(300) for client, to in ((one, "two"), (two, "one"))]
    replies = await asyncio.gather(*calls)
    assert [reply.hcall_reply.rc for reply in replies] == [n for n in range(300) for _ in range(2)]


async def order_holds_across_channels(lab: ContractLab) -> None:
    """An irq never overtakes the entry that it announces, nor a call either."""
    sender, receiver = await lab.node("sender"), await lab.node("receiver")
    seen: list[int] = []
    done = asyncio.Event()
    count = 400

    def take(number: int) -> None:
        seen.append(number)
        if len(seen) == count:
            done.set()

    receiver.on("hcall", lambda e: take(e.hcall.opcode))
    receiver.on("irq", lambda e: take(e.irq.unit))
    receiver.on("crq_entry", lambda e: take(e.crq_entry.unit))
    receiver.on("device_io", lambda e: take(e.device_io.handle))
    await sender.wait_peer("receiver")
    for number in range(count):
        envelope = Envelope()
        match number % 4:
            case 0:
                envelope.hcall.opcode = number
            case 1:
                envelope.crq_entry.unit = number
            case 2:
                envelope.irq.unit = number
            case _:
                envelope.device_io.handle = number
        sender.post("receiver", envelope)
    await done.wait()
    assert seen == list(range(count))


async def a_deadline_ends_the_wait_and_a_late_reply_is_counted(lab: ContractLab) -> None:
    """The caller gets DeadlineError; the reply that comes later goes to nobody."""
    server, client = await lab.node("server"), await lab.node("client")
    held: list[Envelope] = []
    server.on("hcall", held.append)
    await client.wait_peer("server")
    await _rejects(client.call("server", hcall(1), 0.5), DeadlineError, "server did not answer")
    serve(server)
    reply = Envelope()
    reply.hcall_reply.rc = 99
    while not held:
        await client.call("server", hcall(2), PATIENCE_S)  # in order: what was held has arrived then
    server.reply(held[0], reply)
    answer = await client.call("server", hcall(3), PATIENCE_S)
    assert answer.hcall_reply.rc == 3
    assert client.counters["late_reply"] == 1


async def a_call_that_has_not_left_can_be_cancelled(lab: ContractLab) -> None:
    """A cancelled call to a node that is not there yet never runs."""
    client = await lab.node("client")
    first = asyncio.ensure_future(client.call("server", hcall(1), PATIENCE_S))
    second = asyncio.ensure_future(client.call("server", hcall(2), PATIENCE_S))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    await _rejects(client.call("server", hcall(3), 0.2), DeadlineError, "server is not there")
    ran: list[int] = []
    await lab.node("server", lambda server: serve(server, ran))
    assert (await second).hcall_reply.rc == 2
    assert ran == [2]


async def a_kind_that_nobody_handles_is_refused(lab: ContractLab) -> None:
    """The caller is told in words; the node goes on."""
    server, client = await lab.node("server"), await lab.node("client")
    await _rejects(client.call("server", hcall(1), PATIENCE_S), RefusedError, "does not take hcall")
    serve(server)
    assert (await client.call("server", hcall(2), PATIENCE_S)).hcall_reply.rc == 2
    assert server.counters["unhandled"] == 1


async def a_crash_is_reported_to_who_waits(lab: ContractLab) -> None:
    """The open call fails with PeerDiedError, and the death is told once."""
    server, client = await lab.node("server"), await lab.node("client")
    told = downs(client)
    asked = asyncio.Event()
    server.on("hcall", lambda _: asked.set())
    call = asyncio.ensure_future(client.call("server", hcall(1), PATIENCE_S))
    await asked.wait()
    await lab.kill(server)
    await _rejects(call, PeerDiedError, "server has died")
    assert [(event.node, event.incarnation) for event in told] == [("server", server.incarnation)]
    await _rejects(client.call("server", hcall(2), PATIENCE_S, wait_for_peer=False), PeerDiedError, "not there")


async def an_orderly_end_is_reported_with_its_reason(lab: ContractLab) -> None:
    """The last word of a node reaches its peers at once."""
    server, client = await lab.node("server"), await lab.node("client")
    serve(server)
    await client.call("server", hcall(1), PATIENCE_S)
    told = asyncio.ensure_future(_told(client, "server"))
    await asyncio.sleep(0)
    await server.stop("maintenance")
    assert (await told).reason == "maintenance"


async def a_restart_is_a_new_incarnation(lab: ContractLab) -> None:
    """What was meant for the old incarnation never runs in the new one; new calls do."""
    first, client = await lab.node("server"), await lab.node("client")
    ups: list[PeerUp] = []
    client.on_peer_up.append(ups.append)
    asked = asyncio.Event()
    first.on("hcall", lambda _: asked.set())
    old = [asyncio.ensure_future(client.call("server", hcall(n), PATIENCE_S)) for n in range(1, 6)]
    await asked.wait()
    await lab.kill(first)
    ran: list[int] = []
    second = await lab.node("server", lambda server: serve(server, ran))
    results = await asyncio.gather(*old, return_exceptions=True)
    assert all(isinstance(result, PeerDiedError) for result in results)
    assert (await client.call("server", hcall(9), PATIENCE_S)).hcall_reply.rc == 9
    assert ran == [9]
    assert list(dict.fromkeys(up.incarnation for up in ups)) == [first.incarnation, second.incarnation]


async def a_reply_to_a_dead_caller_goes_to_nobody(lab: ContractLab) -> None:
    """The next incarnation of the caller does not get its predecessor's replies."""
    server, first = await lab.node("server"), await lab.node("client")
    held: list[Envelope] = []
    asked = asyncio.Event()

    def hold(call: Envelope) -> None:
        held.append(call)
        asked.set()

    server.on("hcall", hold)
    lost = asyncio.ensure_future(first.call("server", hcall(1), PATIENCE_S))
    await asked.wait()
    await lab.kill(first)
    await asyncio.gather(lost, return_exceptions=True)
    second = await lab.node("client")
    serve(server)
    assert (await second.call("server", hcall(2), PATIENCE_S)).hcall_reply.rc == 2
    reply = Envelope()
    reply.hcall_reply.rc = 1
    server.reply(held[0], reply)
    assert server.counters["reply_to_nobody"] == 1
    assert (await second.call("server", hcall(3), PATIENCE_S)).hcall_reply.rc == 3
    assert second.counters["late_reply"] == 0


async def what_waits_is_bounded(lab: ContractLab) -> None:
    """A full backlog refuses at once; what waited runs in order when the peer comes."""
    client = await lab.node("client", link=LinkConfig(window=2, backlog=8))
    waiting = [asyncio.ensure_future(client.call("server", hcall(n), PATIENCE_S)) for n in range(1, 9)]
    await asyncio.sleep(0)
    await _rejects(client.call("server", hcall(9), PATIENCE_S), UnreachableError, "8 are waiting")
    ran: list[int] = []
    await lab.node("server", lambda server: serve(server, ran))
    replies = await asyncio.gather(*waiting)
    assert [reply.hcall_reply.rc for reply in replies] == ran == list(range(1, 9))


async def sizes_up_to_the_limit_pass_and_larger_ones_are_our_own_error(lab: ContractLab) -> None:
    """The largest message arrives whole; one byte more is refused before it leaves."""
    server, client = await lab.node("server"), await lab.node("client")

    def echo(call: Envelope) -> None:
        reply = Envelope()
        reply.memory_reply.data = call.memory_write.data
        server.reply(call, reply)

    server.on("memory_write", echo)
    largest = bytes(range(256)) * ((MAX_MESSAGE_BYTES - 100) // 256)
    envelope = Envelope()
    envelope.memory_write.data = largest
    assert (await client.call("server", envelope, PATIENCE_S)).memory_reply.data == largest
    envelope = Envelope()
    envelope.memory_write.data = bytes(MAX_MESSAGE_BYTES)
    await _rejects(client.call("server", envelope, 1.0), LocalError, "expected at most")
    await _rejects(client.call("client", hcall(1), 1.0, wait_for_peer=True), LocalError, "itself")
    serve(server)
    assert (await client.call("server", hcall(7), PATIENCE_S)).hcall_reply.rc == 7


async def posts_to_nobody_are_counted(lab: ContractLab) -> None:
    """A post is for a peer that is there."""
    client = await lab.node("client")
    client.post("server", hcall(1))
    assert client.counters["posted_to_nobody"] == 1
    ran = serve(await lab.node("server"))
    await client.wait_peer("server")
    client.post("server", hcall(2))
    await client.call("server", hcall(3), PATIENCE_S)
    assert ran == [2, 3]


async def readiness_is_waited_for(lab: ContractLab) -> None:
    """A node that is born but not ready is not waited for in vain, and is seen when it gets ready."""
    client = await lab.node("client")
    server = await lab.node("server", ready=False)
    await _rejects(client.wait_peer("server", timeout=0.2), DeadlineError, "did not become ready")
    waiting = asyncio.ensure_future(client.wait_peer("server", timeout=PATIENCE_S))
    await asyncio.sleep(0)
    server.ready("here")
    await waiting


SCENARIOS: Final[tuple[Scenario, ...]] = (
    calls_run_exactly_once_and_in_order,
    two_nodes_call_each_other,
    order_holds_across_channels,
    a_deadline_ends_the_wait_and_a_late_reply_is_counted,
    a_call_that_has_not_left_can_be_cancelled,
    a_kind_that_nobody_handles_is_refused,
    a_crash_is_reported_to_who_waits,
    an_orderly_end_is_reported_with_its_reason,
    a_restart_is_a_new_incarnation,
    a_reply_to_a_dead_caller_goes_to_nobody,
    what_waits_is_bounded,
    sizes_up_to_the_limit_pass_and_larger_ones_are_our_own_error,
    posts_to_nobody_are_counted,
    readiness_is_waited_for,
)
"""All scenarios; a transport that passes them may be used for everything."""
