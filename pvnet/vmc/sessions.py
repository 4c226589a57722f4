"""HMC interface messages and the actions of the slot table, at the partition.

The checks of one message stand in the order of the Linux driver (Spec: vmc 3.4 to 3.7); where a dialect differs, a
field of :class:`pvnet.vmc.dialect.Dialect` says how.  State-dependent decisions are rows of
:func:`pvnet.vmc.connection.hmc_table`.

Doubts decided.  A SIGNAL longer than the MTU never moves data: the buffer changes its owner and is free (Spec: vmc 8.1;
the driver's newer versions refuse it too).  ADD BUF whose local storage is still touched by an unanswered copy of an
earlier session waits, and the ring behind it, until that copy is answered: the driver, which copies synchronously,
would see the message later as well.
"""

from __future__ import annotations

from typing import Final

from pvnet.papr.errno import EBADFD, EIO
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.buffer_pool import BufferState, BufferTrigger
from pvnet.vmc.connection import (
    Connections,
    HmcAction,
    HmcSlot,
    HmcState,
    HmcTrigger,
    Inbound,
    OpenFile,
    Transfer,
    TransferKind,
    Waiter,
)
from pvnet.vmc.context import Context
from pvnet.vmc.messages import (
    NO_BUFFER,
    NO_SESSION,
    AddBuffer,
    AddBufferResponse,
    BufferOwner,
    Close,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBuffer,
    RemoveBufferResponse,
    Signal,
)

POLL_IN: Final = 0x41
"""POLLIN | POLLRDNORM."""

_LIVE: Final = frozenset({HmcState.OPENING, HmcState.READY})


