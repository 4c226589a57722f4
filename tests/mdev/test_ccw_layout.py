"""Structures of channel I/O: golden vectors, fields, and that every bit pattern decodes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.ccw_fba import EXTENT, LOCATE, SENSE_ID, Extent
from pvnet.mdev.ccw_layout import (
    Ccw,
    Crw,
    Irb,
    Orb,
    Pmcw,
    Scsw,
    decode_ccw,
    decode_ccws,
    decode_crw,
    decode_irb,
    decode_orb,
    decode_pmcw,
    decode_schib,
    decode_scsw,
    encode_schib,
    make_irb,
)
from pvnet.mdev.ccw_names import (
    Activity,
    ChannelStatus,
    CommandClass,
    DeviceStatus,
    Function,
    OrbFlag,
    Recovery,
    Resource,
    ScswFlag,
    command_class,
)
from pvnet.mdev.ccw_status import CLEARED, HALTED_IDLE, NOT_OPERATIONAL

FP = ScswFlag.FORMAT_1 | ScswFlag.PREFETCH


@pytest.mark.parametrize(
    ("orb", "golden"),
    [
        pytest.param(
            Orb(0x10000, OrbFlag.FORMAT_1 | OrbFlag.PREFETCH | OrbFlag.IDAW_64, 0x80, 0x11223344),
            "11223344 00 c2 80 00 00010000",
            id="C1",
        ),
        pytest.param(Orb(0x2000, OrbFlag.PREFETCH), "00000000 00 40 80 00 00002000", id="C2"),
        pytest.param(
            Orb(0x2000, OrbFlag.FORMAT_1 | OrbFlag.PREFETCH | OrbFlag.TRANSPORT | OrbFlag.IDAW_64),
            "00000000 00 c6 80 00 00002000",
            id="C2 transport mode",
        ),
        pytest.param(
            Orb(8, OrbFlag.SUSPEND | OrbFlag.LENGTH | OrbFlag.EXTENSION, 0x01, key=9),
            "00000000 98 00 01 81 00000008",
            id="key, S, L, X",
        ),
    ],
)
def test_orb(orb: Orb, golden: str) -> None:
    assert orb.encode() == bytes.fromhex(golden)
    assert decode_orb(bytes.fromhex(golden)) == orb


@pytest.mark.parametrize(
    ("scsw", "golden"),
    [
        pytest.param(Scsw(fctl=Function.START), "00004000 00000000 00 00 0000", id="C3 start"),
        pytest.param(
            Scsw(fctl=Function.START, actl=Activity.START_PENDING), "00004400 00000000 00 00 0000", id="C3 pending"
        ),
        pytest.param(Scsw(FP, 4, 0, 7, 0x10008, 0x0C), "00c04007 00010008 0c 00 0000", id="C4"),
        pytest.param(
            Scsw(FP | ScswFlag.EXTENDED_FORMAT | ScswFlag.EXTENDED_CONTROL, 4, 0, 0x17, 0x10008, 0x0E),
            "04c24017 00010008 0e 00 0000",
            id="C5 unit check",
        ),
        pytest.param(Scsw(FP, 4, 0, 0x17, 0x10008, 0, 0x20), "00c04017 00010008 00 20 0000", id="C5 program check"),
        pytest.param(HALTED_IDLE.scsw, "00002001 00000000 0000 0000", id="C6 halted"),
        pytest.param(CLEARED.scsw, "00001001 00000000 0000 0000", id="C6 cleared"),
        pytest.param(NOT_OPERATIONAL.scsw, "03004011 00000000 0000 0000", id="C6 deferred cc 3"),
    ],
)
def test_scsw(scsw: Scsw, golden: str) -> None:
    assert scsw.encode() == bytes.fromhex(golden)
    assert decode_scsw(bytes.fromhex(golden)) == scsw


@pytest.mark.parametrize(
    ("ccws", "golden"),
    [
        pytest.param([Ccw(0x03)], "03 00 0000 00000000", id="C7 nop"),
        pytest.param([Ccw(0xE4, 0x20, 256, 0x20000)], "e4 20 0100 00020000", id="C7 sense id"),
        pytest.param(
            [Ccw(0x63, 0x40, 16, 0x20000), Ccw(0x43, 0x40, 8, 0x20010), Ccw(0x42, 0, 512, 0x21000)],
            "63400010 00020000 43400008 00020010 42000200 00021000",
            id="C8",
        ),
        pytest.param(
            [Ccw(0x31, 0x40, 5, 0x20000), Ccw(0x08, 0, 0, 0x10000), Ccw(0x06, 0, 0x1000, 0x30000)],
            "31400005 00020000 08000000 00010000 06001000 00030000",
            id="C12",
        ),
        pytest.param([Ccw(0x42, 0x04, 0x2000, 0x40000)], "42042000 00040000", id="C13"),
    ],
)
def test_format_1(ccws: list[Ccw], golden: str) -> None:
    data = bytes.fromhex(golden)
    assert b"".join(ccw.encode() for ccw in ccws) == data
    assert decode_ccws(data, format_1=True) == ccws
    assert decode_ccw(data[:8]) == ccws[0]


def test_format_0_c10_c11() -> None:
    sense_id = bytes.fromhex("e4 020000 20 00 0100")
    assert Ccw(0xE4, 0x20, 0x100, 0x20000).encode0() == sense_id
    assert decode_ccws(sense_id, format_1=False) == [Ccw(0xE4, 0x20, 0x100, 0x20000)]
    tics = bytes.fromhex("08 002010 00 00 0000 58 002010 40 00 0005")
    converted = decode_ccws(tics, format_1=False)
    assert [ccw.encode() for ccw in converted] == [bytes.fromhex("08000000 00002010")] * 2


def test_fba_parameters_c9_and_sense_id_c14() -> None:
    define = bytes.fromhex("40 00 0200 00000064 00000000 00000000")
    assert Extent(*EXTENT.unpack(define)) == Extent(0x40, 512, 100, 0, 0)
    assert EXTENT.pack(0x40, 512, 100, 0, 0) == define
    assert LOCATE.unpack(bytes.fromhex("06 00 0001 00000000")) == (6, 0, 1, 0)
    assert bytes.fromhex("ff 6310 01 9336 10") == SENSE_ID


def test_crw_c15() -> None:
    gone = Crw(Resource.CHANNEL_PATH, Recovery.PERMANENT_ERROR, 0x17)
    back = Crw(Resource.CHANNEL_PATH, Recovery.INITIALIZED, 0x17)
    assert (gone.encode().hex(), back.encode().hex()) == ("04060017", "04020017")
    assert decode_crw(gone.encode()) == gone
    lost = Crw(Resource.SUBCHANNEL, Recovery.EVENT, 0xFFFF, overflow=True)
    assert lost.encode().hex() == "2300ffff"
    assert decode_crw(lost.encode()) == lost


def test_irb_has_an_esw_that_fits() -> None:
    normal = make_irb(Scsw(FP, 4, 0, 7, 0x10008, 0x0C)).encode()
    assert len(normal) == 96
    assert normal[12:32] == bytes.fromhex("00800000") + bytes(16)
    check = make_irb(Scsw(FP, 4, 0, 0x17, cstat=ChannelStatus.DATA_CHECK))
    assert check.scsw.flags == FP | ScswFlag.EXTENDED_FORMAT
    assert check.encode()[12:16] == bytes.fromhex("04804000")
    assert check.sense is None


def test_irb_of_concurrent_sense() -> None:
    sense = bytes(range(32))
    irb = make_irb(Scsw(FP, 4, 0, 0x17, 0x10008, 0x0E), sense)
    data = irb.encode()
    assert data[:12] == bytes.fromhex("04c24017 00010008 0e 00 0000")
    assert data[12:20] == bytes.fromhex("00800000 01002000")
    assert data[32:64] == sense
    assert not any(data[64:])
    assert decode_irb(data) == irb
    assert irb.sense == sense
    assert decode_irb(bytes(96)).sense is None


def test_schib() -> None:
    pmcw = Pmcw(0x1234, True, 0x80, 0x80, 0x80, 0xFF, 0x80, b"\x17" + bytes(7), True)
    data = encode_schib(pmcw, Scsw(fctl=4))
    assert data.hex(" ", 4) == (
        "00000000 00811234 80008080 0000ff80 17000000 00000000 00000001 00004000 00000000 00000000 00000000 00000000"
        " 00000000"
    )
    assert decode_schib(data) == (pmcw, Scsw(fctl=4))
    bare = Pmcw(1)
    assert decode_pmcw(bare.encode()) == bare


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x00, CommandClass.INVALID), (0x40, CommandClass.INVALID), (0x01, CommandClass.WRITE),
        (0x41, CommandClass.WRITE), (0x42, CommandClass.READ), (0x06, CommandClass.READ), (0x03, CommandClass.CONTROL),
        (0x63, CommandClass.CONTROL), (0x04, CommandClass.SENSE), (0xE4, CommandClass.SENSE),
        (0x08, CommandClass.TIC), (0x58, CommandClass.TIC), (0x0C, CommandClass.READ_BACKWARD),
        (0x4B, CommandClass.CONTROL), (0x5E, CommandClass.READ),
    ],
)  # fmt: skip
def test_command_class(code: int, expected: CommandClass) -> None:
    assert command_class(code) is expected


@given(st.binary(min_size=96, max_size=96))
@settings(max_examples=50, deadline=None)
def test_everything_decodes_and_fields_survive(data: bytes) -> None:
    irb = decode_irb(data)
    assert decode_irb(irb.encode()) == irb
    assert irb.encode()[:64] == data[:64]
    orb = decode_orb(data[:12])
    assert decode_orb(orb.encode()) == orb
    assert decode_orb(orb.encode()).encode() == data[:12]
    for ccw in decode_ccws(data, format_1=True):
        assert decode_ccw(ccw.encode()) == ccw
    for ccw in decode_ccws(data, format_1=False):
        assert decode_ccws(ccw.encode0(), format_1=False) == [ccw]
    pmcw, scsw = decode_schib(data[:52])
    assert decode_schib(encode_schib(pmcw, scsw)) == (pmcw, scsw)
    assert irb.sense is None or len(irb.sense) <= 63


def test_statuses_are_final_unless_something_is_active() -> None:
    assert Scsw(actl=Activity.SUSPENDED).is_final
    assert not Scsw(actl=Activity.SUBCHANNEL_ACTIVE).is_final
    assert not Scsw(actl=Activity.DEVICE_ACTIVE).is_final
    assert DeviceStatus.CHANNEL_END | DeviceStatus.DEVICE_END == 0x0C
    assert Irb(Scsw()).encode() == make_irb(Scsw()).encode()
