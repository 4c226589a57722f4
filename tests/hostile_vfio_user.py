"""A vfio-user client that means harm: raw sockets to one device of an mdev host, one attack per function.

All of it blocks, and is meant to run in a thread beside those who go on working.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from user_payloads import access, dma, irqs
from vfio_io_rig import memfd, message, send_with

from pvnet.mdev.ccw_layout import Ccw, Orb, Scsw
from pvnet.mdev.ccw_names import Function, OrbFlag
from pvnet.mdev.ccw_regions import IO_BYTES
from pvnet.mdev.vfio_user import Command

PATIENCE_S = 20.0
NO_REPLY = 0x10
IOVA = 0x100000
MEMORY = 1 << 20
VERSION = message(Command.VERSION, struct.pack("<HH", 0, 1))
INFO = message(Command.DEVICE_GET_INFO, struct.pack("<4I", 16, 0, 0, 0))
CC, CD, SLI, IDA = 0x40, 0x80, 0x20, 0x04
USUAL = OrbFlag.FORMAT_1 | OrbFlag.PREFETCH | OrbFlag.IDAW_64
GONE = (BrokenPipeError, ConnectionResetError)


class DroppedError(Exception):
    """The server has closed the connection."""


class Client:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        end = time.monotonic() + PATIENCE_S
        try:
            while True:
                try:
                    self.sock.connect(str(path))
                except BlockingIOError:  # too many knock at the door
                    assert time.monotonic() < end
                    time.sleep(0.001)
                else:
                    break
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def greet(self) -> Client:
        self.sock.sendall(VERSION)
        self.reply()
        return self

    def receive(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            try:
                piece = self.sock.recv(count - len(found))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise DroppedError
            found += piece
        return found

    def reply(self) -> tuple[int, int, bytes]:
        """Command, errno and payload of the next reply; DMA_READ and DMA_WRITE of the server are refused."""
        while True:
            ident, command, size, flags, error = struct.unpack("<HHIII", self.receive(16))
            payload = self.receive(size - 16)
            if flags & 0xF:
                return command, error, payload
            self.sock.sendall(struct.pack("<HHIII", ident, command, 16, 0x21, 14))

    def ask(self, command: int, payload: bytes, fds: list[int] | None = None) -> int:
        """A request; its errno."""
        send_with(self.sock, message(command, payload), fds or [])
        return self.reply()[1]

    def is_dropped(self) -> bool:
        """Read until it is."""
        try:
            while True:
                self.receive(1)
        except DroppedError:
            return True
        except TimeoutError:
            return False


def until_dropped(client: Client, data: bytes, seconds: float) -> bool:
    """Send again and again without reading; whether the server has had enough."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            client.sock.sendall(data)
        except GONE:
            return True
    return False


# --- attacks on any device --------------------------------------------------------------------------------------------


def lengths(path: Path, _: float) -> int:
    """Sizes that cannot be: the connection ends."""
    done = 0
    for size in (0, 1, 15, 1 << 31, 0xFFFFFFFF):
        for greets in (False, True):
            with Client(path) as client:
                if greets:
                    client.greet()
                client.sock.sendall(message(Command.DEVICE_GET_INFO, bytes(64), size=size))
                assert client.is_dropped(), size
                done += 1
    return done


def halves(path: Path, seconds: float) -> int:
    """Messages that are never complete."""
    whole = message(Command.REGION_WRITE, access(0, 0, 1 << 16, bytes(1 << 16)))
    done = 0
    for cut in (1, 8, 15, 16, 17, 40, 1000, len(whole) - 1):
        with Client(path) as client:
            client.greet()
            client.sock.sendall(whole[:cut])
            time.sleep(seconds / 50)
            done += 1
    return done


def json_bombs(path: Path, _: float) -> int:
    """VERSION with texts that are too much."""
    texts = [
        b'{"capabilities":' + b"[" * 100_000 + b"]" * 100_000 + b"}\0",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"\0",
        b'{"capabilities":{' + b",".join(b'"max_msg_fds":1' for _ in range(50_000)) + b"}}\0",
        b'{"capabilities":{"max_data_xfer_size":' + b"9" * 500_000 + b"}}\0",
        b'{"capabilities":{"max_msg_fds":1e999999}}\0',
        b'"' + b"\\ud800" * 100_000 + b'"\0',
        b" " * 1_000_000 + b"\0",
        b"{}",
        b"\0" * 1_000_000,
    ]
    for text in texts:
        with Client(path) as client, contextlib.suppress(DroppedError, *GONE):
            client.sock.sendall(message(Command.VERSION, struct.pack("<HH", 0, 1) + text))
            client.reply()
    return len(texts)


def connections(path: Path, seconds: float) -> int:
    """Come and go, a thousand times."""
    done = 0
    end = time.monotonic() + 10 * seconds
    while done < 1000 and time.monotonic() < end:
        with contextlib.suppress(*GONE), Client(path) as client:
            if done % 3 == 0:
                client.sock.sendall(VERSION[: done % len(VERSION)])
            done += 1
    return done


