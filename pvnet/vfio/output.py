"""What waits to be sent on a stream socket: bounded in bytes, watched for standstill, with file descriptors.

Each message is one ``send``, except between :meth:`OutputQueue.hold` and :meth:`OutputQueue.release`: then short ones
without descriptors are joined, up to :data:`JOIN_MESSAGES` and :data:`JOIN_BYTES`, and leave in one.  To whoever reads
a stream that looks as if it had been late: no peer can tell messages that were joined from messages that it found
waiting.  The kernel takes so few bytes as a whole or not at all, so that a message is never seen in part, which is
what libvfio-user cannot bear.  Descriptors must arrive with the first byte of their message: one that has any goes
alone, behind what was held.  Spec: mdev 6.1.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pvnet.mdev.vfio_user import Data
from pvnet.transport.unix_socket import close_all

MAX_QUEUE_BYTES: Final = 8 << 20
STALL_S: Final = 30.0
"""A peer that takes nothing for so long, though something waits for it, is not coming back."""
BROKEN: Final = "the peer is gone"
"""The reason to :attr:`OutputQueue.failed` when nothing can be sent any more, but there may be something to read."""
JOIN_BYTES: Final = 16 << 10
"""Less than the kernel puts into one of its buffers (32 KiB)."""
JOIN_MESSAGES: Final = 16
"""So that what is answered does not wait long for what is still worked on."""
_COPY_BYTES: Final = 16 << 10
_NOT_NOW: Final = (BlockingIOError, InterruptedError)


class OutputQueue:
    """Sends on ``sock``, which stays its owner's; ``failed`` is told once why nothing can be sent any more."""

    def __init__(self, sock: socket.socket, failed: Callable[[str], None], *, max_bytes: int, stall_s: float) -> None:
        self.queued_bytes = 0
        self.sent_all: Callable[[], None] = lambda: None
        """Called when the kernel has taken everything that had to wait."""
        self._sock = sock
        self._fd = sock.fileno()
        self._failed = failed
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._stall: asyncio.TimerHandle | None = None
        self._has_moved = False
        self._is_over = False
        self._takes = True
        self._send = sock.send
        self._held: bytearray | None = None
        """Messages that leave together."""
        self._held_messages = 0

    def send(self, parts: Sequence[Data], fds: Sequence[int] = ()) -> None:
        """Send now what the kernel takes, the rest as soon as it does; copies of ``fds`` travel with the first byte.

        Never raises, never blocks; nothing happens when the connection is gone, or ends.
        """
        if not self._takes:
            return
        if self._held is not None and self._join(self._held, parts, fds):
            return
        sent = 0
        if not self._queue:
            try:
                if fds:
                    sent = self._sock.sendmsg(parts, _rights(fds))
                elif len(parts[-1]) <= _COPY_BYTES:  # the way of nearly all: a copy costs less than a list
                    data = parts[0] if len(parts) == 1 else b"".join(parts)
                    sent = self._send(data)
                    if sent == len(data):
                        return
                else:
                    sent = self._sock.sendmsg(parts)
            except _NOT_NOW:
                pass
            except OSError as error:
                self._fail(error)
                return
        if sent < sum(map(len, parts)):
            self._wait(b"".join(parts), sent, fds)

    def hold(self) -> None:
        """Join from now on what is sent; idempotent."""
        if self._held is None:
            self._held = bytearray()

    def release(self) -> None:
        """Send what is held, and from now on each message by itself; idempotent."""
        held, self._held = self._held, None
        if held:
            self._held_messages = 0
            self.send((memoryview(held),))

    def _join(self, held: bytearray, parts: Sequence[Data], fds: Sequence[int]) -> bool:
        """Put a message to those that are held; False: it has to go by itself, those have gone before it."""
        size = sum(map(len, parts))
        if fds or len(held) + size > JOIN_BYTES or self._held_messages == JOIN_MESSAGES:
            self.release()
            if not self._takes:
                return True
            held = self._held = bytearray()
            if fds or size > JOIN_BYTES:
                return False
        for part in parts:
            held += part
        self._held_messages += 1
        return True

    def take_no_more(self) -> None:
        """Send what waits, and nothing that comes."""
        self.release()
        self._takes = False

    def _wait(self, data: bytes, sent: int, fds: Sequence[int]) -> None:
        """Queue what is left; descriptors go with the first byte."""
        if self.queued_bytes + len(data) - sent > self._max_bytes:
            self._over(f"the peer does not read: {self.queued_bytes} bytes wait for it")
            return
        copies: list[int] = []
        try:
            for fd in fds if not sent else ():
                copies.append(os.dup(fd))  # noqa: PERF401 - what was copied before a failure must be closed
        except OSError as error:
            close_all(copies)
            self._over(f"descriptors: {(error.strerror or str(error)).lower()}")
            return
        if not self._queue:
            self._loop.add_writer(self._fd, self._writable)
            self._has_moved = False
            self._stall = self._loop.call_later(self._stall_s, self._look)
        self._queue.append((memoryview(data)[sent:], copies))
        self.queued_bytes += len(data) - sent

    def _writable(self) -> None:
        queue = self._queue
        while queue:
            data, fds = queue[0]
            try:
                sent = self._sock.sendmsg((data,), _rights(fds)) if fds else self._sock.send(data)
            except _NOT_NOW:
                return
            except OSError as error:
                self._fail(error)
                return
            self._has_moved = True
            self.queued_bytes -= sent
            close_all(fds)
            if sent < len(data):
                queue[0] = (data[sent:], [])
                return
            queue.popleft()
        self._stop()
        self.sent_all()

    def _look(self) -> None:
        if not self._has_moved:
            self._over(f"the peer does not read: nothing for {self._stall_s:g} s")
            return
        self._has_moved = False
        self._stall = self._loop.call_later(self._stall_s, self._look)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            self._over(BROKEN)
        else:
            self._over((error.strerror or str(error)).lower())

    def _over(self, reason: str) -> None:
        self.close()
        self._failed(reason)

    def _stop(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def close(self) -> None:
        """Forget what waits; idempotent.  The socket is still open when this is called."""
        if self._is_over:
            return
        self._is_over = True
        self._takes = False
        self._held = None
        self._stop()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self.queued_bytes = 0


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
