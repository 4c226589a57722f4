"""The lock of a lab: who only looks whether a lab runs never keeps anybody from starting or cleaning up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvnet.core.errors import ConfigError
from pvnet.runtime import reaper
from pvnet.runtime.lab_dir import LabDir


@contextmanager
def looking(directory: LabDir) -> Iterator[None]:
    """Two threads that ask all the time whether the lab runs."""
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            directory.running()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_looking_does_not_keep_a_lab_from_starting(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with looking(LabDir("lab", base)):
        for _ in range(200):
            lab = LabDir("lab", base)
            lab.acquire()
            assert LabDir("lab", base).running()
            lab.release()
    assert not base.exists()


def test_looking_does_not_keep_the_reaper_from_cleaning_up(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with looking(LabDir("lab", base)):
        for _ in range(200):
            (base / "lab").mkdir(parents=True)
            lock = base / "lab.lock"
            lock.touch()
            reaper.remove(str(lock), str(base / "lab"))
            assert not base.exists()


def test_lab_that_runs_keeps_both_out(tmp_path: Path) -> None:
    base = tmp_path / "base"
    lab = LabDir("lab", base)
    lab.acquire()
    with pytest.raises(ConfigError, match="already running"):
        LabDir("lab", base).acquire()
    reaper.remove(str(lab.lock_path), str(lab.path))
    assert lab.path.exists()
    assert lab.lock_path.exists()
    with os.fdopen(os.open(lab.lock_path, os.O_RDWR)) as other:
        assert not reaper.take(other.fileno())
    lab.release()
    assert not base.exists()
