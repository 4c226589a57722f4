"""The buffer of H_SCM_PERFORMANCE_STATS, as both ends read and write it, and the 16 statistics that exist.

::

    0   "SCMSTATS" 8 | 8 version 4 | 12 number of statistics 4        then per statistic: id 8 | value 8

All numbers are big-endian.  A request with number 0 asks for everything, one with N names N ids; the reply fills in the
values.  The order of a reply that was asked for everything is not guaranteed: match by id.

Spec: hcall_scm 3.10; Linux ``papr_scm.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError, WireError

EYE_CATCHER: Final = b"SCMSTATS"
VERSION: Final = 1
HEADER_BYTES: Final = 16
ENTRY_BYTES: Final = 16
ID_BYTES: Final = 8
_HEADER: Final = struct.Struct(">8sII")
_ENTRY: Final = struct.Struct(">8sQ")

STATISTICS: Final = (
    (b"CtlResCt", "ctl_res_cnt", "controller reset count"),
    (b"CtlResTm", "ctl_res_tm", "controller reset elapsed time"),
    (b"PonSecs ", "poweron_secs", "power-on seconds"),
    (b"MemLife ", "mem_life", "life remaining, percent"),
    (b"CritRscU", "cri_res_util", "critical resource utilisation"),
    (b"HostLCnt", "host_l_cnt", "host load count"),
    (b"HostSCnt", "host_s_cnt", "host store count"),
    (b"HostSDur", "host_s_dur", "host store duration"),
    (b"HostLDur", "host_l_dur", "host load duration"),
    (b"MedRCnt ", "med_r_cnt", "media read count"),
    (b"MedWCnt ", "med_w_cnt", "media write count"),
    (b"MedRDur ", "med_r_dur", "media read duration"),
    (b"MedWDur ", "med_w_dur", "media write duration"),
    (b"CchRHCnt", "cache_rh_cnt", "cache read hit count"),
    (b"CchWHCnt", "cache_wh_cnt", "cache write hit count"),
    (b"FastWCnt", "fast_w_cnt", "fast write count"),
)
"""(id, name of the perf event, meaning); perf config ``n`` is entry ``n - 1``.  Units of times are nowhere stated."""
FUEL_GAUGE: Final = b"MemLife "


def stats_bytes(entries: int) -> int:
    """Bytes of a buffer with that many statistics; all 16 take 272."""
    return HEADER_BYTES + ENTRY_BYTES * entries


@dataclass(frozen=True, slots=True)
class Statistic:
    """One value; ``id`` is 8 bytes, padded with blanks."""

    id: bytes
    value: int

    @property
    def line(self) -> str:
        """The line of ``papr/perf_stats`` in sysfs."""
        return f"{self.id.decode('ascii', 'replace')} = 0x{self.value:016X}\n"


def encode_request(ids: Sequence[bytes] = ()) -> bytes:
    """Return a request for these statistics, or for all of them.

    Raises :class:`LocalError` when an id is not 8 bytes.
    """
    return encode_reply([Statistic(id_, 0) for id_ in ids])


def encode_reply(statistics: Sequence[Statistic]) -> bytes:
    """Return a reply with these values.  Raises :class:`LocalError` for an id that is not 8 bytes."""
    if any(len(statistic.id) != ID_BYTES for statistic in statistics):
        raise LocalError("statistic id: expected 8 bytes")
    header = _HEADER.pack(EYE_CATCHER, VERSION, len(statistics))
    return header + b"".join(_ENTRY.pack(statistic.id, statistic.value) for statistic in statistics)


def decode_stats(raw: bytes) -> tuple[Statistic, ...]:
    """Split a request or a reply; bytes behind the last statistic are ignored.

    Raises :class:`WireError` for a wrong eye-catcher or version, or more statistics than there are bytes for.
    """
    if len(raw) < HEADER_BYTES:
        raise WireError("statistics", offset=len(raw), expected=f"at least {HEADER_BYTES} bytes")
    eye_catcher, version, count = _HEADER.unpack_from(raw)
    if eye_catcher != EYE_CATCHER:
        raise WireError("statistics", offset=0, expected="SCMSTATS")
    if version != VERSION:
        raise WireError(f"statistics version {version}", offset=8, expected=str(VERSION))
    if stats_bytes(count) > len(raw):
        raise WireError(f"{count} statistics in {len(raw)} bytes", offset=12, expected="fewer")
    return tuple(Statistic(*entry) for entry in _ENTRY.iter_unpack(raw[HEADER_BYTES : stats_bytes(count)]))


def decode_entries(raw: bytes) -> tuple[Statistic, ...]:
    """Read as many statistics as the buffer can hold and its count claims, believing nothing else, as Linux does."""
    count = min(int.from_bytes(raw[12:HEADER_BYTES], "big"), max(0, len(raw) - HEADER_BYTES) // ENTRY_BYTES)
    return tuple(Statistic(*entry) for entry in _ENTRY.iter_unpack(raw[HEADER_BYTES : stats_bytes(count)]))
