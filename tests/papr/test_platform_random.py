"""Any sequence of calls, deaths and reports: nothing raises, every element arrives once and in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from papr_platform_rig import (
    CLIENT,
    CLIENT_LOCAL,
    LOCAL,
    REMOTE,
    SERVER,
    SERVER_LOCAL,
    SERVER_REMOTE,
    UNIT,
    Rig,
    numbered,
)
from papr_platform_rig import config as rig_config

from pvnet.core.errors import LocalError
from pvnet.core.machine import Tick
from pvnet.papr.dispatch import Answer, Call, Dispatcher
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    LOPAR,
    QEMU,
    CrqConsumed,
    HcallRequest,
    HcallResult,
    MemoryDone,
    ReadMemory,
    WriteMemory,
)

interesting = st.sampled_from(
    [
        UNIT,
        SERVER,
        CLIENT,
        LOCAL,
        REMOTE,
        SERVER_LOCAL,
        SERVER_REMOTE,
        CLIENT_LOCAL,
        0,
        1,
        2,
        3,
        512,
        4096,
        0x4000,
        0x4003,
    ]
)
registers = st.one_of(interesting, st.integers(0, (1 << 64) - 1), st.just(0xC001 << 48))
opcodes = st.one_of(st.sampled_from(sorted(LOPAR.hcalls)), st.integers(0, 0x10010))
calls = st.tuples(
    st.sampled_from(["mp", "lpar"]),
    opcodes,
    st.lists(registers, max_size=9),
    st.one_of(st.none(), st.binary(max_size=64)),
)


@given(
    st.lists(calls, max_size=30), st.sampled_from(["mapped", "mapped later", "remote"]), st.sampled_from([LOPAR, QEMU])
)
def test_random_hcalls_never_raise_and_are_answered_once(
    sequence: list[tuple[str, int, list[int], bytes | None]], where: str, profile: object
) -> None:
    platform = Platform(rig_config(profile))  # type: ignore[arg-type]
    rig = Rig(where != "remote", platform, later=where == "mapped later")
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    for tag, (partition, opcode, args, memory) in enumerate(sequence):
        outputs = rig.platform.feed(HcallRequest(partition, tag, opcode, tuple(args), memory), 0.0)
        answered = 0
        while outputs:
            output = outputs.pop(0)
            if isinstance(output, HcallResult):
                answered += 1
                assert output.tag == tag
            elif isinstance(output, ReadMemory):
                outputs += rig.platform.feed(MemoryDone(output.tag, 0, bytes(output.length)), 0.0)
            elif isinstance(output, WriteMemory):
                outputs += rig.platform.feed(MemoryDone(output.tag, 0), 0.0)
        assert answered == 1


class PairMachine(RuleBasedStateMachine):
    """``mp`` sends to ``lpar`` through a pair, the hypervisor posts to ``mp``; anything may happen in between."""

    mapped = False
    later = False

    @initialize()
    def begin(self) -> None:
        self.rig = Rig(self.mapped, later=self.later)
        self.rig.start("mp", "lpar")
        self.rig.hypervisor_up()
        self.rig.open("mp", UNIT, LOCAL)
        self.rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000)
        self.rig.open("lpar", CLIENT, CLIENT_LOCAL)
        self.number = 0
        self.sent: list[bytes] = []
        self.posted: list[bytes] = []
        self.held = False
        self.overlaid = self.notes = 0

    @rule(count=st.integers(1, 200))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            rc = self.rig.send("mp", SERVER, numbered(self.number))
            assert rc in (Rc.H_SUCCESS, Rc.H_DROPPED, Rc.H_CLOSED)
            if rc == Rc.H_SUCCESS:
                self.sent.append(numbered(self.number))
            elif rc == Rc.H_DROPPED:
                assert len(self.sent) >= 256, "only a full ring drops"

    @rule(count=st.integers(1, 200))
    def post(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            before = self.rig.platform.counters["post_closed"]
            self.rig.post(numbered(self.number))
            if self.rig.platform.counters["post_closed"] == before:
                self.posted.append(numbered(self.number))

    @rule(limit=st.integers(1, 300))
    @precondition(lambda self: ("lpar", CLIENT) in self.rig.rings)
    def take(self, limit: int) -> None:
        placed = self.sent[:-1] if self.held else self.sent
        got = self.rig.consume("lpar", CLIENT, limit)
        assert got == placed[:limit]
        del self.sent[: len(got)]
        self.held = self.held and not got

    def event(self, element: bytes) -> None:
        """What ``lpar`` must see of an event: the next element, or over the last one of a full ring."""
        overlaid, held = self.rig.platform.counters["crq_overlaid"], self.rig.notes.count("event_held")
        if self.held or overlaid > self.overlaid:
            self.sent[-1] = element
        else:
            self.sent.append(element)
        self.held = self.held or held > self.notes
        self.overlaid, self.notes = overlaid, held

    @rule(limit=st.integers(1, 300))
    @precondition(lambda self: ("mp", UNIT) in self.rig.rings)
    def take_posted(self, limit: int) -> None:
        got = self.rig.consume("mp", UNIT, limit)
        assert got == self.posted[: len(got)]
        del self.posted[: len(got)]
        if len(got) < limit:
            self.rig.feed(Tick())
            got = self.rig.consume("mp", UNIT)
            assert got == self.posted[: len(got)]
            del self.posted[: len(got)]

    @rule()
    def free_and_register_sender(self) -> None:
        self.rig.call("mp", Op.H_FREE_CRQ, SERVER)
        self.event(b"\xff\x02" + bytes(14))
        assert self.rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000) in (0, 2)

    @rule()
    def free_and_register_receiver(self) -> None:
        self.rig.call("lpar", Op.H_FREE_CRQ, CLIENT)
        assert self.rig.open("lpar", CLIENT, CLIENT_LOCAL) in (0, 2)
        self.sent.clear()
        self.held = False

    @rule()
    def restart_receiver(self) -> None:
        self.rig.die("lpar")
        self.rig.start("lpar")
        assert self.rig.open("lpar", CLIENT, CLIENT_LOCAL) in (0, 2)
        self.sent.clear()
        self.held = False

    @rule()
    def restart_sender(self) -> None:
        self.rig.die("mp")
        self.event(b"\xff\x01" + bytes(14))
        self.rig.start("mp")
        self.rig.open("mp", UNIT, LOCAL)
        self.rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000)
        self.posted.clear()

    @rule()
    def stale_report(self) -> None:
        self.rig.feed(CrqConsumed("mp", UNIT, 77, 5))

    @invariant()
    def nothing_is_lost_on_the_way(self) -> None:
        assert self.rig.platform.counters["memory_answer_unknown"] == 0


class MappedPairMachine(PairMachine):
    mapped = True


class LaterMappedPairMachine(PairMachine):
    mapped = True
    later = True


TestRemotePair = PairMachine.TestCase
TestRemotePair.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestMappedPair = MappedPairMachine.TestCase
TestMappedPair.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestLaterMappedPair = LaterMappedPairMachine.TestCase
TestLaterMappedPair.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_dispatcher_refuses_bad_tables() -> None:
    dispatcher: Dispatcher[str] = Dispatcher()

    def handler(caller: str, call: Call) -> Answer:
        return Answer(0, (len(caller), *call.args))

    dispatcher.register(0xF001, handler)
    dispatcher.register(4, handler)
    assert dispatcher.opcodes == {4, 0xF001}
    for opcode in (4, 5, 0, -4, 0x10001):
        with pytest.raises(LocalError):
            dispatcher.register(opcode, handler)
    assert dispatcher.dispatch("me", 0xF001, (7,)) == Answer(0, (2, 7, 0, 0, 0, 0, 0, 0, 0, 0))
    assert dispatcher.dispatch("me", 0xF002, ()) == Answer(Rc.H_FUNCTION)
    assert dispatcher.dispatch("me", 8, (-1,), problem_state=True) == Answer(Rc.H_PRIVILEGE)
