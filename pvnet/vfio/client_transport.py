"""What a client needs of its connection, and the connection over a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pvnet.core.errors import DeadlineError, UnreachableError
from pvnet.mdev.vfio_user import Connection, Data, Descriptor
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.runtime.eventfd import EventFd
from pvnet.transport.unix_socket import close_all
from pvnet.vfio.framing import CLIENT_TAKERS, MessageSocket

_RETRY_S: Final = 0.02


class IrqListener(Protocol):
    """An irq's listening end."""

    descriptor: Descriptor
    """What SET_IRQS passes to the server."""

    def close(self) -> None:
        """Hear no more; idempotent."""
        ...


class ClientTransport(Connection, Protocol):
    """A connection to a server, as a client needs it."""

    def irq_listener(self, heard: Callable[[], None]) -> IrqListener:
        """Make something that a server can signal."""
        ...

    def take_fd(self, descriptor: Descriptor) -> int:
        """Return the file descriptor behind one that came with a reply; the caller's from now on."""
        ...


class EventFdListener(IrqListener):
    """An eventfd that the event loop watches."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._eventfd = EventFd()
        self._eventfd.listen(heard)
        self.descriptor = self._eventfd.fd

    def close(self) -> None:
        """Close it."""
        self._eventfd.close()


class SocketTransport:
    """The :class:`ClientTransport` over a unix socket; owns it."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[memoryview, list[int]], None],
        ended: Callable[[str], None],
        limits: ClientLimits,
    ) -> None:
        self.max_fds = limits.max_fds
        self.socket = MessageSocket(
            sock,
            received,
            ended,
            takers=CLIENT_TAKERS,
            max_fds=limits.max_fds,
            max_message=limits.max_message,
            lingers=True,
        )
        self.send: Callable[[Sequence[Data], Sequence[Descriptor]], None] = self.socket.send

    def close_descriptor(self, descriptor: Descriptor) -> None:
        """Close it."""
        close_all((descriptor,))

    def close(self, reason: str) -> None:
        """Close when everything is sent."""
        self.socket.finish(reason)

    def irq_listener(self, heard: Callable[[], None]) -> IrqListener:
        """Make an eventfd."""
        return EventFdListener(heard)

    def take_fd(self, descriptor: Descriptor) -> int:
        """It is one."""
        return descriptor


async def connected(path: str, timeout_s: float) -> socket.socket:
    """Connect to a unix socket.

    :raises UnreachableError: nobody listens there.
    :raises DeadlineError: too many wait to be accepted.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(BlockingIOError):  # a unix socket's way to say that too many wait to get in
                    sock.connect(path)
                    return sock
                await asyncio.sleep(_RETRY_S)
    except TimeoutError:
        sock.close()
        raise DeadlineError(f"{path}: nobody accepts within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        sock.close()
        text = (isinstance(error, OSError) and error.strerror) or str(error)  # one without an errno has none
        raise UnreachableError(f"{path}: {text}") from None
    except BaseException:
        sock.close()
        raise
