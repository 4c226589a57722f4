"""The link: every state against every trigger, then the two conducts hcall by hcall."""

from itertools import count, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import encode_init, encode_init_complete
from pvnet.papr.crq_link import (
    HARDENED_POLICY,
    LINUX_POLICY,
    TRANSITIONS,
    CrqLink,
    CrqLinkPolicy,
    LinkAction,
    LinkEnabled,
    LinkFailed,
    LinkFreed,
    LinkRegistered,
    LinkState,
    LinkTrigger,
    SendFailed,
    Sent,
)
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.retry import RetryLimits

UNIT, IOBA, SIZE = 0x30000002, 0x1000, 0x1000
REG, FREE, SIGNAL, SEND, ENABLE = (
    HcallOpcode.H_REG_CRQ,
    HcallOpcode.H_FREE_CRQ,
    HcallOpcode.H_VIO_SIGNAL,
    HcallOpcode.H_SEND_CRQ,
    HcallOpcode.H_ENABLE_CRQ,
)
LOCAL = {LinkTrigger.REGISTER, LinkTrigger.FREE, LinkTrigger.RESET, LinkTrigger.SUSPEND, LinkTrigger.ENABLE}
S = LinkState


class Memory:
    def __init__(self) -> None:
        self.bytes = bytearray(b"\xee") * (IOBA + SIZE)

    def read(self, ioba: int, n: int) -> bytes:
        return bytes(self.bytes[ioba : ioba + n])

    def write(self, ioba: int, data: bytes) -> None:
        self.bytes[ioba : ioba + len(data)] = data


class Rig:
    """A link and the last call it made of each opcode."""

    def __init__(self, policy: CrqLinkPolicy = HARDENED_POLICY, queue_limit: int = 1024) -> None:
        self.memory = Memory()
        self.link = CrqLink(
            unit=UNIT, memory=self.memory, ioba=IOBA, size_bytes=SIZE, tags=count(1), policy=policy,
            queue_limit=queue_limit,
        )  # fmt: skip
        self.last: dict[int, CallHypervisor] = {}
        self.now = 0.0

    def do(self, outputs):
        """Outputs without tags: calls as (opcode name, *args), the rest as it is."""
        seen = []
        for output in outputs:
            if isinstance(output, CallHypervisor):
                self.last[output.opcode] = output
                seen.append((HcallOpcode(output.opcode).name, *output.args))
            else:
                seen.append(output)
        return seen

    def answer(self, opcode: int, rc: int):
        return self.do(self.link.returned(HcallReturned(self.last[opcode].tag, rc), self.now))

    def up(self, rc: int = 0) -> "Rig":
        self.do(self.link.register(self.now))
        self.answer(REG, rc)
        self.answer(SIGNAL, 0)
        assert self.link.state is S.REGISTERED
        return self


REG_CALL = ("H_REG_CRQ", UNIT, IOBA, SIZE)
FREE_CALL = ("H_FREE_CRQ", UNIT)
SIGNAL_CALL = ("H_VIO_SIGNAL", UNIT, 1)


def rig_in(state: LinkState, policy: CrqLinkPolicy = HARDENED_POLICY) -> Rig:
    """A link brought into ``state`` by the shortest real way, with a call in flight where the state has one."""
    rig = Rig(policy)
    link = rig.link
    if state is S.UNREGISTERED:
        return rig
    if state in (S.REGISTERING, S.CLEARING, S.REREGISTERING, S.FAILED):
        rig.do(link.register(0.0))
        if state is S.FAILED:
            rig.answer(REG, -4)
        elif state is not S.REGISTERING:
            rig.answer(REG, -16)
        if state is S.REREGISTERING:
            rig.answer(FREE, 0)
    else:
        rig.up()
        if state in (S.RESET_FREEING, S.RESET_REGISTERING):
            rig.do(link.reset(0.0))
        if state is S.RESET_REGISTERING:
            rig.answer(FREE, 0)
        if state is S.FREEING:
            rig.do(link.free(0.0))
        if state is S.SUSPENDED:
            rig.do(link.suspend(0.0))
        if state is S.ENABLING:
            rig.do(link.enable(0.0))
    assert link.state is state
    return rig


