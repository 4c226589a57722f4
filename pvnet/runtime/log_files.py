"""Logs of a lab's nodes: kept short by the supervisor, read without a gap by who follows them.

Children append to ``logs/NODE.log``, for as long as they live.  When that has become long, its content moves to
``NODE.log.1`` (one older part; what was in there is gone) and the log begins anew at length 0, which works because all
who write have opened it to append.  The first line of the older part says which bytes of the whole log it has, so that
a reader finds his place however often the log has moved meanwhile::

    (pvnet: bytes 8388671 to 16777302 of this log)

What a node writes in the microseconds between the last copied byte and the cut is lost.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO, Final

LOG_BYTES: Final = 8 << 20
"""A log that is longer moves; the older part is at most as long."""
_COPY_BYTES: Final = 1 << 18
_HEADER: Final = re.compile(rb"\(pvnet: bytes (\d{1,19}) to (\d{1,19}) of this log\) *\n")
_HEADER_BYTES: Final = 80


def older_part(log: Path) -> Path:
    """Where the older part of a log is."""
    return log.with_name(f"{log.name}.1")


def shorten(log: Path, most: int) -> bool:
    """Move a log's content to its older part when it has more than ``most`` bytes; return whether it had.

    Raises:
        OSError: the older part cannot be written, or the log cannot be cut: it is as it was.
    """
    with log.open("rb+", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            return False
        older = older_part(log)
        found = _open_older(older)
        begin = 0  # of the log's first byte
        if found is not None:
            found[0].close()
            begin = found[2]
        new = older.with_name(f"{older.name}.new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as copy:
                copy.write(bytes(_HEADER_BYTES))
                start = file.seek(size - most)
                while piece := file.read(_COPY_BYTES):
                    _write(copy, piece)
                file.truncate(0)
                _write_header(copy, begin + start, begin + file.tell())
            new.replace(older)
        except OSError:
            new.unlink(missing_ok=True)
            raise
    return True


class LogReader:
    """The bytes of one node's log, its older part first, as they come.

    The file stays open: a lab removes it at its end, and its last lines are worth reading.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._next = 0
        """What is read next, in bytes of the whole log."""
        self._base = 0
        """Where the log of now begins, in bytes of the whole log."""

    def read(self) -> bytes:
        """Return what is new since the last call."""
        content = self._read_older()
        try:
            self._file = self._file or self._log.open("rb", buffering=0)
        except FileNotFoundError:
            return content
        if os.fstat(self._file.fileno()).st_size < self._next - self._base:
            return content  # it has just been cut, and the older part is there in a moment
        self._file.seek(self._next - self._base)
        piece = self._file.read()
        self._next += len(piece)
        return content + piece

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._file is not None:
            self._file.close()

    def _read_older(self) -> bytes:
        """Return what has moved before it was read."""
        found = _open_older(older_part(self._log))
        if found is None:
            return b""
        file, begin, end = found
        with file:
            if end <= self._base:
                return b""
            start = max(self._next, begin)
            file.seek(start - begin, os.SEEK_CUR)
            self._base = self._next = end
            return file.read(end - start)


def _open_older(path: Path) -> tuple[BinaryIO, int, int] | None:
    """Open an older part at its first byte; with it the place of that and of its end in the whole log."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    match = _HEADER.fullmatch(file.read(_HEADER_BYTES))
    if match is None:  # none that we have written
        file.close()
        return None
    return file, int(match[1]), int(match[2])


def _write(copy: BinaryIO, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[copy.write(left) :]


def _write_header(copy: BinaryIO, begin: int, end: int) -> None:
    """Write it over the zeros that stand for it, so that this cannot fail for want of space."""
    line = b"(pvnet: bytes %d to %d of this log)" % (begin, end)
    os.pwrite(copy.fileno(), line.ljust(_HEADER_BYTES - 1) + b"\n", 0)
