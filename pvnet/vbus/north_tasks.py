"""Runs the drivers' generators, and decides what follows when one ends.

A request goes to the host unless it cannot: ENODEV when the device is going or the host is gone, EINVAL when the
device is open already or not open.  A driver that goes on asking after :data:`PATIENCE` such answers in a row is
stopped.

Spec: vbus 2, 4.4, A15, A16, A18.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EINVAL, EIO, ENODEV
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_calls import NorthCalls
from pvnet.vbus.north_devices import Bridge, DeviceState, Proxy, Task, TaskKind
from pvnet.vbus.north_driver import NorthDriver, Open, Request, Steps
from pvnet.vbus.north_io import DeviceBound, DeviceUnbound, VbusNorthConfig

LAST_ID: Final = 0xFFFFFFFF
"""Largest id that DEVOPEN can name."""
PATIENCE: Final = 100
"""Requests refused in a row before a driver's generator is closed."""


class Machine(Bridge, Protocol):
    """What tasks need of the machine that they are part of."""

    counters: Counters
    calls: NorthCalls

    @property
    def up(self) -> bool:
        """Whether requests can reach the host."""
        ...

    def say(self, output: DeviceBound | DeviceUnbound) -> None:
        """Output something."""
        ...

    def warn(self, event: str, **fields: int | str) -> None:
        """Note something."""
        ...


