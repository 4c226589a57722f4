"""A vfio-user server and its client in memory: fake descriptors, fake carriers, a manual clock, a sample device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvnet.core.machine import Note
from pvnet.mdev.device import DeviceBase, DeviceHost, DmaRead, DmaWrite, Region, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, MigrationFlag, PciIrq, PciRegion, RegionFlag
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import HEADER, Command, Data, Descriptor, command_parts
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.mdev.vfio_user_server import ServerLimits, ServerSession
from pvnet.mdev.vfio_user_version import Capabilities, encode_version
from pvnet.papr.errno import EBADF, EINVAL

RW = RegionFlag.READ | RegionFlag.WRITE


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


# --- the device -------------------------------------------------------------------------------------------------------


class SampleMigration:
    """Stream: all of BAR1 while it runs, all of it again when stopped, then 8 bytes of BAR0."""

    flags = MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY

    def __init__(self, device: SampleDevice) -> None:
        self._device = device
        self._hot = self._cold = 0
        self._came = bytearray()

    def save_begin(self) -> None:
        self._hot = self._cold = 0

    def _bar1(self) -> bytes:
        return bytes(self._device.memory.view)

    def precopy(self, limit: int) -> bytes:
        piece = self._bar1()[self._hot : self._hot + limit]
        self._hot += len(piece)
        return piece

    def save(self, limit: int) -> bytes:
        bar1 = self._bar1()
        if self._cold < len(bar1):
            piece = bar1[self._cold : self._cold + limit]
        else:
            piece = self._device.bar0[self._cold - len(bar1) :][:limit]
        self._cold += len(piece)
        return piece

    def remaining(self) -> int:
        return 2 * self._device.memory.size + 8 - self._hot - self._cold

    def restore_begin(self) -> None:
        self._came = bytearray()

    def restore(self, data: bytes) -> None:
        self._came += data

    def restore_end(self) -> None:
        size = self._device.memory.size
        if len(self._came) < size + 8:
            raise MdevError(EINVAL, "too short")
        self._device.memory.view[:] = self._came[-size - 8 : -8]
        self._device.bar0 = bytes(self._came[-8:])


class SampleDevice(DeviceBase):
    """A timer in BAR0 (8 bytes), memory in BAR1 (12 KiB, the middle page not mappable), config space, INTx.

    BAR0 takes the number of seconds after which it fires; until it is set it reads as ones.  Firing signals INTx, then
    copies :attr:`jobs` from and to the user's memory.  Config offset 0xf0 reads 4 bytes of the user's memory at 0, and
    a write to it stores them there: both wait for the user.
    """

    flags = DeviceFlag.RESET | DeviceFlag.PCI
    irqs = (IrqInfo(1, IrqFlag.EVENTFD), IrqInfo(), IrqInfo(), IrqInfo(1, IrqFlag.EVENTFD), IrqInfo(1, IrqFlag.EVENTFD))

    def __init__(self, descriptors: Descriptors | None = None) -> None:
        self.memory = FakeMemory(descriptors or Descriptors(), 0x3000)
        self.config = bytearray(256)
        self.config[:4] = bytes.fromhex("4f49c80d")
        self.bar0 = b"\xff" * 8
        self.migration = SampleMigration(self)
        self.host: DeviceHost | None = None
        self.resets = 0
        self.jobs: list[DmaRead | DmaWrite] = []
        self.results: list[bytes | MdevError] = []
        self.stopped = False

    @property
    def regions(self) -> Sequence[Region]:
        regions = [Region(RegionInfo())] * 9
        regions[PciRegion.BAR0] = Region(RegionInfo(8, RW))
        mappable = RegionInfo(0x3000, RW | RegionFlag.MMAP, 0, ((0, 0x1000), (0x2000, 0x1000)))
        regions[PciRegion.BAR1] = Region(mappable, self.memory)
        regions[PciRegion.CONFIG] = Region(RegionInfo(256, RW))
        return regions

    def open(self, host: DeviceHost) -> None:
        self.host = host

    def close(self) -> None:
        self.host = None

    def reset(self) -> None:
        self.resets += 1
        self.bar0 = b"\xff" * 8

    def stop(self) -> None:
        self.stopped = True

    def start(self) -> None:
        self.stopped = False

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        if region == PciRegion.CONFIG:
            if offset == 0xF0:
                return self._fetch(length)
            return bytes(self.config[offset : offset + length])
        return self.bar0[offset : offset + length]

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == PciRegion.CONFIG:
            if offset == 0xF0:
                return self._store(data)
            if offset >= 0x40:
                self.config[offset : offset + len(data)] = data
            return None
        self.bar0 = self.bar0[:offset] + data + self.bar0[offset + len(data) :]
        if self.host is not None:
            self.host.call_later(float(int.from_bytes(self.bar0, "little")), self.fire)
        return None

    def _fetch(self, length: int) -> Steps[bytes]:
        return (yield DmaRead(0, length))

    def _store(self, data: bytes) -> Steps[None]:
        yield DmaWrite(0, data)

    def fire(self) -> None:
        assert self.host is not None
        self.host.signal(PciIrq.INTX)
        self.host.run(self._jobs(), self._over)

    def _jobs(self) -> Steps[None]:
        for job in self.jobs:
            self.results.append((yield job))

    def _over(self, error: MdevError | None) -> None:
        if error is not None:
            self.results.append(error)

    def attributes(self) -> Mapping[str, str]:
        return {}


# --- worlds -----------------------------------------------------------------------------------------------------------

VERSION_IDENT = 0xDA55


class Server:
    """A server session whose client is the test, byte by byte."""

    def __init__(
        self,
        device: Any = None,
        *,
        limits: ServerLimits | None = None,
        capabilities: Capabilities | None = None,
        max_fds: int = 8,
        negotiate: bool = True,
    ) -> None:
        self.descriptors = Descriptors()
        self.device = device or SampleDevice(self.descriptors)
        self.owned = set(self.descriptors.open)
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        self.vfio = VfioDevice(self.device, "sample", self.timers, self.notes.append)
        self.carrier = FakeCarrier(self.descriptors, max_fds)
        self.session = ServerSession(self.vfio, self.carrier, limits or ServerLimits())
        if negotiate:
            payload = encode_version(capabilities or Capabilities(max_msg_fds=8, write_multiple=True))
            (reply,) = self.ask(Command.VERSION, payload, ident=VERSION_IDENT)
            assert HEADER.unpack_from(reply)[3] == 1

    @property
    def open_descriptors(self) -> int:
        """How many are open that are not the device's own."""
        return len(set(self.descriptors.open) - self.owned)

    def send(self, message: bytes | str, *things: Event | bytearray | str) -> list[bytes]:
        """Send a message with descriptors for ``things``; returns what came back, without descriptors."""
        data = bytes.fromhex(message) if isinstance(message, str) else message
        self.session.message(data, [self.descriptors.make(thing) for thing in things])
        return self.sent()

    def ask(
        self, command: int, payload: bytes = b"", *things: Event | bytearray | str, ident: int = 1, flags: int = 0
    ) -> list[bytes]:
        return self.send(b"".join(command_parts(ident, command, payload, flags=flags)), *things)

    def errno(self, command: int, payload: bytes = b"", *things: Event | bytearray | str) -> int:
        """Errno of the answer; 0: success."""
        (reply,) = self.ask(command, payload, *things, ident=77)
        ident, answered, size, flags, error = HEADER.unpack_from(reply)
        assert (ident, answered) == (77, command)
        if flags == 1:
            return 0
        assert (flags, size) == (0x21, 16)
        assert isinstance(error, int)
        assert error > 0
        return error

    def sent(self) -> list[bytes]:
        result = []
        while self.carrier.out:
            message, descriptors = self.carrier.out.popleft()
            for descriptor in descriptors:
                self.descriptors.close(descriptor)
            result.append(message)
        return result


