"""The engine of H_COPY_RDMA: one caller's checked copies between memories that are mapped here.

Checks, in this order, all before the first byte moves:

1. length above ``max_bytes`` (a negative one is, as unsigned): H_PARAMETER
2. source LIOBN is none of the caller's, or is pane 2 of a pair that is not established: H_S_PARM
3. the same for the destination: H_D_PARM
4. source range outside of its window: H_S_PARM; destination: H_D_PARM
5. access bits, source readable, destination writable: H_PERMISSION

Nothing to copy is success.  Either pane may be either side.

**Speed.** :meth:`RdmaEngine.copy` knows for each LIOBN its window's run used last and the memory behind it.  A copy
that lies in such a run on both sides has passed all checks by four comparisons, and is one slice assignment.  Any other
goes through :meth:`RdmaEngine.plan` and leaves its runs behind for the next.  What is known is never older than what it
is about: a window forgets its run at every change of its table, and whoever changes what a LIOBN leads to (pair opened
or closed, memory mapped or gone) calls :meth:`RdmaEngine.forget`.

Spec: vmc 7; LoPAR ch. 17 "H_COPY_RDMA".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from pvnet.memory.copy import CopyPlan, CopyRefusal, Side, move, plan_copy
from pvnet.memory.window import ACCESS_READ, ACCESS_WRITE, HotRun
from pvnet.papr.hcall import HcallRc

_SUCCESS: Final = int(HcallRc.H_SUCCESS)
_REFUSALS: Final = {
    CopyRefusal.SOURCE_RANGE: int(HcallRc.H_S_PARM),
    CopyRefusal.DESTINATION_RANGE: int(HcallRc.H_D_PARM),
    CopyRefusal.SOURCE_PERMISSION: int(HcallRc.H_PERMISSION),
    CopyRefusal.DESTINATION_PERMISSION: int(HcallRc.H_PERMISSION),
}
_LIOBN_MAX: Final = 0xFFFF_FFFF


class Target(NamedTuple):
    """One operand: the side of the copy, and which partition owns the memory (``None``: the hypervisor)."""

    side: Side
    owner: str | None


class Planned(NamedTuple):
    """A copy that passed all checks."""

    source: Target
    destination: Target
    plan: CopyPlan


Resolve: TypeAlias = Callable[[int, int], Target | None]


class RdmaEngine:
    """See the module's text.

    :param resolve: (LIOBN register, IOBA) to operand, or ``None`` when the caller may not use that LIOBN (now).
    :param max_bytes: longest copy.
    """

    __slots__ = ("_max_bytes", "_resolve", "_sources", "_targets")

    def __init__(self, resolve: Resolve, max_bytes: int) -> None:
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._sources: dict[int, tuple[HotRun, memoryview]] = {}
        self._targets: dict[int, tuple[HotRun, memoryview]] = {}

    def copy(
        self, source_liobn: int, source_ioba: int, target_liobn: int, target_ioba: int, length: int
    ) -> int | Planned:
        """Check and copy ``length`` bytes; returns the rc.

        A copy that is allowed, but has a side in another process, is returned as its plan for the caller to carry out.
        """
        try:
            source, source_view = self._sources[source_liobn]
            target, target_view = self._targets[target_liobn]
        except KeyError:
            return self._checked(source_liobn, source_ioba, target_liobn, target_ioba, length)
        if (
            source.start <= source_ioba
            and source_ioba + length <= source.end
            and target.start <= target_ioba
            and target_ioba + length <= target.end
            and 0 < length <= self._max_bytes
        ):
            source_ioba += source.delta
            target_ioba += target.delta
            target_view[target_ioba : target_ioba + length] = source_view[source_ioba : source_ioba + length]
            return _SUCCESS
        return self._checked(source_liobn, source_ioba, target_liobn, target_ioba, length)

    def plan(
        self, source_liobn: int, source_ioba: int, target_liobn: int, target_ioba: int, length: int
    ) -> int | Planned:
        """The checks alone, from the beginning: the plan, or the rc of the refusal."""
        if length > self._max_bytes:
            return int(HcallRc.H_PARAMETER)
        source = self._resolve(source_liobn, source_ioba)
        if source is None:
            return int(HcallRc.H_S_PARM)
        destination = self._resolve(target_liobn, target_ioba)
        if destination is None:
            return int(HcallRc.H_D_PARM)
        plan = plan_copy(source.side, destination.side, length)
        if isinstance(plan, CopyRefusal):
            return _REFUSALS[plan]
        return Planned(source, destination, plan)

    def forget(self) -> None:
        """What LIOBNs lead to has changed: find out anew."""
        self._sources.clear()
        self._targets.clear()

    def _checked(
        self, source_liobn: int, source_ioba: int, target_liobn: int, target_ioba: int, length: int
    ) -> int | Planned:
        planned = self.plan(source_liobn, source_ioba, target_liobn, target_ioba, length)
        if isinstance(planned, int):
            return planned
        source, destination = planned.source.side, planned.destination.side
        if len(planned.plan.source) == 1:
            self._remember(self._sources, source_liobn, source, ACCESS_READ)
        if len(planned.plan.destination) == 1:
            self._remember(self._targets, target_liobn, destination, ACCESS_WRITE)
        if not length:
            return _SUCCESS
        if source.segment is None or destination.segment is None:
            return planned
        move(planned.plan, source.segment, destination.segment)
        return _SUCCESS

    def _remember(self, known: dict[int, tuple[HotRun, memoryview]], liobn: int, side: Side, access: int) -> None:
        if side.segment is None or liobn > _LIOBN_MAX:  # high bits do not count, and could be anything
            return
        window = side.window
        window.warm(side.ioba, access, side.limit)
        known[liobn] = (window.readable if access == ACCESS_READ else window.writable, side.segment.view)
