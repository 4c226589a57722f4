"""Channel programs of an FBA disk, as a driver builds them into its DMA memory.

::

    0x000  program: up to 256 CCWs are read from here, so this page is the program's
    0x1000 parameters of DEFINE EXTENT and LOCATE, what is sensed, the IDA list
    0x2000 blocks, up to 96 of 512 bytes

Spec: mdev 5.4, 5.5, 8.4.
"""

from __future__ import annotations

import struct
from typing import Final

from pvnet.mdev.ccw_fba import EXTENT, LOCATE, FbaCommand, FbaOperation, Permission
from pvnet.mdev.ccw_layout import SENSE_BYTES, Ccw, Orb, Scsw
from pvnet.mdev.ccw_names import CcwFlag, Command, Function, OrbFlag
from pvnet.mdev.ccw_regions import IO_BYTES
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL

PARAMETERS: Final = 0x1000
_LOCATE_AT: Final = PARAMETERS + 0x40
SENSED_AT: Final = PARAMETERS + 0x80
SENSED_BYTES: Final = 64
_LIST_AT: Final = PARAMETERS + 0x100
DATA: Final = 0x2000
MIN_MEMORY: Final = 1 << 16
MAX_REQUEST: Final = 96 * 512
"""Bytes of one request."""
_BLOCK: Final = 4096
_LIMIT: Final = 1 << 31
_IDAW: Final = struct.Struct(">Q")
_ORB_FLAGS: Final = OrbFlag.FORMAT_1 | OrbFlag.PREFETCH | OrbFlag.IDAW_64


class RequestMemory:
    """The driver's DMA memory.

    :raises MdevError: EINVAL, smaller than 64 KiB or not below 2 GiB, where channel programs must lie.
    """

    def __init__(self, memory: memoryview, iova: int) -> None:
        if len(memory) < MIN_MEMORY or iova % _BLOCK or not 0 < iova <= _LIMIT - MIN_MEMORY:
            raise MdevError(EINVAL, f"{len(memory)} bytes at {iova:#x}: expected {MIN_MEMORY} below 2 GiB")
        self._memory = memory
        self._iova = iova

    def _put(self, offset: int, data: bytes) -> int:
        self._memory[offset : offset + len(data)] = data
        return self._iova + offset

    def _start(self, *ccws: Ccw) -> bytes:
        """Store a program; returns what region 0 is to be written with."""
        address = self._put(0, b"".join(ccw.encode() for ccw in ccws))
        orb = Orb(address, _ORB_FLAGS)
        return (orb.encode() + Scsw(fctl=Function.START).encode()).ljust(IO_BYTES, b"\0")

    def sensing(self, command: Command) -> bytes:
        """Make a program that reads up to 64 bytes with one command; :meth:`sensed` has them then."""
        address = self._put(SENSED_AT, bytes(SENSED_BYTES))
        length = SENSE_BYTES if command == Command.BASIC_SENSE else SENSED_BYTES
        return self._start(Ccw(command, CcwFlag.SUPPRESS_LENGTH, length, address))

    def sensed(self) -> bytes:
        """Return what the last :meth:`sensing` has brought."""
        return bytes(self._memory[SENSED_AT : SENSED_AT + SENSED_BYTES])

    def moving(self, block: int, blocks: int, block_size: int, data: bytes | None) -> bytes:
        """Make a program that reads blocks, or writes ``data``; :meth:`moved` has what was read."""
        writes = data is not None
        length = blocks * block_size
        if data is not None:
            self._put(DATA, data)
        permission = Permission.WRITE if writes else Permission.READ
        extent = EXTENT.pack(permission << 6, block_size, block, 0, blocks - 1)
        locate = LOCATE.pack(FbaOperation.WRITE if writes else FbaOperation.READ, 0, blocks, 0)
        entries = range(self._iova + DATA, self._iova + DATA + length, _BLOCK)
        return self._start(
            Ccw(FbaCommand.DEFINE_EXTENT, CcwFlag.CHAIN_COMMAND, EXTENT.size, self._put(PARAMETERS, extent)),
            Ccw(FbaCommand.LOCATE, CcwFlag.CHAIN_COMMAND, LOCATE.size, self._put(_LOCATE_AT, locate)),
            Ccw(
                FbaCommand.WRITE if writes else FbaCommand.READ,
                CcwFlag.IDA,
                length,
                self._put(_LIST_AT, b"".join(map(_IDAW.pack, entries))),
            ),
        )

    def moved(self, blocks: int, block_size: int) -> bytes:
        """Return the blocks that were read."""
        return bytes(self._memory[DATA : DATA + blocks * block_size])
