"""Peers of a device socket that do what they should not: the others, and the partition, notice nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from behaviour_worlds import eventually
from device_socket_rig import Peer, device_at, lab_with_device, server_of

from pvnet.client.device_socket import DeviceSocket
from pvnet.client.session import VmcSession
from pvnet.core.errors import DeviceError
from pvnet.testing.in_process import InProcessLab
from pvnet.vmc.device_protocol import FLAG_NONBLOCK, HEADER, OPTION_EVENTS, Frame, Op, encode_hello
from pvnet_services import device_server
from pvnet_services.device_server import ServerLimits

LIMITS = ServerLimits(connections=4, sockets=4, hello_s=0.2, slow_s=0.3)
SETHMCID = 0x4008CC00
DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "device-protocol.md").read_text()


async def serves(uri: str) -> None:
    async with VmcSession(DeviceSocket(uri), "honest") as session:
        assert await session.exchange(b"hello") == b"hello"


async def empty(lab: InProcessLab) -> bool:
    return not server_of(lab).connections and lab.partition().files.open_count == 1  # the manager's


async def test_garbage_of_every_kind(tmp_path: Path) -> None:
    choose = random.Random(7)
    async with device_at(tmp_path) as (lab, uri):
        for number in range(60):
            peer = await Peer.connect(uri)
            if number % 3:
                peer.writer.write(encode_hello("/dev/ibmvmc", OPTION_EVENTS))
            for _ in range(choose.randrange(1, 20)):
                if number % 2:
                    peer.writer.write(choose.randbytes(choose.randrange(1, 300)))
                else:
                    op, tag = choose.randrange(12), choose.randrange(4)
                    data = choose.randbytes(choose.choice([0, 0, 32, 40]))
                    argument = choose.choice([0, 1, SETHMCID, 0x800CCC01, 4096, 2**32 - 1])
                    peer.send(op, tag, argument, data, choose.randrange(4))
            await peer.close()
        await eventually(lambda: empty(lab))
        await serves(uri)


async def test_lengths_beyond_the_limit_close_at_once(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (lab, uri):
        for first in (b"", encode_hello("/dev/ibmvmc")):
            peer = await Peer.connect(uri)
            peer.writer.write(first + HEADER.pack(0xFFFFFFFF, 5, Op.WRITE, 0, 0))
            assert await peer.is_closed()
            await peer.close()
        await eventually(lambda: empty(lab))


async def test_who_does_not_say_hello_is_closed(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (lab, uri):
        server_of(lab).limits = LIMITS
        silent, half = await Peer.connect(uri), await Peer.connect(uri)
        half.writer.write(encode_hello("/dev/ibmvmc")[:-3])
        kept = await Peer.opened(uri)
        assert await silent.is_closed()
        assert await half.is_closed()
        await asyncio.sleep(0)
        assert (await kept.ask(Op.POLL, 1, flags=FLAG_NONBLOCK)).argument == 0
        for peer in (silent, half, kept):
            await peer.close()


async def test_connections_that_say_nothing_make_room_for_those_that_do(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (lab, uri):
        server = server_of(lab)
        server.limits = ServerLimits(connections=4, hello_s=30)
        silent = [await Peer.connect(uri) for _ in range(40)]
        opened = [await Peer.opened(uri) for _ in range(4)]
        assert len(server.connections) == 4
        with pytest.raises(DeviceError) as refused:
            await DeviceSocket(uri).open()
        assert refused.value.errno == errno.EMFILE
        for peer in [*silent, *opened]:
            await peer.close()
        await eventually(lambda: empty(lab))
        await serves(uri)


async def test_the_driver_has_a_limit_of_its_own_which_the_document_names(tmp_path: Path) -> None:
    """Fewer than there may be connections, because the manager's file is one, too."""
    rows = re.findall(r"^\| more than (\d+) (connections|files of the driver) .*\| -(\w+) \|$", DOCUMENT, re.M)
    assert rows == [("256", "connections", "EMFILE"), ("256", "files of the driver", "ENOMEM")]
    async with device_at(tmp_path) as (lab, uri):
        sockets = [DeviceSocket(uri) for _ in range(255)]
        for each in sockets:
            await each.open()
        assert lab.partition().files.open_count == 256
        with pytest.raises(DeviceError) as refused:
            await DeviceSocket(uri).open()
        assert refused.value.errno == errno.ENOMEM
        for each in sockets:
            await each.close()
        await eventually(lambda: empty(lab))
        await serves(uri)


async def test_answers_that_nobody_takes(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (lab, uri):
        server = server_of(lab)
        server.limits = LIMITS
        greedy = socket.socket(socket.AF_UNIX)
        greedy.setblocking(False)
        await asyncio.get_running_loop().sock_connect(greedy, uri.removeprefix("unix:"))
        requests = b"".join(Frame(Op.IOCTL, tag, 0x800CCC01).request() for tag in range(2, 60_000))
        sending = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(greedy, encode_hello("/dev/ibmvmc") + requests * 10)
        )
        await serves(uri)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            await sending
        assert server.counters["slow_closed"] == 1
        greedy.close()
        await eventually(lambda: empty(lab))


async def test_gone_in_the_middle_of_everything(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (lab, uri):
        for calls in range(12):
            peer = await Peer.opened(uri, OPTION_EVENTS)
            frames = [
                Frame(Op.IOCTL, 2, SETHMCID, b"gone".ljust(32, b"\0")),
                Frame(Op.READ, 3, 4096),
                Frame(Op.WRITE, 4, 0, b"message"),
                Frame(Op.POLL, 5),
                Frame(Op.IOCTL, 6, 0x8004CC02),
                Frame(Op.CLOSE, 7),
            ]
            peer.writer.write(b"".join(frame.request() for frame in frames[: calls % 7]))
            if calls % 2:
                peer.writer.transport.abort()
            await peer.close()
        await eventually(lambda: empty(lab))
        await serves(uri)


async def test_one_file_cannot_be_reached_from_another_connection(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        one, other = await Peer.opened(uri), await Peer.opened(uri)
        assert (await one.ask(Op.IOCTL, 2, SETHMCID, bytes(32))).argument == 0
        one.send(Op.READ, 3, 100)
        other.send(Op.INTERRUPT, 0, 3)
        assert (await other.ask(Op.READ, 3, 100)).argument == -errno.EIO
        one.send(Op.INTERRUPT, 0, 3)
        assert await one.next() == Frame(Op.READ, 3, -errno.EINTR)
        for peer in (one, other):
            await peer.close()


async def test_another_user_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with device_at(tmp_path) as (lab, uri):
        with monkeypatch.context() as other_uid:
            other_uid.setattr(device_server, "credentials", lambda _: (1, os.geteuid() + 1))
            peer = await Peer.connect(uri)
            assert await peer.is_closed()
            await peer.close()
        assert server_of(lab).counters["refused_uid"] == 1
        await serves(uri)


@pytest.fixture
def uvloop_runner() -> AsyncIterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


def test_the_loop_of_the_nodes(uvloop_runner: asyncio.Runner, tmp_path: Path) -> None:
    """The services run on uvloop, whose transports are not asyncio's."""

    async def main() -> None:
        async with lab_with_device() as lab:
            for wanted in (f"unix:{tmp_path / 's'}", "tcp:127.0.0.1:0"):
                uri = await server_of(lab).add(wanted)
                await serves(uri)
                peer = await Peer.connect(uri)
                peer.writer.write(struct.pack(">I", 2**31) * 4)
                assert await peer.is_closed()
                await peer.close()
                await server_of(lab).remove(uri)

    uvloop_runner.run(main())
    assert list(tmp_path.iterdir()) == []
