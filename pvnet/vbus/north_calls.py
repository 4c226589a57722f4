"""The partition's calls to the host, one after the other: the bridge has one mailbox.

A request of a driver becomes a parameter structure and a call descriptor in the arena, and a SLOWCALL; devcall data
gets memory of its own for as long as the call takes.  The bridge's own two calls (NEGOTIATE, QREG) go the same way.

Spec: vbus 3.3, 3.4, 3.5.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from pvnet.core.machine import Counters
from pvnet.papr.errno import EINVAL, EIO
from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.bridge_io import BridgeCall, BridgeResult
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import (
    BridgeVector,
    BusVector,
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    DeviceOpen,
    DeviceShm,
    Record,
)
from pvnet.vbus.north_devices import Proxy
from pvnet.vbus.north_driver import Call, Close, Open, Request, Shm
from pvnet.vbus.north_io import BridgePlaces
from pvnet.vbus.north_signals import DriverSignal, NorthSignals


@dataclass(slots=True, eq=False)
class SystemCall:
    """A call of the bridge itself; ``done`` gets the result and the parameters as the host left them."""

    vector: BridgeVector
    parameters: bytes
    done: Callable[[int, bytes], None]


@dataclass(slots=True, eq=False)
class _Waiting:
    proxy: Proxy
    request: Request


class NorthCalls:
    """The queue of calls.

    :param resume: continues a device's task with a result or an error.
    """

    def __init__(
        self,
        arena: Arena,
        allocator: ArenaAllocator,
        signals: NorthSignals,
        counters: Counters,
        emit: Callable[[BridgeCall], None],
        resume: Callable[[Proxy, int, VbusError | None], None],
    ) -> None:
        self.places: BridgePlaces | None = None
        self._arena = arena
        self._allocator = allocator
        self._signals = signals
        self._counters = counters
        self._emit = emit
        self._resume = resume
        self._queue: deque[SystemCall | _Waiting] = deque()
        self._current: SystemCall | _Waiting | None = None
        self._data = 0
        self._size = 0
        self._tag = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is asked and nothing waits."""
        return self._current is None and not self._queue

    def system(self, call: SystemCall) -> None:
        """Queue a call of the bridge itself."""
        self._queue.append(call)

    def submit(self, proxy: Proxy, request: Request) -> None:
        """Queue a driver's request."""
        self._queue.append(_Waiting(proxy, request))

    def clear(self) -> None:
        """Forget everything: the host is gone.  Tasks that wait are resumed by the caller."""
        if isinstance(self._current, _Waiting):
            self._abandon(self._current.request)
        self._free_data()
        self._current = None
        self._queue.clear()

    def pump(self) -> None:
        """Start the next call when none is running."""
        while self._current is None and self._queue:
            entry = self._queue.popleft()
            try:
                self._begin(entry)
            except VbusError as error:
                self._free_data()
                assert isinstance(entry, _Waiting)
                self._abandon(entry.request)
                self._resume(entry.proxy, 0, error)
            else:
                self._current = entry

    def _abandon(self, request: Request) -> None:
        if isinstance(request, Shm) and isinstance(request.signal, DriverSignal):
            self._signals.failed(request.signal)

    def returned(self, event: BridgeResult) -> None:
        """The host has answered."""
        entry = self._current
        if entry is None or event.tag != self._tag:
            self._counters["stale_result"] += 1
            return
        self._current = None
        assert self.places is not None
        parameters = self._arena.read(self.places.parameters, self._size)
        if isinstance(entry, SystemCall):
            entry.done(event.result, parameters)
            return
        error = VbusError(-event.result) if event.result < 0 else None
        if not self._finish(entry.proxy, entry.request, event.result, parameters):
            error = VbusError(EIO, "DEVOPEN gave no handle")
        self._free_data()
        self._resume(entry.proxy, max(event.result, 0), error)

    # -- one call ----------------------------------------------------------------------------------------------------

    def _begin(self, entry: SystemCall | _Waiting) -> None:
        assert self.places is not None
        if isinstance(entry, SystemCall):
            call = CallDescriptor(entry.vector, len(entry.parameters), self.places.parameters)
            parameters = entry.parameters
        else:
            vector, record = self._parameters(entry.proxy, entry.request)
            try:
                parameters = record.encode()
            except struct.error as error:
                raise VbusError(EINVAL, f"{type(record).__name__}: {error}") from None
            inner = CallDescriptor(vector, len(parameters), self.places.parameters)
            self._arena.write(self.places.call, inner.encode())
            call = CallDescriptor(BridgeVector.SLOWCALL, CallDescriptor.size(), self.places.call)
            self._counters["buscalls"] += 1
        self._arena.write(self.places.parameters, parameters)
        self._size = len(parameters)
        self._tag += 1
        self._counters["bridgecalls"] += 1
        self._emit(BridgeCall(self._tag, call.encode()))

    def _parameters(self, proxy: Proxy, request: Request) -> tuple[BusVector, Record]:
        match request:
            case Open(_, version):
                return BusVector.DEVOPEN, DeviceOpen(proxy.id, version)
            case Close():
                return BusVector.DEVCLOSE, DeviceClose(proxy.handle)
            case Call(_, func, data, flags):
                if data:
                    self._data = self._allocator.alloc(len(data))
                    self._arena.write(self._data, data)
                return BusVector.DEVCALL, DeviceCall(proxy.handle, func, len(data), flags, self._data)
            case Shm(_, id_, address, length, offset, prio, signal):
                self._arena.offset(address, length)
                cookie = 0
                if isinstance(signal, DriverSignal):
                    self._signals.insert(signal)
                    proxy.signals.append(signal)
                    cookie = signal.cookie
                return BusVector.DEVSHM, DeviceShm(proxy.handle, id_, length, 0, offset, prio, cookie, address)
            case _:
                assert_never(request)

    def _finish(self, proxy: Proxy, request: Request, result: int, parameters: bytes) -> bool:
        match request:
            case Open():
                if result >= 0:
                    proxy.handle = _handle(parameters)
                    return proxy.handle != 0
            case Close():
                proxy.device_closed()
            case Call():
                if result >= 0 and self._data:
                    request.data[:] = self._arena.read(self._data, len(request.data))
            case Shm():
                if result < 0:
                    self._abandon(request)
                elif isinstance(request.signal, DriverSignal):
                    self._signals.opened(request.signal, result)
            case _:
                assert_never(request)
        return True

    def _free_data(self) -> None:
        if self._data:
            self._allocator.free(self._data)
            self._data = 0


def _handle(parameters: bytes) -> int:
    return DeviceOpen.decode(parameters).handle  # every 16 bytes are one: it has no pads and no magic
