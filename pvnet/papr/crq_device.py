"""A raw CRQ between two partitions, as a driver with a character device: elements in, elements out.

For protocols that pvnet does not speak, for driver writers who need a peer on the other end, and for learners: what is
written is one 16-byte element, what is read is one.  The driver itself does only what every CRQ user must: it
registers the queue, does the INIT handshake, enables the queue after a suspend, and starts again when the partner
comes back.

States::

    down --registered: INIT--> waiting --INIT or INIT COMPLETE--> open --transport event--> waiting
    any --registration failed--> failed

Elements of the partner (header 0x80) and transport events (0xFF) are read in the order of the ring; the handshake is
not.  The receive queue is as long as ``read_ahead``; beyond that elements stay in the ring, the ring fills, and the
partner's H_SEND_CRQ answers H_DROPPED: back-pressure is the protocol's own.

Decided here (no driver has this interface): write() before the handshake is ENOTCONN, of another length than 16 or
with a header other than 0x80 EINVAL, dropped after retries EAGAIN, partner gone EPIPE; read() with a buffer below
16 bytes is EINVAL.  One write per file is in flight in the order of calls.

Spec: vmc 2.1, 2.6, 3.1, 3.9; LoPAR ch. 17.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note, Tick
from pvnet.papr.calls import HcallReturned
from pvnet.papr.crq import (
    ELEMENT_BYTES,
    Command,
    CrqInit,
    CrqInitComplete,
    TransportEvent,
    TransportEventCode,
    decode_element,
    encode_init,
    encode_init_complete,
)
from pvnet.papr.crq_link import (
    CrqLink,
    LinkEnabled,
    LinkFailed,
    LinkFreed,
    LinkOutput,
    LinkRegistered,
    LinkState,
    SendFailed,
    Sent,
)
from pvnet.papr.crq_queue import RingMemory
from pvnet.papr.device_io import (
    AdapterInput,
    AdapterOutput,
    CrqProgress,
    DeviceClose,
    DeviceDone,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    Probe,
    Remove,
)
from pvnet.papr.errno import EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENODEV, ENOTCONN, EPIPE
from pvnet.papr.hcall import HcallRc

COMMAND_HEADER: Final = 0x80
POLLIN: Final = 0x001
POLLOUT: Final = 0x004
POLLHUP: Final = 0x010


class PairState(IntEnum):
    """Whether the partner is there."""

    DOWN = 0
    WAITING = 1
    OPEN = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class CrqDeviceConfig:
    """One adapter: unit address, where its ring lies in pane 1, and how many elements are read ahead."""

    unit: int
    crq_ioba: int
    crq_bytes: int = 4096
    read_ahead: int = 64
    max_files: int = 64

    def __post_init__(self) -> None:
        if self.read_ahead < 1 or self.max_files < 1:
            raise LocalError("read_ahead and max_files: expected at least 1")


class CrqDevice:
    """Machine[AdapterInput, AdapterOutput]; see the module's text."""

    def __init__(self, config: CrqDeviceConfig, memory: RingMemory) -> None:
        self.config = config
        self.state = PairState.DOWN
        self.counters = Counters()
        self._link = CrqLink(
            unit=config.unit, memory=memory, ioba=config.crq_ioba, size_bytes=config.crq_bytes, tags=count(1)
        )
        self._out: list[AdapterOutput] = []
        self._now = 0.0
        self._handles = count(1)
        self._open: set[int] = set()
        self._received: deque[bytes] = deque()
        self._readers: deque[DeviceRead] = deque()
        self._writes: deque[tuple[bytes, int]] = deque()
        self._reported = 0

    def feed(self, event: AdapterInput, now: float) -> list[AdapterOutput]:
        """Consume one input at time ``now`` (seconds); returns its consequences in order."""
        self._now = now
        match event:
            case Probe():
                self._probe()
            case Remove():
                self._go(PairState.DOWN)
                self._link_outputs(self._link.free(now))
            case Irq():
                self._drain()
            case HcallReturned():
                if self._link.owns(event.tag):
                    self._link_outputs(self._link.returned(event, now))
            case Tick():
                self._link_outputs(self._link.tick(now))
            case DeviceOpen(request):
                self._open_file(request)
            case DeviceInterrupt(request):
                self._interrupt(request)
            case DeviceIoctl() | DeviceRead() | DeviceWrite() | DevicePoll() | DeviceClose():
                self._file_call(event)
            case _:
                assert_never(event)
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        """When a Tick is wanted."""
        return self._link.deadline()

    # --- the link ----------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        """Register; an adapter that is probed again (its platform restarted) starts over."""
        if self._link.state in {LinkState.UNREGISTERED, LinkState.FAILED}:
            self._link_outputs(self._link.register(self._now))
        else:
            self._go(PairState.DOWN)
            self._link_outputs(self._link.reset(self._now))

    def _link_outputs(self, outputs: list[LinkOutput]) -> None:
        for output in outputs:
            match output:
                case LinkRegistered() | LinkEnabled():
                    self._reported = 0
                    self._go(PairState.WAITING)
                    self._send(encode_init())
                    self._drain()
                case LinkFailed(stage, rc):
                    self._go(PairState.FAILED)
                    self._note("crq_failed", ("stage", stage), ("rc", rc), level="warning")
                case LinkFreed():
                    self._go(PairState.DOWN)
                case Sent(element):
                    self._written(element, ELEMENT_BYTES)
                case SendFailed(element, rc, discarded):
                    self._send_failed(element, rc, discarded)
                case _:
                    self._out.append(output)

    def _send(self, element: bytes) -> None:
        self._link_outputs(self._link.send(element, self._now))

    def _send_failed(self, element: bytes, rc: int, discarded: tuple[bytes, ...]) -> None:
        """A failed INIT is no error: the partner is not there yet and will send its own."""
        closed = rc == HcallRc.H_CLOSED
        for lost in (element, *discarded):
            self._written(lost, -EPIPE if closed else -EAGAIN)
        if closed and self.state is PairState.OPEN:
            self._go(PairState.WAITING)

    def _written(self, element: bytes, result: int) -> None:
        if self._writes and self._writes[0][0] == element and element[0] == COMMAND_HEADER:
            self._done(self._writes.popleft()[1], result)

    def _go(self, state: PairState) -> None:
        if state is self.state:
            return
        self._note("crq_state", ("from", self.state.name), ("to", state.name), level="info")
        self.state = state
        if state in {PairState.DOWN, PairState.FAILED}:
            while self._writes:
                self._done(self._writes.popleft()[1], -EPIPE)
            while self._readers:
                self._done(self._readers.popleft().request, -ENODEV)

    def _drain(self) -> None:
        """Take elements while there is room for them; the rest stays in the ring, and is gone with it."""
        while self.state not in {PairState.DOWN, PairState.FAILED} and len(self._received) < self.config.read_ahead:
            raw = self._link.take()
            if raw is None:
                break
            self._element(raw)
            self._link.clear()
        if self._link.consumed != self._reported:
            self._reported = self._link.consumed
            self._out.append(CrqProgress(self._reported))

    def _element(self, raw: bytes) -> None:
        match decode_element(raw):
            case CrqInit():
                self._send(encode_init_complete())
                self._go(PairState.OPEN)
            case CrqInitComplete():
                self._go(PairState.OPEN)
            case TransportEvent(code):
                self.counters["transport_event"] += 1
                self._received.append(raw)
                self._go(PairState.WAITING)
                if code == TransportEventCode.PARTNER_SUSPENDED:
                    self._link_outputs(self._link.suspend(self._now))
                    self._link_outputs(self._link.enable(self._now))
            case Command():
                self._received.append(raw)
            case _:
                self.counters["reserved_element"] += 1
        self._serve_readers()

    # --- the device --------------------------------------------------------------------------------------------------

    def _open_file(self, request: int) -> None:
        if len(self._open) >= self.config.max_files:
            self._done(request, -EMFILE)
            return
        handle = next(self._handles)
        self._open.add(handle)
        self._done(request, handle)

    def _file_call(self, event: DeviceIoctl | DeviceRead | DeviceWrite | DevicePoll | DeviceClose) -> None:
        if event.handle not in self._open:
            self._done(event.request, -EBADF)
            return
        match event:
            case DeviceIoctl():
                self._done(event.request, -EINVAL)
            case DeviceRead():
                self._read(event)
            case DeviceWrite(request, _, data):
                self._write(request, data)
            case DevicePoll(request):
                self._done(request, self._events())
            case DeviceClose(request, handle):
                self._open.discard(handle)
                for reader in [r for r in self._readers if r.handle == handle]:
                    self._readers.remove(reader)
                    self._done(reader.request, -EBADF)
                self._done(request, 0)
            case _:
                assert_never(event)

    def _read(self, event: DeviceRead) -> None:
        if event.count < ELEMENT_BYTES:
            self._done(event.request, -EINVAL)
        elif self._received and not self._readers:
            self._readers.append(event)
            self._serve_readers()
            self._drain()
        elif self.state in {PairState.DOWN, PairState.FAILED}:
            self._done(event.request, -ENODEV)
        elif event.nonblock:
            self._done(event.request, -EAGAIN)
        else:
            self._readers.append(event)

    def _serve_readers(self) -> None:
        while self._readers and self._received:
            self._done(self._readers.popleft().request, ELEMENT_BYTES, self._received.popleft())

    def _write(self, request: int, data: bytes) -> None:
        if len(data) != ELEMENT_BYTES or data[0] != COMMAND_HEADER:
            self._done(request, -EINVAL)
        elif self.state is not PairState.OPEN:
            self._done(request, -ENOTCONN)
        else:
            self._writes.append((data, request))
            self._send(data)

    def _events(self) -> int:
        if self.state in {PairState.DOWN, PairState.FAILED}:
            return POLLHUP
        writable = POLLOUT if self.state is PairState.OPEN else 0
        return writable | (POLLIN if self._received else 0)

    def _interrupt(self, request: int) -> None:
        for reader in self._readers:
            if reader.request == request:
                self._readers.remove(reader)
                self._done(request, -EINTR)
                return

    def _done(self, request: int, result: int, data: bytes = b"") -> None:
        self._out.append(DeviceDone(request, result, data))

    def _note(self, event: str, *fields: tuple[str, int | str], level: str) -> None:
        self.counters[event] += 1
        self._out.append(Note(event, fields, level))
