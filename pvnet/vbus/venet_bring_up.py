"""How a partition's driver brings a venet up: which memory, which calls, and what happens without an option.

:class:`VenetParts` is everything that exists between bring-up and removal: the agreed features, the rings, both data
paths, the event queue, and the memory that all of it lies in.

Spec: vbus 8.3, 8.5, 8.6, 8.7.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EINVAL
from pvnet.ring.errors import RingFault
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Pattern, RxNorth, Variant, create_ring, ring_bytes, signal_offset
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_driver import NorthSignal, ProxyDevice, Request
from pvnet.vbus.packet import Packet
from pvnet.vbus.venet_layout import (
    EVENT_BYTES,
    MAX_SG_BYTES,
    VENET_VERSION,
    Capability,
    CapabilityGroup,
    EventCapability,
    EventqQuery,
    L4roQuery,
    LinkState,
    SgCapability,
    Traffic,
    VenetFunction,
    VenetRegion,
    decode_event,
)
from pvnet.vbus.venet_north_rx import NorthPages, NorthReceive
from pvnet.vbus.venet_north_tx import NorthTransmit

if TYPE_CHECKING:
    from pvnet.vbus.venet_north import VenetNorthConfig

EVENT_BUDGET: Final = 64
"""Events per wakeup."""
_ALIGN: Final = 64


def round_up(size: int) -> int:
    """The next multiple of 64."""
    return -(-size // _ALIGN) * _ALIGN


def arena_bytes(config: VenetNorthConfig) -> int:
    """The most memory of the arena that a venet of this configuration takes, whatever is agreed."""
    variant = Variant.IOQ_2026 if config.ring_2026 else Variant.IOQ_2009
    count, size = config.transmit_buffers(config.sg)
    pieces = [
        config.rx_ring * config.receive_bytes,
        ring_bytes(config.rx_ring, variant),
        max(count * size, config.tx_ring * config.transmit_buffers(0)[1]),
        ring_bytes(config.tx_ring, variant),
    ]
    if config.sg:
        pieces.append(config.tx_ring * MAX_SG_BYTES)
    if config.eventq:
        pieces += [config.event_ring * EVENT_BYTES, ring_bytes(config.event_ring, variant)]
    if config.l4ro:
        pieces += [config.rx_ring * MAX_SG_BYTES, ring_bytes(config.pages, variant), config.pages * config.page_bytes]
    return sum(round_up(piece) for piece in pieces)


class VenetParts:
    """What a brought-up venet consists of.

    :ivar sg, eventq, l4ro: agreed bits.
    """

    transmit: NorthTransmit
    receive: NorthReceive

    def __init__(
        self, device: ProxyDevice, counters: Counters, traffic: Traffic, broken: Callable[[RingFault], None]
    ) -> None:
        self.device = device
        self.counters = counters
        self.traffic = traffic
        self.sg = 0
        self.eventq = 0
        self.l4ro = 0
        self.mac = bytearray(6)
        self.pages: NorthPages | None = None
        self.carrier: Callable[[bool], None] = lambda _: None
        """Told the link's state by events."""
        self.dead = False
        """The host broke a ring: nothing is looked at any more."""
        self._broken = broken
        self._events: tuple[RxNorth, memoryview] | None = None
        self._event_signal: NorthSignal | None = None
        self._masked = False
        self._owned: list[int] = []

    @property
    def tells_link(self) -> bool:
        """Whether the carrier comes by event."""
        return bool(self.eventq & EventCapability.LINKSTATE)

    @property
    def receives(self) -> int:
        """``ACCEPTS_...`` bits of what may come in: those of L4RO have the same numbers."""
        return self.l4ro if self.l4ro & SgCapability.SG else 0

    def alloc(self, size: int) -> tuple[int, memoryview]:
        """Memory of the arena until :meth:`free`.

        :raises VbusError: ENOMEM.
        """
        address = self.device.allocator.alloc(size)
        self._owned.append(address)
        return address, self.device.arena.slice(address, size)

    @property
    def mark(self) -> int:
        """Where the memory of the next group begins."""
        return len(self._owned)

    def free(self, mark: int = 0) -> None:
        """Give back everything since ``mark``."""
        for address in self._owned[mark:]:
            self.device.allocator.free(address)
        del self._owned[mark:]

    def guard(self, wakeup: Callable[[], None]) -> Callable[[], None]:
        """The same wakeup, but a ring that the host broke ends the interface; the fault goes on to the bridge."""

        def guarded() -> None:
            if self.dead:
                raise RingFault("another ring of this device is broken")
            try:
                wakeup()
            except RingFault as fault:
                self.dead = True
                self._broken(fault)
                raise

        return guarded

    # events

    def event_wakeup(self) -> None:
        """The host sent events (or says so): take at most 64.

        :raises RingFault: the host broke the ring.
        """
        if self._events is None or self._event_signal is None:
            return
        ring, pool = self._events
        signal = self._event_signal
        batch = ring.collect(EVENT_BUDGET)
        if batch:
            events = [bytes(pool[at : at + EVENT_BYTES]) for _, at, length in batch if length]
            ring.refill([Descriptor(index, at, EVENT_BYTES) for index, at, _ in batch])
            signal.inject()
            for event in events:
                self._event(event)
            if self.eventq & EventCapability.TXC:
                self.transmit.wakeup()
        if len(batch) == EVENT_BUDGET:
            self._masked = True
            signal.disable()
            signal.again()
        elif self._masked:
            self._masked = False
            signal.enable()

    def _event(self, data: bytes) -> None:
        try:
            event = decode_event(data)
        except WireError:
            self.counters["bad_event"] += 1
            return
        if isinstance(event, LinkState):
            self.carrier(event.up)
        else:
            self.transmit.completed(event.cookie)

    def create_events(self, count: int, variant: Variant) -> tuple[int, int, RxNorth]:
        """Make the event queue; its address, its pool's address, the ring."""
        pool_address, pool = self.alloc(count * EVENT_BYTES)
        address, view = self.alloc(ring_bytes(count, variant))
        ring = create_ring(view, count, Pattern.RX, self.device.fence, variant)
        ring.provide([Descriptor(index, index * EVENT_BYTES, EVENT_BYTES) for index in range(count)])
        self._events = (ring, pool)
        return address, pool_address, ring

    def events_ready(self, signal: NorthSignal | None) -> None:
        """The event queue is registered."""
        self._event_signal = signal
        if signal is not None:
            signal.enable()

    def no_events(self) -> None:
        """There is no event queue after all."""
        self.eventq = 0
        self._events = self._event_signal = None


