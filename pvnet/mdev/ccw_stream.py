"""Migration of a channel-I/O disk: all of its blocks, then its state, as one stream.

A stream is a row of records, big-endian, which may be cut anywhere::

    0 type 4 | 4 length of the rest 4 | ...
    1 HEADER  magic "PVCW" 4 | version 4 | block size 4 | size of the disk 8      first, once
    2 DATA    offset 8 | bytes
    3 ZERO    offset 8 | length 8                                                 blocks of zeros
    4 STATE   subchannel, path, sense bytes, reports                              once, after the blocks
    5 END     CRC-32 of everything before this record 4                           last

While the device runs, the disk is sent once from its start; pieces of 64 KiB that are written behind that point are
sent again.  What is left when the device stops follows then, before the state.

The target has a disk of its own, of the same size.  Blocks are stored as they arrive, so a stream that breaks off
leaves that disk half changed (its device is of no use without the rest anyway); the state of the device changes only at
the end.  Where the target's disk already has a piece, it is not written: a read-only one may hold a copy.

Spec: mdev 4.8, 6.6; the format is our own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pvnet.mdev.ccw_layout import (
    CRW_BYTES,
    IRB_BYTES,
    SCSW_BYTES,
    SENSE_BYTES,
    Crw,
    Irb,
    Scsw,
    decode_crw,
    decode_irb,
    decode_scsw,
)
from pvnet.mdev.ccw_names import Activity
from pvnet.mdev.ccw_path import MAX_REPORTS
from pvnet.mdev.ccw_regions import ASYNC_BYTES, IO_BYTES
from pvnet.mdev.device import BlockStore
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import MigrationFlag
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM, EROFS

MAGIC: Final = b"PVCW"
VERSION: Final = 1
PIECE: Final = 1 << 16
"""Granularity of what is sent again."""
_ZERO_PIECES: Final = 64
"""Pieces that one call looks through at most, when they are zero."""
_ZEROS: Final = bytes(PIECE)

_RECORD: Final = struct.Struct(">II")
_HEADER: Final = struct.Struct(">4sIIQ")
_OFFSET: Final = struct.Struct(">Q")
_RANGE: Final = struct.Struct(">QQ")
_SUM: Final = struct.Struct(">I")
_STATE: Final = struct.Struct(f">HBBBB{IO_BYTES}s{ASYNC_BYTES}s{SENSE_BYTES}sB{SCSW_BYTES}sB{IRB_BYTES}sB")


class Record(IntEnum):
    """Types of records; DONE: none is expected any more."""

    DONE = 0
    HEADER = 1
    DATA = 2
    ZERO = 3
    STATE = 4
    END = 5


_MAX_RECORD: Final = {
    Record.HEADER: _HEADER.size,
    Record.DATA: _OFFSET.size + PIECE,
    Record.ZERO: _RANGE.size,
    Record.STATE: _STATE.size + MAX_REPORTS * CRW_BYTES,
    Record.END: _SUM.size,
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a subchannel that is stopped."""

    devno: int
    chpid: int
    online: bool
    last_used: int
    concurrent_sense: bool
    io: bytes
    command: bytes
    sense: bytes
    suspended: Scsw | None = None
    owed: Irb | None = None
    reports: tuple[Crw, ...] = ()

    def encode(self) -> bytes:
        """Return the content of a STATE record."""
        suspended = self.suspended.encode() if self.suspended is not None else bytes(SCSW_BYTES)
        owed = self.owed.encode() if self.owed is not None else bytes(IRB_BYTES)
        head = _STATE.pack(
            self.devno, self.chpid, self.online, self.last_used, self.concurrent_sense,
            self.io, self.command, self.sense,
            self.suspended is not None, suspended, self.owed is not None, owed, len(self.reports),
        )  # fmt: skip
        return head + b"".join(report.encode() for report in self.reports)


