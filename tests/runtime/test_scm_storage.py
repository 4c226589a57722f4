"""Backing files of SCM devices: sizes, users, failures, durability without stopping the loop, and kill -9."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest

from pvnet.core.errors import ConfigError, LocalError
from pvnet.runtime import scm_storage
from pvnet.runtime.scm_storage import (
    BackingFile,
    ScmStorage,
    StorageError,
    StorageFault,
    StorageFaults,
    StorageOperation,
)

BLOCKS, METADATA = 8 << 20, 0x20000


def make(folder: Path, **changes) -> ScmStorage:
    options = {"blocks_bytes": BLOCKS, "metadata_bytes": METADATA} | changes
    return ScmStorage(folder / "d.blocks", folder / "d.metadata", **options)


def meta(storage: ScmStorage) -> BackingFile:
    assert storage.metadata is not None
    return storage.metadata


async def test_new_files_are_sparse_zero_and_of_the_right_size(tmp_path: Path) -> None:
    storage = make(tmp_path)
    status = (tmp_path / "d.blocks").stat()
    assert (status.st_size, status.st_blocks) == (BLOCKS, 0)
    assert status.st_mode & 0o777 == 0o600
    assert (tmp_path / "d.metadata").stat().st_blocks * 512 >= METADATA, "reserved"
    assert storage.blocks.read(BLOCKS - 16, 16) == bytes(16)
    assert meta(storage).read(0, METADATA) == bytes(METADATA)
    await storage.close()


async def test_calls_and_mapping_are_the_same_bytes(tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.blocks.write(5, b"by call")
    assert bytes(storage.blocks.view[5:12]) == b"by call"
    storage.blocks.view[4096:4100] = b"view"
    assert storage.blocks.read(4096, 4) == b"view"
    meta(storage).write(METADATA - 8, bytes(range(8)))
    assert await storage.flush() == 0
    await storage.close()
    again = make(tmp_path)
    assert again.blocks.read(4094, 8) == b"\0\0view\0\0"
    assert meta(again).read(METADATA - 8, 8) == bytes(range(8))
    await again.close()
    await again.close()
    assert await again.flush() == errno.EBADF


async def test_large_accesses_go_in_pieces(tmp_path: Path) -> None:
    storage = make(tmp_path)
    data = bytes(range(256)) * (3 << 12)
    storage.blocks.write(77, data)
    assert storage.blocks.read(77, len(data)) == data
    await storage.close()


async def test_accesses_outside_are_our_own_mistake(tmp_path: Path) -> None:
    storage = make(tmp_path)
    for offset, n in ((-1, 4), (METADATA - 3, 4), (0, -1), (METADATA, 1)):
        with pytest.raises(LocalError, match=r"d\.metadata"):
            meta(storage).read(offset, n)
    with pytest.raises(LocalError):
        meta(storage).write(METADATA - 3, b"four")
    assert meta(storage).read(METADATA, 0) == b""
    await storage.close()


async def test_device_without_metadata(tmp_path: Path) -> None:
    storage = make(tmp_path, metadata_bytes=0)
    assert storage.metadata is None
    assert await storage.flush() == 0
    await storage.close()
    assert not (tmp_path / "d.metadata").exists()


@pytest.mark.parametrize("size", [1, BLOCKS - 1, BLOCKS + 1])
def test_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "d.blocks").write_bytes(b"")
    os.truncate(tmp_path / "d.blocks", size)
    with pytest.raises(ConfigError, match=rf"d\.blocks: {size} bytes, expected {BLOCKS}"):
        make(tmp_path)


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        make(tmp_path / "nowhere")
    (tmp_path / "d.blocks").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        make(tmp_path)
    (tmp_path / "d.blocks").rmdir()
    os.mkfifo(tmp_path / "d.blocks")
    with pytest.raises(ConfigError, match="expected a regular file"):
        make(tmp_path)
    (tmp_path / "d.blocks").unlink()
    with pytest.raises(ConfigError, match="at least 1 byte"):
        make(tmp_path, blocks_bytes=0)
    with pytest.raises(ConfigError, match=r"d\.blocks: (File too large|Invalid argument)"):
        make(tmp_path, blocks_bytes=1 << 62)


async def test_second_user_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first = make(tmp_path)
    with pytest.raises(ConfigError, match=r"d\.blocks: in use"):
        make(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        make(tmp_path, readonly=True)
    with pytest.raises(ConfigError, match=r"d\.metadata: in use"):
        ScmStorage(tmp_path / "e.blocks", tmp_path / "d.metadata", blocks_bytes=4096, metadata_bytes=METADATA)
    with pytest.raises(ConfigError, match="in use"):
        ScmStorage(tmp_path / "f", tmp_path / "f", blocks_bytes=4096, metadata_bytes=4096)
    first.blocks.write(0, b"still there")
    await first.close()
    await make(tmp_path).close()
    e = ScmStorage(tmp_path / "e.blocks", tmp_path / "d.metadata", blocks_bytes=4096, metadata_bytes=METADATA)
    await e.close()


async def test_lock_is_given_up_although_somebody_still_has_a_view(tmp_path: Path) -> None:
    first = make(tmp_path)
    view = first.blocks.view[:16]
    await first.close()
    second = make(tmp_path)
    second.blocks.write(0, b"seen by both")
    assert bytes(view[:12]) == b"seen by both"
    await second.close()


async def test_read_only_device(tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.blocks.write(0, b"rom")
    await storage.close()
    one, two = make(tmp_path, readonly=True), make(tmp_path, readonly=True)
    assert one.blocks.read(0, 3) == two.blocks.read(0, 3) == b"rom"
    assert one.blocks.view.readonly
    with pytest.raises(StorageError) as caught:
        one.blocks.write(0, b"x")
    assert caught.value.errno == errno.EROFS
    with pytest.raises(ConfigError, match="in use"):
        make(tmp_path)
    assert await one.flush() == 0
    await one.close()
    await two.close()
    for name in ("d.blocks", "d.metadata"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match="No such file"):
        make(tmp_path, readonly=True)


# --- failures --------------------------------------------------------------------------------------------------------


async def test_injected_failures_come_once_each_and_in_order(tmp_path: Path) -> None:
    storage = make(tmp_path)
    faults = storage.faults
    faults.add(StorageFault(StorageOperation.WRITE_METADATA, errno.ENOSPC))
    faults.add(StorageFault(StorageOperation.READ_METADATA, count=2))
    faults.add(StorageFault(StorageOperation.WRITE_METADATA, errno.EIO, stored_bytes=3))
    for number in (errno.ENOSPC, errno.EIO):
        with pytest.raises(StorageError) as caught:
            meta(storage).write(0, b"12345678")
        assert caught.value.errno == number
    assert "d.metadata" in str(caught.value)
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            meta(storage).read(0, 8)
        assert caught.value.errno == errno.EIO
    assert meta(storage).read(0, 8) == b"123\0\0\0\0\0", "a short write"
    storage.blocks.write(0, b"unharmed")
    faults.add(StorageFault(StorageOperation.WRITE_BLOCKS, count=9))
    faults.clear()
    storage.blocks.write(0, b"unharmed")
    await storage.close()


@pytest.mark.parametrize("change", [{"count": 0}, {"number": 0}, {"stored_bytes": -1}])
def test_faults_that_make_no_sense(change: dict[str, int]) -> None:
    with pytest.raises(LocalError):
        StorageFaults().add(StorageFault(StorageOperation.FLUSH, **change))


async def test_failing_flush_is_told_once(tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.faults.add(StorageFault(StorageOperation.FLUSH))
    assert await storage.flush() == errno.EIO
    assert await storage.flush() == 0
    await storage.close()


async def test_exception_of_the_owner_is_raised(tmp_path: Path) -> None:
    class StoreFailedError(Exception):
        pass

    storage = make(tmp_path, make_error=StoreFailedError)
    storage.faults.add(StorageFault(StorageOperation.READ_METADATA))
    with pytest.raises(StoreFailedError) as caught:
        meta(storage).read(0, 8)
    assert caught.value.args[0] == errno.EIO
    await storage.close()


async def test_file_cut_off_behind_our_back(tmp_path: Path) -> None:
    storage = make(tmp_path)
    os.truncate(tmp_path / "d.metadata", 4096)
    with pytest.raises(StorageError) as caught:
        meta(storage).read(4090, 16)
    assert caught.value.errno == errno.EIO
    await storage.close()


async def test_descriptor_that_fails(tmp_path: Path) -> None:
    """Errors of the real system calls, by a descriptor that is not open for writing, then not at all."""
    storage = make(tmp_path)
    file = meta(storage)
    good, file.fd = file.fd, os.open(tmp_path / "d.metadata", os.O_RDONLY)
    with pytest.raises(StorageError) as caught:
        file.write(0, b"x")
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ConfigError, match="Bad file descriptor"):
        file.reserve()
    os.close(file.fd)
    bad, file.fd = file.fd, 1 << 20
    with pytest.raises(StorageError):
        file.read(0, 1)
    assert await storage.flush() == errno.EBADF
    file.fd = good
    assert bad != good
    assert await storage.flush() == 0
    await storage.close()


def test_mapping_that_fails_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(scm_storage.mmap, "mmap", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError, match="cannot be mapped"):
        make(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- the loop goes on ------------------------------------------------------------------------------------------------


class Gate(StorageFaults):
    """Flushes that wait, in their thread, until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def before_flush(self) -> None:
        self.entered.release()
        assert self.open.acquire(timeout=30)


