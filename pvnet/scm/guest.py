"""The guest's driver of one SCM device: one machine per device, behaving as the Linux driver ``papr_scm`` does.

Two things happen here: the device's *life*, one flat table, and *commands* of programs that opened it.  Both make
hcalls only through the scripts of :mod:`pvnet.scm.guest_calls`.

::

    absent --probe--> binding --> sizing --> health --> labels --> ready --remove--> ending --> removing --> absent
    binding --overlap--> querying --usable--> sizing
                         querying --else--> recovering: unbind all --> rebinding, once --> sizing
    binding, rebinding --failed--> failed        --bound where no device can lie--> refusing: unbind all --> failed

What a probe asks, in this order: BIND_MEM until it is done; the size of the statistics; the health; the label area as
libnvdimm reads it.  Only the binding decides; the rest may fail.  Remove unbinds all blocks of the device; a driver
that is never removed (kexec, crash) leaves them bound, hence the overlap path.

**Commands** run one after the other, as under libnvdimm's bus lock; flushes run beside them and beside each other, each
with a token of its own.  Queues are bounded: beyond them a command is -EBUSY.  Remove refuses what waits, lets what
runs come to its end, and then unbinds.  Probe and remove that come at the wrong moment wait for the right one; the last
wish wins.

Doubts decided.  The machine is the driver, so an access beyond the metadata area is -EINVAL; libnvdimm's core, which
would say -ENXIO before the driver is asked, is not modelled.  Linux' ioctl hides a command's status behind success;
here the result is the status, with the package filled in all the same.  A label area that cannot be read leaves the
device usable, as in Linux.  After removal open files are -ENODEV.

Differences between Linux and a robust driver are data: :class:`pvnet.scm.guest_interface.ScmGuestPolicy`.

Spec: hcall_scm 3.8, 4, 6.2; Linux ``papr_scm.c``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import count, product
from types import MappingProxyType
from typing import Any, Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.device_io import (
    AdapterInput,
    DeviceClose,
    DeviceDone,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    Probe,
    Remove,
)
from pvnet.papr.errno import EBADF, EBUSY, EINTR, EINVAL, EMFILE, ENODEV
from pvnet.papr.hcall import HcallRc
from pvnet.scm.calls import opcode_of
from pvnet.scm.guest_calls import Answer, Ending, GuestCalls, Pause, Script
from pvnet.scm.guest_commands import run_command
from pvnet.scm.guest_interface import (
    HARDENED_GUEST,
    GuestMemory,
    ScmBound,
    ScmCommand,
    ScmGuestConfig,
    ScmGuestOutput,
    ScmGuestPolicy,
    ScmUnbound,
)

MAX_FILES: Final = 64
POLL_ALWAYS: Final = 0x005
"""POLLIN and POLLOUT: the device never makes a program wait."""


class ScmState(IntEnum):
    """Where the device's life stands."""

    ABSENT = 0
    BINDING = 1
    QUERYING = 2
    RECOVERING = 3
    REBINDING = 4
    SIZING = 5
    HEALTH = 6
    LABELS = 7
    READY = 8
    REFUSING = 9
    ENDING = 10
    REMOVING = 11
    FAILED = 12


class ScmTrigger(IntEnum):
    """What moves it."""

    PROBE = 0
    REMOVE = 1
    DONE = 2
    OVERLAP = 3
    UNUSABLE = 4
    FAILED = 5
    IDLE = 6


class ScmAction(StrEnum):
    """What a row does besides moving the state."""

    IGNORE = "ignore"
    LATER = "when this is over"
    BIND = "BIND_MEM"
    QUERY = "QUERY_BLOCK first, last"
    UNBIND = "UNBIND_ALL"
    SIZE = "PERFORMANCE_STATS size"
    HEALTH = "HEALTH"
    LABELS = "READ_METADATA labels"
    OPEN = "serve commands"
    DRAIN = "refuse commands"
    FAIL = "give up"
    CLOSE = "forget"


_S, _T, _A = ScmState, ScmTrigger, ScmAction
RESTING: Final = frozenset({_S.ABSENT, _S.READY, _S.FAILED})
"""States in which a probe or a removal can begin."""


