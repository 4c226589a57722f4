"""The character device: the exact errno of every row of docs/vmc.md 1.3 and 1.4."""

from __future__ import annotations

import pytest
from vmc.scripted import QUERY, RDMA, REQUESTVMC, SETHMCID, Scripted

from pvnet.papr.crq import encode_transport_event
from pvnet.papr.errno import EAGAIN, EBADFD, EBUSY, EFAULT, EINTR, EINVAL, EIO, ENOBUFS, ENODEV, ENOMEM, EPERM
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.retry import RetryLimits
from pvnet.vmc.chardev import QueryResult
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import HARDENED, LINUX
from pvnet.vmc.interface import (
    DeviceClose,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Probe,
)
from pvnet.vmc.messages import (
    AddBuffer,
    CapabilitiesResponse,
    Close,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBuffer,
    Signal,
)

BOTH = pytest.mark.parametrize("dialect", [HARDENED, LINUX], ids=lambda d: d.name)


def in_state(state: VmcState, dialect=HARDENED) -> Scripted:
    s = Scripted(dialect)
    if state is VmcState.INITIAL:
        return s
    s.feed(Probe())
    if state is VmcState.CRQINIT:
        return s
    s.hear(bytes.fromhex("c002") + bytes(14))
    if state is VmcState.FAILED:
        s.hear(CapabilitiesResponse(1, 32, 4096, 256, 0x0200))
    elif state is VmcState.READY:
        s.hear(CapabilitiesResponse(1, 32, 4096, 256))
    assert s.machine.state is state
    return s


@BOTH
@pytest.mark.parametrize(
    ("state", "errno"),
    [
        (VmcState.INITIAL, EAGAIN),
        (VmcState.CRQINIT, EAGAIN),
        (VmcState.CAPABILITIES, EAGAIN),
        (VmcState.FAILED, EIO),
        (VmcState.READY, ENOBUFS),
    ],
)
def test_a_file_without_session_in_every_state_of_the_link(state, errno, dialect):
    s = in_state(state, dialect)
    handle = s.open()
    assert s.set_id(handle) == -errno
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    assert s.call(DeviceRead, handle, 10).result == -EIO
    assert s.call(DevicePoll, handle).result == 0
    have = int(state is not VmcState.INITIAL)
    assert s.call(DeviceIoctl, handle, QUERY).data == QueryResult(have, state, 0).encode("little")
    before = len(s.sent)
    assert s.call(DeviceClose, handle).result == 0
    assert s.sent[before:] == []


def test_query_in_reset_reports_minus_one_and_a_vmc():
    assert QueryResult(1, -1, 0).encode("big") == bytes.fromhex("00000001ffffffff00000000")
    assert QueryResult(1, 3, 0x30000002).encode("big") == bytes.fromhex("000000010000000330000002")
    raw = bytes.fromhex("010000000300000002000030")
    assert QueryResult.decode(raw, "little") == QueryResult(1, 3, 0x30000002)
    s = Scripted().up()
    s.fail(HcallOpcode.H_FREE_CRQ, 9905)
    s.session()
    s.tick(0)
    handle = s.open()
    s.call(DeviceClose, 1)
    s.tick(6.0)
    assert s.machine.state is VmcState.SCHED_RESET
    assert s.call(DeviceIoctl, handle, QUERY).data[:8] == bytes.fromhex("01000000ffffffff")
    assert s.set_id(handle) == -EAGAIN


def test_set_hmc_id_in_the_order_of_its_checks():
    s = Scripted().up(seeds=0)
    first, second = s.open(), s.open()
    assert s.set_id(first) == -ENOBUFS
    s.hear(AddBuffer(0, 0, 0, 1, 0x10000))
    assert s.set_id(first) == -EIO, "8: only a buffer of the hypervisor's; slot stays reserved"
    assert s.slots[0].state is HmcState.INITIAL
    assert s.slots[0].session == 1
    assert s.set_id(second) == -EBUSY, "4"
    assert s.set_id(first, bytes(31)) == -EFAULT, "7 before 8"
    assert s.call(DeviceWrite, first, b"x").result == -EIO, "initial"
    assert s.call(DeviceRead, first, 10, nonblock=True).result == -EAGAIN
    s.hear(AddBuffer(0, 0, 5, 0, 0x15000))
    s.fail(RDMA, -1)
    assert s.set_id(first) == -EIO, "9"
    assert s.slots[0].state is HmcState.INITIAL
    assert s.set_id(first, bytes(range(32))) == 0
    assert s.sent[-1] == Open(1, 0, 5)
    assert s.memory.read(0x2000 + 5 * 0x1000, 32) == bytes(range(32))
    assert [c.args for c in s.hcalls if c.opcode == RDMA][-1] == (4096, 1, 0x7000, 2, 0x15000)
    assert s.set_id(first) == -EIO, "6: opening"
    assert s.call(DeviceWrite, first, b"x").result == -EBUSY, "opening"
    assert s.call(DeviceWrite, first, bytes(4097)).result == -EIO, "length before state"
    assert s.call(DeviceRead, first, 10, nonblock=True).result == -EAGAIN
    s.hear(OpenResponse(0, 1, 0, 5))
    assert s.set_id(first) == -EIO, "6: ready"
    assert s.call(DeviceClose, first).result == 0
    assert s.sent[-1] == Close(1, 0)
    assert s.set_id(second) == -EBUSY, "closing: not reusable before CLOSE RESP"
    s.hear(CloseResponse(0, 1, 0))
    assert s.set_id(second) == -ENOBUFS


