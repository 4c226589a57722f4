"""Configuration space: what sticks, sizing, restore."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DeviceFlag
from pvnet.mdev.pci import Bar, ConfigSpace, odd_bars

SIZING = bytes.fromhex("ffffffff")
IMAGE = bytes.fromhex("48435332 01000002 10020007 00000000 aaaaaaaa bbbbbbbb cccccccc dddddddd eeeeeeee ffffffff")


def space() -> ConfigSpace:
    bars = {0: Bar(8, True), 1: Bar(0, True), 2: Bar(4096, False), 3: Bar(1 << 24, False, prefetchable=True)}
    return ConfigSpace(IMAGE, bars=bars, writable={0x44: 0x81})


def test_starts_as_its_image_with_its_own_bars() -> None:
    config = space()
    assert config.read(0, 16) == IMAGE[:16]
    assert config.read(0x10, 24) == bytes.fromhex("01000000 00000000 00000000 08000000 00000000 00000000")
    assert config.read(0x40, 192) == bytes(192)


@pytest.mark.parametrize(
    ("offset", "written", "reads"),
    [
        (0x10, "ffffffff", "f9ffffff"),  # 8 ports
        (0x14, "ffffffff", "00000000"),  # a BAR of size 0
        (0x18, "ffffffff", "00f0ffff"),
        (0x1C, "ffffffff", "080000ff"),  # prefetchable
        (0x20, "ffffffff", "00000000"),  # not there
        (0x10, "07c00000", "01c00000"),
        (0x30, "00f8ffff", "00000000"),  # V26: QEMU sizes the ROM
        (0x00, "ffffffff", "48435332"),  # B16: ids
        (0x04, "ffffffff", "47050002"),  # command, and a status that "write 1 to clear" does not touch
        (0x3C, "0aff0000", "0a000000"),  # interrupt line, not the pin
        (0x44, "ffffffff", "81000000"),  # what the device has added
        (0x34, "ffffffff", "00000000"),
    ],
)
def test_what_sticks(offset: int, written: str, reads: str) -> None:
    config = space()
    config.write(offset, bytes.fromhex(written))
    assert config.read(offset, 4) == bytes.fromhex(reads)


def test_sizing_and_placing() -> None:
    config = space()
    assert [config.bar(index) for index in range(6)] == [0] * 6
    config.write(0x18, SIZING)
    config.write(0x18, (0xFEB01000).to_bytes(4, "little"))
    config.write(0x10, (0xC008).to_bytes(4, "little"))
    assert (config.bar(0), config.bar(2)) == (0xC008, 0xFEB01000)


def test_accesses_of_any_shape() -> None:
    one, other = space(), space()
    data = bytes(range(1, 256)) + b"\xff"
    one.write(0, data)
    for offset, value in enumerate(data):
        other.write(offset, bytes([value]))
    assert one.snapshot() == other.snapshot() == one.read(0, 256)
    assert one.read(0x11, 5) == one.snapshot()[0x11:0x16]


def test_command_bits() -> None:
    config = space()
    shown = (config.io_enabled, config.memory_enabled, config.master_enabled, config.intx_enabled)
    assert shown == (True, False, False, True)
    config.write(4, b"\x06\x04")
    shown = (config.io_enabled, config.memory_enabled, config.master_enabled, config.intx_enabled)
    assert shown == (False, True, True, False)
    assert config.command == 0x0406


def test_the_device_changes_what_users_cannot() -> None:
    config = space()
    config.poke(6, b"\x18")
    assert config.read(6, 1) == b"\x18"
    for offset, data in ((-1, b"x"), (255, b"xx")):
        with pytest.raises(LocalError):
            config.poke(offset, data)
    config.reset()
    assert config.snapshot() == space().snapshot()


def test_restore_takes_only_what_a_user_can_write() -> None:
    config, other = space(), space()
    other.write(4, b"\x07\x04")
    other.write(0x10, SIZING)
    other.poke(0, b"\xde\xad")
    config.restore(other.snapshot())
    assert config.read(0, 8) == IMAGE[:4] + b"\x07\x04" + IMAGE[6:8]
    assert config.read(0x10, 4) == bytes.fromhex("f9ffffff")
    for size in (0, 255, 257):
        with pytest.raises(MdevError, match="EINVAL"):
            config.restore(bytes(size))


@pytest.mark.parametrize(
    "wrong",
    [
        (2, True, False),
        (8, False, False),
        (24, True, False),
        (1 << 32, False, False),
        (16, True, True),
        (-16, True, False),
    ],
)
def test_bars_that_cannot_be(wrong: tuple[int, bool, bool]) -> None:
    with pytest.raises(LocalError):
        Bar(*wrong)


def test_spaces_that_cannot_be() -> None:
    with pytest.raises(LocalError):
        ConfigSpace(bytes(257), bars={})
    for index in (-1, 6):
        with pytest.raises(LocalError):
            ConfigSpace(b"", bars={index: Bar(16, False)})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=16)), max_size=8))
def test_no_user_changes_a_read_only_bit(writes: list[tuple[int, bytes]]) -> None:
    config = space()
    fixed = bytes(mask ^ 0xFF for mask in masks())
    before = config.snapshot()
    for offset, data in writes:
        config.write(offset, data[: 256 - offset])
    kept = [(old & mask, new & mask) for old, new, mask in zip(before, config.snapshot(), fixed, strict=True)]
    assert all(old == new for old, new in kept)


def masks() -> bytes:
    """Writable bits of :func:`space`, found by writing ones and zeros."""
    ones, zeros = space(), space()
    ones.write(0, b"\xff" * 256)
    zeros.write(0, bytes(256))
    found = bytes(a ^ b for a, b in zip(ones.snapshot(), zeros.snapshot(), strict=True))
    assert sum(byte.bit_count() for byte in found) == 6 + 8 + 2 + 29 + 20 + 8
    return found


@pytest.mark.parametrize(
    ("flags", "sizes", "odd"),
    [
        (DeviceFlag.PCI, [8, 8, 0, 0, 0, 0, 0, 256], {}),
        (DeviceFlag.PCI, [0x3000, 1, 2, 3, 1 << 40, (1 << 40) + 1, 5, 5, 5], {0: 0x3000, 3: 3, 5: (1 << 40) + 1}),
        (DeviceFlag.PCI, [], {}),
        (DeviceFlag.PCI | DeviceFlag.RESET, [5], {0: 5}),
        (DeviceFlag.CCW, [5], {}),
    ],
)
def test_bars_that_no_hardware_has(flags: int, sizes: list[int], odd: dict[int, int]) -> None:
    assert odd_bars(flags, sizes) == odd
