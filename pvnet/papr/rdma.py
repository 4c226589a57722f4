"""H_COPY_RDMA: the hypervisor moves bytes between two windows of the caller.

Checks, in this order, all before the first byte moves:

1. length above ``max_virtual_dma_size`` (a negative one is, as unsigned): H_PARAMETER
2. source LIOBN is none of the caller's, or is pane 2 of a pair that is not established: H_S_PARM
3. the same for the destination: H_D_PARM
4. source range outside of its window: H_S_PARM; destination: H_D_PARM
5. access bits, source readable, destination writable: H_PERMISSION

Nothing to copy is success.  Either pane may be either side.  Bytes go straight from view to view when both memories are
mapped here; else they come with the call (the caller's own memory), return with the answer (likewise), or are fetched
and stored in chunks (a third party's memory, or more of the caller's own than a chunk).

Doubts decided.  Pane 2 is usable while both ends of the pair are registered; afterwards it is refused as in 2 and 3
(LoPAR says only that copies fail).  Bytes that come with the call and are not exactly as many as it names: H_HARDWARE,
as for every failing memory.  When the third party dies under a copy: H_S_PARM or H_D_PARM, as if the pair had been
broken before.  Fetched bytes are stored only after all checks have passed again.  One partial store is possible and
cannot be helped: a third party that takes the first chunk and refuses the second; the caller gets H_HARDWARE.
Spec: vmc 7; LoPAR ch. 17 "H_COPY_RDMA".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pvnet.core.machine import Counters, Note
from pvnet.memory.copy import CopyPlan, CopyRefusal, Side, gather, move, plan_copy, scatter
from pvnet.memory.window import Run
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import CHUNK_BYTES, PlatformOutput
from pvnet.papr.remote_memory import RemoteMemory, TransferFailure

_OK: Final = Answer(HcallRc.H_SUCCESS)
_HARDWARE: Final = Answer(HcallRc.H_HARDWARE)
_REFUSALS: Final = {
    CopyRefusal.SOURCE_RANGE: Answer(HcallRc.H_S_PARM),
    CopyRefusal.DESTINATION_RANGE: Answer(HcallRc.H_D_PARM),
    CopyRefusal.SOURCE_PERMISSION: Answer(HcallRc.H_PERMISSION),
    CopyRefusal.DESTINATION_PERMISSION: Answer(HcallRc.H_PERMISSION),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One operand: the side of the copy, and which partition owns the memory (``None``: the hypervisor)."""

    side: Side
    owner: str | None


class RdmaCopies:
    """H_COPY_RDMA of one platform.

    :param resolve: (caller, LIOBN, IOBA) to operand, or ``None`` when the caller may not use that LIOBN (now).
    :param finish: takes an answer that comes later: caller, its tag, the answer.
    """

    def __init__(
        self,
        resolve: Callable[[str, int, int], Target | None],
        remote: RemoteMemory,
        finish: Callable[[str, int, Answer], None],
        emit: Callable[[PlatformOutput], None],
        counters: Counters,
        max_bytes: int,
    ) -> None:
        self._resolve = resolve
        self._remote = remote
        self._finish = finish
        self._emit = emit
        self._counters = counters
        self._max_bytes = max_bytes

    def copy(self, caller: str, call: Call) -> Answer | None:
        """Run the call; ``None``: memory of a third party is involved, the answer comes later."""
        planned = self._plan(caller, call)
        if isinstance(planned, Answer):
            return planned
        source, destination, plan = planned
        length = call.args[0]
        if not length:
            return _OK
        from_segment, to_segment = source.side.segment, destination.side.segment
        if from_segment is not None and to_segment is not None:
            move(plan, from_segment, to_segment)
            return _OK
        if from_segment is not None:
            data = gather(from_segment, plan.source)
        elif source.owner == caller and call.memory is not None:
            data = call.memory
            if len(data) != length:
                self._counters["rdma_wrong_bytes"] += 1
                fields = (("partition", caller), ("length", length), ("bytes", len(data)))
                self._emit(Note("rdma_wrong_bytes", fields, "warning"))
                return _HARDWARE
        else:
            assert source.owner is not None, "the hypervisor's own memory is always mapped"
            self._remote.read(caller, source.owner, plan.source, partial(self._fetched, caller, call))
            return None
        return self._store(caller, call, destination, plan.destination, data)

    def _plan(self, caller: str, call: Call) -> tuple[Target, Target, CopyPlan] | Answer:
        """The checks."""
        length, from_liobn, from_ioba, to_liobn, to_ioba = call.args[:5]
        if length > self._max_bytes:
            return Answer(HcallRc.H_PARAMETER)
        source = self._resolve(caller, from_liobn, from_ioba)
        if source is None:
            return Answer(HcallRc.H_S_PARM)
        destination = self._resolve(caller, to_liobn, to_ioba)
        if destination is None:
            return Answer(HcallRc.H_D_PARM)
        plan = plan_copy(source.side, destination.side, length)
        if isinstance(plan, CopyRefusal):
            return _REFUSALS[plan]
        return source, destination, plan

    def _store(self, caller: str, call: Call, destination: Target, runs: tuple[Run, ...], data: bytes) -> Answer | None:
        if destination.side.segment is not None:
            scatter(data, destination.side.segment, runs)
            return _OK
        if destination.owner == caller and len(data) <= CHUNK_BYTES:
            return Answer(HcallRc.H_SUCCESS, memory=data)
        assert destination.owner is not None, "the hypervisor's own memory is always mapped"
        self._remote.write(caller, destination.owner, runs, data, partial(self._stored, caller, call.tag))
        return None

    def _fetched(self, caller: str, call: Call, data: bytes | TransferFailure) -> None:
        if isinstance(data, TransferFailure):
            rc = HcallRc.H_S_PARM if data is TransferFailure.DIED else HcallRc.H_HARDWARE
            self._finish(caller, call.tag, Answer(rc))
            return
        planned = self._plan(caller, call)
        if isinstance(planned, Answer):
            self._counters["rdma_refused_after_fetch"] += 1
            self._finish(caller, call.tag, planned)
            return
        _, destination, plan = planned
        answer = self._store(caller, call, destination, plan.destination, data)
        if answer is not None:
            self._finish(caller, call.tag, answer)

    def _stored(self, caller: str, tag: int, outcome: bytes | TransferFailure) -> None:
        if outcome is TransferFailure.DIED:
            answer = Answer(HcallRc.H_D_PARM)
        elif outcome is TransferFailure.ERROR:
            answer = _HARDWARE
        else:
            answer = _OK
        self._finish(caller, tag, answer)
