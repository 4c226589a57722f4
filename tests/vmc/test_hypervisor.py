"""The hypervisor's end against abuse (docs/vmc.md 8.2) and its own services."""

from __future__ import annotations

import pytest
from vmc.scripted import Bytes

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note, Tick
from pvnet.papr.crq import decode_element, encode_init, encode_init_complete, encode_transport_event
from pvnet.vmc import hypervisor_io as io
from pvnet.vmc.buffer_pool import BufferState
from pvnet.vmc.hypervisor import VmcHypervisor
from pvnet.vmc.hypervisor_tables import HvLinkState, IndexState
from pvnet.vmc.messages import (
    AddBuffer,
    AddBufferResponse,
    Capabilities,
    CapabilitiesResponse,
    Close,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBuffer,
    RemoveBufferResponse,
    Signal,
    Unknown,
    decode_vmc,
    encode_vmc,
)

CAP = Capabilities(2, 32, 4096, 256)


class Hv:
    """The machine with its outputs decoded; messages are said to it as values."""

    def __init__(self, **config):
        self.memory = Bytes(0x100000)
        fields = {"buffer_bytes": 0x100000, "alpha_buffers": 1, "hypervisor_buffers": 1} | config
        self.machine = VmcHypervisor(io.VmcHypervisorConfig(**fields), self.memory)
        self.now = 0.0
        self.events = []

    def feed(self, event):
        posted = []
        for output in self.machine.feed(event, self.now):
            if isinstance(output, io.PostElement):
                raw = output.element
                posted.append(decode_vmc(raw) if raw[0] == 0x80 else raw[:2].hex())
            elif not isinstance(output, Note):
                self.events.append(output)
        return posted

    def say(self, *messages):
        posted = []
        for message in messages:
            raw = message if isinstance(message, bytes) else encode_vmc(message)
            posted += self.feed(io.PartnerElement(raw))
        return posted

    def tick(self, seconds):
        self.now += seconds
        return self.feed(Tick())

    def up(self, cap=CAP):
        self.feed(io.PartnerUp(256))
        self.say(encode_init())
        for message in self.say(cap):
            if isinstance(message, AddBuffer):
                self.say(AddBufferResponse(0, message.session, message.index, message.buffer_id))
        assert self.machine.state is HvLinkState.READY
        return self

    def session(self, index=0, session=1, hmc_id=b"app"):
        slot = self.machine.indices[index]
        seed = slot.pool.lowest(BufferState.ALPHA_FREE)
        self.memory.write(self.machine.lioba(index, seed), hmc_id.ljust(32, b"\0"))
        offers = self.say(Open(session, index, seed))
        for offer in offers:
            answer = self.say(AddBufferResponse(0, session, index, offer.buffer_id))
        assert answer == [OpenResponse(0, session, index, seed)]
        return seed

    def slot(self, index=0):
        return self.machine.indices[index]


def test_handshake_started_by_us_and_repeated():
    hv = Hv()
    assert hv.feed(io.PartnerUp(256, greet=True)) == ["c001"]
    assert hv.machine.deadline() == 5.0
    assert hv.tick(5.0) == ["c001"]
    assert hv.say(encode_init_complete()) == []
    assert hv.machine.deadline() is None
    assert hv.say(encode_init_complete()) == []
    posted = hv.say(CAP)
    assert posted[0] == CapabilitiesResponse(2, 64, 16384, 256)
    assert posted[1:] == [AddBuffer(0, 0, 0, 0, 0), AddBuffer(0, 1, 0, 0, 32 * 4096)]
    assert hv.machine.negotiated == (2, 32, 4096)


@pytest.mark.parametrize(
    ("cap", "status"),
    [
        (Capabilities(1, 32, 4096, 256, 0x0200), 2),
        (Capabilities(0, 32, 4096, 256), 1),
        (Capabilities(1, 1, 4096, 256), 1),
        (Capabilities(1, 32, 31, 256), 1),
        (Capabilities(1, 32, 4096, 0), 1),
    ],
)
def test_capabilities_refused_and_then_accepted(cap, status):
    hv = Hv()
    hv.feed(io.PartnerUp(256))
    assert hv.say(CAP) == [], "before INIT"
    hv.say(encode_init())
    assert hv.say(cap) == [CapabilitiesResponse(2, 64, 16384, 256, 0x0101, status)]
    assert hv.machine.state is HvLinkState.WAIT_CAPS
    assert hv.say(CAP)[0].status == 0
    assert hv.say(CAP) == [CapabilitiesResponse(2, 64, 16384, 256, 0x0101, 1)], "again: not without INIT"
    hv.say(AddBufferResponse(0, 0, 0, 0), AddBufferResponse(0, 0, 1, 0))
    assert hv.say(CAP)[0].status == 1
    assert hv.say(Capabilities(1, 32, 4096, 256, 0x0300))[0].status == 2


