"""Bytes that outlive the process: files of blocks.

Accesses go through the page cache and do not wait for a disk, but :meth:`FileStore.flush` does, and the event loop with
it: a device flushes when its user asks for that, and the user waits for it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from pvnet.mdev.device import BlockStore
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EBUSY, EINVAL, EIO, EROFS

_LARGEST: Final = 1 << 62


class FileStore(BlockStore):
    """Blocks in a regular file of exactly ``size`` bytes that nobody else has (``flock``, which ends with the process).

    A file that is not there, or has no bytes yet (a crash may come in between), is made with ``size`` bytes, sparse.
    Readers share it.

    :param size: bytes; None: what the file has.
    :raises MdevError: ENOENT not there, and no ``size``; EINVAL other size or no regular file; EBUSY; EACCES; EIO.
    """

    def __init__(self, path: str | Path, size: int | None, *, readonly: bool) -> None:
        if size is not None and not 0 < size <= _LARGEST:
            raise MdevError(EINVAL, f"{path}: size {size}, expected at least 1 byte")
        self.path = Path(path)
        self.readonly = readonly
        self._fd = _open(self.path, readonly=readonly, create=size is not None and not readonly)
        try:
            self._lock()
            self.size = self._sized(size)
        except OSError as error:
            self.close()
            raise _failed(self.path, error) from None
        except MdevError:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MdevError(EBUSY, f"{self.path}: somebody else has it") from None

    def _sized(self, size: int | None) -> int:
        """Give a new file its size; returns the size of the file."""
        found = os.fstat(self._fd).st_size
        if not found and size is not None and not self.readonly:
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)
            _sync_name(self.path)
            return size
        if not found or (size is not None and found != size):
            raise MdevError(EINVAL, f"{self.path}: {found} bytes, expected {size or 'at least 1'}")
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Read; the range lies inside.

        :raises MdevError: EIO, also when somebody has cut the file off.
        """
        pieces = []
        try:
            while length:
                piece = os.pread(self._fd, length, offset)
                if not piece:
                    raise MdevError(EIO, f"{self.path}: it has become shorter")
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError as error:
            raise _failed(self.path, error) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Store; the range lies inside.

        :raises MdevError: EIO, ENOSPC, EROFS; how much is stored is unknown.
        """
        if self.readonly:
            raise MdevError(EROFS, str(self.path))
        left = memoryview(data)
        try:
            while left:
                count = os.pwrite(self._fd, left, offset)
                offset += count
                left = left[count:]
        except OSError as error:
            raise _failed(self.path, error) from None

    def flush(self) -> None:
        """Make every write durable; blocks.

        :raises MdevError: EIO and the like: nobody knows what is stored.
        """
        if not self.readonly:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                raise _failed(self.path, error) from None

    def close(self) -> None:
        """Let go; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ScmStore(FileStore):
    """The blocks of an SCM device: the backing file that the hypervisor has.

    There is no lock, since the hypervisor holds it as long as the lab runs: the partition that owns the device and the
    users of this store see each other's writes at once, as two users of one piece of storage do, and what they store
    under each other's feet is their affair.  It is never made here, and has the size that it has.

    :raises MdevError: ENOENT not there (yet), EINVAL no regular file or empty, EACCES, EIO.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        super().__init__(path, None, readonly=readonly)

    def _lock(self) -> None:
        """Do without."""


def _open(path: Path, *, readonly: bool, create: bool) -> int:
    flags = os.O_RDONLY if readonly else os.O_RDWR | (os.O_CREAT if create else 0)
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)  # the open of a FIFO would wait for its writer
    except (OSError, ValueError) as error:
        raise _failed(path, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MdevError(EINVAL, f"{path}: expected a regular file")
    return fd


def _failed(path: Path, error: OSError | ValueError) -> MdevError:
    number = error.errno if isinstance(error, OSError) else EINVAL
    return MdevError(number or EIO, str(path))


def _sync_name(path: Path) -> None:
    """Make a new file's name durable."""
    with suppress(OSError):  # a directory that may not be read
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
