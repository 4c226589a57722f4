"""The partition against abuse: docs/vmc.md 8.1, in the dialects that differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vmc.scripted import Scripted

from pvnet.core.errors import LocalError
from pvnet.papr.calls import HcallReturned
from pvnet.papr.crq import encode_init, encode_init_complete, encode_transport_event
from pvnet.papr.errno import EBADFD, EIO
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.buffer_pool import BufferState
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import HARDENED, LINUX, LOPAR, NO_TIMEOUTS
from pvnet.vmc.interface import DeviceClose, DeviceRead, DeviceWrite, Irq, Probe, Remove, VmcPartitionConfig
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
)

ALL = pytest.mark.parametrize("dialect", [HARDENED, LINUX, LOPAR], ids=lambda d: d.name)
SEND, REG, FREE, ENABLE = (
    HcallOpcode.H_SEND_CRQ, HcallOpcode.H_REG_CRQ, HcallOpcode.H_FREE_CRQ, HcallOpcode.H_ENABLE_CRQ,
)  # fmt: skip


def opcodes(s: Scripted) -> list[int]:
    return [call.opcode for call in s.hcalls if call.opcode != SEND]


@ALL
def test_add_buffer_checks_in_order(dialect):
    s = Scripted(dialect, remote_bytes=0x40000).up()
    s.session()
    status = dialect.status
    hardened = dialect is not LINUX
    cases = [
        (AddBuffer(9, 9, 0, 0, 0), status.bad_index if hardened else None),
        (AddBuffer(2, 0, 5, 0, 0), status.closed if hardened else None),
        (AddBuffer(0, 9, 1, 0, 0), status.bad_index),
        (AddBuffer(1, 0, 32, 0, 0), status.bad_buffer),
        (AddBuffer(1, 0, 0xFFFF, 0, 0), status.bad_buffer),
        (AddBuffer(1, 0, 1, 0, 0), status.bad_buffer),
        (AddBuffer(0, 0, 1, 0, 0), status.bad_buffer),
        (AddBuffer(1, 0, 6, 2, 0), status.failure if hardened else 0),
        (AddBuffer(1, 0, 7, 0, 0x3F001), status.failure if hardened else 0),
        (AddBuffer(1, 0, 8, 0, 0x3F000), 0),
    ]
    for message, expected in cases:
        answer = AddBufferResponse(expected or 0, message.session, message.index, message.buffer_id)
        assert s.hear(message) == ([] if expected is None else [answer]), message
    assert s.slots[0].pool.state(1) is BufferState.ALPHA_FREE, "the duplicate left it alone"


def test_add_buffer_beyond_local_memory():
    s = Scripted(buffer_bytes=0x3000).up()
    assert s.hear(AddBuffer(0, 0, 2, 0, 0x1000)) == [AddBufferResponse(0, 0, 0, 2)]
    assert s.hear(AddBuffer(0, 0, 3, 0, 0x1000)) == [AddBufferResponse(4, 0, 0, 3)]
    assert s.counters["no_local_memory"] == 1


@ALL
def test_remove_buffer(dialect):
    s = Scripted(dialect).up()
    status, hardened = dialect.status, dialect is not LINUX
    s.session()
    bad = [RemoveBufferResponse(status.bad_index, 3, 4, 0)] if hardened else []
    assert s.hear(RemoveBuffer(3, 4)) == bad
    assert s.hear(RemoveBuffer(0, 4)) == [RemoveBufferResponse(status.bad_index, 0, 4, 0)]
    assert s.hear(RemoveBuffer(2, 0)) == []
    assert s.hear(RemoveBuffer(1, 0)) == [RemoveBufferResponse(0, 1, 0, 0)]
    last = [RemoveBufferResponse(status.none_to_remove, 1, 0, 0xFFFF)]
    if hardened:
        assert s.hear(RemoveBuffer(1, 0)) == last, "never the last one of a live session"
    else:
        assert s.hear(RemoveBuffer(1, 0)) == [RemoveBufferResponse(0, 1, 0, 1)]
        assert s.hear(RemoveBuffer(1, 0)) == last


@ALL
def test_signal_of_nonsense(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    linux = dialect is LINUX
    assert s.hear(Signal(0, 7, 1, 5)) == ([AddBufferResponse(1, 0, 7, 1)] if linux else [])
    assert s.hear(Signal(3, 7, 1, 5)) == []
    assert s.hear(Signal(1, 0, 0x1234, 4)) == ([AddBufferResponse(2, 1, 0, 0x1234)] if linux else [])
    assert s.hear(Signal(11, 0, 2, 4), Signal(1, 0, 0, 4), Signal(1, 0, 9, 4)) == []
    assert s.counters["signal_not_owned"] == 2
    assert s.hear(Signal(1, 0, 2, 4097)) == []
    assert s.counters["bad_length"] == 1
    assert s.slots[0].pool.state(2) is BufferState.ALPHA_FREE
    assert s.call(DeviceWrite, handle, b"a").result == 1
    assert s.hear(Signal(1, 0, 0, 0)) == []
    assert s.call(DeviceRead, handle, 10, nonblock=True).result == (0 if linux else -11)


@ALL
def test_messages_that_are_not_for_us(dialect):
    s = Scripted(dialect).up()
    s.session()
    before = (s.machine.state, s.slots[0].state)
    quiet = [
        Capabilities(1, 32, 4096, 256),
        Open(1, 0, 0),
        Close(1, 0),
        AddBufferResponse(0, 1, 0, 0),
        RemoveBufferResponse(0, 1, 0, 0),
        Unknown(bytes.fromhex("8077") + bytes(14)),
        bytes.fromhex("8106") + bytes(14),
        bytes.fromhex("c003") + bytes(14),
        encode_init_complete(),
        CapabilitiesResponse(2, 64, 16384, 256),
        OpenResponse(0, 1, 0, 0),
        OpenResponse(1, 9, 0, 0),
        CloseResponse(0, 9, 0),
        CloseResponse(0, 3, 4),
    ]
    assert s.hear(*quiet) == []
    assert (s.machine.state, s.slots[0].state) == before
    assert s.counters["wrong_direction"] == 5
    assert s.counters["unknown_message"] == 1
    assert s.counters["reserved_element"] == 2
    assert s.counters["unexpected_capabilities"] == 1
    assert s.counters["stale_session"] == 2
    assert s.machine.negotiated == (1, 32, 4096)


@ALL
def test_init_while_the_link_is_up(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    answer = s.hear(encode_init())
    if dialect is LINUX:
        assert answer == []
        assert s.machine.state is VmcState.READY
    else:
        assert answer == ["c002", Capabilities(1, 32, 4096, 256)]
        assert s.call(DeviceRead, handle, 1).result == -EBADFD


@ALL
@pytest.mark.parametrize(
    "response",
    [
        CapabilitiesResponse(1, 32, 4096, 256, 0x0101, 1),
        CapabilitiesResponse(0, 32, 4096, 256),
        CapabilitiesResponse(1, 0, 4096, 256),
        CapabilitiesResponse(1, 32, 31, 256),
        CapabilitiesResponse(1, 32, 4096, 0),
    ],
)
def test_capabilities_that_are_of_no_use(response, dialect):
    s = Scripted(dialect)
    s.feed(Probe())
    s.hear(encode_init_complete(), response)
    assert s.machine.state is (VmcState.READY if dialect is LINUX else VmcState.FAILED)


@ALL
def test_version(dialect):
    for version, state in ((0x0107, VmcState.READY), (0x0200, VmcState.FAILED)):
        s = Scripted(dialect)
        s.feed(Probe())
        s.hear(encode_init_complete(), CapabilitiesResponse(1, 16, 4096, 256, version))
        assert s.machine.state is state
    s.hear(encode_transport_event(2))
    assert s.machine.state is VmcState.CRQINIT, "the way out of failed"


@ALL
def test_interface_messages_before_ready(dialect):
    s = Scripted(dialect)
    s.feed(Probe())
    answers = s.hear(AddBuffer(0, 0, 0, 0, 0x1000))
    assert answers == ([AddBufferResponse(0, 0, 0, 0)] if dialect is LINUX else [])


@ALL
def test_unsolicited_answers_to_a_live_session(dialect):
    s = Scripted(dialect).up()
    s.session()
    s.hear(OpenResponse(1, 1, 0, 0))
    assert s.slots[0].state is (HmcState.FREE if dialect is LINUX else HmcState.READY)
    s = Scripted(dialect).up()
    s.session()
    s.hear(CloseResponse(0, 1, 0))
    assert s.slots[0].state is (HmcState.FREE if dialect is LINUX else HmcState.READY)
    s.hear(CloseResponse(0, 0, 5))
    assert s.machine.state is (VmcState.CRQINIT if dialect is LINUX else VmcState.READY)
    assert (FREE in opcodes(s)) == (dialect is LINUX)


@ALL
def test_open_response_with_another_buffer(dialect):
    s = Scripted(dialect).up(seeds=2)
    handle = s.open()
    s.set_id(handle)
    reading = s.ask(DeviceRead, handle, 5)
    s.hear(OpenResponse(0, 1, 0, 1))
    if dialect is LINUX:
        assert s.slots[0].state is HmcState.READY
        assert s.slots[0].pool.state(0) is BufferState.ALPHA_BUSY
    else:
        assert s.sent[-1] == Close(1, 0)
        assert s.done[reading].result == -EBADFD
        assert s.call(DeviceWrite, handle, b"x").result == -EIO
        sent = len(s.sent)
        assert s.call(DeviceClose, handle).result == 0
        assert len(s.sent) == sent
        s.hear(CloseResponse(0, 1, 0))
        assert s.slots[0].state is HmcState.FREE


def test_linux_open_response_beyond_the_pool_fails_the_slot():
    s = Scripted(LINUX).up()
    handle = s.open()
    s.set_id(handle)
    s.hear(OpenResponse(0, 1, 0, 32))
    assert s.slots[0].state is HmcState.FAILED
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    s.call(DeviceClose, handle)
    assert s.sent[-1] == Close(1, 0)


@ALL
def test_refused_close_resets_the_queue(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    s.call(DeviceClose, handle)
    before = len(s.hcalls)
    s.hear(CloseResponse(1, 1, 0))
    assert [c.opcode for c in s.hcalls[before:]] == [FREE, REG, HcallOpcode.H_VIO_SIGNAL, SEND]
    assert s.sent[-1] == "c001"
    assert s.machine.state is VmcState.CRQINIT
    assert len(s.slots[0].pool) == 0
    assert s.hear(encode_init_complete()) == [Capabilities(1, 32, 4096, 256)]


@ALL
@pytest.mark.parametrize("rc", [0, 2, -16, -4])
def test_registering_again_after_a_reset(rc, dialect):
    s = Scripted(dialect).up()
    s.call(DeviceClose, s.session())
    s.fail(REG, rc)
    s.hear(CloseResponse(1, 1, 0))
    good = (0, -16) if dialect is LINUX else (0, 2, -16)
    assert s.machine.state is (VmcState.CRQINIT if rc in good else VmcState.FAILED)


@ALL
def test_buffers_of_an_index_never_opened(dialect):
    s = Scripted(dialect, max_hmcs=2).up(hmcs=2)
    s.session()
    s.hear(encode_transport_event(1), encode_init())
    s.hear(CapabilitiesResponse(2, 32, 4096, 256))
    again = s.hear(AddBuffer(0, 0, 0, 0, 0x1000), AddBuffer(0, 1, 0, 0, 0x2000))
    assert again == [AddBufferResponse(0, 0, 0, 0), AddBufferResponse(2 if dialect is LINUX else 0, 0, 1, 0)]
    s.feed(Remove())
    assert all(len(slot.pool) == 0 for slot in s.slots)


@ALL
def test_limits_of_the_configuration(dialect):
    s = Scripted(dialect, max_hmcs=300, pool_size=1, max_mtu=8)
    s.feed(Probe())
    s.hear(encode_init_complete())
    assert s.sent[-1] == (Capabilities(2, 16, 4096, 256) if dialect is LINUX else Capabilities(254, 1, 32, 256))


@ALL
def test_session_numbers_wrap_before_255(dialect):
    s = Scripted(dialect).up()
    s.hear(AddBuffer(0, 0, 1, 0, 0))
    s.slots[0].session = 253
    for expected in (254, 1):
        handle = s.session()
        assert s.slots[0].session == expected
        s.call(DeviceClose, handle)
        s.hear(CloseResponse(0, expected, 0), AddBuffer(0, 0, 0, 0, 0))


@ALL
def test_suspend(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    s.fail(ENABLE, 14, 0)
    s.hear(encode_transport_event(6))
    assert s.call(DeviceRead, handle, 1).result == -EBADFD
    assert s.machine.state is VmcState.CRQINIT
    assert opcodes(s).count(ENABLE) == (0 if dialect is LINUX else 1)
    sent = len(s.sent)
    s.tick(0.2)
    assert s.sent[sent:] == ([] if dialect is LINUX else ["c001"])


def test_timeouts():
    s = Scripted()
    s.feed(Probe())
    s.tick(5.0)
    assert s.sent == ["c001", "c001"]
    s.hear(encode_init_complete())
    s.tick(5.0)
    assert FREE in opcodes(s), "no CAP RESP"
    s = Scripted().up()
    assert s.machine.deadline() is None
    s.set_id(s.open())
    assert s.machine.deadline() == 10.0
    s.tick(9.9)
    assert s.machine.state is VmcState.READY
    s.tick(0.2)
    assert s.machine.state is VmcState.CRQINIT
    s = Scripted().up()
    s.call(DeviceClose, s.session())
    s.tick(5.0)
    assert FREE in opcodes(s), "no CLOSE RESP"
    for quiet in (Scripted(LINUX), Scripted(timeouts=NO_TIMEOUTS)):
        quiet.up()
        quiet.set_id(quiet.open())
        assert quiet.machine.deadline() is None


def test_refused_sends():
    s = Scripted().up()
    handle = s.session()
    s.fail(SEND, 2)
    assert s.call(DeviceWrite, handle, b"x").result == 1
    assert s.machine.state is VmcState.CRQINIT, "H_CLOSED: wait for INIT"
    s = Scripted().up()
    handle = s.session()
    s.fail(SEND, *[-12] * 20)
    assert s.call(DeviceWrite, handle, b"x").result == 1
    for _ in range(10):
        s.tick(1.0)
    assert FREE in opcodes(s), "H_DROPPED too often: reset"
    s = Scripted()
    s.fail(SEND, 2)
    s.feed(Probe())
    assert s.machine.state is VmcState.CRQINIT, "INIT refused: the partner will say it"
    s.fail(SEND, 2)
    assert s.hear(encode_init()) == ["c002"]
    assert s.machine.state is VmcState.CRQINIT
    linux = Scripted(LINUX).up()
    handle = linux.session()
    linux.fail(SEND, 2)
    assert linux.call(DeviceWrite, handle, b"x").result == 1
    assert linux.machine.state is VmcState.READY


@ALL
def test_remove_and_probe_again(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    s.fail(FREE, 9901)
    s.feed(Remove())
    assert s.machine.state is VmcState.INITIAL
    assert s.call(DeviceRead, handle, 1).result == -EBADFD
    s.feed(Probe())
    regs = opcodes(s).count(REG)
    s.tick(0.02)
    assert opcodes(s).count(REG) == regs + 1, "registered when the old registration was gone"
    assert s.machine.state is VmcState.CRQINIT
    s.fail(FREE, -1)
    s.feed(Remove())
    assert s.machine.state is VmcState.INITIAL
    s.feed(Probe())
    assert s.machine.state is VmcState.CRQINIT


@ALL
def test_probe_that_fails_and_a_stale_registration(dialect):
    s = Scripted(dialect)
    s.fail(REG, -4)
    s.feed(Probe())
    assert s.machine.state is VmcState.FAILED
    s.fail(REG, -16, 2)
    s.feed(Probe())
    assert s.machine.state is VmcState.CRQINIT
    assert opcodes(s)[-3:] == [FREE, REG, HcallOpcode.H_VIO_SIGNAL]


def test_own_misuse_raises():
    s = Scripted()
    with pytest.raises(LocalError, match="no such call"):
        s.feed(HcallReturned(999, 0))
    base = {"unit": 1, "lliobn": 1, "rliobn": 2, "crq_ioba": 0, "buffer_ioba": 0x1000, "buffer_bytes": 0x1000}
    VmcPartitionConfig(**base)
    for bad in ({"crq_ioba": 8}, {"crq_bytes": 100}, {"crq_bytes": 0}, {"crq_ioba": 0x1000}):
        with pytest.raises(LocalError):
            VmcPartitionConfig(**(base | bad))


def test_link_and_counters_can_be_looked_at():
    s = Scripted(replace(HARDENED, name="mine")).up()
    s.feed(Irq())
    assert s.machine.link_counters is not None
    assert s.machine.counters["link_ignored"] == 0
