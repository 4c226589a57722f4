"""The raw CRQ device: two of them on a real platform, and one alone with every answer scripted."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note, Tick
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import Segment
from pvnet.memory.window import DmaWindow
from pvnet.papr import device_io as io
from pvnet.papr import errno
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq_device import POLLHUP, POLLIN, POLLOUT, CrqDevice, CrqDeviceConfig, PairState
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    AdapterConfig,
    CrqConsumed,
    DeliverCrq,
    HcallRequest,
    HcallResult,
    PartitionConfig,
    PartitionDied,
    PartitionPartner,
    PartitionStarted,
    PlatformConfig,
    RaiseIrq,
    Suspend,
)

UNIT = {"a": 0x10, "b": 0x20}
SIZE = 0x10000
RING = 0x1000


def element(n: int) -> bytes:
    return b"\x80" + n.to_bytes(15, "big")


class Side:
    """One device and its memory."""

    def __init__(self, name: str, read_ahead: int) -> None:
        self.name = name
        self.segment = Segment(bytearray(SIZE))
        window = DmaWindow(0x100 + UNIT[name], SIZE)
        window.map(0, 0, SIZE)
        self.memory = DmaMemory(self.segment, window)
        self.device = CrqDevice(CrqDeviceConfig(UNIT[name], RING, read_ahead=read_ahead), self.memory)
        self.done: dict[int, tuple[int, bytes]] = {}
        self.registration = 0
        self.consumed = 0


class Pair:
    """Both sides on one platform whose partitions' memory is mapped."""

    def __init__(self, read_ahead: int = 64) -> None:
        adapters = {
            name: AdapterConfig(
                UNIT[name], liobn=0x100 + UNIT[name], window_bytes=SIZE, partner=PartitionPartner(other, UNIT[other])
            )
            for name, other in (("a", "b"), ("b", "a"))
        }
        self.platform = Platform(PlatformConfig(tuple(PartitionConfig(n, SIZE, (adapters[n],)) for n in "ab")))
        self.sides = {name: Side(name, read_ahead) for name in "ab"}
        self.now = 0.0
        self._request = 0
        self._calls: dict[int, tuple[str, int]] = {}

    def start(self, name: str) -> None:
        side = self.sides[name]
        self.platform.feed(PartitionStarted(name, side.segment), self.now)
        for page in range(0, SIZE, 4096):
            self.platform.feed(
                HcallRequest(name, 0, HcallOpcode.H_PUT_TCE, (0x100 + UNIT[name], page, page | 3)), self.now
            )
        self.feed(name, io.Probe())

    def feed(self, name: str, event: io.AdapterInput) -> None:
        side = self.sides[name]
        for output in side.device.feed(event, self.now):
            match output:
                case CallHypervisor(tag, opcode, args):
                    self._request += 1
                    self._calls[self._request] = (name, tag)
                    self.carry(self.platform.feed(HcallRequest(name, self._request, opcode, args), self.now))
                case io.DeviceDone(request, result, data):
                    assert request not in side.done
                    side.done[request] = (result, data)
                case io.CrqProgress(consumed):
                    side.consumed = consumed

    def carry(self, outputs: list) -> None:
        for output in outputs:
            match output:
                case HcallResult(partition, tag, rc, outs):
                    name, inner = self._calls.pop(tag)
                    assert name == partition
                    self.feed(name, HcallReturned(inner, rc, outs))
                case RaiseIrq(partition):
                    self.feed(partition, io.Irq())
                case DeliverCrq():
                    raise AssertionError("the memory is mapped")

    def tick(self, seconds: float) -> None:
        """Let time pass in steps of what is due."""
        end = self.now + seconds
        while True:
            due = [
                d
                for d in (self.platform.deadline(), *(s.device.deadline() for s in self.sides.values()))
                if d is not None
            ]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            self.carry(self.platform.feed(Tick(), self.now))
            for name in "ab":
                self.feed(name, Tick())
        self.now = end

    def call(self, name: str, make: type, *arguments: object) -> int:
        self._request += 1
        request = self._request
        self.feed(name, make(request, *arguments))
        return request

    def result(self, name: str, request: int) -> tuple[int, bytes] | None:
        return self.sides[name].done.get(request)

    def open(self, name: str) -> int:
        result = self.result(name, self.call(name, io.DeviceOpen))
        assert result is not None
        return result[0]


