"""What a mediated device is, seen by its framework: vendor driver, parent, type, device.

A third party adds devices by a :class:`MdevDriver` in the entry point group ``pvnet.mdev``; everything it may use is in
this file, in :mod:`pvnet.mdev.names` and in :mod:`pvnet.mdev.info`.  A device sees no transport, no message and no
descriptor: the same object serves partitions of a lab and vfio-user clients.

* A :class:`MdevDriver` makes parents; a parent (:class:`ParentOps`) offers types and makes devices; an
  :class:`MdevDevice` is opened by one user at a time.
* The framework checks every number first: a device only sees accesses that lie inside of an existing region and that
  the region's flags allow, and SET_IRQS does not reach it at all (:meth:`MdevDevice.irq_changed` tells).
* **Memory of the user** is reached only by :data:`Steps`: a generator that yields :class:`DmaRead`,
  :class:`DmaReadInto` and :class:`DmaWrite`, is resumed with the bytes, and gets
  :class:`~pvnet.mdev.errors.MdevError` (EFAULT) thrown in where nothing is mapped.  Whether the memory is mapped here
  or asked for by messages makes no difference to it.
* Refusals are :class:`~pvnet.mdev.errors.MdevError`.  Any other exception is a failure of the device: that one request
  answers EIO, a log line says where, and nobody else is disturbed.

Spec: mdev 1.3, 2 (R24, R47, R53, R57), 3, 4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo, RegionInfo
from pvnet.papr.errno import ENOENT

T = TypeVar("T")


# --- memory of the user -----------------------------------------------------------------------------------------------


class DmaRead(NamedTuple):
    """Read ``length`` bytes of the user's memory at I/O address ``address``."""

    address: int
    length: int


class DmaReadInto(NamedTuple):
    """Read as many bytes as ``target`` has room for into ``target``, which is writable and of plain bytes.

    For whoever reads much: memory that is mapped here is copied once.  After an error ``target`` may have been changed.
    """

    address: int
    target: memoryview


class DmaWrite(NamedTuple):
    """Store ``data`` at I/O address ``address`` of the user's memory; all of it or, on EFAULT, nothing.

    A ``memoryview`` is of plain bytes, which must not change before the write has ended.
    """

    address: int
    data: bytes | memoryview


DmaRequest: TypeAlias = DmaRead | DmaReadInto | DmaWrite
Steps: TypeAlias = Generator[DmaRequest, bytes, T]
"""Work that touches the user's memory; resumed with the bytes of a :class:`DmaRead`, ``b""`` after the others."""


# --- regions ----------------------------------------------------------------------------------------------------------


class RegionMemory(Protocol):
    """Memory behind a region that users may map; made by :meth:`DriverServices.memory`."""

    size: int
    view: memoryview
    """All of it, writable; users that have mapped it go on writing."""

    def close(self) -> None:
        """Let go; mappings of users live on."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """A region as the device has it.

    With ``memory`` the framework serves accesses itself and the device is not asked.
    """

    info: RegionInfo
    memory: RegionMemory | None = None


# --- what a device may use --------------------------------------------------------------------------------------------


class Cancellable(Protocol):
    """Something that may be called off."""

    def cancel(self) -> None:
        """Idempotent."""
        ...


class DeviceHost(Protocol):
    """What the framework offers to one device while it is open."""

    def signal(self, index: int, vector: int = 0) -> None:
        """An edge: message-signalled interrupts, channel I/O.  Nothing happens while no user listens."""
        ...

    def set_level(self, index: int, *, asserted: bool) -> None:
        """The level of an AUTOMASKED irq (INTx): told once, then masked until unmasked; told again if still up."""
        ...

    def irq_enabled(self, index: int, vector: int = 0) -> bool:
        """Whether a user listens to this vector."""
        ...

    def run(self, steps: Steps[None], done: Callable[[MdevError | None], None] | None = None) -> Cancellable:
        """Run work with the user's memory beside everything else; ``done`` hears how it ended (not after a cancel)."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call back after ``delay_s`` seconds, unless the device is closed before."""
        ...

    def note(self, note: Note) -> None:
        """Something that a log should have."""
        ...


