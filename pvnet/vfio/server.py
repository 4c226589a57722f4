"""A mediated device on a unix socket: a vfio-user server for foreign clients, as QEMU is one.

One client has the device; it may stay as long as it likes.  One more waits, connected and unread, and is served when
the first has gone; a third is accepted and closed at once, so that it knows.  Only a client that has not even agreed
on a version within :attr:`VfioUserServer.hello_s` seconds has to go for one that waits.

Whatever a client sends, or does not read, costs nobody but itself: a batch of messages per turn of the loop, a bounded
queue of answers, a deadline for its answers to DMA_READ and DMA_WRITE.

Spec: mdev 6, 9.2, 9.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note
from pvnet.mdev.device import RegionMemory
from pvnet.mdev.user import DmaMemory, IrqTarget
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import Data, Descriptor
from pvnet.mdev.vfio_user_server import DEFAULT_LIMITS, ServerLimits, ServerSession
from pvnet.runtime.log import LEVELS
from pvnet.transport.unix_socket import close_all
from pvnet.vfio.descriptors import SharedMemory, dma_memory, irq_target
from pvnet.vfio.framing import MAX_QUEUE_BYTES, SERVER_TAKERS, STALL_S, MessageSocket
from pvnet.vfio.unix_listen import UnixListener

HELLO_S: Final = 10.0
RELEASE_S: Final = 0.0
_EXPIRE_S: Final = 0.5
_ACCEPTS: Final = 16
"""Most connections that are accepted in one turn of the loop."""
Snoop = Callable[[str, Sequence[Data]], None]
"""Told of every message: "in" or "out", and its pieces."""
_log = structlog.get_logger()


class SocketCarrier:
    """A session with a client on a connected unix socket, which it owns.

    A :class:`~pvnet.mdev.vfio_user.Carrier`.  ``ended`` is told once, when the connection is closed;
    :meth:`ServerSession.lost` is for who is told.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: VfioDevice,
        ended: Callable[[str], None],
        limits: ServerLimits = DEFAULT_LIMITS,
        *,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        stall_s: float = STALL_S,
        snoop: Snoop | None = None,
    ) -> None:
        self.max_fds = limits.max_fds
        self._loop = asyncio.get_running_loop()
        self._expiry = self._loop.call_later(_EXPIRE_S, self._expire)
        self._told: Callable[[str], None] = ended
        self.socket = MessageSocket(
            sock,
            self._too_early,
            self._ended,
            takers=SERVER_TAKERS,
            max_fds=limits.max_fds,
            max_message=limits.max_message,
            max_queue_bytes=max_queue_bytes,
            stall_s=stall_s,
        )
        self.send: Callable[[Sequence[Data], Sequence[Descriptor]], None] = self.socket.send
        self.session = ServerSession(device, self, limits)
        self.socket.received = self.session.message  # nothing in between: this is in the way of every access
        if snoop is not None:
            self._tell(snoop)

    def _tell(self, snoop: Snoop) -> None:
        """Have ``snoop`` told of every message."""
        received, send = self.session.message, self.socket.send

        def tell_received(data: memoryview, descriptors: list[int]) -> None:
            snoop("in", (data,))
            received(data, descriptors)

        def tell_sent(parts: Sequence[Data], descriptors: Sequence[Descriptor]) -> None:
            snoop("out", parts)
            send(parts, descriptors)

        self.socket.received, self.send = tell_received, tell_sent

    @staticmethod
    def _too_early(_data: memoryview, descriptors: list[int]) -> None:
        close_all(descriptors)

    def _expire(self) -> None:
        """Give up what the client does not answer."""
        self._expiry = self._loop.call_later(_EXPIRE_S, self._expire)
        if self.session.waiting:
            self.session.expire(self._loop.time())

    def _ended(self, reason: str) -> None:
        self._expiry.cancel()
        self._told(reason)

    def close_descriptor(self, descriptor: Descriptor) -> None:
        """Close it."""
        close_all((descriptor,))

    def close(self, reason: str) -> None:
        """Close the connection when everything is sent."""
        self.socket.finish(reason)

    def irq_target(self, descriptor: Descriptor) -> IrqTarget:
        """Make an irq target of an eventfd."""
        return irq_target(descriptor)

    def dma_memory(self, descriptor: Descriptor, offset: int, size: int, *, writable: bool) -> DmaMemory:
        """Map a memfd that cannot shrink, read and write any other file."""
        return dma_memory(descriptor, offset, size, writable=writable)

    def region_descriptor(self, memory: RegionMemory) -> Descriptor | None:
        """Name the descriptor of memory that :class:`~pvnet.vfio.services.Services` has made."""
        return memory.fd if isinstance(memory, SharedMemory) and memory.fd >= 0 else None


