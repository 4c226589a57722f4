"""Pinning: all threads of a process, and each gets back what it had."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pvnet.bench import placement
from pvnet.bench.placement import Placement, allowed_cpus, pin, pinned
from pvnet.core.errors import ConfigError

CPUS = allowed_cpus()
two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")


@contextmanager
def another_thread() -> Iterator[int]:
    """A thread that waits; its number."""
    end, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    try:
        assert thread.native_id is not None
        yield thread.native_id
    finally:
        end.set()
        thread.join()


@contextmanager
def another_process() -> Iterator[subprocess.Popen[bytes]]:
    program = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        yield process


def test_a_placement_says_where_both_run() -> None:
    assert str(Placement(3, 3)) == "both on CPU 3"
    assert str(Placement(0, 5)) == "CPU 0 and 5"
    assert (Placement(3, 3).cpus, Placement(0, 5).cpus) == ((3,), (0, 5))


def test_one_cpu_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda _: {7})
    assert Placement.together() == Placement.apart_or_together() == Placement(7, 7)
    assert Placement.apart() is None


def test_two_cpus_are_the_first_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda _: {9, 2, 4})
    assert Placement.together() == Placement(2, 2)
    assert Placement.apart() == Placement.apart_or_together() == Placement(2, 4)


@two_cpus
def test_every_thread_is_pinned_and_gets_back_its_own() -> None:
    with another_thread() as thread:
        os.sched_setaffinity(thread, {CPUS[1]})
        with contextlib.suppress(ZeroDivisionError), pinned([CPUS[0]]):
            assert os.sched_getaffinity(0) == os.sched_getaffinity(thread) == {CPUS[0]}
            raise ZeroDivisionError
        assert os.sched_getaffinity(0) == set(CPUS)
        assert os.sched_getaffinity(thread) == {CPUS[1]}


@two_cpus
def test_a_thread_that_was_started_meanwhile_is_not_left_pinned() -> None:
    with pinned([CPUS[0]]):
        starting = another_thread()
        thread = starting.__enter__()
        assert os.sched_getaffinity(thread) == {CPUS[0]}
    assert os.sched_getaffinity(thread) == set(CPUS)
    starting.__exit__(None, None, None)


@two_cpus
def test_another_process_is_pinned_and_we_are_not() -> None:
    with another_process() as process:
        with pinned([CPUS[1]], process.pid):
            assert os.sched_getaffinity(process.pid) == {CPUS[1]}
            assert os.sched_getaffinity(0) == set(CPUS)
        assert os.sched_getaffinity(process.pid) == set(CPUS)


def test_a_process_that_ends_meanwhile_needs_nothing_back() -> None:
    with another_process() as process, pinned([CPUS[0]], process.pid):
        process.kill()
        process.wait()


def test_what_cannot_be_pinned_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot place a process on CPU 1023"):
        pin([1023])
    with pytest.raises(ConfigError, match="process 4194305: there is none"):
        pin([CPUS[0]], 4194305)
    assert os.sched_getaffinity(0) == set(CPUS)
