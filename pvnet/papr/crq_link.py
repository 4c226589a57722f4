"""The partition's end of a CRQ as a state machine that lives inside a driver machine.

A driver (VMC today) owns one :class:`CrqLink` per adapter.  The link issues the hcalls of the queue's life
(H_REG_CRQ, H_VIO_SIGNAL, H_SEND_CRQ, H_ENABLE_CRQ, H_FREE_CRQ), waits and repeats when the hypervisor is busy, and
tells its owner what came of it by :data:`LinkEvent`; it does not know the protocol above the 16 bytes.

::

    UNREGISTERED --register--> REGISTERING --accepted--> REGISTERED --free--> FREEING --> UNREGISTERED
                                   | stale: H_FREE_CRQ, then once more H_REG_CRQ (CLEARING, REREGISTERING)
    REGISTERED --reset--> RESET_FREEING --> RESET_REGISTERING --accepted--> REGISTERED
    REGISTERED --suspend--> SUSPENDED --enable--> ENABLING --> REGISTERED
    any call refused or given up --> FAILED (register, reset or free lead out of it)

Every move is a row of :data:`TRANSITIONS`; what is not there raises :class:`LocalError` when it is the owner's doing.
Which return codes are "accepted", "stale" or worth a retry is data: :class:`CrqLinkPolicy`, with the conduct of the
Linux driver (:data:`LINUX_POLICY`) and the hardened one (:data:`HARDENED_POLICY`).

Sending.  One H_SEND_CRQ is in flight; more wait in a bounded queue and keep their order.  H_DROPPED is repeated with a
growing pause a few times; H_CLOSED ends the queue.  While the link is not registered, and while the CRQ is suspended,
a send fails at once with H_CLOSED, which is what the hypervisor would say.

Receiving.  The owner loops ``take`` / handle / ``clear`` until ``take`` gives ``None``, each time it is told to look.
The Linux driver in addition switches the interrupt off while it drains, on afterwards, and looks once more; here the
runtime coalesces irqs and feeds a new one for every element that arrives after the drain began, so the switch
(a real hcall) is issued once per registration and the drain simply runs until the ring is empty.

Doubts decided.  H_FREE_CRQ refused during a reset is not the end: registration is tried anyway, its answer decides.
A call that is in flight when the owner changes its mind is forgotten (hcalls run in order, so the later one wins); its
answer is still recognised by :meth:`CrqLink.owns` and ignored.

Spec: vmc 3.1, 3.8, 3.9, 6; LoPAR ch. 17, "CRQ hcall()s"; Linux ``ibmvmc.c`` and ``ibmvscsi.c`` for the two conducts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import ELEMENT_BYTES, is_sendable, to_words
from pvnet.papr.crq_queue import CrqConsumer, RingMemory
from pvnet.papr.hcall import HcallOpcode, HcallRc, is_busy, rc_name
from pvnet.papr.retry import BusyRetry, RetryLimits, wants_retry

INTERRUPT_ON: Final = 1
"""H_VIO_SIGNAL mode: first interrupt enabled."""


class LinkState(IntEnum):
    """Where the queue's life is; see the drawing in the module's text."""

    UNREGISTERED = 0
    REGISTERING = 1
    CLEARING = 2
    REREGISTERING = 3
    REGISTERED = 4
    RESET_FREEING = 5
    RESET_REGISTERING = 6
    FREEING = 7
    SUSPENDED = 8
    ENABLING = 9
    FAILED = 10


class LinkTrigger(IntEnum):
    """What moves the state: five wishes of the owner, five kinds of answer, one timer."""

    REGISTER = 0
    FREE = 1
    RESET = 2
    SUSPEND = 3
    ENABLE = 4
    ACCEPTED = 5
    STALE = 6
    BUSY = 7
    EXHAUSTED = 8
    REFUSED = 9
    RETRY_DUE = 10


class LinkAction(StrEnum):
    """What a row does besides moving the state."""

    IGNORE = "ignore"
    CALL_REGISTER = "zero ring, H_REG_CRQ"
    CALL_FREE = "H_FREE_CRQ"
    CALL_ENABLE = "H_ENABLE_CRQ"
    CALL_AGAIN = "same hcall again"
    WAIT = "wait as the code says"
    UP = "H_VIO_SIGNAL on, report registered"
    REPORT_FREED = "report freed"
    REPORT_ENABLED = "report enabled"
    STOP_SENDING = "drop queued elements"
    FAIL = "report failed"


_S, _T, _A = LinkState, LinkTrigger, LinkAction

TRANSITIONS: Final[Mapping[tuple[LinkState, LinkTrigger], tuple[LinkAction, LinkState]]] = MappingProxyType(
    {
        (_S.UNREGISTERED, _T.REGISTER): (_A.CALL_REGISTER, _S.REGISTERING),
        (_S.UNREGISTERED, _T.FREE): (_A.REPORT_FREED, _S.UNREGISTERED),
        (_S.UNREGISTERED, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.UNREGISTERED, _T.SUSPEND): (_A.IGNORE, _S.UNREGISTERED),
        (_S.REGISTERING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.REGISTERING, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.REGISTERING, _T.SUSPEND): (_A.IGNORE, _S.REGISTERING),
        (_S.REGISTERING, _T.ACCEPTED): (_A.UP, _S.REGISTERED),
        (_S.REGISTERING, _T.STALE): (_A.CALL_FREE, _S.CLEARING),
        (_S.REGISTERING, _T.BUSY): (_A.WAIT, _S.REGISTERING),
        (_S.REGISTERING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.REGISTERING, _T.REFUSED): (_A.FAIL, _S.FAILED),
        (_S.REGISTERING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.REGISTERING),
        (_S.CLEARING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.CLEARING, _T.RESET): (_A.IGNORE, _S.CLEARING),
        (_S.CLEARING, _T.SUSPEND): (_A.IGNORE, _S.CLEARING),
        (_S.CLEARING, _T.ACCEPTED): (_A.CALL_REGISTER, _S.REREGISTERING),
        (_S.CLEARING, _T.BUSY): (_A.WAIT, _S.CLEARING),
        (_S.CLEARING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.CLEARING, _T.REFUSED): (_A.CALL_REGISTER, _S.REREGISTERING),
        (_S.CLEARING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.CLEARING),
        (_S.REREGISTERING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.REREGISTERING, _T.RESET): (_A.IGNORE, _S.REREGISTERING),
        (_S.REREGISTERING, _T.SUSPEND): (_A.IGNORE, _S.REREGISTERING),
        (_S.REREGISTERING, _T.ACCEPTED): (_A.UP, _S.REGISTERED),
        (_S.REREGISTERING, _T.STALE): (_A.FAIL, _S.FAILED),
        (_S.REREGISTERING, _T.BUSY): (_A.WAIT, _S.REREGISTERING),
        (_S.REREGISTERING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.REREGISTERING, _T.REFUSED): (_A.FAIL, _S.FAILED),
        (_S.REREGISTERING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.REREGISTERING),
        (_S.REGISTERED, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.REGISTERED, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.REGISTERED, _T.SUSPEND): (_A.STOP_SENDING, _S.SUSPENDED),
        (_S.REGISTERED, _T.ENABLE): (_A.CALL_ENABLE, _S.ENABLING),
        (_S.RESET_FREEING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.RESET_FREEING, _T.RESET): (_A.IGNORE, _S.RESET_FREEING),
        (_S.RESET_FREEING, _T.SUSPEND): (_A.IGNORE, _S.RESET_FREEING),
        (_S.RESET_FREEING, _T.ACCEPTED): (_A.CALL_REGISTER, _S.RESET_REGISTERING),
        (_S.RESET_FREEING, _T.BUSY): (_A.WAIT, _S.RESET_FREEING),
        (_S.RESET_FREEING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.RESET_FREEING, _T.REFUSED): (_A.CALL_REGISTER, _S.RESET_REGISTERING),
        (_S.RESET_FREEING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.RESET_FREEING),
        (_S.RESET_REGISTERING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.RESET_REGISTERING, _T.RESET): (_A.IGNORE, _S.RESET_REGISTERING),
        (_S.RESET_REGISTERING, _T.SUSPEND): (_A.IGNORE, _S.RESET_REGISTERING),
        (_S.RESET_REGISTERING, _T.ACCEPTED): (_A.UP, _S.REGISTERED),
        (_S.RESET_REGISTERING, _T.STALE): (_A.CALL_FREE, _S.CLEARING),
        (_S.RESET_REGISTERING, _T.BUSY): (_A.WAIT, _S.RESET_REGISTERING),
        (_S.RESET_REGISTERING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.RESET_REGISTERING, _T.REFUSED): (_A.FAIL, _S.FAILED),
        (_S.RESET_REGISTERING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.RESET_REGISTERING),
        (_S.FREEING, _T.FREE): (_A.IGNORE, _S.FREEING),
        (_S.FREEING, _T.RESET): (_A.IGNORE, _S.FREEING),
        (_S.FREEING, _T.SUSPEND): (_A.IGNORE, _S.FREEING),
        (_S.FREEING, _T.ACCEPTED): (_A.REPORT_FREED, _S.UNREGISTERED),
        (_S.FREEING, _T.BUSY): (_A.WAIT, _S.FREEING),
        (_S.FREEING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.FREEING, _T.REFUSED): (_A.FAIL, _S.FAILED),
        (_S.FREEING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.FREEING),
        (_S.SUSPENDED, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.SUSPENDED, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.SUSPENDED, _T.SUSPEND): (_A.IGNORE, _S.SUSPENDED),
        (_S.SUSPENDED, _T.ENABLE): (_A.CALL_ENABLE, _S.ENABLING),
        (_S.ENABLING, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.ENABLING, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.ENABLING, _T.SUSPEND): (_A.CALL_ENABLE, _S.ENABLING),
        (_S.ENABLING, _T.ENABLE): (_A.IGNORE, _S.ENABLING),
        (_S.ENABLING, _T.ACCEPTED): (_A.REPORT_ENABLED, _S.REGISTERED),
        (_S.ENABLING, _T.BUSY): (_A.WAIT, _S.ENABLING),
        (_S.ENABLING, _T.EXHAUSTED): (_A.FAIL, _S.FAILED),
        (_S.ENABLING, _T.REFUSED): (_A.FAIL, _S.FAILED),
        (_S.ENABLING, _T.RETRY_DUE): (_A.CALL_AGAIN, _S.ENABLING),
        (_S.FAILED, _T.REGISTER): (_A.CALL_REGISTER, _S.REGISTERING),
        (_S.FAILED, _T.FREE): (_A.CALL_FREE, _S.FREEING),
        (_S.FAILED, _T.RESET): (_A.CALL_FREE, _S.RESET_FREEING),
        (_S.FAILED, _T.SUSPEND): (_A.IGNORE, _S.FAILED),
    }
)

_STAGE: Final[Mapping[LinkState, str]] = MappingProxyType(
    {
        _S.REGISTERING: "register",
        _S.CLEARING: "free_stale",
        _S.REREGISTERING: "register_again",
        _S.RESET_FREEING: "reset_free",
        _S.RESET_REGISTERING: "reset_register",
        _S.FREEING: "free",
        _S.ENABLING: "enable",
    }
)


@dataclass(frozen=True, slots=True)
class CrqLinkPolicy:
    """A driver's conduct as data.

    ``accepts`` are the return codes of H_REG_CRQ that mean "registered", ``stale`` those that mean "free and try once
    more"; the ``reset_`` pair is for the registration after an own reset.  ``None`` for a retry means: never retry.
    """

    accepts: frozenset[int] = frozenset({HcallRc.H_SUCCESS, HcallRc.H_CLOSED})
    stale: frozenset[int] = frozenset({HcallRc.H_RESOURCE})
    reset_accepts: frozenset[int] = frozenset({HcallRc.H_SUCCESS, HcallRc.H_CLOSED})
    reset_stale: frozenset[int] = frozenset({HcallRc.H_RESOURCE})
    register_retry: RetryLimits | None = field(default_factory=RetryLimits)
    free_retry: RetryLimits | None = field(default_factory=RetryLimits)
    enable_retry: RetryLimits | None = field(default_factory=RetryLimits)
    send_retry: RetryLimits | None = field(default_factory=lambda: RetryLimits(max_tries=50, seconds=5.0))
    dropped_tries: int = 8
    """H_SEND_CRQ calls per element that is answered H_DROPPED; 1 means no repetition."""
    dropped_wait_s: float = 0.005
    """Pause before the first repetition; doubled each time."""
    is_closed_final: bool = True
    """Whether a failed send also discards what waits behind it."""


HARDENED_POLICY: Final = CrqLinkPolicy()
"""Closed is a wait, Resource is freed and retried once, every loop is bounded."""

LINUX_POLICY: Final = CrqLinkPolicy(
    reset_accepts=frozenset({HcallRc.H_SUCCESS, HcallRc.H_RESOURCE}),
    reset_stale=frozenset(),
    register_retry=None,
    free_retry=RetryLimits(max_tries=None, seconds=None),
    enable_retry=None,
    send_retry=None,
    dropped_tries=1,
    is_closed_final=False,
)
"""The Linux ``ibmvmc``: after an own reset Closed is a failure and Resource a success, busy is repeated for ever,
every send stands alone and is never repeated."""


@dataclass(frozen=True, slots=True)
class LinkRegistered:
    """The queue is registered: ``rc`` 0 means the partner is there, 2 that it is not yet.  The interrupt is on."""

    rc: int


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """The hcall of ``stage`` (``register``, ``reset_free``, ``enable``, ...) ended with ``rc``; the link is FAILED."""

    stage: str
    rc: int


@dataclass(frozen=True, slots=True)
class LinkFreed:
    """The queue is not registered any more."""


@dataclass(frozen=True, slots=True)
class LinkEnabled:
    """H_ENABLE_CRQ succeeded: sending works again; the protocol above starts with INIT."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The hypervisor accepted ``element`` (rc 0)."""

    element: bytes


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The hypervisor did not accept ``element``; ``discarded`` waited behind it and will not be sent either."""

    element: bytes
    rc: int
    discarded: tuple[bytes, ...] = ()


LinkEvent: TypeAlias = LinkRegistered | LinkFailed | LinkFreed | LinkEnabled | Sent | SendFailed
LinkOutput: TypeAlias = CallHypervisor | LinkEvent | Note


@dataclass(slots=True)
class _Call:
    """An hcall that is in flight (``due`` is None) or waits to be repeated at ``due``."""

    tag: int
    opcode: HcallOpcode
    args: tuple[int, ...]
    retry: BusyRetry | None
    due: float | None = None


@dataclass(slots=True)
class _Send(_Call):
    element: bytes = b""
    drops: int = 0


class CrqLink:
    """One adapter's queue; see the module's text for the model.

    :param unit: unit address.  :param memory: the partition's own memory through its first window.
    :param ioba: where the ring lies, 4 KiB aligned.  :param size_bytes: multiple of 4 KiB.
    :param tags: where hcall tags come from; shared with the owner, so that they never clash.
    :param queue_limit: elements that may wait behind the one in flight.
    """

    def __init__(
        self,
        *,
        unit: int,
        memory: RingMemory,
        ioba: int,
        size_bytes: int,
        tags: Iterator[int],
        policy: CrqLinkPolicy = HARDENED_POLICY,
        queue_limit: int = 1024,
    ) -> None:
        if size_bytes < ELEMENT_BYTES or size_bytes % ELEMENT_BYTES:
            raise LocalError(f"ring of {size_bytes} bytes: expected a positive multiple of {ELEMENT_BYTES}")
        self.unit = unit
        self.policy = policy
        self.state = LinkState.UNREGISTERED
        self.counters = Counters()
        self._ioba = ioba
        self._size_bytes = size_bytes
        self._tags = tags
        self._queue_limit = queue_limit
        self._consumer = CrqConsumer(memory, ioba, size_bytes // ELEMENT_BYTES)
        self._call: _Call | None = None
        self._send: _Send | None = None
        self._queue: deque[bytes] = deque()
        self._signal_tag: int | None = None
        self._stale_tags: set[int] = set()
        self._actions: dict[LinkAction, Callable[[int, float], list[LinkOutput]]] = {
            LinkAction.IGNORE: lambda _rc, _now: [],
            LinkAction.CALL_REGISTER: self._call_register,
            LinkAction.CALL_FREE: self._call_free,
            LinkAction.CALL_ENABLE: self._call_enable,
            LinkAction.CALL_AGAIN: self._call_again,
            LinkAction.WAIT: lambda _rc, _now: [],
            LinkAction.UP: self._up,
            LinkAction.REPORT_FREED: lambda _rc, _now: [LinkFreed()],
            LinkAction.REPORT_ENABLED: lambda _rc, _now: [LinkEnabled()],
            LinkAction.STOP_SENDING: self._stop_sending,
            LinkAction.FAIL: lambda _rc, _now: [],
        }

    # What the owner wants

    def register(self, now: float) -> list[LinkOutput]:
        """Zero the ring and register it; later :class:`LinkRegistered` or :class:`LinkFailed`."""
        return self._move(LinkTrigger.REGISTER, 0, now)

    def free(self, now: float) -> list[LinkOutput]:
        """Deregister, in any state; later :class:`LinkFreed` or :class:`LinkFailed`.  What waits to be sent is lost."""
        return self._move(LinkTrigger.FREE, 0, now)

    def reset(self, now: float) -> list[LinkOutput]:
        """Deregister, zero the ring, register again; later :class:`LinkRegistered` or :class:`LinkFailed`."""
        return self._move(LinkTrigger.RESET, 0, now)

    def suspend(self, now: float) -> list[LinkOutput]:
        """Note that the platform disabled the CRQ (transport event 6): nothing is sent until :meth:`enable`."""
        return self._move(LinkTrigger.SUSPEND, 0, now)

    def enable(self, now: float) -> list[LinkOutput]:
        """H_ENABLE_CRQ until it is done; later :class:`LinkEnabled` or :class:`LinkFailed`.  Discards what waits."""
        return self._move(LinkTrigger.ENABLE, 0, now)

    def send(self, element: bytes, now: float) -> list[LinkOutput]:
        """Send 16 bytes, after those given before; later :class:`Sent` or :class:`SendFailed`.

        Raises :class:`LocalError` if they are not 16 or have a header that may not be sent.
        """
        if len(element) != ELEMENT_BYTES or not is_sendable(element):
            raise LocalError(f"cannot send {element.hex()}: expected 16 bytes with a header 0x80 to 0xFE")
        if self.state is not LinkState.REGISTERED:
            self.counters["send_not_registered"] += 1
            return [SendFailed(element, HcallRc.H_CLOSED)]
        if len(self._queue) >= self._queue_limit:
            self.counters["send_queue_full"] += 1
            return [SendFailed(element, HcallRc.H_DROPPED)]
        self._queue.append(element)
        return self._pump(now)

    # What the hypervisor answers, and time

    def owns(self, tag: int) -> bool:
        """Whether the answer with this tag belongs here: feed it to :meth:`returned`."""
        return tag in self._stale_tags or tag == self._signal_tag or any(tag == call.tag for call in self._in_flight())

    def returned(self, answer: HcallReturned, now: float) -> list[LinkOutput]:
        """Take an answer; raises :class:`LocalError` when it is not one of ours (see :meth:`owns`)."""
        tag, rc = answer.tag, answer.rc
        if tag in self._stale_tags:
            self._stale_tags.discard(tag)
            return []
        if tag == self._signal_tag:
            self._signal_tag = None
            return [self._note("crq_signal_refused", rc)] if rc else []
        if self._send is not None and self._send.due is None and tag == self._send.tag:
            return self._sent(self._send, rc, now)
        if self._call is not None and self._call.due is None and tag == self._call.tag:
            return self._answered(self._call, rc, now)
        raise LocalError(f"hcall answer with tag {tag} is not this link's")

    def tick(self, now: float) -> list[LinkOutput]:
        """Repeat what is due; early calls are harmless."""
        out: list[LinkOutput] = []
        if self._call is not None and self._call.due is not None and self._call.due <= now:
            out += self._move(LinkTrigger.RETRY_DUE, 0, now)
        if self._send is not None and self._send.due is not None and self._send.due <= now:
            out.append(self._issue(self._send))
        return out

    def deadline(self) -> float | None:
        """When :meth:`tick` has something to do, or ``None``."""
        return min((c.due for c in (self._call, self._send) if c is not None and c.due is not None), default=None)

    # The ring

    def has_element(self) -> bool:
        """Whether :meth:`take` would give an element now."""
        return self._consumer.has_element()

    def take(self) -> bytes | None:
        """The next element or ``None``; its slot stays occupied until :meth:`clear`."""
        return self._consumer.take()

    def clear(self) -> None:
        """Give the slot of the element taken last back, after it was handled."""
        self._consumer.clear()

    @property
    def consumed(self) -> int:
        """Slots cleared since the ring was last zeroed (each registration zeroes it)."""
        return self._consumer.consumed

    @property
    def slots(self) -> int:
        """Length of the ring in elements."""
        return self._consumer.slots

    # Inside

    def _in_flight(self) -> Iterator[_Call]:
        for call in (self._call, self._send):
            if call is not None and call.due is None:
                yield call

    def _move(self, trigger: LinkTrigger, rc: int, now: float) -> list[LinkOutput]:
        row = TRANSITIONS.get((self.state, trigger))
        if row is None:
            raise LocalError(f"CRQ {self.unit:#x}: {trigger.name.lower()} is not possible in {self.state.name.lower()}")
        action, after = row
        before, self.state = self.state, after
        out = self._actions[action](rc, now)
        if action is LinkAction.FAIL:
            out = [*self._stop_sending(rc, now), LinkFailed(_STAGE[before], rc)]
        return out

    def _call_register(self, _rc: int, now: float) -> list[LinkOutput]:
        out = self._stop_sending(HcallRc.H_CLOSED, now)
        self._consumer.reset()
        args = (self.unit, self._ioba, self._size_bytes)
        return [*out, self._start(HcallOpcode.H_REG_CRQ, args, self.policy.register_retry, now)]

    def _call_free(self, _rc: int, now: float) -> list[LinkOutput]:
        out = self._stop_sending(HcallRc.H_CLOSED, now)
        return [*out, self._start(HcallOpcode.H_FREE_CRQ, (self.unit,), self.policy.free_retry, now)]

    def _call_enable(self, _rc: int, now: float) -> list[LinkOutput]:
        out = self._stop_sending(HcallRc.H_CLOSED, now)
        return [*out, self._start(HcallOpcode.H_ENABLE_CRQ, (self.unit,), self.policy.enable_retry, now)]

    def _call_again(self, _rc: int, _now: float) -> list[LinkOutput]:
        assert self._call is not None
        return [self._issue(self._call)]

    def _up(self, rc: int, _now: float) -> list[LinkOutput]:
        if self._signal_tag is not None:
            self._stale_tags.add(self._signal_tag)
        self._signal_tag = next(self._tags)
        args = (self.unit, INTERRUPT_ON)
        return [CallHypervisor(self._signal_tag, HcallOpcode.H_VIO_SIGNAL, args), LinkRegistered(rc)]

    def _stop_sending(self, _rc: int, _now: float) -> list[LinkOutput]:
        """Forget what is being sent and what waits; nobody is told, because the owner itself ends the link's use."""
        if self._send is not None and self._send.due is None:
            self._stale_tags.add(self._send.tag)
        self.counters["sends_forgotten"] += len(self._queue) + (self._send is not None)
        self._send = None
        self._queue.clear()
        return []

    def _start(
        self, opcode: HcallOpcode, args: tuple[int, ...], limits: RetryLimits | None, now: float
    ) -> CallHypervisor:
        if self._call is not None and self._call.due is None:
            self._stale_tags.add(self._call.tag)
        self._call = _Call(0, opcode, args, None if limits is None else BusyRetry.within(limits, now))
        return self._issue(self._call)

    def _issue(self, call: _Call) -> CallHypervisor:
        call.tag = next(self._tags)
        call.due = None
        return CallHypervisor(call.tag, call.opcode, call.args)

    def _answered(self, call: _Call, rc: int, now: float) -> list[LinkOutput]:
        trigger = self._classify(call, rc, now)
        if trigger is not LinkTrigger.BUSY:
            self._call = None
        return self._move(trigger, rc, now)

    def _classify(self, call: _Call, rc: int, now: float) -> LinkTrigger:
        accepts, stale = frozenset({0}), frozenset[int]()
        if self.state in (LinkState.REGISTERING, LinkState.REREGISTERING):
            accepts, stale = self.policy.accepts, self.policy.stale
        elif self.state is LinkState.RESET_REGISTERING:
            accepts, stale = self.policy.reset_accepts, self.policy.reset_stale
        if rc in accepts:
            return LinkTrigger.ACCEPTED
        if rc in stale:
            return LinkTrigger.STALE
        asks_again = wants_retry(rc) if call.opcode == HcallOpcode.H_ENABLE_CRQ else is_busy(rc)
        if asks_again and call.retry is not None:
            wait_s = call.retry.next(rc, now)
            if wait_s is None:
                self.counters["retries_exhausted"] += 1
                return LinkTrigger.EXHAUSTED
            call.due = now + wait_s
            return LinkTrigger.BUSY
        return LinkTrigger.REFUSED

    def _pump(self, now: float) -> list[LinkOutput]:
        if self._send is not None or not self._queue:
            return []
        element = self._queue.popleft()
        limits = self.policy.send_retry
        retry = None if limits is None else BusyRetry.within(limits, now)
        args = (self.unit, *to_words(element))
        self._send = _Send(0, HcallOpcode.H_SEND_CRQ, args, retry, element=element)
        return [self._issue(self._send)]

    def _sent(self, send: _Send, rc: int, now: float) -> list[LinkOutput]:
        wait_s: float | None = None
        if rc == HcallRc.H_DROPPED:
            self.counters["sends_dropped"] += 1
            send.drops += 1
            if send.drops < self.policy.dropped_tries:
                wait_s = self.policy.dropped_wait_s * (1 << (send.drops - 1))
        elif is_busy(rc) and send.retry is not None:
            wait_s = send.retry.next(rc, now)
        if wait_s is not None:
            send.due = now + wait_s
            return []
        self._send = None
        if rc == HcallRc.H_SUCCESS:
            return [Sent(send.element), *self._pump(now)]
        discarded: tuple[bytes, ...] = ()
        if self.policy.is_closed_final:
            discarded = tuple(self._queue)
            self._queue.clear()
        self.counters["sends_failed"] += 1 + len(discarded)
        return [SendFailed(send.element, rc, discarded), *self._pump(now)]

    def _note(self, event: str, rc: int) -> Note:
        return Note(event, (("unit", f"{self.unit:#x}"), ("rc", rc_name(rc))), level="warning")