def test_nothing_is_handled_before_capabilities():
    hv = Hv()
    hv.feed(io.PartnerUp(256))
    hv.say(encode_init())
    assert hv.say(Open(1, 0, 0), Close(1, 0), Signal(1, 0, 0, 1), AddBufferResponse(0, 0, 0, 0)) == []
    assert hv.machine.counters["before_caps"] == 4


def test_seed_refused_takes_another_id_a_few_times():
    hv = Hv(max_hmcs=1, seed_tries=3)
    hv.feed(io.PartnerUp(256))
    hv.say(encode_init(), CAP)
    assert hv.say(AddBufferResponse(2, 0, 0, 0)) == [AddBuffer(0, 0, 1, 0, 0x1000)]
    assert hv.say(AddBufferResponse(2, 0, 0, 1)) == [AddBuffer(0, 0, 2, 0, 0x2000)]
    assert hv.say(AddBufferResponse(2, 0, 0, 2)) == []
    assert hv.slot().state is IndexState.UNSEEDED
    assert hv.machine.state is HvLinkState.READY
    assert hv.say(Open(1, 0, 0)) == [OpenResponse(1, 1, 0, 0), AddBuffer(0, 0, 0, 0, 0)], "forgotten there, so again"


def test_seed_overdue_takes_another_id_and_a_late_answer_is_believed():
    hv = Hv(max_hmcs=1)
    hv.feed(io.PartnerUp(256))
    hv.say(encode_init(), CAP)
    assert hv.tick(2.0) == [AddBuffer(0, 0, 1, 0, 0x1000)]
    hv.say(AddBufferResponse(0, 0, 0, 0))
    assert hv.slot().pool.state(0) is BufferState.ALPHA_FREE
    hv.say(AddBufferResponse(0, 0, 0, 1))
    assert hv.slot().state is IndexState.IDLE
    assert hv.machine.deadline() is None


def test_no_id_left_to_offer():
    hv = Hv(buffer_bytes=0x1000, max_hmcs=2)
    hv.feed(io.PartnerUp(256))
    hv.say(encode_init())
    posted = hv.say(CAP)
    assert posted[1:] == [AddBuffer(0, 0, 0, 0, 0)], "the second index has no memory"
    hv.say(AddBufferResponse(0, 0, 0, 0))
    assert hv.slot(1).state is IndexState.UNSEEDED
    assert hv.say(Open(1, 0, 0)) == [OpenResponse(1, 1, 0, 0), AddBuffer(0, 0, 0, 0, 0)], "no buffer for the session"


def test_open_refusals():
    hv = Hv(unique_ids=True).up()
    assert hv.say(Open(1, 2, 0)) == [OpenResponse(1, 1, 2, 0)]
    reseed = AddBuffer(0, 0, 0, 0, 0)
    for message in (Open(0, 0, 0), Open(1, 0, 5)):
        assert hv.say(message) == [OpenResponse(1, message.session, 0, message.buffer_id), reseed]
        hv.say(AddBufferResponse(0, 0, 0, 0))
    hv.session()
    assert hv.say(Open(1, 0, 0)) == [], "the same again"
    assert hv.say(Open(2, 0, 0)) == [OpenResponse(1, 2, 0, 0)], "another on an open index"
    assert hv.slot().state is IndexState.OPEN
    seed = hv.machine.lioba(1, 0)
    hv.memory.write(seed, b"app".ljust(32, b"\0"))
    assert hv.say(Open(1, 1, 0))[0] == OpenResponse(1, 1, 1, 0), "the id is in use"
    hv.say(AddBufferResponse(0, 0, 1, 0))
    hv.session(index=1, hmc_id=b"other")
    assert [e.hmc_id.rstrip(b"\0") for e in hv.events if isinstance(e, io.SessionOpened)] == [b"app", b"other"]