class VfioUserServer:
    """Serves one device at one path; see the module's text.

    ``note`` hears who comes and goes; without it, it is logged.  ``snoop`` is told of every message.  The device stays
    its owner's.
    """

    def __init__(
        self,
        device: VfioDevice,
        *,
        limits: ServerLimits = DEFAULT_LIMITS,
        note: Callable[[Note], None] | None = None,
        hello_s: float = HELLO_S,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        stall_s: float = STALL_S,
        snoop: Snoop | None = None,
    ) -> None:
        self.device = device
        self.counters = Counters()
        self.hello_s = hello_s
        self._limits = limits
        self._note = note or _log_note
        self._max_queue_bytes = max_queue_bytes
        self._stall_s = stall_s
        self._snoop = snoop
        self._listener: UnixListener | None = None
        self._carrier: SocketCarrier | None = None
        self._waiting: socket.socket | None = None
        self._since = 0.0
        self._hello: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop

    @property
    def path(self) -> Path | None:
        """Where it listens."""
        return None if self._listener is None else self._listener.path

    async def start(self, path: str | Path) -> None:
        """Listen.

        :raises ConfigError: it cannot be there (see :class:`~pvnet.vfio.unix_listen.UnixListener`).
        """
        if self._listener is not None:
            raise LocalError(f"the server already listens at {self._listener.path}")
        self._loop = asyncio.get_running_loop()
        self._listener = UnixListener(path)
        self._loop.add_reader(self._listener.sock.fileno(), self._accept)

    async def stop(self, reason: str = "the server stops", *, patience_s: float = RELEASE_S) -> None:
        """End: ask the client by the device's REQ irq to let go, give it ``patience_s`` seconds, then disconnect it.

        The socket is removed first, so that nobody comes.  Idempotent.
        """
        if self._listener is not None:
            self._loop.remove_reader(self._listener.sock.fileno())
            self._listener.close()
            self._listener = None
        self._drop_waiting()
        carrier = self._carrier
        if carrier is None:
            return
        self._left.clear()
        self.device.request_release()
        if patience_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), patience_s)
        if self._carrier is not None:
            self._carrier.session.ended(reason)
            self._carrier.close(reason)
            await self._left.wait()

    def shown(self) -> dict[str, Any]:
        """What an administrator sees."""
        carrier = self._carrier
        return {
            "path": str(self.path or ""),
            "connected": carrier is not None,
            "waiting": self._waiting is not None,
            "messages": self.counters["messages"] + (carrier.socket.messages if carrier is not None else 0),
            "queued_bytes": carrier.socket.queued_bytes if carrier is not None else 0,
            "counters": {name: count for name, count in sorted(self.counters.items()) if name != "messages"},
        }

    # --- clients come and go -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # no descriptors left: the next turn of the loop tries again
                self.counters["accept_failed"] += 1
                self._note(Note("vfio_user_accept_failed", (("error", error.strerror or str(error)),), "warning"))
                self._pause_accepting()
                return
            self._admit(sock)

    def _pause_accepting(self) -> None:
        assert self._listener is not None
        listener = self._listener
        self._loop.remove_reader(listener.sock.fileno())

        def resume() -> None:
            if self._listener is listener:
                self._loop.add_reader(listener.sock.fileno(), self._accept)

        self._loop.call_later(0.1, resume)

    def _admit(self, sock: socket.socket) -> None:
        if self._carrier is None:
            self._serve(sock)
            return
        if self._waiting is not None and _has_gone(self._waiting):
            self._drop_waiting()
        if self._waiting is not None:
            sock.close()
            self.counters["refused"] += 1
            return
        self.counters["waited"] += 1
        self._waiting = sock
        self._watch_hello()

    def _serve(self, sock: socket.socket) -> None:
        self.counters["clients"] += 1
        self._since = self._loop.time()
        carrier = SocketCarrier(
            sock,
            self.device,
            self._ended,
            self._limits,
            max_queue_bytes=self._max_queue_bytes,
            stall_s=self._stall_s,
            snoop=self._snoop,
        )
        self._carrier = carrier
        self._note(Note("vfio_user_client", (("device", self.device.name),), "info"))

    def _ended(self, reason: str) -> None:
        """The client's connection is closed; let the next one in."""
        carrier, self._carrier = self._carrier, None
        assert carrier is not None
        carrier.session.lost()
        self.counters["messages"] += carrier.socket.messages
        self.counters.update(carrier.socket.counters)
        self.counters.update(carrier.session.counters)
        self._note(Note("vfio_user_client_gone", (("device", self.device.name), ("reason", reason)), "info"))
        if self._hello is not None:
            self._hello.cancel()
            self._hello = None
        sock, self._waiting = self._waiting, None
        if sock is not None and self._listener is not None:
            self._serve(sock)
        self._left.set()

    def _watch_hello(self) -> None:
        """Somebody waits: a client that has not said hello must do so now, or go."""
        if self._hello is None:
            delay = max(0.0, self._since + self.hello_s - self._loop.time())
            self._hello = self._loop.call_later(delay, self._judge_hello)

    def _judge_hello(self) -> None:
        self._hello = None
        carrier = self._carrier
        if carrier is not None and carrier.session.version is None and self._waiting is not None:
            self.counters["silent"] += 1
            carrier.close(f"no version agreed within {self.hello_s:g} s, and somebody waits")

    def _drop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None


def _has_gone(sock: socket.socket) -> bool:
    """Whether the other end of a connection that nobody reads has closed it."""
    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    return bool(poll.poll(0))


def _log_note(note: Note) -> None:
    fields: dict[str, Any] = dict(note.fields)
    _log.log(LEVELS[note.level], note.event, **fields)
