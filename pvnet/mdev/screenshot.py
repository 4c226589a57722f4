"""Pictures of a framebuffer: XR24 pixels in, PNG or PPM bytes out.

XR24 (fourcc ``XR24``, 0x34325258) is 4 bytes per pixel: blue, green, red, and one that means nothing.  Rows lie
``stride`` bytes apart, the topmost first.  Between the two stands plain RGB, 3 bytes per pixel without gaps.

A PNG written here has 8 bits per sample, colour type 2 (RGB), no interlacing, no filter (filter byte 0 in front of
each row) and one IDAT chunk::

    89 'PNG' 0d 0a 1a 0a  | IHDR: u32 width, u32 height, u8 depth 8, colour 2, 0, 0, 0 | IDAT: zlib | IEND

each chunk being ``u32 length, name[4], data, u32 crc32(name + data)``, big-endian.

Spec: mdev 4.7, 8.2.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from pvnet.core.errors import LocalError

XR24: Final = 0x34325258
"""The fourcc, as a little-endian number."""
PIXEL_BYTES: Final = 4
RGB_BYTES: Final = 3

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_IHDR: Final = struct.Struct(">IIBBBBB")
_DEPTH: Final = 8
_COLOUR_RGB: Final = 2


def rgb_of_xr24(pixels: bytes | bytearray | memoryview, width: int, height: int, stride: int | None = None) -> bytes:
    """Return the picture as RGB; ``stride`` is in bytes, without it rows follow each other.

    :raises LocalError: a picture without pixels, rows that overlap, or fewer bytes than the picture has.
    """
    row = width * PIXEL_BYTES
    pitch = row if stride is None else stride
    if width < 1 or height < 1 or pitch < row:
        raise LocalError(f"picture of {width} x {height} pixels, {pitch} bytes from row to row")
    view = memoryview(pixels)
    if len(view) < pitch * (height - 1) + row:
        raise LocalError(f"picture of {width} x {height} pixels: {len(view)} bytes are too few")
    packed = b"".join(view[start : start + row] for start in range(0, pitch * height, pitch))
    rgb = bytearray(width * height * RGB_BYTES)
    for sample in range(RGB_BYTES):
        rgb[sample::RGB_BYTES] = packed[2 - sample :: PIXEL_BYTES]
    return bytes(rgb)


def encode_png(width: int, height: int, rgb: bytes) -> bytes:
    """Return a PNG file.

    :raises LocalError: not the bytes of a picture of this size.
    """
    _check(width, height, rgb)
    row = width * RGB_BYTES
    rows = b"".join(b"\0" + rgb[start : start + row] for start in range(0, len(rgb), row))
    head = _IHDR.pack(width, height, _DEPTH, _COLOUR_RGB, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def encode_ppm(width: int, height: int, rgb: bytes) -> bytes:
    """Return a binary PPM file (``P6``).

    :raises LocalError: not the bytes of a picture of this size.
    """
    _check(width, height, rgb)
    return b"P6\n%d %d\n255\n" % (width, height) + rgb


def _check(width: int, height: int, rgb: bytes) -> None:
    if width < 1 or height < 1 or len(rgb) != width * height * RGB_BYTES:
        raise LocalError(f"picture of {width} x {height} pixels: {len(rgb)} bytes of RGB")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
