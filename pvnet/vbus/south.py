"""The vbus host's half of the bridge to one partition: registers in, interrupts out.

::

              NEGOTIATE                QREG
    INIT ────────────────▶ NEGOTIATED ──────▶ READY         any NEGOTIATE: everything is reset, NEGOTIATED
      └──────────── ClientGone: everything is reset, GONE ────────┘

In READY the client follows its bus: the devices that are there are announced, later changes too.  A call in the wrong
state is EINVAL; NEGOTIATE of a partition that is a member of no bus is EPERM.

**One turn** (:meth:`VbusSouth.feed`) executes the input, then what devices asked for meanwhile, then wakeups, at most
:data:`BUDGET` of them, and copies events into the client's rings last, with one interrupt per queue.  What is left
makes :meth:`VbusSouth.deadline` due at once, so that other clients have their turn first.

**Devices work at any time**, also between turns, when another partition's packet arrives: they raise signals, and
:attr:`VbusSouth.on_ready` then asks, once, for a :class:`~pvnet.core.machine.Tick`.

**Nothing re-enters.**  A call that arrives while one is executed (a device that calls its own bridge) is EBUSY, any
other input waits for the end of the turn (A24).

Whatever the client writes wherever and whenever, and whatever its devices raise, :meth:`feed` does not raise, and does
a bounded amount of work.

Spec: vbus 3.3, 3.5, 4, 11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, assert_never

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters, Tick
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOSPC
from pvnet.ring.errors import RingError
from pvnet.ring.layout import Fence
from pvnet.ring.roles import Pattern, Variant, attach_ring, ring_bytes
from pvnet.vbus.arena import Arena
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    ClientGone,
    DeviceAdded,
    DeviceDropped,
    Doorbell,
    Interrupt,
    MemoryChanged,
    SignalBound,
    SignalRang,
)
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.errors import VbusError
from pvnet.vbus.event_queue import SouthQueue, SouthQueues
from pvnet.vbus.layout import (
    CAP_IOQ_2026,
    EVENT_BYTES,
    MAX_EVENTS,
    BridgeVector,
    CallDescriptor,
    EventQueue,
    FastcallDescriptor,
    Negotiate,
    decode_queues,
    result_word,
)
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.notes import Notes
from pvnet.vbus.south_calls import BusCalls, OpenDevice
from pvnet.vbus.south_io import BusCall, SouthInput, SouthOutput, VbusSouthConfig
from pvnet.vbus.south_signals import SouthSignals

BUDGET: Final = 64
"""Wakeups, deferred callbacks and waiting inputs that one turn runs of each."""


class SouthState(Enum):
    """State of the bridge."""

    INIT = "init"
    NEGOTIATED = "negotiated"
    READY = "ready"
    GONE = "gone"


def _nothing() -> None:
    pass


class VbusSouth:
    """One client's bridge; see the module's text.

    :param client: name of the partition, which must be a member of a bus of ``registry``.
    :param arena: its memory.
    :param on_ready: called, from a device's doing outside of a turn, when a Tick is wanted now.
    """

    def __init__(
        self,
        client: str,
        arena: Arena,
        registry: BusRegistry,
        fence: Fence,
        config: VbusSouthConfig | None = None,
        on_ready: Callable[[], None] = _nothing,
    ) -> None:
        self.client = client
        self.arena = arena
        self.config = config if config is not None else VbusSouthConfig()
        self.on_ready = on_ready
        self.counters = Counters()
        self.state = SouthState.INIT
        self.capabilities = 0
        self.queues = SouthQueues(self.counters)
        self.signals = SouthSignals(self.queues, self.counters, self.config.signals, self._emit, self._ready)
        self.calls = BusCalls(
            client,
            arena,
            fence,
            lambda: registry.bus_of(client),
            self.signals,
            self.counters,
            turn=self,
            handles=self.config.handles,
        )
        self._registry = registry
        self._fence = fence
        self._notes = Notes()
        self._out: list[SouthOutput] = []
        self._deferred: deque[tuple[OpenDevice, Callable[[], None]]] = deque()
        self._waiting: deque[SouthInput] = deque()
        self._channels: dict[int, int] = {}
        self._running = False
        self._asked = False
        self._now = 0.0
        self._next_poll = 0.0

    # -- the machine -------------------------------------------------------------------------------------------------

    def feed(self, event: SouthInput, now: float) -> list[SouthOutput]:
        """Consume one input; never raises, whatever the client has written and its devices do."""
        if self._running:
            return self._nested(event)
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
        """The time of the last input (that is: now) when work is left over, else of the next rescue poll."""
        if self._busy:
            return self._now
        return self._next_poll if self._polls else None

    @property
    def _busy(self) -> bool:
        return bool(self._deferred or self._waiting or self._out) or self.signals.busy or self.queues.busy

    @property
    def _polls(self) -> bool:
        return self.state is SouthState.READY and (len(self.signals) > 0 or self.queues.backlog > 0)

    def _nested(self, event: SouthInput) -> list[SouthOutput]:
        if isinstance(event, BridgeCall | BusCall):
            self.counters["recursion"] += 1
            return [BridgeResult(event.tag, -EBUSY)]
        self._waiting.append(event)
        return []

    def _take(self, event: SouthInput) -> None:
        if self.state is SouthState.GONE:
            if isinstance(event, BridgeCall | BusCall):
                self._emit(BridgeResult(event.tag, -EIO))
            return
        match event:  # the most frequent first
            case SignalRang(cookie):
                self.signals.rang(cookie)
            case Doorbell(offset, value):
                self._doorbell(offset, value)
            case BridgeCall(tag, call):
                self._emit(BridgeResult(tag, self._bridge_call(call)))
            case BusCall(tag, call):
                self._emit(BridgeResult(tag, self._bus_call(call)))
            case SignalBound(cookie, bell):
                self.signals.bind(cookie, bell)
            case MemoryChanged():
                self.signals.memory_changed()
                self.queues.memory_changed()
            case DeviceAdded(id_, type_):
                self.queues.device_added(id_, type_)
            case DeviceDropped(id_):
                self.queues.device_dropped(id_)
            case ClientGone():
                self._reset()
                self.state = SouthState.GONE
            case Tick():
                self._poll()
            case _:
                assert_never(event)

    def _settle(self) -> None:
        # Each step only when it has something to do: most turns are one signal's wakeup.
        for _ in range(min(BUDGET, len(self._waiting))):
            self._take(self._waiting.popleft())
        if self._deferred:
            self._run_deferred()
        if self.signals.busy:
            self.signals.run(BUDGET, self.calls.signal_fault)
        if self._deferred:
            self._run_deferred()
        if self.queues.busy or self.queues.backlog:
            self._interrupts(*self.queues.flush())

    def _run_deferred(self) -> None:
        for _ in range(min(BUDGET, len(self._deferred))):
            opened, callback = self._deferred.popleft()
            if opened.connection is None:
                continue
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - a device's own code must cost only its connection
                self.calls.failed(opened, "deferred work", error)

    def _interrupts(self, due: list[int], faults: list[str]) -> None:
        for number in due:
            self.counters["qnotify"] += 1
            self._emit(Interrupt(number))
        for text in faults:
            self.counters["faults"] += 1
            self.warn("event_queue_fault", reason=text)

    def _poll(self) -> None:
        if self._now < self._next_poll:
            return
        self._next_poll = self._now + self.config.poll
        if self.state is SouthState.READY:
            self.signals.recheck()
            self.queues.recheck()

    def _emit(self, output: SouthOutput) -> None:
        self._out.append(output)

    def _ready(self) -> None:
        if not (self._running or self._asked or self.state is SouthState.GONE):
            self._asked = True
            self.on_ready()

    # -- what connections need ---------------------------------------------------------------------------------------

    def defer(self, opened: OpenDevice, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, unless the connection has ended by then."""
        self._deferred.append((opened, callback))
        self._ready()

    def now(self) -> float:
        """Time of the current, or the last, input."""
        return self._now

    def warn(self, event: str, **fields: int | str) -> None:
        """A note of level warning, with the client's name."""
        self._out += self._notes.note(event, self._now, {"client": self.client, **fields})
        self._ready()

    # -- what the bus announces --------------------------------------------------------------------------------------

    def device_added(self, id: int, type: str) -> None:  # noqa: A002
        """A device is on the bus."""
        self.queues.device_added(id, type)
        self._ready()

    def device_dropped(self, id: int) -> None:  # noqa: A002
        """A device has left the bus; its connection, if any, goes on."""
        self.queues.device_dropped(id)
        self._ready()

    def device_revoked(self, id: int) -> None:  # noqa: A002
        """A device is taken away by force."""
        for opened in self.calls.opened:
            if opened.id == id and self._running:
                self.defer(opened, opened.end)
            elif opened.id == id:
                opened.end()

    # -- registers ---------------------------------------------------------------------------------------------------

    def _bridge_call(self, raw: bytes) -> int:
        self.counters["bridgecalls"] += 1
        try:
            call = CallDescriptor.decode(raw)
            match BridgeVector(call.vector):
                case BridgeVector.NEGOTIATE:
                    return self._negotiate(call)
                case BridgeVector.QREG:
                    return self._qreg(call)
                case BridgeVector.SLOWCALL:
                    return self._bus_call(self._parameters(call, CallDescriptor.size()))
                case BridgeVector.FASTCALL_ADD:
                    return self._fastcall_add(call)
                case BridgeVector.FASTCALL_DROP:
                    return self._fastcall_drop(call)
        except (WireError, ValueError):
            return -EINVAL
        except VbusError as error:
            return -error.errno

    def _parameters(self, call: CallDescriptor, size: int) -> bytes:
        if call.length != size:
            raise VbusError(EINVAL, f"parameters of {call.length} bytes, expected {size}")
        return self.arena.read(call.address, size)

    def _negotiate(self, call: CallDescriptor) -> int:
        request = Negotiate.decode(self._parameters(call, Negotiate.size()))
        self._registry.bus_of(self.client)
        self._reset()
        self.capabilities = request.capabilities & (CAP_IOQ_2026 if self.config.allow_2026 else 0)
        self.calls.allow_2026 = bool(self.capabilities & CAP_IOQ_2026)
        self.arena.write(call.address, Negotiate(capabilities=self.capabilities).encode())
        self.state = SouthState.NEGOTIATED
        return 0

    def _qreg(self, call: CallDescriptor) -> int:
        if self.state is not SouthState.NEGOTIATED:
            return -EINVAL
        if call.length != 8 + self.config.queues * EventQueue.size():
            return -EINVAL
        self.queues.assign([self._queue(wish) for wish in decode_queues(self.arena.read(call.address, call.length))])
        self.state = SouthState.READY
        self._next_poll = self._now + self.config.poll
        self._registry.subscribe(self.client, self)
        return 0

    def _queue(self, wish: EventQueue) -> SouthQueue:
        if not 1 <= wish.count <= MAX_EVENTS:
            raise VbusError(EINVAL, f"event queue of {wish.count} entries")
        view = self.arena.slice(wish.ring, ring_bytes(wish.count, Variant.IOQ_2009))
        self.arena.offset(wish.data, wish.count * EVENT_BYTES)
        try:
            ring = attach_ring(view, Pattern.RX, self._fence, MAX_EVENTS)
        except RingError as error:
            raise VbusError(error.errno, str(error)) from None
        return SouthQueue(ring, self.arena, wish.data, wish.count, self.counters)

    def _bus_call(self, raw: bytes) -> int:
        if self.state is not SouthState.READY:
            return -EINVAL
        try:
            return self.calls.execute(CallDescriptor.decode(raw))
        except WireError:
            return -EINVAL

    def _fastcall_add(self, call: CallDescriptor) -> int:
        inner = CallDescriptor.decode(self._parameters(call, CallDescriptor.size()))
        if self.state not in {SouthState.NEGOTIATED, SouthState.READY} or inner.length != FastcallDescriptor.size():
            return -EINVAL
        self.arena.offset(inner.address, inner.length)
        if inner.vector in self._channels:
            return -EEXIST
        if len(self._channels) >= self.config.channels:
            return -ENOSPC
        self._channels[inner.vector] = inner.address
        return 0

    def _fastcall_drop(self, call: CallDescriptor) -> int:
        inner = CallDescriptor.decode(self._parameters(call, CallDescriptor.size()))
        return 0 if self._channels.pop(inner.vector, None) is not None else -ENOENT

    def _doorbell(self, offset: int, value: int) -> None:
        match offset:
            case Register.EVENTQ:
                self.counters["qinject"] += 1
                self._interrupts(*self.queues.rung(value))
            case Register.FASTCALL:
                self._fastcall(value)
            case Register.SHMSIGNAL:
                self.signals.doorbell(value)
            case _:
                self.counters["bad_doorbell"] += 1

    def _fastcall(self, channel: int) -> None:
        address = self._channels.get(channel)
        if address is None:
            self.counters["bad_doorbell"] += 1
            return
        self.counters["bridgecalls"] += 1
        raw = self.arena.read(address, FastcallDescriptor.size())
        try:
            call = FastcallDescriptor.decode(raw)
            result = self._bus_call(CallDescriptor(call.vector, call.length, call.address).encode())
        except WireError:
            result = -EINVAL
        self.arena.write(address + FastcallDescriptor.RESULT, result_word(result).to_bytes(4, "little"))

    def _reset(self) -> None:
        self._registry.unsubscribe(self.client)
        self.calls.reset()
        self.queues.clear()
        self.signals.clear()
        self._deferred.clear()
        self._channels.clear()
        self.capabilities = 0
        self.state = SouthState.INIT
