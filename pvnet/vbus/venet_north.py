"""The driver of a venet in a partition: bring-up, link, and the frames that go in and out.

:class:`VenetNorth` drives one device; :class:`VenetDriver` is for partitions that have several.  Bring-up follows the
original's order; each optional group (SG with PMTD, event queue, L4RO) that the host refuses, or for which the arena
has no room, is given up by negotiating it to nothing, and the rest goes on without it::

    open ▶ NEGCAP SG ▶ NEGCAP EVENTQ, query, pool, ring ▶ NEGCAP L4RO, query, pool, page ring ▶ rx ring ▶ tx ring
         ▶ PMTD pool ▶ MACQUERY ▶ LINKUP (unless ``up`` is false)

Frames come by :attr:`VenetNorth.on_frames`, as views that end with the call.  They go by :meth:`VenetNorth.send`, which
copies, or by :meth:`VenetNorth.tx_buffers` and :meth:`VenetNorth.commit`, by which a TAP reads straight into the arena.
Both take what fits; :attr:`VenetNorth.on_writable` says when more does.

A host that breaks a ring ends the interface: it goes down, is counted, and does nothing until the device is probed
again.  All memory is given back when the device is removed, after DEVCLOSE.

Doubt decided: without TXC the original always wants to be rung for completions; here only while somebody waits for a
free buffer, since nothing else depends on them.

Spec: vbus 8.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EBUSY, EEXIST, ENODEV
from pvnet.ring.errors import RingFault
from pvnet.ring.roles import Variant
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_driver import ProxyDevice, Request, Steps
from pvnet.vbus.packet import ETHERNET_HEADER, MAX_MTU, MAX_PACKET, MIN_MTU, VLAN_TAG, Offload, Packet
from pvnet.vbus.venet_bring_up import VenetParts, arena_bytes, bring_up, round_up
from pvnet.vbus.venet_layout import (
    DEFAULT_RING,
    L4RO_OFFER,
    MAX_RING,
    SG_OFFER,
    EventCapability,
    Traffic,
    VenetFunction,
)

SEGMENTATION: Final = 2 | 4 | 16
"""Bits TSO4, TSO6, UFO of the group SG: frames of 64 KiB may go out."""
LARGE_BUFFERS: Final = 64
"""Transmit buffers of 64 KiB, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class VenetNorthConfig:
    """How a partition uses a venet.

    :ivar rx_ring: receive buffers.
    :ivar tx_ring: entries of the transmit ring.
    :ivar event_ring: entries of the event queue.
    :ivar sg: bits wanted of the group SG; 0: flat frames.
    :ivar eventq: bits wanted of the group EVENTQ; 0: no event queue.  Not TXC, which the original asks for: each batch
        sent would wake its sender once more, for buffers that it finds at the next send anyway.
    :ivar l4ro: bits wanted of the group L4RO; 0: flat receive buffers.
    :ivar mtu: most bytes of a frame after its ethernet header.
    :ivar rx_bytes: bytes of a receive buffer, 0: for one frame of ``mtu``.
    :ivar tx_buffers: transmit buffers, at most ``tx_ring``; 0: 64 with segmentation, else ``tx_ring``.
    :ivar tx_fragment_bytes: cut sent frames in fragments of at most so many bytes, 0: do not.
    :ivar pages: pages lent for L4RO.
    :ivar page_bytes: bytes of each.
    :ivar ring_2026: use IOQ-2026 if the host agreed on it; every ring is a power of two then.
    :ivar up: LINKUP at the end of the bring-up.
    :raises ConfigError: a value out of range.
    """

    rx_ring: int = DEFAULT_RING
    tx_ring: int = DEFAULT_RING
    event_ring: int = DEFAULT_RING
    sg: int = SG_OFFER
    eventq: int = int(EventCapability.LINKSTATE)
    l4ro: int = L4RO_OFFER
    mtu: int = 1500
    rx_bytes: int = 0
    tx_buffers: int = 0
    tx_fragment_bytes: int = 0
    pages: int = 64
    page_bytes: int = 65536
    ring_2026: bool = False
    up: bool = True

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("rx_ring", "tx_ring", "event_ring", "pages")}
        for name, count in counts.items():
            if not 1 <= count <= MAX_RING or (self.ring_2026 and count & (count - 1)):
                raise ConfigError(f"venet {name} = {count}: expected 1 to {MAX_RING}, in IOQ-2026 a power of two")
        limits = {
            "mtu": (MIN_MTU, MAX_MTU),
            "tx_buffers": (0, self.tx_ring),
            "rx_bytes": (0, 1 << 24),
            "tx_fragment_bytes": (0, MAX_PACKET),
            "page_bytes": (1, 1 << 24),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"venet {name} = {getattr(self, name)}: expected {least} to {most}")

    @property
    def receive_bytes(self) -> int:
        """Bytes of a receive buffer, a multiple of 64."""
        return round_up(self.rx_bytes or self.mtu + ETHERNET_HEADER + VLAN_TAG)

    def transmit_buffers(self, agreed: int) -> tuple[int, int]:
        """Number and bytes of transmit buffers when ``agreed`` are the bits of the group SG."""
        large = bool(agreed & 1 and agreed & SEGMENTATION)
        count = self.tx_buffers or (min(LARGE_BUFFERS, self.tx_ring) if large else self.tx_ring)
        return count, MAX_PACKET if large else round_up(self.mtu + ETHERNET_HEADER)

    @property
    def arena_bytes(self) -> int:
        """The most memory of the arena that it takes."""
        return arena_bytes(self)

    def variant(self, device: ProxyDevice) -> Variant:
        """Ring layout to use with a device."""
        return Variant.IOQ_2026 if self.ring_2026 and device.allow_2026 else Variant.IOQ_2009


