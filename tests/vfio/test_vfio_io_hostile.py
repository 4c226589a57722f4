"""Clients of every bad kind on a real socket: only they suffer, nothing stays open, the next one is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfio_io_rig import (
    COPY,
    LOOPS,
    SLOW,
    VERSION,
    Served,
    access,
    is_dropped,
    memfd,
    message,
    receive,
    reply,
    run_on,
    send_with,
    turns,
    until,
)

from pvnet.core.errors import ConfigError, LocalError
from pvnet.mdev.names import PciIrq
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.vfio.client import VfioUserClient

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))
DMA_MAP, GET_INFO, SET_IRQS, READ, WRITE, DMA_READ = 2, 4, 8, 9, 10, 11
INFO = message(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
IRQ = message(SET_IRQS, struct.pack("<IIIII", 20, 0x24, 1, 0, 1))
MAP = message(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 4096))


def served(kind: str, main: Callable[[Served], Awaitable[None]], **options: object) -> None:
    """Run against a card; afterwards a well-behaved client finds everything in order."""

    async def run() -> None:
        async with Served(**options) as card:
            await main(card)
            await until(lambda: card.is_free)
            async with await VfioUserClient.connect(card.path) as client:
                assert (await client.info()).regions == 9
                await client.dma_map(0x10000, 4096)
            await until(lambda: card.is_free)
            assert card.card.host is None

    run_on(kind, run)


# --- framing ----------------------------------------------------------------------------------------------------------


@LOOP_KINDS
def test_a_session_cut_at_every_byte(kind: str) -> None:
    async def main(card: Served) -> None:
        fd = os.eventfd(0)
        stream = VERSION + INFO + access(READ, 0, 0, 4)
        for at in range(1, len(stream)):
            with card.dial() as sock:
                sock.send(stream[:at])
                await turns(4)
                sock.send(stream[at:])
                assert [(await reply(sock))[1:4] for _ in range(3)] == [(1, 1, 0), (4, 1, 0), (9, 1, 0)]
                send_with(sock, IRQ[: at % 36 + 1], [fd])
                await turns(2)
                sock.send(IRQ[at % 36 + 1 :] + INFO)
                assert [(await reply(sock))[1:4] for _ in range(2)] == [(8, 1, 0), (4, 1, 0)]
            await until(lambda: card.is_free)
        os.close(fd)

    served(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("size", [0, 1, 15, (1 << 20) + (1 << 20), 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("greets", [True, False])
def test_sizes_that_cannot_be(kind: str, size: int, greets: bool) -> None:
    async def main(card: Served) -> None:
        with card.dial() as sock:
            if greets:
                sock.send(VERSION)
                await reply(sock)
            sock.send(message(READ, size=size, ident=7) + VERSION * 20)
            assert await reply(sock) == (7, READ, 0x21, 22, b"")
            await is_dropped(sock)

    served(kind, main)


def test_a_promise_of_a_megabyte_that_is_not_kept() -> None:
    async def main(card: Served) -> None:
        with card.greeted() as sock:
            await reply(sock)
            sock.send(message(WRITE, b"x" * 100, size=1 << 20))
            await turns(10)
        await until(lambda: card.is_free)
        assert card.server.counters["clients"] == 1

    served("uvloop", main)


@LOOP_KINDS
@pytest.mark.parametrize("after", [1, 15, 16, 17, 31])
def test_gone_in_the_middle_of_a_message(kind: str, after: int) -> None:
    async def main(card: Served) -> None:
        fd = os.eventfd(0)
        with card.greeted() as sock:
            await reply(sock)
            send_with(sock, IRQ, [fd])
            send_with(sock, MAP, [memory := memfd(4096)])
            send_with(sock, MAP[:after], [memory])
        await until(lambda: card.is_free)
        assert any(dict(note.fields).get("reason", "").startswith("closed by the peer in the") for note in card.notes)
        os.close(memory)
        os.close(fd)

    served(kind, main)


# --- descriptors ------------------------------------------------------------------------------------------------------


@LOOP_KINDS
def test_descriptors_where_there_may_be_none_and_too_many(kind: str) -> None:
    async def main(card: Served) -> None:
        fds = [os.eventfd(0) for _ in range(20)]
        with card.dial() as sock:
            send_with(sock, VERSION, fds[:1])
            assert (await reply(sock))[2:4] == (0x21, 22)
            await is_dropped(sock)
        with card.greeted() as sock:
            await reply(sock)
            for request in (INFO, MAP, access(READ, 0, 0, 4)):
                send_with(sock, request, fds[:2])
                assert (await reply(sock))[2:4] == (0x21, 22)
            send_with(sock, IRQ, fds[:2])  # one vector
            assert (await reply(sock))[2:4] == (0x21, 22)
            send_with(sock, IRQ, fds[:1])
            assert (await reply(sock))[2:4] == (1, 0)
            send_with(sock, IRQ, fds)  # MSG_CTRUNC
            await is_dropped(sock)
        await until(lambda: card.server.counters["too_many_fds"] == 1)
        for fd in fds:
            os.close(fd)

    served(kind, main)


@LOOP_KINDS
def test_a_flood_of_descriptors(kind: str) -> None:
    async def main(card: Served) -> None:
        kinds = [os.eventfd(0), memfd(4096), os.open("/dev/null", os.O_RDWR), *os.pipe()]
        with card.greeted() as sock:
            await reply(sock)
            for number in range(200):
                try:
                    send_with(sock, (MAP, IRQ, INFO)[number % 3], [kinds[number % 5]] * (number % 8 + 1))
                except BlockingIOError:
                    await turns(2)
            await turns(50)
        await until(lambda: card.is_free)
        for fd in kinds:
            os.close(fd)

    served(kind, main)


def test_memory_that_is_taken_away() -> None:
    """An access to what is not there any more is EFAULT, not the end of the server."""

    async def main(card: Served) -> None:
        fd = memfd(4096)
        with card.greeted() as sock:
            await reply(sock)
            send_with(sock, MAP, [fd])
            assert (await reply(sock))[2:4] == (1, 0)
            os.ftruncate(fd, 0)
            sock.send(access(READ, 0, SLOW, 4))
            assert (await reply(sock))[2:4] == (0x21, 14)
            sock.send(access(WRITE, 0, COPY, 24, struct.pack("<QQQ", 0x10000, 0x10000, 8)))
            assert (await reply(sock))[2:4] == (0x21, 14)
        os.close(fd)

    served("uvloop", main)


# --- clients that do not do their part --------------------------------------------------------------------------------


@LOOP_KINDS
def test_who_never_reads_replies(kind: str) -> None:
    async def main(card: Served) -> None:
        with card.greeted() as sock:
            await reply(sock)
            await _ask_until_dropped(sock, access(READ, 2, 0, 1 << 16))
        await until(lambda: card.is_free)
        assert any("does not read" in str(dict(note.fields).get("reason")) for note in card.notes)

    served(kind, main, max_queue_bytes=1 << 20)


async def _ask_until_dropped(sock: socket.socket, request: bytes) -> None:
    async with asyncio.timeout(20):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                try:
                    sock.send(request)
                except BlockingIOError:
                    await turns(1)


@LOOP_KINDS
def test_a_flood_leaves_time_for_others(kind: str) -> None:
    async def main(card: Served) -> None:
        posted = access(WRITE, 0, 100, 4, b"abcd", flags=0x10) * 1000
        loop = asyncio.get_running_loop()
        seen = 0
        with card.greeted() as sock:
            await reply(sock)
            end = loop.time() + 0.3
            sent = 0
            while loop.time() < end:
                with contextlib.suppress(BlockingIOError):
                    sent += sock.send(posted[sent % len(posted) :])
                before = card.server.shown()["messages"]
                await turns(1)
                handled = card.server.shown()["messages"] - before
                assert handled <= 2 * 64  # the rest of what there was, and a new piece
                seen += handled
        assert seen > 1000
        await until(lambda: card.is_free)

    served(kind, main)


@LOOP_KINDS
def test_two_clients_and_a_third(kind: str) -> None:
    async def main(card: Served) -> None:
        with card.greeted() as first:
            await reply(first)
            with card.greeted() as second, card.greeted() as third:
                await is_dropped(third)
                await turns(5)
                with pytest.raises(BlockingIOError):
                    second.recv(1)
                first.close()
                assert (await reply(second))[1] == 1
                with card.greeted() as gone:
                    await until(lambda: card.server.shown()["waiting"])
                    gone.close()
                with card.greeted() as fourth:  # takes the place of one that waited and went
                    second.close()
                    assert (await reply(fourth))[1] == 1
        assert card.server.counters["refused"] == 1

    served(kind, main)


@LOOP_KINDS
def test_who_says_nothing_goes_when_somebody_waits(kind: str) -> None:
    async def main(card: Served) -> None:
        with card.dial() as silent, card.dial() as slow:
            silent.send(VERSION[:10])
            await asyncio.sleep(0.1)
            assert not card.server.counters["silent"]  # nobody waits yet ... for long
            with card.dial() as refused:
                await is_dropped(refused)
            await is_dropped(silent)
            slow.send(VERSION)
            assert (await reply(slow))[1] == 1
            with card.greeted() as patient:
                await asyncio.sleep(0.25)
                with pytest.raises(BlockingIOError):
                    patient.recv(1)  # one that has said hello may stay
        assert card.server.counters["silent"] == 1

    served(kind, main, hello_s=0.15)


@LOOP_KINDS
def test_a_thousand_connections(kind: str) -> None:
    async def main(card: Served) -> None:
        for number in range(1000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                while True:
                    try:
                        sock.connect(str(card.path))
                        break
                    except BlockingIOError:  # the backlog is full
                        await turns(1)
                if number % 2:
                    sock.send(VERSION[: number % 21])
                if not number % 10:
                    await turns(2)
        await until(lambda: card.is_free and not card.server.shown()["waiting"])

    served(kind, main)


def test_memory_requests_that_are_not_answered() -> None:
    async def main(card: Served) -> None:
        with card.greeted() as sock:
            await reply(sock)
            sock.send(MAP)
            await reply(sock)
            sock.send(access(READ, 0, SLOW, 4, ident=5))
            assert (await reply(sock))[1] == DMA_READ
            sock.send(INFO)  # others go on meanwhile
            assert (await reply(sock))[1] == GET_INFO
            ident, command, flags, error, _ = await reply(sock)
            assert (ident, command, flags) == (5, READ, 0x21)
            assert error in (14, 110)
            sock.send(access(READ, 0, SLOW, 4))
            ident, command, _, _, payload = await reply(sock)
            sock.send(message(command, payload + b"data", ident=ident, flags=1))
            assert (await reply(sock))[4][16:] == b"data"
            sock.send(access(READ, 0, SLOW, 4))
            await reply(sock)
        await until(lambda: card.is_free)

    served("uvloop", main, limits=ServerLimits(dma_timeout_s=0.3))


@LOOP_KINDS
def test_a_client_that_is_killed(kind: str) -> None:
    program = """
