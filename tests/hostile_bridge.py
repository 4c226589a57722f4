"""A vbus host that means harm, in a process of its own that a test tells by lines of JSON what to do.

``python -m hostile_bridge BROKER LAB bridge``: as ``hostile_guest``, but it plays the node ``bridge``.  It is the real
vbus host with a real bus and a real venet for each of ``partitions``, until it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hostile_process import die, serve

from pvnet.core.errors import PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import make_port
from pvnet.vbus import bridge_io as io
from pvnet.vbus.event_queue import QueuedEvent
from pvnet.vbus.layout import EventId
from pvnet.vbus.south_io import SouthOutput
from pvnet.vbus.venet_layout import VENET_TYPE
from pvnet.vbus.venet_south import VENET, VenetDevice
from pvnet_services.vbus_host import VbusClient, VbusHost

PATIENCE_S = 20.0
WORD = 0xFFFFFFFF


class Bridge:
    """One life of the host."""

    def __init__(self, endpoint: Endpoint, orders: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.orders = orders
        self.random = random.Random(int(orders.get("seed", 1)))
        self.seconds = float(orders.get("seconds", 1.0))
        self.names: list[str] = orders["partitions"]
        self.counts: Counter[str] = Counter()
        self.host = VbusHost(endpoint, {VENET.name: VENET})
        registry = self.host.registry
        for name in self.names:
            registry.bus_create(name)
            registry.join(name, name)
            registry.device_create("venet", f"{name}-eth0", {"client_mac": orders["macs"][name]})
            registry.attach(f"{name}-eth0", name)
        honest = VbusClient._carry_out
        calls = 0
        bridge = self

        def carry_out(self: VbusClient, output: SouthOutput) -> None:
            nonlocal calls
            if isinstance(output, io.BridgeResult):
                calls += 1
                if calls == int(orders.get("die_at", 0)):
                    die()
                if bridge.answer(self, output):
                    return
            honest(self, output)

        VbusClient._carry_out = carry_out  # type: ignore[method-assign]
        self.lies = False

    # --- the honest part ---------------------------------------------------------------------------------------------

    async def up(self) -> list[VbusClient]:
        """Wait until every partition has attached and has its venet up."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self._are_up():  # noqa: ASYNC110 - the machines have no event for it
                    await asyncio.sleep(0.002)
        except TimeoutError:
            shown = [client.shown() for client in self.host.clients.values()]
            raise TimeoutError(f"{shown} {dict(self.endpoint.counters)} {self.endpoint.paths()}") from None
        self.counts["up"] += 1
        return list(self.host.clients.values())

    def _are_up(self) -> bool:
        devices = [self.host.registry.device(f"{name}-eth0") for name in self.names]
        return all(isinstance(d, VenetDevice) and d.connection is not None and d.connection.is_up for d in devices)

    def until(self, seconds: float) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            yield

    def ring_everything(self) -> None:
        for client in self.host.clients.values():
            if client._irq is not None:
                client._irq.ring()
            for pair in list(client._signals.values()):
                pair[1].ring()
            self.counts["rings"] += 1

    def irqs(self, count: int) -> None:
        for name in self.names:
            for _ in range(count):
                envelope = Envelope()
                envelope.vbus_irq.queue = self.random.choice([0, 0, 1, 7, 8, WORD])
                self.endpoint.post(name, envelope)

    # --- attacks -----------------------------------------------------------------------------------------------------

    async def scribble(self) -> None:
        """Random bytes over every shared word of every partition, while everything rings."""
        clients = await self.up()
        stop = threading.Event()
        threads = [threading.Thread(target=self._scribbler, args=(client, stop)) for client in clients]
        for thread in threads:
            thread.start()
        try:
            for step, _ in enumerate(self.until(self.seconds)):
                self.ring_everything()
                if step % 64 == 0:
                    self.irqs(4)
                await asyncio.sleep(0.0005)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _scribbler(self, client: VbusClient, stop: threading.Event) -> None:
        rng, view = random.Random(self.random.random()), client.machine.arena.view
        regions = [(0, 1 << 16)]  # the bridge's own rings and parameters are allocated first
        base = client.machine.arena.base
        for opened in client.machine.calls.opened:
            regions += [(region.address - base, region.length) for region in opened.regions.values()]
        style = self.orders.get("style", "bytes")
        while not stop.is_set():
            start, size = rng.choice(regions)
            size = min(size, len(view) - start)
            match style:
                case "all":
                    at = rng.randrange(len(view) - 4096)
                    view[at : at + 4096] = rng.randbytes(4096)
                case "regions":
                    view[start : start + size] = rng.randbytes(size)
                case "bytes":
                    view[start + rng.randrange(size)] = rng.randrange(256)
                case "flips":
                    view[start + rng.randrange(size)] ^= 1 << rng.randrange(8)
                case _:
                    at = start + rng.randrange(max(1, size - 8)) // 4 * 4
                    view[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2, 0x7FFFFFFF, 0x80000000, WORD]))
            self.counts["scribbles"] += 1

    async def forge(self) -> None:
        """Events that are none: cookies never given out, closed twice, devices that are not there."""
        clients = await self.up()
        rng = self.random
        for _ in self.until(self.seconds):
            for client in clients:
                queues = client.machine.queues
                known = list(client._opened)
                for _ in range(32):
                    cookie = rng.choice([0, 1, WORD, rng.getrandbits(64), *known, *(c + (1 << 32) for c in known[:2])])
                    id_ = rng.choice([EventId.SHMSIGNAL, EventId.SHMSIGNAL, EventId.DEVDROP, EventId.SHMCLOSE])
                    if id_ is EventId.SHMCLOSE and rng.random() < 0.95:
                        cookie = rng.getrandbits(64)
                    queues.post(QueuedEvent(id_, cookie if id_ is not EventId.DEVDROP else rng.choice([5, WORD])))
                    self.counts["events"] += 1
                client.machine.device_added(0, VENET_TYPE)
                client.machine.device_added(rng.getrandbits(40), VENET_TYPE)
                client.feed(io.MemoryChanged())
            await asyncio.sleep(0.002)

    async def storm(self) -> None:
        """Devices come and go, thousands of them, none of which can be opened."""
        clients = await self.up()
        number = 100
        for _ in self.until(self.seconds):
            for client in clients:
                for _ in range(50):
                    number += 1
                    client.machine.device_added(number, VENET_TYPE)
                    client.machine.device_added(number + 1_000_000, "no-such-device")
                    if number > 300:
                        client.machine.queues.post(QueuedEvent(EventId.DEVDROP, number - 200))
                        client.machine.queues.post(QueuedEvent(EventId.DEVDROP, number - 200 + 1_000_000))
                    self.counts["devices"] += 2
                client.feed(io.MemoryChanged())
            await asyncio.sleep(0.005)

    async def flood(self) -> None:
        """Interrupts and signals as fast as a thread rings them, and as messages."""
        clients = await self.up()
        stop = threading.Event()

        def ring() -> None:
            bells = [pair[1] for client in clients for pair in client._signals.values()]
            bells += [client._irq for client in clients if client._irq is not None]
            while not stop.is_set():
                for bell in bells:
                    bell.ring()

        thread = threading.Thread(target=ring)
        thread.start()
        try:
            for _ in self.until(self.seconds):
                self.irqs(64)
                self.counts["irqs"] += 64
                await asyncio.sleep(0.002)
        finally:
            stop.set()
            thread.join()

    def answer(self, client: VbusClient, result: io.BridgeResult) -> bool:
        """Answer a call with something else, or not at all; True: done."""
        if not self.lies:
            return False
        rng = self.random
        envelope = client._calls.pop(result.tag)
        self.counts["lies"] += 1
        reply = Envelope()
        match rng.randrange(6):
            case 0:
                return True
            case 1:
                self.endpoint.refuse(envelope, "no")
                return True
            case 2:
                reply.hcall_reply.rc = 7
            case 3:
                reply.vbus_reply.result = rng.choice([1, 0x7FFFFFFF, -(1 << 31), -9999, -1, 12345])
            case 4:
                reply.vbus_reply.result = result.result
                at = rng.randrange(1 << 16)
                client.machine.arena.view[at : at + 64] = rng.randbytes(64)
            case _:
                reply.vbus_reply.result = result.result
        self.endpoint.reply(envelope, reply)
        return True

    async def garbage(self) -> None:
        """Answers that are none, to every call, from the first on."""
        self.lies = True
        await asyncio.sleep(self.seconds)

    async def mute(self) -> None:
        """Nothing is ever answered."""
        self.endpoint.on("vbus_attach", lambda _: None)
        self.endpoint.on("vbus_call", lambda _: None)
        await self._invite(self.seconds)

    async def refuse(self) -> None:
        """Every attach is refused, with invitations to try again all the time."""
        results = self.orders.get("results", [-1, -2, -22, -5, 7])

        def attach(envelope: Envelope) -> None:
            reply = Envelope()
            reply.vbus_reply.result = self.random.choice(results)
            self.endpoint.reply(envelope, reply)
            self.counts["attaches"] += 1

        self.endpoint.on("vbus_attach", attach)
        await self._invite(self.seconds)

    async def _invite(self, seconds: float) -> None:
        for _ in self.until(seconds):
            for name in self.names:
                for _ in range(20):
                    self.host.invite(name)
                    self.counts["invitations"] += 1
            await asyncio.sleep(0.002)

    async def copies(self) -> None:
        """No shared memory: copies, with changes that are none, and without end."""
        self.host._arena_offered = lambda *_: None  # type: ignore[method-assign]
        self.endpoint.on_share("vbus-arena", lambda _source, _label, _body, fds: _close(fds))
        async with asyncio.timeout(PATIENCE_S):
            while not self._are_up():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        self.counts["up"] += 1
        rng = self.random
        for _ in self.until(self.seconds):
            for client in list(self.host.clients.values()):
                assert not client.is_shared
                base, size = client.machine.arena.base, client.machine.arena.size
                envelope = Envelope()
                for _ in range(500):
                    address = rng.choice([base + rng.randrange(size - 8), base + rng.randrange(1 << 14)])
                    envelope.vbus_update.writes.add(address=address, data=rng.randbytes(rng.randrange(3)))
                if rng.random() < 0.1:
                    envelope.vbus_update.writes.add(
                        address=rng.choice([0, base - 1, base + size, WORD << 32]), data=b"x"
                    )
                envelope.vbus_update.more = rng.random() < 0.9
                self.endpoint.post(client.name, envelope)
                self.counts["updates"] += 1
            await asyncio.sleep(0.001)

    async def nonsense(self) -> None:
        """Messages and shares that a host never sends."""
        await self.up()
        for name in self.names:
            for label in ("vbus-arena", "vbus-signal", "memory", "memory-ok", "x"):
                self.endpoint.share(name, label, b"\xff" * 8, [])
            for kind in (
                "vbus_attach",
                "vbus_call",
                "vbus_doorbell",
                "vbus_irq",
                "vbus_update",
                "hcall",
                "crq_entry",
                "irq",
            ):
                envelope = Envelope()
                getattr(envelope, kind).SetInParent()
                self.endpoint.post(name, envelope)
                with contextlib.suppress(PvnetError):
                    await self.endpoint.call(name, envelope, 0.2)
                self.counts["messages"] += 1

    async def live(self) -> None:
        """Be there for a while, honest, until ``die_at`` or the end of ``seconds``, and die."""
        await asyncio.sleep(self.seconds)
        die()


def _close(fds: list[int]) -> None:
    import os

    for fd in fds:
        os.close(fd)


async def life(broker: str, lab: str, name: str, orders: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint(make_port(broker, lab, name), lab=lab, name=name, role="bridge")
    await endpoint.start()
    bridge = Bridge(endpoint, orders)
    for partition in bridge.names:
        endpoint.watch(partition)
    endpoint.ready("not what it seems")
    try:
        async with asyncio.timeout(PATIENCE_S + bridge.seconds):
            await getattr(bridge, orders["attack"])()
    finally:
        await endpoint.stop()
    return dict(bridge.counts)


if __name__ == "__main__":
    serve(life)
