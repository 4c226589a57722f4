"""Failures of the system below: what a full backlog, a full disk or a cancelled task leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from vfio_io_rig import Served, memfd, message, no_leaks, run_on, turns, until

from pvnet.core.errors import ConfigError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo
from pvnet.papr.errno import EFAULT, EINVAL
from pvnet.vfio.client import VfioUserClient
from pvnet.vfio.descriptors import dma_memory
from pvnet.vfio.framing import SERVER_TAKERS, MessageSocket
from pvnet.vfio.line_socket import ConnectLine
from pvnet.vfio.unix_listen import UnixListener


def fails(errno: int) -> Callable[..., object]:
    def call(*_: object, **__: object) -> object:
        raise OSError(errno, os.strerror(errno))

    return call


# --- listening --------------------------------------------------------------------------------------------------------


def test_sockets_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_leaks():
        with pytest.raises(ConfigError, match="cannot listen"):
            UnixListener("/proc/pvnet-socket")
        path = tmp_path / "s"
        with monkeypatch.context() as patched:
            patched.setattr(Path, "lstat", fails(13))
            with pytest.raises(ConfigError, match="Permission denied"):
                UnixListener(path)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", fails(13))
            with pytest.raises(ConfigError, match="stale"):
                UnixListener(path)
        listener = UnixListener(path)
        listener.close()
        listener.close()


def test_a_listener_with_a_full_backlog_lives(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with no_leaks(), socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)
        with pytest.raises(ConfigError, match="listens there already"):
            UnixListener(path)


def test_a_socket_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with no_leaks(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ConfigError):
            UnixListener(path)
        assert os.path.exists(path)  # noqa: PTH110


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_memory_whose_file_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_leaks():
        memory = dma_memory(memfd(4096), 0, 4096, writable=True)
        monkeypatch.setattr("pvnet.vfio.descriptors.os.pread", fails(5))
        monkeypatch.setattr("pvnet.vfio.descriptors.os.pwrite", fails(28))
        for access in (lambda: memory.read(0, 1), lambda: memory.write(0, b"x")):
            with pytest.raises(MdevError) as caught:
                access()
            assert caught.value.errno == EFAULT
        memory.close()


def test_short_transfers_of_memory_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.pread, os.pwrite
    with no_leaks():
        memory = dma_memory(memfd(4096), 0, 4096, writable=True)
        monkeypatch.setattr("pvnet.vfio.descriptors.os.pread", lambda fd, n, at: pread(fd, min(n, 3), at))
        monkeypatch.setattr("pvnet.vfio.descriptors.os.pwrite", lambda fd, data, at: pwrite(fd, data[:2], at))
        memory.write(10, b"hello world")
        assert memory.read(10, 11) == b"hello world"
        memory.close()


# --- connections ------------------------------------------------------------------------------------------------------


class Failing:
    """A socket of which one method fails, from a moment on."""

    def __init__(self, sock: socket.socket, method: str, errno: int) -> None:
        self._sock = sock
        setattr(self, method, fails(errno))

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


@pytest.mark.parametrize(
    ("method", "errno", "reason"),
    [("send", 12, "cannot allocate memory"), ("send", 32, "the peer is gone"), ("recvmsg_into", 12, "cannot")],
)
def test_a_connection_that_fails(method: str, errno: int, reason: str) -> None:
    async def main() -> None:
        ends: list[str] = []
        ours, peer = socket.socketpair()
        failing = Failing(ours, method, errno)
        conn = MessageSocket(failing, lambda *_: None, ends.append, takers=SERVER_TAKERS)  # type: ignore[arg-type]
        conn.send([message(9)])
        with contextlib.suppress(BrokenPipeError):
            peer.send(b"x")
        await until(lambda: ends)
        assert ends[0].startswith(reason)
        assert not conn.close()
        peer.close()

    run_on("uvloop", main)


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_mistake_of_ours_costs_one_connection(count: int) -> None:
    async def main() -> None:
        ends: list[str] = []
        logged: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        ours, peer = socket.socketpair()

        def received(*_: object) -> None:
            if conn.messages >= count:
                raise ZeroDivisionError

        conn = MessageSocket(ours, received, ends.append, takers=SERVER_TAKERS)
        peer.send(message(9) * count)
        await until(lambda: ends)
        assert ends == ["a failure of ours"]
        assert [type(failure) for failure in logged] == [ZeroDivisionError]
        peer.close()

    run_on("uvloop", main)


def test_a_peer_that_goes_while_something_waits_for_it() -> None:
    async def main() -> None:
        ends: list[str] = []
        ours, peer = socket.socketpair()
        conn = MessageSocket(ours, lambda *_: None, ends.append, takers=SERVER_TAKERS)
        conn.send([b"x" * 2_000_000])
        conn.send([b"small"])
        conn.finish("done")
        peer.close()
        await until(lambda: ends)
        assert ends == ["the peer is gone"]

    run_on("uvloop", main)


def test_cancelled_while_connecting(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
            full.bind(path)
            full.listen(0)
            first.connect(path)
            connecting = asyncio.create_task(VfioUserClient.connect(path))
            await turns()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    run_on("uvloop", main)


def test_a_line_closed_while_it_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        dialling = asyncio.Event()

        async def never(*_: object) -> None:
            dialling.set()
            await asyncio.Event().wait()

        line = ConnectLine("tcp:127.0.0.1:9", ("127.0.0.1", 9), None)  # type: ignore[arg-type]

        class Loop:
            getaddrinfo = asyncio.get_running_loop().getaddrinfo
            sock_connect = staticmethod(never)

        line._loop = Loop()  # type: ignore[assignment]
        await dialling.wait()
        line._loop = asyncio.get_running_loop()
        line.close()
        await turns()

    run_on("asyncio", main)


def test_streams_of_migration_are_refused_where_there_is_none() -> None:
    async def main() -> None:
        async with Served() as card, await VfioUserClient.connect(card.path) as client:
            with pytest.raises(MdevError):
                await client.migration_read(4096)
            with pytest.raises(MdevError):
                await client.migration_write(b"x")
            real = client.machine.irq_info

            def irq_info(index: int, done: Callable[[IrqInfo | MdevError], None]) -> None:
                if index == 2:
                    done(MdevError(EINVAL))
                else:
                    real(index, done)

            client.machine.irq_info = irq_info  # type: ignore[method-assign]
            assert [irq.count for irq in await client.irqs()] == [1, 4, 0, 0, 1]
            assert isinstance(await client.info(), DeviceInfo)

    run_on("uvloop", main)


def test_sealed_against_growing_too() -> None:
    with no_leaks():
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        memory = dma_memory(memfd(4096, seals=seals), 0, 4096, writable=True)
        assert memory.view is not None
        memory.close()