async def test_loop_goes_on_while_flushing_and_late_comers_share_the_next_pass(tmp_path: Path) -> None:
    gate = Gate()
    storage = make(tmp_path, faults=gate)
    first = asyncio.create_task(storage.flush())
    await asyncio.to_thread(gate.entered.acquire)
    late = [asyncio.create_task(storage.flush()) for _ in range(5)]
    for _ in range(50):
        await asyncio.sleep(0)
    storage.blocks.write(0, b"while flushing")
    assert not any(task.done() for task in (first, *late))
    late[0].cancel()
    gate.open.release()
    assert await first == 0
    await asyncio.to_thread(gate.entered.acquire)
    assert not any(task.done() for task in late[1:])
    third = asyncio.create_task(storage.flush())
    await asyncio.sleep(0)
    closing = asyncio.create_task(storage.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.open.release(2)
    assert await asyncio.gather(*late[1:], third) == [0, 0, 0, 0, 0]
    await closing
    assert storage.flushes == 3


async def test_flush_that_takes_its_time(tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.faults.flush_s = 0.05
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await storage.flush() == 0
    assert loop.time() - started >= 0.05
    await storage.close()


# --- kill -9 ---------------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from pvnet.runtime.scm_storage import ScmStorage

async def main(folder, first):
    storage = ScmStorage(folder / "d.blocks", folder / "d.metadata", blocks_bytes=8 << 20, metadata_bytes=0x20000)
    for n in range(first, 1 << 30):
        stamp = n.to_bytes(8, "big")
        storage.metadata.write(n % 64 * 8, stamp)
        storage.blocks.write(n % 2048 * 4096, stamp * 512)
        storage.blocks.view[-8:] = stamp
        assert await storage.flush() == 0
        print(n, flush=True)

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_what_a_completed_flush_promised_survives_kill_9(tmp_path: Path) -> None:
    first = 1
    for cycle in range(4):
        with Popen([sys.executable, "-c", WRITER, str(tmp_path), str(first)], stdout=PIPE, stderr=DEVNULL) as writer:
            assert writer.stdout is not None
            acknowledged = first - 1
            for lines in count(1):
                acknowledged = int(writer.stdout.readline())
                if lines == 1 + 7 * cycle:
                    break
            if cycle == 0:
                with pytest.raises(ConfigError, match="in use"):
                    make(tmp_path)
            writer.send_signal(signal.SIGKILL)
            said = writer.stdout.read().split(b"\n")[:-1]
            assert writer.wait() == -signal.SIGKILL
        acknowledged = max([acknowledged, *map(int, said)])
        storage = make(tmp_path)
        for n in range(max(1, acknowledged - 60), acknowledged + 1):
            stamp = n.to_bytes(8, "big")
            assert storage.blocks.read(n % 2048 * 4096, 4096) == stamp * 512
            assert meta(storage).read(n % 64 * 8, 8) == stamp
        last = int.from_bytes(storage.blocks.view[-8:], "big")
        assert acknowledged <= last <= acknowledged + 1
        asyncio.run(storage.close())
        first = last + 1
    assert first > 1 + 8 + 15 + 22