class Sessions:
    """The connections of one adapter and everything that happens to them; see the module's text."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.connections = Connections(context.dialect, context.pool_size)

    # The slot table

    def trigger(self, slot: HmcSlot, trigger: HmcTrigger) -> HmcAction:
        """Apply one row of the slot table; returns its action (RECEIVE and DROP are the caller's to finish)."""
        action, after = self.connections.table[slot.state, trigger]
        slot.state = after
        context = self.context
        match action:
            case HmcAction.RESERVE:
                self.connections.next_session(slot)
            case HmcAction.UNRESERVE:
                slot.generation += 1
            case HmcAction.SEND_OPEN:
                assert slot.open_buffer is not None
                slot.due = self._due(context.timeouts.open_s)
                context.send(Open(slot.session, slot.index, slot.open_buffer))
            case HmcAction.OPENED:
                slot.due = None
            case HmcAction.MARK_FAILED:
                slot.due = None
                context.counters["open_impossible"] += 1
            case HmcAction.SEND_CLOSE | HmcAction.BREAK_OFF:
                slot.due = self._due(context.timeouts.close_s)
                context.send(Close(slot.session, slot.index))
                if action is HmcAction.BREAK_OFF:
                    context.counters["open_impossible"] += 1
                    self._end_calls(slot, self._take_waiters(slot))
            case HmcAction.FREE | HmcAction.FREE_WAKE:
                self._free(slot, wake=action is HmcAction.FREE_WAKE)
            case HmcAction.RESET_LINK:
                context.wants_reset = True
            case HmcAction.DROP | HmcAction.NOTHING | HmcAction.RECEIVE:
                pass
        return action

    def reset_all(self, trigger: HmcTrigger) -> None:
        """PARTNER_LOST or OWN_RESET for every slot."""
        for slot in self.connections.slots:
            self.trigger(slot, trigger)

    def expire(self) -> None:
        """Act on overdue answers."""
        for slot in self.connections.slots:
            if slot.due is not None and slot.due <= self.context.now:
                slot.due = None
                self.context.counters["timeouts"] += 1
                self.context.note("no_answer", ("hmc", self._name(slot)), ("state", slot.state.name), level="warning")
                self.trigger(slot, HmcTrigger.TIMEOUT)

    # Messages of the hypervisor

    def add_buffer(self, message: AddBuffer) -> bool:
        """ADD BUF; returns false when it has to wait for its storage (see the module's text)."""
        context, dialect, index = self.context, self.context.dialect, message.index
        status = dialect.status
        if index > context.max_index:
            if message.session and not dialect.answers_bad_index:
                context.drop("bad_index", ("index", index))
            else:
                self._answer_add(message, status.bad_index)
            return True
        slot = self.connections.slot(index)
        if self._is_stale(slot, message.session):
            if dialect.answers_stale_add:
                self._answer_add(message, status.closed)
            else:
                context.drop("stale_session", ("hmc", self._name(slot)), ("session", message.session))
            return True
        pool = slot.pool
        if message.buffer_id >= context.pool_size or pool.state(message.buffer_id) is not BufferState.ABSENT:
            self._answer_add(message, status.bad_buffer)
            return True
        address = context.local_address(index, message.buffer_id)
        if self.connections.is_in_use(address, context.stride):
            context.counters["storage_waits"] += 1
            return False
        if not self._may_add(message, address):
            self._answer_add(message, status.failure)
            return True
        context.memory.write(address, bytes(context.mtu))
        owner = BufferTrigger.ADD_HYPERVISOR if message.owner != BufferOwner.ALPHA else BufferTrigger.ADD_ALPHA
        pool.add(message.buffer_id, owner, message.lioba)
        self._answer_add(message, 0)
        return True

    def remove_buffer(self, message: RemoveBuffer) -> None:
        """REM BUF: give up the lowest free buffer of our own."""
        context, status = self.context, self.context.dialect.status
        if message.index > context.max_index:
            if message.session and not context.dialect.answers_bad_index:
                context.drop("bad_index", ("index", message.index))
            else:
                context.send(RemoveBufferResponse(status.bad_index, message.session, message.index, 0))
            return
        slot = self._located(message.session, message.index)
        if slot is None:
            return
        buffer_id = slot.pool.lowest(BufferState.ALPHA_FREE)
        if buffer_id is not None and self._is_last(slot):
            context.counters["kept_last_buffer"] += 1
            buffer_id = None
        if buffer_id is None:
            context.send(RemoveBufferResponse(status.none_to_remove, message.session, message.index, NO_BUFFER))
            return
        slot.pool.move(buffer_id, BufferTrigger.FORGET)
        context.send(RemoveBufferResponse(0, message.session, message.index, buffer_id))

    def open_response(self, message: OpenResponse) -> None:
        """OPEN RESP: the session is there, refused, or impossible."""
        slot = self._located(message.session, message.index, resets=True)
        if slot is None:
            return
        context = self.context
        if message.status:
            trigger = HmcTrigger.OPEN_REFUSED
            context.note(
                "open_refused",
                ("hmc", self._name(slot)),
                ("status", context.dialect.status.describe(message.status)),
                level="info",
            )
        elif message.buffer_id >= context.pool_size or (
            context.dialect.checks_open_buffer and message.buffer_id != slot.open_buffer
        ):
            trigger = HmcTrigger.OPEN_IMPOSSIBLE
        else:
            trigger = HmcTrigger.OPEN_ACCEPTED
        action = self.trigger(slot, trigger)
        if action is HmcAction.OPENED:
            if slot.pool.can(message.buffer_id, BufferTrigger.RELEASE):
                slot.pool.move(message.buffer_id, BufferTrigger.RELEASE)
            slot.open_buffer = None
        elif action is HmcAction.DROP:
            context.drop("unexpected_open_response", ("hmc", self._name(slot)))

    def close_response(self, message: CloseResponse) -> None:
        """CLOSE RESP: the slot is free, or the link has to be reset."""
        slot = self._located(message.session, message.index, resets=True)
        if slot is None:
            return
        trigger = HmcTrigger.CLOSE_REFUSED if message.status else HmcTrigger.CLOSE_DONE
        if self.trigger(slot, trigger) is HmcAction.DROP:
            self.context.drop("unexpected_close_response", ("hmc", self._name(slot)))

    def signal(self, message: Signal) -> None:
        """SIGNAL: the buffer is ours now; fetch its bytes."""
        context, dialect = self.context, self.context.dialect
        if message.index > context.max_index:
            self._complain(message, dialect.status.bad_index, "bad_index")
            return
        slot = self._located(message.session, message.index)
        if slot is None:
            return
        if message.buffer_id >= context.pool_size:
            self._complain(message, dialect.status.bad_buffer, "bad_buffer")
            return
        if self.trigger(slot, HmcTrigger.SIGNAL) is not HmcAction.RECEIVE:
            context.drop("signal_out_of_session", ("hmc", self._name(slot)))
            return
        if not slot.pool.can(message.buffer_id, BufferTrigger.TAKE):
            context.drop("signal_not_owned", ("hmc", self._name(slot)), ("buffer", message.buffer_id))
            return
        slot.pool.move(message.buffer_id, BufferTrigger.TAKE)
        if message.length > context.mtu or (message.length == 0 and dialect.drops_empty):
            slot.pool.move(message.buffer_id, BufferTrigger.READ)
            context.drop("bad_length", ("hmc", self._name(slot)), ("length", message.length))
            return
        inbound = Inbound(message.buffer_id, message.length)
        slot.inbound.append(inbound)
        self._copy(slot, "receive", message.buffer_id, message.length, inbound=inbound)

    # Copies

    def start_open(self, slot: HmcSlot, buffer_id: int, hmc_id: bytes, request: int, file: OpenFile) -> None:
        """Copy the HMC id (in the whole buffer) to the hypervisor; OPEN follows when that is answered."""
        slot.pool.move(buffer_id, BufferTrigger.PICK)
        slot.open_buffer = buffer_id
        self.context.memory.write(self.context.local_address(slot.index, buffer_id), hmc_id)
        file.in_flight += 1
        self._copy(slot, "open", buffer_id, self.context.mtu, request=request, handle=file.handle)

    def start_write(self, slot: HmcSlot, buffer_id: int, data: bytes, request: int, file: OpenFile) -> None:
        """Copy a message to the hypervisor; SIGNAL follows when that is answered."""
        slot.pool.move(buffer_id, BufferTrigger.PICK)
        self.context.memory.write(self.context.local_address(slot.index, buffer_id), data)
        file.in_flight += 1
        slot.outbound.append(
            self._copy(slot, "write", buffer_id, len(data), request=request, handle=file.handle),
        )

    def finish(self, tag: int, rc: int) -> Transfer | None:
        """Take the answer of an H_COPY_RDMA; returns the transfer, or ``None`` if the tag is not one of ours.

        An answer for a session that ended meanwhile only ends its device call, with EIO.  One that says that the link
        is gone asks for a reset, which follows when the device call has ended (:mod:`pvnet.vmc.repair`).
        """
        transfer = self.connections.transfers.pop(tag, None)
        if transfer is None:
            return None
        slot = self.connections.slots[transfer.index]
        transfer.rc = rc
        if rc:
            self.context.counters["rdma_errors"] += 1
            self.context.note("rdma_failed", ("hmc", self._name(slot)), ("rc", rc), level="warning")
        if transfer.generation != slot.generation:
            self.context.counters["late_copies"] += 1
            if transfer.kind != "receive":
                self._end_call(transfer, -EIO)
            return transfer
        if self.context.dialect.refused_copy_resets:
            self.context.repair.copied(rc, self.context.now)
        if transfer.kind == "open":
            self._opened(slot, transfer, rc)
        elif transfer.kind == "write":
            self._flush(slot)
        else:
            self._received(slot, transfer, rc)
        return transfer

    def _copy(
        self,
        slot: HmcSlot,
        kind: TransferKind,
        buffer_id: int,
        length: int,
        *,
        request: int = 0,
        handle: int = 0,
        inbound: Inbound | None = None,
    ) -> Transfer:
        context = self.context
        config, local, remote = context.config, context.local_address(slot.index, buffer_id), slot.pool.lioba(buffer_id)
        ours, theirs = (config.lliobn, local), (config.rliobn, remote)
        args = (*theirs, *ours) if kind == "receive" else (*ours, *theirs)
        tag = context.call(HcallOpcode.H_COPY_RDMA, (length, *args))
        transfer = Transfer(
            kind,
            slot.index,
            slot.generation,
            buffer_id,
            length,
            local,
            context.stride,
            request,
            handle,
            inbound,
        )
        self.connections.transfers[tag] = transfer
        return transfer

    def _opened(self, slot: HmcSlot, transfer: Transfer, rc: int) -> None:
        if rc:
            self._give_back(slot, transfer)
            slot.open_buffer = None
            self._end_call(transfer, -EIO)
            return
        self.trigger(slot, HmcTrigger.ID_COPIED)
        self._end_call(transfer, 0)

    def _flush(self, slot: HmcSlot) -> None:
        """Signal the copies that are answered, oldest first."""
        while slot.outbound and slot.outbound[0].rc is not None:
            transfer = slot.outbound.popleft()
            if transfer.rc:
                self._give_back(slot, transfer)
                # The versions of the driver that lose the buffer also claim that the message was sent.
                self._end_call(transfer, -EIO if self.context.dialect.frees_after_rdma_error else transfer.length)
                continue
            slot.pool.move(transfer.buffer_id, BufferTrigger.HAND_OVER)
            self.context.send(Signal(slot.session, slot.index, transfer.buffer_id, transfer.length))
            self._end_call(transfer, transfer.length)

    def _received(self, slot: HmcSlot, transfer: Transfer, rc: int) -> None:
        assert transfer.inbound is not None
        if rc:
            slot.inbound.remove(transfer.inbound)
            frees = self.context.dialect.frees_after_rdma_error
            slot.pool.move(transfer.buffer_id, BufferTrigger.READ if frees else BufferTrigger.LOSE)
        else:
            transfer.inbound.is_here = True
        self.deliver(slot)

    def _give_back(self, slot: HmcSlot, transfer: Transfer) -> None:
        frees = self.context.dialect.frees_after_rdma_error
        slot.pool.move(transfer.buffer_id, BufferTrigger.RELEASE if frees else BufferTrigger.LOSE)

    def _end_call(self, transfer: Transfer, result: int) -> None:
        self.context.done(transfer.request, result)
        file = self.connections.files.get(transfer.handle)
        assert file is not None, "close waits for the calls under way"
        file.in_flight -= 1
        if file.in_flight == 0 and file.close_request is not None:
            self.close_file(file, file.close_request)

    # Readers

    def deliver(self, slot: HmcSlot) -> None:
        """Give messages that are here to those who wait: every poll sees the first, each read takes one."""
        while slot.has_message and slot.waiters:
            polls = [waiter for waiter in slot.waiters if waiter.kind == "poll"]
            reads = [waiter for waiter in slot.waiters if waiter.kind == "read"]
            for waiter in polls:
                self.context.done(waiter.request, POLL_IN)
            slot.waiters.clear()
            slot.waiters.extend(reads[1:])
            if reads:
                self.read_message(slot, reads[0])

    def read_message(self, slot: HmcSlot, waiter: Waiter) -> None:
        """Hand the first message to ``waiter``; what does not fit its count is discarded."""
        inbound = slot.inbound.popleft()
        size = min(waiter.count, inbound.length)
        data = self.context.memory.read(self.context.local_address(slot.index, inbound.buffer_id), size)
        slot.pool.move(inbound.buffer_id, BufferTrigger.READ)
        self.context.done(waiter.request, size, data)

    def close_file(self, file: OpenFile, request: int) -> None:
        """Release an open file: CLOSE if its session got far enough, and end the close() call."""
        del self.connections.files[file.handle]
        slot = self.connections.slot_of(file)
        if slot is not None:
            self._end_calls(slot, self._take_waiters(slot))
            self.trigger(slot, HmcTrigger.APP_CLOSE)
        self.context.done(request, 0)

    # Inside

    def _free(self, slot: HmcSlot, *, wake: bool) -> None:
        files = list(self.connections.files_of(slot))
        pending = [transfer for transfer in slot.outbound if transfer.rc is not None]
        waiters = self.connections.reset(slot)
        for transfer in pending:
            self._end_call(transfer, -EIO)
        if wake:
            for file in files:
                file.is_valid = False
            self._end_calls(slot, waiters)
        else:
            self._park(files, waiters)

    def _park(self, files: list[OpenFile], waiters: list[Waiter]) -> None:
        """Leave readers asleep as the driver does; they can still be interrupted or closed."""
        for file in files:
            file.parked.extend(waiter for waiter in waiters if waiter.handle == file.handle)

    def _take_waiters(self, slot: HmcSlot) -> list[Waiter]:
        waiters = list(slot.waiters)
        slot.waiters.clear()
        return waiters

    def _end_calls(self, slot: HmcSlot, waiters: list[Waiter]) -> None:
        for file in self.connections.files_of(slot):
            file.is_valid = False
        for waiter in waiters:
            self.context.done(waiter.request, -EBADFD if waiter.kind == "read" else 0)

    def _located(self, session: int, index: int, *, resets: bool = False) -> HmcSlot | None:
        """The slot that a message speaks of, or ``None`` when the message is not to be acted upon."""
        context = self.context
        if index > context.max_index:
            if resets and session == NO_SESSION and context.dialect.bad_response_resets:
                context.wants_reset = True
            context.drop("bad_index", ("index", index))
            return None
        slot = self.connections.slot(index)
        if self._is_stale(slot, session):
            context.drop("stale_session", ("hmc", self._name(slot)), ("session", session))
            return None
        return slot

    def _is_stale(self, slot: HmcSlot, session: int) -> bool:
        if session == NO_SESSION:
            return False
        return session != slot.session or (self.context.dialect.ended_is_stale and slot.state is HmcState.FREE)

    def _complain(self, message: Signal, status: int, reason: str) -> None:
        context = self.context
        context.drop(reason, ("index", message.index), ("buffer", message.buffer_id))
        # With a session and an index beyond the last one the driver calls the session stale and stays silent.
        is_stale = message.session != NO_SESSION and message.index > context.max_index
        if context.dialect.complains_of_signal and not is_stale:
            context.send(AddBufferResponse(status, message.session, message.index, message.buffer_id))

    def _may_add(self, message: AddBuffer, address: int) -> bool:
        context, config = self.context, self.context.config
        if address + context.stride > config.buffer_ioba + config.buffer_bytes:
            context.counters["no_local_memory"] += 1
            return False
        if not context.dialect.checks_add:
            return True
        is_inside = config.remote_bytes is None or message.lioba + context.mtu <= config.remote_bytes
        return message.owner <= BufferOwner.HYPERVISOR and is_inside

    def _answer_add(self, message: AddBuffer, status: int) -> None:
        if status:
            self.context.counters["buffers_refused"] += 1
        self.context.send(AddBufferResponse(status, message.session, message.index, message.buffer_id))

    def _is_last(self, slot: HmcSlot) -> bool:
        return (
            self.context.dialect.keeps_last_buffer
            and slot.state in _LIVE
            and slot.pool.count(BufferState.ALPHA_FREE, BufferState.ALPHA_INBOUND) == 1
        )

    def _due(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.context.now + seconds

    @staticmethod
    def _name(slot: HmcSlot) -> str:
        return f"{slot.index}/{slot.session}"
