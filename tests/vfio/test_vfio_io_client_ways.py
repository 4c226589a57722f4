"""A client with many requests under way, over another carrier, and after its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from vfio_io_rig import LOOPS, Served, run_on, until

from pvnet.core.errors import PeerDiedError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import Data, Descriptor
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.papr.errno import EINVAL
from pvnet.vfio.client import VfioUserClient
from pvnet.vfio.client_transport import IrqListener, SocketTransport

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))
MEMORY = 1


class OtherTransport:
    """A carrier that the client knows nothing of."""

    def __init__(
        self, sock: socket.socket, received: Callable[[Data, list[Descriptor]], None], ended: Callable[[str], None]
    ) -> None:
        self._inner = SocketTransport(sock, received, ended, ClientLimits())
        self.max_fds = self._inner.max_fds

    def send(self, parts: Sequence[Data], descriptors: Sequence[Descriptor]) -> None:
        self._inner.send(parts, descriptors)

    def close_descriptor(self, descriptor: Descriptor) -> None:
        self._inner.close_descriptor(descriptor)

    def close(self, reason: str) -> None:
        self._inner.close(reason)

    def irq_listener(self, heard: Callable[[], None]) -> IrqListener:
        return self._inner.irq_listener(heard)

    def take_fd(self, descriptor: Descriptor) -> int:
        return self._inner.take_fd(descriptor)


@LOOP_KINDS
@pytest.mark.parametrize("other", [False, True])
def test_many_under_way(kind: str, other: bool) -> None:
    """Each answer goes to who has asked, whatever was joined on the way."""

    async def ask(client: VfioUserClient, number: int) -> None:
        word = number.to_bytes(4, "little")
        await client.write(MEMORY, 4 * number, word)
        assert await client.read(MEMORY, 4 * number, 4) == word
        if number % 7 == 0:
            with pytest.raises(MdevError) as refused:
                await client.read(MEMORY, 1 << 40, 4)
            assert refused.value.errno == EINVAL
        if number % 10 == 0:
            assert len(await client.read(MEMORY, 0, 16384)) == 16384
        await client.write(MEMORY, 4 * number, bytes(4), posted=True)
        assert await client.read(MEMORY, 4 * number, 4) == bytes(4)

    async def main() -> None:
        async with Served() as served:
            if other:
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                sock.connect(str(served.path))
                client = VfioUserClient(lambda received, ended: OtherTransport(sock, received, ended))
                await client.start()
            else:
                client = await VfioUserClient.connect(served.path)
            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(ask(client, number))
            assert client.machine.waiting == 0
            client.close()
            await until(lambda: served.is_free)

    run_on(kind, main)


@LOOP_KINDS
def test_after_the_end(kind: str) -> None:
    async def main() -> None:
        async with Served() as served:
            client = await VfioUserClient.connect(served.path)
            under_way: list[asyncio.Future[Any]] = [client.read(MEMORY, 0, 4), client.write(MEMORY, 0, b"word")]
            given_up = client.read(MEMORY, 0, 4)
            given_up.cancel()
            client.close()
            for future in under_way:
                with pytest.raises(PeerDiedError, match="closed by us"):
                    await future
            assert given_up.cancelled()
            for request in (
                lambda: client.read(MEMORY, 0, 4),
                lambda: client.write(MEMORY, 0, b"word"),
                lambda: client.write(MEMORY, 0, b"word", posted=True),
            ):
                with pytest.raises(PeerDiedError, match="closed by us"):
                    request()
            await until(lambda: served.is_free)

    run_on(kind, main)


@LOOP_KINDS
def test_a_reader_that_gives_up_disturbs_nobody(kind: str) -> None:
    async def main() -> None:
        async with Served() as served, await VfioUserClient.connect(served.path) as client:
            gone: list[asyncio.Future[Any]] = [client.read(MEMORY, 0, 4), client.write(MEMORY, 0, b"done")]
            stays = client.read(MEMORY, 0, 4)
            for future in gone:
                future.cancel()
            assert await stays == b"done", "the write was under way"
            assert client.machine.waiting == 0
            client.close()
            await until(lambda: served.is_free)

    run_on(kind, main)
