"""One arena of a partition with one vbus host: the bridge's guest half, and how its calls and doorbells get there.

With a direct path the arena is shared memory, and doorbells are eventfds; else it is a copy, whose changes travel with
messages (``vbus_mirror``).  What the host answers or sends is checked by kind here and by content in the machine
(:mod:`pvnet.vbus.north`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from mmap import mmap
from typing import Final, assert_never

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EIO, ENOENT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.vbus_pb2 import VbusWrite
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.eventfd import EventFd
from pvnet.runtime.fence import full_fence
from pvnet.runtime.memfd import create_sealed
from pvnet.runtime.topology import BRIDGE
from pvnet.transport.unix_socket import close_all
from pvnet.vbus import bridge_io as io
from pvnet.vbus.arena import DEFAULT_BASE, Arena, ArenaAllocator
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.mirror import Mirror
from pvnet.vbus.north import VbusNorth
from pvnet.vbus.north_driver import NorthDriver
from pvnet.vbus.north_io import (
    BridgeDown,
    BridgeUp,
    DeviceBound,
    DeviceUnbound,
    HostGone,
    NorthInput,
    NorthOutput,
    Start,
    Stop,
)
from pvnet_services.vbus_host import ARENA_LABEL, NUMBER, SIGNAL_LABEL, close_pair
from pvnet_services.vbus_mirror import MirrorLink

_CALL_TIMEOUT_S: Final = 30.0


class Attachment:
    """One arena with one host: lives until the host is gone or the partition leaves."""

    def __init__(
        self,
        endpoint: Endpoint,
        size: int,
        drivers: Mapping[str, NorthDriver],
        *,
        shared: bool,
        ended: Callable[[], None],
        note: Callable[[Note], None] | None = None,
    ) -> None:
        self.accepted = False
        """The host has said yes."""
        self._endpoint = endpoint
        self._ended = ended
        self._note = note if note is not None else endpoint.note
        self.is_shared = shared
        """Whether both sides work on the same bytes."""
        self._memory: mmap | bytearray
        self._fd = -1
        self._mirror: MirrorLink | None = None
        self._kick: EventFd | None = None
        self._irq: EventFd | None = None
        self._signals: dict[int, tuple[EventFd, EventFd]] = {}
        self._loop = asyncio.get_running_loop()
        self.down = asyncio.Event()
        if shared:
            self._kick, self._irq = _two_eventfds()
            try:
                self._memory, self._fd = create_sealed(size, f"{endpoint.name}-vbus")
            except BaseException:
                close_pair((self._kick, self._irq))
                raise
            view = memoryview(self._memory)
        else:
            self._memory = bytearray(size)
            view = memoryview(self._memory)
            self._mirror = MirrorLink(Mirror(view), DEFAULT_BASE, self._post)
        self.arena = Arena(view, DEFAULT_BASE)
        self.machine = VbusNorth(
            self.arena, ArenaAllocator(DEFAULT_BASE, size), drivers, full_fence, on_ready=self._wants_turn
        )
        self.driver = Driver[NorthInput, NorthOutput](self.machine, self._carry_out, self._settled)

    async def attach(self, number: int) -> int:
        """Offer the arena; returns 0 or -errno, and the bridge comes up by itself after 0.

        Raises:
            UnreachableError: the host is not there any more.
        """
        envelope = Envelope()
        body = envelope.vbus_attach
        body.base, body.bytes = self.arena.base, self.arena.size
        if self._kick is not None and self._irq is not None:
            fds = [self._fd, self._kick.fd, self._irq.fd]
            if not self._endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(number), fds):
                return -ENOENT
            body.shared = number
            self._irq.listen(partial(self.feed, io.Interrupt(0)))
        reply = await self._endpoint.call(BRIDGE, envelope, _CALL_TIMEOUT_S, wait_for_peer=False)
        if reply.WhichOneof("body") != "vbus_reply":
            return -EIO
        result = reply.vbus_reply.result
        if not result:
            self.accepted = True
            self.feed(Start())
        return result

    # --- in ----------------------------------------------------------------------------------------------------------

    def feed(self, event: NorthInput | Tick) -> None:
        """Give the bridge an input."""
        self.driver.feed(event)

    def run(self) -> None:
        """Carry out now what a driver has done between two inputs."""
        self.driver.feed(Tick())

    def sent(self) -> None:
        """A driver has sent something between two inputs: where the arena is kept in two copies it has to be shipped.

        In shared memory the signal's own bell has rung already, or ``on_ready`` has asked for a turn.
        """
        if self._mirror is not None:
            self.driver.feed(Tick())

    def _wants_turn(self) -> None:
        self._loop.call_soon(self.run)

    def irq(self, envelope: Envelope) -> None:
        """The interrupt of an event queue."""
        self._store(envelope.vbus_irq.writes)
        self.feed(io.Interrupt(envelope.vbus_irq.queue))

    def update(self, envelope: Envelope) -> None:
        """Stores of the host."""
        self._store(envelope.vbus_update.writes, more=envelope.vbus_update.more)

    def _store(self, writes: Iterable[VbusWrite], *, more: bool = False) -> None:
        try:
            if self._mirror is not None and self._mirror.take(writes, more=more):
                self.feed(io.MemoryChanged())
        except VbusError as error:
            self._note(Note("vbus_bad_message", (("reason", str(error)),), "warning"))

    # --- out ---------------------------------------------------------------------------------------------------------

    def _post(self, envelope: Envelope) -> None:
        self._endpoint.post(BRIDGE, envelope)

    def _carry_out(self, output: NorthOutput) -> None:
        match output:
            case io.BridgeCall(tag, call):
                envelope = Envelope()
                envelope.vbus_call.call = call
                if self._mirror is not None:
                    self._mirror.fill(envelope.vbus_call.writes)
                self._endpoint.call_back(BRIDGE, envelope, _CALL_TIMEOUT_S, partial(self._returned, tag))
            case io.Doorbell():
                self._ring(output)
            case io.SignalOpened(cookie, _):
                self._open_signal(cookie)
            case io.SignalClosed(cookie):
                self.machine.signals.use_bell(cookie, None)
                close_pair(self._signals.pop(cookie, ()))
            case BridgeUp(capabilities):
                memory = "shared" if self.is_shared else "mirror"
                self._note(Note("vbus_up", (("memory", memory), ("capabilities", capabilities)), "info"))
            case BridgeDown(reason):
                self._note(Note("vbus_down", (("reason", reason),), "info"))
                self.down.set()
            case DeviceBound(device, kind) | DeviceUnbound(device, kind):
                what = "device_bound" if isinstance(output, DeviceBound) else "device_unbound"
                self._note(Note(what, (("device", device), ("type", kind)), "info"))
            case Note():
                self._note(output)
            case _:
                assert_never(output)

    def _returned(self, tag: int, result: Envelope | PvnetError) -> None:
        if isinstance(result, PvnetError) or result.WhichOneof("body") != "vbus_reply":
            self.feed(io.BridgeResult(tag, -EIO))
            return
        self._store(result.vbus_reply.writes)
        self.feed(io.BridgeResult(tag, result.vbus_reply.result))

    def _ring(self, doorbell: io.Doorbell) -> None:
        pair = self._signals.get(doorbell.cookie)
        if pair is not None:
            pair[0].ring()
        elif self._kick is not None and doorbell.offset == Register.EVENTQ:
            self._kick.ring()
        else:
            envelope = Envelope()
            body = envelope.vbus_doorbell
            body.offset, body.value = doorbell.offset, doorbell.value
            if self._mirror is not None:
                self._mirror.fill(body.writes)
            self._post(envelope)

    def _open_signal(self, cookie: int) -> None:
        """Give a signal eventfds of its own, where descriptors can be passed."""
        if self._mirror is not None:
            return
        try:
            pair = _two_eventfds()
        except ConfigError:
            return  # no descriptors left: its doorbell goes as a message
        if self._endpoint.share(BRIDGE, SIGNAL_LABEL, NUMBER.pack(cookie), [pair[0].fd, pair[1].fd]):
            self._signals[cookie] = pair
            pair[1].listen(partial(self.feed, io.SignalRang(cookie)))
            self.machine.signals.use_bell(cookie, pair[0].ring)
            pair[0].ring()  # before the host listens a ring would wait there; this one finds what was missed
        else:
            close_pair(pair)  # the path has just broken: its doorbell goes as a message

    def _settled(self) -> None:
        if self._mirror is not None:
            self._mirror.flush()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def leave(self, timeout: float) -> None:
        """Remove every device in good order, but not longer than ``timeout`` seconds."""
        self.feed(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.down.wait()

    def end(self) -> None:
        """The host is gone, or we are."""
        self.driver.feed(HostGone())
        self.driver.close()
        close_pair(each for each in (self._kick, self._irq) if each is not None)
        for pair in self._signals.values():
            close_pair(pair)
        self._signals.clear()
        if self._fd >= 0:
            close_all([self._fd])
            self._fd = -1
        self._ended()
        # Machine, driver and drivers refer to each other; the memory must not wait until the collector finds them.
        self.arena.close()
        self._memory = bytearray()
        self._mirror = None

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        return {
            **self.machine.shown(),
            "shared": self.is_shared,
            "direct_signals": len(self._signals),
            "arena_used": self.machine.allocator.used,
        }


def _two_eventfds() -> tuple[EventFd, EventFd]:
    """Two new doorbells; ConfigError when there are no descriptors left."""
    fds: list[EventFd] = []
    try:
        fds.append(EventFd())
        return fds[0], EventFd()
    except OSError as error:
        close_pair(fds)
        raise ConfigError(f"eventfd: {error.strerror}") from None
