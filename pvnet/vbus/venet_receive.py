"""The host's way of frames to a guest: into the buffers that its receive ring lends.

A frame goes straight from its sender's memory into a free buffer.  When there is none, a copy waits here, at most as
many as the ring has entries, and the guest is asked to ring when it has given buffers back; what is beyond that is not
taken, and the switch counts it.  Two kinds of buffers:

* **flat**: address and length.  A frame that is longer than the buffer is counted and thrown away, the buffer stays.
  There is no place for an offload, so a flat guest gets finished frames only.
* **L4RO**: the ring names a packet descriptor in the data pool, with one fragment for frames of usual size; a larger
  frame goes on in pages that the guest lends in a second ring, at most 18 pieces in all.  Of a lent page the host tells
  the guest its cookie (in ``ptr``), not its address.  When pages run out the frame waits as if there were no buffer,
  as long as the guest has frames to look at (it will bring pages back with them); if it has none, it does not lend any,
  and the frame is thrown away.

What a guest says about its buffers is copied once and checked against its arena or pool; a buffer that is not there
goes back with length 0, which is what "recycle" looks like, and is counted.

Spec: vbus 8.6, 8.8 (host to guest), 11 (A6, A8, A27, A34).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import RxSouth, TxSouth
from pvnet.vbus.arena import Arena
from pvnet.vbus.device import SouthSignal
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Packet
from pvnet.vbus.venet_checks import GSO_TYPES, SG_GSO_TYPES
from pvnet.vbus.venet_layout import (
    IOV,
    IOV_BYTES,
    IOVS,
    MAX_FRAGMENTS,
    MAX_SG_BYTES,
    MIN_SG_BYTES,
    SG_HEAD,
    SG_HEAD_BYTES,
    SG_ONE,
    SgCapability,
    SgFlag,
    Traffic,
)

BUDGET: Final = 64
"""Waiting frames that are placed per pass."""
_NOT_PLACED: Final = -1
"""The frame is thrown away, the buffer stays."""
_NO_PAGES: Final = -2
"""There are not enough pages for the frame now."""
_BAD_BUFFER: Final = 0
"""The buffer goes back as it is."""
_WAIT: Final = frozenset({_NO_PAGES, _BAD_BUFFER})
_GSO: Final = int(SgFlag.GSO)
_ECN: Final = int(SgFlag.ECN)
_NEEDS_CSUM: Final = int(SgFlag.NEEDS_CSUM)
_ECN_BIT: Final = int(SgCapability.ECN)
_GSO_BITS: Final = {SG_GSO_TYPES[kind]: bit for kind, bit in GSO_TYPES.values()}


class VenetReceive:
    """Fills the guest's buffers.

    :param ring: the receive ring, attached.
    """

    def __init__(self, ring: RxSouth, signal: SouthSignal, arena: Arena, counters: Counters, traffic: Traffic) -> None:
        self._ring = ring
        self._signal = signal
        self._view = arena.view
        self._base = arena.base
        self._size = len(arena.view)
        self._counters = counters
        self._traffic = traffic
        self._held: list[Descriptor] = []
        self._backlog: deque[Packet] = deque()
        self._armed = False
        self.pool: memoryview | None = None
        """L4RO data pool; ``None``: flat buffers."""
        self.pages: TxSouth | None = None
        """L4RO page queue."""
        self.agreed = 0
        """Capability bits of the group L4RO."""
        self._lent: deque[Descriptor] = deque()

    def deliver(self, packets: list[Packet]) -> int:
        """Place packets, keep copies of what has no buffer, signal once; return how many were taken.

        :raises RingFault: the guest broke a ring.
        """
        if not self._backlog:
            taken = self._place(packets)
            if taken == len(packets):
                return taken
        else:
            taken = 0
        room = self._ring.count - len(self._backlog)
        kept = packets[taken : taken + room]
        self._backlog.extend([packet.copy() for packet in kept])
        self._counters["rx_queued"] += len(kept)
        if not self._armed:
            self._armed = True
            self._signal.enable()
        return taken + len(kept)

    def wakeup(self) -> None:
        """The guest gave buffers back (or says so): place what waits.

        :raises RingFault: the guest broke a ring.
        """
        backlog = self._backlog
        if backlog:
            batch = list(islice(backlog, BUDGET))
            placed = self._place(batch)
            for _ in range(placed):
                backlog.popleft()
            if backlog and placed == len(batch):
                self._signal.again()
        if not backlog and self._armed:
            self._armed = False
            self._signal.disable()

    def discard(self) -> None:
        """The link went down: forget what waits."""
        self._counters["rx_discarded"] += len(self._backlog)
        self._backlog.clear()
        if self._armed:
            self._armed = False
            self._signal.disable()

    def flush(self) -> None:
        """Give every buffer back with length 0 and no signal (FLUSHRX).

        :raises RingFault: the guest broke the ring.
        """
        self._held += self._ring.take(self._ring.count - len(self._held))
        self._ring.fill([0] * len(self._held))
        self._held.clear()

    def _place(self, packets: Iterable[Packet]) -> int:
        """Put packets into free buffers and publish them; return how many were dealt with."""
        taken = 0
        lengths: list[int] = []
        held = self._held
        place = self._place_flat if self.pool is None else self._place_large
        budget = 2 * self._ring.count  # a guest that returns bad buffers as fast as it gets them does not hold us
        placed = octets = 0
        for packet in packets:
            result = _BAD_BUFFER
            while result == _BAD_BUFFER:
                if len(lengths) == len(held):
                    more = self._ring.take(min(BUDGET, budget))
                    if not more:
                        break
                    budget -= len(more)
                    held += more
                result = place(held[len(lengths)], packet)
                if result >= 0:
                    lengths.append(result)
            if result == _NO_PAGES:
                held += self._ring.take(self._ring.count)
                if len(held) - len(lengths) == self._ring.count:
                    result = self._drop("rx_no_pages")
            if result in _WAIT:
                break
            taken += 1
            if result > 0:
                placed += 1
                octets += packet.length
        if lengths:
            del held[: len(lengths)]
            self._ring.fill(lengths)
            self._signal.inject()
            self._traffic.rx_packets += placed
            self._traffic.rx_bytes += octets
        return taken

    def _place_flat(self, slot: Descriptor, packet: Packet) -> int:
        """Copy a packet into a flat buffer; return the ring's length of it."""
        _, address, room = slot
        length = packet.length
        start = address - self._base
        if start < 0 or start + room > self._size:
            return self._bad_buffer()
        if length > room:
            return self._drop("rx_too_long")
        if packet.offload is not NO_OFFLOAD and packet.offload != NO_OFFLOAD:
            return self._drop("rx_offload")
        frags = packet.frags
        view = self._view
        if len(frags) == 1:
            view[start : start + length] = frags[0]
            return length
        for frag in frags:
            end = start + len(frag)
            view[start:end] = frag
            start = end
        return length

    def _place_large(self, slot: Descriptor, packet: Packet) -> int:
        """Copy a packet into an L4RO buffer and its pages, write its descriptor; return the descriptor's size."""
        pool = self.pool
        assert pool is not None
        _, at, room = slot
        if not MIN_SG_BYTES <= room <= MAX_SG_BYTES or at + room > len(pool):
            return self._bad_buffer()
        cookie, *_, count = SG_HEAD.unpack_from(pool, at)
        first_room, _, first = IOV.unpack_from(pool, at + SG_HEAD_BYTES)
        start = first - self._base
        if not count or not first_room or start < 0 or start + first_room > self._size:
            return self._bad_buffer()
        flags, kind = self._sg_flags(packet)
        if flags < 0:
            return self._drop("rx_offload")
        offload = packet.offload
        length = packet.length
        frags = packet.frags
        view = self._view
        if length <= first_room:
            if len(frags) == 1:
                view[start : start + length] = frags[0]
            else:
                self._scatter(frags, [(start, length)])
            SG_ONE.pack_into(
                pool, at, cookie, flags, length, offload.csum_start, offload.csum_offset, kind, 0,
                offload.hdrlen, offload.mss, 0, 1, length, 0, first,
            )  # fmt: skip
            return MIN_SG_BYTES
        pieces = [(start, first_room)]
        iovs = [first_room, 0, first]
        problem = self._add_pages(pieces, iovs, length - first_room, (room - SG_HEAD_BYTES) // IOV_BYTES)
        if problem:
            return problem
        self._scatter(frags, pieces)
        count = len(pieces)
        SG_HEAD.pack_into(
            pool, at, cookie, flags, length, offload.csum_start, offload.csum_offset, kind, 0,
            offload.hdrlen, offload.mss, 0, count,
        )  # fmt: skip
        IOVS[count].pack_into(pool, at + SG_HEAD_BYTES, *iovs)
        return SG_HEAD_BYTES + IOV_BYTES * count

    def _sg_flags(self, packet: Packet) -> tuple[int, int]:
        """Flags and type of segmentation for the descriptor; flags -1: the guest did not agree to that."""
        offload = packet.offload
        if offload is NO_OFFLOAD:
            return 0, 0
        flags = _NEEDS_CSUM if offload.needs_csum else 0
        if offload.gso is GsoType.NONE:
            return flags, 0
        kind = SG_GSO_TYPES[offload.gso]
        needed = _GSO_BITS[kind] | (_ECN_BIT if offload.ecn else 0)
        if self.agreed & needed != needed:
            return -1, 0
        return flags | _GSO | (_ECN if offload.ecn else 0), kind

    def _add_pages(self, pieces: list[tuple[int, int]], iovs: list[int], rest: int, most: int) -> int:
        """Add pages for ``rest`` bytes to ``pieces`` (offset, bytes) and ``iovs``; 0, or what became of the frame.

        Pages are used up only when the whole packet has a place; a page that is not there is used up with them.
        """
        pages = self.pages
        assert pages is not None
        lent = self._lent
        used = 0
        while rest > 0:
            if len(pieces) == most or len(pieces) == MAX_FRAGMENTS:
                return self._drop("rx_too_long")
            if used == len(lent):
                more = pages.take(BUDGET)
                if not more:
                    return _NO_PAGES
                lent += more
            cookie, address, room = lent[used]
            used += 1
            start = address - self._base
            if room < 1 or start < 0 or start + room > self._size:
                self._counters["bad_page"] += 1
                continue
            here = min(rest, room)
            pieces.append((start, here))
            iovs += (here, 0, cookie)
            rest -= here
        for _ in range(used):
            lent.popleft()
        pages.complete(used)
        return 0

    def _scatter(self, frags: tuple[memoryview | bytes, ...], pieces: list[tuple[int, int]]) -> None:
        """Copy fragments into pieces of the arena (offset, bytes) of the same length in all."""
        view = self._view
        index = 0
        start, room = pieces[0]
        for frag in frags:
            done, size = 0, len(frag)
            source = memoryview(frag)
            while done < size:
                step = min(size - done, room)
                view[start : start + step] = source[done : done + step]
                done += step
                start += step
                room -= step
                if not room and index + 1 < len(pieces):
                    index += 1
                    start, room = pieces[index]

    def _drop(self, why: str) -> int:
        self._counters["rx_errors"] += 1
        self._counters[why] += 1
        return _NOT_PLACED

    def _bad_buffer(self) -> int:
        self._counters["bad_rx_buffer"] += 1
        return _BAD_BUFFER
