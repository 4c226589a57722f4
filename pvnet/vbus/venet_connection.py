"""One guest's use of a venet: its devcalls, its regions, and the state of the link.

::

    opened ──NEGCAP, regions──▶ opened ──LINKUP──▶ up ◀──LINKDOWN, LINKUP──▶ down
                                           (from here on what was agreed is frozen)

What goes through the rings is in :mod:`~pvnet.vbus.venet_transmit`, :mod:`~pvnet.vbus.venet_receive` and
:mod:`~pvnet.vbus.venet_events`; this file joins them.  A guest that breaks a ring ends its connection: the fault goes
to the host, wherever it shows, also when a frame of somebody else is being delivered.

Doubts decided: what was agreed stays frozen also after LINKDOWN.  LINKUP wants every region that the agreed features
need (A33); only the pool of PMTD may be missing, then the transmit ring names descriptors by address.  A second
registration is EEXIST, also after LINKUP, where any other is EINVAL.

Spec: vbus 8.1, 8.2, 8.3, 8.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pvnet.papr.errno import EEXIST, EINVAL, EIO, ENOENT
from pvnet.ring.errors import RingError, RingFault
from pvnet.ring.roles import Pattern, RxSouth, TxSouth, attach_ring
from pvnet.vbus.device import ConnectionHost, Region, SouthSignal
from pvnet.vbus.errors import VbusError
from pvnet.vbus.packet import Packet
from pvnet.vbus.venet_events import VenetEvents
from pvnet.vbus.venet_layout import (
    CAPABILITY,
    EVENT_BYTES,
    MAX_RING,
    MAX_SG_BYTES,
    OFFER,
    QUERY_BYTES,
    CapabilityGroup,
    EventCapability,
    EventqQuery,
    L4roQuery,
    SgCapability,
    VenetFunction,
    VenetRegion,
)
from pvnet.vbus.venet_receive import VenetReceive
from pvnet.vbus.venet_transmit import VenetTransmit

if TYPE_CHECKING:
    from pvnet.vbus.venet_south import VenetDevice

_RINGS: Final = frozenset({VenetRegion.RX, VenetRegion.TX, VenetRegion.EVENT_QUEUE, VenetRegion.L4RO_PAGES})


class VenetConnection:
    """An opened venet; see :class:`pvnet.vbus.device.Connection`."""

    def __init__(self, device: VenetDevice, host: ConnectionHost) -> None:
        self._device = device
        self._host = host
        self._agreed = dict.fromkeys(CapabilityGroup, 0)
        self._regions: dict[int, Region] = {}
        self._rx: VenetReceive | None = None
        self._tx: VenetTransmit | None = None
        self._events: VenetEvents | None = None
        self._event_ring: RxSouth | None = None
        self._pages: TxSouth | None = None
        self._frozen = False
        self._closed = False
        self.accepts = 0
        """Offloads that the guest takes: the numbers of the L4RO bits are those of ``ACCEPTS_...``."""
        self.is_up = False
        """Between LINKUP and LINKDOWN."""
        self._calls = {
            VenetFunction.LINKUP: self._link_up,
            VenetFunction.LINKDOWN: self._link_down,
            VenetFunction.MACQUERY: self._mac_query,
            VenetFunction.NEGCAP: self._negotiate,
            VenetFunction.FLUSHRX: self._flush_rx,
            VenetFunction.PMTDQUERY: lambda _: int(VenetRegion.PMTD_POOL),
            VenetFunction.EVQQUERY: self._event_query,
            VenetFunction.L4ROQUERY: self._l4ro_query,
        }

    def agreed(self, group: CapabilityGroup) -> int:
        """Bits agreed in a group."""
        return self._agreed[group]

    # devcalls

    def call(self, func: int, data: memoryview, flags: int) -> int:
        """Run devcall ``func``.

        :raises VbusError: as the table of vbus 8.1 says; EIO when the guest's ring turns out to be broken.
        """
        handler = self._calls.get(func)  # type: ignore[call-overload]
        if handler is None or flags or self._closed:
            raise VbusError(EINVAL, f"venet has no function {func} with flags {flags:#x}")
        try:
            result: int = handler(data)
        except RingFault as fault:
            self._fault(fault)
            raise VbusError(EIO, str(fault)) from None
        return result

    def _link_up(self, _data: memoryview) -> int:
        if self.is_up:
            raise VbusError(EEXIST, "the link is up")
        self._check_complete()
        rx, tx, events = self._rx, self._tx, self._events
        assert rx is not None
        assert tx is not None
        self._frozen = True
        tx.agreed = self._agreed[CapabilityGroup.SG]
        pool = self._regions.get(VenetRegion.PMTD_POOL) if tx.agreed & SgCapability.PMTD else None
        tx.pool = None if pool is None else pool.view
        if self._agreed[CapabilityGroup.EVENTQ] & EventCapability.TXC:
            tx.events = events
        rx.agreed = self.accepts
        if rx.agreed:
            rx.pool = self._regions[VenetRegion.L4RO_POOL].view
            rx.pages = self._pages
        self.is_up = True
        self._apply_settings()
        self._announce(self._device.carrier)
        self._host.defer(self._transmit_wakeup)  # whatever the guest queued before
        return 0

    def _check_complete(self) -> None:
        """Whether every region is there that the agreed features need; raises EINVAL."""
        needed = {VenetRegion.RX, VenetRegion.TX}
        if self._agreed[CapabilityGroup.EVENTQ]:
            needed |= {VenetRegion.EVENT_POOL, VenetRegion.EVENT_QUEUE}
        if self.accepts:
            needed |= {VenetRegion.L4RO_POOL, VenetRegion.L4RO_PAGES}
        missing = sorted(needed - self._regions.keys())
        if missing:
            raise VbusError(EINVAL, f"region {missing[0]} is not registered")

    def _link_down(self, _data: memoryview) -> int:
        if not self.is_up:
            raise VbusError(ENOENT, "the link is not up")
        self._take_down()
        return 0

    def _take_down(self) -> None:
        self.is_up = False
        if self._rx is not None:
            self._rx.discard()
        if self._tx is not None:
            self._tx.discard()

    def _mac_query(self, data: memoryview) -> int:
        if len(data) != len(self._device.client_mac):
            raise VbusError(EINVAL, f"MACQUERY of {len(data)} bytes")
        data[:] = self._device.client_mac
        return 0

    def _negotiate(self, data: memoryview) -> int:
        if len(data) != CAPABILITY.size or self._frozen:
            raise VbusError(EINVAL, "NEGCAP: 8 bytes, before the link is up")
        group, bits = CAPABILITY.unpack(data)
        agreed = bits & OFFER.get(group, 0)
        if group in OFFER:
            self._agreed[CapabilityGroup(group)] = agreed
            large = self._agreed[CapabilityGroup.L4RO]
            self.accepts = large if large & SgCapability.SG else 0
        CAPABILITY.pack_into(data, 0, group, agreed)
        return 0

    def _flush_rx(self, _data: memoryview) -> int:
        if not self.is_up or self._rx is None:
            raise VbusError(EINVAL, "FLUSHRX: the link is not up")
        self._rx.flush()
        return 0

    def _event_query(self, data: memoryview) -> int:
        self._check_query(data)
        answer = EventqQuery(0, EVENT_BYTES, VenetRegion.EVENT_POOL, VenetRegion.EVENT_QUEUE)
        data[:] = answer.encode()
        return 0

    def _l4ro_query(self, data: memoryview) -> int:
        self._check_query(data)
        data[:] = L4roQuery(0, VenetRegion.L4RO_POOL, VenetRegion.L4RO_PAGES).encode()
        return 0

    def _check_query(self, data: memoryview) -> None:
        if len(data) != QUERY_BYTES or any(data[:4]) or self._frozen:
            raise VbusError(EINVAL, "a query: 32 bytes, flags 0, before the link is up")

    # regions

    def shm(self, id: int, region: Region, flags: int) -> None:  # noqa: A002
        """Register a region.

        :raises VbusError: EINVAL, unknown id, wrong size, wrong presence of a signal, a feature that was not agreed, a
            ring that is none, after LINKUP; EEXIST, registered already.
        """
        if id in self._regions:
            raise VbusError(EEXIST, f"region {id} is registered")
        if flags or id not in VenetRegion.__members__.values() or self._frozen or self._closed:
            raise VbusError(EINVAL, f"region {id}: unknown, flags, or too late")
        if (region.signal is not None) != (id in _RINGS):
            raise VbusError(EINVAL, f"region {id} with a signal: {region.signal is not None}")
        try:
            self._register(VenetRegion(id), region)
        except RingError as error:
            raise VbusError(EINVAL, f"region {id}: {error}") from None
        self._regions[id] = region

    def _register(self, id: VenetRegion, region: Region) -> None:  # noqa: A002
        sg = self._agreed[CapabilityGroup.SG]
        length, signal = region.length, region.signal
        if id is VenetRegion.PMTD_POOL:
            agreed = bool(sg & SgCapability.SG and sg & SgCapability.PMTD)
            slots, rest = divmod(length, MAX_SG_BYTES)
            fits = not rest and (0 < slots <= MAX_RING if self._tx is None else slots == self._tx.count)
        elif id is VenetRegion.EVENT_POOL:
            agreed = self._agreed[CapabilityGroup.EVENTQ] != 0
            fits = 0 < length <= MAX_RING * EVENT_BYTES
        elif id is VenetRegion.L4RO_POOL:
            agreed = self.accepts != 0
            fits = 0 < length <= MAX_RING * MAX_SG_BYTES
        else:
            assert signal is not None
            self._register_ring(id, region, signal)
            return
        if not agreed or not fits:
            raise VbusError(EINVAL, f"{id.name} of {length} bytes: {'wrong size' if agreed else 'not agreed'}")

    def _register_ring(self, id: VenetRegion, region: Region, signal: SouthSignal) -> None:  # noqa: A002
        host, device = self._host, self._device
        if id is VenetRegion.RX:
            ring = self._attach_rx(region, signal)
            self._rx = VenetReceive(ring, signal, host.arena, device.counters, device.traffic)
            signal.on_wakeup = self._guard(self._rx.wakeup)
        elif id is VenetRegion.TX:
            queue = self._attach_tx(region, signal)
            pool = self._regions.get(VenetRegion.PMTD_POOL)
            if pool is not None and pool.length != queue.count * MAX_SG_BYTES:
                raise VbusError(EINVAL, f"ring of {queue.count} for a pool of {pool.length} bytes")
            self._tx = VenetTransmit(queue, signal, host.arena, device.counters, device.traffic, self._received)
            signal.on_wakeup = self._transmit_wakeup
            signal.enable()
        elif id is VenetRegion.EVENT_QUEUE:
            pool = self._regions.get(VenetRegion.EVENT_POOL)
            if not self._agreed[CapabilityGroup.EVENTQ] or pool is None:
                raise VbusError(EINVAL, "an event queue that was not agreed, or without its pool")
            ring = self._attach_rx(region, signal)
            if pool.length != ring.count * EVENT_BYTES:
                raise VbusError(EINVAL, f"event queue of {ring.count} for a pool of {pool.length} bytes")
            self._event_ring = ring
            self._events = VenetEvents(ring, signal, pool.view, device.counters, self._event_room)
            signal.on_wakeup = self._guard(self._events.wakeup)
        else:
            if not self.accepts or VenetRegion.L4RO_POOL not in self._regions:
                raise VbusError(EINVAL, "L4RO was not agreed, or its pool is missing")
            self._pages = self._attach_tx(region, signal)

    def _attach_rx(self, region: Region, signal: SouthSignal) -> RxSouth:
        host = self._host
        return attach_ring(region.view, Pattern.RX, host.fence, MAX_RING, host.allow_2026, signal.shm)

    def _attach_tx(self, region: Region, signal: SouthSignal) -> TxSouth:
        host = self._host
        return attach_ring(region.view, Pattern.TX, host.fence, MAX_RING, host.allow_2026, signal.shm)

    # traffic

    def deliver(self, packets: list[Packet]) -> int:
        """Packets for the guest: how many were taken.  Never raises: the caller serves somebody else."""
        if not self.is_up or self._rx is None or not self._device.carrier:
            return 0
        try:
            return self._rx.deliver(packets)
        except RingFault as fault:
            self._fault(fault)
            return 0

    def _received(self, packets: list[Packet]) -> None:
        self._device.receive(packets)

    def _transmit_wakeup(self) -> None:
        if not self.is_up or self._tx is None:
            return
        try:
            self._tx.wakeup()
        except RingFault as fault:
            self._fault(fault)

    def _event_room(self) -> None:
        self._host.defer(self._transmit_wakeup)

    def _guard(self, wakeup: Callable[[], None]) -> Callable[[], None]:
        """Make a wakeup that does nothing when closed and turns the ring's fault into the connection's."""

        def guarded() -> None:
            if self._closed:
                return
            try:
                wakeup()
            except RingFault as fault:
                self._fault(fault)

        return guarded

    def _fault(self, fault: RingFault) -> None:
        self.is_up = False
        if not self._closed:
            self._closed = True
            self._device.counters["faults"] += 1
            self._host.fault(str(fault))

    # settings and lifetime

    def settings_changed(self) -> None:
        """The device's attributes changed."""
        self._apply_settings()

    def carrier_changed(self, carrier: bool) -> None:
        """Somebody plugged the cable in or out."""
        self._apply_settings()
        if self.is_up:
            try:
                self._announce(carrier)
            except RingFault as fault:
                self._fault(fault)

    def _apply_settings(self) -> None:
        if self._tx is not None:
            self._tx.mtu = self._device.mtu
            self._tx.mitigation = self._device.txmitigation
            self._tx.carrier = self._device.carrier

    def _announce(self, carrier: bool) -> None:
        if self._agreed[CapabilityGroup.EVENTQ] & EventCapability.LINKSTATE and self._events is not None:
            self._events.link_state(carrier)

    def close(self) -> None:
        """Stop; the device can be opened again."""
        if self.is_up:
            try:
                self._take_down()
            except RingFault:
                self._device.counters["faults"] += 1
        self._closed = True
        self._device.disconnected(self)

    def release(self) -> None:
        """Let go of every region."""
        self._rx = self._tx = self._events = self._event_ring = self._pages = None
        self._regions.clear()
