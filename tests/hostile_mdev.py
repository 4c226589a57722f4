"""A node that means harm to an mdev host, in a process of its own that a test tells by lines of JSON what to do.

``python -m hostile_mdev BROKER LAB NAME``: as ``hostile_guest``, but it is a partition that forges messages of others'
sessions, or (as node ``west``) a host that sends devices and never finishes.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hostile_process import serve

from pvnet.core.errors import PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.mdev_pb2 import MdevClose, MdevIrq, MdevMessage, MdevOpen, MdevReply, MdevTransfer
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import make_port

HOST, OTHER = "mdevs", "a"
LOOSE = "ca4d0000-0000-4000-8000-00000000000d"
"""A card that is for whoever opens it."""
SPARE = "ca4d0000-0000-4000-8000-00000000000c"
"""One that nobody has."""
NAMES = ("ca4d0000-0000-4000-8000-00000000000a", "x" * 5000, "", "\0", "../..", "d15c0000-0000-4000-8000-00000000000d")
CALL_S = 5.0
VERSION = struct.pack("<HHIIIHH", 1, 1, 20, 0, 0, 0, 1)


class Node:
    """One life."""

    def __init__(self, endpoint: Endpoint, orders: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.dice = random.Random(int(orders.get("seed", 1)))
        self.seconds = float(orders.get("seconds", 1.0))
        self.counts: Counter[str] = Counter(sent=0)

    def until(self) -> Iterator[int]:
        loop = asyncio.get_running_loop()
        end, step = loop.time() + self.seconds, 0
        while loop.time() < end:
            yield step
            step += 1

    def post(self, node: str, **body: Any) -> None:
        self.counts["sent"] += 1
        self.endpoint.post(node, Envelope(**body))

    async def call(self, **body: Any) -> MdevReply:
        self.counts["sent"] += 1
        try:
            return (await self.endpoint.call(HOST, Envelope(**body), CALL_S)).mdev_reply
        except PvnetError as error:
            return MdevReply(result=0xFFFF, text=str(error))

    async def open(self, name: str) -> MdevReply:
        return await self.call(mdev_open=MdevOpen(name=name))

    # --- a partition -------------------------------------------------------------------------------------------------

    async def nothing(self) -> None:
        """Be there."""
        await asyncio.sleep(self.seconds)

    async def forge(self) -> None:
        """Messages and ends of sessions that are somebody else's, or nobody's, to the host and to its users."""
        for name in NAMES:
            assert (await self.open(name)).result, name
        for _ in self.until():
            for session in (*range(6), 0xFFFFFFFF, self.dice.getrandbits(32)):
                self.post(HOST, mdev_message=MdevMessage(session=session, message=VERSION))
                self.post(HOST, mdev_close=MdevClose(session=session, moved_to="west", reason="r" * 1000))
                self.post(HOST, mdev_irq=MdevIrq(session=session, target=self.dice.randrange(3)))
                self.post(HOST, mdev_reply=MdevReply(session=session))
                self.post(OTHER, mdev_message=MdevMessage(session=session, message=VERSION))
                self.post(OTHER, mdev_close=MdevClose(session=session, moved_to="b"))
                self.post(OTHER, mdev_irq=MdevIrq(session=session, target=0))
            await asyncio.sleep(0.002)

    async def garbage(self) -> None:
        """A session of its own, and nonsense in it: opened again whenever the host has had enough."""
        for step in self.until():
            session = (await self.open(LOOSE if step else NAMES[0])).session or 1
            self.counts["opened"] += session > 1
            big = self.dice.randbytes(self.dice.choice([0, 1, 15, 16, 17, 100, 60_000]))
            sizes = [len(big), 0, 15, 0xFFFFFFFF, 1 << 20]
            head = struct.pack(
                "<HHIII", 1, self.dice.randrange(20), self.dice.choice(sizes), self.dice.randrange(64), 0
            )
            for message in (VERSION, big, head, head + big, VERSION + VERSION):
                fds = [self.dice.getrandbits(64) for _ in range(self.dice.choice([0, 1, 8, 9, 1000]))]
                self.post(HOST, mdev_message=MdevMessage(session=session, message=message, descriptors=fds))
            await asyncio.sleep(0.001)
        assert self.counts["opened"] > 3

    async def shares(self) -> None:
        """Descriptors for sessions of others, of nobody, with labels and bodies of all kinds."""
        fds = [os.memfd_create("share"), os.eventfd(0)]
        for _ in self.until():
            for body in (
                b"",
                b"\0" * 11,
                b"\0" * 13,
                *(struct.pack("<IQ", s, self.dice.randrange(4)) for s in range(4)),
            ):
                for count in (0, 1, 2):
                    self.counts["sent"] += 1
                    self.endpoint.share(HOST, "mdev-fd", body, fds[:count])
                    self.endpoint.share(OTHER, "mdev-fd", body, fds[:count])
            await asyncio.sleep(0.002)
        for fd in fds:
            os.close(fd)

    async def transfers(self) -> None:
        """What only mdev hosts may do."""
        for _ in self.until():
            for step in range(6):
                reply = await self.transfer(step, self.dice.randrange(3), partition="b")
                assert reply.result, "a partition moves no devices"

    # --- an mdev host ------------------------------------------------------------------------------------------------

    async def transfer(self, step: int, number: int, name: str = SPARE, **more: Any) -> MdevReply:
        fields = {"type": "mtty-1", "parent": "mtty", **more}
        return await self.call(mdev_transfer=MdevTransfer(step=step, transfer=number, name=name, **fields))  # type: ignore[arg-type]

    async def moves(self) -> None:
        """Steps in every order; transfers without an end, as many as there are."""
        for _ in self.until():
            await self.transfer(
                self.dice.choice([0, 2, 3, 4, 4, 9]),
                self.dice.randrange(4),
                offset=self.dice.choice([0, 1, 1 << 63]),
                data=self.dice.randbytes(self.dice.choice([0, 1, 4096])),
            )
        begun = 0
        for number in range(100, 160):
            name = f"ca4d0000-0000-4000-8000-{number:012d}"
            attributes = {"port0": self.dice.choice(["loop", "warp:1", "port:x", "none"])}
            begun += not (await self.transfer(MdevTransfer.BEGIN, number, name, attributes=attributes)).result
        self.counts["begun"] = begun
        assert 0 < begun <= 24
        assert (await self.transfer(MdevTransfer.BEGIN, 1, NAMES[0])).result, "it is there already"

    async def stream(self) -> None:
        """State without an end, or that is none."""
        for _ in self.until():
            number = self.dice.getrandbits(62)
            reply = await self.transfer(MdevTransfer.BEGIN, number)
            if reply.result:
                await asyncio.sleep(0.01)
                continue
            offset = 0
            for _ in range(self.dice.choice([1, 3, 400])):
                data = self.dice.choice([self.dice.randbytes(50_000), bytes(50_000), b"\xff" * 50_000, b"\1\0\0\0" * 9])
                answer = await self.transfer(MdevTransfer.DATA, number, offset=offset, data=data)
                if answer.result:
                    self.counts["refused"] += 1
                    break
                offset += len(data)
            answer = await self.transfer(MdevTransfer.COMMIT, number)
            assert answer.result, "that was no state of a serial card"
            await self.transfer(MdevTransfer.ABORT, number)


async def life(broker: str, lab: str, name: str, orders: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint(make_port(broker, lab, name), lab=lab, name=name, role="partition")
    await endpoint.start()
    node = Node(endpoint, orders)
    endpoint.watch(HOST)
    endpoint.watch(OTHER)
    endpoint.ready("not what it seems")
    try:
        await endpoint.wait_peer(HOST, timeout=30.0)
        await endpoint.settle_path(HOST)
        await getattr(node, orders["attack"])()
    finally:
        await endpoint.stop()
    return dict(node.counts)


if __name__ == "__main__":
    serve(life)
