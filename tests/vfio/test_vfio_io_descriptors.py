"""What a user's descriptors become, and what is refused; memory of ours."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vfio_io_rig import memfd, no_leaks

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EACCES, EBADF, EFAULT, EINVAL, ENOMEM
from pvnet.vfio.descriptors import FileDma, MappedDma, SharedMemory, dma_memory, irq_target

PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def _leaks() -> object:
    with no_leaks():
        yield


def refused(errno: int, function: Callable[[], object]) -> str:
    with pytest.raises(MdevError) as caught:
        function()
    assert caught.value.errno == errno
    return str(caught.value)


# --- irqs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_eventfd_rings_and_keeps_its_mode(flags: int) -> None:
    ours = os.eventfd(0, flags | os.EFD_CLOEXEC)
    target = irq_target(os.dup(ours))
    assert os.get_blocking(ours) is not bool(flags)
    target.signal()
    target.signal()
    assert os.eventfd_read(ours) == 2
    target.close()
    target.signal()
    target.close()
    os.close(ours)


@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_a_counter_at_its_end_blocks_nobody(flags: int) -> None:
    ours = os.eventfd(0, flags | os.EFD_CLOEXEC)
    os.eventfd_write(ours, (1 << 64) - 2)
    target = irq_target(os.dup(ours))
    target.signal()
    assert os.eventfd_read(ours) == (1 << 64) - 2
    target.signal()
    assert os.eventfd_read(ours) == 1
    target.close()
    os.close(ours)


def test_no_eventfd_is_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    one, other = socket.socketpair()
    file = os.open(tmp_path / "anon_inode:[eventfd]", os.O_RDWR | os.O_CREAT)
    for fd in (reading, writing, one.detach(), other.detach(), file, memfd(8), os.open("/dev/null", os.O_RDWR)):
        refused(EINVAL, lambda fd=fd: irq_target(fd))
        refused(EBADF, lambda fd=fd: irq_target(fd))
    refused(EBADF, lambda: irq_target(-1))


# --- memory of the user -----------------------------------------------------------------------------------------------

SEALED = fcntl.F_SEAL_SHRINK


def test_sealed_memory_is_mapped() -> None:
    ours = memfd(3 * PAGE, seals=SEALED)
    memory = dma_memory(os.dup(ours), PAGE, 2 * PAGE, writable=True)
    assert isinstance(memory, MappedDma)
    assert memory.view is not None
    assert len(memory.view) == 2 * PAGE
    memory.write(5, b"hello")
    assert os.pread(ours, 5, PAGE + 5) == b"hello"
    os.pwrite(ours, b"world", PAGE)
    assert memory.read(0, 10) == b"worldhello"
    for offset, length in ((2 * PAGE, 1), (-1, 1), (0, 2 * PAGE + 1), (0, -1)):
        refused(EFAULT, lambda offset=offset, length=length: memory.read(offset, length))
    refused(EFAULT, lambda: memory.write(2 * PAGE - 1, b"ab"))
    memory.close()
    memory.close()
    refused(EFAULT, lambda: memory.read(0, 1))
    os.close(ours)


def test_memory_that_is_only_read() -> None:
    ours = memfd(PAGE, seals=SEALED | fcntl.F_SEAL_WRITE)
    memory = dma_memory(os.dup(ours), 0, PAGE, writable=False)
    assert isinstance(memory, MappedDma)
    assert memory.view is not None
    assert memory.view.readonly
    refused(EFAULT, lambda: memory.write(0, b"x"))
    memory.close()
    refused(EACCES, lambda: dma_memory(os.dup(ours), 0, PAGE, writable=True))
    os.close(ours)


def test_a_view_that_somebody_keeps_outlives_close() -> None:
    memory = dma_memory(memfd(PAGE, seals=SEALED), 0, PAGE, writable=True)
    assert memory.view is not None
    kept = memory.view[10:20]
    memory.close()
    kept[:] = b"0123456789"
    assert bytes(kept) == b"0123456789"
    del kept


@pytest.mark.parametrize("kind", ["memfd", "file", "unaligned"])
def test_other_memory_goes_through_its_file(kind: str, tmp_path: Path) -> None:
    start = 100 if kind == "unaligned" else PAGE
    ours = (
        os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
        if kind == "file"
        else memfd(4 * PAGE, seals=SEALED if kind == "unaligned" else None)
    )
    os.ftruncate(ours, 4 * PAGE)
    memory = dma_memory(os.dup(ours), start, 2 * PAGE, writable=True)
    assert isinstance(memory, FileDma)
    assert memory.view is None
    memory.write(7, memoryview(b"hello"))
    assert os.pread(ours, 5, start + 7) == b"hello"
    assert memory.read(0, 2 * PAGE) == bytes(7) + b"hello" + bytes(2 * PAGE - 12)
    refused(EFAULT, lambda: memory.read(2 * PAGE, 1))
    refused(EFAULT, lambda: memory.write(-1, b"x"))
    if kind != "unaligned":
        os.ftruncate(ours, PAGE + 8)
        assert memory.read(0, 8) == bytes(7) + b"h"
        refused(EFAULT, lambda: memory.read(0, 9))
        refused(EFAULT, lambda: memory.write(4, b"hello"))
        assert os.fstat(ours).st_size == PAGE + 8
    memory.close()
    memory.close()
    refused(EFAULT, lambda: memory.read(0, 1))
    os.close(ours)


def test_rights_of_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGE))
    memory = dma_memory(os.open(path, os.O_RDONLY), 0, PAGE, writable=False)
    assert memory.read(0, 4) == bytes(4)
    refused(EFAULT, lambda: memory.write(0, b"x"))
    memory.close()
    for flags in (os.O_RDONLY, os.O_WRONLY):
        refused(EACCES, lambda flags=flags: dma_memory(os.open(path, flags), 0, PAGE, writable=True))
    refused(EACCES, lambda: dma_memory(os.open(path, os.O_WRONLY), 0, PAGE, writable=False))


def test_no_memory_is_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    one, other = socket.socketpair()
    kinds = [
        *(reading, writing, one.detach(), other.detach(), os.eventfd(0)),
        *(os.open(path, os.O_RDONLY) for path in ("/dev/zero", "/dev/null", tmp_path)),
        os.open(tmp_path, os.O_PATH),
    ]
    for fd in kinds:
        with pytest.raises(MdevError):
            dma_memory(fd, 0, 1, writable=False)
        refused(EBADF, lambda fd=fd: dma_memory(fd, 0, 1, writable=False))


@pytest.mark.parametrize(
    ("offset", "size"), [(0, PAGE + 1), (PAGE, 1), (1, PAGE), (0, 0), (0, -1), (-1, 2), (1 << 63, 1), (0, 1 << 64)]
)
@pytest.mark.parametrize("seals", [None, SEALED])
def test_memory_that_is_too_short(offset: int, size: int, seals: int | None) -> None:
    text = refused(EINVAL, lambda: dma_memory(memfd(PAGE, seals=seals), offset, size, writable=True))
    assert f"a file of {PAGE} bytes" in text


def test_huge_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the kernel says of their file; few machines have any to try."""
    real = os.fstatvfs

    def huge(fd: int) -> object:
        values = list(real(fd))
        values[0] = 2 << 20
        return os.statvfs_result(values)

    monkeypatch.setattr("pvnet.vfio.descriptors.os.fstatvfs", huge)
    for seals in (None, SEALED):
        assert "pages" in refused(
            EINVAL, lambda seals=seals: dma_memory(memfd(PAGE, seals=seals), 0, 1, writable=False)
        )