@BOTH
def test_close_of_a_reserved_slot(dialect):
    s = Scripted(dialect).up()
    handle = s.open()
    assert s.set_id(handle, b"") == -EFAULT
    assert s.call(DeviceClose, handle).result == 0
    assert not any(isinstance(m, Close) for m in s.sent)
    again = s.open()
    if dialect.close_keeps_initial:
        assert s.set_id(again) == -EBUSY
    else:
        assert s.set_id(again) == 0
        assert s.sent[-1] == Open(2, 0, 0), "the seed stayed, the session number did not"


def test_second_id_while_the_first_is_copied():
    s = Scripted().up()
    handle = s.open()
    s.holds = True
    first = s.ask(DeviceIoctl, handle, SETHMCID, bytes(32))
    assert s.set_id(handle) == -EIO
    s.answer(s.copies.popleft(), 0)
    assert s.done[first].result == 0


def test_read_is_a_datagram_read():
    s = Scripted().up()
    handle = s.session()
    assert s.call(DeviceRead, handle, 0).result == 0
    assert s.call(DeviceRead, handle, 4097).result == -EINVAL
    assert s.call(DeviceRead, 99, 4097).result == -EINVAL, "length before record"
    assert s.call(DeviceRead, 99, 10).result == -EIO
    s.memory.write(0x2000 + 2 * 0x1000, b"0123456789")
    assert s.call(DevicePoll, handle, nonblock=True).result == 0
    assert s.hear(Signal(1, 0, 2, 10)) == []
    assert s.call(DevicePoll, handle).result == 0x41
    done = s.call(DeviceRead, handle, 4)
    assert (done.result, done.data) == (4, b"0123")
    assert s.call(DeviceRead, handle, 4, nonblock=True).result == -EAGAIN, "the rest is discarded"
    assert s.call(DeviceWrite, handle, b"abc").result == 3


def test_blocked_readers_and_polls_wake_in_order():
    s = Scripted().up()
    handle = s.session()
    polls = [s.ask(DevicePoll, handle), s.ask(DevicePoll, handle)]
    reads = [s.ask(DeviceRead, handle, 100), s.ask(DeviceRead, handle, 100)]
    s.memory.write(0x4000, b"one")
    s.hear(Signal(1, 0, 2, 3))
    assert [s.done[p].result for p in polls] == [0x41, 0x41]
    assert s.done[reads[0]].data == b"one"
    assert reads[1] not in s.done
    s.feed(DeviceInterrupt(reads[1]))
    assert s.done[reads[1]].result == -EINTR
    s.feed(DeviceInterrupt(12345))
    poll = s.ask(DevicePoll, handle)
    s.call(DeviceClose, handle)
    assert s.done[poll].result == 0


def test_messages_are_read_in_ring_order_though_copies_answer_out_of_order():
    s = Scripted().up()
    handle = s.session()
    s.hear(AddBuffer(1, 0, 3, 1, 0x23000))
    s.holds = True
    s.hear(Signal(1, 0, 3, 1), Signal(1, 0, 2, 2))
    first, second = s.copies
    s.answer(second, 0)
    assert s.call(DeviceRead, handle, 10, nonblock=True).result == -EAGAIN
    s.answer(first, 0)
    assert [s.call(DeviceRead, handle, 10, nonblock=True).result for _ in range(3)] == [1, 2, -EAGAIN]


def test_write_rows_and_order_of_signals():
    s = Scripted().up()
    handle = s.session()
    assert s.call(DeviceWrite, 99, b"x").result == -EIO
    assert s.call(DeviceWrite, handle, bytes(4097)).result == -EIO
    before = len(s.hcalls)
    assert s.call(DeviceWrite, handle, b"").result == 0
    assert len(s.hcalls) == before
    s.holds = True
    writes = [s.ask(DeviceWrite, handle, b"aa"), s.ask(DeviceWrite, handle, b"bbb")]
    assert s.call(DeviceWrite, handle, b"c").result == -EBUSY, "7: no buffer"
    assert s.call(DeviceWrite, handle, b"").result == -EBUSY, "7 before 10"
    one, two = s.copies
    s.answer(two, 0)
    assert s.done.keys().isdisjoint(writes)
    sent = len(s.sent)
    s.answer(one, 0)
    assert s.sent[sent:] == [Signal(1, 0, 0, 2), Signal(1, 0, 1, 3)]
    assert [s.done[w].result for w in writes] == [2, 3]


