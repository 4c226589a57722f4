"""CRQ pairs: registration, sending, transport events, and the hypervisor's own ends.

Every adapter with a queue is one end of a pair.  The other end, its *partner*, is an adapter of a partition (perhaps
the same one) or the hypervisor itself (:class:`HypervisorEnd`, whose queue is the caller of this module and never
full).  An end is in one of these states::

    free ──H_REG_CRQ──▶ registered ──H_FREE_CRQ──▶ closing ──H_FREE_CRQ──▶ free      (closing only while FREE is busy)
                        │      ▲
                Suspend ▼      │ H_ENABLE_CRQ
                        disabled

What one end learns of the other: H_CLOSED as an answer, or a transport event in its queue: FF 01 partner died, FF 02
partner deregistered, FF 06 suspended.  Events never need a free slot: they overlay the last entry, or wait to be first
(see :mod:`pvnet.papr.ring`).

**The hypervisor's own end** posts through an outbox that keeps order and holds back while half of the partition's queue
is unconsumed; it empties when the partition reports progress and is thrown away when the registration ends.

Doubts decided.  Both ends must be registered and neither disabled for an element to pass, else H_CLOSED.  An element
whose slot is not mapped counts as H_DROPPED.  H_FREE_CRQ of a queue that is not registered succeeds and tells nobody.
A hypervisor end is told of the suspension of its partner (as FF 06), because it has no answers to learn from.
Spec: vmc 2.1, 2.6, 3.8, 3.9, 6.2; LoPAR ch. 17.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_BOTH, PAGE_BYTES, DmaWindow, Refusal
from pvnet.papr.crq import ELEMENT_BYTES, TransportEventCode, encode_transport_event, from_words, is_sendable
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.platform_io import (
    AdapterConfig,
    DeliverCrq,
    FaultPoint,
    PartnerElement,
    PartnerRegistered,
    PlatformOutput,
    PlatformProfile,
    RaiseIrq,
)
from pvnet.papr.ring import MappedRing, RemoteRing, RingRefusal

QUEUE_MIN_BYTES: Final = 0x1000
QUEUE_MAX_BYTES: Final = 0x1000_0000
IRQ_ON: Final = 1
"""Bit of the H_VIO_SIGNAL mode that enables the queue's interrupt."""

_OK: Final = Answer(HcallRc.H_SUCCESS)
_BAD: Final = Answer(HcallRc.H_PARAMETER)


def take_fault(faults: dict[FaultPoint, tuple[int, int]], point: FaultPoint) -> int | None:
    """The answer that an armed fault forces now, counted down; ``None`` when none is armed."""
    armed = faults.pop(point, None)
    if armed is None:
        return None
    rc, count = armed
    if count > 1:
        faults[point] = (rc, count - 1)
    return rc


class HypervisorEnd:
    """The hypervisor's own end of a pair."""

    __slots__ = ("outbox", "registered")

    def __init__(self) -> None:
        self.registered = False
        self.outbox: deque[bytes] = deque()


class Adapter:
    """One virtual adapter at run time: its windows, its end of the CRQ pair, its armed faults."""

    def __init__(self, partition: str, config: AdapterConfig) -> None:
        self.partition = partition
        self.config = config
        self.unit = config.unit
        self.window = None if config.liobn is None else DmaWindow(config.liobn, config.window_bytes)
        self.partner: Adapter | HypervisorEnd | None = None
        self.faults: dict[FaultPoint, tuple[int, int]] = {}
        self.registration = 0
        self.closing = False
        self.disabled = False
        self.signal_mode = 0
        self.ioba = 0
        self.ring: MappedRing | RemoteRing | None = None
        self.held_event: bytes | None = None

    @property
    def registered(self) -> bool:
        """Whether the queue is registered."""
        return self.ring is not None

    @property
    def is_open(self) -> bool:
        """Whether the queue takes elements: registered and not disabled."""
        return self.ring is not None and not self.disabled

    @property
    def is_paired(self) -> bool:
        """Whether both ends are registered: then pane 2 may be used."""
        return self.registered and self.partner is not None and self.partner.registered

    @property
    def stalled(self) -> bool:
        """Whether the DELIVER fault is armed."""
        return FaultPoint.DELIVER in self.faults

    def has_queue_mapped(self) -> bool:
        """Whether every page of the registered queue is mapped for reading and writing."""
        if self.ring is None or self.window is None:
            return self.ring is None
        runs = self.window.translate(self.ioba, self.ring.slots * ELEMENT_BYTES, ACCESS_BOTH)
        return not isinstance(runs, Refusal)

    def take_fault(self, point: FaultPoint) -> int | None:
        """The answer that a fault forces now, or ``None``."""
        return take_fault(self.faults, point)


