"""The FBA disk: its commands, extents and refusals, through whole programs."""

from __future__ import annotations

import pytest
from ccw_rig import CC, CD, IOVA, NOP, SLI, RamStore, Rig, extent, locate

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_layout import Ccw

READ, WRITE = 0x42, 0x41
END, UNIT_CHECK = 0x0C, 0x0E
BLOCKS = 64
REJECT, PROTECTED, NO_RECORD = b"\x80\0", b"\x80\x04", b"\x80\x08"


def rig(*, readonly: bool = False, block_size: int = 512, durable: bool = True, concurrent: bool = True) -> Rig:
    store = RamStore(BLOCKS * 512, readonly=readonly)
    store.data[:] = b"".join(bytes([block]) * 512 for block in range(BLOCKS))
    return Rig(store, CcwConfig(block_size=block_size, durable=durable, concurrent_sense=concurrent))


def test_sense_id_c14() -> None:
    world = rig()
    irb = world.run(Ccw(0xE4, SLI, 256, world.DATA))
    assert (irb.scsw.dstat, irb.scsw.count) == (END, 249)
    assert world.get(world.DATA, 8) == bytes.fromhex("ff631001933610") + b"\0"


def test_characteristics() -> None:
    world = rig()
    assert world.run(Ccw(0x64, 0, 32, world.DATA)).scsw.dstat == END
    assert world.get(world.DATA, 32).hex() == "20002111" + "0200" + "00000040" + "00000100" + "00000040" + "00" * 14


def test_nop() -> None:
    assert rig().run(Ccw(NOP)).scsw.dstat == END


def test_reading_and_writing_blocks() -> None:
    world = rig()
    irb = world.move(READ, 3, 1024)
    assert (irb.scsw.dstat, irb.scsw.cstat, irb.scsw.count, irb.scsw.address) == (END, 0, 0, IOVA + 24)
    assert world.get(world.DATA, 1024) == b"\3" * 512 + b"\4" * 512
    assert world.store.flushes == 0
    data = bytes(range(256)) * 4
    assert world.move(WRITE, 62, data).scsw.dstat == END
    assert world.store.data[62 * 512 :] == data
    assert world.store.data[: 62 * 512] == rig().store.data[: 62 * 512]
    assert world.store.flushes == 1


def test_writes_need_not_be_flushed() -> None:
    world = rig(durable=False)
    assert world.move(WRITE, 0, bytes(512)).scsw.dstat == END
    assert world.store.flushes == 0


def test_golden_program_c8_c9() -> None:
    store = RamStore(200 * 512)
    store.data[100 * 512 : 101 * 512] = b"\xa5" * 512
    world = Rig(store)
    world.put(IOVA + 0x10000, bytes.fromhex("40000200 00000064 00000000 00000000 06000001 00000000"))
    world.put(IOVA, bytes.fromhex("63400010 00020000 43400008 00020010 42000200 00021000"))
    world.write(0, 0, bytes.fromhex("1122334400c2800000010000 00004000").ljust(124, b"\0"))
    world.host.settle()
    assert world.irb().scsw.encode().hex() == "00c04007" + "00010018" + "0c000000"
    assert world.get(IOVA + 0x11000, 512) == b"\xa5" * 512


def test_extents_have_numbers_of_their_own() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(10, 13, location=40))
    world.put(world.PARAMETERS + 16, locate(6, 2, 12))
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16), Ccw(READ, 0, 1024, world.DATA)
    )
    assert irb.scsw.dstat == END
    assert world.get(world.DATA, 1024) == bytes([42]) * 512 + bytes([43]) * 512


def test_data_chained_in_odd_pieces() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(5, 3, 5))
    for index, size in enumerate((100, 1000, 436)):
        world.put(world.DATA + index * 0x1000, bytes([0xA0 + index]) * size)
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16),
        Ccw(WRITE, CD, 100, world.DATA), Ccw(0, CD, 1000, world.DATA + 0x1000), Ccw(0, 0, 436, world.DATA + 0x2000),
    )  # fmt: skip
    assert (irb.scsw.dstat, irb.scsw.cstat) == (END, 0)
    assert world.store.data[5 * 512 : 8 * 512] == b"\xa0" * 100 + b"\xa1" * 1000 + b"\xa2" * 436
    assert world.store.data[8 * 512] == 8


