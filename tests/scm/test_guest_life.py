"""The life of a device under its driver: probe, overlap, refusals, removal, and every answer a hypervisor may give."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scm_guest_rig import BASE, CONFIG, DRC, H, PlainHypervisor, Rig

from pvnet.core.errors import LocalError
from pvnet.core.machine import Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.device_io import DeviceDone, DeviceIoctl, DeviceOpen, Irq, Probe, Remove
from pvnet.papr.hcall import HcallRc
from pvnet.scm.calls import ANY_ADDRESS
from pvnet.scm.guest import GUEST_TABLE, RESTING, ScmAction, ScmState, ScmTrigger
from pvnet.scm.guest_interface import (
    HARDENED_GUEST,
    LINUX_GUEST,
    ScmBound,
    ScmCommand,
    ScmUnbound,
)

POLICIES = pytest.mark.parametrize("policy", [HARDENED_GUEST, LINUX_GUEST], ids=lambda policy: policy.name)
BIND = (H.H_SCM_BIND_MEM, (DRC, 0, 4, ANY_ADDRESS, 0))
UNBIND = (H.H_SCM_UNBIND_ALL, (2, DRC, 0))
BLOCK = CONFIG.block_size


def bind(token: int) -> tuple[H, tuple[int, ...]]:
    return H.H_SCM_BIND_MEM, (DRC, 0, 4, ANY_ADDRESS, token)


@POLICIES
def test_probe_and_remove(policy) -> None:
    rig = Rig(policy)
    rig.probe(PlainHypervisor())
    assert rig.guest.state is ScmState.READY
    assert [call[0].name for call in rig.made[:4]] == [
        "H_SCM_BIND_MEM",
        "H_SCM_PERFORMANCE_STATS",
        "H_SCM_HEALTH",
        "H_SCM_READ_METADATA",
    ]
    assert len(rig.made) == 3 + 64
    assert rig.take(ScmBound) == [ScmBound(BASE, 4 * BLOCK)]
    assert rig.guest.bound_address == BASE
    rig.feed(Irq())
    rig.feed(Probe())
    assert rig.guest.counters["ignored"] == 1
    rig.made.clear()
    rig.remove(PlainHypervisor())
    assert rig.made == [UNBIND]
    assert rig.take(ScmUnbound) == [ScmUnbound()]
    assert (rig.guest.state, rig.guest.bound_address) == (ScmState.ABSENT, None)
    rig.remove(PlainHypervisor())
    assert rig.made == [UNBIND]


@POLICIES
def test_bind_in_steps(policy) -> None:
    """Golden vectors P1 to P3: the same call with the new token; the first address counts."""
    rig = Rig(policy)
    rig.feed(Probe())
    rig.answer(HcallRc.H_BUSY, 0x1001, BASE, 3)
    rig.sleep()
    rig.answer(HcallRc.H_BUSY, 0x1002, BASE, 3)
    rig.sleep()
    rig.answer(0, 0x1002, BASE, 4)
    assert rig.made[:3] == [bind(0), bind(0x1001), bind(0x1002)]
    assert rig.guest.bound_address == BASE


def test_address_that_changes_while_binding() -> None:
    """Linux keeps the first silently; a robust driver refuses the device."""
    for policy, state in ((LINUX_GUEST, ScmState.SIZING), (HARDENED_GUEST, ScmState.REFUSING)):
        rig = Rig(policy)
        rig.feed(Probe())
        rig.answer(HcallRc.H_BUSY, 7, BASE, 1)
        rig.sleep()
        rig.answer(0, 0, BASE + BLOCK, 4)
        assert rig.guest.state is state
    assert rig.made[-1] == UNBIND


@POLICIES
def test_busy_without_a_token_begins_anew(policy) -> None:
    rig = Rig(policy)
    rig.feed(Probe())
    rig.answer(HcallRc.H_BUSY, 9, 0, 0)
    rig.sleep()
    rig.answer(HcallRc.H_BUSY, 0, 0, 0)
    rig.sleep()
    assert rig.made == [bind(0), bind(9), bind(0)]


def test_long_busy_while_binding() -> None:
    for policy, state, problem in ((LINUX_GUEST, ScmState.FAILED, 6), (HARDENED_GUEST, ScmState.BINDING, 0)):
        rig = Rig(policy)
        rig.feed(Probe())
        rig.answer(HcallRc.H_LONG_BUSY_ORDER_1_SEC, 5)
        assert (rig.guest.state, rig.guest.problem) == (state, problem)
    assert rig.guest.deadline() == 1.0
    rig.feed(Tick())
    assert len(rig.made) == 1, "an early tick changes nothing"
    rig.sleep()
    assert rig.made[-1] == bind(5)


@POLICIES
@pytest.mark.parametrize("rc", [-1, -4, -10, -55, 2, 3, 4, 5, 14, 15, 16, 17, 18, 100, 9906, 9999, 0x100000, -300])
def test_any_other_answer_to_bind_is_failure(policy, rc: int) -> None:
    rig = Rig(policy)
    rig.feed(Probe())
    rig.answer(rc, DRC, BASE, 4)
    assert (rig.guest.state, rig.guest.problem, rig.open_calls) == (ScmState.FAILED, 6, [])
    assert "bind_failed" in rig.notes()
    rig.feed(Probe())
    assert rig.guest.state is ScmState.BINDING
    rig.answer(0, DRC, BASE, 4)
    assert rig.guest.problem == 0


@POLICIES
def test_old_binding_is_kept_when_it_is_whole(policy) -> None:
    rig = Rig(policy)
    rig.feed(Probe())
    rig.answer(HcallRc.H_OVERLAP)
    rig.answer(0, BASE)
    rig.answer(0, BASE + 3 * BLOCK)
    assert rig.made[:4] == [
        BIND,
        (H.H_SCM_QUERY_BLOCK_MEM_BINDING, (DRC, 0)),
        (H.H_SCM_QUERY_BLOCK_MEM_BINDING, (DRC, 3)),
        (H.H_SCM_PERFORMANCE_STATS, (DRC, 0, 0)),
    ]
    assert rig.guest.bound_address == BASE


@POLICIES
@pytest.mark.parametrize(
    "answers",
    [
        [(HcallRc.H_FUNCTION,)],
        [(HcallRc.H_NOT_FOUND,)],
        [(0, BASE), (HcallRc.H_P2,)],
        [(0, BASE), (0, BASE + 2 * BLOCK)],
        [(0, BASE + 3 * BLOCK), (0, BASE)],
        [(0, BASE), (0, BASE)],
    ],
)
def test_old_binding_that_is_not_whole_is_given_up(policy, answers) -> None:
    """Unbind all blocks of the device, bind once more from token 0."""
    rig = Rig(policy)
    rig.feed(Probe())
    rig.answer(HcallRc.H_OVERLAP)
    for answer in answers:
        rig.answer(*answer)
    assert rig.made[-1] == UNBIND
    rig.answer(HcallRc.H_LONG_BUSY_ORDER_1_MSEC, 0x2001)
    rig.sleep()
    assert rig.made[-1] == (H.H_SCM_UNBIND_ALL, (2, DRC, 0x2001))
    rig.answer(0)
    assert rig.made[-1] == BIND
    rig.answer(0, DRC, BASE, 4)
    assert rig.guest.state is ScmState.SIZING


@POLICIES
def test_second_overlap_is_final(policy) -> None:
    rig = Rig(policy)
    rig.feed(Probe())
    for rc in (HcallRc.H_OVERLAP, HcallRc.H_FUNCTION, HcallRc.H_IN_USE, HcallRc.H_OVERLAP):
        rig.answer(rc)
    assert (rig.guest.state, rig.guest.problem, rig.open_calls) == (ScmState.FAILED, 6, [])
    assert rig.guest.counters["bind_overlap"] == 2


def test_old_binding_at_an_impossible_address() -> None:
    rig = Rig(taken=((0, BASE + 1),))
    rig.feed(Probe())
    rig.answer(HcallRc.H_OVERLAP)
    rig.answer(0, BASE)
    rig.answer(0, BASE + 3 * BLOCK)
    assert rig.guest.state is ScmState.RECOVERING


@pytest.mark.parametrize(
    ("address", "blocks", "why"),
    [
        (0, 4, "no address"),
        (BASE + 4096, 4, "not a multiple of the block size"),
        ((1 << 64) - 2 * BLOCK, 4, "the end lies beyond 2^64"),
        (BASE, 3, "3 blocks bound instead of 4"),
        (BASE, 0, "0 blocks bound instead of 4"),
        (0x80000000, 4, "overlaps memory at 0xa0000000"),
    ],
)
def test_bindings_where_no_device_can_lie(address: int, blocks: int, why: str) -> None:
    taken = ((0, 0x80000000), (0xA0000000, 0x10000000))
    rig = Rig(taken=taken)
    rig.feed(Probe())
    rig.answer(0, DRC, address, blocks)
    note = next(output for output in rig.said if getattr(output, "event", "") == "binding_refused")
    assert dict(note.fields)["why"] == why  # type: ignore[attr-defined]
    assert rig.made[-1] == UNBIND
    rig.answer(0)
    assert (rig.guest.state, rig.guest.problem, rig.guest.bound_address) == (ScmState.FAILED, 6, None)
    assert not rig.take(ScmBound)
    linux = Rig(LINUX_GUEST, taken=taken)
    linux.feed(Probe())
    linux.answer(0, DRC, address, blocks)
    assert linux.guest.bound_address == address


@pytest.mark.parametrize("rc", [HcallRc.H_BUSY, HcallRc.H_LONG_BUSY_ORDER_100_SEC])
@pytest.mark.parametrize("token", [[0], [1], [1, 2, 3], [0, 1]])
def test_endless_busy_ends_by_the_deadline(rc: int, token: list[int]) -> None:
    """Bind gives up, and since nobody knows what is bound, unbinds; that gives up as well."""
    rig, calls = Rig(), 0

    def busy(opcode: int, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        nonlocal calls
        calls += 1
        return rc, (token[calls % len(token)], 0, 0)

    rig.probe(busy)
    assert (rig.guest.state, rig.guest.problem) == (ScmState.FAILED, 110)
    assert rig.now <= 121
    assert [call[0] for call in rig.made].count(H.H_SCM_UNBIND_ALL) > 1
    assert rig.guest.counters["gave_up"] == 2


def test_linux_goes_on_for_ever() -> None:
    rig = Rig(LINUX_GUEST)
    rig.feed(Probe())
    for _ in range(3000):
        rig.answer(HcallRc.H_BUSY, 1)
        rig.sleep()
    assert rig.guest.state is ScmState.BINDING
    assert rig.now > 120


@pytest.mark.parametrize("opcode", [H.H_SCM_PERFORMANCE_STATS, H.H_SCM_HEALTH, H.H_SCM_READ_METADATA])
@POLICIES
def test_failures_after_the_binding_do_not_matter(policy, opcode: H) -> None:
    hypervisor = PlainHypervisor()
    hypervisor.fails[opcode] = HcallRc.H_HARDWARE
    rig = Rig(policy)
    rig.probe(hypervisor)
    assert rig.guest.state is ScmState.READY


def test_device_without_metadata() -> None:
    rig = Rig(metadata_size=0)
    rig.probe(PlainHypervisor())
    assert rig.guest.state is ScmState.READY
    assert len(rig.made) == 3


def test_unanswered_call_counts_as_failed() -> None:
    rig = Rig()
    rig.feed(Probe())
    lost = rig.open_calls.pop()
    rig.sleep()
    assert rig.now == HARDENED_GUEST.answer_s
    assert (rig.guest.state, rig.guest.problem) == (ScmState.FAILED, 6)
    assert rig.feed(HcallReturned(lost.tag, 0, (DRC, BASE, 4))) == []
    assert rig.guest.counters["late_answer"] == 1
    for tag in (0, -1, lost.tag + 1):
        with pytest.raises(LocalError, match="no such call"):
            rig.feed(HcallReturned(tag, 0))


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize(
    ("wishes", "state"),
    [
        ([Remove()], ScmState.ABSENT),
        ([Remove(), Remove()], ScmState.ABSENT),
        ([Probe()], ScmState.READY),
        ([Remove(), Probe()], ScmState.READY),
        ([Remove(), Probe(), Probe()], ScmState.READY),
        ([Remove(), Probe(), Remove()], ScmState.ABSENT),
        ([Remove(), Probe(), Remove(), Probe()], ScmState.READY),
    ],
)
def test_wishes_in_the_middle_of_a_probe_wait_for_its_end(steps: int, wishes, state: ScmState) -> None:
    hypervisor, rig = PlainHypervisor(), Rig()
    rig.feed(Probe())
    for _ in range(steps):
        call = rig.open_calls[0]
        rc, outs = hypervisor(call.opcode, call.args)
        rig.answer(rc, *outs)
    for wish in wishes:
        rig.feed(wish)
    assert len(rig.open_calls) == 1
    rig.run(hypervisor)
    assert rig.guest.state is state
    bound, unbound = len(rig.take(ScmBound)), len(rig.take(ScmUnbound))
    assert bound - unbound == (state is ScmState.READY)
    assert [call for call in rig.made if call == UNBIND] == [UNBIND] * unbound


def test_probe_during_removal_comes_after_it() -> None:
    rig = Rig()
    rig.probe(PlainHypervisor())
    rig.feed(Remove())
    rig.feed(Probe())
    rig.run(PlainHypervisor())
    assert rig.guest.state is ScmState.READY
    rig.feed(Remove())
    rig.feed(Probe())
    rig.feed(Remove())
    rig.run(PlainHypervisor())
    assert rig.guest.state is ScmState.ABSENT


def test_removal_after_failure_forgets() -> None:
    rig = Rig()
    rig.probe(lambda opcode, args: (-1, args))
    assert rig.guest.state is ScmState.FAILED
    rig.feed(Remove())
    assert (rig.guest.state, rig.guest.problem, rig.open_calls) == (ScmState.ABSENT, 0, [])


# --- the table ---------------------------------------------------------------------------------------------------


def test_table_is_complete_and_every_state_can_be_reached_and_left() -> None:
    assert set(GUEST_TABLE) == set(product(ScmState, ScmTrigger))
    reached = {state for (before, _), (_, state) in GUEST_TABLE.items() if before is not state}
    left = {before for (before, _), (_, state) in GUEST_TABLE.items() if before is not state}
    assert reached == left == set(ScmState)


@pytest.mark.parametrize("state", sorted(set(ScmState) - RESTING))
def test_states_that_wait_for_something_know_how_it_ends(state: ScmState) -> None:
    """A working state has rows for every ending that its script can have, and puts wishes off."""
    endings = [ScmTrigger.IDLE] if state is ScmState.ENDING else [ScmTrigger.DONE, ScmTrigger.FAILED]
    if state in {ScmState.BINDING, ScmState.REBINDING}:
        endings += [ScmTrigger.OVERLAP, ScmTrigger.UNUSABLE]
    for trigger in endings:
        assert GUEST_TABLE[state, trigger][1] is not state
    for trigger in (ScmTrigger.PROBE, ScmTrigger.REMOVE):
        assert GUEST_TABLE[state, trigger] == (ScmAction.LATER, state)


def test_recovery_binds_only_once() -> None:
    """From the second bind on no row leads back to a bind."""
    seen, todo = set(), [ScmState.REBINDING]
    while todo:
        state = todo.pop()
        for (before, trigger), (action, after) in GUEST_TABLE.items():
            if before is state and trigger not in {ScmTrigger.PROBE, ScmTrigger.REMOVE} and after not in seen:
                assert action is not ScmAction.BIND
                seen.add(after)
                todo.append(after)


# --- anything may be answered ----------------------------------------------------------------------------------------

RCS = st.one_of(
    st.sampled_from([0, 0, 0, 0, 1, 9900, 9901, 9905, -68, -2, -4, -55]),
    st.sampled_from(sorted({int(rc) for rc in HcallRc})),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
OUTS = st.lists(
    st.one_of(st.sampled_from([0, 1, BASE, BASE + 3 * BLOCK, 4, 0x110]), st.integers(0, (1 << 64) - 1)), max_size=4
)
ACTS = st.sampled_from(["answer"] * 12 + ["tick", "probe", "remove", "open", "flush", "flags", "get", "set", "call"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ACTS, RCS, OUTS), max_size=60), st.sampled_from([HARDENED_GUEST, LINUX_GUEST]), st.booleans())
def test_no_answer_at_any_point_wedges_the_machine(acts, policy, has_flush: bool) -> None:
    """Whatever happened: every program gets its answer, and with a sane hypervisor the device works again."""
    rig = Rig(policy, is_hcall_flush_required=has_flush)
    rig.feed(Probe())
    handle = 0
    for act, rc, outs in acts:
        match act:
            case "answer":
                if rig.open_calls:
                    rig.answer(rc, *outs)
                elif rig.guest.deadline() is not None:
                    rig.sleep()
            case "tick":
                rig.now += 0.5
                rig.feed(Tick())
            case "probe":
                rig.feed(Probe())
            case "remove":
                rig.feed(Remove())
            case "open":
                rig.requests += 1
                done = [out for out in rig.feed(DeviceOpen(rig.requests)) if isinstance(out, DeviceDone)]
                handle = max(handle, done[0].result)
            case _:
                command = {"flush": ScmCommand.FLUSH, "flags": ScmCommand.FLAGS, "get": 5, "set": 6, "call": 10}[act]
                data = (3).to_bytes(4, "little") + (11).to_bytes(4, "little") + bytes(11)
                rig.start(handle, command, data)
    hypervisor = PlainHypervisor(rig.memory)
    rig.run(hypervisor, 2000)
    assert rig.guest.state in RESTING
    answered = [output.request for output in rig.said if isinstance(output, DeviceDone)]
    assert sorted(answered) == list(range(1, rig.requests + 1))
    tags = [output.tag for output in rig.said if isinstance(output, CallHypervisor)]
    assert len(tags) == len(set(tags))
    rig.remove(hypervisor)
    rig.probe(hypervisor)
    assert rig.guest.state is ScmState.READY
    assert rig.guest.bound_address == BASE
    assert rig.ioctl(hypervisor, rig.open(), ScmCommand.FLAGS) == (0, b"")


def test_recording_of_inputs_reproduces_the_outputs() -> None:
    def run() -> list[object]:
        rig = Rig()
        rig.probe(PlainHypervisor())
        rig.feed(DeviceOpen(1))
        rig.feed(DeviceIoctl(2, 1, ScmCommand.FLAGS))
        return rig.said

    assert run() == run()
