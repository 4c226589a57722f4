"""Structures of the VFIO device API: golden bytes, both directions, rubbish."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfio_rig import errno_of

from pvnet.mdev import vfio_layout as layout
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
BAR1 = RegionInfo(0x3000, 7, 0, ((0, 0x1000), (0x2000, 0x1000)))


def words(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_device_info_has_as_many_bytes_as_there_is_room_for() -> None:
    info = DeviceInfo(3, 9, 5)
    v4 = words("10000000 03000000 09000000 05000000")
    assert layout.encode_device_info(info, 16) == layout.encode_device_info(info, 19) == v4
    longer = words("14000000 03000000 09000000 05000000 00000000")
    assert layout.encode_device_info(info, 20) == layout.encode_device_info(info, 4096) == longer
    assert layout.decode_device_info(v4) == layout.decode_device_info(longer) == info
    for argsz in (0, 15):
        assert errno_of(lambda argsz=argsz: layout.encode_device_info(info, argsz)) == 22


def test_region_info_that_does_not_fit() -> None:
    v5 = words("50000000 07000000 01000000 00000000 0030000000000000 0000000000000000")
    for argsz in (32, 79):
        assert layout.encode_region_info(1, BAR1, argsz) == layout.RegionBytes(v5, 80, False)
    kernel = words("50000000 0f000000 01000000 00000000 0030000000000000 0000000000000000")
    assert layout.encode_region_info(1, BAR1, 32, caps_announced=True) == (kernel, 80, False)
    for data in (v5, kernel):
        assert layout.decode_region_info(data) == (80, 1, RegionInfo(0x3000, 7))
    assert errno_of(lambda: layout.encode_region_info(1, BAR1, 31)) == 22


def test_region_info_with_capabilities() -> None:
    v6 = words(
        "50000000 0f000000 01000000 20000000 0030000000000000 0000000000000000 0100 0100 00000000 02000000 00000000"
        "0000000000000000 0010000000000000 0020000000000000 0010000000000000"
    )
    assert layout.encode_region_info(1, BAR1, 80) == layout.encode_region_info(1, BAR1, 4096) == (v6, 80, True)
    assert layout.region_info_size(BAR1) == 80
    assert layout.decode_region_info(v6) == (80, 1, BAR1)
    assert layout.decode_region_info(v6 + bytes(100)) == (80, 1, BAR1)


def test_region_info_without_and_with_two_capabilities() -> None:
    plain = RegionInfo(8, 3)
    assert layout.encode_region_info(0, plain, 32) == (
        words("20000000 03000000 00000000 00000000 0800000000000000 0000000000000000"),
        32,
        True,
    )
    both = RegionInfo(4096, 7, 1 << 40, ((0, 16),), (0x80001234, 7))
    data, size, complete = layout.encode_region_info(9, both, 256)
    assert (len(data), size, complete) == (80, 80, True)
    assert data[32:40] == words("0100 0100 40000000")
    assert data[64:] == words("0200 0100 00000000 34120080 07000000")
    assert layout.decode_region_info(data) == (80, 9, both)
    assert errno_of(lambda: layout.decode_region_info(data[:79])) == 22


def region(flags: int, cap: int, chain: str, size: int = 0x3000) -> bytes:
    return layout.REGION_INFO.pack(80, flags, 1, cap, size, 0) + words(chain)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(31),
        region(15, 31, "0100 0100 00000000 00000000 00000000"),  # inside of the head
        region(15, 32, ""),
        region(15, 32, "0100 0100"),
        region(15, 0xFFFFFFFF, "0100 0100 00000000 00000000 00000000"),
        region(15, 32, "0900 0100 20000000"),  # itself again
        region(15, 32, "0900 0100 28000000 0900 0100 20000000"),  # a loop of two
        region(15, 32, "0900 0100 24000000 0900 0100"),  # overlapping
        region(15, 32, "0100 0100 00000000 ffffffff 00000000"),
        region(15, 32, "0100 0100 00000000 01000000 00000000 0000000000000000"),
        region(15, 32, "0100 0100 00000000 01000000 00000000 0000000000000000 0130000000000000"),
        region(15, 32, "0100 0100 00000000 01000000 00000000 ffffffffffffffff 0100000000000000"),
        region(15, 32, "0200 0100 00000000 01000000"),
        region(15, 32, "".join(f"0900 0100 {(40 + 8 * n).to_bytes(4, 'little').hex()}" for n in range(65))),
    ],
)
def test_region_infos_that_are_none(data: bytes) -> None:
    assert errno_of(lambda: layout.decode_region_info(data)) == 22


def test_unknown_capabilities_are_skipped() -> None:
    chain = "0900 0100 28000000 0100 0900 30000000 0200 0100 00000000 02000000 03000000"
    assert layout.decode_region_info(region(15, 32, chain))[2] == RegionInfo(0x3000, 7, type=(2, 3))
    assert layout.decode_region_info(region(7, 32, chain))[2] == RegionInfo(0x3000, 7)


def test_irq_info() -> None:
    v11 = words("10000000 01000000 00000000 01000000")
    assert layout.encode_irq_info(0, IrqInfo(1, 1)) == v11
    assert layout.decode_irq_info(v11) == (0, IrqInfo(1, 1))
    assert errno_of(lambda: layout.encode_irq_info(0, IrqInfo(), 15)) == 22
    assert errno_of(lambda: layout.decode_irq_info(v11[:15])) == 22


def test_irq_set() -> None:
    v12 = words("14000000 24000000 00000000 00000000 01000000")
    assert layout.decode_irq_set(v12) == layout.IrqSetHead(0x24, 0, 0, 1)
    assert layout.encode_irq_set(layout.IrqSetHead(0x24, 0, 0, 1)) == v12
    v13 = "14000000 09000000 00000000 00000000 01000000"
    assert layout.decode_irq_set(words(v13)) == layout.IrqSetHead(9, 0, 0, 1)
    bools = words("16000000 22000000 01000000 02000000 02000000 0001")
    assert layout.decode_irq_set(bools + b"rest") == layout.IrqSetHead(0x22, 1, 2, 2, b"\0\1")
    assert layout.encode_irq_set(layout.IrqSetHead(0x22, 1, 2, 2, b"\0\1")) == bools


@pytest.mark.parametrize(
    "text",
    [
        "",
        "14000000 24000000 00000000 00000000 010000",
        "13000000 24000000 00000000 00000000 01000000",
        "15000000 24000000 00000000 00000000 01000000",
        "14000000 22000000 00000000 00000000 01000000",
        "15000000 22000000 00000000 00000000 02000000 01",
        "14000000 22000000 00000000 00000000 01000000 01",
    ],
)
def test_irq_sets_that_are_none(text: str) -> None:
    assert errno_of(lambda: layout.decode_irq_set(words(text))) == 22


def test_features() -> None:
    v17 = words("18000000 06000200 0010000000000000 00000000 00000000")
    argsz, flags, data = layout.decode_feature(v17)
    assert (argsz, flags) == (24, 0x20006)
    assert layout.decode_logging_start(data) == (4096, ())
    assert layout.encode_feature(0x20006, layout.encode_logging_start(4096)) == v17
    v18 = words("28000000 08000100 0010000000000000 0010000000000000 0010000000000000")
    argsz, flags, data = layout.decode_feature(v18)
    assert (argsz, flags, layout.decode_logging_report(data)) == (40, 0x10008, (4096, 4096, 4096))
    assert layout.encode_feature(0x10008, layout.encode_logging_report(4096, 4096, 4096), 40) == v18
    v20 = words("10000000 02000200 06000000 ffffffff")
    assert layout.decode_feature(v20) == (16, 0x20002, v20[8:])
    assert layout.decode_device_state(v20[8:]) == 6
    assert layout.encode_feature(0x20002, layout.encode_device_state(6)) == v20
    v24 = words("10000000 01000100 0500000000000000")
    assert layout.encode_feature(0x10001, layout.encode_migration_flags(5)) == v24
    assert layout.decode_migration_flags(v24[8:]) == 5
    assert layout.decode_feature(words("08000000 01000100 05000000")) == (8, 0x10001, b"")
    assert layout.decode_data_size(layout.encode_data_size(1 << 70)) == (1 << 64) - 1
    assert layout.decode_data_size(layout.encode_data_size(-1)) == 0


def test_ranges_of_logging() -> None:
    data = layout.encode_logging_start(4096, ((0, 4096), (1 << 40, 1 << 20)))
    assert layout.decode_logging_start(data) == (4096, ((0, 4096), (1 << 40, 1 << 20)))
    assert errno_of(lambda: layout.decode_logging_start(data[:-1])) == 22
    assert errno_of(lambda: layout.decode_logging_start(data[:8] + b"\xff" * 8)) == 22


@pytest.mark.parametrize(
    ("decode", "least"),
    [
        (layout.decode_device_info, 16),
        (layout.decode_irq_info, 16),
        (layout.decode_feature, 8),
        (layout.decode_migration_flags, 8),
        (layout.decode_device_state, 8),
        (layout.decode_logging_start, 16),
        (layout.decode_logging_report, 24),
        (layout.decode_data_size, 8),
    ],
)
def test_too_short(decode: Callable[[bytes], object], least: int) -> None:
    for size in range(least):
        assert errno_of(lambda size=size: decode(b"\x08" + bytes(max(0, size - 1)) if size else b"")) == 22
    assert errno_of(lambda: decode(b"\x08" + bytes(least - 1))) == 0


def test_feature_with_too_little_room() -> None:
    assert errno_of(lambda: layout.decode_feature(words("07000000 01000100"))) == 22


areas = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 20)), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(U32, st.integers(0, 7), U64, areas, st.none() | st.tuples(U32, U32), st.integers(32, 300), st.booleans())
def test_regions_come_back(
    index: int,
    flags: int,
    offset: int,
    sparse: tuple[tuple[int, int], ...],
    kind: tuple[int, int] | None,
    argsz: int,
    announced: bool,
) -> None:
    info = RegionInfo(1 << 21, flags, offset, sparse, kind)
    data, size, complete = layout.encode_region_info(index, info, argsz, caps_announced=announced)
    assert complete == (size <= argsz)
    assert len(data) == (size if complete else 32)
    expected = info if complete else RegionInfo(1 << 21, flags, offset)
    assert layout.decode_region_info(data) == (size, index, expected)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=120), st.integers(0, 100))
def test_rubbish_is_refused_or_decoded(data: bytes, cap: int) -> None:
    chained = layout.REGION_INFO.pack(0, 15, 0, cap, 1 << 63, 0) + data
    for decode in (
        layout.decode_region_info,
        layout.decode_irq_set,
        layout.decode_feature,
        layout.decode_logging_start,
    ):
        for given_ in (data, chained):
            assert errno_of(lambda decode=decode, given_=given_: decode(given_)) in {0, 22}
