"""An FBA disk: control unit 6310, device 9336, over a store of blocks.

A request is a program of three commands: DEFINE EXTENT says which blocks may be touched and how, LOCATE which of them
come next, READ or WRITE moves them::

    63 DEFINE EXTENT  16  mask 1 (00 may write, 40 read only, 80 and c0 neither) | 0 | block size 2
                          | 4 disk block of the extent 4 | 8 its first block number 4 | 12 its last 4
    43 LOCATE          8  operation 1 (low four bits: 5 write, 6 read, 8 none) | aux 1 | blocks 2 | 4 first block 4
    42 READ, 41 WRITE     the blocks announced by LOCATE
    64 READ DEVICE CHARACTERISTICS 32, e4 SENSE ID 7, 04 BASIC SENSE 32, 03 NOP

All numbers are big-endian.  What DEFINE EXTENT and LOCATE said is forgotten at the end of each program; one LOCATE
serves one READ or WRITE.  A WRITE that gets less than announced fills its last block with zeros and leaves the others
alone.  Blocks count as written when the program ends: the store is flushed first, unless ``durable`` is off, because
the command set has no flush.

Refusals are unit checks; the first two sense bytes say why: 80 00 command reject, 80 04 file protected (outside of the
extent, or not to be written), 80 08 no such block on the disk, 08 80 the store cannot be read, 10 80 it cannot be
written.  Decided: a block size other than that of the disk is a command reject; a second DEFINE EXTENT replaces the
first.

Spec: mdev 5.7, 8.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pvnet.mdev.ccw_execute import NORMAL_END, UnitCheckError
from pvnet.mdev.ccw_layout import SENSE_BYTES
from pvnet.mdev.ccw_names import Command
from pvnet.mdev.device import BlockStore
from pvnet.mdev.errors import MdevError


class FbaCommand(IntEnum):
    """Commands of an FBA disk beside the common ones."""

    WRITE = 0x41
    READ = 0x42
    LOCATE = 0x43
    DEFINE_EXTENT = 0x63


class FbaOperation(IntEnum):
    """What a LOCATE prepares."""

    WRITE = 5
    READ = 6
    NONE = 8


class Permission(IntEnum):
    """What an extent allows: the two highest bits of its mask."""

    WRITE = 0
    READ = 1
    NOTHING = 2


class Sense(IntEnum):
    """Sense byte 0."""

    DATA_CHECK = 0x08
    EQUIPMENT_CHECK = 0x10
    COMMAND_REJECT = 0x80


class SenseDetail(IntEnum):
    """Sense byte 1."""

    NONE = 0
    FILE_PROTECTED = 0x04
    NO_RECORD = 0x08
    PERMANENT = 0x80


SENSE_ID: Final = bytes.fromhex("ff631001933610")
"""Control unit 6310 model 1, device 9336 model 10."""
BLOCK_SIZES: Final = (512, 1024, 2048, 4096)
EXTENT: Final = struct.Struct(">BxHIII")
LOCATE: Final = struct.Struct(">BBHI")
CHARACTERISTICS: Final = struct.Struct(">4BHIII14x")
_READ: Final = int(FbaCommand.READ)
_WRITE: Final = int(FbaCommand.WRITE)
_DEFINE_EXTENT: Final = int(FbaCommand.DEFINE_EXTENT)
_LOCATE: Final = int(FbaCommand.LOCATE)
_OPERATIONS: Final = {int(operation): operation for operation in FbaOperation}
_OPERATION_OF: Final = {_READ: FbaOperation.READ, _WRITE: FbaOperation.WRITE}
_PERMISSION_SHIFT: Final = 6
_OPERATION: Final = 0xF
_MODE_DATA_CHAINING: Final = 0x20
_CLASS_FBA: Final = 0x21
_TYPE_9336: Final = 0x11
_BLOCKS_PER_CYCLE: Final = 64
_BLOCKS_PER_BOUNDARY: Final = 0x100


@dataclass(frozen=True, slots=True)
class Extent:
    """A DEFINE EXTENT, in its own fields."""

    mask: int
    block_size: int
    location: int
    first: int
    last: int

    @property
    def permission(self) -> int:
        """Return the two permission bits, :class:`Permission` (3 is NOTHING too)."""
        return self.mask >> _PERMISSION_SHIFT


class FbaUnit:
    """The control unit and its only disk; :class:`~pvnet.mdev.ccw_execute.ControlUnit`.

    :param written: told (offset, length) of every write to the store.
    """

    def __init__(
        self, store: BlockStore, block_size: int, *, durable: bool = True, written: Callable[[int, int], None]
    ) -> None:
        self.block_size = block_size
        self.durable = durable
        self._store = store
        self._written = written
        self._blocks = store.size // block_size
        self._sense = bytes(SENSE_BYTES)
        self._dirty = False
        self._forget()

    def _forget(self) -> None:
        self._code = 0
        self._extent: Extent | None = None
        self._operation: FbaOperation | None = None
        self._offset = 0
        """Where the next bytes of the blocks are, in the store."""
        self._length = 0
        """How many bytes of the blocks were announced by LOCATE."""
        self._input = b""
        self._output = bytearray()

    @property
    def blocks(self) -> int:
        """How many blocks the disk has."""
        return self._blocks

    @property
    def sense_data(self) -> bytes:
        """The sense bytes, not cleared."""
        return self._sense

    @sense_data.setter
    def sense_data(self, value: bytes) -> None:
        self._sense = value

    def _refuse(self, sense: Sense, detail: SenseDetail = SenseDetail.NONE) -> UnitCheckError:
        self._sense = bytes((sense, detail)).ljust(SENSE_BYTES, b"\0")
        return UnitCheckError()

    # --- ControlUnit ---

    def begin(self, code: int) -> int | None:
        """Begin a command."""
        self._code = code
        self._output.clear()
        if code == _DEFINE_EXTENT:
            return EXTENT.size
        if code == _LOCATE:
            return LOCATE.size
        if code in (_READ, _WRITE):
            if self._operation is not _OPERATION_OF[code]:
                raise self._refuse(Sense.COMMAND_REJECT)
            self._operation = None
            return self._length
        match code:
            case Command.NOP:
                return None
            case Command.SENSE_ID:
                self._input = SENSE_ID
            case Command.BASIC_SENSE:
                self._input = self.sense()
            case Command.READ_CHARACTERISTICS:
                self._input = self._characteristics()
            case _:
                raise self._refuse(Sense.COMMAND_REJECT)
        return len(self._input)

    def give(self, length: int) -> bytes:
        """Return the next bytes of what is read."""
        if self._code != _READ:
            data, self._input = self._input[:length], self._input[length:]
            return data
        try:
            data = self._store.read(self._offset, length)
        except MdevError as error:
            raise self._refuse(Sense.DATA_CHECK, SenseDetail.PERMANENT) from error
        self._offset += length
        return data

    def take(self, data: bytes) -> None:
        """Take parameters, or bytes to be written: whole blocks are stored at once."""
        if self._code == _WRITE and not self._output and not len(data) % self.block_size:
            self._put(data)  # nearly always whole blocks: no copy of them
            return
        self._output += data
        if self._code == _WRITE:
            whole = len(self._output) - len(self._output) % self.block_size
            self._store_blocks(whole)

    def _store_blocks(self, length: int) -> None:
        if length:
            data = bytes(self._output[:length])
            del self._output[:length]
            self._put(data)

    def _put(self, data: bytes) -> None:
        length = len(data)
        try:
            self._store.write(self._offset, data)
        except MdevError as error:
            raise self._refuse(Sense.EQUIPMENT_CHECK, SenseDetail.PERMANENT) from error
        finally:
            self._dirty = True
            self._written(self._offset, length)
        self._offset += length

    def end(self) -> int:
        """Obey the parameters of DEFINE EXTENT and LOCATE; complete a WRITE."""
        if self._code == _DEFINE_EXTENT:
            self._define(self._output)
        elif self._code == _LOCATE:
            self._locate(self._output)
        elif self._code == _WRITE:
            if self._output:
                self._output += bytes(self.block_size - len(self._output))
                self._store_blocks(self.block_size)
            self._flush()
        return NORMAL_END

    def _flush(self) -> None:
        if self._dirty and self.durable:
            try:
                self._store.flush()
            except MdevError as error:
                raise self._refuse(Sense.EQUIPMENT_CHECK, SenseDetail.PERMANENT) from error
        self._dirty = False

    def finish(self) -> None:
        """Forget extent and location."""
        self._forget()

    def sense(self) -> bytes:
        """Return the sense bytes and clear them."""
        data, self._sense = self._sense, bytes(SENSE_BYTES)
        return data

    # --- commands ---

    def _characteristics(self) -> bytes:
        head = (_MODE_DATA_CHAINING, 0, _CLASS_FBA, _TYPE_9336)
        return CHARACTERISTICS.pack(*head, self.block_size, _BLOCKS_PER_CYCLE, _BLOCKS_PER_BOUNDARY, self._blocks)

    def _define(self, data: bytearray) -> None:
        self._extent = self._operation = None
        if len(data) < EXTENT.size:
            raise self._refuse(Sense.COMMAND_REJECT)
        extent = Extent(*EXTENT.unpack(data))
        if extent.block_size != self.block_size or extent.last < extent.first:
            raise self._refuse(Sense.COMMAND_REJECT)
        if extent.location + (extent.last - extent.first) >= self._blocks:
            raise self._refuse(Sense.COMMAND_REJECT, SenseDetail.NO_RECORD)
        self._extent = extent

    def _locate(self, data: bytearray) -> None:
        self._operation = None
        extent = self._extent
        if len(data) < LOCATE.size or extent is None:
            raise self._refuse(Sense.COMMAND_REJECT)
        operation, _, blocks, start = LOCATE.unpack(data)
        wanted = _OPERATIONS.get(operation & _OPERATION)
        if wanted is None or not blocks:
            raise self._refuse(Sense.COMMAND_REJECT)
        allowed = extent.permission == Permission.WRITE and not self._store.readonly
        if wanted is not FbaOperation.WRITE:
            allowed = wanted is FbaOperation.NONE or extent.permission in (Permission.WRITE, Permission.READ)
        if not allowed or start < extent.first or start + blocks - 1 > extent.last:
            raise self._refuse(Sense.COMMAND_REJECT, SenseDetail.FILE_PROTECTED)
        self._operation = wanted
        self._offset = (extent.location + start - extent.first) * self.block_size
        self._length = blocks * self.block_size