def local(link: CrqLink, trigger: LinkTrigger):
    return getattr(link, trigger.name.lower())(0.0)


CALL_OF = {
    S.REGISTERING: REG, S.REREGISTERING: REG, S.RESET_REGISTERING: REG, S.CLEARING: FREE, S.RESET_FREEING: FREE,
    S.FREEING: FREE, S.ENABLING: ENABLE,
}  # fmt: skip
RC_OF = {LinkTrigger.ACCEPTED: 0, LinkTrigger.STALE: -16, LinkTrigger.BUSY: 9900, LinkTrigger.REFUSED: -1}


def test_the_table_is_complete_where_it_has_to_be():
    """Every state with a call in flight answers every answer; every wish absent is listed here by name."""
    assert len(TRANSITIONS) == 3 * 11 + 2 + 3 + 3 * 6 + 4 * 5
    for state, opcode in CALL_OF.items():
        answers = {LinkTrigger.ACCEPTED, LinkTrigger.BUSY, LinkTrigger.EXHAUSTED, LinkTrigger.REFUSED}
        answers |= {LinkTrigger.RETRY_DUE} | ({LinkTrigger.STALE} if opcode == REG else set())
        assert {t for s, t in TRANSITIONS if s is state and t not in LOCAL} == answers
    for state in set(S) - set(CALL_OF):
        assert not [t for s, t in TRANSITIONS if s is state and t not in LOCAL]
    for trigger in (LinkTrigger.FREE, LinkTrigger.RESET, LinkTrigger.SUSPEND):
        assert {s for s, t in TRANSITIONS if t is trigger} == set(S)
    assert {s for s, t in TRANSITIONS if t is LinkTrigger.REGISTER} == {S.UNREGISTERED, S.FAILED}
    assert {s for s, t in TRANSITIONS if t is LinkTrigger.ENABLE} == {S.REGISTERED, S.SUSPENDED, S.ENABLING}