def _no_frames(_packets: list[Packet]) -> None:
    pass


def _nothing() -> None:
    pass


def _no_link(_up: bool) -> None:
    pass


class VenetNorth:
    """One venet of a partition; see the module's text."""

    def __init__(self, config: VenetNorthConfig | None = None) -> None:
        self.config = config if config is not None else VenetNorthConfig()
        self.counters = Counters()
        """What did not go through, and why."""
        self.traffic = Traffic()
        """What went through."""
        self.mac = bytes(6)
        """Address of the interface, from the bring-up on."""
        self.fault = ""
        """What the host broke, if it did."""
        self.link = False
        """Whether there is a carrier, as last told by :attr:`on_link`."""
        self.on_frames: Callable[[list[Packet]], None] = _no_frames
        """Gets frames, valid during the call."""
        self.on_writable: Callable[[], None] = _nothing
        """There is room again, after :meth:`send` took not all or :meth:`tx_buffers` had none."""
        self.on_link: Callable[[bool], None] = _no_link
        """The carrier came or went."""
        self.device: ProxyDevice | None = None
        """The device, between bring-up and removal."""
        self._parts: VenetParts | None = None
        self._left: list[VenetParts] = []
        self._is_up = False

    # bring-up and removal, run by VbusNorth

    def probe(self, device: ProxyDevice) -> Steps:
        """Bring the device up.

        :raises VbusError: the host refused what is not optional; EBUSY, this object has a device.
        """
        if self.device is not None:
            raise VbusError(EBUSY, "this interface has a device")
        self.device = device
        parts = VenetParts(device, self.counters, self.traffic, self._broken)
        parts.carrier = self._carrier
        try:
            yield from bring_up(parts, self.config, self._received, self._writable)
            self.mac = bytes(parts.mac)
            self._parts = parts
            if self.config.up:
                yield from self.ifup()
        except PvnetError:
            self._forget()
            if (yield from _close(device)):
                parts.free()
            else:
                self._left.append(parts)  # the host has it until remove() closes the device
            raise
        except GeneratorExit:
            self._forget()
            self._left.append(parts)
            raise

    def remove(self, device: ProxyDevice) -> Steps:
        """Take the device down and give all memory back."""
        was_up = False
        if self.device is device and self._parts is not None:
            was_up = self._is_up
            self._left.append(self._parts)
            self._forget()
        ours = [parts for parts in self._left if parts.device is device]
        if not ours:
            return
        try:
            if was_up:
                yield from _try(device.call(VenetFunction.LINKDOWN))
            yield from _close(device)
        finally:
            for parts in ours:
                self._left.remove(parts)
                parts.free()

    def ifup(self) -> Steps:
        """LINKUP.

        :raises VbusError: ENODEV without a device; EEXIST, it is up; the host refused.
        """
        parts = self._ready()
        if self._is_up:
            raise VbusError(EEXIST, "the link is up")
        self._is_up = True  # events may come before the call returns
        try:
            yield parts.device.call(VenetFunction.LINKUP)
        except VbusError:
            self._is_up = False
            raise
        if not parts.tells_link:
            self._carrier(True)
        self._writable()

    def ifdown(self) -> Steps:
        """LINKDOWN.

        :raises VbusError: ENODEV without a device; the host refused.
        """
        parts = self._ready()
        self._down()
        yield parts.device.call(VenetFunction.LINKDOWN)

    def flush(self) -> Steps:
        """FLUSHRX: the host gives every receive buffer back, empty.

        :raises VbusError: ENODEV without a device; EINVAL, the link is not up.
        """
        parts = self._ready()
        yield parts.device.call(VenetFunction.FLUSHRX)
        parts.guard(parts.receive.wakeup)()

    # frames

    @property
    def accepts(self) -> int:
        """``ACCEPTS_...`` bits of what may be sent; a TAP's offloads are set by it."""
        return 0 if self._parts is None else self._parts.transmit.accepts

    @property
    def receives(self) -> int:
        """``ACCEPTS_...`` bits of what may come in."""
        return 0 if self._parts is None else self._parts.receives

    @property
    def mtu(self) -> int:
        """Most bytes of a frame after its ethernet header."""
        return self.config.mtu

    def send(self, packets: Sequence[Packet]) -> int:
        """Copy packets out and send them; how many were taken, from the front (0 while the link is down).

        What is too long, or needs an offload that is not in :attr:`accepts`, is taken, counted and thrown away.
        """
        if self._parts is None or not self._is_up:
            return 0
        try:
            return self._parts.transmit.send(packets)
        except RingFault as fault:
            self._broken(fault)
            return 0

    def tx_buffers(self, wanted: int) -> list[memoryview]:
        """Up to ``wanted`` free buffers to write frames into; each holds the largest frame that may be sent."""
        if self._parts is None or not self._is_up:
            return []
        try:
            return self._parts.transmit.buffers(wanted)
        except RingFault as fault:
            self._broken(fault)
            return []

    def commit(self, frames: Sequence[tuple[int, int, Offload]]) -> None:
        """Send what was written into buffers of the last :meth:`tx_buffers`: (index in its list, bytes, offload).

        Indexes ascend; buffers left out stay free, as do those of frames that cannot be sent (counted).

        :raises LocalError: an index that was not offered, or not ascending.
        """
        if self._parts is None or not self._is_up:
            return
        try:
            self._parts.transmit.commit(frames)
        except RingFault as fault:
            self._broken(fault)

    @property
    def tx_outstanding(self) -> int:
        """Frames that the host has and did not say it took."""
        return 0 if self._parts is None else self._parts.transmit.out

    # what comes back from the parts

    def _received(self, packets: list[Packet]) -> None:
        if self._is_up:
            self.on_frames(packets)
        else:
            self.counters["rx_not_up"] += len(packets)

    def _writable(self) -> None:
        if self._is_up:
            self.on_writable()

    def _carrier(self, up: bool) -> None:
        up = up and self._is_up
        if up != self.link:
            self.link = up
            self.on_link(up)

    def _down(self) -> None:
        self._carrier(False)
        self._is_up = False

    def _broken(self, fault: RingFault) -> None:
        self.counters["faults"] += 1
        self.fault = str(fault)
        parts = self._parts
        self._down()
        if parts is not None and not parts.dead:
            parts.dead = True
            if parts.transmit.signal is not None:
                parts.transmit.signal.again()  # that wakeup raises, and the bridge takes the device down

    def _forget(self) -> None:
        self._down()
        self._parts = None
        self.device = None

    def _ready(self) -> VenetParts:
        if self._parts is None:
            raise VbusError(ENODEV, "the interface has no device")
        return self._parts


def _try(request: Request) -> Generator[Request, int, bool]:
    """A request whose refusal changes nothing; whether it succeeded."""
    try:
        yield request
    except VbusError:
        return False
    return True


def _close(device: ProxyDevice) -> Generator[Request, int, bool]:
    """DEVCLOSE if it is open; whether the host has certainly let go."""
    return not device.handle or (yield from _try(device.close()))


class VenetDriver:
    """Drives several venets, each with a :class:`VenetNorth` of its own.

    :param make: makes the interface for a device that the host announced.
    """

    def __init__(self, make: Callable[[ProxyDevice], VenetNorth]) -> None:
        self._make = make
        self.interfaces: dict[int, VenetNorth] = {}
        """Interfaces by device id."""

    def probe(self, device: ProxyDevice) -> Steps:
        """Bring a device up."""
        interface = self.interfaces[device.id] = self._make(device)
        yield from interface.probe(device)

    def remove(self, device: ProxyDevice) -> Steps:
        """Take a device down."""
        interface = self.interfaces.pop(device.id, None)
        if interface is not None:
            yield from interface.remove(device)
