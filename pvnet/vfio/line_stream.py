"""A serial line over a file descriptor: bounded, flow-controlled in both directions."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from typing import Final

from pvnet.mdev.device import LineReceiver, SerialLine

LINE_BYTES: Final = 4096
"""Most bytes that wait in a line, each way."""


class StreamLine(SerialLine):
    """Base of the lines that have a descriptor while somebody is connected (``_fd``, else -1)."""

    def __init__(self, address: str, receiver: LineReceiver) -> None:
        self.address = address
        self.lost = 0
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._is_watched = False
        self._inward = b""
        """Came from outside, not taken by the device; nothing more is read meanwhile."""
        self._outward = bytearray()
        """Came from the device, not taken by the kernel."""
        self._is_owed = False
        self._is_held = False
        """What waited was taken; nothing more is read."""
        self._is_closed = False

    # --- the device's side -------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> int:
        """Send out; while nobody is connected the bytes are lost."""
        if self._fd < 0:
            self.lost += len(data)
            return len(data)
        sent = 0
        if not self._outward:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                pass
            except OSError:  # reading tells why
                self.lost += len(data)
                return len(data)
            if sent == len(data):
                return sent
            self._loop.add_writer(self._fd, self._writable)
        kept = data[sent : sent + max(0, LINE_BYTES - len(self._outward))]
        self._outward += kept
        taken = sent + len(kept)
        self._is_owed = self._is_owed or taken < len(data)
        return taken

    def resume(self) -> None:
        """Hand over what was kept, in a turn of the loop of its own."""
        if self._inward:
            self._is_held = False
            self._loop.call_soon(self._deliver)
        elif self._is_held:
            self._is_held = False
            self._watch()
            self._loop.call_soon(self._readable)

    def take(self) -> tuple[bytes, bytes]:
        """Take both directions back; nothing more is read before :meth:`resume`."""
        came, left = self._inward, bytes(self._outward)
        self._inward = b""
        self._outward.clear()
        self._is_held = True
        self._watch()
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
        return came, left

    def put(self, data: bytes) -> None:
        """Send these out first; they wait for somebody to connect."""
        self._outward[:0] = data
        if self._fd >= 0:
            self._loop.add_writer(self._fd, self._writable)

    def close(self) -> None:
        """Disconnect."""
        if not self._is_closed:
            self._is_closed = True
            self._is_owed = False
            self._inward = b""
            self._disconnect()

    # --- the outside's side ------------------------------------------------------------------------------------------

    def _connect(self, fd: int) -> None:
        """Somebody has come."""
        self._fd = fd
        self._is_watched = False
        self._watch()
        if self._outward:
            self._loop.add_writer(fd, self._writable)

    def _watch(self) -> None:
        """Read if, and only if, what came is all taken; uvloop does not like to be told twice after a reset."""
        wanted = not self._inward and not self._is_held
        if self._fd >= 0 and wanted != self._is_watched:
            self._is_watched = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _disconnect(self) -> None:
        """Nobody is there any more; ``_close_fd`` follows."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._close_fd()
        self.lost += len(self._outward)
        self._outward.clear()
        if self._is_owed:
            self._loop.call_soon(self._tell_writable)

    @abstractmethod
    def _close_fd(self) -> None:
        """Let go of a descriptor that is watched no longer."""

    def _gone(self) -> None:
        """The other side has gone."""
        self._disconnect()

    def _readable(self) -> None:
        if self._fd < 0 or self._inward or self._is_held:
            return
        try:
            data = os.read(self._fd, LINE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: the terminal was closed
            self._gone()
            return
        if not data:
            self._gone()
            return
        self._inward = data
        self._deliver()

    def _deliver(self) -> None:
        if not self._inward:
            return
        taken = self._receiver.receive(self._inward)
        self._inward = self._inward[max(0, taken) :]
        self._watch()
        if not self._inward:
            self._loop.call_soon(self._readable)  # uvloop announces a reset only once

    def _writable(self) -> None:
        try:
            sent = os.write(self._fd, self._outward)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._gone()
            return
        del self._outward[:sent]
        if not self._outward:
            self._loop.remove_writer(self._fd)
        self._tell_writable()

    def _tell_writable(self) -> None:
        if self._is_owed and len(self._outward) < LINE_BYTES:
            self._is_owed = False
            self._receiver.writable()
