"""What a vbus driver is, seen from a partition: requests as a generator, signals, and the device it drives.

A driver is matched by the exact type string of a device that the host announces.  Its bring-up is written as if calls
were synchronous::

    def probe(self, device):
        yield device.open(version=1)
        mac = bytearray(6)
        yield device.call(MACQUERY, mac)
        pool = yield device.call(PMTDQUERY)
        yield device.shm(0, address, ring_bytes(256), signal=ring.signal, on_wakeup=self._rx)

and :class:`~pvnet.vbus.north.VbusNorth` runs it: it carries each yielded :class:`Request` to the host and resumes the
generator with the result, or raises :class:`~pvnet.vbus.errors.VbusError` in it.

For every probe that began there is exactly one :meth:`NorthDriver.remove`: when the device goes away for whatever
reason, and also when the probe failed (then the device is probed again after a while).  So a driver cleans up in one
place.  Memory that the host knows is given back only after ``yield device.close()``; DEVCLOSE follows by itself when a
driver has not done it.  After the host's death every request fails with ENODEV, and nothing touches the memory.

Spec: vbus 2 (proxy), 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pvnet.vbus.arena import Arena, ArenaAllocator
from pvnet.vbus.device import Fence, Signal

NO_SIGNAL = 0xFFFFFFFF
"""``signal.offset`` of a region without a signal."""


class NorthSignal(Protocol):
    """The signal of a region, as its driver has it; made by :meth:`ProxyDevice.shm`."""

    shm: Signal
    on_wakeup: Callable[[], None]
    """Set by the driver: the host rang, look again (maybe in vain)."""
    cookie: int
    handle: int
    closed: bool
    """The host let go of it (SHMCLOSE): nothing will ring any more."""

    def inject(self) -> None:
        """Tell the host to look; nothing happens when it did not ask to be told or is told already."""
        ...

    def enable(self) -> None:
        """Ask the host to ring; a wakeup follows at once when something is there already."""
        ...

    def disable(self) -> None:
        """Ask the host not to ring (polling)."""
        ...

    def again(self) -> None:
        """Run ``on_wakeup`` once more after everything else that is due: the rest of a used-up budget."""
        ...

    def put(self) -> None:
        """Drop the driver's reference (once); done for it when the device is gone and the driver removed."""
        ...


@dataclass(slots=True)
class Open:
    """DEVOPEN; result 0."""

    device: ProxyDevice
    version: int


@dataclass(slots=True)
class Close:
    """DEVCLOSE, which also closes every region; result 0."""

    device: ProxyDevice


@dataclass(slots=True)
class Call:
    """DEVCALL; the result is the device's; ``data`` is changed in place when it succeeds."""

    device: ProxyDevice
    func: int
    data: bytearray
    flags: int = 0


@dataclass(slots=True)
class Shm:
    """DEVSHM; the result is the doorbell's handle.  ``signal`` exists from the start, so that nothing is missed."""

    device: ProxyDevice
    id: int
    address: int
    length: int
    signal_offset: int
    prio: int
    signal: NorthSignal | None


Request: TypeAlias = Open | Close | Call | Shm
"""What a driver's generator yields; made by the methods of :class:`ProxyDevice` only."""
Steps: TypeAlias = Generator[Request, int, None]
"""A driver's generator: yields requests, is resumed with results >= 0."""


class ProxyDevice(Protocol):
    """A device of the host, as a driver has it.  The four verbs return a request to ``yield``."""

    id: int
    type: str
    handle: int
    """Open handle, 0 while the device is not open."""

    @property
    def arena(self) -> Arena:
        """The partition's shared memory."""
        ...

    @property
    def allocator(self) -> ArenaAllocator:
        """Where a driver gets its rings and buffers from, and gives them back to in ``remove``."""
        ...

    @property
    def fence(self) -> Fence:
        """Full fence, for the rings."""
        ...

    @property
    def allow_2026(self) -> bool:
        """Whether the host agreed on IOQ-2026."""
        ...

    def now(self) -> float:
        """Time of the current input, seconds from any origin."""
        ...

    def defer(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, in the same turn."""
        ...

    def run(self, steps: Steps) -> None:
        """Run more requests later, after those that run already: link up and down and the like.

        A failure that ``steps`` does not catch is only noted; when the device goes away it is closed unrun.
        """
        ...

    def open(self, version: int) -> Open:
        """DEVOPEN."""
        ...

    def close(self) -> Close:
        """DEVCLOSE."""
        ...

    def call(self, func: int, data: bytearray | None = None, flags: int = 0) -> Call:
        """DEVCALL ``func`` with ``data`` in and out (``None``: no data)."""
        ...

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
        """DEVSHM of ``length`` bytes at ``address``.

        ``signal`` is the ring's own signal object (its offset in a ring is 8, the default then); with only
        ``signal_offset`` a fresh signal is written there; with neither the region has none.
        """
        ...


class NorthDriver(Protocol):
    """Drives every device of one type; ``device.id`` tells them apart."""

    def probe(self, device: ProxyDevice) -> Steps:
        """Bring the device up."""
        ...

    def remove(self, device: ProxyDevice) -> Steps:
        """Take it down; DEVCLOSE follows by itself when the driver did not do it."""
        ...
