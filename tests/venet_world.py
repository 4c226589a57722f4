"""A venet and its driver joined directly: real rings, signals and arena, no bridge between them.

For tests that want to see and to spoil every byte.  Whatever should happen "soon" waits in a queue until
:meth:`VenetWorld.run`; nothing re-enters, as with the real host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from pvnet.core.errors import PvnetError
from pvnet.ring.layout import NORTH, SOUTH, Descriptor
from pvnet.ring.roles import Variant, attach_signal, signal_offset
from pvnet.runtime.fence import full_fence
from pvnet.vbus.arena import DEFAULT_BASE, Arena, ArenaAllocator
from pvnet.vbus.device import Region
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_driver import NO_SIGNAL, Call, Close, Open, Shm
from pvnet.vbus.packet import Packet
from pvnet.vbus.venet_north import VenetNorth, VenetNorthConfig
from pvnet.vbus.venet_south import VenetDevice


class WorldSignal:
    """Either side of a signal; its peer's doorbell is a place in the world's queue."""

    def __init__(self, world: VenetWorld, shm, on_wakeup=lambda: None) -> None:
        self.world = world
        self.shm = shm
        self.on_wakeup = on_wakeup
        self.peer: WorldSignal | None = None
        self.cookie = self.handle = self.prio = 0
        self.closed = False
        self.bells = 0

    def inject(self) -> None:
        if self.shm.inject() and not self.closed and self.peer is not None:
            self.bells += 1
            self.world.soon(self.peer.rung)

    def enable(self) -> None:
        if self.shm.enable():
            self.world.soon(self.rung)

    def disable(self) -> None:
        self.shm.disable()

    def again(self) -> None:
        self.world.soon(self.polled)

    def polled(self) -> None:
        if not self.closed:
            self.guarded(self.on_wakeup)

    def put(self) -> None:
        self.world.puts += 1

    def rung(self) -> None:
        if not self.closed and self.guarded(lambda: self.shm.wakeup(self.on_wakeup)):
            self.world.soon(self.rung)

    def guarded(self, action: Callable[[], bool | None]) -> bool | None:
        """What the bridges do with a fault: the connection or the driver ends, nobody else notices."""
        try:
            return action()
        except PvnetError as error:
            self.world.broken.append(str(error))
            return False


class VenetWorld:
    """One partition with one venet.  It is the connection's host and the driver's device."""

    type = "virtual-ethernet"
    id = 0

    def __init__(self, name: str = "p", size: int = 1 << 20, *, allow_2026: bool = False, **attributes: str) -> None:
        self.memory = bytearray(size)
        self.arena = Arena(memoryview(self.memory), DEFAULT_BASE)
        self.allocator = ArenaAllocator(DEFAULT_BASE, size)
        self.fence = full_fence
        self.client = name
        self.allow_2026 = allow_2026
        self.device = VenetDevice(name, attributes)
        self.handle = 0
        self.connection = None
        self.regions: dict[int, Region] = {}
        self.signals: list[WorldSignal] = []
        self.queue: deque[Callable[[], None]] = deque()
        self.faults: list[str] = []
        self.broken: list[str] = []
        """Faults that came out of wakeups."""
        self.puts = 0
        self.refuse: Callable[[object], int] = lambda _: 0
        """Errno for a request, or 0."""
        self.driver: VenetNorth | None = None
        self.received: list[bytes] = []
        self.offloads: list[object] = []

    # the host and the proxy

    def now(self) -> float:
        return 0.0

    def soon(self, callback: Callable[[], None]) -> None:
        self.queue.append(callback)

    defer = soon

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self.soon(self.end)

    def end(self) -> None:
        if self.connection is not None:
            connection, self.connection = self.connection, None
            for signal in self.signals:
                signal.closed = True
            connection.close()
            connection.release()
            self.regions.clear()
            self.signals.clear()

    def open(self, version: int) -> Open:
        return Open(self, version)

    def close(self) -> Close:
        return Close(self)

    def call(self, func: int, data: bytearray | None = None, flags: int = 0) -> Call:
        return Call(self, func, bytearray() if data is None else data, flags)

    def shm(self, id, address, length, *, signal=None, signal_offset=None, prio=0, on_wakeup=None) -> Shm:  # noqa: A002
        if signal is None:
            return Shm(self, id, address, length, NO_SIGNAL, 0, None)
        made = WorldSignal(self, signal, on_wakeup or (lambda: None))
        return Shm(self, id, address, length, signal_offset, prio, made)

    def execute(self, request) -> int:
        errno = self.refuse(request)
        if errno:
            raise VbusError(errno, "refused by the test")
        if isinstance(request, Open):
            self.connection = self.device.open(request.version, self)
            self.handle = 1
            return 0
        if isinstance(request, Close):
            self.handle = 0
            self.end()
            return 0
        if self.connection is None:
            raise VbusError(19)
        if isinstance(request, Call):
            return self.connection.call(request.func, memoryview(request.data), request.flags)
        return self.register(request.id, request.address, request.length, request.signal, request.signal_offset)

    def register(self, id, address, length, north=None, offset=NO_SIGNAL) -> int:  # noqa: A002
        view = self.arena.slice(address, length)
        south = None
        if north is not None:
            shm = attach_signal(view, offset, SOUTH, self.fence, self.allow_2026)
            south = WorldSignal(self, shm)
            south.peer, north.peer = north, south
        region = Region(id, address, length, view, south)
        self.connection.shm(id, region, 0)
        self.regions[id] = region
        if south is not None:
            self.signals += [south, north]
        return 1

    # running

    def steps(self, generator: Generator) -> None:
        """Run a driver's generator to its end."""
        try:
            request = next(generator)
            while True:
                try:
                    result = self.execute(request)
                except PvnetError as error:
                    request = generator.throw(error)
                else:
                    request = generator.send(result)
        except StopIteration:
            pass

    def up(self, config: VenetNorthConfig | None = None) -> VenetNorth:
        """Bring the driver up; what it receives is copied to ``received`` and ``offloads``."""
        self.driver = VenetNorth(config)
        self.driver.on_frames = self.keep
        self.steps(self.driver.probe(self))
        self.run()
        return self.driver

    def keep(self, packets: list[Packet]) -> None:
        self.received += [packet.tobytes() for packet in packets]
        self.offloads += [packet.offload for packet in packets]

    def down(self) -> None:
        self.steps(self.driver.remove(self))
        self.run()

    def run(self, limit: int = 100_000) -> int:
        """Do everything that is due; how much it was."""
        done = 0
        while self.queue:
            self.queue.popleft()()
            done += 1
            assert done < limit, "this does not come to an end"
        return done


def join(*worlds: VenetWorld) -> None:
    """Connect two worlds by a cable, and give them one queue."""
    first, second = worlds
    second.queue = first.queue
    first.device.receive = lambda packets: first.device.counters.update(
        lost=len(packets) - second.device.port.deliver(packets)
    )
    second.device.receive = lambda packets: second.device.counters.update(
        lost=len(packets) - first.device.port.deliver(packets)
    )


__all__ = ["NORTH", "Descriptor", "Variant", "VenetWorld", "WorldSignal", "join", "signal_offset"]
