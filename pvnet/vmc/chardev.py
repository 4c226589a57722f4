"""The character device ``/dev/ibmvmc``: open, ioctl, read, write, poll, close, with the driver's exact errno order.

Every method checks its conditions in the order of the tables of Spec: vmc 1.3; the comments number the rows.  Results
are >= 0 or minus a Linux errno.  read() is a datagram read: one message per call, what does not fit is discarded;
write() sends one message or nothing.

Doubts decided.  close() waits for calls of the same file whose copy is under way (the kernel releases a file after
its last call); a read blocked on a closed file ends with EBADFD.  poll() of a session that ends returns 0: the device
has no error or hang-up bits.  A handle that was never opened gives EIO ("no record") everywhere.  REQUESTVMC whose
hypervisor stays busy beyond all limits gives EBUSY; other unknown return codes come back unchanged, as in the driver.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import count
from typing import Final, assert_never

from pvnet.papr.errno import (
    EAGAIN,
    EBADFD,
    EBUSY,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    ENOBUFS,
    ENODEV,
    ENOMEM,
    EPERM,
)
from pvnet.papr.hcall import HcallOpcode, HcallRc, is_busy
from pvnet.papr.retry import BusyRetry
from pvnet.vmc.buffer_pool import BufferState
from pvnet.vmc.connection import HmcSlot, HmcState, HmcTrigger, OpenFile, Waiter
from pvnet.vmc.context import VmcState
from pvnet.vmc.interface import (
    DeviceClose,
    DeviceInput,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
)
from pvnet.vmc.messages import HMC_ID_BYTES
from pvnet.vmc.sessions import POLL_IN, Sessions

SETHMCID: Final = 0x4008CC00
"""ioctl: give the 32 bytes of the HMC id and open a session (asm-generic number)."""
QUERY: Final = 0x800CCC01
"""ioctl: 12 bytes come back: have_vmc, state, DRC index, each a native int32."""
REQUESTVMC: Final = 0x8004CC02
"""ioctl: ask the hypervisor for a VMC; its DRC index comes back as a native u32."""
SETHMCID_POWERPC: Final = 0x8008CC00
SETHMCID_POWERPC32: Final = 0x8004CC00
QUERY_POWERPC: Final = 0x400CCC01
REQUESTVMC_POWERPC: Final = 0x4004CC02

_COMMANDS: Final = {
    SETHMCID: SETHMCID,
    SETHMCID_POWERPC: SETHMCID,
    SETHMCID_POWERPC32: SETHMCID,
    QUERY: QUERY,
    QUERY_POWERPC: QUERY,
    REQUESTVMC: REQUESTVMC,
    REQUESTVMC_POWERPC: REQUESTVMC,
}
REQUEST_ERRNO: Final[dict[int, int]] = {
    HcallRc.H_SUCCESS: 0,
    HcallRc.H_FUNCTION: -EPERM,
    HcallRc.H_AUTHORITY: -EPERM,
    HcallRc.H_NOT_AVAILABLE: -EPERM,
    HcallRc.H_HARDWARE: -EIO,
    HcallRc.H_RESOURCE: -ENODEV,
    HcallRc.H_PARAMETER: -EINVAL,
}
"""REQUESTVMC's result by return code of H_REQUEST_VMC; a code that is not listed comes back unchanged."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What QUERY tells: whether there is a VMC, the link's state, the DRC index (0 until REQUESTVMC succeeded)."""

    have_vmc: int
    state: int
    drc_index: int

    def encode(self, byteorder: str) -> bytes:
        """Return the C structure's 12 bytes for a host of ``byteorder`` (``"little"`` or ``"big"``)."""
        return struct.pack(_prefix(byteorder) + "iiI", self.have_vmc, self.state, self.drc_index)

    @classmethod
    def decode(cls, raw: bytes, byteorder: str) -> QueryResult:
        """Take the 12 bytes apart; raises struct.error for another length."""
        return cls(*struct.unpack(_prefix(byteorder) + "iiI", raw))


def _prefix(byteorder: str) -> str:
    return "<" if byteorder == "little" else ">"


@dataclass(slots=True)
class _Request:
    """A REQUESTVMC: in flight under ``tag``, or to be repeated at ``due``; ``is_cancelled`` once interrupted."""

    request: int
    retry: BusyRetry
    tag: int = 0
    due: float | None = None
    is_cancelled: bool = False


