"""The hypervisor as one sans-IO machine: partitions, their windows and adapters, and the hcalls between them.

This module only composes.  A call passes :mod:`pvnet.papr.dispatch`, then :mod:`~pvnet.papr.tce` (windows),
:mod:`~pvnet.papr.rdma` (copies) or :mod:`~pvnet.papr.vio` (queues, events, the hypervisor's own ends).  Nothing is
shared between platforms: any number of them, with any number of partitions and adapters, may live in one process.

**Who may reach what.** The caller is the partition that the transport vouches for.  It reaches its own units and its
own LIOBNs; pane 2 of an adapter only while both ends of the pair are registered.  Units, LIOBNs and DRC indexes are the
low 32 bits of their registers.

**Order of outputs.** The answer to a call comes first, then its consequences for others, so that a partition knows of
its registration before the first element arrives.  While one call waits for a third party's memory, later calls of the
same partition go on; answers may overtake.

**Life.** Calls of a partition that is not configured or not started are H_AUTHORITY.  When it dies, its windows,
registrations, waiting elements and unfinished copies are forgotten and its partners get FF 01; armed faults stay.

**Coming and going.** Partitions may be defined, redefined and removed while others run; only one that is off changes.

**Memory mapped later.** A partition that was started without its memory may hand it over (PartitionMapped): from then
on copies, TCE lists and buffers of its calls are direct, and bytes that a call brought along are not looked at.  Its
CRQs stay queues that are delivered to (:mod:`pvnet.papr.ring`).  Answers and what is written are the same either way.

**Extensions.** Hcalls of other systems come in as :class:`~pvnet.papr.extension.HcallExtension`: they pass the same
dispatcher, and their inputs and outputs are this machine's.

**Polling.** The progress of a queue that is mapped here is not always reported, so while something waits for one the
machine wants a Tick every 10 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note, Tick
from pvnet.memory.copy import Side
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import Segment
from pvnet.memory.window import DmaWindow, Run
from pvnet.papr.crq import TransportEventCode
from pvnet.papr.dispatch import Answer, Call, Dispatcher, Handler
from pvnet.papr.extension import ExtensionInput, Fetched, HcallExtension
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.partition_state import PartitionState
from pvnet.papr.platform_io import (
    CHUNK_BYTES,
    CrqConsumed,
    DefinePartition,
    FaultPoint,
    HcallRequest,
    HcallResult,
    HypervisorPartner,
    MemoryDone,
    PartitionConfig,
    PartitionDied,
    PartitionMapped,
    PartitionPartner,
    PartitionStarted,
    PlatformConfig,
    PlatformInput,
    PlatformOutput,
    RemovePartition,
    SetFault,
    Suspend,
)
from pvnet.papr.rdma import RdmaCopies
from pvnet.papr.rdma_engine import RdmaEngine, Target
from pvnet.papr.remote_memory import RemoteMemory, TransferFailure
from pvnet.papr.tce import (
    TCE_BYTES,
    check_list,
    decode_tce_list,
    get_tce,
    low32,
    put_tce,
    put_tce_list,
    stuff_tce,
)
from pvnet.papr.vio import Adapter, HypervisorEnd, VirtualIo, take_fault

POLL_S: Final = 0.01
_AUTHORITY: Final = Answer(HcallRc.H_AUTHORITY)


class _Caller:
    """:class:`~pvnet.papr.extension.Caller`: one call's way to its partition's memory."""

    def __init__(self, platform: Platform, state: PartitionState) -> None:
        self._platform = platform
        self._state = state

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def memory_bytes(self) -> int:
        return self._state.memory_bytes

    def fetch(self, call: Call, address: int, n: int, then: Fetched) -> Answer | None:
        self._check(address, n)
        state, platform = self._state, self._platform
        if state.segment is not None:
            return then(state.segment.read(address, n))
        if call.memory is not None:
            if len(call.memory) != n:
                platform.counters["hcall_wrong_bytes"] += 1
                return Answer(HcallRc.H_HARDWARE)
            return then(call.memory)

        def fetched(data: bytes | TransferFailure) -> None:
            answer = Answer(HcallRc.H_HARDWARE) if isinstance(data, TransferFailure) else then(data)
            if answer is not None:
                platform.finish(state.name, call.tag, answer)

        platform.memory.read(state.name, state.name, (Run(address, n),), fetched)
        return None

    def store(self, call: Call, address: int, data: bytes, answer: Answer) -> Answer | None:
        self._check(address, len(data))
        state, platform = self._state, self._platform
        if state.segment is not None:
            state.segment.write(address, data)
            return answer
        if call.memory is not None:
            return Answer(answer.rc, answer.outs, data)

        def stored(outcome: bytes | TransferFailure) -> None:
            failed = isinstance(outcome, TransferFailure)
            platform.finish(state.name, call.tag, Answer(HcallRc.H_HARDWARE) if failed else answer)

        platform.memory.write(state.name, state.name, (Run(address, len(data)),), data, stored)
        return None

    def _check(self, address: int, n: int) -> None:
        if not 0 < n <= CHUNK_BYTES or address < 0 or address + n > self.memory_bytes:
            raise LocalError(f"{n} bytes at {address:#x} of {self.name}: expected a chunk inside of its memory")


class Platform:
    """Machine[PlatformInput, PlatformOutput]; see the module's text.

    :param extensions: handlers of other systems; each belongs to one platform.
    :raises LocalError: the configuration contradicts itself, or two handlers want the same hcall.
    """

    def __init__(self, config: PlatformConfig, extensions: Sequence[HcallExtension] = ()) -> None:
        self._config = config
        self.profile = config.profile
        self.counters = Counters()
        self._out: list[PlatformOutput] = []
        self._now = 0.0
        self._poll_at: float | None = None
        self._partitions: dict[str, PartitionState] = {}
        self._hypervisor_memory: dict[tuple[str, int], DmaMemory] = {}
        self.memory = RemoteMemory(self._emit, self.counters)
        self._vio = VirtualIo(config.profile, self._emit, self.counters, config.post_limit, self._forget_operands)
        self._rdma = RdmaCopies(self.memory, self.finish, self._emit, self.counters)
        self._dispatcher: Dispatcher[PartitionState] = Dispatcher()
        for opcode, handler in self._handlers().items():
            if opcode in config.profile.hcalls:
                self._dispatcher.register(opcode, handler)
        self._extensions = tuple(extensions)
        for extension in self._extensions:
            for opcode in sorted(extension.opcodes):
                self._dispatcher.register(opcode, partial(self._extended, extension))
        self._build()

    def _handlers(self) -> dict[int, Handler[PartitionState]]:
        vio = self._vio
        return {
            HcallOpcode.H_GET_TCE: self._get_tce,
            HcallOpcode.H_PUT_TCE: self._put_tce,
            HcallOpcode.H_STUFF_TCE: self._stuff_tce,
            HcallOpcode.H_PUT_TCE_INDIRECT: self._put_tce_indirect,
            HcallOpcode.H_REG_CRQ: lambda p, call: vio.reg_crq(p.adapter(call.args[0]), call, p.queue_segment),
            HcallOpcode.H_FREE_CRQ: lambda p, call: vio.free_crq(p.adapter(call.args[0])),
            HcallOpcode.H_SEND_CRQ: lambda p, call: vio.send_crq(p.adapter(call.args[0]), call),
            HcallOpcode.H_ENABLE_CRQ: lambda p, call: vio.enable_crq(p.adapter(call.args[0])),
            HcallOpcode.H_VIO_SIGNAL: lambda p, call: vio.vio_signal(p.adapter(call.args[0]), call),
            HcallOpcode.H_COPY_RDMA: self._copy_rdma,
            HcallOpcode.H_REQUEST_VMC: self._request_vmc,
        }

    def _build(self) -> None:
        for partition_config in self._config.partitions:
            if partition_config.name in self._partitions:
                raise LocalError(f"partition {partition_config.name}: its name is used twice")
            self._partitions[partition_config.name] = self._state(partition_config)
        for state in self._partitions.values():
            for adapter in state.adapters.values():
                self._join(adapter)
                partner = adapter.config.partner
                if adapter.partner is None and partner is not None:
                    assert isinstance(partner, PartitionPartner), "the hypervisor's own end is always there"
                    raise LocalError(
                        f"unit {adapter.unit:#x} of {adapter.partition}: "
                        f"its partner {partner.partition} {partner.unit:#x} does not name it back"
                    )

    def _state(self, config: PartitionConfig) -> PartitionState:
        state = PartitionState(config, self._target, self._config.max_virtual_dma_size)
        if len(state.adapters) != len(config.adapters):
            raise LocalError(f"partition {config.name}: a unit address of it is used twice")
        liobns = [a.liobn for a in config.adapters] + [a.remote_liobn for a in config.adapters]
        known = [liobn for liobn in liobns if liobn is not None]
        if len(set(known)) != len(known):
            raise LocalError(f"partition {config.name}: a LIOBN is used twice")
        return state

    def _join(self, adapter: Adapter) -> None:
        """Set the partner of an adapter, if it is there, and make the memory behind its pane 2."""
        config = adapter.config
        match config.partner:
            case PartitionPartner(partition, unit):
                other = self._partitions.get(partition)
                partner = None if other is None else other.adapters.get(unit)
                if partner is not None and partner.config.partner == PartitionPartner(adapter.partition, adapter.unit):
                    adapter.partner, partner.partner = partner, adapter
            case HypervisorPartner():
                adapter.partner = HypervisorEnd()
                if config.remote_liobn is not None:
                    window = DmaWindow(config.remote_liobn, config.remote_window_bytes)
                    window.map(0, 0, config.remote_window_bytes)
                    segment = Segment(bytearray(config.remote_window_bytes))
                    self._hypervisor_memory[adapter.partition, adapter.unit] = DmaMemory(segment, window)
            case None:
                pass
            case other_kind:
                assert_never(other_kind)

    def _define(self, config: PartitionConfig) -> None:
        new = self._state(config)
        if config.name in self._partitions:
            self._take_apart(self._known(config.name))
        self._partitions[config.name] = new
        for adapter in new.adapters.values():
            self._join(adapter)
        self._forget_operands()

    def _remove(self, state: PartitionState) -> None:
        self._take_apart(state)
        del self._partitions[state.name]
        self._forget_operands()

    def _take_apart(self, state: PartitionState) -> None:
        """Part the adapters of a partition that is off from their partners."""
        if state.started:
            raise LocalError(f"partition {state.name} is on: expected to be off before it changes")
        for adapter in state.adapters.values():
            self._hypervisor_memory.pop((state.name, adapter.unit), None)
            if isinstance(adapter.partner, Adapter):
                adapter.partner.partner = None

    # -- the machine -----------------------------------------------------------------------------------------------

    def feed(self, event: PlatformInput, now: float) -> list[PlatformOutput]:
        """Consume one input at time ``now`` (seconds) and return the consequences in order."""
        self._now = now
        match event:
            case HcallRequest():
                self._hcall(event)
            case MemoryDone():
                self.memory.done(event)
            case CrqConsumed(partition, unit, registration, consumed):
                self._with_adapter(partition, unit, lambda adapter: self._vio.consumed(adapter, registration, consumed))
            case PartitionStarted(partition, memory):
                self._started(self._known(partition), memory)
            case PartitionMapped(partition, memory):
                self._mapped(self._known(partition), memory)
            case PartitionDied(partition):
                self._died(self._known(partition))
            case DefinePartition(config):
                self._define(config)
            case RemovePartition(partition):
                self._remove(self._known(partition))
            case Suspend(partition, unit):
                self._vio.suspend(self._adapter(partition, unit))
            case SetFault():
                self._set_fault(event)
            case ExtensionInput():
                self._feed_extension(event)
            case Tick():
                pass
            case _:
                assert_never(event)
        return self._take()

    def deadline(self) -> float | None:
        """When the machine wants a Tick, or ``None``."""
        return self._poll_at

    # -- the hypervisor's own ends -----------------------------------------------------------------------------------

    def partner_register(self, partition: str, unit: int) -> list[PlatformOutput]:
        """The hypervisor's own end of this pair registers; from now on it gets elements and may post."""
        self._vio.partner_register(self._adapter(partition, unit))
        return self._take()

    def partner_free(self, partition: str, unit: int, *, failed: bool = False) -> list[PlatformOutput]:
        """The hypervisor's own end goes: the partition's queue gets FF 02 (FF 01 when it ``failed``)."""
        code = TransportEventCode.PARTNER_FAILED if failed else TransportEventCode.PARTNER_DEREGISTERED
        self._vio.partner_free(self._adapter(partition, unit), code)
        return self._take()

    def partner_post(self, partition: str, unit: int, element: bytes) -> list[PlatformOutput]:
        """The hypervisor's own end sends 16 bytes, in order, when the partition's queue has room.

        Thrown away (counter ``post_closed``) while the pair is not open, refused (``post_refused``) above the limit.

        :raises LocalError: not 16 bytes, a header that H_SEND_CRQ would refuse, or another kind of partner.
        """
        self._vio.partner_post(self._adapter(partition, unit), element)
        return self._take()

    def hypervisor_memory(self, partition: str, unit: int) -> DmaMemory:
        """The hypervisor's memory behind pane 2 of this adapter.

        :raises LocalError: the adapter has none.
        """
        memory = self._hypervisor_memory.get((partition, unit))
        if memory is None:
            raise LocalError(f"unit {unit:#x} of {partition} has no pane 2 of the hypervisor's")
        return memory

    def rdma_engine(self, partition: str) -> RdmaEngine:
        """What carries out this partition's H_COPY_RDMA, once the call is known to be one.

        :raises LocalError: there is no such partition.
        """
        return self._known(partition).rdma

    @property
    def chunks_under_way(self) -> int:
        """ReadMemory and WriteMemory that are not answered yet."""
        return self.memory.chunks_under_way

    def waiting_posts(self, partition: str, unit: int) -> int:
        """Elements that the hypervisor's own end has posted and that are not in the queue yet."""
        partner = self._adapter(partition, unit).partner
        return len(partner.outbox) if isinstance(partner, HypervisorEnd) else 0

    # -- calls -----------------------------------------------------------------------------------------------------

    def _hcall(self, request: HcallRequest) -> None:
        state = self._partitions.get(request.partition)
        if state is None or not state.started:
            self.counters["hcall_of_stranger"] += 1
            self._emit(Note("hcall_of_stranger", (("partition", request.partition),), "warning"))
            self._emit(_result(request.partition, request.tag, _AUTHORITY))
            return
        answer = self._dispatcher.dispatch(
            state,
            request.opcode,
            request.args,
            tag=request.tag,
            memory=request.memory,
            problem_state=request.problem_state,
        )
        if answer is not None:
            self._out.insert(0, _result(request.partition, request.tag, answer))

    def finish(self, partition: str, tag: int, answer: Answer) -> None:
        """Answer a call whose handler had answered ``None``."""
        self._emit(_result(partition, tag, answer))

    def _extended(self, extension: HcallExtension, state: PartitionState, call: Call) -> Answer | None:
        return extension.handle(_Caller(self, state), call, self._now)

    def _feed_extension(self, event: ExtensionInput) -> None:
        for extension in self._extensions:
            if extension.accepts(event):
                self._out += extension.feed(event, self._now)
                return
        raise LocalError(f"no extension takes {event!r}")

    def _get_tce(self, state: PartitionState, call: Call) -> Answer:
        return get_tce(state.window(call.args[0]), call.args[1])

    def _put_tce(self, state: PartitionState, call: Call) -> Answer:
        liobn, ioba, tce = call.args[:3]
        return put_tce(state.window(liobn), ioba, tce, state.memory_bytes, self.profile)

    def _stuff_tce(self, state: PartitionState, call: Call) -> Answer:
        liobn, ioba, tce, count = call.args[:4]
        return stuff_tce(state.window(liobn), ioba, tce, count, state.memory_bytes, self.profile)

    def _put_tce_indirect(self, state: PartitionState, call: Call) -> Answer | None:
        liobn, _, address, count = call.args[:4]
        if liobn >> 63:
            return Answer(self.profile.negative_liobn_rc)
        refused = self._check_tce_list(state, call)
        if refused is not None:
            return refused
        n = count * TCE_BYTES
        if state.segment is not None:
            return self._put_tce_list(state, call, state.segment.read(address, n))
        if call.memory is not None:
            return self._put_tce_list(state, call, call.memory)
        self.memory.read(state.name, state.name, (Run(address, n),), partial(self._fetched_tce_list, state, call))
        return None

    def _check_tce_list(self, state: PartitionState, call: Call) -> Answer | None:
        liobn, ioba, address, count = call.args[:4]
        return check_list(state.window(liobn), ioba, address, count, state.memory_bytes, self.profile)

    def _put_tce_list(self, state: PartitionState, call: Call, data: bytes) -> Answer:
        liobn, ioba, _, count = call.args[:4]
        window = state.window(liobn)
        assert window is not None, "checked before the list was read"
        if len(data) != count * TCE_BYTES:
            self.counters["tce_list_wrong_bytes"] += 1
            return Answer(HcallRc.H_HARDWARE)
        return put_tce_list(window, ioba, decode_tce_list(data), state.memory_bytes, self.profile)

    def _fetched_tce_list(self, state: PartitionState, call: Call, data: bytes | TransferFailure) -> None:
        if isinstance(data, TransferFailure):
            self.finish(state.name, call.tag, Answer(HcallRc.H_HARDWARE))
        else:
            self.finish(state.name, call.tag, self._put_tce_list(state, call, data))

    def _copy_rdma(self, state: PartitionState, call: Call) -> Answer | None:
        rc = take_fault(state.faults, FaultPoint.COPY)
        return Answer(rc) if rc is not None else self._rdma.copy(state.rdma, state.name, call)

    def _target(self, state: PartitionState, liobn: int, ioba: int) -> Target | None:
        """Operand of a copy: the caller's pane 1, or its pane 2 while the pair is established."""
        window = state.window(liobn)
        if window is not None:
            return self._own(state, window, ioba)
        adapter = state.remote.get(low32(liobn))
        if adapter is None or not adapter.is_paired:
            return None
        memory = self._hypervisor_memory.get((state.name, adapter.unit))
        if memory is not None:
            return Target(Side(memory.window, ioba, memory.segment, memory.segment.size), None)
        partner = adapter.partner
        assert isinstance(partner, Adapter), "a hypervisor partner has its memory in the table above"
        assert partner.window is not None, "its queue could not be registered without one"
        return self._own(self._partitions[partner.partition], partner.window, ioba)

    def _own(self, state: PartitionState, window: DmaWindow, ioba: int) -> Target:
        return Target(Side(window, ioba, state.segment, state.memory_bytes), state.name)

    def _request_vmc(self, state: PartitionState, _call: Call) -> Answer:
        rc = take_fault(state.faults, FaultPoint.REQUEST_VMC)
        if rc is not None:
            return Answer(rc)
        index = state.config.vmc_drc_index
        return _AUTHORITY if index is None else Answer(HcallRc.H_SUCCESS, (index,))

    # -- life ------------------------------------------------------------------------------------------------------

    def _started(self, state: PartitionState, memory: Segment | None) -> None:
        if state.started:
            self._died(state)
        state.started = True
        state.segment = state.queue_segment = memory
        self._forget_operands()
        for extension in self._extensions:
            extension.started(state.name, state.memory_bytes, self._now)

    def _mapped(self, state: PartitionState, memory: Segment) -> None:
        if memory.size != state.config.memory_bytes:
            raise LocalError(
                f"memory of {state.name}: {memory.size:#x} bytes, configured {state.config.memory_bytes:#x}"
            )
        if not state.started:
            self.counters["mapped_too_late"] += 1
            return
        state.segment = memory
        self._forget_operands()

    def _forget_operands(self) -> None:
        """What a LIOBN leads to has changed, for somebody."""
        for state in self._partitions.values():
            state.rdma.forget()

    def _died(self, state: PartitionState) -> None:
        state.started = False
        for extension in self._extensions:
            extension.died(state.name)
        self._vio.died(state.adapters.values())
        self.memory.died(state.name)
        state.segment = state.queue_segment = None
        self._forget_operands()

    def _set_fault(self, fault: SetFault) -> None:
        if fault.count < 0:
            raise LocalError(f"fault count {fault.count}: expected 0 or more")
        if fault.point in (FaultPoint.COPY, FaultPoint.REQUEST_VMC):
            faults = self._known(fault.partition).faults
        else:
            faults = self._adapter(fault.partition, fault.unit).faults
        if fault.count:
            faults[fault.point] = (int(fault.rc), fault.count)
        else:
            faults.pop(fault.point, None)

    def _with_adapter(self, partition: str, unit: int, act: Callable[[Adapter], None]) -> None:
        """Run ``act`` for what a peer said about a unit; unknown ones are counted."""
        state = self._partitions.get(partition)
        adapter = None if state is None else state.adapter(unit)
        if adapter is None:
            self.counters["unknown_unit"] += 1
        else:
            act(adapter)

    def _known(self, partition: str) -> PartitionState:
        state = self._partitions.get(partition)
        if state is None:
            raise LocalError(f"no partition {partition}")
        return state

    def _adapter(self, partition: str, unit: int) -> Adapter:
        adapter = self._known(partition).adapters.get(unit)
        if adapter is None:
            raise LocalError(f"partition {partition} has no unit {unit:#x}")
        return adapter

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _emit(self, output: PlatformOutput) -> None:
        self._out.append(output)

    def _take(self) -> list[PlatformOutput]:
        """The outputs so far, after giving waiting elements their chance."""
        self._poll_at = self._now + POLL_S if self._vio.flush() else None
        for extension in self._extensions:
            self._out += extension.take()
        out, self._out = self._out, []
        return out


def _result(partition: str, tag: int, answer: Answer) -> HcallResult:
    return HcallResult(partition, tag, int(answer.rc), answer.outs, answer.memory)