import os, socket, sys, time
sys.path.insert(0, sys.argv[2])
from vfio_io_rig import *
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.send(VERSION)
sock.recv(4096)
send_with(sock, message(2, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 4096)), [memfd(4096)])
sock.recv(4096)
send_with(sock, message(8, struct.pack("<IIIII", 20, 0x24, 1, 0, 1))[:30], [os.eventfd(0)])
print("ready", flush=True)
time.sleep(60)
"""

    async def main(card: Served) -> None:
        rig = str(Path(__file__).parents[1])
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(card.path), rig), stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        assert not card.is_free
        child.send_signal(signal.SIGKILL)
        await until(lambda: card.is_free)
        await child.wait()
        child._transport.close()  # type: ignore[attr-defined]

    served(kind, main)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(
        st.tuples(
            st.one_of(
                st.binary(min_size=1, max_size=30),
                st.sampled_from([INFO, IRQ, MAP, VERSION, access(READ, 0, SLOW, 4), access(WRITE, 0, 0, 1, b"\1")]),
                st.builds(message, st.integers(0, 20), st.binary(max_size=48), flags=st.integers(0, 63)),
            ),
            st.integers(0, 3),
            st.integers(0, 2),
        ),
        max_size=10,
    )
)
def test_whatever_comes_nothing_leaks(pieces: list[tuple[bytes, int, int]]) -> None:
    async def main(card: Served) -> None:
        fds = [os.eventfd(0), memfd(4096), os.open("/dev/null", os.O_RDONLY)]
        with card.greeted() as sock:
            await reply(sock)
            for data, count, which in pieces:
                try:
                    send_with(sock, data, [fds[which]] * count)
                except (BrokenPipeError, ConnectionResetError):
                    break
                await turns(3)
        await until(lambda: card.is_free)
        for fd in fds:
            os.close(fd)

    served("uvloop", main)


# --- the server's own life --------------------------------------------------------------------------------------------


def test_paths(tmp_path: Path) -> None:
    async def main() -> None:
        async with Served() as card:
            assert card.path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(LocalError):
                await card.server.start(tmp_path / "other")
            other = Served()
            for path in (card.path, tmp_path / "no" / "s", tmp_path / ("x" * 120), tmp_path, "", "a\0b"):
                with pytest.raises(ConfigError):
                    await other.server.start(path)
            file = tmp_path / "file"
            file.write_text("precious")
            with pytest.raises(ConfigError, match="no socket"):
                await other.server.start(file)
            assert file.read_text() == "precious"
            stale = tmp_path / "stale"
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(stale))
            await other.server.start(stale)
            (await VfioUserClient.connect(stale)).close()
            stale.unlink()
            with socket.socket(socket.AF_UNIX) as successor:
                successor.bind(str(stale))
                await other.server.stop()
                await other.server.stop()
                assert stale.exists()  # it is somebody else's now
            async with other:
                pass
            other.card.memory.close()
            async with await VfioUserClient.connect(card.path) as client:
                assert client.is_open

    run_on("uvloop", main)


@LOOP_KINDS
def test_stop_asks_first_and_then_ends_it(kind: str) -> None:
    async def main() -> None:
        async with Served() as card:
            client = await VfioUserClient.connect(card.path)
            ends: list[str] = []
            client.on_ended = ends.append
            asked = asyncio.Event()
            await client.listen_irq(PciIrq.REQ, asked.set)
            waiting = card.greeted()
            await until(lambda: card.server.shown()["waiting"])
            stopping = asyncio.create_task(card.server.stop(patience_s=10))
            await asked.wait()
            assert not stopping.done()
            assert not card.path.exists()
            await is_dropped(waiting)
            waiting.close()
            client.close()
            await stopping
            assert ends == []
            assert card.is_free
        async with Served() as card:
            client = await VfioUserClient.connect(card.path)
            client.on_ended = ends.append
            await card.server.stop(patience_s=0.05)
            await until(lambda: ends)
            assert card.is_free
            assert card.server.path is None
            client.close()
            await card.server.start(card.path)
            (await VfioUserClient.connect(card.path)).close()

    run_on(kind, main)


def test_a_device_that_is_taken_away() -> None:
    async def main(card: Served) -> None:
        with card.greeted() as sock:
            await reply(sock)
            assert card.device.user is not None
            card.device.user.ended("removed")
            await is_dropped(sock)
        await until(lambda: any(dict(note.fields).get("reason") == "removed" for note in card.notes))

    served("uvloop", main)


def test_no_descriptors_left_to_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(card: Served) -> None:
        listener = card.server._listener
        assert listener is not None

        class Full:
            def fileno(self) -> int:
                return listener.sock.fileno()

            def accept(self) -> object:
                raise OSError(24, "Too many open files")

        real = listener.sock
        number = real.fileno()
        monkeypatch.setattr(Full, "fileno", lambda _: number)
        listener.sock = Full()  # type: ignore[assignment]
        with card.greeted() as sock:
            await until(lambda: card.server.counters["accept_failed"])
            listener.sock = real
            assert (await receive(sock, 4))[2:4] == b"\x01\x00"

    served("uvloop", main)


def test_notes_are_logged_unless_somebody_takes_them() -> None:
    import structlog

    async def main() -> None:
        async with Served() as card:
            card.server._note = type(card.server)(card.device)._note
            with structlog.testing.capture_logs() as logs:
                (await VfioUserClient.connect(card.path)).close()
                await until(lambda: len(logs) == 2)
            assert [log["event"] for log in logs] == ["vfio_user_client", "vfio_user_client_gone"]

    run_on("uvloop", main)