@pytest.fixture
def pair() -> Pair:
    both = Pair()
    both.start("a")
    both.start("b")
    assert both.sides["a"].device.state is both.sides["b"].device.state is PairState.OPEN
    return both


def test_the_first_waits_for_the_second() -> None:
    both = Pair()
    both.start("a")
    handle = both.open("a")
    assert both.sides["a"].device.state is PairState.WAITING
    assert both.result("a", both.call("a", io.DeviceWrite, handle, element(1))) == (-errno.ENOTCONN, b"")
    both.start("b")
    assert both.sides["a"].device.state is PairState.OPEN
    assert both.result("a", both.call("a", io.DeviceWrite, handle, element(1))) == (16, b"")


def test_elements_arrive_in_order_whether_somebody_waits_or_not(pair: Pair) -> None:
    a, b = pair.open("a"), pair.open("b")
    waiting = [pair.call("b", io.DeviceRead, b, 16) for _ in range(3)]
    for n in range(10):
        assert pair.result("a", pair.call("a", io.DeviceWrite, a, element(n))) == (16, b"")
    later = [pair.call("b", io.DeviceRead, b, 4096) for _ in range(7)]
    assert [pair.result("b", r) for r in waiting + later] == [(16, element(n)) for n in range(10)]


def test_nobody_reads_so_the_ring_fills_and_the_writer_hears_it() -> None:
    both = Pair(read_ahead=4)
    both.start("a")
    both.start("b")
    a, b = both.open("a"), both.open("b")
    written = 0
    while True:
        request = both.call("a", io.DeviceWrite, a, element(written))
        both.tick(60)
        if both.result("a", request) != (16, b""):
            assert both.result("a", request) == (-errno.EAGAIN, b"")
            break
        written += 1
    assert written == 4 + 4096 // 16
    got = [both.result("b", both.call("b", io.DeviceRead, b, 16)) for _ in range(written)]
    assert got == [(16, element(n)) for n in range(written)]
    assert both.result("a", both.call("a", io.DeviceWrite, a, element(999))) == (16, b"")


def test_a_partner_that_dies_is_read_as_an_event_and_may_come_back(pair: Pair) -> None:
    a = pair.open("a")
    reading = pair.call("a", io.DeviceRead, a, 16)
    pair.carry(pair.platform.feed(PartitionDied("b"), pair.now))
    result = pair.result("a", reading)
    assert result is not None
    assert result[1][:2] == b"\xff\x01"
    assert pair.result("a", pair.call("a", io.DeviceWrite, a, element(1))) == (-errno.ENOTCONN, b"")
    pair.sides["b"] = Side("b", 64)
    pair.start("b")
    assert pair.result("a", pair.call("a", io.DeviceWrite, a, element(1))) == (16, b"")


def test_a_partner_that_leaves_deregisters(pair: Pair) -> None:
    a = pair.open("a")
    pair.feed("b", io.Remove())
    result = pair.result("a", pair.call("a", io.DeviceRead, a, 16))
    assert result is not None
    assert result[1][:2] == b"\xff\x02"
    assert pair.sides["b"].device.state is PairState.DOWN


def test_a_suspended_queue_is_enabled_and_greets_again(pair: Pair) -> None:
    a, b = pair.open("a"), pair.open("b")
    pair.carry(pair.platform.feed(Suspend("a", UNIT["a"]), pair.now))
    pair.tick(5)
    assert pair.sides["a"].device.state is PairState.OPEN
    assert pair.result("a", pair.call("a", io.DeviceWrite, a, element(5))) == (16, b"")
    got = [pair.result("b", pair.call("b", io.DeviceRead, b, 16, True)) for _ in range(3)]
    assert (16, element(5)) in got


