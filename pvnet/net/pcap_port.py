"""Captures of a switch: a port that writes what it is given to a pcapng file or pipe, and one that plays a file back.

As a mirror (:meth:`~pvnet.net.running_switch.RunningSwitch.plug_sink`) the writer sees all traffic.  Packets with
work left to do are finished by the switch before, so every frame in the file is complete.  Writing never holds the
switch up: what a pipe does not take at once waits in a bounded buffer, beyond which whole frames are dropped and
counted.  When the reader of a pipe goes away, or the disk is full, the capture ends with a note; what is lost by that
is counted.

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
from itertools import chain
from pathlib import Path
from typing import Final

from pvnet.capture.pcapng import LINKTYPE_ETHERNET, CapturedFrame, PcapngWriter, packet_block, read_pcapng
from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Counters, Note
from pvnet.vbus.packet import ACCEPTS_NOTHING, ETHERNET_HEADER, MAX_MTU, Packet, packet_of

MOST_WAITING: Final = 8 << 20
"""Bytes that may wait for a slow reader."""

_LOOK_AGAIN_S: Final = 0.2


class _Chunk:
    """Whole blocks that wait; ``tails`` are the bytes that follow each frame's block, to know what is cut off."""

    __slots__ = ("rest", "tails")

    def __init__(self, blocks: list[bytes], *, has_frames: bool) -> None:
        self.rest = memoryview(b"".join(blocks))
        self.tails: list[int] = []
        if has_frames:
            tail = len(self.rest)
            for block in blocks:
                tail -= len(block)
                self.tails.append(tail)

    def frames(self) -> int:
        """Frames that are not written, or not to their end."""
        rest = len(self.rest)
        return sum(tail < rest for tail in self.tails)


class PcapPort:
    """A :class:`~pvnet.vbus.packet.NetPort` that writes.  ``note`` hears when the capture begins and ends.

    Counted: ``frames``, and as losses ``no_reader``, ``buffer_full``, ``unwritten`` (waited when the capture ended) and
    ``ended`` (came afterwards).
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
        self._waiting: deque[_Chunk] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._fd = -1
        self._look: asyncio.TimerHandle | None = None
        self._is_opening = True
        self.end_reason = ""
        if isinstance(target, int):
            os.set_blocking(target, False)
            self._begin(target)
        elif self._is_fifo(target):
            self._look_for_reader()
        else:
            self._begin(self._opened(target, os.O_CREAT | os.O_TRUNC))
        if self.end_reason:
            raise ConfigError(f"capture file {target}: {self.end_reason}")
        self._is_opening = False

    @property
    def ended(self) -> bool:
        """Whether the capture is over for good; :attr:`end_reason` says why."""
        return bool(self.end_reason)

    @property
    def state(self) -> str:
        """How the capture is; '' while it is written."""
        if self.end_reason:
            return f"ended ({self.end_reason})"
        return "waits for a reader" if self._look is not None else ""

    def losses(self) -> dict[str, int]:
        """What was not written, by reason."""
        return {reason: count for reason, count in self.counters.items() if reason != "frames"}

    @staticmethod
    def _is_fifo(path: Path) -> bool:
        try:
            return path.is_fifo()
        except (OSError, ValueError) as error:
            raise ConfigError(f"capture file {path}: {_why(error)}") from None

    def _opened(self, path: Path, flags: int) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o644)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENXIO and not flags:
                return -1
            raise ConfigError(f"capture file {path}: {_why(error)}") from None

    def _look_for_reader(self) -> None:
        assert isinstance(self._target, Path)
        self._look = None
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
        writer = PcapngWriter(lambda block: self._put([block], has_frames=False))
        writer.interface(self.name)
        if self.end_reason:
            return
        self._note(Note("capture_begun", (("port", self.name),), "info"))

    def deliver(self, packets: list[Packet]) -> int:
        """Write frames; what finds no room is dropped and counted here, so all are taken."""
        if self._fd < 0:
            self.counters["ended" if self.end_reason else "no_reader"] += len(packets)
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
            self._put(blocks, has_frames=True)
        return len(packets)

    def _put(self, blocks: list[bytes], *, has_frames: bool) -> None:
        if self._fd < 0:
            return
        chunk = _Chunk(blocks, has_frames=has_frames)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk.rest)
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        """Write what waits as far as it goes now."""
        try:
            while self._waiting:
                first = self._waiting[0]
                count = os.write(self._fd, first.rest)
                self._waiting_bytes -= count
                first.rest = first.rest[count:]
                if not first.rest:
                    self._waiting.popleft()
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
        self.end_reason = reason
        self.close()
        if not self._is_opening:
            fields = (("port", self.name), ("reason", reason), ("unwritten", self.counters["unwritten"]))
            self._note(Note("capture_ended", fields, "warning"))

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
        unwritten = sum(chunk.frames() for chunk in self._waiting)
        if unwritten:
            self.counters["frames"] -= unwritten
            self.counters["unwritten"] += unwritten
        self._waiting.clear()
        self._waiting_bytes = 0


class PcapReplay:
    """A port that sends the ethernet frames of a pcapng file; what is delivered to it is thrown away.

    ``speed`` 1 keeps the times of the file, 10 is ten times as fast, 0 sends as fast as it goes.
    """

    mtu = MAX_MTU
    accepts = ACCEPTS_NOTHING

    def __init__(self, path: Path, *, name: str | None = None, speed: float = 1.0) -> None:
        """Check that the file is there and is a capture, as far as its first frame.

        Raises:
            ConfigError: it cannot be read, or is none.
        """
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"capture file {path}: not a file")
            self._file = path.open("rb")
        except (OSError, ValueError) as error:
            raise ConfigError(f"capture file {path}: {_why(error)}") from None
        try:
            if not self._file.peek(1):
                raise ConfigError(f"capture file {path}: it is empty: expected a pcapng file")
            self._frames = read_pcapng(self._file)
            self._first = next(self._frames, None)
        except (OSError, PvnetError) as error:
            self._file.close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"capture file {path}: {error}") from None
        self.name = name or f"replay:{path}"
        self.counters = Counters()
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self._speed = speed

    def deliver(self, packets: list[Packet]) -> int:
        """Take and forget."""
        return len(packets)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    async def run(self) -> int:
        """Send everything; return how many frames were sent.  Frames of other link types are skipped and counted.

        Raises:
            WireError: the file is broken; what was before that place was sent.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        first_ns: int | None = None
        with self._file:
            for frame in () if self._first is None else chain((self._first,), self._frames):
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


def _why(error: OSError | ValueError) -> str:
    """Return what the system says; a ValueError is a path with a NUL or with what has no encoding."""
    return str(error.strerror) if isinstance(error, OSError) else "not a path"