def test_open_whose_buffers_are_all_refused():
    hv = Hv().up()
    offers = hv.say(Open(1, 0, 0))
    assert [o.owner for o in offers] == [0, 1]
    assert hv.say(AddBufferResponse(4, 1, 0, 1)) == []
    assert hv.say(AddBufferResponse(4, 1, 0, 2)) == [OpenResponse(1, 1, 0, 0), AddBuffer(0, 0, 0, 0, 0)]
    assert hv.events == []
    hv.say(AddBufferResponse(0, 0, 0, 0))
    hv.say(Open(2, 0, 0))
    assert hv.say(AddBufferResponse(4, 2, 0, 1), AddBufferResponse(0, 2, 0, 2)) == [OpenResponse(0, 2, 0, 0)]


def test_close():
    hv = Hv().up()
    assert hv.say(Close(1, 5)) == [CloseResponse(0, 1, 5)]
    assert hv.say(Close(7, 0)) == [CloseResponse(0, 7, 0)], "idempotent"
    hv.session()
    assert hv.say(Close(2, 0)) == []
    assert hv.say(Close(1, 0)) == [CloseResponse(0, 1, 0), AddBuffer(0, 0, 0, 0, 0)]
    assert hv.events[-1] == io.SessionClosed(0, 1, "closed")
    hv.say(AddBufferResponse(0, 0, 0, 0), Open(2, 0, 0))
    count = len(hv.events)
    assert hv.say(Close(2, 0))[0] == CloseResponse(0, 2, 0)
    assert len(hv.events) == count, "was never announced"


def test_signals():
    hv = Hv().up()
    seed = hv.session()
    for bad in (Signal(1, 9, 0, 1), Signal(2, 0, 0, 1), Signal(0, 0, 0, 1), Signal(1, 0, 2, 1), Signal(1, 0, 99, 1)):
        assert hv.say(bad) == []
    assert hv.say(Signal(1, 1, 0, 1)) == []
    assert hv.machine.counters["signal_out_of_session"] == 4
    assert hv.machine.counters["signal_not_owned"] == 2
    hv.memory.write(hv.machine.lioba(0, seed), b"hello")
    hv.say(Signal(1, 0, seed, 5))
    assert hv.events[-1] == io.MessageReceived(0, 1, b"hello")
    count = len(hv.events)
    hv.say(Signal(1, 0, seed, 5))
    assert len(hv.events) == count, "it is ours now"
    hv.say(Signal(1, 0, 1, 4097))
    assert hv.slot().pool.state(1) is BufferState.HYPERVISOR_IDLE
    assert hv.machine.counters["bad_length"] == 1


def test_messages_wait_for_a_buffer_in_a_bounded_queue():
    hv = Hv(queue_limit=2).up()
    seed = hv.session()
    assert hv.feed(io.SendMessage(0, 1, b"one")) == [Signal(1, 0, 2, 3)]
    assert hv.memory.read(hv.machine.lioba(0, 2), 3) == b"one"
    assert hv.feed(io.SendMessage(0, 1, b"two")) == []
    assert hv.feed(io.SendMessage(0, 1, b"three")) == []
    refusals = [
        (io.SendMessage(0, 1, b"four"), "queue_full"),
        (io.SendMessage(0, 1, b""), "empty"),
        (io.SendMessage(0, 1, bytes(4097)), "too_long"),
        (io.SendMessage(0, 2, b"x"), "no_session"),
        (io.SendMessage(1, 1, b"x"), "no_session"),
        (io.SendMessage(9, 1, b"x"), "no_session"),
        (io.SendMessage(-1, 1, b"x"), "no_session"),
    ]
    for event, reason in refusals:
        assert hv.feed(event) == []
        assert hv.events[-1] == io.SendRefused(event.index, event.session, reason)
    assert hv.say(Signal(1, 0, seed, 1)) == [Signal(1, 0, seed, 3)], "sent in the buffer that just came"
    hv.say(Close(1, 0))
    assert hv.events[-1] == io.SessionClosed(0, 1, "closed", unsent=1)


