"""What waits in a real line: taken out and put back, moved with a card, and kept for whoever connects."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import pytest
from serial_lines import FakeServices
from vfio_io_rig import LOOPS, run_on, turns, until
from vfio_line_rig import Port, accepted, dial, read_fd

from pvnet.mdev.device import LineReceiver, SerialLine
from pvnet.mdev.serial_card import SerialCard
from pvnet.vfio import line_pty, line_socket
from pvnet.vfio.line_stream import LINE_BYTES
from pvnet.vfio.lines import PortHub, open_line

LOOP_KINDS = pytest.mark.parametrize("kind", list(LOOPS))
OUTSIDE = pytest.mark.parametrize("uri", ["pty", "tcp-listen:127.0.0.1:0", "unix-listen:{}"])
DATA, FCR, LSR = 0, 2, 5


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_pty, "LOOK_S", 0.005)
    monkeypatch.setattr(line_socket, "FIRST_PAUSE_S", 0.005)


class User(AbstractContextManager["User"]):
    """Somebody at the other end of a terminal or a listening socket."""

    def __init__(self, line: SerialLine) -> None:
        if line.address.startswith("pty:"):
            self.fd = os.open(line.address.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        else:
            self.fd = dial(line).detach()

    def write(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)

    async def read(self, count: int) -> bytes:
        return await read_fd(self.fd, count)

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


def fill(send: Callable[[bytes], int]) -> bytes:
    """Send until nothing more is taken; returns what was."""
    data = bytes(range(251)) * (1 << 15)
    return data[: send(data)]


# --- take and put -----------------------------------------------------------------------------------------------------


@LOOP_KINDS
@OUTSIDE
def test_taken_and_put_back(kind: str, uri: str, tmp_path: Path) -> None:
    async def main() -> None:
        with Port(uri.format(tmp_path / "s"), room=5) as port, User(port.line) as user:
            assert port.line.take() == (b"", b"")  # before anybody is there
            port.line.resume()
            user.write(b"hello world")
            await until(lambda: port.got == b"hello")
            sent = fill(port.send)
            came, left = port.line.take()
            assert (came, len(left)) == (b" world", LINE_BYTES)
            assert sent.endswith(left)
            user.write(b", and more")
            port.room = 100
            await turns(20)
            assert port.line.take() == (b"", b"")
            assert await user.read(len(sent) - LINE_BYTES) == sent[:-LINE_BYTES]
            await turns(20)
            assert (port.got, port.wakes) == (b"hello", 0)
            port.line.put(left)
            await until(lambda: port.wakes)
            assert await user.read(LINE_BYTES) == left
            port.line.resume()
            await until(lambda: port.got == b"hello, and more")
            port.send(b"end")
            assert await user.read(3) == b"end"

    run_on(kind, main)


@LOOP_KINDS
@OUTSIDE
def test_what_was_put_waits_for_somebody(kind: str, uri: str, tmp_path: Path) -> None:
    async def main() -> None:
        with Port(uri.format(tmp_path / "s")) as port:
            port.line.put(b"second ")
            port.line.put(b"first ")
            assert port.send(b"lost") == 4
            assert port.line.take() == (b"", b"first second ")
            port.line.put(bytes(2 * LINE_BYTES))
            port.line.resume()
            with User(port.line) as user:
                assert await user.read(2 * LINE_BYTES) == bytes(2 * LINE_BYTES)
                port.send(b"now")
                assert await user.read(3) == b"now"
            await until(lambda: port.line._fd < 0)
            port.line.put(b"again")
        # Closed, it forgets them.

    run_on(kind, main)


@LOOP_KINDS
@OUTSIDE
def test_more_than_a_line_keeps_can_be_put_but_not_sent(kind: str, uri: str, tmp_path: Path) -> None:
    async def main() -> None:
        with Port(uri.format(tmp_path / "s")) as port, User(port.line) as user:
            await until(lambda: port.line._fd >= 0)
            sent = fill(port.send)
            left = port.line.take()[1]
            port.line.put(left + bytes(3 * LINE_BYTES))
            assert port.send(b"x") == 0
            assert await user.read(len(sent) + 3 * LINE_BYTES) == sent + bytes(3 * LINE_BYTES)
            await until(lambda: port.wakes)
            assert port.send(b"x") == 1
            assert await user.read(1) == b"x"

    run_on(kind, main)


@LOOP_KINDS
def test_who_leaves_a_line_that_was_taken_makes_room_for_the_next(kind: str) -> None:
    async def main() -> None:
        with Port("tcp-listen:127.0.0.1:0") as port:
            with User(port.line) as user:
                user.write(b"one")
                await until(lambda: port.got == b"one")
                port.line.take()
            with User(port.line) as user:
                user.write(b"two")
                await turns(20)
                assert port.got == b"one"
                port.send(b"out")
                assert await user.read(3) == b"out"
                port.line.resume()
                await until(lambda: port.got == b"onetwo")
                port.line.take()
            port.line.resume()  # it notices now that nobody is there
            await until(lambda: port.line._fd < 0)

    run_on(kind, main)


@LOOP_KINDS
def test_a_loop_is_held_until_it_is_resumed(kind: str) -> None:
    async def main() -> None:
        with Port("loop", room=3) as port:
            port.send(b"abcdef")
            await turns()
            assert port.line.take() == (b"def", b"")
            port.room = 100
            assert port.send(b"no") == 0
            await turns(5)
            assert (port.got, port.wakes) == (b"abc", 0)
            port.line.resume()
            await until(lambda: port.wakes == 1)
            port.line.put(b"from elsewhere ")
            assert port.send(b"yes") == 3
            await until(lambda: port.got == b"abcfrom elsewhere yes")

    run_on(kind, main)


@LOOP_KINDS
def test_a_cable_is_held_at_one_end(kind: str) -> None:
    async def main() -> None:
        hub = PortHub()
        with Port("port:a", hub, room=0) as one:
            one.line.put(b"early ")
            assert one.line.take() == (b"", b"early ")
            one.line.resume()
            one.line.put(b"early ")
            assert one.send(b"lost") == 4
            with Port("port:a", hub, room=6) as other:
                await until(lambda: other.got == b"early ")
                one.send(b"out")
                other.send(b"in")
                await turns()
                assert one.line.take() == (b"in", b"out")
                one.room = 100
                assert other.send(b"held") == 0
                await turns(5)
                assert (one.got, other.wakes) == (b"", 0)
                one.line.put(b"out")
                other.more_room(100)
                await until(lambda: other.got == b"early out")
                one.line.resume()
                await until(lambda: other.wakes == 1)
                other.send(b"free")
                await until(lambda: one.got == b"free")
                one.line.take()
                assert other.send(b"held") == 0
                one.line.close()  # the device lives elsewhere now
                await until(lambda: other.wakes == 2)
                assert other.send(b"lost") == 4

    run_on(kind, main)


def test_none_has_nothing() -> None:
    async def main() -> None:
        with Port("none") as port:
            port.line.put(b"lost")
            assert port.line.take() == (b"", b"")

    run_on("uvloop", main)


# --- a card over real lines -------------------------------------------------------------------------------------------


class Host(FakeServices):
    """Makes cards of one port whose lines are real."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = PortHub()

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        return open_line(uri, receiver, self.hub)

    def card(self, uri: str) -> Card:
        return Card(SerialCard("card", 1, {"port0": uri}, self))


