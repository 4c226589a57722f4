"""The buffer of H_SCM_PERFORMANCE_STATS, read and written by both ends.  All numbers are big-endian.

::

    0   8  eye-catcher "SCMSTATS"
    8   4  version, 1
    12  4  number of entries N; 0 in a request: all statistics
    16  entry k at 16 + 16k: 8 bytes id (ASCII, padded with blanks), then a 64-bit value

Decoding is total: whatever is wrong is a :class:`WireError`, and never more entries are read than the buffer holds,
whatever N says.  Spec: hcall_scm 3.10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import Enum
from typing import Final

from pvnet.core.errors import WireError

EYE_CATCHER: Final = b"SCMSTATS"
VERSION: Final = 1
HEADER_BYTES: Final = 16
ENTRY_BYTES: Final = 16
ID_BYTES: Final = 8
_HEADER: Final = struct.Struct(">8sII")
_ENTRY: Final = struct.Struct(">8sQ")


class Statistic(Enum):
    """The statistics there are, in the order of Linux's perf configuration numbers (from 1); the value is the id.

    Units of times are not published; pvnet counts them in microseconds, but power-on time in seconds.
    """

    CTL_RES_CNT = b"CtlResCt"
    """Controller resets."""
    CTL_RES_TM = b"CtlResTm"
    """Time they took."""
    POWERON_SECS = b"PonSecs "
    """Seconds since power-on."""
    MEM_LIFE = b"MemLife "
    """Life remaining, in percent: the fuel gauge."""
    CRI_RES_UTIL = b"CritRscU"
    """Utilisation of the critical resource."""
    HOST_L_CNT = b"HostLCnt"
    """Loads by the host."""
    HOST_S_CNT = b"HostSCnt"
    """Stores by the host."""
    HOST_S_DUR = b"HostSDur"
    """Time of the stores."""
    HOST_L_DUR = b"HostLDur"
    """Time of the loads."""
    MED_R_CNT = b"MedRCnt "
    """Reads of the media."""
    MED_W_CNT = b"MedWCnt "
    """Writes of the media."""
    MED_R_DUR = b"MedRDur "
    """Time of the reads."""
    MED_W_DUR = b"MedWDur "
    """Time of the writes."""
    CACHE_RH_CNT = b"CchRHCnt"
    """Read hits of the cache."""
    CACHE_WH_CNT = b"CchWHCnt"
    """Write hits of the cache."""
    FAST_W_CNT = b"FastWCnt"
    """Fast writes."""


ALL_BYTES: Final = HEADER_BYTES + ENTRY_BYTES * len(Statistic)
"""What a buffer for all statistics needs: 272."""


def size_for(count: int) -> int:
    """Bytes of a buffer with ``count`` entries."""
    return HEADER_BYTES + ENTRY_BYTES * count


def encode_stats(entries: Iterable[tuple[bytes, int]], count: int | None = None) -> bytes:
    """A buffer with these (id, value) entries; ``count`` may say another number than there are (0: asking for all)."""
    listed = [_ENTRY.pack(name, value) for name, value in entries]
    return _HEADER.pack(EYE_CATCHER, VERSION, len(listed) if count is None else count) + b"".join(listed)


def encode_request(ids: Iterable[bytes] = (), length: int = 0) -> bytes:
    """A request for these statistics (none: for all), followed by zeros up to ``length`` bytes."""
    return encode_stats((name, 0) for name in ids).ljust(length, b"\0")


def decode_header(data: bytes) -> int:
    """Number of entries that a buffer's header names; :class:`WireError` when it is no header."""
    if len(data) < HEADER_BYTES:
        raise WireError("statistics buffer", offset=len(data), expected=f"{HEADER_BYTES} bytes of header")
    eye_catcher, version, count = _HEADER.unpack_from(data)
    if eye_catcher != EYE_CATCHER:
        raise WireError(f"statistics eye-catcher {eye_catcher!r}", offset=0, expected=repr(EYE_CATCHER))
    if version != VERSION:
        raise WireError(f"statistics version {version}", offset=8, expected=str(VERSION))
    return int(count)


def decode_stats(data: bytes) -> list[tuple[bytes, int]]:
    """The (id, value) entries of a buffer; :class:`WireError` when it is none or names more than it holds."""
    count = decode_header(data)
    if size_for(count) > len(data):
        raise WireError(f"{count} statistics in {len(data)} bytes", offset=12, expected="at most what fits")
    return [_ENTRY.unpack_from(data, size_for(k)) for k in range(count)]
