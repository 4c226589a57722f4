"""What each command of an SCM device does: ndctl's four, and the files, counters of Linux' ``papr_scm``.

A command is a script too; its result is (0, a length, or -errno; the bytes for the caller).  Commands arrive as a
program sent them: every length is checked, nothing raises.

Spec: hcall_scm 4.3, 4.4; Linux ``papr_scm.c`` (``papr_scm_ndctl``, ``is_cmd_valid``, ``papr_scm_service_pdsm``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pvnet.papr.errno import EINVAL, ENODEV
from pvnet.scm import pdsm
from pvnet.scm.guest_calls import GuestCalls, Script
from pvnet.scm.guest_interface import MAX_TRANSFER, ScmCommand
from pvnet.scm.pdsm import PDSM_BYTES, PDSM_HEADER_BYTES, HealthReport, Package, Pdsm
from pvnet.scm.stats import Statistic

Result = tuple[int, bytes]
_INVALID: Final[Result] = (-EINVAL, b"")
_IDS: Final = tuple(statistic.value for statistic in Statistic)
_Command = Callable[[GuestCalls, bytes], Script[Result]]


def run_command(calls: GuestCalls, command: int, data: bytes) -> Script[Result]:
    """Return the script of a command; an unknown one is -EINVAL."""
    make = _COMMANDS.get(command)
    return _nothing(_INVALID) if make is None else make(calls, data)


def _nothing(result: Result) -> Script[Result]:
    yield from ()
    return result


def _struct(calls: GuestCalls, fields: str) -> struct.Struct:
    return struct.Struct(("<" if calls.config.byte_order == "little" else ">") + fields)


def _config_size(calls: GuestCalls, _data: bytes) -> Script[Result]:
    return _nothing((0, _struct(calls, "III").pack(0, calls.config.metadata_size, MAX_TRANSFER)))


def _config_get(calls: GuestCalls, data: bytes) -> Script[Result]:
    header = _struct(calls, "II")
    if len(data) < header.size:
        return _INVALID
    offset, length = header.unpack_from(data)
    error, found = yield from calls.read_metadata(offset, length)
    return error, _struct(calls, "III").pack(offset, length, 0) + found


def _config_set(calls: GuestCalls, data: bytes) -> Script[Result]:
    header = _struct(calls, "II")
    if len(data) < header.size:
        return _INVALID
    offset, length = header.unpack_from(data)
    body = data[header.size : header.size + length]
    if len(body) != length:
        return _INVALID
    return (yield from calls.write_metadata(offset, body)), b""


def _call(calls: GuestCalls, data: bytes) -> Script[Result]:
    """ND_CMD_CALL: refused outright, refused with the package untouched, or served."""
    order = calls.config.byte_order
    if len(data) < pdsm.PACKAGE_BYTES + PDSM_HEADER_BYTES:
        return _INVALID
    package = pdsm.decode_package(data, order)
    is_known = package.family == pdsm.FAMILY_PAPR and Pdsm.MIN < package.command < Pdsm.MAX
    if not is_known or package.size_out < PDSM_HEADER_BYTES:
        return _INVALID
    is_inject = package.command == Pdsm.SMART_INJECT
    is_sound = (
        not any(package.pdsm_reserved)
        and (not is_inject or package.size_in == PDSM_BYTES)
        and package.size_out == PDSM_BYTES
        and len(package.payload) >= pdsm.PAYLOAD_BYTES
    )
    if not is_sound:
        return -EINVAL, data
    package = replace(package, payload=package.payload[: pdsm.PAYLOAD_BYTES])
    status, payload = (yield from _pdsm_health(calls)) if not is_inject else _pdsm_inject(calls, package)
    done = replace(
        package,
        status=status,
        fw_size=PDSM_HEADER_BYTES if status else PDSM_BYTES,
        payload=package.payload if status else payload,
    )
    return status, done.encode(order)


def _pdsm_health(calls: GuestCalls) -> Script[Result]:
    error = yield from calls.query_health()
    if error:
        return error, b""
    gauge = yield from calls.fuel_gauge()
    health = HealthReport.of(calls.bitmap, gauge, calls.config.persistence_failed_count)
    return 0, health.encode(calls.config.byte_order)


def _pdsm_inject(calls: GuestCalls, package: Package) -> Result:
    order = calls.config.byte_order
    inject = pdsm.decode_inject(package.payload, order)
    calls.inject_mask = inject.mask(calls.inject_mask)
    calls.health_at = None
    return 0, replace(inject, flags=inject.honoured).encode(order)


def _text(text: str) -> Result:
    data = text.encode("ascii", "replace")
    return len(data), data


def _flags(calls: GuestCalls, _data: bytes) -> Script[Result]:
    error = yield from calls.cached_health()
    return (error, b"") if error else _text(pdsm.flags_text(calls.bitmap))


def _perf_stats(calls: GuestCalls, _data: bytes) -> Script[Result]:
    error, found = yield from calls.read_stats()
    return (
        (error, b"")
        if error
        else _text("".join(f"{id_.decode('ascii', 'replace')} = 0x{value:016X}\n" for id_, value in found))
    )


def _perf_counter(calls: GuestCalls, data: bytes) -> Script[Result]:
    layout = _struct(calls, "I")
    if not calls.stats_bytes:
        return -ENODEV, b""
    number = layout.unpack(data)[0] if len(data) == layout.size else 0
    if not 1 <= number <= len(_IDS):
        return _INVALID
    error, found = yield from calls.read_stats((_IDS[number - 1],))
    return error, _struct(calls, "Q").pack(found[0][1]) if found else b""


def _dirty_shutdown(calls: GuestCalls, _data: bytes) -> Script[Result]:
    return _nothing(_text(f"{calls.config.persistence_failed_count}\n"))


def _inject_mask(calls: GuestCalls, _data: bytes) -> Script[Result]:
    return _nothing(_text(f"{calls.inject_mask:#x}\n"))


_COMMANDS: Final[dict[int, _Command]] = {
    ScmCommand.GET_CONFIG_SIZE: _config_size,
    ScmCommand.GET_CONFIG_DATA: _config_get,
    ScmCommand.SET_CONFIG_DATA: _config_set,
    ScmCommand.CALL: _call,
    ScmCommand.FLAGS: _flags,
    ScmCommand.PERF_STATS: _perf_stats,
    ScmCommand.PERF_COUNTER: _perf_counter,
    ScmCommand.DIRTY_SHUTDOWN: _dirty_shutdown,
    ScmCommand.HEALTH_BITMAP_INJECT: _inject_mask,
}