def posted_flood(path: Path, seconds: float) -> int:
    """Writes that want no reply, as many as go."""
    one = message(Command.REGION_WRITE, access(7, 0, 1, b"x"), flags=NO_REPLY)
    sent = 0
    end = time.monotonic() + seconds
    with Client(path) as client:
        client.greet()
        while time.monotonic() < end:
            client.sock.sendall(one * 1000)
            sent += 1000
    return sent


def map_flood(path: Path, seconds: float) -> int:
    """More DMA maps than there may be, each with a descriptor."""
    full = 0
    fd = memfd(4096)
    end = time.monotonic() + 5 * seconds
    try:
        with Client(path) as client:
            client.greet()
            for number in range(70_000):
                errno = client.ask(Command.DMA_MAP, dma(number << 13, 4096), [fd] if number % 2 else None)
                full += errno != 0
                if full > 20 or time.monotonic() > end:
                    return number
    finally:
        os.close(fd)
    return 70_000


def fd_flood(path: Path, _: float) -> int:
    """Descriptors with everything, more than there may be, with messages that may have none."""
    fds = [os.memfd_create("flood") for _ in range(200)]
    try:
        for count in (1, 2, 8, 9, 16, 17, 64, 200):
            for request in (VERSION, INFO, message(Command.DMA_MAP, dma(0, 4096)), b"\xff" * 16, VERSION[:3]):
                with Client(path) as client, contextlib.suppress(DroppedError, *GONE):
                    client.greet()
                    for _ in range(20):
                        send_with(client.sock, request, fds[:count])
    finally:
        for fd in fds:
            os.close(fd)
    return len(fds)


def deaf(path: Path, _: float) -> int:
    """Ask, and read no answer, until the host has had enough."""
    config = message(Command.REGION_READ, access(0, 7, 256))
    with Client(path) as client:
        client.greet()
        return until_dropped(client, config * 500, PATIENCE_S)


def odd_descriptors(path: Path, _: float) -> int:
    """What should be an eventfd or memory, and is something else."""
    ours, pipe = os.pipe()
    left, right = socket.socketpair()
    with open(os.devnull, "r+b") as null, open(__file__, "rb") as file, left, right:  # noqa: PTH123
        epoll, full = os.pidfd_open(os.getpid()), os.eventfd(0xFFFFFFFF)
        os.eventfd_write(full, 0xFFFFFFFFFFFFFFFE - 0xFFFFFFFF)
        short = memfd(100)
        odd = [ours, pipe, right.fileno(), null.fileno(), file.fileno(), epoll, short]
        with Client(path) as client:
            client.greet()
            for fd in odd:
                assert client.ask(Command.DEVICE_SET_IRQS, irqs(0x24, 0, 0, 1), [fd])
                assert client.ask(Command.DMA_MAP, dma(IOVA, 8192), [fd])
            assert client.ask(Command.DEVICE_SET_IRQS, irqs(0x24, 0, 0, 1), [full]) == 0
            assert client.ask(Command.DEVICE_SET_IRQS, irqs(0x21, 0, 0, 1)) == 0, "a counter at its end is no obstacle"
        for fd in (ours, pipe, epoll, full, short):
            os.close(fd)
    return len(odd)


def wraps(path: Path, _: float) -> int:
    """Offsets, counts, addresses that wrap or lie outside."""
    dice = random.Random(1)
    odd = [0, 1, 7, 8, 123, 124, 125, 255, 256, 1 << 20, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1]
    done = 0
    with Client(path) as client:
        client.greet()
        for offset in odd:
            for region in (*range(10), 0xFFFFFFFF):
                count = dice.choice([1, 4, 200, (1 << 20) + 1, 0xFFFFFFFF])
                client.ask(Command.REGION_READ, access(offset, region, count))
                client.ask(Command.REGION_WRITE, access(offset, region, 3, b"abc"))
                done += 2
            for size in odd:
                client.ask(Command.DMA_MAP, dma(offset, size))
                client.ask(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, dice.randrange(4), offset, size))
                client.ask(Command.DEVICE_SET_IRQS, irqs(0x24, 0, offset & 0xFFFFFFFF, size & 0xFFFFFFFF))
                done += 3
    return done


def noise(path: Path, seconds: float) -> int:
    """Commands with random payloads."""
    dice = random.Random(2)
    done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(DroppedError, *GONE), Client(path) as client:
            client.greet()
            for _ in range(50):
                payload = dice.randbytes(dice.choice([0, 4, 8, 16, 20, 32, 36, 200]))
                client.ask(dice.randrange(20), payload)
                done += 1
    return done