class MigrationOps(Protocol):
    """State of a device, as a stream of bytes.  The state machine around it is the framework's.

    Saving: :meth:`precopy` while it runs (``b""``: nothing more for now), then :meth:`stop`, then :meth:`save` until it
    returns ``b""``.  Restoring, on a stopped device: :meth:`restore_begin`, :meth:`restore` per piece (cut anywhere),
    :meth:`restore_end`.
    """

    flags: int
    """:class:`~pvnet.mdev.names.MigrationFlag`."""

    def save_begin(self) -> None:
        """A stream begins: PRE_COPY, or STOP_COPY without it."""
        ...

    def precopy(self, limit: int) -> bytes:
        """Return at most ``limit`` bytes of what can be told while the device runs."""
        ...

    def save(self, limit: int) -> bytes:
        """Return at most ``limit`` bytes of the rest; the device is stopped."""
        ...

    def remaining(self) -> int:
        """Estimate of the bytes that :meth:`precopy` and :meth:`save` would still return."""
        ...

    def restore_begin(self) -> None:
        """A stream is coming."""
        ...

    def restore(self, data: bytes) -> None:
        """Take a piece.

        :raises MdevError: EFAULT wrong header, ENOMEM more than there can be.
        """
        ...

    def restore_end(self) -> None:
        """The stream is complete; only now the device takes the state over.

        :raises MdevError: EINVAL, too short.
        """
        ...


class MdevDevice(Protocol):
    """A mediated device; :class:`DeviceBase` has a default for all but the regions.

    It may also have ``read_only: Collection[str]``: keys of attributes that :meth:`set` always refuses, so that
    nobody is offered to write them.
    """

    flags: int
    """:class:`~pvnet.mdev.names.DeviceFlag` without CAPS; exactly one of PCI, PLATFORM, AMBA, CCW, AP."""
    irqs: Sequence[IrqInfo]
    """By index."""
    migration: MigrationOps | None

    @property
    def regions(self) -> Sequence[Region]:
        """By index; does not change while the device is open."""
        ...

    def open(self, host: DeviceHost) -> None:
        """A user has come.

        :raises MdevError: not now (EINVAL, ENODEV).
        """
        ...

    def close(self) -> None:
        """The user is gone: nothing of the host may be used any more; the device keeps its state."""
        ...

    def read(self, region: int, offset: int, length: int) -> bytes | Steps[bytes]:
        """Read ``length`` > 0 bytes of a region."""
        ...

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        """Store 1 or more bytes into a region."""
        ...

    def irq_changed(self, index: int) -> None:
        """A user has begun or ceased to listen to vectors of ``index``."""
        ...

    def dma_unmapped(self, address: int, size: int) -> None:
        """The user takes this memory back, now."""
        ...

    def reset(self) -> None:
        """Back to the state after power on; listeners stay."""
        ...

    def start(self) -> None:
        """The virtual machine is about to boot (RFC life cycle); also after a migration's STOP."""
        ...

    def stop(self) -> None:
        """Stop changing state by itself: shutdown (RFC life cycle), or STOP of a migration."""
        ...

    def check_remove(self) -> None:
        """Say whether it may be removed now.

        :raises MdevError: EBUSY.
        """
        ...

    def remove(self) -> None:
        """It is removed: let go of everything.  May be called without :meth:`check_remove` (parent gone)."""
        ...

    def attributes(self) -> Mapping[str, str]:
        """All attributes as text."""
        ...

    def set(self, key: str, value: str) -> None:
        """Change an attribute.

        :raises MdevError: ENOENT unknown, EPERM read-only, EINVAL bad value, EBUSY not now.
        """
        ...


class DeviceBase:
    """Defaults for a device that has no DMA, no migration, no attributes and nothing to let go of."""

    flags: int = 0
    irqs: Sequence[IrqInfo] = ()
    migration: MigrationOps | None = None
    read_only: Collection[str] = ()

    def open(self, host: DeviceHost) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Keep nothing."""

    def irq_changed(self, index: int) -> None:
        """Ignore it."""

    def dma_unmapped(self, address: int, size: int) -> None:
        """Ignore it."""

    def reset(self) -> None:
        """Nothing to reset."""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def check_remove(self) -> None:
        """Agree."""

    def remove(self) -> None:
        """Nothing to let go of."""

    def attributes(self) -> Mapping[str, str]:
        """Return none."""
        return {}

    def set(self, key: str, value: str) -> None:  # noqa: ARG002 - part of the interface
        """Refuse: there are no attributes."""
        raise MdevError(ENOENT, f"attribute {key!r}")


# --- what a vendor driver may use -------------------------------------------------------------------------------------


class LineReceiver(Protocol):
    """The device's end of a serial line."""

    def receive(self, data: bytes) -> int:
        """Take bytes from outside; returns how many it has room for now: the line keeps the rest."""
        ...

    def writable(self) -> None:
        """The line, which had refused bytes, has room again."""
        ...


