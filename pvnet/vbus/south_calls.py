"""Bus calls, as the host executes them: DEVOPEN, DEVCLOSE, DEVCALL, DEVSHM, and the connections that they are about.

Every parameter structure is copied out of the arena once, its length must be equal, its holes zero; then only the copy
counts.  The answer is the value of a 32-bit register: >= 0, or -errno.

A connection ends in one of three ways, and its device cannot tell them apart: DEVCLOSE, by force (the device was taken
away or failed, or the client broke the protocol of a ring), or with the client.  Each time the doorbell handles die
first, then the device stops and lets go, then each signal says SHMCLOSE.  After a forced end the open handle stays,
answers ENODEV to everything, and DEVCLOSE confirms it with 0.

**A device that fails**, which is one that raises anything but a :class:`~pvnet.core.errors.PvnetError`, costs its
connection and nothing else: the call under way answers EIO, the connection ends by force after the current input, it is
counted (``device_failed``) and noted once, with the exception.  The device can be opened again after that.

Open handles are ``generation << 32 | number``; the generation is that of the bridge (each NEGOTIATE begins a new one),
the number is never used again in it.

Spec: vbus 2, 3.5, 4.4, 7, A8, A9, A12, A23, A28, A32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Final, Protocol

from pvnet.core.errors import PvnetError, WireError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EEXIST, EINVAL, EIO, ENODEV, ENOENT, ENOSPC
from pvnet.ring.errors import RingError, RingFault
from pvnet.ring.layout import SIGNAL_BYTES, SOUTH
from pvnet.ring.roles import attach_signal
from pvnet.vbus.arena import Arena
from pvnet.vbus.bus import Bus
from pvnet.vbus.device import MAX_CALL_DATA, MAX_PRIORITY, Connection, Fence, Region
from pvnet.vbus.errors import DeviceFailedError, VbusError
from pvnet.vbus.layout import BusVector, CallDescriptor, DeviceCall, DeviceClose, DeviceOpen, DeviceShm
from pvnet.vbus.north_driver import NO_SIGNAL
from pvnet.vbus.south_signals import HostSignal, SouthSignals, nothing

RESULT_MAX: Final = 0x7FFFFFFF

_SIZES: Final = {
    BusVector.DEVOPEN: DeviceOpen.size(),
    BusVector.DEVCLOSE: DeviceClose.size(),
    BusVector.DEVCALL: DeviceCall.size(),
    BusVector.DEVSHM: DeviceShm.size(),
}


class Turn(Protocol):
    """What connections need of the machine that they are part of."""

    def defer(self, opened: OpenDevice, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, unless the connection has ended."""
        ...

    def now(self) -> float:
        """Time of the current input."""
        ...

    def warn(self, event: str, **fields: int | str) -> None:
        """Something that a log should have."""
        ...


