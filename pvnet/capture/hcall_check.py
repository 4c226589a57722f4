"""Run a recorded trace of CRQ, interrupt and TCE hcalls against our hypervisor and compare every answer.

Each call is made as recorded, by a guest whose memory is mapped, against :class:`pvnet.papr.platform.Platform` with
the profile that the trace names; compared are the return code, every known register after the call, the queue's slots
and the interrupt.  A register that the hypervisor does not write keeps its argument, or the preset if it was none.
The partner answers INIT with INIT COMPLETE, as the recorded one did.  One call or one observation is one comparison.

**What the guest did in between.** A trace holds the calls, not everything: between two of them the guest also filled
the queue with INITs, cleared slots, or stored a pattern into one to see that it stays.  Those are deduced from what
was observed next, in the narrowest way, only *before* the call whose effect is compared (see ``_prepare``), and counted
in ``hidden``, so that a deduction gone wild shows.

SCM traces are for :mod:`pvnet.capture.scm_check`; traffic recordings need a partner that pvnet does not have and are
refused.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from pvnet.capture.hcall_trace import HcallTrace, TraceCall, TraceIrq, TraceQueue, TraceRecord, TraceVdevice
from pvnet.capture.report import Report
from pvnet.core.errors import ConfigError
from pvnet.memory.segment import Segment
from pvnet.papr.crq import ELEMENT_BYTES, CrqHeader, encode_init, encode_init_complete, to_words
from pvnet.papr.hcall import HcallOpcode, rc_name
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    PROFILES,
    AdapterConfig,
    HcallRequest,
    HcallResult,
    HypervisorPartner,
    PartitionConfig,
    PartitionStarted,
    PartnerElement,
    PlatformConfig,
    PlatformOutput,
    RaiseIrq,
)
from pvnet.papr.signatures import describe

GUEST: Final = "guest"
"""The partition that makes the recorded calls."""
_ANSWER: Final = encode_init_complete()
_INIT_BITS: Final = int.from_bytes(encode_init()[:2], "big")
_FIRST_REGISTER: Final = 4
_MEMORY_LIMIT: Final = 1 << 36


class CrqTarget(Protocol):
    """What a trace is run against: a hypervisor and the guest's memory, here or at the other end of a transport.

    Its partner of each pair answers INIT with INIT COMPLETE, at once.
    """

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest; returns after its consequences."""
        ...

    def partner_post(self, unit: int, element: bytes) -> None:
        """Send 16 bytes from the hypervisor's own end of the adapter's pair."""
        ...

    def take_irq(self) -> bool:
        """Whether an interrupt has come since the last time."""
        ...

    def read(self, address: int, n: int) -> bytes:
        """Load ``n`` bytes of the guest's memory."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Store into the guest's memory."""
        ...


CrqTargetFactory: TypeAlias = Callable[[PlatformConfig], CrqTarget]
"""Makes the hypervisor that a trace is run against; its only partition is :data:`GUEST`."""


class LocalCrqTarget:
    """The hypervisor machine in this process, with the guest's memory mapped."""

    def __init__(self, config: PlatformConfig) -> None:
        guest = config.partitions[0]
        self._memory = Segment(mmap.mmap(-1, guest.memory_bytes))
        self._platform = Platform(config)
        self._irq = False
        self._platform.feed(PartitionStarted(guest.name, self._memory), 0.0)
        for adapter in guest.adapters:
            if adapter.partner is not None:
                self._platform.partner_register(guest.name, adapter.unit)

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest; returns after its consequences."""
        result, *consequences = self._platform.feed(HcallRequest(GUEST, 1, opcode, args), 0.0)
        assert isinstance(result, HcallResult), "memory is mapped: every call is answered at once"
        self._take(consequences)
        return result

    def partner_post(self, unit: int, element: bytes) -> None:
        """Send 16 bytes from the hypervisor's own end of the adapter's pair."""
        self._take(self._platform.partner_post(GUEST, unit, element))

    def take_irq(self) -> bool:
        """Whether an interrupt has come since the last time."""
        was_raised, self._irq = self._irq, False
        return was_raised

    def read(self, address: int, n: int) -> bytes:
        """Load ``n`` bytes of the guest's memory."""
        return self._memory.read(address, n)

    def write(self, address: int, data: bytes) -> None:
        """Store into the guest's memory."""
        self._memory.write(address, data)

    def _take(self, outputs: Sequence[PlatformOutput]) -> None:
        for output in outputs:
            match output:
                case PartnerElement(_, unit, element) if element[:2] == encode_init()[:2]:
                    self.partner_post(unit, _ANSWER)
                case RaiseIrq():
                    self._irq = True
                case _:
                    pass


