"""The twin of libvfio-user's sample server does what its client was seen to get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from guest_runner import ManualTimers, RunnerHost
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_twin import BAR1_BYTES, SAMPLE_DRIVER, UNSET, SampleTwin, encode_time, install, pattern
from simple_device_rig import PlainMemory, PlainServices, restored, saved

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT, EINVAL, EIO, ENOMEM

NOW = 1_700_000_000


class World:
    """A twin with a user, whose memory begins at I/O address 0."""

    def __init__(self, timers: ManualTimers | None = None) -> None:
        self.timers = timers or ManualTimers()
        self.twin = SampleTwin(PlainMemory(BAR1_BYTES), lambda: NOW + self.timers.now)
        self.memory = bytearray(16 * 4096)
        self.host = self.opened()

    def opened(self) -> RunnerHost:
        host = RunnerHost(self.twin, self.memory, 0, self.timers)
        self.twin.open(host)
        return host

    def advance(self, seconds: float) -> None:
        self.timers.advance(seconds)
        self.host.settle()


@pytest.fixture
def world() -> World:
    return World()


def test_what_it_says_of_itself(world: World) -> None:
    twin = world.twin
    assert twin.flags == 3
    assert [(region.info.size, region.info.flags) for region in twin.regions] == [
        (8, 3), (0x3000, 7), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (256, 3), (0, 0),
    ]  # fmt: skip
    assert twin.regions[1].info.sparse == ((0, 0x1000), (0x2000, 0x1000))
    assert twin.regions[1].memory is twin.memory
    assert [irq.count for irq in twin.irqs] == [1, 0, 0, 1, 1]
    config = twin.read(7, 0, 64)
    assert isinstance(config, bytes)
    assert (config[:4].hex(), config[0x3D]) == ("767001ff", 1)
    twin.write(7, 4, b"\x04\x00")
    assert twin.read(7, 4, 2) == b"\x04\x00"


def test_it_fires_at_the_time_and_copies(world: World) -> None:
    world.host.enable(0)
    assert world.twin.read(0, 0, 8) == UNSET
    world.twin.write(0, 0, encode_time(NOW + 1))
    assert world.twin.read(0, 0, 8) == encode_time(NOW + 1)
    world.advance(0.99)
    assert world.host.signals == []
    world.advance(0.02)
    assert world.host.signals == [(0, 0)]
    copied = b"".join(pattern(piece) for piece in range(4))
    assert world.memory == bytes(0x1000) + copied + bytes(14 * 0x1000)
    assert world.twin.attributes() == {"dma": "ok", "fired": "1"}
    world.advance(100)
    assert world.host.signals == [(0, 0)]


def test_time_past_fires_at_once_and_time_beyond_all_bounds_never(world: World) -> None:
    world.twin.write(0, 0, encode_time(5))
    world.advance(0)
    assert world.twin.fired == 1
    world.twin.write(0, 0, encode_time(2**64 - 2))
    assert world.timers.pending == [float(1 << 31)]
    world.twin.write(0, 0, UNSET)
    assert world.timers.pending == []


def test_copy_that_fails_is_told(world: World) -> None:
    world.host.mapped = False
    world.twin.write(0, 0, encode_time(NOW))
    world.advance(0)
    assert (world.twin.failure and world.twin.failure.errno) == EFAULT
    assert "EFAULT" in world.twin.attributes()["dma"]
    steps = world.twin._transfer()
    for _ in range(4):
        next(steps)
    next(steps)
    with pytest.raises(MdevError) as caught:
        steps.send(bytes(1024))
    assert caught.value.errno == EIO


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (4, 4), (1, 7), (0, 1)])
def test_time_is_accessed_as_a_whole(world: World, offset: int, length: int) -> None:
    for call in (lambda: world.twin.read(0, offset, length), lambda: world.twin.write(0, offset, bytes(length))):
        with pytest.raises(MdevError) as caught:
            call()
        assert caught.value.errno == EINVAL
    assert world.twin.read(0, 0, 8) == UNSET


def test_reset(world: World) -> None:
    world.twin.write(0, 0, encode_time(NOW + 1))
    world.twin.memory.view[:3] = b"abc"
    world.twin.reset()
    world.advance(10)
    assert (world.twin.fired, world.twin.read(0, 0, 8), bytes(world.twin.memory.view[:3])) == (0, UNSET, bytes(3))


def test_time_survives_the_user_and_waits_while_stopped(world: World) -> None:
    world.twin.write(0, 0, encode_time(NOW + 5))
    world.twin.close()
    world.host.close()
    world.advance(10)
    assert world.twin.fired == 0
    world.twin.stop()
    world.host = world.opened()
    world.advance(10)
    assert world.twin.fired == 0
    world.twin.start()
    world.advance(0)
    assert world.twin.fired == 1


def test_stream_has_the_pieces_that_were_seen(world: World) -> None:
    """12 x 1024 while it runs; 12 x 1024 and 8 when stopped."""
    world.twin.write(0, 0, encode_time(NOW + 9))
    migration = world.twin.migration
    assert migration is not None
    migration.save_begin()
    assert migration.remaining() == 2 * BAR1_BYTES + 8
    early, late = [], []
    while piece := migration.precopy(1024):
        early.append(len(piece))
    world.twin.memory.view[:] = b"\x77" * BAR1_BYTES
    world.twin.stop()
    while piece := migration.save(1024):
        late.append(piece)
    assert early == [1024] * 12
    assert [len(piece) for piece in late] == [1024] * 12 + [8]
    assert b"".join(late) == b"\x77" * BAR1_BYTES + encode_time(NOW + 9)
    assert migration.remaining() == 0


@settings(deadline=None, max_examples=25)
@given(st.booleans(), st.integers(1, 20000), st.lists(st.integers(0, 2 * BAR1_BYTES + 8), max_size=8), st.booleans())
def test_round_trip_cut_anywhere(precopy: bool, limit: int, places: list[int], armed: bool) -> None:
    timers = ManualTimers()
    source, target = World(timers), World(timers)
    source.twin.memory.view[:] = bytes(range(256)) * 48
    if armed:
        source.twin.write(0, 0, encode_time(NOW + 10))
    source.twin.stop()
    target.twin.stop()
    assert source.twin.migration is not None
    assert target.twin.migration is not None
    stream = saved(source.twin.migration, limit, precopy=precopy)
    cuts = sorted(min(place, len(stream)) for place in places)
    restored(
        target.twin.migration,
        *(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)),
    )
    target.twin.start()
    assert target.twin.memory.view == source.twin.memory.view
    target.advance(10)
    assert (source.twin.fired, target.twin.fired) == (0, int(armed))


@pytest.mark.parametrize("length", [0, 8, BAR1_BYTES, BAR1_BYTES + 7, BAR1_BYTES + 9, 2 * BAR1_BYTES])
def test_streams_of_other_lengths_are_refused(world: World, length: int) -> None:
    assert world.twin.migration is not None
    with pytest.raises(MdevError) as caught:
        restored(world.twin.migration, b"\x01" * length)
    assert caught.value.errno == EINVAL
    assert bytes(world.twin.memory.view[:4]) == bytes(4)
    with pytest.raises(MdevError) as caught:
        restored(world.twin.migration, bytes((1 << 20) + 1))
    assert caught.value.errno == ENOMEM


def test_driver() -> None:
    services = PlainServices()
    parent = SAMPLE_DRIVER.create_parent("sample", {}, services)
    assert ([kind.name for kind in parent.types], parent.available("server")) == (["server"], 255)
    twin = parent.create("server", "one", {})
    assert isinstance(twin, SampleTwin)
    with pytest.raises(MdevError):
        parent.create("server", "two", {"x": "y"})
    twin.remove()
    assert services.memories[0].closed
    parent.close()


def test_other_processes_find_it_as_an_entry_point(tmp_path: Path) -> None:
    path = os.pathsep.join(install(tmp_path / "site"))
    program = (
        "from importlib.metadata import entry_points;"
        "point, = entry_points(group='pvnet.mdev', name='sample');"
        "print(point.load().name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("sample\n", "")
