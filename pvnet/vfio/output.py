"""What waits to be sent on a stream socket: bounded in bytes, watched for standstill, with file descriptors."""

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

    def send(self, parts: Sequence[Data], fds: Sequence[int] = ()) -> None:
        """Send now what the kernel takes, the rest as soon as it does; copies of ``fds`` travel with the first byte.

        Never raises, never blocks; nothing happens when the connection is gone, or ends.
        """
        if not self._takes:
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

    def take_no_more(self) -> None:
        """Send what waits, and nothing that comes."""
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
        self._stop()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self.queued_bytes = 0


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
