"""Joins a mediated device to its user: the VFIO device API.

A :class:`VfioDevice` is what a session talks to and what a device is driven by.  It knows the rules so that neither has
to: which accesses are legal, who listens to irqs, what memory is mapped, which state of migration permits what.

Errors are :class:`~pvnet.mdev.errors.MdevError`; a device that fails otherwise costs the one request (EIO), see
:mod:`pvnet.mdev.guard`.  A result that needs the user's memory by messages is a
:class:`~pvnet.mdev.programs.Pending`; it answers ENODEV when the user goes and EIO when the device is reset.

States of migration narrow what a user may do (EINVAL otherwise)::

    RUNNING, PRE_COPY, RESUMING, ERROR    everything
    STOP                                  regions, features, the stream, RESET
    STOP_COPY                             features, the stream, RESET

Changing to a state that stops the device while programs are under way is EBUSY: a session calls :meth:`quiesce` first.
A migration that a user has begun ends with this user; one under :meth:`hold` is somebody else's and goes on.

``device.start()`` and ``stop()`` are called for migration only; their other meaning, the life cycle of 2016, is
driven by the registry.

Spec: mdev 4, 6.5, 9.2 (B10 to B13, B16 to B33).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, TypeVar

from pvnet.core.machine import Counters, Note
from pvnet.mdev.device import MdevDevice, Region, RegionMemory, Steps
from pvnet.mdev.device_host import OpenHost, Timers
from pvnet.mdev.dirty import DirtyPages
from pvnet.mdev.dma import DmaLimits, DmaRegion, DmaTable
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guard import Guard
from pvnet.mdev.info import DeviceInfo, IrqInfo
from pvnet.mdev.irqs import IrqLines, IrqSet, close_targets
from pvnet.mdev.migration import STOPPED, Migration
from pvnet.mdev.names import CcwIrq, DeviceFlag, MigrationState, PciIrq, RegionFlag
from pvnet.mdev.programs import Pending, Programs
from pvnet.mdev.user import DeviceUser
from pvnet.mdev.vfio_features import Features
from pvnet.papr.errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV

__all__ = ["Timers", "VfioDevice"]

T = TypeVar("T")

_BUS: Final = DeviceFlag.PCI | DeviceFlag.PLATFORM | DeviceFlag.AMBA | DeviceFlag.CCW | DeviceFlag.AP
_READ: Final = int(RegionFlag.READ)
_WRITE: Final = int(RegionFlag.WRITE)


def _copy_out(memory: RegionMemory, offset: int, length: int) -> bytes:
    return bytes(memory.view[offset : offset + length])


def _copy_in(memory: RegionMemory, offset: int, data: bytes) -> None:
    memory.view[offset : offset + len(data)] = data


class VfioDevice:
    """One device, and at most one user at a time."""

    def __init__(
        self,
        device: MdevDevice,
        name: str,
        timers: Timers,
        note: Callable[[Note], None],
        dma_limits: DmaLimits | None = None,
    ) -> None:
        self.device = device
        self.name = name
        self.user: DeviceUser | None = None
        self.counters = Counters()
        self.held = False
        self._timers = timers
        self._note = note
        self._guard = Guard(name, self.counters, note)
        self.dirty = DirtyPages()
        self.dma = DmaTable(dma_limits)
        self._programs = Programs(self.dma, self.dirty, self._guard)
        self.migration = Migration(device, self._guard, lambda: len(self._programs) > 0)
        self.migration.on_state = self._state_changed
        self._features = Features(self.migration, self.dirty)
        self._irqs = IrqLines((), self._irq_changed)
        self._host: OpenHost | None = None
        self._regions: tuple[tuple[int, int, RegionMemory | None], ...] = ()
        """Size, flags, memory of the regions while somebody has it open."""
        self._reachable: tuple[tuple[int, int, RegionMemory | None], ...] = ()
        """The same, or nothing while the state of migration forbids it."""

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self, user: DeviceUser) -> None:
        """Let a user in.

        :raises MdevError: EBUSY somebody has it, EAGAIN it is held, EIO it is no sound device, or what it says.
        """
        if self.user is not None:
            raise MdevError(EBUSY, f"{self.name} is open")
        if self.held:
            raise MdevError(EAGAIN, f"{self.name} is held")
        device = self.device
        regions = self._guard.ask("description", self._described)
        notices = self._notices()
        self._irqs = IrqLines(device.irqs, self._irq_changed, notices)
        self._host = OpenHost(self._irqs, self._programs, self._guard, self._timers, self._note)
        self.user = self._programs.user = user
        try:
            self._guard.ask("open", device.open, self._host)
        except MdevError:
            self._let_go()
            raise
        self._regions = regions
        self._state_changed(self.migration.state)
        self.counters["opened"] += 1

    def close(self) -> None:
        """The user is gone: drop all that it brought along; the device keeps its state; idempotent."""
        if self.user is None:
            return
        self._let_go()
        self._guard.tell("close", self.device.close)
        if not self.held:
            self.migration.abandon()

    def _let_go(self) -> None:
        self.user = self._programs.user = None
        self._regions = self._reachable = ()
        host, self._host = self._host, None
        if host is not None:
            host.close()
        self._programs.drop_all(MdevError(ENODEV, f"{self.name} is closed"))
        self._irqs.close()
        self.dma.clear()
        self.dirty.stop()

    def _described(self) -> tuple[tuple[int, int, RegionMemory | None], ...]:
        """Check what the device says of itself: users rely on it."""
        device = self.device
        if (device.flags & _BUS).bit_count() != 1:
            raise ValueError(f"device flags {device.flags:#x}: exactly one bus")
        if any(irq.count < 0 for irq in device.irqs):
            raise ValueError("an irq with a negative number of vectors")
        for index, region in enumerate(device.regions):
            info, memory = region.info, region.memory
            room = info.size if memory is None else min(info.size, memory.size)
            if info.size < 0 or room < info.size or any(a < 0 or n <= 0 or a + n > info.size for a, n in info.sparse):
                raise ValueError(f"region {index}: {info}")
        return tuple((item.info.size, int(item.info.flags), item.memory) for item in device.regions)

    def _notices(self) -> tuple[int, ...]:
        """Irqs that tell of the device itself."""
        if self.device.flags & DeviceFlag.PCI:
            return (PciIrq.ERR, PciIrq.REQ)
        return (CcwIrq.REQ,) if self.device.flags & DeviceFlag.CCW else ()

    def hold(self) -> None:
        """Let nobody open it, and let a migration outlive its user, until :meth:`unhold`."""
        self.held = True

    def unhold(self) -> None:
        """Undo :meth:`hold`; a migration that is left without user or holder ends."""
        self.held = False
        if self.user is None:
            self.migration.abandon()

    @property
    def busy(self) -> bool:
        """Whether a program or an access is under way."""
        return len(self._programs) > 0

    def quiesce(self, done: Callable[[], None]) -> None:
        """Call ``done`` once no program and no access is under way; at once, if none is."""
        self._programs.when_idle(done)

    def request_release(self) -> None:
        """Ask the user, by the REQ irq, to let go; nothing happens where there is none."""
        self._irqs.signal(self._notices()[-1] if self._notices() else -1)

    def _state_changed(self, state: MigrationState) -> None:
        self._reachable = () if state is MigrationState.STOP_COPY else self._regions

    def _check(self) -> None:
        """Check that somebody has it open, and that the state of migration lets this user do other things than that."""
        if self.user is None:
            raise MdevError(ENODEV, f"{self.name} is not open")
        if self.migration.state in STOPPED:
            raise MdevError(EINVAL, f"{self.name} is in {self.migration.state.name}")

    # --- what it is ---------------------------------------------------------------------------------------------------

    def describe(self) -> DeviceInfo:
        """What the device is; for administrators, in every state."""
        return DeviceInfo(int(self.device.flags), len(self.device.regions), len(self.device.irqs))

    def info(self) -> DeviceInfo:
        """GET_INFO."""
        self._check()
        return self.describe()

    def region_info(self, index: int) -> Region:
        """GET_REGION_INFO.

        :raises MdevError: EINVAL.
        """
        self._check()
        regions = self.device.regions
        if not 0 <= index < len(regions):
            raise MdevError(EINVAL, f"region {index}")
        return regions[index]

    def irq_info(self, index: int) -> IrqInfo:
        """GET_IRQ_INFO.

        :raises MdevError: EINVAL.
        """
        self._check()
        if not 0 <= index < len(self.device.irqs):
            raise MdevError(EINVAL, f"irq {index}")
        return self.device.irqs[index]

    # --- regions ------------------------------------------------------------------------------------------------------

    def _refused(self, region: int, offset: int, length: int) -> MdevError:
        """Why an access was not legal."""
        self.counters["access_refused"] += 1
        if self.user is None:
            return MdevError(ENODEV, f"{self.name} is not open")
        return MdevError(EINVAL, f"{length} bytes at {offset:#x} of region {region}")

    def read(self, region: int, offset: int, length: int) -> bytes | Pending[bytes]:
        """Read a region.

        :raises MdevError: EINVAL no such bytes or not readable; EBUSY too much under way; else the device's.
        """
        if not 0 <= region < len(self._reachable):
            raise self._refused(region, offset, length)
        size, flags, memory = self._reachable[region]
        if offset < 0 or length < 0 or offset + length > size or not size or not flags & _READ:
            raise self._refused(region, offset, length)
        if not length:
            return b""
        if memory is not None:
            return self._guard.ask("memory", _copy_out, memory, offset, length)
        try:  # as Guard.ask does it; registers are read all the time
            result = self.device.read(region, offset, length)
        except MdevError:
            raise
        except Exception as failure:  # noqa: BLE001 - a third party's
            raise self._guard.failed("read", failure) from None
        if isinstance(result, bytes) and len(result) == length:
            return result
        if isinstance(result, Generator):
            return self._run(self._exactly(result, length))
        raise self._guard.failed("read", TypeError(f"not {length} bytes"))

    @staticmethod
    def _exactly(steps: Steps[bytes], length: int) -> Steps[bytes]:
        result: object = yield from steps
        if not isinstance(result, bytes) or len(result) != length:
            raise TypeError(f"not {length} bytes")
        return result

    def write(self, region: int, offset: int, data: bytes) -> Pending[None] | None:
        """Store bytes into a region.

        :raises MdevError: EINVAL no such bytes or not writable; EBUSY too much under way; else the device's.
        """
        length = len(data)
        if not 0 <= region < len(self._reachable):
            raise self._refused(region, offset, length)
        size, flags, memory = self._reachable[region]
        if offset < 0 or offset + length > size or not size or not flags & _WRITE:
            raise self._refused(region, offset, length)
        if not length:
            return None
        if memory is not None:
            self._guard.ask("memory", _copy_in, memory, offset, data)
            return None
        try:  # as Guard.ask does it
            steps = self.device.write(region, offset, bytes(data))
        except MdevError:
            raise
        except Exception as failure:  # noqa: BLE001 - a third party's
            raise self._guard.failed("write", failure) from None
        if steps is None:
            return None
        result = self._run(steps)
        return result if isinstance(result, Pending) else None

    def _run(self, steps: Steps[T]) -> T | Pending[T]:
        """Run a program; returns what it has given, if it did not have to wait."""
        pending: Pending[T] = Pending()
        self._programs.start(steps, pending.resolve, owed=True)
        return pending.now()

    # --- irqs, reset, features, migration -----------------------------------------------------------------------------

    def set_irqs(self, request: IrqSet) -> None:
        """SET_IRQS; the targets are taken over, also when it is refused.

        :raises MdevError: see :mod:`pvnet.mdev.irqs`.
        """
        try:
            self._check()
        except MdevError:
            close_targets(request.targets)
            raise
        self._irqs.set_irqs(request)

    def _irq_changed(self, index: int) -> None:
        self._guard.ask("irq_changed", self.device.irq_changed, index)

    def reset(self) -> None:
        """DEVICE_RESET, in every state: programs end, migration is RUNNING again, listeners and maps stay.

        :raises MdevError: EINVAL the device has none; else the device's.
        """
        if not self.device.flags & DeviceFlag.RESET:
            raise MdevError(EINVAL, f"{self.name} cannot be reset")
        self._programs.drop_all(MdevError(EIO, f"{self.name} is reset"))
        self.migration.reset()
        self.counters["reset"] += 1

    def feature(self, flags: int, data: bytes, max_data: int) -> bytes:
        """DEVICE_FEATURE; returns all that follows the 8-byte head in the reply, at most ``max_data`` bytes.

        This and the stream work also while nobody has it open: it may be moved meanwhile.

        :raises MdevError: EINVAL, see :mod:`pvnet.mdev.vfio_features`; EBUSY, see above.
        """
        return self._features.call(flags, data, max_data)

    def migration_read(self, limit: int) -> bytes:
        """MIG_DATA_READ; ``b""``: nothing for now (PRE_COPY), or that was all (STOP_COPY).

        :raises MdevError: see :meth:`pvnet.mdev.migration.Migration.read`.
        """
        return self.migration.read(limit)

    def migration_write(self, data: bytes) -> None:
        """MIG_DATA_WRITE.

        :raises MdevError: see :meth:`pvnet.mdev.migration.Migration.write`.
        """
        self.migration.write(data)

    # --- memory of the user -------------------------------------------------------------------------------------------

    def dma_map(self, region: DmaRegion) -> None:
        """DMA_MAP; the memory is taken over, also when it is refused.

        :raises MdevError: see :meth:`pvnet.mdev.dma.DmaTable.map`.
        """
        try:
            self._check()
        except MdevError:
            if region.memory is not None:
                region.memory.close()
            raise
        self.dma.map(region)

    def dma_unmap(self, address: int, size: int, *, all_: bool = False) -> None:
        """DMA_UNMAP: when this returns, nothing touches the memory any more.

        The device is told first; programs that still want it get EFAULT.

        :raises MdevError: see :meth:`pvnet.mdev.dma.DmaTable.matching`.
        """
        self._check()
        for region in self.dma.matching(address, size, all_=all_):
            self._guard.tell("dma_unmapped", self.device.dma_unmapped, region.address, region.size)
            self.dma.drop(region)
            self._programs.unmapped(region)
