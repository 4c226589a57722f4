"""Services for vendor drivers in plain memory, and a device between two of whose migration states a stream runs."""

from __future__ import annotations

from pvnet.core.machine import Note
from pvnet.mdev.device import BlockStore, LineReceiver, MigrationOps, SerialLine
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EIO, ENODEV, ENOMEM, EROFS


class PlainMemory:
    """Memory of a region; :attr:`closed` once its device is gone."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // 4096) * 4096
        self._bytes = bytearray(self.size)
        self.view = memoryview(self._bytes)
        self.closed = False

    def close(self) -> None:
        """Fails, as a mapping does, while somebody keeps a part of the view."""
        self.view.release()
        self._bytes.clear()
        self.closed = True


class PlainStore:
    """Blocks; what is written is durable only after a flush."""

    def __init__(self, size: int, *, readonly: bool = False) -> None:
        self.size, self.readonly = size, readonly
        self.data = bytearray(size)
        self.durable = bytes(size)
        self.fail = 0
        self.closed = False

    def _check(self, offset: int, length: int) -> None:
        assert not self.closed
        assert length > 0
        assert 0 <= offset <= self.size - length
        if self.fail:
            raise MdevError(self.fail, "made to fail")

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        if self.readonly:
            raise MdevError(EROFS, "read-only")
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        assert not self.closed
        if self.fail:
            raise MdevError(self.fail, "made to fail")
        self.durable = bytes(self.data)

    def close(self) -> None:
        self.closed = True


class PlainServices:
    """What drivers get; ``stores`` are the SCM devices that there are."""

    def __init__(self, **stores: PlainStore) -> None:
        self.stores = {name.replace("_", ":"): store for name, store in stores.items()}
        self.memories: list[PlainMemory] = []
        self.notes: list[Note] = []
        self.exhausted = False

    def memory(self, name: str, size: int) -> PlainMemory:
        if self.exhausted:
            raise MdevError(ENOMEM, name)
        self.memories.append(PlainMemory(size))
        return self.memories[-1]

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        raise MdevError(EIO, uri)

    def store(self, path: str, size: int | None, *, readonly: bool) -> BlockStore:
        raise MdevError(EIO, path)

    def scm(self, device: str) -> BlockStore:
        if device not in self.stores:
            raise MdevError(ENODEV, device)
        return self.stores[device]

    def note(self, note: Note) -> None:
        self.notes.append(note)


def saved(source: MigrationOps, limit: int, *, precopy: bool = False) -> bytes:
    """One stream of ``source``, read in pieces of at most ``limit`` bytes."""
    source.save_begin()
    stream = bytearray()
    for step in (source.precopy, source.save) if precopy else (source.save,):
        while piece := step(limit):
            assert len(piece) <= limit
            stream += piece
    return bytes(stream)


def restored(target: MigrationOps, *pieces: bytes) -> None:
    """Hand a stream over."""
    target.restore_begin()
    for piece in pieces:
        target.restore(piece)
    target.restore_end()
