"""The smallest useful device, class and type ``echo``: for trying the bus out, and to copy from when writing one's own.

Devcalls (version 1):

====  =======  ==============================================================================================
func  name     what it does
====  =======  ==============================================================================================
0     ECHO     leaves the data as it is; the result is its length
1     REVERSE  reverses the data; the result is its length
2     COUNT    no data; the result is the number of devcalls and messages so far (up to 2^31 - 1)
====  =======  ==============================================================================================

Region 0, with a signal anywhere in it, is a mailbox and no ring (a region may have any format)::

    offset  type  field
    0       u32   length of the message, 0: empty
    4       u32   sequence number, chosen by north
    8       u32   sequence number of the last answer, written by the device
    12      u32   0
    16      ...   the message, which the device reverses in place; the signal lies behind the longest one

North writes message, length and sequence number, then raises the signal; the device answers by storing the same number
at offset 8 and raising its own.  Little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENOENT, EPERM
from pvnet.vbus.device import Connection, ConnectionHost, Region
from pvnet.vbus.errors import VbusError

VERSION: Final = 1
MAILBOX: Final = 0
"""Id of the only region."""
HEADER: Final = struct.Struct("<IIII")
_RESULT_MAX: Final = (1 << 31) - 1


class EchoFunc(IntEnum):
    """Devcalls of the device."""

    ECHO = 0
    REVERSE = 1
    COUNT = 2


class EchoConnection:
    """One opener's use of the device."""

    def __init__(self, device: EchoDevice) -> None:
        self._device = device
        self._mailbox: Region | None = None

    def call(self, func: int, data: memoryview, flags: int) -> int:
        """Run a devcall; unknown functions and flags are EINVAL."""
        if flags or func not in EchoFunc.__members__.values():
            raise VbusError(EINVAL, f"echo has no function {func}")
        self._device.count += 1
        if func == EchoFunc.REVERSE:
            data[:] = bytes(data)[::-1]
        return min(self._device.count, _RESULT_MAX) if func == EchoFunc.COUNT else len(data)

    def shm(self, id: int, region: Region, flags: int) -> None:  # noqa: A002
        """Take the mailbox."""
        if flags or id != MAILBOX or region.signal is None or region.length <= HEADER.size:
            raise VbusError(EINVAL, f"echo region {id}: expected 0, longer than {HEADER.size} bytes, with a signal")
        if self._mailbox is not None:
            raise VbusError(EEXIST, "echo has its mailbox")
        self._mailbox = region
        region.signal.on_wakeup = self._message
        region.signal.enable()

    def _message(self) -> None:
        region = self._mailbox
        if region is None or region.signal is None:
            return
        length, number, answered, _ = HEADER.unpack_from(region.view)  # once: the peer may change it meanwhile
        if not length or number == answered or length > region.length - HEADER.size:
            return
        end = HEADER.size + length
        region.view[HEADER.size : end] = bytes(region.view[HEADER.size : end])[::-1]
        self._device.count += 1
        struct.pack_into("<I", region.view, 8, number)
        region.signal.inject()

    def close(self) -> None:
        """Stop answering."""
        self._mailbox = None

    def release(self) -> None:
        """Let go."""
        self._device.connection = None


class EchoDevice:
    """An instance; attributes: ``note`` (any text), ``count`` (read-only)."""

    type = "echo"

    def __init__(self, note: str = "") -> None:
        self.note = note
        self.count = 0
        self.connection: EchoConnection | None = None

    def open(self, version: int, host: ConnectionHost) -> Connection:  # noqa: ARG002 - part of the interface
        """Open for one client."""
        if version != VERSION:
            raise VbusError(EINVAL, f"echo version {version}: expected {VERSION}")
        if self.connection is not None:
            raise VbusError(EBUSY, "echo is open")
        self.connection = EchoConnection(self)
        return self.connection

    def attributes(self) -> Mapping[str, str]:
        """All attributes."""
        return {"count": str(self.count), "note": self.note}

    def get(self, key: str) -> str:
        """One attribute."""
        try:
            return self.attributes()[key]
        except KeyError:
            raise VbusError(ENOENT, f"echo has no attribute {key!r}") from None

    def set(self, key: str, value: str) -> None:
        """Change ``note``."""
        self.get(key)
        if key != "note":
            raise VbusError(EPERM, f"echo attribute {key!r} is read-only")
        self.note = value

    def close(self) -> None:
        """Nothing is held."""


class EchoClass:
    """Makes echo devices."""

    name = "echo"
    type = "echo"

    def create(self, name: str, attributes: Mapping[str, str]) -> EchoDevice:  # noqa: ARG002
        """Make one; the only attribute that can be given is ``note``."""
        device = EchoDevice()
        for key, value in attributes.items():
            device.set(key, value)
        return device


ECHO_CLASS: Final = EchoClass()
"""The entry point."""