def test_errnos_of_the_device(pair: Pair) -> None:
    a = pair.open("a")

    def result(make: type, *arguments: object) -> int | None:
        answer = pair.result("a", pair.call("a", make, *arguments))
        return None if answer is None else answer[0]

    assert result(io.DeviceRead, 99, 16) == -errno.EBADF
    assert result(io.DeviceIoctl, a, 1) == -errno.EINVAL
    assert result(io.DeviceWrite, a, b"short") == -errno.EINVAL
    assert result(io.DeviceWrite, a, b"\xff" + bytes(15)) == -errno.EINVAL
    assert result(io.DeviceWrite, a, b"\xc0\x01" + bytes(14)) == -errno.EINVAL
    assert result(io.DeviceRead, a, 15) == -errno.EINVAL
    assert result(io.DeviceRead, a, 16, True) == -errno.EAGAIN
    assert result(io.DevicePoll, a) == POLLOUT
    blocked = pair.call("a", io.DeviceRead, a, 16)
    assert pair.result("a", blocked) is None
    pair.feed("a", io.DeviceInterrupt(blocked))
    assert pair.result("a", blocked) == (-errno.EINTR, b"")
    pair.feed("a", io.DeviceInterrupt(12345))
    other = pair.open("a")
    closed_under = pair.call("a", io.DeviceRead, other, 16)
    stays = pair.call("a", io.DeviceRead, a, 16)
    assert result(io.DeviceClose, other) == 0
    assert pair.result("a", closed_under) == (-errno.EBADF, b"")
    assert pair.result("a", stays) is None
    assert result(io.DeviceClose, other) == -errno.EBADF
    b = pair.open("b")
    pair.call("b", io.DeviceWrite, b, element(1))
    pair.call("b", io.DeviceWrite, b, element(2))
    assert pair.result("a", stays) == (16, element(1))
    assert result(io.DevicePoll, a) == POLLIN | POLLOUT


def test_a_removed_adapter_ends_every_call(pair: Pair) -> None:
    a = pair.open("a")
    reading = pair.call("a", io.DeviceRead, a, 16)
    pair.feed("a", io.Remove())
    assert pair.result("a", reading) == (-errno.ENODEV, b"")
    assert pair.result("a", pair.call("a", io.DeviceRead, a, 16)) == (-errno.ENODEV, b"")
    assert pair.result("a", pair.call("a", io.DevicePoll, a)) == (POLLHUP, b"")
    pair.feed("a", io.Probe())
    assert pair.sides["a"].device.state is PairState.OPEN
    pair.feed("a", io.Probe())  # its platform is another one now: everything anew
    assert pair.sides["a"].device.state is PairState.OPEN


def test_files_are_bounded() -> None:
    device = CrqDevice(CrqDeviceConfig(1, RING, max_files=1), Side("a", 1).memory)
    first, second = (device.feed(io.DeviceOpen(n), 0.0)[0] for n in (1, 2))
    assert first == io.DeviceDone(1, 1)
    assert second == io.DeviceDone(2, -errno.EMFILE)
    with pytest.raises(LocalError):
        CrqDeviceConfig(1, RING, read_ahead=0)


def alone() -> tuple[CrqDevice, Side, list]:
    """A device that has registered; returns it and its call of INIT."""
    side = Side("a", 2)
    (register,) = [o for o in side.device.feed(io.Probe(), 0.0) if isinstance(o, CallHypervisor)]
    outputs = side.device.feed(HcallReturned(register.tag, HcallRc.H_SUCCESS), 0.0)
    return side.device, side, [o for o in outputs if isinstance(o, CallHypervisor)]


def test_a_registration_that_fails_is_the_end_until_the_next_probe() -> None:
    device = Side("a", 2).device
    (register,) = [o for o in device.feed(io.Probe(), 0.0) if isinstance(o, CallHypervisor)]
    outputs = device.feed(HcallReturned(register.tag, HcallRc.H_PARAMETER), 0.0)
    assert device.state is PairState.FAILED
    assert any(isinstance(o, Note) and o.event == "crq_failed" for o in outputs)
    assert device.feed(HcallReturned(999_999, 0), 0.0) == []
    device.feed(io.Probe(), 0.0)
    assert device.counters["crq_failed"] == 1