def test_short_writes_fill_their_last_block() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(5, 3, 5))
    world.put(world.DATA, b"\xff" * 600)
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16), Ccw(WRITE, SLI, 600, world.DATA)
    )
    assert (irb.scsw.dstat, irb.scsw.cstat) == (END, 0)
    assert world.store.data[5 * 512 : 7 * 512] == b"\xff" * 600 + bytes(424)
    assert world.store.data[7 * 512] == 7


def test_short_and_long_reads() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(6, 1, 5))
    head = (Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16))
    assert world.run(*head, Ccw(READ, 0, 100, world.DATA)).scsw.cstat == 0x40
    irb = world.run(*head, Ccw(READ, SLI, 1000, world.DATA))
    assert (irb.scsw.cstat, irb.scsw.count) == (0, 488)


def test_one_locate_serves_one_read() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(6, 1, 5))
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16),
        Ccw(READ, CC, 512, world.DATA), Ccw(READ, 0, 512, world.DATA),
    )  # fmt: skip
    assert (irb.scsw.dstat, irb.scsw.address, irb.sense) == (UNIT_CHECK, IOVA + 32, REJECT + bytes(30))


def test_an_extent_serves_several_locates() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(6, 1, 5) + locate(6, 1, 9))
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16), Ccw(READ, CC, 512, world.DATA),
        Ccw(0x43, CC, 8, world.PARAMETERS + 24), Ccw(READ, 0, 512, world.DATA + 512),
    )  # fmt: skip
    assert irb.scsw.dstat == END
    assert world.get(world.DATA, 1024) == b"\5" * 512 + b"\x09" * 512


def test_locate_that_prepares_nothing() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63, mask=0x80) + locate(8, 1, 5))
    head = (Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16))
    assert world.run(*head, Ccw(NOP)).scsw.dstat == END
    assert world.run(*head, Ccw(READ, 0, 512, world.DATA)).sense == REJECT + bytes(30)


def test_state_is_forgotten_between_programs() -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(6, 1, 5))
    assert world.run(Ccw(0x63, 0, 16, world.PARAMETERS)).scsw.dstat == END
    assert world.run(Ccw(0x43, 0, 8, world.PARAMETERS + 16)).sense == REJECT + bytes(30)


@pytest.mark.parametrize(
    ("where", "what", "code", "sense"),
    [
        pytest.param(extent(0, 63, size=1024), locate(6, 1, 0), READ, REJECT, id="other block size"),
        pytest.param(extent(0, 63, size=0), locate(6, 1, 0), READ, REJECT, id="no block size"),
        pytest.param(extent(5, 4), locate(6, 1, 5), READ, REJECT, id="extent backward"),
        pytest.param(extent(0, 64), locate(6, 1, 0), READ, NO_RECORD, id="extent larger than the disk"),
        pytest.param(extent(0, 1, location=63), locate(6, 1, 0), READ, NO_RECORD, id="extent over the end"),
        pytest.param(
            extent(0, 0xFFFFFFFF, location=0xFFFFFFFF), locate(6, 1, 0), READ, NO_RECORD, id="extent beyond everything"
        ),
        pytest.param(extent(0, 63), locate(6, 0, 0), READ, REJECT, id="no blocks"),
        pytest.param(extent(0, 63), locate(7, 1, 0), READ, REJECT, id="no such operation"),
        pytest.param(extent(0, 63), locate(5, 1, 0), READ, REJECT, id="read after locate for writing"),
        pytest.param(extent(0, 63), locate(6, 1, 0), WRITE, REJECT, id="write after locate for reading"),
        pytest.param(extent(0, 63), locate(6, 2, 63), READ, PROTECTED, id="beyond the extent"),
        pytest.param(extent(2, 60), locate(6, 1, 1), READ, PROTECTED, id="before the extent"),
        pytest.param(extent(0, 63), locate(6, 1, 0xFFFFFFFF), READ, PROTECTED, id="far beyond the extent"),
        pytest.param(extent(0, 63, mask=0x40), locate(5, 1, 0), WRITE, PROTECTED, id="extent to read"),
        pytest.param(extent(0, 63, mask=0x80), locate(6, 1, 0), READ, PROTECTED, id="extent for nothing"),
        pytest.param(extent(0, 63, mask=0xC0), locate(6, 1, 0), READ, PROTECTED, id="extent for nothing, 3"),
        pytest.param(extent(0, 63, mask=0x80), locate(5, 1, 0), WRITE, PROTECTED, id="extent for nothing, write"),
    ],
)  # fmt: skip
def test_refusals(where: bytes, what: bytes, code: int, sense: bytes) -> None:
    world = rig()
    before = bytes(world.store.data)
    world.put(world.PARAMETERS, where + what)
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16), Ccw(code, 0, 512, world.DATA)
    )
    assert (irb.scsw.dstat, irb.scsw.stctl) == (UNIT_CHECK, 0x17)
    assert irb.sense == sense + bytes(30)
    assert world.store.data == before