class Pair:
    """A client machine and a server session, joined; :meth:`pump` carries messages until there are none."""

    def __init__(
        self,
        device: SampleDevice | None = None,
        *,
        server_limits: ServerLimits | None = None,
        client_limits: ClientLimits | None = None,
        start: bool = True,
    ) -> None:
        self.descriptors = Descriptors()
        self.device = device or SampleDevice(self.descriptors)
        self.owned = set(self.descriptors.open)
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        self.vfio = VfioDevice(self.device, "sample", self.timers, self.notes.append)
        self.server_carrier = FakeCarrier(self.descriptors)
        self.client_carrier = FakeCarrier(self.descriptors)
        self.server = ServerSession(self.vfio, self.server_carrier, server_limits or ServerLimits())
        self.client = ClientMachine(self.client_carrier, client_limits or ClientLimits())
        if start:
            assert not isinstance(self.do(self.client.start), MdevError)

    @property
    def open_descriptors(self) -> int:
        return len(set(self.descriptors.open) - self.owned)

    def pump(self) -> None:
        moved = True
        while moved:
            moved = False
            if self.client_carrier.out:
                self.server.message(*self.client_carrier.out.popleft())
                moved = True
            if self.server_carrier.out:
                message, descriptors = self.server_carrier.out.popleft()
                self.client.message(memoryview(message), descriptors)
                moved = True
        if self.server_carrier.closed is not None:
            self.client.lost(self.server_carrier.closed)
        if self.client_carrier.closed is not None:
            self.server.lost()

    def do(self, request: Callable[..., None], *arguments: object, **options: object) -> object:
        """Make a request of the client and return what its callback heard."""
        heard: list[object] = []
        request(*arguments, heard.append, **options)
        self.pump()
        (result,) = heard
        return result

    def errno(self, request: Callable[..., None], *arguments: object, **options: object) -> int:
        result = self.do(request, *arguments, **options)
        return result.code if isinstance(result, MdevError) else 0