_DOOMED = """
import os, signal, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
data = bytes.fromhex(sys.argv[2])
socket.send_fds(sock, [data], [os.memfd_create("x")] * int(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, _: float) -> int:
    """SIGKILL in the middle of a message."""
    whole = VERSION + message(Command.DMA_MAP, dma(0, 4096))
    cuts = (7, len(VERSION), len(VERSION) + 10, len(VERSION) + 20, len(whole) - 1)
    for number, cut in enumerate(cuts):
        done = subprocess.run(
            [sys.executable, "-S", "-c", _DOOMED, str(path), whole[:cut].hex(), str(number % 2 * 2 + 1)], check=False
        )
        assert done.returncode == -signal.SIGKILL
    return len(cuts)


# --- attacks on a channel disk ----------------------------------------------------------------------------------------


def shrunk(path: Path, _: float) -> int:
    """Memory that was there when it was mapped, and then is not: the host must not die of SIGBUS."""
    done = 0
    for size in (MEMORY, 4096):
        for left in (0, 100, 4096):
            fd = memfd(size)
            with Client(path) as client:
                client.greet()
                assert client.ask(Command.DMA_MAP, dma(IOVA, size), [fd]) == 0
                os.ftruncate(fd, left)
                for at in (IOVA, IOVA + size - 8):
                    client.ask(Command.REGION_WRITE, access(0, 0, IO_BYTES, program(at)))
                    client.ask(Command.REGION_READ, access(0, 0, IO_BYTES))
                    done += 1
            os.close(fd)
    return done


def program(address: int, flags: int = USUAL) -> bytes:
    """What region 0 is written with."""
    return (Orb(address, flags).encode() + Scsw(fctl=Function.START).encode()).ljust(IO_BYTES, b"\0")


def _list(*ccws: Ccw) -> bytes:
    return b"".join(ccw.encode() for ccw in ccws)


def programs(path: Path, seconds: float) -> int:
    """Channel programs that loop, are endless, point outside, or are nothing; in shared memory and without."""
    dice = random.Random(3)
    nop, tic = 0x03, 0x08
    texts = [
        _list(Ccw(tic, 0, 0, IOVA)),
        _list(Ccw(nop, CC | SLI, 1, IOVA), Ccw(tic, 0, 0, IOVA)),
        _list(Ccw(nop, CC | SLI, 1, IOVA), Ccw(tic, 0, 0, IOVA + 0x800)).ljust(0x800, b"\0")
        + _list(Ccw(nop, CC | SLI, 1, IOVA), Ccw(tic, 0, 0, IOVA)),
        _list(*[Ccw(nop, CC | SLI, 1, IOVA)] * 10_000),
        _list(*[Ccw(0xE4, CD | SLI, 64, IOVA + 0x80000)] * 10_000),
        _list(*[Ccw(tic, 0, 0, IOVA + 8 * i + 8) for i in range(10_000)]),
        _list(Ccw(0xE4, SLI, 65535, 0x7FFFFFF0)),
        _list(Ccw(0xE4, SLI | IDA, 65535, IOVA + MEMORY - 8)),
        _list(Ccw(0xE4, SLI | IDA, 65535, IOVA)),
        _list(Ccw(0x02, SLI, 65535, 0)),
        *(dice.randbytes(4096) for _ in range(20)),
    ]
    done = 0
    fd = memfd(MEMORY, seals=6)  # SHRINK | GROW
    end = time.monotonic() + 5 * seconds
    try:
        for shared in (True, False):
            with Client(path) as client:
                client.greet()
                assert client.ask(Command.DMA_MAP, dma(IOVA, MEMORY), [fd] if shared else None) == 0
                for text in texts:
                    os.pwrite(fd, text.ljust(MEMORY // 2, b"\0"), 0)
                    for flags in (USUAL, USUAL & ~OrbFlag.FORMAT_1, USUAL & ~OrbFlag.PREFETCH):
                        client.ask(Command.REGION_WRITE, access(0, 0, IO_BYTES, program(IOVA, flags)))
                        client.ask(Command.REGION_READ, access(0, 0, IO_BYTES))
                        client.ask(Command.REGION_WRITE, access(0, 1, 8, struct.pack("<II", dice.choice([1, 2]), 0)))
                        done += 1
                    if time.monotonic() > end:
                        break
    finally:
        os.close(fd)
    return done


def unanswered(path: Path, _: float) -> int:
    """Programs in memory that the client is asked for, and does not answer for."""
    done = 0
    for _ in range(3):
        with Client(path) as client:
            client.greet()
            assert client.ask(Command.DMA_MAP, dma(IOVA, MEMORY)) == 0
            for _ in range(200):
                client.sock.sendall(message(Command.REGION_WRITE, access(0, 0, IO_BYTES, program(IOVA))))
                done += 1
    return done


Attack = Callable[[Path, float], int]
ANY: list[Attack] = [
    lengths,
    halves,
    json_bombs,
    connections,
    posted_flood,
    map_flood,
    fd_flood,
    deaf,
    odd_descriptors,
    wraps,
    noise,
    killed,
]
DISK: list[Attack] = [lengths, wraps, noise, shrunk, programs, unanswered]
