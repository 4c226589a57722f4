"""Captures of a switch: a port that writes what it is given to a pcapng file or pipe, and one that plays a file back.

As a mirror (:meth:`~pvnet.net.running_switch.RunningSwitch.plug_sink`) the writer sees all traffic.  Packets with
work left to do are finished by the switch before, so every frame in the file is complete.  Writing never holds the
switch up: what a pipe does not take at once waits in a bounded buffer, beyond which whole frames are dropped and
counted.  When the reader of a pipe goes away the capture ends with a note.

A named pipe (``mkfifo``; ``wireshark -k -i FIFO``) is waited for: frames before its reader comes are dropped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pvnet.capture.pcapng import LINKTYPE_ETHERNET, CapturedFrame, PcapngWriter, packet_block, read_pcapng
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Counters, Note
from pvnet.vbus.packet import ACCEPTS_NOTHING, ETHERNET_HEADER, MAX_MTU, Packet, packet_of

MOST_WAITING: Final = 8 << 20
"""Bytes that may wait for a slow reader."""

_LOOK_AGAIN_S: Final = 0.2


class PcapPort:
    """A :class:`~pvnet.vbus.packet.NetPort` that writes.  ``note`` hears when the capture begins and ends.

    Counted: ``frames``, ``no_reader``, ``buffer_full``.
    """

    mtu = MAX_MTU
    accepts = ACCEPTS_NOTHING

    def __init__(
        self,
        target: Path | int,
        *,
        name: str | None = None,
        note: Callable[[Note], None] = lambda _note: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open ``target``: a path, or a descriptor that this owns from now on.  A file is begun anew.

        Raises:
            ConfigError: it cannot be written.
        """
        self.name = name or (f"pcapng:{target}" if isinstance(target, Path) else f"pcapng:fd{target}")
        self.counters = Counters()
        self._target = target
        self._note = note
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._fd = -1
        self._look: asyncio.TimerHandle | None = None
        self.ended = False
        if isinstance(target, int):
            os.set_blocking(target, False)
            self._begin(target)
        elif target.is_fifo():
            self._look_for_reader()
        else:
            self._begin(self._opened(target, os.O_CREAT | os.O_TRUNC))

    def _opened(self, path: Path, flags: int) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o644)
        except OSError as error:
            if error.errno == errno.ENXIO and not flags:
                return -1
            raise ConfigError(f"capture file {path}: {error.strerror}") from None

    def _look_for_reader(self) -> None:
        assert isinstance(self._target, Path)
        fd = self._opened(self._target, 0)
        if fd >= 0:
            self._begin(fd)
        else:
            self._look = self._loop.call_later(_LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        try:
            self._look_for_reader()
        except ConfigError as error:
            self._end(str(error))

    def _begin(self, fd: int) -> None:
        self._fd = fd
        writer = PcapngWriter(self._put)
        writer.interface(self.name)
        self._note(Note("capture_begun", (("port", self.name),), "info"))

    def deliver(self, packets: list[Packet]) -> int:
        """Write frames; what finds no room is dropped and counted here, so all are taken."""
        if self._fd < 0:
            self.counters["no_reader"] += len(packets)
            return len(packets)
        now = self._clock_ns()
        blocks = []
        room = MOST_WAITING - self._waiting_bytes
        for packet in packets:
            room -= packet.length
            if room < 0:
                self.counters["buffer_full"] += 1
                continue
            blocks.append(packet_block(0, now, packet.tobytes()))
        self.counters["frames"] += len(blocks)
        if blocks:
            self._put(b"".join(blocks))
        return len(packets)

    def _put(self, data: bytes) -> None:
        if self._fd < 0:
            return
        self._waiting.append(memoryview(data))
        self._waiting_bytes += len(data)
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        """Write what waits as far as it goes now."""
        try:
            while self._waiting:
                first = self._waiting[0]
                count = os.write(self._fd, first)
                self._waiting_bytes -= count
                if count == len(first):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = first[count:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._all_written.clear()
                self._loop.add_writer(self._fd, self._flush)
            return
        except OSError as error:
            self._end("the reader is gone" if error.errno == errno.EPIPE else str(error.strerror))
            return
        if self._writing:
            self._writing = False
            self._all_written.set()
            self._loop.remove_writer(self._fd)

    def _end(self, reason: str) -> None:
        self.close()
        self.ended = True
        self._note(Note("capture_ended", (("port", self.name), ("reason", reason)), "info"))

    async def finish(self, wait_s: float = 1.0) -> None:
        """Give a slow reader some seconds to take what waits, then close."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._all_written.wait()
        self.close()

    def close(self) -> None:
        """Write no more.  What a slow reader has not taken is lost."""
        self._all_written.set()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._fd >= 0:
            if self._writing:
                self._loop.remove_writer(self._fd)
                self._writing = False
            os.close(self._fd)
            self._fd = -1
        self._waiting.clear()
        self._waiting_bytes = 0


class PcapReplay:
    """A port that sends the ethernet frames of a pcapng file; what is delivered to it is thrown away.

    ``speed`` 1 keeps the times of the file, 10 is ten times as fast, 0 sends as fast as it goes.
    """

    mtu = MAX_MTU
    accepts = ACCEPTS_NOTHING

    def __init__(self, path: Path, *, name: str | None = None, speed: float = 1.0) -> None:
        """Check that the file is there.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"capture file {path}: not a file")
            self._file = path.open("rb")
        except OSError as error:
            raise ConfigError(f"capture file {path}: {error.strerror}") from None
        self.name = name or f"replay:{path}"
        self.counters = Counters()
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self._speed = speed

    def deliver(self, packets: list[Packet]) -> int:
        """Take and forget."""
        return len(packets)

    async def run(self) -> int:
        """Send everything; return how many frames were sent.  Frames of other link types are skipped and counted.

        Raises:
            WireError: the file is broken; what was before that place was sent.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        first_ns: int | None = None
        with self._file:
            for frame in read_pcapng(self._file):
                if not self._is_sendable(frame):
                    self.counters["skipped"] += 1
                    continue
                if self._speed and frame.timestamp_ns is not None:
                    first_ns = frame.timestamp_ns if first_ns is None else first_ns
                    due = began + (frame.timestamp_ns - first_ns) / 1e9 / self._speed
                    await asyncio.sleep(max(0.0, due - loop.time()))
                else:
                    await asyncio.sleep(0)
                self.counters["frames"] += 1
                self.receive([packet_of(frame.data)])
        return self.counters["frames"]

    def _is_sendable(self, frame: CapturedFrame) -> bool:
        """Whether it is an ethernet frame, and whole."""
        return frame.link_type == LINKTYPE_ETHERNET and len(frame.data) == frame.original_bytes >= ETHERNET_HEADER
