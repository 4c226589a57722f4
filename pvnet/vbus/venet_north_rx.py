"""A partition's way of frames in: buffers lent to the host, and what the host says it put into them.

Slot ``i`` of the receive ring has buffer ``i`` for ever.  With L4RO it also has descriptor ``i`` of the data pool, and
frames that are longer than the buffer go on in pages, lent through a ring of their own under cookies
``generation << 32 | page``; the host names a page by its cookie, and only one that is lent counts.

The host is not believed: a length is checked by the ring, a descriptor is copied and judged here as the host judges
ours, and what is wrong is counted, dropped and recycled.  Packets are views of the buffers; the buffers go back when
``on_frames`` returns.

Spec: vbus 6.6, 8.6, 8.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.machine import Counters
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import RxNorth, TxNorth
from pvnet.vbus.north_driver import NorthSignal
from pvnet.vbus.packet import MAX_PACKET, Packet
from pvnet.vbus.venet_checks import BadPacket, check_iovs, check_sg_head
from pvnet.vbus.venet_layout import IOVS, MAX_SG_BYTES, MIN_SG_BYTES, SG_HEAD, SG_HEAD_BYTES, SG_ONE, Traffic

BUDGET: Final = 128
"""Frames per wakeup; the rest comes after everything else that is due."""
_INDEX: Final = 0xFFFFFFFF
_GENERATIONS: Final = 0xFFFFFFFF


class NorthPages:
    """The pages of L4RO.

    :param view: memory of all pages, ``count * size`` bytes at ``address``; the ring has room for all of them.
    """

    def __init__(self, ring: TxNorth, view: memoryview, address: int, size: int) -> None:
        count = len(view) // size
        self._ring = ring
        self._size = size
        self._pages = [view[size * index : size * (index + 1)] for index in range(count)]
        self._addresses = [address + size * index for index in range(count)]
        self._cookies = list(range(count))
        self._lent = [False] * count
        self._idle = list(range(count))
        self.signal: NorthSignal | None = None
        """The page queue's signal, once it is registered."""

    @property
    def lent(self) -> int:
        """Pages that the host has."""
        return sum(self._lent)

    def lend(self) -> None:
        """Give every idle page to the host, and signal once."""
        if not self._idle:
            return
        self._ring.reclaim(self._ring.count)
        room = self._ring.room()
        going, self._idle = self._idle[:room], self._idle[room:]
        for index in going:
            self._lent[index] = True
        self._ring.push([Descriptor(self._cookies[index], self._addresses[index], self._size) for index in going])
        if self.signal is not None:
            self.signal.inject()

    def take(self, cookie: int, length: int) -> memoryview | None:
        """The first ``length`` bytes of a lent page, which is idle then; ``None``: no such page, or not so long."""
        index = cookie & _INDEX
        if index >= len(self._lent) or not self._lent[index] or self._cookies[index] != cookie or length > self._size:
            return None
        self._lent[index] = False
        self._cookies[index] = index | ((cookie >> 32) + 1 & _GENERATIONS) << 32
        self._idle.append(index)
        return self._pages[index][:length]


