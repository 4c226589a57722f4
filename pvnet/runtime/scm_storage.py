"""Where the contents of an SCM device live: two backing files, of its blocks and of its metadata area.

A file is sparse, has exactly the size that the device needs, belongs to one user at a time (``flock``, which ends with
the process, however that ends), and is mapped: :attr:`BackingFile.view` is the bytes, to be put into a partition's
address space.  Calls go through the same pages by ``pread`` and ``pwrite``, so that they and the mapping always agree.

**Promise.**  What was stored before a :meth:`ScmStorage.flush` began is durable when it has returned 0: it survives
``kill -9``, a restart and a loss of power, as far as the disk keeps its own promises.  Without a flush nothing is
promised.  Flushes run in a thread; those that arrive while one is under way share the next one, because a pass that
begins after all of them serves them all.

Doubts decided.  Calls do not touch the mapping, because a full disk or a bad sector shows there as SIGBUS, which kills
the process, and in ``pwrite`` as an errno.  Whoever stores through ``view`` should :meth:`~BackingFile.reserve` the
space first; the small metadata area always is.  A flush is ``fdatasync``: on Linux it also writes pages back that were
changed through a mapping (``msync`` is the same work there, but Python may hold its lock meanwhile).  A file of size 0
counts as new: a crash may come between making and sizing it.  After a failed flush nobody knows what is stored, even
if the next one succeeds; remembering that is the device's business (its health).

Spec: hcall_scm 3.11, 6.1 (17).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from pvnet.core.errors import ConfigError, LocalError, PvnetError

PIECE_BYTES: Final = 1 << 20
"""Most bytes of one ``pread`` or ``pwrite``."""


class StorageError(PvnetError):
    """An access failed: ``errno`` says how; after a failed write nobody knows how much is stored."""

    def __init__(self, number: int, doing: str) -> None:
        self.errno = number
        super().__init__(f"{doing}: {os.strerror(number)}")


MakeError: TypeAlias = Callable[[int, str], Exception]
"""Makes the exception for an errno and what was being done."""


class StorageOperation(StrEnum):
    """What may be made to fail."""

    READ_BLOCKS = "read-blocks"
    WRITE_BLOCKS = "write-blocks"
    READ_METADATA = "read-metadata"
    WRITE_METADATA = "write-metadata"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class StorageFault:
    """The next ``count`` operations of a kind fail with ``number`` (errno: EIO, ENOSPC ...).

    A write stores its first ``stored_bytes`` bytes all the same: a short write.
    """

    operation: StorageOperation
    number: int = errno.EIO
    stored_bytes: int = 0
    count: int = 1
    also: StorageOperation | None = None
    """Another kind that counts, too: whichever comes first."""


@dataclass(eq=False, slots=True)
class _Due:
    fault: StorageFault
    left: int


class StorageFaults:
    """The failures that a device is due to have, in order, and how long a flush takes at least."""

    def __init__(self) -> None:
        self.flush_s = 0.0
        self._due: list[_Due] = []

    def add(self, fault: StorageFault) -> None:
        """Plan failures.  Raises :class:`LocalError` when the count, errno or length makes no sense."""
        if fault.count < 1 or fault.number < 1 or fault.stored_bytes < 0:
            raise LocalError(f"{fault}: expected a count and an errno above 0")
        self._due.append(_Due(fault, fault.count))

    def take(self, operation: StorageOperation) -> StorageFault | None:
        """Return the failure that this operation has to have, if any; it is then used up."""
        for due in self._due:
            if operation in (due.fault.operation, due.fault.also):
                due.left -= 1
                if not due.left:
                    self._due.remove(due)
                return due.fault
        return None

    def clear(self) -> None:
        """Have none any more."""
        self._due.clear()
        self.flush_s = 0.0

    def before_flush(self) -> None:
        """Take the time that a flush is due to take; runs in the flushing thread."""
        if self.flush_s:
            time.sleep(self.flush_s)


def _open(path: Path, size_bytes: int, *, readonly: bool) -> int:
    """Open, lock and size the file; returns its descriptor."""
    flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"backing file {path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"backing file {path}: expected a regular file")
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"backing file {path}: in use by another device or process") from None
        found = os.fstat(fd).st_size
        if found == 0 and not readonly:
            os.ftruncate(fd, size_bytes)
            os.fsync(fd)
            _sync_directory(path.parent)
        elif found != size_bytes:
            raise ConfigError(f"backing file {path}: {found} bytes, expected {size_bytes}")
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"backing file {path}: {error.strerror}") from None
    except ConfigError:
        os.close(fd)
        raise
    return fd


def _sync_directory(path: Path) -> None:
    """Make the new file's name durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class BackingFile:
    """One file; satisfies the metadata protocol of an SCM device.

    :param reads, writes: which operations its accesses are, for faults.
    :raises ConfigError: the file cannot be opened, has another size, or has another user.
    """

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        reads: StorageOperation,
        writes: StorageOperation,
        *,
        readonly: bool = False,
        faults: StorageFaults | None = None,
        make_error: MakeError = StorageError,
    ) -> None:
        if size_bytes < 1:
            raise ConfigError(f"backing file {path}: size {size_bytes}, expected at least 1 byte")
        self.path = path
        self.size_bytes = size_bytes
        self.readonly = readonly
        self._reads, self._writes = reads, writes
        self._faults = faults or StorageFaults()
        self._make_error = make_error
        self.fd = _open(path, size_bytes, readonly=readonly)
        try:
            access = mmap.ACCESS_READ if readonly else mmap.ACCESS_WRITE
            self._map = mmap.mmap(self.fd, size_bytes, access=access)
        except OSError as error:
            os.close(self.fd)
            raise ConfigError(f"backing file {path}: cannot be mapped: {error.strerror}") from None
        self.view = memoryview(self._map)
        """The bytes themselves; read-only when the file is."""

    def _check(self, offset: int, n: int) -> None:
        if offset < 0 or n < 0 or offset + n > self.size_bytes:
            raise LocalError(f"{n} bytes at {offset:#x} of {self.path.name}: it has {self.size_bytes:#x}")

    def _fail(self, number: int, doing: str) -> Exception:
        return self._make_error(number, f"{doing} {self.path.name}")

    def read(self, offset: int, n: int) -> bytes:
        """Read ``n`` bytes.

        Raises:
            LocalError: outside of the file.
            StorageError: the medium failed (or what ``make_error`` makes).
        """
        self._check(offset, n)
        fault = self._faults.take(self._reads)
        if fault is not None:
            raise self._fail(fault.number, "read of")
        pieces = []
        while n:
            try:
                piece = os.pread(self.fd, min(n, PIECE_BYTES), offset)
            except OSError as error:
                raise self._fail(error.errno or errno.EIO, "read of") from None
            if not piece:  # somebody cut the file off behind our back
                raise self._fail(errno.EIO, "read of")
            pieces.append(piece)
            offset += len(piece)
            n -= len(piece)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``.

        Raises:
            LocalError: outside of the file.
            StorageError: the medium failed (or what ``make_error`` makes); how much is stored is unknown.
        """
        left = memoryview(data).cast("B")
        self._check(offset, left.nbytes)
        if self.readonly:
            raise self._fail(errno.EROFS, "write to")
        fault = self._faults.take(self._writes)
        if fault is not None:
            left = left[: fault.stored_bytes]
        while left:
            try:
                stored = os.pwrite(self.fd, left[:PIECE_BYTES], offset)
            except OSError as error:
                raise self._fail(error.errno or errno.EIO, "write to") from None
            offset += stored
            left = left[stored:]
        if fault is not None:
            raise self._fail(fault.number, "write to")

    def reserve(self) -> None:
        """Take the whole space from the disk, so that stores through ``view`` cannot meet a full one.

        Raises:
            ConfigError: there is not so much space.
        """
        try:
            os.posix_fallocate(self.fd, 0, self.size_bytes)
        except OSError as error:
            raise ConfigError(f"backing file {self.path}: {self.size_bytes} bytes: {error.strerror}") from None

    def sync(self) -> None:
        """Make everything stored durable; blocks.  Raises :class:`OSError`."""
        if not self.readonly:
            os.fdatasync(self.fd)

    def close(self) -> None:
        """Give the file up.  A view that somebody still holds keeps the mapping, but the next user may come."""
        if self.fd >= 0:
            with suppress(BufferError):
                self.view.release()
                self._map.close()
            fd, self.fd = self.fd, -1
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


class ScmStorage:
    """The storage of one device: ``blocks``, ``metadata`` (``None`` when it has none) and their flush.

    :param make_error: what an access raises; the hypervisor's own exception can be handed in.
    :raises ConfigError: as :class:`BackingFile`.
    """

    def __init__(
        self,
        blocks: Path,
        metadata: Path,
        *,
        blocks_bytes: int,
        metadata_bytes: int,
        readonly: bool = False,
        faults: StorageFaults | None = None,
        make_error: MakeError = StorageError,
    ) -> None:
        self.faults = faults if faults is not None else StorageFaults()
        make = partial(BackingFile, readonly=readonly, faults=self.faults, make_error=make_error)
        self.blocks = make(blocks, blocks_bytes, StorageOperation.READ_BLOCKS, StorageOperation.WRITE_BLOCKS)
        self.metadata: BackingFile | None = None
        try:
            if metadata_bytes:
                operations = (StorageOperation.READ_METADATA, StorageOperation.WRITE_METADATA)
                self.metadata = make(metadata, metadata_bytes, *operations)
                if not readonly:
                    self.metadata.reserve()
        except ConfigError:
            self._close_files()
            raise
        self.flushes = 0
        """Passes over the medium so far."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scm-flush")
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None
        self._closed = False

    async def flush(self) -> int:
        """Make everything stored so far durable; returns 0 or an errno.  The event loop goes on meanwhile.

        A caller that is cancelled leaves the flush itself running.
        """
        if self._closed:
            return errno.EBADF
        if self._running is None:
            waited = self._running = asyncio.create_task(self._pass())
        else:
            if self._next is None:
                self._next = asyncio.create_task(self._pass_after(self._running))
            waited = self._next
        return await asyncio.shield(waited)

    async def _pass_after(self, before: asyncio.Task[int]) -> int:
        await before
        self._running, self._next = self._next, None
        return await self._pass()

    async def _pass(self) -> int:
        fault = self.faults.take(StorageOperation.FLUSH)
        self.flushes += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sync)
        except OSError as error:
            return error.errno or errno.EIO
        finally:
            if self._next is None:
                self._running = None
        return fault.number if fault is not None else 0

    def _sync(self) -> None:
        self.faults.before_flush()
        self.blocks.sync()
        if self.metadata is not None:
            self.metadata.sync()

    async def close(self) -> None:
        """Wait for flushes under way, then give the files up; nothing is flushed that nobody asked for."""
        self._closed = True
        for pending in (self._running, self._next):
            if pending is not None:
                await asyncio.wait([pending])
        self._thread.shutdown()
        self._close_files()

    def abandon(self) -> None:
        """Give the files up of a storage that nobody has used yet."""
        self._closed = True
        self._thread.shutdown()
        self._close_files()

    def _close_files(self) -> None:
        self.blocks.close()
        if self.metadata is not None:
            self.metadata.close()