def test_more_buffers_and_buffers_back():
    hv = Hv().up()
    hv.session()
    assert hv.feed(io.AddBuffers(0, 1, 2)) == [AddBuffer(1, 0, 3, 1, 0x3000), AddBuffer(1, 0, 4, 1, 0x4000)]
    hv.say(AddBufferResponse(0, 1, 0, 3), AddBufferResponse(2, 1, 0, 4))
    assert hv.slot().pool.state(3) is BufferState.HYPERVISOR_IDLE
    assert hv.feed(io.TakeBuffer(0)) == [RemoveBuffer(1, 0)]
    hv.say(RemoveBufferResponse(0, 1, 0, 0))
    assert hv.events[-1] == io.BufferTaken(0, 0)
    hv.feed(io.TakeBuffer(0))
    hv.say(RemoveBufferResponse(5, 1, 0, 0xFFFF))
    assert hv.events[-1] == io.BufferTaken(0, None)
    hv.feed(io.TakeBuffer(0))
    hv.tick(2.0)
    assert hv.events[-1] == io.BufferTaken(0, None)
    count = len(hv.events)
    hv.say(RemoveBufferResponse(0, 1, 0, 1))
    assert hv.events[count:] == [io.BufferTaken(0, 1)], "late, but believed"
    hv.feed(io.TakeBuffer(0))
    hv.tick(2.0)
    hv.say(RemoveBufferResponse(5, 1, 0, 0xFFFF), RemoveBufferResponse(0, 1, 0, 3), RemoveBufferResponse(0, 1, 7, 3))
    assert hv.machine.counters["unsolicited_remove_response"] == 2
    hv.feed(io.TakeBuffer(0))
    hv.say(Close(1, 0))
    assert io.BufferTaken(0, None) in hv.events[-2:]
    for event in (io.AddBuffers(0, 0), io.TakeBuffer(1), io.TakeBuffer(9)):
        with pytest.raises(LocalError, match="no open session"):
            hv.feed(event)


def test_removal_of_a_foreign_buffer_resets_the_link():
    hv = Hv().up()
    hv.session()
    hv.feed(io.TakeBuffer(0))
    assert hv.say(RemoveBufferResponse(0, 1, 0, 2)) == ["c001"]
    assert hv.events[-2:] == [io.SessionClosed(0, 1, "reset"), io.ResetLink("protocol_error")]
    assert hv.machine.state is HvLinkState.WAIT_INIT


def test_offers_are_limited_at_a_time():
    hv = Hv(alpha_buffers=3, hypervisor_buffers=3, offers_at_once=2).up()
    assert len(hv.say(Open(1, 0, 0))) == 2
    assert len(hv.say(AddBufferResponse(0, 1, 0, 1))) == 1
    hv.say(AddBufferResponse(0, 9, 0, 2), AddBufferResponse(0, 1, 5, 2), AddBufferResponse(0, 1, 0, 77))
    assert hv.machine.counters["unsolicited_add_response"] == 3


@pytest.mark.parametrize(
    ("element", "state", "reason"),
    [
        (encode_transport_event(1), HvLinkState.DOWN, "partner_gone"),
        (encode_transport_event(2), HvLinkState.DOWN, "partner_gone"),
        (encode_transport_event(6), HvLinkState.WAIT_INIT, "partner_gone"),
        (encode_init(), HvLinkState.WAIT_CAPS, "partner_restarted"),
    ],
)
def test_the_partner_goes_or_restarts(element, state, reason):
    hv = Hv().up()
    hv.session()
    posted = hv.say(element)
    assert posted == (["c002"] if state is HvLinkState.WAIT_CAPS else [])
    assert hv.machine.state is state
    assert hv.events[-1] == io.SessionClosed(0, 1, reason)
    assert hv.machine.indices == []
    hv.feed(io.SendMessage(0, 1, b"x"))
    assert hv.events[-1].reason == "no_session"


def test_elements_that_are_no_messages_for_us():
    hv = Hv().up()
    junk = [
        Unknown(bytes.fromhex("8077") + bytes(14)),
        AddBuffer(0, 0, 0, 0, 0),
        RemoveBuffer(0, 0),
        OpenResponse(0, 0, 0, 0),
        CloseResponse(0, 0, 0),
        CapabilitiesResponse(1, 1, 1, 1),
        bytes.fromhex("8106") + bytes(14),
        bytes(16),
    ]
    assert hv.say(*junk) == []
    assert hv.machine.counters["wrong_direction"] == 5
    assert hv.machine.counters["reserved_element"] == 2
    assert decode_element(bytes(16)) is not None


@pytest.mark.parametrize("bad", [{"max_hmcs": 0}, {"pool_size": 1}, {"max_mtu": 31}, {"hypervisor_buffers": 0}])
def test_configuration_out_of_range(bad):
    with pytest.raises(LocalError, match=next(iter(bad))):
        io.VmcHypervisorConfig(**bad)


def test_no_init_timeout_when_it_is_off():
    hv = Hv(init_s=None)
    hv.feed(io.PartnerUp(256))
    assert hv.machine.deadline() is None
    hv.feed(Tick())
