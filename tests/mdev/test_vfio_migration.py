"""The migration states: every pair of the table, failures, the stream."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfio_rig import STATE_BYTES, Rig, errno_of

from pvnet.mdev.errors import MdevError
from pvnet.mdev.migration import ARCS, NEXT_HOP
from pvnet.mdev.names import MigrationFlag
from pvnet.mdev.names import MigrationState as State
from pvnet.papr.errno import EBUSY, EINVAL, EIO, ENOMEM, ENOSPC

STATES = (State.STOP, State.RUNNING, State.STOP_COPY, State.RESUMING, State.PRE_COPY)
WHOLE = bytes(range(STATE_BYTES))


def at(state: State) -> Rig:
    """A device in a state; one in RESUMING has its whole state."""
    rig = Rig()
    rig.vfio.migration.set_state(state)
    if state is State.RESUMING:
        rig.vfio.migration_write(WHOLE)
    rig.works.log.clear()
    rig.works.ops.log.clear()
    assert rig.vfio.migration.state is state
    return rig


# spec 4.8, row by row: the whole way
WAYS = {
    (State.STOP, State.PRE_COPY): (State.RUNNING, State.PRE_COPY),
    (State.RUNNING, State.STOP_COPY): (State.STOP, State.STOP_COPY),
    (State.RUNNING, State.RESUMING): (State.STOP, State.RESUMING),
    (State.STOP_COPY, State.RUNNING): (State.STOP, State.RUNNING),
    (State.STOP_COPY, State.RESUMING): (State.STOP, State.RESUMING),
    (State.STOP_COPY, State.PRE_COPY): None,
    (State.RESUMING, State.RUNNING): (State.STOP, State.RUNNING),
    (State.RESUMING, State.STOP_COPY): (State.STOP, State.STOP_COPY),
    (State.RESUMING, State.PRE_COPY): (State.STOP, State.RUNNING, State.PRE_COPY),
    (State.PRE_COPY, State.STOP): (State.RUNNING, State.STOP),
    (State.PRE_COPY, State.RESUMING): (State.RUNNING, State.STOP, State.RESUMING),
}


@pytest.mark.parametrize(("source", "target"), list(product(STATES, STATES)))
def test_every_way(source: State, target: State) -> None:
    rig = at(source)
    way = WAYS.get((source, target), () if source is target else (target,))
    if way is None:
        assert errno_of(lambda: rig.vfio.migration.set_state(target)) == EINVAL
        assert rig.vfio.migration.state is source
        return
    seen: list[State] = []
    rig.vfio.migration.on_state = seen.append
    rig.vfio.migration.set_state(target)
    assert tuple(seen) == way
    assert rig.vfio.migration.state is target


def test_every_hop_is_an_arc() -> None:
    hops = {(source, hop) for (source, _), hop in NEXT_HOP.items() if source is not hop}
    assert hops == set(ARCS)


@pytest.mark.parametrize("state", [State.ERROR, State.RUNNING_P2P, State.PRE_COPY_P2P, 8, 9, 255, 0xFFFFFFFF, -1])
@pytest.mark.parametrize("source", STATES)
def test_states_that_nobody_can_want(source: State, state: int) -> None:
    rig = at(source)
    assert errno_of(lambda: rig.vfio.migration.set_state(state)) == EINVAL
    assert rig.vfio.migration.state is source


def test_what_arcs_do() -> None:
    rig = at(State.RUNNING)
    for state in (State.PRE_COPY, State.STOP_COPY, State.STOP, State.RUNNING):
        rig.vfio.migration.set_state(state)
    assert [entry[0] for entry in rig.works.log] == ["stop", "start"]
    assert rig.works.ops.log == ["save_begin"]
    rig = at(State.RUNNING)
    rig.vfio.migration.set_state(State.STOP_COPY)
    assert (rig.works.log, rig.works.ops.log) == ([("stop",)], ["save_begin"])


@pytest.mark.parametrize(
    "arc", [arc for arc in ARCS if arc not in {(State.PRE_COPY, State.RUNNING), (State.STOP_COPY, State.STOP)}]
)
@pytest.mark.parametrize("failure", [MdevError(ENOSPC, "no"), ZeroDivisionError("oops")])
def test_a_failing_arc(arc: tuple[State, State], failure: Exception) -> None:
    rig = at(arc[0])
    rig.works.fail = {"stop": failure, "start": failure}
    rig.works.ops.fail = failure
    refused = isinstance(failure, MdevError)
    assert errno_of(lambda: rig.vfio.migration.set_state(arc[1])) == (ENOSPC if refused else EIO)
    assert rig.vfio.migration.state is (arc[0] if refused else State.ERROR)
    assert len(rig.notes) == (not refused)
    if not refused:
        assert dict(rig.notes[0].fields)["failure"] == "ZeroDivisionError: oops"
        for state in STATES:
            assert errno_of(lambda state=state: rig.vfio.migration.set_state(state)) == EINVAL
    rig.works.fail.clear()
    rig.vfio.reset()
    assert rig.vfio.migration.state is State.RUNNING


def test_a_failure_on_the_way_leaves_the_last_good_state() -> None:
    rig = at(State.RUNNING)
    rig.works.ops.fail = MdevError(ENOSPC)
    assert errno_of(lambda: rig.vfio.migration.set_state(State.STOP_COPY)) == ENOSPC
    assert rig.vfio.migration.state is State.STOP


def test_saving() -> None:
    rig = at(State.PRE_COPY)
    read = rig.vfio.migration_read
    assert read(5) + read(100) == WHOLE[:8]
    assert read(100) == b""
    rig.works.state[3] = 99
    assert rig.vfio.migration.remaining() == 16
    rig.vfio.migration.set_state(State.STOP_COPY)
    assert read(100) == WHOLE[8:]
    assert [read(1), read(1)] == [b"", b""]
    assert rig.works.ops.log[-2:] == ["save", "save"]  # after the end it is not asked again


def test_saving_without_precopy() -> None:
    rig = at(State.STOP_COPY)
    assert b"".join(iter(lambda: rig.vfio.migration_read(7), b"")) == WHOLE


@pytest.mark.parametrize("state", [State.STOP, State.RUNNING, State.RESUMING])
def test_nothing_to_read_here(state: State) -> None:
    assert errno_of(lambda: at(state).vfio.migration_read(10)) == EINVAL  # B32


@pytest.mark.parametrize("state", [State.STOP, State.RUNNING, State.STOP_COPY, State.PRE_COPY])
def test_nothing_to_write_here(state: State) -> None:
    assert errno_of(lambda: at(state).vfio.migration_write(b"x")) == EINVAL


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_that_are_none(limit: int) -> None:
    assert errno_of(lambda: at(State.STOP_COPY).vfio.migration_read(limit)) == EINVAL


@pytest.mark.parametrize("answer", [b"x" * 11, 7, None, ZeroDivisionError(), MdevError(ENOSPC)])
def test_a_stream_breaks_for_good(answer: object) -> None:
    rig = at(State.STOP_COPY)

    def save(limit: int) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    setattr(rig.works.ops, "save", save)  # noqa: B010
    assert errno_of(lambda: rig.vfio.migration_read(10)) == (ENOSPC if isinstance(answer, MdevError) else EIO)
    delattr(rig.works.ops, "save")
    assert errno_of(lambda: rig.vfio.migration_read(10)) == EIO
    rig.vfio.migration.set_state(State.STOP)
    rig.vfio.migration.set_state(State.STOP_COPY)
    assert rig.vfio.migration_read(100) == WHOLE


def test_restoring_in_pieces() -> None:
    rig = at(State.RUNNING)
    rig.works.state[:] = bytes(STATE_BYTES)
    rig.vfio.migration.set_state(State.RESUMING)
    for piece in (WHOLE[:1], b"", WHOLE[1:20], WHOLE[20:]):
        rig.vfio.migration_write(piece)
    assert rig.works.state == bytes(STATE_BYTES)
    rig.vfio.migration.set_state(State.STOP)
    assert rig.works.state == WHOLE
    assert rig.works.ops.log.count("restore") == 3


def test_restoring_too_little_or_too_much() -> None:
    rig = at(State.RUNNING)
    rig.vfio.migration.set_state(State.RESUMING)
    rig.vfio.migration_write(WHOLE[:-1])
    assert errno_of(lambda: rig.vfio.migration.set_state(State.RUNNING)) == EINVAL
    assert rig.vfio.migration.state is State.RESUMING
    rig.vfio.migration_write(WHOLE[-1:])
    assert errno_of(lambda: rig.vfio.migration_write(b"x")) == ENOMEM
    assert errno_of(lambda: rig.vfio.migration_write(b"x")) == EIO
    assert errno_of(lambda: rig.vfio.migration.set_state(State.STOP)) == EINVAL
    assert "restore_end" not in rig.works.ops.log[-2:]
    rig.vfio.reset()
    rig.vfio.migration.set_state(State.RESUMING)
    rig.vfio.migration_write(WHOLE)
    rig.vfio.migration.set_state(State.RUNNING)


def test_what_a_device_cannot() -> None:
    rig = at(State.RUNNING)
    rig.works.ops.flags = int(MigrationFlag.STOP_COPY | MigrationFlag.P2P)
    assert rig.vfio.migration.flags == MigrationFlag.STOP_COPY  # P2P is not offered
    assert errno_of(lambda: rig.vfio.migration.set_state(State.PRE_COPY)) == EINVAL
    rig.vfio.migration.set_state(State.STOP_COPY)
    for flags in (0, MigrationFlag.PRE_COPY):
        rig.works.ops.flags = int(flags)
        assert errno_of(lambda: rig.vfio.migration.set_state(State.STOP)) == EINVAL
    rig.works.migration = None  # type: ignore[assignment]
    assert rig.vfio.migration.flags == 0
    assert errno_of(rig.vfio.migration.remaining) == EINVAL
    assert errno_of(lambda: rig.vfio.migration.set_state(State.RUNNING)) == EINVAL


def test_not_while_programs_are_under_way() -> None:
    rig = Rig()
    rig.map_remote(0)
    rig.registers(0, 8)
    pending = rig.vfio.write(0, 24, b"\1")
    assert pending is not None
    for state in (State.STOP, State.STOP_COPY, State.RESUMING):
        assert errno_of(lambda state=state: rig.vfio.migration.set_state(state)) == EBUSY
    assert rig.vfio.migration.state is State.RUNNING
    rig.vfio.migration.set_state(State.PRE_COPY)
    assert errno_of(lambda: rig.vfio.migration.set_state(State.STOP_COPY)) == EBUSY
    rig.vfio.quiesce(lambda: rig.vfio.migration.set_state(State.STOP_COPY))
    assert rig.vfio.migration.state is State.PRE_COPY
    rig.user.answer_all()
    assert rig.vfio.migration.state is State.STOP_COPY


@pytest.mark.parametrize("state", STATES)
def test_reset_leads_to_running(state: State) -> None:
    rig = at(state)
    rig.vfio.reset()
    assert rig.vfio.migration.state is State.RUNNING
    stopped = state not in (State.RUNNING, State.PRE_COPY)
    assert [entry[0] for entry in rig.works.log] == ["reset", *(["start"] if stopped else [])]


@pytest.mark.parametrize("state", STATES)
def test_a_reset_that_fails(state: State) -> None:
    rig = at(state)
    rig.works.fail["reset"] = MdevError(EBUSY)
    assert errno_of(rig.vfio.reset) == EBUSY
    assert rig.vfio.migration.state is state
    rig.works.fail["reset"] = ValueError()
    assert errno_of(rig.vfio.reset) == EIO
    assert rig.vfio.migration.state is (state if state is State.RUNNING else State.ERROR)


@pytest.mark.parametrize("state", STATES)
def test_the_migration_of_a_user_ends_with_it(state: State) -> None:
    rig = at(state)
    rig.vfio.close()
    assert rig.vfio.migration.state is State.RUNNING
    stopped = state not in (State.RUNNING, State.PRE_COPY)
    assert [entry[0] for entry in rig.works.log] == ["close", *(["start"] if stopped else [])]
    rig.vfio.open(rig.user)
    assert rig.vfio.info().regions == 9


def test_the_migration_of_a_holder_goes_on() -> None:
    rig = at(State.STOP_COPY)
    rig.vfio.hold()
    rig.vfio.close()
    assert rig.vfio.migration.state is State.STOP_COPY
    assert rig.vfio.migration_read(100) == WHOLE
    rig.vfio.unhold()
    assert rig.vfio.migration.state is State.RUNNING


def test_ends_in_error() -> None:
    rig = at(State.STOP)
    rig.works.fail["start"] = ValueError()
    rig.vfio.close()
    assert rig.vfio.migration.state is State.ERROR
    rig.vfio.open(rig.user)
    rig.vfio.close()  # ERROR: reset, then start
    assert [entry[0] for entry in rig.works.log] == ["close", "start", "open", "close", "reset", "start"]
    assert rig.vfio.migration.state is State.RUNNING
    rig = at(State.STOP)
    rig.works.fail = {"start": ValueError(), "reset": ValueError()}
    rig.vfio.close()
    rig.vfio.open(rig.user)
    rig.vfio.close()
    assert rig.vfio.migration.state is State.ERROR


wanted = st.lists(st.sampled_from((*STATES, State.ERROR, State.RUNNING_P2P, 8)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(wanted)
def test_walks(targets: list[int]) -> None:
    """Whatever is asked for, only arcs are walked, and a walk ends where it should or does not begin."""
    rig = Rig()
    seen = [State.RUNNING]
    rig.vfio.migration.on_state = seen.append
    for target in targets:
        before = seen[-1]
        failed = errno_of(lambda target=target: rig.vfio.migration.set_state(target))
        good = target in STATES and (before, target) != (State.STOP_COPY, State.PRE_COPY)
        if before is State.RESUMING and target != before and good:
            assert failed == EINVAL  # no state came: too short
            assert seen[-1] is before
            rig.vfio.migration_write(WHOLE)
            continue_ = errno_of(lambda target=target: rig.vfio.migration.set_state(target))
            assert continue_ == 0
            failed = 0
        assert (failed == 0) == good
        assert seen[-1] == (target if good else before)
    assert all(arc in ARCS for arc in pairwise(seen))
