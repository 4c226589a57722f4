"""Translates programs in a memory, or sees them refused."""

from __future__ import annotations

import pytest
from ccw_rig import (
    IOVA,
    USUAL,
    Memory,
    program,
)

from pvnet.mdev.ccw_layout import Ccw, Orb
from pvnet.mdev.ccw_translate import (
    ChannelProgram,
    translate,
)
from pvnet.mdev.errors import MdevError

DATA = IOVA + 0x8000
LIST = IOVA + 0x4000


def translated(memory: Memory, address: int = IOVA, flags: int = USUAL) -> ChannelProgram:
    result = ChannelProgram(Orb(address, flags))
    memory.run(translate(result))
    return result


def refused(memory: Memory, address: int = IOVA, flags: int = USUAL) -> int:
    with pytest.raises(MdevError) as error:
        translated(memory, address, flags)
    return error.value.errno


def with_program(*ccws: Ccw, at: int = IOVA) -> Memory:
    memory = Memory()
    memory.put(at, program(*ccws))
    return memory
