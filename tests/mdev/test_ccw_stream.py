"""Migration of a disk: a stream of blocks and state, cut anywhere, and what is wrong with it."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterable

import pytest
from ccw_rig import CC, IOVA, NOP, SUSPEND, USUAL, RamStore, Rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_layout import Ccw, Crw
from pvnet.mdev.ccw_names import OrbFlag
from pvnet.mdev.ccw_regions import ASYNC_REGION, COMMAND, IO_BYTES, IO_REGION, SCHIB_REGION
from pvnet.mdev.ccw_states import State
from pvnet.mdev.ccw_stream import PIECE, Snapshot, decode_snapshot
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import CcwIrq, MigrationFlag
from pvnet.papr.errno import EFAULT, EINVAL, EIO, ENOMEM, EROFS

SIZE = 5 * PIECE + 1024


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(MdevError) as error:
        call()
    return error.value.errno


def disk(size: int = SIZE) -> RamStore:
    """A disk with data, zeros, data and more zeros."""
    store = RamStore(size)
    store.data[100:200] = b"\1" * 100
    store.data[3 * PIECE : 3 * PIECE + 10] = b"\2" * 10
    return store


def saved(rig: Rig, limit: int = 1 << 20) -> bytes:
    """Stop the device and save all of it."""
    migration = rig.device.migration
    assert migration is not None
    rig.device.stop()
    migration.save_begin()
    data = b"".join(iter(lambda: migration.save(limit), b""))
    assert migration.save(limit) == b""
    assert migration.remaining() == 0
    return data


def restore(rig: Rig, pieces: Iterable[bytes]) -> None:
    migration = rig.device.migration
    assert migration is not None
    migration.restore_begin()
    for piece in pieces:
        migration.restore(piece)
    migration.restore_end()


def record(type_: int, content: bytes) -> bytes:
    return struct.pack(">II", type_, len(content)) + content


def header(size: int = SIZE, *, magic: bytes = b"PVCW", version: int = 1, block_size: int = 512) -> bytes:
    return record(1, struct.pack(">4sIIQ", magic, version, block_size, size))


def state() -> bytes:
    return Snapshot(1, 2, True, 0x80, True, bytes(IO_BYTES), bytes(8), bytes(32)).encode()


def closed(*records: bytes) -> bytes:
    """Records, a state and the end."""
    data = b"".join(records) + record(4, state())
    return data + record(5, struct.pack(">I", zlib.crc32(data)))


@pytest.mark.parametrize("limit", [1, 7, 4096, 1 << 20])
def test_a_disk_moves(limit: int) -> None:
    source = Rig(disk(), CcwConfig(devno=0x1234, chpid=0x17))
    assert source.move(0x41, 20, b"\xab" * 512).scsw.dstat == 0x0C
    target = Rig(RamStore(SIZE))
    target.store.data[:] = b"\xee" * SIZE
    stream = saved(source, limit)
    restore(target, (stream[at : at + limit] for at in range(0, len(stream), limit)))
    assert target.store.data == source.store.data
    assert target.store.flushes == 1
    for region, length in ((IO_REGION, 124), (ASYNC_REGION, 8), (SCHIB_REGION, 52)):
        assert target.read(region, 0, length) == source.read(region, 0, length)
    assert target.device.attributes()["devno"] == "1234"
    target.device.start()
    assert target.host.signals == []
    assert target.move(0x42, 20, 512).scsw.dstat == 0x0C
    assert target.get(target.DATA, 512) == b"\xab" * 512


def test_it_can_do_precopy() -> None:
    migration = Rig().device.migration
    assert migration is not None
    assert migration.flags == MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY


def test_zeros_cost_nothing() -> None:
    size = 200 * PIECE
    source = Rig(RamStore(size))
    source.store.data[-1] = 1
    stream = saved(source)
    assert len(stream) < PIECE + 1000
    target = Rig(RamStore(size))
    target.store.data[PIECE * 150] = 9
    restore(target, [stream])
    assert target.store.data == source.store.data


def test_pieces_written_behind_the_first_pass_are_sent_again() -> None:
    source, target = Rig(disk()), Rig(RamStore(SIZE))
    migration = source.device.migration
    assert migration is not None
    migration.save_begin()
    stream = b""
    while len(stream) < PIECE:
        stream += migration.precopy(4096)
    assert source.move(0x41, 1, b"\xaa" * 512).scsw.dstat == 0x0C
    assert source.move(0x41, SIZE // 512 - 1, b"\xbb" * 512).scsw.dstat == 0x0C
    stream += b"".join(iter(lambda: migration.precopy(4096), b""))
    before = len(stream)
    assert source.move(0x41, 127, b"\xcc" * 1024).scsw.dstat == 0x0C
    assert migration.remaining() > 2 * PIECE
    source.device.stop()
    stream += b"".join(iter(lambda: migration.save(1 << 20), b""))
    assert 2 * PIECE < len(stream) - before < 3 * PIECE
    assert migration.remaining() == 0
    assert source.store.flushes == 3
    restore(target, [stream])
    assert target.store.data == source.store.data


def test_writes_without_a_stream_are_not_remembered() -> None:
    source = Rig(disk())
    assert source.move(0x41, 1, b"\xaa" * 512).scsw.dstat == 0x0C
    migration = source.device.migration
    assert migration is not None
    assert migration.remaining() == 0
    saved(source)
    assert source.move(0x41, 1, b"\xab" * 512).scsw.dstat == 0x0C
    assert migration.remaining() == 0


def test_a_second_stream_is_complete() -> None:
    source, target = Rig(disk()), Rig(RamStore(SIZE))
    migration = source.device.migration
    assert migration is not None
    migration.save_begin()
    migration.precopy(PIECE)
    restore(target, [saved(source)])
    assert target.store.data == source.store.data


def test_an_unfinished_program_and_reports_move_too() -> None:
    source, target = Rig(disk()), Rig(RamStore(SIZE))
    source.device.vary(online=False)
    source.device.vary(online=True)
    source.start(Ccw(0x42, CC, 16, IOVA), Ccw(NOP), settle=False)
    restore(target, [saved(source)])
    assert target.device.state is State.CP_PENDING
    assert len(target.device.reports) == 2
    target.device.start()
    assert target.take_irq(CcwIrq.IO)
    assert target.irb().scsw.cstat == 0x02
    assert target.run(Ccw(NOP)).scsw.dstat == 0x0C


def test_a_suspended_program_moves_too() -> None:
    source, target = Rig(disk()), Rig(RamStore(SIZE))
    source.run(Ccw(NOP, SUSPEND), flags=USUAL | OrbFlag.SUSPEND)
    restore(target, [saved(source)])
    assert target.read(SCHIB_REGION, 0, 52) == source.read(SCHIB_REGION, 0, 52)
    target.write(ASYNC_REGION, 0, COMMAND.pack(1))
    assert target.irb().scsw.fctl == 6


def test_restoring_what_nobody_has_open() -> None:
    source, target = Rig(disk(), CcwConfig(concurrent_sense=False)), Rig(RamStore(SIZE))
    assert source.run(Ccw(0x14, 0, 1, IOVA)).scsw.dstat == 0x0E
    source.start(Ccw(NOP), settle=False)
    target.device.close()
    restore(target, [saved(source)])
    assert target.device.state is State.STANDBY
    target.device.start()
    target.device.open(target.host)
    assert target.device.state is State.CP_PENDING
    target.device.irq_changed(CcwIrq.IO)
    assert target.take_irq()
    assert target.sense()[0] == 0x80


def test_a_device_that_is_gone_takes_no_state() -> None:
    target = Rig(RamStore(SIZE))
    target.device.not_operational()
    assert errno_of(lambda: restore(target, [closed(header())])) == EINVAL


def test_read_only_disks_may_hold_a_copy() -> None:
    stream = saved(Rig(disk()))
    target = Rig(RamStore(SIZE, readonly=True))
    assert errno_of(lambda: restore(target, [stream])) == EROFS
    target.store.data[:] = disk().data
    restore(target, [stream])
    assert target.store.flushes == 0


def test_disks_that_fail() -> None:
    source, target = Rig(disk()), Rig(RamStore(SIZE))
    stream = saved(source)
    target.store.failing = {"write"}
    assert errno_of(lambda: restore(target, [stream])) == EIO
    target.store.failing = {"flush"}
    assert errno_of(lambda: restore(target, [stream])) == EIO
    target.store.failing.clear()
    restore(target, [stream])
    assert target.store.data == source.store.data
    source.store.failing = {"read"}
    assert errno_of(lambda: saved(source)) == EIO


@pytest.mark.parametrize(
    ("stream", "errno"),
    [
        pytest.param(b"", EINVAL, id="nothing"),
        pytest.param(header()[:-1], EINVAL, id="half a header"),
        pytest.param(header(SIZE + 512), EFAULT, id="other size"),
        pytest.param(header(block_size=1024), EFAULT, id="other blocks"),
        pytest.param(header(version=2), EFAULT, id="other version"),
        pytest.param(header(magic=b"PVXX"), EFAULT, id="other magic"),
        pytest.param(record(1, b""), EFAULT, id="empty header"),
        pytest.param(record(2, bytes(9)), EFAULT, id="no header"),
        pytest.param(record(0, b""), EFAULT, id="type 0"),
        pytest.param(header() + header(), EINVAL, id="two headers"),
        pytest.param(header() + record(9, b""), EINVAL, id="unknown record"),
        pytest.param(header() + struct.pack(">II", 2, PIECE + 9), ENOMEM, id="long data"),
        pytest.param(struct.pack(">II", 1, 0xFFFFFFFF), ENOMEM, id="long header"),
        pytest.param(header() + record(2, bytes(7)), EINVAL, id="data without offset"),
        pytest.param(header() + record(3, bytes(15)), EINVAL, id="zeros without length"),
        pytest.param(header() + record(2, struct.pack(">Q", SIZE) + b"x"), EINVAL, id="data behind the end"),
        pytest.param(header() + record(3, struct.pack(">QQ", 1, SIZE)), EINVAL, id="zeros behind the end"),
        pytest.param(header() + record(3, struct.pack(">QQ", 1 << 63, 1 << 63)), EINVAL, id="zeros everywhere"),
        pytest.param(header() + record(4, state()[:-1]), EINVAL, id="short state"),
        pytest.param(header() + record(4, state()), EINVAL, id="no end"),
        pytest.param(header() + record(4, state()) + record(2, bytes(9)), EINVAL, id="data behind the state"),
        pytest.param(header() + record(4, state()) + record(5, bytes(4)), EINVAL, id="wrong sum"),
        pytest.param(header() + record(5, bytes(4)), EINVAL, id="end without state"),
        pytest.param(closed(header()) + b"x", EINVAL, id="a byte too many"),
        pytest.param(closed(header()) + record(2, bytes(9)), EFAULT, id="more behind the end"),
    ],
)
def test_bad_streams(stream: bytes, errno: int) -> None:
    target = Rig(RamStore(SIZE), CcwConfig(devno=7))
    assert errno_of(lambda: restore(target, [stream])) == errno
    assert errno_of(lambda: restore(target, (stream[at : at + 1] for at in range(len(stream))))) == errno
    assert target.device.attributes()["devno"] == "0007"
    restore(target, [closed(header())])
    assert target.device.attributes()["devno"] == "0001"


def test_the_end_without_a_beginning() -> None:
    migration = Rig(RamStore(SIZE)).device.migration
    assert migration is not None
    assert errno_of(lambda: migration.restore(bytes(3) + b"\1" + bytes(4))) == EFAULT
    assert errno_of(migration.restore_end) == EINVAL


def test_no_data_is_fine() -> None:
    target = Rig(RamStore(SIZE))
    restore(target, [closed(header(), record(2, struct.pack(">Q", SIZE)), record(3, bytes(16)))])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(3, 2, id="online"),
        pytest.param(5, 2, id="concurrent sense"),
        pytest.param(6 + 124 + 8 + 32, 1, id="suspended without activity"),
        pytest.param(6 + 124 + 8 + 32, 2, id="suspended"),
        pytest.param(6 + 124 + 8 + 32 + 13, 3, id="owed"),
        pytest.param(6 + 124 + 8 + 32 + 13 + 97, 1, id="report that is not there"),
    ],
)
def test_bad_states(at: int, value: int) -> None:
    data = bytearray(state())
    data[at] = value
    assert errno_of(lambda: decode_snapshot(bytes(data))) == EINVAL


def test_too_many_reports() -> None:
    reports = (Crw(4, 6, 1),) * 17
    snapshot = Snapshot(1, 2, True, 0x80, True, bytes(IO_BYTES), bytes(8), bytes(32), reports=reports)
    assert errno_of(lambda: decode_snapshot(snapshot.encode())) == EINVAL
    good = Snapshot(1, 2, False, 0, False, bytes(IO_BYTES), bytes(8), bytes(32), reports=reports[:16])
    assert decode_snapshot(good.encode()) == good


@given(st.integers(0, 1 << 32), st.integers(1, 3 * PIECE))
@settings(max_examples=15, deadline=None)
def test_writes_at_any_time_arrive(seed: int, limit: int) -> None:
    chance = random.Random(seed)
    source, target = Rig(disk(), CcwConfig(durable=False)), Rig(RamStore(SIZE))
    migration = source.device.migration
    assert migration is not None
    migration.save_begin()
    stream = []
    for _ in range(chance.randrange(2, 12)):
        stream.append(migration.precopy(max(limit, 20_000)))
        block = chance.randrange(SIZE // 512)
        assert source.move(0x41, block, bytes([chance.randrange(256)]) * 512).scsw.dstat == 0x0C
    source.device.stop()
    stream += list(iter(lambda: migration.save(max(limit, 20_000)), b""))
    restore(target, stream)
    assert target.store.data == source.store.data


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_noticed(mask: int) -> None:
    stream = saved(Rig(RamStore(1024)))
    for at in range(len(stream)):
        bad = bytearray(stream)
        bad[at] ^= mask
        target = Rig(RamStore(1024), CcwConfig(devno=7))
        with pytest.raises(MdevError):
            restore(target, [bytes(bad)])
        assert target.device.attributes()["devno"] == "0007"