class SerialLine(Protocol):
    """What a serial port is connected to; made by :meth:`DriverServices.line`."""

    address: str
    """As a user reaches it: ``pty:/dev/pts/4``, ``tcp-listen:127.0.0.1:4711``."""
    lost: int
    """Optional: bytes that it took and nobody got, because nobody was connected or whoever was has gone."""

    def send(self, data: bytes) -> int:
        """Send bytes out; returns how many it took (:meth:`LineReceiver.writable` follows if not all)."""
        ...

    def resume(self) -> None:
        """The receiver has room again: hand it what was kept."""
        ...

    def take(self) -> tuple[bytes, bytes]:
        """Take back what waits in the line, because the device moves elsewhere; nothing comes in until :meth:`resume`.

        :returns: what has come and the receiver has not taken; what was sent and nobody outside has taken.
        """
        ...

    def put(self, data: bytes) -> None:
        """Have these go out before anything else, all of them; while nobody is connected they wait for somebody."""
        ...

    def close(self) -> None:
        """Disconnect; idempotent."""
        ...


class BlockStore(Protocol):
    """Bytes that outlive the process: a disk image, the blocks of an SCM device."""

    size: int
    readonly: bool

    def read(self, offset: int, length: int) -> bytes:
        """Read; the range lies inside.

        :raises MdevError: EIO.
        """
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Store; the range lies inside.

        :raises MdevError: EIO, ENOSPC, EROFS.
        """
        ...

    def flush(self) -> None:
        """Make every write durable.

        :raises MdevError: EIO.
        """
        ...

    def close(self) -> None:
        """Let go; idempotent."""
        ...


class DriverServices(Protocol):
    """What the process around them offers to vendor drivers."""

    def memory(self, name: str, size: int) -> RegionMemory:
        """Zeroed memory that users can map; ``size`` is rounded up to whole pages.

        :raises MdevError: ENOMEM.
        """
        ...

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        """Connect a serial port.

        ``none``, ``loop``, ``pty``, ``tcp:HOST:PORT``, ``tcp-listen:HOST:PORT``, or ``port:NAME``, where the two ports
        that name the same NAME are connected to each other.

        :raises MdevError: EINVAL no such kind, with the text of what was expected; EBUSY, EIO it cannot be had.
        """
        ...

    def store(self, path: str, size: int | None, *, readonly: bool) -> BlockStore:
        """Open a file of blocks; one that is not there is made with ``size`` bytes.

        :raises MdevError: ENOENT, EINVAL other size, EBUSY somebody else has it, EACCES, EIO.
        """
        ...

    def scm(self, device: str) -> BlockStore:
        """The blocks of an SCM device of the lab, ``PARTITION:NUMBER``.

        :raises MdevError: ENODEV no such device.
        """
        ...

    def note(self, note: Note) -> None:
        """Something that a log should have."""
        ...


# --- vendor drivers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MdevType:
    """A type that a parent offers; its full name is ``<driver>-<name>``, as ``mtty-2``."""

    name: str
    pretty_name: str
    description: str = ""


class ParentOps(Protocol):
    """A parent: hosts devices of its types.  Every method may be slow or fail; nothing is locked meanwhile."""

    types: Sequence[MdevType]

    def available(self, type_name: str) -> int:
        """How many more devices of this type can be made."""
        ...

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> MdevDevice | Awaitable[MdevDevice]:
        """Make a device; ``name`` is its UUID (or ``UUID-instance``).

        :raises MdevError: ENOSPC pool used up, EINVAL an attribute, ...
        """
        ...

    def attributes(self) -> Mapping[str, str]:
        """Attributes of the parent, as text."""
        ...

    def close(self) -> None:
        """The parent is unregistered; all its devices are removed."""
        ...


class MdevDriver(Protocol):
    """A vendor driver: what an entry point of group ``pvnet.mdev`` names."""

    name: str
    """First half of the names of its types: ``[a-z0-9_]``."""
    device_api: str
    """``vfio-pci``, ``vfio-ccw``, ``vfio-platform``, ``vfio-amba`` or ``vfio-ap``."""
    standalone: bool
    """Whether a parent needs no attribute: then every mdev host has one, with the driver's name, without being told."""

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> ParentOps:
        """Make a parent, purely virtual or over something that ``attributes`` name.

        :raises MdevError: EINVAL and the like, with a text for the administrator.
        """
        ...
