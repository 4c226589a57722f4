"""A partition's venet as a TAP: ordinary programs of the partition use it.

The way out has no copy of ours: the kernel writes each frame straight into a transmit buffer of the arena.  When there
is no free buffer, or no carrier, nothing is read, so that the kernel's queue fills and senders notice.  The way in is
one ``writev`` per packet from the arena's memory.

The kernel leaves only such work undone (checksums, segmentation) as the venet of the moment can hand on.

The TAP outlives the venet: while the vbus host is away the interface stays, without traffic.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters
from pvnet.runtime.tap import VNET_HEADER_BYTES, Tap
from pvnet.vbus.packet import ETHERNET_HEADER, Offload, Packet
from pvnet.vbus.venet_north import VenetNorth
from pvnet.vbus.vnet_header import VnetHeaders

_BURST: Final = 64
"""Most frames read per wake."""
_PROBE_EVERY: Final = 8
"""After so many wakes with as many frames as were looked for, twice as many are looked for: to find that there is no
other frame costs as much as a frame."""


class GuestTap:
    """Joins an open TAP to whichever venet there is; ``turn()`` makes the bridge carry out what was sent."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.counters = Counters()
        self._venet: VenetNorth | None = None
        self._turn: Callable[[], None] = _nothing
        self._headers = VnetHeaders()
        self._header = memoryview(bytearray(VNET_HEADER_BYTES))
        self._spill = memoryview(bytearray(1))
        """Where a frame that is too long for its buffer shows itself: the kernel cuts it off silently."""
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._burst = 1
        self._full_bursts = 0

    def use(self, venet: VenetNorth, turn: Callable[[], None]) -> None:
        """Carry frames of this venet from now on."""
        self._venet, self._turn = venet, turn
        try:
            self.tap.set_offloads(venet.accepts)
        except OSError as error:
            self._failed(error)
        venet.on_frames = self._frames
        venet.on_writable = self._read_on
        venet.on_link = self._link
        self._link(venet.link)

    def release(self) -> None:
        """The venet is gone."""
        self._venet, self._turn = None, _nothing
        self._pause()

    def close(self) -> None:
        """Close the TAP."""
        self.release()
        self.tap.close()

    # --- from the kernel ---------------------------------------------------------------------------------------------

    def _link(self, up: bool) -> None:
        if up:
            self._read_on()
        else:
            self._pause()

    def _read_on(self) -> None:
        if not self._reading and self._venet is not None and self._venet.link and self.tap.fileno() >= 0:
            self._reading = True
            self._loop.add_reader(self.tap.fileno(), self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.tap.fileno())

    def _readable(self) -> None:
        venet = self._venet
        if venet is None:
            self._pause()
            return
        burst = self._burst
        buffers = venet.tx_buffers(burst)
        if not buffers:
            self.counters["tx_full"] += 1
            self._pause()
            return
        frames: list[tuple[int, int, Offload]] = []
        read, header, spill, decode = self.tap.readv, self._header, self._spill, self._headers.decode
        for number, buffer in enumerate(buffers):
            try:
                size = read((header, buffer, spill))
            except OSError as error:
                self._failed(error)
                break
            if not size:
                break
            if size > VNET_HEADER_BYTES + len(buffer):
                self.counters["too_long"] += 1
                continue
            try:
                offload = decode(bytes(header))
            except WireError:
                self.counters["bad_vnet_header"] += 1
                continue
            if size > VNET_HEADER_BYTES + ETHERNET_HEADER:
                frames.append((number, size - VNET_HEADER_BYTES, offload))
        else:
            self._full_bursts += 1
        if len(frames) < len(buffers):
            self._burst, self._full_bursts = max(1, len(frames)), 0
        elif self._full_bursts >= _PROBE_EVERY and burst < _BURST:
            self._burst, self._full_bursts = 2 * burst, 0
        if frames:
            venet.commit(frames)
            self._turn()

    # --- to the kernel -----------------------------------------------------------------------------------------------

    def _frames(self, packets: list[Packet]) -> None:
        write, encode = self.tap.writev, self._headers.encode
        for packet in packets:
            try:
                if not write((encode(packet.offload), *packet.frags)):
                    self.counters["tap_full"] += 1
            except WireError:
                self.counters["refused"] += 1
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in {errno.EBADFD, errno.EBADF, errno.ENODEV}:  # somebody deleted the interface
            self.counters["gone"] += 1
            self._pause()
            self.tap.close()
        else:
            self.counters[f"errno_{error.errno}"] += 1

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        return {"tap": self.tap.name, "netns": self.tap.namespace, "counters": dict(self.counters)}


def _nothing() -> None:
    pass
