"""Doorbells between processes: eventfds, whose 64-bit counter turns any number of rings into one.

A doorbell carries nothing that is trusted; whoever hears it looks at shared memory.  One that came from a peer is
checked to be an eventfd and not something whose write could block (a pipe).  What cannot be checked is that the peer
leaves it non-blocking; such a peer runs under our own user and could stop us by simpler means.

Spec: vbus 3.7, 10.4 (5).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Self

from pvnet.core.errors import WireError


class EventFd:
    """Owns the descriptor; closed by :meth:`close`."""

    __slots__ = ("_loop", "fd")

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if fd is None else fd
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Take over a descriptor that a peer has sent.

        Raises:
            WireError: it is no eventfd; the descriptor is still the caller's then.
        """
        try:
            kind = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - it is no path
        except OSError as error:
            raise WireError(f"descriptor {fd}: {error.strerror}", expected="an eventfd") from None
        if not kind.startswith("anon_inode:[eventfd"):
            raise WireError(f"descriptor of a {kind[:40]!r}", expected="an eventfd")
        os.set_blocking(fd, False)
        return cls(fd)

    def ring(self) -> None:
        """Ring; one that is not heard yet is enough."""
        try:  # this is in the way of every message; contextlib.suppress costs as much as the call
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:  # the counter is at its end: it is ringing
            return

    def listen(self, heard: Callable[[], None]) -> None:
        """Call ``heard`` from the event loop each time it has rung, until :meth:`close`."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.fd, self._readable, heard)

    def _readable(self, heard: Callable[[], None]) -> None:
        try:  # noqa: SIM105 - as above
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        heard()

    def close(self) -> None:
        """Stop listening and let go; idempotent."""
        if self._loop is not None:
            self._loop.remove_reader(self.fd)
            self._loop = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
