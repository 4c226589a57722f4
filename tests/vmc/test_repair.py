"""Refused copies that say that the link is gone: the partition resets its CRQ, and not too often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from vmc.pair import LLIOBN, SETHMCID, UNIT, Pair
from vmc.scripted import RDMA, Scripted

from pvnet.papr.crq import encode_init_complete, encode_transport_event
from pvnet.papr.errno import EAGAIN, EBADFD, EIO
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import HARDENED, LINUX, LOPAR
from pvnet.vmc.interface import DeviceIoctl, DeviceRead, DeviceWrite
from pvnet.vmc.messages import AddBuffer, CapabilitiesResponse, Signal
from pvnet.vmc.repair import LinkRepair

REPAIRS = pytest.mark.parametrize("dialect", [HARDENED, LOPAR], ids=lambda d: d.name)
GONE = pytest.mark.parametrize("rc", [-13, -14])
FREE, REG, SIGNAL, SEND = (
    HcallOpcode.H_FREE_CRQ, HcallOpcode.H_REG_CRQ, HcallOpcode.H_VIO_SIGNAL, HcallOpcode.H_SEND_CRQ,
)  # fmt: skip


def resets(s: Scripted) -> int:
    return sum(call.opcode == FREE for call in s.hcalls)


def again(s: Scripted) -> int:
    """The hypervisor answers the INIT of a reset; a file with a session that is ready."""
    assert s.machine.state is VmcState.CRQINIT
    s.hear(encode_init_complete())
    s.hear(CapabilitiesResponse(1, 32, 4096, 256), AddBuffer(0, 0, 0, 0, 0x10000))
    assert s.machine.state is VmcState.READY
    return s.session()


@REPAIRS
@GONE
def test_a_refused_write_is_eio_and_then_the_queue_is_reset(dialect, rc):
    s = Scripted(dialect).up()
    handle = s.session()
    reading = s.ask(DeviceRead, handle, 10)
    before = len(s.hcalls)
    s.fail(RDMA, rc)
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    assert [call.opcode for call in s.hcalls[before:]] == [RDMA, FREE, REG, SIGNAL, SEND]
    assert s.done[reading].result == -EBADFD
    assert list(s.done)[-2:] == [reading + 1, reading], "the call that met it ends first"
    assert s.call(DeviceRead, handle, 10).result == -EBADFD
    assert len(s.slots[0].pool) == 0
    assert s.call(DeviceWrite, again(s), b"x").result == 1
    assert s.counters["refused_copy_resets"] == 1
    assert s.machine.deadline() is None


@GONE
def test_a_refused_id_and_a_refused_message_reset_too(rc):
    s = Scripted().up()
    s.fail(RDMA, rc)
    assert s.set_id(s.open()) == -EIO
    assert resets(s) == 1
    s = Scripted().up()
    handle = s.session()
    s.fail(RDMA, rc)
    s.hear(Signal(1, 0, 2, 2))
    assert resets(s) == 1
    assert s.call(DeviceRead, handle, 10).result == -EBADFD


@pytest.mark.parametrize("rc", [-1, -11, -4])
def test_other_failures_are_eio_and_no_more(rc):
    s = Scripted().up()
    handle = s.session()
    for _ in range(50):
        s.fail(RDMA, rc)
        assert s.call(DeviceWrite, handle, b"x").result == -EIO
    s.fail(RDMA, rc)
    s.hear(Signal(1, 0, 2, 2))
    assert s.counters["rdma_errors"] == 51
    assert resets(s) == 0
    assert s.slots[0].state is HmcState.READY
    assert s.call(DeviceWrite, handle, b"x").result == 1


def test_linux_never_resets_for_a_copy():
    s = Scripted(LINUX).up()
    handle = s.session()
    s.fail(RDMA, -13)
    s.call(DeviceWrite, handle, b"x")
    s.tick(100.0)
    assert resets(s) == 0
    assert s.slots[0].state is HmcState.READY


def test_writes_under_way_all_end_and_reset_once():
    s = Scripted().up()
    handle = s.session()
    s.holds = True
    writes = [s.ask(DeviceWrite, handle, b"x") for _ in range(2)]
    for copy in list(s.copies):
        s.answer(copy, -14)
    assert [s.done[write].result for write in writes] == [-EIO, -EIO]
    assert resets(s) == 1
    s.holds = False
    assert s.call(DeviceWrite, again(s), b"x").result == 1


def test_a_late_answer_says_nothing_about_the_new_link():
    s = Scripted().up()
    handle = s.session()
    s.holds = True
    write = s.ask(DeviceWrite, handle, b"x")
    s.hear(encode_transport_event(1))
    s.answer(s.copies[0], -14)
    assert s.done[write].result == -EIO
    assert resets(s) == 0
    assert s.machine.state is VmcState.CRQINIT


def test_a_hypervisor_that_refuses_every_copy_costs_few_resets():
    s = Scripted().up()
    at: list[float] = []
    for _ in range(2000):
        if s.machine.state is VmcState.CRQINIT:
            s.hear(encode_init_complete())
            s.hear(CapabilitiesResponse(1, 32, 4096, 256), AddBuffer(0, 0, 0, 0, 0x10000))
        s.fail(RDMA, -14)
        before = resets(s)
        assert s.set_id(s.open()) == -EIO
        s.tick(0.125)
        at += [s.now] * (resets(s) - before)
        for handle in list(s.machine.sessions.connections.files):
            s.machine.sessions.close_file(s.machine.sessions.connections.files[handle], 10_000 + handle)
    pauses = [round(later - earlier) for earlier, later in pairwise(at)]
    assert pauses == [1, 2, 4, 8, 16, *[30] * (len(pauses) - 5)]
    assert len(pauses) > 7


def test_a_reset_that_has_to_wait_needs_no_further_call():
    s = Scripted().up()
    handle = s.session()
    s.fail(RDMA, -14)
    s.call(DeviceWrite, handle, b"x")
    handle = s.open()
    s.hear(encode_init_complete())
    s.hear(CapabilitiesResponse(1, 32, 4096, 256), AddBuffer(0, 0, 0, 0, 0x10000))
    s.fail(RDMA, -14)
    assert s.set_id(handle) == -EIO
    assert s.slots[0].state is HmcState.INITIAL, "not yet"
    assert s.call(DeviceRead, handle, 10, nonblock=True).result == -EAGAIN
    assert s.machine.deadline() == 1.0
    s.tick(0.9)
    assert resets(s) == 1
    s.tick(0.1)
    assert resets(s) == 2
    assert s.call(DeviceRead, handle, 10).result == -EBADFD
    assert s.call(DeviceWrite, again(s), b"x").result == 1


@pytest.mark.parametrize("how", ["copy", "lost"])
def test_a_reset_that_waits_is_given_up(how):
    s = Scripted().up()
    s.fail(RDMA, -14)
    s.set_id(s.open())
    handle = again(s)
    s.fail(RDMA, -14)
    assert s.call(DeviceWrite, handle, b"x").result == -EIO
    assert s.machine.deadline() == 1.0
    if how == "copy":
        assert s.call(DeviceWrite, handle, b"x").result == 1
    else:
        s.hear(encode_transport_event(1))
    s.tick(1.5)
    assert resets(s) == 1


def test_pauses():
    repair = LinkRepair()
    repair.copied(-13, 5.0)
    assert repair.due == 5.0
    repair.copied(-14, 6.0)
    assert repair.due == 5.0, "the first counts"
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        repair.begin(100.0)
        repair.copied(-13, 100.5)
        assert repair.due == 100.0 + pause
    repair.copied(-1, 100.5)
    assert repair.due == 130.0
    repair.copied(0, 101.0)
    assert repair.due is None
    repair.copied(-13, 101.0)
    assert repair.due == 101.0, "a success makes the pause short again"


def broken(pair: Pair) -> None:
    pair.hcall(FREE, UNIT)
    pair.settle()
    assert pair.partition.state is VmcState.READY, "the driver was not told"


@REPAIRS
def test_the_queue_is_taken_away_from_under_the_driver(dialect):
    pair = Pair(dialect)
    pair.probe()
    handle = pair.session()
    for _ in range(5):
        broken(pair)
        assert pair.write(handle, b"x") == -EIO
        pair.tick(1.0)
        assert pair.read(handle).result == -EBADFD
        assert pair.partition.state is VmcState.READY
        pair.close(handle)
        handle = pair.session()
        assert pair.write(handle, b"ping") == 4
        assert pair.events[-1].payload == b"ping"
        pair.tick(1.0)


def test_queue_page_unmapped_the_state_says_failed():
    """Nobody can register a queue in memory that is not mapped: QUERY says so, and a probe is tried again."""
    pair = Pair()
    pair.probe()
    handle = pair.session()
    broken(pair)
    pair.hcall(HcallOpcode.H_PUT_TCE, LLIOBN, 0x1000, 0)
    assert pair.write(handle, b"x") == -EIO
    pair.tick(60.0)
    assert pair.partition.state is VmcState.FAILED
    assert pair.call(DeviceIoctl, pair.open(), SETHMCID, bytes(32)).result == -EIO
    assert pair.read(handle).result == -EBADFD
    pair.hcall(HcallOpcode.H_PUT_TCE, LLIOBN, 0x1000, 0x1003)
    pair.probe()
    assert pair.partition.state is VmcState.READY
    assert pair.write(pair.session(), b"x") == 1
