"""Text of UUIDs, integers and names.  Spec: mdev 1.12, 3.2; rows A5, A6."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.errors import MdevError
from pvnet.mdev.mdev_uuid import (
    MdevName,
    parse_canonical,
    parse_create,
    parse_instance,
    parse_integer,
    parse_name,
    parse_rfc,
)
from pvnet.papr.errno import EINVAL, ERANGE

TEXT = "83B8F4F2-509F-382F-3C1E-E6BFE0FA1001"
UUID = TEXT.lower()
HEX = UUID.replace("-", "")


def errno_of(function: object, *arguments: object) -> int:
    with pytest.raises(MdevError) as caught:
        function(*arguments)  # type: ignore[operator]
    return caught.value.errno


@pytest.mark.parametrize("data", [TEXT.encode(), UUID.encode(), UUID.encode() + b"\n"])
def test_create_takes_36_bytes_or_37_with_a_newline(data: bytes) -> None:
    assert parse_create(data) == UUID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        HEX.encode(),
        UUID[:-1].encode(),
        UUID[:-1].encode() + b"\n",
        UUID[:-1].encode() + b"\n\n",
        UUID.encode() + b"\n\n",
        UUID.encode() + b" ",
        UUID.encode() + b"\0",
        UUID.encode() + b"\r",
        b"\n" + UUID.encode(),
        UUID.encode() + b"00",
        UUID.replace("8", "g", 1).encode(),
        UUID.replace("8", "\0", 1).encode(),
        UUID.replace("-", ":").encode(),
        UUID.replace("-", "0").encode(),
        b"8-3b8f4f2509f-382f-3c1e-e6bfe0fa1001",
        b"{" + UUID[1:-1].encode() + b"}",
        "\u0661".encode() + UUID[2:].encode(),
        b"\xb2" + UUID[1:].encode(),
    ],
)
def test_a5_create_refuses_everything_else(data: bytes) -> None:
    assert errno_of(parse_create, data) == EINVAL


@pytest.mark.parametrize("text", ["", "\u0661" + UUID[1:], "\u212a" + UUID[1:], UUID + "\n", " " + UUID])
def test_canonical_is_ascii_and_nothing_else(text: str) -> None:
    assert errno_of(parse_canonical, text) == EINVAL


@pytest.mark.parametrize(
    "data",
    [
        UUID,
        TEXT + "\n",
        UUID + " and whatever follows",
        HEX + "....",
        HEX[:31] + HEX[31] + "-\n:-",
        ":".join(HEX[i : i + 2] for i in range(0, 32, 2)),
        "\n".join(HEX[i : i + 2] for i in range(0, 32, 2)) + "zz",
        "\0".join(HEX[i : i + 2] for i in range(0, 32, 2)),
        HEX[:2] + "-" + HEX[2:4] + ":" + HEX[4:] + "  ",
    ],
)
def test_the_rule_of_2016_is_lax(data: str) -> None:
    assert parse_rfc(data.encode()) == UUID


@pytest.mark.parametrize(
    "data",
    [
        "",
        HEX,
        HEX + "---",
        UUID[:35],
        HEX[:2] + "--" + HEX[2:] + "..",
        "-" + UUID,
        HEX[:3] + "-" + HEX[3:] + "....",
        "g" + UUID[1:],
        UUID[:-1] + "g",
        UUID.replace("-", " "),
        "-".join(HEX[i : i + 2] for i in range(0, 30, 2)),
        "-".join(HEX[i : i + 2] for i in range(0, 30, 2)) + "-1",
        "\u0661" * 36,
    ],
)
def test_a5_the_rule_of_2016_has_limits(data: str) -> None:
    assert errno_of(parse_rfc, data.encode()) == EINVAL


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"0", 0),
        (b"7\n", 7),
        (b"+1", 1),
        (b"010", 8),
        (b"0x10", 16),
        (b"0X1f\n", 31),
        (b"+0x1F", 31),
        (b"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000012", 10),
        (b"4294967295", 2**32 - 1),
        (b"0xffffffff", 2**32 - 1),
    ],
)
def test_instances(data: bytes, value: int) -> None:
    assert parse_instance(data) == value


@pytest.mark.parametrize(
    ("data", "errno"),
    [
        (b"", EINVAL),
        (b"\n", EINVAL),
        (b"+", EINVAL),
        (b"++1", EINVAL),
        (b"-1", EINVAL),
        (b"- 1", EINVAL),
        (b" 1", EINVAL),
        (b"1 ", EINVAL),
        (b"1\n\n", EINVAL),
        (b"1:", EINVAL),
        (b"0x", EINVAL),
        (b"0xg", EINVAL),
        (b"08", EINVAL),
        (b"1a", EINVAL),
        (b"\xb2", EINVAL),
        (b"1\0", EINVAL),
        (b"4294967296", ERANGE),
        (b"4294967296\n", ERANGE),
        (b"4294967296x", EINVAL),
        (b"18446744073709551616", ERANGE),
        (b"18446744073709551616x", ERANGE),
        (b"9" * 4000, ERANGE),
        (b"0x" + b"f" * 4000, ERANGE),
    ],
)
def test_a6_no_instances(data: bytes, errno: int) -> None:
    assert errno_of(parse_instance, data) == errno


def test_integers_of_64_bits() -> None:
    assert parse_integer(b"18446744073709551615\n", 64) == 2**64 - 1
    assert errno_of(parse_integer, b"18446744073709551616\n", 64) == ERANGE


def test_names() -> None:
    assert parse_name(TEXT) == MdevName(UUID)
    assert str(MdevName(UUID)) == UUID
    assert parse_name(f"{TEXT}-0") == MdevName(UUID, 0)
    assert str(MdevName(UUID, 0xFFFFFFFF)) == f"{UUID}-4294967295"


@pytest.mark.parametrize(
    "text",
    [
        "",
        UUID[:-1],
        f"{UUID}-",
        f"{UUID}-01",
        f"{UUID}--1",
        f"{UUID}:1",
        f"{UUID}-4294967296",
        f"{UUID}-1\n",
        UUID + "1",
    ],
)
def test_no_names(text: str) -> None:
    assert errno_of(parse_name, text) == EINVAL


@settings(deadline=None, max_examples=60)
@given(st.uuids(), st.none() | st.integers(0, 2**32 - 1), st.booleans())
def test_names_come_back(uuid: object, instance: int | None, upper: bool) -> None:
    name = MdevName(str(uuid), instance)
    assert parse_name(str(name).upper() if upper else str(name)) == name


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60) | st.text("0123456789abcdefABCDEF-:\n\0x+g", max_size=60).map(str.encode))
def test_texts_parse_or_are_refused(data: bytes) -> None:
    for parse in (parse_create, parse_rfc, parse_instance):
        errno = 0
        try:
            parse(data)
        except MdevError as error:
            errno = error.errno
        assert errno in {0, EINVAL, ERANGE}
