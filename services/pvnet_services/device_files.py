"""Character devices of a partition, served to other processes: who has which file open, which calls are under way.

A process reaches only its own files.  When it dies its files are closed, as a kernel would.
"""

from __future__ import annotations

from pvnet.papr.errno import EBADF, EINVAL, ENOENT
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.vmc import interface as vmc

VMC_PATH = "/dev/ibmvmc"
_NOT_OURS = 0
"""Request number of calls that nobody waits for."""


class DeviceFiles:
    """The open files of one partition; ``driver`` runs the VMC, if there is one."""

    def __init__(self, endpoint: Endpoint, driver: Driver[vmc.PartitionInput, vmc.PartitionOutput] | None) -> None:
        self._endpoint = endpoint
        self._driver = driver
        self._calls: dict[int, Envelope] = {}
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._owners: dict[int, tuple[str, int]] = {}
        self._next = _NOT_OURS

    @property
    def open_count(self) -> int:
        """How many files are open."""
        return len(self._owners)

    @property
    def calls_under_way(self) -> int:
        """How many device calls are not answered yet."""
        return len(self._calls)

    def request(self, envelope: Envelope) -> None:
        """Run one device call."""
        io = envelope.device_io
        driver = self._driver
        owner = (envelope.source, envelope.source_incarnation)
        if io.operation == DeviceIo.INTERRUPT:
            number = self._numbers.get((*owner, io.interrupts))
            if number is not None and driver is not None:
                driver.feed(vmc.DeviceInterrupt(number))
            return
        if driver is None or (io.operation == DeviceIo.OPEN and io.path != VMC_PATH):
            self._answer(envelope, -ENOENT)
            return
        if io.operation != DeviceIo.OPEN and self._owners.get(io.handle) != owner:
            self._answer(envelope, -EBADF)
            return
        event = self._input(io)
        if event is None:
            self._answer(envelope, -EINVAL)
            return
        self._calls[self._next] = envelope
        self._numbers[*owner, envelope.correlation] = self._next
        driver.feed(event)

    def _input(self, io: DeviceIo) -> vmc.DeviceInput | None:
        self._next += 1
        number, handle = self._next, io.handle
        match io.operation:
            case DeviceIo.OPEN:
                return vmc.DeviceOpen(number)
            case DeviceIo.IOCTL:
                return vmc.DeviceIoctl(number, handle, io.command, io.data)
            case DeviceIo.READ:
                return vmc.DeviceRead(number, handle, io.count, io.nonblock)
            case DeviceIo.WRITE:
                return vmc.DeviceWrite(number, handle, io.data)
            case DeviceIo.POLL:
                return vmc.DevicePoll(number, handle, io.nonblock)
            case DeviceIo.CLOSE:
                return vmc.DeviceClose(number, handle)
        return None

    def done(self, request: int, result: int, data: bytes) -> None:
        """Answer the call that the driver has finished."""
        call = self._calls.pop(request, None)
        if call is None:
            return
        owner = (call.source, call.source_incarnation)
        self._numbers.pop((*owner, call.correlation), None)
        operation = call.device_io.operation
        if operation == DeviceIo.OPEN and result >= 0:
            if self._endpoint.link.peer_incarnation(call.source) != call.source_incarnation:
                self._close(result)
                return
            self._owners[result] = owner
        elif operation == DeviceIo.CLOSE:
            self._owners.pop(call.device_io.handle, None)
        self._answer(call, result, data)

    def _answer(self, call: Envelope, result: int, data: bytes = b"") -> None:
        self._endpoint.reply(call, Envelope(device_reply=DeviceReply(result=result, data=data)))

    def owner_died(self, node: str) -> None:
        """Close every file of a process that has died."""
        for handle, owner in list(self._owners.items()):
            if owner[0] == node:
                del self._owners[handle]
                self._close(handle)

    def _close(self, handle: int) -> None:
        assert self._driver is not None, "a file was open"
        self._next += 1
        self._driver.feed(vmc.DeviceClose(self._next, handle))
