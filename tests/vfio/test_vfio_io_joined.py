"""Which messages leave in one send, and which by themselves.  Spec: mdev 6.1.

Over a socket that keeps the bounds of what was sent, so that every packet that is seen was one send.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Self

import pytest
from vfio_io_rig import LOOPS, identity, memfd, message, run_on, turns, until

from pvnet.transport.unix_socket import close_all
from pvnet.vfio.framing import SERVER_TAKERS, MessageSocket
from pvnet.vfio.output import BROKEN, JOIN_BYTES, JOIN_MESSAGES, OutputQueue

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))
READ = 9
_ROOM = 1 << 18


class Answering:
    """A MessageSocket that answers each message with ``answer``; the other end sees packets."""

    def __init__(self, *, lingers: bool = False) -> None:
        self.peer, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer.setblocking(False)
        self.reasons: list[str] = []
        self.answer: Callable[[bytes], None] = self.echo
        self.socket = MessageSocket(
            ours,
            lambda data, _fds: self.answer(bytes(data)),
            self.reasons.append,
            takers=SERVER_TAKERS,
            lingers=lingers,
        )

    def echo(self, data: bytes) -> None:
        self.socket.send((data[:16], data[16:]), ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.peer.close()
        self.socket.close()

    def packets(self) -> list[bytes]:
        """What has come, one entry per send; empty ones at the end of the stream are none."""
        found: list[bytes] = []
        while True:
            try:
                packet = self.peer.recv(_ROOM)
            except BlockingIOError:
                return found
            if not packet:
                return found
            found.append(packet)


def _messages(count: int, payload: bytes = b"payload") -> list[bytes]:
    return [message(READ, payload, ident=number) for number in range(count)]


@LOOP_KINDS
def test_one_at_a_time_is_answered_one_at_a_time(kind: str) -> None:
    async def main() -> None:
        for lingers in (False, True):
            with Answering(lingers=lingers) as end:
                for each in _messages(5):
                    end.peer.send(each)
                    await turns(2)
                    assert end.packets() == [each]

    run_on(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize(
    ("count", "joined"),
    [(2, [1, 1]), (5, [1, 4]), (1 + JOIN_MESSAGES, [1, 16]), (2 + JOIN_MESSAGES, [1, 16, 1]), (40, [1, 16, 16, 7])],
)
def test_answers_to_several_are_joined(kind: str, count: int, joined: list[int]) -> None:
    asked = _messages(count)

    async def main() -> None:
        with Answering() as end:
            end.peer.send(b"".join(asked))
            await turns(3)
            packets = end.packets()
            assert [len(packet) // len(asked[0]) for packet in packets] == joined
            assert b"".join(packets) == b"".join(asked)
            end.socket.send((asked[0],), ())
            assert end.packets() == [asked[0]], "what comes later is not held"

    run_on(kind, main)


@LOOP_KINDS
def test_a_batch_after_the_other(kind: str) -> None:
    asked = _messages(150, b"")

    async def main() -> None:
        for lingers in (False, True):
            with Answering(lingers=lingers) as end:
                end.peer.send(b"".join(asked))
                got: list[bytes] = []
                while sum(map(len, got)) < 150 * 16:
                    await turns(1)
                    got += end.packets()
                assert b"".join(got) == b"".join(asked)
                assert len(got) < 20
                assert end.reasons == []

    run_on(kind, main)


@LOOP_KINDS
def test_long_ones_go_by_themselves_and_in_order(kind: str) -> None:
    sizes = [10, 20, JOIN_BYTES, 30, 6000, 6000, 6000, 16 - 16]
    asked = [message(READ, os.urandom(size), ident=number) for number, size in enumerate(sizes)]

    async def main() -> None:
        with Answering() as end:
            end.peer.send(b"".join(asked))
            await until(lambda: end.socket.messages == len(asked))
            packets = end.packets()
            assert packets == [
                asked[0],
                asked[1],
                asked[2],
                asked[3] + asked[4] + asked[5],
                asked[6] + asked[7],
            ]

    run_on(kind, main)


@LOOP_KINDS
def test_one_with_a_descriptor_goes_alone(kind: str) -> None:
    asked = _messages(5)

    async def main() -> None:
        fd = memfd(4096)
        with Answering() as end:

            def answer(data: bytes) -> None:
                end.socket.send((data,), (fd,) if data == asked[3] else ())

            end.answer = answer
            end.peer.send(b"".join(asked))
            await turns(3)
            seen = []
            for _ in range(4):
                data, fds, _, _ = socket.recv_fds(end.peer, _ROOM, 4)
                seen.append((data, [identity(came) for came in fds]))
                close_all(fds)
            assert seen == [
                (asked[0], []),
                (asked[1] + asked[2], []),
                (asked[3], [identity(fd)]),
                (asked[4], []),
            ]
        os.close(fd)

    run_on(kind, main)


@LOOP_KINDS
def test_what_woken_tasks_send_is_joined_where_it_lingers(kind: str) -> None:
    async def main() -> None:
        for lingers, sends in ((True, 1), (False, 8)):
            with Answering(lingers=lingers) as end:
                loop = asyncio.get_running_loop()
                waiting = [loop.create_future() for _ in range(8)]

                async def task(
                    number: int, end: Answering = end, waiting: list[asyncio.Future[None]] = waiting
                ) -> None:
                    await waiting[number]
                    end.echo(message(READ, b"again", ident=number))

                async with asyncio.TaskGroup() as group:
                    for number in range(8):
                        group.create_task(task(number))
                    await turns(1)
                    left = iter(waiting)
                    end.answer = lambda _, left=left: next(left).set_result(None)  # type: ignore[misc]
                    end.peer.send(b"".join(_messages(8)))
                await turns(2)
                packets = end.packets()
                assert b"".join(packets) == b"".join(message(READ, b"again", ident=n) for n in range(8))
                assert len(packets) == sends
                end.echo(message(READ))
                assert end.packets() == [message(READ)], "and nothing any more, once they have run"

    run_on(kind, main)


@LOOP_KINDS
def test_what_is_held_leaves_before_the_end(kind: str) -> None:
    asked = _messages(6)

    async def main() -> None:
        for lingers in (False, True):
            with Answering(lingers=lingers) as end:

                def answer(data: bytes, end: Answering = end) -> None:
                    end.echo(data)
                    if data == asked[3]:
                        end.socket.finish("enough")
                        end.echo(b"nothing after the end")

                end.answer = answer
                end.peer.send(b"".join(asked))
                await until(lambda end=end: end.reasons)  # type: ignore[misc]
                assert end.packets() == [asked[0], b"".join(asked[1:4])]
                assert end.reasons == ["enough"]

    run_on(kind, main)


@LOOP_KINDS
def test_closed_while_something_is_held(kind: str) -> None:
    asked = _messages(6)

    async def main() -> None:
        for lingers in (False, True):
            with Answering(lingers=lingers) as end:

                def answer(data: bytes, end: Answering = end) -> None:
                    end.echo(data)
                    if data == asked[3]:
                        end.socket.close()

                end.answer = answer
                end.peer.send(b"".join(asked))
                await turns(4)
                assert end.packets() == [asked[0]]
                assert end.reasons == []

    run_on(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("with_fd", [False, True])
def test_the_peer_goes_while_something_is_held(kind: str, with_fd: bool) -> None:
    """It is told once, though a message that had to go by itself found out."""
    asked = _messages(6)

    async def main() -> None:
        fd = memfd(4096)
        with Answering() as end:
            seen: list[bytes] = []

            def answer(data: bytes) -> None:
                seen.append(data)
                if data == asked[2]:
                    end.peer.close()
                end.socket.send((data,), (fd,) if with_fd and data == asked[4] else ())

            end.answer = answer
            end.peer.send(b"".join(asked))
            await until(lambda: end.reasons)
            await turns(3)
            assert seen == asked, "what it had sent is worked on all the same"
            assert len(end.reasons) == 1
            assert not end.socket.is_open
        os.close(fd)

    run_on(kind, main)


@LOOP_KINDS
@pytest.mark.parametrize("size", [10, JOIN_BYTES, JOIN_BYTES + 1])
def test_failure_is_told_once(kind: str, size: int) -> None:
    async def main() -> None:
        peer, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd, failed = memfd(4096), list[str]()
        ours.setblocking(False)
        output = OutputQueue(ours, failed.append, max_bytes=1 << 20, stall_s=30.0)
        output.hold()
        output.send((b"held",))
        peer.close()
        output.send((bytes(size),), (fd,))
        output.send((b"later",))
        output.release()
        output.hold()
        output.send((b"later still",))
        output.release()
        assert failed == [BROKEN]
        assert output.queued_bytes == 0
        output.close()
        ours.close()
        os.close(fd)

    run_on(kind, main)


@LOOP_KINDS
def test_a_peer_that_does_not_read_gets_all_of_it_later(kind: str) -> None:
    asked = _messages(JOIN_MESSAGES, bytes(1000))
    got: list[bytes] = []

    async def main() -> None:
        with Answering() as end:
            rounds = 40
            for _ in range(rounds):
                end.peer.send(b"".join(asked))
                await turns(2)
            assert end.socket.queued_bytes > 0
            while sum(map(len, got)) < rounds * len(asked) * len(asked[0]):
                got.extend(end.packets())
                await turns(1)
            assert b"".join(got) == b"".join(asked) * rounds
            assert end.reasons == []

    run_on(kind, main)
