"""H_COPY_RDMA: the hypervisor moves bytes between two windows of the caller.

The checks, and the copy when both memories are mapped here, are :class:`pvnet.papr.rdma_engine.RdmaEngine`'s.  This
module does the rest: bytes of a memory in another process come with the call (the caller's own memory), return with the
answer (likewise), or are fetched and stored in chunks (a third party's memory, or more of the caller's own than a
chunk).

Doubts decided.  Pane 2 is usable while both ends of the pair are registered; afterwards it is refused as a LIOBN that
is not the caller's (LoPAR says only that copies fail).  Bytes that come with the call and are not exactly as many as it
names: H_HARDWARE, as for every failing memory; when the caller's memory is mapped here, it is what counts, and bytes
that came along are not looked at.  When the third party dies under a copy: H_S_PARM or H_D_PARM, as if the pair had
been broken before.  Fetched bytes are stored only after all checks have passed again.  One partial store is possible
and cannot be helped: a third party that takes the first chunk and refuses the second; the caller gets H_HARDWARE.
Spec: vmc 7; LoPAR ch. 17 "H_COPY_RDMA".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from pvnet.core.machine import Counters, Note
from pvnet.memory.copy import gather, scatter
from pvnet.memory.window import Run
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import CHUNK_BYTES, PlatformOutput
from pvnet.papr.rdma_engine import Planned, RdmaEngine, Target
from pvnet.papr.remote_memory import RemoteMemory, TransferFailure

_OK: Final = Answer(HcallRc.H_SUCCESS)
_HARDWARE: Final = Answer(HcallRc.H_HARDWARE)


class RdmaCopies:
    """H_COPY_RDMA of one platform.

    :param finish: takes an answer that comes later: caller, its tag, the answer.
    """

    def __init__(
        self,
        remote: RemoteMemory,
        finish: Callable[[str, int, Answer], None],
        emit: Callable[[PlatformOutput], None],
        counters: Counters,
    ) -> None:
        self._remote = remote
        self._finish = finish
        self._emit = emit
        self._counters = counters

    def copy(self, engine: RdmaEngine, caller: str, call: Call) -> Answer | None:
        """Run the call with its caller's engine; ``None``: chunks have to travel, the answer comes later."""
        length, from_liobn, from_ioba, to_liobn, to_ioba = call.args[:5]
        done = engine.copy(from_liobn, from_ioba, to_liobn, to_ioba, length)
        if isinstance(done, int):
            return Answer(done) if done else _OK
        source, destination, plan = done
        if source.side.segment is not None:
            data = gather(source.side.segment, plan.source)
        elif source.owner == caller and call.memory is not None:
            data = call.memory
            if len(data) != length:
                self._counters["rdma_wrong_bytes"] += 1
                fields = (("partition", caller), ("length", length), ("bytes", len(data)))
                self._emit(Note("rdma_wrong_bytes", fields, "warning"))
                return _HARDWARE
        else:
            assert source.owner is not None, "the hypervisor's own memory is always mapped"
            self._remote.read(caller, source.owner, plan.source, partial(self._fetched, engine, caller, call))
            return None
        return self._store(caller, call, destination, plan.destination, data)

    def _store(self, caller: str, call: Call, destination: Target, runs: tuple[Run, ...], data: bytes) -> Answer | None:
        if destination.side.segment is not None:
            scatter(data, destination.side.segment, runs)
            return _OK
        if destination.owner == caller and len(data) <= CHUNK_BYTES:
            return Answer(HcallRc.H_SUCCESS, memory=data)
        assert destination.owner is not None, "the hypervisor's own memory is always mapped"
        self._remote.write(caller, destination.owner, runs, data, partial(self._stored, caller, call.tag))
        return None

    def _fetched(self, engine: RdmaEngine, caller: str, call: Call, data: bytes | TransferFailure) -> None:
        if isinstance(data, TransferFailure):
            rc = HcallRc.H_S_PARM if data is TransferFailure.DIED else HcallRc.H_HARDWARE
            self._finish(caller, call.tag, Answer(rc))
            return
        length, from_liobn, from_ioba, to_liobn, to_ioba = call.args[:5]
        planned = engine.plan(from_liobn, from_ioba, to_liobn, to_ioba, length)
        if not isinstance(planned, Planned):
            self._counters["rdma_refused_after_fetch"] += 1
            self._finish(caller, call.tag, Answer(planned))
            return
        answer = self._store(caller, call, planned.destination, planned.plan.destination, data)
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
