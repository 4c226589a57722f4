"""Doorbells between processes."""

from __future__ import annotations

import asyncio
import os

import pytest

from pvnet.core.errors import WireError
from pvnet.runtime.eventfd import EventFd


async def test_any_number_of_rings_is_heard_at_least_once() -> None:
    bell = EventFd()
    heard = asyncio.Event()
    bell.listen(heard.set)
    for _ in range(1000):
        bell.ring()
    await heard.wait()
    heard.clear()
    bell.ring()
    await heard.wait()
    bell.close()
    bell.close()


async def test_a_counter_at_its_end_still_rings() -> None:
    bell = EventFd()
    os.eventfd_write(bell.fd, (1 << 64) - 2)
    bell.ring()
    heard = asyncio.Event()
    bell.listen(heard.set)
    await heard.wait()
    bell.close()


def test_only_an_eventfd_is_adopted() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(WireError, match="eventfd"):
            EventFd.adopt(writer)
        os.fstat(writer)  # still the caller's
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(WireError):
        EventFd.adopt(writer)


def test_an_adopted_one_never_blocks() -> None:
    fd = os.eventfd(0)
    bell = EventFd.adopt(fd)
    assert not os.get_blocking(fd)
    os.eventfd_write(fd, (1 << 64) - 2)
    bell.ring()
    bell.close()