def decode_snapshot(data: bytes) -> Snapshot:
    """Decode the content of a STATE record.

    :raises MdevError: EINVAL.
    """
    if len(data) < _STATE.size:
        raise MdevError(EINVAL, "state record is too short")
    (
        devno, chpid, online, last_used, concurrent_sense, io, command, sense,
        has_suspended, suspended_bytes, has_owed, owed_bytes, count,
    ) = _STATE.unpack_from(data)  # fmt: skip
    reports = data[_STATE.size :]
    suspended = decode_scsw(suspended_bytes) if has_suspended else None
    if (
        len(reports) != count * CRW_BYTES
        or count > MAX_REPORTS
        or max(online, concurrent_sense, has_suspended, has_owed) > 1
        or (suspended is not None and not suspended.actl & Activity.SUSPENDED)
    ):
        raise MdevError(EINVAL, "state record is malformed")
    return Snapshot(
        devno, chpid, bool(online), last_used, bool(concurrent_sense), io, command, sense,
        suspended, decode_irb(owed_bytes) if has_owed else None,
        tuple(decode_crw(reports[at : at + CRW_BYTES]) for at in range(0, len(reports), CRW_BYTES)),
    )  # fmt: skip


class CcwMigration:
    """Saves and restores one device; :class:`~pvnet.mdev.device.MigrationOps`.

    :param snapshot: asked for the state when everything else has been saved.
    :param restore: given the state when everything has come; may refuse it.
    """

    flags: int = MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY

    def __init__(
        self,
        store: BlockStore,
        block_size: int,
        snapshot: Callable[[], Snapshot],
        restore: Callable[[Snapshot], None],
    ) -> None:
        self._store = store
        self._header = _HEADER.pack(MAGIC, VERSION, block_size, store.size)
        self._snapshot = snapshot
        self._apply = restore
        self._next = 0
        """Where the first pass is; what is written behind it is dirty."""
        self._dirty: dict[int, None] = {}
        self._out = b""
        self._sum = 0
        self._finished = True
        self._in = bytearray()
        self._expected = Record.DONE
        self._restored: Snapshot | None = None

    # --- saving ---

    def written(self, offset: int, length: int) -> None:
        """Blocks have changed: what was sent of them is to be sent again."""
        if not self._finished:
            for piece in range(offset // PIECE, (offset + length - 1) // PIECE + 1):
                if piece * PIECE < self._next:
                    self._dirty[piece] = None

    def save_begin(self) -> None:
        """Begin a stream, whatever became of the one before."""
        self._next, self._sum, self._finished = 0, 0, False
        self._dirty.clear()
        self._out = b""
        self._put(Record.HEADER, self._header)

    def _put(self, type_: int, content: bytes) -> None:
        record = _RECORD.pack(type_, len(content)) + content
        self._sum = zlib.crc32(record, self._sum)
        self._out += record

    def precopy(self, limit: int) -> bytes:
        """Return blocks that have not been sent as they are now."""
        if not self._out:
            self._put_blocks()
        return self._cut(limit)

    def save(self, limit: int) -> bytes:
        """Return the rest: blocks, state, end."""
        if not self._out and not self._finished:
            self._put_blocks()
            if not self._out:
                self._put(Record.STATE, self._snapshot().encode())
                self._put(Record.END, _SUM.pack(self._sum))
                self._finished = True
        return self._cut(limit)

    def _cut(self, limit: int) -> bytes:
        data, self._out = self._out[:limit], self._out[limit:]
        return data

    def remaining(self) -> int:
        """Estimate what is left."""
        if self._finished:
            return len(self._out)
        return len(self._out) + self._store.size - self._next + len(self._dirty) * PIECE + _STATE.size

    def _put_blocks(self) -> None:
        """Make the next record of blocks, if any are left."""
        start, data = self._next, b""
        while self._next < min(self._store.size, start + _ZERO_PIECES * PIECE):
            data = self._piece(self._next)
            if data != _ZEROS[: len(data)]:
                break
            self._next += len(data)
        if self._next > start:
            self._put(Record.ZERO, _RANGE.pack(start, self._next - start))
        elif data:
            self._next += len(data)
            self._put(Record.DATA, _OFFSET.pack(start) + data)
        elif self._dirty:
            piece = next(iter(self._dirty))
            del self._dirty[piece]
            self._put(Record.DATA, _OFFSET.pack(piece * PIECE) + self._piece(piece * PIECE))

    def _piece(self, offset: int) -> bytes:
        return self._store.read(offset, min(PIECE, self._store.size - offset))

    # --- restoring ---

    def restore_begin(self) -> None:
        """Expect a stream."""
        self._in.clear()
        self._expected, self._sum = Record.HEADER, 0
        self._restored = None

    def restore(self, data: bytes) -> None:
        """Take a piece of the stream.

        :raises MdevError: EFAULT not of such a disk, EINVAL malformed, ENOMEM a record is too long, EROFS, EIO.
        """
        self._in += data
        while len(self._in) >= _RECORD.size:
            type_, length = _RECORD.unpack_from(self._in)
            self._check_order(type_)
            if length > _MAX_RECORD[type_]:
                raise MdevError(ENOMEM, f"record {type_} of {length} bytes")
            end = _RECORD.size + length
            if len(self._in) < end:
                return
            record = bytes(self._in[:end])
            del self._in[:end]
            self._record(type_, record[_RECORD.size :])
            self._sum = zlib.crc32(record, self._sum)

    def _check_order(self, type_: int) -> None:
        """Refuse a record that may not come now: the header is first, the state last but one."""
        fits = type_ == self._expected
        if self._expected == Record.DATA:
            fits = type_ in (Record.DATA, Record.ZERO, Record.STATE)
        if not fits:
            raise MdevError(
                EFAULT if self._expected in (Record.DONE, Record.HEADER) else EINVAL,
                f"record {type_}: expected {self._expected.name}",
            )

    def _record(self, type_: int, content: bytes) -> None:
        match type_:
            case Record.HEADER:
                if content != self._header:
                    raise MdevError(EFAULT, "stream is of another disk, or of another version")
                self._expected = Record.DATA
            case Record.DATA:
                if len(content) < _OFFSET.size:
                    raise MdevError(EINVAL, "data without an offset")
                (offset,) = _OFFSET.unpack_from(content)
                self._store_at(offset, content[_OFFSET.size :])
            case Record.ZERO:
                if len(content) != _RANGE.size:
                    raise MdevError(EINVAL, "zeros without a range")
                self._store_zeros(*_RANGE.unpack(content))
            case Record.STATE:
                self._restored = decode_snapshot(content)
                self._expected = Record.END
            case _:
                if content != _SUM.pack(self._sum):
                    raise MdevError(EINVAL, "checksum of the stream is wrong")
                self._expected = Record.DONE

    def _store_at(self, offset: int, data: bytes) -> None:
        self._check_range(offset, len(data))
        if data and self._store.read(offset, len(data)) != data:
            if self._store.readonly:
                raise MdevError(EROFS, f"disk is read-only and differs at {offset:#x}")
            self._store.write(offset, data)

    def _store_zeros(self, offset: int, length: int) -> None:
        self._check_range(offset, length)
        for at in range(offset, offset + length, PIECE):
            self._store_at(at, _ZEROS[: min(PIECE, offset + length - at)])

    def _check_range(self, offset: int, length: int) -> None:
        if offset + length > self._store.size:
            raise MdevError(EINVAL, f"{length} bytes at {offset:#x}: the disk has {self._store.size:#x}")

    def restore_end(self) -> None:
        """Take the state over.

        :raises MdevError: EINVAL the stream is not complete, EIO.
        """
        restored, self._restored = self._restored, None
        if restored is None or self._expected is not Record.DONE or self._in:
            raise MdevError(EINVAL, "stream is not complete")
        if not self._store.readonly:
            self._store.flush()
        self._apply(restored)
