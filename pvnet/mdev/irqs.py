"""Irqs of a device: who listens, what is masked, what is still to be told.

Each vector of each index has at most one listener.  A vector may be *masked* (indices with MASKABLE); an AUTOMASKED
one masks itself whenever it has told.  What comes while it is masked is told when it is unmasked: once for any number
of edges, and for a level as long as the device still asserts it::

    device asserts ──▶ told once, masked ──UNMASK──▶ still asserted? told again, masked
                                             └────▶ else: waits for the next

A vector that loses its listener loses its mask and its edges too; the level stays, it is the device's.

SET_IRQS in the order of its checks: index, start + count, unknown flags, exactly one data type and one action, then
*disable* (NONE, TRIGGER, count 0: also where there are no vectors), range, data.  All of this is EINVAL.

=========  ==========================================  =================================================
action     NONE, BOOL                                  EVENTFD
=========  ==========================================  =================================================
MASK,      now; EINVAL while nobody listens to the     ENOTTY: clients fall back to messages
UNMASK     index; ENOTTY without MASKABLE; EINVAL for
           the notices (ERR, REQ), which never have it
TRIGGER    test: the listeners are told; EINVAL while  set or remove; no target at all removes; ENOTTY
           nobody listens to the index                 without EVENTFD
=========  ==========================================  =================================================

An index with NORESIZE: the first call decides how many vectors are enabled, and until they all are gone none can be
added.  INTx and MSI do not exclude each other here; a device that minds looks at
:meth:`~pvnet.mdev.device.DeviceHost.irq_enabled`.

Spec: mdev 4.4, 4.5, 8.1 (interrupt delivery), 9.2 (B26 to B29).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.names import IrqAction, IrqData, IrqFlag
from pvnet.mdev.user import IrqTarget
from pvnet.papr.errno import EINVAL, ENOTTY

_COUNT_LIMIT: Final = 0xFFFFFFFF
_DATA_TYPES: Final = int(IrqData.NONE | IrqData.BOOL | IrqData.EVENTFD)
_ACTIONS: Final = int(IrqAction.MASK | IrqAction.UNMASK | IrqAction.TRIGGER)


@dataclass(frozen=True, slots=True)
class IrqSet:
    """SET_IRQS, decoded: ``flags`` one :class:`~pvnet.mdev.names.IrqData` and one :class:`~pvnet.mdev.names.IrqAction`.

    ``data``: BOOL, one byte per vector.  ``targets``: EVENTFD, one per vector, None removes; empty removes all of
    them.  Whoever is given an IrqSet owns the targets, also when it refuses.
    """

    flags: int
    index: int
    start: int
    count: int
    data: bytes = b""
    targets: tuple[IrqTarget | None, ...] = ()


@dataclass(slots=True)
class _Vector:
    target: IrqTarget | None = None
    masked: bool = False
    edge: bool = False
    """Came while it was masked."""


class _Line:
    """One index."""

    __slots__ = ("enabled", "flags", "level", "vectors")

    def __init__(self, info: IrqInfo) -> None:
        self.flags = info.flags
        self.vectors = [_Vector() for _ in range(info.count)]
        self.level = False
        self.enabled = 0
        """Vectors that the first call of a NORESIZE index has enabled."""

    @property
    def listened(self) -> bool:
        return any(vector.target is not None for vector in self.vectors)

    def tell(self, vector: _Vector) -> None:
        """Tell the listener unless it is masked."""
        if vector.target is None:
            return
        if vector.masked:
            vector.edge = True
            return
        vector.edge = False
        vector.masked = bool(self.flags & IrqFlag.AUTOMASKED)
        vector.target.signal()

    def unmask(self, vector: _Vector) -> None:
        vector.masked = False
        if vector.edge or self._asserted(vector):
            self.tell(vector)

    def listen(self, vector: _Vector, target: IrqTarget | None) -> None:
        """Change the listener."""
        old, vector.target = vector.target, target
        if old is not None and old is not target:
            old.close()
        if target is None:
            vector.masked = vector.edge = False
        elif not vector.masked and self._asserted(vector):
            self.tell(vector)

    def _asserted(self, vector: _Vector) -> bool:
        """Whether a level is to be told: only one that a user can see end, by unmasking."""
        return self.level and bool(self.flags & IrqFlag.AUTOMASKED) and vector is self.vectors[0]


def close_targets(targets: Iterable[IrqTarget | None]) -> None:
    """Let go of targets that are not kept."""
    for target in targets:
        if target is not None:
            target.close()


class IrqLines:
    """All indices of a device, for one user."""

    def __init__(self, infos: Sequence[IrqInfo], changed: Callable[[int], None], notices: Collection[int] = ()) -> None:
        """Begin with no listeners.

        ``changed`` hears the index whose vectors somebody has begun or ceased to listen to.  ``notices``: indices that
        tell about the device itself (ERR, REQ).
        """
        self._lines = [_Line(info) for info in infos]
        self._changed = changed
        self._notices = frozenset(notices)

    # --- the device ---------------------------------------------------------------------------------------------------

    def signal(self, index: int, vector: int = 0) -> None:
        """Tell of an edge; what does not exist has no listener."""
        found = self._vector(index, vector)
        if found is not None:
            self._lines[index].tell(found)

    def set_level(self, index: int, *, asserted: bool) -> None:
        """Set the level; without AUTOMASKED its rise is an edge."""
        found = self._vector(index, 0)
        if found is None:
            return
        line = self._lines[index]
        rises, line.level = asserted and not line.level, asserted
        if rises and not (line.flags & IrqFlag.AUTOMASKED and found.masked):
            line.tell(found)

    def enabled(self, index: int, vector: int = 0) -> bool:
        """Whether somebody listens."""
        found = self._vector(index, vector)
        return found is not None and found.target is not None

    def _vector(self, index: int, vector: int) -> _Vector | None:
        if not 0 <= index < len(self._lines):
            return None
        vectors = self._lines[index].vectors
        return vectors[vector] if 0 <= vector < len(vectors) else None

    # --- the user -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The user is gone; ``changed`` is not told."""
        for line in self._lines:
            self._disable(line)

    def set_irqs(self, request: IrqSet) -> None:
        """SET_IRQS; targets that are not kept are closed.

        :raises MdevError: EINVAL, ENOTTY; nothing has changed then.
        """
        try:
            line, kind, action = self._check(request)
        except BaseException:
            close_targets(request.targets)
            raise
        before = [vector.target is not None for vector in line.vectors]
        self._apply(line, kind, action, request)
        if before != [vector.target is not None for vector in line.vectors]:
            self._changed(request.index)

    def _check(self, request: IrqSet) -> tuple[_Line, int, int]:
        flags, index, start, count = request.flags, request.index, request.start, request.count
        if not 0 <= index < len(self._lines):
            raise MdevError(EINVAL, f"irq {index}")
        if start < 0 or count < 0 or count >= _COUNT_LIMIT - start:
            raise MdevError(EINVAL, f"{count} vectors from {start}")
        kind, action = flags & _DATA_TYPES, flags & _ACTIONS
        if flags & ~(_DATA_TYPES | _ACTIONS):
            raise MdevError(EINVAL, f"irq flags {flags:#x}")
        if kind.bit_count() != 1 or action.bit_count() != 1:
            raise MdevError(EINVAL, f"irq flags {flags:#x}: one data type and one action")
        if request.targets and kind != IrqData.EVENTFD:
            raise MdevError(EINVAL, "descriptors without EVENTFD")
        line = self._lines[index]
        vectors = len(line.vectors)
        if not count:
            if kind != IrqData.NONE or action != IrqAction.TRIGGER or (start and start >= vectors):
                raise MdevError(EINVAL, f"no vectors with irq flags {flags:#x}")
            return line, kind, action
        if start >= vectors or start + count > vectors:
            raise MdevError(EINVAL, f"vectors {start} to {start + count} of irq {index}, which has {vectors}")
        if kind == IrqData.BOOL and len(request.data) < count:
            raise MdevError(EINVAL, f"{len(request.data)} bytes for {count} vectors")
        if kind == IrqData.EVENTFD and len(request.targets) not in {0, count}:
            raise MdevError(EINVAL, f"{len(request.targets)} descriptors for {count} vectors")
        self._check_supported(line, kind, action, request)
        return line, kind, action

    def _check_supported(self, line: _Line, kind: int, action: int, request: IrqSet) -> None:
        index = request.index
        if action != IrqAction.TRIGGER:
            if index in self._notices:
                raise MdevError(EINVAL, f"irq {index} cannot be masked")
            if kind == IrqData.EVENTFD or not line.flags & IrqFlag.MASKABLE:
                raise MdevError(ENOTTY, f"irq {index} cannot be masked like that")
        elif kind == IrqData.EVENTFD:
            if not line.flags & IrqFlag.EVENTFD:
                raise MdevError(ENOTTY, f"irq {index} has no listeners")
            grows = any(target is not None for target in request.targets)
            if grows and line.enabled and request.start + request.count > line.enabled:
                raise MdevError(EINVAL, f"irq {index} has been enabled with {line.enabled} vectors")
            return
        if not line.listened:
            raise MdevError(EINVAL, f"nobody listens to irq {index}")

    def _apply(self, line: _Line, kind: int, action: int, request: IrqSet) -> None:
        start, count = request.start, request.count
        if not count:
            self._disable(line)
            return
        chosen = line.vectors[start : start + count]
        if kind == IrqData.EVENTFD:
            for vector, target in zip(chosen, request.targets or (None,) * count, strict=True):
                line.listen(vector, target)
            if not line.listened:
                line.enabled = 0
            elif line.flags & IrqFlag.NORESIZE and not line.enabled:
                line.enabled = start + count
            return
        for number, vector in enumerate(chosen):
            if kind == IrqData.BOOL and not request.data[number]:
                continue
            if action == IrqAction.TRIGGER:
                line.tell(vector)
            elif action == IrqAction.UNMASK:
                line.unmask(vector)
            elif vector.target is not None:
                vector.masked = True

    @staticmethod
    def _disable(line: _Line) -> None:
        for vector in line.vectors:
            line.listen(vector, None)
        line.enabled = 0
