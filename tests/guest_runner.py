"""Runs a guest driver against a device, synchronously, with nothing in between: no session, no loop, no clock.

:class:`GuestRunner` plays both the framework (:class:`pvnet.mdev.device.DeviceHost`) and the partition: it owns the
memory, remembers irqs, runs the device's work with the memory between two requests of the driver, and moves time only
when told or when a driver waits for an irq.  It is deliberately naive: an oracle for the real ones.

    runner = GuestRunner(device, SERIAL_GUEST)
    runner.probe()
    file = runner.file("ttyS")
    assert runner.run(file.write(0, b"hello")) == 5
    runner.serve()                      # irq handlers and device work, until nothing is left
    assert runner.run(file.read(0, 99)) == b"hello"
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from pvnet.core.machine import Note
from pvnet.mdev.device import DmaRead, DmaWrite, MdevDevice, Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import (
    DisableIrq,
    EnableIrq,
    GuestContext,
    GuestDriver,
    GuestDriverClass,
    GuestFile,
    GuestRequest,
    GuestSteps,
    RegionRead,
    RegionWrite,
    ResetDevice,
    UnmaskIrq,
    WaitIrq,
)
from pvnet.mdev.info import DeviceInfo
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciRegion, RegionFlag
from pvnet.papr.errno import EFAULT, EINVAL, ETIMEDOUT

T = TypeVar("T")


class ManualTimers:
    """``call_later`` on a clock that stands still until :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[ManualTimer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        assert delay_s >= 0
        timer = ManualTimer(self, self.now + delay_s, callback)
        self._timers.append(timer)
        return timer

    @property
    def pending(self) -> list[float]:
        """When timers are due, soonest first."""
        return sorted(timer.due for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass; whatever falls due runs in order."""
        end = self.now + seconds
        while self._timers:
            timer = min(self._timers, key=lambda timer: timer.due)
            if timer.due > end:
                break
            self.now = max(self.now, timer.due)
            self._timers.remove(timer)
            timer.callback()
        self.now = end

    def discard(self, timer: ManualTimer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)


class ManualTimer:
    """One timer."""

    def __init__(self, timers: ManualTimers, due: float, callback: Callable[[], None]) -> None:
        self._timers, self.due, self.callback = timers, due, callback

    def cancel(self) -> None:
        self._timers.discard(self)


class _Task:
    """Work of the device with the user's memory."""

    def __init__(self, steps: Generator[Any, bytes, Any], done: Callable[[MdevError | None], None] | None) -> None:
        self.steps, self.done, self.cancelled = steps, done, False

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.steps.close()


class RunnerHost:
    """The framework of one device: a memory of the user, irqs, timers, notes.

    :ivar signals: every edge and every new level told, as (index, vector), whether somebody listened or not.
    """

    def __init__(self, device: MdevDevice, memory: bytearray, iova: int, timers: ManualTimers) -> None:
        self.device, self.memory, self.iova, self.timers = device, memory, iova, timers
        self.mapped = True
        self.enabled: set[int] = set()
        self.masked: set[int] = set()
        self.level: dict[int, bool] = {}
        self.waiting: deque[int] = deque()
        self.signals: list[tuple[int, int]] = []
        self.notes: list[Note] = []
        self._tasks: deque[_Task] = deque()
        self._own_timers: list[ManualTimer] = []

    # --- DeviceHost ---

    def signal(self, index: int, vector: int = 0) -> None:
        assert 0 <= vector < self.device.irqs[index].count
        self.signals.append((index, vector))
        if index in self.enabled and index not in self.waiting:
            self.waiting.append(index)

    def set_level(self, index: int, *, asserted: bool) -> None:
        assert self.device.irqs[index].flags & IrqFlag.AUTOMASKED
        self.level[index] = asserted
        self._look(index)

    def irq_enabled(self, index: int, vector: int = 0) -> bool:
        return index in self.enabled

    def run(self, steps: Steps[None], done: Callable[[MdevError | None], None] | None = None) -> _Task:
        task = _Task(steps, done)
        self._tasks.append(task)
        return task

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = self.timers.call_later(delay_s, callback)
        self._own_timers.append(timer)
        return timer

    def note(self, note: Note) -> None:
        self.notes.append(note)

    # --- the other side of it ---

    def enable(self, index: int) -> None:
        if not 0 <= index < len(self.device.irqs) or not self.device.irqs[index].count:
            raise MdevError(EINVAL, f"irq {index}")
        self.enabled.add(index)
        self.masked.discard(index)
        self.device.irq_changed(index)
        self._look(index)

    def disable(self, index: int) -> None:
        self.enabled.discard(index)
        self.masked.discard(index)
        if index in self.waiting:
            self.waiting.remove(index)
        self.device.irq_changed(index)

    def unmask(self, index: int) -> None:
        if index not in self.enabled or not self.device.irqs[index].flags & IrqFlag.AUTOMASKED:
            raise MdevError(EINVAL, f"irq {index} cannot be unmasked")
        self.masked.discard(index)
        self._look(index)

    def _look(self, index: int) -> None:
        if self.level.get(index) and index in self.enabled and index not in self.masked:
            self.masked.add(index)
            self.signal(index)

    def close(self) -> None:
        """The user goes: nothing of it is used any more."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        for timer in self._own_timers:
            timer.cancel()
        self.enabled.clear()
        self.masked.clear()
        self.waiting.clear()

    # --- work with the memory ---

    def settle(self) -> bool:
        """Finish the device's work; whether there was any."""
        worked = False
        while self._tasks:
            task = self._tasks.popleft()
            if task.cancelled:
                continue
            worked = True
            error: MdevError | None = None
            try:
                self.drive(task.steps)
            except MdevError as failed:
                error = failed
            if task.done is not None and not task.cancelled:
                task.done(error)
        return worked

    def drive(self, steps: Generator[Any, bytes, T]) -> T:
        """Run steps of the device to their end."""
        answer: bytes | MdevError | None = None
        while True:
            try:
                if isinstance(answer, MdevError):
                    request = steps.throw(answer)
                elif answer is None:
                    request = next(steps)
                else:
                    request = steps.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                answer = self._memory(request)
            except MdevError as error:
                answer = error

    def _memory(self, request: DmaRead | DmaWrite) -> bytes:
        length = request.length if isinstance(request, DmaRead) else len(request.data)
        start = request.address - self.iova
        if not self.mapped or start < 0 or length < 0 or start + length > len(self.memory):
            raise MdevError(EFAULT, f"{length} bytes at {request.address:#x}")
        if isinstance(request, DmaRead):
            return bytes(self.memory[start : start + length])
        self.memory[start : start + length] = request.data
        return b""


class GuestRunner:
    """A device, its framework and a partition that drives it, in one object."""

    def __init__(
        self,
        device: MdevDevice,
        driver_class: GuestDriverClass,
        *,
        memory_size: int = 1 << 16,
        iova: int = 0x10000,
        timers: ManualTimers | None = None,
    ) -> None:
        self.device = device
        self.timers = timers or ManualTimers()
        self.memory = bytearray(memory_size)
        self.host = RunnerHost(device, self.memory, iova, self.timers)
        device.open(self.host)
        self.requests: list[GuestRequest] = []
        """Everything that the driver asked for, in order."""
        flags = DeviceFlag(device.flags)
        config = self.region_read(PciRegion.CONFIG, 0, 64) if flags & DeviceFlag.PCI else b""
        self.context = GuestContext(
            DeviceInfo(device.flags, len(device.regions), len(device.irqs)),
            [region.info for region in device.regions],
            list(device.irqs),
            config,
            memoryview(self.memory),
            iova,
        )
        assert driver_class.match(self.context)
        self.driver: GuestDriver = driver_class.create(self.context)

    def probe(self) -> None:
        self.run(self.driver.probe())

    def remove(self) -> None:
        """Driver down, device closed."""
        self.run(self.driver.remove())
        self.device.close()
        self.host.close()

    def file(self, stem: str, number: int = 0) -> GuestFile:
        return [file for name, file in self.driver.files if name == stem][number]

    def run(self, steps: GuestSteps[T]) -> T:
        """One operation of the driver, then the irqs that came meanwhile."""
        result = self._operation(steps)
        self.serve()
        return result

    def serve(self, rounds: int = 10_000) -> int:
        """Irq handlers and work of the device until nothing is left to do; returns how many handlers ran."""
        for handlers in range(rounds):
            self.host.settle()
            if not self.host.waiting:
                return handlers
            self._operation(self.driver.irq(self.host.waiting.popleft()))
        raise AssertionError("irqs without end")

    def advance(self, seconds: float) -> None:
        """Let time pass, and serve what comes of it."""
        self.timers.advance(seconds)
        self.serve()

    def _operation(self, steps: GuestSteps[T]) -> T:
        answer: bytes | MdevError | None = None
        while True:
            try:
                if isinstance(answer, MdevError):
                    request = steps.throw(answer)
                elif answer is None:
                    request = next(steps)
                else:
                    request = steps.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            self.requests.append(request)
            try:
                answer = self._request(request)
            except MdevError as error:
                answer = error
            if not isinstance(request, WaitIrq):
                self.host.settle()

    def _request(self, request: GuestRequest) -> bytes:
        match request:
            case RegionRead(region, offset, length):
                return self.region_read(region, offset, length)
            case RegionWrite(region, offset, data):
                self.region_write(region, offset, data)
            case EnableIrq(index):
                self.host.enable(index)
            case DisableIrq(index):
                self.host.disable(index)
            case UnmaskIrq(index):
                self.host.unmask(index)
            case WaitIrq(index, timeout_s):
                self._wait(index, timeout_s)
            case ResetDevice():
                self.device.reset()
        return b""

    def _wait(self, index: int, timeout_s: float) -> None:
        if index not in self.host.enabled:
            raise MdevError(EINVAL, f"irq {index} is not enabled")
        end = self.timers.now + timeout_s
        while index not in self.host.waiting:
            if self.host.settle():
                continue
            pending = self.timers.pending
            if not pending or pending[0] > end:
                self.timers.advance(end - self.timers.now)
                raise MdevError(ETIMEDOUT, f"irq {index}")
            self.timers.advance(pending[0] - self.timers.now)
        self.host.waiting.remove(index)

    # --- accesses, checked as the framework checks them ---

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        memory = self._check(region, offset, length, RegionFlag.READ)
        if memory is not None:
            return bytes(memory[offset : offset + length])
        result = self.device.read(region, offset, length)
        data = result if isinstance(result, bytes) else self.host.drive(result)
        assert len(data) == length
        return data

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        memory = self._check(region, offset, len(data), RegionFlag.WRITE)
        if memory is not None:
            memory[offset : offset + len(data)] = data
            return
        steps = self.device.write(region, offset, data)
        if steps is not None:
            self.host.drive(steps)

    def _check(self, region: int, offset: int, length: int, flag: RegionFlag) -> memoryview | None:
        if not 0 <= region < len(self.device.regions):
            raise MdevError(EINVAL, f"region {region}")
        found = self.device.regions[region]
        if not found.info.flags & flag or offset < 0 or length < 1 or offset + length > found.info.size:
            raise MdevError(EINVAL, f"{length} bytes at {offset:#x} of region {region}")
        return found.memory.view if found.memory is not None else None
