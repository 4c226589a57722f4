"""Every fence can be called and is chosen for the machine that needs it."""

from __future__ import annotations

import ctypes

import pytest

from pvnet.runtime import fence


@pytest.mark.parametrize("make", [fence.lock_fence, fence.atomic_fence, fence.eventfd_fence])
def test_a_fence_can_be_called_any_number_of_times(make):
    barrier = make()
    assert barrier is not None or make is fence.atomic_fence, "only libatomic may be missing"
    assert barrier is None or [barrier() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "i686"])
def test_x86_takes_the_lock(machine):
    assert "lock_fence" in fence.choose(machine).__qualname__


@pytest.mark.parametrize("machine", ["aarch64", "ppc64le", "riscv64", ""])
def test_other_machines_take_a_real_fence(machine):
    assert "lock_fence" not in fence.choose(machine).__qualname__


def test_without_libatomic_other_machines_take_a_system_call(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert "eventfd_fence" in fence.choose("aarch64").__qualname__
