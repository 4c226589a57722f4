"""A CRQ between two partitions over every transport: order, back-pressure, what one end hears of the other's life."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from behaviour_worlds import behaviour, errno_of, eventually

from pvnet.client.device import CharDevice
from pvnet.core.errors import DeviceError
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab

TABLES = {
    "partition": [{"name": "left"}, {"name": "right"}],
    "crq": [{"a": "left:0x30000010", "b": "right:0x30000010"}],
    "manager": None,
}
PARTNER_FAILED = b"\xff\x01" + bytes(14)
PARTNER_DEREGISTERED = b"\xff\x02" + bytes(14)


def element(number: int) -> bytes:
    return b"\x80" + number.to_bytes(15, "big")


async def opened(lab: InProcessLab, partition: str) -> CharDevice:
    return await CharDevice(await lab.client(), partition, "/dev/crq0", timeout=lab.timeout).open()


@asynccontextmanager
async def pair(lab: InProcessLab) -> AsyncIterator[tuple[CharDevice, CharDevice]]:
    """Both ends, open, after they have greeted each other."""
    left, right = await opened(lab, "left"), await opened(lab, "right")
    await greeted(left, right)
    yield left, right
    await left.close()
    await right.close()


async def greeted(left: CharDevice, right: CharDevice) -> None:
    """Exchange elements until both directions work; skips what was left unread."""
    for source, target in ((left, right), (right, left)):

        async def written(source: CharDevice = source) -> bool:
            failed = await errno_of(source.write(element(0)))
            assert failed in (0, errno.ENOTCONN, errno.EPIPE)
            return not failed

        await eventually(written)
        while await target.read() != element(0):
            pass


@behaviour(**TABLES)
async def test_elements_arrive_in_order_both_ways(lab: InProcessLab) -> None:
    async with pair(lab) as (left, right):

        async def send(device: CharDevice, first: int) -> None:
            for i in range(first, first + 300):
                await device.write(element(i))

        async def receive(device: CharDevice, first: int) -> None:
            for i in range(first, first + 300):
                assert await device.read() == element(i)

        await asyncio.gather(send(left, 1), receive(right, 1), send(right, 1000), receive(left, 1000))


@behaviour(**TABLES)
async def test_reader_that_does_not_read_holds_the_writer_back_and_nothing_is_lost(lab: InProcessLab) -> None:
    async with pair(lab) as (left, right):
        written: list[bytes] = []
        for i in range(1, 2000):
            failed = await errno_of(left.write(element(i)))
            if failed:
                assert failed == errno.EAGAIN
                break
            written.append(element(i))
        assert 256 <= len(written) < 1999, "a ring of elements and what the driver reads ahead"
        for wanted in written:
            assert await right.read() == wanted
        assert await errno_of(right.read(nonblock=True)) == errno.EAGAIN
        await left.write(element(1))
        assert await right.read() == element(1)


@behaviour(**TABLES)
async def test_only_elements_that_a_user_may_send(lab: InProcessLab) -> None:
    async with pair(lab) as (left, right):
        for wrong in (b"", b"\x80" * 15, b"\x80" * 17, bytes(16), PARTNER_FAILED, b"\xc0\x01" + bytes(14)):
            assert await errno_of(left.write(wrong)) == errno.EINVAL
        assert await errno_of(right.read(15, nonblock=True)) == errno.EINVAL
        assert await errno_of(right.read(nonblock=True)) == errno.EAGAIN


@pytest.mark.parametrize(("how", "event"), [("crash", PARTNER_FAILED), ("stop", PARTNER_DEREGISTERED)])
@behaviour(**TABLES)
async def test_partner_that_ends_is_told_and_its_successor_greeted(lab: InProcessLab, how: str, event: bytes) -> None:
    async with pair(lab) as (left, right):
        await getattr(lab, how)("right")
        assert await left.read() == event
        assert await errno_of(left.write(element(5))) in (errno.ENOTCONN, errno.EPIPE)
        with pytest.raises(DeviceError):
            await right.write(element(5))
        await lab.start("right")
        again = await opened(lab, "right")
        await greeted(left, again)
        await again.close()


@behaviour(**TABLES)
async def test_hypervisor_that_dies_is_told_to_both(lab: InProcessLab) -> None:
    async with pair(lab) as (left, right):
        reading = asyncio.ensure_future(left.read())
        await lab.crash(HYPERVISOR)
        assert await reading == PARTNER_FAILED
        assert await right.read() == PARTNER_FAILED
        assert await errno_of(left.write(element(5))) in (errno.ENOTCONN, errno.EPIPE)
        await lab.start(HYPERVISOR)
        await greeted(left, right)
        await lab.crash(HYPERVISOR)
        await lab.start(HYPERVISOR)
        await greeted(left, right)
