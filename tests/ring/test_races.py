"""Two processes race inject against enable: at least one of them notices, each time (vbus 5.4, 14.3).

Each round both sides do one thing at the same moment, lined up by spinning on shared counters: the sender publishes and
injects, the receiver enables and looks.  If the sender does not ring and the receiver saw nothing, a wakeup is lost.
(That this cannot happen for a reason, and not because Python is slow, is ``test_signal_model``.)
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
import time

import pytest

from pvnet.ring.layout import NORTH, words
from pvnet.ring.roles import Pattern, Variant, attach_signal, create_ring, ring_bytes, signal_offset
from pvnet.runtime.fence import full_fence

SOAK = os.environ.get("PVNET_SOAK") == "1"
ROUNDS = 1_000_000 if SOAK else 200_000
SECONDS = 60.0 if SOAK else 2.0

# Words of the page behind the ring: round of each side, whether the sender rang in it, item, and the end.
RECEIVER_AT, SENDER_AT, RANG, ITEM, STOP = 0, 16, 17, 32, 33

SENDER = textwrap.dedent(
    """
    import mmap, os, sys
    from pvnet.ring.layout import SOUTH, words
    from pvnet.ring.roles import Pattern, Variant, attach_ring, attach_signal, signal_offset
    from pvnet.ring.event_signal import SOUTH_LINE
    from pvnet.runtime.fence import full_fence
    shared = mmap.mmap(int(sys.argv[1]), 8192)
    variant = Variant(sys.argv[2])
    view = memoryview(shared)[: int(sys.argv[3])]
    memory = words(memoryview(shared)[4096:]).u64
    ring = words(view).u32
    signal = attach_signal(view, signal_offset(variant), SOUTH, full_fence, allow_2026=True)
    prod = SOUTH_LINE // 4
    parent, number = os.getppid(), 0
    while True:
        number += 1
        spins = 0
        while memory[0] < number:
            spins += 1
            if spins > 200:
                os.sched_yield()
                if memory[33] or os.getppid() != parent:
                    sys.exit(0)
        memory[32] = number
        if variant is Variant.IOQ_2026:
            ring[prod] = number
        memory[17] = signal.inject()
        full_fence()
        memory[16] = number
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("variant", Variant)
def test_no_wakeup_is_lost_in_races_of_two_processes(variant):
    size = ring_bytes(4, variant)
    fd = os.memfd_create("races")
    os.ftruncate(fd, 8192)
    shared = mmap.mmap(fd, 8192)
    view = memoryview(shared)[:size]
    create_ring(view, 4, Pattern.RX, full_fence, variant)
    signal = attach_signal(view, signal_offset(variant), NORTH, full_fence, allow_2026=True)
    memory = words(memoryview(shared)[4096:]).u64
    sender = subprocess.Popen(
        [sys.executable, "-c", SENDER, str(fd), variant.value, str(size)], pass_fds=[fd], stderr=subprocess.PIPE
    )
    lost, rang, saw, number = [], 0, 0, 0
    try:
        end = time.monotonic() + SECONDS
        while number < ROUNDS and (number % 256 or time.monotonic() < end or number < 256):
            number += 1
            memory[RECEIVER_AT] = number
            due = signal.enable()
            spins = 0
            while memory[SENDER_AT] < number:
                spins += 1
                if spins > 200:
                    os.sched_yield()
                    assert spins % 1000 or sender.poll() is None
            rang += memory[RANG]
            saw += due
            if not due and not memory[RANG]:
                lost.append(number)
            assert memory[ITEM] == number
            signal.wakeup(lambda: None)
            assert not signal.recheck()
            signal.disable()
    finally:
        memory[STOP] = 1
        _, errors = sender.communicate()
        os.close(fd)
    assert sender.returncode == 0, errors.decode()
    assert lost == []
    assert number >= 256
    assert rang + saw >= number
