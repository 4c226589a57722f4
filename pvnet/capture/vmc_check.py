"""Run a recorded VMC session against our partition machine and compare what it does with what the driver did.

The machine is fed the hypervisor's messages (through a real ring in its memory) and the application's acts, and its
hcalls are answered as recorded.  Compared are three sequences: the CRQ messages it sends, its H_COPY_RDMA calls, and
its other hcalls (H_REG_CRQ, H_FREE_CRQ, H_ENABLE_CRQ, H_REQUEST_VMC).  One record of these is one comparison.

**Races.** The driver works in threads: the application's thread copies and sends, the queue's thread takes messages
when it gets to run.  A recording shows in which order things *left* the driver and when a message was *put* into its
queue, not when it was taken out.  So the runner may let a message lie in the queue longer, never take it earlier, and
it never changes the order of messages.  It decides by what the recording shows next:

* A message that would make the machine send something (ADD BUF, REM BUF, SIGNAL, INIT, INIT COMPLETE) waits while the
  next thing that left the driver is the application's (OPEN, SIGNAL, CLOSE, a copy to the hypervisor).
* A message that ends a session (transport event, CLOSE RESP, refused OPEN) waits as well: it takes buffers away, and
  without a buffer on every index the driver refuses any new connection.
* A copy for the application is answered when the OPEN or SIGNAL that follows it is due, so that what the queue's
  thread sent in between comes first.
* When the recording demands something that did not come, the waiting messages are delivered one by one until it does.

**Driver reload.** A recorded H_FREE_CRQ that the machine does not make by itself (an own reset does) is the driver
being unloaded: applications are gone by then, the adapter is removed; the next H_REG_CRQ starts a new machine whose
session counters start again and whose parameters are read from the CAP that follows.

What the application did and nobody could see (reading, closing a device whose session is over) is done as soon as
possible: it reads each message when it has arrived.  Ignored: bytes 8-11 of SIGNAL, which the driver leaves
uninitialised, H_VIO_SIGNAL, which depends on timing, the TCE hcalls and local addresses, which are its own business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, assert_never

from pvnet.capture.report import Report
from pvnet.capture.sequence import ComparedSequence, Made
from pvnet.capture.transcript import (
    AppAct,
    ApplicationAct,
    Direction,
    HypervisorMessage,
    PartitionHcall,
    PartitionMessage,
    Transcript,
    TranscriptRecord,
)
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note, Tick
from pvnet.papr import errno
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import ELEMENT_BYTES, CrqHeader, describe_element, from_words
from pvnet.papr.hcall import HcallOpcode, HcallRc, is_busy
from pvnet.papr.signatures import describe
from pvnet.vmc.chardev import REQUESTVMC, SETHMCID
from pvnet.vmc.dialect import LINUX
from pvnet.vmc.interface import (
    CrqProgress,
    DeviceClose,
    DeviceDone,
    DeviceIoctl,
    DeviceOpen,
    DeviceRead,
    DeviceWrite,
    Irq,
    LocalMemory,
    PartitionInput,
    PartitionOutput,
    Probe,
    Remove,
    VmcPartitionConfig,
)
from pvnet.vmc.messages import HMC_ID_BYTES, VmcType, decode_vmc
from pvnet.vmc.partition import VmcPartition

_PAGE: Final = 4096
_CRQ_IOBA: Final = 0x1000
_HEAD_BYTES: Final = 64
_READS_AT_ONCE: Final = 1024
_RESPONSE_ERROR_TYPES: Final = frozenset({VmcType.OPEN_RESPONSE, VmcType.CLOSE_RESPONSE})
_APP_TYPES: Final = frozenset({VmcType.OPEN, VmcType.CLOSE, VmcType.SIGNAL})
_ANSWERED_TYPES: Final = frozenset({VmcType.ADD_BUFFER, VmcType.REMOVE_BUFFER, VmcType.SIGNAL})
_LINK_OPCODES: Final = frozenset(
    {HcallOpcode.H_REG_CRQ, HcallOpcode.H_FREE_CRQ, HcallOpcode.H_ENABLE_CRQ, HcallOpcode.H_REQUEST_VMC}
)
_RETRY_ERRNOS: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.ENOBUFS})


class SparseMemory:
    """Memory that reads as zeros until written, 4 KiB at a time: a recording may name any size."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def read(self, ioba: int, n: int) -> bytes:
        """Return ``n`` bytes at ``ioba``."""
        out = bytearray()
        while len(out) < n:
            page, offset = divmod(ioba + len(out), _PAGE)
            size = min(n - len(out), _PAGE - offset)
            data = self._pages.get(page)
            out += bytes(size) if data is None else data[offset : offset + size]
        return bytes(out)

    def write(self, ioba: int, data: bytes) -> None:
        """Store ``data`` at ``ioba``."""
        at = 0
        while at < len(data):
            page, offset = divmod(ioba + at, _PAGE)
            size = min(len(data) - at, _PAGE - offset)
            self._pages.setdefault(page, bytearray(_PAGE))[offset : offset + size] = data[at : at + size]
            at += size