def _table() -> Mapping[tuple[ScmState, ScmTrigger], tuple[ScmAction, ScmState]]:
    table: dict[tuple[ScmState, ScmTrigger], tuple[ScmAction, ScmState]] = {
        (state, trigger): (_A.IGNORE, state) for state, trigger in product(_S, _T)
    }
    for state in set(_S) - RESTING:
        table[state, _T.PROBE] = table[state, _T.REMOVE] = (_A.LATER, state)
    table |= {
        (_S.ABSENT, _T.PROBE): (_A.BIND, _S.BINDING),
        (_S.FAILED, _T.PROBE): (_A.BIND, _S.BINDING),
        (_S.FAILED, _T.REMOVE): (_A.CLOSE, _S.ABSENT),
        (_S.BINDING, _T.OVERLAP): (_A.QUERY, _S.QUERYING),
        (_S.QUERYING, _T.FAILED): (_A.UNBIND, _S.RECOVERING),
        (_S.RECOVERING, _T.DONE): (_A.BIND, _S.REBINDING),
        (_S.RECOVERING, _T.FAILED): (_A.BIND, _S.REBINDING),
        (_S.REBINDING, _T.OVERLAP): (_A.FAIL, _S.FAILED),
        (_S.REFUSING, _T.DONE): (_A.FAIL, _S.FAILED),
        (_S.REFUSING, _T.FAILED): (_A.FAIL, _S.FAILED),
        (_S.READY, _T.REMOVE): (_A.DRAIN, _S.ENDING),
        (_S.ENDING, _T.IDLE): (_A.UNBIND, _S.REMOVING),
        (_S.REMOVING, _T.DONE): (_A.CLOSE, _S.ABSENT),
        (_S.REMOVING, _T.FAILED): (_A.CLOSE, _S.ABSENT),
    }
    for state in (_S.BINDING, _S.REBINDING):
        table[state, _T.FAILED] = (_A.FAIL, _S.FAILED)
        table[state, _T.UNUSABLE] = (_A.UNBIND, _S.REFUSING)
    for state in (_S.BINDING, _S.QUERYING, _S.REBINDING):
        table[state, _T.DONE] = (_A.SIZE, _S.SIZING)
    for trigger in (_T.DONE, _T.FAILED):
        table[_S.SIZING, trigger] = (_A.HEALTH, _S.HEALTH)
        table[_S.HEALTH, trigger] = (_A.LABELS, _S.LABELS)
        table[_S.LABELS, trigger] = (_A.OPEN, _S.READY)
    return MappingProxyType(table)


GUEST_TABLE: Final = _table()
"""Every (state, trigger) with its action and next state; tests and documents enumerate it."""

_TRIGGER_OF: Final = {
    Ending.DONE: _T.DONE,
    Ending.OVERLAP: _T.OVERLAP,
    Ending.UNUSABLE: _T.UNUSABLE,
    Ending.FAILED: _T.FAILED,
}
_NO_ANSWER: Final = Answer(HcallRc.H_HARDWARE)


@dataclass(eq=False, slots=True)
class _Running:
    """A script under way: it waits for the answer with ``tag``, or (``tag`` None) for the time ``due``."""

    script: Script[Any]
    ended: Callable[[Any], None]
    tag: int | None = None
    due: float | None = None


