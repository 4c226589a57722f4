"""Messages out of a stream, with their descriptors, however they are cut; sending, and peers that do not read."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfio_io_rig import LOOPS, identity, memfd, message, no_leaks, open_fds, run_on, send_with, turns, until

from pvnet.transport.unix_socket import close_all
from pvnet.vfio import framing
from pvnet.vfio.framing import CLIENT_TAKERS, SERVER_TAKERS, MessageSocket

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))
DMA_MAP, GET_INFO, SET_IRQS, READ = 2, 4, 8, 9


class End:
    """A MessageSocket whose messages are written down; the other end is a plain socket."""

    def __init__(self, **options: object) -> None:
        self.peer, ours = socket.socketpair()
        self.peer.setblocking(False)
        self.got: list[tuple[bytes, tuple[tuple[int, int], ...]]] = []
        self.reasons: list[str] = []
        options.setdefault("takers", SERVER_TAKERS)
        self.socket = MessageSocket(ours, self._received, self.reasons.append, **options)  # type: ignore[arg-type]

    def _received(self, data: memoryview, fds: list[int]) -> None:
        self.got.append((bytes(data), tuple(identity(fd) for fd in fds)))
        close_all(fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.peer.close()
        self.socket.close()

    async def messages(self, count: int) -> list[bytes]:
        await until(lambda: len(self.got) >= count or self.reasons)
        return [data for data, _ in self.got]


@LOOP_KINDS
def test_every_cut_of_two_messages(kind: str) -> None:
    stream = message(READ, b"x" * 16) + message(GET_INFO, b"y" * 16, ident=2)

    async def main() -> None:
        for at in range(len(stream) + 1):
            with End() as end:
                end.peer.send(stream[:at])
                await turns(3)
                end.peer.send(stream[at:])
                assert await end.messages(2) == [stream[:32], stream[32:]]
                assert end.socket.messages == 2

    run_on(kind, main)


@LOOP_KINDS
def test_byte_by_byte(kind: str) -> None:
    stream = b"".join(message(READ, b"z" * n, ident=n) for n in range(5))

    async def main() -> None:
        with End() as end:
            for at in range(len(stream)):
                end.peer.send(stream[at : at + 1])
                await turns(2)
            await end.messages(5)
            assert b"".join(data for data, _ in end.got) == stream

    run_on(kind, main)


@LOOP_KINDS
def test_a_flood_is_handed_on_in_batches_and_in_order(kind: str) -> None:
    count = 1000

    async def main() -> None:
        with End() as end:
            end.peer.send(b"".join(message(READ, ident=n) for n in range(count)))
            steps = []
            while len(end.got) < count:
                before = len(end.got)
                await turns(1)
                steps.append(len(end.got) - before)
            assert max(steps) <= framing.BATCH
            assert [struct.unpack_from("<H", data)[0] for data, _ in end.got] == list(range(count))

    run_on(kind, main)


@LOOP_KINDS
def test_long_messages_take_one_buffer(kind: str) -> None:
    long = message(READ, os.urandom(1 << 20))
    stream = message(READ, b"a") + long + message(READ, b"b") + long

    async def main() -> None:
        with End() as end:
            left = memoryview(stream)
            while left:
                try:
                    left = left[end.peer.send(left) :]
                except BlockingIOError:
                    await turns(1)
            assert await end.messages(4) == [message(READ, b"a"), long, message(READ, b"b"), long]
            assert len(end.socket._view) <= (1 << 20) + (128 << 10)

    run_on(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("size", [0, 15, (1 << 20) + (64 << 10) + 1, 0xFFFFFFFF])
def test_a_size_that_cannot_be_is_handed_on_alone_and_ends_it(kind: str, size: int) -> None:
    async def main() -> None:
        with End() as end:
            end.peer.send(message(READ) + message(READ, size=size) + message(READ) * 3)
            await until(lambda: end.reasons)
            assert [data for data, _ in end.got] == [message(READ), message(READ, size=size)]
            assert end.reasons == ["a message whose size cannot be"]
            assert end.peer.recv(1) == b""

    run_on(kind, main)


def test_a_limit_below_the_buffer() -> None:
    async def main() -> None:
        with End(max_message=100) as end:
            end.peer.send(message(READ, bytes(84)))
            await end.messages(1)
            end.peer.send(message(READ, bytes(85)))
            await until(lambda: end.reasons)
            assert [len(data) for data, _ in end.got] == [100, 16]

    run_on("uvloop", main)


@LOOP_KINDS
def test_ends_are_told_once(kind: str) -> None:
    async def main() -> None:
        with End() as end:
            end.peer.close()
            await until(lambda: end.reasons)
            end.socket.finish("later")
            end.socket.send([b"x" * 16])
            await turns()
            assert end.reasons == ["closed by the peer"]
            assert not end.socket.is_open
        with End() as end:
            end.peer.send(message(READ)[:7])
            end.peer.close()
            await until(lambda: end.reasons)
            assert end.reasons == ["closed by the peer in the middle of a message"]
            assert end.got == []

    run_on(kind, main)


@LOOP_KINDS
def test_what_came_before_a_reset_is_handed_on(kind: str) -> None:
    """uvloop announces a reset once; here several pieces wait behind it."""

    async def main() -> None:
        with End() as end:
            end.socket.send([b"never read"])
            body = b"q" * 30000
            for ident in range(6):
                end.peer.send(message(READ, body, ident=ident))
            end.peer.close()
            await until(lambda: end.reasons)
            assert len(end.got) == 6
            assert end.reasons[0] in ("connection reset by peer", "closed by the peer")

    run_on(kind, main)


@LOOP_KINDS
def test_what_came_is_handed_on_though_nothing_can_be_sent(kind: str) -> None:
    async def main() -> None:
        with End() as end:
            for ident in range(5):
                end.peer.send(message(READ, b"q" * 30000, ident=ident))
            end.peer.close()
            end.socket.send([message(READ)])  # EPIPE
            end.socket.send([message(READ)])
            assert end.reasons == []
            await until(lambda: end.reasons)
            assert len(end.got) == 5

    run_on(kind, main)


# --- descriptors ------------------------------------------------------------------------------------------------------


@LOOP_KINDS
def test_descriptors_of_the_message_that_they_came_with(kind: str) -> None:
    async def main() -> None:
        fds = [memfd(4096) for _ in range(3)]
        names = [identity(fd) for fd in fds]
        with End() as end:
            end.peer.send(message(DMA_MAP, ident=1))  # one without: the kernel glues it to the next
            send_with(end.peer, message(DMA_MAP, b"p" * 32, ident=2), fds[:1])
            end.peer.send(message(READ, ident=3))
            send_with(end.peer, message(SET_IRQS, ident=4), fds[1:])
            await end.messages(4)
            assert [owned for _, owned in end.got] == [(), (names[0],), (), (names[1], names[2])]
        close_all(fds)

    run_on(kind, main)


@pytest.mark.parametrize(
    ("commands", "owner"),
    [
        ((DMA_MAP, READ), 0),
        ((READ, DMA_MAP, READ), 1),
        ((SET_IRQS, DMA_MAP), 1),
        ((READ, GET_INFO), 1),
    ],
)
def test_several_messages_in_one_send(commands: tuple[int, ...], owner: int) -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End() as end:
            send_with(end.peer, b"".join(message(command, b"x" * 16) for command in commands), [fd])
            await end.messages(len(commands))
            assert [bool(owned) for _, owned in end.got] == [at == owner for at in range(len(commands))]
        close_all([fd])

    run_on("uvloop", main)


def test_a_piece_that_ends_within_a_header_waits() -> None:
    async def main() -> None:
        fd = memfd(4096)
        stream = message(SET_IRQS) + message(READ) + message(DMA_MAP)
        with End() as end:
            send_with(end.peer, stream[:40], [fd])
            await turns(10)
            assert end.got == []
            end.peer.send(stream[40:])
            await end.messages(3)
            assert [bool(owned) for _, owned in end.got] == [False, False, True]
        with End() as end:  # ... but not for ever
            send_with(end.peer, stream[:40], [fd])
            end.peer.close()
            await until(lambda: end.reasons)
            assert end.got == []
        close_all([fd])

    run_on("uvloop", main)


def test_descriptors_behind_the_header_belong_to_the_message_under_way() -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End(takers=CLIENT_TAKERS) as end:
            data = message(5, b"r" * 32)
            end.peer.send(data[:16])
            await turns(10)
            send_with(end.peer, data[16:], [fd])
            await end.messages(1)
            assert end.got == [(data, (identity(fd),))]
        close_all([fd])

    run_on("uvloop", main)


@LOOP_KINDS
def test_more_descriptors_than_there_is_room_for(kind: str) -> None:
    async def main() -> None:
        fds = [memfd(4096) for _ in range(9)]
        for max_fds, count in ((8, 9), (7, 8), (1, 9)):
            with End(max_fds=max_fds) as end:
                send_with(end.peer, message(DMA_MAP), fds[:count])
                await until(lambda end=end: end.reasons)
                assert end.got == []
                assert end.reasons == [f"more than {max_fds} descriptors with one message"]
                assert end.socket.counters["too_many_fds"] == 1
        with End(max_fds=8) as end:
            send_with(end.peer, message(DMA_MAP), fds[:8])
            await end.messages(1)
            assert len(end.got[0][1]) == 8
        close_all(fds)

    run_on(kind, main)


def test_descriptors_beside_every_byte_are_too_many_in_the_end() -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End(max_fds=4) as end:
            for byte in message(DMA_MAP, b"x" * 32):
                send_with(end.peer, bytes([byte]), [fd])
            await until(lambda: end.reasons)
            assert end.got == []
            assert end.socket.counters["fds"] <= 6
        close_all([fd])

    run_on("uvloop", main)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, int, int, list[int]]]:
    """Messages: command, bytes, descriptors, cuts."""
    found = []
    for _ in range(draw(st.integers(1, 8))):
        command = draw(st.sampled_from([READ, GET_INFO, DMA_MAP, SET_IRQS]))
        size = draw(st.sampled_from([0, 1, 16, 40, 700]))
        fds = draw(st.integers(0, 3)) if command in SERVER_TAKERS else 0
        cuts = sorted(draw(st.lists(st.integers(1, 15 + size), max_size=3, unique=True)))
        found.append((command, size, fds, cuts))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=streams(), pauses=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_any_cuts_of_messages_with_descriptors(plan: list[tuple[int, int, int, list[int]]], pauses: list[int]) -> None:
    """A sender that sends each message with sendmsg calls of its own, descriptors with its first byte."""

    async def main() -> None:
        fds = [memfd(4096) for _ in range(3)]
        expected = []
        number = 0
        with End(max_fds=4) as end:
            for ident, (command, size, count, cuts) in enumerate(plan):
                data = message(command, bytes([ident]) * size, ident=ident)
                expected.append((data, tuple(identity(fd) for fd in fds[:count])))
                for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    send_with(end.peer, data[first:last], fds[:count] if not first else ())
                    number += 1
                    await turns(pauses[number % len(pauses)])
            await end.messages(len(plan))
            assert end.got == expected
            assert end.reasons == []
        close_all(fds)

    run_on("uvloop", main)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=40),
                st.builds(message, st.integers(0, 20), st.binary(max_size=64), size=st.none() | st.integers(0, 200)),
            ),
            st.integers(0, 5),
        ),
        max_size=12,
    ),
    closes=st.booleans(),
)
def test_nothing_leaks_whatever_comes(pieces: list[tuple[bytes, int]], closes: bool) -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End(max_fds=4) as end:
            for data, count in pieces:
                if data:
                    try:
                        send_with(end.peer, data, [fd] * count)
                    except (BrokenPipeError, ConnectionResetError):
                        break
                await turns(2)
            if closes:
                end.peer.close()
                await until(lambda: end.reasons)
                assert len(end.reasons) == 1
            assert all(
                struct.unpack_from("<I", data, 4)[0] in (len(data), *range(16)) or len(data) == 16
                for data, _ in end.got
            )
        close_all([fd])

    run_on("uvloop", main)


# --- sending ----------------------------------------------------------------------------------------------------------


@LOOP_KINDS
def test_what_the_kernel_does_not_take_waits_with_its_descriptors(kind: str) -> None:
    async def main() -> None:
        fds = [memfd(4096) for _ in range(2)]
        first, second = message(READ, os.urandom(900_000)), message(5, b"s" * 32)
        with End() as end, End(takers=CLIENT_TAKERS) as other:
            end.peer.setblocking(False)
            end.socket.send([first[:16], memoryview(first)[16:]])
            end.socket.send([second], fds)
            end.socket.send([second])
            assert end.socket.queued_bytes > 0
            close_all(fds)  # copies wait
            other.peer.close()
            got = bytearray()
            came: list[int] = []
            while len(got) < len(first) + 2 * len(second):
                try:
                    data, more, _, _ = socket.recv_fds(end.peer, 1 << 20, 4)
                except BlockingIOError:
                    await turns(1)
                    continue
                if more:
                    assert len(got) + len(data) == len(first) + len(second)
                got += data
                came += more
            assert bytes(got) == first + second + second
            assert len(came) == 2
            assert end.socket.queued_bytes == 0
            close_all(came)

    run_on(kind, main)


@LOOP_KINDS
def test_who_never_reads_is_disconnected(kind: str) -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End(max_queue_bytes=300_000) as end:
            piece = message(5, b"x" * 60_000)
            for _ in range(100):
                end.socket.send([piece], [fd])
            assert not end.socket.is_open
            assert end.reasons == []  # whoever sends is in the middle of something
            await turns()
            assert len(end.reasons) == 1
            assert end.reasons[0].startswith("the peer does not read")
        with End(stall_s=0.05) as end:
            end.socket.send([b"x" * 1_000_000])
            await until(lambda: end.reasons)
            assert end.reasons == ["the peer does not read: nothing for 0.05 s"]
        close_all([fd])

    run_on(kind, main)


def test_slow_is_not_stalled() -> None:
    async def main() -> None:
        with End(stall_s=0.2) as end:
            end.socket.send([b"x" * 1_500_000])
            for _ in range(16):  # the kernel says that there is room when three quarters of it are free
                await asyncio.sleep(0.02)
                end.peer.recv(80_000)
            assert end.reasons == []
            assert end.socket.queued_bytes

    run_on("uvloop", main)


@LOOP_KINDS
def test_finish_sends_first(kind: str) -> None:
    async def main() -> None:
        data = os.urandom(1_000_000)
        with End() as end:
            end.peer.send(message(READ))
            end.socket.send([data])
            end.socket.finish("enough")
            end.socket.send([b"too late"])
            got = bytearray()
            while True:
                try:
                    piece = end.peer.recv(1 << 20)
                except BlockingIOError:
                    await turns(1)
                    continue
                except ConnectionResetError:  # what we had sent was never read
                    break
                if not piece:
                    break
                got += piece
            assert bytes(got) == data
            await until(lambda: end.reasons)
            assert end.reasons == ["enough"]
            assert end.got == []
        with End() as end:  # who does not read does not hold us up
            end.socket.send([data])
            end.socket.finish("enough", 0.05)
            await until(lambda: end.reasons)
            assert end.reasons == ["enough"]

    run_on(kind, main)


def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        fd = memfd(4096)
        with End() as end:
            end.socket.send([b"x" * 1_000_000])

            def no_more(_fd: int) -> int:
                raise OSError(24, "Too many open files")

            monkeypatch.setattr("pvnet.vfio.output.os.dup", no_more)
            end.socket.send([message(5)], [fd])
            await until(lambda: end.reasons)
            assert end.reasons == ["descriptors: too many open files"]
        close_all([fd])

    run_on("uvloop", main)


def test_the_leak_check_finds_leaks() -> None:
    with pytest.raises(AssertionError), no_leaks():
        fd = memfd(1)
    assert fd in open_fds()
    os.close(fd)