Requests = Generator[Request, int, None]
"""A part of a bring-up."""


def bring_up(
    parts: VenetParts,
    config: VenetNorthConfig,
    on_frames: Callable[[list[Packet]], None],
    on_writable: Callable[[], None],
) -> Requests:
    """Everything up to, not including, LINKUP.

    :raises VbusError: what is not optional was refused, or the arena is too small.
    """
    device = parts.device
    variant = config.variant(device)
    yield device.open(VENET_VERSION)
    parts.sg = yield from _negotiate(device, CapabilityGroup.SG, config.sg)
    parts.eventq = yield from _negotiate(device, CapabilityGroup.EVENTQ, config.eventq)
    if parts.eventq:
        yield from _events(parts, config, variant)
    parts.l4ro = yield from _negotiate(device, CapabilityGroup.L4RO, config.l4ro)
    pool: memoryview | None = None
    if parts.receives:
        pool = yield from _large_receive(parts, config, variant)
    yield from _receive(parts, config, variant, pool, on_frames)
    yield from _transmit(parts, config, variant, on_writable)
    assert parts.receive.signal is not None
    parts.receive.signal.enable()
    yield device.call(VenetFunction.MACQUERY, parts.mac)


def _negotiate(device: ProxyDevice, group: CapabilityGroup, wanted: int) -> Generator[Request, int, int]:
    """NEGCAP; the bits agreed, 0 when it fails.  A host can only take bits away."""
    if not wanted:
        return 0
    data = bytearray(Capability(group, wanted).encode())
    try:
        yield device.call(VenetFunction.NEGCAP, data)
        return Capability.decode(bytes(data)).bits & wanted
    except VbusError:
        return 0


def _give_up(parts: VenetParts, group: CapabilityGroup, mark: int) -> Requests:
    """Negotiate a group to nothing, and give its memory back."""
    parts.counters[f"without_{group.name.lower()}"] += 1
    yield parts.device.call(VenetFunction.NEGCAP, bytearray(Capability(group, 0).encode()))
    parts.free(mark)