class VirtualIo:
    """The CRQ hcalls and events of one platform.

    :param pairing_changed: called when an end of a pair has been registered or freed (:attr:`Adapter.is_paired`).
    """

    def __init__(
        self,
        profile: PlatformProfile,
        emit: Callable[[PlatformOutput], None],
        counters: Counters,
        post_limit: int,
        pairing_changed: Callable[[], None],
    ) -> None:
        self._profile = profile
        self._emit = emit
        self._counters = counters
        self._post_limit = post_limit
        self._pairing_changed = pairing_changed
        self._waiting: dict[Adapter, None] = {}

    # -- hcalls: each gets the caller's adapter (None: no such unit), the call, the caller's memory if mapped ----------

    def reg_crq(self, adapter: Adapter | None, call: Call, segment: Segment | None) -> Answer:
        """H_REG_CRQ(unit, queue I/O address, length in bytes)."""
        ioba, length = call.args[1], call.args[2]
        if adapter is None or not self._is_good_queue(adapter, ioba, length):
            return _BAD
        if not adapter.config.crq or adapter.partner is None or adapter.window is None:
            return Answer(HcallRc.H_NOT_FOUND)
        if adapter.registered or adapter.closing:
            return Answer(HcallRc.H_RESOURCE)
        rc = adapter.take_fault(FaultPoint.REGISTER)
        if rc is not None:
            return Answer(rc)
        slots = length // ELEMENT_BYTES
        adapter.ring = (
            RemoteRing(adapter.window, ioba, slots)
            if segment is None
            else MappedRing(adapter.window, segment, ioba, slots)
        )
        self._pairing_changed()
        adapter.ioba = ioba
        adapter.registration += 1
        adapter.disabled = False
        self._reset_signal(adapter)
        if isinstance(adapter.partner, HypervisorEnd):
            self._emit(PartnerRegistered(adapter.partition, adapter.unit, slots))
        if self._profile.tells_closed and not adapter.partner.registered:
            return Answer(HcallRc.H_CLOSED)
        return _OK

    def _is_good_queue(self, adapter: Adapter, ioba: int, length: int) -> bool:
        profile = self._profile
        if not QUEUE_MIN_BYTES <= length <= QUEUE_MAX_BYTES or length % profile.queue_length_multiple:
            return False
        if ioba % PAGE_BYTES:
            return False
        if not profile.queue_must_be_mapped:
            return True
        window = adapter.window
        return window is not None and not isinstance(window.translate(ioba, length, ACCESS_BOTH), Refusal)

    def free_crq(self, adapter: Adapter | None) -> Answer:
        """H_FREE_CRQ(unit): closed at the first call, even when it has to be repeated; then the partner is told."""
        if adapter is None:
            return _BAD
        if not adapter.config.crq:
            return Answer(self._profile.no_crq_rcs[HcallOpcode.H_FREE_CRQ])
        if adapter.registered:
            self._close(adapter)
            adapter.closing = True
        rc = adapter.take_fault(FaultPoint.FREE)
        if rc is not None:
            return Answer(rc)
        if adapter.closing:
            adapter.closing = False
            self._tell_partner(adapter, TransportEventCode.PARTNER_DEREGISTERED)
        return _OK

    def send_crq(self, adapter: Adapter | None, call: Call) -> Answer:
        """H_SEND_CRQ(unit, bytes 0-7, bytes 8-15)."""
        if adapter is None:
            return _BAD
        if not adapter.config.crq:
            return Answer(self._profile.no_crq_rcs[HcallOpcode.H_SEND_CRQ])
        element = from_words(call.args[1], call.args[2])
        if self._profile.checks_header and not is_sendable(element):
            return _BAD
        rc = adapter.take_fault(FaultPoint.SEND)
        if rc is not None:
            return Answer(rc)
        partner = adapter.partner
        if self._profile.tells_closed and not (adapter.is_open and partner is not None and partner.registered):
            return Answer(HcallRc.H_CLOSED)
        if isinstance(partner, HypervisorEnd):
            self._emit(PartnerElement(adapter.partition, adapter.unit, element))
            return _OK
        rc = HcallRc.H_CLOSED if partner is None else self._send_to(partner, element)
        return Answer(rc) if self._profile.tells_closed else _OK

    def _send_to(self, partner: Adapter, element: bytes) -> HcallRc:
        if not partner.is_open:
            return HcallRc.H_CLOSED
        if partner.held_event is not None or isinstance(self._place(partner, element), RingRefusal):
            return HcallRc.H_DROPPED
        return HcallRc.H_SUCCESS

    def enable_crq(self, adapter: Adapter | None) -> Answer:
        """H_ENABLE_CRQ(unit): after a suspension; the ring goes on where it was."""
        if adapter is None:
            return _BAD
        if not adapter.config.crq:
            return Answer(self._profile.no_crq_rcs[HcallOpcode.H_ENABLE_CRQ])
        if self._profile.queue_must_be_mapped and not adapter.has_queue_mapped():
            return Answer(HcallRc.H_LONG_BUSY_ORDER_10_MSEC)
        rc = adapter.take_fault(FaultPoint.ENABLE)
        if rc is not None:
            return Answer(rc)
        adapter.disabled = False
        return _OK

    def vio_signal(self, adapter: Adapter | None, call: Call) -> Answer:
        """H_VIO_SIGNAL(unit, mode): switching on does not ring for what is in the queue already."""
        mode = call.args[1]
        if adapter is None or mode & ~adapter.config.signal_mask:
            return _BAD
        adapter.signal_mode = mode
        return _OK

    # -- what happens to a partition -------------------------------------------------------------------------------

    def died(self, adapters: Iterable[Adapter]) -> None:
        """The partition of these adapters died: partners get FF 01, everything else of it is forgotten."""
        registered = [adapter for adapter in adapters if adapter.registered or adapter.closing]
        for adapter in adapters:
            self._close(adapter)
            adapter.closing = False
            adapter.signal_mode = 0
            adapter.registration = 0
            if adapter.window is not None:
                adapter.window.clear()
        for adapter in registered:
            self._tell_partner(adapter, TransportEventCode.PARTNER_FAILED)

    def suspend(self, adapter: Adapter) -> None:
        """FF 06 into the adapter's queue, then closed until H_ENABLE_CRQ."""
        if not adapter.is_open:
            self._counters["suspend_ignored"] += 1
            return
        self._event(adapter, TransportEventCode.PARTNER_SUSPENDED)
        adapter.disabled = True
        if isinstance(adapter.partner, HypervisorEnd):
            adapter.partner.outbox.clear()
            self._tell_partner(adapter, TransportEventCode.PARTNER_SUSPENDED)

    def consumed(self, adapter: Adapter, registration: int, total: int) -> None:
        """The partition reports its progress; a report for another registration changes nothing."""
        ring = adapter.ring
        if ring is None or registration != adapter.registration or total < 0:
            self._counters["progress_stale"] += 1
            return
        if isinstance(ring, RemoteRing) and not ring.producer.consumed(total):
            self._counters["progress_impossible"] += 1
            self._note("progress_impossible", adapter, consumed=total)

    def flush(self) -> bool:
        """Deliver what waits for a queue; true when something waits for one whose progress nobody reports."""
        if not self._waiting:
            return False
        unreported = False
        for adapter in tuple(self._waiting):
            self._flush(adapter)
            outbox = adapter.partner.outbox if isinstance(adapter.partner, HypervisorEnd) else ()
            if adapter.held_event is None and not outbox:
                del self._waiting[adapter]
            elif isinstance(adapter.ring, MappedRing):
                unreported = True
        return unreported

    def _flush(self, adapter: Adapter) -> None:
        """A held event first, then the hypervisor's outbox."""
        if adapter.held_event is not None:
            if isinstance(self._place(adapter, adapter.held_event, again=True), RingRefusal):
                return
            adapter.held_event = None
        if isinstance(adapter.partner, HypervisorEnd):
            outbox = adapter.partner.outbox
            while outbox and adapter.ring is not None and not adapter.ring.is_half_full():
                if isinstance(self._place(adapter, outbox[0], again=True), RingRefusal):
                    break
                outbox.popleft()

    # -- the hypervisor's own end ----------------------------------------------------------------------------------

    def partner_register(self, adapter: Adapter) -> None:
        """The hypervisor's own end comes up."""
        _hypervisor_end(adapter).registered = True
        self._pairing_changed()

    def partner_free(self, adapter: Adapter, code: TransportEventCode) -> None:
        """The hypervisor's own end goes: the partition gets the event, posted elements are thrown away."""
        end = _hypervisor_end(adapter)
        end.outbox.clear()
        if end.registered:
            end.registered = False
            self._pairing_changed()
            if adapter.registered:
                self._event(adapter, code)

    def partner_post(self, adapter: Adapter, element: bytes) -> bool:
        """The hypervisor's own end sends; false when the connection is closed or the outbox is full (counted)."""
        end = _hypervisor_end(adapter)
        if len(element) != ELEMENT_BYTES or not is_sendable(element):
            raise LocalError(f"element {element.hex()}: expected 16 bytes with a header of 0x80 to 0xFE")
        if not (adapter.is_open and end.registered):
            self._counters["post_closed"] += 1
            return False
        if not self._profile.holds_back:
            if isinstance(self._place(adapter, element), RingRefusal):
                self._counters["post_lost"] += 1
                return False
            return True
        if len(end.outbox) >= self._post_limit:
            self._counters["post_refused"] += 1
            self._note("post_refused", adapter, waiting=len(end.outbox))
            return False
        end.outbox.append(element)
        self._waiting[adapter] = None
        return True

    # -- one place for everything that enters a queue --------------------------------------------------------------

    def _place(self, adapter: Adapter, element: bytes, *, again: bool = False) -> int | RingRefusal:
        """Put an element into the adapter's queue and ring, or say why not (counted unless tried ``again``)."""
        if adapter.ring is None or adapter.stalled:
            return RingRefusal.FULL
        slot = adapter.ring.place(element)
        if not isinstance(slot, RingRefusal):
            self._stored(adapter, slot, element)
        elif not again:
            self._counters[f"crq_{slot.value}"] += 1
        return slot

    def _stored(self, adapter: Adapter, slot: int, element: bytes) -> None:
        irq = bool(adapter.signal_mode & IRQ_ON)
        if isinstance(adapter.ring, RemoteRing):
            self._emit(DeliverCrq(adapter.partition, adapter.unit, adapter.registration, slot, element, irq))
        elif irq:
            self._emit(RaiseIrq(adapter.partition, adapter.unit))

    def _event(self, adapter: Adapter, code: TransportEventCode) -> None:
        """Put a transport event into the queue of a registered adapter; an event never waits for a free slot twice."""
        element = encode_transport_event(code)
        if adapter.held_event is not None:
            adapter.held_event = element
            return
        placed = self._place(adapter, element)
        if placed is RingRefusal.FULL and isinstance(adapter.ring, MappedRing) and not adapter.stalled:
            placed = adapter.ring.overlay(element)
            if not isinstance(placed, RingRefusal):
                self._counters["crq_overlaid"] += 1
                self._stored(adapter, placed, element)
        if isinstance(placed, RingRefusal):
            adapter.held_event = element
            self._waiting[adapter] = None
            self._note("event_held", adapter, code=int(code))

    def _tell_partner(self, adapter: Adapter, code: TransportEventCode) -> None:
        partner = adapter.partner
        if isinstance(partner, HypervisorEnd):
            if partner.registered:
                self._emit(PartnerElement(adapter.partition, adapter.unit, encode_transport_event(code)))
        elif partner is not None and partner.registered:
            self._event(partner, code)

    def _close(self, adapter: Adapter) -> None:
        adapter.ring = None
        self._pairing_changed()
        adapter.disabled = False
        adapter.held_event = None
        self._reset_signal(adapter)
        if isinstance(adapter.partner, HypervisorEnd):
            adapter.partner.outbox.clear()

    def _reset_signal(self, adapter: Adapter) -> None:
        if not self._profile.signal_mode_survives:
            adapter.signal_mode = 0

    def _note(self, event: str, adapter: Adapter, **fields: int) -> None:
        where = (("partition", adapter.partition), ("unit", adapter.unit))
        self._emit(Note(event, where + tuple(fields.items()), "warning"))


def _hypervisor_end(adapter: Adapter) -> HypervisorEnd:
    if not isinstance(adapter.partner, HypervisorEnd):
        raise LocalError(f"unit {adapter.unit:#x} of {adapter.partition}: its partner is not the hypervisor")
    return adapter.partner
