"""Shared memory: what a peer passes is mapped only if it cannot change its size under us."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pvnet.core.errors import ConfigError, RefusedError
from pvnet.runtime.memfd import create_sealed, map_sealed, sealed_memory

SIZE = 8192
ALL = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def test_both_ends_see_the_same_bytes_and_nobody_can_change_the_size() -> None:
    memory, fd = create_sealed(SIZE, "test")
    with memory, map_sealed(fd, SIZE) as there:
        assert bytes(there) == bytes(SIZE)
        there[0:5] = b"hello"
        assert memory[0:5] == b"hello"
        for size in (0, SIZE - 1, SIZE * 2):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        os.close(fd)
        there[SIZE - 1] = 7
        assert memory[SIZE - 1] == 7


def test_memory_of_our_own_needs_no_descriptor() -> None:
    with sealed_memory(SIZE, "test") as memory:
        assert len(memory) == SIZE


@pytest.mark.parametrize("size", [0, -1, 1 << 62])
def test_memory_that_cannot_be_had_is_a_configuration_error_and_leaves_nothing_open(size: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError, match="for test"):
        create_sealed(size, "test")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_regular_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, pytest.raises(RefusedError, match="not a memory file"):
        map_sealed(file.fileno(), SIZE)


def test_things_that_are_no_files_are_refused() -> None:
    fd = os.eventfd(0)
    with pytest.raises(RefusedError, match="not a memory file"):
        map_sealed(fd, SIZE)
    os.close(fd)


@pytest.mark.parametrize("missing", [ALL, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL])
def test_missing_seals_are_refused(missing: int) -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL & ~missing)
    with pytest.raises(RefusedError, match="expected at least 0x7"):
        map_sealed(fd, SIZE)
    os.close(fd)


def test_a_memory_file_that_cannot_be_sealed_is_refused() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    with pytest.raises(RefusedError, match="seals 0x1"):
        map_sealed(fd, SIZE)
    os.close(fd)


@pytest.mark.parametrize("expected", [SIZE - 1, SIZE + 1, 4096, 0])
def test_another_size_is_refused(expected: int) -> None:
    memory, fd = create_sealed(SIZE, "test")
    with memory, pytest.raises(RefusedError, match=f"of {SIZE} bytes: expected {expected}"):
        map_sealed(fd, expected)
    os.close(fd)


def test_memory_that_may_not_be_written_any_more_is_refused() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL | fcntl.F_SEAL_WRITE)
    with pytest.raises(RefusedError, match="cannot be mapped"):
        map_sealed(fd, SIZE)
    os.close(fd)


def test_memory_in_huge_pages_is_refused() -> None:
    """A hole that is punched into it may not be filled again, which ends who looks there (SIGBUS)."""
    size = 2 << 20
    try:
        fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(fd, size)
    except OSError:
        return  # a kernel without them
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL)
    with pytest.raises(RefusedError, match=f"in pages of {os.fstatvfs(fd).f_bsize} bytes"):
        map_sealed(fd, size)
    os.close(fd)
