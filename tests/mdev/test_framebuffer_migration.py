"""Migration of a display: golden stream, cuts anywhere, precopy against a painter, abuse."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simple_device_rig import PlainServices, restored, saved

from pvnet.mdev.errors import MdevError
from pvnet.mdev.framebuffer import MDPY_DRIVER, Framebuffer, FramebufferParent
from pvnet.mdev.names import MigrationFlag
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM

HEADER = struct.Struct("<QIIII")
END = struct.pack("<I", 0xFFFFFFFF)
WIDTH, HEIGHT = 40, 30
ROW = 160
MEMORY = 8192
ROWS = 52
LAST = MEMORY - 51 * ROW


def display(width: int = WIDTH, height: int = HEIGHT) -> Framebuffer:
    services = PlainServices()
    return Framebuffer(width, height, "one", services, FramebufferParent(services))


def paint(device: Framebuffer, seed: int = 7) -> None:
    view = device.memory.view
    view[:] = bytes((seed + 31 * at + (at >> 8)) & 0xFF for at in range(len(view)))
    device.write(7, 0x04, b"\x06\x00")
    device.write(7, 0x10, struct.pack("<I", 0xFEBC_0000))
    device.write(7, 0x3C, b"\x0b")


def state(device: Framebuffer) -> tuple[bytes, bytes]:
    config = device.read(7, 0, 256)
    assert isinstance(config, bytes)
    return bytes(device.memory.view), config


def stream(device: Framebuffer, limit: int = 1 << 20, *, precopy: bool = False) -> bytes:
    assert device.migration is not None
    return saved(device.migration, limit, precopy=precopy)


def restore(device: Framebuffer, *pieces: bytes) -> None:
    assert device.migration is not None
    restored(device.migration, *pieces)


def golden(device: Framebuffer) -> bytes:
    """The stream of a device that was stopped from the beginning, built by hand."""
    memory, config = state(device)
    rows = b"".join(struct.pack("<I", number) + memory[number * ROW :][:ROW] for number in range(ROWS))
    return HEADER.pack(0x3159504456494D50, 1, ROW, MEMORY, 0) + rows + END + config


def test_flags_and_golden_stream() -> None:
    device = display()
    paint(device)
    assert device.migration is not None
    assert device.migration.flags == MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY
    assert device.migration.remaining() == len(golden(device)) == 24 + ROWS * 4 + MEMORY + 4 + 256
    whole = stream(device)
    assert whole == golden(device)
    assert whole[:8] == b"PMIVDPY1"
    assert device.migration.remaining() == 0
    assert device.migration.save(100) == b""


@pytest.mark.parametrize("precopy", [False, True])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_round_trip_cut_anywhere(precopy: bool, data: st.DataObject) -> None:
    source, target = display(), display()
    paint(source, data.draw(st.integers(0, 255)))
    whole = stream(source, data.draw(st.integers(1, 3000)), precopy=precopy)
    assert whole == golden(source)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    restore(target, *(whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)))
    assert state(target) == state(source)


def test_round_trip_byte_by_byte_and_of_a_whole_type() -> None:
    source, target = display(), display()
    paint(source)
    restore(target, *(bytes((byte,)) for byte in stream(source, 1)))
    assert state(target) == state(source)
    vga = [MDPY_DRIVER.create_parent("mdpy", {}, PlainServices()).create("vga", "x", {}) for _ in range(2)]
    paint(vga[0])
    restore(vga[1], stream(vga[0]))
    assert state(vga[1]) == state(vga[0])


def test_rows_painted_after_precopy_are_sent_again_and_only_they() -> None:
    source, target = display(), display()
    paint(source)
    migration = source.migration
    assert migration is not None
    migration.save_begin()
    pieces = []
    while piece := migration.precopy(1000):
        pieces.append(piece)
    assert migration.precopy(1000) == b""
    assert migration.remaining() == 4 + 256
    source.memory.view[5 * ROW + 3] ^= 0xFF
    source.memory.view[MEMORY - 1] ^= 0xFF
    assert migration.remaining() == 4 + ROW + 4 + LAST + 4 + 256
    again = migration.precopy(1 << 20)
    memory, config = state(source)
    assert again == struct.pack("<I", 5) + memory[5 * ROW :][:ROW] + struct.pack("<I", 51) + memory[51 * ROW :]
    source.memory.view[0] ^= 0xFF
    memory, _ = state(source)
    rest = migration.save(1 << 20)
    assert rest == bytes(4) + memory[:ROW] + END + config
    assert migration.save(1) == b""
    restore(target, *pieces, again, rest)
    assert state(target) == state(source)


def test_restart_after_an_abandoned_stream_sends_all_again() -> None:
    device = display()
    paint(device)
    migration = device.migration
    assert migration is not None
    migration.save_begin()
    assert len(migration.precopy(5000)) == 5000
    device.start()
    assert migration.remaining() < len(golden(device))
    assert migration.precopy(10) == golden(device)[5000:5010]
    assert stream(device) == golden(device)
    assert migration.remaining() == 0
    device.start()
    assert migration.remaining() == len(golden(device))


# --- abuse ------------------------------------------------------------------------------------------------------------


def refused(errno: int, *pieces: bytes) -> None:
    """Restoring fails, and the device is as it was; then it takes a good stream."""
    target = display()
    paint(target, 99)
    before = state(target)
    with pytest.raises(MdevError) as caught:
        restore(target, *pieces)
    assert caught.value.errno == errno
    assert state(target) == before
    source = display()
    paint(source)
    restore(target, golden(source))
    assert state(target) == state(source)


@pytest.fixture
def good() -> bytes:
    device = display()
    paint(device)
    return golden(device)


@pytest.mark.parametrize(
    "head",
    [
        (0, 1, ROW, MEMORY, 0),
        (0x3159504456494D50, 2, ROW, MEMORY, 0),
        (0x3159504456494D50, 1, ROW + 4, MEMORY, 0),
        (0x3159504456494D50, 1, ROW, 2 * MEMORY, 0),
        (0x3159504456494D50, 1, ROW, MEMORY, 1),
    ],
)
def test_header_of_something_else(head: tuple[int, ...], good: bytes) -> None:
    refused(EFAULT, HEADER.pack(*head) + good[HEADER.size :])


def test_stream_of_another_type(good: bytes) -> None:
    refused(EFAULT, stream(display(41, 30)))


@pytest.mark.parametrize("number", [ROWS, 0x7FFF_FFFF, 0xFFFF_FFFE])
def test_row_that_there_is_not(number: int, good: bytes) -> None:
    refused(EFAULT, good[: HEADER.size] + struct.pack("<I", number) + bytes(ROW))


@pytest.mark.parametrize("length", [0, 1, 23, 24, 27, 28, 24 + 4 + ROW, -1, -256, -260])
def test_stream_that_ends_too_early(length: int, good: bytes) -> None:
    refused(EINVAL, good[:length])


def test_missing_row(good: bytes) -> None:
    at = HEADER.size + 3 * (4 + ROW)
    refused(EINVAL, good[:at] + good[at + 4 + ROW :])


def test_bytes_behind_the_end(good: bytes) -> None:
    refused(ENOMEM, good, b"x")
    refused(ENOMEM, good + b"x")
    refused(ENOMEM, good, b"", good)


def test_read_only_configuration_is_not_taken_from_a_stream(good: bytes) -> None:
    """A stream cannot make another device of it, only place it."""
    target = display()
    restore(target, good[:-256] + b"\xff" * 256)
    config = state(target)[1]
    assert config[:4] == bytes.fromhex("361b0f00")
    assert config[0x10:0x14] == struct.pack("<I", 0xFFFF_E008)
    assert config[0x40:0x50] == bytes.fromhex("09001000") + b"XR24" + struct.pack("<II", WIDTH, HEIGHT)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 24 + ROWS * 4 + MEMORY + 259), st.integers(1, 255))
def test_any_flipped_byte_is_refused_or_is_content(at: int, flip: int) -> None:
    source, target = display(), display()
    paint(source)
    broken = bytearray(golden(source))
    broken[at] ^= flip
    before = state(target)
    in_number = at >= HEADER.size and (at - HEADER.size) % (4 + ROW) < 4 and at < len(broken) - 260
    in_end = len(broken) - 260 <= at < len(broken) - 256
    if at < HEADER.size or in_number or in_end:
        with pytest.raises(MdevError) as caught:
            restore(target, bytes(broken))
        assert caught.value.errno in {EFAULT, EINVAL}
        assert state(target) == before
    else:
        restore(target, bytes(broken))
        changed = sum(a != b for a, b in zip(state(target)[0], state(source)[0], strict=True))
        assert changed == (at < len(broken) - 260)


class Painter(RuleBasedStateMachine):
    """Users paint, a stream runs, restarts, ends: the target always shows what the source showed when it stopped."""

    @initialize()
    def power_on(self) -> None:
        self.source, self.target = display(), display()
        assert self.source.migration is not None
        self.migration = self.source.migration
        self.pieces: list[bytes] | None = None

    @rule(at=st.integers(0, MEMORY - 1), data=st.binary(min_size=1, max_size=400))
    def paint(self, at: int, data: bytes) -> None:
        self.source.memory.view[at : at + len(data)] = data[: MEMORY - at]

    @rule()
    def reset(self) -> None:
        self.source.reset()

    @rule(command=st.integers(0, 0xFFFF))
    def configure(self, command: int) -> None:
        self.source.write(7, 4, struct.pack("<H", command))

    @rule()
    def begin(self) -> None:
        self.migration.save_begin()
        self.pieces = []

    @precondition(lambda self: self.pieces is not None)
    @rule(limit=st.integers(1, 4000))
    def precopy(self, limit: int) -> None:
        assert self.pieces is not None
        piece = self.migration.precopy(limit)
        assert len(piece) <= limit
        self.pieces.append(piece)

    @precondition(lambda self: self.pieces is not None)
    @rule(limit=st.integers(50, 20000))
    def finish(self, limit: int) -> None:
        assert self.pieces is not None
        expected, left = self.migration.remaining(), 0
        while piece := self.migration.save(limit):
            self.pieces.append(piece)
            left += len(piece)
            assert self.migration.remaining() <= expected
        assert left == expected
        restore(self.target, *self.pieces)
        assert state(self.target) == state(self.source)
        self.pieces = None
        self.source.start()

    @invariant()
    def a_whole_stream_is_never_estimated_too_big(self) -> None:
        if hasattr(self, "migration"):
            # every row twice at most: one that was sent but not read yet, and the same one again
            assert self.migration.remaining() <= 2 * (24 + ROWS * 4 + MEMORY + 260)


TestPainter = Painter.TestCase
TestPainter.settings = settings(deadline=None, max_examples=25, stateful_step_count=25)