@BOTH
def test_a_copy_that_fails(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    s.fail(RDMA, -11)
    sent = len(s.sent)
    assert s.call(DeviceWrite, handle, b"aa").result == (-EIO if dialect.frees_after_rdma_error else 2)
    assert s.sent[sent:] == []
    assert s.call(DeviceWrite, handle, b"aa").result == 2
    lowest_again = 0 if dialect.frees_after_rdma_error else 1
    assert s.sent[-1] == Signal(1, 0, lowest_again, 2)
    s.fail(RDMA, -1)
    s.hear(Signal(1, 0, 2, 2))
    assert s.call(DeviceRead, handle, 10, nonblock=True).result == -EAGAIN
    assert s.counters["rdma_errors"] == 2


def test_close_waits_for_its_own_copies():
    s = Scripted().up()
    handle = s.session()
    s.holds = True
    write, read = s.ask(DeviceWrite, handle, b"last"), s.ask(DeviceRead, handle, 10)
    close = s.ask(DeviceClose, handle)
    assert close not in s.done
    assert s.call(DeviceRead, handle, 10).result == -EIO, "the file is on its way out"
    assert s.call(DeviceClose, handle).result == -EIO
    s.answer(s.copies.popleft(), 0)
    assert s.done[write].result == 4
    assert s.done[close].result == 0
    assert s.done[read].result == -EBADFD
    assert s.sent[-2:] == [Signal(1, 0, 0, 4), Close(1, 0)]


@pytest.mark.parametrize("kind", ["write", "receive", "open"])
def test_a_late_copy_is_harmless_and_its_storage_is_not_reused_before(kind):
    s = Scripted().up()
    handle = s.open() if kind == "open" else s.session()
    s.holds = True
    request = 0
    if kind == "open":
        request = s.ask(DeviceIoctl, handle, SETHMCID, bytes(32))
    elif kind == "write":
        request = s.ask(DeviceWrite, handle, b"x")
    else:
        s.hear(Signal(1, 0, 2, 5))
    buffer_id = 2 if kind == "receive" else 0
    (copy,) = s.copies
    s.hear(encode_transport_event(2), bytes.fromhex("c002") + bytes(14), CapabilitiesResponse(1, 32, 4096, 256))
    assert s.machine.state is VmcState.READY
    assert s.hear(AddBuffer(0, 0, buffer_id, 0, 0x50000), AddBuffer(0, 0, 9, 0, 0x60000)) == []
    assert s.counters["storage_waits"] == 1
    s.feed(Probe())
    sent = len(s.sent)
    s.answer(copy, 0)
    assert [type(m).__name__ for m in s.sent[sent:]] == ["AddBufferResponse"] * 2
    assert s.counters["late_copies"] == 1
    if request:
        assert s.done[request].result == -EIO
    assert s.call(DeviceRead, handle, 10).result == (-EBADFD)


def test_writes_behind_an_unanswered_one_end_with_the_session():
    s = Scripted().up()
    handle = s.session()
    s.holds = True
    first, second = s.ask(DeviceWrite, handle, b"a"), s.ask(DeviceWrite, handle, b"b")
    one, two = s.copies
    s.answer(two, 0)
    s.hear(encode_transport_event(1))
    assert s.done[second].result == -EIO
    assert first not in s.done
    s.answer(one, 0)
    assert s.done[first].result == -EIO


@BOTH
def test_after_a_transport_event(dialect):
    s = Scripted(dialect).up()
    handle = s.session()
    reading = s.ask(DeviceRead, handle, 10)
    s.hear(encode_transport_event(1))
    assert s.done[reading].result == -EBADFD
    assert s.call(DeviceRead, handle, 10).result == -EBADFD
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    assert s.set_id(handle) == -EIO
    assert s.call(DevicePoll, handle).result == 0
    sent = len(s.sent)
    assert s.call(DeviceClose, handle).result == 0
    assert s.sent[sent:] == []


@BOTH
def test_after_a_refused_open(dialect):
    s = Scripted(dialect).up()
    handle = s.open()
    assert s.set_id(handle) == 0
    reading, polling = s.ask(DeviceRead, handle, 10), s.ask(DevicePoll, handle)
    s.hear(OpenResponse(1, 1, 0, 0))
    assert s.slots[0].state is HmcState.FREE
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    assert s.set_id(handle) == -EIO
    if dialect.reset_leaves_readers:
        assert reading not in s.done
        assert s.call(DeviceRead, handle, 10, nonblock=True).result == -EAGAIN
        other = s.ask(DeviceRead, handle, 10)
        s.feed(DeviceInterrupt(other))
        assert s.done[other].result == -EINTR
    else:
        assert s.done[reading].result == -EBADFD
        assert s.call(DeviceRead, handle, 10).result == -EBADFD
    s.call(DeviceClose, handle)
    assert s.done[reading].result == -EBADFD
    assert s.done[polling].result == 0
    assert s.set_id(s.open()) == -ENOBUFS, "the seed is gone too"


def test_close_while_the_link_has_failed_reports_eio_and_sends_nothing():
    s = Scripted().up()
    handle = s.session()
    s.machine._context.state = VmcState.FAILED
    sent = len(s.sent)
    s.holds = True
    write = s.ask(DeviceWrite, handle, b"a")
    close = s.ask(DeviceClose, handle)
    s.answer(s.copies.popleft(), 0)
    assert s.done[write].result == -EIO
    assert close in s.done
    assert s.sent[sent:] == []
    s.machine._context.state = VmcState.READY
    s.holds = False
    s.hear(AddBuffer(0, 0, 0, 0, 0x10000))
    again = s.session()
    s.machine._context.state = VmcState.FAILED
    assert s.call(DeviceClose, again).result == -EIO
    assert s.call(DeviceClose, again).result == -EIO, "gone"


def test_handles_and_commands_that_do_not_exist():
    s = Scripted(max_files=1)
    handle = s.open()
    assert s.call(DeviceOpen).result == -ENOMEM
    assert s.call(DeviceIoctl, handle, 0xCC03).result == -EINVAL
    assert s.call(DeviceIoctl, 77, QUERY).result == -EIO
    assert s.call(DevicePoll, 77).result == -EIO
    assert s.call(DeviceClose, 77).result == -EIO


@pytest.mark.parametrize(
    ("rc", "result", "has_data"),
    [
        (HcallRc.H_SUCCESS, 0, True),
        (HcallRc.H_FUNCTION, -EPERM, False),
        (HcallRc.H_AUTHORITY, -EPERM, False),
        (HcallRc.H_NOT_AVAILABLE, -EPERM, False),
        (HcallRc.H_HARDWARE, -EIO, False),
        (HcallRc.H_RESOURCE, -ENODEV, False),
        (HcallRc.H_PARAMETER, -EINVAL, False),
        (HcallRc.H_CLOSED, 2, True),
    ],
)
def test_request_vmc_maps_return_codes(rc, result, has_data):
    s = Scripted()
    s.fail(HcallOpcode.H_REQUEST_VMC, rc)
    done = s.call(DeviceIoctl, s.open(), REQUESTVMC)
    assert done.result == result
    assert done.data == (bytes.fromhex("02000030") if has_data else b"")


def test_request_vmc_repeats_within_limits_and_can_be_interrupted():
    s = Scripted(request_retry=RetryLimits(max_tries=3, seconds=10.0))
    handle = s.open()
    s.fail(HcallOpcode.H_REQUEST_VMC, 1, 9902, 0)
    request = s.ask(DeviceIoctl, handle, REQUESTVMC)
    assert s.machine.deadline() is not None
    s.tick(0.001)
    assert request not in s.done
    s.tick(0.05)
    assert request not in s.done, "the hint of 100 ms is kept"
    s.tick(0.06)
    assert s.done[request].result == 0
    s.fail(HcallOpcode.H_REQUEST_VMC, 1, 1, 1)
    request = s.ask(DeviceIoctl, handle, REQUESTVMC)
    for _ in range(3):
        s.tick(1.0)
    assert s.done[request].result == -EBUSY
    s.fail(HcallOpcode.H_REQUEST_VMC, 9903)
    request = s.ask(DeviceIoctl, handle, REQUESTVMC)
    s.feed(DeviceInterrupt(request))
    assert s.done[request].result == -EINTR
    assert s.machine.deadline() is None


def test_request_vmc_interrupted_while_the_call_is_under_way():
    s = Scripted()
    handle = s.open()
    held = []
    s.answer = lambda call, rc=None: held.append(call)  # type: ignore[method-assign]
    request = s.ask(DeviceIoctl, handle, REQUESTVMC)
    s.feed(DeviceInterrupt(request))
    s.feed(DeviceInterrupt(request))
    assert s.done[request].result == -EINTR
    del s.answer
    s.answer(held[0], 0)
    assert s.machine._context.drc_index == 0


def test_removed_buffer_storage_is_forgotten_and_given_anew():
    s = Scripted().up()
    s.session()
    assert s.hear(RemoveBuffer(1, 0))[0].buffer_id == 0
    assert s.hear(AddBuffer(1, 0, 0, 0, 0x99000))[0].status == 0
