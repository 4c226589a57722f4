"""A TAP device as a port: what the kernel sends comes in as packets, what is delivered the kernel receives.

On the switch's side it joins the host's network to the lab; on a partition's side it shows the partition's venet to
ordinary programs.  Up to 64 frames are read per wake into buffers that are there from the start, and handed over in one
call.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters
from pvnet.runtime.tap import MAX_FRAME, VNET_HEADER_BYTES, Tap
from pvnet.vbus.packet import ACCEPTS_TAP, ETHERNET_HEADER, Packet
from pvnet.vbus.vnet_header import VnetHeaders

BURST: Final = 64
"""Most frames read per wake: others on the loop get their turn."""

_SLOT: Final = -(-MAX_FRAME // 4096) * 4096


class TapPort:
    """A :class:`~pvnet.vbus.packet.NetPort` over an open TAP.

    ``receive`` is called with what came in, once per wake; whoever plugs the port in sets it.  ``on_gone`` is called
    once if the interface disappears.  Counted: ``queue_full`` (the kernel had no room), ``refused`` (a header it did
    not like), ``down``, ``bad_vnet_header``, ``wakes``.
    """

    def __init__(self, tap: Tap, *, name: str | None = None) -> None:
        self.tap = tap
        self.name = name or f"tap:{tap.name}"
        self.mtu = tap.mtu
        self.accepts = ACCEPTS_TAP
        self.counters = Counters()
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self.on_gone: Callable[[], None] = lambda: None
        self._headers = VnetHeaders()
        memory = memoryview(bytearray(BURST * _SLOT))
        self._slots = [memory[at : at + MAX_FRAME] for at in range(0, BURST * _SLOT, _SLOT)]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Read from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.tap.fileno(), self._readable)

    def pause(self) -> None:
        """Read no more for now: the kernel's queue fills, and then it drops."""
        if self._loop is not None:
            self._loop.remove_reader(self.tap.fileno())

    def close(self) -> None:
        """Read no more, and close the device."""
        if self._loop is not None and self.tap.fileno() >= 0:
            self._loop.remove_reader(self.tap.fileno())
        self._loop = None
        self.tap.close()

    def _readable(self) -> None:
        packets: list[Packet] = []
        read, decode = self.tap.readinto, self._headers.decode
        self.counters["wakes"] += 1
        for slot in self._slots:
            try:
                size = read(slot)
            except OSError as error:
                self._failed(error)
                break
            if not size:
                break
            try:
                offload = decode(slot[:VNET_HEADER_BYTES].tobytes())
            except WireError:
                self.counters["bad_vnet_header"] += 1
                continue
            if size >= VNET_HEADER_BYTES + ETHERNET_HEADER:
                packets.append(Packet((slot[VNET_HEADER_BYTES:size],), size - VNET_HEADER_BYTES, offload))
        if packets:
            self.receive(packets)

    def deliver(self, packets: list[Packet]) -> int:
        """Give packets to the kernel; returns how many went before its queue was full."""
        write, encode = self.tap.writev, self._headers.encode
        for number, packet in enumerate(packets):
            try:
                if not write((encode(packet.offload), *packet.frags)):
                    self.counters["queue_full"] += 1
                    return number
            except WireError:
                self.counters["refused"] += 1
            except OSError as error:
                self._failed(error)
        return len(packets)

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:
            self.counters["refused"] += 1
        elif error.errno == errno.EIO:
            self.counters["down"] += 1
        elif error.errno in (errno.EBADFD, errno.EBADF, errno.ENODEV):
            # The interface was deleted; the descriptor is good for nothing any more.
            self.counters["gone"] += 1
            if self._loop is not None:
                self._loop.call_soon(self.on_gone)
                self.close()
        else:
            self.counters[f"errno_{error.errno}"] += 1
