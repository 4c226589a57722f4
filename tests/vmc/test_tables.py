"""Every table, pair by pair: total, closed, what is special in each dialect, and the diagrams drawn from them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.vmc.buffer_pool import HYPERVISOR_TABLE, PARTITION_TABLE, BufferPool, BufferState, BufferTrigger
from pvnet.vmc.connection import HmcAction, HmcState, HmcTrigger, hmc_table
from pvnet.vmc.context import VmcState
from pvnet.vmc.diagrams import state_diagram
from pvnet.vmc.dialect import DIALECTS, HARDENED, LINUX, LINUX_STATUS, LOPAR, LOPAR_STATUS
from pvnet.vmc.hypervisor_tables import (
    INDEX_TABLE,
    LINK_TABLE,
    HvLinkState,
    HvLinkTrigger,
    IndexAction,
    IndexState,
    IndexTrigger,
)
from pvnet.vmc.messages import BufferOwner
from pvnet.vmc.partition import LinkAction, LinkTrigger, link_table

ALL = [HARDENED, LINUX, LOPAR]


@pytest.mark.parametrize("dialect", ALL, ids=lambda d: d.name)
def test_every_pair_of_every_table_is_a_row(dialect):
    assert set(link_table(dialect)) == set(product(VmcState, LinkTrigger))
    assert set(hmc_table(dialect)) == set(product(HmcState, HmcTrigger))
    assert set(LINK_TABLE) == set(product(HvLinkState, HvLinkTrigger))
    assert set(INDEX_TABLE) == set(product(IndexState, IndexTrigger))
    assert DIALECTS[dialect.name] is dialect


@pytest.mark.parametrize("dialect", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("state", VmcState)
def test_link_rows_that_hold_in_every_state(state, dialect):
    table = link_table(dialect)
    assert table[state, LinkTrigger.REMOVE][1] is VmcState.INITIAL
    assert table[state, LinkTrigger.REGISTER_FAILED][1] is VmcState.FAILED
    lost = table[state, LinkTrigger.PARTNER_LOST]
    if state is VmcState.SCHED_RESET:
        assert lost == (LinkAction.IGNORE, state)
    else:
        assert lost == (LinkAction.DROP_SESSIONS, VmcState.CRQINIT)
    if state in (VmcState.CAPABILITIES, VmcState.READY, VmcState.FAILED):
        restarts = (LinkAction.RESTART, VmcState.CRQINIT)
        assert table[state, LinkTrigger.INIT] == (restarts if dialect.init_restarts else (LinkAction.IGNORE, state))
    suspended = table[state, LinkTrigger.SUSPENDED][0]
    is_up = state not in (VmcState.SCHED_RESET, VmcState.INITIAL)
    assert (suspended is LinkAction.ENABLE) == (dialect.enables_after_suspend and is_up)


@pytest.mark.parametrize("dialect", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("state", HmcState)
def test_hmc_rows_that_hold_in_every_state(state, dialect):
    table = hmc_table(dialect)
    assert table[state, HmcTrigger.PARTNER_LOST] == (HmcAction.FREE_WAKE, HmcState.FREE)
    assert table[state, HmcTrigger.OWN_RESET][1] is HmcState.FREE
    closes = table[state, HmcTrigger.APP_CLOSE][0] is HmcAction.SEND_CLOSE
    assert closes == (state in (HmcState.OPENING, HmcState.READY, HmcState.FAILED))
    accepted = table[state, HmcTrigger.OPEN_ACCEPTED]
    assert (accepted == (HmcAction.OPENED, HmcState.READY)) == (state is HmcState.OPENING)
    frees = table[state, HmcTrigger.CLOSE_DONE][1] is HmcState.FREE
    assert frees == (dialect.close_always_frees or state in (HmcState.CLOSING, HmcState.FREE))
    receives = table[state, HmcTrigger.SIGNAL][0] is HmcAction.RECEIVE
    linux = state is not HmcState.FREE
    assert receives == (linux if dialect.signals_while_closing else state in (HmcState.OPENING, HmcState.READY))


@pytest.mark.parametrize("state", IndexState)
def test_index_rows(state):
    has_session = state in (IndexState.OPENING, IndexState.OPEN)
    assert INDEX_TABLE[state, IndexTrigger.LINK_LOST] == (IndexAction.FORGET, IndexState.UNSEEDED)
    assert (INDEX_TABLE[state, IndexTrigger.OPEN_GOOD][1] is IndexState.OPENING) == (
        not has_session or state is IndexState.OPENING
    )
    assert (INDEX_TABLE[state, IndexTrigger.CLOSE][0] is IndexAction.CLOSE_RESEED) == has_session
    assert (INDEX_TABLE[state, IndexTrigger.SIGNAL][0] is IndexAction.RECEIVE) == (state is IndexState.OPEN)


@pytest.mark.parametrize("table", [PARTITION_TABLE, HYPERVISOR_TABLE], ids=["partition", "hypervisor"])
@pytest.mark.parametrize(("state", "trigger"), list(product(BufferState, BufferTrigger)))
def test_buffer_moves(table, state, trigger):
    pool = BufferPool(4, table)
    if state is not BufferState.ABSENT:
        pool.add(1, next(t for (s, t) in table if s is BufferState.ABSENT), 0x1000)
        pool._buffers[1].state = state
    after = table.get((state, trigger))
    assert pool.can(1, trigger) == (after is not None)
    if after is None or state is BufferState.ABSENT:
        with pytest.raises((LocalError, KeyError)):
            pool.move(1, trigger)
        assert pool.state(1) is state
    else:
        pool.move(1, trigger)
        assert pool.state(1) is after
        assert pool.owner(1) is after.owner
        assert len(pool) == (after is not BufferState.ABSENT)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(BufferTrigger))), max_size=40))
def test_owners_always_add_up(moves):
    pool = BufferPool(4, PARTITION_TABLE)
    for buffer_id, trigger in moves:
        if not pool.can(buffer_id, trigger):
            continue
        if pool.state(buffer_id) is BufferState.ABSENT:
            pool.add(buffer_id, trigger, 0)
        else:
            pool.move(buffer_id, trigger)
        owners = [pool.owner(i) for i in range(4)]
        assert sum(o is not None for o in owners) == len(pool)
        ours = [s for s in BufferState if s.owner is BufferOwner.ALPHA]
        theirs = [s for s in BufferState if s.owner is BufferOwner.HYPERVISOR]
        assert pool.count(*ours) + pool.count(*theirs) == len(pool)


def test_pool_ids():
    pool = BufferPool(2, PARTITION_TABLE)
    pool.add(1, BufferTrigger.ADD_ALPHA, 7)
    assert pool.lowest(BufferState.ALPHA_FREE) == 1
    assert pool.lowest(BufferState.LOST) is None
    assert (pool.lowest_absent(), pool.lowest_absent(0), pool.lioba(1)) == (0, None, 7)
    for bad in (-1, 1, 2):
        with pytest.raises(LocalError, match="out of range or in use"):
            pool.add(bad, BufferTrigger.ADD_ALPHA, 0)
    assert [(i, b.lioba) for i, b in pool] == [(1, 7)]
    pool.clear()
    assert len(pool) == 0


def test_status_numbers_have_names():
    assert [LINUX_STATUS.describe(n) for n in (0, 1, 2, 3, 4, 5, 6)] == [
        "0 (ok)", "1 (bad_index)", "2 (bad_buffer)", "3 (closed)", "4 (failure)", "5 (none_to_remove)",
        "6 (linux: no name)",
    ]  # fmt: skip
    assert [LOPAR_STATUS.describe(n) for n in (1, 2, 3, 4)] == [
        "1 (failure)", "2 (bad_index)", "3 (bad_buffer)", "4 (closed)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "table", [link_table(HARDENED), link_table(LINUX), hmc_table(HARDENED), LINK_TABLE, INDEX_TABLE]
)
def test_diagrams_show_exactly_the_rows(table):
    hide = frozenset({LinkAction.IGNORE, HmcAction.DROP, IndexAction.DROP})
    text = state_diagram(table, hide=hide)
    lines = text.splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert lines[1].startswith("    [*] --> ")
    shown = sum(len(line.split(": ", 1)[1].split(" / ")[0].split(", ")) for line in lines[2:])
    assert shown == sum(action not in hide for action, _ in table.values())
    moving = state_diagram(table, hide=hide, loops=False).splitlines()[2:]
    assert moving
    assert all(line.split()[0] != line.split()[2].rstrip(":") for line in moving)


def test_a_diagram_line():
    text = state_diagram(hmc_table(HARDENED), hide=frozenset({HmcAction.DROP}))
    assert "    [*] --> free\n" in text
    assert "    initial --> opening: id_copied / send OPEN\n" in text
