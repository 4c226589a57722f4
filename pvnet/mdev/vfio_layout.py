"""Structures of the VFIO device API as bytes: device, region, irq and feature; both directions.

Everything is little-endian.  Each structure begins with ``argsz``: in a request how much room the asker has, in a
reply how much there is to tell.  Decoders take what a peer sent: whatever does not decode raises
:class:`~pvnet.mdev.errors.MdevError` EINVAL, nothing else; unknown capabilities and surplus bytes are skipped.

Spec: mdev 4.1 to 4.5, 4.8, 6.4, 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqData, RegionFlag
from pvnet.papr.errno import EINVAL

Data: TypeAlias = bytes | bytearray | memoryview

DEVICE_INFO: Final = Struct("<4I")
"""argsz, flags, num_regions, num_irqs."""
DEVICE_INFO_CAPS: Final = Struct("<5I")
"""The same and cap_offset."""
REGION_INFO: Final = Struct("<4I2Q")
"""argsz, flags, index, cap_offset, size, offset."""
IRQ_INFO: Final = Struct("<4I")
"""argsz, flags, index, count."""
IRQ_SET: Final = Struct("<5I")
"""argsz, flags, index, start, count."""
FEATURE: Final = Struct("<2I")
"""argsz, flags."""
MIGRATION_FLAGS: Final = Struct("<Q")
DEVICE_STATE: Final = Struct("<Ii")
"""state, data_fd."""
LOGGING_START: Final = Struct("<Q2I")
"""page_size, num_ranges, reserved."""
LOGGING_RANGE: Final = Struct("<2Q")
"""iova, length."""
LOGGING_REPORT: Final = Struct("<3Q")
"""iova, length, page_size."""
MIGRATION_DATA: Final = Struct("<2I")
"""argsz, size."""

_CAP: Final = Struct("<HHI")
_SPARSE: Final = Struct("<2I")
_AREA: Final = Struct("<2Q")
_TYPE: Final = Struct("<2I")

CAP_SPARSE: Final = 1
CAP_TYPE: Final = 2
_MAX_CAPS: Final = 64
MAX_AREAS: Final = 4096
"""Most areas of a sparse region that a client believes in."""

_U64: Final = 1 << 64


def _unpack(layout: Struct, data: Data, what: str, offset: int = 0) -> tuple[int, ...]:
    if len(data) - offset < layout.size:
        raise MdevError(EINVAL, f"{what} of {max(0, len(data) - offset)} bytes, {layout.size} are needed")
    return layout.unpack_from(data, offset)


def _room(argsz: int, least: int, what: str) -> None:
    if argsz < least:
        raise MdevError(EINVAL, f"argsz {argsz} for {what}, {least} is the least")


# --- device info ------------------------------------------------------------------------------------------------------


def encode_device_info(info: DeviceInfo, argsz: int = DEVICE_INFO.size) -> bytes:
    """Return 20 bytes if the asker has room for the capability offset (0: there are none), else 16.

    :raises MdevError: EINVAL, less room than 16 bytes.
    """
    _room(argsz, DEVICE_INFO.size, "a device info")
    flags = info.flags & ~DeviceFlag.CAPS
    if argsz >= DEVICE_INFO_CAPS.size:
        return DEVICE_INFO_CAPS.pack(DEVICE_INFO_CAPS.size, flags, info.regions, info.irqs, 0)
    return DEVICE_INFO.pack(DEVICE_INFO.size, flags, info.regions, info.irqs)


def decode_device_info(data: Data) -> DeviceInfo:
    """Decode 16 bytes or more; capabilities of devices are skipped."""
    _argsz, flags, regions, irqs = _unpack(DEVICE_INFO, data, "device info")
    return DeviceInfo(flags & ~DeviceFlag.CAPS, regions, irqs)


# --- region info ------------------------------------------------------------------------------------------------------


class RegionBytes(NamedTuple):
    """A region info as it is sent.

    ``size``: what it takes with all capabilities (the ``argsz`` of the reply).  ``complete``: there was room for all
    of it, so a descriptor may go along.
    """

    data: bytes
    size: int
    complete: bool


def _capabilities(info: RegionInfo) -> bytes:
    """Chain as it follows a region info."""
    bodies: list[tuple[int, bytes]] = []
    if info.sparse:
        areas = b"".join(_AREA.pack(*area) for area in info.sparse)
        bodies.append((CAP_SPARSE, _SPARSE.pack(len(info.sparse), 0) + areas))
    if info.type is not None:
        bodies.append((CAP_TYPE, _TYPE.pack(*info.type)))
    chain = b""
    for number, (ident, body) in enumerate(bodies, 1):
        end = REGION_INFO.size + len(chain) + _CAP.size + len(body)
        chain += _CAP.pack(ident, 1, end if number < len(bodies) else 0) + body
    return chain


def region_info_size(info: RegionInfo) -> int:
    """Bytes of a region info with all its capabilities."""
    return REGION_INFO.size + len(_capabilities(info))


def encode_region_info(index: int, info: RegionInfo, argsz: int, *, caps_announced: bool = False) -> RegionBytes:
    """Return a region info for somebody with ``argsz`` bytes of room.

    Where the capabilities do not fit, 32 bytes say how much room they need; ``caps_announced`` has CAPS set in these
    (with offset 0) as Linux does, without it they look as those of libvfio-user do.

    :raises MdevError: EINVAL, less room than 32 bytes.
    """
    _room(argsz, REGION_INFO.size, "a region info")
    chain = _capabilities(info)
    size = REGION_INFO.size + len(chain)
    flags = info.flags & ~RegionFlag.CAPS
    complete = argsz >= size
    if chain and (complete or caps_announced):
        flags |= RegionFlag.CAPS
    at = REGION_INFO.size if chain and complete else 0
    head = REGION_INFO.pack(size, flags, index, at, info.size, info.offset)
    return RegionBytes(head + chain if complete else head, size, complete)


def decode_region_info(data: Data) -> tuple[int, int, RegionInfo]:
    """Return (argsz, index, region): if ``argsz`` is more than the room that was offered, ask again with that much.

    :raises MdevError: EINVAL, also for a chain that loops or leaves the structure, and areas outside of the region.
    """
    argsz, flags, index, at, size, offset = _unpack(REGION_INFO, data, "region info")
    sparse: tuple[tuple[int, int], ...] = ()
    type_: tuple[int, int] | None = None
    if flags & RegionFlag.CAPS and at:
        sparse, type_ = _decode_chain(data, at)
    for start, length in sparse:
        if start + length > size:
            raise MdevError(EINVAL, f"an area of {length} bytes at {start} in a region of {size}")
    return argsz, index, RegionInfo(size, flags & ~RegionFlag.CAPS, offset, sparse, type_)


def _decode_chain(data: Data, at: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, int] | None]:
    sparse: tuple[tuple[int, int], ...] = ()
    type_: tuple[int, int] | None = None
    least = REGION_INFO.size
    for _ in range(_MAX_CAPS):
        if at < least:
            raise MdevError(EINVAL, f"capability at {at}, where something else is")
        ident, version, following = _unpack(_CAP, data, "capability", at)
        least = at + _CAP.size
        if version == 1 and ident == CAP_SPARSE:
            sparse = _decode_areas(data, least)
        elif version == 1 and ident == CAP_TYPE:
            kind, subtype = _unpack(_TYPE, data, "type capability", least)
            type_ = (kind, subtype)
        if not following:
            return sparse, type_
        at = following
    raise MdevError(EINVAL, f"more than {_MAX_CAPS} capabilities")


def _decode_areas(data: Data, at: int) -> tuple[tuple[int, int], ...]:
    count, _reserved = _unpack(_SPARSE, data, "sparse capability", at)
    at += _SPARSE.size
    if count > MAX_AREAS or len(data) - at < count * _AREA.size:
        raise MdevError(EINVAL, f"{count} areas in {len(data) - at} bytes")
    flat = Struct(f"<{2 * count}Q").unpack_from(data, at)
    return tuple(zip(flat[::2], flat[1::2], strict=True))


# --- irqs -------------------------------------------------------------------------------------------------------------


def encode_irq_info(index: int, info: IrqInfo, argsz: int = IRQ_INFO.size) -> bytes:
    """Return the 16 bytes.

    :raises MdevError: EINVAL, less room than that.
    """
    _room(argsz, IRQ_INFO.size, "an irq info")
    return IRQ_INFO.pack(IRQ_INFO.size, info.flags, index, info.count)


def decode_irq_info(data: Data) -> tuple[int, IrqInfo]:
    """Return (index, irq)."""
    _argsz, flags, index, count = _unpack(IRQ_INFO, data, "irq info")
    return index, IrqInfo(count, flags)


@dataclass(frozen=True, slots=True)
class IrqSetHead:
    """SET_IRQS without its targets; ``data`` has one byte per vector with BOOL, else it is empty."""

    flags: int
    index: int
    start: int
    count: int
    data: bytes = b""


def encode_irq_set(head: IrqSetHead) -> bytes:
    """Return the 20 bytes and the data."""
    return IRQ_SET.pack(IRQ_SET.size + len(head.data), head.flags, head.index, head.start, head.count) + head.data


def decode_irq_set(data: Data) -> IrqSetHead:
    """Decode it for a carrier that has descriptors beside the bytes; what it asks for is not judged here.

    :raises MdevError: EINVAL: argsz below 20 or beyond the bytes, BOOL data short.
    """
    argsz, flags, index, start, count = _unpack(IRQ_SET, data, "irq set")
    if not IRQ_SET.size <= argsz <= len(data):
        raise MdevError(EINVAL, f"argsz {argsz} for an irq set of {len(data)} bytes")
    if not flags & IrqData.BOOL:
        return IrqSetHead(flags, index, start, count)
    if argsz - IRQ_SET.size < count:
        raise MdevError(EINVAL, f"{argsz - IRQ_SET.size} bytes for {count} irqs")
    return IrqSetHead(flags, index, start, count, bytes(data[IRQ_SET.size : IRQ_SET.size + count]))


# --- features and migration -------------------------------------------------------------------------------------------


def encode_feature(flags: int, data: Data = b"", argsz: int | None = None) -> bytes:
    """Return head and data; ``argsz``: room for the reply's, if that is more than ``data`` takes."""
    return FEATURE.pack(FEATURE.size + len(data) if argsz is None else argsz, flags) + bytes(data)


