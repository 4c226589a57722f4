"""A partition on its bus: the arena, the bridge's guest half, and how both reach the vbus host.

It attaches when the host is there (``VbusAttach``; see ``vbus_host`` for what is passed where), again with a new arena
when the host has restarted, and when the host invites it, because it has become a member of a bus.  An arena is never
used for a second host: the first may still have it mapped.

The drivers are made anew for each attachment; what outlives it (a TAP) belongs to who makes them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Note
from pvnet.papr.errno import ENOENT, EPERM
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import READY, Endpoint
from pvnet.runtime.topology import BRIDGE
from pvnet.transport.link import PeerDown, PeerUp
from pvnet.vbus.north_driver import NorthDriver
from pvnet_services.note_limit import NoteLimit
from pvnet_services.vbus_attachment import Attachment

_PATH_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 0.05
"""Between two attempts to attach."""


class DriverMaker(Protocol):
    """Makes the drivers of one attachment, by device type."""

    def __call__(self, *, shared: bool) -> Mapping[str, NorthDriver]:
        """``shared``: the arena is shared memory; else every byte of it costs."""
        ...


class ArenaSize(Protocol):
    """Says how large an arena is wanted."""

    def __call__(self, *, shared: bool) -> int:
        """Bytes, a multiple of 4096."""
        ...


class VbusGuest:
    """Keeps a partition attached to the vbus host of its lab."""

    def __init__(
        self, endpoint: Endpoint, arena_bytes: ArenaSize, make_drivers: DriverMaker, ended: Callable[[], None]
    ) -> None:
        self.attachment: Attachment | None = None
        self._endpoint = endpoint
        self._size = arena_bytes
        self._make_drivers = make_drivers
        self._ended = ended
        self._host = 0
        """Incarnation of the host that we are attached to, or attaching to."""
        self._wishes = 0
        """Counts what asks for a new attachment: a host has come, or we have become a member of a bus."""
        self._attaching: asyncio.Task[None] | None = None
        self._stopped = False
        self._limit = NoteLimit(endpoint, lambda: asyncio.get_running_loop().time())
        self._settled = asyncio.Event()
        endpoint.on("vbus_irq", self._irq)
        endpoint.on("vbus_update", self._update)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_down.append(self._peer_down)

    async def settled(self, timeout: float) -> None:
        """Wait until the first attempt to attach is over; silently no longer than ``timeout`` seconds."""
        self._endpoint.watch(BRIDGE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._settled.wait()

    async def stop(self, timeout: float) -> None:
        """Leave in good order."""
        self._stopped = True
        if self._attaching is not None:
            self._attaching.cancel()
        if self.attachment is not None:
            await self.attachment.leave(timeout)
            self._drop()

    def _peer_up(self, event: PeerUp) -> None:
        if event.node == BRIDGE and event.phase >= READY and event.incarnation != self._host:
            self._host = event.incarnation
            self._attach_soon()

    def _peer_down(self, event: PeerDown) -> None:
        if event.node == BRIDGE:
            self._host = 0
            self._drop()

    def _drop(self) -> None:
        attachment, self.attachment = self.attachment, None
        if attachment is not None:
            attachment.end()

    def _attach_soon(self) -> None:
        """Attach, or once more after the attempt that is under way: whatever a host says, there is one at a time."""
        self._wishes += 1
        if not self._stopped and (self._attaching is None or self._attaching.done()):
            self._attaching = self._endpoint.spawn(self._fulfil(), "vbus-attach")

    async def _fulfil(self) -> None:
        done = 0
        while done != self._wishes:
            if done:
                await asyncio.sleep(_PAUSE_S)
            done = self._wishes
            try:
                await self._attach(done)
            finally:
                if done == self._wishes:
                    self._settled.set()

    async def _attach(self, wish: int) -> None:
        """Attach; with shared memory where it can be, else with a copy."""
        direct = await self._endpoint.settle_path(BRIDGE, _PATH_TIMEOUT_S)
        try:
            for shared in (True, False) if direct else (False,):
                if self._wishes != wish:
                    return
                self._drop()
                attachment = self.attachment = Attachment(
                    self._endpoint,
                    self._size(shared=shared),
                    self._make_drivers(shared=shared),
                    shared=shared,
                    ended=self._ended,
                    note=self._limit.note,
                )
                result = await attachment.attach(wish)
                if result == -ENOENT and shared:
                    continue
                if result:
                    level = "debug" if result == -EPERM else "warning"
                    self._limit.note(Note("vbus_attach_refused", (("result", result),), level))
                    if self.attachment is attachment:
                        self._drop()
                return
        except PvnetError as error:
            self._limit.note(Note("vbus_attach_failed", (("reason", str(error)),), "warning"))
            if self._wishes == wish:
                self._drop()

    # --- messages ----------------------------------------------------------------------------------------------------

    def _irq(self, envelope: Envelope) -> None:
        if self._from_host(envelope) and self.attachment is not None:
            self.attachment.irq(envelope)

    def _update(self, envelope: Envelope) -> None:
        if not self._from_host(envelope):
            return
        attachment = self.attachment
        if attachment is not None and (attachment.accepted or envelope.vbus_update.writes):
            attachment.update(envelope)
        elif self._host:
            self._attach_soon()  # we have become a member of a bus, perhaps just after the host has refused us

    def _from_host(self, envelope: Envelope) -> bool:
        if envelope.source == BRIDGE:
            return True
        self._endpoint.counters["not_the_bridge"] += 1
        return False
