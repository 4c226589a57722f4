"""Serial lines: every kind, flow control to the end in both directions, users who come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from vfio_io_rig import LOOPS, run_on, turns, until
from vfio_line_rig import Port, accepted, dial, read_fd

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EACCES, EBUSY, EINVAL, EIO
from pvnet.vfio import line_pty, line_socket
from pvnet.vfio.line_stream import LINE_BYTES
from pvnet.vfio.lines import PortHub

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_pty, "LOOK_S", 0.005)
    monkeypatch.setattr(line_socket, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(line_socket, "LONGEST_PAUSE_S", 0.02)


# --- within the process -----------------------------------------------------------------------------------------------


def test_none() -> None:
    async def main() -> None:
        with Port("none") as port:
            assert port.send(b"x" * 100_000) == 100_000
            port.line.resume()
            await turns()
            assert (port.got, port.wakes, port.line.address) == (b"", 0, "none")

    run_on("uvloop", main)


@LOOP_KINDS
def test_loop_brings_back_what_there_is_room_for(kind: str) -> None:
    async def main() -> None:
        with Port("loop", room=10) as port:
            assert port.send(b"a" * 6) == 6
            assert port.got == b""
            await turns()
            assert port.got == b"a" * 6
            assert port.send(bytes(LINE_BYTES + 5)) == LINE_BYTES
            assert port.send(b"more") == 0
            await turns()
            assert len(port.got) == 10
            assert port.wakes == 1
            port.more_room(LINE_BYTES)
            await turns()
            assert len(port.got) == 6 + LINE_BYTES
            assert port.send(b"more") == 4
            port.line.close()
            await turns()
            assert len(port.got) == 6 + LINE_BYTES

    run_on(kind, main)


def test_what_nobody_gets_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        hub = PortHub()
        for uri in ("none", "port:a", "pty", "tcp-listen:127.0.0.1:0", f"unix:{tmp_path}/nobody"):
            with Port(uri, hub) as port:
                assert port.line.lost == 0
                assert port.send(b"to nobody") == 9
                assert port.send(b"!") == 1
                assert port.line.lost == 10, uri
        with Port("loop") as port:
            port.send(b"back")
            await turns()
            assert (port.got, port.line.lost) == (b"back", 0)
            port.send(b"late")
            port.line.close()
            assert port.line.lost == 4
        with Port("port:b", hub) as one:
            with Port("port:b", hub, room=0) as other:
                one.send(b"waits")
                await turns()
                assert other.send(b"comes") == 5
                await until(lambda: one.got == b"comes")
                assert one.line.lost == 0
            assert one.line.lost == 5
            assert other.line.lost == 0
        with Port(f"unix-listen:{tmp_path}/s") as port:
            port.line.put(b"waits")
            assert port.line.lost == 0
            port.line.close()
            assert port.line.lost == 5

    run_on("uvloop", main)


@LOOP_KINDS
def test_two_ports_of_one_name(kind: str) -> None:
    async def main() -> None:
        hub = PortHub()
        data = os.urandom(50_000)
        with Port("port:a", hub) as one, Port("port:b", hub) as stranger:
            assert one.send(b"lost") == 4
            with Port("port:a", hub, room=100) as other:
                sending = asyncio.create_task(one.send_all(data))
                assert other.send(b"hello") == 5
                await until(lambda: len(other.got) == 100)
                assert not sending.done()
                while not sending.done():
                    other.more_room(997)
                    await turns(3)
                other.more_room(1 << 20)
                await until(lambda: len(other.got) == len(data))
                assert (other.got, one.got, stranger.got) == (data, b"hello", b"")
                with pytest.raises(MdevError) as caught:
                    Port("port:a", hub)
                assert caught.value.errno == EBUSY
                other.room = 0
                wakes = one.wakes
                assert one.send(bytes(LINE_BYTES + 1)) == LINE_BYTES
            await until(lambda: one.wakes > wakes)  # the other end has gone: there is room
            assert one.send(b"lost") == 4
            with Port("port:a", hub) as other:
                one.send(b"again")
                await until(lambda: other.got == b"again")

    run_on(kind, main)


@pytest.mark.parametrize(
    "uri",
    [
        *("", "x", "loop:", "none:x", "pty:/dev/pts/1", "port:", "port:a b", "port:" + "x" * 65, "serial:1", "unix:"),
        *("tcp:", "tcp:host", "tcp::1", "tcp-listen:host:65536", "tcp:host:0", "tcp-listen:4711", "unix-listen:"),
    ],
)
def test_uris_that_are_none(uri: str) -> None:
    async def main() -> None:
        with pytest.raises(MdevError) as caught:
            Port(uri)
        assert caught.value.errno == EINVAL
        assert "expected" in str(caught.value)

    run_on("asyncio", main)


# --- terminals --------------------------------------------------------------------------------------------------------


@LOOP_KINDS
def test_a_terminal_that_users_open_and_close(kind: str) -> None:
    async def main() -> None:
        with Port("pty") as port:
            path = port.line.address.removeprefix("pty:")
            assert path.startswith("/dev/pts/")
            for number in range(3):
                assert port.send(b"to nobody") == 9
                user = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
                os.write(user, b"in\r\n\x03%d" % number)
                await until(lambda number=number: port.got.endswith(b"\x03%d" % number))
                assert port.send(b"out\n") == 4
                assert await read_fd(user, 4) == b"out\n"
                os.close(user)
                await until(lambda: port.line._fd < 0)
            os.write(user := os.open(path, os.O_RDWR | os.O_NOCTTY), b"and gone")
            os.close(user)
            await until(lambda: port.got.endswith(b"and gone"))
            assert port.got == b"in\r\n\x030in\r\n\x031in\r\n\x032and gone"

    run_on(kind, main)


@LOOP_KINDS
def test_flow_control_of_a_terminal(kind: str) -> None:
    async def main() -> None:
        data = bytes(range(256)) * 200
        with Port("pty", room=10) as port:
            user = os.open(port.line.address.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            await until(lambda: port.line._fd >= 0)
            sending = asyncio.create_task(port.send_all(data))
            await turns(20)
            assert not sending.done()
            assert await read_fd(user, len(data)) == data
            await sending
            written = 0
            with contextlib.suppress(BlockingIOError):
                while written < 1 << 20:
                    written += os.write(user, data[written % 256 :][:1000])
            assert written < 1 << 20  # the user is held up
            await until(lambda: port.got)
            await turns(20)
            assert len(port.got) == 10
            port.more_room(1 << 20)
            await until(lambda: len(port.got) == written)
            assert len(port.got) == written
            os.close(user)

    run_on(kind, main)


def test_no_terminals_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[int, int]:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        monkeypatch.setattr("pvnet.vfio.line_pty.os.openpty", none)
        with pytest.raises(MdevError) as caught:
            Port("pty")
        assert caught.value.errno == EIO

    run_on("asyncio", main)


# --- sockets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tcp", "unix"])
def listen_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp-listen:127.0.0.1:0" if request.param == "tcp" else f"unix-listen:{tmp_path / 's'}"


@LOOP_KINDS
def test_one_at_a_time_and_the_next(kind: str, listen_uri: str) -> None:
    async def main() -> None:
        with Port(listen_uri) as port:
            assert not port.line.address.endswith(":0")
            for number in range(3):
                assert port.send(b"to nobody") == 9
                with dial(port.line) as user:
                    user.send(b"%d" % number)
                    await until(lambda number=number: len(port.got) == number + 1)
                    with dial(port.line) as second:
                        await until(lambda second=second: _is_closed(second))
                    port.send(b"out")
                    assert await read_fd(user.fileno(), 3) == b"out"
                await until(lambda: port.line._fd < 0)
            assert port.got == b"012"

    run_on(kind, main)


def _is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@LOOP_KINDS
def test_flow_control_of_a_socket(kind: str, listen_uri: str) -> None:
    async def main() -> None:
        data = os.urandom(8 << 20)
        with Port(listen_uri, room=10) as port, dial(port.line) as user:
            await until(lambda: port.line._fd >= 0)
            sending = asyncio.create_task(port.send_all(data))
            await turns(50)
            assert not sending.done()
            assert await read_fd(user.fileno(), len(data)) == data
            await sending
            written = 0
            while written < len(data):
                try:
                    written += user.send(data[written : written + 65536])
                except BlockingIOError:
                    await turns(20)
                    break
            assert written < len(data)
            assert len(port.got) == 10
            assert len(port.line._inward) <= LINE_BYTES
            port.more_room(1 << 30)
            await until(lambda: len(port.got) == written)
            assert port.got == data[:written]

    run_on(kind, main)


@LOOP_KINDS
def test_who_leaves_while_nothing_is_read_makes_room_for_the_next(kind: str, listen_uri: str) -> None:
    async def main() -> None:
        with Port(listen_uri, room=0) as port:
            with dial(port.line) as user:
                user.send(b"kept")
                await until(lambda: port.line._inward)
                assert port.send(bytes(32 << 20)) < 32 << 20
            with dial(port.line) as user:
                await until(lambda: port.wakes)
                assert port.send(b"for the next") == 12
                assert await read_fd(user.fileno(), 12) == b"for the next"
                user.send(b" and more")
                port.more_room(100)
                await until(lambda: port.got == b"kept and more")

    run_on(kind, main)


@LOOP_KINDS
def test_a_user_who_resets(kind: str, listen_uri: str) -> None:
    async def main() -> None:
        with Port(listen_uri) as port:
            user = dial(port.line)
            await until(lambda: port.line._fd >= 0)
            port.send(b"never read")
            user.send(b"z" * 20_000)
            user.close()
            await until(lambda: port.line._fd < 0)

    run_on(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_connects_again_and_again(kind: str, family: str, tmp_path: Path) -> None:
    async def main() -> None:
        address: object
        if family == "tcp":
            listener = socket.create_server(("127.0.0.1", 0))
            address = listener.getsockname()
            uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
            listener.close()
        else:
            address, uri = str(tmp_path / "s"), f"unix:{tmp_path / 's'}"
        with Port(uri) as port:
            assert port.line.address == uri
            await asyncio.sleep(0.02)  # in vain
            assert port.send(b"lost") == 4
            for number in range(2):
                listener = socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)  # type: ignore[arg-type]
                listener.listen()
                listener.setblocking(False)
                user = await accepted(listener)
                listener.close()
                if family == "unix":
                    os.unlink(str(address))  # noqa: PTH108
                user.send(b"%d" % number)
                await until(lambda number=number: len(port.got) == number + 1)
                port.send(b"out")
                assert await read_fd(user.fileno(), 3) == b"out"
                user.close()
                await until(lambda: port.line._fd < 0)
            assert port.got == b"01"

    run_on(kind, main)


def test_closed_while_it_connects() -> None:
    async def main() -> None:
        port = Port("tcp:127.0.0.1:1")
        port.line.close()
        await turns()

    run_on("uvloop", main)


def test_addresses_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(errno: int, make: Callable[[], object]) -> None:
        with pytest.raises(MdevError) as caught:
            make()
        assert caught.value.errno == errno

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            fails(EBUSY, lambda: Port(f"tcp-listen:127.0.0.1:{taken.getsockname()[1]}"))
        fails(EIO, lambda: Port(f"unix-listen:{tmp_path / 'no' / 's'}"))
        fails(EIO, lambda: Port(f"unix-listen:{'x' * 200}"))

        def forbidden(*_: object, **__: object) -> object:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pvnet.vfio.line_socket.socket.create_server", forbidden)
        fails(EACCES, lambda: Port("tcp-listen:127.0.0.1:1"))

    run_on("uvloop", main)


def test_address_of_ipv6() -> None:
    async def main() -> None:
        try:
            port = Port("tcp-listen:[::1]:0")
        except MdevError:
            pytest.skip("this machine has no IPv6")
        with port:
            assert port.line.address.startswith("tcp-listen:[::1]:")

    run_on("uvloop", main)
