"""Migration of a framebuffer: its memory as a stream of rows.

While the device runs every row goes out once, and then those that have changed; what is left goes out when it is
stopped, with the configuration space::

    header  u64 magic 0x3159504456494d50, u32 version 1, u32 bytes of a row, u32 bytes of the memory, u32 0
    row     u32 number, then the bytes of that row (the last one may be shorter); any number, in any order
    end     u32 0xffffffff, then 256 bytes of configuration space

All little-endian.  A row counts as it came last.  Users that have mapped the memory change it unseen, so what was sent
is kept and compared; rows cover all of the memory, also behind the picture.

Whoever restores takes the state over only at the end, and only if every row has come.

Spec: mdev 4.8.
"""

from __future__ import annotations

import struct
from typing import Final

from pvnet.mdev.device import RegionMemory
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import MigrationFlag
from pvnet.mdev.pci import CONFIG_BYTES, ConfigSpace
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM

MAGIC: Final = 0x3159504456494D50
VERSION: Final = 1
END: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("<QIIII")
_NUMBER: Final = struct.Struct("<I")


class FramebufferMigration:
    """Saves and restores ``size`` bytes of ``memory``, in rows of ``row_bytes``, and ``config``."""

    flags: int = MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY

    def __init__(self, memory: RegionMemory, size: int, row_bytes: int, config: ConfigSpace) -> None:
        self._memory = memory  # never a part of its view, which would keep the memory from being closed
        self._size = size
        self._row_bytes = row_bytes
        self._rows = -(-size // row_bytes)
        self._config = config
        self.forget()
        self.restore_begin()

    def _header(self) -> bytes:
        return _HEADER.pack(MAGIC, VERSION, self._row_bytes, self._size, 0)

    def _row(self, number: int) -> bytes:
        start = number * self._row_bytes
        return bytes(self._memory.view[start : min(start + self._row_bytes, self._size)])

    # --- saving ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """No stream is under way, and none will go on: let go of what was kept for it."""
        self._sent: list[bytes | None] = [None] * self._rows
        self._next = 0
        self._out = bytearray(self._header())
        self._stopped = False
        self._ended = False

    def resumed(self) -> None:
        """The device runs again after it was stopped: the stream for which it was is over."""
        if self._stopped:
            self.forget()

    def save_begin(self) -> None:
        """Begin with the header; no row has been sent."""
        self.forget()

    def precopy(self, limit: int) -> bytes:
        """Rows that differ from what was sent; each pass over the memory ends with ``b""``."""
        self._fill(limit)
        data = self._take(limit)
        if not data:
            self._next = 0
        return data

    def save(self, limit: int) -> bytes:
        """Rows that differ, looking at all of them once more, then the end."""
        if not self._stopped:
            self._stopped, self._next = True, 0
        if not self._ended:
            self._fill(limit)
            if self._next == self._rows:
                self._ended = True
                self._out += _NUMBER.pack(END) + self._config.snapshot()
        return self._take(limit)

    def _fill(self, limit: int) -> None:
        while len(self._out) < limit and self._next < self._rows:
            row = self._row(self._next)
            if row != self._sent[self._next]:
                self._sent[self._next] = row
                self._out += _NUMBER.pack(self._next) + row
            self._next += 1

    def _take(self, limit: int) -> bytes:
        data = bytes(self._out[:limit])
        del self._out[:limit]
        return data

    def remaining(self) -> int:
        """Return how much it is if nothing changes any more."""
        if self._ended:
            return len(self._out)
        rows = ((number, self._row(number)) for number in range(self._rows))
        changed = sum(_NUMBER.size + len(row) for number, row in rows if row != self._sent[number])
        return len(self._out) + changed + _NUMBER.size + CONFIG_BYTES

    # --- restoring ---------------------------------------------------------------------------------------------------

    def restore_begin(self) -> None:
        """Nothing has come."""
        self._in = bytearray()
        self._came: list[bytes | None] = [None] * self._rows
        self._header_came = False
        self._config_came: bytes | None = None

    def restore(self, data: bytes) -> None:
        """Take a piece apart as far as it is complete.

        :raises MdevError: EFAULT, another header or a row that there is not; ENOMEM, something behind the end.
        """
        self._in += data
        taken = 0
        while (used := self._record(taken)) > 0:
            taken += used
        del self._in[:taken]
        if self._config_came is not None and self._in:
            raise MdevError(ENOMEM, "framebuffer state: bytes behind the end")

    def _record(self, at: int) -> int:
        """Take the header, row or end that begins at ``at``; returns its size, 0 if it is not complete yet."""
        here = len(self._in) - at
        if not self._header_came:
            if here < _HEADER.size:
                return 0
            if self._in[at : at + _HEADER.size] != self._header():
                raise MdevError(EFAULT, "framebuffer state: not of a display like this one")
            self._header_came = True
            return _HEADER.size
        if self._config_came is not None or here < _NUMBER.size:
            return 0
        (number,) = _NUMBER.unpack_from(self._in, at)
        if number == END:
            size = CONFIG_BYTES
        elif number < self._rows:
            size = min(self._row_bytes, self._size - number * self._row_bytes)
        else:
            raise MdevError(EFAULT, f"framebuffer state: row {number} of {self._rows}")
        if here < _NUMBER.size + size:
            return 0
        content = bytes(self._in[at + _NUMBER.size : at + _NUMBER.size + size])
        if number == END:
            self._config_came = content
        else:
            self._came[number] = content
        return _NUMBER.size + size

    def restore_end(self) -> None:
        """Take configuration and memory over.

        :raises MdevError: EINVAL, rows or the end are missing.
        """
        rows = [row for row in self._came if row is not None]
        config = self._config_came
        if config is None or len(rows) < self._rows:
            raise MdevError(EINVAL, f"framebuffer state: {len(rows)} of {self._rows} rows, end: {config is not None}")
        self._config.restore(config)
        self._memory.view[: self._size] = b"".join(rows)
        self.restore_begin()