class NorthTasks:
    """All announced devices and their tasks."""

    def __init__(self, machine: Machine, config: VbusNorthConfig, drivers: Mapping[str, NorthDriver]) -> None:
        self.devices: dict[int, Proxy] = {}
        self._machine = machine
        self._config = config
        self._drivers = dict(drivers)
        self._kicked: deque[Proxy] = deque()
        self._retrying = False

    @property
    def busy(self) -> bool:
        """Whether :meth:`begin` has something to do."""
        return bool(self._kicked)

    @property
    def retrying(self) -> bool:
        """Whether some device waits to be tried again."""
        return self._retrying

    @property
    def next_retry(self) -> float | None:
        """When the next failed device is tried again."""
        times = [proxy.retry_at for proxy in self.devices.values() if proxy.retry_at is not None]
        return min(times, default=None)

    def shown(self) -> list[dict[str, object]]:
        """The devices as plain values."""
        return [
            {"id": p.id, "type": p.type, "state": p.state.value, "handle": p.handle, "signals": len(p.signals)}
            for p in self.devices.values()
        ]

    # -- devices -----------------------------------------------------------------------------------------------------

    def add(self, id: int, type: str) -> None:  # noqa: A002
        """DEVADD; for an id that is just being removed (the partition left the bus and came back) once that is done.

        An id of more than 32 bits cannot be opened, and is not taken (A32).
        """
        leaving = self.devices.get(id)
        if leaving is not None and leaving.gone and leaving.next_type is None:
            leaving.next_type = type
            return
        if id in self.devices or id > LAST_ID or len(self.devices) >= self._config.devices:
            self._machine.counters["bad_devadd"] += 1
            return
        proxy = self.devices[id] = Proxy(self._machine, id, type)
        self._bind(proxy)

    def add_driver(self, type: str, driver: NorthDriver) -> None:  # noqa: A002
        """Bind what waits for this driver."""
        self._drivers[type] = driver
        for proxy in self.devices.values():
            if proxy.state is DeviceState.UNBOUND:
                self._bind(proxy)

    def _bind(self, proxy: Proxy) -> None:
        proxy.driver = self._drivers.get(proxy.type)
        if proxy.driver is None:
            self._machine.counters["no_driver"] += 1
            return
        proxy.state = DeviceState.PROBING
        proxy.retry_at = None
        proxy.tasks.append(Task(TaskKind.PROBE, proxy.driver.probe(proxy)))
        self.kick(proxy)

    def drop_id(self, id: int) -> None:  # noqa: A002
        """DEVDROP; an unknown id is counted."""
        proxy = self.devices.get(id)
        if proxy is not None and proxy.next_type is not None:
            proxy.next_type = None
        elif proxy is None or proxy.gone:
            self._machine.counters["bad_devdrop"] += 1
        else:
            self.drop(proxy)

    def drop(self, proxy: Proxy) -> None:
        """The device is gone, or must be: remove it for good."""
        proxy.gone = True
        if proxy.state in {DeviceState.UNBOUND, DeviceState.RETRYING}:
            del self.devices[proxy.id]
        else:
            self._remove(proxy)

    def fault(self, proxy: Proxy, error: Exception) -> None:
        """The host broke the device's ring, or the driver gave up on it: take it down, try again later."""
        self._machine.counters["faults"] += 1
        self._machine.warn("device_fault", device=proxy.id, reason=str(error))
        if proxy.bound:
            self._remove(proxy)

    def host_gone(self) -> None:
        """The host is dead: every device goes, with no host to ask."""
        for proxy in list(self.devices.values()):
            proxy.next_type = None
            proxy.device_closed()
        for proxy in list(self.devices.values()):
            self.drop(proxy)
            if proxy.task is not None:
                self.resume(proxy, 0, VbusError(ENODEV, "the host is gone"))
        self.begin()

    def retry(self, now: float) -> None:
        """Try failed devices again whose pause is over."""
        for proxy in list(self.devices.values()):
            if proxy.retry_at is not None and now >= proxy.retry_at:
                self._bind(proxy)
        self._retrying = self.next_retry is not None

    # -- tasks -------------------------------------------------------------------------------------------------------

    def kick(self, proxy: Proxy) -> None:
        """The device has a task to begin."""
        self._kicked.append(proxy)

    def begin(self) -> None:
        """Begin the next task of every device that has one waiting and none running."""
        while self._kicked:
            proxy = self._kicked.popleft()
            if proxy.task is None and proxy.tasks:
                proxy.task = proxy.tasks.popleft()
                self.resume(proxy, None, None)

    def resume(self, proxy: Proxy, value: int | None, error: PvnetError | None) -> None:
        """Go on with the device's task until it asks the host for something, or ends."""
        task = proxy.task
        assert task is not None
        while True:
            task.failures = task.failures + 1 if error is not None else 0
            try:
                if task.failures > PATIENCE:
                    task.steps.close()
                    raise VbusError(EIO, "the driver goes on asking")
                request = task.steps.throw(error) if error is not None else task.steps.send(value)  # type: ignore[arg-type]
            except StopIteration:
                self._ended(proxy, task, None)
                return
            except PvnetError as problem:
                error = None  # its traceback has this frame: they would hold each other, and with them the arena
                self._ended(proxy, task, problem)
                return
            task.request = request
            error = self._refuse(proxy, task, request)
            if error is None:
                self._machine.calls.submit(proxy, request)
                return

    def _refuse(self, proxy: Proxy, task: Task, request: Request) -> VbusError | None:
        if not self._machine.up:
            return VbusError(ENODEV, "the host is gone")
        if proxy.state is DeviceState.REMOVING and task.kind in {TaskKind.PROBE, TaskKind.RUN}:
            return VbusError(ENODEV, "the device is gone")
        if request.device is not proxy:
            return VbusError(EINVAL, "a request to another device")
        if isinstance(request, Open) == bool(proxy.handle):
            return VbusError(EINVAL, "open already" if proxy.handle else "not open")
        return None

    def _ended(self, proxy: Proxy, task: Task, error: PvnetError | None) -> None:
        proxy.task = None
        if error is not None:
            self._machine.counters[f"{task.kind.value}_failed"] += 1
            self._machine.warn(f"{task.kind.value}_failed", device=proxy.id, type=proxy.type, reason=str(error))
        match task.kind:
            case TaskKind.PROBE if error is None and proxy.state is DeviceState.PROBING:
                proxy.state = DeviceState.BOUND
                proxy.retries = 0
                proxy.announced = True
                self._machine.say(DeviceBound(proxy.id, proxy.type))
                self.kick(proxy)
            case TaskKind.PROBE if proxy.state is DeviceState.PROBING:
                self._remove(proxy)
            case TaskKind.PROBE | TaskKind.RUN if proxy.state is DeviceState.REMOVING:
                self._remove_now(proxy)
            case TaskKind.REMOVE if proxy.handle:
                self._next(proxy, TaskKind.CLOSE, _close(proxy))
            case TaskKind.REMOVE | TaskKind.CLOSE:
                self._gone(proxy)
            case _:
                self.kick(proxy)

    def _remove(self, proxy: Proxy) -> None:
        if proxy.state is DeviceState.REMOVING:
            return
        never = proxy.state is DeviceState.PROBING and any(task.kind is TaskKind.PROBE for task in proxy.tasks)
        proxy.state = DeviceState.REMOVING
        for task in proxy.tasks:
            task.steps.close()
        proxy.tasks.clear()
        if never:  # the probe had not begun: there is nothing to remove
            self._gone(proxy)
        elif proxy.task is None:
            self._remove_now(proxy)

    def _remove_now(self, proxy: Proxy) -> None:
        assert proxy.driver is not None
        self._next(proxy, TaskKind.REMOVE, proxy.driver.remove(proxy))

    def _next(self, proxy: Proxy, kind: TaskKind, steps: Steps) -> None:
        proxy.tasks.append(Task(kind, steps))
        self.kick(proxy)

    def _gone(self, proxy: Proxy) -> None:
        proxy.device_closed()
        for signal in proxy.signals:
            signal.put()
        proxy.signals.clear()
        if proxy.announced:
            proxy.announced = False
            self._machine.say(DeviceUnbound(proxy.id, proxy.type))
        if proxy.gone:
            del self.devices[proxy.id]
            if proxy.next_type is not None:
                self.add(proxy.id, proxy.next_type)
            return
        proxy.state = DeviceState.RETRYING
        self._retrying = True
        proxy.retry_at = self._machine.now() + min(self._config.retry * 2**proxy.retries, self._config.retry_most)
        proxy.retries = min(proxy.retries + 1, 16)


def _close(proxy: Proxy) -> Steps:
    yield proxy.close()
