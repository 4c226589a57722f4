"""Both ends under any interleaving, with losses and hostile messages: the invariants of docs/vmc.md 8.3."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vmc.pair import NAME, SETHMCID, UNIT, Pair

from pvnet.papr.crq import decode_element, is_sendable
from pvnet.papr.platform_io import FaultPoint, SetFault, Suspend
from pvnet.vmc import hypervisor_io as hv
from pvnet.vmc.buffer_pool import BufferState
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import HARDENED, LINUX
from pvnet.vmc.hypervisor_tables import HvLinkState, IndexState
from pvnet.vmc.interface import (
    DeviceClose,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Probe,
    Remove,
)
from pvnet.vmc.messages import BufferOwner, Close, Open, Signal, VmcType, decode_vmc

SLOW = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip

HOSTILE = st.one_of(
    st.builds(
        lambda kind, status, owner, session, index, buffer_id, word: (
            bytes((0x80, kind, status, owner, session, index)) + buffer_id.to_bytes(2, "big") + word.to_bytes(8, "big")
        ),
        st.sampled_from(list(VmcType)),
        st.integers(0, 5),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from([0, 1, 2, 3, 4, 5, 0xFFFF]),
        st.sampled_from([0, 1, 38, 4096, 4097, 0x10000, 0xFFFFFFFF]),
    ),
    st.builds(lambda first, rest: bytes((first,)) + rest, st.integers(0x80, 0xFE), st.binary(min_size=15, max_size=15)),
    st.sampled_from([bytes((0xC0, n)) + bytes(14) for n in (0, 1, 2, 3)]),
)


class Sessions(RuleBasedStateMachine):
    dialect = HARDENED

    def __init__(self):
        super().__init__()
        self.pair = Pair(
            self.dialect,
            hypervisor=hv.VmcHypervisorConfig(
                buffer_ioba=0x10000, buffer_bytes=0x70000, max_hmcs=2, pool_size=16, max_mtu=4096, crq_size=128,
                alpha_buffers=1, hypervisor_buffers=2, queue_limit=2,
            ),
            max_hmcs=2, pool_size=16,
        )  # fmt: skip
        self.handles: list[int] = []
        self.waiting: dict[int, int] = {}
        self.is_hostile = False
        self.may_be_hostile = False
        self.may_lose = False
        self.pair.feed(Probe())

    @initialize(sessions=st.integers(0, 2), hostile=st.booleans(), losses=st.booleans())
    def prepare(self, sessions, hostile, losses):
        """Most runs begin with sessions that are ready, many stay without losses or hostility."""
        self.may_be_hostile, self.may_lose = hostile, losses
        for _ in range(sessions):
            self.pair.settle()
            self.handles.append(self.pair.session())

    # -- pieces in any order

    @precondition(lambda self: self.pair.calls)
    @rule()
    def hcall_runs(self):
        self.pair.step_call()

    @precondition(lambda self: self.pair.answers)
    @rule(data=st.data())
    def hcall_returns(self, data):
        self.pair.step_answer(data.draw(st.integers(0, len(self.pair.answers) - 1)))

    @precondition(lambda self: self.pair.elements)
    @rule()
    def hypervisor_handles(self):
        self.pair.step_element()

    @rule()
    def irq(self):
        self.pair.step_irq()

    @rule(limit=st.integers(1, 30))
    def some_steps(self, limit):
        for _ in range(limit):
            self.pair.step()

    @rule()
    def quiet(self):
        self.pair.settle()
        self.check_quiet()

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0, 11.0]))
    def time_passes(self, seconds):
        self.pair.now += seconds
        self.pair.tick_now()

    # -- application

    @precondition(lambda self: len(self.handles) < 4)
    @rule()
    def open(self):
        self.handles.append(self.pair.done[self.pair.ask(DeviceOpen)].result)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), fault=st.booleans())
    def set_hmc_id(self, data, fault):
        handle = data.draw(st.sampled_from(self.handles))
        size = data.draw(st.sampled_from([32, 32, 32, 31])) if fault else 32
        self.pair.ask(DeviceIoctl, handle, SETHMCID, bytes(range(size)))

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), size=st.sampled_from([0, 1, 38, 4096, 4097]))
    def write(self, data, size):
        self.pair.ask(DeviceWrite, data.draw(st.sampled_from(self.handles)), b"w" * size)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), count=st.sampled_from([0, 1, 4096, 4097]), nonblock=st.booleans(), polls=st.booleans())
    def read(self, data, count, nonblock, polls):
        handle = data.draw(st.sampled_from(self.handles))
        request = (
            self.pair.ask(DevicePoll, handle, nonblock) if polls else self.pair.ask(DeviceRead, handle, count, nonblock)
        )
        if request not in self.pair.done:
            self.waiting[request] = handle

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def interrupt(self, data):
        request = data.draw(st.sampled_from(list(self.waiting)))
        self.pair.feed(DeviceInterrupt(request))
        assert request in self.pair.done

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def close(self, data):
        handle = data.draw(st.sampled_from(self.handles))
        self.handles.remove(handle)
        self.pair.ask(DeviceClose, handle)

    # -- hypervisor's side

    @precondition(lambda self: self.pair.hypervisor_up and self.pair.hypervisor.indices)
    @rule(data=st.data(), size=st.sampled_from([0, 1, 38, 4096, 4097]))
    def hypervisor_sends(self, data, size):
        index = data.draw(st.sampled_from(self.pair.hypervisor.indices))
        self.pair.feed_hypervisor(hv.SendMessage(index.index, index.session, b"h" * size))

    @rule(add=st.booleans(), owner=st.integers(0, 1))
    def hypervisor_resizes(self, add, owner):
        for slot in self.pair.hypervisor.indices if self.pair.hypervisor_up else ():
            if slot.state is IndexState.OPEN:
                event = hv.AddBuffers(slot.index, owner) if add else hv.TakeBuffer(slot.index)
                self.pair.feed_hypervisor(event)

    # -- losses

    @precondition(lambda self: self.may_lose)
    @rule(how=st.sampled_from(["partition", "hypervisor", "module", "suspend", "freed"]))
    def loss(self, how):
        pair = self.pair
        match how:
            case "partition":
                pair.kill_partition()
                self.handles.clear()
                self.waiting.clear()
                pair.start_partition()
                pair.feed(Probe())
            case "hypervisor":
                pair.kill_hypervisor()
            case "module":
                pair.feed(Remove())
                pair.feed(Probe())
            case "suspend":
                pair._platform(pair.platform.feed(Suspend(NAME, UNIT), pair.now))
            case "freed":
                pair.hypervisor_up = False
                pair.elements.clear()
                pair._platform(pair.platform.partner_free(NAME, UNIT))

    @precondition(lambda self: not self.pair.hypervisor_up)
    @rule()
    def hypervisor_returns(self):
        self.pair.start_hypervisor(greet=True)

    @precondition(lambda self: self.may_lose)
    @rule(point=st.sampled_from([FaultPoint.SEND, FaultPoint.COPY, FaultPoint.FREE]), n=st.integers(1, 3))
    def fault(self, point, n):
        rc = {FaultPoint.SEND: -12, FaultPoint.COPY: -14, FaultPoint.FREE: 9901}[point]
        unit = 0 if point is FaultPoint.COPY else UNIT
        self.pair._platform(self.pair.platform.feed(SetFault(NAME, unit, point, rc, n), self.pair.now))

    # -- hostility

    @precondition(lambda self: self.may_be_hostile)
    @rule(element=HOSTILE)
    def hostile_hypervisor(self, element):
        if is_sendable(element):
            self.is_hostile = True
            self.pair._platform(self.pair.platform.partner_post(NAME, UNIT, element))

    @precondition(lambda self: self.may_be_hostile and self.pair.hypervisor_up)
    @rule(element=HOSTILE)
    def hostile_partition(self, element):
        self.is_hostile = True
        self.pair.feed_hypervisor(hv.PartnerElement(element))

    # -- invariants

    @invariant()
    def sessions_are_named(self):
        for row in self.pair.log:
            if row[0] == "mp" and isinstance(m := decode_vmc(bytes.fromhex(row[1])), Open | Signal | Close):
                assert 1 <= m.session <= 254, row
        self.pair.log.clear()

    @invariant()
    def waiting_calls_end_or_have_a_session(self):
        connections = self.pair.partition.sessions.connections
        self.waiting = {r: h for r, h in self.waiting.items() if r not in self.pair.done}
        parked = {w.request for f in connections.files.values() for w in f.parked}
        for request, handle in self.waiting.items():
            if request in parked and self.dialect.reset_leaves_readers:
                continue
            file = connections.files[handle]
            slot = connections.slot_of(file)
            assert slot is not None, "a blocked reader outlived its session"
            assert request in {w.request for w in slot.waiters}
            assert not slot.has_message

    @invariant()
    def one_owner(self):
        """Within one session both sides agree on, no buffer is owned by both."""
        if self.is_hostile or not self.pair.hypervisor_up:
            return
        slots = self.pair.partition.sessions.connections.slots
        for there in self.pair.hypervisor.indices:
            here = slots[there.index] if there.index < len(slots) else None
            if here is None or here.state is not HmcState.READY or here.session != there.session:
                continue
            for buffer_id, buffer in there.pool:
                both = here.pool.owner(buffer_id) is BufferOwner.ALPHA and buffer.state is BufferState.HYPERVISOR_IDLE
                assert not both, buffer_id

    @invariant()
    def storage_is_not_used_twice(self):
        """No buffer lies where a copy of an earlier session may still write."""
        partition = self.pair.partition
        connections, context = partition.sessions.connections, partition._context
        for transfer in connections.transfers.values():
            if transfer.generation == connections.slots[transfer.index].generation:
                continue
            for slot in connections.slots:
                for buffer_id, _ in slot.pool:
                    address = context.local_address(slot.index, buffer_id)
                    assert not transfer.address <= address < transfer.address + transfer.size_bytes

    @invariant()
    def nothing_outlives_a_reset(self):
        if self.dialect.reset_spares_unopened:
            return
        if self.pair.partition.state is not VmcState.READY:
            for slot in self.pair.partition.sessions.connections.slots:
                assert len(slot.pool) == 0
                assert slot.state is HmcState.FREE

    def check_quiet(self):
        pair = self.pair
        connections = pair.partition.sessions.connections
        assert not connections.transfers
        for slot in connections.slots:
            assert len(slot.inbound) == slot.pool.count(BufferState.ALPHA_INBOUND)
            assert not slot.outbound
            busy = slot.pool.count(BufferState.ALPHA_BUSY)
            assert busy == 0 or slot.state in (HmcState.OPENING, HmcState.CLOSING, HmcState.FAILED)
            if not self.dialect.reset_leaves_readers:
                assert slot.pool.count(BufferState.LOST) == 0
        both_ready = pair.partition.state is VmcState.READY and pair.hypervisor.state is HvLinkState.READY
        retries = pair.partition._link.deadline() is not None
        loses = self.may_lose and not self.dialect.send_failure_stops  # a dropped message stays lost
        if self.is_hostile or not pair.hypervisor_up or not both_ready or retries or loses:
            return
        assert pair.partition.negotiated == pair.hypervisor.negotiated
        for there in pair.hypervisor.indices:
            here = connections.slots[there.index]
            if here.state is HmcState.READY and there.state is IndexState.OPEN:
                assert {i: b.state.owner for i, b in here.pool} == {i: b.state.owner for i, b in there.pool}

    def recover(self):
        """Whatever happened: after a restart of both ends a session works."""
        pair = self.pair
        for point, unit in ((FaultPoint.SEND, UNIT), (FaultPoint.COPY, 0), (FaultPoint.FREE, UNIT)):
            pair._platform(pair.platform.feed(SetFault(NAME, unit, point, 0, 0), pair.now))
        pair.settle()
        pair.feed(Remove())
        pair.settle()
        pair.tick(40.0)
        assert not pair.partition.sessions.connections.transfers
        if pair.hypervisor_up:
            pair.kill_hypervisor()
        pair.start_hypervisor(greet=False)
        pair.probe()
        pair.tick(1.0)
        assert pair.partition.state is VmcState.READY
        handle = pair.session("again")
        assert pair.write(handle, b"ping") == 4
        assert pair.events[-1] == hv.MessageReceived(pair.events[-1].index, pair.events[-1].session, b"ping")
        index = pair.events[-1].index
        pair.send(index, b"pong")
        assert pair.read(handle).data == b"pong"
        assert pair.close(handle) == 0
        self.waiting_calls_end_or_have_a_session()

    def teardown(self):
        self.pair.settle()
        self.check_quiet()
        self.recover()


class LinuxSessions(Sessions):
    """The same with the driver's own conduct; what it leaks and forgets is left out of the checks."""

    dialect = LINUX


TestHardenedSessions = Sessions.TestCase
TestHardenedSessions.settings = SLOW
TestLinuxSessions = LinuxSessions.TestCase
TestLinuxSessions.settings = SLOW


def test_hostile_strategy_reaches_every_message():
    """The strategy above must be able to say anything that decodes."""
    assert all(is_sendable(bytes((0x80, kind)) + bytes(14)) for kind in VmcType)
    assert decode_element(bytes((0xC0, 3)) + bytes(14))
