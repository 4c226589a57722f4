"""The graphics plane query of VFIO, for devices whose picture lies in a region.

::

    off   field                                  off   field
    0     u32 argsz                              28    u32 height
    4     u32 flags: PROBE 1, DMABUF 2, REGION 4 32    u32 stride, bytes
    8     u32 plane type (in)                    36    u32 size, bytes
    12    u32 format, a fourcc                   40    u32 x_pos, y_pos
    16    u64 format modifier                    48    u32 x_hot, y_hot
    24    u32 width, pixels                      56    u32 region index or dmabuf id, then 4 bytes of padding

Little-endian, 64 bytes; a user may leave the padding off (argsz 60).

Spec: mdev 4.7, 8.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL

GFX_PLANE_BYTES: Final = 64
GFX_PLANE_MIN: Final = 60
_HEAD: Final = struct.Struct("<III")
_PLANE: Final = struct.Struct("<IIIIQIIIIIIIII4x")


class GfxFlag(IntFlag):
    """``flags`` of the query: a probe of one way to get at the picture, or the way itself."""

    PROBE = 1
    DMABUF = 2
    REGION = 4


_ANSWERED: Final = (GfxFlag.REGION, GfxFlag.PROBE | GfxFlag.REGION)


@dataclass(frozen=True, slots=True)
class GfxPlane:
    """A picture in a region: ``format`` is a fourcc, ``stride`` and ``size`` are bytes."""

    format: int
    width: int
    height: int
    stride: int
    size: int
    region: int


def answer_gfx_plane(request: bytes, plane: GfxPlane) -> bytes:
    """Answer a query with the picture, or, if it is only a probe, with the request itself.

    The answer is as long as the request, 64 bytes at most.

    :raises MdevError: EINVAL, too short, or anything but REGION.
    """
    if len(request) < GFX_PLANE_MIN:
        raise MdevError(EINVAL, f"graphics plane query of {len(request)} bytes")
    argsz, flags, plane_type = _HEAD.unpack_from(request)
    if argsz < GFX_PLANE_MIN or flags not in _ANSWERED:
        raise MdevError(EINVAL, f"graphics plane query: argsz {argsz}, flags {flags:#x}")
    if flags & GfxFlag.PROBE:
        return request[:GFX_PLANE_BYTES]
    shown = (plane.format, 0, plane.width, plane.height, plane.stride, plane.size, 0, 0, 0, 0, plane.region)
    return _PLANE.pack(argsz, flags, plane_type, *shown)[: len(request)]


def decode_gfx_plane(answer: bytes) -> GfxPlane:
    """Decode an answer; positions and hot spots are not kept.

    :raises MdevError: EINVAL, too short.
    """
    if len(answer) < GFX_PLANE_MIN:
        raise MdevError(EINVAL, f"graphics plane of {len(answer)} bytes")
    fields = _PLANE.unpack(answer[:GFX_PLANE_BYTES].ljust(GFX_PLANE_BYTES, b"\0"))
    return GfxPlane(fields[3], fields[5], fields[6], fields[7], fields[8], fields[13])