class PartitionMachine(Protocol):
    """What the runner drives: a :class:`VmcPartition`, here or at the other end of a transport."""

    def feed(self, event: PartitionInput, now: float) -> list[PartitionOutput]:
        """Consume one input at time ``now`` and return the consequences in order."""
        ...

    def deadline(self) -> float | None:
        """When the machine wants a Tick, or ``None``."""
        ...


PartitionFactory: TypeAlias = Callable[[VmcPartitionConfig, LocalMemory], PartitionMachine]
"""Makes the machine of a newly loaded driver over its memory."""


@dataclass(slots=True)
class _Held:
    """An unanswered H_COPY_RDMA of the application of connection ``index``."""

    tag: int
    rc: int
    index: int


def run_vmc_transcript(transcript: Transcript, make_machine: PartitionFactory = VmcPartition) -> Report:
    """Compare; see the module's text.  ``make_machine`` may put a transport between the runner and the machine.

    Raises :class:`ConfigError` for a recording that cannot be run at all.
    """
    return _Runner(transcript, make_machine).run()


class _Runner:
    def __init__(self, transcript: Transcript, make_machine: PartitionFactory) -> None:
        self.make_machine = make_machine
        self.meta = transcript.meta
        self.records: Sequence[TranscriptRecord] = transcript.records
        self.report = Report(transcript.name)
        self.position = 0
        self.now = 0.0
        self.crq, self.rdma, self.link = (
            ComparedSequence("CRQ message"),
            ComparedSequence("H_COPY_RDMA"),
            ComparedSequence("hcall"),
        )
        self.causes: dict[int, int] = {}
        self.machine: PartitionMachine | None = None
        self.memory = SparseMemory()
        self.slots = 1
        self.slot = 0
        self.inbox: deque[bytes] = deque()
        self.held: list[_Held] = []
        self.link_calls: deque[tuple[int, HcallOpcode]] = deque()
        self.last_busy: HcallOpcode | None = None
        self.handles: dict[int, int] = {}
        self.spare_handle: int | None = None
        self.acting = -1
        self.is_removed = False
        self.requests = 0
        self.done: dict[int, DeviceDone] = {}
        self._sort()

    def _sort(self) -> None:
        """Sort the records into the compared sequences; find which connection a copy was made for."""
        index = -1
        for position, record in enumerate(self.records):
            match record:
                case ApplicationAct():
                    index = record.hmc_index
                case PartitionMessage():
                    self.crq.positions.append(position)
                case PartitionHcall(opcode=HcallOpcode.H_COPY_RDMA):
                    self.rdma.positions.append(position)
                    self.causes[position] = index
                case PartitionHcall() if record.opcode in _LINK_OPCODES:
                    self.link.positions.append(position)
                case _:
                    pass

    def run(self) -> Report:
        """Go through the records in order, then look for what should not be there."""
        for position, record in enumerate(self.records):
            self.position, self.now = position, max(self.now, record.t)
            match record:
                case HypervisorMessage():
                    self.inbox.append(record.crq)
                    self._drain_inbox()
                case ApplicationAct():
                    self._act(record)
                case PartitionMessage():
                    self._demand(self.crq, record.n, self._expected_crq(record), self._push_crq)
                    self._drain_inbox()
                case PartitionHcall(opcode=HcallOpcode.H_COPY_RDMA):
                    self._demand(self.rdma, record.n, self._expected_rdma(record), self._push_any)
                    if record.rc:
                        self._answer_held(lambda _held: True)
                    self._drain_inbox()
                case PartitionHcall() if record.opcode in _LINK_OPCODES:
                    self._demand_link(record)
                case _:
                    pass
        self._answer_held(lambda _held: True)
        last = self.records[-1].n if self.records else 0
        for stream in (self.crq, self.rdma, self.link):
            stream.finish(last, self.report)
        return self.report

    # The machine and its hypervisor

    def _start(self, record: PartitionHcall) -> None:
        """A new driver: parameters from H_REG_CRQ's length and the next CAP."""
        args = record.args
        length = args[2] if len(args) == 3 else 0
        if not length or length % _PAGE or length > 1 << 28:
            raise ConfigError(
                f"{self.report.name}: record {record.n}: H_REG_CRQ length {length:#x}: expected a multiple of 4096"
            )
        max_hmcs, pool_size, max_mtu = 1, 32, 4096
        for later in self.records[self.position :]:
            if isinstance(later, PartitionMessage) and later.crq[:2] == bytes((0x80, VmcType.CAPABILITIES)):
                max_hmcs, pool_size = later.crq[5], int.from_bytes(later.crq[6:8], "big")
                max_mtu = int.from_bytes(later.crq[8:12], "big")
                break
        self.memory = SparseMemory()
        self.slots, self.slot = length // ELEMENT_BYTES, 0
        self._forget_driver()
        stride = -(-max_mtu // _PAGE) * _PAGE
        config = VmcPartitionConfig(
            unit=self.meta.unit, lliobn=self.meta.lliobn, rliobn=self.meta.rliobn, crq_ioba=_CRQ_IOBA,
            crq_bytes=length, buffer_ioba=_CRQ_IOBA + length, buffer_bytes=max(1, max_hmcs * pool_size * stride),
            max_hmcs=max_hmcs, pool_size=pool_size, max_mtu=max_mtu, dialect=LINUX,
        )  # fmt: skip
        self.machine = self.make_machine(config, self.memory)
        self._feed(Probe())

    def _forget_driver(self) -> None:
        """What belonged to the driver that is gone: open files, calls it waited for."""
        self.handles.clear()
        self.spare_handle = None
        self.held.clear()
        self.link_calls.clear()

    def _feed(self, event: PartitionInput) -> None:
        """Feed one input, and the answers that are given at once, until the machine is quiet; then read."""
        assert self.machine is not None
        events: deque[PartitionInput] = deque((event,))
        copied = False
        while events:
            for output in self.machine.feed(events.popleft(), self.now):
                match output:
                    case CallHypervisor():
                        copied |= self._called(output, events)
                    case DeviceDone():
                        self.done[output.request] = output
                    case CrqProgress() | Note():
                        pass
                    case _:
                        assert_never(output)
        if copied:
            self._read_all()

    def _called(self, call: CallHypervisor, events: deque[PartitionInput]) -> bool:
        """Take an hcall; returns whether it brought a message to the driver."""
        opcode = HcallOpcode(call.opcode)
        if opcode is HcallOpcode.H_SEND_CRQ:
            record = self._next_record(self.crq)
            rc = record.rc if isinstance(record, PartitionMessage) else HcallRc.H_SUCCESS
            self.crq.made.append(_made_crq(from_words(*call.args[1:3]), call.args[0]))
            events.append(HcallReturned(call.tag, rc))
        elif opcode is HcallOpcode.H_COPY_RDMA:
            return self._copied(call, events)
        elif opcode in _LINK_OPCODES:
            if opcode is HcallOpcode.H_REG_CRQ:
                self.slot = 0
            self.link.made.append(Made(_link_value(opcode, call.args), describe(opcode, call.args)))
            self.link_calls.append((call.tag, opcode))
        else:
            events.append(HcallReturned(call.tag, HcallRc.H_SUCCESS))
        return False

    def _copied(self, call: CallHypervisor, events: deque[PartitionInput]) -> bool:
        length, source, source_ioba, _, dest_ioba = call.args
        record = self._next_record(self.rdma)
        recorded = record if isinstance(record, PartitionHcall) else None
        rc = recorded.rc if recorded else HcallRc.H_SUCCESS
        to_driver = source == self.meta.rliobn
        head = b"" if to_driver else self.memory.read(source_ioba, min(length, _HEAD_BYTES))
        self.rdma.made.append(_made_rdma(call.args, self.meta.rliobn, head))
        if not to_driver:
            self.held.append(_Held(call.tag, rc, self.acting))
            return False
        if rc == HcallRc.H_SUCCESS:
            data = recorded.data_head if recorded else b""
            self.memory.write(dest_ioba, data[:length].ljust(length, b"\0"))
        events.append(HcallReturned(call.tag, rc))
        return True

    def _next_record(self, stream: ComparedSequence) -> TranscriptRecord | None:
        position = stream.next_unmade()
        return None if position is None else self.records[position]

    def _answer_held(self, wanted: Callable[[_Held], bool], *, only_one: bool = False) -> bool:
        """Answer copies to the hypervisor that are ``wanted``; returns whether there was one."""
        chosen = [held for held in self.held if wanted(held)][: 1 if only_one else None]
        for held in chosen:
            self.held.remove(held)
            self._feed(HcallReturned(held.tag, held.rc))
        return bool(chosen)

    # The queue

    def _drain_inbox(self) -> None:
        while self.inbox and not self._must_wait(self.inbox[0]):
            self._deliver()

    def _deliver(self) -> None:
        """Put the oldest waiting message into the ring and ring the interrupt; a full ring loses it, as in reality."""
        element = self.inbox.popleft()
        address = _CRQ_IOBA + self.slot * ELEMENT_BYTES
        if self.machine is None or self.memory.read(address, 1) != b"\0":
            return
        self.memory.write(address, element)
        self.slot = (self.slot + 1) % self.slots
        self._feed(Irq())

    def _must_wait(self, element: bytes) -> bool:
        """Whether the driver cannot have taken this message before what the recording shows next."""
        header, kind = element[0], element[1]
        is_command = header == CrqHeader.COMMAND
        makes_output = header == CrqHeader.INIT or (is_command and kind in _ANSWERED_TYPES)
        candidates = [position for stream in (self.crq, self.rdma) if (position := stream.next_unmade()) is not None]
        freed = next((p for p in self.link.positions[self.link.settled :] if p >= self.position), None)
        position = min(candidates, default=None)
        if position is None or (freed is not None and freed < position and not self.link.made):
            return makes_output
        of_app, _ = self._application_of(position)
        ends_session = header == CrqHeader.TRANSPORT_EVENT or (
            is_command and (kind == VmcType.CLOSE_RESPONSE or (kind == VmcType.OPEN_RESPONSE and element[2] != 0))
        )
        return of_app and (makes_output or ends_session)

    def _application_of(self, position: int) -> tuple[bool, int]:
        """Whether what left the driver at ``position`` came from an application's thread, and of which connection."""
        record = self.records[position]
        if isinstance(record, PartitionMessage):
            return record.crq[0] == CrqHeader.COMMAND and record.crq[1] in _APP_TYPES, record.crq[5]
        assert isinstance(record, PartitionHcall)
        return record.direction is Direction.TO_HYPERVISOR, self.causes[position]

    # The application

    def _call(self, make: Callable[[int], PartitionInput]) -> int | None:
        """Make a device call; its result if it ended already."""
        self.requests += 1
        self._feed(make(self.requests))
        done = self.done.pop(self.requests, None)
        return None if done is None else done.result

    def _act(self, record: ApplicationAct) -> None:
        index = record.hmc_index
        if self.machine is None:
            self.report.fail(record.n, f"application's {record.act}", "a driver that was probed", "none")
            return
        self.acting = index
        self._answer_held(lambda held: held.index == index)
        data = record.data_head[: record.length].ljust(record.length, b"\0")
        match record.act:
            case AppAct.CLOSE:
                self._close(index)
            case AppAct.SET_HMC_ID:
                self._close(index)
                handle = self._call(DeviceOpen)
                assert handle is not None, "open() never waits"
                self.handles[index] = handle
                identity = data[:HMC_ID_BYTES].ljust(HMC_ID_BYTES, b"\0")
                self._try(record, lambda request, fd: DeviceIoctl(request, fd, SETHMCID, identity))
            case AppAct.WRITE:
                self._try(record, lambda request, fd: DeviceWrite(request, fd, data))
        self.acting = -1
        self._drain_inbox()

    def _try(self, record: ApplicationAct, make: Callable[[int, int], PartitionInput]) -> None:
        """Make an application's call; the driver did not refuse it, so what waits is delivered first if needed."""
        handle = self.handles.get(record.hmc_index)
        if handle is None:
            self.report.fail(record.n, f"application's {record.act}", "an open connection", f"none {record.hmc_index}")
            return
        result = self._call(lambda request: make(request, handle))
        while result is not None and -result in _RETRY_ERRNOS and self.inbox:
            self._deliver()
            result = self._call(lambda request: make(request, handle))
        if result is not None and result < 0:
            self.report.fail(record.n, f"application's {record.act}", "to be accepted", errno.name_of(result))

    def _close(self, index: int) -> None:
        handle = self.handles.pop(index, None)
        if handle is not None:
            self._call(lambda request: DeviceClose(request, handle))

    def _read_all(self) -> None:
        """Read what has arrived.  One byte is enough: the rest of a message is discarded, its buffer is free."""
        for handle in self.handles.values():
            for _ in range(_READS_AT_ONCE):
                result = self._call(lambda request, fd=handle: DeviceRead(request, fd, 1, nonblock=True))  # type: ignore[misc]
                if result is None or result < 0:
                    break

    # Comparing

    def _demand(self, stream: ComparedSequence, n: int, expected: Made, push: Callable[[], bool]) -> None:
        """Let things happen until the machine made what this record shows, then compare."""
        while not stream.made and push():
            pass
        stream.settle(n, expected, self._expected_at, self.report)

    def _expected_at(self, position: int) -> Made:
        record = self.records[position]
        if isinstance(record, PartitionMessage):
            return self._expected_crq(record)
        assert isinstance(record, PartitionHcall)
        return self._expected_rdma(record) if record.direction else _expected_link(record)

    def _expected_rdma(self, record: PartitionHcall) -> Made:
        head = record.data_head if record.direction is Direction.TO_HYPERVISOR else b""
        return _made_rdma(record.args, self.meta.rliobn, head)

    def _expected_crq(self, record: PartitionMessage) -> Made:
        return _made_crq(record.crq, self.meta.unit)

    def _push_crq(self) -> bool:
        of_app, index = self._application_of(self.position)
        if of_app and self._answer_held(lambda held: held.index == index, only_one=True):
            return True
        return self._push_any()

    def _push_any(self) -> bool:
        if self.inbox:
            self._deliver()
            return True
        return self._answer_held(lambda _held: True, only_one=True)

    def _demand_link(self, record: PartitionHcall) -> None:
        opcode = record.opcode
        tried: list[str] = []

        def push() -> bool:
            if opcode == self.last_busy and self.machine and (due := self.machine.deadline()) is not None:
                self.last_busy = None
                self.now = max(self.now, due)
                self._feed(Tick())
                return True
            if opcode is HcallOpcode.H_FREE_CRQ and any(_resets(element) for element in self.inbox):
                self._deliver()
                return True
            if tried:
                return False
            tried.append(opcode.name)
            return self._provoke(record)

        self._demand(self.link, record.n, _expected_link(record), push)
        if opcode in (HcallOpcode.H_FREE_CRQ, HcallOpcode.H_REG_CRQ):
            self.inbox.clear()  # what lay in the ring is gone with it
        self.last_busy = opcode if is_busy(record.rc) or record.rc == HcallRc.H_IN_PROGRESS else None
        if self.link_calls:
            tag, _ = self.link_calls.popleft()
            self._feed(HcallReturned(tag, record.rc, record.outs))
        if self.is_removed and not is_busy(record.rc):
            self.machine, self.is_removed = None, False
            self._forget_driver()
        if opcode is HcallOpcode.H_REQUEST_VMC and self.last_busy is None and self.spare_handle is not None:
            handle, self.spare_handle = self.spare_handle, None
            self._call(lambda request: DeviceClose(request, handle))

    def _provoke(self, record: PartitionHcall) -> bool:
        """Do what somebody outside must have done to cause this hcall."""
        match record.opcode:
            case HcallOpcode.H_REG_CRQ:
                self._start(record)
            case HcallOpcode.H_FREE_CRQ if self.machine is not None:
                self._answer_held(lambda _held: True)
                for index in list(self.handles):
                    self._close(index)
                self.is_removed = True
                self._feed(Remove())
            case HcallOpcode.H_REQUEST_VMC if self.machine is not None:
                self.spare_handle = handle = self._call(DeviceOpen)
                assert handle is not None, "open() never waits"
                self._call(lambda request: DeviceIoctl(request, handle, REQUESTVMC))
            case _:
                return False
        return True


def _resets(element: bytes) -> bool:
    """Whether a message makes the driver reset its own queue: CLOSE RESP with an error, a response of no index."""
    return element[0] == CrqHeader.COMMAND and (
        (element[1] == VmcType.CLOSE_RESPONSE and element[2] != 0)
        or (element[1] in _RESPONSE_ERROR_TYPES and element[4] == 0)
    )


def _masked(element: bytes) -> bytes:
    """The bytes that count: those of SIGNAL at 8-11 do not."""
    if element[:2] == bytes((CrqHeader.COMMAND, VmcType.SIGNAL)):
        return element[:8] + bytes(4) + element[12:]
    return element


def _crq_text(element: bytes) -> str:
    if element[0] != CrqHeader.COMMAND:
        return f"{element.hex()} {describe_element(element)}"
    return f"{element.hex()} {decode_vmc(element)}"


def _made_crq(element: bytes, unit: int) -> Made:
    return Made((unit, _masked(element)), _crq_text(element))


def _made_rdma(args: Sequence[int], rliobn: int, head: bytes) -> Made:
    """A copy: its local address does not count, of the data only 32 bytes (leftovers follow an HMC id)."""
    length, source, source_ioba, dest, dest_ioba = args
    head = head[:HMC_ID_BYTES]
    text = describe(HcallOpcode.H_COPY_RDMA, args) + (f" data={head.hex()}" if head else "")
    return Made((length, source, dest, source_ioba if source == rliobn else dest_ioba), text, head)


def _link_value(opcode: HcallOpcode, args: Sequence[int]) -> tuple[object, ...]:
    if opcode is HcallOpcode.H_REG_CRQ and len(args) == 3:
        return opcode, args[0], args[2]
    return opcode, *args


def _expected_link(record: PartitionHcall) -> Made:
    return Made(_link_value(record.opcode, record.args), describe(record.opcode, record.args))