def test_elements_of_no_meaning_are_counted_and_dropped() -> None:
    device, side, calls = alone()
    assert [c.opcode for c in calls] == [HcallOpcode.H_VIO_SIGNAL, HcallOpcode.H_SEND_CRQ]
    for slot, raw in enumerate((b"\x81" + bytes(15), b"\xc0\x07" + bytes(14), b"\xc0\x02" + bytes(14))):
        side.memory.write(RING + slot * 16, raw)
    outputs = device.feed(io.Irq(), 0.0)
    assert device.counters["reserved_element"] == 2
    assert device.state is PairState.OPEN
    assert io.CrqProgress(3) in outputs


def test_a_partner_that_closes_under_a_write_is_a_broken_pipe() -> None:
    device, side, calls = alone()
    init = calls[-1]
    side.memory.write(RING, b"\xc0\x02" + bytes(14))
    device.feed(io.Irq(), 0.0)
    device.feed(HcallReturned(init.tag, 0), 0.0)
    device.feed(io.DeviceOpen(1), 0.0)
    first = device.feed(io.DeviceWrite(2, 1, element(1)), 0.0)
    device.feed(io.DeviceWrite(3, 1, element(2)), 0.0)
    (send,) = [o for o in first if isinstance(o, CallHypervisor)]
    outputs = device.feed(HcallReturned(send.tag, HcallRc.H_CLOSED), 0.0)
    assert [o for o in outputs if isinstance(o, io.DeviceDone)] == [
        io.DeviceDone(2, -errno.EPIPE),
        io.DeviceDone(3, -errno.EPIPE),
    ]
    assert device.state is PairState.WAITING


@settings(max_examples=60, deadline=None)
@example(["wa", "wa", "wa", "die", "remove", "rb"])  # a transport event is left in a ring that is there no more
@given(st.lists(st.sampled_from(["wa", "wb", "ra", "rb", "die", "tick", "remove", "probe"]), max_size=60))
def test_any_sequence_keeps_order_and_answers_every_write(steps: list[str]) -> None:
    both = Pair(read_ahead=3)
    both.start("a")
    both.start("b")
    handles = {name: both.open(name) for name in "ab"}
    sent: dict[str, list[bytes]] = {"a": [], "b": []}
    reads: dict[str, list[int]] = {"a": [], "b": []}
    number = 0
    for step in steps:
        match step:
            case "wa" | "wb":
                number += 1
                request = both.call(step[1], io.DeviceWrite, handles[step[1]], element(number))
                both.tick(30)
                answer = both.result(step[1], request)
                assert answer is not None, "every write is answered"
                if answer[0] == 16:
                    sent[step[1]].append(element(number))
            case "ra" | "rb":
                reads[step[1]].append(both.call(step[1], io.DeviceRead, handles[step[1]], 16, True))
            case "die":
                both.carry(both.platform.feed(Suspend("b", UNIT["b"]), both.now))
            case "tick":
                both.tick(1)
            case "remove":
                both.feed("b", io.Remove())
            case "probe":
                both.feed("b", io.Probe())
    for reader, writer in (("a", "b"), ("b", "a")):
        results = [both.result(reader, r) for r in reads[reader]]
        got = [r[1] for r in results if r is not None and r[0] == 16 and r[1][0] == 0x80]
        assert got == [e for e in sent[writer] if e in got], "in order, nothing twice"


def test_consumed_is_reported_for_the_platform() -> None:
    both = Pair()
    both.start("a")
    both.start("b")
    a = both.open("a")
    for n in range(5):
        both.call("a", io.DeviceWrite, a, element(n))
    assert both.sides["b"].consumed >= 5
    both.carry(both.platform.feed(CrqConsumed("b", UNIT["b"], 1, both.sides["b"].consumed), both.now))
