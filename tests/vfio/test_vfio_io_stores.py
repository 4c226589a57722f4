"""Block stores on files, and the services that make them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vfio_io_rig import no_leaks

from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EACCES, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, EROFS
from pvnet.vfio.descriptors import SharedMemory
from pvnet.vfio.services import Services
from pvnet.vfio.stores import FileStore, ScmStore


@pytest.fixture(autouse=True)
def _leaks() -> object:
    with no_leaks():
        yield


def refused(errno: int, function: Callable[[], object]) -> None:
    with pytest.raises(MdevError) as caught:
        function()
    assert caught.value.errno == errno


def test_a_file_is_made_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with FileStore(path, 8192, readonly=False) as store:
        assert (store.size, store.readonly, path.stat().st_size) == (8192, False, 8192)
        assert path.stat().st_mode & 0o777 == 0o600
        store.write(4000, b"hello")
        store.flush()
        assert store.read(3998, 9) == b"\0\0hello\0\0"
        assert store.read(0, 0) == b""
        store.close()
        store.close()
    with FileStore(path, None, readonly=True) as store:
        assert (store.size, store.readonly) == (8192, True)
        assert store.read(4000, 5) == b"hello"
        refused(EROFS, lambda: store.write(0, b"x"))
        store.flush()


def test_an_empty_file_counts_as_new(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    refused(EINVAL, lambda: FileStore(path, None, readonly=False))
    refused(EINVAL, lambda: FileStore(path, 512, readonly=True))
    FileStore(path, 512, readonly=False).close()
    assert path.stat().st_size == 512


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with FileStore(path, 512, readonly=False):
        refused(EBUSY, lambda: FileStore(path, 512, readonly=False))
        refused(EBUSY, lambda: FileStore(path, 512, readonly=True))
        program = "import sys; from pvnet.vfio.stores import FileStore; FileStore(sys.argv[1], None, readonly=True)"
        other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
        assert "EBUSY" in other.stderr
    with FileStore(path, 512, readonly=True), FileStore(path, 512, readonly=True):
        refused(EBUSY, lambda: FileStore(path, 512, readonly=False))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    refused(ENOENT, lambda: FileStore(path, None, readonly=False))
    refused(ENOENT, lambda: FileStore(path, 512, readonly=True))
    refused(ENOENT, lambda: FileStore(tmp_path / "no" / "disk", 512, readonly=False))
    for size in (0, -1, 1 << 63):
        refused(EINVAL, lambda size=size: FileStore(path, size, readonly=False))
    refused(EINVAL, lambda: FileStore("a\0b", 512, readonly=False))
    assert not path.exists()
    path.write_bytes(bytes(100))
    refused(EINVAL, lambda: FileStore(path, 99, readonly=False))
    refused(EINVAL, lambda: FileStore(path, 101, readonly=True))
    assert path.stat().st_size == 100
    os.mkfifo(tmp_path / "fifo")
    refused(EINVAL, lambda: FileStore(tmp_path / "fifo", None, readonly=True))
    refused(EINVAL, lambda: FileStore(tmp_path / "fifo", 512, readonly=False))
    refused(EINVAL, lambda: FileStore("/dev/null", None, readonly=True))
    with pytest.raises(MdevError):
        FileStore(tmp_path, None, readonly=False)
    refused(EINVAL, lambda: FileStore(tmp_path, None, readonly=True))


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    with FileStore(tmp_path / "disk", 8192, readonly=False) as store:
        os.truncate(store.path, 5)
        refused(EIO, lambda: store.read(4, 2))


def test_failures_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(errno: int) -> Callable[..., object]:
        def call(*_: object) -> object:
            raise OSError(errno, os.strerror(errno))

        return call

    with FileStore(tmp_path / "disk", 512, readonly=False) as store, monkeypatch.context() as patched:
        patched.setattr("pvnet.vfio.stores.os.pwrite", fails(ENOSPC))
        patched.setattr("pvnet.vfio.stores.os.pread", fails(EIO))
        patched.setattr("pvnet.vfio.stores.os.fdatasync", fails(EIO))
        refused(ENOSPC, lambda: store.write(0, b"x"))
        refused(EIO, lambda: store.read(0, 1))
        refused(EIO, store.flush)
    with monkeypatch.context() as patched:
        patched.setattr("pvnet.vfio.stores.os.open", fails(EACCES))
        refused(EACCES, lambda: FileStore(tmp_path / "disk", 512, readonly=False))
    with monkeypatch.context() as patched:
        patched.setattr("pvnet.vfio.stores.os.ftruncate", fails(ENOSPC))
        refused(ENOSPC, lambda: FileStore(tmp_path / "other", 512, readonly=False))


def test_short_transfers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.pread, os.pwrite
    with FileStore(tmp_path / "disk", 512, readonly=False) as store, monkeypatch.context() as patched:
        patched.setattr("pvnet.vfio.stores.os.pread", lambda fd, n, at: real_read(fd, min(n, 3), at))
        patched.setattr("pvnet.vfio.stores.os.pwrite", lambda fd, data, at: real_write(fd, data[:2], at))
        store.write(5, b"hello world")
        assert store.read(5, 11) == b"hello world"


def test_scm_blocks_are_shared_with_the_hypervisor(tmp_path: Path) -> None:
    path = tmp_path / "blocks"
    refused(ENOENT, lambda: ScmStore(path))
    assert not path.exists()
    with FileStore(path, 4096, readonly=False) as hypervisor, ScmStore(path) as ours:
        assert ours.size == 4096
        ours.write(10, b"mine")
        assert hypervisor.read(10, 4) == b"mine"
    path.write_bytes(b"")
    refused(EINVAL, lambda: ScmStore(path))


def test_services(tmp_path: Path) -> None:
    notes: list[Note] = []
    blocks = tmp_path / "scm"
    blocks.write_bytes(bytes(512))
    services = Services(notes.append, directory=tmp_path, scm_blocks={"mgmt:0": blocks}.get)
    services.note(Note("hello"))
    assert [note.event for note in notes] == ["hello"]
    memory = services.memory("m", 10)
    assert isinstance(memory, SharedMemory)
    memory.close()
    store = services.store("disk", 512, readonly=False)
    assert (tmp_path / "disk").stat().st_size == 512
    store.close()
    services.scm("mgmt:0").close()
    refused(ENODEV, lambda: services.scm("mgmt:1"))
    refused(EINVAL, lambda: services.line("what", None))  # type: ignore[arg-type]
