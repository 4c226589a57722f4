"""States of a channel-I/O device: one flat table, every move of it.

A device that nobody has open is STANDBY; opened it is IDLE; a start makes it CP_PROCESSING while the program is being
translated, and CP_PENDING from then on until its last interrupt.  NOT_OPER is the end: such a device cannot be opened.

Spec: mdev 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final


class State(IntEnum):
    """States, with their numbers."""

    NOT_OPER = 0
    STANDBY = 1
    IDLE = 2
    CP_PROCESSING = 3
    CP_PENDING = 4


class Event(Enum):
    """What may happen."""

    NOT_OPER = "not_oper"
    """The subchannel is gone."""
    IO_REQUEST = "io_request"
    """Region 0 was written."""
    ASYNC_REQUEST = "async_request"
    """Region 1 was written."""
    INTERRUPT = "interrupt"
    """The subchannel has a status."""
    OPEN = "open"
    CLOSE = "close"


class Action(Enum):
    """What is done about it."""

    IGNORE = "ignore"
    VANISH = "vanish"
    """Free the program, become NOT_OPER."""
    REFUSE_EIO = "refuse_eio"
    REFUSE_EAGAIN = "refuse_eagain"
    REFUSE_EBUSY = "refuse_ebusy"
    START = "start"
    HALT_CLEAR = "halt_clear"
    TAKE_STATUS = "take_status"
    """Store the IRB, signal the irq."""
    DROP_STATUS = "drop_status"
    """Nobody is there to take it."""
    ENABLE = "enable"
    """Become IDLE."""
    QUIESCE = "quiesce"
    """Clear the subchannel, free the program, become STANDBY."""


TABLE: Final[Mapping[tuple[State, Event], Action]] = MappingProxyType({
    (State.NOT_OPER, Event.NOT_OPER): Action.IGNORE,
    (State.NOT_OPER, Event.IO_REQUEST): Action.REFUSE_EIO,
    (State.NOT_OPER, Event.ASYNC_REQUEST): Action.REFUSE_EIO,
    (State.NOT_OPER, Event.INTERRUPT): Action.DROP_STATUS,
    (State.NOT_OPER, Event.OPEN): Action.IGNORE,
    (State.NOT_OPER, Event.CLOSE): Action.IGNORE,
    (State.STANDBY, Event.NOT_OPER): Action.VANISH,
    (State.STANDBY, Event.IO_REQUEST): Action.REFUSE_EIO,
    (State.STANDBY, Event.ASYNC_REQUEST): Action.REFUSE_EIO,
    (State.STANDBY, Event.INTERRUPT): Action.DROP_STATUS,
    (State.STANDBY, Event.OPEN): Action.ENABLE,
    (State.STANDBY, Event.CLOSE): Action.VANISH,
    (State.IDLE, Event.NOT_OPER): Action.VANISH,
    (State.IDLE, Event.IO_REQUEST): Action.START,
    (State.IDLE, Event.ASYNC_REQUEST): Action.HALT_CLEAR,
    (State.IDLE, Event.INTERRUPT): Action.TAKE_STATUS,
    (State.IDLE, Event.OPEN): Action.VANISH,
    (State.IDLE, Event.CLOSE): Action.QUIESCE,
    (State.CP_PROCESSING, Event.NOT_OPER): Action.VANISH,
    (State.CP_PROCESSING, Event.IO_REQUEST): Action.REFUSE_EAGAIN,
    (State.CP_PROCESSING, Event.ASYNC_REQUEST): Action.REFUSE_EAGAIN,
    (State.CP_PROCESSING, Event.INTERRUPT): Action.TAKE_STATUS,
    (State.CP_PROCESSING, Event.OPEN): Action.VANISH,
    (State.CP_PROCESSING, Event.CLOSE): Action.QUIESCE,
    (State.CP_PENDING, Event.NOT_OPER): Action.VANISH,
    (State.CP_PENDING, Event.IO_REQUEST): Action.REFUSE_EBUSY,
    (State.CP_PENDING, Event.ASYNC_REQUEST): Action.HALT_CLEAR,
    (State.CP_PENDING, Event.INTERRUPT): Action.TAKE_STATUS,
    (State.CP_PENDING, Event.OPEN): Action.VANISH,
    (State.CP_PENDING, Event.CLOSE): Action.QUIESCE,
})  # fmt: skip
