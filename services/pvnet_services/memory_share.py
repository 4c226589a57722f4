"""A partition's memory, mapped by its hypervisor: offer and confirmation over the direct path between them.

Two shares, both bound to incarnations::

    partition ──"memory": own incarnation, the memfd──▶ hypervisor      whenever a path to it has come
    partition ◀──"memory-ok": its and our incarnation── hypervisor      when the platform uses the mapping

From the confirmation on, no bytes travel inside of the partition's hcalls (:mod:`pvnet.runtime.hcall_client`).  A lost
offer or confirmation costs speed, never meaning: a call without bytes to a hypervisor that has no mapping is served by
MemoryRead and MemoryWrite.  So the two need not be ordered with messages.

A mapping belongs to one incarnation of the partition.  It outlives a lost connection to the broker, and ends when the
partition is gone and its path too, or when another incarnation comes.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable
from typing import Final

from pvnet.core.errors import PvnetError, RefusedError
from pvnet.memory.segment import Segment
from pvnet.papr.platform_io import PartitionMapped
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import HcallClient
from pvnet.runtime.memfd import create_sealed, map_sealed
from pvnet.transport.link import PeerDown, PeerUp
from pvnet.transport.unix_socket import close_all

OFFER: Final = "memory"
CONFIRMATION: Final = "memory-ok"
_OFFER: Final = struct.Struct(">Q")
_CONFIRMATION: Final = struct.Struct(">QQ")


class PartitionMemory:
    """The partition's side: its memory (``size_bytes`` of zeros), offered to ``hypervisor`` as ``hcalls`` needs it."""

    def __init__(self, endpoint: Endpoint, hypervisor: str, size_bytes: int) -> None:
        mapping, self._fd = create_sealed(size_bytes, endpoint.name)
        self.segment = Segment(mapping)
        self._endpoint = endpoint
        self._hypervisor = hypervisor
        self._hcalls: HcallClient | None = None
        self._offered = 0
        """Incarnation of the hypervisor that got the offer over the path that there is."""
        self._close = weakref.finalize(self, os.close, self._fd)

    def offer(self, hcalls: HcallClient) -> None:
        """Offer the memory from now on, whenever there is a path."""
        self._hcalls = hcalls
        self._endpoint.on_share(CONFIRMATION, self._confirmed)
        self._endpoint.on_path.append(self._path)
        self._endpoint.on_peer_up.append(self._peer_up)

    def close(self) -> None:
        """Offer it no more.  The memory itself stays as long as it is used."""
        self._close()

    def _path(self, node: str, is_direct: bool) -> None:
        if node == self._hypervisor:
            self._offered = 0
            if is_direct:
                self._offer()

    def _peer_up(self, event: PeerUp) -> None:
        if event.node == self._hypervisor:
            self._offer()

    def _offer(self) -> None:
        incarnation = self._endpoint.link.peer_incarnation(self._hypervisor)
        if not incarnation or incarnation == self._offered or not self._close.alive:
            return
        if self._endpoint.share(self._hypervisor, OFFER, _OFFER.pack(self._endpoint.incarnation), [self._fd]):
            self._offered = incarnation

    def _confirmed(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        close_all(fds)
        if source != self._hypervisor or len(body) != _CONFIRMATION.size or fds:
            self._endpoint.counters["memory_confirmation_refused"] += 1
            return
        ours, theirs = _CONFIRMATION.unpack(body)
        if ours == self._endpoint.incarnation and self._hcalls is not None:
            self._hcalls.memory_mapped(theirs)


Sizes = Callable[[str], tuple[int, ...]]


class _Mapping:
    """Memory of one incarnation of a partition; ``used``: the platform has it in the partition's present life."""

    __slots__ = ("incarnation", "segment", "used")

    def __init__(self, incarnation: int, segment: Segment) -> None:
        self.incarnation = incarnation
        self.segment = segment
        self.used = False


class MappedMemories:
    """The hypervisor's side.

    :param sizes: says how many bytes of memory a partition may have: now, and (when that is to change) in its next
        life, whose offer may come before the end of this one is known.  Nothing: it is none.  Other offers are refused.
    :param feed: takes the input for the platform.

    To be made after the listener that starts and ends partitions has been added to the endpoint.
    """

    def __init__(self, endpoint: Endpoint, sizes: Sizes, feed: Callable[[PartitionMapped], None]) -> None:
        self._endpoint = endpoint
        self._sizes = sizes
        self._feed = feed
        self._mappings: dict[str, _Mapping] = {}
        endpoint.on_share(OFFER, self._offered)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_down.append(self._peer_down)
        endpoint.on_path.append(self._path)

    @property
    def used(self) -> list[str]:
        """Partitions whose memory the platform has mapped."""
        return sorted(name for name, mapping in self._mappings.items() if mapping.used)

    def _offered(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        try:
            incarnation = self._take(source, body, fds)
        except PvnetError as error:
            self._endpoint.counters["memory_offer_refused"] += 1
            self._endpoint.log.warning("memory_offer_refused", source=source, error=str(error))
            return
        finally:
            close_all(fds)
        mapping = self._mappings[source]
        if self._endpoint.link.peer_incarnation(source) == incarnation:
            self._use(source, mapping)

    def _take(self, source: str, body: bytes, fds: list[int]) -> int:
        """Map what is offered, unless it is mapped already; returns the incarnation whose memory it is."""
        sizes = self._sizes(source)
        if not sizes:
            raise RefusedError(f"{source} is no partition of ours")
        if len(body) != _OFFER.size or len(fds) != 1:
            raise RefusedError(f"{len(body)} bytes and {len(fds)} descriptors: expected {_OFFER.size} and 1")
        incarnation: int = _OFFER.unpack(body)[0]
        known = self._mappings.get(source)
        if known is None or known.incarnation != incarnation:
            there = os.fstat(fds[0]).st_size
            size = there if there in sizes else sizes[0]
            self._mappings[source] = _Mapping(incarnation, Segment(map_sealed(fds[0], size)))
        return incarnation

    def _use(self, name: str, mapping: _Mapping) -> None:
        if self._sizes(name)[:1] != (mapping.segment.size,):
            self._endpoint.counters["memory_of_another_life"] += 1
            return
        if not mapping.used:
            mapping.used = True
            self._feed(PartitionMapped(name, mapping.segment))
        body = _CONFIRMATION.pack(mapping.incarnation, self._endpoint.incarnation)
        self._endpoint.share(name, CONFIRMATION, body, [])

    def _peer_up(self, event: PeerUp) -> None:
        mapping = self._mappings.get(event.node)
        if mapping is None:
            return
        if mapping.incarnation != event.incarnation:
            del self._mappings[event.node]
        elif not mapping.used:
            self._use(event.node, mapping)

    def _peer_down(self, event: PeerDown) -> None:
        mapping = self._mappings.get(event.node)
        if mapping is not None:
            mapping.used = False
            self._drop_if_gone(event.node)

    def _path(self, node: str, is_direct: bool) -> None:
        if node in self._mappings and not is_direct:
            self._drop_if_gone(node)

    def _drop_if_gone(self, node: str) -> None:
        """Without life and path nobody is there who could come back with this memory unasked."""
        if not self._mappings[node].used and self._endpoint.path(node) != "direct":
            del self._mappings[node]
