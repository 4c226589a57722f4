"""The channel between two real processes, on both loops: order, waiting, ends, and what is refused at attaching."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import uvloop

from pvnet.core.errors import ConfigError, LocalError, PeerDiedError, RefusedError
from pvnet.ring.errors import RingFault
from pvnet.runtime import ring_channel
from pvnet.runtime.memfd import create_sealed
from pvnet.runtime.ring_channel import ChannelOffer, RingChannel

PEER = Path(__file__).with_name("channel_peer.py")
SLOT = 64


def pytest_generate_tests(metafunc):
    if "runner" in metafunc.fixturenames:
        metafunc.parametrize("runner", ["uvloop", "asyncio"], indirect=True)


@pytest.fixture
def runner(request):
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@pytest.fixture
def open_fds():
    """How many descriptors this process has."""

    def count():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    return count


@contextlib.contextmanager
def peer(what, **options):
    channel = RingChannel.create(slot_bytes=SLOT, **options)
    command = [sys.executable, str(PEER), what, channel.offer.to_text(), str(os.getpid())]
    process = subprocess.Popen(command, pass_fds=channel.offer.fds, stderr=subprocess.PIPE)
    try:
        yield channel, process
    finally:
        channel.close()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {0, -9}, errors.decode()


def both_ends(**options):
    """Two ends in one process: the second attaches through duplicates, as another process would."""
    first = RingChannel.create(slot_bytes=SLOT, **options)
    offer = first.offer
    fds = tuple(os.dup(fd) for fd in offer.fds)
    return first, RingChannel.attach(ChannelOffer(offer.count, offer.slot_bytes, fds))


def numbered(start, amount):
    return [number.to_bytes(8, "little") * 8 for number in range(start, start + amount)]


@pytest.mark.parametrize("spin", [0.0, ring_channel.SPIN_SECONDS])
@pytest.mark.parametrize("batch", [1, 64, 3000])
def test_batches_come_back_whole_and_in_order(runner, spin, batch):
    rounds = max(3, 3000 // batch)

    async def talk():
        with peer("echo", count=1024, spin_seconds=spin) as (channel, _):
            for number in range(rounds):
                sent = numbered(number * batch, batch)
                got = []
                sending = asyncio.ensure_future(channel.send(sent))
                while len(got) < batch:
                    got += await channel.recv()
                await sending
                assert got == sent
            assert channel.counters.rescues == 0
            assert channel.counters.spins == 0 or spin

    runner.run(talk())


def test_a_stream_of_batches_loses_nothing_and_needs_no_rescue(runner):
    async def stream():
        with peer("sink", count=256) as (channel, _):
            assert await channel.recv() == [b"ready"]
            for number in range(500):
                await channel.send(numbered(number, 1 + number % 97))
            await channel.send([b"end"])
            answer = []
            while len(answer) < 2:
                answer += await channel.recv()
            assert answer == [str(sum(1 + n % 97 for n in range(500)) + 1).encode(), b"0"]
            assert channel.counters.rescues == 0

    runner.run(stream())


def test_arrays_go_both_ways(runner):
    async def talk():
        with peer("echo") as (channel, _):
            rows = np.arange(100 * SLOT, dtype=np.uint32).astype(np.uint8).reshape(100, SLOT)
            assert channel.send_array(rows) == 100
            got = await channel.recv_array()
            while len(got) < 100:
                got = np.concatenate([got, await channel.recv_array()])
            assert (got == rows).all()

    runner.run(talk())


@pytest.mark.parametrize("what", ["die", "close"])
def test_the_end_of_the_peer_comes_after_its_last_messages(runner, what):
    async def listen():
        with peer(what) as (channel, process):
            channel._peer_pid = process.pid
            got = []
            while messages := await channel.recv():
                got += messages
            assert got == [b"last words"] * 3
            assert channel.peer_gone
            with pytest.raises(PeerDiedError):
                channel.send_batch([b"x"])
            with pytest.raises(PeerDiedError):
                channel.send_array(np.zeros((1, SLOT), np.uint8))

    runner.run(listen())


def test_who_waits_for_room_learns_that_the_peer_has_died(runner):
    async def fill():
        with peer("die", count=4) as (channel, process):
            channel._peer_pid = process.pid
            with pytest.raises(PeerDiedError):
                await channel.send([b"x"] * 100)

    runner.run(fill())


def test_a_peer_that_was_dead_before_we_looked_is_noticed(runner):
    ended = subprocess.Popen(["true"])
    ended.wait()

    async def listen():
        channel = RingChannel.create(peer_pid=ended.pid)
        assert await channel.recv() == []
        channel.close()

    runner.run(listen())


def test_closing_wakes_who_waits_on_both_sides(runner):
    async def close():
        first, second = both_ends()
        there, here = asyncio.ensure_future(second.recv()), asyncio.ensure_future(first.recv())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.close()
        first.close()
        assert await there == []
        with pytest.raises(LocalError):
            await here
        for call in (first.send_batch, first.send_array, first.receive_now):
            with pytest.raises(LocalError, match="closed"):
                call([])
        with pytest.raises(LocalError, match="closed"):
            await first.recv()
        with pytest.raises(LocalError, match="offer"):
            assert first.offer
        assert not first.peer_gone
        second.close()

    runner.run(close())


def test_a_sender_waits_for_room_and_goes_on(runner):
    async def talk():
        first, second = both_ends(count=8)
        sending = asyncio.ensure_future(first.send(numbered(0, 50)))
        got = []
        while len(got) < 50:
            got += await second.recv(3)
            await asyncio.sleep(0)
        await sending
        assert got == numbered(0, 50)
        assert first.receive_now() == []
        first.close()
        second.close()

    runner.run(talk())


def test_two_tasks_waiting_at_one_end_are_our_mistake(runner):
    async def wait_twice():
        first, second = both_ends()
        waiting = asyncio.ensure_future(second.recv())
        await asyncio.sleep(0)
        with pytest.raises(LocalError, match="another task"):
            await second.recv()
        first.send_batch([b"x"])
        assert await waiting == [b"x"]
        first.close()
        second.close()

    runner.run(wait_twice())


def test_a_receiver_that_never_has_to_wait_still_lets_the_loop_run(runner):
    async def hog():
        first, second = both_ends(count=1024)
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, None)
        first.send_batch([b"x"] * 200)
        for _ in range(200):
            assert await second.recv(1) == [b"x"]
        assert turns
        first.close()
        second.close()

    runner.run(hog())


def test_a_doorbell_that_was_lost_is_rescued_and_counted(runner, monkeypatch):
    monkeypatch.setattr(ring_channel, "RESCUE_SECONDS", 0.01)

    async def lose():
        first, second = both_ends()
        first._producer._doorbell = lambda: None
        waiting = asyncio.ensure_future(second.recv())
        await asyncio.sleep(0)
        assert second._sleeping
        first.send_batch([b"x"])
        assert await waiting == [b"x"]
        assert second.counters.rescues == 1
        first.close()
        second.close()

    runner.run(lose())


def test_a_peer_that_closed_without_being_heard_is_found(runner, monkeypatch):
    monkeypatch.setattr(ring_channel, "RESCUE_SECONDS", 0.01)

    async def lose():
        first, second = both_ends()
        waiting = asyncio.ensure_future(second.recv())
        await asyncio.sleep(0)
        first._consumer.events.close()
        first._producer.events.close()
        assert await waiting == []
        assert second.counters.rescues == 1
        second._timer.cancel()
        second._rescue()  # the timer finds nobody asleep and stops
        assert second._timer is None
        first.close()
        second.close()

    runner.run(lose())


def test_closing_while_a_receiver_gives_way_is_noticed(runner):
    async def close():
        first, second = both_ends()
        second._turns = 1000
        receiving = asyncio.ensure_future(second.recv_array())
        await asyncio.sleep(0)
        second.close()
        for call in (receiving, second.recv_array()):
            with pytest.raises(LocalError, match="closed"):
                await call
        first.close()

    runner.run(close())


def test_waiting_that_is_cancelled_leaves_the_channel_usable(runner):
    async def cancel():
        first, second = both_ends()
        waiting = asyncio.ensure_future(second.recv())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not second._consumer.events.enabled
        first.send_batch([b"x"])
        assert await second.recv() == [b"x"]
        first.close()
        second.close()

    runner.run(cancel())


def test_spinning_is_adaptive_and_off_with_one_cpu(runner, monkeypatch):
    async def spin():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        first, second = both_ends()
        second._spin_seconds = 1e-6

        async def wait_in_vain():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await second.recv()

        await wait_in_vain()
        assert second.counters.spins == 0  # no quick answer so far
        second._credit = 2
        for spins in (1, 2, 2):
            await wait_in_vain()
            assert (second.counters.spins, second.counters.spin_hits) == (spins, 0)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
        assert RingChannel.create(spin_seconds=1.0)._spin_seconds == 0.0
        first.close()
        second.close()

    runner.run(spin())


def test_a_spin_that_hits_keeps_the_next_one_allowed(runner):
    async def spin():
        first, second = both_ends()
        second._spin_seconds, second._credit = 10.0, 1

        def moves_while_we_look():
            first.send_batch([b"x"])
            return real()

        real = ring_channel.time.perf_counter
        try:
            ring_channel.time.perf_counter = moves_while_we_look
            got = await second.recv()
        finally:
            ring_channel.time.perf_counter = real
        assert set(got) == {b"x"}
        assert (second.counters.spins, second.counters.spin_hits, second.counters.sleeps) == (1, 1, 0)
        assert second._credit > 1
        first.close()
        second.close()

    runner.run(spin())


def test_on_one_cpu_a_receiver_gives_way_to_its_peer_before_it_sleeps(runner, monkeypatch):
    async def give_way():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
        first, second = both_ends(spin_seconds=1.0)
        monkeypatch.setattr(os, "sched_yield", lambda: first.send_batch([b"x"]))
        second._credit = 1
        assert await second.recv() == [b"x"]
        assert (second.counters.yields, second.counters.yield_hits, second.counters.sleeps) == (1, 1, 0)
        assert second._credit > 1
        # A yield in vain, and a slow one: the CPU belongs to others too
        monkeypatch.setattr(os, "sched_yield", lambda: None)
        monkeypatch.setattr(ring_channel, "_SLOW_YIELD_SECONDS", -1.0)
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await second.recv()
        assert (second.counters.yields, second.counters.yield_hits, second.counters.spins) == (2, 1, 0)
        first.close()
        second.close()

    runner.run(give_way())


@pytest.mark.parametrize("comes", [True, False])
def test_a_sender_spins_for_room_too(runner, monkeypatch, comes):
    async def spin():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        first, second = both_ends(count=8)
        first._credit, first._spin_seconds = 1, 10.0 if comes else 1e-6
        assert first.send_batch([b"x"] * 8) == 8
        real = time.perf_counter

        def takes_while_we_look():
            second.receive_now(1)
            return real()

        if comes:
            monkeypatch.setattr(ring_channel.time, "perf_counter", takes_while_we_look)
        sending = asyncio.ensure_future(first.send([b"y"]))
        await asyncio.sleep(0)
        assert first.counters.spins == 1
        assert first.counters.spin_hits == int(comes)
        assert first.counters.sleeps == int(not comes)
        monkeypatch.setattr(ring_channel.time, "perf_counter", real)
        second.receive_now(8)
        await sending
        first.close()
        second.close()

    runner.run(spin())


def test_two_senders_waiting_at_one_end_are_our_mistake(runner):
    async def send_twice():
        first, second = both_ends(count=8)
        waiting = asyncio.ensure_future(first.send([b"x"] * 9))
        await asyncio.sleep(0)
        with pytest.raises(LocalError, match="another task"):
            await first.send([b"y"])
        assert second.receive_now(8) == [b"x"] * 8
        await waiting
        first.close()
        second.close()

    runner.run(send_twice())


def test_closing_wakes_a_sender_that_waits_for_room(runner):
    async def close():
        first, second = both_ends(count=8)
        waiting = asyncio.ensure_future(first.send([b"x"] * 9))
        await asyncio.sleep(0)
        first.close()
        with pytest.raises(LocalError, match="closed"):
            await waiting
        second.close()

    runner.run(close())


def test_nothing_leaks(runner, open_fds):
    async def use():
        first, second = both_ends()
        first.send_batch([b"x"])
        assert await second.recv() == [b"x"]
        waiting = asyncio.ensure_future(second.recv())
        await asyncio.sleep(0)
        first.close()
        assert await waiting == []
        second.close()

    runner.run(use())
    before = open_fds()
    for _ in range(5):
        runner.run(use())
    assert open_fds() == before


def test_a_peer_that_breaks_the_protocol_is_a_fault(runner):
    async def abuse():
        first, second = both_ends()
        struct.pack_into("<I", second._producer._u8, 0x40, 5000)
        for _ in range(2):
            with pytest.raises(RingFault):
                await first.recv()
        first.close()
        second.close()

    runner.run(abuse())


# -- attaching ----------------------------------------------------------------------------------------------------


@pytest.fixture
def channel():
    channel = RingChannel.create(count=8, slot_bytes=SLOT)
    yield channel
    channel.close()


def refused(offer, open_fds, **changes):
    """Refused, and none of the descriptors is left behind."""
    fds = dict(zip(("memory", "own", "peers"), offer.fds, strict=True)) | changes
    shape = fds.pop("count", offer.count), fds.pop("slot_bytes", offer.slot_bytes)
    before = open_fds()
    duplicates = tuple(os.dup(fd) for fd in fds.values())
    with pytest.raises(RefusedError):
        RingChannel.attach(ChannelOffer(*shape, duplicates))
    assert open_fds() == before


def test_memory_that_is_not_sealed_is_refused(channel, open_fds):
    size = os.fstat(channel.offer.fds[0]).st_size
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    with mmap.mmap(fd, size) as memory:
        memory[:] = mmap.mmap(channel.offer.fds[0], size)[:]
    refused(channel.offer, open_fds, memory=fd)
    os.close(fd)


def test_memory_of_another_size_or_content_is_refused(channel, open_fds):
    size = os.fstat(channel.offer.fds[0]).st_size
    for wrong in (size - 64, size + 64, size):
        memory, fd = create_sealed(wrong, "wrong")
        refused(channel.offer, open_fds, memory=fd)
        os.close(fd)
        memory.close()
    for shape in ({"count": 16}, {"slot_bytes": 128}, {"count": 0}, {"slot_bytes": -8}, {"slot_bytes": 12}):
        refused(channel.offer, open_fds, **shape)


def test_doorbells_that_are_no_eventfds_are_refused(channel, open_fds):
    reading, writing = os.pipe()
    refused(channel.offer, open_fds, own=reading)
    refused(channel.offer, open_fds, peers=writing)
    refused(channel.offer, open_fds, memory=writing)
    os.close(reading)
    os.close(writing)


def test_a_third_end_is_refused(runner, open_fds):
    async def attach_again():
        first, second = both_ends()
        first.send_batch([b"x"])
        refused(first.offer, open_fds)
        assert await second.recv() == [b"x"]
        first.close()
        second.close()

    runner.run(attach_again())


def test_an_offer_goes_through_a_command_line():
    offer = ChannelOffer(1024, 64, (5, 6, 7))
    assert ChannelOffer.from_text(offer.to_text()) == offer
    for text in ("", "1,2", "1,2,3,4,5,6", "a,b,c,d,e"):
        with pytest.raises(ConfigError):
            ChannelOffer.from_text(text)


@pytest.mark.parametrize(("count", "slot"), [(3, 64), (4096, 64), (8, 12), (0, 64), (8, 0)])
def test_a_channel_of_a_wrong_shape_is_not_made_and_leaks_nothing(count, slot, open_fds):
    before = open_fds()
    with pytest.raises((LocalError, ConfigError)):
        RingChannel.create(count=count, slot_bytes=slot)
    assert open_fds() == before
