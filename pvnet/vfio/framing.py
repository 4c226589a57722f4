"""Messages of vfio-user over a connected unix stream socket: cut out of the stream, with their file descriptors.

A raw socket with ``add_reader``, because the transports of asyncio and uvloop drop file descriptors silently.  A
message may come in pieces of any size, and many may come in one piece.  One ``recvmsg`` is made per turn of the loop,
and at most :data:`BATCH` messages of a piece are handed on: a peer that floods gets its share, not more.

**Whose are the descriptors?**  A stream has no message boundaries, and the kernel says only that descriptors came with
the bytes of one ``recvmsg``.  It never puts bytes *behind* those of a ``sendmsg`` with descriptors, so these are the
last bytes of the piece.  A sender has to send a message with one ``sendmsg`` (spec: mdev 6.1); the descriptors then
belong to the last message that begins in the piece.  A sender that puts several messages into one ``sendmsg`` is
helped as far as possible: they go to the last one that begins there *and whose command may have any* (``takers``), if
there is one.  Where no message begins (the header came alone) they belong to the one that is under way.  Only when the
piece ends within a header, and several messages begin in it, all of those wait until that header is complete.

Descriptors in excess (``MSG_CTRUNC``, or too many for one message) end the connection, and all that came are closed.
A header whose size cannot be is handed on alone, 16 bytes: the session answers and closes, since nothing that follows
can be understood (spec: mdev B6).

**Answers to several** messages of one piece are joined (:mod:`pvnet.vfio.output`): a peer that has many requests under
way costs one system call for many answers.  A client's answers wake tasks, which ask again in the same turn of the
loop: with ``lingers`` these are joined, too.  A message that came alone is answered alone, at once.

Sending never blocks and never raises.  What the kernel does not take waits in a queue; a peer that lets it grow beyond
:data:`MAX_QUEUE_BYTES` or takes nothing for :data:`STALL_S` seconds is disconnected.

Spec: mdev 6.1, 9.2 (B6, B34 to B37), 9.3.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections.abc import Callable
from struct import Struct
from typing import Final

from pvnet.core.machine import Counters
from pvnet.mdev.vfio_user import HEADER_SIZE, MAX_MESSAGE, Command
from pvnet.transport.unix_socket import close_all
from pvnet.vfio.output import BROKEN, MAX_QUEUE_BYTES, STALL_S, OutputQueue

__all__ = ["BATCH", "CLIENT_TAKERS", "MAX_QUEUE_BYTES", "SERVER_TAKERS", "STALL_S", "MessageSocket", "Received"]

BATCH: Final = 64
"""Most messages of one piece that are handed on in one turn of the loop."""
BUFFER_BYTES: Final = 64 << 10
"""What a socket begins with; it becomes as long as the longest message."""
LOOK_AGAIN_S: Final = 0.1
"""uvloop announces once, and only once, that a connection was reset: what had come before it is fetched by a timer."""
SERVER_TAKERS: Final = frozenset({int(Command.DMA_MAP), int(Command.DEVICE_SET_IRQS)})
"""Commands that may bring descriptors to a server."""
CLIENT_TAKERS: Final = frozenset(
    {int(Command.VERSION), int(Command.DEVICE_GET_REGION_INFO), int(Command.DEVICE_GET_REGION_IO_FDS)}
)
"""Commands whose replies may bring descriptors to a client."""

_SIZE: Final = Struct("<4xI")
_COMMAND: Final = Struct("<2xH")
_FD_BYTES: Final = array.array("i").itemsize
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_CUT: Final = int(socket.MSG_CTRUNC)
_FAILED: Final = "a failure of ours"
"""Whoever takes messages has raised: a mistake, which the loop logs; it costs this connection only."""
_NOT_NOW: Final = (BlockingIOError, InterruptedError)

Received = Callable[[memoryview, list[int]], None]
"""Takes a message, whose bytes are there only during the call, and its file descriptors, which it owns."""
Ended = Callable[[str], None]
"""Told exactly once, in a turn of the loop of its own or from reading, that the connection is closed, and why."""


class MessageSocket:
    """See the module's text.  Owns the socket.

    :param takers: commands that may have descriptors: :data:`SERVER_TAKERS` or :data:`CLIENT_TAKERS`.
    :param lingers: also join what is sent later in the turn of the loop in which several messages came.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Received,
        ended: Ended,
        *,
        takers: frozenset[int],
        max_fds: int = 16,
        max_message: int = MAX_MESSAGE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        stall_s: float = STALL_S,
        lingers: bool = False,
    ) -> None:
        self.counters = Counters()
        self.is_open = True
        self.max_fds = max_fds
        self._sock = sock
        self._fd = sock.fileno()
        self.messages = 0
        self.received = received
        """May be replaced before the first turn of the loop."""
        self._ended = ended
        self._takers = takers
        self._max_message = max_message
        self._control_bytes = socket.CMSG_LEN(max_fds * _FD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._begin = self._end = 0
        """Where in the buffer the bytes lie that are not handed on yet."""
        self._room: tuple[memoryview] = (self._view,)
        """What follows them: the next bytes go there."""
        self._fds: dict[int, list[int]] = {}
        """Descriptors by where their message begins."""
        self._undecided: list[tuple[int, int, list[int]]] = []
        """Descriptors of pieces (begin, end) that are known to be of one of several messages."""
        self._lingers = lingers
        self._has_backlog = False
        self._has_lost_frame = False
        self._is_reading = True
        self._is_broken = False
        self._look: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._output = OutputQueue(sock, self._over_soon, max_bytes=max_queue_bytes, stall_s=stall_s)
        self._output.sent_all = self._drained
        self.send = self._output.send
        """Send one message, with copies of descriptors; nothing in between: this is in the way of every access."""
        self._finishing: str | None = None
        self._recv = sock.recvmsg_into
        self._loop.add_reader(self._fd, self._readable)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take one piece and hand on the messages that are complete with it."""
        if self._has_backlog or not self._is_reading:
            return
        try:
            count, control, flags, _ = self._recv(self._room, self._control_bytes, _CLOEXEC)
        except _NOT_NOW:
            if self._is_broken:
                self._over("the peer is gone")
            return
        except OSError as error:
            self._over((error.strerror or str(error)).lower())
            return
        if self._look is None:
            self._look = self._loop.call_later(LOOK_AGAIN_S, self._look_again)
        if control or flags & _CUT:
            if not self._take_fds(count, control, cut=bool(flags & _CUT)):
                return
        elif not count:
            self._over("closed by the peer" + (" in the middle of a message" if self._end > self._begin else ""))
            return
        try:
            if (
                not self._end
                and HEADER_SIZE <= count <= self._max_message
                and _SIZE.unpack_from(self._view)[0] == count
                and not control
            ):  # By far the most frequent: one message, whole, nothing before it.
                self.messages += 1
                self.received(self._view[:count], [])
                return
            self._end += count
            self._hand_on()
        except Exception:
            self._over_soon(_FAILED)
            raise

    def _look_again(self) -> None:
        self._look = None
        self._readable()

    def _hand_on(self) -> None:
        """Hand on what is complete, at most a batch of it; the rest in the next turn."""
        if self._undecided:
            self._decide()
        handed = self._hand_on_batch()
        if handed > 1:
            if self._lingers and self.is_open:
                self._loop.call_soon(self._output.release)  # behind the tasks that were woken
            else:
                self._output.release()

    def _hand_on_batch(self) -> int:
        """Returns how many messages were handed on; from the second on, answers are held."""
        handed = 0
        while self._is_reading and (size := self._next_size()):
            if handed == BATCH:
                self._has_backlog = True
                self._loop.call_soon(self._continue)
                return handed
            handed += 1
            if handed == 2:
                self._output.hold()
            begin = self._begin
            fds = self._fds.pop(begin, []) if self._fds else []
            self._begin = begin + size
            self.messages += 1
            self.received(self._view[begin : begin + size], fds)
            if self._has_lost_frame:
                self.finish("a message whose size cannot be")
        if self._is_reading:
            self._make_room()
        return handed

    def _next_size(self) -> int:
        """Size of the next message if it is complete and may be handed on, else 0."""
        here = self._end - self._begin
        if here < HEADER_SIZE or (self._undecided and self._begin >= self._undecided[0][0]):
            return 0
        size: int = _SIZE.unpack_from(self._view, self._begin)[0]
        if not HEADER_SIZE <= size <= self._max_message:
            self.counters["bad_size"] += 1
            self._has_lost_frame = True
            return HEADER_SIZE
        return size if size <= here else 0

    def _continue(self) -> None:
        self._has_backlog = False
        if self._is_reading:
            try:
                self._hand_on()
            except Exception:
                self._over_soon(_FAILED)
                raise

    def _make_room(self) -> None:
        """Place what is left so that the message under way fits behind it."""
        begin, end = self._begin, self._end
        if begin == end:
            self._begin = self._end = 0
            self._room = (self._view,)
            return
        here = end - begin
        needed: int = _SIZE.unpack_from(self._view, begin)[0] if here >= HEADER_SIZE else HEADER_SIZE
        needed = max(needed, here + 1)  # one whose size cannot be, or that has to wait for its descriptors
        if begin + needed > len(self._view):
            old = self._view
            if needed > len(old):
                self._view = memoryview(bytearray(max(needed, min(needed * 2, self._max_message + BUFFER_BYTES))))
            self._view[:here] = old[begin:end]
            self._begin, self._end = 0, here
            self._fds = {at - begin: fds for at, fds in self._fds.items()}
            self._undecided = [(first - begin, last - begin, fds) for first, last, fds in self._undecided]
        self._room = (self._view[self._end :],)

    # --- descriptors -------------------------------------------------------------------------------------------------

    def _take_fds(self, count: int, control: list[tuple[int, int, bytes]], *, cut: bool) -> bool:
        """Take the descriptors that came with ``count`` bytes; False when they ended the connection."""
        came = array.array("i")
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                came.frombytes(data[: len(data) - len(data) % _FD_BYTES])
        fds = came.tolist()
        self.counters["fds"] += len(fds)
        if cut or len(fds) > self.max_fds:
            close_all(fds)
            self.counters["too_many_fds"] += 1
            self._over(f"more than {self.max_fds} descriptors with one message")
            return False
        if not count:
            close_all(fds)
            self._over("closed by the peer")
            return False
        if fds:
            self._undecided.append((self._end, self._end + count, fds))
        return True

    def _decide(self) -> None:
        """Find out whose the descriptors are of every piece that is complete enough."""
        while self._undecided and self._is_reading:
            first, last, fds = self._undecided[0]
            owner = self._owner(first, last)
            if owner is None:
                return
            del self._undecided[0]
            owned = self._fds.setdefault(owner, [])
            owned += fds
            if len(owned) > self.max_fds:
                self.counters["too_many_fds"] += 1
                self._over(f"more than {self.max_fds} descriptors with one message")

    def _owner(self, first: int, last: int) -> int | None:
        """Where the message begins that owns the descriptors of piece ``first`` to ``last``; None: not known yet."""
        view, end = self._view, self._end
        at = owner = self._begin
        taker = -1
        begun = 0
        while at < last:
            owner = at
            begun += at >= first
            if at + HEADER_SIZE > end:
                return owner if begun < 2 else None
            if at >= first and _COMMAND.unpack_from(view, at)[0] in self._takers:
                taker = at
            size: int = _SIZE.unpack_from(view, at)[0]
            if not HEADER_SIZE <= size <= self._max_message:
                break
            at += size
        return owner if taker < 0 else taker

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """What waits for the peer to read."""
        return self._output.queued_bytes

    def finish(self, reason: str, patience_s: float = 2.0) -> None:
        """Close when everything is sent, or after ``patience_s`` seconds; nothing more is read.  Idempotent."""
        if not self.is_open or self._finishing is not None:
            return
        self._finishing = reason
        self._output.take_no_more()
        self._stop_reading()
        if self._output.queued_bytes:
            self._look = self._loop.call_later(patience_s, self._over, reason)
        else:
            self._over_soon(reason)

    def _drained(self) -> None:
        if self._finishing is not None:
            self._over_soon(self._finishing)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _over_soon(self, reason: str) -> None:
        """Close now, tell about it in a turn of its own: whoever sends is in the middle of something."""
        if reason == BROKEN and self._is_reading and self.is_open:
            self._is_broken = True  # what the peer had sent before it went is still there
            self._loop.call_soon(self._drain)
        elif self.close():
            self._loop.call_soon(self._ended, reason)

    def _drain(self) -> None:
        """Take what a peer that is gone has left behind, a piece per turn."""
        if self._is_reading:
            self._readable()
            self._loop.call_soon(self._drain)

    def _over(self, reason: str) -> None:
        if self.close():
            self._ended(reason)

    def _stop_reading(self) -> None:
        self._is_reading = False
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._loop.remove_reader(self._fd)
        for fds in (*self._fds.values(), *(fds for _, _, fds in self._undecided)):
            close_all(fds)
        self._fds.clear()
        self._undecided.clear()

    def close(self) -> bool:
        """Close without telling anybody; False if it was closed already."""
        if not self.is_open:
            return False
        self.is_open = False
        self._stop_reading()
        self._output.close()
        self._sock.close()
        return True
