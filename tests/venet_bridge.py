"""Partitions with venets over the real bridge: VbusNorth and VbusSouth of each, a bus, a switch or a cable."""

from __future__ import annotations

from collections import deque

from pvnet.core.machine import Tick
from pvnet.runtime.fence import full_fence
from pvnet.vbus.arena import DEFAULT_BASE, Arena, ArenaAllocator
from pvnet.vbus.bridge_io import BridgeCall, BridgeResult, ClientGone, Doorbell, Interrupt
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.north import VbusNorth
from pvnet.vbus.north_io import DeviceBound, DeviceUnbound, HostGone, Start, Stop
from pvnet.vbus.packet import Packet
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.venet_layout import VENET_TYPE
from pvnet.vbus.venet_north import VenetDriver, VenetNorth, VenetNorthConfig
from pvnet.vbus.venet_south import VENET, VENET_TAP


class Lab:
    """One vbus host and its partitions; time stands still unless told."""

    def __init__(self) -> None:
        self.registry = BusRegistry({"venet": VENET, "venet-tap": VENET_TAP})
        self.partitions: list[Partition] = []
        self.now = 0.0

    def run(self, limit: int = 200_000) -> None:
        """Until nothing is due."""
        for _ in range(limit):
            turned = [partition.turn() for partition in self.partitions]
            if not any(turned):
                return
        raise AssertionError("this does not come to an end")

    def later(self, seconds: float) -> None:
        """Let time pass and everybody look."""
        self.now += seconds
        for partition in self.partitions:
            partition.to_north.append(Tick())
            partition.to_south.append(Tick())
        self.run()


class Partition:
    """One partition with one device ``<name>``, on a bus of its own."""

    def __init__(self, lab: Lab, name: str, config: VenetNorthConfig | None = None, size: int = 1 << 21) -> None:
        self.lab = lab
        self.name = name
        self.memory = bytearray(size)
        self.arena = Arena(memoryview(self.memory), DEFAULT_BASE)
        self.allocator = ArenaAllocator(DEFAULT_BASE, size)
        self.received: list[bytes] = []
        self.offloads: list[object] = []
        self.links: list[bool] = []
        self.config = config
        self.driver = VenetDriver(self.make)
        self.north = VbusNorth(self.arena, self.allocator, {VENET_TYPE: self.driver}, full_fence)
        self.north.on_ready = lambda: self.to_north.append(Tick())
        lab.registry.bus_create(name)
        self.device = lab.registry.device_create("venet", name)
        lab.registry.attach(name, name)
        lab.registry.join(name, name)
        self.south = VbusSouth(name, self.arena, lab.registry, full_fence)
        self.south.on_ready = lambda: self.to_south.append(Tick())
        self.to_north: deque[object] = deque()
        self.to_south: deque[object] = deque()
        self.bound: list[object] = []
        self.notes: list[object] = []
        self.doorbells = self.interrupts = 0
        lab.partitions.append(self)

    def make(self, _device: object) -> VenetNorth:
        interface = VenetNorth(self.config)
        interface.on_frames = self.keep
        interface.on_link = self.links.append
        return interface

    def keep(self, packets: list[Packet]) -> None:
        self.received += [packet.tobytes() for packet in packets]
        self.offloads += [packet.offload for packet in packets]

    @property
    def interface(self) -> VenetNorth:
        return next(iter(self.driver.interfaces.values()))

    def start(self) -> VenetNorth:
        self.at_rest = self.allocator.used
        self.to_north.append(Start())
        self.lab.run()
        return self.interface

    def stop(self) -> None:
        self.to_north.append(Stop())
        self.lab.run()

    def host_gone(self) -> None:
        self.to_north.append(HostGone())
        self.lab.run()

    def client_gone(self) -> None:
        self.to_south.append(ClientGone())
        self.lab.run()

    def turn(self) -> bool:
        """One input of each machine, if there is one or the machine wants a Tick now."""
        return self._north() | self._south()

    def _north(self) -> bool:
        deadline = self.north.deadline()
        if not self.to_north and (deadline is None or deadline > self.lab.now):
            return False
        for output in self.north.feed(self.to_north.popleft() if self.to_north else Tick(), self.lab.now):
            match output:
                case BridgeCall() | Doorbell():
                    self.doorbells += isinstance(output, Doorbell)
                    self.to_south.append(output)
                case DeviceBound() | DeviceUnbound():
                    self.bound.append(output)
                case _:
                    self.notes.append(output)
        return True

    def _south(self) -> bool:
        deadline = self.south.deadline()
        if not self.to_south and (deadline is None or deadline > self.lab.now):
            return False
        for output in self.south.feed(self.to_south.popleft() if self.to_south else Tick(), self.lab.now):
            match output:
                case BridgeResult() | Interrupt():
                    self.interrupts += isinstance(output, Interrupt)
                    self.to_north.append(output)
                case _:
                    self.notes.append(output)
        return True


def cable(first: Partition, second: Partition) -> None:
    """Connect two devices directly."""
    first.device.receive = lambda packets: first.device.counters.update(
        lost=len(packets) - second.device.port.deliver(packets)
    )
    second.device.receive = lambda packets: second.device.counters.update(
        lost=len(packets) - first.device.port.deliver(packets)
    )
