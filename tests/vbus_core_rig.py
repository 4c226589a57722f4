"""A toy device with the region ids of a virtual ethernet, its driver, and the two halves of the bridge joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from pvnet.core.machine import Tick
from pvnet.papr.errno import EEXIST, EINVAL, ENOENT
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Pattern, RxNorth, RxSouth, TxNorth, TxSouth, Variant, attach_ring, create_ring, ring_bytes
from pvnet.ring.shm_signal import ShmSignal
from pvnet.runtime.fence import full_fence
from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.bridge_io import BridgeCall, BridgeResult, Doorbell, Interrupt, SignalRang
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.device import Connection, ConnectionHost, Region
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import (
    EVENT_BYTES,
    BridgeVector,
    BusVector,
    CallDescriptor,
    DeviceOpen,
    DeviceShm,
    Event,
    EventQueue,
    Negotiate,
    encode_queues,
)
from pvnet.vbus.north import VbusNorth
from pvnet.vbus.north_driver import NorthSignal, ProxyDevice, Steps
from pvnet.vbus.north_io import BridgePlaces, VbusNorthConfig
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.south_io import VbusSouthConfig

BASE = 0x10000
BYTES = 1 << 17
TYPE = "virtual-ethernet"
LINKUP, LINKDOWN, MAC, ECHO = 0, 1, 2, 99
MAC_BYTES = bytes.fromhex("021122334455")


FRAME_BYTES = 256


def words(text: str) -> bytes:
    """Bytes of a hex dump."""
    return bytes.fromhex(text.replace(" ", ""))


class ToyConnection:
    """Rings 0 (rx) and 1 (tx), and any region from 100 on, with or without a signal."""

    def __init__(self, device: ToyDevice, host: ConnectionHost) -> None:
        self.device = device
        self.host = host
        self.regions: dict[int, Region] = {}
        self.rx: RxSouth | None = None
        self.tx: TxSouth | None = None
        self.closed = self.released = 0
        self.faulted = False
        self.wakeups: dict[int, int] = {}
        self.on_call: Callable[[int], int] | None = None

    def call(self, func: int, data: memoryview, flags: int) -> int:
        if self.on_call is not None:
            return self.on_call(func)
        if func == MAC:
            if len(data) != 6:
                raise VbusError(EINVAL)
            data[:] = MAC_BYTES
            return 0
        if func == ECHO:
            data[:] = bytes(data)[::-1]
            return len(data)
        if func > LINKDOWN:
            raise VbusError(EINVAL)
        return 0

    def shm(self, id: int, region: Region, flags: int) -> None:  # noqa: A002
        if id == 0:
            assert region.signal is not None
            self.rx = attach_ring(
                region.view, Pattern.RX, self.host.fence, 2048, self.host.allow_2026, region.signal.shm
            )
        elif id == 1:
            assert region.signal is not None
            self.tx = attach_ring(
                region.view, Pattern.TX, self.host.fence, 2048, self.host.allow_2026, region.signal.shm
            )
            region.signal.on_wakeup = self._transmit
            region.signal.enable()
        elif id < 100:
            raise VbusError(EINVAL, f"region {id}")
        elif region.signal is not None:
            region.signal.on_wakeup = lambda: self.woken(id)
            region.signal.enable()
        if id in self.regions:
            raise VbusError(EEXIST)
        self.regions[id] = region

    def woken(self, region: int) -> None:
        self.wakeups[region] = self.wakeups.get(region, 0) + 1

    def _transmit(self) -> None:
        assert self.tx is not None
        for descriptor in self.tx.take(256):
            self.device.sent.append(self.host.arena.read(descriptor.ptr, descriptor.length))
            self.tx.complete(1)

    def send(self, frame: bytes) -> bool:
        """Towards north; as a switch would, also between turns."""
        assert self.rx is not None
        if self.faulted:
            return False
        slots = self.rx.take(1)
        if not slots:
            return False
        (slot,) = slots
        if slot.length < len(frame):
            self.faulted = True
            self.host.fault("the buffer is too small")
            return False
        self.host.arena.write(slot.ptr, frame)
        self.rx.fill([len(frame)])
        signal = self.regions[0].signal
        assert signal is not None
        signal.inject()
        return True

    def close(self) -> None:
        self.closed += 1

    def release(self) -> None:
        self.released += 1
        self.regions.clear()


class ToyDevice:
    """See :class:`ToyConnection`."""

    def __init__(self, kind: str = TYPE) -> None:
        self.type = kind
        self.sent: list[bytes] = []
        self.connections: list[ToyConnection] = []
        self.values = {"mac": "02:11:22:33:44:55"}
        self.closed = False

    @property
    def connection(self) -> ToyConnection:
        return self.connections[-1]

    def open(self, version: int, host: ConnectionHost) -> Connection:
        if version != 1:
            raise VbusError(EINVAL, f"version {version}")
        self.connections.append(ToyConnection(self, host))
        return self.connections[-1]

    def attributes(self) -> Mapping[str, str]:
        return self.values

    def get(self, key: str) -> str:
        try:
            return self.values[key]
        except KeyError:
            raise VbusError(ENOENT, key) from None

    def set(self, key: str, value: str) -> None:
        self.get(key)
        self.values[key] = value

    def close(self) -> None:
        self.closed = True


class ToyClass:
    """Makes toys; attribute ``type`` overrides theirs."""

    name = "toy"
    type = TYPE

    def create(self, name: str, attributes: Mapping[str, str]) -> ToyDevice:
        return ToyDevice(attributes.get("type", TYPE))


def registry_with(*clients: str, devices: int = 1) -> BusRegistry:
    """One bus ``lan`` with members and toys ``toy0`` and on."""
    registry = BusRegistry({"toy": ToyClass()})
    registry.bus_create("lan")
    for client in clients:
        registry.join(client, "lan")
    for number in range(devices):
        registry.device_create("toy", f"toy{number}")
        registry.attach(f"toy{number}", "lan")
    return registry


def toy(registry: BusRegistry, name: str = "toy0") -> ToyDevice:
    device = registry.device(name)
    assert isinstance(device, ToyDevice)
    return device


class ToyDriver:
    """Brings the toy up: rx ring of ``count``, tx ring, LINKUP."""

    def __init__(self, count: int = 4, room: int = 256, variant: Variant = Variant.IOQ_2009) -> None:
        self.count = count
        self.room = room
        self.variant = variant
        self.addresses: list[int] = []
        self.rx: RxNorth | None = None
        self.tx: TxNorth | None = None
        self.rx_signal: NorthSignal | None = None
        self.tx_signal: NorthSignal | None = None
        self.frames: list[bytes] = []
        self.device: ProxyDevice | None = None
        self.probes = self.removes = 0
        self.buffers = 0
        self.ring_offset = 8 if variant is Variant.IOQ_2009 else 0x40

    def places(self, device: ProxyDevice) -> tuple[int, int, int]:
        """Addresses of rx ring, tx ring and buffers."""
        size = ring_bytes(self.count, self.variant)
        self.addresses = [device.allocator.alloc(n) for n in (size, size, FRAME_BYTES + self.count * self.room)]
        rx, tx, buffers = self.addresses
        return rx, tx, buffers + FRAME_BYTES

    def probe(self, device: ProxyDevice) -> Steps:
        self.probes += 1
        self.device = device
        yield device.open(1)
        rx, tx, self.buffers = self.places(device)
        size = ring_bytes(self.count, self.variant)
        for ring in (rx, tx):
            device.arena.write(ring, bytes(size))
        self.rx = create_ring(device.arena.slice(rx, size), self.count, Pattern.RX, device.fence, self.variant)
        self.rx.provide([Descriptor(i + 1, self.buffers + i * self.room, self.room) for i in range(self.count)])
        request = device.shm(0, rx, size, signal=self.rx.signal, signal_offset=self.ring_offset, on_wakeup=self.receive)
        self.rx_signal = request.signal
        yield request
        assert self.rx_signal is not None
        self.rx_signal.enable()
        self.tx = create_ring(device.arena.slice(tx, size), self.count, Pattern.TX, device.fence, self.variant)
        request = device.shm(1, tx, size, signal=self.tx.signal, signal_offset=self.ring_offset)
        self.tx_signal = request.signal
        yield request
        yield device.call(LINKUP)

    def receive(self) -> None:
        assert self.rx is not None
        assert self.device is not None
        for slot in self.rx.collect(self.count):
            self.frames.append(self.device.arena.read(slot.ptr, slot.length))
            self.rx.refill([Descriptor(slot.cookie, slot.ptr, self.room)])

    def send(self, cookie: int, address: int, length: int) -> bool:
        assert self.tx is not None
        assert self.tx_signal is not None
        pushed = self.tx.push([Descriptor(cookie, address, length)])
        self.tx_signal.inject()
        return bool(pushed)

    def remove(self, device: ProxyDevice) -> Steps:
        self.removes += 1
        try:
            if device.handle:
                yield device.close()
        except VbusError:
            pass
        for address in self.addresses:
            device.allocator.free(address)
        self.addresses = []


class World:
    """Both halves over one arena; messages wait until they are delivered."""

    def __init__(
        self,
        *,
        driver: ToyDriver | None = None,
        devices: int = 1,
        south: VbusSouthConfig | None = None,
        north: VbusNorthConfig | None = None,
        places: BridgePlaces | None = None,
        allocator: ArenaAllocator | None = None,
        size: int = BYTES,
    ) -> None:
        self.memory = bytearray(size)
        self.arena = Arena(memoryview(self.memory), BASE)
        self.registry = registry_with("lpar1", devices=devices)
        self.now = 0.0
        self.south_config = south
        self.south = VbusSouth("lpar1", self.arena, self.registry, full_fence, south, lambda: self.wanted.add("south"))
        self.driver = driver if driver is not None else ToyDriver()
        self.allocator = allocator if allocator is not None else ArenaAllocator(BASE, size)
        self.north = VbusNorth(
            self.arena,
            self.allocator,
            {TYPE: self.driver},
            full_fence,
            north if north is not None else VbusNorthConfig(events=16, queues=self.south.config.queues),
            places,
            lambda: self.wanted.add("north"),
        )
        self.wanted: set[str] = set()
        self.to_south: deque[object] = deque()
        self.to_north: deque[object] = deque()
        self.said: list[object] = []

    @property
    def toy(self) -> ToyDevice:
        return toy(self.registry)

    def reconnect(self) -> None:
        """The host starts again: another machine over the same arena."""
        self.south = VbusSouth(
            "lpar1", self.arena, self.registry, full_fence, self.south_config, lambda: self.wanted.add("south")
        )

    def reconnect_after_death(self) -> None:
        """The host's process died with all its devices, and another is there."""
        self.registry = registry_with("lpar1")
        self.reconnect()

    def feed_north(self, event: object) -> list[object]:
        outputs: list[object] = list(self.north.feed(event, self.now))  # type: ignore[arg-type]
        self.wanted.discard("north")
        for output in outputs:
            match output:
                case BridgeCall() | Doorbell():
                    self.to_south.append(output)
                case _:
                    self.said.append(output)
        return outputs

    def feed_south(self, event: object) -> list[object]:
        outputs: list[object] = list(self.south.feed(event, self.now))  # type: ignore[arg-type]
        self.wanted.discard("south")
        for output in outputs:
            match output:
                case BridgeResult() | Interrupt() | SignalRang():
                    self.to_north.append(output)
                case _:
                    self.said.append(output)
        return outputs

    def due(self) -> list[str]:
        """Whoever wants a Tick now."""
        north, south = self.north.deadline(), self.south.deadline()
        return [
            name
            for name, at in (("north", north), ("south", south))
            if name in self.wanted or (at is not None and at <= self.now)
        ]

    def settle(self, limit: int = 10_000) -> None:
        """Deliver everything, in order, until nobody has anything to do."""
        for _ in range(limit):
            if self.to_south:
                self.feed_south(self.to_south.popleft())
            elif self.to_north:
                self.feed_north(self.to_north.popleft())
            else:
                due = self.due()
                if not due:
                    return
                for name in due:
                    (self.feed_north if name == "north" else self.feed_south)(Tick())
        raise AssertionError("the two sides keep each other busy for ever")

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.settle()


