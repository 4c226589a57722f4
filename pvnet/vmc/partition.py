"""The management partition's end of a VMC: one machine per adapter, behaving as the Linux driver ``ibmvmc`` does.

Four state tables work together, each in its own module: the CRQ registration (:mod:`pvnet.papr.crq_link`), the link
(here), each connection (:mod:`pvnet.vmc.connection`) and each buffer (:mod:`pvnet.vmc.buffer_pool`).  What couples
them: the link's READY admits connections; a lost partner or an own reset frees every connection; freeing a connection
forgets its buffers.

::

    initial --registered: INIT--> crqinit --INIT COMPLETE (either way): CAP--> capabilities --CAP RESP--> ready
    any --transport event--> crqinit         any --reset needed: H_FREE_CRQ, H_REG_CRQ--> sched_reset --> crqinit

Refused copies can also say that a reset is needed: :mod:`pvnet.vmc.repair`.

Differences between the Linux driver and the advice of Spec: vmc 8.1 are data (:mod:`pvnet.vmc.dialect`): rows of
:func:`link_table`, policies of the CRQ link, timeouts.

Order.  Elements of the ring are handled in ring order; hcalls leave in the order in which they were decided.
H_COPY_RDMA is answered later: elements behind a SIGNAL are handled while its copy is under way, as the driver's
application calls also run beside its interrupt work.  One element may have to wait (ADD BUF for storage still in use);
then the ring waits behind it.  State is set before the hcall that announces it, because the answer may come at once.

Spec: vmc 3, 4.1, 8.1; LoPAR "protocol for VMC communications"; Linux driver ``ibmvmc.c``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from itertools import product
from types import MappingProxyType
from typing import Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note, Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import (
    Command,
    CrqInit,
    CrqInitComplete,
    EmptySlot,
    ReservedElement,
    TransportEvent,
    TransportEventCode,
    decode_element,
    encode_init,
    encode_init_complete,
)
from pvnet.papr.crq_link import (
    HARDENED_POLICY,
    LINUX_POLICY,
    CrqLink,
    LinkEnabled,
    LinkEvent,
    LinkFailed,
    LinkFreed,
    LinkOutput,
    LinkRegistered,
    LinkState,
    SendFailed,
    Sent,
)
from pvnet.papr.hcall import HcallRc, rc_name
from pvnet.vmc.chardev import CharDevice
from pvnet.vmc.connection import HmcTrigger
from pvnet.vmc.context import Context, VmcState
from pvnet.vmc.dialect import Dialect
from pvnet.vmc.interface import (
    CrqProgress,
    DeviceClose,
    DeviceInterrupt,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    LocalMemory,
    PartitionInput,
    PartitionOutput,
    Probe,
    Remove,
    VmcPartitionConfig,
)
from pvnet.vmc.messages import (
    HMC_ID_BYTES,
    VERSION,
    AddBuffer,
    AddBufferResponse,
    Capabilities,
    CapabilitiesResponse,
    Close,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBuffer,
    RemoveBufferResponse,
    Signal,
    Unknown,
    VmcMessage,
    decode_vmc,
    encode_vmc,
)
from pvnet.vmc.sessions import Sessions


class LinkTrigger(IntEnum):
    """What moves the link."""

    PROBE = 0
    REGISTERED = 1
    REGISTER_FAILED = 2
    INIT = 3
    INIT_COMPLETE = 4
    REPLIED = 5
    CAPS_GOOD = 6
    CAPS_BAD = 7
    PARTNER_LOST = 8
    SUSPENDED = 9
    ENABLED = 10
    SEND_CLOSED = 11
    RESET = 12
    TIMEOUT = 13
    REMOVE = 14


class LinkAction(StrEnum):
    """What a row does besides moving the state."""

    IGNORE = "ignore"
    REGISTER = "H_REG_CRQ"
    SEND_INIT = "send INIT"
    SEND_INIT_COMPLETE = "send INIT COMPLETE"
    RESTART = "drop sessions, send INIT COMPLETE"
    SEND_CAPS = "send CAP"
    NEGOTIATE = "take the minima"
    FAIL = "give up"
    DROP_SESSIONS = "drop sessions"
    ENABLE = "drop sessions, H_ENABLE_CRQ"
    RESET_CRQ = "drop sessions, H_FREE_CRQ, H_REG_CRQ"
    REMOVE = "drop sessions, H_FREE_CRQ"


LinkTable = Mapping[tuple[VmcState, LinkTrigger], tuple[LinkAction, VmcState]]
_S, _T, _A = VmcState, LinkTrigger, LinkAction
_UP: Final = (_S.CRQINIT, _S.CAPABILITIES, _S.READY, _S.FAILED)


def link_table(dialect: Dialect) -> LinkTable:
    """Every (state, trigger) of the link with its action and next state, as the dialect has it."""
    table: dict[tuple[VmcState, LinkTrigger], tuple[LinkAction, VmcState]] = {
        (state, trigger): (_A.IGNORE, state) for state, trigger in product(_S, _T)
    }
    table |= {
        (_S.INITIAL, _T.PROBE): (_A.REGISTER, _S.INITIAL),
        (_S.FAILED, _T.PROBE): (_A.REGISTER, _S.INITIAL),
        (_S.INITIAL, _T.REGISTERED): (_A.SEND_INIT, _S.CRQINIT),
        (_S.SCHED_RESET, _T.REGISTERED): (_A.SEND_INIT, _S.CRQINIT),
        (_S.CRQINIT, _T.INIT): (_A.SEND_INIT_COMPLETE, _S.CRQINIT),
        (_S.CRQINIT, _T.REPLIED): (_A.SEND_CAPS, _S.CAPABILITIES),
        (_S.CRQINIT, _T.INIT_COMPLETE): (_A.SEND_CAPS, _S.CAPABILITIES),
        (_S.CAPABILITIES, _T.CAPS_GOOD): (_A.NEGOTIATE, _S.READY),
        (_S.CAPABILITIES, _T.CAPS_BAD): (_A.FAIL, _S.FAILED),
        (_S.CRQINIT, _T.TIMEOUT): (_A.SEND_INIT, _S.CRQINIT),
        (_S.CAPABILITIES, _T.TIMEOUT): (_A.RESET_CRQ, _S.SCHED_RESET),
    }
    for state in _S:
        table[state, _T.REGISTER_FAILED] = (_A.FAIL, _S.FAILED)
        table[state, _T.REMOVE] = (_A.REMOVE, _S.INITIAL)
        if state is not _S.SCHED_RESET:
            table[state, _T.PARTNER_LOST] = (_A.DROP_SESSIONS, _S.CRQINIT)
            table[state, _T.SUSPENDED] = (_A.DROP_SESSIONS, _S.CRQINIT)
    for state in _UP:
        table[state, _T.RESET] = (_A.RESET_CRQ, _S.SCHED_RESET)
        if dialect.send_failure_stops:
            table[state, _T.SEND_CLOSED] = (_A.DROP_SESSIONS, _S.CRQINIT)
        if dialect.enables_after_suspend:
            table[state, _T.SUSPENDED] = (_A.ENABLE, _S.CRQINIT)
    if dialect.enables_after_suspend:
        table[_S.CRQINIT, _T.ENABLED] = (_A.SEND_INIT, _S.CRQINIT)
    if dialect.init_restarts:
        for state in (_S.CAPABILITIES, _S.READY, _S.FAILED):
            table[state, _T.INIT] = (_A.RESTART, _S.CRQINIT)
    return MappingProxyType(table)


_INIT_COMPLETE: Final = encode_init_complete()
_INIT: Final = encode_init()


class VmcPartition:
    """The machine; see the module's text.

    :param config: the adapter.  :param memory: the partition's own memory through pane 1; holds ring and buffers.
    """

    def __init__(self, config: VmcPartitionConfig, memory: LocalMemory) -> None:
        self._context = Context(config, memory)
        self._context.send = self._send
        self._sessions = Sessions(self._context)
        self._device = CharDevice(self._sessions)
        dialect = config.dialect
        self._table = link_table(dialect)
        self._link = CrqLink(
            unit=config.unit,
            memory=memory,
            ioba=config.crq_ioba,
            size_bytes=config.crq_bytes,
            tags=self._context.tags,
            policy=LINUX_POLICY if dialect.reset_closed_fails else HARDENED_POLICY,
        )
        self._events: deque[LinkEvent] = deque()
        self._due: float | None = None
        self._held: bytes | None = None
        self._reported = 0
        self._probes_when_freed = False

    # Looking in

    @property
    def state(self) -> VmcState:
        """State of the link, as QUERY reports it."""
        return self._context.state

    @property
    def counters(self) -> Counters:
        """Drops, refusals and repairs by name; the CRQ link's own are in :attr:`link_counters`."""
        return self._context.counters

    @property
    def link_counters(self) -> Counters:
        """Counts of the CRQ link."""
        return self._link.counters

    @property
    def sessions(self) -> Sessions:
        """The connections, for looking only."""
        return self._sessions

    @property
    def negotiated(self) -> tuple[int, int, int]:
        """(connections, buffers per connection, MTU in bytes) in force; our own offer before the exchange."""
        return self._context.max_index + 1, self._context.pool_size, self._context.mtu

    # The machine

    def feed(self, event: PartitionInput, now: float) -> list[PartitionOutput]:
        """Consume one input; returns its consequences in order."""
        context = self._context
        context.now = now
        match event:
            case DeviceWrite() | DeviceRead() | DevicePoll() | DeviceIoctl() | DeviceOpen() | DeviceClose():
                self._device.feed(event)
            case DeviceInterrupt():
                self._device.feed(event)
            case HcallReturned():
                self._returned(event)
            case Irq():
                pass
            case Tick():
                self._tick()
            case Probe():
                self._trigger(LinkTrigger.PROBE)
            case Remove():
                self._trigger(LinkTrigger.REMOVE)
            case _:  # pragma: no cover
                assert_never(event)
        self._settle()
        self._repair()
        self._drain()
        out, context.out = context.out, []
        return out

    def deadline(self) -> float | None:
        """When a Tick is wanted."""
        candidates = (
            self._due,
            self._context.repair.due,
            self._link.deadline(),
            self._sessions.connections.deadline(),
            self._device.deadline(),
        )
        return min((due for due in candidates if due is not None), default=None)

    # Link

    def _trigger(self, trigger: LinkTrigger) -> None:
        context = self._context
        before = context.state
        action, context.state = self._table[before, trigger]
        if before is not context.state:
            context.note(
                "vmc_state", ("from", before.name), ("to", context.state.name), ("by", trigger.name), level="info"
            )
        self._act(action)
        if context.state is not VmcState.READY:
            context.repair.forget()
        if action is LinkAction.IGNORE:
            return
        match context.state:
            case VmcState.CRQINIT:
                self._arm(context.timeouts.init_s)
            case VmcState.CAPABILITIES:
                self._arm(context.timeouts.capabilities_s)
            case _:
                self._due = None

    def _act(self, action: LinkAction) -> None:
        link, now = self._link, self._context.now
        match action:
            case LinkAction.IGNORE:
                self._context.counters["link_ignored"] += 1
            case LinkAction.REGISTER:
                # Right after a Remove the old registration may still be on its way out.
                self._probes_when_freed = link.state is LinkState.FREEING
                if not self._probes_when_freed:
                    self._emit(link.register(now))
            case LinkAction.SEND_INIT:
                self._emit(link.send(_INIT, now))
            case LinkAction.SEND_INIT_COMPLETE:
                self._emit(link.send(_INIT_COMPLETE, now))
            case LinkAction.RESTART:
                self._sessions.reset_all(HmcTrigger.PARTNER_LOST)
                self._emit(link.send(_INIT_COMPLETE, now))
            case LinkAction.SEND_CAPS:
                self._send_capabilities()
            case LinkAction.NEGOTIATE:
                self._sessions.connections.negotiate(self._context.max_index + 1, self._context.pool_size)
            case LinkAction.FAIL:
                self._sessions.reset_all(HmcTrigger.PARTNER_LOST)
            case LinkAction.DROP_SESSIONS:
                self._sessions.reset_all(HmcTrigger.PARTNER_LOST)
            case LinkAction.ENABLE:
                self._sessions.reset_all(HmcTrigger.PARTNER_LOST)
                self._emit(link.suspend(now))
                self._emit(link.enable(now))
            case LinkAction.RESET_CRQ:
                self._sessions.reset_all(HmcTrigger.OWN_RESET)
                self._held = None
                self._emit(link.reset(now))
            case LinkAction.REMOVE:
                self._sessions.reset_all(HmcTrigger.PARTNER_LOST)
                self._sessions.connections.forget_buffers()
                self._held = None
                self._probes_when_freed = False
                self._emit(link.free(now))

    def _send_capabilities(self) -> None:
        context = self._context
        slots = min(self._link.slots, 0xFFFF)
        self._send(Capabilities(context.max_hmcs, context.pool_limit, context.mtu_limit, slots))

    def _arm(self, seconds: float | None) -> None:
        self._due = None if seconds is None else self._context.now + seconds

    def _tick(self) -> None:
        now = self._context.now
        self._emit(self._link.tick(now))
        if self._due is not None and self._due <= now:
            self._context.counters["timeouts"] += 1
            self._trigger(LinkTrigger.TIMEOUT)
        self._sessions.expire()
        self._device.tick()

    # What the CRQ link says

    def _send(self, message: VmcMessage) -> None:
        self._emit(self._link.send(encode_vmc(message), self._context.now))

    def _emit(self, outputs: list[LinkOutput]) -> None:
        for output in outputs:
            if isinstance(output, CallHypervisor | Note):
                self._context.out.append(output)
            else:
                self._events.append(output)

    def _settle(self) -> None:
        """Act on what the link said and on the wish for a reset, until there is nothing more."""
        while self._events or self._context.wants_reset:
            if self._context.wants_reset:
                self._context.wants_reset = False
                self._trigger(LinkTrigger.RESET)
                continue
            self._link_event(self._events.popleft())

    def _repair(self) -> None:
        """Reset the CRQ if refused copies say that the link is gone, and the pause since the last time is over."""
        context = self._context
        if context.repair.due is None or context.repair.due > context.now:
            return
        context.repair.begin(context.now)
        context.counters["refused_copy_resets"] += 1
        context.note("link_gone", level="warning")
        self._trigger(LinkTrigger.RESET)
        self._settle()

    def _link_event(self, event: LinkEvent) -> None:
        context = self._context
        match event:
            case LinkRegistered():
                self._reported = 0
                self._trigger(LinkTrigger.REGISTERED)
            case LinkFailed(stage, rc):
                context.note("crq_failed", ("stage", stage), ("rc", rc_name(rc)), level="warning")
                if stage == "free":
                    self._freed()
                else:
                    self._trigger(LinkTrigger.REGISTER_FAILED)
            case LinkFreed():
                context.note("crq_freed", level="info")
                self._freed()
            case LinkEnabled():
                self._trigger(LinkTrigger.ENABLED)
            case Sent(element):
                if element == _INIT_COMPLETE:
                    self._trigger(LinkTrigger.REPLIED)
            case SendFailed(element, rc):
                context.counters["sends_failed"] += 1
                context.note("send_failed", ("element", element.hex()), ("rc", rc_name(rc)))
                if not context.dialect.send_failure_stops or element == _INIT:
                    return
                is_closed = rc == HcallRc.H_CLOSED
                self._trigger(LinkTrigger.SEND_CLOSED if is_closed else LinkTrigger.RESET)
            case _:  # pragma: no cover
                assert_never(event)

    def _freed(self) -> None:
        if self._probes_when_freed:
            self._act(LinkAction.REGISTER)

    def _returned(self, answer: HcallReturned) -> None:
        if self._link.owns(answer.tag):
            self._emit(self._link.returned(answer, self._context.now))
            return
        if self._device.returned(answer.tag, answer.rc, answer.outs):
            return
        if self._sessions.finish(answer.tag, answer.rc) is None:
            raise LocalError(f"hcall answer with tag {answer.tag}: no such call")

    # The ring

    def _drain(self) -> None:
        """Handle the ring's elements in order, until it is empty, one has to wait, or the CRQ is being reset."""
        link = self._link
        while link.state is LinkState.REGISTERED or link.state is LinkState.ENABLING:
            raw = self._held if self._held is not None else link.take()
            if raw is None:
                break
            if not self._element(raw):
                self._held = raw
                break
            self._held = None
            link.clear()
            self._settle()
        if link.consumed != self._reported and link.state is not LinkState.UNREGISTERED:
            self._reported = link.consumed
            self._context.out.append(CrqProgress(link.consumed))

    def _element(self, raw: bytes) -> bool:
        """Handle one element; false when it has to wait."""
        element = decode_element(raw)
        match element:
            case Command():
                return self._message(decode_vmc(raw))
            case CrqInit():
                self._trigger(LinkTrigger.INIT)
            case CrqInitComplete():
                self._trigger(LinkTrigger.INIT_COMPLETE)
            case TransportEvent(code):
                self._context.counters[f"transport_event_{int(code)}"] += 1
                is_suspend = code == TransportEventCode.PARTNER_SUSPENDED
                self._trigger(LinkTrigger.SUSPENDED if is_suspend else LinkTrigger.PARTNER_LOST)
            case ReservedElement() | EmptySlot():
                self._context.drop("reserved_element", ("element", raw.hex()))
            case _:  # pragma: no cover
                assert_never(element)
        return True

    def _message(self, message: VmcMessage) -> bool:
        context = self._context
        if isinstance(message, CapabilitiesResponse):
            self._capabilities(message)
            return True
        if context.dialect.waits_for_ready and context.state is not VmcState.READY:
            context.drop("before_ready", ("message", type(message).__name__))
            return True
        match message:
            case Signal():
                self._sessions.signal(message)
            case AddBuffer():
                return self._sessions.add_buffer(message)
            case RemoveBuffer():
                self._sessions.remove_buffer(message)
            case OpenResponse():
                self._sessions.open_response(message)
            case CloseResponse():
                self._sessions.close_response(message)
            case Unknown(raw):
                context.drop("unknown_message", ("element", raw.hex()))
            case Capabilities() | Open() | Close() | AddBufferResponse() | RemoveBufferResponse():
                context.drop("wrong_direction", ("message", type(message).__name__))
            case _:  # pragma: no cover
                assert_never(message)
        return True

    def _capabilities(self, message: CapabilitiesResponse) -> None:
        context = self._context
        if context.state is not VmcState.CAPABILITIES:
            context.drop("unexpected_capabilities")
            return
        is_good = message.version >> 8 == VERSION >> 8
        if context.dialect.checks_capabilities:
            is_usable = message.max_hmc and message.pool_size and message.crq_size and message.max_mtu >= HMC_ID_BYTES
            is_good = is_good and message.status == 0 and bool(is_usable)
        if is_good:
            context.mtu = min(context.mtu_limit, message.max_mtu)
            context.pool_size = min(context.pool_limit, message.pool_size)
            context.max_index = max(0, min(context.max_hmcs, message.max_hmc) - 1)
        else:
            context.note("capabilities_refused", ("response", encode_vmc(message).hex()), level="warning")
        self._trigger(LinkTrigger.CAPS_GOOD if is_good else LinkTrigger.CAPS_BAD)
