"""The partition's half of the bridge: brings it up, follows the host's devices, runs their drivers.

::

            Start                 0                    0
    DOWN ──────────▶ NEGOTIATING ──▶ REGISTERING ────────▶ UP        < 0: DOWN, tried again after a while
      ▲                                                    │
      └── HostGone, or the host broke the event queue ─────┤
      └── Stop: STOPPING until every device is removed ────┘

* **Devices** (:mod:`pvnet.vbus.north_devices`): DEVADD starts the driver of exactly that type; a device without one
  waits for :meth:`VbusNorth.add_driver`.  A probe that fails, or a driver whose ring the host broke, is taken down and
  tried again with growing pauses: nothing that was announced is lost for ever.
* **Events** are read in passes with a budget (:mod:`pvnet.vbus.event_loop`), wakeups after them, at most
  :data:`BUDGET` a turn; what is left makes :meth:`VbusNorth.deadline` due at once.
* **A rescue poll** looks every 100 ms for what nobody rang for, and counts it.  With an honest host it stays 0.
* **Drivers work at any time**: when one sends between turns, :attr:`VbusNorth.on_ready` asks once for a Tick.

Whatever the host writes wherever and whenever, :meth:`feed` does not raise, and does a bounded amount of work.

Spec: vbus 2, 3.3, 4.3, 4.4, 11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, assert_never

from pvnet.core.errors import LocalError, PvnetError, WireError
from pvnet.core.machine import Counters, Tick
from pvnet.papr.errno import name_of
from pvnet.ring.layout import Descriptor, Fence
from pvnet.ring.roles import Pattern, RxNorth, Variant, create_ring, ring_bytes
from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.bridge_io import BridgeResult, Doorbell, Interrupt, MemoryChanged, SignalRang
from pvnet.vbus.event_loop import EventLoop
from pvnet.vbus.layout import (
    CAP_IOQ_2026,
    EVENT_BYTES,
    BridgeVector,
    Event,
    EventId,
    EventQueue,
    Negotiate,
    encode_queues,
)
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.north_calls import NorthCalls, SystemCall
from pvnet.vbus.north_devices import Proxy
from pvnet.vbus.north_driver import NorthDriver
from pvnet.vbus.north_io import (
    BridgeDown,
    BridgePlaces,
    BridgeUp,
    HostGone,
    NorthInput,
    NorthOutput,
    Start,
    Stop,
    VbusNorthConfig,
)
from pvnet.vbus.north_signals import DriverSignal, NorthSignals, nothing
from pvnet.vbus.north_tasks import NorthTasks
from pvnet.vbus.notes import Notes

BUDGET: Final = 64
"""Wakeups and deferred callbacks that one turn runs of each."""


class NorthState(Enum):
    """State of the bridge."""

    DOWN = "down"
    NEGOTIATING = "negotiating"
    REGISTERING = "registering"
    UP = "up"
    STOPPING = "stopping"


class VbusNorth:
    """A partition's bridge; see the module's text.

    :param arena: the shared memory.
    :param allocator: of the whole arena, for the bridge and the drivers.
    :param drivers: by exact device type.
    :param places: where the bridge's structures go; ``None``: from the allocator.
    :param on_ready: called, from a driver's doing outside of a turn, when a Tick is wanted now.
    """

    def __init__(
        self,
        arena: Arena,
        allocator: ArenaAllocator,
        drivers: Mapping[str, NorthDriver],
        fence: Fence,
        config: VbusNorthConfig | None = None,
        places: BridgePlaces | None = None,
        on_ready: Callable[[], None] = nothing,
    ) -> None:
        self.arena = arena
        self.allocator = allocator
        self.fence = fence
        self.config = config if config is not None else VbusNorthConfig()
        self.on_ready = on_ready
        self.counters = Counters()
        self.state = NorthState.DOWN
        self.capabilities = 0
        self.signals = NorthSignals(
            self.counters, self.config.first_signal, self.config.signals, self._emit, self._ready
        )
        self.calls = NorthCalls(arena, allocator, self.signals, self.counters, self._emit, self._resume)
        self.tasks = NorthTasks(self, self.config, drivers)
        self._places = places
        self._loop: EventLoop | None = None
        self._notes = Notes()
        self._out: list[NorthOutput] = []
        self._deferred: deque[tuple[Proxy, Callable[[], None]]] = deque()
        self._running = False
        self._asked = False
        self._now = 0.0
        self._next_poll = 0.0
        self._start_at: float | None = None
        self._retries = 0

    # -- the machine -------------------------------------------------------------------------------------------------

    def feed(self, event: NorthInput, now: float) -> list[NorthOutput]:
        """Consume one input.

        :raises LocalError: called from inside a turn.
        :raises VbusError: ENOMEM, at the first Start: the allocator has no room for the bridge's own structures.
        """
        if self._running:
            raise LocalError("VbusNorth.feed inside of feed")
        self._now = now
        self._running = True
        self._asked = False
        try:
            self._take(event)
            self._settle()
        finally:
            self._running = False
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        """The time of the last input (that is: now) when work is left over, else of the next poll or try."""
        if self._out or self._deferred or self.signals.busy or self.tasks.busy or (self._loop and self._loop.busy):
            return self._now
        if self._start_at is None and not self.tasks.retrying:
            return self._next_poll if self._loop is not None else None
        times = [self._next_poll if self._loop is not None else None, self._start_at, self.tasks.next_retry]
        return min((time for time in times if time is not None), default=None)

    def add_driver(self, type: str, driver: NorthDriver) -> None:  # noqa: A002
        """From now on ``driver`` has the devices of this type, those that wait for one too."""
        self.tasks.add_driver(type, driver)
        self._ready()

    def shown(self) -> dict[str, object]:
        """State, devices and counters as plain values, for showing and JSON."""
        return {
            "state": self.state.value,
            "capabilities": self.capabilities,
            "devices": self.tasks.shown(),
            "signals": len(self.signals),
            "counters": dict(self.counters),
        }

    def _take(self, event: NorthInput) -> None:
        match event:  # the most frequent first
            case SignalRang(cookie):
                self.signals.rang(cookie)
            case Tick():
                pass
            case Interrupt(queue):
                self.counters["qnotify"] += 1
                if self._loop is not None:
                    self._loop.interrupt(queue)
            case MemoryChanged():
                self.signals.memory_changed()
                if self._loop is not None:
                    self._loop.memory_changed()
            case BridgeResult():
                self.calls.returned(event)
            case Start():
                self._start()
            case Stop():
                self._stop()
            case HostGone():
                self._lose("host_gone")
            case _:
                assert_never(event)

    def _settle(self) -> None:
        # Each step only when it has something to do: most turns are one signal's wakeup.
        if self._now >= self._next_poll or self._start_at is not None or self.tasks.retrying:
            self._timers()
        if self._deferred:
            self._run_deferred()
        if self._loop is not None and self._loop.busy:
            try:
                self._loop.run(self._dispatch)
            except PvnetError as error:
                self.warn("event_queue_fault", reason=str(error))
                self._fail("host_fault")
        if self.signals.busy:
            self.signals.run(BUDGET, self._wakeup_failed)
        if self._deferred:
            self._run_deferred()
        if self.tasks.busy:
            self.tasks.begin()
        self.calls.pump()
        if self.state is NorthState.STOPPING and not self.tasks.devices and self.calls.idle:
            self._lose("stopped")

    def _timers(self) -> None:
        if self._start_at is not None and self._now >= self._start_at:
            self._start()
        self.tasks.retry(self._now)
        if self._loop is not None and self._now >= self._next_poll:
            self._next_poll = self._now + self.config.poll
            self.signals.recheck()
            self._loop.recheck()

    def _run_deferred(self) -> None:
        for _ in range(min(BUDGET, len(self._deferred))):
            proxy, callback = self._deferred.popleft()
            if proxy.bound:
                try:
                    callback()
                except PvnetError as error:
                    self.tasks.fault(proxy, error)

    def _wakeup_failed(self, signal: DriverSignal, error: Exception) -> None:
        proxy = self.tasks.devices.get(signal.owner)
        if proxy is not None:
            self.tasks.fault(proxy, error)

    def _emit(self, output: NorthOutput) -> None:
        self._out.append(output)

    def _ready(self) -> None:
        if not (self._running or self._asked):
            self._asked = True
            self.on_ready()

    def _ring_queue(self, number: int) -> None:
        self._emit(Doorbell(Register.EVENTQ, number))

    # -- what devices and tasks need ---------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether requests can reach the host."""
        return self.state in {NorthState.REGISTERING, NorthState.UP, NorthState.STOPPING}

    @property
    def allow_2026(self) -> bool:
        """Whether IOQ-2026 was agreed."""
        return bool(self.capabilities & CAP_IOQ_2026)

    def now(self) -> float:
        """Time of the current, or the last, input."""
        return self._now

    def defer(self, proxy: Proxy, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, unless the device is being removed by then."""
        self._deferred.append((proxy, callback))
        self._ready()

    def start(self, proxy: Proxy) -> None:
        """The device has a task to begin."""
        self.tasks.kick(proxy)
        self._ready()

    def say(self, output: NorthOutput) -> None:
        """An output of the tasks."""
        self._emit(output)

    def warn(self, event: str, **fields: int | str) -> None:
        """A note of level warning."""
        self._out += self._notes.note(event, self._now, fields)

    def _resume(self, proxy: Proxy, value: int, error: PvnetError | None) -> None:
        self.tasks.resume(proxy, value, error)

    # -- up and down -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.state is not NorthState.DOWN:
            self._lose("restarted")
        self._start_at = None
        if self._places is None:
            self._places = self._allocate()
        self.calls.places = self._places
        self.state = NorthState.NEGOTIATING
        asked = Negotiate(capabilities=CAP_IOQ_2026 if self.config.ask_2026 else 0)
        self.calls.system(SystemCall(BridgeVector.NEGOTIATE, asked.encode(), self._negotiated))

    def _allocate(self) -> BridgePlaces:
        ring, events = ring_bytes(self.config.events, Variant.IOQ_2009), self.config.events * EVENT_BYTES
        queues = [(self.allocator.alloc(ring), self.allocator.alloc(events)) for _ in range(self.config.queues)]
        return BridgePlaces(tuple(queues), self.allocator.alloc(16), self.allocator.alloc(8 + 24 * len(queues) + 64))

    def _negotiated(self, result: int, parameters: bytes) -> None:
        if self.state is NorthState.STOPPING:
            return
        if result < 0:
            self._refused("negotiate_refused", result)
            return
        try:
            answer = Negotiate.decode(parameters).capabilities
        except WireError as error:
            self.warn("negotiate_garbled", reason=str(error))
            self._fail("host_fault")
            return
        self.capabilities = answer & (CAP_IOQ_2026 if self.config.ask_2026 else 0)
        assert self._places is not None
        rings = [self._ring(ring, events) for ring, events in self._places.queues]
        self._loop = EventLoop(rings, self.arena, self.counters, self._ring_queue)
        self._loop.start()
        self._next_poll = self._now + self.config.poll
        self.state = NorthState.REGISTERING
        wish = [EventQueue(self.config.events, ring, events) for ring, events in self._places.queues]
        self.calls.system(SystemCall(BridgeVector.QREG, encode_queues(wish), self._registered))

    def _ring(self, ring: int, events: int) -> RxNorth:
        count = self.config.events
        view = self.arena.slice(ring, ring_bytes(count, Variant.IOQ_2009))
        view[:] = bytes(len(view))
        self.arena.write(events, bytes(count * EVENT_BYTES))
        role = create_ring(view, count, Pattern.RX, self.fence)
        role.provide([Descriptor(slot, events + slot * EVENT_BYTES, EVENT_BYTES) for slot in range(count)])
        return role

    def _registered(self, result: int, _: bytes) -> None:
        if self.state is NorthState.STOPPING:
            return
        if result < 0:
            self._refused("qreg_refused", result)
            return
        self.state = NorthState.UP
        self._retries = 0
        self._emit(BridgeUp(self.capabilities))

    def _refused(self, event: str, result: int) -> None:
        self.warn(event, result=name_of(result))
        self._fail("refused")

    def _fail(self, reason: str) -> None:
        """The host does not keep to the rules: start from scratch after a while."""
        self._lose(reason)
        self._start_at = self._now + min(self.config.retry * 2**self._retries, self.config.retry_most)
        self._retries = min(self._retries + 1, 16)

    def _stop(self) -> None:
        self._start_at = None
        if self.state is NorthState.DOWN:
            self._emit(BridgeDown("stopped"))
            return
        self.state = NorthState.STOPPING
        for proxy in list(self.tasks.devices.values()):
            self.tasks.drop(proxy)

    def _lose(self, reason: str) -> None:
        self._start_at = None
        if self.state is NorthState.DOWN:
            return
        self.state = NorthState.DOWN
        self._loop = None
        self.calls.clear()
        self.tasks.host_gone()
        self.signals.drop_host()
        self._deferred.clear()
        self.capabilities = 0
        self._emit(BridgeDown(reason))

    # -- events ------------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        match event.id:
            case EventId.DEVADD:
                if self.state is not NorthState.STOPPING:
                    self.tasks.add(event.handle, event.type)
            case EventId.DEVDROP:
                self.tasks.drop_id(event.handle)
            case EventId.SHMSIGNAL:
                self.signals.rang(event.handle)
            case _:
                self.signals.host_closed(event.handle)