@pytest.mark.parametrize(("extent_bytes", "locate_bytes"), [(15, 8), (16, 7), (0, 8), (16, 0)])
def test_short_parameters(extent_bytes: int, locate_bytes: int) -> None:
    world = rig()
    world.put(world.PARAMETERS, extent(0, 63) + locate(6, 1, 0))
    irb = world.run(
        Ccw(0x63, CC | SLI, extent_bytes, world.PARAMETERS), Ccw(0x43, CC | SLI, locate_bytes, world.PARAMETERS + 16)
    )
    assert irb.sense == REJECT + bytes(30)


@pytest.mark.parametrize("code", [0x02, 0x05, 0x06, 0x0C, 0x14, 0x34, 0x47, 0x94, 0xAF, 0xE7, 0xF3, 0xFF])
def test_unknown_commands(code: int) -> None:
    world = rig()
    irb = world.run(Ccw(code, SLI, 8, world.DATA + 100))
    assert (irb.scsw.dstat, irb.scsw.stctl, irb.sense) == (UNIT_CHECK, 0x17, REJECT + bytes(30))


def test_read_only_disks() -> None:
    world = rig(readonly=True)
    assert world.move(WRITE, 0, bytes(512)).sense == PROTECTED + bytes(30)
    assert world.move(READ, 0, 512).scsw.dstat == END


def test_stores_that_fail() -> None:
    world = rig()
    world.store.failing = {"read", "write"}
    assert world.move(READ, 0, 512).sense == b"\x08\x80" + bytes(30)
    assert world.move(WRITE, 0, bytes(512)).sense == b"\x10\x80" + bytes(30)
    world.store.failing = {"flush"}
    assert world.move(WRITE, 0, bytes(512)).sense == b"\x10\x80" + bytes(30)
    world.store.failing.clear()
    flushes = world.store.flushes
    assert world.move(WRITE, 0, bytes(512)).scsw.dstat == END
    assert world.store.flushes == flushes + 1


def test_without_concurrent_sense_it_is_asked_for() -> None:
    world = rig(concurrent=False)
    irb = world.run(Ccw(0x14, 0, 8, world.DATA))
    assert (irb.scsw.dstat, irb.sense) == (UNIT_CHECK, None)
    assert irb.scsw.encode()[:4].hex() == "00c04017"
    assert world.sense() == REJECT + bytes(30)
    assert world.sense() == bytes(32)


def test_concurrent_sense_clears_what_is_asked_for() -> None:
    world = rig()
    assert world.run(Ccw(0x14, 0, 8, world.DATA)).sense == REJECT + bytes(30)
    assert world.sense() == bytes(32)


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
def test_larger_blocks(block_size: int) -> None:
    world = rig(block_size=block_size)
    world.put(world.PARAMETERS, extent(0, 3, size=block_size) + locate(6, 1, 1))
    irb = world.run(
        Ccw(0x63, CC, 16, world.PARAMETERS), Ccw(0x43, CC, 8, world.PARAMETERS + 16),
        Ccw(READ, 0, block_size, world.DATA),
    )  # fmt: skip
    assert irb.scsw.dstat == END
    assert world.get(world.DATA, 512) == bytes([block_size // 512]) * 512
