"""The field's terms as types, and the rule for names of labs and nodes.

The ``NewType``s cost nothing at run time and stop a LIOBN from being passed where an IOBA is meant.
"""

from __future__ import annotations

import re
from typing import Final, NewType

from pvnet.core.errors import ConfigError

UnitAddress = NewType("UnitAddress", int)
"""Partition-local address of a virtual adapter (``reg`` of its device-tree node), 32 bits."""
Liobn = NewType("Liobn", int)
"""Logical I/O bus number: names one DMA window pane, 32 bits."""
Ioba = NewType("Ioba", int)
"""Address inside a LIOBN's window, 64 bits."""
DrcIndex = NewType("DrcIndex", int)
"""Handle of a dynamic-reconfiguration connector, 32 bits."""
HmcIndex = NewType("HmcIndex", int)
"""Number of a management-application connection, 0-based."""
HmcSession = NewType("HmcSession", int)
"""Incarnation of an HMC index: 1..254; 0 means no session."""
BufferId = NewType("BufferId", int)
"""Number of a VMC data buffer inside its HMC index; 0xFFFF means none."""
NodeName = NewType("NodeName", str)
"""Name of a process in a lab; also a topic level."""

NAME_PATTERN: Final = r"^[a-z0-9_-]{1,32}$"
_NAME: Final = re.compile(NAME_PATTERN)
RESERVED_NAMES: Final = frozenset({"state"})
"""``state`` is the last level of a node's own topic; brokers' ACL patterns would confuse such a node with it."""


def check_name(name: str, what: str = "node") -> NodeName:
    """Return ``name`` as a :data:`NodeName` or raise :class:`ConfigError` saying what was expected."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigError(f"{what} name {name!r}: expected 1 to 32 of a-z 0-9 _ - (and not 'state')")
    return NodeName(name)
