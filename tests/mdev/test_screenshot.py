"""Pictures: a PNG by hand and golden bytes, PPM, XR24 with gaps; decoded by a decoder of its own."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.mdev.screenshot import XR24, encode_png, encode_ppm, rgb_of_xr24


def decode(png: bytes) -> tuple[int, int, bytes]:
    """Decode what any PNG reader must: chunks with their checksums, unfiltered 8-bit RGB."""
    assert png[:8] == bytes([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
    chunks, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(name + data),)
        chunks.append((name, data))
        at += 12 + length
    assert at == len(png)
    assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[2][1] == b""
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, colour, compression, filtering, interlace) == (8, 2, 0, 0, 0)
    rows = zlib.decompress(chunks[1][1])
    assert len(rows) == height * (1 + 3 * width)
    pixels = b""
    for start in range(0, len(rows), 1 + 3 * width):
        assert rows[start] == 0
        pixels += rows[start + 1 : start + 1 + 3 * width]
    return width, height, pixels


def test_fourcc() -> None:
    assert XR24.to_bytes(4, "little") == b"XR24"


def test_one_red_pixel_is_the_png_that_everybody_knows() -> None:
    """All but the compressed data is fixed by the standard; the checksums were computed elsewhere."""
    png = encode_png(1, 1, b"\xff\x00\x00")
    assert png[:33].hex() == "89504e470d0a1a0a0000000d49484452000000010000000108020000009077" + "53de"
    assert png[-12:].hex() == "0000000049454e44ae426082"
    assert decode(png) == (1, 1, b"\xff\x00\x00")


def test_colours_of_xr24() -> None:
    """Blue comes first in memory, the fourth byte is nothing."""
    pixels = bytes.fromhex("000000aa 0000ffbb 00ff00cc ff0000dd 332211ee ffffff00")
    rgb = rgb_of_xr24(pixels, 3, 2)
    assert rgb.hex(" ", 3) == "000000 ff0000 00ff00 0000ff 112233 ffffff"
    assert encode_ppm(3, 2, rgb) == b"P6\n3 2\n255\n" + rgb
    assert decode(encode_png(3, 2, rgb)) == (3, 2, rgb)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 7), st.integers(0, 5), st.binary(min_size=400, max_size=400)
)
def test_rows_with_gaps(width: int, height: int, gap: int, behind: int, noise: bytes) -> None:
    stride = 4 * width + gap
    pixels = (noise * 3)[: stride * (height - 1) + 4 * width + behind]
    rgb = rgb_of_xr24(memoryview(pixels), width, height, stride)
    for y in range(height):
        for x in range(width):
            blue, green, red = pixels[y * stride + 4 * x : y * stride + 4 * x + 3]
            assert rgb[3 * (y * width + x) :][:3] == bytes((red, green, blue))
    assert decode(encode_png(width, height, rgb)) == (width, height, rgb)


@pytest.mark.parametrize(
    ("size", "width", "height", "stride"),
    [(16, 0, 1, None), (16, 1, 0, None), (16, 2, 1, 7), (15, 2, 2, None), (19, 2, 2, 12), (16, -1, 1, None)],
)
def test_no_picture(size: int, width: int, height: int, stride: int | None) -> None:
    with pytest.raises(LocalError):
        rgb_of_xr24(bytes(size), width, height, stride)


def test_last_row_needs_no_gap() -> None:
    assert rgb_of_xr24(bytes(20), 2, 2, 12) == bytes(12)


@pytest.mark.parametrize(("width", "height", "size"), [(1, 1, 2), (1, 1, 4), (0, 0, 0), (-1, -1, 3)])
def test_bytes_that_are_no_picture(width: int, height: int, size: int) -> None:
    with pytest.raises(LocalError):
        encode_png(width, height, bytes(size))
    with pytest.raises(LocalError):
        encode_ppm(width, height, bytes(size))
