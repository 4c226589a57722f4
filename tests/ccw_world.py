"""A program, a memory and a scripted control unit around the channel."""

from __future__ import annotations

from ccw_rig import (
    IOVA,
    USUAL,
    Memory,
    ScriptUnit,
    program,
)

from pvnet.mdev.ccw_execute import execute
from pvnet.mdev.ccw_layout import Ccw, Orb, Scsw
from pvnet.mdev.ccw_translate import ChannelProgram, translate

DATA = IOVA + 0x8000
LIST = IOVA + 0x4000
END, UNIT_CHECK, MODIFIER, EXCEPTION = 0x0C, 0x0E, 0x4C, 0x0D
PGC, IL, DATA_CHECK = 0x20, 0x40, 0x08


class World:
    """A memory with a program at IOVA, and a unit: command 0x41 takes 16 bytes, 0x42 gives 16, 0x0c 8 backward."""

    def __init__(self, *ccws: Ccw) -> None:
        self.memory = Memory()
        self.unit = ScriptUnit()
        self.unit.inputs = {0x42: bytes(range(16)), 0x0C: bytes(range(8)), 0xE4: b"identity", 0x04: bytes(32)}
        self.unit.outputs = {0x41: 16, 0x63: 16, 0x31: 5}
        self.statuses: list[Scsw] = []
        self.memory.put(IOVA, program(*ccws))

    def run(self, flags: int = USUAL, address: int = IOVA) -> Scsw:
        prepared = ChannelProgram(Orb(address, flags))
        self.memory.run(translate(prepared))
        self.memory.writes.clear()
        scsw = self.memory.run(execute(prepared, self.unit, self.statuses.append))
        assert self.unit.log.count("finish") == 1
        assert self.unit.log[-1] == "finish"
        return scsw


def check(scsw: Scsw, cstat: int, at: int) -> None:
    """It ended with an alert, after the CCW with number ``at``."""
    assert (scsw.cstat, scsw.stctl, scsw.fctl, scsw.actl) == (cstat, 0x17, 4, 0)
    assert scsw.address == IOVA + 8 * at + 8
