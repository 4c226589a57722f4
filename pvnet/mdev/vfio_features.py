"""DEVICE_FEATURE: a table of what can be got and set.

A request names one feature and GET or SET; with PROBE it only asks whether that would be understood.  What is not
understood is EINVAL over vfio-user, whose peers expect that, where a kernel says ENOTTY.

=====  ================  ========  ==================================================================
index  feature                     data behind the 8-byte head of request and reply
=====  ================  ========  ==================================================================
1      migration         GET       reply u64 flags; not understood where the device cannot migrate
2      device state      GET, SET  u32 state, s32 -1; SET answers the state that it asked for
6      logging start     SET       u64 page size, u32 ranges, u32 0, ranges {u64, u64}; echoed
7      logging stop      SET       none
8      logging report    GET       u64 iova, u64 length, u64 page size; reply: the same and the bitmap
9      data size         GET       reply u64 bytes
=====  ================  ========  ==================================================================

Spec: mdev 4.8, 6.5, 9.2 (B31).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final, TypeAlias

from pvnet.mdev import vfio_layout as layout
from pvnet.mdev.dirty import DirtyPages
from pvnet.mdev.errors import MdevError
from pvnet.mdev.migration import Migration
from pvnet.papr.errno import EINVAL

FEATURE_GET: Final = 1 << 16
FEATURE_SET: Final = 1 << 17
FEATURE_PROBE: Final = 1 << 18
_INDEX: Final = 0xFFFF
_FLAGS: Final = _INDEX | FEATURE_GET | FEATURE_SET | FEATURE_PROBE


class Feature(IntEnum):
    """Features that exist here."""

    MIGRATION = 1
    DEVICE_STATE = 2
    LOGGING_START = 6
    LOGGING_STOP = 7
    LOGGING_REPORT = 8
    DATA_SIZE = 9


_OF_MIGRATION: Final = frozenset({Feature.MIGRATION, Feature.DEVICE_STATE, Feature.DATA_SIZE})


class Features:
    """The features of one device."""

    def __init__(self, migration: Migration, dirty: DirtyPages) -> None:
        self._migration = migration
        self._dirty = dirty

    def call(self, flags: int, data: bytes, max_data: int) -> bytes:
        """Perform a request; returns what follows the head of the reply, at most ``max_data`` bytes.

        :raises MdevError: EINVAL, or what a change of state has answered.
        """
        index, wanted = flags & _INDEX, flags & (FEATURE_GET | FEATURE_SET)
        probe = bool(flags & FEATURE_PROBE)
        if flags & ~_FLAGS or not (wanted or probe):
            raise MdevError(EINVAL, f"feature flags {flags:#x}")
        if wanted == FEATURE_GET | FEATURE_SET and not probe:
            raise MdevError(EINVAL, f"feature {index}: get and set")
        known = [action for number, action in _ACTIONS if number == index]
        if not known or (index in _OF_MIGRATION and not self._migration.flags):
            raise MdevError(EINVAL, f"feature {index}")
        if any(wanted & bit and bit not in known for bit in (FEATURE_GET, FEATURE_SET)):
            raise MdevError(EINVAL, f"feature {index} with flags {flags:#x}")
        if probe:
            return b""
        return _ACTIONS[Feature(index), wanted](self, data, max_data)

    @staticmethod
    def _fits(reply: bytes, room: int) -> bytes:
        if len(reply) > room:
            raise MdevError(EINVAL, f"{len(reply)} bytes of reply, there is room for {room}")
        return reply

    def _flags(self, _data: bytes, room: int) -> bytes:
        return self._fits(layout.encode_migration_flags(self._migration.flags), room)

    def _state(self, _data: bytes, room: int) -> bytes:
        return self._fits(layout.encode_device_state(self._migration.state), room)

    def _set_state(self, data: bytes, room: int) -> bytes:
        wanted = layout.decode_device_state(data)
        reply = self._fits(layout.encode_device_state(wanted), room)
        self._migration.set_state(wanted)
        return reply

    def _start(self, data: bytes, room: int) -> bytes:
        reply = self._fits(data, room)
        self._dirty.start(*layout.decode_logging_start(data))
        return reply

    def _stop(self, _data: bytes, _room: int) -> bytes:
        self._dirty.stop()
        return b""

    def _report(self, data: bytes, room: int) -> bytes:
        iova, length, page_size = layout.decode_logging_report(data)
        bitmap = self._dirty.report(iova, length, page_size, room - layout.LOGGING_REPORT.size)
        return layout.encode_logging_report(iova, length, page_size, bitmap)

    def _data_size(self, _data: bytes, room: int) -> bytes:
        self._fits(bytes(layout.MIGRATION_FLAGS.size), room)
        return layout.encode_data_size(self._migration.remaining())


_Action: TypeAlias = Callable[[Features, bytes, int], bytes]

_ACTIONS: Final[Mapping[tuple[Feature, int], _Action]] = {
    (Feature.MIGRATION, FEATURE_GET): Features._flags,
    (Feature.DEVICE_STATE, FEATURE_GET): Features._state,
    (Feature.DEVICE_STATE, FEATURE_SET): Features._set_state,
    (Feature.LOGGING_START, FEATURE_SET): Features._start,
    (Feature.LOGGING_STOP, FEATURE_SET): Features._stop,
    (Feature.LOGGING_REPORT, FEATURE_GET): Features._report,
    (Feature.DATA_SIZE, FEATURE_GET): Features._data_size,
}