class NorthReceive:
    """Takes frames.

    :param view: memory of all buffers, ``ring.count * size`` bytes at ``address``.
    :param descriptors: L4RO data pool, 320 bytes per buffer; ``None``: flat buffers.
    :param on_frames: gets the frames of each pass.
    """

    def __init__(
        self,
        ring: RxNorth,
        view: memoryview,
        address: int,
        size: int,
        counters: Counters,
        traffic: Traffic,
        on_frames: Callable[[list[Packet]], None],
        descriptors: memoryview | None = None,
        pages: NorthPages | None = None,
        agreed: int = 0,
    ) -> None:
        self._ring = ring
        self._size = size
        self._buffers = [view[size * index : size * (index + 1)] for index in range(ring.count)]
        self._addresses = [address + size * index for index in range(ring.count)]
        self._counters = counters
        self._traffic = traffic
        self._on_frames = on_frames
        self._descriptors = descriptors
        self._pages = pages
        self._agreed = agreed
        self._masked = False
        self.signal: NorthSignal | None = None
        """The ring's signal, once it is registered."""
        if descriptors is None:
            self._empty = [Descriptor(index, place, size) for index, place in enumerate(self._addresses)]
        else:
            self._empty = [Descriptor(index, MAX_SG_BYTES * index, MAX_SG_BYTES) for index in range(ring.count)]
            for index in range(ring.count):
                self._reset(index)

    def provide(self) -> None:
        """Lend every buffer and page for the first time."""
        self._ring.provide(self._empty)
        if self._pages is not None:
            self._pages.lend()

    def wakeup(self) -> None:
        """The host filled buffers (or says so): hand on at most 128 frames, and lend the buffers again.

        :raises RingFault: the host broke the ring.
        """
        batch = self._ring.collect(BUDGET)
        signal = self.signal
        if batch:
            packets = self._flat(batch) if self._descriptors is None else self._large(batch)
            if packets:
                traffic = self._traffic
                traffic.rx_packets += len(packets)
                traffic.rx_bytes += sum([packet.length for packet in packets])
                self._on_frames(packets)
            if self._pages is not None:
                self._pages.lend()
            empty = self._empty
            self._ring.refill([empty[index] for index, _, _ in batch])
            if signal is not None:
                signal.inject()
        if signal is None:
            return
        if len(batch) == BUDGET:
            self._masked = True
            signal.disable()
            signal.again()
        elif self._masked:
            self._masked = False
            signal.enable()

    def _flat(self, batch: list[Descriptor]) -> list[Packet]:
        buffers = self._buffers
        packets = [Packet((buffers[index][:length],), length) for index, _, length in batch if length]
        if len(packets) < len(batch):
            self._counters["rx_recycled"] += len(batch) - len(packets)
        return packets

    def _large(self, batch: list[Descriptor]) -> list[Packet]:
        packets: list[Packet] = []
        for index, _, length in batch:
            if not length:
                self._counters["rx_recycled"] += 1
            else:
                packet = self._packet(index, length)
                if isinstance(packet, Packet):
                    packets.append(packet)
                else:
                    self._counters["rx_errors"] += 1
                    self._counters[packet.value] += 1
            self._reset(index)
        return packets

    def _packet(self, index: int, length: int) -> Packet | BadPacket:
        """Copy and judge the descriptor of a filled slot."""
        descriptors = self._descriptors
        assert descriptors is not None
        at = MAX_SG_BYTES * index
        if length < MIN_SG_BYTES:
            return BadPacket.DESCRIPTOR_SIZE
        head = SG_HEAD.unpack_from(descriptors, at)
        offload = check_sg_head(head, length, MAX_PACKET, self._agreed)
        if isinstance(offload, BadPacket):
            return offload
        total, count = head[2], head[10]
        fields = IOVS[count].unpack_from(descriptors, at + SG_HEAD_BYTES)
        bad = check_iovs(fields, total)
        if bad is not None:
            return bad
        if fields[0] > self._size:
            return BadPacket.FRAGMENT_LENGTH
        first = self._buffers[index][: fields[0]]
        if count == 1:
            return Packet((first,), total, offload)
        pages = self._pages
        frags = [first]
        for piece, cookie in zip(fields[3::3], fields[5::3], strict=True):
            page = None if pages is None else pages.take(cookie, piece)
            if page is None:
                return BadPacket.ADDRESS
            frags.append(page)
        return Packet(tuple(frags), total, offload)

    def _reset(self, index: int) -> None:
        """Write the descriptor of an empty slot: one fragment, the slot's own buffer."""
        assert self._descriptors is not None
        SG_ONE.pack_into(
            self._descriptors, MAX_SG_BYTES * index,
            index, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, self._size, 0, self._addresses[index],
        )  # fmt: skip