def decode_feature(data: Data) -> tuple[int, int, bytes]:
    """Return (argsz, flags, data): of the data what ``argsz`` covers.

    :raises MdevError: EINVAL, argsz below 8.
    """
    argsz, flags = _unpack(FEATURE, data, "feature")
    _room(argsz, FEATURE.size, "a feature")
    return argsz, flags, bytes(data[FEATURE.size : min(argsz, len(data))])


def encode_migration_flags(flags: int) -> bytes:
    """Feature 1."""
    return MIGRATION_FLAGS.pack(flags)


def decode_migration_flags(data: Data) -> int:
    """Feature 1."""
    return _unpack(MIGRATION_FLAGS, data, "migration flags")[0]


def encode_device_state(state: int, data_fd: int = -1) -> bytes:
    """Feature 2; there is no descriptor but in a kernel's."""
    return DEVICE_STATE.pack(state, data_fd)


def decode_device_state(data: Data) -> int:
    """Feature 2: the state, whatever number it is."""
    return _unpack(DEVICE_STATE, data, "device state")[0]


def encode_logging_start(page_size: int, ranges: tuple[tuple[int, int], ...] = ()) -> bytes:
    """Feature 6 with its ranges inline."""
    return LOGGING_START.pack(page_size, len(ranges), 0) + b"".join(LOGGING_RANGE.pack(*item) for item in ranges)


