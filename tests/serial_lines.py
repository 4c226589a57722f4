"""Serial lines for tests, without anything behind them: a :class:`DriverServices` whose lines the test moves by hand.

``loop`` and ``port:NAME`` are lines that carry bytes by themselves, at once, with small buffers; every other URI gives
a :class:`HandLine`, except ``bad:...``, which cannot be had.
"""

from __future__ import annotations

from pvnet.core.machine import Note
from pvnet.mdev.device import BlockStore, LineReceiver, RegionMemory, SerialLine
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL, ENODEV, ENOMEM


class HandLine:
    """What the port sent is in ``out``; it takes ``room`` bytes more (None: any number); ``push`` is the far end."""

    def __init__(self, address: str, receiver: LineReceiver, room: int | None = None) -> None:
        self.address, self.receiver, self.room = address, receiver, room
        self.out = bytearray()
        self.kept = bytearray()
        self.brought = bytearray()
        self.held = False
        self.closed = False
        self.resumed = 0

    def send(self, data: bytes) -> int:
        assert not self.closed
        if self.brought:
            return 0
        taken = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= taken
        self.out += data[:taken]
        return taken

    def resume(self) -> None:
        assert not self.closed
        self.resumed += 1
        self.held = False
        self.push(b"")

    def take(self) -> tuple[bytes, bytes]:
        """What it took of the port has gone, but for what was :meth:`put` without room."""
        assert not self.closed
        came, left = bytes(self.kept), bytes(self.brought)
        self.kept.clear()
        self.brought.clear()
        self.held = True
        return came, left

    def put(self, data: bytes) -> None:
        assert not self.closed
        self.brought[:0] = data
        self._move()

    def _move(self) -> None:
        taken = len(self.brought) if self.room is None else min(self.room, len(self.brought))
        if self.room is not None:
            self.room -= taken
        self.out += self.brought[:taken]
        del self.brought[:taken]

    def close(self) -> None:
        self.closed = True

    def push(self, data: bytes) -> None:
        self.kept += data
        if self.kept and not self.held:
            taken = self.receiver.receive(bytes(self.kept))
            assert 0 <= taken <= len(self.kept)
            del self.kept[:taken]

    def allow(self, room: int | None) -> None:
        self.room = room
        self._move()
        self.receiver.writable()


class Wire:
    """One direction of a line that carries bytes by itself: a buffer of ``size`` bytes between two receivers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = bytearray()
        self.source: LineReceiver | None = None
        self.sink: LineReceiver | None = None
        self.blocked = False
        self.stopped = False

    def send(self, data: bytes) -> int:
        taken = 0 if self.stopped else max(0, min(self.size - len(self.held), len(data)))
        self.held += data[:taken]
        self.blocked = self.blocked or taken < len(data)
        self.move()
        return taken

    def move(self) -> None:
        while self.held and self.sink is not None:
            offered = bytes(self.held)
            self.held.clear()
            taken = self.sink.receive(offered)
            self.held[:0] = offered[taken:]
            if not taken:
                break
        if self.blocked and not self.stopped and len(self.held) < self.size and self.source is not None:
            self.blocked = False
            self.source.writable()


class WireLine:
    """An end of two wires; of one wire, when it is a loop."""

    def __init__(self, address: str, receiver: LineReceiver, out: Wire, back: Wire) -> None:
        self.address, self._out, self._back = address, out, back
        out.source, back.sink = receiver, receiver
        self.send = out.send

    def resume(self) -> None:
        self._back.stopped = False
        self._back.move()

    def take(self) -> tuple[bytes, bytes]:
        self._back.stopped = True
        came = bytes(self._back.held)
        self._back.held.clear()
        left = bytes(self._out.held)
        self._out.held.clear()
        return came, left

    def put(self, data: bytes) -> None:
        self._out.held[:0] = data
        self._out.move()

    def close(self) -> None:
        self._out.source = self._back.sink = None


class FakeServices:
    """:class:`pvnet.mdev.device.DriverServices`; ``lines`` are all that were made."""

    def __init__(self, wire_bytes: int = 32) -> None:
        self.wire_bytes = wire_bytes
        self.lines: list[SerialLine] = []
        self.notes: list[Note] = []
        self._pairs: dict[str, tuple[Wire, Wire]] = {}

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        line: SerialLine
        kind, _, rest = uri.partition(":")
        if kind == "bad":
            raise MdevError(EINVAL, f"line {uri!r}")
        if kind == "loop":
            wire = Wire(self.wire_bytes)
            line = WireLine(uri, receiver, wire, wire)
        elif kind == "port":
            if rest in self._pairs:
                out, back = self._pairs.pop(rest)
            else:
                back, out = Wire(self.wire_bytes), Wire(self.wire_bytes)
                self._pairs[rest] = back, out
            line = WireLine(uri, receiver, out, back)
        else:
            line = HandLine(f"{uri}!", receiver)
        self.lines.append(line)
        return line

    def memory(self, name: str, size: int) -> RegionMemory:
        raise MdevError(ENOMEM)

    def store(self, path: str, size: int | None, *, readonly: bool) -> BlockStore:
        raise MdevError(ENODEV)

    def scm(self, device: str) -> BlockStore:
        raise MdevError(ENODEV)

    def note(self, note: Note) -> None:
        self.notes.append(note)


def hand(line: SerialLine) -> HandLine:
    """The line, which is one moved by hand."""
    assert isinstance(line, HandLine)
    return line