class CharDevice:
    """The device side of one adapter; see the module's text."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._context = sessions.context
        self._connections = sessions.connections
        self._handles = count(1)
        self._requests: list[_Request] = []

    def feed(self, event: DeviceInput) -> None:
        """Perform one device call; its end is a DeviceDone, now or later."""
        match event:
            case DeviceOpen(request):
                self._open(request)
            case DeviceWrite():
                self._write(event)
            case DeviceRead():
                self._read(event)
            case DevicePoll():
                self._poll(event)
            case DeviceIoctl():
                self._ioctl(event)
            case DeviceClose():
                self._close(event)
            case DeviceInterrupt(request):
                self._interrupt(request)
            case _:  # pragma: no cover
                assert_never(event)

    # REQUESTVMC over time

    def returned(self, tag: int, rc: int, outs: tuple[int, ...]) -> bool:
        """Take the answer of an H_REQUEST_VMC; false if the tag is not one of ours."""
        call = next((call for call in self._requests if call.tag == tag and call.due is None), None)
        if call is None:
            return False
        wait_s = call.retry.next(rc, self._context.now) if is_busy(rc) and not call.is_cancelled else None
        if wait_s is not None:
            call.due = self._context.now + wait_s
            return True
        self._requests.remove(call)
        if call.is_cancelled:
            return True
        if is_busy(rc):
            self._context.counters["request_vmc_gave_up"] += 1
            self._context.done(call.request, -EBUSY)
            return True
        result = REQUEST_ERRNO.get(rc, rc)
        data = b""
        if rc not in REQUEST_ERRNO or rc == HcallRc.H_SUCCESS:
            self._context.drc_index = (outs[0] if outs else 0) & 0xFFFFFFFF
            data = struct.pack(_prefix(self._context.config.byteorder) + "I", self._context.drc_index)
        self._context.done(call.request, result, data)
        return True

    def tick(self) -> None:
        """Repeat the calls that are due."""
        for call in self._requests:
            if call.due is not None and call.due <= self._context.now:
                call.due = None
                call.tag = self._context.call(HcallOpcode.H_REQUEST_VMC, ())

    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return min((call.due for call in self._requests if call.due is not None), default=None)

    # open, close

    def _open(self, request: int) -> None:
        if len(self._connections.files) >= self._context.config.max_files:
            self._context.done(request, -ENOMEM)
            return
        handle = next(self._handles)
        self._connections.files[handle] = OpenFile(handle)
        self._context.done(request, handle)

    def _close(self, event: DeviceClose) -> None:
        file = self._connections.files.get(event.handle)
        if file is None or file.close_request is not None:
            self._context.done(event.request, -EIO)
            return
        for waiter in file.parked:
            self._context.done(waiter.request, -EBADFD if waiter.kind == "read" else 0)
        file.parked.clear()
        if file.index is not None and self._context.state is VmcState.FAILED:
            self._abandon(file, event.request)
        elif file.in_flight:
            file.close_request = event.request
        else:
            self._sessions.close_file(file, event.request)

    def _abandon(self, file: OpenFile, request: int) -> None:
        """close() while the link has failed sends nothing and reports EIO; the file is gone all the same."""
        slot = self._connections.slot_of(file)
        if slot is not None:
            self._sessions.trigger(slot, HmcTrigger.PARTNER_LOST)
        if file.in_flight:
            file.close_request = request
            return
        del self._connections.files[file.handle]
        self._context.done(request, -EIO)

    def _file(self, handle: int) -> OpenFile | None:
        file = self._connections.files.get(handle)
        return None if file is None or file.close_request is not None else file

    # ioctl

    def _ioctl(self, event: DeviceIoctl) -> None:
        file = self._file(event.handle)
        context = self._context
        if file is None:
            context.done(event.request, -EIO)
            return
        match _COMMANDS.get(event.command):
            case 0x4008CC00:
                self._set_hmc_id(event, file)
            case 0x800CCC01:
                have_vmc = int(context.state is not VmcState.INITIAL)
                result = QueryResult(have_vmc, context.state, context.drc_index)
                context.done(event.request, 0, result.encode(context.config.byteorder))
            case 0x8004CC02:
                call = _Request(event.request, BusyRetry.within(context.config.request_retry, context.now))
                call.tag = context.call(HcallOpcode.H_REQUEST_VMC, ())
                self._requests.append(call)
            case _:
                context.done(event.request, -EINVAL)

    def _set_hmc_id(self, event: DeviceIoctl, file: OpenFile) -> None:
        errno = self._reserve(file) if file.index is None else 0  # rows 1 to 5
        slot = self._connections.slot_of(file)
        buffer_id: int | None = None
        if errno == 0:
            if slot is None or slot.state is not HmcState.INITIAL or slot.open_buffer is not None:
                errno = EIO  # row 6
            elif len(event.data) != HMC_ID_BYTES:
                errno = EFAULT  # row 7
            else:
                buffer_id = slot.pool.lowest(BufferState.ALPHA_FREE)
                errno = EIO if buffer_id is None else 0  # row 8
        if errno or slot is None or buffer_id is None:
            self._context.done(event.request, -errno)
            return
        self._sessions.start_open(slot, buffer_id, event.data, event.request, file)  # rows 9, 10

    def _reserve(self, file: OpenFile) -> int:
        context = self._context
        if context.state is VmcState.FAILED:
            return EIO
        if context.state is not VmcState.READY:
            return EAGAIN
        slots = [self._connections.slot(index) for index in range(context.max_index + 1)]
        if any(len(slot.pool) == 0 for slot in slots):
            return ENOBUFS
        slot = next((slot for slot in slots if slot.state is HmcState.FREE), None)
        if slot is None:
            return EBUSY
        self._sessions.trigger(slot, HmcTrigger.RESERVE)
        file.index, file.generation, file.is_valid = slot.index, slot.generation, True
        return 0

    # read, write, poll

    def _read(self, event: DeviceRead) -> None:
        done, request = self._context.done, event.request
        file = self._file(event.handle)
        waiter = Waiter(request, "read", event.handle, event.count)
        slot: HmcSlot | None = None
        if file is not None:
            slot = self._connections.slot_of(file)
        if event.count == 0:  # row 1
            done(request, 0)
        elif event.count < 0 or event.count > self._context.mtu:  # row 2
            done(request, -EINVAL)
        elif file is None or file.index is None:  # row 3
            done(request, -EIO)
        elif slot is not None and slot.has_message:  # row 4
            self._sessions.read_message(slot, waiter)
        elif not file.is_valid:  # row 5
            done(request, -EBADFD)
        elif event.nonblock:  # row 6
            done(request, -EAGAIN)
        else:  # row 7
            (file.parked if slot is None else slot.waiters).append(waiter)

    def _write(self, event: DeviceWrite) -> None:
        file = self._file(event.handle)
        slot = None if file is None else self._connections.slot_of(file)
        size = len(event.data)
        buffer_id: int | None = None
        if slot is None or size > self._context.mtu:  # rows 1 to 4
            result = -EIO
        elif slot.state is HmcState.OPENING:  # row 5
            result = -EBUSY
        elif slot.state is not HmcState.READY:  # row 6
            result = -EIO
        else:
            buffer_id = slot.pool.lowest(BufferState.ALPHA_FREE)
            result = -EBUSY if buffer_id is None else 0  # row 7
        if result or size == 0 or file is None or slot is None or buffer_id is None:  # row 10: nothing is sent
            self._context.done(event.request, result)
            return
        self._sessions.start_write(slot, buffer_id, event.data, event.request, file)

    def _poll(self, event: DevicePoll) -> None:
        file = self._file(event.handle)
        if file is None:
            self._context.done(event.request, -EIO)
            return
        slot = self._connections.slot_of(file)
        if slot is not None and slot.has_message:
            self._context.done(event.request, POLL_IN)
        elif event.nonblock or slot is None or not file.is_valid:
            self._context.done(event.request, 0)
        else:
            slot.waiters.append(Waiter(event.request, "poll", event.handle))

    def _interrupt(self, request: int) -> None:
        for slot in self._connections.slots:
            for waiter in slot.waiters:
                if waiter.request == request:
                    slot.waiters.remove(waiter)
                    self._context.done(request, -EINTR)
                    return
        for file in self._connections.files.values():
            for waiter in file.parked:
                if waiter.request == request:
                    file.parked.remove(waiter)
                    self._context.done(request, -EINTR)
                    return
        for call in self._requests:
            if call.request == request and not call.is_cancelled:
                self._context.done(request, -EINTR)
                if call.due is not None:
                    self._requests.remove(call)
                else:
                    call.is_cancelled = True
                return
