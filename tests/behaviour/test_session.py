"""A management application's session from a process of its own: opening, messages of every size, several at once."""

from __future__ import annotations

import asyncio
import errno

import pytest
from behaviour_worlds import behaviour, errno_of, eventually, set_fault

from pvnet.client.device import POLLIN
from pvnet.papr.platform_io import FaultPoint
from pvnet.runtime.topology import HypervisorConfig, HypervisorVmc
from pvnet.testing.in_process import InProcessLab


@behaviour()
async def test_session_opens_echoes_and_closes(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        await session.router_open()
        assert await session.echo(b"hello") == b"hello"
        assert await session.echo(b"") == b""
        await session.router_close()
    await lab.leave()


@behaviour()
async def test_every_length_up_to_the_mtu_comes_back_as_it_was(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        for length in (1, 2, 15, 16, 31, 32, 4095, 4096):
            message = bytes((length + i) % 251 + 1 for i in range(length))
            assert await session.exchange(message) == message
        assert await errno_of(session.send(bytes(4097))) == errno.EIO
        assert await session.exchange(b"still there") == b"still there"


@behaviour(hypervisor=HypervisorConfig(vmc=HypervisorVmc(max_mtu=2048)).model_dump())
async def test_the_smaller_mtu_of_the_two_sides_counts(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        assert await session.exchange(b"m" * 2048) == b"m" * 2048
        assert await errno_of(session.send(bytes(2049))) == errno.EIO
    async with await lab.device() as device:
        assert await errno_of(device.read(2049, nonblock=True)) == errno.EINVAL
        assert await errno_of(device.read(2048, nonblock=True)) == errno.EIO


@behaviour()
async def test_write_is_ebusy_while_no_buffer_is_free_and_nothing_is_lost(lab: InProcessLab) -> None:
    async with await lab.device() as device:
        await device.set_hmc_id("busy")
        await eventually(lambda: _writes(device, b"first"))
        assert await device.read() == b"first"
        sent: list[bytes] = []
        while len(sent) < 64:  # nobody reads: the answers hold the buffers
            message = b"message %d" % len(sent)
            failed = await errno_of(device.write(message))
            if failed:
                assert failed == errno.EBUSY
                break
            sent.append(message)
        assert 1 <= len(sent) < 64
        for message in sent:
            assert await device.read() == message
        assert await errno_of(device.read(nonblock=True)) == errno.EAGAIN
        await eventually(lambda: _writes(device, b"again"))
        assert await device.read() == b"again"


async def _writes(device, message: bytes) -> bool:
    failed = await errno_of(device.write(message))
    assert failed in (0, errno.EBUSY)
    return not failed


@behaviour()
async def test_many_writers_share_the_buffers_and_every_echo_finds_its_own(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        await session.router_open()
        messages = [b"%d " % i * (i + 1) for i in range(50)]
        assert await asyncio.gather(*map(session.echo, messages)) == messages
        assert session.counters["late_reply"] == 0


@behaviour()
async def test_sessions_at_once_do_not_see_each_other(lab: InProcessLab) -> None:
    async def talk(name: str) -> None:
        async with await lab.session(name, client=name) as session:
            for i in range(10):
                message = f"{name} {i}".encode()
                assert await session.exchange(message) == message
            assert session.messages.empty()
        await lab.leave(name)

    await asyncio.gather(*(talk(f"app-{letter}") for letter in "abc"))


@behaviour()
async def test_fifth_connection_is_ebusy_until_one_is_closed(lab: InProcessLab) -> None:
    opened = [await (await lab.session(f"app-{i}")).open() for i in range(3)]  # the manager has the fourth
    device = await (await lab.device()).open()
    assert await errno_of(device.set_hmc_id("one too many")) == errno.EBUSY
    await opened.pop().close()
    await eventually(lambda: _connects(device))
    await device.close()
    for session in opened:
        await session.close()


async def _connects(device) -> bool:
    failed = await errno_of(device.set_hmc_id("one too many"))
    assert failed in (0, errno.EBUSY, errno.ENOBUFS), "after CLOSE RESP the hypervisor lends a buffer again"
    return not failed


@behaviour()
async def test_session_numbers_go_on_over_closes(lab: InProcessLab) -> None:
    numbers = []
    for _ in range(3):
        async with await lab.session():
            adapter = lab.partition().adapter
            numbers.append(next(s.session for s in adapter.machine.sessions.connections.slots[1:] if s.state))
        await lab.at_rest()
    assert numbers == [1, 2, 3]


@behaviour()
async def test_partial_read_discards_the_rest_of_the_message(lab: InProcessLab) -> None:
    async with await lab.device() as device:
        await device.set_hmc_id("partial")
        await eventually(lambda: _writes(device, b"0123456789"))
        assert await device.read(4) == b"0123"
        assert await errno_of(device.read(nonblock=True)) == errno.EAGAIN


@behaviour()
async def test_poll_says_whether_a_message_waits(lab: InProcessLab) -> None:
    async with await lab.device() as device:
        assert await device.poll() == 0
        await device.set_hmc_id("poll")
        assert await device.poll() == 0
        await eventually(lambda: _writes(device, b"message"))
        await eventually(lambda: _polls_in(device))
        assert await device.read() == b"message"
        assert await device.poll() == 0


async def _polls_in(device) -> bool:
    return bool(await device.poll() & POLLIN)


@behaviour()
async def test_blocked_read_is_interrupted_and_no_message_is_lost(lab: InProcessLab) -> None:
    async with await lab.device() as device:
        await device.set_hmc_id("interrupt")
        assert await errno_of(device.read(timeout=0.05)) == errno.EINTR
        reading = asyncio.ensure_future(device.read())
        await eventually(lambda: _blocked(lab, 1))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await eventually(lambda: _blocked(lab, 0))
        await eventually(lambda: _writes(device, b"after"))
        assert await device.read() == b"after"


async def _blocked(lab: InProcessLab, number: int) -> bool:
    """Whether that many reads wait, besides the manager's."""
    return (await lab.status("mp"))["device_calls_under_way"] == number + 1


@behaviour()
async def test_close_ends_a_blocked_read(lab: InProcessLab) -> None:
    device = await (await lab.device()).open()
    await device.set_hmc_id("close")
    reading = asyncio.ensure_future(device.read())
    await eventually(lambda: _blocked(lab, 1))
    await device.close()
    assert await errno_of(reading) == errno.EBADFD


@behaviour()
async def test_failed_copy_is_eio_and_the_buffer_comes_back(lab: InProcessLab) -> None:
    async with await lab.device() as device:
        set_fault(lab, FaultPoint.COPY, -1)
        assert await errno_of(device.set_hmc_id("fails")) == errno.EIO
        await eventually(lambda: _connects_again(device))
        await eventually(lambda: _writes(device, b"works"))
        assert await device.read() == b"works"
        for _ in range(20):  # more often than there are buffers
            set_fault(lab, FaultPoint.COPY, -1)
            assert await errno_of(device.write(b"fails")) == errno.EIO
        assert await device.write(b"works again") == 11
        assert await device.read() == b"works again"


async def _connects_again(device) -> bool:
    return await errno_of(device.set_hmc_id("works")) == 0


@pytest.mark.parametrize("size", [1, 64, 4096])
@behaviour()
async def test_unread_messages_of_a_closed_session_are_not_found_by_the_next(lab: InProcessLab, size: int) -> None:
    async with await lab.device() as device:
        await device.set_hmc_id("first")
        await eventually(lambda: _writes(device, b"x" * size))
        await eventually(lambda: _polls_in(device))
    await lab.at_rest()
    async with await lab.session("second") as session:
        assert await session.exchange(b"mine") == b"mine"
        assert session.messages.empty()
