"""How the supervisor learns that a node serves: by what the node itself says on its state topic.

An incarnation is the time of the node's birth in nanoseconds, so "the process that I have just started" is "an
incarnation born after I started it"; a READY that the broker still retains from an earlier life does not count.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.runtime.endpoint import Endpoint
from pvnet.transport.link import PeerUp


class Readiness(Protocol):
    """What the supervisor needs to know of the nodes; the seam at which tests use programs without a broker."""

    async def wait_ready(self, node: str, born_after: int) -> None:
        """Return when an incarnation of ``node`` later than ``born_after`` (ns since 1970) says READY."""

    async def stop(self) -> None:
        """Let go of everything.  Idempotent; never raises."""


class EndpointReadiness:
    """:class:`Readiness` by an endpoint (the supervisor's own)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._waiting: dict[tuple[str, int], asyncio.Future[None]] = {}
        endpoint.on_peer_up.append(self._peer_up)

    async def wait_ready(self, node: str, born_after: int) -> None:
        """See :class:`Readiness`."""
        self.endpoint.watch(node)
        link = self.endpoint.link
        if link.peer_incarnation(node) >= born_after and link.peer_phase(node) >= Lifecycle.READY:
            return
        future = self._waiting.setdefault((node, born_after), asyncio.get_running_loop().create_future())
        try:
            await asyncio.shield(future)
        finally:
            self._waiting.pop((node, born_after), None)

    async def stop(self) -> None:
        """See :class:`Readiness`."""
        await self.endpoint.stop("lab is shutting down")

    def _peer_up(self, event: PeerUp) -> None:
        if event.phase < Lifecycle.READY:
            return
        for (node, born_after), future in self._waiting.items():
            if node == event.node and event.incarnation >= born_after and not future.done():
                future.set_result(None)
