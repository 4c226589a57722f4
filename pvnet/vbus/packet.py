"""What travels between a virtual ethernet device, a TAP, a link and the switch that joins them.

A :class:`Packet` is one ethernet frame (destination, source, ethertype, payload; no preamble, no FCS) in one or more
pieces, plus what is still to be done to it (:class:`Offload`): fill in a checksum, or cut a large TCP or UDP
packet into frames.  Sides that both understand this hand on 64 KiB at a time; where the receiver does not, the switch
does the work (:mod:`pvnet.vbus.offload`).

**Lifetime rule.** The pieces of a packet are views of somebody's buffers.  They are valid only until the call that
brought them returns; whoever keeps a packet longer keeps a copy (:meth:`Packet.copy`).  Nobody writes into them.

Spec: vbus 8.3 (capability bits), 8.4 (offload fields).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

ETHERNET_HEADER: Final = 14
"""Bytes of an ethernet header without tags."""
VLAN_TAG: Final = 4
"""Bytes that one 802.1Q tag adds to a frame; a frame of ``mtu + ETHERNET_HEADER + VLAN_TAG`` bytes with a tag fits."""
MAX_PACKET: Final = 65536
"""Most bytes of a packet with segmentation left to do, ethernet header included (vbus 8.4)."""
MIN_MTU: Final = 68
"""Smallest MTU of a port: what IPv4 asks of every link."""
MAX_MTU: Final = 65521
"""Largest MTU of a port."""


class GsoType(IntEnum):
    """How a packet that is larger than a frame has to be cut; the numbers are those of ``struct virtio_net_hdr``."""

    NONE = 0
    TCPV4 = 1
    UDP = 3  # UDP fragmentation offload: IPv4 or IPv6 fragments
    TCPV6 = 4


ACCEPTS_CSUM: Final = 1
"""The receiver takes packets whose checksum is not filled in (``Offload.needs_csum``)."""
ACCEPTS_TSO4: Final = 2
"""The receiver takes ``GsoType.TCPV4``."""
ACCEPTS_TSO6: Final = 4
"""The receiver takes ``GsoType.TCPV6``."""
ACCEPTS_ECN: Final = 8
"""The receiver takes segmentation with ``Offload.ecn``."""
ACCEPTS_UFO: Final = 16
"""The receiver takes ``GsoType.UDP``."""
ACCEPTS_NOTHING: Final = 0
ACCEPTS_TAP: Final = ACCEPTS_CSUM | ACCEPTS_TSO4 | ACCEPTS_TSO6 | ACCEPTS_ECN
"""What a TAP with IFF_VNET_HDR takes and gives, and what venet offers by default."""
ACCEPTS_ALL: Final = ACCEPTS_TAP | ACCEPTS_UFO


class Offload(NamedTuple):
    """What is left to do to a packet.  Immutable, so one object serves all packets of a flow.

    ``csum_start`` and ``csum_offset`` count bytes from the start of the frame and from ``csum_start``: the sum over
    everything from ``csum_start`` on goes to ``csum_start + csum_offset``, where the pseudo header's sum is already.
    ``hdrlen`` is a hint (bytes of all headers, or more); ``mss`` is the payload bytes of each frame.
    """

    needs_csum: bool = False
    csum_start: int = 0
    csum_offset: int = 0
    gso: GsoType = GsoType.NONE
    ecn: bool = False
    hdrlen: int = 0
    mss: int = 0

    @property
    def requires(self) -> int:
        """The ``ACCEPTS_...`` bits that a receiver must have to take the packet as it is."""
        return (ACCEPTS_CSUM if self.needs_csum else 0) | _GSO_BITS[self.gso] | (ACCEPTS_ECN if self.ecn else 0)


_GSO_BITS: Final = {
    GsoType.NONE: 0,
    GsoType.TCPV4: ACCEPTS_TSO4,
    GsoType.UDP: ACCEPTS_UFO,
    GsoType.TCPV6: ACCEPTS_TSO6,
}

NO_OFFLOAD: Final = Offload()
"""Nothing left to do: the common case, tested by identity where speed matters (an equal object is merely slower)."""


@dataclass(slots=True)
class Packet:
    """One ethernet frame or one packet to be cut into frames.  ``length`` is the sum of the pieces' lengths.

    The first piece should hold all headers (receivers cope if not, more slowly).
    """

    frags: tuple[memoryview | bytes, ...]
    length: int
    offload: Offload = NO_OFFLOAD

    def tobytes(self) -> bytes:
        """Return the whole packet as one object of its own."""
        frags = self.frags
        return bytes(frags[0]) if len(frags) == 1 else b"".join(frags)

    def copy(self) -> Packet:
        """Return the same packet in memory of its own, to be kept."""
        return Packet((self.tobytes(),), self.length, self.offload)


def packet_of(frame: bytes | memoryview, offload: Offload = NO_OFFLOAD) -> Packet:
    """Return a packet of one piece."""
    return Packet((frame,), len(frame), offload)


class NetPort(Protocol):
    """One port of a switch, as the switch sees it: where packets go out.

    Packets come in by ``switch.receive(port, packets, now)``, called by whoever owns the port.
    ``mtu`` is the most bytes after the ethernet header.  ``accepts`` is a sum of ``ACCEPTS_...`` bits; the switch reads
    both for every batch, so they may change.
    """

    @property
    def name(self) -> str:
        """The port's name, unique in its switch."""
        ...

    @property
    def mtu(self) -> int:
        """Most bytes of a frame after its ethernet header."""
        ...

    @property
    def accepts(self) -> int:
        """Sum of ``ACCEPTS_...`` bits."""
        ...

    def deliver(self, packets: list[Packet]) -> int:
        """Take packets from the front of the list and return how many; the switch counts the rest as dropped.

        The packets are valid only during the call.  Must not call back into the switch.
        """
        ...