class Card:
    def __init__(self, card: SerialCard) -> None:
        self.card, self.port = card, card.ports[0]
        self.close = card.remove
        card.write(0, FCR, b"\x01")

    @property
    def line(self) -> SerialLine:
        assert self.port._line is not None
        return self.port._line

    async def read(self, count: int) -> bytes:
        got = bytearray()

        def enough() -> bool:
            while self.card.read(0, LSR, 1)[0] & 1:
                got.extend(self.card.read(0, DATA, 1))
            return len(got) >= count

        await until(enough)
        await turns(5)
        assert enough()
        return bytes(got)

    def write(self, data: bytes) -> None:
        for value in data:
            self.card.write(0, DATA, bytes((value,)))

    def move(self, target: Card, *, failing: bool) -> Card:
        """Carry the state over; returns the card that goes on."""
        self.carry_to(target)
        return self.end_move(target, failing=failing)

    def carry_to(self, target: Card) -> None:
        self.card.migration.save_begin()
        self.card.stop()
        target.card.stop()
        target.card.migration.restore_begin()
        while piece := self.card.migration.save(1000):
            target.card.migration.restore(piece)
        target.card.migration.restore_end()

    def end_move(self, target: Card, *, failing: bool) -> Card:
        stays, goes = (self, target) if failing else (target, self)
        goes.close()
        stays.card.start()
        return stays