def test_memory_that_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object, **options: object) -> object:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("pvnet.vfio.descriptors.mmap.mmap", none)
    refused(ENOMEM, lambda: dma_memory(memfd(PAGE, seals=SEALED), 0, PAGE, writable=False))


KINDS: dict[str, Callable[[], int]] = {
    "sealed": lambda: memfd(2 * PAGE, seals=SEALED),
    "unsealed": lambda: memfd(2 * PAGE),
    "eventfd": lambda: os.eventfd(0),
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "nothing": lambda: -1,
}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    offset=st.sampled_from([0, 1, PAGE, 2 * PAGE, 1 << 62]),
    size=st.sampled_from([0, 1, PAGE, 2 * PAGE, 1 << 62]),
    writable=st.booleans(),
    uses=st.integers(0, 2),
)
def test_descriptors_come_back_whatever_they_are(kind: str, offset: int, size: int, writable: bool, uses: int) -> None:
    with no_leaks():
        try:
            memory = dma_memory(KINDS[kind](), offset, size, writable=writable)
        except MdevError:
            assert kind not in ("sealed", "unsealed") or not size or offset + size > 2 * PAGE
        else:
            for _ in range(uses):
                assert len(memory.read(size - 1, 1)) == 1
            memory.close()
        try:
            irq_target(KINDS[kind]()).close()
        except MdevError:
            assert kind != "eventfd"


# --- memory of ours ---------------------------------------------------------------------------------------------------


def test_shared_memory() -> None:
    memory = SharedMemory("framebuffer", PAGE + 1)
    assert memory.size == len(memory.view) == 2 * PAGE
    assert fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    theirs = mmap.mmap(memory.fd, memory.size)
    memory.view[:5] = b"hello"
    assert theirs[:5] == b"hello"
    memory.close()
    memory.close()
    assert memory.fd == -1
    theirs[:5] = b"still"
    theirs.close()
    empty = SharedMemory("empty", 0)
    assert empty.size == PAGE
    kept = empty.view[:1]
    empty.close()
    assert bytes(kept) == b"\0"


def test_too_much_shared_memory() -> None:
    refused(ENOMEM, lambda: SharedMemory("huge", 1 << 62))