def decode_logging_start(data: Data) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return (page size, ranges as (iova, length)).

    :raises MdevError: EINVAL, fewer ranges than it says.
    """
    page_size, count, _reserved = _unpack(LOGGING_START, data, "start of logging")
    if (len(data) - LOGGING_START.size) // LOGGING_RANGE.size < count:
        raise MdevError(EINVAL, f"{count} ranges in {len(data)} bytes")
    flat = Struct(f"<{2 * count}Q").unpack_from(data, LOGGING_START.size)
    return page_size, tuple(zip(flat[::2], flat[1::2], strict=True))


def encode_logging_report(iova: int, length: int, page_size: int, bitmap: bytes = b"") -> bytes:
    """Feature 8; the bitmap is in replies only."""
    return LOGGING_REPORT.pack(iova, length, page_size) + bitmap


def decode_logging_report(data: Data) -> tuple[int, int, int]:
    """Return (iova, length, page size)."""
    iova, length, page_size = _unpack(LOGGING_REPORT, data, "logging report")
    return iova, length, page_size


def encode_data_size(size: int) -> bytes:
    """Feature 9: bytes that saving would still give; what does not fit is told as the most."""
    return MIGRATION_FLAGS.pack(min(max(size, 0), _U64 - 1))


def decode_data_size(data: Data) -> int:
    """Feature 9."""
    return _unpack(MIGRATION_FLAGS, data, "data size")[0]