@pytest.mark.parametrize(("state", "trigger"), list(product(S, LinkTrigger)), ids=lambda value: value.name)
def test_every_state_against_every_trigger(state, trigger):
    row = TRANSITIONS.get((state, trigger))
    limits = RetryLimits(max_tries=1, seconds=None)
    few = CrqLinkPolicy(register_retry=limits, free_retry=limits, enable_retry=limits)
    rig = rig_in(state, few if trigger is LinkTrigger.EXHAUSTED else HARDENED_POLICY)
    link = rig.link
    if trigger in LOCAL:
        if row is None:
            with pytest.raises(LocalError, match=f"{trigger.name.lower()} is not possible in {state.name.lower()}"):
                local(link, trigger)
            assert link.state is state
            return
        seen = rig.do(local(link, trigger))
    elif row is None:
        return  # the answer cannot occur: test_the_table_is_complete_where_it_has_to_be
    elif trigger is LinkTrigger.RETRY_DUE:
        assert rig.answer(CALL_OF[state], 9900) == []
        assert rig.do(link.tick(0.0005)) == []
        seen = rig.do(link.tick(0.001))
    elif trigger is LinkTrigger.EXHAUSTED:
        seen = rig.answer(CALL_OF[state], 9900)
    else:
        seen = rig.answer(CALL_OF[state], RC_OF[trigger])
    action, after = row
    assert link.state is after
    expected = {
        LinkAction.IGNORE: [],
        LinkAction.WAIT: [],
        LinkAction.STOP_SENDING: [],
        LinkAction.CALL_REGISTER: [REG_CALL],
        LinkAction.CALL_FREE: [FREE_CALL],
        LinkAction.CALL_ENABLE: [("H_ENABLE_CRQ", UNIT)],
        LinkAction.UP: [SIGNAL_CALL, LinkRegistered(0)],
        LinkAction.REPORT_FREED: [LinkFreed()],
        LinkAction.REPORT_ENABLED: [LinkEnabled()],
    }
    if action is LinkAction.FAIL:
        assert [type(output) for output in seen] == [LinkFailed]
    elif action is LinkAction.CALL_AGAIN:
        assert [call[0] for call in seen] == [HcallOpcode(CALL_OF[state]).name]
    else:
        assert seen == expected[action]
    if action is LinkAction.CALL_REGISTER:
        assert rig.memory.read(IOBA, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("rc", [0, 2])
def test_probe(rc):
    rig = Rig()
    assert rig.do(rig.link.register(0.0)) == [REG_CALL]
    assert rig.memory.read(IOBA, SIZE) == bytes(SIZE)
    assert rig.answer(REG, rc) == [SIGNAL_CALL, LinkRegistered(rc)]
    assert rig.answer(SIGNAL, 0) == []
    assert rig.link.slots == 256


def test_probe_with_a_stale_registration_frees_and_registers_once_more():
    rig = Rig(LINUX_POLICY)
    rig.do(rig.link.register(0.0))
    assert rig.answer(REG, -16) == [FREE_CALL]
    assert rig.answer(FREE, 9901) == []
    assert rig.link.deadline() == pytest.approx(0.01)
    assert rig.do(rig.link.tick(0.01)) == [FREE_CALL]
    assert rig.answer(FREE, 0) == [REG_CALL]
    assert rig.answer(REG, 2) == [SIGNAL_CALL, LinkRegistered(2)]


def test_a_second_stale_answer_is_a_failure():
    rig = rig_in(S.REREGISTERING)
    assert rig.answer(REG, -16) == [LinkFailed("register_again", -16)]


@pytest.mark.parametrize(
    ("policy", "rc", "outcome"),
    [
        (LINUX_POLICY, 0, [SIGNAL_CALL, LinkRegistered(0)]),
        (LINUX_POLICY, -16, [SIGNAL_CALL, LinkRegistered(-16)]),
        (LINUX_POLICY, 2, [LinkFailed("reset_register", 2)]),
        (LINUX_POLICY, 9900, [LinkFailed("reset_register", 9900)]),
        (HARDENED_POLICY, 0, [SIGNAL_CALL, LinkRegistered(0)]),
        (HARDENED_POLICY, 2, [SIGNAL_CALL, LinkRegistered(2)]),
        (HARDENED_POLICY, -16, [FREE_CALL]),
        (HARDENED_POLICY, -4, [LinkFailed("reset_register", -4)]),
    ],
)
def test_own_reset(policy, rc, outcome):
    rig = Rig(policy).up()
    assert rig.do(rig.link.reset(0.0)) == [FREE_CALL]
    rig.memory.write(IOBA, b"\xff" * 16)
    assert rig.answer(FREE, 0) == [REG_CALL]
    assert rig.memory.read(IOBA, SIZE) == bytes(SIZE)
    assert rig.answer(REG, rc) == outcome


def test_linux_repeats_free_for_ever_and_the_hardened_one_does_not():
    for policy, last in ((LINUX_POLICY, []), (HARDENED_POLICY, [LinkFailed("free", 9905)])):
        rig = Rig(policy).up()
        rig.do(rig.link.free(0.0))
        for hour in range(1, 50):
            assert rig.link.counters["retries_exhausted"] == 0
            rig.now = hour * 3600.0
            seen = rig.answer(FREE, 9905)
            if rig.link.state is S.FAILED:
                break
            assert seen == []
            assert rig.do(rig.link.tick(rig.now + 100)) == [FREE_CALL]
        assert seen == last


def test_enable_counts_in_progress_as_busy():
    rig = Rig().up()
    rig.do(rig.link.suspend(0.0))
    assert rig.do(rig.link.send(encode_init(), 0.0)) == [SendFailed(encode_init(), HcallRc.H_CLOSED)]
    assert rig.do(rig.link.enable(0.0)) == [("H_ENABLE_CRQ", UNIT)]
    assert rig.answer(ENABLE, 14) == []
    assert rig.link.deadline() == pytest.approx(0.1)
    assert rig.do(rig.link.tick(0.1)) == [("H_ENABLE_CRQ", UNIT)]
    assert rig.answer(ENABLE, 0) == [LinkEnabled()]
    assert rig.do(rig.link.send(encode_init(), 0.2))[0][0] == "H_SEND_CRQ"


def test_in_progress_is_no_retry_for_other_calls():
    rig = rig_in(S.FREEING)
    assert rig.answer(FREE, 14) == [LinkFailed("free", 14)]


def test_linux_never_repeats_enable():
    rig = Rig(LINUX_POLICY).up()
    rig.do(rig.link.enable(0.0))
    assert rig.answer(ENABLE, 9901) == [LinkFailed("enable", 9901)]


def message(number: int) -> bytes:
    return b"\x80\x06" + number.to_bytes(14, "big")


def test_one_send_is_in_flight_and_the_order_is_kept():
    rig = Rig().up()
    high = int.from_bytes(message(1)[:8], "big")
    assert rig.do(rig.link.send(message(1), 0.0)) == [("H_SEND_CRQ", UNIT, high, 1)]
    assert rig.do(rig.link.send(message(2), 0.0)) == []
    assert rig.do(rig.link.send(message(3), 0.0)) == []
    assert rig.answer(SEND, 0) == [Sent(message(1)), ("H_SEND_CRQ", UNIT, high, 2)]
    assert rig.answer(SEND, 0) == [Sent(message(2)), ("H_SEND_CRQ", UNIT, high, 3)]
    assert rig.answer(SEND, 0) == [Sent(message(3))]


def test_dropped_is_repeated_with_growing_pauses_then_given_up():
    rig = Rig().up()
    rig.do(rig.link.send(message(1), 0.0))
    rig.do(rig.link.send(message(2), 0.0))
    pauses = []
    while not (seen := rig.answer(SEND, -12)):
        due = rig.link.deadline()
        assert due is not None
        pauses.append(round((due - rig.now) * 1000))
        assert rig.do(rig.link.tick(due - 0.0001)) == []
        rig.now = due
        assert len(rig.do(rig.link.tick(due))) == 1
    assert pauses == [5, 10, 20, 40, 80, 160, 320]
    assert seen == [SendFailed(message(1), -12, (message(2),))]
    assert rig.link.deadline() is None
    assert rig.link.counters["sends_dropped"] == 8
    assert rig.link.counters["sends_failed"] == 2


def test_dropped_once_then_accepted():
    rig = Rig().up()
    rig.do(rig.link.send(message(1), 0.0))
    assert rig.answer(SEND, -12) == []
    rig.do(rig.link.tick(1.0))
    assert rig.answer(SEND, 0) == [Sent(message(1))]


def test_busy_send_is_repeated_when_the_policy_says_so():
    rig = Rig().up()
    rig.do(rig.link.send(message(1), 0.0))
    assert rig.answer(SEND, 9902) == []
    assert rig.link.deadline() == pytest.approx(0.1)
    rig = Rig(LINUX_POLICY).up()
    rig.do(rig.link.send(message(1), 0.0))
    assert rig.answer(SEND, 9902) == [SendFailed(message(1), 9902)]


def test_closed_ends_the_queue():
    rig = Rig().up(2)
    for number in (1, 2, 3):
        rig.do(rig.link.send(message(number), 0.0))
    assert rig.answer(SEND, 2) == [SendFailed(message(1), 2, (message(2), message(3)))]
    assert rig.link.state is S.REGISTERED


def test_linux_sends_each_message_on_its_own():
    rig = Rig(LINUX_POLICY).up()
    for number in (1, 2):
        rig.do(rig.link.send(message(number), 0.0))
    seen = rig.answer(SEND, -12)
    assert seen[0] == SendFailed(message(1), -12)
    assert seen[1][0] == "H_SEND_CRQ"
    assert rig.answer(SEND, 2) == [SendFailed(message(2), 2)]


def test_the_send_queue_is_bounded():
    rig = Rig(queue_limit=2).up()
    for number in range(3):
        assert not [o for o in rig.do(rig.link.send(message(number), 0.0)) if isinstance(o, SendFailed)]
    assert rig.do(rig.link.send(message(3), 0.0)) == [SendFailed(message(3), HcallRc.H_DROPPED)]
    assert rig.link.counters["send_queue_full"] == 1


@pytest.mark.parametrize("wrong", [b"", bytes(16), b"\x7f" + bytes(15), b"\xff\x02" + bytes(14), b"\x80" * 17])
def test_sending_what_the_hypervisor_would_refuse_is_a_mistake(wrong):
    with pytest.raises(LocalError, match="0x80 to 0xFE"):
        Rig().up().link.send(wrong, 0.0)


def test_answers_of_forgotten_calls_are_known_and_ignored():
    rig = Rig().up()
    link = rig.link
    rig.do(link.send(message(1), 0.0))
    rig.do(link.send(message(2), 0.0))
    send = rig.last[SEND]
    rig.do(link.reset(0.0))
    assert link.counters["sends_forgotten"] == 2
    reset_free = rig.last[FREE]
    rig.do(link.free(0.0))
    for old in (send, reset_free):
        assert link.owns(old.tag)
        assert link.returned(HcallReturned(old.tag, 0), 0.0) == []
        assert not link.owns(old.tag)
    assert rig.answer(FREE, 0) == [LinkFreed()]


def test_a_send_that_waits_is_forgotten_too():
    rig = Rig().up()
    rig.do(rig.link.send(message(1), 0.0))
    rig.answer(SEND, -12)
    rig.do(rig.link.free(0.0))
    assert rig.link.deadline() is None
    assert rig.do(rig.link.tick(10.0)) == []


def test_a_repeat_that_waits_is_forgotten_too():
    rig = rig_in(S.RESET_FREEING)
    rig.answer(FREE, 9905)
    assert rig.do(rig.link.free(0.0)) == [FREE_CALL]
    assert rig.link.deadline() is None


def test_signal_refused_is_a_note_and_a_late_answer_is_not_mixed_up():
    rig = Rig()
    rig.do(rig.link.register(0.0))
    rig.answer(REG, 0)
    first = rig.last[SIGNAL]
    rig.do(rig.link.reset(0.0))
    rig.answer(FREE, 0)
    rig.answer(REG, 0)
    assert rig.link.owns(first.tag)
    assert rig.link.returned(HcallReturned(first.tag, -4), 0.0) == []
    (note,) = rig.answer(SIGNAL, -4)
    assert isinstance(note, Note)
    assert note.event == "crq_signal_refused"
    assert ("rc", "H_PARAMETER (-4)") in note.fields


def test_a_foreign_answer_is_a_mistake():
    link = Rig().up().link
    assert not link.owns(999)
    with pytest.raises(LocalError, match="tag 999"):
        link.returned(HcallReturned(999, 0), 0.0)


@pytest.mark.parametrize("size", [0, 8, 24])
def test_ring_size(size):
    with pytest.raises(LocalError, match="multiple of 16"):
        CrqLink(unit=UNIT, memory=Memory(), ioba=IOBA, size_bytes=size, tags=count())


def test_draining():
    rig = Rig().up()
    rig.memory.write(IOBA, encode_init_complete() + message(7))
    seen = []
    while (raw := rig.link.take()) is not None:
        seen.append(raw)
        rig.link.clear()
    assert seen == [encode_init_complete(), message(7)]
    assert rig.link.consumed == 2
    assert not rig.link.has_element()


@settings(max_examples=60)
@given(
    policy=st.sampled_from([LINUX_POLICY, HARDENED_POLICY]),
    steps=st.lists(
        st.one_of(
            st.sampled_from(["register", "free", "reset", "suspend", "enable", "send", "tick"]),
            st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 14, -4, -12, -16, 9900, 9905])),
        ),
        max_size=60,
    ),
)
def test_any_sequence_keeps_one_call_of_a_kind_in_flight_and_knows_its_answers(policy, steps):
    rig = Rig(policy)
    pending: list[CallHypervisor] = []
    for step in steps:
        rig.now += 0.01
        try:
            if isinstance(step, tuple):
                if not pending:
                    continue
                call = pending.pop(step[0] % len(pending))
                assert rig.link.owns(call.tag)
                out = rig.link.returned(HcallReturned(call.tag, step[1]), rig.now)
            elif step == "send":
                out = rig.link.send(message(1), rig.now)
            else:
                out = getattr(rig.link, step)(rig.now)
        except LocalError:
            continue
        pending += [output for output in out if isinstance(output, CallHypervisor)]
        assert all(rig.link.owns(call.tag) for call in pending)
        assert len({call.tag for call in pending}) == len(pending)
        rig.link.tick(0.0)  # before anything can be due: nothing happens
