"""Both ends of vfio-user, and the framing of its socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz.engine import Mutator
from fuzz.seeds import VFIO_WORDS, Seeds
from fuzz.target import Target
from user_fakes import Descriptors, Event, FakeCarrier
from user_rig import Server

from pvnet.core.errors import WireError
from pvnet.mdev.vfio_user import HEADER, HEADER_SIZE, NO_REPLY, TYPE_REPLY, frame_size
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.vfio.framing import CLIENT_TAKERS, SERVER_TAKERS, MessageSocket

FAR = 1 << 30
"""Later than everything that may wait."""


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Sessions(Target):
    """A vfio-user server with a device: whatever a client says, each command is answered once, nothing stays open."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.vfio, VFIO_WORDS)

    def make(self, random: Random) -> bytes:
        return self._mutator.make(random)

    def run(self, data: bytes) -> None:
        server = Server(negotiate=False)
        session, carrier, make = server.session, server.carrier, server.descriptors.make
        asked = answered = at = 0
        while at + HEADER_SIZE <= len(data) and carrier.closed is None and asked < 300:
            head = data[at : at + HEADER_SIZE]
            try:
                size = frame_size(head)
            except WireError:
                size = HEADER_SIZE
            piece = memoryview(data)[at : at + size]
            if len(piece) < size:
                break
            at += size
            ident, _, _, flags, _ = HEADER.unpack(head)
            things = [make(Event() if ident & 1 else bytearray(8192)) for _ in range(ident.bit_count() % 3 if ident & 3 else 0)]  # fmt: skip  # noqa: E501
            asked += flags & 0xF != TYPE_REPLY and not flags & NO_REPLY
            session.message(piece, things)
            answered += sum(HEADER.unpack_from(reply)[3] & 0xF == 1 for reply in server.sent())
        self.refused += carrier.closed is not None
        assert answered <= asked + (carrier.closed is not None)  # a size that cannot be, in a reply
        server.timers.advance(FAR)
        session.expire(FAR)
        session.lost()
        session.lost()
        server.sent()
        assert server.open_descriptors == 0
        assert server.vfio.user is None


class Clients(Target):
    """A vfio-user client: whatever its server says, each request ends once."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.replies, VFIO_WORDS)
        self._seeds = seeds

    def make(self, random: Random) -> bytes:
        return b"".join(self._mutator.make(random) for _ in range(random.randrange(1, 12)))

    def run(self, data: bytes) -> None:
        descriptors = Descriptors()
        carrier = FakeCarrier(descriptors)
        client = ClientMachine(carrier)
        heard: dict[str, int] = {}

        def ask(request: Callable[..., object], *arguments: object) -> None:
            name = f"{request.__name__}{len(heard)}"
            heard[name] = 0

            def done(result: object) -> None:
                heard[name] += 1

            request(*arguments, done)

        server = Server()  # a good one: what it answers is damaged by the input
        ask(client.start)
        at = 0
        requests: list[tuple[Callable[..., object], tuple[object, ...]]] = [
            (client.device_info, ()), (client.region_info, (2,)), (client.irq_info, (1,)),
            (client.region_read, (1, 0, 16)), (client.region_write, (1, 0, b"abc")), (client.reset, ()),
            (client.feature, (0x10001, b"", 64)), (client.migration_read, (64,)), (client.migration_write, (b"abc",)),
            (client.dma_unmap, (0, 4096)), (client.region_read, (0, 0, 3 << 20)),
        ]  # fmt: skip
        for number in range(64):
            if carrier.closed is not None:
                break
            while carrier.out:
                message, came = carrier.out.popleft()
                ident, command, _, _, _ = HEADER.unpack_from(message)
                for descriptor in came:
                    descriptors.close(descriptor)
                if data[(at + number) % len(data)] < 160 if data else True:
                    for reply in server.send(message):
                        if carrier.closed is None:
                            client.message(memoryview(reply), [])
                    continue
                piece = bytearray(data[at : at + HEADER_SIZE + data[at % len(data)]])
                at += len(piece)
                if len(piece) >= HEADER_SIZE:
                    flags = int.from_bytes(piece[8:12], "little") & 0x20 | 1
                    piece[:12] = HEADER.pack(ident, command, len(piece), flags, 0)[:12]
                    client.message(memoryview(bytes(piece)), [descriptors.make(Event())] if number % 5 == 0 else [])
            if number < len(requests):
                request, arguments = requests[number]
                ask(request, *arguments)
            elif at + HEADER_SIZE <= len(data) and carrier.closed is None:
                size = int.from_bytes(data[at + 4 : at + 8], "little")
                piece = bytearray(data[at : at + min(max(size, HEADER_SIZE), 4096)])
                at += len(piece)
                client.message(memoryview(bytes(piece)), [])
            else:
                break
        client.expire(FAR)
        client.lost("over")
        client.lost("over")
        for _, came in carrier.out:
            for descriptor in came:
                descriptors.close(descriptor)
        assert set(heard.values()) == {1}, heard
        assert not descriptors.open
        self.refused += carrier.closed is not None


class Framing(Target):
    """The socket of vfio-user: bytes in pieces of any size, with descriptors anywhere."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        self._mutator = Mutator(seeds.vfio, VFIO_WORDS)
        self._runner = asyncio.Runner()
        self._event = os.eventfd(0)

    def make(self, random: Random) -> bytes:
        return self._mutator.make(random)

    def run(self, data: bytes) -> None:
        self._runner.run(self._run(data))

    async def _run(self, data: bytes) -> None:
        random = Random(data[:64])  # where it is cut, and what comes with it
        ours, peer = socket.socketpair()
        got = bytearray()
        came: list[int] = []
        over = asyncio.Event()
        fds_before = descriptors_open()

        def received(message: memoryview, fds: list[int]) -> None:
            got.extend(message)
            came.extend(fds)
            if len(message) == HEADER_SIZE and int.from_bytes(message[4:8], "little") < HEADER_SIZE:
                return
            assert len(message) >= HEADER_SIZE

        takers = SERVER_TAKERS if len(data) % 2 else CLIENT_TAKERS
        sock = MessageSocket(ours, received, lambda _: over.set(), takers=takers, max_fds=4)
        sent = 0
        try:
            with peer:
                peer.setblocking(False)
                at = 0
                while at < len(data) and not over.is_set():
                    piece = data[at : at + random.choice((1, 15, 16, 17, 64, 500, 5000))]
                    fds = [self._event] * random.choice((0, 0, 0, 1, 2, 5)) if len(data) < 3000 else []
                    try:
                        at += socket.send_fds(peer, [piece], fds)
                        sent += len(fds)
                    except BlockingIOError:
                        pass
                    except OSError:
                        break
                    await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await over.wait()
        finally:
            sock.close()
        assert data.startswith(bytes(got))
        assert len(came) <= sent
        for fd in came:
            os.close(fd)
        assert descriptors_open() == fds_before - 2, "descriptors are left"

    def close(self) -> None:
        self._runner.close()
        os.close(self._event)