def _events(parts: VenetParts, config: VenetNorthConfig, variant: Variant) -> Requests:
    device, mark = parts.device, parts.mark
    data = bytearray(EventqQuery().encode())
    try:
        yield device.call(VenetFunction.EVQQUERY, data)
        answer = EventqQuery.decode(bytes(data))
        if answer.event_bytes != EVENT_BYTES:
            raise VbusError(EINVAL, f"events of {answer.event_bytes} bytes")
        address, pool_address, ring = parts.create_events(config.event_ring, variant)
        yield device.shm(answer.pool, pool_address, config.event_ring * EVENT_BYTES)
        request = device.shm(
            answer.queue,
            address,
            ring_bytes(config.event_ring, variant),
            signal=ring.signal,
            signal_offset=signal_offset(variant),
            on_wakeup=parts.guard(parts.event_wakeup),
        )
        yield request
        parts.events_ready(request.signal)
    except (VbusError, WireError):
        parts.no_events()
        yield from _give_up(parts, CapabilityGroup.EVENTQ, mark)


def _large_receive(
    parts: VenetParts, config: VenetNorthConfig, variant: Variant
) -> Generator[Request, int, memoryview | None]:
    """L4RO: data pool and page queue; the pool, ``None`` when it is given up."""
    device, mark = parts.device, parts.mark
    data = bytearray(L4roQuery().encode())
    try:
        yield device.call(VenetFunction.L4ROQUERY, data)
        answer = L4roQuery.decode(bytes(data))
        pool_address, pool = parts.alloc(config.rx_ring * MAX_SG_BYTES)
        yield device.shm(answer.pool, pool_address, len(pool))
        address, view = parts.alloc(ring_bytes(config.pages, variant))
        page_address, pages = parts.alloc(config.pages * config.page_bytes)
        ring = create_ring(view, config.pages, Pattern.TX, device.fence, variant)
        request = device.shm(answer.pages, address, len(view), signal=ring.signal, signal_offset=signal_offset(variant))
        yield request
        parts.pages = NorthPages(ring, pages, page_address, config.page_bytes)
        parts.pages.signal = request.signal
    except (VbusError, WireError):
        parts.l4ro = 0
        yield from _give_up(parts, CapabilityGroup.L4RO, mark)
        return None
    return pool


def _receive(
    parts: VenetParts,
    config: VenetNorthConfig,
    variant: Variant,
    pool: memoryview | None,
    on_frames: Callable[[list[Packet]], None],
) -> Requests:
    device, count, size = parts.device, config.rx_ring, config.receive_bytes
    buffer_address, buffers = parts.alloc(count * size)
    address, view = parts.alloc(ring_bytes(count, variant))
    ring = create_ring(view, count, Pattern.RX, device.fence, variant)
    receive = NorthReceive(
        ring, buffers, buffer_address, size, parts.counters, parts.traffic, on_frames, pool, parts.pages, parts.receives
    )
    receive.provide()
    request = device.shm(
        VenetRegion.RX,
        address,
        len(view),
        signal=ring.signal,
        signal_offset=signal_offset(variant),
        on_wakeup=parts.guard(receive.wakeup),
    )
    yield request
    receive.signal = request.signal
    parts.receive = receive


def _transmit(
    parts: VenetParts, config: VenetNorthConfig, variant: Variant, on_writable: Callable[[], None]
) -> Requests:
    device = parts.device
    count, size = config.transmit_buffers(parts.sg)
    buffer_address, buffers = parts.alloc(count * size)
    address, view = parts.alloc(ring_bytes(config.tx_ring, variant))
    ring = create_ring(view, config.tx_ring, Pattern.TX, device.fence, variant)
    transmit = NorthTransmit(ring, buffers, buffer_address, size, parts.counters, parts.traffic, on_writable)
    transmit.by_events = bool(parts.eventq & EventCapability.TXC)
    transmit.mtu = config.mtu
    transmit.fragment_bytes = config.tx_fragment_bytes
    request = device.shm(
        VenetRegion.TX,
        address,
        len(view),
        signal=ring.signal,
        signal_offset=signal_offset(variant),
        on_wakeup=parts.guard(transmit.wakeup),
    )
    yield request
    transmit.signal = request.signal
    parts.transmit = transmit
    if parts.sg & SgCapability.SG:
        pool_address, pool = parts.alloc(config.tx_ring * MAX_SG_BYTES)
        transmit.descriptors = pool
        transmit.descriptor_base = pool_address
        transmit.accepts = parts.sg & ~int(SgCapability.PMTD)
        if parts.sg & SgCapability.PMTD:
            try:
                region = yield device.call(VenetFunction.PMTDQUERY)
                yield device.shm(region, pool_address, len(pool))
                transmit.descriptor_base = 0
            except VbusError:
                parts.counters["without_pmtd"] += 1
