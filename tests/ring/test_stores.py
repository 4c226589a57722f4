"""What another process sees of a store: whole values only, and never one that was not written."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from pvnet.ring.layout import words

VALUES = (0x1111_1111_1111_1111, 0xEEEE_EEEE_EEEE_EEEE)

WRITER = textwrap.dedent(
    """
    import mmap, os, struct, sys
    from pvnet.ring.layout import words
    shared = mmap.mmap(int(sys.argv[1]), 4096)
    how = sys.argv[2]
    view = memoryview(shared)
    one, other = 0x1111111111111111, 0xEEEEEEEEEEEEEEEE
    parent = os.getppid()
    sys.stdout.write("x"); sys.stdout.flush()
    if how == "cast":
        memory = words(view).u64
        while not shared[4095] and os.getppid() == parent:
            for _ in range(1000):
                memory[8] = one
                memory[8] = other
    else:
        pack = struct.Struct("<Q").pack_into
        while not shared[4095] and os.getppid() == parent:
            for _ in range(1000):
                pack(shared, 64, one)
                pack(shared, 64, other)
    """
)


def strangers(how, seconds):
    """Values seen in a word that another process writes, other than the two that it writes."""
    fd = os.memfd_create("stores")
    os.ftruncate(fd, 4096)
    shared = mmap.mmap(fd, 4096)
    memory = words(memoryview(shared)).u64
    memory[8] = VALUES[0]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(fd), how], pass_fds=[fd], stdout=subprocess.PIPE)
    seen = set()
    changes = 0
    try:
        assert writer.stdout.read(1) == b"x"
        end = time.monotonic() + seconds
        before = VALUES[0]
        while time.monotonic() < end or not changes:
            for _ in range(2000):
                value = memory[8]
                changes += value != before
                before = value
                if value not in VALUES:
                    seen.add(value)
    finally:
        shared[4095] = 1
        writer.communicate()
        os.close(fd)
    assert writer.returncode == 0
    return seen


def test_a_cast_view_stores_a_word_at_once():
    assert strangers("cast", 1.0) == set()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="about CPython's struct")
def test_struct_clears_a_field_before_it_writes_it():
    """Why no shared word is written with ``pack_into``: in one thread one can see it with a value that refuses."""
    memory = bytearray(b"\xaa" * 8)
    with pytest.raises(struct.error):
        struct.pack_into("<Q", memory, 0, -1)
    assert memory == bytes(8)
    view = memoryview(bytearray(b"\xaa" * 8)).cast("Q")
    with pytest.raises(ValueError, match="memoryview"):
        view[0] = -1
    assert bytes(view) == b"\xaa" * 8
