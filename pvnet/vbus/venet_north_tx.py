"""A partition's way of frames out: buffers that frames are written into, descriptors, completions.

Every buffer has a place in the arena and, with SG, a descriptor of its own in the pool; buffer ``i`` uses descriptor
``i``.  A buffer is free, or offered by :meth:`NorthTransmit.buffers` (still free), or committed, until its completion
comes back: by the ring, or with TXC by an event that names its cookie ``generation << 32 | buffer``.  Cookies that are
not out are counted and change nothing.

The ring's notification is asked for only while somebody waits for a free buffer: a completion that nobody waits for is
found at the next send.

Spec: vbus 6.6, 8.4, 8.7, 8.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import TxNorth
from pvnet.vbus.north_driver import NorthSignal
from pvnet.vbus.packet import ETHERNET_HEADER, MAX_PACKET, NO_OFFLOAD, GsoType, Offload, Packet
from pvnet.vbus.venet_checks import SG_GSO_TYPES
from pvnet.vbus.venet_layout import (
    IOV_BYTES,
    IOVS,
    MAX_FRAGMENTS,
    MAX_SG_BYTES,
    MIN_FLAT_FRAME,
    MIN_SG_BYTES,
    SG_HEAD,
    SG_HEAD_BYTES,
    SG_ONE,
    SgFlag,
    Traffic,
)

_INDEX: Final = 0xFFFFFFFF
_GENERATIONS: Final = 0xFFFFFFFF
_NEEDS_CSUM: Final = int(SgFlag.NEEDS_CSUM)
_GSO: Final = int(SgFlag.GSO)
_ECN: Final = int(SgFlag.ECN)


class NorthTransmit:
    """Sends frames.

    :param view: memory of all buffers, ``count * size`` bytes at ``address`` of the arena.
    :param on_writable: called when a buffer is free again after :meth:`buffers` had none or :meth:`send` took not all.
    """

    def __init__(
        self,
        ring: TxNorth,
        view: memoryview,
        address: int,
        size: int,
        counters: Counters,
        traffic: Traffic,
        on_writable: Callable[[], None],
    ) -> None:
        count = len(view) // size
        self._ring = ring
        self._size = size
        self._buffers = [view[size * index : size * (index + 1)] for index in range(count)]
        self._addresses = [address + size * index for index in range(count)]
        self._cookies = list(range(count))
        self._out = [False] * count
        self._free = list(range(count - 1, -1, -1))
        self._offered: list[int] = []
        self._counters = counters
        self._traffic = traffic
        self._on_writable = on_writable
        self._starved = False
        self.signal: NorthSignal | None = None
        """The ring's signal, once it is registered."""
        self.descriptors: memoryview | None = None
        """320 bytes per buffer; ``None``: flat frames."""
        self.descriptor_base = 0
        """What the ring calls the first descriptor: its address, or 0 in a pre-mapped pool."""
        self.by_events = False
        """Completions come as TXC events."""
        self.accepts = 0
        """``ACCEPTS_...`` bits of what the host takes."""
        self.mtu = 1500
        self.fragment_bytes = 0
        """Most bytes of one fragment, 0: one fragment for all."""

    @property
    def out(self) -> int:
        """Buffers that the host has."""
        return len(self._buffers) - len(self._free)

    def buffers(self, wanted: int) -> list[memoryview]:
        """Up to ``wanted`` free buffers to write frames into, for the next :meth:`commit`."""
        free = self._free
        room = self._ring.room()
        if len(free) < wanted or room < wanted:
            self.reap()
            room = self._ring.room()
        usable = min(wanted, len(free), room)
        if not usable:
            self._starve()
        # The one that came back last first: what is still in a cache is written, and read by the host, several times
        # as fast.
        self._offered = free[: -usable - 1 : -1]
        return [self._buffers[index] for index in self._offered]

    def commit(self, frames: Sequence[tuple[int, int, Offload]]) -> None:
        """Send: for each frame the buffer's index in the list that :meth:`buffers` gave, its bytes, its offload.

        Indexes ascend; buffers left out stay free, as do those of frames that cannot be sent, which are counted.

        :raises LocalError: an index that was not offered, or not ascending.
        """
        batch: list[Descriptor] = []
        indexes: list[int] = []
        cookies, addresses, offered = self._cookies, self._addresses, self._offered
        flat = self.descriptors is None
        octets = 0
        last = -1
        for position, frame_bytes, offload in frames:
            if not last < position < len(offered):
                raise LocalError(f"buffer {position} after {last}: {len(offered)} were offered, to be used in order")
            last = position
            if not self._can_send(frame_bytes, offload):
                continue
            index = offered[position]
            indexes.append(index)
            octets += frame_bytes
            cookie = cookies[index]
            if flat:
                length = frame_bytes
                if length < MIN_FLAT_FRAME:
                    self._buffers[index][length:MIN_FLAT_FRAME] = bytes(MIN_FLAT_FRAME - length)
                    length = MIN_FLAT_FRAME
                batch.append(Descriptor(cookie, addresses[index], length))
            else:
                size = self._describe(index, cookie, frame_bytes, offload)
                batch.append(Descriptor(cookie, self.descriptor_base + MAX_SG_BYTES * index, size))
        if not batch:
            return
        self._offered = []
        if self._free[: -len(indexes) - 1 : -1] == indexes:
            del self._free[-len(indexes) :]
        else:
            chosen = set(indexes)
            self._free = [index for index in self._free if index not in chosen]
        out = self._out
        for index in indexes:
            out[index] = True
        self._ring.push(batch)
        if self.signal is not None:
            self.signal.inject()
        self._traffic.tx_packets += len(batch)
        self._traffic.tx_bytes += octets

    def send(self, packets: Sequence[Packet]) -> int:
        """Copy packets into buffers and send them; how many were taken, from the front.

        What cannot be sent is taken, counted and thrown away.
        """
        frames: list[tuple[int, int, Offload]] = []
        buffers = self.buffers(len(packets))
        taken = 0
        for packet in packets:
            length = packet.length
            if self._can_send(length, packet.offload):
                if len(frames) == len(buffers):
                    self._starve()
                    break
                buffer = buffers[len(frames)]
                if len(packet.frags) == 1:
                    buffer[:length] = packet.frags[0]
                else:
                    start = 0
                    for frag in packet.frags:
                        end = start + len(frag)
                        buffer[start:end] = frag
                        start = end
                frames.append((len(frames), length, packet.offload))
            taken += 1
        self.commit(frames)
        return taken

    def reap(self) -> None:
        """Take back what the ring says is completed."""
        done = self._ring.reclaim(self._ring.count)
        if not self.by_events:
            for cookie, _, _ in done:
                self._release(cookie & _INDEX)

    def completed(self, cookie: int) -> None:
        """A TXC event came."""
        index = cookie & _INDEX
        if index >= len(self._out) or not self._out[index] or self._cookies[index] != cookie:
            self._counters["bad_cookie"] += 1
            return
        self._release(index)

    def wakeup(self) -> None:
        """Something was completed: tell who waits."""
        self.reap()
        if self._starved and self._free and self._ring.room():
            self._starved = False
            if self.signal is not None and not self.by_events:
                self.signal.disable()
            self._on_writable()

    def _release(self, index: int) -> None:
        self._out[index] = False
        self._cookies[index] = index | ((self._cookies[index] >> 32) + 1 & _GENERATIONS) << 32
        self._free.append(index)

    def _starve(self) -> None:
        self._counters["tx_stops"] += not self._starved
        self._starved = True
        if self.signal is not None and not self.by_events:
            self.signal.enable()

    def _can_send(self, length: int, offload: Offload) -> bool:
        """Whether the host takes such a frame; counts it if not."""
        if offload is NO_OFFLOAD:
            longest = self.mtu + ETHERNET_HEADER
        else:
            if offload.requires & ~self.accepts:
                self._counters["tx_offload"] += 1
                return False
            longest = MAX_PACKET if offload.gso else self.mtu + ETHERNET_HEADER
        if ETHERNET_HEADER <= length <= longest and length <= self._size:
            return True
        self._counters["tx_bad_length"] += 1
        return False

    def _describe(self, index: int, cookie: int, length: int, offload: Offload) -> int:
        """Write the descriptor of a buffer and return its bytes."""
        descriptors = self.descriptors
        assert descriptors is not None
        flags = kind = 0
        if offload is not NO_OFFLOAD:
            flags = _NEEDS_CSUM if offload.needs_csum else 0
            if offload.gso is not GsoType.NONE:
                flags |= _GSO | (_ECN if offload.ecn else 0)
                kind = SG_GSO_TYPES[offload.gso]
        _, start, offset, _, _, hdrlen, mss = offload
        at = MAX_SG_BYTES * index
        address = self._addresses[index]
        if not self.fragment_bytes or length <= self.fragment_bytes:
            SG_ONE.pack_into(
                descriptors, at, cookie, flags, length, start, offset, kind, 0, hdrlen, mss, 0, 1, length, 0, address
            )
            return MIN_SG_BYTES
        step = max(self.fragment_bytes, -(-length // MAX_FRAGMENTS))
        iovs: list[int] = []
        for first in range(0, length, step):
            iovs += (min(step, length - first), 0, address + first)
        count = len(iovs) // 3
        SG_HEAD.pack_into(descriptors, at, cookie, flags, length, start, offset, kind, 0, hdrlen, mss, 0, count)
        IOVS[count].pack_into(descriptors, at + SG_HEAD_BYTES, *iovs)
        return SG_HEAD_BYTES + IOV_BYTES * count
