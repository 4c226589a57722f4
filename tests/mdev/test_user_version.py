"""VERSION: what is understood, what is refused.  Spec: mdev 6.3, B1, B2, 9.3."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user_version import (
    MAX_DEPTH,
    MAX_TEXT,
    Capabilities,
    MigrationCapability,
    Version,
    decode_version,
    encode_version,
)
from pvnet.papr.errno import EINVAL

LIBVFIO_CLIENT = b'{"capabilities":{"max_msg_fds":32,"max_data_xfer_size":1024}}\0'
LIBVFIO_SERVER = (
    b'{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, "migration": { "pgsize": 4096 } } }\0'
)


def decode(text: bytes) -> Capabilities:
    return decode_version(b"\0\0\2\0" + text).capabilities


def test_captured_texts() -> None:
    assert (len(LIBVFIO_CLIENT), len(LIBVFIO_SERVER)) == (62, 105)
    assert decode(LIBVFIO_CLIENT) == Capabilities(max_msg_fds=32, max_data_xfer_size=1024)
    assert decode(LIBVFIO_SERVER) == Capabilities(max_msg_fds=8, migration=MigrationCapability(4096))


def test_what_qemu_says() -> None:
    text = {
        "capabilities": {
            "max_msg_fds": 16,
            "max_dma_maps": 65535,
            "pgsizes": 4096,
            "migration": {"max_bitmap_size": 268435456, "pgsize": 4096},
            "write_multiple": True,
        }
    }
    found = decode(json.dumps(text).encode() + b"\0")
    assert found == Capabilities(max_msg_fds=16, migration=MigrationCapability(4096, 268435456), write_multiple=True)


def test_without_text_everything_has_its_default() -> None:
    assert decode_version(b"\0\0\1\0") == Version(0, 1, Capabilities())
    assert decode(b"{}\0") == decode(b"{}\0\0\0") == Capabilities()
    assert decode(b'{"capabilities":{},"x":[1.5,null,"}}}}"]}\0') == Capabilities()


@pytest.mark.parametrize(
    "text",
    [
        b'{"capabilities":{"max_msg_fds":8}}',
        b"\0",
        b"{\0",
        b"[]\0",
        b"3\0",
        b'{"capabilities":[]}\0',
        b'{"capabilities":{"max_msg_fds":-1}}\0',
        b'{"capabilities":{"max_msg_fds":true}}\0',
        b'{"capabilities":{"max_msg_fds":8.0}}\0',
        b'{"capabilities":{"max_msg_fds":"8"}}\0',
        b'{"capabilities":{"max_msg_fds":18446744073709551616}}\0',
        b'{"capabilities":{"max_msg_fds":' + b"9" * 5000 + b"}}\0",
        b'{"capabilities":{"max_data_xfer_size":0}}\0',
        b'{"capabilities":{"pgsizes":0}}\0',
        b'{"capabilities":{"max_dma_maps":null}}\0',
        b'{"capabilities":{"max_dma_maps":NaN}}\0',
        b'{"capabilities":{"migration":4096}}\0',
        b'{"capabilities":{"migration":{"pgsize":0}}}\0',
        b'{"capabilities":{"write_multiple":1}}\0',
        b'{"capabilities":{"twin_socket":true}}\0',
        b'{"capabilities":{"twin_socket":{"supported":1}}}\0',
        b'{"capabilities":{},"capabilities":{}}\0',
        b'{"capabilities":{"max_msg_fds":1,"max_msg_fds":2}}\0',
        b'{"capabilities":{}}\0x\0',
        b'{"x":"\xff"}\0',
        b'{"x":"' + b"a" * MAX_TEXT + b'"}\0',
        b'{"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}\0",
        b"[" * 10000 + b"\0",
    ],
)
def test_refused(text: bytes) -> None:
    with pytest.raises(MdevError) as caught:
        decode(text)
    assert caught.value.errno == EINVAL


def test_numbers_must_be_there() -> None:
    with pytest.raises(MdevError):
        decode_version(b"\0\0\2")


def test_depth_up_to_the_limit_and_brackets_in_strings() -> None:
    depth = MAX_DEPTH - 1
    assert decode(b'{"x":' + b"[" * depth + b"]" * depth + b"}\0") == Capabilities()
    assert decode(b'{"x":"[[[[[[[[[[[[\\"[[[["}\0') == Capabilities()


capabilities = st.builds(
    Capabilities,
    st.integers(0, 1 << 32),
    st.integers(1, 1 << 63),
    st.integers(0, 1 << 20),
    st.integers(1, 1 << 63),
    st.none() | st.builds(MigrationCapability, st.integers(1, 1 << 40), st.integers(0, 1 << 40)),
    st.booleans(),
    st.none() | st.booleans(),
)


@settings(deadline=None, max_examples=50)
@given(capabilities, st.integers(0, 65535))
def test_round_trip(wanted: Capabilities, minor: int) -> None:
    assert decode_version(encode_version(wanted, minor=minor)) == Version(0, minor, wanted)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80) | st.builds(lambda text: b'{"capabilities":' + text + b"}\0", st.binary(max_size=40)))
def test_random_text_is_refused_or_understood(text: bytes) -> None:
    errno, found = 0, Capabilities()
    try:
        found = decode(text)
    except MdevError as error:
        errno = error.errno
    assert errno in (0, EINVAL)
    assert found.max_data_xfer_size > 0
