"""The host's way of a guest's frames: from its transmit ring to whoever receives for the device.

One pass takes up to 64 descriptors, in groups of ``txmitigation``; a group is judged, handed on in one call, completed
and signalled once.  The frames are not copied: a :class:`~pvnet.vbus.packet.Packet` is made of views of the guest's
arena, valid while ``receive`` runs, and whoever takes a packet copies it once into its own guest's memory.  What the
descriptors say *is* copied, judged by :mod:`pvnet.vbus.venet_checks`, and never read again.

A descriptor that is bad is counted and completed like any other.  With TXC a completion is also an event; while as many
cookies wait for event slots as the ring has entries, nothing more is taken.

Spec: vbus 8.4, 8.8 (guest to host), 11 (A6, A8, A31, A35).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import TxSouth
from pvnet.vbus.arena import Arena
from pvnet.vbus.device import SouthSignal
from pvnet.vbus.packet import Packet
from pvnet.vbus.venet_checks import BadPacket, check_flat, check_iovs, check_sg_head, check_sg_size
from pvnet.vbus.venet_events import VenetEvents
from pvnet.vbus.venet_layout import IOVS, MIN_SG_BYTES, SG_HEAD, SG_HEAD_BYTES, SG_ONE, Traffic

BUDGET: Final = 64
"""Descriptors per pass; the rest runs after everything else that is due."""


class VenetTransmit:
    """Takes the guest's frames.

    :param receive: gets each group of packets.
    """

    def __init__(
        self,
        ring: TxSouth,
        signal: SouthSignal,
        arena: Arena,
        counters: Counters,
        traffic: Traffic,
        receive: Callable[[list[Packet]], None],
    ) -> None:
        self._ring = ring
        self._signal = signal
        self._view = arena.view
        self._base = arena.base
        self._size = len(arena.view)
        self._counters = counters
        self._traffic = traffic
        self._receive = receive
        self.pool: memoryview | None = None
        """The pre-mapped descriptors (PMTD), when the guest registered them."""
        self.events: VenetEvents | None = None
        """Where completions are told; ``None``: by the ring's own signal (no TXC)."""
        self.agreed = 0
        """Capability bits of the group SG; 0: flat frames."""
        self.mtu = 1500
        self.mitigation = 10
        self.carrier = True
        """Without it frames are taken and thrown away."""
        self._masked = False

    @property
    def count(self) -> int:
        """Entries of the ring."""
        return self._ring.count

    def wakeup(self) -> None:
        """The guest rang, or a budget goes on: take what is there.

        :raises RingFault: the guest broke the ring.
        """
        budget = BUDGET
        events = self.events
        while budget:
            most = min(budget, self.mitigation or 1)
            if events is not None:
                most = min(most, self._ring.count - events.waiting)
                if not most:
                    return self._unmask()  # goes on when the events have been taken
            batch = self._ring.take(most)
            if not batch:
                return self._unmask()
            self._group(batch)
            budget -= len(batch)
            if len(batch) < most:  # whatever came since, the signal says so
                return self._unmask()
        self._masked = True
        self._signal.disable()
        self._signal.again()
        return None

    def discard(self) -> None:
        """The link went down: give back everything without sending it, at most one ring full."""
        batch = self._ring.take(self._ring.count - (0 if self.events is None else self.events.waiting))
        if batch:
            self._counters["tx_discarded"] += len(batch)
            _, cookies = self._packets(batch) if self.agreed & 1 else self._flat_packets(batch)
            self._complete(batch, cookies)
        self._unmask()

    def _unmask(self) -> None:
        if self._masked:
            self._masked = False
            self._signal.enable()

    def _group(self, batch: list[Descriptor]) -> None:
        """Judge, hand on and complete one group."""
        packets, cookies = self._packets(batch) if self.agreed & 1 else self._flat_packets(batch)
        if packets:
            if self.carrier:
                traffic = self._traffic
                traffic.tx_packets += len(packets)
                traffic.tx_bytes += sum([packet.length for packet in packets])
                self._receive(packets)
            else:
                self._counters["tx_no_carrier"] += len(packets)
        self._complete(batch, cookies)

    def _complete(self, batch: list[Descriptor], cookies: list[int]) -> None:
        self._ring.complete(len(batch))
        if self.events is None:
            self._signal.inject()
        else:
            self.events.complete(cookies)

    def _flat_packets(self, batch: list[Descriptor]) -> tuple[list[Packet], list[int]]:
        packets: list[Packet] = []
        cookies: list[int] = []
        view, base, size = self._view, self._base, self._size
        for cookie, address, length in batch:
            cookies.append(cookie)
            start = address - base
            bad = check_flat(length, self.mtu)
            if bad is not None:
                self._refuse(bad)
            elif start < 0 or start + length > size:
                self._refuse(BadPacket.ADDRESS)
            else:
                packets.append(Packet((view[start : start + length],), length))
        return packets, cookies

    def _packets(self, batch: list[Descriptor]) -> tuple[list[Packet], list[int]]:
        """Packets of the descriptors that are good, and the cookies of all of them."""
        packets: list[Packet] = []
        cookies: list[int] = []
        view, base, size = self._view, self._base, self._size
        mtu, agreed = self.mtu, self.agreed
        if self.pool is None:
            source, source_base, source_size = view, base, size
        else:
            source, source_base, source_size = self.pool, 0, len(self.pool)
        for ring_cookie, pointer, length in batch:
            at = pointer - source_base
            bad = check_sg_size(length)
            if bad is not None or at < 0 or at + length > source_size:
                cookies.append(ring_cookie)
                self._refuse(bad or BadPacket.ADDRESS)
                continue
            if length == MIN_SG_BYTES:
                copied = SG_ONE.unpack_from(source, at)
                head, fields = copied[:11], copied[11:]
            else:
                head = SG_HEAD.unpack_from(source, at)
                fields = None
            cookies.append(head[0])
            offload = check_sg_head(head, length, mtu, agreed)
            if isinstance(offload, BadPacket):
                self._refuse(offload)
                continue
            total = head[2]
            if head[10] == 1:
                if fields is None:
                    fields = IOVS[1].unpack_from(source, at + SG_HEAD_BYTES)
                piece, pad, address = fields
                start = address - base
                if piece != total or pad:
                    self._refuse(BadPacket.PAD if pad else BadPacket.SUM)
                elif start < 0 or start + piece > size:
                    self._refuse(BadPacket.ADDRESS)
                else:
                    packets.append(Packet((view[start : start + piece],), total, offload))
                continue
            fields = IOVS[head[10]].unpack_from(source, at + SG_HEAD_BYTES)
            bad = check_iovs(fields, total)
            if bad is not None:
                self._refuse(bad)
                continue
            frags = []
            for piece, address in zip(fields[0::3], fields[2::3], strict=True):
                start = address - base
                if start < 0 or start + piece > size:
                    self._refuse(BadPacket.ADDRESS)
                    break
                frags.append(view[start : start + piece])
            else:
                packets.append(Packet(tuple(frags), total, offload))
        return packets, cookies

    def _refuse(self, bad: BadPacket) -> None:
        self._counters["tx_errors"] += 1
        self._counters[bad.value] += 1
