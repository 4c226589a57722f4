"""A serial line that ends in a pseudo terminal of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import tty
from typing import Final

from pvnet.mdev.device import LineReceiver
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EIO
from pvnet.vfio.line_stream import StreamLine

LOOK_S: Final = 0.1
"""How often a terminal that nobody has open is looked at; the kernel tells only of those who leave."""


class PtyLine(StreamLine):
    """The master's end.  Users may open and close the terminal as often as they like; between them bytes are lost.

    :raises MdevError: EIO, there are no terminals left.
    """

    def __init__(self, receiver: LineReceiver) -> None:
        super().__init__("pty", receiver)
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise MdevError(EIO, f"line 'pty': {error.strerror or error}") from None
        try:
            tty.setraw(slave)
            self.address = f"pty:{os.ttyname(slave)}"
        finally:
            os.close(slave)  # so that a read fails (EIO) while nobody has it open
        os.set_blocking(self._master, False)
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLIN)
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Nobody had it open: look whether somebody has, or has been there."""
        events = dict(self._poll.poll(0)).get(self._master, 0)
        self._timer = None
        if not events & select.POLLHUP or events & select.POLLIN:
            self._connect(self._master)  # who has left already is noticed by reading
        else:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _gone(self) -> None:
        super()._gone()
        if not self._is_closed:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _close_fd(self) -> None:
        """Keep the master: the terminal stays."""

    def close(self) -> None:
        """Remove the terminal."""
        if self._is_closed:
            return
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(OSError):
            os.close(self._master)
