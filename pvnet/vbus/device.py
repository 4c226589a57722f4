"""What a vbus device is, seen from the host: class, device, connection, region, signal.

A third party adds a device by a :class:`DeviceClass` in the entry point group ``pvnet.devices``; everything it may use
is in this file.  A device sees no transport, no event queue and no handle table.

* A :class:`DeviceClass` makes devices; a :class:`Device` is attached to a bus and opened by one client at a time; what
  :meth:`Device.open` returns is the :class:`Connection`.
* The bridge calls the connection; a call ends by its return.  A connection may raise signals at any time, also inside a
  call, but nothing that it does comes back into it before it has returned: wakeups that fall due meanwhile run after.
* Every :class:`Region` is memory that the other side goes on writing: copy once, check the copy, use only the copy.
* A peer's misuse of a ring ends that connection only: raise :class:`~pvnet.vbus.errors.VbusError` from a call, and from
  a wakeup, let the ring's fault through or call :meth:`ConnectionHost.fault`.
* **Any other exception** is a failure of the device, and costs its connection only: the call answers EIO, the
  connection ends by force (``close``, then ``release``, as always), a log line has class and text of the exception, and
  the device can be opened again.  From ``create`` and ``set`` the administrator gets the text; from ``attributes`` the
  device is shown with it.  This is a net and no interface: what a device had half done stays half done.

Spec: vbus 2, 3.5, 4.4, 5.5, 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pvnet.ring.layout import Fence
from pvnet.ring.shm_signal import Signal
from pvnet.vbus.arena import Arena

__all__ = [
    "MAX_CALL_DATA",
    "MAX_PRIORITY",
    "Connection",
    "ConnectionHost",
    "Device",
    "DeviceClass",
    "Fence",
    "Region",
    "Signal",
    "SouthSignal",
]

MAX_CALL_DATA = 64 << 10
"""Most bytes of one devcall's data (A23)."""
MAX_PRIORITY = 7
"""Signal priorities are 0 (lowest) to this."""


class SouthSignal(Protocol):
    """The signal of a region, as its device has it.

    ``shm`` is the shared signal itself.  A device that attaches a ring to the region passes it on
    (``attach_ring(..., signal=region.signal.shm)``): two objects over the same bytes would each believe in their own
    state.
    """

    shm: Signal
    on_wakeup: Callable[[], None]
    """Set by the device: north rang, look again (maybe in vain).  Never runs inside another call of the connection."""
    cookie: int
    handle: int
    prio: int

    def inject(self) -> None:
        """Tell north to look; nothing happens when it did not ask to be told or is told already."""
        ...

    def enable(self) -> None:
        """Ask north to ring; a wakeup follows at once when something is there already."""
        ...

    def disable(self) -> None:
        """Ask north not to ring (polling, a full queue downstream)."""
        ...

    def again(self) -> None:
        """Run ``on_wakeup`` once more after everything else that is due: the rest of a used-up budget."""
        ...


@dataclass(slots=True)
class Region:
    """Memory registered by DEVSHM under (connection, ``id``), until the connection closes.

    ``view`` are the ``length`` bytes at ``address`` of the arena; ``signal`` is ``None`` when none was asked for.
    """

    id: int
    address: int
    length: int
    view: memoryview
    signal: SouthSignal | None


class ConnectionHost(Protocol):
    """What the host offers to one connection."""

    @property
    def arena(self) -> Arena:
        """The client's memory."""
        ...

    @property
    def fence(self) -> Fence:
        """Full fence, for the rings."""
        ...

    @property
    def client(self) -> str:
        """Name of the partition."""
        ...

    @property
    def allow_2026(self) -> bool:
        """Whether this client and the host agreed on IOQ-2026 (capabilities bit 0)."""
        ...

    def defer(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` after the current input, in the same turn."""
        ...

    def now(self) -> float:
        """Time of the current input, seconds from any origin."""
        ...

    def fault(self, text: str) -> None:
        """The client broke the protocol of this connection: close it as if forcibly removed, count it, say so once."""
        ...


class Connection(Protocol):
    """An opened device: one client, until :meth:`release`."""

    def call(self, func: int, data: memoryview, flags: int) -> int:
        """Devcall ``func``; ``data`` (at most 64 KiB) is input and output.

        The memory is a private copy; the bridge copies it back when the call succeeds.

        :returns: a result >= 0.
        :raises VbusError: refused.
        """
        ...

    def shm(self, id: int, region: Region, flags: int) -> None:  # noqa: A002
        """Region ``id`` is registered (never twice with success).

        :raises VbusError: EINVAL unknown id or wrong shape, EEXIST; the region is forgotten again.
        """
        ...

    def close(self) -> None:
        """Stop new work and drain.  Signals are no longer rung; the regions may still be used until :meth:`release`."""
        ...

    def release(self) -> None:
        """The last call: let go of every region."""
        ...


class Device(Protocol):
    """An instance of a class, attachable to one bus."""

    @property
    def type(self) -> str:
        """ABI name that clients match drivers by, like ``virtual-ethernet``: ``[-_.a-z0-9]``, at most 128."""
        ...

    def open(self, version: int, host: ConnectionHost) -> Connection:
        """Open for one client.

        :raises VbusError: EINVAL, the version is not spoken; EBUSY.
        """
        ...

    def attributes(self) -> Mapping[str, str]:
        """All attributes as text, for showing."""
        ...

    def get(self, key: str) -> str:
        """One attribute.

        :raises VbusError: ENOENT.
        """
        ...

    def set(self, key: str, value: str) -> None:
        """Change one attribute.

        :raises VbusError: ENOENT unknown, EPERM read-only, EINVAL bad value or not now.
        """
        ...

    def close(self) -> None:
        """The device is removed; no connection is open."""
        ...


class DeviceClass(Protocol):
    """A factory of devices: what an entry point of group ``pvnet.devices`` names.

    ``name`` is what an administrator types (``venet``), ``type`` the ABI of the devices it makes.
    """

    name: str
    type: str

    def create(self, name: str, attributes: Mapping[str, str]) -> Device:
        """Make the device ``name``.

        :raises VbusError: EINVAL and the like, with a text for the administrator.
        """
        ...