MOVES = pytest.mark.parametrize("failing", [False, True], ids=["moves", "stays"])


@LOOP_KINDS
@MOVES
def test_a_card_with_a_loop(kind: str, failing: bool) -> None:
    async def main() -> None:
        card = Host().card("loop")
        data = bytes(range(200))
        card.write(data[:100])
        await turns(5)  # 16 are in RX
        for _ in range(3):
            card = card.move(Host().card("loop"), failing=failing)
            await turns(5)
        with closing(card):
            card.write(data[100:116])
            assert await card.read(116) == data[:116]
            card.write(data[116:])
            assert await card.read(84) == data[116:]

    run_on(kind, main)


@LOOP_KINDS
@MOVES
def test_a_card_on_a_cable(kind: str, failing: bool) -> None:
    async def main() -> None:
        here, there = Host(), Host()
        with closing(here.card("port:a")) as peer, closing(there.card("port:a")) as peer_there:
            source = here.card("port:a")
            source.write(bytes(range(50)))
            peer.write(bytes(range(100, 160)))
            await turns(5)
            with closing(source.move(there.card("port:a"), failing=failing)) as card:
                assert await card.read(60) == bytes(range(100, 160))
                if failing:
                    assert await peer.read(50) == bytes(range(50))
                else:
                    assert await peer.read(16) == bytes(range(16))
                    assert await peer_there.read(34) == bytes(range(16, 50))

    run_on(kind, main)


@LOOP_KINDS
@OUTSIDE
@MOVES
def test_a_card_with_somebody_outside(kind: str, uri: str, failing: bool, tmp_path: Path) -> None:
    async def main() -> None:
        source = Host().card(uri.format(tmp_path / "a"))
        with User(source.line) as user:
            user.write(bytes(range(60)))
            await until(lambda: len(getattr(source.line, "_inward", b"")) == 44)
            sent = fill(source.port.transmit)
            source.write(b"the UART's own")
            source.carry_to(target := Host().card(uri.format(tmp_path / "b")))
            got = await user.read(len(sent) - LINE_BYTES)  # what the kernel has, stays
            card = source.end_move(target, failing=failing)
            with closing(card), nullcontext(user) if failing else User(card.line) as whoever:
                got += await whoever.read(len(sent) - len(got))
                assert got == sent
                if failing:
                    assert await whoever.read(14) == b"the UART's own"
                whoever.write(b"later")
                assert await card.read(65) == bytes(range(60)) + b"later"

    run_on(kind, main)


@LOOP_KINDS
def test_a_card_that_connects_brings_what_nobody_has_taken(kind: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("127.0.0.1", 0)) as there:
            source, target = (Host().card(f"tcp:127.0.0.1:{server.getsockname()[1]}") for server in (here, there))
            here.setblocking(False)
            there.setblocking(False)
            user = await accepted(here)
            await until(lambda: source.line._fd >= 0)
            user.sendall(bytes(range(60)))
            await until(lambda: len(source.line._inward) == 44)
            sent = fill(source.port.transmit)
            with user, closing(source.move(target, failing=False)) as card, await accepted(there) as whoever:
                assert await read_fd(whoever.fileno(), LINE_BYTES) == sent[-LINE_BYTES:]
                whoever.sendall(b"later")
                assert await card.read(65) == bytes(range(60)) + b"later"

    run_on(kind, main)
