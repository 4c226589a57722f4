"""Structures of ndctl's commands, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.scm import pdsm
from pvnet.scm.calls import Health
from pvnet.scm.pdsm import ByteOrder, HealthLevel, HealthReport, Inject

BOOLS = st.booleans()


def test_health_payload_of_an_armed_device() -> None:
    """Expected guest-side result for device A of the golden configuration."""
    raw = HealthReport.of(0, None, 0).encode("little")
    assert len(raw) == 184
    assert raw == b"\x02\0\0\0" + bytes(180)


def test_health_payload_layout() -> None:
    bitmap = Health.UNHEALTHY | Health.SHUTDOWN_DIRTY | Health.EMPTY | Health.CRITICAL
    bitmap |= Health.SCRUBBED_AND_LOCKED | Health.ENCRYPTED
    raw = HealthReport.of(bitmap, 98, 7).encode("big")
    assert raw[:24].hex() == "00000003" + "010101010101" + "0002" + "0062" + "0000" + "0000000000000007"


@pytest.mark.parametrize(
    ("bitmap", "level", "flags"),
    [
        (0, HealthLevel.HEALTHY, ""),
        (1 << 63, HealthLevel.HEALTHY, "not_armed \n"),
        (1 << 57, HealthLevel.UNHEALTHY, "not_armed smart_notify \n"),
        (1 << 59 | 1 << 57, HealthLevel.CRITICAL, "not_armed smart_notify \n"),
        (0x4400000000000000, HealthLevel.FATAL, "flush_fail smart_notify \n"),
        (0x0040000000000000, HealthLevel.HEALTHY, "scrubbed locked \n"),
        (0x1400000000000000, HealthLevel.FATAL, "restore_fail smart_notify \n"),
        (1 << 55, HealthLevel.HEALTHY, "encrypted \n"),
        (1 << 61 | 1 << 56 | 0x003FFFFFFFFFFFFF, HealthLevel.HEALTHY, ""),
    ],
)
def test_health_words(bitmap: int, level: HealthLevel, flags: str) -> None:
    assert pdsm.health_level(bitmap) == level
    assert pdsm.flags_text(bitmap) == flags


@given(
    st.builds(
        HealthReport,
        BOOLS,
        BOOLS,
        BOOLS,
        BOOLS,
        BOOLS,
        BOOLS,
        st.integers(0, 65535),
        st.none() | st.integers(0, 65535),
        st.none() | st.integers(0, 2**64 - 1),
    ),
    st.sampled_from(["little", "big"]),
)
def test_health_round_trip(health: HealthReport, order: ByteOrder) -> None:
    assert pdsm.decode_health(health.encode(order), order) == health


def test_gauge_keeps_16_bits() -> None:
    assert pdsm.decode_health(HealthReport(fuel_gauge=0x12345).encode("big"), "big").fuel_gauge == 0x2345


def test_inject() -> None:
    both = Health.FATAL | Health.SHUTDOWN_DIRTY
    assert Inject(3, True, True).mask(0) == both
    assert Inject(1, False).mask(both) == Health.SHUTDOWN_DIRTY
    assert Inject(2, True, False).mask(both) == Health.FATAL
    assert Inject(0xF4, True, True).mask(5) == 5
    assert Inject(0xFF).honoured == 3
    raw = Inject(3, True, False).encode("little")
    assert raw[:6].hex() == "030000000100"
    assert pdsm.decode_inject(raw, "little") == Inject(3, True, False)
    with pytest.raises(LocalError):
        Inject(1 << 32).encode("little")


def test_package_layout() -> None:
    raw = pdsm.pdsm_request(1).encode("little")
    assert len(raw) == 256
    assert raw[:24].hex() == "0500000000000000010000000000000008000000c0000000"
    package = pdsm.decode_package(pdsm.pdsm_request(2, Inject(1).encode("big")).encode("big"), "big")
    assert (package.family, package.command, package.size_in, package.size_out) == (5, 2, 192, 192)
    assert pdsm.decode_inject(package.payload, "big") == Inject(1)


@pytest.mark.parametrize(
    "decode",
    [
        lambda: pdsm.decode_package(bytes(71), "little"),
        lambda: pdsm.decode_health(bytes(23), "little"),
        lambda: pdsm.decode_inject(bytes(5), "little"),
    ],
)
def test_short_or_wrong_bytes(decode) -> None:
    with pytest.raises(WireError):
        decode()
