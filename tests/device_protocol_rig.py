"""The server's machine of the device protocol over a small driver."""

from __future__ import annotations

import struct
from collections import deque

from pvnet.papr.errno import EAGAIN, EBADF, EBADFD, EIO
from pvnet.vmc.device_protocol import (
    MAX_CALLS,
    MAX_DATA,
    VERSION,
    DeviceCall,
    Frame,
    FrameReader,
    Op,
    ServerMachine,
    Welcome,
    encode_hello,
)


class Device:
    """A driver with one session: calls in order, one after another, some of which wait."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.is_live = False
        self.was_live = False
        self.waiting: list[DeviceCall] = []
        self.queue: deque[DeviceCall] = deque()
        self.busy = False
        self.open_result = 7

    def feed(self, call: DeviceCall) -> None:
        self.queue.append(call)
        self.run()

    def run(self) -> None:
        if self.busy:
            return
        self.busy = True
        while self.queue:
            self.one(self.queue.popleft())
        self.busy = False

    def one(self, call: DeviceCall) -> None:
        answer = self.end.machine.done
        match call.op:
            case Op.HELLO:
                answer(call.tag, self.open_result)
            case Op.IOCTL:
                if call.data:
                    self.is_live = self.was_live = True
                answer(call.tag, 0, b"" if call.data else struct.pack("<3i", 1, 2, 3))
            case Op.WRITE:
                answer(call.tag, len(call.data) if self.is_live else -EIO)
            case Op.READ if self.messages:
                message = self.messages.popleft()[: call.argument]
                answer(call.tag, len(message), message)
            case Op.READ if not self.is_live:
                answer(call.tag, -EBADFD if self.was_live else -EIO)
            case Op.POLL if self.messages:
                answer(call.tag, 1)
            case Op.POLL if call.nonblock or not self.is_live:
                answer(call.tag, 0)
            case Op.READ if call.nonblock:
                answer(call.tag, -EAGAIN)
            case Op.READ | Op.POLL:
                self.waiting.append(call)
            case Op.CLOSE:
                self.wake(-EBADF)
                answer(call.tag, 0)

    def wake(self, result: int) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            self.end.machine.done(call.tag, 0 if call.op == Op.POLL else result)

    def arrive(self, message: bytes) -> None:
        if self.is_live:
            self.messages.append(message)
            again, self.waiting = self.waiting, []
            self.queue.extend(sorted(again, key=lambda call: call.op != Op.POLL))
            self.run()

    def lose(self) -> None:
        self.is_live = False
        self.messages.clear()
        self.wake(-EBADFD)

    end: End


class End:
    """A machine over a device, and what it has sent."""

    def __init__(self, byteorder: str = "little") -> None:
        self.device = Device()
        self.device.end = self
        self.frames = FrameReader(replies=True)
        self.got: list[Frame] = []
        self.closed: list[str] = []
        self.interrupted: list[int] = []
        self.machine = ServerMachine(
            perform=self.device.feed,
            interrupt=self.interrupted.append,
            send=lambda data: self.got.extend(self.frames.feed(data)),
            close=self.closed.append,
            byteorder=byteorder,
        )

    def send(self, op: int, tag: int = 0, argument: int = 0, data: bytes = b"", flags: int = 0) -> None:
        self.machine.receive(Frame(op, tag, argument, data, flags).request())

    def take(self) -> list[Frame]:
        got, self.got = self.got, []
        return got

    def opened(self, options: int = 0) -> End:
        self.machine.receive(encode_hello("/dev/ibmvmc", options))
        (frame,) = self.take()
        assert frame == Frame(Op.HELLO, 1, 0, Welcome(VERSION, options, MAX_DATA, MAX_CALLS).encode())
        return self
