"""H_SCM_FLUSH: started by a call without a token, finished elsewhere, told by a call with the token.

The starting call is always busy, because the medium takes its time (and the reference behaves so even when it does
not).  A token answers its result exactly once; until then it stays, however long, within the limit of open operations.

A flush that fails is H_HARDWARE for its own token only; the device's health remembers it.

Spec: hcall_scm 3.11, 6.1 (8, 10, 15, 17).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pvnet.core.machine import Counters
from pvnet.papr.continuation import Continuations, Place
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.extension import ExtensionOutput
from pvnet.papr.hcall import HcallRc
from pvnet.scm import calls as scm
from pvnet.scm.device import ScmDevice
from pvnet.scm.hypervisor_io import StartFlush
from pvnet.scm.stats import Statistic

if TYPE_CHECKING:
    from pvnet.scm.bind_calls import Work

_MICROSECONDS: Final = 1_000_000


@dataclass(slots=True)
class FlushWork:
    """A flush: ``rc`` is ``None`` until it is done."""

    device: ScmDevice
    started: float
    rc: HcallRc | None = None


class FlushCalls:
    """The call, and the flushes under way by tag."""

    def __init__(
        self, tokens: Continuations[Work], counters: Counters, emit: Callable[[ExtensionOutput], None]
    ) -> None:
        self._tokens = tokens
        self._counters = counters
        self._emit = emit
        self._under_way: dict[int, FlushWork] = {}
        self._next_tag = 1

    def flush(self, partition: str, device: ScmDevice, call: Call, now: float) -> Answer:
        """H_SCM_FLUSH."""
        args, config, profile = scm.Flush(*call.args[:2]), device.config, device.profile
        if not config.needs_flush:
            return Answer(HcallRc.H_PARAMETER)
        place = Place(partition, call.opcode, config.drc)
        if args.token:
            work = self._tokens.find(place, args.token, ())
            if not isinstance(work, FlushWork):
                return Answer(HcallRc.H_P2)
            if work.rc is None:
                return Answer(profile.flush_busy, (args.token,))
            self._tokens.finish(place, args.token)
            return Answer(work.rc)
        if not config.can_flush:
            return Answer(HcallRc.H_UNSUPPORTED)
        work = FlushWork(device, now)
        token = self._tokens.start(place, (), work, profile.first_tokens.get(call.opcode, 1))
        if token is None:
            self._counters["flush_over_limit"] += 1
            return Answer(profile.flush_busy, (0,))
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._under_way[tag] = work
        self._emit(StartFlush(tag, partition, config.drc))
        return Answer(profile.flush_busy, (token,))

    def done(self, tag: int, error: int, now: float) -> None:
        """A flush has finished; one that nobody started is counted."""
        work = self._under_way.pop(tag, None)
        if work is None:
            self._counters["flush_done_unknown"] += 1
            return
        if error:
            self._counters["flush_failed"] += 1
            work.rc = HcallRc.H_HARDWARE
            work.device.write_failed(error)
            return
        work.rc = HcallRc.H_SUCCESS
        work.device.count(Statistic.MED_W_CNT)
        work.device.count(Statistic.MED_W_DUR, max(0, int((now - work.started) * _MICROSECONDS)))