def run_hcall_trace(trace: HcallTrace, make_target: CrqTargetFactory = LocalCrqTarget) -> Report:
    """Compare; see the module's text.  ``make_target`` may put a transport between the runner and the hypervisor.

    Raises :class:`ConfigError` for a kind of trace that cannot be run.
    """
    return HcallTraceRunner(trace, make_target).run()


class HcallTraceRunner:
    """One trace; ``hidden`` counts, by kind, what the guest must have done between the calls."""

    def __init__(self, trace: HcallTrace, make_target: CrqTargetFactory = LocalCrqTarget) -> None:
        meta = trace.meta
        unit = next((device.unit for device in meta.vdevices if device.has_crq), None)
        if unit is None or meta.queue_real is None or meta.memory_bytes is None:
            raise ConfigError(
                f"{trace.name}:1: no CRQ adapter with 'memory' and 'queue' in 'meta': a recording of traffic with a "
                "partner that is not part of pvnet cannot be run: expected a trace of CRQ hcalls"
            )
        if meta.profile not in PROFILES:
            raise ConfigError(f"{trace.name}:1: profile {meta.profile!r}: expected one of {', '.join(PROFILES)}")
        if not 0 < meta.memory_bytes <= _MEMORY_LIMIT:
            raise ConfigError(f"{trace.name}:1: memory {meta.memory_bytes:#x}: expected at most {_MEMORY_LIMIT:#x}")
        self.trace = trace
        self.report = Report(trace.name)
        self.hidden: Counter[str] = Counter()
        self.memory_bytes = meta.memory_bytes
        self.queue = meta.queue_real
        self.unit = unit
        adapters = tuple(_adapter(device) for device in meta.vdevices)
        partition = PartitionConfig(GUEST, meta.memory_bytes, adapters)
        self.target = make_target(PlatformConfig((partition,), PROFILES[meta.profile]))
        self.position = 0
        """Slot that the hypervisor fills next."""
        self.slots = 0

    def run(self) -> Report:
        """Make all calls in order."""
        records = self.trace.records
        for index, record in enumerate(records):
            match record:
                case TraceCall():
                    self._prepare(record, _seen_after(records, index))
                    self._compare_call(record)
                case TraceQueue():
                    self._compare_queue(record)
                case TraceIrq():
                    was_raised = self.target.take_irq()
                    if was_raised == record.is_raised:
                        self.report.passed += 1
                    else:
                        self.report.fail(record.n, "interrupt", _raised(record.is_raised), _raised(was_raised))
                case _:
                    pass
        return self.report

    # Comparing

    def _compare_call(self, record: TraceCall) -> None:
        result = self._hcall(record.opcode, record.args)
        what = describe(record.opcode, record.args)
        if result.rc != record.rc:
            self.report.fail(record.n, what, rc_name(record.rc), rc_name(result.rc))
            return
        for register, value in record.after.items():
            ours = self._register(register - _FIRST_REGISTER, record.args, result.outs)
            if ours is not None and ours != value:
                self.report.fail(record.n, f"{what}: r{register} after the call", f"{value:#x}", f"{ours:#x}")
                return
        self.report.passed += 1

    def _register(self, index: int, args: Sequence[int], outs: Sequence[int]) -> int | None:
        for known in (outs, args):
            if index < len(known):
                return known[index]
        return self.trace.meta.preset

    def _compare_queue(self, record: TraceQueue) -> None:
        for slot, value in record.slots.items():
            if self._slot(slot) != value and not self._slot(slot)[0] and slot >= self.position:
                self._catch_up(slot, value)
            if self._slot(slot) != value:
                self.report.fail(record.n, f"queue slot {slot}", value.hex(), self._slot(slot).hex())
                return
        self.report.passed += 1

    def _catch_up(self, slot: int, value: bytes) -> None:
        """An element is seen that no recorded call explains: INITs of the guest, or a message of the partner."""
        if value == _ANSWER:
            self._fill(slot + 1)
        elif value[0] == CrqHeader.COMMAND and slot == self.position:
            self.hidden["partner posted"] += 1
            self.target.partner_post(self.unit, value)
            self._advance(was_occupied=False)

    # What the trace does not say

    def _prepare(self, record: TraceCall, seen: Sequence[TraceQueue | TraceIrq]) -> None:
        """Do what the guest must have done before this call, given what was seen between it and the next one."""
        if not self.slots:
            return
        slots: dict[int, bytes] = {}
        for look in seen:
            for slot, value in look.slots.items() if isinstance(look, TraceQueue) else ():
                slots.setdefault(slot, value)
        was_raised = any(isinstance(look, TraceIrq) and look.is_raised for look in seen)
        self._prepare_slots(slots)
        if record.opcode != HcallOpcode.H_SEND_CRQ:
            return
        here = slots.get(self.position)
        ours = self._slot(self.position)
        if here == _ANSWER and ours[0] and (was_raised or ours != here):
            self.hidden["guest consumed a slot"] += 1
            self._clear(self.position)
        new = [s for s, v in slots.items() if v == _ANSWER and s > self.position and self._slot(s) != v]
        if new and len(record.args) > 1 and record.args[1] >> 48 == 0xC001:
            # Either this call fills the last one, or the slot after it was seen empty: then this call was lost.
            after = slots.get(max(new) + 1)
            self._fill(max(new) + (after is not None and not after[0]))

    def _prepare_slots(self, slots: dict[int, bytes]) -> None:
        """Slots that only the guest can have written: zeroed (the platform never does), or holding a pattern."""
        zeroed = [slot for slot, value in slots.items() if self._slot(slot)[0] and not any(value)]
        if zeroed and self.position == 0:
            self.hidden["guest cleared the queue"] += 1
            self.target.write(self.queue, bytes(self._address(self.slots - 1) + ELEMENT_BYTES - self.queue))
        elif zeroed:
            self.hidden["guest zeroed a slot"] += len(zeroed)
            for slot in zeroed:
                self.target.write(self._address(slot), bytes(ELEMENT_BYTES))
        for slot, value in slots.items():
            if value[0] not in (0, CrqHeader.COMMAND, CrqHeader.INIT) and self._slot(slot) != value:
                self.hidden["guest stored a pattern"] += 1
                self.target.write(self._address(slot), value)

    def _fill(self, upto: int) -> None:
        """The guest sends INITs (and consumes what is in the way) until ``upto`` is the next slot."""
        for _ in range(self.slots):  # once around at most: a slot beyond the ring is never reached
            if self.position >= upto:
                break
            self.hidden["guest sent INIT"] += 1
            self._clear(self.position)
            before = self.position
            self._hcall(HcallOpcode.H_SEND_CRQ, (self.unit, *to_words(encode_init())))
            if self.position == before:
                break  # the comparison that follows says so
        self.target.take_irq()

    # Doing

    def _hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        # What the partner does about an INIT is that it answers, into the slot that is next.
        is_init = opcode == HcallOpcode.H_SEND_CRQ and len(args) > 1 and args[1] >> 48 == _INIT_BITS
        was_occupied = not (is_init and self.slots) or bool(self._slot(self.position)[0])
        result = self.target.hcall(opcode, args)
        if result.rc == 0 and args and args[0] & 0xFFFF_FFFF == self.unit:
            if opcode == HcallOpcode.H_REG_CRQ:
                self.slots, self.position = args[2] // ELEMENT_BYTES, 0
            if opcode == HcallOpcode.H_FREE_CRQ:
                self.slots = 0
        self._advance(was_occupied=was_occupied)
        return result

    def _advance(self, *, was_occupied: bool) -> None:
        """Follow the platform's place: the slot was free and is not any more."""
        if not was_occupied and self._slot(self.position)[0]:
            self.position = (self.position + 1) % self.slots

    def _address(self, slot: int) -> int:
        address = self.queue + slot * ELEMENT_BYTES
        if address + ELEMENT_BYTES > self.memory_bytes:
            raise ConfigError(f"{self.trace.name}: queue slot {slot} at {address:#x}: expected one inside of 'memory'")
        return address

    def _slot(self, slot: int) -> bytes:
        return self.target.read(self._address(slot), ELEMENT_BYTES)

    def _clear(self, slot: int) -> None:
        self.target.write(self._address(slot), b"\0")


def _seen_after(records: Sequence[TraceRecord], index: int) -> list[TraceQueue | TraceIrq]:
    """The observations between a call and the next record of another kind."""
    seen: list[TraceQueue | TraceIrq] = []
    for later in records[index + 1 :]:
        if not isinstance(later, TraceQueue | TraceIrq):
            break
        seen.append(later)
    return seen


def _adapter(device: TraceVdevice) -> AdapterConfig:
    return AdapterConfig(
        unit=device.unit,
        crq=device.has_crq,
        liobn=device.liobn,
        window_bytes=device.window_bytes,
        signal_mask=device.signal_mask,
        partner=HypervisorPartner() if device.has_crq else None,
    )


def _raised(value: bool) -> str:
    return "raised" if value else "not raised"
