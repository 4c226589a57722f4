"""One connected SOCK_SEQPACKET socket on the event loop: packets with file descriptors in, packets out.

A raw socket with ``add_reader``, because the transports of asyncio and uvloop drop file descriptors silently.  Reading
always has room for descriptors; what comes in excess, or with a packet that must have none, is closed.

What the kernel does not take now waits in a queue of ours, bounded by :data:`MAX_QUEUE_BYTES`; beyond it packets are
lost, as a port may lose frames, and the link repeats them.  The bound is twice what a link has in flight, so only a
peer that does not read for seconds gets there.  Reading and writing never wait for each other.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pvnet.transport.base import MAX_SHARED_FDS
from pvnet.transport.unix_hello import HEADER_BYTES

MAX_QUEUE_BYTES: Final = 16 * 1024 * 1024
MAX_QUEUE_PACKETS: Final = 65536
_BATCH: Final = 64
_KERNEL_BYTES: Final = 1024 * 1024
_CONTROL_BYTES: Final = socket.CMSG_SPACE(MAX_SHARED_FDS * array.array("i").itemsize)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_CUT: Final = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
"""Plain numbers: combining Python's flag enums would cost more than the check, for every packet."""
_NOT_NOW: Final = (BlockingIOError, InterruptedError)
_NOT_THIS: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EBADF})
"""The kernel does not take this packet; the connection is as before."""

Receive = Callable[[int, int, bytes, list[int]], None]
"""Takes kind, detail, body and file descriptors (which it owns) of a packet."""
End = Callable[[str], None]
"""Told once, in a turn of the loop of its own or from reading, that the connection has ended, and why."""


class PacketSocket:
    """See the module's text.  ``buffer`` (of MAX_PACKET_BYTES) may be shared by all sockets of one loop."""

    def __init__(self, sock: socket.socket, buffer: bytearray, receive: Receive, end: End) -> None:
        self.lost = 0
        """Packets that did not fit into the queue."""
        self._sock = sock
        self._fd = sock.fileno()
        self._view = memoryview(buffer)
        self._buffers = (buffer,)
        self._receive = receive
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, bytes, list[int]]] = deque()
        self._queued_bytes = 0
        self._is_reading = False
        self._was_reset = False
        self._is_broken = False
        self._drained: asyncio.Future[None] | None = None
        self.is_open = True
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        self._loop.add_reader(self._fd, self.read)

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take the packets that are there; what is more than a batch in the next turn of the loop."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            left = _BATCH
            while left and self.is_open and self._read_one():
                left -= 1
            if not left and self.is_open:
                self._loop.call_soon(self.read)  # libuv announces a broken connection only once
        finally:
            self._is_reading = False

    def read_all(self) -> None:
        """Take all packets that are there now."""
        if not self._is_reading:
            self._is_reading = True
            try:
                left = MAX_QUEUE_PACKETS
                while left and self.is_open and self._read_one():
                    left -= 1
            finally:
                self._is_reading = False

    def _read_one(self) -> bool:
        """Take one packet; False when there is none."""
        try:
            size, control, flags, _ = self._sock.recvmsg_into(self._buffers, _CONTROL_BYTES, _CLOEXEC)
        except _NOT_NOW:
            return False
        except ConnectionResetError:
            if self._was_reset:
                self._ended("reset by the peer")
                return False
            self._was_reset = True  # the peer closed without reading all; what it had sent is still there
            return True
        except OSError as error:
            self._ended((error.strerror or str(error)).lower())
            return False
        fds = _fds(control) if control else []
        if size < HEADER_BYTES or flags & _CUT:
            close_all(fds)
            self._ended("" if size == 0 and not fds else "a packet that is too long or too short")
            return False
        view = self._view
        self._receive(view[0], view[1], bytes(view[HEADER_BYTES:size]), fds)
        return True

    # --- writing -----------------------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes, fds: Sequence[int] = ()) -> bool:
        """Send a packet now or as soon as the kernel takes it; copies of ``fds`` travel with it.

        False: this packet cannot go this way (the connection is gone, or the kernel refuses it).
        """
        if not self.is_open or self._is_broken:
            return False
        if self._queue:
            return self._wait(head, body, fds)
        try:
            self._transmit(head, body, fds)
        except _NOT_NOW:
            self._loop.add_writer(self._fd, self._writable)
            return self._wait(head, body, fds)
        except OSError as error:
            return self._refused(error)
        return True

    def _transmit(self, head: bytes, body: bytes, fds: Sequence[int]) -> None:
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            self._sock.sendmsg((head, body), rights)
        else:
            self._sock.sendmsg((head, body))

    def _refused(self, error: OSError) -> bool:
        if error.errno not in _NOT_THIS and not self._is_broken:
            self._is_broken = True
            self._loop.call_soon(self._finish, (error.strerror or str(error)).lower())
        return False

    def _wait(self, head: bytes, body: bytes, fds: Sequence[int]) -> bool:
        if self._queued_bytes > MAX_QUEUE_BYTES or len(self._queue) >= MAX_QUEUE_PACKETS:
            self.lost += 1
            return not fds
        copies: list[int] = []
        try:
            for fd in fds:
                copies.append(os.dup(fd))  # noqa: PERF401 - what was copied before a failure must be closed
        except OSError:
            close_all(copies)
            return False
        self._queue.append((head, body, copies))
        self._queued_bytes += len(body)
        return True

    def _writable(self) -> None:
        queue = self._queue
        while queue:
            head, body, fds = queue[0]
            try:
                self._transmit(head, body, fds)
            except _NOT_NOW:
                return
            except OSError as error:
                self._refused(error)
                if self._is_broken:
                    self._loop.remove_writer(self._fd)
                    return
            queue.popleft()
            self._queued_bytes -= len(body)
            close_all(fds)
        self._loop.remove_writer(self._fd)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the kernel has taken everything, or the connection is gone."""
        if self._queue:
            self._drained = self._loop.create_future()
            await self._drained

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: str) -> None:
        """Nothing can be sent any more; what the peer had sent before it went is still there."""
        self.read_all()
        if self.is_open:
            self._ended(reason)

    def _ended(self, reason: str) -> None:
        self.close()
        self._end(reason)

    def shut_down(self) -> None:
        """Break the connection; both ends notice."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close without telling.  Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        for _, _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._queued_bytes = 0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def _fds(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the file descriptors in a message's control data."""
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def close_all(fds: Sequence[int]) -> None:
    """Close file descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
