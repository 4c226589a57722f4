"""The bridge of July 2009 (ABI v1, revision b), as a front of today's, to replay traffic of that time.

::

    BAR0, 32 bytes of memory    0 vector u32   4 len u32   8 datap u64   16 result u32 (a 32-bit read executes)
    BAR1, 4 bytes of ports      0..7 an event queue, anything else a signal: its handle + 8

One mailbox for both kinds of calls: vectors 0 NEGOTIATE and 1 BUSREG are the bridge's, 2 to 5 are DEVOPEN, DEVCLOSE,
DEVCALL and DEVSHM.  The host of that time gave out signal handles that began behind the event queues, so DEVSHM answers
the handle + 8 here.  Accesses that are not 32 bits wide, or not at a register, read 0 and change nothing.

Revision a, which returned the signal's handle inside of its parameters, has another length and gets EINVAL.

Spec: vbus 3.2.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from pvnet.vbus.bridge_io import BridgeCall, BridgeResult, Doorbell
from pvnet.vbus.layout import MAX_QUEUES, BridgeVector, BusVector, CallDescriptor, result_word
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.south_io import BusCall, SouthOutput

BAR0_BYTES: Final = 32
"""Bytes that are decoded."""
RESULT: Final = 16
"""Offset whose read executes the call."""
HANDLE_OFFSET: Final = MAX_QUEUES
"""What is added to signal handles."""

_MAILBOX: Final = Struct("<IIQ")
_BUS_VECTOR: Final = 2
_DEVSHM: Final = _BUS_VECTOR + BusVector.DEVSHM


class BridgeV1:
    """The registers of ABI v1 in front of ``south``; outputs of it other than results collect in :attr:`outputs`."""

    def __init__(self, south: VbusSouth) -> None:
        self._south = south
        self._registers = bytearray(_MAILBOX.size)
        self.outputs: list[SouthOutput] = []

    def write(self, offset: int, data: bytes) -> None:
        """A write to BAR0."""
        if len(data) == 4 and offset % 4 == 0 and 0 <= offset < len(self._registers):
            self._registers[offset : offset + 4] = data

    def read(self, offset: int, size: int, now: float) -> int:
        """A read from BAR0; at 16 it executes the call."""
        if size != 4 or offset != RESULT:
            return 0
        return result_word(self._execute(now))

    def port(self, value: int, now: float) -> None:
        """A write to BAR1."""
        if value < HANDLE_OFFSET:
            doorbell = Doorbell(Register.EVENTQ, value)
        else:
            doorbell = Doorbell(Register.SHMSIGNAL, value - HANDLE_OFFSET)
        self.outputs += self._south.feed(doorbell, now)

    def _execute(self, now: float) -> int:
        vector, length, address = _MAILBOX.unpack(self._registers)
        if vector in {BridgeVector.NEGOTIATE, BridgeVector.QREG}:
            outputs = self._south.feed(BridgeCall(0, bytes(self._registers)), now)
        else:
            call = CallDescriptor((vector - _BUS_VECTOR) & 0xFFFFFFFF, length, address)
            outputs = self._south.feed(BusCall(0, call.encode()), now)
        result = next(output.result for output in outputs if isinstance(output, BridgeResult))
        self.outputs += [output for output in outputs if not isinstance(output, BridgeResult)]
        return result + HANDLE_OFFSET if vector == _DEVSHM and result > 0 else result
