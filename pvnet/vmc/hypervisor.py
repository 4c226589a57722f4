"""The hypervisor's end of a VMC: one machine per adapter of a partition, nothing shared between them.

It owns every data buffer (in pane 2), lends them to the partition by ADD BUF and never moves payload itself: the
partition copies.  Two kinds of state machines (:mod:`pvnet.vmc.hypervisor_tables`):

* the link: down, waiting for INIT, waiting for CAP, seeding, ready;
* each HMC index: unseeded, seeding, idle, opening, open.

An index is useful to the partition only after one buffer of it was lent (the *seed*, owner 0, session 0), because the
HMC id of OPEN travels in it; the partition forgets all buffers of an index at CLOSE RESP, at a refused OPEN and at
every reset, so each of these is followed by seeding again.

Buffer I/O addresses are ``buffer_ioba + (index * pool + id) * MTU rounded up to 4096``.

Doubts decided (Spec: vmc 4.4, 8.2, 10.3).  An offer that is not answered in time keeps its id out of use and another
id is offered; a late answer is still believed.  CLOSE of an index that has no session is answered with success, also
beyond the last index, because any other answer makes the Linux driver reset the whole queue.  An OPEN that is refused
on an index without session is followed by a new seed, since the partition forgets its buffers then.  INIT while the
link is up is a restart of the partition.  REM BUF RESP that names a buffer we did not lend resets the link.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note, Tick
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
from pvnet.vmc.buffer_pool import HYPERVISOR_TABLE, BufferPool, BufferState, BufferTrigger
from pvnet.vmc.hypervisor_io import (
    MIN_MTU,
    AddBuffers,
    BufferTaken,
    HypervisorInput,
    HypervisorOutput,
    MessageReceived,
    PartnerElement,
    PartnerUp,
    PostElement,
    ResetLink,
    SendMessage,
    SendRefused,
    SessionClosed,
    SessionOpened,
    TakeBuffer,
    VmcHypervisorConfig,
)
from pvnet.vmc.hypervisor_tables import (
    INDEX_TABLE,
    LINK_TABLE,
    HvLinkAction,
    HvLinkState,
    HvLinkTrigger,
    IndexAction,
    IndexState,
    IndexTrigger,
)
from pvnet.vmc.interface import PAGE_BYTES, LocalMemory
from pvnet.vmc.messages import (
    HMC_ID_BYTES,
    VERSION,
    AddBuffer,
    AddBufferResponse,
    BufferOwner,
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

CAPS_OK: Final = 0
CAPS_FAILURE: Final = 1
CAPS_VERSION: Final = 2
REFUSED: Final = 1
"""General failure: status of a refused OPEN."""


@dataclass(slots=True)
class _Offer:
    """An ADD BUF: to be sent (``due`` None) or sent and to be answered until ``due``."""

    owner: int
    session: int
    buffer_id: int = -1
    due: float | None = None


@dataclass(slots=True)
class HvIndex:
    """One HMC index at the hypervisor."""

    index: int
    pool: BufferPool
    state: IndexState = IndexState.UNSEEDED
    session: int = 0
    """Session that is opening or open, 0 when there is none."""
    open_buffer: int = 0
    hmc_id: bytes = b""
    is_announced: bool = False
    """Whether SessionOpened was said, so that SessionClosed must be."""
    seed_tries: int = 0
    refused_seed: int = -1
    """Seed ids up to this one were refused; the next try takes a higher one."""
    lent: int = 0
    """Offers accepted since the last session change."""
    wanted: deque[_Offer] = field(default_factory=deque)
    offered: dict[int, _Offer] = field(default_factory=dict)
    """Offers sent, by buffer id; an overdue one has ``due`` None and still keeps its id."""
    free: deque[int] = field(default_factory=deque)
    """Buffers that we own, in the order in which we got them; the oldest is used first."""
    unsent: deque[bytes] = field(default_factory=deque)
    removals: deque[float | None] = field(default_factory=deque)
    """When the answers to the REM BUFs sent are overdue, oldest first; ``None``: overdue, but still believed."""

    @property
    def is_settled(self) -> bool:
        """Whether no offer is waiting to be sent or answered."""
        return not self.wanted and all(offer.due is None for offer in self.offered.values())


class VmcHypervisor:
    """The machine; see the module's text.  ``memory`` is pane 2: the hypervisor's own buffers."""

    def __init__(self, config: VmcHypervisorConfig, memory: LocalMemory) -> None:
        self.config = config
        self.state = HvLinkState.DOWN
        self.counters = Counters()
        self.indices: list[HvIndex] = []
        self.mtu = config.max_mtu
        self.pool_size = config.pool_size
        self._memory = memory
        self._due: float | None = None
        self._caps_status = CAPS_OK
        self._now = 0.0
        self._out: list[HypervisorOutput] = []

    @property
    def negotiated(self) -> tuple[int, int, int]:
        """(connections, buffers per connection, MTU in bytes) in force; our own offer before the exchange."""
        return (len(self.indices) or self.config.max_hmcs), self.pool_size, self.mtu

    @property
    def stride(self) -> int:
        """Distance between buffers: the MTU in whole pages."""
        return -(-self.mtu // PAGE_BYTES) * PAGE_BYTES

    def lioba(self, index: int, buffer_id: int) -> int:
        """I/O address of a buffer in pane 2."""
        return self.config.buffer_ioba + (index * self.pool_size + buffer_id) * self.stride

    def feed(self, event: HypervisorInput, now: float) -> list[HypervisorOutput]:
        """Consume one input; returns its consequences in order."""
        self._now = now
        match event:
            case PartnerElement(element):
                self._element(element)
            case SendMessage():
                self._send_message(event)
            case PartnerUp(_, greet):
                self._trigger(HvLinkTrigger.PARTNER_UP)
                if greet:
                    self._trigger(HvLinkTrigger.GREET)
            case AddBuffers():
                self._add_buffers(event)
            case TakeBuffer(index):
                self._take_buffer(index)
            case Tick():
                self._tick()
            case _:  # pragma: no cover
                assert_never(event)
        out, self._out = self._out, []
        return out

    def deadline(self) -> float | None:
        """When a Tick is wanted."""
        due = [] if self._due is None else [self._due]
        for slot in self.indices:
            due += [offer.due for offer in slot.offered.values() if offer.due is not None]
            due += [at for at in slot.removals if at is not None]
        return min(due, default=None)

    # Link

    def _trigger(self, trigger: HvLinkTrigger) -> None:
        action, after = LINK_TABLE[self.state, trigger]
        if after is not self.state:
            self._note("vmc_link", ("from", self.state.name), ("to", after.name), ("by", trigger.name), level="info")
        self.state = after
        match action:
            case HvLinkAction.IGNORE:
                self.counters["link_ignored"] += 1
                return
            case HvLinkAction.WAIT:
                pass
            case HvLinkAction.SEND_INIT:
                self._out.append(PostElement(encode_init()))
            case HvLinkAction.ANSWER_INIT:
                self._drop_sessions("partner_restarted")
                self._out.append(PostElement(encode_init_complete()))
            case HvLinkAction.ACCEPT_CAPS:
                self._respond_caps(CAPS_OK)
                for slot in self.indices:
                    self._seed(slot)
            case HvLinkAction.REFUSE_CAPS:
                self.counters["caps_refused"] += 1
                self._respond_caps(self._caps_status or CAPS_FAILURE)
            case HvLinkAction.DROP:
                self._drop_sessions("partner_gone")
            case HvLinkAction.RESET:
                self._drop_sessions("reset")
                self._out.append(ResetLink("protocol_error"))
                self._out.append(PostElement(encode_init()))
            case _:  # pragma: no cover
                assert_never(action)
        waits = self.state is HvLinkState.WAIT_INIT and self.config.init_s is not None
        self._due = self._now + self.config.init_s if waits and self.config.init_s is not None else None

    def _respond_caps(self, status: int) -> None:
        config = self.config
        response = CapabilitiesResponse(
            config.max_hmcs, config.pool_size, config.max_mtu, config.crq_size, VERSION, status
        )
        self._post(response)

    def _drop_sessions(self, reason: str) -> None:
        for slot in self.indices:
            self._end(slot, reason)
            self._index(slot, IndexTrigger.LINK_LOST)
        self.indices = []

    def _tick(self) -> None:
        if self._due is not None and self._due <= self._now:
            self._trigger(HvLinkTrigger.TIMEOUT)
        for slot in list(self.indices):
            for position, at in enumerate(slot.removals):
                if at is not None and at <= self._now:
                    slot.removals[position] = None
                    self.counters["removals_overdue"] += 1
                    self._out.append(BufferTaken(slot.index, None))
            overdue = [o for o in slot.offered.values() if o.due is not None and o.due <= self._now]
            for offer in overdue:
                offer.due = None
                self.counters["offers_overdue"] += 1
            if overdue:
                self._offer(slot)
                self._settle(slot)

    # Messages

    def _element(self, raw: bytes) -> None:
        element = decode_element(raw)
        match element:
            case Command():
                self._message(decode_vmc(raw))
            case CrqInit():
                self._trigger(HvLinkTrigger.INIT)
            case CrqInitComplete():
                self._trigger(HvLinkTrigger.INIT_COMPLETE)
            case TransportEvent(code):
                is_suspend = code == TransportEventCode.PARTNER_SUSPENDED
                self._trigger(HvLinkTrigger.SUSPENDED if is_suspend else HvLinkTrigger.GONE)
            case ReservedElement() | EmptySlot():
                self._drop("reserved_element")
            case _:  # pragma: no cover
                assert_never(element)

    def _message(self, message: VmcMessage) -> None:
        if isinstance(message, Capabilities):
            self._capabilities(message)
            return
        if self.state not in (HvLinkState.SEEDING, HvLinkState.READY):
            self._drop("before_caps")
            return
        match message:
            case Signal():
                self._signal(message)
            case AddBufferResponse():
                self._add_response(message)
            case RemoveBufferResponse():
                self._remove_response(message)
            case Open():
                self._open(message)
            case Close():
                self._close(message)
            case Unknown():
                self._drop("unknown_message")
            case AddBuffer() | RemoveBuffer() | OpenResponse() | CloseResponse() | CapabilitiesResponse():
                self._drop("wrong_direction")
            case _:  # pragma: no cover
                assert_never(message)

    def _capabilities(self, message: Capabilities) -> None:
        config = self.config
        is_usable = message.max_hmc and message.pool_size > 1 and message.crq_size and message.max_mtu >= MIN_MTU
        if message.version >> 8 != VERSION >> 8:
            self._caps_status = CAPS_VERSION
        else:
            self._caps_status = CAPS_OK if is_usable else CAPS_FAILURE
        if self._caps_status == CAPS_OK and self.state is HvLinkState.WAIT_CAPS:
            self.mtu = min(config.max_mtu, message.max_mtu)
            self.pool_size = min(config.pool_size, message.pool_size)
            count = min(config.max_hmcs, message.max_hmc)
            room = max(0, config.buffer_bytes // self.stride)
            self.indices = [
                HvIndex(i, BufferPool(max(0, min(self.pool_size, room - i * self.pool_size)), HYPERVISOR_TABLE))
                for i in range(count)
            ]
        self._trigger(HvLinkTrigger.CAPS_BAD if self._caps_status else HvLinkTrigger.CAPS_GOOD)

    def _open(self, message: Open) -> None:
        if message.index >= len(self.indices):
            self._drop("bad_index")
            self._post(OpenResponse(REFUSED, message.session, message.index, message.buffer_id))
            return
        slot = self.indices[message.index]
        if slot.state in (IndexState.OPENING, IndexState.OPEN):
            trigger = IndexTrigger.OPEN_AGAIN if message.session == slot.session else IndexTrigger.OPEN_OTHER
        elif message.session and slot.pool.state(message.buffer_id) is BufferState.ALPHA_FREE and self._id_ok(message):
            trigger = IndexTrigger.OPEN_GOOD
        else:
            trigger = IndexTrigger.OPEN_BAD
        self._index(slot, trigger, message)

    def _id_ok(self, message: Open) -> bool:
        if not self.config.unique_ids:
            return True
        hmc_id = self._memory.read(self.lioba(message.index, message.buffer_id), HMC_ID_BYTES)
        return all(slot.session == 0 or slot.hmc_id != hmc_id for slot in self.indices)

    def _close(self, message: Close) -> None:
        if message.index >= len(self.indices):
            self._drop("bad_index")
            self._post(CloseResponse(0, message.session, message.index))
            return
        slot = self.indices[message.index]
        if slot.session and message.session != slot.session:
            self._drop("stale_session")
            return
        self._index(slot, IndexTrigger.CLOSE, message)

    def _signal(self, message: Signal) -> None:
        slot = self.indices[message.index] if message.index < len(self.indices) else None
        if slot is None or message.session == 0 or message.session != slot.session:
            self._drop("signal_out_of_session")
            return
        if slot.pool.state(message.buffer_id) is not BufferState.ALPHA_FREE:
            self._drop("signal_not_owned")
            return
        self._index(slot, IndexTrigger.SIGNAL, message)

    def _add_response(self, message: AddBufferResponse) -> None:
        slot = self.indices[message.index] if message.index < len(self.indices) else None
        offer = None if slot is None else slot.offered.get(message.buffer_id)
        if slot is None or offer is None or offer.session != message.session:
            self._drop("unsolicited_add_response")
            return
        del slot.offered[message.buffer_id]
        if message.status:
            self.counters["offers_refused"] += 1
            self._note("buffer_refused", ("hmc", slot.index), ("status", message.status))
            slot.pool.move(message.buffer_id, BufferTrigger.FORGET)
            if offer.session == 0:
                slot.refused_seed = message.buffer_id
        else:
            slot.lent += 1
            is_ours = offer.owner != BufferOwner.ALPHA
            slot.pool.move(message.buffer_id, BufferTrigger.ADD_HYPERVISOR if is_ours else BufferTrigger.ADD_ALPHA)
            if is_ours:
                slot.free.append(message.buffer_id)
        self._offer(slot)
        self._settle(slot)
        self._flush(slot)

    def _remove_response(self, message: RemoveBufferResponse) -> None:
        slot = self.indices[message.index] if message.index < len(self.indices) else None
        if slot is None or not slot.removals or message.session != slot.session:
            self._drop("unsolicited_remove_response")
            return
        is_late = slot.removals.popleft() is None
        if message.status:
            if not is_late:
                self._out.append(BufferTaken(slot.index, None))
        elif slot.pool.state(message.buffer_id) is not BufferState.ALPHA_FREE:
            self._drop("removed_foreign_buffer")
            self._trigger(HvLinkTrigger.PROTOCOL_ERROR)
        else:
            slot.pool.move(message.buffer_id, BufferTrigger.FORGET)
            self._out.append(BufferTaken(slot.index, message.buffer_id))

    # Indices

    def _index(self, slot: HvIndex, trigger: IndexTrigger, message: Open | Close | Signal | None = None) -> None:
        action, slot.state = INDEX_TABLE[slot.state, trigger]
        match action:
            case IndexAction.DROP:
                self._drop(f"index_{trigger.name.lower()}")
            case IndexAction.NOTHING:
                pass
            case IndexAction.GIVE_UP:
                self._note("seeding_failed", ("hmc", slot.index), level="warning")
            case IndexAction.OFFER_SEED:
                slot.wanted.append(_Offer(BufferOwner.ALPHA, 0))
                self._offer(slot)
                if slot.is_settled:  # there was no id left to offer
                    self._index(slot, IndexTrigger.NOT_LENT)
            case IndexAction.ACCEPT:
                assert isinstance(message, Open)
                self._accept(slot, message)
            case IndexAction.CONFIRM:
                self._post(OpenResponse(0, slot.session, slot.index, slot.open_buffer))
                slot.is_announced = True
                self._out.append(SessionOpened(slot.index, slot.session, slot.hmc_id))
            case IndexAction.REFUSE | IndexAction.REFUSE_RESEED:
                session, buffer_id = slot.session, slot.open_buffer
                if isinstance(message, Open):
                    session, buffer_id = message.session, message.buffer_id
                self._post(OpenResponse(REFUSED, session, slot.index, buffer_id))
                self.counters["opens_refused"] += 1
                if action is IndexAction.REFUSE_RESEED:
                    self._forget(slot)
                    self._seed(slot)
            case IndexAction.CLOSE_RESEED:
                self._end(slot, "closed")
                session = slot.session
                self._forget(slot)
                self._post(CloseResponse(0, session, slot.index))
                self._seed(slot)
            case IndexAction.CLOSE_AGAIN:
                assert isinstance(message, Close)
                self._post(CloseResponse(0, message.session, slot.index))
            case IndexAction.RECEIVE:
                assert isinstance(message, Signal)
                self._receive(slot, message)
            case IndexAction.FORGET:
                self._forget(slot)
            case _:  # pragma: no cover
                assert_never(action)

    def _seed(self, slot: HvIndex) -> None:
        slot.seed_tries = self.config.seed_tries
        slot.refused_seed = -1
        self._index(slot, IndexTrigger.SEED)

    def _accept(self, slot: HvIndex, message: Open) -> None:
        slot.session, slot.open_buffer = message.session, message.buffer_id
        slot.hmc_id = self._memory.read(self.lioba(slot.index, message.buffer_id), HMC_ID_BYTES)
        slot.lent = 0
        slot.wanted.clear()
        room = slot.pool.size - len(slot.pool)
        ours = min(self.config.hypervisor_buffers, room)
        theirs = min(self.config.alpha_buffers, room - ours)
        slot.wanted.extend(_Offer(BufferOwner.ALPHA, slot.session) for _ in range(theirs))
        slot.wanted.extend(_Offer(BufferOwner.HYPERVISOR, slot.session) for _ in range(ours))
        self._offer(slot)
        self._settle(slot)

    def _offer(self, slot: HvIndex) -> None:
        """Send ADD BUF for what is wanted, as far as answers outstanding and ids allow."""
        while slot.wanted and sum(o.due is not None for o in slot.offered.values()) < self.config.offers_at_once:
            offer = slot.wanted.popleft()
            buffer_id = slot.pool.lowest_absent(slot.refused_seed if offer.session == 0 else -1)
            if buffer_id is None:
                slot.wanted.clear()
                self.counters["no_buffer_id"] += 1
                return
            offer.buffer_id, offer.due = buffer_id, self._now + self.config.answer_s
            lioba = self.lioba(slot.index, buffer_id)
            slot.pool.add(buffer_id, BufferTrigger.OFFER, lioba)
            slot.offered[buffer_id] = offer
            self._post(AddBuffer(offer.session, slot.index, buffer_id, offer.owner, lioba))

    def _settle(self, slot: HvIndex) -> None:
        """All offers are answered or overdue: what follows from it."""
        if not slot.is_settled:
            return
        if slot.lent:
            self._index(slot, IndexTrigger.LENT)
        elif slot.state is IndexState.SEEDING and slot.seed_tries > 1:
            slot.seed_tries -= 1
            self._index(slot, IndexTrigger.SEED)
            return
        else:
            self._index(slot, IndexTrigger.NOT_LENT)
        if all(other.state is not IndexState.SEEDING for other in self.indices):
            self._trigger(HvLinkTrigger.SEEDED)

    def _receive(self, slot: HvIndex, message: Signal) -> None:
        slot.pool.move(message.buffer_id, BufferTrigger.TAKE)
        slot.free.append(message.buffer_id)
        if 0 < message.length <= self.mtu:
            payload = self._memory.read(self.lioba(slot.index, message.buffer_id), message.length)
            self._out.append(MessageReceived(slot.index, slot.session, payload))
        else:
            self._drop("bad_length")
        self._flush(slot)

    def _end(self, slot: HvIndex, reason: str) -> None:
        """Say that a session is over, if it was said to have begun."""
        if slot.is_announced:
            self._out.append(SessionClosed(slot.index, slot.session, reason, len(slot.unsent)))

    def _forget(self, slot: HvIndex) -> None:
        self._out.extend(BufferTaken(slot.index, None) for at in slot.removals if at is not None)
        slot.pool.clear()
        slot.wanted.clear()
        slot.offered.clear()
        slot.free.clear()
        slot.unsent.clear()
        slot.removals.clear()
        slot.session, slot.hmc_id, slot.lent, slot.is_announced = 0, b"", 0, False

    # What the outside wants

    def _send_message(self, event: SendMessage) -> None:
        slot = self.indices[event.index] if 0 <= event.index < len(self.indices) else None
        reason = ""
        if slot is None or slot.state is not IndexState.OPEN or slot.session != event.session:
            reason = "no_session"
        elif not event.payload:
            reason = "empty"
        elif len(event.payload) > self.mtu:
            reason = "too_long"
        elif len(slot.unsent) >= self.config.queue_limit and not slot.free:
            reason = "queue_full"
        if reason or slot is None:
            self.counters[f"refused_{reason}"] += 1
            self._out.append(SendRefused(event.index, event.session, reason))
            return
        slot.unsent.append(event.payload)
        self._flush(slot)

    def _flush(self, slot: HvIndex) -> None:
        """Send what waits, as long as we own a buffer of a session that is open."""
        while slot.unsent and slot.free and slot.state is IndexState.OPEN:
            payload, buffer_id = slot.unsent.popleft(), slot.free.popleft()
            self._memory.write(self.lioba(slot.index, buffer_id), payload)
            slot.pool.move(buffer_id, BufferTrigger.HAND_OVER)
            self._post(Signal(slot.session, slot.index, buffer_id, len(payload)))

    def _add_buffers(self, event: AddBuffers) -> None:
        slot = self._open_index(event.index)
        slot.wanted.extend(_Offer(event.owner, slot.session) for _ in range(event.count))
        self._offer(slot)

    def _take_buffer(self, index: int) -> None:
        slot = self._open_index(index)
        slot.removals.append(self._now + self.config.answer_s)
        self._post(RemoveBuffer(slot.session, index))

    def _open_index(self, index: int) -> HvIndex:
        if not 0 <= index < len(self.indices) or self.indices[index].state is not IndexState.OPEN:
            raise LocalError(f"HMC index {index} has no open session")
        return self.indices[index]

    # Small things

    def _post(self, message: VmcMessage) -> None:
        self._out.append(PostElement(encode_vmc(message)))

    def _drop(self, reason: str) -> None:
        self.counters[reason] += 1
        self._note("dropped", ("reason", reason))

    def _note(self, event: str, *fields: tuple[str, int | str], level: str = "debug") -> None:
        self._out.append(Note(event, fields, level))
