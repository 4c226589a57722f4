"""``/dev/ibmvmc`` at a unix or TCP socket: sessions of programs that know nothing of the lab."""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from pathlib import Path

import pytest
from behaviour_worlds import errno_of, eventually
from device_socket_rig import device_at, lab_with_device, server_of

from pvnet.client.device import POLLIN
from pvnet.client.device_socket import DeviceSocket
from pvnet.client.session import VmcSession
from pvnet.core.errors import ConfigError, DeadlineError, DeviceError, PvnetError, UnreachableError
from pvnet.runtime.endpoints import read_endpoints
from pvnet_services.device_server import DeviceServer


async def test_a_session_opens_echoes_and_closes(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        async with VmcSession(DeviceSocket(uri), "stranger") as session:
            await session.router_open()
            for length in (1, 2, 50, 100):
                data = bytes(range(1, length + 1))
                assert await session.echo(data) == data
            await session.router_close()
        assert stat.S_IMODE((tmp_path / "vmc.sock").stat().st_mode) == 0o600


async def says(device: DeviceSocket, events: int) -> bool:
    return await device.poll() & events == events


async def test_the_same_over_tcp_and_four_at_once() -> None:
    async with lab_with_device() as lab:
        before = await lab.at_rest()
        uri = await server_of(lab).add("tcp:127.0.0.1:0")
        assert not uri.endswith(":0")

        async def one(number: int) -> None:
            async with VmcSession(DeviceSocket(uri), f"s{number}") as session:
                message = b"message of %d" % number
                for _ in range(20):
                    assert await session.exchange(message) == message

        await asyncio.gather(*map(one, range(4)))
        await lab.settle(before)


async def test_errno_is_the_drivers(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        async with DeviceSocket(uri) as device:
            assert (await device.query()).have_vmc
            assert await errno_of(device.write(b"x")) == errno.EIO
            assert await errno_of(device.read(nonblock=True)) == errno.EIO
            assert await errno_of(device.read(100_000)) == errno.EINVAL
            assert await device.read(0) == b""
            assert await device.poll() == 0
            assert await errno_of(device.ioctl("?", 0x1234, b"")) == errno.EINVAL
            assert await errno_of(device.ioctl("SETHMCID", 0x8008CC00, bytes(31))) == errno.EFAULT
            await device.set_hmc_id("one")
            assert await errno_of(device.set_hmc_id("one")) == errno.EIO
            assert await errno_of(device.read(timeout=0.01)) == errno.EINTR
        assert await errno_of(device.write(b"x")) == errno.EBADF


async def test_a_cancelled_read_loses_nothing_and_poll_says_when(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri), DeviceSocket(uri) as device:
        session = VmcSession(device, "cancel")
        await session.connect()
        for _ in range(20):
            reading = asyncio.ensure_future(device.read())
            await asyncio.sleep(0)
            reading.cancel()
            await session.send(b"kept")
            assert await device.read() == b"kept"
        await session.send(b"more")
        await eventually(lambda: says(device, POLLIN))
        assert await device.read() == b"more"


async def test_a_session_ends_with_the_hypervisor_and_the_file_with_the_partition(tmp_path: Path) -> None:
    async with lab_with_device() as lab:
        uri = await server_of(lab).add(f"unix:{tmp_path / 's'}")
        async with DeviceSocket(uri) as device:
            session = VmcSession(device, "ends")
            await session.connect()
            reading = asyncio.ensure_future(errno_of(device.read()))
            await lab.crash("hypervisor")
            assert await reading == errno.EBADFD
            await lab.start("hypervisor")
            reading = asyncio.ensure_future(device.read())
            assert await errno_of(reading) == errno.EBADFD
        device = await DeviceSocket(uri).open()
        await lab.stop("mp")
        assert await errno_of(device.write(b"x")) == errno.ENODEV
        await device.close()
        assert not (tmp_path / "s").exists()
        with pytest.raises(UnreachableError):
            await DeviceSocket(uri).open()


async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        for path in ("/dev/crq0", "/dev/pmem0", "/etc/passwd"):
            with pytest.raises(DeviceError) as refused:
                await DeviceSocket(uri, path=path).open()
            assert refused.value.errno == errno.ENOENT
        with pytest.raises(UnreachableError, match="No such file"):
            await DeviceSocket(f"unix:{tmp_path / 'none'}").open()


async def test_a_server_that_is_none(tmp_path: Path) -> None:
    async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(wrong, tmp_path / "web"):
        with pytest.raises(UnreachableError, match="expected"):
            await DeviceSocket(f"unix:{tmp_path / 'web'}").open()

    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_unix_server(silent, tmp_path / "silent"):
        with pytest.raises(DeadlineError):
            await DeviceSocket(f"unix:{tmp_path / 'silent'}", timeout=0.1).open()
        await gone.wait()


async def test_where_it_may_listen(tmp_path: Path) -> None:
    async with lab_with_device() as lab:
        server = server_of(lab)
        uri = await server.add(f"unix:{tmp_path / 's'}")
        for wrong, why in [
            (uri, "is there already"),
            ("unix:relative", "absolute path"),
            ("tcp:0.0.0.0:0", "certificates beyond loopback"),
            ("tcp:example.org:1", "certificates beyond loopback"),
            ("tcp:127.0.0.1:0?ca=x", "expected all of"),
            ("tcp:127.0.0.1:0?ca=x&cert=y&key=z", "TLS file"),
            ("tcp:127.0.0.1", "expected unix:PATH"),
            ("udp:127.0.0.1:1", "expected unix:PATH"),
            (f"unix:{tmp_path}", "no socket"),
            (f"unix:{tmp_path / ('x' * 120)}", "expected 1 to 107"),
            ("unix:", "expected unix:PATH"),
        ]:
            with pytest.raises(ConfigError, match=why):
                await server.add(wrong)
        assert server.uris == [uri]
        with pytest.raises(PvnetError, match="is not there"):
            await server.remove("tcp:127.0.0.1:1")
        assert await server.remove(uri) == uri
        assert not (tmp_path / "s").exists()


async def test_started_again_it_has_the_ports_that_it_had() -> None:
    anywhere = ["tcp:127.0.0.1:0", "tcp:127.0.0.1:0", "tcp:[::1]:0"]
    async with lab_with_device() as lab:
        own = server_of(lab)
        directory = own._directory

        async def started(uris: list[str]) -> DeviceServer:
            server = DeviceServer(own.files, own.endpoint, directory)
            await server.start(uris)
            return server

        first = await started(anywhere)
        had = first.uris
        added = await first.add("tcp:127.0.0.1:0")
        assert read_endpoints(directory) == {"device": [*had, added]}
        await first.stop()
        again = await started(anywhere)
        assert again.uris == had
        assert read_endpoints(directory) == {"device": had}
        await again.stop()
        with socket.create_server(("127.0.0.1", int(had[0].rpartition(":")[2]))):
            robbed = await started(anywhere)
        assert robbed.uris[0] not in had
        assert robbed.uris[1:] == had[1:]
        await robbed.stop()
        await started([])
        assert read_endpoints(directory) == {"device": []}
