"""Snoop: a process writes down what it sends and receives, without ever waiting for the disk.

``pcapng:FILE`` writes a file, ``pcapng:|COMMAND`` the standard input of a shell command (its output goes to our
standard error).  In both, ``{node}``, ``{lab}`` and ``{pid}`` are replaced.

**Which file, when many processes are told the same?**  A node of a lab puts its name in front of the suffix
(``trace.pcapng`` becomes ``trace.lpar1.pcapng``), unless ``FILE`` says ``{node}`` or ``{pid}`` itself; a program of the
user's own writes ``FILE`` as it stands.  Writers lock their file: one that finds it locked by another adds its name, or
its process id if the name is there already.  A file is begun anew, unless ``append`` is asked for (a node that was
started again): then half a block that a killed writer has left is cut off, and a new section begins.

**Never in the way.**  :meth:`SnoopSink.tap` encodes the record and puts it into a bounded queue; a thread of the sink's
own writes.  What finds the queue full is dropped and counted by interface, and the counts stand in the file (interface
statistics, every :data:`STATISTICS_S` seconds and at the end).  When the command ends or the disk is full this is noted
once, and the rest is dropped.  A named pipe is waited for.

What stands in the queue when the process is killed is lost: at most what came within :data:`LINGER_S` seconds, if the
disk keeps up.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pvnet.capture.model import CaptureInfo, Direction, Interface
from pvnet.capture.pcapng import LONGEST_BLOCK
from pvnet.capture.pvcap import SUFFIX, CaptureWriter, make_info, why
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.envelope import CHANNEL_OF_BODY

MOST_RECORDS: Final = 65536
"""Records that may wait to be written."""
MOST_BYTES: Final = 32 << 20
"""Their bytes."""
STATISTICS_S: Final = 10.0
LINGER_S: Final = 0.02
"""How long records gather before they are written together."""
CLOSE_S: Final = 5.0
"""How long a slow reader may take to the end."""

_COMMAND_END_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.2
_MOST_AT_ONCE: Final = 4096
_DIRECTIONS: Final = {"in": Direction.IN, "out": Direction.OUT}


@dataclass(frozen=True, slots=True)
class SnoopTarget:
    """Where to: a file, or a command."""

    path: str = ""
    command: str = ""

    @property
    def names_the_process(self) -> bool:
        """Whether each node has one of its own by what is written."""
        return "{node}" in self.path or "{pid}" in self.path

    def filled(self, node: str, lab: str) -> SnoopTarget:
        """Return the target with the placeholders replaced."""

        def fill(text: str) -> str:
            return text.replace("{node}", node).replace("{lab}", lab).replace("{pid}", str(os.getpid()))

        return SnoopTarget(fill(self.path), fill(self.command))

    def absolute(self, folder: Path) -> SnoopTarget:
        """Return the target with its file found below ``folder``."""
        return SnoopTarget(os.path.normpath(folder.absolute() / self.path), "") if self.path else self

    def __str__(self) -> str:
        return f"pcapng:{self.path}" if self.path else f"pcapng:|{self.command}"


def parse_snoop(text: str) -> SnoopTarget:
    """Read ``pcapng:FILE`` or ``pcapng:|COMMAND``.

    Raises:
        ConfigError: it is neither.
    """
    kind, colon, rest = text.partition(":")
    is_command = rest.startswith("|")
    if kind != "pcapng" or not colon or not rest.removeprefix("|").strip() or "\0" in rest:
        raise ConfigError(f"snoop {text[:80]!r}: expected pcapng:FILE or pcapng:|COMMAND")
    return SnoopTarget(command=rest[1:].strip()) if is_command else SnoopTarget(path=rest)


def with_name(path: str, name: str) -> str:
    """Return ``path`` with ``.name`` in front of its suffix."""
    folder, file = os.path.split(path)
    suffix = SUFFIX if file.endswith(SUFFIX) else Path(file).suffix
    stem = file.removesuffix(suffix)
    return os.path.join(folder, f"{stem}.{name}{suffix}")  # noqa: PTH118


def snoop_uri(text: str, node: str, **more: object) -> SnoopSink:
    """Open what ``text`` names; see :meth:`SnoopSink.open`."""
    return SnoopSink.open(text, node, **more)  # type: ignore[arg-type]


class _Tally:
    """One interface and what came and went there."""

    __slots__ = ("dropped", "interface", "received")

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.received = 0
        self.dropped = 0


class SnoopSink:
    """See the module's text.  Everything but :meth:`close` is called from one thread; ``note`` is, from any."""

    def __init__(
        self,
        out: _Output,
        node: str,
        info: CaptureInfo,
        *,
        lab: str = "",
        note: Callable[[Note], None] = lambda _note: None,
        clock_ns: Callable[[], int] = time.time_ns,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.name = out.name
        self.path: str = out.path
        """The file; empty for a command."""
        self.failure = ""
        """Why nothing is written any more."""
        self._out = out
        self._node = node
        self._lab = lab
        self._note = note
        self._clock_ns = clock_ns
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._queue: deque[bytes] = deque()
        self._put_bytes = 0  # written by the caller's thread only
        self._done_bytes = 0  # written by ours only
        self._by_body: dict[str, _Tally] = {}
        self._tallies: dict[Interface, _Tally] = {}
        self._statistics_at = 0
        self._is_idle = False
        self._closed = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer = CaptureWriter(self._put, info)
        self._thread = threading.Thread(target=self._run, name=f"snoop {node}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @classmethod
    def open(
        cls,
        text: str | SnoopTarget,
        node: str,
        info: CaptureInfo | None = None,
        *,
        lab: str = "",
        is_shared: bool = False,
        append: bool = False,
        note: Callable[[Note], None] = lambda _note: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Open a file or start a command, for the node ``node``.

        ``is_shared``: other nodes are told the same, so the node's name comes into the file's.

        Raises:
            ConfigError: it is no such text, or the file cannot be written.
        """
        target = parse_snoop(text) if isinstance(text, str) else text
        is_named = target.names_the_process
        target = target.filled(node, lab)
        if target.command:
            out = _Output.to_command(target.command)
        else:
            other = str(os.getpid()) if is_shared or is_named else node
            path = with_name(target.path, node) if is_shared and not is_named else target.path
            out = _Output.to_file(path, with_name(path, other), append=append)
        return cls(out, node, info or make_info(), lab=lab, note=note, clock_ns=clock_ns)

    # --- what is recorded --------------------------------------------------------------------------------------------

    def tap(self, direction: str, envelope: Envelope) -> None:
        """Record a message: for ``Endpoint.snoop``."""
        body: str = envelope.WhichOneof("body") or ""
        tally = self._by_body.get(body)
        if tally is None:
            tally = self._by_body[body] = self._tally(self._interface(body))
        tally.received += 1
        if self._is_full(0):
            tally.dropped += 1
            return
        now = self._clock_ns()
        self._writer.record(
            tally.interface, now, envelope.SerializeToString(), direction=_DIRECTIONS.get(direction, Direction.UNKNOWN)
        )
        if self._is_idle:
            self._is_idle = False
            self._wake.set()
        if now >= self._statistics_at:
            self._say_statistics(now)

    def record(
        self,
        interface: Interface,
        data: bytes | memoryview,
        *,
        time_ns: int | None = None,
        direction: Direction = Direction.UNKNOWN,
        original_bytes: int = 0,
        comment: str = "",
    ) -> bool:
        """Record anything else, now or at ``time_ns``; False: it was dropped."""
        tally = self._tally(interface)
        tally.received += 1
        if self._is_full(len(data)):
            tally.dropped += 1
            return False
        now = self._clock_ns() if time_ns is None else time_ns
        self._writer.record(
            interface, now, data, direction=direction, original_bytes=original_bytes, comment=comment
        )  # fmt: skip
        if self._is_idle:
            self._is_idle = False
            self._wake.set()
        if now >= self._statistics_at:
            self._say_statistics(now)
        return True

    @property
    def received(self) -> dict[str, int]:
        """What was seen, by interface."""
        return {interface.name: tally.received for interface, tally in self._tallies.items()}

    @property
    def dropped(self) -> dict[str, int]:
        """What of that was not taken, by interface."""
        return {interface.name: tally.dropped for interface, tally in self._tallies.items()}

    def _interface(self, body: str) -> Interface:
        channel = str(CHANNEL_OF_BODY.get(body, "state"))
        of_lab = f" of lab {self._lab}" if self._lab else ""
        return Interface(f"{self._node}/{channel}", description=f"messages of node {self._node}{of_lab}: {channel}")

    def _tally(self, interface: Interface) -> _Tally:
        tally = self._tallies.get(interface)
        if tally is None:
            tally = self._tallies[interface] = _Tally(interface)
        return tally

    def _is_full(self, more: int) -> bool:
        return (
            len(self._queue) >= self._most_records
            or self._put_bytes - self._done_bytes + more > self._most_bytes
            or self._closed
            or bool(self.failure)
        )

    def _put(self, blocks: bytes) -> None:
        self._put_bytes += len(blocks)
        self._queue.append(blocks)

    def _say_statistics(self, now: int) -> None:
        if self._statistics_at:
            self._writer.statistics(self.received, self.dropped)
        self._statistics_at = now + int(STATISTICS_S * 1e9)

    def close(self, timeout: float = CLOSE_S) -> None:
        """Write the statistics and what waits, then let go; waits for that, at most ``timeout`` seconds.  Idempotent.

        May be called from another thread, after the last record.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if not self.failure:
            self._writer.statistics(self.received, self.dropped)
        self._out.give_up_at = time.monotonic() + timeout
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout + _COMMAND_END_S + 1.0)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._out.begin()
            while True:
                if self._queue:
                    self._write_some()
                elif self._closing.is_set():
                    break
                else:
                    self._wake.clear()
                    self._is_idle = True
                    if not self._queue and not self._closing.is_set():
                        self._wake.wait()
                    self._is_idle = False
                    continue
                if len(self._queue) < _MOST_AT_ONCE:
                    self._closing.wait(LINGER_S)
        except OSError as error:
            self.failure = _reason(error)
        finally:
            left = self._out.end()
            if self.failure:
                self.failure = left or self.failure
                self._queue.clear()
                dropped = (("file", self.name), ("reason", self.failure))
                self._note(Note("snoop_ended", dropped, "warning"))

    def _write_some(self) -> None:
        blocks = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST_AT_ONCE))]
        data = b"".join(blocks)
        self._out.write(data)
        self._done_bytes += len(data)


