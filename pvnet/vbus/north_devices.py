"""The devices that the host has announced, each with its driver and the driver's tasks.

::

    UNBOUND (no driver) ──▶ PROBING ──▶ BOUND ──▶ REMOVING ──▶ gone (DEVDROP) or RETRYING ──▶ PROBING ...

A driver's generator is a *task*; a device has one at a time, further ones wait.  When the device is to go, the running
task gets ENODEV at its next request, waiting ones are closed unrun, then the driver's ``remove`` runs and DEVCLOSE
follows if it is still open.

Spec: vbus 2, 4.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pvnet.core.errors import LocalError
from pvnet.ring.layout import SIGNAL_OFFSET, Fence
from pvnet.ring.shm_signal import ShmSignal, Signal
from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.device import MAX_CALL_DATA
from pvnet.vbus.north_driver import NO_SIGNAL, Call, Close, NorthDriver, Open, Request, Shm, Steps
from pvnet.vbus.north_signals import DriverSignal, NorthSignals, nothing


class DeviceState(Enum):
    """State of an announced device."""

    UNBOUND = "unbound"
    PROBING = "probing"
    BOUND = "bound"
    REMOVING = "removing"
    RETRYING = "retrying"


class TaskKind(Enum):
    """What a task is for; only those of the driver's choice end when the device goes."""

    PROBE = "probe"
    RUN = "run"
    REMOVE = "remove"
    CLOSE = "close"


@dataclass(slots=True, eq=False)
class Task:
    """A driver's generator."""

    kind: TaskKind
    steps: Steps
    request: Request | None = None
    """What it waits for; ``None`` before its first step."""
    failures: int = 0
    """Requests refused in a row without reaching the host."""


class Bridge(Protocol):
    """What devices need of the machine that they are part of."""

    arena: Arena
    allocator: ArenaAllocator
    fence: Fence
    signals: NorthSignals

    @property
    def allow_2026(self) -> bool:
        """Whether IOQ-2026 was agreed."""
        ...

    def now(self) -> float:
        """Time of the current input."""
        ...

    def defer(self, proxy: Proxy, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input."""
        ...

    def start(self, proxy: Proxy) -> None:
        """The device has a task to begin."""
        ...


class Proxy:
    """One device: the :class:`~pvnet.vbus.north_driver.ProxyDevice` that a driver sees."""

    def __init__(self, bridge: Bridge, id: int, type: str) -> None:  # noqa: A002
        self._bridge = bridge
        self.id = id
        self.type = type
        self.handle = 0
        self.driver: NorthDriver | None = None
        self.state = DeviceState.UNBOUND
        self.gone = False
        """DEVDROP: the end of REMOVING is the end of the device."""
        self.next_type: str | None = None
        """DEVADD of the same id came meanwhile: then the next device begins."""
        self.announced = False
        """DeviceBound was said, DeviceUnbound is owed."""
        self.retry_at: float | None = None
        self.retries = 0
        self.task: Task | None = None
        self.tasks: deque[Task] = deque()
        self.signals: list[DriverSignal] = []

    @property
    def arena(self) -> Arena:
        """The partition's shared memory."""
        return self._bridge.arena

    @property
    def allocator(self) -> ArenaAllocator:
        """Where rings and buffers come from."""
        return self._bridge.allocator

    @property
    def fence(self) -> Fence:
        """Full fence."""
        return self._bridge.fence

    @property
    def allow_2026(self) -> bool:
        """Whether the host agreed on IOQ-2026."""
        return self._bridge.allow_2026

    def now(self) -> float:
        """Time of the current input."""
        return self._bridge.now()

    def defer(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, in the same turn."""
        self._bridge.defer(self, callback)

    @property
    def bound(self) -> bool:
        """Whether the driver has it: being brought up, or up."""
        return self.state in {DeviceState.PROBING, DeviceState.BOUND}

    def device_closed(self) -> None:
        """DEVCLOSE, or as good as that: the handle and all signals are dead."""
        self.handle = 0
        for signal in self.signals:
            self._bridge.signals.device_closed(signal)

    def run(self, steps: Steps) -> None:
        """Run more requests, after those that run already; a failure that ``steps`` does not catch is only noted."""
        if self.state in {DeviceState.REMOVING, DeviceState.RETRYING}:
            steps.close()
            return
        self.tasks.append(Task(TaskKind.RUN, steps))
        self._bridge.start(self)

    def open(self, version: int) -> Open:
        """DEVOPEN."""
        return Open(self, version)

    def close(self) -> Close:
        """DEVCLOSE."""
        return Close(self)

    def call(self, func: int, data: bytearray | None = None, flags: int = 0) -> Call:
        """DEVCALL; see :meth:`pvnet.vbus.north_driver.ProxyDevice.call`."""
        data = bytearray() if data is None else data
        if len(data) > MAX_CALL_DATA:
            raise LocalError(f"devcall with {len(data)} bytes, at most {MAX_CALL_DATA}")
        return Call(self, func, data, flags)

    def shm(
        self,
        id: int,  # noqa: A002
        address: int,
        length: int,
        *,
        signal: Signal | None = None,
        signal_offset: int | None = None,
        prio: int = 0,
        on_wakeup: Callable[[], None] | None = None,
    ) -> Shm:
        """DEVSHM; see :meth:`pvnet.vbus.north_driver.ProxyDevice.shm`."""
        if signal is None and signal_offset is None:
            return Shm(self, id, address, length, NO_SIGNAL, 0, None)
        offset = SIGNAL_OFFSET if signal_offset is None else signal_offset
        if signal is None:
            signal = ShmSignal.create(self.arena.slice(address, length), offset, self.fence)
        made = DriverSignal(self._bridge.signals, self.id, signal, on_wakeup or nothing)
        return Shm(self, id, address, length, offset, prio, made)