class RawNorth:
    """A north without a machine: register accesses and an event ring, for what a proper north does not do."""

    CALL, PARAMETERS, DATA, REGIONS = BASE + 0x4000, BASE + 0x4040, BASE + 0x4100, BASE + 0x8000

    def __init__(
        self,
        registry: BusRegistry,
        *,
        events: int = 16,
        client: str = "lpar1",
        config: VbusSouthConfig | None = None,
        memory: bytearray | None = None,
    ) -> None:
        self.memory = memory if memory is not None else bytearray(BYTES)
        self.arena = Arena(memoryview(self.memory), BASE)
        self.wanted = 0
        self.registry = registry
        self.south = VbusSouth(client, self.arena, registry, full_fence, config, self._want)
        self.queues = self.south.config.queues
        self.events = events
        self.now = 0.0
        self.rings: list[RxNorth] = []
        self.outputs: list[object] = []
        self.handle = 0
        self.regions = 0

    def _want(self) -> None:
        self.wanted += 1

    def feed(self, event: object) -> list[object]:
        outputs: list[object] = list(self.south.feed(event, self.now))  # type: ignore[arg-type]
        self.outputs += outputs
        return outputs

    def bridge(self, vector: int, parameters: bytes, length: int | None = None, address: int | None = None) -> int:
        """A bridge call with these parameters; ``length`` and ``address`` override what is right."""
        self.arena.write(self.PARAMETERS, parameters)
        size = len(parameters) if length is None else length
        where = self.PARAMETERS if address is None else address
        (result,) = [
            output.result
            for output in self.feed(BridgeCall(1, CallDescriptor(vector, size, where).encode()))
            if isinstance(output, BridgeResult)
        ]
        return result

    def call(self, vector: int, parameters: bytes, length: int | None = None, address: int | None = None) -> int:
        """A bus call by SLOWCALL."""
        size = len(parameters) if length is None else length
        where = self.PARAMETERS if address is None else address
        self.arena.write(self.CALL, CallDescriptor(vector, size, where).encode())
        self.arena.write(self.PARAMETERS, parameters)
        call = CallDescriptor(BridgeVector.SLOWCALL, 16, self.CALL)
        (result,) = [
            output.result for output in self.feed(BridgeCall(1, call.encode())) if isinstance(output, BridgeResult)
        ]
        return result

    def negotiate(self, capabilities: int = 0) -> int:
        return self.bridge(BridgeVector.NEGOTIATE, Negotiate(capabilities=capabilities).encode())

    def make_queues(self) -> bytes:
        """Event rings at the arena's start; the parameter of QREG."""
        size = ring_bytes(self.events, Variant.IOQ_2009)
        step = -(-size // 64) * 64 + -(-self.events * EVENT_BYTES // 64) * 64
        self.rings = []
        wishes = []
        for number in range(self.queues):
            ring = BASE + number * step
            data = ring + -(-size // 64) * 64
            self.arena.write(ring, bytes(step))
            role = create_ring(self.arena.slice(ring, size), self.events, Pattern.RX, full_fence)
            role.provide([Descriptor(i, data + i * EVENT_BYTES, EVENT_BYTES) for i in range(self.events)])
            role.signal.enable()
            self.rings.append(role)
            wishes.append(EventQueue(self.events, ring, data))
        return encode_queues(wishes)

    def up(self, capabilities: int = 0) -> int:
        """NEGOTIATE and QREG."""
        assert self.negotiate(capabilities) == 0
        return self.bridge(BridgeVector.QREG, self.make_queues())

    def pop(self, most: int = 1000, queue: int = 0) -> list[Event]:
        """Take events, give the slots back, and ring if south asked for it."""
        role = self.rings[queue]
        events = []
        for slot in role.collect(most):
            events.append(Event.decode(self.arena.read(slot.ptr, EVENT_BYTES)))
            role.refill([Descriptor(slot.cookie, slot.ptr, EVENT_BYTES)])
        role.signal.wakeup(lambda: None)
        if role.signal.inject():
            self.feed(Doorbell(0, queue))
        return events

    def open(self, device: int, version: int = 1) -> int:
        """DEVOPEN: the handle, or -errno."""
        result = self.call(BusVector.DEVOPEN, DeviceOpen(device, version).encode())
        if result < 0:
            return result
        self.handle = DeviceOpen.decode(self.arena.read(self.PARAMETERS, 16)).handle
        return self.handle

    def region(self, length: int = 64) -> int:
        """Address of a fresh region whose first 16 bytes are a signal."""
        address = self.REGIONS + self.regions * 128
        self.regions += 1
        ShmSignal.create(self.arena.slice(address, length), 0, full_fence).enable()
        return address

    def shm(self, handle: int, region: int, cookie: int = 0, **changes: int) -> int:
        """DEVSHM with a fresh region of 64 bytes and a signal at its start; ``changes`` override fields."""
        fields = {"flags": 0, "length": 64, "offset": 0, "prio": 0, "address": -1, **changes}
        address = fields["address"] if fields["address"] >= 0 else self.region()
        request = DeviceShm(
            handle, region, fields["length"], fields["flags"], fields["offset"], fields["prio"], cookie, address
        )
        return self.call(BusVector.DEVSHM, request.encode())