def _reason(error: OSError) -> str:
    if error.errno == errno.EPIPE:
        return "the reader is gone"
    return why(error)


class _Output:
    """A file descriptor that is written by the sink's thread; every ``write`` is of whole blocks."""

    def __init__(self, fd: int, name: str, *, path: str = "", process: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.path = path
        self.give_up_at = float("inf")
        self._fd = fd
        self._process = process
        self._append = False
        self._is_pipe = fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode)
        self._whole = 0
        self._poll = select.poll()

    @classmethod
    def to_command(cls, command: str) -> Self:
        """Start a command; raises ConfigError."""
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=_stderr(), start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"snoop command {command[:80]!r}: {why(error)}") from None
        assert process.stdin is not None
        fd = os.dup(process.stdin.fileno())
        process.stdin.close()
        process.stdin = None
        return cls(fd, f"|{command}", process=process)

    @classmethod
    def to_file(cls, path: str, other: str, *, append: bool = False) -> Self:
        """Open and lock a file, or the ``other`` if somebody writes it; raises ConfigError."""
        try:
            if Path(path).is_fifo():
                return cls(-1, path, path=path)
            fd = _locked(path)
            if fd < 0:
                path = other
                fd = _locked(path)
            if fd < 0:
                raise ConfigError(f"snoop file {path}: somebody else writes it")
        except (OSError, ValueError) as error:
            raise ConfigError(f"snoop file {path}: {why(error)}") from None
        out = cls(fd, path, path=path)
        out._append = append
        if not append and not out._is_pipe:
            os.ftruncate(fd, 0)
        return out

    def begin(self) -> None:
        """Make ready to be written; waits for the reader of a named pipe."""
        while self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() >= self.give_up_at:
                    raise
                time.sleep(_LOOK_AGAIN_S)
        if self._is_pipe:
            os.set_blocking(self._fd, False)
            self._poll.register(self._fd, select.POLLOUT)
        elif self._append:
            self._whole = whole_length(self._fd)
            os.ftruncate(self._fd, self._whole)
            os.lseek(self._fd, self._whole, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Write all of it; a file keeps whole blocks if that fails."""
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    self._poll.poll(100)
                    if time.monotonic() >= self.give_up_at:
                        raise TimeoutError(errno.ETIMEDOUT, "the reader is too slow") from None
        except OSError:
            if not self._is_pipe:
                os.ftruncate(self._fd, self._whole)
            raise
        self._whole += len(data)

    def end(self) -> str:
        """Close; return how a command ended, if it has, and not well."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        process = self._process
        if process is None:
            return ""
        try:
            code = process.wait(_COMMAND_END_S)
        except subprocess.TimeoutExpired:  # a window that stays open, perhaps: it is not ours to end
            _LEFT.append(process)
            return ""
        return f"the command ended with {code}" if code else ""


_LEFT: Final[list[subprocess.Popen[bytes]]] = []
"""Commands that outlive their capture."""


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return subprocess.DEVNULL


def _locked(path: str) -> int:
    """Open a file to be written, and lock it; -1: somebody else has."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except OSError:  # a file system without locks
        pass
    return fd


def whole_length(fd: int) -> int:
    """Return where the last whole block of a little-endian file ends; 0: it is none of ours."""
    at, size = 0, os.fstat(fd).st_size
    while at + 12 <= size:
        head = os.pread(fd, 12, at)
        length = int.from_bytes(head[4:8], "little")
        if at == 0 and (head[:4] != b"\x0a\x0d\x0d\x0a" or head[8:] != b"\x4d\x3c\x2b\x1a"):
            return 0
        if length < 12 or length % 4 or length > LONGEST_BLOCK or at + length > size:
            break
        if os.pread(fd, 4, at + length - 4) != head[4:8]:
            break
        at += length
    return at
