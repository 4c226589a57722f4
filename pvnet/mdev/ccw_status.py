"""Statuses that do not come out of a program's own end: halted, cleared, path gone, broken.

Spec: mdev 5.6, 5.7, vectors C6.
"""

from __future__ import annotations

from typing import Final

from pvnet.mdev.ccw_execute import NORMAL_END, scsw_flags
from pvnet.mdev.ccw_layout import Irb, Scsw, make_irb
from pvnet.mdev.ccw_names import Activity, ChannelStatus, Function, ScswFlag, StatusControl
from pvnet.mdev.ccw_translate import ChannelProgram

_ENDED: Final = StatusControl.PRIMARY | StatusControl.SECONDARY | StatusControl.PENDING

CLEARED: Final = make_irb(Scsw(fctl=Function.CLEAR, stctl=StatusControl.PENDING))
HALTED_IDLE: Final = make_irb(Scsw(fctl=Function.HALT, stctl=StatusControl.PENDING))
NOT_OPERATIONAL: Final = make_irb(
    Scsw(ScswFlag.DEFERRED_CC_3, Function.START, 0, StatusControl.ALERT | StatusControl.PENDING)
)
"""Deferred condition code 3: no path to the device."""


def halted(flags: int) -> Irb:
    """Status of a program with these SCSW flags that was halted: the device ended it."""
    return make_irb(Scsw(flags, Function.START | Function.HALT, 0, _ENDED, dstat=NORMAL_END))


def broken(flags: int, cstat: ChannelStatus) -> Irb:
    """Status of a program that ended by no fault of its own."""
    return make_irb(Scsw(flags, Function.START, 0, _ENDED | StatusControl.ALERT, cstat=cstat))


def busy(program: ChannelProgram | None, suspended: Scsw | None) -> Scsw:
    """Return what STSCH says of a subchannel that has not ended what it was told."""
    if suspended is not None:
        return Scsw(suspended.flags, Function.START, Activity.SUSPENDED, 0, suspended.address)
    flags = scsw_flags(program) if program is not None else 0
    return Scsw(flags, Function.START, Activity.SUBCHANNEL_ACTIVE | Activity.DEVICE_ACTIVE)