class OpenDevice:
    """One open handle, and the :class:`~pvnet.vbus.device.ConnectionHost` of its connection."""

    def __init__(self, calls: BusCalls, handle: int, id: int) -> None:  # noqa: A002
        self._calls = calls
        self.handle = handle
        self.id = id
        self.named = ""
        """The device, for logs."""
        self.connection: Connection | None = None
        self.ending = False
        """Whether the connection ends after the current input, and why has been said."""
        self.regions: dict[int, Region] = {}
        self.signals: list[HostSignal] = []

    @property
    def arena(self) -> Arena:
        """The client's memory."""
        return self._calls.arena

    @property
    def fence(self) -> Fence:
        """Full fence."""
        return self._calls.fence

    @property
    def client(self) -> str:
        """Name of the partition."""
        return self._calls.client

    @property
    def allow_2026(self) -> bool:
        """Whether IOQ-2026 was agreed."""
        return self._calls.allow_2026

    def defer(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, in the same turn."""
        self._calls.turn.defer(self, callback)

    def now(self) -> float:
        """Time of the current input."""
        return self._calls.turn.now()

    def fault(self, text: str) -> None:
        """The client broke the protocol: the connection ends after the current input."""
        self._calls.fault(self, text)

    def end(self) -> None:
        """End the connection by force: the handle stays until DEVCLOSE."""
        self._calls.end(self)


class BusCalls:
    """Executes bus calls of one client.

    :param bus_of: the client's bus now; raises EPERM when there is none.
    :param handles: most open handles at a time.
    """

    def __init__(
        self,
        client: str,
        arena: Arena,
        fence: Fence,
        bus_of: Callable[[], Bus],
        signals: SouthSignals,
        counters: Counters,
        turn: Turn,
        handles: int,
    ) -> None:
        self.client = client
        self.arena = arena
        self.fence = fence
        self.turn = turn
        self.allow_2026 = False
        self._bus_of = bus_of
        self._signals = signals
        self._counters = counters
        self._generation = 1
        self._number = 0
        self._limit = handles
        self._open: dict[int, OpenDevice] = {}

    @property
    def opened(self) -> list[OpenDevice]:
        """Every open handle, those that ended by force too."""
        return list(self._open.values())

    def execute(self, call: CallDescriptor) -> int:
        """Run one bus call and return its result."""
        self._counters["buscalls"] += 1
        try:
            vector = BusVector(call.vector)
        except ValueError:
            return -EINVAL
        if call.length != _SIZES[vector]:
            return -EINVAL
        try:
            data = self.arena.read(call.address, call.length)
            match vector:
                case BusVector.DEVOPEN:
                    return self._devopen(DeviceOpen.decode(data), call.address)
                case BusVector.DEVCLOSE:
                    return self._devclose(DeviceClose.decode(data))
                case BusVector.DEVCALL:
                    return self._devcall(DeviceCall.decode(data))
                case BusVector.DEVSHM:
                    return self._devshm(DeviceShm.decode(data))
        except WireError:
            return -EINVAL
        except VbusError as error:
            return error.result

    # -- the four calls ----------------------------------------------------------------------------------------------

    def _devopen(self, request: DeviceOpen, address: int) -> int:
        try:
            bus = self._bus_of()
        except VbusError:
            return -ENOENT
        if len(self._open) >= self._limit:
            return -ENOSPC
        opened = OpenDevice(self, self._generation << 32 | (self._number + 1), request.id)
        try:
            connection = bus.open(request.id, request.version, opened)
        except DeviceFailedError as error:
            self._note_failed(opened, error)
            return error.result
        opened.connection, opened.named = connection, connection.named
        self._number += 1
        self._open[opened.handle] = opened
        self.arena.write(address, DeviceOpen(request.id, request.version, opened.handle).encode())
        return 0

    def _devclose(self, request: DeviceClose) -> int:
        opened = self._open.pop(request.handle, None)
        if opened is None:
            return -ENOENT
        opened.end()
        return 0

    def _devcall(self, request: DeviceCall) -> int:
        opened, connection = self._find(request.handle)
        if request.length > MAX_CALL_DATA:
            return -EINVAL
        data = bytearray(self.arena.read(request.address, request.length)) if request.length else bytearray()

        def call() -> int:
            return operator.index(connection.call(request.func, memoryview(data), request.flags))

        result = self._ask(opened, "call", call)
        if not -4096 < result <= RESULT_MAX:
            self.turn.warn("bad_result", device=opened.id, func=request.func, result=result)
            return -EIO
        if result >= 0 and data:
            self.arena.write(request.address, data)
        return result

    def _devshm(self, request: DeviceShm) -> int:
        opened, connection = self._find(request.handle)
        if request.flags or not request.length:
            return -EINVAL
        view = self.arena.slice(request.address, request.length)
        if request.id in opened.regions:
            return -EEXIST
        signal = self._signal(opened, request, view)
        region = Region(request.id, request.address, request.length, view, signal)

        def register() -> int:
            connection.shm(request.id, region, request.flags)
            return 0

        result = self._ask(opened, "shm", register)
        if result < 0:
            if signal is not None:
                self._signals.abandon(signal)
            return result
        opened.regions[request.id] = region
        if signal is None:
            return 0
        opened.signals.append(signal)
        self._signals.announce(signal)
        return signal.handle

    def _signal(self, opened: OpenDevice, request: DeviceShm, view: memoryview) -> HostSignal | None:
        if request.signal_offset == NO_SIGNAL:
            return None
        if request.signal_offset + SIGNAL_BYTES > request.length:
            raise VbusError(EINVAL, f"signal at {request.signal_offset} of a region of {request.length} bytes")
        try:
            shm = attach_signal(view, request.signal_offset, SOUTH, self.fence, self.allow_2026)
        except RingError as error:
            raise VbusError(error.errno, str(error)) from None
        return self._signals.create(shm, opened.handle, request.cookie, min(request.prio, MAX_PRIORITY))

    def _find(self, handle: int) -> tuple[OpenDevice, Connection]:
        opened = self._open.get(handle)
        if opened is None:
            raise VbusError(ENOENT, f"handle {handle:#x} is not open")
        if opened.connection is None or opened.ending:
            raise VbusError(ENODEV, "the device was taken away")
        return opened, opened.connection

    def _ask(self, opened: OpenDevice, doing: str, question: Callable[[], int]) -> int:
        try:
            return question()
        except VbusError as error:
            return error.result
        except RingError as error:
            if isinstance(error, RingFault):
                self.fault(opened, str(error))
            return -error.errno
        except Exception as error:  # noqa: BLE001 - a device's own code must cost only its connection
            self.failed(opened, doing, error)
            return -EIO

    # -- how connections end -----------------------------------------------------------------------------------------

    def fault(self, opened: OpenDevice, text: str) -> None:
        """The client broke the protocol of this connection: it ends after the current input."""
        if not opened.ending:
            self._counters["faults"] += 1
            self.turn.warn("connection_fault", device=opened.id, reason=text)
            self._end_soon(opened)

    def failed(self, opened: OpenDevice, doing: str, error: Exception) -> None:
        """The device raised ``error``: its connection ends after the current input, as by a fault."""
        if isinstance(error, PvnetError):
            self.fault(opened, str(error))
        elif not opened.ending:
            self._note_failed(opened, DeviceFailedError(opened.named, doing, error))
            self._end_soon(opened)

    def signal_fault(self, signal: HostSignal, error: Exception) -> None:
        """A wakeup of ``signal`` failed."""
        opened = self._open.get(signal.owner)
        if opened is not None:
            self.failed(opened, "on_wakeup", error)

    def _end_soon(self, opened: OpenDevice) -> None:
        opened.ending = True
        for signal in opened.signals:
            self._signals.unmap(signal)  # nothing wakes it any more
        self.turn.defer(opened, opened.end)

    def _note_failed(self, opened: OpenDevice, error: DeviceFailedError) -> None:
        self._counters["device_failed"] += 1
        self.turn.warn("device_failed", device=opened.id, reason=str(error))

    def reset(self) -> None:
        """Every connection ends, every handle dies, and a new generation of handles begins."""
        for opened in self.opened:
            opened.end()
        self._open.clear()
        self._generation += 1
        self._number = 0

    def end(self, opened: OpenDevice) -> None:
        """End a connection, once; its handle stays until DEVCLOSE."""
        connection, opened.connection = opened.connection, None
        if connection is None:
            return
        for signal in opened.signals:
            self._signals.unmap(signal)
        for step, doing in ((connection.close, "close"), (connection.release, "release")):
            try:
                step()
            except PvnetError as error:
                self._counters["faults"] += 1
                self.turn.warn("close_failed", device=opened.id, reason=str(error))
            except Exception as error:  # noqa: BLE001 - a device's own code must cost only its connection
                if not opened.ending:
                    self._note_failed(opened, DeviceFailedError(opened.named, doing, error))
                opened.ending = True
        for signal in opened.signals:
            self._signals.release(signal)
            signal.on_wakeup = nothing  # or the two would hold each other, and the client's memory, until a collection
        opened.signals.clear()
        opened.regions.clear()
