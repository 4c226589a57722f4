"""What a vfio-user session needs around it, in memory: fake descriptors, fake carriers, a manual clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import HEADER, Data, Descriptor
from pvnet.papr.errno import EBADF, EINVAL

# --- descriptors ------------------------------------------------------------------------------------------------------


@dataclass
class Event:
    """What an eventfd is: a counter."""

    count: int = 0


class Descriptors:
    """The open files of one process, so to speak; closing one twice is an error of the test's subject."""

    def __init__(self) -> None:
        self.open: dict[Descriptor, Event | bytearray | str] = {}
        self._next = 100

    def make(self, thing: Event | bytearray | str) -> Descriptor:
        self._next += 1
        self.open[self._next] = thing
        return self._next

    def close(self, descriptor: Descriptor) -> None:
        del self.open[descriptor]

    def duplicate(self, descriptor: Descriptor) -> Descriptor:
        return self.make(self.open[descriptor])


class FakeTarget:
    def __init__(self, descriptors: Descriptors, descriptor: Descriptor, event: Event) -> None:
        self._descriptors, self._descriptor, self._event = descriptors, descriptor, event
        self._closed = False

    def signal(self) -> None:
        assert not self._closed
        self._event.count += 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._descriptors.close(self._descriptor)


class FakeDma:
    def __init__(self, descriptors: Descriptors, descriptor: Descriptor, view: memoryview) -> None:
        self._descriptors, self._descriptor = descriptors, descriptor
        self.view: memoryview | None = view
        self._closed = False

    def read(self, offset: int, length: int) -> bytes:
        assert self.view is not None
        return bytes(self.view[offset : offset + length])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert self.view is not None
        self.view[offset : offset + len(data)] = data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._descriptors.close(self._descriptor)


class FakeMemory:
    """Memory of a region, behind a descriptor of its own."""

    def __init__(self, descriptors: Descriptors, size: int) -> None:
        self.size = size
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self._descriptors = descriptors
        self.descriptor = descriptors.make(self.buffer)

    def close(self) -> None:
        self._descriptors.close(self.descriptor)


@dataclass
class FakeCarrier:
    """One end of a connection; what was sent waits in :attr:`out`, with duplicates of the descriptors."""

    descriptors: Descriptors = field(default_factory=Descriptors)
    max_fds: int = 8
    out: deque[tuple[bytes, list[Descriptor]]] = field(default_factory=deque)
    closed: str | None = None

    def send(self, parts: Sequence[Data], descriptors: Sequence[Descriptor]) -> None:
        assert self.closed is None
        message = b"".join(parts)
        assert HEADER.unpack_from(message)[2] == len(message)
        self.out.append((message, [self.descriptors.duplicate(each) for each in descriptors]))

    def irq_target(self, descriptor: Descriptor) -> FakeTarget:
        thing = self.descriptors.open[descriptor]
        if not isinstance(thing, Event):
            self.descriptors.close(descriptor)
            raise MdevError(EBADF, "no eventfd")
        return FakeTarget(self.descriptors, descriptor, thing)

    def dma_memory(self, descriptor: Descriptor, offset: int, size: int, *, writable: bool) -> FakeDma:
        thing = self.descriptors.open[descriptor]
        if not isinstance(thing, bytearray) or offset + size > len(thing):
            self.descriptors.close(descriptor)
            raise MdevError(EINVAL, "too short")
        view = memoryview(thing)[offset : offset + size]
        return FakeDma(self.descriptors, descriptor, view if writable else view.toreadonly())

    def region_descriptor(self, memory: FakeMemory) -> Descriptor | None:
        return memory.descriptor

    def close_descriptor(self, descriptor: Descriptor) -> None:
        self.descriptors.close(descriptor)

    def close(self, reason: str) -> None:
        assert self.closed is None
        self.closed = reason


# --- time -------------------------------------------------------------------------------------------------------------


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at, self.callback = at, callback
        self.live = True

    def cancel(self) -> None:
        self.live = False


class ManualTimers:
    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        for timer in due:
            if timer.live:
                timer.callback()