class ScmGuest:
    """Machine[AdapterInput, ScmGuestOutput]; see the module's text.

    :param memory: the partition's memory by real address; holds the statistics buffer.
    """

    def __init__(self, config: ScmGuestConfig, memory: GuestMemory, policy: ScmGuestPolicy = HARDENED_GUEST) -> None:
        self.config = config
        self.policy = policy
        self.state = ScmState.ABSENT
        self.calls = GuestCalls(config, policy, memory)
        """What the driver knows of the device: binding, health, statistics."""
        self._out: list[ScmGuestOutput] = []
        self._now = 0.0
        self._next_tag = 1
        self._running: list[_Running] = []
        self._by_tag: dict[int, _Running] = {}
        self._handles = count(1)
        self._files: dict[int, bool] = {}
        """Open files: whether their device is still the one they were opened on."""
        self._waiting: deque[DeviceIoctl] = deque()
        self._has_command = False
        self._flushes = 0
        self._wishes: list[ScmTrigger] = []
        """Removal, probe or both, in this order, put off until the state allows."""

    # Looking in

    @property
    def counters(self) -> Counters:
        """Refusals, failures and repairs by name."""
        return self.calls.counters

    @property
    def bound_address(self) -> int | None:
        """Address of the first block, ``None`` while nothing is bound."""
        return self.calls.bound_address

    @property
    def problem(self) -> int:
        """errno of the probe that failed; 0 while none did."""
        return self.calls.problem

    # The machine

    def feed(self, event: AdapterInput, now: float) -> list[ScmGuestOutput]:
        """Consume one input at time ``now`` (seconds); returns its consequences in order."""
        self._now = self.calls.now = now
        match event:
            case HcallReturned():
                self._returned(event)
            case Tick():
                self._tick()
            case Probe():
                self._trigger(ScmTrigger.PROBE)
            case Remove():
                self._trigger(ScmTrigger.REMOVE)
            case Irq():
                pass
            case DeviceOpen(request):
                self._open(request)
            case DeviceInterrupt(request):
                self._interrupt(request)
            case DeviceIoctl() | DeviceRead() | DeviceWrite() | DevicePoll() | DeviceClose():
                self._file_call(event)
            case _:  # pragma: no cover
                assert_never(event)
        self._settle()
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        """When a Tick is wanted."""
        return min((run.due for run in self._running if run.due is not None), default=None)

    # --- life --------------------------------------------------------------------------------------------------------

    def _trigger(self, trigger: ScmTrigger) -> None:
        before = self.state
        action, self.state = GUEST_TABLE[before, trigger]
        if before is not self.state:
            fields = (("from", before.name), ("to", self.state.name), ("by", trigger.name))
            self.calls.note("scm_state", *fields, level="info")
            self._take_notes()
        self._act(action, trigger)

    def _act(self, action: ScmAction, trigger: ScmTrigger) -> None:
        calls = self.calls
        match action:
            case ScmAction.IGNORE:
                self.counters["ignored"] += 1
            case ScmAction.LATER:
                self._later(trigger)
            case ScmAction.BIND:
                self._live(calls.bind())
            case ScmAction.QUERY:
                self._live(calls.query())
            case ScmAction.UNBIND:
                if calls.bound_address is not None:
                    self._out.append(ScmUnbound())
                self._live(calls.unbind())
            case ScmAction.SIZE:
                assert calls.bound_address is not None
                calls.problem = 0
                self._out.append(ScmBound(calls.bound_address, self.config.size_bytes))
                self._live(calls.query_stats_size())
            case ScmAction.HEALTH:
                self._live(calls.probe_health())
            case ScmAction.LABELS:
                self._live(calls.read_labels())
            case ScmAction.DRAIN:
                self._files = dict.fromkeys(self._files, False)
                while self._waiting:
                    self._done(self._waiting.popleft().request, -ENODEV)
            case ScmAction.OPEN | ScmAction.FAIL:
                pass
            case ScmAction.CLOSE:
                calls.health_at = None
                calls.inject_mask = calls.problem = 0
            case _:  # pragma: no cover
                assert_never(action)

    def _later(self, trigger: ScmTrigger) -> None:
        """Put a wish off: a removal takes back a probe that has not begun, a probe comes after a removal."""
        if trigger is ScmTrigger.REMOVE and self._wishes[-1:] == [ScmTrigger.PROBE]:
            self._wishes.pop()
        is_ending = self.state in {ScmState.ENDING, ScmState.REMOVING} or ScmTrigger.REMOVE in self._wishes
        wants_change = is_ending is (trigger is ScmTrigger.PROBE)
        if wants_change and trigger not in self._wishes:
            self._wishes.append(trigger)

    def _live(self, script: Script[Ending]) -> None:
        self._start(script, lambda ending: self._trigger(_TRIGGER_OF[ending]))

    def _settle(self) -> None:
        """Do what the new situation allows: next command, removal once nothing runs, wishes put off."""
        while True:
            if self.state is ScmState.READY and self._waiting and not self._has_command:
                self._command(self._waiting.popleft())
            elif self.state is ScmState.ENDING and not self._running:
                self._trigger(ScmTrigger.IDLE)
            elif self.state in RESTING and self._wishes:
                self._trigger(self._wishes.pop(0))
            else:
                return

    # --- scripts -----------------------------------------------------------------------------------------------------

    def _start(self, script: Script[Any], ended: Callable[[Any], None]) -> None:
        run = _Running(script, ended)
        self._running.append(run)
        self._advance(run, None)

    def _advance(self, run: _Running, answer: Answer | None) -> None:
        """Let a script take its next step; ``None`` starts it or ends its pause."""
        run.tag = run.due = None
        try:
            step = next(run.script) if answer is None else run.script.send(answer)
        except StopIteration as stop:
            self._running.remove(run)
            self._take_notes()
            run.ended(stop.value)
            return
        self._take_notes()
        if isinstance(step, Pause):
            run.due = self._now + step.seconds
            return
        tag = run.tag = self._next_tag
        self._next_tag += 1
        self._by_tag[tag] = run
        if self.policy.answer_s is not None:
            run.due = self._now + self.policy.answer_s
        self._out.append(CallHypervisor(tag, int(opcode_of(step)), tuple(step)))

    def _take_notes(self) -> None:
        self._out.extend(self.calls.notes)
        self.calls.notes.clear()

    def _returned(self, event: HcallReturned) -> None:
        run = self._by_tag.pop(event.tag, None)
        if run is not None:
            self._advance(run, Answer(event.rc, event.outs))
        elif 0 < event.tag < self._next_tag:
            self.counters["late_answer"] += 1
        else:
            raise LocalError(f"hcall answer with tag {event.tag}: no such call")

    def _tick(self) -> None:
        for run in [run for run in self._running if run.due is not None and run.due <= self._now]:
            if run.tag is None:
                self._advance(run, None)
            else:
                del self._by_tag[run.tag]
                self.calls.note("no_answer")
                self._advance(run, _NO_ANSWER)

    # --- the device file ---------------------------------------------------------------------------------------------

    def _open(self, request: int) -> None:
        if self.state is not ScmState.READY:
            self._done(request, -ENODEV)
        elif len(self._files) >= MAX_FILES:
            self._done(request, -EMFILE)
        else:
            handle = next(self._handles)
            self._files[handle] = True
            self._done(request, handle)

    def _file_call(self, event: DeviceIoctl | DeviceRead | DeviceWrite | DevicePoll | DeviceClose) -> None:
        request, handle = event.request, event.handle
        if handle not in self._files:
            self._done(request, -EBADF)
        elif isinstance(event, DeviceClose):
            del self._files[handle]
            self._done(request, 0)
        elif not self._files[handle]:
            self._done(request, -ENODEV)
        elif isinstance(event, DevicePoll):
            self._done(request, POLL_ALWAYS)
        elif not isinstance(event, DeviceIoctl):
            self._done(request, -EINVAL)
        elif event.command == ScmCommand.FLUSH:
            self._flush(request)
        elif len(self._waiting) >= self.policy.max_queued:
            self._done(request, -EBUSY)
        else:
            self._waiting.append(event)

    def _flush(self, request: int) -> None:
        def ended(result: int) -> None:
            self._flushes -= 1
            self._done(request, result)

        if self._flushes >= self.policy.max_flushes:
            self._done(request, -EBUSY)
            return
        self._flushes += 1
        self._start(self.calls.flush(), ended)

    def _command(self, event: DeviceIoctl) -> None:
        def ended(result: tuple[int, bytes]) -> None:
            self._has_command = False
            self._done(event.request, *result)

        self._has_command = True
        self._start(run_command(self.calls, event.command, event.data), ended)

    def _interrupt(self, request: int) -> None:
        """A command that has not begun ends; one that has goes on, since the driver's hcalls cannot be interrupted."""
        for event in self._waiting:
            if event.request == request:
                self._waiting.remove(event)
                self._done(request, -EINTR)
                return

    def _done(self, request: int, result: int, data: bytes = b"") -> None:
        self._out.append(DeviceDone(request, result, data))
