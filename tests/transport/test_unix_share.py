"""File descriptors over the unix transport: they arrive in order, as copies, or are closed."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from unix_rig import Rig, open_fds, port_of, run_unix, until

from pvnet.core.errors import LocalError
from pvnet.core.names import NodeName
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.memfd import create_sealed, map_sealed
from pvnet.testing.contract import LAB
from pvnet.transport.base import MAX_LABEL_BYTES, MAX_SHARE_BYTES, MAX_SHARED_FDS


@contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


class Taken:
    """Takes shares and keeps what they were."""

    def __init__(self, endpoint: Endpoint, label: str) -> None:
        self.shares: list[tuple[str, str, bytes]] = []
        self.fds: list[int] = []
        endpoint.on_share(label, self._take)

    def _take(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        self.shares.append((source, label, body))
        self.fds += fds

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def test_memory_and_eventfds_are_shared() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        taken = Taken(server, "arena")
        memory, fd = create_sealed(8192, "test")
        with eventfds(1) as (bell,):
            assert client.share("server", "arena", b"8192", [fd, bell])
            os.close(fd)
            await until(lambda: len(taken.shares) == 1)
            assert taken.shares == [("client", "arena", b"8192")]
            assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in taken.fds)
            with map_sealed(taken.fds[0], 8192) as there:
                memory[100:103] = b"abc"
                assert there[100:103] == b"abc"
            os.eventfd_write(taken.fds[1], 5)
            assert os.eventfd_read(bell) == 5
        taken.close()
        memory.close()

    run_unix(scenario)


def test_both_ends_may_share_as_soon_as_they_are_told_of_the_path() -> None:
    async def scenario(rig: Rig) -> None:
        with eventfds(1) as bells:
            nodes = [await rig.node("client"), await rig.node("server")]
            taken = [Taken(node, "x") for node in nodes]
            for node in nodes:
                node.on_path.append(lambda peer, is_direct, node=node: node.share(peer, "x", b"", bells))
            await nodes[1].settle_path("client")
            await until(lambda: all(len(one.shares) == 1 for one in taken))
            for one in taken:
                one.close()

    run_unix(scenario)


def test_without_a_path_nothing_is_shared() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        taken = Taken(server, "x")
        plain = Endpoint(rig.unix.inner.port(NodeName("plain")), lab=LAB, name="plain", role="test", incarnation=70)
        await plain.start()
        plain.ready()
        with eventfds(1) as bells:
            assert not client.share("plain", "x", b"", bells)
            assert not plain.share("client", "x", b"", bells)
            port_of(server).sever()
            await until(lambda: client.path("server") == "broker")
            assert not client.share("server", "x", b"", bells)
        assert taken.shares == []
        await plain.stop()

    run_unix(scenario)


def test_limits_of_a_share_are_our_own_error() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        taken = Taken(server, "l" * MAX_LABEL_BYTES)
        with eventfds(MAX_SHARED_FDS + 1) as bells:
            for label, size, count in (
                ("x", 0, MAX_SHARED_FDS + 1),
                ("x", MAX_SHARE_BYTES + 1, 1),
                ("", 0, 1),
                ("l" * (MAX_LABEL_BYTES + 1), 0, 1),
            ):
                with pytest.raises(LocalError, match="expected at most"):
                    client.share("server", label, bytes(size), bells[:count])
            assert client.share("server", "l" * MAX_LABEL_BYTES, bytes(MAX_SHARE_BYTES), bells[:MAX_SHARED_FDS])
            await until(lambda: len(taken.fds) == MAX_SHARED_FDS)
            assert len(taken.shares[0][2]) == MAX_SHARE_BYTES
        taken.close()

    run_unix(scenario)


def test_what_nobody_takes_is_closed() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        before = open_fds()
        with eventfds(3) as bells:
            for _ in range(50):
                assert client.share("server", "unknown", b"", bells)
            await until(lambda: server.counters["unhandled_share"] == 50)
        assert open_fds() == before

    run_unix(scenario)


def test_a_handler_that_fails_costs_nothing_else() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        taken = Taken(server, "good")

        def fail(_source: str, _label: str, _body: bytes, fds: list[int]) -> None:
            for fd in fds:
                os.close(fd)
            raise ValueError("no")

        server.on_share("bad", fail)
        with eventfds(1) as bells:
            client.share("server", "bad", b"", bells)
            client.share("server", "good", b"", bells)
            await until(lambda: len(taken.shares) == 1)
        assert server.counters["handler_failed"] == 1
        assert client.path("server") == "direct"
        taken.close()

    run_unix(scenario)


def test_shares_to_a_peer_that_does_not_read_wait_in_order_and_nothing_is_left_open() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        taken = Taken(server, "x")
        loop = asyncio.get_running_loop()
        reader = port_of(server).paths._up["client"]
        loop.remove_reader(reader._fd)
        with eventfds(2) as bells:
            for number in range(200):
                assert client.share("server", "x", number.to_bytes(2, "big") + bytes(30_000), bells)
        assert port_of(client).paths._up["server"]._queue, "more than the kernel takes"
        loop.add_reader(reader._fd, reader.read)
        await until(lambda: len(taken.shares) == 200)
        assert [int.from_bytes(body[:2], "big") for _, _, body in taken.shares] == list(range(200))
        taken.close()
        taken.fds.clear()
        loop.remove_reader(reader._fd)
        with eventfds(2) as bells:
            for _ in range(200):
                assert client.share("server", "x", bytes(30_000), bells)
        port_of(client).break_path("server")  # what waits on both sides is closed with the path
        await until(lambda: client.path("server") == "broker")
        loop.add_reader(reader._fd, reader.read)
        await until(lambda: server.path("client") == "direct" and client.path("server") == "direct")
        taken.close()

    run_unix(scenario)
