"""The two state tables of the hypervisor's end of a VMC: one for the link, one for each HMC index.

Both are total: what the tables do not name is IGNORE or DROP in the same state, so that a test can list every pair and
the documents are drawn from them.  Spec: vmc 4.4, 8.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from itertools import product
from types import MappingProxyType
from typing import Final


class HvLinkState(IntEnum):
    """State of the link at the hypervisor."""

    DOWN = 0
    WAIT_INIT = 1
    WAIT_CAPS = 2
    SEEDING = 3
    READY = 4


class HvLinkTrigger(IntEnum):
    """What moves the link."""

    PARTNER_UP = 0
    GREET = 1
    INIT = 2
    INIT_COMPLETE = 3
    CAPS_GOOD = 4
    CAPS_BAD = 5
    SEEDED = 6
    GONE = 7
    SUSPENDED = 8
    PROTOCOL_ERROR = 9
    TIMEOUT = 10


class HvLinkAction(StrEnum):
    """What a row does besides moving the state."""

    IGNORE = "ignore"
    WAIT = "wait"
    SEND_INIT = "send INIT"
    ANSWER_INIT = "drop sessions, send INIT COMPLETE"
    ACCEPT_CAPS = "send CAP RESP 0, seed"
    REFUSE_CAPS = "send CAP RESP with a failure"
    DROP = "drop sessions"
    RESET = "drop sessions, reset our end, send INIT"


class IndexState(IntEnum):
    """State of an HMC index at the hypervisor."""

    UNSEEDED = 0
    SEEDING = 1
    IDLE = 2
    OPENING = 3
    OPEN = 4


class IndexTrigger(IntEnum):
    """What moves an index."""

    SEED = 0
    LENT = 1
    NOT_LENT = 2
    OPEN_GOOD = 3
    OPEN_BAD = 4
    OPEN_AGAIN = 5
    OPEN_OTHER = 6
    CLOSE = 7
    SIGNAL = 8
    LINK_LOST = 9


class IndexAction(StrEnum):
    """What a row does besides moving the state."""

    DROP = "drop, count"
    NOTHING = "nothing"
    OFFER_SEED = "ADD BUF owner 0, session 0"
    GIVE_UP = "stop seeding"
    ACCEPT = "read HMC id, ADD BUFs"
    CONFIRM = "OPEN RESP 0"
    REFUSE = "OPEN RESP 1"
    REFUSE_RESEED = "OPEN RESP 1, seed again"
    CLOSE_RESEED = "CLOSE RESP 0, seed again"
    CLOSE_AGAIN = "CLOSE RESP 0"
    RECEIVE = "take the buffer, deliver"
    FORGET = "forget buffers and session"


_L, _LT, _LA = HvLinkState, HvLinkTrigger, HvLinkAction
_I, _IT, _IA = IndexState, IndexTrigger, IndexAction


def _link_table() -> dict[tuple[HvLinkState, HvLinkTrigger], tuple[HvLinkAction, HvLinkState]]:
    table = {(state, trigger): (_LA.IGNORE, state) for state, trigger in product(_L, _LT)}
    for state in _L:
        table |= {
            (state, _LT.PARTNER_UP): (_LA.DROP, _L.WAIT_INIT),
            (state, _LT.GREET): (_LA.SEND_INIT, _L.WAIT_INIT),
            (state, _LT.INIT): (_LA.ANSWER_INIT, _L.WAIT_CAPS),
            (state, _LT.GONE): (_LA.DROP, _L.DOWN),
            (state, _LT.SUSPENDED): (_LA.DROP, _L.WAIT_INIT),
            (state, _LT.PROTOCOL_ERROR): (_LA.RESET, _L.WAIT_INIT),
        }
    return table | {
        (_L.WAIT_INIT, _LT.INIT_COMPLETE): (_LA.WAIT, _L.WAIT_CAPS),
        (_L.WAIT_INIT, _LT.TIMEOUT): (_LA.SEND_INIT, _L.WAIT_INIT),
        (_L.WAIT_CAPS, _LT.CAPS_GOOD): (_LA.ACCEPT_CAPS, _L.SEEDING),
        (_L.WAIT_CAPS, _LT.CAPS_BAD): (_LA.REFUSE_CAPS, _L.WAIT_CAPS),
        (_L.SEEDING, _LT.CAPS_GOOD): (_LA.REFUSE_CAPS, _L.SEEDING),
        (_L.SEEDING, _LT.CAPS_BAD): (_LA.REFUSE_CAPS, _L.SEEDING),
        (_L.SEEDING, _LT.SEEDED): (_LA.WAIT, _L.READY),
        (_L.READY, _LT.SEEDED): (_LA.WAIT, _L.READY),
        (_L.READY, _LT.CAPS_GOOD): (_LA.REFUSE_CAPS, _L.READY),
        (_L.READY, _LT.CAPS_BAD): (_LA.REFUSE_CAPS, _L.READY),
    }


def _index_table() -> dict[tuple[IndexState, IndexTrigger], tuple[IndexAction, IndexState]]:
    table = {(state, trigger): (_IA.DROP, state) for state, trigger in product(_I, _IT)}
    for state in _I:
        table[state, _IT.LINK_LOST] = (_IA.FORGET, _I.UNSEEDED)
    for state in (_I.UNSEEDED, _I.SEEDING, _I.IDLE):
        table |= {
            (state, _IT.OPEN_GOOD): (_IA.ACCEPT, _I.OPENING),
            (state, _IT.OPEN_BAD): (_IA.REFUSE_RESEED, _I.UNSEEDED),
            (state, _IT.CLOSE): (_IA.CLOSE_AGAIN, state),
        }
    for state in (_I.OPENING, _I.OPEN):
        table |= {
            (state, _IT.OPEN_AGAIN): (_IA.NOTHING, state),
            (state, _IT.OPEN_OTHER): (_IA.REFUSE, state),
            (state, _IT.CLOSE): (_IA.CLOSE_RESEED, _I.UNSEEDED),
        }
    return table | {
        (_I.UNSEEDED, _IT.SEED): (_IA.OFFER_SEED, _I.SEEDING),
        (_I.UNSEEDED, _IT.LENT): (_IA.NOTHING, _I.IDLE),
        (_I.UNSEEDED, _IT.NOT_LENT): (_IA.NOTHING, _I.UNSEEDED),
        (_I.SEEDING, _IT.SEED): (_IA.OFFER_SEED, _I.SEEDING),
        (_I.SEEDING, _IT.LENT): (_IA.NOTHING, _I.IDLE),
        (_I.SEEDING, _IT.NOT_LENT): (_IA.GIVE_UP, _I.UNSEEDED),
        (_I.IDLE, _IT.LENT): (_IA.NOTHING, _I.IDLE),
        (_I.IDLE, _IT.NOT_LENT): (_IA.NOTHING, _I.IDLE),
        (_I.OPENING, _IT.LENT): (_IA.CONFIRM, _I.OPEN),
        (_I.OPENING, _IT.NOT_LENT): (_IA.REFUSE_RESEED, _I.UNSEEDED),
        (_I.OPEN, _IT.LENT): (_IA.NOTHING, _I.OPEN),
        (_I.OPEN, _IT.NOT_LENT): (_IA.NOTHING, _I.OPEN),
        (_I.OPEN, _IT.SIGNAL): (_IA.RECEIVE, _I.OPEN),
    }


LINK_TABLE: Final[Mapping[tuple[HvLinkState, HvLinkTrigger], tuple[HvLinkAction, HvLinkState]]] = MappingProxyType(
    _link_table()
)
INDEX_TABLE: Final[Mapping[tuple[IndexState, IndexTrigger], tuple[IndexAction, IndexState]]] = MappingProxyType(
    _index_table()
)
